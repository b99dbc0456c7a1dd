//! A machine's firmware as it can be changed from outside: its settings and its versions.

use crate::outofband::OutOfBandError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::future::Future;
use std::path::Path;

/// Settings of a machine's firmware, by name, with the values that they are to have.
pub type BiosValues = Map<String, Value>;

/// A setting that is not as it was wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct BiosDifference {
    /// Its name.
    pub name: String,
    /// What was wanted.
    pub wanted: Value,
    /// What it is; unset where the BMC does not tell it any more.
    pub seen: Option<Value>,
}

/// Settings that wait for the next start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StagedBios {
    /// Those that are otherwise until then; none when nothing has to be changed.
    pub changes: Vec<String>,
    /// Where the BMC tells how that goes on, if it does: [`FirmwareControl::update_state`] reads it.
    pub task: Option<String>,
}

/// An update of a part's firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareUpdate {
    /// The part: `bios`, `bmc`, or `nic:` and the card's serial number or name.
    pub component: String,
    /// Where its image can be had, for the BMC to fetch.
    pub url: String,
}

/// How an update is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateState {
    /// It goes on. Percent, where the BMC tells it, and the BMC's words.
    Running(Option<u8>, String),
    /// The image is there; the machine has to be started again for it to be used.
    AtRestart,
    /// It is done, and the BMC says so.
    Done,
    /// The BMC does not know it any more, or says nothing of how it is. Some forget their tasks when they start anew.
    Unsaid,
    /// It failed; the BMC's words.
    Failed(String),
}

/// Changes of the settings of a machine's firmware.
pub trait BiosControl: Send + Sync {
    /// Checks settings without changing any, and returns their values in the types that the machine wants.
    ///
    /// # Errors
    /// [`OutOfBandError::Settings`] naming everything that is wrong with them, and what is valid.
    fn check_bios(&self, wanted: &BiosValues) -> impl Future<Output = Result<BiosValues, OutOfBandError>> + Send;

    /// Makes settings so when the machine is started the next time.
    fn stage_bios(&self, wanted: &BiosValues) -> impl Future<Output = Result<StagedBios, OutOfBandError>> + Send;

    /// Whether [`Self::reset_bios`] can be asked for.
    ///
    /// # Errors
    /// [`OutOfBandError::Unsupported`] where it cannot.
    fn check_reset(&self) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Makes all settings as the maker had them when the machine is started the next time. Returns those of which it is known
    /// how they are to be then; none where the machine does not tell what it was delivered with.
    fn reset_bios(&self) -> impl Future<Output = Result<BiosValues, OutOfBandError>> + Send;

    /// The settings that are not as wanted, and what the BMC says about that.
    fn bios_differences(
        &self,
        wanted: &BiosValues,
    ) -> impl Future<Output = Result<(Vec<BiosDifference>, Vec<String>), OutOfBandError>> + Send;
}

/// Updates of a machine's firmware.
pub trait FirmwareControl: Send + Sync {
    /// Whether these updates can be made.
    ///
    /// # Errors
    /// [`OutOfBandError::Settings`] naming the parts and protocols that there are, [`OutOfBandError::Unsupported`] where there are no
    /// updates at all.
    fn check_updates(&self, updates: &[FirmwareUpdate]) -> impl Future<Output = Result<(), OutOfBandError>> + Send;

    /// Whether the BMC fetches images by itself; otherwise [`Self::start_update`] wants a file.
    fn fetches_images(&self) -> impl Future<Output = Result<bool, OutOfBandError>> + Send;

    /// Has the BMC fetch an image, or gives it the image in a file where it fetches none. Returns where it tells how the
    /// update goes on; unset where it does not, and the update is done when it has answered.
    fn start_update(
        &self,
        update: &FirmwareUpdate,
        image: Option<&Path>,
    ) -> impl Future<Output = Result<Option<String>, OutOfBandError>> + Send;

    /// All tasks that the BMC lists; unset where it has no such list.
    fn tasks(&self) -> impl Future<Output = Result<Option<Vec<String>>, OutOfBandError>> + Send;

    /// Those that came since `known` and may be updates, as far as they tell; unset where the BMC has no such list.
    fn updates_since(
        &self,
        known: &[String],
    ) -> impl Future<Output = Result<Option<Vec<String>>, OutOfBandError>> + Send;

    /// How an update goes on. A task that the BMC does not know any more is [`UpdateState::Unsaid`].
    fn update_state(&self, task: &str) -> impl Future<Output = Result<UpdateState, OutOfBandError>> + Send;
}
