//! The network for real: every test is a process in network, mount and host name namespaces of its own, with virtual cables
//! to another namespace in which dnsmasq is DHCP server and router. Needs root; `cargo xtask ci --all` runs it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use agent::net::{self, Autoconf, NetHandle, NetParams, NetState};
use serde_json::json;
use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long an address may take: DHCP on a loaded machine, and the check for duplicates of IPv6.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `body` in namespaces of its own, by starting this program again for the test `name` alone.
fn alone<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os("FERRIC_ALONE").is_none() {
        let mut child = Command::new("unshare");
        child.args(["--net", "--mount", "--uts", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", name, "--nocapture"]).env("FERRIC_ALONE", "1");
        assert!(child.status().unwrap().success(), "{name} failed in its namespaces");
        return;
    }
    // What the agent writes to /etc stays here.
    let kept = ["passwd", "group"].map(|file| (file, std::fs::read(Path::new("/etc").join(file)).unwrap()));
    for place in ["/run", "/etc"] {
        run(&["mount", "-t", "tmpfs", "tmpfs", place]);
    }
    for (file, text) in kept {
        std::fs::write(Path::new("/etc").join(file), text).unwrap();
    }
    run(&["mount", "-t", "sysfs", "sysfs", "/sys"]);
    run(&["ip", "netns", "add", "peer"]);
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body());
}

fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn peer(words: &[&str]) {
    run(&[&["ip", "netns", "exec", "peer"], words].concat());
}

/// A cable between both sides; its ends have one name.
fn cable(name: &str) {
    run(&["ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", "peer"]);
}

/// Takes the far end up, with addresses.
fn plug(name: &str, addresses: &[&str]) {
    for address in addresses {
        peer(&["ip", "address", "add", address, "dev", name, "nodad"]);
    }
    peer(&["ip", "link", "set", name, "up"]);
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// dnsmasq at the far end of `link`.
fn serve(link: &str, words: &[&str]) -> Server {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "peer", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]);
    command.args(["--user=root", "--group=root", "--no-ping", "--leasefile-ro", "--pid-file", "--bind-interfaces"]);
    command.arg(format!("--interface={link}")).args(words).stdin(Stdio::null());
    Server(command.spawn().unwrap())
}

/// As [`serve`], with what it says of leases in a file: the server ends before it is read to its end.
fn serve_and_tell(link: &str, words: &[&str]) -> (Server, Told) {
    let told = Told(Path::new("/run").join(format!("dnsmasq-{}.log", std::process::id())));
    let log = format!("--log-facility={}", told.0.display());
    (serve(link, &[&["--log-dhcp", &log], words].concat()), told)
}

/// What a DHCP server says.
struct Told(std::path::PathBuf);

impl Told {
    fn times(&self, what: &str) -> usize {
        std::fs::read_to_string(&self.0).unwrap_or_default().matches(what).count()
    }

    /// Waits until the server has said `what` so many times.
    async fn until(&self, what: &str, times: usize) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.times(what) < times {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what} not {times} times within {LIMIT:?}: {}",
                std::fs::read_to_string(&self.0).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// T1 and T2 of a lease in seconds (RFC 2132, 9.11 and 9.12). dnsmasq takes no less than 3 s, and no lease of less than
/// two minutes.
const RENEW: &str = "--dhcp-option-force=58,3";
const REBIND: &str = "--dhcp-option-force=59,6";

/// All states that the network is in from now on, until this is dropped.
fn watched(network: &NetHandle) -> tokio::sync::mpsc::UnboundedReceiver<NetState> {
    let mut network = network.clone();
    let (tell, states) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(state) = network.changed().await {
            if tell.send(state).is_err() {
                break;
            }
        }
    });
    states
}

async fn start(params: NetParams) -> NetHandle {
    let network = net::start().await.unwrap();
    network.configure(params);
    network
}

/// Waits until the network is as `wanted`.
async fn until(network: &NetHandle, wanted: impl Fn(&NetState) -> bool) -> NetState {
    let mut network = network.clone();
    let waiting = async {
        let mut state = network.state();
        while !wanted(&state) {
            state = network.changed().await.unwrap();
        }
        state
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(state) => state,
        Err(_) => panic!("not within {LIMIT:?}: {}", run(&["ip", "address"])),
    }
}

