//! What is done to a node: provision verbs, power, maintenance, boot device; and its states.

use super::request::{Arguments, Call, short};
use super::versions::{
    ABORT_DEPLOY, ABORT_INSPECT, CONFIGDRIVE_OBJECT, DEPLOY_STEPS, DISABLE_RAMDISK, REBUILD_CONFIGDRIVE, RUNBOOKS,
    SERVICE_DISABLE_RAMDISK, SOFT_POWER, VENDOR_DATA,
};
use super::{Api, document, reply};
use crate::command::{Command, PowerTarget, ProvisionArguments};
use crate::fault::Fault;
use axum::body::Body;
use hardware::BootDevice;
use http::{Response, StatusCode};
use lifecycle::provision::{State, Verb};
use serde_json::{Map, Value, json};
use store::{Node, Store};
use wire::authorized_keys;

/// Boot devices that can be set.
const BOOT_DEVICES: &[&str] = &["pxe", "disk", "cdrom"];
/// Most steps of one request.
const MAX_STEPS: usize = 1000;

impl<S: Store> Api<S> {
    /// `GET /v1/nodes/<node>/states`
    pub(super) async fn show_states(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let node = self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &document::states(self.context(&call), &node)))
    }

    /// `PUT /v1/nodes/<node>/states/provision`
    pub(super) async fn provision(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let target = body.required("target")?;
        let verb: Verb = target.parse().map_err(|_| {
            let known: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
            Fault::Invalid(format!(
                "The requested action \"{}\" could not be understood; known are: {}.",
                short(&target),
                known.join(", ")
            ))
        })?;
        call.need(verb.since())?;
        let arguments = provision_arguments(&call, verb, &mut body)?;
        body.finish()?;
        let node = self.conductor.find(&ident).await?;
        check_abort(&call, verb, &node)?;
        check_rescue(verb, &arguments, &node)?;
        self.conductor.command(&ident, Command::Provision { verb, arguments }).await?;
        Ok(accepted(&call))
    }

    /// `PUT /v1/nodes/<node>/states/power`
    pub(super) async fn power(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let text = body.required("target")?;
        let timeout = body.number("timeout")?;
        body.finish()?;
        let target = match text.as_str() {
            "power on" => PowerTarget::On,
            "power off" => PowerTarget::Off,
            "rebooting" => PowerTarget::Reboot,
            "soft power off" => PowerTarget::SoftOff,
            "soft rebooting" => PowerTarget::SoftReboot,
            other => {
                return Err(Fault::Invalid(format!(
                    "The requested action \"{}\" could not be understood; known are: power on, power off, rebooting, \
                     soft power off, soft rebooting.",
                    short(other)
                )));
            }
        };
        if timeout.is_some() || matches!(target, PowerTarget::SoftOff | PowerTarget::SoftReboot) {
            call.need(SOFT_POWER)?;
        }
        if timeout == Some(0) {
            return Err(Fault::Invalid("timeout has to be positive integer".to_owned()));
        }
        self.conductor.command(&ident, Command::Power { target, timeout }).await?;
        Ok(accepted(&call))
    }

    /// `PUT` and `DELETE /v1/nodes/<node>/maintenance`
    pub(super) async fn maintenance(&self, mut call: Call, on: bool) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let reason = if on {
            let mut body = Arguments::new(call.object(true)?);
            let reason = body.text("reason")?;
            body.finish()?;
            reason
        } else {
            None
        };
        self.conductor.command(&ident, Command::Maintenance { on, reason }).await?;
        Ok(reply::empty(StatusCode::ACCEPTED))
    }

    /// `GET /v1/nodes/<node>/management/boot_device`: the BMC is asked; null is what it does not say.
    pub(super) async fn show_boot_device(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let found = self.conductor.boot_device_of(&call.node()?).await?;
        let name = |device| match device {
            BootDevice::Pxe => "pxe",
            BootDevice::Disk => "disk",
            BootDevice::Cdrom => "cdrom",
        };
        let device = found.map(|(device, _)| name(device));
        let persistent = found.map(|(_, persistent)| persistent);
        Ok(reply::json(StatusCode::OK, &json!({"boot_device": device, "persistent": persistent})))
    }

    /// `PUT /v1/nodes/<node>/management/boot_device`
    pub(super) async fn set_boot_device(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        let ident = call.node()?;
        let mut body = Arguments::new(call.object(false)?);
        let device = body.required("boot_device")?;
        let persistent = body.flag("persistent")?.unwrap_or_default();
        body.finish()?;
        if !BOOT_DEVICES.contains(&device.as_str()) {
            let (device, known) = (short(&device), BOOT_DEVICES.join(", "));
            return Err(Fault::Invalid(format!("Invalid boot device {device} specified; supported are: {known}.")));
        }
        self.conductor.command(&ident, Command::BootDevice { device, persistent }).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    /// `GET /v1/nodes/<node>/management/boot_device/supported`
    pub(super) async fn list_boot_devices(&self, mut call: Call) -> Result<Response<Body>, Fault> {
        std::mem::take(&mut call.query).finish()?;
        self.node(&call).await?;
        Ok(reply::json(StatusCode::OK, &json!({"supported_boot_devices": BOOT_DEVICES})))
    }
}

