//! A DHCPv6 client (RFC 8415) for one link: an address where routers say that servers give them, or what there is to know
//! beside the addresses that routers advertise.

use super::advert::Ask;
use super::dhcp::{self, DhcpError};
use super::lease::{MOST, SHORTEST, is_name};
use super::links::{self, Link};
use super::{Hints, Report, Source};
use dhcproto::v6::{DhcpOption, DhcpOptions, IANA, Message, MessageType, NtpSuboption, ORO, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use rtnetlink::Handle;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// All servers and relays of a link (RFC 8415, 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// First wait for an answer, doubled each time up to the last (`SOL_TIMEOUT`; shorter than the RFC's `SOL_MAX_RT` of an
/// hour, since somebody waits for this machine).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);
/// How often a server that made an offer is asked for it (`REQ_MAX_RC` is 10).
const REQUESTS: u32 = 4;
/// How long information is believed when the server does not say (`IRT_DEFAULT`).
const INFORMATION_LASTS: Duration = Duration::from_secs(86_400);
const LARGEST_MESSAGE: usize = 4096;

/// What a server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    address: Ipv6Addr,
    server: Vec<u8>,
    renew_after: Duration,
    rebind_after: Duration,
    ends_after: Duration,
    hints: Hints,
}

impl Lease {
    /// Reads an advertisement or a reply; `None` when it gives no address.
    fn from_reply(reply: &Message) -> Option<Self> {
        let server = match reply.opts().get(OptionCode::ServerId) {
            Some(DhcpOption::ServerId(server)) => server.clone(),
            _ => return None,
        };
        let Some(DhcpOption::IANA(association)) = reply.opts().get(OptionCode::IANA) else { return None };
        let given = association.opts.iter().find_map(|option| match option {
            // A server takes an address back by giving it for no time.
            DhcpOption::IAAddr(given) if given.valid_life > 0 && is_host(given.addr) => Some(given),
            _ => None,
        })?;
        let ends = given.valid_life.max(SHORTEST);
        // Zero leaves it to the client (RFC 8415, 14.2: half and four fifths of the preferred time).
        let preferred = given.preferred_life.clamp(SHORTEST, ends);
        let rebind = Some(association.t2).filter(|t2| (1..=ends).contains(t2)).unwrap_or(preferred / 5 * 4);
        let renew = Some(association.t1).filter(|t1| (1..=rebind).contains(t1)).unwrap_or(preferred / 2).min(rebind);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Some(Self {
            address: given.addr,
            server,
            renew_after: seconds(renew),
            rebind_after: seconds(rebind),
            ends_after: seconds(ends),
            hints: hints(reply.opts()),
        })
    }
}

fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !address.is_unicast_link_local()
}

fn hints(options: &DhcpOptions) -> Hints {
    let mut hints = Hints::default();
    for option in options.iter() {
        match option {
            DhcpOption::DomainNameServers(servers) => {
                hints
                    .dns
                    .extend(servers.iter().filter(|server| !server.is_multicast()).map(|server| IpAddr::V6(*server)));
            }
            DhcpOption::DomainSearchList(names) => {
                hints.search.extend(names.iter().map(|name| name.to_string().trim_end_matches('.').to_owned()));
            }
            DhcpOption::NtpServer(servers) => hints.ntp.extend(servers.iter().filter_map(|server| match server {
                NtpSuboption::ServerAddress(address) => Some(IpAddr::V6(*address)),
                _ => None,
            })),
            _ => {}
        }
    }
    hints.search.retain(|name| is_name(name));
    hints.dns.truncate(MOST);
    hints.search.truncate(MOST);
    hints.ntp.truncate(MOST);
    hints
}

