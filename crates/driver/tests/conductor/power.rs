//! Power: soft off, and what the driver does when a machine is not in the state that is recorded.

use super::sim::{Fuse, Site};
use driver::command::{Command, PowerTarget, ProvisionArguments};
use driver::conductor::Settings;
use driver::effect::machines::{POWER_OFF, POWER_ON};
use hardware::PowerState;
use lifecycle::provision::{State, Verb};
use std::time::Duration;
use store::{Node, Store as _};

fn looks(settings: &mut Settings) {
    settings.sync_power_state_interval = Duration::from_secs(120);
}

async fn ask(site: &Site, target: PowerTarget, timeout: Option<u64>) -> Node {
    site.conductor().command(&site.ident(), Command::Power { target, timeout }).await.unwrap();
    while site.store.flow(site.node).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    site.node().await
}

#[tokio::test(start_paused = true)]
async fn a_soft_power_off_waits_for_the_operating_system() {
    let site = Site::new().await;
    site.make_active().await;
    let node = ask(&site, PowerTarget::SoftOff, None).await;
    assert_eq!((node.power_state.as_deref(), node.target_power_state), (Some(POWER_OFF), None));
    ask(&site, PowerTarget::On, None).await;
    let node = ask(&site, PowerTarget::SoftReboot, Some(60)).await;
    assert_eq!((node.power_state.as_deref(), node.last_error), (Some(POWER_ON), None));
    let history = site.history().await.join("\n");
    assert!(history.contains("power on -> power off") && history.contains("power off -> power on"), "{history}");
}

#[tokio::test(start_paused = true)]
async fn an_operating_system_that_does_not_shut_down_is_left_on_and_told_about() {
    let site = Site::with(Fuse::whole(), |settings| settings.bmc_attempts = 1).await;
    site.make_active().await;
    site.machine.lock().deaf = true;
    let before = tokio::time::Instant::now();
    let node = ask(&site, PowerTarget::SoftOff, Some(90)).await;
    assert!((90..100).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_eq!((node.power_state.as_deref(), node.target_power_state), (Some(POWER_ON), None));
    assert!(node.last_error.unwrap().contains("still on after 90 s"));
    assert_eq!(site.machine.lock().power, PowerState::On);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_switched_off_by_hand_is_switched_on_again_or_believed() {
    let site = Site::with(Fuse::whole(), looks).await;
    site.make_active().await;
    site.machine.switch(PowerState::Off);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(site.machine.lock().power, PowerState::On);
    assert!(site.history().await.join("\n").contains("is switched back to \"power on\""));

    let believes = |settings: &mut Settings| {
        looks(settings);
        settings.force_power_state_during_sync = false;
    };
    let site = Site::with(Fuse::whole(), believes).await;
    site.make_active().await;
    site.machine.switch(PowerState::Off);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(site.node().await.power_state.as_deref(), Some(POWER_OFF));
    assert_eq!(site.machine.lock().power, PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn a_bmc_that_stays_away_sets_the_node_aside_until_it_is_back() {
    let site = Site::with(Fuse::whole(), looks).await;
    site.make_active().await;
    site.machine.lock().bmc_down = u32::MAX;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!site.node().await.maintenance, "a few misses are none");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let node = site.node().await;
    assert!(node.maintenance);
    assert_eq!((node.fault.as_deref(), node.power_state.as_deref()), (Some("power failure"), None));
    assert!(node.maintenance_reason.unwrap().contains("does not answer"));

    site.machine.lock().bmc_down = 0;
    tokio::time::sleep(Duration::from_secs(700)).await;
    let node = site.node().await;
    assert_eq!((node.maintenance, node.fault, node.maintenance_reason), (false, None, None));
    assert_eq!(node.power_state.as_deref(), Some(POWER_ON));
}

#[tokio::test(start_paused = true)]
async fn power_is_not_looked_at_while_a_flow_switches_it() {
    let site = Site::with(Fuse::whole(), |settings| settings.sync_power_state_interval = Duration::from_secs(1)).await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    let history = site.history().await.join("\n");
    assert!(!history.contains("is switched back"), "{history}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_bmc_does_not_keep_another_node_waiting() {
    let site = Site::with(Fuse::whole(), looks).await;
    site.make_available().await;
    site.machine.lock().hangs = Some(site.node);
    site.verb(Verb::Active).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let fake = Node::new(uuid::Uuid::new_v4(), "fake-hardware", jiff::Timestamp::UNIX_EPOCH);
    let fake = site.conductor().create_node(fake).await.unwrap();
    let ident = driver::command::NodeIdent::Uuid(fake.uuid);
    let before = tokio::time::Instant::now();
    let manage = Command::Provision { verb: Verb::Manage, arguments: ProvisionArguments::default() };
    site.conductor().command(&ident, manage).await.unwrap();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(site.store.node(fake.uuid).await.unwrap().provision_state, State::Manageable);
    assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
    let node = site.settle(State::DeployFailed).await;
    assert!(node.last_error.unwrap().contains("could not power off: it was not done within 600 s"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_broken_out_does_not_wait_for_what_it_was_stuck_in() {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().hangs = Some(site.node);
    site.verb(Verb::Active).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let node = site.verb(Verb::BreakOut).await.unwrap();
    assert_eq!(node.provision_state, State::DeployFailed);
    site.machine.lock().hangs = None;
    let before = tokio::time::Instant::now();
    site.settle(State::DeployFailed).await;
    site.verb(Verb::Active).await.unwrap();
    site.settle(State::Active).await;
    assert!(before.elapsed() < Duration::from_secs(600), "{:?}", before.elapsed());
}
