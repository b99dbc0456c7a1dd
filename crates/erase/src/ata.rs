//! ATA commands and what they return (ACS-3, INCITS 522; HPA and DCO, which ACS-3 dropped, from ACS-2, INCITS 482), and the
//! way to an ATA drive through a SCSI stack (SAT-3, INCITS 517).

mod identify;
mod sat;
mod smart;

pub use identify::{Identify, SanitizeSupport, Security};
pub use sat::{AtaError, Registers, hidden_blocks, is_ata, send};
pub use smart::{Attribute, SelfTestResult, SmartData, smart_verdict};

use crate::TestAction;
use crate::words::{byte, le16, le64};
use std::time::Duration;

/// Bytes of every sector that these commands transfer.
pub const SECTOR: usize = 512;

/// How the data of a command travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// No data.
    NonData,
    /// One sector or more from the drive.
    PioIn,
    /// One sector or more to the drive.
    PioOut,
}

/// The registers of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// What people call it.
    pub name: &'static str,
    /// Opcode.
    pub opcode: u8,
    /// Feature.
    pub feature: u16,
    /// Count.
    pub count: u16,
    /// LBA, 48 bits.
    pub lba: u64,
    /// Device register.
    pub device: u8,
    /// Whether the registers are 48 bits wide (EXT).
    pub extended: bool,
    /// How the data travels.
    pub protocol: Protocol,
    /// Whether the registers are wanted after a success too.
    pub registers: bool,
    /// How long it may take.
    pub limit: Duration,
}

/// For a drive that answers from its memory. One that sleeps has to spin up first.
const QUICK: Duration = Duration::from_secs(60);

impl Command {
    const fn new(name: &'static str, opcode: u8, protocol: Protocol) -> Self {
        Self {
            name,
            opcode,
            feature: 0,
            count: 0,
            lba: 0,
            device: 0,
            extended: false,
            protocol,
            registers: false,
            limit: QUICK,
        }
    }
}

/// IDENTIFY DEVICE (ECh).
pub fn identify() -> Command {
    Command { count: 1, ..Command::new("IDENTIFY DEVICE", 0xec, Protocol::PioIn) }
}

/// Whose password.
const USER: u8 = 0;

/// The data of SECURITY UNLOCK, ERASE UNIT and DISABLE PASSWORD: the user password (ACS-3, table 121).
pub fn password_sector(password: &[u8; 32]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[0] = USER;
    sector[2..34].copy_from_slice(password);
    sector
}

/// The data of SECURITY SET PASSWORD: the user password with security level high, so that a master password still helps.
pub fn set_password_sector(password: &[u8; 32]) -> [u8; SECTOR] {
    // Byte 1 is 0: level high.
    password_sector(password)
}

/// The data of SECURITY ERASE UNIT (ACS-3, table 118).
pub fn erase_sector(password: &[u8; 32], enhanced: bool) -> [u8; SECTOR] {
    let mut sector = password_sector(password);
    sector[0] |= if enhanced { 1 << 1 } else { 0 };
    sector
}

fn security(name: &'static str, opcode: u8) -> Command {
    Command { count: 1, ..Command::new(name, opcode, Protocol::PioOut) }
}

/// SECURITY SET PASSWORD (F1h) with a [`set_password_sector`].
pub fn security_set_password() -> Command {
    security("SECURITY SET PASSWORD", 0xf1)
}

/// SECURITY UNLOCK (F2h) with a [`password_sector`].
pub fn security_unlock() -> Command {
    security("SECURITY UNLOCK", 0xf2)
}

/// SECURITY ERASE PREPARE (F3h), right before the erase.
pub fn security_erase_prepare() -> Command {
    Command::new("SECURITY ERASE PREPARE", 0xf3, Protocol::NonData)
}

/// SECURITY ERASE UNIT (F4h) with an [`erase_sector`]. It returns when the drive is erased, hours later.
pub fn security_erase_unit(limit: Duration) -> Command {
    Command { limit, ..security("SECURITY ERASE UNIT", 0xf4) }
}

/// SECURITY DISABLE PASSWORD (F6h) with a [`password_sector`].
pub fn security_disable_password() -> Command {
    security("SECURITY DISABLE PASSWORD", 0xf6)
}

/// What SANITIZE DEVICE is to do (ACS-3, 7.36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// CRYPTO SCRAMBLE EXT.
    Crypto,
    /// BLOCK ERASE EXT.
    Block,
    /// OVERWRITE EXT with zeros, once.
    Overwrite,
}

/// SANITIZE DEVICE (B4h): starts it. If it fails, the failure can be cleared by [`sanitize_status`].
pub fn sanitize(action: SanitizeAction) -> Command {
    const MAY_BE_CLEARED: u16 = 1 << 4;
    let (name, feature, lba, passes) = match action {
        // The numbers are words that no accident writes: "Cryp", "BkEr" and "OW".
        SanitizeAction::Crypto => ("CRYPTO SCRAMBLE EXT", 0x11, 0x4372_7970, 0),
        SanitizeAction::Block => ("BLOCK ERASE EXT", 0x12, 0x426b_4572, 0),
        SanitizeAction::Overwrite => ("OVERWRITE EXT", 0x14, 0x4f57_0000_0000, 1),
    };
    Command { feature, lba, count: MAY_BE_CLEARED | passes, ..sanitize_device(name) }
}

