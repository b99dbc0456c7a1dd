//! Hardware managers: who implements which step, and the dispatch between them.
//!
//! The rules are those of ironic-python-agent's `hardware.py`: managers are ordered by support level; a call goes to the
//! first one that implements it; lists of steps are merged by name (highest support level, then highest priority, then
//! first class name).

use crate::step::{Progress, Step, StepKind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// How well a manager knows this machine. Higher wins; `NONE` is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Support(pub u32);

impl Support {
    /// Not this machine.
    pub const NONE: Self = Self(0);
    /// Anything that runs Linux.
    pub const GENERIC: Self = Self(1);
    /// This kind of hardware.
    pub const MAINLINE: Self = Self(2);
    /// This very site.
    pub const SERVICE_PROVIDER: Self = Self(3);
}

/// What a running step tells, and how it is told to stop.
pub trait StepControl: Send + Sync + std::fmt::Debug {
    /// Tells how far the step is.
    fn report(&self, progress: Progress);

    /// Whether the step was told to stop. It does so at its next safe point, with [`StepError::Cancelled`].
    fn is_cancelled(&self) -> bool;

    /// Ends when the step is told to stop.
    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A control that nobody holds: reports go nowhere and nothing is ever stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unattended;

impl StepControl for Unattended {
    fn report(&self, _: Progress) {}
    fn is_cancelled(&self) -> bool {
        false
    }
    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// One run of a step.
#[derive(Debug, Clone)]
pub struct StepCall {
    /// Clean, deploy or service.
    pub kind: StepKind,
    /// The step with its arguments.
    pub step: Step,
    /// The node document, open-ended.
    pub node: Arc<Value>,
    /// The port documents, open-ended.
    pub ports: Arc<Value>,
    /// Progress and cancelling.
    pub control: Arc<dyn StepControl>,
}

/// How a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// This manager does not implement the step; the next one is asked.
    #[error("step {0} is not implemented here")]
    Incompatible(String),
    /// The arguments are wrong.
    #[error("{0}")]
    Arguments(String),
    /// The step was stopped on request.
    #[error("the step was cancelled")]
    Cancelled,
    /// The step failed, with the error class that the agent protocol has for it and the whole reason.
    #[error("{details}")]
    Failed {
        /// Class name of the protocol, such as `ImageChecksumError`.
        class: &'static str,
        /// The whole reason, for people.
        details: String,
    },
}

/// The future of a step.
pub type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send + 'a>>;

/// Somebody who knows how to do steps on this machine.
pub trait HardwareManager: Send + Sync {
    /// The key of its steps in the reply to `get_*_steps`; for Ironic's own managers the Python class name.
    fn class_name(&self) -> &str;

    /// The key of its version.
    fn name(&self) -> &str;

    /// Its version; a change within one boot is a version mismatch.
    fn version(&self) -> &str;

    /// How well it knows this machine. Asked once.
    fn evaluate(&self) -> Support;

    /// The steps it offers.
    fn steps(&self, kind: StepKind, node: &Value, ports: &Value) -> Vec<Step>;

    /// Runs one of its steps; [`StepError::Incompatible`] for one that it does not have.
    fn run(&self, call: StepCall) -> StepFuture<'_>;
}

/// The managers of a machine, best first.
pub struct Managers {
    managers: Vec<(Support, Box<dyn HardwareManager>)>,
}

/// No manager knows this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no hardware manager supports this machine")]
pub struct NoManager;

impl Managers {
    /// Asks every manager once and keeps those that know the machine, best first, otherwise in the given order.
    pub fn load(candidates: Vec<Box<dyn HardwareManager>>) -> Result<Self, NoManager> {
        let mut managers: Vec<_> = candidates.into_iter().map(|manager| (manager.evaluate(), manager)).collect();
        managers.retain(|(support, _)| *support > Support::NONE);
        managers.sort_by_key(|(support, _)| std::cmp::Reverse(*support));
        if managers.is_empty() { Err(NoManager) } else { Ok(Self { managers }) }
    }

    /// Manager name → version, the whole map being what a driver compares.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.managers.iter().map(|(_, manager)| (manager.name().to_owned(), manager.version().to_owned())).collect()
    }

    /// Class name → steps, each step name offered once.
    pub fn steps(&self, kind: StepKind, node: &Value, ports: &Value) -> BTreeMap<String, Vec<Step>> {
        struct Offer {
            rank: (std::cmp::Reverse<Support>, std::cmp::Reverse<i64>, String),
            step: Step,
        }
        let mut best: BTreeMap<String, Offer> = BTreeMap::new();
        let mut merged: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for (support, manager) in &self.managers {
            merged.entry(manager.class_name().to_owned()).or_default();
            for step in manager.steps(kind, node, ports) {
                let rank =
                    (std::cmp::Reverse(*support), std::cmp::Reverse(step.priority), manager.class_name().to_owned());
                match best.get(&step.step) {
                    Some(offer) if offer.rank <= rank => {}
                    _ => {
                        best.insert(step.step.clone(), Offer { rank, step });
                    }
                }
            }
        }
        for offer in best.into_values() {
            merged.entry(offer.rank.2).or_default().push(offer.step);
        }
        merged
    }

    /// Runs a step on the first manager that implements it. The interface is not used for routing, as in the field.
    pub async fn run(&self, call: StepCall) -> Result<Value, StepError> {
        for (_, manager) in &self.managers {
            match manager.run(call.clone()).await {
                Err(StepError::Incompatible(_)) => {}
                done => return done,
            }
        }
        let name = call.step.step;
        Err(StepError::Failed {
            class: "HardwareManagerMethodNotFound",
            details: format!("Could not find method: {name}"),
        })
    }
}

/// Reads a typed argument of a step; a wrong one is an error that names it.
pub fn argument<T: serde::de::DeserializeOwned>(args: &Map<String, Value>, name: &str) -> Result<Option<T>, StepError> {
    match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| StepError::Arguments(format!("argument {name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fake {
        class: &'static str,
        support: Support,
        steps: Vec<Step>,
    }

    impl HardwareManager for Fake {
        fn class_name(&self) -> &str {
            self.class
        }
        fn name(&self) -> &str {
            self.class
        }
        fn version(&self) -> &str {
            "1"
        }
        fn evaluate(&self) -> Support {
            self.support
        }
        fn steps(&self, _: StepKind, _: &Value, _: &Value) -> Vec<Step> {
            self.steps.clone()
        }
        fn run(&self, call: StepCall) -> StepFuture<'_> {
            Box::pin(async move {
                if self.steps.iter().any(|step| step.step == call.step.step) {
                    Ok(json!(self.class))
                } else {
                    Err(StepError::Incompatible(call.step.step))
                }
            })
        }
    }

    fn managers(fakes: Vec<Fake>) -> Managers {
        Managers::load(fakes.into_iter().map(|fake| Box::new(fake) as Box<dyn HardwareManager>).collect()).unwrap()
    }

    #[test]
    fn steps_of_one_name_go_to_the_best_supported_then_highest_priority_then_first_name() {
        let all = managers(vec![
            Fake { class: "B", support: Support::GENERIC, steps: vec![Step::new("deploy", "erase", 90)] },
            Fake { class: "A", support: Support::GENERIC, steps: vec![Step::new("deploy", "erase", 90)] },
            Fake {
                class: "Site",
                support: Support::MAINLINE,
                steps: vec![Step::new("deploy", "erase", 1), Step::new("raid", "own", 0)],
            },
            Fake { class: "None", support: Support::NONE, steps: vec![Step::new("deploy", "never", 1)] },
        ]);
        let steps = all.steps(StepKind::Clean, &Value::Null, &Value::Null);
        assert_eq!(steps["Site"].len(), 2);
        assert!(steps["A"].is_empty() && steps["B"].is_empty());
        assert!(!steps.contains_key("None"));
        let tie = managers(vec![
            Fake { class: "B", support: Support::GENERIC, steps: vec![Step::new("deploy", "erase", 90)] },
            Fake { class: "A", support: Support::GENERIC, steps: vec![Step::new("deploy", "erase", 90)] },
        ]);
        assert_eq!(tie.steps(StepKind::Clean, &Value::Null, &Value::Null)["A"].len(), 1);
    }
}
