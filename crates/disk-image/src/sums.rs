//! Digests out of files with digests, such as `SHA256SUMS`.
//!
//! Files of all usual tools are read: GNU coreutils (`digest  name`, `digest *name`, a backslash in front where the name is
//! escaped), BSD and `--tag` (`SHA256 (name) = digest`), OpenSSL (`SHA2-256(name)= digest`), sections of one algorithm each
//! (`# SHA512 HASH`), and bare digests. A file may hold several algorithms, several images, comments, Windows line ends,
//! and may be wrapped into a PGP-signed message; that signature is not checked.

use crate::digest::{Algorithm, Digest, DigestError};
use crate::error::Cause;
use crate::fetch::Patience;
use crate::progress::Meters;
use crate::reader::Reader;
use crate::source::Source;

/// Longest file of digests that is read, bytes: `SHA256SUMS` of a whole distribution mirror has a tenth of it.
pub const MAX_FILE: usize = 1 << 20;
/// Hexadecimal digits below which a word is no digest: those of CRC-32.
const SHORTEST: usize = 8;

/// Why a file of digests cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadSumsError {
    /// Its bytes cannot be had.
    #[error(transparent)]
    Fetch(#[from] Cause),
    /// It is too long to be one.
    #[error("it has more than {MAX_FILE} bytes: it is no file of digests")]
    TooLong,
}

/// Why a file of digests gives none for an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// There is no digest in it.
    #[error("there is no digest in it; it begins with {begin:?}")]
    NoDigests {
        /// Its first characters.
        begin: String,
    },
    /// There are digests, of other files.
    #[error("it holds no digest for {name}, but {entries} for other names, the first of them {other:?}")]
    OtherNames {
        /// Name of the image.
        name: String,
        /// How many digests there are.
        entries: usize,
        /// Another name.
        other: String,
    },
    /// There are digests of the image, but not with an algorithm that is wanted and trusted.
    #[error("for {name} it holds {found} only; {wanted} is needed")]
    Algorithm {
        /// Name of the image.
        name: String,
        /// What there is.
        found: String,
        /// What is wanted.
        wanted: String,
    },
    /// There are two digests of the image with one algorithm.
    #[error("it holds two {algorithm} digests for {name}, {one} and {other}; give the right one itself")]
    Ambiguous {
        /// Name of the image.
        name: String,
        /// The algorithm.
        algorithm: &'static str,
        /// One digest.
        one: String,
        /// The other.
        other: String,
    },
    /// What there is cannot be a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// Reads a file of digests, as far as [`MAX_FILE`].
