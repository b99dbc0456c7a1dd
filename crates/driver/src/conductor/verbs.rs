//! What the verbs of an operator do: whether they are possible, and the flow that they begin.

use super::Conductor;
use super::change::{Draft, Failure, RESCUE_HASH, RESCUE_KEYS, locked};
use super::secret::{crypt, new_token};
use crate::command::{NodeIdent, ProvisionArguments};
use crate::effect::media::MediaError;
use crate::erasure;
use crate::fault::Fault;
use crate::flow::own_steps::{self, Own};
use crate::flow::{
    Action, Flow, FlowKind, adopt, clean, deploy, inspect, plan_return, rescue, service, steps, undeploy, verify,
};
use crate::hardware_type::{Interface, interface_of, validate};
use hardware::{Step, StepKind};
use lifecycle::provision::{Event, Kind, State, Verb, allowed_verbs, step};
use serde_json::{Map, Value};
use std::sync::Arc;
use store::{Node, Store};
use wire::authorized_keys;

impl<S: Store> Conductor<S> {
    pub(super) async fn provision(
        self: &Arc<Self>,
        ident: &NodeIdent,
        verb: Verb,
        arguments: ProvisionArguments,
    ) -> Result<Node, Fault> {
        let node = self.find(ident).await?;
        let uuid = node.uuid;
        self.admit(verb).await?;
        let arguments = self.with_listed_steps(&node, verb, arguments).await?;
        let (node, _, ()) = self.change(uuid, |draft| self.apply_verb(draft, verb, &arguments)).await?;
        tracing::info!(node = %uuid, %verb, state = %node.provision_state, "accepted");
        self.wake(uuid);
        Ok(Arc::unwrap_or_clone(node))
    }

    /// Refuses what would be one node too many at work at once.
    async fn admit(&self, verb: Verb) -> Result<(), Fault> {
        let (states, limit, what): (&[State], _, _) = match verb {
            Verb::Active | Verb::Deploy | Verb::Rebuild => {
                (&[State::Deploying, State::DeployWait], self.settings.max_concurrent_deploy, "provisioning")
            }
            Verb::Provide | Verb::Clean | Verb::Deleted | Verb::Undeploy => {
                let states = &[State::Deleting, State::Cleaning, State::CleanWait];
                (states, self.settings.max_concurrent_clean, "cleaning")
            }
            _ => return Ok(()),
        };
        if self.store.count_nodes(states).await? < limit {
            return Ok(());
        }
        Err(Fault::Unavailable(format!(
            "Unable to process request at this time. The concurrent action limit for {what} has been reached. Please \
             contact your administrator and try again later."
        )))
    }

