//! What agents report of the devices that they erased: kept with the end of the step, whatever it was, and signed.

use super::flows::clean;
use super::sim::Site;
use base64::Engine as _;
use driver::command::NodeIdent;
use driver::fault::Fault;
use lifecycle::provision::{State, Verb};
use serde_json::{Value, json};
use store::{Commit, Inventory, Page, Record, Store as _};

pub(crate) fn reports() -> Value {
    let device =
        |node: &str| json!({"node": node, "wwn": null, "serial": format!("S-{node}"), "path": null, "size": 4096});
    json!([
        {"device": device("/dev/sda"), "method": "overwrite", "outcome": "verified", "evidence": "all blocks are zero"},
        {"device": device("/dev/sdb"), "method": "none", "outcome": "skipped", "reason": "it is read-only"},
        {"device": device("/dev/sdc"), "method": "ata-secure-erase", "outcome": "failed", "error": "a mark is still there"},
    ])
}

/// The same without the device that failed.
pub(crate) fn good_reports() -> Value {
    let mut reports = reports();
    reports.as_array_mut().unwrap().truncate(2);
    reports
}

pub(crate) async fn erasures(site: &Site) -> Vec<Record> {
    site.conductor().erasures(site.node, &Page::default()).await.unwrap()
}

pub(crate) fn outcomes(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| format!("{} {}", record.text("device").unwrap(), record.text("outcome").unwrap()))
        .collect()
}

pub(crate) const OUTCOMES: [&str; 3] =
    ["/dev/sda (S-/dev/sda) verified", "/dev/sdb (S-/dev/sdb) skipped", "/dev/sdc (S-/dev/sdc) failed"];

#[tokio::test(start_paused = true)]
async fn every_device_of_an_erase_has_a_signed_record_that_outlives_its_node() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().results.push(("erase_devices".to_owned(), good_reports()));
    site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
    site.settle(State::Manageable).await;
    let records = erasures(&site).await;
    assert_eq!(outcomes(&records), OUTCOMES[..2]);
    let history = site.history().await.join("\n");
    // What an agent calls verified without a word of what it read is called that.
    assert!(history.contains("/dev/sda (S-/dev/sda) verified, with nothing read back (overwrite)"), "{history}");
    for record in &records {
        assert!(history.contains(&record.uuid.to_string()), "{history}");
        let signed = &record.fields["record"];
        assert_eq!(signed["step"], "deploy.erase_devices");
        assert_eq!(signed["kind"], "clean");
        assert_eq!(signed["conductor"], "test-host");
        verify(&site, record).unwrap();
    }
    assert_eq!(records[1].fields["record"]["report"], reports()[1]);
    let mut forged = records[1].clone();
    forged.fields["record"]["report"]["outcome"] = json!("verified");
    verify(&site, &forged).unwrap_err();

    site.conductor().delete_node(&site.ident()).await.unwrap();
    assert_eq!(site.conductor().node_of_erasures(&site.ident()).await.unwrap(), site.node);
    assert_eq!(erasures(&site).await, records);
    let nobody = NodeIdent::Uuid(uuid::Uuid::nil());
    assert!(matches!(site.conductor().node_of_erasures(&nobody).await, Err(Fault::NotFound(_))));
}

fn verify(site: &Site, record: &Record) -> Result<(), aws_lc_rs::error::Unspecified> {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let base64 = base64::engine::general_purpose::STANDARD;
    let conductor = site.conductor();
    let key = conductor.erasure_key();
    assert_eq!(record.fields["signature"]["key_id"], key.id());
    let pem: String = key.public_pem().lines().filter(|line| !line.starts_with('-')).collect();
    let public = base64.decode(pem).unwrap();
    let signature = base64.decode(record.fields["signature"]["value"].as_str().unwrap()).unwrap();
    let text = wire::jcs::canonical(&record.fields["record"]);
    UnparsedPublicKey::new(&ED25519, &public[12..]).verify(text.as_bytes(), &signature)
}

