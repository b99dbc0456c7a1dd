//! The life of an agent command: it is accepted as RUNNING and ends once, for good.
//!
//! The names are those of the agent's REST results (`command_status`). An agent of Ironic says
//! CLEAN_VERSION_MISMATCH for clean, deploy and service steps alike; its driver also understands the spelling
//! VERSION_MISMATCH, so [`Status::from_wire`] does too.

use crate::names::named;

named! {
    /// Where a command is in its life, by its name on the wire.
    "command status", UnknownStatus,
    pub enum Status {
        /// Accepted and not finished; at most one command of an agent is here.
        Running = "RUNNING",
        /// Finished with a result.
        Succeeded = "SUCCEEDED",
        /// Finished with an error.
        Failed = "FAILED",
        /// Refused by the step protocol: the hardware managers changed since the steps were listed.
        VersionMismatch = "CLEAN_VERSION_MISMATCH",
    }
}

named! {
    /// What can happen to a command.
    "command event", UnknownEvent,
    pub enum Event {
        /// The work ended with a result.
        Succeed = "succeed",
        /// The work ended with an error, was cancelled, or panicked.
        Fail = "fail",
        /// The version check of a step refused it.
        Mismatch = "mismatch",
    }
}

/// One allowed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Before.
    pub status: Status,
    /// What happened.
    pub event: Event,
    /// After.
    pub next: Status,
}

/// All allowed changes; what is not here is refused.
pub const TABLE: &[Row] = &[
    Row { status: Status::Running, event: Event::Succeed, next: Status::Succeeded },
    Row { status: Status::Running, event: Event::Fail, next: Status::Failed },
    Row { status: Status::Running, event: Event::Mismatch, next: Status::VersionMismatch },
];

/// The change is not in [`TABLE`]: a command ends once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command that is {status} cannot {event}: a result is final")]
pub struct Refused {
    /// The status it has and keeps.
    pub status: Status,
    /// What was asked.
    pub event: Event,
}

/// Looks the change up.
///
/// # Errors
/// [`Refused`] when the command has already ended.
pub fn step(status: Status, event: Event) -> Result<&'static Row, Refused> {
    TABLE.iter().find(|row| row.status == status && row.event == event).ok_or(Refused { status, event })
}

impl Status {
    /// Whether the command has ended; an ended command never changes.
    pub const fn is_final(self) -> bool {
        match self {
            Status::Running => false,
            Status::Succeeded | Status::Failed | Status::VersionMismatch => true,
        }
    }

    /// Reads a status that a peer sent, with the second spelling of the mismatch.
    ///
    /// # Errors
    /// [`UnknownStatus`] for any other text; a newer peer may have more, so treat it as "not finished, not ours".
    pub fn from_wire(text: &str) -> Result<Status, UnknownStatus> {
        match text {
            "VERSION_MISMATCH" => Ok(Status::VersionMismatch),
            _ => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    #[test]
    fn the_matrix_is_what_the_protocol_says() {
        let mut text = String::new();
        for &status in Status::ALL {
            for &event in Event::ALL {
                let cell = step(status, event).map_or("refused", |row| row.next.as_str());
                writeln!(text, "{status} + {event} = {cell}").unwrap();
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn both_spellings_of_a_version_mismatch_are_read_and_one_is_written() {
        for text in ["CLEAN_VERSION_MISMATCH", "VERSION_MISMATCH"] {
            assert_eq!(Status::from_wire(text), Ok(Status::VersionMismatch));
        }
        assert_eq!(serde_json::to_string(&Status::VersionMismatch).unwrap(), "\"CLEAN_VERSION_MISMATCH\"");
        assert!(Status::from_wire("PAUSED").is_err());
    }

    proptest! {
        #[test]
        fn a_command_ends_at_most_once(events in proptest::collection::vec(0..Event::ALL.len(), 0..20)) {
            let mut status = Status::Running;
            let mut changes = 0;
            for event in events {
                let was_final = status.is_final();
                if let Ok(row) = step(status, Event::ALL[event]) {
                    prop_assert!(!was_final);
                    status = row.next;
                    changes += 1;
                }
            }
            prop_assert!(changes <= 1);
            prop_assert_eq!(status.is_final(), changes == 1);
        }
    }
}
