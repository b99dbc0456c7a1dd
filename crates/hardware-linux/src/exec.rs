//! Running a program of the ramdisk: the only place in Ferric where that happens.
//!
//! A program is a name and its arguments, never a line for a shell. It gets an empty environment but for `PATH`, a
//! deadline, and a bound on what it may say. It leads a process group of its own, and whatever is left of the group is
//! killed when the program has ended or its deadline has passed: nothing that a program starts outlives it. Every child is
//! registered from before it can exit until its status has been taken, so that a reaper of orphans in PID 1 never takes the
//! status of a child that somebody here waits for.

mod pump;

use hardware::MachineError;
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// It wrote a line longer than it may, and was killed.
    #[error("{program} wrote a line of more than {most} bytes and was killed")]
    Flood {
        /// The program.
        program: String,
        /// The most that a line may have, in bytes.
        most: u64,
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
            Self::Flood { program, most } => MachineError::Program {
                program,
                status: "SIGKILL".to_owned(),
                stderr: format!("it wrote a line of more than {most} bytes"),
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
    /// What it wrote, up to the bound; empty when it was handed over line by line.
    pub stdout: Vec<u8>,
    /// The end of what it complained about, up to the bound.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// The output, or an error with the last line of complaint when the program did not succeed.
    pub fn success(self) -> Result<Vec<u8>, MachineError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let stderr = self.complaint();
        Err(MachineError::Program { program: self.program, status: self.status.to_string(), stderr })
    }

    /// The last line that it complained with, cut to 300 characters.
    pub fn complaint(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        let line = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no message");
        line.chars().take(300).collect()
    }
}

/// A program to run.
#[derive(Debug)]
pub struct Exec {
    program: String,
    arguments: Vec<OsString>,
    deadline: Duration,
    most_output: u64,
    merged: bool,
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
            merged: false,
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

    /// Lets complaints come with the output, in the order in which they were written, and not by themselves.
    pub fn merged(mut self) -> Self {
        self.merged = true;
        self
    }

    /// Runs it to its end. Blocks.
    pub fn run(self) -> Result<Finished, ExecError> {
        let most = self.most_output;
        let mut stdout = Vec::new();
        let mut keep = |bytes: &[u8]| {
            pump::keep(&mut stdout, bytes, most);
            ControlFlow::Continue(())
        };
        let ended = self.start(&[], &Stopper::default(), &mut keep)?;
        Ok(Finished { stdout, ..ended })
    }

    /// Runs it with `input` as its input and hands over its output line by line, without the line end, while it runs.
    /// Blocks. The program ends when it likes, when its deadline has passed, when `stopper` says so, or at once when `line`
    /// breaks; a line longer than the bound on output is an [`ExecError::Flood`].
    pub fn converse(
        self,
        input: &[u8],
        stopper: &Stopper,
        line: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Finished, ExecError> {
        let program = self.program.clone();
        let most = self.most_output;
        let mut lines = pump::Lines::new(most);
        let ended = self.start(input, stopper, &mut |bytes| lines.feed(bytes, line));
        match lines.end(line) {
            Ok(()) => ended,
            Err(pump::TooLong) => Err(ExecError::Flood { program, most }),
        }
    }

    fn start(
        self,
        input: &[u8],
        stopper: &Stopper,
        output: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Finished, ExecError> {
        let program = self.program;
        let mut command = Command::new(&program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", SEARCH)
            .current_dir("/")
            .process_group(0)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let not_started = |source| ExecError::Start { program: program.clone(), source };
        let both = if self.merged { Some(both_outputs(&mut command).map_err(not_started)?) } else { None };
        let mut child = spawn(&mut command).map_err(not_started)?;
        // It holds the other end of the pipe, which would never come to its end.
        drop(command);
        if let Some(both) = both {
            child.stdout = Some(both);
        }
        stopper.watch(&child);
        let pumped = pump::pump(&mut child, input, self.deadline, self.most_output, output);
        // The child has not been waited for, so its number still names this group and no other.
        stopper.forget();
        kill_group(&child);
        let status = child.wait();
        forget(child.id());
        let failed = |source| ExecError::Wait { program: program.clone(), source };
        let pumped = pumped.map_err(failed)?;
        let status = status.map_err(failed)?;
        if pumped.end == pump::End::Deadline {
            return Err(ExecError::Deadline { program, deadline: self.deadline });
        }
        tracing::debug!(program, %status, "program ended");
        Ok(Finished { program, status, stdout: Vec::new(), stderr: pumped.stderr })
    }
}

/// One pipe for both outputs of a program; the end to read.
fn both_outputs(command: &mut Command) -> io::Result<ChildStdout> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    Ok(ChildStdout::from(OwnedFd::from(reader)))
}

/// A handle to stop a program that runs in [`Exec::converse`], for the thread that does not wait for it.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    state: Arc<Mutex<Stopping>>,
}

#[derive(Debug, Default)]
struct Stopping {
    group: Option<Pid>,
    asked: Option<Signal>,
}

impl Stopper {
    /// Asks the program and all that it started to end (`SIGTERM`); it may first bring what it does to a safe point.
    pub fn ask(&self) {
        self.send(Signal::TERM);
    }

