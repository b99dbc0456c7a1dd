//! Modules for devices: those that are there at the start, and those that appear later, which the kernel announces.

use super::modules::Modules;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// How much the kernel may announce before we look: a machine with hundreds of disks does so in one go.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How many modules are loaded at a time. Drivers of slow controllers must not hold up those of network cards.
const WORKERS: usize = 4;

/// What has been seen of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    /// The devices of the start have been gone through.
    walked: bool,
    /// Number of the last announcement that was dealt with.
    sequence: u64,
    /// How many there were.
    events: u64,
}

/// The device watch.
#[derive(Debug, Clone)]
pub struct Devices {
    modules: Arc<Modules>,
    progress: watch::Receiver<Progress>,
}

impl Devices {
    /// Starts to load modules for all devices, in threads of their own.
    pub(super) fn start(modules: Arc<Modules>) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let sender = Arc::new(sender);
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        // Listening begins before the walk, so that nothing appears unseen between the two.
        match listen() {
            Ok(socket) => {
                // What was announced before is seen by the walk.
                sender.send_modify(|progress| progress.sequence = announced());
                let (modules, sender, seen) = (Arc::clone(&modules), Arc::clone(&sender), Arc::clone(&seen));
                spawn("uevent", move || hear(&socket, &modules, &sender, &seen));
            }
            Err(error) => tracing::error!(%error, "devices that appear later will not be noticed"),
        }
        {
            let modules = Arc::clone(&modules);
            spawn("coldplug", move || {
                // Devices first: the way to the network is one of them, and file systems are needed later.
                walk(&modules, &seen);
                load_listed(&modules);
                super::mounts::mount_efivars();
                sender.send_modify(|progress| progress.walked = true);
                tracing::info!(modules = modules.len(), aliases = lock(&seen).len(), "devices have their modules");
            });
        }
        Self { modules, progress }
    }

    /// The modules, for loading one by name.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Waits until the devices of the start have their drivers, every announcement of the kernel has been dealt with, and
    /// none has come for the time `quiet`; controllers that look for their disks at leisure are seen that way. Returns
    /// whether that was so within `limit`.
    pub async fn settled(&self, quiet: Duration, limit: Duration) -> bool {
        let mut progress = self.progress.clone();
        let settled = async {
            // The sender lives as long as the threads, which is for ever.
            if progress.wait_for(|progress| progress.walked).await.is_err() {
                return;
            }
            loop {
                let events = progress.borrow_and_update().events;
                let changed = progress.wait_for(|progress| progress.events != events);
                let still = tokio::time::timeout(quiet, changed).await.is_err();
                if still && progress.borrow().sequence >= announced() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, settled).await.is_ok()
    }
}

fn lock(seen: &Mutex<BTreeSet<String>>) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::error!(%error, name, "no thread for devices");
    }
}

/// The number of the kernel's last announcement; 0 when it tells none.
fn announced() -> u64 {
    let text = fs::read_to_string("/sys/kernel/uevent_seqnum").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Modules that no device asks for, by name: `/etc/modules-load.d/*.conf`, one a line (modules-load.d(5)).
fn load_listed(modules: &Modules) {
    let Ok(entries) = fs::read_dir("/etc/modules-load.d") else { return };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "conf")) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        for name in names {
            match modules.load(name) {
                // One list serves machines with and without what the module is for, such as firmware variables.
                Err(error) if error.is_no_device() => tracing::debug!(name, "the listed module finds no device"),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(name, %error, cause, file = %file.display(), "listed module not loaded");
                }
                Ok(()) => {}
            }
        }
    }
}

/// Goes through all devices until none is new: loading the driver of a bus makes the devices on it appear.
fn walk(modules: &Modules, seen: &Mutex<BTreeSet<String>>) {
    loop {
        let mut aliases = present(Path::new("/sys/bus"));
        {
            let mut seen = lock(seen);
            aliases.retain(|alias| seen.insert(alias.clone()));
        }
        if aliases.is_empty() {
            return;
        }
        let queue = Mutex::new(aliases);
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                        let Some(alias) = next else { return };
                        modules.load_alias(&alias);
                    }
                });
            }
        });
    }
}

