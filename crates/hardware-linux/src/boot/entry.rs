//! `EFI_LOAD_OPTION` and the device path in it (UEFI 2.10, sections 3.1.3 and 10.3).

/// How a partition is named in a device path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartitionName {
    /// The unique GUID of a GPT partition, as it lies on the disk.
    Gpt([u8; 16]),
    /// The disk signature of an MBR.
    Mbr([u8; 4]),
}

/// A partition in a device path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionPath {
    /// Number, from 1.
    pub(crate) number: u32,
    /// First block.
    pub(crate) start: u64,
    /// Blocks.
    pub(crate) blocks: u64,
    /// Who it is.
    pub(crate) name: PartitionName,
}

/// A boot entry: a file on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadOption {
    /// What the firmware shows.
    pub(crate) label: String,
    /// Where the file is.
    pub(crate) partition: PartitionPath,
    /// The file, with backslashes, from the root of the partition.
    pub(crate) path: String,
}

const ACTIVE: u32 = 1;
/// Type of a device path node for media, and its kind for a partition.
const MEDIA: u8 = 4;
const HARD_DRIVE: u8 = 1;

impl LoadOption {
    /// The contents of a `Boot####` variable.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        const FILE_PATH: u8 = 4;
        const END: [u8; 4] = [0x7f, 0xff, 4, 0];
        let partition = &self.partition;
        let (signature, table, kind) = match &partition.name {
            PartitionName::Gpt(guid) => (*guid, 2, 2),
            PartitionName::Mbr(disk) => {
                let mut signature = [0; 16];
                signature[..4].copy_from_slice(disk);
                (signature, 1, 1)
            }
        };
        let mut path = vec![MEDIA, HARD_DRIVE, 42, 0];
        path.extend(partition.number.to_le_bytes());
        path.extend(partition.start.to_le_bytes());
        path.extend(partition.blocks.to_le_bytes());
        path.extend(signature);
        path.extend([table, kind]);
        let file = ucs2(&self.path);
        let length = u16::try_from(file.len() + 4).unwrap_or(u16::MAX);
        path.extend([MEDIA, FILE_PATH]);
        path.extend(length.to_le_bytes());
        path.extend(&file);
        path.extend(END);

        let mut option = ACTIVE.to_le_bytes().to_vec();
        option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        option.extend(ucs2(&self.label));
        option.extend(path);
        option
    }
}

/// The label of a `Boot####` variable.
pub(crate) fn label(option: &[u8]) -> Option<String> {
    let text = option.get(6..)?;
    let units: Vec<u16> =
        text.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|&unit| unit != 0).collect();
    Some(String::from_utf16_lossy(&units))
}

/// The partition that a `Boot####` variable boots from, if it is one.
pub(crate) fn partition(option: &[u8]) -> Option<PartitionName> {
    let length = usize::from(u16::from_le_bytes(option.get(4..6)?.try_into().ok()?));
    let description = option.get(6..)?.chunks_exact(2).position(|unit| unit == [0, 0])? * 2 + 2;
    let mut path = option.get(6 + description..)?.get(..length)?;
    loop {
        let node = usize::from(u16::from_le_bytes(path.get(2..4)?.try_into().ok()?));
        let (this, rest) = path.split_at_checked(node.max(4))?;
        if this[..2] == [MEDIA, HARD_DRIVE] {
            let signature: [u8; 16] = this.get(24..40)?.try_into().ok()?;
            return match this.get(41)? {
                1 => Some(PartitionName::Mbr([signature[0], signature[1], signature[2], signature[3]])),
                2 => Some(PartitionName::Gpt(signature)),
                _ => None,
            };
        }
        path = rest;
    }
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_bytes_that_efibootmgr_writes() {
        let option = LoadOption {
            label: "ab".into(),
            partition: PartitionPath { number: 1, start: 2048, blocks: 4096, name: PartitionName::Gpt([7; 16]) },
            path: "\\E".into(),
        };
        let mut wanted = vec![1, 0, 0, 0, 56, 0, b'a', 0, b'b', 0, 0, 0];
        wanted.extend([4, 1, 42, 0, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
        wanted.extend([7; 16]);
        wanted.extend([2, 2, 4, 4, 10, 0, b'\\', 0, b'E', 0, 0, 0, 0x7f, 0xff, 4, 0]);
        assert_eq!(option.to_bytes(), wanted);
        assert_eq!(label(&option.to_bytes()).as_deref(), Some("ab"));
        assert_eq!(label(&[1, 0]), None);
        assert_eq!(partition(&option.to_bytes()), Some(option.partition.name.clone()));
        let dos = LoadOption {
            partition: PartitionPath { name: PartitionName::Mbr([1, 2, 3, 4]), ..option.partition.clone() },
            ..option.clone()
        };
        assert_eq!(partition(&dos.to_bytes()), Some(PartitionName::Mbr([1, 2, 3, 4])));
        // Cut anywhere, it is no partition and no panic.
        let whole = option.to_bytes();
        for length in 0..whole.len() {
            assert_eq!(partition(&whole[..length]), None);
        }
    }
}
