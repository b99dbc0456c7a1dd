//! Fetch: one unbroken stream out of as many connections as it takes.
//!
//! The only asynchronous stage. Each byte comes once: after a break the next request starts behind the last byte that
//! arrived, and hash and decompressor go on as if nothing had happened.

use crate::pipeline::Pass;
use crate::progress::Meters;
use crate::source::{Identity, Opened, Remedy, Source, SourceError};
use bytes::Bytes;
use futures::StreamExt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Largest piece that is passed on.
const PIECE: usize = 256 << 10;
/// What a piece costs at least in the queue, so that very small ones are bounded too.
const LEAST_COST: usize = 512;

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

impl FetchError {
    /// Whether a write from byte 0 could help where a resumption cannot.
    pub(crate) fn wants_restart(&self) -> bool {
        matches!(self, Self::Source { source, .. } if source.remedy() == Remedy::FromStart)
    }
}

/// A piece of the transported bytes. Its share of the queue is free again when both hash and decompressor are done.
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// What stages receive. A channel that closes without [`Feed::End`] was abandoned.
pub(crate) enum Feed {
    Piece(Arc<Piece>),
    End,
}

/// Where pieces go: the decompressor, and the hash if there is one.
pub(crate) struct Outlets {
    pub(crate) senders: Vec<UnboundedSender<Feed>>,
    pub(crate) room: Arc<Semaphore>,
}

impl Outlets {
    /// Returns when a later stage has given up; a silent source must not delay its error.
    async fn abandoned(&self) {
        match self.senders.first() {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn pass(&self, mut bytes: Bytes) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let cost = piece.len().max(LEAST_COST) as u32;
            let room = self.room.clone().acquire_many_owned(cost).await.map_err(|_| FetchError::Stopped)?;
            let piece = Arc::new(Piece { bytes: piece, _room: room });
            for sender in &self.senders {
                sender.send(Feed::Piece(piece.clone())).map_err(|_| FetchError::Stopped)?;
            }
        }
        Ok(())
    }
}

/// Brings all bytes of the source to the outlets and returns how many there were.
///
/// `vouched` says that a digest will judge the result: then a source without any validator may be resumed too.
pub(crate) async fn fetch(pass: &Pass, vouched: bool, outlets: Outlets) -> Result<u64, FetchError> {
    let Pass { source, patience, meters, cancel, known, .. } = pass;
    let (source, outlets) = (&**source, &outlets);
    let mut transfer = Transfer { source, patience, vouched, outlets, meters, at: 0, identity: None, known };
    let run = async {
        match patience.total {
            Some(limit) => timeout(limit, transfer.run()).await.unwrap_or(Err(FetchError::TooLong(limit))),
            None => transfer.run().await,
        }
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(FetchError::Cancelled),
        () = outlets.abandoned() => Err(FetchError::Stopped),
        result = run => result,
    };
    meters.waiting(None);
    if result.is_ok() {
        for sender in &outlets.senders {
            sender.send(Feed::End).map_err(|_| FetchError::Stopped)?;
        }
    }
    result
}

struct Transfer<'a> {
    source: &'a dyn Source,
    patience: &'a Patience,
    vouched: bool,
    outlets: &'a Outlets,
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
            let error = match self.connection().await {
                End::Complete => return Ok(self.at),
                End::Final(error) => return Err(error),
                End::Failed(error) => error,
            };
            failures = if self.at > before { 1 } else { failures + 1 };
            if failures > self.patience.retries {
                return Err(FetchError::GaveUp { at: self.at, attempts: failures, source: error });
            }
            let pause = if self.at > before { self.patience.interval / 10 } else { self.patience.interval };
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
        loop {
            match timeout(self.patience.stall, opened.stream.next()).await {
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
                    if let Err(error) = self.outlets.pass(bytes).await {
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
