//! What an operator asks of a node's hardware outside of any flow: virtual media, RAID to be, console.

use super::Conductor;
use super::change::{Draft, locked};
use super::verbs::require;
use crate::command::NodeIdent;
use crate::fault::Fault;
use crate::flow::{Action, FlowKind};
use crate::hardware_type::{self, Interface, interface_of};
use hardware::{Indicator, Light, OutOfBandError};
use lifecycle::provision::Kind;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use store::{Node, Store};
use transport::client::chain;

impl<S: Store> Conductor<S> {
    /// Inserts an image as the machine's CD, or takes out what is inserted.
    pub(super) async fn virtual_media(self: &Arc<Self>, ident: &NodeIdent, url: Option<&str>) -> Result<Node, Fault> {
        let node = self.find(ident).await?;
        let (node, flow) = self.load(node.uuid).await?;
        // A flow has a medium of its own in the same drive.
        if flow.is_some() || node.reservation.is_some() {
            return Err(locked(&node, flow.as_ref()));
        }
        if let Some(problem) = hardware_type::validate(&node).first_problem(&[Interface::Management]) {
            return Err(Fault::Invalid(problem));
        }
        let done = match self.parts.machines.of(&node).await {
            Err(error) => Err(error),
            Ok(machine) => match url {
                Some(url) => machine.insert(url).await,
                None => machine.eject().await,
            },
        };
        let what = if url.is_some() { "insert" } else { "eject" };
        done.map_err(|error| Fault::Invalid(format!("Failed to {what} virtual media: {}", chain(&error))))?;
        Ok(Arc::unwrap_or_clone(node))
    }

    /// Saves the RAID configuration that cleaning shall make.
    pub(super) async fn target_raid(
        self: &Arc<Self>,
        ident: &NodeIdent,
        config: Map<String, Value>,
    ) -> Result<Node, Fault> {
        self.set_attribute(ident, "target_raid_config", Value::Object(config)).await
    }

    /// Switches the console of a node.
    pub(super) async fn console(self: &Arc<Self>, ident: &NodeIdent, on: bool) -> Result<Node, Fault> {
        self.set_attribute(ident, "console_enabled", json!(on)).await
    }

    /// Has the firmware changed: boot mode or secure boot. It goes on by itself; what comes of it is in the node's
    /// `boot_mode`, `secure_boot` or `last_error`.
    pub(super) async fn change_firmware(self: &Arc<Self>, ident: &NodeIdent, action: Action) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let begin = |draft: &mut Draft| {
            let node = &draft.node;
            if draft.flow.as_ref().is_some_and(|flow| flow.kind != FlowKind::Cleanup) || node.reservation.is_some() {
                return Err(locked(node, draft.flow.as_ref()));
            }
            if matches!(node.provision_state.kind(), Kind::Working | Kind::Waiting | Kind::Held) {
                return Err(Fault::Conflict(format!(
                    "Node is in {} state. Since node is transitioning, the boot mode will not be set as this may interfere \
                     with ongoing changes and result in erroneous modification. Try again later.",
                    node.provision_state
                )));
            }
            require(node, &[Interface::Management])?;
            draft.node.last_error = None;
            draft.begin(FlowKind::Power, vec![action.clone()]);
            Ok(())
        };
        let (node, _, ()) = self.change(uuid, begin).await?;
        self.wake(uuid);
        Ok(Arc::unwrap_or_clone(node))
    }

    /// Sends the machine a non-maskable interrupt.
    pub(super) async fn inject_nmi(self: &Arc<Self>, ident: &NodeIdent) -> Result<Node, Fault> {
        let node = self.free(ident).await?;
        let done = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.inject_nmi().await,
            Err(error) => Err(error),
        };
        done.map_err(|error| refused(&node, "inject an NMI", &error))?;
        Ok(node)
    }

    /// The lights of a node's machine.
    ///
    /// # Errors
    /// [`Fault`]: the node has none, or its BMC does not answer.
    pub async fn indicators_of(&self, ident: &NodeIdent) -> Result<Vec<Indicator>, Fault> {
        let node = self.find(ident).await?;
        require(&node, &[Interface::Management])?;
        let found = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.indicators().await,
            Err(error) => Err(error),
        };
        found.map_err(|error| refused(&node, "read its indicators", &error))
    }

    /// What a light of a node's machine says.
    ///
    /// # Errors
    /// [`Fault::Invalid`] naming a light that there is not, and as for [`Self::indicators_of`].
    pub async fn indicator_of(&self, ident: &NodeIdent, component: &str, name: &str) -> Result<Light, Fault> {
        let node = self.find(ident).await?;
        require(&node, &[Interface::Management])?;
        let found = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.indicator(component, name).await,
            Err(error) => Err(error),
        };
        let light = found.map_err(|error| refused(&node, "read an indicator", &error))?;
        light.ok_or_else(|| unknown_light(&node, component, name))
    }

    pub(super) async fn set_indicator(
        self: &Arc<Self>,
        ident: &NodeIdent,
        component: &str,
        name: &str,
        light: Light,
    ) -> Result<Node, Fault> {
        let node = self.free(ident).await?;
        let done = match self.parts.machines.of(&node).await {
            Ok(machine) => machine.set_indicator(component, name, light).await,
            Err(error) => Err(error),
        };
        let found = done.map_err(|error| refused(&node, "set an indicator", &error))?;
        if found { Ok(node) } else { Err(unknown_light(&node, component, name)) }
    }

    /// A node whose machine can be asked for something that no flow does.
    async fn free(&self, ident: &NodeIdent) -> Result<Node, Fault> {
        let node = self.find(ident).await?;
        if node.reservation.is_some() {
            let (node, flow) = self.load(node.uuid).await?;
            return Err(locked(&node, flow.as_ref()));
        }
        require(&node, &[Interface::Management])?;
        Ok(node)
    }

    async fn set_attribute(self: &Arc<Self>, ident: &NodeIdent, name: &str, value: Value) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let set = |draft: &mut Draft| {
            if draft.node.reservation.is_some() {
                return Err(locked(&draft.node, draft.flow.as_ref()));
            }
            draft.node.attributes.insert(name.to_owned(), value.clone());
            Ok(())
        };
        let (node, _, ()) = self.change(uuid, set).await?;
        Ok(Arc::unwrap_or_clone(node))
    }
}

/// What an operator is told whose wish a BMC did not do. What a machine without a BMC cannot do is said in Ironic's words.
fn refused(node: &Node, wish: &str, error: &OutOfBandError) -> Fault {
    match error {
        OutOfBandError::Unsupported(word) if interface_of(node, Interface::Power) == "fake" => {
            Fault::Invalid(format!("Driver {} does not support {word} (disabled or not implemented).", node.driver))
        }
        error => Fault::Invalid(format!("Failed to {wish} of node {}: {}", node.uuid, chain(error))),
    }
}

fn unknown_light(node: &Node, component: &str, name: &str) -> Fault {
    let short = |text: &str| -> String { text.chars().take(64).collect() };
    Fault::Invalid(format!(
        "Unknown indicator {} for component {} of node {}; management/indicators lists those that there are.",
        short(name),
        short(component),
        node.uuid
    ))
}
