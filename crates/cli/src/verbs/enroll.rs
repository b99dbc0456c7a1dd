//! `ferric enroll`: servers are recorded, one by options or many from a file. All of it is checked before anything is
//! recorded.

use super::provision::{self, Request};
use super::{AT_ONCE, NodesArg, Session};
use crate::api::{ApiError, Node, like, path};
use crate::connect::Format;
use crate::consent::ConsentArgs;
use crate::consent::Go;
use crate::destroy::Does;
use crate::error::Error;
use crate::input::{self, InputError};
use crate::table::{width, wrap};
use crate::watch::{self, Outcome, WatchArgs};
use futures::{StreamExt as _, stream};
use http::Method;
use lifecycle::provision::Verb;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Most nodes of a file.
const MOST: usize = 10_000;

/// Arguments of `enroll`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ferric enroll [OPTIONS] <NAME>\n       ferric enroll [OPTIONS] --file <FILE>\n       ferric enroll --example"
)]
pub(crate) struct EnrollArgs {
    /// Name of the node
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// File of nodes, YAML or JSON; - for standard input. `ferric enroll --example` shows one
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "driver", "bmc", "bmc_user",
          "bmc_password_file", "bmc_cacert", "bmc_insecure", "driver_info", "property", "port", "resource_class", "interface"])]
    file: Option<PathBuf>,
    /// Show a file of nodes to begin with
    #[arg(long, exclusive = true)]
    example: bool,
    /// How the server is driven: redfish, or fake-hardware to try things out
    #[arg(long, default_value = "redfish")]
    driver: String,
    /// Address of its BMC, such as https://192.0.2.9
    #[arg(long, value_name = "URL")]
    bmc: Option<String>,
    /// User of the BMC
    #[arg(long, value_name = "NAME", requires = "bmc")]
    bmc_user: Option<String>,
    /// File with one line, the password of that user; without it, it is asked for
    #[arg(long, value_name = "FILE", requires = "bmc_user")]
    bmc_password_file: Option<PathBuf>,
    /// PEM file or folder on the machine of ferricd: the certificates that vouch for the BMC
    #[arg(long, value_name = "PATH", requires = "bmc")]
    bmc_cacert: Option<String>,
    /// Take any certificate of the BMC: whoever is between it and ferricd learns its password
    #[arg(long, requires = "bmc", conflicts_with = "bmc_cacert")]
    bmc_insecure: bool,
    /// What else the driver needs; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    driver_info: Vec<String>,
    /// What the machine is; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// MAC address of a network card that the ramdisk uses; may be given several times. Inspection finds others
    #[arg(long, value_name = "MAC")]
    port: Vec<String>,
    /// Class by which schedulers choose
    #[arg(long, value_name = "CLASS")]
    resource_class: Option<String>,
    /// An interface, such as deploy=direct; may be given several times
    #[arg(long, value_name = "KIND=NAME")]
    interface: Vec<String>,
    /// Go on: try the BMC and take it under management
    #[arg(long, group = "further")]
    manage: bool,
    /// Go on: manage, then inspect
    #[arg(long, group = "further")]
    inspect: bool,
    /// Go on: manage, inspect, clean, and make it available
    #[arg(long, group = "further")]
    provide: bool,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

impl EnrollArgs {
    pub(crate) fn dry_run(&self) -> bool {
        self.consent.dry_run
    }
}

/// A file to begin with.
const EXAMPLE: &str = "\
# What all nodes have, unless they say otherwise.
defaults:
  driver: redfish
  resource_class: baremetal
  driver_info:
    redfish_username: admin
    redfish_password: change-me
nodes:
  - name: rack1-n1
    driver_info:
      redfish_address: https://192.0.2.11
    ports:
      - 52:54:00:12:34:01
  - name: rack1-n2
    driver_info:
      redfish_address: https://192.0.2.12
    properties:
      root_device: {serial: S3Z8NX0M}
    ports:
      - {address: 52:54:00:12:34:02, physical_network: provisioning}
