//! The one promise: whatever goes wrong, "erased" is said only when the device is erased, or when the device itself lied.

mod models;

use erase::{EraseError, Options};
use hardware_sim::drive::{AtaProfile, DriveFault, NvmeProfile, ScsiProfile};
use models::Bench;
use proptest::prelude::*;
use std::time::Duration;

fn any_bench() -> impl Strategy<Value = Bench> {
    let nvme =
        (0..8_u32, any::<bool>(), 0..8_u8, 1..3_u32).prop_map(|(sanitize, format, format_attributes, namespaces)| {
            let namespaces = (1..=namespaces).collect();
            Bench::nvme(NvmeProfile { sanitize, format, format_attributes, namespaces, ..NvmeProfile::qemu() })
        });
    let ata = (any::<[bool; 5]>(), 0..8_u16, prop::bool::weighted(0.2)).prop_map(
        |([security, enhanced, frozen, sanitize_frozen, solid_state], sanitize, hidden)| {
            let hidden = if hidden { 2048 } else { 0 };
            Bench::ata(AtaProfile {
                security,
                enhanced,
                frozen,
                sanitize,
                sanitize_frozen,
                hidden,
                solid_state,
                self_test: false,
            })
        },
    );
    let scsi = (0..8_u8, any::<bool>()).prop_map(|(sanitize, reports_operations)| {
        Bench::scsi(ScsiProfile { sanitize, reports_operations, self_test: false })
    });
    prop_oneof![4 => nvme, 4 => ata, 3 => scsi, 1 => Just(()).prop_map(|()| Bench::virtio())]
}

fn any_options() -> impl Strategy<Value = Options> {
    any::<[bool; 6]>().prop_flat_map(|[secure, going_on, discard, zeroize, secure_only, siblings]| {
        (0..3_u32, any::<u64>()).prop_map(move |(passes, seed)| Options {
            ata_secure_erase: secure,
            nvme_secure_erase: secure,
            continue_if_failed: going_on,
            discard,
            zeroize: zeroize || passes == 0,
            passes,
            secure_only,
            granted_namespaces: if siblings { vec![1, 2] } else { Vec::new() },
            seed,
            ..Options::default()
        })
    })
}

#[derive(Debug, Clone)]
struct Day {
    faults: Vec<(DriveFault, bool)>,
    stopped_after: Option<u64>,
    power_cut: bool,
    written: bool,
}

fn any_day() -> impl Strategy<Value = Day> {
    let fault = (prop::sample::select(DriveFault::ALL.to_vec()), prop::bool::weighted(0.3));
    (prop::collection::vec(fault, 0..3), prop::option::weighted(0.3, 0..40_000_u64), any::<bool>(), any::<bool>())
        .prop_map(|(faults, stopped_after, power_cut, written)| Day { faults, stopped_after, power_cut, written })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn erased_is_said_only_of_what_is_erased(
        bench in any_bench(),
        options in any_options(),
        days in prop::collection::vec(any_day(), 1..4),
    ) {
        // A drive is erased again and again, by tries that are cut off, with power cuts and new data in between.
        let mut lies = false;
        for day in days {
            if day.written {
                let _ = bench.drive.make_old();
            }
            for (fault, always) in &day.faults {
                lies |= fault.is_lie();
                if *always { bench.drive.always(*fault) } else { bench.drive.inject(*fault) }
            }
            let result = match day.stopped_after {
                Some(seconds) => bench.erase_until(&options, Duration::from_secs(seconds)),
                None => bench.erase(&options),
            };
            match result {
                Ok(done) => {
                    let left = bench.drive.old_blocks();
                    prop_assert!(left == 0 || lies, "{left} blocks are left after {done:?}");
                    prop_assert!(!bench.drive.has_password());
                    let granted = !options.granted_namespaces.is_empty();
                    prop_assert!(granted || !bench.drive.siblings_erased());
                }
                Err(EraseError::NotErased { attempts, .. }) if bench.drive.has_password() => {
                    let words: String = attempts.iter().map(ToString::to_string).collect();
                    prop_assert!(words.contains("password"), "{words}");
                }
                Err(_) => {}
            }
            if day.power_cut {
                bench.drive.power_cut();
            }
        }
    }
}

#[test]
fn every_fault_on_every_drive_is_an_error_or_is_overcome() {
    let drives: [fn() -> Bench; 12] = [
        || Bench::nvme(NvmeProfile::qemu()),
        || Bench::nvme(NvmeProfile::full()),
        || Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::qemu() }),
        || Bench::nvme(NvmeProfile { sanitize: 4, ..NvmeProfile::qemu() }),
        || Bench::ata(AtaProfile::qemu()),
        || Bench::ata(AtaProfile::security()),
        || Bench::ata(AtaProfile::full()),
        || Bench::ata(AtaProfile { sanitize: 2, ..AtaProfile::full() }),
        || Bench::scsi(ScsiProfile::qemu()),
        || Bench::scsi(ScsiProfile::full()),
        || Bench::scsi(ScsiProfile { sanitize: 1, ..ScsiProfile::full() }),
        Bench::virtio,
    ];
    let mut table = String::new();
    for drive in drives {
        let name = erase::methods(&drive().drive, &Options::default()).unwrap()[0];
        for fault in DriveFault::ALL {
            for going_on in [false, true] {
                let bench = drive();
                bench.drive.inject(fault);
                let options = Options { continue_if_failed: going_on, ..Options::default() };
                let result = bench.erase(&options);
                let left = bench.drive.old_blocks();
                assert!(result.is_err() || left == 0 || fault.is_lie(), "{name} {fault:?}: {result:?}");
                if !going_on {
                    table += &format!("{name} {fault:?}: {}\n", outcome(result));
                }
            }
        }
    }
    insta::assert_snapshot!(table);
}

fn outcome(result: Result<erase::Done, EraseError>) -> String {
    match result {
        Ok(done) => format!("erased by {}", done.method),
        Err(EraseError::NotErased { attempts, .. }) => attempts.last().map(ToString::to_string).unwrap_or_default(),
        Err(error) => error.to_string(),
    }
}
