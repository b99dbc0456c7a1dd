//! How much memory a large, sparse image takes.

use super::bars::{Bar, Bars};
use super::once::{Role, Way};
use super::{BUDGET, Bench, MIB, make, words};
use crate::cmd;
use anyhow::Result;
use std::process::Command;

/// Writes an image of `gib` GiB, packed and as qcow2, to a file of holes.
pub(super) fn run(bench: &Bench, gib: u64, bars: &mut Bars) -> Result<()> {
    println!("\n{gib} GiB, nearly all holes");
    let raw = bench.folder.join("sparse.raw");
    make::sparse(&raw, (gib * 1024) as usize)?;
    make::convert(&raw, &bench.folder.join("sparse.qcow2"), &[])?;
    cmd::run(Command::new("zstd").args(["-q", "-1", "-T0", "--rm"]).arg(&raw))?;
    for name in ["sparse.raw.zst", "sparse.qcow2"] {
        let (url, target) = (format!("{}/{name}", bench.server.url), bench.path("target"));
        let size = (gib * 1024 * MIB as u64).to_string();
        let sum = cmd::output(Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(bench.path(name)))?;
        let digest = format!("sha256:{}", sum.split_whitespace().next().unwrap_or_default());
        let command =
            [&bench.ferric, "image", "write", &url, &target, "--size", &size, "--checksum", &digest, "--json"];
        let taken = Way::one("ferric image write", Role::Ours, words(&command), true).run(&bench.folder)?;
        std::fs::remove_file(&target)?;
        println!("{name:<20} {:>6.2} s {:>6.2} CPU s", taken.seconds, taken.cpu);
        let what = format!("{name} of {gib} GiB: peak memory, MiB");
        bars.add(what, taken.peak_kib as f64 / 1024.0, Bar::Most(BUDGET as f64));
    }
    Ok(())
}
