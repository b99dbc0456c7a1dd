use super::*;

/// IDENTIFY data with these words, and its checksum.
fn identify_data(words: &[(usize, u16)]) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    for (index, value) in words {
        bytes[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
    }
    checked(bytes)
}

fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[510] = 0xa5;
    let sum = bytes[..511].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[511] = 0_u8.wrapping_sub(sum);
    bytes
}

#[test]
fn commands_go_through_sat_byte_for_byte() {
    let identify = sat::cdb(&identify());
    assert_eq!(identify, [0x85, 0x08, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]);
    let erase = sat::cdb(&security_erase_unit(Duration::from_secs(1)));
    assert_eq!(erase, [0x85, 0x0a, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0]);
    let prepare = sat::cdb(&security_erase_prepare());
    assert_eq!(prepare, [0x85, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 0]);
    let scramble = sat::cdb(&sanitize(SanitizeAction::Crypto));
    assert_eq!(scramble, [0x85, 0x07, 0x20, 0, 0x11, 0, 0x10, 0x43, 0x70, 0, 0x79, 0, 0x72, 0, 0xb4, 0]);
    let overwrite = sat::cdb(&sanitize(SanitizeAction::Overwrite));
    assert_eq!(overwrite, [0x85, 0x07, 0x20, 0, 0x14, 0, 0x11, 0, 0, 0x57, 0, 0x4f, 0, 0, 0xb4, 0]);
    let native = sat::cdb(&read_native_max());
    assert_eq!(native, [0x85, 0x07, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x27, 0]);
    let status = sat::cdb(&smart_return_status());
    assert_eq!(status, [0x85, 0x06, 0x20, 0, 0xda, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0]);
}

#[test]
fn passwords_lie_where_the_standard_has_them() {
    let password = *b"0123456789abcdef0123456789abcdef";
    let erase = erase_sector(&password, true);
    assert_eq!((erase[0], &erase[2..34], erase[34]), (2, &password[..], 0));
    assert_eq!(erase_sector(&password, false)[0], 0);
    assert_eq!(set_password_sector(&password)[..2], [0, 0]);
}

#[test]
fn identify_tells_of_security_and_sanitize() {
    let data = identify_data(&[
        (27, u16::from_be_bytes(*b"Di")),
        (28, u16::from_be_bytes(*b"sk")),
        (59, 0b1011 << 12),
        (82, 1 << 1 | 1 << 10),
        (83, 1 << 14 | 1 << 10),
        (85, 1 << 1),
        (89, 30),
        (90, 1 << 15 | 300),
        (92, 0xfffe),
        (100, 0x5678),
        (101, 0x1234),
        (128, 1 << 5 | 1 << 3 | 1 << 2 | 1 << 1 | 1),
        (217, 1),
    ]);
    let identify = Identify::parse(&data).unwrap();
    assert_eq!((&*identify.model, identify.blocks), ("Disk", 0x1234_5678));
    let security = identify.security;
    assert!(security.supported && security.enabled && security.locked && security.frozen && security.enhanced);
    assert_eq!((security.minutes, security.master), ([Some(60), Some(600)], 0xfffe));
    let sanitize = SanitizeSupport { crypto: true, block: true, overwrite: false };
    assert_eq!(identify.sanitize, sanitize);
    assert!(identify.hpa && !identify.dco && identify.solid_state && !identify.trim);
}

#[test]
fn identify_data_that_did_not_come_over_well_is_refused() {
    let mut data = identify_data(&[(82, 2)]);
    data[100] ^= 1;
    assert!(Identify::parse(&data).unwrap_err().to_string().contains("checksum"));
    assert!(Identify::parse(&data[..511]).is_err());
}

