//! The `ferric` command through the life of three nodes without hardware, as somebody would type it.

use super::World;
use crate::lab::Lab;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;
use tokio::process::Command;

const NODES: &str = "\
defaults: {driver: fake-hardware, resource_class: small}
nodes:
  - {name: rack1-n1, ports: [52:54:00:00:07:01], properties: {root_device: {serial: '00123'}}}
  - {name: rack1-n2, ports: [52:54:00:00:07:02]}
  - {name: rack1-n10, ports: [{address: 52-54-00-00-07-10, pxe_enabled: true}]}
";
const ALL: [&str; 3] = ["rack1-n1", "rack1-n2", "rack1-n10"];
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPeJ1m5c5Yh4mC1v1nVUq7Z2v0bq3W1l5Jm0m0m0m0m0 me@here\n";
const IMAGE: [&str; 2] = ["--image", "http://images/debian.raw"];

/// The command, pointed at the story's service by the environment.
#[derive(Debug)]
pub(super) struct Ferric {
    program: PathBuf,
    home: PathBuf,
    url: &'static str,
}

impl Ferric {
    /// The one that was built beside the stories.
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?.with_file_name("ferric");
        ensure!(program.is_file(), "{} is not there; `cargo xtask e2e` builds it", program.display());
        Ok(Self { program, home: lab.dir().to_owned(), url: crate::ferricd::API })
    }

    async fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", &self.home).env("FERRIC_URL", self.url).current_dir(&self.home);
        command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(120), command.output()).await;
        ended.with_context(|| format!("ferric {} does not end", arguments.join(" ")))?.context("start ferric")
    }

    /// Runs it and returns what it printed.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments).await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "ferric {} ended with {}: {out}{err}", arguments.join(" "), output.status);
        Ok(out.into_owned())
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("ferric {} printed no JSON: {text}", arguments.join(" ")))
    }

    /// Runs what has to end with `code`, and says `word` of it on standard error.
    async fn refused(&self, arguments: &[&str], code: i32, word: &str) -> Result<()> {
        let output = self.output(arguments).await?;
        let err = String::from_utf8_lossy(&output.stderr);
        // Lines are as long as a terminal is wide.
        let flat = err.split_whitespace().collect::<Vec<_>>().join(" ");
        let what = arguments.join(" ");
        ensure!(output.status.code() == Some(code), "ferric {what} ended with {}, not {code}: {err}", output.status);
        ensure!(flat.contains(word), "ferric {what} does not say {word:?}: {err}");
        Ok(())
    }

    async fn states(&self) -> Result<Vec<(String, String)>> {
        let nodes = self.json(&["node", "list"]).await?;
        let nodes = nodes.as_array().context("ferric node list -o json printed no list")?.clone();
        let text = |node: &Value, key: &str| node[key].as_str().unwrap_or_default().to_owned();
        Ok(nodes.iter().map(|node| (text(node, "name"), text(node, "provision_state"))).collect())
    }

    async fn all_are(&self, state: &str) -> Result<()> {
        let found = self.states().await?;
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        // In the order of people.
        ensure!(names == ALL, "the list is {names:?}");
        match found.iter().find(|(_, found)| found != state) {
            Some((name, found)) => bail!("{name} is {found}, not {state}"),
            None => Ok(()),
        }
    }
}

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let _ferricd = world.start_ferricd().await?;
    operate(world, true).await?;
    let ferric = Ferric::new(&world.lab)?;
    world.console.begin("what only ferricd tells");
    let key = ferric.run(&["erasures", "key"]).await?;
    ensure!(key.starts_with("-----BEGIN PUBLIC KEY-----"), "the key of erasures is {key}");
    world.console.end("");
    Ok(())
}

