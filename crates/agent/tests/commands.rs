//! The life of a command beyond its checks: it is cancelled, it panics, it is a flow of others, it ends the API.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::session;
use agent::state::Closing;
use hardware_sim::{Event, Fault, SimMachine};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::odd::{odd_rig, step};
use support::{Rest, TOKEN, rig, settings};
use tokio_util::sync::CancellationToken;

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
