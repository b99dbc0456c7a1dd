//! Containers: what can be done where the ramdisk's overlay brings podman or docker.
//!
//! Two things need them. [`bootc`] installs a system out of a container image, and [`manager`] has steps that run in
//! containers. Without such a program neither is offered, and who asks for them gets the protocol's own error.

pub mod bootc;
pub mod manager;
mod steps_file;

use crate::command::{AgentError, Class};
use crate::config::containers::RUNNERS;
use crate::program::{self, Attended};
use hardware::StepControl;
use hardware_linux::Exec;
use hardware_linux::exec::ExecError;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where programs are looked for, below the root.
const FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
/// How long one may take to tell its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to stop a container, which has ten seconds to end by itself, and to remove it.
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// How long pulling or running may take that has no limit of its own: as long as a step of a hardware manager.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest line of output, in bytes.
const LONGEST_LINE: u64 = 4 << 20;
/// What of a line is logged, in characters.
const LOGGED: usize = 1000;
/// Lines that an error tells.
const TAIL: usize = 20;
/// Tells podman not to change the root, which a ramdisk's cannot be.
const NO_PIVOT: (&str, &str) = ("etc/containers/containers.conf.d/01-ferric.conf", "[engine]\nno_pivot_root = true\n");

/// The programs of this machine that run containers.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    runners: Vec<(&'static str, PathBuf)>,
}

/// How a container, or what is done about it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    /// The program is not there, or does not run.
    #[error("{0} is not in this ramdisk, or does not run")]
    NoRunner(String),
    /// The program could not be run to its end.
    #[error("run {what}")]
    Exec {
        what: String,
        #[source]
        source: ExecError,
    },
    /// It failed.
    #[error("{what} failed with exit code {code}. output: {output}")]
    Failed { what: String, code: String, output: String },
    /// The command was stopped on request.
    #[error("{0} was stopped on request")]
    Cancelled(String),
    /// Waiting for it failed.
    #[error("{what} ended unexpectedly: {why}")]
    Lost { what: String, why: String },
    /// A file that the program reads or writes could not be used.
    #[error("file {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It ended that way, and could not be removed.
    #[error("the container may still run, since it could not be removed ({why})")]
    Left {
        why: String,
        #[source]
        ended: Box<Self>,
    },
}

