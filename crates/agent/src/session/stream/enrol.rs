//! Who the agent is: a certificate for this boot of the node, for its token.

use crate::state::Token;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use transport::http2::{self, ConnectError};
use transport::tls::{CertificateRequest, Identity, TlsError};
use uuid::Uuid;
use wire::rpc::EnrollRequest;
use wire::rpc::agent_session_client::AgentSessionClient;
use wire::session::Offer;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// What a driver may say of the span until a renewal: neither does an agent storm it, nor is the span without an end.
const RENEW: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 24 * 3600));

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnrolError {
    /// The driver was not reached.
    #[error("reach the driver")]
    Connect(#[from] ConnectError),
    /// No key could be made, or what the driver answered is no certificate.
    #[error("use the certificate")]
    Certificate(#[from] TlsError),
    /// The driver refused.
    #[error("the driver refuses a certificate: {} ({:?})", .0.message(), .0.code())]
    Refused(Status),
    /// It did not answer.
    #[error("the driver does not answer within {} s", ANSWER.as_secs())]
    Silent,
}

/// A certificate with its key.
pub(super) struct Enrolled {
    pub(super) identity: Identity,
    /// When to ask for the next one.
    pub(super) renew_at: Instant,
}

/// Asks for a certificate for the key of `request`, which is the same for all of a boot.
pub(super) async fn enrol(
    offer: &Offer,
    node: Uuid,
    session: Uuid,
    token: &Token,
    request: &CertificateRequest,
) -> Result<Enrolled, EnrolError> {
    let connection = http2::connect(&offer.url, &offer.ca, None, ANSWER).await?;
    let mut client = AgentSessionClient::with_origin(connection.channel.clone(), connection.origin.clone());
    let asked = EnrollRequest {
        node_uuid: node.to_string(),
        agent_token: token.reveal().to_owned(),
        session_id: session.to_string(),
        csr: request.der.clone().into(),
    };
    let answer = tokio::time::timeout(ANSWER, client.enroll(asked)).await.map_err(|_| EnrolError::Silent)?;
    let reply = answer.map_err(EnrolError::Refused)?.into_inner();
    let identity = request.answered(reply.certificate);
    identity.check()?;
    let renew_in = Duration::from_secs(reply.renew_in).clamp(RENEW.0, RENEW.1);
    tracing::info!(renew_in = ?renew_in, "the driver gave a certificate for its sessions");
    Ok(Enrolled { identity, renew_at: Instant::now() + renew_in })
}