";

/// Settings that a node may be recorded with; the rest is of other requests.
const KEYS: &[&str] = &[
    "automated_clean",
    "bios_interface",
    "boot_interface",
    "chassis_uuid",
    "conductor_group",
    "console_interface",
    "deploy_interface",
    "description",
    "disable_power_off",
    "driver",
    "driver_info",
    "extra",
    "firmware_interface",
    "inspect_interface",
    "instance_info",
    "lessee",
    "management_interface",
    "name",
    "network_data",
    "network_interface",
    "owner",
    "parent_node",
    "ports",
    "power_interface",
    "properties",
    "raid_interface",
    "rescue_interface",
    "resource_class",
    "shard",
    "storage_interface",
    "uuid",
    "vendor_interface",
];

/// Settings of a port.
const PORT_KEYS: &[&str] = &[
    "address",
    "description",
    "extra",
    "is_smartnic",
    "local_link_connection",
    "name",
    "physical_network",
    "pxe_enabled",
    "uuid",
];

/// A node to record.
#[derive(Debug, Clone, PartialEq)]
struct Draft {
    /// For messages.
    title: String,
    body: Map<String, Value>,
    ports: Vec<Map<String, Value>>,
}

/// Enrolls.
pub(crate) async fn run(session: &Session, args: &EnrollArgs) -> Result<(), Error> {
    if args.example {
        crate::output::line(EXAMPLE.trim_end());
        return Ok(());
    }
    let drafts = match &args.file {
        Some(file) => drafts(&file.display().to_string(), input::document(file)?)?,
        None => vec![draft(args)?],
    };
    if args.provide && !args.consent.yes && !args.dry_run() && !crate::output::can_ask() {
        return Err(Error::usage(
            "--provide cleans, which destroys data, and there is nobody to ask",
            "give --yes, or enroll with --inspect and look at the disks first",
        ));
    }
    check_with_service(session, &drafts).await?;
    if args.dry_run() {
        let documents: Vec<Value> = drafts.iter().map(shown).collect();
        let names: Vec<&str> = drafts.iter().map(|draft| draft.title.as_str()).collect();
        let text = format!("would record {}: {}", count(names.len()), names.join(", "));
        let text = format!("{}\nA dry run: nothing was changed.", wrap(&text, width()));
        session.output.result(&text, &json!({"dry_run": true, "nodes": documents}));
        return Ok(());
    }
    let recorded = record_all(session, drafts).await;
    go_on(session, args, recorded).await
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

/// A draft without its passwords.
fn shown(draft: &Draft) -> Value {
    let mut body = draft.body.clone();
    if let Some(Value::Object(info)) = body.get_mut("driver_info") {
        for (key, value) in info.iter_mut() {
            if key.contains("password") || key.contains("secret") || key.contains("token") {
                *value = json!(wire::ramdisk::MASK);
            }
        }
    }
    body.insert("ports".to_owned(), json!(draft.ports));
    Value::Object(body)
}

/// The node of the options.
fn draft(args: &EnrollArgs) -> Result<Draft, Error> {
    let mut info = input::pairs("--driver-info", &args.driver_info)?;
    if let Some(bmc) = &args.bmc {
        if args.driver != "redfish" {
            return Err(Error::usage(
                format!("--bmc is for driver redfish, not for {}", args.driver),
                "give what the driver needs by --driver-info KEY=VALUE",
            ));
        }
        if !bmc.starts_with("https://") && !bmc.starts_with("http://") {
            return Err(Error::usage(format!("--bmc {bmc:?} is no URL"), format!("write https://{bmc}")));
        }
        info.insert("redfish_address".to_owned(), json!(bmc));
    }
    if let Some(trusted) = &args.bmc_cacert {
        if !trusted.starts_with('/') {
            return Err(Error::usage(
                format!("--bmc-cacert {trusted:?} is no absolute path"),
                "ferricd reads it, on its own machine: give the path there, such as /etc/ferric/bmc.pem",
            ));
        }
        info.insert("redfish_verify_ca".to_owned(), json!(trusted));
    }
    if args.bmc_insecure {
        info.insert("redfish_verify_ca".to_owned(), json!(false));
    }
    if let Some(user) = &args.bmc_user {
        info.insert("redfish_username".to_owned(), json!(user));
        if !info.contains_key("redfish_password") {
            let password = match &args.bmc_password_file {
                Some(file) => input::secret(file)?,
                None => input::password(&format!("Password of the BMC's user {user}: "))?,
            };
            info.insert("redfish_password".to_owned(), json!(password));
        }
    }
    let mut body = Map::new();
    body.insert("name".to_owned(), json!(args.name));
    body.insert("driver".to_owned(), json!(args.driver));
    body.insert("driver_info".to_owned(), Value::Object(info));
    body.insert("properties".to_owned(), Value::Object(input::pairs("--property", &args.property)?));
    if let Some(class) = &args.resource_class {
        body.insert("resource_class".to_owned(), json!(class));
    }
    for (kind, name) in input::pairs("--interface", &args.interface)? {
        body.insert(format!("{kind}_interface"), name);
    }
    body.insert("ports".to_owned(), json!(args.port));
    let mut drafts = drafts("enroll", json!([body]))?;
    Ok(drafts.remove(0))
}

/// The nodes of a file.
fn drafts(path: &str, document: Value) -> Result<Vec<Draft>, Error> {
    let wrong = |problem: String, remedy: &'static str| {
        Error::Input(InputError::Content { path: path.to_owned(), problem, remedy })
    };
    const SHAPE: &str = "`ferric enroll --example` shows what the file looks like";
    let (nodes, defaults) = match document {
        Value::Array(nodes) => (nodes, Map::new()),
        Value::Object(mut top) => {
            let nodes = top.remove("nodes");
            let defaults = top.remove("defaults").unwrap_or_else(|| json!({}));
            if let Some(strange) = top.keys().next() {
                return Err(wrong(format!("{strange:?} is neither nodes nor defaults"), SHAPE));
            }
            match (nodes, defaults) {
                (Some(Value::Array(nodes)), Value::Object(defaults)) => (nodes, defaults),
                (Some(Value::Array(_)), _) => return Err(wrong("defaults are no object".to_owned(), SHAPE)),
                _ => return Err(wrong("it has no list \"nodes\"".to_owned(), SHAPE)),
            }
        }
        _ => return Err(wrong("it has no list \"nodes\"".to_owned(), SHAPE)),
    };
    if nodes.is_empty() || nodes.len() > MOST {
        return Err(wrong(format!("it has {} nodes; 1 to {MOST} are recorded at once", nodes.len()), SHAPE));
    }
    let mut problems = Vec::new();
    let mut drafts = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let Value::Object(node) = node else {
            problems.push(format!("node {} is no object", index + 1));
            continue;
        };
        let body = merged(&defaults, node);
        let name = body.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let title = name.map_or_else(|| format!("node {}", index + 1), str::to_owned);
        match one(title.clone(), body) {
            Ok(draft) => drafts.push(draft),
            Err(found) => problems.extend(found.into_iter().map(|problem| format!("{title}: {problem}"))),
        }
    }
    problems.extend(twice(&drafts));
    if problems.is_empty() {
        return Ok(drafts);
    }
    let more = problems.len().saturating_sub(20);
    problems.truncate(20);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    Err(wrong(format!("nothing was recorded:\n  {}{more}", problems.join("\n  ")), ""))
}

