//! The one way out of the machine.

use hardware::PowerAction;
use hardware_linux::{exec, power};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// Why the machine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Start again, as asked.
    Reboot,
    /// Switch off, as asked.
    PowerOff,
    /// Something that cannot be lived with, in words for a person; `ferric.on-exit=` says what follows.
    Failed(String),
}

/// What follows a failure: the kernel parameter `ferric.on-exit=reboot|poweroff|hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum OnFailure {
    /// Start again, and perhaps do better.
    #[default]
    Reboot = 0,
    /// Switch off.
    PowerOff = 1,
    /// Stay as it is, with the reason on the console.
    Hold = 2,
}

impl OnFailure {
    /// What the kernel command line says; the last word counts. `Err` holds a value that is none of the three.
    pub fn parse(cmdline: &str) -> Result<Self, String> {
        match cmdline.split_whitespace().filter_map(|word| word.strip_prefix("ferric.on-exit=")).next_back() {
            None | Some("reboot") => Ok(Self::Reboot),
            Some("poweroff") => Ok(Self::PowerOff),
            Some("hold") => Ok(Self::Hold),
            Some(other) => Err(other.to_owned()),
        }
    }
}

static ON_FAILURE: AtomicU8 = AtomicU8::new(OnFailure::Reboot as u8);
static ENDING: AtomicBool = AtomicBool::new(false);

/// How long file systems may take to be flushed.
const SYNC: Duration = Duration::from_secs(30);
/// How long a failure stays on the console before the machine goes away; also keeps a machine that fails at once from
/// storming its BMC and its network with restarts.
const READING_TIME: Duration = Duration::from_secs(10);

pub(super) fn set_policy(cmdline: &str) {
    let policy = OnFailure::parse(cmdline).unwrap_or_else(|found| {
        tracing::warn!(found, "ferric.on-exit must be reboot, poweroff or hold; taking reboot");
        OnFailure::default()
    });
    ON_FAILURE.store(policy as u8, Ordering::Relaxed);
}

/// Makes a panic end the machine, half an agent being worse than none; but a command that panics has just failed.
pub(super) fn set_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        if crate::contain::is_contained() {
            tracing::error!(%panic, "panic");
            return;
        }
        exit(Exit::Failed(format!("panic: {panic}")));
    }));
}

/// Ends the machine: kills what runs, unmounts, flushes with a time limit, and switches off or starts again. Never
/// returns. In a process that is not PID 1 it ends the process alone, with status 0 or 1.
pub fn exit(why: Exit) -> ! {
    let failed = matches!(why, Exit::Failed(_));
    if ENDING.swap(true, Ordering::SeqCst) {
        // Somebody else is at it, perhaps the thread that this one has just disturbed.
        loop {
            thread::park();
        }
    }
    match &why {
        Exit::Reboot => tracing::info!("restarting"),
        Exit::PowerOff => tracing::info!("switching off"),
        Exit::Failed(reason) => tracing::error!(reason, "cannot go on"),
    }
    if !super::is_pid1() {
        #[allow(clippy::exit, reason = "the one way out")]
        std::process::exit(i32::from(failed));
    }

    exec::kill_children();
    kill_everything_else();
    if !power::timed_sync(SYNC) {
        tracing::error!(seconds = SYNC.as_secs(), "file systems could not be flushed in time");
    }
    super::mounts::unmount_all();

    let action = match why {
        Exit::Reboot => PowerAction::Reboot,
        Exit::PowerOff => PowerAction::Off,
        Exit::Failed(_) => {
            let policy = ON_FAILURE.load(Ordering::Relaxed);
            if policy == OnFailure::Hold as u8 {
                tracing::error!("holding, as ferric.on-exit=hold says");
                loop {
                    thread::park();
                }
            }
            thread::sleep(READING_TIME);
            if policy == OnFailure::PowerOff as u8 { PowerAction::Off } else { PowerAction::Reboot }
        }
    };
    if let Err(error) = power::end(action) {
        tracing::error!(%error, "the kernel refuses; holding");
    }
    loop {
        thread::park();
    }
}

/// Kills all processes but this one and the kernel's threads (which have no command line).
fn kill_everything_else() {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let kernels = fs::read(entry.path().join("cmdline")).map_or(true, |line| line.is_empty());
        if process > 1
            && !kernels
            && let Some(process) = rustix::process::Pid::from_raw(process)
        {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_the_command_line_decides() {
        assert_eq!(OnFailure::parse("quiet"), Ok(OnFailure::Reboot));
        assert_eq!(OnFailure::parse("ferric.on-exit=hold a=b"), Ok(OnFailure::Hold));
        assert_eq!(OnFailure::parse("ferric.on-exit=hold ferric.on-exit=poweroff"), Ok(OnFailure::PowerOff));
        assert_eq!(OnFailure::parse("ferric.on-exit=explode"), Err("explode".to_owned()));
    }
}
