//! The task that follows the kernel's links and configures them.

use super::dhcp::{self, Report};
use super::lease::Lease;
use super::links::{self, Link};
use super::params::{Autoconf, NetParams, StaticAddress, names};
use super::{NetError, NetState, resolver};
use futures::{FutureExt, StreamExt};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How often is looked without having been told, in case an announcement was lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);
/// How long a link rests after it could not be configured.
const REST: Duration = Duration::from_secs(5);

/// Leases by link.
#[derive(Debug, Default)]
struct Leases {
    current: Mutex<BTreeMap<u32, Lease>>,
    changed: Notify,
}

impl Report for Leases {
    fn leased(&self, link: &Link, lease: Option<&Lease>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match lease {
            Some(lease) => current.insert(link.index, lease.clone()),
            None => current.remove(&link.index),
        };
        drop(current);
        self.changed.notify_one();
    }
}

struct Watcher {
    handle: Handle,
    params: Arc<NetParams>,
    leases: Arc<Leases>,
    state: watch::Sender<NetState>,
    tasks: BTreeMap<u32, AbortHandle>,
    /// The link that gets addresses which name none.
    unnamed: Option<u32>,
    resolv_conf: Option<String>,
    hostname: Option<String>,
}

/// Opens the netlink socket and starts the task. It ends when the sender of `stop` says so.
pub(super) async fn start(
    params: NetParams,
    mut stop: watch::Receiver<bool>,
) -> Result<(Handle, watch::Receiver<NetState>), NetError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups).map_err(NetError::Socket)?;
    tokio::spawn(connection);
    if let Err(error) = links::loopback_up(&handle).await {
        warn(&error, "no loopback interface");
    }
    let (state, receiver) = watch::channel(NetState::default());
    let mut watcher = Watcher {
        handle: handle.clone(),
        params: Arc::new(params),
        leases: Arc::default(),
        state,
        tasks: BTreeMap::new(),
        unnamed: None,
        resolv_conf: None,
        hostname: None,
    };
    watcher.refresh().await?;
    tokio::spawn(async move {
        let leases = Arc::clone(&watcher.leases);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                message = messages.next() => {
                    if message.is_none() {
                        tracing::error!("the kernel's announcements of links have ended");
                        break;
                    }
                    // What came together is looked at together.
                    while messages.next().now_or_never().flatten().is_some() {}
                }
                () = leases.changed.notified() => {}
                () = tokio::time::sleep(LOOK_ANYWAY) => {}
            }
            if let Err(error) = watcher.refresh().await {
                warn(&error, "links cannot be looked at");
            }
        }
        for task in watcher.tasks.values() {
            task.abort();
        }
    });
    Ok((handle, receiver))
}

