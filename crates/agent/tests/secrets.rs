//! What is confidential and goes through an agent is in no log of it, at any level. This changes the log of the whole process,
//! so it is a program of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use base64::Engine as _;
use hardware_sim::{SimMachine, disk};
use http::Method;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use support::{Rest, TOKEN, rig, settings};
use tracing_subscriber::fmt::MakeWriter;

/// Every line of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What no log may have, in whatever it is packed.
const SECRET: &str = "canary";

fn packed(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A node as a driver sends it, with all that somebody forgot to mask.
fn node() -> Value {
    json!({
        "uuid": "0f3c1d6e-0000-4000-8000-000000000000",
        "driver_info": {"redfish_password": "canary-bmc", "snmp_community": "canary-community"},
        "instance_info": {"configdrive": packed("canary-drive"), "rescue_password": "canary-rescue"},
        "driver_internal_info": {"agent_secret_token": "canary-token", "redfish_auth_token": "canary-session"},
        "properties": {},
    })
}

fn image(url: &str) -> Value {
    json!({
        "id": "i",
        "urls": [url],
        "checksum": "0".repeat(64),
        "disk_format": "raw",
        "image_server_auth_strategy": "http_basic",
        "image_server_user": "user",
        "image_server_password": "canary-image",
        "image_request_authorization": packed("Bearer canary-bearer"),
        "proxies": {"http": "http://user:canary-proxy@127.0.0.1:9"},
        "configdrive": packed("canary-drive"),
    })
}

/// Note `remove-node-object-from-log`: what a driver said of its node was logged, with the password of the BMC; and note
/// `mask-configdrive`, for the log.
#[tokio::test]
async fn remove_node_object_from_log_no_secret_that_an_agent_is_told_is_in_its_log() {
    let log = Log::default();
    let everything = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(everything).unwrap();
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    let rig = rig(machine, settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let (node, ports) = (node(), json!([{"address": "52:54:00:00:00:01", "extra": {"key": "canary-port"}}]));
    let drive = packed("canary-drive");
    for (name, params) in [
        ("clean.get_clean_steps", json!({"node": node, "ports": ports})),
        ("deploy.get_deploy_steps", json!({"node": node, "ports": ports, "odd": "canary-unknown"})),
        ("poll.set_node_info", json!({"node_info": {"node": node, "config": {"agent_token": "canary-token"}}})),
        (
            "standby.prepare_image",
            json!({"image_info": image("http://user:canary-url@127.0.0.1:9/i"), "configdrive": drive}),
        ),
        (
            "standby.prepare_image",
            json!({"image_info": image("https://127.0.0.1:9/i?token=canary-query"), "configdrive": 1}),
        ),
        ("standby.prepare_image", json!({"image_info": {"id": "i", "urls": "canary-odd"}, "configdrive": drive})),
        (
            "standby.prepare_image",
            json!({"image_info": image("http://127.0.0.1:9/i"), "configdrive": "http://u:canary@127.0.0.1:9/d"}),
        ),
        ("standby.execute_bootc_install", json!({"image_source": "oci://r/i", "pull_secret": "canary-pull"})),
        ("rescue.finalize_rescue", json!({"rescue_password": "canary-rescue", "hashed": false})),
        ("rescue.finalize_rescue", json!({"rescue_password": ["canary-rescue"]})),
        ("image.install_bootloader", json!({"root_uuid": null, "odd-name": "canary-value"})),
        ("standby.odd", json!({"password": "canary"})),
    ] {
        rest.command(name, params, true).await;
    }
    for step in ["write_image", "erase_devices_metadata", "inject_files", "odd"] {
        let files = json!([{"path": "/etc/shadow", "content": packed("canary-file")}]);
        let args = json!({"image_info": image("http://127.0.0.1:9/i"), "configdrive": drive, "files": files});
        let step = json!({"interface": "deploy", "step": step, "args": args});
        let params = json!({"step": step, "node": node, "ports": ports, "deploy_version": {"odd": "1"}});
        rest.command("deploy.execute_deploy_step", params.clone(), true).await;
        let mut params = params;
        params["deploy_version"] = Value::Null;
        rest.command("deploy.execute_deploy_step", params, true).await;
    }
    for body in ["canary", "{\"name\": \"canary\"", "[\"canary\"]", "{\"name\": 1, \"params\": \"canary\"}"] {
        rest.send(Method::POST, &format!("/v1/commands/?agent_token={TOKEN}"), body).await;
    }
    rest.get("/v1/commands/?agent_token=canary-token").await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("execute_deploy_step") && text.contains("DEBUG"), "this is not the whole log: {text}");
    for secret in [SECRET, &packed(SECRET)[..8], &packed("Bearer canary")[..16], TOKEN] {
        let told: Vec<&str> = text.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{secret}: {told:#?}");
    }
}
