//! UEFI boot entries for the loaders on a disk, written through efivarfs.
//!
//! The EFI system partition is read by a library and never mounted, and nothing on it is executed.

mod entry;
mod esp;
mod path;
mod variables;

use hardware::{BootEntry, MachineError};
use std::fs::File;
use std::path::Path;

use entry::LoadOption;
use variables::Variables;

/// Creates an entry for each loader on the ESP of `disk` and puts them first in the boot order. Older entries are dropped:
/// those of the same labels, and those that boot from this ESP. Whatever boots from elsewhere stays, even when its partition
/// is not to be seen: its disk may only lack a driver or a path here. `sector` is the size of a logical sector in bytes.
/// Returns the labels, in order; none when there are no firmware variables or no loaders.
pub(crate) fn install(device: &Path, sector: u64, efivars: &Path) -> Result<Vec<String>, MachineError> {
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
    let is_old = |option: &[u8]| {
        let label = entry::label(option);
        entry::partition(option).as_ref() == Some(&partition.name)
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

/// The boot entries, by number.
pub(crate) fn entries(efivars: &Path) -> Result<Vec<BootEntry>, MachineError> {
    let variables = Variables::at(efivars).ok_or_else(|| absent("reading boot entries"))?;
    Ok(variables.options().into_iter().map(|(number, option)| entry(number, &option)).collect())
}

/// The boot entry `number` of the contents of its variable. What cannot be read of it is empty.
pub fn entry(number: u16, option: &[u8]) -> BootEntry {
    BootEntry { number, label: entry::label(option).unwrap_or_default(), path: path::text(option) }
}

/// Removes the entries of these numbers.
pub(crate) fn remove(efivars: &Path, numbers: &[u16]) -> Result<(), MachineError> {
    Variables::at(efivars).ok_or_else(|| absent("removing boot entries"))?.remove_numbers(numbers)
}

fn absent(what: &str) -> MachineError {
    let reason = "there are no firmware variables: the machine was not booted by UEFI".to_owned();
    MachineError::Unsupported { what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests;
