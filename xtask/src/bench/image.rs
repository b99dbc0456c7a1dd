//! `cargo xtask bench image`: `ferric image write` beside what people write images with today. One source over loopback
//! HTTP, one target in memory, and for everybody a digest. Runs take turns, medians count.

use super::serve;
use crate::{cmd, release, setup};
use anyhow::{Context as _, Result, ensure};
use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Where memory is a file system.
const MEMORY: &str = "/dev/shm";
const MIB: usize = 1 << 20;

#[derive(clap::Args)]
pub struct Args {
    /// Size of the disk in the image, MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=65536))]
    size: u64,
    /// Runs of each; they take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// What one run took. Of a pipeline, the sums over its programs.
#[derive(Clone, Copy, Default)]
struct Taken {
    seconds: f64,
    cpu: f64,
    peak_kib: u64,
}

/// Programs that are connected by pipes.
type Pipeline = Vec<Vec<String>>;

/// One way to do the work: pipelines one after the other, and a program that reads beside them.
struct Way {
    name: &'static str,
    steps: Vec<Pipeline>,
    beside: Option<Vec<String>>,
    /// Whether the target holds the image afterwards.
    writes: bool,
}

struct Bench {
    folder: PathBuf,
    url: String,
    ferric: String,
    size: u64,
}

pub fn run(args: &Args) -> Result<()> {
    setup::packages()?;
    let ferric = release::programs(&["-p", "cli", "--bin", "ferric"])?.join("ferric");
    let folder = Path::new(MEMORY).join(format!("ferric-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    let done = measure(args, &folder, &ferric);
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    done
}

fn measure(args: &Args, folder: &Path, ferric: &Path) -> Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
    make_image(&folder.join("disk.raw"), args.size as usize)?;
    cmd::run(Command::new("zstd").args(["-q", "-3", "-T0", "--check"]).arg(path("disk.raw")))?;
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    cmd::run(Command::new("qemu-img").args(convert).args([path("disk.raw"), path("disk.qcow2")]))?;
    cmd::run(Command::new("mkfifo").arg(path("fifo")))?;
    let url = serve::start(folder)?;
    let bench = Bench { folder: folder.to_path_buf(), url, ferric: ferric.display().to_string(), size: args.size };
    println!("{} MiB, {} runs each; a third zeros, a third repetition, a third noise", args.size, args.runs);
    for name in ["disk.raw", "disk.raw.zst", "disk.qcow2"] {
        bench.compare(name, args.runs as usize)?;
    }
    Ok(())
}

/// A whole disk with one partition: in turn 1 MiB of zeros, of repetition, and of what cannot be packed.
fn make_image(path: &Path, mib: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    let mut gpt = Gpt::new(Guid([0xd1; 16]), 512, (mib * MIB / 512) as u64)?;
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 2048..=((mib - 1) * MIB / 512 - 1) as u64, "root"))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..mib {
        let mut block = vec![0; MIB];
        match number % 3 {
            1 => block.chunks_mut(64).enumerate().for_each(|(i, part)| part.fill((i % 97) as u8)),
            2 => {
                for part in block.chunks_exact_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    part.copy_from_slice(&state.to_le_bytes());
                }
            }
            _ => {}
        }
        if number == 0 {
            Mbr { signature: 7, ..Mbr::protective(gpt.disk_sectors()) }.write(&mut block)?;
            gpt.write_primary(&mut block)?;
        }
        if number == mib - 1 {
            gpt.write_backup(&mut block)?;
        }
        file.write_all(&block)?;
    }
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Bench {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn compare(&self, name: &str, runs: usize) -> Result<()> {
        let digest = cmd::output(Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(self.path(name)))?;
        let digest = format!("sha256:{}", digest.split_whitespace().next().unwrap_or_default());
        let ways = self.ways(name, &digest);
        let mut taken = vec![Vec::new(); ways.len()];
        for _ in 0..runs {
            for (way, taken) in ways.iter().zip(&mut taken) {
                taken.push(self.once(way).with_context(|| format!("{name}: {}", way.name))?);
            }
        }
        let medians: Vec<Taken> = taken.iter().map(|taken| median(taken)).collect();
        let bytes = std::fs::metadata(self.path(name))?.len();
        println!(
            "\n{name}, {:.0} MiB to transport\n{:<34} {:>8} {:>8} {:>9} {:>7}",
            bytes as f64 / MIB as f64,
            "",
            "MB/s",
            "CPU s",
            "peak MiB",
            "ours ÷"
        );
        let rate = |taken: &Taken| (self.size as f64 * MIB as f64) / 1e6 / taken.seconds;
        let ours = rate(&medians[0]);
        for (way, taken) in ways.iter().zip(&medians) {
            let (rate, peak) = (rate(taken), taken.peak_kib as f64 / 1024.0);
            println!("{:<34} {rate:>8.0} {:>8.2} {peak:>9.1} {:>7.2}", way.name, taken.cpu, ours / rate);
        }
        let alone = ways.iter().zip(&medians).filter(|(way, _)| way.name.ends_with(" alone"));
        if let Some((way, taken)) = alone.max_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds)) {
            println!("limiting stage: {}; ours has {:.2} of its rate", way.name, ours / rate(taken));
        }
        Ok(())
    }

    fn ways(&self, name: &str, digest: &str) -> Vec<Way> {
        let url = format!("{}/{name}", self.url);
        let (file, target, fifo, download) =
            (self.path(name), self.path("target"), self.path("fifo"), self.path("got"));
        let one = |name, command: Vec<String>, writes| Way { name, steps: vec![vec![command]], beside: None, writes };
        let write = words(&[&self.ferric, "image", "write", &url, &target, "--yes", "--checksum", digest, "--json"]);
        let dd = words(&["dd", "bs=1M", "iflag=fullblock", "conv=notrunc", "status=none", &format!("of={target}")]);
        let sha = |of: &str| words(&["openssl", "dgst", "-sha256", of]);
        let mut piped = vec![words(&["curl", "-sf", &url]), words(&["tee", &fifo])];
        let mut ways = vec![one("ferric image write", write, true)];
        let convert = |from: &str| words(&["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", from, &target]);
        if name.ends_with(".qcow2") {
            let got = words(&["curl", "-sf", "-o", &download, &url]);
            let steps = vec![vec![got], vec![sha(&download)], vec![convert(&download)]];
            ways.push(Way { name: "curl, openssl, qemu-img convert", steps, beside: None, writes: true });
            ways.push(one("convert alone", convert(&file), true));
        } else {
            let packed = name.ends_with(".zst");
            piped.extend(packed.then(|| words(&["zstd", "-dcq"])));
            piped.push(dd);
            let name = if packed { "curl | zstd -d | dd, openssl beside" } else { "curl | dd, openssl beside" };
            ways.push(Way { name, steps: vec![piped], beside: Some(sha(&fifo)), writes: true });
            if packed {
                ways.push(one("unpack alone", words(&["zstd", "-tq", &file]), false));
            }
        }
        let raw = self.path("disk.raw");
        let copy = ["dd", "bs=1M", "conv=notrunc", "status=none", &format!("if={raw}"), &format!("of={target}")];
        ways.push(one("hash alone", sha(&file), false));
        ways.push(one("download alone", words(&["curl", "-sf", "-o", "/dev/null", &url]), false));
        ways.push(one("write alone", words(&copy), true));
        ways
    }

    /// One run, onto a target that is all there and holds none of the image.
    fn once(&self, way: &Way) -> Result<Taken> {
        let target = self.path("target");
        let mut old = File::create(&target)?;
        for _ in 0..self.size {
            old.write_all(&[0xaa; MIB])?;
        }
        let before = Instant::now();
        let mut sum = Taken::default();
        let beside = way.beside.as_ref().map(|command| self.start(command, "beside", Stdio::null(), Stdio::null()));
        let beside = beside.transpose()?;
        for step in &way.steps {
            self.step(step, &mut sum)?;
        }
        if let Some(beside) = beside {
            self.end(beside, "beside", &mut sum)?;
        }
        sum.seconds = before.elapsed().as_secs_f64();
        if way.writes {
            cmd::run(Command::new("cmp").args([self.path("disk.raw"), target]))
                .context("the target is not the image")?;
        }
        Ok(sum)
    }

    fn step(&self, pipeline: &Pipeline, sum: &mut Taken) -> Result<()> {
        let (mut children, mut input) = (Vec::new(), Stdio::null());
        for (number, command) in pipeline.iter().enumerate() {
            let last = number + 1 == pipeline.len();
            let output = if last { Stdio::null() } else { Stdio::piped() };
            let mut child = self.start(command, &number.to_string(), input, output)?;
            input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
            children.push(child);
        }
        for (number, child) in children.into_iter().enumerate() {
            self.end(child, &number.to_string(), sum)?;
        }
        Ok(())
    }

    fn start(&self, command: &[String], note: &str, input: Stdio, output: Stdio) -> Result<Child> {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%U %S %M", "-o", &self.path(&format!("time-{note}"))]).args(command);
        timed.stdin(input).stdout(output).spawn().with_context(|| format!("start {command:?}"))
    }

    fn end(&self, mut child: Child, note: &str, sum: &mut Taken) -> Result<()> {
        let status = child.wait()?;
        let text = std::fs::read_to_string(self.path(&format!("time-{note}")))?;
        ensure!(status.success(), "it ended with {status}: {}", text.trim());
        let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [user, system, peak] = fields[..] else { anyhow::bail!("time(1) wrote {text:?}") };
        sum.cpu += user + system;
        sum.peak_kib += peak as u64;
        Ok(())
    }
}

/// The median of each column.
fn median(taken: &[Taken]) -> Taken {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Taken {
        seconds: middle(taken.iter().map(|taken| taken.seconds).collect()),
        cpu: middle(taken.iter().map(|taken| taken.cpu).collect()),
        peak_kib: middle(taken.iter().map(|taken| taken.peak_kib as f64).collect()) as u64,
    }
}
