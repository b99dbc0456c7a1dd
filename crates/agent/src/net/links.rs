//! Links and addresses of the kernel, through rtnetlink.

use super::params::{self, BondLink, VlanLink};
use super::{NetError, StaticRoute};
use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BondLacpRate, BondMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkBond, LinkMessageBuilder, LinkUnspec, LinkVlan, RouteMessageBuilder};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use tokio::sync::Semaphore;

/// A MAC address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address; wanted six bytes in hex with colons or dashes between them")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    /// Six bytes in hex with colons or dashes; as in `BOOTIF`, a seventh in front is the hardware type.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let parts = match parts.as_slice() {
            [_, rest @ ..] if rest.len() == 6 => rest,
            parts => parts,
        };
        let mut mac = [0; 6];
        if parts.len() != mac.len() || parts.iter().any(|part| part.len() != 2) {
            return Err(MacError);
        }
        for (byte, part) in mac.iter_mut().zip(parts) {
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A usable address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
}

/// A link that we look after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Mac,
    /// The one that the card was made with: a port of a bond has the bond's beside it.
    pub(super) permanent: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    /// Whether it is a VLAN interface or a bond, and no card.
    pub(super) made: bool,
    /// The bond or bridge that it is a port of.
    pub(super) controller: Option<u32>,
}

impl Link {
    /// Whether a parameter means this link. A MAC address means a card: VLAN interfaces and bonds share that of theirs.
    pub(super) fn is(&self, device: &str) -> bool {
        let by_mac = |mac: &Mac| !self.made && params::names(device, &self.name, mac);
        device == self.name || by_mac(&self.mac) || self.permanent.as_ref().is_some_and(by_mac)
    }
}

fn kernel(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.into();
    |source| NetError::Kernel { what, source }
}

/// The kernel answers one listing at a time on a socket, and refuses a second meanwhile (`EBUSY`, `__netlink_dump_start` in
/// net/netlink/af_netlink.c). A machine with many cards asks often.
static LISTING: Semaphore = Semaphore::const_new(1);

/// All that the kernel answers to `ask`, which is asked when its turn has come.
async fn listed<T, S>(what: impl Into<String>, ask: impl FnOnce() -> S) -> Result<Vec<T>, NetError>
where
    S: TryStreamExt<Ok = T, Error = rtnetlink::Error>,
{
    // Never closed; without a turn it would only be asked out of turn.
    let _turn = LISTING.acquire().await;
    ask().try_collect().await.map_err(kernel(what))
}

