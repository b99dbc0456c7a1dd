//! A virtual server behind the lab's Redfish service.

use crate::firmware::{Firmware, OVMF_VARS, allocated};
use crate::lab::{BRIDGE, Lab, REDFISH, virsh};
use crate::trunk::Trunk;
use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// How the disk is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskBus {
    /// `/dev/vda`
    Virtio,
    /// `/dev/sda` on AHCI
    Sata,
}

/// Where the network cards of a server are plugged in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cables {
    /// One card, on the lab's bridge.
    Bridge,
    /// Two cards, on the ports of a [`Trunk`].
    Trunk,
}

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Name of the libvirt domain and of the files; one word.
    pub name: &'static str,
    /// Its number in the lab: part of its MAC, UUID and address. 1 to 99.
    pub number: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of its disk in MiB.
    pub disk_mib: u64,
    /// How the disk is attached.
    pub disk_bus: DiskBus,
    /// What starts it. A BIOS starts from the network, too: the network card has QEMU's iPXE in its ROM.
    pub firmware: Firmware,
    /// Its network cards.
    pub cables: Cables,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            name: "server-1",
            number: 1,
            memory_mib: 256,
            disk_mib: 4096,
            disk_bus: DiskBus::Virtio,
            firmware: Firmware::Ovmf,
            cables: Cables::Bridge,
        }
    }
}

/// A defined server; it is off until somebody turns it on over Redfish.
#[derive(Clone, Debug)]
pub struct VirtualServer {
    /// Name of its libvirt domain.
    pub name: &'static str,
    /// UUID of the system, on the Redfish side and in SMBIOS.
    pub uuid: String,
    /// Address of its first network interface.
    pub mac: String,
    /// Address that DHCP gives it; on a trunk, the one that is meant for it.
    pub address: Ipv4Addr,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Its disk, raw.
    pub disk: PathBuf,
    /// What it wrote to its first serial port, over all of its boots.
    pub serial: PathBuf,
    /// What its firmware remembers.
    vars: PathBuf,
}

/// Fails unless a file of so many bytes fits into a folder, with some room for the story's other files. A disk that is erased
/// takes all of its size: zeros that may not be unmapped are allocated.
fn has_room(folder: &Path, bytes: u64) -> Result<()> {
    const OTHERS: u64 = 1 << 30;
    let free = rustix::fs::statvfs(folder).with_context(|| format!("look how much is free in {}", folder.display()))?;
    let free = free.f_bavail * free.f_frsize;
    ensure!(
        free >= bytes + OTHERS,
        "{} has {} MiB free, and a server with its story takes {} MiB; make room, or name another folder with TMPDIR",
        folder.display(),
        free >> 20,
        (bytes + OTHERS) >> 20,
    );
    Ok(())
}

impl VirtualServer {
    /// Defines a server: q35, OVMF with variables of its own or SeaBIOS, one disk, one interface or two, virtio-rng,
    /// serial port into a file.
    ///
    /// # Errors
    /// When libvirt refuses it.
    pub async fn define(lab: &Lab, spec: &ServerSpec) -> Result<Self> {
        let number = spec.number;
        let server = Self {
            name: spec.name,
            uuid: format!("0f0f0f0f-0000-4000-8000-0000000000{number:02}"),
            mac: format!("52:54:00:77:00:{number:02}"),
            address: Ipv4Addr::new(10, 77, 0, 200 + number % 50),
            memory_mib: spec.memory_mib,
            disk: lab.disks().join(format!("{}.raw", spec.name)),
            serial: lab.logs().join(format!("{}.serial.log", spec.name)),
            vars: lab.dir().join(format!("{}.vars.fd", spec.name)),
        };
        has_room(&lab.disks(), spec.disk_mib << 20)?;
        File::create(&server.disk)?.set_len(spec.disk_mib << 20)?;
        fs::write(&server.serial, "")?;
        // `rom`: whether the network card has one, for starting from the network.
        let rom = match spec.firmware {
            Firmware::Ovmf => {
                fs::copy(OVMF_VARS, &server.vars).with_context(|| format!("copy {OVMF_VARS}"))?;
                "no"
            }
            Firmware::SeaBios => "yes",
        };
        let loader = server.loader(spec.firmware);
        if spec.cables == Cables::Bridge {
            lab.reserve(&server.mac, server.address, spec.name)?;
        }
        let (device, bus) = match spec.disk_bus {
            DiskBus::Virtio => ("vda", "virtio"),
            DiskBus::Sata => ("sda", "sata"),
        };
        // virtio: QEMU's e1000e does not tell its driver when the cable is cut.
        let card = |kind: &str, mac: &str, cable: &str| {
            format!(
                "<interface type='{kind}'>{cable}<mac address='{mac}'/><model type='virtio'/>\
                 <rom enabled='{rom}'/></interface>"
            )
        };
        let interfaces = match spec.cables {
            Cables::Bridge => card("bridge", &server.mac, &format!("<source bridge='{BRIDGE}'/>")),
            Cables::Trunk => {
                let [first, second] = server.cards();
                card("udp", &first, &Trunk::cable(0)) + &card("udp", &second, &Trunk::cable(1))
            }
        };
        let xml = format!(
            "<domain type='{kind}'><name>{name}</name><uuid>{uuid}</uuid>\
             <memory unit='MiB'>{memory}</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type>{loader}\
             <boot dev='hd'/></os><features><acpi/></features><cpu mode='maximum'/>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe' discard='unmap' error_policy='report'/>\
             <source file='{disk}'/><target dev='{device}' bus='{bus}'/><serial>FERRIC{number:02}</serial></disk>\
             <controller type='sata' index='0'/>\
             {interfaces}\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='none'/>\
             <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>\
             </devices></domain>",
            kind = lab.accelerator().libvirt(),
            name = server.name,
            uuid = server.uuid,
            memory = spec.memory_mib,
            disk = server.disk.display(),
            serial = server.serial.display(),
        );
        server.redefine(lab, &xml).await?;
        Ok(server)
    }

