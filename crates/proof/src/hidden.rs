//! Sectors that an ATA device hides from its host: what no read can find, and no write of the host has reached.
//!
//! ACS-2 has the host protected area (HPA) and the device configuration overlay (DCO), ACS-3 the accessible maximum address in
//! their place. The device is asked through SAT's ATA PASS-THROUGH (16).

use hardware::{Bus, Device, Transfer};
use std::time::Duration;

/// These commands are answered from memory.
const LIMIT: Duration = Duration::from_secs(30);
const SECTOR: usize = 512;

/// What a device says of sectors that it hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// How many, as far as it tells.
    pub sectors: u64,
    /// Whether there may be more, as something could not be asked.
    pub unknown: bool,
    /// The same in words, with what could not be asked.
    pub words: String,
}

/// Asks an ATA device; nothing where the device is none.
pub fn hidden(device: &dyn Device) -> Option<Hidden> {
    if device.bus() != Bus::Scsi {
        return None;
    }
    let mut inquiry = [0_u8; 36];
    let asked = device.scsi(&[0x12, 0, 0, 0, 36, 0], Transfer::FromDevice(&mut inquiry), LIMIT);
    // SAT-4, 8.1.2: the vendor of an ATA device is ATA.
    if asked.is_err() || &inquiry[8..16] != b"ATA     " {
        return None;
    }
    let identify = match data(device, 0xec, 0) {
        Ok(identify) => identify,
        Err(why) => return Some(Hidden { sectors: 0, unknown: true, words: format!("IDENTIFY DEVICE: {why}") }),
    };
    let word = |number: usize| u64::from(identify[number]);
    let large = word(83) & 1 << 10 != 0;
    let visible =
        if large { word(100) | word(101) << 16 | word(102) << 32 | word(103) << 48 } else { word(60) | word(61) << 16 };
    let (mut sectors, mut unknown) = (0, false);
    let mut words = Vec::new();
    let mut tell = |name: &str, answer: Result<u64, String>| match answer {
        Ok(whole) => {
            let more = whole.saturating_sub(visible);
            sectors = more.max(sectors);
            words.push(format!("{name} hides {more} sectors"));
        }
        Err(why) => {
            unknown = true;
            words.push(format!("{name} could not be asked: {why}"));
        }
    };
    if word(82) & 1 << 10 != 0 {
        tell("HPA", native(device, if large { 0x27 } else { 0xf8 }, large));
    }
    if word(119) & 1 << 8 != 0 {
        tell("accessible maximum address", native(device, 0x78, true));
    }
    if word(83) & 1 << 11 != 0 {
        let last = |dco: [u16; 256]| (3..7).rev().fold(0, |sum, number| sum << 16 | u64::from(dco[number]));
        tell("DCO", data(device, 0xb1, 0xc2).map(|dco| last(dco).saturating_add(1)));
    }
    if words.is_empty() {
        words.push("the device has neither HPA nor DCO".to_owned());
    }
    Some(Hidden { sectors, unknown, words: words.join(", ") })
}

/// ATA PASS-THROUGH (16) (SAT-4, 12.2.2.3): `ways` are its second and third byte.
fn pass_through(ways: [u8; 2], feature: u8, count: u8, command: u8) -> [u8; 16] {
    [0x85, ways[0], ways[1], 0, feature, 0, count, 0, 0, 0, 0, 0, 0, 0x40, command, 0]
}

/// The words that a command with one sector of data answers.
fn data(device: &dyn Device, command: u8, feature: u8) -> Result<[u16; 256], String> {
    // PIO data-in; from the device, in blocks, as many as the count says.
    let cdb = pass_through([4 << 1, 0x0e], feature, 1, command);
    let mut sector = [0_u8; SECTOR];
    let done = device.scsi(&cdb, Transfer::FromDevice(&mut sector), LIMIT).map_err(|error| error.to_string())?;
    if done.status != 0 || done.residual != 0 {
        return Err(format!("refused (SCSI status {:#x})", done.status));
    }
    let mut words = [0; 256];
    words.iter_mut().zip(sector.as_chunks::<2>().0).for_each(|(word, pair)| *word = u16::from_le_bytes(*pair));
    Ok(words)
}

