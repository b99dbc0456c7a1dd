//! qcow2 images as QEMU's own tool makes them, against what the same tool reads from them.

use super::image::*;
use super::server::{Answer, Server};
use crate::disk::fake::FakeDisk;
use crate::qcow2::Qcow2Error;
use crate::source::{Access, from_url};
use crate::{Cause, DiskState, Format, ImageError, Plan};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with a raw image, and qcow2 images made from it.
pub(super) struct Lab {
    dir: tempfile::TempDir,
    pub(super) raw: Vec<u8>,
}

impl Lab {
    pub(super) fn new(raw: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("raw"), &raw).unwrap();
        Self { dir, raw }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The raw image as a qcow2 with these options.
    pub(super) fn convert(&self, options: &str, compressed: bool) -> Vec<u8> {
        let (raw, to) = (self.path("raw"), self.path("qcow2"));
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "qcow2"]).args(compressed.then_some("-c"));
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        run(command.arg(raw).arg(&to));
        std::fs::read(to).unwrap()
    }

    /// What QEMU's tool reads from a qcow2.
    pub(super) fn flat(&self, qcow2: &[u8]) -> Vec<u8> {
        let (from, to) = (self.path("from"), self.path("flat"));
        std::fs::write(&from, qcow2).unwrap();
        run(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(from).arg(&to));
        std::fs::read(to).unwrap()
    }
}

pub(super) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; install qemu-utils"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command of `qemu-io` on a qcow2.
fn qemu_io(path: &Path, command: &str) {
    run(Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(path));
}

/// A disk image with noise, long zeros, short zeros, and parts that compress well.
pub(super) fn mixed_image(mib: usize) -> Vec<u8> {
    let mut image = gpt_image(mib, 512);
    image[2 * MIB..3 * MIB + 70_000].fill(0);
    image[3 * MIB + 200_000..4 * MIB].fill(0x41);
    for start in (4 * MIB..5 * MIB).step_by(20_000) {
        image[start..start + 9_000].fill(0);
    }
    image
}

pub(super) fn qcow2_plan(bytes: &[u8]) -> Plan {
    let mut plan = plan(bytes);
    plan.format = Some(Format::Qcow2);
    plan
}

