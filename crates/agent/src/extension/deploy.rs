//! `deploy`: the steps of deploying.

use super::{Command, Extension, Mode, steps};
use crate::command::params::{Kind, optional, required};
use hardware::StepKind;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "deploy",
    python_class: "DeployExtension",
    commands: &[
        Command {
            name: "get_deploy_steps",
            mode: Mode::Sync,
            params: &[required("node", Kind::Object), required("ports", Kind::Any)],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(async move { steps::list(StepKind::Deploy, call) }),
        },
        Command {
            name: "execute_deploy_step",
            mode: Mode::Async,
            params: &[
                required("step", Kind::Object),
                required("node", Kind::Object),
                required("ports", Kind::Any),
                optional("deploy_version", Kind::MaybeObject),
            ],
            open_ended: true,
            validate: None,
            run: |call| Box::pin(steps::execute(StepKind::Deploy, call)),
        },
    ],
};
