//! `system`: the machine as a whole.

use super::{Command, Extension, Mode};
use crate::state::Closing;
use serde_json::Value;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "system",
    python_class: "SystemExtension",
    commands: &[Command {
        name: "lockdown",
        mode: Mode::Sync,
        params: &[],
        open_ended: false,
        validate: None,
        // The answer leaves first; then the session closes the API, and its owner takes the machine off the network.
        run: |call| {
            Box::pin(async move {
                call.agent.close(Closing::Lockdown);
                Ok(Value::Null)
            })
        },
    }],
};
