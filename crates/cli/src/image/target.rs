//! Where an image goes: what exists is overwritten only on request, what does not exist is made as a file.

use super::{Error, Image, inspect};
use disk_image::disk::{self, FileDisk};
use disk_image::{Disk, SMALLEST_DISK};
use std::path::{Path, PathBuf};

/// What a new file's size is a multiple of, bytes.
const UNIT: u64 = 1 << 20;

/// An open target.
pub(crate) struct Target {
    /// The disk.
    pub(crate) disk: Box<dyn Disk>,
    /// The file, if it was made just now.
    pub(crate) made: Option<PathBuf>,
}

/// Opens the target, or makes it.
pub(crate) async fn open(image: &Image, path: &Path, yes: bool, size: Option<u64>) -> Result<Target, Error> {
    let target = path.display().to_string();
    if path.exists() {
        if !yes {
            return Err(Error::Exists { target });
        }
        if size.is_some() {
            return Err(Error::SizeGiven { target });
        }
        return Ok(Target { disk: disk::open(path)?, made: None });
    }
    let (size, sector) = match size {
        Some(size) => (size, 512),
        None => {
            let info = inspect(image).await?;
            let size = info.needed.max(info.virtual_size.unwrap_or(0)).max(SMALLEST_DISK);
            (size.next_multiple_of(UNIT), info.sector_size)
        }
    };
    let disk = FileDisk::create(path, size, sector)?;
    Ok(Target { disk: Box::new(disk), made: Some(path.to_owned()) })
}
