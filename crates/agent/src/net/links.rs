//! Links and addresses of the kernel, through rtnetlink.

use super::NetError;
use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
}

fn kernel(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.into();
    |source| NetError::Kernel { what, source }
}

/// Ethernet cards, and the ends of virtual cables that a container has in their place. No bridges, tunnels and the like,
/// and nothing that is a port of one.
pub(super) async fn list(handle: &Handle) -> Result<Vec<Link>, NetError> {
    let messages: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(kernel("list the links"))?;
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
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => link.mac = Mac(address.try_into().ok()?),
            LinkAttribute::Controller(controller) if controller != 0 => return None,
            LinkAttribute::LinkInfo(infos) => {
                let made = |info: &LinkInfo| matches!(info, LinkInfo::Kind(kind) if *kind != InfoKind::Veth);
                if infos.iter().any(made) {
                    return None;
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
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
pub(super) async fn set_mtu(handle: &Handle, link: &Link, mtu: u16) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu.into()).build();
    handle.link().set(message).execute().await.map_err(kernel(format!("set the MTU of {} to {mtu}", link.name)))
}

/// Adds an address; one that is there already is left.
pub(super) async fn add_address(handle: &Handle, link: &Link, ip: IpAddr, prefix: u8) -> Result<(), NetError> {
    let what = format!("give {} the address {ip}/{prefix}", link.name);
    handle.address().add(link.index, ip, prefix).replace().execute().await.map_err(kernel(what))
}

/// Takes all IPv4 addresses from a link but `keep`.
pub(super) async fn retain_v4(handle: &Handle, link: &Link, keep: &[IpAddr]) -> Result<(), NetError> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_link_index_filter(link.index)
        .execute()
        .try_collect()
        .await
        .map_err(kernel(format!("list the addresses of {}", link.name)))?;
    for message in messages {
        if let Some(ip) = ip(&message).filter(IpAddr::is_ipv4)
            && !keep.contains(&ip)
            && message.header.index == link.index
        {
            let what = format!("take the address {ip} from {}", link.name);
            handle.address().del(message).execute().await.map_err(kernel(what))?;
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
    let messages: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(kernel("list the addresses"))?;
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