    fn apply_verb(&self, draft: &mut Draft, verb: Verb, arguments: &ProvisionArguments) -> Result<(), Fault> {
        let node = &draft.node;
        if node.reservation.is_some() && verb != Verb::BreakOut {
            return Err(locked(node, draft.flow.as_ref()));
        }
        if node.maintenance
            && matches!(verb, Verb::Active | Verb::Deploy | Verb::Rebuild | Verb::Rescue | Verb::Unrescue)
        {
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
        // What ends something is done with whatever the node was composed of.
        if !matches!(verb, Verb::Abort | Verb::BreakOut | Verb::Unhold | Verb::Deleted | Verb::Undeploy) {
            self.settings.hardware.check_node(node)?;
        }
        match verb {
            Verb::Manage => Self::manage(draft),
            Verb::Inspect => self.inspect(draft),
            Verb::Provide => self.provide(draft),
            Verb::Clean => self.clean(draft, arguments),
            Verb::Active | Verb::Deploy | Verb::Rebuild => self.deploy(draft, verb, arguments),
            Verb::Deleted | Verb::Undeploy => Self::undeploy(draft),
            Verb::Adopt => Self::adopt(draft),
            Verb::Rescue => self.rescue(draft, arguments),
            Verb::Unrescue => self.unrescue(draft),
            Verb::Service => self.service(draft, arguments),
            Verb::Unhold => unhold(draft),
            Verb::Abort => abort(draft),
            Verb::BreakOut => break_out(draft),
        }
    }

    fn manage(draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        draft.node.last_error = None;
        draft.transition(Event::Manage)?;
        if draft.node.provision_state == State::Verifying {
            let plan = verify::plan(&draft.node);
            draft.begin(FlowKind::Verify, plan);
        }
        Ok(())
    }

    fn inspect(&self, draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management, Interface::Inspect])?;
        if interface_of(&draft.node, Interface::Inspect) == "agent" {
            require(&draft.node, &[Interface::Boot])?;
        }
        let fast = self.settings.fast(&draft.node, draft.now);
        draft.node.last_error = None;
        draft.node.inspection_started_at = Some(draft.now);
        draft.node.inspection_finished_at = None;
        draft.transition(Event::Inspect)?;
        self.begin(draft, FlowKind::Inspect, inspect::plan(&draft.node, fast))
    }

    fn provide(&self, draft: &mut Draft) -> Result<(), Fault> {
        if draft.node.retired {
            return Err(retired(&draft.node, "providing"));
        }
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        let fast = self.settings.fast(&draft.node, draft.now);
        draft.node.last_error = None;
        draft.transition(Event::Provide)?;
        self.begin(draft, FlowKind::Clean, clean::plan(&draft.node, self.settings.automated_clean, fast))
    }

    fn clean(&self, draft: &mut Draft, arguments: &ProvisionArguments) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        let given = arguments.clean_steps.as_deref().unwrap_or_default();
        let ramdisk = wants_ramdisk(&draft.node, arguments, given);
        let chosen = self.read_steps(&draft.node, StepKind::Clean, given, ramdisk)?;
        let fast = self.settings.fast(&draft.node, draft.now);
        draft.node.last_error = None;
        draft.transition(Event::Clean)?;
        draft.node.target_provision_state = Some(State::Manageable);
        let plan = clean::manual_plan(&draft.node, ramdisk, fast);
        self.begin_chosen(draft, FlowKind::Clean, plan, chosen)
    }

    fn service(&self, draft: &mut Draft, arguments: &ProvisionArguments) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        let given = arguments.service_steps.as_deref().unwrap_or_default();
        let ramdisk = wants_ramdisk(&draft.node, arguments, given);
        let chosen = self.read_steps(&draft.node, StepKind::Service, given, ramdisk)?;
        draft.node.last_error = None;
        draft.transition(Event::Service)?;
        draft.forget_agent();
        let plan = service::plan(&draft.node, ramdisk);
        self.begin_chosen(draft, FlowKind::Service, plan, chosen)
    }

    /// Reads the steps of a request; what is wrong with them is said before anything is begun.
    fn read_steps(
        &self,
        node: &Node,
        kind: StepKind,
        given: &[Map<String, Value>],
        ramdisk: bool,
    ) -> Result<Vec<Step>, Fault> {
        let state = match kind {
            StepKind::Clean => State::CleanWait,
            StepKind::Deploy => State::DeployWait,
            StepKind::Service => State::ServiceWait,
        };
        let limit = self.settings.deadlines.limit(state).map(|limit| limit.as_secs());
        steps::read(node, kind, given, ramdisk, limit).map_err(|errors| Fault::Invalid(errors.to_string()))
    }

    /// Begins a flow whose steps a request chose: they are put in when the agent has said what it offers, or at once
    /// where there is none.
    fn begin_chosen(
        &self,
        draft: &mut Draft,
        kind: FlowKind,
        mut plan: Vec<Action>,
        chosen: Vec<Step>,
    ) -> Result<(), Fault> {
        let asks = plan.iter().any(|action| matches!(action, Action::GetSteps { .. }));
        if let Some(step_kind) = kind.steps().filter(|_| !asks) {
            let node = &draft.node;
            let own = |step: &Step| steps::Reserved::of(step).is_some() || Own::of(node, step).is_some();
            let own: Vec<Step> = chosen.iter().filter(|step| own(step)).cloned().collect();
            let complete = steps::complete(step_kind, &own, &own_steps::offered(node, step_kind));
            let own = complete.map_err(|errors| Fault::Invalid(errors.to_string()))?;
            plan.splice(0..0, steps::actions(node, step_kind, &own, false));
        }
        // A deploy step of priority 0 does not run.
        let runs = |step: &Step| kind != FlowKind::Deploy || step.priority > 0;
        let asked = chosen.iter().filter(|step| runs(step) && Own::of(&draft.node, step).is_some());
        let asked: Vec<Step> = asked.cloned().collect();
        if !asked.is_empty() {
            plan.insert(0, Action::CheckOwnSteps { steps: asked });
        }
        self.begin(draft, kind, plan)?;
        if let Some(flow) = draft.flow.as_mut() {
            flow.chosen = Some(chosen);
        }
        Ok(())
    }

    fn deploy(&self, draft: &mut Draft, verb: Verb, arguments: &ProvisionArguments) -> Result<(), Fault> {
        if draft.node.protected && verb == Verb::Rebuild {
            return Err(protected(&draft.node));
        }
        if draft.node.retired && verb != Verb::Rebuild {
            return Err(retired(&draft.node, "deploying"));
        }
        if let Some(drive) = &arguments.configdrive {
            draft.node.instance_info.insert("configdrive".to_owned(), drive.clone());
        }
        let given = arguments.deploy_steps.as_deref().unwrap_or_default();
        let chosen = self.read_steps(&draft.node, StepKind::Deploy, given, true)?;
        let interfaces = [Interface::Power, Interface::Management, Interface::Boot, Interface::Deploy];
        require(&draft.node, &interfaces)
            .map_err(|fault| Fault::Invalid(format!("Cannot deploy node {}: {fault}", draft.node.uuid)))?;
        let mut fast = self.settings.fast(&draft.node, draft.now);
        // An instance that runs is no ramdisk, whatever was heard of one.
        fast.agent_runs &= draft.node.provision_state == State::Available;
        draft.node.last_error = None;
        draft.transition(verb.event())?;
        self.begin_chosen(draft, FlowKind::Deploy, deploy::plan(&draft.node, fast), chosen)
    }

    fn adopt(draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management])?;
        draft.node.last_error = None;
        draft.transition(Event::Adopt)?;
        draft.forget_agent();
        draft.begin(FlowKind::Adopt, adopt::plan());
        Ok(())
    }

    fn rescue(&self, draft: &mut Draft, arguments: &ProvisionArguments) -> Result<(), Fault> {
        let mut interfaces = vec![Interface::Power, Interface::Management, Interface::Rescue];
        if interface_of(&draft.node, Interface::Rescue) == "agent" {
            interfaces.push(Interface::Boot);
        }
        require(&draft.node, &interfaces)?;
        let wrong = |key: &str, reason: String| Fault::Invalid(format!("{key}: {reason}"));
        let of_node = authorized_keys::read(draft.node.instance_info.get(authorized_keys::KEY));
        let keys = match &arguments.rescue_authorized_keys {
            Some(keys) => keys.clone(),
            None => of_node.map_err(|reason| wrong("instance_info.rescue_authorized_keys", reason))?,
        };
        let hash = match &arguments.rescue_password {
            Some(password) => crypt(password),
            None if keys.is_empty() => Err("it is missing, and so are public keys".to_owned()),
            // An agent wants some hash; an empty one would let everybody in. This is of a password that nobody is told.
            None => crypt(&new_token()),
        };
        let hash = hash.map_err(|reason| wrong("rescue_password", reason))?;
        draft.node.last_error = None;
        draft.transition(Event::Rescue)?;
        draft.forget_agent();
        draft.node.instance_info.insert(RESCUE_HASH.to_owned(), Value::from(hash));
        draft.node.driver_internal_info.remove(RESCUE_KEYS);
        if let Some(keys) = &arguments.rescue_authorized_keys {
            draft.node.driver_internal_info.insert(RESCUE_KEYS.to_owned(), Value::from(keys.clone()));
        }
        self.begin(draft, FlowKind::Rescue, rescue::plan(&draft.node))
    }

    fn unrescue(&self, draft: &mut Draft) -> Result<(), Fault> {
        require(&draft.node, &[Interface::Power, Interface::Management, Interface::Rescue])?;
        draft.node.last_error = None;
        draft.transition(Event::Unrescue)?;
        draft.forget_agent();
        self.begin(draft, FlowKind::Unrescue, rescue::plan_back(&draft.node))
    }

    /// Begins a flow, unless the site lacks what its plan needs.
    fn begin(&self, draft: &mut Draft, kind: FlowKind, plan: Vec<Action>) -> Result<(), Fault> {
        let lacks_ramdisk = plan.iter().any(|action| match action {
            Action::PrepareMedia { purpose } => self.settings.media.ramdisk(*purpose).is_none(),
            _ => false,
        });
        if lacks_ramdisk {
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
        if let Some(flow) = &draft.flow
            && let Some(own) = flow.updating()
        {
            return Err(Fault::Conflict(format!(
                "Node {} cannot be undeployed now: step {}.{} has begun, and power must not be cut under an update of firmware. \
                 Try again when it has ended; after abort, \"{}\" ends with it.",
                draft.node.uuid,
                own.step.interface,
                own.step.step,
                flow.kind.as_str()
            )));
        }
        draft.node.last_error = None;
        draft.transition(Event::Delete)?;
        // Of a rescue or a service that is given up.
        draft.end(false);
        draft.forget_rescue();
        draft.begin(FlowKind::Undeploy, undeploy::plan(&draft.node));
        Ok(())
    }

    pub(super) async fn maintenance(
        self: &Arc<Self>,
        ident: &NodeIdent,
        on: bool,
        reason: Option<String>,
    ) -> Result<Node, Fault> {
        let uuid = self.find_shared(ident).await?.uuid;
        let (node, _, ()) = self
            .change(uuid, |draft| {
                set_maintenance(&mut draft.node, on, reason.clone());
                let what = if on { "set" } else { "cleared" };
                let why = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                draft.note("INFO", "maintenance", format!("maintenance {what}{why}"));
                Ok(())
            })
            .await?;
        Ok(Arc::unwrap_or_clone(node))
    }
}

