//! The key that signs records of erasures: Ed25519 (RFC 8032), in a file of its own.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What precedes the 32 bytes of an Ed25519 public key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("use {} for the key that signs erasures", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not a key.
    #[error(
        "{} holds no Ed25519 private key (PEM, PKCS #8); make one with openssl genpkey -algorithm ed25519, or move the \
         file away to have a new one made", path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Everybody may read it.
    #[error("{} can be read by everybody (mode {mode:o}); chmod 600 it, and consider whether the key is still secret", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No key could be made.
    #[error("make a key that signs erasures")]
    Make,
}

/// Signs what this driver vouches for; clones share the key.
#[derive(Clone)]
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
    id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the key of a file; makes one, for its owner alone, where there is no file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        match read(path).map_err(failed)? {
            Some(text) => {
                let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
                if mode & 0o007 != 0 {
                    return Err(KeyError::Open { path: path.to_owned(), mode });
                }
                Self::parse(path, &text)
            }
            None => {
                let pem = new_key()?;
                // Another driver may have been quicker; then its key is the key.
                let text = if place(path, &pem).map_err(failed)? {
                    pem
                } else {
                    read(path).map_err(failed)?.unwrap_or_default()
                };
                Self::parse(path, &text)
            }
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, KeyError> {
        let refused = || KeyError::NotAKey { path: path.to_owned() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| refused())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| refused())?;
        let id = Sha256::digest(spki(&pair)).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { pair: Arc::new(pair), id })
    }

    /// SHA-256 of the public key (the DER of its SubjectPublicKeyInfo), in hex.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key: SubjectPublicKeyInfo as PEM (RFC 7468).
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &spki(&self.pair))
    }

    /// Signs a text; the signature in base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.pair.sign(text.as_bytes()).as_ref())
    }
}

fn spki(pair: &Ed25519KeyPair) -> Vec<u8> {
    [&SPKI, pair.public_key().as_ref()].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn new_key() -> Result<String, KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Make)?;
    let document = pair.to_pkcs8v1().map_err(|_| KeyError::Make)?;
    Ok(pem("PRIVATE KEY", document.as_ref()))
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file in its place whole, unless there is one; whether it did.
fn place(path: &Path, text: &str) -> std::io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", uuid::Uuid::new_v4()));
    let draft = folder.join(name);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match std::fs::hard_link(&draft, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    })();
    std::fs::remove_file(&draft).or_else(|error| if written.is_err() { Ok(()) } else { Err(error) })?;
    std::fs::File::open(folder)?.sync_all()?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_signs_what_its_public_part_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("erasure-key.pem");
        let first = Signer::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = Signer::open(&path).unwrap();
        assert_eq!((first.id(), first.public_pem()), (second.id(), second.public_pem()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let signature = STANDARD.decode(first.sign("text")).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, second.pair.public_key().as_ref());
        public.verify(b"text", &signature).unwrap();
        public.verify(b"another", &signature).unwrap_err();
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_file_that_is_no_key_or_open_to_all_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "nonsense").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = Signer::open(&path).unwrap_err().to_string();
        assert!(error.contains("openssl genpkey"), "{error}");
        std::fs::write(&path, new_key().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Signer::open(&path).unwrap_err().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_key_that_openssl_made_is_taken() {
        // `openssl genpkey -algorithm ed25519` of OpenSSL 3; RFC 8410, section 10.3 has the same.
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let signer = Signer::parse(Path::new("key.pem"), text).unwrap();
        assert_eq!(
            signer.public_pem(),
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
             -----END PUBLIC KEY-----\n"
        );
    }
}
