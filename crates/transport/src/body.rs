//! Reading bodies under a cap, and bodies that tell what becomes of them.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The cap in bytes.
        limit: usize,
    },
    /// The peer went away or broke the protocol.
    #[error("the body could not be read: {0}")]
    Broken(String),
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    // A buffer that grows holds the body twice whenever it moves.
    let mut whole = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(BodyError::TooLarge { limit });
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// The body of an answer that keeps something as long as it lasts.
pub(crate) struct Held<B, T> {
    body: Pin<Box<B>>,
    _kept: T,
}

impl<B, T> Held<B, T> {
    pub(crate) fn new(body: B, kept: T) -> Self {
        Self { body: Box::pin(body), _kept: kept }
    }
}

impl<B: Body, T: Unpin> Body for Held<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request that tells whether something of it was left unread.
pub(crate) struct Watched<B> {
    body: B,
    unread: Arc<AtomicBool>,
}

impl<B: Body> Watched<B> {
    pub(crate) fn new(body: B, unread: Arc<AtomicBool>) -> Self {
        unread.store(!body.is_end_stream(), Ordering::Relaxed);
        Self { body, unread }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_body_of_just_the_limit_is_read_and_one_byte_more_is_not() {
        let body = Bytes::from(vec![7; 1000]);
        assert_eq!(read(Full::new(body.clone()), 1000).await.unwrap(), body);
        assert!(matches!(read(Full::new(body), 999).await, Err(BodyError::TooLarge { limit: 999 })));
    }
}