/// Whether a ramdisk is booted for the steps of a request: as it says, else as the steps need.
fn wants_ramdisk(node: &Node, arguments: &ProvisionArguments, given: &[Map<String, Value>]) -> bool {
    match arguments.disable_ramdisk {
        Some(disable) => !disable,
        None => steps::want_ramdisk(node, given),
    }
}

/// Lets a held flow go on.
fn unhold(draft: &mut Draft) -> Result<(), Fault> {
    draft.transition(Event::Unhold)?;
    if let Some(flow) = draft.flow.as_mut().filter(|flow| matches!(flow.current(), Some(Action::Hold { .. }))) {
        flow.advance(&[]);
    }
    Ok(())
}

/// Whether an abort has to wait for the end of a step: of one of cleaning or service that says that it must not be interrupted,
/// of one that erases, which is told to stop, and of an update of firmware, under which power must not be cut. Whoever aborts such
/// an erase a second time has power cut.
fn outlasts_abort(flow: &Flow) -> Option<&Step> {
    if let Some(own) = flow.updating() {
        return Some(&own.step);
    }
    let Some(Action::ExecuteStep { step, .. }) = flow.current() else { return None };
    if flow.intent.as_ref().is_none_or(|intent| intent.command.is_none()) {
        return None;
    }
    let firm = matches!(flow.kind, FlowKind::Clean | FlowKind::Service) && step.abortable != Some(true);
    let erases = erasure::is_expected_of(step) && step.abortable == Some(true) && !flow.abort_after;
    (firm || erases).then_some(step)
}

