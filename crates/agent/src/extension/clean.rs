//! `clean`: the steps of cleaning.

use super::{Command, Extension, Mode, steps};
use crate::command::params::{Kind, optional, required};
use hardware::StepKind;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "clean",
    python_class: "CleanExtension",
    commands: &[
        Command {
            name: "get_clean_steps",
            mode: Mode::Sync,
            params: &[required("node", Kind::Object), required("ports", Kind::Any)],
            open_ended: false,
            validate: None,
            run: |call| Box::pin(async move { steps::list(StepKind::Clean, call) }),
        },
        Command {
            name: "execute_clean_step",
            mode: Mode::Async,
            params: &[
                required("step", Kind::Object),
                required("node", Kind::Object),
                required("ports", Kind::Any),
                optional("clean_version", Kind::MaybeObject),
            ],
            open_ended: true,
            validate: None,
            run: |call| Box::pin(steps::execute(StepKind::Clean, call)),
        },
    ],
};
