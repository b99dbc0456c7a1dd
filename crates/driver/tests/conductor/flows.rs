//! Manual cleaning, service, holds, adoption, rescue, fast track: what each does, and where the node ends.

use super::sim::{Booted, Site};
use driver::command::{Command, ProvisionArguments};
use driver::fault::Fault;
use hardware::PowerState;
use lifecycle::provision::{State, Verb};
use serde_json::{Map, Value, json};
use std::time::Duration;
use store::{Record, RecordKind, Store as _};

/// Steps of a request.
pub(crate) fn steps(list: Value) -> Option<Vec<Map<String, Value>>> {
    Some(list.as_array().unwrap().iter().map(|step| step.as_object().unwrap().clone()).collect())
}

pub(crate) fn clean(list: Value) -> ProvisionArguments {
    ProvisionArguments { clean_steps: steps(list), ..ProvisionArguments::default() }
}

pub(crate) fn service(list: Value) -> ProvisionArguments {
    ProvisionArguments { service_steps: steps(list), ..ProvisionArguments::default() }
}

pub(crate) fn rescue() -> ProvisionArguments {
    ProvisionArguments { rescue_password: Some("canary-rescue".to_owned()), ..ProvisionArguments::default() }
}

#[tokio::test(start_paused = true)]
async fn manual_cleaning_runs_the_steps_of_the_request_in_their_order_and_ends_manageable() {
    let site = Site::new().await;
    site.make_manageable().await;
    let arguments = clean(json!([
        {"interface": "deploy", "step": "erase_pstore"},
        {"interface": "deploy", "step": "erase_devices"},
    ]));
    let node = site.verb_with(Verb::Clean, arguments).await.unwrap();
    assert_eq!(node.target_provision_state, Some(State::Manageable));
    site.reach(State::CleanWait).await;
    assert_eq!(site.node().await.target_provision_state, Some(State::Manageable));
    let node = site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_pstore", "erase_devices"]);
    assert_eq!(site.machine.lock().power, PowerState::Off);
    assert_eq!((node.target_provision_state, node.clean_step), (None, json!({})));
}

#[tokio::test(start_paused = true)]
async fn steps_that_the_agent_does_not_have_are_refused_by_name_before_the_first_one_runs() {
    let site = Site::new().await;
    site.make_manageable().await;
    let arguments = clean(json!([
        {"interface": "deploy", "step": "erase_devices"},
        {"interface": "raid", "step": "make_it_so", "args": {"x": 1}},
        {"interface": "deploy", "step": "erase_pstore", "args": {"twice": true}},
    ]));
    site.verb_with(Verb::Clean, arguments).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("raid.make_it_so") && error.contains("unexpected arguments: twice"), "{error}");
    assert!(site.machine.lock().steps_run.is_empty());
    // No step ran, so there is nothing to look at.
    assert!(!node.maintenance);
    assert_eq!(node.target_provision_state, Some(State::Manageable));
    site.verb(Verb::Manage).await.unwrap();
    assert_eq!(site.node().await.provision_state, State::Manageable);
}

#[tokio::test(start_paused = true)]
async fn cleaning_without_a_ramdisk_boots_nothing_and_takes_the_driver_s_own_steps_only() {
    let site = Site::new().await;
    site.make_manageable().await;
    let own = json!([{"interface": "power", "step": "power_off"}, {"interface": "power", "step": "wait",
        "args": {"seconds": 20}}, {"interface": "power", "step": "power_on"}]);
    let before = tokio::time::Instant::now();
    site.verb_with(Verb::Clean, ProvisionArguments { disable_ramdisk: Some(true), ..clean(own) }).await.unwrap();
    site.settle(State::Manageable).await;
    assert!(before.elapsed() >= Duration::from_secs(20));
    assert_eq!(site.machine.lock().booted, [Booted::Nothing]);

    let of_agent = clean(json!([{"interface": "deploy", "step": "erase_devices"}]));
    let arguments = ProvisionArguments { disable_ramdisk: Some(true), ..of_agent };
    let text = site.verb_with(Verb::Clean, arguments).await.unwrap_err().to_string();
    assert!(text.contains("deploy.erase_devices") && text.contains("disable_ramdisk"), "{text}");
    assert_eq!(site.node().await.provision_state, State::Manageable);
}

