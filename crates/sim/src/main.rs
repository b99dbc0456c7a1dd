//! `cargo xtask sim`: a fleet of simulated machines against a real `ferricd`.
//!
//! Each machine runs the real agent library on `hardware-sim`, at a loopback address of its own. All there is of it is
//! real but the hardware: ferricd talks Redfish to its BMC ([`bmc`]), which switches it on and reads the virtual CD that
//! ferricd made; from that the ramdisk learns where its driver is ([`ramdisk`]); the agent looks its node up, serves its
//! API with a certificate of its own, and writes an image that it fetches ([`image`]). At the end each disk is looked at.
//!
//! ```text
//! this process                                             ferricd
//!   operator ── API ─────────────────────────────────────▶ :API
//!   BMCs     ◀───────────────────────────── Redfish ─────── │
//!   machines ── CD, lookup, heartbeat ── [link] ──────────▶ :agents
//!     agents ◀──────────────── [link] ───── commands ────── │
//!     agents ── sessions ───── [link] ─────────────────────▶ :sessions
//! ```
//!
//! A link is only there with `--loss`: it cuts connections.

mod bmc;
mod dice;
mod ferricd;
mod image;
mod link;
mod machine;
mod operator;
mod ramdisk;
mod report;
mod site;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use dice::Dice;
use ferricd::{Ferricd, Usage};
use link::Loss;
use machine::{Machine, Runs};
use operator::{Operator, Phase};
use report::Report;
use serde_json::json;
use site::{Site, listen};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use transport::client::{Client, Settings};
use transport::server;

/// Take simulated machines from enrolled to active by a real ferricd
#[derive(Debug, Parser)]
struct Arguments {
    /// How many
    #[arg(value_parser = clap::value_parser!(u16).range(1..=60_000))]
    machines: u16,
    /// The program ferricd
    #[arg(long)]
    ferricd: PathBuf,
    /// Folder for its files and for logs; made anew
    #[arg(long, default_value = "target/sim")]
    dir: PathBuf,
    /// Percent of all connections of agents, and of those to them, that are cut
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Percent of all ramdisks that are reset in the middle of their work
    #[arg(long, default_value_t = 0.0)]
    restarts: f64,
    /// Agents serve no API: ferricd reaches them by the sessions that they dial, and by nothing else
    #[arg(long)]
    sessions_only: bool,
    /// How often ferricd is killed, and started again, at moments that hang on the seed
    #[arg(long, default_value_t = 0)]
    kills: u64,
    /// Chance: what is cut, reset and killed. Another one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds that a phase may take; by default 60 and a quarter for each machine, three times that with chance
    #[arg(long)]
    limit: Option<u64>,
    /// Fail when the bars are missed: 0.18 s for each machine and, of ferricd, 256 MiB
    #[arg(long)]
    bars: bool,
    /// What agents log, to agents.log: a level, or levels by module
    #[arg(long, default_value = "info")]
    log: String,
}

impl Arguments {
    fn is_left_to_chance(&self) -> bool {
        self.loss > 0.0 || self.restarts > 0.0 || self.kills > 0
    }

    fn limit(&self) -> Duration {
        let usual = 60 + u64::from(self.machines) / 4;
        let usual = if self.is_left_to_chance() { 3 * usual } else { usual };
        Duration::from_secs(self.limit.unwrap_or(usual))
    }
}

/// Where agents of the protocol listen; other ports follow when it is taken.
const AGENT_PORT: u16 = 9999;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let told = tell(&arguments, seed);
    let report = match told {
        Ok(report) => report,
        Err(error) => {
            eprintln!("[sim] {error:#}");
            eprintln!("[sim] FAILED; logs are in {}; the same chances again: --seed {seed}", arguments.dir.display());
            return ExitCode::FAILURE;
        }
    };
    #[expect(clippy::print_stdout, reason = "the table is what was asked for")]
    {
        print!("{}", report.text());
    }
    if report.met() || !arguments.bars { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(arguments: &Arguments, seed: u64) -> Result<Report> {
    for (name, percent) in [("--loss", arguments.loss), ("--restarts", arguments.restarts)] {
        ensure!((0.0..=100.0).contains(&percent), "{name} {percent} is not a percentage: give one from 0 to 100");
    }
    open_files()?;
    if arguments.dir.exists() {
        std::fs::remove_dir_all(&arguments.dir).context("empty the folder")?;
    }
    std::fs::create_dir_all(&arguments.dir).with_context(|| format!("make {}", arguments.dir.display()))?;
    let dir = std::path::absolute(&arguments.dir)?;
    let log = std::fs::File::create(dir.join("agents.log")).context("make the log of the agents")?;
    let filter: tracing_subscriber::filter::Targets = arguments.log.parse().context("--log")?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Arc::new(log));
    use tracing_subscriber::prelude::*;
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let told = runtime.block_on(async {
        // ferricd ends with what is dropped here.
        tokio::select! {
            told = run(arguments, seed, &dir) => told,
            name = signalled() => Err(name?),
        }
    });
    // What agents still do is of no interest any more.
    runtime.shutdown_background();
    told
}

