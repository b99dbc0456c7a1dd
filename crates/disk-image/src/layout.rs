//! Where the partitions of a partition image go on a disk: sizes in, places out. Touches nothing.

use crate::configdrive;
use crate::table::{Geometry, ImageError, MIB, Table};
use media::gpt::mbr::{self, Mbr, MbrError};
use media::gpt::{Entry, Gpt, Guid};
use std::fmt;
use std::ops::Range;

/// Which partition table a disk gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// GUID partition table.
    Gpt,
    /// The table of DOS: at most four partitions, within the first 2^32 sectors.
    Msdos,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// EFI system partition.
    Esp,
    /// Where GRUB finds kernel and settings on a disk that a BIOS boots.
    Boot,
    /// Where GRUB's core lies on such a disk, if it has a GUID partition table.
    BiosBoot,
    /// Scratch space of the installed system, which a rebuild may preserve.
    Ephemeral,
    /// Swap space.
    Swap,
    /// Config drive.
    ConfigDrive,
    /// The file system of the image.
    Root,
}

impl Role {
    /// Name in a GUID partition table, and label of the file system where this crate makes it; those that
    /// ironic-python-agent gives, where it has that partition and gives it one. FAT takes eleven characters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Esp => "efi-part",
            Self::Boot => "ferric-boot",
            Self::BiosBoot => "bios-boot",
            Self::Ephemeral => "ephemeral0",
            Self::Swap => "swap1",
            Self::ConfigDrive => configdrive::LABEL,
            Self::Root => "root",
        }
    }

    fn type_guid(self) -> Guid {
        match self {
            Self::Esp => Guid::ESP,
            Self::Boot => Guid::BASIC_DATA,
            Self::BiosBoot => Guid::BIOS_BOOT,
            Self::Swap => Guid::LINUX_SWAP,
            Self::Ephemeral | Self::ConfigDrive | Self::Root => Guid::LINUX_DATA,
        }
    }

    fn type_byte(self) -> u8 {
        match self {
            Self::Esp => mbr::ESP,
            Self::Swap => mbr::LINUX_SWAP,
            Self::Boot => mbr::FAT32_LBA,
            // A table of DOS has none: the core lies before the first partition.
            Self::BiosBoot | Self::Ephemeral | Self::ConfigDrive | Self::Root => mbr::LINUX,
        }
    }
}

/// How large the partitions are to be, in bytes; 0 for none. Each becomes a multiple of 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// EFI system partition.
    pub esp: u64,
    /// GRUB's files.
    pub boot: u64,
    /// GRUB's core.
    pub bios_boot: u64,
    /// Scratch space.
    pub ephemeral: u64,
    /// Swap space.
    pub swap: u64,
    /// Config drive.
    pub config_drive: u64,
    /// The file system of the image; there has to be one.
    pub root: u64,
}

/// Why partitions have no place on a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No size is given for the root partition.
    #[error("the root partition of a partition image needs a size, and root_mb is 0")]
    NoRoot,
    /// They need more than there is.
    #[error("the partitions and their table need {need} bytes ({wanted}), {disk} has {size}; ask for less")]
    TooLarge {
        /// Bytes needed.
        need: u64,
        /// The partitions with their sizes.
        wanted: String,
        /// Name of the disk.
        disk: String,
        /// Its size.
        size: u64,
    },
    /// A table of DOS cannot say that.
    #[error("a partition table of DOS cannot hold {0}; use disk_label gpt")]
    Dos(&'static str),
}

/// A partition in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// What it is for.
    pub role: Role,
    /// Number in the table, from 1.
    pub number: usize,
    /// First byte, a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes, a multiple of 1 MiB.
    pub size: u64,
}

impl Slot {
    /// Its bytes.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }
}

/// All partitions, in the order of ironic-python-agent: what a rebuild may preserve comes before what may change with
/// the image, so that it stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) label: Label,
    pub(crate) slots: Vec<Slot>,
}

/// What tells this disk and its partitions from all others.
#[derive(Debug, Clone)]
pub(crate) struct Identities {
    pub(crate) disk: Guid,
    /// Of a DOS table.
    pub(crate) signature: u32,
    /// One for each partition.
    pub(crate) partitions: Vec<Guid>,
}