/// The node over the defaults; objects key by key.
fn merged(defaults: &Map<String, Value>, node: Map<String, Value>) -> Map<String, Value> {
    let mut all = defaults.clone();
    for (key, value) in node {
        match (all.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => below.extend(above),
            (_, value) => drop(all.insert(key, value)),
        }
    }
    all
}

fn unknown<'a>(keys: impl Iterator<Item = &'a String>, known: &[&str]) -> Vec<String> {
    let strange = keys.filter(|key| !known.contains(&key.as_str()));
    strange
        .map(|key| match like(key, known.iter().copied()).first() {
            Some(near) => format!("there is no setting {key:?}; did you mean {near}?"),
            None => format!("there is no setting {key:?}"),
        })
        .collect()
}

/// A node that nobody could reach is not worth recording; one whose interfaces are chosen one by one may need no address.
fn without_bmc(body: &Map<String, Value>) -> Option<String> {
    let redfish = body.get("driver").and_then(Value::as_str) == Some("redfish");
    let chosen = ["power_interface", "management_interface"].iter().any(|key| body.contains_key(*key));
    let address = body.get("driver_info").and_then(|info| info.get("redfish_address"));
    (redfish && !chosen && address.is_none_or(Value::is_null)).then(|| {
        "driver redfish needs driver_info/redfish_address (--bmc URL); to try things out there is fake-hardware"
            .to_owned()
    })
}

