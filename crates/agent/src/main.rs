//! `ferric-agent`: PID 1 of the ramdisk, or a program that shows the agent's API on any Linux host.

use agent::external::check::{self, Trial};
use agent::standalone::{self, Options, Tls};
use agent::{Token, logs, ramdisk};
use clap::Parser;
use hardware::StepKind;
use hardware_linux::LinuxMachine;
use serde_json::{Map, Value};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The bare-metal agent. As PID 1 of a ramdisk it takes its settings from the kernel command line and virtual media.
#[derive(Debug, Parser)]
#[command(name = "ferric-agent", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Serve the agent's API as an ordinary program: hardware is read, whatever would write is refused.
    #[arg(long, required = true)]
    standalone: bool,
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9999")]
    listen: SocketAddr,
    /// Token that commands have to carry. Without one every command is refused.
    #[arg(long, env = "FERRIC_AGENT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// `auto` for a generated certificate (TLS 1.3 alone), `off` for plain HTTP, or the PEM files CERTIFICATE,KEY.
    #[arg(long, default_value = "off")]
    tls: Tls,
    /// Log level, or `target=level` directives with commas between them.
    #[arg(long, env = "FERRIC_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Try the contract of hardware managers out on an executable one. Changes nothing, unless --run names a step.
    CheckManager(CheckManager),
}

#[derive(Debug, clap::Args)]
struct CheckManager {
    /// The executable.
    program: PathBuf,
    /// Runs this step for real, on this machine: KIND/STEP, with KIND clean, deploy or service.
    #[arg(long, value_name = "KIND/STEP", value_parser = step)]
    run: Option<(StepKind, String)>,
    /// Arguments of the step, a JSON object.
    #[arg(long, default_value = "{}", value_parser = json::<Map<String, Value>>, requires = "run")]
    args: Map<String, Value>,
    /// The node document that the step gets, a JSON object.
    #[arg(long, default_value = "{}", value_parser = json::<Map<String, Value>>, requires = "run")]
    node: Map<String, Value>,
}

fn step(text: &str) -> Result<(StepKind, String), String> {
    let kinds = [StepKind::Clean, StepKind::Deploy, StepKind::Service];
    let found = text.split_once('/').and_then(|(kind, step)| {
        let kind = kinds.into_iter().find(|known| known.as_str() == kind)?;
        Some((kind, step.to_owned()))
    });
    found.ok_or_else(|| "it is not KIND/STEP, such as clean/update_firmware".to_owned())
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

fn check_manager(arguments: CheckManager) -> ExitCode {
    let CheckManager { program, run, args, node } = arguments;
    let trial = run.map(|(kind, step)| Trial { kind, step, args, node: Value::Object(node) });
    let report = check::check(&program, trial);
    // Nobody reads on: the exit status still tells.
    let _ = std::io::stdout().write_all(report.text.as_bytes());
    if report.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        ramdisk::main(|builder| builder);
    }
    let arguments = Arguments::parse();
    if let Some(Verb::CheckManager(check)) = arguments.verb {
        return check_manager(check);
    }
    let buffer = logs::start(&arguments.log);
    match serve(arguments, buffer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", transport::client::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments, buffer: logs::LogBuffer) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = Options { listen: arguments.listen, token: arguments.token.map(Token::new), tls: arguments.tls };
    let stop = CancellationToken::new();
    runtime.block_on(async {
        let interrupted = stop.clone();
        tokio::spawn(async move {
            let _ = tokio::signal::ctrl_c().await;
            interrupted.cancel();
        });
        standalone::run(Arc::new(LinuxMachine::at("/")), options, buffer, stop).await
    })?;
    Ok(())
}
