//! `ferric`: writes, explains and verifies disk images without a node. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod image;
mod output;

use clap::Parser;
use std::process::ExitCode;

/// The image pipeline of Ferric, usable alone.
///
/// Exit codes: 0 done, 1 failed (the message says in which state the target is), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "ferric", version)]
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
            ExitCode::FAILURE
        }
    }
}
