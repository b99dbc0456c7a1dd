//! What is made up of a site: the machine, its BMC and its agent.

use super::site::{Fuse, Weather};
use crate::agents::{Agent, AgentAddress, AgentError, Agents};
use crate::effect::{Machines, OutOfBand};
use futures::future::BoxFuture;
use hardware::{BootDevice, OutOfBandError, PowerState};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::Node;
use uuid::Uuid;
use wire::agent::{CommandError, CommandRequest, CommandResult, CommandStatus};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// What an earlier user, or a step that did not end, has left.
    Dirty,
    Blank,
    Image,
}

#[derive(Debug, Clone)]
pub(super) struct AgentState {
    pub(super) token: Option<String>,
    pub(super) rescued: bool,
    pub(super) commands: Vec<CommandResult>,
    pub(super) stops: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) on: bool,
    pub(super) from_disk: bool,
    pub(super) disk: Disk,
    pub(super) agent: Option<AgentState>,
    /// How often an image was begun to be written for the present flow.
    pub(super) writes: u32,
}

impl Machine {
    pub(super) fn switch(&mut self, on: bool) {
        if self.on == on {
            return;
        }
        self.on = on;
        self.agent = None;
        if on && !self.from_disk {
            self.agent = Some(AgentState { token: None, rescued: false, commands: Vec::new(), stops: false });
        }
        if !on {
            // Somebody at the site sees to it that the ramdisk is booted whenever nobody chooses the disk.
            self.from_disk = false;
        }
    }

    pub(super) fn running(&mut self) -> Option<&mut CommandResult> {
        let commands = self.agent.as_mut().map(|agent| &mut agent.commands)?;
        commands.iter_mut().find(|command| command.command_status == CommandStatus::Running)
    }

    pub(super) fn end(&mut self, well: bool) {
        let stops = self.agent.as_mut().is_some_and(|agent| std::mem::take(&mut agent.stops));
        let Some(command) = self.running() else { return };
        let name = command.command_result.as_ref().and_then(|result| result["step"].as_str()).map(str::to_owned);
        let kind = command.command_name.trim_start_matches("execute_").trim_end_matches("_step").to_owned();
        command.command_result = None;
        if well {
            command.command_status = CommandStatus::Succeeded;
            let told = json!({"interface": "deploy", "step": name});
            command.command_result = Some(json!({format!("{kind}_result"): null, format!("{kind}_step"): told}));
        } else {
            command.command_status = CommandStatus::Failed;
            let class = if stops { "CommandCancelled" } else { "CommandExecutionError" }.to_owned();
            let (message, details) = ("it failed".to_owned(), "it did not work".to_owned());
            command.command_error = Some(CommandError { class, code: 500, message, details });
        }
        match name.as_deref() {
            Some("write_image") if well => self.disk = Disk::Image,
            Some("erase_devices") if well => self.disk = Disk::Blank,
            _ => {}
        }
    }
}

/// The machine as the driver reaches it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) weather: Arc<Mutex<Weather>>,
    pub(super) fuse: Arc<Fuse>,
}

impl World {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    async fn change<T>(&self, effect: impl FnOnce(&mut Machine) -> T) -> Result<T, OutOfBandError> {
        self.fuse.between().await;
        let down = || OutOfBandError::Unreachable("the BMC does not answer".to_owned());
        if self.weather() == Weather::BmcDown {
            return Err(down());
        }
        let done = effect(&mut self.machine.lock().unwrap());
        self.fuse.between().await;
        if self.weather() == Weather::AnswersLost { Err(down()) } else { Ok(done) }
    }
}

impl Machines for World {
    fn of<'a>(&'a self, _node: &'a Node) -> BoxFuture<'a, Result<Arc<dyn OutOfBand>, OutOfBandError>> {
        Box::pin(async { Ok(Arc::new(self.clone()) as Arc<dyn OutOfBand>) })
    }

    fn release(&self, _node: Uuid) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl OutOfBand for World {
    fn power_state(&self) -> BoxFuture<'_, Result<PowerState, OutOfBandError>> {
        Box::pin(async {
            if self.weather() == Weather::BmcDown {
                return Err(OutOfBandError::Unreachable("the BMC does not answer".to_owned()));
            }
            Ok(if self.machine.lock().unwrap().on { PowerState::On } else { PowerState::Off })
        })
    }

    fn set_power(&self, state: PowerState) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.change(move |machine| machine.switch(state == PowerState::On)))
    }

    fn shut_down(&self, _within: Duration) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.change(|machine| machine.switch(false)))
    }

    fn boot_device(&self) -> BoxFuture<'_, Result<Option<(BootDevice, bool)>, OutOfBandError>> {
        Box::pin(async { Ok(None) })
    }

    fn set_boot_device(&self, device: BootDevice, _persistent: bool) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(self.change(move |machine| machine.from_disk = device == BootDevice::Disk))
    }

    fn insert(&self, _url: &str) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }

    fn eject(&self) -> BoxFuture<'_, Result<(), OutOfBandError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Agents for World {
    fn reach(&self, address: &AgentAddress) -> Result<Arc<dyn Agent>, AgentError> {
        Ok(Arc::new(Line { world: self.clone(), token: address.token.clone() }))
    }
}

