//! Steps that run in containers. Name, version, steps and their arguments are those of ironic-python-agent's
//! `ContainerHardwareManager`, as is the rule of what may run: an image that the ramdisk itself names in its file, or one
//! that the driver allows. An option can undo any rule (`--privileged`, `-v /:/host`), so who may not choose the image may
//! not choose the options either.

use super::steps_file::{self, FileStep};
use super::{ContainerError, check_image};
use crate::command::{AgentError, Class};
use crate::config::Containers;
use crate::extension::steps::failure_class;
use crate::manager::{self, GenericHardwareManager, only_arguments};
use crate::root_disk;
use crate::state::Shared;
use hardware::manager::StepFuture;
use hardware::{HardwareManager, Step, StepCall, StepError, StepKind, Support};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Class and name of the manager.
pub(crate) const NAME: &str = "ContainerHardwareManager";
/// The step that runs any image, and the name that it had before.
const GENERIC: &str = "generic_container_step";
const DEPRECATED: &str = "container_clean_step";
const ARGUMENTS: [&str; 3] = ["container_url", "pull_options", "run_options"];
/// Ways to say that an image lies in a registry. One that lies elsewhere is another image, whatever its name.
const TRANSPORTS: [&str; 2] = ["docker://", "oci://"];

/// The manager of container steps.
pub struct ContainerHardwareManager {
    shared: Arc<Shared>,
}

/// What is to be run.
struct Job {
    image: String,
    pull_options: Vec<String>,
    run_options: Vec<String>,
}

impl ContainerHardwareManager {
    /// A manager of the containers of this machine.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn container(&self, call: &StepCall) -> Result<Value, StepError> {
        let policy = self.shared.settings().containers;
        let name = call.step.step.as_str();
        let job = if [GENERIC, DEPRECATED].contains(&name) {
            only_arguments(NAME, call, &ARGUMENTS, &ARGUMENTS[..1])?;
            asked_for(&call.step.args, &policy).map_err(|error| failure(&error))?
        } else {
            // This manager is asked before others: a file that cannot be used is no reason to fail their steps.
            let steps = file_steps(&self.shared).unwrap_or_else(|error| {
                tracing::error!(%error, "the steps of the file are left out");
                Vec::new()
            });
            let step = steps.into_iter().find(|step| step.name == name);
            let Some(step) = step else { return Err(StepError::Incompatible(name.to_owned())) };
            only_arguments(NAME, call, &[], &[])?;
            of_file(step, &policy)
        };
        check_image(&job.image).map_err(|error| failure(&error))?;
        root_disk::may_write(&self.shared, name).map_err(|error| failure(&error))?;
        let Some(host) = self.shared.containers() else { return Err(StepError::Incompatible(name.to_owned())) };
        let (runner, control) = (policy.runner.as_str(), call.control.as_ref());
        tracing::info!(image = job.image, "container step");
        let mut arguments = job.run_options;
        arguments.push(job.image.clone());
        let done = match host.pull(runner, &job.pull_options, &job.image, control).await {
            Ok(()) => host.run(runner, arguments, control).await,
            Err(error) => Err(error),
        };
        done.map(|()| Value::Null).map_err(|error| self.step_error(call, &policy, &error))
    }

    fn step_error(&self, call: &StepCall, policy: &Containers, error: &ContainerError) -> StepError {
        let reason = transport::client::chain(error);
        match error.class() {
            Some(Class::CommandCancelled) => StepError::Cancelled,
            Some(class) => {
                let runner = &policy.runner;
                let details = format!(
                    "Configured container runner '{runner}' ([container]runner) is not usable in this ramdisk: {reason}"
                );
                StepError::Failed { class: class.name(), details }
            }
            None => {
                let (kind, name) = (call.kind, &call.step.step);
                let details = format!("Unexpected exception performing {} step {name}. {reason}", kind.as_str());
                StepError::Failed { class: failure_class(kind).name(), details }
            }
        }
    }
}

fn failure(error: &AgentError) -> StepError {
    StepError::Failed { class: error.class.name(), details: error.details.clone() }
}

