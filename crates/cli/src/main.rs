//! `ferric`: an operator's command for nodes, and the image pipeline without one. It talks to the public API alone. Its
//! exit codes are in `exit.rs`.

mod api;
mod config_drive;
mod connect;
mod consent;
mod destroy;
#[cfg(test)]
mod docs;
mod error;
mod exit;
mod image;
mod input;
mod output;
mod table;
mod verbs;
mod watch;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use connect::{Connection, Format};
use error::Error;
use output::Output;
use serde_json::json;
use std::process::ExitCode;
use verbs::act::Act;
use verbs::look::Look;
use verbs::{ErasureVerb, ErasuresArgs};

/// Bare-metal servers: enroll, inspect, clean, deploy, and see what they do.
#[derive(Debug, Parser)]
#[command(name = "ferric", version, after_help = FIRST, after_long_help = long_help())]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Verb {
    /// Look at nodes: list, show, why, logs, history, …
    #[command(subcommand)]
    Node(NodeVerb),
    #[command(flatten)]
    Act(Act),
    /// Show and verify signed records of erasures
    #[command(subcommand)]
    Erasures(ErasureVerb),
    /// Write, explain and verify disk images, without a node
    #[command(subcommand, after_long_help = exit::Exit::HELP)]
    Image(image::Verb),
    /// Print completions for a shell
    #[command(after_help = "\
Where shells look for them:
  bash  ferric completions bash > ~/.local/share/bash-completion/completions/ferric
  zsh   ferric completions zsh > DIR/_ferric, of a DIR in $fpath
  fish  ferric completions fish > ~/.config/fish/completions/ferric.fish")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version of this program and of the service
    Version,
    #[command(flatten)]
    Look(Look),
}

#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum NodeVerb {
    #[command(flatten)]
    Look(Look),
    /// Show signed records of what was erased (Ferric only)
    Erasures(ErasuresArgs),
    #[command(flatten)]
    Act(Act),
}

/// What somebody needs who sees this for the first time.
const FIRST: &str = "\
First steps:
  export FERRIC_URL=http://127.0.0.1:6385      where the API is
  ferric enroll n1 --bmc https://192.0.2.9 --bmc-user admin
  ferric manage n1 --watch                     try the BMC
  ferric inspect n1 --watch                    find out what it is
  ferric provide n1 --watch                    clean, make available
  ferric deploy n1 --image URL --checksum sha256:HEX --ssh-key KEY.pub --watch
  ferric node why n1                           when it is not where it should be

--help says how the service is found, and what exit codes mean.";

fn long_help() -> String {
    let first = FIRST.rsplit_once("\n\n").map_or(FIRST, |(steps, _)| steps);
    format!("{first}\n\n{}\n\n{}", connect::HELP, exit::Exit::HELP)
}

/// The command line. Each verb about nodes is one of `ferric` and of `ferric node`, so that whoever looks for it in
/// the other place finds it; help shows it in one.
fn command() -> clap::Command {
    let mut command = Arguments::command();
    let names = |command: clap::Command| -> Vec<String> {
        command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
    };
    for name in names(<Look as clap::Subcommand>::augment_subcommands(clap::Command::new("look"))) {
        command = command.mut_subcommand(name, |verb| verb.hide(true));
    }
    for name in names(<Act as clap::Subcommand>::augment_subcommands(clap::Command::new("act"))) {
        command = command.mut_subcommand("node", |node| node.mut_subcommand(name, |verb| verb.hide(true)));
    }
    // Global options reach every verb; those without a node ask no service.
    command.build();
    for name in ["image", "completions"] {
        command = command.mut_subcommand(name, without_service);
    }
    command
}

fn without_service(verb: clap::Command) -> clap::Command {
    let hide = |mut verb: clap::Command| {
        for name in ["api_url", "api_context", "api_user", "api_cacert", "api_output"] {
            if verb.get_arguments().any(|argument| argument.get_id() == name) {
                verb = verb.mut_arg(name, |argument| argument.hide(true));
            }
        }
        verb
    };
    let inner: Vec<String> = verb.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    inner.into_iter().fold(hide(verb), |verb, name| verb.mut_subcommand(name, hide))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    let output = Output { format: arguments.connection.output };
    let ended = run(arguments).await;
    if let Some(reason) = output::lost() {
        output.error(&Error::Unwritten(reason.to_owned()));
        return ExitCode::from(exit::Exit::Fault as u8);
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Image(error)) => {
            // It has told it in its own way already.
            ExitCode::from(error.exit() as u8)
        }
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit() as u8)
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let Arguments { verb, connection } = arguments;
    match verb {
        Verb::Node(NodeVerb::Look(look)) | Verb::Look(look) => verbs::look::run(&look, &connection).await,
        Verb::Node(NodeVerb::Act(act)) | Verb::Act(act) => verbs::act::run(&act, &connection).await,
        Verb::Node(NodeVerb::Erasures(args)) => verbs::erasures(&args, &connection).await,
        Verb::Erasures(ErasureVerb::Show(args)) => verbs::erasures(&args, &connection).await,
        Verb::Erasures(ErasureVerb::Verify(args)) => verbs::verify_erasure(&args, Output { format: connection.output }),
        Verb::Erasures(ErasureVerb::Key) => verbs::erasure_key(&connection).await,
        Verb::Image(verb) => {
            let output = image::Output::new(verb.json() || connection.output == Format::Json);
            let result = image::run(verb, &output).await;
            result.inspect_err(|error| output.error(error)).map_err(Error::Image)
        }
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "ferric", &mut std::io::stdout());
            Ok(())
        }
        Verb::Version => version(&connection).await,
    }
}

async fn version(connection: &Connection) -> Result<(), Error> {
    let own = env!("CARGO_PKG_VERSION");
    let session = verbs::Session::new(connection, true)?;
    let url = session.api.endpoint().url.clone();
    let root = session.api.get("/").await;
    let (service, text) = match &root {
        Ok(root) => {
            let description = root["description"].as_str().unwrap_or_default();
            let highest = root.pointer("/default_version/version").and_then(serde_json::Value::as_str);
            let (name, highest) = (root["name"].as_str().unwrap_or_default(), highest.unwrap_or("unknown"));
            let document = json!({"url": url, "name": name, "description": description, "api_version": highest});
            (
                document,
                format!(
                    "{url}: {name}, up to version {highest}\n  {}",
                    table::wrap(description, 76).replace('\n', "\n  ")
                ),
            )
        }
        // What was asked for first is known all the same.
        Err(error) => {
            let reason = transport::client::chain(error);
            (json!({"url": url, "error": reason}), format!("{url}: {reason}"))
        }
    };
    let api = wire::ironic::Version::MAX;
    let document = json!({"version": own, "api_version": api.to_string(), "service": service});
    session.output.result(&format!("ferric {own}, API up to version {api}\n{text}"), &document);
    Ok(())
}
