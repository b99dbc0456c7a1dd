//! `ferric deploy` and `ferric rebuild`: which image, onto which disk, and what the instance is told.

use super::provision::{self, Request};
use super::{NodesArg, Session};
use crate::config_drive::InstanceArgs;
use crate::consent::ConsentArgs;
use crate::destroy::Does;
use crate::error::Error;
use crate::watch::{Goal, WatchArgs};
use lifecycle::provision::Verb;
use serde_json::{Map, Value, json};

/// Arguments of `deploy` and `rebuild`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    nodes: NodesArg,
    /// URL of the image; without it, the one that the node has in its instance_info
    #[arg(long, value_name = "URL", help_heading = "Image")]
    image: Option<String>,
    /// Digest of the image: sha256:HEX (sha384, sha512), or the URL of a file of digests
    #[arg(long, value_name = "DIGEST|URL", requires = "image", help_heading = "Image")]
    checksum: Option<String>,
    /// What the image is: raw or qcow2; without it, what its content says
    #[arg(long, value_name = "FORMAT", requires = "image", help_heading = "Image")]
    format: Option<String>,
    /// Which disk: a root device hint such as serial=S3Z8NX0M or size=>=400; may be given several times, and is kept in
    /// the node's properties
    #[arg(long, value_name = "HINT=VALUE", help_heading = "Image")]
    root_device: Vec<String>,
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

impl DeployArgs {
    pub(crate) fn dry_run(&self) -> bool {
        self.consent.dry_run
    }
}

/// Deploys, or deploys again.
pub(crate) async fn run(session: &Session, args: &DeployArgs, verb: Verb) -> Result<(), Error> {
    if let (Some(name), true) = (args.instance.hostname(), args.nodes.nodes.len() > 1) {
        return Err(Error::usage(
            format!("--hostname {name} is for one node, not for {}", args.nodes.nodes.len()),
            "leave it out: each instance is then named like its node",
        ));
    }
    let hints = root_device(&args.root_device)?;
    let mut patch = image(args)?;
    if let Some(hints) = &hints {
        patch.push(json!({"op": "add", "path": "/properties/root_device", "value": hints}));
    }
    let mut more = json!({});
    if let Some(drive) = args.instance.configdrive()? {
        more["configdrive"] = drive;
    }
    let request = Request {
        verb,
        more,
        // What an earlier image left must not speak for this one.
        forget: if args.image.is_some() { IMAGE_KEYS } else { &[] },
        patch,
        goal: Goal::States(&["active"]),
        does: Some(Does::WritesImage { hints }),
    };
    provision::run(session, &args.nodes, &request, args.consent, args.watch).await
}

/// What says what an image is.
const IMAGE_KEYS: &[&str] = &["image_checksum", "image_os_hash_algo", "image_os_hash_value", "image_disk_format"];

fn image(args: &DeployArgs) -> Result<Vec<Value>, Error> {
    let Some(url) = &args.image else { return Ok(Vec::new()) };
    if !["http://", "https://", "file:///"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::usage(
            format!("--image {url:?} is no URL that a node can fetch"),
            "put the image on a web server and give its http:// or https:// URL; nodes fetch it themselves",
        ));
    }
    let Some(given) = &args.checksum else {
        return Err(Error::usage(
            format!("nothing vouches for {url}"),
            "give --checksum: sha256:HEX as `sha256sum` prints it, or the URL of the image's SHA256SUMS",
        ));
    };
    let checksum = checksum(given)?;
    let set = |key: &str, value: Value| json!({"op": "add", "path": format!("/instance_info/{key}"), "value": value});
    let mut patch = vec![set("image_source", json!(url))];
    patch.extend(checksum.into_iter().map(|(key, value)| set(&key, value)));
    if let Some(format) = &args.format {
        if !["raw", "qcow2"].contains(&format.as_str()) {
            return Err(Error::usage(format!("--format {format:?} is not known"), "use raw or qcow2"));
        }
        patch.push(set("image_disk_format", json!(format)));
    }
    Ok(patch)
}

/// Digests by the length of their hexadecimal text.
const ALGORITHMS: [(&str, usize); 4] = [("md5", 32), ("sha256", 64), ("sha384", 96), ("sha512", 128)];

fn checksum(given: &str) -> Result<Map<String, Value>, Error> {
    let wrong = |why: &str| {
        Error::usage(
            format!("--checksum {given:?} {why}"),
            "write sha256:HEX (or sha384, sha512), or the http(s) URL of a file of digests",
        )
    };
    let mut keys = Map::new();
    if given.starts_with("http://") || given.starts_with("https://") {
        keys.insert("image_checksum".to_owned(), json!(given));
        return Ok(keys);
    }
    let (algorithm, digest) = match given.split_once(':') {
        Some((algorithm, digest)) => (algorithm.to_ascii_lowercase(), digest),
        None => {
            let known = ALGORITHMS.iter().find(|(_, length)| *length == given.len());
            (known.ok_or_else(|| wrong("has no algorithm"))?.0.to_owned(), given)
        }
    };
    let Some((_, length)) = ALGORITHMS.iter().find(|(known, _)| *known == algorithm) else {
        return Err(wrong("has an algorithm that is not known"));
    };
    if digest.len() != *length || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong(&format!("should have {length} hexadecimal digits behind the colon, not {}", digest.len())));
    }
    let digest = json!(digest.to_ascii_lowercase());
    if algorithm == "md5" {
        keys.insert("image_checksum".to_owned(), digest);
    } else {
        keys.insert("image_os_hash_algo".to_owned(), json!(algorithm));
        keys.insert("image_os_hash_value".to_owned(), digest);
    }
    Ok(keys)
}

/// The hints object; checked here, so that a mistake is found before a server is booted.
fn root_device(given: &[String]) -> Result<Option<Value>, Error> {
    if given.is_empty() {
        return Ok(None);
    }
    let hints = crate::input::pairs("--root-device", given)?;
    hardware::hint::Hints::parse(&hints).map_err(|error| {
        Error::usage(
            transport::client::chain(&error),
            "such as --root-device serial=S3Z8NX0M, --root-device 'size=>= 400' or --root-device rotational=false",
        )
    })?;
    Ok(Some(Value::Object(hints)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked_before_a_server_is_booted() {
        let hex = "a".repeat(64);
        let keys = |given: &str| checksum(given).map(Value::Object);
        assert_eq!(
            keys(&format!("SHA256:{}", hex.to_uppercase())).unwrap(),
            json!({"image_os_hash_algo": "sha256", "image_os_hash_value": hex})
        );
        assert_eq!(keys(&hex).unwrap()["image_os_hash_algo"], "sha256");
        assert_eq!(keys("https://images/SHA256SUMS").unwrap(), json!({"image_checksum": "https://images/SHA256SUMS"}));
        for wrong in ["sha256:abc", "crc:00", "abc", &format!("sha256:{}", "g".repeat(64))] {
            assert!(checksum(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hints_are_those_that_agents_know() {
        let of = |given: &str| root_device(&[given.to_owned()]).map_err(|error| error.to_string());
        assert_eq!(of("serial=ABC"), Ok(Some(json!({"serial": "ABC"}))));
        assert_eq!(of("size=>= 400"), Ok(Some(json!({"size": ">= 400"}))));
        assert!(of("colour=red").unwrap_err().contains("\"colour\" is not known"));
    }
}
