//! Ironic, one server, and the operator's commands.

use super::super::{Image, Service, World};
use crate::firmware::Firmware;
use crate::ironic::Ironic;
use crate::server::{Cables, ServerSpec, VirtualServer};
use crate::witness::WitnessImage;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// From the end of a verb until code of the disk runs.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// What the agent's console says once in every boot of the ramdisk that is to be commanded.
pub(super) const SERVING: &str = "serving the API port=9999 tls=true";
/// Name of the node in the API.
pub(super) const NODE: &str = "node-1";
/// Memory of the server.
const MEMORY_MIB: u32 = 512;

/// An image of a few instructions, on our disk and on the image server.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) image: Image,
    pub(super) path: PathBuf,
}

/// What every story with Ironic begins with.
#[derive(Debug)]
pub(super) struct Site<'w> {
    pub(super) world: &'w mut World,
    pub(super) ironic: Ironic,
    pub(super) server: VirtualServer,
}

impl<'w> Site<'w> {
    /// Starts Ironic and brings one server to `manageable`, with an older system on its disk.
    pub(super) async fn start(world: &'w mut World) -> Result<Self> {
        Self::start_with(world, ServerSpec::default()).await
    }

    /// As [`Self::start`]. A server with a BIOS boots the ramdisk from the network with iPXE, one with UEFI from virtual
    /// media; one with two cards boots that of physical servers, in which the kernel can make bonds.
    pub(super) async fn start_with(world: &'w mut World, spec: ServerSpec) -> Result<Self> {
        let physical = spec.cables == Cables::Trunk;
        Self::start_on(world, spec, physical).await
    }

    /// As [`Self::start_with`], with the ramdisk of physical servers or without.
    pub(super) async fn start_on(world: &'w mut World, spec: ServerSpec, physical: bool) -> Result<Self> {
        world.console.begin("start Ironic");
        let artifacts = world.lab.artifacts();
        let ramdisk = match &artifacts.server_ramdisk {
            _ if !physical => &artifacts.ramdisk,
            Some(ramdisk) => ramdisk,
            None => bail!("--server-ramdisk is missing: `cargo xtask interop ironic` makes it"),
        };
        let ironic = Ironic::start_with(&world.lab, &world.images, ramdisk).await?;
        world.console.end("");
        let firmware = spec.firmware;
        let spec = ServerSpec { memory_mib: MEMORY_MIB, ..spec };
        let server = VirtualServer::define(&world.lab, &spec).await?;
        let old = world.lab.dir().join("old.raw");
        WitnessImage { mib: 64, seed: 1 }.write(&old)?;
        super::disk::put(&old, &server)?;
        world.enroll_with(&server, NODE, ironic.driver_info()).await?;
        let mut site = Self { world, ironic, server };
        if firmware == Firmware::SeaBios {
            site.world.lab.boot_script(&Ironic::ipxe_script())?;
            let mode = ["--property", "capabilities=boot_mode:bios"];
            site.client(&[&["node", "set", NODE, "--boot-interface", "ipxe"], &mode[..]].concat()).await?;
        }
        site.world.console.begin("manage: check the BMC");
        site.drive("manage", &[]).await?;
        site.expect("manageable").await?;
        site.world.console.end("");
        Ok(site)
    }

    /// `manageable` to `available` at once: the story tells of something else than cleaning.
    pub(super) async fn provide_uncleaned(&mut self) -> Result<()> {
        self.client(&["node", "set", NODE, "--no-automated-clean"]).await?;
        self.drive("provide", &[]).await?;
        self.expect("available").await.map(drop)
    }

    /// Makes an image and puts it on the image server.
    pub(super) fn offer(&self, name: &str, mib: u64, seed: u64) -> Result<Offered> {
        let path = self.world.lab.dir().join(name);
        WitnessImage { mib, seed }.write(&path)?;
        Ok(Offered { image: self.world.offer(name, &path)?, path })
    }

