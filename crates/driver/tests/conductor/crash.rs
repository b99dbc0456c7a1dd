//! A conductor that is killed at any moment: the next one goes on where it was.

use super::erasures::{OUTCOMES, begin_erase, erasures, good_reports, outcomes};
use super::flows::{clean, rescue, service};
use super::sim::{Booted, Fuse, Site};
use driver::command::{Command, PowerTarget, ProvisionArguments};
use driver::flow::FlowKind;
use futures::FutureExt as _;
use hardware::PowerState;
use lifecycle::provision::{State, Verb};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use store::Store as _;

/// The test that kills the conductor before and after everything that such a flow does. A new flow does not compile before it has
/// one; each test sees to it that its flow is what runs.
fn killed_in(flow: FlowKind) -> fn() {
    match flow {
        FlowKind::Verify => a_verification_survives_a_kill_at_any_moment,
        FlowKind::Inspect => an_inspection_survives_a_kill_at_any_moment,
        FlowKind::Clean => cleaning_survives_a_kill_at_any_moment,
        FlowKind::Deploy => a_deploy_survives_a_kill_at_any_moment,
        FlowKind::Undeploy => taking_an_instance_off_survives_a_kill_at_any_moment,
        FlowKind::Adopt => an_adoption_survives_a_kill_at_any_moment,
        FlowKind::Rescue => a_rescue_survives_a_kill_at_any_moment,
        FlowKind::Unrescue => the_way_back_from_rescue_survives_a_kill_at_any_moment,
        FlowKind::Service => a_service_with_a_reboot_survives_a_kill_at_any_moment,
        FlowKind::Power => a_reboot_survives_a_kill_at_any_moment,
        FlowKind::Cleanup => an_aborted_deploy_survives_a_kill_at_any_moment,
    }
}

#[test]
fn no_two_flows_share_their_test() {
    use FlowKind::*;
    let flows = [Verify, Inspect, Clean, Deploy, Undeploy, Adopt, Rescue, Unrescue, Service, Power, Cleanup];
    let tests: BTreeSet<usize> = flows.into_iter().map(|flow| killed_in(flow) as usize).collect();
    assert_eq!(tests.len(), flows.len());
}

async fn manageable(site: &Site) {
    site.start_in(State::Manageable).await;
}

async fn available(site: &Site) {
    site.start_in(State::Available).await;
}

async fn active(site: &Site) {
    site.start_in(State::Active).await;
}

async fn enrolled(_: &Site) {}

/// What is asked for.
struct Ask {
    command: Command,
    /// The flow that it leads to, or the first of them.
    flow: FlowKind,
    fast_track: bool,
    /// What an operator does when the node gets into this state on the way.
    meanwhile: Option<(State, Verb)>,
}

impl Ask {
    fn of(flow: FlowKind, verb: Verb) -> Self {
        Self::with(flow, verb, ProvisionArguments::default())
    }

    fn with(flow: FlowKind, verb: Verb, arguments: ProvisionArguments) -> Self {
        Self { command: Command::Provision { verb, arguments }, flow, fast_track: false, meanwhile: None }
    }

    async fn site(&self) -> Site {
        Site::with(Fuse::whole(), |settings| settings.fast_track = self.fast_track).await
    }

    async fn put(&self, site: &Site) {
        site.conductor().command(&site.ident(), self.command.clone()).await.unwrap();
    }

    /// Waits for the end, and does on the way what the operator does.
    async fn settle(&self, site: &Site, end: State) {
        if let Some((state, verb)) = self.meanwhile
            && site.passes(state, end).await
        {
            site.verb(verb).await.unwrap();
        }
        site.settle(end).await;
    }
}

/// What a request that ends something changes when it is accepted.
async fn standing(site: &Site) -> (State, Value, Value) {
    let flow = site.store.flow(site.node).await.unwrap().map(|flow| flow.document).unwrap_or_default();
    (site.node().await.provision_state, flow["id"].clone(), flow["abort_after"].clone())
}

