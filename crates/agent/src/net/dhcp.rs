//! A DHCPv4 client (RFC 2131) for one link.
//!
//! The client names itself by its hardware address alone, without a client identifier: that is how the boot firmware's
//! lease, and whatever an operator or Neutron wrote down for the port, is found again.

use super::lease::Lease;
use super::links::{self, Link};
use super::{NetError, Report, Source, StaticRoute, prefix};
use dhcproto::v4::{CLIENT_PORT, DhcpOption, HType, Message, MessageType, Opcode, OptionCode, SERVER_PORT};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use rtnetlink::Handle;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Why a link has no lease for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum DhcpError {
    /// The socket failed.
    #[error("DHCP socket on {link}")]
    Socket {
        link: String,
        #[source]
        source: io::Error,
    },
    /// The kernel does not take what the lease says.
    #[error(transparent)]
    Apply(#[from] NetError),
    /// A message could not be written, which is an error of this program.
    #[error("encode a DHCP message: {0}")]
    Encode(String),
}

/// First wait for an answer, doubled each time up to the last. Shorter than RFC 2131's 4 s: the link has just come up,
/// and a switch that has not yet begun to forward swallows the first packet.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(16);
/// How often a server that made an offer is asked for it.
const REQUESTS: u32 = 4;
/// Larger than any datagram that comes unfragmented.
const LARGEST_MESSAGE: usize = 4096;

/// Gets a lease and keeps it for as long as the future is polled. `metric` orders the routes of several links, `keep` are
/// addresses of the link that are not ours to remove.
pub(super) async fn run(
    link: &Link,
    handle: &Handle,
    metric: u32,
    keep: &[IpAddr],
    report: &dyn Report,
) -> Result<std::convert::Infallible, DhcpError> {
    let client = Client::open(link)?;
    loop {
        let mut lease = client.discover().await?;
        loop {
            apply(&lease, link, handle, metric, keep).await?;
            tracing::info!(
                link = link.name,
                address = %lease.address,
                server = %lease.server,
                seconds = lease.ends_after.as_secs(),
                "DHCP lease"
            );
            report.told(link, Source::Dhcp, Some(lease.hints()));
            match client.hold(&lease).await? {
                Some(renewed) => lease = renewed,
                None => break,
            }
        }
        tracing::warn!(link = link.name, address = %lease.address, "DHCP lease lost");
        report.told(link, Source::Dhcp, None);
        links::retain_v4(handle, link, keep).await?;
    }
}

/// A socket of one link, for a client's well-known port: each link has a client of its own.
pub(super) fn socket(link: &Link, local: SocketAddr) -> Result<UdpSocket, DhcpError> {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        match local {
            SocketAddr::V4(_) => socket.set_broadcast(true)?,
            SocketAddr::V6(_) => socket.set_only_v6(true)?,
        }
        socket.set_reuse_address(true)?;
        // Before it has a port, or it would be that of another link.
        socket.bind_device(Some(link.name.as_bytes()))?;
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        UdpSocket::from_std(socket.into())
    };
    open().map_err(|source| DhcpError::Socket { link: link.name.clone(), source })
}

struct Client {
    socket: UdpSocket,
    link: Link,
    started: Instant,
}

