//! `test_disks`: disks test themselves, all at the same time, and what counts is what their own logs say afterwards. No data is
//! changed by it, and others may use the disks meanwhile.

use super::disk::{self, Protocol};
use super::{Part, Verdict, failing};
use crate::maintenance::{self, argsinfo, broken, params};
use crate::root_disk;
use crate::state::Shared;
use erase::{TestAction, ata, nvme, scsi};
use hardware::manager::argument;
use hardware::{Device, Disk, Machine, Plan, Progress, StepCall, StepControl, StepError, Transfer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use transport::client::chain;

/// How often disks are asked.
const PACE: Duration = Duration::from_secs(5);
/// What a short test takes at most (NVM Express Base 2.0, 8.6.1; for others it is a habit).
const SHORT: Duration = Duration::from_secs(120);
/// What an extended test takes where the disk does not say.
const EXTENDED: Duration = Duration::from_secs(12 * 3600);
/// A test that takes twice its time and this is given up.
const GRACE: Duration = Duration::from_secs(10 * 60);

pub(crate) fn arguments() -> Value {
    let extended = "Whether all of each disk is read, which takes hours; the short test of a few minutes unless given.";
    let disks = "The disks, a list of names such as /dev/sda; all that can test themselves unless given.";
    let fail = "Whether a disk that fails its test makes the step fail; true unless given. The report is the step's result otherwise.";
    argsinfo(&[("disks", disks, false), ("extended", extended, false), ("fail", fail, false)])
}

pub(crate) async fn test(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    let args = maintenance::arguments(&call, &arguments())?;
    let extended = maintenance::truth(args, "extended", false)?;
    let fail = maintenance::truth(args, "fail", true)?;
    let wanted: Option<Vec<String>> = argument(args, "disks")?;
    root_disk::may_write(shared, &call.step.step).map_err(|error| maintenance::failed(&error))?;
    shared.devices_ready().await;
    let there = shared.on_machine(|machine| machine.disks()).await;
    let there = there.map_err(|error| broken(call.kind, chain(&error)))?;
    let named = wanted.is_some();
    let disks = chosen(there, wanted).map_err(params)?;
    let (control, runtime) = (Arc::clone(&call.control), Handle::current());
    let action = if extended { TestAction::Extended } else { TestAction::Short };
    let done = shared.on_machine(move |machine| Ok(run(machine, disks, action, control.as_ref(), &runtime))).await;
    let parts = done.map_err(|error| broken(call.kind, chain(&error)))?.ok_or(StepError::Cancelled)?;
    let unable: Vec<String> = parts.iter().filter_map(Part::unknown).collect();
    let report = json!({"verdict": super::worst(&parts).name(), "extended": extended,
        "disks": super::list(parts)});
    tracing::info!(%report, "self-tests");
    let tested = report["disks"].as_array().is_some_and(|disks| disks.len() > unable.len());
    let reasons = unable.join("; ");
    match fail {
        true if report["verdict"] == Verdict::Failing.name() => {
            Err(broken(call.kind, format!("disks failed their self-tests: {}", failing(&report).join("; "))))
        }
        // What was asked for by name and not done is no success, and neither is nothing at all.
        _ if named && !unable.is_empty() => Err(broken(call.kind, format!("not tested: {reasons}"))),
        _ if !tested => Err(broken(call.kind, format!("no disk of this machine was tested: {reasons}"))),
        _ => Ok(report),
    }
}

/// The disks that are meant.
fn chosen(there: Vec<Disk>, wanted: Option<Vec<String>>) -> Result<Vec<Disk>, String> {
    let Some(wanted) = wanted else { return Ok(there) };
    let is_there = |name: &String| there.iter().any(|disk| disk.name == *name);
    if wanted.is_empty() || !wanted.iter().all(is_there) {
        let names: Vec<&str> = there.iter().map(|disk| disk.name.as_str()).collect();
        let unknown: Vec<&str> = wanted.iter().filter(|name| !is_there(name)).map(String::as_str).collect();
        let what = if unknown.is_empty() { "none".to_owned() } else { unknown.join(", ") };
        return Err(format!("disks names {what}; the disks of this machine are {}", names.join(", ")));
    }
    Ok(there.into_iter().filter(|disk| wanted.contains(&disk.name)).collect())
}

/// A disk at its test.
struct Running {
    name: String,
    device: Box<dyn Device>,
    protocol: Protocol,
    part: Part,
    /// What the log said before.
    before: Log,
    action: TestAction,
    /// What the test takes.
    time: Duration,
    began: Instant,
    /// Whether the disk was seen at it.
    seen: bool,
    percent: Option<u8>,
}

/// What a disk keeps of its tests, the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Log {
    newest: Option<Entry>,
    /// Whatever else changes with a new one.
    count: usize,
    /// Percent of the one that runs; 0 where the disk does not say.
    running: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    extended: bool,
    result: u8,
    failed: bool,
    power_on_hours: u64,
    failing_block: Option<u64>,
}

