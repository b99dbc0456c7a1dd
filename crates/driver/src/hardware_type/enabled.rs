//! What a site has enabled: hardware types, the implementations of each interface, and which of them is the default.
//! The words and the rules are those of `ironic.conf`: `enabled_hardware_types`, `enabled_<kind>_interfaces`,
//! `default_<kind>_interface`.

use super::{HARDWARE_TYPES, HardwareType, Interface};
use crate::fault::Fault;
use std::collections::BTreeMap;
use store::Node;

/// The type whose nodes may have any implementation that a site has named, so that combinations can be tried.
const FREE: &str = "fake-hardware";

/// Why a site's choice makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The setting: `enabled_hardware_types`, `enabled_boot_interfaces`, `default_boot_interface`, ….
    pub setting: String,
    /// Why, and what to choose.
    pub reason: String,
}

/// A site's choice; by default every hardware type with all that it supports. Then a fake of an interface that a node can
/// do without is there for those who ask for it and nobody's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enabled {
    types: Option<Vec<String>>,
    interfaces: BTreeMap<Interface, Vec<String>>,
    defaults: BTreeMap<Interface, String>,
}

/// A list as `ironic.conf` has it: names with commas between them.
fn names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Every implementation that any hardware type has.
fn known(interface: Interface) -> Vec<&'static str> {
    let mut known: Vec<_> = HARDWARE_TYPES.iter().flat_map(|kind| kind.supported(interface)).copied().collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// A list of names as Ironic prints it.
fn printed<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{}'", name.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

