//! `ferric node show`: all that is known of a node, on one screen.

use super::{NodesArg, Session};
use crate::api::{ApiError, Node, path};
use crate::error::Error;
use crate::table::{self, age, duration, pairs, size, width};
use crate::watch;
use jiff::Timestamp;
use lifecycle::provision::Kind;
use serde_json::{Map, Value, json};

/// Shows nodes.
pub(crate) async fn run(session: &Session, named: &NodesArg) -> Result<(), Error> {
    let mut text = String::new();
    let mut documents = Vec::new();
    for node in session.nodes(named).await? {
        let of = |error| Error::of(node.title(), error);
        let ports = session.api.list("ports", &[("node", node.uuid()), ("detail", "True")], usize::MAX).await;
        let ports = ports.map_err(of)?;
        let inventory = match session.api.get(&path(&["v1", "nodes", node.uuid(), "inventory"])).await {
            Ok(document) => document.get("inventory").cloned().unwrap_or_default(),
            Err(ApiError::NotFound { .. } | ApiError::TooOld { .. } | ApiError::NoRoute { .. }) => Value::Null,
            Err(error) => return Err(of(error)),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text += &node_text(&node, &ports, &inventory, Timestamp::now(), width());
        documents.push(node.0);
    }
    let document = if documents.len() == 1 { documents.remove(0) } else { Value::Array(documents) };
    session.output.result(&text, &document);
    Ok(())
}

/// A value in few words.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn node_text(node: &Node, ports: &[Value], inventory: &Value, now: Timestamp, width: usize) -> String {
    let mut lines: Vec<(&str, String)> = vec![("node", node.title().to_owned()), ("uuid", node.uuid().to_owned())];
    let since = node.text("provision_updated_at").and_then(|time| age(time, now));
    let since = since.map(|since| format!(" (since {})", duration(since))).unwrap_or_default();
    let way = if node.kind() == Kind::Failed { "was on its way to" } else { "on its way to" };
    let target = node.text("target_provision_state").map(|target| format!(", {way} {target}")).unwrap_or_default();
    lines.push(("state", format!("{}{target}{since}", node.state())));
    let power = node.text("power_state").unwrap_or("not known");
    let target = node.text("target_power_state").map(|target| format!(", on its way to {target}")).unwrap_or_default();
    lines.push(("power", format!("{power}{target}")));
    if let Some(progress) = node.progress() {
        lines.push(("progress", watch::told(node, progress)));
    }
    lines.extend(node.step().map(|step| ("step", step)));
    if node.flag("maintenance") {
        let fault = node.text("fault").map(|fault| format!(" (fault: {fault})")).unwrap_or_default();
        let reason = node.text("maintenance_reason").unwrap_or("no reason was given");
        lines.push(("maintenance", format!("{reason}{fault}")));
    }
    for (key, name) in [
        ("last_error", "last error"),
        ("description", "description"),
        ("driver", "driver"),
        ("resource_class", "resource class"),
        ("instance_uuid", "instance"),
        ("instance_name", "instance name"),
        ("owner", "owner"),
        ("lessee", "lessee"),
        ("conductor", "conductor"),
        ("reservation", "locked by"),
        ("boot_mode", "boot mode"),
    ] {
        lines.extend(node.text(key).map(|text| (name, text.to_owned())));
    }
    for (key, name) in [("protected", "protected"), ("retired", "retired")] {
        if node.flag(key) {
            let reason = node.text(&format!("{key}_reason")).unwrap_or("no reason was given");
            lines.push((name, reason.to_owned()));
        }
    }
    if let Some(Value::Bool(clean)) = node.0.get("automated_clean") {
        lines.push(("automated clean", if *clean { "on" } else { "off" }.to_owned()));
    }
    let traits = node.0.get("traits").and_then(Value::as_array).filter(|traits| !traits.is_empty());
    lines.extend(traits.map(|traits| ("traits", traits.iter().map(short).collect::<Vec<_>>().join(", "))));
    let mut text = pairs(&lines, width);
    for key in ["driver_info", "properties", "instance_info", "extra"] {
        section(&mut text, key, &node.object(key), width);
    }
    hardware(&mut text, inventory, width);
    if !ports.is_empty() {
        text += "\nports\n";
        for port in ports {
            let of = |key: &str| port.get(key).and_then(Value::as_str);
            let boots = if port.get("pxe_enabled") == Some(&Value::Bool(true)) { ", boots" } else { "" };
            let network = of("physical_network").map(|network| format!(", network {network}")).unwrap_or_default();
            text += &format!("  {}{boots}{network}\n", of("address").unwrap_or_default());
        }
    }
    text
}

