//! Provision states of a node: Ironic's machine cell by cell, plus rows of our own that are marked so.
//!
//! * [`TABLE`] is the only place that says what may follow what; [`step`] looks it up.
//! * [`Verb`] is what an operator puts into `states/provision`; [`Verb::event`] says which [`Event`] it is.
//! * [`Deadlines`] gives every state in which the driver works or waits a limit and the event that ends it.
//! * [`State::allows_patch`] and its neighbours are the gates that other requests ask.
//!
//! `testdata/ironic-states.json` is recorded from Ironic 39.0.0 by `ci/record/states.py`.

mod deadline;
mod diagram;
mod gate;
mod state;
mod table;

pub use deadline::{Deadline, Deadlines, UnknownDeadline};
pub use diagram::{mermaid, page};
pub use gate::HeartbeatEffect;
pub use state::{Event, Kind, State, UnknownEvent, UnknownState, UnknownVerb, Verb};
pub use table::{Refused, Row, TABLE, allowed_verbs, step, target_after};
