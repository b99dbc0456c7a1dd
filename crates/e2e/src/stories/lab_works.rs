//! The ground that the other stories stand on, without anything of ours: a server that Redfish turns on boots what is on
//! its disk, and [`boot_alone`] tells a disk that boots from one that does not, under both firmwares.

use super::World;
use crate::api::Api;
use crate::firmware::{Boot, Firmware, boot_alone};
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Result, ensure};
use http::Method;
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let server = VirtualServer::define(&world.lab, &ServerSpec { disk_mib: 64, ..ServerSpec::default() }).await?;
    world.console.begin("an empty disk boots under neither firmware");
    world.boots(&server, Firmware::Ovmf, None).await?;
    world.boots(&server, Firmware::SeaBios, None).await?;
    world.console.end("");

    world.console.begin("a disk with a witness boots under both");
    WitnessImage { mib: 64, seed: 1 }.write(&server.disk)?;
    world.boots(&server, Firmware::Ovmf, Some(Witness::Uefi)).await?;
    world.boots(&server, Firmware::SeaBios, Some(Witness::Bios)).await?;
    world.console.end("");

    world.console.begin("turned on over Redfish, the server boots its disk");
    let redfish = Api::new(server.redfish_address());
    let system = redfish.get(&server.redfish_system()).await?;
    ensure!(system["PowerState"] == "Off", "a defined server is off, Redfish says {}", system["PowerState"]);
    let reset = format!("{}/Actions/ComputerSystem.Reset", server.redfish_system());
    let (status, body) = redfish.request(Method::POST, &reset, Some(&json!({"ResetType": "On"}))).await?;
    ensure!(status == 204, "Reset On gave {status}: {body}");
    until("the witness on the serial port", LIMIT, async || {
        Ok(server.serial_since(0).contains(Witness::Uefi.text()).then_some(()))
    })
    .await?;
    let (status, body) = redfish.request(Method::POST, &reset, Some(&json!({"ResetType": "ForceOff"}))).await?;
    ensure!(status == 204, "Reset ForceOff gave {status}: {body}");
    until("the server to be off", LIMIT, async || Ok((server.state().await? == "shut off").then_some(()))).await?;
    world.console.end("");
    Ok(())
}

impl World {
    /// Checks what the disk of a server that is off does by itself: who of the witness runs, or nothing at all.
    ///
    /// # Errors
    /// When something else happens.
    pub async fn boots(&self, server: &VirtualServer, firmware: Firmware, expected: Option<Witness>) -> Result<()> {
        let found = boot_alone(&server.disk, firmware, self.lab.accelerator(), &self.lab.logs(), LIMIT).await?;
        self.console.line(&format!("{firmware:?}: {found:?}"));
        let fits = match (&found, expected) {
            (Boot::Nothing(_), None) => true,
            (Boot::Booted(text), Some(witness)) => text.contains(witness.text()),
            _ => false,
        };
        ensure!(fits, "the disk of {} alone under {firmware:?}: {found:?}, expected {expected:?}", server.name);
        Ok(())
    }
}
