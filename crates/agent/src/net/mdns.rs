//! Asking the local network for the driver's API: multicast DNS (RFC 6762) with service discovery (RFC 6763), as
//! OpenStack's services answer it. Answers are not authenticated, so nobody is asked unless an operator said so.

use super::{Address, NetHandle};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// The service that has the API.
pub const API: &str = "baremetal";
/// The service that takes inspections.
pub const INSPECTION: &str = "baremetal-introspection";

const DOMAIN: [&str; 3] = ["_openstack", "_tcp", "local"];
const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// First wait for an answer, doubled each time up to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);
/// Larger than any datagram that mDNS sends (RFC 6762, 17).
const LARGEST: usize = 9000;
/// Records of a message, and labels and jumps of a name, that are read at most.
const MOST_RECORDS: usize = 64;
const MOST_LABELS: usize = 128;
/// Types of records (RFC 1035, 3596, 2782) and the class of the Internet with the bit that asks for a direct answer.
const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;
const DIRECT_INTERNET: u16 = 0x8001;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Base URL, without a slash at its end.
    pub url: String,
    /// Options in the answer's text, as sent.
    pub options: BTreeMap<String, String>,
}

/// Asks for a service until somebody answers, in growing intervals; logs while nobody does.
pub async fn find(service: &str, network: &NetHandle) -> Answer {
    let mut wait = FIRST_WAIT;
    loop {
        match ask(service, &network.state().addresses, wait).await {
            Some(answer) => {
                tracing::info!(service, url = answer.url, "found by mDNS");
                return answer;
            }
            None => tracing::warn!(service, "nobody on the local network answers by mDNS yet"),
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// Asks once from all addresses and takes the first whole answer.
async fn ask(service: &str, addresses: &[Address], wait: Duration) -> Option<Answer> {
    let deadline = Instant::now() + wait;
    let question = question(service);
    let mut sockets = Vec::new();
    for address in addresses {
        let asked = async {
            let (socket, group) = open(address)?;
            socket.send_to(&question, group).await?;
            Ok::<_, io::Error>(socket)
        };
        match asked.await {
            Ok(socket) => sockets.push(socket),
            Err(error) => tracing::debug!(interface = address.interface, %error, "mDNS cannot ask here"),
        }
    }
    let hear = async |socket: &UdpSocket| {
        let mut buffer = vec![0; LARGEST];
        loop {
            // The error of a packet that did not arrive is no reason not to wait for the next.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            // Who answers from another port is no responder (RFC 6762, 6).
            if from.port() == PORT
                && let Some(answer) = read(&buffer[..length], service)
            {
                return answer;
            }
        }
    };
    if sockets.is_empty() {
        tokio::time::sleep_until(deadline).await;
        return None;
    }
    let all = futures::future::select_all(sockets.iter().map(|socket| Box::pin(hear(socket))));
    tokio::time::timeout_at(deadline, all).await.ok().map(|(answer, _, _)| answer)
}

/// A socket that asks from this address, on its interface.
fn open(address: &Address) -> io::Result<(UdpSocket, SocketAddr)> {
    use socket2::{Domain, Protocol, Socket, Type};
    let (domain, group): (_, IpAddr) = match address.ip {
        IpAddr::V4(_) => (Domain::IPV4, GROUP_V4.into()),
        IpAddr::V6(_) => (Domain::IPV6, GROUP_V6.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(address.interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((address.ip, 0)).into())?;
    socket.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(socket.into())?, (group, PORT).into()))
}

/// Asks for all records of `<service>._openstack._tcp.local`: with OpenStack the instance has the name of its service.
fn question(service: &str) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in std::iter::once(service).chain(DOMAIN) {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(ANY.to_be_bytes());
    message.extend(DIRECT_INTERNET.to_be_bytes());
    message
}

/// The URL of an answer for `service` that has everything: where it is, its texts, and its address where its host name is
/// known in the local domain only.
fn read(message: &[u8], service: &str) -> Option<Answer> {
    let wanted = format!("{service}.{}", DOMAIN.join("."));
    let word = |at: usize| message.get(at..at + 2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
    // A response without an error.
    if message.get(2)? & 0x80 == 0 || message.get(3)? & 0x0f != 0 {
        return None;
    }
    let mut at = 12;
    for _ in 0..word(4)?.min(MOST_RECORDS) {
        at = name(message, at)?.1 + 4;
    }
    let (mut target, mut texts, mut addresses) = (None, Vec::new(), Vec::new());
    for _ in 0..(word(6)? + word(8)? + word(10)?).min(MOST_RECORDS) {
        let (owner, after) = name(message, at)?;
        let (kind, length) = (word(after)?, word(after + 8)?);
        let start = after + 10;
        let data = message.get(start..start + length)?;
        match u16::try_from(kind).ok()? {
            SRV if owner.eq_ignore_ascii_case(&wanted) && length > 6 => {
                target = Some((name(message, start + 6)?.0, word(start + 4)?));
            }
            TXT if owner.eq_ignore_ascii_case(&wanted) => texts = strings(data),
            A => addresses.push((owner, IpAddr::from(<[u8; 4]>::try_from(data).ok()?))),
            AAAA => addresses.push((owner, IpAddr::from(<[u8; 16]>::try_from(data).ok()?))),
            _ => {}
        }
        at = start + length;
    }
    let (host, port) = target?;
    let host = if host.to_ascii_lowercase().ends_with(".local") {
        let usable = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        let own = addresses.iter().filter(|(owner, _)| owner.eq_ignore_ascii_case(&host)).map(|(_, address)| *address);
        match own.filter(usable).min_by_key(|address| match address {
            // A link-local address says nothing without its link.
            IpAddr::V6(address) => {
                if address.is_unicast_link_local() {
                    2
                } else {
                    1
                }
            }
            IpAddr::V4(_) => 0,
        })? {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    } else {
        Some(host).filter(|host| super::lease::is_name(host))?
    };
    let mut options: BTreeMap<String, String> = texts.into_iter().collect();
    let path = options.remove("path").unwrap_or_default();
    let protocol = options.remove("protocol").unwrap_or_else(|| if port == 80 { "http" } else { "https" }.to_owned());
    let url = format!("{protocol}://{host}:{port}{path}").trim_end_matches('/').to_owned();
    let sound = matches!(protocol.as_str(), "http" | "https")
        && (path.is_empty() || path.starts_with('/'))
        && url.parse::<http::Uri>().is_ok();
    sound.then_some(Answer { url, options })
}

/// A name, and where it ends (RFC 1035, 4.1.4: compressed names point backwards).
fn name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut labels) = (start, None, Vec::new());
    for _ in 0..MOST_LABELS {
        match *message.get(at)? {
            0 => return Some((labels.join("."), end.unwrap_or(at + 1))),
            length @ 1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
            high @ 192.. => {
                end = end.or(Some(at + 2));
                at = usize::from(high & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}

/// `key=value` texts (RFC 6763, 6.3); the first of several with one key counts.
fn strings(mut data: &[u8]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    while let Some((&length, rest)) = data.split_first() {
        let Some((text, rest)) = rest.split_at_checked(usize::from(length)) else { break };
        data = rest;
        if let Some((key, value)) = std::str::from_utf8(text).ok().and_then(|text| text.split_once('='))
            && !found.iter().any(|(known, _)| known == key)
        {
            found.push((key.to_ascii_lowercase(), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
        bytes.push(0);
        bytes
    }

    fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u16).to_be_bytes();
        [owner, &kind.to_be_bytes(), &[0x80, 1, 0, 0, 0, 120], &length, data].concat()
    }

    fn response(host: &str, port: u16, texts: &[&str], addresses: &[&str]) -> Vec<u8> {
        let owner = labels("baremetal._openstack._tcp.local");
        let mut records = vec![record(&owner, SRV, &[&[0, 0, 0, 0], &port.to_be_bytes()[..], &labels(host)].concat())];
        let text: Vec<u8> = texts.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
        // A pointer to the name of the first record.
        records.push(record(&[0xc0, 12], TXT, &text));
        for address in addresses {
            records.push(match address.parse().unwrap() {
                IpAddr::V4(address) => record(&labels(host), A, &address.octets()),
                IpAddr::V6(address) => record(&labels(host), AAAA, &address.octets()),
            });
        }
        let head = [0, 0, 0x84, 0, 0, 0, 0, records.len() as u8, 0, 0, 0, 0];
        [&head[..], &records.concat()].concat()
    }

    /// What the library of OpenStack's services sends; recorded by `ci/record/mdns.py`.
    fn recorded(name: &str) -> Vec<u8> {
        let all: serde_json::Value = serde_json::from_str(include_str!("../../testdata/mdns.json")).unwrap();
        hex::decode(all[name][0].as_str().unwrap()).unwrap()
    }

    #[test]
    fn recorded_answers_become_urls_and_options() {
        let answer = read(&recorded("local"), API).unwrap();
        assert_eq!(answer.url, "http://192.0.2.1:6385/baremetal");
        assert_eq!(answer.options["ipa_ntp_server"], "192.0.2.9");
        assert_eq!(read(&recorded("named"), API).unwrap().url, "https://api.example.org:6385");
        assert_eq!(read(&recorded("inspection"), INSPECTION).unwrap().url, "http://[2001:db8::1]:80");
    }

    #[test]
    fn an_answer_becomes_a_url_and_options() {
        let texts = ["path=/baremetal/", "protocol=http", "ipa_ntp_server=192.0.2.9", "ipa_debug=true"];
        let answer = read(&response("api.local", 6385, &texts, &["2001:db8::1", "192.0.2.1"]), API).unwrap();
        assert_eq!(answer.url, "http://192.0.2.1:6385/baremetal");
        assert_eq!(answer.options["ipa_ntp_server"], "192.0.2.9");
        assert_eq!(answer.options.len(), 2);
        assert_eq!(
            read(&response("api.local", 80, &[], &["2001:db8::1"]), API).unwrap().url,
            "http://[2001:db8::1]:80"
        );
        assert_eq!(
            read(&response("api.example.org", 6385, &[], &[]), API).unwrap().url,
            "https://api.example.org:6385"
        );
    }

    #[test]
    fn answers_that_lead_nowhere_are_none() {
        assert_eq!(read(&response("api.local", 6385, &[], &[]), API), None);
        assert_eq!(read(&response("api.local", 6385, &[], &["127.0.0.1"]), API), None);
        assert_eq!(read(&response("api.local", 6385, &["protocol=file"], &["192.0.2.1"]), API), None);
        assert_eq!(read(&response("api.local", 6385, &["path=@evil"], &["192.0.2.1"]), API), None);
        assert_eq!(read(&response("a b.example", 6385, &[], &[]), API), None);
        assert_eq!(read(&response("api.local", 6385, &[], &["192.0.2.1"]), INSPECTION), None);
        assert_eq!(read(&question(API), API), None);
    }

    #[test]
    fn broken_messages_end_in_nothing() {
        let whole = response("api.local", 6385, &["path=/x"], &["192.0.2.1"]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length], API), None, "{length}");
        }
        // A name that points at itself.
        let looped = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&looped, API), None);
    }
}
