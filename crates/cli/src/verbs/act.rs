//! The verbs that ask for something: each with its arguments.

use super::deploy::{self, DeployArgs};
use super::enroll::{self, EnrollArgs};
use super::provision::{self, Request};
use super::{NodesArg, Session};
use crate::api::{ApiError, Node, path};
use crate::config_drive::public_key;
use crate::connect::Connection;
use crate::consent::{ConsentArgs, Go};
use crate::destroy::{self, Does};
use crate::error::Error;
use crate::input;
use crate::watch::{self, Goal, Outcome, WatchArgs};
use futures::{StreamExt as _, stream};
use http::Method;
use lifecycle::provision::{Kind, State, Verb};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What can be asked for.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Act {
    /// Record servers: one by options, or many from a file
    Enroll(Box<EnrollArgs>),
    /// Take nodes under management: their BMCs are tried
    Manage(PlainArgs),
    /// Boot the ramdisk to find out what the servers are
    Inspect(PlainArgs),
    /// Clean nodes and make them available
    Provide(RiskyArgs),
    /// Run clean steps by hand on manageable nodes
    #[command(after_help = "Example:\n  ferric clean n1 --step erase_devices_metadata --watch")]
    Clean(StepsArgs),
    /// Put an image on available nodes
    #[command(after_help = "\
Example:
  ferric deploy n1 --image http://images/debian.raw \\
      --checksum http://images/SHA256SUMS \\
      --ssh-key ~/.ssh/id_ed25519.pub --watch")]
    Deploy(Box<DeployArgs>),
    /// Put an image on active nodes anew
    Rebuild(Box<DeployArgs>),
    /// Take the instance off, and clean
    #[command(visible_alias = "release")]
    Undeploy(RiskyArgs),
    /// Take servers that run already over as they are
    Adopt(PlainArgs),
    /// Boot the ramdisk of active nodes for somebody to log in
    Rescue(RescueArgs),
    /// Boot the instance again after a rescue
    Unrescue(PlainArgs),
    /// Run service steps on active nodes
    Service(StepsArgs),
    /// Let nodes go on that a step holds
    Unhold(PlainArgs),
    /// Give up what nodes wait for
    Abort(RiskyArgs),
    /// End work that is stuck inside the driver (Ferric only)
    BreakOut(RiskyArgs),
    /// Switch servers on or off; one that is in use is switched off after a yes
    #[command(after_help = "Example:\n  ferric power off n1")]
    Power(PowerArgs),
    /// Set nodes aside, or take them back
    Maintenance(MaintenanceArgs),
    /// Forget nodes
    Delete(RiskyNodesArgs),
    /// Show nodes at work until they rest
    Watch(WatchNodesArgs),
}

