//! One compressed cluster.

use super::header::Compression;
use flate2::{Decompress, FlushDecompress, Status};
use std::io;
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// Memory of an [`Inflater`] beside what it is given: deflate's window and tables, or zstd's tables and buffers of a
/// window of [`WINDOW_LOG`].
pub(super) const MEMORY: u64 = 3 << 20;
/// The largest zstd window of a cluster: that of the largest cluster.
const WINDOW_LOG: u32 = 21;

/// Unpacks clusters, one after the other.
pub(super) enum Inflater {
    Zlib(Decompress),
    Zstd(Box<zstd::stream::raw::Decoder<'static>>),
}

fn corrupt(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Inflater {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zlib => Self::Zlib(Decompress::new(false)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::raw::Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// Forgets the last cluster.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Zlib(state) => state.reset(false),
            Self::Zstd(state) => state.reinit()?,
        }
        Ok(())
    }

    /// Fills `output` from the rest of a cluster and returns how much of `input` that took. What follows the
    /// compressed data in its last sector is not looked at.
    pub(super) fn fill(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<usize> {
        let (mut taken, mut given) = (0, 0);
        while given < output.len() {
            let (used, made, ended) = self.step(&input[taken..], &mut output[given..])?;
            taken += used;
            given += made;
            if given < output.len() && (ended || used + made == 0) {
                return Err(corrupt("it ends before the cluster is full"));
            }
        }
        Ok(taken)
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize, bool)> {
        match self {
            Self::Zlib(state) => {
                let before = (state.total_in(), state.total_out());
                let status = state.decompress(input, output, FlushDecompress::None).map_err(io::Error::other)?;
                let (used, made) = (state.total_in() - before.0, state.total_out() - before.1);
                Ok((used as usize, made as usize, status == Status::StreamEnd))
            }
            Self::Zstd(state) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
                // Frames may follow each other, so the end of one is not the end of the cluster.
                state.run(&mut from, &mut to)?;
                Ok((from.pos(), to.pos(), false))
            }
        }
    }
}
