use super::*;
use hardware::Plan;

#[test]
fn any_linux_host_can_be_looked_at_by_any_user() {
    let machine = LinuxMachine::at("/").booted_from(Some("01-52-54-00-00-00-01".to_owned()));
    let inventory = machine.inventory().unwrap();
    assert!(inventory.cpu.count > 0);
    assert!(inventory.memory.total.is_some_and(|bytes| bytes > 0));
    assert!(inventory.interfaces.iter().all(|interface| interface.name != "lo"));
    assert!(inventory.disks.iter().all(|disk| disk.size > 0 && disk.name.starts_with("/dev/")));
    assert_eq!(inventory.boot.pxe_interface.as_deref(), Some("01-52-54-00-00-00-01"));
    assert_eq!(inventory.disks, machine.disks().unwrap());
}

#[test]
fn an_empty_tree_is_a_machine_of_which_nothing_is_known() {
    let root = tempfile::tempdir().unwrap();
    let inventory = LinuxMachine::at(root.path()).inventory().unwrap();
    assert!(inventory.disks.is_empty() && inventory.interfaces.is_empty());
    assert_eq!(inventory.memory.total, None);
    assert_eq!(inventory.system_vendor.product_name, "");
}

/// A tree with one disk, `/dev/sda`, backed by a plain file.
fn with_disk(serial: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("sys/block/sda");
    std::fs::create_dir_all(folder.join("device")).unwrap();
    std::fs::create_dir_all(root.path().join("dev")).unwrap();
    std::fs::write(folder.join("size"), "8192\n").unwrap();
    std::fs::write(folder.join("device/serial"), serial).unwrap();
    let file = File::create(root.path().join("dev/sda")).unwrap();
    file.set_len(8192 * 512).unwrap();
    root
}

#[test]
fn a_machine_that_may_only_be_looked_at_refuses_what_would_change_it() {
    let root = with_disk("A1");
    let machine = LinuxMachine::at(root.path());
    let plan = Plan::new("erase", machine.disks().unwrap());
    let device = DeviceId::of(&plan.disks()[0]);
    let refused = |result: Result<(), MachineError>| assert!(matches!(result, Err(MachineError::Unsupported { .. })));
    refused(machine.open(&plan.erase("/dev/sda").unwrap()).map(drop));
    refused(machine.release(&plan.write("/dev/sda").unwrap()).map(drop));
    refused(machine.install_boot_entries(&device).map(drop));
    refused(machine.reread_partitions(&device).map(drop));
    refused(machine.power(PowerAction::Off));
    assert_eq!(machine.claim(&device).unwrap(), root.path().join("dev/sda"));
}

