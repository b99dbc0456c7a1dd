//! Decompress: what the content itself says it is, never its name.

use self::zstd::{Frame, admit, frame_header};
use std::io;

mod frames;
mod gzip;
mod xz;
mod zstd;

pub(crate) use self::frames::{Place, Scanner};
pub(crate) use self::zstd::Zstd;

/// Bytes from which every compression is recognised, and a zstd frame header is complete (RFC 8878, 3.1.1.1).
pub(crate) const PROBE: usize = 18;

/// How the transported bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip members (RFC 1952), one or several.
    Gzip,
    /// xz streams (the .xz file format 1.2.0), one or several.
    Xz,
    /// zstd frames (RFC 8878), one or several.
    Zstd,
}

impl Compression {
    /// Its name; `none` for bytes that are not packed.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Why the transported bytes cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// Recognised, not supported.
    #[error("the image is packed with {0}, which is not supported; serve it raw, or packed with zstd, xz or gzip")]
    Unsupported(&'static str),
    /// Packed in another way than was declared.
    #[error("the image is declared to be packed with {declared}, but is with {found}; declare what it is")]
    Declared {
        /// As declared; `none`: not packed.
        declared: &'static str,
        /// As found.
        found: &'static str,
    },
    /// The window does not fit the memory budget.
    #[error(
        "the {packing} data at byte {at} needs {need} bytes of memory, the budget leaves {left}; raise the budget by at \
         least {} bytes or pack the image with a smaller window (zstd without --long and --ultra, xz -6)", .need - .left
    )]
    Window {
        /// How it is packed.
        packing: &'static str,
        /// Where that starts in the transported bytes.
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
    #[error("the {packing} data is corrupt near byte {at}")]
    Corrupt {
        /// How it is packed.
        packing: &'static str,
        /// Where in the transported bytes.
        at: u64,
        /// What the library says.
        #[source]
        source: io::Error,
    },
    /// Something else follows the last frame.
    #[error("after the {packing} data that ends at byte {at} comes something else")]
    Trailing {
        /// How it is packed.
        packing: &'static str,
        /// Where in the transported bytes.
        at: u64,
    },
    /// The bytes end in the middle.
    #[error("the {packing} data ends in the middle, after {at} bytes: the image is truncated")]
    Truncated {
        /// How it is packed.
        packing: &'static str,
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
    fn finish(&mut self) -> Result<(), DecompressError>;
}

/// What the first bytes say.
pub(crate) struct Detected {
    pub(crate) compression: Compression,
    /// Bytes of the unpacked image, at least: what the first frame announces.
    pub(crate) unpacked: Option<u64>,
    /// Of zstd: what the first frame needs to be unpacked, bytes of memory.
    pub(crate) need: u64,
    pub(crate) decoder: Box<dyn Decoder>,
}

/// Recognises the packing by the first [`PROBE`] bytes (or all, if there are fewer). `memory` bounds the decoder.
pub(crate) fn detect(head: &[u8], memory: u64) -> Result<Detected, DecompressError> {
    let names: [(&[u8], &'static str); 3] = [(b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4"), (b"PK\x03\x04", "zip")];
    if let Some((_, name)) = names.into_iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(DecompressError::Unsupported(name));
    }
    if head.starts_with(gzip::MAGIC) {
        let decoder = Box::new(gzip::Gzip::new(memory)?);
        return Ok(Detected { compression: Compression::Gzip, unpacked: None, need: 0, decoder });
    }
    if head.starts_with(xz::MAGIC) {
        let decoder = Box::new(xz::Xz::new(memory)?);
        return Ok(Detected { compression: Compression::Xz, unpacked: None, need: 0, decoder });
    }
    match frame_header(head) {
        // Fewer bytes than a magic number has, and no more to come: nothing is packed that short.
        frame if frame == Frame::Other || head.len() < 4 => {
            Ok(Detected { compression: Compression::None, unpacked: None, need: 0, decoder: Box::new(Stored) })
        }
        frame => {
            let (unpacked, window) = match frame {
                Frame::Data { content, window, .. } => (content, window),
                Frame::Skippable | Frame::Incomplete | Frame::Other => (None, 0),
            };
            admit(frame, 0, memory)?;
            let (need, decoder) = (window + zstd::EXTRA, Box::new(Zstd::new(memory)?));
            Ok(Detected { compression: Compression::Zstd, unpacked, need, decoder })
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

    fn finish(&mut self) -> Result<(), DecompressError> {
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
        ::zstd::encode_all(bytes, level).unwrap()
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
        let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&noise(1000)).unwrap();
        let packed = encoder.finish().unwrap();
        let error = detect(&packed, 38 << 20).err().unwrap();
        insta::assert_snapshot!(error, @"the zstd data at byte 0 needs 134742016 bytes of memory, the budget leaves 39845888; raise the budget by at least 94896128 bytes or pack the image with a smaller window (zstd without --long and --ultra, xz -6)");
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
        for (magic, name) in [(&b"PK\x03\x04"[..], "zip"), (b"\x04\x22\x4d\x18", "lz4"), (b"BZh9", "bzip2")] {
            assert!(matches!(detect(magic, 1 << 20), Err(DecompressError::Unsupported(found)) if found == name));
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_xz_are_unpacked_at_any_cut_one_or_several_with_padding() {
        let plain = noise(100_000);
        let (one, other) = plain.split_at(60_000);
        let gzipped = [gzip(one), gzip(other), gzip(b"")].concat();
        let padded = [&gzipped[..], &[0; 700]].concat();
        let xzs = [xz(one, 1), xz(other, 6), vec![0; 8]].concat();
        for packed in [gzipped, padded, xzs] {
            for (step, room) in [(1, 1000), (17, 4096), (4096, 7), (1 << 20, 1 << 20)] {
                assert!(unpack(&packed, 64 << 20, step, room).unwrap() == plain, "{step} {room}");
            }
        }
    }

    #[test]
    fn an_xz_dictionary_above_the_budget_is_refused_with_its_need() {
        let packed = xz(&noise(100_000), 9);
        let error = unpack(&packed, 38 << 20, 4096, 4096).unwrap_err();
        let DecompressError::Window { need, left, .. } = error else { panic!("{error:?}") };
        assert!(need > 64 << 20 && need < 70 << 20 && left == 38 << 20, "{need}");
        unpack(&packed, need, 4096, 4096).unwrap();
    }

    #[test]
    fn every_truncation_is_noticed() {
        let plain = noise(5000);
        for (packed, magic) in [(pack(&plain, 3), 4), (gzip(&plain), 2), (xz(&plain, 1), 6)] {
            for len in magic..packed.len() {
                let result = unpack(&packed[..len], 1 << 24, 64, 4096);
                assert!(
                    matches!(result, Err(DecompressError::Truncated { .. })),
                    "{len}: {:?}",
                    result.map(|v| v.len())
                );
            }
        }
    }

    /// zstd frames carry no check unless asked for; the digest of the image vouches for those.
    #[test]
    fn every_flipped_bit_of_gzip_and_xz_is_noticed_or_harmless() {
        let plain = noise(2000);
        for packed in [gzip(&plain), xz(&plain, 1)] {
            for bit in 0..packed.len() * 8 {
                let mut flipped = packed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let head = detect(&flipped[..PROBE], 1 << 24);
                if head.is_ok_and(|head| head.compression == Compression::None) {
                    continue;
                }
                match unpack(&flipped, 1 << 24, 64, 4096) {
                    Err(_) => {}
                    // Names and dates in the header of gzip.
                    Ok(out) => assert!(out == plain, "bit {bit} changes the content unnoticed"),
                }
            }
        }
    }

    #[test]
    fn garbage_after_the_last_frame_is_refused() {
        let mut packed = pack(&noise(5000), 3);
        packed.extend_from_slice(b"garbage");
        assert!(matches!(unpack(&packed, 1 << 24, 64, 4096), Err(DecompressError::Trailing { .. })));
        let gzipped = [gzip(b"image"), b"garbage".to_vec()].concat();
        assert!(matches!(unpack(&gzipped, 1 << 24, 64, 4096), Err(DecompressError::Trailing { .. })));
        let garbage = [xz(b"image", 1), b"garbage12345".to_vec()].concat();
        assert!(unpack(&garbage, 1 << 24, 64, 4096).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_a_frame_magic_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..64, room in 1_usize..64,
        ) {
            let mut packed = 0xfd2f_b528_u32.to_le_bytes().to_vec();
            packed.append(&mut bytes);
            let _ = unpack(&packed, 8 << 20, step, room);
        }
    }
}
