//! Where zstd frames begin and end, found without unpacking them: by the headers of frames and blocks (RFC 8878, 3.1.1).

use super::DecompressError;
use super::zstd::{Frame, PACKING, admit, frame_header};
use std::io;

/// What [`Scanner::run`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The end of the input.
    Middle,
    /// Behind the header of a frame; [`Scanner::header`] has it.
    Begun,
    /// Behind the last byte of a frame.
    Ended,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    FrameHeader,
    SkippableLength,
    BlockHeader,
    Block {
        left: u64,
        last: bool,
    },
    /// A checksum, or what a skippable frame holds: then the frame ends.
    Rest(u64),
}

/// Goes through the transported bytes. Each frame is judged by its header.
pub(crate) struct Scanner {
    memory: u64,
    at: u64,
    next: Next,
    /// The part of a header that has come.
    coming: Vec<u8>,
    /// The header of the frame that began last.
    header: Vec<u8>,
    checksum: bool,
}

impl Scanner {
    /// Starts at the first byte. What a frame needs may not exceed `memory`.
    pub(crate) fn new(memory: u64) -> Self {
        Self { memory, at: 0, next: Next::FrameHeader, coming: Vec::new(), header: Vec::new(), checksum: false }
    }

    /// The header of the frame that has begun.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn in_frame(&self) -> bool {
        self.next != Next::FrameHeader || !self.coming.is_empty()
    }

    /// Goes on to the next place, and says how much of `input` lies before it.
    pub(crate) fn run(&mut self, input: &[u8]) -> Result<(usize, Place), DecompressError> {
        let mut taken = 0;
        while taken < input.len() {
            let (len, place) = self.step(&input[taken..])?;
            taken += len;
            self.at += len as u64;
            if place != Place::Middle {
                return Ok((taken, place));
            }
        }
        Ok((taken, Place::Middle))
    }

    fn step(&mut self, input: &[u8]) -> Result<(usize, Place), DecompressError> {
        let within = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (len, place) = match self.next {
            Next::Block { left, last } => {
                let len = within(left);
                self.next = Next::Block { left: left - len as u64, last };
                (len, Place::Middle)
            }
            Next::Rest(left) => {
                let len = within(left);
                self.next = Next::Rest(left - len as u64);
                (len, Place::Middle)
            }
            Next::FrameHeader | Next::SkippableLength | Next::BlockHeader => {
                self.coming.push(input[0]);
                (1, self.judge()?)
            }
        };
        Ok((len, if self.ended() { Place::Ended } else { place }))
    }

    /// One more byte of a header has come.
    fn judge(&mut self) -> Result<Place, DecompressError> {
        match self.next {
            Next::FrameHeader => match frame_header(&self.coming) {
                Frame::Incomplete => return Ok(Place::Middle),
                frame => {
                    admit(frame, self.at + 1 - self.coming.len() as u64, self.memory)?;
                    self.checksum = self.coming.get(4).is_some_and(|descriptor| descriptor & 4 != 0);
                    self.header = std::mem::take(&mut self.coming);
                    let skippable = frame == Frame::Skippable;
                    self.next = if skippable { Next::SkippableLength } else { Next::BlockHeader };
                    return Ok(Place::Begun);
                }
            },
            Next::SkippableLength => {
                if let &[a, b, c, d] = &self.coming[..] {
                    self.next = Next::Rest(u32::from_le_bytes([a, b, c, d]).into());
                }
            }
            Next::BlockHeader => {
                if let &[a, b, c] = &self.coming[..] {
                    let word = u32::from_le_bytes([a, b, c, 0]);
                    let left = match word >> 1 & 3 {
                        // One byte, repeated.
                        1 => 1,
                        3 => {
                            let source = io::Error::new(io::ErrorKind::InvalidData, "a block is of the reserved type");
                            return Err(DecompressError::Corrupt { packing: PACKING, at: self.at, source });
                        }
                        _ => u64::from(word >> 3),
                    };
                    self.next = Next::Block { left, last: word & 1 != 0 };
                }
            }
            Next::Block { .. } | Next::Rest(_) => {}
        }
        Ok(Place::Middle)
    }

    /// Passes what is over, and says whether that is the frame.
    fn ended(&mut self) -> bool {
        if let Next::Block { left: 0, last } = self.next {
            self.next = if last { Next::Rest(if self.checksum { 4 } else { 0 }) } else { Next::BlockHeader };
            self.coming.clear();
        }
        let ended = self.next == Next::Rest(0);
        if ended {
            self.next = Next::FrameHeader;
            self.coming.clear();
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the frames of `packed` end, when it comes in parts of `step` bytes.
    fn ends(packed: &[u8], step: usize) -> Result<(Vec<u64>, bool), DecompressError> {
        let (mut scanner, mut ends) = (Scanner::new(1 << 24), Vec::new());
        for mut part in packed.chunks(step) {
            while !part.is_empty() {
                let (taken, place) = scanner.run(part)?;
                match place {
                    Place::Begun => assert!(scanner.header().len() >= 4),
                    Place::Ended => ends.push(scanner.at()),
                    Place::Middle => {}
                }
                part = &part[taken..];
            }
        }
        Ok((ends, scanner.in_frame()))
    }

    #[test]
    fn the_ends_of_frames_are_found_at_any_cut() {
        let plain: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        let (mut packed, mut want) = (Vec::new(), Vec::new());
        for (len, level) in [(300_000, 1), (0, 3), (1_000_000, 19), (7, 3), (131_072, 3)] {
            packed.extend(zstd::encode_all(&plain[..len], level).unwrap());
            want.push(packed.len() as u64);
            packed.extend_from_slice(b"\x5a\x2a\x4d\x18\x05\0\0\0skip!");
            want.push(packed.len() as u64);
        }
        packed.extend(zstd::encode_all(&[0; 1_000_000][..], 3).unwrap());
        want.push(packed.len() as u64);
        for step in [1, 2, 3, 17, 1000, packed.len()] {
            assert_eq!(ends(&packed, step).unwrap(), (want.clone(), false), "{step}");
        }
        for cut in [1, 3, 9, 20, 5000] {
            assert!(ends(&packed[..packed.len() - cut], 100).unwrap().1, "{cut}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_where_it_begins() {
        let mut packed = zstd::encode_all(&b"something"[..], 3).unwrap();
        let end = packed.len() as u64;
        packed.extend_from_slice(b"else, for a while");
        assert!(matches!(ends(&packed, 5), Err(DecompressError::Trailing { at, .. }) if at == end));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_a_frame_magic_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..64) {
            let packed = [&0xfd2f_b528_u32.to_le_bytes()[..], &bytes].concat();
            let _ = ends(&packed, step);
        }
    }
}
