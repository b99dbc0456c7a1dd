//! Debian packages that the verbs need: what is missing of `ci/packages.txt` is installed.

use crate::cmd;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<()> {
    packages()
}

/// Installs what is missing of `ci/packages.txt`; a machine that has it all is left alone and no mirror is asked.
pub fn packages() -> Result<()> {
    let wanted = listed(&cmd::root().join("ci/packages.txt"))?;
    let missing = missing(&wanted, &installed()?);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("[setup] missing Debian packages: {}", missing.join(" "));
    ensure!(
        is_root(),
        "installing packages needs root: run `sudo apt-get install --no-install-recommends {}` and try again",
        missing.join(" ")
    );
    eprintln!("[setup] apt-get update");
    cmd::run(apt().args(["-q", "update"]))?;
    eprintln!("[setup] apt-get install");
    let plain = cmd::run(apt().args(INSTALL).args(&missing));
    let Err(why) = plain else { return Ok(()) };
    // A machine whose installed packages are newer than its mirror's cannot add siblings of the same source (qemu-utils
    // breaks an older qemu-system-common): bring those to the mirror's version in the same transaction.
    let codename = codename()?;
    let present: Vec<String> = wanted
        .iter()
        .filter(|package| !missing.contains(package) && newer_than_mirror(package))
        .map(|package| format!("{package}/{codename}"))
        .collect();
    if present.is_empty() {
        return Err(why).context("install Debian packages; apt's own messages are above");
    }
    eprintln!("[setup] that failed; again with {} taken from the mirror", present.join(" "));
    cmd::run(apt().args(INSTALL).arg("--allow-downgrades").args(&present).args(&missing))
        .context("install Debian packages; apt's own messages are above")
}

const INSTALL: [&str; 4] = ["-q", "-y", "--no-install-recommends", "install"];

/// The first words of the lines of a list like `ci/packages.txt`: `name # reason`.
pub fn listed(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        if name.contains(char::is_whitespace) || name.starts_with('-') {
            bail!("{} line {}: {name:?} is not one name; write `name # reason`", path.display(), number + 1);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
    apt
}

/// Names of installed packages.
fn installed() -> Result<Vec<String>> {
    let list = cmd::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status} ${Package}\n"]))
        .context("ask dpkg what is installed; the verbs that start virtual servers need a Debian machine")?;
    Ok(list.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

fn missing(wanted: &[String], installed: &[String]) -> Vec<String> {
    wanted.iter().filter(|package| !installed.contains(package)).cloned().collect()
}

/// Whether the installed version comes from no mirror: apt's candidate is the installed one and its only source is
/// dpkg's own status file.
fn newer_than_mirror(package: &str) -> bool {
    let Ok(versions) = cmd::output(Command::new("apt-cache").args(["madison", package])) else { return false };
    let Ok(version) = cmd::output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package])) else {
        return false;
    };
    let mirrored: Vec<&str> = versions.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    !mirrored.is_empty() && !mirrored.contains(&version.trim())
}

fn codename() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME: is this Debian?")
}

fn is_root() -> bool {
    // The owner of our own entry in /proc is the effective user.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_without_comments_and_blank_lines() {
        let dir = std::env::temp_dir().join(format!("ferric-setup-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("list.txt");
        std::fs::write(&path, "# heading\n\nqemu-utils # disks\nzstd\n").unwrap();
        assert_eq!(listed(&path).unwrap(), ["qemu-utils", "zstd"]);
        std::fs::write(&path, "--force # no option gets to apt\n").unwrap();
        let refused = listed(&path).unwrap_err().to_string();
        assert!(refused.contains("line 1"), "{refused}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_what_is_not_installed_is_missing() {
        let wanted = ["a".to_owned(), "b".to_owned()];
        assert_eq!(missing(&wanted, &["b".to_owned(), "c".to_owned()]), ["a"]);
    }

    #[test]
    fn every_listed_package_has_a_reason() {
        let text = std::fs::read_to_string(cmd::root().join("ci/packages.txt")).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            assert!(line.split_once('#').is_some_and(|(_, reason)| reason.trim().len() > 3), "no reason: {line}");
        }
    }
}
