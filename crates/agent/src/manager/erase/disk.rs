//! What happens to one disk: it is marked, erased and read back, whole or where its metadata are.

use super::{Ended, Job, Settings, failed, may_be_one, stopped};
use crate::manager::Kind;
use crate::manager::watch::Stage;
use erase::{EraseError, Method, Nist, Options};
use hardware::{Disk, EraseProof, Look, Machine, MachineError, Opened, Outcome, Reading};
use proof::{Before, Extent, NotProven};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};
use transport::client::chain;

/// What metadata are called where a method is named.
pub(super) const METADATA: &str = "metadata";

/// Marks, erases and proves one disk, and takes out of `others` what turns out to be another path to it.
pub(super) fn whole(
    machine: &dyn Machine,
    job: Job,
    settings: &Settings,
    options: &Options,
    others: &mut VecDeque<Job>,
) -> (Ended, Vec<Job>) {
    job.watch.stage(Stage::Marking);
    // A drive that is locked takes no marks.
    if let Err(error) = erase::release(job.opened.device.as_ref(), &job.grant) {
        return (failed(&job.watch, &job.disk, chain(&error)), Vec::new());
    }
    if settings.kind == Kind::Express
        && let Some(reason) = cannot_erase_itself(&job, options)
    {
        return (instead(machine, job, reason), Vec::new());
    }
    let Job { number, disk, mut opened, grant, watch } = job;
    let extent = Extent { seed: rand::random(), ..settings.extent() };
    let before = match proof::plant(opened.medium.as_mut(), &opened.partitions, extent) {
        Ok(before) => before,
        Err(error) => return (failed(&watch, &disk, chain(&error)), Vec::new()),
    };
    let mut paths = Vec::new();
    for _ in 0..others.len() {
        let Some(mut other) = others.pop_front() else { break };
        let may_be = may_be_one(grant.device(), other.grant.device());
        if may_be && before.is_seen_on(other.opened.medium.as_mut()) {
            paths.push(other);
        } else {
            others.push_back(other);
        }
    }
    let job = Job { number, disk, opened, grant, watch };
    (marked(machine, job, settings, options, &before), paths)
}

/// Why a drive is not going to be erased by itself, if that is known before anything is written to it.
fn cannot_erase_itself(job: &Job, options: &Options) -> Option<String> {
    let device = job.opened.device.as_ref();
    let has_any = !erase::methods(device, options).is_ok_and(|methods| methods.is_empty());
    if has_any || !matches!(erase::withheld(device), Ok(None)) {
        return None;
    }
    match erase::erase(device, &job.grant, options, &job.watch) {
        Err(error @ EraseError::NotErased { .. }) => Some(chain(&error)),
        // Whatever it is, it is found out with marks on the disk.
        Ok(_) | Err(_) => None,
    }
}

/// Erases the metadata of a drive that was to erase itself.
fn instead(machine: &dyn Machine, job: Job, reason: String) -> Ended {
    tracing::warn!(disk = job.disk.name, reason, "no secure erase: its metadata is erased");
    let mut ended = metadata(machine, job);
    match &mut ended.proof.outcome {
        Outcome::Failed { error } => *error = format!("{reason}; then {error}"),
        Outcome::Verified { .. } | Outcome::Skipped { .. } => ended.proof.passed_over.push(reason),
    }
    ended
}

