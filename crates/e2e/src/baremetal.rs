//! The `baremetal` command that operators of Ironic type.

use crate::ferricd::API;
use crate::lab::{Lab, output};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::path::PathBuf;
use tokio::process::Command;

/// The real client, pointed at the lab's `ferricd`.
#[derive(Clone, Debug)]
pub struct Baremetal {
    program: PathBuf,
    home: PathBuf,
}

impl Baremetal {
    /// The client of the lab's environment.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        Self { program: lab.artifacts().baremetal.join("bin/baremetal"), home: lab.dir().to_owned() }
    }

    /// Runs `baremetal ARGUMENTS` and returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0; the error carries its standard error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .env("OS_AUTH_TYPE", "none")
            .env("OS_ENDPOINT", API)
            // No clouds.yaml of whoever runs this.
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .args(arguments);
        output(&mut command).await.with_context(|| format!("baremetal {}", arguments.join(" ")))
    }

    /// Runs `baremetal ARGUMENTS -f json` and returns the document.
    ///
    /// # Errors
    /// As [`Self::run`], or when the output is not JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-f", "json"]].concat()).await?;
        serde_json::from_str(&text)
            .with_context(|| format!("baremetal {} printed no JSON: {text}", arguments.join(" ")))
    }
}
