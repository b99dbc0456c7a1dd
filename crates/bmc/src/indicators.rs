//! The lights of a system, of the chassis that it is in and of its disks (`IndicatorLED`, DSP0268).

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::{Indicator, Light};
use serde_json::json;

/// A light that was found, with the resource that it is on.
struct Found {
    component: &'static str,
    name: String,
    on: Resource,
}

impl Redfish {
    /// The lights that there are.
    ///
    /// # Errors
    /// What went wrong with the system; parts that cannot be read have no lights.
    pub async fn read_indicators(&self) -> Result<Vec<Indicator>, RedfishError> {
        let found = self.lights(None).await?;
        let indicator = |found: Found| Indicator {
            component: found.component.to_owned(),
            name: found.name,
            readonly: false,
            states: vec![Light::Blinking, Light::Off, Light::On],
        };
        Ok(found.into_iter().map(indicator).collect())
    }

    /// What a light says; `None` where there is no such light.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn read_indicator(&self, component: &str, name: &str) -> Result<Option<Light>, RedfishError> {
        let found = self.lights(Some(component)).await?;
        Ok(found.iter().find(|found| found.name == name).map(|found| light_of(&found.on)))
    }

    /// Switches a light; `false` where there is no such light.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn switch_indicator(&self, component: &str, name: &str, light: Light) -> Result<bool, RedfishError> {
        let found = self.lights(Some(component)).await?;
        let Some(found) = found.into_iter().find(|found| found.name == name) else { return Ok(false) };
        let word = match light {
            Light::On => "Lit",
            Light::Off => "Off",
            Light::Blinking => "Blinking",
            Light::Unknown => {
                return Err(found.on.unsupported("a light cannot be made unknown; choose on, off or blinking"));
            }
        };
        self.connection.patch(&found.on, &json!({"IndicatorLED": word})).await?;
        Ok(true)
    }

    /// The lights of a component, or all.
    async fn lights(&self, component: Option<&str>) -> Result<Vec<Found>, RedfishError> {
        let wanted = |name: &str| component.is_none_or(|wanted| wanted == name);
        let system = self.system().await?;
        let mut found = Vec::new();
        if wanted("chassis") {
            for path in system.links(&["Links", "Chassis"]) {
                let chassis = self.part(&system, &path).await;
                found.extend(chassis.and_then(|chassis| light_on("chassis", None, chassis)));
            }
        }
        if wanted("disk") {
            for (storage, disk) in self.disks(&system).await {
                found.extend(light_on("disk", Some(&storage), disk));
            }
        }
        if wanted("system") {
            found.extend(light_on("system", None, system));
        }
        Ok(found)
    }

    /// The disks, each with the `Id` of its storage.
    async fn disks(&self, system: &Resource) -> Vec<(String, Resource)> {
        let mut disks = Vec::new();
        let Some(link) = system.link(&["Storage"]) else { return disks };
        let members = self.connection.members(&system.path, link).await.unwrap_or_else(|error| {
            tracing::debug!(error = transport::client::chain(&error), "storage cannot be read");
            Vec::new()
        });
        for path in members {
            let Some(storage) = self.part(system, &path).await else { continue };
            let Some(id) = storage.text(&["Id"]).map(str::to_owned) else { continue };
            for path in storage.links(&["Drives"]).into_iter().take(MOST_DISKS) {
                disks.extend(self.part(&storage, &path).await.map(|disk| (id.clone(), disk)));
            }
        }
        disks
    }

    /// A part that is asked for its light alone: one that leads nowhere has none.
    async fn part(&self, from: &Resource, path: &str) -> Option<Resource> {
        match self.connection.get(&from.path, path).await {
            Ok(part) => Some(part),
            Err(error) => {
                tracing::debug!(error = transport::client::chain(&error), "a part cannot be read");
                None
            }
        }
    }
}

/// Most disks of one storage that are asked.
const MOST_DISKS: usize = 256;

/// The light on a resource, named as Ironic names it: by UUID, a disk by its storage and its own `Id`.
fn light_on(component: &'static str, storage: Option<&str>, on: Resource) -> Option<Found> {
    on.text(&["IndicatorLED"])?;
    let name = match storage {
        Some(storage) => format!("{storage}:{}", on.text(&["Id"])?),
        None => on.text(&["UUID"]).or_else(|| on.text(&["Id"]))?.to_owned(),
    };
    Some(Found { component, name, on })
}

fn light_of(on: &Resource) -> Light {
    match on.text(&["IndicatorLED"]) {
        Some("Lit") => Light::On,
        Some("Off") => Light::Off,
        Some("Blinking") => Light::Blinking,
        _ => Light::Unknown,
    }
}