/// The reply to what goes on by itself: where to look.
pub(super) fn accepted(call: &Call) -> Response<Body> {
    let location = format!("{}/v1/nodes/{}/states", call.base, call.segment(0));
    reply::located(reply::empty(StatusCode::ACCEPTED), &location)
}

/// Takes the arguments of a verb; those of another verb are refused with both names.
fn provision_arguments(call: &Call, verb: Verb, body: &mut Arguments) -> Result<ProvisionArguments, Fault> {
    let deploys = matches!(verb, Verb::Active | Verb::Deploy | Verb::Rebuild);
    let only = |key: &str, given: bool, fits: bool, verbs: &str| {
        if given && !fits {
            return Err(Fault::Invalid(format!(
                "\"{key}\" is only valid when setting target provision state to {verbs}, not {verb}"
            )));
        }
        Ok(())
    };
    let configdrive = body.take("configdrive");
    only("configdrive", configdrive.is_some(), deploys, "active, deploy or rebuild")?;
    if let Some(configdrive) = &configdrive {
        check_configdrive(call, verb, configdrive)?;
    }
    let clean_steps = steps(body, "clean_steps", false)?;
    only("clean_steps", clean_steps.is_some(), verb == Verb::Clean, "clean")?;
    let deploy_steps = steps(body, "deploy_steps", true)?;
    only("deploy_steps", deploy_steps.is_some(), deploys, "active, deploy or rebuild")?;
    if deploy_steps.is_some() {
        call.need(DEPLOY_STEPS)?;
    }
    let service_steps = steps(body, "service_steps", false)?;
    only("service_steps", service_steps.is_some(), verb == Verb::Service, "service")?;
    let runbook = body.text("runbook")?;
    only("runbook", runbook.is_some(), matches!(verb, Verb::Clean | Verb::Service), "clean or service")?;
    if runbook.is_some() {
        call.need(RUNBOOKS)?;
        if clean_steps.is_some() || service_steps.is_some() {
            let text = "Please provide either a list of steps or a runbook, but not both.";
            return Err(Fault::Invalid(text.to_owned()));
        }
    }
    let rescue_password = body.text("rescue_password")?;
    only("rescue_password", rescue_password.is_some(), verb == Verb::Rescue, "rescue")?;
    let keys = body.take(authorized_keys::KEY);
    only(authorized_keys::KEY, keys.is_some(), verb == Verb::Rescue, "rescue")?;
    let keys = keys.map(|keys| authorized_keys::read(Some(&keys))).transpose();
    let rescue_authorized_keys =
        keys.map_err(|why| Fault::Invalid(format!("{}: {why}", authorized_keys::KEY)))?.filter(|keys| !keys.is_empty());
    let disable_ramdisk = body.flag("disable_ramdisk")?;
    only(
        "disable_ramdisk",
        disable_ramdisk.is_some(),
        matches!(verb, Verb::Clean | Verb::Service),
        "clean or service",
    )?;
    if disable_ramdisk.is_some() {
        call.need(if verb == Verb::Clean { DISABLE_RAMDISK } else { SERVICE_DISABLE_RAMDISK })?;
    }
    let missing = match verb {
        Verb::Clean if runbook.is_none() && clean_steps.as_ref().is_none_or(Vec::is_empty) => {
            Some("\"clean_steps\" is")
        }
        Verb::Service if runbook.is_none() && service_steps.as_ref().is_none_or(Vec::is_empty) => {
            Some("\"service_steps\" is")
        }
        _ => None,
    };
    if let Some(missing) = missing {
        return Err(Fault::Invalid(format!("{missing} required when setting target provision state to {verb}")));
    }
    let rescue_password = rescue_password.filter(|text| !text.trim().is_empty());
    Ok(ProvisionArguments {
        configdrive,
        clean_steps,
        deploy_steps,
        service_steps,
        runbook,
        rescue_password,
        rescue_authorized_keys,
        disable_ramdisk,
    })
}

