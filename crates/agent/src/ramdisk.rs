//! The agent as PID 1 of its ramdisk: what is started beside what, until the driver knows that the machine is there.
//!
//! Nothing waits for what it does not need. Modules load in the background from the first moment; addresses, random
//! numbers and virtual media are waited for side by side; the lookup begins with the first address, and only commands
//! that deal with disks wait until the disks have shown up.

use crate::builder::Builder;
use crate::config::{Settings, Words, files, vmedia};
use crate::container;
use crate::external::{self, ExternalManager};
use crate::logs::{self, LogBuffer};
use crate::net::{self, NetHandle, NetParams, VlanLink, clock, mdns, vlans};
use crate::pid1::{self, Devices, Exit};
use crate::rescue;
use crate::session;
use crate::state::{Agent, Closing};
use hardware::PowerAction;
use hardware_linux::{LinuxMachine, Lldp};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

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
/// How long the session waits for a time server that was named.
const CLOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long an inspection waits for addresses on VLANs that LLDP named.
const VLAN_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before a session that failed is begun anew.
const SESSION_PAUSE: Duration = Duration::from_secs(5);

/// Runs the ramdisk. Ends the machine, never the process. `extend` may add to the agent, such as a vendor's hardware
/// manager.
pub fn main(extend: impl FnOnce(Builder) -> Builder) -> ! {
    let console = match pid1::begin() {
        Ok(console) => console,
        // There is no log yet, so the panic message of the kernel has to tell.
        Err(error) => pid1::exit(Exit::Failed(transport::client::chain(&error))),
    };
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words = Words::parse(&cmdline);
    let said = Settings::resolve(&words, &Words::default());
    let level = said.console.unwrap_or(LevelFilter::TRACE);
    let buffer = logs::start_on(&said.log, level, move || console.clone());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ferric-agent");
    let devices = pid1::start(&cmdline);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cmdline, words, buffer, devices, extend)),
        Err(error) => pid1::exit(Exit::Failed(format!("start the runtime: {error}"))),
    }
}

async fn run(
    cmdline: String,
    words: Words,
    buffer: LogBuffer,
    devices: Devices,
    extend: impl FnOnce(Builder) -> Builder,
) -> ! {
    tokio::spawn(pid1::serve_signals());
    let network = match net::start().await {
        Ok(network) => network,
        Err(error) => pid1::exit(Exit::Failed(transport::client::chain(&error))),
    };
    let addressed = async {
        let settings = prepare(&cmdline, words, &devices, &network).await;
        // Beside everything else: a switch may say nothing for half a minute.
        let lldp = settings.collect_lldp.then(|| Lldp::listen(settings.lldp_timeout));
        addresses(&network).await;
        let settings = discover(settings, &network).await;
        set_clock(&settings, &network).await;
        (settings, lldp)
    };
    let ((settings, lldp), (), executables, containers) =
        tokio::join!(addressed, entropy(), executables(), containers());
    for problem in &settings.problems {
        tracing::error!("{problem}");
    }
    let (way, urls) = (network.clone(), settings.api_urls.clone());
    tokio::spawn(async move { way.find_way(&urls).await });
    inspection_waits(&settings, lldp.as_ref(), &network).await;
    let machine = LinuxMachine::at("/").writable().booted_from(settings.boot_interface.clone()).ending_with(end);
    let machine = machine.hearing(lldp);
    let builder = Agent::builder(Arc::new(machine), settings).logs(buffer).ready(disks_ready(devices));
    let (agent, dispatcher) = match extend(builder.executables(executables).containers(containers)).build() {
        Ok(built) => built,
        Err(error) => pid1::exit(Exit::Failed(error.to_string())),
    };
    let stop = CancellationToken::new();
    loop {
        match session::run(&agent, &dispatcher, &stop).await {
            Ok(Some(Closing::Lockdown)) => lock_down(&network, "the driver said so").await,
            Ok(Some(Closing::Rescue)) => rescue::serve(&network).await,
            Ok(None) => pid1::exit(Exit::Failed("the session ended without being told to".to_owned())),
            Err(error) if error.is_locked_out() => lock_down(&network, &transport::client::chain(&error)).await,
            Err(error) => {
                tracing::error!("{}; trying again", transport::client::chain(&error));
                tokio::time::sleep(SESSION_PAUSE).await;
            }
        }
    }
}

