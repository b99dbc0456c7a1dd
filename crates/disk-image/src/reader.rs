//! Reads parts of an image before the image itself is transported: the tables of a qcow2.
//!
//! Parts are asked for in rising order where that is possible, so that one connection serves neighbours. Where the
//! server does no byte ranges, or the image is packed as a whole, everything before a part is transported and thrown
//! away: up to three times the whole image for the three kinds of tables. That is slower, and as safe.

use crate::decompress::{self, Compression, Decoder, DecompressError, PROBE};
use crate::fetch::{AttemptError, FetchError, Patience};
use crate::progress::Meters;
use crate::source::{Identity, Remedy, Source, SourceError};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::io;
use tokio::time::{sleep, timeout};

/// A gap that is read rather than skipped by a new request.
const SKIP: u64 = 256 << 10;
/// Bytes that are unpacked at a time.
const UNPACKED: usize = 64 << 10;

/// Why a part cannot be had.
#[derive(Debug)]
pub(crate) enum ReadError {
    Fetch(FetchError),
    Decompress(DecompressError),
}

enum Attempt {
    Again(AttemptError),
    Final(ReadError),
}

impl From<DecompressError> for Attempt {
    fn from(error: DecompressError) -> Self {
        Self::Final(ReadError::Decompress(error))
    }
}

