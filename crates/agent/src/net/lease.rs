//! What a DHCP server gave.

use super::Hints;
use dhcproto::v4::{DhcpOption, Message, OptionCode};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A route: network, length of its prefix in bits, and the router, unspecified for the link itself.
pub type Route = (Ipv4Addr, u8, Ipv4Addr);

/// A lease (RFC 2131), with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Routes, the default one among them.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Largest packet in bytes.
    pub mtu: Option<u16>,
    /// Host name.
    pub hostname: Option<String>,
    /// When to ask the same server again.
    pub renew_after: Duration,
    /// When to ask any server.
    pub rebind_after: Duration,
    /// When it ends.
    pub ends_after: Duration,
}

/// Taken when a server does not say how long (which it must).
const ONE_HOUR: u32 = 3600;
/// Shorter leases are renewed as if they were this long, so that no server makes us storm it.
pub(super) const SHORTEST: u32 = 10;
/// Bounds on lists of a server.
pub(super) const MOST: usize = 32;

impl Lease {
    /// What it says beside the address.
    pub(super) fn hints(&self) -> Hints {
        Hints {
            dns: self.dns.iter().copied().map(IpAddr::V4).collect(),
            search: self.search.clone(),
            ntp: self.ntp.iter().copied().map(IpAddr::V4).collect(),
            hostname: self.hostname.clone(),
        }
    }

    /// Reads an acknowledgement; `None` when it gives no usable address or does not say who sent it.
    pub(super) fn from_ack(ack: &Message) -> Option<Self> {
        let options = ack.opts();
        let address = Some(ack.yiaddr()).filter(|address| usable(*address))?;
        let server = match options.get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => *server,
            _ => Some(ack.siaddr()).filter(|server| usable(*server))?,
        };
        let prefix = match options.get(OptionCode::SubnetMask) {
            Some(DhcpOption::SubnetMask(mask)) => u8::try_from(u32::from(*mask).leading_ones()).unwrap_or(32),
            _ => 24,
        };
        let list = |code| match options.get(code) {
            Some(DhcpOption::Router(list) | DhcpOption::DomainNameServer(list) | DhcpOption::NtpServers(list)) => {
                list.iter().copied().filter(|address| usable(*address)).take(MOST).collect()
            }
            _ => Vec::new(),
        };
        // Classless routes, when there are any, replace the router (RFC 3442).
        let routes = match options.get(OptionCode::ClasslessStaticRoute) {
            Some(DhcpOption::ClasslessStaticRoute(routes)) if !routes.is_empty() => {
                routes.iter().take(MOST).map(|(net, router)| (net.network(), net.prefix_len(), *router)).collect()
            }
            _ => {
                list(OptionCode::Router).first().map(|router| (Ipv4Addr::UNSPECIFIED, 0, *router)).into_iter().collect()
            }
        };
        let mut search: Vec<String> = match options.get(OptionCode::DomainSearch) {
            Some(DhcpOption::DomainSearch(names)) => {
                names.iter().map(|name| name.to_string().trim_end_matches('.').to_owned()).collect()
            }
            _ => Vec::new(),
        };
        if search.is_empty()
            && let Some(DhcpOption::DomainName(name)) = options.get(OptionCode::DomainName)
        {
            search.push(name.trim_end_matches(['.', '\0']).to_owned());
        }
        search.retain(|name| is_name(name));
        search.truncate(MOST);
        let mtu = match options.get(OptionCode::InterfaceMtu) {
            // The least that IPv4 allows (RFC 791).
            Some(DhcpOption::InterfaceMtu(mtu)) if *mtu >= 68 => Some(*mtu),
            _ => None,
        };
        let hostname = match options.get(OptionCode::Hostname) {
            Some(DhcpOption::Hostname(name)) => {
                Some(name.trim_end_matches('\0').to_owned()).filter(|name| is_name(name))
            }
            _ => None,
        };
        let ends = match options.get(OptionCode::AddressLeaseTime) {
            Some(DhcpOption::AddressLeaseTime(seconds)) => (*seconds).max(SHORTEST),
            _ => ONE_HOUR,
        };
        let rebind = match options.get(OptionCode::Rebinding) {
            Some(DhcpOption::Rebinding(seconds)) if (1..ends).contains(seconds) => *seconds,
            _ => ends - ends / 8,
        };
        let renew = match options.get(OptionCode::Renewal) {
            Some(DhcpOption::Renewal(seconds)) if (1..=rebind).contains(seconds) => *seconds,
            _ => (ends / 2).min(rebind),
        };
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Some(Self {
            address,
            prefix,
            server,
            routes,
            dns: list(OptionCode::DomainNameServer),
            search,
            ntp: list(OptionCode::NtpServers),
            mtu,
            hostname,
            renew_after: seconds(renew),
            rebind_after: seconds(rebind),
            ends_after: seconds(ends),
        })
    }
}