/// As many files as may be opened: each machine has a listener, connections and a disk.
fn open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).context("open more files")
}

/// Returns when this process is told to end, with that as an error.
async fn signalled() -> Result<anyhow::Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    Ok(anyhow::anyhow!("told to end by {name}"))
}

async fn run(arguments: &Arguments, seed: u64, dir: &Path) -> Result<Report> {
    let dice = Dice::new(seed);
    // Runs beside each other have networks of their own.
    let network = 64 + (std::process::id() % 128) as u8;
    let loss = Loss { dice, share: arguments.loss / 100.0, cut: Arc::new(AtomicU64::new(0)) };
    let loss = (arguments.loss > 0.0).then_some(loss);
    let agent_port = site::free_port(network, AGENT_PORT)?;
    let callback_port = if loss.is_some() { site::free_port(network, agent_port + 1)? } else { agent_port };
    let client = Client::new(Settings { body_limit: 64 << 20, ..Settings::default() })?;
    let site = Arc::new(Site {
        dice,
        resets: arguments.restarts / 100.0,
        network,
        agent_port,
        callback_port,
        image: image::Image::new(dice)?,
        client: client.clone(),
        reset: AtomicU64::new(0),
    });
    let machines = (0..usize::from(arguments.machines)).map(|number| Machine::new(site.clone(), number));
    let machines: Vec<_> = machines.collect::<std::io::Result<_>>().context("make the disks")?;

    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let bmcs = behind_link(bmc::Bmcs::new(machines.clone())?.router(), "BMC", loss.as_ref(), &stop).await?;
    let images = behind_link(image::router(site.image.bytes.clone()), "image", loss.as_ref(), &stop).await?;
    if let Some(loss) = &loss {
        for machine in &machines {
            let (listener, _) = listen(machine.address, callback_port).await?;
            let to = SocketAddr::from((machine.address, agent_port));
            tokio::spawn(link::relay(listener, to, "agent", machine.number as u64, loss.clone()));
        }
    }
    let started = start_ferricd(arguments, dir, loss.as_ref(), client.clone()).await?;
    let (mut ferricd, api) = started;

    let image = json!({
        "image_source": format!("http://{images}/image.raw"), "image_disk_format": "raw",
        "image_os_hash_algo": "sha256", "image_os_hash_value": site.image.sha256,
    });
    let operator = Operator::new(client, &api, image);
    let reading = tokio::spawn(operator.clone().read(machines.clone()));
    let begun = Instant::now();
    let mut passed = vec![operator.enroll(&machines, &format!("http://{bmcs}")).await?];
    progress(passed.last(), begun);
    for (number, phase) in Phase::ALL.into_iter().enumerate() {
        let kills = kills(dice, arguments.kills, number);
        passed.push(operator.drive(phase, &machines, arguments.limit(), &mut ferricd, kills).await?);
        progress(passed.last(), begun);
    }
    let seconds = begun.elapsed().as_secs_f64();
    reading.abort();
    boots(&machines).await?;
    let sessions = ferricd.sessions().await?;
    let least = least_sessions(machines.len() as u64, arguments.sessions_only);
    ensure!(
        sessions >= least,
        "agents had {sessions} sessions with ferricd, and {least} are the least: see agents.log"
    );
    Ok(Report {
        machines: machines.len(),
        seed,
        seconds,
        passed,
        took: operator.took(),
        ferricd: ferricd.usage(),
        own: Usage::of(std::process::id()),
        database: ferricd.database(),
        sessions,
        cut: loss.map_or(0, |loss| loss.cut.load(Ordering::Relaxed)),
        reset: site.reset.load(Ordering::Relaxed),
        killed: ferricd.kills,
    })
}

fn progress(passed: Option<&operator::Passed>, begun: Instant) {
    if let Some(passed) = passed {
        let (name, seconds) = (passed.name, passed.seconds);
        eprintln!(
            "[sim] {name}: {seconds:.1} s, {} failures; {:.0} s in all",
            passed.failures,
            begun.elapsed().as_secs_f64()
        );
    }
}

/// The fewest sessions of a run that went by sessions. Cleaning and deploying boot a ramdisk each; where ferricd can call the
/// agent as well, one whose session is not there in time does its work without, which may be over before the session is there.
fn least_sessions(machines: u64, sessions_only: bool) -> u64 {
    let boots = 2 * machines;
    if sessions_only { boots } else { boots * 9 / 10 }
}

