//! The header: what it must say before anything else of the file is believed.

use super::Qcow2Error;

/// First bytes of every qcow, whatever its version.
pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Bytes of the header that are looked at: version 3 with its compression type.
pub(super) const LEN: usize = 112;
/// Bytes of a version 2 header.
const LEN_V2: u64 = 72;
/// The largest L1 table, bytes; the same as QEMU's.
const MAX_L1: u64 = 32 << 20;

/// `incompatible_features`.
mod feature {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Deflate without a header (RFC 1951).
    Zlib,
    /// zstd (RFC 8878).
    Zstd,
}

/// What the header says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Bytes of the disk in the image.
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    /// Entries of the L1 table that the size needs; a table may have more.
    pub(crate) l1_used: u64,
    pub(crate) compression: Compression,
    pub(crate) extended_l2: bool,
}

impl Header {
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The smallest unit that an entry can speak of: a cluster, or a thirty-second of one.
    pub(crate) fn unit(&self) -> u64 {
        if self.extended_l2 { self.cluster() / 32 } else { self.cluster() }
    }

    /// Bytes of an L2 entry.
    pub(crate) fn entry_len(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table covers.
    pub(crate) fn covered(&self) -> u64 {
        self.cluster() / self.entry_len() as u64 * self.cluster()
    }

    /// Reads the first [`LEN`] bytes of a file, or all that it has.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Qcow2Error> {
        let short = Qcow2Error::NoHeader(bytes.len() as u64);
        if (bytes.len() as u64) < LEN_V2 {
            return Err(short);
        }
        let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        let version = u32_at(4);
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::field("version", version, "only 2 and 3 are read; convert it (qemu-img convert)"));
        }
        if version == 3 && bytes.len() < LEN {
            return Err(short);
        }
        refuse(u64_at(8) != 0, "backing_file_offset", u64_at(8), || {
            "it needs another file below it; flatten it (qemu-img convert)".into()
        })?;
        let crypt = u64::from(u32_at(32));
        refuse(crypt != 0, "crypt_method", crypt, || "it is encrypted; serve it decrypted".into())?;
        let cluster_bits = u32_at(20);
        refuse(!(9..=21).contains(&cluster_bits), "cluster_bits", cluster_bits.into(), || {
            "clusters have 512 bytes (9) to 2 MiB (21)".into()
        })?;
        let mut header = Self {
            version,
            cluster_bits,
            size: u64_at(24),
            l1_offset: u64_at(40),
            l1_used: 0,
            compression: Compression::Zlib,
            extended_l2: false,
        };
        if version == 3 {
            header.features(u64_at(72), u32_at(96), u32_at(100), bytes[104])?;
        }
        header.l1(u32_at(36))?;
        Ok(header)
    }

    fn features(&mut self, features: u64, refcount_order: u32, len: u32, compression: u8) -> Result<(), Qcow2Error> {
        let wrong = |problem: String| Err(Qcow2Error::field("incompatible_features", features, problem));
        let known =
            feature::DIRTY | feature::CORRUPT | feature::EXTERNAL_DATA | feature::COMPRESSION | feature::EXTENDED_L2;
        if features & !known != 0 {
            return wrong(format!("the bits {:#x} are not known", features & !known));
        }
        if features & feature::CORRUPT != 0 {
            return wrong("it is marked as corrupt; repair it (qemu-img check -r all)".into());
        }
        if features & feature::EXTERNAL_DATA != 0 {
            return wrong("its data is in another file; flatten it (qemu-img convert)".into());
        }
        let (bits, cluster) = (self.cluster_bits, self.cluster());
        refuse(refcount_order > 6, "refcount_order", refcount_order.into(), || "the largest is 6".into())?;
        let fits = (104..=cluster).contains(&u64::from(len)) && len.is_multiple_of(8);
        refuse(!fits, "header_length", len.into(), || format!("it is a multiple of 8 from 104 to {cluster}"))?;
        let compression = if len > 104 { compression } else { 0 };
        self.compression = match (compression, features & feature::COMPRESSION != 0) {
            (0, false) => Compression::Zlib,
            (1, true) => Compression::Zstd,
            (0 | 1, _) => {
                let problem = "it contradicts the compression bit of incompatible_features";
                return Err(Qcow2Error::field("compression_type", compression, problem));
            }
            (other, _) => {
                return Err(Qcow2Error::field("compression_type", other, "only 0 (zlib) and 1 (zstd) are read"));
            }
        };
        self.extended_l2 = features & feature::EXTENDED_L2 != 0;
        refuse(self.extended_l2 && bits < 14, "cluster_bits", bits.into(), || {
            "with extended L2 entries, clusters have at least 16 KiB (14)".into()
        })
    }

    fn l1(&mut self, entries: u32) -> Result<(), Qcow2Error> {
        let (size, entries) = (self.size, u64::from(entries));
        refuse(size == 0, "size", size, || "the disk in it is empty".into())?;
        let used = size.div_ceil(self.covered());
        refuse(entries < used, "l1_size", entries, || format!("a disk of {size} bytes needs {used} entries"))?;
        refuse(used * 8 > MAX_L1, "size", size, || {
            format!("with clusters of {} bytes its L1 table has more than {MAX_L1} bytes", self.cluster())
        })?;
        let placed = self.l1_offset >= self.cluster() && self.l1_offset.is_multiple_of(self.cluster());
        refuse(!placed, "l1_table_offset", self.l1_offset, || "it is not the start of a later cluster".into())?;
        let end = self.l1_offset.checked_add(used * 8).filter(|&end| end <= i64::MAX as u64);
        refuse(end.is_none(), "l1_table_offset", self.l1_offset, || "no file is that long".into())?;
        self.l1_used = used;
        Ok(())
    }

    /// Bytes at the start of the file that the map depends on.
    pub(super) fn len(&self) -> u64 {
        if self.version == 2 { LEN_V2 } else { LEN as u64 }
    }
}

fn refuse(wrong: bool, field: &'static str, value: u64, problem: impl FnOnce() -> String) -> Result<(), Qcow2Error> {
    if wrong { Err(Qcow2Error::field(field, value, problem())) } else { Ok(()) }
}
