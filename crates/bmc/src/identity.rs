//! Who the machine is, as its BMC sees it.

use crate::error::RedfishError;
use crate::redfish::Redfish;

/// What identifies a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SMBIOS UUID.
    pub uuid: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// MAC addresses of its network cards, lower case with colons, in the BMC's order, each once.
    pub macs: Vec<String>,
}

impl Redfish {
    /// Reads the identity. What the BMC does not tell is missing.
    ///
    /// # Errors
    /// When the BMC does not answer.
    pub async fn identity(&self) -> Result<Identity, RedfishError> {
        let system = self.system().await?;
        let own = |key: &str| system.text(&[key]).map(str::to_owned);
        let mut macs: Vec<String> = Vec::new();
        if let Some(link) = system.link(&["EthernetInterfaces"]) {
            let members = match self.connection.members(&system.path, link).await {
                Err(error) if error.is_missing() => Vec::new(),
                other => other?,
            };
            for member in members {
                let card = match self.connection.get(&system.path, &member).await {
                    Err(error) if error.is_missing() => {
                        tracing::debug!(error = transport::client::chain(&error), "a network card leads nowhere");
                        continue;
                    }
                    other => other?,
                };
                let mac = card.text(&["PermanentMACAddress"]).or_else(|| card.text(&["MACAddress"]));
                match mac.map(normal) {
                    Some(Some(mac)) if !macs.contains(&mac) => macs.push(mac),
                    Some(None) => tracing::warn!(bmc = card.bmc, card = card.path, "its MAC address is not one"),
                    Some(Some(_)) | None => {}
                }
            }
        }
        Ok(Identity {
            uuid: own("UUID").map(|uuid| uuid.to_ascii_lowercase()),
            serial: own("SerialNumber"),
            manufacturer: own("Manufacturer"),
            model: own("Model"),
            macs,
        })
    }
}

/// A MAC address in its usual spelling.
fn normal(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    let is_mac = digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_mac.then(|| {
        let pairs: Vec<_> = digits.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
        pairs.join(":").to_ascii_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn a_mac_address_gets_its_usual_spelling() {
        for text in ["52:54:00:AA:BB:CC", "52-54-00-aa-bb-cc", "525400AABBCC", "5254.00aa.bbcc"] {
            assert_eq!(normal(text).as_deref(), Some("52:54:00:aa:bb:cc"), "{text}");
        }
        for text in ["", "52:54:00:aa:bb", "52:54:00:aa:bb:cc:dd:ee", "zz:54:00:aa:bb:cc", "5254００aabbcc"] {
            assert_eq!(normal(text), None, "{text}");
        }
    }
}
