//! Calls of which there is one at a time for each key: a newer one ends the one before.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// The calls of one kind, by what there is one of.
#[derive(Debug)]
pub(super) struct Calls<K>(Mutex<HashMap<K, (u64, CancellationToken)>>);

impl<K> Default for Calls<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The place of a call; free again with this value.
pub(super) struct Place<K: Eq + Hash> {
    calls: Arc<Calls<K>>,
    key: K,
    number: u64,
    /// A newer call has taken the place.
    pub(super) over: CancellationToken,
}

impl<K: Clone + Eq + Hash> Calls<K> {
    /// A place for a call. The one that had it ends.
    pub(super) fn begin(self: &Arc<Self>, key: K) -> Place<K> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = CancellationToken::new();
        let before = calls.remove(&key);
        let number = before.as_ref().map_or(0, |(number, _)| number + 1);
        if let Some((_, before)) = before {
            before.cancel();
        }
        calls.insert(key.clone(), (number, over.clone()));
        Place { calls: self.clone(), key, number, over }
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut calls = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            calls.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_call_ends_the_one_before_and_keeps_its_place() {
        let calls = Arc::new(Calls::default());
        let (first, elsewhere) = (calls.begin(1), calls.begin(2));
        let second = calls.begin(1);
        assert!(first.over.is_cancelled() && !second.over.is_cancelled() && !elsewhere.over.is_cancelled());
        drop(first);
        let third = calls.begin(1);
        assert!(second.over.is_cancelled());
        drop((second, third, elsewhere));
        assert!(calls.0.lock().unwrap().is_empty());
    }
}
