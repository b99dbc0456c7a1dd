//! The life of a command beyond its checks: it is cancelled, it panics, it is a flow of others, it ends the API.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::extension::{self, Command, Extension, Mode};
use agent::state::Closing;
use agent::{Agent, Dispatcher, contain, session};
use hardware::manager::StepFuture;
use hardware::{HardwareManager, Step, StepCall, StepError, StepKind, Support};
use hardware_sim::{Event, Fault, SimMachine, disk};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::{Rest, Rig, TOKEN, rig, settings};
use tokio_util::sync::CancellationToken;

/// A manager with steps that end in all ways.
struct Odd;

impl HardwareManager for Odd {
    fn class_name(&self) -> &str {
        "Odd"
    }
    fn name(&self) -> &str {
        "odd"
    }
    fn version(&self) -> &str {
        "1"
    }
    fn evaluate(&self) -> Support {
        Support::MAINLINE
    }
    fn steps(&self, _: StepKind, _: &Value, _: &Value) -> Vec<Step> {
        vec![Step::new("deploy", "endless", 0)]
    }
    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            match call.step.step.as_str() {
                "endless" => {
                    call.control.cancelled().await;
                    Err(StepError::Cancelled)
                }
                "deaf" => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok(json!("done"))
                }
                "panics" => panic!("the {} step fell over", call.step.step),
                other => Err(StepError::Incompatible(other.to_owned())),
            }
        })
    }
}

/// Commands with a fault of their own.
static FAULTY: Extension = Extension {
    name: "faulty",
    python_class: "FaultyExtension",
    commands: &[
        Command {
            name: "now",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: None,
            run: |_| Box::pin(async { panic!("fell over at once") }),
        },
        Command {
            name: "later",
            mode: Mode::Async,
            params: &[],
            open_ended: false,
            validate: None,
            run: |_| Box::pin(async { panic!("fell over later") }),
        },
        Command {
            name: "never",
            mode: Mode::Sync,
            params: &[],
            open_ended: false,
            validate: Some(|_, _| panic!("fell over before it began")),
            run: |_| Box::pin(async { Ok(Value::Null) }),
        },
    ],
};

fn odd_rig() -> Rig {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    let machine = Arc::new(machine);
    let built = Agent::builder(Arc::clone(&machine) as _, settings()).manager(Odd).build();
    let (agent, _) = built.unwrap();
    let mut extensions = extension::standard();
    extensions.push(&FAULTY);
    let dispatcher = Dispatcher::new(Arc::clone(&agent), extensions);
    Rig { machine, agent, dispatcher }
}

fn step(name: &str) -> Value {
    json!({"step": {"step": name, "interface": "deploy"}, "node": {"uuid": "n"}, "ports": []})
}

fn path(id: &str, wait: bool) -> String {
    format!("/v1/commands/{id}?agent_token={TOKEN}&wait={wait}")
}

#[tokio::test]
async fn a_command_is_cancelled_at_its_next_safe_point_and_the_next_one_is_taken() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let started = rest.command("deploy.execute_deploy_step", step("endless"), false).await.body;
    let id = started["id"].as_str().unwrap().to_owned();
    assert_eq!(started["command_status"], "RUNNING");
    for wrong in ["", "?agent_token=wrong"] {
        assert_eq!(rest.send(Method::DELETE, &format!("/v1/commands/{id}{wrong}"), "").await.status, 401);
    }
    assert_eq!(rest.send(Method::DELETE, &path("nobody", false), "").await.status, 404);
    assert_eq!(rest.list().await[0]["command_status"], "RUNNING");
    let cancelled = rest.send(Method::DELETE, &path(&id, true), "").await;
    assert_eq!(cancelled.status, 200);
    assert_eq!(cancelled.body["command_status"], "FAILED");
    assert_eq!(cancelled.body["command_error"]["type"], "CommandCancelled");
    assert_eq!(cancelled.body["command_result"], Value::Null);
    // Asked again, it stays as it ended.
    assert_eq!(rest.send(Method::DELETE, &path(&id, false), "").await.body, cancelled.body);
    assert_eq!(rest.command("standby.sync", json!({}), true).await.status, 200);
}

