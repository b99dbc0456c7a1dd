//! Decompress: what the content itself says it is, never its name.

use std::io;
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// Bytes from which every compression is recognised, and a zstd frame header is complete (RFC 8878, 3.1.1.1).
pub(crate) const PROBE: usize = 18;
/// What zstd allocates beside the window: one block of output, one of input, its tables.
const ZSTD_EXTRA: u64 = 512 << 10;
const ZSTD_MAGIC: u32 = 0xfd2f_b528;

/// How the transported bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// zstd frames (RFC 8878), one or several.
    Zstd,
}

/// Why the transported bytes cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// Recognised, not supported.
    #[error("the image is packed with {0}, which is not supported; serve it raw or packed with zstd")]
    Unsupported(&'static str),
    /// The window does not fit the memory budget.
    #[error(
        "the zstd frame at byte {at} needs {need} bytes of memory, the budget leaves {left}; raise the budget by at \
         least {} bytes or pack the image with a smaller window (zstd without --long and --ultra)", .need - .left
    )]
    Window {
        /// Where the frame starts in the transported bytes.
        at: u64,
        /// What it needs.
        need: u64,
        /// What may be used.
        left: u64,
    },
    /// It was packed with a dictionary, which nobody has sent.
    #[error("the zstd frame at byte {at} needs dictionary {id}; pack the image without one")]
    Dictionary {
        /// Where the frame starts in the transported bytes.
        at: u64,
        /// Its number.
        id: u32,
    },
    /// The bytes are not what they should be.
    #[error("the zstd data is corrupt near byte {at}")]
    Corrupt {
        /// Where in the transported bytes.
        at: u64,
        /// What the library says.
        #[source]
        source: io::Error,
    },
    /// Something else follows the last frame.
    #[error("after the zstd frame that ends at byte {at} comes something that is none")]
    Trailing {
        /// Where in the transported bytes.
        at: u64,
    },
    /// The bytes end in the middle.
    #[error("the zstd data ends in the middle of a frame, after {at} bytes: the image is truncated")]
    Truncated {
        /// How many bytes there were.
        at: u64,
    },
}

/// One way to unpack a stream.
pub(crate) trait Decoder: Send {
    /// Unpacks some of `input` into `output` and returns (taken, given). Given less than the room there was and with
    /// all input taken, it wants more input.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecompressError>;

    /// The input is at its end; is the output, too?
    fn finish(&self) -> Result<(), DecompressError>;
}

/// What the first bytes say.
pub(crate) struct Detected {
    pub(crate) compression: Compression,
    /// Bytes of the unpacked image, at least: what the first frame announces.
    pub(crate) unpacked: Option<u64>,
    pub(crate) decoder: Box<dyn Decoder>,
}

/// Recognises the packing by the first [`PROBE`] bytes (or all, if there are fewer). `memory` bounds the decoder.
pub(crate) fn detect(head: &[u8], memory: u64) -> Result<Detected, DecompressError> {
    let names: [(&[u8], &'static str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"PK\x03\x04", "zip"),
    ];
    if let Some((_, name)) = names.into_iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(DecompressError::Unsupported(name));
    }
    match frame_header(head) {
        // Fewer bytes than a magic number has, and no more to come: nothing is packed that short.
        frame if frame == Frame::Other || head.len() < 4 => {
            Ok(Detected { compression: Compression::None, unpacked: None, decoder: Box::new(Stored) })
        }
        frame => {
            let unpacked = if let Frame::Data { content, .. } = frame { content } else { None };
            let decoder = Zstd::new(memory)?;
            decoder.admit(frame)?;
            Ok(Detected { compression: Compression::Zstd, unpacked, decoder: Box::new(decoder) })
        }
    }
}

/// Not packed: copied as it is.
struct Stored;

impl Decoder for Stored {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), DecompressError> {
        let len = input.len().min(output.len());
        output[..len].copy_from_slice(&input[..len]);
        Ok((len, len))
    }

    fn finish(&self) -> Result<(), DecompressError> {
        Ok(())
    }
}