/// The hardware managers of the overlay.
async fn executables() -> Vec<ExternalManager> {
    let loading = tokio::task::spawn_blocking(|| external::load(Path::new(external::FOLDER)));
    loading.await.unwrap_or_else(|error| {
        tracing::error!(%error, "hardware managers could not be looked for");
        Vec::new()
    })
}

/// The programs of the overlay that run containers, with the file systems that they need.
async fn containers() -> Option<container::Host> {
    let finding = tokio::task::spawn_blocking(|| {
        let host = container::Host::find(Path::new("/"))?;
        pid1::mount_for_containers();
        Some(host)
    });
    finding.await.unwrap_or_else(|error| {
        tracing::error!(%error, "podman and docker could not be looked for");
        None
    })
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

/// Settings and network, from the command line, from files and, where the machine was booted from virtual media, from what
/// is on them. The network is configured when this returns.
async fn prepare(cmdline: &str, mut words: Words, devices: &Devices, network: &NetHandle) -> Settings {
    let mut network_data = None;
    if words.get("boot_method") == Some("vmedia") {
        let found = media(&words, devices).await;
        words.merge(found.words);
        network_data = found.network_data;
    }
    let settings = Settings::resolve(&words, &files::read(Path::new("/")));
    logs::set_filter(&settings.log);
    // Only what has to be read to know of it is read before.
    tokio::time::sleep(settings.hardware_initialization_delay).await;
    let (mut params, problems) = NetParams::from_cmdline(cmdline);
    for problem in problems {
        tracing::error!(%problem, "network");
    }
    if let Some(text) = network_data {
        match NetParams::from_network_data(&text) {
            Ok((data, problems)) => {
                for problem in problems {
                    tracing::error!(problem, "network data");
                }
                if data.gives_addresses() {
                    tracing::info!(
                        addresses = data.addresses.len(),
                        vlans = data.vlans.len(),
                        "network data is followed"
                    );
                    params = NetParams { bootif: params.bootif, ..data };
                }
            }
            Err(error) => tracing::error!("{}", transport::client::chain(&error)),
        }
    }
    for wanted in &settings.enable_vlan_interfaces {
        match vlans::named(wanted) {
            Some(vlan) => params.vlans.push(vlan),
            // From LLDP, later.
            None if settings.collect_lldp => {}
            None => {
                tracing::error!(wanted, "ipa-enable-vlan-interfaces names no VLAN, and ipa-collect-lldp is not set")
            }
        }
    }
    load_modules(&params, devices).await;
    network.configure(params);
    settings
}

/// Loads what links take that are made: the kernel asks for it by a program that the ramdisk does not have.
async fn load_modules(params: &NetParams, devices: &Devices) {
    for module in params.modules() {
        let devices = devices.clone();
        let loaded = tokio::task::spawn_blocking(move || devices.modules().load(module)).await;
        match loaded {
            Ok(Ok(())) => {}
            // It may be part of the kernel.
            Ok(Err(error)) => tracing::warn!("{}", transport::client::chain(&error)),
            Err(error) => tracing::error!(%error, module, "module not loaded"),
        }
    }
}

/// Asks the local network for URLs, where somebody asked for that.
async fn discover(mut settings: Settings, network: &NetHandle) -> Settings {
    let mdns = settings.mdns;
    if mdns.api {
        let found = mdns::find(mdns::API, network).await;
        settings.api_urls = vec![found.url.clone()];
        settings.adopt_mdns(found, false);
    }
    if mdns.inspection {
        let found = mdns::find(mdns::INSPECTION, network).await;
        settings.inspection_callback_urls = vec![format!("{}/v1/continue", found.url)];
        settings.adopt_mdns(found, true);
    }
    settings
}

/// Sets the clock. The session waits for a server that was named, as the next certificate may be judged by the clock; for
/// those that DHCP names nothing waits.
async fn set_clock(settings: &Settings, network: &NetHandle) {
    let named = settings.ntp_server.clone();
    let servers: Vec<String> = match &named {
        Some(server) => vec![server.clone()],
        None => network.state().ntp.iter().map(ToString::to_string).collect(),
    };
    let must = settings.fail_if_clock_not_set;
    if servers.is_empty() && !must {
        return;
    }
    let setting = tokio::spawn(async move {
        match clock::set(&servers).await {
            Ok(_) => drop(tokio::spawn(clock::save())),
            Err(error) if must => {
                pid1::exit(Exit::Failed(format!("fail_if_clock_not_set: {}", transport::client::chain(&error))));
            }
            Err(error) => tracing::warn!("the clock is not set: {}", transport::client::chain(&error)),
        }
    });
    if must {
        let _ = setting.await;
    } else if named.is_some() && tokio::time::timeout(CLOCK_PATIENCE, setting).await.is_err() {
        tracing::warn!("the time server is slow; going on by the clock of the machine");
    }
}

/// What an inspection wants to know and lookups do not wait for: addresses of more interfaces, and what switches say.
async fn inspection_waits(settings: &Settings, lldp: Option<&Lldp>, network: &NetHandle) {
    if settings.inspection_callback_urls.is_empty() {
        return;
    }
    let all = settings.inspection_dhcp_all_interfaces;
    if (all || settings.boot_interface.is_some())
        && !network.wait_for_interfaces(all, settings.inspection_dhcp_wait).await
    {
        tracing::warn!("not all interfaces have an address; the inspection goes on");
    }
    let Some(lldp) = lldp.cloned() else { return };
    let heard = lldp.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || heard.wait()).await {
        tracing::error!(%error, "LLDP is not waited for");
    }
    let wanted = &settings.enable_vlan_interfaces;
    let found: Vec<VlanLink> =
        lldp.all().iter().flat_map(|(name, tlvs)| vlans::advertised(wanted, name, tlvs)).collect();
    if !found.is_empty() {
        network.add_vlans(found);
        network.wait_for_interfaces(all, VLAN_PATIENCE).await;
    }
}

