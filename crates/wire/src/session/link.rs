//! Numbers, acknowledgements and repetition: one side's half of a session, without sockets or time.
//!
//! A numbered body is kept until the other side has acknowledged it. After a break [`Link::resume`] gives again what the
//! other side has not received; with a peer that remembers nothing [`Link::restart`] begins at 1 and gives back everything
//! that was kept. [`Link::receive`] lets each body through once and in order.

use super::{Body, Frame, Reason, Violation};
use std::collections::VecDeque;

/// Numbered frames that may be under way, unacknowledged, in one direction.
pub const WINDOW: u64 = 64;
/// Bytes of bodies that may be under way; one body alone may be larger.
pub const WINDOW_BYTES: usize = 8 << 20;
/// Frames in a row that bring nothing: repeated ones, and acknowledgements of what is acknowledged.
const EMPTY_FRAMES: u32 = 1024;

/// One side's half of a session; `B` is what it says.
#[derive(Debug)]
pub struct Link<B> {
    /// Number of the last body that was numbered.
    sent: u64,
    /// Bodies with the numbers up to `sent` that are not acknowledged.
    kept: VecDeque<B>,
    bytes: usize,
    /// Number of the last body that was received.
    received: u64,
    /// The highest number that the other side was told.
    told: u64,
    empty: u32,
}

/// What a received frame comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Receipt<B> {
    /// Something new, or something that is not numbered.
    New(B),
    /// A body that was received before: a repetition.
    Again,
}

impl<B> Default for Link<B> {
    fn default() -> Self {
        Self { sent: 0, kept: VecDeque::new(), bytes: 0, received: 0, told: 0, empty: 0 }
    }
}

impl<B: Body> Link<B> {
    /// Whether a numbered body of this size may be sent now. What has to wait is kept by the caller.
    pub fn has_room(&self, size: usize) -> bool {
        self.kept.is_empty() || (self.outstanding() < WINDOW && self.bytes.saturating_add(size) <= WINDOW_BYTES)
    }

