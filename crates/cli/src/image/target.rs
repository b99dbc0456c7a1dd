//! Where an image goes: what exists is overwritten only on request, what does not exist is made as a file.

use super::{Error, Image, inspect};
use disk_image::disk::{self, FileDisk};
use disk_image::{Disk, SMALLEST_DISK};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// What a new file's size is a multiple of, bytes.
const UNIT: u64 = 1 << 20;

/// What is at a target before anything is written.
pub(crate) struct Found {
    name: String,
    kind: Kind,
    size: u64,
    model: Option<String>,
    serial: Option<String>,
    /// Names of partitions, and of devices that are built on it.
    parts: Vec<String>,
}

#[derive(PartialEq)]
enum Kind {
    Nothing,
    File,
    Disk,
    Other,
}

/// Looks at a target, without opening it.
pub(crate) fn find(path: &Path) -> Found {
    let mut found = Found {
        name: path.display().to_string(),
        kind: Kind::Nothing,
        size: 0,
        model: None,
        serial: None,
        parts: Vec::new(),
    };
    let Ok(metadata) = std::fs::metadata(path) else { return found };
    found.kind = Kind::Other;
    if metadata.is_file() {
        (found.kind, found.size) = (Kind::File, metadata.len());
    }
    if !metadata.file_type().is_block_device() {
        return found;
    }
    found.kind = Kind::Disk;
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let class = Path::new("/sys/class/block").join(name.unwrap_or_default());
    let read = |part: &str| {
        let text = std::fs::read_to_string(class.join(part)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // Linux, Documentation/ABI/stable/sysfs-block: in units of 512 bytes, whatever the sectors are.
    found.size = read("size").and_then(|size| size.parse::<u64>().ok()).unwrap_or_default().saturating_mul(512);
    (found.model, found.serial) = (read("device/model"), read("device/serial"));
    for entry in [class.clone(), class.join("holders")].iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten()
    {
        let Ok(entry) = entry else { continue };
        let part = entry.path();
        if part.join("partition").exists() || part.parent().is_some_and(|folder| folder.ends_with("holders")) {
            found.parts.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.parts.sort();
    found
}

/// Whether both are one file, by whatever names.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    place(one).is_some_and(|one| Some(one) == place(other))
}

impl Found {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self { name, kind, model, serial, parts, .. } = self;
        let size = crate::table::size(self.size);
        match kind {
            Kind::Nothing => format!("{name} is not there; it is made as a file"),
            Kind::File => format!("{name} is overwritten: a file of {size}"),
            Kind::Other => format!("{name} is neither a file nor a block device"),
            Kind::Disk => {
                let serial = serial.as_ref().map(|serial| format!("serial {serial}"));
                let words: Vec<String> = std::iter::once(size).chain(model.clone()).chain(serial).collect();
                let parts = if parts.is_empty() { String::new() } else { format!("; on it: {}", parts.join(", ")) };
                format!("{name} is overwritten: a disk, {}{parts}", words.join(", "))
            }
        }
    }

    /// For programs.
    pub(crate) fn document(&self) -> serde_json::Value {
        let kind = match self.kind {
            Kind::Nothing => "nothing",
            Kind::File => "file",
            Kind::Disk => "disk",
            Kind::Other => "other",
        };
        serde_json::json!({"event": "dry_run", "target": self.name, "kind": kind, "size": self.size, "model": self.model,
                           "serial": self.serial, "parts": self.parts})
    }
}

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
