//! `cargo xtask bench image`: `ferric image write` beside what people write images with today. One source over loopback
//! HTTP, the same target for all, in memory and behind a loop device, and for everybody a digest. Runs take turns,
//! medians count. Every bar of the project is a row that says whether it is met; one that is missed fails the run.

use super::serve::Server;
use crate::{cmd, release, setup};
use anyhow::{Context as _, Result, ensure};
use bars::Bars;
use case::{Case, Kind};
use std::path::{Path, PathBuf};
use std::process::Command;
use target::Target;

mod bars;
mod case;
mod make;
mod memory;
mod once;
mod target;

/// Where memory is a file system.
const MEMORY: &str = "/dev/shm";
const MIB: usize = 1 << 20;
/// Memory budget of `ferric image write`, MiB.
const BUDGET: u64 = 64;

#[derive(clap::Args)]
pub struct Args {
    /// Size of the disk in the image, MiB
    #[arg(long, default_value_t = 768, value_parser = clap::value_parser!(u64).range(8..=65536))]
    size: u64,
    /// Runs of each; they take turns. What is measured to say where the limits are runs 3 times at most
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these images
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// For development: 256 MiB, 3 runs, no loop device, 2 GiB in place of 20. What it says decides nothing
    #[arg(long, conflicts_with_all = ["size", "runs"])]
    quick: bool,
}

/// What all measurements have in common.
struct Bench {
    folder: PathBuf,
    server: Server,
    ferric: String,
    /// MiB of the disk in the image.
    size: u64,
    runs: usize,
}

impl Bench {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

pub fn run(args: &Args) -> Result<()> {
    setup::packages()?;
    let ferric = release::programs(&["-p", "cli", "--bin", "ferric"])?.join("ferric");
    let folder = Path::new(MEMORY).join(format!("ferric-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let done = measure(args, &folder, &ferric);
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    let missed = done?.missed();
    ensure!(missed == 0 || args.quick, "{missed} bars are missed");
    Ok(())
}

fn measure(args: &Args, folder: &Path, ferric: &Path) -> Result<Bars> {
    let (size, runs) = if args.quick { (256, 3) } else { (args.size, args.runs as usize) };
    let server = Server::start(folder)?;
    let bench = Bench { folder: folder.to_path_buf(), server, ferric: ferric.display().to_string(), size, runs };
    make::all(folder, size as usize)?;
    cmd::run(Command::new("mkfifo").arg(bench.path("fifo")))?;
    println!("{size} MiB, {runs} runs each, medians; a third zeros, a third repetition, a third noise");
    let processors = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!("{processors} processors, load {}", load.split(' ').next().unwrap_or_default());
    let mut bars = Bars::default();
    let wanted = |kind: &Kind| args.only.is_empty() || args.only.contains(kind);
    for on_loop in if args.quick { vec![false] } else { vec![false, true] } {
        let target = Target::new(&bench.folder, on_loop, size)?;
        for kind in Kind::SPEED.into_iter().filter(wanted) {
            Case { bench: &bench, kind, target: &target }.run(&mut bars).with_context(|| kind.title())?;
        }
    }
    make::remove(folder)?;
    if wanted(&Kind::Memory) {
        memory::run(&bench, if args.quick { 2 } else { 20 }, &mut bars)?;
    }
    bars.print();
    Ok(bars)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
