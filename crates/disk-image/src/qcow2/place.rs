//! The file as it streams past, once and in order: each cluster goes to its place on the disk, each table must be the
//! one that the map was made from.

use super::Qcow2Error;
use super::cluster::Inflater;
use super::header::Header;
use super::map::{Extent, Map, Table};
use crate::blocks::{BlockWriter, Gone, Part};
use crate::budget::BLOCK;
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Bytes of compressed clusters that a job holds at most, beside one more cluster.
const JOB: u64 = 1 << 20;
/// What is kept of the last compressed cluster: the next one may begin in its last sector.
const SECTOR: usize = 512;

/// Memory of the jobs of one worker: one at work, one waiting, and a part of the one that is being filled.
pub(super) fn job_memory(header: &Header) -> u64 {
    3 * (JOB + 2 * header.cluster())
}

/// Compressed clusters that follow each other on the disk.
#[derive(Default)]
struct Job {
    /// Byte of the disk.
    disk: u64,
    disk_len: u64,
    data: Vec<u8>,
    /// Of each cluster: byte of the file, bytes of `data`, bytes of the disk.
    clusters: Vec<(u64, usize, u64)>,
}

/// What the threads that unpack share with the one that reads.
pub(crate) struct Crew {
    jobs: Mutex<Receiver<Job>>,
    stopped: Mutex<Option<Stop>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why placing ended early.
pub(crate) enum Stop {
    Failed(Qcow2Error),
    /// Nobody wants the data any more; whoever that is says why.
    Gone,
}

impl From<Qcow2Error> for Stop {
    fn from(error: Qcow2Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Takes the file in pieces of any size.
pub(crate) struct Placer<'a> {
    map: &'a Map,
    out: BlockWriter<'a>,
    crew: &'a Crew,
    jobs: SyncSender<Job>,
    job: Job,
    /// Byte of the file that comes next.
    at: u64,
    table: usize,
    extent: usize,
    hasher: Sha256,
    /// The compressed cluster that is coming, or the end of the last one.
    held: Vec<u8>,
}

impl<'a> Placer<'a> {
    /// Runs `feed` with a placer, and the threads that unpack clusters beside it.
    pub(crate) fn with<E: From<Stop>>(
        map: &Map,
        out: &BlockWriter<'_>,
        feed: impl FnOnce(&mut Placer<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (sender, jobs) = sync_channel(map.workers);
        let crew = Crew { jobs: Mutex::new(jobs), stopped: Mutex::new(None) };
        let result = std::thread::scope(|scope| {
            for _ in 0..map.workers {
                scope.spawn(|| work(&map.header, &crew, out.another()));
            }
            let (job, hasher) = (Job::default(), Sha256::new());
            let (crew, out) = (&crew, out.another());
            let mut placer =
                Placer { map, out, crew, jobs: sender, job, at: 0, table: 0, extent: 0, hasher, held: Vec::new() };
            feed(&mut placer)
        });
        // If a thread that unpacks stopped, that is why the rest did.
        match lock(&crew.stopped).take() {
            Some(stop) => Err(stop.into()),
            None => result,
        }
    }

    /// The next bytes of the file.
    pub(crate) fn feed(&mut self, mut part: Part<'_>) -> Result<(), Stop> {
        while !part.bytes().is_empty() {
            let bytes = part.bytes();
            let taken = match (self.map.tables.get(self.table), self.map.extents.get(self.extent)) {
                (Some(table), extent) if extent.is_none_or(|extent| table.file < extent.file) => {
                    self.feed_table(table, bytes)?
                }
                (_, Some(extent)) if extent.is_packed() => self.feed_packed(extent, bytes)?,
                (_, Some(extent)) => self.feed_plain(extent, part)?,
                (_, None) => bytes.len(),
            };
            self.at += taken as u64;
            part = part.skip(taken);
        }
        Ok(())
    }

    /// How much of `bytes` lies before `start`, or from there to `end`.
    fn split(&self, start: u64, end: u64, bytes: &[u8]) -> (usize, usize) {
        let within = |to: u64| usize::try_from(to.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
        (within(start), within(end))
    }

    fn feed_table(&mut self, table: &Table, bytes: &[u8]) -> Result<usize, Stop> {
        let (skip, taken) = self.split(table.file, table.file + table.len, bytes);
        self.hasher.update(&bytes[skip..taken]);
        if self.at + taken as u64 == table.file + table.len {
            self.table += 1;
            let found: [u8; 32] = self.hasher.finalize_reset().into();
            if found != table.sha256 {
                return Err(Qcow2Error::Differs { what: table.what, at: table.file }.into());
            }
        }
        Ok(taken)
    }

    fn feed_plain(&mut self, extent: &Extent, part: Part<'_>) -> Result<usize, Stop> {
        let (skip, taken) = self.split(extent.file, extent.file_end(), part.bytes());
        let disk = extent.disk + (self.at + skip as u64).saturating_sub(extent.file);
        self.out.put(disk, part.first(taken).skip(skip))?;
        if self.at + taken as u64 == extent.file_end() {
            self.extent += 1;
        }
        Ok(taken)
    }

    fn feed_packed(&mut self, extent: &Extent, bytes: &[u8]) -> Result<usize, Stop> {
        // At its start, or in the last sector of the one before.
        let (skip, taken) = self.split(extent.file, extent.file_end(), bytes);
        if self.at + skip as u64 <= extent.file {
            self.held.clear();
        }
        self.held.extend_from_slice(&bytes[skip..taken]);
        if self.at + taken as u64 == extent.file_end() {
            self.packed_is_whole()?;
        }
        Ok(taken)
    }

    /// A compressed cluster has come; so may have others that lie in its last sector.
    fn packed_is_whole(&mut self) -> Result<(), Stop> {
        let Some(&extent) = self.map.extents.get(self.extent) else { return Ok(()) };
        self.push(&extent)?;
        self.extent += 1;
        let end = extent.file_end();
        while let Some(&next) = self.map.extents.get(self.extent).filter(|next| next.is_packed() && next.file < end) {
            let keep = ((end - next.file) as usize).min(self.held.len());
            self.held.drain(..self.held.len() - keep);
            if next.file_end() > end {
                return Ok(());
            }
            self.push(&next)?;
            self.extent += 1;
        }
        let keep = self.held.len().min(SECTOR);
        self.held.drain(..self.held.len() - keep);
        Ok(())
    }

    /// The held bytes are this compressed cluster: into the job, which goes to work when it is full.
    fn push(&mut self, extent: &Extent) -> Result<(), Stop> {
        let disk_len = extent.disk_len(&self.map.header);
        let follows = self.job.disk + self.job.disk_len == extent.disk;
        let fits =
            self.job.disk_len + disk_len <= BLOCK as u64 && (self.job.data.len() + self.held.len()) as u64 <= JOB;
        if !(follows && fits) {
            self.send_job()?;
        }
        if self.job.clusters.is_empty() {
            self.job.disk = extent.disk;
        }
        self.job.disk_len += disk_len;
        self.job.data.extend_from_slice(&self.held);
        self.job.clusters.push((extent.file, self.held.len(), disk_len));
        Ok(())
    }

    fn send_job(&mut self) -> Result<(), Stop> {
        if lock(&self.crew.stopped).is_some() {
            return Err(Stop::Gone);
        }
        let job = std::mem::take(&mut self.job);
        if job.clusters.is_empty() { Ok(()) } else { self.jobs.send(job).map_err(|_| Stop::Gone) }
    }

    /// The file is at its end.
    pub(crate) fn finish(&mut self) -> Result<(), Stop> {
        let end = self.at;
        let truncated = |needed| Err(Qcow2Error::Truncated { bytes: end, needed }.into());
        if let Some(table) = self.map.tables.get(self.table) {
            return truncated(table.file + table.len);
        }
        // What is missing of the last cluster is zero.
        let room = end.next_multiple_of(self.map.header.cluster());
        if let Some(last) = self.map.extents.last().filter(|last| last.file_end() > room) {
            return truncated(last.file_end());
        }
        while let Some(&extent) = self.map.extents.get(self.extent) {
            if extent.is_packed() {
                if extent.file >= end {
                    return truncated(extent.file_end());
                }
                self.packed_is_whole()?;
                continue;
            }
            let done = end.saturating_sub(extent.file);
            let zeros = vec![0; (extent.len() - done).min(self.map.header.cluster()) as usize];
            self.out.write(extent.disk + done, &zeros)?;
            self.extent += 1;
        }
        self.send_job()?;
        Ok(self.out.pass()?)
    }
}

/// Unpacks jobs until there are no more.
fn work(header: &Header, crew: &Crew, mut out: BlockWriter<'_>) {
    let mut inflater = None;
    loop {
        let Ok(job) = lock(&crew.jobs).recv() else { return };
        match unpack(header, &mut inflater, &mut out, &job) {
            Ok(()) => {}
            Err(stop) => {
                lock(&crew.stopped).get_or_insert(stop);
                return drain(crew);
            }
        }
    }
}

/// Takes jobs without doing them, so that who sends them learns of the failure and does not wait.
fn drain(crew: &Crew) {
    while lock(&crew.jobs).recv().is_ok() {}
}

fn unpack(header: &Header, inflater: &mut Option<Inflater>, out: &mut BlockWriter<'_>, job: &Job) -> Result<(), Stop> {
    let (mut disk, mut data) = (job.disk, &job.data[..]);
    for &(at, len, disk_len) in &job.clusters {
        let broken = |source: io::Error| Qcow2Error::Cluster { at, source };
        if inflater.is_none() {
            *inflater = Some(Inflater::new(header.compression).map_err(broken)?);
        }
        let Some(inflater) = inflater else { return Err(Stop::Gone) };
        inflater.restart().map_err(broken)?;
        let (mut input, rest) = data.split_at(len);
        let mut left = disk_len;
        while left > 0 {
            let room = out.room(disk)?;
            let len = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let taken = inflater.fill(input, &mut room[..len]).map_err(broken)?;
            input = &input[taken..];
            out.filled(len)?;
            disk += len as u64;
            left -= len as u64;
        }
        data = rest;
    }
    Ok(out.pass()?)
}
