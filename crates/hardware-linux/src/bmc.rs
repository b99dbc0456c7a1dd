//! The BMC's own network addresses, asked through the system interface (IPMI 2.0 specification, chapters 22 and 23).
//!
//! Which channel counts, and in which order, is what ironic-python-agent takes from ipmitool, as drivers compare with what
//! it told them.

use crate::sys::IpmiDevice;
use crate::tree::Tree;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Network function and command (appendix G).
const GET_CHANNEL_INFO: (u8, u8) = (0x06, 0x42);
const GET_LAN_CONFIGURATION: (u8, u8) = (0x0c, 0x02);

/// LAN configuration parameters (table 23-4).
const IP_ADDRESS: u8 = 3;
const MAC_ADDRESS: u8 = 5;
const ADDRESSING_ENABLES: u8 = 51;
const STATIC_ADDRESSES: u8 = 56;
const DYNAMIC_ADDRESSES: u8 = 59;

/// 802.3 LAN and other LAN (table 6-3).
const LAN_MEDIA: [u8; 2] = [0x04, 0x06];

/// Channels that can be on a network (table 6-1): 0 is the IPMB, 12 to 15 are reserved or the system interface.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;

/// IPv6 addresses of one kind that are looked at. A BMC may claim to have 255.
const MOST_ADDRESSES: u8 = 16;

/// What is known of a machine's BMC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bmc {
    /// `0.0.0.0` when it has none set; `None` when there is no BMC.
    pub v4: Option<String>,
    /// `::/0` when it has none set; `None` when there is no BMC.
    pub v6: Option<String>,
    /// Of the channel that has an address.
    pub mac: Option<String>,
}

/// Somebody who answers IPMI requests.
pub trait Ipmi {
    /// The answer to a request, completion code first. An error is one of the way to the BMC.
    fn request(&self, function: u8, command: u8, data: &[u8]) -> io::Result<Vec<u8>>;
}

impl Ipmi for IpmiDevice {
    fn request(&self, function: u8, command: u8, data: &[u8]) -> io::Result<Vec<u8>> {
        self.exchange(function, command, data)
    }
}

/// The BMC behind `/dev/ipmi0`; nothing is known without that device, or when it does not answer.
pub(crate) fn bmc(tree: &Tree) -> Bmc {
    let device = match IpmiDevice::open(&tree.path("/dev/ipmi0")) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Bmc::default(),
        Err(error) => {
            tracing::warn!(%error, "/dev/ipmi0 cannot be opened: the BMC is not known");
            return Bmc::default();
        }
    };
    read(&device).unwrap_or_else(|error| {
        tracing::warn!(%error, "the BMC does not answer: its addresses are not known");
        Bmc::default()
    })
}

/// Asks for the addresses of all channels, with some hundred requests at most.
///
/// # Errors
///
/// An error is one of the interface, after which nobody answers any more; a BMC that refuses a request has just not that
/// parameter.
pub fn read(ipmi: &impl Ipmi) -> io::Result<Bmc> {
    let mut bmc = Bmc::default();
    for channel in CHANNELS {
        if !is_lan(ipmi, channel)? {
            continue;
        }
        let v4 = parameter(ipmi, channel, IP_ADDRESS, 0)?.and_then(|data| <[u8; 4]>::try_from(data).ok());
        let v4 = v4.map(Ipv4Addr::from).filter(|address| !address.is_unspecified());
        let v6 = v6_address(ipmi, channel)?;
        if bmc.v4.is_none() {
            bmc.v4 = v4.map(|address| address.to_string());
        }
        if bmc.v6.is_none() {
            bmc.v6 = v6.map(|address| address.to_string());
        }
        let reachable = v4.is_some() || v6.is_some_and(|address| !address.is_unicast_link_local());
        if bmc.mac.is_none() && reachable {
            bmc.mac = parameter(ipmi, channel, MAC_ADDRESS, 0)?.and_then(|data| mac(&data));
        }
    }
    bmc.v4.get_or_insert_with(|| "0.0.0.0".to_owned());
    bmc.v6.get_or_insert_with(|| "::/0".to_owned());
    Ok(bmc)
}

/// Whether a channel is there and a LAN. One that says nothing of itself is tried all the same.
fn is_lan(ipmi: &impl Ipmi, channel: u8) -> io::Result<bool> {
    let (function, command) = GET_CHANNEL_INFO;
    Ok(match ipmi.request(function, command, &[channel])?.as_slice() {
        [0, _, medium, ..] => LAN_MEDIA.contains(&(medium & 0x7f)),
        [COMMAND_UNKNOWN, ..] => true,
        _ => false,
    })
}

