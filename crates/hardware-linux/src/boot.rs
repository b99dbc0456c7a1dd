//! UEFI boot entries for the loaders on a disk, written through efivarfs.
//!
//! The EFI system partition is read by a library and never mounted, and nothing on it is executed.

mod entry;
mod esp;
mod variables;

use hardware::MachineError;
use std::fs::File;
use std::path::Path;

use entry::LoadOption;
use variables::Variables;

/// Creates an entry for each loader on the ESP of `device` and puts them first in the boot order, dropping entries that
/// carry the same labels. Returns the labels, in order; none when there are no firmware variables or no loaders.
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
    let mut labels = Vec::with_capacity(loaders.len());
    let mut numbers = Vec::with_capacity(loaders.len());
    for loader in loaders {
        let dropped = variables.remove_labelled(&loader.label)?;
        let option = LoadOption { label: loader.label, partition: partition.clone(), path: loader.path };
        let number = variables.create(&option)?;
        tracing::info!(
            label = option.label,
            loader = option.path,
            entry = format!("Boot{number:04X}"),
            dropped,
            "boot entry created"
        );
        labels.push(option.label);
        numbers.push(number);
    }
    if !numbers.is_empty() {
        variables.put_first(&numbers)?;
    }
    Ok(labels)
}
