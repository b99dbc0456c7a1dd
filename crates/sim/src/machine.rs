//! A server: power, a boot device, a virtual CD, a disk, and what runs on it.

use crate::ramdisk;
use crate::site::Site;
use agent::Dispatcher;
use hardware::PowerAction;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bytes of its disk: twice what is the least for a system. A file in memory that has no name, so that it goes with this process
/// however that ends; a hole, but for what is written.
const DISK: u64 = 8 << 30;
/// A machine that is reset by chance is so within this time after its ramdisk was started.
const RESET_WITHIN: f64 = 6.0;

/// What runs on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Nothing: it is off, or it found nothing to boot.
    Nothing(String),
    /// The ramdisk.
    Ramdisk,
    /// The system that it was to get.
    System,
}

/// A server.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) number: usize,
    /// Of its node.
    pub(crate) uuid: Uuid,
    pub(crate) mac: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) site: Arc<Site>,
    state: Mutex<State>,
    me: Weak<Self>,
}

struct State {
    on: bool,
    /// Grows with every start; what belongs to another one is over.
    boots: u64,
    target: String,
    enabled: String,
    medium: Option<String>,
    runs: Runs,
    /// Ends what runs.
    stop: CancellationToken,
    /// The commands of the agent that runs.
    commands: Option<Arc<Dispatcher>>,
    /// Its disk, the last one, behind those that were lost.
    disks: Vec<File>,
    ramdisks: u64,
}

/// What its BMC shows.
pub(crate) struct Seen {
    pub(crate) on: bool,
    pub(crate) target: String,
    pub(crate) enabled: String,
    pub(crate) medium: Option<String>,
}

impl Machine {
    /// The `number`-th machine of a site; off, with an empty disk.
    pub(crate) fn new(site: Arc<Site>, number: usize) -> std::io::Result<Arc<Self>> {
        let [high, low] = ((number + 1) as u16).to_be_bytes();
        let machine = Arc::new_cyclic(|me| Self {
            name: format!("sim-{number:04}"),
            number,
            uuid: Uuid::from_u128(0x5130_0000_0000_4000_8000_0000_0000_0000 | number as u128),
            mac: format!("52:54:00:51:{high:02x}:{low:02x}"),
            address: Ipv4Addr::new(127, site.network, high, low),
            site,
            state: Mutex::new(State {
                on: false,
                boots: 0,
                target: "Hdd".to_owned(),
                enabled: "Continuous".to_owned(),
                medium: None,
                runs: Runs::Nothing("it was never switched on".to_owned()),
                stop: CancellationToken::new(),
                commands: None,
                disks: Vec::new(),
                ramdisks: 0,
            }),
            me: me.clone(),
        });
        machine.new_disk(&mut machine.lock())?;
        Ok(machine)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its BMC shows.
    pub(crate) fn seen(&self) -> Seen {
        let state = self.lock();
        Seen {
            on: state.on,
            target: state.target.clone(),
            enabled: state.enabled.clone(),
            medium: state.medium.clone(),
        }
    }

    /// What runs on it.
    pub(crate) fn runs(&self) -> Runs {
        self.lock().runs.clone()
    }

    /// Where the file can be opened that its disk is (proc_pid_fd(5)).
    pub(crate) fn disk(&self) -> PathBuf {
        let descriptor = self.lock().disks.last().map_or(-1, |disk| disk.as_raw_fd());
        PathBuf::from(format!("/proc/self/fd/{descriptor}"))
    }

    /// Chooses what it boots.
    pub(crate) fn choose_boot(&self, target: Option<String>, enabled: Option<String>) {
        let mut state = self.lock();
        state.target = target.unwrap_or_else(|| state.target.clone());
        state.enabled = enabled.unwrap_or_else(|| state.enabled.clone());
    }

    /// Puts something into the virtual CD drive, or takes it out.
    pub(crate) fn insert(&self, medium: Option<String>) {
        self.lock().medium = medium;
    }

    /// Switches it on or off; nothing when it is so.
    pub(crate) fn switch(&self, on: bool) {
        let mut state = self.lock();
        if state.on != on {
            state.on = on;
            self.end(&mut state);
            if on {
                self.start(&mut state);
            }
        }
    }

    /// Restarts it; starts it when it is off.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.on = true;
        self.end(&mut state);
        self.start(&mut state);
    }

