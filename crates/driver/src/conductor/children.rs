//! What a step of a node does to the nodes that are parts of it.

use super::Conductor;
use super::runner::{Outcome, Trouble, fatal, make_power};
use crate::effect::machines::power_name;
use hardware::PowerState;
use store::{Node, NodeFilter, Page, Store};
use transport::client::chain;
use uuid::Uuid;

impl<S: Store> Conductor<S> {
    /// Switches the children of `parent`, all or those in `only`. A child that is being worked on is waited for, as a BMC
    /// that does not answer is.
    pub(super) async fn child_power(
        &self,
        parent: &Node,
        only: &[String],
        state: PowerState,
    ) -> Result<Outcome, Trouble> {
        let filter = NodeFilter { parent_node: Some(parent.uuid), ..NodeFilter::default() };
        let listed = self.store.nodes(&filter, &Page::default()).await.map_err(|error| Trouble::Bmc(chain(&error)))?;
        let mut children: Vec<Uuid> = listed.iter().map(|child| child.uuid).collect();
        if let Some(stranger) = only.iter().find(|one| !children.iter().any(|child| child.to_string() == **one)) {
            return Err(fatal(format!("{stranger} of limit_child_node_execution is no child of node {}", parent.uuid)));
        }
        children.retain(|child| only.is_empty() || only.contains(&child.to_string()));
        for child in children {
            self.power_of_child(child, state).await.map_err(|trouble| named(child, trouble))?;
        }
        Ok(Outcome::default())
    }

    async fn power_of_child(&self, uuid: Uuid, state: PowerState) -> Result<(), Trouble> {
        let (child, flow) = self.load(uuid).await.map_err(|fault| Trouble::Bmc(fault.to_string()))?;
        if flow.is_some() || child.reservation.is_some() {
            return Err(Trouble::Bmc("it is being worked on".to_owned()));
        }
        let made = make_power(&*self.machine(&child).await?, state).await;
        self.parts.machines.release(uuid).await;
        made?;
        let saved = self.change(uuid, |draft| {
            draft.set_power(power_name(state));
            Ok(())
        });
        saved.await.map(drop).map_err(|fault| Trouble::Bmc(fault.to_string()))
    }
}

/// The same trouble with the child that it is about.
fn named(child: Uuid, trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Later(text) => Trouble::Later(format!("child node {child}: {text}")),
        Trouble::Bmc(text) => Trouble::Bmc(format!("child node {child}: {text}")),
        Trouble::Final { text, on_agent } => Trouble::Final { text: format!("child node {child}: {text}"), on_agent },
    }
}
