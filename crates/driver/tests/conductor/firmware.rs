//! The driver's own steps: settings and updates of firmware.

use super::flows::{clean, service, steps};
use super::sim::{Booted, Site};
use driver::command::{Command, PowerTarget, ProvisionArguments};
use hardware::{PowerState, UpdateState};
use lifecycle::provision::{State, Verb};
use serde_json::{Value, json};
use std::time::Duration;

fn apply(value: &str) -> Value {
    json!([{"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": "ProcVirtualization", "value": value}]}}])
}

fn update(components: &[&str]) -> Value {
    let one = |part: &&str| json!({"component": part, "url": format!("http://images.test/{part}-2.0")});
    let settings: Vec<Value> = components.iter().map(one).collect();
    json!([{"interface": "firmware", "step": "update", "args": {"settings": settings}}])
}

#[tokio::test(start_paused = true)]
async fn settings_are_applied_with_one_restart_and_no_ramdisk_and_read_back_for_the_api() {
    let site = Site::new().await;
    site.make_manageable().await;
    let off = Command::Power { target: PowerTarget::Off, timeout: None };
    site.conductor().command(&site.ident(), off).await.unwrap();
    site.settle(State::Manageable).await;
    site.machine.forget_history();
    site.verb_with(Verb::Clean, clean(apply("Enabled"))).await.unwrap();
    let node = site.settle(State::Manageable).await;
    assert_eq!(node.last_error, None);
    {
        let machine = site.machine.lock();
        assert_eq!(machine.bios["ProcVirtualization"], "Enabled");
        assert_eq!(machine.booted, [Booted::Nothing], "one start, without a ramdisk");
        assert_eq!(machine.power, PowerState::Off, "as before");
    }
    let kept = site.conductor().bios_settings(site.node).await.unwrap();
    let of = |name: &str| kept.iter().find(|kept| kept.setting.name == name).unwrap().setting.value.clone();
    assert_eq!(of("ProcVirtualization"), "Enabled");
    let history = site.history().await.join("\n");
    assert!(history.contains("BIOS settings change at the next start: ProcVirtualization"), "{history}");
    assert!(history.contains("BIOS settings are as wanted: ProcVirtualization"), "{history}");
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_as_wanted_restart_nothing() {
    let site = Site::new().await;
    site.make_active().await;
    site.verb_with(Verb::Service, service(apply("Disabled"))).await.unwrap();
    site.settle(State::Active).await;
    let machine = site.machine.lock();
    assert_eq!((machine.bios_changes, machine.booted.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn settings_of_an_active_node_restart_its_instance_once() {
    let site = Site::new().await;
    site.make_active().await;
    site.verb_with(Verb::Service, service(apply("Enabled"))).await.unwrap();
    site.settle(State::Active).await;
    let machine = site.machine.lock();
    assert_eq!(machine.booted, [Booted::Disk]);
    assert_eq!((machine.power, machine.image_writes), (PowerState::On, 0));
}

#[tokio::test(start_paused = true)]
async fn two_steps_of_settings_are_one_restart_and_none_where_nothing_changes() {
    let setting = |name: &str, value: Value| json!({"interface": "bios", "step": "apply_configuration", "args": {"settings": [{"name": name, "value": value}]}});
    let site = Site::new().await;
    site.make_active().await;
    let list = json!([setting("ProcVirtualization", json!("Enabled")), setting("QuietBoot", json!(false))]);
    for starts in [1, 1] {
        site.verb_with(Verb::Service, service(list.clone())).await.unwrap();
        site.settle(State::Active).await;
        let machine = site.machine.lock();
        assert_eq!((machine.bios_changes, machine.booted.len()), (1, starts));
        assert_eq!(
            (&machine.bios["ProcVirtualization"], &machine.bios["QuietBoot"]),
            (&json!("Enabled"), &json!(false))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn settings_among_an_agent_s_steps_bring_the_ramdisk_back() {
    let site = Site::new().await;
    site.make_manageable().await;
    let mut list = apply("Enabled").as_array().unwrap().clone();
    list.push(json!({"interface": "deploy", "step": "erase_pstore"}));
    site.verb_with(Verb::Clean, clean(Value::Array(list))).await.unwrap();
    site.settle(State::Manageable).await;
    let machine = site.machine.lock();
    assert_eq!(machine.booted, [Booted::Ramdisk, Booted::Ramdisk]);
    assert_eq!(machine.steps_run, ["erase_pstore"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_machine_refuses_is_refused_before_anything_is_touched() {
    let site = Site::new().await;
    site.make_manageable().await;
    let mut list = json!([{"interface": "deploy", "step": "erase_devices"}]).as_array().unwrap().clone();
    list.push(json!({"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": "Nonsense", "value": 1}]}}));
    site.verb_with(Verb::Clean, clean(Value::Array(list))).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("nothing was begun: Nonsense: there is no such setting"), "{error}");
    let machine = site.machine.lock();
    assert!(machine.booted.is_empty() && machine.steps_run.is_empty());
    assert!(!node.maintenance);
}

#[tokio::test(start_paused = true)]
async fn wrong_arguments_are_refused_at_once() {
    let site = Site::new().await;
    site.make_manageable().await;
    let wrong = [
        json!([{"interface": "bios", "step": "apply_configuration", "args": {"settings": []}}]),
        json!([{"interface": "bios", "step": "apply_configuration"}]),
        json!([{"interface": "bios", "step": "factory_reset", "args": {"now": true}}]),
        json!([{"interface": "firmware", "step": "update", "args": {"settings": [{"component": "gpu", "url": "http://x/y"}]}}]),
    ];
    for list in wrong {
        let text = site.verb_with(Verb::Clean, clean(list)).await.unwrap_err().to_string();
        assert!(text.contains("step bios.") || text.contains("step firmware.update"), "{text}");
    }
    assert_eq!(site.node().await.provision_state, State::Manageable);
}

#[tokio::test(start_paused = true)]
async fn settings_that_do_not_become_true_fail_by_name_with_the_bmc_s_words() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().bios_forgets = true;
    let arguments = ProvisionArguments { disable_ramdisk: Some(true), ..clean(apply("Enabled")) };
    site.verb_with(Verb::Clean, arguments).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("bios.apply_configuration failed"), "{error}");
    assert!(error.contains("ProcVirtualization is \"Disabled\" and not \"Enabled\""), "{error}");
    assert!(error.contains("The option ROM said no."), "{error}");
    assert_eq!(node.fault.as_deref(), Some("clean failure"));
}

#[tokio::test(start_paused = true)]
async fn firmware_of_several_parts_is_updated_with_one_restart_and_its_versions_are_recorded() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().tasks =
        vec![UpdateState::Running(Some(10), "writing".to_owned()), UpdateState::AtRestart, UpdateState::Done];
    site.verb_with(Verb::Clean, clean(update(&["bios", "nic:A"]))).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().booted, [Booted::Nothing]);
    assert_eq!(site.machine.lock().updates.len(), 2);
    let history = site.history().await.join("\n");
    assert!(history.contains("bios was updated from 1.1.0 to bios-2.0"), "{history}");
    assert!(history.contains("nic:A was updated from 22.1 to nic:A-2.0"), "{history}");
    let kept = site.conductor().firmware(site.node).await.unwrap();
    let bios = kept.iter().find(|kept| kept.component.component == "bios").unwrap();
    assert_eq!((&*bios.initial_version, &*bios.component.version), ("1.1.0", "bios-2.0"));
    assert_eq!(bios.last_version_flashed.as_deref(), Some("bios-2.0"));
}

#[tokio::test(start_paused = true)]
async fn an_update_of_the_bmc_alone_restarts_no_machine_and_outlasts_its_silence() {
    let site = Site::new().await;
    site.make_active().await;
    site.verb_with(Verb::Service, service(update(&["bmc"]))).await.unwrap();
    while site.machine.lock().updates.is_empty() {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    // It is not there while it starts anew.
    site.machine.lock().bmc_down = 20;
    site.settle(State::Active).await;
    assert!(site.machine.lock().booted.is_empty());
    assert!(site.history().await.join("\n").contains("bmc was updated from 7.0 to bmc-2.0"));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_fails_says_what_the_bmc_says_and_the_next_one_is_not_begun() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().tasks = vec![UpdateState::Failed("Exception: The image is for another machine.".to_owned())];
    site.verb_with(Verb::Clean, clean(update(&["bios", "bmc"]))).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(error.contains("did not update bios: Exception: The image is for another machine."), "{error}");
    assert_eq!(site.machine.lock().updates.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_waits_for_the_restart_without_saying_so_gets_it() {
    let site = Site::new().await;
    site.make_manageable().await;
    let starting = || UpdateState::Running(Some(0), "Starting".to_owned());
    site.machine.lock().tasks = std::iter::repeat_with(starting).take(30).chain([UpdateState::Done]).collect();
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().firmware["bios"], "bios-2.0");
}

#[tokio::test(start_paused = true)]
async fn deploy_steps_set_the_firmware_before_the_image_is_written() {
    let site = Site::new().await;
    site.make_available().await;
    let mut list = apply("Enabled");
    list[0]["priority"] = json!(95);
    let arguments = ProvisionArguments { deploy_steps: steps(list), ..ProvisionArguments::default() };
    site.verb_with(Verb::Active, arguments).await.unwrap();
    site.settle(State::Active).await;
    let machine = site.machine.lock();
    assert_eq!(machine.bios["ProcVirtualization"], "Enabled");
    assert_eq!(machine.booted, [Booted::Ramdisk, Booted::Ramdisk, Booted::Disk]);
    assert_eq!(machine.image_writes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_stays_fails_the_update_unless_the_bmc_says_that_it_was_completed() {
    for (last, state) in [(UpdateState::Unsaid, State::CleanFailed), (UpdateState::Done, State::Manageable)] {
        let site = Site::new().await;
        site.make_manageable().await;
        {
            let mut machine = site.machine.lock();
            machine.keeps_versions = true;
            machine.tasks = vec![UpdateState::Running(Some(10), "writing".to_owned()), last];
        }
        site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
        let node = site.settle(state).await;
        let history = site.history().await.join("\n");
        match node.last_error {
            Some(error) => assert!(error.contains("nothing shows that bios was updated: it has 1.1.0"), "{error}"),
            None => {
                assert!(history.contains("bios was updated and tells the version that it told before"), "{history}")
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn how_far_an_update_is_stands_on_the_board_in_percent() {
    let site = Site::new().await;
    site.make_manageable().await;
    let running = |percent| UpdateState::Running(percent, "Running: writing the flash".to_owned());
    site.machine.lock().tasks = vec![running(Some(45))];
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    let document = loop {
        let document = site.conductor().report(&site.ident()).await.unwrap().document();
        if !document["stage"].is_null() {
            break document;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    assert_eq!((&document["percent"], &document["done"]), (&json!(45.0), &json!(0)));
    assert_eq!(document["stage"], "bios: Running: writing the flash");
    assert_eq!(site.conductor().running(site.node).unwrap().step, "firmware.update");
    site.machine.lock().tasks = vec![UpdateState::Done];
    site.settle(State::Manageable).await;
    assert_eq!(site.conductor().running(site.node), None);
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_beginning_was_not_answered_is_followed_and_never_begun_again() {
    for (listed, keeps, state) in [
        (Some(Vec::new()), false, State::Manageable),
        // The new version tells it.
        (None, false, State::Manageable),
        (None, true, State::CleanFailed),
    ] {
        let site = Site::new().await;
        site.make_manageable().await;
        {
            let mut machine = site.machine.lock();
            (machine.listed, machine.loses_answers, machine.keeps_versions) = (listed.clone(), 1, keeps);
        }
        site.verb_with(Verb::Clean, clean(update(&["bmc"]))).await.unwrap();
        let node = site.settle(state).await;
        assert_eq!(site.machine.lock().updates.len(), 1, "{listed:?}");
        if let Some(error) = node.last_error {
            assert!(error.contains("whether the BMC has begun the update of bmc is not known"), "{error}");
            assert!(error.contains("it broke off") && error.contains("Nothing was begun a second time"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_the_bmc_has_not_begun_is_begun_at_the_next_try() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    // Each of its first calls fails once, whatever it is.
    for _ in 0..6 {
        site.machine.lock().bmc_down = 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    site.settle(State::Manageable).await;
    assert_eq!(site.machine.lock().updates.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_gone_is_no_failure_where_the_version_is_another() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().tasks = vec![UpdateState::Unsaid];
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    site.settle(State::Manageable).await;
    assert!(site.history().await.join("\n").contains("bios was updated from 1.1.0 to bios-2.0"));
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_compared_with_the_defaults_or_said_to_be_unverified() {
    let reset = json!([{"interface": "bios", "step": "factory_reset"}]);
    for (tells, forgets, state, words) in [
        (true, false, State::Manageable, "BIOS settings were reset: 2 were compared with their defaults"),
        (false, false, State::Manageable, "whether it was made cannot be verified"),
        (true, true, State::CleanFailed, "ProcVirtualization is \"Enabled\" and not \"Disabled\""),
    ] {
        let site = Site::new().await;
        site.make_manageable().await;
        {
            let mut machine = site.machine.lock();
            machine.bios.insert("ProcVirtualization".to_owned(), json!("Enabled"));
            (machine.tells_defaults, machine.bios_forgets) = (tells, forgets);
        }
        site.verb_with(Verb::Clean, clean(reset.clone())).await.unwrap();
        site.settle(state).await;
        let history = site.history().await.join("\n");
        assert!(history.contains(words), "{history}");
    }
}

/// Settings, firmware of two parts in a step each, and a setting again.
fn everything() -> Value {
    let mut list = apply("Enabled").as_array().unwrap().clone();
    list.extend(update(&["bios"]).as_array().unwrap().clone());
    list.extend(update(&["nic:A"]).as_array().unwrap().clone());
    list.push(json!({"interface": "bios", "step": "apply_configuration",
        "args": {"settings": [{"name": "QuietBoot", "value": false}]}}));
    Value::Array(list)
}

#[tokio::test(start_paused = true)]
async fn settings_and_firmware_of_steps_in_a_row_are_one_restart_and_each_is_read_back() {
    for with_agent in [false, true] {
        let site = Site::new().await;
        site.make_manageable().await;
        site.machine.forget_history();
        let mut list = everything().as_array().unwrap().clone();
        list.extend(with_agent.then(|| json!({"interface": "deploy", "step": "erase_pstore"})));
        site.verb_with(Verb::Clean, clean(Value::Array(list))).await.unwrap();
        let node = site.settle(State::Manageable).await;
        assert_eq!(node.last_error, None);
        let history = site.history().await.join("\n");
        {
            let machine = site.machine.lock();
            let expected = if with_agent { vec![Booted::Ramdisk; 2] } else { vec![Booted::Nothing] };
            assert_eq!(machine.booted, expected, "{history}");
            assert_eq!(machine.bios_changes, 1);
        }
        for line in [
            "BIOS settings are as wanted: ProcVirtualization, QuietBoot",
            "bios was updated from 1.1.0 to bios-2.0",
            "nic:A was updated from 22.1 to nic:A-2.0",
        ] {
            assert!(history.contains(line), "{line} is not in {history}");
        }
        let kept = site.conductor().firmware(site.node).await.unwrap();
        assert!(kept.iter().any(|kept| kept.component.version == "bios-2.0"));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_beside_others_leaves_them_told_as_they_are() {
    let both = |list: Value, more: Value| {
        Value::Array([list.as_array().unwrap().clone(), more.as_array().unwrap().clone()].concat())
    };
    // Settings that are not so, beside an update that is made.
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().bios_forgets = true;
    site.verb_with(Verb::Clean, clean(both(update(&["nic:A"]), apply("Enabled")))).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let (error, history) = (node.last_error.unwrap(), site.history().await.join("\n"));
    assert!(
        error.contains("Clean step bios.apply_configuration failed") && !error.contains("firmware.update"),
        "{error}"
    );
    assert!(history.contains("nic:A was updated from 22.1 to nic:A-2.0"), "{history}");
    assert_eq!(node.fault.as_deref(), Some("clean failure"));
    let kept = site.conductor().firmware(site.node).await.unwrap();
    assert!(kept.iter().any(|kept| kept.component.version == "nic:A-2.0"), "the API shows what there is now");

    // An update that is not made, beside settings that are so.
    let site = Site::new().await;
    site.make_manageable().await;
    {
        let mut machine = site.machine.lock();
        machine.keeps_versions = true;
        machine.tasks = vec![UpdateState::AtRestart, UpdateState::Failed("Exception: no power.".to_owned())];
    }
    site.verb_with(Verb::Clean, clean(both(apply("Enabled"), update(&["nic:A"])))).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let (error, history) = (node.last_error.unwrap(), site.history().await.join("\n"));
    assert!(error.contains("firmware.update failed") && error.contains("no power"), "{error}");
    assert!(history.contains("BIOS settings are as wanted: ProcVirtualization"), "{history}");
    let kept = site.conductor().bios_settings(site.node).await.unwrap();
    assert!(kept.iter().any(|kept| kept.setting.value == "Enabled"));
}

#[tokio::test(start_paused = true)]
async fn a_bmc_that_takes_nothing_more_before_the_restart_gets_it_first() {
    for (list, starts) in [
        (everything(), 3),
        (update(&["bios", "nic:A"]), 2),
        (
            Value::Array(
                [update(&["nic:A"]).as_array().unwrap().clone(), apply("Enabled").as_array().unwrap().clone()].concat(),
            ),
            2,
        ),
    ] {
        let site = Site::new().await;
        site.make_manageable().await;
        site.machine.forget_history();
        site.machine.lock().takes_one = true;
        site.verb_with(Verb::Clean, clean(list.clone())).await.unwrap();
        let node = site.settle(State::Manageable).await;
        assert_eq!(node.last_error, None);
        let history = site.history().await.join("\n");
        let machine = site.machine.lock();
        assert_eq!(machine.booted.len(), starts, "{history}");
        assert_eq!(machine.firmware["nic:A"], "nic:A-2.0");
        assert!(history.contains("since the BMC takes no more before that"), "{history}");
        assert!(history.contains("nic:A was updated from 22.1 to nic:A-2.0"), "{history}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_without_a_restart_is_confirmed_where_the_next_part_is_refused_before_the_restart_of_other_steps() {
    let list = Value::Array(
        [apply("Enabled").as_array().unwrap().clone(), update(&["bmc", "bios"]).as_array().unwrap().clone()].concat(),
    );
    // The BMC says nothing of its own update: its version tells, or nothing does.
    for (silent, state) in [(false, State::Manageable), (true, State::CleanFailed)] {
        let site = Site::new().await;
        site.make_manageable().await;
        {
            let mut machine = site.machine.lock();
            machine.tasks = vec![UpdateState::Unsaid];
            machine.refused_parts = vec!["bios".to_owned()];
            machine.silent = silent.then(|| "bmc".to_owned()).into_iter().collect();
        }
        site.verb_with(Verb::Clean, clean(list.clone())).await.unwrap();
        let node = site.settle(state).await;
        let history = site.history().await.join("\n");
        assert!(history.contains("since the BMC takes no more before that"), "{history}");
        match node.last_error {
            Some(error) => assert!(error.contains("nothing shows that bmc was updated"), "{error}"),
            None => {
                assert!(history.contains("bmc was updated from 7.0 to bmc-2.0"), "{history}");
                assert!(history.contains("bios was updated from 1.1.0 to bios-2.0"), "{history}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_new_firmware_lost_are_staged_once_more() {
    // A BMC that follows changes by tasks has given them up.
    for given_up in [false, true] {
        let site = Site::new().await;
        site.make_manageable().await;
        site.machine.forget_history();
        {
            let mut machine = site.machine.lock();
            machine.updates_lose_settings = true;
            if given_up {
                machine.bios_task = Some("/tasks/settings".to_owned());
                let lost = UpdateState::Failed("Exception: The setup was reset.".to_owned());
                machine.tasks = vec![UpdateState::Done, UpdateState::Done, lost];
            }
        }
        site.verb_with(Verb::Clean, clean(everything())).await.unwrap();
        let node = site.settle(State::Manageable).await;
        assert_eq!(node.last_error, None);
        let machine = site.machine.lock();
        assert_eq!(machine.booted.len(), 2);
        assert_eq!(machine.bios["ProcVirtualization"], "Enabled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_before_the_restart_says_what_waits_for_the_next_start() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.forget_history();
    site.machine.lock().tasks = vec![UpdateState::Failed("Exception: The image is for another machine.".to_owned())];
    site.verb_with(Verb::Clean, clean(everything())).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    let error = node.last_error.unwrap();
    assert!(
        error.contains("What bios.apply_configuration has staged takes effect when the machine starts next"),
        "{error}"
    );
    assert!(site.machine.lock().booted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_update_is_asked_for_again_and_is_no_lost_answer() {
    for (refusals, state) in [(2, State::Manageable), (u32::MAX, State::CleanFailed)] {
        let site = Site::new().await;
        site.make_manageable().await;
        {
            let mut machine = site.machine.lock();
            (machine.refuses_updates, machine.listed) = (refusals, None);
        }
        site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
        let node = site.settle(state).await;
        match node.last_error {
            Some(error) => {
                assert!(error.contains("failed") && error.ends_with("the update service is busy"), "{error}")
            }
            None => assert_eq!(site.machine.lock().updates.len(), 1),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_before_an_update_that_was_refused_is_asked_for_again_lets_nothing_begin() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().refuses_updates = 1;
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    site.reach(State::CleanWait).await;
    site.verb(Verb::Abort).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("was aborted by request"));
    assert!(site.machine.lock().updates.is_empty());
}

/// Begins a deployment that updates the BIOS first, and returns when the BMC works on that.
async fn deploy_with_update(site: &Site) {
    site.make_available().await;
    let mut list = update(&["bios"]);
    list[0]["priority"] = json!(95);
    site.machine.lock().tasks = vec![UpdateState::Running(Some(10), "writing".to_owned()), UpdateState::Done];
    let arguments = ProvisionArguments { deploy_steps: steps(list), ..ProvisionArguments::default() };
    site.verb_with(Verb::Active, arguments).await.unwrap();
    while site.machine.lock().updates.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_firmware_is_being_updated_is_not_undeployed() {
    let site = Site::new().await;
    deploy_with_update(&site).await;
    site.reach(State::DeployWait).await;
    let starts = site.machine.lock().booted.len();
    let refused = site.verb(Verb::Deleted).await.unwrap_err();
    assert_eq!(refused.status(), 409);
    let text = refused.to_string();
    assert!(text.contains("step firmware.update has begun") && text.contains("after abort, \"deploy\" ends"), "{text}");
    let node = site.settle(State::Active).await;
    assert_eq!(node.last_error, None);
    {
        let machine = site.machine.lock();
        assert_eq!((machine.power, machine.booted.len()), (PowerState::On, starts + 1));
    }
    site.verb(Verb::Deleted).await.unwrap();
    site.settle(State::Available).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cuts_no_power_under_an_update() {
    let site = Site::new().await;
    deploy_with_update(&site).await;
    // The ramdisk does not come up with the new firmware.
    site.machine.lock().dead = true;
    let error = site.settle(State::DeployFailed).await.last_error.unwrap();
    assert!(error.contains("Timeout reached while waiting for callback"), "{error}");
    assert_eq!(site.machine.lock().power, PowerState::On);
}

#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_the_end_of_an_update_that_the_restart_takes_into_use() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.forget_history();
    let mut list = update(&["bios"]).as_array().unwrap().clone();
    list.push(json!({"interface": "deploy", "step": "erase_pstore"}));
    site.verb_with(Verb::Clean, clean(Value::Array(list))).await.unwrap();
    // The ramdisk comes up for the second time with the firmware in use.
    while site.machine.lock().updates.is_empty() || site.node().await.provision_state != State::CleanWait {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    site.verb(Verb::Abort).await.unwrap();
    assert_eq!(site.machine.lock().power, PowerState::On);
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("aborted by request, after the step that could not be"));
    let history = site.history().await.join("\n");
    assert!(history.contains("bios was updated from 1.1.0 to bios-2.0"), "{history}");
    assert!(site.machine.lock().steps_run.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_bmc_gives_up_fails_at_once_with_its_words() {
    let site = Site::new().await;
    site.make_manageable().await;
    {
        let mut machine = site.machine.lock();
        (machine.bios_forgets, machine.bios_task) = (true, Some("/tasks/settings".to_owned()));
        machine.tasks = vec![UpdateState::Failed("Exception: The password of the setup is wanted.".to_owned())];
    }
    let began = tokio::time::Instant::now();
    site.verb_with(Verb::Clean, clean(apply("Enabled"))).await.unwrap();
    let error = site.settle(State::CleanFailed).await.last_error.unwrap();
    assert!(
        error.contains("did not change the BIOS settings: Exception: The password of the setup is wanted."),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_tells_no_version_is_not_called_updated() {
    // Before and after, and after only.
    for before in [true, false] {
        let site = Site::new().await;
        site.make_manageable().await;
        site.machine.lock().tasks = vec![UpdateState::Running(Some(10), "writing".to_owned()), UpdateState::Unsaid];
        site.verb_with(Verb::Clean, clean(update(&["nic:A"]))).await.unwrap();
        while !before && site.machine.lock().updates.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        while before && site.node().await.provision_state != State::Cleaning {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.machine.lock().silent = vec!["nic:A".to_owned()];
        let error = site.settle(State::CleanFailed).await.last_error.unwrap();
        assert!(error.contains("nothing shows that nic:A was updated: it has an unknown version"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn power_stays_while_an_update_that_has_no_task_may_go_on() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.forget_history();
    site.machine.lock().tells_no_task = true;
    let began = tokio::time::Instant::now();
    site.verb_with(Verb::Clean, clean(update(&["bios"]))).await.unwrap();
    let node = site.settle(State::Manageable).await;
    assert_eq!((node.last_error, site.machine.lock().booted.len()), (None, 1));
    assert!(began.elapsed() >= Duration::from_secs(120), "{:?}", began.elapsed());
}
