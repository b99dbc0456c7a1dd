//! `ferric node set`: the settings of nodes that operators change most.

use super::{AT_ONCE, NodesArg, Session};
use crate::api::{Node, path};
use crate::error::Error;
use crate::input;
use crate::watch::{self, Outcome};
use futures::{StreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Answer {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Clean {
    On,
    Off,
    /// As the site has it
    Default,
}

/// Arguments of `set`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "ferric node set [OPTIONS] <NODE>...")]
#[group(required = true, multiple = true, args = ["name", "driver_info", "bmc_password_file", "property", "extra",
        "instance_info", "interface", "resource_class", "description", "automated_clean", "protected", "unset"])]
pub(crate) struct SetArgs {
    #[command(flatten)]
    nodes: NodesArg,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// How to reach the BMC; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    driver_info: Vec<String>,
    /// File with one line, the password of the BMC's user
    #[arg(long, value_name = "FILE")]
    bmc_password_file: Option<PathBuf>,
    /// What the machine is; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// What you want to remember; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    extra: Vec<String>,
    /// What is to be installed; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    instance_info: Vec<String>,
    /// An interface, such as deploy=direct; may be given several times
    #[arg(long, value_name = "KIND=NAME")]
    interface: Vec<String>,
    /// Class by which schedulers choose
    #[arg(long, value_name = "CLASS")]
    resource_class: Option<String>,
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether the node is cleaned before it becomes available
    #[arg(long, value_enum, value_name = "ON|OFF|DEFAULT")]
    automated_clean: Option<Clean>,
    /// Whether its instance may be taken off
    #[arg(long, value_enum, value_name = "YES|NO")]
    protected: Option<Answer>,
    /// Take a setting away: a field, or field/key such as properties/root_device; may be given several times
    #[arg(long, value_name = "FIELD[/KEY]")]
    unset: Vec<String>,
}

/// Changes nodes.
pub(crate) async fn run(session: &Session, args: &SetArgs) -> Result<(), Error> {
    if args.name.is_some() && args.nodes.nodes.len() > 1 {
        return Err(Error::usage("--name is for one node", "name one node, or leave --name out"));
    }
    let nodes = session.nodes(&args.nodes).await?;
    let patches = nodes.iter().map(|node| patch(args, node)).collect::<Result<Vec<_>, _>>()?;
    let one = |(node, patch): (Node, Value)| async move {
        let at = path(&["v1", "nodes", node.uuid()]);
        match session.api.change(Method::PATCH, &at, Some(&patch)).await {
            Ok(changed) => Outcome { node: Node(changed), seconds: None, result: Ok(()) },
            Err(error) => Outcome { result: Err(Error::of(node.title(), error)), node, seconds: None },
        }
    };
    let done: Vec<Outcome> = stream::iter(nodes.into_iter().zip(patches)).map(one).buffered(AT_ONCE).collect().await;
    watch::report(session.output, done)
}

fn patch(args: &SetArgs, node: &Node) -> Result<Value, Error> {
    let mut patch = Vec::new();
    let mut set = |path: String, value: Value| patch.push(json!({"op": "add", "path": path, "value": value}));
    for (field, option, given) in [
        ("driver_info", "--driver-info", &args.driver_info),
        ("properties", "--property", &args.property),
        ("extra", "--extra", &args.extra),
        ("instance_info", "--instance-info", &args.instance_info),
    ] {
        for given in given {
            let (key, value) = input::pair(option, given)?;
            set(format!("/{field}/{}", escaped(&key)), value);
        }
    }
    if let Some(file) = &args.bmc_password_file {
        let key = password_key(node)?;
        set(format!("/driver_info/{key}"), json!(input::secret(file)?));
    }
    for given in &args.interface {
        let (kind, name) = input::pair("--interface", given)?;
        set(format!("/{}_interface", escaped(&kind)), name);
    }
    for (field, value) in
        [("name", &args.name), ("resource_class", &args.resource_class), ("description", &args.description)]
    {
        if let Some(value) = value {
            set(format!("/{field}"), json!(value));
        }
    }
    if let Some(clean) = args.automated_clean {
        let value = match clean {
            Clean::On => json!(true),
            Clean::Off => json!(false),
            Clean::Default => Value::Null,
        };
        set("/automated_clean".to_owned(), value);
    }
    if let Some(answer) = args.protected {
        set("/protected".to_owned(), json!(answer == Answer::Yes));
    }
    for unset in &args.unset {
        let path: String = unset.split('/').map(|part| format!("/{}", escaped(part))).collect();
        patch.push(json!({"op": "remove", "path": path}));
    }
    Ok(Value::Array(patch))
}

/// The key of the BMC's password, by the node's driver.
fn password_key(node: &Node) -> Result<String, Error> {
    match node.text("driver") {
        Some(driver @ ("redfish" | "ipmi")) => Ok(format!("{driver}_password")),
        other => Err(Error::usage(
            format!("--bmc-password-file: the BMC's password of driver {} is not known here", other.unwrap_or("-")),
            "give --driver-info KEY=VALUE",
        )),
    }
}

/// A part of a JSON pointer (RFC 6901, section 4).
fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: SetArgs,
    }

    #[test]
    fn settings_become_one_patch() {
        let parsed = Only::try_parse_from([
            "set",
            "n1",
            "--driver-info",
            "redfish_username=admin",
            "--property",
            "a/b=1",
            "--extra",
            "rack=7",
            "--interface",
            "deploy=direct",
            "--automated-clean",
            "default",
            "--protected",
            "no",
            "--unset",
            "properties/root_device",
        ]);
        let args = parsed.map(|only| only.args).unwrap();
        insta::assert_json_snapshot!(patch(&args, &Node(json!({"driver": "redfish"}))).unwrap());
    }

    #[test]
    fn nothing_to_set_is_a_mistake() {
        assert!(Only::try_parse_from(["set", "n1"]).is_err());
    }
}
