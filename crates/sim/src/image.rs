//! The system that is put on the machines: a disk image with one partition, and the server that it is fetched from.

use crate::dice::Dice;
use anyhow::{Context as _, Result, ensure};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use media::gpt::{Entry, Gpt, Guid};
use sha2::{Digest as _, Sha256};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Sectors of the image: 1 MiB, so that a thousand disks fit into memory.
const SECTORS: usize = 2048;
/// The partition: what is before and behind it is the table's.
const FIRST: usize = 64;
const LAST: usize = SECTORS - 64;
/// Enough for the first copy of a table.
const HEAD: usize = 34 * SECTOR;

/// A disk image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Bytes,
    /// Of `bytes`, in hexadecimal digits.
    pub(crate) sha256: String,
    partition: Guid,
}

impl Image {
    /// The image of a seed.
    pub(crate) fn new(dice: Dice) -> Result<Self> {
        let mut bytes = vec![0; SECTORS * SECTOR];
        for (place, byte) in bytes[FIRST * SECTOR..(LAST + 1) * SECTOR].iter_mut().enumerate() {
            *byte = (dice.roll("image", 0, place as u64) * 256.0) as u8;
        }
        let guid = |who| {
            let mut guid = [0; 16];
            for (place, byte) in guid.iter_mut().enumerate() {
                *byte = (dice.roll("guid", who, place as u64) * 256.0) as u8;
            }
            Guid::from_uuid_bytes(guid)
        };
        let partition = guid(2);
        let mut table = Gpt::new(guid(1), SECTOR as u32, SECTORS as u64)?;
        table.add(Entry::new(Guid::ESP, partition, FIRST as u64..=LAST as u64, "system"))?;
        table.write_primary(&mut bytes)?;
        table.write_backup(&mut bytes)?;
        protect(&mut bytes);
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Ok(Self { bytes: bytes.into(), sha256, partition })
    }

    /// Whether the disk in a file boots this image: a table that names its partition, and the partition byte by byte.
    pub(crate) fn check(&self, disk: &Path) -> Result<()> {
        let file = std::fs::File::open(disk).context("open the disk")?;
        let mut head = vec![0; HEAD];
        file.read_exact_at(&mut head, 0).context("read the disk")?;
        ensure!(head[510..512] == [0x55, 0xaa], "the first sector is not one that boots");
        let table = Gpt::parse_primary(&head, SECTOR as u32).context("read the partition table")?;
        let (_, entry) = table.used().next().context("no partition")?;
        ensure!(entry.unique_guid == self.partition, "another partition: {}", entry.unique_guid);
        let mut found = vec![0; (LAST + 1 - FIRST) * SECTOR];
        file.read_exact_at(&mut found, entry.first_lba * SECTOR as u64).context("read the partition")?;
        ensure!(found == self.bytes[FIRST * SECTOR..(LAST + 1) * SECTOR], "the partition holds something else");
        Ok(())
    }
}

/// The first sector of a disk with a GPT (UEFI specification 2.10, section 5.2.3).
fn protect(bytes: &mut [u8]) {
    bytes[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes[458..462].copy_from_slice(&(SECTORS as u32 - 1).to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// Serves the image, whole or from where a download goes on.
pub(crate) fn router(image: Bytes) -> axum::Router {
    axum::Router::new().route("/image.raw", axum::routing::get(serve)).with_state(image)
}

async fn serve(State(image): State<Bytes>, headers: HeaderMap) -> Response {
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let from = asked.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    match from {
        None | Some(0) => image.into_response(),
        Some(from) if from < image.len() => {
            let range = format!("bytes {from}-{}/{}", image.len() - 1, image.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], image.slice(from..)).into_response()
        }
        Some(_) => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_good_when_it_holds_the_image_and_not_when_a_byte_is_another() {
        let image = Image::new(Dice::new(1)).unwrap();
        let path = std::env::temp_dir().join(format!("ferric-sim-image-{}", std::process::id()));
        let mut bytes = image.bytes.to_vec();
        std::fs::write(&path, &bytes).unwrap();
        image.check(&path).unwrap();
        bytes[LAST * SECTOR] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(image.check(&path).unwrap_err().to_string().contains("something else"));
        std::fs::write(&path, vec![0; bytes.len()]).unwrap();
        assert!(image.check(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert_ne!(Image::new(Dice::new(2)).unwrap().sha256, image.sha256);
    }
}
