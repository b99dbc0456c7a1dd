//! A stream that is given up when nothing of what is written to it goes: a peer that does not read holds a connection, and
//! what was made for it, no longer than this. And one whose end does not take the last answer with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream whose writing fails with [`io::ErrorKind::TimedOut`] when it has stood still for too long.
pub(crate) struct Impatient<S> {
    inner: S,
    patience: Duration,
    /// Runs while writing stands still.
    still: Option<Pin<Box<Sleep>>>,
    /// Whether the peer may still be sending what nobody reads.
    unread: Arc<AtomicBool>,
    /// Runs while what still comes is thrown away, after the end of writing.
    lingering: Option<Pin<Box<Sleep>>>,
}

/// How long a peer may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(10);

impl<S> Impatient<S> {
    pub(crate) fn new(inner: S, patience: Duration) -> Self {
        Self { inner, patience, still: None, unread: Arc::default(), lingering: None }
    }

    /// Where `unread` is set at the end, ends only when the peer has, or after [`LINGER`]: a socket that is closed while data
    /// comes in is reset, and the peer loses the answer that it has not read yet (RFC 9112, 9.6).
    pub(crate) fn lingering(self, unread: Arc<AtomicBool>) -> Self {
        Self { unread, ..self }
    }

    /// Passes on what came of writing, or that it has stood still for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.still = None;
            return written;
        }
        let patience = self.patience;
        let still = self.still.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(still.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<S: AsyncRead + Unpin> Impatient<S> {
    /// Reads until the peer has ended, or for [`LINGER`].
    fn throw_away(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let over = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if over.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let ended = Pin::new(&mut self.inner).poll_shutdown(context);
            ready!(self.watch(context, ended))?;
            if !self.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        self.throw_away(context).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
