//! The built program and signed records of erasures: those of a node are checked with a key that is in a file.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

#[allow(dead_code, reason = "each test program uses its part of it")]
mod service;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use service::{Asked, NODE, Service, json, node, recorded};

/// What precedes the key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A record as ferricd serves it.
fn signed(pair: &Ed25519KeyPair, uuid: &str, outcome: &str) -> Value {
    let report = json!({"device": "/dev/sda", "method": "overwrite", "outcome": outcome});
    let record = json!({"uuid": uuid, "node": {"uuid": NODE, "name": "node-1"}, "step": "deploy.erase_devices",
                        "created_at": "2026-11-23T05:00:00+00:00", "report": report});
    let der = [&SPKI[..], pair.public_key().as_ref()].concat();
    let id: String = digest::digest(&digest::SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let value = STANDARD.encode(pair.sign(wire::jcs::canonical(&record).as_bytes()));
    json!({"uuid": uuid, "created_at": record["created_at"], "step": record["step"], "device": "/dev/sda",
           "method": "overwrite", "outcome": outcome, "node_uuid": NODE, "record": record,
           "signature": {"algorithm": "ed25519", "canonicalization": "RFC 8785", "key_id": id, "value": value}})
}

fn serving(records: Vec<Value>) -> Service {
    Service::start(move |asked: &Asked| match asked.path() {
        "/v1/nodes/node-1" => json(&node(json!({}))),
        "/v1/nodes/node-1/erasures" => json(&json!({"erasures": records})),
        "/v1/nodes/node-1/erasures/r-2" => json(&records[1]),
        _ => recorded("errors", "no such path"),
    })
}

#[test]
fn records_of_a_node_are_checked_with_a_key_from_a_file() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let body = STANDARD.encode([&SPKI[..], pair.public_key().as_ref()].concat());
    std::fs::write(file.path(), format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")).unwrap();
    let key = file.path().to_str().unwrap();
    let good = vec![signed(&pair, "r-1", "verified"), signed(&pair, "r-2", "failed")];
    let all = ["node", "erasures", "node-1", "--verify", key];
    let one = ["erasures", "show", "node-1", "r-2", "--verify", key];

    let service = serving(good.clone());
    let (code, out, err) = service.run(&all);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("verified") && err.contains("each of the 2 records is that of key"), "{out}{err}");
    let (code, out, err) = service.run(&one);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("signature  good"), "{out}");

    let mut forged = good;
    forged[1]["record"]["report"]["outcome"] = json!("verified");
    forged[1]["outcome"] = json!("verified");
    let service = serving(forged);
    for (arguments, says) in [(&all[..], "1 of 2 records are not proven"), (&one[..], "r-2 is not what was signed")] {
        let (code, _, err) = service.run(arguments);
        assert_eq!(code, Some(6), "{err}");
        assert!(err.contains("r-2 is not what was signed") && err.contains(says), "{err}");
    }
    // Without a key nobody is led to believe that something was checked.
    let (code, out, err) = service.run(&["node", "erasures", "node-1"]);
    assert_eq!((code, out.contains("signature") || err.contains("signature")), (Some(0), false), "{out}{err}");
}