/// Nodes, and whether to stay.
#[derive(Debug, clap::Args)]
pub(crate) struct PlainArgs {
    #[command(flatten)]
    nodes: NodesArg,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Nodes that may lose something.
#[derive(Debug, clap::Args)]
pub(crate) struct RiskyArgs {
    #[command(flatten)]
    nodes: NodesArg,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Nodes that may lose something, at once.
#[derive(Debug, clap::Args)]
pub(crate) struct RiskyNodesArgs {
    #[command(flatten)]
    nodes: NodesArg,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `clean` and `service`.
#[derive(Debug, clap::Args)]
pub(crate) struct StepsArgs {
    #[command(flatten)]
    nodes: NodesArg,
    /// A step: [INTERFACE.]NAME[,KEY=VALUE…]; without an interface it is the agent's. May be given several times
    #[arg(long, value_name = "STEP", group = "what")]
    step: Vec<String>,
    /// File of steps, YAML or JSON: a list of {interface, step, args}; - for standard input
    #[arg(long, value_name = "FILE", group = "what")]
    steps: Option<PathBuf>,
    /// Name or UUID of a runbook
    #[arg(long, value_name = "RUNBOOK", group = "what")]
    runbook: Option<String>,
    /// Do not boot the ramdisk: the steps are the BMC's alone
    #[arg(long)]
    no_ramdisk: bool,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Arguments of `rescue`.
#[derive(Debug, clap::Args)]
pub(crate) struct RescueArgs {
    #[command(flatten)]
    nodes: NodesArg,
    /// File with one line, the password of user rescue; without it and without a key, it is asked for
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Public key that may log in as rescue (agents of Ferric); may be given several times
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

/// What power can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PowerTarget {
    /// Switch it on
    On,
    /// Switch it off, at once
    Off,
    /// Off and on again, at once
    Reboot,
    /// Ask the operating system to shut down
    SoftOff,
    /// Ask the operating system to restart
    SoftReboot,
}

/// Arguments of `power`.
#[derive(Debug, clap::Args)]
pub(crate) struct PowerArgs {
    /// What to do
    #[arg(value_enum)]
    target: PowerTarget,
    #[command(flatten)]
    nodes: NodesArg,
    /// Seconds that an operating system has to shut down
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    shutdown_timeout: Option<u64>,
    #[command(flatten)]
    consent: ConsentArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Arguments of `maintenance`.
#[derive(Debug, clap::Args)]
pub(crate) struct MaintenanceArgs {
    /// on sets nodes aside, off takes them back
    #[arg(value_enum)]
    switch: Switch,
    #[command(flatten)]
    nodes: NodesArg,
    /// Why, for others to read
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchNodesArgs {
    /// Name or UUID of a node; all that are at work when none is named
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Longest time to stay, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

impl Act {
    /// Whether it must not change anything.
    fn dry_run(&self) -> bool {
        match self {
            Self::Enroll(args) => args.dry_run(),
            Self::Provide(args) | Self::Undeploy(args) | Self::Abort(args) | Self::BreakOut(args) => {
                args.consent.dry_run
            }
            Self::Power(args) => args.consent.dry_run,
            Self::Clean(args) | Self::Service(args) => args.consent.dry_run,
            Self::Deploy(args) | Self::Rebuild(args) => args.dry_run(),
            Self::Rescue(args) => args.consent.dry_run,
            Self::Delete(args) => args.consent.dry_run,
            Self::Manage(_)
            | Self::Inspect(_)
            | Self::Adopt(_)
            | Self::Unrescue(_)
            | Self::Unhold(_)
            | Self::Maintenance(_)
            | Self::Watch(_) => false,
        }
    }
}

/// Does what was asked for.
pub(crate) async fn run(act: &Act, connection: &Connection) -> Result<(), Error> {
    let session = &Session::new(connection, act.dry_run())?;
    match act {
        Act::Enroll(args) => enroll::run(session, args).await,
        Act::Manage(args) => plain(session, args, Verb::Manage).await,
        Act::Inspect(args) => plain(session, args, Verb::Inspect).await,
        Act::Adopt(args) => plain(session, args, Verb::Adopt).await,
        Act::Unrescue(args) => plain(session, args, Verb::Unrescue).await,
        Act::Unhold(args) => plain(session, args, Verb::Unhold).await,
        Act::Abort(args) => risky(session, args, Verb::Abort).await,
        Act::BreakOut(args) => risky(session, args, Verb::BreakOut).await,
        Act::Provide(args) => risky(session, args, Verb::Provide).await,
        Act::Undeploy(args) => risky(session, args, Verb::Deleted).await,
        Act::Clean(args) => steps(session, args, Verb::Clean).await,
        Act::Service(args) => steps(session, args, Verb::Service).await,
        Act::Deploy(args) => deploy::run(session, args, Verb::Active).await,
        Act::Rebuild(args) => deploy::run(session, args, Verb::Rebuild).await,
        Act::Rescue(args) => rescue(session, args).await,
        Act::Power(args) => power(session, args).await,
        Act::Maintenance(args) => maintenance(session, args).await,
        Act::Delete(args) => delete(session, args).await,
        Act::Watch(args) => watch_nodes(session, args).await,
    }
}

const NO_CONSENT: ConsentArgs = ConsentArgs { dry_run: false, yes: true };

async fn plain(session: &Session, args: &PlainArgs, verb: Verb) -> Result<(), Error> {
    provision::run(session, &args.nodes, &Request::plain(verb), NO_CONSENT, args.watch).await
}

async fn risky(session: &Session, args: &RiskyArgs, verb: Verb) -> Result<(), Error> {
    provision::run(session, &args.nodes, &Request::plain(verb), args.consent, args.watch).await
}

async fn steps(session: &Session, args: &StepsArgs, verb: Verb) -> Result<(), Error> {
    let steps = match &args.steps {
        Some(path) => input::steps_of(path)?,
        None => args.step.iter().map(|step| input::step(step)).collect::<Result<_, _>>()?,
    };
    let key = if verb == Verb::Clean { "clean_steps" } else { "service_steps" };
    let (mut more, does) = match &args.runbook {
        Some(name) => (json!({"runbook": name}), Does::Runbook(name.clone())),
        None if steps.is_empty() => {
            let remedy = match verb {
                Verb::Clean => "give --step NAME or --steps FILE; automated cleaning is part of `ferric provide`",
                _ => "give --step NAME or --steps FILE",
            };
            return Err(Error::usage("there is no step to run", remedy));
        }
        None => (json!({key: steps}), Does::Steps(steps)),
    };
    if args.no_ramdisk {
        more["disable_ramdisk"] = Value::Bool(true);
    }
    let goal = if verb == Verb::Clean { Goal::States(&["manageable"]) } else { Goal::States(&["active"]) };
    let request = Request { verb, more, patch: Vec::new(), forget: &[], goal, does: Some(does) };
    provision::run(session, &args.nodes, &request, args.consent, args.watch).await
}

/// Where agents of Ferric look for the keys of a rescue.
const RESCUE_KEYS: &str = "rescue_authorized_keys";

async fn rescue(session: &Session, args: &RescueArgs) -> Result<(), Error> {
    let keys: Vec<String> = args.ssh_key.iter().map(|path| public_key(path)).collect::<Result<_, _>>()?;
    if !args.consent.dry_run {
        // Nobody thinks of a password for what is refused.
        session.nodes(&args.nodes).await?.iter().try_for_each(|node| provision::in_time(node, Verb::Rescue))?;
    }
    let password = match &args.password_file {
        _ if args.consent.dry_run => String::new(),
        Some(path) => input::secret(path)?,
        // The API wants a password; one that nobody knows lets nobody in.
        None if !keys.is_empty() => format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()),
        None => input::new_password("Password for the user rescue")?,
    };
    let set = json!({"op": "add", "path": format!("/instance_info/{RESCUE_KEYS}"), "value": keys.join("\n") + "\n"});
    let request = Request {
        verb: Verb::Rescue,
        more: json!({"rescue_password": password}),
        // Keys of an earlier rescue let nobody in any more.
        forget: &[RESCUE_KEYS],
        patch: if keys.is_empty() { Vec::new() } else { vec![set] },
        goal: Goal::States(&["rescue"]),
        does: Some(Does::Interrupts),
    };
    provision::run(session, &args.nodes, &request, args.consent, args.watch).await
}

/// Sends the same request for each node.
async fn each(session: &Session, nodes: Vec<Node>, method: &Method, part: &str, body: Option<&Value>) -> Vec<Outcome> {
    let one = |node: Node| async move {
        let path = format!("{}{part}", path(&["v1", "nodes", node.uuid()]));
        let result = session.api.change(method.clone(), &path, body).await.map(drop);
        let result = result.map_err(|error| Error::of(node.title(), error));
        Outcome { node, seconds: None, result }
    };
    stream::iter(nodes).map(one).buffered(super::AT_ONCE).collect().await
}

async fn power(session: &Session, args: &PowerArgs) -> Result<(), Error> {
    let (target, goal) = match args.target {
        PowerTarget::On => ("power on", "power on"),
        PowerTarget::Off => ("power off", "power off"),
        PowerTarget::Reboot => ("rebooting", "power on"),
        PowerTarget::SoftOff => ("soft power off", "power off"),
        PowerTarget::SoftReboot => ("soft rebooting", "power on"),
    };
    let mut body = json!({"target": target});
    if let Some(timeout) = args.shutdown_timeout {
        body["timeout"] = json!(timeout);
    }
    let nodes = session.nodes(&args.nodes).await?;
    let does = match args.target {
        PowerTarget::On => Does::SwitchesOn,
        PowerTarget::Off | PowerTarget::Reboot => Does::SwitchesOff { at_once: true },
        PowerTarget::SoftOff | PowerTarget::SoftReboot => Does::SwitchesOff { at_once: false },
    };
    // A dry run tells of all nodes; a person is asked about those on which something ends.
    let ends = |node: &&Node| args.consent.dry_run || (does != Does::SwitchesOn && destroy::is_in_use(node));
    let asked: Vec<_> = nodes.iter().filter(ends).map(|node| (node, &does)).collect();
    if !asked.is_empty() && args.consent.ask_plainly(&session.api, session.output, target, &asked).await? == Go::Home {
        return Ok(());
    }
    let mut begun = each(session, nodes, &Method::PUT, "/states/power", Some(&body)).await;
    for outcome in begun.iter_mut().filter(|outcome| outcome.result.is_ok()) {
        if let Ok(node) = session.api.node(outcome.node.uuid()).await {
            outcome.node = node;
        }
    }
    provision::finish(session, begun, Goal::Power(goal), args.watch).await
}

async fn maintenance(session: &Session, args: &MaintenanceArgs) -> Result<(), Error> {
    let nodes = session.nodes(&args.nodes).await?;
    let body = json!({"reason": args.reason});
    let (method, body, word) = match args.switch {
        Switch::On => (Method::PUT, Some(&body), "in maintenance"),
        Switch::Off => (Method::DELETE, None, "taken back"),
    };
    let done = each(session, nodes, &method, "/maintenance", body).await;
    said(session, done, word)
}

async fn delete(session: &Session, args: &RiskyNodesArgs) -> Result<(), Error> {
    let nodes = session.nodes(&args.nodes).await?;
    if !args.consent.yes && !args.consent.dry_run {
        nodes.iter().try_for_each(deletable)?;
    }
    let asked: Vec<_> = nodes.iter().map(|node| (node, &Does::Forgets)).collect();
    if args.consent.ask_plainly(&session.api, session.output, "delete", &asked).await? == Go::Home {
        return Ok(());
    }
    let mut done = each(session, nodes, &Method::DELETE, "", None).await;
    for outcome in &mut done {
        if let Err(Error::Node { remedy, source, .. }) = &mut outcome.result
            && matches!(**source, ApiError::Refused { status: 400 | 409, .. })
        {
            *remedy = remedy.take().or_else(|| Some(before_delete(&outcome.node)));
        }
    }
    said(session, done, "deleted")
}

/// Nobody is asked to agree to what the service would refuse.
fn deletable(node: &Node) -> Result<(), Error> {
    match node.state().parse::<State>() {
        Ok(state) if !state.allows_delete(node.flag("maintenance")) => Err(Error::TooEarly {
            node: node.title().to_owned(),
            verb: "delete",
            state: node.state().to_owned(),
            remedy: before_delete(node),
        }),
        _ => Ok(()),
    }
}

/// What makes a node one that may be deleted.
fn before_delete(node: &Node) -> String {
    let name = node.title();
    let first = match super::way::to_rest(node.state()) {
        Some(verb) => format!("first `ferric {verb} {name}`; or"),
        None => "in any state:".to_owned(),
    };
    format!("{first} `ferric maintenance on {name}`, which lets it be deleted as it is")
}

/// Says of each node that something is done.
fn said(session: &Session, done: Vec<Outcome>, word: &str) -> Result<(), Error> {
    use crate::connect::Format;
    if session.output.format == Format::Table {
        let names: Vec<&Outcome> = done.iter().filter(|outcome| outcome.result.is_ok()).collect();
        let text: String = names.iter().map(|outcome| format!("{}: {word}\n", outcome.node.title())).collect();
        session.output.result(&text, &Value::Null);
        let failed: Vec<Outcome> = done.into_iter().filter(|outcome| outcome.result.is_err()).collect();
        return if failed.is_empty() { Ok(()) } else { watch::report(session.output, failed) };
    }
    watch::report(session.output, done)
}

/// Whether something is done to it; a node that failed keeps its target.
fn at_work(node: &Node) -> bool {
    !matches!(node.kind(), Kind::Stable | Kind::Failed)
}

async fn watch_nodes(session: &Session, args: &WatchNodesArgs) -> Result<(), Error> {
    let nodes = if args.nodes.is_empty() {
        let fields = ["uuid", "name", "provision_state", "target_provision_state", "power_state"];
        let all = session.api.nodes(&fields, &[]).await?;
        let count = all.len();
        let working: Vec<Node> = all.into_iter().filter(at_work).collect();
        if working.is_empty() {
            session.output.result(&format!("Nothing is going on; nodes at rest: {count}."), &json!([]));
            return Ok(());
        }
        working
    } else {
        session.nodes(&NodesArg { nodes: args.nodes.clone() }).await?
    };
    let goals = nodes.into_iter().map(|node| (node, Goal::Rest)).collect();
    watch::report(session.output, watch::watch(&session.api, session.output, goals, args.timeout).await)
}
