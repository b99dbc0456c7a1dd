//! Waiting for the kernel's random number generator.
//!
//! On a machine whose processor has no RDRAND, without a hardware generator, it is ready minutes after the start or never;
//! the first library that draws a number then hangs without a word. So somebody waits for it by name, with a deadline.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The kernel has no random numbers yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel has no random numbers after {} s: give the machine a processor with RDRAND or a hardware generator \
     (virtio-rng in a virtual machine)",
    waited.as_secs()
)]
pub struct NoEntropy {
    waited: Duration,
}

/// Returns when random numbers can be drawn without blocking, and says in the log that it waits. Blocks.
///
/// # Errors
///
/// When that takes longer than `limit`.
pub fn wait_for_entropy(limit: Duration) -> Result<(), NoEntropy> {
    let started = Instant::now();
    tracing::info!("waiting for the kernel's random numbers");
    let (done, waiting) = mpsc::channel();
    // A blocking draw, and not a look at whether it would block: it makes the kernel gather what it lacks.
    let drawing = thread::Builder::new().name("entropy".to_owned()).spawn(move || {
        let drawn = rustix::rand::getrandom(&mut [0_u8; 1][..], rustix::rand::GetRandomFlags::empty());
        // Nobody waits any more when the limit has passed.
        let _ = done.send(drawn.is_ok());
    });
    match (drawing, waiting.recv_timeout(limit)) {
        (Ok(_), Ok(true)) => {
            tracing::info!(seconds = started.elapsed().as_secs_f32(), "random numbers are there");
            Ok(())
        }
        _ => Err(NoEntropy { waited: started.elapsed() }),
    }
}
