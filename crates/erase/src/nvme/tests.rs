use super::*;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn commands_have_the_fields_of_the_standard() {
    assert_eq!(identify_controller().cdw10[0], 1);
    assert_eq!((identify_namespace(3).namespace, identify_namespace(3).cdw10[0]), (3, 0));
    // 512 bytes are 128 dwords, counted from 0.
    assert_eq!(get_log(0x81, ALL_NAMESPACES, 512).cdw10, [0x007f_0081, 0, 0, 0, 0, 0]);
    assert_eq!(get_log(1, 0, 1 << 20).cdw10[..2], [0xffff_0001, 3]);
    let words =
        [SanitizeAction::Crypto, SanitizeAction::Block, SanitizeAction::Overwrite, SanitizeAction::ExitFailureMode]
            .map(|action| sanitize(action).cdw10[0]);
    assert_eq!(words, [0x0c, 0x0a, 0x1b, 0x01]);
    assert_eq!(firmware_download(8192, 4096).cdw10[..2], [1023, 2048]);
    assert_eq!(firmware_commit(2, CommitAction::StoreAndActivateAtReset).cdw10[0], 0b001_010);
    assert_eq!(
        [TestAction::Short, TestAction::Extended, TestAction::Abort].map(|test| self_test(test).cdw10[0]),
        [1, 2, 15]
    );
}

#[test]
fn a_format_keeps_blocks_metadata_and_protection_as_they_are() {
    let mut bytes = vec![0; IDENTIFY_LENGTH];
    // Format 18 (lower bits 2, upper bits 1), metadata with the data, protection type 3 in the first bytes.
    put(&mut bytes, 25, &[20, 0b0011_0010]);
    bytes[29] = 0b1011;
    put(&mut bytes, 128 + 4 * 18, &[8, 0, 12, 0]);
    let namespace = Namespace::parse(&bytes).unwrap();
    assert_eq!(namespace.block_size, 4096);
    let crypto = format(1, &namespace, FormatErase::Crypto);
    // LBAFL 2, MSET 1, PI 3, PIL 1, SES 2, LBAFU 1.
    assert_eq!(crypto.cdw10[0], 2 | 1 << 4 | 3 << 5 | 1 << 8 | 2 << 9 | 1 << 12);
    assert_eq!(format(1, &namespace, FormatErase::UserData).cdw10[0] >> 9 & 7, 1);
    assert_eq!((crypto.opcode, crypto.namespace), (0x80, 1));
}

#[test]
fn a_controller_says_what_it_can_do() {
    let mut bytes = vec![0; IDENTIFY_LENGTH];
    put(&mut bytes, 4, b"S1                  Model One");
    put(&mut bytes, 64, b"FW1.2   ");
    put(&mut bytes, 256, &0b1_0110_u16.to_le_bytes());
    bytes[260] = 0b1_0111;
    put(&mut bytes, 316, &35_u16.to_le_bytes());
    bytes[319] = 2;
    put(&mut bytes, 328, &0b011_u32.to_le_bytes());
    put(&mut bytes, 516, &32_u32.to_le_bytes());
    bytes[524] = 0b110;
    let controller = Controller::parse(&bytes).unwrap();
    assert_eq!((&*controller.serial, &*controller.model, &*controller.firmware), ("S1", "Model One", "FW1.2"));
    assert!(controller.format && controller.firmware_update && controller.self_test);
    assert!(controller.sanitize.crypto && controller.sanitize.block && !controller.sanitize.overwrite);
    assert!(controller.format_erases_all && controller.format_crypto && !controller.write_zeroes);
    assert_eq!(controller.firmware_slots, 3);
    assert_eq!((controller.firmware_granularity, controller.self_test_minutes), (Some(8192), 35));
    assert!(Controller::parse(&bytes[..4095]).is_err());
}

#[test]
fn a_sanitize_log_tells_running_from_done_and_failed() {
    let mut bytes = vec![0; 512];
    put(&mut bytes, 0, &[0x00, 0x80, 0x02, 0x00, 0x0c, 0, 0, 0]);
    put(&mut bytes, 8, &[0xff; 8]);
    put(&mut bytes, 16, &90_u32.to_le_bytes());
    let log = SanitizeLog::parse(&bytes).unwrap();
    assert_eq!((log.progress, log.state, log.command), (0x8000, SanitizeState::InProgress, 0x0c));
    assert_eq!(log.estimates, [None, None, Some(90)]);
    bytes[2..4].copy_from_slice(&[1, 1]);
    let log = SanitizeLog::parse(&bytes).unwrap();
    assert!(log.state == SanitizeState::Completed && log.nothing_written_since);
    bytes[2] = 3;
    assert_eq!(SanitizeLog::parse(&bytes).unwrap().state, SanitizeState::Failed);
    assert!(SanitizeLog::parse(&bytes[..19]).is_err());
}

#[test]
fn health_self_tests_and_slots_are_read() {
    let mut bytes = vec![0; 564];
    put(&mut bytes, 0, &[4, 0x2c, 0x01, 90, 10, 7]);
    bytes[128] = 99;
    let health = Health::parse(&bytes).unwrap();
    assert_eq!((health.critical, health.temperature, health.spare, health.used), (4, Some(300), 90, 7));
    assert_eq!(health.power_on_hours, 99);

    let mut bytes = vec![0xff; 564];
    put(&mut bytes, 0, &[2, 40, 0, 0]);
    put(&mut bytes, 4, &[0x17, 0, 2, 0]);
    put(&mut bytes, 8, &5_u64.to_le_bytes());
    put(&mut bytes, 20, &77_u64.to_le_bytes());
    let log = SelfTestLog::parse(&bytes).unwrap();
    assert_eq!(log.running, Some(SelfTest { kind: 2, percent: 40 }));
    let failed = SelfTestResult { kind: 1, result: 7, power_on_hours: 5, failing_block: Some(77) };
    assert_eq!(log.results, [failed]);

    let mut bytes = vec![0; 512];
    bytes[0] = 0x21;
    put(&mut bytes, 8, b"1.0     ");
    put(&mut bytes, 16, b"2.0     ");
    let slots = FirmwareSlots::parse(&bytes).unwrap();
    assert_eq!((slots.active, slots.next), (1, Some(2)));
    assert_eq!(slots.revisions[..3], [Some("1.0".to_owned()), Some("2.0".to_owned()), None]);
}

#[test]
fn a_list_of_namespaces_ends_at_zero() {
    let mut bytes = vec![0; IDENTIFY_LENGTH];
    put(&mut bytes, 0, &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
    assert_eq!(active_namespaces(&bytes), [1, 7]);
    assert_eq!(active_namespaces(&[1]), [0_u32; 0]);
}

#[test]
fn a_status_has_words_and_its_number() {
    // DNR is set, as QEMU does.
    assert_eq!(status_text(0x4001), "invalid command opcode (type 0h, code 01h)");
    assert_eq!(status::code(0x4001), status::INVALID_OPCODE);
    assert_eq!(status_text(0x7ff), "error (type 7h, code ffh)");
}
