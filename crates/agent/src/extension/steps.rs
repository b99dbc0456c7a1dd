//! The steps protocol, which cleaning, deploying and servicing share: list the steps that hardware managers offer, and
//! run one of them.

use super::Call;
use crate::command::params::python;
use crate::command::{AgentError, Class};
use crate::container;
use hardware::{Step, StepCall, StepError, StepKind};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use wire::agent::StepList;

/// `get_<kind>_steps`.
pub(super) fn list(kind: StepKind, mut call: Call) -> Result<Value, AgentError> {
    let node = call.take("node");
    let ports = call.take("ports");
    call.agent.shared.cache_node(node.clone());
    let managers = &call.agent.managers;
    // A file of steps that cannot be used is no file without steps.
    container::manager::check_file(&call.agent.shared)?;
    let list = StepList { steps: managers.steps(kind, &node, &ports), hardware_manager_version: managers.versions() };
    Ok(list.to_value(kind))
}

/// `execute_<kind>_step`. The step comes back as it was received: a driver that finds another one there waits for ever.
pub(super) async fn execute(kind: StepKind, mut call: Call) -> Result<Value, AgentError> {
    let received = call.take("step");
    let node = call.take("node");
    let ports = call.take("ports");
    let version = call.take(&format!("{}_version", kind.as_str()));
    call.agent.shared.cache_node(node.clone());
    let own = json!(call.agent.managers.versions());
    if !version.is_null() && version != own {
        let (own, other) = (python(&own), python(&version));
        let details = format!("Current versions: {own}, versions used by ironic: {other}");
        return Err(AgentError::new(Class::VersionMismatch, details));
    }
    let step = read_step(kind, &received, std::mem::take(&mut call.params))?;
    let name = step.step.clone();
    tracing::info!(step = name, kind = kind.as_str(), "step");
    let step_call = StepCall { kind, step, node: Arc::new(node), ports: Arc::new(ports), control: call.control };
    let told = |result: Value| {
        let kind = kind.as_str();
        json!({format!("{kind}_result"): result, format!("{kind}_step"): received})
    };
    match call.agent.managers.run(step_call).await {
        Ok(result) => Ok(told(result)),
        Err(StepError::Partly { error, result }) => Err(step_error(kind, &name, *error).with_result(told(result))),
        Err(error) => Err(step_error(kind, &name, error)),
    }
}

/// Reads a step leniently: Ironic leaves keys out. `extra` are parameters of the command that are meant for the step;
/// the step's own `args` win.
fn read_step(kind: StepKind, received: &Value, extra: Map<String, Value>) -> Result<Step, AgentError> {
    let malformed =
        |why: &str| AgentError::failed(format!("Malformed {}_step, {why}: {}", kind.as_str(), python(received)));
    let name = match received.get("step") {
        None => return Err(malformed("no \"step\" key")),
        Some(Value::String(name)) => name,
        Some(_) => return Err(malformed("\"step\" is not a string")),
    };
    let mut args = extra;
    match received.get("args") {
        None | Some(Value::Null) => {}
        Some(Value::Object(own)) => args.extend(own.clone()),
        Some(_) => return Err(malformed("\"args\" is not an object")),
    }
    let interface = received.get("interface").and_then(Value::as_str).unwrap_or_default();
    let mut step = Step::new(interface, name, received.get("priority").and_then(Value::as_i64).unwrap_or_default());
    step.args = args;
    Ok(step)
}

/// The class of a step that failed in no way that the protocol has a class for.
pub(crate) fn failure_class(kind: StepKind) -> Class {
    match kind {
        StepKind::Clean => Class::CleaningError,
        StepKind::Deploy => Class::DeploymentError,
        StepKind::Service => Class::ServicingError,
    }
}

fn step_error(kind: StepKind, name: &str, error: StepError) -> AgentError {
    match error {
        // Every manager was asked before this; `Managers::run` has turned it into a class of its own.
        StepError::Incompatible(step) => {
            AgentError::new(Class::HardwareManagerMethodNotFound, format!("Could not find method: {step}"))
        }
        StepError::Arguments(text) => AgentError::new(
            failure_class(kind),
            format!("Unexpected exception performing {} step {name}. TypeError: {text}", kind.as_str()),
        ),
        StepError::Cancelled => AgentError::new(Class::CommandCancelled, format!("step {name} was stopped on request")),
        StepError::Failed { class, details } => AgentError::new(Class::named(class), details),
        StepError::Partly { error, .. } => step_error(kind, name, *error),
    }
}
