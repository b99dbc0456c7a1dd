//! Records of erasures: shown, and verified without the service.

use super::Session;
use crate::api::{ApiError, path};
use crate::connect::{Connection, Format};
use crate::error::Error;
use crate::input::{self, InputError};
use crate::output::Output;
use crate::table::{on_terminal, pairs, table, width};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `node erasures`.
#[derive(Debug, clap::Args)]
pub(crate) struct ErasuresArgs {
    /// Name or UUID of a node; of a node that was deleted, the UUID
    node: String,
    /// UUID of one record: all of it, as it is signed
    record: Option<String>,
    /// Check the signature of each record with this public key, a PEM file. Get it from somebody whom you trust
    #[arg(long, value_name = "KEYFILE")]
    verify: Option<PathBuf>,
}

/// What is done with a record.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ErasureVerb {
    /// Show the records of a node
    Show(ErasuresArgs),
    /// Check the signature of a record in a file, without asking anybody
    Verify(VerifyArgs),
    /// Show the public key by which records are verified
    Key,
}

/// Arguments of `erasures verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// File with a record, as `ferric node erasures NODE RECORD -o json` prints it; - for standard input
    file: PathBuf,
    /// Public key of the driver that signed, a PEM file. Get it from somebody whom you trust
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// The records of a node, or one of them.
pub(crate) async fn show(session: &Session, args: &ErasuresArgs) -> Result<(), Error> {
    let instead = "`ferric node history NODE` shows what an Ironic keeps";
    let of = |error| Error::of(&args.node, error);
    let key = args.verify.as_deref().map(public_key).transpose()?;
    match &args.record {
        Some(record) => {
            let document = session.api.ours(&args.node, &format!("erasures/{record}"), instead).await.map_err(of)?;
            let verdict = key.as_ref().map(|key| check(record, &document, key)).transpose()?;
            let told = verdict.map(|()| "signature  good\n").unwrap_or_default();
            session.output.result(&(record_text(&document, width()) + told), &document);
        }
        None => {
            // Asked for once to learn whether the service has them, then page by page.
            session.api.ours(&args.node, "erasures?limit=1", instead).await.map_err(of)?;
            let resource = path(&["nodes", &args.node, "erasures"]);
            let query: &[(&str, &str)] = if key.is_some() { &[("fields", SIGNED)] } else { &[] };
            let records = session.api.list(resource.trim_start_matches('/'), query, usize::MAX).await.map_err(of)?;
            if records.is_empty() && session.output.format == Format::Table {
                crate::output::note(&format!("no erasure of {:?} is recorded", args.node));
            }
            session.output.result(&list_text(&records, on_terminal().then(width)), &json!(records));
            if let Some(key) = &key {
                check_all(session, &records, key)?;
            }
        }
    }
    Ok(())
}

/// What a signature is checked by, and what a list shows.
const SIGNED: &str = "uuid,created_at,step,device,method,outcome,node_uuid,record,signature";

/// Checks all records, and tells of each that is not what was signed.
fn check_all(session: &Session, records: &[Value], key: &Key) -> Result<(), Error> {
    let mut failed = 0;
    for record in records {
        let name = record.get("uuid").and_then(Value::as_str).unwrap_or("a record without a UUID");
        if let Err(error) = check(name, record, key) {
            session.output.error(&error);
            failed += 1;
        }
    }
    let all = records.len();
    if failed > 0 {
        return Err(Error::Differs(format!("{failed} of {all} records are not proven by {}", key.path)));
    }
    if session.output.format == Format::Table && all > 0 {
        crate::output::note(&format!("the signature of each of the {all} records is that of key {}", key.id));
    }
    Ok(())
}

