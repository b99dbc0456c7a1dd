use super::stub::stub;
use super::*;
use object::read::pe::PeFile64;
use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;

fn sections() -> Sections<'static> {
    Sections {
        os_release: "ID=ferric\n",
        uname: "6.1.0",
        cmdline: "console=ttyS0",
        linux: &[b'M', b'Z', 1, 2, 3],
        initrd: &[7; 5000],
    }
}

#[test]
fn a_built_image_reads_back_with_an_independent_reader() {
    let uki = build(&stub(7), &sections()).unwrap();
    let image = PeFile64::parse(&*uki).unwrap();
    let mut end = 0;
    for section in image.sections() {
        assert!(section.address() >= end, "{:?} overlaps", section.name());
        assert!(section.address().is_multiple_of(4096));
        end = section.address() + section.size();
    }
    let data = |name: &str| image.section_by_name(name).unwrap().data().unwrap();
    assert_eq!(data(".osrel"), b"ID=ferric\n");
    assert_eq!(data(".uname"), b"6.1.0");
    assert_eq!(data(".cmdline"), b"console=ttyS0");
    assert_eq!(data(".linux"), [b'M', b'Z', 1, 2, 3]);
    assert_eq!(data(".initrd"), [7; 5000]);
    let header = image.nt_headers().optional_header;
    assert!(u64::from(header.size_of_image.get(object::LittleEndian)) >= end);
    assert_eq!(header.check_sum.get(object::LittleEndian), 0);
}

#[test]
fn the_command_line_is_replaced_in_place() {
    let uki = build(&stub(7), &sections()).unwrap();
    let long = format!("ipa-api-url=http://192.0.2.1:6385 {}", "x".repeat(1500));
    let changed = replace_cmdline(&uki, &long).unwrap();
    assert_eq!(changed.len(), uki.len());
    assert_eq!(cmdline(&changed).unwrap(), long.as_bytes());
    let back = replace_cmdline(&changed, "console=ttyS0").unwrap();
    assert_eq!(back, uki);
}

#[test]
fn a_command_line_that_the_kernel_would_cut_off_or_misread_is_refused() {
    let uki = build(&stub(7), &sections()).unwrap();
    assert!(replace_cmdline(&uki, &"x".repeat(CMDLINE_MAX)).is_ok());
    assert_eq!(
        replace_cmdline(&uki, &"x".repeat(CMDLINE_MAX + 1)),
        Err(PeError::CmdlineTooLong { length: 2048, max: 2047 })
    );
    for (line, character) in [("a\nb", '\n'), ("a\0b", '\0'), ("aéb", 'é'), ("a\tb", '\t')] {
        assert_eq!(replace_cmdline(&uki, line), Err(PeError::CmdlineCharacter { character, offset: 1 }));
    }
}

#[test]
fn a_stub_without_room_for_headers_is_refused() {
    assert_eq!(build(&stub(4), &sections()), Err(PeError::NoHeaderRoom { room: 4, wanted: 5 }));
    assert!(build(&stub(5), &sections()).is_ok());
}

#[test]
fn an_image_is_no_stub() {
    let uki = build(&stub(15), &sections()).unwrap();
    assert_eq!(build(&uki, &sections()), Err(PeError::Duplicate { name: ".osrel".to_owned() }));
}

#[test]
fn what_cannot_boot_is_refused() {
    let build = |sections| build(&stub(7), &sections);
    assert!(matches!(build(Sections { linux: b"ELF", ..sections() }), Err(PeError::Format { .. })));
    assert_eq!(build(Sections { initrd: b"", ..sections() }), Err(PeError::Empty { name: ".initrd" }));
    assert!(build(Sections { cmdline: "", ..sections() }).is_ok());
    assert!(matches!(super::build(b"\x7fELF", &sections()), Err(PeError::Format { .. })));
    assert_eq!(replace_cmdline(&stub(7), "x"), Err(PeError::NoSection { name: ".cmdline" }));
}

#[test]
fn every_cut_off_image_gives_an_error() {
    let uki = build(&stub(7), &sections()).unwrap();
    for end in 0..uki.len() {
        assert!(replace_cmdline(&uki[..end], "x").is_err(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn damaged_images_never_panic(changes in prop::collection::vec((0_usize..0x300, any::<u8>()), 1..20)) {
        let mut bytes = stub(7);
        for (offset, value) in &changes {
            bytes[*offset] = *value;
        }
        let _ = build(&bytes, &sections());
        let mut uki = build(&stub(7), &sections()).unwrap();
        for (offset, value) in changes {
            uki[offset] = value;
        }
        let _ = replace_cmdline(&uki, "x");
    }
}
