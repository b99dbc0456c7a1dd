//! Running programs: argv only, no shell; a failure names the program, its arguments and its status.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Makes `dir` the cache of this process and of those it starts.
pub fn use_cache(dir: &Path) {
    let _ = CACHE.set(dir.to_path_buf());
}

/// Where things are kept that outlive a checkout: `$FERRIC_CACHE`, else `$XDG_CACHE_HOME/ferric`, else
/// `~/.cache/ferric`. Entries are keyed by a hash of their inputs.
pub fn cache() -> PathBuf {
    if let Some(dir) = CACHE.get() {
        return dir.clone();
    }
    if let Some(dir) = std::env::var_os("FERRIC_CACHE") {
        return dir.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    base.join("ferric")
}

/// Runs `command` with inherited output and fails unless it exits with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = with_cache(command).status().with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} {:?} ended with {status}", command.get_program(), command.get_args().collect::<Vec<_>>());
    }
    Ok(())
}

/// Runs `command` and returns its standard output; fails with its standard error unless it exits with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let out = with_cache(command).output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !out.status.success() {
        bail!(
            "{:?} {:?} ended with {}: {}",
            command.get_program(),
            command.get_args().collect::<Vec<_>>(),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Programs that this one starts use the same cache.
fn with_cache(command: &mut Command) -> &mut Command {
    match CACHE.get() {
        Some(dir) => command.env("FERRIC_CACHE", dir),
        None => command,
    }
}
