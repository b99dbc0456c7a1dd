//! Running a program of the ramdisk: the only place in Ferric where that happens.
//!
//! A program is a name and its arguments, never a line for a shell. It gets an empty environment but for `PATH`, no input,
//! a deadline, and a bound on what it may say. Every child is registered from before it can exit until its status has been
//! taken, so that a reaper of orphans in PID 1 never takes the status of a child that somebody here waits for.

use hardware::MachineError;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Where programs are looked for, and all of a program's environment.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Children whose status somebody waits for.
static WAITED_FOR: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// How a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("start {program}")]
    Start {
        /// The program.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It was started and then lost from sight.
    #[error("wait for {program}")]
    Wait {
        /// The program.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It ran longer than it may, and was killed.
    #[error("{program} did not end within {} s and was killed", deadline.as_secs_f32())]
    Deadline {
        /// The program.
        program: String,
        /// How long it had.
        deadline: Duration,
    },
}

impl ExecError {
    /// The same as an error of the machine.
    pub fn into_machine_error(self) -> MachineError {
        let reason = |source: &io::Error| source.to_string();
        match self {
            Self::Start { program, source } | Self::Wait { program, source } => {
                MachineError::Program { program, status: "an error".to_owned(), stderr: reason(&source) }
            }
            Self::Deadline { program, deadline } => MachineError::Program {
                program,
                status: "SIGKILL".to_owned(),
                stderr: format!("it did not end within {} s", deadline.as_secs_f32()),
            },
        }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The program.
    pub program: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote, up to the bound.
    pub stdout: Vec<u8>,
    /// What it complained about, up to the bound.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// The output, or an error with the last line of complaint when the program did not succeed.
    pub fn success(self) -> Result<Vec<u8>, MachineError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        let line = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no message");
        Err(MachineError::Program {
            program: self.program,
            status: self.status.to_string(),
            stderr: line.chars().take(300).collect(),
        })
    }
}

/// A program to run.
#[derive(Debug)]
pub struct Exec {
    program: String,
    arguments: Vec<OsString>,
    deadline: Duration,
    most_output: u64,
}

impl Exec {
    /// `program`, an absolute path or a name that is looked for in the usual folders, with a deadline of 60 s and 64 KiB
    /// for each of its outputs.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            deadline: Duration::from_secs(60),
            most_output: 64 << 10,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets how long it may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many bytes of each output are kept; the rest is read and dropped.
    pub fn most_output(mut self, bytes: u64) -> Self {
        self.most_output = bytes;
        self
    }

    /// Runs it to its end. Blocks.
    pub fn run(self) -> Result<Finished, ExecError> {
        let program = self.program;
        let mut command = Command::new(&program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", SEARCH)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command).map_err(|source| ExecError::Start { program: program.clone(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let most = self.most_output;
        let outputs =
            [thread::spawn(move || read_bounded(stdout, most)), thread::spawn(move || read_bounded(stderr, most))];
        let waited = wait(&mut child, self.deadline);
        forget(child.id());
        let status = waited.map_err(|source| ExecError::Wait { program: program.clone(), source })?;
        let Some(status) = status else {
            return Err(ExecError::Deadline { program, deadline: self.deadline });
        };
        let [stdout, stderr] = outputs.map(|output| output.join().unwrap_or_default());
        tracing::debug!(program, %status, "program ended");
        Ok(Finished { program, status, stdout, stderr })
    }
}

/// The register of children. A thread that panicked while it held the lock left the set whole.
fn waited_for() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    WAITED_FOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Starts a child with the register locked, so that no reaper sees it before it is in there.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut register = waited_for();
    let child = command.spawn()?;
    register.insert(child.id());
    Ok(child)
}

fn forget(child: u32) {
    waited_for().remove(&child);
}

fn read_bounded(output: Option<impl Read>, most: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut output) = output {
        // What cannot be read any more is not there; the exit status tells whether the program did its work.
        let _ = output.by_ref().take(most).read_to_end(&mut kept);
        let _ = io::copy(&mut output, &mut io::sink());
    }
    kept
}

/// Waits for the child until the deadline, then kills it; `None` when it had to be killed.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    let process = Pid::from_child(child);
    let handle = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut watched = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut watched, Some(&limit)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the status of children that nobody waits for: orphans that were handed to PID 1. Returns how many.
///
/// Children of [`Exec`] are left alone. Zombies are found in `/proc` since `waitid` for any child would show one that is
/// waited for again and again, and hide those behind it.
pub fn reap_orphans() -> usize {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let register = waited_for();
    let mut reaped = 0;
    for process in crate::tree::names(std::path::Path::new("/proc")).iter().filter_map(|name| name.parse::<i32>().ok())
    {
        let waited = u32::try_from(process).is_ok_and(|process| register.contains(&process));
        let Some(process) = Pid::from_raw(process).filter(|_| !waited && process > 1) else { continue };
        if is_zombie_of(me, process)
            && let Ok(Some(_)) = rustix::process::waitpid(Some(process), WaitOptions::NOHANG)
        {
            reaped += 1;
        }
    }
    reaped
}

/// Whether `process` is a child of `parent` that has exited. In `/proc/<pid>/stat` the name may hold anything, and the
/// state and the parent follow the last parenthesis (proc(5)).
fn is_zombie_of(parent: i32, process: Pid) -> bool {
    let stat = crate::tree::text(std::path::Path::new(&format!("/proc/{}/stat", process.as_raw_nonzero())));
    let Some((_, rest)) = stat.as_deref().and_then(|stat| stat.rsplit_once(')')) else { return false };
    let mut fields = rest.split_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|field| field.parse().ok()) == Some(parent)
}

/// Kills the children that are still waited for, so that nothing keeps a file system busy when the machine ends.
pub fn kill_children() {
    for &child in waited_for().iter() {
        if let Some(process) = i32::try_from(child).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_with_its_arguments_and_an_empty_environment() {
        let done = Exec::new("printenv").run().unwrap();
        assert_eq!(String::from_utf8(done.success().unwrap()).unwrap(), format!("PATH={SEARCH}\n"));
        let done = Exec::new("printf").args(["%s|", "a b", "$HOME;x"]).run().unwrap();
        assert_eq!(done.success().unwrap(), b"a b|$HOME;x|");
    }

    #[test]
    fn a_failure_tells_the_last_line_of_complaint() {
        let error = Exec::new("ls").arg("/does/not/exist").run().unwrap().success().unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
        assert!(matches!(Exec::new("/does/not/exist").run(), Err(ExecError::Start { .. })));
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let started = Instant::now();
        let ended = Exec::new("sleep").arg("60").deadline(Duration::from_millis(50)).run();
        assert!(matches!(ended, Err(ExecError::Deadline { .. })));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn output_beyond_the_bound_is_dropped_and_the_program_still_ends() {
        let done = Exec::new("head").args(["-c", "1000000", "/dev/zero"]).most_output(10).run().unwrap();
        assert_eq!(done.success().unwrap().len(), 10);
    }
}
