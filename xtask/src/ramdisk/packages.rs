//! Debian packages: found and downloaded by apt from the mirrors that the machine is set up for, checked against the
//! mirror's digests, unpacked into the cache, never installed.

use crate::cmd;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the mirror says of a package's candidate version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub name: String,
    pub version: String,
    pub sha256: String,
    pub depends: String,
}

/// A package that lies unpacked in the cache.
#[derive(Debug, Clone)]
pub struct Package {
    pub record: Record,
    /// The folder with the package's files.
    pub files: PathBuf,
}

/// The machine's mirrors, with what was fetched from them.
pub struct Debian {
    cache: PathBuf,
    /// Options of all calls of apt: none, or those that select lists of our own.
    options: Vec<String>,
    packages: BTreeMap<String, Package>,
}

impl Debian {
    pub fn new(cache: &Path) -> Self {
        Self { cache: cache.to_path_buf(), options: Vec::new(), packages: BTreeMap::new() }
    }

    /// All packages that were asked for, by name.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// Returns the unpacked package, and downloads it if the cache lacks this version.
    pub fn package(&mut self, name: &str) -> Result<Package> {
        if let Some(package) = self.packages.get(name) {
            return Ok(package.clone());
        }
        let package = self.get(name).or_else(|first| {
            // The machine's lists may be missing or older than the mirror: try again with fresh lists of our own.
            ensure!(self.options.is_empty(), first);
            eprintln!("[ramdisk] {name}: {first:#}; fetching fresh package lists");
            self.own_lists()?;
            self.get(name)
        });
        let package = package.with_context(|| {
            format!("get Debian package {name}: the machine's apt sources need Debian 12 with its security updates")
        })?;
        self.packages.insert(name.to_owned(), package.clone());
        Ok(package)
    }

    fn get(&self, name: &str) -> Result<Package> {
        let record = self.record(name)?;
        let archive = self.download(&record)?;
        let files = self.unpack(&record, &archive)?;
        Ok(Package { record, files })
    }

    fn record(&self, name: &str) -> Result<Record> {
        let text = cmd::output(self.apt("apt-cache").args(["--no-all-versions", "show", name]))?;
        parse_record(&text).with_context(|| format!("understand what apt-cache says of {name}"))
    }

    fn download(&self, record: &Record) -> Result<PathBuf> {
        let debs = self.cache.join("debs");
        let file = debs.join(format!("{}-{}.deb", record.name, record.sha256));
        if file.is_file() {
            return Ok(file);
        }
        let dir = scratch(&debs)?;
        eprintln!("[ramdisk] download {} {}", record.name, record.version);
        let wanted = format!("{}={}", record.name, record.version);
        // apt's own user may not write into our cache, so root downloads as root; the digest is checked below.
        let options = ["-q", "-o", "APT::Sandbox::User=root", "download"];
        cmd::output(self.apt("apt-get").current_dir(&dir).args(options).arg(wanted))?;
        let mut found = std::fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
        let entry = found.pop().context("apt-get download left no file")?;
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(entry.path())?));
        ensure!(
            digest == record.sha256,
            "{} has SHA-256 {digest}, and the mirror's list says {}",
            entry.path().display(),
            record.sha256
        );
        std::fs::rename(entry.path(), &file)?;
        std::fs::remove_dir_all(&dir)?;
        Ok(file)
    }

    fn unpack(&self, record: &Record, archive: &Path) -> Result<PathBuf> {
        let all = self.cache.join("unpacked");
        let files = all.join(format!("{}-{}", record.name, record.sha256));
        if files.is_dir() {
            return Ok(files);
        }
        let dir = scratch(&all)?;
        cmd::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&dir))?;
        match std::fs::rename(&dir, &files) {
            Ok(()) => Ok(files),
            // Another run was quicker; the contents are the same.
            Err(_) if files.is_dir() => {
                std::fs::remove_dir_all(&dir)?;
                Ok(files)
            }
            Err(error) => Err(error).with_context(|| format!("move {} to {}", dir.display(), files.display())),
        }
    }

    /// Switches to package lists of our own, from the same sources as the machine's.
    fn own_lists(&mut self) -> Result<()> {
        let dir = self.cache.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        self.options = vec![
            format!("-oDir::State::lists={}", dir.join("lists").display()),
            format!("-oDir::Cache={}", dir.join("cache").display()),
            "-oAPT::Sandbox::User=root".to_owned(),
        ];
        cmd::output(self.apt("apt-get").args(["-q", "update"])).context("fetch package lists").map(drop)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Messages and field names are read, so they must not be translated.
        command.env("LC_ALL", "C.UTF-8").args(&self.options);
        command
    }
}

/// The package with the files behind one that is only a name for the newest version: the first dependency.
pub fn first_dependency(record: &Record) -> Result<&str> {
    let first = record.depends.split([',', ' ', '|', '(']).next().unwrap_or_default().trim();
    ensure!(!first.is_empty(), "package {} {} depends on nothing", record.name, record.version);
    Ok(first)
}

/// A new folder below `dir` for this process.
fn scratch(dir: &Path) -> Result<PathBuf> {
    let scratch = dir.join(format!(".tmp-{}", std::process::id()));
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).with_context(|| format!("clear {}", scratch.display()))?;
    }
    std::fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    Ok(scratch)
}

/// Reads one stanza of deb822 as `apt-cache show` prints it.
fn parse_record(text: &str) -> Result<Record> {
    let stanza = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let wanted = |name: &str| field(name).with_context(|| format!("there is no field {name}"));
    let record = Record {
        name: wanted("Package")?,
        version: wanted("Version")?,
        sha256: wanted("SHA256")?,
        depends: field("Depends").unwrap_or_default(),
    };
    let architecture = wanted("Architecture")?;
    if !matches!(architecture.as_str(), "amd64" | "all") {
        bail!("{} is for {architecture}, and the ramdisk for amd64", record.name);
    }
    ensure!(
        record.sha256.len() == 64 && record.sha256.bytes().all(|c| c.is_ascii_hexdigit()),
        "{} has no SHA-256 digest: {:?}",
        record.name,
        record.sha256
    );
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "Package: linux-image-amd64\nVersion: 6.1.192-2\nArchitecture: amd64\n\
        Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSHA256: \
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\nPackage: other\n";

    #[test]
    fn the_first_stanza_is_read() {
        let record = parse_record(STANZA).unwrap();
        assert_eq!(record.version, "6.1.192-2");
        assert_eq!(first_dependency(&record).unwrap(), "linux-image-6.1.0-56-amd64");
    }

    #[test]
    fn another_architecture_is_refused() {
        assert!(parse_record(&STANZA.replace("amd64\nDep", "arm64\nDep")).is_err());
        assert!(parse_record("Package: a\n").is_err());
    }
}