/// Kills the conductor at every moment of what is asked for, and looks whether its successor ends well.
async fn killed_while(ask: Ask, end: State, prepare: impl AsyncFn(&Site), check: impl Fn(&Site, &str)) {
    let site = ask.site().await;
    prepare(&site).await;
    let fuse = Fuse::whole();
    site.restart(fuse.clone()).await;
    ask.put(&site).await;
    ask.settle(&site, end).await;
    check(&site, "without a kill");
    assert!(fuse.flows().contains(ask.flow.as_str()), "{} ran, and not {}", fuse.flows().len(), ask.flow.as_str());
    let moments = fuse.moments();
    let count = moments.len();
    assert!(count > 3, "only {count} moments");
    for moment in moments {
        let site = ask.site().await;
        prepare(&site).await;
        let fuse = Fuse::blowing_at(moment);
        site.restart(fuse.clone()).await;
        let before = standing(&site).await;
        // The answer is lost with the conductor when it dies before it is given.
        let (conductor, ident, command) = (site.conductor(), site.ident(), ask.command.clone());
        tokio::spawn(async move { conductor.command(&ident, command).await });
        // What an operator does meanwhile belongs to the time before the kill as well as to that after it.
        let held = async {
            if let Some((state, verb)) = ask.meanwhile
                && site.passes(state, end).await
            {
                // Lost, when the conductor dies over it.
                drop(site.verb(verb).await);
            }
            std::future::pending::<()>().await;
        };
        let died = tokio::select! {
            () = fuse.blown() => true,
            // A run that was killed may be longer or shorter than the first one.
            () = tokio::time::sleep(std::time::Duration::from_secs(3000)) => false,
            () = held => false,
        };
        let when = format!("killed at moment {moment}, one of {count}, {}", fuse.what.lock().unwrap());
        if died {
            let accepted = moment > 1 && (before.1.is_null() || standing(&site).await != before);
            site.restart(Fuse::whole()).await;
            if !accepted {
                // Nothing was saved: the operator asks again.
                ask.put(&site).await;
            }
        }
        println!("{when}");
        ask.settle(&site, end).await;
        check(&site, &when);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Deploy, Verb::Active), State::Active, available, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.image_writes, 1, "{when}: the image is written once");
        assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk], "{when}: nothing is booted twice");
        assert_eq!(state.steps_run, ["check_burn_in", "write_image", "tune", "install_bootloader"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cleaning_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Clean, Verb::Provide), State::Available, manageable, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk], "{when}");
        assert_eq!(state.steps_run, ["erase_devices_metadata", "erase_devices"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_inspection_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Inspect, Verb::Inspect), State::Manageable, manageable, |site, when| {
        assert_eq!(site.machine.lock().booted, [Booted::Ramdisk], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn manual_cleaning_with_a_hold_survives_a_kill_at_any_moment() {
    let list = json!([
        {"interface": "deploy", "step": "erase_pstore"},
        {"interface": "power", "step": "hold"},
        {"interface": "power", "step": "wait", "args": {"seconds": 30}},
        {"interface": "deploy", "step": "erase_devices"},
    ]);
    let mut ask = Ask::with(FlowKind::Clean, Verb::Clean, clean(list));
    ask.meanwhile = Some((State::CleanHold, Verb::Unhold));
    killed_while(ask, State::Manageable, manageable, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk], "{when}");
        assert_eq!(state.steps_run, ["erase_pstore", "erase_devices"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_reboot_survives_a_kill_at_any_moment() {
    let list = json!([{"interface": "firmware", "step": "flash"}, {"interface": "deploy", "step": "burnin_cpu"}]);
    killed_while(Ask::with(FlowKind::Service, Verb::Service, service(list)), State::Active, active, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk, Booted::Ramdisk, Booted::Disk], "{when}");
        assert_eq!(state.steps_run, ["flash", "burnin_cpu"], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rescue_survives_a_kill_at_any_moment() {
    killed_while(Ask::with(FlowKind::Rescue, Verb::Rescue, rescue()), State::Rescue, active, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk], "{when}");
        assert_eq!(state.rescued.len(), 1, "{when}: the password is handed over once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_way_back_from_rescue_survives_a_kill_at_any_moment() {
    let prepare = async |site: &Site| {
        site.start_in(State::Rescue).await;
        let mut machine = site.machine.lock();
        machine.image_written = true;
        machine.power = PowerState::On;
    };
    killed_while(Ask::of(FlowKind::Unrescue, Verb::Unrescue), State::Active, prepare, |site, when| {
        assert_eq!(site.machine.lock().booted, [Booted::Disk], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_adoption_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Adopt, Verb::Adopt), State::Active, manageable, |site, when| {
        assert!(site.machine.lock().booted.is_empty(), "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn taking_an_instance_off_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Undeploy, Verb::Deleted), State::Available, active, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Ramdisk], "{when}");
        assert_eq!(state.steps_run, ["erase_devices_metadata", "erase_devices"], "{when}");
        assert_eq!(state.power, PowerState::Off, "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn fast_track_survives_a_kill_at_any_moment() {
    let mut ask = Ask::of(FlowKind::Deploy, Verb::Active);
    ask.fast_track = true;
    let prepare = async |site: &Site| {
        site.make_available().await;
        site.machine.forget_history();
    };
    killed_while(ask, State::Active, prepare, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.booted, [Booted::Disk], "{when}: no second ramdisk");
        assert_eq!(state.image_writes, 1, "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_deploy_survives_a_kill_at_any_moment() {
    let prepare = async |site: &Site| {
        site.start_in(State::Available).await;
        site.machine.lock().dead = true;
        site.verb(Verb::Active).await.unwrap();
        site.reach(State::DeployWait).await;
    };
    killed_while(Ask::of(FlowKind::Cleanup, Verb::Abort), State::DeployFailed, prepare, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.power, PowerState::Off, "{when}");
        assert!(state.media.is_none(), "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_verification_survives_a_kill_at_any_moment() {
    killed_while(Ask::of(FlowKind::Verify, Verb::Manage), State::Manageable, enrolled, |site, when| {
        assert!(site.machine.lock().booted.is_empty(), "{when}: nothing is switched");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reboot_survives_a_kill_at_any_moment() {
    let mut ask = Ask::of(FlowKind::Power, Verb::Manage);
    ask.command = Command::Power { target: PowerTarget::Reboot, timeout: None };
    killed_while(ask, State::Active, active, |site, when| {
        let state = site.machine.lock();
        assert_eq!((&state.booted[..], state.power), (&[Booted::Disk][..], PowerState::On), "{when}: once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cleaning_of_the_tables_alone_survives_a_kill_at_any_moment() {
    let list = json!([{"interface": "deploy", "step": "erase_devices_metadata"}]);
    let ask = Ask::with(FlowKind::Clean, Verb::Clean, clean(list));
    killed_while(ask, State::Manageable, manageable, |site, when| {
        let state = site.machine.lock();
        assert_eq!((&state.booted[..], state.power), (&[Booted::Ramdisk][..], PowerState::Off), "{when}");
        assert_eq!(state.steps_run, ["erase_devices_metadata"], "{when}");
    })
    .await;
}

/// Aborts what waits for a ramdisk that never comes.
async fn aborted_while_waiting(begin: Command, from: State, wait: State, end: State, power: PowerState) {
    let prepare = async |site: &Site| {
        site.start_in(from).await;
        site.machine.lock().dead = true;
        site.conductor().command(&site.ident(), begin.clone()).await.unwrap();
        site.reach(wait).await;
        // The worker has saved its wait, and nothing more is to come.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    };
    killed_while(Ask::of(FlowKind::Cleanup, Verb::Abort), end, prepare, |site, when| {
        let state = site.machine.lock();
        assert_eq!((state.power, state.media.is_none()), (power, true), "{when}");
    })
    .await;
}

fn provision(verb: Verb, arguments: ProvisionArguments) -> Command {
    Command::Provision { verb, arguments }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_inspection_survives_a_kill_at_any_moment() {
    let begin = provision(Verb::Inspect, ProvisionArguments::default());
    aborted_while_waiting(begin, State::Manageable, State::InspectWait, State::InspectFailed, PowerState::Off).await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_rescue_survives_a_kill_at_any_moment() {
    let begin = provision(Verb::Rescue, rescue());
    aborted_while_waiting(begin, State::Active, State::RescueWait, State::RescueFailed, PowerState::Off).await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_service_boots_the_instance_again_whenever_the_conductor_is_killed() {
    let list = json!([{"interface": "deploy", "step": "burnin_cpu"}]);
    let begin = provision(Verb::Service, service(list));
    aborted_while_waiting(begin, State::Active, State::ServiceWait, State::Active, PowerState::On).await;
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_aborted_survives_a_kill_at_any_moment() {
    let list = json!([{"interface": "power", "step": "hold"}, {"interface": "deploy", "step": "erase_devices"}]);
    let prepare = async |site: &Site| {
        site.start_in(State::Manageable).await;
        site.verb_with(Verb::Clean, clean(list.clone())).await.unwrap();
        site.reach(State::CleanHold).await;
    };
    killed_while(Ask::of(FlowKind::Cleanup, Verb::Abort), State::CleanFailed, prepare, |site, when| {
        assert!(site.machine.lock().steps_run.is_empty(), "{when}: what was behind the hold does not run");
    })
    .await;
}

/// The one that was there does not know that it is not any more.
#[tokio::test(start_paused = true)]
async fn two_conductors_at_once_work_as_one() {
    let site = Site::new().await;
    site.make_available().await;
    site.verb(Verb::Active).await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(std::time::Duration::from_secs(25)).await;
        let old = site.conductor();
        site.restart(Fuse::whole()).await;
        let command = Command::Maintenance { on: false, reason: None };
        let refused = old.command(&site.ident(), command).await.unwrap_err();
        assert_eq!(refused.status(), 503, "{refused}");
    }
    site.settle(State::Active).await;
    let state = site.machine.lock();
    assert_eq!(state.image_writes, 1);
    assert_eq!(state.booted, [Booted::Ramdisk, Booted::Disk]);
    assert_eq!(state.steps_run, ["check_burn_in", "write_image", "tune", "install_bootloader"]);
}

#[tokio::test(start_paused = true)]
async fn the_records_of_an_erase_are_kept_once_whenever_the_conductor_is_killed() {
    let ask = Ask::with(FlowKind::Clean, Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}])));
    let erases = async |site: &Site| {
        site.start_in(State::Manageable).await;
        site.machine.lock().results.push(("erase_devices".to_owned(), good_reports()));
    };
    killed_while(ask, State::Manageable, erases, |site, when| {
        let records = erasures(site).now_or_never().unwrap();
        assert_eq!(outcomes(&records), OUTCOMES[..2], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_erase_that_is_aborted_ends_before_power_is_cut_whenever_the_conductor_is_killed() {
    let erasing = async |site: &Site| {
        site.start_in(State::Manageable).await;
        begin_erase(site).await;
    };
    killed_while(Ask::of(FlowKind::Cleanup, Verb::Abort), State::CleanFailed, erasing, |site, when| {
        let records = erasures(site).now_or_never().unwrap();
        assert_eq!(outcomes(&records), OUTCOMES, "{when}: these come with the end of the command only");
        let state = site.machine.lock();
        assert_eq!(state.power, PowerState::Off, "{when}");
        assert!(!state.cancelled.is_empty(), "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_firmware_survive_a_kill_at_any_moment() {
    let list = json!([{"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": "ProcVirtualization", "value": "Enabled"}]}}]);
    killed_while(Ask::with(FlowKind::Service, Verb::Service, service(list)), State::Active, active, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.bios["ProcVirtualization"], "Enabled", "{when}");
        assert_eq!(state.booted, [Booted::Disk], "{when}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn settings_and_firmware_that_share_a_restart_survive_a_kill_at_any_moment() {
    let settings = json!([{"name": "ProcVirtualization", "value": "Enabled"}]);
    let update = json!([{"component": "bios", "url": "http://images.test/2.0"}]);
    let list = json!([{"interface": "bios", "step": "apply_configuration", "args": {"settings": settings}},
        {"interface": "firmware", "step": "update", "args": {"settings": update}}]);
    killed_while(Ask::with(FlowKind::Clean, Verb::Clean, clean(list)), State::Manageable, manageable, |site, when| {
        let state = site.machine.lock();
        assert_eq!(state.bios["ProcVirtualization"], "Enabled", "{when}");
        assert_eq!(state.firmware["bios"], "2.0", "{when}");
        assert_eq!((state.updates.len(), state.booted.len()), (1, 1), "{when}: one update, one start");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn updates_of_firmware_survive_a_kill_at_any_moment() {
    let settings =
        json!([{"component": "bios", "url": "http://images.test/2.0"}, {"component": "bmc", "url": "http://x/8.0"}]);
    let list = json!([{"interface": "firmware", "step": "update", "args": {"settings": settings}}]);
    killed_while(Ask::with(FlowKind::Clean, Verb::Clean, clean(list)), State::Manageable, manageable, |site, when| {
        let state = site.machine.lock();
        assert_eq!((&*state.firmware["bios"], &*state.firmware["bmc"]), ("2.0", "8.0"), "{when}");
        assert_eq!(state.updates.len(), 2, "{when}: each update is begun once");
    })
    .await;
}
