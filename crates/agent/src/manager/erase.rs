//! The erase steps: every disk is marked, erased by the best that it can do, and read back. A disk is erased, left alone with a
//! reason, or fails the step; there is nothing else.

use super::disks::{Sorted, sort};
use super::watch::{Fleet, Stage, Watch};
use super::{Kind, failure};
use crate::command::{AgentError, Class};
use crate::root_disk;
use crate::state::Shared;
use erase::{EraseError, Method, Nist, Options};
use futures::StreamExt as _;
use hardware::{Disk, EraseGrant, EraseProof, Look, Machine, MachineError, Opened, Outcome, Plan, StepCall, StepError};
use proof::{Extent, NotProven};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use transport::client::chain;

/// Blocks that are read back of every disk at least, where it has as many.
const LEAST_BLOCKS: u64 = 64;
/// Percent of the blocks that are read back, unless the node says otherwise.
const PERCENT: u8 = 1;
/// Disks that are erased at the same time, unless the driver says otherwise; Ironic's default.
const AT_ONCE: u64 = 4;

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

/// How one disk ended. `None`: stopped on request.
type Ended = Option<Result<EraseProof, String>>;

/// Runs `erase_devices`, `erase_devices_metadata` or `erase_devices_express`.
pub(super) async fn run(shared: &Arc<Shared>, kind: Kind, call: StepCall) -> Result<Value, StepError> {
    let failed = |error: AgentError| failure(&error);
    root_disk::may_write(shared, kind.step()).map_err(failed)?;
    let settings = Settings::of(&call.node, kind, shared.settings().enable_discard_erase).map_err(failed)?;
    shared.devices_ready().await;
    let skip_read_only = kind != Kind::Whole || settings.options.skip_read_only;
    let sorted = sort(shared, &call.node, kind, skip_read_only).await.map_err(failed)?;
    let Sorted { erasable, skipped, mut errors } = sorted;
    let plan = Plan::new(kind.step(), erasable);
    let fleet = Fleet::new(Arc::clone(&call.control), plan.disks());
    let mut proofs = BTreeMap::new();
    let mut cancelled = false;
    let groups = match kind {
        Kind::Metadata => Vec::new(),
        Kind::Whole | Kind::Express => open(shared, &plan, &fleet, kind, &mut errors).await,
    };
    let siblings_granted =
        |group: &[Job]| skipped.iter().all(|other| drive(&other.device.node) != drive(&group[0].disk.name));
    let at_once = settings.at_once;
    let settings = Arc::new(settings);
    let tasks: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let (settings, granted) = (Arc::clone(&settings), siblings_granted(&group));
            let names: Vec<String> = group.iter().map(|job| job.disk.name.clone()).collect();
            async move {
                let done = shared.on_machine(move |machine| Ok(erase_group(machine, group, &settings, granted))).await;
                (names, done)
            }
        })
        .collect();
    let mut running = futures::stream::iter(tasks).buffer_unordered(at_once);
    while let Some((names, done)) = running.next().await {
        match done {
            Err(error) => errors.push(format!("{}: {}", names.join(", "), chain(&error))),
            Ok(ended) => {
                for (number, name, end) in ended {
                    match end {
                        None => cancelled = true,
                        Some(Ok(proof)) => drop(proofs.insert(number, proof)),
                        Some(Err(error)) => errors.push(format!("{name}: {error}")),
                    }
                }
            }
        }
    }
    // Metadata is a matter of moments, so it is done one disk after the other.
    for (number, disk) in plan.disks().iter().enumerate().filter(|(_, disk)| !kind.takes_commands(disk)) {
        if call.control.is_cancelled() {
            cancelled = true;
            break;
        }
        Watch::new(&fleet, number).stage(Stage::Erasing("metadata"));
        let end = metadata(shared, &plan, disk).await;
        Watch::new(&fleet, number).stage(if end.is_ok() { Stage::Done } else { Stage::Failed });
        match end {
            Ok(proof) => drop(proofs.insert(number, proof)),
            Err(error) => errors.push(format!("{}: {error}", disk.name)),
        }
    }
    if cancelled {
        return Err(StepError::Cancelled);
    }
    if errors.is_empty() {
        return Ok(Value::Array(proofs.into_values().chain(skipped).map(|proof| json!(proof)).collect()));
    }
    // All devices are tried before it is said which ones failed.
    errors.sort();
    let details = format!("{}: {}", kind.complaint(), errors.join("; "));
    Err(failure(&AgentError::new(Class::BlockDeviceEraseError, details)))
}

