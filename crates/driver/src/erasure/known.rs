//! Disks that the inventory of a node knows, against those that an agent reports.

use serde_json::{Value, json};

/// What the kernel builds on disks (md, device mapper) or makes up (loop, RAM, network, compressed memory): it comes and goes,
/// and has no data but that of disks.
const STACKED: [&str; 6] = ["/dev/md", "/dev/dm-", "/dev/loop", "/dev/ram", "/dev/nbd", "/dev/zram"];

/// The disks of an inventory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    disks: Vec<Device>,
}

/// What tells one disk from another.
#[derive(Debug, Clone, PartialEq, Default)]
struct Device {
    node: String,
    /// The world wide name, with the vendor's extension and without.
    wwns: Vec<String>,
    serial: Option<String>,
    size: Option<u64>,
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

impl Device {
    /// A disk of an inventory, or the device of a report.
    fn of(value: &Value) -> Option<Self> {
        if let Value::String(node) = value {
            return Some(Self { node: node.clone(), ..Self::default() });
        }
        Some(Self {
            node: text(value, "node").or_else(|| text(value, "name"))?,
            wwns: ["wwn", "wwn_with_extension"].into_iter().filter_map(|key| text(value, key)).collect(),
            serial: text(value, "serial"),
            size: value.get("size").and_then(Value::as_u64),
        })
    }

    /// Whether two are the same disk, by ways of telling that become weaker. Names are those of one boot, so they count only
    /// where one of the two tells nothing else.
    fn is(&self, other: &Self, way: Way) -> bool {
        match way {
            Way::Wwn => self.wwns.iter().any(|wwn| other.wwns.contains(wwn)),
            Way::SerialAndName => self.shares_serial(other) && self.node == other.node,
            Way::Serial => self.shares_serial(other),
            Way::Name => self.node == other.node && (self.is_nameless() || other.is_nameless()),
        }
    }

    fn shares_serial(&self, other: &Self) -> bool {
        self.serial.is_some() && self.serial == other.serial
    }

    fn is_nameless(&self) -> bool {
        self.wwns.is_empty() && self.serial.is_none()
    }

    /// What is reported of a disk that the agent says nothing of.
    fn unseen(&self) -> Value {
        json!({
            "device": {
                "node": self.node,
                "wwn": self.wwns.last(),
                "serial": self.serial,
                "path": null,
                "size": self.size,
            },
            "method": "none",
            "outcome": "failed",
            "error": "the node's inventory has it, and the agent reports nothing of it: it may hold data where nobody has looked. If \
                      it was taken out, inspect the node",
        })
    }
}

/// By what a disk is known again, the best first.
#[derive(Debug, Clone, Copy)]
enum Way {
    Wwn,
    /// Namespaces of an NVMe drive share its serial number.
    SerialAndName,
    Serial,
    Name,
}

impl Way {
    const ALL: [Self; 4] = [Self::Wwn, Self::SerialAndName, Self::Serial, Self::Name];
}

impl Known {
    /// The disks of an inventory as an inspection stores it.
    pub fn of(inventory: &Value) -> Self {
        let disks = inventory.get("disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let disks = disks.iter().filter_map(Device::of);
        let is_stacked = |disk: &Device| STACKED.iter().any(|prefix| disk.node.starts_with(prefix));
        Self { disks: disks.filter(|disk| !is_stacked(disk)).collect() }
    }

    /// A report of each disk that none of `reports` is about: it is not erased, for nobody has seen it.
    pub fn without_report(&self, reports: &[Value]) -> Vec<Value> {
        let mut reported: Vec<Device> = reports.iter().filter_map(|report| Device::of(report.get("device")?)).collect();
        let mut left: Vec<&Device> = self.disks.iter().collect();
        for way in Way::ALL {
            // Each report is about one disk.
            left.retain(|disk| match reported.iter().position(|other| disk.is(other, way)) {
                Some(at) => {
                    reported.swap_remove(at);
                    false
                }
                None => true,
            });
        }
        left.into_iter().map(Device::unseen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(disks: Value, devices: &[Value]) -> Vec<String> {
        let reports: Vec<Value> = devices.iter().map(|device| json!({"device": device})).collect();
        let unseen = Known::of(&json!({ "disks": disks })).without_report(&reports);
        unseen.iter().map(|report| report["device"]["node"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_disk_is_known_again_by_what_tells_it_from_others_and_not_by_the_name_of_a_boot() {
        let a = json!({"name": "/dev/sda", "wwn": "0x5000", "wwn_with_extension": "0x5000ff", "serial": "A"});
        let b = json!({"name": "/dev/sdb", "serial": "B"});
        let plain = json!({"name": "/dev/vda", "serial": null, "wwn": ""});
        let disks = json!([a, b, plain]);
        let seen = [
            json!({"node": "/dev/sdb", "wwn": "0x5000ff", "serial": "other spelling"}),
            json!({"node": "/dev/sda", "wwn": null, "serial": "B"}),
            json!("/dev/vda"),
        ];
        assert!(missing(disks.clone(), &seen).is_empty());
        assert_eq!(missing(disks.clone(), &seen[..2]), ["/dev/vda"]);
        assert_eq!(missing(disks.clone(), &seen[1..]), ["/dev/sda"]);
        // Another drive in the place of the one that is known is another drive.
        let swapped = [seen[0].clone(), json!({"node": "/dev/sdb", "serial": "C"}), seen[2].clone()];
        assert_eq!(missing(disks, &swapped), ["/dev/sdb"]);
    }

    #[test]
    fn one_report_is_about_one_disk_and_what_is_built_on_disks_is_none() {
        let space = |name: &str| json!({"name": name, "node": name, "serial": "S"});
        let spaces = json!([space("/dev/nvme0n1"), space("/dev/nvme0n2")]);
        assert_eq!(missing(spaces.clone(), &[space("/dev/nvme0n2")]), ["/dev/nvme0n1"]);
        assert!(missing(spaces, &[space("/dev/nvme0n2"), space("/dev/nvme0n1")]).is_empty());
        assert!(missing(json!([{"name": "/dev/md127"}, {"name": "/dev/dm-0"}]), &[]).is_empty());
        assert!(missing(Value::Null, &[]).is_empty());
    }
}
