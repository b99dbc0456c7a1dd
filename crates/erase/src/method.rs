//! The ways of erasing, and what each is worth.

use serde::{Deserialize, Serialize};

/// What NIST Special Publication 800-88 calls the result, if the device did what it said. Of its editions and of
/// IEEE 2883-2022, to which the second revision points, the strictest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nist {
    /// No sanitization: the data is merely out of the way.
    None,
    /// Out of reach of whoever uses the interface of the device.
    Clear,
    /// Out of reach of a laboratory.
    Purge,
}

/// A way of erasing a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// NVMe Sanitize, crypto erase.
    NvmeSanitizeCrypto,
    /// NVMe Sanitize, block erase.
    NvmeSanitizeBlock,
    /// NVMe Sanitize, overwrite.
    NvmeSanitizeOverwrite,
    /// NVMe Format with cryptographic erase (ses 2).
    NvmeFormatCrypto,
    /// NVMe Format with user data erase (ses 1).
    NvmeFormatUserData,
    /// ATA CRYPTO SCRAMBLE EXT.
    AtaSanitizeCrypto,
    /// ATA BLOCK ERASE EXT.
    AtaSanitizeBlock,
    /// ATA OVERWRITE EXT.
    AtaSanitizeOverwrite,
    /// ATA SECURITY ERASE UNIT, enhanced mode.
    AtaSecurityEnhanced,
    /// ATA SECURITY ERASE UNIT, normal mode.
    AtaSecurityNormal,
    /// SCSI SANITIZE, cryptographic erase.
    ScsiSanitizeCrypto,
    /// SCSI SANITIZE, block erase.
    ScsiSanitizeBlock,
    /// SCSI SANITIZE, overwrite.
    ScsiSanitizeOverwrite,
    /// The write-zeroes command of the device over the whole of it.
    WriteZeroes,
    /// Discard of the whole device, followed by a read of the whole device that finds zeros only.
    Discard,
    /// Writing the whole device, random data and then zeros.
    Overwrite,
}

impl Method {
    /// The name in records and settings, such as `nvme_sanitize_crypto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NvmeSanitizeCrypto => "nvme_sanitize_crypto",
            Self::NvmeSanitizeBlock => "nvme_sanitize_block",
            Self::NvmeSanitizeOverwrite => "nvme_sanitize_overwrite",
            Self::NvmeFormatCrypto => "nvme_format_crypto",
            Self::NvmeFormatUserData => "nvme_format_user_data",
            Self::AtaSanitizeCrypto => "ata_sanitize_crypto",
            Self::AtaSanitizeBlock => "ata_sanitize_block",
            Self::AtaSanitizeOverwrite => "ata_sanitize_overwrite",
            Self::AtaSecurityEnhanced => "ata_security_enhanced",
            Self::AtaSecurityNormal => "ata_security_normal",
            Self::ScsiSanitizeCrypto => "scsi_sanitize_crypto",
            Self::ScsiSanitizeBlock => "scsi_sanitize_block",
            Self::ScsiSanitizeOverwrite => "scsi_sanitize_overwrite",
            Self::WriteZeroes => "write_zeroes",
            Self::Discard => "discard",
            Self::Overwrite => "overwrite",
        }
    }

    /// What the result is worth on a device that spins or does not.
    pub fn nist(self, rotational: bool) -> Nist {
        match self {
            Self::NvmeSanitizeCrypto
            | Self::NvmeSanitizeBlock
            | Self::NvmeSanitizeOverwrite
            | Self::AtaSanitizeCrypto
            | Self::AtaSanitizeBlock
            | Self::AtaSanitizeOverwrite
            | Self::ScsiSanitizeCrypto
            | Self::ScsiSanitizeBlock
            | Self::ScsiSanitizeOverwrite => Nist::Purge,
            // SP 800-88 Rev. 1, table A-5 has the enhanced mode as purge for magnetic disks; for flash (table A-8) the
            // command is no more than clear, as nobody says what becomes of blocks that are not mapped.
            Self::AtaSecurityEnhanced if rotational => Nist::Purge,
            // Rev. 1 of 2014 has Format as purge. Since IEEE 2883-2022 only Sanitize is.
            Self::NvmeFormatCrypto
            | Self::NvmeFormatUserData
            | Self::AtaSecurityEnhanced
            | Self::AtaSecurityNormal
            | Self::WriteZeroes
            | Self::Overwrite => Nist::Clear,
            Self::Discard => Nist::None,
        }
    }

    /// Whether the device itself erases everything that it has, and not the kernel what it can address. Those are the methods
    /// that Ironic calls secure.
    pub fn is_secure(self) -> bool {
        !matches!(self, Self::WriteZeroes | Self::Discard | Self::Overwrite)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
