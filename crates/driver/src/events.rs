//! What happens to nodes, for whoever watches: one numbered sequence in memory, of which each watcher reads at its own pace.
//!
//! The sequence is bounded. Of progress only the newest of each node is kept, since an older one says nothing any more; of
//! everything else the newest [`KEPT`] events, and fewer when they are long. A watcher holds nothing but the number of the last event that it read: one that
//! is so slow that what it has not read is gone is told so, and reads the nodes anew. Numbers begin anew with each start of the
//! driver, which its epoch tells.

use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// How many events are kept besides the progress of each node.
pub const KEPT: usize = 8192;

/// Bytes of their texts that are kept; the newest event is kept whatever it takes.
const KEPT_BYTES: usize = 64 << 20;

/// Most watchers at once, of events and of logs together: each holds a connection.
pub const WATCHERS: usize = 256;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A state of the node is another: provision, power, maintenance, its error.
    State,
    /// How far the agent's running step is.
    Progress,
    /// An entry of the history.
    History,
    /// The node is there no more.
    Deleted,
}

impl Kind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Progress => "progress",
            Self::History => "history",
            Self::Deleted => "deleted",
        }
    }
}

/// Something that happened.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Its number in the sequence, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// To which node.
    pub node: Uuid,
    /// What kind it is of.
    pub kind: Kind,
    /// What it says: a JSON object.
    pub data: String,
}

/// A place in the sequence: that behind the event of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The driver's start.
    pub epoch: u64,
    /// The number of the last event that was read; 0 before the first.
    pub number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, number) = text.split_once('-').ok_or(())?;
        let read = |text: &str| if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
        Ok(Self { epoch: read(epoch).ok_or(())?, number: read(number).ok_or(())? })
    }
}

/// What a watcher has not read is kept no more, or was never in this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The driver was started anew since.
    #[error("the driver was started anew since; its events begin anew")]
    Restarted,
    /// More happened than is kept.
    #[error("more has happened since than is kept; read the nodes anew")]
    Behind,
}

/// The sequence.
#[derive(Debug)]
pub struct Events {
    epoch: u64,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    watchers: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Ring {
    events: BTreeMap<u64, Arc<Event>>,
    /// Bytes of the texts of those that are not progress.
    bytes: usize,
    /// The number of the newest progress of each node.
    progress: HashMap<Uuid, u64>,
    newest: u64,
    /// The highest number that is kept no more and was not superseded.
    gone: u64,
}

/// The place of a watcher; free again when it is dropped.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// The sequence of a driver's start.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, ring: Mutex::default(), newest: watch::Sender::new(0), watchers: Arc::default() }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; `data` is a JSON object.
    pub fn add(&self, at: Timestamp, node: Uuid, kind: Kind, data: &serde_json::Value) {
        let data = data.to_string();
        let number = {
            let mut ring = self.ring();
            ring.newest += 1;
            let number = ring.newest;
            if kind == Kind::Progress
                && let Some(before) = ring.progress.insert(node, number)
            {
                ring.events.remove(&before);
            }
            if kind == Kind::Deleted
                && let Some(before) = ring.progress.remove(&node)
            {
                ring.events.remove(&before);
            }
            if kind != Kind::Progress {
                ring.bytes += data.len();
            }
            ring.events.insert(number, Arc::new(Event { number, at, node, kind, data }));
            ring.trim();
            number
        };
        // A later one may have told its number first.
        self.newest.send_if_modified(|newest| {
            let newer = *newest < number;
            *newest = number.max(*newest);
            newer
        });
    }

    /// The place behind everything that has happened.
    pub fn now(&self) -> Place {
        Place { epoch: self.epoch, number: self.ring().newest }
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// A place for one more watcher; [`None`] when there are [`WATCHERS`].
    pub fn seat(&self) -> Option<Seat> {
        let taken = self
            .watchers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| (number < WATCHERS).then_some(number + 1));
        taken.ok().map(|_| Seat(self.watchers.clone()))
    }

    /// What hears of new events.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// At most `limit` events behind a place, of all nodes or of one, and the place behind them.
    ///
    /// # Errors
    /// [`Lost`]: some of them are not there any more.
    pub fn read(&self, place: Place, node: Option<Uuid>, limit: usize) -> Result<(Vec<Arc<Event>>, Place), Lost> {
        let ring = self.ring();
        if place.epoch != self.epoch || place.number > ring.newest {
            return Err(Lost::Restarted);
        }
        if place.number < ring.gone {
            return Err(Lost::Behind);
        }
        let behind = ring.events.range(place.number + 1..).map(|(_, event)| event);
        let mut events = Vec::new();
        for event in behind.filter(|event| node.is_none_or(|node| node == event.node)) {
            if events.len() == limit {
                let number = events.last().map_or(place.number, |event: &Arc<Event>| event.number);
                return Ok((events, Place { number, ..place }));
            }
            events.push(event.clone());
        }
        Ok((events, Place { number: ring.newest, ..place }))
    }
}

