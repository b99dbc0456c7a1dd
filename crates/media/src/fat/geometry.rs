//! Where things are in a FAT file system, its header and its tables.

/// Bytes of a sector, where nothing else is asked for.
const SECTOR: u64 = 512;
const TABLES: u64 = 2;
/// A fixed disk.
const MEDIA: u8 = 0xf8;
/// Bytes of 1 MiB.
const MIB: u64 = 1 << 20;
/// Drivers that count wrongly by a few near the borders exist, so nothing is made there (FAT, 3.5).
const MARGIN: u64 = 16;

/// The width of a table's entries decides the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    /// How many clusters there are in a file system of this type (FAT, 3.5), less the margin.
    fn clusters(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Fat12 => 1..=4084 - MARGIN,
            Self::Fat16 => 4085 + MARGIN..=65_524 - MARGIN,
            Self::Fat32 => 65_525 + MARGIN..=0x0fff_fff5 - MARGIN,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// The measures of one file system.
#[derive(Debug)]
pub(super) struct Geometry {
    kind: Kind,
    /// Bytes of a sector.
    sector: u64,
    cluster_sectors: u64,
    reserved: u64,
    table_sectors: u64,
    /// Entries of a root in front of the clusters; 0 for FAT32.
    root_entries: u64,
    sectors: u64,
    clusters: u64,
}

impl Geometry {
    /// The smallest file system with so many clusters beside the root, of `cluster` bytes each, and so many entries in
    /// the root.
    pub(super) fn for_clusters(wanted: u64, root_entries: u64, cluster: u64) -> Self {
        let kinds = [Kind::Fat12, Kind::Fat16];
        let small = kinds.into_iter().map(|kind| Self::fit(kind, wanted, root_entries, cluster));
        let mut fitting = small.filter(|geometry| geometry.kind.clusters().contains(&geometry.clusters));
        fitting.next().unwrap_or_else(|| Self::fit(Kind::Fat32, wanted, root_entries, cluster))
    }

    /// The file system of exactly so many bytes in sectors of `sector` bytes, if there is one: of the widest type that
    /// the size allows, with usual clusters.
    pub(super) fn of_size(size: u64, root_entries: u64, sector: u64) -> Option<Self> {
        let all = size / sector;
        if !size.is_multiple_of(sector) || all > u64::from(u32::MAX) {
            return None;
        }
        let clusters = [4096, 2048, 32_768].map(|bytes: u64| bytes.max(sector));
        let kinds = [Kind::Fat32, Kind::Fat16, Kind::Fat12];
        kinds.into_iter().flat_map(|kind| clusters.map(|cluster| (kind, cluster))).find_map(|(kind, cluster)| {
            let mut fitted = Self::empty(kind, root_entries, cluster, sector);
            fitted.table_sectors = fitted.table_for(all / fitted.cluster_sectors);
            fitted.sectors = all;
            fitted.clusters = all.checked_sub(fitted.used())? / fitted.cluster_sectors;
            kind.clusters().contains(&fitted.clusters).then_some(fitted)
        })
    }

    fn fit(kind: Kind, wanted: u64, root_entries: u64, cluster: u64) -> Self {
        let mut fitted = Self::empty(kind, root_entries, cluster, SECTOR);
        let root_clusters = if kind == Kind::Fat32 { (root_entries * 32).div_ceil(cluster) } else { 0 };
        let wanted = (wanted + root_clusters).max(*kind.clusters().start());
        // Tables large enough for what rounding up to 1 MiB adds.
        fitted.table_sectors = fitted.table_for(wanted + MIB / SECTOR);
        fitted.sectors = (fitted.used() + wanted * fitted.cluster_sectors).next_multiple_of(MIB / SECTOR);
        fitted.clusters = (fitted.sectors - fitted.used()) / fitted.cluster_sectors;
        fitted
    }

    /// All measures but those that follow from the size.
    fn empty(kind: Kind, root_entries: u64, cluster: u64, sector: u64) -> Self {
        let fat32 = kind == Kind::Fat32;
        // A root of fewer entries than usual makes some drivers suspicious.
        let root_entries = if fat32 { 0 } else { root_entries.max(512).next_multiple_of(sector / 32) };
        let reserved = if fat32 { 32 } else { 1 };
        Self {
            kind,
            sector,
            cluster_sectors: cluster / sector,
            reserved,
            table_sectors: 0,
            root_entries,
            sectors: 0,
            clusters: 0,
        }
    }

    /// Sectors of a table for so many clusters.
    fn table_for(&self, clusters: u64) -> u64 {
        ((clusters + 2) * self.kind.bits()).div_ceil(8 * self.sector)
    }

    /// Sectors in front of the clusters.
    fn used(&self) -> u64 {
        self.reserved + TABLES * self.table_sectors + self.root_entries * 32 / self.sector
    }

    /// How many clusters there are.
    pub(super) fn room(&self) -> u64 {
        self.clusters
    }

    /// Bytes of the image.
    pub(super) fn bytes(&self) -> usize {
        (self.sectors * self.sector) as usize
    }

    pub(super) fn cluster_bytes(&self) -> usize {
        (self.cluster_sectors * self.sector) as usize
    }

    /// Whether the root is a chain of clusters like other directories.
    pub(super) fn root_in_clusters(&self) -> bool {
        self.kind == Kind::Fat32
    }

    /// Where a root in front of the clusters starts.
    pub(super) fn root_offset(&self) -> usize {
        ((self.reserved + TABLES * self.table_sectors) * self.sector) as usize
    }

    pub(super) fn cluster_offset(&self, cluster: u32) -> usize {
        self.root_offset() + self.root_entries as usize * 32 + (cluster as usize - 2) * self.cluster_bytes()
    }

    /// Writes the boot sector (FAT, 3.1 to 3.3) and the two reserved entries of the tables.
    pub(super) fn write_headers(&self, image: &mut [u8], label: [u8; 11], id: u32) {
        let fat32 = self.kind == Kind::Fat32;
        let size = self.sector as usize;
        let mut sector = vec![0; size];
        let mut put = |offset: usize, bytes: &[u8]| sector[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, if fat32 { &[0xeb, 0x58, 0x90] } else { &[0xeb, 0x3c, 0x90] });
        put(3, b"MSWIN4.1");
        put(11, &(self.sector as u16).to_le_bytes());
        put(13, &[self.cluster_sectors as u8]);
        put(14, &(self.reserved as u16).to_le_bytes());
        put(16, &[TABLES as u8]);
        put(17, &(self.root_entries as u16).to_le_bytes());
        match u16::try_from(self.sectors) {
            Ok(sectors) if !fat32 => put(19, &sectors.to_le_bytes()),
            _ => put(32, &(self.sectors as u32).to_le_bytes()),
        }
        put(21, &[MEDIA]);
        put(24, &32_u16.to_le_bytes()); // sectors of a track and heads, for old BIOSes
        put(26, &64_u16.to_le_bytes());
        let extended = if fat32 {
            put(36, &(self.table_sectors as u32).to_le_bytes());
            put(44, &2_u32.to_le_bytes()); // first cluster of the root
            put(48, &1_u16.to_le_bytes()); // FSInfo
            put(50, &6_u16.to_le_bytes()); // copy of this sector
            64
        } else {
            put(22, &(self.table_sectors as u16).to_le_bytes());
            36
        };
        put(extended, &[0x80, 0, 0x29]);
        put(extended + 3, &id.to_le_bytes());
        put(extended + 7, &label);
        put(extended + 18, format!("FAT{:<5}", self.kind.bits()).as_bytes());
        put(510, &[0x55, 0xaa]);
        image[..size].copy_from_slice(&sector);
        if fat32 {
            image[6 * size..7 * size].copy_from_slice(&sector);
        }
        self.set(image, 0, 0x0fff_ff00 | u32::from(MEDIA));
        self.set(image, 1, 0x0fff_ffff);
    }

    /// Chains `count` clusters from `first` on.
    pub(super) fn chain(&self, image: &mut [u8], first: u32, count: u32) {
        for cluster in first..first + count {
            let next = if cluster + 1 == first + count { 0x0fff_ffff } else { cluster + 1 };
            self.set(image, cluster, next);
        }
    }

    /// Writes the counts of free clusters (FAT32 only; FAT, 5).
    pub(super) fn finish(&self, image: &mut [u8], next_free: u32) {
        if self.kind != Kind::Fat32 {
            return;
        }
        let free = self.clusters as u32 + 2 - next_free;
        for sector in [1, 7] {
            let start = sector * self.sector as usize;
            let mut put =
                |offset: usize, value: u32| image[start + offset..][..4].copy_from_slice(&value.to_le_bytes());
            put(0, 0x4161_5252);
            put(484, 0x6141_7272);
            put(488, free);
            put(492, next_free);
            put(508, 0xaa55_0000);
        }
    }

    /// Sets an entry in both tables. Only the bits that the type has are kept.
    fn set(&self, image: &mut [u8], cluster: u32, value: u32) {
        for table in 0..TABLES {
            let start = ((self.reserved + table * self.table_sectors) * self.sector) as usize;
            let index = cluster as usize;
            match self.kind {
                Kind::Fat12 => {
                    let at = start + index * 3 / 2;
                    let old = u16::from_le_bytes([image[at], image[at + 1]]);
                    let value = (value & 0xfff) as u16;
                    let new = if index.is_multiple_of(2) { old & 0xf000 | value } else { old & 0xf | value << 4 };
                    image[at..at + 2].copy_from_slice(&new.to_le_bytes());
                }
                Kind::Fat16 => image[start + index * 2..][..2].copy_from_slice(&(value as u16).to_le_bytes()),
                Kind::Fat32 => image[start + index * 4..][..4].copy_from_slice(&value.to_le_bytes()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_clusters_fits_its_type_and_its_tables() {
        for wanted in (0..9000).chain(64_000..67_000).chain([200_000, 600_000]) {
            for cluster in [2048, 4096] {
                let geometry = Geometry::for_clusters(wanted, 2, cluster);
                assert!(geometry.kind.clusters().contains(&geometry.clusters), "{wanted}: {geometry:?}");
                assert!(geometry.clusters >= wanted, "{wanted}: {geometry:?}");
                let table_bits = geometry.table_sectors * 512 * 8;
                assert!(table_bits >= (geometry.clusters + 2) * geometry.kind.bits(), "{wanted}: {geometry:?}");
                assert!((geometry.sectors * SECTOR).is_multiple_of(MIB));
            }
        }
    }
}
