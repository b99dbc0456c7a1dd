//! `ferricd`, one server large enough for ironic-python-agent, and the operator's commands.

use super::super::interop::disk;
use super::super::{Image, World};
use crate::ferricd::Ferricd;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the node in the API.
pub(super) const NODE: &str = "node-1";
/// What the ramdisk's console says once in every boot.
pub(super) const BOOT: &str = "init: starting the agent";
/// What it says for each deploy step that the agent takes.
pub(super) const DEPLOY_STEP: &str = "Asynchronous command execute_deploy_step started";
/// What it says for each clean step.
pub(super) const CLEAN_STEP: &str = "Asynchronous command execute_clean_step started";
/// What it says for each service step.
pub(super) const SERVICE_STEP: &str = "Asynchronous command execute_service_step started";
/// From the end of a verb until code of the disk runs.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// From a verb until a state that comes after a boot of the ramdisk.
pub(super) const STATE_LIMIT: Duration = Duration::from_secs(900);

/// Memory of the server: its ramdisk unpacks to 500 MiB, may take half of the memory, and caches images besides.
const MEMORY_MIB: u32 = 2048;

/// What an operator sets who has this ramdisk and such servers.
const SETTINGS: [(&str, &str); 2] = [
    // The last console that is named takes what the agent logs.
    ("FERRIC_KERNEL_APPEND_PARAMS", "console=tty0 console=ttyS0,115200n8 quiet"),
    // The agent's `erase_devices` overwrites every byte: hours for an emulated disk, and nothing to learn about the driver.
    ("FERRIC_CLEAN_STEP_PRIORITY_OVERRIDE", "erase_devices=0"),
];

/// An image of a few instructions, on our disk and on the image server.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) image: Image,
    pub(super) path: PathBuf,
}

/// What every story with ironic-python-agent begins with.
#[derive(Debug)]
pub(super) struct Site<'w> {
    pub(super) world: &'w mut World,
    pub(super) ferricd: Ferricd,
    pub(super) server: VirtualServer,
}

impl<'w> Site<'w> {
    /// Starts ferricd and brings one server to `manageable`, with an older system on its disk.
    pub(super) async fn start(world: &'w mut World) -> Result<Self> {
        world.console.begin("start ferricd");
        let ferricd = Ferricd::start_with(&world.lab, &SETTINGS).await?;
        world.console.end("");
        let spec = ServerSpec { memory_mib: MEMORY_MIB, ..ServerSpec::default() };
        let server = VirtualServer::define(&world.lab, &spec).await?;
        let old = world.lab.dir().join("old.raw");
        WitnessImage { mib: 64, seed: 1 }.write(&old)?;
        disk::put(&old, &server)?;
        world.enroll(&server, NODE).await?;
        let mut site = Self { world, ferricd, server };
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

    /// Makes an image, puts it on the image server and tells the node to take it.
    pub(super) async fn choose(&self, name: &str, mib: u64, seed: u64) -> Result<Offered> {
        let path = self.world.lab.dir().join(name);
        WitnessImage { mib, seed }.write(&path)?;
        let image = self.world.offer(name, &path)?;
        self.world.choose_image(NODE, &image).await?;
        Ok(Offered { image, path })
    }

    /// `baremetal node VERB --wait`.
    pub(super) async fn drive(&mut self, verb: &str, extra: &[&str]) -> Result<()> {
        self.world.drive(&mut self.ferricd, verb, NODE, extra).await
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

    /// What `baremetal node show` prints; fails unless the node is in `state`.
    pub(super) async fn expect(&self, state: &str) -> Result<Value> {
        let node = self.world.baremetal.json(&["node", "show", NODE]).await?;
        ensure!(
            node["provision_state"] == state,
            "the node is {}, expected {state}; last_error: {}",
            node["provision_state"],
            node["last_error"]
        );
        Ok(node)
    }

    /// Waits until the node is in `state`, and fails when it ends in another that is bad.
    pub(super) async fn reaches(&mut self, state: &str) -> Result<Value> {
        let Self { world, ferricd, .. } = self;
        until(&format!("the node to be {state}"), STATE_LIMIT, async || {
            world.lab.check()?;
            ferricd.check()?;
            let node = world.api.node(NODE).await?;
            let now = node["provision_state"].as_str().unwrap_or_default();
            world.console.update(now);
            if now != state && now.ends_with("failed") {
                bail!("the node ended in {now}: {}", node["last_error"]);
            }
            Ok((now == state).then_some(node))
        })
        .await
        .with_context(|| format!("the server's console ends with {:?}", self.last_words()))
    }

    /// The end of what the server has written to its serial port.
    fn last_words(&self) -> String {
        self.server.serial_since(self.server.serial_len().saturating_sub(600))
    }

    /// Waits until code of the disk has run since `mark`.
    pub(super) async fn boots_disk(&mut self, mark: u64) -> Result<()> {
        let text = Witness::Uefi.text();
        let (server, ferricd) = (&self.server, &mut self.ferricd);
        until(&format!("{text:?} on the server's console"), BOOT_LIMIT, async || {
            ferricd.check()?;
            Ok(server.serial_since(mark).contains(text).then_some(()))
        })
        .await
        .with_context(|| format!("the server's console ends with {:?}", self.last_words()))
    }

    /// Fails unless the server's console has said `text` so often since `mark`.
    pub(super) fn said(&self, text: &str, times: usize, mark: u64) -> Result<()> {
        let found = self.server.serial_since(mark).matches(text).count();
        ensure!(found == times, "the server's console has said {text:?} {found} times, expected {times}");
        Ok(())
    }
}
