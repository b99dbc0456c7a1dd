//! The choice of the method and what happens when one fails.

use crate::{Attempt, Control, EraseError, Method, Nist, Options};
use hardware::{Device, DeviceId, EraseGrant};
use serde::Serialize;

/// What was done, as the device told it. It is not a proof: see `hardware::EraseProof`.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The device.
    pub device: DeviceId,
    /// How it was erased.
    pub method: Method,
    /// What that is worth if the device told the truth.
    pub nist: Nist,
    /// Whether it was running before we came, since before a reset or a power cut, and was taken up.
    pub resumed: bool,
    /// How long it took, in milliseconds, from where we came in.
    pub milliseconds: u64,
    /// The better methods that did not do, and why: the device does not have them, or they failed and going on was allowed.
    pub passed_over: Vec<Attempt>,
    /// By which answer of the device completion was found, in words, such as `sanitize status log: completed successfully`.
    pub evidence: String,
    /// That answer itself, as lower-case hexadecimal digits.
    pub answer: String,
}

/// The methods that `device` says it has and `options` allow, best first.
pub fn methods(device: &dyn Device, options: &Options) -> Result<Vec<Method>, EraseError> {
    let _ = (device, options);
    Ok(Vec::new())
}

/// Erases `device` by the best method that it has and `options` allow. Blocks for as long as that takes, hours for a
/// large disk. Refuses a device other than the granted one.
///
/// An error means that the device is not erased, or that it does not say so; it names every method that was tried. After
/// an error nothing of ours is left on the device; where that failed too, the error says what is left.
pub fn erase(
    device: &dyn Device,
    grant: &EraseGrant,
    options: &Options,
    control: &dyn Control,
) -> Result<Done, EraseError> {
    let _ = (methods(device, options)?, control);
    Err(EraseError::NotErased { device: Box::new(grant.device().clone()), attempts: Vec::new() })
}
