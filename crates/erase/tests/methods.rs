//! Every method on every model: what it does to the data, what it says of itself, and what a failure says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod models;

use erase::{EraseError, Method, Nist, Options};
use hardware_sim::drive::{AtaProfile, DriveFault, NvmeProfile, ScsiProfile};
use models::Bench;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Erases well, leaves nothing, and says so.
fn erased(bench: &Bench, options: &Options) -> (Method, Nist) {
    let done = bench.erase(options).unwrap();
    assert_eq!(bench.drive.old_blocks(), 0, "{done:?}");
    assert!(!done.evidence.is_empty() && !done.resumed && !bench.drive.has_password());
    (done.method, done.nist)
}

/// What an error says, as an operator reads it.
fn refusal(bench: &Bench, options: &Options) -> String {
    bench.erase(options).unwrap_err().to_string()
}

fn going_on() -> Options {
    Options { continue_if_failed: true, ..Options::default() }
}

#[test]
fn the_best_that_a_drive_has_is_used() {
    let options = Options::default();
    let nvme = |sanitize, format, format_attributes| {
        Bench::nvme(NvmeProfile { sanitize, format, format_attributes, ..NvmeProfile::qemu() })
    };
    let ata = |profile| Bench::ata(profile);
    let scsi = |sanitize| Bench::scsi(ScsiProfile { sanitize, ..ScsiProfile::full() });
    let cases = [
        (nvme(7, true, 4), Method::NvmeSanitizeCrypto, Nist::Purge),
        (nvme(6, true, 4), Method::NvmeSanitizeBlock, Nist::Purge),
        (nvme(4, true, 4), Method::NvmeSanitizeOverwrite, Nist::Purge),
        (nvme(0, true, 4), Method::NvmeFormatCrypto, Nist::Clear),
        (nvme(0, true, 0), Method::NvmeFormatUserData, Nist::Clear),
        (nvme(0, false, 0), Method::WriteZeroes, Nist::Clear),
        (ata(AtaProfile::full()), Method::AtaSanitizeCrypto, Nist::Purge),
        (ata(AtaProfile { sanitize: 6, ..AtaProfile::full() }), Method::AtaSanitizeBlock, Nist::Purge),
        (ata(AtaProfile { sanitize: 2, ..AtaProfile::full() }), Method::AtaSanitizeOverwrite, Nist::Purge),
        (ata(AtaProfile { sanitize: 0, ..AtaProfile::full() }), Method::AtaSecurityEnhanced, Nist::Clear),
        (ata(AtaProfile::security()), Method::AtaSecurityEnhanced, Nist::Purge),
        (ata(AtaProfile { enhanced: false, ..AtaProfile::security() }), Method::AtaSecurityNormal, Nist::Clear),
        (ata(AtaProfile::qemu()), Method::Overwrite, Nist::Clear),
        (scsi(7), Method::ScsiSanitizeCrypto, Nist::Purge),
        (scsi(3), Method::ScsiSanitizeBlock, Nist::Purge),
        (scsi(1), Method::ScsiSanitizeOverwrite, Nist::Purge),
        (Bench::scsi(ScsiProfile::qemu()), Method::WriteZeroes, Nist::Clear),
        (Bench::virtio(), Method::WriteZeroes, Nist::Clear),
    ];
    for (bench, method, nist) in cases {
        let offered = erase::methods(&bench.drive, &options).unwrap();
        assert_eq!(offered.first(), Some(&method));
        assert_eq!(erased(&bench, &options), (method, nist));
    }
}

#[test]
fn a_disk_that_does_not_tell_what_it_has_is_tried_if_it_is_new_enough() {
    let bench = Bench::scsi(ScsiProfile { reports_operations: false, ..ScsiProfile::full() });
    assert_eq!(erased(&bench, &Options::default()).0, Method::ScsiSanitizeCrypto);
    // Without crypto erase, which only the attempt shows.
    let bench = Bench::scsi(ScsiProfile { reports_operations: false, sanitize: 2, ..ScsiProfile::full() });
    let done = bench.erase(&Options::default()).unwrap();
    assert_eq!((done.method, done.passed_over.len()), (Method::ScsiSanitizeBlock, 1));
}