/// At which parts of the `number`-th phase ferricd is killed.
fn kills(dice: Dice, count: u64, number: usize) -> Vec<f64> {
    let phases = Phase::ALL.len();
    let here = |kill: &u64| (dice.roll("phase of a kill", 0, *kill) * phases as f64) as usize == number;
    let mut parts: Vec<f64> = (0..count).filter(here).map(|kill| dice.roll("moment of a kill", 0, kill)).collect();
    parts.sort_by(f64::total_cmp);
    parts
}

/// Serves something on loopback, behind a link that cuts connections where there is one; where it is reached.
async fn behind_link(
    router: axum::Router,
    name: &'static str,
    loss: Option<&Loss>,
    stop: &CancellationToken,
) -> Result<SocketAddr> {
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, 0).await?;
    let settings = server::Settings { connections: 16_384, ..server::Settings::default() };
    tokio::spawn(server::serve(listener, router, settings, stop.clone()));
    match loss {
        Some(loss) => before(name, address, loss).await,
        None => Ok(address),
    }
}

/// Puts a link that cuts connections before an address; where it is reached.
async fn before(name: &'static str, address: SocketAddr, loss: &Loss) -> Result<SocketAddr> {
    let (link, at) = listen(Ipv4Addr::LOCALHOST, 0).await?;
    tokio::spawn(link::relay(link, address, name, 0, loss.clone()));
    Ok(at)
}

/// Starts ferricd as a site of this size has it; the URL of its API.
async fn start_ferricd(
    arguments: &Arguments,
    dir: &Path,
    loss: Option<&Loss>,
    client: Client,
) -> Result<(Ferricd, String)> {
    let ramdisk = dir.join("ramdisk");
    std::fs::create_dir_all(&ramdisk).context("make the folder of the ramdisk")?;
    std::fs::write(ramdisk.join("ferric.efi"), site::boot_program()?).context("write the ramdisk")?;
    // It takes these again after it was killed: nobody else is given them meanwhile, but for one that asks for them.
    let api = listen(Ipv4Addr::LOCALHOST, 0).await?.1;
    let agents = listen(Ipv4Addr::LOCALHOST, 0).await?.1;
    let dialled = listen(Ipv4Addr::LOCALHOST, 0).await?.1;
    let (told, told_dialled) = match loss {
        Some(loss) => (before("driver", agents, loss).await?, before("session", dialled, loss).await?),
        None => (agents, dialled),
    };
    let machines = arguments.machines.to_string();
    let parameters = if arguments.sessions_only {
        "ipa-inspection-collectors=default ferric.listen=no"
    } else {
        "ipa-inspection-collectors=default"
    };
    let pairs = [
        ("--listen", api.to_string()),
        ("--agent-listen", agents.to_string()),
        ("--api-url", format!("http://{told}")),
        ("--session-listen", dialled.to_string()),
        ("--session-url", format!("https://{told_dialled}")),
        ("--ramdisk-dir", ramdisk.display().to_string()),
        ("--max-concurrent-deploy", machines.clone()),
        ("--max-concurrent-clean", machines),
        // The log of this machine's kernel, compressed once for each of a thousand, is not what is simulated.
        ("--kernel-append-params", parameters.to_owned()),
    ];
    let mut given: Vec<String> = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    if arguments.is_left_to_chance() {
        // A machine that was reset has another certificate and is not listened to: the wait for it has to end.
        let deadlines = ["inspect_wait_timeout", "clean_callback_timeout", "deploy_callback_timeout"];
        let deadlines = deadlines.map(|name| format!("{name}=60")).join(",");
        given.extend(["--deadlines".to_owned(), deadlines, "--heartbeat-timeout".to_owned(), "30".to_owned()]);
    }
    let url = format!("http://{api}");
    let program = std::path::absolute(&arguments.ferricd)?;
    let ferricd = Ferricd::start(&program, dir, &url, given, client).await?;
    Ok((ferricd, url))
}

/// Waits until each machine runs its system: a node is active before its disk was read.
async fn boots(machines: &[Arc<Machine>]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let others: Vec<_> = machines.iter().filter(|machine| machine.runs() != Runs::System).collect();
        let Some(first) = others.first() else { return Ok(()) };
        if Instant::now() > deadline {
            let count = others.len();
            anyhow::bail!("{count} nodes are active and do not run their system, {}: {:?}", first.name, first.runs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_has_its_phase_and_moment() {
        let dice = Dice::new(5);
        let all: Vec<Vec<f64>> = (0..Phase::ALL.len()).map(|number| kills(dice, 9, number)).collect();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 9);
        assert!(all.iter().all(|parts| parts.is_sorted() && parts.iter().all(|part| (0.0..1.0).contains(part))));
    }
}
