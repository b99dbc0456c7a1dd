//! An agent whose steps and commands end in all ways, panics among them.

use super::{Rig, settings};
use agent::extension::{self, Command, Extension, Mode};
use agent::{Agent, Dispatcher};
use hardware::manager::StepFuture;
use hardware::{HardwareManager, Step, StepCall, StepError, StepKind, Support};
use hardware_sim::{SimMachine, disk};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A manager with steps that end in all ways.
struct Odd;

impl HardwareManager for Odd {
    fn class_name(&self) -> &str {
        "Odd"
    }
    fn name(&self) -> &str {
        "odd"
    }
    fn version(&self) -> &str {
        "1"
    }
    fn evaluate(&self) -> Support {
        Support::MAINLINE
    }
    fn steps(&self, _: StepKind, _: &Value, _: &Value) -> Vec<Step> {
        vec![Step::new("deploy", "endless", 0)]
    }
    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            match call.step.step.as_str() {
                "endless" => {
                    call.control.cancelled().await;
                    Err(StepError::Cancelled)
                }
                "deaf" => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok(json!("done"))
                }
                "panics" => panic!("the {} step fell over", call.step.step),
                other => Err(StepError::Incompatible(other.to_owned())),
            }
        })
    }
}

/// Commands with a fault of their own.
static FAULTY: Extension = Extension {
    name: "faulty",
    python_class: "FaultyExtension",
    commands: &[
        Command {
            name: "now",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: None,
            run: |_| Box::pin(async { panic!("fell over at once") }),
        },
        Command {
            name: "later",
            mode: Mode::Async,
            params: &[],
            open_ended: false,
            validate: None,
            run: |_| Box::pin(async { panic!("fell over later") }),
        },
        Command {
            name: "never",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: Some(|_, _| panic!("fell over before it began")),
            run: |_| Box::pin(async { Ok(Value::Null) }),
        },
    ],
};

pub fn odd_rig() -> Rig {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    let machine = Arc::new(machine);
    let built = Agent::builder(Arc::clone(&machine) as _, settings()).manager(Odd).build();
    let (agent, _) = built.unwrap();
    let mut extensions = extension::standard();
    extensions.push(&FAULTY);
    let dispatcher = Dispatcher::new(Arc::clone(&agent), extensions);
    Rig { machine, agent, dispatcher }
}

pub fn step(name: &str) -> Value {
    json!({"step": {"step": name, "interface": "deploy"}, "node": {"uuid": "n"}, "ports": []})
}