fn list_text(records: &[Value], limit: Option<usize>) -> String {
    if records.is_empty() {
        return String::new();
    }
    let row = |record: &Value| {
        let of = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let time = of("created_at").get(..16).unwrap_or_default().replace('T', " ");
        let step = of("step").trim_start_matches("deploy.").to_owned();
        vec![time, of("outcome"), step, of("method"), of("device"), of("uuid")]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    // The number of a record is needed whole; it stands on a line of its own where there is no room beside the rest.
    match limit {
        None => table(&["time", "outcome", "step", "method", "device", "record"], &rows, None),
        Some(limit) => {
            let short: Vec<Vec<String>> = rows.iter().map(|row| row[..5].to_vec()).collect();
            let shown = table(&["time", "outcome", "step", "method", "device"], &short, Some(limit));
            let mut lines = shown.lines();
            let mut text = format!("{}\n", lines.next().unwrap_or_default());
            for (line, row) in lines.zip(&rows) {
                text += &format!("{line}\n    record {}\n", row[5]);
            }
            text
        }
    }
}

fn record_text(document: &Value, width: usize) -> String {
    let of = |pointer: &str| {
        document.pointer(pointer).filter(|value| !value.is_null()).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let mut lines: Vec<(&str, String)> = Vec::new();
    for (name, pointer) in [
        ("record", "/uuid"),
        ("time", "/created_at"),
        ("node", "/record/node/name"),
        ("node's uuid", "/record/node/uuid"),
        ("device", "/device"),
        ("step", "/step"),
        ("method", "/method"),
        ("outcome", "/outcome"),
        ("signed by", "/record/conductor"),
        ("key", "/signature/key_id"),
        ("report", "/record/report"),
    ] {
        lines.extend(of(pointer).map(|value| (name, value)));
    }
    pairs(&lines, width)
}

/// The public key of the service.
pub(crate) async fn key(connection: &Connection) -> Result<(), Error> {
    let session = Session::new(connection, true)?;
    let key = match session.api.get("/v1/erasures/key").await {
        Err(ApiError::NotFound { .. } | ApiError::NoRoute { .. } | ApiError::Refused { status: 400, .. }) => {
            return Err(Error::from(ApiError::Lacking {
                what: "erasures".to_owned(),
                url: session.api.endpoint().url.clone(),
                instead: "an Ironic signs no records of erasures".to_owned(),
            }));
        }
        other => other?,
    };
    let pem = key.get("public_key").and_then(Value::as_str).unwrap_or_default().to_owned();
    session.output.result(&pem, &key);
    Ok(())
}

/// What precedes the 32 bytes of an Ed25519 public key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Checks a record's signature.
pub(crate) fn verify(args: &VerifyArgs, output: Output) -> Result<(), Error> {
    let shown = args.file.display().to_string();
    let document: Value = wire::json::read(&input::bytes(&args.file)?)
        .map_err(|error| InputError::Document { path: shown.clone(), reason: error.to_string() })?;
    let key = public_key(&args.key)?;
    check(&shown, &document, &key)?;
    let (record, key_id) = (document.get("record").unwrap_or(&Value::Null), key.id);
    let report = |key: &str| record.pointer(&format!("/report/{key}")).cloned().unwrap_or_default();
    let device = match report("device") {
        Value::String(name) => name,
        other => other.to_string(),
    };
    let lines = [
        ("verified", format!("the signature is that of key {key_id}")),
        ("node", format!("{} ({})", plain(record.pointer("/node/name")), plain(record.pointer("/node/uuid")))),
        ("time", plain(record.get("created_at"))),
        ("step", plain(record.get("step"))),
        ("device", device),
        ("method", plain(Some(&report("method")))),
        ("outcome", plain(Some(&report("outcome")))),
    ];
    output.result(&pairs(&lines, width()), &json!({"verified": true, "key_id": key_id, "record": record}));
    Ok(())
}

fn plain(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or("-").to_owned()
}

/// A public key, and who it is.
struct Key {
    /// The file that it is from.
    path: String,
    bytes: Vec<u8>,
    /// SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
    id: String,
}

fn public_key(file: &Path) -> Result<Key, Error> {
    let text = input::text(file)?;
    let path = file.display().to_string();
    let wrong = || {
        Error::Input(InputError::Content {
            path: path.clone(),
            problem: "it holds no Ed25519 public key (PEM, SubjectPublicKeyInfo)".to_owned(),
            remedy: "`ferric erasures key` prints that of the service",
        })
    };
    let body =
        text.split_once("-----BEGIN PUBLIC KEY-----").and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"));
    let body: String = body.ok_or_else(wrong)?.0.split_whitespace().collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).map_err(|_| wrong())?;
    let bytes = der.strip_prefix(&SPKI[..]).filter(|key| key.len() == 32).map(<[u8]>::to_vec).ok_or_else(wrong)?;
    let id = digest::digest(&digest::SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Key { path, bytes, id })
}

/// Whether a record is what was signed with this key. `name`: of the record, for messages.
fn check(name: &str, document: &Value, key: &Key) -> Result<(), Error> {
    let (record, signature) = (document.get("record"), document.get("signature"));
    let (Some(record), Some(signature)) = (record.filter(|it| it.is_object()), signature.filter(|it| it.is_object()))
    else {
        return Err(Error::Input(InputError::Content {
            path: name.to_owned(),
            problem: "it has no record with its signature".to_owned(),
            remedy: "save one by `ferric node erasures NODE RECORD -o json`",
        }));
    };
    let word = |key: &str| signature.get(key).and_then(Value::as_str).unwrap_or_default();
    if (word("algorithm"), word("canonicalization")) != ("ed25519", "RFC 8785") {
        return Err(Error::Differs(format!(
            "{name} is signed by {:?} over {:?}; this command knows ed25519 over RFC 8785",
            word("algorithm"),
            word("canonicalization")
        )));
    }
    if word("key_id") != key.id {
        let text = format!("{name} names the key {:?}, and {} holds {}", word("key_id"), key.path, key.id);
        return Err(Error::Differs(text));
    }
    let value = base64::engine::general_purpose::STANDARD.decode(word("value")).unwrap_or_default();
    let text = wire::jcs::canonical(record);
    let verified = UnparsedPublicKey::new(&ED25519, &key.bytes).verify(text.as_bytes(), &value);
    verified.map_err(|_| Error::Differs(format!("{name} is not what was signed: it was changed, or is another's")))?;
    // What stands beside the signed record is for lists; it must not tell another story.
    for (beside, signed) in BESIDE {
        if let Some(told @ Value::String(_)) = document.get(beside)
            && Some(told) != record.pointer(signed)
        {
            return Err(Error::Differs(format!("{name} says {beside} {told}, and the signed record does not")));
        }
    }
    Ok(())
}

/// What a list shows of a record, and where the signed record has it.
const BESIDE: [(&str, &str); 5] = [
    ("step", "/step"),
    ("node_uuid", "/node/uuid"),
    ("uuid", "/uuid"),
    ("outcome", "/report/outcome"),
    ("method", "/report/method"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    /// What `ferricd` signs, as its own test has it.
    const SIGNED: &str = include_str!(
        "../../../driver/src/erasure/snapshots/driver__erasure__tests__a_record_is_signed_as_a_whole_and_any_change_is_noticed.snap"
    );

    fn pem(key: &[u8]) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode([&SPKI[..], key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    #[test]
    fn a_record_is_verified_as_a_whole_and_any_change_is_found() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = pair.public_key().as_ref().to_vec();
        let record: Value = serde_json::from_str(SIGNED.lines().last().unwrap()).unwrap();
        let id: String = digest::digest(&digest::SHA256, &[&SPKI[..], &key].concat())
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let value =
            base64::engine::general_purpose::STANDARD.encode(pair.sign(wire::jcs::canonical(&record).as_bytes()));
        let document = json!({"uuid": record["uuid"], "step": record["step"], "node_uuid": record["node"]["uuid"],
                              "outcome": "verified", "record": record, "signature": {"algorithm": "ed25519", "canonicalization": "RFC 8785",
                              "key_id": id, "value": value}});
        let folder = tempfile::tempdir().unwrap();
        let (file, key_file) = (folder.path().join("record.json"), folder.path().join("key.pem"));
        std::fs::write(&key_file, pem(&key)).unwrap();
        let check = |document: &Value, key: &std::path::Path| {
            std::fs::write(&file, document.to_string()).unwrap();
            let args = VerifyArgs { file: file.clone(), key: key.to_owned() };
            verify(&args, Output { format: Format::Json }).map_err(|error| error.exit())
        };
        assert_eq!(check(&document, &key_file), Ok(()));
        for (pointer, value) in [
            ("/record/report/outcome", json!("skipped")),
            ("/record/report/device/size", json!(8)),
            ("/record/node/name", json!("server-2")),
            ("/signature/value", json!("")),
            ("/signature/key_id", json!("00")),
            ("/signature/algorithm", json!("none")),
            ("/node_uuid", json!("another")),
            ("/outcome", json!("skipped")),
        ] {
            let mut changed = document.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert_eq!(check(&changed, &key_file), Err(Exit::Differs), "{pointer}");
        }
        assert_eq!(check(&json!({"record": {}}), &key_file), Err(Exit::Usage));
        let other = Ed25519KeyPair::generate().unwrap();
        std::fs::write(&key_file, pem(other.public_key().as_ref())).unwrap();
        assert_eq!(check(&document, &key_file), Err(Exit::Differs));
        std::fs::write(&key_file, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap();
        assert_eq!(check(&document, &key_file), Err(Exit::Usage));
    }

    #[test]
    fn records_keep_their_numbers_on_a_narrow_terminal() {
        let records =
            [json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e11", "created_at": "2026-11-23T05:00:00+00:00",
            "step": "deploy.erase_devices", "device": "/dev/nvme0n1 (eui.002538b571b0d9a3)",
            "method": "nvme-sanitize-crypto", "outcome": "verified"})];
        insta::assert_snapshot!(format!("{}\n{}", list_text(&records, Some(80)), list_text(&records, None)));
    }
}
