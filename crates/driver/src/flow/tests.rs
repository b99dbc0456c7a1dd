use super::*;
use crate::hardware_type::compose;
use serde_json::{Map, json};

fn node(driver: &str) -> Node {
    let mut node = Node::new(Uuid::nil(), driver, Timestamp::UNIX_EPOCH);
    compose(&mut node).unwrap();
    node
}

fn fake_direct() -> Node {
    let mut node = Node::new(Uuid::nil(), "fake-hardware", Timestamp::UNIX_EPOCH);
    node.interfaces.insert("deploy".to_owned(), "direct".to_owned());
    node.interfaces.insert("inspect".to_owned(), "agent".to_owned());
    compose(&mut node).unwrap();
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
        ("verify", verify::plan()),
        ("inspect", inspect::plan(&node)),
        ("clean", clean::plan(&node, true)),
        ("clean, turned off", clean::plan(&node, false)),
        ("deploy", deploy::plan(&node)),
        ("undeploy", undeploy::plan(&node)),
        ("cleanup", plan_cleanup(&node, true)),
    ];
    let text = plans.map(|(name, plan)| format!("# {name}\n{}", text(&plan))).join("\n\n");
    insta::assert_snapshot!(text);
}

#[test]
fn plans_of_a_node_whose_ramdisk_somebody_else_boots() {
    let node = fake_direct();
    let plans =
        [("inspect", inspect::plan(&node)), ("clean", clean::plan(&node, true)), ("deploy", deploy::plan(&node))];
    let text = plans.map(|(name, plan)| format!("# {name}\n{}", text(&plan))).join("\n\n");
    insta::assert_snapshot!(text);
}

#[test]
fn a_fake_node_is_done_at_once() {
    let node = node("fake-hardware");
    for plan in [inspect::plan(&node), clean::plan(&node, true), deploy::plan(&node)] {
        assert_eq!(plan, [Action::Finish { event: Event::Done }]);
    }
}

#[test]
fn an_instance_that_boots_with_bios_gets_no_boot_entries() {
    let installs = |node: &Node| deploy::plan(node).contains(&Action::InstallBootloader);
    let mut node = node("redfish");
    assert!(installs(&node));
    node.properties.insert("capabilities".to_owned(), json!("disk_label:gpt, boot_mode:bios"));
    assert!(!installs(&node));
    node.instance_info.insert("capabilities".to_owned(), json!({"boot_mode": "uefi"}));
    assert!(installs(&node));
}

#[test]
fn the_agent_s_deploy_steps_run_around_the_image_and_before_the_power_goes() {
    let plan = deploy::plan(&fake_direct());
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
    insta::assert_snapshot!(text(&deploy::with_agent_steps(plan[after..].to_vec(), offered)));
}

#[test]
fn the_site_s_priorities_order_and_turn_off_clean_steps() {
    let offered = vec![
        Step::new("deploy", "erase_devices", 10),
        Step::new("deploy", "erase_devices_metadata", 99),
        Step::new("deploy", "burnin_cpu", 0),
    ];
    let priorities = BTreeMap::from([("deploy.erase_devices".to_owned(), 0), ("burnin_cpu".to_owned(), 100)]);
    let steps = text(&clean::automated_steps(offered, &priorities));
    assert_eq!(steps, "run deploy.burnin_cpu (100)\nrun deploy.erase_devices_metadata (99)");
}

#[test]
fn a_flow_is_read_as_it_was_saved() {
    let mut flow = Flow::new(Uuid::nil(), FlowKind::Deploy, deploy::plan(&node("redfish")));
    flow.cursor = 8;
    flow.intent = Some(Intent {
        attempt: 2,
        digest: "00".to_owned(),
        command: Some("c".to_owned()),
        since: Timestamp::UNIX_EPOCH,
    });
    let saved = serde_json::to_value(&flow).unwrap();
    assert_eq!(serde_json::from_value::<Flow>(saved.clone()).unwrap(), flow);
    insta::assert_json_snapshot!(saved);
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
fn what_is_wrong_with_an_image_is_named() {
    let cases: [(&str, Value); 7] = [
        ("image_source", Value::Null),
        ("image_source", json!(7)),
        ("image_source", json!("ftp://images.test/debian.raw")),
        ("image_source", json!("file://images/debian.raw")),
        ("image_checksum", Value::Null),
        ("image_os_hash_algo", json!("sha256")),
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
