//! Talking to agents. [`rest`] dials them, [`stream`] has those that dialled in; both are ways of the same trait.

pub mod rest;
pub mod stream;

use futures::future::BoxFuture;
use std::sync::Arc;
use uuid::Uuid;
use wire::agent::{CommandRequest, CommandResult};

/// Where an agent is and how it is known to be the right one.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentAddress {
    /// Base URL that the agent gave in its heartbeat.
    pub url: String,
    /// Token that it knows.
    pub token: String,
    /// Its certificate, PEM: nobody else is believed. Without one the public roots are.
    pub certificate: Option<String>,
}

impl std::fmt::Debug for AgentAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentAddress").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why an agent did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// It carries out another command. It is asked again at its next heartbeat.
    #[error("the agent is busy: {0}")]
    Busy(String),
    /// It did not answer. Whether it has seen the command is not known.
    #[error("the agent does not answer: {0}")]
    Unreachable(String),
    /// It refused.
    #[error("the agent refused the command with status {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        text: String,
    },
    /// Its answer is not the protocol's.
    #[error("the agent's answer is not understood: {0}")]
    Protocol(String),
}

/// An agent that can be reached.
pub trait Agent: Send + Sync {
    /// All commands it was given since it was booted, in order.
    fn commands(&self) -> BoxFuture<'_, Result<Vec<CommandResult>, AgentError>>;

    /// Gives it a command. `wait`: the answer comes when the command has ended.
    fn execute(&self, command: CommandRequest, wait: bool) -> BoxFuture<'_, Result<CommandResult, AgentError>>;

    /// Gives it a command under an id of the driver's. One that it has under this id it does not carry out again. Where the
    /// agent makes its ids itself, this one is not used.
    fn execute_as(&self, _id: Uuid, command: CommandRequest) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        self.execute(command, false)
    }

    /// Has it stop a command at its next safe point; the command's end is to be seen in the list. An agent that knows no such
    /// request refuses it.
    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), AgentError>>;
}

/// The id of a command that an agent told, to ask for it.
fn uuid_of(id: &str) -> Result<Uuid, AgentError> {
    Uuid::try_parse(id).map_err(|_| AgentError::Protocol(format!("the id of its command, {id:?}, is no UUID")))
}

/// Ways to agents.
pub trait Agents: Send + Sync {
    /// A way to this agent; nothing is sent yet.
    fn reach(&self, address: &AgentAddress) -> Result<Arc<dyn Agent>, AgentError>;
}
