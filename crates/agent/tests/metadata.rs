//! What erases metadata and what proves it share nothing, so it is looked here that they mean the same places: whatever
//! partitions a disk has, the proof of an honest disk holds.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use hardware::{
    Bus, Device, DeviceError, DeviceId, Limits, Look, MarkedMedium, Medium, NvmeCommand, NvmeCompletion, Plan,
    ScsiCompletion, Transfer,
};
use hardware_sim::disk;
use proptest::prelude::*;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was written where, in order.
type Written = Vec<(u64, Vec<u8>)>;

/// A disk of any size that holds one byte all over, and what was written to it since.
#[derive(Clone)]
struct Sparse {
    id: DeviceId,
    sector: u32,
    filled: u8,
    written: Arc<Mutex<Written>>,
}

impl Sparse {
    fn whole(&self, offset: u64, length: usize) {
        let (sector, length) = (u64::from(self.sector), length as u64);
        assert!(offset.is_multiple_of(sector) && length.is_multiple_of(sector), "{length} bytes at {offset}");
        assert!(offset + length <= self.id.size, "{length} bytes at {offset} of {}", self.id.size);
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.whole(offset, bytes.len());
        self.written.lock().unwrap().push((offset, bytes.to_vec()));
    }

    fn get(&self, offset: u64, buffer: &mut [u8]) {
        self.whole(offset, buffer.len());
        buffer.fill(self.filled);
        for (at, bytes) in self.written.lock().unwrap().iter() {
            let start = offset.max(*at);
            let end = (offset + buffer.len() as u64).min(at + bytes.len() as u64);
            if start < end {
                let within = |from: u64| usize::try_from(start - from).unwrap()..usize::try_from(end - from).unwrap();
                buffer[within(offset)].copy_from_slice(&bytes[within(*at)]);
            }
        }
    }

    fn no_path<T>(&self) -> Result<T, DeviceError> {
        Err(DeviceError::NoSuchPath { command: "a command".to_owned(), device: self.id.to_string() })
    }
}

impl Device for Sparse {
    fn id(&self) -> &DeviceId {
        &self.id
    }

    fn bus(&self) -> Bus {
        Bus::Block
    }

    fn limits(&self) -> Limits {
        Limits { size: self.id.size, logical_block: self.sector, ..Limits::default() }
    }

    fn nvme_admin(&self, _: &NvmeCommand, _: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
        self.no_path()
    }

    fn scsi(&self, _: &[u8], _: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
        self.no_path()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.get(offset, buffer);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.put(offset, data);
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        self.no_path()
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        self.no_path()
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Medium for Sparse {
    fn size(&self) -> u64 {
        self.id.size
    }

    fn sector(&self) -> u64 {
        self.sector.into()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.get(offset, buffer);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MarkedMedium for Sparse {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(offset, bytes);
        Ok(())
    }
}

/// Sectors where a partition begins, and how many it has. The places further in lie up to 256 GiB from its start.
fn partition() -> impl Strategy<Value = Range<u64>> {
    let start = prop_oneof![Just(34_u64), Just(63), 0_u64..1 << 12, 0_u64..1 << 30];
    let length = prop_oneof![0_u64..1 << 5, 0_u64..1 << 14, 0_u64..1 << 30];
    (start, length).prop_map(|(start, length)| start..start + length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_that_is_proven_is_erased_whatever_partitions_there_are(
        seed: u64,
        sectors in prop_oneof![1_u64..1 << 5, 1_u64..1 << 14, 1_u64..1 << 31],
        sector in prop_oneof![Just(512_u32), Just(4096)],
        filled in prop_oneof![Just(0_u8), Just(b'A')],
        partitions in prop::collection::vec(partition(), 0..5),
    ) {
        let bytes = |sectors: u64| sectors * u64::from(sector);
        let partitions: Vec<Range<u64>> = partitions.iter().map(|part| bytes(part.start)..bytes(part.end)).collect();
        let plan = Plan::new("erase_devices_metadata", vec![disk("/dev/sda", bytes(sectors))]);
        let grant = plan.erase("/dev/sda").unwrap();
        let mut sparse = Sparse { id: grant.device().clone(), sector, filled, written: Arc::default() };
        let before = proof::plant_metadata(&mut sparse, &partitions, seed).unwrap();
        erase::erase_metadata(&sparse, &grant, &partitions).unwrap();
        let reading = proof::check(&mut sparse, &before, Look::Zeros, &mut |_| true);
        prop_assert!(reading.is_ok(), "{:?}", reading.err());
    }
}