/// A place in the unpacked image, and the connection that delivers what follows it.
pub(crate) struct Reader<'a> {
    source: &'a dyn Source,
    patience: &'a Patience,
    meters: &'a Meters,
    /// What a decoder may allocate.
    memory: u64,
    identity: Option<Identity>,
    ranges: bool,
    /// Whether to read all that lies before a part where there are no byte ranges.
    patient: bool,
    stream: Option<BoxStream<'static, io::Result<Bytes>>>,
    /// Where in the unpacked image the next byte of `stream` belongs.
    at: u64,
    transported: Bytes,
    decoder: Option<Box<dyn Decoder>>,
    compression: Compression,
    packed: bool,
    unpacked: Bytes,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a dyn Source, patience: &'a Patience, meters: &'a Meters, memory: u64) -> Self {
        Self {
            source,
            patience,
            meters,
            memory,
            identity: None,
            ranges: true,
            patient: true,
            stream: None,
            at: 0,
            transported: Bytes::new(),
            decoder: None,
            compression: Compression::None,
            packed: false,
            unpacked: Bytes::new(),
        }
    }

    /// The same, but a part that cannot be had by a byte range is not had at all.
    pub(crate) fn by_ranges(self) -> Self {
        Self { patient: false, ..self }
    }

    /// What was read so far; the image that follows must be the same.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Bytes of the unpacked image, where they are known.
    pub(crate) fn len(&self) -> Option<u64> {
        self.identity.as_ref().and_then(|identity| identity.length).filter(|_| !self.packed)
    }

    /// Whether the image is packed as a whole.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed
    }

    /// How the image is packed as a whole, once something was read.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Fills `into` with the bytes from `at` on and returns how many there are: fewer only at the end of the image.
    pub(crate) async fn read(&mut self, at: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        // A server that is asked for what lies behind the end answers with an error.
        if self.len().is_some_and(|len| at >= len) {
            return Ok(0);
        }
        let mut failures = 0;
        loop {
            let error = match self.attempt(at, into).await {
                Ok(len) => return Ok(len),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Again(error)) => error,
            };
            self.stream = None;
            failures += 1;
            if failures > self.patience.retries {
                return Err(ReadError::Fetch(FetchError::GaveUp { at, attempts: failures, source: error }));
            }
            let reason = transport::client::chain(&error);
            tracing::warn!(url = self.source.name(), at, failures, %reason, "reading the image's tables interrupted");
            self.meters.waiting(Some(format!("{reason}; attempt {} of {}", failures + 1, self.patience.retries + 1)));
            sleep(error.pause(self.patience.interval)).await;
        }
    }

    async fn attempt(&mut self, at: u64, into: &mut [u8]) -> Result<usize, Attempt> {
        let far = self.ranges && !self.packed && at.saturating_sub(self.at) > SKIP;
        if self.stream.is_none() || self.at > at || far {
            self.open(at).await?;
        }
        let mut done = 0;
        while done < into.len() {
            let Some(mut piece) = self.next().await? else { break };
            let skipped = piece.len().min(usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX));
            piece.advance(skipped);
            let len = piece.len().min(into.len() - done);
            into[done..done + len].copy_from_slice(&piece[..len]);
            piece.advance(len);
            done += len;
            self.at += (skipped + len) as u64;
            self.unpacked = piece;
        }
        if let Some(announced) = self.len()
            && self.at < announced.min(at + into.len() as u64)
        {
            return Err(Attempt::Again(AttemptError::Short { at: self.at, announced }));
        }
        self.meters.waiting(None);
        Ok(done)
    }

    /// A connection that delivers what lies at `at`, and perhaps what lies before it.
    async fn open(&mut self, at: u64) -> Result<(), Attempt> {
        self.stream = None;
        (self.transported, self.unpacked) = (Bytes::new(), Bytes::new());
        // What an image is packed with, its first bytes say: the very first read begins there.
        let from_start = self.packed || !self.ranges || self.identity.is_none();
        let start = if from_start { 0 } else { at };
        let opening = self.source.open(start, self.identity.as_ref());
        let opened = match timeout(self.patience.connect, opening).await {
            Err(_) => return Err(Attempt::Again(AttemptError::Silent(self.patience.connect))),
            Ok(Ok(opened)) => opened,
            Ok(Err(SourceError::NoResume { url, reason, .. })) if start > 0 && self.patient => {
                tracing::warn!(url, reason, "the image is transported more than once, to read its tables first");
                self.ranges = false;
                return Box::pin(self.open(at)).await;
            }
            Ok(Err(source)) if source.remedy() == Remedy::Again => {
                return Err(Attempt::Again(AttemptError::Open(source)));
            }
            Ok(Err(source)) => return Err(Attempt::Final(ReadError::Fetch(FetchError::Source { at, source }))),
        };
        let first = self.identity.is_none();
        self.identity.get_or_insert(opened.identity);
        self.stream = Some(opened.stream);
        self.at = start;
        if first || self.packed {
            self.detect().await?;
        }
        Ok(())
    }

    async fn detect(&mut self) -> Result<(), Attempt> {
        let mut head = Vec::new();
        while head.len() < PROBE {
            let Some(piece) = self.transported().await? else { break };
            head.extend_from_slice(&piece);
        }
        let detected = decompress::detect(&head[..head.len().min(PROBE)], self.memory)?;
        self.compression = detected.compression;
        self.packed = detected.compression != Compression::None;
        self.decoder = self.packed.then_some(detected.decoder);
        self.transported = head.into();
        Ok(())
    }

    /// The next bytes of the unpacked image, at least one. `None`: its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Attempt> {
        if !self.unpacked.is_empty() {
            return Ok(Some(std::mem::take(&mut self.unpacked)));
        }
        if self.decoder.is_none() {
            return self.transported().await;
        }
        loop {
            let input = if self.transported.is_empty() { self.transported().await? } else { None };
            let ended = input.is_none() && self.transported.is_empty();
            if let Some(input) = input {
                self.transported = input;
            }
            let Some(decoder) = &mut self.decoder else { return Ok(None) };
            let mut output = vec![0; UNPACKED];
            let (taken, given) = decoder.run(&self.transported, &mut output)?;
            self.transported.advance(taken);
            if given > 0 {
                output.truncate(given);
                // Unpacking is work; whoever shares this thread comes first now and then.
                tokio::task::yield_now().await;
                return Ok(Some(output.into()));
            }
            if ended {
                decoder.finish()?;
                return Ok(None);
            }
            if taken == 0 && !self.transported.is_empty() {
                let source = io::Error::new(io::ErrorKind::InvalidData, "it makes no progress");
                return Err(DecompressError::Corrupt { packing: "packed", at: self.at, source }.into());
            }
        }
    }

    /// The next transported bytes, at least one. `None`: their end.
    async fn transported(&mut self) -> Result<Option<Bytes>, Attempt> {
        if !self.transported.is_empty() {
            return Ok(Some(std::mem::take(&mut self.transported)));
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            match timeout(self.patience.stall, stream.next()).await {
                Err(_) => return Err(Attempt::Again(AttemptError::Stalled(self.patience.stall))),
                Ok(Some(Err(error))) => return Err(Attempt::Again(AttemptError::Broken(error))),
                Ok(Some(Ok(bytes))) if bytes.is_empty() => {}
                Ok(Some(Ok(bytes))) => return Ok(Some(bytes)),
                Ok(None) => return Ok(None),
            }
        }
    }
}