struct Line {
    world: World,
    token: String,
}

impl Line {
    fn with<T>(&self, work: impl FnOnce(&mut Machine) -> Result<T, AgentError>) -> Result<T, AgentError> {
        let away = || AgentError::Unreachable("no route to host".to_owned());
        if self.world.weather() == Weather::AgentAway {
            return Err(away());
        }
        let mut machine = self.world.machine.lock().unwrap();
        let agent = machine.agent.as_ref().filter(|agent| !agent.rescued).ok_or_else(away)?;
        if agent.token.as_deref() != Some(&self.token) {
            return Err(AgentError::Refused { status: 401, text: "Token invalid.".to_owned() });
        }
        work(&mut machine)
    }

    async fn run(&self, id: Uuid, command: CommandRequest) -> Result<CommandResult, AgentError> {
        self.world.fuse.between().await;
        let result = self.with(|machine| begin(machine, id, &command));
        self.world.fuse.between().await;
        match self.world.weather() {
            Weather::AnswersLost => Err(AgentError::Unreachable("the answer was lost".to_owned())),
            _ => result,
        }
    }
}

fn begin(machine: &mut Machine, id: Uuid, command: &CommandRequest) -> Result<CommandResult, AgentError> {
    if let Some(running) = machine.running() {
        return Err(AgentError::Busy(format!("executing command {}", running.command_name)));
    }
    let short = command.name.rsplit('.').next().unwrap_or_default().to_owned();
    let mut result = CommandResult {
        id: id.to_string(),
        command_name: short.clone(),
        command_status: CommandStatus::Succeeded,
        command_error: None,
        command_result: None,
        progress: None,
    };
    let offers = |kind: &str, step: &str| {
        let steps = json!([{"step": step, "interface": "deploy", "priority": 10, "abortable": true}]);
        Some(json!({"hardware_manager_version": {"M": "1"}, format!("{kind}_steps"): {"M": steps}}))
    };
    match short.as_str() {
        "get_clean_steps" => result.command_result = offers("clean", "erase_devices"),
        "get_service_steps" => result.command_result = offers("service", "burnin_cpu"),
        "get_deploy_steps" => {
            let steps = json!([{"step": "write_image", "interface": "deploy", "priority": 0}]);
            let versions = json!({"M": "1"});
            result.command_result = Some(json!({"hardware_manager_version": versions, "deploy_steps": {"M": steps}}));
        }
        "execute_clean_step" | "execute_deploy_step" | "execute_service_step" => {
            result.command_status = CommandStatus::Running;
            // Seen by this machine alone until it ends.
            result.command_result = Some(json!({"step": command.params["step"]["step"]}));
            machine.writes += u32::from(command.params["step"]["step"] == json!("write_image"));
            if short != "execute_service_step" {
                machine.disk = Disk::Dirty;
            }
        }
        "finalize_rescue" => {
            if let Some(agent) = machine.agent.as_mut() {
                agent.rescued = true;
            }
        }
        "power_off" => machine.switch(false),
        "collect_system_logs" => result.command_result = Some(json!({"system_logs": "bG9ncw=="})),
        other => panic!("the agent of the model does not know {other}"),
    }
    // What has ended already is not asked for again, and a list that grows with each lost answer has no end.
    if let Some(agent) = machine.agent.as_mut().filter(|_| result.command_status == CommandStatus::Running) {
        agent.commands.push(result.clone());
    }
    Ok(told(&result))
}

/// A command as the agent tells it.
fn told(command: &CommandResult) -> CommandResult {
    let mut told = command.clone();
    if told.command_status == CommandStatus::Running {
        told.command_result = None;
    }
    told
}

impl Agent for Line {
    fn commands(&self) -> BoxFuture<'_, Result<Vec<CommandResult>, AgentError>> {
        Box::pin(async {
            let list =
                |machine: &mut Machine| Ok(machine.agent.iter().flat_map(|agent| &agent.commands).map(told).collect());
            self.with(list)
        })
    }

    fn execute(&self, command: CommandRequest, _wait: bool) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        Box::pin(self.run(Uuid::new_v4(), command))
    }

    fn cancel<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<(), AgentError>> {
        let stop = |machine: &mut Machine| {
            if let Some(agent) = machine.agent.as_mut() {
                agent.stops = true;
            }
            Ok(())
        };
        Box::pin(async move { self.with(stop) })
    }
}
