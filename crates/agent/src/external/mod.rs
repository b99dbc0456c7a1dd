//! Hardware managers that are programs of their own: a vendor's executable in the ramdisk, in any language.
//!
//! The page for vendors is `docs/hardware-managers.md`. A program is started for each request and reads one line of JSON; it
//! answers with lines of JSON, of which the last one is a result or an error. It has no environment but `PATH`, a deadline,
//! and bounds on what it says, and nothing that it starts outlives it (`hardware_linux::exec`). What it does wrong is its
//! own failure: other managers go on.

pub mod check;
mod message;

pub use message::{Failure, PROTOCOL};

use crate::command::Class;
use crate::extension::steps::failure_class;
use crate::program::{self, Attended};
use hardware::manager::StepFuture;
use hardware::{HardwareManager, Progress, Step, StepCall, StepError, StepKind, Support};
use hardware_linux::exec::{ExecError, Stopper};
use hardware_linux::{Exec, Finished};
use message::{Answer, Description, Offer, Request};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The folder of the ramdisk whose executables are managers.
pub const FOLDER: &str = "/usr/libexec/ferric/managers";

/// How long a manager may take to describe itself.
const DESCRIBE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a step may take that names no deadline.
const STEP_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// The longest line of an answer, and what is kept of complaints, in bytes.
const MOST_OUTPUT: u64 = 1 << 20;
/// Lines of one answer.
const MOST_LINES: u32 = 100_000;
/// Managers in the folder.
const MOST_MANAGERS: usize = 32;

/// How a program failed to be a manager.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// It could not be run to its end.
    #[error("run the manager")]
    Exec(#[from] ExecError),
    /// It said something that is no answer.
    #[error("{program} wrote a line that {why}")]
    Line {
        /// The program.
        program: String,
        /// What is wrong with the line.
        why: String,
    },
    /// It ended without an answer.
    #[error("{program} ended with {status} and gave neither a result nor an error; its last complaint: {complaint}")]
    NoAnswer {
        /// The program.
        program: String,
        /// Exit status.
        status: String,
        /// The last line on its standard error.
        complaint: String,
    },
    /// It said that it failed.
    #[error("{}", .0.details)]
    Failed(Failure),
    /// Its description cannot be used.
    #[error("the description of {program} cannot be used: {why}")]
    Description {
        /// The program.
        program: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An executable that is a hardware manager.
#[derive(Debug)]
pub struct ExternalManager {
    program: PathBuf,
    description: Description,
}

impl ExternalManager {
    /// Asks a program to describe itself. Blocks, for 30 s at most.
    pub fn describe(program: &Path) -> Result<Self, ExternalError> {
        let answer = call(program, "describe", json!({}), DESCRIBE_DEADLINE, &Stopper::default(), &mut |_| ())?;
        let description = Description::read(answer)
            .map_err(|why| ExternalError::Description { program: program.display().to_string(), why })?;
        Ok(Self { program: program.to_owned(), description })
    }

    fn offer(&self, kind: StepKind, step: &str) -> Option<&Offer> {
        self.description.steps.of(kind).iter().find(|offer| offer.step == step)
    }
}

/// The managers in a folder, by file name. Those that cannot be used are named in the log and left out. Blocks.
pub fn load(folder: &Path) -> Vec<ExternalManager> {
    let mut programs = executables(folder);
    for surplus in programs.drain(programs.len().min(MOST_MANAGERS)..) {
        tracing::error!(program = %surplus.display(), "left out: more than {MOST_MANAGERS} managers");
    }
    // Side by side: one that hangs holds nobody up longer than its own deadline.
    let described: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            programs.iter().map(|program| scope.spawn(move || ExternalManager::describe(program))).collect();
        asked.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut managers = Vec::new();
    for (program, described) in programs.iter().zip(described) {
        match described {
            Ok(Ok(manager)) => {
                let Description { name, version, support, .. } = &manager.description;
                tracing::info!(program = %program.display(), name, version, support, "hardware manager");
                managers.push(manager);
            }
            Ok(Err(error)) => {
                let error = transport::client::chain(&error);
                tracing::error!(program = %program.display(), error, "no hardware manager; going on without it");
            }
            Err(_) => tracing::error!(program = %program.display(), "no hardware manager: asking it panicked"),
        }
    }
    managers
}

/// The executable files of a folder in the order of their names; none when there is no such folder.
fn executables(folder: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "hardware managers cannot be looked for");
            return Vec::new();
        }
    };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_executable(path)).collect();
    found.sort();
    found
}

fn is_executable(path: &Path) -> bool {
    let executable =
        std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    if !executable {
        tracing::warn!(path = %path.display(), "not an executable file, so no hardware manager");
    }
    executable
}

