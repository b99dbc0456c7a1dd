//! What goes wrong, and where the node ends.

use super::sim::{Booted, Fuse, MAC, Site};
use driver::command::LookupRequest;
use driver::effect::machines::{POWER_OFF, POWER_ON};
use driver::fault::Fault;
use hardware::PowerState;
use lifecycle::provision::{State, Verb};
use std::time::Duration;
use store::Store as _;
use wire::agent::CommandStatus;

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_ends_in_deploy_failed_with_power_on_and_the_next_deploy_works() {
    let site = Site::new().await;
    site.make_available().await;
    let details = "Image failed to verify against checksum. expected 9f86, actual 60303ae2".to_owned();
    site.machine.lock().failing = Some(("write_image".to_owned(), details));
    site.verb(Verb::Active).await.unwrap();
    let node = site.settle(State::DeployFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.starts_with(&format!("Deploy step deploy.write_image failed on node {}. Image failed", node.uuid)));
    assert!(!node.maintenance && node.fault.is_none());
    assert_eq!(site.machine.lock().power, PowerState::On);
    assert!(site.machine.lock().media.is_none());
    assert!(!node.driver_internal_info.contains_key("agent_secret_token"));
    assert_eq!(node.target_provision_state, Some(State::Active));

    site.machine.lock().failing = None;
    site.verb(Verb::Active).await.unwrap();
    assert_eq!(site.settle(State::Active).await.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_dead_ramdisk_fails_the_deploy_at_the_deadline() {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().dead = true;
    let before = tokio::time::Instant::now();
    site.verb(Verb::Active).await.unwrap();
    let node = site.settle(State::DeployFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("Timeout reached while waiting for callback") && error.contains("1800 s"), "{error}");
    assert!((1800..1900).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_eq!(site.machine.lock().power, PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_during_a_step_fails_the_deploy_and_does_not_start_it_again() {
    let site = Site::new().await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    while site.machine.lock().image_writes == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    site.machine.lock().agent = None;
    let node = site.settle(State::DeployFailed).await;
    assert!(node.last_error.unwrap().contains("deploy.write_image"));
    assert_eq!(site.machine.lock().image_writes, 1);
}

async fn until_it_writes(site: &Site) {
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    while site.machine.lock().image_writes == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The driver has asked how that is.
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// The ramdisk comes up again, with the token that is on its medium and a certificate of its own.
#[tokio::test(start_paused = true)]
async fn a_machine_that_is_reset_in_the_middle_of_the_write_fails_the_deploy_long_before_the_deadline() {
    let site = Site::new().await;
    until_it_writes(&site).await;
    let before = tokio::time::Instant::now();
    site.machine.switch(PowerState::Off);
    site.machine.switch(PowerState::On);
    let node = site.settle(State::DeployFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("deploy.write_image") && error.contains("started anew while the command ran"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(120), "{:?}", before.elapsed());
    let state = site.machine.lock();
    assert_eq!((state.image_writes, state.image_written, state.power), (1, false, PowerState::Off));
}

async fn look_up(site: &Site) {
    let addresses = vec![MAC.to_owned()];
    let request = LookupRequest { addresses, node: None, token: true, peer: None };
    assert_eq!(site.conductor().lookup(request).await.unwrap().config.agent_token.as_deref(), Some("******"));
}

/// An agent that was booted over the network is not told the token a second time, and gives up.
#[tokio::test(start_paused = true)]
async fn a_look_up_ends_a_step_only_when_its_agent_is_silent_after_it() {
    let site = Site::new().await;
    until_it_writes(&site).await;
    let before = tokio::time::Instant::now();
    site.machine.lock().agent = None;
    look_up(&site).await;
    let node = site.settle(State::DeployFailed).await;
    assert!(node.last_error.unwrap().contains("started anew while the command ran"));
    assert!((60..90).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn look_ups_of_strangers_end_nothing_while_the_agent_answers_now_and_then() {
    let site = Site::new().await;
    site.machine.lock().step_seconds = 200;
    until_it_writes(&site).await;
    for _ in 0..3 {
        look_up(&site).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        // It cannot be reached for a while.
        let agent = site.machine.lock().agent.take();
        look_up(&site).await;
        tokio::time::sleep(Duration::from_secs(45)).await;
        site.machine.lock().agent = agent;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().image_writes, 1);
}

#[tokio::test(start_paused = true)]
async fn an_erase_that_a_power_cut_interrupts_goes_on_and_one_that_never_ends_fails() {
    let site = Site::new().await;
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.verb(Verb::Provide).await.unwrap();
    cut_the_power_while_it_erases(&site).await;
    site.settle(State::Available).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_devices_metadata", "erase_devices"]);
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Ramdisk]);

    // A machine that goes down each time is set aside in the end.
    site.machine.forget_history();
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.verb(Verb::Provide).await.unwrap();
    for _ in 0..4 {
        cut_the_power_while_it_erases(&site).await;
    }
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("deploy.erase_devices"));
    assert_eq!(site.machine.lock().steps_run, ["erase_devices_metadata"]);
}

/// Waits until the step after `erase_devices_metadata` runs, and switches the machine off.
async fn cut_the_power_while_it_erases(site: &Site) {
    loop {
        {
            let state = site.machine.lock();
            let last = state.agent.as_ref().and_then(|agent| agent.commands.last());
            let step = last.is_some_and(|last| {
                last.command_name == "execute_clean_step" && last.command_status == CommandStatus::Running
            });
            if step && state.steps_run.iter().any(|step| step == "erase_devices_metadata") {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The driver knows that it runs.
    tokio::time::sleep(Duration::from_secs(5)).await;
    site.machine.switch(PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn a_bmc_that_is_away_for_a_moment_is_asked_again_and_one_that_stays_away_fails_the_node() {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().bmc_down = 3;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    assert_eq!(site.machine.lock().booted, [Booted::Ramdisk, Booted::Disk]);

    site.machine.lock().bmc_down = u32::MAX;
    site.verb(Verb::Rebuild).await.unwrap();
    let node = site.settle(State::DeployFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("could not power off") && error.contains("does not answer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_waits_is_aborted_and_the_machine_switched_off() {
    let site = Site::new().await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    site.reach(State::DeployWait).await;
    site.verb(Verb::Abort).await.unwrap();
    let node = site.settle(State::DeployFailed).await;
    assert!(node.last_error.unwrap().contains("aborted"));
    assert_eq!(node.power_state.as_deref(), Some(POWER_OFF));
    assert_eq!(site.machine.lock().power, PowerState::Off);
    site.verb(Verb::Undeploy).await.unwrap();
    site.settle(State::Available).await;
}

#[tokio::test(start_paused = true)]
async fn an_inspection_that_waits_is_aborted() {
    let site = Site::new().await;
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.machine.lock().dead = true;
    site.verb(Verb::Inspect).await.unwrap();
    site.reach(State::InspectWait).await;
    site.verb(Verb::Abort).await.unwrap();
    let node = site.settle(State::InspectFailed).await;
    assert_eq!(node.last_error.as_deref(), Some("Inspection was aborted by request."));
}

#[tokio::test(start_paused = true)]
async fn a_clean_step_that_fails_sets_the_node_aside() {
    let site = Site::new().await;
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.machine.lock().failing = Some(("erase_devices_metadata".to_owned(), "sda is read-only".to_owned()));
    site.verb(Verb::Provide).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    assert!(node.maintenance);
    assert_eq!(node.fault.as_deref(), Some("clean failure"));
    assert!(node.last_error.unwrap().contains("Clean step deploy.erase_devices_metadata failed"));
    assert_eq!(node.power_state.as_deref(), Some(POWER_ON));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_cannot_be_interrupted_ends_before_the_abort() {
    let site = Site::new().await;
    site.verb(Verb::Manage).await.unwrap();
    site.settle(State::Manageable).await;
    site.machine.lock().clean_steps = serde_json::json!({"M": [
        {"step": "first", "interface": "deploy", "priority": 20, "abortable": false},
        {"step": "second", "interface": "deploy", "priority": 10, "abortable": true},
    ]});
    site.verb(Verb::Provide).await.unwrap();
    while site.node().await.clean_step.get("step").is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let node = site.verb(Verb::Abort).await.unwrap();
    assert_eq!(node.provision_state, State::CleanWait);
    site.settle(State::CleanFailed).await;
    assert_eq!(site.machine.lock().steps_run, ["first"]);
}

#[tokio::test(start_paused = true)]
async fn managers_that_change_during_a_deploy_do_not_lose_the_image() {
    let site = Site::new().await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    while site.machine.lock().steps_run.is_empty() {
        // After the steps were listed and before the image is sent.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    site.machine.lock().manager_version = "1.3".to_owned();
    site.settle(State::Active).await;
    assert!(site.machine.lock().image_written);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_possible_is_refused_and_says_what_is() {
    let site = Site::new().await;
    let fault = site.verb(Verb::Active).await.unwrap_err();
    assert_eq!(fault.status(), 400);
    let text = fault.to_string();
    assert!(text.contains("\"active\" can not be performed") && text.contains("manage"), "{text}");

    site.make_available().await;
    // The driver itself is at work as long as the BMC does not answer.
    site.machine.lock().bmc_down = 3;
    site.verb(Verb::Active).await.unwrap();
    assert_eq!(site.verb(Verb::Deleted).await.unwrap_err().status(), 409);
    site.settle(State::Active).await;

    let command = driver::command::Command::Maintenance { on: true, reason: Some("disk swap".to_owned()) };
    site.conductor().command(&site.ident(), command).await.unwrap();
    assert!(matches!(site.verb(Verb::Rebuild).await, Err(Fault::Invalid(text)) if text.contains("maintenance")));
    // Its rescue interface is no-rescue.
    assert!(matches!(site.verb(Verb::Rescue).await, Err(Fault::Invalid(text)) if text.contains("maintenance")));
    assert_eq!(site.node().await.provision_state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_without_a_checksum_is_refused_before_anything_is_touched() {
    let site = Site::new().await;
    site.make_available().await;
    use driver::command::{Command, PatchOp, PatchOperation};
    let path = vec!["instance_info".to_owned(), "image_checksum".to_owned()];
    let operations = vec![PatchOperation { op: PatchOp::Remove, path, value: None }];
    let patch = Command::Patch { operations, reset_interfaces: false, expected: None };
    site.conductor().command(&site.ident(), patch).await.unwrap();
    let text = site.verb(Verb::Active).await.unwrap_err().to_string();
    assert!(text.contains("image_checksum is missing"), "{text}");
    assert_eq!(site.node().await.provision_state, State::Available);
}

#[tokio::test(start_paused = true)]
async fn a_saved_flow_that_is_not_understood_fails_its_node_at_the_start_and_leaves_the_way_open() {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().dead = true;
    site.verb(Verb::Active).await.unwrap();
    site.reach(State::DeployWait).await;
    site.conductor().stop().await;

    let document = serde_json::json!({"kind": "deploy", "actions": [{"of a later version": {}}]});
    let epoch = site.conductor().epoch();
    let mut commit = store::Commit::of(site.node().await);
    commit.flow = store::FlowChange::Put(store::FlowRecord { node: site.node, document });
    site.store.commit(epoch, commit).await.unwrap();

    site.machine.lock().dead = false;
    site.restart(Fuse::whole()).await;
    let node = site.settle(State::DeployFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("does not read") && error.contains("Start the verb again"), "{error}");
    assert_eq!(node.reservation, None);
    assert!(!node.driver_internal_info.contains_key("agent_secret_token"));
    site.verb(Verb::Active).await.unwrap();
    assert_eq!(site.settle(State::Active).await.last_error, None);
}
