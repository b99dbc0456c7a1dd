//! Taking a machine under management: its BMC has to answer.

use super::{Action, read_settings};
use lifecycle::provision::Event;
use store::Node;

/// The plan of a verification.
pub fn plan(node: &Node) -> Vec<Action> {
    let mut plan = vec![Action::ReadPower];
    plan.extend(read_settings(node));
    plan.push(Action::Finish { event: Event::Done });
    plan
}