fn warn(error: &(dyn std::error::Error + 'static), what: &str) {
    let cause = error.source().map(ToString::to_string);
    tracing::warn!(%error, cause, "{what}");
}

impl Watcher {
    /// Looks at all links and does what there is to do.
    async fn refresh(&mut self) -> Result<(), NetError> {
        let links = links::list(&self.handle).await?;
        for link in links.iter().filter(|link| !link.up) {
            if self.params.autoconf(&link.name, &link.mac) == Autoconf::Off {
                // The kernel would take addresses from router advertisements as soon as the link is up.
                let switch = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name);
                if let Err(error) = fs::write(&switch, "0\n") {
                    tracing::debug!(switch, %error, "router advertisements not switched off");
                }
            }
            if let Err(error) = links::set_up(&self.handle, link, true).await {
                warn(&error, "a link stays down");
            }
        }
        self.unnamed = self.unnamed.or_else(|| self.choose_unnamed(&links));
        self.tasks.retain(|index, task| {
            let alive = links.iter().any(|link| link.index == *index && link.carrier) && !task.is_finished();
            if !alive {
                task.abort();
            }
            alive
        });
        for link in links.iter().filter(|link| link.carrier) {
            if !self.tasks.contains_key(&link.index) {
                tracing::info!(link = link.name, mac = %link.mac, "link has a carrier");
                let task = self.configure(link.clone());
                self.tasks.insert(link.index, task);
            }
        }
        self.publish(&links).await
    }

    /// The link that the machine was booted from; when none is known, the first with a carrier.
    fn choose_unnamed(&self, links: &[Link]) -> Option<u32> {
        let boot = links.iter().find(|link| Some(link.mac) == self.params.bootif);
        boot.or_else(|| links.iter().find(|link| link.carrier)).map(|link| link.index)
    }

    /// Starts to give a link its addresses.
    fn configure(&self, link: Link) -> AbortHandle {
        let own: Vec<StaticAddress> = self
            .params
            .addresses
            .iter()
            .filter(|address| match &address.device {
                Some(device) => names(device, &link.name, &link.mac),
                None => self.unnamed == Some(link.index),
            })
            .cloned()
            .collect();
        let dhcp = self.params.autoconf(&link.name, &link.mac) == Autoconf::Dhcp;
        let metric = self.metric(&link);
        let (handle, leases) = (self.handle.clone(), Arc::clone(&self.leases));
        tokio::spawn(async move {
            let keep: Vec<IpAddr> = own.iter().map(|address| address.address).collect();
            for address in &own {
                if let Err(error) = give(&handle, &link, address, metric).await {
                    warn(&error, "a given address is not taken");
                }
            }
            if !dhcp {
                // The task stands for the link being configured.
                return std::future::pending().await;
            }
            loop {
                let Err(error) = dhcp::run(&link, &handle, metric, &keep, &*leases).await;
                warn(&error, "DHCP begins again");
                leases.leased(&link, None);
                tokio::time::sleep(REST).await;
            }
        })
        .abort_handle()
    }

    /// The link that the machine was booted from goes first.
    fn metric(&self, link: &Link) -> u32 {
        if Some(link.mac) == self.params.bootif { 100 } else { 1000 + link.index }
    }

    /// Tells everybody what there is now.
    async fn publish(&mut self, links: &[Link]) -> Result<(), NetError> {
        let leases = self.leases.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut addresses = links::addresses(&self.handle, links).await?;
        addresses.sort_by_key(|(link, address)| (self.metric(link), link.index, address.ip.is_ipv6()));
        let boot = links.iter().find(|link| Some(link.mac) == self.params.bootif);
        let mut ordered: Vec<&Link> = links.iter().collect();
        ordered.sort_by_key(|link| self.metric(link));
        let ordered: Vec<&Lease> = ordered.iter().filter_map(|link| leases.get(&link.index)).collect();

        let text = resolver::resolv_conf(&self.params.dns, &ordered);
        if text != self.resolv_conf {
            if let Some(text) = &text {
                resolver::write(Path::new("/etc/resolv.conf"), text);
            }
            self.resolv_conf = text;
        }
        let given = self.params.addresses.iter().find_map(|address| address.hostname.as_ref());
        let hostname = given.or_else(|| ordered.iter().find_map(|lease| lease.hostname.as_ref())).cloned();
        if hostname != self.hostname {
            if let Some(name) = &hostname {
                resolver::set_hostname(name);
            }
            self.hostname = hostname;
        }

        let leased = ordered.iter().flat_map(|lease| lease.ntp.iter().copied().map(IpAddr::V4));
        let state = NetState {
            boot_link_pending: boot.is_some_and(|boot| !addresses.iter().any(|(link, _)| link.index == boot.index)),
            addresses: addresses.into_iter().map(|(_, address)| address).collect(),
            ntp: self.params.ntp.iter().copied().chain(leased).collect(),
            links: links.iter().map(|link| (link.name.clone(), link.carrier)).collect(),
        };
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            if changed {
                *current = state;
            }
            changed
        });
        Ok(())
    }
}

/// Gives a link an address of the command line and its route.
async fn give(handle: &Handle, link: &Link, address: &StaticAddress, metric: u32) -> Result<(), NetError> {
    links::add_address(handle, link, address.address, address.prefix).await?;
    tracing::info!(link = link.name, address = %address.address, prefix = address.prefix, "address given");
    let route = match address.gateway {
        None => return Ok(()),
        Some(IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(link.index)
            .priority(metric)
            .build(),
        Some(IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(link.index)
            .priority(metric)
            .build(),
    };
    handle.route().add(route).replace().execute().await.map_err(|source| NetError::Kernel {
        what: format!("default route of {} through {:?}", link.name, address.gateway),
        source,
    })
}
