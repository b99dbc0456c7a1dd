//! The config drive: a small file system that the installed system reads its settings from.
//!
//! It travels as base64 of gzip of an ISO 9660 or FAT image, or as a URL of that or of the bare image. It is kept as
//! it came and unpacked while it is written, so that 64 MiB of zeros never lie in memory.
//!
//! ISO 9660 has blocks of 2048 bytes, which a disk of 4096-byte sectors cannot give: no kernel mounts it there. For such a
//! disk its files are put into a FAT file system ([`ConfigDrive::fitted`]), where the installed system finds them by the
//! same label.

use crate::source::{Source, SourceError};
use base64::Engine as _;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt;
use media::fat::{FatError, Shape, Volume};
use std::io::{self, Read, Write as _};
use std::time::Duration;

/// Largest unpacked config drive, bytes: the size of its partition.
pub const MAX_SIZE: u64 = 64 << 20;
/// Volume label by which the installed system finds it, in any case.
pub const LABEL: &str = "config-2";
/// Bytes from which a file system is recognised: behind the ISO 9660 descriptor at 32 KiB.
pub(crate) const PROBE: usize = 40 << 10;
/// What a download may have: the unpacked limit as base64, with its line breaks.
const MAX_DOWNLOAD: u64 = MAX_SIZE / 3 * 4 + (4 << 20);

/// Largest unpacked ISO 9660 config drive that is made a FAT one, bytes: it lies in memory meanwhile. Usual ones have less
/// than a tenth of it.
const MAX_REBUILT: u64 = 16 << 20;
/// Volume id of a file system that is made here ("FERR"); nothing finds it by that.
const VOLUME_ID: u32 = 0x4645_5252;

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
    /// Bytes of its sectors or blocks; those of a disk may not be larger.
    sector: u32,
}

/// Why the files of an ISO 9660 config drive cannot be put into a FAT file system.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// It is too large for that.
    #[error("it has {0} bytes, and at most {MAX_REBUILT} are held in memory for that")]
    TooLarge(u64),
    /// It cannot be read.
    #[error(transparent)]
    Iso(#[from] media::iso9660::ReadError),
    /// FAT cannot hold its files.
    #[error(transparent)]
    Fat(#[from] media::fat::FatError),
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
    /// The sectors of its file system are smaller than those of the disk.
    #[error(
        "the config drive is a FAT file system of {drive}-byte sectors, which cannot be read from a disk of {disk}-byte ones; \
         make it with larger sectors (mkfs.vfat -S {disk}), or give an ISO 9660 one"
    )]
    FatSectors {
        /// Its sectors.
        drive: u32,
        /// Those of the disk.
        disk: u32,
    },
    /// ISO 9660 cannot be read from large sectors, and it could not be made a FAT file system.
    #[error(
        "an ISO 9660 config drive cannot be read from {disk}-byte sectors, and this one cannot be made a FAT file system; give \
         one of {disk}-byte sectors (mkfs.vfat -S {disk})"
    )]
    Rebuild {
        /// Sectors of the disk.
        disk: u32,
        /// Why not.
        #[source]
        source: RebuildError,
    },
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
        let gzip = packed.starts_with(b"\x1f\x8b");
        let mut drive = Self { gzip, packed, len: 0, kind: Kind::Fat, sector: 0 };
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
        drive.sector = match drive.kind {
            Kind::Iso9660 => media::iso9660::BLOCK,
            Kind::Fat => fat_sector(&head).ok_or(ConfigDriveError::Unknown)?,
        };
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

    /// One with the same files for a disk of `sector`-byte sectors: itself, unless that could not be read there.
    ///
    /// # Errors
    /// [`ConfigDriveError::FatSectors`] and [`ConfigDriveError::Rebuild`].
    pub fn fitted(self, sector: u32) -> Result<Self, ConfigDriveError> {
        match self.kind {
            _ if self.sector >= sector => Ok(self),
            Kind::Fat => Err(ConfigDriveError::FatSectors { drive: self.sector, disk: sector }),
            Kind::Iso9660 => {
                let fat = self.as_fat(sector)?;
                tracing::info!(
                    sector,
                    bytes = fat.len,
                    "the ISO 9660 config drive was made a FAT one for large sectors"
                );
                Ok(fat)
            }
        }
    }

    fn as_fat(&self, sector: u32) -> Result<Self, ConfigDriveError> {
        let failed = |source| ConfigDriveError::Rebuild { disk: sector, source };
        if self.len > MAX_REBUILT {
            return Err(failed(RebuildError::TooLarge(self.len)));
        }
        let mut image = Vec::with_capacity(self.len as usize);
        self.reader().read_to_end(&mut image).map_err(ConfigDriveError::Gzip)?;
        let files = media::iso9660::files(&image).map_err(|error| failed(error.into()))?;
        let (volume, len) = smallest_fat(&files, sector).map_err(|error| failed(error.into()))?;
        let packed = pack(&files, &volume, len).map_err(ConfigDriveError::Gzip)?;
        Ok(Self { packed: packed.into(), gzip: true, len, kind: Kind::Fat, sector })
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

/// The smallest FAT file system of some sizes that takes these files, and its size.
fn smallest_fat(files: &[(String, &[u8])], sector: u32) -> Result<(Volume, u64), FatError> {
    let sizes: Vec<(&str, u64)> = files.iter().map(|(path, content)| (path.as_str(), content.len() as u64)).collect();
    let mut size = 2 << 20;
    loop {
        match Volume::new(&sizes, Shape { label: LABEL, id: VOLUME_ID, size, sector }) {
            Ok(volume) => return Ok((volume, size)),
            Err(FatError::Full { .. } | FatError::Size { .. }) if size < MAX_SIZE => size *= 2,
            Err(error) => return Err(error),
        }
    }
}

/// The file system, packed with gzip: most of it is zero.
fn pack(files: &[(String, &[u8])], volume: &Volume, len: u64) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(volume.head())?;
    let mut at = volume.head().len() as u64;
    // Files lie one behind the other, in their order.
    for ((_, content), &place) in files.iter().zip(volume.places()).filter(|((_, content), _)| !content.is_empty()) {
        let gap = place.checked_sub(at).ok_or(io::ErrorKind::InvalidData)?;
        io::copy(&mut io::repeat(0).take(gap), &mut out)?;
        out.write_all(content)?;
        at = place + content.len() as u64;
    }
    io::copy(&mut io::repeat(0).take(len.saturating_sub(at)), &mut out)?;
    out.finish()
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
    let named = has(510, &[0x55, 0xaa]) && (has(54, b"FAT") || has(82, b"FAT32"));
    (named && fat_sector(head).is_some()).then_some(Kind::Fat)
}

/// Bytes of a sector of a FAT file system, `BPB_BytsPerSec` (FAT specification 1.03, section 3.1).
fn fat_sector(head: &[u8]) -> Option<u32> {
    let sector = u32::from(u16::from_le_bytes(*head.get(11..)?.first_chunk()?));
    [512, 1024, 2048, 4096].contains(&sector).then_some(sector)
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
        assert!(matches!(ConfigDrive::from_bytes(fat.clone().into()), Err(ConfigDriveError::Unknown)), "no sectors");
        fat[11..13].copy_from_slice(&512_u16.to_le_bytes());
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
