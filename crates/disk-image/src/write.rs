//! The whole of a write: passes until one succeeds, the digest's verdict, the seal.

use crate::budget::Shares;
use crate::configdrive::ConfigDrive;
use crate::decompress::Compression;
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{Cause, WriteError};
use crate::fetch::{FetchError, Fetched, Patience};
use crate::partition::{LOOK_LIMIT, Partitioned, Partitioning, Partitions, SharedDisk};
use crate::pipeline::{self, Pass, Passed};
use crate::progress::{INTERVAL, Meters, Progress, Reporter, Stage};
use crate::qcow2;
use crate::reader::Reader;
use crate::seal::{Sealed, seal};
use crate::source::Source;
use crate::table::{Geometry, ImageError, PartitionInfo, QCOW2};
use crate::target::{DiskState, Target, Verify};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The usual memory budget, bytes.
pub const BUDGET: u64 = 64 << 20;

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Byte *n* of the image is byte *n* of the disk.
    Raw,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
}

/// What to write.
#[derive(Clone)]
pub struct Plan {
    /// Where the image can be had, in the order to try. Another one is tried when one fails for a reason of its own.
    pub sources: Vec<Arc<dyn Source>>,
    /// What the image is declared to be; it must be that. `None`: what its first bytes say.
    pub format: Option<Format>,
    /// How the image is declared to be packed; it must be that. `None`: how its first bytes say.
    pub packing: Option<Compression>,
    /// Digest of the transported bytes: of a packed image, the packed ones. `None`: nothing vouches for the content.
    pub digest: Option<Digest>,
    /// Goes into a partition of its own.
    pub config_drive: Option<ConfigDrive>,
    /// The image is one file system, for which the partitions are made. `None`: it is a whole disk.
    pub partitioning: Option<Partitioning>,
    /// Bytes of memory for windows and buffers of the image. The config drive, packed as it came, is beside it.
    pub budget: u64,
    /// How much is read back when all is written.
    pub verify: Verify,
    /// Whether the disk gets a new GUID in a GUID partition table, so that two disks of one image can be told apart.
    /// Its partitions keep theirs: images find their file systems by them (`PARTUUID`).
    pub new_disk_guid: bool,
    /// Patience with the source.
    pub patience: Patience,
}

impl Format {
    /// Its name, as declared: `raw` or `qcow2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl Plan {
    /// A plan with one source and the usual settings.
    pub fn new(source: Arc<dyn Source>, digest: Option<Digest>) -> Self {
        Self {
            sources: vec![source],
            format: None,
            packing: None,
            digest,
            config_drive: None,
            partitioning: None,
            budget: BUDGET,
            verify: Verify::default(),
            new_disk_guid: false,
            patience: Patience::default(),
        }
    }
}

/// What was written, and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes transported.
    pub bytes_in: u64,
    /// Bytes of the unpacked image.
    pub bytes_out: u64,
    /// Digest of the transported bytes, checked, if the plan had one.
    pub digest: Option<Digest>,
    /// All partitions, that of the config drive included.
    pub partitions: Vec<PartitionInfo>,
    /// Identity of the disk in its GUID partition table.
    pub disk_guid: Option<String>,
    /// Disk signature in the first sector: what the protocol calls the root UUID of a whole disk.
    pub mbr_signature: u32,
    /// Where the config drive is.
    pub config_drive: Option<PartitionInfo>,
    /// What was made around a partition image.
    pub partitioned: Option<Partitioned>,
}

impl Written {
    /// `root uuid` of the agent protocol's `get_partition_uuids`: for a whole disk the signature as `0x%08x`, for a
    /// partition image the UUID of its file system.
    pub fn root_uuid(&self) -> String {
        self.partitioned.as_ref().map_or_else(|| format!("{:#010x}", self.mbr_signature), |made| made.root_uuid.clone())
    }
}

/// Writes an image to a disk and seals it.
///
/// `progress` is called at most four times a second, from the task that awaits this. Cancelling `cancel`, and dropping
/// the future as well, stops the write at the next block; the disk is then without a partition table, unless nothing
/// had been written yet. Data is only overwritten after the head of the image has been found good for this disk.
///
/// A source that cannot be resumed (no byte ranges, or nothing to recognise the content by) is read again from the
/// start, as a new pass over the disk with a new digest, at most as often as [`Patience::retries`] says.
pub async fn write(
    plan: Plan,
    disk: Box<dyn Disk>,
    mut progress: impl FnMut(Progress),
    cancel: CancellationToken,
) -> Result<Written, WriteError> {
    let stop = cancel.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let meters = Arc::new(Meters::new());
    let mut reporter = Reporter::new(Instant::now());
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(run(plan, disk, meters.clone(), stop));
    let result = loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            _ = ticks.tick() => progress(reporter.report(&meters, Instant::now())),
        }
    };
    if result.is_ok() {
        meters.stage(Stage::Done);
        progress(reporter.report(&meters, Instant::now()));
    }
    result
}

