//! What switches say of themselves on the cable: LLDP (IEEE 802.1AB), heard for a while on all interfaces beside whatever
//! else is done.

use crate::{sys, tree};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// TLVs as (type, value in hex).
pub type Tlvs = Vec<(u32, String)>;

/// The largest frame that is looked at: the largest of Ethernet without jumbo frames.
const LARGEST_FRAME: usize = 1518;
/// TLVs of a frame at most; one of two bytes each would be 752.
const MOST_TLVS: usize = 256;
/// Interfaces that are listened on at most.
const MOST_INTERFACES: usize = 128;
/// How often new interfaces are looked for.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Cards that are still finding out what cable they are on have no carrier yet and are not to be overlooked.
const SETTLE: Duration = Duration::from_secs(3);
/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: u64 = 1;

/// Somebody who listens. Cheap to clone; all clones hear the same.
#[derive(Debug, Clone)]
pub struct Lldp(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tlvs: BTreeMap<String, Tlvs>,
    done: bool,
}

struct Listening {
    name: String,
    socket: OwnedFd,
}

impl Lldp {
    /// Listens for `limit` in a thread of its own. An interface on which nobody may listen is left out, which is logged.
    pub fn listen(limit: Duration) -> Self {
        let heard = Arc::new(Heard::default());
        let listener = Arc::clone(&heard);
        let started = thread::Builder::new().name("lldp".to_owned()).spawn(move || run(&listener, limit));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for LLDP");
            finish(&heard);
        }
        Self(heard)
    }

    /// What was heard on an interface so far; empty when nothing was.
    pub fn of(&self, interface: &str) -> Tlvs {
        lock(&self.0).tlvs.get(interface).cloned().unwrap_or_default()
    }

    /// What was heard on all interfaces so far.
    pub fn all(&self) -> BTreeMap<String, Tlvs> {
        lock(&self.0).tlvs.clone()
    }

    /// Waits until all cards with a carrier have heard something, or the time is over. Blocks.
    pub fn wait(&self) {
        let state = lock(&self.0);
        drop(self.0.changed.wait_while(state, |state| !state.done));
    }
}

fn lock(heard: &Heard) -> std::sync::MutexGuard<'_, State> {
    heard.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finish(heard: &Heard) {
    lock(heard).done = true;
    heard.changed.notify_all();
}

fn run(heard: &Heard, limit: Duration) {
    let started = Instant::now();
    let mut listening: BTreeMap<u32, Option<Listening>> = BTreeMap::new();
    while started.elapsed() < limit {
        listen_on_new(&mut listening);
        let open: Vec<&Listening> = listening.values().flatten().collect();
        let mut ready: Vec<PollFd<'_>> = open.iter().map(|one| PollFd::new(&one.socket, PollFlags::IN)).collect();
        if poll(&mut ready, Some(&LOOK)).is_err() {
            continue;
        }
        let spoken: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (one, _) in open.iter().zip(spoken).filter(|(_, spoken)| *spoken) {
            let mut frame = [0; LARGEST_FRAME];
            let length = match rustix::net::recv(&one.socket, &mut frame[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                // The interface went down, which ends its socket's wait with an error, once.
                Err(_) => continue,
            };
            let tlvs = parse(&frame[..length]);
            if tlvs.is_empty() {
                continue;
            }
            let mut state = lock(heard);
            if state.tlvs.insert(one.name.clone(), tlvs).is_none() {
                tracing::info!(interface = one.name, "LLDP heard");
            }
        }
        if started.elapsed() >= SETTLE && !lock(heard).done && all_heard(heard) {
            finish(heard);
        }
    }
    if !lock(heard).done {
        tracing::info!(seconds = limit.as_secs(), "no more LLDP is waited for");
        finish(heard);
    }
}

/// Opens sockets on interfaces that are new.
fn listen_on_new(listening: &mut BTreeMap<u32, Option<Listening>>) {
    for (index, name) in interfaces() {
        if listening.contains_key(&index) || listening.len() >= MOST_INTERFACES {
            continue;
        }
        let opened = sys::lldp_socket(index);
        if let Err(error) = &opened {
            tracing::warn!(interface = name, %error, "LLDP is not listened for here");
        }
        listening.insert(index, opened.ok().map(|socket| Listening { name, socket }));
    }
}

/// Index and name of the Ethernet interfaces.
fn interfaces() -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let named = entries.flatten().filter_map(|entry| {
        let folder = entry.path();
        let index = tree::number(&folder.join("ifindex"))?;
        let ethernet = tree::number(&folder.join("type")) == Some(ETHERNET);
        let name = entry.file_name().into_string().ok().filter(|name| ethernet && name != "lo")?;
        Some((u32::try_from(index).ok()?, name))
    });
    named.collect()
}

fn all_heard(heard: &Heard) -> bool {
    let state = lock(heard);
    interfaces().iter().all(|(_, name)| {
        let folder = Path::new("/sys/class/net").join(name);
        let card = folder.join("device").exists() && tree::text(&folder.join("carrier")).as_deref() == Some("1");
        !card || state.tlvs.contains_key(name)
    })
}

/// The TLVs of an Ethernet frame (IEEE 802.1AB-2016, 8.4: seven bits of type, nine of length), the one that ends them
/// included; nothing when the frame is no LLDP or a length points beyond its end.
pub fn parse(frame: &[u8]) -> Tlvs {
    let mut tlvs = Tlvs::new();
    let Some((header, mut rest)) = frame.split_at_checked(14) else { return tlvs };
    if header[12..] != [0x88, 0xcc] {
        return tlvs;
    }
    while let [high, low, after @ ..] = rest {
        let kind = u32::from(high >> 1);
        let length = usize::from(*high & 1) << 8 | usize::from(*low);
        let Some((value, next)) = after.split_at_checked(length) else { return Tlvs::new() };
        tlvs.push((kind, hex(value)));
        rest = next;
        if kind == 0 || tlvs.len() == MOST_TLVS {
            break;
        }
    }
    tlvs
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tlvs: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc];
        frame.extend(tlvs);
        frame
    }

    #[test]
    fn tlvs_are_read_up_to_the_one_that_ends_them() {
        // Chassis (a MAC address), port (a name), time to live, end, padding.
        let bytes = b"\x02\x07\x04\x02\x00\x00\x00\x00\x01\x04\x05\x05swp1\x06\x02\x00\x78\x00\x00\x00\x00\x00\x00";
        let expected: Tlvs = [(1, "04020000000001"), (2, "0573777031"), (3, "0078"), (0, "")]
            .map(|(kind, value)| (kind, value.to_owned()))
            .to_vec();
        assert_eq!(parse(&frame(bytes)), expected);
    }

    #[test]
    fn lp_2155051_the_longest_value_is_read_and_a_length_beyond_the_frame_is_not() {
        let mut longest = vec![0xff, 0xff];
        longest.extend([0xab; 511]);
        assert_eq!(parse(&frame(&longest))[0], (127, "ab".repeat(511)));
        longest.pop();
        assert!(parse(&frame(&longest)).is_empty());
    }

    #[test]
    fn frames_that_are_no_lldp_say_nothing() {
        assert!(parse(&[]).is_empty());
        assert!(parse(&[0; 13]).is_empty());
        assert!(parse(&[0; 60]).is_empty());
        assert!(parse(&frame(&[])).is_empty());
    }

    #[test]
    fn no_frame_gives_more_tlvs_than_the_limit() {
        assert_eq!(parse(&frame(&[2, 0].repeat(700))).len(), MOST_TLVS);
    }
}
