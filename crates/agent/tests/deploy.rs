//! Writing an image, from `image_info` to a sealed disk, on a disk that is a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use hardware::Contents;
use hardware_sim::{Event, SimMachine};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use support::{Rest, Rig, rig, settings};

/// Bytes of the disk: the least that is taken for a root disk without hints.
const DISK: u64 = 4 << 30;
const IMAGE: usize = 24 << 20;
const SECTOR: usize = 512;

struct Lab {
    folder: tempfile::TempDir,
    rig: Rig,
    rest: Rest,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = SimMachine::new();
        let disk = folder.path().join("disk");
        File::create(&disk).unwrap().set_len(DISK).unwrap();
        machine.add_file_disk("/dev/vda", disk).unwrap();
        let rig = rig(machine, settings());
        let rest = Rest::serve(&rig.dispatcher).await;
        Self { folder, rig, rest }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn first_sectors(&self) -> Vec<u8> {
        let mut sectors = vec![0; 2 * SECTOR];
        File::open(self.disk()).unwrap().read_exact_at(&mut sectors, 0).unwrap();
        sectors
    }

    /// Puts an image into a file and returns its `image_info`.
    fn image(&self, name: &str, bytes: &[u8]) -> Value {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        json!({
            "id": name,
            "urls": [format!("file://{}", path.display())],
            "os_hash_algo": "sha256",
            "os_hash_value": hex::encode(sha2::Sha256::digest(bytes)),
            "disk_format": "raw",
        })
    }

    async fn write(&self, info: &Value) -> Value {
        let step =
            json!({"step": "write_image", "interface": "deploy", "args": {"image_info": info, "configdrive": null}});
        let params = json!({"step": step, "node": {"uuid": "n"}, "ports": []});
        self.rest.command("deploy.execute_deploy_step", params, true).await.body
    }
}