    /// As [`Self::offer`], and tells the node to take it.
    pub(super) async fn choose(&self, name: &str, mib: u64, seed: u64) -> Result<Offered> {
        let offered = self.offer(name, mib, seed)?;
        self.world.choose_image(NODE, &offered.image).await?;
        Ok(offered)
    }

    /// `baremetal node VERB --wait`.
    pub(super) async fn drive(&mut self, verb: &str, extra: &[&str]) -> Result<()> {
        self.world.drive(&mut self.ironic, verb, NODE, extra).await
    }

    /// Fails unless the node was seen in `state` while the last verb ran.
    pub(super) fn saw(&self, state: &str) -> Result<()> {
        let seen = &self.world.seen;
        ensure!(seen.iter().any(|one| one == state), "the node was never seen in {state:?}, only in {seen:?}");
        Ok(())
    }

    /// `baremetal ARGUMENTS`.
    pub(super) async fn client(&self, arguments: &[&str]) -> Result<String> {
        self.world.baremetal.run(arguments).await
    }

    /// `baremetal node show`.
    pub(super) async fn show(&self) -> Result<Value> {
        self.world.baremetal.json(&["node", "show", NODE]).await
    }

    /// What `baremetal node show` prints; fails unless the node is in `state`.
    pub(super) async fn expect(&self, state: &str) -> Result<Value> {
        let node = self.show().await?;
        ensure!(
            node["provision_state"] == state,
            "the node is {}, expected {state}; last_error: {}",
            node["provision_state"],
            node["last_error"]
        );
        Ok(node)
    }

    /// What `baremetal node history list` tells of errors. A node's `last_error` does not do: Ironic clears it when it
    /// switches the server off after a step that failed.
    pub(super) async fn history(&self) -> Result<String> {
        Ok(self.world.baremetal.json(&["node", "history", "list", "--long", NODE]).await?.to_string())
    }

    /// Waits until the node is in `state`.
    pub(super) async fn reaches(&mut self, state: &str, limit: Duration) -> Result<Value> {
        self.becomes(&format!("the node to be {state}"), limit, |node| node["provision_state"] == state).await
    }

    /// Waits until Ironic has let go of the node: it shows a state a moment before the work that leads there ends.
    pub(super) async fn free(&mut self, limit: Duration) -> Result<()> {
        self.becomes("Ironic to let go of the node", limit, |node| node["reservation"].is_null()).await.map(drop)
    }

    async fn becomes(&mut self, what: &str, limit: Duration, so: impl Fn(&Value) -> bool) -> Result<Value> {
        let (world, ironic) = (&mut *self.world, &mut self.ironic);
        crate::until(what, limit, async || {
            world.lab.check()?;
            Service::check(ironic)?;
            let node = world.api.node(NODE).await?;
            world.console.update(node["provision_state"].as_str().unwrap_or_default());
            Ok(so(&node).then_some(node))
        })
        .await
        .with_context(|| format!("the server's console ends with {:?}", self.last_words()))
    }

    /// The end of what the server has written to its serial port.
    fn last_words(&self) -> String {
        self.server.serial_since(self.server.serial_len().saturating_sub(600))
    }

    /// Waits until the server's console has said `text` since `mark`.
    pub(super) async fn says(&mut self, text: &str, mark: u64, limit: Duration) -> Result<()> {
        let (server, ironic) = (&self.server, &mut self.ironic);
        crate::until(&format!("{text:?} on the server's console"), limit, async || {
            Service::check(ironic)?;
            Ok(server.serial_since(mark).contains(text).then_some(()))
        })
        .await
        .with_context(|| format!("the server's console ends with {:?}", self.last_words()))
    }

    /// `baremetal node inventory save`.
    pub(super) async fn inventory(&self) -> Result<Value> {
        let text = self.client(&["node", "inventory", "save", NODE]).await?;
        serde_json::from_str(&text).with_context(|| format!("the client printed no JSON: {text}"))
    }
}
