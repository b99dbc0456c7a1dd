//! The erase steps: every disk is marked, erased by the best that it can do, and read back. A disk is erased, left alone with a
//! reason, or fails the step; there is nothing else.

mod disk;

use super::disks::{Sorted, left_alone, not_erased, sort};
use super::watch::{Fleet, Stage, Watch};
use super::{Kind, failure};
use crate::command::{AgentError, Class};
use crate::root_disk;
use crate::state::Shared;
use erase::Options;
use futures::StreamExt as _;
use hardware::{Bus, DeviceId, Disk, EraseGrant, EraseProof, Machine, Opened, Outcome, Plan, StepCall, StepError};
use proof::Extent;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use transport::client::chain;

/// Blocks that are read back of every disk at least, where it has as many.
const LEAST_BLOCKS: u64 = 64;
/// Percent of the blocks that are read back, unless the node says otherwise.
const PERCENT: u8 = 1;
/// Disks that are erased at the same time, unless the driver says otherwise; Ironic's default.
const AT_ONCE: u64 = 4;

/// Bytes that erasing metadata counts as: both ends of a disk.
const METADATA: u64 = 2 << 20;
/// How often it is told that nothing is heard of a device that tells nothing.
const QUIET: Duration = Duration::from_secs(15);

/// What the node and its driver say of erasing.
struct Settings {
    kind: Kind,
    options: Options,
    percent: u8,
    at_once: usize,
}

impl Settings {
    fn of(node: &Value, kind: Kind, discard: bool) -> Result<Self, AgentError> {
        let wrong = |details: String| AgentError::new(Class::BlockDeviceEraseError, details);
        let mut options = Options::of_node(node).map_err(|error| wrong(error.to_string()))?;
        options.secure_only = kind == Kind::Express;
        if node["driver_internal_info"]["agent_enable_discard_erase"].is_null() {
            options.discard = discard;
        }
        options.seed = rand::random();
        Ok(Self { kind, options, percent: percent(node).map_err(wrong)?, at_once: at_once(node).map_err(wrong)? })
    }
}

impl Settings {
    /// How much is looked at, without the seed that chooses it.
    fn extent(&self) -> Extent {
        Extent { seed: 0, percent: self.percent, least: LEAST_BLOCKS }
    }

    /// Bytes of a disk that are erased, and that are read back.
    fn work(&self, disk: &Disk) -> [u64; 2] {
        match self.kind.takes_commands(disk) {
            true => [disk.size, self.extent().bytes_of(disk.size)],
            false => [METADATA, METADATA],
        }
    }
}

fn percent(node: &Value) -> Result<u8, String> {
    let given = &node["driver_info"]["agent_erase_verify"];
    let number = match given {
        Value::Null => return Ok(PERCENT),
        Value::String(word) if word.eq_ignore_ascii_case("full") => return Ok(100),
        Value::String(word) => word.trim_end_matches('%').trim_end().parse().ok(),
        other => other.as_u64(),
    };
    let number = number.filter(|number| (1..=100).contains(number)).and_then(|number| u8::try_from(number).ok());
    number.ok_or_else(|| {
        format!(
            "driver_info/agent_erase_verify is {given}: it has to be the percentage of a disk that is read back after it was \
             erased, 1 to 100, or \"full\""
        )
    })
}

fn at_once(node: &Value) -> Result<usize, String> {
    let given = &node["driver_internal_info"]["disk_erasure_concurrency"];
    let number = match given {
        Value::Null => Some(AT_ONCE),
        Value::String(word) => word.parse().ok(),
        other => other.as_u64(),
    };
    let number = number.filter(|number| *number > 0).and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| {
        format!("driver_internal_info/disk_erasure_concurrency is {given}: it has to be a number of disks, at least 1")
    })
}

/// A disk that is going to be erased.
struct Job {
    number: usize,
    disk: Disk,
    opened: Opened,
    grant: EraseGrant,
    watch: Watch,
}

/// How one disk ended.
struct Ended {
    proof: EraseProof,
    /// It is not erased because it was stopped on request, and for no other reason.
    stopped: bool,
}