#[test]
fn registers_come_back_in_either_format() {
    let mut sense = vec![0x72, 0x01, 0, 0x1d, 0, 0, 0, 14];
    sense.extend([9, 12, 0, 0x00, 0x80, 0x01, 0x44, 0x11, 0x55, 0x22, 0x66, 0x33, 0x40, 0x50]);
    let registers = Registers::parse(&sense).unwrap();
    assert_eq!((registers.count, registers.lba), (Some(0x8001), 0x6655_4433_2211));
    assert_eq!((registers.status, registers.device, registers.failed()), (0x50, 0x40, false));
    let status = SanitizeStatus::of(&registers).unwrap();
    assert_eq!(status, SanitizeStatus { completed: true, running: false, frozen: false, progress: 0x2211 });

    let mut fixed = vec![0xf0, 0, 0x01, 0x00, 0x50, 0x40, 0x01, 10, 1 << 6, 0x11, 0x22, 0x33, 0, 0x1d];
    let registers = Registers::parse(&fixed).unwrap();
    assert_eq!((registers.count, registers.lba), (None, 0x33_2211));
    assert_eq!(SanitizeStatus::of(&registers), None);
    // An abort as libata tells it in fixed format.
    (fixed[2], fixed[3], fixed[4], fixed[13]) = (0x0b, 4, 0x51, 0);
    assert!(Registers::parse(&fixed).unwrap().failed());
    // The same from Linux 6.1, as recorded in QEMU.
    let older = [0x70, 0, 0x0b, 0, 0, 0, 0, 0x0a, 4, 0x41, 0, 0, 0, 0, 0, 0, 0x80, 1];
    let registers = Registers::parse(&older).unwrap();
    assert!(registers.failed());
    assert_eq!((registers.status, registers.error, registers.lba), (0x41, 4, 1));
    assert_eq!(Registers::parse(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0]), None);
}

#[test]
fn the_health_of_a_drive_is_in_its_registers_and_its_attributes() {
    let registers = |lba| Registers { error: 0, status: 0x50, device: 0, count: None, lba };
    assert_eq!(smart_verdict(&registers(0xc2_4f00)), Some(true));
    assert_eq!(smart_verdict(&registers(0x2c_f400)), Some(false));
    assert_eq!(smart_verdict(&registers(0)), None);
    let mut bytes = vec![0; SECTOR];
    bytes[2..14].copy_from_slice(&[5, 0x33, 0, 99, 98, 7, 1, 0, 0, 0, 0, 0]);
    bytes[363] = 0xf3;
    bytes[372] = 2;
    bytes[373] = 0xff;
    bytes[375..377].copy_from_slice(&600_u16.to_le_bytes());
    let data = SmartData::parse(&checked(bytes)).unwrap();
    assert_eq!(data.attributes, [Attribute { id: 5, value: 99, worst: 98, raw: 0x107 }]);
    assert_eq!((data.self_test_remaining, data.self_test_minutes), (Some(3), [2, 600]));
}

#[test]
fn an_overlay_tells_how_large_the_drive_really_is() {
    let mut bytes = vec![0; SECTOR];
    bytes[0] = 2;
    bytes[6..14].copy_from_slice(&999_u64.to_le_bytes());
    assert_eq!(dco_blocks(&checked(bytes.clone())), Some(1000));
    assert_eq!(dco_blocks(&bytes), None);
}

#[test]
fn the_newest_self_test_of_a_drive_is_where_its_log_says() {
    let mut log = vec![0; SECTOR];
    assert_eq!(SelfTestResult::newest(&log), Ok(None));
    log[2 + 24..2 + 24 + 9].copy_from_slice(&[1, 0x70, 9, 0, 0, 77, 0, 0, 0]);
    log[508] = 2;
    assert!(SelfTestResult::newest(&log).unwrap_err().to_string().contains("checksum"));
    log[511] = log.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    let failed = SelfTestResult { index: 2, kind: 1, result: 7, power_on_hours: 9, failing_block: Some(77) };
    assert_eq!(SelfTestResult::newest(&log), Ok(Some(failed)));
    let cdb = sat::cdb(&smart_read_self_tests());
    assert_eq!(cdb, [0x85, 0x08, 0x0e, 0, 0xd5, 0, 1, 0, 6, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0]);
    let codes =
        [TestAction::Short, TestAction::Extended, TestAction::Abort].map(|test| sat::cdb(&smart_self_test(test))[8]);
    assert_eq!(codes, [1, 2, 0x7f]);
}
