//! UEFI boot entries for the loaders on a disk, written through efivarfs.
//!
//! The EFI system partition is read by a library and never mounted, and nothing on it is executed.

mod entry;
mod esp;
mod variables;

use hardware::MachineError;
use std::fs::File;
use std::path::{Path, PathBuf};

use entry::{LoadOption, PartitionName};
use variables::Variables;

/// A disk whose partition table can be read.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// The device.
    pub(crate) device: PathBuf,
    /// Bytes of a logical sector.
    pub(crate) sector: u64,
}

/// Creates an entry for each loader on the ESP of `disk` and puts them first in the boot order. Older entries are dropped:
/// those of the same labels, those that boot from this ESP, and those that boot from a partition that neither this disk nor
/// one of `others` has any more, as the system that this disk held before. Returns the labels, in order; none when there are
/// no firmware variables or no loaders.
pub(crate) fn install(disk: &Table, others: &[Table], efivars: &Path) -> Result<Vec<String>, MachineError> {
    let Table { device, sector } = disk;
    let sector = *sector;
    let Some(variables) = Variables::at(efivars) else {
        tracing::info!("no firmware variables here, so no boot entries");
        return Ok(Vec::new());
    };
    let shown = device.display().to_string();
    let mut file = File::open(device).map_err(|source| MachineError::Read { what: shown.clone(), source })?;
    let Some(partition) = esp::locate(&mut file, sector)
        .map_err(|source| MachineError::Read { what: format!("the partition table of {shown}"), source })?
    else {
        tracing::warn!(device = shown, "no EFI system partition, so no boot entries");
        return Ok(Vec::new());
    };
    let loaders = esp::loaders(file, &partition, sector)
        .map_err(|source| MachineError::Read { what: format!("the EFI system partition of {shown}"), source })?;
    if loaders.is_empty() {
        tracing::warn!(device = shown, "no loader on the EFI system partition, so no boot entries");
        return Ok(Vec::new());
    }
    let present = present(std::iter::once(disk).chain(others));
    let is_old = |option: &[u8]| {
        let booted = entry::partition(option);
        let gone = booted.as_ref().is_some_and(|name| present.as_ref().is_some_and(|present| !present.contains(name)));
        let label = entry::label(option);
        gone || booted.as_ref() == Some(&partition.name)
            || loaders.iter().any(|loader| Some(&loader.label) == label.as_ref())
    };
    let dropped = variables.remove(is_old)?;
    let mut labels = Vec::with_capacity(loaders.len());
    let mut numbers = Vec::with_capacity(loaders.len());
    for loader in loaders {
        let option = LoadOption { label: loader.label, partition: partition.clone(), path: loader.path };
        let number = variables.create(&option)?;
        tracing::info!(
            label = option.label,
            loader = option.path,
            entry = format!("Boot{number:04X}"),
            "boot entry created"
        );
        labels.push(option.label);
        numbers.push(number);
    }
    variables.put_first(&numbers)?;
    tracing::info!(device = shown, ?dropped, "boot entries of older systems dropped");
    Ok(labels)
}

/// All partitions that there are. `None` when a disk cannot be read: what is on it is not gone.
fn present<'a>(disks: impl Iterator<Item = &'a Table>) -> Option<Vec<PartitionName>> {
    let mut present = Vec::new();
    for Table { device, sector } in disks {
        match File::open(device).and_then(|mut file| esp::partitions(&mut file, *sector)) {
            Ok(found) => present.extend(found),
            Err(error) => {
                let device = device.display();
                tracing::warn!(%device, %error, "a partition table cannot be read: entries of other disks are left alone");
                return None;
            }
        }
    }
    Some(present)
}

#[cfg(test)]
mod tests;
