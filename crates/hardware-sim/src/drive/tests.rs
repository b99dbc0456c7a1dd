use super::*;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn model(kind: &str) -> SimDrive {
    let clock = SimClock::default();
    match kind {
        "nvme" => SimDrive::nvme(NvmeProfile::qemu(), "/dev/nvme0n1", &clock),
        "ahci" => SimDrive::ata(AtaProfile::qemu(), "/dev/sda", &clock),
        "scsi" => SimDrive::scsi(ScsiProfile::qemu(), "/dev/sdb", &clock),
        _ => SimDrive::virtio("/dev/vda", &clock),
    }
}

/// What the first MiB holds, in the words of the record.
fn first_mebibyte(drive: &SimDrive) -> &'static str {
    let mut found = vec![0; 1 << 20];
    drive.read_at(&mut found, 0).unwrap();
    match &found {
        found if found.iter().all(|byte| *byte == b'A') => "old",
        found if found.iter().all(|byte| *byte == 0) => "zeros",
        _ => "other",
    }
}

/// The answer of a model in the form of the record.
fn answer(drive: &SimDrive, ask: &Value) -> Value {
    let digits = recorded::bytes(ask["data"].as_str().unwrap_or_default());
    let mut room = vec![0; ask["data"].as_u64().unwrap_or_default() as usize];
    let data = match (room.is_empty(), digits.is_empty()) {
        (false, _) => Transfer::FromDevice(&mut room),
        (_, false) => Transfer::ToDevice(&digits),
        _ => Transfer::None,
    };
    let mut answer = if let Some(cdb) = ask["cdb"].as_str() {
        match drive.scsi(&recorded::bytes(cdb), data, LIMIT) {
            Ok(ScsiCompletion { status, sense, residual }) => {
                let digits: String = sense.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"status": status, "sense": digits, "residual": residual, "host": 0})
            }
            Err(DeviceError::NoSuchPath { .. }) => return json!({"errno": libc_enotty()}),
            Err(error) => panic!("{ask}: {error}"),
        }
    } else {
        let mut cdw10 = [0; 6];
        for (word, value) in cdw10.iter_mut().zip(ask["cdw10"].as_array().unwrap()) {
            *word = value.as_u64().unwrap() as u32;
        }
        let number = |name: &str| ask[name].as_u64().unwrap() as u32;
        let command = NvmeCommand {
            opcode: number("opcode") as u8,
            namespace: number("namespace"),
            cdw10,
            ..NvmeCommand::default()
        };
        match drive.nvme_admin(&command, data, LIMIT) {
            Ok(NvmeCompletion { status, result }) => json!({"status": status, "result": result}),
            Err(DeviceError::NoSuchPath { .. }) => return json!({"errno": libc_enotty()}),
            Err(error) => panic!("{ask}: {error}"),
        }
    };
    if !room.is_empty() {
        let end = room.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        answer["data"] = json!(room[..end].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    answer
}

/// `ENOTTY`, which the kernel says where there is no way for such a command.
fn libc_enotty() -> i32 {
    25
}

/// Differences from QEMU that are kept, with their reason.
const KEPT: [(&str, &str, &str); 1] = [(
    "scsi",
    "sanitize: overwrite",
    "virtio-scsi of QEMU breaks off where data comes with a command that it does not know; the model refuses the command",
)];

#[test]
fn models_without_additions_answer_as_qemu_does() {
    for kind in ["nvme", "ahci", "scsi", "virtio"] {
        let drive = model(kind);
        for Exchange { ask, answer: recorded } in exchanges(kind) {
            let erases = recorded.get("first_mebibyte").is_some();
            if erases {
                drive.write_at(&vec![b'A'; 1 << 20], 0).unwrap();
            }
            let mut answered = answer(&drive, ask);
            if erases {
                answered["first_mebibyte"] = json!(first_mebibyte(&drive));
            }
            let name = ask["name"].as_str().unwrap();
            let kept = KEPT.iter().find(|(disk, kept, _)| (*disk, *kept) == (kind, name));
            match kept {
                Some((.., reason)) => {
                    assert_ne!(answered, *recorded, "{kind}: {name} is no difference any more: {reason}")
                }
                None => assert_eq!(answered, *recorded, "{kind}: {name}"),
            }
        }
    }
}
