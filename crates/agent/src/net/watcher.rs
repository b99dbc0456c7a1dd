//! The task that follows the kernel's links and configures them.

use super::advert::{self, Ask};
use super::links::{self, Address, Link};
use super::params::{Autoconf, NetParams, StaticAddress, StaticRoute};
use super::{Hints, NetError, NetState, Report, Source, dhcp, dhcp6, resolver};
use futures::{FutureExt, StreamExt};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How often is looked without having been told, in case an announcement was lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);
/// How often is looked whether a driver that is being loaded has come to its end.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How long a link rests after it could not be configured.
const REST: Duration = Duration::from_secs(5);

/// What the clients of all links heard, by link.
#[derive(Debug, Default)]
struct Heard {
    current: Mutex<BTreeMap<(u32, Source), Hints>>,
    changed: Notify,
}

impl Report for Heard {
    fn told(&self, link: &Link, source: Source, hints: Option<Hints>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match hints {
            Some(hints) => current.insert((link.index, source), hints),
            None => current.remove(&(link.index, source)),
        };
        drop(current);
        self.changed.notify_one();
    }
}

struct Watcher {
    handle: Handle,
    /// `None` until somebody says how the network is to be.
    params: Option<NetParams>,
    heard: Arc<Heard>,
    state: watch::Sender<NetState>,
    tasks: BTreeMap<u32, AbortHandle>,
    /// Links for which router advertisements are switched off, and those whose MTU was set.
    silenced: BTreeSet<u32>,
    sized: BTreeSet<u32>,
    /// The link that gets addresses which name none.
    unnamed: Option<u32>,
    resolv_conf: Option<String>,
    hostname: Option<String>,
    /// Whether a link is left down until its driver is loaded.
    waits: bool,
}

