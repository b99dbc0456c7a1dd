//! Network data from virtual media: `openstack/latest/network_data.json`, by which a driver gives addresses to a machine
//! on a network without DHCP.
//!
//! The form is OpenStack's (nova's `doc/api_schemas/network_data.json`; Ironic's `network-data-schema.json` is a part of
//! it). An item that cannot be used is named and left out: with one address of two a machine can still be reached.

use super::links::Mac;
use super::params::{
    Autoconf, BondLink, NetParams, StaticAddress, StaticRoute, VlanLink, is_interface_name, prefix_length, unbracketed,
    vlan_id,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Items of each kind that are read at most.
const MOST: usize = 256;

/// The document is none.
#[derive(Debug, thiserror::Error)]
#[error("network_data.json is not network data as OpenStack has it (links, networks, services)")]
pub struct NetworkDataError(#[source] serde_json::Error);

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    links: Vec<Item>,
    #[serde(default)]
    networks: Vec<Item>,
    #[serde(default)]
    services: Vec<Item>,
}

/// An object of the document. Fields are looked at one by one, so that a wrong one spoils its own object only.
type Item = serde_json::Map<String, Value>;

impl NetParams {
    /// Reads network data. What of it cannot be used is returned beside, in words for a person.
    ///
    /// # Errors
    ///
    /// When the text is no such document at all.
    pub fn from_network_data(text: &[u8]) -> Result<(Self, Vec<String>), NetworkDataError> {
        // An object first: serde takes an array for a structure, too.
        let document: Item = serde_json::from_slice(text).map_err(NetworkDataError)?;
        let document: Document = serde_json::from_value(Value::Object(document)).map_err(NetworkDataError)?;
        let mut reader = Reader {
            params: Self { default: Autoconf::OFF, ..Self::default() },
            devices: BTreeMap::new(),
            problems: Vec::new(),
        };
        reader.links(&document.links);
        for network in document.networks.iter().take(MOST) {
            if let Err(reason) = reader.network(network) {
                reader.problems.push(format!("network {}: {reason}", name(network)));
            }
        }
        reader.services(&document.services);
        for (what, length) in [
            ("links", document.links.len()),
            ("networks", document.networks.len()),
            ("services", document.services.len()),
        ] {
            if length > MOST {
                reader.problems.push(format!("{length} {what} are more than the {MOST} that are read"));
            }
        }
        Ok((reader.params, reader.problems))
    }

    /// Whether it gives any interface an address, or a way to get one.
    pub fn gives_addresses(&self) -> bool {
        !self.addresses.is_empty() || !self.devices.is_empty()
    }
}

struct Reader {
    params: NetParams,
    /// What the rest of the agent calls a link: the name of one that is made, the MAC address or name of one that is there.
    devices: BTreeMap<String, String>,
    problems: Vec<String>,
}

/// A thing's own name, for messages.
fn name(item: &Item) -> String {
    item.get("id").map_or_else(|| "without id".to_owned(), ToString::to_string)
}

fn text<'a>(item: &'a Item, key: &str) -> Option<&'a str> {
    item.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A number, or a text with one, as some writers have it.
