//! A story's own network, mount and process namespaces, and the two processes that keep them.
//!
//! ```text
//! e2e (outside) ── unshare ── e2e inside ── e2e first = first process of the namespaces ── e2e story
//!       └───────────────── lifeline: a pipe, open as long as the story shall live ─┘
//! ```
//!
//! The first process reaps what libvirt leaves behind and ends when the story ends, when the lifeline closes (Ctrl-C
//! outside, or the process outside was killed) or on SIGTERM. With it the kernel ends every process of the namespaces
//! and drops their interfaces and mounts: nothing has to be found by name, and nothing else can be hit.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};

/// What the story writes into its folder once it has ended well and shall be kept.
pub const KEPT: &str = "kept";

/// Where the process ID of the first process is written, as seen from outside.
const PID: &str = "first.pid";

/// How long a story may take to stop by itself after it was told to.
const GRACE: Duration = Duration::from_secs(15);

/// How an isolated run ended.
#[derive(Debug, Eq, PartialEq)]
pub enum Ended {
    /// The story's exit code.
    Code(i32),
    /// It ended well and its servers still run; the process ID is that of its first process.
    Kept(u32),
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

/// Runs `self_args` of this program isolated, with the folder `dir` for its files, and waits.
///
/// # Errors
/// When the namespaces cannot be made: that takes root.
pub async fn run(self_args: &[OsString], dir: &Path) -> Result<Ended> {
    if !rustix::process::geteuid().is_root() {
        bail!("virtual servers get a network and mounts of their own, which takes root: run it with sudo -E");
    }
    let program = std::env::current_exe().context("find this program")?;
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--propagation", "private"])
        .arg(&program)
        .arg("inside")
        .arg(dir)
        .args(self_args)
        .stdin(Stdio::piped())
        // Ctrl-C of the terminal reaches us alone; we tell the inside by the lifeline, once.
        .process_group(0)
        .spawn()
        .context("start unshare (package util-linux)")?;
    let mut lifeline = child.stdin.take().context("unshare has no standard input")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = interrupt.recv() => return stop(child, lifeline).await,
        _ = terminate.recv() => return stop(child, lifeline).await,
    };
    if !dir.join(KEPT).is_file() {
        return Ok(Ended::Code(status.code().unwrap_or(1)));
    }
    lifeline.write_all(b"k").await.context("let go of the story")?;
    let pid = std::fs::read_to_string(dir.join(PID)).context("read the story's process ID")?;
    Ok(Ended::Kept(pid.trim().parse()?))
}

async fn stop(mut child: Child, lifeline: ChildStdin) -> Result<Ended> {
    drop(lifeline);
    if tokio::time::timeout(GRACE + Duration::from_secs(10), child.wait()).await.is_err() {
        child.kill().await.context("kill unshare")?;
    }
    Ok(Ended::Interrupted)
}

/// The process that made the namespaces but is in the old process namespace itself: starts the first process, and
/// stays until that has ended or is to be kept. It may have one thread only: threads of a process whose children go to
/// another process namespace are refused by the kernel (clone(2), EINVAL for CLONE_THREAD).
///
/// # Errors
/// When the first process cannot be started.
pub fn inside(dir: &Path, args: &[OsString]) -> Result<i32> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = std::process::Command::new(program);
    let mut first = command.arg("first").arg(dir).args(args).spawn().context("start the first process")?;
    std::fs::write(dir.join(PID), first.id().to_string())?;
    loop {
        if let Some(status) = first.try_wait()? {
            return Ok(status.code().unwrap_or(1));
        }
        if dir.join(KEPT).is_file() {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The first process of the namespaces: starts `args` of this program, reaps, and returns the exit code to end with.
///
/// # Errors
/// When the story cannot be started.
pub async fn first(dir: &Path, args: &[OsString]) -> Result<i32> {
    rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None)
        .context("mount /proc for the story's processes")?;
    let program = std::env::current_exe().context("find this program")?;
    let mut story = Command::new(program).args(args).stdin(Stdio::null()).spawn().context("start the story")?;
    let pid = story.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).context("no story")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut children = signal(SignalKind::child())?;
    let mut lifeline = Box::pin(lifeline());
    let mut kept = false;
    let code = loop {
        tokio::select! {
            status = story.wait() => {
                let code = status?.code().unwrap_or(1);
                if kept {
                    break code;
                }
                // Whoever started this reads what the story has left, and removes the folder.
                return Ok(code);
            }
            _ = children.recv() => reap(pid),
            _ = terminate.recv() => break finish(&mut story, pid).await,
            end = &mut lifeline, if !kept => match end {
                Lifeline::Keep => {
                    kept = true;
                    be_silent()?;
                }
                Lifeline::Closed => break finish(&mut story, pid).await,
            },
        }
    };
    // A failed story has copied what matters already. What still runs may hold files open; that does no harm.
    std::fs::remove_dir_all(dir).ok();
    Ok(code)
}

/// Lets go of the terminal or pipe that whoever started us reads: it must not stay open for what is kept.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn be_silent() -> Result<()> {
    let null = std::fs::File::options().write(true).open("/dev/null").context("open /dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

enum Lifeline {
    Keep,
    Closed,
}

/// Waits for a byte or the end of standard input. A plain thread reads: tokio's own would have to return before the
/// program can end.
async fn lifeline() -> Lifeline {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        let read = std::io::Read::read(&mut std::io::stdin(), &mut byte);
        tell.send(if matches!(read, Ok(1)) { Lifeline::Keep } else { Lifeline::Closed }).ok();
    });
    told.await.unwrap_or(Lifeline::Closed)
}

/// Asks the story to end and waits a while.
async fn finish(story: &mut Child, pid: rustix::process::Pid) -> i32 {
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    match tokio::time::timeout(GRACE, story.wait()).await {
        Ok(Ok(status)) => status.code().unwrap_or(130),
        _ => 130,
    }
}

/// Takes the exit status of processes whose parent is gone; libvirt waits for its QEMU processes to vanish.
fn reap(story: rustix::process::Pid) {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // The story itself is waited for elsewhere; a child that still runs has no status to take.
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|pid| *pid != story) {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).ok();
            }
        }
    }
}
