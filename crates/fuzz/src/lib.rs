//! One function a target: it takes any bytes, and must neither panic nor break the promise that it states. `cargo xtask fuzz`
//! runs them under libFuzzer; `tests/seeds.rs` replays every seed in ordinary tests.
//!
//! A finding is committed as a file of `corpus/<target>`, so that it is a test from then on.

pub mod file_systems;
pub mod machine;
pub mod session;

use agent::config::Words;
use agent::{Agent, Settings, Token};
use axum::Router;
use axum::body::Body;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use std::sync::Arc;
use tower::ServiceExt as _;
use wire::session::{Body as Said, Frame, FromAgent, FromDriver, Link, Receipt, Violation};

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; a folder of `corpus` and a program of `fuzz_targets` belong to each.
pub const TARGETS: [Target; 28] = [
    ("command_body", command_body),
    ("kernel_command_line", kernel_command_line),
    ("virtual_media_config", virtual_media_config),
    ("inventory", machine::inventory),
    ("lookup_reply", lookup_reply),
    ("partition_tables", partition_tables),
    ("config_drive", config_drive),
    ("boot_program", boot_program),
    ("network_data", network_data),
    ("image", image),
    ("qcow2", qcow2),
    ("packed_image", packed_image),
    ("partition_image", file_systems::partition_image),
    ("iso9660", file_systems::iso9660),
    ("checksum_file", checksum_file),
    ("content_range", content_range),
    ("session_frames", session_frames),
    ("session_state", session::session_state),
    ("log_batches", session::log_batches),
    ("enrolment", session::enrolment),
    ("event_stream", event_stream),
    ("nvme_answers", nvme_answers),
    ("ata_answers", ata_answers),
    ("scsi_answers", scsi_answers),
    ("vpd_pages", machine::vpd_pages),
    ("bmc_answers", machine::bmc_answers),
    ("disk_contents", machine::disk_contents),
    ("boot_entries", machine::boot_entries),
];

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Rest {
    runtime: tokio::runtime::Runtime,
    router: Router,
}

#[expect(clippy::unwrap_used, reason = "without its parts a target cannot run at all")]
fn rest() -> Rest {
    let settings = Settings {
        agent_token: Some(Token::new(TOKEN.to_owned())),
        disk_wait_attempts: 1,
        image_retries: 0,
        ..Settings::default()
    };
    let machine = Arc::new(hardware_sim::SimMachine::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (_, dispatcher) = runtime.block_on(async { Agent::builder(machine, settings).build() }).unwrap();
    Rest { runtime, router: agent::api::router(dispatcher, false) }
}

/// The body of `POST /v1/commands`: whatever it is, the agent says what is wrong with it and never fails itself.
pub fn command_body(data: &[u8]) {
    thread_local!(static REST: Rest = rest());
    REST.with(|rest| {
        let uri = format!("/v1/commands/?agent_token={TOKEN}");
        let Ok(request) = Request::post(uri).body(Body::from(data.to_vec())) else { return };
        let Ok(answer) = rest.runtime.block_on(rest.router.clone().oneshot(request));
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    });
}

/// The kernel's command line, and the settings and the network made of it.
pub fn kernel_command_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Settings::resolve(&Words::parse(&text), &Words::default());
    let _ = agent::net::NetParams::from_cmdline(&text);
}

/// Files of virtual media: `parameters.txt` and configuration files.
pub fn virtual_media_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Settings::resolve(&Words::parse(&text), &Words::parse_ini(&text));
}

/// The reply to a lookup, taken over by an agent.
pub fn lookup_reply(data: &[u8]) {
    let Ok(lookup) = wire::json::read::<wire::ramdisk::Lookup>(data) else { return };
    let Ok((agent, _)) = Agent::builder(Arc::new(hardware_sim::SimMachine::default()), Settings::default()).build()
    else {
        return;
    };
    let _ = agent::session::lookup::adopt(&agent, lookup);
}

/// GPT and MBR of a disk that anybody may have written. What was read can be written again and reads the same.
pub fn partition_tables(data: &[u8]) {
    use media::gpt::{Gpt, mbr::Mbr};
    let _ = media::gpt::header_sector_size(data);
    let _ = Mbr::parse(data);
    for sector in [512, 4096] {
        let _ = Gpt::parse_backup(data, 1 << 20, sector);
        let Ok(table) = Gpt::parse_primary(data, sector) else { continue };
        let mut head = data.to_vec();
        if table.write_primary(&mut head).is_ok() {
            assert_eq!(Gpt::parse_primary(&head, sector).ok().as_ref(), Some(&table));
        }
    }
}

/// A config drive as it comes over the wire: base64 of gzip of a file system.
pub fn config_drive(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = disk_image::ConfigDrive::from_wire(text);
    }
    let _ = disk_image::ConfigDrive::from_bytes(data.to_vec().into());
}

/// A UKI that an operator gave us, whose command line is replaced.
pub fn boot_program(data: &[u8]) {
    let _ = media::pe::cmdline(data);
    let _ = media::pe::replace_cmdline(data, "console=ttyS0");
}

