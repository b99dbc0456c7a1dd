//! qcow2 (QEMU's `docs/interop/qcow2.txt`), version 2 and 3, written to a disk in one pass.
//!
//! 1. [`load`] reads header, L1 and L2 tables by byte ranges, and the image's first MiB. From them comes a [`Map`]: for
//!    each place in the file the place on the disk, in the order of the file. It is refused if it does not fit the
//!    memory budget, points outside the file, twice at one place, or needs what a disk image must not need (another
//!    file, a password). Nothing has been written yet.
//! 2. [`Placer`] then takes the file as it streams past, once and in order, and sends each data cluster to its place.
//!    Where a table passes, it must be the table that was read first: the map is what was hashed, or the write fails.
//! 3. What no cluster covers is zero, and is made zero by the stage that writes.

mod cluster;
mod header;
mod map;
mod place;

pub(crate) use map::{Map, load};
pub(crate) use place::{Placer, Stop};

use std::io;

/// Why a qcow2 image is not written.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// A field of the header that rules the image out.
    #[error("qcow2 header field {field} is {value}: {problem}")]
    Field {
        /// Its name in the specification.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What is wrong with that, and what would help.
        problem: String,
    },
    /// The file ends within the header.
    #[error("the qcow2 image ends within its header, after {0} bytes")]
    NoHeader(u64),
    /// An entry of a table that cannot be meant.
    #[error("qcow2 {table} entry {index} is {value:#018x}: {problem}")]
    Entry {
        /// `L1` or `L2`.
        table: &'static str,
        /// Index; in an L2 table, the number of the cluster of the disk.
        index: u64,
        /// The entry.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two tables or clusters lie on each other.
    #[error("qcow2 {one} and {other} of the image overlap at byte {at} of the file; repair it (qemu-img convert)")]
    Overlap {
        /// What lies there.
        one: &'static str,
        /// What lies there, too.
        other: &'static str,
        /// Byte of the file.
        at: u64,
    },
    /// The map does not fit the memory budget.
    #[error(
        "the map of the qcow2 image needs {need} bytes of memory, the budget leaves {left}; raise the budget by at \
         least {} bytes, convert the image with larger clusters, or serve it raw.zst", .need - .left
    )]
    Budget {
        /// What it needs.
        need: u64,
        /// What may be used.
        left: u64,
    },
    /// The file is shorter than its tables say.
    #[error("the qcow2 image has {bytes} bytes, its tables point to byte {needed}: it is truncated")]
    Truncated {
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that it needs.
        needed: u64,
    },
    /// A compressed cluster is broken.
    #[error("the compressed qcow2 cluster at byte {at} of the file is corrupt")]
    Cluster {
        /// Byte of the file where it starts.
        at: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The tables that were read first are not those that came with the data.
    #[error(
        "the qcow2 {what} at byte {at} differs from what was read first: the image changed while it was read, or its \
         server gives two"
    )]
    Differs {
        /// Which part.
        what: &'static str,
        /// Byte of the file.
        at: u64,
    },
}

impl Qcow2Error {
    pub(crate) fn field(field: &'static str, value: impl Into<u64>, problem: impl Into<String>) -> Self {
        Self::Field { field, value: value.into(), problem: problem.into() }
    }

    /// Whether another source of the same image may do better.
    pub(crate) fn blames_source(&self) -> bool {
        match self {
            Self::Truncated { .. } | Self::Cluster { .. } | Self::Differs { .. } | Self::NoHeader(_) => true,
            Self::Field { .. } | Self::Entry { .. } | Self::Overlap { .. } | Self::Budget { .. } => false,
        }
    }
}
