//! TLS identities and settings. All cryptography is aws-lc-rs: it verifies what the agents that people run today
//! present (P-384 keys with SHA-512 signatures).

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Why an identity or a setting could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// PEM that holds no usable certificate or key.
    #[error("{what} is not usable PEM: {reason}")]
    Pem {
        /// Which input.
        what: String,
        /// Why.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("generate a certificate")]
    Generate(#[source] rcgen::Error),
    /// The parts do not fit together.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// An unknown protocol version.
    #[error("TLS version {0:?} is not known; use 1.2 or 1.3")]
    Version(String),
}

/// A certificate chain with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// Certificate chain, PEM.
    pub certificate: String,
    key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// How long a generated certificate is valid: longer than any ramdisk runs.
const GENERATED_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far back it begins unless told otherwise: clocks of servers without a battery are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The elliptic curve of a generated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    #[default]
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    /// The key's algorithm; signatures take the digest of the curve's own strength. ironic-python-agent signs P-384 with
    /// SHA-512. aws-lc-rs signs that curve with SHA-384 alone (it verifies both), rcgen has no name for the other pair, and
    /// TLS 1.3 knows only `ecdsa_secp384r1_sha384` for it (RFC 8446, 4.2.3). Those who pin a certificate compare it and do
    /// not check its own signature.
    fn algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::P521 => &rcgen::PKCS_ECDSA_P521_SHA512,
        }
    }
}

/// How an identity is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Making {
    /// Curve of the key.
    pub curve: Curve,
    /// How far back the certificate begins.
    pub skew: Duration,
}

impl Default for Making {
    fn default() -> Self {
        Self { curve: Curve::default(), skew: CLOCK_SKEW }
    }
}

impl Identity {
    /// An identity from PEM texts.
    pub fn from_pem(certificate: impl Into<String>, key: impl Into<String>) -> Self {
        Self { certificate: certificate.into(), key: key.into() }
    }

    /// As [`Identity::make`]: P-384, beginning an hour before `now`.
    pub fn generate(hostname: &str, address: IpAddr, now: SystemTime) -> Result<Self, TlsError> {
        Self::make(hostname, address, now, Making::default())
    }

    /// A self-signed certificate for one address: the common name is `hostname`, the only extension a critical subject
    /// alternative name with `address`; valid until 30 days after `now`.
    pub fn make(hostname: &str, address: IpAddr, now: SystemTime, making: Making) -> Result<Self, TlsError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, hostname);
        // A clock that stands at its beginning has no hour before it.
        params.not_before = now.checked_sub(making.skew).unwrap_or(SystemTime::UNIX_EPOCH).into();
        params.not_after = (now + GENERATED_VALIDITY).into();
        params.custom_extensions.push(address_extension(address));
        let key = rcgen::KeyPair::generate_for(making.curve.algorithm()).map_err(TlsError::Generate)?;
        let certificate = params.self_signed(&key).map_err(TlsError::Generate)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Settings of a server that presents this identity to anybody; `minimum` is `1.2` or `1.3`.
    pub fn server_config(&self, minimum: &str) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        self.server_config_for(minimum, None)
    }

    /// As [`Identity::server_config`]. With `clients`, certificates of authorities as PEM, a client without a certificate
    /// of one of them is turned away in the handshake.
    pub fn server_config_for(
        &self,
        minimum: &str,
        clients: Option<&str>,
    ) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let (chain, key) = self.parts()?;
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(minimum)?)
            .map_err(TlsError::Setup)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                add(&mut roots, "authority of clients", pem)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = verifier.build().map_err(|error| TlsError::Pem {
                    what: "authority of clients".to_owned(),
                    reason: error.to_string(),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Setup)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Whether the texts are what they should be.
    pub fn check(&self) -> Result<(), TlsError> {
        self.parts().map(drop)
    }

    /// Settings of a server for sessions: TLS 1.3 and HTTP/2. A client need not present a certificate; one that does has to
    /// have it from one of the authorities `clients`, PEM.
    pub fn session_config(&self, clients: &str) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let (chain, key) = self.parts()?;
        let mut roots = rustls::RootCertStore::empty();
        add(&mut roots, "authority of clients", clients)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Pem { what: "authority of clients".to_owned(), reason: error.to_string() })?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(ONLY_TLS13)
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(TlsError::Setup)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Chain and key, read.
    pub(crate) fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| TlsError::Pem { what: "private key".to_owned(), reason: error.to_string() })?;
        Ok((chain, key))
    }
}

/// A key, and the request for its certificate (PKCS#10, RFC 2986).
#[derive(Clone)]
pub struct CertificateRequest {
    /// The request, DER. It names nobody: the authority knows whom it deals with.
    pub der: Vec<u8>,
    key: String,
}

impl CertificateRequest {
    /// A request for a new key on P-256.
    pub fn generate() -> Result<Self, TlsError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(TlsError::Generate)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(TlsError::Generate)?;
        Ok(Self { der: request.der().to_vec(), key: key.serialize_pem() })
    }

    /// The identity that the authority's answer, a chain in PEM, makes of it.
    pub fn answered(&self, certificate: impl Into<String>) -> Identity {
        Identity::from_pem(certificate, self.key.clone())
    }
}

