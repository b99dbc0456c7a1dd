//! `cargo xtask fuzz`: the targets of `crates/fuzz` under libFuzzer, each for some seconds.
//!
//! The compiler's own coverage passes are used without a sanitizer, so the pinned stable toolchain suffices: the code under
//! test is safe Rust, where a finding is a panic, an overflow, a hang or too much memory.

use crate::release::TARGET;
use crate::{cmd, setup};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Which targets; all when none is given
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// What LLVM adds for libFuzzer: counters of edges, their addresses, and operands of comparisons.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Seconds that one input may take, and MiB that a target may use.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

pub fn run(args: &Args) -> Result<()> {
    setup::packages()?;
    let all = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!("{unknown} is not a fuzz target; there are {}", all.join(", "));
    }
    build()?;
    for target in if args.targets.is_empty() { &all } else { &args.targets } {
        fuzz(&programs(), target, args.seconds)?;
    }
    Ok(())
}

/// Names of all targets, in order.
pub fn targets() -> Result<Vec<String>> {
    let dir = cmd::root().join("crates/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        names.push(entry?.path().with_extension("").file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Where they are built, apart from everything without the compiler passes.
fn folder() -> PathBuf {
    cmd::root().join("target/fuzz")
}

/// The folder of the programs that were built.
pub fn programs() -> PathBuf {
    folder().join(TARGET).join("fuzz")
}

/// Builds the programs.
pub fn build() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(cmd::root())
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", folder())
        .args(["build", "--locked", "--profile=fuzz", "--package=fuzz", "--features=libfuzzer", "--bins"])
        // Naming the target keeps the flags away from build scripts and procedural macros.
        .args(["--target", TARGET]);
    cmd::run(&mut cargo)
}

/// Runs one target. What it found on the way is kept below `target/fuzz/corpus`; a finding below `target/fuzz/findings`.
pub fn fuzz(programs: &std::path::Path, target: &str, seconds: u32) -> Result<()> {
    let work = folder();
    let (found, findings) = (work.join("corpus").join(target), work.join("findings").join(target));
    for dir in [&found, &findings] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let mut program = Command::new(programs.join(target));
    program
        .arg(format!("-max_total_time={seconds}"))
        .args(LIMITS)
        .args(["-max_len=65536", "-print_final_stats=1", "-print_funcs=0", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(found)
        .arg(cmd::root().join("crates/fuzz/corpus").join(target));
    cmd::run(&mut program).with_context(|| {
        format!("{target}: the input is in {}; once mended, keep it in crates/fuzz/corpus/{target}", findings.display())
    })
}
