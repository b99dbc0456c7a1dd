//! Router advertisements (RFC 4861) as far as the kernel leaves them to us: whether there is DHCPv6, and name servers
//! (RFC 8106). Addresses and routes of advertisements are the kernel's own work.

use super::lease::{MOST, is_name};
use super::links::Link;
use super::{Hints, Report, Source};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Types of messages (RFC 4861, 4.1 and 4.2).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Types of options: recursive name servers and search domains (RFC 8106, 5.1 and 5.2).
const NAME_SERVERS: u8 = 25;
const SEARCH_DOMAINS: u8 = 31;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The kernel asks too, perhaps before we listen (RFC 4861, 10: `RTR_SOLICITATION_INTERVAL`, `MAX_RTR_SOLICITATIONS`).
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(4);
const QUESTIONS: u32 = 3;
/// Larger than a packet of any link here.
const LARGEST: usize = 9216;

/// What a router says of DHCPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Ask {
    /// Nothing, or no router has spoken yet.
    #[default]
    Nothing,
    /// It knows name servers and the like.
    Information,
    /// It gives addresses.
    Address,
}

/// An advertisement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Advert {
    ask: Ask,
    dns: Vec<Ipv6Addr>,
    search: Vec<String>,
}

impl Advert {
    /// Reads an ICMPv6 message; `None` when it is no advertisement, or is one that a host has to drop.
    fn parse(message: &[u8]) -> Option<Self> {
        // Flags are the sixth byte, options begin at the 17th (RFC 4861, 4.2).
        let [ROUTER_ADVERTISEMENT, 0, _, _, _, flags, ..] = message else { return None };
        let mut advert = Self {
            ask: match flags {
                flags if flags & 0x80 != 0 => Ask::Address,
                flags if flags & 0x40 != 0 => Ask::Information,
                _ => Ask::Nothing,
            },
            ..Self::default()
        };
        let mut options = message.get(16..)?;
        while let [kind, length, ..] = options {
            // In units of eight bytes; zero would never end.
            let length = usize::from(*length) * 8;
            if length == 0 || length > options.len() {
                return None;
            }
            let (option, rest) = options.split_at(length);
            options = rest;
            let lasts = option.get(4..8) != Some(&[0; 4]);
            match *kind {
                NAME_SERVERS if lasts => {
                    advert.dns.extend(option.get(8..).unwrap_or_default().chunks_exact(16).filter_map(|bytes| {
                        let bytes: [u8; 16] = bytes.try_into().ok()?;
                        Some(Ipv6Addr::from(bytes))
                            .filter(|address| !address.is_unspecified() && !address.is_multicast())
                    }))
                }
                SEARCH_DOMAINS if lasts => advert.search.extend(domains(option.get(8..).unwrap_or_default())),
                _ => {}
            }
        }
        advert.dns.truncate(MOST);
        advert.search.truncate(MOST);
        Some(advert)
    }
}

/// Names as DNS writes them, without compression, filled up with zeroes.
fn domains(mut bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(length)) else { break };
        bytes = rest;
        if length > 0 {
            labels.push(String::from_utf8_lossy(label).into_owned());
        } else if !labels.is_empty() {
            names.push(std::mem::take(&mut labels).join("."));
        }
    }
    names.retain(|name| is_name(name));
    names
}

/// Listens on a link for as long as the future is polled; tells `ask` what routers say of DHCPv6, and `report` the rest.
pub(super) async fn listen(
    link: &Link,
    ask: &watch::Sender<Ask>,
    report: &dyn Report,
) -> io::Result<std::convert::Infallible> {
    let socket = open(link)?;
    let mut buffer = vec![0; LARGEST];
    let mut questions = 0;
    loop {
        if questions < QUESTIONS {
            questions += 1;
            // Fails while the link's own address is being checked for duplicates.
            let routers = SocketAddr::V6(SocketAddrV6::new(ALL_ROUTERS, 0, 0, link.index));
            if let Err(error) = socket.send_to(&[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], routers).await {
                tracing::debug!(link = link.name, %error, "no router is asked yet");
            }
        }
        let received = socket.recv_from(&mut buffer);
        let received = if questions < QUESTIONS {
            match tokio::time::timeout(BETWEEN_QUESTIONS, received).await {
                Ok(received) => received?,
                Err(_) => continue,
            }
        } else {
            received.await?
        };
        let (length, SocketAddr::V6(from)) = received else { continue };
        // Routers do not forward what comes from such an address, so it was sent on this link.
        let Some(advert) = Advert::parse(&buffer[..length]).filter(|_| from.ip().is_unicast_link_local()) else {
            continue;
        };
        questions = QUESTIONS;
        ask.send_if_modified(|current| {
            let changed = *current != advert.ask;
            *current = advert.ask;
            changed
        });
        let dns = advert.dns.into_iter().map(Into::into).collect();
        report.told(link, Source::Advertisement, Some(Hints { dns, search: advert.search, ..Hints::default() }));
    }
}

fn open(link: &Link) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(link.name.as_bytes()))?;
    socket.set_nonblocking(true)?;
    // Hosts and routers drop what may have come through a router (RFC 4861, 6.1).
    socket.set_multicast_hops_v6(255)?;
    // Tokio has no type for raw sockets; this one sends to and receives from addresses, which is all that is asked of it.
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertisement(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(options);
        message
    }

    #[test]
    fn flags_say_what_there_is_of_dhcpv6() {
        for (flags, ask) in [(0, Ask::Nothing), (0x40, Ask::Information), (0x80, Ask::Address), (0xc0, Ask::Address)] {
            assert_eq!(Advert::parse(&advertisement(flags, &[])).unwrap().ask, ask);
        }
    }

    #[test]
    fn name_servers_and_domains_are_read() {
        let server: Ipv6Addr = "2001:db8::53".parse().unwrap();
        let mut options = vec![NAME_SERVERS, 3, 0, 0, 0, 0, 1, 0];
        options.extend(server.octets());
        options.extend([SEARCH_DOMAINS, 3, 0, 0, 0, 0, 1, 0]);
        options.extend(b"\x07example\x03org\0\0\0\0");
        // One that is withdrawn: it lasts for no time.
        options.extend([NAME_SERVERS, 3, 0, 0, 0, 0, 0, 0]);
        options.extend([0xff; 16]);
        let advert = Advert::parse(&advertisement(0, &options)).unwrap();
        assert_eq!(advert, Advert { ask: Ask::Nothing, dns: vec![server], search: vec!["example.org".into()] });
    }

    #[test]
    fn broken_advertisements_are_dropped() {
        assert_eq!(Advert::parse(&[]), None);
        assert_eq!(Advert::parse(&[136, 0, 0, 0, 0, 0]), None);
        assert_eq!(Advert::parse(&advertisement(0, &[])[..12]), None);
        assert_eq!(Advert::parse(&advertisement(0, &[NAME_SERVERS, 0, 1, 2])), None);
        assert_eq!(Advert::parse(&advertisement(0, &[NAME_SERVERS, 255, 1, 2])), None);
        let names = [SEARCH_DOMAINS, 2, 0, 0, 0, 0, 1, 0, 200, b'x', 0, 0, 0, 0, 0, 0];
        assert!(Advert::parse(&advertisement(0, &names)).unwrap().search.is_empty());
        let names = [SEARCH_DOMAINS, 2, 0, 0, 0, 0, 1, 0, 5, b'a', b'\n', b'b', b' ', b'c', 0, 0];
        assert!(Advert::parse(&advertisement(0, &names)).unwrap().search.is_empty());
    }
}
