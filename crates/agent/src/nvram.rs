//! `clean_uefi_nvram`: boot entries of former systems go.

use crate::maintenance::{self, argsinfo, broken, params};
use crate::root_disk;
use crate::state::Shared;
use hardware::{BootEntry, StepCall, StepError};
use regex_lite::{Regex, RegexBuilder};
use serde_json::{Value, json};

/// What goes unless somebody says otherwise, as in ironic-python-agent: entries that lead to a partition, or to the usual
/// loaders.
const PATTERNS: [&str; 3] = [r"^HD\(", r"shim.*\.efi", r"grub.*\.efi"];
/// Patterns, and bytes of each.
const MOST_PATTERNS: usize = 64;
const LONGEST_PATTERN: usize = 1024;

pub(crate) fn arguments() -> Value {
    let about = "Json blob contains a list of regex patterns where any UEFI NVRAM entry matching that pattern will be \
                 deleted. Default value is '[\"^HD\\(\", \"shim.*\\.efi\", \"grub.*\\.efi\"]'";
    argsinfo(&[("match_patterns", about, false)])
}

pub(crate) async fn clean(shared: &Shared, call: StepCall) -> Result<Value, StepError> {
    let args = maintenance::arguments(&call, &arguments())?;
    let patterns = patterns(args.get("match_patterns").unwrap_or(&Value::Null))?;
    root_disk::may_write(shared, "clean_uefi_nvram").map_err(|error| maintenance::failed(&error))?;
    // Firmware variables are there when devices have their modules.
    shared.devices_ready().await;
    let removed = shared.on_machine(move |machine| {
        let old = matching(machine.boot_entries()?, &patterns);
        let numbers: Vec<u16> = old.iter().map(|entry| entry.number).collect();
        machine.remove_boot_entries(&numbers)?;
        // Firmware may say yes and keep them.
        let left: Vec<BootEntry> = machine.boot_entries()?.into_iter().filter(|entry| old.contains(entry)).collect();
        Ok((old, left))
    });
    let (old, left) = removed.await.map_err(|error| broken(call.kind, transport::client::chain(&error)))?;
    let shown = |entries: &[BootEntry]| entries.iter().map(ToString::to_string).collect::<Vec<_>>();
    if !left.is_empty() {
        let details = format!("the firmware keeps boot entries that were deleted: {}", shown(&left).join("; "));
        return Err(broken(call.kind, details));
    }
    let removed = shown(&old);
    tracing::info!(removed = removed.join("; "), "boot entries removed");
    Ok(json!({ "removed": removed }))
}

fn matching(entries: Vec<BootEntry>, patterns: &[Regex]) -> Vec<BootEntry> {
    entries.into_iter().filter(|entry| patterns.iter().any(|pattern| pattern.is_match(&entry.path))).collect()
}

fn patterns(given: &Value) -> Result<Vec<Regex>, StepError> {
    let wrong = |why: &str| params(format!("The match_patterns must be a list of strings: {given}; {why}"));
    let texts: Vec<&str> = match given {
        Value::Null => PATTERNS.to_vec(),
        Value::Array(list) if list.len() <= MOST_PATTERNS => list
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("each has to be a regular expression, such as \"^HD\\\\(\""))?,
        _ => return Err(wrong(&format!("at most {MOST_PATTERNS} regular expressions, such as [\"^HD\\\\(\"]"))),
    };
    let pattern = |text: &str| {
        if text.len() > LONGEST_PATTERN {
            return Err(wrong(&format!("one has more than {LONGEST_PATTERN} bytes")));
        }
        let built = RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build();
        built.map_err(|error| wrong(&format!("{text:?} is no regular expression here: {error}")))
    };
    texts.into_iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u16, path: &str) -> BootEntry {
        BootEntry { number, label: format!("entry {number}"), path: path.to_owned() }
    }

    #[test]
    fn systems_on_partitions_go_and_the_network_stays() {
        let entries = vec![
            entry(0, r"HD(1,GPT,x,0x800,0x100000)/File(\EFI\debian\shimx64.efi)"),
            entry(1, "PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400010203,1)/IPv4()"),
            entry(2, r"VenHw(x)/HD(1,GPT,x,0x800,0x100000)/File(\EFI\redhat\GRUBX64.EFI)"),
            entry(3, "FvVol(x)/FvFile(y)"),
        ];
        let numbers = |given: Value| -> Vec<u16> {
            matching(entries.clone(), &patterns(&given).unwrap()).iter().map(|entry| entry.number).collect()
        };
        assert_eq!(numbers(Value::Null), [0, 2]);
        assert_eq!(numbers(json!(["pciroot"])), [1]);
        assert_eq!(numbers(json!([])), [0; 0]);
    }

    #[test]
    fn what_is_no_list_of_patterns_is_refused() {
        for wrong in [json!("HD"), json!([1]), json!(["("]), json!({}), json!([["HD"]]), json!(vec!["x"; 65])] {
            match patterns(&wrong) {
                Err(StepError::Failed { class, details }) => {
                    assert_eq!(class, "InvalidCommandParamsError");
                    assert!(details.starts_with("The match_patterns must be a list of strings: "), "{details}");
                }
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }
}