/// What an operator does; `own`: whether the service has what only Ferric has.
pub(super) async fn operate(world: &mut World, own: bool) -> Result<()> {
    let ferric = &Ferric::new(&world.lab)?;
    let dir = world.lab.dir().to_owned();
    std::fs::write(dir.join("nodes.yaml"), NODES)?;
    std::fs::write(dir.join("key.pub"), KEY)?;

    world.console.begin("enroll from a file; manage, inspect, provide");
    ferric.run(&["enroll", "-f", "nodes.yaml", "--dry-run"]).await?;
    ensure!(ferric.states().await?.is_empty(), "a dry run has recorded nodes");
    ferric.run(&["enroll", "-f", "nodes.yaml", "--provide", "--yes", "--watch"]).await?;
    ferric.all_are("available").await?;
    let shown = ferric.json(&["node", "show", ALL[0]]).await?;
    ensure!(shown["properties"]["root_device"]["serial"] == "00123", "a serial number became a number: {shown}");
    ferric.refused(&["enroll", "-f", "nodes.yaml"], 2, "there is a node rack1-n1 already").await?;
    world.console.end("");

    world.console.begin("deploy");
    let checksum = format!("sha256:{}", "ab".repeat(32));
    let what = [&IMAGE[..], &["--checksum", &checksum, "--ssh-key", "key.pub"]].concat();
    let deploy = [&["deploy"][..], &ALL, &what].concat();
    ferric.refused(&deploy, 2, "--yes").await?;
    let lost = ferric.json(&[&deploy[..], &["--dry-run"]].concat()).await?;
    ensure!(lost["dry_run"] == true && lost["nodes"].as_array().is_some_and(|all| all.len() == 3), "{lost}");
    ferric.all_are("available").await?;
    let done = ferric.json(&[&deploy[..], &["--yes", "--watch", "--timeout", "60"]].concat()).await?;
    let good = |one: &Value| one["provision_state"] == "active" && one["error"].is_null();
    ensure!(done.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(good)), "the deploy says {done}");
    ferric.all_are("active").await?;
    // The other command sees the same.
    let seen = world.baremetal.json(&["node", "show", ALL[1]]).await?;
    ensure!(seen["instance_info"]["image_os_hash_algo"] == "sha256", "baremetal shows {}", seen["instance_info"]);
    ferric.refused(&[&["deploy", ALL[0], "--yes"][..], &what].concat(), 11, "ferric rebuild rack1-n1").await?;
    ferric.run(&[&["rebuild", ALL[0], "--yes", "--watch"][..], &what].concat()).await?;
    world.console.end("");

    world.console.begin("look");
    ferric.refused(&["node", "show", "rack1-n3"], 10, "did you mean").await?;
    let history = ferric.run(&["node", "history", ALL[0]]).await?;
    ensure!(history.to_lowercase().contains("deploy"), "the history is {history}");
    ferric.run(&["node", "validate", ALL[0]]).await?;
    ferric.run(&["node", "progress", ALL[0]]).await?;
    ferric.run(&["watch"]).await?;
    let why = ferric.run(&["node", "why", ALL[0]]).await?;
    ensure!(why.contains("ferric rebuild rack1-n1"), "what can be done is {why}");
    for verb in [&["node", "erasures", ALL[0]][..], &["node", "logs", ALL[0]]] {
        if own {
            ferric.run(verb).await?;
        } else {
            ferric.refused(verb, 14, "addition of Ferric's").await?;
        }
    }
    let version = ferric.json(&["version"]).await?;
    ensure!(version["service"]["api_version"] == "1.115", "the version is {version}");
    world.console.end("");

    world.console.begin("power, maintenance, undeploy, delete");
    // A node that is off has nothing that ends.
    ferric.run(&["power", "on", ALL[0], ALL[1], "--watch"]).await?;
    ferric.refused(&["power", "off", ALL[0]], 2, "--yes").await?;
    let lost = ferric.json(&["power", "off", ALL[0], "--dry-run"]).await?;
    ensure!(lost["dry_run"] == true && lost["nodes"][0]["node"] == ALL[0], "a dry run of power off says {lost}");
    let on = ferric.json(&["node", "show", ALL[0]]).await?;
    ensure!(on["power_state"] == "power on", "a refused power off has left it {}", on["power_state"]);
    ferric.run(&["power", "off", ALL[0], ALL[1], "--yes", "--watch"]).await?;
    ferric.run(&["maintenance", "on", ALL[2], "--reason", "a new fan"]).await?;
    let trouble = ferric.run(&["node", "list", "--trouble"]).await?;
    ensure!(trouble.contains("a new fan") && !trouble.contains(ALL[1]), "nodes in trouble are {trouble}");
    ferric.run(&["maintenance", "off", ALL[2]]).await?;
    ferric.refused(&["delete", ALL[0], "--yes"], 11, "ferric undeploy rack1-n1").await?;
    ferric.run(&[&["undeploy", "--yes", "--watch"][..], &ALL].concat()).await?;
    ferric.all_are("available").await?;
    ferric.run(&[&["delete", "--yes"][..], &ALL].concat()).await?;
    ensure!(ferric.states().await?.is_empty(), "nodes are left");
    world.console.end("");
    Ok(())
}