/// Stops what waits, or marks it as to be stopped.
fn abort(draft: &mut Draft) -> Result<(), Fault> {
    let (state, uuid) = (draft.node.provision_state, draft.node.uuid);
    if let Some(flow) = draft.flow.as_mut()
        && let Some(step) = outlasts_abort(flow)
    {
        let name = format!("{}.{}", step.interface, step.step);
        let kind = flow.kind.as_str();
        let text = if step.abortable == Some(true) {
            format!(
                "{name} is told to stop, and \"{kind}\" ends after it; abort again to cut power at once, which may leave a \
                 drive locked"
            )
        } else {
            format!("{name} cannot be interrupted; \"{kind}\" ends after it")
        };
        flow.abort_after = true;
        let shown = match flow.kind {
            FlowKind::Clean => &mut draft.node.clean_step,
            FlowKind::Service => &mut draft.node.service_step,
            _ => &mut draft.node.deploy_step,
        };
        if let Value::Object(shown) = shown {
            shown.insert("abort_after".to_owned(), Value::from(true));
        }
        draft.note("INFO", "abort", text);
        return Ok(());
    }
    if matches!(state, State::ServiceWait | State::ServiceHold | State::ServiceFailed) {
        return abort_service(draft);
    }
    let text = match state {
        State::InspectWait => "Inspection was aborted by request.".to_owned(),
        State::CleanWait | State::CleanHold => format!("Cleaning of node {uuid} was aborted by request."),
        State::DeployWait | State::DeployHold => format!("Deploy of node {uuid} was aborted by request."),
        State::RescueWait => format!("Rescue of node {uuid} was aborted by request."),
        other => format!("\"{other}\" of node {uuid} was aborted by request."),
    };
    draft.fail(&Failure { text, event: Event::Abort, power_off: true })
}

