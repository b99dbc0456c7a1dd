//! One command from its acceptance to its end.

use super::error::{AgentError, Class};
use hardware::{Progress, StepControl};
use lifecycle::command::{Event, Status, step};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::agent::{CommandResult, CommandStatus};

/// What is remembered of a command. Kept for the life of the agent.
#[derive(Debug)]
pub struct Record {
    id: String,
    name: &'static str,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
    news: watch::Sender<()>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct State {
    status: Status,
    result: Option<Value>,
    error: Option<AgentError>,
    progress: Option<Progress>,
}

impl Record {
    /// A command that begins now. `name` is the name without the extension; `news` tells of its end and its stages.
    pub(super) fn begin(id: Uuid, name: &'static str, news: watch::Sender<()>) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_string(),
            name,
            state: Mutex::new(State { status: Status::Running, result: None, error: None, progress: None }),
            ended: watch::Sender::new(false),
            news,
            cancel: CancellationToken::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves whole values behind: each field is set in one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name without the extension.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.state().status.is_final()
    }

    /// How far it is, as it said last; nothing once it has ended.
    pub fn progress(&self) -> Option<Progress> {
        self.state().progress.clone()
    }

    /// Returns when it has ended.
    pub async fn wait(&self) {
        // The sender lives as long as this value, so waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Why it failed; `None` while it runs and when it succeeded.
    pub fn failure(&self) -> Option<AgentError> {
        self.state().error.clone()
    }

    /// Asks the command to stop at its next safe point. It ends as [`Class::CommandCancelled`], or as it would have
    /// ended when there is no safe point left.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Its end. Only the first one counts.
    pub(super) fn end(&self, outcome: Result<Value, AgentError>) {
        let event = match &outcome {
            Ok(_) => Event::Succeed,
            Err(error) if error.class == Class::VersionMismatch => Event::Mismatch,
            Err(_) => Event::Fail,
        };
        let mut state = self.state();
        match step(state.status, event) {
            Ok(row) => state.status = row.next,
            Err(refused) => {
                tracing::error!(command = self.name, id = self.id, %refused, "a command ended twice");
                return;
            }
        }
        state.progress = None;
        match outcome {
            Ok(Value::Null) => {}
            Ok(value) => state.result = Some(value),
            Err(mut error) => {
                state.result = error.result.take().map(|result| *result);
                state.error = Some(error);
            }
        }
        drop(state);
        self.ended.send_replace(true);
        self.news.send_replace(());
    }

    /// The command as the API shows it.
    pub fn to_result(&self) -> CommandResult {
        let state = self.state();
        CommandResult {
            id: self.id.clone(),
            command_name: self.name.to_owned(),
            command_status: match state.status {
                Status::Running => CommandStatus::Running,
                Status::Succeeded => CommandStatus::Succeeded,
                Status::Failed => CommandStatus::Failed,
                Status::VersionMismatch => CommandStatus::VersionMismatch,
            },
            command_error: state.error.as_ref().map(AgentError::to_record),
            command_result: state.result.clone(),
            progress: state.progress.clone(),
        }
    }
}

impl StepControl for Record {
    fn report(&self, progress: Progress) {
        let mut state = self.state();
        if state.status.is_final() {
            return;
        }
        // Numbers that grow are looked at once a second by those who care; a new stage and a stall are told at once.
        let told = |progress: &Progress| (progress.stage.clone(), progress.stalled.is_some());
        let is_news = state.progress.as_ref().map(told) != Some(told(&progress));
        state.progress = Some(progress);
        drop(state);
        if is_news {
            self.news.send_replace(());
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn cancelled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.cancel.cancelled())
    }
}

/// A text result is an object with one key; an asynchronous command's text begins with its name.
pub(super) fn wrap(name: &str, asynchronous: bool, value: Value) -> Value {
    match value {
        Value::String(text) if asynchronous => json!({"result": format!("{name}: {text}")}),
        Value::String(text) => json!({"result": text}),
        other => other,
    }
}
