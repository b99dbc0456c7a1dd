//! `ferric-agent`: PID 1 of the ramdisk, or a program that shows the agent's API on any Linux host.

use agent::standalone::{self, Options, Tls};
use agent::{Token, logs, ramdisk};
use clap::Parser;
use hardware_linux::LinuxMachine;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The bare-metal agent. As PID 1 of a ramdisk it takes its settings from the kernel command line and virtual media.
#[derive(Debug, Parser)]
#[command(name = "ferric-agent", version)]
struct Arguments {
    /// Serve the agent's API as an ordinary program: hardware is read, whatever would write is refused.
    #[arg(long, required = true)]
    standalone: bool,
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9999")]
    listen: SocketAddr,
    /// Token that commands have to carry. Without one every command is refused.
    #[arg(long, env = "FERRIC_AGENT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// `auto` for a generated certificate, `off` for plain HTTP, or the PEM files CERTIFICATE,KEY.
    #[arg(long, default_value = "off")]
    tls: Tls,
    /// Log level or tracing directives.
    #[arg(long, env = "FERRIC_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        ramdisk::main();
    }
    let arguments = Arguments::parse();
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
