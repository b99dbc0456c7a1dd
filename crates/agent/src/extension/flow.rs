//! `flow`: several commands as one.

use super::{Call, Command, Extension, Mode, standard};
use crate::command::params::{Kind, kind_of, required};
use crate::command::{AgentError, Class, Dispatcher, find, split};
use crate::state::Agent;
use serde_json::{Map, Value};
use std::sync::Arc;
use wire::agent::CommandRequest;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "flow",
    python_class: "FlowExtension",
    commands: &[Command {
        name: "start_flow",
        mode: Mode::Async,
        params: &[required("flow", Kind::List)],
        open_ended: false,
        validate: Some(validate),
        run: |call| Box::pin(start_flow(call)),
    }],
};

/// Looks all names up before the first command runs.
fn validate(_: &Agent, params: &Map<String, Value>) -> Result<(), AgentError> {
    let Some(Value::Array(tasks)) = params.get("flow") else {
        return Err(AgentError::params("parameter 'flow' is missing; it is a list of objects {command: parameters}"));
    };
    let extensions = standard();
    for task in tasks {
        let Value::Object(task) = task else {
            let found = kind_of(task);
            return Err(AgentError::params(format!("a task of a flow must be an object, but is {found}")));
        };
        for (name, params) in task {
            let (extension, command) = split(name)?;
            find(&extensions, extension, command).map_err(|error| match error.class {
                Class::InvalidCommandError => {
                    AgentError::params(format!("Extension {extension} doesn't provide {command} method"))
                }
                _ => error,
            })?;
            if !params.is_object() {
                let found = kind_of(params);
                return Err(AgentError::params(format!("parameters of {name} must be an object, but are {found}")));
            }
        }
    }
    Ok(())
}

/// Runs one command after the other. They are in a list of their own: a driver sees the flow alone.
async fn start_flow(mut call: Call) -> Result<Value, AgentError> {
    let commands = Dispatcher::new(Arc::clone(&call.agent), standard());
    let tasks = match call.take("flow") {
        Value::Array(tasks) => tasks,
        _ => Vec::new(),
    };
    for (name, params) in tasks.into_iter().filter_map(object).flatten() {
        if call.control.is_cancelled() {
            return Err(call.cancelled(&name));
        }
        tracing::info!(command = name, "next command of the flow");
        let params = object(params).unwrap_or_default();
        let record = commands.submit(CommandRequest { name: name.clone(), params }).await?;
        tokio::select! {
            biased;
            () = record.wait() => {}
            () = call.control.cancelled() => {
                record.cancel();
                record.wait().await;
            }
        }
        match record.failure() {
            None => {}
            Some(error) if error.class == Class::CommandCancelled => return Err(error),
            Some(_) => return Err(AgentError::failed(format!("{name} was failed"))),
        }
    }
    Ok(Value::Null)
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}
