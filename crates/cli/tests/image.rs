//! The built program, as people and scripts use it.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

use media::gpt::mbr::Mbr;
use media::gpt::{Entry, Gpt, Guid};
use sha2::Digest as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: usize = 1 << 20;

struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a file there and returns its address and its digest.
    fn serve(&self, name: &str, bytes: &[u8]) -> (String, String) {
        std::fs::write(self.path(name), bytes).unwrap();
        (self.url(name), format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))))
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }
}

fn ferric(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferric")).arg("image").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A whole disk of 8 MiB with one partition.
fn image() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..8 * MIB).map(|at| (at / 512 % 251) as u8).collect();
    let mut gpt = Gpt::new(Guid([0xd1; 16]), 512, bytes.len() as u64 / 512).unwrap();
    gpt.add(Entry::new(Guid::LINUX_DATA, Guid([2; 16]), 2048..=14335, "root")).unwrap();
    Mbr { signature: 7, ..Mbr::protective(gpt.disk_sectors()) }.write(&mut bytes).unwrap();
    gpt.write_primary(&mut bytes).unwrap();
    gpt.write_backup(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_packed_image_becomes_a_file_of_its_size_and_verifies() {
    let lab = Lab::new();
    let plain = image();
    let (url, digest) = lab.serve("disk.raw.zst", &zstd::encode_all(&plain[..], 3).unwrap());
    let target = lab.path("disk");
    let written = ferric(&["write", &url, show(&target), "--checksum", &digest, "--verify", "full", "--json"]);
    assert_exit(&written, 0);
    let stdout = text(&written.stdout);
    assert!(stdout.lines().last().unwrap().contains("\"event\":\"done\""), "{stdout}");
    assert!(std::fs::read(&target).unwrap() == plain);

    assert_exit(&ferric(&["verify", &url, show(&target), "--checksum", &digest]), 0);
    let mut spoilt = plain;
    spoilt[3 * MIB + 5] ^= 1;
    std::fs::write(&target, spoilt).unwrap();
    let differs = ferric(&["verify", &url, show(&target), "--checksum", &digest]);
    assert_exit(&differs, 6);
    assert!(text(&differs.stderr).contains("differs from the image at byte 3145733"), "{}", text(&differs.stderr));
}

#[test]
fn a_qcow2_is_told_and_written() {
    let lab = Lab::new();
    let plain = image();
    lab.serve("disk.raw", &plain);
    let converted = Command::new("qemu-img")
        .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
        .args([lab.path("disk.raw"), lab.path("disk.qcow2")])
        .status();
    assert!(converted.unwrap().success(), "qemu-img; install qemu-utils");
    let url = lab.url("disk.qcow2");
    let info = ferric(&["info", &url, "--json"]);
    assert_exit(&info, 0);
    for part in ["\"format\":\"qcow2\"", "\"packing\":\"none\"", "\"virtual_size\":8388608", "\"name\":\"root\""] {
        assert!(text(&info.stdout).contains(part), "{part}: {}", text(&info.stdout));
    }
    let target = lab.path("disk");
    assert_exit(&ferric(&["write", &url, show(&target), "--format", "qcow2"]), 0);
    assert!(std::fs::read(&target).unwrap() == plain);
    let declared = ferric(&["write", &url, show(&target), "--yes", "--format", "raw"]);
    assert_exit(&declared, 4);
    assert!(text(&declared.stderr).contains("declared as raw, but is qcow2"), "{}", text(&declared.stderr));
}

#[test]
fn a_wrong_digest_leaves_no_table_on_what_existed_and_no_file_that_was_made() {
    let lab = Lab::new();
    let plain = image();
    let (url, _) = lab.serve("disk.raw", &plain);
    let (_, wrong) = lab.serve("other", b"something else");
    let (made, old) = (lab.path("made"), lab.path("old"));
    assert_exit(&ferric(&["write", &url, show(&made), "--checksum", &wrong]), 4);
    assert!(!made.exists());
    std::fs::write(&old, &plain).unwrap();
    let failed = ferric(&["write", &url, show(&old), "--yes", "--checksum", &wrong, "--json"]);
    assert_exit(&failed, 4);
    let stderr = text(&failed.stderr);
    assert!(stderr.contains("it is left without a partition table") && stderr.contains("expected was"), "{stderr}");
    let last = text(&failed.stdout).lines().last().unwrap().to_owned();
    for part in ["\"event\":\"error\"", "\"exit\":4", "\"kind\":\"image\""] {
        assert!(last.contains(part), "{part}: {last}");
    }
    let bytes = std::fs::read(&old).unwrap();
    assert!(bytes[..MIB].iter().chain(&bytes[7 * MIB..]).all(|byte| *byte == 0));
}

#[test]
fn what_exists_is_overwritten_only_on_request() {
    let lab = Lab::new();
    let (url, digest) = lab.serve("disk.raw", &image());
    let target = lab.path("disk");
    std::fs::write(&target, vec![9; 8 * MIB]).unwrap();
    let refused = ferric(&["write", &url, show(&target), "--checksum", &digest]);
    assert_exit(&refused, 2);
    assert!(text(&refused.stderr).contains("Give --yes"), "{}", text(&refused.stderr));
    assert!(std::fs::read(&target).unwrap().iter().all(|byte| *byte == 9));
    assert_exit(&ferric(&["write", &url]), 2);
}

#[test]
fn an_image_is_not_written_over_itself() {
    let lab = Lab::new();
    let (url, digest) = lab.serve("disk.raw", &image());
    std::fs::hard_link(lab.path("disk.raw"), lab.path("other")).unwrap();
    for target in ["disk.raw", "other"] {
        let refused = ferric(&["write", &url, show(&lab.path(target)), "--yes", "--checksum", &digest]);
        assert_exit(&refused, 2);
        assert!(text(&refused.stderr).contains("is the image itself"), "{}", text(&refused.stderr));
    }
    assert!(std::fs::read(lab.path("disk.raw")).unwrap() == image());
}

#[test]
fn a_checksum_may_be_the_address_of_a_file_of_digests() {
    let lab = Lab::new();
    let (url, digest) = lab.serve("disk.raw", &image());
    let line = format!("{}  disk.raw\n{}  other\n", digest.trim_start_matches("sha256:"), "0".repeat(64));
    let (sums, _) = lab.serve("SHA256SUMS", line.as_bytes());
    assert_exit(&ferric(&["write", &url, show(&lab.path("disk")), "--checksum", &sums]), 0);
    let (others, _) = lab.serve("OTHERS", format!("{}  other\n{}  x\n", "0".repeat(64), "1".repeat(64)).as_bytes());
    let failed = ferric(&["write", &url, show(&lab.path("new")), "--checksum", &others]);
    assert_exit(&failed, 3);
    assert!(text(&failed.stderr).contains("holds no digest for disk.raw"), "{}", text(&failed.stderr));
}

#[test]
fn a_signal_in_the_middle_ends_in_order_and_says_what_is_on_the_target() {
    let lab = Lab::new();
    let plain = image();
    let target = lab.path("disk");
    std::fs::write(&target, &plain).unwrap();
    // A server that sends half of the image and then nothing, until the client goes away.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk.raw", listener.local_addr().unwrap());
    let half = plain[..4 * MIB].to_vec();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        request.find(String::is_empty).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 * MIB);
        stream.write_all(&[head.as_bytes(), &half].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut write = Command::new(env!("CARGO_BIN_EXE_ferric"))
        .args(["image", "write", &url, show(&target), "--yes", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(write.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("\"done\":4194304")).unwrap();
    let kill = Command::new("kill").args(["-INT", &write.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let last = lines.last().unwrap();
    let output = write.wait_with_output().unwrap();
    assert_exit(&output, 7);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("without a partition table and does not boot: cancelled"), "{stderr}");
    assert!(last.contains("\"target\":\"it is left without"), "{last}");
    assert!(std::fs::read(&target).unwrap()[..MIB].iter().all(|byte| *byte == 0));
    server.join().unwrap();
}

#[test]
fn a_dry_run_says_what_is_overwritten_and_writes_nothing() {
    let lab = Lab::new();
    let (url, digest) = lab.serve("image.raw", &image());
    let disk = lab.path("disk");
    let dry = |more: &[&str]| {
        let output = ferric(&[&["write", &url, show(&disk), "--checksum", &digest, "--dry-run"], more].concat());
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    assert!(dry(&[]).contains("is not there; it is made as a file"));
    assert!(!disk.exists());
    std::fs::write(&disk, vec![0x5a; 12 * MIB]).unwrap();
    assert!(dry(&["--yes"]).contains("is overwritten: a file of 12.0 MiB"));
    assert!(dry(&["--json"]).contains("\"event\":\"dry_run\""));
    assert!(std::fs::read(&disk).unwrap() == vec![0x5a; 12 * MIB]);
}
