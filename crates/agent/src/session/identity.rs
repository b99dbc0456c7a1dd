//! Where the agent can be reached and how it proves who it is.

use super::ironic::Ironic;
use crate::config::Settings;
use crate::config::settings::KeyPair;
use crate::state::Agent;
use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::net::{UdpSocket, lookup_host};
use transport::tls::{Identity, Making, TlsError};

/// No address was found.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// There is no route to any URL of the API.
    #[error("no route from a usable address of this machine to {urls} after {attempts} tries")]
    NoRoute {
        /// The URLs.
        urls: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The interface that was named has no address.
    #[error("interface {name} of ipa-network-interface has no address")]
    NoAddress {
        /// The interface.
        name: String,
    },
}

/// The host in the callback URL: the one that was given, or the address that this machine uses towards the API.
pub async fn advertised_host(agent: &Agent, ironic: &Ironic, settings: &Settings) -> Result<String, AddressError> {
    if let Some(host) = &settings.advertise_host {
        return Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    }
    if let Some(name) = &settings.network_interface {
        let inventory = agent.shared.on_machine(|machine| machine.inventory()).await.ok();
        let interfaces = inventory.map(|inventory| inventory.interfaces).unwrap_or_default();
        let interface = interfaces.into_iter().find(|interface| interface.name == *name);
        let address = interface.and_then(|interface| interface.ipv4_address.or(interface.ipv6_address));
        return address.ok_or_else(|| AddressError::NoAddress { name: name.clone() });
    }
    let mut attempts = 0;
    loop {
        attempts += 1;
        for url in ironic.urls() {
            if let Some(address) = source_towards(&url).await {
                return Ok(address.to_string());
            }
        }
        if attempts >= settings.ip_lookup_attempts {
            return Err(AddressError::NoRoute { urls: ironic.urls().join(", "), attempts });
        }
        tracing::warn!("no route to the API yet");
        tokio::time::sleep(settings.ip_lookup_timeout).await;
    }
}

/// The source address that the kernel chooses towards a URL's host. Connecting a UDP socket sends nothing.
async fn source_towards(url: &str) -> Option<IpAddr> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let targets: Vec<SocketAddr> = match lookup_host((host, uri.port_u16().unwrap_or(443))).await {
        Ok(targets) => targets.collect(),
        Err(error) => {
            tracing::debug!(host, %error, "resolve");
            return None;
        }
    };
    for target in targets {
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let Ok(socket) = UdpSocket::bind((any, 0)).await else { continue };
        if socket.connect(target).await.is_err() {
            continue;
        }
        if let Ok(local) = socket.local_addr()
            && is_usable(local.ip())
        {
            return Some(local.ip());
        }
    }
    None
}

/// Link-local addresses mean nothing to a driver that is not on the same link.
fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

/// An identity in PEM files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// TLS was asked for, and there is nothing to serve it with.
    #[error(
        "{asked} asks for TLS, but the API has no certificate, and it is not served without: name tls_cert_file and \
         tls_key_file together with listen_tls, or have one generated (enable_auto_tls, with a driver that can take it)"
    )]
    Missing {
        /// The option.
        asked: &'static str,
    },
    /// What is in it, or the making of a new one.
    #[error("set up TLS")]
    Tls(#[from] TlsError),
}

/// Reads a PEM file.
pub fn read_pem(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

/// The identity in two PEM files.
pub fn read(files: &KeyPair) -> Result<Identity, IdentityError> {
    Ok(Identity::from_pem(read_pem(&files.certificate)?, read_pem(&files.key)?))
}

/// A new identity for that address; its common name is the host name.
pub fn generate(address: IpAddr, making: Making) -> Result<Identity, TlsError> {
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_str().ok().filter(|name| !name.is_empty() && *name != "(none)");
    Identity::make(hostname.unwrap_or("ferric-agent"), address, SystemTime::now(), making)
}

/// `<protocol>://<host>:<port>`, an IPv6 address in brackets.
pub fn callback_url(protocol: &str, host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("{protocol}://[{address}]:{port}"),
        Err(_) => format!("{protocol}://{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_own_address_is_the_one_used_towards_the_api() {
        assert_eq!(source_towards("http://127.0.0.1:6385").await, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(source_towards("nonsense").await, None);
    }

    #[test]
    fn ipv6_hosts_are_bracketed() {
        assert_eq!(callback_url("https", "fd00::1", 9999), "https://[fd00::1]:9999");
        assert_eq!(callback_url("http", "10.0.0.1", 1), "http://10.0.0.1:1");
    }
}