impl Host {
    /// Looks for podman and docker below `root`, which is `/` in a ramdisk, and keeps those that tell their version; `None`
    /// when there is none. Blocks.
    pub fn find(root: &Path) -> Option<Self> {
        let there = |runner: &&'static str| {
            let path = FOLDERS.iter().map(|folder| root.join(folder).join(runner)).find(|path| path.is_file())?;
            let version = Exec::new(path.to_string_lossy()).arg("--version").deadline(VERSION_DEADLINE).run();
            match version.map_err(ExecError::into_machine_error).and_then(hardware_linux::Finished::success) {
                Ok(version) => {
                    tracing::info!(version = String::from_utf8_lossy(&version).trim(), "containers can be run");
                    Some((*runner, path))
                }
                Err(error) => {
                    let error = transport::client::chain(&error);
                    tracing::error!(runner, error, "it does not run, so there are no container steps by it");
                    None
                }
            }
        };
        let runners: Vec<_> = RUNNERS.iter().filter_map(there).collect();
        if runners.is_empty() {
            return None;
        }
        let host = Self { root: root.to_owned(), runners };
        let (path, text) = NO_PIVOT;
        let path = host.root.join(path);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "podman is not told that the root of a ramdisk stays");
        }
        Some(host)
    }

    /// A file below the root, as the ramdisk's own names are.
    fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn runner(&self, name: &str) -> Result<&Path, ContainerError> {
        let found = self.runners.iter().find(|(runner, _)| *runner == name);
        found.map(|(_, path)| path.as_path()).ok_or_else(|| ContainerError::NoRunner(name.to_owned()))
    }

    /// Pulls an image.
    async fn pull(
        &self,
        runner: &str,
        options: &[String],
        image: &str,
        control: &dyn StepControl,
    ) -> Result<(), ContainerError> {
        let mut arguments = vec!["pull".to_owned()];
        arguments.extend(options.iter().cloned());
        arguments.push(image.to_owned());
        self.call(runner, arguments, DEADLINE, control).await
    }

    /// Runs a container. Nothing of it is left when this returns an error other than [`ContainerError::Left`].
    async fn run(&self, runner: &str, arguments: Vec<String>, control: &dyn StepControl) -> Result<(), ContainerError> {
        // Who watches over a container is no child of ours and outlives a runner that is killed, so it is removed by its id.
        let id = Scratch::at(self.root.join("run").join(format!("ferric-container-{}", uuid::Uuid::new_v4())));
        let mut all = vec!["run".to_owned(), format!("--cidfile={}", id.0.display())];
        all.extend(arguments);
        let Err(ended) = self.call(runner, all, DEADLINE, control).await else { return Ok(()) };
        match self.remove(runner, &id.0).await {
            Ok(()) => Err(ended),
            Err(error) => {
                let why = transport::client::chain(&error);
                tracing::error!(why, "a container may still run");
                Err(ContainerError::Left { why, ended: Box::new(ended) })
            }
        }
    }

    /// Stops and removes the container whose id is in that file, if there is one. A signal to its first process would not do: one
    /// that shares the host's process numbers may have others.
    async fn remove(&self, runner: &str, id: &Path) -> Result<(), ContainerError> {
        let mut text = String::new();
        match std::fs::File::open(id).and_then(|file| file.take(128).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ContainerError::File { path: id.to_owned(), source }),
        }
        let text = text.trim();
        // The id is written before the container starts.
        if text.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["rm".to_owned(), "--force".to_owned()];
        // It is gone already unless the runner was killed, or died. docker takes that well by itself.
        if runner == bootc::RUNNER {
            arguments.push("--ignore".to_owned());
        }
        arguments.push(text.to_owned());
        self.call(runner, arguments, REMOVE_DEADLINE, &hardware::manager::Unattended).await
    }

    /// Runs the program to its end and logs what it says.
    async fn call(
        &self,
        runner: &str,
        arguments: Vec<String>,
        deadline: Duration,
        control: &dyn StepControl,
    ) -> Result<(), ContainerError> {
        let what = format!("{runner} {}", arguments.first().map_or("", String::as_str));
        let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        let exec = Exec::new(self.runner(runner)?.to_string_lossy()).args(arguments).deadline(deadline);
        let exec = exec.most_output(LONGEST_LINE).merged();
        tracing::info!("{what} begins");
        let name = what.clone();
        let Attended { ended, asked } = program::attend(&what, control, move |stopper| {
            let mut tail = VecDeque::new();
            let finished = exec.converse(&[], stopper, &mut |line| {
                // Progress is written over itself.
                let line = String::from_utf8_lossy(
                    line.rsplit(|byte| *byte == b'\r').find(|part| !part.is_empty()).unwrap_or(line),
                );
                let line: String = line.chars().filter(|letter| !letter.is_control()).take(LOGGED).collect();
                tracing::info!("{name}: {line}");
                tail.push_back(line);
                if tail.len() > TAIL {
                    tail.pop_front();
                }
                ControlFlow::Continue(())
            });
            (finished, Vec::from(tail).join("\n"))
        })
        .await;
        match ended {
            Ok((Ok(finished), _)) if finished.status.success() => Ok(()),
            Ok(_) if asked => Err(ContainerError::Cancelled(what)),
            Ok((Ok(finished), output)) => {
                let code = finished.status.code().map_or_else(|| finished.status.to_string(), |code| code.to_string());
                Err(ContainerError::Failed { what, code, output })
            }
            Ok((Err(source), _)) => Err(ContainerError::Exec { what, source }),
            Err(error) => Err(ContainerError::Lost { what, why: error.to_string() }),
        }
    }
}

/// A file for a container that is removed when it is not needed any more.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    /// One that somebody else writes.
    fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// A new file that nobody else may read.
    fn write(path: PathBuf, text: &[u8]) -> Result<Self, ContainerError> {
        let failed = |source| ContainerError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let file_of = Self(path.clone());
        file.write_all(text).map_err(failed)?;
        Ok(file_of)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a file for a container is left");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Refuses a name of an image that a runner would take for something else.
fn check_image(image: &str) -> Result<(), AgentError> {
    if image.is_empty()
        || image.starts_with('-')
        || image.chars().any(|letter| letter.is_whitespace() || letter.is_control())
    {
        let details = format!("{image:?} is no name of a container image, such as registry.example/tools/check:1");
        return Err(AgentError::params(details));
    }
    Ok(())
}

impl ContainerError {
    /// The same in the protocol's words, but for a failure, which has a class of its own in each place.
    fn class(&self) -> Option<Class> {
        match self {
            Self::Cancelled(_) => Some(Class::CommandCancelled),
            Self::NoRunner(_) => Some(Class::HardwareManagerConfigurationError),
            Self::Exec { .. } | Self::Failed { .. } | Self::Lost { .. } | Self::File { .. } | Self::Left { .. } => None,
        }
    }
}
