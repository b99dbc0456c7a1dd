//! The end of a machine.

use hardware::PowerAction;
use rustix::system::RebootCommand;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Flushes all file systems and block devices, but waits no longer than `limit`: a device that hangs must not keep a
/// machine from ending. Returns whether it was done in time.
pub fn timed_sync(limit: Duration) -> bool {
    let (done, waiting) = mpsc::channel();
    let thread = thread::Builder::new().name("sync".to_owned()).spawn(move || {
        rustix::fs::sync();
        // Nobody waits any more when the limit has passed.
        let _ = done.send(());
    });
    thread.is_ok() && waiting.recv_timeout(limit).is_ok()
}

/// Ends the machine at once, with reboot(2). File systems are not flushed; see [`timed_sync`].
pub fn end(action: PowerAction) -> io::Result<()> {
    let command = match action {
        PowerAction::Off => RebootCommand::PowerOff,
        PowerAction::Reboot => RebootCommand::Restart,
    };
    Ok(rustix::system::reboot(command)?)
}