impl Running {
    /// Begins the test; the part alone where the disk has none, or refuses it.
    fn begin(machine: &dyn Machine, disk: &Disk, action: TestAction) -> Result<Self, Part> {
        let mut part = disk::part(disk);
        match Self::try_begin(machine, disk, action, &mut part) {
            Ok(begun) => Ok(Self { part, ..begun }),
            Err(why) => {
                part.set("unknown", why);
                Err(part)
            }
        }
    }

    fn try_begin(machine: &dyn Machine, disk: &Disk, action: TestAction, part: &mut Part) -> Result<Self, String> {
        let plan = Plan::new("test_disks", vec![disk.clone()]);
        let grant = plan.write(&disk.name).map_err(|refusal| refusal.to_string())?;
        let device = machine.command(&grant).map_err(|error| chain(&error))?;
        let protocol = disk::protocol(device.as_ref())?;
        part.set("protocol", protocol.name());
        let time = able(device.as_ref(), protocol, action)?;
        let before = log(device.as_ref(), protocol)?;
        if before.running.is_some() {
            return Err("a self-test that somebody else has begun is running".to_owned());
        }
        command(device.as_ref(), protocol, action)?;
        let (name, began) = (disk.name.clone(), Instant::now());
        let part = Part::default();
        Ok(Self { name, device, protocol, part, before, action, time, began, seen: false, percent: None })
    }

    /// Asks how it goes; the verdict when it is over.
    fn look(&mut self) -> bool {
        let passed = self.began.elapsed();
        let log = log(self.device.as_ref(), self.protocol);
        match log {
            // A disk may not answer for a moment.
            Err(_) if passed < SHORT => return false,
            Err(why) => self.part.set("unknown", why),
            Ok(Log { running: Some(percent), .. }) if passed < self.time * 2 + GRACE => {
                (self.seen, self.percent) = (true, Some(percent));
                return false;
            }
            Ok(Log { running: Some(_), .. }) => {
                self.abort();
                self.part.find(
                    Verdict::Failing,
                    format!("its self-test has not ended after {} minutes", passed.as_secs() / 60),
                );
            }
            Ok(log) if self.seen || (&log.newest, log.count) != (&self.before.newest, self.before.count) => {
                self.judge(log.newest);
            }
            // The log may come after the end.
            Ok(_) if passed < SHORT => return false,
            Ok(_) => self.part.set("unknown", "it took the command to test itself, and its log has no test since"),
        }
        true
    }

