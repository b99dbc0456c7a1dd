//! The agent as PID 1 of its ramdisk: what is started beside what, until the driver knows that the machine is there.
//!
//! Nothing waits for what it does not need. Modules load in the background from the first moment; addresses, random
//! numbers and virtual media are waited for side by side; the lookup begins with the first address, and only commands
//! that deal with disks wait until the disks have shown up.

use crate::config::{Settings, Words, vmedia};
use crate::logs::{self, LogBuffer};
use crate::net::{self, NetHandle, NetParams};
use crate::pid1::{self, Devices, Exit};
use crate::session::{self, SessionError};
use crate::state::Agent;
use hardware::PowerAction;
use hardware_linux::LinuxMachine;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the kernel may take to have random numbers.
const ENTROPY_LIMIT: Duration = Duration::from_secs(120);
/// How long to wait for an address before saying so and waiting on.
const ADDRESS_LIMIT: Duration = Duration::from_secs(60);
/// Disks have shown up when the kernel has announced nothing new for this long …
const DISKS_QUIET: Duration = Duration::from_millis(500);
/// … or after this long in any case.
const DISKS_LIMIT: Duration = Duration::from_secs(60);
/// How long virtual media may take to show up: a BMC's CD on USB takes a few seconds.
const MEDIA_LIMIT: Duration = Duration::from_secs(30);
/// How often they are looked for.
const MEDIA_INTERVAL: Duration = Duration::from_millis(200);
/// Wait before a session that failed is begun anew.
const SESSION_PAUSE: Duration = Duration::from_secs(5);

/// Runs the ramdisk. Ends the machine, never the process.
pub fn main() -> ! {
    let console = match pid1::begin() {
        Ok(console) => console,
        // There is no log yet, so the panic message of the kernel has to tell.
        Err(error) => pid1::exit(Exit::Failed(transport::client::chain(&error))),
    };
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words = Words::parse(&cmdline);
    let filter = Settings::resolve(&words, &Words::default()).log;
    let buffer = logs::start_on(&filter, move || console.clone());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ferric-agent");
    let devices = pid1::start(&cmdline);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cmdline, words, buffer, devices)),
        Err(error) => pid1::exit(Exit::Failed(format!("start the runtime: {error}"))),
    }
}

async fn run(cmdline: String, words: Words, buffer: LogBuffer, devices: Devices) -> ! {
    tokio::spawn(pid1::serve_signals());
    let (params, problems) = NetParams::from_cmdline(&cmdline);
    for problem in problems {
        tracing::error!(%problem, "network");
    }
    let network = match net::start(params).await {
        Ok(network) => network,
        Err(error) => pid1::exit(Exit::Failed(transport::client::chain(&error))),
    };
    let (settings, (), ()) = tokio::join!(resolve(words, &devices), entropy(), addresses(&network));
    for problem in &settings.problems {
        tracing::error!("{problem}");
    }
    tokio::time::sleep(settings.hardware_initialization_delay).await;
    let machine = LinuxMachine::at("/").writable().booted_from(settings.boot_interface.clone()).ending_with(end);
    let built = Agent::builder(Arc::new(machine), settings).logs(buffer).ready(disks_ready(devices)).build();
    let (agent, dispatcher) = match built {
        Ok(built) => built,
        Err(error) => pid1::exit(Exit::Failed(error.to_string())),
    };
    let stop = CancellationToken::new();
    loop {
        match session::run(&agent, &dispatcher, &stop).await {
            Ok(()) => pid1::exit(Exit::Failed("the session ended without being told to".to_owned())),
            Err(error) if error.is_locked_out() => lock_down(&network, &error).await,
            Err(error) => {
                tracing::error!("{}; trying again", transport::client::chain(&error));
                tokio::time::sleep(SESSION_PAUSE).await;
            }
        }
    }
}

/// The machine's end goes through the one exit of PID 1.
fn end(action: PowerAction) -> io::Result<()> {
    match action {
        PowerAction::Off => pid1::exit(Exit::PowerOff),
        PowerAction::Reboot => pid1::exit(Exit::Reboot),
    }
}

async fn entropy() {
    match tokio::task::spawn_blocking(|| pid1::wait_for_entropy(ENTROPY_LIMIT)).await {
        Ok(Ok(())) => {
            // Nobody waits for this here; the identity is made later, and sooner with it.
            tokio::task::spawn_blocking(|| {
                if let Err(error) = transport::tls::warm_up() {
                    tracing::warn!("{}", transport::client::chain(&error));
                }
            });
        }
        Ok(Err(error)) => pid1::exit(Exit::Failed(error.to_string())),
        Err(error) => pid1::exit(Exit::Failed(format!("waiting for random numbers: {error}"))),
    }
}

async fn addresses(network: &NetHandle) {
    loop {
        match network.wait_for_address(ADDRESS_LIMIT).await {
            Ok(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
                tracing::debug!(addresses = addresses.join(", "), "network is there");
                return;
            }
            Err(error) => tracing::error!("{}; waiting on", transport::client::chain(&error)),
        }
    }
}

/// Settings from the command line and, where the machine was booted from virtual media, from what is on them.
async fn resolve(mut words: Words, devices: &Devices) -> Settings {
    let mut files = Words::default();
    if words.get("boot_method") == Some("vmedia") {
        let found = media(devices).await;
        words.merge(found.words);
        files = found.files;
    }
    Settings::resolve(&words, &files)
}

/// Looks for virtual media until one is there, or until all devices have shown up without one.
async fn media(devices: &Devices) -> vmedia::Found {
    let settled = devices.settled(Duration::from_secs(2), MEDIA_LIMIT);
    let mut settled = std::pin::pin!(settled);
    let mut last = false;
    loop {
        match tokio::task::spawn_blocking(|| vmedia::read(Path::new("/"))).await {
            Ok(Ok(found)) if found.any => return found,
            Ok(Ok(_)) => {}
            // The driver of its file system may still be on its way.
            Ok(Err(error)) if !last => tracing::debug!("virtual media: {}", transport::client::chain(&error)),
            Ok(Err(error)) => tracing::error!("virtual media: {}", transport::client::chain(&error)),
            Err(error) => tracing::error!(%error, "virtual media"),
        }
        if last {
            tracing::warn!("booted from virtual media, but none with configuration is there");
            return vmedia::Found::default();
        }
        last = tokio::time::timeout(MEDIA_INTERVAL, &mut settled).await.is_ok();
    }
}

/// Tells when the disks have shown up.
fn disks_ready(devices: Devices) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if !devices.settled(DISKS_QUIET, DISKS_LIMIT).await {
            tracing::warn!("devices keep appearing; going on with those that are there");
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    receiver
}

/// Somebody else may hold this node's token: the machine leaves the network and waits to be restarted.
async fn lock_down(network: &NetHandle, error: &SessionError) -> ! {
    tracing::error!("{}; locked down", transport::client::chain(error));
    if let Err(error) = network.down().await {
        tracing::error!("{}", transport::client::chain(&error));
    }
    std::future::pending().await
}
