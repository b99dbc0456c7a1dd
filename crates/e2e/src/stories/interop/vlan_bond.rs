//! A server on a network without DHCP: all that the agent knows of it comes with the virtual media, and it is two cards
//! in a bond, a VLAN on that, and an address.

use super::super::World;
use super::disk;
use super::site::{NODE, SERVING, Site};
use crate::lab::{GATEWAY, virsh};
use crate::server::{Cables, ServerSpec};
use crate::trunk::{Trunk, VLAN};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::Duration;

/// From the end of the inspection until the agent has checked in again.
const CHECK_IN_LIMIT: Duration = Duration::from_secs(120);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut trunk = Trunk::start(&world.lab.logs()).await?;
    let spec = ServerSpec { cables: Cables::Trunk, ..ServerSpec::default() };
    let mut site = Site::start_with(world, spec).await?;
    let [first, second] = site.server.cards();
    let address = site.server.address.to_string();
    let network = json!({
        "links": [
            {"id": "port0", "type": "phy", "ethernet_mac_address": first},
            {"id": "port1", "type": "phy", "ethernet_mac_address": second},
            {"id": "both", "type": "bond", "bond_mode": "active-backup", "bond_links": ["port0", "port1"],
             "ethernet_mac_address": first},
            {"id": "tenant", "type": "vlan", "vlan_link": "both", "vlan_id": VLAN, "vlan_mac_address": first},
        ],
        "networks": [{"id": "v4", "type": "ipv4", "link": "tenant", "network_id": "provisioning",
                      "ip_address": address, "netmask": "255.255.255.0", "routes": []}],
        "services": [],
    });
    site.client(&["node", "set", NODE, "--network-data", &network.to_string()]).await?;
    site.client(&["node", "set", NODE, "--driver-info", "fast_track=true"]).await?;

    site.world.console.begin("inspect: the agent is on a VLAN of a bond");
    site.drive("inspect", &[]).await?;
    site.expect("manageable").await?;
    trunk.check()?;
    let api = site.world.api.clone();
    let url = crate::until("the agent's heartbeat after the inspection", CHECK_IN_LIMIT, async || {
        let node = api.node(NODE).await?;
        Ok(node["driver_internal_info"]["agent_url"].as_str().map(str::to_owned))
    })
    .await?;
    ensure!(url == format!("https://{address}:9999"), "the agent's address is {url}, expected that of its VLAN");
    let stored = site.inventory().await?;
    let interfaces = stored["inventory"]["interfaces"].as_array().context("the inventory has no interfaces")?;
    let of_vlan = interfaces.iter().find(|interface| interface["ipv4_address"] == address.as_str());
    ensure!(of_vlan.is_some(), "no interface of the inventory has the address: {interfaces:?}");
    let before = trunk.tagged();
    ensure!(before.iter().any(|frames| *frames > 0), "nothing came with a tag");
    site.world.console.end(&format!("{url}, frames of the cards {before:?}"));

    site.world.console.begin("clean over the other card, after the cable of the first is cut");
    let cut = usize::from(before[1] > before[0]);
    let (cards, left) = ([&first, &second], 1 - cut);
    virsh(&["domif-setlink", site.server.name, cards[cut], "down"]).await?;
    site.drive("provide", &[]).await?;
    site.expect("available").await?;
    disk::has_no_table(&site.server)?;
    let after = trunk.tagged();
    ensure!(after[left] > before[left], "the other card sent nothing: {before:?}, then {after:?}");
    let boots = site.server.serial_since(0).matches(SERVING).count();
    ensure!(boots == 1, "the ramdisk was booted {boots} times");
    site.world.console.end(&format!("frames of the cards {after:?}, frames outside of the VLAN {}", trunk.others()));

    let log = site.world.lab.logs().join("dnsmasq.log");
    let asked = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    ensure!(!asked.contains("DHCPDISCOVER"), "somebody asked {GATEWAY} for an address: {asked}");
    Ok(())
}
