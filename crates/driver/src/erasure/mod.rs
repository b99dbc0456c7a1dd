//! Records of erasures: what an agent reports of each device that a step erased, or was to erase, signed by this driver.
//!
//! The agent's report is taken as it is: nothing of it is understood here but which device it is about, how it was
//! erased and what came of it. What is signed is a JSON object in the one spelling of [RFC 8785](wire::jcs), so that anybody
//! can write it again and check the signature with the public key (`GET /v1/erasures/key`).

mod known;
mod signer;

pub use known::Known;
pub use signer::{KeyError, Signer};

use hardware::{Step, StepKind};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use store::{Node, Record, RecordKind};
use uuid::Uuid;
use wire::jcs;

/// Version of the signed object; another meaning of a member is another version.
const FORMAT: &str = "ferric.erasure/1";
/// Most devices of one step that records are made of; what more there is goes into the history.
const MOST_REPORTS: usize = 512;
/// Longest report that is kept whole, in bytes of JSON.
const LONGEST_REPORT: usize = 256 * 1024;
/// Longest text of a member that is shown by itself, in characters.
const LONGEST: usize = 255;

/// Whether a step erases devices, so that records are expected of it.
pub fn is_expected_of(step: &Step) -> bool {
    step.step.starts_with("erase_devices")
}

/// What a step's result says of devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reports {
    /// The reports.
    pub reports: Vec<Value>,
    /// How many entries of the result are none.
    pub others: usize,
}

/// The reports in the result of a step's command: a list of objects with at least `device`, `method` and `outcome`, by
/// itself or under the step's kind, as the protocol has it. `None` where there is no such list: an agent that does not
/// report.
pub fn reports(kind: StepKind, result: Option<&Value>) -> Option<Reports> {
    let result = result?;
    let list = result.get(format!("{}_result", kind.as_str())).unwrap_or(result).as_array()?;
    let is_report = |entry: &&Value| {
        entry.get("device").is_some_and(|device| device.is_string() || device.is_object())
            && ["method", "outcome"].into_iter().all(|key| entry.get(key).is_some_and(Value::is_string))
    };
    let found: Vec<Value> = list.iter().filter(is_report).take(MOST_REPORTS).cloned().collect();
    if found.is_empty() && !list.is_empty() {
        return None;
    }
    Some(Reports { others: list.len() - found.len(), reports: found })
}

/// Who says it, of what, and when.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'a> {
    /// The node.
    pub node: &'a Node,
    /// Clean, deploy or service.
    pub kind: StepKind,
    /// The step.
    pub step: &'a Step,
    /// The conductor's name.
    pub conductor: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// A text of at most [`LONGEST`] characters.
fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The device of a report, as people call it: where it was seen, and its name or number.
pub fn device_name(report: &Value) -> String {
    match report.get("device") {
        Some(Value::String(name)) => short(name),
        Some(Value::Object(device)) => {
            let text = |key: &str| device.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            let place = text("node").or_else(|| text("name")).or_else(|| text("path")).unwrap_or("a device");
            match text("wwn").or_else(|| text("serial")) {
                Some(identity) => short(&format!("{place} ({identity})")),
                None => short(place),
            }
        }
        _ => "a device".to_owned(),
    }
}

/// The text of a member of a report.
fn member(report: &Value, key: &str) -> String {
    short(report.get(key).and_then(Value::as_str).unwrap_or_default())
}

