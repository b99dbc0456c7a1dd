//! Which link leads to the driver, on a machine with several networks of which more than one says that it leads everywhere.
//!
//! The interface that the machine was booted from goes first where it is known. Where it is not, or where it leads
//! nowhere, the driver's address is tried through each link, and gets a route of its own through the one that answers.

use super::links::{self, Link};
use super::{NetError, NetHandle, StaticRoute};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, lookup_host};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two rounds.
const REST: Duration = Duration::from_secs(5);
/// Before default routes of every kind.
const METRIC: u32 = 50;

/// Tries the hosts of `targets` (`host:port`) until one is reached; ends at once on a machine with one network.
pub(super) async fn find(network: &NetHandle, targets: &[String]) {
    loop {
        for target in targets {
            let Ok(found) = lookup_host(target).await else { continue };
            for address in found {
                match try_all(network, address).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!("{}", transport::client::chain(&error)),
                }
            }
        }
        tokio::time::sleep(REST).await;
    }
}

/// Whether the address is reached, now or after a route was made.
async fn try_all(network: &NetHandle, target: SocketAddr) -> Result<bool, NetError> {
    let state = network.state();
    let usable = state.addresses.iter().filter(|address| address.ip.is_ipv4() == target.is_ipv4());
    let interfaces: BTreeSet<&str> = usable.map(|address| address.interface.as_str()).collect();
    if connects(target, None).await.is_ok() {
        return Ok(true);
    }
    if interfaces.len() < 2 {
        return Ok(false);
    }
    let links = links::list(&network.handle).await?;
    for link in links.iter().filter(|link| interfaces.contains(link.name.as_str())) {
        if connects(target, Some(link)).await.is_err() {
            continue;
        }
        let gateway = links::gateway(&network.handle, link, target.is_ipv4()).await?;
        tracing::info!(link = link.name, driver = %target, "the driver is reached through this link");
        let prefix = if target.is_ipv4() { 32 } else { 128 };
        let route = StaticRoute { device: link.name.clone(), destination: target.ip(), prefix, gateway };
        links::add_route(&network.handle, link, &route, METRIC).await?;
        return Ok(true);
    }
    Ok(false)
}

/// Opens a connection, and closes it. A refusal is an answer, too.
async fn connects(target: SocketAddr, link: Option<&Link>) -> io::Result<()> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind_device(link.map(|link| link.name.as_bytes()))?;
    match tokio::time::timeout(PATIENCE, socket.connect(target)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// `host:port` of a URL; `None` when it has no host.
pub(super) fn target(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = uri.host()?;
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => Some(format!("[{address}]:{port}")),
        _ => Some(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_host_and_a_port() {
        assert_eq!(target("http://192.0.2.1:6385").as_deref(), Some("192.0.2.1:6385"));
        assert_eq!(target("https://api.example.org/baremetal").as_deref(), Some("api.example.org:443"));
        assert_eq!(target("http://[fd00::1]").as_deref(), Some("[fd00::1]:80"));
    }
}
