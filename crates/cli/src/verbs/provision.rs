//! Requests for another provision state: checked, consented to, sent, and watched where that is wanted.

use super::{AT_ONCE, NodesArg, Session, way};
use crate::api::{ApiError, Node, path};
use crate::consent::{ConsentArgs, Go};
use crate::destroy::Does;
use crate::error::Error;
use crate::output;
use crate::watch::{self, Goal, Outcome, WatchArgs};
use futures::{StreamExt as _, stream};
use http::Method;
use lifecycle::provision::{Kind, Verb};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A request for each of some nodes.
pub(crate) struct Request {
    pub(crate) verb: Verb,
    /// Other keys of the body.
    pub(crate) more: Value,
    /// Changes of the node before: a JSON patch.
    pub(crate) patch: Vec<Value>,
    /// Keys of its `instance_info` that are taken away before that.
    pub(crate) forget: &'static [&'static str],
    pub(crate) goal: Goal,
    /// What is lost by it, if anything is.
    pub(crate) does: Option<Does>,
}

impl Request {
    /// A request that needs nothing but its verb.
    pub(crate) fn plain(verb: Verb) -> Self {
        let (goal, does) = match verb {
            Verb::Manage | Verb::Inspect => (Goal::States(&["manageable"]), None),
            // A retired machine goes no further than this.
            Verb::Provide => (Goal::States(&["available", "manageable"]), Some(Does::CleansUp { instance: false })),
            Verb::Deleted => (Goal::States(&["available", "manageable"]), Some(Does::CleansUp { instance: true })),
            Verb::Adopt | Verb::Unrescue => (Goal::States(&["active"]), None),
            Verb::Abort | Verb::BreakOut => (Goal::Still, Some(Does::GivesUp)),
            _ => (Goal::Rest, None),
        };
        Self { verb, more: json!({}), patch: Vec::new(), forget: &[], goal, does }
    }
}

/// Does it.
pub(crate) async fn run(
    session: &Session,
    named: &NodesArg,
    request: &Request,
    consent: ConsentArgs,
    watch: WatchArgs,
) -> Result<(), Error> {
    let nodes = session.nodes(named).await?;
    if let Some(does) = &request.does {
        if !consent.yes && !consent.dry_run {
            nodes.iter().try_for_each(|node| in_time(node, request.verb))?;
        }
        let asked: Vec<_> = nodes.iter().map(|node| (node, does)).collect();
        if consent.ask(&session.api, session.output, request.verb, &asked).await? == Go::Home {
            return Ok(());
        }
    }
    let begun = begin(session, nodes, request).await;
    finish(session, begun, request.goal, watch).await
}

/// Nobody is asked to agree to what the service would refuse.
pub(super) fn in_time(node: &Node, verb: Verb) -> Result<(), Error> {
    match way::remedy(node.title(), node.state(), verb) {
        None => Ok(()),
        Some(remedy) => {
            let (node, state) = (node.title().to_owned(), node.state().to_owned());
            Err(Error::TooEarly { node, verb: way::word(verb), state, remedy })
        }
    }
}

/// Sends the request for each node.
pub(crate) async fn begin(session: &Session, nodes: Vec<Node>, request: &Request) -> Vec<Outcome> {
    let one = |node: Node| async move {
        let result = send(session, &node, request).await;
        // The state that follows is what people want to see.
        let node = match &result {
            Ok(()) => session.api.node(node.uuid()).await.unwrap_or(node),
            Err(_) => node,
        };
        Outcome { node, seconds: None, result }
    };
    stream::iter(nodes).map(one).buffered(AT_ONCE).collect().await
}

async fn send(session: &Session, node: &Node, request: &Request) -> Result<(), Error> {
    let api = &session.api;
    let at = path(&["v1", "nodes", node.uuid()]);
    let sets = !request.patch.is_empty() || !request.forget.is_empty();
    // A service takes settings in states in which it refuses the verb, and keeps them: a person may have thought for a
    // while since the node was read.
    let fresh = if sets { Some(api.node(node.uuid()).await?) } else { None };
    let node = fresh.as_ref().unwrap_or(node);
    let explained = |error: ApiError| match Error::of(node.title(), error) {
        Error::Node { node: name, source, remedy } => {
            let way = match *source {
                ApiError::Refused { status: 400 | 409, .. } => way::remedy(node.title(), node.state(), request.verb),
                _ => None,
            };
            Error::Node { node: name, source, remedy: way.or(remedy) }
        }
        other => other,
    };
    let info = node.object("instance_info");
    let gone = request.forget.iter().filter(|key| info.contains_key(**key));
    let gone = gone.map(|key| json!({"op": "remove", "path": format!("/instance_info/{key}")}));
    let patch: Vec<Value> = gone.chain(request.patch.iter().cloned()).collect();
    if !patch.is_empty() {
        in_time(node, request.verb)?;
        api.change(Method::PATCH, &at, Some(&Value::Array(patch.clone()))).await.map_err(explained)?;
    }
    let mut body = json!({"target": request.verb});
    if let (Some(body), Some(more)) = (body.as_object_mut(), request.more.as_object()) {
        body.extend(more.clone());
    }
    let asked = api.change(Method::PUT, &format!("{at}/states/provision"), Some(&body)).await;
    if !patch.is_empty() && asked.as_ref().is_err_and(is_refusal) {
        undo(session, node, &patch).await;
    }
    asked.map(drop).map_err(explained)
}

