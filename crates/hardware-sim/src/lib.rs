//! A machine in memory: inventory, disks that are files or nothing at all, and faults on demand. It records what was done
//! to it.
//!
//! ```
//! use hardware::{Machine, Plan};
//! use hardware_sim::{Event, Fault, SimMachine};
//!
//! let machine = SimMachine::new();
//! machine.add_disk(hardware_sim::disk("/dev/vda", 8 << 30));
//! let plan = Plan::new("erase", machine.disks().unwrap());
//! machine.inject(Fault::Open("/dev/vda".to_owned()));
//! assert!(machine.open(&plan.erase("/dev/vda").unwrap()).is_err());
//! assert!(machine.open(&plan.erase("/dev/vda").unwrap()).is_ok());
//! assert_eq!(machine.events(), [Event::Opened("/dev/vda".to_owned())]);
//! ```

pub mod drive;
mod file;

pub use file::{FileDisk, Lie};

mod maintain;

use drive::SimDrive;
use hardware::{
    BootLoader, BootMode, Contents, Device, DeviceError, DeviceId, Disk, EraseGrant, EraseProof, Interface, Inventory,
    Machine, MachineError, MarkedMedium, Medium, Opened, Outcome, PowerAction, WriteGrant,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that was done to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device was opened for writing.
    Claimed(String),
    /// What used a device was taken away, so that it can be written.
    Released(String),
    /// A device was opened to be erased.
    Opened(String),
    /// What crashed kernels left was removed.
    PstoreErased,
    /// A partition table was read again.
    Reread(String),
    /// A file system was made in these bytes of a device.
    Formatted(String, Range<u64>),
    /// Boot entries were written for a device.
    BootEntries(String),
    /// Everything was flushed.
    Synced,
    /// The machine ended.
    Ended(PowerAction),
}

/// The next call of this kind fails, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Reading the inventory or the list of disks.
    Read,
    /// Looking into this device.
    Look(String),
    /// Opening this device for its erase.
    Open(String),
    /// Making a file system.
    Format,
    /// Writing boot entries.
    BootEntries,
    /// Flushing.
    Sync,
    /// Ending.
    Power,
}

/// A machine in memory.
#[derive(Debug, Default)]
pub struct SimMachine {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inventory: Inventory,
    files: BTreeMap<String, PathBuf>,
    /// What was written to disks that are in memory only.
    blank: BTreeMap<String, Arc<File>>,
    partitions: BTreeMap<String, Vec<Range<u64>>>,
    lies: BTreeMap<String, Lie>,
    drives: BTreeMap<String, SimDrive>,
    released: BTreeMap<String, Vec<String>>,
    pstore: Option<Vec<String>>,
    contents: BTreeMap<String, Contents>,
    boot_labels: Vec<String>,
    read_only: bool,
    faults: Vec<Fault>,
    events: Vec<Event>,
    parts: maintain::Parts,
    end: Hook<PowerAction>,
    look: Hook<()>,
}

/// What is called from the machine.
#[derive(Clone)]
struct Hook<T>(Option<Arc<dyn Fn(T) + Send + Sync>>);

impl<T> Default for Hook<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> std::fmt::Debug for Hook<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

/// A disk without any quirks. `name` is its device node, `size` its bytes; its serial number is made of its name.
pub fn disk(name: &str, size: u64) -> Disk {
    Disk {
        name: name.to_owned(),
        model: Some("Simulated".to_owned()),
        size,
        serial: Some(format!("SIM{}", name.rsplit('/').next().unwrap_or_default())),
        logical_sectors: Some(512),
        physical_sectors: Some(512),
        ..Disk::default()
    }
}

impl SimMachine {
    /// A machine with one network interface and no disks.
    pub fn new() -> Self {
        let interface = Interface {
            name: "eth0".to_owned(),
            mac_address: "52:54:00:00:00:01".to_owned(),
            has_carrier: true,
            ..Interface::default()
        };
        let inventory = Inventory { interfaces: vec![interface], hostname: "sim".to_owned(), ..Inventory::default() };
        Self { state: Mutex::new(State { inventory, ..State::default() }) }
    }

