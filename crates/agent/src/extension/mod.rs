//! The extensions: the commands that a driver can give, one file each. Adding one is a file with a table of its commands
//! and a line in [`standard`].

pub mod clean;
pub mod deploy;
pub mod flow;
pub mod image;
pub mod log;
pub mod poll;
pub mod rescue;
pub mod service;
pub mod standby;
pub mod steps;
pub mod system;

use crate::command::params::Param;
use crate::command::{AgentError, Class, Record};
use crate::state::Agent;
use hardware::StepControl;
use serde_json::{Map, Value};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A set of commands under one name.
#[derive(Debug)]
pub struct Extension {
    /// What stands before the dot.
    pub name: &'static str,
    /// The class that has these commands in ironic-python-agent: drivers and people know it from error texts.
    pub python_class: &'static str,
    /// Its commands.
    pub commands: &'static [Command],
}

/// One command.
#[derive(Debug)]
pub struct Command {
    /// What stands after the dot.
    pub name: &'static str,
    /// Whether the caller waits for it anyway.
    pub mode: Mode,
    /// Its parameters.
    pub params: &'static [Param],
    /// Whether it takes parameters beyond these.
    pub open_ended: bool,
    /// A look at the values before the command is accepted.
    pub validate: Option<Validator>,
    /// The command.
    pub run: fn(Call) -> CommandFuture,
}

/// A look at the parameters of a command. An error about the content refuses the command; any other one is recorded as its
/// failure.
pub type Validator = fn(&Agent, &Map<String, Value>) -> Result<(), AgentError>;

/// How a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The answer is there when the submission returns.
    Sync,
    /// It runs on; its record tells when it has ended.
    Async,
}

/// The future of a command.
pub type CommandFuture = Pin<Box<dyn Future<Output = Result<Value, AgentError>> + Send>>;

/// One call of a command. The names and types of its parameters have been checked.
pub struct Call {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The parameters.
    pub params: Map<String, Value>,
    /// Progress and cancelling.
    pub control: Arc<dyn StepControl>,
    /// The commands before this one.
    pub history: Vec<Arc<Record>>,
}

impl Call {
    /// Takes a parameter out; null when it was not given.
    pub fn take(&mut self, name: &str) -> Value {
        self.params.remove(name).unwrap_or_default()
    }

    /// The command was asked to stop and did, before `what`.
    pub fn cancelled(&self, what: &str) -> AgentError {
        AgentError::new(Class::CommandCancelled, format!("stopped on request before {what}"))
    }

    /// Takes a text out; `None` when it was not given or null.
    pub fn take_text(&mut self, name: &str) -> Option<String> {
        match self.take(name) {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

/// The extensions of this agent.
pub fn standard() -> Vec<&'static Extension> {
    vec![
        &clean::EXTENSION,
        &deploy::EXTENSION,
        &flow::EXTENSION,
        &image::EXTENSION,
        &log::EXTENSION,
        &poll::EXTENSION,
        &rescue::EXTENSION,
        &service::EXTENSION,
        &standby::EXTENSION,
        &system::EXTENSION,
    ]
}
