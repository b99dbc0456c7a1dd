//! Why a write failed, and what that leaves on the disk.

use crate::budget::BudgetError;
use crate::configdrive::ConfigDriveError;
use crate::decompress::DecompressError;
use crate::digest::Digest;
use crate::disk::DiskError;
use crate::fetch::FetchError;
use crate::partition::PartitionError;
use crate::qcow2::Qcow2Error;
use crate::reader::ReadError;
use crate::table::ImageError;
use crate::target::DiskState;

/// A write that failed. Unless [`WriteError::state`] says otherwise, the disk has no partition table now.
#[derive(Debug, thiserror::Error)]
#[error("the image is not on {disk}: {state}")]
pub struct WriteError {
    /// Name of the disk.
    pub disk: String,
    /// What is on it now.
    pub state: DiskState,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The plan names no source.
    #[error("the plan names no source for the image")]
    NoSource,
    /// The memory budget is too small.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The bytes could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// They cannot be unpacked.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The image does not suit the disk.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It is a qcow2 that is not written.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// It is a partition image that is not written, or what is around it cannot be made.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The config drive broke while it was unpacked.
    #[error(transparent)]
    ConfigDrive(#[from] ConfigDriveError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The transported bytes are not those that were promised.
    #[error("the digest of the {bytes} bytes from {source_name} is {got}, expected was {want}{}", hint(.coding))]
    Digest {
        /// Where they came from.
        source_name: String,
        /// How many there were.
        bytes: u64,
        /// What they give.
        got: Digest,
        /// What the plan says.
        want: Digest,
        /// How the server says that it packed them on the way, unasked.
        coding: Option<Box<str>>,
    },
    /// The disk does not return what was written to it.
    #[error("{disk} does not return what was written at byte {offset}: it is faulty")]
    ReadBack {
        /// Its name.
        disk: String,
        /// Where the difference is, or where its block starts.
        offset: u64,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A stage ended without a reason: a fault of this program.
    #[error("the {0} stage ended without a result")]
    Stage(&'static str),
}

fn hint(coding: &Option<Box<str>>) -> String {
    let why =
        |coding| format!("; its server packed them on the way, unasked (Content-Encoding: {coding}): switch that off");
    coding.as_ref().map_or_else(String::new, why)
}

impl From<ReadError> for Cause {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Fetch(error) => Self::Fetch(error),
            ReadError::Decompress(error) => Self::Decompress(error),
        }
    }
}

impl Cause {
    /// Whether another source of the same image may do better.
    pub(crate) fn blames_source(&self) -> bool {
        match self {
            Self::Fetch(error) => match error {
                FetchError::Source { .. } | FetchError::GaveUp { .. } | FetchError::TooMany { .. } => true,
                FetchError::TooLong(_) | FetchError::Cancelled | FetchError::Stopped => false,
            },
            Self::Digest { .. } | Self::Decompress(_) => true,
            Self::Qcow2(error) => error.blames_source(),
            Self::NoSource
            | Self::Budget(_)
            | Self::Image(_)
            | Self::Partition(_)
            | Self::ConfigDrive(_)
            | Self::Disk(_)
            | Self::ReadBack { .. }
            | Self::Cancelled
            | Self::Stage(_) => false,
        }
    }
}
