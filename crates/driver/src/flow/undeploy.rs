//! Taking an instance off a machine; cleaning follows.

use super::{Action, remove_media};
use store::Node;

/// The plan of taking an instance off.
pub fn plan(node: &Node) -> Vec<Action> {
    let mut plan = vec![Action::PowerOff];
    plan.extend(remove_media(node));
    plan.extend([Action::ClearInstance, Action::StartCleaning]);
    plan
}
