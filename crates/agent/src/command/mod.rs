//! The dispatcher: one plain function makes the protocol's checks in their exact order and records a command that
//! outlives its request. REST is one adapter of it ([`crate::api`]); other transports call the same function.

pub mod error;
pub mod params;
pub mod record;

use crate::contain;
use crate::extension::{Call, Command, Extension, Mode};
use crate::state::Agent;
pub use error::{AgentError, Class};
pub use record::Record;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;
use uuid::Uuid;
use wire::agent::CommandRequest;

/// Accepts commands, one at a time, and remembers them.
pub struct Dispatcher {
    agent: Arc<Agent>,
    extensions: Vec<&'static Extension>,
    /// Submissions are made one after the other; a synchronous command runs under it.
    turn: tokio::sync::Mutex<()>,
    records: RwLock<Records>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct Records {
    order: Vec<Arc<Record>>,
    by_id: HashMap<String, usize>,
}

impl Dispatcher {
    /// A dispatcher with no commands yet.
    pub fn new(agent: Arc<Agent>, extensions: Vec<&'static Extension>) -> Arc<Self> {
        let news = watch::Sender::new(());
        Arc::new(Self { agent, extensions, turn: tokio::sync::Mutex::new(()), records: RwLock::default(), news })
    }

    /// Checks a command and starts it. An error means that nothing was recorded; how the command itself ends is in its
    /// record. A synchronous command has ended when this returns.
    pub async fn submit(self: &Arc<Self>, request: CommandRequest) -> Result<Arc<Record>, AgentError> {
        self.submit_as(Uuid::new_v4(), request).await
    }

    /// As [`Self::submit`], with an id that the driver chose. A command that has this id already is not begun again: its
    /// record is returned.
    pub async fn submit_as(self: &Arc<Self>, id: Uuid, request: CommandRequest) -> Result<Arc<Record>, AgentError> {
        // On a task of its own: a command belongs to the agent, so a client that goes away does not stop it half-way. The
        // mark of the request does not follow it there.
        let this = Arc::clone(self);
        let name = request.name.clone();
        match tokio::spawn(contain::request(this.submit_in_turn(id, request))).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(command = name, %error, "a submission panicked");
                Err(AgentError::failed(format!("{name} ended unexpectedly: {error}")))
            }
        }
    }

    async fn submit_in_turn(self: Arc<Self>, id: Uuid, request: CommandRequest) -> Result<Arc<Record>, AgentError> {
        let _turn = self.turn.lock().await;
        if let Ok(known) = self.get(&id.to_string()) {
            return Ok(known);
        }
        let CommandRequest { name, params } = request;
        let (extension_name, command_name) = split(&name)?;
        // Before anything is looked up: a driver that talks to a busy agent has to hear that, whatever it says.
        if let Some(last) = self.last().filter(|last| last.is_running()) {
            return Err(AgentError::new(Class::AgentIsBusy, format!("executing command {}", last.name())));
        }
        let (extension, command) = find(&self.extensions, extension_name, command_name)?;
        params::check_types(command, &params)?;
        // Names only: values may be secrets.
        let names: Vec<&str> = params.keys().map(String::as_str).collect();
        tracing::info!(command = name, params = ?names, "command");
        let record = Record::begin(id, command.name, self.news.clone());
        if let Some(validate) = command.validate
            && let Err(error) = validate(&self.agent, &params)
        {
            if error.class.refuses_content() {
                return Err(error);
            }
            self.finish(&record, Err(error));
            self.remember(&record);
            return Ok(record);
        }
        let call = Call {
            agent: Arc::clone(&self.agent),
            params,
            control: Arc::clone(&record) as Arc<dyn hardware::StepControl>,
            history: self.list(),
        };
        let misfit = params::misfit(extension, command, &call.params);
        match command.mode {
            Mode::Sync => {
                let outcome = match misfit {
                    Some(text) => Err(AgentError::new(Class::TypeError, text)),
                    None => run_contained(command, call).await,
                };
                match outcome {
                    Err(error) if error.class.refuses_content() => return Err(error),
                    outcome => self.finish(&record, outcome),
                }
                self.remember(&record);
            }
            Mode::Async => {
                self.remember(&record);
                let this = Arc::clone(&self);
                let started = Arc::clone(&record);
                tokio::spawn(async move { this.run(command, call, misfit, started).await });
            }
        }
        Ok(record)
    }

    async fn run(&self, command: &'static Command, call: Call, misfit: Option<String>, record: Arc<Record>) {
        let outcome = match misfit {
            Some(text) => Err(AgentError::failed(text)),
            None => run_contained(command, call).await,
        };
        self.finish(&record, outcome);
        self.agent.command_ended.notify_one();
    }

    fn finish(&self, record: &Record, outcome: Result<Value, AgentError>) {
        match &outcome {
            Ok(_) => {
                let peak_memory_kib = crate::memory::resident().peak;
                tracing::info!(command = record.name(), peak_memory_kib, "command succeeded");
            }
            Err(error) => {
                tracing::error!(command = record.name(), class = error.class.name(), %error, "command failed");
            }
        }
        record.end(outcome);
    }

    fn remember(&self, record: &Arc<Record>) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let place = records.order.len();
        records.order.push(Arc::clone(record));
        records.by_id.insert(record.id().to_owned(), place);
        drop(records);
        self.news.send_replace(());
    }

    fn last(&self) -> Option<Arc<Record>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).order.last().cloned()
    }

    /// All commands in the order in which they were accepted.
    pub fn list(&self) -> Vec<Arc<Record>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).order.clone()
    }

    /// Tells when a command was accepted, when one has ended, and when one that runs is at another stage or stalls.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The command with this id.
    pub fn get(&self, id: &str) -> Result<Arc<Record>, AgentError> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let found = records.by_id.get(id).and_then(|place| records.order.get(*place)).cloned();
        found.ok_or_else(|| AgentError::not_found("Command Result", id))
    }

    /// Asks the command with this id to stop at its next safe point. One that has ended stays as it is.
    pub fn cancel(&self, id: &str) -> Result<Arc<Record>, AgentError> {
        let record = self.get(id)?;
        if record.is_running() {
            tracing::warn!(command = record.name(), id, "the command is to stop");
            record.cancel();
        }
        Ok(record)
    }

    /// The agent that commands work on.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }
}

/// The names of extension and command in `<extension>.<name>`.
pub(crate) fn split(name: &str) -> Result<(&str, &str), AgentError> {
    name.split_once('.').ok_or_else(|| {
        let details = "Command name must be of the form <extension>.<name>";
        AgentError::new(Class::InvalidCommandError, details)
    })
}

/// Extension and command of these names.
pub(crate) fn find(
    extensions: &[&'static Extension],
    extension_name: &str,
    command_name: &str,
) -> Result<(&'static Extension, &'static Command), AgentError> {
    let extension = extensions
        .iter()
        .find(|extension| extension.name == extension_name)
        .ok_or_else(|| AgentError::not_found("Extension", extension_name))?;
    let command = extension
        .commands
        .iter()
        .find(|command| command.name == command_name)
        .ok_or_else(|| AgentError::new(Class::InvalidCommandError, format!("Unknown command: {command_name}")))?;
    Ok((extension, command))
}

/// Runs a command to its end; one that panics has failed.
async fn run_contained(command: &'static Command, call: Call) -> Result<Value, AgentError> {
    match contain::command((command.run)(call)).await {
        Ok(outcome) => outcome.map(|value| record::wrap(command.name, command.mode == Mode::Async, value)),
        Err(panic) => Err(AgentError::failed(format!("{} ended unexpectedly: panic: {panic}", command.name))),
    }
}
