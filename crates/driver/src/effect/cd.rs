//! The virtual CDs of a ramdisk. They are the same but for the kernel's command line, so the first one that is asked for is
//! kept, as a file without a name, and each node's is a copy in which the line is another one. A ramdisk in memory for each of
//! a thousand nodes that boot at once would be gigabytes.

use super::cmdline::Parameters;
use super::media::{LABEL, MediaError, failed, kernel_image, parts};
use media::boot::uefi_iso;
use media::pe::{CmdlineSlot, cmdline};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::Semaphore;
use transport::client::chain;

/// CDs that are made at once: they wait for one disk.
const AT_ONCE: usize = 4;
/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// What CDs are made from. Clones share it.
#[derive(Debug, Clone)]
pub struct Cds(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    turns: Semaphore,
    /// By the folder of the ramdisk.
    templates: Mutex<HashMap<PathBuf, Arc<Template>>>,
}

impl Default for Cds {
    fn default() -> Self {
        Self(Arc::new(Shared { turns: Semaphore::new(AT_ONCE), templates: Mutex::default() }))
    }
}

/// A CD, and where it differs from others.
#[derive(Debug)]
struct Template {
    /// What it was made from: another ramdisk has other files.
    made_from: Vec<(u64, SystemTime)>,
    iso: File,
    size: u64,
    /// Where the program begins.
    program: u64,
    slot: CmdlineSlot,
    /// The command line that the ramdisk has by itself.
    line: String,
}

impl Cds {
    /// Writes the CD of the ramdisk in a folder to `file`, completely or not at all.
    ///
    /// # Errors
    /// [`MediaError`].
    pub async fn write(&self, ramdisk: PathBuf, parameters: Parameters, file: PathBuf) -> Result<(), MediaError> {
        let ended = |error: &dyn std::error::Error| MediaError::Build(error.to_string());
        let _turn = self.0.turns.acquire().await.map_err(|error| ended(&error))?;
        let this = self.clone();
        // Tens of megabytes are copied: not on a thread that serves others.
        let written = tokio::task::spawn_blocking(move || this.write_now(&ramdisk, &parameters, &file)).await;
        written.map_err(|error| ended(&error))?
    }

    pub(super) fn write_now(&self, ramdisk: &Path, parameters: &Parameters, file: &Path) -> Result<(), MediaError> {
        let folder = file.parent().unwrap_or(file);
        std::fs::create_dir_all(folder).map_err(failed("create the folder", folder))?;
        let template = self.template(ramdisk, folder.parent().unwrap_or(folder))?;
        let line = format!("{} {}", template.line, parameters.line());
        let changes = template.slot.changes(line.trim()).map_err(|error| MediaError::Build(chain(&error)))?;
        let part = file.with_extension("part");
        let writing = || -> std::io::Result<()> {
            let mut copy = File::create(&part)?;
            template.copy_to(&mut copy)?;
            changes.iter().try_for_each(|(at, bytes)| copy.write_all_at(bytes, template.program + *at as u64))
        };
        writing().map_err(failed("write", &part))?;
        std::fs::rename(&part, file).map_err(failed("rename to", file))
    }

    /// The template of a ramdisk; made, in `folder`, when there is none of the files as they are now.
    fn template(&self, ramdisk: &Path, folder: &Path) -> Result<Arc<Template>, MediaError> {
        let made_from = stamp(ramdisk)?;
        // Whoever else needs it waits: it would be the same.
        let mut templates = self.0.templates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = templates.get(ramdisk).filter(|template| template.made_from == made_from) {
            return Ok(template.clone());
        }
        let template = Arc::new(Template::make(ramdisk, made_from, folder)?);
        templates.insert(ramdisk.to_owned(), template.clone());
        Ok(template)
    }
}

/// Sizes and times of the files of a ramdisk.
fn stamp(ramdisk: &Path) -> Result<Vec<(u64, SystemTime)>, MediaError> {
    let of = |path: &PathBuf| {
        let file = std::fs::metadata(path)?;
        Ok((file.len(), file.modified()?))
    };
    parts(ramdisk)?.iter().map(|path| of(path).map_err(failed("look at", path))).collect()
}

