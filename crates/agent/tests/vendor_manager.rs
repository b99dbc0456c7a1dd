//! The worked example of a vendor's own hardware manager, through the agent's REST API.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/vendor-manager/acme.rs"]
mod acme;
mod support;

use acme::AcmeManager;
use agent::Agent;
use hardware_sim::SimMachine;
use serde_json::{Value, json};
use std::sync::Arc;
use support::Rest;

/// A sysfs with two of the vendor's cards and one of somebody else.
fn cards() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (address, vendor) in [("0000:3b:00.0", "0xacce\n"), ("0000:3b:00.1", "0xacce\n"), ("0000:5e:00.0", "0x8086\n")]
    {
        let card = root.path().join("sys/bus/pci/devices").join(address);
        std::fs::create_dir_all(&card).unwrap();
        std::fs::write(card.join("vendor"), vendor).unwrap();
    }
    root
}

async fn rest(root: &std::path::Path) -> Rest {
    let machine = Arc::new(SimMachine::new());
    let builder = Agent::builder(machine, support::settings()).manager(AcmeManager::at(root));
    let (_, dispatcher) = builder.build().unwrap();
    Rest::serve(&dispatcher).await
}

#[tokio::test]
async fn an_agent_of_ones_own_offers_and_runs_the_vendors_step_beside_its_own() {
    let root = cards();
    let rest = rest(root.path()).await;
    let listed = rest.command("clean.get_clean_steps", json!({"node": {}, "ports": []}), true).await.body;
    let list = &listed["command_result"];
    assert_eq!(list["clean_steps"]["AcmeManager"][0]["step"], "set_acme_label");
    let own = list["clean_steps"]["GenericHardwareManager"].as_array().unwrap();
    assert!(own.iter().any(|step| step["step"] == "erase_devices_metadata"), "{own:?}");
    let versions = list["hardware_manager_version"].clone();
    assert_eq!(versions["acme"], env!("CARGO_PKG_VERSION"));

    let step = json!({"interface": "management", "step": "set_acme_label", "args": {"label": "rack 7"}});
    let params = json!({"step": step, "node": {}, "ports": [], "clean_version": versions});
    let done = rest.command("clean.execute_clean_step", params.clone(), true).await.body;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    assert_eq!(done["command_result"], json!({"clean_result": {"labelled": 2}, "clean_step": step}));
    let label = root.path().join("sys/bus/pci/devices/0000:3b:00.1/acme_label");
    assert_eq!(std::fs::read_to_string(label).unwrap(), "rack 7");

    let mut other = params;
    other["clean_version"]["acme"] = Value::from("0.0.1");
    let done = rest.command("clean.execute_clean_step", other, true).await.body;
    assert_eq!(done["command_status"], "CLEAN_VERSION_MISMATCH", "{done}");
}

#[tokio::test]
async fn on_a_machine_without_the_vendors_cards_the_manager_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let rest = rest(root.path()).await;
    let listed = rest.command("clean.get_clean_steps", json!({"node": {}, "ports": []}), true).await.body;
    assert_eq!(listed["command_result"]["clean_steps"].get("AcmeManager"), None);
    assert_eq!(listed["command_result"]["hardware_manager_version"].get("acme"), None);
}
