//! The maintenance of a simulated machine.

use crate::{SimMachine, broken};
use hardware::{
    BootEntry, Device, DeviceId, Disk, MachineError, Maintain, MemoryErrors, Mounted, Observed, Sensor, WriteGrant,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What of a simulated machine is looked after.
#[derive(Default)]
pub(crate) struct Parts {
    /// `None` where it was not booted by UEFI.
    entries: Option<Vec<BootEntry>>,
    /// Folders that stand for file systems, by disk and partition.
    folders: BTreeMap<(String, u32), PathBuf>,
    devices: BTreeMap<String, Arc<dyn Device>>,
    resets: BTreeMap<String, Arc<dyn Fn() + Send + Sync>>,
    memory: Vec<MemoryErrors>,
    sensors: Vec<Sensor>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("entries", &self.entries).field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl SimMachine {
    /// Sets the boot entries; without this there are no firmware variables.
    pub fn set_boot_entries(&self, entries: Vec<BootEntry>) {
        self.state().parts.entries = Some(entries);
    }

    /// Sets the folder that a partition's file system is.
    pub fn set_partition(&self, disk: &str, partition: u32, folder: PathBuf) {
        self.state().parts.folders.insert((disk.to_owned(), partition), folder);
    }

    /// Sets what takes the commands to a disk.
    pub fn set_device(&self, disk: &str, device: Arc<dyn Device>) {
        self.state().parts.devices.insert(disk.to_owned(), device);
    }

    /// Sets what happens when the controller of a disk is reset.
    pub fn set_reset(&self, disk: &str, reset: impl Fn() + Send + Sync + 'static) {
        self.state().parts.resets.insert(disk.to_owned(), Arc::new(reset));
    }

    /// Sets what is measured.
    pub fn set_health(&self, memory: Vec<MemoryErrors>, sensors: Vec<Sensor>) {
        let mut state = self.state();
        (state.parts.memory, state.parts.sensors) = (memory, sensors);
    }

    fn device(&self, id: &DeviceId) -> Result<Arc<dyn Device>, MachineError> {
        let state = self.state();
        state.check(id)?;
        if let Some(drive) = state.drives.get(&id.node) {
            return Ok(Arc::new(drive.clone()));
        }
        state.parts.devices.get(&id.node).cloned().ok_or_else(|| {
            let (what, source) = broken(&id.node);
            MachineError::Read { what, source }
        })
    }
}

struct Folder(PathBuf);

impl Mounted for Folder {
    fn root(&self) -> &Path {
        &self.0
    }

    fn close(self: Box<Self>) -> Result<(), MachineError> {
        Ok(())
    }
}

impl Maintain for SimMachine {
    fn boot_entries(&self) -> Result<Vec<BootEntry>, MachineError> {
        self.state().parts.entries.clone().ok_or_else(|| MachineError::Unsupported {
            what: "reading boot entries".to_owned(),
            reason: "this simulated machine has no firmware variables".to_owned(),
        })
    }

    fn remove_boot_entries(&self, numbers: &[u16]) -> Result<(), MachineError> {
        let mut state = self.state();
        state.writing("removing boot entries")?;
        if let Some(entries) = &mut state.parts.entries {
            entries.retain(|entry| !numbers.contains(&entry.number));
        }
        Ok(())
    }

    fn partition_numbers(&self, device: &DeviceId) -> Result<Vec<u32>, MachineError> {
        let state = self.state();
        state.check(device)?;
        let own = state.parts.folders.keys().filter(|(disk, _)| *disk == device.node);
        Ok(own.map(|(_, number)| *number).collect())
    }

    fn mount(&self, grant: &WriteGrant, partition: u32) -> Result<Box<dyn Mounted>, MachineError> {
        let state = self.state();
        state.writing("changing files on a disk")?;
        state.check(grant.device())?;
        let folder = state.parts.folders.get(&(grant.device().node.clone(), partition)).cloned();
        let folder = folder.filter(|folder| folder.is_dir()).ok_or_else(|| MachineError::Unsupported {
            what: format!("mounting partition {partition} of {}", grant.device()),
            reason: "it has no file system".to_owned(),
        })?;
        Ok(Box::new(Folder(folder)))
    }

    fn observe(&self, disk: &Disk) -> Result<Box<dyn Device>, MachineError> {
        Ok(Box::new(Observed::new(self.device(&DeviceId::of(disk))?)))
    }

    fn command(&self, grant: &WriteGrant) -> Result<Box<dyn Device>, MachineError> {
        self.state().writing("commands to a disk")?;
        Ok(Box::new(self.device(grant.device())?))
    }

    fn reset_controller(&self, grant: &WriteGrant) -> Result<(), MachineError> {
        let state = self.state();
        state.writing("resetting a controller")?;
        state.check(grant.device())?;
        match state.parts.resets.get(&grant.device().node).cloned() {
            Some(reset) => {
                drop(state);
                reset();
                Ok(())
            }
            None => Err(MachineError::Unsupported {
                what: "resetting a controller".to_owned(),
                reason: "this simulated disk has none".to_owned(),
            }),
        }
    }

    fn memory_errors(&self) -> Vec<MemoryErrors> {
        self.state().parts.memory.clone()
    }

    fn sensors(&self) -> Vec<Sensor> {
        self.state().parts.sensors.clone()
    }
}
