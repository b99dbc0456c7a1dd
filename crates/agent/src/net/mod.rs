//! Addresses: links up, bonds and VLAN interfaces, addresses from the kernel command line or from network data, DHCPv4,
//! IPv6 by router advertisement and DHCPv6.
//!
//! [`start`] watches the kernel's links for as long as the program runs. A link that gets its carrier late, or a card that
//! appears late, is configured then. What goes wrong on one link is logged and is no concern of the others.

mod advert;
pub mod clock;
mod dhcp;
mod dhcp6;
mod lease;
mod links;
pub mod mdns;
mod network_data;
mod params;
mod reach;
mod resolver;
pub mod vlans;
mod watcher;

pub use lease::{Lease, Route};
pub use links::{Address, Mac, MacError};
pub use network_data::NetworkDataError;
pub use params::{Autoconf, BondLink, NetParams, ParamError, StaticAddress, StaticRoute, VlanLink};

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel's link interface cannot be opened.
    #[error("open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused something.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Cause.
        #[source]
        source: rtnetlink::Error,
    },
    /// No address came in time.
    #[error("no address after {} s; links: {links}", waited.as_secs())]
    NoAddress {
        /// How long was waited.
        waited: Duration,
        /// What is known of the links.
        links: String,
    },
    /// The watcher has stopped.
    #[error("the network is not watched any more")]
    Stopped,
}

/// What is known of the network now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetState {
    /// Usable global addresses: those of the interface that the machine was booted from first, then by interface, IPv4
    /// before IPv6.
    pub addresses: Vec<Address>,
    /// Time servers that DHCP or the command line named.
    pub ntp: Vec<IpAddr>,
    /// Interfaces with whether they have a carrier.
    pub links: Vec<(String, bool)>,
    /// Whether `BOOTIF` names one of them that has no address yet.
    pub boot_link_pending: bool,
}

/// What a network says of itself beside addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Hints {
    dns: Vec<IpAddr>,
    search: Vec<String>,
    ntp: Vec<IpAddr>,
    hostname: Option<String>,
}

/// Who says it. Of one link the first is believed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Dhcp,
    Dhcp6,
    Advertisement,
}

/// Takes what the clients of the links hear: something new, or that nothing of it is true any more.
trait Report: Send + Sync {
    fn told(&self, link: &links::Link, source: Source, hints: Option<Hints>);
}

/// The running network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetHandle {
    state: watch::Receiver<NetState>,
    handle: rtnetlink::Handle,
    params: Arc<watch::Sender<Option<NetParams>>>,
    again: Arc<Notify>,
    stop: Arc<watch::Sender<bool>>,
}

/// Brings all links up, and gives them addresses once [`NetHandle::configure`] says which. The work goes on in tasks of the
/// current runtime.
///
/// # Errors
///
/// When the kernel's link interface cannot be used at all; needs `CAP_NET_ADMIN`.
pub async fn start() -> Result<NetHandle, NetError> {
    let (stop, stopped) = watch::channel(false);
    let (params, wanted) = watch::channel(None);
    let again = Arc::new(Notify::new());
    let (handle, state) = watcher::start(wanted, Arc::clone(&again), stopped).await?;
    Ok(NetHandle { state, handle, params: Arc::new(params), again, stop: Arc::new(stop) })
}

impl NetHandle {
    /// Says how the network is to be. Once it was said, more can be added; what is configured stays as it is.
    pub fn configure(&self, params: NetParams) {
        self.params.send_replace(Some(params));
    }

    /// Makes more VLAN interfaces, which do what interfaces do that nothing is said of.
    pub fn add_vlans(&self, vlans: Vec<VlanLink>) {
        self.params.send_modify(|params| params.get_or_insert_default().vlans.extend(vlans));
    }

    /// Asks for addresses anew on all links, as after they were plugged in: the machine may have been moved to another
    /// network. Those that there are stay until others are given.
    pub fn begin_again(&self) {
        self.again.notify_one();
    }

    /// What is known now.
    pub fn state(&self) -> NetState {
        self.state.borrow().clone()
    }

    /// Waits for a change, and returns what is known then.
    ///
    /// # Errors
    ///
    /// When nobody watches any more.
    pub async fn changed(&mut self) -> Result<NetState, NetError> {
        self.state.changed().await.map_err(|_| NetError::Stopped)?;
        Ok(self.state.borrow_and_update().clone())
    }

    /// Waits until there is an address, and returns all that there are. The interface that the machine was booted from
    /// gets up to 10 s more than others.
    ///
    /// # Errors
    ///
    /// When there is none within `limit`; the error tells of each link whether it has a carrier.
    pub async fn wait_for_address(&self, limit: Duration) -> Result<Vec<Address>, NetError> {
        const PREFERENCE: Duration = Duration::from_secs(10);
        let started = Instant::now();
        let mut state = self.state.clone();
        let preferred = state.wait_for(|state| !state.addresses.is_empty() && !state.boot_link_pending);
        if let Ok(found) = tokio::time::timeout(PREFERENCE.min(limit), preferred).await {
            return Ok(found.map_err(|_| NetError::Stopped)?.addresses.clone());
        }
        let any = state.wait_for(|state| !state.addresses.is_empty());
        match tokio::time::timeout_at(started + limit, any).await {
            Ok(found) => Ok(found.map_err(|_| NetError::Stopped)?.addresses.clone()),
            Err(_) => {
                let links: Vec<String> = self
                    .state()
                    .links
                    .iter()
                    .map(|(name, carrier)| format!("{name} has {}", if *carrier { "a carrier" } else { "no carrier" }))
                    .collect();
                let links = if links.is_empty() { "none".to_owned() } else { links.join(", ") };
                Err(NetError::NoAddress { waited: started.elapsed(), links })
            }
        }
    }

    /// Waits until the interface that the machine was booted from has an address, or all that have a carrier do. Returns
    /// whether that was so within `limit`.
    pub async fn wait_for_interfaces(&self, all: bool, limit: Duration) -> bool {
        let done = |state: &NetState| {
            let has = |name: &String| state.addresses.iter().any(|address| address.interface == *name);
            let each = || state.links.iter().filter(|(_, carrier)| *carrier).all(|(name, _)| has(name));
            !state.addresses.is_empty() && !state.boot_link_pending && (!all || each())
        };
        let mut state = self.state.clone();
        matches!(tokio::time::timeout(limit, state.wait_for(done)).await, Ok(Ok(_)))
    }

    /// Finds out through which link the hosts of `urls` are reached, and makes a route where the kernel's own choice leads
    /// nowhere. Goes on until one is reached; to be run beside whatever needs them.
    pub async fn find_way(&self, urls: &[String]) {
        let targets: Vec<String> = urls.iter().filter_map(|url| reach::target(url)).collect();
        if !targets.is_empty() {
            reach::find(self, &targets).await;
        }
    }

    /// Takes all links down, for good: nothing brings them up again.
    ///
    /// # Errors
    ///
    /// The first failure, after all links were tried.
    pub async fn down(&self) -> Result<(), NetError> {
        self.stop.send_replace(true);
        let mut result = Ok(());
        for link in links::list(&self.handle).await? {
            if let Err(error) = links::set_up(&self.handle, &link, false).await {
                result = result.and(Err(error));
            }
        }
        result
    }
}

/// The address of a network, for printing.
fn prefix(address: Ipv4Addr, length: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}
