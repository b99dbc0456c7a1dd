use super::*;

#[test]
fn commands_have_the_bytes_of_the_standard() {
    assert_eq!(vital_data(0xb1, 64).cdb, [0x12, 1, 0xb1, 0, 64, 0]);
    assert_eq!(sanitize(SanitizeAction::Crypto).cdb, [0x48, 0xa3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sanitize(SanitizeAction::Overwrite).cdb, [0x48, 0xa1, 0, 0, 0, 0, 0, 0, 8, 0]);
    assert_eq!(sanitize(SanitizeAction::ExitFailureMode).cdb[1], 0x1f);
    assert_eq!(log_sense(0x0d, 256).cdb, [0x4d, 0, 0x4d, 0, 0, 0, 0, 1, 0, 0]);
    let tests = [TestAction::Short, TestAction::Extended, TestAction::Abort].map(|test| self_test(test).cdb);
    assert_eq!(tests, [0x20, 0x40, 0x80].map(|code| vec![0x1d, code, 0, 0, 0, 0]));
}

#[test]
fn sense_data_of_either_format_tells_of_a_sanitize() {
    let mut fixed = [0; 18];
    (fixed[0], fixed[2], fixed[7], fixed[12], fixed[13]) = (0x70, 2, 10, 0x04, 0x1b);
    fixed[15..18].copy_from_slice(&[0x80, 0x40, 0x00]);
    let sense = Sense::parse(&fixed).unwrap();
    assert!(sense.is_sanitizing());
    assert_eq!(sense.progress, Some(0x4000));
    let descriptor = [0x72, 2, 0x04, 0x1b, 0, 0, 0, 8, 2, 6, 0, 0, 0x80, 0x40, 0, 0];
    assert_eq!(Sense::parse(&descriptor), Some(sense));
    // With another key the same bytes point at a wrong field.
    fixed[2] = 5;
    assert_eq!(Sense::parse(&fixed).unwrap().progress, None);
    let failed = Sense { key: 3, code: 0x31, qualifier: 3, progress: None };
    assert!(failed.is_sanitize_failure() && failed.text().contains("sanitize failed"));
    assert_eq!(Sense::parse(&[]), None);
}

#[test]
fn descriptors_that_reach_behind_the_end_are_not_read() {
    let sense = [0x72, 0, 0, 0, 0, 0, 0, 40, 0, 2, 1, 1, 9, 12, 0];
    assert_eq!(descriptors(&sense).collect::<Vec<_>>(), [&[0_u8, 2, 1, 1][..]]);
}

#[test]
fn pages_say_what_a_device_can_do() {
    let mut limits = vec![0; 64];
    limits[1] = 0xb0;
    limits[3] = 60;
    limits[20..24].copy_from_slice(&[0, 0, 1, 0]);
    limits[31] = 8;
    limits[43] = 9;
    let limits = BlockLimits::parse(&limits).unwrap();
    assert_eq!((limits.unmap_blocks, limits.unmap_granularity, limits.write_same_blocks), (256, 8, 9));
    let provisioning = Provisioning::parse(&[0, 0xb2, 0, 4, 0, 0b1010_0100, 2, 0]).unwrap();
    assert!(provisioning.unmap && !provisioning.write_same_unmaps && provisioning.reads_zero);
    assert_eq!(Characteristics::parse(&[0, 0xb1, 0, 60, 0, 1]).unwrap().rotation, 1);
    assert!(Characteristics::parse(&[0, 0xb2, 0, 4, 0, 0, 0, 0]).unwrap_err().to_string().contains("b2h"));
    let mut capacity = vec![0; 32];
    capacity[7] = 99;
    capacity[10] = 2;
    capacity[14] = 0xc0;
    let capacity = Capacity::parse(&capacity).unwrap();
    assert_eq!((capacity.blocks, capacity.block_size), (Some(100), 512));
    assert!(capacity.provisioned && capacity.reads_zero && !capacity.protected);
    assert_eq!(Capacity::parse(&[0xff; 32]).unwrap().blocks, None);
    assert_eq!(supported_pages(&[0, 0, 0, 3, 0, 0x80, 0x89]).unwrap(), [0, 0x80, 0x89]);
    assert_eq!(supported_pages(&[0, 0, 0xff, 0xff, 0]).unwrap(), [0]);
}

#[test]
fn a_log_page_is_read_up_to_its_last_whole_parameter() {
    let page = [0x0d, 0, 0, 14, 0, 0, 3, 2, 0, 30, 0, 1, 3, 2, 0, 60, 0, 2];
    let found = log_parameters(0x0d, &page).unwrap();
    let (first, second) = (LogPage { code: 0, value: &[0, 30] }, LogPage { code: 1, value: &[0, 60] });
    assert_eq!(found, [first, second]);
    assert_eq!(log_parameters(0x0d, &page[..15]).unwrap(), [first]);
    assert!(log_parameters(0x2f, &page).is_err());
}

#[test]
fn whether_an_operation_is_there_may_be_unknown() {
    assert_eq!(operation_supported(&[0, 1, 0, 0]), Some(false));
    assert_eq!(operation_supported(&[0, 3, 0, 10]), Some(true));
    assert_eq!(operation_supported(&[0, 0, 0, 0]), None);
}

#[test]
fn the_newest_self_test_is_the_first_parameter_of_its_page() {
    let mut page = vec![0x10, 0, 0, 40, 0, 1, 3, 16, 0x27, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 77, 3, 0x11, 0, 0];
    page.resize(44, 0);
    page[24..28].copy_from_slice(&[0, 2, 3, 16]);
    let failed = SelfTestResult { code: 1, result: 7, power_on_hours: 9, failing_block: Some(77) };
    assert_eq!(SelfTestResult::newest(&page), Ok(Some(failed)));
    page[12..20].fill(0xff);
    assert_eq!(SelfTestResult::newest(&page).unwrap().unwrap().failing_block, None);
    page[8..24].fill(0);
    assert_eq!(SelfTestResult::newest(&page), Ok(None));
    assert_eq!(SelfTestResult::newest(&[0x10, 0, 0, 0]), Ok(None));
    assert!(SelfTestResult::newest(&[0x0d, 0, 0, 0]).is_err());
}