fn one(title: String, mut body: Map<String, Value>) -> Result<Draft, Vec<String>> {
    let mut problems = unknown(body.keys(), KEYS);
    if body.get("driver").and_then(Value::as_str).is_none_or(str::is_empty) {
        problems.push("it has no driver".to_owned());
    }
    problems.extend(without_bmc(&body));
    for key in ["driver_info", "properties", "extra", "instance_info"] {
        if body.get(key).is_some_and(|value| !value.is_object()) {
            problems.push(format!("{key} is no object"));
        }
    }
    if let Some(hints) = body.get("properties").and_then(|properties| properties.get("root_device")) {
        let checked = match hints.as_object() {
            Some(hints) => hardware::hint::Hints::parse(hints).map(drop).map_err(|error| error.to_string()),
            None => Err("it is no object of hints".to_owned()),
        };
        problems.extend(checked.err().map(|problem| format!("properties/root_device: {problem}")));
    }
    let mut ports = Vec::new();
    match body.remove("ports") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for port in list {
                let mut port = match port {
                    Value::String(address) => Map::from_iter([("address".to_owned(), Value::String(address))]),
                    Value::Object(port) => port,
                    other => {
                        problems.push(format!("port {other} is neither an address nor an object"));
                        continue;
                    }
                };
                problems
                    .extend(unknown(port.keys(), PORT_KEYS).into_iter().map(|problem| format!("a port: {problem}")));
                match port.get("address").and_then(Value::as_str).map(input::mac) {
                    Some(Ok(mac)) => drop(port.insert("address".to_owned(), json!(mac))),
                    Some(Err(error)) => problems.push(error.to_string()),
                    None => problems.push("a port has no address".to_owned()),
                }
                ports.push(port);
            }
        }
        Some(_) => problems.push("ports is no list".to_owned()),
    }
    body.retain(|_, value| !value.is_null() && *value != json!({}));
    if problems.is_empty() { Ok(Draft { title, body, ports }) } else { Err(problems) }
}

/// What is given more than once.
fn twice(drafts: &[Draft]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for draft in drafts {
        let names = ["name", "uuid"].into_iter().filter_map(|key| Some((key, draft.body.get(key)?.as_str()?)));
        let addresses = draft.ports.iter().filter_map(|port| Some(("MAC address", port.get("address")?.as_str()?)));
        for (what, value) in names.chain(addresses) {
            if let Some(other) = seen.insert(format!("{what} {value}"), &draft.title) {
                problems.push(format!("{}: {what} {value} is also that of {other}", draft.title));
            }
        }
    }
    problems
}

