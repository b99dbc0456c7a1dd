//! Who keeps a disk busy, and taking them away before it is erased: mounts, swap space, volumes of the device mapper (LVM, LUKS,
//! multipath) and software RAID arrays, from the top down. Nothing on the disk is changed by it.
//!
//! What is not known here (bcache, DRBD, another program that has the disk open) stays, and then the disk is not erased.

use crate::tree::{self, Tree};
use crate::{block, sys};
use rustix::mount::{UnmountFlags, unmount};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// More layers than anybody builds.
const MOST_LAYERS: usize = 8;
/// More devices than anybody builds on one disk.
const MOST_DEVICES: usize = 512;

/// What the kernel can take away.
pub(crate) trait Kernel {
    fn unmount(&self, place: &str) -> io::Result<()>;
    fn swap_off(&self, node: &str) -> io::Result<()>;
    fn remove_map(&self, name: &str) -> io::Result<()>;
    fn stop_array(&self, device: &str) -> io::Result<()>;
}

/// The kernel that runs.
pub(crate) struct Running<'a>(pub(crate) &'a Tree);

impl Kernel for Running<'_> {
    fn unmount(&self, place: &str) -> io::Result<()> {
        Ok(unmount(place, UnmountFlags::NOFOLLOW)?)
    }

    fn swap_off(&self, node: &str) -> io::Result<()> {
        sys::swap_off(Path::new(node))
    }

    fn remove_map(&self, name: &str) -> io::Result<()> {
        sys::remove_map(&File::options().read(true).write(true).open("/dev/mapper/control")?, name)
    }

    /// `clear` is what `STOP_ARRAY` does, and leaves the members' labels as they are (Documentation/admin-guide/md.rst).
    fn stop_array(&self, device: &str) -> io::Result<()> {
        fs::write(self.0.path(format!("/sys/block/{device}/md/array_state")), "clear")
    }
}

/// Why a disk cannot be freed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Held {
    #[error("{who} could not be taken away")]
    Kept {
        who: String,
        #[source]
        source: io::Error,
    },
    #[error("it is in use: {0}")]
    InUse(String),
}

/// Frees the disk with the kernel name `disk` and says what was taken away.
pub(crate) fn release(tree: &Tree, disk: &str, kernel: &dyn Kernel) -> Result<Vec<String>, Held> {
    let mut released = Vec::new();
    for device in stack(tree, disk) {
        release_users(tree, &device, kernel, &mut released)?;
        if device == disk || is_partition(tree, &device) {
            continue;
        }
        let folder = tree.path("/sys/class/block").join(&device);
        let (what, done) = if let Some(name) = tree::text(&folder.join("dm/name")) {
            (format!("volume {name} ({device})"), kernel.remove_map(&name))
        } else if folder.join("md").exists() {
            (format!("array {device}"), kernel.stop_array(&device))
        } else {
            return Err(Held::InUse(format!("{device} is built on it, and nothing is known of that kind of device")));
        };
        match done {
            Ok(()) => {}
            // A disk that was freed before this one was under it too.
            Err(_) if !folder.exists() => continue,
            Err(source) => return Err(Held::Kept { who: what, source }),
        }
        released.push(format!("{what} taken apart"));
    }
    let left = holders(tree, disk);
    if left.is_empty() { Ok(released) } else { Err(Held::InUse(left.join(", "))) }
}

/// Who keeps a disk or one of its partitions busy: mounts, swap space, and devices built on top. Empty when nobody is known.
pub(crate) fn holders(tree: &Tree, disk: &str) -> Vec<String> {
    let parts = block::held_by(tree, disk).into_iter();
    let mut found: Vec<String> = parts.map(|(part, holder)| format!("{part} is part of {holder}")).collect();
    let parts = block::partitions(tree, disk).into_iter().map(|part| part.name);
    for name in std::iter::once(disk.to_owned()).chain(parts) {
        let users = Users::of(tree, &name);
        found.extend(users.places.iter().map(|place| format!("{name} is mounted on {place}")));
        found.extend(users.swaps.iter().map(|_| format!("{name} is used as swap")));
    }
    found
}

/// What uses a device itself.
struct Users {
    /// Where it is mounted, in the order of the mounts.
    places: Vec<String>,
    /// By which names it is swap space.
    swaps: Vec<String>,
}

impl Users {
    fn of(tree: &Tree, device: &str) -> Self {
        let folder = tree.path("/sys/class/block").join(device);
        let number = tree::text(&folder.join("dev")).unwrap_or_default();
        let mut nodes = vec![format!("/dev/{}", device.replace('!', "/"))];
        nodes.extend(tree::text(&folder.join("dm/name")).map(|name| format!("/dev/mapper/{name}")));
        let swaps = tree.text("/proc/swaps").unwrap_or_default();
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        let swaps = swaps.filter(|swap| nodes.iter().any(|node| node == swap)).map(str::to_owned).collect();
        Self { places: mounts(tree, &number, &nodes), swaps }
    }
}

