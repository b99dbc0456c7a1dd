//! An agent that keeps to the protocol: look-up, heartbeats, one command at a time, results that stay.

use super::machine::Machine;
use super::{Fuse, MAC};
use driver::agents::{Agent, AgentAddress, AgentError, Agents};
use driver::command::{LookupRequest, NodeIdent};
use futures::future::BoxFuture;
use hardware::PowerState;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;
use wire::agent::{CommandError, CommandRequest, CommandResult, CommandStatus, Progress};
use wire::ironic::Version;
use wire::ramdisk::{Heartbeat, MASK};

type AgentReply<T> = Result<T, AgentError>;

pub(crate) const URL: &str = "https://192.0.2.10:9999";
/// Each boot of an agent makes its own.
fn certificate(boot: u64) -> String {
    format!("-----BEGIN CERTIFICATE-----\nof boot {boot}\n-----END CERTIFICATE-----\n")
}

/// From power-on to the first word.
const BOOT: Duration = Duration::from_secs(20);
/// What a request to the driver may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_secs(7);

pub(crate) struct AgentState {
    parameters: HashMap<String, String>,
    token: Option<String>,
    serves: bool,
    rescued: bool,
    pub(crate) commands: Vec<CommandResult>,
    forced: Arc<Notify>,
}

impl AgentState {
    pub(crate) fn new(line: &str) -> Self {
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        let parameters: HashMap<_, _> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let token = parameters.get("ipa-agent-token").cloned();
        Self { parameters, token, serves: false, rescued: false, commands: Vec::new(), forced: Arc::new(Notify::new()) }
    }
}

/// The life of an agent, from power-on until the boot is another.
pub(crate) async fn boot(machine: Arc<Machine>, boot: u64) {
    tokio::time::sleep(BOOT).await;
    let is_alive = || machine.lock().boot == boot;
    let parameters = match machine.lock().agent.as_ref() {
        Some(agent) => agent.parameters.clone(),
        None => return,
    };
    if parameters.contains_key("ipa-inspection-callback-url") {
        for _ in 0..5 {
            if !is_alive() || inspect(&machine).await {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        if !parameters.contains_key("ipa-api-url") {
            return;
        }
    }
    let mut node = None;
    for _ in 0..60 {
        if !is_alive() {
            return;
        }
        node = look_up(&machine).await;
        if node.is_some() {
            break;
        }
        tokio::time::sleep(RETRY).await;
    }
    let Some(node) = node else { return };
    let forced = match machine.lock().agent.as_mut() {
        Some(agent) => {
            agent.serves = true;
            agent.forced.clone()
        }
        None => return,
    };
    let rescued = || machine.lock().agent.as_ref().is_none_or(|agent| agent.rescued);
    while is_alive() && !rescued() {
        let pause = if beat(&machine, node).await { HEARTBEAT } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = forced.notified() => {}
        }
    }
}

async fn inspect(machine: &Machine) -> bool {
    let Some(conductor) = machine.conductor() else { return false };
    let body = json!({
        "inventory": {
            "interfaces": [
                {"name": "eth0", "mac_address": MAC, "ipv4_address": "192.0.2.10", "has_carrier": true},
                {"name": "eth1", "mac_address": "52:54:00:00:00:02", "ipv4_address": null, "has_carrier": false},
            ],
            "cpu": {"architecture": "x86_64", "count": 2},
            "memory": {"total": 1 << 30}, "disks": [], "bmc_address": "192.0.2.99",
        },
        "root_disk": {"name": "/dev/sda"},
        "boot_interface": "01-52-54-00-00-00-01",
        "logs": "bG9ncw==",
    });
    let body = body.as_object().unwrap().clone();
    let call = conductor.continue_inspection(body, None, false);
    matches!(tokio::time::timeout(TIMEOUT, call).await, Ok(Ok(_)))
}

async fn look_up(machine: &Machine) -> Option<Uuid> {
    let conductor = machine.conductor()?;
    let request = LookupRequest { addresses: vec![MAC.to_owned()], node: None, token: true, peer: None };
    let answer = tokio::time::timeout(TIMEOUT, conductor.lookup(request)).await.ok()?.ok()?;
    let mut state = machine.lock();
    state.rescue_keys = answer.node.other["instance_info"]["rescue_authorized_keys"].clone();
    let agent = state.agent.as_mut()?;
    match answer.config.agent_token.as_deref() {
        Some(MASK) => assert!(agent.token.is_some(), "an agent without a token was told that there is one"),
        Some(token) => agent.token = Some(token.to_owned()),
        None => {}
    }
    answer.node.uuid.parse().ok()
}

async fn beat(machine: &Machine, node: Uuid) -> bool {
    let Some(conductor) = machine.conductor() else { return false };
    let token = machine.lock().agent.as_ref().and_then(|agent| agent.token.clone());
    let heartbeat = Heartbeat {
        callback_url: URL.to_owned(),
        agent_version: Some("13.0.0".to_owned()),
        agent_token: token,
        agent_verify_ca: Some(certificate(machine.lock().boot)),
        agent_status: None,
        agent_status_message: None,
    };
    let ident = NodeIdent::Uuid(node);
    let call = conductor.heartbeat(&ident, Version(68), heartbeat);
    matches!(tokio::time::timeout(TIMEOUT, call).await, Ok(Ok(())))
}

/// Ways to the agent of the machine.
pub(crate) struct SimAgents {
    pub(crate) machine: Arc<Machine>,
    pub(crate) fuse: Arc<Fuse>,
}

impl Agents for SimAgents {
    fn reach(&self, address: &AgentAddress) -> AgentReply<Arc<dyn Agent>> {
        assert_eq!(address.url, URL);
        let (token, certificate) = (address.token.clone(), address.certificate.clone());
        Ok(Arc::new(Line { machine: self.machine.clone(), fuse: self.fuse.clone(), token, certificate }))
    }
}

struct Line {
    machine: Arc<Machine>,
    fuse: Arc<Fuse>,
    token: String,
    certificate: Option<String>,
}

impl Agent for Line {
    fn commands(&self) -> BoxFuture<'_, AgentReply<Vec<CommandResult>>> {
        Box::pin(async move { self.with_agent(|agent| Ok(agent.commands.clone())) })
    }

    fn execute(&self, command: CommandRequest, wait: bool) -> BoxFuture<'_, AgentReply<CommandResult>> {
        Box::pin(async move {
            self.fuse.tick(&format!("before {}", command.name)).await;
            let result = self.run(&command, wait);
            self.fuse.tick(&format!("after {}", command.name)).await;
            result
        })
    }

    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, AgentReply<()>> {
        Box::pin(async move {
            self.fuse.tick("before cancel").await;
            let stops = self.machine.lock().stops_within;
            let seconds =
                stops.ok_or_else(|| AgentError::Refused { status: 405, text: "no such method".to_owned() })?;
            self.machine.lock().cancelled.push(id.to_owned());
            let (machine, id, boot) = (self.machine.clone(), id.to_owned(), self.machine.lock().boot);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                let mut state = machine.lock();
                if state.boot != boot {
                    return;
                }
                let reported = state.results.first().map(|(_, result)| json!({"clean_result": result}));
                let Some(agent) = state.agent.as_mut() else { return };
                let running =
                    |command: &&mut CommandResult| command.id == id && command.command_status == CommandStatus::Running;
                let Some(result) = agent.commands.iter_mut().find(running) else { return };
                let (class, details) = ("CommandCancelled".to_owned(), "stopped on request".to_owned());
                let message = "The command was stopped".to_owned();
                result.command_status = CommandStatus::Failed;
                result.command_error = Some(CommandError { class, code: 500, message, details });
                result.command_result = reported;
                agent.forced.notify_one();
            });
            self.fuse.tick("after cancel").await;
            Ok(())
        })
    }
}

