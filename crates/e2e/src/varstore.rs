//! What a virtual server's firmware remembers: EDK II's store of authenticated variables, as OVMF keeps it in its second
//! flash image (`MdePkg/Include/Pi/PiFirmwareVolume.h`, `MdeModulePkg/Include/Guid/VariableFormat.h`).

use anyhow::{Context as _, Result, ensure};

/// `VARIABLE_DATA`, which every variable begins with.
const START: u16 = 0x55aa;
/// `VAR_ADDED`: written, and not deleted since.
const ADDED: u8 = 0x3f;
/// Bytes of `AUTHENTICATED_VARIABLE_HEADER`, and of `VARIABLE_STORE_HEADER`.
const HEADER: usize = 60;
const STORE_HEADER: usize = 28;

/// The entries of `BootOrder` that exist, in that order: number and label.
///
/// # Errors
/// When this is no variable store.
pub(crate) fn boot_order(flash: &[u8]) -> Result<Vec<(u16, String)>> {
    let variables = variables(flash)?;
    let value = |name: &str| variables.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
    let order = value("BootOrder").unwrap_or_default().chunks_exact(2);
    Ok(order
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        // UEFI 2.10, section 3.1.3: the label of a load option follows six bytes of attributes and length.
        .filter_map(|number| Some((number, text(value(&format!("Boot{number:04X}"))?.get(6..)?))))
        .collect())
}

/// Names and values of all variables that are there.
fn variables(flash: &[u8]) -> Result<Vec<(String, &[u8])>> {
    ensure!(flash.get(40..44) == Some(b"_FVH"), "no firmware volume begins here");
    let mut at = usize::from(u16::from_le_bytes([flash[48], flash[49]])) + STORE_HEADER;
    let mut found = Vec::new();
    while let Some(header) = flash.get(at..at + HEADER)
        && header[..2] == START.to_le_bytes()
    {
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (name, value) = (number(36), number(40));
        let bytes = flash.get(at + HEADER..at + HEADER + name + value).context("a variable ends behind the store")?;
        if header[2] == ADDED {
            found.push((text(&bytes[..name]), &bytes[name..]));
        }
        at = (at + HEADER + name + value).next_multiple_of(4);
    }
    Ok(found)
}

/// UTF-16 up to its NUL.
fn text(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
