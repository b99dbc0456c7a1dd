//! `service`: the steps of servicing.

use super::{Command, Extension, Mode, steps};
use crate::command::params::{Kind, optional, required};
use hardware::StepKind;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "service",
    python_class: "ServiceExtension",
    commands: &[
        Command {
            name: "get_service_steps",
            mode: Mode::Sync,
            params: &[required("node", Kind::Object), required("ports", Kind::Any)],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(async move { steps::list(StepKind::Service, call) }),
        },
        Command {
            name: "execute_service_step",
            mode: Mode::Async,
            params: &[
                required("step", Kind::Object),
                required("node", Kind::Object),
                required("ports", Kind::Any),
                optional("service_version", Kind::MaybeObject),
            ],
            open_ended: true,
            validate: None,
            run: |call| Box::pin(steps::execute(StepKind::Service, call)),
        },
    ],
};