#[tokio::test(start_paused = true)]
async fn a_service_works_in_the_ramdisk_and_brings_the_instance_back() {
    let site = Site::new().await;
    site.make_active().await;
    let arguments = service(json!([
        {"interface": "raid", "step": "apply_configuration", "args": {"raid_config": {"logical_disks": []}}},
        {"interface": "deploy", "step": "burnin_cpu"},
    ]));
    let node = site.verb_with(Verb::Service, arguments).await.unwrap();
    assert_eq!(node.provision_state, State::Servicing);
    site.settle(State::Active).await;
    let state = site.machine.lock();
    assert_eq!(state.steps_run, ["apply_configuration", "burnin_cpu"]);
    assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk]);
    assert_eq!(state.image_writes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_asks_for_a_reboot_gets_one_and_the_next_runs_in_the_new_ramdisk() {
    let site = Site::new().await;
    site.make_active().await;
    let arguments = service(json!([
        {"interface": "firmware", "step": "flash"},
        {"interface": "deploy", "step": "burnin_cpu"},
    ]));
    site.verb_with(Verb::Service, arguments).await.unwrap();
    site.settle(State::Active).await;
    let state = site.machine.lock();
    assert_eq!(state.steps_run, ["flash", "burnin_cpu"]);
    assert_eq!(state.booted, [Booted::Ramdisk, Booted::Ramdisk, Booted::Disk]);
}

#[tokio::test(start_paused = true)]
async fn a_service_step_that_fails_leaves_a_fault_and_its_logs_and_an_abort_leads_back() {
    let site = Site::new().await;
    site.make_active().await;
    site.machine.lock().failing = Some(("burnin_cpu".to_owned(), "core 3 is hot".to_owned()));
    site.verb_with(Verb::Service, service(json!([{"interface": "deploy", "step": "burnin_cpu"}]))).await.unwrap();
    let node = site.settle(State::ServiceFailed).await;
    assert_eq!(node.fault.as_deref(), Some("service failure"));
    assert!(node.maintenance && node.last_error.unwrap().contains("core 3 is hot"));
    let logs: Vec<_> = std::fs::read_dir(&site.settings.logs_dir).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(logs.len(), 1);
    assert!(logs[0].file_name().to_string_lossy().contains("_service_"), "{logs:?}");
    assert_eq!(std::fs::read(logs[0].path()).unwrap(), b"logs");

    site.verb(Verb::Abort).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_waits_is_aborted_and_the_instance_booted_again() {
    let site = Site::new().await;
    site.make_active().await;
    site.verb_with(Verb::Service, service(json!([{"interface": "deploy", "step": "burnin_cpu"}]))).await.unwrap();
    while site.node().await.service_step.get("step").is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    site.verb(Verb::Abort).await.unwrap();
    let node = site.settle(State::Active).await;
    assert!(node.last_error.unwrap().contains("\"deploy.burnin_cpu\""));
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);
}

#[tokio::test(start_paused = true)]
async fn a_held_node_waits_for_an_operator_however_often_its_agent_calls() {
    let site = Site::new().await;
    site.make_manageable().await;
    let held = json!([
        {"interface": "deploy", "step": "erase_pstore"},
        {"interface": "power", "step": "hold"},
        {"interface": "deploy", "step": "erase_devices"},
    ]);
    site.verb_with(Verb::Clean, clean(held.clone())).await.unwrap();
    let node = site.reach(State::CleanHold).await;
    assert_eq!(node.clean_step["step"], json!("hold"));
    tokio::time::sleep(Duration::from_secs(5 * 3600)).await;
    assert_eq!(site.node().await.provision_state, State::CleanHold);
    assert_eq!(site.machine.lock().steps_run, ["erase_pstore"]);
    site.verb(Verb::Unhold).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_pstore", "erase_devices"]);

    // Nobody comes: a hold is not for ever.
    site.verb_with(Verb::Clean, clean(held)).await.unwrap();
    site.reach(State::CleanHold).await;
    tokio::time::sleep(Duration::from_secs(8 * 24 * 3600)).await;
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("clean_hold_timeout"));
}

