//! The verbs that look: nothing is changed by them.

use super::logs::{LogsArgs, run as logs};
use super::set::{self, SetArgs};
use super::{NodesArg, Session, show};
use crate::api::{Node, path};
use crate::connect::{Connection, Format};
use crate::error::Error;
use crate::table::{self, age, duration, on_terminal, pairs, width, wrap};
use crate::{output, watch};
use jiff::Timestamp;
use lifecycle::provision::Kind;
use serde_json::{Value, json};

/// What can be looked at.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Look {
    /// List nodes
    List(ListArgs),
    /// Show all that is known of a node
    Show(NodesArg),
    /// Tell why a node is where it is, and what can be done (Ferric only)
    Why(NodesArg),
    /// Show what the ramdisk logs (Ferric only)
    Logs(LogsArgs),
    /// Show what happened to a node
    History(HistoryArgs),
    /// Show how far a node is
    Progress(NodesArg),
    /// Show whether the settings of a node would do
    Validate(NodesArg),
    /// Change settings of nodes
    Set(Box<SetArgs>),
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only nodes in this provision state; may be given several times
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// Only nodes that need somebody: failed, in maintenance, held
    #[arg(long)]
    trouble: bool,
    /// Only nodes with this driver
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Only nodes of this resource class
    #[arg(long, value_name = "CLASS")]
    resource_class: Option<String>,
    /// UUIDs, drivers and resource classes too
    #[arg(short, long)]
    long: bool,
}

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Name or UUID of a node
    node: String,
    /// Only errors
    #[arg(long)]
    errors: bool,
}

/// Does what was asked for.
pub(crate) async fn run(look: &Look, connection: &Connection) -> Result<(), Error> {
    let session = &Session::new(connection, !matches!(look, Look::Set(_)))?;
    match look {
        Look::List(args) => list(session, args).await,
        Look::Show(args) => show::run(session, args).await,
        Look::Why(args) => why(session, args).await,
        Look::Logs(args) => logs(session, args).await,
        Look::History(args) => history(session, args).await,
        Look::Progress(args) => progress(session, args).await,
        Look::Validate(args) => validate(session, args).await,
        Look::Set(args) => set::run(session, args).await,
    }
}

/// Fields of a list.
const FIELDS: &[&str] = &[
    "uuid",
    "name",
    "driver",
    "resource_class",
    "provision_state",
    "target_provision_state",
    "power_state",
    "target_power_state",
    "maintenance",
    "maintenance_reason",
    "fault",
    "last_error",
    "instance_uuid",
    "provision_updated_at",
    "driver_internal_info",
    "deploy_step",
    "clean_step",
    "service_step",
    "retired",
];

async fn list(session: &Session, args: &ListArgs) -> Result<(), Error> {
    let mut filters = Vec::new();
    // One state is for the service to pick; a list of nodes has no filter for several.
    if let [state] = &args.state[..] {
        filters.push(("provision_state", state.as_str()));
    }
    filters.extend(args.driver.as_deref().map(|driver| ("driver", driver)));
    filters.extend(args.resource_class.as_deref().map(|class| ("resource_class", class)));
    let mut nodes = session.api.nodes(FIELDS, &filters).await?;
    nodes.retain(|node| args.state.is_empty() || args.state.iter().any(|state| state == node.state()));
    nodes.retain(|node| !args.trouble || needs_somebody(node));
    nodes.sort_by_cached_key(|node| table::natural(node.title()));
    if nodes.is_empty() {
        let filtered = !filters.is_empty() || args.trouble || !args.state.is_empty();
        let remedy = if filtered { "" } else { "; `ferric enroll NAME --driver redfish --bmc URL` records the first" };
        if session.output.format == Format::Table {
            output::note(&format!("there are no {}nodes{remedy}", if filtered { "such " } else { "" }));
        }
    }
    let text = list_text(&nodes, args.long, on_terminal().then(width), Timestamp::now());
    let documents: Vec<&Value> = nodes.iter().map(|node| &node.0).collect();
    session.output.result(&text, &json!(documents));
    Ok(())
}