impl Layout {
    /// Places the partitions. The first and the last MiB of the disk are kept free, for the tables.
    pub(crate) fn new(label: Label, sizes: &Sizes, disk: &Geometry) -> Result<Self, LayoutError> {
        if sizes.root == 0 {
            return Err(LayoutError::NoRoot);
        }
        let wanted = [
            (Role::Esp, sizes.esp),
            // The first one: it is by its number that GRUB's core finds it, on either table.
            (Role::Boot, sizes.boot),
            (Role::BiosBoot, sizes.bios_boot),
            (Role::Ephemeral, sizes.ephemeral),
            (Role::Swap, sizes.swap),
            (Role::ConfigDrive, sizes.config_drive),
            (Role::Root, sizes.root),
        ];
        let wanted: Vec<(Role, u64)> = wanted.into_iter().filter(|(_, size)| *size > 0).collect();
        if label == Label::Msdos && wanted.len() > 4 {
            return Err(LayoutError::Dos("more than four partitions"));
        }
        let (mut offset, mut slots) = (MIB, Vec::with_capacity(wanted.len()));
        for (index, (role, size)) in wanted.iter().enumerate() {
            // What is larger than any disk stays so.
            let size = size.checked_next_multiple_of(MIB).unwrap_or(u64::MAX);
            slots.push(Slot { role: *role, number: index + 1, offset, size });
            offset = offset.saturating_add(size);
        }
        let need = offset.saturating_add(MIB);
        if need > disk.size {
            let wanted: Vec<_> =
                wanted.iter().map(|(role, size)| format!("{role} {} MiB", size.div_ceil(MIB))).collect();
            let wanted = wanted.join(", ");
            return Err(LayoutError::TooLarge { need, wanted, disk: disk.disk.clone(), size: disk.size });
        }
        if label == Label::Msdos && offset / u64::from(disk.sector) > u64::from(u32::MAX) {
            return Err(LayoutError::Dos("partitions behind sector 4294967295"));
        }
        Ok(Self { label, slots })
    }

    pub(crate) fn slot(&self, role: Role) -> Option<Slot> {
        self.slots.iter().copied().find(|slot| slot.role == role)
    }

    /// The table of the slots that `keep` chooses, each under its own number.
    pub(crate) fn table(
        &self,
        disk: &Geometry,
        ids: &Identities,
        keep: impl Fn(&Slot) -> bool,
    ) -> Result<Table, ImageError> {
        let size = u64::from(disk.sector);
        let chosen = self.slots.iter().zip(&ids.partitions).filter(|(slot, _)| keep(slot));
        match self.label {
            Label::Gpt => {
                let mut gpt = Gpt::new(ids.disk, disk.sector, disk.size / size).map_err(ImageError::Gpt)?;
                for (slot, unique) in chosen {
                    let sectors = slot.offset / size..=(slot.offset + slot.size) / size - 1;
                    let entry = Entry::new(slot.role.type_guid(), *unique, sectors, slot.role.label());
                    gpt.put(slot.number, entry).map_err(ImageError::Gpt)?;
                }
                Ok(Table::Gpt { mbr: Mbr::protective(disk.size / size), gpt })
            }
            Label::Msdos => {
                let mut mbr = Mbr { signature: ids.signature, ..Mbr::default() };
                for (slot, _) in chosen {
                    let sectors = slot.offset / size..(slot.offset + slot.size) / size;
                    let put: Result<(), MbrError> = mbr.put(slot.number, slot.role.type_byte(), sectors);
                    put.map_err(ImageError::NoRoomMbr)?;
                    if let (Role::Boot, Some(entry)) = (slot.role, mbr.entries.get_mut(slot.number - 1)) {
                        entry.status = mbr::ACTIVE;
                    }
                }
                Ok(Table::Mbr { mbr, sector: disk.sector })
            }
        }
    }
}

impl fmt::Display for Role {
    /// As ironic-python-agent calls it, but for the partition of GRUB's files, which it has not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Esp => "efi system partition",
            Self::Boot => "boot",
            Self::BiosBoot => "BIOS Boot partition",
            Self::Ephemeral => "ephemeral",
            Self::Swap => "swap",
            Self::ConfigDrive => "configdrive",
            Self::Root => "root",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(count: usize) -> Identities {
        let partitions = (1..=count as u8).map(|i| Guid([i; 16])).collect();
        Identities { disk: Guid([0xd1; 16]), signature: 0xdead_beef, partitions }
    }

    fn disk(size: u64, sector: u32) -> Geometry {
        Geometry { disk: "/dev/sda".to_owned(), size, sector }
    }

