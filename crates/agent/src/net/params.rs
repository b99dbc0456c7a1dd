//! What the kernel command line says of the network.
//!
//! `ip=` has the form of the kernel's own (`Documentation/admin-guide/nfs/nfsroot.rst`), which Debian's kernel does not
//! act upon itself: `ip=<client>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>:<ntp0>` or
//! `ip=<autoconf>`. It may be given several times. Beyond the kernel's, and as dracut takes them: `ip=<device>:<autoconf>`,
//! IPv6 addresses in brackets, a prefix length in place of a netmask, `nameserver=<address>`, `vlan=`, `bond=`.

use super::links::Mac;
use netlink_packet_route::link::{BondMode, BondXmitHashPolicy};
use std::net::{IpAddr, Ipv4Addr};

/// A word that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel parameter {word}: {reason}; wanted {FORM}")]
pub struct ParamError {
    word: String,
    reason: &'static str,
}

const FORM: &str = "ip=dhcp, ip=<device>:dhcp or ip=<address>::<gateway>:<netmask or prefix>:<hostname>:<device>:none:<dns>:<dns>:<ntp>";

/// How addresses are found that nobody gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Autoconf {
    /// By DHCPv4.
    pub dhcp: bool,
    /// By router advertisement, and by DHCPv6 where the advertisement says so.
    pub advertisements: bool,
    /// By DHCPv6, whatever is advertised.
    pub dhcp6: bool,
}

impl Autoconf {
    /// DHCPv4, and IPv6 as routers advertise it.
    pub const DHCP: Self = Self { dhcp: true, advertisements: true, dhcp6: false };
    /// IPv6 as routers advertise it.
    pub const ADVERTISEMENTS: Self = Self { dhcp: false, advertisements: true, dhcp6: false };
    /// DHCPv6; the routers are advertised all the same.
    pub const DHCP6: Self = Self { dhcp: false, advertisements: true, dhcp6: true };
    /// Not at all.
    pub const OFF: Self = Self { dhcp: false, advertisements: false, dhcp6: false };

    /// What either does.
    pub fn or(self, other: Self) -> Self {
        Self {
            dhcp: self.dhcp || other.dhcp,
            advertisements: self.advertisements || other.advertisements,
            dhcp6: self.dhcp6 || other.dhcp6,
        }
    }
}

/// An address that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix in bits.
    pub prefix: u8,
    /// Default router.
    pub gateway: Option<IpAddr>,
    /// Host name.
    pub hostname: Option<String>,
    /// Interface, by name or by MAC address; `None` for the one that the machine was booted from, else the first.
    pub device: Option<String>,
}

/// A route that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    /// Interface, by name or by MAC address.
    pub device: String,
    /// Network.
    pub destination: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Router; `None` for a network on the link itself.
    pub gateway: Option<IpAddr>,
}

/// A VLAN interface to be made (IEEE 802.1Q).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanLink {
    /// Its name.
    pub name: String,
    /// The interface below it, by name or by MAC address.
    pub parent: String,
    /// The VLAN, 1 to 4094.
    pub id: u16,
    /// Its MAC address, when it is not that of the interface below.
    pub mac: Option<Mac>,
}

/// A bond to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BondLink {
    /// Its name.
    pub name: String,
    /// Its ports, by name or by MAC address.
    pub ports: Vec<String>,
    /// Its MAC address, when it is not that of its first port.
    pub mac: Option<Mac>,
    /// Mode, as the kernel calls it; `balance-rr` when nothing is said.
    pub mode: Option<BondMode>,
    /// Milliseconds between two looks at the carriers of the ports.
    pub miimon: Option<u32>,
    /// Which port a packet takes.
    pub hash: Option<BondXmitHashPolicy>,
    /// Whether LACP packets are asked for every second instead of every 30.
    pub fast_lacp: bool,
}

/// The network as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetParams {
    /// What interfaces do that nothing else is said of.
    pub default: Autoconf,
    /// What single interfaces do, by name or MAC address.
    pub devices: Vec<(String, Autoconf)>,
    /// Given addresses.
    pub addresses: Vec<StaticAddress>,
    /// Given routes.
    pub routes: Vec<StaticRoute>,
    /// VLAN interfaces to be made.
    pub vlans: Vec<VlanLink>,
    /// Bonds to be made.
    pub bonds: Vec<BondLink>,
    /// Largest packets in bytes, by interface.
    pub mtus: Vec<(String, u32)>,
    /// Given name servers.
    pub dns: Vec<IpAddr>,
    /// Given time servers.
    pub ntp: Vec<IpAddr>,
    /// The interface that the machine was booted from.
    pub bootif: Option<Mac>,
}

