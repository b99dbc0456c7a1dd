//! What hangs off a node's hardware: virtual media, indicators, RAID, boot mode, console, and the ports of a network
//! service. What no interface of the node can do is refused with the interface's name.

use super::node_states::accepted;
use super::request::{Arguments, Call, short};
use super::versions::VIF_PORTS;
use super::{Api, list, reply};
use crate::command::Command;
use crate::fault::Fault;
use crate::hardware_type::{Interface, interface_of};
use axum::body::Body;
use hardware::{BootMode, Light};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use store::{Node, Store};
use uuid::Uuid;

/// Devices of virtual media; of these, BMCs are asked for a CD.
const MEDIA: &[&str] = &["cdrom", "disk", "floppy"];
/// Longest URL of an image.
const MAX_URL: usize = 2048;

/// What a node's driver gets asked for that it cannot do. Ironic's text.
pub(super) fn unsupported(node: &Node, what: &str) -> Fault {
    Fault::Invalid(format!("Driver {} does not support {what} (disabled or not implemented).", node.driver))
}

fn is_fake(node: &Node, interface: Interface) -> bool {
    interface_of(node, interface) == "fake"
}

/// Levels of RAID that a logical disk may have (Ironic's schema).
const RAID_LEVELS: &[&str] = &["JBOD", "0", "1", "2", "5", "6", "1+0", "5+0", "6+0"];

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/vifs`. The network interface `noop` attaches nothing, so there is nothing to list.
    pub(super) async fn list_vifs(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &json!({"vifs": []})))
    }

    /// `POST /v1/nodes/<node>/vifs`. `noop` takes any port of any network service and leaves it alone.
    pub(super) async fn attach_vif(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let id = body.required("id")?;
        if !super::request::is_name(&id) {
            return Err(Fault::Invalid(format!(
                "Expected a UUID or a name for id of a VIF but received {}.",
                short(&id)
            )));
        }
        let mut places = 0;
        if call.has(VIF_PORTS) {
            for name in ["port_uuid", "portgroup_uuid"] {
                if let Some(text) = body.text(name)? {
                    Uuid::try_parse(&text).map_err(|_| {
                        Fault::Invalid(format!("Expected a UUID for {name} but received {}.", short(&text)))
                    })?;
                    places += 1;
                }
            }
        }
        if places > 1 {
            return Err(Fault::Invalid("Cannot specify both port_uuid and portgroup_uuid".to_owned()));
        }
        // A VIF may have properties of its own, which `noop` has no use for.
        self.unlocked(&call).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `DELETE /v1/nodes/<node>/vifs/<vif>`
    pub(super) async fn detach_vif(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.unlocked(&call).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// The node that the path names, when nobody works on it.
    async fn unlocked(&self, call: &Call) -> Result<Node, Fault> {
        let node = self.node(call).await?;
        match &node.reservation {
            None => Ok(node),
            Some(host) => Err(Fault::Conflict(format!(
                "Node {} is locked by host {host}, please retry after the current operation is completed.",
                node.uuid
            ))),
        }
    }

    /// `GET /v1/nodes/<node>/vmedia`. What a BMC has inserted is not kept here.
    pub(super) async fn list_virtual_media(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        Err(unsupported(&node, "get_virtual_media"))
    }

    /// `POST /v1/nodes/<node>/vmedia`
    pub(super) async fn attach_virtual_media(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let device = body.required("device_type")?;
        let url = body.required("image_url")?;
        let source = body.text("image_download_source")?.unwrap_or_else(|| "local".to_owned());
        body.finish()?;
        check_media(&[device.as_str()])?;
        if !["local", "http", "swift"].contains(&source.as_str()) {
            let source = short(&source);
            return Err(Fault::Invalid(format!("image_download_source is http, local or swift, not {source}")));
        }
        let fits = |byte: u8| byte.is_ascii_graphic();
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        if host.is_none_or(str::is_empty) || url.len() > MAX_URL || !url.bytes().all(fits) {
            return Err(Fault::Invalid(format!(
                "Unsupported or missing URL scheme: image_url must be an http or https URL that the BMC reaches, not {}",
                short(&url)
            )));
        }
        let node = self.conductor.find(&ident).await?;
        if device != "cdrom" && !is_fake(&node, Interface::Management) {
            return Err(unsupported(&node, &format!("virtual media of type {device}; cdrom is")));
        }
        self.conductor.command(&ident, Command::InsertMedia { url }).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `DELETE /v1/nodes/<node>/vmedia`, with `?device_types=` or a device as the last segment.
    pub(super) async fn detach_virtual_media(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        let mut query = std::mem::take(&mut call.query);
        let mut devices = query.take("device_types").map(|text| list::names(&text)).unwrap_or_default();
        query.finish()?;
        devices.extend(call.segments.get(1).cloned());
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        check_media(&devices)?;
        let ident = call.node()?;
        let node = self.conductor.find(&ident).await?;
        if !devices.is_empty() && !devices.contains(&"cdrom") && !is_fake(&node, Interface::Management) {
            return Err(unsupported(&node, &format!("virtual media of type {}; cdrom is", devices.join(", "))));
        }
        self.conductor.command(&ident, Command::EjectMedia).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `GET /v1/nodes/<node>/management/indicators`
    pub(super) async fn list_indicators(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let found = self.conductor.indicators_of(&call.node()?).await?;
        let path = format!("nodes/{}/management/indicators", call.segment(0));
        let indicator = |light: &hardware::Indicator| {
            let name = format!("{}@{}", light.name, light.component);
            json!({
                "name": name,
                "component": light.component,
                "readonly": light.readonly,
                "states": light.states,
                "links": super::document::links(&call.base, &format!("{path}/{name}")),
            })
        };
        let indicators: Vec<Value> = found.iter().map(indicator).collect();
        Ok(reply::json(StatusCode::OK, &json!({"indicators": indicators})))
    }

    /// `GET /v1/nodes/<node>/management/indicators/<name@component>`
    pub(super) async fn show_indicator(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let (name, component) = indicator_of(&call)?;
        let light = self.conductor.indicator_of(&call.node()?, component, name).await?;
        Ok(reply::json(StatusCode::OK, &json!({"state": light})))
    }

    /// `PUT /v1/nodes/<node>/management/indicators/<name@component>`
    pub(super) async fn set_indicator(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let state = body.required("state")?;
        body.finish()?;
        let light = match state.to_ascii_lowercase().as_str() {
            "on" => Light::On,
            "off" => Light::Off,
            "blinking" => Light::Blinking,
            "unknown" => Light::Unknown,
            _ => {
                let state = short(&state);
                return Err(Fault::Invalid(format!(
                    "state of an indicator is on, off, blinking or unknown, not {state}"
                )));
            }
        };
        let (name, component) = indicator_of(&call)?;
        let (name, component) = (name.to_owned(), component.to_owned());
        self.conductor.command(&call.node()?, Command::Indicator { component, name, light }).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `PUT /v1/nodes/<node>/management/inject_nmi`
    pub(super) async fn inject_nmi(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        Arguments::new(call.object(true)?).finish()?;
        self.conductor.command(&call.node()?, Command::InjectNmi).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `PUT /v1/nodes/<node>/states/raid`
    pub(super) async fn set_target_raid(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let wrapped = body.take("target_raid_config");
        let config = match wrapped {
            Some(Value::Object(config)) => {
                body.finish()?;
                config
            }
            Some(_) => return Err(Fault::Invalid("Expected an object for target_raid_config.".to_owned())),
            None => call.object(false)?,
        };
        let node = self.conductor.find(&ident).await?;
        if interface_of(&node, Interface::Raid).starts_with("no-") {
            let text = unsupported(&node, "set_target_raid_config").to_string();
            return Err(Fault::NotFound(text));
        }
        check_raid(&config).map_err(|why| Fault::Invalid(format!("RAID config validation error: {why}")))?;
        self.conductor.command(&ident, Command::TargetRaid(config)).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `PUT /v1/nodes/<node>/states/boot_mode`
    pub(super) async fn set_boot_mode(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let target = body.required("target")?;
        body.finish()?;
        let mode = match target.as_str() {
            "uefi" => BootMode::Uefi,
            "bios" => BootMode::Bios,
            other => {
                return Err(Fault::Invalid(format!(
                    "Invalid boot mode {} requested for node. Allowed boot modes are: bios, uefi",
                    short(other)
                )));
            }
        };
        self.conductor.command(&call.node()?, Command::BootMode(mode)).await?;
        Ok(accepted(&call))
    }

    /// `PUT /v1/nodes/<node>/states/secure_boot`
    pub(super) async fn set_secure_boot(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let mut body = Arguments::new(call.object(false)?);
        let Some(on) = body.flag("target")? else {
            return Err(Fault::Invalid("Missing mandatory parameter: target".to_owned()));
        };
        body.finish()?;
        self.conductor.command(&call.node()?, Command::SecureBoot(on)).await?;
        Ok(accepted(&call))
    }

    /// `GET /v1/nodes/<node>/states/console`
    pub(super) async fn show_console(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        if !is_fake(&node, Interface::Console) {
            return Err(unsupported(&node, "console"));
        }
        let on = node.attributes.get("console_enabled") == Some(&Value::Bool(true));
        let info = if on { json!({}) } else { Value::Null };
        Ok(reply::json(StatusCode::OK, &json!({"console_enabled": on, "console_info": info})))
    }

    /// `PUT /v1/nodes/<node>/states/console`
    pub(super) async fn set_console(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let Some(on) = body.flag("enabled")? else {
            return Err(Fault::Invalid("Missing mandatory parameter: enabled".to_owned()));
        };
        body.finish()?;
        let node = self.conductor.find(&ident).await?;
        if !is_fake(&node, Interface::Console) {
            return Err(unsupported(&node, "console"));
        }
        self.conductor.command(&ident, Command::Console { on }).await?;
        let location = format!("{}/v1/nodes/{}/states/console", call.base, call.segment(0));
        Ok(reply::located(reply::empty(StatusCode::ACCEPTED), &location))
    }
}

fn check_media(devices: &[&str]) -> Result<(), Fault> {
    match devices.iter().find(|device| !MEDIA.contains(device)) {
        None => Ok(()),
        Some(bad) => {
            let (bad, known) = (short(bad), MEDIA.join(", "));
            Err(Fault::Invalid(format!("Invalid device type(s) {bad} (valid are {known})")))
        }
    }
}

/// The name and the component of `<name@component>`.
fn indicator_of(call: &Call) -> Result<(&str, &str), Fault> {
    call.segment(1).split_once('@').filter(|(name, component)| !name.is_empty() && !component.is_empty()).ok_or_else(
        || Fault::Invalid(format!("An indicator is named as <name>@<component>, not {}", short(call.segment(1)))),
    )
}

/// Whether a RAID configuration is one by what every RAID interface asks for: the sizes and levels of its disks.
fn check_raid(config: &Map<String, Value>) -> Result<(), String> {
    if config.is_empty() {
        return Ok(());
    }
    let Some(disks) = config.get("logical_disks").and_then(Value::as_array) else {
        return Err("'logical_disks' is a required property and must be a list".to_owned());
    };
    if disks.is_empty() {
        return Err("'logical_disks' must not be empty".to_owned());
    }
    for (number, disk) in disks.iter().enumerate() {
        let size = disk.get("size_gb");
        if !size.is_some_and(|size| size.as_u64().is_some_and(|size| size > 0) || size == "MAX") {
            return Err(format!("'size_gb' of disk {number} must be a whole number of GiB or \"MAX\""));
        }
        let level = disk.get("raid_level").and_then(Value::as_str);
        if !level.is_some_and(|level| RAID_LEVELS.contains(&level)) {
            return Err(format!("'raid_level' of disk {number} must be one of {}", RAID_LEVELS.join(", ")));
        }
    }
    Ok(())
}
