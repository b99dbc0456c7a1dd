//! Whether the password of a BMC gets anywhere but to that BMC.

use crate::redfish::must;
use crate::replay::{ask, router};
use crate::{bmc, replay};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

const CANARY: &str = "canary-in-the-bmc";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn reply(router: &axum::Router, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = json!({
        "method": method, "path": path, "body": body, "headers": {"X-OpenStack-Ironic-API-Version": "1.115"},
    });
    let (status, _, answer) = ask(router, &request).await;
    (status, answer)
}

/// No other test of this program sets a global log.
#[tokio::test]
async fn jsonrpc_logging_the_password_of_a_bmc_is_in_no_log_and_no_answer() {
    let log = Log::default();
    let everything = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(everything).unwrap();
    let data = tempfile::tempdir().unwrap();
    let router = router(data.path(), |settings| settings.bmc_attempts = 1).await;
    let (_, address) = bmc::start().await;
    let mut answers = String::new();
    // One BMC that answers, and one that nobody is at.
    for (name, address) in [("good", format!("http://{address}")), ("dead", "http://127.0.0.1:1".to_owned())] {
        let node = json!({"driver": "redfish", "name": name, "driver_info": {
            "redfish_address": address, "redfish_username": "u", "redfish_password": CANARY, "redfish_auth_type": "basic",
        }});
        must(&router, "POST", "/v1/nodes", node).await;
        must(&router, "PUT", &format!("/v1/nodes/{name}/states/provision"), json!({"target": "manage"})).await;
        let node = tokio::time::timeout(replay::PATIENCE, async {
            loop {
                let (_, node) = reply(&router, "GET", &format!("/v1/nodes/{name}"), Value::Null).await;
                if node["provision_state"] != "verifying" {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        answers.push_str(&node.await.unwrap().to_string());
        let wrong = json!([{"op": "replace", "path": "/driver_info/redfish_password/x", "value": 1}]);
        for (method, path, body) in [
            ("GET", "", Value::Null),
            ("PATCH", "", wrong),
            ("GET", "/history", Value::Null),
            ("GET", "/why", Value::Null),
            ("GET", "/validate", Value::Null),
            ("GET", "/management/boot_device", Value::Null),
            ("GET", "/management/indicators", Value::Null),
            ("PUT", "/management/inject_nmi", json!({})),
            ("GET", "/bios", Value::Null),
        ] {
            let (_, answer) = reply(&router, method, &format!("/v1/nodes/{name}{path}"), body).await;
            answers.push_str(&answer.to_string());
        }
    }
    answers.push_str(&reply(&router, "GET", "/v1/nodes/detail", Value::Null).await.1.to_string());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("dead") || log.contains("127.0.0.1:1"), "the log was kept");
    let packed = base64::engine::general_purpose::STANDARD.encode(format!("u:{CANARY}"));
    for secret in [CANARY, packed.as_str()] {
        assert!(!answers.contains(secret), "{answers}");
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
}