fn is_partition(tree: &Tree, device: &str) -> bool {
    tree.path("/sys/class/block").join(device).join("partition").exists()
}

/// Mounts and swap space that are on `device` itself.
fn release_users(tree: &Tree, device: &str, kernel: &dyn Kernel, released: &mut Vec<String>) -> Result<(), Held> {
    let Users { places, swaps } = Users::of(tree, device);
    // What was mounted last may lie on what was mounted before.
    for place in places.into_iter().rev() {
        if place == "/" {
            return Err(Held::InUse(format!("{device} is the root of the running system")));
        }
        let who = format!("{device}, mounted on {place},");
        kernel.unmount(&place).map_err(|source| Held::Kept { who, source })?;
        released.push(format!("{device} unmounted from {place}"));
    }
    for swap in swaps {
        let who = format!("swap space on {device}");
        kernel.swap_off(&swap).map_err(|source| Held::Kept { who, source })?;
        released.push(format!("{device} no longer used as swap space"));
    }
    Ok(())
}

/// Where a device is mounted, in the order of the mounts. Some file systems (btrfs) have a device number of their own, so the
/// source counts too.
fn mounts(tree: &Tree, number: &str, nodes: &[String]) -> Vec<String> {
    let table = tree.text("/proc/self/mountinfo").unwrap_or_default();
    let mut places = Vec::new();
    for line in table.lines() {
        // proc(5): id, parent, device number, root, mount point, options, optional fields, -, type, source, options.
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(device), Some(place)) = (fields.get(2), fields.get(4)) else { continue };
        let source = fields.iter().position(|field| *field == "-").and_then(|dash| fields.get(dash + 2));
        if *device == number || source.is_some_and(|source| nodes.iter().any(|node| node == source)) {
            places.push(unescaped(place));
        }
    }
    places
}

/// Spaces and the like are written as three octal digits behind a backslash.
fn unescaped(place: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"].iter().fold(place.to_owned(), |text, pair| {
        let (code, character) = pair.split_at(4);
        text.replace(code, character)
    })
}

/// All devices on a disk, each before what it is built on; the disk is the last one.
fn stack(tree: &Tree, disk: &str) -> Vec<String> {
    let mut found = Vec::new();
    visit(tree, disk, 0, &mut found);
    found
}

