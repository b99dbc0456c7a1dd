//! What a flow waits for: the first heartbeat of an agent, an inventory, an operator, a number of seconds.
//!
//! Nobody sleeps for a wait: it is saved, and whoever ends it rings. A wait for seconds ends by the clock, counted from
//! the saved moment at which it began, so that a conductor that starts anew does not begin it anew.

use super::Conductor;
use super::change::Draft;
use super::runner::{Place, Turn};
use crate::fault::Fault;
use crate::flow::{Action, Intent};
use jiff::Timestamp;
use lifecycle::provision::{Event, Kind};
use serde_json::Value;
use std::time::Duration;
use store::{Node, Store};

/// How a wait is.
enum Wait {
    /// It is over.
    Over,
    /// Somebody will ring.
    Bell,
    /// It is over after this.
    Left(Duration),
}

impl<S: Store> Conductor<S> {
    /// Looks whether a wait is over; the node is in its waiting state as long as it is not.
    pub(super) async fn wait(&self, node: &Node, place: Place, action: &Action) -> Result<Turn, Fault> {
        let (node, _, wait) = self.change(node.uuid, |draft| look(draft, place, action)).await?;
        Ok(match (wait, self.left(&node)) {
            (Wait::Over, _) => Turn::Again,
            (Wait::Bell, left) => Turn::Wait(left),
            (Wait::Left(pause), left) => Turn::Wait(Some(left.map_or(pause, |left| left.min(pause)))),
        })
    }
}

fn look(draft: &mut Draft, place: Place, action: &Action) -> Result<Wait, Fault> {
    if !place.is_in(draft) {
        return Ok(Wait::Over);
    }
    let now = draft.now;
    let Some(flow) = draft.flow.as_mut() else { return Ok(Wait::Over) };
    let kind = flow.kind;
    let begun = flow.intent.is_some();
    let intent = flow.intent.get_or_insert_with(|| Intent {
        attempt: 1,
        digest: String::new(),
        id: None,
        command: None,
        since: now,
        trouble: None,
    });
    let since = intent.since;
    let wait = match action {
        Action::WaitForAgent if draft.node.driver_internal_info.contains_key("agent_url") => Wait::Over,
        Action::Pause { seconds: Some(seconds), .. } => {
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            match Duration::from_secs(*seconds).saturating_sub(passed) {
                Duration::ZERO => Wait::Over,
                left => Wait::Left(left),
            }
        }
        Action::Pause { seconds: None, .. } if has_called(&draft.node, since) => Wait::Over,
        _ => Wait::Bell,
    };
    if matches!(wait, Wait::Over) {
        flow.advance(&[]);
        draft.enter(kind, true)?;
        return Ok(wait);
    }
    if !begun {
        draft.show_step(action);
    }
    match action {
        Action::Hold { .. } if draft.node.provision_state.kind() != Kind::Held => draft.transition(Event::Hold)?,
        Action::Hold { .. } => {}
        _ => draft.enter(kind, false)?,
    }
    Ok(wait)
}

/// Whether a heartbeat came after `since`.
fn has_called(node: &Node, since: Timestamp) -> bool {
    last_heartbeat(node).is_some_and(|last| last > since)
}

/// When the agent was heard of last.
pub(super) fn last_heartbeat(node: &Node) -> Option<Timestamp> {
    let text = node.driver_internal_info.get("agent_last_heartbeat").and_then(Value::as_str)?;
    format!("{text}Z").parse().ok()
}