/// Completion code: the BMC does not have this command (table 5-2).
const COMMAND_UNKNOWN: u8 = 0xc1;

/// A parameter without its revision; `None` when the BMC refuses.
fn parameter(ipmi: &impl Ipmi, channel: u8, parameter: u8, set: u8) -> io::Result<Option<Vec<u8>>> {
    let (function, command) = GET_LAN_CONFIGURATION;
    let answer = ipmi.request(function, command, &[channel, parameter, set, 0])?;
    Ok(match answer.as_slice() {
        [0, _revision, data @ ..] => Some(data.to_vec()),
        _ => None,
    })
}

/// The first active IPv6 address: those that were handed out before those that were typed in.
fn v6_address(ipmi: &impl Ipmi, channel: u8) -> io::Result<Option<Ipv6Addr>> {
    const DISABLED: u8 = 0;
    match parameter(ipmi, channel, ADDRESSING_ENABLES, 0)?.as_deref() {
        Some([enables, ..]) if *enables != DISABLED => {}
        _ => return Ok(None),
    }
    for kind in [DYNAMIC_ADDRESSES, STATIC_ADDRESSES] {
        for set in 0..MOST_ADDRESSES {
            let Some(data) = parameter(ipmi, channel, kind, set)? else { break };
            if let Some(address) = active_address(kind, &data) {
                return Ok(Some(address));
            }
        }
    }
    Ok(None)
}

/// The address of a row of parameters 56 and 59: set selector, source, address, prefix length, status.
fn active_address(kind: u8, row: &[u8]) -> Option<Ipv6Addr> {
    const ACTIVE: u8 = 0;
    let [_, source, address @ .., _prefix, status] = row else { return None };
    let used = match kind {
        // Bit 7: enabled.
        STATIC_ADDRESSES => source & 0x80 != 0,
        // Bits 3:0: SLAAC or DHCPv6.
        _ => matches!(source & 0x0f, 1 | 2),
    };
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?);
    (used && *status == ACTIVE && !address.is_unspecified()).then_some(address)
}

