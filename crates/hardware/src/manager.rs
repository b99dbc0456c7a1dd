//! Hardware managers: who implements which step, and the dispatch between them.
//!
//! The rules are those of ironic-python-agent's `hardware.py`: managers are ordered by support level; a call goes to the
//! first one that implements it; lists of steps are merged by name (highest support level, then highest priority, then
//! first class name).
//!
//! Managers are other people's code. One that panics loses that call and nothing else: it is left out of the list, or its
//! step fails, and the others are asked as if it were not there.

use crate::step::{Progress, Step, StepKind};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// The step failed or was stopped, and did something all the same: its result is told beside the error.
    #[error("{error}")]
    Partly {
        /// How it failed.
        error: Box<StepError>,
        /// What would have been its result.
        result: Value,
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

    /// Gets ready for its work. Called once, best manager first, on those that know this machine.
    fn initialize(&self) {}

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
    /// Asks every manager once and keeps those that know the machine, best first, otherwise in the given order, and gets
    /// them ready. Of two with the same name or class name the better one is kept: steps and versions are told apart by
    /// these.
    pub fn load(candidates: Vec<Box<dyn HardwareManager>>) -> Result<Self, NoManager> {
        let mut asked: Vec<(Support, Box<dyn HardwareManager>)> = candidates
            .into_iter()
            .filter_map(|manager| {
                let support = guarded("evaluate", manager.as_ref(), || manager.evaluate()).ok()?;
                (support > Support::NONE).then_some((support, manager))
            })
            .collect();
        asked.sort_by_key(|(support, _)| std::cmp::Reverse(*support));
        let mut managers: Vec<(Support, Box<dyn HardwareManager>)> = Vec::new();
        for (support, manager) in asked {
            let same = |(_, other): &&(Support, Box<dyn HardwareManager>)| {
                other.name() == manager.name() || other.class_name() == manager.class_name()
            };
            if let Some((_, other)) = managers.iter().find(same) {
                let (name, class) = (manager.name(), manager.class_name());
                tracing::error!(name, class, "left out: {} has the same name or class name", other.class_name());
                continue;
            }
            if guarded("initialize", manager.as_ref(), || manager.initialize()).is_ok() {
                managers.push((support, manager));
            }
        }
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
            let offered = guarded("list steps", manager.as_ref(), || manager.steps(kind, node, ports));
            for step in offered.unwrap_or_default() {
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
            match caught(manager.as_ref(), call.clone()).await {
                Ok(Err(StepError::Incompatible(_))) => {}
                Ok(done) => return done,
                // It may have begun: nobody else goes on where it stopped.
                Err(panic) => {
                    let (class, step) = (manager.class_name(), &call.step.step);
                    let details = format!("{class} panicked in step {step}: {panic}");
                    return Err(StepError::Failed { class: "CommandExecutionError", details });
                }
            }
        }
        let StepCall { kind, step, node, ports, .. } = call;
        let there: BTreeSet<String> =
            self.steps(kind, &node, &ports).into_values().flatten().map(|step| step.step).collect();
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        Err(StepError::Failed {
            class: "HardwareManagerMethodNotFound",
            details: format!("Could not find method: {}; the steps for {} are {there}", step.step, kind.as_str()),
        })
    }
}

/// Calls a manager. When it panics, its last words come back, and are in the log.
fn guarded<T>(what: &'static str, manager: &dyn HardwareManager, call: impl FnOnce() -> T) -> Result<T, String> {
    // Nothing of ours is changed inside; what a manager keeps of its own state is its own affair.
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let words = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned());
        tracing::error!(class = manager.class_name(), words, "the hardware manager panicked when it was to {what}");
        words
    })
}

