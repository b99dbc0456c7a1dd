//! Exit codes: what a script can tell apart.

use disk_image::fetch::FetchError;
use disk_image::{Cause, VerifyError, WriteError};

/// How the program ends. The numbers stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// A fault of this program, or standard output cannot be written.
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
    /// A signal ended it, or the person who was asked said no.
    Cancelled = 7,
    /// The service cannot be reached, or its answer cannot be used.
    Service = 8,
    /// The service does not know who asks, or does not allow it.
    Denied = 9,
    /// There is no such node, or no such thing of a node.
    Missing = 10,
    /// The service refuses: the state of the node, a lock, a name that is taken.
    Refused = 11,
    /// What was watched ended otherwise than was asked for.
    Failed = 12,
    /// What was watched did not end in time.
    Late = 13,
    /// The service does not have this: an Ironic, or an older release.
    Lacking = 14,
}

impl Exit {
    /// What `--help` says.
    pub(crate) const HELP: &str = "\
Exit codes:
  0   done
  1   a fault of this program, or its result cannot be written
  2   wrong usage, or --yes is missing where nobody can be asked
  3   image: it or its digest cannot be had: server, network, no such file
  4   image: it is not what it has to be: digest, format, damage, size
  5   image: the target cannot be opened, written or read
  6   verify: what is there is not what it should be
  7   stopped by a signal, or by a no to the question
  8   the service cannot be reached, or its answer cannot be used
  9   the service does not know who asks, or does not allow it
  10  no such node, or no such thing of a node
  11  refused by the service: state, lock, a name that is taken
  12  the node ended otherwise than was asked for (with --watch)
  13  not ended within --timeout
  14  the service does not have this: an Ironic, or an older release

Of several nodes, the highest code counts; of what a signal stopped, 7.";

    /// All of them, for tests.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 14] = [
        Self::Fault,
        Self::Usage,
        Self::Source,
        Self::Image,
        Self::Target,
        Self::Differs,
        Self::Cancelled,
        Self::Service,
        Self::Denied,
        Self::Missing,
        Self::Refused,
        Self::Failed,
        Self::Late,
        Self::Lacking,
    ];

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
            Self::Service => "service",
            Self::Denied => "denied",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Lacking => "lacking",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code_and_no_other() {
        let named: Vec<u8> =
            Exit::HELP.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        let codes: Vec<u8> = std::iter::once(0).chain(Exit::ALL.map(|exit| exit as u8)).collect();
        assert_eq!(named, codes);
    }
}