    proptest! {
        /// Whatever is asked for is placed or refused. What is placed is aligned, apart from each other, between the
        /// tables, of the size that was asked for, and in the table of the disk exactly so; the backup table ends
        /// where the disk ends.
        #[test]
        fn partitions_are_aligned_apart_and_between_the_tables(
            mib in 4_u64..200_000,
            odd in 0_u64..256,
            large in any::<bool>(),
            dos in any::<bool>(),
            bios in any::<bool>(),
            esp in prop_oneof![Just(0), Just(550 * MIB)],
            ephemeral in 0..100_000 * MIB,
            swap in prop_oneof![Just(0), 0..9000 * MIB],
            drive in prop_oneof![Just(0), Just(64 * MIB)],
            root in prop_oneof![0..100_000 * MIB, Just(u64::MAX)],
        ) {
            let sector = if large { 4096 } else { 512 };
            let disk = disk(mib * MIB + odd * 4096, sector);
            let bios_boot = if bios && !dos { MIB } else { 0 };
            let (esp, boot) = if bios { (0, esp) } else { (esp, 0) };
            let sizes = Sizes { esp, boot, bios_boot, ephemeral, swap, config_drive: drive, root };
            let label = if dos { Label::Msdos } else { Label::Gpt };
            let wanted = [esp, boot, bios_boot, ephemeral, swap, drive, root].map(|size| size.div_ceil(MIB));
            let need = wanted.iter().sum::<u64>() + 2;
            let count = wanted.iter().filter(|mib| **mib > 0).count();
            let layout = match Layout::new(label, &sizes, &disk) {
                Ok(layout) => layout,
                Err(LayoutError::NoRoot) => { prop_assert_eq!(root, 0); return Ok(()); }
                Err(LayoutError::TooLarge { .. }) => { prop_assert!(need > disk.size / MIB); return Ok(()); }
                Err(LayoutError::Dos(_)) => { prop_assert!(dos && count > 4); return Ok(()); }
            };
            let mut end = MIB;
            for slot in &layout.slots {
                prop_assert!(slot.offset.is_multiple_of(MIB) && slot.size.is_multiple_of(MIB) && slot.size > 0);
                prop_assert!(slot.offset >= end, "{slot:?} begins before {end}");
                end = slot.range().end;
            }
            prop_assert!(end + MIB <= disk.size);
            let table = layout.table(&disk, &ids(layout.slots.len()), |_| true).unwrap();
            let places: Vec<_> = table.partitions().iter().map(|p| (p.number, p.offset, p.size)).collect();
            let slots: Vec<_> = layout.slots.iter().map(|s| (s.number, s.offset, s.size)).collect();
            prop_assert_eq!(places, slots);
            let (mut head, mut tail) = (vec![0; MIB as usize], vec![0; MIB as usize]);
            table.write_head(&mut head).unwrap();
            table.write_tail(&mut tail).unwrap();
            if !dos {
                let primary = Gpt::parse_primary(&head, sector).unwrap();
                let backup = Gpt::parse_backup(&tail, disk.size / u64::from(sector), sector).unwrap();
                prop_assert_eq!(&primary, &backup);
                prop_assert_eq!(primary.backup_lba, disk.size / u64::from(sector) - 1);
            }
        }
    }

    #[test]
    fn a_table_of_dos_takes_four_partitions() {
        let four = Sizes { esp: MIB, boot: 0, bios_boot: 0, ephemeral: MIB, swap: MIB, config_drive: 0, root: MIB };
        let disk = disk(64 * MIB, 512);
        assert_eq!(Layout::new(Label::Msdos, &four, &disk).unwrap().slots.len(), 4);
        let five = Sizes { config_drive: MIB, ..four };
        let error = Layout::new(Label::Msdos, &five, &disk).unwrap_err();
        insta::assert_snapshot!(error, @"a partition table of DOS cannot hold more than four partitions; use disk_label gpt");
        assert_eq!(Layout::new(Label::Gpt, &five, &disk).unwrap().slots.len(), 5);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_sizes() {
        let (esp, swap, config_drive, root) = (550 * MIB, 512 * MIB, 64 * MIB, 4096 * MIB);
        let sizes = Sizes { esp, boot: 0, bios_boot: 0, ephemeral: 0, swap, config_drive, root };
        let error = Layout::new(Label::Gpt, &sizes, &disk(4096 * MIB, 512)).unwrap_err();
        insta::assert_snapshot!(error, @"the partitions and their table need 5477761024 bytes (efi system partition 550 MiB, swap 512 MiB, configdrive 64 MiB, root 4096 MiB), /dev/sda has 4294967296; ask for less");
    }

    /// What is preserved keeps its number, so that it keeps the name of its device.
    #[test]
    fn a_table_of_some_partitions_keeps_their_numbers() {
        let (esp, ephemeral, root) = (MIB, 2 * MIB, MIB);
        let sizes = Sizes { esp, boot: 0, bios_boot: 0, ephemeral, swap: 0, config_drive: 0, root };
        let disk = disk(64 * MIB, 512);
        for label in [Label::Gpt, Label::Msdos] {
            let layout = Layout::new(label, &sizes, &disk).unwrap();
            let table = layout.table(&disk, &ids(3), |slot| slot.role == Role::Ephemeral).unwrap();
            let [only] = &table.partitions()[..] else { panic!("{table:?}") };
            assert_eq!((only.number, only.offset, only.size), (2, 2 * MIB, 2 * MIB));
        }
    }
}
