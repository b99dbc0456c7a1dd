//! Seven real servers as data (`fixtures/machines/`, each with its origin), made into the files that their kernels would
//! show: sysfs, procfs and the firmware's SMBIOS table. The inventory of each is a snapshot.

use super::*;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;

/// A tree that is being made.
struct Making {
    root: tempfile::TempDir,
}

impl Making {
    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn line(&self, path: &str, content: impl std::fmt::Display) {
        self.file(path, format!("{content}\n"));
    }

    /// A link at `path` to `target`, both from the root.
    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.path(target), path).unwrap();
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The machine that the facts describe, below a folder that lives as long as the result.
fn make(facts: &Value) -> Making {
    let making = Making { root: tempfile::tempdir().unwrap() };
    for (file, pointer) in [
        ("sys_vendor", "/system/vendor"),
        ("product_name", "/system/product"),
        ("product_sku", "/system/sku"),
        ("product_serial", "/system/serial"),
        ("bios_vendor", "/firmware/vendor"),
        ("bios_version", "/firmware/version"),
        ("bios_date", "/firmware/date"),
    ] {
        if let Some(value) = facts.pointer(pointer).and_then(Value::as_str) {
            making.line(&format!("/sys/class/dmi/id/{file}"), value);
        }
    }
    making.file("/sys/firmware/dmi/tables/DMI", smbios_table(facts));
    let dimms: u64 = list(&facts["dimms"]).map(|dimm| number(&dimm["mib"])).sum();
    let seen = facts["kernel_sees_mib"].as_u64().unwrap_or(dimms);
    // Blocks of 1 GiB.
    making.line("/sys/devices/system/memory/block_size_bytes", format_args!("{:x}", 1 << 30));
    (0..seen >> 10).for_each(|block| making.line(&format!("/sys/devices/system/memory/memory{block}/online"), 1));
    making.line("/proc/meminfo", format!("MemTotal:       {} kB", seen * 1024));
    making.line("/proc/sys/kernel/hostname", "node");
    processors(&making, facts);
    list(&facts["interfaces"]).for_each(|interface| make_interface(&making, interface));
    list(&facts["disks"]).for_each(|disk| make_disk(&making, facts, disk));
    making
}

fn processors(making: &Making, facts: &Value) {
    let mut cpuinfo = String::new();
    let mut count = 0;
    for (socket, processor) in list(&facts["processors"]).enumerate() {
        for _ in 0..number(&processor["threads"]) {
            writeln!(cpuinfo, "processor\t: {count}\nmodel name\t: {}", text(&processor["name"])).unwrap();
            writeln!(cpuinfo, "physical id\t: {socket}\nflags\t\t: {}\n", text(&facts["flags"])).unwrap();
            count += 1;
        }
        if let Some(mhz) = processor["max_mhz"].as_u64() {
            making.line("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", mhz * 1000);
        }
    }
    making.file("/proc/cpuinfo", cpuinfo);
}

/// The firmware's table: OEM structures first where the vendor does so, then processors, memory devices and ranges.
fn smbios_table(facts: &Value) -> Vec<u8> {
    let mut table = Vec::new();
    let mut handle = 0_u16;
    let mut add = |kind: u8, mut body: Vec<u8>, strings: &[&str]| {
        (body[0], body[1]) = (kind, u8::try_from(body.len()).unwrap());
        body[2..4].copy_from_slice(&handle.to_le_bytes());
        handle += 1;
        table.extend(body);
        for string in strings {
            table.extend(string.bytes());
            table.push(0);
        }
        table.extend(if strings.is_empty() { vec![0, 0] } else { vec![0] });
    };
    for oem in list(&facts["oem_structures"]) {
        let (kind, length) = (number(&oem["type"]), number(&oem["length"]));
        add(u8::try_from(kind).unwrap(), vec![0xff; usize::try_from(length).unwrap()], &[]);
    }
    for socket in list(&facts["processors"]).chain(list(&facts["empty_sockets"])) {
        let mut body = vec![0; 48];
        let name = text(&socket["name"]);
        (body[0x04], body[0x10], body[0x18]) =
            (1, u8::from(!name.is_empty()) * 2, if name.is_empty() { 0 } else { 0x41 });
        add(4, body, &[text(&socket["socket"]), name][..if name.is_empty() { 1 } else { 2 }]);
    }
    let length = facts["memory_device_length"].as_u64().map_or(40, |length| usize::try_from(length).unwrap());
    for dimm in list(&facts["dimms"]) {
        let mut body = vec![0; length];
        let mib = number(&dimm["mib"]);
        // Sizes from 32 GiB - 1 MiB on stand in the extended field (section 7.18.4).
        let size = u16::try_from(mib).ok().filter(|&mib| mib < 0x7fff).unwrap_or(0x7fff);
        body[0x0c..0x0e].copy_from_slice(&size.to_le_bytes());
        if size == 0x7fff {
            body[0x1c..0x20].copy_from_slice(&u32::try_from(mib).unwrap().to_le_bytes());
        }
        body[0x10] = 1;
        add(17, body, &[text(&dimm["slot"])]);
    }
    for range in list(&facts["mapped_kib"]) {
        let (first, last) = (number(&range[0]), number(&range[1]));
        let mut body = vec![0; 0x1f];
        match (u32::try_from(first), u32::try_from(last)) {
            (Ok(first), Ok(last)) => {
                body[0x04..0x08].copy_from_slice(&first.to_le_bytes());
                body[0x08..0x0c].copy_from_slice(&last.to_le_bytes());
            }
            _ => {
                body[0x04..0x0c].fill(0xff);
                body[0x0f..0x17].copy_from_slice(&(first * 1024).to_le_bytes());
                body[0x17..0x1f].copy_from_slice(&(last * 1024 + 1023).to_le_bytes());
            }
        }
        add(19, body, &[]);
    }
    add(127, vec![0; 4], &[]);
    table
}

