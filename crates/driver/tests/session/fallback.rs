//! An agent that listens beside its session: what was given over one way is followed over the other.

use super::Site;
use super::deploy::{finish, rest, until};
use super::peer::{Boot, Wire, result};
use super::rules::heard;
use driver::agents::{Agent, AgentAddress, AgentError, Agents};
use futures::future::BoxFuture;
use lifecycle::provision::State;
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use uuid::Uuid;
use wire::agent::{CommandRequest, CommandResult, CommandStatus};
use wire::ironic::Version;
use wire::ramdisk::Heartbeat;

const URL: &str = "https://192.0.2.10:9999";

/// The other way to an agent: its commands are the same. Nobody is there unless a test says so.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    answers: bool,
    /// How often the commands were asked for.
    asked: usize,
    commands: Vec<CommandResult>,
    /// Names of the commands that were given this way.
    given: Vec<String>,
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// From now on the agent answers this way, or not.
    fn answers(&self, commands: &[CommandResult]) {
        let mut state = self.lock();
        (state.answers, state.commands) = (true, commands.to_vec());
    }

    async fn until(&self, is_so: impl Fn(&Told) -> bool) {
        for _ in 0..600 {
            if is_so(&self.lock()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.lock().given);
    }

    /// The step that runs ends well.
    fn finish(&self) -> CommandResult {
        let mut state = self.lock();
        let running =
            state.commands.iter_mut().find(|command| command.command_status == CommandStatus::Running).unwrap();
        running.command_status = CommandStatus::Succeeded;
        running.command_result =
            Some(json!({"deploy_result": null, "deploy_step": {"step": "write_image", "interface": "deploy"}}));
        running.clone()
    }
}

impl Agents for Listener {
    fn reach(&self, address: &AgentAddress) -> Result<Arc<dyn Agent>, AgentError> {
        assert_eq!(address.url, URL);
        Ok(Arc::new(self.clone()))
    }
}

impl Agent for Listener {
    fn commands(&self) -> BoxFuture<'_, Result<Vec<CommandResult>, AgentError>> {
        Box::pin(async {
            let mut state = self.lock();
            state.asked += 1;
            match state.answers {
                true => Ok(state.commands.clone()),
                false => Err(AgentError::Unreachable("nobody is there".to_owned())),
            }
        })
    }

    fn execute(&self, command: CommandRequest, _: bool) -> BoxFuture<'_, Result<CommandResult, AgentError>> {
        Box::pin(async move {
            let mut state = self.lock();
            if !state.answers {
                return Err(AgentError::Unreachable("nobody is there".to_owned()));
            }
            let command = wire::session::Command { id: Uuid::new_v4(), name: command.name, params: command.params };
            let status = match command.name.as_str() {
                "deploy.execute_deploy_step" => CommandStatus::Running,
                _ => CommandStatus::Succeeded,
            };
            let told = result(&command, status, super::deploy::answer_to(&command.name));
            state.given.push(command.name);
            state.commands.push(told.clone());
            Ok(told)
        })
    }

    fn cancel<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), AgentError>> {
        Box::pin(async { Err(AgentError::Refused { status: 405, text: "no such method".to_owned() }) })
    }
}

/// A boot that has enrolled on a node that is deployed.
async fn enrolled(site: &Site) -> (Boot, String) {
    site.deploy().await;
    let mut boot = Boot::new(site.node, &site.offer);
    let token = site.token().await;
    boot.enrol(&token).await;
    (boot, token)
}

/// A heartbeat that tells where the agent listens.
async fn call(site: &Site, token: &str) {
    let heartbeat = Heartbeat {
        callback_url: URL.to_owned(),
        agent_version: Some("13.0.0".to_owned()),
        agent_token: Some(token.to_owned()),
        agent_verify_ca: None,
        agent_status: None,
        agent_status_message: None,
    };
    site.conductor.heartbeat(&site.ident(), Version(68), heartbeat).await.unwrap();
}

/// The connection breaks when everything that was said has been heard.
async fn broken(site: &Site, boot: &mut Boot, mut wire: Wire) {
    heard(boot, &mut wire).await;
    drop(wire);
    while site.conductor.sessions().connected() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const STEP: &str = "deploy.execute_deploy_step";

#[tokio::test]
async fn a_step_that_was_given_over_a_session_is_followed_over_rest_when_that_breaks() {
    let site = Site::new().await;
    let (mut boot, token) = enrolled(&site).await;
    let (mut wire, _) = boot.dial().await;
    call(&site, &token).await;
    until(&mut boot, &mut wire, STEP).await;
    assert!(site.listener.lock().given.is_empty(), "while there is a session it is used");
    broken(&site, &mut boot, wire).await;
    site.listener.answers(&boot.commands);
    site.listener.until(|state| state.asked > 0).await;
    site.listener.finish();
    site.reach(State::Active).await;
    let given = site.listener.lock().given.clone();
    assert_eq!(given, ["standby.get_partition_uuids", "image.install_bootloader", "standby.power_off"]);
}

#[tokio::test]
async fn a_session_that_comes_back_is_used_again_and_gives_nothing_that_was_given_before() {
    let site = Site::new().await;
    let (mut boot, token) = enrolled(&site).await;
    let (mut wire, _) = boot.dial().await;
    call(&site, &token).await;
    let write = until(&mut boot, &mut wire, STEP).await;
    broken(&site, &mut boot, wire).await;
    site.listener.answers(&boot.commands);
    site.listener.until(|state| state.asked > 0).await;
    let (mut wire, welcome) = boot.dial().await;
    assert!(welcome.resumed, "nothing was on its way");
    finish(&mut boot, &mut wire, &write).await;
    let next = boot.command(&mut wire).await.unwrap();
    assert_eq!(next.name, "standby.get_partition_uuids");
    boot.set(&wire, result(&next, CommandStatus::Succeeded, super::deploy::answer_to(&next.name))).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
    assert!(site.listener.lock().given.is_empty());
}

#[tokio::test]
async fn a_step_that_was_given_over_rest_is_followed_over_the_session_that_the_agent_dials_meanwhile() {
    let site = Site::new().await;
    let (mut boot, token) = enrolled(&site).await;
    site.listener.answers(&[]);
    call(&site, &token).await;
    site.listener.until(|state| state.given.iter().any(|name| name == STEP)).await;
    boot.commands = site.listener.lock().commands.clone();
    let (mut wire, _) = boot.dial().await;
    let over = site.listener.finish();
    site.listener.lock().answers = false;
    boot.set(&wire, over).await;
    let next = boot.command(&mut wire).await.unwrap();
    assert_eq!(next.name, "standby.get_partition_uuids");
    boot.set(&wire, result(&next, CommandStatus::Succeeded, super::deploy::answer_to(&next.name))).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
    let given = site.listener.lock().given.clone();
    assert_eq!(given.iter().filter(|name| *name == STEP).count(), 1, "{given:?}");
}
