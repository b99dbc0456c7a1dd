//! gzip members (RFC 1952), one or several; zeros may follow the last one, as tapes and some tools leave them.

use super::{Decoder, DecompressError};
use flate2::{Decompress, FlushDecompress, Status};
use std::io;

pub(super) const MAGIC: &[u8] = b"\x1f\x8b";
/// What the decoder allocates: a window of 32 KiB and its tables.
const MEMORY: u64 = 128 << 10;
const PACKING: &str = "gzip";

pub(super) struct Gzip {
    state: Decompress,
    /// Transported bytes taken so far.
    at: u64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Member,
    /// A member has ended; another may begin.
    Between,
    /// Zeros have come.
    Padding,
}

impl Gzip {
    pub(super) fn new(memory: u64) -> Result<Self, DecompressError> {
        if memory < MEMORY {
            return Err(DecompressError::Window { packing: PACKING, at: 0, need: MEMORY, left: memory });
        }
        Ok(Self { state: Decompress::new_gzip(15), at: 0, place: Place::Member })
    }

    /// Zeros between and behind members. Returns how many.
    fn skip(&mut self, input: &[u8]) -> Result<usize, DecompressError> {
        let zeros = input.iter().take_while(|&&byte| byte == 0).count();
        self.at += zeros as u64;
        if zeros > 0 {
            self.place = Place::Padding;
        }
        match input.get(zeros) {
            None => Ok(zeros),
            // The first byte of another member; what follows it, the decoder judges.
            Some(&byte) if byte == MAGIC[0] && self.place == Place::Between => {
                self.state = Decompress::new_gzip(15);
                self.place = Place::Member;
                Ok(zeros)
            }
            Some(_) => Err(DecompressError::Trailing { packing: PACKING, at: self.at }),
        }
    }
}

impl Decoder for Gzip {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecompressError> {
        let mut taken = 0;
        if self.place != Place::Member {
            taken = self.skip(input)?;
        }
        if self.place != Place::Member {
            return Ok((taken, 0));
        }
        let before = (self.state.total_in(), self.state.total_out());
        let corrupt =
            |error| DecompressError::Corrupt { packing: PACKING, at: self.at, source: io::Error::other(error) };
        let status = self.state.decompress(&input[taken..], output, FlushDecompress::None).map_err(corrupt)?;
        let (used, made) = (self.state.total_in() - before.0, self.state.total_out() - before.1);
        self.at += used;
        if status == Status::StreamEnd {
            self.place = Place::Between;
        }
        Ok((taken + used as usize, made as usize))
    }

    fn finish(&mut self) -> Result<(), DecompressError> {
        if self.place == Place::Member {
            return Err(DecompressError::Truncated { packing: PACKING, at: self.at });
        }
        Ok(())
    }
}
