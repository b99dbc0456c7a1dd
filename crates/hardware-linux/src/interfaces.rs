//! Network interfaces.

use crate::sys;
use crate::tree::{self, Tree};
use hardware::Interface;
use std::fs;
use std::path::Path;

/// `ARPHRD_INFINIBAND` of `linux/if_arp.h`.
const INFINIBAND: u64 = 32;

/// All interfaces that stand on a device, with the bonds and VLANs on them, which have the machine's addresses where there
/// are some. No loopback, bridges, tunnels and other virtual ones; interfaces with a MAC address that begins with `fa:`
/// belong to virtual functions which the field's agent leaves out too.
pub(crate) fn interfaces(tree: &Tree) -> Vec<Interface> {
    // A recorded tree has no addresses: those of the machine that looks at it are not its own.
    let addresses = if tree.is_live() { sys::addresses().unwrap_or_default() } else { Vec::new() };
    let mut found: Vec<Interface> = tree
        .names("/sys/class/net")
        .into_iter()
        .filter_map(|name| interface(&tree.path("/sys/class/net").join(&name), name))
        .filter(|interface| !interface.mac_address.starts_with("fa:"))
        .collect();
    for interface in &mut found {
        let mine = || addresses.iter().filter(|(name, _)| *name == interface.name).map(|(_, address)| address);
        let v4 = mine().find(|address| address.is_ipv4()).map(ToString::to_string);
        let v6 = mine().find(|address| address.is_ipv6()).map(ToString::to_string);
        interface.ipv4_address = v4;
        interface.ipv6_address = v6;
    }
    found
}

fn interface(folder: &Path, name: String) -> Option<Interface> {
    let device = match fs::canonicalize(folder.join("device")) {
        Ok(device) => Some(device),
        Err(_) if is_bond_or_vlan(folder) => None,
        Err(_) => return None,
    };
    let address = tree::text(&folder.join("address"))?.to_lowercase();
    let (mac_address, client_id) =
        if tree::number(&folder.join("type")) == Some(INFINIBAND) { infiniband(&address)? } else { (address, None) };
    Some(Interface {
        has_carrier: tree::text(&folder.join("carrier")).as_deref() == Some("1"),
        // -1, or an error, while the link is down.
        speed_mbps: tree::number(&folder.join("speed")),
        vendor: device.as_ref().and_then(|device| tree::text(&device.join("vendor"))),
        product: device.as_ref().and_then(|device| tree::text(&device.join("device"))),
        pci_address: device.as_deref().and_then(pci_address),
        driver: device.and_then(|device| tree::link_name(&device.join("driver"))),
        mac_address,
        client_id,
        name,
        ..Interface::default()
    })
}

/// Whether an interface is made of others: the folder of a bond has `bonding`, the kernel says `DEVTYPE=vlan` of a VLAN.
fn is_bond_or_vlan(folder: &Path) -> bool {
    let says = |text: String| text.lines().any(|line| line == "DEVTYPE=vlan");
    folder.join("bonding").is_dir() || tree::text(&folder.join("uevent")).is_some_and(says)
}

/// An InfiniBand hardware address of 20 bytes as the MAC address that stands for it in the field (its GUID without the
/// middle two bytes) and the DHCP client id (RFC 4390, as vendors' boot firmware forms it).
fn infiniband(address: &str) -> Option<(String, Option<String>)> {
    let guid = address.get(36..)?;
    let mac = format!("{}{}", guid.get(..9)?, guid.get(15..)?);
    Some((mac, Some(format!("ff:00:00:00:00:00:02:00:00:02:c9:00:{guid}"))))
}

/// The nearest PCI function that a device hangs on.
fn pci_address(device: &Path) -> Option<String> {
    let parts = device.iter().rev().filter_map(|part| part.to_str());
    parts.into_iter().find(|part| is_pci_address(part)).map(str::to_owned)
}

/// Whether `part` looks like `0000:00:1f.2`.
pub(crate) fn is_pci_address(part: &str) -> bool {
    let hex = |text: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut parts = part.split([':', '.']);
    let (Some(domain), Some(bus), Some(device), Some(function), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    part.contains('.') && hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infiniband_address_becomes_a_mac_and_a_client_id() {
        let address = "80:00:02:08:fe:80:00:00:00:00:00:00:7c:fe:90:03:00:29:26:52";
        let (mac, client_id) = infiniband(address).unwrap();
        assert_eq!(mac, "7c:fe:90:29:26:52");
        assert_eq!(client_id.unwrap(), "ff:00:00:00:00:00:02:00:00:02:c9:00:7c:fe:90:03:00:29:26:52");
        assert!(infiniband("00:11:22:33:44:55").is_none());
    }

    #[test]
    fn bonds_and_vlans_are_interfaces_and_bridges_are_not() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("both/bonding/mode", "active-backup 1"),
            ("both/address", "52:54:00:77:00:01"),
            ("both/carrier", "1"),
            ("both.100/uevent", "DEVTYPE=vlan\nINTERFACE=both.100\nIFINDEX=5"),
            ("both.100/address", "52:54:00:77:00:01"),
            ("br0/uevent", "DEVTYPE=bridge\nINTERFACE=br0"),
            ("br0/address", "52:54:00:77:00:02"),
            ("lo/uevent", "INTERFACE=lo"),
            ("lo/address", "00:00:00:00:00:00"),
        ] {
            let path = root.path().join("sys/class/net").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = interfaces(&Tree::at(root.path()));
        let names: Vec<(&str, bool)> = found.iter().map(|one| (one.name.as_str(), one.has_carrier)).collect();
        assert_eq!(names, [("both", true), ("both.100", false)]);
        assert!(found.iter().all(|one| one.driver.is_none() && one.pci_address.is_none()));
    }

    #[test]
    fn pci_addresses_are_told_from_other_names() {
        assert!(is_pci_address("0000:00:1f.2"));
        assert!(is_pci_address("10000:01:00.0"));
        assert!(!is_pci_address("pci0000:00"));
        assert!(!is_pci_address("0000:00:1f:2"));
        assert!(!is_pci_address("virtio0"));
    }
}