/// Runs a step of a manager; the last words of one that panics.
async fn caught(manager: &dyn HardwareManager, call: StepCall) -> Result<Result<Value, StepError>, String> {
    let mut future = guarded("begin a step", manager, || manager.run(call))?;
    std::future::poll_fn(|context| match guarded("run a step", manager, || future.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
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

    #[derive(Clone, Copy, PartialEq)]
    enum Panics {
        Never,
        InEvaluate,
        InInitialize,
        InSteps,
        InRun,
        AfterWaiting,
    }

    struct Fake {
        class: &'static str,
        support: Support,
        steps: Vec<Step>,
        panics: Panics,
    }

    impl Fake {
        fn new(class: &'static str, support: Support, steps: Vec<Step>) -> Self {
            Self { class, support, steps, panics: Panics::Never }
        }

        fn panicking(self, panics: Panics) -> Self {
            Self { panics, ..self }
        }

        fn at(&self, place: Panics) {
            assert!(self.panics != place, "a panic on purpose");
        }
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
            self.at(Panics::InEvaluate);
            self.support
        }
        fn initialize(&self) {
            self.at(Panics::InInitialize);
        }
        fn steps(&self, _: StepKind, _: &Value, _: &Value) -> Vec<Step> {
            self.at(Panics::InSteps);
            self.steps.clone()
        }
        fn run(&self, call: StepCall) -> StepFuture<'_> {
            self.at(Panics::InRun);
            Box::pin(async move {
                self.at(Panics::AfterWaiting);
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

    fn erase(priority: i64) -> Vec<Step> {
        vec![Step::new("deploy", "erase", priority)]
    }

    fn clean_steps(managers: &Managers) -> BTreeMap<String, Vec<String>> {
        let steps = managers.steps(StepKind::Clean, &Value::Null, &Value::Null);
        steps.into_iter().map(|(class, steps)| (class, steps.into_iter().map(|step| step.step).collect())).collect()
    }

    /// These futures never wait.
    fn run(managers: &Managers, step: &str) -> Result<Value, StepError> {
        let call = StepCall {
            kind: StepKind::Clean,
            step: Step::new("deploy", step, 0),
            node: Arc::default(),
            ports: Arc::default(),
            control: Arc::new(Unattended),
        };
        let mut future = std::pin::pin!(managers.run(call));
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn steps_of_one_name_go_to_the_best_supported_then_highest_priority_then_first_name() {
        let own = vec![Step::new("deploy", "erase", 1), Step::new("raid", "own", 0)];
        let all = managers(vec![
            Fake::new("B", Support::GENERIC, erase(90)),
            Fake::new("A", Support::GENERIC, erase(90)),
            Fake::new("Site", Support::MAINLINE, own),
            Fake::new("None", Support::NONE, vec![Step::new("deploy", "never", 1)]),
        ]);
        let steps = clean_steps(&all);
        assert_eq!(steps["Site"].len(), 2);
        assert!(steps["A"].is_empty() && steps["B"].is_empty());
        assert!(!steps.contains_key("None"));
        let higher =
            managers(vec![Fake::new("A", Support::GENERIC, erase(10)), Fake::new("B", Support::GENERIC, erase(90))]);
        assert_eq!(clean_steps(&higher)["B"], ["erase"]);
        let tie =
            managers(vec![Fake::new("B", Support::GENERIC, erase(90)), Fake::new("A", Support::GENERIC, erase(90))]);
        assert_eq!(clean_steps(&tie)["A"], ["erase"]);
    }

    #[test]
    fn a_step_runs_on_the_best_manager_that_has_it() {
        let all = managers(vec![
            Fake::new("Generic", Support::GENERIC, erase(1)),
            Fake::new("Site", Support(7), vec![Step::new("raid", "own", 0)]),
            Fake::new("Mainline", Support::MAINLINE, erase(0)),
        ]);
        assert_eq!(run(&all, "erase").unwrap(), "Mainline");
        assert_eq!(run(&all, "own").unwrap(), "Site");
        let error = run(&all, "nobody").unwrap_err();
        assert!(matches!(error, StepError::Failed { class: "HardwareManagerMethodNotFound", .. }), "{error:?}");
        assert_eq!(error.to_string(), "Could not find method: nobody; the steps for clean are erase, own");
    }

    #[test]
    fn no_manager_is_an_error_and_two_of_one_name_are_one() {
        assert!(Managers::load(Vec::new()).is_err());
        let twins = managers(vec![
            Fake::new("Site", Support::GENERIC, vec![Step::new("raid", "worse", 0)]),
            Fake::new("Site", Support::MAINLINE, vec![Step::new("raid", "better", 0)]),
        ]);
        assert_eq!(clean_steps(&twins)["Site"], ["better"]);
        assert_eq!(twins.versions().len(), 1);
    }

    #[test]
    fn a_manager_that_panics_does_not_hide_the_others() {
        for (place, offered) in [
            (Panics::InEvaluate, false),
            (Panics::InInitialize, false),
            (Panics::InSteps, true),
            (Panics::InRun, true),
            (Panics::AfterWaiting, true),
        ] {
            let all = managers(vec![
                Fake::new("Bad", Support::SERVICE_PROVIDER, erase(99)).panicking(place),
                Fake::new("Good", Support::GENERIC, erase(1)),
            ]);
            assert_eq!(all.versions().contains_key("Bad"), offered);
            let steps = clean_steps(&all);
            let erases = if place == Panics::InRun || place == Panics::AfterWaiting { "Bad" } else { "Good" };
            assert_eq!(steps[erases], ["erase"]);
        }
    }

    #[test]
    fn a_step_that_panics_fails_and_is_not_begun_again_by_another_manager() {
        for place in [Panics::InRun, Panics::AfterWaiting] {
            let all = managers(vec![
                Fake::new("Bad", Support::SERVICE_PROVIDER, erase(99)).panicking(place),
                Fake::new("Good", Support::GENERIC, erase(1)),
            ]);
            let error = run(&all, "erase").unwrap_err();
            assert!(error.to_string().contains("Bad panicked in step erase: a panic on purpose"), "{error}");
        }
    }
}
