//! The verbs that look: nothing is changed by them.

use super::logs::{LogsArgs, run as logs};
use super::set::{self, SetArgs};
use super::{NodesArg, Session, show, why};
use crate::api::{Node, like, path};
use crate::connect::{Connection, Format};
use crate::error::Error;
use crate::table::{self, age, duration, on_terminal, pairs, width, wrap};
use crate::{output, watch};
use jiff::Timestamp;
use lifecycle::provision::{Kind, State};
use serde_json::{Value, json};

/// What can be looked at.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Look {
    /// List nodes
    List(ListArgs),
    /// Show all that is known of a node
    Show(NodesArg),
    /// Tell why a node is where it is, and what can be done
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
        Look::Why(args) => why::run(session, args).await,
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
    args.state.iter().try_for_each(|state| known_state(state))?;
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

/// A state that is misspelled would let no node through.
fn known_state(state: &str) -> Result<(), Error> {
    if state.parse::<State>().is_ok() {
        return Ok(());
    }
    let known = || State::ALL.iter().map(|state| state.as_str());
    let near = like(state, known());
    let remedy = match near.is_empty() {
        true => format!("states are {}", known().collect::<Vec<_>>().join(", ")),
        false => format!("did you mean {}?", near.join(" or ")),
    };
    Err(Error::usage(format!("--state: there is no provision state {state:?}"), remedy))
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
    let text = |node: &Node, key: &str| node.text(key).unwrap_or("-").to_owned();
    let row = |node: &Node| {
        let mut row = vec![node.title().to_owned(), node.state().to_owned(), power(node), since(node)];
        if long && limit.is_none() {
            row.splice(1..1, ["uuid", "driver", "resource_class"].map(|key| text(node, key)));
        }
        row.push(note(node));
        row
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let short: &[&str] = &["node", "state", "power", "since", "note"];
    match (long, limit) {
        (false, _) => table::table(short, &rows, limit),
        (true, None) => {
            table::table(&["node", "uuid", "driver", "class", "state", "power", "since", "note"], &rows, None)
        }
        // A UUID that is cut is of no use; it stands below, where there is room.
        (true, Some(_)) => {
            let shown = table::table(short, &rows, limit);
            let (head, lines) = shown.split_once('\n').unwrap_or_default();
            let mut all = format!("{head}\n");
            for (line, node) in lines.lines().zip(nodes) {
                let more = ["uuid", "driver", "resource_class"].map(|key| text(node, key));
                all += &format!("{line}\n    {}\n", table::plain(&more.join("  ")));
            }
            all
        }
    }
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

/// How long something lasts, against what is usual.
pub(super) fn lasting(what: &Value) -> Option<String> {
    let seconds = what.get("seconds").and_then(Value::as_u64)?;
    let usual = what.pointer("/usual_seconds/median").and_then(Value::as_u64);
    let long = if what["longer_than_usual"] == true { ", longer than usual" } else { "" };
    let usual = usual.map(|usual| format!(", usually {}", duration(usual))).unwrap_or_default();
    Some(format!(" for {}{usual}{long}", duration(seconds)))
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
                    // What a driver does not have is no mistake in the settings.
                    Some(Value::Bool(false)) if reason.is_some_and(|reason| reason.contains("does not support")) => {
                        "not supported".to_owned()
                    }
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
        let (long, piped) = (list_text(&nodes(), true, Some(80), now), list_text(&nodes(), true, None, now));
        insta::assert_snapshot!(format!("{short}\n{long}\n{piped}"));
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
