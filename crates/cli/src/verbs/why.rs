//! `ferric node why`: why a node is where it is, and what to type now. `ferricd` says it; of an Ironic, its record of the node
//! tells some of it.

use super::act::Act;
use super::look::lasting;
use super::{NodesArg, Session, way};
use crate::api::{ApiError, Node};
use crate::connect::Format;
use crate::error::Error;
use crate::table::{self, duration, pairs, width, wrap};
use crate::{output, watch};
use lifecycle::provision::{Kind, State, Verb, allowed_verbs};
use serde_json::{Value, json};

/// Tells it.
pub(super) async fn run(session: &Session, named: &NodesArg) -> Result<(), Error> {
    let mut text = String::new();
    let mut documents = Vec::new();
    let mut own = false;
    for ident in &named.nodes {
        let of = |error| Error::of(ident, error);
        let why = match session.api.ours(ident, "why", "").await {
            Err(ApiError::Lacking { .. }) => {
                own = true;
                let node = session.api.node(ident).await.map_err(of)?;
                let error = watch::recorded_error(&session.api, &node).await;
                from_record(&node, error.as_deref())
            }
            other => other.map_err(of)?,
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text += &why_text(ident, &why, width());
        documents.push(why);
    }
    if own && session.output.format == Format::Table {
        output::note("this service gives no reasons; what follows is read from its record of the node");
    }
    let document = if documents.len() == 1 { documents.remove(0) } else { Value::Array(documents) };
    session.output.result(&text, &document);
    Ok(())
}

/// What the record of a node tells. `error`: the last that is known.
fn from_record(node: &Node, error: Option<&str>) -> Value {
    let state = node.state();
    let step = node.step().map(|step| format!(" Its step is {step}.")).unwrap_or_default();
    let mut summary = match node.kind() {
        Kind::Stable => format!("It is in {state:?} and stays there until somebody asks for something."),
        Kind::Failed => {
            let why = error.unwrap_or("the reason is not known any more");
            format!("It is in {state:?} because: {why} It waits for an operator.")
        }
        Kind::Held => format!("It is in {state:?}: a step holds it until somebody says unhold.{step}"),
        Kind::Waiting => format!("It is in {state:?}: the service waits for the ramdisk on the machine.{step}"),
        Kind::Working => format!("It is in {state:?}: the service is at work on it.{step}"),
    };
    if node.flag("maintenance") {
        let fault = node.text("fault").map(|fault| format!(" (fault: {fault})")).unwrap_or_default();
        let reason = node.text("maintenance_reason").unwrap_or("no reason was given");
        summary += &format!(" It is in maintenance{fault}: {reason}");
    }
    json!({
        "uuid": node.uuid(),
        "name": node.text("name"),
        "summary": summary,
        "provision_state": state,
        "target_provision_state": node.text("target_provision_state"),
        "power_state": node.text("power_state"),
        "target_power_state": node.text("target_power_state"),
        "last_error": error,
        "lock": node.text("reservation").map(|holder| json!({"holder": holder})),
        "progress": node.progress(),
        "possible": possible(node),
    })
}

fn possible(node: &Node) -> Vec<Value> {
    let mut possible = Vec::new();
    let mut other = |when: bool, what: &str| {
        if when {
            possible.push(json!({"verb": null, "what": what}));
        }
    };
    other(node.flag("maintenance"), "DELETE maintenance: takes the node back and clears its fault");
    other(node.flag("protected"), "PATCH protected to false: allows to take the instance off or rebuild it");
    let Ok(state) = node.state().parse::<State>() else { return possible };
    let ours = <Act as clap::Subcommand>::augment_subcommands(clap::Command::new("act"));
    let verbs = allowed_verbs(state).into_iter();
    // Two names for one verb, and what an Ironic does not have.
    for verb in verbs.filter(|verb| !matches!(verb, Verb::Deploy | Verb::Undeploy) && !verb.is_ours()) {
        let about = ours.find_subcommand(way::word(verb)).and_then(clap::Command::get_about);
        let mut what = about.map(ToString::to_string).unwrap_or_default();
        if let Some(first) = what.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        possible.push(json!({"verb": verb, "what": what}));
    }
    if state.allows_delete(node.flag("maintenance")) {
        possible.push(json!({"verb": null, "what": "DELETE: forgets the node"}));
    }
    possible
}

/// How an operator of this program says it.
fn command(verb: &str, node: &str) -> String {
    match verb {
        "active" | "deploy" => format!("ferric deploy {node} --image URL --checksum …"),
        "deleted" => format!("ferric undeploy {node}"),
        "break out" => format!("ferric break-out {node}"),
        "clean" | "service" => format!("ferric {verb} {node} --step …"),
        other => format!("ferric {other} {node}"),
    }
}

fn why_text(ident: &str, why: &Value, width: usize) -> String {
    let text = |key: &str| why.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("name").unwrap_or(ident);
    let mut said = format!("{name}\n{}\n", wrap(&table::plain(text("summary").unwrap_or_default()), width));
    let mut lines = Vec::new();
    let lasting = why.get("state").and_then(lasting).map(|lasting| text_of(why, "provision_state") + &lasting);
    lines.extend(lasting.map(|lasting| ("state", lasting)));
    if let Some(power) = text("power_state") {
        let target = text("target_power_state").map(|target| format!(", on its way to {target}")).unwrap_or_default();
        lines.push(("power", format!("{power}{target}")));
    }
    if let Some(work) = why.get("work").filter(|work| work.is_object()) {
        let of = |key: &str| work.get(key).and_then(Value::as_u64);
        let action = work.get("action").and_then(Value::as_str).unwrap_or_default();
        let place = format!("{action} ({} of {})", of("number").unwrap_or(0), of("of").unwrap_or(0));
        lines.push((
            "doing",
            place + &of("action_seconds").map(|s| format!(", since {}", duration(s))).unwrap_or_default(),
        ));
    }
    if let Some(progress) = why.get("progress").filter(|progress| progress.is_object()) {
        lines.push(("progress", watch::told(&Node(why.clone()), progress)));
    }
    if let Some(agent) = why.get("agent").filter(|agent| agent.is_object()) {
        let url = agent.get("url").and_then(Value::as_str).unwrap_or("address unknown");
        let heard = agent.get("seconds").and_then(Value::as_u64);
        let heard = heard.map_or("not heard of".to_owned(), |seconds| format!("heard of {} ago", duration(seconds)));
        lines.push(("agent", format!("{url}, {heard}")));
    }
    if let Some(lock) = why.get("lock").filter(|lock| lock.is_object()) {
        let seconds = lock.get("seconds").and_then(Value::as_u64).map(|s| format!(", since {}", duration(s)));
        let reason = Some(text_of(lock, "reason")).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(" for {reason}")).unwrap_or_default();
        lines.push(("locked by", format!("{}{reason}{}", text_of(lock, "holder"), seconds.unwrap_or_default())));
    }
    // The summary of a node that has failed says it.
    if let Some(error) = text("last_error").filter(|error| !text("summary").unwrap_or_default().contains(error)) {
        lines.push(("last error", error.to_owned()));
    }
    if !lines.is_empty() {
        said += &format!("\n{}", pairs(&lines, width));
    }
    let possible = why.get("possible").and_then(Value::as_array).cloned().unwrap_or_default();
    if !possible.is_empty() {
        said += "\nWhat you can do:\n";
        for one in &possible {
            let what = one.get("what").and_then(Value::as_str).unwrap_or_default();
            let how = match one.get("verb").and_then(Value::as_str) {
                Some(verb) => command(verb, name),
                None if what.starts_with("DELETE maintenance") => format!("ferric maintenance off {name}"),
                None if what.starts_with("DELETE") => format!("ferric delete {name}"),
                None if what.starts_with("PATCH protected") => format!("ferric node set {name} --protected no"),
                None => String::new(),
            };
            let what = what.split_once(": ").filter(|_| one["verb"].is_null()).map_or(what, |(_, what)| what);
            said += &format!("  {how}\n      {}\n", wrap(what, width.saturating_sub(6)).replace('\n', "\n      "));
        }
    }
    if why.get("work").is_some_and(Value::is_object) || text("last_error").is_some() {
        // Only a service that tells reasons has logs.
        let logs = if why.get("work").is_some() { format!(", `ferric node logs {name}`") } else { String::new() };
        said += &format!("\nMore: `ferric node history {name}`{logs}\n");
    }
    said
}