/// Opens the netlink socket and starts the task. It ends when the sender of `stop` says so.
pub(super) async fn start(
    mut wanted: watch::Receiver<Option<NetParams>>,
    again: Arc<Notify>,
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
        params: None,
        heard: Arc::default(),
        state,
        tasks: BTreeMap::new(),
        silenced: BTreeSet::new(),
        sized: BTreeSet::new(),
        unnamed: None,
        resolv_conf: None,
        hostname: None,
        waits: false,
    };
    watcher.refresh().await?;
    tokio::spawn(async move {
        let heard = Arc::clone(&watcher.heard);
        loop {
            let look = if watcher.waits { LOOK_AGAIN } else { LOOK_ANYWAY };
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
                () = heard.changed.notified() => {}
                () = again.notified() => std::mem::take(&mut watcher.tasks).values().for_each(AbortHandle::abort),
                Ok(()) = wanted.changed() => watcher.params = wanted.borrow_and_update().clone(),
                () = tokio::time::sleep(look) => {}
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

/// Whether the driver of a card is still being loaded. Some announce a card before it is ready, and the kernel stumbles when
/// it is brought up then: e100 makes the pool for its commands after that. `sys` is where sysfs is mounted; a driver has the
/// name of its module, or is not waited for.
fn is_loading(sys: &Path, link: &str) -> bool {
    let driver = fs::read_link(sys.join("class/net").join(link).join("device/driver"));
    let Some(name) = driver.as_deref().ok().and_then(Path::file_name).and_then(OsStr::to_str) else { return false };
    // What it may be is in the kernel's kernel/module/main.c, show_initstate: live, coming, going, unformed.
    let state = fs::read_to_string(sys.join("module").join(name.replace('-', "_")).join("initstate"));
    state.is_ok_and(|state| state.trim() == "coming")
}

impl Watcher {
    /// Looks at all links and does what there is to do.
    async fn refresh(&mut self) -> Result<(), NetError> {
        let mut links = links::list(&self.handle).await?;
        if let Some(params) = self.params.clone() {
            self.silence(&links, &params).await;
            self.size(&links, &params).await;
            if make(&self.handle, &links, &params).await {
                links = links::list(&self.handle).await?;
                self.silence(&links, &params).await;
                self.size(&links, &params).await;
            }
        }
        self.waits = false;
        for link in links.iter().filter(|link| !link.up) {
            if is_loading(Path::new("/sys"), &link.name) {
                self.waits = true;
            } else if let Err(error) = links::set_up(&self.handle, link, true).await {
                warn(&error, "a link stays down");
            }
        }
        links.retain(|link| link.controller.is_none());
        self.tasks.retain(|index, task| {
            let alive = links.iter().any(|link| link.index == *index && link.carrier) && !task.is_finished();
            if !alive {
                task.abort();
            }
            alive
        });
        if let Some(params) = self.params.clone() {
            self.unnamed = self.unnamed.or_else(|| choose_unnamed(&links, &params));
            for link in links.iter().filter(|link| link.carrier) {
                if !self.tasks.contains_key(&link.index) {
                    tracing::info!(link = link.name, mac = %link.mac, "link has a carrier");
                    let task = self.configure(link.clone(), &params);
                    self.tasks.insert(link.index, task);
                }
            }
        }
        self.publish(&links).await
    }

    /// Switches router advertisements off where there are to be none: the kernel takes addresses from them as soon as a link
    /// is up.
    async fn silence(&mut self, links: &[Link], params: &NetParams) {
        for link in links {
            if autoconf(params, link).advertisements || !self.silenced.insert(link.index) {
                continue;
            }
            let switch = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name);
            if let Err(error) = fs::write(&switch, "0\n") {
                tracing::debug!(switch, %error, "router advertisements not switched off");
            }
            // One may have come before it was known that there are to be none.
            if link.up
                && let Err(error) = links::forget_advertised(&self.handle, link).await
            {
                warn(&error, "an advertised address stays");
            }
        }
    }

    /// Sets the MTU of links, once: of cards before there are VLANs on them, which cannot have more.
    async fn size(&mut self, links: &[Link], params: &NetParams) {
        for link in links {
            let wanted = params.mtus.iter().find(|(device, mtu)| link.is(device) && *mtu != link.mtu);
            if let Some((_, mtu)) = wanted
                && self.sized.insert(link.index)
                && let Err(error) = links::set_mtu(&self.handle, link, *mtu).await
            {
                warn(&error, "an MTU is not set");
            }
        }
    }

    /// Starts to give a link its addresses.
    fn configure(&self, link: Link, params: &NetParams) -> AbortHandle {
        let mine = |device: &Option<String>| match device {
            Some(device) => link.is(device),
            None => self.unnamed == Some(link.index),
        };
        let own: Vec<StaticAddress> =
            params.addresses.iter().filter(|address| mine(&address.device)).cloned().collect();
        let routes: Vec<StaticRoute> = params.routes.iter().filter(|route| link.is(&route.device)).cloned().collect();
        let autoconf = autoconf(params, &link);
        let metric = metric(params, &link);
        let (handle, heard) = (self.handle.clone(), Arc::clone(&self.heard));
        tokio::spawn(async move {
            let keep: Vec<IpAddr> = own.iter().map(|address| address.address).collect();
            give(&handle, &link, &own, &routes, metric).await;
            tokio::join!(
                ask_v4(autoconf, &link, &handle, metric, &keep, &heard),
                ask_v6(autoconf, &link, &handle, &heard)
            );
            // The task stands for the link being configured.
            std::future::pending::<()>().await;
        })
        .abort_handle()
    }

    /// Tells everybody what there is now.
    async fn publish(&mut self, links: &[Link]) -> Result<(), NetError> {
        let params = self.params.clone().unwrap_or_default();
        let heard = self.heard.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut addresses = links::addresses(&self.handle, links).await?;
        addresses.sort_by_key(|(link, address)| (metric(&params, link), link.index, address.ip.is_ipv6()));
        let mut ordered: Vec<&Link> = links.iter().collect();
        ordered.sort_by_key(|link| metric(&params, link));
        let ordered: Vec<&Hints> = ordered
            .iter()
            .flat_map(|link| heard.iter().filter(|((index, _), _)| *index == link.index).map(|(_, hints)| hints))
            .collect();

        let text = resolver::resolv_conf(&params.dns, &ordered);
        if text != self.resolv_conf {
            if let Some(text) = &text {
                resolver::write(Path::new("/etc/resolv.conf"), text);
            }
            self.resolv_conf = text;
        }
        let given = params.addresses.iter().find_map(|address| address.hostname.as_ref());
        let hostname = given.or_else(|| ordered.iter().find_map(|hints| hints.hostname.as_ref())).cloned();
        if hostname != self.hostname {
            if let Some(name) = &hostname {
                resolver::set_hostname(name);
            }
            self.hostname = hostname;
        }

        let heard_ntp = ordered.iter().flat_map(|hints| hints.ntp.iter().copied());
        let state = NetState {
            boot_link_pending: self.params.is_none() || boot_link_pending(&params, links, &addresses),
            addresses: addresses.into_iter().map(|(_, address)| address).collect(),
            ntp: params.ntp.iter().copied().chain(heard_ntp).collect(),
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

/// Makes bonds and VLAN interfaces for which everything is there; returns whether there is anything new.
async fn make(handle: &Handle, links: &[Link], params: &NetParams) -> bool {
    let mut made = false;
    let mut done = |result: Result<(), NetError>, name: &str| match result {
        Ok(()) => {
            tracing::info!(link = name, "link made");
            made = true;
        }
        Err(error) => warn(&error, "a link is not made"),
    };
    for bond in &params.bonds {
        let Some(link) = links.iter().find(|link| link.name == bond.name) else {
            done(links::make_bond(handle, bond).await, &bond.name);
            continue;
        };
        let wanted = links.iter().filter(|port| bond.ports.iter().any(|device| port.is(device)));
        for port in wanted.filter(|port| port.controller.is_none() && port.index != link.index) {
            done(links::enslave(handle, port, link).await, &port.name);
        }
    }
    for vlan in &params.vlans {
        if links.iter().any(|link| link.name == vlan.name) {
            continue;
        }
        if let Some(parent) = links.iter().find(|link| link.is(&vlan.parent)) {
            done(links::make_vlan(handle, vlan, parent).await, &vlan.name);
        }
    }
    made
}

/// What a link does.
fn autoconf(params: &NetParams, link: &Link) -> Autoconf {
    let own = params.devices.iter().filter(|(device, _)| link.is(device)).map(|(_, autoconf)| *autoconf);
    own.reduce(Autoconf::or).unwrap_or(params.default)
}

/// The link that the machine was booted from goes first.
fn metric(params: &NetParams, link: &Link) -> u32 {
    if Some(link.mac) == params.bootif { 100 } else { 1000 + link.index }
}

/// The link that the machine was booted from; when none is known, the first with a carrier.
fn choose_unnamed(links: &[Link], params: &NetParams) -> Option<u32> {
    let boot = links.iter().find(|link| Some(link.mac) == params.bootif);
    boot.or_else(|| links.iter().find(|link| link.carrier)).map(|link| link.index)
}

/// Whether the link that the machine was booted from is there, is to get an address and has none: neither itself nor a VLAN
/// or a bond with its MAC address.
fn boot_link_pending(params: &NetParams, links: &[Link], addresses: &[(Link, Address)]) -> bool {
    let boot = |link: &Link| Some(link.mac) == params.bootif;
    let expects = |link: &Link| {
        autoconf(params, link) != Autoconf::OFF
            || params.addresses.iter().any(|address| address.device.as_ref().is_none_or(|device| link.is(device)))
    };
    links.iter().any(|link| boot(link) && expects(link)) && !addresses.iter().any(|(link, _)| boot(link))
}

/// Gives a link its addresses, then its routes.
async fn give(handle: &Handle, link: &Link, own: &[StaticAddress], routes: &[StaticRoute], metric: u32) {
    for address in own {
        let StaticAddress { address: ip, prefix, .. } = address;
        match links::add_address(handle, link, *ip, *prefix).await {
            Ok(()) => tracing::info!(link = link.name, address = %ip, prefix, "address given"),
            Err(error) => warn(&error, "a given address is not taken"),
        }
    }
    let gateways = own.iter().filter_map(|address| {
        let gateway = address.gateway?;
        let any: IpAddr = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Some(StaticRoute { device: link.name.clone(), destination: any, prefix: 0, gateway: Some(gateway) })
    });
    for route in routes.iter().cloned().chain(gateways) {
        if let Err(error) = links::add_route(handle, link, &route, metric).await {
            warn(&error, "a given route is not taken");
        }
    }
}

/// DHCPv4, for ever, where it is wanted.
async fn ask_v4(autoconf: Autoconf, link: &Link, handle: &Handle, metric: u32, keep: &[IpAddr], heard: &Heard) {
    if !autoconf.dhcp {
        return;
    }
    loop {
        let Err(error) = dhcp::run(link, handle, metric, keep, heard).await;
        warn(&error, "DHCP begins again");
        heard.told(link, Source::Dhcp, None);
        tokio::time::sleep(REST).await;
    }
}

/// Router advertisements and, as they say or as somebody said, DHCPv6; for ever.
async fn ask_v6(autoconf: Autoconf, link: &Link, handle: &Handle, heard: &Heard) {
    if !autoconf.advertisements && !autoconf.dhcp6 {
        return;
    }
    let (ask, mut asked) = watch::channel(Ask::Nothing);
    let listening = async {
        // Without IPv6 in the kernel there is nothing to hear.
        let Err(error) = advert::listen(link, &ask, heard).await;
        tracing::debug!(link = link.name, %error, "router advertisements are not heard");
    };
    let asking = async {
        loop {
            let what = if autoconf.dhcp6 {
                Ask::Address
            } else {
                match asked.wait_for(|ask| *ask != Ask::Nothing).await {
                    Ok(ask) => *ask,
                    Err(_) => return,
                }
            };
            let Err(error) = dhcp6::run(link, handle, what, heard).await;
            warn(&error, "DHCPv6 begins again");
            heard.told(link, Source::Dhcp6, None);
            tokio::time::sleep(REST).await;
        }
    };
    tokio::join!(listening, asking);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_left_alone_until_its_driver_is_loaded() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("class/net/eth0/device");
        let module = sys.path().join("module/dwmac_intel");
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&module).unwrap();
        assert!(!is_loading(sys.path(), "eth0"), "no driver");
        std::os::unix::fs::symlink("../../bus/pci/drivers/dwmac-intel", device.join("driver")).unwrap();
        assert!(!is_loading(sys.path(), "eth0"), "built in");
        fs::write(module.join("initstate"), "coming\n").unwrap();
        assert!(is_loading(sys.path(), "eth0"));
        fs::write(module.join("initstate"), "live\n").unwrap();
        assert!(!is_loading(sys.path(), "eth0"));
        assert!(!is_loading(sys.path(), "vlan0"), "no device");
    }
}
