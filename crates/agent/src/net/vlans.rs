//! VLAN interfaces that `ipa-enable-vlan-interfaces` asks for, by name or as switches advertise them.

use super::VlanLink;
use super::params::{is_interface_name, vlan_id};

/// Type of an organization's own TLV (IEEE 802.1AB-2016, 8.6), and how the one begins that names a VLAN (IEEE
/// 802.1Q-2018, D.2.3: the organization 00-80-C2, subtype 3, then the VLAN in two bytes).
const OF_ORGANIZATION: u32 = 127;
const VLAN_NAME: &str = "0080c203";

/// The interface of `eth0.100` or `52:54:00:12:34:56.100`; `None` for a word without a VLAN.
pub fn named(word: &str) -> Option<VlanLink> {
    let (parent, id) = word.rsplit_once('.')?;
    let id = id.parse().ok().and_then(vlan_id)?;
    // A MAC address is too long for a name with a number behind it.
    let name = if is_interface_name(word) { word.to_owned() } else { format!("vlan{id}") };
    (!parent.is_empty()).then(|| VlanLink { name, parent: parent.to_owned(), id, mac: None })
}

/// The VLANs that a switch names on `interface`, if `wanted` has the interface or `all` in it.
pub fn advertised(wanted: &[String], interface: &str, tlvs: &[(u32, String)]) -> Vec<VlanLink> {
    if !wanted.iter().any(|word| word == "all" || word == interface) {
        return Vec::new();
    }
    let ids = tlvs.iter().filter(|(kind, _)| *kind == OF_ORGANIZATION).filter_map(|(_, value)| {
        let id = value.strip_prefix(VLAN_NAME)?.get(..4)?;
        u64::from_str_radix(id, 16).ok().and_then(vlan_id)
    });
    let link = |id| VlanLink { name: format!("{interface}.{id}"), parent: interface.to_owned(), id, mac: None };
    ids.map(link).filter(|vlan| is_interface_name(&vlan.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_named_with_their_interface_or_its_mac_address() {
        let vlan = named("eth0.100").unwrap();
        assert_eq!((vlan.name.as_str(), vlan.parent.as_str(), vlan.id), ("eth0.100", "eth0", 100));
        let vlan = named("52:54:00:12:34:56.7").unwrap();
        assert_eq!((vlan.name.as_str(), vlan.parent.as_str(), vlan.id), ("vlan7", "52:54:00:12:34:56", 7));
        for none in ["eth0", "all", "eth0.0", "eth0.4095", "eth0.x", ".5", ""] {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn vlans_of_lldp_are_taken_where_they_are_wanted() {
        let tlvs =
            [(127, "0080c203006504766c3130".to_owned()), (127, "0080c2010064".into()), (5, "0080c2030064".into())];
        let ids = |wanted: &str| {
            let vlans = advertised(&[wanted.to_owned()], "eth0", &tlvs);
            vlans.into_iter().map(|vlan| vlan.name).collect::<Vec<_>>()
        };
        assert_eq!(ids("all"), ["eth0.101"]);
        assert_eq!(ids("eth0"), ["eth0.101"]);
        assert!(ids("eth1").is_empty() && ids("eth0.5").is_empty());
        assert!(advertised(&["all".into()], "eth0", &[(127, "0080c203é".into()), (127, "0080c203".into())]).is_empty());
    }
}