pub async fn read(source: &dyn Source, patience: &Patience) -> Result<String, ReadSumsError> {
    let meters = Meters::new();
    let mut bytes = vec![0; MAX_FILE + 1];
    let mut reader = Reader::new(source, patience, &meters, MAX_FILE as u64);
    let len = reader.read(0, &mut bytes).await.map_err(Cause::from)?;
    if len > MAX_FILE {
        return Err(ReadSumsError::TooLong);
    }
    bytes.truncate(len);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last part of a URL's path, as it stands in the URL.
pub fn base_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The digest of the image at one of `urls`. `algorithm` is the wanted one; without it, the strongest that there is.
/// MD5 counts only if `md5` says so.
pub fn find(text: &str, urls: &[&str], algorithm: Option<&str>, md5: bool) -> Result<Digest, SumsError> {
    let entries = entries(text);
    let name = || urls.iter().map(|url| base_name(url)).collect::<Vec<_>>().join(" or ");
    let Some(first) = entries.first() else {
        return Err(SumsError::NoDigests { begin: text.trim_start().chars().take(60).collect() });
    };
    let mine = of_image(&entries, urls);
    if mine.is_empty() {
        let other = first.name.clone().unwrap_or_default();
        return Err(SumsError::OtherNames { name: name(), entries: entries.len(), other });
    }
    let wanted: Vec<Algorithm> = match algorithm {
        Some(algorithm) => vec![Algorithm::named(algorithm, md5)?],
        None => Algorithm::strongest_first(md5).collect(),
    };
    let of = |wanted: &Algorithm| mine.iter().filter(|entry| entry.algorithm() == Some(*wanted)).collect::<Vec<_>>();
    let Some(found) = wanted.iter().map(of).find(|found| !found.is_empty()) else {
        if let [only] = mine.as_slice()
            && only.tag.is_none()
            && only.algorithm().is_none()
        {
            // Its length tells what is wrong with it.
            return Ok(Digest::read(algorithm, &only.digest, md5)?);
        }
        let mut found: Vec<String> = mine.iter().map(Entry::describe).collect();
        found.dedup();
        let wanted = wanted.iter().map(|wanted| wanted.name()).collect::<Vec<_>>().join(", ");
        return Err(SumsError::Algorithm { name: name(), found: found.join(", "), wanted });
    };
    let one = &found[0].digest;
    if let Some(other) = found.iter().find(|other| !other.digest.eq_ignore_ascii_case(one)) {
        let algorithm = found[0].algorithm().map_or("", Algorithm::name);
        let (one, other) = (one.clone(), other.digest.clone());
        return Err(SumsError::Ambiguous { name: name(), algorithm, one, other });
    }
    Ok(Digest::read(found[0].algorithm().map(Algorithm::name), one, md5)?)
}

/// What the file says about the image: entries of its very name, else those whose path ends as an address does, else those
/// with its name in any folder. Digests without any name are those of the only image there is.
fn of_image(entries: &[Entry], urls: &[&str]) -> Vec<Entry> {
    if entries.iter().all(|entry| entry.name.is_none()) {
        return entries.to_vec();
    }
    let paths: Vec<String> = urls
        .iter()
        .flat_map(|url| {
            let path = url.split(['?', '#']).next().unwrap_or_default();
            [path.to_owned(), crate::source::percent_decode(path).map_or_else(String::new, lossy)]
        })
        .filter(|path| !path.is_empty())
        .collect();
    let base = |name: &str| name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let named = |same: &dyn Fn(&str) -> bool| -> Vec<Entry> {
        entries.iter().filter(|entry| entry.name.as_deref().is_some_and(same)).cloned().collect()
    };
    let very = named(&|name| paths.iter().any(|path| base(path) == name));
    if !very.is_empty() {
        return very;
    }
    let tail = named(&|name| paths.iter().any(|path| path.ends_with(&format!("/{}", name.trim_start_matches('/')))));
    if !tail.is_empty() {
        return tail;
    }
    named(&|name| paths.iter().any(|path| base(path) == base(name)))
}

fn lossy(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// One digest in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The algorithm as the line or its section names it.
    tag: Option<String>,
    digest: String,
    name: Option<String>,
}

impl Entry {
    /// The algorithm: as named, else the one that this length has by custom.
    fn algorithm(&self) -> Option<Algorithm> {
        match self.tag.as_deref() {
            Some("sha256" | "sha2256") => Some(Algorithm::Sha256),
            Some("sha384" | "sha2384") => Some(Algorithm::Sha384),
            Some("sha512" | "sha2512") => Some(Algorithm::Sha512),
            Some("md5") => Some(Algorithm::Md5),
            Some(_) => None,
            None => Algorithm::of_length(self.digest.len()),
        }
    }

    fn describe(&self) -> String {
        match (&self.tag, self.algorithm()) {
            (_, Some(algorithm)) => algorithm.name().to_owned(),
            (Some(tag), None) => tag.clone(),
            (None, None) => format!("a digest of {} digits", self.digest.len()),
        }
    }
}

fn entries(text: &str) -> Vec<Entry> {
    let mut section = None;
    let lines: Vec<&str> = content(text).collect();
    let mut found = Vec::new();
    for line in lines {
        if let Some(comment) = line.strip_prefix('#') {
            // `# SHA512 HASH` begins a section of lines of that algorithm, as in Flatcar's and Gentoo's files.
            if let Some(name) = comment.trim().strip_suffix(" HASH").map(normal) {
                section = Some(name);
            }
            continue;
        }
        if let Some(entry) = tagged(line).or_else(|| plain(line, section.as_ref())) {
            found.push(entry);
        }
    }
    found
}

/// The lines of the file without those that belong to a PGP-signed message around it (RFC 9580, section 7).
fn content(text: &str) -> impl Iterator<Item = &str> {
    let mut armor = None;
    text.trim_start_matches('\u{feff}').lines().map(str::trim_end).filter_map(move |line| {
        match (line, armor) {
            ("-----BEGIN PGP SIGNED MESSAGE-----", _) => armor = Some("header"),
            ("-----BEGIN PGP SIGNATURE-----", _) => armor = Some("signature"),
            ("-----END PGP SIGNATURE-----", _) => armor = None,
            ("", Some("header")) => armor = Some("text"),
            (_, Some("header" | "signature")) | ("", _) => {}
            // Lines that begin with a dash are escaped by one.
            (line, Some("text")) => return Some(line.strip_prefix("- ").unwrap_or(line)),
            (line, _) => return Some(line),
        }
        None
    })
}

/// `SHA256 (name) = digest`, `SHA2-256(name)= digest`.
fn tagged(line: &str) -> Option<Entry> {
    let (escaped, line) = escape(line);
    let (tag, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim_start().strip_prefix('=')?.trim();
    let tag = tag.trim();
    let is_tag = !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_'));
    (is_tag && is_digest(digest)).then(|| Entry {
        tag: Some(normal(tag)),
        digest: digest.to_owned(),
        name: Some(file_name(name, escaped)),
    })
}

/// `digest  name`, `digest *name`, `digest` alone; `algorithm:digest` where there is no other name for it.
fn plain(line: &str, section: Option<&String>) -> Option<Entry> {
    let (escaped, line) = escape(line.trim_start());
    let (word, name) =
        line.split_once(char::is_whitespace).map_or((line, ""), |(word, name)| (word, name.trim_start()));
    let (tag, digest) = match word.split_once(':') {
        Some((tag, digest)) => (Some(normal(tag)), digest),
        None => (section.cloned(), word),
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    // `-` is what a tool says that has read its standard input.
    let name = (!name.is_empty() && name != "-").then(|| file_name(name, escaped));
    is_digest(digest).then(|| Entry { tag, digest: digest.to_owned(), name })
}

fn is_digest(word: &str) -> bool {
    word.len() >= SHORTEST && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// GNU coreutils put a backslash in front of a line whose name is escaped.
fn escape(line: &str) -> (bool, &str) {
    line.strip_prefix('\\').map_or((false, line), |line| (true, line))
}

fn file_name(name: &str, escaped: bool) -> String {
    if !escaped {
        return name.trim_start_matches("./").to_owned();
    }
    let (mut plain, mut chars) = (String::new(), name.chars());
    while let Some(c) = chars.next() {
        plain.push(match (c, chars.clone().next()) {
            ('\\', Some(next @ ('n' | 'r' | '\\'))) => {
                chars.next();
                match next {
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }
            }
            _ => c,
        });
    }
    plain.trim_start_matches("./").to_owned()
}

/// A name of an algorithm without what tools disagree about: `SHA2-256`, `sha_256`.
fn normal(tag: &str) -> String {
    tag.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://images.example/bookworm/debian.raw?sig=x/y";

    /// A digest of `len` bytes that all are `byte`.
    fn hex(byte: u8, len: usize) -> String {
        hex::encode(vec![byte; len])
    }

    fn found(text: &str) -> Result<String, SumsError> {
        find(text, &[URL], None, false).map(|digest| digest.to_string())
    }

    #[test]
    fn the_files_of_all_usual_tools_are_read() {
        let (a, b) = (hex(0xaa, 32), hex(0xbb, 32));
        let want = format!("sha256:{a}");
        let files = [
            format!("{a}\n"),
            a.clone(),
            a.to_uppercase(),
            format!("\u{feff}{a}\r\n"),
            format!("sha256:{a}\n"),
            format!("{a}  -\n"),
            format!("# sums of today\n{b}  other.raw\n{a}  debian.raw\n"),
            format!("{b} *other.raw\r\n{a} *debian.raw\r\n"),
            format!("{a}\tdebian.raw\n{b}\tdebian.raw.sig\n"),
            format!("{b}  ./other.raw\n{a}  ./debian.raw\n"),
            format!("{b}  /srv/images/other.raw\n{a}  /srv/images/debian.raw\n"),
            format!("{a} *C:\\images\\debian.raw\r\n{b} *x\r\n"),
            format!("SHA256 (other.raw) = {b}\nSHA256 (debian.raw) = {a}\n"),
            format!("SHA2-256(debian.raw)= {a}\nSHA2-256(other (copy).raw)= {b}\n"),
            format!("SHA256(./debian.raw)= {a}\n"),
        ];
        for file in files {
            assert_eq!(found(&file).as_ref(), Ok(&want), "{file}");
        }
    }

    #[test]
    fn of_several_algorithms_the_wanted_one_is_taken_or_the_strongest() {
        let (sha256, sha512, md5, blake) = (hex(1, 32), hex(2, 64), hex(3, 16), hex(4, 64));
        let bsd = format!(
            "MD5 (debian.raw) = {md5}\nSHA256 (debian.raw) = {sha256}\nSHA512 (debian.raw) = {sha512}\nBLAKE2b (debian.raw) = {blake}\n"
        );
        let gnu = format!("{md5}  debian.raw\n{sha256}  debian.raw\n{sha512}  debian.raw\n");
        let sections = format!(
            "# MD5 HASH\n{md5}  debian.raw\n# BLAKE2B HASH\n{blake}  debian.raw\n# SHA512 HASH\n{sha512}  debian.raw\n# SHA256 HASH\n{sha256}  debian.raw\n"
        );
        for file in [&bsd, &gnu, &sections] {
            let of = |algorithm, md5| find(file, &[URL], algorithm, md5).map(|digest| digest.to_string());
            assert_eq!(of(None, false), Ok(format!("sha512:{sha512}")));
            assert_eq!(of(Some("SHA256"), false), Ok(format!("sha256:{sha256}")));
            assert_eq!(of(Some("md5"), true), Ok(format!("md5:{md5}")));
            assert!(matches!(of(Some("md5"), false), Err(SumsError::Digest(_))));
            assert!(matches!(of(Some("sha384"), false), Err(SumsError::Algorithm { .. })));
        }
    }

    #[test]
    fn a_signed_message_is_unwrapped_and_its_signature_is_no_digest() {
        let (a, b) = (hex(0xaa, 32), hex(0xbb, 32));
        let signed = |text: &str| {
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\n{text}-----BEGIN PGP SIGNATURE-----\r\n\
                 Version: GnuPG v2\r\n\r\n{b}\r\n=abcd\r\n-----END PGP SIGNATURE-----\r\n"
            )
        };
        let files = [
            format!("# debian.raw: 5 bytes\r\nSHA256 (debian.raw) = {a}\r\n"),
            format!("{a}  debian.raw\r\n- {b}  -x.raw\r\n"),
            format!("{a}\r\n"),
        ];
        for file in files {
            assert_eq!(found(&signed(&file)), Ok(format!("sha256:{a}")), "{file}");
        }
    }

    #[test]
    fn names_are_those_of_any_mirror_decoded_and_in_the_nearest_folder() {
        let (a, b) = (hex(0xaa, 32), hex(0xbb, 32));
        let of = |file: &str, urls: &[&str]| find(file, urls, None, false).map(|digest| digest.hex());
        let two = format!("{a}  second.raw\n{b}  third.raw\n");
        assert_eq!(of(&two, &["http://a/first.raw", "http://b/second.raw"]), Ok(a.clone()));
        assert_eq!(of(&format!("{a}  my image.raw\n{b}  x\n"), &["http://a/my%20image.raw"]), Ok(a.clone()));
        let folders = format!("{a}  bookworm/debian.raw\n{b}  trixie/debian.raw\n");
        assert_eq!(of(&folders, &[URL]), Ok(a.clone()));
        let elsewhere = of(&folders, &["http://a/debian.raw"]);
        assert!(matches!(elsewhere, Err(SumsError::Ambiguous { algorithm: "sha256", .. })), "{elsewhere:?}");
        let escaped = format!("\\{a}  a\\\\b.raw\n{b}  x\n");
        assert_eq!(of(&escaped, &["http://a/a\\b.raw"]), Ok(a));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        insta::assert_snapshot!(found("").unwrap_err(), @r#"there is no digest in it; it begins with """#);
        insta::assert_snapshot!(found("<html><body>404 not found</body></html>").unwrap_err(), @r#"there is no digest in it; it begins with "<html><body>404 not found</body></html>""#);
        let others = format!("{}  other.raw\n{}  x\n", hex(1, 32), hex(2, 32));
        insta::assert_snapshot!(found(&others).unwrap_err(), @r#"it holds no digest for debian.raw, but 2 for other names, the first of them "other.raw""#);
        let weak = format!("MD5 (debian.raw) = {}\nSHA1 (debian.raw) = {}\n", hex(1, 16), hex(2, 20));
        insta::assert_snapshot!(found(&weak).unwrap_err(), @"for debian.raw it holds md5, sha1 only; sha512, sha384, sha256 is needed");
        insta::assert_snapshot!(found("abcdef0123\n").unwrap_err(), @r#"checksum "abcdef0123" has the length of no supported hash; give 64 (sha256), 96 (sha384) or 128 (sha512) hexadecimal digits"#);
        insta::assert_snapshot!(found(&format!("{}  debian.raw\n", hex(1, 20))).unwrap_err(), @r#"checksum "0101010101010101010101010101010101010101" has the length of no supported hash; give 64 (sha256), 96 (sha384) or 128 (sha512) hexadecimal digits"#);
    }

    #[tokio::test]
    async fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let file = |len| crate::tests::image::Memory(vec![b'a'; len].into());
        let patience = Patience::default();
        assert!(matches!(read(&file(MAX_FILE + 1), &patience).await, Err(ReadSumsError::TooLong)));
        assert_eq!(read(&file(MAX_FILE), &patience).await.unwrap().len(), MAX_FILE);
    }
}