#[tokio::test(start_paused = true)]
async fn a_deploy_is_held_where_its_steps_say() {
    let site = Site::new().await;
    site.make_available().await;
    let hold = json!([{"interface": "power", "step": "hold", "priority": 85},
        {"interface": "deploy", "step": "tune", "priority": 0}]);
    let arguments = ProvisionArguments { deploy_steps: steps(hold), ..ProvisionArguments::default() };
    site.verb_with(Verb::Active, arguments).await.unwrap();
    site.reach(State::DeployHold).await;
    assert_eq!(site.machine.lock().image_writes, 0);
    site.verb(Verb::Unhold).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().steps_run, ["check_burn_in", "write_image", "install_bootloader"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_can_wait_for_the_next_heartbeat() {
    let site = Site::new().await;
    site.make_manageable().await;
    let list = json!([{"interface": "power", "step": "wait"}, {"interface": "deploy", "step": "erase_pstore"}]);
    site.verb_with(Verb::Clean, clean(list)).await.unwrap();
    while site.node().await.clean_step["step"] != json!("wait") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(site.machine.lock().steps_run.is_empty());
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_pstore"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_there_is_adopted_without_being_touched() {
    let site = Site::new().await;
    site.make_manageable().await;
    let node = site.verb(Verb::Adopt).await.unwrap();
    assert_eq!(node.provision_state, State::Adopting);
    site.settle(State::Active).await;
    assert!(site.machine.lock().booted.is_empty());

    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().bmc_down = u32::MAX;
    site.verb(Verb::Adopt).await.unwrap();
    let node = site.settle(State::AdoptFailed).await;
    assert_eq!(node.power_state, None);
    assert!(node.last_error.unwrap().contains("does not answer"));
}

#[tokio::test(start_paused = true)]
async fn a_rescue_hands_over_a_hash_and_the_way_back_boots_the_instance() {
    let site = Site::new().await;
    site.make_active().await;
    site.verb_with(Verb::Rescue, rescue()).await.unwrap();
    let hash = site.node().await.instance_info["hashed_rescue_password"].as_str().unwrap().to_owned();
    let node = site.settle(State::Rescue).await;
    assert_eq!(site.machine.lock().rescued, std::slice::from_ref(&hash));
    assert!(hash.starts_with("$5$"));
    assert!(!node.instance_info.contains_key("hashed_rescue_password"));
    let everything = format!("{node:?} {}", site.history().await.join("\n"));
    assert!(!everything.contains("canary-rescue"));
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk]);

    site.verb(Verb::Unrescue).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);
}