async fn assert_written(name: &str, qcow2: &[u8], image: &[u8]) {
    let disk = FakeDisk::new(old_disk(image.len() / MIB + 3), 512);
    let written = write(qcow2_plan(qcow2), disk.clone()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    assert_holds(&disk.bytes(), image, 2);
    assert_eq!((written.bytes_in, written.bytes_out), (qcow2.len() as u64, image.len() as u64), "{name}");
}

async fn assert_kinds(kinds: Vec<(String, bool)>) {
    let lab = Lab::new(mixed_image(7));
    for (options, compressed) in kinds {
        let qcow2 = lab.convert(&options, compressed);
        assert_written(&format!("{options} {compressed}"), &qcow2, &lab.raw).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_every_size_and_compression_are_written() {
    let mut kinds = Vec::new();
    for cluster in ["512", "1k", "4k", "64k", "256k", "1M", "2M"] {
        for compressed in [false, true] {
            kinds.push((format!("cluster_size={cluster}"), compressed));
        }
        kinds.push((format!("cluster_size={cluster},compression_type=zstd"), true));
    }
    assert_kinds(kinds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_preallocation_and_extended_l2_entries_are_written() {
    let mut kinds = Vec::new();
    for preallocation in ["off", "metadata", "falloc", "full"] {
        kinds.push((format!("preallocation={preallocation}"), false));
        kinds.push((format!("preallocation={preallocation},cluster_size=2M"), false));
    }
    for cluster in ["16k", "64k", "2M"] {
        kinds.push((format!("extended_l2=on,cluster_size={cluster}"), false));
        kinds.push((format!("extended_l2=on,cluster_size={cluster}"), true));
        kinds.push((format!("extended_l2=on,compression_type=zstd,cluster_size={cluster}"), true));
        kinds.push((format!("extended_l2=on,preallocation=metadata,cluster_size={cluster}"), false));
    }
    assert_kinds(kinds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_every_width_of_refcounts_are_written() {
    let mut kinds: Vec<(String, bool)> = Vec::new();
    for options in ["compat=0.10", "compat=0.10,cluster_size=512", "lazy_refcounts=on"] {
        kinds.push((options.into(), false));
        kinds.push((options.into(), true));
    }
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        kinds.push((format!("refcount_bits={bits}"), false));
    }
    assert_kinds(kinds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_written_to_at_random_with_snapshots_and_zeros_are_read_as_qemu_does() {
    let lab = Lab::new(mixed_image(7));
    for options in ["cluster_size=4k", "", "extended_l2=on,cluster_size=32k", "compat=0.10"] {
        for compressed in [false, true] {
            lab.convert(options, compressed);
            let path = lab.path("qcow2");
            qemu_io(&path, "write -P 0x5a 5M 300k");
            run(Command::new("qemu-img").args(["snapshot", "-c", "one"]).arg(&path));
            // Not on the borders of clusters, backwards, over compressed ones; zeros with and without their cluster.
            for (i, at) in [6_000_000, 3_500_032, 4_300_288, 1_100_800, 5_000_192].into_iter().enumerate() {
                qemu_io(&path, &format!("write -P {} {} 5632", i + 1, at / 512 * 512));
            }
            qemu_io(&path, "write -z 4100k 900k");
            qemu_io(&path, "discard 5500k 256k");
            if !options.contains("0.10") {
                qemu_io(&path, "write -z -u 5900k 70k");
            }
            run(Command::new("qemu-img").args(["snapshot", "-c", "two"]).arg(&path));
            qemu_io(&path, "write -P 0x77 3M 1234k");
            let qcow2 = std::fs::read(&path).unwrap();
            let flat = lab.flat(&qcow2);
            assert!(flat != lab.raw);
            assert_written(&format!("{options} {compressed}"), &qcow2, &flat).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dirty_image_is_read_and_a_size_within_a_cluster_too() {
    let mut raw = mixed_image(7);
    raw.truncate(7 * MIB - 33 * 512 - 512);
    let lab = Lab::new(raw.clone());
    for options in ["cluster_size=2M", "cluster_size=64k", "cluster_size=512"] {
        for compressed in [false, true] {
            let mut qcow2 = lab.convert(options, compressed);
            // The dirty bit: refcounts may be wrong; nobody needs them to read.
            qcow2[79] |= 1;
            assert_written(options, &qcow2, &raw).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_44082_an_image_that_is_not_declared_is_recognised_and_a_wrong_declaration_refused() {
    let lab = Lab::new(mixed_image(7));
    let qcow2 = lab.convert("", true);
    let disk = FakeDisk::new(old_disk(10), 512);
    write(plan(&qcow2), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &lab.raw, 2);
    for (bytes, format) in [(&qcow2, Format::Raw), (&lab.raw, Format::Qcow2)] {
        let mut plan = plan(bytes);
        plan.format = Some(format);
        let disk = FakeDisk::new(old_disk(10), 512);
        let error = write(plan, disk.clone()).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Image(ImageError::Declared { .. })), "{error:?}");
        assert_eq!((error.state, disk.bytes() == old_disk(10)), (DiskState::Untouched, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_qcow2_is_unpacked_twice() {
    let lab = Lab::new(mixed_image(7));
    let packed = zstd(&lab.convert("", false));
    let disk = FakeDisk::new(old_disk(10), 512);
    let mut plan = plan(&packed);
    write(plan.clone(), disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &lab.raw, 2);
    plan.format = Some(Format::Qcow2);
    write(plan, disk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pass_with_ranges_and_more_without() {
    let lab = Lab::new(mixed_image(7));
    let qcow2 = lab.convert("cluster_size=64k", false);
    for ignore_range in [false, true] {
        let server = Server::start(qcow2.clone(), move |_| Answer { ignore_range, ..Answer::good() }).await;
        let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), Some(sha256(&qcow2)));
        plan.format = Some(Format::Qcow2);
        impatient(&mut plan);
        let disk = FakeDisk::new(old_disk(10), 512);
        write(plan, disk.clone()).await.unwrap();
        assert_holds(&disk.bytes(), &lab.raw, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_anywhere_are_resumed() {
    let lab = Lab::new(mixed_image(7));
    let qcow2 = lab.convert("", true);
    for cut in (1..qcow2.len()).step_by(300 << 10) {
        let server =
            Server::start(qcow2.clone(), move |n| Answer { cut: (n < 8).then_some(cut), ..Answer::good() }).await;
        let mut plan = Plan::new(from_url(&server.url, &Access::default()).unwrap(), Some(sha256(&qcow2)));
        plan.format = Some(Format::Qcow2);
        impatient(&mut plan);
        let disk = FakeDisk::new(old_disk(10), 512);
        write(plan, disk.clone()).await.unwrap_or_else(|error| panic!("{cut}: {error:?}"));
        assert_holds(&disk.bytes(), &lab.raw, 2);
    }
}

/// The first requests get one file and the stream another, both well formed.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_differ_from_those_that_were_read_first_are_a_digest_failure() {
    let lab = Lab::new(mixed_image(7));
    let qcow2 = lab.convert("", false);
    let l1 = u64::from_be_bytes(qcow2[40..48].try_into().unwrap()) as usize;
    let l2 = (u64::from_be_bytes(qcow2[l1..l1 + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00) as usize;
    // Two clusters of the first table change places.
    let mut lie = qcow2.clone();
    let (one, other) = (l2 + 8 * 70, l2 + 8 * 80);
    for i in 0..8 {
        lie.swap(one + i, other + i);
    }
    assert!(lie != qcow2);
    let source = std::sync::Arc::new(TwoFaced { first: lie.into(), then: qcow2.clone().into() });
    let mut plan = Plan::new(source, Some(sha256(&qcow2)));
    plan.format = Some(Format::Qcow2);
    impatient(&mut plan);
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(plan, disk.clone()).await.unwrap_err();
    let table = matches!(error.cause, Cause::Qcow2(Qcow2Error::Differs { what: "L2 table", at }) if at == l2 as u64);
    assert!(table, "{error:?}");
    // The table lies before the data.
    assert_eq!(error.state, DiskState::Untouched);
}

/// Gives one content until the image itself is read, then another.
struct TwoFaced {
    first: bytes::Bytes,
    then: bytes::Bytes,
}

impl crate::source::Source for TwoFaced {
    fn name(&self) -> &str {
        "two-faced"
    }

    fn open<'a>(
        &'a self,
        at: u64,
        known: Option<&'a crate::source::Identity>,
    ) -> futures::future::BoxFuture<'a, Result<crate::source::Opened, crate::source::SourceError>> {
        let bytes = if at == 0 && known.is_some() { &self.then } else { &self.first };
        let source = Memory(bytes.clone());
        Box::pin(async move { source.open(at, None).await })
    }
}

/// The most memory that this process ever had, bytes. Each test is a process of its own.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_image_of_20_gib_is_written_within_the_budget() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = 20 << 30;
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2, disk) = (dir.path().join("raw"), dir.path().join("qcow2"), dir.path().join("disk"));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&raw).unwrap();
    file.set_len(SIZE).unwrap();
    let mut gpt = media::gpt::Gpt::new(media::gpt::Guid([7; 16]), 512, SIZE / 512).unwrap();
    let root = 2048..=SIZE / 512 - 2049;
    gpt.add(media::gpt::Entry::new(media::gpt::Guid::LINUX_DATA, media::gpt::Guid([8; 16]), root, "root")).unwrap();
    let mut head = vec![0; MIB];
    media::gpt::mbr::Mbr::protective(gpt.disk_sectors()).write(&mut head).unwrap();
    gpt.write_primary(&mut head).unwrap();
    file.write_all_at(&head, 0).unwrap();
    // Scattered, so that every L2 table is in use and few clusters lie together.
    let data = noise(64 << 10, 5);
    let places: Vec<u64> = (0..800).map(|i| (1 << 20) + i * 25_690_112).collect();
    for &place in &places {
        file.write_all_at(&data, place).unwrap();
    }
    for compressed in [false, true] {
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args(compressed.then_some("-c"));
        run(convert.arg(&raw).arg(&qcow2));
        let access = Access { file_roots: vec![dir.path().to_owned()], ..Access::default() };
        let url = format!("file://{}", qcow2.display());
        let before = peak();
        let mut plan = Plan::new(from_url(&url, &access).unwrap(), None);
        plan.format = Some(Format::Qcow2);
        let _ = std::fs::remove_file(&disk);
        let target = crate::disk::FileDisk::create(&disk, SIZE + (1 << 30), 512).unwrap();
        let written = write(plan, target).await.unwrap();
        assert_eq!((written.bytes_out, written.partitions.len()), (SIZE, 1));
        assert!(peak() - before < crate::BUDGET, "{} before, {} after", before, peak());
        let (disk, mut found) = (std::fs::File::open(&disk).unwrap(), vec![0; 3 * data.len()]);
        for &place in &places[1..] {
            disk.read_exact_at(&mut found, place - data.len() as u64).unwrap();
            assert!(found[data.len()..2 * data.len()] == data[..], "{place}");
            assert!(found[..data.len()].iter().chain(&found[2 * data.len()..]).all(|&byte| byte == 0), "{place}");
        }
    }
}