fn needs_somebody(node: &Node) -> bool {
    matches!(node.kind(), Kind::Failed | Kind::Held) || node.flag("maintenance") || node.state() == "error"
}

fn list_text(nodes: &[Node], long: bool, limit: Option<usize>, now: Timestamp) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let since = |node: &Node| {
        node.text("provision_updated_at").and_then(|time| age(time, now)).map(duration).unwrap_or_default()
    };
    let power = |node: &Node| match (node.text("power_state"), node.text("target_power_state")) {
        (_, Some(target)) => format!("to {}", target.trim_start_matches("power ")),
        (Some(power), None) => power.trim_start_matches("power ").to_owned(),
        (None, None) => "-".to_owned(),
    };
    let row = |node: &Node| {
        let mut row = vec![node.title().to_owned(), node.state().to_owned(), power(node), since(node)];
        if long {
            let text = |key: &str| node.text(key).unwrap_or("-").to_owned();
            row.splice(1..1, [text("uuid"), text("driver"), text("resource_class")]);
        }
        row.push(note(node));
        row
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let head: &[&str] = if long {
        &["node", "uuid", "driver", "class", "state", "power", "since", "note"]
    } else {
        &["node", "state", "power", "since", "note"]
    };
    // A UUID that is cut is of no use.
    table::table(head, &rows, limit.filter(|_| !long))
}

/// What is worth a word.
fn note(node: &Node) -> String {
    if node.flag("maintenance") {
        let why = node.text("maintenance_reason").or_else(|| node.text("fault"));
        return why.map_or_else(|| "maintenance".to_owned(), |why| format!("maintenance: {why}"));
    }
    if let Some(progress) = node.progress() {
        return watch::told(node, progress);
    }
    match node.kind() {
        Kind::Held => "held: `ferric unhold` lets it go on".to_owned(),
        Kind::Working | Kind::Waiting => node.step().unwrap_or_default(),
        Kind::Failed | Kind::Stable => node.text("last_error").unwrap_or_default().to_owned(),
    }
}

