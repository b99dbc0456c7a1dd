//! What the verbs of an operator do: whether they are possible, and the flow that they begin.

use super::Conductor;
use super::change::{Draft, Failure, locked};
use crate::command::{NodeIdent, PowerTarget, ProvisionArguments};
use crate::effect::media::MediaError;
use crate::fault::Fault;
use crate::flow::{Action, FlowKind, clean, deploy, inspect, undeploy, verify};
use crate::hardware_type::{Interface, interface_of, validate};
use lifecycle::provision::{Event, Kind, State, Verb, allowed_verbs, step};
use serde_json::Value;
use std::sync::Arc;
use store::{Node, Store};

impl<S: Store> Conductor<S> {
    pub(super) async fn provision(
        self: &Arc<Self>,
        ident: &NodeIdent,
        verb: Verb,
        arguments: ProvisionArguments,
    ) -> Result<Node, Fault> {
        let uuid = self.find(ident).await?.uuid;
        let (node, _, ()) = self.change(uuid, |draft| self.apply_verb(draft, verb, &arguments)).await?;
        tracing::info!(node = %uuid, %verb, state = %node.provision_state, "accepted");
        self.wake(uuid);
        Ok(node)
    }

    fn apply_verb(&self, draft: &mut Draft, verb: Verb, arguments: &ProvisionArguments) -> Result<(), Fault> {
        let node = &draft.node;
        if node.reservation.is_some() && verb != Verb::BreakOut {
            return Err(locked(node));
        }
        if node.maintenance && matches!(verb, Verb::Active | Verb::Deploy | Verb::Rebuild) {
            return Err(Fault::Invalid(format!(
                "The {verb} operation can't be performed on node {} because it's in maintenance mode.",
                node.uuid
            )));
        }
        if step(node.provision_state, verb.event()).is_err()
            || (node.provision_state.kind() == Kind::Working && verb != Verb::BreakOut)
        {
            return Err(refused(node, verb));
        }
        match verb {
            Verb::Manage => Self::manage(draft),
            Verb::Inspect => self.inspect(draft),
            Verb::Provide => self.provide(draft),
            Verb::Active | Verb::Deploy | Verb::Rebuild => self.deploy(draft, verb, arguments),
            Verb::Deleted | Verb::Undeploy => Self::undeploy(draft),
            Verb::Abort => Self::abort(draft),
            Verb::BreakOut => Self::break_out(draft),
            Verb::Clean | Verb::Adopt | Verb::Rescue | Verb::Unrescue | Verb::Unhold | Verb::Service => {
                Err(Fault::Invalid(format!(
                    "The verb \"{verb}\" is not built yet in this version of the driver; node {} stays in state \"{}\".",
                    node.uuid, node.provision_state
                )))
            }
        }
    }

    fn manage(draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        draft.node.last_error = None;
        draft.transition(Event::Manage)?;
        if draft.node.provision_state == State::Verifying {
            draft.begin(FlowKind::Verify, verify::plan());
        }
        Ok(())
    }