/// The aliases of all devices on all buses, each once; network cards last, as they are taken from the end.
fn present(buses: &Path) -> Vec<String> {
    let names = |folder: &Path| -> Vec<std::path::PathBuf> {
        fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    };
    let mut aliases: Vec<String> = names(buses)
        .iter()
        .flat_map(|bus| names(&bus.join("devices")))
        .filter_map(|device| fs::read_to_string(device.join("modalias")).ok())
        .map(|alias| alias.trim().to_owned())
        .filter(|alias| !alias.is_empty())
        .collect();
    aliases.sort();
    aliases.dedup();
    // PCI class 02 is network; virtio device 1 is a network card.
    aliases.sort_by_key(|alias| alias.contains("bc02sc") || alias.starts_with("virtio:d00000001"));
    aliases
}

/// A socket for the kernel's announcements (`lib/kobject_uevent.c`, group 1).
fn listen() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    // More than the limit for ordinary users is for root alone; less is still useful.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        tracing::debug!("the receive buffer for announcements stays small");
    }
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

fn hear(socket: &OwnedFd, modules: &Modules, progress: &watch::Sender<Progress>, seen: &Mutex<BTreeSet<String>>) {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                let event = Uevent::parse(&buffer[..length]);
                if let Some(alias) = event.alias.filter(|_| event.adds) {
                    let new = lock(seen).insert(alias.to_owned());
                    if new {
                        modules.load_alias(alias);
                    }
                }
                progress.send_modify(|progress| {
                    progress.events += 1;
                    progress.sequence = progress.sequence.max(event.sequence);
                });
            }
            Err(rustix::io::Errno::INTR) => {}
            // Some were lost: look at everything once more.
            Err(rustix::io::Errno::NOBUFS) => {
                let last = announced();
                walk(modules, seen);
                progress.send_modify(|progress| {
                    progress.events += 1;
                    progress.sequence = progress.sequence.max(last);
                });
            }
            Err(error) => {
                tracing::error!(%error, "devices that appear from now on will not be noticed");
                return;
            }
        }
    }
}

/// What we want to know of an announcement.
#[derive(Debug, PartialEq, Eq, Default)]
struct Uevent<'a> {
    adds: bool,
    alias: Option<&'a str>,
    sequence: u64,
}

impl<'a> Uevent<'a> {
    /// `add@/devices/…`, then `KEY=value`, each ended by a zero byte.
    fn parse(message: &'a [u8]) -> Self {
        let mut event = Self::default();
        for (key, value) in message
            .split(|&byte| byte == 0)
            .filter_map(|word| std::str::from_utf8(word).ok())
            .filter_map(|word| word.split_once('='))
        {
            match key {
                "ACTION" => event.adds = value == "add" || value == "change",
                "MODALIAS" => event.alias = Some(value),
                "SEQNUM" => event.sequence = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_parsed() {
        let message =
            b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v00001AF4\0SEQNUM=42\0";
        assert_eq!(Uevent::parse(message), Uevent { adds: true, alias: Some("pci:v00001AF4"), sequence: 42 });
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), Uevent::default());
    }

    #[test]
    fn network_cards_come_last_in_the_list() {
        let buses = tempfile::tempdir().unwrap();
        for (name, alias) in [
            ("0000:00:03.0", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00\n"),
            ("0000:00:04.0", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01\n"),
            ("0000:00:05.0", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01\n"),
            ("0000:00:06.0", "\n"),
        ] {
            let folder = buses.path().join("pci/devices").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("modalias"), alias).unwrap();
        }
        let found = present(buses.path());
        assert_eq!(found.len(), 2);
        assert!(found[1].contains("bc02sc00"));
    }
}