#[test]
fn what_is_not_allowed_is_not_done() {
    let nvme = Options { nvme_secure_erase: false, ..Options::default() };
    assert_eq!(erased(&Bench::nvme(NvmeProfile::full()), &nvme).0, Method::WriteZeroes);
    let ata = Options { ata_secure_erase: false, ..Options::default() };
    assert_eq!(erased(&Bench::ata(AtaProfile::full()), &ata).0, Method::Overwrite);
    assert_eq!(erased(&Bench::scsi(ScsiProfile::full()), &ata).0, Method::WriteZeroes);
    let discard = Options { discard: true, passes: 2, ..Options::default() };
    assert_eq!(erased(&Bench::virtio(), &discard), (Method::Discard, Nist::None));
    let passes = Options { passes: 3, zeroize: false, seed: 5, ..Options::default() };
    assert_eq!(erased(&Bench::virtio(), &passes).0, Method::Overwrite);
    let secure = Options { secure_only: true, ..Options::default() };
    assert_eq!(erase::methods(&Bench::virtio().drive, &secure).unwrap(), []);
    let bench = Bench::virtio();
    assert!(refusal(&bench, &secure).contains("no method is allowed that it has"));
    assert_ne!(bench.drive.old_blocks(), 0);
}

#[test]
fn a_device_that_was_not_granted_is_not_touched() {
    let (bench, other) = (Bench::virtio(), Bench::scsi(ScsiProfile::full()));
    let result = erase::erase(&bench.drive, &other.grant(), &Options::default(), &bench.waiter());
    assert!(matches!(result, Err(EraseError::OtherDevice { .. })), "{result:?}");
    assert_eq!(bench.drive.old_blocks() * 512, bench.drive.disk().size as usize);
}

#[test]
fn a_failed_method_ends_it_unless_going_on_is_allowed() {
    let failing = || {
        let bench = Bench::nvme(NvmeProfile::full());
        bench.drive.inject(DriveFault::Fails);
        bench
    };
    let bench = failing();
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("nvme_sanitize_crypto: the device says that it was not done"), "{error}");
    assert_eq!(bench.drive.erases(), ["sanitize crypto"]);
    let bench = failing();
    let done = bench.erase(&going_on()).unwrap();
    assert_eq!(done.method, Method::NvmeSanitizeBlock);
    assert_eq!(done.passed_over.len(), 1);
    assert_eq!(bench.drive.old_blocks(), 0);
}

#[test]
fn what_is_only_missing_does_not_end_it_and_is_recorded() {
    let done = Bench::nvme(NvmeProfile::qemu()).erase(&Options::default()).unwrap();
    let passed: Vec<Method> = done.passed_over.iter().map(|attempt| attempt.method).collect();
    let missing = [
        Method::NvmeSanitizeCrypto,
        Method::NvmeSanitizeBlock,
        Method::NvmeSanitizeOverwrite,
        Method::NvmeFormatCrypto,
    ];
    assert_eq!(passed, missing);
    let record = serde_json::to_value(&done).unwrap();
    assert_eq!(record["passed_over"][0]["failure"], "not possible: the controller does not offer it (SANICAP)");
    assert_eq!(record["nist"], "clear");
}

