//! What an instance finds when it starts: config drives and what goes into them.

use crate::input::{self, InputError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Volume label by which cloud-init finds a config drive.
const LABEL: &str = "config-2";
/// Largest config drive, bytes: the partition that an agent makes for it.
const LARGEST: u64 = 64 << 20;
/// Deepest folder, and most files, of one that is packed.
const DEEPEST: usize = 16;
const MOST_FILES: usize = 10_000;

/// What an instance is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InstanceArgs {
    /// Config drive: a folder (with `openstack/latest/…` in it), an ISO image, plain or gzipped, or an http(s) URL of one
    #[arg(help_heading = "Instance", long, value_name = "FOLDER|FILE|URL", conflicts_with_all = ["user_data", "ssh_key", "hostname", "network_data"])]
    config_drive: Option<String>,
    /// User data of cloud-init: `#cloud-config`, a script, or whatever the image reads
    #[arg(help_heading = "Instance", long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Public key that may log in; may be given several times
    #[arg(help_heading = "Instance", long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// Name of the instance; the node's name without it
    #[arg(help_heading = "Instance", long, value_name = "NAME")]
    hostname: Option<String>,
    /// Network settings in OpenStack's form, YAML or JSON
    #[arg(help_heading = "Instance", long, value_name = "FILE")]
    network_data: Option<PathBuf>,
}

impl InstanceArgs {
    /// Whether one name is given, which only one node can have.
    pub(crate) fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The `configdrive` of a request; `None` when nothing is to be told.
    pub(crate) fn configdrive(&self) -> Result<Option<Value>, InputError> {
        if let Some(given) = &self.config_drive {
            return drive(given).map(|text| Some(Value::from(text)));
        }
        let mut parts = Map::new();
        let mut meta = Map::new();
        if !self.ssh_key.is_empty() {
            let keys = self.ssh_key.iter().enumerate();
            let keys = keys.map(|(number, path)| Ok((number.to_string(), Value::from(public_key(path)?))));
            meta.insert("public_keys".to_owned(), Value::Object(keys.collect::<Result<_, InputError>>()?));
        }
        if let Some(name) = &self.hostname {
            check_hostname(name)?;
            meta.extend([("hostname".to_owned(), json!(name)), ("name".to_owned(), json!(name))]);
        }
        if !meta.is_empty() {
            parts.insert("meta_data".to_owned(), Value::Object(meta));
        }
        if let Some(path) = &self.user_data {
            parts.insert("user_data".to_owned(), Value::from(input::text(path)?));
        }
        if let Some(path) = &self.network_data {
            let data = input::document(path)?;
            if !data.is_object() {
                return Err(content(path, "it is no object", "write links, networks and services"));
            }
            parts.insert("network_data".to_owned(), data);
        }
        Ok(if parts.is_empty() { None } else { Some(Value::Object(parts)) })
    }
}

fn content(path: &Path, problem: impl Into<String>, remedy: &'static str) -> InputError {
    InputError::Content { path: path.display().to_string(), problem: problem.into(), remedy }
}

fn check_hostname(name: &str) -> Result<(), InputError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(InputError::Argument {
        what: "--hostname",
        given: name.to_owned(),
        problem: "it cannot be the name of a host".to_owned(),
        remedy: "use letters, digits and hyphens, with dots between parts of at most 63",
    })
}

/// The key of a file of one public key, as `ssh-keygen` writes it.
pub(crate) fn public_key(path: &Path) -> Result<String, InputError> {
    let text = input::text(path)?;
    if text.contains("PRIVATE KEY-----") {
        return Err(content(path, "it holds a private key", "give the public one, which ends in .pub"));
    }
    let key = text.trim();
    let mut words = key.split_whitespace();
    let kinds = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    let known = words.next().is_some_and(|kind| kinds.iter().any(|known| kind.starts_with(known)));
    let body = words.next().is_some_and(|body| body.len() > 40 && STANDARD.decode(body).is_ok());
    if known && body && !key.contains('\n') {
        return Ok(key.to_owned());
    }
    Err(content(path, "it is no public key", "give a file with one line like `ssh-ed25519 AAAA… name`"))
}

/// What a request carries: a URL, or base64 of a gzipped image.
fn drive(given: &str) -> Result<String, InputError> {
    if given.starts_with("http://") || given.starts_with("https://") {
        return Ok(given.to_owned());
    }
    let path = Path::new(given);
    let metadata = std::fs::metadata(path).map_err(|source| InputError::Read { path: given.to_owned(), source })?;
    if metadata.is_dir() {
        return pack(&folder(path)?);
    }
    if metadata.len() > LARGEST {
        return Err(content(path, "it is larger than 64 MiB", "make it smaller: an agent makes 64 MiB for it"));
    }
    let bytes = std::fs::read(path).map_err(|source| InputError::Read { path: given.to_owned(), source })?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(STANDARD.encode(bytes));
    }
    // ISO 9660, 8.1: the first volume descriptor is in sector 16 of 2048 bytes; a FAT image ends its first sector so.
    let iso = bytes.get(0x8001..0x8006) == Some(b"CD001");
    let fat = bytes.get(510..512) == Some(&[0x55, 0xaa]);
    if iso || fat {
        return pack(&bytes);
    }
    if bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(byte)) && !bytes.is_empty() {
        return Ok(String::from_utf8_lossy(&bytes).split_whitespace().collect());
    }
    Err(content(
        path,
        "it is no config drive: no ISO 9660 or FAT image, no gzip, no base64 of one",
        "user data goes into --user-data",
    ))
}

