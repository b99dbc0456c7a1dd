//! Virtual media: an image at a URL that the machine sees as a CD.

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use serde_json::{Value, json};
use tokio::time::Instant;

const INSERT: &str = "#VirtualMedia.InsertMedia";
const EJECT: &str = "#VirtualMedia.EjectMedia";

impl Redfish {
    /// Inserts the image at `url` as a CD, and returns when the BMC says so. Done when it is inserted already; another
    /// image in the drive is ejected first.
    ///
    /// The BMC fetches the image: the URL must be one that it can reach.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] without a CD drive, [`RedfishError::Late`] when the BMC accepts and does not do it.
    pub async fn insert_cd(&self, url: &str) -> Result<(), RedfishError> {
        let (system, drives) = self.cd_drives().await?;
        let uri: Option<http::Uri> = url.parse().ok();
        if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()) {
            return Err(system.unsupported(format!("media at {url:?} cannot be inserted; give an http or https URL")));
        }
        if drives.iter().any(|drive| is_inserted(drive) && drive.text(&["Image"]) == Some(url)) {
            return Ok(());
        }
        let Some(drive) = drives.into_iter().next() else {
            return Err(system.unsupported("neither it nor its managers have virtual media of type CD or DVD"));
        };
        if is_inserted(&drive) {
            self.empty(&drive).await?;
        }
        tracing::info!(bmc = drive.bmc, drive = drive.path, url, "inserting virtual media");
        match self.send_insert(&drive, url).await {
            Ok(()) => {}
            Err(error) if matches!(error, RedfishError::Unreachable { .. }) && error.is_ambiguous() => {
                tracing::warn!(error = transport::client::chain(&error), "insertion not confirmed");
            }
            Err(error) => {
                // A BMC that failed may show the image as inserted all the same, and the next attempt would take
                // that for success.
                if let Err(error) = self.send_eject(&drive).await {
                    tracing::debug!(error = transport::client::chain(&error), "nothing to eject after a failure");
                }
                return Err(error);
            }
        }
        // Where the BMC does not say what is inserted, that something is has to do.
        let shown = |drive: &Resource| is_inserted(drive) && drive.text(&["Image"]).is_none_or(|image| image == url);
        self.until(&drive, format!("medium {url}"), shown).await
    }

    /// Takes out whatever is in a CD drive, and returns when the BMC says so. Done when nothing is, also without any
    /// drive.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn eject_cd(&self) -> Result<(), RedfishError> {
        let (_, drives) = self.cd_drives().await?;
        for drive in drives.iter().filter(|drive| is_inserted(drive)) {
            self.empty(drive).await?;
        }
        Ok(())
    }

    async fn empty(&self, drive: &Resource) -> Result<(), RedfishError> {
        tracing::info!(bmc = drive.bmc, drive = drive.path, "ejecting virtual media");
        match self.send_eject(drive).await {
            Err(error) if error.is_ambiguous() => {
                tracing::warn!(error = transport::client::chain(&error), "ejection not confirmed");
            }
            other => other?,
        }
        self.until(drive, "an empty drive".to_owned(), |drive| !is_inserted(drive)).await
    }

    /// The CD drives: those of the system, else those of its managers; the standard has moved them (DSP0268,
    /// VirtualMedia: under Systems since 1.5).
    async fn cd_drives(&self) -> Result<(Resource, Vec<Resource>), RedfishError> {
        let system = self.system().await?;
        let mut drives = self.drives_of(&system).await?;
        if drives.is_empty() {
            for manager in self.managers_of(&system).await? {
                let manager = self.connection.get(&system.path, &manager).await?;
                drives.extend(self.drives_of(&manager).await?);
            }
        }
        Ok((system, drives))
    }

    pub(crate) async fn managers_of(&self, system: &Resource) -> Result<Vec<String>, RedfishError> {
        let named = system.links(&["Links", "ManagedBy"]);
        if !named.is_empty() {
            return Ok(named);
        }
        let root = self.connection.root().await?;
        match root.link(&["Managers"]) {
            Some(managers) => self.connection.members(&root.path, managers).await,
            None => Ok(Vec::new()),
        }
    }

    async fn drives_of(&self, owner: &Resource) -> Result<Vec<Resource>, RedfishError> {
        let Some(link) = owner.link(&["VirtualMedia"]) else { return Ok(Vec::new()) };
        let members = match self.connection.members(&owner.path, link).await {
            Err(error) if error.is_missing() => {
                tracing::debug!(error = transport::client::chain(&error), "a link to virtual media leads nowhere");
                return Ok(Vec::new());
            }
            other => other?,
        };
        let mut drives = Vec::new();
        for member in members {
            let drive = self.connection.get(&owner.path, &member).await?;
            let types = drive.texts(&["MediaTypes"]).unwrap_or_default();
            if types.iter().any(|kind| matches!(*kind, "CD" | "DVD")) {
                drives.push(drive);
            }
        }
        Ok(drives)
    }

    async fn send_insert(&self, drive: &Resource, url: &str) -> Result<(), RedfishError> {
        let plain = json!({ "Image": url, "Inserted": true, "WriteProtected": true });
        let Some(target) = drive.text(&["Actions", INSERT, "target"]) else {
            // Without the action the standard allows to set the properties.
            return self.connection.patch(drive, &plain).await;
        };
        match self.connection.post(&drive.path, target, &plain).await {
            // Some BMCs insist on parameters that the standard calls optional, and say so.
            Err(RedfishError::Refused { status: 400, message, .. }) if message.contains("Transfer") => {
                let protocol = if url.starts_with("https:") { "HTTPS" } else { "HTTP" };
                let mut full = plain;
                full["TransferMethod"] = Value::from("Stream");
                full["TransferProtocolType"] = Value::from(protocol);
                self.connection.post(&drive.path, target, &full).await
            }
            other => other,
        }
    }

    async fn send_eject(&self, drive: &Resource) -> Result<(), RedfishError> {
        match drive.text(&["Actions", EJECT, "target"]) {
            Some(target) => self.connection.post(&drive.path, target, &json!({})).await,
            None => self.connection.patch(drive, &json!({ "Image": null, "Inserted": false })).await,
        }
    }

    /// Reads the drive until it is as wanted.
    async fn until(
        &self,
        drive: &Resource,
        wanted: String,
        is_so: impl Fn(&Resource) -> bool,
    ) -> Result<(), RedfishError> {
        let start = Instant::now();
        loop {
            let now = self.connection.get(&drive.path, &drive.path).await?;
            if is_so(&now) {
                return Ok(());
            }
            if start.elapsed() >= self.limits.settle {
                let image = now.text(&["Image"]).unwrap_or("no image");
                return Err(RedfishError::Late {
                    bmc: now.bmc.clone(),
                    resource: now.path.clone(),
                    wanted,
                    seen: format!("inserted: {}, {image}", is_inserted(&now)),
                    within: self.limits.settle,
                });
            }
            tokio::time::sleep(self.limits.poll).await;
        }
    }
}

fn is_inserted(drive: &Resource) -> bool {
    match drive.at(&["Inserted"]) {
        Some(Value::Bool(inserted)) => *inserted,
        // Optional in the standard; then an image that is named is inserted.
        _ => drive.text(&["Image"]).is_some(),
    }
}