impl Default for NetParams {
    /// DHCP everywhere.
    fn default() -> Self {
        Self {
            default: Autoconf::DHCP,
            devices: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            vlans: Vec::new(),
            bonds: Vec::new(),
            mtus: Vec::new(),
            dns: Vec::new(),
            ntp: Vec::new(),
            bootif: None,
        }
    }
}

impl NetParams {
    /// Reads a kernel command line. Words that cannot be used are returned beside what the others say: a machine with one
    /// wrong word should still be reachable.
    pub fn from_cmdline(cmdline: &str) -> (Self, Vec<ParamError>) {
        let mut params = Self::default();
        let mut errors = Vec::new();
        let mut global = None;
        for word in cmdline.split_whitespace() {
            let result = match word.split_once('=') {
                Some(("ip", value)) => parse_ip(value, &mut params, &mut global),
                Some(("nameserver", value)) => address(value).map(|server| params.dns.extend(server)),
                Some(("vlan", value)) => parse_vlan(value).map(|vlan| params.vlans.push(vlan)),
                Some(("bond", value)) => parse_bond(value, &mut params),
                Some(("BOOTIF", value)) => {
                    let mac = value.parse().map_err(|_| "it is not a MAC address");
                    mac.map(|mac| params.bootif = Some(mac))
                }
                _ => Ok(()),
            };
            if let Err(reason) = result {
                errors.push(ParamError { word: word.to_owned(), reason });
            }
        }
        // Whoever speaks of single interfaces or gives addresses means these and no others.
        let specific = !params.addresses.is_empty() || !params.devices.is_empty();
        params.default = global.unwrap_or(if specific { Autoconf::OFF } else { Autoconf::DHCP });
        (params, errors)
    }

    /// Kernel modules that making the interfaces takes.
    pub fn modules(&self) -> impl Iterator<Item = &'static str> {
        let (vlans, bonds) = (!self.vlans.is_empty(), !self.bonds.is_empty());
        vlans.then_some("8021q").into_iter().chain(bonds.then_some("bonding"))
    }

    /// What an interface does.
    pub fn autoconf(&self, name: &str, mac: &Mac) -> Autoconf {
        let own = self.devices.iter().filter(|(device, _)| names(device, name, mac)).map(|(_, autoconf)| *autoconf);
        own.reduce(Autoconf::or).unwrap_or(self.default)
    }
}

/// Whether `device` of a parameter is the interface with this name and MAC address.
pub(super) fn names(device: &str, name: &str, mac: &Mac) -> bool {
    device == name || device.parse::<Mac>().is_ok_and(|wanted| wanted == *mac)
}

fn autoconf(word: &str) -> Option<Autoconf> {
    match word {
        "dhcp" | "on" | "any" | "both" => Some(Autoconf::DHCP),
        "auto6" | "either6" | "link6" => Some(Autoconf::ADVERTISEMENTS),
        "dhcp6" => Some(Autoconf::DHCP6),
        "off" | "none" | "static" => Some(Autoconf::OFF),
        _ => None,
    }
}

/// Whether the kernel takes this as the name of an interface (`dev_valid_name` in `net/core/dev.c`).
pub(super) fn is_interface_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && name.chars().all(fits)
}

/// A VLAN's number (IEEE 802.1Q-2018, 9.6: 0 and 4095 are reserved).
pub(super) fn vlan_id(number: u64) -> Option<u16> {
    u16::try_from(number).ok().filter(|id| (1..4095).contains(id))
}

/// `<name>:<device>`; the number at the end of the name is the VLAN's, as dracut.cmdline(7) has it.
fn parse_vlan(value: &str) -> Result<VlanLink, &'static str> {
    let (name, parent) = value.split_once(':').ok_or("wanted vlan=<name>:<device>")?;
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let id =
        name[digits..].parse().ok().and_then(vlan_id).ok_or("the name does not end in a VLAN's number, 1 to 4094")?;
    if !is_interface_name(name) || parent.is_empty() {
        return Err("the name is not one of an interface, or there is no device");
    }
    Ok(VlanLink { name: name.to_owned(), parent: parent.to_owned(), id, mac: None })
}