    fn judge(&mut self, newest: Option<Entry>) {
        let Some(entry) = newest else {
            self.part.set("unknown", "it was at its self-test, and its log has none");
            return;
        };
        let Entry { extended, result, failed, power_on_hours, failing_block } = entry;
        let told = json!({"extended": extended, "result": result, "power_on_hours": power_on_hours, "failing_block": failing_block});
        self.part.set("self_test", told);
        match (result, failed) {
            (0, _) => self.part.tells(),
            (_, true) => {
                let place = failing_block.map(|block| format!(" at LBA {block}")).unwrap_or_default();
                self.part.find(Verdict::Failing, format!("its self-test failed{place} (result {result})"));
            }
            _ => self.part.set("unknown", format!("its self-test was ended before it was done (result {result})")),
        }
    }

    fn abort(&self) {
        if let Err(why) = command(self.device.as_ref(), self.protocol, TestAction::Abort) {
            tracing::warn!(disk = self.name, why, "its self-test goes on");
        }
    }

    /// Thousandths that are done: as the disk says, or by the time that it takes.
    fn permille(&self) -> u64 {
        let by_time = self.began.elapsed().as_millis() * 1000 / self.time.as_millis().max(1);
        let by_time = u64::try_from(by_time).unwrap_or(990).min(990);
        self.percent.filter(|percent| *percent > 0).map_or(by_time, |percent| u64::from(percent) * 10)
    }
}

/// Tests all disks; `None` when that was stopped.
fn run(
    machine: &dyn Machine,
    disks: Vec<Disk>,
    action: TestAction,
    control: &dyn StepControl,
    runtime: &Handle,
) -> Option<Vec<Part>> {
    let mut tests: Vec<Result<Running, Part>> =
        disks.iter().map(|disk| Running::begin(machine, disk, action)).collect();
    let begun = tests.iter().filter(|test| test.is_ok()).count() as u64;
    let began = Instant::now();
    loop {
        for test in &mut tests {
            if let Ok(running) = test
                && running.look()
            {
                tracing::info!(disk = running.name, action = ?running.action, "its self-test is over");
                *test = Err(std::mem::take(&mut running.part));
            }
        }
        let running: Vec<&Running> = tests.iter().flatten().collect();
        if running.is_empty() {
            return Some(tests.into_iter().filter_map(Result::err).collect());
        }
        if control.is_cancelled() {
            running.iter().for_each(|running| running.abort());
            return None;
        }
        control.report(progress(&running, begun, began.elapsed()));
        // Cut short when the step is cancelled; nobody cares which it was.
        let _ = runtime.block_on(async { tokio::time::timeout(PACE, control.cancelled()).await });
    }
}

/// How far the tests are, in thousandths of all of them.
fn progress(running: &[&Running], begun: u64, passed: Duration) -> Progress {
    let over = begun - running.len() as u64;
    let named: Vec<String> =
        running.iter().take(4).map(|test| format!("{} {} %", test.name, test.permille() / 10)).collect();
    let more = running.len().saturating_sub(named.len());
    let more = if more > 0 { format!(", {more} more") } else { String::new() };
    let done = over * 1000 + running.iter().map(|test| test.permille()).sum::<u64>();
    let eta = running.iter().map(|test| test.time.saturating_sub(passed).as_secs()).max();
    let stage = format!("self-test: {}{more}; {over} of {begun} disks tested", named.join(", "));
    Progress { stage, done, total: Some(begun * 1000), rate: 0, eta: eta.filter(|eta| *eta > 0), stalled: None }
}

/// What a test takes, where the disk has one whose end it tells.
fn able(device: &dyn Device, protocol: Protocol, action: TestAction) -> Result<Duration, String> {
    let minutes = |minutes: u16| (minutes > 0).then(|| Duration::from_secs(60 * u64::from(minutes)));
    let extended = action == TestAction::Extended;
    let told = match protocol {
        Protocol::Nvme => {
            let controller = disk::identify(device)?;
            if !controller.self_test {
                return Err("the controller has no Device Self-test (OACS)".to_owned());
            }
            if extended { minutes(controller.self_test_minutes) } else { None }
        }
        Protocol::Ata => {
            let smart = disk::smart_data(device)?;
            if !smart.self_test {
                return Err("it has no SMART self-test".to_owned());
            }
            minutes(smart.self_test_minutes[usize::from(extended)])
        }
        Protocol::Scsi => None,
    };
    Ok(told.unwrap_or(if extended { EXTENDED } else { SHORT }))
}