/// Erases and proves a disk that is marked.
fn marked(machine: &dyn Machine, job: Job, settings: &Settings, options: &Options, before: &Before) -> Ended {
    let started_at = now();
    let done = match erase::erase(job.opened.device.as_ref(), &job.grant, options, &job.watch) {
        Ok(done) => done,
        Err(error @ EraseError::Cancelled { .. }) => return stopped(&job.disk, &error.to_string()),
        Err(error) if settings.kind == Kind::Express => return instead(machine, job, chain(&error)),
        Err(error) => return failed(&job.watch, &job.disk, chain(&error)),
    };
    let Job { disk, opened, grant, watch, .. } = job;
    let Opened { device, mut medium, released, .. } = opened;
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
        return failed(&watch, &disk, error).after(done.method.name(), &started_at);
    }
    // Nobody but the proof has the disk from here on.
    drop(device);
    let total = before.bytes_to_read();
    let look = looks(done.method, options);
    let progress = watch.reading();
    let reading = match proof::check(medium.as_mut(), before, look, &mut |bytes| progress.read(bytes, total)) {
        Ok(reading) => reading,
        Err(NotProven::Stopped) => {
            let words = format!("erased by {}, and stopped on request before it was read back", done.method);
            return stopped(&disk, &words).after(done.method.name(), &started_at);
        }
        Err(error) => {
            let device = Box::new(grant.device().clone());
            let (method, found) = (done.method.to_string(), chain(&error));
            let error = MachineError::NotErased { device, method, found }.to_string();
            return failed(&watch, &disk, error).after(done.method.name(), &started_at);
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

/// Erases and proves the metadata of one disk.
pub(super) fn metadata(machine: &dyn Machine, job: Job) -> Ended {
    let started_at = now();
    let Job { disk, opened, grant, watch, .. } = job;
    let Opened { device, mut medium, partitions, found, released } = opened;
    watch.stage(Stage::Marking);
    let before = match proof::plant_metadata(medium.as_mut(), &partitions, rand::random()) {
        Ok(before) => before,
        Err(error) => return failed(&watch, &disk, chain(&error)),
    };
    watch.stage(Stage::Erasing(METADATA));
    if let Err(error) = erase::erase_metadata(device.as_ref(), &grant, &partitions) {
        return failed(&watch, &disk, chain(&error));
    }
    // Nobody but the proof has the disk from here on.
    drop(device);
    let remains = |found: String| {
        let device = Box::new(grant.device().clone());
        let error = MachineError::NotErased { device, method: METADATA.to_owned(), found }.to_string();
        failed(&watch, &disk, error).after(METADATA, &started_at)
    };
    let (progress, total) = (watch.reading(), before.bytes_to_read());
    let reading = match proof::check(medium.as_mut(), &before, Look::Zeros, &mut |bytes| progress.read(bytes, total)) {
        Ok(reading) => reading,
        Err(NotProven::Stopped) => {
            let words = "its metadata were erased, and it was stopped on request before they were read back";
            return stopped(&disk, words).after(METADATA, &started_at);
        }
        Err(error) => return remains(chain(&error)),
    };
    drop(medium);
    match machine.reread_partitions(grant.device()) {
        Ok(left) if left.is_empty() => {}
        Ok(left) => return remains(format!("the kernel still sees partitions {}", left.join(", "))),
        Err(error) => return remains(chain(&error)),
    }
    let evidence = metadata_read_back(&reading, &found);
    tracing::info!(disk = disk.name, evidence, "metadata erased and proven");
    let proof = EraseProof::new(grant.device().clone(), METADATA, Outcome::Verified { evidence });
    watch.stage(Stage::Done);
    described(EraseProof { released, reading: Some(reading), ..proof }, &disk, &started_at).into()
}

/// What was read of a device whose metadata are erased, and no more than that.
fn metadata_read_back(reading: &Reading, found: &[String]) -> String {
    let Reading { places, blocks, block_size, compared, marks, .. } = reading;
    let places = places.as_deref().unwrap_or_default();
    let found = if found.is_empty() { "no known signature".to_owned() } else { found.join(", ") };
    format!(
        "{places} read back as zeros, {} bytes in all; {compared} places that held something before and {marks} marks are gone. There \
         was {found}; the kernel sees no partition any more. Nothing is said of what else is on the disk",
        blocks * block_size
    )
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
pub(super) fn now() -> String {
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
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_412_681), "2026-11-23T05:44:41Z");
    }
}
