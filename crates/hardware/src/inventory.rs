//! The inventory of a machine, in the field's shape: what `poll.get_hardware_info` answers and what an inspection sends.
//!
//! Every key is always present, unknown values are `null` (`bmc_mac` alone is left out when there is none), and the
//! strings of [`SystemVendor`] are empty rather than null; Ironic's inspection hooks rely on both.

use serde::{Deserialize, Serialize};

/// Everything an agent knows of its machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Network interfaces backed by a device.
    pub interfaces: Vec<Interface>,
    /// Processors, taken together.
    pub cpu: Cpu,
    /// Whole block devices.
    pub disks: Vec<Disk>,
    /// Main memory.
    pub memory: Memory,
    /// IPv4 address of the BMC; `0.0.0.0` when it has none set, `None` when there is no BMC device.
    pub bmc_address: Option<String>,
    /// IPv6 address of the BMC; `::/0` when it has none set, `None` when there is no BMC device.
    pub bmc_v6address: Option<String>,
    /// MAC address of the BMC's LAN channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc_mac: Option<String>,
    /// Who made the machine.
    pub system_vendor: SystemVendor,
    /// How it was booted.
    pub boot: BootInfo,
    /// Host name of the ramdisk.
    pub hostname: String,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Kernel name, such as `eth0`.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac_address: String,
    /// First global IPv4 address.
    pub ipv4_address: Option<String>,
    /// First global IPv6 address.
    pub ipv6_address: Option<String>,
    /// Whether the link is up.
    pub has_carrier: bool,
    /// LLDP TLVs as (type, value in hex), when collected.
    pub lldp: Option<Vec<(u32, String)>>,
    /// PCI vendor id such as `0x8086`.
    pub vendor: Option<String>,
    /// PCI device id such as `0x100e`.
    pub product: Option<String>,
    /// DHCP client id, for InfiniBand.
    pub client_id: Option<String>,
    /// BIOS device name.
    pub biosdevname: Option<String>,
    /// Link speed in Mbit/s.
    pub speed_mbps: Option<u64>,
    /// PCI address such as `0000:00:03.0`.
    pub pci_address: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
}

/// The processors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// Model name as the processor tells it.
    pub model_name: Option<String>,
    /// MHz, as text.
    pub frequency: Option<String>,
    /// Logical processors.
    pub count: u64,
    /// Architecture such as `x86_64`.
    pub architecture: String,
    /// Feature flags.
    pub flags: Vec<String>,
    /// Sockets.
    pub socket_count: Option<u64>,
}

/// A whole block device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Disk {
    /// Device node such as `/dev/sda`. It names the device in this boot only; see [`crate::DeviceId`].
    pub name: String,
    /// Model.
    pub model: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Whether it spins.
    pub rotational: bool,
    /// World wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Vendor.
    pub vendor: Option<String>,
    /// World wide name with the vendor's extension.
    pub wwn_with_extension: Option<String>,
    /// The vendor's extension alone.
    pub wwn_vendor_extension: Option<String>,
    /// SCSI address `host:channel:target:lun`.
    pub hctl: Option<String>,
    /// `/dev/disk/by-path/…`.
    pub by_path: Option<String>,
    /// `/dev/disk/by-id/…`: the name that udev gives to the disk by its model and serial number, else by its world wide name.
    /// `None` where the disk does not tell what udev would make it of. An addition of ours.
    pub by_id: Option<String>,
    /// Logical sector size in bytes.
    pub logical_sectors: Option<u64>,
    /// Physical sector size in bytes.
    pub physical_sectors: Option<u64>,
    /// Transport such as `sata`, `nvme`, `usb`.
    pub tran: Option<String>,
    /// Devices that the kernel has built on this disk or on its partitions, such as `md0` or `dm-1`. An addition of ours;
    /// absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
}

/// Main memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes that the kernel sees.
    pub total: Option<u64>,
    /// MiB installed, as SMBIOS tells.
    pub physical_mb: Option<u64>,
}

/// Who made the machine. Unknown strings are empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SystemVendor {
    /// Product name.
    pub product_name: String,
    /// Serial number.
    pub serial_number: String,
    /// Manufacturer.
    pub manufacturer: String,
    /// Firmware.
    pub firmware: Firmware,
}

/// The machine's firmware (BIOS or UEFI).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Firmware {
    /// Vendor.
    pub vendor: String,
    /// Version.
    pub version: String,
    /// Build date as the firmware writes it.
    pub build_date: String,
}

/// How the ramdisk was booted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BootInfo {
    /// UEFI or BIOS.
    pub current_boot_mode: BootMode,
    /// The interface it was booted from, in the form of `BOOTIF`.
    pub pxe_interface: Option<String>,
    /// Whether the firmware verified what it started (UEFI Secure Boot). Ours: left out where the firmware does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
}

/// The firmware interface of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// Legacy BIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}