/// Ethernet cards, VLAN interfaces and bonds, and the ends of virtual cables that a container has in their place. No
/// bridges, tunnels and the like.
pub(super) async fn list(handle: &Handle) -> Result<Vec<Link>, NetError> {
    let messages = listed("list the links", || handle.link().get().execute()).await?;
    let mut links: Vec<Link> = messages.into_iter().filter_map(link).collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

fn link(message: LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    if message.header.link_layer_type != LinkLayerType::Ether || flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Mac::default(),
        permanent: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        made: false,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => link.mac = Mac(address.try_into().ok()?),
            LinkAttribute::PermAddress(address) => link.permanent = address.try_into().ok().map(Mac),
            LinkAttribute::Controller(controller) if controller != 0 => link.controller = Some(controller),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Veth) => {}
                        LinkInfo::Kind(InfoKind::Vlan | InfoKind::Bond) => link.made = true,
                        LinkInfo::Kind(_) => return None,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// Makes a VLAN interface on `parent`, up.
pub(super) async fn make_vlan(handle: &Handle, vlan: &VlanLink, parent: &Link) -> Result<(), NetError> {
    let mut message = LinkVlan::new(&vlan.name, parent.index, vlan.id).up();
    if let Some(mac) = vlan.mac {
        message = message.address(mac.0.to_vec());
    }
    let what = format!("make {} for VLAN {} on {}; is the kernel module 8021q there?", vlan.name, vlan.id, parent.name);
    handle.link().add(message.build()).execute().await.map_err(kernel(what))
}

/// Makes a bond without ports, up.
pub(super) async fn make_bond(handle: &Handle, bond: &BondLink) -> Result<(), NetError> {
    let mut message = LinkBond::new(&bond.name).up();
    // The mode comes first: what the kernel takes of the rest depends on it.
    if let Some(mode) = bond.mode {
        message = message.mode(mode);
    }
    // Without looking at carriers a bond never notices that a port is dead.
    message = message.miimon(bond.miimon.unwrap_or(100));
    if let Some(hash) = bond.hash {
        message = message.xmit_hash_policy(hash);
    }
    if bond.fast_lacp && bond.mode == Some(BondMode::Ieee8023Ad) {
        message = message.ad_lacp_rate(BondLacpRate::Fast);
    }
    if let Some(mac) = bond.mac {
        message = message.address(mac.0.to_vec());
    }
    let what = format!("make the bond {}; is the kernel module bonding there?", bond.name);
    handle.link().add(message.build()).execute().await.map_err(kernel(what))
}

/// Makes `port` a port of `bond`; the kernel takes it when it is down, and takes it up itself.
pub(super) async fn enslave(handle: &Handle, port: &Link, bond: &Link) -> Result<(), NetError> {
    set_up(handle, port, false).await?;
    let message = LinkUnspec::new_with_index(port.index).controller(bond.index).build();
    let what = format!("make {} a port of {}", port.name, bond.name);
    handle.link().set(message).execute().await.map_err(kernel(what))
}

/// Takes a link up or down.
pub(super) async fn set_up(handle: &Handle, link: &Link, up: bool) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(link.index);
    let message = if up { message.up() } else { message.down() };
    let what = format!("take {} {}", link.name, if up { "up" } else { "down" });
    handle.link().set(message.build()).execute().await.map_err(kernel(what))
}

/// Takes the loopback interface up, which programs expect.
pub(super) async fn loopback_up(handle: &Handle) -> Result<(), NetError> {
    let message = LinkMessageBuilder::<LinkUnspec>::default().name("lo").up().build();
    handle.link().set(message).execute().await.map_err(kernel("take lo up"))
}

/// Sets the largest packet of a link, in bytes.
pub(super) async fn set_mtu(handle: &Handle, link: &Link, mtu: u32) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    handle.link().set(message).execute().await.map_err(kernel(format!("set the MTU of {} to {mtu}", link.name)))
}

/// Adds an address; one that is there already is left.
pub(super) async fn add_address(handle: &Handle, link: &Link, ip: IpAddr, prefix: u8) -> Result<(), NetError> {
    let what = format!("give {} the address {ip}/{prefix}", link.name);
    handle.address().add(link.index, ip, prefix).replace().execute().await.map_err(kernel(what))
}

/// Takes an address from a link.
pub(super) async fn remove_address(handle: &Handle, link: &Link, address: IpAddr) -> Result<(), NetError> {
    remove_addresses(handle, link, |message| ip(message) == Some(address)).await
}

/// Takes all addresses from a link of which `unwanted` says so.
async fn remove_addresses(
    handle: &Handle,
    link: &Link,
    unwanted: impl Fn(&AddressMessage) -> bool,
) -> Result<(), NetError> {
    let ask = || handle.address().get().set_link_index_filter(link.index).execute();
    let messages = listed(format!("list the addresses of {}", link.name), ask).await?;
    for message in messages {
        if message.header.index == link.index && unwanted(&message) {
            let what = format!(
                "take the address {} from {}",
                ip(&message).map_or_else(String::new, |ip| ip.to_string()),
                link.name
            );
            handle.address().del(message).execute().await.map_err(kernel(what))?;
        }
    }
    Ok(())
}

/// Takes all IPv4 addresses from a link but `keep`.
pub(super) async fn retain_v4(handle: &Handle, link: &Link, keep: &[IpAddr]) -> Result<(), NetError> {
    remove_addresses(handle, link, |message| ip(message).is_some_and(|ip| ip.is_ipv4() && !keep.contains(&ip))).await
}

