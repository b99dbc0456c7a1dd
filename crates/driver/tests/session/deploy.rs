//! A deployment that goes through a session alone.

use super::peer::{Boot, Wire, result};
use super::{Site, object};
use lifecycle::provision::State;
use serde_json::{Value, json};
use wire::agent::CommandStatus;
use wire::session::Command;

/// An agent that has been looked up, has enrolled, dialled in and called.
pub(crate) async fn deploying(site: &Site) -> (Boot, Wire) {
    site.deploy().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    let (wire, welcome) = boot.dial().await;
    assert!(!welcome.resumed);
    boot.beat(&wire).await;
    (boot, wire)
}

/// What commands that are over at once come to.
pub(crate) fn answer_to(command: &str) -> Option<Value> {
    match command {
        "deploy.get_deploy_steps" => Some(json!({
            "deploy_steps": {"GenericHardwareManager": [{"step": "write_image", "interface": "deploy", "priority": 0}]},
            "hardware_manager_version": {"generic_hardware_manager": "1.2"},
        })),
        "standby.get_partition_uuids" => Some(json!({"root uuid": "0x01020304"})),
        _ => None,
    }
}

/// Answers commands that are over at once until one of the name comes, which is begun.
pub(crate) async fn until(boot: &mut Boot, wire: &mut Wire, name: &str) -> Command {
    loop {
        let command = boot.command(wire).await.unwrap();
        let value = answer_to(&command.name);
        if command.name == name {
            boot.set(wire, result(&command, CommandStatus::Running, None)).await;
            return command;
        }
        boot.set(wire, result(&command, CommandStatus::Succeeded, value)).await;
    }
}

pub(crate) async fn finish(boot: &mut Boot, wire: &mut Wire, command: &Command) {
    let step = json!({"deploy_result": null, "deploy_step": command.params.get("step")});
    boot.set(wire, result(command, CommandStatus::Succeeded, Some(step))).await;
}

/// Answers everything until the ramdisk is told to end.
pub(crate) async fn rest(boot: &mut Boot, wire: &mut Wire) {
    let loader = until(boot, wire, "image.install_bootloader").await;
    boot.set(wire, result(&loader, CommandStatus::Succeeded, None)).await;
    let off = until(boot, wire, "standby.power_off").await;
    boot.set(wire, result(&off, CommandStatus::Succeeded, None)).await;
}

