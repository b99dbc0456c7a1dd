//! Which disk the node's system goes on, and whether this machine may be changed at all.

use crate::command::{AgentError, Class};
use crate::state::Shared;
use hardware::{Disk, Plan, hint};
use serde_json::Value;

/// Refuses `what` on a machine that may only be read: an agent that runs as a program on somebody's host.
pub fn may_write(shared: &Shared, what: &str) -> Result<(), AgentError> {
    if shared.machine.may_write() {
        return Ok(());
    }
    let details = format!(
        "{what} is refused: this agent runs as a program on a host that it may not change; boot its ramdisk on the \
         machine to do that"
    );
    Err(AgentError::failed(details))
}

/// Chooses the root disk by the node's hints, waiting for a disk that has not shown up yet, and returns it with the plan
/// that may grant it.
pub async fn choose(shared: &Shared) -> Result<(Disk, Plan), AgentError> {
    let settings = shared.settings();
    shared.devices_ready().await;
    let mut attempt = 1;
    loop {
        let disks = shared.on_machine(|machine| machine.disks()).await?;
        match select(shared, disks) {
            Ok(chosen) => return Ok(chosen),
            Err(error) if is_final(&error) || attempt >= settings.disk_wait_attempts => {
                return Err(AgentError::new(Class::DeviceNotFound, error.to_string()));
            }
            Err(error) => {
                tracing::info!(attempt, of = settings.disk_wait_attempts, %error, "waiting for a root disk");
                attempt += 1;
                tokio::time::sleep(settings.disk_wait_delay).await;
            }
        }
    }
}

/// The disk that the hints choose among those that are there now, for an inspection.
pub fn select(shared: &Shared, disks: Vec<Disk>) -> Result<(Disk, Plan), hint::HintError> {
    let node = shared.node();
    let hints = node.as_deref().and_then(hints_of);
    let skipped = node.as_deref().and_then(|node| node.pointer("/properties/skip_block_devices"));
    let disks = hint::without_skipped(disks, skipped)?;
    let chosen = hint::select_root(&disks, hints)?.clone();
    Ok((chosen, Plan::new("write_image", disks)))
}

/// `instance_info.root_device` wins over `properties.root_device`; empty ones do not count.
fn hints_of(node: &Value) -> Option<&Value> {
    ["/instance_info/root_device", "/properties/root_device"].into_iter().find_map(|place| {
        node.pointer(place).filter(|hints| match hints {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => true,
        })
    })
}

/// Whether waiting is of no use: the hints themselves are wrong.
fn is_final(error: &hint::HintError) -> bool {
    match error {
        hint::HintError::Shape { .. } | hint::HintError::Unknown { .. } | hint::HintError::Value { .. } => true,
        hint::HintError::NoMatch { .. } | hint::HintError::TooSmall { .. } => false,
    }
}