#[test]
fn namespaces_that_are_not_granted_survive() {
    let profile = NvmeProfile { namespaces: vec![1, 2], ..NvmeProfile::full() };
    let bench = Bench::nvme(profile.clone());
    assert_eq!(erased(&bench, &Options::default()).0, Method::NvmeFormatCrypto);
    assert!(!bench.drive.siblings_erased());
    // A drive whose format goes to all of them.
    let bench = Bench::nvme(NvmeProfile { format_attributes: 6, ..profile.clone() });
    assert_eq!(erased(&bench, &Options::default()).0, Method::WriteZeroes);
    assert!(!bench.drive.siblings_erased());
    let both = Options { granted_namespaces: vec![1, 2], ..Options::default() };
    let bench = Bench::nvme(profile.clone());
    assert_eq!(erased(&bench, &both).0, Method::NvmeSanitizeCrypto);
    assert!(bench.drive.siblings_erased());
    // A third one that nobody has seen, as it is not attached.
    let bench = Bench::nvme(NvmeProfile { namespaces: vec![1, 2, 7], ..profile });
    let done = bench.erase(&both).unwrap();
    assert_eq!((done.method, bench.drive.siblings_erased()), (Method::NvmeFormatCrypto, false));
    assert!(done.passed_over[0].to_string().ends_with("also those that are not to be erased: 7"), "{done:?}");
}

#[test]
fn a_sanitize_that_is_running_is_taken_up_and_not_begun_again() {
    let overwrite = [
        Bench::nvme(NvmeProfile { sanitize: 4, ..NvmeProfile::full() }),
        Bench::ata(AtaProfile { sanitize: 2, ..AtaProfile::full() }),
        Bench::scsi(ScsiProfile { sanitize: 1, ..ScsiProfile::full() }),
    ];
    for bench in overwrite {
        let stopped = bench.erase_until(&Options::default(), 60 * MINUTE).unwrap_err();
        assert!(stopped.to_string().contains("goes on by itself"), "{stopped}");
        assert_ne!(bench.drive.old_blocks(), 0);
        bench.drive.power_cut();
        let done = bench.erase(&Options::default()).unwrap();
        assert!(done.resumed);
        assert_eq!((bench.drive.old_blocks(), bench.drive.erases()), (0, vec!["sanitize overwrite".to_owned()]));
    }
}

#[test]
fn why_a_drive_gives_no_data_is_asked_without_changing_anything() {
    let why = |bench: &Bench| erase::withheld(&hardware::Observed::new(bench.drive.clone())).unwrap();
    for bench in [
        Bench::nvme(NvmeProfile { sanitize: 4, ..NvmeProfile::full() }),
        Bench::ata(AtaProfile { sanitize: 2, ..AtaProfile::full() }),
        Bench::scsi(ScsiProfile { sanitize: 1, ..ScsiProfile::full() }),
    ] {
        assert_eq!(why(&bench), None);
        bench.drive.inject(DriveFault::Fails);
        bench.erase_until(&Options::default(), 60 * MINUTE).unwrap_err();
        assert_eq!(why(&bench), Some("a sanitize is running"));
        bench.clock.advance(60 * 60 * MINUTE);
        assert_eq!(why(&bench), Some("its last sanitize failed"));
        assert_eq!(why(&bench), Some("its last sanitize failed"), "asking clears nothing");
    }
    let bench = Bench::ata(AtaProfile::security());
    bench.drive.set_password([b'x'; 32]);
    assert_eq!(why(&bench), None);
    bench.drive.power_cut();
    assert_eq!(why(&bench), Some("a password locks it"));
    for bench in [Bench::virtio(), Bench::nvme(NvmeProfile::qemu()), Bench::scsi(ScsiProfile::qemu())] {
        assert_eq!(why(&bench), None);
    }
}

#[test]
fn progress_is_the_devices_own_and_tells_the_time_left() {
    let bench = Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() });
    let waiter = bench.waiter();
    erase::erase(&bench.drive, &bench.grant(), &Options::default(), &waiter).unwrap();
    let heard = waiter.heard.into_inner().unwrap();
    assert!(heard.windows(2).all(|pair| pair[0].permille <= pair[1].permille));
    let half = heard.iter().find(|progress| progress.permille >= Some(500)).unwrap();
    let left = half.eta.unwrap().as_secs();
    assert!((80..100).contains(&left), "{half:?}");
    // Before there is a pace, the drive's own estimate is what there is.
    assert!((170..=180).contains(&heard[0].eta.unwrap().as_secs()), "{:?}", heard[0]);
}

