//! The config drive: a small file system that the installed system reads its settings from.
//!
//! It travels as base64 of gzip of an ISO 9660 or FAT image, or as a URL of that or of the bare image. It is kept as
//! it came and unpacked while it is written, so that 64 MiB of zeros never lie in memory.

use crate::source::{Source, SourceError};
use base64::Engine as _;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use std::io::{self, Read};
use std::time::Duration;

/// Largest unpacked config drive, bytes: the size of its partition.
pub const MAX_SIZE: u64 = 64 << 20;
/// Volume label by which the installed system finds it, in any case.
pub const LABEL: &str = "config-2";
/// Bytes from which a file system is recognised: behind the ISO 9660 descriptor at 32 KiB.
pub(crate) const PROBE: usize = 40 << 10;
/// What a download may have: the unpacked limit as base64, with its line breaks.
const MAX_DOWNLOAD: u64 = MAX_SIZE / 3 * 4 + (4 << 20);

/// Time for one attempt to download one.
const DOWNLOAD_TIME: Duration = Duration::from_secs(120);

/// Which file system a config drive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ISO 9660.
    Iso9660,
    /// FAT of any width.
    Fat,
}

/// A config drive that was checked: unpacked it is a known file system of bounded size.
#[derive(Clone)]
pub struct ConfigDrive {
    packed: Bytes,
    gzip: bool,
    len: u64,
    kind: Kind,
}