impl Ended {
    /// The same of a disk that a method was carried out on.
    fn after(mut self, method: &str, began: &str) -> Self {
        self.proof.method = method.to_owned();
        self.proof.started_at = Some(began.to_owned());
        self.proof.finished_at = Some(disk::now());
        self
    }
}

impl From<EraseProof> for Ended {
    fn from(proof: EraseProof) -> Self {
        Self { proof, stopped: false }
    }
}

/// The disks of a step that have ended, in the order of its plan; those that were never in it come last.
#[derive(Default)]
struct Results {
    ended: BTreeMap<usize, EraseProof>,
    others: Vec<EraseProof>,
    stopped: Vec<String>,
    errors: Vec<String>,
}

impl Results {
    fn add(&mut self, number: usize, Ended { proof, stopped }: Ended) {
        self.note(&proof, stopped);
        self.ended.insert(number, proof);
    }

    fn note(&mut self, proof: &EraseProof, stopped: bool) {
        if let Outcome::Failed { error } = &proof.outcome {
            let list = if stopped { &mut self.stopped } else { &mut self.errors };
            list.push(format!("{}: {error}", proof.device.node));
        }
    }

    /// The result of the step. What failed or was stopped is in it as well: a disk that nothing is said of is one that nobody
    /// looked at.
    fn end(mut self, kind: Kind) -> Result<Value, StepError> {
        let proofs = self.ended.into_values().chain(self.others);
        let result = Value::Array(proofs.map(|proof| json!(proof)).collect());
        if self.errors.is_empty() && self.stopped.is_empty() {
            return Ok(result);
        }
        let (class, words) = match self.errors.is_empty() {
            true => (Class::CommandCancelled, format!("step {} was stopped on request", kind.step())),
            false => (Class::BlockDeviceEraseError, kind.complaint().to_owned()),
        };
        // All devices are tried before it is said which ones failed.
        self.errors.append(&mut self.stopped);
        self.errors.sort();
        let details = format!("{words}: {}", self.errors.join("; "));
        let error = Box::new(failure(&AgentError::new(class, details)));
        Err(StepError::Partly { error, result })
    }
}

/// Runs `erase_devices`, `erase_devices_metadata` or `erase_devices_express`.
pub(super) async fn run(shared: &Arc<Shared>, kind: Kind, call: StepCall) -> Result<Value, StepError> {
    let failed = |error: AgentError| failure(&error);
    root_disk::may_write(shared, kind.step()).map_err(failed)?;
    let settings = Settings::of(&call.node, kind, shared.settings().enable_discard_erase).map_err(failed)?;
    shared.devices_ready().await;
    let skip_read_only = kind != Kind::Whole || settings.options.skip_read_only;
    let sorted = sort(shared, &call.node, kind, skip_read_only).await.map_err(failed)?;
    let Sorted { erasable, skipped, failed: unfit } = sorted;
    let plan = Plan::new(kind.step(), erasable);
    let fleet = Fleet::new(Arc::clone(&call.control), plan.disks(), |disk| settings.work(disk));
    let mut results = Results::default();
    unfit.iter().for_each(|proof| results.note(proof, false));
    let groups = open(shared, &plan, &fleet, &mut results).await;
    let at_once = settings.at_once;
    let settings = Arc::new(settings);
    let tasks: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let settings = Arc::clone(&settings);
            let disks: Vec<(usize, Disk)> = group.iter().map(|job| (job.number, job.disk.clone())).collect();
            async move {
                let done = shared.on_machine(move |machine| Ok(erase_group(machine, group, &settings))).await;
                (disks, done)
            }
        })
        .collect();
    let mut running = futures::stream::iter(tasks).buffer_unordered(at_once);
    while let Some((disks, done)) = told(&fleet, running.next()).await {
        match done {
            Err(error) => {
                let why = chain(&error);
                disks.iter().for_each(|(number, disk)| results.add(*number, not_erased(disk, why.clone()).into()));
            }
            Ok(ended) => ended.into_iter().for_each(|(number, end)| results.add(number, end)),
        }
    }
    results.others = skipped.into_iter().chain(unfit).collect();
    results.end(kind)
}

