//! The transition table and its look-up.

use super::state::{Event, Kind, State, Verb};
use crate::names::list;

/// One allowed transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The state before.
    pub state: State,
    /// What happened.
    pub event: Event,
    /// The state after.
    pub next: State,
    /// Whether this row is our addition; all others are Ironic's.
    pub ours: bool,
}

const fn row(state: State, event: Event, next: State) -> Row {
    Row { state, event, next, ours: false }
}

const fn ours(state: State, event: Event, next: State) -> Row {
    Row { state, event, next, ours: true }
}

/// All allowed transitions; what is not here is refused.
///
/// Ours is one column: `break out` of each state in which only the driver itself works. Ironic leaves such a node
/// alone until its conductor is restarted; an operator of ours may end it where it would end if it failed.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(State::Enroll,         Event::Manage,   State::Verifying),

    row(State::Verifying,      Event::Done,     State::Manageable),
    row(State::Verifying,      Event::Fail,     State::Enroll),
    ours(State::Verifying,     Event::BreakOut, State::Enroll),

    row(State::Manageable,     Event::Provide,  State::Cleaning),
    row(State::Manageable,     Event::Clean,    State::Cleaning),
    row(State::Manageable,     Event::Inspect,  State::Inspecting),
    row(State::Manageable,     Event::Adopt,    State::Adopting),

    row(State::Available,      Event::Deploy,   State::Deploying),
    row(State::Available,      Event::Manage,   State::Manageable),

    row(State::Inspecting,     Event::Done,     State::Manageable),
    row(State::Inspecting,     Event::Fail,     State::InspectFailed),
    row(State::Inspecting,     Event::Wait,     State::InspectWait),
    ours(State::Inspecting,    Event::BreakOut, State::InspectFailed),
    row(State::InspectWait,    Event::Done,     State::Manageable),
    row(State::InspectWait,    Event::Resume,   State::Inspecting),
    row(State::InspectWait,    Event::Fail,     State::InspectFailed),
    row(State::InspectWait,    Event::Abort,    State::InspectFailed),
    row(State::InspectFailed,  Event::Manage,   State::Manageable),
    row(State::InspectFailed,  Event::Inspect,  State::Inspecting),

    row(State::Cleaning,       Event::Done,     State::Available),
    row(State::Cleaning,       Event::Manage,   State::Manageable),
    row(State::Cleaning,       Event::Wait,     State::CleanWait),
    row(State::Cleaning,       Event::Hold,     State::CleanHold),
    row(State::Cleaning,       Event::Fail,     State::CleanFailed),
    ours(State::Cleaning,      Event::BreakOut, State::CleanFailed),
    row(State::CleanWait,      Event::Resume,   State::Cleaning),
    row(State::CleanWait,      Event::Hold,     State::CleanHold),
    row(State::CleanWait,      Event::Fail,     State::CleanFailed),
    row(State::CleanWait,      Event::Abort,    State::CleanFailed),
    row(State::CleanHold,      Event::Unhold,   State::CleanWait),
    row(State::CleanHold,      Event::Abort,    State::CleanFailed),
    row(State::CleanFailed,    Event::Manage,   State::Manageable),

    row(State::Deploying,      Event::Done,     State::Active),
    row(State::Deploying,      Event::Wait,     State::DeployWait),
    row(State::Deploying,      Event::Hold,     State::DeployHold),
    row(State::Deploying,      Event::Fail,     State::DeployFailed),
    ours(State::Deploying,     Event::BreakOut, State::DeployFailed),
    row(State::DeployWait,     Event::Resume,   State::Deploying),
    row(State::DeployWait,     Event::Hold,     State::DeployHold),
    row(State::DeployWait,     Event::Fail,     State::DeployFailed),
    row(State::DeployWait,     Event::Abort,    State::DeployFailed),
    row(State::DeployWait,     Event::Delete,   State::Deleting),
    row(State::DeployHold,     Event::Unhold,   State::DeployWait),
    row(State::DeployHold,     Event::Abort,    State::DeployFailed),
    row(State::DeployFailed,   Event::Deploy,   State::Deploying),
    row(State::DeployFailed,   Event::Rebuild,  State::Deploying),
    row(State::DeployFailed,   Event::Delete,   State::Deleting),

    row(State::Active,         Event::Rebuild,  State::Deploying),
    row(State::Active,         Event::Delete,   State::Deleting),
    row(State::Active,         Event::Rescue,   State::Rescuing),
    row(State::Active,         Event::Service,  State::Servicing),

    row(State::Deleting,       Event::Clean,    State::Cleaning),
    row(State::Deleting,       Event::Fail,     State::Error),
    ours(State::Deleting,      Event::BreakOut, State::Error),
    row(State::Error,          Event::Rebuild,  State::Deploying),
    row(State::Error,          Event::Delete,   State::Deleting),

    row(State::Adopting,       Event::Done,     State::Active),
    row(State::Adopting,       Event::Fail,     State::AdoptFailed),
    ours(State::Adopting,      Event::BreakOut, State::AdoptFailed),
    row(State::AdoptFailed,    Event::Adopt,    State::Adopting),
    row(State::AdoptFailed,    Event::Manage,   State::Manageable),

    row(State::Rescuing,       Event::Done,     State::Rescue),
    row(State::Rescuing,       Event::Wait,     State::RescueWait),
    row(State::Rescuing,       Event::Fail,     State::RescueFailed),
    ours(State::Rescuing,      Event::BreakOut, State::RescueFailed),
    row(State::RescueWait,     Event::Resume,   State::Rescuing),
    row(State::RescueWait,     Event::Fail,     State::RescueFailed),
    row(State::RescueWait,     Event::Abort,    State::RescueFailed),
    row(State::RescueWait,     Event::Delete,   State::Deleting),
    row(State::Rescue,         Event::Rescue,   State::Rescuing),
    row(State::Rescue,         Event::Unrescue, State::Unrescuing),
    row(State::Rescue,         Event::Delete,   State::Deleting),
    row(State::RescueFailed,   Event::Rescue,   State::Rescuing),
    row(State::RescueFailed,   Event::Unrescue, State::Unrescuing),
    row(State::RescueFailed,   Event::Delete,   State::Deleting),
    row(State::Unrescuing,     Event::Done,     State::Active),
    row(State::Unrescuing,     Event::Fail,     State::UnrescueFailed),
    ours(State::Unrescuing,    Event::BreakOut, State::UnrescueFailed),
    row(State::UnrescueFailed, Event::Rescue,   State::Rescuing),
    row(State::UnrescueFailed, Event::Unrescue, State::Unrescuing),
    row(State::UnrescueFailed, Event::Delete,   State::Deleting),

    row(State::Servicing,      Event::Done,     State::Active),
    row(State::Servicing,      Event::Wait,     State::ServiceWait),
    row(State::Servicing,      Event::Hold,     State::ServiceHold),
    row(State::Servicing,      Event::Fail,     State::ServiceFailed),
    ours(State::Servicing,     Event::BreakOut, State::ServiceFailed),
    row(State::ServiceWait,    Event::Resume,   State::Servicing),
    row(State::ServiceWait,    Event::Hold,     State::ServiceHold),
    row(State::ServiceWait,    Event::Fail,     State::ServiceFailed),
    row(State::ServiceWait,    Event::Abort,    State::ServiceFailed),
    row(State::ServiceWait,    Event::Delete,   State::Deleting),
    row(State::ServiceHold,    Event::Service,  State::Servicing),
    row(State::ServiceHold,    Event::Unhold,   State::ServiceWait),
    row(State::ServiceHold,    Event::Fail,     State::ServiceFailed),
    row(State::ServiceHold,    Event::Abort,    State::ServiceFailed),
    row(State::ServiceFailed,  Event::Service,  State::Servicing),
    row(State::ServiceFailed,  Event::Rescue,   State::Rescuing),
    row(State::ServiceFailed,  Event::Wait,     State::ServiceWait),
    row(State::ServiceFailed,  Event::Hold,     State::ServiceHold),
    row(State::ServiceFailed,  Event::Delete,   State::Deleting),
    row(State::ServiceFailed,  Event::Abort,    State::Active),
];

