//! The erase steps on a simulated machine: what is erased, what is read back, what is left alone, and what fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use erase::nvme::SanitizeAction;
use hardware::{Contents, Device as _, Disk, Transfer};
use hardware_sim::drive::{AtaProfile, NvmeProfile, SimClock, SimDrive};
use hardware_sim::{Event, Fault, Lie, SimMachine, disk};
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;
use support::{Answer, Rig, rig, settings};
use wire::agent::CommandRequest;

const SIZE: u64 = 80 << 20;

/// A machine with disks full of data, and the folder that they are in.
fn machine(names: &[&str]) -> (SimMachine, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let machine = SimMachine::new();
    for name in names {
        let path = folder.path().join(name.replace('/', "_"));
        std::fs::write(&path, vec![b'A'; usize::try_from(SIZE).unwrap()]).unwrap();
        machine.add_file_disk(name, path).unwrap();
    }
    (machine, folder)
}

/// A machine whose disk is the model of a drive.
fn machine_of(drive: &SimDrive) -> SimMachine {
    let machine = SimMachine::new();
    machine.add_drive(drive);
    machine
}

fn step(name: &str) -> Value {
    json!({"step": {"step": name, "interface": "deploy", "args": {}}, "node": {"uuid": "n"}, "ports": []})
}

async fn clean(rig: &Rig, params: &Value) -> Answer {
    let params: Map<String, Value> = params.as_object().cloned().unwrap();
    let request = CommandRequest { name: "clean.execute_clean_step".to_owned(), params };
    let record = rig.dispatcher.submit(request).await.unwrap();
    record.wait().await;
    Answer { status: 200, body: serde_json::to_value(record.to_result()).unwrap() }
}

/// The proofs of a clean that went well.
fn proofs(answer: &Answer) -> &Vec<Value> {
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    answer.body["command_result"]["clean_result"].as_array().unwrap()
}

/// The proofs of a clean that failed, by device and outcome.
fn told(answer: &Answer) -> Vec<(&str, &str)> {
    assert_eq!(answer.body["command_status"], "FAILED", "{}", answer.body);
    let result = &answer.body["command_result"];
    assert_eq!(result["clean_step"]["interface"], "deploy", "the step comes back as it was sent");
    let proofs = result["clean_result"].as_array().unwrap().iter();
    proofs.map(|proof| (proof["device"]["node"].as_str().unwrap(), proof["outcome"].as_str().unwrap())).collect()
}

/// Class and text of a clean that failed.
fn error(answer: &Answer) -> (&str, &str) {
    let error = &answer.body["command_error"];
    (error["type"].as_str().unwrap_or_default(), error["details"].as_str().unwrap_or_default())
}