/// `network_data.json` of virtual media.
pub fn network_data(data: &[u8]) {
    let _ = agent::net::NetParams::from_network_data(data);
}

/// An image in memory.
struct Memory(bytes::Bytes);

impl disk_image::source::Source for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn open<'a>(
        &'a self,
        at: u64,
        _: Option<&'a disk_image::source::Identity>,
    ) -> BoxFuture<'a, Result<disk_image::source::Opened, disk_image::source::SourceError>> {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        let (rest, length) = (self.0.slice(at..), Some(self.0.len() as u64));
        let identity = disk_image::source::Identity { length, ..Default::default() };
        let stream = futures::stream::iter((!rest.is_empty()).then_some(Ok(rest))).boxed();
        Box::pin(std::future::ready(Ok(disk_image::source::Opened { identity, stream })))
    }
}

/// What an image says about itself, within a small budget. Nothing is written, so this is many times faster than [`image`].
#[expect(clippy::unwrap_used, reason = "without a runtime a target cannot run at all")]
fn look(image: Vec<u8>) {
    thread_local!(static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let (source, patience) = (Memory(image.into()), disk_image::Patience { retries: 0, ..Default::default() });
    let info = RUNTIME.with(|runtime| runtime.block_on(disk_image::info(&source, &patience, 8 << 20)));
    if let Ok(info) = info {
        assert!(info.partitions.iter().all(|partition| partition.offset.checked_add(partition.size).is_some()));
    }
}

/// Header, L1 and L2 tables, and the clusters that the partition table lies in, of what claims to be a qcow2.
pub fn qcow2(data: &[u8]) {
    look([b"QFI\xfb", data].concat());
}

/// Frames of gzip, xz and zstd: the first byte says which it claims to be.
pub fn packed_image(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let magic: &[u8] = match kind % 3 {
        0 => b"\x1f\x8b\x08",
        1 => b"\xfd7zXZ\0",
        _ => b"\x28\xb5\x2f\xfd",
    };
    look([magic, rest].concat());
}

/// A file of digests of anybody. What is found is a digest of the wanted algorithm.
pub fn checksum_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let urls = ["https://images.example/a/disk.raw?x", "file:///b/my%20disk.raw"];
    for algorithm in [None, Some("sha256"), Some("sha512")] {
        let Ok(digest) = disk_image::sums::find(&text, &urls, algorithm, false) else { continue };
        assert!(text.to_ascii_lowercase().contains(&digest.hex()));
        assert!(algorithm.is_none_or(|wanted| digest.to_string().starts_with(wanted)));
    }
}

/// The header of a reply to a resumed request.
pub fn content_range(data: &[u8]) {
    let _ = disk_image::source::content_range(&String::from_utf8_lossy(data));
}

/// Frames of a session in a row, each with its length before it: what a driver hears when the first byte is even, else what
/// an agent does. What can be read says the same when it is written and read again; a link lets each number through once
/// and in order, and repeats nothing that was acknowledged.
pub fn session_frames(data: &[u8]) {
    let Some((side, frames)) = data.split_first() else { return };
    if side % 2 == 0 {
        heard::<wire::rpc::AgentFrame, FromAgent, FromDriver>(frames, FromDriver::Cancel(uuid::Uuid::nil()));
    } else {
        heard::<wire::rpc::DriverFrame, FromDriver, FromAgent>(frames, FromAgent::Listed(0));
    }
}

fn heard<M, P, B>(mut data: &[u8], answer: B)
where
    M: prost::Message + Default + Clone + From<Frame<P>>,
    P: Said + std::fmt::Debug,
    B: Said,
    Frame<P>: TryFrom<M, Error = Violation>,
{
    let mut link = Link::<B>::default();
    let mut heard = 0;
    while let Ok(message) = M::decode_length_delimited(&mut data) {
        let frame = match Frame::<P>::try_from(message) {
            Ok(frame) => frame,
            // What ends a connection begins the next one.
            Err(_) => {
                assert!(link.resume(link.acknowledged()).is_ok());
                continue;
            }
        };
        if let Ok(again) = Frame::<P>::try_from(M::from(frame.clone())) {
            // Arguments are not shown, and numbers in them may lose their last digit. What is unknown or unreadable is not
            // written as it came.
            let (frame, again) = (format!("{:?}", frame.body), format!("{:?}", again.body));
            assert!(frame == again || again == "Unknown", "{frame} became {again}");
        }
        let (is_numbered, before) = (frame.body.is_numbered(), link.acknowledged());
        match link.receive(frame) {
            Ok(Receipt::New(_)) if is_numbered => heard += 1,
            Ok(Receipt::New(_) | Receipt::Again) => {}
            Err(_) => assert!(link.resume(link.acknowledged()).is_ok()),
        }
        assert_eq!(link.received(), heard);
        assert!(link.acknowledged() >= before);
        if link.has_room(answer.size()) {
            link.send(answer.clone());
        }
    }
}

