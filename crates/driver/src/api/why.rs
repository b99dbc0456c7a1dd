//! `GET /v1/nodes/<node>/why`: why a node is where it is. An addition of ours; Ironic has no such document.

use super::request::Call;
use super::{Api, reply};
use crate::conductor::{Running, Why};
use crate::fault::Fault;
use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Store;

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/why`
    pub(super) async fn show_why(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let why = self.conductor.why(&call.node()?).await?;
        Ok(reply::json(StatusCode::OK, &document(&why, self.conductor.now())))
    }
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

fn age(since: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(since).as_secs().max(0)
}

fn document(why: &Why, now: Timestamp) -> Value {
    let node = &why.node;
    let work = why.work.as_ref().map(|work| {
        json!({
            "flow": work.flow,
            "since": time(work.since),
            "seconds": age(work.since, now),
            "action": work.action,
            "action_since": work.action_since.map(time),
            "action_seconds": work.action_since.map(|since| age(since, now)),
            "number": work.number,
            "of": work.of,
            "attempt": work.attempt,
            "trouble": work.trouble,
            "waits_for": work.waits_for,
        })
    });
    let lock = why.hold.as_ref().map(|hold| {
        json!({
            "holder": hold.holder,
            "reason": hold.reason,
            "since": time(hold.since),
            "seconds": age(hold.since, now),
        })
    });
    let deadline = why.deadline.as_ref().map(|until| {
        json!({
            "at": time(until.at),
            "seconds_left": until.left.as_secs(),
            "limit": until.limit.as_secs(),
            "setting": until.setting,
            "then": until.then,
        })
    });
    let agent = why.agent.as_ref().map(|agent| {
        json!({
            "url": agent.url,
            "last_heartbeat": agent.last.map(time),
            "seconds": agent.last.map(|last| age(last, now)),
        })
    });
    let possible: Vec<Value> =
        why.possible.iter().map(|possible| json!({"verb": possible.verb, "what": possible.what})).collect();
    json!({
        "uuid": node.uuid,
        "name": node.name,
        "summary": why.summary,
        "provision_state": node.provision_state,
        "target_provision_state": node.target_provision_state,
        "power_state": node.power_state,
        "target_power_state": node.target_power_state,
        "maintenance": node.maintenance,
        "maintenance_reason": node.maintenance_reason,
        "fault": node.fault,
        "last_error": node.last_error,
        "work": work,
        "lock": lock,
        "deadline": deadline,
        "agent": agent,
        "progress": why.progress.as_ref().map(Running::document),
        "state": why.lasting.document("state"),
        "possible": possible,
    })
}