fn content(folder: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::open(folder.join(name.replace('/', "_"))).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn is_zero(folder: &Path, name: &str) -> bool {
    content(folder, name).chunks(PAGE.len()).all(|page| page == &PAGE[..page.len()])
}

/// Bytes of pages that are what they were.
fn bytes_left(folder: &Path, name: &str) -> u64 {
    let left = content(folder, name).chunks(PAGE.len()).filter(|page| *page == [b'A'; PAGE.len()]).count();
    (left * PAGE.len()) as u64
}

/// Compared whole, since byte by byte takes its time.
const PAGE: [u8; 4096] = [0; 4096];

/// Of a disk without partitions: all but its ends, and four places of 4 KiB.
const KEPT_BY_METADATA: u64 = SIZE - (2 << 20) - 4 * 4096;

/// Tables and labels of a disk full of data, as all steps but the first see them.
const METADATA_STEPS: [&str; 2] = ["erase_devices_metadata", "erase_devices_express"];

#[tokio::test]
async fn a_device_that_lies_of_its_metadata_fails_the_step_and_the_others_are_erased() {
    for (lie, told) in [
        (Lie::KeepsFrom(0), "LBA 0 holds 4141414141414141"),
        (Lie::KeepsFrom(SIZE - 512), "LBA 163839 holds 4141414141414141"),
        (Lie::NeverFlushes, "empty the cache of the disk"),
        (Lie::LosesWrites, "LBA 0 holds 4141414141414141"),
    ] {
        for name in METADATA_STEPS {
            let (machine, folder) = machine(&["/dev/nvme0n1", "/dev/sda"]);
            machine.lie("/dev/nvme0n1", lie);
            let rig = rig(machine, settings());
            let answer = clean(&rig, &step(name)).await;
            let (class, details) = error(&answer);
            assert_eq!(class, "BlockDeviceEraseError", "{lie:?}: {}", answer.body);
            assert!(details.contains("/dev/nvme0n1") && details.contains(told), "{lie:?}: {details}");
            assert_eq!(self::told(&answer), [("/dev/nvme0n1", "failed"), ("/dev/sda", "verified")], "{lie:?}");
            assert_eq!(bytes_left(folder.path(), "/dev/sda"), KEPT_BY_METADATA);
        }
    }
}

#[tokio::test]
async fn a_blank_device_that_loses_what_is_written_is_found_out_by_its_marks() {
    let (machine, folder) = machine(&["/dev/sda"]);
    std::fs::write(folder.path().join("_dev_sda"), vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    machine.lie("/dev/sda", Lie::LosesWrites);
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices_metadata")).await;
    assert!(error(&answer).1.contains("the device loses writes"), "{}", answer.body);
}

#[tokio::test]
async fn metadata_of_a_disk_and_of_its_partitions_are_gone_and_the_record_says_how_much_that_is() {
    let (machine, folder) = machine(&["/dev/sda"]);
    machine.set_partitions("/dev/sda", &[10 << 20..20 << 20, 30 << 20..SIZE + 4096]);
    machine.set_released("/dev/sda", &["array md0 taken apart"]);
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices_metadata")).await;
    let proof = &proofs(&answer)[0];
    let reading = &proof["reading"];
    let place = |at: usize| content(folder.path(), "/dev/sda")[at << 20];
    assert_eq!([0, 10, 19, 30, 79].map(place), [0; 5]);
    assert_eq!([5, 15, 25, 50].map(place), [b'A'; 4]);
    assert_eq!(
        (&proof["method"], &proof["standard"], &proof["released"]),
        (&json!("metadata"), &json!("none"), &json!(["array md0 taken apart"]))
    );
    // Every place held something, so that nothing was marked.
    assert_eq!((&reading["marks"], &reading["percent"], &reading["found"]), (&json!(0), &json!(0), &json!("zeros")));
    assert!(reading["compared"].as_u64() > Some(10), "{reading}");
    let read = reading["blocks"].as_u64().unwrap() * reading["block_size"].as_u64().unwrap();
    assert_eq!(read, SIZE - bytes_left(folder.path(), "/dev/sda"));
    let evidence = proof["evidence"].as_str().unwrap();
    for words in ["of its 2 partitions", "read back as zeros", "Nothing is said of what else is on the disk"] {
        assert!(evidence.contains(words), "{evidence}");
    }
}

/// A DOS table of the old kind begins at sector 63, and the reserved partition of Windows at LBA 34.
#[tokio::test]
async fn metadata_of_a_partition_in_the_middle_of_a_block_are_erased_whether_the_disk_is_full_or_blank() {
    for start in [34 * 512, 63 * 512] {
        for filled in [b'A', 0] {
            let (machine, folder) = machine(&["/dev/sda"]);
            std::fs::write(folder.path().join("_dev_sda"), vec![filled; usize::try_from(SIZE).unwrap()]).unwrap();
            machine.set_partitions("/dev/sda", std::slice::from_ref(&(start..SIZE - 512)));
            let rig = rig(machine, settings());
            let answer = clean(&rig, &step("erase_devices_metadata")).await;
            let proof = &proofs(&answer)[0];
            assert_eq!(proof["outcome"], "verified", "{start}, {filled}: {proof}");
            assert_eq!(is_zero(folder.path(), "/dev/sda"), filled == 0, "nothing of ours is left");
        }
    }
}

#[tokio::test]
async fn disks_of_large_sectors_and_the_smallest_ones_are_erased_by_every_step() {
    for (size, sector) in [(SIZE, 4096), (3 << 20, 4096), (512 << 10, 512), (4096, 4096), (4608, 512), (512, 512)] {
        for name in ["erase_devices", "erase_devices_metadata", "erase_devices_express"] {
            let (machine, folder) = machine(&["/dev/sda"]);
            std::fs::File::options().write(true).open(folder.path().join("_dev_sda")).unwrap().set_len(size).unwrap();
            machine.change(|inventory| {
                inventory.disks[0].size = size;
                inventory.disks[0].logical_sectors = Some(sector);
            });
            let rig = rig(machine, settings());
            let answer = clean(&rig, &step(name)).await;
            let proof = &proofs(&answer)[0];
            assert_eq!(proof["outcome"], "verified", "{name}, {size}, {sector}: {proof}");
            assert!(proof["reading"]["blocks"].as_u64() > Some(0), "{proof}");
            let whole = name == "erase_devices" || size <= 2 << 20;
            assert_eq!(is_zero(folder.path(), "/dev/sda"), whole, "{name}, {size}");
        }
    }
}

#[tokio::test]
async fn a_disk_too_small_for_a_mark_is_not_proven_where_only_marks_can_tell() {
    let (machine, folder) = machine(&["/dev/sda"]);
    std::fs::File::options().write(true).open(folder.path().join("_dev_sda")).unwrap().set_len(512).unwrap();
    machine.change(|inventory| inventory.disks[0].size = 512);
    let rig = rig(machine, settings());
    let mut params = step("erase_devices");
    params["node"]["driver_internal_info"] = json!({"agent_erase_devices_zeroize": false});
    let answer = clean(&rig, &params).await;
    assert!(error(&answer).1.contains("the disk is smaller than a mark"), "{}", answer.body);
}

#[tokio::test]
async fn disks_are_erased_read_back_and_described() {
    let (machine, folder) = machine(&["/dev/vda", "/dev/vdb"]);
    machine.set_released("/dev/vda", &["array md0 taken apart"]);
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices")).await;
    let proofs = proofs(&answer);
    assert_eq!(proofs.len(), 2);
    assert!(is_zero(folder.path(), "/dev/vda") && is_zero(folder.path(), "/dev/vdb"));
    let proof = &proofs[0];
    assert_eq!(proof["outcome"], "verified");
    assert_eq!(proof["method"], "write_zeroes");
    assert_eq!(proof["standard"], "clear");
    assert_eq!((&proof["device"]["node"], &proof["model"]), (&json!("/dev/vda"), &json!("Simulated")));
    assert_eq!(proof["released"], json!(["array md0 taken apart"]));
    let reading = &proof["reading"];
    // 1 percent of 80 blocks is less than the least; all marks but those that would overlap.
    assert_eq!((&reading["blocks"], &reading["percent"], &reading["found"]), (&json!(64), &json!(1), &json!("zeros")));
    assert!(reading["marks"].as_u64().unwrap() >= 32, "{reading}");
    assert_eq!(reading["seed"].as_str().unwrap().len(), 16);
    assert_ne!(reading["seed"], proofs[1]["reading"]["seed"]);
    assert!(proof["started_at"].as_str().unwrap() <= proof["finished_at"].as_str().unwrap());
    assert!(rig.machine.events().contains(&Event::Reread("/dev/vda".to_owned())));
}

#[tokio::test]
async fn all_blocks_are_read_back_where_the_node_says_so() {
    let (machine, _folder) = machine(&["/dev/vda"]);
    let rig = rig(machine, settings());
    let mut params = step("erase_devices");
    params["node"]["driver_info"] = json!({"agent_erase_verify": "full"});
    let answer = clean(&rig, &params).await;
    let reading = &proofs(&answer)[0]["reading"];
    assert_eq!((&reading["blocks"], &reading["percent"]), (&json!(80), &json!(100)));
}

#[tokio::test]
async fn a_device_that_lies_fails_the_step_and_the_others_are_erased() {
    for (lie, told) in [
        (Lie::KeepsFrom(0), "LBA 0 still holds the mark"),
        (Lie::KeepsFrom(40 << 20), "still holds the mark"),
        (Lie::NeverFlushes, "empty the cache of the disk"),
        (Lie::LosesWrites, "the device loses writes"),
    ] {
        let (machine, folder) = machine(&["/dev/vda", "/dev/vdb"]);
        machine.lie("/dev/vda", lie);
        let rig = rig(machine, settings());
        let answer = clean(&rig, &step("erase_devices")).await;
        let (class, details) = error(&answer);
        assert_eq!(class, "BlockDeviceEraseError", "{lie:?}: {}", answer.body);
        assert!(details.contains("/dev/vda") && details.contains(told), "{lie:?}: {details}");
        assert!(!details.contains("/dev/vdb"), "{details}");
        assert!(is_zero(folder.path(), "/dev/vdb"), "{lie:?}");
        assert_eq!(self::told(&answer), [("/dev/vda", "failed"), ("/dev/vdb", "verified")], "{lie:?}");
        let error = answer.body["command_result"]["clean_result"][0]["error"].as_str().unwrap();
        assert!(error.contains(told), "{lie:?}: {error}");
        if let Lie::KeepsFrom(_) = lie {
            assert_eq!(answer.body["command_result"]["clean_result"][0]["method"], "write_zeroes");
        }
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_opened_is_named_beside_those_that_can() {
    let (machine, folder) = machine(&["/dev/vda", "/dev/vdb", "/dev/vdc"]);
    machine.inject(Fault::Open("/dev/vda".to_owned()));
    machine.lie("/dev/vdc", Lie::KeepsFrom(0));
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices")).await;
    let (_, details) = error(&answer);
    assert!(details.contains("/dev/vda: read /dev/vda: injected fault"), "{details}");
    assert!(details.contains("/dev/vdc"), "{details}");
    assert!(is_zero(folder.path(), "/dev/vdb"));
    assert_eq!(told(&answer), [("/dev/vda", "failed"), ("/dev/vdb", "verified"), ("/dev/vdc", "failed")]);
}

#[tokio::test]
async fn what_is_left_alone_is_listed_as_skipped_and_a_read_only_disk_fails() {
    let (machine, _folder) = machine(&["/dev/vda", "/dev/vdb", "/dev/vdc"]);
    machine.set_contents("/dev/vdb", Contents { virtual_media: true, ..Contents::default() });
    machine.set_contents("/dev/vdc", Contents { read_only: true, ..Contents::default() });
    let rig = rig(machine, settings());
    let (class, details) = {
        let answer = clean(&rig, &step("erase_devices")).await;
        assert_eq!(told(&answer), [("/dev/vda", "verified"), ("/dev/vdb", "skipped"), ("/dev/vdc", "failed")]);
        let (class, details) = error(&answer);
        (class.to_owned(), details.to_owned())
    };
    assert_eq!(class, "BlockDeviceEraseError");
    assert!(
        details.contains("/dev/vdc: it is read-only") && details.contains("agent_erase_skip_read_only"),
        "{details}"
    );
    let mut params = step("erase_devices");
    params["node"]["driver_internal_info"] = json!({"agent_erase_skip_read_only": true});
    let answer = clean(&rig, &params).await;
    let outcomes: Vec<(&Value, &Value)> =
        proofs(&answer).iter().map(|proof| (&proof["device"]["node"], &proof["outcome"])).collect();
    assert_eq!(
        outcomes,
        [
            (&json!("/dev/vda"), &json!("verified")),
            (&json!("/dev/vdb"), &json!("skipped")),
            (&json!("/dev/vdc"), &json!("skipped")),
        ]
    );
}

#[tokio::test]
async fn members_of_a_tenants_array_are_erased_and_those_of_an_operators_are_not() {
    let raid = json!({"logical_disks": [{"controller": "software", "raid_level": "1", "size_gb": "MAX"}]});
    for (config, outcome) in [(Value::Null, "verified"), (raid, "skipped")] {
        let (machine, folder) = machine(&["/dev/sda"]);
        machine.set_contents("/dev/sda", Contents { raid_member: true, ..Contents::default() });
        let rig = rig(machine, settings());
        let mut params = step("erase_devices");
        params["node"]["raid_config"] = config;
        let answer = clean(&rig, &params).await;
        assert_eq!(proofs(&answer)[0]["outcome"], outcome);
        assert_eq!(is_zero(folder.path(), "/dev/sda"), outcome == "verified");
    }
}

#[tokio::test]
async fn a_disk_without_capacity_fails_the_step_unless_it_is_to_be_left_alone() {
    for name in ["erase_devices", "erase_devices_metadata", "erase_devices_express"] {
        let (machine, _folder) = machine(&["/dev/sda"]);
        machine.add_disk(disk("/dev/sdb", 0));
        let rig = rig(machine, settings());
        let mut params = step(name);
        let answer = clean(&rig, &params).await;
        let (class, details) = error(&answer);
        assert_eq!(class, "BlockDeviceEraseError", "{}", answer.body);
        assert!(details.contains("/dev/sdb: it has no capacity") && !details.contains("/dev/sda"), "{details}");
        params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/sdb"}]});
        let answer = clean(&rig, &params).await;
        assert_eq!(proofs(&answer)[1]["outcome"], "skipped", "{name}");
    }
}

#[tokio::test]
async fn an_entry_of_skip_block_devices_that_describes_no_disk_erases_nothing() {
    let (machine, folder) = machine(&["/dev/sda"]);
    let rig = rig(machine, settings());
    let mut params = step("erase_devices");
    params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/sdb"}]});
    let answer = clean(&rig, &params).await;
    let (class, details) = error(&answer);
    assert_eq!(class, "DeviceNotFound", "{}", answer.body);
    assert!(details.contains("/dev/sdb") && details.contains("/dev/sda"), "{details}");
    assert!(!is_zero(folder.path(), "/dev/sda") && rig.machine.events().is_empty());
}

#[tokio::test]
async fn the_disks_below_an_array_that_is_to_be_left_alone_survive() {
    let (machine, folder) = machine(&["/dev/sda", "/dev/sdb"]);
    machine.change(|inventory| inventory.disks[0].holders = vec!["md127".to_owned()]);
    machine.add_disk(Disk { serial: None, ..disk("/dev/md127", SIZE) });
    let rig = rig(machine, settings());
    let mut params = step("erase_devices");
    params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/md127"}]});
    let answer = clean(&rig, &params).await;
    let told: Vec<&Value> = proofs(&answer).iter().map(|proof| &proof["outcome"]).collect();
    assert_eq!(told, ["verified", "skipped", "skipped"]);
    assert!(!is_zero(folder.path(), "/dev/sda") && is_zero(folder.path(), "/dev/sdb"));
}

#[tokio::test]
async fn an_array_goes_with_the_disks_that_it_is_built_on() {
    let (machine, _folder) = machine(&["/dev/sda"]);
    machine.change(|inventory| inventory.disks[0].holders = vec!["md127".to_owned()]);
    machine.add_disk(Disk { serial: None, ..disk("/dev/md127", SIZE) });
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices")).await;
    let proofs = proofs(&answer);
    assert_eq!((&proofs[0]["outcome"], &proofs[1]["outcome"]), (&json!("verified"), &json!("skipped")));
    assert_eq!(proofs[1]["reason"], "it is built on /dev/sda, which is erased");
}

#[tokio::test]
async fn a_shared_file_system_fails_the_step_before_any_disk_is_touched() {
    for name in ["erase_devices", "erase_devices_express"] {
        let (machine, folder) = machine(&["/dev/vda", "/dev/vdb"]);
        let shared = vec!["VMware VMFS on vdb1".to_owned()];
        machine.set_contents("/dev/vdb", Contents { shared, ..Contents::default() });
        let rig = rig(machine, settings());
        let answer = clean(&rig, &step(name)).await;
        assert_eq!(error(&answer).0, "ProtectedDeviceError", "{}", answer.body);
        assert!(!is_zero(folder.path(), "/dev/vda") && rig.machine.events().is_empty());
    }
}

#[tokio::test]
async fn express_erases_metadata_of_what_cannot_erase_itself() {
    let (machine, folder) = machine(&["/dev/nvme0n1", "/dev/sda"]);
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_devices_express")).await;
    let proofs = proofs(&answer);
    assert_eq!((&proofs[0]["method"], &proofs[1]["method"]), (&json!("metadata"), &json!("metadata")));
    assert_eq!((&proofs[0]["standard"], &proofs[1]["standard"]), (&json!("none"), &json!("none")));
    // Why the drive was not erased by itself.
    assert_eq!(proofs[0]["passed_over"].as_array().unwrap().len(), 1, "{}", proofs[0]);
    for (proof, name) in proofs.iter().zip(["/dev/nvme0n1", "/dev/sda"]) {
        assert!(proof["reading"]["places"].is_string(), "{proof}");
        assert_eq!(bytes_left(folder.path(), name), KEPT_BY_METADATA);
    }
}

#[tokio::test]
async fn a_namespace_that_is_no_disk_of_the_machine_survives() {
    let profile = NvmeProfile { namespaces: vec![1, 2], ..NvmeProfile::full() };
    let drive = SimDrive::nvme(profile, "/dev/nvme0n1", &SimClock::default());
    let rig = rig(machine_of(&drive), settings());
    let answer = clean(&rig, &step("erase_devices")).await;
    let proof = &proofs(&answer)[0];
    assert_eq!(proof["method"], "nvme_format_crypto");
    // What it returns now may be anything: no more is said than what was compared.
    let words = "of 8 blocks of 1 MiB the 8 that were looked at before begin with other bytes than then";
    assert!(proof["evidence"].as_str().unwrap().contains(words), "{proof}");
    assert_eq!(proof["reading"]["compared"], 8);
    assert!(!drive.siblings_erased());
}

const HOUR: Duration = Duration::from_secs(3600);

/// A drive that goes on with what it was doing when the power was cut.
fn sanitizing(profile: NvmeProfile, action: SanitizeAction, clock: &SimClock) -> SimDrive {
    let drive = SimDrive::nvme(profile, "/dev/nvme0n1", clock);
    let answer = drive.nvme_admin(&erase::nvme::sanitize(action), Transfer::None, HOUR).unwrap();
    assert_eq!(answer.status, 0);
    drive
}

#[tokio::test]
async fn a_sanitize_that_a_power_cut_interrupted_is_taken_up_though_the_drive_cannot_be_read() {
    let clock = SimClock::default();
    let profile = NvmeProfile { sanitize: 4, ..NvmeProfile::full() };
    let drive = sanitizing(profile, SanitizeAction::Overwrite, &clock);
    let rig = rig(machine_of(&drive), settings());
    let params: Map<String, Value> = step("erase_devices").as_object().cloned().unwrap();
    let request = CommandRequest { name: "clean.execute_clean_step".to_owned(), params };
    let record = rig.dispatcher.submit(request).await.unwrap();
    while record.is_running() {
        // The drive goes on once somebody follows it.
        if record.progress().is_some_and(|progress| progress.stage.contains("nvme_sanitize_overwrite")) {
            clock.advance(HOUR);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = Answer { status: 200, body: serde_json::to_value(record.to_result()).unwrap() };
    let proof = &proofs(&answer)[0];
    assert_eq!((&proof["outcome"], &proof["method"]), (&json!("verified"), &json!("nvme_sanitize_overwrite")));
    assert!(proof["reading"]["unmarked"].as_str().unwrap().contains("takes no writes"), "{proof}");
    assert_eq!((drive.old_blocks(), drive.erases()), (0, vec!["sanitize overwrite".to_owned()]));
}

#[tokio::test]
async fn a_drive_that_an_interrupted_erase_left_locked_is_unlocked_marked_and_erased() {
    let drive = SimDrive::ata(AtaProfile::security(), "/dev/sda", &SimClock::default());
    let mut password = [0; 32];
    password[..12].copy_from_slice(b"ferric-erase");
    drive.set_password(password);
    drive.power_cut();
    let rig = rig(machine_of(&drive), settings());
    let answer = clean(&rig, &step("erase_devices")).await;
    let proof = &proofs(&answer)[0];
    assert_eq!((&proof["outcome"], &proof["method"]), (&json!("verified"), &json!("ata_security_enhanced")));
    assert!(proof["reading"]["marks"].as_u64() > Some(0), "{proof}");
    assert_eq!((drive.old_blocks(), drive.has_password()), (0, false));
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_for_any_other_reason_fails_and_is_not_touched() {
    let clock = SimClock::default();
    let locked = SimDrive::ata(AtaProfile::security(), "/dev/sda", &clock);
    locked.set_password([b'x'; 32]);
    locked.power_cut();
    let broken = SimDrive::ata(AtaProfile::security(), "/dev/sda", &clock);
    for (drive, told) in [(locked, "neither ours nor"), (broken, "injected fault")] {
        let rig = rig(machine_of(&drive), settings());
        rig.machine.inject(Fault::Look("/dev/sda".to_owned()));
        let answer = clean(&rig, &step("erase_devices")).await;
        assert!(error(&answer).1.contains(told), "{}", answer.body);
        assert!(drive.erases().is_empty());
    }
}

#[tokio::test]
async fn wrong_settings_are_refused_before_any_disk_is_touched() {
    for (place, setting, value) in [
        ("driver_info", "agent_erase_verify", json!("most of it")),
        ("driver_internal_info", "agent_erase_devices_iterations", json!("many")),
        ("driver_internal_info", "disk_erasure_concurrency", json!(0)),
    ] {
        let (machine, _folder) = machine(&["/dev/vda"]);
        let rig = rig(machine, settings());
        let mut params = step("erase_devices");
        params["node"][place] = json!({setting: value});
        let answer = clean(&rig, &params).await;
        let (class, details) = error(&answer);
        assert_eq!(class, "BlockDeviceEraseError", "{}", answer.body);
        assert!(details.contains(setting), "{details}");
        assert!(rig.machine.events().is_empty());
    }
}

/// A clean that is told to stop while it looks into the first disk.
async fn stopped(machine: SimMachine, name: &str) -> Answer {
    let (stop, stops) = channel::<()>();
    let stops = Mutex::new(stops);
    let rig = rig(machine.looking_with(move || _ = stops.lock().unwrap().recv()), settings());
    let params: Map<String, Value> = step(name).as_object().cloned().unwrap();
    let request = CommandRequest { name: "clean.execute_clean_step".to_owned(), params };
    let record = rig.dispatcher.submit(request).await.unwrap();
    record.cancel();
    drop(stop);
    record.wait().await;
    Answer { status: 200, body: serde_json::to_value(record.to_result()).unwrap() }
}

#[tokio::test]
async fn an_erase_that_is_stopped_is_no_success_and_says_how_it_left_each_disk() {
    for name in ["erase_devices", "erase_devices_metadata"] {
        let (machine, folder) = machine(&["/dev/vda", "/dev/vdb"]);
        let answer = stopped(machine, name).await;
        let (class, details) = error(&answer);
        assert_eq!(class, "CommandCancelled", "{}", answer.body);
        assert!(details.contains(&format!("step {name} was stopped on request: /dev/vd")), "{details}");
        assert!(!(is_zero(folder.path(), "/dev/vda") && is_zero(folder.path(), "/dev/vdb")));
        let told = told(&answer);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.contains(&("/dev/vdb", "failed")), "{told:?}");
    }
}

#[tokio::test]
async fn what_went_wrong_before_an_erase_was_stopped_is_told_as_well() {
    let (machine, _folder) = machine(&["/dev/vda", "/dev/vdb"]);
    machine.inject(Fault::Open("/dev/vda".to_owned()));
    let answer = stopped(machine, "erase_devices").await;
    let (class, details) = error(&answer);
    assert_eq!(class, "BlockDeviceEraseError", "{}", answer.body);
    assert!(details.contains("/dev/vda: read /dev/vda: injected fault"), "{details}");
    assert!(details.contains("/dev/vdb: stopped on request"), "{details}");
    assert_eq!(told(&answer), [("/dev/vda", "failed"), ("/dev/vdb", "failed")]);
}

#[tokio::test]
async fn what_crashed_kernels_left_is_removed() {
    let (machine, _folder) = machine(&[]);
    let rig = rig(machine, settings());
    let answer = clean(&rig, &step("erase_pstore")).await;
    assert_eq!(proofs(&answer)[0]["outcome"], "skipped");
    rig.machine.set_pstore(&["dmesg-efi-1"]);
    let answer = clean(&rig, &step("erase_pstore")).await;
    let proof = &proofs(&answer)[0];
    assert_eq!((&proof["outcome"], &proof["method"]), (&json!("verified"), &json!("pstore")));
    assert_eq!(proof["device"]["node"], "/sys/fs/pstore");
    assert_eq!(rig.machine.events(), [Event::PstoreErased]);
}
