//! What a disk says: NVMe SMART and self-test logs, ATA SMART, SCSI log pages.

use super::{Part, Verdict};
use erase::{ata, nvme, scsi};
use hardware::{Bus, Device, Disk, Machine, Transfer};
use serde_json::{Value, json};
use std::time::Duration;
use transport::client::chain;

/// For an answer out of a controller's memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// Percent of the endurance of flash memory that may be used before it is told.
const WORN: u8 = 90;
/// Kelvin at 0 °C.
const ZERO_CELSIUS: i64 = 273;
/// Attributes of ATA drives that count sectors which could not be read or had to be replaced, with their usual names.
const SECTORS: [(u8, &str); 4] = [
    (5, "reallocated sectors"),
    (187, "reported uncorrectable errors"),
    (197, "pending sectors"),
    (198, "sectors that are uncorrectable offline"),
];
const HOURS: u8 = 9;
const TEMPERATURES: [u8; 2] = [194, 190];

/// The language of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Nvme,
    Ata,
    Scsi,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::Ata => "ata",
            Self::Scsi => "scsi",
        }
    }
}

/// The language of a disk; why it has none that asks for its health.
pub(super) fn protocol(device: &dyn Device) -> Result<Protocol, String> {
    asked(device).map(|(protocol, _)| protocol)
}

/// The same with what a SCSI device says of itself, which is how that is found out.
fn asked(device: &dyn Device) -> Result<(Protocol, Option<scsi::Inquiry>), String> {
    match device.bus() {
        Bus::Nvme { .. } => Ok((Protocol::Nvme, None)),
        Bus::Scsi => inquire(device).map(|(inquiry, is_ata)| match is_ata {
            true => (Protocol::Ata, None),
            false => (Protocol::Scsi, Some(inquiry)),
        }),
        Bus::Block => Err("it takes no commands that ask for its health".to_owned()),
    }
}

/// A disk with its name.
pub(super) fn part(disk: &Disk) -> Part {
    let mut part = Part::default();
    part.set("name", disk.name.clone());
    part.set("serial", disk.serial.clone());
    part.set("model", disk.model.clone());
    part
}

pub(super) fn look(machine: &dyn Machine, disk: &Disk) -> Part {
    let mut part = part(disk);
    match machine.observe(disk) {
        Ok(device) => {
            let device = device.as_ref();
            let told = asked(device).and_then(|(protocol, inquiry)| {
                part.set("protocol", protocol.name());
                if let Some(inquiry) = inquiry {
                    part.set("firmware", inquiry.revision);
                }
                match protocol {
                    Protocol::Nvme => nvme_health(device, &mut part),
                    Protocol::Ata => ata_health(device, &mut part),
                    Protocol::Scsi => scsi_logs(device, &mut part),
                }
            });
            if let Err(why) = told {
                part.set("unknown", why);
            }
        }
        Err(error) => part.set("unknown", chain(&error)),
    }
    part
}

fn nvme_log(device: &dyn Device, page: u8, length: u32) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length as usize];
    let command = nvme::get_log(page, nvme::ALL_NAMESPACES, length);
    let answer = device.nvme_admin(&command, Transfer::FromDevice(&mut bytes), PATIENCE);
    match answer.map_err(|error| chain(&error))?.status {
        0 => Ok(bytes),
        status => Err(format!("log page {page:02x}h: {}", nvme::status_text(status))),
    }
}

