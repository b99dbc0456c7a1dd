//! Models of disks that answer commands byte for byte, with faults.
//!
//! What a disk says of itself is what QEMU's disks say (`testdata/qemu.json`, recorded by `ci/record/disk_commands.py`), changed only
//! where a [profile](NvmeProfile) gives the model an ability that QEMU has not. Time is a [`SimClock`] that only moves when
//! somebody waits or a command takes long.
//!
//! ```
//! use hardware::{Device, Transfer};
//! use hardware_sim::drive::{SimClock, SimDrive};
//!
//! let drive = SimDrive::scsi(hardware_sim::drive::ScsiProfile::qemu(), "/dev/sda", &SimClock::default());
//! let mut inquiry = [0; 36];
//! let inquire = [0x12, 0, 0, 0, 36, 0];
//! let answer = drive.scsi(&inquire, Transfer::FromDevice(&mut inquiry), std::time::Duration::from_secs(1)).unwrap();
//! assert_eq!((answer.status, &inquiry[8..12]), (0, &b"QEMU"[..]));
//! ```

mod ata;
mod media;
mod nvme;
mod operation;
mod recorded;
mod scsi;
mod self_test;

pub use ata::AtaProfile;
pub use nvme::NvmeProfile;
pub use operation::{DriveFault, Mishap};
pub use recorded::{Exchange, exchanges};
pub use scsi::ScsiProfile;
pub use self_test::SelfTestEnd;

use hardware::{
    Bus, Device, DeviceError, DeviceId, Disk, Limits, MarkedMedium, Medium, NvmeCommand, NvmeCompletion,
    ScsiCompletion, Transfer,
};
use media::Media;
use operation::Works;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a block of every model.
pub(crate) const BLOCK: usize = 512;

/// Time that only moves when it is moved. Its clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct SimClock(Arc<Mutex<Duration>>);

impl SimClock {
    /// Time since it was made.
    pub fn now(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on.
    pub fn advance(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }
}

/// A model of a disk. Its clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDrive(Arc<Shared>);

struct Shared {
    id: DeviceId,
    disk: Disk,
    bus: Bus,
    limits: Limits,
    state: Arc<Mutex<State>>,
}

struct State {
    works: Works,
    model: Model,
}

enum Model {
    Nvme(nvme::Nvme),
    Ata(ata::Ata),
    Scsi(scsi::Scsi),
    Virtio,
}

impl std::fmt::Debug for SimDrive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDrive").field("id", &self.0.id).finish()
    }
}

impl SimDrive {
    /// An NVMe namespace with number 1 at `node`.
    pub fn nvme(profile: NvmeProfile, node: &str, clock: &SimClock) -> Self {
        Self::new("nvme", Bus::Nvme { namespace: 1 }, Model::Nvme(nvme::Nvme::new(profile)), node, clock)
    }

    /// An ATA drive at `node`, behind the kernel's translation.
    pub fn ata(profile: AtaProfile, node: &str, clock: &SimClock) -> Self {
        Self::new("ahci", Bus::Scsi, Model::Ata(ata::Ata::new(profile)), node, clock)
    }

    /// A SCSI disk at `node`.
    pub fn scsi(profile: ScsiProfile, node: &str, clock: &SimClock) -> Self {
        Self::new("scsi", Bus::Scsi, Model::Scsi(scsi::Scsi::new(profile)), node, clock)
    }

    /// A virtio-blk disk at `node`: it has no commands of its own.
    pub fn virtio(node: &str, clock: &SimClock) -> Self {
        Self::new("virtio", Bus::Block, Model::Virtio, node, clock)
    }