/// Gives a service up: the instance is booted again, and the node is what it was before, as in Ironic.
pub(super) fn abort_service(draft: &mut Draft) -> Result<(), Fault> {
    let step = draft.flow.as_ref().and_then(|flow| flow.current()).and_then(Action::step);
    let during = step.map_or_else(String::new, |step| {
        format!(" during or after the completion of step \"{}.{}\"", step.interface, step.step)
    });
    if draft.node.provision_state != State::ServiceFailed {
        draft.transition(Event::Fail)?;
    }
    draft.transition(Event::Abort)?;
    let text = format!("By request, the service operation was aborted{during}");
    draft.note("ERROR", "servicing", text.clone());
    draft.node.last_error = Some(text);
    draft.end(false);
    draft.begin(FlowKind::Cleanup, plan_return(&draft.node));
    Ok(())
}

/// Ends what is stuck inside the driver. What is under way at the BMC is not known any more.
fn break_out(draft: &mut Draft) -> Result<(), Fault> {
    let text = format!(
        "Work on node {} in state \"{}\" was ended by an operator; look at the machine before going on.",
        draft.node.uuid, draft.node.provision_state
    );
    draft.fail(&Failure { text, event: Event::BreakOut, power_off: false })
}

/// Sets a node aside, or takes it back; taking it back clears the fault.
pub(super) fn set_maintenance(node: &mut Node, on: bool, reason: Option<String>) {
    node.maintenance = on;
    node.maintenance_reason = reason.filter(|_| on);
    if !on {
        node.fault = None;
    }
}

pub(super) fn require(node: &Node, interfaces: &[Interface]) -> Result<(), Fault> {
    validate(node).first_problem(interfaces).map_or(Ok(()), |problem| Err(Fault::Invalid(problem)))
}

fn protected(node: &Node) -> Fault {
    Fault::Forbidden(format!(
        "Node {} is protected and can not be undeployed, rebuilt or deleted; unset protected first.",
        node.uuid
    ))
}

fn retired(node: &Node, doing: &str) -> Fault {
    Fault::Invalid(format!("The {doing} operation can't be performed on node {} because it is retired.", node.uuid))
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
