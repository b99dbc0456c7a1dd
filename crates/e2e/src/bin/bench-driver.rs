//! `cargo xtask bench driver`: heartbeats, look-ups and the API of ferricd beside those of Ironic.

use clap::Parser;
use e2e::bench::driver::{Plan, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Load both servers in turns and print who did how much.
#[derive(Parser)]
struct Args {
    /// The program ferricd
    #[arg(long)]
    ferricd: PathBuf,
    /// The Python environment with Ironic
    #[arg(long)]
    ironic: PathBuf,
    /// Folder for the servers' files; made anew
    #[arg(long, default_value = "target/bench/driver")]
    dir: PathBuf,
    /// Nodes of each
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Turns of each load
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that a load lasts
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let dir = std::path::absolute(&args.dir)?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let verdict = run(&Plan {
        ferricd: std::path::absolute(&args.ferricd)?,
        ironic: args.ironic,
        dir,
        nodes: args.nodes,
        rounds: args.rounds,
        time: Duration::from_secs(args.seconds),
    })
    .await?;
    #[expect(clippy::print_stdout, reason = "the table is what was asked for")]
    {
        print!("{}", verdict.table);
    }
    Ok(if verdict.met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
