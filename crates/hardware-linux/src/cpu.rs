//! Processors and memory.

use crate::smbios;
use crate::tree::Tree;
use hardware::{Cpu, Memory};
use std::collections::BTreeSet;

/// The SMBIOS structure table, readable for root only.
const SMBIOS: &str = "/sys/firmware/dmi/tables/DMI";

/// The processors, from `/proc/cpuinfo` (`arch/x86/kernel/cpu/proc.c`, `arch/arm64/kernel/cpuinfo.c`) and cpufreq.
pub(crate) fn cpu(tree: &Tree) -> Cpu {
    let info = tree.text("/proc/cpuinfo").unwrap_or_default();
    let mut cpu =
        Cpu { architecture: rustix::system::uname().machine().to_string_lossy().into_owned(), ..Cpu::default() };
    let mut sockets = BTreeSet::new();
    for (key, value) in info.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key.trim() {
            "processor" => cpu.count += 1,
            "model name" => {
                cpu.model_name.get_or_insert_with(|| value.to_owned());
            }
            "cpu MHz" => {
                cpu.frequency.get_or_insert_with(|| value.to_owned());
            }
            "flags" | "Features" if cpu.flags.is_empty() => {
                cpu.flags = value.split_whitespace().map(str::to_owned).collect();
            }
            "physical id" => {
                sockets.insert(value.to_owned());
            }
            _ => {}
        }
    }
    // ARM's cpuinfo has neither names nor sockets; the firmware's tables have.
    let plugged = tree.bytes(SMBIOS).map(|table| smbios::processors(&table)).unwrap_or_default();
    let named = plugged.iter().find(|name| !name.is_empty());
    cpu.model_name = cpu.model_name.or_else(|| named.cloned());
    let sockets = if sockets.is_empty() { plugged.len() } else { sockets.len() };
    cpu.socket_count = (sockets > 0).then_some(sockets as u64);
    // What it can do, rather than what it happens to run at; the file is in kHz.
    let most =
        tree.text("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").and_then(|khz| khz.parse::<u64>().ok());
    if let Some(khz) = most {
        cpu.frequency = Some(format!("{}.{:03}0", khz / 1000, khz % 1000));
    }
    cpu
}

/// Main memory: what the kernel sees, and what SMBIOS says is plugged in (readable for root only).
pub(crate) fn memory(tree: &Tree) -> Memory {
    let total = tree.text("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
        line.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let installed = tree.bytes(SMBIOS).ok().map(|table| smbios::installed_mib(&table));
    Memory { total, physical_mb: installed.filter(|&mib| mib > 0).or_else(|| blocks_mib(tree)) }
}

/// MiB in the blocks that the kernel hands memory out in (`Documentation/ABI/testing/sysfs-devices-memory`): what lshw, and
/// with it ironic-python-agent, falls back to when the firmware knows no sizes.
fn blocks_mib(tree: &Tree) -> Option<u64> {
    let block = u64::from_str_radix(&tree.text("/sys/devices/system/memory/block_size_bytes")?, 16).ok()?;
    let is_block = |name: &String| name.strip_prefix("memory").is_some_and(|number| number.parse::<u64>().is_ok());
    let blocks = tree.names("/sys/devices/system/memory").iter().filter(|name| is_block(name)).count() as u64;
    Some(blocks.checked_mul(block)? >> 20).filter(|&mib| mib > 0)
}