/// Whether nothing came of a request for certain.
fn is_refusal(error: &ApiError) -> bool {
    // Of any other error it may have been taken all the same, and need what was set.
    matches!(
        error,
        ApiError::Refused { .. }
            | ApiError::Denied { .. }
            | ApiError::NotFound { .. }
            | ApiError::NoRoute { .. }
            | ApiError::TooOld { .. }
    )
}

/// Takes back what was set for a request that was refused; says what stays.
async fn undo(session: &Session, node: &Node, patch: &[Value]) {
    let (patch, hidden) = undoing(node, patch);
    let failed = if patch.is_empty() {
        None
    } else {
        let at = path(&["v1", "nodes", node.uuid()]);
        session.api.change(Method::PATCH, &at, Some(&Value::Array(patch))).await.err()
    };
    if let Some(error) = failed {
        let why = transport::client::chain(&error);
        output::note(&format!("{}: what was set for this request is still set: {why}", node.title()));
    } else if !hidden.is_empty() {
        output::note(&format!("{}: still as this request has set it: {}", node.title(), hidden.join(", ")));
    }
}

/// The patch that gives a node back what it had where `patch` has changed it, and the places whose value was not shown.
fn undoing(node: &Node, patch: &[Value]) -> (Vec<Value>, Vec<String>) {
    let places: BTreeSet<&str> = patch.iter().filter_map(|change| change.get("path")?.as_str()).collect();
    let (mut back, mut hidden) = (Vec::new(), Vec::new());
    for place in places {
        match node.0.pointer(place) {
            Some(Value::String(value)) if value == wire::ramdisk::MASK => hidden.push(place.to_owned()),
            Some(value) => back.push(json!({"op": "add", "path": place, "value": value})),
            None => back.push(json!({"op": "remove", "path": place})),
        }
    }
    (back, hidden)
}

/// Watches what was begun, where that is wanted, and says what became of it.
pub(crate) async fn finish(
    session: &Session,
    begun: Vec<Outcome>,
    goal: Goal,
    options: WatchArgs,
) -> Result<(), Error> {
    if !options.watch {
        let going: Vec<&str> = begun
            .iter()
            .filter(|one| one.result.is_ok() && is_going(&one.node, goal))
            .map(|one| one.node.title())
            .collect();
        let hint = match &going[..] {
            [] => None,
            [node] => Some(format!("it goes on: `ferric watch {node}` shows it")),
            _ => Some("they go on: `ferric watch` shows all that are at work".to_owned()),
        };
        watch::report(session.output, begun)?;
        if let Some(hint) = hint.filter(|_| output::is_read(session.output)) {
            output::note(&hint);
        }
        return Ok(());
    }
    let going: Vec<(Node, Goal)> =
        begun.iter().filter(|outcome| outcome.result.is_ok()).map(|outcome| (outcome.node.clone(), goal)).collect();
    let mut ended = watch::watch(&session.api, session.output, going, options.timeout).await.into_iter();
    let all = begun.into_iter().map(|outcome| match outcome.result {
        Ok(()) => ended.next().unwrap_or(Outcome { node: outcome.node, seconds: None, result: Ok(()) }),
        Err(_) => outcome,
    });
    watch::report(session.output, all.collect())
}

/// Whether something is still done to a node.
fn is_going(node: &Node, goal: Goal) -> bool {
    match goal {
        Goal::Power(_) => node.text("target_power_state").is_some(),
        Goal::States(_) | Goal::Rest | Goal::Still => !matches!(node.kind(), Kind::Stable | Kind::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_for_a_request_is_taken_back_to_what_it_was() {
        let node = Node(json!({"instance_info": {"image_source": "old", "image_checksum": "sum", "secret": "******"}}));
        let patch = [
            json!({"op": "remove", "path": "/instance_info/image_checksum"}),
            json!({"op": "add", "path": "/instance_info/image_source", "value": "new"}),
            json!({"op": "add", "path": "/instance_info/image_checksum", "value": "other"}),
            json!({"op": "add", "path": "/instance_info/secret", "value": "other"}),
            json!({"op": "add", "path": "/properties/root_device", "value": {"serial": "A"}}),
        ];
        let (back, hidden) = undoing(&node, &patch);
        assert_eq!(
            back,
            [
                json!({"op": "add", "path": "/instance_info/image_checksum", "value": "sum"}),
                json!({"op": "add", "path": "/instance_info/image_source", "value": "old"}),
                json!({"op": "remove", "path": "/properties/root_device"}),
            ]
        );
        assert_eq!(hidden, ["/instance_info/secret"]);
    }
}
