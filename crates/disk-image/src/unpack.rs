//! Unpack: the transported bytes become blocks of the disk.

use crate::blocks::{Block, BlockWriter, Circle, Gone};
use crate::decompress::{self, Compression, Decoder, DecompressError, PROBE};
use crate::error::Cause;
use crate::fetch::Feed;
use crate::progress::Meters;
use crate::qcow2::{Map, Placer, Stop};
use std::io;
use tokio::sync::mpsc::UnboundedReceiver;

/// Bytes of a packed qcow2 that are unpacked at a time.
const UNPACKED: usize = 256 << 10;

/// Why this stage ended early.
enum Halt {
    Failed(Cause),
    /// A later stage gave up, or an earlier one; its own error says why.
    Gone,
}

impl From<Gone> for Halt {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<DecompressError> for Halt {
    fn from(error: DecompressError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(error) => Self::Failed(error.into()),
            Stop::Gone => Self::Gone,
        }
    }
}

/// Takes pieces until their end, and passes on blocks, each with its place on the disk.
pub(crate) fn unpack(
    feed: UnboundedReceiver<Feed>,
    circle: &Circle,
    map: Option<&Map>,
    memory: u64,
    meters: &Meters,
) -> Result<(), Cause> {
    let out = BlockWriter::new(circle);
    let announce = |compression, unpacked| {
        let (size, at_least) = match map {
            Some(map) => (Some(map.header.size), false),
            None if compression == Compression::None => (meters.known_transport_total(), false),
            None => (unpacked, true),
        };
        meters.written_total(size);
        if let Some(size) = size {
            // If the writer is gone, the first block will notice.
            let _ = circle.blocks.send(Block::Announce { size, at_least });
        }
    };
    let done = match map {
        None => {
            let mut straight = Straight { out, at: 0 };
            run(feed, memory, announce, &mut straight).and_then(|()| Ok(straight.out.pass()?))
        }
        // Half of the window is the map's if the whole file is packed, too.
        Some(map) => Placer::with(map, &out, |placer| {
            run(feed, memory / 2, announce, placer)?;
            Ok(placer.finish()?)
        }),
    };
    match done {
        Ok(()) => {
            // If the writer is gone, its own error says why.
            let _ = circle.blocks.send(Block::End);
            Ok(())
        }
        Err(Halt::Gone) => Ok(()),
        Err(Halt::Failed(cause)) => Err(cause),
    }
}

fn run(
    mut feed: UnboundedReceiver<Feed>,
    memory: u64,
    announce: impl Fn(Compression, Option<u64>),
    sink: &mut impl Sink,
) -> Result<(), Halt> {
    let (mut head, mut begun) = (Vec::new(), None);
    while let Some(item) = feed.blocking_recv() {
        let piece = match &item {
            Feed::Piece(piece) => Some(&piece.bytes[..]),
            Feed::End => None,
        };
        let mut input = piece.unwrap_or_default();
        if begun.is_none() {
            let (probe, rest) = input.split_at(input.len().min(PROBE - head.len()));
            head.extend_from_slice(probe);
            input = rest;
            if head.len() == PROBE || piece.is_none() {
                let detected = decompress::detect(&head, memory)?;
                announce(detected.compression, detected.unpacked);
                let begun = begun.insert(detected);
                sink.take(begun.compression, &mut *begun.decoder, &head)?;
            }
        }
        let Some(begun) = &mut begun else { continue };
        sink.take(begun.compression, &mut *begun.decoder, input)?;
        if piece.is_none() {
            return Ok(begun.decoder.finish()?);
        }
    }
    Err(Halt::Gone)
}

/// What becomes of the bytes.
trait Sink {
    /// Gives all of `input` to the decoder and passes on what it makes of it.
    fn take(&mut self, compression: Compression, decoder: &mut dyn Decoder, input: &[u8]) -> Result<(), Halt>;
}

/// A raw image: byte *n* of it is byte *n* of the disk, unpacked directly into the block.
struct Straight<'a> {
    out: BlockWriter<'a>,
    at: u64,
}

impl Sink for Straight<'_> {
    fn take(&mut self, _: Compression, decoder: &mut dyn Decoder, mut input: &[u8]) -> Result<(), Halt> {
        loop {
            let room = self.out.room(self.at)?;
            let (taken, given, more) = step(decoder, input, room)?;
            input = &input[taken..];
            self.at += given as u64;
            self.out.filled(given)?;
            if !more {
                return Ok(());
            }
        }
    }
}

impl Sink for Placer<'_> {
    fn take(&mut self, compression: Compression, decoder: &mut dyn Decoder, mut input: &[u8]) -> Result<(), Halt> {
        if compression == Compression::None {
            return Ok(self.feed(input)?);
        }
        let mut room = vec![0; UNPACKED];
        loop {
            let (taken, given, more) = step(decoder, input, &mut room)?;
            input = &input[taken..];
            self.feed(&room[..given])?;
            if !more {
                return Ok(());
            }
        }
    }
}

/// One step of a decoder: bytes taken, bytes given, and whether there may be more of them.
fn step(decoder: &mut dyn Decoder, input: &[u8], room: &mut [u8]) -> Result<(usize, usize, bool), DecompressError> {
    let (taken, given) = decoder.run(input, room)?;
    let more = taken < input.len() || given == room.len();
    if more && taken == 0 && given == 0 {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it makes no progress");
        return Err(DecompressError::Corrupt { packing: "packed", at: 0, source });
    }
    Ok((taken, given, more))
}
