//! More of the field's security history: files and images that an agent is told to read, containers, and what answers on
//! an open network. `docs/security-history.md` lists all of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::Settings;
use agent::net::mdns::Answer;
use hardware_sim::{Event, SimMachine};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;
use support::{Rest, Rig, rig, settings};

/// What is on the disk before; nothing here may change it.
const BEFORE: &[u8] = b"somebody's data";
/// What is in files that are no images; no answer may have it.
const SECRET: &str = "canary-in-a-file";
/// An answer has to come within this time, where the flaw was one that never came.
const LIMIT: Duration = Duration::from_secs(20);

/// An image that can be written (a DOS partition table with one partition), so that only the rule at hand refuses it.
fn image() -> Vec<u8> {
    let mut image = vec![7; 8 << 20];
    image[..512].fill(0);
    image[446 + 4] = 0x83;
    image[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    image[446 + 12..446 + 16].copy_from_slice(&8192_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[1024..1024 + SECRET.len()].copy_from_slice(SECRET.as_bytes());
    image
}

/// An agent with a disk, and a folder that images may come from beside one that they may not.
struct Lab {
    folder: tempfile::TempDir,
    rig: Rig,
    rest: Rest,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = File::create(folder.path().join("disk")).unwrap();
        disk.set_len(8 << 30).unwrap();
        disk.write_all_at(BEFORE, 0).unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        fs::write(folder.path().join("secret"), image()).unwrap();
        fs::write(folder.path().join("images/good"), image()).unwrap();
        let machine = SimMachine::new();
        machine.add_file_disk("/dev/vda", folder.path().join("disk")).unwrap();
        let rig = rig(machine, Settings { image_roots: vec![folder.path().join("images")], ..settings() });
        let rest = Rest::serve(&rig.dispatcher).await;
        Self { folder, rig, rest }
    }

    fn url(&self, path: &str) -> String {
        format!("file://{}/{path}", self.folder.path().display())
    }

    /// Checks that an image is refused in time, that nothing of the secret is told and that the disk is as it was.
    async fn refuses(&self, info: Value) -> Value {
        let params = json!({"image_info": info});
        let answer = tokio::time::timeout(LIMIT, self.rest.command("standby.prepare_image", params, true)).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {info}")).body;
        let refused = answer["command_status"] == "FAILED" || answer["faultcode"] == "Client";
        assert!(refused, "{info}: {answer}");
        assert!(!answer.to_string().contains(SECRET), "{info}: {answer}");
        let mut now = vec![0; BEFORE.len()];
        File::open(self.folder.path().join("disk")).unwrap().read_exact_at(&mut now, 0).unwrap();
        assert_eq!(now, BEFORE, "{info}");
        answer
    }

    /// Checks that the same image from where it may be is written: what was refused before was refused for its place.
    async fn takes_the_good_one(&self) {
        let digest = hex::encode(sha2::Sha256::digest(image()));
        let info = json!({"id": "i", "urls": [self.url("images/good")], "checksum": digest, "disk_format": "raw"});
        let answer = self.rest.command("standby.prepare_image", json!({"image_info": info}), true).await.body;
        assert_eq!(answer["command_status"], "SUCCEEDED", "{answer}");
    }
}

/// CVE-2025-44021: `file://` read any file of the one who was told to fetch it.
#[tokio::test]
async fn cve_2025_44021_an_image_is_read_from_no_folder_but_those_of_images() {
    let lab = Lab::new().await;
    std::os::unix::fs::symlink(lab.folder.path().join("secret"), lab.folder.path().join("images/link")).unwrap();
    std::os::unix::fs::symlink(lab.folder.path(), lab.folder.path().join("images/folder")).unwrap();
    let mut urls: Vec<String> = [
        "secret",
        "images/../secret",
        "images/%2e%2e/secret",
        "images/%2E%2E%2Fsecret",
        "images/link",
        "images/folder/secret",
        "images/x/../../secret",
    ]
    .map(|path| lab.url(path))
    .to_vec();
    urls.extend(["file:///proc/self/environ", "file:///etc/passwd", "file://localhost/etc/passwd"].map(str::to_owned));
    for url in urls {
        // As the image and as the address of its digest.
        let digest = hex::encode(sha2::Sha256::digest(image()));
        lab.refuses(json!({"id": "i", "urls": [url], "checksum": digest, "disk_format": "raw"})).await;
        lab.refuses(json!({"id": "i", "urls": [lab.url("images/good")], "checksum": url})).await;
    }
    lab.takes_the_good_one().await;
}

/// CVE-2026-44919: the checksum of `file:///dev/zero` never ended.
#[tokio::test]
async fn cve_2026_44919_a_checksum_or_image_without_end_is_refused_in_time() {
    let lab = Lab::new().await;
    let images = lab.folder.path().join("images");
    rustix::fs::mknodat(rustix::fs::CWD, images.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", images.join("zero")).unwrap();
    // As large as the file system lets a file be that has nothing in it.
    let sparse = File::create(images.join("sparse")).unwrap();
    assert!((40..=60).rev().any(|bits| sparse.set_len(1 << bits).is_ok()));
    for url in [lab.url("images/pipe"), lab.url("images/zero"), "file:///dev/zero".to_owned(), lab.url("images/sparse")]
    {
        lab.refuses(json!({"id": "i", "urls": [lab.url("images/good")], "checksum": url})).await;
        lab.refuses(json!({"id": "i", "urls": [url], "checksum": "0".repeat(64)})).await;
    }
    lab.takes_the_good_one().await;
}

/// CVE-2024-44082: images that made `qemu-img` read files of the machine that looked at them.
#[tokio::test]
async fn cve_2024_44082_an_image_that_names_another_file_is_refused_whatever_it_is_called() {
    let lab = Lab::new().await;
    let secret = lab.folder.path().join("secret").display().to_string();
    // Version 3, clusters of 64 KiB, 1 GiB; a table at the fourth cluster (qcow2 specification, "Header").
    let mut qcow2 = vec![0; 1 << 20];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    qcow2[20..24].copy_from_slice(&16_u32.to_be_bytes());
    qcow2[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    qcow2[36..40].copy_from_slice(&2_u32.to_be_bytes());
    qcow2[40..48].copy_from_slice(&(3_u64 << 16).to_be_bytes());
    qcow2[48..56].copy_from_slice(&(1_u64 << 16).to_be_bytes());
    qcow2[56..60].copy_from_slice(&1_u32.to_be_bytes());
    qcow2[96..104].copy_from_slice(&[0, 0, 0, 4, 0, 0, 0, 112]);
    qcow2[512..512 + secret.len()].copy_from_slice(secret.as_bytes());
    let mut backed = qcow2.clone();
    backed[8..16].copy_from_slice(&512_u64.to_be_bytes());
    backed[16..20].copy_from_slice(&u32::try_from(secret.len()).unwrap().to_be_bytes());
    let mut external = qcow2.clone();
    external[79] = 4;
    // A header extension of the type "external data file name".
    external[112..116].copy_from_slice(b"DATA");
    external[116..120].copy_from_slice(&u32::try_from(secret.len()).unwrap().to_be_bytes());
    external[120..120 + secret.len()].copy_from_slice(secret.as_bytes());
    let mut two_in_one = backed.clone();
    two_in_one[0x8001..0x8006].copy_from_slice(b"CD001");
    let vmdk = format!("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"{secret}\" 0\n");
    let mut descriptor = vmdk.into_bytes();
    descriptor.resize(1 << 20, b'\n');
    for (name, bytes) in
        [("backing file", backed), ("data file", external), ("qcow2 and iso", two_in_one), ("vmdk", descriptor)]
    {
        fs::write(lab.folder.path().join("images/image"), &bytes).unwrap();
        for declared in [json!("raw"), json!("qcow2"), json!("vmdk"), json!("iso"), Value::Null] {
            let mut info = json!({"id": name, "urls": [lab.url("images/image")]});
            info["checksum"] = json!(hex::encode(sha2::Sha256::digest(&bytes)));
            if !declared.is_null() {
                info["disk_format"] = declared;
            }
            let answer = lab.refuses(info).await;
            assert_eq!(answer["command_error"]["type"], "InvalidImage", "{name}: {answer}");
        }
    }
    let events = lab.rig.machine.events();
    assert!(events.iter().all(|event| matches!(event, Event::Claimed(_) | Event::Reread(_))), "{events:?}");
}

/// A script that provisioned disks: the digest's status was lost in a pipe, so a wrong one stopped nothing. Whatever says the
/// digest, and however the image is packed and written, the command fails and the disk has no table.
#[tokio::test]
async fn nico_disk_imaging_a_wrong_digest_fails_the_write_and_leaves_no_table() {
    let lab = Lab::new().await;
    let images = lab.folder.path().join("images");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, &image()).unwrap();
    fs::write(images.join("good.gz"), packer.finish().unwrap()).unwrap();
    let (sha256, sha512) = ("0".repeat(64), "0".repeat(128));
    fs::write(images.join("SHA256SUMS"), format!("{sha256}  good\n{sha256} *good.gz\n")).unwrap();
    for name in ["good", "good.gz"] {
        for digest in [
            json!({"checksum": sha256}),
            json!({"checksum": sha512}),
            json!({"checksum": lab.url("images/SHA256SUMS")}),
            json!({"os_hash_algo": "sha512", "os_hash_value": sha512}),
        ] {
            for stream in [true, false] {
                let mut info = json!({"id": "i", "urls": [lab.url(&format!("images/{name}"))], "disk_format": "raw",
                                      "stream_raw_images": stream});
                info.as_object_mut().unwrap().extend(digest.as_object().unwrap().clone());
                let params = json!({"image_info": info});
                let answer = lab.rest.command("standby.prepare_image", params, true).await.body;
                assert_eq!(answer["command_error"]["type"], "ImageChecksumError", "{info}: {answer}");
                let mut first = [0; 512];
                File::open(lab.folder.path().join("disk")).unwrap().read_exact_at(&mut first, 0).unwrap();
                assert!(first.starts_with(BEFORE) || first == [0; 512], "{info}: {first:?}");
                let uuids = lab.rest.command("standby.get_partition_uuids", json!({}), true).await.body;
                assert_eq!(uuids["command_result"], json!({}), "{info}");
            }
        }
    }
    lab.takes_the_good_one().await;
}

/// The same script fetched with `curl -k`. An image server whose certificate nobody vouches for is not believed, unless the
/// operator says so.
#[tokio::test]
async fn nico_disk_imaging_an_image_server_that_nobody_vouches_for_is_not_believed() {
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let identity = agent::session::identity::generate(address, transport::tls::Making::default()).unwrap();
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let url = format!("https://{}/image", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(async || image());
    let tls = Some(identity.server_config("1.3").unwrap());
    let serving = transport::server::Settings { tls, ..transport::server::Settings::default() };
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(transport::server::serve(listener, router, serving, stop.clone()));
    let info = json!({"id": "i", "urls": [url], "checksum": hex::encode(sha2::Sha256::digest(image()))});
    for insecure in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("disk")).unwrap().set_len(8 << 30).unwrap();
        let machine = SimMachine::new();
        machine.add_file_disk("/dev/vda", folder.path().join("disk")).unwrap();
        let rig = rig(machine, Settings { insecure, ..settings() });
        let rest = Rest::serve(&rig.dispatcher).await;
        let answer = rest.command("standby.prepare_image", json!({"image_info": info}), true).await.body;
        if insecure {
            assert_eq!(answer["command_status"], "SUCCEEDED", "{answer}");
        } else {
            assert_eq!(answer["command_error"]["type"], "ImageDownloadError", "{answer}");
            assert!(answer.to_string().contains("certificate"), "{answer}");
        }
    }
    stop.cancel();
}

/// The same script took `nvme0n1`, else `sda`. A node whose hints fit no disk has none: the command fails, nothing is claimed.
#[tokio::test]
async fn nico_disk_imaging_no_other_disk_is_taken_when_the_hints_fit_none() {
    let lab = Lab::new().await;
    let digest = hex::encode(sha2::Sha256::digest(image()));
    let info = json!({"id": "i", "urls": [lab.url("images/good")], "checksum": digest, "disk_format": "raw"});
    for hints in [json!({"serial": "another"}), json!({"name": "/dev/sda"}), json!({"size": ">= 100"})] {
        let node = json!({"uuid": "0f3c1d6e-0000-4000-8000-000000000000", "properties": {"root_device": hints}});
        let step = json!({"interface": "deploy", "step": "write_image", "args": {"image_info": info}});
        let params = json!({"step": step, "node": node, "ports": []});
        let answer = lab.rest.command("deploy.execute_deploy_step", params, true).await.body;
        assert_eq!(answer["command_error"]["type"], "DeviceNotFound", "{hints}: {answer}");
    }
    assert!(lab.rig.machine.events().is_empty(), "{:?}", lab.rig.machine.events());
}

/// OSSN-0107: the list of allowed containers was never looked at. Here nothing runs them, whatever the driver allows.
#[tokio::test]
async fn ossn_0107_no_container_runs_whatever_the_driver_allows() {
    for policy in [
        json!({"allow_arbitrary_containers": true}),
        json!({"allow_arbitrary_containers": false, "allowed_containers": ["docker://evil/image"]}),
        json!({"runner": "podman", "pull_options": "--tls-verify=false", "run_options": "--privileged -v /:/host"}),
        json!({}),
    ] {
        let mut settings = settings();
        settings.adopt(&serde_json::from_value(json!({"agent_containers": policy})).unwrap());
        let machine = SimMachine::new();
        machine.add_disk(hardware_sim::disk("/dev/vda", 8 << 30));
        let rig = rig(machine, settings);
        let rest = Rest::serve(&rig.dispatcher).await;
        for family in ["clean", "deploy", "service"] {
            for step in ["generic_container_step", "container_clean_step", "container_step"] {
                let args = json!({"container_url": "docker://evil/image", "run_options": ["--privileged"]});
                let step = json!({"step": step, "interface": "deploy", "args": args});
                let command = format!("{family}.execute_{family}_step");
                let answer = rest.command(&command, json!({"step": step, "node": {}, "ports": []}), true).await.body;
                assert_eq!(answer["command_error"]["type"], "HardwareManagerMethodNotFound", "{policy}: {answer}");
            }
        }
        assert!(rig.machine.events().is_empty(), "{policy}");
    }
}

/// OSSN-0104: whoever answered on the local network set what he liked.
#[test]
fn ossn_0104_an_answer_of_a_stranger_sets_nothing_but_what_it_may() {
    for inspection in [false, true] {
        let mut settings = Settings::default();
        let hostile = [
            ("ipa_api_url", "http://192.0.2.66"),
            ("ipa_agent_token", "0123456789abcdef0123456789abcdef"),
            ("ipa_insecure", "1"),
            ("ipa_cafile", "/tmp/evil.pem"),
            ("ipa_agent_token_required", "false"),
            ("ipa_enable_bios_bootloader_install", "true"),
            ("ipa_debug", "true"),
            ("ipa_ntp_server", ";touch /x"),
            ("rootpwd", "evil"),
        ];
        let options = hostile.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        settings.adopt_mdns(Answer { url: "http://192.0.2.66:6385".to_owned(), options }, inspection);
        assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
    }
}
