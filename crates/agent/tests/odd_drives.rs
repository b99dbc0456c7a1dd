//! Drives to which something happens between their erase and its proof, worn ones, those that take no writes, and those that are
//! there twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use hardware_sim::SimMachine;
use hardware_sim::drive::{AtaProfile, DriveFault, Mishap, NvmeProfile, ScsiProfile, SimClock, SimDrive};
use serde_json::{Value, json};
use support::bench::{Bench, run};

/// The drives of the tests: one for each way of erasing.
const KINDS: [&str; 6] = ["nvme crypto", "nvme block", "ata security", "scsi block", "scsi zeros", "virtio"];

fn drive(kind: &str, clock: &SimClock) -> SimDrive {
    let nvme = |sanitize| SimDrive::nvme(NvmeProfile { sanitize, ..NvmeProfile::full() }, "/dev/nvme0n1", clock);
    match kind {
        "nvme crypto" => nvme(1),
        "nvme block" => nvme(2),
        "ata security" => SimDrive::ata(AtaProfile::security(), "/dev/sda", clock),
        "scsi block" => SimDrive::scsi(ScsiProfile { sanitize: 2, ..ScsiProfile::full() }, "/dev/sda", clock),
        "scsi zeros" => SimDrive::scsi(ScsiProfile::qemu(), "/dev/sda", clock),
        _ => SimDrive::virtio("/dev/vda", clock),
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_between_an_erase_and_its_proof_fails_the_disk_whatever_the_method() {
    for step in ["erase_devices", "erase_devices_metadata", "erase_devices_express"] {
        for kind in KINDS {
            for (mishap, words) in [
                (Mishap::Vanishes, "os error 19"),
                (Mishap::HasSize(4 << 20), "the disk has 4194304 bytes after the erase and had 8388608 before"),
                (Mishap::HasSize(16 << 20), "the disk has 16777216 bytes after the erase and had 8388608 before"),
                (Mishap::ReadError(1000 * 512), "os error 5"),
                (Mishap::FlushFails, "empty the cache of the disk"),
            ] {
                let bench = Bench::new(|clock| drive(kind, clock));
                bench.drive.afterwards(mishap);
                let (result, told) = bench.erase(step, &json!({})).await;
                assert!(result.is_err(), "{step}, {kind}, {mishap:?}: {told}");
                let error = told["error"].as_str().unwrap_or_default();
                assert!(told["outcome"] == "failed" && error.contains(words), "{step}, {kind}, {mishap:?}: {told}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_worn_out_has_no_mark_and_is_told_or_fails_the_disk() {
    for kind in KINDS {
        for step in ["erase_devices", "erase_devices_metadata"] {
            let bench = Bench::new(|clock| drive(kind, clock));
            let size = bench.drive.disk().size;
            bench.drive.wear_out(size - 512..size);
            let (result, told) = bench.erase(step, &json!({})).await;
            // Nobody reads it any more; only where a key may have been thrown away that is as good as anything else.
            if ["nvme crypto", "ata security"].contains(&kind) && step == "erase_devices" {
                let reading = &told["reading"];
                assert!(reading["unmarked"].as_str().unwrap().starts_with("LBA 16376 "), "{told}");
                assert!(reading["unreadable"].as_u64() > Some(0), "{told}");
                assert!(result.is_ok() && bench.drive.old_blocks() <= 1, "{told}");
            } else {
                assert!(result.is_err() && told["outcome"] == "failed", "{kind}, {step}: {told}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drive_that_takes_no_writes_is_erased_by_its_own_command_or_not_at_all() {
    for kind in KINDS {
        for refuses_commands in [false, true] {
            for step in ["erase_devices", "erase_devices_metadata"] {
                let bench = Bench::new(|clock| drive(kind, clock));
                bench.drive.refuse_writes();
                if refuses_commands {
                    bench.drive.always(DriveFault::Aborts);
                }
                let (result, told) = bench.erase(step, &json!({})).await;
                let erases_itself = ["nvme block", "ata security", "scsi block"].contains(&kind);
                // Without marks nobody can tell what a key that was thrown away leaves, nor what an enhanced erase does.
                let can_be_proven = erases_itself && kind != "ata security";
                if step == "erase_devices" && can_be_proven && !refuses_commands {
                    assert_eq!((&told["outcome"], bench.drive.old_blocks()), (&json!("verified"), 0), "{kind}: {told}");
                    assert_eq!(told["reading"]["marks"], 0);
                } else {
                    assert!(result.is_err() && told["outcome"] == "failed", "{kind}, {step}: {told}");
                }
            }
        }
    }
}

/// The step on a machine with these drives, and what it says of each.
async fn all_of(drives: &[SimDrive], clock: &SimClock, step: &str) -> (bool, Vec<Value>) {
    let machine = SimMachine::new();
    drives.iter().for_each(|drive| machine.add_drive(drive));
    let rig = support::rig(machine, support::settings());
    let result = run(&rig, clock, step, &json!({})).await;
    let is_ok = result.is_ok();
    (is_ok, support::bench::proofs(&result))
}

#[tokio::test(start_paused = true)]
async fn a_disk_with_two_paths_is_erased_once_and_the_other_path_is_told() {
    for kind in ["scsi block", "scsi zeros", "ata security"] {
        let clock = SimClock::default();
        let one = drive(kind, &clock).with_wwn("0x5000c500a1b2c3d4");
        let (is_ok, told) = all_of(&[one.path("/dev/sdb"), one.clone()], &clock, "erase_devices").await;
        assert!(is_ok, "{told:?}");
        assert_eq!((&told[0]["outcome"], &told[1]["outcome"]), (&json!("verified"), &json!("skipped")), "{told:?}");
        let reason = told[1]["reason"].as_str().unwrap();
        assert!(reason.starts_with("it is another path to /dev/sdb (0x5000c500a1b2c3d4)"), "{reason}");
        assert_eq!(one.old_blocks(), 0);
        assert!(one.erases().len() <= 1, "{:?}", one.erases());

        let lying = drive(kind, &clock).with_wwn("0x5000c500a1b2c3d4");
        lying.always(if kind == "scsi zeros" { DriveFault::LosesWrites } else { DriveFault::Lies });
        let (is_ok, told) = all_of(&[lying.clone(), lying.path("/dev/sdb")], &clock, "erase_devices").await;
        assert!(!is_ok);
        assert!(told.iter().all(|proof| proof["outcome"] == "failed"), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_of_a_disk_with_two_paths_are_proven_by_each() {
    let clock = SimClock::default();
    let one = drive("scsi zeros", &clock).with_wwn("0x5000c500a1b2c3d4");
    let (is_ok, told) = all_of(&[one.path("/dev/sdb"), one.clone()], &clock, "erase_devices_metadata").await;
    assert!(is_ok && told.iter().all(|proof| proof["outcome"] == "verified"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn two_disks_to_which_their_maker_gave_one_name_are_both_erased() {
    let clock = SimClock::default();
    let one = drive("scsi block", &clock).with_wwn("0x5000c500a1b2c3d4");
    let other = drive("scsi block", &clock).with_wwn("0x5000c500a1b2c3d4").path("/dev/sdb");
    let (is_ok, told) = all_of(&[one.clone(), other.clone()], &clock, "erase_devices").await;
    assert!(is_ok && told.iter().all(|proof| proof["outcome"] == "verified"), "{told:?}");
    assert_eq!((one.old_blocks(), other.old_blocks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_namespaces_of_a_drive_are_not_those_of_another_that_has_its_name() {
    let clock = SimClock::default();
    let of = |namespaces: Vec<u32>, node: &str| {
        let profile = NvmeProfile { namespaces, ..NvmeProfile::full() };
        SimDrive::nvme(profile, node, &clock).with_wwn("eui.0025385500000001")
    };
    let shared = of(vec![1, 2], "/dev/nvme0n1");
    let other = of(vec![2], "/dev/nvme1n2").with_namespace(2);
    let (is_ok, told) = all_of(&[shared.clone(), other.clone()], &clock, "erase_devices").await;
    assert!(is_ok, "{told:?}");
    assert!(!shared.siblings_erased(), "its second namespace is no disk of the machine");
    // A sanitize is for a drive all of whose namespaces are to be erased.
    assert_eq!(
        (&told[0]["method"], &told[1]["method"]),
        (&json!("nvme_format_crypto"), &json!("nvme_sanitize_crypto"))
    );
    assert_eq!((shared.old_blocks(), other.old_blocks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_the_other_path_to_a_drive_no_more_is_said_than_what_was_erased_of_it() {
    let clock = SimClock::default();
    let one = drive("nvme crypto", &clock).with_wwn("eui.0025385500000001");
    one.always(DriveFault::Aborts);
    let (is_ok, told) = all_of(&[one.clone(), one.path("/dev/nvme1n1")], &clock, "erase_devices_express").await;
    assert!(is_ok && told[0]["method"] == "metadata", "{told:?}");
    let reason = told[1]["reason"].as_str().unwrap();
    assert!(reason.ends_with("and of that the metadata are erased and nothing else"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_drive_without_a_secure_erase_keeps_its_data_in_express_and_gets_no_marks_there() {
    let profile = NvmeProfile { format: false, ..NvmeProfile::qemu() };
    let bench = Bench::new(|clock| SimDrive::nvme(profile, "/dev/nvme0n1", clock));
    let (result, told) = bench.erase("erase_devices_express", &json!({})).await;
    assert!(result.is_ok() && told["method"] == "metadata", "{told}");
    assert_eq!(told["passed_over"].as_array().map(Vec::len), Some(1), "{told}");
    // All but the ends and two places of 4 KiB, and the one that begins where the first MiB ends.
    assert_eq!(bench.drive.old_blocks(), (6 << 20) / 512 - 3 * 8);
}

#[tokio::test(start_paused = true)]
async fn metadata_meet_every_fault() {
    for kind in KINDS {
        for fault in DriveFault::ALL {
            let bench = Bench::new(|clock| drive(kind, clock));
            bench.drive.always(fault);
            let (result, told) = bench.erase("erase_devices_metadata", &json!({})).await;
            bench.is_kept(&result, &told).unwrap();
            let failed = matches!(fault, DriveFault::LosesWrites);
            assert!(!failed || told["outcome"] == "failed", "{kind}, {fault:?}: {told}");
        }
    }
}
