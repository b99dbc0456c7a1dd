//! A disk image of a few instructions that says on the serial port that it runs, under UEFI and under BIOS.
//!
//! It stands for an operating system wherever only "did code of this disk run" matters: it boots in a second, and it
//! boots under both firmwares, which the Debian test system does not.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

const MIB: u64 = 1024 * 1024;
const SECTOR: u64 = 512;
const ESP_MIB: u64 = 16;

/// GPT type of an EFI system partition (UEFI 2.10, table 5.7), in the mixed byte order of the disk.
const ESP_TYPE: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// GPT type "Linux filesystem data", in the byte order of the disk.
const DATA_TYPE: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// Who started the witness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Witness {
    /// The BIOS, from the boot sector.
    Bios,
    /// UEFI, from `EFI/BOOT/BOOTX64.EFI`.
    Uefi,
}

impl Witness {
    /// What it writes to the first serial port.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Bios => "WITNESS-BIOS",
            Self::Uefi => "WITNESS-UEFI",
        }
    }

    /// What it writes to QEMU's isa-debug-exit (port 0x501).
    fn code(self) -> u8 {
        match self {
            Self::Bios => 0x31,
            Self::Uefi => 0x33,
        }
    }

    /// How QEMU exits then, where it has that device: isa-debug-exit makes `code * 2 + 1` of it.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        i32::from(self.code()) * 2 + 1
    }
}

/// What an image shall be like.
#[derive(Clone, Copy, Debug)]
pub struct WitnessImage {
    /// Size of the whole image in MiB; at least 20. What the ESP leaves is a partition of bytes that do not compress.
    pub mib: u64,
    /// Makes the bytes of two images differ.
    pub seed: u64,
}

impl WitnessImage {
    /// Writes the image: protective MBR with a boot sector, GPT, ESP with a UEFI program, data.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        let mut disk = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        disk.set_len(self.mib * MIB)?;
        let mut gpt = gptman::GPT::new_from(&mut disk, SECTOR, guid(self.seed, 0))?;
        let esp = MIB / SECTOR;
        let data = esp + ESP_MIB * MIB / SECTOR;
        let last = gpt.header.last_usable_lba;
        for (number, kind, first, last, name) in
            [(1, ESP_TYPE, esp, data - 1, "ESP"), (2, DATA_TYPE, data, last, "data")]
        {
            gpt[number] = gptman::GPTPartitionEntry {
                partition_type_guid: kind,
                unique_partition_guid: guid(self.seed, number.into()),
                starting_lba: first,
                ending_lba: last,
                attribute_bits: 0,
                partition_name: name.into(),
            };
        }
        gpt.write_into(&mut disk)?;
        gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
        // The boot code lives in the bytes of the MBR that are not the partition table.
        disk.seek(SeekFrom::Start(0))?;
        disk.write_all(&boot_sector()[..440])?;
        disk.seek(SeekFrom::Start(510))?;
        disk.write_all(&[0x55, 0xaa])?;

        disk.seek(SeekFrom::Start(esp * SECTOR))?;
        disk.write_all(&esp_image().context("make the ESP")?)?;
        disk.seek(SeekFrom::Start(data * SECTOR))?;
        let mut noise = Noise(self.seed | 1);
        let mut left = (last + 1 - data) * SECTOR;
        let mut block = vec![0; 64 * 1024];
        while left > 0 {
            let piece = left.min(block.len() as u64) as usize;
            noise.fill(&mut block[..piece]);
            disk.write_all(&block[..piece])?;
            left -= piece as u64;
        }
        disk.sync_all()?;
        Ok(())
    }
}

fn guid(seed: u64, number: u64) -> [u8; 16] {
    let mut guid = [0; 16];
    Noise(seed.wrapping_mul(62).wrapping_add(number * 2) | 1).fill(&mut guid);
    guid
}

/// xorshift64: bytes that do not compress, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            piece.copy_from_slice(&self.0.to_le_bytes()[..piece.len()]);
        }
    }
}

fn esp_image() -> Result<Vec<u8>> {
    let mut image = std::io::Cursor::new(vec![0; (ESP_MIB * MIB) as usize]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new().volume_label(*b"WITNESS    "))?;
    image.seek(SeekFrom::Start(0))?;
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
        volume.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
        let mut file = volume.root_dir().create_file("EFI/BOOT/BOOTX64.EFI")?;
        file.write_all(&uefi_program())?;
        file.flush()?;
    }
    let mut bytes = Vec::new();
    image.seek(SeekFrom::Start(0))?;
    image.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Prints the text at [e]si to the first serial port, leaves its code at isa-debug-exit, and halts.