    /// Lets the machine be read only.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.state().read_only = true;
        self
    }

    /// Calls `end` when the machine is to end, for whoever simulates the power supply. Without it an end is an event and no
    /// more.
    #[must_use]
    pub fn ending_with(self, end: impl Fn(PowerAction) + Send + Sync + 'static) -> Self {
        self.state().end = Hook(Some(Arc::new(end)));
        self
    }

    /// Calls `look` each time before a disk is looked into, so that a test can do something in the middle of a step.
    #[must_use]
    pub fn looking_with(self, look: impl Fn() + Send + Sync + 'static) -> Self {
        self.state().look = Hook(Some(Arc::new(move |()| look())));
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the inventory.
    pub fn change(&self, change: impl FnOnce(&mut Inventory)) {
        change(&mut self.state().inventory);
    }

    /// Adds a disk full of zeros, in memory. It can be erased, and has no path to open.
    pub fn add_disk(&self, disk: Disk) {
        self.state().inventory.disks.push(disk);
    }

    /// Adds a disk whose content is the file at `path`; it has the file's size.
    pub fn add_file_disk(&self, name: &str, path: PathBuf) -> io::Result<()> {
        let size = path.metadata()?.len();
        let mut state = self.state();
        state.inventory.disks.push(disk(name, size));
        state.files.insert(name.to_owned(), path);
        Ok(())
    }

    /// Adds a disk that is the model of a drive: what it holds, whether it can be looked into, and all commands to it are the
    /// model's.
    pub fn add_drive(&self, drive: &SimDrive) {
        let mut state = self.state();
        state.inventory.disks.push(drive.disk());
        state.drives.insert(drive.disk().name, drive.clone());
    }

    /// Lets the file disk `name` say of its erase what is not true.
    pub fn lie(&self, name: &str, lie: Lie) {
        self.state().lies.insert(name.to_owned(), lie);
    }

    /// Sets the partitions that the kernel sees on the disk `name`, until it reads a table there whose first sector is zeros.
    pub fn set_partitions(&self, name: &str, partitions: &[Range<u64>]) {
        self.state().partitions.insert(name.to_owned(), partitions.to_vec());
    }

    /// Sets what is taken away from the disk `name` when it is freed, or opened for its erase.
    pub fn set_released(&self, name: &str, released: &[&str]) {
        self.state().released.insert(name.to_owned(), released.iter().map(|one| (*one).to_owned()).collect());
    }

    /// Sets what crashed kernels have left; without this there is no such memory.
    pub fn set_pstore(&self, entries: &[&str]) {
        self.state().pstore = Some(entries.iter().map(|entry| (*entry).to_owned()).collect());
    }

    /// Sets what is found on the disk `name`; nothing special without this.
    pub fn set_contents(&self, name: &str, contents: Contents) {
        self.state().contents.insert(name.to_owned(), contents);
    }

    /// Sets the labels of boot entries that are written; none means that there are no firmware variables.
    pub fn set_boot_labels(&self, labels: &[&str]) {
        self.state().boot_labels = labels.iter().map(|label| (*label).to_owned()).collect();
    }

    /// Lets the next call of a kind fail.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// What was done so far.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }
}

impl State {
    /// Uses a fault up.
    fn fails(&mut self, fault: &Fault) -> bool {
        let place = self.faults.iter().position(|injected| injected == fault);
        place.map(|place| self.faults.remove(place)).is_some()
    }

    fn writing(&self, what: &str) -> Result<(), MachineError> {
        if self.read_only {
            let reason = "this simulated machine may only be read".to_owned();
            return Err(MachineError::Unsupported { what: what.to_owned(), reason });
        }
        Ok(())
    }

