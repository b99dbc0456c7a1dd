//! Debian systems in folders: mmdebstrap with the mirrors that apt of this machine is set up for.

use crate::cmd;
use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The release that everything is built from.
pub const SUITE: &str = "bookworm";

/// Fills `root` with a minimal Debian and `packages`; `more` are further arguments of mmdebstrap.
pub fn bootstrap(root: &Path, packages: &[String], more: &[String]) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--variant=minbase", "--format=directory"]);
    mmdebstrap.arg(format!("--include={}", packages.join(",")));
    mmdebstrap.args(more);
    for option in transport_options()? {
        mmdebstrap.arg(format!("--aptopt={option}"));
    }
    for excluded in ["doc", "doc-base", "man", "info", "locale", "lintian", "bug"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{excluded}/*"));
    }
    mmdebstrap.arg(SUITE).arg(root).arg("-").stdin(Stdio::piped());
    let mut child = mmdebstrap.spawn().context("start mmdebstrap")?;
    let sources = sources()?;
    child.stdin.take().context("mmdebstrap has no standard input")?.write_all(sources.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "mmdebstrap ended with {status}; its messages are above");
    Ok(())
}

/// One-line-style sources of the suite, its updates and its security fixes, from what apt of this machine uses.
fn sources() -> Result<String> {
    let targets = cmd::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]))?;
    let sources = sources_from(&targets);
    ensure!(
        !sources.is_empty(),
        "apt on this machine knows no Debian {SUITE}: add a mirror of {SUITE} to /etc/apt/sources.list.d and run apt-get update"
    );
    Ok(sources)
}

fn sources_from(targets: &str) -> String {
    let mut sources = String::new();
    for line in targets.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let ["Packages", uri, release, "main"] = fields[..]
            && (release == SUITE
                || release.strip_prefix(SUITE).is_some_and(|rest| matches!(rest, "-updates" | "-security")))
        {
            sources.push_str(&format!("deb {uri} {release} main\n"));
        }
    }
    sources
}

/// How apt of this machine reaches its mirrors (proxies, certificates, credentials' place, clock checks).
fn transport_options() -> Result<Vec<String>> {
    let dump = cmd::output(Command::new("apt-config").arg("dump"))?;
    let wanted = ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"];
    let mut options: Vec<String> = dump
        .lines()
        .filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with(" \"\";"))
        .map(str::to_owned)
        .collect();
    if Path::new("/etc/apt/auth.conf.d").is_dir() {
        options.push("Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";".to_owned());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_package_indexes_of_the_suite_become_sources() {
        let targets = "Packages http://a.example/debian/ bookworm main\n\
                       DEP-11 http://a.example/debian/ bookworm main\n\
                       Packages http://a.example/debian/ bookworm contrib\n\
                       Packages http://a.example/debian/ bookworm-backports main\n\
                       Packages http://b.example/sec/ bookworm-security main\n";
        assert_eq!(
            sources_from(targets),
            "deb http://a.example/debian/ bookworm main\ndeb http://b.example/sec/ bookworm-security main\n"
        );
    }
}
