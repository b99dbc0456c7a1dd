//! zstd frames (RFC 8878), one or several. Each is judged by its header before memory is taken for it.

use super::{Decoder, DecompressError};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// What zstd allocates beside the window: one block of output, one of input, its tables.
pub(super) const EXTRA: u64 = 512 << 10;
const MAGIC: u32 = 0xfd2f_b528;
pub(super) const PACKING: &str = "zstd";

/// The start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// More bytes are needed to say.
    Incomplete,
    /// No frame.
    Other,
    /// A frame without content.
    Skippable,
    /// A frame with content.
    Data { window: u64, content: Option<u64>, dictionary: u32 },
}

/// Reads a frame header (RFC 8878, section 3.1.1.1).
pub(super) fn frame_header(b: &[u8]) -> Frame {
    let magic = MAGIC.to_le_bytes();
    let skippable =
        |b: &[u8]| b.is_empty() || (b[0] & 0xf0 == 0x50 && b[1..].iter().eq([0x2a, 0x4d, 0x18][..b.len() - 1].iter()));
    if b.len() < 4 {
        return if magic.starts_with(b) || skippable(b) { Frame::Incomplete } else { Frame::Other };
    }
    if b[..4] != magic {
        return if skippable(&b[..4]) { Frame::Skippable } else { Frame::Other };
    }
    parse_data_header(&b[4..]).unwrap_or(Frame::Incomplete)
}

fn parse_data_header(b: &[u8]) -> Option<Frame> {
    let (&descriptor, mut rest) = b.split_first()?;
    let single = descriptor & 0x20 != 0;
    let mut take = |len: usize| -> Option<u64> {
        let (bytes, tail) = rest.split_at_checked(len)?;
        rest = tail;
        let mut value = [0; 8];
        value[..len].copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    };
    let window = if single {
        None
    } else {
        let byte = take(1)?;
        let base = 1_u64 << (10 + (byte >> 3));
        Some(base + base / 8 * (byte & 7))
    };
    let dictionary = take([0, 1, 2, 4][usize::from(descriptor & 3)])? as u32;
    let content = match descriptor >> 6 {
        0 if single => Some(take(1)?),
        0 => None,
        1 => Some(take(2)? + 256),
        2 => Some(take(4)?),
        _ => Some(take(8)?),
    };
    Some(Frame::Data { window: window.or(content).unwrap_or(0), content, dictionary })
}

/// Whether a frame that starts at byte `at` may be unpacked with so much memory.
pub(super) fn admit(frame: Frame, at: u64, memory: u64) -> Result<(), DecompressError> {
    match frame {
        Frame::Data { dictionary, .. } if dictionary != 0 => Err(DecompressError::Dictionary { at, id: dictionary }),
        Frame::Data { window, .. } if window.saturating_add(EXTRA) > memory => {
            let need = window.saturating_add(EXTRA);
            Err(DecompressError::Window { packing: PACKING, at, need, left: memory })
        }
        Frame::Other => Err(DecompressError::Trailing { packing: PACKING, at }),
        Frame::Data { .. } | Frame::Skippable | Frame::Incomplete => Ok(()),
    }
}

pub(crate) struct Zstd {
    context: zstd::stream::raw::Decoder<'static>,
    memory: u64,
    /// Transported bytes taken so far.
    at: u64,
    /// The start of a frame until it can be judged; then given to zstd before anything else.
    header: Vec<u8>,
    given: usize,
    in_frame: bool,
    frames: u64,
}

impl Zstd {
    pub(crate) fn new(memory: u64) -> Result<Self, DecompressError> {
        let corrupt = |source| DecompressError::Corrupt { packing: PACKING, at: 0, source };
        let mut context = zstd::stream::raw::Decoder::new().map_err(corrupt)?;
        // Each frame is judged by its header; this is the library's own limit, rounded up so that it never judges
        // first. 31 is the most it takes.
        let log = (64 - memory.leading_zeros()).clamp(10, 31);
        context.set_parameter(DParameter::WindowLogMax(log)).map_err(corrupt)?;
        Ok(Self { context, memory, at: 0, header: Vec::new(), given: 0, in_frame: false, frames: 0 })
    }

    /// The next frame starts at byte `at` of the transported bytes.
    pub(crate) fn go_to(&mut self, at: u64) {
        self.at = at;
    }

    /// How many frames are unpacked; `None` within one.
    pub(crate) fn frames(&self) -> Option<u64> {
        (!self.in_frame && self.header.is_empty()).then_some(self.frames)
    }

    /// Collects the header of the next frame. Returns how much of `input` it took.
    fn collect_header(&mut self, input: &[u8]) -> Result<usize, DecompressError> {
        for (i, &byte) in input.iter().enumerate() {
            self.header.push(byte);
            self.at += 1;
            match frame_header(&self.header) {
                Frame::Incomplete => {}
                frame => {
                    admit(frame, self.at - self.header.len() as u64, self.memory)?;
                    self.in_frame = true;
                    self.given = 0;
                    return Ok(i + 1);
                }
            }
        }
        Ok(input.len())
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize, bool), DecompressError> {
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
        let hint = self.context.run(&mut from, &mut to);
        let hint = hint.map_err(|source| DecompressError::Corrupt { packing: PACKING, at: self.at, source })?;
        Ok((from.pos(), to.pos(), hint == 0))
    }

    fn frame_ended(&mut self) {
        self.in_frame = false;
        self.header.clear();
        self.frames += 1;
    }
}

impl Decoder for Zstd {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecompressError> {
        let (mut taken, mut given) = (0, 0);
        if !self.in_frame {
            taken = self.collect_header(input)?;
            if !self.in_frame {
                return Ok((taken, 0));
            }
        }
        while self.given < self.header.len() {
            let header = std::mem::take(&mut self.header);
            let result = self.step(&header[self.given..], &mut output[given..]);
            self.header = header;
            let (used, made, ended) = result?;
            self.given += used;
            given += made;
            if ended {
                self.frame_ended();
                return Ok((taken, given));
            }
            if used == 0 {
                return Ok((taken, given));
            }
        }
        let (used, made, ended) = self.step(&input[taken..], &mut output[given..])?;
        self.at += used as u64;
        if ended {
            self.frame_ended();
        }
        Ok((taken + used, given + made))
    }

    fn finish(&mut self) -> Result<(), DecompressError> {
        if self.frames().is_none_or(|frames| frames == 0) {
            return Err(DecompressError::Truncated { packing: PACKING, at: self.at });
        }
        Ok(())
    }
}
