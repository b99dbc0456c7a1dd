//! The authority of sessions: one key beside the database, which signs the certificate that agents believe and those that
//! agents get. Nobody else's certificate counts on either side.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
    SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use transport::tls::{Identity, TlsError};
use uuid::Uuid;
use wire::session::node_uri;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How long the authority is valid.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// An authority that is valid for less than this when the driver starts is made anew: each ramdisk is told which one counts.
const AUTHORITY_LEFT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the certificate of a node is valid.
pub const NODE_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// After how long a node shall enrol again.
pub const RENEW_IN: Duration = Duration::from_secs(8 * 3600);
/// How far the certificate of a node begins back: the driver's own clock may be set back.
const SKEW: Duration = Duration::from_secs(3600);
/// When the certificates that agents check begin. Servers without a battery believe to be in the year of their firmware.
const LONG_AGO: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Longest request for a certificate, in bytes.
pub const REQUEST_LIMIT: usize = 8 * 1024;

/// The authority cannot be used, or cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its file.
    #[error("keep the authority of sessions in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no authority of sessions: {reason}; move it away, and a new one is made", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// A certificate cannot be served.
    #[error("set up TLS for sessions")]
    Tls(#[source] TlsError),
    /// A request for a certificate is none.
    #[error("the request for a certificate is not understood: {0}")]
    Request(String),
    /// A host that no certificate can name.
    #[error("\"{0}\" can be no name in a certificate")]
    Host(String),
}

/// The authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A request for a certificate whose signature is right.
#[derive(Debug)]
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Reads PKCS#10, DER. Only its key is taken.
    ///
    /// # Errors
    /// [`AuthorityError::Request`].
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        if der.len() > REQUEST_LIMIT {
            let text = format!("it has {} bytes, {REQUEST_LIMIT} are the most", der.len());
            return Err(AuthorityError::Request(text));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        request.map(Self).map_err(|error| AuthorityError::Request(error.to_string()))
    }

    /// The digest of its key, in hexadecimal digits.
    pub fn key(&self) -> String {
        digest(self.0.public_key.der_bytes())
    }
}

/// What a certificate says about who presents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The node.
    pub node: Uuid,
    /// The digest of its key.
    pub key: String,
    /// The end of its validity.
    pub not_after: Timestamp,
}

impl Presented {
    /// Reads a certificate that TLS has checked; [`None`] when it is not of a node.
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
        let node = Uuid::try_parse(uri.strip_prefix("ferric:node:")?).ok()?;
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
        let key = digest(&certificate.public_key().subject_public_key.data);
        (*uri == node_uri(node)).then_some(Self { node, key, not_after })
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A certificate for a node.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl Authority {
    /// Reads the authority, or makes one where there is none or it is valid for a short time only.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::File { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let read = Self::read(path, &text, now)?;
                read.map_or_else(|| Self::make(path, now), Ok)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::make(path, now),
            Err(error) => Err(failed(error)),
        }
    }

    fn read(path: &Path, text: &str, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        let wrong = |reason: String| AuthorityError::Content { path: path.to_owned(), reason };
        let start = text.find("-----BEGIN CERTIFICATE-----").ok_or_else(|| wrong("no CERTIFICATE block".to_owned()))?;
        let (key, certificate) = text.split_at(start);
        let key = KeyPair::from_pem(key).map_err(|error| wrong(error.to_string()))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| wrong(error.to_string()))?;
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + AUTHORITY_LEFT;
        if u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default() < since_1970.as_secs() {
            tracing::info!(file = %path.display(), "the authority of sessions is valid for a short time only; a new one is made");
            return Ok(None);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| wrong(error.to_string()))?;
        Ok(Some(Self { certificate: certificate.to_owned(), issuer }))
    }

    fn make(path: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("ferricd sessions");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = (SystemTime::UNIX_EPOCH + LONG_AGO).into();
        params.not_after = (now + AUTHORITY_VALIDITY).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?.pem();
        let text = format!("{}{certificate}", key.serialize_pem());
        // Whole or not at all: half a file would keep the driver from starting.
        let part = path.with_extension("part");
        let written = (|| {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&part, path)
        })();
        written.map_err(|source| AuthorityError::File { path: path.to_owned(), source })?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, PEM: what agents are told to believe.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Settings of a server for `host`, an address or a name. Clients may come without a certificate, to enrol; one that is
    /// not of this authority is turned away in the handshake.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("ferricd");
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                SanType::DnsName(host.try_into().map_err(|_| AuthorityError::Host(host.chars().take(64).collect()))?)
            }
        }];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::UNIX_EPOCH + LONG_AGO).into();
        // It is made at each start; how long a driver runs nobody knows.
        params.not_after = (now + AUTHORITY_LEFT).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Make)?;
        let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
        identity.session_config(&self.certificate).map_err(AuthorityError::Tls)
    }

    /// A certificate for a node's key.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn issue(&self, request: &Request, node: Uuid, now: SystemTime) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("ferric-agent");
        let uri = node_uri(node);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(AuthorityError::Make)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let not_after = now + NODE_VALIDITY;
        params.not_before = now.checked_sub(SKEW).unwrap_or(SystemTime::UNIX_EPOCH).into();
        params.not_after = not_after.into();
        let certificate = params.signed_by(&request.0.public_key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(Issued { certificate: certificate.pem(), not_after })
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn request() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        (key, request.der().to_vec())
    }

    #[test]
    fn an_authority_is_made_once_for_its_owner_alone_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session-ca.pem");
        let now = SystemTime::now();
        let made = Authority::open(&path, now).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Authority::open(&path, now).unwrap();
        assert_eq!(read.certificate(), made.certificate());
        assert!(!format!("{made:?}").contains("PRIVATE"));
        // Nine years later there is less than a year left.
        let later = Authority::open(&path, now + 9 * AUTHORITY_LEFT + Duration::from_secs(86_400)).unwrap();
        assert_ne!(later.certificate(), made.certificate());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Authority::open(&path, now), Err(AuthorityError::Content { .. })));
    }

    #[test]
    fn a_certificate_names_its_node_and_nothing_that_the_request_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("ca.pem"), SystemTime::now()).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut asked = CertificateParams::new(vec!["driver.example.org".to_owned()]).unwrap();
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = asked.serialize_request(&key).unwrap().der().to_vec();
        let (node, request) = (Uuid::new_v4(), Request::read(&der).unwrap());
        let issued = authority.issue(&request, node, SystemTime::now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let presented = Presented::read(&der).unwrap();
        assert_eq!((presented.node, presented.key), (node, request.key()));
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert!(!parsed.is_ca());
        let authority = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap();
        assert_eq!(Presented::read(&authority), None);
    }

    #[test]
    fn requests_that_are_none_are_refused() {
        let (_, good) = request();
        let mut forged = good.clone();
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        assert!(Request::read(&good).is_ok());
        for bad in [&b""[..], b"x", &good[..good.len() - 1], &forged, &[0; REQUEST_LIMIT + 1]] {
            assert!(matches!(Request::read(bad), Err(AuthorityError::Request(_))));
        }
    }

    #[test]
    fn hosts_are_addresses_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("ca.pem"), SystemTime::now()).unwrap();
        for host in ["192.0.2.1", "2001:db8::1", "driver.example.org"] {
            authority.server(host, SystemTime::now()).unwrap();
        }
        assert!(matches!(authority.server("dräger", SystemTime::now()), Err(AuthorityError::Host(_))));
    }
}
