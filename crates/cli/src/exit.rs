//! Exit codes: what a script can tell apart.

use disk_image::fetch::FetchError;
use disk_image::{Cause, VerifyError, WriteError};

/// How the program ends. The numbers stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// A fault of this program.
    Fault = 1,
    /// What was asked for cannot be meant.
    Usage = 2,
    /// The image or its digest cannot be had: server, network, credentials.
    Source = 3,
    /// The image is not what it has to be, or not for this disk.
    Image = 4,
    /// The disk or file cannot be opened, written or read.
    Target = 5,
    /// The target holds something else than the image.
    Differs = 6,
    /// A signal ended it.
    Cancelled = 7,
}

impl Exit {
    /// What `--help` says.
    pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  a fault of this program
  2  wrong usage, or a target that exists without --yes
  3  the image or its digest cannot be had: server, network, credentials, no such file
  4  the image is not what it has to be: digest, format, damage, size, sector size
  5  the target cannot be opened, written or read
  6  verify: the target holds something else
  7  cancelled by a signal

The message says in which state a target is that was written to.";

    /// A word for programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Usage => "usage",
            Self::Source => "source",
            Self::Image => "image",
            Self::Target => "target",
            Self::Differs => "differs",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<&Cause> for Exit {
    fn from(cause: &Cause) -> Self {
        match cause {
            Cause::Fetch(FetchError::Cancelled | FetchError::Stopped) | Cause::Cancelled => Self::Cancelled,
            Cause::Fetch(
                FetchError::Source { .. }
                | FetchError::GaveUp { .. }
                | FetchError::TooLong(_)
                | FetchError::TooMany { .. },
            )
            | Cause::NoSource => Self::Source,
            Cause::Budget(_) => Self::Usage,
            Cause::Decompress(_)
            | Cause::Image(_)
            | Cause::Partition(_)
            | Cause::Qcow2(_)
            | Cause::ConfigDrive(_)
            | Cause::Digest { .. } => Self::Image,
            Cause::Disk(_) | Cause::ReadBack { .. } => Self::Target,
            Cause::Stage(_) => Self::Fault,
        }
    }
}

impl From<&WriteError> for Exit {
    fn from(error: &WriteError) -> Self {
        Self::from(&error.cause)
    }
}

impl From<&VerifyError> for Exit {
    fn from(error: &VerifyError) -> Self {
        match error {
            VerifyError::Open(_) | VerifyError::Read { .. } => Self::Target,
            VerifyError::Differs { .. } => Self::Differs,
            VerifyError::Image { cause, .. } => Self::from(&**cause),
        }
    }
}