#[tokio::test(start_paused = true)]
async fn a_rescue_by_public_keys_alone_tells_nobody_a_password_and_forgets_the_keys_of_the_request() {
    let key =
        |name: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl {name}");
    let site = Site::new().await;
    site.make_active().await;
    let nobody = site.verb_with(Verb::Rescue, ProvisionArguments::default()).await.unwrap_err().to_string();
    assert!(nobody.contains("it is missing, and so are public keys"), "{nobody}");

    // Of the request, in the place of the node's.
    site.set(&["instance_info", "rescue_authorized_keys"], json!(key("of-the-node"))).await;
    let by_keys = ProvisionArguments {
        rescue_authorized_keys: Some(vec![key("of-the-request")]),
        ..ProvisionArguments::default()
    };
    for (arguments, told) in
        [(by_keys, json!([key("of-the-request")])), (ProvisionArguments::default(), json!(key("of-the-node")))]
    {
        site.verb_with(Verb::Rescue, arguments).await.unwrap();
        let node = site.settle(State::Rescue).await;
        assert_eq!(site.machine.lock().rescue_keys, told);
        assert_eq!(node.instance_info["rescue_authorized_keys"], key("of-the-node"));
        assert!(!node.driver_internal_info.contains_key("rescue_authorized_keys"));
        site.verb(Verb::Unrescue).await.unwrap();
        site.settle(State::Active).await;
    }
    let rescued = site.machine.lock().rescued.clone();
    assert_ne!(rescued[0], rescued[1]);
    // Neither an empty password nor none: those let everybody in where an agent takes them as they are.
    assert!(rescued.iter().all(|hash| hash.starts_with("$5$") && hash.len() > 50), "{rescued:?}");

    site.set(&["instance_info", "rescue_authorized_keys"], json!("ssh-dss AAAA")).await;
    let wrong = site.verb_with(Verb::Rescue, ProvisionArguments::default()).await.unwrap_err().to_string();
    assert!(wrong.contains("rescue_authorized_keys") && wrong.contains("ssh-ed25519"), "{wrong}");
    assert_eq!(site.node().await.provision_state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_could_not_be_reached_has_taken_no_password() {
    let site = Site::new().await;
    site.make_active().await;
    site.machine.lock().unreached = 1;
    site.verb_with(Verb::Rescue, rescue()).await.unwrap();
    site.settle(State::Rescue).await;
    assert_eq!(site.machine.lock().rescued.len(), 1, "it is done when the agent has the password");
}

#[tokio::test(start_paused = true)]
async fn a_ramdisk_that_cannot_be_logged_into_fails_the_rescue_and_forgets_the_hash() {
    let site = Site::new().await;
    site.make_active().await;
    site.machine.lock().failing = Some(("finalize_rescue".to_owned(), "there is no login in this ramdisk".to_owned()));
    site.verb_with(Verb::Rescue, rescue()).await.unwrap();
    let node = site.settle(State::RescueFailed).await;
    assert!(node.last_error.unwrap().contains("there is no login in this ramdisk"));
    assert!(!node.instance_info.contains_key("hashed_rescue_password"));

    site.machine.lock().dead = true;
    site.verb_with(Verb::Rescue, rescue()).await.unwrap();
    site.reach(State::RescueWait).await;
    site.verb(Verb::Abort).await.unwrap();
    let node = site.settle(State::RescueFailed).await;
    assert!(!node.instance_info.contains_key("hashed_rescue_password"));
    site.machine.lock().dead = false;
    site.verb(Verb::Unrescue).await.unwrap();
    site.settle(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn fast_track_deploys_without_another_boot_of_the_ramdisk() {
    let site = Site::with(super::sim::Fuse::whole(), |settings| settings.fast_track = true).await;
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.verb(Verb::Inspect).await.unwrap();
    site.settle(State::Manageable).await;
    // Its agent stays, looks up and calls.
    while !site.node().await.driver_internal_info.contains_key("agent_url") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    site.verb(Verb::Provide).await.unwrap();
    site.settle(State::Available).await;
    site.give_image().await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    let state = site.machine.lock();
    assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk], "one boot for inspection, cleaning and deployment");
    assert_eq!(state.image_writes, 1);
    assert!(state.media.is_none());
}

#[tokio::test(start_paused = true)]
async fn fast_track_boots_a_ramdisk_when_the_one_that_was_there_is_gone() {
    let site = Site::with(super::sim::Fuse::whole(), |settings| settings.fast_track = true).await;
    site.make_available().await;
    // The machine lost its power for a moment; nobody has told the driver.
    site.machine.switch(PowerState::Off);
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);

    // Too long without a heartbeat.
    let site = Site::with(super::sim::Fuse::whole(), |settings| settings.fast_track = true).await;
    site.make_available().await;
    site.machine.lock().agent = None;
    tokio::time::sleep(Duration::from_secs(400)).await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);
}