#[tokio::test(start_paused = true)]
async fn a_failed_erase_is_recorded_as_what_it_was() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().results.push(("erase_devices".to_owned(), reports()));
    site.machine.lock().failing = Some(("erase_devices".to_owned(), "/dev/sdc is not erased".to_owned()));
    site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
    let node = site.settle(State::CleanFailed).await;
    assert!(node.last_error.unwrap().contains("/dev/sdc"));
    assert_eq!(outcomes(&erasures(&site).await), OUTCOMES);
}

#[tokio::test(start_paused = true)]
async fn a_success_whose_report_has_a_device_that_is_not_erased_is_none() {
    let odd = |entry: Value| {
        let mut list = good_reports();
        list.as_array_mut().unwrap().push(entry);
        list
    };
    let unheard_of = json!({"device": "/dev/sdd", "method": "wish", "outcome": "probably"});
    for (report, words) in [
        (reports(), "/dev/sdc (S-/dev/sdc) is failed (a mark is still there)"),
        (odd(unheard_of), "/dev/sdd is probably"),
        (odd(json!("/dev/sde is clean, trust me")), "1 entries of the agent's result are no reports, or too many"),
    ] {
        let site = Site::new().await;
        site.make_manageable().await;
        let count = report.as_array().unwrap().iter().filter(|report| report.is_object()).count();
        site.machine.lock().results.push(("erase_devices".to_owned(), report));
        site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
        let node = site.settle(State::CleanFailed).await;
        let error = node.last_error.unwrap();
        assert!(error.contains("deploy.erase_devices failed") && error.contains(words), "{error}");
        assert_eq!(erasures(&site).await.len(), count);
    }
}