/// Events and lines of a reply that goes on, as the command `ferric` reads them. The first byte says how they are cut; cut
/// otherwise they are the same, and no piece is longer than it may be.
pub fn event_stream(data: &[u8]) {
    use wire::events::{Event, Events, LONGEST, Lines};
    let Some((size, stream)) = data.split_first() else { return };
    let read = |size: usize| -> (Vec<String>, Vec<Event>) {
        let (mut lines, mut events) = (Lines::default(), Events::default());
        let (mut all, mut told) = (Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            lines.push(piece);
            while let Ok(Some(line)) = lines.next_line() {
                told.extend(events.line(&line));
                all.push(line);
            }
        }
        all.extend(lines.rest());
        (all, told)
    };
    let (lines, events) = read(usize::from(*size) + 1);
    assert!(stream.len() > LONGEST || (lines.clone(), events.clone()) == read(stream.len().max(1)));
    assert!(lines.iter().all(|line| !line.contains('\n') && line.len() <= 3 * LONGEST));
    assert!(events.iter().all(|event| !event.data.is_empty() && event.data.len() <= LONGEST));
    for event in events {
        let _ = wire::json::read::<wire::ramdisk::Lookup>(event.data.as_bytes());
    }
}

/// Bytes that a disk held before, among them what firmware takes for a boot sector.
fn old_disk() -> Vec<u8> {
    let mut old = vec![0x5a; 4 << 20];
    old[510..512].copy_from_slice(&[0x55, 0xaa]);
    old
}

/// An image in any format and packing. A write that fails leaves a disk that no firmware boots from.
#[expect(clippy::unwrap_used, reason = "a temporary folder that cannot be written is no finding")]
pub fn image(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("image"), dir.path().join("disk"));
    std::fs::write(&from, data).unwrap();
    std::fs::write(&to, old_disk()).unwrap();
    let access = disk_image::source::Access { file_roots: vec![dir.path().to_owned()], ..Default::default() };
    let source = disk_image::source::from_url(&format!("file://{}", from.display()), &access).unwrap();
    let plan = disk_image::Plan { budget: 8 << 20, ..disk_image::Plan::new(source, None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = disk_image::disk::open(&to).unwrap();
    let result = runtime.block_on(disk_image::write(plan, disk, |_| (), tokio_util::sync::CancellationToken::new()));
    let disk = std::fs::read(&to).unwrap();
    let untouched = disk == old_disk();
    assert!(result.is_ok() || untouched || disk[..512].iter().all(|byte| *byte == 0), "{result:?} left a first sector");
}

/// What an NVMe drive says of itself. A format that is made of it fits into its field.
pub fn nvme_answers(data: &[u8]) {
    use erase::nvme::{Controller, FirmwareSlots, FormatErase, Health, Namespace, SanitizeLog, SelfTestLog};
    let _ = (Controller::parse(data), FirmwareSlots::parse(data), Health::parse(data), SanitizeLog::parse(data));
    if let Ok(log) = SelfTestLog::parse(data) {
        assert!(log.results.len() <= 20 && log.running.is_none_or(|test| test.percent <= 100));
    }
    if let Ok(namespace) = Namespace::parse(data) {
        assert!(erase::nvme::format(1, &namespace, FormatErase::Crypto).cdw10[0] < 1 << 14);
        assert!(namespace.format_remaining.is_none_or(|percent| (1..=100).contains(&percent)));
    }
    assert!(erase::nvme::active_namespaces(data).iter().all(|number| *number != 0));
}

/// What an ATA drive says of itself, and the registers in what a controller says of a command.
pub fn ata_answers(data: &[u8]) {
    use erase::ata::{self, Identify, Registers, SanitizeStatus, SmartData};
    let _ = (Identify::parse(data), SmartData::parse(data), ata::dco_blocks(data), ata::SelfTestResult::newest(data));
    if let Some(registers) = Registers::parse(data) {
        let _ = (SanitizeStatus::of(&registers), ata::smart_verdict(&registers), registers.text());
        assert!(registers.lba >> 48 == 0);
    }
}

/// Sense data and pages of a SCSI device.
pub fn scsi_answers(data: &[u8]) {
    use erase::scsi::{self, BlockLimits, Capacity, Characteristics, Inquiry, Provisioning, Sense};
    let _ = (Inquiry::parse(data), BlockLimits::parse(data), Characteristics::parse(data), Provisioning::parse(data));
    let _ = (Capacity::parse(data), scsi::supported_pages(data), scsi::operation_supported(data));
    let _ = scsi::SelfTestResult::newest(data);
    if let Some(sense) = Sense::parse(data) {
        assert!(sense.key < 16 && !sense.text().is_empty());
    }
    let page = data.first().map_or(0, |first| first & 0x3f);
    if let Ok(parameters) = scsi::log_parameters(page, data) {
        assert!(parameters.iter().map(|parameter| parameter.value.len() + 4).sum::<usize>() <= data.len());
    }
}
