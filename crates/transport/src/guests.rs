//! The connections that a server has: who is busy, and who goes when there are too many.
//!
//! Whoever connects anew has something to ask; a connection on which nothing is asked can be made again. So the one that
//! has been idle for the longest time goes first, and holding connections open keeps nobody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// All connections of a server.
#[derive(Default)]
pub(crate) struct Guests(Mutex<Known>);

#[derive(Default)]
struct Known {
    last: u64,
    guests: HashMap<u64, State>,
}

struct State {
    address: IpAddr,
    /// Calls that are open.
    calls: usize,
    /// Since when there is none.
    idle_since: Instant,
    leave: CancellationToken,
}

impl State {
    fn is_idle(&self) -> bool {
        self.calls == 0 && !self.leave.is_cancelled()
    }
}

impl Known {
    /// Tells the one of `address`, or of all, that has been idle for the longest time to leave. `false` when nobody is idle.
    fn dismiss(&mut self, address: Option<IpAddr>) -> bool {
        let idle = self
            .guests
            .iter()
            .filter(|(_, state)| state.is_idle() && address.is_none_or(|address| state.address == address));
        // Numbers grow with time: they decide between two of one moment.
        let longest = idle.min_by_key(|(number, state)| (state.idle_since, **number));
        longest.map(|(_, state)| state.leave.cancel()).is_some()
    }
}

/// A connection; it ends with this value.
pub(crate) struct Guest {
    guests: Arc<Guests>,
    number: u64,
    leave: CancellationToken,
}

/// A call on a connection; it ends with this value.
pub(crate) struct Call(Arc<Guest>);

impl Guests {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection of `address` in. If it has `cap` already, an idle one of them goes; `None` when all are busy.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, cap: Option<usize>) -> Option<Guest> {
        // The same IPv4 address looks different on a socket for both families.
        let address = address.to_canonical();
        let mut known = self.known();
        if let Some(cap) = cap {
            let staying = |state: &&State| state.address == address && !state.leave.is_cancelled();
            if known.guests.values().filter(staying).count() >= cap && !known.dismiss(Some(address)) {
                return None;
            }
        }
        known.last += 1;
        let (number, leave) = (known.last, CancellationToken::new());
        let state = State { address, calls: 0, idle_since: Instant::now(), leave: leave.clone() };
        known.guests.insert(number, state);
        Some(Guest { guests: Arc::clone(self), number, leave })
    }

    /// Tells the connection that has been idle for the longest time to leave, if one is idle.
    pub(crate) fn make_room(&self) {
        self.known().dismiss(None);
    }
}

impl Guest {
    /// Returns when this connection has to make room for another one.
    pub(crate) async fn dismissed(&self) {
        self.leave.cancelled().await;
    }

    /// Begins a call: until it ends, the connection stays.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        if let Some(state) = self.guests.known().guests.get_mut(&self.number) {
            state.calls += 1;
        }
        Call(Arc::clone(self))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.known().guests.remove(&self.number);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(state) = self.0.guests.known().guests.get_mut(&self.0.number) {
            state.calls -= 1;
            state.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(guest: &Guest) -> bool {
        guest.leave.is_cancelled()
    }

    #[test]
    fn the_longest_idle_connection_of_an_address_goes_and_a_busy_one_never_does() {
        let guests = Arc::new(Guests::default());
        let (v4, mapped): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap());
        let other = guests.admit("192.0.2.2".parse().unwrap(), Some(2)).unwrap();
        let busy = Arc::new(guests.admit(v4, Some(2)).unwrap());
        let call = busy.call();
        let idle = guests.admit(mapped, Some(2)).unwrap();
        let third = Arc::new(guests.admit(v4, Some(2)).unwrap());
        assert!(left(&idle) && !left(&busy) && !left(&third) && !left(&other));
        let _second_call = third.call();
        assert!(guests.admit(v4, Some(2)).is_none(), "both are busy");
        assert!(guests.admit(v4, None).is_some());
        // It has been idle since its call ended, and the other one for longer.
        drop(call);
        let fourth = guests.admit(v4, Some(2)).unwrap();
        assert!(left(&busy) && !left(&fourth) && !left(&other));
        guests.make_room();
        assert!(left(&other) && !left(&fourth));
    }

    #[test]
    fn a_connection_that_ended_is_forgotten() {
        let guests = Arc::new(Guests::default());
        let guest = Arc::new(guests.admit("192.0.2.1".parse().unwrap(), Some(1)).unwrap());
        let call = guest.call();
        drop(guest);
        // The answer is still on its way.
        assert_eq!(guests.known().guests.len(), 1);
        drop(call);
        assert!(guests.known().guests.is_empty());
    }
}
