//! Processors and memory.

use crate::smbios;
use crate::tree::Tree;
use hardware::{Cpu, Memory};
use std::collections::BTreeSet;

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
    if !sockets.is_empty() {
        cpu.socket_count = Some(sockets.len() as u64);
    }
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
    let installed = tree.bytes("/sys/firmware/dmi/tables/DMI").ok().map(|table| smbios::installed_mib(&table));
    Memory { total, physical_mb: installed.filter(|&mib| mib > 0) }
}
