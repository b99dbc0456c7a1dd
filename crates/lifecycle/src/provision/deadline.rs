//! Deadlines: no node works or waits for ever.
//!
//! The settings of waiting states have Ironic's names and defaults; those of working and held states are ours (Ironic
//! has none there). The clock is the caller's: it says how long the node has waited and is told how much is left.

use super::state::{Event, Kind, State};
use std::collections::BTreeMap;
use std::time::Duration;

/// The limit of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Name of the setting, in the section `deadlines`.
    pub setting: &'static str,
    /// Seconds when the setting is not given; 0 would mean no limit.
    pub default_seconds: u64,
    /// What happens to the node when it has passed.
    pub event: Event,
    /// Whether the setting is ours; the others are Ironic's.
    pub ours: bool,
}

const fn ironic(setting: &'static str) -> Option<Deadline> {
    Some(Deadline { setting, default_seconds: 1800, event: Event::Fail, ours: false })
}

const fn working(setting: &'static str, default_seconds: u64) -> Option<Deadline> {
    Some(Deadline { setting, default_seconds, event: Event::Fail, ours: true })
}

const fn held(setting: &'static str) -> Option<Deadline> {
    // A hold waits for a person: a week covers a weekend and a holiday. `abort`, because holds cannot `fail` in Ironic.
    Some(Deadline { setting, default_seconds: 7 * 24 * 3600, event: Event::Abort, ours: true })
}

impl State {
    /// The limit of this state: its setting, its default and the event that ends it.
    /// `None` in stable and failed states, which wait for an operator on purpose.
    pub const fn deadline_setting(self) -> Option<Deadline> {
        match self {
            State::DeployWait => ironic("deploy_callback_timeout"),
            State::CleanWait => ironic("clean_callback_timeout"),
            State::ServiceWait => ironic("service_callback_timeout"),
            State::RescueWait => ironic("rescue_callback_timeout"),
            State::InspectWait => ironic("inspect_wait_timeout"),
            State::Verifying => working("verifying_timeout", 600),
            State::Inspecting => working("inspecting_timeout", 1800),
            State::Cleaning => working("cleaning_timeout", 3600),
            State::Deploying => working("deploying_timeout", 3600),
            State::Deleting => working("deleting_timeout", 3600),
            State::Adopting => working("adopting_timeout", 1800),
            State::Rescuing => working("rescuing_timeout", 3600),
            State::Unrescuing => working("unrescuing_timeout", 3600),
            State::Servicing => working("servicing_timeout", 3600),
            State::CleanHold => held("clean_hold_timeout"),
            State::DeployHold => held("deploy_hold_timeout"),
            State::ServiceHold => held("service_hold_timeout"),
            State::Enroll
            | State::Manageable
            | State::Available
            | State::InspectFailed
            | State::CleanFailed
            | State::DeployFailed
            | State::Active
            | State::Error
            | State::AdoptFailed
            | State::Rescue
            | State::RescueFailed
            | State::UnrescueFailed
            | State::ServiceFailed => None,
        }
    }
}

/// A setting that no state asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not a deadline setting; known are: {known}", known = Deadlines::names().join(", "))]
pub struct UnknownDeadline {
    /// What was given, shortened to a length that fits a message.
    pub given: String,
}

/// The limits in force: the defaults and what the operator has set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deadlines {
    set: BTreeMap<&'static str, u64>,
}

impl Deadlines {
    /// All names of settings, in the order of the states.
    pub fn names() -> Vec<&'static str> {
        State::ALL.iter().filter_map(|state| state.deadline_setting()).map(|deadline| deadline.setting).collect()
    }

    /// Sets one limit in seconds; 0 turns it off, as in Ironic.
    ///
    /// # Errors
    /// [`UnknownDeadline`] when no state has such a setting.
    pub fn set(&mut self, setting: &str, seconds: u64) -> Result<(), UnknownDeadline> {
        let name = Self::names()
            .into_iter()
            .find(|name| *name == setting)
            .ok_or_else(|| UnknownDeadline { given: setting.chars().take(64).collect() })?;
        self.set.insert(name, seconds);
        Ok(())
    }

    /// The limit of a state; `None` where there is none or it is turned off.
    pub fn limit(&self, state: State) -> Option<Duration> {
        let deadline = state.deadline_setting()?;
        let seconds = self.set.get(deadline.setting).copied().unwrap_or(deadline.default_seconds);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// How much is left to a node that has been in `state`, or was last heard of, for `waited`.
    /// Zero means that the deadline has passed; `None` that there is none.
    pub fn left(&self, state: State, waited: Duration) -> Option<Duration> {
        self.limit(state).map(|limit| limit.saturating_sub(waited))
    }

    /// The event to apply now, if the deadline of the state has passed.
    pub fn overdue(&self, state: State, waited: Duration) -> Option<Event> {
        let deadline = state.deadline_setting()?;
        self.left(state, waited)?.is_zero().then_some(deadline.event)
    }
}

impl Kind {
    /// Whether states of this kind must have a deadline.
    pub const fn needs_deadline(self) -> bool {
        match self {
            Kind::Working | Kind::Waiting | Kind::Held => true,
            Kind::Stable | Kind::Failed => false,
        }
    }
}
