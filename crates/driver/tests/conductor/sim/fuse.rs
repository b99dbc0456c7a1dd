//! Kills a conductor: once the fuse has blown, whatever the conductor does next never returns.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use store::FlowRecord;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Counts the moments at which a conductor can die.
pub(crate) struct Fuse {
    at: usize,
    count: AtomicUsize,
    blown: AtomicBool,
    bang: Notify,
    pub(crate) what: Mutex<String>,
    /// Moments that are none of their own, see [`Fuse::moments`].
    same: Mutex<Vec<usize>>,
    last: Mutex<Option<(Instant, String)>>,
    flows: Mutex<BTreeSet<String>>,
}

impl Fuse {
    /// One that holds.
    pub(crate) fn whole() -> Arc<Self> {
        Self::blowing_at(usize::MAX)
    }

    /// One that blows at the given moment, counted from 1.
    pub(crate) fn blowing_at(at: usize) -> Arc<Self> {
        Arc::new(Self {
            at,
            count: AtomicUsize::new(0),
            blown: AtomicBool::new(false),
            bang: Notify::new(),
            what: Mutex::default(),
            same: Mutex::default(),
            last: Mutex::default(),
            flows: Mutex::default(),
        })
    }

    /// The moments at which a kill leaves something else behind than at the moment before.
    pub(crate) fn moments(&self) -> Vec<usize> {
        let same = self.same.lock().unwrap();
        (1..=self.count.load(Ordering::SeqCst)).filter(|moment| !same.contains(moment)).collect()
    }

    /// Finds moments that are as the one before: what is going to be begun at the very time at which something has ended has not
    /// changed anything yet, and to read power never does. Between two commits something may have been done that is no moment.
    fn compare(&self, moment: usize, what: &str) {
        let now = Instant::now();
        let last = self.last.lock().unwrap().replace((now, what.to_owned()));
        let Some((_, last)) = last.filter(|(before, _)| *before == now) else { return };
        let between_commits = last == "after a commit" && what == "before a commit";
        if what == "after power_state" || (what.starts_with("before") && !between_commits) {
            self.same.lock().unwrap().push(moment);
        }
    }

    pub(crate) async fn tick(&self, what: &str) {
        if !self.blown.load(Ordering::SeqCst) {
            let moment = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            self.compare(moment, what);
            if moment != self.at {
                return;
            }
            what.clone_into(&mut self.what.lock().unwrap());
            self.blown.store(true, Ordering::SeqCst);
            self.bang.notify_one();
        }
        std::future::pending::<()>().await;
    }

    /// The kinds of the flows that ran.
    pub(crate) fn flows(&self) -> BTreeSet<String> {
        self.flows.lock().unwrap().clone()
    }

    pub(crate) fn runs(&self, flow: &FlowRecord) {
        self.flows.lock().unwrap().insert(flow.document["kind"].as_str().unwrap().to_owned());
    }

    /// Between two reads: a kill there is one before what follows.
    pub(crate) async fn between(&self) {}

    pub(crate) async fn blown(&self) {
        if !self.blown.load(Ordering::SeqCst) {
            self.bang.notified().await;
        }
    }
}
