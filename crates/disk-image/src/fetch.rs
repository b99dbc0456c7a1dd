//! Fetch: one unbroken stream out of as many connections as it takes.
//!
//! The only asynchronous stage. Each byte comes once: after a break the next request starts behind the last byte that
//! arrived, and hash and decompressor go on as if nothing had happened.
//!
//! What arrives, in parts as small as the network makes them, is collected in buffers of a fixed pool: other threads are
//! woken once a MiB and not once a packet, the client's own buffer is free again at once, and a piece of a raw image can
//! go to the disk as it is.

use crate::budget::BLOCK;
use crate::buffer::AlignedBuf;
use crate::pipeline::Pass;
use crate::progress::Meters;
use crate::source::{Identity, Opened, Remedy, Source, SourceError};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How long bytes wait for more, at least, before a piece is passed on that is not full; twice that at most.
const LINGER: Duration = Duration::from_millis(5);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Patience with a source. The defaults are those of the agent protocol's `ipa-image-download-*` parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Time until a connection has answered with the head of a reply.
    pub connect: Duration,
    /// Time without a byte after which a connection counts as broken.
    pub stall: Duration,
    /// Further attempts after the first one. Bytes that arrive renew them.
    pub retries: u32,
    /// Time between attempts. The first one after a break in the middle comes after a tenth of it.
    pub interval: Duration,
    /// Time for the whole transfer. `None`: no limit.
    pub total: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            retries: 9,
            interval: Duration::from_secs(10),
            total: None,
        }
    }
}

/// Why the bytes of an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source gave a final answer.
    #[error("fetch image at byte {at}")]
    Source {
        /// Where the transfer stood.
        at: u64,
        /// Cause.
        #[source]
        source: SourceError,
    },
    /// It kept failing.
    #[error("fetch image at byte {at}: {attempts} attempts failed")]
    GaveUp {
        /// Where the transfer stood.
        at: u64,
        /// How many attempts in a row.
        attempts: u32,
        /// The last failure.
        #[source]
        source: AttemptError,
    },
    /// It took longer than allowed.
    #[error("the image is not transferred after {} s, the limit for the whole transfer", .0.as_secs())]
    TooLong(Duration),
    /// More bytes came than were announced.
    #[error("the source announced {announced} bytes and sends more")]
    TooMany {
        /// What was announced.
        announced: u64,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A later stage stopped; its own error says why.
    #[error("a later stage stopped")]
    Stopped,
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// It could not be opened.
    #[error("open the source")]
    Open(#[source] SourceError),
    /// No reply in time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The stream broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The stream ended early.
    #[error("the stream ended after {at} of {announced} bytes")]
    Short {
        /// Bytes that came.
        at: u64,
        /// Bytes that were announced.
        announced: u64,
    },
    /// No byte in time.
    #[error("no byte for {} s", .0.as_secs())]
    Stalled(Duration),
}

impl AttemptError {
    /// How long to wait before the next attempt: `usual`, or longer if the server asks for it.
    pub(crate) fn pause(&self, usual: Duration) -> Duration {
        match self {
            Self::Open(SourceError::Status { after: Some(after), .. }) => usual.max((*after).min(LONGEST_PAUSE)),
            _ => usual,
        }
    }
}

impl FetchError {
    /// Whether a write from byte 0 could help where a resumption cannot.
    pub(crate) fn wants_restart(&self) -> bool {
        matches!(self, Self::Source { source, .. } if source.remedy() == Remedy::FromStart)
    }
}

/// A piece of the transported bytes, at most a block. Its buffer goes back to the pool when nobody holds it any more.
pub(crate) struct Piece {
    buffer: Option<AlignedBuf>,
    len: usize,
    pool: UnboundedSender<AlignedBuf>,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.len])
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // If the fetch is over, nobody needs it.
            let _ = self.pool.send(buffer);
        }
    }
}

/// What stages receive. A channel that closes without [`Feed::End`] was abandoned.
pub(crate) enum Feed {
    Piece(Arc<Piece>),
    End,
}

