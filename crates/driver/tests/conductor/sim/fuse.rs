//! Kills a conductor: once the fuse has blown, whatever the conductor does next never returns.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Counts the moments at which a conductor can die.
pub(crate) struct Fuse {
    at: usize,
    count: AtomicUsize,
    blown: AtomicBool,
    bang: Notify,
    pub(crate) what: Mutex<String>,
}

impl Fuse {
    /// One that holds.
    pub(crate) fn whole() -> Arc<Self> {
        Self::blowing_at(usize::MAX)
    }

    /// One that blows at the given moment, counted from 1.
    pub(crate) fn blowing_at(at: usize) -> Arc<Self> {
        let what = Mutex::new(String::new());
        Arc::new(Self { at, count: AtomicUsize::new(0), blown: AtomicBool::new(false), bang: Notify::new(), what })
    }

    pub(crate) fn moments(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) async fn tick(&self, what: &str) {
        if !self.blown.load(Ordering::SeqCst) {
            let moment = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            if moment != self.at {
                return;
            }
            what.clone_into(&mut self.what.lock().unwrap());
            self.blown.store(true, Ordering::SeqCst);
            self.bang.notify_one();
        }
        std::future::pending::<()>().await;
    }

    pub(crate) async fn blown(&self) {
        if !self.blown.load(Ordering::SeqCst) {
            self.bang.notified().await;
        }
    }
}