#[test]
fn the_time_of_a_security_erase_is_the_drives_estimate() {
    let bench = Bench::ata(AtaProfile::security());
    let waiter = bench.waiter();
    erase::erase(&bench.drive, &bench.grant(), &Options::default(), &waiter).unwrap();
    let first = waiter.heard.into_inner().unwrap().remove(0);
    assert_eq!((first.permille, first.eta), (None, Some(120 * MINUTE)));
}

#[test]
fn a_frozen_drive_is_explained_and_not_overwritten_unless_that_is_allowed() {
    let frozen = AtaProfile { frozen: true, ..AtaProfile::security() };
    let bench = Bench::ata(frozen.clone());
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("security is frozen") && error.contains("suspend the machine"), "{error}");
    assert_ne!(bench.drive.old_blocks(), 0);
    assert_eq!(erased(&Bench::ata(frozen), &going_on()).0, Method::Overwrite);
    let bench = Bench::ata(AtaProfile { sanitize_frozen: true, ..AtaProfile::full() });
    assert!(refusal(&bench, &Options::default()).contains("SANITIZE FREEZE LOCK"));
}

#[test]
fn a_drive_that_is_locked_with_somebodys_password_is_explained() {
    let bench = Bench::ata(AtaProfile::full());
    bench.drive.set_password([b'x'; 32]);
    bench.drive.power_cut();
    for options in [Options::default(), going_on(), Options::default()] {
        let error = refusal(&bench, &options);
        assert!(error.contains("locked with a password") && error.contains("PSID"), "{error}");
    }
    // Two passwords are tried each time, and the drive has patience for five.
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("takes no more passwords"), "{error}");
    assert!(bench.drive.has_password());
}

#[test]
fn a_password_of_somebody_else_on_an_open_drive_stays() {
    let bench = Bench::ata(AtaProfile::security());
    bench.drive.set_password([b'x'; 32]);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("user password that is neither ours"), "{error}");
    assert!(bench.drive.has_password());
}

#[test]
fn a_drive_that_keeps_a_password_is_erased_by_no_method() {
    let without_security = Options { ata_secure_erase: false, continue_if_failed: true, ..Options::default() };
    for profile in [AtaProfile::full(), AtaProfile::security()] {
        for frozen in [false, true] {
            for options in [Options::default(), going_on(), without_security.clone()] {
                let bench = Bench::ata(AtaProfile { frozen, ..profile.clone() });
                bench.drive.set_password([b'x'; 32]);
                let error = refusal(&bench, &options);
                assert!(error.contains("locks itself with that password") || frozen, "{error}");
                assert!(error.contains("security is frozen") || !frozen, "{error}");
                assert_eq!((bench.drive.erases().len(), bench.drive.has_password()), (0, true));
            }
        }
    }
}

#[test]
fn a_password_that_outlives_a_sanitize_which_is_taken_up_is_told() {
    let bench = Bench::ata(AtaProfile { sanitize: 2, ..AtaProfile::full() });
    bench.erase_until(&Options::default(), MINUTE).unwrap_err();
    bench.drive.set_password([b'x'; 32]);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("locks itself with that password"), "{error}");
    assert_eq!((bench.drive.erases().len(), bench.drive.old_blocks()), (1, 0));
}

#[test]
fn a_password_that_a_power_cut_left_is_recognised() {
    let mut ours = [0; 32];
    ours[..12].copy_from_slice(b"ferric-erase");
    // The other is ironic-python-agent's.
    for password in [ours, [0; 32]] {
        for locked in [true, false] {
            let bench = Bench::ata(AtaProfile::security());
            bench.drive.set_password(password);
            if locked {
                bench.drive.power_cut();
            }
            assert_eq!(erased(&bench, &Options::default()).0, Method::AtaSecurityEnhanced);
        }
    }
}

