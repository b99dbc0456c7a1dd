//! `/etc/resolv.conf` and the host name: what all links together say.

use super::Hints;
use super::lease::is_name;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// glibc reads three servers and six domains (resolv.conf(5)).
const MOST_SERVERS: usize = 3;
const MOST_DOMAINS: usize = 6;

/// The text of `resolv.conf`, those servers first that were given, then those of `hints` in their order. `None` when
/// there is nothing to say.
pub(super) fn resolv_conf(given: &[IpAddr], hints: &[&Hints]) -> Option<String> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for server in given.iter().copied().chain(hints.iter().flat_map(|hints| hints.dns.iter().copied())) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    let mut domains: Vec<&str> = Vec::new();
    for domain in hints.iter().flat_map(|hints| hints.search.iter()).filter(|domain| is_name(domain)) {
        if !domains.contains(&domain.as_str()) {
            domains.push(domain);
        }
    }
    if servers.is_empty() {
        return None;
    }
    domains.truncate(MOST_DOMAINS);
    servers.truncate(MOST_SERVERS);
    let mut text = String::new();
    if !domains.is_empty() {
        text.push_str(&format!("search {}\n", domains.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    Some(text)
}

/// Replaces the file as a whole.
pub(super) fn write(path: &Path, text: &str) {
    let replace = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, path)
    };
    if let Err(error) = replace() {
        tracing::warn!(path = %path.display(), %error, "name servers are not written down");
    }
}

/// Sets the host name.
pub(super) fn set_hostname(name: &str) {
    if !is_name(name) {
        tracing::warn!(name, "not a host name: letters, digits, dashes and dots make one");
    } else if let Err(error) = rustix::system::sethostname(name.as_bytes()) {
        tracing::warn!(name, %error, "host name not set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(dns: &[&str], search: &[&str]) -> Hints {
        Hints {
            dns: dns.iter().map(|address| address.parse().unwrap()).collect(),
            search: search.iter().map(|&name| name.to_owned()).collect(),
            ..Hints::default()
        }
    }

    #[test]
    fn servers_of_all_links_come_once_and_in_order() {
        let (a, b) = (hints(&["192.0.2.1"], &["a.example"]), hints(&["192.0.2.1", "192.0.2.2"], &["b.example"]));
        let given = ["2001:db8::53".parse().unwrap()];
        assert_eq!(
            resolv_conf(&given, &[&a, &b]).unwrap(),
            "search a.example b.example\nnameserver 2001:db8::53\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
        );
        assert_eq!(resolv_conf(&[], &[&hints(&[], &["x"])]), None);
    }
}