/// Opens all disks before the first is touched: what one of them is a part of may be what keeps another one busy. Namespaces of
/// one NVMe drive are a group, which is worked on one after the other: a sanitize goes to all of them.
async fn open(
    shared: &Arc<Shared>,
    plan: &Plan,
    fleet: &Arc<Fleet>,
    kind: Kind,
    errors: &mut Vec<String>,
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
                errors.push(format!("{}: {error}", disk.name));
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

fn erase_group(
    machine: &dyn Machine,
    group: Vec<Job>,
    settings: &Settings,
    siblings_granted: bool,
) -> Vec<(usize, String, Ended)> {
    let options = Options { sibling_namespaces_granted: siblings_granted, ..settings.options.clone() };
    let mut ended = Vec::new();
    for job in group {
        let (number, name) = (job.number, job.disk.name.clone());
        let fleet = Arc::clone(&job.watch.fleet);
        let end = if fleet.is_cancelled() { None } else { erase_one(machine, job, settings, &options) };
        ended.push((number, name, end));
    }
    ended
}

/// Marks, erases and proves one disk.
fn erase_one(machine: &dyn Machine, job: Job, settings: &Settings, options: &Options) -> Ended {
    let Job { disk, opened, grant, watch, .. } = job;
    let Opened { device, mut medium, partitions, released } = opened;
    let started_at = now();
    watch.stage(Stage::Marking);
    let extent = Extent { seed: rand::random(), percent: settings.percent, least: LEAST_BLOCKS };
    let before = match proof::plant(medium.as_mut(), &partitions, extent) {
        Ok(before) => before,
        Err(error) => return failed(&watch, &disk, chain(&error)),
    };
    let done = match erase::erase(device.as_ref(), &grant, options, &watch) {
        Ok(done) => done,
        Err(EraseError::Cancelled { .. }) => return None,
        Err(error) if settings.kind == Kind::Express => {
            let reason = chain(&error);
            tracing::warn!(disk = disk.name, reason, "no secure erase: its metadata is erased");
            drop((device, medium));
            let erased = machine.erase_metadata(grant).map_err(|error| format!("{reason}; then {}", chain(&error)));
            let proof = erased.map(|mut proof| {
                proof.released.extend(released);
                proof.passed_over.push(reason.clone());
                described(proof, &disk, &started_at)
            });
            watch.stage(if proof.is_ok() { Stage::Done } else { Stage::Failed });
            return Some(proof);
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
        return failed(&watch, &disk, error);
    }
    // Nobody but the proof has the disk from here on.
    drop(device);
    let total = before.bytes_to_read();
    let look = looks(done.method, options);
    let reading = match proof::check(medium.as_mut(), &before, look, &mut |bytes| watch.read(bytes, total)) {
        Ok(reading) => reading,
        Err(NotProven::Stopped) => return None,
        Err(error) => {
            let device = Box::new(grant.device().clone());
            let (method, found) = (done.method.to_string(), chain(&error));
            return failed(&watch, &disk, MachineError::NotErased { device, method, found }.to_string());
        }
    };
    drop(medium);
    if let Err(error) = machine.reread_partitions(grant.device()) {
        tracing::warn!(disk = disk.name, error = chain(&error), "the kernel may still show partitions of before");
    }
    let evidence = format!(
        "{}; {} marks are gone and {} blocks of 1 MiB read back as {}",
        done.evidence, reading.marks, reading.blocks, reading.found
    );
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
    Some(Ok(proof))
}

fn failed(watch: &Watch, disk: &Disk, error: String) -> Ended {
    tracing::error!(disk = disk.name, error, "not erased");
    watch.stage(Stage::Failed);
    Some(Err(error))
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