impl Enabled {
    /// Reads a site's choice: the hardware types, and of each interface the list and the default, where they are set.
    ///
    /// # Errors
    /// [`Refused`]: an unknown name, an empty list, or a hardware type that is left without one of its interfaces.
    pub fn read<'a>(
        types: Option<&str>,
        interfaces: impl IntoIterator<Item = (Interface, Option<&'a str>, Option<&'a str>)>,
    ) -> Result<Self, Refused> {
        let mut enabled = Self::default();
        if let Some(text) = types {
            let known: Vec<&str> = HARDWARE_TYPES.iter().map(|kind| kind.name).collect();
            enabled.types = Some(read_list("enabled_hardware_types", text, &known)?);
        }
        for (interface, list, default) in interfaces {
            let (kind, known) = (interface.as_str(), known(interface));
            if let Some(text) = list {
                let names = read_list(&format!("enabled_{kind}_interfaces"), text, &known)?;
                enabled.interfaces.insert(interface, names);
            }
            if let Some(name) = default.map(str::trim).filter(|name| !name.is_empty()) {
                let named = enabled.interfaces.get(&interface);
                if !named.map_or(known.contains(&name), |list| list.iter().any(|known| known == name)) {
                    return Err(Refused {
                        setting: format!("default_{kind}_interface"),
                        reason: format!("\"{name}\" is none of enabled_{kind}_interfaces"),
                    });
                }
                enabled.defaults.insert(interface, name.to_owned());
            }
        }
        enabled.check()?;
        Ok(enabled)
    }

    /// Whether every hardware type has a default for every interface.
    fn check(&self) -> Result<(), Refused> {
        for kind in self.types() {
            for interface in Interface::ALL {
                if self.default_of(kind, interface).is_some() {
                    continue;
                }
                let (name, supported) = (interface.as_str(), kind.supported(interface).join(", "));
                let setting = match self.defaults.get(&interface) {
                    Some(_) => format!("default_{name}_interface"),
                    None => format!("enabled_{name}_interfaces"),
                };
                let reason = format!(
                    "hardware type {} is enabled and has no default {name} interface; enable one of: {supported}, or \
                     take the type out of enabled_hardware_types",
                    kind.name
                );
                return Err(Refused { setting, reason });
            }
        }
        Ok(())
    }

    /// The hardware types, by name.
    pub fn types(&self) -> impl Iterator<Item = &'static HardwareType> {
        let named = |name: &str| self.types.as_ref().is_none_or(|types| types.iter().any(|known| known == name));
        HARDWARE_TYPES.iter().filter(move |kind| named(kind.name))
    }

    /// A hardware type by name.
    pub fn named(&self, name: &str) -> Option<&'static HardwareType> {
        self.types().find(|kind| kind.name == name)
    }

    /// The implementations of an interface that a type supports and the site has enabled, best first.
    pub fn of(&self, kind: &HardwareType, interface: Interface) -> Vec<&'static str> {
        let enabled = |name: &&str| {
            self.interfaces.get(&interface).is_none_or(|list| list.iter().any(|known| known.as_str() == *name))
        };
        kind.supported(interface).iter().copied().filter(enabled).collect()
    }

    /// The implementation that a node of a type gets when nobody chooses; `None` where the site has left it none.
    pub fn default_of(&self, kind: &HardwareType, interface: Interface) -> Option<&str> {
        if let Some(default) = self.defaults.get(&interface) {
            return self.may_have(kind, interface, default).then_some(default);
        }
        let enabled = self.of(kind, interface);
        let asked = self.interfaces.contains_key(&interface) || !is_optional(interface);
        enabled.iter().find(|name| asked || **name != "fake").or(enabled.first()).copied()
    }

    /// Whether a node of a type may have an implementation.
    fn may_have(&self, kind: &HardwareType, interface: Interface, name: &str) -> bool {
        match self.interfaces.get(&interface) {
            Some(list) if kind.name == FREE => list.iter().any(|known| known == name),
            _ => self.of(kind, interface).contains(&name),
        }
    }

    /// Why a node cannot have an implementation, in Ironic's words.
    fn problem(&self, kind: &HardwareType, interface: Interface, name: &str) -> Option<String> {
        if self.may_have(kind, interface, name) {
            return None;
        }
        let (word, own) = (interface.as_str(), self.of(kind, interface));
        let valid = match self.interfaces.get(&interface) {
            Some(list) => list.iter().map(String::as_str).collect(),
            None => known(interface),
        };
        let short: String = name.chars().take(64).collect();
        Some(if valid.contains(&name) {
            format!(
                "{word} interface implementation '{short}' is not supported by hardware type {}. Those that are: {}.",
                kind.name,
                own.join(", ")
            )
        } else {
            let valid = printed(&valid);
            format!(
                "Could not find the following interface in the 'ironic.hardware.interfaces.{word}' entrypoint: {short}. \
                 Valid interfaces are {valid}."
            )
        })
    }

    /// Checks the interfaces of a node that were chosen, and gives it the defaults of the others.
    ///
    /// # Errors
    /// [`Fault::Invalid`] naming what is possible.
    pub fn compose(&self, node: &mut Node) -> Result<(), Fault> {
        let kind = self.find(&node.driver)?;
        for interface in Interface::ALL {
            let word = interface.as_str();
            let Some(chosen) = node.interfaces.get(word) else {
                let Some(default) = self.default_of(kind, interface) else {
                    return Err(Fault::Invalid(format!(
                        "For node {} with hardware type '{}', no default value found for {word} interface could be \
                         determined. Please ensure the interfaces are enabled.",
                        node.uuid, kind.name
                    )));
                };
                node.interfaces.insert(word.to_owned(), default.to_owned());
                continue;
            };
            if let Some(problem) = self.problem(kind, interface, chosen) {
                return Err(Fault::Invalid(problem));
            }
        }
        Ok(())
    }

    /// Whether a node still is what the site has enabled; a site may change its mind.
    ///
    /// # Errors
    /// [`Fault::Invalid`] naming what is not enabled any more.
    pub fn check_node(&self, node: &Node) -> Result<(), Fault> {
        self.compose(&mut node.clone())
    }

    /// A hardware type by name.
    ///
    /// # Errors
    /// [`Fault::Invalid`] naming those that there are.
    pub fn find(&self, name: &str) -> Result<&'static HardwareType, Fault> {
        self.named(name).ok_or_else(|| {
            let known = self.types().map(|known| known.name).collect::<Vec<_>>().join(", ");
            let short: String = name.chars().take(64).collect();
            Fault::Invalid(format!(
                "No valid host was found. Reason: No conductor service registered which supports driver {short} for \
                 conductor group \"\". Known drivers: {known}."
            ))
        })
    }
}

/// Whether a node can do without.
const fn is_optional(interface: Interface) -> bool {
    match interface {
        Interface::Bios
        | Interface::Console
        | Interface::Firmware
        | Interface::Network
        | Interface::Raid
        | Interface::Rescue
        | Interface::Storage
        | Interface::Vendor => true,
        Interface::Boot | Interface::Deploy | Interface::Inspect | Interface::Management | Interface::Power => false,
    }
}