/// SANITIZE STATUS EXT: how it is going. `clear` forgets a failure, where the drive may.
pub fn sanitize_status(clear: bool) -> Command {
    Command { count: u16::from(clear), ..sanitize_device("SANITIZE STATUS EXT") }
}

fn sanitize_device(name: &'static str) -> Command {
    Command { extended: true, registers: true, ..Command::new(name, 0xb4, Protocol::NonData) }
}

/// What the registers say after [`sanitize_status`] (ACS-3, 7.36.9 and table 114).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SanitizeStatus {
    /// The last sanitize completed without error.
    pub completed: bool,
    /// One is running.
    pub running: bool,
    /// The drive refuses to sanitize until it is switched off.
    pub frozen: bool,
    /// 65536ths that are done, while it runs.
    pub progress: u16,
}

impl SanitizeStatus {
    /// Reads the registers; `None` where the way to the drive lost the upper half of the count.
    pub fn of(registers: &Registers) -> Option<Self> {
        let count = registers.count?;
        Some(Self {
            completed: count & 1 << 15 != 0,
            running: count & 1 << 14 != 0,
            frozen: count & 1 << 13 != 0,
            progress: registers.lba as u16,
        })
    }
}

/// Why a sanitize command was aborted (ACS-3, table 115: LBA 7:0).
pub fn sanitize_error(registers: &Registers) -> &'static str {
    match registers.lba & 0xff {
        1 => "the last sanitize failed",
        2 => "this kind of sanitize is not there",
        3 => "sanitize is frozen",
        4 => "the antifreeze lock forbids the freeze lock",
        _ => "no reason given",
    }
}

/// READ NATIVE MAX ADDRESS EXT (27h, ACS-2): [`Registers::lba`] is the last block that there is without a host protected area.
pub fn read_native_max() -> Command {
    let command = Command::new("READ NATIVE MAX ADDRESS EXT", 0x27, Protocol::NonData);
    Command { device: 1 << 6, extended: true, registers: true, ..command }
}

/// GET NATIVE MAX ADDRESS EXT (78h/0000h, ACS-3): the same of newer drives.
pub fn get_native_max() -> Command {
    let command = Command::new("GET NATIVE MAX ADDRESS EXT", 0x78, Protocol::NonData);
    Command { extended: true, registers: true, ..command }
}

/// DEVICE CONFIGURATION IDENTIFY (B1h/C2h, ACS-2): one sector.
pub fn dco_identify() -> Command {
    let command = Command::new("DEVICE CONFIGURATION IDENTIFY", 0xb1, Protocol::PioIn);
    Command { feature: 0xc2, count: 1, ..command }
}

/// Blocks that the drive would have without a configuration overlay (ACS-2, 7.9.3: words 3 to 6); `None` where the checksum
/// (word 255) is wrong.
pub fn dco_blocks(sector: &[u8]) -> Option<u64> {
    let sum = sector.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let checked = sector.len() == SECTOR && byte(sector, 510) == 0xa5;
    (checked && sum == 0 && le16(sector, 0) != 0).then(|| le64(sector, 6).saturating_add(1))
}

/// SMART READ DATA (B0h/D0h): one sector.
pub fn smart_read_data() -> Command {
    Command { count: 1, ..smart("SMART READ DATA", 0xd0, Protocol::PioIn) }
}

/// SMART RETURN STATUS (B0h/DAh): see [`smart_verdict`].
pub fn smart_return_status() -> Command {
    Command { registers: true, ..smart("SMART RETURN STATUS", 0xda, Protocol::NonData) }
}

/// SMART EXECUTE OFF-LINE IMMEDIATE (B0h/D4h): a self-test in off-line mode, or the end of it.
pub fn smart_self_test(test: TestAction) -> Command {
    let command = smart("SMART EXECUTE OFF-LINE IMMEDIATE", 0xd4, Protocol::NonData);
    let code = match test {
        TestAction::Short => 1,
        TestAction::Extended => 2,
        TestAction::Abort => 0x7f,
    };
    Command { lba: command.lba | code, ..command }
}

/// SMART READ LOG (B0h/D5h) of the self-test log: one sector.
pub fn smart_read_self_tests() -> Command {
    const PAGE: u64 = 0x06;
    let command = smart("SMART READ LOG", 0xd5, Protocol::PioIn);
    Command { lba: command.lba | PAGE, count: 1, ..command }
}

fn smart(name: &'static str, feature: u16, protocol: Protocol) -> Command {
    Command { feature, lba: 0xc2_4f00, ..Command::new(name, 0xb0, protocol) }
}

#[cfg(test)]
mod tests;
