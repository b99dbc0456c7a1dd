//! Whether a node's settings make sense, interface by interface. Nothing is sent anywhere.

use super::{Interface, interface_of};
use crate::effect::cmdline;
use crate::flow::{boots_virtual_media, configdrive, image};
use hardware::hint::Hints;
use serde_json::Value;
use std::collections::BTreeMap;
use store::Node;
use transport::client::chain;

/// The result: interface → what is wrong with it, in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validation(pub BTreeMap<&'static str, Result<(), String>>);

impl Validation {
    /// The first thing that is wrong among these interfaces.
    pub fn first_problem(&self, interfaces: &[Interface]) -> Option<String> {
        interfaces.iter().find_map(|interface| self.0.get(interface.as_str())?.clone().err())
    }
}

/// Looks at every interface.
pub fn validate(node: &Node) -> Validation {
    Validation(Interface::ALL.into_iter().map(|interface| (interface.as_str(), check(node, interface))).collect())
}

fn check(node: &Node, interface: Interface) -> Result<(), String> {
    let chosen = interface_of(node, interface);
    if chosen.starts_with("no-") || chosen.is_empty() {
        return Err(format!(
            "Driver {} does not support {} (disabled or not implemented).",
            node.driver,
            interface.as_str()
        ));
    }
    match interface {
        Interface::Bios | Interface::Firmware | Interface::Management | Interface::Power if chosen == "redfish" => {
            redfish(node)
        }
        Interface::Boot if boots_virtual_media(node) => {
            redfish(node)?;
            append_parameters(node)
        }
        Interface::Deploy if chosen == "direct" => deploy(node),
        _ => Ok(()),
    }
}

fn redfish(node: &Node) -> Result<(), String> {
    bmc::Settings::from_driver_info(&node.driver_info).map(drop).map_err(|error| chain(&error))
}

fn append_parameters(node: &Node) -> Result<(), String> {
    for (place, map) in [("instance_info", &node.instance_info), ("driver_info", &node.driver_info)] {
        match map.get("kernel_append_params") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                cmdline::Parameters::parse(text)
                    .map_err(|error| format!("{place}/kernel_append_params: {}", chain(&error)))?;
            }
            Some(_) => return Err(format!("{place}/kernel_append_params is not a text")),
        }
    }
    Ok(())
}

fn deploy(node: &Node) -> Result<(), String> {
    image::image_info(node).map_err(|error| chain(&error))?;
    for (place, map) in [("instance_info", &node.instance_info), ("properties", &node.properties)] {
        match map.get("root_device") {
            None | Some(Value::Null) => {}
            Some(Value::Object(hints)) => {
                Hints::parse(hints).map_err(|error| format!("{place}/root_device: {}", chain(&error)))?;
            }
            Some(_) => return Err(format!("{place}/root_device is not an object of hints")),
        }
    }
    configdrive::for_agent(node).map(drop).map_err(|error| chain(&error))
}
