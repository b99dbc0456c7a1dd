//! What an operator of the lab does, step by step, with the real `baremetal` command.

use crate::api::Api;
use crate::artifacts::Artifacts;
use crate::baremetal::Baremetal;
use crate::console::{Console, Progress};
use crate::ferricd::{API, Ferricd};
use crate::firmware::Accelerator;
use crate::image_server::ImageServer;
use crate::lab::Lab;
use crate::server::VirtualServer;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::interval;

/// Seconds that a verb may take until its state is reached; emulated servers on a busy machine are slow.
const VERB_LIMIT: &str = "900";

/// What answers the Ironic API of a story and may break down.
pub trait Service {
    /// Fails if it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    fn check(&mut self) -> Result<()>;
}

impl Service for Ferricd {
    fn check(&mut self) -> Result<()> {
        Self::check(self)
    }
}

/// Everything that a story has at hand.
#[derive(Debug)]
pub struct World {
    /// Network, libvirt, Redfish.
    pub lab: Lab,
    /// Where phases are shown.
    pub console: Console,
    /// Where images come from.
    pub images: ImageServer,
    /// Plain requests.
    pub api: Api,
    /// The operator's command.
    pub baremetal: Baremetal,
    /// The provision states that the node was seen in while [`Self::drive`] ran last, in their order.
    pub seen: Vec<String>,
}

/// An image on the image server.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where nodes fetch it.
    pub url: String,
    /// SHA-512 of what is fetched, hexadecimal.
    pub sha512: String,
    /// SHA-256 of what is fetched, hexadecimal.
    pub sha256: String,
    /// Size of what is fetched, in bytes.
    pub bytes: u64,
}

impl World {
    /// Sets the lab up and starts the image server; `ferricd` is started by the stories that need it.
    ///
    /// # Errors
    /// When a part does not come up.
    pub async fn start(dir: &Path, artifacts: &Artifacts, accelerator: Accelerator) -> Result<Self> {
        let console = Console::default();
        console.begin("start network, libvirt and Redfish service");
        let lab = Lab::start(dir, artifacts, accelerator).await?;
        let images = ImageServer::start().await?;
        console.end(&format!("guests run with {accelerator}"));
        let baremetal = Baremetal::new(&lab);
        Ok(Self { lab, console, images, api: Api::new(API), baremetal, seen: Vec::new() })
    }

