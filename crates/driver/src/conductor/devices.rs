//! What an operator asks of a node's hardware outside of any flow: virtual media, RAID to be, console.

use super::Conductor;
use super::change::{Draft, locked};
use crate::command::NodeIdent;
use crate::fault::Fault;
use crate::hardware_type::{self, Interface};
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
        Ok(node)
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

    async fn set_attribute(self: &Arc<Self>, ident: &NodeIdent, name: &str, value: Value) -> Result<Node, Fault> {
        let uuid = self.find(ident).await?.uuid;
        let set = |draft: &mut Draft| {
            if draft.node.reservation.is_some() {
                return Err(locked(&draft.node, draft.flow.as_ref()));
            }
            draft.node.attributes.insert(name.to_owned(), value.clone());
            Ok(())
        };
        let (node, _, ()) = self.change(uuid, set).await?;
        Ok(node)
    }
}
