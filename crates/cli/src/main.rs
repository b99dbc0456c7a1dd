//! `ferric`: writes, explains and verifies disk images without a node. Its exit codes are in `exit.rs`.

mod exit;
mod image;
mod output;

use clap::Parser;
use std::process::ExitCode;

/// The image pipeline of Ferric, usable alone.
#[derive(Debug, Parser)]
#[command(name = "ferric", version, after_help = exit::Exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write, explain and verify disk images
    #[command(subcommand)]
    Image(image::Verb),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { verb: Verb::Image(verb) } = Arguments::parse();
    let output = output::Output::new(verb.json());
    match image::run(verb, &output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit() as u8)
        }
    }
}