/// Why a config drive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// Not base64.
    #[error("the config drive is not base64")]
    Base64(#[source] base64::DecodeError),
    /// The gzip data is broken.
    #[error("unpack the config drive")]
    Gzip(#[source] io::Error),
    /// Too large.
    #[error("the config drive has more than {MAX_SIZE} bytes, the size of its partition")]
    TooLarge,
    /// Neither ISO 9660 nor FAT.
    #[error("the config drive is neither an ISO 9660 nor a FAT file system")]
    Unknown,
    /// It could not be fetched.
    #[error("fetch the config drive")]
    Source(#[source] SourceError),
    /// The transfer broke.
    #[error("fetch the config drive from {url}")]
    Broken {
        /// Where from.
        url: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl ConfigDrive {
    /// From the text of the protocol: base64 of a gzip-packed or bare image. Line breaks are ignored.
    pub fn from_wire(text: &str) -> Result<Self, ConfigDriveError> {
        let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        if compact.len() as u64 > MAX_DOWNLOAD {
            return Err(ConfigDriveError::TooLarge);
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(compact).map_err(ConfigDriveError::Base64)?;
        Self::from_bytes(bytes.into())
    }

    /// From an image, bare or packed with gzip.
    pub fn from_bytes(packed: Bytes) -> Result<Self, ConfigDriveError> {
        let mut drive = Self { gzip: packed.starts_with(b"\x1f\x8b"), packed, len: 0, kind: Kind::Fat };
        let mut head = Vec::new();
        let mut reader = drive.reader().take(MAX_SIZE + 1);
        reader.by_ref().take(PROBE as u64).read_to_end(&mut head).map_err(ConfigDriveError::Gzip)?;
        let rest = io::copy(&mut reader, &mut io::sink()).map_err(ConfigDriveError::Gzip)?;
        drop(reader);
        drive.len = head.len() as u64 + rest;
        if drive.len > MAX_SIZE {
            return Err(ConfigDriveError::TooLarge);
        }
        drive.kind = kind(&head).ok_or(ConfigDriveError::Unknown)?;
        if !is_config_drive(&head) {
            tracing::warn!(label = ?label(&head), "the config drive has another label than config-2");
        }
        Ok(drive)
    }

    /// From what a URL gives: base64 of a packed image, a packed image or a bare one. A break is retried up to
    /// `retries` times, from the start: config drives are small.
    pub async fn fetch(source: &dyn Source, retries: u32, pause: Duration) -> Result<Self, ConfigDriveError> {
        let mut attempt = 0;
        let bytes = loop {
            let error = match tokio::time::timeout(DOWNLOAD_TIME, download(source)).await {
                Ok(Ok(bytes)) => break bytes,
                Ok(Err(error)) => error,
                Err(_) => {
                    ConfigDriveError::Broken { url: source.name().to_owned(), source: io::ErrorKind::TimedOut.into() }
                }
            };
            let again = match &error {
                ConfigDriveError::Source(error) => error.remedy() == crate::source::Remedy::Again,
                ConfigDriveError::Broken { .. } => true,
                _ => false,
            };
            if !again || attempt >= retries {
                return Err(error);
            }
            attempt += 1;
            tracing::warn!(url = source.name(), attempt, reason = %error, "config drive transfer interrupted");
            tokio::time::sleep(pause).await;
        };
        let unpacking = tokio::task::spawn_blocking(move || match std::str::from_utf8(&bytes) {
            // ISO 9660 and FAT begin with bytes that may be text, so being base64 throughout is what counts.
            Ok(text) if kind(&bytes).is_none() => Self::from_wire(text),
            _ => Self::from_bytes(bytes),
        });
        unpacking.await.map_err(|error| ConfigDriveError::Gzip(io::Error::other(error)))?
    }

    /// Bytes unpacked.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Which file system it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The unpacked bytes, from the start.
    pub fn reader(&self) -> Box<dyn Read + Send + '_> {
        if self.gzip { Box::new(MultiGzDecoder::new(&self.packed[..])) } else { Box::new(&self.packed[..]) }
    }
}

impl std::fmt::Debug for ConfigDrive {
    /// Without the content: it holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfigDrive({:?}, {} bytes)", self.kind, self.len)
    }
}

async fn download(source: &dyn Source) -> Result<Bytes, ConfigDriveError> {
    let mut opened = source.open(0, None).await.map_err(ConfigDriveError::Source)?;
    if opened.identity.length.is_some_and(|length| length > MAX_DOWNLOAD) {
        return Err(ConfigDriveError::TooLarge);
    }
    let mut bytes = Vec::new();
    let broken = |source_error| ConfigDriveError::Broken { url: source.name().to_owned(), source: source_error };
    while let Some(chunk) = opened.stream.next().await {
        let chunk = chunk.map_err(broken)?;
        if (bytes.len() + chunk.len()) as u64 > MAX_DOWNLOAD {
            return Err(ConfigDriveError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    if opened.identity.length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes.into())
}

/// Which file system starts with these bytes (ECMA-119, section 8; FAT specification 1.03).
fn kind(head: &[u8]) -> Option<Kind> {
    let has = |at: usize, what: &[u8]| head.get(at..at + what.len()) == Some(what);
    if has(32769, b"CD001") {
        return Some(Kind::Iso9660);
    }
    (has(510, &[0x55, 0xaa]) && (has(54, b"FAT") || has(82, b"FAT32"))).then_some(Kind::Fat)
}

/// The volume label of the file system that starts with these bytes.
fn label(head: &[u8]) -> Option<String> {
    let field = |at: usize, len: usize| {
        head.get(at..at + len).map(|bytes| String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned())
    };
    match kind(head)? {
        Kind::Iso9660 => field(32808, 32),
        Kind::Fat if head.get(82..87) == Some(b"FAT32") => field(71, 11),
        Kind::Fat => field(43, 11),
    }
}

/// Whether a config drive starts with these bytes, by its label.
pub(crate) fn is_config_drive(head: &[u8]) -> bool {
    label(head).is_some_and(|label| label.eq_ignore_ascii_case(LABEL))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    use std::time::Instant;

    /// The few bytes by which an ISO 9660 file system is known.
    pub(crate) fn iso(len: usize, label: &str) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[32768] = 1;
        bytes[32769..32774].copy_from_slice(b"CD001");
        bytes[32808..32840].fill(b' ');
        bytes[32808..32808 + label.len()].copy_from_slice(label.as_bytes());
        for (i, byte) in bytes.iter_mut().enumerate().skip(36000) {
            *byte = (i % 251) as u8;
        }
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn base64(bytes: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    #[test]
    fn both_forms_of_the_protocol_give_the_same_bytes() {
        let image = iso(100_000, "config-2");
        let mut wrapped = base64(&gzip(&image));
        wrapped.insert(76, '\n');
        for text in [wrapped, base64(&image)] {
            let drive = ConfigDrive::from_wire(&text).unwrap();
            let mut bytes = Vec::new();
            drive.reader().read_to_end(&mut bytes).unwrap();
            assert_eq!((drive.size(), drive.kind(), bytes == image), (100_000, Kind::Iso9660, true));
        }
    }

    #[test]
    fn fat_is_recognised_with_its_label() {
        let mut fat = vec![0; 4096];
        fat[510..512].copy_from_slice(&[0x55, 0xaa]);
        fat[54..59].copy_from_slice(b"FAT16");
        fat[43..54].copy_from_slice(b"CONFIG-2   ");
        assert_eq!(ConfigDrive::from_bytes(fat.clone().into()).unwrap().kind(), Kind::Fat);
        assert!(is_config_drive(&fat));
    }

    /// 10 GiB of zeros in a few KiB: gzip members may follow each other, and each byte of deflate makes a thousand.
    #[test]
    fn cve_2026_115638_a_bomb_fails_soon_and_small() {
        let member = gzip(&vec![0; 16 << 20]);
        let bomb = base64(&member.repeat(640));
        let start = Instant::now();
        // All 10 GiB take twenty times the limit, the 64 MiB that are looked at a few seconds.
        assert!(matches!(ConfigDrive::from_wire(&bomb), Err(ConfigDriveError::TooLarge)));
        assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    }

    #[test]
    fn what_is_no_config_drive_is_refused() {
        assert!(matches!(ConfigDrive::from_wire("not base64!"), Err(ConfigDriveError::Base64(_))));
        assert!(matches!(ConfigDrive::from_wire(&base64(b"text")), Err(ConfigDriveError::Unknown)));
        assert!(matches!(ConfigDrive::from_wire(""), Err(ConfigDriveError::Unknown)));
        let mut broken = gzip(&iso(50_000, "config-2"));
        broken.truncate(broken.len() / 2);
        assert!(matches!(ConfigDrive::from_bytes(broken.into()), Err(ConfigDriveError::Gzip(_))));
        let large = gzip(&vec![0; MAX_SIZE as usize + 1]);
        assert!(matches!(ConfigDrive::from_bytes(large.into()), Err(ConfigDriveError::TooLarge)));
    }

    #[tokio::test]
    async fn a_url_may_give_text_packed_or_bare() {
        let dir = tempfile::tempdir().unwrap();
        let image = iso(60_000, "config-2");
        let packed = gzip(&image);
        for (name, content) in [("text", base64(&packed).into_bytes()), ("packed", packed), ("bare", image.clone())] {
            std::fs::write(dir.path().join(name), content).unwrap();
            let roots = [dir.path().to_owned()];
            let source = crate::source::FileSource::new(&dir.path().join(name), &roots).unwrap();
            let drive = ConfigDrive::fetch(&source, 0, Duration::ZERO).await.unwrap();
            assert_eq!(drive.size(), 60_000, "{name}");
        }
    }
}