/// Waits, and tells meanwhile how it stands: a Security Erase says nothing for hours.
async fn told<T>(fleet: &Fleet, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(QUIET, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => fleet.tell(),
        }
    }
}

/// Opens all disks before the first is touched: what one of them is a part of may be what keeps another one busy. Namespaces of
/// one NVMe drive are a group, which is worked on one after the other: a sanitize goes to all of them. So are disks that may be
/// one disk by several ways.
async fn open(shared: &Arc<Shared>, plan: &Plan, fleet: &Arc<Fleet>, results: &mut Results) -> Vec<Vec<Job>> {
    let mut groups: BTreeMap<String, Vec<Job>> = BTreeMap::new();
    for (number, disk) in plan.disks().iter().enumerate() {
        let watch = Watch::new(fleet, number);
        let opened = match plan.erase(&disk.name) {
            Err(refusal) => Err(refusal.to_string()),
            Ok(grant) => {
                let opened = shared.on_machine(move |machine| machine.open(&grant).map(|opened| (grant, opened)));
                opened.await.map_err(|error| chain(&error))
            }
        };
        match opened {
            Ok((grant, opened)) => {
                let job = Job { number, disk: disk.clone(), opened, grant, watch };
                groups.entry(drive(&first_of(disk, plan.disks()).name).to_owned()).or_default().push(job);
            }
            Err(error) => {
                watch.stage(Stage::Failed);
                results.add(number, not_erased(disk, error).into());
            }
        }
    }
    groups.into_values().collect()
}

/// The drive that a device is a part of: `/dev/nvme0` of `/dev/nvme0n1`, any other disk itself.
fn drive(name: &str) -> &str {
    match name.strip_prefix("/dev/nvme").and_then(|rest| rest.find('n')) {
        Some(digits) => &name[.."/dev/nvme".len() + digits],
        None => name,
    }
}

/// The first disk that this one may be another path to: it has the same world wide name and size. It is itself where there is none.
fn first_of<'a>(disk: &'a Disk, all: &'a [Disk]) -> &'a Disk {
    all.iter().find(|other| may_be_one(&DeviceId::of(disk), &DeviceId::of(other))).unwrap_or(disk)
}

/// Names are given twice by some makers, so this is no more than a reason to look.
fn may_be_one(one: &DeviceId, other: &DeviceId) -> bool {
    one.wwn.is_some() && (&one.wwn, one.size) == (&other.wwn, other.size)
}

fn erase_group(machine: &dyn Machine, group: Vec<Job>, settings: &Settings) -> Vec<(usize, Ended)> {
    let namespace = |job: &Job| match job.opened.device.bus() {
        Bus::Nvme { namespace } => Some((drive(&job.disk.name).to_owned(), namespace)),
        Bus::Scsi | Bus::Block => None,
    };
    let granted: Vec<(String, u32)> = group.iter().filter_map(namespace).collect();
    let mut ended = Vec::new();
    let mut group = VecDeque::from(group);
    while let Some(job) = group.pop_front() {
        let (number, fleet, device) = (job.number, Arc::clone(&job.watch.fleet), job.grant.device().clone());
        if fleet.is_cancelled() {
            ended.push((number, stopped(&job.disk, "stopped on request before it was begun")));
            continue;
        }
        // What is not in the group nobody may erase: it may be left alone, busy, unreadable, or not attached to this machine at
        // all. What another drive of the group calls by the same number is no namespace of this one.
        let own = granted.iter().filter(|(whose, _)| *whose == drive(&job.disk.name));
        let granted_namespaces = own.map(|(_, number)| *number).collect();
        let options = Options { granted_namespaces, ..settings.options.clone() };
        let (end, paths) = match settings.kind.takes_commands(&job.disk) {
            true => disk::whole(machine, job, settings, &options, &mut group),
            false => (disk::metadata(machine, job), Vec::new()),
        };
        let how = match end.proof.outcome {
            Outcome::Verified { .. } if end.proof.method == disk::METADATA => How::MetadataErased,
            Outcome::Verified { .. } => How::Erased,
            _ if end.stopped => How::Stopped,
            _ => How::NotErased,
        };
        ended.push((number, end));
        ended.extend(paths.into_iter().map(|path| (path.number, other_path(machine, path, &device, how))));
    }
    ended
}

