//! GRUB on a disk that a BIOS boots: its settings, and its code in the places from which firmware and GRUB itself start
//! it ([`media::grub`]).
//!
//! The core lies in the BIOS boot partition or, in a table of DOS, between the first sector and the first partition. It
//! was made, with the ramdisk, to look for its settings on the first partition of the disk that it was started from.

use super::PartitionError;
use super::boot::{INITRAMFS, KERNEL};
use super::kernel::Kernel;
use crate::buffer::AlignedBuf;
use crate::disk::DiskError;
use crate::layout::{Layout, Role};
use crate::table::{Geometry, MIB};
use crate::target::Target;
use media::grub::{Grub, SECTOR};

/// Where the core looks for its settings: the prefix is `(,1)/grub` (`ramdisk/profiles/server.toml`).
pub(super) const SETTINGS: &str = "grub/grub.cfg";
/// Bytes of a BIOS boot partition.
pub(super) const BIOS_BOOT: u64 = MIB;

/// Refuses a disk that no BIOS boots from: all of them, and GRUB, read sectors of 512 bytes.
pub(super) fn check(disk: &Geometry) -> Result<(), PartitionError> {
    if disk.sector as usize != SECTOR {
        return Err(PartitionError::BiosSectors { disk: disk.disk.clone(), sector: disk.sector });
    }
    Ok(())
}

/// Puts GRUB's code in its places. That of the first sector reaches the disk with that sector, last of all.
pub(super) fn install(target: &mut Target, layout: &Layout, grub: &Grub<'_>) -> Result<(), DiskError> {
    let at = layout.slot(Role::BiosBoot).map_or(SECTOR as u64, |slot| slot.offset);
    let first = at / SECTOR as u64;
    let core = grub.core(first);
    let mut aligned = AlignedBuf::zeroed(core.len());
    aligned.copy_from_slice(&core);
    target.put(&aligned, at)?;
    target.put(&grub.code(first), 0)
}

/// What GRUB reads and carries out: without an entry to choose, the kernel starts at once.
pub(super) fn settings(kernel: &Kernel, root: &str) -> Result<String, PartitionError> {
    let mut text = format!("linux /{KERNEL} root=PARTUUID={root}");
    for word in words(&kernel.parameters)? {
        text.push(' ');
        text.push_str(&quoted(&word));
    }
    text.push('\n');
    if kernel.initramfs.is_some() {
        text.push_str(&format!("initrd /{INITRAMFS}\n"));
    }
    text.push_str("boot\n");
    Ok(text)
}

/// Parameters as the kernel tells them apart (lib/cmdline.c, `next_arg`): at white space that is not between `"`. GRUB puts
/// the `"` around one with white space itself, and a `\` before each `'`, `"` and `\` (grub-core/lib/cmdline.c), which no kernel
/// takes away again.
fn words(parameters: &str) -> Result<Vec<String>, PartitionError> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in parameters.chars() {
        match c {
            '\'' | '\\' => {
                return Err(PartitionError::CommandLine(
                    "GRUB cannot hand ' and \\ to a kernel as they are; leave them out",
                ));
            }
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    Ok(words)
}

/// A word that GRUB's shell leaves as it is (GRUB manual, "Quoting").
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:=/@%+".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(parameters: &str, initramfs: Option<&str>) -> Kernel {
        Kernel {
            version: "6.1".to_owned(),
            path: "/boot/vmlinuz-6.1".to_owned(),
            initramfs: initramfs.map(str::to_owned),
            parameters: parameters.to_owned(),
        }
    }

    #[test]
    fn the_settings_start_the_kernel_with_the_parameters_of_the_image() {
        let line = r#"rw console=ttyS0,115200n8 dyndbg="file a.c +p; x" init=/a;reboot $root {b} #c mem=1G"#;
        insta::assert_snapshot!(settings(&kernel(line, Some("/boot/initrd.img-6.1")), "0123-4567").unwrap(), @r"
        linux /ferric/vmlinuz root=PARTUUID=0123-4567 rw console=ttyS0,115200n8 'dyndbg=file a.c +p; x' 'init=/a;reboot' '$root' '{b}' '#c' mem=1G
        initrd /ferric/initrd
        boot
        ");
        assert_eq!(settings(&kernel("ro", None), "1").unwrap(), "linux /ferric/vmlinuz root=PARTUUID=1 ro\nboot\n");
    }

    #[test]
    fn what_grub_would_change_is_refused() {
        for line in ["a='b'", r"a=\b"] {
            assert!(matches!(settings(&kernel(line, None), "1"), Err(PartitionError::CommandLine(_))), "{line}");
        }
    }
}
