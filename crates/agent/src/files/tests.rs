use super::*;
use hardware_sim::SimMachine;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn parse(file: Value) -> Result<Wanted, String> {
    one(&file)
}

#[test]
fn bad_files_are_all_named_before_anything_is_fetched() {
    let bad = [
        json!({"path": "/etc/a", "content": "YQ==", "colour": 1}),
        json!({"content": "YQ=="}),
        json!({"path": "/a", "content": "YQ=="}),
        json!({"path": "/etc/", "content": "YQ=="}),
        json!({"path": "/etc/a", "content": "YQ==", "deleted": true}),
        json!({"path": "/etc/a", "content": "YQ==", "mode": "0644"}),
        json!({"path": "/etc/a", "content": "YQ==", "owner": true}),
        json!({"path": "/etc/../../etc/shadow", "content": "YQ=="}),
        json!({"path": "/etc/a"}),
        json!("etc/a"),
    ];
    let files = Value::Array(bad.to_vec());
    let Err(StepError::Failed { class, details }) = wanted([None, Some(&files)]) else { panic!("taken") };
    assert_eq!(class, "InvalidCommandParamsError");
    insta::assert_snapshot!(details.replace("; ", "\n"));
    assert!(wanted([Some(&json!({})), None]).is_err());
    assert!(wanted([None, None]).unwrap().is_empty());
}

#[test]
fn urls_take_the_node_and_its_ports() {
    let node = json!({"uuid": "u-1", "extra": {"rack": 7}});
    let ports = json!([{"address": "aa:bb"}]);
    let fill = |template| fill_in(template, &node, &ports);
    assert_eq!(fill("http://h/{node[uuid]}/{ports[0][address]}/{node[extra][rack]}").unwrap(), "http://h/u-1/aa:bb/7");
    assert_eq!(fill("http://h/{{x}}").unwrap(), "http://h/{x}");
    for wrong in ["http://h/{node[name]}", "http://h/{other}", "http://h/{node", "http://h/}", "http://h/{node}"] {
        assert!(fill(wrong).is_err(), "{wrong}");
    }
}

/// A file system in a folder, beside something that is not part of it.
fn file_system() -> (tempfile::TempDir, std::path::PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(root.join("run")).unwrap();
    std::fs::write(outside.path().join("secret"), "untouched").unwrap();
    (outside, root)
}

fn file(path: &str) -> Wanted {
    parse(json!({"path": path, "partition": 1, "content": "YQ==", "mode": 0o640, "dirmode": 0o750})).unwrap()
}

#[test]
fn files_and_their_folders_are_made_with_their_modes() {
    let (_outside, root) = file_system();
    change(&root, &file("/etc/my.d/deep/a.conf"), b"new").unwrap();
    let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(std::fs::read(root.join("etc/my.d/deep/a.conf")).unwrap(), b"new");
    assert_eq!((mode("etc/my.d"), mode("etc/my.d/deep"), mode("etc/my.d/deep/a.conf")), (0o755, 0o750, 0o640));
    change(&root, &file("/etc/my.d/deep/a.conf"), b"n").unwrap();
    assert_eq!(std::fs::read(root.join("etc/my.d/deep/a.conf")).unwrap(), b"n");
    let gone = parse(json!({"path": "/etc/my.d/deep/a.conf", "deleted": true})).unwrap();
    change(&root, &gone, b"").unwrap();
    change(&root, &gone, b"").unwrap();
    assert!(!root.join("etc/my.d/deep/a.conf").exists());
    let never = parse(json!({"path": "/none/of/this", "deleted": true})).unwrap();
    change(&root, &never, b"").unwrap();
}

#[test]
fn no_link_of_the_image_leads_out_of_it() {
    let (outside, root) = file_system();
    let secret = outside.path().join("secret");
    symlink(&secret, root.join("etc/absolute")).unwrap();
    symlink("../../secret", root.join("etc/relative")).unwrap();
    symlink(outside.path(), root.join("etc/folder")).unwrap();
    symlink("../run/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    for path in ["/etc/absolute", "/etc/relative", "/etc/folder/secret"] {
        // It is an error, or it lands inside.
        let _ = change(&root, &file(path), b"evil");
        assert_eq!(std::fs::read(&secret).unwrap(), b"untouched", "{path}");
    }
    let gone = parse(json!({"path": "/etc/folder/secret", "deleted": true})).unwrap();
    let _ = change(&root, &gone, b"");
    assert_eq!(std::fs::read(&secret).unwrap(), b"untouched");
    change(&root, &file("/etc/resolv.conf"), b"nameserver").unwrap();
    assert_eq!(std::fs::read(root.join("run/resolv.conf")).unwrap(), b"nameserver");
}

#[test]
fn the_partition_is_the_one_that_is_named_or_that_has_the_folder() {
    let (_outside, root) = file_system();
    let esp = tempfile::tempdir().unwrap();
    let machine = SimMachine::new();
    machine.add_disk(hardware_sim::disk("/dev/nvme0n1", 8 << 30));
    machine.add_disk(hardware_sim::disk("/dev/sda", 9 << 30));
    machine.set_partition("/dev/nvme0n1", 1, esp.path().to_owned());
    machine.set_partition("/dev/nvme0n1", 2, "/nonexistent".into());
    machine.set_partition("/dev/nvme0n1", 3, root);
    machine.set_partition("/dev/sda", 1, esp.path().to_owned());
    let plan = Plan::new("inject_files", machine.disks().unwrap());
    let root_disk = plan.disks()[0].clone();
    let place = |file: Value| {
        let wanted = parse(file).unwrap();
        put(&machine, &plan, &root_disk, &wanted, b"a").map(|told| told["partition"].as_str().unwrap().to_owned())
    };
    assert_eq!(place(json!({"path": "/etc/a", "content": "YQ=="})).unwrap(), "/dev/nvme0n1p3");
    assert_eq!(place(json!({"path": "/a", "partition": 1, "content": "YQ=="})).unwrap(), "/dev/nvme0n1p1");
    assert_eq!(place(json!({"path": "/a", "partition": "/dev/sda1", "content": "YQ=="})).unwrap(), "/dev/sda1");
    let error = place(json!({"path": "/a", "partition": "9", "content": "YQ=="})).unwrap_err();
    assert_eq!(error.class, Class::DeviceNotFound);
    assert!(error.details.contains("/dev/nvme0n1p3, /dev/sda1"), "{}", error.details);
    let error = place(json!({"path": "/srv/a", "content": "YQ=="})).unwrap_err();
    assert!(error.details.starts_with("No partition found with path srv, scanned: "), "{}", error.details);
}