    /// The disk that is a file, or is in memory, with the sectors that the inventory says.
    fn file_disk(&mut self, device: &DeviceId) -> io::Result<FileDisk> {
        let disk = self.inventory.disks.iter().find(|disk| disk.name == device.node);
        let sector = disk.and_then(|disk| disk.logical_sectors).and_then(|sector| u32::try_from(sector).ok());
        let (sector, lie) = (sector.unwrap_or(512), self.lies.get(&device.node).copied());
        if let Some(path) = self.files.get(&device.node) {
            return FileDisk::open(device.clone(), path, sector, lie);
        }
        let file = match self.blank.get(&device.node) {
            Some(file) => Arc::clone(file),
            None => {
                let file = File::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC)?);
                file.set_len(device.size)?;
                let file = Arc::new(file);
                self.blank.insert(device.node.clone(), Arc::clone(&file));
                file
            }
        };
        Ok(FileDisk::of(device.clone(), file, sector, lie))
    }

    fn check(&self, device: &DeviceId) -> Result<(), MachineError> {
        let there = self.inventory.disks.iter().find(|disk| disk.name == device.node);
        match there {
            Some(disk) if device.is(disk) => Ok(()),
            other => Err(MachineError::OtherDevice {
                granted: Box::new(device.clone()),
                found: other.map_or_else(|| "nothing".to_owned(), |disk| DeviceId::of(disk).to_string()),
            }),
        }
    }
}

/// The numbers that somebody who puts GRUB on a disk looks at, where GRUB has them, and no code.
fn simulated_grub() -> BootLoader {
    let (mut boot, mut core) = (vec![0; 512], vec![0; 1024]);
    boot[0x5c] = 1;
    (boot[0x64], boot[0x66]) = (0xff, 0xeb);
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    core[500..512].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x20, 8]);
    BootLoader::Grub { boot, core }
}

fn broken(what: &str) -> (String, io::Error) {
    (what.to_owned(), io::Error::other("injected fault"))
}

impl Machine for SimMachine {
    fn inventory(&self) -> Result<Inventory, MachineError> {
        let mut state = self.state();
        if state.fails(&Fault::Read) {
            let (what, source) = broken("the inventory");
            return Err(MachineError::Read { what, source });
        }
        Ok(state.inventory.clone())
    }

    fn disks(&self) -> Result<Vec<Disk>, MachineError> {
        Ok(self.inventory()?.disks)
    }

    fn contents(&self, disk: &Disk) -> Result<Contents, MachineError> {
        let look = self.state().look.clone();
        if let Hook(Some(look)) = look {
            look(());
        }
        let mut state = self.state();
        if state.fails(&Fault::Look(disk.name.clone())) {
            let (what, source) = broken(&disk.name);
            return Err(MachineError::Read { what, source });
        }
        if let Some(drive) = state.drives.get(&disk.name) {
            let mut first = [0; drive::BLOCK];
            let unreadable =
                |error: DeviceError| MachineError::Read { what: disk.name.clone(), source: io::Error::other(error) };
            drive.read_at(&mut first, 0).map_err(unreadable)?;
        }
        Ok(state.contents.get(&disk.name).cloned().unwrap_or_default())
    }

    fn may_write(&self) -> bool {
        !self.state().read_only
    }

    fn claim(&self, device: &DeviceId) -> Result<PathBuf, MachineError> {
        let mut state = self.state();
        state.writing("opening a disk")?;
        state.check(device)?;
        let path = state.files.get(&device.node).cloned().ok_or_else(|| MachineError::Unsupported {
            what: format!("opening {device}"),
            reason: "this simulated disk has no content".to_owned(),
        })?;
        state.events.push(Event::Claimed(device.node.clone()));
        Ok(path)
    }

    fn release(&self, grant: &WriteGrant) -> Result<Vec<String>, MachineError> {
        let mut state = self.state();
        let device = grant.device();
        state.writing("writing")?;
        state.check(device)?;
        state.events.push(Event::Released(device.node.clone()));
        Ok(state.released.get(&device.node).cloned().unwrap_or_default())
    }

    fn open(&self, grant: &EraseGrant) -> Result<Opened, MachineError> {
        let mut state = self.state();
        let device = grant.device();
        state.writing("erasing")?;
        state.check(device)?;
        if state.fails(&Fault::Open(device.node.clone())) {
            let (what, source) = broken(&device.node);
            return Err(MachineError::Read { what, source });
        }
        let partitions = state.partitions.get(&device.node).cloned().unwrap_or_default();
        let (device, medium): (Box<dyn Device>, Box<dyn MarkedMedium>) = match state.drives.get(&device.node) {
            Some(drive) => (Box::new(drive.clone()), Box::new(drive.clone())),
            None => {
                let disk = state.file_disk(device);
                let disk = disk.map_err(|source| MachineError::Read { what: device.node.clone(), source })?;
                (Box::new(disk.clone()), Box::new(disk))
            }
        };
        let released = state.released.get(&device.id().node).cloned().unwrap_or_default();
        state.events.push(Event::Opened(device.id().node.clone()));
        Ok(Opened { device, medium, partitions, found: Vec::new(), released })
    }