/// An image with a DOS partition table: one partition, and a signature.
fn image() -> Vec<u8> {
    let mut image = vec![0; IMAGE];
    for (index, byte) in image.iter_mut().enumerate().skip(1 << 20) {
        *byte = (index * 7 + index / 4096) as u8;
    }
    image[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    let entry = &mut image[446..462];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entry[12..16].copy_from_slice(&20_480_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

#[tokio::test]
async fn a_packed_image_is_on_the_disk_and_its_signature_is_told() {
    let lab = Lab::new().await;
    let image = image();
    let packed = zstd::encode_all(&image[..], 3).unwrap();
    let result = lab.write(&lab.image("debian.raw.zst", &packed)).await;
    assert_eq!(result["command_status"], "SUCCEEDED", "{result}");
    let text = result["command_result"]["deploy_result"]["result"].as_str().unwrap();
    assert_eq!(text, "prepare_image: image (debian.raw.zst) written to device /dev/vda root_uuid=0x1234abcd");
    assert_eq!(result["command_result"]["deploy_step"]["step"], "write_image");
    let mut read = vec![0; IMAGE];
    File::open(lab.disk()).unwrap().read_exact_at(&mut read, 0).unwrap();
    assert!(read == image, "the disk holds something else than the image");
    let uuids = lab.rest.command("standby.get_partition_uuids", json!({}), true).await;
    assert_eq!(uuids.body["command_result"], json!({"root uuid": "0x1234abcd"}));
    let device = "/dev/vda".to_owned();
    assert_eq!(lab.rig.machine.events(), [Event::Claimed(device.clone()), Event::Reread(device)]);
}

#[tokio::test]
async fn a_wrong_checksum_fails_by_its_class_and_leaves_no_table() {
    let lab = Lab::new().await;
    let mut info = lab.image("debian.raw", &image());
    info["os_hash_value"] = json!("0".repeat(64));
    let result = lab.write(&info).await;
    assert_eq!(result["command_status"], "FAILED");
    assert_eq!(result["command_error"]["type"], "ImageChecksumError");
    let details = result["command_error"]["details"].as_str().unwrap();
    assert!(details.starts_with("Image failed to verify against checksum. location: "), "{details}");
    assert!(details.contains("image ID: debian.raw"), "{details}");
    assert!(lab.first_sectors().iter().all(|byte| *byte == 0), "the disk has a table");
    let uuids = lab.rest.command("standby.get_partition_uuids", json!({}), true).await;
    assert_eq!(uuids.body["command_result"], json!({}));
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_nothing_is_touched() {
    let lab = Lab::new().await;
    let before = b"somebody's data";
    File::options().write(true).open(lab.disk()).unwrap().write_all_at(before, 0).unwrap();
    let result = lab.write(&lab.image("noise.raw", &vec![7; 2 << 20])).await;
    assert_eq!(result["command_error"]["type"], "InvalidImage", "{result}");
    assert!(lab.first_sectors().starts_with(before));
    let mut info = lab.image("other.qcow2", b"QFI");
    info["disk_format"] = json!("qcow2");
    assert_eq!(lab.write(&info).await["command_error"]["type"], "InvalidImage");
    let missing = lab.folder.path().join("missing.raw");
    let info = json!({"id": "m", "urls": [format!("file://{}", missing.display())], "checksum": "a".repeat(64)});
    assert_eq!(lab.write(&info).await["command_error"]["type"], "ImageDownloadError");
    assert!(lab.first_sectors().starts_with(before));
}

#[tokio::test]
async fn root_device_hints_choose_the_disk() {
    let lab = Lab::new().await;
    let info = lab.image("debian.raw", &image());
    let step = json!({"step": "write_image", "interface": "deploy", "args": {"image_info": info}});
    let node = json!({"uuid": "n", "properties": {"root_device": {"serial": "another"}}});
    let params = json!({"step": step, "node": node, "ports": []});
    let result = lab.rest.command("deploy.execute_deploy_step", params, true).await.body;
    assert_eq!(result["command_error"]["type"], "DeviceNotFound", "{result}");
    assert!(lab.rig.machine.events().is_empty());
}

#[tokio::test]
async fn a_node_with_software_raid_is_refused_before_anything_is_touched() {
    let lab = Lab::new().await;
    let info = lab.image("debian.raw", &image());
    let before = lab.first_sectors();
    let step = json!({"step": "write_image", "interface": "deploy", "args": {"image_info": info}});
    let raid = json!({"logical_disks": [{"controller": "hw"}, {"size_gb": "MAX", "controller": "software"}]});
    let node = json!({"uuid": "n", "target_raid_config": raid, "properties": {"root_device": {"name": "/dev/vda"}}});
    let params = json!({"step": step, "node": node, "ports": []});
    let result = lab.rest.command("deploy.execute_deploy_step", params, true).await.body;
    assert_eq!(result["command_error"]["type"], "SoftwareRAIDError", "{result}");
    assert!(result["command_error"]["details"].as_str().unwrap().contains("ironic-python-agent"), "{result}");
    // The command goes by the same node.
    let result = lab.rest.command("standby.prepare_image", json!({"image_info": info}), true).await.body;
    assert_eq!(result["command_error"]["type"], "SoftwareRAIDError", "{result}");
    assert!(lab.rig.machine.events().is_empty() && lab.first_sectors() == before);
}

#[tokio::test]
async fn without_hints_no_member_of_an_array_becomes_the_root_disk() {
    let lab = Lab::new().await;
    let info = lab.image("debian.raw", &image());
    lab.rig.machine.set_contents("/dev/vda", Contents { raid_member: true, ..Contents::default() });
    let result = lab.write(&info).await;
    assert_eq!(result["command_error"]["type"], "DeviceNotFound", "{result}");
    let details = result["command_error"]["details"].as_str().unwrap();
    assert!(details.contains("/dev/vda (linux_raid_member)"), "{details}");
    assert!(lab.rig.machine.events().is_empty());
    // Larger, but free.
    let free = lab.folder.path().join("free");
    File::create(&free).unwrap().set_len(2 * DISK).unwrap();
    lab.rig.machine.add_file_disk("/dev/vdb", free).unwrap();
    let result = lab.write(&info).await;
    let text = result["command_result"]["deploy_result"]["result"].as_str().unwrap();
    assert!(text.contains("written to device /dev/vdb"), "{text}");
    // Who names the member means it.
    let step = json!({"step": "write_image", "interface": "deploy", "args": {"image_info": info}});
    let node = json!({"uuid": "n", "properties": {"root_device": {"name": "/dev/vda"}}});
    let params = json!({"step": step, "node": node, "ports": []});
    let result = lab.rest.command("deploy.execute_deploy_step", params, true).await.body;
    let text = result["command_result"]["deploy_result"]["result"].as_str().unwrap();
    assert!(text.contains("written to device /dev/vda"), "{text}");
}

/// A file system with a kernel, of 32 MiB, as mke2fs makes it.
fn file_system() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir_all(tree.join("boot")).unwrap();
    fs::write(tree.join("boot/vmlinuz-6.1"), b"kernel").unwrap();
    fs::write(tree.join("boot/initrd.img-6.1"), b"initramfs").unwrap();
    let mut mke2fs = std::process::Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-U", "11111111-2222-3333-4444-555555555555", "-d"]).arg(&tree);
    assert!(mke2fs.arg(&image).arg("32M").status().unwrap().success());
    fs::read(image).unwrap()
}

#[tokio::test]
async fn a_partition_image_gets_its_disk_and_the_reply_the_protocols_keys() {
    let lab = Lab::new().await;
    let image = file_system();
    let mut info = lab.image("root.img", &image);
    let more = json!({"image_type": "partition", "root_gb": 1, "root_mb": 1024, "swap_mb": 64, "ephemeral_mb": 128,
        "ephemeral_format": null, "preserve_ephemeral": false, "deploy_boot_mode": "uefi", "boot_option": "local",
        "kernel": null, "ramdisk": null});
    info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let result = lab.write(&info).await;
    assert_eq!(result["command_status"], "SUCCEEDED", "{result}");
    let uuids = lab.rest.command("standby.get_partition_uuids", json!({}), true).await.body["command_result"].clone();
    let esp = uuids["efi system partition uuid"].as_str().unwrap().to_owned();
    let partitions = json!({"efi system partition": "/dev/vda1", "ephemeral": "/dev/vda2", "swap": "/dev/vda3",
        "root": "/dev/vda4"});
    let root = "11111111-2222-3333-4444-555555555555";
    assert_eq!(uuids, json!({"root uuid": root, "efi system partition uuid": esp, "partitions": partitions}));
    let text = result["command_result"]["deploy_result"]["result"].as_str().unwrap();
    let wanted =
        format!("image (root.img) written to device /dev/vda root_uuid={root} efi_system_partition_uuid={esp}");
    assert_eq!(text, format!("prepare_image: {wanted}"));
    let at = (1 + 550 + 128 + 64) << 20;
    let mut read = vec![0; image.len()];
    File::open(lab.disk()).unwrap().read_exact_at(&mut read, at).unwrap();
    assert!(read == image, "the root partition holds something else than the image");
    let device = "/dev/vda".to_owned();
    let ephemeral = (1 + 550) << 20..(1 + 550 + 128) << 20;
    let events =
        [Event::Claimed(device.clone()), Event::Formatted(device.clone(), ephemeral), Event::Reread(device.clone())];
    assert_eq!(lab.rig.machine.events(), events);
    // The command that makes it bootable takes what the reply told.
    lab.rig.machine.set_boot_labels(&["ironic1"]);
    let params = json!({"root_uuid": root, "efi_system_part_uuid": esp, "target_boot_mode": "uefi"});
    let installed = lab.rest.command("image.install_bootloader", params, true).await.body;
    assert_eq!(installed["command_status"], "SUCCEEDED", "{installed}");
    assert_eq!(lab.rig.machine.events().last(), Some(&Event::BootEntries(device)));
}

#[tokio::test]
async fn a_partition_image_that_cannot_be_made_bootable_leaves_no_table() {
    let lab = Lab::new().await;
    let image = file_system();
    let mut info = lab.image("root.img", &image);
    let more = json!({"image_type": "partition", "root_mb": 1024, "swap_mb": 0, "ephemeral_mb": 128,
        "deploy_boot_mode": "uefi"});
    info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.rig.machine.inject(hardware_sim::Fault::Format);
    let result = lab.write(&info).await;
    assert_eq!(result["command_error"]["type"], "ImageWriteError", "{result}");
    assert!(lab.first_sectors().iter().all(|byte| *byte == 0), "the disk has a table");
    assert_eq!(lab.write(&info).await["command_status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_partition_image_for_a_bios_needs_nothing_more_when_it_is_written() {
    let lab = Lab::new().await;
    let image = file_system();
    let mut info = lab.image("root.img", &image);
    let root = "11111111-2222-3333-4444-555555555555";
    let install = json!({"root_uuid": root, "efi_system_part_uuid": null, "target_boot_mode": "bios"});
    let refused = lab.rest.command("image.install_bootloader", install.clone(), true).await.body;
    assert_eq!(refused["command_error"]["type"], "InvalidImage", "{refused}");
    let more = json!({"image_type": "partition", "root_mb": 1024, "deploy_boot_mode": "bios"});
    info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let result = lab.write(&info).await;
    assert_eq!(result["command_status"], "SUCCEEDED", "{result}");
    let text = result["command_result"]["deploy_result"]["result"].as_str().unwrap();
    assert_eq!(text, format!("prepare_image: image (root.img) written to device /dev/vda root_uuid={root}"));
    let uuids = lab.rest.command("standby.get_partition_uuids", json!({}), true).await.body["command_result"].clone();
    let partitions = json!({"boot": "/dev/vda1", "BIOS Boot partition": "/dev/vda2", "root": "/dev/vda3"});
    assert_eq!(uuids, json!({"root uuid": root, "efi system partition uuid": null, "partitions": partitions}));
    // The core begins where the code of the first sector says.
    let (mut first, mut core) = ([0; 512], [0; 512]);
    let disk = File::open(lab.disk()).unwrap();
    disk.read_exact_at(&mut first, 0).unwrap();
    let sector = u64::from_le_bytes(*first[0x5c..].first_chunk().unwrap());
    assert_eq!((sector, &first[0x66..0x68]), (551 * 2048, &[0x90, 0x90][..]));
    disk.read_exact_at(&mut core, sector * 512).unwrap();
    assert_eq!(u64::from_le_bytes(*core[500..].first_chunk().unwrap()), sector + 1);
    let installed = lab.rest.command("image.install_bootloader", install, true).await.body;
    assert_eq!(installed["command_status"], "SUCCEEDED", "{installed}");
}

/// A server that sends the first part of an image and then nothing more.
async fn stalling_server(bytes: Vec<u8>, length: usize) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/debian.raw", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    url
}

#[tokio::test]
async fn a_cancelled_write_ends_at_once_and_leaves_no_table() {
    let lab = Lab::new().await;
    let image = image();
    let mut info = lab.image("debian.raw", &image);
    info["urls"] = json!([stalling_server(image[..8 << 20].to_vec(), IMAGE).await]);
    let step = json!({"step": "write_image", "interface": "deploy", "args": {"image_info": info}});
    let params = json!({"step": step, "node": {"uuid": "n"}, "ports": []});
    let started = lab.rest.command("deploy.execute_deploy_step", params, false).await.body;
    let id = started["id"].as_str().unwrap();
    let record = lab.rig.dispatcher.get(id).unwrap();
    while record.to_result().progress.is_none_or(|progress| progress.done < 4 << 20) {
        assert!(record.is_running(), "{:?}", record.to_result());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let path = format!("/v1/commands/{id}?wait=true&agent_token={}", support::TOKEN);
    let result = lab.rest.send(http::Method::DELETE, &path, "").await.body;
    assert_eq!(result["command_status"], "FAILED", "{result}");
    assert_eq!(result["command_error"]["type"], "CommandCancelled", "{result}");
    let details = result["command_error"]["details"].as_str().unwrap();
    assert!(details.contains("without a partition table"), "{details}");
    assert!(lab.first_sectors().iter().all(|byte| *byte == 0), "the disk has a table");
}
