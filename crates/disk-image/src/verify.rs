//! Whether a disk holds an image: the pipeline of a write, on a disk that compares instead of writing.

use crate::disk::OpenError;
use crate::disk::compare::CompareDisk;
use crate::error::{Cause, WriteError};
use crate::progress::Progress;
use crate::write::{Plan, Written, write};
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use tokio_util::sync::CancellationToken;

/// Why a disk was not found to hold an image.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The disk cannot be looked at.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It holds something else.
    #[error("{disk} differs from the image at byte {offset}")]
    Differs {
        /// Its name.
        disk: String,
        /// Byte of the disk.
        offset: u64,
    },
    /// The image is not what it should be, or cannot be had.
    #[error("{disk} could not be compared with the image")]
    Image {
        /// Name of the disk.
        disk: String,
        /// Why not.
        #[source]
        cause: Box<Cause>,
    },
    /// The disk cannot be read.
    #[error("read {disk}")]
    Read {
        /// Its name.
        disk: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Compares a disk or file with what [`write`] would put there, every byte, and checks the plan's digest. Nothing is
/// written; a config drive is not compared.
pub async fn verify(
    plan: Plan,
    path: &Path,
    progress: impl FnMut(Progress),
    cancel: CancellationToken,
) -> Result<Written, VerifyError> {
    let disk = CompareDisk::open(path)?;
    let (name, findings) = (path.display().to_string(), disk.findings());
    let plan = Plan { config_drive: None, ..plan };
    let result = write(plan, Box::new(disk), progress, cancel).await;
    let findings = findings.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Err(WriteError { cause, .. }) => Err(match findings.differs() {
            Some(offset) => VerifyError::Differs { disk: name, offset },
            None => VerifyError::Image { disk: name, cause: Box::new(cause) },
        }),
        Ok(written) => match findings.compare_ends() {
            Ok(None) => Ok(written),
            Ok(Some(offset)) => Err(VerifyError::Differs { disk: name, offset }),
            Err(source) => Err(VerifyError::Read { disk: name, source }),
        },
    }
}