impl std::fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateRequest")
    }
}

/// Draws the first random number of the cryptographic library. It gathers entropy of its own for that, which takes a second
/// on a slow machine: a program that starts in a hurry does it beside other waits.
pub fn warm_up() -> Result<(), TlsError> {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map(drop).map_err(TlsError::Generate)
}

/// The subject alternative name extension (RFC 5280, 4.2.1.6) with one `iPAddress`, marked critical as
/// ironic-python-agent does.
fn address_extension(address: IpAddr) -> rcgen::CustomExtension {
    const OID: [u64; 4] = [2, 5, 29, 17];
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = octets.len() as u8;
    let mut der = vec![0x30, length + 2, 0x87, length];
    der.extend(octets);
    let mut extension = rcgen::CustomExtension::from_oid_content(&OID, der);
    extension.set_criticality(true);
    extension
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

static ONLY_TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn versions(minimum: &str) -> Result<&'static [&'static rustls::SupportedProtocolVersion], TlsError> {
    match minimum {
        "1.2" => Ok(rustls::ALL_VERSIONS),
        "1.3" => Ok(ONLY_TLS13),
        other => Err(TlsError::Version(other.to_owned())),
    }
}

pub(crate) fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|error| TlsError::Pem { what: what.to_owned(), reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::Pem { what: what.to_owned(), reason: "no CERTIFICATE block".to_owned() });
    }
    Ok(chain)
}

/// Adds authorities in PEM.
pub(crate) fn add(roots: &mut rustls::RootCertStore, what: &str, pem: &str) -> Result<(), TlsError> {
    for certificate in certificates(what, pem)? {
        roots.add(certificate).map_err(TlsError::Setup)?;
    }
    Ok(())
}

/// Accepts any certificate. Only where an operator asked for it.
#[derive(Debug)]
pub(crate) struct AcceptAny(pub(crate) Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn der(identity: &Identity) -> Vec<u8> {
        certificates("test", &identity.certificate).unwrap()[0].to_vec()
    }

    fn count(der: &[u8], wanted: &[u8]) -> usize {
        der.windows(wanted.len()).filter(|window| *window == wanted).count()
    }

    /// The protocol's table of the agent's TLS: one extension, the critical name with one address; 30 days; the curve.
    #[test]
    fn a_generated_certificate_has_one_critical_name_thirty_days_and_the_chosen_curve() {
        // 2026-07-01 12:00:00 UTC.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_782_907_200);
        let v6: Ipv6Addr = "fd00::1".parse().unwrap();
        let curves: [(Curve, &[u8]); 3] = [
            (Curve::P256, &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
            (Curve::P384, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
            (Curve::P521, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]),
        ];
        for (curve, oid) in curves {
            let making = Making { curve, skew: Duration::from_secs(7200) };
            let der = der(&Identity::make("node-7", Ipv4Addr::new(192, 0, 2, 7).into(), now, making).unwrap());
            assert_eq!(count(&der, oid), 1, "{curve:?}");
            // Any extension's name begins with 2.5.29 (RFC 5280, 4.2.1): subjectAltName, critical, one iPAddress.
            assert_eq!(count(&der, &[0x06, 0x03, 0x55, 0x1d]), 1);
            let name =
                [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff, 0x04, 0x08, 0x30, 0x06, 0x87, 0x04, 192, 0, 2, 7];
            assert_eq!(count(&der, &name), 1);
            assert_eq!(count(&der, b"260701100000Z"), 1);
            assert_eq!(count(&der, b"260731120000Z"), 1);
            // Issuer and subject.
            assert_eq!(count(&der, b"node-7"), 2);
        }
        let der = der(&Identity::generate("x", v6.into(), now).unwrap());
        assert_eq!(count(&der, &[&[0x87, 0x10][..], &v6.octets()].concat()), 1);
        assert_eq!(count(&der, b"260701110000Z"), 1);
        // A clock that stands at its beginning.
        assert!(Identity::generate("x", v6.into(), SystemTime::UNIX_EPOCH).is_ok());
    }

    #[test]
    fn no_two_identities_are_the_same_and_no_key_is_printed() {
        let make = || Identity::generate("x", Ipv4Addr::LOCALHOST.into(), SystemTime::now()).unwrap();
        let (one, other) = (make(), make());
        assert_ne!(one.certificate, other.certificate);
        assert!(!format!("{one:?}").contains("PRIVATE"));
        assert!(one.key.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let good = Identity::generate("x", Ipv4Addr::LOCALHOST.into(), SystemTime::now()).unwrap();
        for (certificate, key, what) in [
            (String::new(), good.key.clone(), "certificate"),
            (good.key.clone(), good.key.clone(), "certificate"),
            (good.certificate.clone(), "nonsense".to_owned(), "private key"),
        ] {
            let error = Identity::from_pem(certificate, key).server_config("1.3").unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        assert!(matches!(good.server_config("1.1"), Err(TlsError::Version(_))));
        assert!(good.server_config_for("1.3", Some("nonsense")).is_err());
    }
}
