//! A disk that is only asked: commands that could change something do not get to it.

use crate::{Bus, Device, DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion, Transfer};
use std::io;
use std::time::Duration;

/// A device behind which only questions pass. What is not known to be one is refused.
pub struct Observed<D>(D);

impl<D: Device> Observed<D> {
    /// Lets only questions through to `device`.
    pub fn new(device: D) -> Self {
        Self(device)
    }

    fn refused(&self, command: String) -> DeviceError {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "the disk was opened for questions only");
        DeviceError::Io { command, device: self.id().node.clone(), source }
    }
}

/// Identify and Get Log Page (NVM Express Base 2.0, figure 87).
fn is_nvme_question(opcode: u8) -> bool {
    matches!(opcode, 0x02 | 0x06)
}

/// REQUEST SENSE, INQUIRY, LOG SENSE, READ CAPACITY (16), and ATA commands that are questions (SPC-4, SBC-3, SAT-3).
fn is_scsi_question(cdb: &[u8]) -> bool {
    match *cdb {
        [0x03 | 0x12, ..] => true,
        // Bit 0 would save the values, bit 1 of byte 1 is obsolete.
        [0x4d, flags, ..] => flags == 0,
        [0x9e, action, ..] => action & 0x1f == 0x10,
        // SANITIZE STATUS EXT; with bit 0 of its count it would clear a failure, and its features are what begins a sanitize.
        [0x85, _, _, 0, 0, 0, 0, _, _, _, _, _, _, _, 0xb4, _] => true,
        [0x85, _, _, _, feature, _, _, _, _, _, _, _, _, _, command, _] => is_ata_question(command, feature),
        _ => false,
    }
}

/// IDENTIFY DEVICE, READ LOG EXT, CHECK POWER MODE; SMART READ DATA and SMART RETURN STATUS (ACS-3).
fn is_ata_question(command: u8, feature: u8) -> bool {
    match command {
        0xec | 0x2f | 0xe5 => true,
        0xb0 => matches!(feature, 0xd0 | 0xda),
        _ => false,
    }
}

impl<D: Device> Device for Observed<D> {
    fn id(&self) -> &DeviceId {
        self.0.id()
    }

    fn bus(&self) -> Bus {
        self.0.bus()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError> {
        if !is_nvme_question(command.opcode) {
            return Err(self.refused(format!("NVMe admin command {:02x}h", command.opcode)));
        }
        self.0.nvme_admin(command, data, limit)
    }

    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError> {
        let writes = matches!(data, Transfer::ToDevice(_));
        if writes || !is_scsi_question(cdb) {
            return Err(self.refused(format!("SCSI command {:02x?}", cdb)));
        }
        self.0.scsi(cdb, data, limit)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
        Err(self.refused("write".to_owned()))
    }

    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Err(self.refused("write zeroes".to_owned()))
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Err(self.refused("discard".to_owned()))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Err(self.refused("flush".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device to which nothing may get but the commands that are allowed; it counts them.
    struct Strict(DeviceId, std::sync::atomic::AtomicUsize);

    impl Device for Strict {
        fn id(&self) -> &DeviceId {
            &self.0
        }
        fn bus(&self) -> Bus {
            Bus::Scsi
        }
        fn limits(&self) -> Limits {
            Limits::default()
        }
        fn nvme_admin(&self, c: &NvmeCommand, _: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
            assert!([0x02, 0x06].contains(&c.opcode), "{c:?} got to the device");
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(NvmeCompletion::default())
        }
        fn scsi(&self, cdb: &[u8], _: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
            assert!([0x03, 0x12, 0x4d, 0x9e, 0x85].contains(&cdb[0]), "{cdb:02x?} got to the device");
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(ScsiCompletion::default())
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), DeviceError> {
            Ok(())
        }
        fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
            panic!("a write got to the device")
        }
        fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
            panic!("zeroes got to the device")
        }
        fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
            panic!("a discard got to the device")
        }
        fn flush(&self) -> Result<(), DeviceError> {
            panic!("a flush got to the device")
        }
    }

    fn observed() -> Observed<Strict> {
        let id = DeviceId { node: "/dev/sda".to_owned(), wwn: None, serial: None, path: None, size: 0 };
        Observed::new(Strict(id, 0.into()))
    }

    #[test]
    fn of_all_commands_only_questions_get_to_an_observed_disk() {
        let device = observed();
        let time = Duration::from_secs(1);
        for opcode in 0..=u8::MAX {
            let command = NvmeCommand { opcode, ..NvmeCommand::default() };
            let _ = device.nvme_admin(&command, Transfer::None, time);
            for length in [6, 10, 12, 16] {
                let mut cdb = vec![0; length];
                cdb[0] = opcode;
                let _ = device.scsi(&cdb, Transfer::None, time);
            }
        }
        for opcode in 0..=u8::MAX {
            for feature in 0..=u8::MAX {
                let mut cdb = [0; 16];
                (cdb[0], cdb[4], cdb[14]) = (0x85, feature, opcode);
                let allowed = matches!((opcode, feature), (0xec | 0x2f | 0xe5, _) | (0xb0, 0xd0 | 0xda) | (0xb4, 0));
                assert_eq!(device.scsi(&cdb, Transfer::None, time).is_ok(), allowed, "{opcode:02x} {feature:02x}");
            }
        }
        // SANITIZE STATUS EXT that clears a failure, and what its upper halves may say.
        for place in [3, 5, 6] {
            let mut cdb = [0; 16];
            (cdb[0], cdb[place], cdb[14]) = (0x85, 1, 0xb4);
            assert!(device.scsi(&cdb, Transfer::None, time).is_err());
        }
        // SERVICE ACTION IN (16) with another action, LOG SENSE that saves, a question that carries data to the disk.
        let mut saves = [0; 10];
        (saves[0], saves[1]) = (0x4d, 1);
        let mut other = [0; 16];
        (other[0], other[1]) = (0x9e, 0x11);
        assert!(device.scsi(&saves, Transfer::None, time).is_err());
        assert!(device.scsi(&other, Transfer::None, time).is_err());
        assert!(device.scsi(&[0x12, 0, 0, 0, 36, 0], Transfer::ToDevice(&[0]), time).is_err());
        assert!(device.write_at(&[0], 0).is_err() && device.write_zeroes(0, 1).is_err());
        assert!(device.discard(0, 1).is_err() && device.flush().is_err());
        assert!(device.read_at(&mut [0], 0).is_ok());
    }
}
