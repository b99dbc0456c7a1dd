//! Disk images, disks and sources for the tests.

use crate::digest::{Algorithm, Hasher};
use crate::source::{Identity, Opened, Source, SourceError};
use crate::{Digest, Plan, Progress, WriteError, Written};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use media::gpt::mbr::{LINUX, Mbr};
use media::gpt::{Entry, Gpt, Guid};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) const MIB: usize = 1 << 20;

/// Bytes that neither repeat nor are zero for long.
pub(super) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as u8 & 0x3f
        })
        .collect()
}

/// A whole-disk image with a GUID partition table: an ESP in the second MiB, Linux in the rest but the last MiB.
pub(super) fn gpt_image(mib: usize, sector: u32) -> Vec<u8> {
    let mut bytes = noise(mib * MIB, mib as u32);
    let (size, per_mib) = (u64::from(sector), MIB as u64 / u64::from(sector));
    let mut gpt = Gpt::new(Guid([0xd1; 16]), sector, bytes.len() as u64 / size).unwrap();
    gpt.add(Entry::new(Guid::ESP, Guid([1; 16]), per_mib..=2 * per_mib - 1, "EFI")).unwrap();
    if mib > 3 {
        gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 2 * per_mib..=(mib as u64 - 1) * per_mib - 1, "root"))
            .unwrap();
    }
    Mbr { signature: 0x00c0_ffee, ..Mbr::protective(gpt.disk_sectors()) }.write(&mut bytes).unwrap();
    gpt.write_primary(&mut bytes).unwrap();
    gpt.write_backup(&mut bytes).unwrap();
    bytes
}

/// A whole-disk image with a DOS partition table.
pub(super) fn mbr_image(mib: usize, partitions: usize) -> Vec<u8> {
    let mut bytes = noise(mib * MIB, 99);
    let mut mbr = Mbr { signature: 0xdead_beef, ..Mbr::default() };
    for i in 0..partitions as u64 {
        mbr.add(LINUX, 2048 + i * 512..2048 + (i + 1) * 512).unwrap();
    }
    mbr.write(&mut bytes).unwrap();
    bytes
}

/// A disk that holds a bootable system.
pub(super) fn old_disk(mib: usize) -> Vec<u8> {
    let mut bytes = gpt_image(mib, 512);
    for byte in &mut bytes[MIB..(mib - 1) * MIB] {
        *byte = 0xee;
    }
    bytes
}

/// Whether a firmware or a kernel could find partitions here.
pub(super) fn has_table(disk: &[u8]) -> bool {
    let gpt = |at: usize| &disk[at..at + 8] == media::gpt::SIGNATURE;
    disk[510..512] == [0x55, 0xaa] || [512, 4096, disk.len() - 512, disk.len() - 4096].into_iter().any(gpt)
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The patience of a test.
pub(super) fn impatient(plan: &mut Plan) {
    plan.patience.interval = Duration::from_millis(1);
    plan.patience.connect = Duration::from_secs(20);
    plan.patience.stall = Duration::from_secs(20);
}

/// A source in memory: pieces of a size that is no power of two.
pub(crate) struct Memory(pub(crate) Bytes);

impl Source for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn open<'a>(&'a self, at: u64, _: Option<&'a Identity>) -> BoxFuture<'a, Result<Opened, SourceError>> {
        let bytes = self.0.slice(at as usize..);
        let pieces: Vec<_> = bytes.chunks(100_003).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        let etag = Some("\"memory\"".to_owned());
        let identity = Identity { length: Some(self.0.len() as u64), etag, ..Identity::default() };
        async move { Ok(Opened { identity, stream: stream::iter(pieces).boxed() }) }.boxed()
    }
}

/// A plan to write these bytes, with their right digest.
pub(super) fn plan(transported: &[u8]) -> Plan {
    let source = Arc::new(Memory(Bytes::copy_from_slice(transported)));
    let mut plan = Plan::new(source, Some(sha256(transported)));
    impatient(&mut plan);
    plan
}

/// Writes without looking at progress.
pub(super) async fn write(plan: Plan, disk: impl crate::Disk + 'static) -> Result<Written, WriteError> {
    crate::write(plan, Box::new(disk), |_: Progress| {}, CancellationToken::new()).await
}

/// That `disk` holds `image`, with its table fitted to the disk.
pub(super) fn assert_holds(disk: &[u8], image: &[u8], partitions: usize) -> Gpt {
    let sectors = disk.len() as u64 / 512;
    let primary = Gpt::parse_primary(&disk[..MIB], 512).unwrap();
    let backup = Gpt::parse_backup(&disk[disk.len() - MIB..], sectors, 512).unwrap();
    assert_eq!(primary, backup);
    assert_eq!(primary.used().count(), partitions);
    assert_eq!(primary.disk_sectors(), sectors);
    let mbr = Mbr::parse(disk).unwrap();
    assert_eq!(u64::from(mbr.entries[0].sectors), sectors - 1);
    // Behind the primary table, up to the old backup, nothing differs.
    let end = image.len().min(disk.len() - MIB) - 33 * 512;
    let first = disk[34 * 512..end].iter().zip(&image[34 * 512..end]).position(|(a, b)| a != b);
    assert_eq!(first, None, "disk and image differ");
    primary
}
