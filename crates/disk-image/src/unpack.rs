//! Unpack: the transported bytes become blocks of the disk.

use crate::blocks::{Block, BlockWriter, Circle, Gone, Part};
use crate::budget::BLOCK;
use crate::decompress::{self, Compression, Decoder, DecompressError, Detected, PROBE};
use crate::error::Cause;
use crate::fetch::{Feed, Piece};
use crate::pipeline::Pass;
use crate::qcow2::{Placer, Stop};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

mod frames;

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
pub(crate) fn unpack(feed: UnboundedReceiver<Feed>, circle: &Circle, pass: &Pass) -> Result<(), Cause> {
    let (map, memory, meters) = (pass.map.as_deref(), pass.shares.window, &pass.meters);
    let out = BlockWriter::new(circle);
    // Half of the window is the map's if the whole file is packed, too.
    let memory = if map.is_some() { memory / 2 } else { memory };
    let mut stream = Stream { feed, back: VecDeque::new() };
    let done = stream.detect(memory).and_then(|mut detected| {
        if let Some(declared) = pass.packing.filter(|&declared| declared != detected.compression) {
            let (declared, found) = (declared.name(), detected.compression.name());
            return Err(DecompressError::Declared { declared, found }.into());
        }
        let (size, at_least) = match map {
            Some(map) => (Some(map.header.size), false),
            None if detected.compression == Compression::None => (meters.known_transport_total(), false),
            None => (detected.unpacked, true),
        };
        meters.written_total(size);
        if let Some(size) = size {
            // If the writer is gone, the first block will notice.
            let _ = circle.blocks.send(Block::Announce { size, at_least });
        }
        match map {
            None => {
                let straight = frames::run(&mut stream, &mut detected, Straight { out, at: 0 }, memory)?;
                let Some(mut straight) = straight else { return Ok(()) };
                run(&mut stream, &mut detected, &mut straight)?;
                Ok(straight.out.pass()?)
            }
            Some(map) => Placer::with(map, &out, |placer| {
                run(&mut stream, &mut detected, placer)?;
                Ok(placer.finish()?)
            }),
        }
    });
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

/// What comes.
enum Input {
    /// A piece, from this byte on.
    Piece(Arc<Piece>, usize),
    /// Bytes that were looked at already.
    Loose(Vec<u8>),
    End,
}

impl Input {
    fn part(&self) -> Part<'_> {
        match self {
            Self::Piece(piece, from) => Part::whole(piece).skip(*from),
            Self::Loose(bytes) => Part::loose(bytes),
            Self::End => Part::loose(&[]),
        }
    }
}

/// The transported bytes, and what of them was put back.
struct Stream {
    feed: UnboundedReceiver<Feed>,
    back: VecDeque<Input>,
}

impl Stream {
    fn next(&mut self) -> Result<Input, Halt> {
        if let Some(input) = self.back.pop_front() {
            return Ok(input);
        }
        match self.feed.blocking_recv() {
            Some(Feed::Piece(piece)) => Ok(Input::Piece(piece, 0)),
            Some(Feed::End) => Ok(Input::End),
            None => Err(Halt::Gone),
        }
    }

    /// Looks at the first bytes.
    fn detect(&mut self, memory: u64) -> Result<Detected, Halt> {
        let mut input = self.next()?;
        // One piece is long enough, unless the source is very slow.
        while input.part().bytes().len() < PROBE && !matches!(input, Input::End) {
            // Its buffer may be the only one there is.
            let mut bytes = input.part().bytes().to_vec();
            drop(input);
            let more = self.next()?;
            bytes.extend_from_slice(more.part().bytes());
            input = Input::Loose(bytes);
            if matches!(more, Input::End) {
                self.back.push_back(more);
                break;
            }
        }
        let head = input.part().bytes();
        let detected = decompress::detect(&head[..head.len().min(PROBE)], memory)?;
        self.back.push_front(input);
        Ok(detected)
    }
}

/// Takes all that comes, on this thread.
fn run(stream: &mut Stream, detected: &mut Detected, sink: &mut impl Sink) -> Result<(), Halt> {
    loop {
        let input = stream.next()?;
        sink.take(detected.compression, &mut *detected.decoder, input.part())?;
        if matches!(input, Input::End) {
            return Ok(detected.decoder.finish()?);
        }
    }
}

/// What becomes of the bytes.
trait Sink {
    /// Gives all of `input` to the decoder and passes on what it makes of it.
    fn take(&mut self, compression: Compression, decoder: &mut dyn Decoder, input: Part<'_>) -> Result<(), Halt>;
}

/// A raw image: byte *n* of it is byte *n* of the disk. What is packed is unpacked directly into the block; of what is
/// not, whole blocks go on as they came.
struct Straight<'a> {
    out: BlockWriter<'a>,
    at: u64,
}

impl Sink for Straight<'_> {
    fn take(&mut self, compression: Compression, decoder: &mut dyn Decoder, input: Part<'_>) -> Result<(), Halt> {
        let mut input = input;
        if compression == Compression::None {
            let len = input.bytes().len();
            let whole = if len == BLOCK { input } else { Part::loose(input.bytes()) };
            self.out.put(self.at, whole)?;
            self.at += len as u64;
            return Ok(());
        }
        loop {
            let (taken, more) = self.step(decoder, input.bytes())?;
            input = input.skip(taken);
            if !more {
                return Ok(());
            }
        }
    }
}

impl Straight<'_> {
    /// Unpacks into the block at hand: bytes taken, and whether there may be more to do.
    fn step(&mut self, decoder: &mut dyn Decoder, input: &[u8]) -> Result<(usize, bool), Halt> {
        let room = self.out.room(self.at)?;
        let (taken, given, more) = step(decoder, input, room)?;
        self.at += given as u64;
        self.out.filled(given)?;
        Ok((taken, more))
    }

    /// Copies what was unpacked elsewhere.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        self.out.write(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl Sink for Placer<'_> {
    fn take(&mut self, compression: Compression, decoder: &mut dyn Decoder, input: Part<'_>) -> Result<(), Halt> {
        if compression == Compression::None {
            return Ok(self.feed(input)?);
        }
        let (mut room, mut input) = (vec![0; UNPACKED], input.bytes());
        loop {
            let (taken, given, more) = step(decoder, input, &mut room)?;
            input = &input[taken..];
            self.feed(Part::loose(&room[..given]))?;
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