/// `<name>:<port>,<port>[:<option>=<value>,…[:<mtu>]]`, as dracut.cmdline(7) has it.
fn parse_bond(value: &str, params: &mut NetParams) -> Result<(), &'static str> {
    let fields: Vec<&str> = value.split(':').collect();
    let (name, ports) = match fields.as_slice() {
        [name, ports, ..] if is_interface_name(name) => (*name, *ports),
        _ => return Err("wanted bond=<name>:<device>,<device>[:<option>=<value>,…[:<mtu>]]"),
    };
    let ports: Vec<String> = ports.split(',').filter(|port| !port.is_empty()).map(str::to_owned).collect();
    let mut bond = BondLink { name: name.to_owned(), ports, ..BondLink::default() };
    for option in fields.get(2).copied().unwrap_or_default().split([',', ';']).filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').ok_or("a bond's option has no value")?;
        bond.set(key, value)?;
    }
    if let Some(mtu) = fields.get(3) {
        params.mtus.push((name.to_owned(), mtu.parse().map_err(|_| "its MTU is not a number")?));
    }
    if bond.ports.is_empty() || fields.len() > 4 {
        return Err("a bond has ports by name, and four fields at most");
    }
    params.bonds.push(bond);
    Ok(())
}

impl BondLink {
    /// Sets an option by the name that the kernel has for it (`Documentation/networking/bonding.rst`).
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "mode" => self.mode = Some(bond_mode(value).ok_or("its mode is none that bonds have")?),
            "miimon" => self.miimon = Some(value.parse().map_err(|_| "its miimon is not a number of milliseconds")?),
            "xmit_hash_policy" => {
                self.hash = Some(match value {
                    "layer2" => BondXmitHashPolicy::Layer2,
                    "layer2+3" => BondXmitHashPolicy::Layer23,
                    "layer3+4" => BondXmitHashPolicy::Layer34,
                    "encap2+3" => BondXmitHashPolicy::Encap23,
                    "encap3+4" => BondXmitHashPolicy::Encap34,
                    "vlan+srcmac" => BondXmitHashPolicy::VlanSrcMac,
                    _ => return Err("its xmit_hash_policy is none that bonds have"),
                });
            }
            "lacp_rate" => self.fast_lacp = matches!(value, "fast" | "1"),
            _ => return Err("a bond's option is not mode, miimon, xmit_hash_policy or lacp_rate"),
        }
        Ok(())
    }
}

fn bond_mode(text: &str) -> Option<BondMode> {
    Some(match text {
        "balance-rr" | "0" => BondMode::BalanceRr,
        "active-backup" | "1" => BondMode::ActiveBackup,
        "balance-xor" | "2" => BondMode::BalanceXor,
        "broadcast" | "3" => BondMode::Broadcast,
        "802.3ad" | "4" => BondMode::Ieee8023Ad,
        "balance-tlb" | "5" => BondMode::BalanceTlb,
        "balance-alb" | "6" => BondMode::BalanceAlb,
        _ => return None,
    })
}

fn parse_ip(value: &str, params: &mut NetParams, global: &mut Option<Autoconf>) -> Result<(), &'static str> {
    if let Some(autoconf) = autoconf(value) {
        *global = Some(autoconf);
        return Ok(());
    }
    let fields = split(value);
    let field = |index: usize| fields.get(index).copied().filter(|field| !field.is_empty());
    if let (Some(device), Some(word), None) = (field(0), field(1).and_then(autoconf), field(3))
        && address(device).is_err()
    {
        params.devices.push((device.to_owned(), word));
        return Ok(());
    }
    if fields.len() > 10 {
        return Err("it has more than ten fields");
    }
    let device = field(5).map(str::to_owned);
    if device.as_deref().and_then(autoconf).is_some() {
        return Err("an autoconf stands where the device belongs: a colon is missing or too many");
    }
    let own = field(6).map(|word| autoconf(word).ok_or("its autoconf is not known")).transpose()?;
    for index in [7, 8] {
        params.dns.extend(field(index).map(address).transpose()?.flatten());
    }
    params.ntp.extend(field(9).map(address).transpose()?.flatten());
    let Some(client) = field(0) else {
        return match (device, own) {
            (Some(device), own) => {
                params.devices.push((device, own.unwrap_or(Autoconf::DHCP)));
                Ok(())
            }
            (None, Some(own)) => {
                *global = Some(own);
                Ok(())
            }
            (None, None) => Err("it has neither an address nor an autoconf"),
        };
    };
    let (client, length) = match unbracketed(client).split_once('/') {
        Some((client, length)) => (client, Some(length)),
        None => (unbracketed(client), None),
    };
    // `[2001:db8::5]/64` has its length behind the bracket.
    let client: IpAddr = unbracketed(client).parse().map_err(|_| "its address is not one")?;
    let prefix = match (length.or(field(3)), client) {
        (Some(text), client) => prefix_length(text, client)?,
        (None, IpAddr::V4(client)) => class_prefix(client),
        (None, IpAddr::V6(_)) => 64,
    };
    let gateway = field(2).map(address).transpose()?.flatten();
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != client.is_ipv4()) {
        return Err("its gateway is of another family than its address");
    }
    if client.is_unspecified() || client.is_multicast() || client.is_loopback() {
        return Err("its address cannot be one of a host");
    }
    if let (Some(device), Some(own)) = (&device, own) {
        params.devices.push((device.clone(), own));
    }
    let hostname = field(4).map(str::to_owned);
    params.addresses.push(StaticAddress { address: client, prefix, gateway, hostname, device });
    Ok(())
}