/// Asks for what there is, and keeps it for as long as the future is polled.
pub(super) async fn run(
    link: &Link,
    handle: &Handle,
    ask: Ask,
    report: &dyn Report,
) -> Result<std::convert::Infallible, DhcpError> {
    let client = Client::open(link)?;
    loop {
        if ask != Ask::Address {
            let reply = client.until(|| client.message(MessageType::InformationRequest), MessageType::Reply).await?;
            report.told(link, Source::Dhcp6, Some(hints(reply.opts())));
            tokio::time::sleep(INFORMATION_LASTS).await;
            continue;
        }
        let mut lease = client.solicit().await?;
        loop {
            links::add_address(handle, link, lease.address.into(), 128).await?;
            tracing::info!(link = link.name, address = %lease.address, seconds = lease.ends_after.as_secs(), "DHCPv6 lease");
            report.told(link, Source::Dhcp6, Some(lease.hints.clone()));
            match client.hold(&lease).await? {
                Some(renewed) if renewed.address == lease.address => lease = renewed,
                Some(renewed) => {
                    links::remove_address(handle, link, lease.address.into()).await?;
                    lease = renewed;
                }
                None => break,
            }
        }
        tracing::warn!(link = link.name, address = %lease.address, "DHCPv6 lease lost");
        report.told(link, Source::Dhcp6, None);
        links::remove_address(handle, link, lease.address.into()).await?;
    }
}

struct Client {
    socket: UdpSocket,
    link: Link,
    started: Instant,
}

