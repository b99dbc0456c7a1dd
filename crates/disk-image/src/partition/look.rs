//! A look at the file system of a partition image where it comes from, before a byte of the disk is touched: an image
//! that would not boot is refused while the disk still holds what it held.
//!
//! Some dozens of small parts are read by byte ranges. Where that cannot be done (a server without ranges, or without
//! anything by which it can be told that the content is the same; an image that is packed as a whole), or is not done in
//! time, nothing is said, and the image is looked at when it is on the disk. What is seen here decides nothing else: the bytes are
//! not verified yet.

use super::fs::Superblock;
use super::kernel::Kernel;
use super::{BootLoader, PartitionError, grub};
use crate::qcow2::Map;
use crate::reader::Reader;
use crate::source::Identity;
use bytes::Bytes;
use ext4_view::{Ext4, Ext4Error, Ext4Read};
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Bytes that are read at a time, and how many times at most: what is remembered takes 8 MiB.
const PART: u64 = 64 << 10;
const MOST_PARTS: usize = 128;
/// Nobody waits longer than this for a slow server.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A part that is asked for by its number.
type Question = (u64, oneshot::Sender<Bytes>);

/// Refuses an image that cannot be made bootable, as far as that can be seen.
pub(super) async fn look(mut reader: Reader<'_>, map: Option<&Map>, loader: &BootLoader) -> Result<(), PartitionError> {
    let Some(head) = part(&mut reader, map, 0).await else { return Ok(()) };
    if reader.identity().and_then(Identity::validator).is_none() {
        // The parts could be of two images.
        return Ok(());
    }
    if Superblock::read(&head).is_none() {
        // What it is instead is said when its first block is judged.
        return Ok(());
    }
    let (ask, mut asked) = mpsc::channel::<Question>(1);
    let (remote, loader) = (Remote { ask, parts: HashMap::from([(0, head)]) }, loader.clone());
    // The library does not wait for networks: it has a thread of its own, which asks this one.
    let looking = tokio::task::spawn_blocking(move || boots(remote, &loader));
    while let Some((number, answer)) = asked.recv().await {
        let Some(bytes) = part(&mut reader, map, number).await else { break };
        // Who asks waits for the answer.
        let _ = answer.send(bytes);
    }
    drop(asked);
    match looking.await {
        Ok(Err(PartitionError::Read(Ext4Error::Io(reason)))) => {
            tracing::info!(%reason, "the image's file system is looked at when it is on the disk");
            Ok(())
        }
        Ok(seen) => seen,
        Err(_) => Ok(()),
    }
}

/// All that has to be right for the image to boot.
fn boots(remote: Remote, loader: &BootLoader) -> Result<(), PartitionError> {
    let ext4 = Ext4::load(Box::new(remote)).map_err(PartitionError::Read)?;
    let kernel = Kernel::newest(&ext4)?;
    if let BootLoader::Grub { .. } = loader {
        grub::settings(&kernel, "")?;
    }
    tracing::info!(kernel = kernel.path, "the image has a kernel");
    Ok(())
}

/// A part of the image; short at its end. `None` where nothing can be seen.
async fn part(reader: &mut Reader<'_>, map: Option<&Map>, number: u64) -> Option<Bytes> {
    let mut bytes = vec![0; PART as usize];
    let at = number.checked_mul(PART)?;
    let len = match map {
        Some(map) => map.read(reader, at, &mut bytes).await.ok()?,
        None => reader.read(at, &mut bytes).await.ok()?,
    };
    if reader.is_packed() {
        return None;
    }
    bytes.truncate(len);
    Some(bytes.into())
}

/// The image as the library reads it.
struct Remote {
    ask: mpsc::Sender<Question>,
    parts: HashMap<u64, Bytes>,
}

impl Remote {
    fn part(&mut self, number: u64) -> Result<Bytes, &'static str> {
        if let Some(bytes) = self.parts.get(&number) {
            return Ok(bytes.clone());
        }
        if self.parts.len() >= MOST_PARTS {
            return Err("too much of it would have to be read");
        }
        const GONE: &str = "it cannot be read in parts";
        let (answer, answered) = oneshot::channel();
        self.ask.blocking_send((number, answer)).map_err(|_| GONE)?;
        let bytes = answered.blocking_recv().map_err(|_| GONE)?;
        self.parts.insert(number, bytes.clone());
        Ok(bytes)
    }
}

impl Ext4Read for Remote {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let (mut at, mut done) = (start, 0);
        while done < into.len() {
            let part = self.part(at / PART)?;
            let rest = part.get((at % PART) as usize..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or("it ends before its file system does")?;
            let len = rest.len().min(into.len() - done);
            into[done..done + len].copy_from_slice(&rest[..len]);
            (at, done) = (at + len as u64, done + len);
        }
        Ok(())
    }
}
