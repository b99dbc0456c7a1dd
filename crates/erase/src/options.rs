//! What the operator allows.

use serde_json::Value;
use std::time::Duration;

/// How devices may be erased. The defaults are Ironic's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// ATA Sanitize and Security Erase are allowed (`agent_enable_ata_secure_erase`). SCSI Sanitize goes with it: Ironic has
    /// no setting for that.
    pub ata_secure_erase: bool,
    /// NVMe Sanitize and Format are allowed (`agent_enable_nvme_secure_erase`).
    pub nvme_secure_erase: bool,
    /// When a method fails that the device says it has, the next one may be tried (`agent_continue_if_secure_erase_failed`,
    /// or the older `agent_continue_if_ata_erase_failed`).
    pub continue_if_failed: bool,
    /// A discard counts as an erase if the whole device reads as zeros afterwards (`agent_enable_discard_erase`).
    pub discard: bool,
    /// Passes of random data of an overwrite (`agent_erase_devices_iterations`). With more than one the device's own
    /// write-zeroes command does not stand in for the overwrite.
    pub passes: u32,
    /// A pass of zeros at the end of an overwrite (`agent_erase_devices_zeroize`).
    pub zeroize: bool,
    /// A read-only device is skipped and does not fail the step (`agent_erase_skip_read_only`). It is the caller's to skip it.
    pub skip_read_only: bool,
    /// Only methods that write nothing by themselves: what the device can erase on its own. `erase_devices_express` wants it.
    pub secure_only: bool,
    /// Numbers of the other namespaces of an NVMe drive that are to be erased too. A drive that has any other is not told to do
    /// what goes to all of them.
    pub granted_namespaces: Vec<u32>,
    /// How long a device may say that it is busy without getting any further. A drive may erase in one big step.
    pub patience: Duration,
    /// Where the random data of overwrite passes begins. Any number; one that nobody knows is best.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ata_secure_erase: true,
            nvme_secure_erase: true,
            continue_if_failed: false,
            discard: false,
            passes: 1,
            zeroize: true,
            skip_read_only: false,
            secure_only: false,
            granted_namespaces: Vec::new(),
            patience: Duration::from_secs(2 * 3600),
            seed: 0,
        }
    }
}

/// A setting of the node is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It has another type or value than it may have.
    #[error("driver_internal_info/{name} is {value}: it has to be {wanted}")]
    Wrong {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// Nothing would be written at all.
    #[error(
        "agent_erase_devices_iterations is 0 and agent_erase_devices_zeroize is false: an overwrite would write nothing. \
         Set one of them in the driver's [deploy] section"
    )]
    NoPass,
}

/// More passes than anybody can mean: a disk of 20 TB takes a day for each.
const MOST_PASSES: u64 = 100;

impl Options {
    /// Reads the settings that a driver puts into `driver_internal_info` of the node document; what is missing has Ironic's default.
    pub fn of_node(node: &Value) -> Result<Self, OptionError> {
        let settings = &node["driver_internal_info"];
        let default = Self::default();
        let older = flag(settings, "agent_continue_if_ata_erase_failed", default.continue_if_failed)?;
        let options = Self {
            ata_secure_erase: flag(settings, "agent_enable_ata_secure_erase", default.ata_secure_erase)?,
            nvme_secure_erase: flag(settings, "agent_enable_nvme_secure_erase", default.nvme_secure_erase)?,
            continue_if_failed: flag(settings, "agent_continue_if_secure_erase_failed", older)?,
            discard: flag(settings, "agent_enable_discard_erase", default.discard)?,
            passes: passes(settings)?,
            zeroize: flag(settings, "agent_erase_devices_zeroize", default.zeroize)?,
            skip_read_only: flag(settings, "agent_erase_skip_read_only", default.skip_read_only)?,
            ..default
        };
        if options.passes == 0 && !options.zeroize { Err(OptionError::NoPass) } else { Ok(options) }
    }
}

/// Drivers send booleans; operators who set them by hand send words.
fn flag(settings: &Value, name: &'static str, default: bool) -> Result<bool, OptionError> {
    let wrong = |value: &Value| OptionError::Wrong { name, value: value.to_string(), wanted: "true or false" };
    match &settings[name] {
        Value::Null => Ok(default),
        Value::Bool(flag) => Ok(*flag),
        Value::String(word) if word.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(word) if word.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(wrong(other)),
    }
}

fn passes(settings: &Value) -> Result<u32, OptionError> {
    let (name, wanted) = ("agent_erase_devices_iterations", "a number from 0 to 100");
    let number = match &settings[name] {
        Value::Null => Some(1),
        Value::Number(number) => number.as_u64(),
        Value::String(word) => word.parse().ok(),
        _ => None,
    };
    let within = number.filter(|number| *number <= MOST_PASSES).and_then(|number| u32::try_from(number).ok());
    within.ok_or_else(|| OptionError::Wrong { name, value: settings[name].to_string(), wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_have_ironics_defaults_and_names() {
        assert_eq!(Options::of_node(&json!({})).unwrap(), Options::default());
        let node = json!({"driver_internal_info": {
            "agent_enable_ata_secure_erase": false,
            "agent_enable_nvme_secure_erase": "False",
            "agent_continue_if_ata_erase_failed": true,
            "agent_enable_discard_erase": true,
            "agent_erase_devices_iterations": "3",
            "agent_erase_devices_zeroize": false,
            "agent_erase_skip_read_only": true,
        }});
        let options = Options::of_node(&node).unwrap();
        let wanted = Options {
            ata_secure_erase: false,
            nvme_secure_erase: false,
            continue_if_failed: true,
            discard: true,
            passes: 3,
            zeroize: false,
            skip_read_only: true,
            ..Options::default()
        };
        assert_eq!(options, wanted);
    }

    #[test]
    fn the_newer_name_of_a_setting_wins() {
        let node = json!({"driver_internal_info": {
            "agent_continue_if_ata_erase_failed": true, "agent_continue_if_secure_erase_failed": false,
        }});
        assert!(!Options::of_node(&node).unwrap().continue_if_failed);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (setting, value) in [
            ("agent_enable_ata_secure_erase", json!(1)),
            ("agent_erase_devices_zeroize", json!("maybe")),
            ("agent_erase_devices_iterations", json!(-1)),
            ("agent_erase_devices_iterations", json!(101)),
        ] {
            let mut node = json!({"driver_internal_info": {}});
            node["driver_internal_info"][setting] = value;
            let error = Options::of_node(&node).unwrap_err().to_string();
            assert!(error.contains(setting), "{error}");
        }
        let nothing = json!({"driver_internal_info": {
            "agent_erase_devices_iterations": 0, "agent_erase_devices_zeroize": false,
        }});
        assert_eq!(Options::of_node(&nothing).unwrap_err(), OptionError::NoPass);
    }
}
