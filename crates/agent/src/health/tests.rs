use super::*;
use hardware::{Bus, Device, DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion, Transfer};
use hardware_sim::SimMachine;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers questions from a table, byte for byte, and nothing else.
struct Answers {
    id: DeviceId,
    bus: Bus,
    /// By NVMe log page, or by the first bytes of a SCSI command.
    answers: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Descriptor sense data of ATA commands without data.
    sense: Vec<u8>,
    /// Inquiries so far.
    inquiries: Mutex<Vec<Vec<u8>>>,
}

impl Device for Answers {
    fn id(&self) -> &DeviceId {
        &self.id
    }
    fn bus(&self) -> Bus {
        self.bus
    }
    fn limits(&self) -> Limits {
        Limits { size: self.id.size, logical_block: 512, ..Limits::default() }
    }
    fn nvme_admin(&self, c: &NvmeCommand, data: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
        assert_eq!(c.opcode, 2, "only log pages are asked for");
        let (Transfer::FromDevice(buffer), Some(answer)) = (data, self.answers.get(&vec![c.cdw10[0] as u8])) else {
            return Ok(NvmeCompletion { status: 0x109, result: 0 });
        };
        buffer[..answer.len()].copy_from_slice(answer);
        Ok(NvmeCompletion::default())
    }
    fn scsi(&self, cdb: &[u8], data: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
        if cdb[0] == 0x12 {
            let mut inquiries = self.inquiries.lock().unwrap();
            assert!(!inquiries.contains(&cdb.to_vec()), "a disk is asked twice who it is");
            inquiries.push(cdb.to_vec());
        }
        let key = match cdb[0] {
            0x12 => vec![0x12, cdb[1], cdb[2]],
            0x4d => vec![0x4d, cdb[2] & 0x3f],
            0x85 => vec![0x85, cdb[14], cdb[4]],
            other => vec![other],
        };
        if let (Transfer::FromDevice(buffer), Some(answer)) = (data, self.answers.get(&key)) {
            let length = answer.len().min(buffer.len());
            buffer[..length].copy_from_slice(&answer[..length]);
            return Ok(ScsiCompletion { residual: buffer.len() - length, ..ScsiCompletion::default() });
        }
        if cdb[0] == 0x85 && !self.sense.is_empty() {
            return Ok(ScsiCompletion { status: 2, sense: self.sense.clone(), residual: 0 });
        }
        // ILLEGAL REQUEST, INVALID FIELD IN CDB.
        let sense = vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0];
        Ok(ScsiCompletion { status: 2, sense, residual: 0 })
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
        panic!("a health check writes")
    }
    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        panic!("a health check writes")
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        panic!("a health check discards")
    }
    fn flush(&self) -> Result<(), DeviceError> {
        panic!("a health check flushes")
    }
}

fn machine_with(name: &str, bus: Bus, answers: BTreeMap<Vec<u8>, Vec<u8>>, sense: Vec<u8>) -> SimMachine {
    let machine = SimMachine::new();
    let disk = hardware_sim::disk(name, 8 << 30);
    let id = DeviceId::of(&disk);
    machine.add_disk(disk);
    machine.set_device(name, Arc::new(Answers { id, bus, answers, sense, inquiries: Mutex::default() }));
    machine
}

/// NVM Express Base 2.0, figure 207.
fn nvme_health(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut log = vec![0; 512];
    log[1..3].copy_from_slice(&310_u16.to_le_bytes());
    (log[3], log[4], log[5]) = (100, 10, 3);
    log[128] = 200;
    change(&mut log);
    log
}

fn nvme(change: impl FnOnce(&mut Vec<u8>), self_test: Option<u8>) -> SimMachine {
    let mut answers = BTreeMap::from([(vec![2], nvme_health(change))]);
    if let Some(result) = self_test {
        let mut log = vec![0; 564];
        log[4] = 1 << 4 | result;
        answers.insert(vec![6], log);
    }
    machine_with("/dev/nvme0n1", Bus::Nvme { namespace: 1 }, answers, Vec::new())
}

fn disk(machine: &SimMachine) -> Value {
    report(machine).unwrap()["disks"][0].clone()
}

#[test]
fn an_nvme_drive_is_judged_by_its_own_warnings() {
    insta::assert_json_snapshot!(disk(&nvme(|_| (), Some(0))));
    for (bit, verdict) in [(0, "failing"), (1, "warning"), (2, "failing"), (3, "failing"), (4, "failing")] {
        let report = disk(&nvme(|log| log[0] = 1 << bit, None));
        assert_eq!(report["verdict"], verdict, "bit {bit}: {report}");
    }
    assert_eq!(disk(&nvme(|log| log[160] = 1, None))["verdict"], "warning");
    assert_eq!(disk(&nvme(|log| log[5] = 95, None))["verdict"], "warning");
    assert_eq!(disk(&nvme(|_| (), Some(7)))["verdict"], "failing");
    assert_eq!(disk(&nvme(|_| (), Some(1)))["verdict"], "ok", "an aborted self-test is no failure");
}

fn smart_data(attributes: &[(u8, u64)]) -> Vec<u8> {
    let mut data = vec![0; 512];
    for (entry, (id, raw)) in data[2..].chunks_exact_mut(12).zip(attributes) {
        entry[0] = *id;
        (entry[3], entry[4]) = (100, 100);
        entry[5..11].copy_from_slice(&raw.to_le_bytes()[..6]);
    }
    let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    data[511] = 0_u8.wrapping_sub(sum);
    data
}

