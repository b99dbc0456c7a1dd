//! Steps of a node that are carried out on the nodes that are parts of it, and what is shown of an agent's steps.

use super::flows::clean;
use super::sim::Site;
use driver::command::ProvisionArguments;
use driver::effect::machines::{POWER_OFF, POWER_ON};
use jiff::Timestamp;
use lifecycle::provision::{State, Verb};
use serde_json::{Value, json};
use store::{Node, Store as _};
use uuid::Uuid;

/// A node without hardware that is a part of the site's.
async fn child(site: &Site, name: &str) -> Uuid {
    let mut node = Node::new(Uuid::new_v4(), "fake-hardware", Timestamp::UNIX_EPOCH);
    node.name = Some(name.to_owned());
    node.power_state = Some(POWER_ON.to_owned());
    node.attributes.insert("parent_node".to_owned(), Value::from(site.node.to_string()));
    site.conductor().create_node(node).await.unwrap().uuid
}

async fn power(site: &Site, node: Uuid) -> Option<String> {
    site.store.node(node).await.unwrap().power_state.clone()
}

fn without_ramdisk(steps: Value) -> ProvisionArguments {
    ProvisionArguments { disable_ramdisk: Some(true), ..clean(steps) }
}

#[tokio::test(start_paused = true)]
async fn a_step_switches_the_children_of_a_node_and_leaves_the_node_and_strangers_alone() {
    let site = Site::new().await;
    site.make_manageable().await;
    let (one, two) = (child(&site, "dpu-1").await, child(&site, "dpu-2").await);
    let stranger = {
        let mut node = Node::new(Uuid::new_v4(), "fake-hardware", Timestamp::UNIX_EPOCH);
        node.power_state = Some(POWER_ON.to_owned());
        site.conductor().create_node(node).await.unwrap().uuid
    };
    let before = site.node().await.power_state;
    let off = json!([{"interface": "power", "step": "power_off", "execute_on_child_nodes": true}]);
    site.verb_with(Verb::Clean, without_ramdisk(off)).await.unwrap();
    site.settle(State::Manageable).await;
    for (node, wanted) in [(one, POWER_OFF), (two, POWER_OFF), (stranger, POWER_ON)] {
        assert_eq!(power(&site, node).await.as_deref(), Some(wanted));
    }
    assert_eq!(site.node().await.power_state, before);

    let on = json!([{"interface": "power", "step": "power_on", "execute_on_child_nodes": true,
        "limit_child_node_execution": [two.to_string()]}]);
    site.verb_with(Verb::Clean, without_ramdisk(on)).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(power(&site, one).await.as_deref(), Some(POWER_OFF));
    assert_eq!(power(&site, two).await.as_deref(), Some(POWER_ON));

    let wrong = json!([{"interface": "power", "step": "reboot", "execute_on_child_nodes": true,
        "limit_child_node_execution": [stranger.to_string()]}]);
    site.verb_with(Verb::Clean, without_ramdisk(wrong)).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("is no child of node"));
    assert_eq!(power(&site, stranger).await.as_deref(), Some(POWER_ON));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_being_worked_on_is_waited_for_and_then_named() {
    let site = Site::new().await;
    site.make_manageable().await;
    let busy = child(&site, "dpu-1").await;
    let mut node = site.store.node(busy).await.unwrap();
    node.reservation = Some("somebody".to_owned());
    site.store.commit(site.conductor().epoch(), store::Commit::of(node)).await.unwrap();
    let off = json!([{"interface": "power", "step": "power_off", "execute_on_child_nodes": true}]);
    site.verb_with(Verb::Clean, without_ramdisk(off)).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains(&format!("child node {busy}: it is being worked on")), "{error}");
    assert_eq!(power(&site, busy).await.as_deref(), Some(POWER_ON));
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_an_agent_are_shown_as_long_as_its_flow_goes_on() {
    let site = Site::new().await;
    site.make_manageable().await;
    let steps = json!([{"interface": "power", "step": "hold"}, {"interface": "deploy", "step": "erase_devices"}]);
    site.verb_with(Verb::Clean, clean(steps)).await.unwrap();
    let held = site.reach(State::CleanHold).await;
    let info = &held.driver_internal_info;
    let kept = info["agent_cached_clean_steps"].as_str().unwrap();
    let shown = serde_json::from_str::<Value>(kept).unwrap()["deploy"].take();
    let shown = shown.as_array().unwrap();
    assert!(shown.iter().any(|step| step["step"] == "erase_devices" && step["requires_ramdisk"] == true), "{shown:?}");
    assert!(info["agent_cached_clean_steps_refreshed"].is_string());
    assert!(info["hardware_manager_version"].is_object());
    site.verb(Verb::Unhold).await.unwrap();
    let node = site.settle(State::Manageable).await;
    assert!(!node.driver_internal_info.contains_key("agent_cached_clean_steps"));
    // When and by which managers the last steps were told stays, as in Ironic.
    assert!(node.driver_internal_info.contains_key("agent_cached_clean_steps_refreshed"));
}