/// Where pieces go: the decompressor, and the hash if there is one. No more bytes than the pool has wait for them.
pub(crate) struct Outlets {
    senders: Vec<UnboundedSender<Feed>>,
    free: UnboundedReceiver<AlignedBuf>,
    pool: UnboundedSender<AlignedBuf>,
    /// The piece that is being filled, and since when.
    filling: Option<(Piece, Instant)>,
    /// Bytes taken in so far.
    at: u64,
}

impl Outlets {
    /// Outlets to these channels, with a pool of so many blocks.
    pub(crate) fn new(senders: Vec<UnboundedSender<Feed>>, blocks: usize) -> Self {
        let (pool, free) = unbounded_channel();
        for _ in 0..blocks {
            // Its receiver lives: this cannot fail.
            let _ = pool.send(AlignedBuf::zeroed(BLOCK));
        }
        Self { senders, free, pool, filling: None, at: 0 }
    }

    /// Returns when a later stage has given up; a silent source must not delay its error.
    fn abandoned(&self) -> impl Future<Output = ()> + use<> {
        let first = self.senders.first().cloned();
        async move {
            match first {
                Some(sender) => sender.closed().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Takes bytes in, as soon as there is room for them.
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            let (piece, _) = match &mut self.filling {
                Some(filling) => filling,
                None => {
                    let buffer = self.free.recv().await.ok_or(FetchError::Stopped)?;
                    let piece = Piece { buffer: Some(buffer), len: 0, pool: self.pool.clone() };
                    self.filling.insert((piece, Instant::now()))
                }
            };
            // A piece ends where a block of a raw image does, even if one before it was passed on early.
            let room = BLOCK - (self.at % BLOCK as u64) as usize;
            let len = room.min(bytes.len());
            if let Some(buffer) = &mut piece.buffer {
                buffer[piece.len..piece.len + len].copy_from_slice(&bytes[..len]);
            }
            piece.len += len;
            self.at += len as u64;
            bytes.advance(len);
            if len == room {
                self.pass()?;
            }
        }
        Ok(())
    }

    /// Passes on what has waited long enough.
    fn pass_if_due(&mut self) -> Result<(), FetchError> {
        let due = self.filling.as_ref().is_some_and(|(_, since)| since.elapsed() >= LINGER);
        if due { self.pass() } else { Ok(()) }
    }

    /// Passes on what there is.
    fn pass(&mut self) -> Result<(), FetchError> {
        let Some((piece, _)) = self.filling.take() else { return Ok(()) };
        let piece = Arc::new(piece);
        for sender in &self.senders {
            sender.send(Feed::Piece(piece.clone())).map_err(|_| FetchError::Stopped)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), FetchError> {
        self.pass()?;
        for sender in &self.senders {
            sender.send(Feed::End).map_err(|_| FetchError::Stopped)?;
        }
        Ok(())
    }
}

/// What has come.
pub(crate) struct Fetched {
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// How the server says that it packed them on the way.
    pub(crate) coding: Option<String>,
}

/// Brings all bytes of the source to the outlets.
///
/// If a digest will judge the result, a source without any validator may be resumed too.
pub(crate) async fn fetch(pass: &Pass, mut outlets: Outlets) -> Result<Fetched, FetchError> {
    let Pass { source, patience, meters, cancel, known, algorithm, .. } = pass;
    let vouched = algorithm.is_some();
    let (source, abandoned, outlets) = (&**source, outlets.abandoned(), &mut outlets);
    let mut transfer = Transfer { source, patience, vouched, outlets, meters, at: 0, identity: None, known };
    let run = async {
        let bytes = match patience.total {
            Some(limit) => timeout(limit, transfer.run()).await.unwrap_or(Err(FetchError::TooLong(limit))),
            None => transfer.run().await,
        }?;
        transfer.outlets.end()?;
        let coding = transfer.identity.as_ref().and_then(|identity| identity.coding.clone());
        Ok(Fetched { bytes, coding })
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(FetchError::Cancelled),
        () = abandoned => Err(FetchError::Stopped),
        result = run => result,
    };
    meters.waiting(None);
    result
}

struct Transfer<'a> {
    source: &'a dyn Source,
    patience: &'a Patience,
    vouched: bool,
    outlets: &'a mut Outlets,
    meters: &'a Meters,
    at: u64,
    identity: Option<Identity>,
    /// What was read of the source before, if it was.
    known: &'a Option<Identity>,
}

/// How one connection ended.
enum End {
    Complete,
    Final(FetchError),
    Failed(AttemptError),
}

impl Transfer<'_> {
    async fn run(&mut self) -> Result<u64, FetchError> {
        let mut failures = 0;
        loop {
            let before = self.at;
            let end = self.connection().await;
            self.outlets.pass()?;
            let error = match end {
                End::Complete => return Ok(self.at),
                End::Final(error) => return Err(error),
                End::Failed(error) => error,
            };
            failures = if self.at > before { 1 } else { failures + 1 };
            if failures > self.patience.retries {
                return Err(FetchError::GaveUp { at: self.at, attempts: failures, source: error });
            }
            let usual = if self.at > before { self.patience.interval / 10 } else { self.patience.interval };
            let pause = error.pause(usual);
            let reason = transport::client::chain(&error);
            let (url, at) = (self.source.name(), self.at);
            tracing::warn!(url, at, failures, pause_s = pause.as_secs_f64(), %reason, "image transfer interrupted");
            self.meters.waiting(Some(format!("{reason}; attempt {} of {}", failures + 1, self.patience.retries + 1)));
            sleep(pause).await;
        }
    }

