//! `poll`: what a driver asks without changing anything.

use super::{Command, Extension, Mode};
use crate::command::params::{Kind, optional};
use crate::command::{AgentError, Class};
use serde_json::Value;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "poll",
    python_class: "PollExtension",
    commands: &[
        Command {
            name: "get_hardware_info",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: None,
            run: |call| {
                Box::pin(async move {
                    call.agent.shared.devices_ready().await;
                    let inventory = call.agent.shared.on_machine(|machine| machine.inventory()).await?;
                    serde_json::to_value(inventory)
                        .map_err(|error| AgentError::failed(format!("the inventory cannot be written: {error}")))
                })
            },
        },
        Command {
            name: "set_node_info",
            mode: Mode::Sync,
            params: &[optional("node_info", Kind::MaybeObject)],
            open_ended: false,
            validate: None,
            run: |mut call| {
                Box::pin(async move {
                    if !call.agent.shared.settings().is_standalone() {
                        let details = "Node lookup data can only be set when the Ironic Python Agent is running in \
                                       standalone mode.";
                        return Err(AgentError::new(Class::InvalidCommandError, details));
                    }
                    let lookup: wire::ramdisk::Lookup = serde_json::from_value(call.take("node_info"))
                        .map_err(|error| AgentError::params(format!("node_info is not a lookup reply: {error}")))?;
                    crate::session::lookup::adopt(&call.agent, lookup)
                        .map_err(|error| AgentError::failed(error.to_string()))?;
                    Ok(Value::Null)
                })
            },
        },
    ],
};
