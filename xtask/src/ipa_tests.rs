//! `cargo xtask interop ipa-tests`: ironic-python-agent's own functional tests of an agent's API, as they are in its package,
//! against a `ferric-agent` of this checkout, over http and over https.

use crate::{cmd, python};
use anyhow::{Result, ensure};
use std::process::Command;

/// Runs all of them; they are too few to choose from.
pub fn run(only: &[String]) -> Result<()> {
    ensure!(only.is_empty(), "the tests of ironic-python-agent have no names to choose from; say ipa-tests alone");
    let environment = python::environment("ipa", python::System::Hidden)?;
    cmd::run(Command::new("cargo").args(["build", "--locked", "--package=agent"]).current_dir(cmd::root()))?;
    let mut tests = Command::new(environment.join("bin/python"));
    // Warnings are about the tests' own old ways.
    tests.args(["-B", "-W", "ignore"]).arg(cmd::root().join("ci/ipa_tests.py"));
    cmd::run(tests.arg(cmd::root().join("target/debug/ferric-agent")))
}
