//! `ferric.agent.v1` as it travels: messages, client and server, generated from proto/ferric/agent/v1/agent.proto by
//! `cargo xtask wire`. What the messages say, checked, is in [`crate::session`].

#![allow(missing_docs, reason = "generated; the comments are the description's")]
#![allow(clippy::all, reason = "generated")]

include!("generated/ferric.agent.v1.rs");

/// `ferric.events.v1`: what happens to nodes, for programs; generated from proto/ferric/events/v1/events.proto.
pub mod events {
    include!("generated/ferric.events.v1.rs");
}

/// Bytes of a buffer for messages of one direction of a call, at first; it grows with what is in it. Most frames are short, and
/// a driver holds four such buffers for each agent for as long as its session lasts.
const BUFFER: usize = 1024;
/// Bytes after which what is encoded is handed on (tonic's own).
const HANDED_ON: usize = 32 << 10;

/// [`tonic_prost::ProstCodec`] with small buffers.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = tonic_prost::ProstEncoder<T>;
    type Decoder = tonic_prost::ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstEncoder::new(tonic::codec::BufferSettings::new(BUFFER, HANDED_ON))
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::new(tonic::codec::BufferSettings::new(BUFFER, HANDED_ON))
    }
}

/// The token is not for logs.
impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("node_uuid", &self.node_uuid)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}