/// `wide` is the operand-size prefix of `mov dx, imm16` where the processor is not in 16-bit mode.
fn talk(witness: Witness, wide: &[u8]) -> Vec<u8> {
    let dx = |port: u16| [wide, &[0xba], &port.to_le_bytes()].concat();
    let wait = [&dx(0x3fd)[..], &[0xec, 0xa8, 0x20, 0x74, 0xfb]].concat(); // until the transmitter is empty
    let put = [&[0x88, 0xc4][..], &wait, &dx(0x3f8), &[0x88, 0xe0, 0xee]].concat(); // keep al in ah, wait, out dx, al
    // lodsb; test al, al; jz end; put; jmp start
    let body = put.len() as u8;
    let mut code = vec![0xac, 0x84, 0xc0, 0x74, body + 2];
    code.extend(&put);
    code.extend([0xeb, (body + 7).wrapping_neg()]);
    code.extend(dx(0x501));
    code.extend([0xb0, witness.code(), 0xee]);
    code.extend([0xf4, 0xeb, 0xfd]); // hlt for ever
    code
}

fn message(witness: Witness) -> Vec<u8> {
    format!("\r\n{}\r\n\0", witness.text()).into_bytes()
}

/// A boot sector: what the BIOS loads to 0x7c00 and starts in 16-bit mode.
pub(crate) fn boot_sector() -> [u8; 512] {
    let code = talk(Witness::Bios, &[]);
    let at = 0x7c00_u16 + 8 + code.len() as u16;
    let mut sector = [0; 512];
    let start = [&[0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe][..], &at.to_le_bytes()].concat(); // ds = 0; cld; si = text
    let whole = [start, code, message(Witness::Bios)].concat();
    sector[..whole.len()].copy_from_slice(&whole);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A PE32+ image with one section (Microsoft PE/COFF specification, revision 11) for subsystem "EFI application".
fn uefi_program() -> Vec<u8> {
    let code = talk(Witness::Uefi, &[0x66]);
    // lea rsi, [rip + code]: the text follows the code; cld
    let start = [&[0x48, 0x8d, 0x35][..], &(code.len() as u32 + 1).to_le_bytes(), &[0xfc]].concat();
    let text = [start, code, message(Witness::Uefi)].concat();
    let mut pe = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664_u16.to_le_bytes()); // machine: x86-64
    put(0x46, &1_u16.to_le_bytes()); // sections
    put(0x54, &0xf0_u16.to_le_bytes()); // size of the optional header
    put(0x56, &0x22_u16.to_le_bytes()); // executable, large addresses
    let optional = 0x58;
    put(optional, &0x20b_u16.to_le_bytes()); // PE32+
    put(optional + 4, &0x200_u32.to_le_bytes()); // size of code
    put(optional + 16, &0x1000_u32.to_le_bytes()); // entry point
    put(optional + 20, &0x1000_u32.to_le_bytes()); // base of code
    put(optional + 32, &0x1000_u32.to_le_bytes()); // section alignment
    put(optional + 36, &0x200_u32.to_le_bytes()); // file alignment
    put(optional + 56, &0x2000_u32.to_le_bytes()); // size of image
    put(optional + 60, &0x200_u32.to_le_bytes()); // size of headers
    put(optional + 68, &10_u16.to_le_bytes()); // subsystem: EFI application
    put(optional + 108, &16_u32.to_le_bytes()); // data directories, all empty
    let section = optional + 0xf0;
    put(section, b".text");
    put(section + 8, &(text.len() as u32).to_le_bytes());
    put(section + 12, &0x1000_u32.to_le_bytes());
    put(section + 16, &0x200_u32.to_le_bytes());
    put(section + 20, &0x200_u32.to_le_bytes());
    put(section + 36, &0x6000_0020_u32.to_le_bytes()); // code, executable, readable
    put(0x200, &text);
    pe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_code_leaves_room_for_a_partition_table() {
        let sector = boot_sector();
        assert!(sector[440..510].iter().all(|byte| *byte == 0));
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }

    #[test]
    fn a_seed_decides_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, seed| {
            let path = dir.path().join(name);
            WitnessImage { mib: 20, seed }.write(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        let first = make("a", 7);
        assert_eq!(first.len(), 20 << 20);
        // FAT records the time of its files, so compare what is outside of it.
        assert!(first[17 << 20..] == make("b", 7)[17 << 20..]);
        assert!(first[17 << 20..] != make("c", 8)[17 << 20..]);
    }
}
