//! The image pipeline: fetch, hash, decompress, write, seal. Knows nothing of nodes.
//!
//! # Where does a byte go?
//!
//! 1. **Source** ([`source`]): a connection or a file gives it as part of a `Bytes`. [`fetch`] makes one stream out of
//!    as many connections as it takes: after a break the next request asks for the first byte that has not arrived
//!    (`Range`, bound by `If-Range` to the same content), so no byte is transported twice. This is the only
//!    asynchronous stage. It collects what arrives in pieces of 1 MiB, memory that direct I/O accepts, from a fixed pool;
//!    that pool is empty, and the connection waits, when the rest is slower.
//! 2. **Hash** ([`digest`]): the piece, shared and not copied, goes to the thread that hashes the *transported* bytes,
//! 3. **Unpack** (`unpack`, [`decompress`]): and to the thread that unpacks it, directly into a 1 MiB block from another
//!    fixed pool (`blocks`); of an image that is not packed, the piece itself goes on. How it is packed, its own first
//!    bytes say. A window that the memory budget does not cover is refused. The frames of a zstd image of many are
//!    unpacked at the same time (`unpack::frames`). Byte *n* of a raw image is byte *n* of the disk. Of a [`qcow2`], a map
//!    says where a byte belongs: it was read first, by byte ranges (`reader`), and each table that it was made from is
//!    compared as it streams past.
//! 4. **Write** (`pipeline`): the first block shows the partition table. Only when image and disk are found to suit
//!    each other (`table`) are the first and the last MiB of the disk cleared and flushed; with them go the old tables,
//!    boot code, RAID and LVM signatures. Then blocks are written at their offsets ([`disk`]), zeros included (by the
//!    disk's own means where those guarantee zeros), with direct I/O on drives. What a qcow2 does not mention is zero,
//!    and made so while no data waits. The first and the last MiB of the image stay in memory (`target`).
//! 5. **Verdict** (`write`): all bytes have come, hash and plan agree. Otherwise it ends here, and the disk has no
//!    partition table.
//! 6. **Seal** (`seal`): flush; of a partition image what is around it; config drive into its partition; backup table at the real end of the disk; flush;
//!    first MiB with the final table, its first sector last; flush; read back. From that sector on the disk boots.
//!
//! A **partition image** is one file system, not a disk: its bytes go where the root partition begins (`layout`), and the
//! other partitions are made around it (`partition`) before the table is. Whether it has a kernel is looked at before all
//! that, by byte ranges, and again when it is on the disk.
//!
//! Whatever fails, and whenever: [`WriteError`] says why, and in [`WriteError::state`] what is on the disk now. It is
//! [`DiskState::Untouched`] or [`DiskState::NoTable`], and [`DiskState::Unknown`] only if the disk refuses to be
//! cleared. Where scratch space is preserved, [`DiskState::OnlyEphemeral`] stands for the second.
//!
//! # Use
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use disk_image::{Plan, disk, source};
//! use tokio_util::sync::CancellationToken;
//!
//! let source = source::from_url("https://images.example/debian.raw.zst", &source::Access::default())?;
//! let plan = Plan::new(source, Some("sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse()?));
//! let disk = disk::open("/dev/sda".as_ref())?;
//! let written = disk_image::write(plan, disk, |progress| tracing::info!(?progress), CancellationToken::new()).await?;
//! tracing::info!(partitions = written.partitions.len(), "done");
//! # Ok(())
//! # }
//! ```
//!
//! What memory the pipeline may use is [`Plan::budget`]; `budget` shares it out.

mod blocks;
mod budget;
mod buffer;
pub mod configdrive;
pub mod decompress;
pub mod digest;
pub mod disk;
mod error;
pub mod fetch;
mod info;
pub mod installed;
mod layout;
mod partition;
mod pipeline;
mod progress;
pub mod qcow2;
mod reader;
mod seal;
pub mod source;
pub mod sums;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod unpack;
mod verify;
mod write;

pub use budget::BudgetError;
pub use configdrive::ConfigDrive;
pub use digest::Digest;
pub use disk::Disk;
pub use error::{Cause, WriteError};
pub use fetch::Patience;
pub use info::{Info, SMALLEST_DISK, info};
pub use layout::{Label, LayoutError, Role, Slot};
pub use partition::{BOOT_SIZE, BootLoader, Formatter, PartitionError, Partitioned, Partitioning};
pub use progress::{Progress, Stage};
pub use qcow2::Qcow2Error;
pub use table::{ImageError, PartitionInfo};
pub use target::{DiskState, Verify};
pub use verify::{VerifyError, verify};
pub use write::{BUDGET, Format, Plan, Written, write};
