//! Being PID 1: mounts, a console log, kernel modules, orphans, and the one way out.
//!
//! The order of a start is [`begin`] (mounts and the console; nothing random has been drawn and nothing can be logged
//! before), then the program sets up its log on the [`Console`], then [`start`] (modules in the background), and in an
//! async context [`serve_signals`]. Everything ends in [`exit`].
//!
//! Nothing here knows what the machine is started for.

mod console;
mod devices;
mod entropy;
mod exit;
mod modalias;
mod modules;
mod mounts;

pub use console::Console;
pub use devices::Devices;
pub use entropy::{NoEntropy, wait_for_entropy};
pub use exit::{Exit, OnFailure, exit};
pub use modules::{ModuleError, Modules};
pub(crate) use mounts::mount_for_containers;
pub use mounts::{MountError, mount_read_only, unmount};

use std::sync::Arc;

/// Whether this process is PID 1, and so the one that has to do all this.
pub fn is_pid1() -> bool {
    rustix::process::getpid().is_init()
}

/// Mounts what everything else needs and opens the console. To be called first of all in `main`: before a log exists,
/// before a thread is started and before anything random is drawn, as libraries look for `/dev/urandom`.
pub fn begin() -> Result<Console, MountError> {
    mounts::mount_base()?;
    Ok(Console::open())
}

/// Sets what happens on a panic, begins to load modules for all devices, and keeps doing so for those that appear later.
/// Returns at once; see [`Devices::settled`].
///
/// `cmdline` is the kernel command line: `ferric.on-exit=` says how a failure ends, `<module>.<parameter>=<value>` are
/// parameters of modules, `modprobe.blacklist=` names modules that must not be loaded.
pub fn start(cmdline: &str) -> Devices {
    exit::set_policy(cmdline);
    exit::set_panic_hook();
    // Ctrl-Alt-Del is a signal to us instead of an instant reset.
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::CadOff) {
        tracing::debug!(%error, "Ctrl-Alt-Del stays with the kernel");
    }
    let modules = Arc::new(Modules::open(std::path::Path::new("/"), cmdline));
    Devices::start(modules)
}

/// Takes the exit status of orphans for ever, and ends the machine on SIGTERM (power off) and SIGINT (Ctrl-Alt-Del).
pub async fn serve_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let streams = (signal(SignalKind::child()), signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut child), Ok(mut terminate), Ok(mut interrupt)) = streams else {
        exit(Exit::Failed("signals cannot be received".to_owned()));
    };
    loop {
        // Also once at the start, and after each signal for all that came together.
        let reaped = tokio::task::spawn_blocking(hardware_linux::exec::reap_orphans).await.unwrap_or(0);
        if reaped > 0 {
            tracing::debug!(reaped, "orphans reaped");
        }
        let end = tokio::select! {
            _ = child.recv() => None,
            _ = terminate.recv() => Some(Exit::PowerOff),
            _ = interrupt.recv() => Some(Exit::Reboot),
        };
        if let Some(end) = end {
            exit(end);
        }
    }
}