fn number(item: &Item, key: &str) -> Option<u64> {
    let value = item.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn mac(item: &Item, key: &str) -> Result<Option<Mac>, String> {
    match text(item, key) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|error| format!("{key} {text:?}: {error}")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    unbracketed(text).parse().map_err(|_| format!("{text:?} is not an address"))
}

impl Reader {
    /// Cards first, then bonds of them, then VLANs of either.
    fn links(&mut self, links: &[Item]) {
        let kind = |item: &Item| match text(item, "type") {
            Some("vlan") => 2,
            Some("bond") => 1,
            _ => 0,
        };
        for pass in 0..3 {
            for link in links.iter().take(MOST).filter(|link| kind(link) == pass) {
                let read = match pass {
                    0 => self.card(link),
                    1 => self.bond(link),
                    _ => self.vlan(link),
                };
                let done = read.and_then(|device| self.known(link, device));
                if let Err(reason) = done {
                    self.problems.push(format!("link {}: {reason}", name(link)));
                }
            }
        }
    }

    fn known(&mut self, link: &Item, device: String) -> Result<(), String> {
        let id = text(link, "id").ok_or("it has no id")?;
        match link.get("mtu") {
            None | Some(Value::Null) => {}
            // The least that IPv4 allows (RFC 791).
            Some(_) => match number(link, "mtu").and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| *mtu >= 68) {
                Some(mtu) => self.params.mtus.push((device.clone(), mtu)),
                None => self.problems.push(format!("link {id:?}: its mtu is not a number of bytes and is not set")),
            },
        }
        if self.devices.insert(id.to_owned(), device).is_some() {
            return Err("its id is used twice; the last one counts".to_owned());
        }
        Ok(())
    }

    fn card(&self, link: &Item) -> Result<String, String> {
        if let Some(mac) = mac(link, "ethernet_mac_address")? {
            return Ok(mac.to_string());
        }
        let named = text(link, "name").or_else(|| text(link, "id")).filter(|name| is_interface_name(name));
        named
            .map(str::to_owned)
            .ok_or_else(|| "it has neither an ethernet_mac_address nor an interface's name".to_owned())
    }

    fn bond(&mut self, link: &Item) -> Result<String, String> {
        let name = format!("bond{}", self.params.bonds.len());
        let ids = link.get("bond_links").and_then(Value::as_array).ok_or("it has no bond_links")?;
        let mut bond = BondLink { name: name.clone(), mac: mac(link, "ethernet_mac_address")?, ..BondLink::default() };
        for id in ids.iter().take(MOST) {
            let device = id.as_str().and_then(|id| self.devices.get(id));
            bond.ports.push(device.ok_or_else(|| format!("its port {id} is no link"))?.clone());
        }
        for key in ["mode", "miimon", "xmit_hash_policy", "lacp_rate"] {
            let value = link.get(&format!("bond_{key}"));
            let said = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            if let Some(value) = said.filter(|value| value != "null") {
                bond.set(key, &value)?;
            }
        }
        if bond.ports.is_empty() {
            return Err("it has no ports".to_owned());
        }
        self.params.bonds.push(bond);
        Ok(name)
    }

    fn vlan(&mut self, link: &Item) -> Result<String, String> {
        let id = number(link, "vlan_id").and_then(vlan_id).ok_or("its vlan_id is not a number from 1 to 4094")?;
        let parent = text(link, "vlan_link").ok_or("it has no vlan_link")?;
        let parent = self.devices.get(parent).ok_or_else(|| format!("its vlan_link {parent:?} is no link"))?.clone();
        let own = mac(link, "vlan_mac_address")?.or(mac(link, "ethernet_mac_address")?);
        let same = self.params.vlans.iter().filter(|vlan| vlan.id == id).count();
        let name = if same == 0 { format!("vlan{id}") } else { format!("vlan{id}-{same}") };
        self.params.vlans.push(VlanLink { name: name.clone(), parent, id, mac: own });
        Ok(name)
    }

    fn network(&mut self, network: &Item) -> Result<(), String> {
        let link = text(network, "link").ok_or("it has no link")?;
        let device = self.devices.get(link).ok_or_else(|| format!("its link {link:?} is no link"))?.clone();
        self.services(network.get("services").and_then(items).as_deref().unwrap_or_default());
        for server in network.get("dns_nameservers").and_then(Value::as_array).into_iter().flatten().take(MOST) {
            match server.as_str().map(address) {
                Some(Ok(server)) => self.params.dns.push(server),
                Some(Err(reason)) => self.problems.push(reason),
                None => self.problems.push(format!("{server} is not an address")),
            }
        }
        let autoconf = match text(network, "type").ok_or("it has no type")? {
            "ipv4" | "ipv6" => return self.fixed(network, device),
            "ipv4_dhcp" | "dhcp4" => Autoconf { dhcp: true, ..Autoconf::OFF },
            "ipv6_slaac" | "slaac" => Autoconf::ADVERTISEMENTS,
            // Stateless: the address is advertised, and so is that there is more to ask for.
            "ipv6_dhcpv6-stateless" => Autoconf::ADVERTISEMENTS,
            "ipv6_dhcp" | "ipv6_dhcpv6-stateful" | "dhcp6" => Autoconf::DHCP6,
            other => return Err(format!("its type {other:?} is not known")),
        };
        self.params.devices.push((device, autoconf));
        Ok(())
    }

    fn fixed(&mut self, network: &Item, device: String) -> Result<(), String> {
        let said = text(network, "ip_address").ok_or("it has no ip_address")?;
        let (bare, length) = said.split_once('/').map_or((said, None), |(bare, length)| (bare, Some(length)));
        let own = address(bare)?;
        if own.is_unspecified() || own.is_multicast() || own.is_loopback() {
            return Err(format!("{own} cannot be the address of a host"));
        }
        let prefix = match length.or_else(|| text(network, "netmask")) {
            Some(mask) => prefix(mask, own)?,
            None if own.is_ipv4() => return Err("it has no netmask".to_owned()),
            None => 64,
        };
        let mut routes = network.get("routes").and_then(items).unwrap_or_default();
        if let Some(gateway) = text(network, "gateway") {
            let any = if own.is_ipv4() { "0.0.0.0" } else { "::" };
            let route = serde_json::json!({"network": any, "netmask": any, "gateway": gateway});
            routes.extend(route.as_object().cloned());
        }
        for route in routes.iter().take(MOST) {
            match self::route(route, own, &device) {
                Ok(route) => self.params.routes.push(route),
                Err(reason) => self.problems.push(format!("network {}: a route: {reason}", name(network))),
            }
        }
        let device = Some(device);
        self.params.addresses.push(StaticAddress { address: own, prefix, gateway: None, hostname: None, device });
        Ok(())
    }

    fn services(&mut self, services: &[Item]) {
        for service in services.iter().take(MOST) {
            let server = text(service, "address").ok_or_else(|| "it has no address".to_owned()).and_then(address);
            match (text(service, "type"), server) {
                (Some("dns"), Ok(server)) => self.params.dns.push(server),
                (Some("ntp"), Ok(server)) => self.params.ntp.push(server),
                (Some("dns" | "ntp"), Err(reason)) => self.problems.push(format!("a service: {reason}")),
                (other, _) => self.problems.push(format!("a service of type {other:?} is not known")),
            }
        }
        self.params.dns.dedup();
    }
}