/// The start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
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
fn frame_header(b: &[u8]) -> Frame {
    let magic = ZSTD_MAGIC.to_le_bytes();
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

struct Zstd {
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
    fn new(memory: u64) -> Result<Self, DecompressError> {
        let corrupt = |source| DecompressError::Corrupt { at: 0, source };
        let mut context = zstd::stream::raw::Decoder::new().map_err(corrupt)?;
        // Each frame is judged by its header; this is the library's own limit, rounded up so that it never judges
        // first. 31 is the most it takes.
        let log = (64 - memory.leading_zeros()).clamp(10, 31);
        context.set_parameter(DParameter::WindowLogMax(log)).map_err(corrupt)?;
        Ok(Self { context, memory, at: 0, header: Vec::new(), given: 0, in_frame: false, frames: 0 })
    }

    /// Whether a frame that starts at the current place may be unpacked.
    fn admit(&self, frame: Frame) -> Result<(), DecompressError> {
        let at = self.at - self.header.len() as u64;
        match frame {
            Frame::Data { dictionary, .. } if dictionary != 0 => {
                Err(DecompressError::Dictionary { at, id: dictionary })
            }
            Frame::Data { window, .. } if window.saturating_add(ZSTD_EXTRA) > self.memory => {
                Err(DecompressError::Window { at, need: window.saturating_add(ZSTD_EXTRA), left: self.memory })
            }
            Frame::Other => Err(DecompressError::Trailing { at }),
            Frame::Data { .. } | Frame::Skippable | Frame::Incomplete => Ok(()),
        }
    }

    /// Collects the header of the next frame. Returns how much of `input` it took.
    fn collect_header(&mut self, input: &[u8]) -> Result<usize, DecompressError> {
        for (i, &byte) in input.iter().enumerate() {
            self.header.push(byte);
            self.at += 1;
            match frame_header(&self.header) {
                Frame::Incomplete => {}
                frame => {
                    self.admit(frame)?;
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
        let hint = hint.map_err(|source| DecompressError::Corrupt { at: self.at, source })?;
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

    fn finish(&self) -> Result<(), DecompressError> {
        if self.in_frame || !self.header.is_empty() || self.frames == 0 {
            return Err(DecompressError::Truncated { at: self.at });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn unpack(packed: &[u8], memory: u64, step: usize, room: usize) -> Result<Vec<u8>, DecompressError> {
        let mut detected = detect(&packed[..packed.len().min(PROBE)], memory)?;
        let (mut out, mut block) = (Vec::new(), vec![0; room]);
        for mut piece in packed.chunks(step) {
            loop {
                let (taken, given) = detected.decoder.run(piece, &mut block)?;
                out.extend_from_slice(&block[..given]);
                piece = &piece[taken..];
                if piece.is_empty() && given < block.len() {
                    break;
                }
            }
        }
        detected.decoder.finish()?;
        Ok(out)
    }

    fn pack(bytes: &[u8], level: i32) -> Vec<u8> {
        zstd::encode_all(bytes, level).unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3000 < 1500 { (state >> 24) as u8 } else { 7 }
            })
            .collect()
    }

    #[test]
    fn frames_are_unpacked_at_any_cut_of_input_and_output() {
        let plain = noise(100_000);
        let mut packed = pack(&plain[..60_000], 3);
        packed.extend_from_slice(b"\x5a\x2a\x4d\x18\x05\0\0\0skip!");
        packed.extend(pack(&plain[60_000..], 19));
        packed.extend(pack(b"", 3));
        for (step, room) in [(1, 1000), (17, 4096), (4096, 7), (1 << 20, 1 << 20)] {
            assert!(unpack(&packed, 64 << 20, step, room).unwrap() == plain, "{step} {room}");
        }
    }

    #[test]
    fn bytes_that_are_not_packed_pass_as_they_are() {
        let plain = noise(10_000);
        assert_eq!(unpack(&plain, 1 << 20, 100, 333).unwrap(), plain);
        assert_eq!(detect(b"", 0).unwrap().compression, Compression::None);
    }

    #[test]
    fn a_window_above_the_budget_is_refused_with_need_and_remedy() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&noise(1000)).unwrap();
        let packed = encoder.finish().unwrap();
        let error = detect(&packed, 38 << 20).err().unwrap();
        insta::assert_snapshot!(error, @"the zstd frame at byte 0 needs 134742016 bytes of memory, the budget leaves 39845888; raise the budget by at least 94896128 bytes or pack the image with a smaller window (zstd without --long and --ultra)");
        assert!(detect(&packed, 129 << 20).is_ok());
        let mut second = pack(b"small", 3);
        let at = second.len();
        second.extend(packed);
        assert!(
            matches!(unpack(&second, 38 << 20, 100, 100), Err(DecompressError::Window { at: found, .. }) if found == at as u64)
        );
    }

    #[test]
    fn other_packings_are_refused_by_name() {
        for (magic, name) in [(&b"\x1f\x8b\x08"[..], "gzip"), (b"\xfd7zXZ\0", "xz"), (b"BZh9", "bzip2")] {
            assert!(matches!(detect(magic, 1 << 20), Err(DecompressError::Unsupported(found)) if found == name));
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let packed = pack(&noise(5000), 3);
        for len in 4..packed.len() {
            let result = unpack(&packed[..len], 1 << 24, 64, 4096);
            assert!(matches!(result, Err(DecompressError::Truncated { .. })), "{len}: {:?}", result.map(|v| v.len()));
        }
    }

    #[test]
    fn garbage_after_the_last_frame_is_refused() {
        let mut packed = pack(&noise(5000), 3);
        packed.extend_from_slice(b"garbage");
        assert!(matches!(unpack(&packed, 1 << 24, 64, 4096), Err(DecompressError::Trailing { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_a_frame_magic_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..64, room in 1_usize..64,
        ) {
            let mut packed = ZSTD_MAGIC.to_le_bytes().to_vec();
            packed.append(&mut bytes);
            let _ = unpack(&packed, 8 << 20, step, room);
        }
    }
}
