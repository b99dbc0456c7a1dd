//! A server: power, a boot device, a virtual CD, a disk, and what runs on it.

use crate::ramdisk;
use crate::site::Site;
use agent::Dispatcher;
use hardware::PowerAction;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bytes of its disk: twice what is the least for a system. A hole in a file, but for what is written.
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
    /// Which disk it has; another one when one was lost.
    disk: u64,
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
                disk: 0,
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

    /// The file that its disk is.
    pub(crate) fn disk(&self) -> PathBuf {
        self.site.disks.join(format!("{}-{}", self.name, self.lock().disk))
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
        let path = |number: u64| self.site.disks.join(format!("{}-{number}", self.name));
        let _ = std::fs::remove_file(path(state.disk));
        state.disk += 1;
        std::fs::File::create_new(path(state.disk))?.set_len(DISK)
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