    /// What runs on it since the `boot`-th start ends the machine by itself.
    pub(crate) fn ended(&self, boot: u64, action: PowerAction) {
        if self.lock().boots == boot {
            match action {
                PowerAction::Off => self.switch(false),
                PowerAction::Reboot => self.reset(),
            }
        }
    }

    /// The agent that runs since the `boot`-th start carries these commands out.
    pub(crate) fn carries_out(&self, boot: u64, commands: &Arc<Dispatcher>) {
        let mut state = self.lock();
        if state.boots == boot && state.on {
            state.commands = Some(commands.clone());
        }
    }

    fn end(&self, state: &mut State) {
        state.stop.cancel();
        state.runs = Runs::Nothing("it was switched off".to_owned());
        let last = state.commands.take().and_then(|commands| commands.list().last().cloned());
        // A thread that writes to the disk cannot be ended as a machine can. It goes on with a file that is nobody's any
        // more, and what the disk held is lost, as it would be in the middle of a write.
        let works = |name: &str| !matches!(name, "power_off" | "run_image");
        if last.is_some_and(|last| last.is_running() && works(last.name()))
            && let Err(error) = self.new_disk(state)
        {
            tracing::error!(machine = self.name, %error, "there is no new disk");
        }
    }

    fn new_disk(&self, state: &mut State) -> std::io::Result<()> {
        if let Some(lost) = state.disks.last() {
            // It stays open: another file under its number would be taken for it by whoever still wants to open it.
            lost.set_len(0)?;
        }
        let disk = File::from(rustix::fs::memfd_create(&*self.name, MemfdFlags::CLOEXEC)?);
        disk.set_len(DISK)?;
        state.disks.push(disk);
        Ok(())
    }

    fn start(&self, state: &mut State) {
        let Some(me) = self.me.upgrade() else { return };
        state.boots += 1;
        state.stop = CancellationToken::new();
        let target = std::mem::replace(&mut state.target, "None".to_owned());
        match state.enabled.as_str() {
            "Continuous" => state.target.clone_from(&target),
            _ => state.enabled = "Disabled".to_owned(),
        }
        let (boot, stop) = (state.boots, state.stop.clone());
        // Firmware that nobody told anything tries what is in the drive, then the disk.
        let medium = state.medium.clone().filter(|_| target == "Cd" || target == "None");
        let Some(medium) = medium else {
            tokio::task::spawn_blocking(move || me.boot_disk(boot));
            return;
        };
        state.runs = Runs::Ramdisk;
        state.ramdisks += 1;
        let site = &self.site;
        if site.dice.happens(site.resets, "reset", self.number as u64, state.ramdisks) {
            let after = RESET_WITHIN * site.dice.roll("when it is reset", self.number as u64, state.ramdisks);
            let (me, stop) = (me.clone(), stop.clone());
            tokio::spawn(async move {
                if stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs_f64(after))).await.is_some() {
                    me.site.count_reset();
                    tracing::info!(machine = me.name, boot, "reset by chance");
                    me.reset();
                }
            });
        }
        tokio::spawn(async move { stop.run_until_cancelled(ramdisk::run(me, boot, medium)).await });
    }

    fn boot_disk(&self, boot: u64) {
        let runs = match self.site.image.check(&self.disk()) {
            Ok(()) => Runs::System,
            Err(error) => Runs::Nothing(format!("its disk does not boot: {error:#}")),
        };
        let mut state = self.lock();
        if state.boots == boot && state.on {
            state.runs = runs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::image::Image;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    use transport::client::{Client, Settings};

    #[test]
    fn a_disk_that_is_lost_takes_no_memory_and_whoever_still_writes_to_it_meets_no_other() {
        let dice = Dice::new(1);
        let site = Site {
            dice,
            resets: 0.0,
            network: 64,
            agent_port: 9999,
            callback_port: 9999,
            image: Image::new(dice).unwrap(),
            client: Client::new(Settings::default()).unwrap(),
            reset: 0.into(),
        };
        let machine = Machine::new(Arc::new(site), 0).unwrap();
        let lost = machine.disk();
        File::options().write(true).open(&lost).unwrap().write_all_at(&[7; 1 << 20], 1 << 30).unwrap();
        machine.new_disk(&mut machine.lock()).unwrap();
        assert_eq!(lost.metadata().unwrap().blocks(), 0);
        File::options().write(true).open(&lost).unwrap().write_all_at(b"late", 0).unwrap();
        let disk = machine.disk().metadata().unwrap();
        assert_eq!((disk.len(), disk.blocks()), (DISK, 0));
    }
}
