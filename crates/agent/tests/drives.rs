//! Models of drives behind the whole of `erase_devices`: every method meets every fault. Whatever goes wrong, and whatever a
//! drive says of itself, "verified" is said only of a drive that holds nothing of what it held.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use hardware_sim::drive::{AtaProfile, DriveFault, NvmeProfile, ScsiProfile, SimClock, SimDrive};
use serde_json::{Value, json};
use support::bench::Bench;

/// What came of it, for the table.
fn words(told: &Value) -> String {
    match told["outcome"].as_str() {
        Some("verified") => format!("verified, {}", told["method"].as_str().unwrap_or_default()),
        // Places follow from chance, so what the proof found is no more than that.
        Some("failed") if told["error"].as_str().is_some_and(|error| error.contains("LBA ")) => {
            format!("{}, found out by the proof", told["method"].as_str().unwrap_or_default())
        }
        Some("failed") => {
            let error = told["error"].as_str().unwrap_or_default();
            // Of several methods the last one.
            let reason = error.split_once(": ").map_or(error, |(_, reason)| reason);
            let reason = reason.rsplit("; ata_").next().unwrap_or_default();
            format!("failed: {}", reason.chars().take(100).collect::<String>())
        }
        other => format!("{other:?}"),
    }
}

/// Every fault, once and for ever, on one drive, and the same again after its power was cut.
async fn meets_every_fault(name: &str, drive: impl Fn(&SimClock) -> SimDrive) {
    let mut table = String::new();
    let mut broken = Vec::new();
    for fault in DriveFault::ALL {
        for (always, going_on) in [(false, false), (true, true)] {
            let bench = Bench::new(&drive);
            if always {
                bench.drive.always(fault)
            } else {
                bench.drive.inject(fault)
            }
            let internal = json!({"agent_continue_if_secure_erase_failed": going_on});
            let (result, told) = bench.erase("erase_devices", &internal).await;
            let mut kept = bench.is_kept(&result, &told);
            table += &format!("{fault:?}{}: {}\n", if always { " always" } else { "" }, words(&told));
            let mut failed = result.is_err();
            for cut in 1..=2 {
                if !failed || kept.is_err() {
                    break;
                }
                bench.drive.power_cut();
                let (result, told) = bench.erase("erase_devices", &internal).await;
                kept = bench.is_kept(&result, &told).map_err(|why| format!("after {cut} power cuts, {why}"));
                failed = result.is_err();
            }
            if let Err(why) = kept {
                broken.push(format!("{name}, {fault:?}, always {always}: {why}: {told}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    insta::with_settings!({snapshot_suffix => name, prepend_module_to_snapshot => true}, {
        insta::assert_snapshot!("meets_every_fault", table);
    });
}

macro_rules! every_fault {
    ($($name:ident: $drive:expr;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            meets_every_fault(stringify!($name), $drive).await;
        }
    )*};
}

fn nvme(profile: NvmeProfile) -> impl Fn(&SimClock) -> SimDrive {
    move |clock| SimDrive::nvme(profile.clone(), "/dev/nvme0n1", clock)
}

fn ata(profile: AtaProfile) -> impl Fn(&SimClock) -> SimDrive {
    move |clock| SimDrive::ata(profile.clone(), "/dev/sda", clock)
}

fn scsi(profile: ScsiProfile) -> impl Fn(&SimClock) -> SimDrive {
    move |clock| SimDrive::scsi(profile.clone(), "/dev/sda", clock)
}

every_fault! {
    nvme_sanitize_crypto: nvme(NvmeProfile { sanitize: 1, ..NvmeProfile::full() });
    nvme_sanitize_block: nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() });
    nvme_sanitize_overwrite: nvme(NvmeProfile { sanitize: 4, ..NvmeProfile::full() });
    nvme_format_crypto: nvme(NvmeProfile { sanitize: 0, ..NvmeProfile::full() });
    nvme_format_user_data: nvme(NvmeProfile::qemu());
    nvme_write_zeroes: nvme(NvmeProfile { format: false, ..NvmeProfile::qemu() });
    ata_sanitize_crypto: ata(AtaProfile { sanitize: 1, ..AtaProfile::full() });
    ata_sanitize_block: ata(AtaProfile { sanitize: 4, ..AtaProfile::full() });
    ata_sanitize_overwrite: ata(AtaProfile { sanitize: 2, ..AtaProfile::full() });
    ata_security_enhanced: ata(AtaProfile::security());
    ata_security_normal: ata(AtaProfile { enhanced: false, ..AtaProfile::security() });
    ata_security_with_hidden_blocks: ata(AtaProfile { hidden: 2048, ..AtaProfile::security() });
    ata_security_frozen: ata(AtaProfile { frozen: true, ..AtaProfile::security() });
    ata_overwrite: ata(AtaProfile::qemu());
    scsi_sanitize_crypto: scsi(ScsiProfile { sanitize: 4, ..ScsiProfile::full() });
    scsi_sanitize_block: scsi(ScsiProfile { sanitize: 2, ..ScsiProfile::full() });
    scsi_sanitize_overwrite: scsi(ScsiProfile { sanitize: 1, ..ScsiProfile::full() });
    scsi_write_zeroes: scsi(ScsiProfile::qemu());
    virtio: |clock: &SimClock| SimDrive::virtio("/dev/vda", clock);
}

#[tokio::test(start_paused = true)]
async fn a_discard_meets_every_fault() {
    for fault in DriveFault::ALL {
        let bench = Bench::new(|clock| SimDrive::virtio("/dev/vda", clock));
        bench.drive.always(fault);
        let internal = json!({"agent_enable_discard_erase": true, "agent_erase_devices_iterations": 2});
        let (result, told) = bench.erase("erase_devices", &internal).await;
        bench.is_kept(&result, &told).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_overwrite_without_zeros_meets_every_fault() {
    for fault in DriveFault::ALL {
        let bench = Bench::new(ata(AtaProfile::qemu()));
        bench.drive.always(fault);
        let internal = json!({"agent_erase_devices_zeroize": false});
        let (result, told) = bench.erase("erase_devices", &internal).await;
        bench.is_kept(&result, &told).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_express_erase_says_metadata_where_no_more_was_done() {
    for fault in DriveFault::ALL {
        let bench = Bench::new(nvme(NvmeProfile::full()));
        bench.drive.always(fault);
        let (result, told) = bench.erase("erase_devices_express", &json!({})).await;
        bench.is_kept(&result, &told).unwrap();
        assert!(told["method"] != "metadata" || told["standard"] == "none", "{told}");
    }
}
