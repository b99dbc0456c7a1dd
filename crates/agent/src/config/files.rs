//! Configuration files of the ramdisk: what an operator's overlay or virtual media put into `/etc`.

use super::Words;
use super::cmdline::MAX_TEXT;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The folders of `/etc` with configuration; files that end in `.conf` have options in them.
pub(super) const FOLDERS: [&str; 2] = ["ironic-python-agent", "ironic-python-agent.d"];

/// The options of all files below `root` (`/`), in the order of their names; of two with one name the later counts.
pub fn read(root: &Path) -> Words {
    let mut words = Words::default();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(root.join("etc").join(folder)) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            let mut text = Vec::new();
            let read = File::open(path).and_then(|file| file.take(MAX_TEXT as u64).read_to_end(&mut text));
            match read {
                Ok(_) => words.merge(Words::parse_ini(&String::from_utf8_lossy(&text))),
                Err(error) => tracing::warn!(path = %path.display(), %error, "configuration file not read"),
            }
        }
    }
    words
}