#[tokio::test]
async fn a_command_without_a_safe_point_ends_as_it_would_have() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let started = rest.command("deploy.execute_deploy_step", step("deaf"), false).await.body;
    let ended = rest.send(Method::DELETE, &path(started["id"].as_str().unwrap(), true), "").await.body;
    assert_eq!(ended["command_status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["command_result"]["deploy_result"], "done");
}

#[tokio::test]
async fn a_machine_whose_end_was_cancelled_in_time_stays_on() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let started = rest.command("standby.power_off", json!({}), false).await.body;
    let ended = rest.send(Method::DELETE, &path(started["id"].as_str().unwrap(), true), "").await.body;
    assert_eq!(ended["command_error"]["type"], "CommandCancelled", "{ended}");
    assert!(!rig.machine.events().iter().any(|event| matches!(event, Event::Ended(_))));
}

#[tokio::test]
async fn a_step_that_panics_has_failed_and_the_agent_lives() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let ended = rest.command("deploy.execute_deploy_step", step("panics"), true).await.body;
    assert_eq!(ended["command_status"], "FAILED", "{ended}");
    assert!(ended["command_error"]["details"].as_str().unwrap().contains("panic"), "{ended}");
    assert_eq!(rest.command("standby.sync", json!({}), true).await.body["command_status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_command_that_panics_has_failed_and_the_agent_lives() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    for (name, text) in [("faulty.now", "fell over at once"), ("faulty.later", "fell over later")] {
        let ended = rest.command(name, json!({}), true).await;
        assert_eq!((ended.status, &ended.body["command_status"]), (200, &json!("FAILED")), "{}", ended.body);
        assert_eq!(ended.body["command_error"]["type"], "CommandExecutionError");
        assert!(ended.body["command_error"]["details"].as_str().unwrap().contains(text), "{}", ended.body);
    }
    assert_eq!(rest.command("standby.sync", json!({}), true).await.body["command_status"], "SUCCEEDED");
    assert_eq!(rest.list().await.len(), 3);
}

/// What PID 1 does, in a process that may die of it: the hook asks where the panic is.
#[tokio::test(flavor = "multi_thread")]
async fn the_hook_that_ends_the_machine_is_told_to_leave_commands_alone() {
    let fatal = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&fatal);
    std::panic::set_hook(Box::new(move |_| {
        seen.store(!contain::is_contained(), std::sync::atomic::Ordering::SeqCst);
    }));
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    rest.command("deploy.execute_deploy_step", step("panics"), true).await;
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the step's panic would have ended the machine");
    rest.command("faulty.now", json!({}), true).await;
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the command's panic would have ended the machine");
    let refused = rest.command("faulty.never", json!({}), true).await;
    assert_eq!(refused.status, 500, "{}", refused.body);
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the validator's panic would have ended the machine");
    // As a lookup asks for the inventory: outside of any request or command.
    let asked = rig.agent.shared.on_machine::<(), _>(|_| panic!("a parser fell over")).await;
    assert!(asked.unwrap_err().to_string().contains("ended unexpectedly"));
    assert!(!fatal.load(std::sync::atomic::Ordering::SeqCst), "the inventory's panic would have ended the machine");
    assert_eq!(rest.command("standby.sync", json!({}), true).await.body["command_status"], "SUCCEEDED");
    // Nothing else is let off.
    let _ = tokio::spawn(async { panic!("elsewhere") }).await;
    assert!(fatal.load(std::sync::atomic::Ordering::SeqCst), "a panic elsewhere would have gone unseen");
}

#[tokio::test]
async fn logs_that_are_collected_again_do_not_hold_the_earlier_ones() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let answer = rest.command("log.collect_system_logs", json!({}), true).await.body;
        sizes.push(answer["command_result"]["system_logs"].as_str().unwrap().len());
    }
    assert!(sizes[4] < 2 * sizes[0], "{sizes:?}");
}

#[tokio::test]
async fn a_flow_runs_its_commands_in_order_and_stops_at_the_first_failure() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    rig.machine.inject(Fault::Sync);
    let flow = json!({"flow": [{"standby.get_partition_uuids": {}}, {"standby.sync": {}}, {"standby.run_image": {}}]});
    let failed = rest.command("flow.start_flow", flow.clone(), true).await.body;
    assert_eq!(failed["command_name"], "start_flow");
    assert_eq!(failed["command_error"]["details"], "standby.sync was failed");
    assert!(rig.machine.events().is_empty());
    let done = rest.command("flow.start_flow", flow, true).await.body;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    assert_eq!(done["command_result"], Value::Null);
    assert_eq!(rig.machine.events().last(), Some(&Event::Ended(hardware::PowerAction::Reboot)));
    // What a flow runs is in no list.
    assert_eq!(rest.list().await.len(), 2);
}

