//! Runs stories and the demo, each in namespaces of its own. `cargo xtask e2e` and `cargo xtask demo` build what it
//! needs and start it.

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use e2e::isolate::{self, Ended, KEPT};
use e2e::stories::interop::{IRONIC, IRONIC_PREFIX};
use e2e::stories::ipa::{IPA, IPA_PREFIX};
use e2e::stories::{STORIES, Story, World, tell};
use e2e::{Accelerator, Artifacts, demo};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Who stands in for one of our programs.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// Ironic, in place of ferricd
    Ironic,
    /// ironic-python-agent, in place of ours
    Ipa,
}

/// The stories that a command is about.
fn stories(peer: Option<Peer>) -> &'static [Story] {
    match peer {
        None => STORIES,
        Some(Peer::Ironic) => IRONIC,
        Some(Peer::Ipa) => IPA,
    }
}

#[derive(Subcommand)]
enum Command {
    /// List the stories
    List {
        /// Those with this peer in place of one of our programs
        #[arg(long)]
        peer: Option<Peer>,
    },
    /// Tell stories, all of them unless some are named
    Run {
        /// Those with this peer in place of one of our programs
        #[arg(long)]
        peer: Option<Peer>,
        /// Names of stories
        stories: Vec<String>,
        #[command(flatten)]
        artifacts: Artifacts,
    },
    /// From powered off to a running Debian
    Demo {
        /// Leave everything running
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        artifacts: Artifacts,
    },
    /// Started by ourselves: makes the first process of new namespaces
    #[command(hide = true)]
    Inside {
        dir: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Started by ourselves: the first process of new namespaces
    #[command(hide = true)]
    First {
        dir: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Started by ourselves: one story in its namespaces; the name `demo` is the demo
    #[command(hide = true)]
    Story {
        name: String,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        accelerator: Accelerator,
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        artifacts: Artifacts,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        // Before there is any other thread.
        Command::Inside { dir, arguments } => isolate::inside(&dir, &arguments),
        command => run(command),
    };
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> Result<i32> {
    match command {
        Command::List { peer } => {
            list(peer);
            Ok(0)
        }
        Command::Run { peer, stories, artifacts } => tell_all(peer, &stories, &artifacts).await,
        Command::Demo { keep, artifacts } => show(keep, &artifacts).await,
        Command::Inside { dir, arguments } => isolate::inside(&dir, &arguments),
        Command::First { dir, arguments } => isolate::first(&dir, &arguments).await,
        Command::Story { name, dir, accelerator, keep, artifacts } => {
            story(&name, &dir, accelerator, keep, &artifacts).await
        }
    }
}

#[expect(clippy::print_stdout, reason = "the list is what was asked for")]
fn list(peer: Option<Peer>) {
    for story in stories(peer) {
        println!("{:<16} {}", story.name, story.about);
    }
}

async fn tell_all(peer: Option<Peer>, names: &[String], artifacts: &Artifacts) -> Result<i32> {
    let all = stories(peer);
    for name in names {
        if !all.iter().any(|story| story.name == name) {
            let known: Vec<_> = all.iter().map(|story| story.name).collect();
            bail!("there is no story {name}; there are {}", known.join(", "));
        }
    }
    let artifacts = &match peer {
        Some(Peer::Ipa) => artifacts.with_ipa()?,
        None | Some(Peer::Ironic) => artifacts.clone(),
    };
    artifacts.check()?;
    let wanted = all.iter().filter(|story| names.is_empty() || names.iter().any(|name| name == story.name));
    let mut results = Vec::new();
    for story in wanted {
        eprintln!("\n=== {}: {}", story.name, story.about);
        let started = Instant::now();
        let name = match peer {
            None => story.name.to_owned(),
            Some(Peer::Ironic) => format!("{IRONIC_PREFIX}{}", story.name),
            Some(Peer::Ipa) => format!("{IPA_PREFIX}{}", story.name),
        };
        let (ended, reason) = isolated(&name, false, artifacts).await?;
        if ended == Ended::Interrupted {
            eprintln!("interrupted; everything that was started is stopped");
            return Ok(130);
        }
        let passed = ended == Ended::Code(0);
        let said = if passed { "passed" } else { "FAILED" };
        let reason = reason.filter(|_| !passed).map(|reason| format!(": {reason}")).unwrap_or_default();
        let line = format!("{:<16} {said} in {:.0} s{reason}", story.name, started.elapsed().as_secs_f64());
        results.push((passed, line));
    }
    eprintln!();
    for (_, line) in &results {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    Ok(i32::from(results.iter().any(|(passed, _)| !passed)))
}

async fn show(keep: bool, artifacts: &Artifacts) -> Result<i32> {
    artifacts.check()?;
    let (ended, said) = isolated("demo", keep, artifacts).await?;
    match ended {
        Ended::Code(code) => Ok(code),
        Ended::Interrupted => {
            eprintln!("interrupted; everything that was started is stopped");
            Ok(130)
        }
        Ended::Kept(pid) => {
            let hints = said.context("nothing says how to look further")?;
            eprint!("{}", hints.replace("PID", &pid.to_string()));
            Ok(0)
        }
    }
}

/// File in a story's folder with the reason why it failed.
const REASON: &str = "reason";

/// The beginning and the end of a long text, in one line.
fn brief(text: &str) -> String {
    const HALF: usize = 400;
    let words: Vec<char> = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    if words.len() <= 2 * HALF {
        return words.into_iter().collect();
    }
    let (start, end) = (&words[..HALF], &words[words.len() - HALF..]);
    start.iter().chain(&[' ', '…', ' ']).chain(end).collect()
}

/// Runs a story in namespaces of its own. Returns how it ended and what it left word of: why it failed, or how to look further.
async fn isolated(name: &str, keep: bool, artifacts: &Artifacts) -> Result<(Ended, Option<String>)> {
    let dir = tempfile::Builder::new().prefix("ferric-").tempdir().context("make a folder for the story")?;
    let accelerator = Accelerator::probe(dir.path()).await?;
    let mut arguments: Vec<OsString> = ["story", name, "--dir"].map(OsString::from).to_vec();
    arguments.push(dir.path().into());
    arguments.extend(["--accelerator".into(), accelerator.to_string().into()]);
    if keep {
        arguments.push("--keep".into());
    }
    arguments.extend(artifacts.to_args());
    let ended = isolate::run(&arguments, dir.path()).await?;
    let word = if matches!(ended, Ended::Kept(_)) { KEPT } else { REASON };
    let word = std::fs::read_to_string(dir.path().join(word)).ok();
    if matches!(ended, Ended::Kept(_)) {
        // Its first process removes it.
        let _ = dir.keep();
    }
    Ok((ended, word))
}

async fn story(name: &str, dir: &Path, accelerator: Accelerator, keep: bool, artifacts: &Artifacts) -> Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = told(name, dir, accelerator, keep, artifacts) => match result {
            Ok(()) => Ok(0),
            Err(error) => {
                eprintln!("{name} FAILED: {error:#}");
                // A disk that is full has no room for it.
                std::fs::write(dir.join(REASON), brief(&format!("{error:#}"))).ok();
                let kept = e2e::keep_evidence(name, dir, &artifacts.evidence)?;
                eprintln!("logs and first sectors of disks: {}", kept.display());
                Ok(1)
            }
        },
        _ = interrupt.recv() => Ok(130),
        _ = terminate.recv() => Ok(130),
    }
}

async fn told(name: &str, dir: &Path, accelerator: Accelerator, keep: bool, artifacts: &Artifacts) -> Result<()> {
    let mut world = World::start(dir, artifacts, accelerator).await?;
    if name != "demo" {
        let result = tell(name, &mut world).await;
        world.console.finish();
        return result;
    }
    let (running, summary) = match demo::run(&mut world).await {
        Ok(done) => done,
        Err(error) => {
            world.console.finish();
            return Err(error);
        }
    };
    eprint!("{summary}");
    if keep {
        let hints = demo::hints(&world, &running)?;
        isolate::be_silent()?;
        // Renamed into place: whoever sees it sees all of it.
        let draft = dir.join("hints");
        std::fs::write(&draft, hints)?;
        std::fs::rename(&draft, dir.join(KEPT))?;
        std::future::pending::<()>().await;
    } else {
        eprintln!("\nEverything is stopped. `cargo xtask demo --keep` leaves it running and says how to look further.");
    }
    Ok(())
}