#[tokio::test]
async fn a_deployment_goes_through_a_session_and_is_told_while_it_runs() {
    let site = Site::with(|node| node.name = Some("rack-1".to_owned())).await;
    let before = site.conductor.events().now();
    let (mut boot, mut wire) = deploying(&site).await;
    let write = until(&mut boot, &mut wire, "deploy.execute_deploy_step").await;
    let info = object(write.params["step"].clone());
    assert_eq!(info["step"], json!("write_image"));
    boot.progress(&wire, write.id, 250, 1000).await;
    while site.ask(&format!("/v1/nodes/{}/progress", site.node)).await["percent"] != json!(25.0) {
        tokio::task::yield_now().await;
    }
    let report = site.ask(&format!("/v1/nodes/{}/progress", site.node)).await;
    assert_eq!(report["step"]["step"], json!("deploy.write_image"));
    assert_eq!((&report["stage"], &report["done"], &report["total"]), (&json!("write"), &json!(250), &json!(1000)));
    assert_eq!(report["state"]["state"], json!("wait call-back"));
    let node = site.ask(&format!("/v1/nodes/{}", site.node)).await;
    assert_eq!(node["driver_internal_info"]["progress"]["percent"], json!(25.0));
    assert!(!node.to_string().contains("PRIVATE KEY"));
    finish(&mut boot, &mut wire, &write).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
    assert!(site.ask(&format!("/v1/nodes/{}/progress", site.node)).await["stage"].is_null());

    let (events, _) = site.conductor.events().read(before, Some(site.node), 1000).unwrap();
    let data: Vec<Value> = events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect();
    assert!(data.iter().any(|data| data["provision_state"] == json!("active")), "{data:?}");
    assert!(data.iter().all(|data| data["name"] == json!("rack-1")), "{data:?}");
    let ended =
        |data: &Value| data["event"].as_str().is_some_and(|event| event.starts_with("deploy.write_image ended after "));
    assert!(data.iter().any(ended), "{data:?}");
    let history = site.ask(&format!("/v1/nodes/{}/history", site.node)).await;
    assert!(history.to_string().contains("deploy.write_image ended after "), "{history}");
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_step_costs_nothing() {
    let site = Site::new().await;
    let (mut boot, mut wire) = deploying(&site).await;
    let write = until(&mut boot, &mut wire, "deploy.execute_deploy_step").await;
    boot.progress(&wire, write.id, 1, 2).await;
    drop(wire);
    // What ends while there is no connection is told over the next one.
    while site.conductor.sessions().connected() > 0 {
        tokio::task::yield_now().await;
    }
    let step = json!({"deploy_result": null, "deploy_step": write.params.get("step")});
    let over = result(&write, CommandStatus::Succeeded, Some(step));
    let document = serde_json::to_vec(&over).unwrap().into();
    boot.link.send(wire::session::FromAgent::Command { document, omitted: 0 });
    let (mut wire, welcome) = boot.dial().await;
    assert!(welcome.resumed);
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
}

#[tokio::test]
async fn a_driver_that_starts_anew_adopts_the_step_by_its_id_and_does_not_give_it_twice() {
    let site = Site::new().await;
    let (mut boot, mut wire) = deploying(&site).await;
    let write = until(&mut boot, &mut wire, "deploy.execute_deploy_step").await;
    let flow = site.store_flow().await;
    assert_eq!(flow["intent"]["id"], json!(write.id));
    let site = site.restart().await;
    boot.redirect(&site.offer);
    let (mut wire, welcome) = boot.dial().await;
    assert!(!welcome.resumed);
    finish(&mut boot, &mut wire, &write).await;
    // Nothing but what comes behind it is asked for.
    let next = boot.command(&mut wire).await.unwrap();
    assert_eq!(next.name, "standby.get_partition_uuids");
    let value = Some(json!({"root uuid": "0x01020304"}));
    boot.set(&wire, result(&next, CommandStatus::Succeeded, value)).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
}

#[tokio::test]
async fn a_command_that_was_on_its_way_when_the_driver_died_comes_again_under_its_id() {
    let site = Site::new().await;
    let (mut boot, mut wire) = deploying(&site).await;
    let steps = boot.command(&mut wire).await.unwrap();
    let offered = json!({"deploy_steps": {}, "hardware_manager_version": {}});
    boot.set(&wire, result(&steps, CommandStatus::Succeeded, Some(offered))).await;
    let write = boot.command(&mut wire).await.unwrap();
    // The driver dies before it hears that the step was accepted; the agent carries it out.
    drop(wire);
    boot.commands.push(result(&write, CommandStatus::Running, None));
    let site = site.restart().await;
    boot.redirect(&site.offer);
    let (mut wire, _) = boot.dial().await;
    let node = site.node;
    let adopted = site.until_flow(|flow| flow["intent"]["command"] == json!(write.id)).await;
    assert_eq!(adopted["node"], json!(node));
    finish(&mut boot, &mut wire, &write).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
}

#[tokio::test]
async fn a_command_that_never_arrived_is_given_again_under_the_same_id() {
    let site = Site::new().await;
    let (mut boot, mut wire) = deploying(&site).await;
    let steps = boot.command(&mut wire).await.unwrap();
    let offered = json!({"deploy_steps": {}, "hardware_manager_version": {}});
    boot.set(&wire, result(&steps, CommandStatus::Succeeded, Some(offered))).await;
    let lost = boot.command(&mut wire).await.unwrap();
    drop(wire);
    let site = site.restart().await;
    boot.redirect(&site.offer);
    let (mut wire, _) = boot.dial().await;
    let write = until(&mut boot, &mut wire, "deploy.execute_deploy_step").await;
    assert_eq!(write.id, lost.id);
    finish(&mut boot, &mut wire, &write).await;
    rest(&mut boot, &mut wire).await;
    site.reach(State::Active).await;
}

impl Site {
    async fn store_flow(&self) -> Value {
        use store::Store as _;
        let flow = self.store.flow(self.node).await.unwrap().unwrap();
        let mut document = flow.document;
        document["node"] = json!(flow.node);
        document
    }

    async fn until_flow(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let flow = self.store_flow().await;
            if is_so(&flow) {
                return flow;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{}", self.store_flow().await);
    }
}