/// The sysfs folder of what lshw calls `pci@0000:41:00.0` or `usb@1:5.2`. USB hangs on the chipset's controller.
fn bus_folder(bus: &str) -> String {
    match bus.split_once('@').unwrap() {
        ("pci", address) => {
            let (root, _) = address.rsplit_once(':').unwrap();
            format!("/sys/devices/pci{root}/{address}")
        }
        ("usb", address) => {
            let (number, ports) = address.split_once(':').unwrap();
            let hub = ports.split('.').next().unwrap();
            let device = format!("{number}-{ports}");
            format!("/sys/devices/pci0000:00/0000:00:14.0/usb{number}/{number}-{hub}/{device}/{device}:1.0")
        }
        other => panic!("{other:?}"),
    }
}

fn make_interface(making: &Making, interface: &Value) {
    let name = text(&interface["name"]);
    let device = bus_folder(text(&interface["bus"]));
    for (file, index) in [("vendor", 0), ("device", 1)] {
        if let Some(id) = interface["ids"][index].as_str() {
            making.line(&format!("{device}/{file}"), id);
        }
    }
    fs::create_dir_all(making.path(&device)).unwrap();
    if let Some(driver) = interface["driver"].as_str() {
        let driver = format!("/sys/bus/pci/drivers/{driver}");
        fs::create_dir_all(making.path(&driver)).unwrap();
        making.link(&format!("{device}/driver"), &driver);
    }
    let folder = format!("{device}/net/{name}");
    making.line(&format!("{folder}/address"), text(&interface["mac"]));
    making.line(&format!("{folder}/type"), 1);
    making.line(&format!("{folder}/carrier"), u8::from(interface["link"] == true));
    // The kernel writes -1 while the speed is not known.
    making.line(&format!("{folder}/speed"), interface["mbps"].as_i64().unwrap_or(-1));
    making.link(&format!("{folder}/device"), &device);
    making.link(&format!("/sys/class/net/{name}"), &folder);
}

fn make_disk(making: &Making, facts: &Value, disk: &Value) {
    let name = text(&disk["name"]);
    let controller = bus_folder(text(&disk["bus"]));
    let block = match text(&disk["driver"]) {
        "nvme" => make_nvme(making, &controller, disk),
        _ => make_scsi(making, facts, &controller, disk),
    };
    making.line(&format!("{block}/size"), number(&disk["bytes"]) / 512);
    making.line(&format!("{block}/queue/rotational"), u8::from(disk["rotational"] == true));
    making.line(&format!("{block}/queue/logical_block_size"), number(&disk["logical"]));
    making.line(&format!("{block}/queue/physical_block_size"), number(&disk["physical"]));
    making.link(&format!("/sys/block/{name}"), &block);
}

fn make_nvme(making: &Making, controller: &str, disk: &Value) -> String {
    let name = text(&disk["name"]);
    let (device, namespace) = name.split_at(name.rfind('n').unwrap());
    let folder = format!("{controller}/nvme/{device}");
    making.line(&format!("{folder}/model"), format!("{:<40}", text(&disk["model"])));
    making.line(&format!("{folder}/serial"), format!("{:<20}", text(&disk["serial"])));
    making.line(&format!("{folder}/{name}/wwid"), text(&disk["wwid"]));
    making.line(&format!("{folder}/{name}/nsid"), &namespace[1..]);
    making.link(&format!("{folder}/{name}/device"), &folder);
    format!("{folder}/{name}")
}

