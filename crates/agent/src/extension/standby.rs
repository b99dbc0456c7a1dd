//! `standby`: writing an image and ending the machine.

use super::{Call, Command, Extension, Mode};
use crate::command::params::{Kind, optional, required};
use crate::command::{AgentError, Class};
use crate::container::bootc;
use crate::{prepare, root_disk};
use hardware::PowerAction;
use serde_json::Value;
use std::time::Duration;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "standby",
    python_class: "StandbyExtension",
    commands: &[
        Command {
            name: "prepare_image",
            mode: Mode::Async,
            params: &[required("image_info", Kind::Any), optional("configdrive", Kind::MaybeText)],
            open_ended: false,
            validate: Some(|agent, params| {
                let settings = agent.shared.settings();
                prepare::validate(params.get("image_info").unwrap_or(&Value::Null), &settings).map(drop)
            }),
            run: |mut call| {
                Box::pin(async move {
                    let image_info = call.take("image_info");
                    let configdrive = call.take_text("configdrive");
                    let control = call.control.as_ref();
                    prepare::prepare_image(&call.agent.shared, &image_info, configdrive, control)
                        .await
                        .map(Value::String)
                })
            },
        },
        Command {
            name: "run_image",
            mode: Mode::Async,
            params: &[],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(end(call, PowerAction::Reboot, "run_image")),
        },
        Command {
            name: "power_off",
            mode: Mode::Async,
            params: &[],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(end(call, PowerAction::Off, "power_off")),
        },
        Command {
            name: "sync",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: None,
            run: |call| {
                Box::pin(async move {
                    call.agent.shared.on_machine(|machine| machine.sync()).await?;
                    Ok(Value::Null)
                })
            },
        },
        Command {
            name: "execute_bootc_install",
            mode: Mode::Async,
            params: &[
                required("image_source", Kind::Text),
                optional("instance_info", Kind::MaybeObject),
                optional("pull_secret", Kind::MaybeText),
                optional("configdrive", Kind::MaybeText),
            ],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(install(call)),
        },
        Command {
            name: "get_partition_uuids",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(async move { Ok(Value::Object(call.agent.shared.partition_uuids())) }),
        },
    ],
};

/// Installs a container image by its own bootc.
async fn install(mut call: Call) -> Result<Value, AgentError> {
    let request = bootc::Request {
        source: call.take_text("image_source").unwrap_or_default(),
        instance_info: call.take("instance_info"),
        pull_secret: call.take_text("pull_secret"),
        config_drive: call.take_text("configdrive"),
    };
    bootc::install(&call.agent.shared, request, call.control.as_ref()).await.map(Value::String)
}

/// How long an answer may take to leave a machine that is about to end.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Flushes everything and ends the machine.
async fn end(call: Call, action: PowerAction, command: &str) -> Result<Value, AgentError> {
    let shared = &call.agent.shared;
    root_disk::may_write(shared, command)?;
    if let Err(error) = shared.on_machine(|machine| machine.sync()).await {
        // As in the field: a machine that cannot flush is still switched off when its driver wants it off.
        tracing::warn!(error = %transport::client::chain(&error), "flushing before the end failed");
    }
    // The answer to whoever asked leaves first.
    tokio::select! {
        () = tokio::time::sleep(ANSWER_TIME) => {}
        () = call.control.cancelled() => return Err(call.cancelled("the machine ended")),
    }
    shared
        .on_machine(move |machine| machine.power(action))
        .await
        .map_err(|error| AgentError::new(Class::SystemRebootError, transport::client::chain(&error)))?;
    Ok(Value::Null)
}