impl Client {
    fn open(link: &Link) -> Result<Self, DhcpError> {
        let socket = dhcp::socket(link, (Ipv6Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        Ok(Self { socket, link: link.clone(), started: Instant::now() })
    }

    /// Finds a server and takes its offer, trying for ever.
    async fn solicit(&self) -> Result<Lease, DhcpError> {
        loop {
            let solicit = || {
                let mut message = self.message(MessageType::Solicit);
                message.opts_mut().insert(self.association(None));
                message
            };
            let offer = self.until(solicit, MessageType::Advertise).await?;
            let Some(offered) = Lease::from_reply(&offer) else { continue };
            for attempt in 0..REQUESTS {
                let mut message = self.message(MessageType::Request);
                message.opts_mut().insert(DhcpOption::ServerId(offered.server.clone()));
                message.opts_mut().insert(self.association(Some(offered.address)));
                let wait = FIRST_WAIT * 2_u32.pow(attempt);
                if let Some(reply) = self.ask(&message, wait, MessageType::Reply).await? {
                    match Lease::from_reply(&reply) {
                        Some(lease) => return Ok(lease),
                        None => break,
                    }
                }
            }
        }
    }

    /// Waits until a lease has to be renewed and renews it, from the same server first and then from any. `None` when it
    /// ended or was refused.
    async fn hold(&self, lease: &Lease) -> Result<Option<Lease>, DhcpError> {
        let bound = Instant::now();
        tokio::time::sleep(lease.renew_after).await;
        for (until, kind) in [(lease.rebind_after, MessageType::Renew), (lease.ends_after, MessageType::Rebind)] {
            loop {
                let left = (bound + until).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let mut message = self.message(kind);
                if kind == MessageType::Renew {
                    message.opts_mut().insert(DhcpOption::ServerId(lease.server.clone()));
                }
                message.opts_mut().insert(self.association(Some(lease.address)));
                let wait = (left / 2).max(Duration::from_secs(2)).min(left);
                if let Some(reply) = self.ask(&message, wait, MessageType::Reply).await? {
                    return Ok(Lease::from_reply(&reply));
                }
            }
        }
        Ok(None)
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::new_with_id(kind, rand::random());
        let options = message.opts_mut();
        // The client names itself by its hardware address alone (DUID-LL, RFC 8415, 11.4): that is what an operator who
        // knows the port can write down.
        let mut name = vec![0, 3, 0, 1];
        name.extend(self.link.mac.0);
        options.insert(DhcpOption::ClientId(name));
        let hundredths = self.started.elapsed().as_millis() / 10;
        options.insert(DhcpOption::ElapsedTime(u16::try_from(hundredths).unwrap_or(u16::MAX)));
        let opts = vec![OptionCode::DomainNameServers, OptionCode::DomainSearchList, OptionCode::NtpServer];
        options.insert(DhcpOption::ORO(ORO { opts }));
        message
    }

    fn association(&self, address: Option<Ipv6Addr>) -> DhcpOption {
        let mut opts = DhcpOptions::new();
        if let Some(addr) = address {
            let empty = DhcpOptions::new();
            opts.insert(DhcpOption::IAAddr(dhcproto::v6::IAAddr {
                addr,
                preferred_life: 0,
                valid_life: 0,
                opts: empty,
            }));
        }
        let [_, _, a, b, c, d] = self.link.mac.0;
        DhcpOption::IANA(IANA { id: u32::from_be_bytes([a, b, c, d]), t1: 0, t2: 0, opts })
    }

    /// Asks for ever, with growing waits.
    async fn until(&self, message: impl Fn() -> Message, wanted: MessageType) -> Result<Message, DhcpError> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(answer) = self.ask(&message(), wait, wanted).await? {
                return Ok(answer);
            }
            tracing::debug!(link = self.link.name, "no DHCPv6 server has answered yet");
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// Sends, and waits for the first answer of the kind `wanted`.
    async fn ask(&self, message: &Message, wait: Duration, wanted: MessageType) -> Result<Option<Message>, DhcpError> {
        let failed = |source| DhcpError::Socket { link: self.link.name.clone(), source };
        let mut bytes = Vec::with_capacity(256);
        message.encode(&mut Encoder::new(&mut bytes)).map_err(|error| DhcpError::Encode(error.to_string()))?;
        let servers = SocketAddr::V6(SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.link.index));
        if let Err(error) = self.socket.send_to(&bytes, servers).await {
            // The link's own address is still being checked for duplicates.
            tracing::debug!(link = self.link.name, %error, "no DHCPv6 server is asked yet");
            tokio::time::sleep(FIRST_WAIT).await;
            return Ok(None);
        }
        let own = message.opts().get(OptionCode::ClientId);
        let answer = async {
            let mut buffer = vec![0; LARGEST_MESSAGE];
            loop {
                let (length, _) = self.socket.recv_from(&mut buffer).await.map_err(failed)?;
                let Ok(answer) = Message::decode(&mut Decoder::new(&buffer[..length])) else { continue };
                let ours = answer.xid() == message.xid() && answer.opts().get(OptionCode::ClientId) == own;
                if ours && answer.msg_type() == wanted {
                    return Ok(answer);
                }
            }
        };
        let wait = wait.mul_f32(0.9 + 0.2 * rand::random::<f32>());
        match tokio::time::timeout(wait, answer).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(valid_life: u32, t1: u32, t2: u32, addr: &str) -> Message {
        let mut message = Message::new_with_id(MessageType::Reply, [1, 2, 3]);
        let mut opts = DhcpOptions::new();
        let empty = DhcpOptions::new();
        let addr = addr.parse().unwrap();
        opts.insert(DhcpOption::IAAddr(dhcproto::v6::IAAddr {
            addr,
            preferred_life: valid_life,
            valid_life,
            opts: empty,
        }));
        message.opts_mut().insert(DhcpOption::ServerId(vec![9]));
        message.opts_mut().insert(DhcpOption::IANA(IANA { id: 1, t1, t2, opts }));
        message.opts_mut().insert(DhcpOption::DomainNameServers(vec!["2001:db8::53".parse().unwrap()]));
        message
    }

    #[test]
    fn a_whole_lease_is_read() {
        let lease = Lease::from_reply(&reply(1000, 100, 200, "2001:db8::5")).unwrap();
        assert_eq!(lease.address, "2001:db8::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            [lease.renew_after, lease.rebind_after, lease.ends_after].map(|time| time.as_secs()),
            [100, 200, 1000]
        );
        assert_eq!(lease.hints.dns, ["2001:db8::53".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn times_that_are_left_to_the_client_are_in_order() {
        for (valid, t1, t2) in [(1000, 0, 0), (1000, 5000, 10), (1, 0, 0), (u32::MAX, u32::MAX, u32::MAX)] {
            let lease = Lease::from_reply(&reply(valid, t1, t2, "2001:db8::5")).unwrap();
            assert!(lease.renew_after <= lease.rebind_after && lease.rebind_after <= lease.ends_after, "{lease:?}");
            assert!(!lease.renew_after.is_zero());
        }
    }

    #[test]
    fn an_answer_without_an_address_for_a_host_is_none() {
        assert_eq!(Lease::from_reply(&reply(0, 0, 0, "2001:db8::5")), None);
        for address in ["::", "::1", "ff02::1", "fe80::1"] {
            assert_eq!(Lease::from_reply(&reply(60, 0, 0, address)), None, "{address}");
        }
        assert_eq!(Lease::from_reply(&Message::new_with_id(MessageType::Reply, [0; 3])), None);
    }
}