fn usable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast() && !address.is_loopback()
}

/// Whether a name from the network may become a host name or a line of `resolv.conf`: letters, digits, dashes, dots and
/// underscores, nothing with a meaning of its own.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() <= 253 && !name.starts_with(['-', '.']) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(options: Vec<DhcpOption>) -> Message {
        let mut message = Message::new_with_id(
            1,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::new(192, 0, 2, 5),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            &[2, 0, 0, 0, 0, 1],
        );
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }

    const SERVER: DhcpOption = DhcpOption::ServerIdentifier(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_whole_lease_is_read() {
        let lease = Lease::from_ack(&ack(vec![
            SERVER,
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 128)),
            DhcpOption::Router(vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]),
            DhcpOption::DomainNameServer(vec![Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::UNSPECIFIED]),
            DhcpOption::NtpServers(vec![Ipv4Addr::new(192, 0, 2, 123)]),
            DhcpOption::DomainName("example.org.".into()),
            DhcpOption::Hostname("node-7".into()),
            DhcpOption::InterfaceMtu(9000),
            DhcpOption::AddressLeaseTime(600),
        ]));
        let lease = lease.unwrap();
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(192, 0, 2, 5), 25));
        assert_eq!(lease.routes, [(Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(192, 0, 2, 1))]);
        assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 53)]);
        assert_eq!(lease.search, ["example.org"]);
        assert_eq!((lease.mtu, lease.hostname.as_deref()), (Some(9000), Some("node-7")));
        let times = [lease.renew_after, lease.rebind_after, lease.ends_after].map(|time| time.as_secs());
        assert_eq!(times, [300, 525, 600]);
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let net = "198.51.100.0/24".parse().unwrap();
        let lease = Lease::from_ack(&ack(vec![
            SERVER,
            DhcpOption::Router(vec![Ipv4Addr::new(192, 0, 2, 1)]),
            DhcpOption::ClasslessStaticRoute(vec![(net, Ipv4Addr::new(192, 0, 2, 9))]),
        ]));
        assert_eq!(lease.unwrap().routes, [(Ipv4Addr::new(198, 51, 100, 0), 24, Ipv4Addr::new(192, 0, 2, 9))]);
    }

    #[test]
    fn senseless_values_are_not_taken() {
        assert_eq!(Lease::from_ack(&ack(vec![])), None);
        let lease = Lease::from_ack(&ack(vec![
            SERVER,
            DhcpOption::Hostname("x\nnameserver 203.0.113.1".into()),
            DhcpOption::DomainName("a b".into()),
            DhcpOption::InterfaceMtu(1),
            DhcpOption::AddressLeaseTime(0),
            DhcpOption::Renewal(u32::MAX),
        ]));
        let lease = lease.unwrap();
        assert_eq!((lease.hostname, lease.mtu), (None, None));
        assert!(lease.search.is_empty());
        assert!(lease.renew_after <= lease.rebind_after && lease.rebind_after <= lease.ends_after);
        assert!(!lease.renew_after.is_zero());
    }
}