    /// Ends them now (`SIGKILL`).
    pub fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Stopping> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is stopped before it was started gets the signal right then.
    fn send(&self, signal: Signal) {
        let mut state = self.state();
        state.asked = Some(signal);
        if let Some(group) = state.group {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    fn watch(&self, child: &Child) {
        let mut state = self.state();
        state.group = Some(Pid::from_child(child));
        if let (Some(group), Some(signal)) = (state.group, state.asked) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    fn forget(&self) {
        self.state().group = None;
    }
}

/// Kills a child and all that is left of its group. The child must not have been waited for.
fn kill_group(child: &Child) {
    // There is nobody left in the group when all have ended.
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
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

/// Kills the children that are still waited for, with all that they started, so that nothing keeps a file system busy when the machine ends.
pub fn kill_children() {
    for &child in waited_for().iter() {
        if let Some(process) = i32::try_from(child).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(process, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

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

    /// Python stands for any language here; the ramdisk has none.
    fn python(program: &str) -> Exec {
        Exec::new("python3").args(["-c", program]).deadline(Duration::from_secs(60))
    }

    fn lines_of(exec: Exec, input: &[u8], stopper: &Stopper) -> (Vec<String>, Result<Finished, ExecError>) {
        let mut lines = Vec::new();
        let ended = exec.converse(input, stopper, &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            if line == b"enough" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (lines, ended)
    }

    #[test]
    fn a_conversation_is_heard_line_by_line_and_a_last_line_needs_no_end() {
        let (lines, ended) = lines_of(Exec::new("cat"), b"one\ntwo\nthree", &Stopper::default());
        assert_eq!(lines, ["one", "two", "three"]);
        assert!(ended.unwrap().status.success());
    }

    #[test]
    fn complaints_come_with_the_output_where_they_are_asked_for_there() {
        let program =
            "import sys\nfor line in range(3): print(line, file=(sys.stdout, sys.stderr)[line % 2], flush=True)";
        let (lines, ended) = lines_of(python(program).merged(), &[], &Stopper::default());
        assert_eq!(lines, ["0", "1", "2"]);
        assert!(ended.unwrap().stderr.is_empty());
    }

    #[test]
    fn a_program_that_does_not_listen_is_heard_all_the_same() {
        let input = vec![b'x'; 1 << 20];
        let (lines, ended) = lines_of(python("print('deaf')"), &input, &Stopper::default());
        assert_eq!(lines, ["deaf"]);
        assert!(ended.unwrap().status.success());
        let (lines, ended) = lines_of(Exec::new("cat").most_output(2 << 20), &input, &Stopper::default());
        assert_eq!(lines[0].len(), 1 << 20);
        assert!(ended.unwrap().status.success());
    }

    #[test]
    fn a_line_without_an_end_is_a_flood() {
        let (lines, ended) = lines_of(Exec::new("cat").arg("/dev/zero"), b"-", &Stopper::default());
        assert!(lines.is_empty());
        assert!(matches!(ended, Err(ExecError::Flood { most: 65_536, .. })), "{ended:?}");
    }

    #[test]
    fn a_listener_that_has_heard_enough_ends_the_program() {
        let started = Instant::now();
        let (lines, ended) =
            lines_of(python("import time; print('enough', flush=True); time.sleep(60)"), b"-", &Stopper::default());
        assert_eq!(lines, ["enough"]);
        assert!(!ended.unwrap().status.success());
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_a_program_leaves_behind_is_killed_with_it() {
        let forks =
            "import os, sys, time\nif os.fork() == 0:\n time.sleep(60)\nelse:\n print(os.getpgid(0), flush=True)";
        let started = Instant::now();
        // The child that is left holds the output open.
        let (lines, ended) = lines_of(python(forks), b"-", &Stopper::default());
        assert!(ended.unwrap().status.success());
        assert!(started.elapsed() < Duration::from_secs(30));
        let group = Pid::from_raw(lines[0].parse().unwrap()).unwrap();
        while rustix::process::test_kill_process_group(group).is_ok() {
            // It is dead, and a zombie until the machine's first process has reaped it.
            assert!(started.elapsed() < Duration::from_secs(60), "something of group {group:?} is left");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stopper_asks_first_and_the_program_may_finish() {
        let graceful = "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'safe'), os._exit(0)))\n\
                        os.write(1, b'ready\\n')\nwhile True: signal.pause()";
        let stopper = Stopper::default();
        let mut lines = Vec::new();
        let ended = python(graceful).converse(b"-", &stopper.clone(), &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            if line == b"ready" {
                stopper.ask();
            }
            ControlFlow::Continue(())
        });
        assert_eq!(lines, ["ready", "safe"]);
        assert!(ended.unwrap().status.success());
        let early = Stopper::default();
        early.kill();
        let (_, ended) = lines_of(Exec::new("sleep").arg("60"), b"-", &early);
        assert!(!ended.unwrap().status.success());
    }
}