fn read_list(setting: &str, text: &str, known: &[&str]) -> Result<Vec<String>, Refused> {
    let names = names(text);
    let refuse = |reason: String| Err(Refused { setting: setting.to_owned(), reason });
    if names.is_empty() {
        return refuse(format!("it names nothing; known are: {}", known.join(", ")));
    }
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => refuse(format!("\"{unknown}\" is not known; known are: {}", known.join(", "))),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use uuid::Uuid;

    fn node(driver: &str, chosen: &[(&str, &str)]) -> Node {
        let mut node = Node::new(Uuid::nil(), driver, Timestamp::UNIX_EPOCH);
        node.interfaces = chosen.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect();
        node
    }

    fn read(types: Option<&str>, rows: &[(Interface, Option<&str>, Option<&str>)]) -> Result<Enabled, Refused> {
        Enabled::read(types, rows.iter().copied())
    }

    #[test]
    fn what_is_enabled_and_default_when_nothing_is_configured_is_reviewed() {
        let enabled = Enabled::default();
        let mut text = String::new();
        for kind in enabled.types() {
            for interface in Interface::ALL {
                let list = enabled.of(kind, interface).join(", ");
                let default = enabled.default_of(kind, interface).unwrap();
                text.push_str(&format!("{:18} {:10} {default:22} of {list}\n", kind.name, interface.as_str()));
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_configured_list_is_what_nodes_may_have_and_its_best_is_the_default() {
        let rows =
            [(Interface::Bios, Some("no-bios, fake"), None), (Interface::Deploy, Some("direct,fake"), Some("direct"))];
        let enabled = read(Some("fake-hardware"), &rows).unwrap();
        let mut composed = node("fake-hardware", &[]);
        enabled.compose(&mut composed).unwrap();
        assert_eq!(composed.interfaces["bios"], "fake", "the hardware type's order counts, not the list's");
        assert_eq!(composed.interfaces["deploy"], "direct", "what is the default by name");
        assert_eq!(composed.interfaces["raid"], "no-raid", "no fake by default where nothing is configured");
        let fault = enabled.compose(&mut node("redfish", &[])).unwrap_err().to_string();
        assert!(fault.contains("supports driver redfish") && fault.contains("fake-hardware"), "{fault}");
    }

    #[test]
    fn fake_hardware_may_have_whatever_the_site_names_and_no_other_type_may() {
        let rows = [(Interface::Boot, Some("fake,redfish-virtual-media"), None)];
        let enabled = read(None, &rows).unwrap();
        enabled.compose(&mut node("fake-hardware", &[("boot", "redfish-virtual-media")])).unwrap();
        let fault = enabled.compose(&mut node("redfish", &[("boot", "fake")])).unwrap_err().to_string();
        assert!(
            fault.contains("boot interface implementation 'fake' is not supported by hardware type redfish"),
            "{fault}"
        );
    }

    #[test]
    fn a_name_that_is_not_enabled_is_refused_with_those_that_are() {
        let enabled = read(Some("fake-hardware"), &[(Interface::Deploy, Some("fake"), None)]).unwrap();
        let fault = enabled.compose(&mut node("fake-hardware", &[("deploy", "direct")])).unwrap_err().to_string();
        assert_eq!(
            fault,
            "Could not find the following interface in the 'ironic.hardware.interfaces.deploy' entrypoint: direct. Valid \
             interfaces are ['fake']."
        );
        // It was enrolled before the site changed its mind.
        let mut old = node("fake-hardware", &[("deploy", "direct")]);
        Enabled::default().compose(&mut old).unwrap();
        assert!(enabled.check_node(&old).is_err());
    }

    #[test]
    fn choices_that_make_no_sense_name_the_setting() {
        let refused = |types, rows: &[(Interface, Option<&str>, Option<&str>)]| {
            let refused = read(types, rows).unwrap_err();
            format!("{}: {}", refused.setting, refused.reason)
        };
        let texts = [
            refused(Some("ipmi"), &[]),
            refused(Some(" , "), &[]),
            refused(None, &[(Interface::Boot, Some("ipxe"), None)]),
            refused(None, &[(Interface::Boot, Some("fake"), None)]),
            refused(None, &[(Interface::Boot, Some("fake,redfish-virtual-media"), Some("pxe"))]),
            refused(None, &[(Interface::Boot, None, Some("fake"))]),
        ];
        insta::assert_snapshot!(texts.join("\n"));
        assert!(read(Some("fake-hardware"), &[(Interface::Boot, None, Some("fake"))]).is_ok());
    }
}
