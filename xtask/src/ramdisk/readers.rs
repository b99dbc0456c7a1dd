//! What we write, read by programs that others wrote (all of them in ci/packages.txt).

use crate::cmd;
use media::iso9660::Builder;
use media::pe;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ferric-readers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn output(program: &str, args: &[&str], path: &Path) -> String {
    cmd::output(Command::new(program).env("LC_ALL", "C.UTF-8").args(args).arg(path)).unwrap()
}

#[test]
fn xorriso_lists_names_modes_and_the_boot_image() {
    let long = "a-name-far-longer-than-eight-characters-".repeat(5);
    let esp = media::fat::image(&[(media::boot::REMOVABLE_LOADER, b"MZ")], "ESP").unwrap();
    let mut iso = Builder::new("config-2").unwrap();
    iso.efi_boot_image(esp).unwrap();
    iso.file("openstack/latest/meta_data.json", 0o644, b"{}".as_slice()).unwrap();
    iso.file("openstack/latest/user_data", 0o600, b"#cloud-config\n".as_slice()).unwrap();
    iso.file(&long, 0o444, Vec::new()).unwrap();
    let scratch = Scratch::new("iso");
    let path = scratch.write("config.iso", &iso.to_vec().unwrap());

    let mut xorriso = Command::new("xorriso");
    xorriso.env("LC_ALL", "C.UTF-8").args(["-return_with", "WARNING", "32", "-indev"]).arg(&path);
    let listing =
        cmd::output(xorriso.args(["-lsl", "/", "--", "-lsl", "/openstack/latest", "--", "-pvd_info"])).unwrap();
    for wanted in ["-rw-------", "-r--r--r--", "'user_data'", "'meta_data.json'", &long, "Volume Id    : config-2"] {
        assert!(listing.contains(wanted), "no {wanted:?} in {listing}");
    }
    let mut xorriso = Command::new("xorriso");
    let boot = cmd::output(xorriso.arg("-indev").arg(&path).args(["-report_el_torito", "plain"])).unwrap();
    assert!(boot.contains("UEFI"), "{boot}");
    assert!(output("blkid", &["-p", "-o", "export"], &path).contains("LABEL=config-2"));
}

#[test]
fn mtools_and_fsck_accept_every_type_of_fat() {
    for (name, size) in [("fat12", 100_000), ("fat16", 20 << 20), ("fat32", 300 << 20)] {
        let data: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
        let image = media::fat::image(&[("EFI/BOOT/BOOTX64.EFI", &data), ("a long name.txt", b"x")], "ESP").unwrap();
        let scratch = Scratch::new(name);
        let path = scratch.write("esp.img", &image);
        let fsck = Command::new("fsck.fat").arg("-n").arg(&path).output().unwrap();
        assert!(fsck.status.success(), "{name}: {}", String::from_utf8_lossy(&fsck.stdout));
        let copy = scratch.0.join("copy");
        let mut mcopy = Command::new("mcopy");
        cmd::run(mcopy.arg("-i").arg(&path).arg("::/EFI/BOOT/BOOTX64.EFI").arg(&copy)).unwrap();
        assert!(std::fs::read(&copy).unwrap() == data, "{name}: contents differ");
        assert!(output("mlabel", &["-s", "-i"], &path).contains("ESP"));
    }
}

#[test]
fn objdump_finds_the_sections_of_an_image_made_from_debians_stub() {
    let stub = std::fs::read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").unwrap();
    let sections = pe::Sections {
        os_release: "ID=ferric\n",
        uname: "6.1.0",
        cmdline: "console=ttyS0",
        linux: b"MZ and a kernel",
        initrd: b"070701",
    };
    let uki = pe::build(&stub, &sections).unwrap();
    let scratch = Scratch::new("uki");
    let path = scratch.write("test.efi", &pe::replace_cmdline(&uki, "console=tty0 quiet").unwrap());
    let headers = output("objdump", &["-h"], &path);
    for name in [".text", ".osrel", ".uname", ".cmdline", ".linux", ".initrd"] {
        assert!(headers.contains(name), "no {name} in {headers}");
    }
    let contents = output("objdump", &["-s", "-j", ".cmdline"], &path);
    assert!(contents.contains("console=tty0 qui"), "{contents}");
}

#[test]
fn cpio_lists_what_the_archive_writer_wrote() {
    let mut archive = media::cpio::Archive::new(Vec::new());
    archive.directory("dev", 0o755).unwrap();
    archive.device("dev/console", 0o600, media::cpio::Device::Char, (5, 1)).unwrap();
    archive.file("init", 0o755, b"program").unwrap();
    archive.symlink("linuxrc", "init").unwrap();
    let scratch = Scratch::new("cpio");
    let path = scratch.write("test.cpio", &archive.finish().unwrap());
    let listing = output("cpio", &["-tvn", "--quiet", "-F"], &path);
    for wanted in ["drwxr-xr-x", "crw-------", "5,   1", "-rwxr-xr-x", "linuxrc -> init"] {
        assert!(listing.contains(wanted), "no {wanted:?} in {listing}");
    }
}