#[test]
fn no_password_of_ours_stays_after_any_fault() {
    for fault in DriveFault::ALL {
        for options in [Options::default(), going_on()] {
            let bench = Bench::ata(AtaProfile::security());
            bench.drive.inject(fault);
            match bench.erase(&options) {
                // The drive does not answer: the error says what may be on it.
                Err(EraseError::NotErased { attempts, .. }) if bench.drive.has_password() => {
                    assert_eq!(fault, DriveFault::GoesSilent);
                    let text = attempts.iter().map(ToString::to_string).collect::<String>();
                    assert!(text.contains("ferric-erase") && text.contains("--security-disable"), "{text}");
                }
                _ => assert!(!bench.drive.has_password(), "{fault:?}"),
            }
        }
    }
}

#[test]
fn a_password_that_cannot_be_removed_is_the_error() {
    let bench = Bench::ata(AtaProfile::security());
    bench.drive.inject(DriveFault::Aborts);
    bench.drive.always(DriveFault::KeepsPassword);
    let error = refusal(&bench, &going_on());
    assert!(error.contains("\"ferric-erase\" is still set on the device"), "{error}");
    // Nothing else is tried, now or the next time: the drive is the operator's first.
    let error = refusal(&bench, &going_on());
    assert!(error.contains("\"ferric-erase\" is still set on the device"), "{error}");
    assert_eq!(bench.drive.erases(), ["security erase enhanced"]);
}

#[test]
fn a_security_erase_whose_answer_was_lost_counts_if_the_drive_says_so() {
    for fault in [DriveFault::TimesOutAtWork, DriveFault::ResetGoesOn] {
        let bench = Bench::ata(AtaProfile::security());
        bench.drive.inject(fault);
        assert_eq!(erased(&bench, &Options::default()).0, Method::AtaSecurityEnhanced);
    }
    for fault in [DriveFault::TimesOut, DriveFault::ResetForgets] {
        let bench = Bench::ata(AtaProfile::security());
        bench.drive.inject(fault);
        assert!(bench.erase(&Options::default()).is_err());
        assert!(!bench.drive.has_password());
    }
}

#[test]
fn blocks_behind_a_protected_area_are_not_left_out_silently() {
    let hidden = AtaProfile { hidden: 2048, ..AtaProfile::qemu() };
    let error = refusal(&Bench::ata(hidden), &going_on());
    assert!(error.contains("2048 blocks of the drive are hidden") && error.contains("hdparm -N"), "{error}");
    let error = refusal(&Bench::ata(AtaProfile { hidden: 2048, ..AtaProfile::security() }), &Options::default());
    assert!(error.contains("2048 blocks of the drive are hidden"), "{error}");
    // A sanitize reaches them.
    let bench = Bench::ata(AtaProfile { hidden: 2048, ..AtaProfile::full() });
    assert_eq!(erased(&bench, &Options::default()).0, Method::AtaSanitizeCrypto);
}

#[test]
fn a_drive_that_stays_where_it_is_is_given_up_after_a_while() {
    for bench in [
        Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() }),
        Bench::ata(AtaProfile::full()),
        Bench::scsi(ScsiProfile::full()),
    ] {
        bench.drive.inject(DriveFault::Sticks);
        let error = refusal(&bench, &going_on());
        assert!(error.contains("no progress for 120 minutes, at 60.0 %"), "{error}");
        assert_eq!(bench.drive.erases().len(), 1);
    }
}

#[test]
fn a_reset_in_the_middle_is_followed_to_the_end() {
    for fault in [DriveFault::ResetGoesOn, DriveFault::ResetBeginsAnew] {
        for bench in [
            Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() }),
            Bench::ata(AtaProfile::full()),
            Bench::scsi(ScsiProfile::full()),
        ] {
            bench.drive.inject(fault);
            erased(&bench, &Options::default());
            assert_eq!(bench.drive.erases().len(), 1);
        }
    }
}

#[test]
fn a_sanitize_that_a_reset_ended_is_not_taken_for_done() {
    for bench in [
        Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() }),
        Bench::ata(AtaProfile { sanitize: 4, ..AtaProfile::full() }),
        Bench::scsi(ScsiProfile { sanitize: 2, ..ScsiProfile::full() }),
    ] {
        bench.drive.inject(DriveFault::ResetForgets);
        let error = refusal(&bench, &Options::default());
        assert!(error.contains("the device says that it was not done"), "{error}");
        assert_ne!(bench.drive.old_blocks(), 0);
    }
}

