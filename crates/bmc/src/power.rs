//! Power, by the system's Reset action.

use crate::error::RedfishError;
use crate::redfish::Redfish;
use crate::resource::Resource;
use hardware::PowerState;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// `PowerState` of a system (DSP0268, Resource.PowerState).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedPower {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// On its way to `On`.
    PoweringOn,
    /// On its way to `Off`.
    PoweringOff,
    /// It has power and stands still.
    Paused,
}

impl ReportedPower {
    fn of(system: &Resource) -> Result<Self, RedfishError> {
        match system.text(&["PowerState"]) {
            Some("On") => Ok(Self::On),
            Some("Off") => Ok(Self::Off),
            Some("PoweringOn") => Ok(Self::PoweringOn),
            Some("PoweringOff") => Ok(Self::PoweringOff),
            Some("Paused") => Ok(Self::Paused),
            Some(other) => Err(system.malformed(format!("PowerState is {other:?}"))),
            None => Err(system.unsupported("it has no PowerState; the BMC may still be starting, try again")),
        }
    }

    fn is(self, wanted: PowerState) -> bool {
        matches!((self, wanted), (Self::On, PowerState::On) | (Self::Off, PowerState::Off))
    }

    fn is_moving(self) -> bool {
        matches!(self, Self::PoweringOn | Self::PoweringOff)
    }
}

/// A change of power that does not name a state. Names as in DSP0268, Resource.ResetType, the first that a BMC
/// allows is used.
const TURN_ON: &[&str] = &["On", "ForceOn"];
const TURN_OFF: &[&str] = &["ForceOff"];
const SHUT_DOWN: &[&str] = &["GracefulShutdown"];
const NMI: &[&str] = &["Nmi"];
const RESTART: &[&str] = &["ForceRestart", "PowerCycle"];

impl Redfish {
    /// What the BMC says about power now.
    ///
    /// # Errors
    /// When the BMC does not answer or says something else.
    pub async fn reported_power(&self) -> Result<ReportedPower, RedfishError> {
        ReportedPower::of(&self.system().await?)
    }

    /// Turns the power on or off and returns when the BMC says that it is so. Off means at once: a ramdisk has
    /// nothing to save.
    ///
    /// The target is a state, so the action is sent again when the BMC has lost it.
    ///
    /// # Errors
    /// [`RedfishError::Late`] after `limits.power`, else what went wrong.
    pub async fn turn(&self, wanted: PowerState) -> Result<(), RedfishError> {
        let names = if wanted == PowerState::On { TURN_ON } else { TURN_OFF };
        self.reach(wanted, names, self.limits.power).await
    }

    /// Asks the operating system to shut down, and returns when the power is off.
    ///
    /// # Errors
    /// [`RedfishError::Late`] when it does not do so within the given time; then [`Redfish::turn`] it off.
    pub async fn shut_down(&self, within: Duration) -> Result<(), RedfishError> {
        self.reach(PowerState::Off, SHUT_DOWN, within).await
    }

    /// Restarts a running machine at once; starts it if it is off.
    ///
    /// # Errors
    /// What went wrong. When the BMC broke off in the middle it is not known whether the machine restarted.
    pub async fn restart(&self) -> Result<(), RedfishError> {
        let system = self.system().await?;
        if ReportedPower::of(&system)? != ReportedPower::On {
            return self.turn(PowerState::On).await;
        }
        match self.reset(&system, RESTART).await {
            Err(RedfishError::Unsupported { .. }) => self.turn(PowerState::Off).await?,
            other => other?,
        }
        tokio::time::sleep(self.limits.poll).await;
        self.turn(PowerState::On).await
    }

    /// Sends a running machine a non-maskable interrupt.
    ///
    /// # Errors
    /// [`RedfishError::Unsupported`] when the BMC offers none, else what went wrong.
    pub async fn send_nmi(&self) -> Result<(), RedfishError> {
        let system = self.system().await?;
        self.reset(&system, NMI).await
    }

    async fn reach(&self, wanted: PowerState, names: &[&str], within: Duration) -> Result<(), RedfishError> {
        let start = Instant::now();
        let mut sent: Option<Instant> = None;
        let mut objection: Option<RedfishError> = None;
        loop {
            let system = self.system().await?;
            let seen = ReportedPower::of(&system)?;
            if seen.is(wanted) {
                return Ok(());
            }
            // An objection that more waiting does not cure counts if the state is not as wanted anyway: some BMCs
            // answer 400 to "on" when it is on.
            if let Some(error) = objection.take_if(|error| !error.is_ambiguous()) {
                return Err(error);
            }
            if start.elapsed() >= within {
                let objection = objection.map_or_else(String::new, |error| format!("; {error}"));
                return Err(RedfishError::Late {
                    bmc: system.bmc,
                    resource: system.path,
                    wanted: format!("power {wanted:?}"),
                    seen: format!("{seen:?}{objection}"),
                    within,
                });
            }
            let due = sent.is_none_or(|at| at.elapsed() >= within / 3);
            if due && !seen.is_moving() {
                match self.reset(&system, names).await {
                    Ok(()) => objection = None,
                    Err(error @ (RedfishError::Refused { .. } | RedfishError::Unreachable { .. })) => {
                        tracing::warn!(error = transport::client::chain(&error), "power change not confirmed");
                        objection = Some(error);
                    }
                    Err(error) => return Err(error),
                }
                sent = Some(Instant::now());
            }
            tokio::time::sleep(self.limits.poll).await;
        }
    }

    /// Sends the first of `names` that the BMC allows.
    async fn reset(&self, system: &Resource, names: &[&str]) -> Result<(), RedfishError> {
        const ACTION: &str = "#ComputerSystem.Reset";
        let target = system.text(&["Actions", ACTION, "target"]);
        let target =
            target.ok_or_else(|| system.unsupported("it has no Reset action, so its power cannot be changed"))?;
        let allowed = self.allowed_values(system, ACTION, "ResetType").await?;
        let name = match &allowed {
            None => names.first(),
            Some(allowed) => names.iter().find(|name| allowed.iter().any(|value| value == *name)),
        };
        let Some(name) = name else {
            let allowed = allowed.unwrap_or_default().join(", ");
            return Err(system.unsupported(format!("Reset knows none of {}, only: {allowed}", names.join(", "))));
        };
        tracing::info!(bmc = system.bmc, reset = name, "changing power");
        self.connection.post(&system.path, target, &json!({ "ResetType": name })).await
    }

    /// What an action allows for a parameter: beside the action, or in its ActionInfo; `None` where it does not say.
    async fn allowed_values(
        &self,
        resource: &Resource,
        action: &str,
        parameter: &str,
    ) -> Result<Option<Vec<String>>, RedfishError> {
        let own = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect();
        let inline = format!("{parameter}@Redfish.AllowableValues");
        if let Some(values) = resource.texts(&["Actions", action, &inline]) {
            return Ok(Some(own(values)));
        }
        let Some(info) = resource.text(&["Actions", action, "@Redfish.ActionInfo"]) else { return Ok(None) };
        let info = self.connection.get(&resource.path, info).await?;
        let parameters = info.at(&["Parameters"]).and_then(Value::as_array);
        let named = |value: &&Value| value.get("Name").and_then(Value::as_str) == Some(parameter);
        let values = parameters.and_then(|list| list.iter().find(named)?.get("AllowableValues")?.as_array());
        Ok(values.map(|values| own(values.iter().filter_map(Value::as_str).collect())))
    }
}
