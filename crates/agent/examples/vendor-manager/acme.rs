//! The hardware manager of a vendor that does not exist: it knows the network cards of one PCI vendor id and sets the name
//! that they show to switches.

use hardware::manager::{StepFuture, argument};
use hardware::{HardwareManager, Progress, Step, StepCall, StepError, StepKind, Support};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The vendor's PCI id as sysfs writes it.
const VENDOR: &str = "0xacce";

/// Knows the vendor's cards.
#[derive(Debug)]
pub(crate) struct AcmeManager {
    root: PathBuf,
}

impl AcmeManager {
    /// A manager that looks for cards in the sysfs below `root`: `/`, or a made-up tree in tests.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folders of the cards in sysfs.
    fn cards(&self) -> Vec<PathBuf> {
        let Ok(devices) = std::fs::read_dir(self.root.join("sys/bus/pci/devices")) else { return Vec::new() };
        let is_ours = |card: &PathBuf| std::fs::read_to_string(card.join("vendor")).is_ok_and(|id| id.trim() == VENDOR);
        let mut cards: Vec<PathBuf> = devices.flatten().map(|device| device.path()).filter(is_ours).collect();
        cards.sort();
        cards
    }

    fn set_label(&self, call: &StepCall) -> Result<Value, StepError> {
        let label: String = argument(&call.step.args, "label")?
            .ok_or_else(|| StepError::Arguments("argument label is missing".to_owned()))?;
        let cards = self.cards();
        for (done, card) in cards.iter().enumerate() {
            // Between two cards is the safe point.
            if call.control.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            call.control.report(progress(done, cards.len()));
            write(card, &label)?;
        }
        Ok(json!({"labelled": cards.len()}))
    }
}

fn progress(done: usize, total: usize) -> Progress {
    Progress {
        stage: "label".to_owned(),
        done: done as u64,
        total: Some(total as u64),
        rate: 0,
        eta: None,
        stalled: None,
    }
}

fn write(card: &Path, label: &str) -> Result<(), StepError> {
    let file = card.join("acme_label");
    std::fs::write(&file, label).map_err(|error| StepError::Failed {
        class: "CleaningError",
        details: format!("write {}: {error}", file.display()),
    })
}

impl HardwareManager for AcmeManager {
    fn class_name(&self) -> &str {
        "AcmeManager"
    }

    fn name(&self) -> &str {
        "acme"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn evaluate(&self) -> Support {
        if self.cards().is_empty() { Support::NONE } else { Support::MAINLINE }
    }

    fn steps(&self, kind: StepKind, _node: &Value, _ports: &Value) -> Vec<Step> {
        if kind != StepKind::Clean {
            return Vec::new();
        }
        let mut step = Step::new("management", "set_acme_label", 0);
        step.argsinfo = Some(json!({"label": {"description": "What switches see", "required": true}}));
        vec![step]
    }

    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            match call.step.step.as_str() {
                "set_acme_label" => self.set_label(&call),
                other => Err(StepError::Incompatible(other.to_owned())),
            }
        })
    }
}
