//! Partition images: an image that is one file system becomes the root partition of a disk whose other partitions are
//! made here.
//!
//! It takes the same way as every image, with its bytes moved to where the root partition begins. When they are verified,
//! and before the seal writes the table that makes them partitions, the rest is put in its place: a partition with a boot
//! loader and the image's own kernel ([`boot`], [`kernel`]), of a disk for a BIOS the code that starts from the first
//! sector ([`grub`]), the header of the swap space ([`swap`]), the file system of the scratch space. The image's file
//! system is read by a library ([`fs`]), not mounted, and nothing of it is executed.
//!
//! **Preserved scratch space** is the one exception to "a disk that is being written has no partition table": its entry,
//! and nothing else, stays in the table from the first write on, or a write that fails would lose it. No firmware boots
//! from it.

mod boot;
mod fs;
mod grub;
mod kernel;
mod look;
mod shared;
mod swap;

pub(crate) use fs::Superblock;
pub(crate) use look::LIMIT as LOOK_LIMIT;
pub(crate) use shared::SharedDisk;

use crate::buffer::AlignedBuf;
use crate::configdrive::{self, ConfigDrive};
use crate::disk::{self, Disk};
use crate::error::Cause;
use crate::layout::{Identities, Label, Layout, LayoutError, Role, Sizes, Slot};
use crate::qcow2::Map;
use crate::reader::Reader;
use crate::table::{self, Geometry, ImageError, MIB, Table};
use crate::target::{HELD, Target};
use bytes::Bytes;
use media::fat::FatError;
use media::gpt::mbr::Mbr;
use media::gpt::{Gpt, Guid};
use media::grub::{Grub, GrubError};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Size of the partition with boot loader and kernel, bytes: that of ironic-python-agent's EFI system partitions.
pub const BOOT_SIZE: u64 = 550 * MIB;

/// What makes the disk bootable. The ramdisk brings it.
#[derive(Debug, Clone)]
pub enum BootLoader {
    /// For UEFI: systemd-boot, an EFI program.
    Efi(Bytes),
    /// For a BIOS: GRUB.
    Grub {
        /// `boot.img`, for the first sector.
        boot: Bytes,
        /// A core, as grub-mkimage makes it, that reads `/grub/grub.cfg` of the first partition.
        core: Bytes,
    },
}

/// Makes an empty file system, labelled [`Role::Ephemeral`]'s label, in these bytes of the disk, which nobody holds
/// meanwhile.
pub type Formatter = Arc<dyn Fn(Range<u64>) -> io::Result<()> + Send + Sync>;

impl BootLoader {
    /// GRUB, if it is that, and what it should be.
    fn grub(&self) -> Option<Result<Grub<'_>, PartitionError>> {
        match self {
            Self::Efi(_) => None,
            Self::Grub { boot, core } => Some(Grub::new(boot, core).map_err(PartitionError::Grub)),
        }
    }
}

/// The disk around a partition image.
#[derive(Clone)]
pub struct Partitioning {
    /// Which table.
    pub label: Label,
    /// Bytes of the root partition.
    pub root: u64,
    /// Bytes of the swap partition; 0 for none.
    pub swap: u64,
    /// Bytes of the scratch partition; 0 for none.
    pub ephemeral: u64,
    /// Bytes of the partition with boot loader and kernel, usually [`BOOT_SIZE`].
    pub boot: u64,
    /// Keep what is in the scratch partition, which must be there already.
    pub preserve_ephemeral: bool,
    /// It starts the kernel of the image.
    pub loader: BootLoader,
    /// Makes the file system of the scratch partition.
    pub format_ephemeral: Formatter,
}