fn has(address: &str) -> impl Fn(&NetState) -> bool {
    let (interface, address) = address.split_once(' ').unwrap();
    let (interface, address) = (interface.to_owned(), address.parse::<std::net::IpAddr>().unwrap());
    move |state| state.addresses.iter().any(|one| one.interface == interface && one.ip == address)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn of_two_links_the_one_that_answers_gets_a_lease_with_its_route_and_names() {
    alone("of_two_links_the_one_that_answers_gets_a_lease_with_its_route_and_names", || async {
        cable("eth0");
        plug("eth0", &[]);
        cable("eth1");
        plug("eth1", &["192.0.2.1/24"]);
        let _server = serve(
            "eth1",
            &["--dhcp-range=192.0.2.50,192.0.2.50", "--domain=example.org", "--dhcp-option=6,192.0.2.53"],
        );
        let network = start(NetParams::default()).await;
        let addresses = network.wait_for_address(LIMIT).await.unwrap();
        assert_eq!((addresses[0].interface.as_str(), addresses[0].ip.to_string().as_str()), ("eth1", "192.0.2.50"));
        assert!(run(&["ip", "route"]).contains("default via 192.0.2.1 dev eth1"));
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), "search example.org\nnameserver 192.0.2.53\n");
        network.down().await.unwrap();
        assert!(!run(&["ip", "-o", "link"]).lines().any(|line| line.contains("eth") && line.contains(",UP")));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_link_that_gets_its_carrier_late_is_configured_then() {
    alone("a_link_that_gets_its_carrier_late_is_configured_then", || async {
        cable("eth0");
        let network = start(NetParams::default()).await;
        let state = until(&network, |state| !state.links.is_empty()).await;
        assert_eq!(state.links, [("eth0".to_owned(), false)]);
        assert!(
            network.wait_for_address(Duration::from_millis(10)).await.unwrap_err().to_string().contains("no carrier")
        );
        plug("eth0", &["192.0.2.1/24"]);
        let _server = serve("eth0", &["--dhcp-range=192.0.2.50,192.0.2.50"]);
        until(&network, has("eth0 192.0.2.50")).await;
        // A card that appears later still.
        cable("eth1");
        plug("eth1", &["198.51.100.1/24"]);
        let _other = serve("eth1", &["--dhcp-range=198.51.100.50,198.51.100.50"]);
        until(&network, has("eth1 198.51.100.50")).await;
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_server_that_is_slower_than_our_waits_is_believed() {
    alone("a_server_that_is_slower_than_our_waits_is_believed", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let _server = serve("eth0", &["--dhcp-range=192.0.2.50,192.0.2.50", "--dhcp-reply-delay=3"]);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 192.0.2.50")).await;
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn of_two_servers_on_one_link_one_is_taken() {
    alone("of_two_servers_on_one_link_one_is_taken", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24", "192.0.2.2/24"]);
        let _one = serve("eth0", &["--dhcp-range=192.0.2.50,192.0.2.50", "--listen-address=192.0.2.1"]);
        let _other = serve("eth0", &["--dhcp-range=192.0.2.60,192.0.2.60", "--listen-address=192.0.2.2"]);
        let network = start(NetParams::default()).await;
        network.wait_for_address(LIMIT).await.unwrap();
        let state = network.state();
        let v4 = state.addresses.iter().filter(|address| address.ip.is_ipv4());
        assert_eq!(v4.count(), 1, "{state:?}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_interface_booted_from_is_waited_for_and_goes_first() {
    alone("the_interface_booted_from_is_waited_for_and_goes_first", || async {
        for (name, net) in [("eth0", "198.51.100"), ("eth1", "192.0.2")] {
            cable(name);
            plug(name, &[&format!("{net}.1/24")]);
        }
        let _first = serve("eth0", &["--dhcp-range=198.51.100.50,198.51.100.50"]);
        let _boot = serve("eth1", &["--dhcp-range=192.0.2.50,192.0.2.50", "--dhcp-reply-delay=2"]);
        let mac = std::fs::read_to_string("/sys/class/net/eth1/address").unwrap();
        let (params, _) = NetParams::from_cmdline(&format!("BOOTIF=01-{}", mac.trim().replace(':', "-")));
        let network = start(params).await;
        let addresses = network.wait_for_address(LIMIT).await.unwrap();
        assert_eq!(addresses[0].interface, "eth1");
        let route = run(&["ip", "route", "get", "203.0.113.1"]);
        assert!(route.contains("dev eth1"), "{route}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn network_data_gives_addresses_routes_and_name_servers_without_dhcp() {
    alone("network_data_gives_addresses_routes_and_name_servers_without_dhcp", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24", "2001:db8::1/64"]);
        // Somebody advertises all the same, and gives leases: neither was asked for.
        let _server =
            serve("eth0", &["--dhcp-range=192.0.2.50,192.0.2.50", "--enable-ra", "--dhcp-range=2001:db8:1::,ra-only"]);
        let mac = std::fs::read_to_string("/sys/class/net/eth0/address").unwrap();
        let data = json!({
            "links": [{"id": "port", "type": "phy", "ethernet_mac_address": mac.trim(), "mtu": 1400}],
            "networks": [
                {"id": "v4", "type": "ipv4", "link": "port", "ip_address": "192.0.2.10", "netmask": "255.255.255.0",
                 "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
                            {"network": "203.0.113.0", "netmask": "255.255.255.0", "gateway": "192.0.2.2"}]},
                {"id": "v6", "type": "ipv6", "link": "port", "ip_address": "2001:db8::10/64", "gateway": "2001:db8::1"},
            ],
            "services": [{"type": "dns", "address": "192.0.2.53"}],
        });
        let (params, problems) = NetParams::from_network_data(data.to_string().as_bytes()).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let network = start(params).await;
        let state = until(&network, |state| has("eth0 192.0.2.10")(state) && has("eth0 2001:db8::10")(state)).await;
        assert_eq!(state.addresses.len(), 2, "{state:?}");
        assert!(run(&["ip", "link", "show", "eth0"]).contains("mtu 1400"));
        let routes = run(&["ip", "route"]);
        assert!(
            routes.contains("default via 192.0.2.1") && routes.contains("203.0.113.0/24 via 192.0.2.2"),
            "{routes}"
        );
        let routes = run(&["ip", "-6", "route"]);
        assert!(routes.contains("default via 2001:db8::1"), "{routes}");
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), "nameserver 192.0.2.53\n");
        let reached = Command::new("ip").args(["route", "get", "2001:db8:ffff::1"]).output().unwrap();
        assert!(String::from_utf8_lossy(&reached.stdout).contains("from :: via 2001:db8::1"), "{reached:?}");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap().trim(), "0");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_was_advertised_before_the_network_was_known_is_forgotten() {
    alone("what_was_advertised_before_the_network_was_known_is_forgotten", || async {
        cable("eth0");
        plug("eth0", &["2001:db8:1::1/64"]);
        let _server = serve("eth0", &["--enable-ra", "--dhcp-range=2001:db8:1::,ra-only"]);
        let network = net::start().await.unwrap();
        // The kernel hears a router while virtual media are still looked for.
        until(&network, |state| state.addresses.iter().any(|address| address.ip.is_ipv6())).await;
        let (params, _) = NetParams::from_cmdline("ip=192.0.2.10/24:::::eth0:none");
        network.configure(params);
        let state = until(&network, |state| state.addresses.len() == 1 && has("eth0 192.0.2.10")(state)).await;
        assert_eq!(state.addresses.len(), 1);
        let routes = run(&["ip", "-6", "route"]);
        assert!(!routes.contains("proto ra"), "{routes}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_ipv6_network_with_dhcpv6_gives_address_route_and_name_server() {
    alone("an_ipv6_network_with_dhcpv6_gives_address_route_and_name_server", || async {
        cable("eth0");
        plug("eth0", &["2001:db8::1/64"]);
        let words = [
            "--enable-ra",
            "--dhcp-range=2001:db8::50,2001:db8::50,64",
            "--dhcp-option=option6:dns-server,[2001:db8::53]",
        ];
        let _server = serve("eth0", &words);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 2001:db8::50")).await;
        assert!(run(&["ip", "-6", "route"]).contains("default via fe80:"));
        until(&network, |_| {
            std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text == "nameserver 2001:db8::53\n")
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn router_advertisements_alone_give_address_and_name_server() {
    alone("router_advertisements_alone_give_address_and_name_server", || async {
        cable("eth0");
        plug("eth0", &["2001:db8::1/64"]);
        let words =
            ["--enable-ra", "--dhcp-range=2001:db8::,ra-only", "--dhcp-option=option6:dns-server,[2001:db8::53]"];
        let _server = serve("eth0", &words);
        let network = start(NetParams { default: Autoconf::ADVERTISEMENTS, ..NetParams::default() }).await;
        let named = |_: &NetState| {
            std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text.contains("nameserver 2001:db8::53\n"))
        };
        until(&network, |state| !state.addresses.is_empty() && named(state)).await;
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_api_is_found_by_mdns_on_a_network_without_a_router() {
    alone("the_api_is_found_by_mdns_on_a_network_without_a_router", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let (params, _) = NetParams::from_cmdline("ip=192.0.2.7/24:::::eth0:none");
        let network = start(params).await;
        until(&network, has("eth0 192.0.2.7")).await;
        let (ready, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let peer = std::fs::File::open("/run/netns/peer").unwrap();
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&peer), Some(kind)).unwrap();
            let responder = std::net::UdpSocket::bind("0.0.0.0:5353").unwrap();
            responder.join_multicast_v4(&"224.0.0.251".parse().unwrap(), &"192.0.2.1".parse().unwrap()).unwrap();
            ready.send(()).unwrap();
            let recorded: serde_json::Value = serde_json::from_str(include_str!("../testdata/mdns.json")).unwrap();
            let answer = hex::decode(recorded["local"][0].as_str().unwrap()).unwrap();
            let (_, from) = responder.recv_from(&mut [0; 512]).unwrap();
            responder.send_to(&answer, from).unwrap();
        });
        waits.recv().unwrap();
        let found = tokio::time::timeout(LIMIT, net::mdns::find(net::mdns::API, &network)).await.unwrap();
        assert_eq!(found.url, "http://192.0.2.1:6385/baremetal");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn of_two_default_routes_the_one_that_leads_to_the_driver_is_taken() {
    alone("of_two_default_routes_the_one_that_leads_to_the_driver_is_taken", || async {
        for (name, net) in [("eth0", "198.51.100"), ("eth1", "192.0.2")] {
            cable(name);
            plug(name, &[&format!("{net}.1/24")]);
        }
        // The driver is behind the router of eth1; that of eth0 takes everything and lets nothing through.
        peer(&["ip", "link", "set", "lo", "up"]);
        peer(&["ip", "address", "add", "203.0.113.1/32", "dev", "lo"]);
        let hole = ["ip", "rule", "add", "pref", "50", "iif", "eth0", "to", "203.0.113.1", "blackhole"];
        peer(&hole);
        // Before the rule for what is the namespace's own, which has to come later for that.
        peer(&["ip", "rule", "add", "pref", "100", "lookup", "local"]);
        peer(&["ip", "rule", "del", "pref", "0"]);
        let _first = serve("eth0", &["--dhcp-range=198.51.100.50,198.51.100.50"]);
        let _second = serve("eth1", &["--dhcp-range=192.0.2.50,192.0.2.50"]);
        let network = start(NetParams::default()).await;
        until(&network, |state| has("eth0 198.51.100.50")(state) && has("eth1 192.0.2.50")(state)).await;
        let before = run(&["ip", "route", "get", "203.0.113.1"]);
        assert!(before.contains("dev eth0"), "{before}");
        tokio::time::timeout(LIMIT, network.find_way(&["http://203.0.113.1:6385".to_owned()])).await.unwrap();
        let after = run(&["ip", "route", "get", "203.0.113.1"]);
        assert!(after.contains("via 192.0.2.1 dev eth1"), "{after}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_lease_is_renewed_from_its_server_without_the_address_ever_leaving() {
    alone("a_lease_is_renewed_from_its_server_without_the_address_ever_leaving", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let (_server, told) = serve_and_tell("eth0", &["--dhcp-range=192.0.2.50,192.0.2.50,2m", RENEW, REBIND]);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 192.0.2.50")).await;
        let mut states = watched(&network);
        told.until("DHCPACK", 3).await;
        assert_eq!(told.times("DHCPDISCOVER"), 1);
        while let Ok(state) = states.try_recv() {
            assert!(has("eth0 192.0.2.50")(&state), "{state:?}");
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_address_that_the_server_takes_back_is_replaced_with_its_route_and_names() {
    alone("an_address_that_the_server_takes_back_is_replaced_with_its_route_and_names", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let words = ["--dhcp-range=192.0.2.50,192.0.2.50,2m", "--dhcp-option=6,192.0.2.53", RENEW, REBIND];
        let server = serve("eth0", &words);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 192.0.2.50")).await;
        drop(server);
        // The network gets other numbers while the machine is on.
        peer(&["ip", "address", "add", "198.51.100.1/24", "dev", "eth0"]);
        peer(&["ip", "address", "del", "192.0.2.1/24", "dev", "eth0"]);
        let words = ["--dhcp-range=198.51.100.60,198.51.100.60,2m", "--dhcp-option=6,198.51.100.53"];
        let (_server, told) = serve_and_tell("eth0", &[&words[..], &["--dhcp-authoritative"]].concat());
        until(&network, has("eth0 198.51.100.60")).await;
        let state = until(&network, |state| !has("eth0 192.0.2.50")(state)).await;
        assert!(has("eth0 198.51.100.60")(&state), "{state:?}");
        assert!(told.times("DHCPNAK") >= 1);
        let routes = run(&["ip", "route"]);
        assert!(routes.contains("default via 198.51.100.1") && !routes.contains("192.0.2.1"), "{routes}");
        until(&network, |_| {
            std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text == "nameserver 198.51.100.53\n")
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_server_that_comes_back_elsewhere_goes_on_with_the_lease() {
    alone("a_server_that_comes_back_elsewhere_goes_on_with_the_lease", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let range = "--dhcp-range=192.0.2.50,192.0.2.50,2m";
        let server = serve("eth0", &[range, RENEW, REBIND]);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 192.0.2.50")).await;
        let mut states = watched(&network);
        drop(server);
        // Another server of the same network: only a broadcast reaches it, which is sent after T2.
        peer(&["ip", "address", "del", "192.0.2.1/24", "dev", "eth0"]);
        peer(&["ip", "address", "add", "192.0.2.2/24", "dev", "eth0"]);
        let (_server, told) = serve_and_tell("eth0", &[range, RENEW, REBIND, "--dhcp-authoritative"]);
        told.until("DHCPACK", 2).await;
        assert_eq!(told.times("DHCPDISCOVER"), 0);
        while let Ok(state) = states.try_recv() {
            assert!(has("eth0 192.0.2.50")(&state), "{state:?}");
        }
        let routes = run(&["ip", "route"]);
        assert!(routes.contains("default via 192.0.2.2"), "{routes}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_lease_that_nobody_renews_ends_and_the_server_is_found_when_it_is_back() {
    alone("a_lease_that_nobody_renews_ends_and_the_server_is_found_when_it_is_back", || async {
        cable("eth0");
        plug("eth0", &["192.0.2.1/24"]);
        let range = "--dhcp-range=192.0.2.50,192.0.2.50,2m";
        // RFC 2132, 9.2: the lease itself.
        let server = serve("eth0", &[range, "--dhcp-option-force=51,10", RENEW, REBIND]);
        let network = start(NetParams::default()).await;
        until(&network, has("eth0 192.0.2.50")).await;
        drop(server);
        until(&network, |state| state.addresses.is_empty()).await;
        assert!(!run(&["ip", "route"]).contains("default"));
        let _server = serve("eth0", &[range]);
        until(&network, has("eth0 192.0.2.50")).await;
    });
}