fn nvme_health(device: &dyn Device, part: &mut Part) -> Result<(), String> {
    let bytes = nvme_log(device, nvme::Health::PAGE, nvme::Health::LENGTH)?;
    let health = nvme::Health::parse(&bytes).map_err(|error| error.to_string())?;
    part.tells();
    part.set("critical_warning", health.critical);
    part.set("celsius", health.temperature.map(|kelvin| i64::from(kelvin) - ZERO_CELSIUS));
    part.set("spare_percent", health.spare);
    part.set("spare_threshold_percent", health.spare_threshold);
    part.set("used_percent", health.used);
    part.set("media_errors", saturated(health.media_errors));
    part.set("power_on_hours", saturated(health.power_on_hours));
    part.set("power_cycles", saturated(health.power_cycles));
    part.set("unsafe_shutdowns", saturated(health.unsafe_shutdowns));
    part.set("written_bytes", saturated(health.units_written.saturating_mul(512_000)));
    const WARNINGS: [(Verdict, &str); 6] = [
        (Verdict::Failing, "its spare capacity is below the threshold"),
        (Verdict::Warning, "its temperature is beyond a limit"),
        (Verdict::Failing, "its reliability is degraded"),
        (Verdict::Failing, "it has become read-only"),
        (Verdict::Failing, "the backup of its volatile memory has failed"),
        (Verdict::Failing, "its persistent memory has become read-only"),
    ];
    for (bit, (verdict, text)) in WARNINGS.into_iter().enumerate() {
        if health.critical & 1 << bit != 0 {
            part.find(verdict, text);
        }
    }
    if health.media_errors > 0 {
        part.find(Verdict::Warning, format!("{} media errors", health.media_errors));
    }
    worn(part, health.used);
    // Most controllers have no self-test, and say so.
    if let Ok(log) = nvme_self_tests(device) {
        let last = log.results.first();
        part.set("self_test_running_percent", log.running.map(|test| test.percent));
        part.set(
            "self_test",
            last.map_or(Value::Null, |last| {
                json!({"extended": last.kind == 2, "result": last.result, "power_on_hours": last.power_on_hours,
                   "failing_block": last.failing_block})
            }),
        );
        if let Some(last) = last.filter(|last| (5..=7).contains(&last.result)) {
            part.find(Verdict::Failing, format!("its last self-test failed (result {})", last.result));
        }
    }
    Ok(())
}

fn worn(part: &mut Part, used: u8) {
    if used >= WORN {
        part.find(Verdict::Warning, format!("{used} % of its endurance are used"));
    }
}