fn visit(tree: &Tree, device: &str, depth: usize, found: &mut Vec<String>) {
    if depth > MOST_LAYERS || found.len() >= MOST_DEVICES || found.iter().any(|other| other == device) {
        return;
    }
    let folder = tree.path("/sys/class/block").join(device);
    let parts = tree::names(&folder).into_iter().filter(|name| folder.join(name).join("partition").exists());
    for above in parts.chain(tree::names(&folder.join("holders"))) {
        visit(tree, &above, depth + 1, found);
    }
    found.push(device.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A tree of `/sys` and `/proc` that a fake kernel takes devices away from.
    struct Fake {
        folder: tempfile::TempDir,
        tree: Tree,
        calls: RefCell<Vec<String>>,
        busy: Option<&'static str>,
    }

    impl Fake {
        /// sda with sda1 (part of md0, which has volume vg-root, which is mounted twice) and sda2 (swap).
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tree = Tree::at(folder.path());
            let fake = Self { folder, tree, calls: RefCell::default(), busy: None };
            for (path, text) in [
                ("sys/block/sda/dev", "8:0"),
                ("sys/block/sda/sda1/dev", "8:1"),
                ("sys/block/sda/sda1/partition", "1"),
                ("sys/block/sda/sda1/start", "2048"),
                ("sys/block/sda/sda1/size", "2048"),
                ("sys/block/sda/sda1/holders/md0", ""),
                ("sys/block/sda/sda2/dev", "8:2"),
                ("sys/block/sda/sda2/partition", "2"),
                ("sys/block/sda/sda2/start", "4096"),
                ("sys/block/sda/sda2/size", "2048"),
                ("sys/block/md0/dev", "9:0"),
                ("sys/block/md0/md/array_state", "clean"),
                ("sys/block/md0/holders/dm-0", ""),
                ("sys/block/dm-0/dev", "253:0"),
                ("sys/block/dm-0/dm/name", "vg-root"),
                (
                    "proc/self/mountinfo",
                    "20 1 0:1 / / rw - rootfs rootfs rw\n21 20 253:0 / /mnt rw shared:1 - ext4 /dev/mapper/vg-root rw\n\
                     22 21 0:44 / /mnt/a\\040b rw - btrfs /dev/mapper/vg-root rw\n",
                ),
                ("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
            ] {
                fake.put(path, text);
            }
            fs::create_dir_all(fake.path("sys/class/block")).unwrap();
            for name in ["sda", "sda/sda1", "sda/sda2", "md0", "dm-0"] {
                let own = name.rsplit('/').next().unwrap();
                symlink(fake.path(&format!("sys/block/{name}")), fake.path(&format!("sys/class/block/{own}"))).unwrap();
            }
            fake
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn put(&self, path: &str, text: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
        }

        fn call(&self, text: String, gone: &[&str]) -> io::Result<()> {
            if self.busy.is_some_and(|busy| text.contains(busy)) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.calls.borrow_mut().push(text);
            for path in gone {
                let path = self.path(path);
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
            Ok(())
        }

        /// Removes the lines of a table that have this word.
        fn strike(&self, path: &str, word: &str) {
            let table = fs::read_to_string(self.path(path)).unwrap();
            let left: Vec<&str> = table.lines().filter(|line| !line.split(' ').any(|field| field == word)).collect();
            self.put(path, &left.join("\n"));
        }
    }

    impl Kernel for Fake {
        fn unmount(&self, place: &str) -> io::Result<()> {
            self.call(format!("unmount {place}"), &[])?;
            self.strike("proc/self/mountinfo", &place.replace(' ', "\\040"));
            Ok(())
        }
        fn swap_off(&self, node: &str) -> io::Result<()> {
            self.call(format!("swapoff {node}"), &[])?;
            self.strike("proc/swaps", node);
            Ok(())
        }
        fn remove_map(&self, name: &str) -> io::Result<()> {
            self.call(format!("remove {name}"), &["sys/block/md0/holders/dm-0", "sys/block/dm-0"])
        }
        fn stop_array(&self, device: &str) -> io::Result<()> {
            self.call(format!("stop {device}"), &["sys/block/sda/sda1/holders/md0", "sys/block/md0"])
        }
    }

    #[test]
    fn everything_on_a_disk_is_taken_away_from_the_top_down_and_told() {
        let fake = Fake::new();
        let released = release(&fake.tree, "sda", &fake).unwrap();
        assert_eq!(
            *fake.calls.borrow(),
            ["unmount /mnt/a b", "unmount /mnt", "remove vg-root", "stop md0", "swapoff /dev/sda2"]
        );
        assert_eq!(
            released,
            [
                "dm-0 unmounted from /mnt/a b",
                "dm-0 unmounted from /mnt",
                "volume vg-root (dm-0) taken apart",
                "array md0 taken apart",
                "sda2 no longer used as swap space",
            ]
        );
        assert!(release(&fake.tree, "sda", &fake).unwrap().is_empty());
    }

    #[test]
    fn a_disk_whose_holder_does_not_let_go_is_refused_and_the_holder_is_named() {
        for (busy, named) in [
            ("unmount /mnt/a b", "dm-0, mounted on /mnt/a b,"),
            ("remove", "volume vg-root (dm-0)"),
            ("stop", "array md0"),
            ("swapoff", "swap space on sda2"),
        ] {
            let fake = Fake { busy: Some(busy), ..Fake::new() };
            let error = release(&fake.tree, "sda", &fake).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_unknown_kind_of_holder_and_the_root_of_the_system_stay() {
        let fake = Fake::new();
        fs::remove_dir_all(fake.path("sys/block/dm-0/dm")).unwrap();
        let error = release(&fake.tree, "sda", &fake).unwrap_err().to_string();
        assert!(error.contains("dm-0 is built on it"), "{error}");
        let fake = Fake::new();
        fake.put("proc/self/mountinfo", "20 1 8:2 / / rw - ext4 /dev/root rw\n");
        let error = release(&fake.tree, "sda", &fake).unwrap_err().to_string();
        assert!(error.contains("root of the running system"), "{error}");
    }

    #[test]
    fn who_says_that_it_let_go_and_did_not_is_found_out() {
        struct Liar;
        impl Kernel for Liar {
            fn unmount(&self, _: &str) -> io::Result<()> {
                Ok(())
            }
            fn swap_off(&self, _: &str) -> io::Result<()> {
                Ok(())
            }
            fn remove_map(&self, _: &str) -> io::Result<()> {
                Ok(())
            }
            fn stop_array(&self, _: &str) -> io::Result<()> {
                Ok(())
            }
        }
        let fake = Fake::new();
        let error = release(&fake.tree, "sda", &Liar).unwrap_err().to_string();
        assert!(error.contains("sda1 is part of md0") && error.contains("sda2 is used as swap"), "{error}");
    }
}