impl Client {
    fn open(link: &Link) -> Result<Self, DhcpError> {
        let socket = socket(link, (Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        Ok(Self { socket, link: link.clone(), started: Instant::now() })
    }

    /// Finds a server and takes its offer, trying for ever.
    async fn discover(&self) -> Result<Lease, DhcpError> {
        let mut wait = FIRST_WAIT;
        // One number for all of them: the answer of a server that is slower than our waits counts, too.
        let xid = rand::random();
        loop {
            let mut message = self.message(MessageType::Discover);
            message.set_xid(xid);
            message.opts_mut().insert(wanted());
            let offer = self.ask(&message, Ipv4Addr::BROADCAST, wait, MessageType::Offer).await?;
            if let Some(offered) = offer.as_ref().and_then(Lease::from_ack)
                && let Some(lease) = self.request(&offered, message.xid()).await?
            {
                return Ok(lease);
            }
            tracing::debug!(link = self.link.name, "no DHCP server has answered yet");
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// Asks for what was offered; `None` when the server refuses or is silent.
    async fn request(&self, offer: &Lease, xid: u32) -> Result<Option<Lease>, DhcpError> {
        for attempt in 0..REQUESTS {
            let mut message = self.message(MessageType::Request);
            message.set_xid(xid);
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.address));
            message.opts_mut().insert(DhcpOption::ServerIdentifier(offer.server));
            message.opts_mut().insert(wanted());
            let wait = FIRST_WAIT * 2_u32.pow(attempt);
            if let Some(answer) = self.ask(&message, Ipv4Addr::BROADCAST, wait, MessageType::Ack).await? {
                return Ok(self.accepted(&answer));
            }
        }
        Ok(None)
    }

    /// Waits until a lease has to be renewed and renews it, from the same server first and then from any. `None` when it
    /// ended or was refused.
    async fn hold(&self, lease: &Lease) -> Result<Option<Lease>, DhcpError> {
        let bound = Instant::now();
        tokio::time::sleep(lease.renew_after).await;
        for (until, to) in [(lease.rebind_after, lease.server), (lease.ends_after, Ipv4Addr::BROADCAST)] {
            loop {
                let left = (bound + until).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let mut message = self.message(MessageType::Request);
                message.set_ciaddr(lease.address);
                message.opts_mut().insert(wanted());
                // Half of what is left, as RFC 2131 section 4.4.5 says, but not in ever smaller steps.
                let wait = (left / 2).max(Duration::from_secs(2)).min(left);
                match self.ask(&message, to, wait, MessageType::Ack).await {
                    Ok(Some(answer)) => return Ok(self.accepted(&answer)),
                    Ok(None) => {}
                    // The way to the server may be gone for a while; the lease is not.
                    Err(error) => {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::debug!(link = self.link.name, %error, cause, "lease not renewed yet");
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }
        Ok(None)
    }

    fn accepted(&self, answer: &Message) -> Option<Lease> {
        if answer.opts().has_msg_type(MessageType::Nak) {
            tracing::warn!(link = self.link.name, "the DHCP server refuses the address");
            return None;
        }
        Lease::from_ack(answer)
    }

    fn message(&self, kind: MessageType) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(rand::random(), none, none, none, none, &self.link.mac.0);
        message.set_opcode(Opcode::BootRequest).set_htype(HType::Eth);
        // Without an address we cannot be reached by unicast.
        let flags = message.flags().set_broadcast();
        message.set_flags(flags);
        message.set_secs(u16::try_from(self.started.elapsed().as_secs()).unwrap_or(u16::MAX));
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::MaxMessageSize(1500));
        message
    }

    /// Sends, and waits for the first answer of the kind `wanted`, or a refusal.
    async fn ask(
        &self,
        message: &Message,
        to: Ipv4Addr,
        wait: Duration,
        wanted: MessageType,
    ) -> Result<Option<Message>, DhcpError> {
        let failed = |source| DhcpError::Socket { link: self.link.name.clone(), source };
        let mut bytes = Vec::with_capacity(576);
        message.encode(&mut Encoder::new(&mut bytes)).map_err(|error| DhcpError::Encode(error.to_string()))?;
        // Relays of old drop what is shorter (RFC 1542 section 2.1).
        bytes.resize(bytes.len().max(dhcproto::v4::MIN_PACKET_SIZE), 0);
        self.socket.send_to(&bytes, (to, SERVER_PORT)).await.map_err(failed)?;
        // Many machines that were switched on together should not ask together.
        let wait = wait.mul_f32(0.85 + 0.3 * rand::random::<f32>());
        let answer = async {
            let mut buffer = vec![0; LARGEST_MESSAGE];
            loop {
                let (length, _) = self.socket.recv_from(&mut buffer).await.map_err(failed)?;
                let Ok(answer) = Message::decode(&mut Decoder::new(&buffer[..length])) else { continue };
                let ours = answer.opcode() == Opcode::BootReply
                    && answer.xid() == message.xid()
                    && answer.chaddr() == message.chaddr();
                let kind = answer.opts().msg_type();
                let refusal = wanted == MessageType::Ack && kind == Some(MessageType::Nak);
                if ours && (kind == Some(wanted) || refusal) {
                    return Ok(answer);
                }
            }
        };
        match tokio::time::timeout(wait, answer).await {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        }
    }
}

fn wanted() -> DhcpOption {
    DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        // Before the router, as RFC 3442 asks.
        OptionCode::ClasslessStaticRoute,
        OptionCode::Router,
        OptionCode::DomainNameServer,
        OptionCode::DomainName,
        OptionCode::DomainSearch,
        OptionCode::Hostname,
        OptionCode::NtpServers,
        OptionCode::InterfaceMtu,
        OptionCode::AddressLeaseTime,
        OptionCode::Renewal,
        OptionCode::Rebinding,
    ])
}

/// Puts a lease into the kernel.
async fn apply(lease: &Lease, link: &Link, handle: &Handle, metric: u32, keep: &[IpAddr]) -> Result<(), NetError> {
    if let Some(mtu) = lease.mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) {
        // A card that cannot do it is still of use.
        if let Err(error) = links::set_mtu(handle, link, mtu).await {
            tracing::warn!(link = link.name, mtu, %error, "MTU of the lease not taken");
        }
    }
    let kept: Vec<IpAddr> = keep.iter().copied().chain([lease.address.into()]).collect();
    links::add_address(handle, link, lease.address.into(), lease.prefix).await?;
    links::retain_v4(handle, link, &kept).await?;
    for &(destination, length, router) in &lease.routes {
        let route = StaticRoute {
            device: link.name.clone(),
            destination: prefix(destination, length).into(),
            prefix: length,
            gateway: (!router.is_unspecified()).then_some(router.into()),
        };
        links::add_route(handle, link, &route, metric).await?;
    }
    Ok(())
}