/// Splits at colons outside of brackets.
fn split(value: &str) -> Vec<&str> {
    let mut inside = false;
    value
        .split(|c| {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                _ => {}
            }
            c == ':' && !inside
        })
        .collect()
}

pub(super) fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').map_or(text, |rest| rest.trim_end_matches(']')).trim_end_matches(']')
}

/// An address, or none for `0.0.0.0`, by which the kernel means the same.
fn address(text: &str) -> Result<Option<IpAddr>, &'static str> {
    let address: IpAddr = unbracketed(text).parse().map_err(|_| "one of its addresses is not one")?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

pub(super) fn prefix_length(text: &str, address: IpAddr) -> Result<u8, &'static str> {
    const WRONG: &str = "its netmask is neither a mask nor a prefix length";
    let most = if address.is_ipv4() { 32 } else { 128 };
    if let Ok(length) = text.parse::<u8>() {
        return if length <= most { Ok(length) } else { Err(WRONG) };
    }
    let mask = u32::from(text.parse::<Ipv4Addr>().map_err(|_| WRONG)?);
    let length = mask.leading_ones();
    if address.is_ipv6() || length + mask.trailing_zeros() < 32 {
        return Err(WRONG);
    }
    u8::try_from(length).map_err(|_| WRONG)
}

/// What the kernel takes when no mask is given: the class of the address (`net/ipv4/ipconfig.c`).
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(cmdline: &str) -> NetParams {
        let (params, errors) = NetParams::from_cmdline(cmdline);
        assert_eq!(errors, []);
        params
    }

    #[track_caller]
    fn check_wrong(word: &str, reason: &str) {
        let (_, errors) = NetParams::from_cmdline(word);
        assert!(errors.len() == 1 && errors[0].to_string().contains(reason), "{word}: {errors:?}");
    }

    #[test]
    fn nothing_said_is_dhcp_everywhere() {
        assert_eq!(parse("console=ttyS0 quiet"), NetParams::default());
        assert_eq!(parse("ip=dhcp"), NetParams::default());
        assert_eq!(parse("ip=:::::eth0:dhcp").autoconf("eth0", &Mac::default()), Autoconf::DHCP);
        assert_eq!(parse("ip=:::::eth0:dhcp").autoconf("eth1", &Mac::default()), Autoconf::OFF);
        assert_eq!(parse("ip=eth0:dhcp ip=dhcp").autoconf("eth1", &Mac::default()), Autoconf::DHCP);
        assert_eq!(parse("ip=off").default, Autoconf::OFF);
        assert_eq!(parse("ip=::::node-7::dhcp").default, Autoconf::DHCP);
    }

    #[test]
    fn the_kernels_whole_form_is_read() {
        let params =
            parse("ip=192.0.2.5:192.0.2.1:192.0.2.254:255.255.255.128:node-7:eth1:none:192.0.2.2:192.0.2.3:192.0.2.4");
        assert_eq!(
            params.addresses,
            [StaticAddress {
                address: "192.0.2.5".parse().unwrap(),
                prefix: 25,
                gateway: Some("192.0.2.254".parse().unwrap()),
                hostname: Some("node-7".into()),
                device: Some("eth1".into()),
            }]
        );
        assert_eq!(params.dns.len(), 2);
        assert_eq!(params.ntp, ["192.0.2.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(params.default, Autoconf::OFF);
        assert_eq!(params.autoconf("eth1", &Mac::default()), Autoconf::OFF);
    }

    #[test]
    fn prefixes_classes_and_ipv6_are_read() {
        let one = |cmdline: &str| {
            let mut params = parse(cmdline);
            let address = params.addresses.remove(0);
            (address.address.to_string(), address.prefix, address.gateway.map(|gateway| gateway.to_string()))
        };
        assert_eq!(one("ip=10.0.0.5"), ("10.0.0.5".into(), 8, None));
        assert_eq!(one("ip=192.0.2.5/27::192.0.2.1"), ("192.0.2.5".into(), 27, Some("192.0.2.1".into())));
        assert_eq!(one("ip=192.0.2.5::192.0.2.1:24:::off"), ("192.0.2.5".into(), 24, Some("192.0.2.1".into())));
        assert_eq!(one("ip=[2001:db8::5/56]"), ("2001:db8::5".into(), 56, None));
        assert_eq!(one("ip=[2001:db8::5]/64"), ("2001:db8::5".into(), 64, None));
        let whole = "ip=[2001:db8::5]::[2001:db8::1]:48:node:eth0:none";
        assert_eq!(one(whole), ("2001:db8::5".into(), 48, Some("2001:db8::1".into())));
    }

    #[test]
    fn several_words_add_up() {
        let params = parse(
            "ip=192.0.2.5/24:::::eth0:none ip=[2001:db8::5]/64:::::eth0:none nameserver=192.0.2.9 ip=eth1:dhcp \
             BOOTIF=01-52-54-00-12-34-56",
        );
        assert_eq!(params.addresses.len(), 2);
        assert_eq!(params.autoconf("eth1", &Mac::default()), Autoconf::DHCP);
        assert_eq!(params.autoconf("eth0", &Mac::default()), Autoconf::OFF);
        assert_eq!(params.bootif.unwrap().to_string(), "52:54:00:12:34:56");
        let by_mac = parse("ip=192.0.2.5/24:::::52-54-00-12-34-56:none");
        let device = by_mac.addresses[0].device.as_deref().unwrap();
        assert!(names(device, "eth3", &"52:54:00:12:34:56".parse().unwrap()));
    }

    #[test]
    fn vlans_and_bonds_are_read_as_dracut_has_them() {
        let params = parse(
            "vlan=eth0.100:eth0 vlan=vlan7:bond0 bond=bond0:eth0,eth1:mode=802.3ad,miimon=100:9000 ip=vlan7:dhcp",
        );
        assert_eq!((params.vlans[0].id, params.vlans[0].parent.as_str()), (100, "eth0"));
        assert_eq!((params.vlans[1].id, params.vlans[1].name.as_str()), (7, "vlan7"));
        let bond = &params.bonds[0];
        assert_eq!((bond.mode, bond.miimon, bond.ports.len()), (Some(BondMode::Ieee8023Ad), Some(100), 2));
        assert_eq!(params.mtus, [("bond0".to_owned(), 9000)]);
        assert_eq!(params.modules().collect::<Vec<_>>(), ["8021q", "bonding"]);
        assert_eq!(parse("ip=dhcp6").default, Autoconf::DHCP6);
        assert_eq!(parse("ip=eth0:either6").autoconf("eth0", &Mac::default()), Autoconf::ADVERTISEMENTS);
    }

    #[test]
    fn wrong_vlans_and_bonds_are_named() {
        check_wrong("vlan=eth0", "wanted");
        check_wrong("vlan=eth0.0:eth0", "1 to 4094");
        check_wrong("vlan=eth0.4095:eth0", "1 to 4094");
        check_wrong("vlan=eth0.x:eth0", "1 to 4094");
        check_wrong("vlan=a-name-that-is-long100:eth0", "not one of an interface");
        check_wrong("vlan=../x1:eth0", "not one of an interface");
        check_wrong("bond=bond0", "wanted");
        check_wrong("bond=bond0:", "ports");
        check_wrong("bond=bond0:eth0:mode=9", "mode");
        check_wrong("bond=bond0:eth0:fail_over_mac=1", "option");
        check_wrong("bond=bond0:eth0::big", "MTU");
    }

    #[test]
    fn wrong_words_are_named_and_the_others_count() {
        check_wrong("ip=1.2.3", "not one");
        check_wrong("ip=192.0.2.5:::255.0.255.0", "netmask");
        check_wrong("ip=192.0.2.5:::33", "netmask");
        check_wrong("ip=192.0.2.5::[2001:db8::1]:24", "another family");
        check_wrong("ip=192.0.2.5::::::maybe", "autoconf");
        check_wrong("ip=::::::", "neither");
        check_wrong("ip=192.0.2.5/24::::eth0:none", "colon");
        check_wrong("ip=1.2.3.4:5:6:7:8:9:none:1:2:3:4", "more than ten");
        check_wrong("ip=127.0.0.1", "host");
        check_wrong("BOOTIF=eth0", "MAC");
        check_wrong("nameserver=x", "not one");
        let (params, errors) = NetParams::from_cmdline("ip=nonsense ip=192.0.2.5/24");
        assert_eq!((params.addresses.len(), errors.len()), (1, 1));
    }
}