/// Adds or replaces a route. A router outside of the link's networks is taken to be on the link all the same.
pub(super) async fn add_route(handle: &Handle, link: &Link, route: &StaticRoute, metric: u32) -> Result<(), NetError> {
    let StaticRoute { destination, prefix, gateway, .. } = route;
    let message = match (*destination, *gateway) {
        (IpAddr::V4(destination), gateway) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, *prefix);
            let route = route.output_interface(link.index).priority(metric);
            match gateway {
                Some(IpAddr::V4(gateway)) => route.gateway(gateway).onlink().build(),
                _ => route.scope(RouteScope::Link).build(),
            }
        }
        (IpAddr::V6(destination), gateway) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(destination, *prefix);
            let route = route.output_interface(link.index).priority(metric);
            match gateway {
                Some(IpAddr::V6(gateway)) => route.gateway(gateway).onlink().build(),
                _ => route.build(),
            }
        }
    };
    let what = match gateway {
        Some(gateway) => format!("route to {destination}/{prefix} through {gateway} on {}", link.name),
        None => format!("route to {destination}/{prefix} on {}", link.name),
    };
    handle.route().add(message).replace().execute().await.map_err(kernel(what))
}

/// The router of a link's default route; `None` when it has none.
pub(super) async fn gateway(handle: &Handle, link: &Link, v4: bool) -> Result<Option<IpAddr>, NetError> {
    let all = if v4 {
        RouteMessageBuilder::<Ipv4Addr>::new().build()
    } else {
        RouteMessageBuilder::<Ipv6Addr>::new().build()
    };
    let routes = listed("list the routes", || handle.route().get(all).execute()).await?;
    let defaults = routes.iter().filter(|route| {
        route.header.destination_prefix_length == 0 && route.attributes.contains(&RouteAttribute::Oif(link.index))
    });
    Ok(defaults.flat_map(|route| &route.attributes).find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }))
}

/// Forgets addresses and routes that came by router advertisement before somebody said that there are to be none.
pub(super) async fn forget_advertised(handle: &Handle, link: &Link) -> Result<(), NetError> {
    let lasts = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Permanent));
    remove_addresses(handle, link, |message| {
        ip(message).is_some_and(|ip| ip.is_ipv6()) && !message.attributes.iter().any(lasts)
    })
    .await?;
    let all = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let routes = listed("list the routes", || handle.route().get(all).execute()).await?;
    for route in routes {
        let here = route.attributes.contains(&RouteAttribute::Oif(link.index));
        if here && route.header.protocol == RouteProtocol::Ra {
            let what = format!("forget an advertised route of {}", link.name);
            handle.route().del(route).execute().await.map_err(kernel(what))?;
        }
    }
    Ok(())
}

fn ip(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link `Address` is the other end and `Local` is ours.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// All addresses of `links` that can be used: global, and past the check for duplicates.
pub(super) async fn addresses(handle: &Handle, links: &[Link]) -> Result<Vec<(Link, Address)>, NetError> {
    let messages = listed("list the addresses", || handle.address().get().execute()).await?;
    let mut found = Vec::new();
    for message in messages {
        let Some(link) = links.iter().find(|link| link.index == message.header.index) else { continue };
        let flags = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        if message.header.scope != AddressScope::Universe || flags.is_some_and(|flags| flags.intersects(unusable)) {
            continue;
        }
        if let Some(ip) = ip(&message) {
            let address = Address { interface: link.name.clone(), ip, prefix: message.header.prefix_len };
            found.push((link.clone(), address));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_in_all_their_forms() {
        let wanted = Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for text in ["52:54:00:12:34:ab", "52-54-00-12-34-AB", "01-52-54-00-12-34-ab"] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        assert_eq!(wanted.to_string(), "52:54:00:12:34:ab");
        for text in ["", "eth0", "52:54:00:12:34", "52:54:00:12:34:zz", "1:2:3:4:5:6", "+1:54:00:12:34:ab:00:00"] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }
}