    fn erase_pstore(&self) -> Result<EraseProof, MachineError> {
        let mut state = self.state();
        state.writing("erasing pstore")?;
        let outcome = match &mut state.pstore {
            None => Outcome::Skipped { reason: "there is no pstore".to_owned() },
            Some(entries) => {
                let evidence = format!("{} entries removed", std::mem::take(entries).len());
                state.events.push(Event::PstoreErased);
                Outcome::Verified { evidence }
            }
        };
        let node = "/sys/fs/pstore".to_owned();
        Ok(EraseProof::new(DeviceId { node, wwn: None, serial: None, path: None, size: 0 }, "pstore", outcome))
    }

    fn reread_partitions(&self, device: &DeviceId) -> Result<Vec<String>, MachineError> {
        let mut state = self.state();
        state.writing("reading a partition table again")?;
        state.check(device)?;
        state.events.push(Event::Reread(device.node.clone()));
        let mut first = [0; drive::BLOCK];
        let read = match state.drives.get(&device.node).cloned() {
            Some(drive) => drive.read_at(&mut first, 0).map_err(io::Error::other),
            None => state.file_disk(device).and_then(|mut disk| Medium::read(&mut disk, 0, &mut first)),
        };
        // Whatever is there stands for a table: nothing is read of it.
        if read.is_ok() && first == [0; drive::BLOCK] {
            state.partitions.remove(&device.node);
        }
        let seen = state.partitions.get(&device.node).map_or(0, Vec::len);
        let name = device.node.trim_start_matches("/dev/");
        Ok((1..=seen).map(|number| format!("{name}{number}")).collect())
    }

    fn make_file_system(
        &self,
        grant: &WriteGrant,
        bytes: Range<u64>,
        _kind: &str,
        _label: &str,
    ) -> Result<(), MachineError> {
        let mut state = self.state();
        state.writing("making a file system")?;
        state.check(grant.device())?;
        if state.fails(&Fault::Format) {
            let (what, source) = broken("the file system");
            return Err(MachineError::Write { what, source });
        }
        state.events.push(Event::Formatted(grant.device().node.clone(), bytes));
        Ok(())
    }

    fn can_make_file_system(&self, _kind: &str) -> Result<(), MachineError> {
        Ok(())
    }

    fn boot_loader(&self, mode: BootMode) -> Result<BootLoader, MachineError> {
        Ok(match mode {
            BootMode::Uefi => BootLoader::Efi(b"MZ simulated boot loader".to_vec()),
            BootMode::Bios => simulated_grub(),
        })
    }

    fn install_boot_entries(&self, device: &DeviceId) -> Result<Vec<String>, MachineError> {
        let mut state = self.state();
        state.writing("writing boot entries")?;
        state.check(device)?;
        if state.fails(&Fault::BootEntries) {
            let (what, source) = broken("firmware variables");
            return Err(MachineError::Write { what, source });
        }
        if !state.boot_labels.is_empty() {
            state.events.push(Event::BootEntries(device.node.clone()));
        }
        Ok(state.boot_labels.clone())
    }

    fn sync(&self) -> Result<(), MachineError> {
        let mut state = self.state();
        if state.fails(&Fault::Sync) {
            let (what, source) = broken("file systems");
            return Err(MachineError::Write { what, source });
        }
        state.events.push(Event::Synced);
        Ok(())
    }

    fn power(&self, action: PowerAction) -> Result<(), MachineError> {
        let mut state = self.state();
        state.writing("ending the machine")?;
        if state.fails(&Fault::Power) {
            let (what, source) = broken("the power state");
            return Err(MachineError::Write { what, source });
        }
        state.events.push(Event::Ended(action));
        let end = state.end.clone();
        // Whoever ends the machine may look at it.
        drop(state);
        if let Hook(Some(end)) = end {
            end(action);
        }
        Ok(())
    }
}