async fn run(
    plan: Plan,
    disk: Box<dyn Disk>,
    meters: Arc<Meters>,
    cancel: CancellationToken,
) -> Result<Written, WriteError> {
    let name = disk.name().to_owned();
    let failed = |state, cause| WriteError { disk: name.clone(), state, cause };
    let shares = Shares::of(plan.budget).map_err(|error| failed(DiskState::Untouched, error.into()))?;
    let shared = SharedDisk::new(disk);
    let mut target = Target::new(Box::new(shared.clone()), plan.verify);
    target.check().map_err(|error| failed(DiskState::Untouched, error.into()))?;
    let geometry = target.geometry();
    let drive = fit(plan.config_drive, geometry.sector).await.map_err(|cause| failed(DiskState::Untouched, cause))?;
    let partitions = match plan.partitioning {
        None => None,
        Some(partitioning) => {
            let drive = drive.as_ref();
            let placed = Partitions::new(partitioning, drive, &mut *target.disk, &geometry);
            Some(Arc::new(placed.map_err(|cause| failed(DiskState::Untouched, cause))?))
        }
    };
    let mut last = failed(DiskState::Untouched, Cause::NoSource);
    for source in &plan.sources {
        let (mut restarts, mut format) = (0, plan.format);
        loop {
            meters.restart();
            let pass = Pass {
                map: None,
                known: None,
                source: source.clone(),
                patience: plan.patience.clone(),
                shares,
                algorithm: plan.digest.as_ref().map(Digest::algorithm),
                packing: plan.packing,
                drive: drive.clone(),
                partitions: partitions.clone(),
                new_disk_guid: plan.new_disk_guid,
                meters: meters.clone(),
                cancel: cancel.clone(),
            };
            tracing::info!(disk = %name, url = source.name(), restarts, "writing image");
            let (back, result) = attempt(pass, format, plan.digest.as_ref(), target, shared.clone()).await;
            let Some(back) = back else {
                return Err(failed(DiskState::Unknown, result.err().unwrap_or(Cause::Stage("write"))));
            };
            target = back;
            let cause = match result {
                Ok(written) => return Ok(written),
                Err(cause) => cause,
            };
            if let (None, Cause::Image(ImageError::Format(QCOW2))) = (format, &cause) {
                // Nothing was written yet.
                format = Some(Format::Qcow2);
                continue;
            }
            let restart = matches!(&cause, Cause::Fetch(error) if error.wants_restart());
            // What was seen before the digest was told may be this source's fault alone.
            let unverified = target.state == DiskState::Untouched && matches!(cause, Cause::Partition(_));
            let next = cause.blames_source() || unverified;
            let reason = transport::client::chain(&cause);
            last = failed(target.state, cause);
            if restart && restarts < plan.patience.retries {
                restarts += 1;
                tracing::warn!(disk = %name, url = source.name(), %reason, "image is read again from the start");
                tokio::select! {
                    () = cancel.cancelled() => return Err(failed(target.state, Cause::Cancelled)),
                    () = tokio::time::sleep(plan.patience.interval) => continue,
                }
            }
            if !next {
                return Err(last);
            }
            tracing::warn!(disk = %name, url = source.name(), %reason, "image could not be had from here");
            break;
        }
    }
    Err(last)
}

/// The config drive as the disk's sectors want it.
async fn fit(drive: Option<ConfigDrive>, sector: u32) -> Result<Option<ConfigDrive>, Cause> {
    let fitting = tokio::task::spawn_blocking(move || drive.map(|drive| drive.fitted(sector)).transpose());
    Ok(fitting.await.map_err(|_| Cause::Stage("config drive"))??)
}