#[tokio::test]
async fn a_flow_that_is_cancelled_stops_its_command_and_begins_no_other() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let flow = json!({"flow": [{"deploy.execute_deploy_step": step("endless")}, {"standby.sync": {}}]});
    let started = rest.command("flow.start_flow", flow, false).await.body;
    let ended = rest.send(Method::DELETE, &path(started["id"].as_str().unwrap(), true), "").await.body;
    assert_eq!(ended["command_error"]["type"], "CommandCancelled", "{ended}");
    assert!(rig.machine.events().is_empty());
}

#[tokio::test]
async fn a_flow_of_nonsense_is_refused_before_anything_runs() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let refused = [
        (json!({}), "parameter 'flow' is missing"),
        (json!({"flow": {}}), "parameter 'flow' must be a list, but is an object"),
        (json!({"flow": ["standby.sync"]}), "a task of a flow must be an object, but is a string"),
        (json!({"flow": [{"standby.sync": []}]}), "parameters of standby.sync must be an object, but are a list"),
        (json!({"flow": [{"nodot": {}}]}), "Command name must be of the form <extension>.<name>"),
        (json!({"flow": [{"standby.juggle": {}}]}), "Extension standby doesn't provide juggle method"),
    ];
    for (params, wanted) in refused {
        let answer = rest.command("flow.start_flow", params, true).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.body["faultstring"].as_str().unwrap().contains(wanted), "{}", answer.body);
    }
    assert!(rest.list().await.is_empty());
    // As in the field this one is recorded.
    let flow = json!({"flow": [{"standby.sync": {}}, {"nonsense.x": {}}]});
    let answer = rest.command("flow.start_flow", flow, true).await;
    assert_eq!((answer.status, &answer.body["command_status"]), (200, &json!("FAILED")));
    assert_eq!(answer.body["command_error"]["details"], "Extension with id nonsense not found.");
    assert!(rig.machine.events().is_empty());
}

#[tokio::test]
async fn a_locked_down_agent_answers_and_then_closes_its_api() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let listening = agent::Settings { listen_host: Some([127, 0, 0, 1].into()), listen_port: port, ..settings() };
    let rig = rig(SimMachine::new(), listening);
    let (agent, dispatcher) = (Arc::clone(&rig.agent), Arc::clone(&rig.dispatcher));
    let running = tokio::spawn(async move { session::run(&agent, &dispatcher, &CancellationToken::new()).await });
    let rest = Rest::at(format!("http://127.0.0.1:{port}"));
    while rest.try_get("/v1/status").await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = rest.command("system.lockdown", json!({}), true).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
    assert_eq!(ended.unwrap(), Some(Closing::Lockdown));
    assert!(rest.try_get("/v1/status").await.is_none());
}

#[tokio::test]
async fn what_the_ramdisk_lacks_is_said_by_the_protocols_own_errors() {
    let rig = odd_rig();
    let rest = Rest::serve(&rig.dispatcher).await;
    let params = json!({"rescue_password": "$5$salt$hash", "hashed": true});
    let answer = rest.command("rescue.finalize_rescue", params, true).await.body;
    assert_eq!(answer["command_error"]["type"], "CommandExecutionError", "{answer}");
    let details = answer["command_error"]["details"].as_str().unwrap();
    assert!(details.starts_with("Rescue Operation failed when writing the hashed rescue password"), "{details}");
    assert!(!details.contains("hash$"), "{details}");
    // A rescue that failed leaves the API open: the driver has to be able to say what comes next.
    assert_eq!(rig.agent.closing(), None);
    let params = json!({"image_source": "oci://registry/image", "instance_info": {}});
    let answer = rest.command("standby.execute_bootc_install", params, true).await.body;
    assert_eq!(answer["command_error"]["type"], "ImageDownloadError", "{answer}");
    assert!(answer["command_error"]["details"].as_str().unwrap().contains("podman is not in this ramdisk"), "{answer}");
}