/// The objects of an array.
fn items(value: &Value) -> Option<Vec<Item>> {
    Some(value.as_array()?.iter().take(MOST).filter_map(|item| item.as_object().cloned()).collect())
}

fn route(route: &Item, own: IpAddr, device: &str) -> Result<StaticRoute, String> {
    let said = text(route, "network").ok_or("it has no network")?;
    let (bare, length) = said.split_once('/').map_or((said, None), |(bare, length)| (bare, Some(length)));
    let destination = address(bare)?;
    let prefix = match length.or_else(|| text(route, "netmask")) {
        Some(mask) => prefix(mask, destination)?,
        None if destination.is_unspecified() => 0,
        None => return Err("it has no netmask".to_owned()),
    };
    let gateway = text(route, "gateway").map(address).transpose()?.filter(|gateway| !gateway.is_unspecified());
    if destination.is_ipv4() != own.is_ipv4() || gateway.is_some_and(|gateway| gateway.is_ipv4() != own.is_ipv4()) {
        return Err("it is of another family than the address".to_owned());
    }
    Ok(StaticRoute { device: device.to_owned(), destination: network(destination, prefix), prefix, gateway })
}

/// A mask in any form: `255.255.255.0`, `24`, `ffff:ffff::`.
fn prefix(mask: &str, address: IpAddr) -> Result<u8, String> {
    if let (IpAddr::V6(_), Ok(bits)) = (address, mask.parse::<Ipv6Addr>()) {
        let bits = u128::from(bits);
        let length = bits.leading_ones();
        return match u8::try_from(length) {
            Ok(whole) if length + bits.trailing_zeros() >= 128 => Ok(whole),
            _ => Err(format!("{mask:?} is not a netmask")),
        };
    }
    prefix_length(mask, address).map_err(|_| format!("{mask:?} is not a netmask or a prefix length"))
}