/// Why a partition image is not written.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// No place for the partitions.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It is an image of a whole disk.
    #[error("the image has a partition table: it is a whole-disk image; deploy it with image_type whole-disk")]
    WholeDisk,
    /// Its file system is none that the boot loader's files can be taken from.
    #[error(
        "the image is {0}; a partition image has to be an ext2, ext3 or ext4 file system, out of which its kernel is read: make \
         it one (mkfs.ext4), or deploy a whole-disk image"
    )]
    FileSystem(&'static str),
    /// It ends before its file system does.
    #[error("the image has {bytes} bytes, its file system needs {needed}: it is truncated")]
    Truncated {
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that its file system has.
        needed: u64,
    },
    /// The scratch space that is to be preserved is not there.
    #[error(
        "preserve_ephemeral is set, but {disk} has no partition at byte {offset} with {size} bytes: nothing was touched; \
         rebuild without preserve_ephemeral, or with the sizes of the last deploy"
    )]
    NothingToPreserve {
        /// Name of the disk.
        disk: String,
        /// Where it would be.
        offset: u64,
        /// How large it would be.
        size: u64,
    },
    /// Its file system cannot be read.
    #[error("read the file system of the image")]
    Read(#[source] ext4_view::Ext4Error),
    /// There is no kernel.
    #[error(
        "the image has no kernel (/boot/vmlinuz-VERSION): a partition image is booted by its own kernel; install one in \
         the image, or deploy a whole-disk image"
    )]
    NoKernel,
    /// What `/etc/kernel/cmdline` holds is no kernel command line.
    #[error("/etc/kernel/cmdline of the image is no kernel command line: {0}")]
    CommandLine(&'static str),
    /// The partition with boot loader and kernel could not be made.
    #[error("make the partition with boot loader and kernel")]
    Boot(#[source] FatError),
    /// GRUB's files are something else.
    #[error("use the GRUB of this ramdisk")]
    Grub(#[source] GrubError),
    /// Its sectors are too large for a BIOS.
    #[error(
        "{disk} has {sector}-byte sectors, and a BIOS boots from 512-byte sectors only; boot the node by UEFI (capability \
         boot_mode:uefi)"
    )]
    BiosSectors {
        /// Name of the disk.
        disk: String,
        /// Bytes of its sectors.
        sector: u32,
    },
    /// A file of the image has fewer bytes than it says.
    #[error("{path} of the image has fewer bytes than its size says")]
    Short {
        /// The file.
        path: String,
    },
    /// The file system of the scratch space could not be made.
    #[error("make the file system of the ephemeral partition")]
    Format(#[source] io::Error),
}

/// What was made around the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitioned {
    /// All partitions.
    pub slots: Vec<Slot>,
    /// UUID of the image's file system.
    pub root_uuid: String,
    /// Volume id of the EFI system partition, as `1234-ABCD`; `None` where a BIOS boots.
    pub esp_uuid: Option<String>,
}

/// Partitions in their places, before anything is written.
pub(crate) struct Partitions {
    plan: Partitioning,
    layout: Layout,
    root: Slot,
    ids: Identities,
    /// The final table.
    pub(crate) table: Table,
    /// The table that stays while the image is written.
    pub(crate) kept: Option<Table>,
}

impl Partitions {
    /// Places the partitions, and looks for the one that is to be preserved.
    pub(crate) fn new(
        plan: Partitioning,
        drive: Option<&ConfigDrive>,
        disk: &mut dyn Disk,
        geometry: &Geometry,
    ) -> Result<Self, Cause> {
        let config_drive = if drive.is_some() { configdrive::MAX_SIZE } else { 0 };
        let Partitioning { root, swap, ephemeral, .. } = plan;
        let (esp, boot, bios_boot) = match (&plan.loader, plan.label) {
            (BootLoader::Efi(_), _) => (plan.boot, 0, 0),
            (BootLoader::Grub { .. }, Label::Gpt) => (0, plan.boot, grub::BIOS_BOOT),
            (BootLoader::Grub { .. }, Label::Msdos) => (0, plan.boot, 0),
        };
        if let Some(grub) = plan.loader.grub() {
            grub?;
            grub::check(geometry)?;
        }
        let sizes = Sizes { esp, boot, bios_boot, ephemeral, swap, config_drive, root };
        let layout = Layout::new(plan.label, &sizes, geometry).map_err(PartitionError::Layout)?;
        let random = || Guid::from_uuid_bytes(*uuid::Uuid::new_v4().as_bytes());
        let mut ids = Identities {
            disk: random(),
            signature: uuid::Uuid::new_v4().as_fields().0,
            partitions: layout.slots.iter().map(|_| random()).collect(),
        };
        let mut kept = None;
        if let Some(slot) = layout.slot(Role::Ephemeral).filter(|_| plan.preserve_ephemeral) {
            preserve(disk, geometry, &slot, &mut ids)?;
            kept = Some(layout.table(geometry, &ids, |slot| slot.role == Role::Ephemeral)?);
        }
        let table = layout.table(geometry, &ids, |_| true)?;
        let root = layout.slot(Role::Root).ok_or(PartitionError::Layout(LayoutError::NoRoot))?;
        Ok(Self { plan, layout, root, ids, table, kept })
    }

    /// Where the image begins.
    pub(crate) fn base(&self) -> u64 {
        self.root.offset
    }

    /// What the image may fill, as if it were a disk.
    pub(crate) fn room(&self, disk: &Geometry) -> Geometry {
        Geometry { disk: format!("the root partition of {}", disk.disk), size: self.root.size, sector: disk.sector }
    }

    /// Where the config drive goes.
    pub(crate) fn drive(&self) -> Option<usize> {
        self.layout.slot(Role::ConfigDrive).map(|slot| slot.number)
    }

    /// Refuses an image without a kernel while nothing is written, where that can be seen ([`look`]).
    pub(crate) async fn look(&self, reader: Reader<'_>, map: Option<&Map>) -> Result<(), PartitionError> {
        look::look(reader, map, &self.plan.loader).await
    }

