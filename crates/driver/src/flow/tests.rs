use super::*;
use crate::hardware_type::Enabled;
use serde_json::{Map, json};

const SLOW: Fast = Fast { track: false, agent_runs: false };
const FAST: Fast = Fast { track: true, agent_runs: true };

fn node(driver: &str) -> Node {
    let mut node = Node::new(Uuid::nil(), driver, Timestamp::UNIX_EPOCH);
    Enabled::default().compose(&mut node).unwrap();
    node
}

fn fake_direct() -> Node {
    let mut node = Node::new(Uuid::nil(), "fake-hardware", Timestamp::UNIX_EPOCH);
    node.interfaces.insert("deploy".to_owned(), "direct".to_owned());
    node.interfaces.insert("inspect".to_owned(), "agent".to_owned());
    Enabled::default().compose(&mut node).unwrap();
    node
}

fn text(plan: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::ExecuteStep { step, .. } => format!("run {} ({})", action.describe(), step.priority),
        _ => action.describe(),
    };
    plan.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn plans_of_a_redfish_node() {
    let node = node("redfish");
    let plans = [
        ("verify", verify::plan(&node)),
        ("inspect", inspect::plan(&node, SLOW)),
        ("clean", clean::plan(&node, true, SLOW)),
        ("clean, turned off", clean::plan(&node, false, SLOW)),
        ("manual clean", clean::manual_plan(&node, true, SLOW)),
        ("manual clean without ramdisk", clean::manual_plan(&node, false, SLOW)),
        ("deploy", deploy::plan(&node, SLOW)),
        ("undeploy", undeploy::plan(&node)),
        ("adopt", adopt::plan()),
        ("rescue", rescue::plan(&node)),
        ("unrescue", rescue::plan_back(&node)),
        ("service", service::plan(&node, true)),
        ("service without ramdisk", service::plan(&node, false)),
        ("fast inspect", inspect::plan(&node, FAST)),
        ("fast clean", clean::plan(&node, true, FAST)),
        ("fast deploy", deploy::plan(&node, FAST)),
        ("cleanup", plan_cleanup(&node, true)),
        ("return", plan_return(&node)),
    ];
    let text = plans.map(|(name, plan)| format!("# {name}\n{}", text(&plan))).join("\n\n");
    insta::assert_snapshot!(text);
}

#[test]
fn plans_of_a_node_whose_ramdisk_somebody_else_boots() {
    let node = fake_direct();
    let plans = [
        ("inspect", inspect::plan(&node, SLOW)),
        ("clean", clean::plan(&node, true, SLOW)),
        ("deploy", deploy::plan(&node, SLOW)),
    ];
    let text = plans.map(|(name, plan)| format!("# {name}\n{}", text(&plan))).join("\n\n");
    insta::assert_snapshot!(text);
}

#[test]
fn a_fake_node_is_done_at_once() {
    let node = node("fake-hardware");
    for plan in [inspect::plan(&node, SLOW), clean::plan(&node, true, SLOW), deploy::plan(&node, SLOW)] {
        assert_eq!(plan, [Action::Finish { event: Event::Done }]);
    }
}

#[test]
fn an_instance_that_boots_with_bios_gets_no_boot_entries() {
    let installs = |node: &Node| deploy::plan(node, SLOW).contains(&Action::InstallBootloader);
    let mut node = node("redfish");
    assert!(installs(&node));
    node.properties.insert("capabilities".to_owned(), json!("disk_label:gpt, boot_mode:bios"));
    assert!(!installs(&node));
    node.instance_info.insert("capabilities".to_owned(), json!({"boot_mode": "uefi"}));
    assert!(installs(&node));
}