    async fn connection(&mut self) -> End {
        let known = self.identity.as_ref().or(self.known.as_ref());
        let opening = self.source.open(self.at, known);
        let opened = match timeout(self.patience.connect, opening).await {
            Err(_) => return End::Failed(AttemptError::Silent(self.patience.connect)),
            Ok(Err(source)) if source.remedy() == Remedy::Again => return End::Failed(AttemptError::Open(source)),
            Ok(Err(source)) => return End::Final(FetchError::Source { at: self.at, source }),
            Ok(Ok(opened)) => opened,
        };
        if self.identity.is_none() {
            self.meters.transport_total(opened.identity.length);
            self.identity = Some(opened.identity.clone());
        }
        self.drain(opened).await
    }

    async fn drain(&mut self, mut opened: Opened) -> End {
        let announced = self.identity.as_ref().and_then(|identity| identity.length);
        // One clock for all pieces: an alarm for each would wake the thread that waits for the network twice a piece.
        let mut ticks = interval(LINGER);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let arrived = tokio::select! {
                biased;
                arrived = timeout(self.patience.stall, opened.stream.next()) => arrived,
                _ = ticks.tick(), if self.outlets.filling.is_some() => match self.outlets.pass_if_due() {
                    Ok(()) => continue,
                    Err(error) => return End::Final(error),
                },
            };
            match arrived {
                Err(_) => return self.broken(AttemptError::Stalled(self.patience.stall)),
                Ok(Some(Err(error))) => return self.broken(AttemptError::Broken(error)),
                Ok(None) => match announced {
                    Some(announced) if self.at < announced => {
                        return self.broken(AttemptError::Short { at: self.at, announced });
                    }
                    _ => return End::Complete,
                },
                Ok(Some(Ok(bytes))) => {
                    let len = bytes.len() as u64;
                    if announced.is_some_and(|announced| self.at + len > announced) {
                        return End::Final(FetchError::TooMany { announced: announced.unwrap_or_default() });
                    }
                    self.meters.waiting(None);
                    self.meters.transported(len);
                    self.at += len;
                    if let Err(error) = self.outlets.take(bytes).await {
                        return End::Final(error);
                    }
                }
            }
        }
    }

    /// A break. At the announced end nothing is missing; without a validator, only a digest can tell whether the
    /// rest belongs to the same content.
    fn broken(&self, error: AttemptError) -> End {
        let identity = self.identity.clone().unwrap_or_default();
        if identity.length == Some(self.at) {
            return End::Complete;
        }
        if self.at > 0 && identity.validator().is_none() && identity.etag.is_none() && !self.vouched {
            let reason = "it has neither entity tag nor date, and no digest would notice a change";
            let (url, at) = (self.source.name().to_owned(), self.at);
            return End::Final(FetchError::Source { at, source: SourceError::NoResume { url, at, reason } });
        }
        End::Failed(error)
    }
}
