//! Release builds: static programs, the same bytes in every checkout. The agent, ferricd and the stories are built with
//! the same flags, so that what they share is compiled once.

use crate::cmd;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes programs smaller at no cost that matters; the agent is unpacked into memory (docs/decisions/0006).
/// Relocations are packed (glibc knows them since 2.36), functions that compile to the same code are kept once, and those
/// that are alike lie next to each other, which packs better.
const LINK_FLAGS: [&str; 5] =
    ["--icf=all", "-z,pack-relative-relocs", "--build-id=none", "-O2", "--bp-compression-sort=both"];

/// For C code, which is aws-lc above all: portable code instead of a second and third variant of the same curve with a
/// table each, no AVX-512, no second set of curves for ADX, and no tables for unwinding, as nothing unwinds through C.
const C_FLAGS: [&str; 5] = [
    "-DOPENSSL_SMALL",
    "-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX",
    "-DMY_ASSEMBLER_IS_TOO_OLD_FOR_ADX_AVX2",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
];

/// The target of release builds. Naming it keeps the flags away from build scripts and procedural macros.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// cargo in the checkout `root`, with the flags of a release build; `--target` has to be [`TARGET`].
pub fn cargo(root: &Path) -> Result<Command> {
    let prefixes = prefixes(root)?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(LINK_FLAGS.iter().map(|flag| format!("-Clink-arg=-Wl,{flag}")));
    flags.extend(prefixes.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    // C code of -sys crates has __FILE__ in its messages.
    let mut c_flags: Vec<String> = C_FLAGS.map(str::to_owned).into();
    c_flags.extend(prefixes.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags.join(" "))
        .env_remove("RUSTFLAGS")
        .env_remove("CFLAGS");
    Ok(cargo)
}

/// Builds programs of this checkout and returns the folder that they are in.
pub fn programs(arguments: &[&str]) -> Result<PathBuf> {
    cmd::run(cargo(&cmd::root())?.args(["build", "--release", "--locked", "--target", TARGET]).args(arguments))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(cmd::root().join(target).join(TARGET).join("release"))
}

/// Builds `ferricd`, `ferric`, the stories and the simulated fleet, and returns the folder that they are in. With one
/// selection of packages for all of them, the features of what they share are the same and it is compiled once.
pub fn tools() -> Result<PathBuf> {
    of_tools(&["--bin=ferricd", "--bin=ferric", "--bin=e2e", "--bin=interop-manager", "--bin=sim"])
}

/// The same for `ferricd` and the benchmark of it.
pub fn bench_driver() -> Result<PathBuf> {
    of_tools(&["--bin=ferricd", "--bin=bench-driver"])
}

fn of_tools(bins: &[&str]) -> Result<PathBuf> {
    const PACKAGES: [&str; 4] = ["--package=driver", "--package=cli", "--package=e2e", "--package=sim"];
    programs(&[&PACKAGES, bins].concat())
}

/// Folders whose names must not get into the program, with what stands for them. Of several that fit, rustc and gcc
/// take the last.
fn prefixes(root: &Path) -> Result<Vec<(String, String)>> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = cmd::output(Command::new(rustc).current_dir(root).args(["--print", "sysroot"]))?;
    // With the component rust-src, rustc would name the standard library's files by their place on this machine.
    let std_sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let mut folders = vec![(home, "/cargo"), (std_sources, "/rust"), (root.to_path_buf(), "/ferric")];
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        folders.push((root.join(target), "/ferric/target"));
    }
    let text = |path: &Path| -> Result<String> {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        anyhow::ensure!(!text.contains(['=', ' ']), "{text:?} has '=' or a space, which compiler flags cannot carry");
        Ok(text.to_owned())
    };
    folders.into_iter().map(|(folder, name)| Ok((text(&folder)?, name.to_owned()))).collect()
}