fn text_of(document: &Value, key: &str) -> String {
    document.get(key).and_then(Value::as_str).map(table::plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_says_what_to_type() {
        let why = json!({
            "name": "n1", "provision_state": "wait call-back", "last_error": null,
            "summary": "It is in \"wait call-back\" for the flow \"deploy\": it waits for the end of the agent's command \
                        (run deploy.write_image). If nothing happens it becomes \"deploy failed\" in 1750 s \
                        (deploy_callback_timeout).",
            "work": {"flow": "deploy", "action": "run deploy.write_image", "action_seconds": 50, "number": 7, "of": 12},
            "agent": {"url": "https://192.0.2.7:9999", "seconds": 12},
            "progress": {"stage": "write", "done": 1, "total": 2},
            "power_state": "power on",
            "lock": {"holder": "ferric-1", "reason": "deploy: run deploy.write_image", "seconds": 50},
            "state": {"state": "wait call-back", "seconds": 50, "usual_seconds": {"median": 40}, "longer_than_usual": true},
            "possible": [{"verb": "abort", "what": "gives up what is waited for"},
                         {"verb": "deleted", "what": "takes the instance off, and cleans"},
                         {"verb": null, "what": "DELETE maintenance: takes the node back and clears its fault"}],
        });
        let failed = json!({
            "name": "n2", "provision_state": "deploy failed", "last_error": "the image's digest is sha256:ab.",
            "summary": "It is in \"deploy failed\" because: the image's digest is sha256:ab. It waits for an operator.",
            "work": null, "agent": null, "progress": null, "lock": null, "power_state": "power off",
            "state": {"state": "deploy failed", "seconds": 300, "usual_seconds": null, "longer_than_usual": false},
            "possible": [{"verb": "active", "what": "puts the instance on the machine"},
                         {"verb": "deleted", "what": "takes the instance off, and cleans"}],
        });
        insta::assert_snapshot!(format!("{}\n{}", why_text("n1", &why, 80), why_text("n2", &failed, 80)));
    }

    #[test]
    fn the_record_of_a_node_tells_some_of_it() {
        let node = |more: Value| {
            let mut node = json!({"uuid": "u-1", "name": "n1", "driver_internal_info": {}});
            node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Node(node)
        };
        let told = |more: Value, error: Option<&str>| why_text("n1", &from_record(&node(more), error), 80);
        insta::assert_snapshot!([
            told(json!({"provision_state": "clean failed", "maintenance": true, "fault": "clean failure",
                        "maintenance_reason": "step erase_devices failed", "power_state": "power on"}),
                 Some("step erase_devices failed: no such disk.")),
            told(json!({"provision_state": "wait call-back", "target_provision_state": "active", "reservation": "host-1",
                        "deploy_step": {"interface": "deploy", "step": "write_image"}, "power_state": "power on"}), None),
            told(json!({"provision_state": "defrosting"}), None),
        ].join("\n"));
    }
}