/// One request and its answer. Blocks.
pub(crate) fn call(
    program: &Path,
    method: &str,
    params: Value,
    deadline: Duration,
    stopper: &Stopper,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value, ExternalError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut input = json!(Request { id, protocol: PROTOCOL, method, params }).to_string().into_bytes();
    input.push(b'\n');
    exchange(program, &input, id, deadline, stopper, progress)
}

fn exchange(
    program: &Path,
    input: &[u8],
    id: u64,
    deadline: Duration,
    stopper: &Stopper,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value, ExternalError> {
    let name = program.display().to_string();
    let mut lines = 0;
    let mut answer = None;
    let exec = Exec::new(&name).deadline(deadline).most_output(MOST_OUTPUT);
    let finished = exec.converse(input, stopper, &mut |line| {
        lines += 1;
        let read = if lines > MOST_LINES {
            Err(format!("is its {lines}th, and {MOST_LINES} are the most"))
        } else {
            message::read(line, id)
        };
        match read {
            Ok(Answer::Progress(told)) => {
                progress(told);
                return ControlFlow::Continue(());
            }
            Ok(Answer::Result(result)) => answer = Some(Ok(result)),
            Ok(Answer::Error(failure)) => answer = Some(Err(ExternalError::Failed(failure))),
            Err(why) => answer = Some(Err(ExternalError::Line { program: name.clone(), why })),
        }
        ControlFlow::Break(())
    });
    match (answer, finished) {
        (Some(answer), _) => answer,
        (None, Err(error)) => Err(error.into()),
        (None, Ok(finished)) => Err(no_answer(&finished)),
    }
}

fn no_answer(finished: &Finished) -> ExternalError {
    ExternalError::NoAnswer {
        program: finished.program.clone(),
        status: finished.status.to_string(),
        complaint: finished.complaint(),
    }
}

/// Runs a step and tells its progress. Blocks.
fn run_step(
    program: &Path,
    deadline: Duration,
    call: &StepCall,
    stopper: &Stopper,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value, ExternalError> {
    let StepCall { kind, step, node, ports, .. } = call;
    let params = json!({"kind": kind.as_str(), "step": step, "node": **node, "ports": **ports});
    self::call(program, "run", params, deadline, stopper, progress)
}

/// The failure of a program as the failure of a step.
fn step_error(kind: StepKind, step: &str, error: ExternalError) -> StepError {
    let failed = |class: Class, details| StepError::Failed { class: class.name(), details };
    match error {
        ExternalError::Failed(Failure { class, details }) => match Class::named(&class) {
            Class::IncompatibleHardwareMethodError => StepError::Incompatible(step.to_owned()),
            Class::TypeError => StepError::Arguments(details),
            Class::CommandCancelled => StepError::Cancelled,
            // The class of names that nobody knows.
            Class::RestError => failed(failure_class(kind), details),
            known => failed(known, details),
        },
        broken => failed(failure_class(kind), transport::client::chain(&broken)),
    }
}

impl HardwareManager for ExternalManager {
    fn class_name(&self) -> &str {
        self.description.class_name()
    }

    fn name(&self) -> &str {
        &self.description.name
    }

    fn version(&self) -> &str {
        &self.description.version
    }

    fn evaluate(&self) -> Support {
        Support(self.description.support)
    }

    fn steps(&self, kind: StepKind, _node: &Value, _ports: &Value) -> Vec<Step> {
        let offers = self.description.steps.of(kind).iter();
        offers
            .map(|offer| Step {
                argsinfo: offer.argsinfo.clone().map(Value::Object),
                abortable: Some(offer.abortable),
                reboot_requested: Some(offer.reboot_requested),
                ..Step::new(&offer.interface, &offer.step, offer.priority)
            })
            .collect()
    }

    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            let (kind, name) = (call.kind, call.step.step.clone());
            let Some(offer) = self.offer(kind, &name) else { return Err(StepError::Incompatible(name)) };
            let deadline = offer.deadline.map_or(STEP_DEADLINE, Duration::from_secs);
            let (program, control) = (self.program.clone(), std::sync::Arc::clone(&call.control));
            let Attended { ended, asked } = program::attend(&name, control.as_ref(), move |stopper| {
                run_step(&program, deadline, &call, stopper, &mut |progress| call.control.report(progress))
            })
            .await;
            match ended {
                // Done before it could be stopped is done.
                Ok(Ok(result)) => Ok(result),
                Ok(Err(_)) if asked => Err(StepError::Cancelled),
                Ok(Err(error)) => Err(step_error(kind, &name, error)),
                Err(error) => {
                    let details = format!("running {} ended unexpectedly: {error}", self.program.display());
                    Err(StepError::Failed { class: failure_class(kind).name(), details })
                }
            }
        })
    }
}