/// The network that an address is in: the kernel refuses a route to a host's address with a shorter prefix.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => super::prefix(v4, prefix).into(),
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(document: &Value) -> (NetParams, Vec<String>) {
        NetParams::from_network_data(document.to_string().as_bytes()).unwrap()
    }

    fn card() -> Value {
        json!({"id": "port0", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:56", "mtu": 9000})
    }

    #[test]
    fn a_static_address_on_a_vlan_of_a_bond_is_read() {
        let (params, problems) = read(&json!({
            "links": [
                {"id": "tenant", "type": "vlan", "vlan_link": "both", "vlan_id": 101, "vlan_mac_address": "fa:16:3e:00:00:01"},
                {"id": "both", "type": "bond", "bond_links": ["port0", "port1"], "bond_mode": "802.3ad",
                 "bond_miimon": 100, "bond_xmit_hash_policy": "layer3+4", "ethernet_mac_address": "52:54:00:12:34:56"},
                card(),
                {"id": "port1", "type": "phy", "ethernet_mac_address": "52:54:00:12:34:57", "mtu": null},
            ],
            "networks": [
                {"id": "v4", "type": "ipv4", "link": "tenant", "ip_address": "192.0.2.10", "netmask": "255.255.255.0",
                 "network_id": "x", "routes": [
                    {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
                    {"network": "198.51.100.7", "netmask": "255.255.255.0", "gateway": "192.0.2.2"}],
                 "services": [{"type": "dns", "address": "192.0.2.53"}]},
                {"id": "v6", "type": "ipv6", "link": "tenant", "ip_address": "2001:db8::10/64", "gateway": "fe80::1"},
            ],
            "services": [{"type": "dns", "address": "2001:db8::53"}, {"type": "ntp", "address": "192.0.2.123"}],
        }));
        assert_eq!(problems, Vec::<String>::new());
        insta::assert_debug_snapshot!(params);
    }

    #[test]
    fn networks_that_are_asked_for_add_up_on_one_link() {
        let (params, problems) = read(&json!({"links": [card()], "networks": [
            {"id": "a", "type": "ipv4_dhcp", "link": "port0"}, {"id": "b", "type": "ipv6_dhcpv6-stateful", "link": "port0"},
        ]}));
        assert_eq!(problems, Vec::<String>::new());
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(params.autoconf("eth0", &mac), Autoconf { dhcp: true, advertisements: true, dhcp6: true });
        assert_eq!(params.autoconf("eth1", &Mac::default()), Autoconf::OFF);
    }

    #[track_caller]
    fn check_wrong(links: Value, networks: Value, reason: &str) {
        let (params, problems) = read(&json!({"links": links, "networks": networks}));
        assert!(problems.iter().any(|problem| problem.contains(reason)), "{reason}: {problems:?}");
        assert!(params.addresses.is_empty(), "{params:?}");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_left_out() {
        let none = || json!([]);
        check_wrong(json!([{"id": "a", "type": "vlan", "vlan_link": "b", "vlan_id": 1}]), none(), "\"b\" is no link");
        check_wrong(
            json!([card(), {"id": "a", "type": "vlan", "vlan_link": "port0", "vlan_id": 4095}]),
            none(),
            "4094",
        );
        check_wrong(json!([card(), {"id": "a", "type": "bond", "bond_links": []}]), none(), "no ports");
        check_wrong(json!([{"id": "a", "type": "phy", "ethernet_mac_address": "52:54"}]), none(), "not a MAC");
        check_wrong(json!([{"id": "a name that is too long", "type": "phy"}]), none(), "neither");
        check_wrong(json!([card(), card()]), none(), "twice");
        let address = |fields: Value| {
            let mut network = json!({"id": "n", "type": "ipv4", "link": "port0"});
            network.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!([network])
        };
        check_wrong(json!([card()]), address(json!({"link": "lost"})), "\"lost\" is no link");
        check_wrong(json!([card()]), address(json!({"ip_address": "192.0.2.5"})), "netmask");
        check_wrong(json!([card()]), address(json!({"ip_address": "192.0.2.5", "netmask": "255.0.255.0"})), "netmask");
        check_wrong(json!([card()]), address(json!({"ip_address": "127.0.0.1/8"})), "host");
        check_wrong(json!([card()]), address(json!({"ip_address": 5})), "no ip_address");
        check_wrong(json!([card()]), address(json!({"type": "carrier-pigeon"})), "not known");
        check_wrong(json!([{"id": "p", "type": "phy", "name": "eth0", "mtu": -1}]), none(), "mtu");
    }

    #[test]
    fn a_wrong_route_leaves_the_address() {
        let (params, problems) = read(&json!({"links": [card()], "networks": [
            {"id": "a", "type": "ipv4", "link": "port0", "ip_address": "192.0.2.10/24",
             "routes": [{"network": "::", "netmask": "::", "gateway": "fe80::1"}]},
        ]}));
        assert_eq!((params.addresses.len(), params.routes.len(), problems.len()), (1, 0, 1));
    }

    #[test]
    fn what_is_no_document_is_refused_and_depth_is_bounded() {
        for bad in ["", "[]", "{\"links\": 1}", "{\"networks\": [1]}"] {
            assert!(NetParams::from_network_data(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = format!("{{\"x\": {}", "[".repeat(100_000));
        assert!(NetParams::from_network_data(deep.as_bytes()).is_err());
        assert!(!read(&json!({})).0.gives_addresses());
    }

    #[test]
    fn masks_are_read_in_all_their_forms() {
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(prefix("ffff:ffff:ffff:ffff::", v6), Ok(64));
        assert_eq!(prefix("56", v6), Ok(56));
        assert_eq!(prefix("::", v6), Ok(0));
        assert!(prefix("ffff:0:ffff::", v6).is_err());
        assert_eq!(prefix("255.255.254.0", "192.0.2.1".parse().unwrap()), Ok(23));
    }
}
