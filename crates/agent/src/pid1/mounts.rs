//! File systems of the kernel.

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[error("{action} {kind} at {}", place.display())]
pub struct MountError {
    action: &'static str,
    kind: String,
    place: PathBuf,
    #[source]
    source: io::Error,
}

/// `/dev` comes first: until it is there, nothing that wants random numbers or a console works.
const BASE: [(&str, &str, MountFlags, Option<&CStr>); 5] = [
    ("devtmpfs", "/dev", MountFlags::NOSUID.union(MountFlags::NOEXEC), Some(c"mode=0755")),
    ("proc", "/proc", HARMLESS, None),
    ("sysfs", "/sys", HARMLESS, None),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), Some(c"mode=0755")),
    ("tmpfs", "/tmp", HARMLESS, Some(c"mode=1777")),
];

const HARMLESS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts what every program expects.
pub(super) fn mount_base() -> Result<(), MountError> {
    BASE.iter().try_for_each(|(kind, place, flags, data)| mount(kind, kind, Path::new(place), *flags, *data))
}

/// Mounts the firmware variables when the machine was booted by UEFI. The file system may be a module: call it once
/// that had its chance to be loaded.
pub(super) fn mount_efivars() {
    let place = Path::new("/sys/firmware/efi/efivars");
    if !place.exists() {
        return;
    }
    if let Err(error) = mount("efivarfs", "efivarfs", place, HARMLESS, None) {
        tracing::warn!(%error, cause = %error.source, "no firmware variables");
    }
}

/// Mounts what programs that run containers expect beside the rest: control groups, terminals and shared memory.
pub(crate) fn mount_for_containers() {
    let wanted = [
        ("cgroup2", "/sys/fs/cgroup", HARMLESS, None),
        ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), Some(c"mode=0620,ptmxmode=0666")),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), Some(c"mode=1777")),
    ];
    for (kind, place, flags, data) in wanted {
        if let Err(error) = mount(kind, kind, Path::new(place), flags, data) {
            tracing::warn!(%error, cause = %error.source, "containers may not run");
        }
    }
}

/// Mounts the block device at `device` read-only at `place`, which is created; nothing on it can be executed, be a device
/// or give rights.
///
/// # Errors
///
/// When the kernel does not know the file system `kind`, or `device` does not hold one.
pub fn mount_read_only(device: &Path, place: &Path, kind: &str) -> Result<(), MountError> {
    let device = device.to_string_lossy();
    mount(&device, kind, place, HARMLESS | MountFlags::RDONLY, None)
}

/// Unmounts what is mounted at `place`.
///
/// # Errors
///
/// When nothing is, or it is busy.
pub fn unmount(place: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(place, UnmountFlags::NOFOLLOW).map_err(|error| MountError {
        action: "unmount",
        kind: "what is".to_owned(),
        place: place.to_owned(),
        source: error.into(),
    })
}

fn mount(source: &str, kind: &str, place: &Path, flags: MountFlags, data: Option<&CStr>) -> Result<(), MountError> {
    let failed = |source| MountError { action: "mount", kind: kind.to_owned(), place: place.to_owned(), source };
    fs::create_dir_all(place).map_err(failed)?;
    match rustix::mount::mount(source, place, kind, flags, data) {
        Ok(()) => Ok(()),
        // The kernel, or an earlier program, has done it already.
        Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Unmounts everything but the kernel's own file systems, the last mounted first; what is busy is detached.
pub(super) fn unmount_all() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for place in places(&table).into_iter().rev() {
        let kernels = ["/", "/dev", "/proc", "/sys", "/run", "/tmp"].contains(&place.as_str());
        if kernels {
            continue;
        }
        if rustix::mount::unmount(&place, UnmountFlags::empty()).is_err()
            && let Err(error) = rustix::mount::unmount(&place, UnmountFlags::DETACH)
        {
            tracing::warn!(place, %error, "cannot be unmounted");
        }
    }
}

/// Mount points in the order of mounting (proc(5), fifth field; white space is written in octal).
fn places(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|place| place.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_in_order_with_white_space() {
        let table = "1 1 0:2 / / rw - rootfs rootfs rw\n22 1 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw\n";
        assert_eq!(places(table), ["/", "/mnt/a b"]);
    }
}
