//! One image on one target: the ways to write it, and the bars for them.

use super::bars::{Bar, Bars};
use super::once::{Role, Step, Taken, Way, median};
use super::target::Target;
use super::{BUDGET, Bench, MIB, words};
use crate::cmd;
use anyhow::{Context as _, Result};
use std::process::Command;

/// Names of ways that are compared with each other.
const OURS_LOCAL: &str = "ferric image write file://";
const OURS_UNCHECKED: &str = "ferric image write file://, no digest";
const CONVERT: &str = "convert alone";
const CONVERT_BESIDE: &str = "convert, openssl beside";
const HASH: &str = "hash alone";
const DOWNLOAD: &str = "download alone";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// Not packed.
    Raw,
    /// One zstd frame.
    Zst,
    /// Many zstd frames.
    Frames,
    /// qcow2, as fast as it comes.
    Qcow2,
    /// qcow2 of zlib clusters, as distributions publish theirs.
    Zlib,
    /// qcow2 from a source that takes as long to send it as it takes to convert.
    Slow,
    /// Peak memory of a large, sparse image.
    Memory,
}

impl Kind {
    /// Those whose speed is measured.
    pub(super) const SPEED: [Self; 6] = [Self::Raw, Self::Zst, Self::Frames, Self::Qcow2, Self::Zlib, Self::Slow];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zst => "raw.zst, one frame",
            Self::Frames => "raw.zst, many frames",
            Self::Qcow2 => "qcow2",
            Self::Zlib => "qcow2, zlib clusters",
            Self::Slow => "qcow2, slow source",
            Self::Memory => "memory",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Raw => "disk.raw",
            Self::Zst => "disk.raw.zst",
            Self::Frames => "frames.raw.zst",
            Self::Qcow2 | Self::Slow => "disk.qcow2",
            Self::Zlib => "zlib.qcow2",
            Self::Memory => "sparse.raw.zst",
        }
    }
}

pub(super) struct Case<'a> {
    pub(super) bench: &'a Bench,
    pub(super) kind: Kind,
    pub(super) target: &'a Target,
}

/// A way, and the median of its runs.
type Measured = (Way, Taken);

impl Case<'_> {
    pub(super) fn run(&self, bars: &mut Bars) -> Result<()> {
        let bytes = std::fs::metadata(self.file())?.len();
        if self.kind == Kind::Slow {
            self.throttle(bytes)?;
        }
        let ways = self.ways(&self.digest()?);
        let mut taken = vec![Vec::new(); ways.len()];
        for run in 0..self.bench.runs {
            for (way, taken) in ways.iter().zip(&mut taken).filter(|(way, _)| run < way.role.runs(self.bench.runs)) {
                taken.push(self.once(way).with_context(|| way.name)?);
            }
        }
        let measured: Vec<Measured> = ways.into_iter().zip(taken.iter().map(|taken| median(taken))).collect();
        let title = format!("{} on a {}", self.kind.title(), self.target.title());
        println!("\n{title}, {:.0} MiB to transport", bytes as f64 / MIB as f64);
        self.print(&measured);
        judge(self.kind, &title, &measured, bars);
        Ok(())
    }

    fn file(&self) -> String {
        self.bench.path(self.kind.file())
    }

    fn digest(&self) -> Result<String> {
        let digest = cmd::output(Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(self.file()))?;
        Ok(format!("sha256:{}", digest.split_whitespace().next().unwrap_or_default()))
    }

    /// Makes the source so slow that it sends the image in the time that it takes to convert it.
    fn throttle(&self, bytes: u64) -> Result<()> {
        let alone = self.convert_alone();
        let taken = (0..3).map(|_| self.once(&alone)).collect::<Result<Vec<_>>>()?;
        self.bench.server.throttle((bytes as f64 / median(&taken).seconds) as u64);
        Ok(())
    }

    fn once(&self, way: &Way) -> Result<Taken> {
        if !way.writes {
            return way.run(&self.bench.folder);
        }
        self.target.fill()?;
        let taken = way.run(&self.bench.folder)?;
        self.target.holds(&self.bench.path("disk.raw"))?;
        Ok(taken)
    }

    fn convert(&self, from: &str) -> Vec<String> {
        words(&["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", from, &self.target.path()])
    }

    fn convert_alone(&self) -> Way {
        Way::one(CONVERT, Role::Other, self.convert(&self.file()), true)
    }

    fn ways(&self, digest: &str) -> Vec<Way> {
        let (bench, file) = (self.bench, self.file());
        let slow = if self.kind == Kind::Slow { "slow/" } else { "" };
        let url = format!("{}/{slow}{}", bench.server.url, self.kind.file());
        let (target, fifo, download) = (self.target.path(), bench.path("fifo"), bench.path("got"));
        let local = format!("file://{file}");
        let unchecked = |from: &str| words(&[&bench.ferric, "image", "write", from, &target, "--yes", "--json"]);
        let write = |from: &str| [unchecked(from), words(&["--checksum", digest])].concat();
        let sha = |of: &str| words(&["openssl", "dgst", "-sha256", of]);
        let dd = |more: &[&str]| {
            let of = format!("of={target}");
            let base = ["dd", "bs=1M", "iflag=fullblock", "conv=notrunc", "status=none", self.target.dd_flag(), &of];
            [words(&base), words(more)].concat()
        };
        let curl = words(&["curl", "-sf", &url]);
        let mut ways = vec![Way::one("ferric image write", Role::Ours, write(&url), true)];
        if self.kind != Kind::Slow {
            ways.push(Way::one(OURS_LOCAL, Role::Other, write(&local), true));
        }
        if matches!(self.kind, Kind::Qcow2 | Kind::Zlib | Kind::Slow) {
            // The digest is made while the file arrives: no order of the three is faster.
            let save = words(&["dd", "bs=1M", "iflag=fullblock", "status=none", &format!("of={download}")]);
            let got = Step { pipeline: vec![curl, words(&["tee", &fifo]), save], beside: Some(sha(&fifo)) };
            let steps = vec![got, Step { pipeline: vec![self.convert(&download)], beside: None }];
            let name = "curl, openssl beside; qemu-img convert";
            ways.push(Way { name, role: Role::Peer, steps, writes: true });
            ways.push(self.convert_alone());
            if self.kind != Kind::Slow {
                ways.push(Way::one(OURS_UNCHECKED, Role::Other, unchecked(&local), true));
                // Nothing ties what is hashed to what is written, but no other program does both.
                let steps = vec![Step { pipeline: vec![self.convert(&file)], beside: Some(sha(&file)) }];
                ways.push(Way { name: CONVERT_BESIDE, role: Role::Other, steps, writes: true });
            }
        } else {
            let packed = self.kind != Kind::Raw;
            let mut pipeline = vec![curl, words(&["tee", &fifo])];
            pipeline.extend(packed.then(|| words(&["zstd", "-dcq"])));
            pipeline.push(dd(&[]));
            let name = if packed { "curl | zstd -d | dd, openssl beside" } else { "curl | dd, openssl beside" };
            let steps = vec![Step { pipeline, beside: Some(sha(&fifo)) }];
            ways.push(Way { name, role: Role::Peer, steps, writes: true });
            if packed {
                ways.push(Way::one("unpack alone", Role::Stage, words(&["zstd", "-tq", &file]), false));
            }
        }
        let copy = dd(&[&format!("if={}", bench.path("disk.raw"))]);
        ways.push(Way::one(HASH, Role::Stage, sha(&file), false));
        ways.push(Way::one("write alone", Role::Stage, copy, true));
        ways.push(Way::one(DOWNLOAD, Role::Stage, words(&["curl", "-sf", "-o", "/dev/null", &url]), false));
        ways
    }

    fn print(&self, measured: &[Measured]) {
        println!("{:<40} {:>8} {:>8} {:>9} {:>7}", "", "MB/s", "CPU s", "peak MiB", "ours ÷");
        let bytes = self.bench.size as f64 * MIB as f64;
        let ours = measured.first().map_or(0.0, |(_, taken)| taken.seconds);
        for (way, taken) in measured {
            let (rate, peak) = (bytes / 1e6 / taken.seconds, taken.peak_kib as f64 / 1024.0);
            let ratio = taken.seconds / ours;
            println!("{:<40} {rate:>8.0} {:>8.2} {peak:>9.1} {ratio:>7.2}", way.name, taken.cpu);
        }
    }
}

