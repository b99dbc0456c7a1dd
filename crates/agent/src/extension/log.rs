//! `log`: the agent's log, the kernel's log and the list of commands, as Ironic stores them.

use super::{Command, Extension, Mode};
use crate::command::AgentError;
use crate::logs;
use serde_json::json;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "log",
    python_class: "LogExtension",
    commands: &[Command {
        name: logs::COLLECT,
        mode: Mode::Sync,
        params: &[],
        open_ended: false,
        validate: None,
        run: |call| {
            Box::pin(async move {
                let commands: Vec<_> = call.history.iter().map(|record| record.to_result()).collect();
                let buffer = call.agent.logs.clone();
                // Without disks that are still to come: logs are asked for when something went wrong.
                let inventory = call.agent.shared.on_machine(|machine| machine.inventory()).await.ok();
                let packed = tokio::task::spawn_blocking(move || logs::collect(&buffer, &commands, inventory.as_ref()))
                    .await
                    .map_err(|error| AgentError::failed(format!("collecting logs ended unexpectedly: {error}")))?
                    .map_err(|error| AgentError::failed(format!("the logs could not be packed: {error}")))?;
                Ok(json!({"system_logs": packed}))
            })
        },
    }],
};
