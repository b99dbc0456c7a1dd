//! File systems in images: a config drive of ISO 9660, and the root file system of a partition image.

use disk_image::{BootLoader, Label, Partitioning, Plan};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// Files of an ISO 9660 image, the first bytes of which are left out: nobody reads them. No path leads out of the folder that
/// it is meant for, and a drive with such files can be given to a disk of large sectors or says why not.
pub fn iso9660(data: &[u8]) {
    let image = [&[0; 32 << 10], data].concat();
    if let Ok(files) = media::iso9660::files(&image) {
        for (path, content) in &files {
            assert!(path.split('/').all(|name| !["", ".", ".."].contains(&name)), "{path:?}");
            assert!(content.len() <= image.len());
        }
    }
    if let Ok(drive) = disk_image::ConfigDrive::from_bytes(image.into())
        && let Ok(fitted) = drive.fitted(4096)
    {
        assert!(fitted.size() <= disk_image::configdrive::MAX_SIZE);
    }
}

/// A file system with a kernel, as mke2fs makes it.
#[expect(clippy::unwrap_used, reason = "without its parts a target cannot run at all")]
fn root() -> &'static [u8] {
    static ROOT: OnceLock<Vec<u8>> = OnceLock::new();
    ROOT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
        for (path, content) in [
            ("boot/vmlinuz-6.1.0-9-amd64", &b"older"[..]),
            ("boot/vmlinuz-6.1.0-10-amd64", &[7; 3000]),
            ("boot/initrd.img-6.1.0-10-amd64", &[8; 9000]),
            ("etc/kernel/cmdline", b"root=LABEL=root rw console=ttyS0\n"),
        ] {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "1024", "-U", "11111111-2222-3333-4444-555555555555", "-d"]);
        let made = mke2fs.arg(&tree).arg(&image).arg("512K").env("E2FSPROGS_FAKE_TIME", "1").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read(image).unwrap()
    })
}

/// Changes of a partition image, three bytes a place and one what it becomes: it is written with a boot loader of its own, or it
/// leaves a disk that no firmware boots from.
#[expect(clippy::unwrap_used, reason = "a temporary folder that cannot be written is no finding")]
pub fn partition_image(data: &[u8]) {
    let mut image = root().to_vec();
    for change in data.as_chunks::<4>().0 {
        let place = usize::from(change[0]) << 16 | usize::from(change[1]) << 8 | usize::from(change[2]);
        let place = place % image.len();
        image[place] = change[3];
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, [super::old_disk(), vec![0; 4 << 20]].concat()).unwrap();
    let result = write(&image, &disk);
    let first = std::fs::read(&disk).unwrap()[..512].to_vec();
    let is_old = first == super::old_disk()[..512];
    assert!(result.is_ok() || is_old || first.iter().all(|byte| *byte == 0), "{result:?} left a first sector");
}

#[expect(clippy::unwrap_used, reason = "without its parts a target cannot run at all")]
fn write(image: &[u8], disk: &Path) -> Result<(), String> {
    let source = Arc::new(super::Memory(image.to_vec().into()));
    let partitioning = Partitioning {
        label: Label::Gpt,
        root: 1 << 20,
        swap: 0,
        ephemeral: 0,
        boot: 2 << 20,
        preserve_ephemeral: false,
        loader: BootLoader::Efi(bytes::Bytes::from_static(b"MZ")),
        format_ephemeral: Arc::new(|_| Ok(())),
    };
    let plan = Plan { budget: 8 << 20, partitioning: Some(partitioning), ..Plan::new(source, None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = disk_image::disk::open(disk).unwrap();
    let written = disk_image::write(plan, disk, |_| (), tokio_util::sync::CancellationToken::new());
    runtime.block_on(written).map(drop).map_err(|error| format!("{error:?}"))
}