    fn inspect(&self, draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management, Interface::Inspect])?;
        if interface_of(&draft.node, Interface::Inspect) == "agent" {
            require(&draft.node, &[Interface::Boot])?;
        }
        draft.node.last_error = None;
        draft.node.inspection_started_at = Some(draft.now);
        draft.node.inspection_finished_at = None;
        draft.transition(Event::Inspect)?;
        self.begin(draft, FlowKind::Inspect, inspect::plan(&draft.node))
    }

    fn provide(&self, draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        draft.node.last_error = None;
        draft.transition(Event::Provide)?;
        self.begin(draft, FlowKind::Clean, clean::plan(&draft.node, self.settings.automated_clean))
    }

    fn deploy(&self, draft: &mut Draft, verb: Verb, arguments: &ProvisionArguments) -> Result<(), Fault> {
        if arguments.deploy_steps.as_ref().is_some_and(|steps| !steps.is_empty()) {
            return Err(Fault::Invalid(
                "deploy_steps are not built yet in this version of the driver; leave them out.".to_owned(),
            ));
        }
        if draft.node.protected && verb == Verb::Rebuild {
            return Err(protected(&draft.node));
        }
        if draft.node.retired && verb != Verb::Rebuild {
            return Err(Fault::Invalid(format!("Node {} is retired and is not deployed any more.", draft.node.uuid)));
        }
        if let Some(drive) = &arguments.configdrive {
            draft.node.instance_info.insert("configdrive".to_owned(), drive.clone());
        }
        let interfaces = [Interface::Power, Interface::Management, Interface::Boot, Interface::Deploy];
        require(&draft.node, &interfaces)
            .map_err(|fault| Fault::Invalid(format!("Cannot deploy node {}: {fault}", draft.node.uuid)))?;
        draft.node.last_error = None;
        draft.transition(verb.event())?;
        self.begin(draft, FlowKind::Deploy, deploy::plan(&draft.node))
    }

    /// Begins a flow, unless the site lacks what its plan needs.
    fn begin(&self, draft: &mut Draft, kind: FlowKind, plan: Vec<Action>) -> Result<(), Fault> {
        let needs_ramdisk = plan.iter().any(|action| matches!(action, Action::PrepareMedia { .. }));
        if needs_ramdisk && self.settings.media.ramdisk_dir.is_none() {
            return Err(Fault::Invalid(format!(
                "Node {} cannot be booted: {}.",
                draft.node.uuid,
                MediaError::NoRamdisk
            )));
        }
        draft.begin(kind, plan);
        Ok(())
    }

    fn undeploy(draft: &mut Draft) -> Result<(), Fault> {
        if draft.node.protected {
            return Err(protected(&draft.node));
        }
        draft.node.last_error = None;
        draft.transition(Event::Delete)?;
        draft.forget_agent();
        draft.begin(FlowKind::Undeploy, undeploy::plan(&draft.node));
        Ok(())
    }

    /// Stops what waits. A clean step that says that it must not be interrupted is let finish first.
    fn abort(draft: &mut Draft) -> Result<(), Fault> {
        let state = draft.node.provision_state;
        if let Some(flow) = draft.flow.as_mut().filter(|flow| flow.kind == FlowKind::Clean)
            && let Some(Action::ExecuteStep { step, .. }) = flow.current()
            && step.abortable != Some(true)
            && flow.intent.as_ref().is_some_and(|intent| intent.command.is_some())
        {
            let name = format!("{}.{}", step.interface, step.step);
            flow.abort_after = true;
            if let Value::Object(shown) = &mut draft.node.clean_step {
                shown.insert("abort_after".to_owned(), Value::from(true));
            }
            draft.note("INFO", "abort", format!("{name} cannot be interrupted; cleaning ends after it"));
            return Ok(());
        }
        let text = match state {
            State::InspectWait => "Inspection was aborted by request.".to_owned(),
            State::CleanWait | State::CleanHold => {
                format!("Cleaning of node {} was aborted by request.", draft.node.uuid)
            }
            State::DeployWait | State::DeployHold => {
                format!("Deploy of node {} was aborted by request.", draft.node.uuid)
            }
            other => format!("\"{other}\" of node {} was aborted by request.", draft.node.uuid),
        };
        draft.fail(&Failure { text, event: Event::Abort, power_off: true })
    }

    /// Ends what is stuck inside the driver. What is under way at the BMC is not known any more.
    fn break_out(draft: &mut Draft) -> Result<(), Fault> {
        let text = format!(
            "Work on node {} in state \"{}\" was ended by an operator; look at the machine before going on.",
            draft.node.uuid, draft.node.provision_state
        );
        draft.fail(&Failure { text, event: Event::BreakOut, power_off: false })
    }

    pub(super) async fn power(self: &Arc<Self>, ident: &NodeIdent, target: PowerTarget) -> Result<Node, Fault> {
        let uuid = self.find(ident).await?.uuid;
        let (node, _, ()) = self.change(uuid, |draft| apply_power(draft, target)).await?;
        self.wake(uuid);
        Ok(node)
    }

    pub(super) async fn maintenance(
        self: &Arc<Self>,
        ident: &NodeIdent,
        on: bool,
        reason: Option<String>,
    ) -> Result<Node, Fault> {
        let uuid = self.find(ident).await?.uuid;
        let (node, _, ()) = self
            .change(uuid, |draft| {
                set_maintenance(&mut draft.node, on, reason.clone());
                let what = if on { "set" } else { "cleared" };
                let why = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                draft.note("INFO", "maintenance", format!("maintenance {what}{why}"));
                Ok(())
            })
            .await?;
        Ok(node)
    }
}

/// Sets a node aside, or takes it back; taking it back clears the fault.
pub(super) fn set_maintenance(node: &mut Node, on: bool, reason: Option<String>) {
    node.maintenance = on;
    node.maintenance_reason = reason.filter(|_| on);
    if !on {
        node.fault = None;
    }
}

fn apply_power(draft: &mut Draft, target: PowerTarget) -> Result<(), Fault> {
    let node = &draft.node;
    if matches!(node.provision_state, State::Cleaning | State::CleanWait) {
        return Err(Fault::Invalid(format!(
            "The requested action \"power\" can not be performed on node \"{}\" while it is in state \"{}\".",
            node.uuid, node.provision_state
        )));
    }
    let busy = draft.flow.as_ref().is_some_and(|flow| flow.kind != FlowKind::Cleanup);
    if node.reservation.is_some() || busy {
        return Err(locked(node));
    }
    require(node, &[Interface::Power])?;
    let (name, plan) = match target {
        PowerTarget::On => ("power on", vec![Action::PowerOn]),
        PowerTarget::Off => ("power off", vec![Action::PowerOff]),
        PowerTarget::Reboot => ("power on", vec![Action::PowerOff, Action::PowerOn]),
        PowerTarget::SoftOff | PowerTarget::SoftReboot => {
            return Err(Fault::Invalid(format!(
                "Soft power actions are not supported by the power interface {} of node {}; use power off or rebooting.",
                interface_of(node, Interface::Power),
                node.uuid
            )));
        }
    };
    draft.node.target_power_state = Some(name.to_owned());
    draft.node.last_error = None;
    draft.begin(FlowKind::Power, plan);
    Ok(())
}

fn require(node: &Node, interfaces: &[Interface]) -> Result<(), Fault> {
    validate(node).first_problem(interfaces).map_or(Ok(()), |problem| Err(Fault::Invalid(problem)))
}

fn protected(node: &Node) -> Fault {
    Fault::Forbidden(format!(
        "Node {} is protected and can not be undeployed, rebuilt or deleted; unset protected first.",
        node.uuid
    ))
}

fn refused(node: &Node, verb: Verb) -> Fault {
    let allowed = allowed_verbs(node.provision_state);
    let allowed = if allowed.is_empty() {
        "nothing but waiting".to_owned()
    } else {
        allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    Fault::WrongState { verb: verb.to_string(), node: node.uuid, state: node.provision_state.to_string(), allowed }
}