#[test]
fn the_agent_s_deploy_steps_run_around_the_image_and_before_the_power_goes() {
    let node = fake_direct();
    let plan = deploy::plan(&node, SLOW);
    let after = plan.iter().position(|action| matches!(action, Action::GetSteps { .. })).unwrap() + 1;
    let offered = vec![
        Step::new("deploy", "write_image", 0),
        Step::new("deploy", "late", 10),
        Step::new("raid", "apply_configuration", 95),
        Step::new("bios", "same_priority", 95),
        Step::new("deploy", "between", 70),
        Step::new("deploy", "after_boot_loader", 50),
        Step::new("deploy", "off", 0),
    ];
    insta::assert_snapshot!(text(&deploy::with_steps(&node, plan[after..].to_vec(), offered, Vec::new())));
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn chosen_deploy_steps_take_the_place_of_those_that_run_by_themselves() {
    let node = fake_direct();
    let plan = deploy::plan(&node, SLOW);
    let after = plan.iter().position(|action| matches!(action, Action::GetSteps { .. })).unwrap() + 1;
    let rest = plan[after..].to_vec();
    let offered = vec![Step::new("raid", "apply_configuration", 95), Step::new("deploy", "between", 70)];
    let given = [
        object(json!({"interface": "raid", "step": "apply_configuration", "priority": 0})),
        object(json!({"interface": "deploy", "step": "between", "priority": 90})),
        object(json!({"interface": "power", "step": "hold", "priority": 75})),
        object(json!({"interface": "power", "step": "reboot", "priority": 85})),
    ];
    let chosen = steps::read(&node, StepKind::Deploy, &given, true, Some(1800)).unwrap();
    let chosen = steps::complete(StepKind::Deploy, &chosen, &offered).unwrap();
    let moved = text(&deploy::with_steps(&node, rest.clone(), offered.clone(), chosen));
    let off = vec![Step::new("deploy", "write_image", 0)];
    let without = text(&deploy::with_steps(&node, rest, offered, off));
    insta::assert_snapshot!(format!("# moved, off, added\n{moved}\n\n# without the image\n{without}"));
}

#[test]
fn what_is_wrong_with_steps_is_named_all_at_once() {
    let given = [
        object(json!({"interface": "deploy", "step": "erase_devices"})),
        object(json!({"interface": "console", "step": "x"})),
        object(json!({"interface": "power", "step": "wait"})),
        object(json!({"interface": "power", "step": "wait", "args": {"seconds": 2000}})),
        object(json!({"interface": "power", "step": "wait", "args": {"seconds": "x"}})),
        object(json!({"interface": "power", "step": "hold", "args": {"for": 1}})),
        object(json!({"interface": "deploy", "step": "y", "execute_on_child_nodes": true})),
        object(json!({"interface": "power", "step": "power_on", "execute_on_child_nodes": "some"})),
        object(json!({"interface": "power", "step": "power_off",
            "limit_child_node_execution": ["8d4b1b24-97a7-4dd8-8d3b-3f1f52ecf8e5"]})),
        object(json!({"interface": "power", "step": "reboot", "execute_on_child_nodes": true,
            "limit_child_node_execution": ["x"]})),
    ];
    let errors = steps::read(&fake_direct(), StepKind::Clean, &given, false, Some(1800)).unwrap_err().0;
    let given = [
        object(json!({"interface": "deploy", "step": "deploy", "priority": 100})),
        object(json!({"interface": "deploy", "step": "write_image", "priority": 80, "args": {"image_info": {}}})),
        object(json!({"interface": "bios", "step": "z", "priority": 1})),
        object(json!({"interface": "bios", "step": "z", "priority": 2})),
    ];
    let deploy = steps::read(&fake_direct(), StepKind::Deploy, &given, true, Some(1800)).unwrap_err().0;
    let mut known = Step::new("raid", "apply_configuration", 0);
    known.argsinfo = Some(json!({"raid_config": {"required": true}, "delete_existing": {"required": false}}));
    let mut wrong = Step::new("raid", "apply_configuration", 0);
    wrong.args = object(json!({"delete": true}));
    let chosen = [wrong, Step::new("raid", "unknown", 0)];
    let against = steps::complete(StepKind::Service, &chosen, &[known]).unwrap_err().0;
    insta::assert_snapshot!([errors, deploy, against].concat().join("\n"));
}

#[test]
fn a_machine_that_is_switched_off_between_steps_comes_back_with_the_ramdisk() {
    let node = node("redfish");
    let names = ["a", "power_off", "b", "power_off", "power_on", "reboot", "hold", "wait"];
    let chosen: Vec<Step> = names.iter().map(|name| Step::new("deploy", name, 0)).collect();
    let with = text(&steps::actions(&node, StepKind::Clean, &chosen, true));
    let without = text(&steps::actions(&node, StepKind::Clean, &chosen[3..], false));
    insta::assert_snapshot!(format!("# with ramdisk\n{with}\n\n# without\n{without}"));
}

#[test]
fn the_site_s_priorities_order_and_turn_off_clean_steps() {
    let offered = vec![
        Step::new("deploy", "erase_devices", 10),
        Step::new("deploy", "erase_devices_metadata", 99),
        Step::new("deploy", "burnin_cpu", 0),
    ];
    let priorities = BTreeMap::from([("deploy.erase_devices".to_owned(), 0), ("burnin_cpu".to_owned(), 100)]);
    let mut node = node("redfish");
    let steps = text(&clean::automated_steps(&node, offered, &priorities));
    assert_eq!(steps, "run deploy.burnin_cpu (100)\nrun deploy.erase_devices_metadata (99)");
    // A step of the driver's own is carried out by the driver, whoever orders it.
    node.interfaces.insert("bios".to_owned(), "redfish".to_owned());
    let priorities = BTreeMap::from([("bios.factory_reset".to_owned(), 100)]);
    let plan = clean::automated_steps(&node, own_steps::offered(&node, StepKind::Clean), &priorities);
    assert!(
        matches!(&*plan, [Action::StageBios { own }, Action::RestartForSteps { ramdisk: true, .. }] if own.ramdisk),
        "{plan:?}"
    );
}

#[test]
fn a_flow_is_read_as_it_was_saved() {
    let mut flow =
        Flow::new(Uuid::nil(), FlowKind::Deploy, deploy::plan(&node("redfish"), SLOW), Timestamp::UNIX_EPOCH);
    flow.cursor = 8;
    flow.intent = Some(Intent {
        attempt: 2,
        digest: "00".to_owned(),
        id: None,
        command: Some("c".to_owned()),
        since: Timestamp::UNIX_EPOCH,
        trouble: None,
    });
    let saved = serde_json::to_value(&flow).unwrap();
    assert_eq!(serde_json::from_value::<Flow>(saved.clone()).unwrap(), flow);
    insta::assert_json_snapshot!(saved);
}

#[test]
fn a_flow_that_an_older_build_saved_is_read() {
    // The shape of the first build that saved flows.
    let saved = json!({
        "id": Uuid::nil(), "kind": "deploy",
        "actions": [{"action": "power_off"}, {"action": "power_on"}], "cursor": 1,
        "intent": {"attempt": 1, "digest": "", "command": null, "since": "2026-11-22T20:00:00Z"},
    });
    let flow: Flow = serde_json::from_value(saved).unwrap();
    assert_eq!((flow.kind, flow.current()), (FlowKind::Deploy, Some(&Action::PowerOn)));
    assert_eq!(flow.began(), "2026-11-22T20:00:00Z".parse().unwrap());
    assert_eq!((flow.settled.len(), flow.chosen, flow.abort_after), (0, None, false));
}

fn with_image(change: impl FnOnce(&mut Map<String, Value>)) -> Node {
    let mut node = node("redfish");
    let info = json!({"image_source": "http://images.test/d/debian.raw.zst?v=1", "image_checksum": "ab"});
    node.instance_info = info.as_object().unwrap().clone();
    change(&mut node.instance_info);
    node
}

#[test]
fn the_image_is_told_as_the_protocol_says() {
    let node = with_image(|info| {
        info.insert("image_os_hash_algo".to_owned(), json!("sha256"));
        info.insert("image_os_hash_value".to_owned(), json!("cd"));
        info.insert("image_disk_format".to_owned(), json!("raw"));
    });
    insta::assert_json_snapshot!(image::write_image_arguments(&node, Some("drive".to_owned())).unwrap());
}

#[test]
fn a_partition_image_is_told_with_its_partitions() {
    let mut node = with_image(|info| {
        let more = json!({"image_type": "partition", "root_gb": "20", "swap_mb": 512, "ephemeral_gb": 5,
            "image_disk_format": "qcow2", "capabilities": {"disk_label": "gpt"}});
        info.extend(more.as_object().unwrap().clone());
    });
    node.driver_info.insert("image_https_proxy".to_owned(), json!("http://proxy.test:3128"));
    insta::assert_json_snapshot!(image::write_image_arguments(&node, None).unwrap());
    node.properties.insert("capabilities".to_owned(), json!("boot_mode:bios"));
    assert!(deploy::plan(&node, SLOW).contains(&Action::InstallBootloader));
    node.instance_info.remove("root_gb");
    assert!(image::image_info(&node).unwrap_err().to_string().contains("root_gb is missing"));
}

#[test]
fn what_is_wrong_with_an_image_is_named() {
    let cases: [(&str, Value); 8] = [
        ("image_source", Value::Null),
        ("image_source", json!(7)),
        ("image_source", json!("ftp://images.test/debian.raw")),
        ("image_source", json!("file://images/debian.raw")),
        ("image_checksum", Value::Null),
        ("image_os_hash_algo", json!("sha256")),
        ("image_type", json!("directory")),
        ("image_type", json!("partition")),
    ];
    let text = cases.map(|(key, value)| {
        let node = with_image(|info| drop(info.insert(key.to_owned(), value.clone())));
        format!("{key} = {value}: {}", image::image_info(&node).unwrap_err())
    });
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_config_drive_is_made_from_its_parts_and_always_the_same() {
    use base64::Engine as _;
    use std::io::Read as _;
    let mut node = with_image(|info| {
        let drive = json!({"meta_data": {"public_keys": {"k": "ssh-ed25519 AAAA"}}, "user_data": {"a": 1},
            "network_data": {"links": []}, "vendor_data": {"v": 2}});
        info.insert("configdrive".to_owned(), drive);
    });
    node.name = Some("web-1".to_owned());
    let text = configdrive::for_agent(&node).unwrap().unwrap();
    assert_eq!(configdrive::for_agent(&node).unwrap().unwrap(), text);
    let packed = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut image).unwrap();
    assert_eq!(&image[16 * 2048 + 40..][..8], b"config-2");
    let image = String::from_utf8_lossy(&image);
    for part in ["\"hostname\":\"web-1\"", "\"name\":\"web-1\"", "\"uuid\":\"00000000-", "{\"links\":[]}", "{\"a\":1}"]
    {
        assert!(image.contains(part), "{part}");
    }
}

#[test]
fn a_config_drive_that_is_text_is_passed_on_and_anything_else_refused() {
    let drive = |value: Value| with_image(|info| drop(info.insert("configdrive".to_owned(), value)));
    let url = "http://config.test/drive";
    assert_eq!(configdrive::for_agent(&drive(json!(url))).unwrap().as_deref(), Some(url));
    assert_eq!(configdrive::for_agent(&drive(json!(""))).unwrap(), None);
    for wrong in [json!(1), json!({"meta_data": 1}), json!({"user_data": 1})] {
        assert!(configdrive::for_agent(&drive(wrong)).is_err());
    }
}
