//! The erase steps: every disk is marked, erased by the best that it can do, and read back. A disk is erased, left alone with a
//! reason, or fails the step; there is nothing else.

use super::disks::{Sorted, not_erased, sort};
use super::watch::{Fleet, Stage, Watch};
use super::{Kind, failure};
use crate::command::{AgentError, Class};
use crate::root_disk;
use crate::state::Shared;
use erase::{EraseError, Method, Nist, Options};
use futures::StreamExt as _;
use hardware::{
    Bus, Disk, EraseGrant, EraseProof, Look, Machine, MachineError, Opened, Outcome, Plan, Reading, StepCall, StepError,
};
use proof::{Extent, NotProven};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
            false => [METADATA, 0],
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
    fn after(mut self, method: Method, began: &str) -> Self {
        self.proof.method = method.name().to_owned();
        self.proof.started_at = Some(began.to_owned());
        self.proof.finished_at = Some(now());
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
    let groups = match kind {
        Kind::Metadata => Vec::new(),
        Kind::Whole | Kind::Express => open(shared, &plan, &fleet, kind, &mut results).await,
    };
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
    // Metadata is a matter of moments, so it is done one disk after the other.
    for (number, disk) in plan.disks().iter().enumerate().filter(|(_, disk)| !kind.takes_commands(disk)) {
        if call.control.is_cancelled() {
            results.add(number, stopped(disk, "stopped on request before it was begun"));
            continue;
        }
        Watch::new(&fleet, number).stage(Stage::Erasing("metadata"));
        let end = metadata(shared, &plan, disk).await;
        Watch::new(&fleet, number).stage(if end.is_ok() { Stage::Done } else { Stage::Failed });
        results.add(number, end.unwrap_or_else(|error| not_erased(disk, error)).into());
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
/// one NVMe drive are a group, which is worked on one after the other: a sanitize goes to all of them.
async fn open(
    shared: &Arc<Shared>,
    plan: &Plan,
    fleet: &Arc<Fleet>,
    kind: Kind,
    results: &mut Results,
) -> Vec<Vec<Job>> {
    let mut groups: BTreeMap<String, Vec<Job>> = BTreeMap::new();
    for (number, disk) in plan.disks().iter().enumerate().filter(|(_, disk)| kind.takes_commands(disk)) {
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
                groups.entry(drive(&disk.name).to_owned()).or_default().push(job);
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

fn erase_group(machine: &dyn Machine, group: Vec<Job>, settings: &Settings) -> Vec<(usize, Ended)> {
    // What is not in the group nobody may erase: it may be left alone, busy, unreadable, or not attached to this machine at all.
    let namespace = |job: &Job| match job.opened.device.bus() {
        Bus::Nvme { namespace } => Some(namespace),
        Bus::Scsi | Bus::Block => None,
    };
    let granted_namespaces = group.iter().filter_map(namespace).collect();
    let options = Options { granted_namespaces, ..settings.options.clone() };
    let mut ended = Vec::new();
    for job in group {
        let (number, fleet) = (job.number, Arc::clone(&job.watch.fleet));
        let end = match fleet.is_cancelled() {
            true => stopped(&job.disk, "stopped on request before it was begun"),
            false => erase_one(machine, job, settings, &options),
        };
        ended.push((number, end));
    }
    ended
}

/// Marks, erases and proves one disk.
fn erase_one(machine: &dyn Machine, job: Job, settings: &Settings, options: &Options) -> Ended {
    let Job { disk, opened, grant, watch, .. } = job;
    let Opened { device, mut medium, partitions, released } = opened;
    let started_at = now();
    watch.stage(Stage::Marking);
    // A drive that is locked takes no marks.
    if let Err(error) = erase::release(device.as_ref(), &grant) {
        return failed(&watch, &disk, chain(&error));
    }
    let extent = Extent { seed: rand::random(), ..settings.extent() };
    let before = match proof::plant(medium.as_mut(), &partitions, extent) {
        Ok(before) => before,
        Err(error) => return failed(&watch, &disk, chain(&error)),
    };
    let done = match erase::erase(device.as_ref(), &grant, options, &watch) {
        Ok(done) => done,
        Err(error @ EraseError::Cancelled { .. }) => return stopped(&disk, &error.to_string()),
        Err(error) if settings.kind == Kind::Express => {
            let reason = chain(&error);
            tracing::warn!(disk = disk.name, reason, "no secure erase: its metadata is erased");
            drop((device, medium));
            let erased = machine.erase_metadata(grant).map_err(|error| format!("{reason}; then {}", chain(&error)));
            let mut proof = match erased {
                Ok(proof) => proof,
                Err(error) => return failed(&watch, &disk, error),
            };
            proof.released.extend(released);
            proof.passed_over.push(reason);
            watch.stage(Stage::Done);
            return described(proof, &disk, &started_at).into();
        }
        Err(error) => return failed(&watch, &disk, chain(&error)),
    };
    let hidden = proof::hidden(device.as_ref());
    if let Some(hidden) = &hidden
        && hidden.sectors > 0
        && !done.method.name().contains("sanitize")
    {
        let error = format!(
            "{} sectors are hidden from the host ({}), and {} does not reach them; remove what hides them (hdparm -N, \
             hdparm --dco-restore) and clean the node again",
            hidden.sectors, hidden.words, done.method
        );
        return failed(&watch, &disk, error).after(done.method, &started_at);
    }
    // Nobody but the proof has the disk from here on.
    drop(device);
    let total = before.bytes_to_read();
    let look = looks(done.method, options);
    let progress = watch.reading();
    let reading = match proof::check(medium.as_mut(), &before, look, &mut |bytes| progress.read(bytes, total)) {
        Ok(reading) => reading,
        Err(NotProven::Stopped) => {
            let words = format!("erased by {}, and stopped on request before it was read back", done.method);
            return stopped(&disk, &words).after(done.method, &started_at);
        }
        Err(error) => {
            let device = Box::new(grant.device().clone());
            let (method, found) = (done.method.to_string(), chain(&error));
            let error = MachineError::NotErased { device, method, found }.to_string();
            return failed(&watch, &disk, error).after(done.method, &started_at);
        }
    };
    drop(medium);
    if let Err(error) = machine.reread_partitions(grant.device()) {
        tracing::warn!(disk = disk.name, error = chain(&error), "the kernel may still show partitions of before");
    }
    let mut evidence = format!("{}; {} marks are gone and {}", done.evidence, reading.marks, read_back(&reading));
    if hidden.as_ref().is_some_and(|hidden| hidden.unknown) && !done.method.name().contains("sanitize") {
        evidence.push_str("; whether the disk hides sectors, which this method would not reach, it does not tell");
    }
    let answer = (!done.answer.is_empty()).then(|| format!("answer {}", done.answer));
    let proof = EraseProof::new(grant.device().clone(), done.method.name(), Outcome::Verified { evidence });
    let proof = EraseProof {
        standard: Some(standard(done.nist).to_owned()),
        released,
        passed_over: done.passed_over.iter().map(ToString::to_string).collect(),
        reading: Some(reading),
        hidden: hidden.map(|hidden| hidden.words),
        device_log: [done.evidence].into_iter().chain(answer).collect(),
        ..described(proof, &disk, &started_at)
    };
    tracing::info!(disk = disk.name, method = proof.method, "erased and proven");
    watch.stage(Stage::Done);
    proof.into()
}

fn failed(watch: &Watch, disk: &Disk, error: String) -> Ended {
    watch.stage(Stage::Failed);
    not_erased(disk, error).into()
}

/// A disk at which nothing went wrong but that the step was to stop.
fn stopped(disk: &Disk, words: &str) -> Ended {
    Ended { proof: not_erased(disk, words.to_owned()), stopped: true }
}

/// Erases the metadata of one disk.
async fn metadata(shared: &Shared, plan: &Plan, disk: &Disk) -> Result<EraseProof, String> {
    let started_at = now();
    let grant = plan.erase(&disk.name).map_err(|refusal| refusal.to_string())?;
    let proof = shared.on_machine(move |machine| machine.erase_metadata(grant)).await.map_err(|error| chain(&error))?;
    Ok(described(proof, disk, &started_at))
}

/// A proof with what is known of the disk and the time.
fn described(proof: EraseProof, disk: &Disk, started_at: &str) -> EraseProof {
    EraseProof {
        model: disk.model.clone(),
        standard: proof.standard.or_else(|| Some(standard(Nist::None).to_owned())),
        started_at: Some(started_at.to_owned()),
        finished_at: Some(now()),
        ..proof
    }
}

fn standard(nist: Nist) -> &'static str {
    match nist {
        Nist::None => "none",
        Nist::Clear => "clear",
        Nist::Purge => "purge",
    }
}

/// What was read of a device, and no more than that.
fn read_back(reading: &Reading) -> String {
    let Reading { blocks, compared, unreadable, found, .. } = reading;
    if reading.expected != Look::Changed {
        return format!("{blocks} blocks of 1 MiB read back as {found}");
    }
    format!(
        "of {blocks} blocks of 1 MiB the {compared} that were looked at before begin with other bytes than then; {unreadable} of marks \
         and blocks cannot be read any more"
    )
}

/// How a device has to look after a method. Where a drive may throw its key away instead of writing, what it returns afterwards
/// is anything (NVMe Base 2.0, 5.14, "Secure Erase Settings"; ACS-4, 7.41, enhanced erase).
fn looks(method: Method, options: &Options) -> Look {
    match method {
        Method::NvmeSanitizeCrypto
        | Method::AtaSanitizeCrypto
        | Method::ScsiSanitizeCrypto
        | Method::NvmeFormatCrypto
        | Method::NvmeFormatUserData
        | Method::AtaSecurityEnhanced => Look::Changed,
        Method::NvmeSanitizeBlock
        | Method::NvmeSanitizeOverwrite
        | Method::AtaSanitizeBlock
        | Method::AtaSanitizeOverwrite
        | Method::ScsiSanitizeBlock
        | Method::ScsiSanitizeOverwrite
        | Method::AtaSecurityNormal => Look::Pattern,
        Method::WriteZeroes | Method::Discard => Look::Zeros,
        Method::Overwrite if options.zeroize => Look::Zeros,
        Method::Overwrite => Look::Changed,
    }
}

/// The time as RFC 3339 has it, in UTC, to the second.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    rfc3339(seconds)
}

/// Days are turned into a date as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400 + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
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
    fn namespaces_of_one_drive_belong_together() {
        assert_eq!(drive("/dev/nvme10n2"), "/dev/nvme10");
        assert_eq!(drive("/dev/nvme10n2"), drive("/dev/nvme10n1"));
        assert_eq!((drive("/dev/sda"), drive("/dev/nvme")), ("/dev/sda", "/dev/nvme"));
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_412_681), "2026-11-23T05:44:41Z");
    }
}