/// An ATA drive behind SAT; the registers after SMART RETURN STATUS say whether it is well.
fn ata(attributes: &[(u8, u64)], well: bool) -> SimMachine {
    let mut inquiry = vec![0; 96];
    inquiry[2] = 5;
    inquiry[8..16].copy_from_slice(b"ATA     ");
    inquiry[16..32].copy_from_slice(b"Model           ");
    inquiry[32..36].copy_from_slice(b"1.0 ");
    let mut identify = vec![0; 512];
    // Words 82 and 85: SMART is there and enabled; word 83 is valid.
    identify[164..166].copy_from_slice(&1_u16.to_le_bytes());
    identify[166..168].copy_from_slice(&0x4000_u16.to_le_bytes());
    identify[170..172].copy_from_slice(&1_u16.to_le_bytes());
    let answers = BTreeMap::from([
        (vec![0x12, 0, 0], inquiry),
        (vec![0x85, 0xec, 0], identify),
        (vec![0x85, 0xb0, 0xd0], smart_data(attributes)),
    ]);
    let (middle, high) = if well { (0x4f, 0xc2) } else { (0xf4, 0x2c) };
    // Descriptor format, ATA status return (SAT-3, 12.2.7).
    let sense = vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12, 0, 0, 0, 0, 0, 0, 0, middle, 0, high, 0, 0x50];
    machine_with("/dev/sda", Bus::Scsi, answers, sense)
}

#[test]
fn an_ata_drive_is_judged_by_smart() {
    let attributes = [(9, 1234), (194, 36), (5, 0), (197, 0), (198, 0)];
    insta::assert_json_snapshot!(disk(&ata(&attributes, true)));
    assert_eq!(disk(&ata(&attributes, false))["verdict"], "failing");
    let worn = disk(&ata(&[(5, 8), (197, 2)], true));
    assert_eq!(worn["verdict"], "warning");
    assert_eq!(worn["findings"], json!(["8 reallocated sectors", "2 pending sectors"]));
}

fn page(number: u8, parameters: &[(u16, &[u8])]) -> (Vec<u8>, Vec<u8>) {
    let mut body = Vec::new();
    for (code, value) in parameters {
        body.extend(code.to_be_bytes());
        body.extend([0, value.len() as u8]);
        body.extend(*value);
    }
    let mut bytes = vec![number, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    (vec![0x4d, number], bytes)
}

fn sas(exceptions: [u8; 4], uncorrected: u8) -> SimMachine {
    let mut inquiry = vec![0; 96];
    inquiry[8..16].copy_from_slice(b"SEAGATE ");
    let answers = BTreeMap::from([
        (vec![0x12, 0, 0], inquiry),
        (vec![0x4d, 0], vec![0, 0, 0, 4, 0x02, 0x03, 0x0d, 0x2f]),
        page(0x02, &[(6, &[0; 8])]),
        page(0x03, &[(6, &[0, 0, 0, 0, 0, 0, 0, uncorrected])]),
        page(0x0d, &[(0, &[0, 41])]),
        page(0x2f, &[(0, &exceptions)]),
    ]);
    machine_with("/dev/sdb", Bus::Scsi, answers, Vec::new())
}

#[test]
fn a_sas_drive_is_judged_by_its_log_pages() {
    insta::assert_json_snapshot!(disk(&sas([0, 0, 41, 0], 0)));
    assert_eq!(disk(&sas([0x5d, 0x10, 41, 0], 0))["verdict"], "failing");
    assert_eq!(disk(&sas([0, 0, 41, 0], 3))["findings"], json!(["3 uncorrected read errors"]));
}

#[test]
fn memory_and_temperatures_have_their_say_and_the_failing_part_is_named() {
    let machine = nvme(|log| log[0] = 1 << 2, None);
    let memory =
        |module: &str, corrected, uncorrected| MemoryErrors { module: module.to_owned(), corrected, uncorrected };
    let sensor = |name: &str, now| Sensor {
        name: name.to_owned(),
        now,
        high: Some(80_000),
        critical: Some(100_000),
        alarm: false,
    };
    machine.set_health(
        vec![memory("DIMM_A1", 5, 0), memory("DIMM_B1", 500, 0), memory("DIMM_C1", 0, 1)],
        vec![sensor("cool", 40_500), sensor("warm", 81_000), sensor("hot", 100_000)],
    );
    let report = report(&machine).unwrap();
    let verdicts = |kind: &str| -> Vec<String> {
        report[kind].as_array().unwrap().iter().map(|part| part["verdict"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(verdicts("memory"), ["ok", "warning", "failing"]);
    assert_eq!(verdicts("temperatures"), ["ok", "warning", "failing"]);
    insta::assert_snapshot!(failing(&report).join("\n"), @r"
    /dev/nvme0n1 (serial SIMnvme0n1): its reliability is degraded
    DIMM_C1: 1 uncorrected memory errors since the machine was started
    hot: 100.0 °C, and the limit is 100.0 °C
    ");
}

#[test]
fn a_disk_that_tells_nothing_is_unknown_and_never_ok() {
    let block = machine_with("/dev/vda", Bus::Block, BTreeMap::new(), Vec::new());
    assert_eq!(disk(&block)["verdict"], "unknown");
    let silent = machine_with("/dev/sda", Bus::Scsi, BTreeMap::new(), Vec::new());
    assert_eq!(disk(&silent)["verdict"], "unknown");
    let machine = SimMachine::new();
    machine.add_disk(hardware_sim::disk("/dev/sdz", 1 << 30));
    let report = report(&machine).unwrap();
    assert_eq!(
        (report["verdict"].as_str(), report["disks"][0]["verdict"].as_str()),
        (Some("unknown"), Some("unknown"))
    );
}