fn section(text: &mut String, name: &str, object: &Map<String, Value>, width: usize) {
    let lines: Vec<(&str, String)> =
        object.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.as_str(), short(value))).collect();
    if !lines.is_empty() {
        let body = pairs(&lines, width.saturating_sub(2));
        *text += &format!("\n{name}\n");
        body.lines().for_each(|line| *text += &format!("  {line}\n"));
    }
}

/// What an inspection found.
fn hardware(text: &mut String, inventory: &Value, width: usize) {
    if !inventory.is_object() {
        return;
    }
    let word = |pointer: &str| inventory.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let number = |pointer: &str| inventory.pointer(pointer).and_then(Value::as_u64);
    let mut lines: Vec<(&str, String)> = Vec::new();
    let vendor = [word("/system_vendor/manufacturer"), word("/system_vendor/product_name")];
    let serial = word("/system_vendor/serial_number").map(|serial| format!("serial {serial}"));
    let vendor: Vec<String> = vendor.into_iter().flatten().map(str::to_owned).chain(serial).collect();
    if !vendor.is_empty() {
        lines.push(("system", vendor.join(", ")));
    }
    if let Some(count) = number("/cpu/count") {
        lines.push(("processors", format!("{count} × {}", word("/cpu/model_name").unwrap_or("of unknown model"))));
    }
    if let Some(memory) = number("/memory/physical_mb") {
        lines.push(("memory", size(memory << 20)));
    }
    lines.extend(word("/boot/current_boot_mode").map(|mode| ("booted by", mode.to_owned())));
    let mut disks = Vec::new();
    for disk in inventory.get("disks").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| disk.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let kind = if disk.get("rotational") == Some(&json!(true)) { "spins" } else { "solid state" };
        let size = disk.get("size").and_then(Value::as_u64).map(size);
        let serial = of("serial").map(|serial| format!("serial {serial}"));
        let parts =
            [of("name").map(str::to_owned), size, of("model").map(str::to_owned), serial, Some(kind.to_owned())];
        disks.push(("disk", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    lines.extend(disks);
    for interface in inventory.get("interfaces").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| interface.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let link = if interface.get("has_carrier") == Some(&json!(true)) { "link" } else { "no link" };
        let parts = [of("name"), of("mac_address"), of("ipv4_address"), of("ipv6_address"), Some(link)];
        lines.push(("network", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    let body = pairs(&lines, width.saturating_sub(2));
    *text += "\nhardware, as inspected\n";
    body.lines().for_each(|line| *text += &format!("  {}\n", table::plain(line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_on_one_screen() {
        let node = Node(json!({
            "uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e11", "name": "rack1-n2", "driver": "redfish",
            "provision_state": "deploy failed", "target_provision_state": "active", "power_state": "power off",
            "provision_updated_at": "2026-11-23T05:00:00+00:00", "maintenance": true, "fault": "clean failure",
            "last_error": "the image's digest is not the one that the request says, so that the disk has no partition table",
            "driver_info": {"redfish_address": "https://192.0.2.9", "redfish_password": "******"},
            "properties": {"root_device": {"serial": "S1"}, "cpu_arch": "x86_64", "vendor": null},
            "instance_info": {}, "automated_clean": false, "protected": true, "protected_reason": "database",
        }));
        let inventory = json!({
            "cpu": {"count": 64, "model_name": "EPYC"}, "memory": {"physical_mb": 262_144},
            "system_vendor": {"manufacturer": "ACME", "product_name": "R1", "serial_number": "X7"},
            "disks": [{"name": "/dev/nvme0n1", "size": 1_920_383_410_176_u64, "model": "FAST", "serial": "S1", "rotational": false}],
            "interfaces": [{"name": "eth0", "mac_address": "52:54:00:00:00:01", "ipv4_address": "192.0.2.7", "has_carrier": true}],
            "boot": {"current_boot_mode": "uefi"},
        });
        let ports = [json!({"address": "52:54:00:00:00:01", "pxe_enabled": true, "physical_network": null})];
        let now: Timestamp = "2026-11-23T06:00:00Z".parse().unwrap();
        let text = node_text(&node, &ports, &inventory, now, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }
}