fn check_configdrive(call: &Call, verb: Verb, configdrive: &Value) -> Result<(), Fault> {
    if verb == Verb::Rebuild {
        call.need(REBUILD_CONFIGDRIVE)?;
    }
    match configdrive {
        Value::String(text) => {
            let url = text.starts_with("http://") || text.starts_with("https://");
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(&byte);
            if url || text.bytes().all(base64) {
                return Ok(());
            }
            Err(Fault::Invalid(
                "configdrive is neither an http(s) URL nor base64 of a gzipped ISO 9660 or FAT image.".to_owned(),
            ))
        }
        Value::Object(parts) => {
            call.need(CONFIGDRIVE_OBJECT)?;
            if parts.contains_key("vendor_data") {
                call.need(VENDOR_DATA)?;
            }
            for (name, part) in parts {
                let fits = match name.as_str() {
                    "meta_data" | "network_data" | "vendor_data" => part.is_object() || part.is_null(),
                    "user_data" => part.is_object() || part.is_string() || part.is_array() || part.is_null(),
                    _ => {
                        let name = short(name);
                        return Err(Fault::Invalid(format!(
                            "Schema error for configdrive: '{name}' is unexpected; it has meta_data, network_data, \
                             user_data and vendor_data"
                        )));
                    }
                };
                if !fits {
                    return Err(Fault::Invalid(format!("Schema error for configdrive: {name} has the wrong type")));
                }
            }
            Ok(())
        }
        _ => Err(Fault::Invalid("configdrive must be a string or an object.".to_owned())),
    }
}

/// Takes a list of steps `{interface, step, args?}`; a deploy step has a priority as well.
fn steps(body: &mut Arguments, key: &str, deploy: bool) -> Result<Option<Vec<Map<String, Value>>>, Fault> {
    let Some(value) = body.take(key) else { return Ok(None) };
    let invalid = |why: String| Fault::Invalid(format!("Schema error for {key}: {why}"));
    let Value::Array(list) = value else { return Err(invalid("it must be a list".to_owned())) };
    if list.len() > MAX_STEPS {
        return Err(invalid(format!("more than {MAX_STEPS} steps")));
    }
    let mut steps = Vec::with_capacity(list.len());
    for (number, step) in list.into_iter().enumerate() {
        let Value::Object(step) = step else { return Err(invalid(format!("step {number} must be an object"))) };
        for name in ["interface", "step"] {
            match step.get(name) {
                Some(Value::String(text)) if !text.is_empty() => {}
                Some(_) => return Err(invalid(format!("'{name}' of step {number} must be a string"))),
                None => return Err(invalid(format!("'{name}' is a required property of step {number}"))),
            }
        }
        if step.get("args").is_some_and(|args| !args.is_object()) {
            return Err(invalid(format!("'args' of step {number} must be an object")));
        }
        let priority = step.get("priority");
        if deploy && !priority.is_some_and(Value::is_u64) {
            return Err(invalid(format!("'priority' of step {number} must be a whole number, not negative")));
        }
        let mut known = vec!["interface", "step", "args", "execute_on_child_nodes", "limit_child_node_execution"];
        known.extend(deploy.then_some("priority"));
        if let Some(stranger) = step.keys().find(|name| !known.contains(&name.as_str())) {
            let (stranger, known) = (short(stranger), known.join(", "));
            return Err(invalid(format!("'{stranger}' of step {number} is unexpected; a step has {known}")));
        }
        steps.push(step);
    }
    Ok(Some(steps))
}

/// Whether somebody could log in to a rescue: by a password, as Ironic wants it, or by public keys, which are an addition of ours.
fn check_rescue(verb: Verb, arguments: &ProvisionArguments, node: &Node) -> Result<(), Fault> {
    let by_request = arguments.rescue_password.is_some() || arguments.rescue_authorized_keys.is_some();
    if verb != Verb::Rescue || by_request {
        return Ok(());
    }
    let keys = node.instance_info.get(authorized_keys::KEY);
    if keys.is_some_and(|keys| !keys.is_null()) {
        return Ok(());
    }
    let text = format!("A non-empty \"rescue_password\" is required when setting target provision state to {verb}");
    Err(Fault::Invalid(text))
}

/// Whether the version may abort what the node waits for.
fn check_abort(call: &Call, verb: Verb, node: &Node) -> Result<(), Fault> {
    match (verb, node.provision_state) {
        (Verb::Abort, State::InspectWait) => call.need(ABORT_INSPECT),
        (Verb::Abort, State::DeployWait) => call.need(ABORT_DEPLOY),
        _ => Ok(()),
    }
}
