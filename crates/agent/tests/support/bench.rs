//! A drive on a machine of its own, and time that passes while it works.

#![allow(dead_code, reason = "each test program uses a part of it")]

use super::{Rig, rig, settings};
use agent::manager::GenericHardwareManager;
use hardware::{HardwareManager as _, Progress, Step, StepCall, StepControl, StepError, StepKind};
use hardware_sim::SimMachine;
use hardware_sim::drive::{SimClock, SimDrive};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Time that passes whenever somebody waits for it, for the agent and for the drive.
#[derive(Debug)]
struct Hurry(SimClock);

/// Shorter than anything that is waited for.
const TICK: Duration = Duration::from_secs(30);

impl StepControl for Hurry {
    fn report(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.0.advance(TICK);
            tokio::time::advance(TICK).await;
        })
    }
}

/// A drive on a machine of its own.
pub(crate) struct Bench {
    clock: SimClock,
    pub(crate) drive: SimDrive,
    rig: Rig,
}

impl Bench {
    pub(crate) fn new(drive: impl FnOnce(&SimClock) -> SimDrive) -> Self {
        let clock = SimClock::default();
        let drive = drive(&clock);
        let machine = SimMachine::new();
        machine.add_drive(&drive);
        Self { rig: rig(machine, settings()), clock, drive }
    }

    /// The step, and what it says of the drive.
    pub(crate) async fn erase(&self, step: &str, internal: &Value) -> (Result<Value, StepError>, Value) {
        let result = run(&self.rig, &self.clock, step, internal).await;
        let told = proofs(&result).into_iter().next().unwrap_or_default();
        (result, told)
    }

    /// Blocks of those that are said to be erased that hold what they held.
    fn left(&self, told: &Value) -> usize {
        if told["method"] != "metadata" {
            return self.drive.old_blocks();
        }
        let (mebibyte, size) = (1 << 20, self.drive.disk().size);
        let further = [2, 4].map(|at| at * mebibyte..at * mebibyte + 4096);
        let places = [0..mebibyte + 4096, size - mebibyte..size].into_iter().chain(further);
        places.map(|place| self.drive.old_blocks_in(place)).sum()
    }

    /// The promise.
    pub(crate) fn is_kept(&self, result: &Result<Value, StepError>, told: &Value) -> Result<(), String> {
        let (left, all) = (self.left(told), 16384);
        let verified = told["outcome"] == "verified";
        match (result, verified) {
            (Ok(_), _) if told["outcome"] == "failed" || told.is_null() => Err("a success without a proof".to_owned()),
            (_, true) if left > 0 => Err(format!("{left} of {all} blocks hold what they held")),
            (_, true) if self.drive.has_password() => Err("a password is left".to_owned()),
            (_, true) if told["reading"].is_null() => Err("nothing was read back".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A step of a clean on a machine with such drives.
pub(crate) async fn run(rig: &Rig, clock: &SimClock, step: &str, internal: &Value) -> Result<Value, StepError> {
    let manager = GenericHardwareManager::new(Arc::clone(&rig.agent.shared));
    let call = StepCall {
        kind: StepKind::Clean,
        step: Step::new("deploy", step, 10),
        node: Arc::new(json!({"driver_internal_info": internal})),
        ports: Arc::default(),
        control: Arc::new(Hurry(clock.clone())),
    };
    manager.run(call).await
}

/// What a step says of each disk, in order.
pub(crate) fn proofs(result: &Result<Value, StepError>) -> Vec<Value> {
    match result {
        Ok(proofs) | Err(StepError::Partly { result: proofs, .. }) => proofs.as_array().cloned().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}
