//! Builds ferric-agent as one static program, the same bytes in every checkout.

use crate::release;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Builds the agent and returns the path of its program.
pub fn build(root: &Path) -> Result<PathBuf> {
    let mut cargo = release::cargo(root)?;
    cargo
        // The agent alone: features that its neighbours ask for would change its bytes.
        .args(["build", "--release", "--locked", "--target", release::TARGET, "-p", "agent", "--bin", "ferric-agent"])
        .args(["--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("start cargo")?;
    anyhow::ensure!(output.status.success(), "building ferric-agent ended with {}", output.status);
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no program ferric-agent")
}

/// The program's path from cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let name = message.get("target")?.get("name")?.as_str()?;
        let path = message.get("executable")?.as_str()?;
        (name == "ferric-agent").then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"media\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ferric-agent\"},\"executable\":\"/t/ferric-agent\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/ferric-agent")));
        assert_eq!(executable(""), None);
    }
}
