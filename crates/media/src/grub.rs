//! GRUB for a BIOS, put on a disk by hand: what `grub-bios-setup --no-rs-codes` does with `boot.img` and `core.img`.
//! Bytes in, bytes out.
//!
//! The firmware runs the first sector (`boot.img`), which reads one sector and runs it: the first of the core
//! (`diskboot.img`). That one reads the rest, by a list of blocks at its end. Both places are numbers of sectors of 512
//! bytes, which is all that a BIOS reads. Sources: GRUB 2.06, `include/grub/i386/pc/boot.h`
//! (`GRUB_BOOT_MACHINE_*`), `include/grub/offsets.h` (`struct grub_pc_bios_boot_blocklist`), `util/setup.c`
//! (`SETUP`); GRUB manual, "BIOS installation".

/// Bytes of the sectors that a BIOS reads.
pub const SECTOR: usize = 512;
/// Bytes of the first sector that are code: the disk's signature and table follow (`GRUB_BOOT_MACHINE_WINDOWS_NT_MAGIC`).
pub const CODE: usize = 0x1b8;
/// The most that a core may have: it fits between the first sector and the first MiB, where partitions begin.
pub const MAX_CORE: usize = (1 << 20) - SECTOR;

/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where `boot.img` keeps the sector of the core, 64 bits.
const CORE_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_BOOT_DRIVE`, and what it says to take the drive that the firmware names.
const BOOT_DRIVE: usize = 0x64;
const DRIVE_OF_FIRMWARE: u8 = 0xff;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a short jump over the code for a BIOS that names a hard disk as a floppy. On a hard disk it
/// gives way to two `nop`.
const DRIVE_CHECK: usize = 0x66;
const JUMP: u8 = 0xeb;
const NOP: u8 = 0x90;
/// The one block list of the core's first sector: first sector (64 bits), number of sectors and segment (16 bits each).
const LIST: usize = SECTOR - 12;
/// Where the core's second sector is read to: `GRUB_BOOT_MACHINE_KERNEL_SEG` (0x800) and a sector.
const SEGMENT: u16 = 0x820;

/// Why files are not the two of GRUB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrubError {
    /// The one for the first sector.
    #[error("boot.img is not the boot sector of GRUB for a BIOS: {0}")]
    Boot(&'static str),
    /// The one that follows.
    #[error("core.img is not a core of GRUB for a BIOS, as grub-mkimage -O i386-pc makes it: {0}")]
    Core(&'static str),
}

/// GRUB's two files, found to be what they should.
#[derive(Debug, Clone, Copy)]
pub struct Grub<'a> {
    boot: &'a [u8; SECTOR],
    core: &'a [u8],
}

impl<'a> Grub<'a> {
    /// Looks at everything that is going to be changed, or relied upon.
    ///
    /// # Errors
    /// See [`GrubError`].
    pub fn new(boot: &'a [u8], core: &'a [u8]) -> Result<Self, GrubError> {
        let boot: &[u8; SECTOR] = boot.try_into().map_err(|_| GrubError::Boot("it has not 512 bytes"))?;
        if boot[SECTOR - 2..] != [0x55, 0xaa] {
            return Err(GrubError::Boot("it does not end in 55 aa"));
        }
        if boot[CORE_SECTOR..CORE_SECTOR + 8] != 1_u64.to_le_bytes()
            || boot[BOOT_DRIVE] != DRIVE_OF_FIRMWARE
            || boot[DRIVE_CHECK] != JUMP
        {
            return Err(GrubError::Boot(
                "sector of the core, drive and check of the drive are not where they should be",
            ));
        }
        if core.len() <= SECTOR {
            return Err(GrubError::Core("it has one sector or less"));
        }
        if core.len() > MAX_CORE {
            return Err(GrubError::Core("it does not fit before the first MiB of a disk"));
        }
        let sectors = (core.len() - SECTOR).div_ceil(SECTOR) as u16;
        let list = [&2_u64.to_le_bytes()[..], &sectors.to_le_bytes(), &SEGMENT.to_le_bytes()].concat();
        if core[LIST..SECTOR] != list {
            return Err(GrubError::Core("its first sector does not end in a list of its other sectors"));
        }
        Ok(Self { boot, core })
    }

    /// The code of the first sector of a hard disk on which the core begins at sector `first`.
    pub fn code(&self, first: u64) -> [u8; CODE] {
        let mut code = [0; CODE];
        code.copy_from_slice(&self.boot[..CODE]);
        code[CORE_SECTOR..CORE_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
        code[DRIVE_CHECK..DRIVE_CHECK + 2].fill(NOP);
        code
    }

    /// The core as it lies at sector `first`, in whole sectors.
    pub fn core(&self, first: u64) -> Vec<u8> {
        let mut core = self.core.to_vec();
        core.resize(core.len().next_multiple_of(SECTOR), 0);
        core[LIST..LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
        core
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not GRUB's code, which is not ours to copy: the numbers that are looked at, where they are.
    fn files(core: usize) -> (Vec<u8>, Vec<u8>) {
        let mut boot = vec![0x11; SECTOR];
        boot[CORE_SECTOR..CORE_SECTOR + 8].copy_from_slice(&1_u64.to_le_bytes());
        (boot[BOOT_DRIVE], boot[DRIVE_CHECK]) = (0xff, 0xeb);
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut image = vec![0x22; core];
        if core > SECTOR {
            image[LIST..LIST + 8].copy_from_slice(&2_u64.to_le_bytes());
            image[LIST + 8..LIST + 10].copy_from_slice(&((core - 1).div_euclid(SECTOR) as u16).to_le_bytes());
            image[LIST + 10..SECTOR].copy_from_slice(&0x820_u16.to_le_bytes());
        }
        (boot, image)
    }

    #[test]
    fn sectors_are_patched_and_nothing_else() {
        let (boot, core) = files(1500);
        let grub = Grub::new(&boot, &core).unwrap();
        let code = grub.code(0x1_2345_6789);
        let changed: Vec<usize> = (0..CODE).filter(|at| code[*at] != boot[*at]).collect();
        assert_eq!(code[0x5c..0x64], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0]);
        assert_eq!(changed, [0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x66, 0x67]);
        assert_eq!(code[0x66..0x68], [0x90, 0x90]);
        let placed = grub.core(2048);
        assert_eq!((placed.len(), &placed[1500..]), (1536, &[0; 36][..]));
        assert_eq!(placed[500..512], [0x01, 0x08, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert!(placed[..500] == core[..500] && placed[512..1500] == core[512..]);
    }

    #[test]
    fn files_that_are_something_else_are_refused() {
        let (boot, core) = files(1500);
        let change = |bytes: &[u8], at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        let cases = [
            (boot[..511].to_vec(), core.clone()),
            (change(&boot, 511), core.clone()),
            (change(&boot, CORE_SECTOR), core.clone()),
            (change(&boot, BOOT_DRIVE), core.clone()),
            (change(&boot, DRIVE_CHECK), core.clone()),
            (boot.clone(), files(512).1),
            (boot.clone(), change(&core, LIST)),
            (boot.clone(), change(&core, LIST + 8)),
            (boot.clone(), change(&core, LIST + 10)),
            (boot.clone(), files(MAX_CORE + 1).1),
        ];
        let texts: Vec<String> =
            cases.iter().map(|(boot, core)| Grub::new(boot, core).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(texts.join("\n"));
        let (boot, largest) = files(MAX_CORE);
        assert_eq!(Grub::new(&boot, &largest).unwrap().core(1).len(), MAX_CORE);
    }
}
