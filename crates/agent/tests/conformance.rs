//! The agent protocol, table by table: each row is given to the in-process function, to the REST API, over http and over
//! https, and to the session that the agent dials, and all have to answer the same. What the real agent answers to the same and to odder questions is in `replay.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::command::AgentError;
use hardware::Contents;
use hardware_sim::{Event, Fault, SimMachine, disk};
use http::Method;
use serde_json::{Map, Value, json};
use support::stream::Session;
use support::{Answer, Rest, Rig, TOKEN, rig, settings};
use wire::agent::CommandRequest;

/// What a command has to come to.
enum Expect {
    /// Refused at once: HTTP status and text.
    Refused(u16, &'static str),
    /// Recorded, with this status and result.
    Succeeded(Value),
    /// Recorded as failed, with this class and a text that holds this.
    Failed(&'static str, &'static str),
    /// Recorded as a version mismatch.
    Mismatch(&'static str),
}

/// Gives a command to the function and brings its answer into the form that REST has.
async fn in_process(rig: &Rig, name: &str, params: &Value) -> Answer {
    let params: Map<String, Value> = params.as_object().cloned().unwrap_or_default();
    match rig.dispatcher.submit(CommandRequest { name: name.to_owned(), params }).await {
        Ok(record) => {
            record.wait().await;
            Answer { status: 200, body: serde_json::to_value(record.to_result()).unwrap() }
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &AgentError) -> Answer {
    Answer { status: error.class.code(), body: serde_json::to_value(error.to_fault()).unwrap() }
}

fn check(name: &str, answer: &Answer, expect: &Expect, how: &str) {
    let body = &answer.body;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match expect {
        Expect::Refused(status, wanted) => {
            assert_eq!(answer.status, *status, "{how} {name}: {body}");
            assert_eq!(text(&body["faultstring"]), *wanted, "{how} {name}");
            assert_eq!(body["faultcode"], "Client", "{how} {name}");
        }
        Expect::Succeeded(result) => {
            assert_eq!(answer.status, 200, "{how} {name}: {body}");
            assert_eq!(body["command_status"], "SUCCEEDED", "{how} {name}: {body}");
            assert_eq!(body["command_result"], *result, "{how} {name}");
            assert_eq!(body["command_error"], Value::Null);
        }
        Expect::Failed(class, wanted) => {
            assert_eq!(answer.status, 200, "{how} {name}: {body}");
            assert_eq!(body["command_status"], "FAILED", "{how} {name}: {body}");
            assert_eq!(body["command_error"]["type"], *class, "{how} {name}: {body}");
            assert!(text(&body["command_error"]["details"]).contains(wanted), "{how} {name}: {body}");
            assert_eq!(body["command_result"], Value::Null);
        }
        Expect::Mismatch(wanted) => {
            assert_eq!(body["command_status"], "CLEAN_VERSION_MISMATCH", "{how} {name}: {body}");
            assert_eq!(body["command_error"]["type"], "VersionMismatch");
            assert_eq!(text(&body["command_error"]["details"]), *wanted, "{how} {name}");
        }
    }
}

/// A row: name, parameters, what it comes to.
type Row = (&'static str, Value, Expect);

/// Runs each row on a machine of its own, in process, over REST and by a session.
async fn run(machine: fn() -> SimMachine, rows: Vec<Row>) {
    for (name, params, expect) in rows {
        let inside = rig(machine(), settings());
        check(name, &in_process(&inside, name, &params).await, &expect, "in process:");
        let recorded = usize::from(!matches!(expect, Expect::Refused(..)));
        assert_eq!(inside.dispatcher.list().len(), recorded, "{name}");
        for tls in [false, true] {
            let outside = rig(machine(), settings());
            let rest = match tls {
                false => Rest::serve(&outside.dispatcher).await,
                true => Rest::serve_tls(&outside.dispatcher).await,
            };
            let how = if tls { "over https:" } else { "over http:" };
            check(name, &rest.command(name, params.clone(), true).await, &expect, how);
            assert_eq!(rest.list().await.len(), recorded, "{how} {name}");
        }
        let dialled = rig(machine(), settings());
        let session = Session::open(&dialled.agent, &dialled.dispatcher).await;
        check(name, &session.command(name, &params).await, &expect, "by session:");
        assert_eq!(session.list().await.len(), recorded, "by session: {name}");
    }
}

fn machine() -> SimMachine {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    machine
}

fn looked_at() -> SimMachine {
    machine().read_only()
}

fn step(name: &str, args: &Value) -> Value {
    json!({"step": {"step": name, "interface": "deploy", "args": args}, "node": {"uuid": "n"}, "ports": []})
}

/// The protocol's table of commands: name, whether the submission waits for the end, parameters (an asterisk: may be left
/// out), and whether more are taken.
#[test]
fn the_table_of_commands() {
    let mut table = Vec::new();
    for extension in agent::extension::standard() {
        for command in extension.commands {
            let params = command
                .params
                .iter()
                .map(|param| if param.required { param.name.to_owned() } else { format!("{}*", param.name) });
            let more = if command.open_ended { " …" } else { "" };
            let params: Vec<String> = params.collect();
            table.push(format!(
                "{}.{} | {:?} | {}{more}",
                extension.name,
                command.name,
                command.mode,
                params.join(" ")
            ));
        }
    }
    let wanted = [
        "clean.get_clean_steps | Sync | node ports",
        "clean.execute_clean_step | Async | step node ports clean_version* …",
        "deploy.get_deploy_steps | Sync | node ports",
        "deploy.execute_deploy_step | Async | step node ports deploy_version* …",
        "flow.start_flow | Async | flow",
        "image.install_bootloader | Async | root_uuid efi_system_part_uuid* prep_boot_part_uuid* target_boot_mode* ignore_bootloader_failure*",
        "log.collect_system_logs | Sync | ",
        "poll.get_hardware_info | Sync | ",
        "poll.set_node_info | Sync | node_info*",
        "rescue.finalize_rescue | Sync | rescue_password* hashed*",
        "service.get_service_steps | Sync | node ports",
        "service.execute_service_step | Async | step node ports service_version* …",
        "standby.prepare_image | Async | image_info configdrive*",
        "standby.run_image | Async | ",
        "standby.power_off | Async | ",
        "standby.sync | Sync | ",
        "standby.execute_bootc_install | Async | image_source instance_info* pull_secret* configdrive*",
        "standby.get_partition_uuids | Sync | ",
        "system.lockdown | Sync | ",
    ];
    assert_eq!(table, wanted);
}

/// The protocol's table of routes: without, with a wrong, and with the right token.
#[tokio::test]
async fn the_table_of_routes() {
    let rig = rig(machine(), settings());
    let done = in_process(&rig, "standby.sync", &json!({})).await.body;
    let id = done["id"].as_str().unwrap();
    let (one, other) = (format!("/v1/commands/{id}"), format!("/commands/{id}"));
    let rows: [(Method, &str, u16, u16); 13] = [
        (Method::GET, "/", 200, 200),
        (Method::GET, "/v1", 200, 200),
        (Method::GET, "/v1/", 200, 200),
        (Method::GET, "/v1/status", 200, 200),
        (Method::GET, "/status", 200, 200),
        (Method::GET, "/v1/commands", 401, 200),
        (Method::GET, "/v1/commands/", 401, 200),
        (Method::GET, "/commands/", 401, 200),
        (Method::GET, &one, 401, 200),
        (Method::GET, &other, 401, 200),
        (Method::HEAD, &one, 401, 200),
        (Method::POST, "/v1/commands/", 401, 400),
        (Method::DELETE, &one, 401, 200),
    ];
    for rest in [Rest::serve(&rig.dispatcher).await, Rest::serve_tls(&rig.dispatcher).await] {
        for (method, path, without, with) in &rows {
            for (query, wanted) in
                [("", without), ("?agent_token=x", without), (&*format!("?agent_token={TOKEN}&wait=true"), with)]
            {
                let (status, headers, body) = rest.ask(method.clone(), &format!("{path}{query}"), &[], "").await;
                assert_eq!(status, *wanted, "{method} {path}{query}");
                assert_eq!(headers["content-type"], "application/json", "{method} {path}{query}");
                assert_eq!(body.is_empty(), *method == Method::HEAD, "{method} {path}{query}");
            }
        }
        assert_eq!(rest.get(&format!("{one}?agent_token={TOKEN}")).await.body, done);
    }
}

#[tokio::test]
async fn checks_of_names_and_parameters() {
    let unknown = "Not found: Extension with id nonsense not found.";
    let type_error = "PollExtension.get_hardware_info() got an unexpected keyword argument 'x'";
    let missing = "CleanExtension.get_clean_steps() missing 2 required positional arguments: 'node' and 'ports'";
    let form = "Invalid command: Command name must be of the form <extension>.<name>";
    run(
        machine,
        vec![
            ("nodot", json!({}), Expect::Refused(400, form)),
            ("nonsense.x", json!({}), Expect::Refused(404, unknown)),
            ("standby.x", json!({}), Expect::Refused(400, "Invalid command: Unknown command: x")),
            ("standby.a.b", json!({}), Expect::Refused(400, "Invalid command: Unknown command: a.b")),
            ("poll.get_hardware_info", json!({"x": 1}), Expect::Failed("TypeError", type_error)),
            ("clean.get_clean_steps", json!({}), Expect::Failed("TypeError", missing)),
            ("standby.power_off", json!({"x": 1}), Expect::Failed("CommandExecutionError", "unexpected keyword")),
            (
                "clean.execute_clean_step",
                json!({"step": {}, "node": {}}),
                Expect::Failed("CommandExecutionError", "missing 1 required positional argument: 'ports'"),
            ),
            (
                "clean.get_clean_steps",
                json!({"node": "n", "ports": []}),
                Expect::Refused(400, "Invalid command parameters: parameter 'node' must be an object, but is a string"),
            ),
            (
                "standby.prepare_image",
                json!({"image_info": {"id": "x"}}),
                Expect::Refused(400, "Invalid command parameters: Image is missing 'urls' field."),
            ),
            (
                "standby.prepare_image",
                json!({}),
                Expect::Refused(400, "Invalid command parameters: Image is missing 'id' field."),
            ),
        ],
    )
    .await;
}

/// What `get_<kind>_steps` answers, in the protocol's form.
async fn offered(kind: &str) -> Value {
    let rig = rig(machine(), settings());
    let list = in_process(&rig, &format!("{kind}.get_{kind}_steps"), &json!({"node": {}, "ports": []})).await.body;
    let steps = list["command_result"][format!("{kind}_steps")]["GenericHardwareManager"].clone();
    json!({
        format!("{kind}_steps"): {"GenericHardwareManager": steps},
        "hardware_manager_version": {"generic_hardware_manager": "1.2"},
    })
}

/// The protocol's table of steps, those that are here, and three of ours: update_firmware, check_hardware and test_disks.
#[tokio::test]
async fn the_table_of_steps() {
    let mut table = Vec::new();
    for kind in ["clean", "deploy", "service"] {
        let list = offered(kind).await;
        for step in list[format!("{kind}_steps")]["GenericHardwareManager"].as_array().unwrap() {
            let word = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let abortable = match &step["abortable"] {
                Value::Null => "",
                Value::Bool(true) => " abortable",
                other => panic!("{other}"),
            };
            assert_eq!(step["reboot_requested"], false);
            let arguments = step["argsinfo"].as_object().into_iter().flatten();
            let arguments: Vec<String> = arguments
                .map(|(name, about)| format!("{name}{}", if about["required"] == true { "" } else { "*" }))
                .collect();
            table.push(format!(
                "{kind} {} {} {}{abortable} | {}",
                word("step"),
                word("interface"),
                step["priority"],
                arguments.join(" ")
            ));
        }
    }
    let wanted = [
        "clean check_hardware deploy 0 abortable | fail*",
        "clean clean_uefi_nvram deploy 0 abortable | match_patterns*",
        "clean erase_devices deploy 10 abortable | ",
        "clean erase_devices_express deploy 0 abortable | ",
        "clean erase_devices_metadata deploy 99 abortable | ",
        "clean erase_pstore deploy 0 abortable | ",
        "clean test_disks deploy 0 abortable | disks* extended* fail*",
        "clean update_firmware firmware 0 | allow_downgrade* checksum* dry_run* manifest verify_ca*",
        "deploy clean_uefi_nvram deploy 0 | match_patterns*",
        "deploy erase_devices_metadata deploy 0 | ",
        "deploy inject_files deploy 0 | files* verify_ca*",
        "deploy write_image deploy 0 | ",
        "service check_hardware deploy 0 abortable | fail*",
        "service inject_files deploy 0 | files* verify_ca*",
        "service test_disks deploy 0 abortable | disks* extended* fail*",
        "service update_firmware firmware 0 | allow_downgrade* checksum* dry_run* manifest verify_ca*",
        "service write_image deploy 0 | ",
    ];
    assert_eq!(table, wanted);
}

#[tokio::test]
async fn results_are_wrapped_as_the_protocol_says() {
    let uuids = json!({});
    let clean = offered("clean").await;
    let deploy = offered("deploy").await;
    run(
        machine,
        vec![
            ("standby.sync", json!({}), Expect::Succeeded(Value::Null)),
            ("standby.get_partition_uuids", json!({}), Expect::Succeeded(uuids)),
            ("clean.get_clean_steps", json!({"node": {}, "ports": []}), Expect::Succeeded(clean)),
            ("deploy.get_deploy_steps", json!({"node": {}, "ports": []}), Expect::Succeeded(deploy)),
            ("image.install_bootloader", json!({"root_uuid": null}), Expect::Succeeded(Value::Null)),
            ("image.install_bootloader", json!({"root_uuid": "0x00000000"}), Expect::Succeeded(Value::Null)),
            (
                "image.install_bootloader",
                json!({"root_uuid": "abc"}),
                Expect::Failed("InvalidImage", "CONF.enable_bios_bootloader_install"),
            ),
            (
                "image.install_bootloader",
                json!({"root_uuid": "abc", "ignore_bootloader_failure": true}),
                Expect::Succeeded(Value::Null),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_steps_protocol() {
    let mismatch = "Current versions: {'generic_hardware_manager': '1.2'}, versions used by ironic: \
                    {'generic_hardware_manager': '1.1'}";
    let mut old = step("erase_devices_metadata", &json!({}));
    old["clean_version"] = json!({"generic_hardware_manager": "1.1"});
    let unexpected = "Unexpected exception performing clean step erase_devices_metadata. TypeError: \
                      GenericHardwareManager.erase_devices_metadata() got an unexpected keyword argument 'x'; it \
                      takes none";
    run(
        machine,
        vec![
            ("clean.execute_clean_step", old, Expect::Mismatch(mismatch)),
            (
                "clean.execute_clean_step",
                json!({"step": {"interface": "deploy"}, "node": {}, "ports": []}),
                Expect::Failed(
                    "CommandExecutionError",
                    "Malformed clean_step, no \"step\" key: {'interface': 'deploy'}",
                ),
            ),
            (
                "clean.execute_clean_step",
                step("juggle", &json!({})),
                Expect::Failed("HardwareManagerMethodNotFound", "Could not find method: juggle"),
            ),
            (
                "clean.execute_clean_step",
                step("erase_devices_metadata", &json!({"x": 1})),
                Expect::Failed("CleaningError", unexpected),
            ),
            (
                "deploy.execute_deploy_step",
                step("write_image", &json!({"image_info": {"id": "x", "urls": ["u"]}})),
                Expect::Failed("InvalidCommandParamsError", "Image checksum is not available"),
            ),
            (
                "deploy.execute_deploy_step",
                step("write_image", &json!({})),
                Expect::Failed("DeploymentError", "missing 1 required positional argument: 'image_info'"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_machine_that_may_only_be_read_refuses_whatever_would_write() {
    let image = json!({"id": "x", "urls": ["file:///x"], "checksum": "a".repeat(64)});
    let refused = "this agent runs as a program on a host that it may not change";
    run(
        looked_at,
        vec![
            ("standby.prepare_image", json!({"image_info": image}), Expect::Failed("CommandExecutionError", refused)),
            (
                "deploy.execute_deploy_step",
                step("write_image", &json!({"image_info": image})),
                Expect::Failed("DeploymentError", refused),
            ),
            (
                "clean.execute_clean_step",
                step("erase_devices_metadata", &json!({})),
                Expect::Failed("CommandExecutionError", refused),
            ),
            ("standby.power_off", json!({}), Expect::Failed("CommandExecutionError", refused)),
            ("standby.run_image", json!({}), Expect::Failed("CommandExecutionError", refused)),
            ("image.install_bootloader", json!({"root_uuid": null}), Expect::Failed("CommandExecutionError", refused)),
        ],
    )
    .await;
}

#[tokio::test]
async fn cleaning_erases_all_disks_and_tells_how_it_was_verified() {
    let rig = rig(machine(), settings());
    rig.machine.add_disk(disk("/dev/vdb", 1 << 30));
    let rest = Rest::serve(&rig.dispatcher).await;
    let sent = step("erase_devices_metadata", &json!({}));
    let answer = rest.command("clean.execute_clean_step", sent.clone(), true).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    // The step comes back as it was sent, to the letter.
    assert_eq!(answer.body["command_result"]["clean_step"], sent["step"]);
    let proofs = answer.body["command_result"]["clean_result"].as_array().unwrap();
    assert_eq!(proofs.len(), 2);
    assert_eq!(proofs[0]["outcome"], "verified");
    assert_eq!(opened(&rig), ["/dev/vda", "/dev/vdb"]);
    assert!(proofs.iter().all(|proof| proof["reading"]["marks"].as_u64() > Some(0)), "{proofs:?}");
}

/// The disks that were opened to be erased.
fn opened(rig: &Rig) -> Vec<String> {
    let events = rig.machine.events().into_iter();
    events.filter_map(|event| if let Event::Opened(disk) = event { Some(disk) } else { None }).collect()
}

#[tokio::test]
async fn a_disk_that_cannot_be_erased_fails_the_step_after_the_others_were_erased() {
    let rig = rig(machine(), settings());
    rig.machine.add_disk(disk("/dev/vdb", 1 << 30));
    rig.machine.inject(Fault::Open("/dev/vda".to_owned()));
    let answer = in_process(&rig, "clean.execute_clean_step", &step("erase_devices_metadata", &json!({}))).await;
    assert_eq!(answer.body["command_error"]["type"], "BlockDeviceEraseError");
    let details = answer.body["command_error"]["details"].as_str().unwrap();
    assert!(details.contains("/dev/vda") && details.contains("injected fault"), "{details}");
    assert_eq!(opened(&rig), ["/dev/vdb"]);
}

fn shared(what: &str) -> Contents {
    Contents { shared: vec![what.to_owned()], ..Contents::default() }
}

#[tokio::test]
async fn members_of_arrays_read_only_disks_and_virtual_media_are_left_alone_and_told() {
    let rig = rig(machine(), settings());
    let special = [
        ("/dev/vdb", Contents { raid_member: true, ..Contents::default() }, "linux_raid_member"),
        ("/dev/vdc", Contents { read_only: true, ..Contents::default() }, "read-only"),
        ("/dev/vdd", Contents { virtual_media: true, ..Contents::default() }, "virtual media"),
        // What is left alone for another reason needs no guard.
        ("/dev/vde", Contents { raid_member: true, ..shared("VMware VMFS on vde") }, "linux_raid_member"),
        ("/dev/vdf", Contents::default(), "skip_block_devices"),
    ];
    for (name, contents, _) in &special {
        rig.machine.add_disk(disk(name, 1 << 30));
        rig.machine.set_contents(name, contents.clone());
    }
    let mut params = step("erase_devices_metadata", &json!({}));
    params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/vdf"}]});
    let answer = in_process(&rig, "clean.execute_clean_step", &params).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    assert_eq!(opened(&rig), ["/dev/vda"]);
    let proofs = answer.body["command_result"]["clean_result"].as_array().unwrap();
    assert_eq!(proofs.len(), 1 + special.len(), "{proofs:?}");
    for (name, _, reason) in special {
        let proof = proofs.iter().find(|proof| proof["device"]["node"] == name).unwrap();
        assert_eq!(proof["outcome"], "skipped", "{proof}");
        assert!(proof["reason"].as_str().unwrap().contains(reason), "{proof}");
    }
}

#[tokio::test]
async fn disks_below_a_skipped_device_are_kept_and_an_entry_without_a_disk_fails_the_step_first() {
    let rig = rig(machine(), settings());
    rig.machine.add_disk(hardware::Disk { holders: vec!["md0".to_owned()], ..disk("/dev/vdb", 1 << 30) });
    rig.machine.add_disk(disk("/dev/md0", 1 << 30));
    for name in ["erase_devices", "erase_devices_metadata"] {
        let mut params = step(name, &json!({}));
        params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/md0"}, {"name": "/dev/md1"}]});
        let answer = in_process(&rig, "clean.execute_clean_step", &params).await;
        assert_eq!(answer.body["command_error"]["type"], "DeviceNotFound", "{}", answer.body);
        let details = answer.body["command_error"]["details"].as_str().unwrap();
        assert!(details.contains(r#"{"name":"/dev/md1"}"#) && details.contains("/dev/md0 ("), "{details}");
        assert!(rig.machine.events().is_empty(), "{:?}", rig.machine.events());
    }
    let mut params = step("erase_devices_metadata", &json!({}));
    params["node"]["properties"] = json!({"skip_block_devices": [{"name": "/dev/md0"}]});
    let answer = in_process(&rig, "clean.execute_clean_step", &params).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    assert_eq!(opened(&rig), ["/dev/vda"]);
    let proofs = answer.body["command_result"]["clean_result"].as_array().unwrap();
    let skipped = |name: &str| proofs.iter().any(|p| p["device"]["node"] == name && p["outcome"] == "skipped");
    assert!(skipped("/dev/vdb") && skipped("/dev/md0"), "{proofs:?}");
}

#[tokio::test]
async fn a_shared_file_system_fails_the_step_before_any_disk_is_touched() {
    let rig = rig(machine(), settings());
    rig.machine.add_disk(disk("/dev/vdb", 1 << 30));
    rig.machine.set_contents("/dev/vdb", shared("VMware VMFS Partition (GPT) on vdb"));
    for wipe in [json!(null), json!({}), json!({"wipe_special_filesystems": true})] {
        let mut params = step("erase_devices_metadata", &json!({}));
        params["node"]["driver_internal_info"] = wipe;
        let answer = in_process(&rig, "clean.execute_clean_step", &params).await;
        assert_eq!(answer.body["command_error"]["type"], "ProtectedDeviceError", "{}", answer.body);
        let details = answer.body["command_error"]["details"].as_str().unwrap();
        assert!(details.contains("/dev/vdb (VMware VMFS Partition (GPT) on vdb)"), "{details}");
        assert!(rig.machine.events().is_empty(), "{:?}", rig.machine.events());
    }
}

#[tokio::test]
async fn a_shared_file_system_is_erased_where_the_guard_is_off() {
    let off = agent::config::Settings { guard_special_filesystems: false, ..settings() };
    for (settings, info) in [(off, json!({})), (settings(), json!({"wipe_special_filesystems": false}))] {
        let rig = rig(machine(), settings);
        rig.machine.add_disk(disk("/dev/vdb", 1 << 30));
        rig.machine.set_contents("/dev/vdb", shared("Red Hat Global File System 2 on vdb"));
        let mut params = step("erase_devices_metadata", &json!({}));
        params["node"]["driver_internal_info"] = info;
        let answer = in_process(&rig, "clean.execute_clean_step", &params).await;
        assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
        assert_eq!(opened(&rig), ["/dev/vda", "/dev/vdb"]);
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_looked_into_is_not_erased_and_fails_the_step() {
    let rig = rig(machine(), settings());
    rig.machine.add_disk(disk("/dev/vdb", 1 << 30));
    rig.machine.inject(Fault::Look("/dev/vdb".to_owned()));
    let answer = in_process(&rig, "clean.execute_clean_step", &step("erase_devices_metadata", &json!({}))).await;
    assert_eq!(answer.body["command_error"]["type"], "BlockDeviceEraseError", "{}", answer.body);
    assert!(answer.body["command_error"]["details"].as_str().unwrap().contains("/dev/vdb"));
    assert_eq!(opened(&rig), ["/dev/vda"]);
}

#[tokio::test]
async fn switching_off_flushes_first() {
    let rig = rig(machine(), settings());
    let answer = in_process(&rig, "standby.power_off", &json!({})).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    assert_eq!(rig.machine.events(), [Event::Synced, Event::Ended(hardware::PowerAction::Off)]);
    rig.machine.inject(Fault::Power);
    let answer = in_process(&rig, "standby.run_image", &json!({})).await;
    assert_eq!(answer.body["command_error"]["type"], "SystemRebootError");
}

#[tokio::test]
async fn boot_entries_that_cannot_be_written_fail_unless_that_is_to_be_ignored() {
    let rig = rig(machine(), settings());
    rig.machine.set_boot_labels(&["debian"]);
    rig.machine.inject(Fault::BootEntries);
    let params = json!({"root_uuid": null, "target_boot_mode": "uefi"});
    let answer = in_process(&rig, "image.install_bootloader", &params).await;
    assert_eq!(answer.body["command_status"], "FAILED");
    let answer = in_process(&rig, "image.install_bootloader", &params).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED");
    assert_eq!(rig.machine.events(), [Event::BootEntries("/dev/vda".to_owned())]);
}

#[tokio::test]
async fn a_machine_without_disks_has_nothing_to_deploy_to() {
    let rig = rig(SimMachine::new(), settings());
    let params = json!({"root_uuid": null});
    let answer = in_process(&rig, "image.install_bootloader", &params).await;
    assert_eq!(answer.body["command_error"]["type"], "DeviceNotFound");
    assert_eq!(answer.body["command_error"]["code"], 404);
}

#[tokio::test]
async fn documents_need_no_token_and_commands_do() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    for path in ["/", "/v1", "/v1/", "/v1/status", "/v1/status/", "/status"] {
        assert_eq!(rest.get(path).await.status, 200, "{path}");
    }
    for odd in ["", "a/../b"] {
        let (status, _, body) = rest.ask(Method::GET, "/v1", &[("host", odd)], "").await;
        let text = String::from_utf8_lossy(&body);
        assert!(status == 200 && text.contains("http://localhost/v1"), "{odd:?}: {status} {text}");
    }
    let root = rest.get("/").await.body;
    assert_eq!(root["default_version"]["id"], "v1");
    assert_eq!(rest.get("/status").await.body["version"], "13.0.0");
    let denied = json!({"faultcode": "Client", "faultstring": "401 Unauthorized: Token invalid."});
    for query in ["", "?agent_token=", "?agent_token=wrong", "?token=x"] {
        for path in ["/v1/commands", "/v1/commands/", "/commands", "/v1/commands/x", "/commands/x/"] {
            let answer = rest.get(&format!("{path}{query}")).await;
            assert_eq!((answer.status, &answer.body), (401, &denied), "{path}{query}");
        }
        let answer = rest.send(Method::POST, &format!("/v1/commands/{query}"), "not json").await;
        assert_eq!(answer.status, 401);
    }
    for path in ["/v1/commands", "/v1/commands/", "/commands/"] {
        assert_eq!(rest.get(&format!("{path}?agent_token={TOKEN}")).await.body, json!({"commands": []}));
    }
}

#[tokio::test]
async fn an_agent_without_a_token_admits_nobody() {
    let rig = rig(machine(), agent::Settings { agent_token: None, ..settings() });
    let rest = Rest::serve(&rig.dispatcher).await;
    for query in ["", "?agent_token=", "?agent_token=None"] {
        assert_eq!(rest.get(&format!("/v1/commands/{query}")).await.status, 401);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_json() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    for path in ["/nonsense", "/v2/", "/v1/commands/a/b", "/V1/", "/v1/status/x"] {
        let answer = rest.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body["faultstring"].as_str().unwrap().starts_with("404 Not Found: "), "{path}");
    }
    for (method, path) in [(Method::POST, "/"), (Method::PUT, "/v1/commands/"), (Method::DELETE, "/v1/status")] {
        let answer = rest.send(method, path, "").await;
        assert_eq!(answer.status, 405, "{path}");
        assert_eq!(answer.body["faultcode"], "Client");
    }
    let answer = rest.get(&format!("/v1/commands/nonsense?agent_token={TOKEN}")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body["faultstring"], "Not found: Command Result with id nonsense not found.");
}

#[tokio::test]
async fn bodies_that_are_no_commands_are_refused() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    let path = format!("/v1/commands/?agent_token={TOKEN}");
    let deep = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    for body in ["", "{", "\u{0}", &deep, &"[".repeat(100_000)] {
        let answer = rest.send(Method::POST, &path, body.to_owned()).await;
        assert_eq!(answer.status, 400);
        let text = answer.body["faultstring"].as_str().unwrap();
        assert!(text.starts_with("400 Bad Request: Failed to decode JSON object: "), "{text}");
        assert_eq!(text.contains("32 levels"), body.len() > 25, "{text}");
    }
    let shapeless = [
        "1",
        "null",
        "[]",
        "\"x\"",
        "{}",
        r#"{"name": "standby.sync"}"#,
        r#"{"params": {}}"#,
        r#"{"name": 1, "params": {}}"#,
        r#"{"name": "standby.sync", "params": []}"#,
    ];
    for body in shapeless {
        let answer = rest.send(Method::POST, &path, body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.body["faultstring"], "400 Bad Request: Missing or invalid name or params", "{body}");
    }
    let answer = rest.send(Method::POST, &path, vec![b' '; agent::api::BODY_LIMIT + 1]).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body["faultstring"].as_str().unwrap().contains("larger than"), "{}", answer.body);
    assert!(rest.list().await.is_empty());
}

#[tokio::test]
async fn a_busy_agent_says_so_before_anything_else_and_by_its_short_name() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    // Ending the machine takes a second, so that the answer can leave.
    let started = rest.command("standby.power_off", json!({}), false).await;
    assert_eq!(started.body["command_status"], "RUNNING", "{}", started.body);
    for name in ["standby.sync", "nonsense.x", "standby.x", "poll.get_hardware_info"] {
        let answer = rest.command(name, json!({}), false).await;
        assert_eq!(answer.status, 409, "{name}");
        assert_eq!(answer.body["faultstring"], "Agent is busy: executing command power_off", "{name}");
    }
    // A name without a dot is noticed before that.
    assert_eq!(rest.command("nodot", json!({}), false).await.status, 400);
    let session = Session::open(&rig.agent, &rig.dispatcher).await;
    for name in ["standby.sync", "nonsense.x", "standby.x", "poll.get_hardware_info"] {
        let answer = session.command(name, &json!({})).await;
        assert_eq!(answer.status, 409, "{name}");
        assert_eq!(answer.body["faultstring"], "Agent is busy: executing command power_off", "{name}");
    }
    assert_eq!(session.command("nodot", &json!({})).await.status, 400);
    let id = started.body["id"].as_str().unwrap();
    let ended = rest.get(&format!("/v1/commands/{id}?wait=TRUE&agent_token={TOKEN}")).await;
    assert_eq!(ended.body["command_status"], "SUCCEEDED");
    assert_eq!(rest.list().await.len(), 1);
    assert_eq!(rest.command("standby.sync", json!({}), false).await.status, 200);
}

#[tokio::test]
async fn logs_hold_what_happened_and_no_token() {
    let rig = rig(machine(), settings());
    let rest = Rest::serve(&rig.dispatcher).await;
    rest.command("standby.sync", json!({}), true).await;
    let answer = rest.command("log.collect_system_logs", json!({}), true).await;
    let packed = answer.body["command_result"]["system_logs"].as_str().unwrap();
    let packed = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, packed).unwrap();
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("\"command_name\": \"sync\""));
    assert!(!text.contains(TOKEN));
}
