//! Inspection collectors beside `default` and `logs`: devices of the machine that its inventory does not list.

use hardware_linux::Tree;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What collectors found, by its key in the inspection, and what went wrong, which fails the node's inspection.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) data: Map<String, Value>,
    pub(super) problems: Vec<String>,
}

const PCI_DEVICES: &str = "/sys/bus/pci/devices";
const NUMA_NODES: &str = "/sys/devices/system/node";
const USB_DEVICES: &str = "/sys/bus/usb/devices";
const INTERFACES: &str = "/sys/class/net";
/// USB class of hubs (USB 2.0, 11.23.1).
const HUB: &str = "09";

impl Collected {
    /// Runs one collector; `false` when there is none of that name.
    pub(super) fn collect(&mut self, name: &str, tree: &Tree) -> bool {
        match name {
            "pci-devices" => match tree.path(PCI_DEVICES).is_dir() {
                true => drop(self.data.insert("pci_devices".to_owned(), pci_devices(tree))),
                false => self.problems.push(format!(
                    "Failed to get list of PCI devices: [Errno 2] No such file or directory: '{PCI_DEVICES}'"
                )),
            },
            "usb-devices" => drop(self.data.insert("usb_devices".to_owned(), usb_devices(tree))),
            "numa-topology" => match numa_topology(tree) {
                Some(topology) => drop(self.data.insert("numa_topology".to_owned(), topology)),
                None => tracing::warn!("no NUMA topology: the kernel does not tell all of it"),
            },
            "extra-hardware" => self.problems.push(absent("hardware-detect utility", "hardware-detect")),
            "dmi-decode" => self.problems.push(absent("dmidecode", "dmidecode")),
            _ => return false,
        }
        true
    }
}

/// Ironic's own agent says this in a ramdisk without the program; this one never has it.
fn absent(what: &str, program: &str) -> String {
    format!("failed to run {what}: [Errno 2] No such file or directory: '{program}'")
}

/// A number as sysfs has it, without its `0x`.
fn hexadecimal(tree: &Tree, path: &str) -> Option<String> {
    Some(tree.text(path)?.split_once('x')?.1.to_owned())
}

fn pci_devices(tree: &Tree) -> Value {
    let device = |bus: String| {
        let attribute = |name: &str| hexadecimal(tree, &format!("{PCI_DEVICES}/{bus}/{name}"));
        let (Some(vendor), Some(product), Some(class)) = (attribute("vendor"), attribute("device"), attribute("class"))
        else {
            tracing::warn!(bus, "a PCI device without vendor, product or class is left out");
            return None;
        };
        let revision = attribute("revision");
        let numa_node = tree.text(format!("{PCI_DEVICES}/{bus}/numa_node"));
        Some(json!({"vendor_id": vendor, "product_id": product, "class": class, "revision": revision, "bus": bus,
                    "numa_node_id": numa_node}))
    };
    tree.names(PCI_DEVICES).into_iter().filter_map(device).collect()
}

/// All USB devices but hubs. (Ironic's own agent takes those that lshw(1) cannot put into a class of its own.)
fn usb_devices(tree: &Tree) -> Value {
    let device = |name: String| {
        let attribute = |attribute: &str| tree.text(format!("{USB_DEVICES}/{name}/{attribute}"));
        let (bus, number) = (attribute("busnum")?, attribute("devnum")?);
        let texts = ["product", "manufacturer"].map(|name| attribute(name).unwrap_or_default());
        let [product, vendor] = texts;
        let leaf = attribute("bDeviceClass").as_deref() != Some(HUB);
        leaf.then(|| json!({"product": product, "vendor": vendor, "handle": format!("USB:{bus}:{number}")}))
    };
    tree.names(USB_DEVICES).into_iter().filter_map(device).collect()
}