    fn new(kind: &str, bus: Bus, model: Model, node: &str, clock: &SimClock) -> Self {
        let limits = recorded::limits(kind);
        let disk = Disk { rotational: limits.rotational, ..crate::disk(node, limits.size) };
        let works = Works::new(Media::new(limits.size as usize), clock.clone());
        let state = Arc::new(Mutex::new(State { works, model }));
        Self(Arc::new(Shared { id: DeviceId::of(&disk), disk, bus, limits, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as an inventory shows it.
    pub fn disk(&self) -> Disk {
        self.0.disk.clone()
    }

    /// The same disk with this world wide name.
    #[must_use]
    pub fn with_wwn(self, wwn: &str) -> Self {
        self.changed(|disk| disk.wwn = Some(wwn.to_owned()))
    }

    /// The same disk by another way: what is written to one is read from the other.
    #[must_use]
    pub fn path(&self, node: &str) -> Self {
        self.changed(|disk| disk.name = node.to_owned())
    }

    /// The same NVMe drive as the namespace of this number; it has the same bytes.
    #[must_use]
    pub fn with_namespace(self, namespace: u32) -> Self {
        let Shared { id, disk, limits, state, .. } = &*self.0;
        let (bus, state) = (Bus::Nvme { namespace }, Arc::clone(state));
        Self(Arc::new(Shared { id: id.clone(), disk: disk.clone(), bus, limits: *limits, state }))
    }

    fn changed(&self, change: impl FnOnce(&mut Disk)) -> Self {
        let Shared { disk, bus, limits, state, .. } = &*self.0;
        let mut disk = disk.clone();
        change(&mut disk);
        let (id, bus, limits, state) = (DeviceId::of(&disk), *bus, *limits, Arc::clone(state));
        Self(Arc::new(Shared { id, disk, bus, limits, state }))
    }

    /// Sets what happens to the drive between its erase and whoever looks at it then.
    pub fn afterwards(&self, mishap: Mishap) {
        self.state().works.mishap = Some(mishap);
    }

    /// Lets nobody write to it, as a zoned disk away from its write pointers or one that is protected. Its commands work.
    pub fn refuse_writes(&self) {
        self.state().works.refuses_writes = true;
    }

    /// Makes these bytes a place of the medium that is worn out: neither read nor written.
    pub fn wear_out(&self, place: std::ops::Range<u64>) {
        self.state().works.bad.push(place);
    }

    /// Lets the next erase, or the next command that it concerns, go wrong in this way.
    pub fn inject(&self, fault: DriveFault) {
        self.state().works.inject(fault, false);
    }

    /// Lets every erase, or every command that it concerns, go wrong in this way.
    pub fn always(&self, fault: DriveFault) {
        self.state().works.inject(fault, true);
    }

    /// Sets how its self-tests end.
    pub fn set_self_tests(&self, end: SelfTestEnd) {
        self.state().works.tests.end = end;
    }

    /// Switches the drive off and on. A sanitize goes on by itself, a password locks.
    pub fn power_cut(&self) {
        let State { works, model } = &mut *self.state();
        works.silent = false;
        match model {
            Model::Ata(ata) => ata.power_cut(),
            Model::Scsi(scsi) => scsi.was_reset(),
            Model::Nvme(_) | Model::Virtio => {}
        }
    }

    /// Blocks that still hold what they held when the model was made: known data, not zeros. An erase leaves none.
    pub fn old_blocks(&self) -> usize {
        let State { works, .. } = &mut *self.state();
        works.settle();
        works.media.old_blocks(0..usize::MAX)
    }

    /// The same of these bytes.
    pub fn old_blocks_in(&self, bytes: std::ops::Range<u64>) -> usize {
        let State { works, .. } = &mut *self.state();
        works.settle();
        works.media.old_blocks(bytes.start as usize / BLOCK..bytes.end as usize / BLOCK)
    }

    /// Writes the known data again, as somebody who uses the drive.
    pub fn make_old(&self) -> Result<(), DeviceError> {
        self.on_media("write", |works| {
            works.written = true;
            works.media = Media::new(works.media.len());
            Ok(())
        })
    }

    /// Whether an ATA user password is set.
    pub fn has_password(&self) -> bool {
        matches!(&self.state().model, Model::Ata(ata) if ata.has_password())
    }

    /// Sets an ATA user password, as somebody else would have.
    pub fn set_password(&self, password: [u8; 32]) {
        if let Model::Ata(ata) = &mut self.state().model {
            ata.set_password(password);
        }
    }

    /// Whether what belongs to others, such as further namespaces, was erased with it.
    pub fn siblings_erased(&self) -> bool {
        matches!(&self.state().model, Model::Nvme(nvme) if nvme.siblings_erased)
    }

    /// Names of the commands that were sent to erase something, such as `sanitize crypto`, in order.
    pub fn erases(&self) -> Vec<String> {
        self.state().works.begun.clone()
    }

    fn lost(&self, command: &str) -> DeviceError {
        DeviceError::NoSuchPath { command: command.to_owned(), device: self.0.id.node.clone() }
    }

    fn interrupted(&self, interruption: Interruption, command: &str, limit: Duration) -> DeviceError {
        let (command, device) = (command.to_owned(), self.0.id.node.clone());
        match interruption {
            Interruption::TimedOut => DeviceError::TimedOut { command, device, limit },
            Interruption::Reset => DeviceError::Reset { command, device },
        }
    }

    fn io(&self, command: &str, text: &str) -> DeviceError {
        let (command, device) = (command.to_owned(), self.0.id.node.clone());
        DeviceError::Io { command, device, source: io::Error::other(text.to_owned()) }
    }

    /// The bytes of the medium, if they are to be had now.
    fn on_media<T>(
        &self,
        command: &str,
        use_it: impl FnOnce(&mut Works) -> Result<T, String>,
    ) -> Result<T, DeviceError> {
        let State { works, model } = &mut *self.state();
        works.tick();
        works.settle();
        let locked = matches!(model, Model::Ata(ata) if ata.is_locked());
        if works.silent || works.is_busy() || works.has_failed() || locked {
            return Err(self.io(command, "the drive gives its data to nobody now"));
        }
        use_it(works).map_err(|text| self.io(command, &text))
    }
}

/// Why a command has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    TimedOut,
    Reset,
}

impl Device for SimDrive {
    fn id(&self) -> &DeviceId {
        &self.0.id
    }

    fn bus(&self) -> Bus {
        self.0.bus
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError> {
        let name = format!("NVMe admin command {:02x}h", command.opcode);
        let State { works, model } = &mut *self.state();
        let Model::Nvme(nvme) = model else { return Err(self.lost(&name)) };
        let answer = works.answer(limit).and_then(|()| nvme.admin(works, command, data, limit));
        answer.map_err(|interruption| self.interrupted(interruption, &name, limit))
    }

    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError> {
        let name = format!("SCSI command {:02x}h", cdb.first().copied().unwrap_or_default());
        let State { works, model } = &mut *self.state();
        let answer = match model {
            Model::Ata(ata) => works.answer(limit).and_then(|()| ata.scsi(works, cdb, data, limit)),
            Model::Scsi(scsi) => works.answer(limit).and_then(|()| scsi.scsi(works, cdb, data)),
            Model::Nvme(_) | Model::Virtio => return Err(self.lost(&name)),
        };
        answer.map_err(|interruption| self.interrupted(interruption, &name, limit))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.on_media("read", |works| works.get(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.on_media("write", |works| works.write(data, offset))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.on_media("BLKZEROOUT", |works| works.write(&vec![0; length as usize], offset))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.on_media("BLKDISCARD", |works| works.discard(offset, length))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.on_media("flush", |_| Ok(()))
    }
}

/// The errors of `asm-generic/errno.h` by which the kernel tells of a medium and of the way to it.
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENODATA: i32 = 61;

impl SimDrive {
    /// What has happened to the drive since whoever erases had it, if anything.
    fn mishap(&self) -> Option<Mishap> {
        let State { works, .. } = &*self.state();
        works.mishap.filter(|_| works.touched)
    }

    fn bad(&self, offset: u64, length: usize) -> bool {
        self.state().works.is_bad(offset, length as u64)
    }
}

/// As the proof has it: its errors are those of the kernel.
impl Medium for SimDrive {
    fn size(&self) -> u64 {
        match self.mishap() {
            Some(Mishap::HasSize(size)) => size,
            _ => self.0.limits.size,
        }
    }

    fn sector(&self) -> u64 {
        BLOCK as u64
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + buffer.len() as u64;
        let errno = match self.mishap() {
            Some(Mishap::Vanishes) => Some(ENODEV),
            Some(Mishap::ReadError(at)) if range.contains(&at) => Some(EIO),
            _ if self.bad(offset, buffer.len()) => Some(ENODATA),
            _ => None,
        };
        match errno {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => self.read_at(buffer, offset).map_err(io::Error::other),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.mishap() {
            Some(Mishap::Vanishes) => Err(io::Error::from_raw_os_error(ENODEV)),
            Some(Mishap::FlushFails) => Err(io::Error::from_raw_os_error(EIO)),
            _ => Device::flush(self).map_err(io::Error::other),
        }
    }
}

impl MarkedMedium for SimDrive {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Marks are data of the owner: whoever erases has to make them go away, whatever faults there are.
        self.on_media("write", |works| works.put(bytes, offset)).map_err(io::Error::other)
    }
}

/// Gives as many bytes of an answer as were asked for and as there is room; the rest is zeros, as QEMU's disks do it.
pub(crate) fn give(data: &mut Transfer<'_>, asked: usize, answer: &[u8]) {
    if let Transfer::FromDevice(buffer) = data {
        let length = asked.min(buffer.len());
        buffer[..length].fill(0);
        let there = answer.len().min(length);
        buffer[..there].copy_from_slice(&answer[..there]);
    }
}

/// The data that came with a command.
pub(crate) fn given<'a>(data: &'a Transfer<'_>) -> &'a [u8] {
    match data {
        Transfer::ToDevice(data) => data,
        Transfer::None | Transfer::FromDevice(_) => &[],
    }
}

#[cfg(test)]
mod tests;
