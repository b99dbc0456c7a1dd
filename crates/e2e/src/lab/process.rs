//! A program that the lab started, known by its process, never by its name.

use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// A running program with its output in a file. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and standard error appended to `log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}: {:?}", command.as_std().get_program()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Fails with the end of its output if the program has ended.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, tail(&self.log, 1500)),
        }
    }

    /// Its process ID; unset when it has ended.
    #[must_use]
    pub fn id(&self) -> Option<i32> {
        self.child.id().map(u32::cast_signed)
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// When the process cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.name))
    }

    /// SIGTERM, then SIGKILL if it has not ended within `grace`.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn stop(mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            self.child.start_kill().with_context(|| format!("kill {}", self.name))?;
        }
        self.child.wait().await.with_context(|| format!("wait for {}", self.name))
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.with_context(|| format!("wait for {}", self.name))
    }
}

/// The last `bytes` bytes of a text file, or nothing.
pub(crate) fn tail(path: &Path, bytes: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(bytes)..]).into_owned()
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error carries its standard error.
pub(crate) async fn output(command: &mut Command) -> Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let out =
        command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| format!("start {program}"))?;
    if !out.status.success() {
        let arguments: Vec<_> = command.as_std().get_args().collect();
        bail!("{program} {arguments:?} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
