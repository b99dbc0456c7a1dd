//! Running programs: argv only, no shell; a failure names the program, its arguments and its status.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// What programs that this one starts find in their environment.
static ENVIRONMENT: Mutex<Vec<(&str, OsString)>> = Mutex::new(Vec::new());

const CACHE: &str = "FERRIC_CACHE";

/// Puts a variable into the environment of all programs that are started from now on.
pub fn pass_on(variable: &'static str, value: impl Into<OsString>) {
    ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner).push((variable, value.into()));
}

/// Makes `dir` the cache of this process and of those it starts.
pub fn use_cache(dir: &Path) {
    pass_on(CACHE, dir);
}

/// Gives `command` the variables of [`pass_on`]; [`run`] and [`output`] do so themselves.
pub fn inherit(command: &mut Command) -> &mut Command {
    let environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    command.envs(environment.iter().map(|(variable, value)| (variable, value)))
}

/// Where things are kept that outlive a checkout: `$FERRIC_CACHE`, else `$XDG_CACHE_HOME/ferric`, else
/// `~/.cache/ferric`. Entries are keyed by a hash of their inputs.
pub fn cache() -> PathBuf {
    let environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let own = environment.iter().find(|(variable, _)| *variable == CACHE).map(|(_, dir)| dir.clone());
    if let Some(dir) = own.or_else(|| std::env::var_os(CACHE)) {
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
    let status = inherit(command).status().with_context(|| format!("start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} {:?} ended with {status}", command.get_program(), command.get_args().collect::<Vec<_>>());
    }
    Ok(())
}

/// Runs `command` and returns its standard output; fails with its standard error unless it exits with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let out = inherit(command).output().with_context(|| format!("start {:?}", command.get_program()))?;
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
