//! `check_hardware`, and the collector `health`: what disks, memory and temperature sensors say of themselves, as one report.
//! Nothing is written to any disk; only `test_disks` starts a test. docs/hardware-work.md explains the judgement.

mod disk;
mod self_test;

pub(crate) use self_test::{arguments as test_arguments, test};

use crate::maintenance::{self, argsinfo, broken};
use crate::state::Shared;
use hardware::{Machine, MemoryErrors, Sensor, StepCall, StepError};
use serde_json::{Map, Value, json};

/// Corrected errors of one memory module since the start from which on it is told.
const CORRECTED: u64 = 100;

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// It does not tell.
    Unknown,
    /// Worth a look: it works, and is worn, warm, or has had errors.
    Warning,
    /// It says itself that it is failing, or has lost data.
    Failing,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Failing => "failing",
        }
    }
}

/// What is known of a part: values, and findings of which the worst is the verdict.
#[derive(Debug, Default)]
pub(crate) struct Part {
    values: Map<String, Value>,
    findings: Vec<(Verdict, String)>,
    told: bool,
}

impl Part {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// It says something about its health.
    fn tells(&mut self) {
        self.told = true;
    }

    fn find(&mut self, verdict: Verdict, text: impl Into<String>) {
        self.findings.push((verdict, text.into()));
    }

    fn verdict(&self) -> Verdict {
        let quiet = if self.told { Verdict::Ok } else { Verdict::Unknown };
        self.findings.iter().map(|(verdict, _)| *verdict).max().unwrap_or(quiet)
    }

    /// The name of a part that does not tell, and why.
    fn unknown(&self) -> Option<String> {
        let text = |key: &str| self.values.get(key).and_then(Value::as_str);
        let why = text("unknown").unwrap_or("it does not tell");
        (self.verdict() == Verdict::Unknown).then(|| format!("{}: {why}", text("name").unwrap_or_default()))
    }

    fn json(mut self) -> Value {
        let verdict = self.verdict();
        self.set("verdict", verdict.name());
        let texts: Vec<String> = self.findings.into_iter().map(|(_, text)| text).collect();
        self.values.insert("findings".to_owned(), json!(texts));
        Value::Object(self.values)
    }
}

pub(crate) fn arguments() -> Value {
    let about = "Whether a part that says that it is failing makes the step fail; true unless given. The report is the \
                 step's result otherwise.";
    argsinfo(&[("fail", about, false)])
}

pub(crate) async fn check(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    let fail = maintenance::truth(maintenance::arguments(&call, &arguments())?, "fail", true)?;
    shared.devices_ready().await;
    let report = shared.on_machine(report).await;
    let report = report.map_err(|error| broken(call.kind, transport::client::chain(&error)))?;
    tracing::info!(%report, "health");
    if fail && report["verdict"] == Verdict::Failing.name() {
        return Err(broken(call.kind, format!("hardware is failing: {}", failing(&report).join("; "))));
    }
    Ok(report)
}

/// The parts of a report that are failing, with what is wrong.
fn failing(report: &Value) -> Vec<String> {
    let parts = ["disks", "memory", "temperatures"].into_iter().filter_map(|kind| report[kind].as_array()).flatten();
    let failing = parts.filter(|part| part["verdict"] == Verdict::Failing.name());
    failing
        .map(|part| {
            let findings = part["findings"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let name = part["name"].as_str().unwrap_or_default();
            let serial = part["serial"].as_str().map(|serial| format!(" (serial {serial})")).unwrap_or_default();
            format!("{name}{serial}: {}", findings.collect::<Vec<_>>().join(", "))
        })
        .collect()
}

/// The whole report. Blocks.
pub(crate) fn report(machine: &dyn Machine) -> Result<Value, hardware::MachineError> {
    let disks: Vec<Part> = machine.disks()?.iter().map(|disk| disk::look(machine, disk)).collect();
    let memory: Vec<Part> = machine.memory_errors().into_iter().map(module).collect();
    let sensors: Vec<Part> = machine.sensors().into_iter().map(sensor).collect();
    let unknown: Vec<String> = disks.iter().filter_map(Part::unknown).collect();
    let worst = worst(disks.iter().chain(&memory).chain(&sensors));
    Ok(json!({
        "verdict": worst.name(), "unknown": unknown, "disks": list(disks), "memory": list(memory), "temperatures": list(sensors),
    }))
}

/// The worst of all. Of what does not tell nobody knows that it is well.
fn worst<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Verdict {
    parts.into_iter().map(Part::verdict).max().unwrap_or(Verdict::Unknown)
}

fn list(parts: Vec<Part>) -> Vec<Value> {
    parts.into_iter().map(Part::json).collect()
}

fn module(errors: MemoryErrors) -> Part {
    let MemoryErrors { module, corrected, uncorrected } = errors;
    let mut part = Part::default();
    part.tells();
    part.set("name", module);
    part.set("corrected", corrected);
    part.set("uncorrected", uncorrected);
    if uncorrected > 0 {
        part.find(Verdict::Failing, format!("{uncorrected} uncorrected memory errors since the machine was started"));
    }
    if corrected >= CORRECTED {
        part.find(Verdict::Warning, format!("{corrected} corrected memory errors since the machine was started"));
    }
    part
}

fn sensor(sensor: Sensor) -> Part {
    let degrees = |thousandths: i64| json!(thousandths as f64 / 1000.0);
    let mut part = Part::default();
    part.tells();
    part.set("celsius", degrees(sensor.now));
    part.set("high", sensor.high.map_or(Value::Null, degrees));
    part.set("critical", sensor.critical.map_or(Value::Null, degrees));
    let warm = |limit: i64| format!("{} °C, and the limit is {} °C", degrees(sensor.now), degrees(limit));
    match (sensor.critical, sensor.high) {
        (Some(limit), _) if sensor.now >= limit => part.find(Verdict::Failing, warm(limit)),
        (_, Some(limit)) if sensor.now >= limit => part.find(Verdict::Warning, warm(limit)),
        _ if sensor.alarm => part.find(Verdict::Warning, "the sensor raises its alarm"),
        _ => {}
    }
    part.set("name", sensor.name);
    part
}

#[cfg(test)]
mod tests;