/// The bars of a case, and how far it is from what nobody can pass.
fn judge(kind: Kind, title: &str, measured: &[Measured], bars: &mut Bars) {
    let ours = measured.first().map(|(_, taken)| *taken).unwrap_or_default();
    let of = |role| measured.iter().filter(move |(way, _)| way.role == role);
    let named = |name: &str| measured.iter().find(|(way, _)| way.name == name).map_or(0.0, |(_, taken)| taken.seconds);
    let limit = of(Role::Stage).max_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
    if let Some((way, taken)) = limit {
        println!("bare limiting stage: {}; ours has {:.2} of its rate", way.name, taken.seconds / ours.seconds);
    }
    let peer = of(Role::Peer).map(|(_, taken)| taken.seconds).fold(f64::INFINITY, f64::min);
    match kind {
        Kind::Raw | Kind::Zst | Kind::Frames => {
            bars.add(format!("{title}: rate, fastest peer with a digest is 1"), peer / ours.seconds, Bar::Least(0.95));
        }
        Kind::Qcow2 | Kind::Zlib => {
            let (hash, convert) = (named(HASH), named(CONVERT));
            // Who verifies a digest has to hash, and who is asked for a file over HTTP has to have it sent.
            let limit = |stages: &[&str]| {
                let slowest = stages.iter().copied().max_by(|a, b| named(a).total_cmp(&named(b))).unwrap_or(HASH);
                (named(slowest) > convert).then(|| format!("{slowest} has {:.2}", convert / named(slowest)))
            };
            let beside = named(CONVERT_BESIDE);
            let (hash, with, without) = (convert / hash, convert / beside, convert / named(OURS_UNCHECKED));
            println!(
                "beside convert alone: hash alone {hash:.2}, convert with openssl beside {with:.2}, ours without a digest {without:.2}"
            );
            let bar = |what: &str| format!("{title}: rate, {what} is 1");
            let local = named(OURS_LOCAL);
            bars.add_limited(bar("convert alone"), convert / ours.seconds, Bar::Least(1.0), limit(&[HASH, DOWNLOAD]));
            bars.add_limited(bar("convert alone (file://)"), convert / local, Bar::Least(1.0), limit(&[HASH]));
            bars.add(bar("convert and openssl (file://)"), beside / local, Bar::Least(1.0));
            bars.add(bar("download then convert"), peer / ours.seconds, Bar::Least(1.0));
        }
        Kind::Slow => {
            let (download, convert) = (named(DOWNLOAD), named(CONVERT));
            println!("download alone takes {:.2} of the time of convert alone", download / convert);
            bars.add(format!("{title}: rate, download then convert is 1"), peer / ours.seconds, Bar::Least(1.7));
        }
        Kind::Memory => {}
    }
    bars.add(format!("{title}: peak memory, MiB"), ours.peak_kib as f64 / 1024.0, Bar::Most(BUDGET as f64));
}