fn pack(image: &[u8]) -> Result<String, InputError> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
    let packed = gzip.write_all(image).and_then(|()| gzip.finish());
    packed
        .map(|bytes| STANDARD.encode(bytes))
        .map_err(|source| InputError::Read { path: "config drive".to_owned(), source })
}

/// The image of a folder.
fn folder(path: &Path) -> Result<Vec<u8>, InputError> {
    if !path.join("openstack").is_dir() && !path.join("ec2").is_dir() {
        return Err(content(
            path,
            "there is no folder openstack in it",
            "cloud-init reads openstack/latest/meta_data.json",
        ));
    }
    let mut files = Vec::new();
    collect(path, "", 0, &mut files)?;
    let total: u64 = files.iter().map(|(_, data)| data.len() as u64).sum();
    if total > LARGEST {
        return Err(content(path, "it is larger than 64 MiB", "make it smaller: an agent makes 64 MiB for it"));
    }
    let wrong =
        |error: media::iso9660::IsoError| content(path, transport::client::chain(&error), "rename or remove the file");
    let mut iso = media::iso9660::Builder::new(LABEL).map_err(wrong)?;
    for (name, data) in files {
        iso.file(&name, 0o644, data).map_err(wrong)?;
    }
    iso.to_vec().map_err(wrong)
}

fn collect(root: &Path, below: &str, depth: usize, files: &mut Vec<(String, Vec<u8>)>) -> Result<(), InputError> {
    let here = root.join(below);
    let failed = |source| InputError::Read { path: here.display().to_string(), source };
    if depth > DEEPEST || files.len() > MOST_FILES {
        return Err(content(root, "it has too many files or folders", "leave out what cloud-init does not read"));
    }
    let mut entries: Vec<_> = std::fs::read_dir(&here).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| content(&entry.path(), "its name is not UTF-8", "rename it"))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            collect(root, &path, depth + 1, files)?;
        } else if kind.is_file() {
            files.push((path, input::bytes(&entry.path())?));
        } else {
            return Err(content(&entry.path(), "it is neither a file nor a folder", "copy what it leads to"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPeJ1m5c5Yh4mC1v1nVUq7Z2v0bq3W1l5Jm0m0m0m0m0 me@here";

    fn unpacked(text: &str) -> Vec<u8> {
        let mut image = Vec::new();
        flate2::read::GzDecoder::new(&STANDARD.decode(text).unwrap()[..]).read_to_end(&mut image).unwrap();
        image
    }

    fn of(config_drive: Option<&Path>) -> InstanceArgs {
        let config_drive = config_drive.map(|path| path.display().to_string());
        InstanceArgs { config_drive, user_data: None, ssh_key: Vec::new(), hostname: None, network_data: None }
    }

    #[test]
    fn a_folder_becomes_a_gzipped_image_and_an_image_stays_what_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let latest = scratch.path().join("tree/openstack/latest");
        std::fs::create_dir_all(&latest).unwrap();
        std::fs::write(latest.join("meta_data.json"), "{\"uuid\": \"canary-1\"}").unwrap();
        let made = of(Some(&scratch.path().join("tree"))).configdrive().unwrap().unwrap();
        let image = unpacked(made.as_str().unwrap());
        assert_eq!(&image[0x8001..0x8006], b"CD001");
        assert!(image.windows(8).any(|bytes| bytes == b"canary-1"));
        let file = scratch.path().join("drive.iso");
        std::fs::write(&file, &image).unwrap();
        let again = of(Some(&file)).configdrive().unwrap().unwrap();
        assert_eq!(unpacked(again.as_str().unwrap()), image);
        std::fs::write(&file, made.as_str().unwrap()).unwrap();
        assert_eq!(of(Some(&file)).configdrive().unwrap().unwrap(), made);
    }

    #[test]
    fn keys_and_names_go_into_the_meta_data() {
        let scratch = tempfile::tempdir().unwrap();
        let key = scratch.path().join("key.pub");
        std::fs::write(&key, format!("{KEY}\n")).unwrap();
        let args = InstanceArgs { ssh_key: vec![key], hostname: Some("web-1".to_owned()), ..of(None) };
        assert_eq!(
            args.configdrive().unwrap().unwrap(),
            json!({"meta_data": {"public_keys": {"0": KEY}, "hostname": "web-1", "name": "web-1"}})
        );
        assert_eq!(of(None).configdrive().unwrap(), None);
    }

    #[test]
    fn what_is_given_in_the_wrong_place_is_refused_with_the_right_one() {
        let scratch = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut said = String::new();
        let private = file("id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n");
        let words = file("words", "hello there\n");
        let empty = scratch.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for args in [
            InstanceArgs { ssh_key: vec![private], ..of(None) },
            InstanceArgs { ssh_key: vec![words.clone()], ..of(None) },
            InstanceArgs { hostname: Some("web_1".to_owned()), ..of(None) },
            of(Some(&file("user-data", "#cloud-config\n"))),
            of(Some(&empty)),
            InstanceArgs { network_data: Some(words), ..of(None) },
        ] {
            let error = args.configdrive().unwrap_err();
            let text = format!("{error}\n  {}\n", error.remedy().unwrap_or_default());
            said += &text.replace(&scratch.path().display().to_string(), "FOLDER");
        }
        insta::assert_snapshot!(said);
    }
}
