//! Shows that a commit gives the same bytes wherever it is built.

use super::ARTEFACTS;
use super::layers;
use crate::cmd;
use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds HEAD in two clones and compares the artefacts. The second one's are left in `out`.
///
/// The clones lie in folders with names of different length, and have target folders and caches of their own.
pub fn check(profile: &str, out: &Path) -> Result<()> {
    let root = cmd::root();
    let status = cmd::output(Command::new("git").arg("-C").arg(&root).args(["status", "--porcelain"]))
        .context("ask git for the state of the checkout: the check needs a git checkout")?;
    if !status.is_empty() {
        eprintln!("[ramdisk] note: uncommitted changes are not part of this check");
    }
    let work = std::env::temp_dir().join(format!("ferric-reproducible-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let first = build_clone(&root, &work.join("a"), profile)?;
    let second = build_clone(&root, &work.join("another-folder/with-a-longer-name"), profile)?;
    let mut differences = Vec::new();
    for name in ARTEFACTS {
        let (left, right) = (read(&first, name)?, read(&second, name)?);
        eprintln!("{}  {name}  first clone", hex::encode(Sha256::digest(&left)));
        eprintln!("{}  {name}  second clone", hex::encode(Sha256::digest(&right)));
        if left != right {
            differences.push(difference(name, &left, &right)?);
        }
    }
    if !differences.is_empty() {
        bail!("two builds of the same commit differ; both are kept in {}: {}", work.display(), differences.join("; "));
    }
    std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    for name in ARTEFACTS {
        std::fs::copy(second.join(name), out.join(name)).with_context(|| format!("copy {name}"))?;
    }
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    eprintln!("[ramdisk] all {} artefacts are the same, bit for bit", ARTEFACTS.len());
    Ok(())
}

/// Clones HEAD into `dir`, builds there, and returns the folder with the artefacts.
fn build_clone(root: &Path, dir: &Path, profile: &str) -> Result<PathBuf> {
    eprintln!("[ramdisk] build in {}", dir.display());
    let checkout = dir.join("checkout");
    std::fs::create_dir_all(dir)?;
    cmd::run(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(root).arg(&checkout))?;
    let out = dir.join("out");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(&checkout)
        .args(["xtask", "ramdisk", "--profile", profile, "--out"])
        .arg(&out)
        .env("FERRIC_CACHE", dir.join("cache"))
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MANIFEST_DIR");
    cmd::run(&mut build).with_context(|| format!("build in {}", checkout.display()))?;
    Ok(out)
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    std::fs::read(dir.join(name)).with_context(|| format!("read {}", dir.join(name).display()))
}

/// Says where two versions of an artefact differ first: which file of an initramfs, else which byte.
fn difference(name: &str, left: &[u8], right: &[u8]) -> Result<String> {
    if name == "initramfs" {
        let (left, right) = (layers::unpack(left)?, layers::unpack(right)?);
        let (left, right) = (entries(&left)?, entries(&right)?);
        for (a, b) in left.iter().zip(&right) {
            if a != b {
                return Ok(format!("in initramfs, {} and {} differ ({})", a.0, b.0, first_difference(a.1, b.1)));
            }
        }
        if left.len() != right.len() {
            return Ok(format!("initramfs has {} and {} entries", left.len(), right.len()));
        }
        return Ok("initramfs has the same files, packed differently".to_owned());
    }
    Ok(format!("{name} ({})", first_difference(left, right)))
}

fn first_difference(left: &[u8], right: &[u8]) -> String {
    let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    format!("first difference at byte {same} of {} and {}", left.len(), right.len())
}

/// Names of a cpio archive (newc), or of several in a row, each with its header and contents.
fn entries(mut bytes: &[u8]) -> Result<Vec<(String, &[u8])>> {
    const HEADER: usize = 110;
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let header = bytes.get(..HEADER).context("an archive ends inside a header")?;
        ensure!(header.starts_with(b"070701"), "an archive has something that is no newc header");
        let field = |index: usize| -> Result<usize> {
            let text = std::str::from_utf8(&header[6 + index * 8..14 + index * 8])?;
            Ok(usize::from_str_radix(text, 16)?)
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let start = (HEADER + name_size).next_multiple_of(4);
        let end = (start + size).next_multiple_of(4);
        let name = bytes.get(HEADER..HEADER + name_size).context("an archive ends inside a name")?;
        let entry = bytes.get(..start + size).context("an archive ends inside a file")?;
        entries.push((String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(), entry));
        bytes = bytes.get(end..).unwrap_or_default();
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::cpio::Archive;

    fn archive(init: &[u8]) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file("etc", 0o644, b"same").unwrap();
        archive.file("init", 0o755, init).unwrap();
        zstd::encode_all(archive.finish().unwrap().as_slice(), 1).unwrap()
    }

    #[test]
    fn the_first_file_that_differs_is_named() {
        let text = difference("initramfs", &archive(b"one"), &archive(b"two")).unwrap();
        assert!(text.contains("init and init differ"), "{text}");
        let text = difference("vmlinuz", b"abc", b"abd").unwrap();
        assert_eq!(text, "vmlinuz (first difference at byte 2 of 3 and 3)");
    }

    #[test]
    fn archives_in_a_row_are_read_in_order() {
        let both = [archive(b"1"), archive(b"2")].concat();
        let bytes = layers::unpack(&both).unwrap();
        let names: Vec<String> = entries(&bytes).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["etc", "init", "TRAILER!!!", "etc", "init", "TRAILER!!!"]);
    }
}
