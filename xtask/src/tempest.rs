//! `cargo xtask interop tempest`: the API tests of ironic-tempest-plugin, as they are in its package, against a `ferricd` of this
//! checkout. Nothing of the tests is changed or left out; those that cannot run are named in `ci/tempest_tests.py`.

use crate::{cmd, python, sdk};
use anyhow::{Context as _, Result};
use std::process::Command;

/// What the tests expect to be enabled, as in the Ironic that they were written for. `ferricd` without a configuration has
/// no fakes of interfaces that a node can do without.
const SETTINGS: &[(&str, &str)] = &[
    ("FERRIC_ENABLED_HARDWARE_TYPES", "fake-hardware"),
    ("FERRIC_ENABLED_BIOS_INTERFACES", "fake,no-bios"),
    ("FERRIC_ENABLED_CONSOLE_INTERFACES", "fake,no-console"),
    ("FERRIC_ENABLED_FIRMWARE_INTERFACES", "fake,no-firmware"),
    ("FERRIC_ENABLED_INSPECT_INTERFACES", "agent,fake,no-inspect"),
    ("FERRIC_ENABLED_RAID_INTERFACES", "fake,no-raid"),
    ("FERRIC_ENABLED_RESCUE_INTERFACES", "fake,no-rescue"),
    ("FERRIC_ENABLED_VENDOR_INTERFACES", "fake,no-vendor"),
];

/// Runs the tests whose names contain one of `only`, all when there is none, or lists them.
pub fn run(only: &[String], list: bool) -> Result<()> {
    let environment = python::environment("tempest", python::System::Hidden)?;
    let mut tests = Command::new(environment.join("bin/python"));
    // Warnings are about the tests' own old ways.
    tests.args(["-B", "-W", "ignore"]).arg(cmd::root().join("ci/tempest_tests.py"));
    if list {
        return cmd::run(tests.arg("--list"));
    }
    let folder = std::env::temp_dir().join(format!("ferric-tempest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let outcome = sdk::ferricd(&folder, SETTINGS).and_then(|(_ferricd, url)| cmd::run(tests.arg(url).args(only)));
    match &outcome {
        Ok(()) => std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?,
        Err(_) => eprintln!("[tempest] what ferricd logged is in {}", folder.display()),
    }
    outcome
}