/// Gives the node an inventory with these disks.
async fn inspected(site: &Site, disks: Value) {
    let inventory = Inventory { inventory: json!({ "disks": disks }), plugin_data: Value::Null };
    let commit = Commit { inventory: Some(inventory), ..Commit::of(site.node().await) };
    site.store.commit(site.conductor().epoch(), commit).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_the_inventory_that_nothing_is_reported_of_fails_the_clean_and_has_a_record() {
    let sda = json!({"name": "/dev/sda", "serial": "S-/dev/sda"});
    // It was the second disk when the machine was inspected.
    let sdb = json!({"name": "/dev/sdc", "serial": "S-/dev/sdb"});
    let lost = json!({"name": "/dev/sdb", "serial": "LOST", "wwn": "0x5000c500a1b2c3d4", "size": 4096});
    for (disks, state) in [(json!([sda, sdb]), State::Manageable), (json!([sda, lost, sdb]), State::CleanFailed)] {
        let site = Site::new().await;
        site.make_manageable().await;
        inspected(&site, disks).await;
        site.machine.lock().results.push(("erase_devices".to_owned(), good_reports()));
        site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
        let node = site.settle(state).await;
        let records = erasures(&site).await;
        let Some(error) = node.last_error else {
            assert_eq!(records.len(), 2);
            continue;
        };
        assert!(error.contains("/dev/sdb (0x5000c500a1b2c3d4) is failed (the node's inventory has it"), "{error}");
        assert!(error.contains("inspect the node"), "{error}");
        assert_eq!(outcomes(&records)[2], "/dev/sdb (0x5000c500a1b2c3d4) failed");
        assert_eq!(records[2].fields["record"]["report"]["device"]["serial"], "LOST");
        verify(&site, &records[2]).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_disks_is_clean_only_when_its_inventory_says_that_it_has_none() {
    let disk = json!([{"name": "/dev/sda", "serial": "A"}]);
    for (inventory, state, words) in [
        (Some(json!([])), State::Manageable, "found no device to erase, and the node's inventory has none"),
        (Some(disk), State::CleanFailed, "/dev/sda (A) is failed (the node's inventory has it"),
        (None, State::CleanFailed, "there is no inventory that says that the machine has none; inspect the node"),
    ] {
        let site = Site::new().await;
        site.make_manageable().await;
        if let Some(disks) = inventory {
            inspected(&site, disks).await;
        }
        site.machine.lock().results.push(("erase_devices".to_owned(), json!([])));
        site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
        let node = site.settle(state).await;
        let told = format!("{:?} {}", node.last_error, site.history().await.join("\n"));
        assert!(told.contains(words), "{told}");
    }
}

/// Waits until the agent erases and the driver knows.
pub(crate) async fn begin_erase(site: &Site) {
    let steps = json!([{"interface": "deploy", "step": "erase_devices"}]);
    site.machine.lock().step_seconds = 3600;
    site.machine.lock().results.push(("erase_devices".to_owned(), reports()));
    site.verb_with(Verb::Clean, clean(steps)).await.unwrap();
    while site.node().await.clean_step["step"] != "erase_devices" {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn an_erase_that_is_aborted_has_ended_before_power_is_cut() {
    let site = Site::new().await;
    site.make_manageable().await;
    begin_erase(&site).await;
    let node = site.verb(Verb::Abort).await.unwrap();
    assert_eq!((node.provision_state, &node.clean_step["abort_after"]), (State::CleanWait, &json!(true)));
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    {
        let machine = site.machine.lock();
        assert_eq!(machine.cancelled.len(), 1, "the agent was told once");
        assert_eq!(machine.power, hardware::PowerState::On, "it is not off before the erase has ended");
    }
    let node = site.settle(State::CleanFailed).await;
    assert_eq!(node.last_error.as_deref(), Some("clean was aborted by request, after its erase had ended."));
    assert_eq!(site.machine.lock().power, hardware::PowerState::Off);
    assert_eq!(site.machine.lock().cancelled.len(), 1);
    // Nothing but the end of the command brings these.
    assert_eq!(outcomes(&erasures(&site).await), OUTCOMES);
}

#[tokio::test(start_paused = true)]
async fn an_erase_that_cannot_be_stopped_is_waited_for_unless_it_is_aborted_again() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.machine.lock().stops_within = None;
    begin_erase(&site).await;
    site.verb(Verb::Abort).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert_eq!(site.node().await.provision_state, State::CleanWait);
    assert_eq!(site.machine.lock().power, hardware::PowerState::On);
    let history = site.history().await.join("\n");
    assert!(history.contains("the erase cannot be stopped, and its end is waited for"), "{history}");
    site.verb(Verb::Abort).await.unwrap();
    site.settle(State::CleanFailed).await;
    assert_eq!(site.machine.lock().power, hardware::PowerState::Off);
    assert!(erasures(&site).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_erase_that_was_to_be_aborted_is_recorded_when_it_ends() {
    let site = Site::new().await;
    site.make_manageable().await;
    {
        let mut machine = site.machine.lock();
        machine.results.push(("erase_devices_metadata".to_owned(), reports()));
        machine.clean_steps["GenericHardwareManager"][1]["abortable"] = json!(false);
    }
    let steps = json!([{"interface": "deploy", "step": "erase_devices_metadata"}, {"interface": "deploy", "step": "erase_devices"}]);
    site.verb_with(Verb::Clean, clean(steps)).await.unwrap();
    while site.node().await.clean_step["step"] != "erase_devices_metadata" {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    site.verb(Verb::Abort).await.unwrap();
    site.settle(State::CleanFailed).await;
    assert_eq!(site.machine.lock().steps_run, ["erase_devices_metadata"]);
    assert_eq!(outcomes(&erasures(&site).await), OUTCOMES);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reports_nothing_leaves_no_record_and_the_history_says_so() {
    let site = Site::new().await;
    site.make_manageable().await;
    site.verb_with(Verb::Clean, clean(json!([{"interface": "deploy", "step": "erase_devices"}]))).await.unwrap();
    site.settle(State::Manageable).await;
    assert!(erasures(&site).await.is_empty());
    let history = site.history().await.join("\n");
    assert!(history.contains("deploy.erase_devices: the agent reports no devices"), "{history}");
}