impl Template {
    fn make(ramdisk: &Path, made_from: Vec<(u64, SystemTime)>, folder: &Path) -> Result<Self, MediaError> {
        let build = |error: &dyn std::error::Error| MediaError::Build(error.to_string());
        let program = kernel_image(ramdisk)?;
        let slot = CmdlineSlot::of(&program).map_err(|error| build(&error))?;
        let line = cmdline(&program).map_err(|error| build(&error))?;
        let line = String::from_utf8_lossy(line);
        let line = line.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned();
        let iso = uefi_iso(&program, &[], LABEL).map_err(|error| MediaError::Build(chain(&error)))?;
        let place = place_of(&program, &iso);
        let place = place.ok_or_else(|| MediaError::Build("the ramdisk is not in one piece on its CD".to_owned()))?;
        let path = folder.join(format!("template-{:032x}", rand::random::<u128>()));
        let making = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            // Without a name it is gone with the process, however that ends.
            std::fs::remove_file(&path)?;
            file.write_all(&iso)?;
            Ok(file)
        };
        let file = making().map_err(failed("write", &path))?;
        tracing::info!(ramdisk = %ramdisk.display(), bytes = iso.len(), "virtual CDs are made from this ramdisk");
        Ok(Self { made_from, iso: file, size: iso.len() as u64, program: place, slot, line })
    }

    /// Copies it to a new file; where the file system can share blocks, it does.
    fn copy_to(&self, to: &mut File) -> std::io::Result<()> {
        let mut done = 0;
        while done < self.size {
            let (mut from, left) = (done, usize::try_from(self.size - done).unwrap_or(usize::MAX));
            match rustix::fs::copy_file_range(&self.iso, Some(&mut from), &*to, None, left) {
                Ok(copied) if copied > 0 => done += copied as u64,
                // Not between these file systems: byte by byte, from where it ended.
                _ => return self.copy_bytes_to(to, done),
            }
        }
        Ok(())
    }

    fn copy_bytes_to(&self, to: &mut File, mut done: u64) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE];
        while done < self.size {
            let length = PIECE.min(usize::try_from(self.size - done).unwrap_or(PIECE));
            self.iso.read_exact_at(&mut piece[..length], done)?;
            to.write_all(&piece[..length])?;
            done += length as u64;
        }
        Ok(())
    }
}

/// Where a program lies on a CD: files begin with a sector.
fn place_of(program: &[u8], iso: &[u8]) -> Option<u64> {
    const SECTOR: usize = 512;
    let last = iso.len().checked_sub(program.len())?;
    (0..=last).step_by(SECTOR).find(|at| iso[*at..].starts_with(program)).map(|at| at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::pe::{self, Sections, replace_cmdline};

    fn ramdisk(folder: &Path, initrd: u8) -> Vec<u8> {
        let (linux, initrd) = ([&b"MZ"[..], &[1; 9000]].concat(), vec![initrd; 70_000]);
        let parts = Sections { os_release: "ID=a", uname: "1", cmdline: "quiet", linux: &linux, initrd: &initrd };
        let program = pe::build(&pe::stub::stub(7), &parts).unwrap();
        std::fs::write(folder.join("ferric.efi"), &program).unwrap();
        program
    }

    #[test]
    fn each_cd_is_what_it_would_be_if_it_were_made_for_its_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cds = Cds::default();
        for (number, initrd) in [7, 7, 9].into_iter().enumerate() {
            // The third is of another ramdisk: the time of the file tells.
            let program = ramdisk(folder.path(), initrd);
            let file = folder.path().join(format!("boot/{number}/x.iso"));
            let parameters = Parameters::parse(&format!("rack={number}{number}")).unwrap();
            cds.write_now(folder.path(), &parameters, &file).unwrap();
            let own = replace_cmdline(&program, &format!("quiet rack={number}{number}")).unwrap();
            let whole = uefi_iso(&own, &[], LABEL).unwrap();
            assert!(std::fs::read(&file).unwrap() == whole, "CD {number}");
            let names: Vec<_> = std::fs::read_dir(folder.path().join("boot")).unwrap().flatten().collect();
            assert_eq!(names.len(), number + 1, "the template has no name: {names:?}");
        }
    }

    #[test]
    fn bytes_are_copied_as_well_where_blocks_cannot_be_shared() {
        let folder = tempfile::tempdir().unwrap();
        ramdisk(folder.path(), 3);
        let template = Cds::default().template(folder.path(), folder.path()).unwrap();
        let copied = |copy: &dyn Fn(&mut File)| {
            let path = folder.path().join("copy");
            copy(&mut File::create(&path).unwrap());
            std::fs::read(path).unwrap()
        };
        let shared = copied(&|file| template.copy_to(file).unwrap());
        let bytes = copied(&|file| template.copy_bytes_to(file, 0).unwrap());
        assert!(shared == bytes && shared.len() as u64 == template.size);
    }
}