#[test]
fn the_log_of_an_earlier_sanitize_is_not_that_of_this_one() {
    let bench = Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() });
    bench.erase(&Options::default()).unwrap();
    // Written since; and the next sanitize is never begun.
    hardware::Device::write_at(&bench.drive, &[7; 512], 0).unwrap();
    bench.drive.inject(DriveFault::TimesOut);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("still that of an earlier sanitize"), "{error}");
    let bench = Bench::ata(AtaProfile { sanitize: 4, ..AtaProfile::full() });
    bench.erase(&Options::default()).unwrap();
    bench.drive.inject(DriveFault::TimesOut);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("may tell of an earlier sanitize"), "{error}");
}

#[test]
fn a_reset_that_brings_the_log_of_an_earlier_sanitize_back_is_not_taken_for_done() {
    let bench = Bench::nvme(NvmeProfile { sanitize: 2, ..NvmeProfile::full() });
    bench.erase(&Options::default()).unwrap();
    bench.drive.make_old().unwrap();
    bench.drive.inject(DriveFault::ResetForgets);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("still that of an earlier sanitize"), "{error}");
}

#[test]
fn a_security_erase_that_succeeds_and_leaves_the_password_was_none() {
    let bench = Bench::ata(AtaProfile::security());
    bench.drive.inject(DriveFault::KeepsPassword);
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("the password was still set, which a finished erase removes"), "{error}");
    assert!(!bench.drive.has_password());
}

#[test]
fn a_discard_that_frees_nothing_is_found_and_the_disk_overwritten() {
    let bench = Bench::virtio();
    bench.drive.always(DriveFault::DiscardsNothing);
    let options = Options { discard: true, passes: 2, ..Options::default() };
    let done = bench.erase(&options).unwrap();
    assert_eq!((done.method, bench.drive.old_blocks()), (Method::Overwrite, 0));
    let text = done.passed_over[0].to_string();
    assert!(text.contains("is not zero after everything was discarded"), "{text}");
}

#[test]
fn a_block_that_cannot_be_written_fails_the_overwrite_and_the_rest_is_gone() {
    let bench = Bench::ata(AtaProfile::qemu());
    bench.drive.always(DriveFault::WriteError(3 << 20));
    let error = refusal(&bench, &Options::default());
    assert!(error.contains("1 blocks could not be written, the first at byte 3145728"), "{error}");
    assert_eq!(bench.drive.old_blocks(), 1);
}

#[test]
fn writes_that_are_lost_are_found() {
    for options in [Options::default(), Options { passes: 2, zeroize: false, ..Options::default() }] {
        let bench = Bench::virtio();
        bench.drive.always(DriveFault::LosesWrites);
        let error = refusal(&bench, &options);
        assert!(error.contains("reads other than it was written"), "{error}");
    }
}

#[test]
fn an_overwrite_stops_between_two_writes() {
    let bench = Bench::ata(AtaProfile::qemu());
    let error = bench.erase_until(&Options::default(), Duration::from_millis(8)).unwrap_err().to_string();
    assert!(error.contains("a part of the device is overwritten"), "{error}");
    let left = bench.drive.old_blocks();
    assert!(left > 0 && left < 16384, "{left}");
}

#[test]
fn the_percentage_of_a_discard_goes_up_once() {
    let bench = Bench::virtio();
    let options = Options { discard: true, passes: 2, ..Options::default() };
    let waiter = bench.waiter();
    assert_eq!(erase::erase(&bench.drive, &bench.grant(), &options, &waiter).unwrap().method, Method::Discard);
    let told: Vec<_> =
        waiter.heard.into_inner().unwrap().into_iter().map(|progress| progress.permille.unwrap()).collect();
    assert!(told.is_sorted() && told[0] == 0 && told.iter().any(|permille| *permille > 800), "{told:?}");
}