    /// Gives it another firmware, as its setup does on a machine that has both. It has to be off; its disk and what its
    /// UEFI remembers stay.
    ///
    /// # Errors
    /// When libvirt refuses it.
    pub async fn change_firmware(&self, lab: &Lab, from: Firmware, to: Firmware) -> Result<()> {
        let xml = fs::read_to_string(self.definition(lab)).context("read how the server is defined")?;
        self.redefine(lab, &xml.replace(&self.loader(from), &self.loader(to))).await
    }

    async fn redefine(&self, lab: &Lab, xml: &str) -> Result<()> {
        let path = self.definition(lab);
        fs::write(&path, xml)?;
        virsh(&["define", path.to_str().context("the lab's folder is not UTF-8")?]).await.map(drop)
    }

    fn definition(&self, lab: &Lab) -> PathBuf {
        lab.dir().join(format!("{}.xml", self.name))
    }

    /// Of the definition, what starts it. sushy-emulator tells the boot mode by the type.
    fn loader(&self, firmware: Firmware) -> String {
        match firmware {
            Firmware::Ovmf => {
                let loader = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>";
                format!("{loader}<nvram>{}</nvram>", self.vars.display())
            }
            Firmware::SeaBios => {
                "<loader readonly='yes' type='rom'>/usr/share/seabios/bios-256k.bin</loader>".to_owned()
            }
        }
    }

    /// Presses its power button.
    ///
    /// # Errors
    /// When it is on already, or libvirt does not answer.
    pub async fn press_power(&self) -> Result<()> {
        virsh(&["start", self.name]).await.map(drop)
    }

    /// Addresses of the two network cards that it has on a trunk.
    #[must_use]
    pub fn cards(&self) -> [String; 2] {
        [self.mac.clone(), self.mac.replacen("52:54:00:77:00:", "52:54:00:77:01:", 1)]
    }

    /// `redfish_address` of the server.
    #[must_use]
    pub fn redfish_address(&self) -> &'static str {
        REDFISH
    }

    /// `redfish_system_id` of the server.
    #[must_use]
    pub fn redfish_system(&self) -> String {
        format!("/redfish/v1/Systems/{}", self.uuid)
    }

    /// libvirt's word for its state: `running`, `shut off`…
    ///
    /// # Errors
    /// When libvirt does not answer.
    pub async fn state(&self) -> Result<String> {
        Ok(virsh(&["domstate", self.name]).await?.trim().to_owned())
    }

    /// Cuts the power, whoever turned it on.
    ///
    /// # Errors
    /// When libvirt does not answer.
    pub async fn pull_the_plug(&self) -> Result<()> {
        if self.state().await? != "shut off" {
            virsh(&["destroy", self.name]).await?;
        }
        Ok(())
    }

    /// Presses its reset button: it begins anew at its firmware, and what was only in its memory is gone.
    ///
    /// # Errors
    /// When it is off, or libvirt does not answer.
    pub async fn press_reset(&self) -> Result<()> {
        virsh(&["reset", self.name]).await.map(drop)
    }

    /// How much it has written to its serial port so far: a mark for [`Self::serial_since`].
    #[must_use]
    pub fn serial_len(&self) -> u64 {
        fs::metadata(&self.serial).map_or(0, |meta| meta.len())
    }

    /// What it has written to its serial port since `mark`.
    #[must_use]
    pub fn serial_since(&self, mark: u64) -> String {
        let bytes = fs::read(&self.serial).unwrap_or_default();
        let mark = usize::try_from(mark).unwrap_or(usize::MAX).min(bytes.len());
        String::from_utf8_lossy(&bytes[mark..]).into_owned()
    }

    /// Bytes of its disk, read from outside.
    ///
    /// # Errors
    /// When the disk is shorter or cannot be read.
    pub fn read_disk(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut disk = File::open(&self.disk)?;
        disk.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; length];
        disk.read_exact(&mut bytes).with_context(|| format!("read {length} bytes of {} at {offset}", self.name))?;
        Ok(bytes)
    }

    /// The boot entries that its firmware remembers, in boot order: number and label. It has to be off.
    ///
    /// # Errors
    /// When its variables cannot be read.
    pub fn boot_order(&self) -> Result<Vec<(u16, String)>> {
        let flash = fs::read(&self.vars).with_context(|| format!("read {}", self.vars.display()))?;
        crate::varstore::boot_order(&flash)
    }

    /// Bytes of its disk that take space.
    ///
    /// # Errors
    /// When qemu-img fails.
    pub async fn allocated(&self) -> Result<u64> {
        allocated(&self.disk).await
    }
}