fn mac(data: &[u8]) -> Option<String> {
    let mac = <[u8; 6]>::try_from(data).ok().filter(|mac| *mac != [0; 6])?;
    Some(mac.map(|byte| format!("{byte:02x}")).join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A BMC that has these parameters, by channel, parameter and set selector.
    #[derive(Default)]
    struct Fake {
        media: BTreeMap<u8, u8>,
        parameters: BTreeMap<(u8, u8, u8), Vec<u8>>,
        broken: bool,
    }

    impl Fake {
        fn lan(mut self, channel: u8, address: [u8; 4], mac: [u8; 6]) -> Self {
            self.media.insert(channel, 0x04);
            self.parameters.insert((channel, IP_ADDRESS, 0), address.to_vec());
            self.parameters.insert((channel, MAC_ADDRESS, 0), mac.to_vec());
            self
        }

        fn v6(mut self, channel: u8, kind: u8, set: u8, source: u8, address: &str, status: u8) -> Self {
            let mut row = vec![set, source];
            row.extend(address.parse::<Ipv6Addr>().unwrap().octets());
            row.extend([64, status]);
            self.parameters.insert((channel, ADDRESSING_ENABLES, 0), vec![2]);
            self.parameters.insert((channel, kind, set), row);
            self
        }
    }

    impl Ipmi for Fake {
        fn request(&self, function: u8, command: u8, data: &[u8]) -> io::Result<Vec<u8>> {
            const PARAMETER_UNSUPPORTED: u8 = 0x80;
            const INVALID_FIELD: u8 = 0xcc;
            match ((function, command), data) {
                _ if self.broken => Err(io::ErrorKind::TimedOut.into()),
                (GET_CHANNEL_INFO, [channel]) => Ok(match self.media.get(channel) {
                    Some(medium) => vec![0, *channel, *medium, 1, 0, 0xf2, 0x1b, 0, 0, 0],
                    None => vec![INVALID_FIELD],
                }),
                (GET_LAN_CONFIGURATION, [channel, parameter, set, 0]) => {
                    Ok(match self.parameters.get(&(*channel, *parameter, *set)) {
                        Some(value) => [vec![0, 0x11], value.clone()].concat(),
                        None => vec![PARAMETER_UNSUPPORTED],
                    })
                }
                other => panic!("{other:?}"),
            }
        }
    }

    const MAC: [u8; 6] = [0x3c, 0xec, 0xef, 0, 0, 1];

    fn found(fake: &Fake) -> (String, String, Option<String>) {
        let bmc = read(fake).unwrap();
        (bmc.v4.unwrap(), bmc.v6.unwrap(), bmc.mac)
    }

    #[test]
    fn the_first_lan_channel_with_an_address_counts() {
        let fake = Fake::default().lan(1, [0; 4], [9; 6]).lan(8, [192, 0, 2, 7], MAC);
        assert_eq!(found(&fake), ("192.0.2.7".to_owned(), "::/0".to_owned(), Some("3c:ec:ef:00:00:01".to_owned())));
    }

    #[test]
    fn a_channel_that_is_no_lan_is_not_asked() {
        let mut fake = Fake::default().lan(1, [192, 0, 2, 1], MAC).lan(2, [192, 0, 2, 2], MAC);
        // RS-232.
        fake.media.insert(1, 0x05);
        assert_eq!(found(&fake).0, "192.0.2.2");
    }

    #[test]
    fn a_bmc_without_any_address_says_so_and_has_no_mac() {
        assert_eq!(found(&Fake::default()), ("0.0.0.0".to_owned(), "::/0".to_owned(), None));
        assert_eq!(found(&Fake::default().lan(1, [0; 4], MAC)).2, None);
    }

    #[test]
    fn an_active_dynamic_address_goes_before_a_static_one() {
        let fake = Fake::default()
            .lan(1, [0; 4], MAC)
            .v6(1, STATIC_ADDRESSES, 0, 0x80, "2001:db8::1", 0)
            .v6(1, DYNAMIC_ADDRESSES, 0, 1, "2001:db8::bad", 1)
            .v6(1, DYNAMIC_ADDRESSES, 1, 2, "2001:db8::2", 0);
        assert_eq!(found(&fake).1, "2001:db8::2");
        assert!(found(&fake).2.is_some());
        let disabled = Fake::default().lan(1, [0; 4], MAC).v6(1, STATIC_ADDRESSES, 0, 0, "2001:db8::1", 0).v6(
            1,
            STATIC_ADDRESSES,
            1,
            0x80,
            "2001:db8::3",
            0,
        );
        assert_eq!(found(&disabled).1, "2001:db8::3");
    }

    #[test]
    fn ipv6_that_is_switched_off_or_only_local_gives_no_mac() {
        let mut off = Fake::default().lan(1, [0; 4], MAC).v6(1, STATIC_ADDRESSES, 0, 0x80, "2001:db8::1", 0);
        off.parameters.insert((1, ADDRESSING_ENABLES, 0), vec![0]);
        assert_eq!(found(&off).1, "::/0");
        let local = Fake::default().lan(1, [0; 4], MAC).v6(1, DYNAMIC_ADDRESSES, 0, 1, "fe80::1", 0);
        assert_eq!((found(&local).1.as_str(), found(&local).2), ("fe80::1", None));
    }

    #[test]
    fn a_bmc_that_claims_endless_addresses_is_asked_for_some() {
        let mut fake = Fake::default().lan(1, [0; 4], MAC);
        for set in 0..=255 {
            fake = fake.v6(1, DYNAMIC_ADDRESSES, set, 1, "::", 0);
        }
        assert_eq!(found(&fake).1, "::/0");
    }

    #[test]
    fn answers_of_a_wrong_length_are_no_addresses() {
        let mut fake = Fake::default().lan(1, [192, 0, 2, 1], MAC);
        fake.parameters.insert((1, IP_ADDRESS, 0), vec![192, 0, 2]);
        fake.parameters.insert((1, ADDRESSING_ENABLES, 0), Vec::new());
        assert_eq!(found(&fake), ("0.0.0.0".to_owned(), "::/0".to_owned(), None));
        assert_eq!(active_address(DYNAMIC_ADDRESSES, &[0, 1, 2]), None);
    }

    #[test]
    fn a_broken_interface_is_an_error_and_no_device_is_no_bmc() {
        let broken = Fake { broken: true, ..Fake::default().lan(1, [192, 0, 2, 1], MAC) };
        assert!(read(&broken).is_err());
        let root = tempfile::tempdir().unwrap();
        assert_eq!(bmc(&Tree::at(root.path())), Bmc::default());
    }
}