/// The transition is not in [`TABLE`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{event}\" is not possible in state \"{state}\"; possible verbs are: {verbs}", verbs = verbs_text(*.state))]
pub struct Refused {
    /// The state that the node has and keeps.
    pub state: State,
    /// What was asked.
    pub event: Event,
}

fn verbs_text(state: State) -> String {
    let verbs = allowed_verbs(state);
    if verbs.is_empty() { "none".to_owned() } else { list(&verbs) }
}

/// Looks a transition up.
///
/// # Errors
/// [`Refused`] when the event cannot happen in this state; the node stays as it is.
pub fn step(state: State, event: Event) -> Result<&'static Row, Refused> {
    TABLE.iter().find(|row| row.state == state && row.event == event).ok_or(Refused { state, event })
}

/// The verbs that an operator may use now; for the error that lists them and for clients that want to know.
///
/// While the driver works ([`Kind::Working`]) it holds the node, so Ironic's verbs never get there, although the table
/// has events of the same name for the flow's own use (`manage` ends manual cleaning, `clean` follows the deletion).
pub fn allowed_verbs(state: State) -> Vec<Verb> {
    let working = state.kind() == Kind::Working;
    Verb::ALL.iter().copied().filter(|verb| (!working || verb.is_ours()) && step(state, verb.event()).is_ok()).collect()
}

/// `target_provision_state` after a transition: nothing in a stable state, else what the request asked for
/// (`explicit`: manual cleaning says `manageable`), else the target of the state that was entered.
pub const fn target_after(row: &Row, explicit: Option<State>) -> Option<State> {
    if row.next.is_stable() {
        return None;
    }
    match explicit {
        Some(state) => Some(state),
        None => row.next.target(),
    }
}