#[tokio::test(start_paused = true)]
async fn a_retired_node_is_cleaned_and_goes_no_further() {
    let site = Site::new().await;
    site.make_active().await;
    site.set(&["retired"], json!(true)).await;
    site.verb(Verb::Deleted).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_devices_metadata", "erase_devices"]);
    let text = site.verb(Verb::Provide).await.unwrap_err().to_string();
    assert!(text.contains("retired"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_protected_node_keeps_its_instance() {
    let site = Site::new().await;
    site.make_active().await;
    site.set(&["protected"], json!(true)).await;
    for verb in [Verb::Rebuild, Verb::Deleted] {
        assert!(matches!(site.verb(verb).await, Err(Fault::Forbidden(text)) if text.contains("protected")), "{verb}");
    }
    assert_eq!(site.node().await.provision_state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn one_node_too_many_at_once_is_told_to_come_back() {
    let site = Site::with(super::sim::Fuse::whole(), |settings| settings.max_concurrent_deploy = 1).await;
    let other = store::Node::new(uuid::Uuid::new_v4(), "fake-hardware", jiff::Timestamp::UNIX_EPOCH);
    let mut other = site.conductor().create_node(other).await.unwrap();
    site.make_available().await;
    other.provision_state = State::DeployWait;
    let epoch = site.conductor().epoch();
    let other = site.store.commit(epoch, store::Commit::of(other)).await.unwrap();
    let fault = site.verb(Verb::Active).await.unwrap_err();
    assert_eq!(fault.status(), 503);
    assert!(fault.to_string().contains("concurrent action limit"), "{fault}");
    let done = store::Node { provision_state: State::Active, ..other };
    site.store.commit(epoch, store::Commit::of(done)).await.unwrap();
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn a_locked_node_says_who_holds_it_for_what_and_since_when() {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().bmc_down = 3;
    site.verb(Verb::Active).await.unwrap();
    let text = site.verb(Verb::Deleted).await.unwrap_err().to_string();
    assert!(text.contains("locked by host test-host, please retry"), "{text}");
    assert!(text.contains("the flow \"deploy\", which is to power off since 2026-"), "{text}");
    let power = Command::Power { target: driver::command::PowerTarget::On, timeout: None };
    assert_eq!(site.conductor().command(&site.ident(), power).await.unwrap_err().status(), 409);
    site.settle(State::Active).await;
}

fn record(kind: RecordKind, name: &str, fields: Value) -> Record {
    let mut record = Record::new(kind, uuid::Uuid::new_v4(), jiff::Timestamp::UNIX_EPOCH);
    record.fields = fields.as_object().unwrap().clone();
    record.fields.insert("name".to_owned(), json!(name));
    record
}

#[tokio::test(start_paused = true)]
async fn a_runbook_stands_for_its_steps_on_nodes_that_have_its_trait() {
    let site = Site::new().await;
    site.make_manageable().await;
    let steps = json!([{"interface": "deploy", "step": "erase_devices", "args": {}, "order": 2},
        {"interface": "deploy", "step": "erase_pstore", "args": {}, "order": "1"}]);
    let runbook = record(RecordKind::Runbook, "CUSTOM_WIPE", json!({"steps": steps}));
    site.conductor().create_record(runbook).await.unwrap();
    let ask = |name: &str| ProvisionArguments { runbook: Some(name.to_owned()), ..ProvisionArguments::default() };
    assert_eq!(site.verb_with(Verb::Clean, ask("CUSTOM_OTHER")).await.unwrap_err().status(), 404);
    let text = site.verb_with(Verb::Clean, ask("CUSTOM_WIPE")).await.unwrap_err().to_string();
    assert!(text.contains("not approved"), "{text}");
    let traits = Command::Traits(vec!["CUSTOM_WIPE".to_owned()]);
    site.conductor().command(&site.ident(), traits).await.unwrap();
    site.verb_with(Verb::Clean, ask("CUSTOM_WIPE")).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_pstore", "erase_devices"]);
}

#[tokio::test(start_paused = true)]
async fn the_traits_of_an_instance_bring_the_steps_of_their_templates() {
    let site = Site::new().await;
    site.make_available().await;
    let steps = json!([{"interface": "deploy", "step": "tune", "args": {}, "priority": 95},
        {"interface": "deploy", "step": "check_burn_in", "args": {}, "priority": 0}]);
    let template = record(RecordKind::DeployTemplate, "CUSTOM_TUNED", json!({"steps": steps}));
    site.conductor().create_record(template).await.unwrap();
    site.set(&["instance_info", "traits"], json!(["CUSTOM_TUNED", "CUSTOM_WITHOUT_TEMPLATE"])).await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().steps_run, ["tune", "write_image", "install_bootloader"]);
}
