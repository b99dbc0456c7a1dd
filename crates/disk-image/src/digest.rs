//! Digests of the bytes as they were transported.
//!
//! Ironic's checksum covers the file that the server serves: of a `.raw.zst` the compressed bytes. A digest of the
//! unpacked image is not accepted in its place.

use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A hash function that may vouch for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// MD5: notices accidents, not attackers. Only where an operator allowed it.
    Md5,
}

impl Algorithm {
    /// Those that an attacker cannot forge, with their names and lengths in bytes.
    const TRUSTED: [(Self, &'static str, usize); 3] =
        [(Self::Sha256, "sha256", 32), (Self::Sha384, "sha384", 48), (Self::Sha512, "sha512", 64)];
    /// The other one.
    const MD5: (Self, &'static str, usize) = (Self::Md5, "md5", 16);

    fn all(md5: bool) -> impl Iterator<Item = (Self, &'static str, usize)> {
        Self::TRUSTED.into_iter().chain(md5.then_some(Self::MD5))
    }

    /// The algorithm of this name, in any case. MD5 is one only if `md5` says so.
    pub(crate) fn named(name: &str, md5: bool) -> Result<Self, DigestError> {
        let known = Self::all(md5).find(|(_, known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(algorithm, _, _)| algorithm).ok_or_else(|| DigestError::Algorithm(cut(name)))
    }

    /// The algorithm whose digests have so many hexadecimal digits.
    pub(crate) fn of_length(digits: usize) -> Option<Self> {
        Self::all(true).find(|(_, _, bytes)| bytes * 2 == digits).map(|(algorithm, _, _)| algorithm)
    }

    /// Those that may vouch for an image, the best first.
    pub(crate) fn strongest_first(md5: bool) -> impl Iterator<Item = Self> {
        [Self::Sha512, Self::Sha384, Self::Sha256].into_iter().chain(md5.then_some(Self::Md5))
    }

    /// The name as in `os_hash_algo`, such as `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Md5 => "md5",
        }
    }
}

/// A digest and the algorithm that made it. Written `sha256:HEX`.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Box<[u8]>,
}

/// Why a text is not a digest that can be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is not known or not trusted.
    #[error("hash algorithm {0:?} is not supported; use sha256, sha384 or sha512")]
    Algorithm(String),
    /// The value is not hexadecimal of the right length.
    #[error("{algorithm} digest {value:?} is not {digits} hexadecimal digits{}", other(.value))]
    Value {
        /// Name of the algorithm.
        algorithm: &'static str,
        /// As given, cut.
        value: String,
        /// How many digits it should have.
        digits: usize,
    },
    /// Without a named algorithm, the length decides, and this length means none.
    #[error(
        "checksum {0:?} has the length of no supported hash; give 64 (sha256), 96 (sha384) or 128 (sha512) hexadecimal digits"
    )]
    Length(String),
}

impl Digest {
    /// From the name of an algorithm and a hexadecimal value, as in `os_hash_algo` and `os_hash_value`.
    /// MD5 is refused.
    pub fn new(algorithm: &str, value: &str) -> Result<Self, DigestError> {
        Self::read(Some(algorithm), value, false)
    }

    /// From a bare hexadecimal value; its length names the algorithm, as in `checksum`. MD5 is refused.
    pub fn guess(value: &str) -> Result<Self, DigestError> {
        Self::read(None, value, false)
    }

    /// From a hexadecimal value and, unless its length names it, an algorithm. MD5 is one only if `md5` says so.
    pub fn read(algorithm: Option<&str>, value: &str, md5: bool) -> Result<Self, DigestError> {
        let Some(algorithm) = algorithm else {
            let len = value.trim().len();
            let known = Algorithm::all(md5).find(|(_, _, bytes)| bytes * 2 == len);
            let (_, name, _) = known.ok_or_else(|| DigestError::Length(cut(value)))?;
            return Self::read(Some(name), value, md5);
        };
        let known = Algorithm::all(md5).find(|(_, name, _)| name.eq_ignore_ascii_case(algorithm));
        let (algorithm, name, len) = known.ok_or_else(|| DigestError::Algorithm(cut(algorithm)))?;
        match hex::decode(value.trim()) {
            Ok(bytes) if bytes.len() == len => Ok(Self { algorithm, bytes: bytes.into() }),
            _ => Err(DigestError::Value { algorithm: name, value: cut(value), digits: len * 2 }),
        }
    }

    /// Whether this is the digest of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm());
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// Which algorithm made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        hex::encode(&self.bytes)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// `sha256:HEX`, or a bare `HEX` whose length names the algorithm.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some((algorithm, value)) => Self::new(algorithm, value),
            None => Self::guess(text),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which digest a value could be.
fn other(value: &str) -> String {
    let value = value.trim();
    let known = Algorithm::of_length(value.len()).filter(|_| value.bytes().all(|byte| byte.is_ascii_hexdigit()));
    known.map_or_else(String::new, |known| format!("; it is as long as one of {}", known.name()))
}

fn cut(text: &str) -> String {
    text.chars().take(140).collect()
}

/// A hash under way.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Md5(md5::Md5),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha384(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
            Self::Md5(state) => state.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(state) => Digest { algorithm: Algorithm::Sha256, bytes: state.finalize().to_vec().into() },
            Self::Sha384(state) => Digest { algorithm: Algorithm::Sha384, bytes: state.finalize().to_vec().into() },
            Self::Sha512(state) => Digest { algorithm: Algorithm::Sha512, bytes: state.finalize().to_vec().into() },
            Self::Md5(state) => Digest { algorithm: Algorithm::Md5, bytes: state.finalize().to_vec().into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_length_of_a_bare_checksum_names_its_algorithm() {
        for (digits, want) in [(64, Algorithm::Sha256), (96, Algorithm::Sha384), (128, Algorithm::Sha512)] {
            assert_eq!(Digest::guess(&"a".repeat(digits)).unwrap().algorithm(), want);
        }
        assert!(matches!(Digest::guess(&"a".repeat(32)), Err(DigestError::Length(_))));
    }

    #[test]
    fn digests_are_read_in_any_case_and_shown_in_lower_case() {
        let digest: Digest = format!("SHA256:{}", EMPTY.to_uppercase()).parse().unwrap();
        assert_eq!(digest.to_string(), format!("sha256:{EMPTY}"));
        assert_eq!(Hasher::new(Algorithm::Sha256).finish(), digest);
    }

    #[test]
    fn md5_is_a_digest_only_where_it_is_allowed() {
        let empty = "d41d8cd98f00b204e9800998ecf8427e";
        for name in [Some("md5"), None] {
            assert!(Digest::read(name, empty, false).is_err());
            assert_eq!(Digest::read(name, empty, true).unwrap(), Hasher::new(Algorithm::Md5).finish());
        }
        assert!("md5:d41d8cd98f00b204e9800998ecf8427e".parse::<Digest>().is_err());
    }

    #[test]
    fn a_wrong_digest_is_explained() {
        insta::assert_snapshot!(Digest::new("md5", "00").unwrap_err(), @r#"hash algorithm "md5" is not supported; use sha256, sha384 or sha512"#);
        let long = Digest::new("sha256", &"a".repeat(128)).unwrap_err().to_string();
        assert!(long.ends_with("is not 64 hexadecimal digits; it is as long as one of sha512"), "{long}");
        insta::assert_snapshot!(Digest::new("sha256", "xyz").unwrap_err(), @r#"sha256 digest "xyz" is not 64 hexadecimal digits"#);
    }
}
