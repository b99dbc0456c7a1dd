//! A node of the hardware type `redfish`: what Ironic makes of a BMC that is sushy-emulator. The BMC here answers what the
//! emulator was recorded to answer.

use crate::bmc;
use crate::replay::{Differences, recorded, router};
use serde_json::Value;

/// Where the answers may differ, and why.
const KEPT: &[(&str, &str)] = &[(
    "redfish: an indicator that there is not: ",
    "a machine whose disks cannot be listed has no light on one; the reference breaks with 500",
)];

/// An unrecorded request of the preparation.
pub(crate) async fn must(router: &axum::Router, method: &str, path: &str, body: Value) {
    let request = serde_json::json!({
        "method": method, "path": path, "body": body, "headers": {"X-OpenStack-Ironic-API-Version": "1.115"},
    });
    let (status, _, answer) = crate::replay::ask(router, &request).await;
    assert!(status < 300, "{method} {path}: {status} {answer}");
}

/// Returns when a node is manageable.
async fn verified(router: &axum::Router, node: &str) {
    let request = serde_json::json!({
        "method": "GET", "path": format!("/v1/nodes/{node}/states"), "headers": {"X-OpenStack-Ironic-API-Version": "1.115"},
    });
    let there = tokio::time::timeout(crate::replay::PATIENCE, async {
        while crate::replay::ask(router, &request).await.2["provision_state"] != "manageable" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    there.await.unwrap();
}

#[tokio::test]
async fn settings_firmware_modes_and_lights_of_a_bmc_are_served_as_ironic_serves_them() {
    const NODE: &str = "11111111-1111-4111-8111-111111111111";
    let data = tempfile::tempdir().unwrap();
    let router = router(data.path(), |_| {}).await;
    let (bmc, address) = bmc::start().await;
    let node = serde_json::json!({
        "uuid": NODE, "name": "node-1", "driver": "redfish", "bios_interface": "redfish", "firmware_interface": "redfish",
        "driver_info": {
            "redfish_address": format!("http://{address}"), "redfish_username": "u", "redfish_password": "p",
            "redfish_auth_type": "basic",
        },
    });
    must(&router, "POST", "/v1/nodes", node).await;
    let mut differences = Differences::new(KEPT);
    let recorded = recorded("redfish");
    for (number, exchange) in recorded["exchanges"].as_array().unwrap().iter().enumerate() {
        if number == 2 {
            let manage = serde_json::json!({"target": "manage"});
            must(&router, "PUT", &format!("/v1/nodes/{NODE}/states/provision"), manage).await;
            verified(&router, NODE).await;
        }
        differences.ask(&router, "redfish", exchange).await;
    }
    differences.check();
    insta::assert_snapshot!("texts_that_differ", differences.texts);
    let actions: Vec<Value> = bmc.lock().unwrap().actions.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(actions, [serde_json::json!({"ResetType": "Nmi"})]);
}
