//! Signs that a machine was booted anew while its agent had something to do.
//!
//! The new agent gets no say: the node's token was given away or its key is another, so it is refused as a stranger would be,
//! and the old one is silent. Without these signs only the deadline would end the wait. A sign alone ends nothing, for
//! anybody may send a look-up: it counts while the agent that has the command does not answer, and is forgotten as soon as
//! that agent does.

use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// How long an agent has to be silent after a look-up, which proves nothing. A switch that reboots takes less.
const SILENCE: Duration = Duration::from_secs(60);

/// Nodes of which there is a sign. Each is one that there is, so there are no more than nodes.
#[derive(Debug, Default)]
pub(super) struct Boots(Mutex<HashMap<Uuid, Sign>>);

#[derive(Debug, Clone, Copy)]
struct Sign {
    /// When the first one came since the agent answered last.
    since: Timestamp,
    /// Whether who gave it has the node's token.
    proven: bool,
}

impl Boots {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Sign>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody looked up a node whose token was given away.
    pub(super) fn looked_up(&self, node: Uuid, now: Timestamp) {
        self.lock().entry(node).or_insert(Sign { since: now, proven: false });
    }

    /// Somebody has the node's token, and another certificate or key than its agent.
    pub(super) fn has_token(&self, node: Uuid, now: Timestamp) {
        self.lock().entry(node).or_insert(Sign { since: now, proven: true }).proven = true;
    }

    /// The agent that the driver knows has answered, or there is nothing any more for it to do.
    pub(super) fn forget(&self, node: Uuid) {
        self.lock().remove(&node);
    }

    /// The agent does not answer: whether that is because its machine was booted anew.
    pub(super) fn is_anew(&self, node: Uuid, now: Timestamp) -> bool {
        self.lock().get(&node).is_some_and(|sign| {
            let silent = Duration::try_from(now.duration_since(sign.since)).unwrap_or_default();
            sign.proven || silent >= SILENCE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_counts_after_a_silence_and_the_token_at_once() {
        let (boots, node, now) = (Boots::default(), Uuid::new_v4(), Timestamp::UNIX_EPOCH);
        let later = now + SILENCE;
        assert!(!boots.is_anew(node, later));
        boots.looked_up(node, now);
        // Who repeats it does not put it off.
        boots.looked_up(node, later);
        assert!(!boots.is_anew(node, now) && boots.is_anew(node, later));
        boots.forget(node);
        assert!(!boots.is_anew(node, later));
        boots.looked_up(node, now);
        boots.has_token(node, now);
        assert!(boots.is_anew(node, now));
    }
}