impl Line {
    fn with_agent<T>(&self, work: impl FnOnce(&mut AgentState) -> AgentReply<T>) -> AgentReply<T> {
        let mut state = self.machine.lock();
        let (own, known) = (certificate(state.boot), self.certificate.as_ref());
        if let Some(left) = state.unreached.checked_sub(1) {
            state.unreached = left;
            return Err(AgentError::Unreachable("no route to host".to_owned()));
        }
        let agent = state.agent.as_mut().filter(|agent| agent.serves);
        let agent = agent.ok_or_else(|| AgentError::Unreachable("connection refused".to_owned()))?;
        if known.is_some_and(|known| *known != own) {
            return Err(AgentError::Unreachable("its certificate is another one".to_owned()));
        }
        if agent.token.as_deref() != Some(&self.token) {
            let text = "401 Unauthorized: Token invalid.".to_owned();
            return Err(AgentError::Refused { status: 401, text });
        }
        work(agent)
    }

    fn run(&self, command: &CommandRequest, wait: bool) -> AgentReply<CommandResult> {
        let short = command.name.rsplit('.').next().unwrap_or_default().to_owned();
        self.machine.lock().requests.push(json!(command).to_string());
        self.with_agent(|agent| match agent.commands.last() {
            Some(last) if last.command_status == CommandStatus::Running => {
                Err(AgentError::Busy(format!("executing command {}", last.command_name)))
            }
            _ => Ok(()),
        })?;
        let mut result = CommandResult {
            id: Uuid::new_v4().to_string(),
            command_name: short.clone(),
            command_status: CommandStatus::Succeeded,
            command_error: None,
            command_result: None,
            progress: None,
        };
        match short.as_str() {
            "get_clean_steps" | "get_deploy_steps" | "get_service_steps" => {
                assert!(wait);
                let state = self.machine.lock();
                let version = json!({"generic_hardware_manager": state.manager_version});
                let mut value = json!({"hardware_manager_version": version});
                if short == "get_clean_steps" {
                    value["clean_steps"] = state.clean_steps.clone();
                } else if short == "get_service_steps" {
                    value["service_steps"] = state.service_steps.clone();
                } else {
                    value["deploy_steps"] = json!({"GenericHardwareManager": [
                        {"step": "write_image", "interface": "deploy", "priority": 0},
                        {"step": "check_burn_in", "interface": "deploy", "priority": 90},
                        {"step": "tune", "interface": "deploy", "priority": 70},
                    ]});
                }
                result.command_result = Some(value);
            }
            "get_partition_uuids" => result.command_result = Some(json!({"root uuid": "0x01020304"})),
            "finalize_rescue" => {
                assert_eq!(command.params["hashed"], json!(true));
                let hash = command.params["rescue_password"].as_str().unwrap().to_owned();
                let mut state = self.machine.lock();
                if let Some((_, details)) = state.failing.clone().filter(|(failing, _)| *failing == short) {
                    result.command_status = CommandStatus::Failed;
                    let (class, message) = ("CommandExecutionError".to_owned(), "Command execution failed".to_owned());
                    result.command_error = Some(CommandError { class, code: 500, message, details });
                    return Ok(result);
                }
                state.rescued.push(hash);
                // Its API is gone from here on, and it sends no more heartbeats.
                if let Some(agent) = state.agent.as_mut() {
                    agent.serves = false;
                    agent.rescued = true;
                }
                return Ok(result);
            }
            "collect_system_logs" => result.command_result = Some(json!({"system_logs": "bG9ncw=="})),
            "execute_clean_step" | "execute_deploy_step" | "execute_service_step" | "install_bootloader" => {
                assert!(!wait);
                result.command_status = CommandStatus::Running;
                result.progress = Some(Progress {
                    stage: "write".to_owned(),
                    done: 1,
                    total: Some(2),
                    rate: 1,
                    eta: Some(1),
                    stalled: None,
                });
                self.begin(&short, command.params.clone(), &result.id);
            }
            "power_off" => self.shut_down(),
            other => panic!("the simulated agent does not know {other}"),
        }
        self.with_agent(|agent| {
            agent.commands.push(result.clone());
            Ok(())
        })?;
        Ok(result)
    }

