//! The Ironic API: microversions and error bodies.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// Request header of the microversion.
pub const VERSION_HEADER: &str = "x-openstack-ironic-api-version";
/// Response header of the lowest microversion.
pub const MIN_VERSION_HEADER: &str = "x-openstack-ironic-api-minimum-version";
/// Response header of the highest microversion.
pub const MAX_VERSION_HEADER: &str = "x-openstack-ironic-api-maximum-version";

/// A microversion `1.N`. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u16);

impl Version {
    /// The lowest that is served, and what a request without a header gets.
    pub const MIN: Self = Self(1);
    /// The highest that is served: Ironic 39.
    pub const MAX: Self = Self(115);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// Why a version header was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not of the form `1.N` or `latest`.
    #[error("Invalid value for {VERSION_HEADER} header: {0:?} is not of the form 1.N or 'latest'")]
    Malformed(String),
    /// Well-formed, but not served.
    #[error("Version {0} was requested but the requested API version is not supported: the range is {min} to {max}", min = Version::MIN, max = Version::MAX)]
    Unsupported(String),
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `1.N` or `latest` (any case).
    fn from_str(text: &str) -> Result<Self, VersionError> {
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Self::MAX);
        }
        let number = |part: &str| -> Option<u32> {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) { None } else { part.parse().ok() }
        };
        let (major, minor) = text.split_once('.').ok_or_else(|| VersionError::Malformed(text.to_owned()))?;
        let (Some(major), Some(minor)) = (number(major), number(minor)) else {
            return Err(VersionError::Malformed(text.to_owned()));
        };
        match u16::try_from(minor) {
            Ok(minor) if major == 1 && Self(minor) >= Self::MIN && Self(minor) <= Self::MAX => Ok(Self(minor)),
            _ => Err(VersionError::Unsupported(text.to_owned())),
        }
    }
}

/// Body of an error: the inner object as *text* inside the outer one. Clients decode twice; kept for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// JSON text.
    pub error_message: String,
}

impl ErrorBody {
    /// An error of the API.
    pub fn fault(status: u16, faultstring: &str) -> Self {
        let faultcode = if status < 500 { "Client" } else { "Server" };
        let inner = json!({"faultcode": faultcode, "faultstring": faultstring, "debuginfo": Value::Null});
        Self { error_message: inner.to_string() }
    }

    /// The text for people in it.
    pub fn text(&self) -> String {
        serde_json::from_str::<Value>(&self.error_message)
            .ok()
            .and_then(|inner| {
                ["faultstring", "description"].iter().find_map(|key| inner.get(key)?.as_str().map(str::to_owned))
            })
            .unwrap_or_else(|| self.error_message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_clients_write_them() {
        assert_eq!("1.62".parse(), Ok(Version(62)));
        assert_eq!("Latest".parse(), Ok(Version::MAX));
        assert_eq!("1.116".parse::<Version>(), Err(VersionError::Unsupported("1.116".to_owned())));
        assert_eq!("2.1".parse::<Version>(), Err(VersionError::Unsupported("2.1".to_owned())));
        assert_eq!("1.0".parse::<Version>(), Err(VersionError::Unsupported("1.0".to_owned())));
        assert_eq!("1.".parse::<Version>(), Err(VersionError::Malformed("1.".to_owned())));
        assert_eq!("+1.5".parse::<Version>(), Err(VersionError::Malformed("+1.5".to_owned())));
    }

    #[test]
    fn errors_are_doubly_encoded() {
        let body = ErrorBody::fault(404, "Node x could not be found.");
        assert_eq!(body.text(), "Node x could not be found.");
        assert!(body.error_message.starts_with('{'));
    }
}
