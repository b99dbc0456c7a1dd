//! A switch between a server's network cards and the lab's bridge whose ports carry one VLAN, tagged, and nothing else.
//!
//! ```text
//! server, card 1 ─ UDP ─┐
//!                       ├─ this ─ UDP ─ QEMU without a machine ─ TAP on the bridge
//! server, card 2 ─ UDP ─┘
//! ```
//!
//! The kernels that stories run on need to know nothing of VLANs for it: QEMU carries Ethernet frames in datagrams
//! (`-netdev socket,udp=`), and a tag (IEEE 802.1Q, 9.6) is four bytes in a frame.

use crate::lab::{BRIDGE, Process, output};
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::process::Command;

/// The only VLAN.
pub(crate) const VLAN: u16 = 100;
/// Ports on the loopback address of the story's own network namespace: ours and the card's, for each card.
const CARDS: [(u16, u16); 2] = [(21_110, 21_111), (21_120, 21_121)];
/// Ours and that of the QEMU which has the TAP interface.
const UPLINK: (u16, u16) = (21_100, 21_101);
const TAP: &str = "trunk0";
/// Destination and source: what is before a tag.
const ADDRESSES: usize = 12;
const TAG: [u8; 4] = [0x81, 0x00, (VLAN >> 8) as u8, (VLAN & 0xff) as u8];
/// Larger than any frame.
const FRAME: usize = 64 * 1024;

/// The running switch. It stops when it is dropped.
#[derive(Debug)]
pub struct Trunk {
    uplink: Process,
    counts: Arc<Counts>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What came from the server's cards.
#[derive(Debug, Default)]
struct Counts {
    tagged: [AtomicU64; 2],
    other: AtomicU64,
}

impl Trunk {
    /// Starts it on the lab's bridge.
    ///
    /// # Errors
    /// When QEMU or a socket cannot be had.
    pub(crate) async fn start(logs: &Path) -> Result<Self> {
        let (ours, theirs) = UPLINK;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "none", "-nodefaults", "-display", "none"])
            .args(["-netdev", &format!("tap,id=tap,ifname={TAP},script=no,downscript=no,vnet_hdr=off")])
            .args(["-netdev", &format!("socket,id=udp,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{theirs}")])
            .args(["-netdev", "hubport,id=hub-tap,hubid=0,netdev=tap"])
            .args(["-netdev", "hubport,id=hub-udp,hubid=0,netdev=udp"]);
        let uplink = UdpSocket::bind(local(ours)).await.context("bind the trunk's socket towards the bridge")?;
        let cards = [bind(0).await?, bind(1).await?];
        let mut process = Process::start("the trunk's QEMU", &mut qemu, &logs.join("trunk.log"))?;
        crate::until("the trunk's interface", Duration::from_secs(30), async || {
            process.check()?;
            Ok(Path::new("/sys/class/net").join(TAP).exists().then_some(()))
        })
        .await?;
        output(Command::new("ip").args(["link", "set", TAP, "master", BRIDGE, "up"])).await?;

        let counts = Arc::<Counts>::default();
        let uplink = Arc::new(uplink);
        // Where the last frame came from: a switch learns where a station is.
        let active = Arc::new(Mutex::new(0));
        let cards = cards.map(Arc::new);
        let mut tasks: Vec<_> = (0..cards.len())
            .map(|port| {
                let (card, uplink) = (Arc::clone(&cards[port]), Arc::clone(&uplink));
                let (counts, active) = (Arc::clone(&counts), Arc::clone(&active));
                tokio::spawn(async move {
                    let mut frame = vec![0; FRAME];
                    while let Ok(length) = card.recv(&mut frame).await {
                        let Some(plain) = untagged(&frame[..length]) else {
                            counts.other.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        counts.tagged[port].fetch_add(1, Ordering::Relaxed);
                        *active.lock().unwrap_or_else(PoisonError::into_inner) = port;
                        // Lost like a frame on a cable: who sent it sends it again.
                        uplink.send_to(&plain, local(theirs)).await.ok();
                    }
                })
            })
            .collect();
        tasks.push(tokio::spawn(async move {
            let mut frame = vec![0; FRAME];
            while let Ok(length) = uplink.recv(&mut frame).await {
                let Some(tagged) = tagged(&frame[..length]) else { continue };
                let learned = *active.lock().unwrap_or_else(PoisonError::into_inner);
                // What is for a group goes out of every port: IEEE 802.3, 3.2.3, the first bit of the destination.
                let group = tagged[0] & 1 == 1;
                for (port, card) in cards.iter().enumerate().filter(|(port, _)| group || *port == learned) {
                    card.send_to(&tagged, local(CARDS[port].1)).await.ok();
                }
            }
        }));
        Ok(Self { uplink: process, counts, tasks })
    }

    /// Fails if the way to the bridge has broken down.
    ///
    /// # Errors
    /// With what QEMU said.
    pub fn check(&mut self) -> Result<()> {
        self.uplink.check()
    }

    /// Frames of the VLAN that came from each card.
    #[must_use]
    pub fn tagged(&self) -> [u64; 2] {
        [0, 1].map(|port: usize| self.counts.tagged[port].load(Ordering::Relaxed))
    }

    /// Frames of no VLAN or of another; they go nowhere.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.counts.other.load(Ordering::Relaxed)
    }

    /// What libvirt's XML says of the cable of card `number` (0 or 1).
    pub(crate) fn cable(number: usize) -> String {
        let (ours, theirs) = CARDS[number];
        format!("<source address='127.0.0.1' port='{ours}'><local address='127.0.0.1' port='{theirs}'/></source>")
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn bind(number: usize) -> Result<UdpSocket> {
    let port = CARDS[number].0;
    UdpSocket::bind(local(port)).await.with_context(|| format!("bind the trunk's socket on port {port}"))
}

/// A frame of our VLAN without its tag.
fn untagged(frame: &[u8]) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
    let (tag, payload) = rest.split_first_chunk::<4>()?;
    // The upper four bits of the third byte are priority and eligibility.
    let ours = tag[..2] == TAG[..2] && tag[2] & 0x0f == TAG[2] && tag[3] == TAG[3];
    ours.then(|| [addresses, payload].concat())
}

/// A frame with the tag of our VLAN.
fn tagged(frame: &[u8]) -> Option<Vec<u8>> {
    let (addresses, payload) = frame.split_at_checked(ADDRESSES)?;
    Some([addresses, &TAG, payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_put_behind_the_addresses_and_taken_off_again_and_other_vlans_stay_out() {
        let frame: Vec<u8> = (0..60).collect();
        let with = tagged(&frame).unwrap();
        assert_eq!((&with[..12], &with[12..16], &with[16..]), (&frame[..12], &[0x81, 0, 0, 100][..], &frame[12..]));
        assert_eq!(untagged(&with).unwrap(), frame);
        let mut urgent = with.clone();
        urgent[14] |= 0xe0;
        assert_eq!(untagged(&urgent).unwrap(), frame);
        let mut other = with;
        other[15] = 101;
        assert_eq!(untagged(&other), None);
        assert_eq!(untagged(&frame), None);
        assert_eq!((untagged(&[0; 14]), tagged(&[0; 11])), (None, None));
    }
}
