//! What QEMU's disks answered (`ci/record/disk_commands.py`).

use hardware::Limits;
use serde_json::Value;
use std::sync::OnceLock;

/// A command and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// What was asked: `name`, and `cdb` or `opcode`, `namespace` and `cdw10`; `data` is a number of bytes that were wanted, or
    /// hexadecimal digits for the device.
    pub ask: &'static Value,
    /// What came: `status`, and `data`, without the zeros at its end.
    pub answer: &'static Value,
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    // A file of this crate that is no JSON is found by every test.
    DOCUMENT.get_or_init(|| serde_json::from_str(include_str!("../../testdata/qemu.json")).unwrap_or_default())
}

/// Everything that was asked of a disk: `nvme`, `ahci`, `scsi` or `virtio`.
pub fn exchanges(disk: &str) -> Vec<Exchange> {
    let list = document()[disk]["exchanges"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|exchange| Exchange { ask: &exchange["ask"], answer: &exchange["answer"] }).collect()
}

/// The data that came for a command, filled up with zeros.
pub(crate) fn data(disk: &str, name: &str) -> Vec<u8> {
    let found = exchanges(disk).into_iter().find(|exchange| exchange.ask["name"] == name);
    let Some(exchange) = found else { return Vec::new() };
    let mut bytes = bytes(exchange.answer["data"].as_str().unwrap_or_default());
    bytes.resize(exchange.ask["data"].as_u64().unwrap_or_default() as usize, 0);
    bytes
}

/// Hexadecimal digits as bytes.
pub(crate) fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_default()).collect()
}

pub(crate) fn limits(disk: &str) -> Limits {
    let disk = &document()[disk];
    let number = |name: &str| disk["limits"][name].as_u64().unwrap_or_default();
    Limits {
        size: disk["size"].as_u64().unwrap_or_default(),
        logical_block: number("logical_block_size") as u32,
        rotational: number("rotational") == 1,
        discard_granularity: number("discard_granularity"),
        discard_max: number("discard_max_bytes"),
        write_zeroes_max: number("write_zeroes_max_bytes"),
        read_only: false,
    }
}