impl Ring {
    fn trim(&mut self) {
        while self.events.len() > KEPT + self.progress.len() || self.bytes > KEPT_BYTES {
            let oldest = self.events.values().find(|event| event.kind != Kind::Progress);
            let Some((oldest, bytes)) = oldest.map(|event| (event.number, event.data.len())) else { return };
            if oldest == self.newest {
                return;
            }
            self.events.remove(&oldest);
            self.bytes -= bytes;
            self.gone = self.gone.max(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn add(events: &Events, node: Uuid, kind: Kind) {
        events.add(Timestamp::UNIX_EPOCH, node, kind, &json!({}));
    }

    fn numbers(read: &(Vec<Arc<Event>>, Place)) -> Vec<u64> {
        read.0.iter().map(|event| event.number).collect()
    }

    #[test]
    fn a_watcher_reads_on_where_it_was_and_misses_nothing_but_superseded_progress() {
        let events = Events::new(7);
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let start = events.now();
        for (node, kind) in [
            (one, Kind::State),
            (one, Kind::Progress),
            (other, Kind::Progress),
            (one, Kind::Progress),
            (one, Kind::History),
        ] {
            add(&events, node, kind);
        }
        let all = events.read(start, None, 100).unwrap();
        assert_eq!(numbers(&all), [1, 3, 4, 5], "the second says nothing that the fourth does not");
        let (_, place) = events.read(start, None, 2).unwrap();
        assert_eq!(place.to_string(), "7-3");
        assert_eq!(numbers(&events.read("7-3".parse().unwrap(), None, 100).unwrap()), [4, 5]);
        let of_other = events.read(start, Some(other), 100).unwrap();
        assert_eq!((numbers(&of_other), of_other.1), (vec![3], events.now()));
    }

    #[test]
    fn who_is_too_slow_is_told_and_progress_of_many_nodes_makes_nobody_slow() {
        let events = Events::new(1);
        let node = Uuid::new_v4();
        add(&events, node, Kind::State);
        let early = events.now();
        for _ in 0..3 * KEPT {
            add(&events, node, Kind::Progress);
        }
        assert_eq!(numbers(&events.read(early, None, 10).unwrap()).len(), 1);
        for _ in 0..KEPT {
            add(&events, node, Kind::History);
        }
        assert!(events.read(early, None, 10).is_ok());
        add(&events, node, Kind::History);
        assert_eq!(events.read(early, None, 10), Err(Lost::Behind));
        assert_eq!(events.ring().events.len(), KEPT + 1);
    }

    #[test]
    fn long_events_take_no_more_room_than_there_is() {
        let events = Events::new(1);
        let node = Uuid::new_v4();
        let early = events.now();
        let long = json!({"event": "x".repeat(KEPT_BYTES / 4)});
        for _ in 0..3 {
            events.add(Timestamp::UNIX_EPOCH, node, Kind::History, &long);
        }
        assert_eq!(numbers(&events.read(early, None, 10).unwrap()), [1, 2, 3]);
        events.add(Timestamp::UNIX_EPOCH, node, Kind::History, &long);
        assert_eq!(events.read(early, None, 10), Err(Lost::Behind));
        assert!(events.ring().bytes <= KEPT_BYTES);
        events.add(Timestamp::UNIX_EPOCH, node, Kind::History, &json!({"event": "x".repeat(2 * KEPT_BYTES)}));
        assert_eq!(events.ring().events.len(), 1, "the newest is kept");
    }

    #[test]
    fn numbers_of_another_start_lead_nowhere() {
        let events = Events::new(2);
        for place in [Place { epoch: 1, number: 0 }, Place { epoch: 2, number: 1 }, Place { epoch: 3, number: 0 }] {
            assert_eq!(events.read(place, None, 1), Err(Lost::Restarted));
        }
        for odd in ["", "1", "-", "1-", "-1", "1-+2", "1-2-3", "x-1", "99999999999999999999-1"] {
            assert!(odd.parse::<Place>().is_err(), "{odd}");
        }
    }

    #[test]
    fn the_places_of_watchers_are_counted_and_come_back() {
        let events = Events::new(1);
        let seats: Vec<Seat> = (0..WATCHERS).map(|_| events.seat().unwrap()).collect();
        assert!(events.seat().is_none());
        drop(seats);
        assert_eq!(events.watchers(), 0);
        assert!(events.seat().is_some());
    }
}
