//! Waiting for a program of the ramdisk that a command runs, and stopping it when the command is stopped.

use hardware::StepControl;
use hardware_linux::exec::Stopper;
use std::time::Duration;
use tokio::task::JoinError;

/// How long a program that was asked to stop may take to come to a safe point.
const GRACE: Duration = Duration::from_secs(30);

/// What became of the work.
pub(crate) struct Attended<T> {
    /// What it returned.
    pub(crate) ended: Result<T, JoinError>,
    /// Whether it was asked to stop, at whatever point that reached it.
    pub(crate) asked: bool,
}

/// Kills the program of a command that nobody waits for any more.
struct KillOnDrop(Stopper);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Does `work`, which runs a program with the stopper, on a thread for blocking work. When `control` is told to stop, the
/// program's group is asked to end, and killed 30 s later.
pub(crate) async fn attend<T: Send + 'static>(
    what: &str,
    control: &dyn StepControl,
    work: impl FnOnce(&Stopper) -> T + Send + 'static,
) -> Attended<T> {
    let guard = KillOnDrop(Stopper::default());
    let stopper = guard.0.clone();
    let mut running = tokio::task::spawn_blocking(move || work(&stopper));
    let ended = tokio::select! {
        ended = &mut running => return Attended { ended, asked: false },
        () = control.cancelled() => {
            guard.0.ask();
            match tokio::time::timeout(GRACE, &mut running).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!(what, "did not stop within {} s and was killed", GRACE.as_secs());
                    guard.0.kill();
                    running.await
                }
            }
        }
    };
    Attended { ended, asked: true }
}