fn make_scsi(making: &Making, facts: &Value, controller: &str, disk: &Value) -> String {
    let address = text(&disk["scsi"]);
    let host_of = |disk: &Value| text(&disk["scsi"]).split(':').next().unwrap().parse::<u64>().unwrap();
    let (host, target) = (host_of(disk), address.rsplit_once(':').unwrap().0);
    let driver = text(&disk["driver"]);
    let above = match driver {
        "ahci" | "sata_nv" => {
            let same = list(&facts["disks"]).filter(|other| other["driver"] == driver && other["bus"] == disk["bus"]);
            let first = same.map(host_of).min().unwrap();
            let port = format!("ata{}", host + 1);
            making.line(&format!("{controller}/{port}/ata_port/{port}/port_no"), host - first + 1);
            format!("{controller}/{port}/host{host}")
        }
        "usb-storage" => {
            making.line(&format!("{controller}/bInterfaceNumber"), "00");
            format!("{controller}/host{host}")
        }
        _ => {
            let number = target.rsplit_once(':').unwrap().1;
            let (port, end) = (format!("port-{host}:{number}"), format!("end_device-{host}:{number}"));
            let folder = format!("{controller}/host{host}/{port}");
            making.line(&format!("{folder}/sas_port/{port}/num_phys"), 1);
            let details = format!("{folder}/{end}/sas_device/{end}");
            making.line(&format!("{details}/sas_address"), format!("0x{}", text(&disk["wwn"])));
            making.line(&format!("{details}/phy_identifier"), number);
            making.line(&format!("{controller}/host{host}/sas_host/host{host}/uevent"), "");
            format!("{folder}/{end}")
        }
    };
    let host_folder = if let Some(end) = above.find("/port-") { &above[..end] } else { &above };
    making.line(&format!("{host_folder}/scsi_host/host{host}/proc_name"), driver);
    let device = format!("{above}/target{target}/{address}");
    making.line(&format!("{device}/vendor"), format!("{:<8}", text(&disk["vendor"])));
    making.line(&format!("{device}/model"), format!("{:<16}", text(&disk["model"])));
    making.line(&format!("{device}/scsi_device/{address}/uevent"), "");
    let serial = text(&disk["serial"]);
    if disk["ata_model"].is_string() {
        making.file(&format!("{device}/vpd_pg89"), ata_page(text(&disk["ata_model"]), serial, disk["wwn"].as_str()));
    }
    let length = u8::try_from(serial.len()).unwrap();
    making.file(&format!("{device}/vpd_pg80"), [&[0, 0x80, 0, length], serial.as_bytes()].concat());
    let block = format!("{device}/block/{}", text(&disk["name"]));
    making.link(&format!("{block}/device"), &device);
    block
}

/// Vital product data page 89h with IDENTIFY DEVICE data (SAT-4 section 12.4.4, ACS-4 section 7.13.6).
fn ata_page(model: &str, serial: &str, wwn: Option<&str>) -> Vec<u8> {
    let mut page = vec![0_u8; 572];
    (page[1], page[2], page[3]) = (0x89, 2, 0x38);
    let mut put = |word: usize, bytes: &[u8]| {
        for (offset, pair) in bytes.chunks(2).enumerate() {
            (page[60 + 2 * (word + offset)], page[61 + 2 * (word + offset)]) = (pair[1], pair[0]);
        }
    };
    put(10, format!("{serial:>20}").as_bytes());
    put(27, format!("{model:<40}").as_bytes());
    if let Some(wwn) = wwn {
        put(87, &[0x41, 0]);
        put(108, &u64::from_str_radix(wwn, 16).unwrap().to_be_bytes());
    }
    page
}

/// The inventory, without the architecture of the machine that the test runs on.
fn inventory(facts: &str) -> Inventory {
    let facts: Value = serde_json::from_str(facts).unwrap();
    assert!(!text(&facts["origin"]).is_empty(), "a machine needs its origin");
    let making = make(&facts);
    let mut inventory = LinuxMachine::at(making.root.path()).inventory().unwrap();
    inventory.cpu.architecture = "x86_64".to_owned();
    inventory
}

macro_rules! machines {
    ($($test:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $test() {
                insta::assert_json_snapshot!(inventory(include_str!(concat!("../../fixtures/machines/", $file))));
            }
        )*
    };
}

machines! {
    the_inventory_of_a_dell_poweredge_r6515_is_whole: "dell-r6515.json",
    the_inventory_of_a_supermicro_x11dph_t_is_whole: "supermicro-x11dph-t.json",
    the_inventory_of_an_asrock_rack_e3c246d4i_is_whole: "asrock-e3c246d4i.json",
    the_inventory_of_an_hpe_proliant_dl360_gen10_is_whole: "hpe-dl360-gen10.json",
    the_inventory_of_a_lenovo_thinksystem_sr650_is_whole: "lenovo-sr650.json",
    the_inventory_of_a_tyan_s2915_is_whole: "tyan-s2915.json",
    the_inventory_of_a_cisco_ucs_c220_m4_is_whole: "cisco-c220-m4.json",
}
