//! Builds ferric-agent as one static program, the same bytes in every checkout.

use crate::cmd;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the agent and returns the path of its program.
pub fn build(root: &Path) -> Result<PathBuf> {
    let prefixes = prefixes(root)?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(prefixes.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    // C code of -sys crates has __FILE__ in its messages.
    let c_flags: Vec<String> = prefixes.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        // --target keeps the flags away from build scripts and procedural macros.
        .args(["build", "--release", "--locked", "--target", TARGET, "-p", "agent", "--bin", "ferric-agent"])
        .args(["--message-format", "json-render-diagnostics"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags.join(" "))
        .env_remove("RUSTFLAGS")
        .env_remove("CFLAGS")
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

/// Folders whose names must not get into the program, with what stands for them. Of several that fit, rustc and gcc
/// take the last.
fn prefixes(root: &Path) -> Result<Vec<(String, String)>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = cmd::output(Command::new(rustc).current_dir(root).args(["--print", "sysroot"]))?;
    // With the component rust-src, rustc would name the standard library's files by their place on this machine.
    let std_sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let mut folders = vec![(home, "/cargo"), (std_sources, "/rust"), (root.to_path_buf(), "/ferric")];
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        folders.push((root.join(target), "/ferric/target"));
    }
    let text = |path: &Path| -> Result<String> {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        anyhow::ensure!(!text.contains(['=', ' ']), "{text:?} has '=' or a space, which compiler flags cannot carry");
        Ok(text.to_owned())
    };
    folders.into_iter().map(|(folder, name)| Ok((text(&folder)?, name.to_owned()))).collect()
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