/// How a disk ended that has more paths than one.
#[derive(Clone, Copy)]
enum How {
    Erased,
    MetadataErased,
    NotErased,
    Stopped,
}

/// A path to a disk that was worked on by another one.
fn other_path(machine: &dyn Machine, path: Job, disk: &DeviceId, how: How) -> Ended {
    let Job { disk: own, opened, grant, watch, .. } = path;
    drop(opened);
    let words = format!("it is another path to {disk}, as the marks show that were written there");
    let done = match how {
        How::Erased => "that is erased",
        How::MetadataErased => "of that the metadata are erased and nothing else",
        How::NotErased => return failed(&watch, &own, format!("{words}, and that is not erased")),
        How::Stopped => return stopped(&own, &format!("{words}, and that was stopped on request")),
    };
    if let Err(error) = machine.reread_partitions(grant.device()) {
        tracing::warn!(disk = own.name, error = chain(&error), "the kernel may still show partitions of before");
    }
    watch.stage(Stage::Done);
    left_alone(&own, &format!("{words}, and {done}")).into()
}

fn failed(watch: &Watch, disk: &Disk, error: String) -> Ended {
    watch.stage(Stage::Failed);
    not_erased(disk, error).into()
}

/// A disk at which nothing went wrong but that the step was to stop.
fn stopped(disk: &Disk, words: &str) -> Ended {
    Ended { proof: not_erased(disk, words.to_owned()), stopped: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_is_read_back_is_a_setting_of_the_node() {
        let of = |value: Value| percent(&json!({"driver_info": {"agent_erase_verify": value}}));
        assert_eq!(percent(&json!({})), Ok(1));
        assert_eq!(of(json!(5)), Ok(5));
        assert_eq!(of(json!("25 %")), Ok(25));
        assert_eq!(of(json!("full")), Ok(100));
        for wrong in [json!(0), json!(101), json!("none"), json!(-1), json!(true), json!("0")] {
            assert!(of(wrong).unwrap_err().contains("agent_erase_verify"));
        }
    }

    #[test]
    fn how_many_disks_at_once_is_the_drivers_setting() {
        let of = |value: Value| at_once(&json!({"driver_internal_info": {"disk_erasure_concurrency": value}}));
        assert_eq!(at_once(&json!({})), Ok(4));
        assert_eq!((of(json!(1)), of(json!("12"))), (Ok(1), Ok(12)));
        assert!(of(json!(0)).is_err() && of(json!("many")).is_err());
    }

    #[test]
    fn disks_with_one_name_and_one_size_may_be_one() {
        let disk = |name: &str, wwn: Option<&str>, size| Disk {
            name: name.to_owned(),
            wwn: wwn.map(str::to_owned),
            size,
            ..Disk::default()
        };
        let all = [
            disk("/dev/sda", Some("0x5000"), 1),
            disk("/dev/sdb", None, 1),
            disk("/dev/sdc", Some("0x5000"), 2),
            disk("/dev/sdd", Some("0x5000"), 1),
            disk("/dev/sde", None, 1),
        ];
        let first = |number: usize| first_of(&all[number], &all).name.as_str();
        assert_eq!([0, 1, 2, 3, 4].map(first), ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sda", "/dev/sde"]);
    }

    #[test]
    fn namespaces_of_one_drive_belong_together() {
        assert_eq!(drive("/dev/nvme10n2"), "/dev/nvme10");
        assert_eq!(drive("/dev/nvme10n2"), drive("/dev/nvme10n1"));
        assert_eq!((drive("/dev/sda"), drive("/dev/nvme")), ("/dev/sda", "/dev/nvme"));
    }
}
