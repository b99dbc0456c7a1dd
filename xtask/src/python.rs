//! Private Python environments for third-party peers (sushy-emulator, the `baremetal` command), kept in the cache and
//! keyed by a hash of their pinned requirements, so that nothing of the machine's Python is touched.

use crate::cmd;
use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// Debian's own interpreter: the one that Debian's python3-libvirt is built for, whatever `python3` in PATH may be.
const PYTHON: &str = "/usr/bin/python3";

/// What an environment sees besides its own packages.
#[derive(Clone, Copy)]
pub enum System {
    /// Nothing.
    Hidden,
    /// Debian's Python packages, for bindings to C libraries that pip would have to compile.
    Visible,
}

/// The folder of the environment of `ci/python/{name}.txt`, made first if the cache does not hold it.
pub fn environment(name: &str, system: System) -> Result<PathBuf> {
    let requirements = cmd::root().join(format!("ci/python/{name}.txt"));
    let pins = fs::read(&requirements).with_context(|| format!("read {}", requirements.display()))?;
    let version = cmd::output(Command::new(PYTHON).arg("--version"))?;
    let key = hex::encode(Sha256::new().chain_update(&pins).chain_update(version.trim()).finalize());
    let home = cmd::cache().join("python");
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let lock = File::create(home.join(format!("{name}.lock")))?;
    lock.lock().with_context(|| format!("wait for another build of the {name} environment"))?;
    // Scripts of an environment carry its path, so it is made in place and this file says that it is whole.
    let dir = home.join(format!("{name}-{}", &key[..16]));
    let whole = dir.join("ferric-whole");
    if whole.is_file() {
        return Ok(dir);
    }
    eprintln!("[python] making the {name} environment in {}", dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut venv = Command::new(PYTHON);
    venv.args(["-m", "venv"]);
    if matches!(system, System::Visible) {
        venv.arg("--system-site-packages");
    }
    cmd::run(venv.arg(&dir))?;
    let mut pip = Command::new(dir.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--ignore-installed",
        "--no-deps",
    ]);
    cmd::run(pip.arg("--requirement").arg(&requirements))
        .with_context(|| format!("install the packages of {}", requirements.display()))?;
    // With the system's packages in sight pip would judge those too.
    if matches!(system, System::Hidden) {
        cmd::run(Command::new(dir.join("bin/python")).args(["-m", "pip", "--quiet", "check"]))
            .with_context(|| format!("{} pins packages that do not fit together", requirements.display()))?;
    }
    fs::write(whole, key)?;
    Ok(dir)
}
