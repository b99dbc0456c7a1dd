use super::*;
use hardware::{
    Bus, DeviceError, DeviceId, Limits, NvmeCommand, NvmeCompletion, ScsiCompletion, StepKind, Transfer, Unattended,
};
use hardware_sim::SimMachine;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How a drive takes firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Runs it at once.
    AtOnce,
    /// Runs it after a reset of the controller.
    AfterReset,
    /// Runs it after the next start of the machine.
    AfterReboot,
    /// Says yes, and keeps the old one.
    Lies,
    /// The same, and says that the next start of the machine changes that.
    Promises,
    /// Finds the image invalid when it is committed.
    Refuses,
    /// Has no such commands.
    Cannot,
}

#[derive(Debug)]
struct State {
    running: String,
    stored: Option<String>,
    /// The slot that the drive says it will run next; 0 where it does not say.
    next: u8,
    image: Vec<u8>,
    changes: usize,
}

/// An NVMe drive whose firmware is the first eight bytes of its image.
struct Drive {
    id: DeviceId,
    manner: Manner,
    state: Mutex<State>,
}

impl Drive {
    fn reset(&self) {
        let mut state = self.state.lock().unwrap();
        if let Some(stored) = state.stored.clone().filter(|_| self.manner == Manner::AfterReset) {
            state.running = stored;
        }
    }

    fn commit(&self, state: &mut State) -> u16 {
        let new = String::from_utf8_lossy(&state.image[..8]).trim().to_owned();
        match self.manner {
            Manner::Refuses => return 0x107,
            Manner::Lies => return 0,
            Manner::Promises => return 0x10b,
            Manner::AtOnce => state.running.clone_from(&new),
            Manner::AfterReset | Manner::AfterReboot | Manner::Cannot => {}
        }
        state.stored = Some(new);
        if self.manner == Manner::AfterReboot { 0x10b } else { 0 }
    }
}

fn put(buffer: &mut [u8], at: usize, text: &str, length: usize) {
    buffer[at..at + length].fill(b' ');
    buffer[at..at + text.len()].copy_from_slice(text.as_bytes());
}