/// Makes the record of a report and signs it.
pub fn record(statement: Statement<'_>, report: Value, signer: &Signer) -> Record {
    let uuid = Uuid::new_v4();
    let (device, method, outcome) = (device_name(&report), member(&report, "method"), member(&report, "outcome"));
    let report = if report.to_string().len() > LONGEST_REPORT {
        let why = format!("the report is longer than {LONGEST_REPORT} bytes and was not kept");
        json!({"device": device, "method": method, "outcome": outcome, "omitted": why})
    } else {
        report
    };
    let step = format!("{}.{}", statement.step.interface, statement.step.step);
    let node = statement.node.uuid;
    let signed = json!({
        "format": FORMAT,
        "uuid": uuid,
        "node": {"uuid": node, "name": statement.node.name},
        "kind": statement.kind.as_str(),
        "step": step,
        "conductor": statement.conductor,
        "created_at": statement.now.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
        "report": report,
    });
    let value = signer.sign(&jcs::canonical(&signed));
    let fields = json!({
        "node_uuid": node,
        "step": step,
        "device": device,
        "method": method,
        "outcome": outcome,
        "record": signed,
        "signature": {"algorithm": "ed25519", "key_id": signer.id(), "canonicalization": "RFC 8785", "value": value},
    });
    let mut record = Record::new(RecordKind::Erasure, uuid, statement.now);
    record.fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement<'a>(node: &'a Node, step: &'a Step) -> Statement<'a> {
        Statement { node, kind: StepKind::Clean, step, conductor: "here", now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn reports_are_found_where_agents_put_them_and_nothing_is_invented() {
        let report = json!({"device": "/dev/sda", "method": "metadata", "outcome": "verified", "more": [1]});
        let whole = Some(Reports { reports: vec![report.clone()], others: 0 });
        assert_eq!(reports(StepKind::Clean, Some(&json!({"clean_result": [report], "clean_step": {}}))), whole);
        assert_eq!(reports(StepKind::Service, Some(&json!({"service_result": [report]}))), whole);
        assert_eq!(reports(StepKind::Deploy, Some(&json!([report]))), whole);
        let mixed = reports(StepKind::Clean, Some(&json!({"clean_result": [report, "text", {"device": "x"}]})));
        assert_eq!(mixed, Some(Reports { reports: vec![report], others: 2 }));
        assert_eq!(reports(StepKind::Clean, Some(&json!({"clean_result": []}))), Some(Reports::default()));
        // ironic-python-agent answers with nothing, or with what is no report.
        for none in
            [json!({"clean_result": null}), json!({"clean_result": "done"}), json!({"clean_result": [{"a": 1}]})]
        {
            assert_eq!(reports(StepKind::Clean, Some(&none)), None, "{none}");
        }
        assert_eq!(reports(StepKind::Clean, None), None);
    }

    #[test]
    fn a_record_is_signed_as_a_whole_and_any_change_is_noticed() {
        use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
        use base64::Engine as _;
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(&folder.path().join("key.pem")).unwrap();
        let mut node = Node::new(Uuid::new_v4(), "redfish", Timestamp::UNIX_EPOCH);
        node.name = Some("server-1".to_owned());
        let step = Step::new("deploy", "erase_devices", 10);
        let device =
            json!({"node": "/dev/nvme0n1", "wwn": "eui.00", "serial": "S1", "path": null, "size": 8_000_000_000_u64});
        let report =
            json!({"device": device, "method": "nvme-sanitize-crypto", "outcome": "verified", "samples": 0.01});
        let record = record(statement(&node, &step), report, &signer);
        assert_eq!(record.text("device"), Some("/dev/nvme0n1 (eui.00)"));
        assert_eq!(record.node, None);

        let pem = signer.public_pem();
        let encoded: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let public = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, &public[12..]);
        let value = record.fields["signature"]["value"].as_str().unwrap();
        let signature = base64::engine::general_purpose::STANDARD.decode(value).unwrap();
        let mut signed = record.fields["record"].clone();
        public.verify(jcs::canonical(&signed).as_bytes(), &signature).unwrap();
        signed["report"]["outcome"] = json!("skipped");
        public.verify(jcs::canonical(&signed).as_bytes(), &signature).unwrap_err();

        let mut shown = record.fields["record"].clone();
        shown["uuid"] = json!("[uuid]");
        shown["node"]["uuid"] = json!("[node]");
        insta::assert_snapshot!(jcs::canonical(&shown));
    }

    #[test]
    fn a_report_without_end_is_not_kept_but_its_outcome_is() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(&folder.path().join("key.pem")).unwrap();
        let node = Node::new(Uuid::new_v4(), "redfish", Timestamp::UNIX_EPOCH);
        let step = Step::new("deploy", "erase_devices", 10);
        let report = json!({"device": "/dev/sda", "method": "m", "outcome": "failed", "x": "x".repeat(LONGEST_REPORT)});
        let record = record(statement(&node, &step), report, &signer);
        assert!(record.fields["record"]["report"]["omitted"].is_string());
        assert_eq!(record.text("outcome"), Some("failed"));
    }
}
