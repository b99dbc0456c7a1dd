//! Metadata on a device that writes down what is asked of it, and in which order.

#![allow(clippy::unwrap_used, reason = "a test")]

use hardware::{
    Bus, Device, DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, Plan, ScsiCompletion, Transfer,
};
use hardware_sim::drive::{SimClock, SimDrive};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Write(Range<u64>),
    Flush,
}

/// A drive and what it was asked to write and to flush.
struct Recorded {
    drive: SimDrive,
    calls: Mutex<Vec<Call>>,
}

impl Recorded {
    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Device for Recorded {
    fn id(&self) -> &DeviceId {
        self.drive.id()
    }

    fn bus(&self) -> Bus {
        self.drive.bus()
    }

    fn limits(&self) -> Limits {
        self.drive.limits()
    }

    fn nvme_admin(
        &self,
        command: &NvmeCommand,
        data: Transfer<'_>,
        limit: Duration,
    ) -> Result<NvmeCompletion, DeviceError> {
        self.drive.nvme_admin(command, data, limit)
    }

    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, limit: Duration) -> Result<ScsiCompletion, DeviceError> {
        self.drive.scsi(cdb, data, limit)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.drive.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.note(Call::Write(offset..offset + data.len() as u64));
        self.drive.write_at(data, offset)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.drive.write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.drive.discard(offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.note(Call::Flush);
        Device::flush(&self.drive)
    }
}

#[test]
fn the_start_of_the_disk_goes_last_and_when_all_else_is_on_the_medium() {
    let drive = SimDrive::virtio("/dev/vda", &SimClock::default());
    let plan = Plan::new("erase_devices_metadata", vec![drive.disk()]);
    let device = Recorded { drive, calls: Mutex::default() };
    let partitions = [63 * 512..3 << 20, 3 << 20..8 << 20];
    let erased = erase::erase_metadata(&device, &plan.erase("/dev/vda").unwrap(), &partitions).unwrap();
    let calls = device.calls.into_inner().unwrap();
    let writes: Vec<Range<u64>> = calls
        .iter()
        .filter_map(|call| match call {
            Call::Write(range) => Some(range.clone()),
            Call::Flush => None,
        })
        .collect();
    assert!(writes.windows(2).all(|pair| pair[1].end <= pair[0].start), "from the end to the start: {writes:?}");
    assert_eq!(writes.iter().map(|range| range.end - range.start).sum::<u64>(), erased);
    let [first, Call::Write(start), last] = &calls[calls.len() - 3..] else { panic!("{calls:?}") };
    assert_eq!((first, start.start, last), (&Call::Flush, 0, &Call::Flush), "{calls:?}");
    // The primary table of a GPT is in that write.
    assert!(start.end >= 34 * 512, "{start:?}");
}