    fn begin(&self, short: &str, params: Map<String, Value>, id: &str) {
        let (boot, seconds, version) = {
            let state = self.machine.lock();
            (state.boot, state.step_seconds, state.manager_version.clone())
        };
        let step = params.get("step").cloned().unwrap_or(Value::Null);
        let name = step["step"].as_str().unwrap_or(short).to_owned();
        let kind = ["clean", "service"].into_iter().find(|kind| short.contains(kind)).unwrap_or("deploy");
        let sent = params.get(&format!("{kind}_version")).cloned();
        let mismatch = sent.is_some_and(|sent| sent["generic_hardware_manager"] != json!(version));
        let (machine, id) = (self.machine.clone(), id.to_owned());
        if name == "write_image" && !mismatch {
            machine.lock().image_writes += 1;
        }
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let mut state = machine.lock();
            let stopped =
                |command: &CommandResult| command.id == id && command.command_status != CommandStatus::Running;
            if state.boot != boot || state.agent.as_ref().is_some_and(|agent| agent.commands.iter().any(stopped)) {
                return;
            }
            let failing = state.failing.clone().filter(|(failing, _)| *failing == name);
            let reported = state.results.iter().find(|(step, _)| *step == name).map(|(_, result)| result.clone());
            if !mismatch {
                state.steps_run.push(name.clone());
                state.image_written |= name == "write_image" && failing.is_none();
            }
            let Some(agent) = state.agent.as_mut() else { return };
            let Some(result) = agent.commands.iter_mut().find(|command| command.id == id) else { return };
            result.progress = None;
            if mismatch {
                result.command_status = CommandStatus::VersionMismatch;
            } else if let Some((_, details)) = failing {
                result.command_status = CommandStatus::Failed;
                let (class, message) = ("ImageChecksumError".to_owned(), "Error verifying image checksum".to_owned());
                result.command_error = Some(CommandError { class, code: 500, message, details });
                result.command_result = reported.map(|reported| json!({format!("{kind}_result"): reported}));
            } else {
                result.command_status = CommandStatus::Succeeded;
                if !step.is_null() {
                    let kept = format!("{kind}_step");
                    result.command_result = Some(json!({format!("{kind}_result"): reported, kept: step}));
                }
            }
            agent.forced.notify_one();
        });
    }

    fn shut_down(&self) {
        let (machine, boot) = (self.machine.clone(), self.machine.lock().boot);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if machine.lock().boot == boot {
                machine.switch(PowerState::Off);
            }
        });
    }
}