async fn why(session: &Session, named: &NodesArg) -> Result<(), Error> {
    let mut text = String::new();
    let mut documents = Vec::new();
    for ident in &named.nodes {
        let instead = "`ferric node show NODE` has its last_error, `ferric node history NODE` what happened";
        let why = session.api.ours(ident, "why", instead).await.map_err(|error| Error::of(ident, error))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text += &why_text(ident, &why, width());
        documents.push(why);
    }
    let document = if documents.len() == 1 { documents.remove(0) } else { Value::Array(documents) };
    session.output.result(&text, &document);
    Ok(())
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
    if let Some(error) = text("last_error") {
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
    said
}

async fn history(session: &Session, args: &HistoryArgs) -> Result<(), Error> {
    let node = session.api.node(&args.node).await.map_err(|error| Error::of(&args.node, error))?;
    let resource = format!("nodes/{}/history", node.uuid());
    let entries = session.api.list(&resource, &[("detail", "True")], usize::MAX).await;
    let mut entries = entries.map_err(|error| Error::of(&args.node, error))?;
    entries.sort_by_key(|entry| entry["created_at"].as_str().unwrap_or_default().to_owned());
    entries.retain(|entry| !args.errors || entry["severity"] == "ERROR");
    session.output.result(&history_text(&entries, width()), &json!(entries));
    Ok(())
}

fn history_text(entries: &[Value], width: usize) -> String {
    let mut text = String::new();
    for entry in entries {
        let of = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let time = of("created_at").get(..19).unwrap_or_default().replace('T', " ");
        let head = format!("{time}  {:<5}  ", of("severity"));
        let event = wrap(&table::plain(of("event")), width.saturating_sub(head.chars().count()));
        text += &format!("{head}{}\n", event.replace('\n', &format!("\n{}", " ".repeat(head.chars().count()))));
    }
    text
}

async fn progress(session: &Session, named: &NodesArg) -> Result<(), Error> {
    let mut documents = Vec::new();
    let mut text = String::new();
    for ident in &named.nodes {
        let report = session.api.ours(ident, "progress", "").await;
        // A service without the report still may tell of a step.
        let report = match report {
            Err(crate::api::ApiError::Lacking { .. }) => {
                let node = session.api.node(ident).await.map_err(|error| Error::of(ident, error))?;
                from_node(&node)
            }
            other => other.map_err(|error| Error::of(ident, error))?,
        };
        text += &progress_text(ident, &report, width());
        documents.push(report);
    }
    let document = if documents.len() == 1 { documents.remove(0) } else { Value::Array(documents) };
    session.output.result(&text, &document);
    Ok(())
}

/// The report, as far as a node's document tells it.
fn from_node(node: &Node) -> Value {
    let mut report = json!({
        "uuid": node.uuid(),
        "name": node.text("name"),
        "provision_state": node.state(),
        "target_provision_state": node.text("target_provision_state"),
        "step": node.step().map(|step| json!({"step": step})),
        "state": {"state": node.state(), "since": node.text("provision_updated_at")},
    });
    if let (Some(report), Some(Value::Object(told))) = (report.as_object_mut(), node.progress()) {
        report.extend(told.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    report
}

fn progress_text(ident: &str, report: &Value, width: usize) -> String {
    let node = Node(report.clone());
    let lasting = |what: &Value| {
        let seconds = what.get("seconds").and_then(Value::as_u64)?;
        let usual = what.pointer("/usual_seconds/median").and_then(Value::as_u64);
        let long = if what["longer_than_usual"] == true { ", longer than usual" } else { "" };
        let usual = usual.map(|usual| format!(", usually {}", duration(usual))).unwrap_or_default();
        Some(format!(" for {}{usual}{long}", duration(seconds)))
    };
    let since = report.get("state").and_then(lasting).unwrap_or_default();
    let mut lines =
        vec![("node", node.text("name").unwrap_or(ident).to_owned()), ("state", node.state().to_owned() + &since)];
    if let Some(flow) = report.get("flow").filter(|flow| flow.is_object()) {
        let of = |key: &str| flow.get(key).and_then(Value::as_u64).unwrap_or(0);
        let word = |key: &str| flow.get(key).and_then(Value::as_str).unwrap_or_default();
        lines.push(("doing", format!("{}: {} ({} of {})", word("flow"), word("action"), of("number"), of("of"))));
    }
    if let Some(step) = report.get("step").filter(|step| step.is_object()) {
        let name = step.get("step").and_then(Value::as_str).unwrap_or_default();
        lines.push(("step", name.to_owned() + &lasting(step).unwrap_or_default()));
    }
    if report.get("stage").is_some_and(Value::is_string) {
        lines.push(("progress", watch::told(&node, report)));
    } else if let Some(reason) = node.text("stalled") {
        lines.push(("stalled", reason.to_owned()));
    }
    pairs(&lines, width)
}

async fn validate(session: &Session, named: &NodesArg) -> Result<(), Error> {
    let mut text = String::new();
    let mut documents = serde_json::Map::new();
    for ident in &named.nodes {
        let node = session.api.node(ident).await.map_err(|error| Error::of(ident, error))?;
        let result = session.api.get(&path(&["v1", "nodes", node.uuid(), "validate"])).await;
        let result = result.map_err(|error| Error::of(ident, error))?;
        if named.nodes.len() > 1 {
            text += &format!("{ident}\n");
        }
        let interfaces = result.as_object().cloned().unwrap_or_default();
        let lines: Vec<(&str, String)> = interfaces
            .iter()
            .map(|(name, found)| {
                let reason = found.get("reason").and_then(Value::as_str);
                let verdict = match found.get("result") {
                    Some(Value::Bool(true)) => "fine".to_owned(),
                    Some(Value::Bool(false)) => format!("NO: {}", reason.unwrap_or("no reason is given")),
                    _ => format!("not supported{}", reason.map(|reason| format!(": {reason}")).unwrap_or_default()),
                };
                (name.as_str(), verdict)
            })
            .collect();
        text += &pairs(&lines, width());
        documents.insert(node.title().to_owned(), result);
    }
    session.output.result(&text, &Value::Object(documents));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<Node> {
        let node = |value: Value| Node(value);
        vec![
            node(json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e11", "name": "rack1-n2", "driver": "redfish",
                        "provision_state": "active", "power_state": "power on", "resource_class": "large",
                        "provision_updated_at": "2026-11-20T04:00:00+00:00"})),
            node(json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e12", "name": "rack1-n10", "driver": "redfish",
                        "provision_state": "wait call-back", "target_provision_state": "active",
                        "power_state": "power on", "provision_updated_at": "2026-11-23T05:58:50+00:00",
                        "driver_internal_info": {"progress": {"stage": "write", "done": 524_288_000_u64,
                        "total": 2_147_483_648_u64, "rate": 104_857_600, "eta": 16}}})),
            node(json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e13", "driver": "redfish",
                        "provision_state": "deploy failed", "target_provision_state": "active",
                        "power_state": "power off", "provision_updated_at": "2026-11-23T02:00:00+00:00",
                        "last_error": "the image's digest is sha256:ab…, and the request says sha256:cd…"})),
            node(json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e14", "name": "gpu-1", "driver": "redfish",
                        "provision_state": "clean hold", "target_provision_state": "available"})),
            node(json!({"uuid": "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e15", "name": "spare", "driver": "fake-hardware",
                        "provision_state": "manageable", "maintenance": true, "maintenance_reason": "a new fan",
                        "power_state": "power off", "target_power_state": "power on"})),
        ]
    }

    #[test]
    fn lists_fit_eighty_columns_and_long_ones_say_everything() {
        let now: Timestamp = "2026-11-23T06:00:00Z".parse().unwrap();
        let short = list_text(&nodes(), false, Some(80), now);
        assert!(short.lines().all(|line| line.chars().count() <= 80), "{short}");
        insta::assert_snapshot!(format!("{short}\n{}", list_text(&nodes(), true, Some(80), now)));
    }

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
            "possible": [{"verb": "abort", "what": "gives up what is waited for"},
                         {"verb": "deleted", "what": "takes the instance off, and cleans"},
                         {"verb": null, "what": "DELETE maintenance: takes the node back and clears its fault"}],
        });
        insta::assert_snapshot!(why_text("n1", &why, 80));
    }

    #[test]
    fn history_and_progress_are_paragraphs() {
        let entries = [
            json!({"created_at": "2026-11-23T05:00:00+00:00", "severity": "INFO", "event": "available -> deploying (deploy)"}),
            json!({"created_at": "2026-11-23T05:01:00+00:00", "severity": "ERROR", "event": "deploy.write_image failed: the \
                    image's digest is sha256:ab, and the request says sha256:cd; the disk has no partition table"}),
        ];
        let report = json!({
            "name": "n1", "provision_state": "wait call-back",
            "state": {"state": "wait call-back", "seconds": 300, "usual_seconds": {"median": 120}, "longer_than_usual": true},
            "flow": {"flow": "deploy", "action": "run deploy.write_image", "number": 7, "of": 12},
            "step": {"step": "deploy.write_image", "seconds": 200, "usual_seconds": {"median": 90}, "longer_than_usual": false},
            "stage": "write", "done": 524_288_000_u64, "total": 2_147_483_648_u64, "rate": 1_048_576, "eta": 1500,
        });
        insta::assert_snapshot!(format!("{}\n{}", history_text(&entries, 80), progress_text("n1", &report, 80)));
    }
}
