//! Bootable virtual media: an ISO image that EFI firmware starts from a CD drive.

use crate::fat::{self, FatError};
use crate::iso9660::{Builder, IsoError};

/// The volume label by which an agent knows its virtual media, unless a config drive is on it.
pub const VIRTUAL_MEDIA_LABEL: &str = "VMEDIA_BOOT_ISO";

/// Where x86-64 firmware looks on removable media (UEFI specification 3.5.1.1).
pub const REMOVABLE_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

/// Why virtual media could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The EFI system partition inside failed.
    #[error("the EFI system partition of the virtual media could not be made")]
    Esp(#[source] FatError),
    /// The image around it failed.
    #[error("the ISO image of the virtual media could not be made")]
    Iso(#[source] IsoError),
}

/// Makes an ISO image with this volume label that boots the EFI program `uki` and has the files `extra` (relative path,
/// contents) in its root.
///
/// # Errors
/// See [`BootError`].
pub fn uefi_iso(uki: &[u8], extra: &[(&str, &[u8])], label: &str) -> Result<Vec<u8>, BootError> {
    let esp = fat::image(&[(REMOVABLE_LOADER, uki)], "ESP").map_err(BootError::Esp)?;
    let mut iso = Builder::new(label).map_err(BootError::Iso)?;
    iso.efi_boot_image(esp).map_err(BootError::Iso)?;
    for (path, data) in extra {
        iso.file(path, 0o644, *data).map_err(BootError::Iso)?;
    }
    iso.to_vec().map_err(BootError::Iso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_image_is_a_fat_file_system_with_the_program() {
        let uki: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 249) as u8).collect();
        let iso = uefi_iso(&uki, &[("openstack/latest/network_data.json", b"{}")], VIRTUAL_MEDIA_LABEL).unwrap();
        let catalogue = u32::from_le_bytes(iso[17 * 2048 + 0x47..][..4].try_into().unwrap()) as usize * 2048;
        let image = u32::from_le_bytes(iso[catalogue + 40..][..4].try_into().unwrap()) as usize * 2048;
        let mut esp = iso[image..].to_vec();
        let file_system = fatfs::FileSystem::new(std::io::Cursor::new(&mut esp), fatfs::FsOptions::new()).unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut file_system.root_dir().open_file(REMOVABLE_LOADER).unwrap(), &mut data)
            .unwrap();
        assert!(data == uki);
    }
}