/// How many sectors the device has by a command that answers its last address in the registers.
fn native(device: &dyn Device, command: u8, large: bool) -> Result<u64, String> {
    // Non-data, 48 bits where the device has them; the registers come back as sense data (CK_COND).
    let cdb = pass_through([3 << 1 | u8::from(large), 0x20], 0, 0, command);
    let done = device.scsi(&cdb, Transfer::None, LIMIT).map_err(|error| error.to_string())?;
    // Descriptor format with an ATA Status Return descriptor (SAT-4, 12.2.2.7).
    let registers = match done.sense.split_first_chunk::<8>() {
        Some(([0x72, ..], [0x09, 0x0c, rest @ ..])) => rest.first_chunk::<12>(),
        _ => None,
    };
    let Some(registers) = registers else { return Err("its registers did not come back".to_owned()) };
    let [_, error, _, _, third, zeroth, fourth, first, fifth, second, device, status] = *registers;
    if status & 1 != 0 {
        return Err(format!("refused (ATA error {error:#x})"));
    }
    let mut last = [zeroth, first, second, third, fourth, fifth, 0, 0];
    if !large {
        // 28 bits: the highest four are in the device register.
        last[3..6].copy_from_slice(&[device & 0x0f, 0, 0]);
    }
    Ok(u64::from_le_bytes(last).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hardware::{DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion};
    use std::io;

    /// A disk with 1000 sectors to be seen.
    struct Disk {
        id: DeviceId,
        ata: bool,
        native: Option<u64>,
        overlay: Option<u64>,
        aborts: bool,
    }

    fn disk() -> Disk {
        let id = DeviceId { node: "/dev/sda".to_owned(), wwn: None, serial: None, path: None, size: 512_000 };
        Disk { id, ata: true, native: None, overlay: None, aborts: false }
    }

    fn no<T>() -> Result<T, DeviceError> {
        let source = io::ErrorKind::Unsupported.into();
        Err(DeviceError::Io { command: "x".to_owned(), device: "/dev/sda".to_owned(), source })
    }

    impl Device for Disk {
        fn id(&self) -> &DeviceId {
            &self.id
        }
        fn bus(&self) -> Bus {
            Bus::Scsi
        }
        fn limits(&self) -> Limits {
            Limits::default()
        }
        fn nvme_admin(&self, _: &NvmeCommand, _: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
            no()
        }
        fn scsi(&self, cdb: &[u8], data: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
            let mut done = ScsiCompletion::default();
            let mut nowhere = [];
            let buffer = match data {
                Transfer::FromDevice(buffer) => buffer,
                Transfer::None | Transfer::ToDevice(_) => &mut nowhere[..],
            };
            let mut put = |words: &[(usize, u64)]| {
                for (word, value) in words {
                    buffer[word * 2..word * 2 + 2].copy_from_slice(&(*value as u16).to_le_bytes());
                }
            };
            match (cdb[0], cdb.get(14)) {
                (0x12, _) => buffer[8..16].copy_from_slice(if self.ata { b"ATA     " } else { b"SEAGATE " }),
                (0x85, Some(0xec)) => {
                    let overlay = u64::from(self.overlay.is_some()) << 11;
                    put(&[(82, u64::from(self.native.is_some()) << 10), (83, 1 << 10 | overlay), (100, 1000)]);
                }
                (0x85, Some(0xb1)) => put(&[(3, self.overlay.unwrap() - 1)]),
                (0x85, Some(0x27)) => {
                    done.status = 2;
                    let last = (self.native.unwrap() - 1).to_le_bytes();
                    done.sense = vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12, 1, 0, 0, 0];
                    done.sense.extend([last[3], last[0], last[4], last[1], last[5], last[2], 0x40, 0x50]);
                    if self.aborts {
                        (done.sense[11], done.sense[21]) = (4, 0x51);
                    }
                }
                other => panic!("{other:x?}"),
            }
            Ok(done)
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), DeviceError> {
            no()
        }
        fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
            no()
        }
        fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
            no()
        }
        fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
            no()
        }
        fn flush(&self) -> Result<(), DeviceError> {
            no()
        }
    }

    fn asked(disk: &Disk) -> (u64, String) {
        let hidden = hidden(disk).unwrap();
        (hidden.sectors, hidden.words)
    }

    #[test]
    fn a_disk_tells_what_it_hides() {
        assert_eq!(asked(&disk()), (0, "the device has neither HPA nor DCO".to_owned()));
        let all = Disk { native: Some(1000), overlay: Some(1000), ..disk() };
        assert_eq!(asked(&all), (0, "HPA hides 0 sectors, DCO hides 0 sectors".to_owned()));
        let some = Disk { native: Some(0x12_3456_7890), overlay: Some(1500), ..disk() };
        assert_eq!(asked(&some).0, 0x12_3456_7890 - 1000);
        assert!(asked(&some).1.ends_with("DCO hides 500 sectors"));
    }

    #[test]
    fn what_cannot_be_asked_is_said_and_other_disks_are_not_asked() {
        let frozen = Disk { native: Some(2000), aborts: true, ..disk() };
        assert!(hidden(&frozen).unwrap().unknown && !hidden(&disk()).unwrap().unknown);
        assert_eq!(asked(&frozen), (0, "HPA could not be asked: refused (ATA error 0x4)".to_owned()));
        assert_eq!(hidden(&Disk { ata: false, ..disk() }), None);
    }
}