    /// What the first bytes of the image say, before anything is written.
    pub(crate) fn judge(&self, head: &[u8], disk: &Geometry) -> Result<Superblock, Cause> {
        if head.is_empty() {
            return Err(ImageError::Empty.into());
        }
        if let Some(superblock) = Superblock::read(head) {
            self.room(disk).check_length(superblock.size, false)?;
            fs::check(head)?;
            return Ok(superblock);
        }
        if let Some(name) = table::foreign(head) {
            return Err(ImageError::Format(name).into());
        }
        let whole = Mbr::parse(head).is_ok_and(|mbr| mbr.used().next().is_some());
        Err(if whole { PartitionError::WholeDisk } else { PartitionError::FileSystem(fs::foreign(head)) }.into())
    }

    /// Puts everything but image, config drive and table in its place. The image is on the disk and verified.
    pub(crate) fn fill(
        &self,
        target: &mut Target,
        shared: &SharedDisk,
        cancel: &CancellationToken,
    ) -> Result<Partitioned, Cause> {
        let system = fs::System::open(shared.clone(), self.root.offset, self.root.size)?;
        let mut esp_uuid = None;
        let slot = self.layout.slot(Role::Esp).or_else(|| self.layout.slot(Role::Boot));
        if let (Some(slot), Some(root)) = (slot, self.partition_uuid(Role::Root)) {
            let id = self.ids.signature ^ 0x4645_5252;
            boot::fill(target, &slot, &system, &boot::Boot { loader: &self.plan.loader, root: &root, id }, cancel)?;
            esp_uuid = (slot.role == Role::Esp).then(|| format!("{:04X}-{:04X}", id >> 16, id & 0xffff));
        }
        if let Some(grub) = self.plan.loader.grub() {
            grub::install(target, &self.layout, &grub?)?;
        }
        if let Some(slot) = self.layout.slot(Role::Swap) {
            let mut page = AlignedBuf::zeroed(swap::PAGE);
            page.copy_from_slice(&swap::header(slot.size, *uuid::Uuid::new_v4().as_bytes(), Role::Swap.label()));
            target.put(&page, slot.offset)?;
        }
        if let Some(slot) = self.layout.slot(Role::Ephemeral).filter(|_| !self.plan.preserve_ephemeral) {
            if cancel.is_cancelled() {
                return Err(Cause::Cancelled);
            }
            self.format(target, &slot)?;
        }
        Ok(Partitioned { slots: self.layout.slots.clone(), root_uuid: system.uuid(), esp_uuid })
    }

    /// Has the scratch space formatted, by somebody who opens the disk for that. What it held before is no file system
    /// any more when that fails.
    fn format(&self, target: &mut Target, slot: &Slot) -> Result<(), Cause> {
        let zeros = AlignedBuf::zeroed(HELD as usize);
        disk::zero(&mut *target.disk, &zeros, slot.offset, slot.size.min(HELD))?;
        target.flush()?;
        let range = slot.range();
        let mut work = || (self.plan.format_ephemeral)(range.clone());
        target.disk.lend(&mut work).map_err(|error| PartitionError::Format(error).into())
    }

    fn partition_uuid(&self, role: Role) -> Option<String> {
        let number = self.layout.slot(role)?.number;
        self.table.partitions().into_iter().find(|partition| partition.number == number).map(|partition| partition.uuid)
    }
}

/// Finds the partition that is to be preserved in the table that is on the disk now, and keeps its identity and that of
/// the disk. Only a partition in exactly the place and of exactly the size counts.
fn preserve(disk: &mut dyn Disk, geometry: &Geometry, slot: &Slot, ids: &mut Identities) -> Result<(), Cause> {
    let found = current(disk, geometry)?
        .filter(|table| table.partitions().iter().any(|there| (there.offset, there.size) == (slot.offset, slot.size)));
    match found {
        Some(Table::Gpt { gpt, .. }) => {
            ids.disk = gpt.disk_guid;
            let first = slot.offset / u64::from(geometry.sector);
            if let (Some((_, entry)), Some(own)) =
                (gpt.used().find(|(_, entry)| entry.first_lba == first), ids.partitions.get_mut(slot.number - 1))
            {
                *own = entry.unique_guid;
            }
            Ok(())
        }
        Some(Table::Mbr { mbr, .. }) => {
            ids.signature = mbr.signature;
            Ok(())
        }
        None => {
            Err(PartitionError::NothingToPreserve { disk: geometry.disk.clone(), offset: slot.offset, size: slot.size }
                .into())
        }
    }
}

/// The table that is on a disk; its backup where the primary is broken.
fn current(disk: &mut dyn Disk, geometry: &Geometry) -> Result<Option<Table>, Cause> {
    let head = disk::read_some(disk, HELD as usize, 0)?;
    if let Ok(table) = table::read(&head, geometry) {
        return Ok(Some(table));
    }
    let tail = disk::read_some(disk, HELD as usize, geometry.size - HELD)?;
    let sectors = geometry.size / u64::from(geometry.sector);
    let backup = Gpt::parse_backup(&tail, sectors, geometry.sector).ok();
    Ok(backup.map(|gpt| Table::Gpt { gpt, mbr: Mbr::protective(sectors) }))
}
