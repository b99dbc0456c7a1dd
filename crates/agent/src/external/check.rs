//! The contract of executable managers, tried out on one: what a vendor runs before it goes into a ramdisk.

use super::{DESCRIBE_DEADLINE, ExternalError, ExternalManager, STEP_DEADLINE, call, exchange, run_step};
use hardware::{HardwareManager as _, Progress, Step, StepCall, StepKind, Unattended};
use hardware_linux::exec::Stopper;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A step that no manager has.
const NO_STEP: &str = "a_step_that_nobody_has";

/// A step to run for real.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Clean, deploy or service.
    pub kind: StepKind,
    /// The step.
    pub step: String,
    /// Its arguments.
    pub args: Map<String, Value>,
    /// The node document that it gets.
    pub node: Value,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// For people, a line for each point of the contract.
    pub text: String,
    /// Points that were not kept.
    pub broken: u32,
}

impl Report {
    fn point(&mut self, point: &str, kept: Result<String, String>) -> bool {
        let (mark, more) = match &kept {
            Ok(more) => ("ok    ", more),
            Err(more) => ("BROKEN", more),
        };
        let colon = if more.is_empty() { "" } else { ": " };
        // Writing into a String does not fail.
        let _ = writeln!(self.text, "{mark} {point}{colon}{more}");
        self.broken += u32::from(kept.is_err());
        kept.is_ok()
    }
}

/// Tries the contract out on a program. Nothing is done to the machine unless there is a `trial`. Blocks.
pub fn check(program: &Path, trial: Option<Trial>) -> Report {
    let mut report = Report::default();
    // It runs in `/`, from where a relative path leads elsewhere.
    let program = &std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
    if !report.point("it is an executable file", executable(program)) {
        return report;
    }
    let described = ExternalManager::describe(program);
    let summary = described.as_ref().map(summary).map_err(|error| transport::client::chain(error));
    if !report.point("it describes itself", summary) {
        return report;
    }
    let Ok(manager) = described else { return report };
    let again = match ExternalManager::describe(program) {
        Ok(again) if again.description == manager.description => Ok(String::new()),
        Ok(_) => Err("the second description differs; a driver would take that for another version".to_owned()),
        Err(error) => Err(transport::client::chain(&error)),
    };
    report.point("it describes itself the same way twice", again);
    let ask = |method: &str, params: Value| {
        call(program, method, params, DESCRIBE_DEADLINE, &Stopper::default(), &mut |_| ())
    };
    let refused = match ask("a-method-of-the-future", json!({})) {
        Err(ExternalError::Failed(failure)) => Ok(failure.details),
        other => Err(unexpected("an error", other)),
    };
    report.point("it refuses a method that it does not know", refused);
    let nobody = json!({"kind": "clean", "step": Step::new("deploy", NO_STEP, 0), "node": {}, "ports": []});
    let refused = match ask("run", nobody) {
        Err(ExternalError::Failed(failure)) if failure.class == "IncompatibleHardwareMethodError" => {
            Ok(failure.details)
        }
        other => Err(unexpected("an error of class IncompatibleHardwareMethodError", other)),
    };
    report.point("it leaves a step that it does not have to others", refused);
    let garbage = match exchange(program, b"this is not JSON\n", 0, DESCRIBE_DEADLINE, &Stopper::default(), &mut |_| ())
    {
        Ok(result) => Err(format!("it answered {result}")),
        Err(ExternalError::Exec(error)) => Err(transport::client::chain(&error)),
        Err(_) => Ok(String::new()),
    };
    report.point("it ends by itself when the request is not JSON", garbage);
    if let Some(trial) = trial {
        let (name, kind) = (trial.step.clone(), trial.kind.as_str());
        let kept = run_trial(program, &manager, trial);
        report.point(&format!("{kind} step {name} runs"), kept);
    }
    report
}

fn executable(program: &Path) -> Result<String, String> {
    let why = match std::fs::metadata(program) {
        Err(error) => error.to_string(),
        Ok(about) if !about.is_file() => "it is no regular file".to_owned(),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => "nobody may execute it; chmod +x helps".to_owned(),
        Ok(_) => return Ok(String::new()),
    };
    Err(format!("{}: {why}", program.display()))
}

fn summary(manager: &ExternalManager) -> String {
    let steps: Vec<String> = [StepKind::Clean, StepKind::Deploy, StepKind::Service]
        .into_iter()
        .flat_map(|kind| {
            let offers = manager.description.steps.of(kind).iter();
            offers.map(move |offer| format!("{}/{} ({})", kind.as_str(), offer.step, offer.priority))
        })
        .collect();
    let steps = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
    let level = match manager.evaluate().0 {
        0 => "0, so it is not used on this machine".to_owned(),
        level => level.to_string(),
    };
    format!("{} {}, support {level}; steps: {steps}", manager.name(), manager.version())
}

fn unexpected(wanted: &str, found: Result<Value, ExternalError>) -> String {
    match found {
        Ok(result) => format!("{wanted} was expected, and not the result {result}"),
        Err(ExternalError::Failed(failure)) => {
            format!("{wanted} was expected, and not class {:?}: {}", failure.class, failure.details)
        }
        Err(error) => format!("{wanted} was expected: {}", transport::client::chain(&error)),
    }
}

fn run_trial(program: &Path, manager: &ExternalManager, trial: Trial) -> Result<String, String> {
    let Some(offer) = manager.offer(trial.kind, &trial.step) else {
        return Err("the description has no such step".to_owned());
    };
    let mut step = Step::new(&offer.interface, &trial.step, offer.priority);
    step.args = trial.args;
    let call = StepCall {
        kind: trial.kind,
        step,
        node: Arc::new(trial.node),
        ports: Arc::new(json!([])),
        control: Arc::new(Unattended),
    };
    let deadline = offer.deadline.map_or(STEP_DEADLINE, Duration::from_secs);
    let mut reports = 0;
    let mut last: Option<Progress> = None;
    let result = run_step(program, deadline, &call, &Stopper::default(), &mut |progress| {
        reports += 1;
        last = Some(progress);
    });
    let last = last.map(|last| format!(", the last one {} {}", last.stage, last.done)).unwrap_or_default();
    match result {
        Ok(result) => Ok(format!("{reports} reports of progress{last}; result {result}")),
        Err(ExternalError::Failed(failure)) => Err(format!("class {:?}: {}", failure.class, failure.details)),
        Err(error) => Err(transport::client::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_executable_file_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let missing = folder.path().join("missing");
        for (path, why) in
            [(&missing, "No such file"), (&plain, "chmod +x"), (&folder.path().to_owned(), "regular file")]
        {
            let report = check(path, None);
            assert_eq!(report.broken, 1);
            assert!(report.text.contains(&path.display().to_string()) && report.text.contains(why), "{}", report.text);
        }
    }
}
