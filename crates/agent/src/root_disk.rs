//! Which disk the node's system goes on, and whether this machine may be changed at all.

use crate::command::{AgentError, Class};
use crate::state::Shared;
use hardware::{Contents, Disk, MachineError, Plan, hint};
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
        match select(shared, disks).await {
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

/// Each disk with what forbids overwriting it, or why it could not be looked into.
pub async fn look(
    shared: &Shared,
    disks: Vec<Disk>,
) -> Result<Vec<(Disk, Result<Contents, MachineError>)>, MachineError> {
    let look = |machine: &dyn hardware::Machine, disk: Disk| {
        let contents = machine.contents(&disk);
        (disk, contents)
    };
    shared.on_machine(move |machine| Ok(disks.into_iter().map(|disk| look(machine, disk)).collect())).await
}

/// The disk that the hints choose among those that are there now. Without hints it is never a member of a software RAID
/// array, nor one that cannot be read.
pub async fn select(shared: &Shared, disks: Vec<Disk>) -> Result<(Disk, Plan), hint::HintError> {
    let node = shared.node();
    let hints = node.as_deref().and_then(hints_of);
    let skipped = node.as_deref().and_then(|node| node.pointer("/properties/skip_block_devices"));
    let disks = hint::without_skipped(disks, skipped)?;
    let disks = if hints.is_none() { without_members(shared, disks).await? } else { disks };
    let chosen = hint::select_root(&disks, hints)?.clone();
    Ok((chosen, Plan::new("write_image", disks)))
}

async fn without_members(shared: &Shared, disks: Vec<Disk>) -> Result<Vec<Disk>, hint::HintError> {
    let (mut free, mut left_out) = (Vec::new(), Vec::new());
    let looked = look(shared, disks).await.map_err(|error| hint::HintError::LeftOut {
        left_out: format!("all disks ({})", transport::client::chain(&error)),
    })?;
    for (disk, contents) in looked {
        match contents {
            Ok(Contents { raid_member: true, .. }) => left_out.push(format!("{} (linux_raid_member)", disk.name)),
            // An agent that may not write may not be allowed to read disks either, and its choice is but told.
            Err(error) if shared.machine.may_write() => {
                left_out.push(format!("{} ({})", disk.name, transport::client::chain(&error)));
            }
            Ok(_) | Err(_) => free.push(disk),
        }
    }
    if left_out.is_empty() {
        return Ok(free);
    }
    tracing::info!(left_out = left_out.join(", "), "without a hint these disks do not become the root disk");
    if free.iter().any(|disk| disk.size >= hint::SMALLEST_ROOT) {
        return Ok(free);
    }
    Err(hint::HintError::LeftOut { left_out: left_out.join(", ") })
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
        hint::HintError::Unmatched { .. }
        | hint::HintError::NoMatch { .. }
        | hint::HintError::TooSmall { .. }
        | hint::HintError::LeftOut { .. } => false,
    }
}