/// Memory, processors and network cards of the NUMA nodes; `None` when a part is missing.
fn numa_topology(tree: &Tree) -> Option<Value> {
    let numbered = |folder: &str, prefix: &str| {
        let number = |name: &String| name.strip_prefix(prefix)?.parse::<u32>().ok();
        let mut numbers: Vec<u32> = tree.names(folder).iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    let mut ram = Vec::new();
    let mut cores: BTreeMap<(u32, i64), Vec<u32>> = BTreeMap::new();
    let nodes = numbered(NUMA_NODES, "node");
    if nodes.is_empty() {
        return None;
    }
    for node in nodes {
        let folder = format!("{NUMA_NODES}/node{node}");
        let meminfo = tree.text(format!("{folder}/meminfo"))?;
        let total = meminfo.lines().find(|line| line.contains("MemTotal"))?.split_once(':')?.1;
        let size_kb: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
        ram.push(json!({"numa_node": node, "size_kb": size_kb}));
        for thread in numbered(&folder, "cpu") {
            let core = tree.text(format!("{folder}/cpu{thread}/topology/core_id"))?.parse().ok()?;
            cores.entry((node, core)).or_default().push(thread);
        }
    }
    let cpus = cores.iter().map(|((node, core), threads)| {
        // The key `cpu` has the number of the core, which begins anew in each node.
        json!({"cpu": core, "numa_node": node, "thread_siblings": threads})
    });
    let cpus: Vec<Value> = cpus.collect();
    let card = |name: String| {
        let node: i64 = tree.text(format!("{INTERFACES}/{name}/device/numa_node"))?.parse().ok()?;
        Some(json!({"name": name, "numa_node": node}))
    };
    let nics: Vec<Value> = tree.names(INTERFACES).into_iter().filter_map(card).collect();
    Some(json!({"ram": ram, "cpus": cpus, "nics": nics}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Ironic's own agent found, recorded by ci/record/collectors.py, and a folder with the tree it was found in.
    fn recorded() -> (Value, tempfile::TempDir) {
        let recorded: Value = serde_json::from_str(include_str!("../../testdata/ipa/collectors.json")).unwrap();
        let root = tempfile::tempdir().unwrap();
        for (name, text) in recorded["tree"].as_object().unwrap() {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.as_str().unwrap()).unwrap();
        }
        (recorded, root)
    }

    /// The recorded lists are sorted by what they look like.
    fn in_order(value: &Value) -> Value {
        match value {
            Value::Array(list) => {
                let mut list: Vec<Value> = list.iter().map(in_order).collect();
                list.sort_by_key(ToString::to_string);
                list.into()
            }
            Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), in_order(value))).collect(),
            other => other.clone(),
        }
    }

    fn check(tree: &Tree, collector: &str, wanted: &Value) {
        let mut found = Collected::default();
        assert!(found.collect(collector, tree));
        assert_eq!(in_order(&Value::Object(found.data)), in_order(&wanted["data"]), "{collector}");
        let error = super::super::inspection::error(&found.problems);
        assert_eq!(json!(error), wanted["error"], "{collector}");
    }

    #[test]
    fn devices_and_nodes_are_told_as_the_fields_agent_tells_them() {
        let (recorded, root) = recorded();
        for collector in ["pci-devices", "numa-topology"] {
            check(&Tree::at(root.path()), collector, &recorded["found"][collector]);
        }
        std::fs::write(root.path().join("sys/devices/system/node/node1/meminfo"), "nothing\n").unwrap();
        let odd = &recorded["numa-topology without the memory of a node"];
        check(&Tree::at(root.path()), "numa-topology", odd);
        let empty = tempfile::tempdir().unwrap();
        for collector in ["pci-devices", "numa-topology"] {
            check(&Tree::at(empty.path()), collector, &recorded["without sysfs"][collector]);
        }
        check(&Tree::at(empty.path()), "extra-hardware", &recorded["without hardware-detect"]);
    }

    #[test]
    fn usb_devices_are_all_but_hubs() {
        let root = tempfile::tempdir().unwrap();
        for (device, attribute, text) in [
            ("usb1", "bDeviceClass", "09"),
            ("usb1", "busnum", "1"),
            ("usb1", "devnum", "1"),
            ("1-2", "bDeviceClass", "00"),
            ("1-2", "busnum", "1"),
            ("1-2", "devnum", "3"),
            ("1-2", "product", "Virtual Keyboard"),
            ("1-2", "manufacturer", "American Megatrends Inc."),
            ("1-2:1.0", "bInterfaceClass", "03"),
        ] {
            let folder = root.path().join("sys/bus/usb/devices").join(device);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(attribute), format!("{text}\n")).unwrap();
        }
        let mut found = Collected::default();
        assert!(found.collect("usb-devices", &Tree::at(root.path())));
        let wanted =
            json!([{"product": "Virtual Keyboard", "vendor": "American Megatrends Inc.", "handle": "USB:1:3"}]);
        assert_eq!(found.data["usb_devices"], wanted);
    }

    #[test]
    fn a_collector_that_nobody_has_is_no_collector() {
        assert!(!Collected::default().collect("odd", &Tree::at("/nonexistent")));
    }
}