fn command(device: &dyn Device, protocol: Protocol, action: TestAction) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    match protocol {
        Protocol::Nvme => {
            let answer = device.nvme_admin(&nvme::self_test(action), Transfer::None, PATIENCE);
            match answer.map_err(|error| chain(&error))?.status {
                0 => Ok(()),
                status => Err(format!("Device Self-test: {}", nvme::status_text(status))),
            }
        }
        Protocol::Ata => {
            let sent = ata::send(device, &ata::smart_self_test(action), Transfer::None);
            sent.map(drop).map_err(|error| chain(&error))
        }
        Protocol::Scsi => scsi::send(device, &scsi::self_test(action), None).map_err(|error| chain(&error)),
    }
}

fn log(device: &dyn Device, protocol: Protocol) -> Result<Log, String> {
    match protocol {
        Protocol::Nvme => {
            let log = disk::nvme_self_tests(device)?;
            let newest = log.results.first().map(|last| Entry {
                extended: last.kind == 2,
                result: last.result,
                failed: (5..=7).contains(&last.result),
                power_on_hours: last.power_on_hours,
                failing_block: last.failing_block,
            });
            Ok(Log { newest, count: log.results.len(), running: log.running.map(|test| test.percent) })
        }
        Protocol::Ata => {
            let mut sector = [0; 512];
            let asked = ata::send(device, &ata::smart_read_self_tests(), Transfer::FromDevice(&mut sector));
            asked.map_err(|error| format!("it has no log of self-tests: {}", chain(&error)))?;
            let last = ata::SelfTestResult::newest(&sector).map_err(|error| error.to_string())?;
            // Tenths that remain.
            let running = disk::smart_data(device)?.self_test_remaining.map(|left| 100 - 10 * left.min(10));
            let newest = last.map(|last| Entry {
                extended: last.kind == 2,
                result: last.result,
                failed: (3..=8).contains(&last.result),
                power_on_hours: last.power_on_hours.into(),
                failing_block: last.failing_block,
            });
            Ok(Log { newest, count: last.map_or(0, |last| last.index.into()), running })
        }
        Protocol::Scsi => scsi_log(device),
    }
}

fn scsi_log(device: &dyn Device) -> Result<Log, String> {
    let page = scsi::log_sense(scsi::SelfTestResult::PAGE, scsi::SelfTestResult::LENGTH);
    let bytes = scsi::receive(device, &page, scsi::SelfTestResult::LENGTH.into());
    let bytes = bytes.map_err(|error| format!("it has no log of self-tests: {}", chain(&error)))?;
    let last = scsi::SelfTestResult::newest(&bytes).map_err(|error| error.to_string())?;
    let count = scsi::log_parameters(scsi::SelfTestResult::PAGE, &bytes).map_err(|error| error.to_string())?;
    let count = count.iter().filter(|one| one.value.iter().any(|byte| *byte != 0)).count();
    if last.is_some_and(|last| last.result == scsi::SelfTestResult::RUNNING) {
        let sense = scsi::receive(device, &scsi::request_sense(), 252).ok();
        let part = sense.and_then(|bytes| scsi::Sense::parse(&bytes)).and_then(|sense| sense.progress);
        let percent = part.map_or(0, |part| ((u32::from(part) * 100) >> 16) as u8);
        return Ok(Log { newest: None, count, running: Some(percent) });
    }
    let newest = last.map(|last| Entry {
        extended: last.code == 2,
        result: last.result,
        failed: (3..=7).contains(&last.result),
        power_on_hours: last.power_on_hours.into(),
        failing_block: last.failing_block,
    });
    Ok(Log { newest, count, running: None })
}

#[cfg(test)]
mod tests;
