//! The firmware of a machine's parts: its own, its BMC's, its network cards'.

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::FirmwareComponent;
use serde_json::Value;

impl Redfish {
    /// Reads the versions that the system, its manager and its network cards tell. What they do not tell is not there.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when none of them tells any, else what went wrong with the system.
    pub async fn read_firmware(&self) -> Result<Vec<FirmwareComponent>, RedfishError> {
        let system = self.system().await?;
        let mut found: Vec<FirmwareComponent> = Vec::new();
        found.extend(component("bios", system.text(&["BiosVersion"])));
        match self.manager_firmware(&system).await {
            Ok(manager) => found.extend(manager),
            Err(error) => tracing::warn!(error = transport::client::chain(&error), "the BMC does not tell its version"),
        }
        // Some BMCs answer 400 for network cards until the machine has booted.
        match self.card_firmware(&system).await {
            Ok(cards) => found.extend(cards),
            Err(error) => tracing::warn!(error = transport::client::chain(&error), "network cards cannot be read"),
        }
        if found.is_empty() {
            Err(system.unsupported("no part of it tells the version of its firmware"))
        } else {
            Ok(found)
        }
    }

    async fn manager_firmware(&self, system: &Resource) -> Result<Option<FirmwareComponent>, RedfishError> {
        let Some(path) = self.managers_of(system).await?.into_iter().next() else { return Ok(None) };
        let manager = self.connection.get(&system.path, &path).await?;
        let own = component("bmc", manager.text(&["FirmwareVersion"]));
        Ok(own.map(|own| FirmwareComponent { model: manager.text(&["Model"]).map(str::to_owned), ..own }))
    }

    /// The network cards of a system.
    async fn cards_of(&self, system: &Resource) -> Result<Vec<Resource>, RedfishError> {
        let mut found = Vec::new();
        let Some(chassis) = system.links(&["Links", "Chassis"]).into_iter().next() else { return Ok(found) };
        let chassis = self.connection.get(&system.path, &chassis).await?;
        let Some(cards) = chassis.link(&["NetworkAdapters"]) else { return Ok(found) };
        for path in self.connection.members(&chassis.path, cards).await? {
            found.push(self.connection.get(&chassis.path, &path).await?);
        }
        Ok(found)
    }

    /// The path of the card that firmware is told of by this name.
    pub(crate) async fn card_called(&self, system: &Resource, name: &str) -> Result<Option<String>, RedfishError> {
        let cards = self.cards_of(system).await?;
        Ok(cards.into_iter().find(|card| name_of(card) == Some(name)).map(|card| card.path))
    }

    async fn card_firmware(&self, system: &Resource) -> Result<Vec<FirmwareComponent>, RedfishError> {
        let mut found = Vec::new();
        for card in self.cards_of(system).await? {
            let own = |key: &str| card.text(&[key]).map(str::to_owned);
            let Some(name) = name_of(&card) else { continue };
            let controllers =
                card.at(&["Controllers"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for controller in controllers {
                let version = controller.get("FirmwarePackageVersion").and_then(Value::as_str);
                let Some(read) = component(&format!("nic:{name}"), version.filter(|text| !text.is_empty())) else {
                    continue;
                };
                if found.iter().any(|known: &FirmwareComponent| known.component == read.component) {
                    continue;
                }
                let (vendor, model, serial_number) = (own("Manufacturer"), own("Model"), own("SerialNumber"));
                found.push(FirmwareComponent { vendor, model, serial_number, ..read });
            }
        }
        Ok(found)
    }
}

/// What a card is called: by its serial number, else by its Id.
fn name_of(card: &Resource) -> Option<&str> {
    card.text(&["SerialNumber"]).or_else(|| card.text(&["Id"]))
}

fn component(name: &str, version: Option<&str>) -> Option<FirmwareComponent> {
    let version = version?.to_owned();
    Some(FirmwareComponent { component: name.to_owned(), version, ..FirmwareComponent::default() })
}