    /// Starts `ferricd` as a phase.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start_ferricd(&self) -> Result<Ferricd> {
        self.console.begin("start ferricd");
        let ferricd = Ferricd::start(&self.lab).await?;
        self.console.end(API);
        Ok(ferricd)
    }

    /// Puts a file on the image server.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn offer(&self, name: &str, path: &Path) -> Result<Image> {
        let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
        let mut block = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                break;
            }
            sha256.update(&block[..read]);
            sha512.update(&block[..read]);
            bytes += read as u64;
        }
        let url = self.images.offer(name, path);
        Ok(Image { url, sha512: hex::encode(sha512.finalize()), sha256: hex::encode(sha256.finalize()), bytes })
    }

    /// Enrolls a server with its port.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn enroll(&self, server: &VirtualServer, node: &str) -> Result<()> {
        self.enroll_with(server, node, &[]).await
    }

    /// As [`Self::enroll`], with more pairs for `driver_info`.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn enroll_with(&self, server: &VirtualServer, node: &str, more: &[String]) -> Result<()> {
        self.console.begin("enroll");
        let address = format!("redfish_address={}", server.redfish_address());
        let system = format!("redfish_system_id={}", server.redfish_system());
        let mut arguments = vec!["node", "create", "--driver", "redfish", "--name", node];
        arguments.extend(["--boot-interface", "redfish-virtual-media", "--inspect-interface", "agent"]);
        arguments.extend(["--deploy-interface", "direct"]);
        for pair in [&address, &system].into_iter().chain(more) {
            arguments.extend(["--driver-info", pair]);
        }
        let created = self.baremetal.json(&arguments).await?;
        let uuid = created["uuid"].as_str().context("baremetal node create printed no uuid")?;
        self.baremetal.run(&["port", "create", "--node", uuid, &server.mac]).await?;
        self.console.end(&format!("node {uuid}, port {}", server.mac));
        Ok(())
    }

    /// `baremetal node VERB --wait`, with progress shown while it goes.
    ///
    /// # Errors
    /// When the node ends in another state, or the lab or the service breaks down meanwhile.
    pub async fn drive(&mut self, service: &mut impl Service, verb: &str, node: &str, extra: &[&str]) -> Result<()> {
        let arguments = [&["node", verb, "--wait", VERB_LIMIT], extra, &[node]].concat();
        let command = self.baremetal.run(&arguments);
        tokio::pin!(command);
        self.seen.clear();
        let mut tick = interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                result = &mut command => return match result {
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.context(self.last_error(node).await)),
                },
                _ = tick.tick() => {
                    self.lab.check()?;
                    service.check()?;
                    if let Ok(document) = self.api.node(node).await {
                        let state = document["provision_state"].as_str().unwrap_or_default();
                        if self.seen.last().is_none_or(|last| last != state) {
                            self.seen.push(state.to_owned());
                        }
                        self.console.update(&standing(&document));
                    }
                }
            }
        }
    }

    async fn last_error(&self, node: &str) -> String {
        match self.api.node(node).await {
            Ok(document) => {
                format!("node {node}: state {}, last_error {}", document["provision_state"], document["last_error"])
            }
            Err(error) => format!("node {node} cannot be read: {error:#}"),
        }
    }

    /// Manage, inspect, provide: each a phase. Inspection and cleaning boot the ramdisk.
    ///
    /// # Errors
    /// When a state is not reached.
    pub async fn make_available(&mut self, service: &mut impl Service, node: &str) -> Result<()> {
        self.console.begin("manage: check the BMC");
        self.drive(service, "manage", node, &[]).await?;
        self.expect_state(node, "manageable").await?;
        self.console.end("");
        self.console.begin("inspect: boot the ramdisk, read the hardware");
        self.drive(service, "inspect", node, &[]).await?;
        self.expect_state(node, "manageable").await?;
        let inventory = self.api.get(&format!("/v1/nodes/{node}/inventory")).await?;
        let inventory = &inventory["inventory"];
        let disks = inventory["disks"].as_array().map_or(0, Vec::len);
        ensure!(disks == 1, "the server has one disk, its inventory shows {disks}");
        self.console.end(&format!(
            "{} CPUs, {} MiB, {disks} disk",
            inventory["cpu"]["count"], inventory["memory"]["physical_mb"]
        ));
        self.console.begin("provide: clean");
        self.drive(service, "provide", node, &[]).await?;
        self.expect_state(node, "available").await?;
        self.console.end("");
        Ok(())
    }

    /// Writes what shall be installed into the node's `instance_info`.
    ///
    /// # Errors
    /// When the command line refuses.
    pub async fn choose_image(&self, node: &str, image: &Image) -> Result<()> {
        let info = [
            format!("image_source={}", image.url),
            format!("image_checksum={}", image.sha256),
            "image_os_hash_algo=sha512".to_owned(),
            format!("image_os_hash_value={}", image.sha512),
            "image_disk_format=raw".to_owned(),
        ];
        let mut arguments = vec!["node", "set", node];
        for pair in &info {
            arguments.extend(["--instance-info", pair]);
        }
        self.baremetal.run(&arguments).await.map(drop)
    }

    /// Fails unless the node is in `state`.
    ///
    /// # Errors
    /// Names the node's state and its last error.
    pub async fn expect_state(&self, node: &str, state: &str) -> Result<Value> {
        let document = self.api.node(node).await?;
        ensure!(
            document["provision_state"] == state,
            "node {node} is {}, expected {state}; last_error: {}",
            document["provision_state"],
            document["last_error"]
        );
        Ok(document)
    }
}

/// One line about where a node stands.
fn standing(node: &Value) -> String {
    let state = node["provision_state"].as_str().unwrap_or("unknown");
    let info = &node["driver_internal_info"];
    match Progress::from_json(&info["progress"]) {
        Some(progress) if matches!(state, "deploying" | "wait call-back" | "cleaning" | "clean wait") => {
            format!("{state}, {progress}")
        }
        _ => format!("{state}, power {}", node["power_state"].as_str().unwrap_or("unknown")),
    }
}