#[test]
fn a_boot_loader_is_given_for_what_the_firmware_would_start() {
    let root = tempfile::tempdir().unwrap();
    let machine = LinuxMachine::at(root.path());
    let error = machine.boot_loader(BootMode::Bios).unwrap_err();
    assert!(error.to_string().contains("profile server"), "{error}");
    for (path, content) in [
        (BOOT_LOADER, b"MZ".to_vec()),
        (GRUB_BOOT, b"boot".to_vec()),
        (GRUB_CORE, b"core".to_vec()),
        ("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", vec![6, 0, 0, 0, 0]),
    ] {
        let path = root.path().join(&path[1..]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    assert_eq!(machine.boot_loader(BootMode::Uefi).unwrap(), BootLoader::Efi(b"MZ".to_vec()));
    let grub = BootLoader::Grub { boot: b"boot".to_vec(), core: b"core".to_vec() };
    assert_eq!(machine.boot_loader(BootMode::Bios).unwrap(), grub);
    let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    std::fs::write(root.path().join(variable), [6, 0, 0, 0, 1]).unwrap();
    let error = machine.boot_loader(BootMode::Uefi).unwrap_err();
    assert!(error.to_string().contains("Secure Boot is on"), "{error}");
    assert_eq!(machine.boot_loader(BootMode::Bios).unwrap(), grub);
}

#[test]
fn a_device_that_is_another_one_now_is_neither_claimed_nor_freed() {
    let root = with_disk("A1");
    let machine = LinuxMachine::at(root.path()).writable();
    let plan = Plan::new("erase", machine.disks().unwrap());
    let device = DeviceId::of(&plan.disks()[0]);
    let grant = plan.write("/dev/sda").unwrap();
    assert!(machine.release(&grant).unwrap().is_empty());
    std::fs::write(root.path().join("sys/block/sda/device/serial"), "B2").unwrap();
    for error in
        [machine.open(&plan.erase("/dev/sda").unwrap()).map(drop).unwrap_err(), machine.release(&grant).unwrap_err()]
    {
        assert_eq!(error.to_string(), "/dev/sda (A1) was granted, but /dev/sda (B2) is there now: nothing was touched");
    }
    std::fs::remove_dir_all(root.path().join("sys/block/sda")).unwrap();
    assert!(matches!(machine.claim(&device), Err(MachineError::OtherDevice { found, .. }) if found == "nothing"));
}

#[test]
fn no_boot_entries_are_made_without_firmware_variables() {
    let root = with_disk("A1");
    let machine = LinuxMachine::at(root.path()).writable();
    let device = DeviceId::of(&machine.disks().unwrap()[0]);
    assert!(machine.install_boot_entries(&device).unwrap().is_empty());
}

#[test]
fn a_disk_that_lost_its_capacity_is_no_disk_of_the_inventory_and_is_not_forgotten() {
    let root = with_disk("A1");
    let machine = LinuxMachine::at(root.path());
    assert!(machine.disks_without_capacity().unwrap().is_empty());
    let block = root.path().join("sys/block");
    std::fs::write(block.join("sda/size"), "0\n").unwrap();
    let names =
        || -> Vec<String> { machine.disks_without_capacity().unwrap().into_iter().map(|disk| disk.name).collect() };
    assert_eq!((machine.disks().unwrap().len(), names()), (0, vec!["/dev/sda".to_owned()]));
    // A slot without a card, and an array that does not run.
    std::fs::write(block.join("sda/removable"), "1\n").unwrap();
    std::fs::create_dir_all(block.join("md127")).unwrap();
    std::fs::write(block.join("md127/size"), "0\n").unwrap();
    assert!(names().is_empty());
}

#[test]
fn holders_of_a_busy_disk_are_named() {
    let root = with_disk("A1");
    let folder = root.path().join("sys/block/sda");
    std::fs::create_dir_all(folder.join("sda1/holders/md0")).unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    for (name, text) in [("partition", "1"), ("start", "2048"), ("size", "4096"), ("dev", "8:1")] {
        std::fs::write(folder.join("sda1").join(name), text).unwrap();
    }
    std::fs::write(root.path().join("proc/self/mountinfo"), "30 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n").unwrap();
    std::fs::write(root.path().join("proc/swaps"), "Filename Type\n/dev/sda partition 1 0 -2\n").unwrap();
    let machine = LinuxMachine::at(root.path());
    assert_eq!(
        crate::holders::holders(machine.tree(), "sda"),
        ["sda1 is part of md0", "sda is used as swap", "sda1 is mounted on /boot"]
    );
}

#[test]
fn what_forbids_overwriting_a_disk_is_read_from_the_kernel_and_from_the_disk() {
    let root = with_disk("A1");
    let machine = LinuxMachine::at(root.path());
    let disk = machine.disks().unwrap().remove(0);
    assert_eq!(machine.contents(&disk).unwrap(), Contents::default());
    std::fs::write(root.path().join("sys/block/sda/ro"), "1\n").unwrap();
    let file = File::options().write(true).open(root.path().join("dev/sda")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"\xfc\x4e\x2b\xa9", 4096).unwrap();
    let wanted = Contents { read_only: true, raid_member: true, ..Contents::default() };
    assert_eq!(machine.contents(&disk).unwrap(), wanted);
    std::fs::remove_file(root.path().join("dev/sda")).unwrap();
    assert_eq!(machine.contents(&disk).unwrap_err().to_string(), "read /dev/sda");
}

/// Makes a tree of a fixture; its format is described in its head.
fn tree(fixture: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in fixture.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let (kind, path, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
        let path = root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "L" => std::os::unix::fs::symlink(value, &path).unwrap(),
            "T" => {
                let text = value.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\");
                std::fs::write(&path, text).unwrap();
            }
            "H" => {
                let digits: Vec<char> = value.chars().collect();
                let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
                std::fs::write(&path, digits.chunks(2).map(byte).collect::<Vec<u8>>()).unwrap();
            }
            other => panic!("{other}"),
        }
    }
    root
}

/// The inventory of a fixture, without the architecture of the machine that the test runs on.
fn inventory_of(fixture: &str) -> Inventory {
    let root = tree(fixture);
    let mut inventory = LinuxMachine::at(root.path()).inventory().unwrap();
    inventory.cpu.architecture = "x86_64".to_owned();
    inventory
}

#[test]
fn the_inventory_of_a_virtual_machine_is_whole() {
    insta::assert_json_snapshot!(inventory_of(include_str!("../../fixtures/qemu-q35.tree")));
}

#[test]
fn the_inventory_of_a_rack_server_is_whole() {
    insta::assert_json_snapshot!(inventory_of(include_str!("../../fixtures/rack-server.tree")));
}

#[test]
fn partitions_and_holders_of_a_fixture_are_found() {
    let root = tree(include_str!("../../fixtures/rack-server.tree"));
    let tree = Tree::at(root.path());
    let partitions = block::partitions(&tree, "sda");
    assert_eq!(
        partitions.iter().map(|part| (part.name.as_str(), part.start)).collect::<Vec<_>>(),
        [("sda1", 1 << 20), ("sda2", 1_050_624 * 512)]
    );
    assert_eq!(crate::holders::holders(&tree, "sda"), ["sda2 is part of md0"]);
}