fn saturated(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Who a SCSI device says that it is, and whether an ATA drive is behind it.
fn inquire(device: &dyn Device) -> Result<(scsi::Inquiry, bool), String> {
    let ask = |command: &scsi::Command, length| scsi::receive(device, command, length).map_err(|error| chain(&error));
    let inquiry = scsi::Inquiry::parse(&ask(&scsi::inquiry(96), 96)?).map_err(|error| error.to_string())?;
    let pages = ask(&scsi::vital_data(0, 255), 255).ok();
    let pages = pages.and_then(|bytes| scsi::supported_pages(&bytes).ok()).unwrap_or_default();
    let is_ata = ata::is_ata(&inquiry, &pages);
    Ok((inquiry, is_ata))
}

/// SMART READ DATA.
pub(super) fn smart_data(device: &dyn Device) -> Result<ata::SmartData, String> {
    let mut sector = [0; 512];
    let asked = ata::send(device, &ata::smart_read_data(), Transfer::FromDevice(&mut sector));
    asked.map_err(|error| chain(&error))?;
    ata::SmartData::parse(&sector).map_err(|error| error.to_string())
}

/// Identify Controller.
pub(super) fn identify(device: &dyn Device) -> Result<nvme::Controller, String> {
    let mut bytes = vec![0; nvme::IDENTIFY_LENGTH];
    let answer = device.nvme_admin(&nvme::identify_controller(), Transfer::FromDevice(&mut bytes), PATIENCE);
    match answer.map_err(|error| chain(&error))?.status {
        0 => nvme::Controller::parse(&bytes).map_err(|error| error.to_string()),
        status => Err(format!("Identify Controller: {}", nvme::status_text(status))),
    }
}

/// The log of self-tests.
pub(super) fn nvme_self_tests(device: &dyn Device) -> Result<nvme::SelfTestLog, String> {
    let log = nvme_log(device, nvme::SelfTestLog::PAGE, nvme::SelfTestLog::LENGTH)?;
    nvme::SelfTestLog::parse(&log).map_err(|error| error.to_string())
}

fn ata_health(device: &dyn Device, part: &mut Part) -> Result<(), String> {
    let failed = |error: ata::AtaError| chain(&error);
    let mut sector = [0; 512];
    ata::send(device, &ata::identify(), Transfer::FromDevice(&mut sector)).map_err(failed)?;
    let identify = ata::Identify::parse(&sector).map_err(|error| error.to_string())?;
    part.set("firmware", identify.firmware);
    if !identify.smart {
        return Err("it has no SMART".to_owned());
    }
    let registers = ata::send(device, &ata::smart_return_status(), Transfer::None).map_err(failed)?;
    match registers.as_ref().and_then(ata::smart_verdict) {
        Some(true) => part.tells(),
        Some(false) => part.find(Verdict::Failing, "SMART predicts that it will fail"),
        None => {}
    }
    let smart = smart_data(device)?;
    part.tells();
    let raw = |id: u8| smart.attributes.iter().find(|attribute| attribute.id == id).map(|attribute| attribute.raw);
    // The upper bytes hold what vendors like: minutes, highest and lowest temperature.
    part.set("power_on_hours", raw(HOURS).map(|raw| raw & 0xffff_ffff));
    part.set("celsius", TEMPERATURES.into_iter().find_map(raw).map(|raw| raw & 0xff));
    for (id, name) in SECTORS {
        let count = raw(id).map(|raw| raw & 0xffff_ffff);
        part.set(&name.replace(' ', "_"), count);
        if let Some(count) = count.filter(|count| *count > 0) {
            part.find(Verdict::Warning, format!("{count} {name}"));
        }
    }
    part.set("self_test", smart.self_test_result);
    if (3..=8).contains(&smart.self_test_result) {
        part.find(Verdict::Failing, format!("its last self-test failed (result {})", smart.self_test_result));
    }
    Ok(())
}

/// Log pages (SPC-4, 7.3; SBC-3, 6.4).
fn scsi_logs(device: &dyn Device, part: &mut Part) -> Result<(), String> {
    const SUPPORTED: u8 = 0x00;
    const ERRORS: [(u8, &str); 2] = [(0x02, "write"), (0x03, "read")];
    const TEMPERATURE: u8 = 0x0d;
    const SELF_TEST: u8 = 0x10;
    const SOLID_STATE: u8 = 0x11;
    const EXCEPTIONS: u8 = 0x2f;
    let log = |page: u8| scsi::receive(device, &scsi::log_sense(page, 512), 512);
    let supported = log(SUPPORTED).map_err(|error| format!("it has no log pages: {}", chain(&error)))?;
    let supported = supported.get(4..).unwrap_or_default().to_vec();
    // One value of one parameter of a page, if there is all of it.
    let value = |page: u8, code: u16, at: usize, length: usize| -> Option<u64> {
        let bytes = supported.contains(&page).then(|| log(page).ok())??;
        let parameters = scsi::log_parameters(page, &bytes).ok()?;
        let value = parameters.iter().find(|parameter| parameter.code == code)?.value;
        let value = if length == 0 { value } else { value.get(at..at + length)? };
        Some(value.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if let Some(code) = value(EXCEPTIONS, 0, 0, 1) {
        part.tells();
        // Additional sense code: 5Dh is a failure prediction, 0Bh a warning (SPC-4, annex D).
        match code {
            0x5d => part.find(Verdict::Failing, "it predicts that it will fail"),
            0x0b => part.find(Verdict::Warning, "it warns of its state"),
            _ => {}
        }
    }
    part.set("celsius", value(TEMPERATURE, 0, 1, 1).filter(|celsius| *celsius != 0xff));
    for (page, what) in ERRORS {
        const UNCORRECTED: u16 = 6;
        let errors = value(page, UNCORRECTED, 0, 0);
        part.set(&format!("uncorrected_{what}_errors"), errors);
        if let Some(errors) = errors {
            part.tells();
            if errors > 0 {
                part.find(Verdict::Warning, format!("{errors} uncorrected {what} errors"));
            }
        }
    }
    if let Some(used) = value(SOLID_STATE, 1, 3, 1) {
        part.tells();
        part.set("used_percent", used);
        worn(part, u8::try_from(used).unwrap_or(u8::MAX));
    }
    if let Some(result) = value(SELF_TEST, 1, 0, 1).map(|byte| byte & 0xf) {
        part.set("self_test", result);
        if (3..=7).contains(&result) {
            part.find(Verdict::Failing, format!("its last self-test failed (result {result})"));
        }
    }
    Ok(())
}