/// What only the service knows: its drivers, and which names and addresses are taken.
async fn check_with_service(session: &Session, drafts: &[Draft]) -> Result<(), Error> {
    let drivers = session.api.get("/v1/drivers").await?;
    let known: Vec<&str> =
        drivers["drivers"].as_array().into_iter().flatten().filter_map(|driver| driver["name"].as_str()).collect();
    let mut problems = Vec::new();
    let wanted: BTreeSet<&str> = drafts.iter().filter_map(|draft| draft.body.get("driver")?.as_str()).collect();
    for driver in wanted.iter().filter(|driver| !known.contains(driver)) {
        problems.push(format!("the service has no driver {driver:?}; it has {}", known.join(", ")));
    }
    let nodes = session.api.nodes(&["uuid", "name"], &[]).await?;
    let taken: BTreeSet<&str> = nodes.iter().flat_map(|node| [node.title(), node.uuid()]).collect();
    for draft in drafts {
        for key in ["name", "uuid"] {
            if let Some(value) = draft.body.get(key).and_then(Value::as_str).filter(|value| taken.contains(value)) {
                problems.push(format!("{}: there is a node {value} already", draft.title));
            }
        }
    }
    let ports = session.api.list("ports", &[("fields", "uuid,address,node_uuid")], usize::MAX).await?;
    let owners: BTreeMap<&str, &str> =
        ports.iter().filter_map(|port| Some((port["address"].as_str()?, port["node_uuid"].as_str()?))).collect();
    for draft in drafts {
        for address in draft.ports.iter().filter_map(|port| port.get("address")?.as_str()) {
            if let Some(owner) = owners.get(address) {
                let owner = nodes.iter().find(|node| node.uuid() == *owner).map_or(*owner, Node::title);
                problems.push(format!("{}: MAC address {address} is that of node {owner} already", draft.title));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("nothing was recorded:\n  {}", problems.join("\n  ")), ""))
}

async fn record_all(session: &Session, drafts: Vec<Draft>) -> Vec<Outcome> {
    let one = |draft: Draft| async move {
        let (node, result) = record(session, &draft).await;
        let node = node.unwrap_or_else(|| Node(json!({"name": draft.title, "provision_state": "not recorded"})));
        Outcome { node, seconds: None, result: result.map_err(|error| Error::of(&draft.title, error)) }
    };
    stream::iter(drafts).map(one).buffered(AT_ONCE).collect().await
}

/// Records a node and its ports; a node whose ports are refused is taken back.
async fn record(session: &Session, draft: &Draft) -> (Option<Node>, Result<(), ApiError>) {
    let api = &session.api;
    let node = match api.change(Method::POST, "/v1/nodes", Some(&Value::Object(draft.body.clone()))).await {
        Ok(document) => Node(document),
        Err(error) => return (None, Err(error)),
    };
    for port in &draft.ports {
        let mut port = port.clone();
        port.insert("node_uuid".to_owned(), json!(node.uuid()));
        if let Err(error) = api.change(Method::POST, "/v1/ports", Some(&Value::Object(port))).await {
            // It is seconds old and nobody else's; what cannot be taken back is shown as recorded.
            let gone = api.change(Method::DELETE, &path(&["v1", "nodes", node.uuid()]), None).await.is_ok();
            return ((!gone).then_some(node), Err(error));
        }
    }
    (Some(node), Ok(()))
}

/// Manages, inspects and cleans those that were recorded, as far as the options say.
async fn go_on(session: &Session, args: &EnrollArgs, recorded: Vec<Outcome>) -> Result<(), Error> {
    let (mut good, mut bad): (Vec<Outcome>, Vec<Outcome>) =
        recorded.into_iter().partition(|outcome| outcome.result.is_ok());
    let goes_on = args.manage || args.inspect || args.provide;
    if session.output.format == Format::Table && !good.is_empty() && goes_on {
        let names: Vec<&str> = good.iter().map(|outcome| outcome.node.title()).collect();
        crate::output::note(&format!("recorded {}: {}", count(names.len()), names.join(", ")));
    }
    let mut verbs = Vec::new();
    if args.manage || args.inspect || args.provide {
        verbs.push(Verb::Manage);
    }
    if args.inspect || args.provide {
        verbs.push(Verb::Inspect);
    }
    if args.provide {
        verbs.push(Verb::Provide);
    }
    let last = verbs.last().copied();
    for verb in verbs {
        let mut nodes: Vec<Node> = std::mem::take(&mut good).into_iter().map(|outcome| outcome.node).collect();
        let request = Request::plain(verb);
        if verb == Verb::Provide {
            // What the watching has read of them is not all that decides what is lost.
            let named: Vec<String> = nodes.iter().map(|node| node.uuid().to_owned()).collect();
            nodes = session.nodes(&NodesArg { nodes: named }).await?;
            let does = Does::CleansUp { instance: false };
            let asked: Vec<_> = nodes.iter().map(|node| (node, &does)).collect();
            match args.consent.ask(&session.api, session.output, verb, &asked).await? {
                Go::On => {}
                Go::Home => return Ok(()),
            }
        }
        let begun = provision::begin(session, nodes, &request).await;
        // The next verb needs the state that this one leads to.
        if Some(verb) == last && !args.watch.watch {
            good = begun;
            break;
        }
        let (going, failed): (Vec<Outcome>, Vec<Outcome>) =
            begun.into_iter().partition(|outcome| outcome.result.is_ok());
        bad.extend(failed);
        let going = going.into_iter().map(|outcome| (outcome.node, request.goal)).collect();
        let ended = watch::watch(&session.api, session.output, going, args.watch.timeout).await;
        let (reached, failed): (Vec<Outcome>, Vec<Outcome>) =
            ended.into_iter().partition(|outcome| outcome.result.is_ok());
        bad.extend(failed);
        good = reached;
        if good.is_empty() {
            break;
        }
    }
    if last.is_none() && bad.is_empty() && session.output.format == Format::Table {
        let names = if let [one] = &good[..] { one.node.title().to_owned() } else { "NODE…".to_owned() };
        watch::report(session.output, good)?;
        crate::output::note(&format!("next: `ferric manage {names} --watch`, then inspect, provide, deploy"));
        return Ok(());
    }
    good.extend(bad);
    watch::report(session.output, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right() {
        let drafts = drafts("example", input::parse_document("example", EXAMPLE).unwrap()).unwrap();
        insta::assert_json_snapshot!(drafts.iter().map(shown).collect::<Vec<_>>());
    }

    #[test]
    fn all_mistakes_of_a_file_are_told_at_once() {
        let text = "nodes:\n\
                    - {name: n1, driver: redfish, driver_inf: {}, ports: [52:54:00:00:00:01]}\n\
                    - {name: n1, driver: fake-hardware, ports: [{address: 52-54-00-00-00-02, pxe: true}, 52:54:00]}\n\
                    - {driver_info: 7, properties: {root_device: {colour: red}}}\n\
                    - {name: n2, driver: fake-hardware, ports: [52:54:00:00:00:03]}\n\
                    - {name: n2, driver: fake-hardware, ports: ['52:54:00:00:00:03']}\n\
                    - n3\n";
        let error = drafts("nodes.yaml", input::parse_document("nodes.yaml", text).unwrap()).unwrap_err();
        insta::assert_snapshot!(crate::output::error_text(&error));
    }

    #[test]
    fn what_is_no_file_of_nodes_is_refused() {
        for (text, says) in [
            ("n1", "no list"),
            ("nodes: 7", "no list"),
            ("servers: []", "neither nodes nor defaults"),
            ("nodes: []", "0 nodes"),
            ("defaults: 7\nnodes: [{}]", "defaults are no object"),
        ] {
            let error = drafts("nodes.yaml", input::parse_document("nodes.yaml", text).unwrap()).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