/// Of a qcow2: reads its tables, and binds the pass to what they belong to.
async fn look_ahead(pass: &mut Pass, geometry: &Geometry) -> Result<(), Cause> {
    let Pass { source, patience, shares, meters, cancel, .. } = &*pass;
    let mut reader = Reader::new(&**source, patience, meters, shares.window / 2);
    let limit = patience.total.unwrap_or(Duration::MAX);
    let map = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Cause::Cancelled),
        map = qcow2::load(&mut reader, shares.window, geometry) => map,
        () = tokio::time::sleep(limit) => Err(FetchError::TooLong(limit).into()),
    };
    meters.waiting(None);
    let (map, known) = (Arc::new(map?), reader.identity().cloned());
    (pass.map, pass.known) = (Some(map), known);
    Ok(())
}

/// Of a partition image: refuses one that would not boot, where that can be seen before anything is written. Whatever the
/// source does wrong meanwhile, the pass will find.
async fn look_inside(pass: &Pass) -> Result<(), Cause> {
    let Some(partitions) = &pass.partitions else { return Ok(()) };
    let patience = Patience { retries: 0, ..pass.patience.clone() };
    let reader = Reader::new(&*pass.source, &patience, &pass.meters, pass.shares.window / 2).by_ranges();
    let seen = tokio::select! {
        biased;
        () = pass.cancel.cancelled() => Err(Cause::Cancelled),
        seen = partitions.look(reader, pass.map.as_deref()) => Ok(seen?),
        () = tokio::time::sleep(LOOK_LIMIT) => Ok(()),
    };
    pass.meters.waiting(None);
    seen
}

/// One pass, the digest's verdict, the seal. Whatever happens, the target comes back in the state it says.
async fn attempt(
    mut pass: Pass,
    format: Option<Format>,
    want: Option<&Digest>,
    target: Target,
    shared: SharedDisk,
) -> (Option<Target>, Result<Written, Cause>) {
    let disk = target.geometry();
    let room = pass.partitions.as_ref().map_or(disk.clone(), |partitions| partitions.room(&disk));
    if format == Some(Format::Qcow2)
        && let Err(cause) = look_ahead(&mut pass, &room).await
    {
        return (Some(target), Err(cause));
    }
    if target.state == DiskState::Untouched
        && let Err(cause) = look_inside(&pass).await
    {
        return (Some(target), Err(cause));
    }
    let (meters, drive, cancel) = (pass.meters.clone(), pass.drive.clone(), pass.cancel.clone());
    let new_disk_guid = pass.new_disk_guid;
    let source_name = pass.source.name().to_owned();
    let partitions = pass.partitions.clone();
    let (target, passed) = pipeline::run(pass, target).await;
    let passed = passed.map_err(|cause| match cause {
        Cause::Image(ImageError::Format(found)) if format == Some(Format::Raw) => {
            ImageError::Declared { declared: "raw", found }.into()
        }
        cause => cause,
    });
    let passed = passed.and_then(|passed| judge(passed, want, source_name));
    let passed = if cancel.is_cancelled() { Err(Cause::Cancelled) } else { passed };
    let Some(mut target) = target else { return (None, passed.and(Err(Cause::Stage("write")))) };
    let sealing = tokio::task::spawn_blocking(move || {
        let sealed = passed.and_then(|passed| {
            let Passed { fetched, bytes_out, digest, mut table } = passed;
            let bytes_in = fetched.bytes;
            if new_disk_guid {
                table.renew_disk_guid();
            }
            let around = partitions.as_deref().map(|partitions| (partitions, &shared));
            let Sealed { table, drive, partitioned } =
                seal(&mut target, table, around, drive.as_ref(), &meters, &cancel)?;
            let partitions = table.partitions();
            let (disk_guid, mbr_signature) = (table.disk_guid(), table.mbr_signature());
            let config_drive = drive;
            Ok(Written { bytes_in, bytes_out, digest, partitions, disk_guid, mbr_signature, config_drive, partitioned })
        });
        if sealed.is_err() {
            target.abandon();
        }
        (target, sealed)
    });
    match sealing.await {
        Ok((target, sealed)) => (Some(target), sealed),
        Err(_) => (None, Err(Cause::Stage("seal"))),
    }
}

/// The key guard: data without the right digest never reaches the seal.
fn judge(passed: Passed, want: Option<&Digest>, source_name: String) -> Result<Passed, Cause> {
    let Some(want) = want else { return Ok(passed) };
    match &passed.digest {
        Some(got) if got == want => Ok(passed),
        Some(got) => {
            let (got, want, Fetched { bytes, coding }) = (got.clone(), want.clone(), passed.fetched);
            Err(Cause::Digest { source_name, bytes, got, want, coding: coding.map(Into::into) })
        }
        None => Err(Cause::Stage("hash")),
    }
}
