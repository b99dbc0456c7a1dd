//! What can go wrong between us and a BMC, always with the BMC, the resource and what to do.

use crate::settings::SettingsError;
use hardware::OutOfBandError;
use http::Method;
use std::time::Duration;
use transport::client::ClientError;
use transport::tls::TlsError;

/// How a Redfish operation failed. `bmc` is scheme, host and port.
#[derive(Debug, thiserror::Error)]
pub enum RedfishError {
    /// The node's `driver_info` is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// `redfish_verify_ca` names something that cannot be read.
    #[error("driver_info.redfish_verify_ca: {path} cannot be read; give a PEM file or a folder of them")]
    CaFile {
        /// The path.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// `redfish_verify_ca` holds no usable certificate.
    #[error("driver_info.redfish_verify_ca holds no usable certificate")]
    Trust(#[source] TlsError),
    /// The image that is to be given to the BMC cannot be read.
    #[error("the image of the firmware, {path}, cannot be read")]
    Image {
        /// The file.
        path: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No answer. Trying again may help.
    #[error("BMC {bmc} does not answer; check redfish_address, redfish_verify_ca and the network")]
    Unreachable {
        /// The BMC.
        bmc: String,
        /// Cause.
        #[source]
        source: ClientError,
        /// Whether the BMC cannot have seen the request.
        unsent: bool,
    },
    /// The credentials were refused.
    #[error(
        "BMC {bmc} refused the credentials at {resource} (HTTP {status}); check redfish_username and redfish_password"
    )]
    Denied {
        /// The BMC.
        bmc: String,
        /// The resource.
        resource: String,
        /// 401 or 403.
        status: u16,
    },
    /// The BMC said no.
    #[error("BMC {bmc} answered {method} {resource} with HTTP {status}: {message}{hint}")]
    Refused {
        /// The BMC.
        bmc: String,
        /// Method.
        method: Method,
        /// The resource.
        resource: String,
        /// HTTP status.
        status: u16,
        /// The BMC's own words, shortened.
        message: String,
        /// What to do, with its separator; empty when the BMC's words are all there is.
        hint: &'static str,
    },
    /// The answer is not Redfish.
    #[error("BMC {bmc}, {resource}: {problem}")]
    Malformed {
        /// The BMC.
        bmc: String,
        /// The resource.
        resource: String,
        /// What is wrong.
        problem: String,
    },
    /// The BMC does not offer it.
    #[error("BMC {bmc}, {resource}: {what}")]
    Unsupported {
        /// The BMC.
        bmc: String,
        /// The resource.
        resource: String,
        /// What is not there.
        what: String,
    },
    /// What was asked for makes no sense on this machine.
    #[error("BMC {bmc}: {problem}")]
    Wish {
        /// The BMC.
        bmc: String,
        /// All that is wrong, and what is valid.
        problem: String,
    },
    /// A link or redirect leads to another origin, where the credentials do not belong.
    #[error("BMC {bmc}, {resource} leads to {link}, which is another server; set redfish_address to the right one")]
    Elsewhere {
        /// The BMC.
        bmc: String,
        /// The resource.
        resource: String,
        /// Where it leads, shortened.
        link: String,
    },
    /// It is not clear which system is meant.
    #[error("BMC {bmc}: {problem}; set driver_info.redfish_system_id to one of: {members}")]
    System {
        /// The BMC.
        bmc: String,
        /// What is unclear.
        problem: String,
        /// The paths of the systems there are.
        members: String,
    },
    /// The BMC accepted a change and it did not become true in time.
    #[error("BMC {bmc}, {resource}: {wanted} not reached within {within:?}, last seen: {seen}")]
    Late {
        /// The BMC.
        bmc: String,
        /// The resource.
        resource: String,
        /// What was asked.
        wanted: String,
        /// What was read last, with the BMC's last objection if there was one.
        seen: String,
        /// The deadline.
        within: Duration,
    },
}

impl RedfishError {
    /// Whether the BMC may be doing what was asked although no good answer came: the connection broke or timed out
    /// after the request was sent, or the BMC reported trouble of its own or that it is busy.
    pub(crate) fn is_ambiguous(&self) -> bool {
        match self {
            RedfishError::Unreachable { unsent, .. } => !unsent,
            RedfishError::Refused { status, .. } => *status >= 500 || *status == 409 || *status == 429,
            _ => false,
        }
    }

    /// Whether the resource is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, RedfishError::Refused { status: 404 | 405 | 410 | 501, .. })
    }

    /// Adds what to do to a refusal.
    pub(crate) fn with_hint(self, text: &'static str) -> Self {
        match self {
            RedfishError::Refused { bmc, method, resource, status, message, .. } => {
                RedfishError::Refused { bmc, method, resource, status, message, hint: text }
            }
            other => other,
        }
    }
}

impl From<RedfishError> for OutOfBandError {
    fn from(error: RedfishError) -> Self {
        let text = transport::client::chain(&error);
        match error {
            RedfishError::Settings(_)
            | RedfishError::CaFile { .. }
            | RedfishError::Trust(_)
            | RedfishError::Wish { .. }
            | RedfishError::System { .. } => OutOfBandError::Settings(text),
            RedfishError::Unreachable { .. } => OutOfBandError::Unreachable(text),
            RedfishError::Denied { .. } => OutOfBandError::Denied(text),
            RedfishError::Unsupported { .. } => OutOfBandError::Unsupported(text),
            // What a BMC says of itself (5xx) tells nothing of what it did (RFC 9110, 15.5 and 15.6).
            RedfishError::Refused { status: 400..=499, .. } => OutOfBandError::Refused(text),
            RedfishError::Image { .. }
            | RedfishError::Refused { .. }
            | RedfishError::Malformed { .. }
            | RedfishError::Elsewhere { .. }
            | RedfishError::Late { .. } => OutOfBandError::Failed(text),
        }
    }
}
