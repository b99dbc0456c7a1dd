//! xz streams (the .xz file format), one or several, with every check that the format knows.

use super::{Decoder, DecompressError};
use liblzma::stream::{Action, CONCATENATED, Error, Status, Stream};
use std::io;

pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";
const PACKING: &str = "xz";

pub(super) struct Xz {
    stream: Stream,
    memory: u64,
    ended: bool,
}

impl Xz {
    pub(super) fn new(memory: u64) -> Result<Self, DecompressError> {
        let stream = Stream::new_stream_decoder(memory, CONCATENATED);
        let stream = stream.map_err(|error| corrupt(0, error))?;
        Ok(Self { stream, memory, ended: false })
    }

    fn error(&mut self, error: Error) -> DecompressError {
        let at = self.stream.total_in();
        if !matches!(error, Error::MemLimit) {
            return corrupt(at, error);
        }
        // The library accepts no limit below what it needs: the smallest that it accepts is that.
        let (mut low, mut high) = (self.memory, 1 << 40);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match self.stream.set_memlimit(middle) {
                Ok(()) => high = middle,
                Err(_) => low = middle,
            }
        }
        DecompressError::Window { packing: PACKING, at, need: high, left: self.memory }
    }
}

fn corrupt(at: u64, error: Error) -> DecompressError {
    DecompressError::Corrupt { packing: PACKING, at, source: io::Error::other(error) }
}

impl Decoder for Xz {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecompressError> {
        let before = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.process(input, output, Action::Run).map_err(|error| self.error(error))?;
        self.ended |= matches!(status, Status::StreamEnd);
        let (taken, given) = (self.stream.total_in() - before.0, self.stream.total_out() - before.1);
        Ok((taken as usize, given as usize))
    }

    fn finish(&mut self) -> Result<(), DecompressError> {
        // Another stream could have followed until now.
        let status =
            if self.ended { Ok(Status::StreamEnd) } else { self.stream.process(&[], &mut [0], Action::Finish) };
        match status {
            Ok(Status::StreamEnd) => Ok(()),
            Ok(_) => Err(DecompressError::Truncated { packing: PACKING, at: self.stream.total_in() }),
            Err(error) => Err(self.error(error)),
        }
    }
}
