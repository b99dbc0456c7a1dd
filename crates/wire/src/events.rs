//! Replies that go on: lines, and server-sent events (WHATWG HTML, 9.2) made of them. Bytes in, values out; each with a cap on
//! what one piece may be, so that a peer that never ends one costs no memory.

/// Longest line, and most data of one event, bytes.
pub const LONGEST: usize = 1 << 20;

/// A line has more than [`LONGEST`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line has more than {LONGEST} bytes")]
pub struct TooLong;

/// Cuts bytes into lines as they come.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    begin: usize,
    /// Up to where no end of a line was found.
    searched: usize,
}

impl Lines {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.begin);
        self.searched -= self.begin;
        self.begin = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end; `None` while there is none.
    ///
    /// # Errors
    /// [`TooLong`]; then there is no sense in going on.
    pub fn next_line(&mut self) -> Result<Option<String>, TooLong> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| self.searched + at);
        if found.unwrap_or(self.buffer.len()) - self.begin > LONGEST {
            return Err(TooLong);
        }
        let Some(end) = found else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        let line = text(&self.buffer[self.begin..end]);
        self.begin = end + 1;
        self.searched = self.begin;
        Ok(Some(line))
    }

    /// What is left when no more bytes come: the last line, if it had no end.
    #[must_use]
    pub fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(self);
        let rest = &rest.buffer[rest.begin..];
        (!rest.is_empty() && rest.len() <= LONGEST).then(|| text(rest))
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` when it has none.
    pub kind: String,
    /// Its data as text; lines of it are joined by line feeds.
    pub data: String,
}

/// Gathers lines to events.
#[derive(Debug, Default)]
pub struct Events {
    kind: String,
    data: String,
    too_long: bool,
}

impl Events {
    /// Takes a line; an event when the line ends one. One whose data is longer than [`LONGEST`] is left out.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let Self { kind, data, too_long } = std::mem::take(self);
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return (!data.is_empty() && !too_long).then_some(Event { kind, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" if self.data.len() + value.len() < LONGEST => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "data" => self.too_long = true,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next_line().unwrap() {
                all.push(line);
            }
        }
        all.extend(lines.rest());
        all
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let whole: &[u8] = b"one\r\n\ntwo\xff\nthree";
        let all = ["one", "", "two\u{fffd}", "three"];
        assert_eq!(lines(&[whole]), all);
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(lines(&bytes), all);
        assert_eq!(lines(&[b"one\n"]), ["one"]);
    }

    #[test]
    fn a_line_without_an_end_costs_no_memory() {
        let mut lines = Lines::default();
        let piece = [b'x'; 1 << 16];
        let pieces = (0..).find(|_| {
            lines.push(&piece);
            lines.next_line().is_err()
        });
        assert_eq!(pieces, Some(LONGEST >> 16));
        assert_eq!(lines.rest(), None);
        let mut lines = Lines::default();
        lines.push(&[vec![b'x'; LONGEST + 1], b"\n".to_vec()].concat());
        assert_eq!(lines.next_line(), Err(TooLong));
    }

    #[test]
    fn events_are_read_as_the_standard_has_them() {
        let mut events = Events::default();
        let text = "retry: 3000\n: hello\n\nid: 1-2\nevent: state\ndata: {\"node\":\n\
                    data: \"n1\"}\n\nevent: none\n\ndata:no JSON\n\n";
        let all: Vec<Event> = text.lines().filter_map(|line| events.line(line)).collect();
        let event = |kind: &str, data: &str| Event { kind: kind.to_owned(), data: data.to_owned() };
        assert_eq!(all, [event("state", "{\"node\":\n\"n1\"}"), event("message", "no JSON")]);
    }

    #[test]
    fn an_event_that_never_ends_is_left_out() {
        let mut events = Events::default();
        let long = format!("data: {}", "x".repeat(LONGEST / 2));
        assert!([&long, &long, &long].iter().all(|line| events.line(line).is_none()));
        assert!(events.data.len() <= LONGEST);
        assert_eq!(events.line(""), None);
        assert_eq!(events.line("data: next"), None);
        assert_eq!(events.line("").map(|event| event.data).as_deref(), Some("next"));
    }
}