    /// What is under way, unacknowledged, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = &B> {
        self.kept.iter()
    }

    /// Bodies that are under way, unacknowledged.
    pub fn outstanding(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Number of the last body that the other side has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.sent - self.outstanding()
    }

    /// Bytes of bodies that are under way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of the last body received, for hello and welcome.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the other side has not been told everything that was received.
    pub fn owes_acknowledgement(&self) -> bool {
        self.received > self.told
    }

    /// The frame of a body. A numbered one is kept until it is acknowledged; ask [`Link::has_room`] before.
    pub fn send(&mut self, body: B) -> Frame<B> {
        let seq = match body.is_numbered() {
            true => {
                self.sent += 1;
                self.bytes += body.size();
                self.kept.push_back(body.clone());
                self.sent
            }
            false => 0,
        };
        self.told = self.received;
        Frame { seq, ack: self.received, body }
    }

    /// A bare acknowledgement, where one is owed.
    pub fn acknowledge(&mut self) -> Option<Frame<B>> {
        self.owes_acknowledgement().then(|| self.send(B::acknowledgement()))
    }

    /// Takes a frame of the other side. After an error the connection is of no use; the session can be resumed.
    pub fn receive<P: Body>(&mut self, frame: Frame<P>) -> Result<Receipt<P>, Violation> {
        let before = self.kept.len();
        self.take_acknowledgement(frame.ack)?;
        let receipt = match (frame.body.is_numbered(), frame.seq) {
            (false, 0) => Receipt::New(frame.body),
            (false, seq) => {
                return Err(Violation::malformed(format!("number {seq} on a frame that has none")));
            }
            (true, 0) => return Err(Violation::malformed("a frame that has to be numbered has no number")),
            (true, seq) if seq <= self.received => Receipt::Again,
            (true, seq) if seq == self.received + 1 => {
                if seq > self.told.saturating_add(WINDOW) {
                    let text =
                        format!("frame {seq} came while {} was acknowledged: {WINDOW} may be under way", self.told);
                    return Err(Violation::new(Reason::Flood, text));
                }
                self.received = seq;
                self.empty = 0;
                return Ok(Receipt::New(frame.body));
            }
            (true, seq) => {
                let text = format!("frame {seq} came after frame {}", self.received);
                return Err(Violation::new(Reason::Sequence, text));
            }
        };
        self.empty = if self.kept.len() < before { 0 } else { self.empty + 1 };
        if self.empty > EMPTY_FRAMES {
            let text = format!("more than {EMPTY_FRAMES} frames in a row brought nothing new");
            return Err(Violation::new(Reason::Flood, text));
        }
        Ok(receipt)
    }

    /// The frames that the other side has not received, of which `last_received` was the last one that it has, for the
    /// connection that begins now.
    pub fn resume(&mut self, last_received: u64) -> Result<Vec<Frame<B>>, Violation> {
        let acknowledged = self.acknowledged();
        if last_received < acknowledged {
            let text =
                format!("{last_received} is said to be the last frame received, but {acknowledged} was acknowledged");
            return Err(Violation::new(Reason::Sequence, text));
        }
        self.take_acknowledgement(last_received)?;
        (self.told, self.empty) = (self.received, 0);
        let first = self.acknowledged() + 1;
        let frames = self.kept.iter().zip(first..);
        Ok(frames.map(|(body, seq)| Frame { seq, ack: self.received, body: body.clone() }).collect())
    }

    /// Begins at 1 in both directions, for a peer that does not remember the session; what was kept is given back, for the
    /// caller to judge what of it is still worth saying.
    pub fn restart(&mut self) -> Vec<B> {
        let kept = std::mem::take(&mut self.kept);
        *self = Self::default();
        kept.into()
    }

    fn take_acknowledgement(&mut self, ack: u64) -> Result<(), Violation> {
        if ack > self.sent {
            let text = format!("frame {ack} is acknowledged, but {} is the last one that was sent", self.sent);
            return Err(Violation::new(Reason::Sequence, text));
        }
        while self.acknowledged() < ack {
            if let Some(body) = self.kept.pop_front() {
                self.bytes -= body.size();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Said {
        Word(usize),
        Nothing,
    }

    impl Body for Said {
        fn is_numbered(&self) -> bool {
            matches!(self, Self::Word(_))
        }

        fn size(&self) -> usize {
            match self {
                Self::Word(size) => *size,
                Self::Nothing => 0,
            }
        }

        fn acknowledgement() -> Self {
            Self::Nothing
        }
    }

    fn word(seq: u64, ack: u64) -> Frame<Said> {
        Frame { seq, ack, body: Said::Word(1) }
    }

    #[test]
    fn bodies_are_numbered_kept_until_acknowledged_and_repeated_after_a_break() {
        let mut link = Link::default();
        assert_eq!(link.send(Said::Nothing), Frame { seq: 0, ack: 0, body: Said::Nothing });
        for seq in 1..=4 {
            assert_eq!(link.send(Said::Word(1)), word(seq, 0));
        }
        assert_eq!(link.receive(Frame { seq: 0, ack: 2, body: Said::Nothing }), Ok(Receipt::New(Said::Nothing)));
        assert_eq!(link.outstanding(), 2);
        assert_eq!(link.resume(3), Ok(vec![word(4, 0)]));
        assert_eq!(link.send(Said::Word(1)), word(5, 0));
        assert_eq!(link.resume(3), Ok(vec![word(4, 0), word(5, 0)]));
        assert_eq!(link.resume(5), Ok(vec![]));
        assert_eq!(link.resume(4).unwrap_err().reason, Reason::Sequence);
        assert_eq!(link.resume(6).unwrap_err().reason, Reason::Sequence);
    }

    #[test]
    fn each_body_is_let_through_once_and_in_order() {
        let mut link: Link<Said> = Link::default();
        assert_eq!(link.receive(word(1, 0)), Ok(Receipt::New(Said::Word(1))));
        assert_eq!(link.receive(word(1, 0)), Ok(Receipt::Again));
        assert_eq!(link.receive(word(2, 0)), Ok(Receipt::New(Said::Word(1))));
        assert_eq!(link.receive(word(4, 0)).unwrap_err().text, "frame 4 came after frame 2");
        assert_eq!(link.acknowledge(), Some(Frame { seq: 0, ack: 2, body: Said::Nothing }));
        assert_eq!(link.acknowledge(), None);
        for wrong in [word(0, 0), Frame { seq: 3, ack: 0, body: Said::Nothing }] {
            assert_eq!(link.receive(wrong).unwrap_err().reason, Reason::Malformed);
        }
        let error = link.receive(word(3, 1)).unwrap_err();
        assert_eq!(error.text, "frame 1 is acknowledged, but 0 is the last one that was sent");
    }

    #[test]
    fn a_window_bounds_what_is_under_way_on_both_sides() {
        let (mut one, mut other) = (Link::default(), Link::<Said>::default());
        assert!(one.has_room(usize::MAX), "one body alone may be as large as it is");
        for _ in 0..WINDOW {
            assert!(one.has_room(1));
            other.receive(one.send(Said::Word(1))).unwrap();
        }
        assert!(!one.has_room(1));
        assert_eq!(other.receive(word(WINDOW + 1, 0)).unwrap_err().reason, Reason::Flood);
        one.receive(other.acknowledge().unwrap()).unwrap();
        assert!(one.has_room(WINDOW_BYTES));
        one.send(Said::Word(WINDOW_BYTES));
        assert!(!one.has_room(1));
    }

    #[test]
    fn frames_that_bring_nothing_are_borne_for_a_while() {
        let mut link: Link<Said> = Link::default();
        link.receive(word(1, 0)).unwrap();
        let nothing = || Frame { seq: 0, ack: 0, body: Said::Nothing };
        for _ in 0..EMPTY_FRAMES {
            link.receive(nothing()).unwrap();
        }
        assert_eq!(link.receive(nothing()).unwrap_err().reason, Reason::Flood);
        let mut link: Link<Said> = Link::default();
        link.receive(word(1, 0)).unwrap();
        let mut again = (0..=EMPTY_FRAMES).map(|_| link.receive(word(1, 0)));
        assert!(again.any(|receipt| receipt.is_err()));
    }

    #[test]
    fn a_peer_that_remembers_nothing_gets_everything_anew() {
        let mut link = Link::default();
        link.receive(word(1, 0)).unwrap();
        link.send(Said::Word(1));
        link.send(Said::Word(2));
        assert_eq!(link.restart(), [Said::Word(1), Said::Word(2)]);
        assert_eq!((link.received(), link.outstanding()), (0, 0));
        assert_eq!(link.send(Said::Word(2)), Frame { seq: 1, ack: 0, body: Said::Word(2) });
    }
}