impl hardware::Device for Drive {
    fn id(&self) -> &DeviceId {
        &self.id
    }
    fn bus(&self) -> Bus {
        Bus::Nvme { namespace: 1 }
    }
    fn limits(&self) -> Limits {
        Limits::default()
    }
    fn nvme_admin(&self, c: &NvmeCommand, data: Transfer<'_>, _: Duration) -> Result<NvmeCompletion, DeviceError> {
        let mut state = self.state.lock().unwrap();
        let status = match (c.opcode, data) {
            (0x06, Transfer::FromDevice(buffer)) => {
                put(buffer, 4, "S1", 20);
                put(buffer, 24, "ACME 1500", 40);
                put(buffer, 64, &state.running, 8);
                buffer[256] = u8::from(self.manner != Manner::Cannot) << 2;
                buffer[260] = 3 << 1 | u8::from(self.manner == Manner::AtOnce) << 4;
                buffer[319] = 1;
                0
            }
            (0x02, Transfer::FromDevice(buffer)) if c.cdw10[0] & 0xff == 3 => {
                buffer[0] = 1 | state.next << 4;
                put(buffer, 8, &state.running, 8);
                if let Some(stored) = &state.stored {
                    put(buffer, 16, stored, 8);
                }
                0
            }
            (0x11, Transfer::ToDevice(part)) => {
                state.changes += 1;
                assert_eq!(c.cdw10[0] as usize + 1, part.len() / 4);
                assert_eq!(c.cdw10[1] as usize * 4, state.image.len(), "pieces come in order");
                state.image.extend(part);
                0
            }
            (0x10, Transfer::None) => {
                state.changes += 1;
                self.commit(&mut state)
            }
            other => panic!("{other:?}"),
        };
        Ok(NvmeCompletion { status, result: 0 })
    }
    fn scsi(&self, _: &[u8], _: Transfer<'_>, _: Duration) -> Result<ScsiCompletion, DeviceError> {
        panic!("a SCSI command to an NVMe drive")
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), DeviceError> {
        panic!("data of a disk is read")
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DeviceError> {
        panic!("data of a disk is written")
    }
    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        panic!("data of a disk is zeroed")
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        panic!("data of a disk is discarded")
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

fn machine(manner: Manner) -> (SimMachine, Arc<Drive>) {
    machine_with(manner, None, 0)
}

/// A machine with a drive whose second slot holds `stored` from earlier, and which names the slot `next`.
fn machine_with(manner: Manner, stored: Option<&str>, next: u8) -> (SimMachine, Arc<Drive>) {
    let machine = SimMachine::new();
    let disk = hardware_sim::disk("/dev/nvme0n1", 8 << 30);
    let stored = stored.map(str::to_owned);
    let state = State { running: "1.9".to_owned(), stored, next, image: Vec::new(), changes: 0 };
    let drive = Arc::new(Drive { id: DeviceId::of(&disk), manner, state: Mutex::new(state) });
    machine.add_disk(disk);
    machine.set_device("/dev/nvme0n1", drive.clone());
    let other = drive.clone();
    machine.set_reset("/dev/nvme0n1", move || other.reset());
    (machine, drive)
}

fn image(version: &str) -> Vec<u8> {
    let mut image = format!("{version:8}").into_bytes();
    image.resize(10_000, 7);
    image
}

/// Installs on a drive of this manner, without a network.
fn installed(manner: Manner) -> (Result<Installed, String>, Arc<Drive>) {
    let (machine, drive) = machine(manner);
    let devices = nvme::devices(&machine).unwrap();
    assert_eq!(devices[0].to_string(), "/dev/nvme0n1 (ACME 1500, 1.9)");
    (nvme::install(&machine, &devices[0], &image("2.0"), "2.0"), drive)
}

#[test]
fn firmware_is_read_back_from_the_drive() {
    for (manner, version, reboot) in
        [(Manner::AtOnce, "2.0", false), (Manner::AfterReset, "2.0", false), (Manner::AfterReboot, "1.9", true)]
    {
        let (result, drive) = installed(manner);
        assert_eq!(result.unwrap(), Installed { version: version.to_owned(), reboot }, "{manner:?}");
        assert_eq!(drive.state.lock().unwrap().image, image("2.0"));
    }
}

#[test]
fn a_drive_that_lies_or_refuses_is_no_success() {
    let (lied, _) = installed(Manner::Lies);
    assert_eq!(lied.unwrap_err(), "the drive took it, and runs 1.9 afterwards; its slots hold 1.9");
    let (refused, _) = installed(Manner::Refuses);
    assert_eq!(refused.unwrap_err(), "commit: invalid firmware image (type 1h, code 07h)");
    let (cannot, drive) = installed(Manner::Cannot);
    assert!(cannot.unwrap_err().contains("cannot be updated"));
    assert_eq!(drive.state.lock().unwrap().changes, 0);
}

#[test]
fn a_copy_from_earlier_is_no_sign_that_the_new_firmware_waits() {
    let install = |manner, stored, next| {
        let (machine, _) = machine_with(manner, stored, next);
        let devices = nvme::devices(&machine).unwrap();
        nvme::install(&machine, &devices[0], &image("2.0"), "2.0")
    };
    let waits = Ok(Installed { version: "1.9".to_owned(), reboot: true });
    // The drive names the slot that it will run, and that decides.
    assert_eq!(install(Manner::Promises, Some("2.0"), 2), waits);
    assert_eq!(install(Manner::AfterReboot, None, 2), waits);
    // It does not, and something was stored that was not there.
    assert_eq!(install(Manner::AfterReboot, None, 0), waits);
    for (stored, next) in [(Some("2.0"), 0), (Some("2.0"), 1), (None, 2)] {
        let error = install(Manner::Promises, stored, next).unwrap_err();
        assert!(error.starts_with("the drive took it, and runs 1.9 afterwards"), "{error}");
    }
}

#[test]
fn versions_are_compared_piece_by_piece() {
    let ordered = ["1.9", "1.10", "1.10a", "1.10b", "2.0", "10"];
    for (at, one) in ordered.iter().enumerate() {
        for (other_at, other) in ordered.iter().enumerate() {
            assert_eq!(versions(one, other), at.cmp(&other_at), "{one} {other}");
        }
    }
    for (one, other) in [("1.02", "1.2"), ("V2", "v2"), ("2.0-", "2_0")] {
        assert_eq!(versions(one, other), Ordering::Equal, "{one} {other}");
    }
}

/// A web server for one image.
async fn server(body: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/fw.bin", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    url
}

async fn run(machine: SimMachine, args: Value) -> Result<Value, StepError> {
    let shared = Shared::new(Arc::new(machine), crate::Settings::default(), tokio::sync::watch::channel(true).1);
    let mut step = hardware::Step::new("firmware", "update_firmware", 0);
    step.args = args.as_object().unwrap().clone();
    let call = StepCall {
        kind: StepKind::Service,
        step,
        node: Arc::new(json!({})),
        ports: Arc::new(json!([])),
        control: Arc::new(Unattended),
    };
    update(&shared, call).await
}

fn manifest(url: &str, digest: &str, version: &str) -> Value {
    json!({"version": 1, "components": [
        {"component": "boot drive", "model": "ACME 15*", "version": version, "url": url, "digest": digest, "tool": "nvme"},
        {"component": "another", "model": "ACME 99", "version": "1", "url": url, "digest": digest, "tool": "nvme"},
    ]})
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

#[tokio::test]
async fn a_manifest_is_carried_out_and_told() {
    let url = server(image("2.0")).await;
    let (machine, drive) = machine(Manner::AfterReset);
    let args = json!({"manifest": manifest(&url, &digest(&image("2.0")), "2.0")});
    let told = run(machine, args).await.unwrap();
    insta::assert_json_snapshot!(told);
    assert_eq!(drive.state.lock().unwrap().running, "2.0");
}

#[tokio::test]
async fn nothing_is_touched_on_a_dry_run_a_wrong_digest_a_downgrade_or_a_foreign_manifest() {
    let url = server(image("2.0")).await;
    let good = digest(&image("2.0"));
    let wrong = digest(b"something else");
    let cases = [
        (json!({"manifest": manifest(&url, &good, "2.0"), "dry_run": true}), None),
        (json!({"manifest": manifest(&url, &wrong, "2.0")}), Some("does not have the digest")),
        (json!({"manifest": manifest(&url, &good, "1.8")}), Some("allow_downgrade")),
        (json!({"manifest": manifest(&url, &good, "1.9")}), None),
        (json!({"manifest": manifest("http://127.0.0.1:1/fw", &good, "2.0")}), Some("nothing was touched")),
        (json!({"manifest": url, "checksum": wrong}), Some("nothing was touched")),
        (json!({"manifest": {"version": 9, "components": []}}), Some("nothing was touched")),
        (json!({"manifest": manifest(&url, &good, "2.0"), "color": 1}), Some("it takes allow_downgrade, checksum")),
        (json!({}), Some("missing 1 required positional argument: 'manifest'")),
    ];
    for (args, refusal) in cases {
        let (machine, drive) = machine(Manner::AtOnce);
        let result = run(machine, args.clone()).await;
        match refusal {
            None => {
                result.unwrap();
            }
            Some(text) => {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(text), "{error}");
            }
        }
        assert_eq!(drive.state.lock().unwrap().changes, 0, "{args}");
    }
    let mut foreign = manifest(&url, &good, "2.0");
    foreign["components"].as_array_mut().unwrap().remove(0);
    let (machine, _) = machine(Manner::AtOnce);
    let error = run(machine, json!({"manifest": foreign})).await.unwrap_err().to_string();
    assert!(error.ends_with("devices with firmware are /dev/nvme0n1 (ACME 1500, 1.9)"), "{error}");
}

#[tokio::test]
async fn a_component_that_fits_nothing_is_told_though_another_fits() {
    let url = server(image("2.0")).await;
    let (machine, _) = machine(Manner::AtOnce);
    let args = json!({"manifest": manifest(&url, &digest(&image("2.0")), "2.0"), "dry_run": true});
    assert_eq!(run(machine, args).await.unwrap()["unused"], json!(["another (ACME 99)"]));
}

#[tokio::test]
async fn an_older_version_is_installed_when_somebody_says_so() {
    let url = server(image("1.8")).await;
    let (machine, _) = machine(Manner::AtOnce);
    let args = json!({"manifest": manifest(&url, &digest(&image("1.8")), "1.8"), "allow_downgrade": true});
    let told = run(machine, args).await.unwrap();
    assert_eq!(
        (told["devices"][0]["action"].as_str(), told["devices"][0]["after"].as_str()),
        (Some("downgrade"), Some("1.8"))
    );
}

/// A vendor's tool that keeps its device's version in a file beside itself.
const TOOL: &str = r#"#!/usr/bin/env python3
import json, os, sys
request = json.loads(sys.stdin.readline())
place = os.path.join(os.path.dirname(__file__), "version")
version = open(place).read().strip()
def say(**answer):
    print(json.dumps({"id": request["id"], **answer}), flush=True)
if request["method"] == "inventory":
    say(result={"devices": [{"id": "nic0", "vendor": "Acme", "model": "NIC 25G", "version": version}]})
elif request["method"] == "install":
    say(progress={"stage": "flash", "done": 1, "total": 2})
    new = open(request["params"]["file"]).read().strip()
    if new != "lie":
        open(place, "w").write(new)
    say(result={"version": request["params"]["version"], "reboot": False})
"#;

#[test]
fn a_vendors_program_tells_devices_installs_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("acme-nic");
    std::fs::write(&tool, TOOL).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("version"), "21.1").unwrap();
    let devices = program::devices(folder.path(), "acme-nic").unwrap();
    assert_eq!(devices[0].to_string(), "nic0 (Acme NIC 25G, 21.1)");
    let install = |image: &[u8]| program::install(folder.path(), "acme-nic", &devices[0], image, "22.0", &Unattended);
    assert!(install(b"lie").unwrap_err().contains("runs 21.1"));
    assert_eq!(install(b"22.0").unwrap(), Installed { version: "22.0".to_owned(), reboot: false });
    let error = program::devices(folder.path(), "other").unwrap_err();
    assert!(error.contains("there are acme-nic, version, nvme, which is built in"), "{error}");
}