/// The image of a step's arguments, if it may run.
fn asked_for(args: &Map<String, Value>, policy: &Containers) -> Result<Job, AgentError> {
    let image = args.get("container_url").and_then(Value::as_str).filter(|image| !image.is_empty());
    let Some(image) = image else {
        return Err(AgentError::params("container_url must be a non-empty string"));
    };
    let options = |key: &str, configured: &[String]| match args.get(key).filter(|given| !is_empty(given)) {
        Some(given) if policy.allow_arbitrary => {
            words(given).ok_or_else(|| AgentError::params(format!("{key} must be a string or a list of strings")))
        }
        _ => Ok(split(configured)),
    };
    if !policy.allow_arbitrary && !policy.allowed.iter().any(|allowed| plain(allowed) == plain(image)) {
        tracing::error!(image, allowed = policy.allowed.join(", "), "the image is not in allowed_containers");
        let details = format!(
            "Container image {image} is not in [container]allowed_containers and \
             [container]allow_arbitrary_containers is not enabled."
        );
        return Err(AgentError::new(Class::ContainerNotPermittedError, details));
    }
    Ok(Job {
        image: image.to_owned(),
        pull_options: options("pull_options", &policy.pull_options)?,
        run_options: options("run_options", &policy.run_options)?,
    })
}

fn is_empty(given: &Value) -> bool {
    match given {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// The image of a step of the ramdisk's own, which needs no permission.
fn of_file(step: FileStep, policy: &Containers) -> Job {
    let or = |own: Vec<String>, configured: &[String]| if own.is_empty() { split(configured) } else { own };
    Job {
        image: step.image,
        pull_options: or(step.pull_options, &policy.pull_options),
        run_options: or(step.run_options, &policy.run_options),
    }
}

/// An image's name without the way to get it.
fn plain(image: &str) -> &str {
    TRANSPORTS.into_iter().find_map(|transport| image.strip_prefix(transport)).unwrap_or(image)
}

/// Words of options: one text or a list of texts, each with blanks between its words.
pub(super) fn words(given: &Value) -> Option<Vec<String>> {
    let texts = match given {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    Some(split(&texts))
}

fn split(texts: &[String]) -> Vec<String> {
    texts.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
}

/// Whether the ramdisk's file of steps can be used.
pub(crate) fn check_file(shared: &Arc<Shared>) -> Result<(), AgentError> {
    file_steps(shared).map(drop)
}

/// The steps of the ramdisk's file.
///
/// # Errors
///
/// When the file cannot be used, or a step has the name of one of the agent's own: it would run a container instead. Of a name
/// that a manager of the overlay has too, one is offered as of any two managers.
fn file_steps(shared: &Arc<Shared>) -> Result<Vec<FileStep>, AgentError> {
    let Some(host) = shared.containers() else { return Ok(Vec::new()) };
    let wrong = |details: String| AgentError::new(Class::HardwareManagerConfigurationError, details);
    let path = shared.settings().containers.steps_file;
    let steps = steps_file::read(&host.path(&path)).map_err(wrong)?;
    let generic = GenericHardwareManager::new(Arc::clone(shared));
    let kinds = [StepKind::Clean, StepKind::Deploy, StepKind::Service];
    let taken: Vec<Step> = kinds.into_iter().flat_map(|kind| generic.steps(kind, &Value::Null, &Value::Null)).collect();
    for FileStep { name, .. } in &steps {
        let theirs = taken.iter().any(|step| step.step == *name) || manager::not_here(name).is_some();
        if theirs || [GENERIC, DEPRECATED].contains(&name.as_str()) {
            let shown = path.display();
            return Err(wrong(format!(
                "Container step '{name}' collides with an existing hardware manager method and would shadow it. Rename it \
                 in {shown}."
            )));
        }
    }
    Ok(steps)
}

/// A step for any image.
fn offer(name: &str) -> Step {
    let mut step = Step::new("deploy", name, 0);
    (step.reboot_requested, step.abortable) = (Some(false), Some(true));
    step.argsinfo = Some(json!({
        "container_url": {"description": "Container image URL", "required": true},
        "pull_options": {"description": "Pull options", "required": false},
        "run_options": {"description": "Run options", "required": false},
    }));
    step
}

impl HardwareManager for ContainerHardwareManager {
    fn class_name(&self) -> &str {
        NAME
    }

    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        "2"
    }

    fn evaluate(&self) -> Support {
        if self.shared.containers().is_some() { Support::MAINLINE } else { Support::NONE }
    }

    /// The priorities in the file are for automated cleaning alone.
    fn steps(&self, kind: StepKind, _node: &Value, _ports: &Value) -> Vec<Step> {
        let mut steps = vec![offer(GENERIC), offer(DEPRECATED)];
        // Who lists the steps has told what is wrong with the file.
        for own in file_steps(&self.shared).unwrap_or_default() {
            let priority = if kind == StepKind::Clean { own.priority } else { 0 };
            let mut step = Step::new(&own.interface, &own.name, priority);
            (step.reboot_requested, step.abortable) = (Some(own.reboot_requested), Some(own.abortable));
            steps.push(step);
        }
        steps
    }

    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move { self.container(&call).await })
    }
}
