//! From enrolled to active and back.

use super::sim::{Booted, Site};
use driver::command::{Command, NodeIdent, PatchOp, PatchOperation, ProvisionArguments};
use driver::effect::machines::POWER_ON;
use lifecycle::provision::{State, Verb};
use serde_json::json;
use store::{Commit, Page, PortFilter, Store as _};
use uuid::Uuid;

#[tokio::test(start_paused = true)]
async fn a_node_goes_from_enrolled_to_active_and_back_to_available() {
    let site = Site::new().await;
    site.verb(Verb::Manage).await.unwrap();
    let node = site.settle(State::Manageable).await;
    assert_eq!(node.power_state.as_deref(), Some(POWER_ON));

    site.verb(Verb::Inspect).await.unwrap();
    let node = site.settle(State::Manageable).await;
    assert!(node.inspection_finished_at.is_some());
    assert_eq!(node.properties["cpu_arch"], json!("x86_64"));
    let inventory = site.store.inventory(site.node).await.unwrap().unwrap();
    assert_eq!(inventory.plugin_data["root_disk"]["name"], json!("/dev/sda"));
    assert!(inventory.plugin_data.get("logs").is_none());
    let filter = PortFilter { node: Some(site.node), ..PortFilter::default() };
    assert_eq!(site.store.ports(&filter, &Page::default()).await.unwrap().len(), 1, "only the one booted from");

    site.verb(Verb::Provide).await.unwrap();
    site.settle(State::Available).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_devices_metadata", "erase_devices"]);

    site.give_image().await;
    site.machine.forget_history();
    let drive = json!({"meta_data": {"hostname": "web-1"}, "user_data": "#cloud-config\n"});
    let arguments = ProvisionArguments { configdrive: Some(drive), ..ProvisionArguments::default() };
    let node = site.verb_with(Verb::Active, arguments).await.unwrap();
    assert_eq!(node.provision_state, State::Deploying);
    assert_eq!(node.reservation.as_deref(), Some("test-host"));
    let node = site.settle(State::Active).await;
    {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk]);
        assert_eq!(state.image_writes, 1);
        assert_eq!(state.steps_run, ["check_burn_in", "write_image", "tune", "install_bootloader"]);
        assert!(state.media.is_none());
    }
    assert_eq!(node.power_state.as_deref(), Some(POWER_ON));
    assert_eq!((node.last_error, node.reservation, node.target_provision_state), (None, None, None));
    for key in ["agent_url", "agent_secret_token", "agent_verify_ca", "boot_media_secret"] {
        assert!(!node.driver_internal_info.contains_key(key), "{key} is still there");
    }

    site.verb(Verb::Deleted).await.unwrap();
    let node = site.settle(State::Available).await;
    assert!(node.instance_info.is_empty());
    insta::assert_snapshot!(site.history().await.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_allocation_is_gone_already_is_undeployed() {
    let site = Site::new().await;
    site.make_active().await;
    // A conductor died after it had deleted the allocation, and before it freed the node.
    let mut node = site.node().await;
    let allocation = Uuid::new_v4();
    node.instance_uuid = Some(allocation);
    node.attributes.insert("allocation_uuid".to_owned(), json!(allocation));
    site.store.commit(site.conductor().epoch(), Commit::of(node)).await.unwrap();
    site.verb(Verb::Deleted).await.unwrap();
    let node = site.settle(State::Available).await;
    assert_eq!((node.instance_uuid, node.attributes.get("allocation_uuid")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_fake_node_does_everything_at_once() {
    let site = Site::new().await;
    let mut node = store::Node::new(uuid::Uuid::new_v4(), "fake-hardware", jiff::Timestamp::UNIX_EPOCH);
    node.name = Some("fake".to_owned());
    let conductor = site.conductor();
    let node = conductor.create_node(node).await.unwrap();
    let ident = NodeIdent::Name("fake".to_owned());
    for (verb, state) in [
        (Verb::Manage, State::Manageable),
        (Verb::Inspect, State::Manageable),
        (Verb::Provide, State::Available),
        (Verb::Active, State::Active),
        (Verb::Rebuild, State::Active),
        (Verb::Undeploy, State::Available),
    ] {
        let command = Command::Provision { verb, arguments: ProvisionArguments::default() };
        conductor.command(&ident, command).await.unwrap();
        while site.store.flow(node.uuid).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(site.store.node(node.uuid).await.unwrap().provision_state, state, "after {verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_somebody_else_boots_gets_its_token_by_look_up() {
    let site = Site::new().await;
    let operations = vec![
        PatchOperation { op: PatchOp::Replace, path: vec!["driver".to_owned()], value: Some(json!("fake-hardware")) },
        PatchOperation {
            op: PatchOp::Replace,
            path: vec!["deploy_interface".to_owned()],
            value: Some(json!("direct")),
        },
    ];
    let patch = Command::Patch { operations, reset_interfaces: true, expected: None };
    let node = site.conductor().command(&site.ident(), patch).await.unwrap();
    assert_eq!((node.interfaces["boot"].as_str(), node.interfaces["deploy"].as_str()), ("fake", "direct"));
    site.machine.lock().device = hardware::BootDevice::Pxe;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    let state = site.machine.lock();
    assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk]);
    assert_eq!(state.image_writes, 1);
}

#[tokio::test(start_paused = true)]
async fn node_credentials_cleaning_no_secret_of_bmc_or_tenant_reaches_the_agent() {
    let site = Site::new().await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    let requests = site.machine.lock().requests.join("\n");
    assert!(requests.contains("execute_deploy_step"));
    assert!(!requests.contains("canary-bmc-password"));
}