/// Looks for virtual media until they say where the driver is, or until all devices have shown up: a floppy with
/// parameters may appear later than a CD.
async fn media(words: &Words, devices: &Devices) -> vmedia::Found {
    let settled = devices.settled(Duration::from_secs(2), MEDIA_LIMIT);
    let mut settled = std::pin::pin!(settled);
    let mut last = false;
    let mut read = vmedia::Found::default();
    loop {
        match tokio::task::spawn_blocking(|| vmedia::read(Path::new("/"))).await {
            Ok(Ok(found)) if found.any => {
                let mut all = words.clone();
                all.merge(found.words.clone());
                let settings = Settings::resolve(&all, &files::read(Path::new("/")));
                read = found;
                if !settings.is_standalone() || settings.mdns.api || !settings.inspection_callback_urls.is_empty() {
                    return read;
                }
            }
            Ok(Ok(_)) => {}
            // The driver of its file system may still be on its way.
            Ok(Err(error)) if !last => tracing::debug!("virtual media: {}", transport::client::chain(&error)),
            Ok(Err(error)) => tracing::error!("virtual media: {}", transport::client::chain(&error)),
            Err(error) => tracing::error!(%error, "virtual media"),
        }
        if last {
            if !read.any {
                tracing::warn!("booted from virtual media, but none with configuration is there");
            }
            return read;
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

/// The machine leaves the network and waits to be restarted: its driver is done with it, or somebody else may hold its
/// node's token.
async fn lock_down(network: &NetHandle, reason: &str) -> ! {
    tracing::error!(reason, "locked down");
    if let Err(error) = network.down().await {
        tracing::error!("{}", transport::client::chain(&error));
    }
    std::future::pending().await
}
