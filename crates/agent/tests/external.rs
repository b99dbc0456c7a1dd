//! Executable hardware managers, good and bad ones, through the agent's commands. Python stands for any language here.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use agent::external::{self, check};
use agent::{Agent, Dispatcher};
use hardware_sim::SimMachine;
use serde_json::{Map, Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Rest;

/// A folder of managers.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn add(&self, name: &str, program: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A manager of this name whose step `work` runs `body`; there, `say(…)` answers and `params` are its params.
    fn add_working(&self, name: &str, deadline: u64, body: &str) -> PathBuf {
        let indented: String = body.lines().map(|line| format!("    {line}\n")).collect();
        self.add(
            name,
            &format!(
                r#"#!/usr/bin/env python3
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
params = request["params"]
def say(**answer): print(json.dumps({{"id": request["id"], **answer}}), flush=True)
if request["method"] == "describe":
    work = {{"step": "work", "interface": "vendor", "deadline": {deadline}}}
    say(result={{"name": "{name}", "version": "1", "support": 3, "steps": {{"clean": [work]}}}})
elif request["method"] != "run":
    say(error={{"details": "method not known"}})
elif params["step"]["step"] != "work":
    say(error={{"class": "IncompatibleHardwareMethodError", "details": "not mine"}})
else:
{indented}"#
            ),
        )
    }

    async fn rest(&self) -> Rest {
        let folder = self.path().to_owned();
        let managers = tokio::task::spawn_blocking(move || external::load(&folder)).await.unwrap();
        let machine = Arc::new(SimMachine::new());
        let builder = Agent::builder(machine, support::settings()).executables(managers);
        let (_, dispatcher): (_, Arc<Dispatcher>) = builder.build().unwrap();
        Rest::serve(&dispatcher).await
    }
}

async fn clean_steps(rest: &Rest) -> Value {
    let listed = rest.command("clean.get_clean_steps", json!({"node": {}, "ports": []}), true).await.body;
    listed["command_result"].clone()
}

async fn execute(rest: &Rest, step: &str, args: Value) -> Value {
    let step = json!({"interface": "vendor", "step": step, "args": args});
    let params = json!({"step": step, "node": {"uuid": "n1"}, "ports": [{"address": "52:54:00:00:00:01"}]});
    rest.command("clean.execute_clean_step", params, true).await.body
}

/// The step of a manager with this body fails; the class and the details.
async fn failure(deadline: u64, body: &str) -> (String, String) {
    let folder = Folder::new();
    folder.add_working("bad", deadline, body);
    let done = execute(&folder.rest().await, "work", json!({})).await;
    assert_eq!(done["command_status"], "FAILED", "{done}");
    let error = &done["command_error"];
    (error["type"].as_str().unwrap().to_owned(), error["details"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_step_gets_its_params_and_nothing_else_and_its_result_comes_back() {
    let folder = Folder::new();
    folder.add_working(
        "good",
        60,
        "say(progress={'stage': 'work', 'done': 1, 'total': 2})\n\
         say(result={'params': params, 'environment': dict(os.environ), 'folder': os.getcwd(), 'argv': len(sys.argv)})",
    );
    let rest = folder.rest().await;
    let list = clean_steps(&rest).await;
    assert_eq!(list["hardware_manager_version"]["good"], "1");
    assert_eq!(
        list["clean_steps"]["good"],
        json!([{"interface": "vendor", "step": "work", "priority": 0, "abortable": false, "reboot_requested": false}])
    );
    let done = execute(&rest, "work", json!({"level": 5})).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    let result = &done["command_result"]["clean_result"];
    assert_eq!(result["params"]["kind"], "clean");
    assert_eq!(result["params"]["step"]["args"], json!({"level": 5}));
    assert_eq!(result["params"]["node"], json!({"uuid": "n1"}));
    assert_eq!(result["params"]["ports"][0]["address"], "52:54:00:00:00:01");
    let environment = result["environment"].as_object().unwrap();
    // Python adds LC_CTYPE itself (PEP 538).
    let names: Vec<&String> = environment.keys().filter(|name| *name != "LC_CTYPE").collect();
    assert_eq!(names, ["PATH"]);
    assert_eq!((&result["folder"], &result["argv"]), (&json!("/"), &json!(1)));
}

#[tokio::test]
async fn errors_keep_their_class_and_unknown_ones_are_the_steps_failure() {
    let (class, details) =
        failure(60, "say(error={'class': 'ProtectedDeviceError', 'details': 'sda is in use'})").await;
    assert_eq!((class.as_str(), details.as_str()), ("ProtectedDeviceError", "sda is in use"));
    let (class, details) = failure(60, "say(error={'class': 'NicOnFire', 'details': 'it burns'})").await;
    assert_eq!((class.as_str(), details.as_str()), ("CleaningError", "it burns"));
    let (class, _) = failure(60, "say(error={'class': 'IncompatibleHardwareMethodError', 'details': 'no card'})").await;
    assert_eq!(class, "HardwareManagerMethodNotFound");
}

#[tokio::test]
async fn a_manager_that_hangs_is_killed_at_its_deadline() {
    let started = Instant::now();
    let (class, details) = failure(1, "time.sleep(120)").await;
    assert_eq!(class, "CleaningError");
    assert!(details.contains("did not end within 1 s and was killed"), "{details}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_step_that_is_cancelled_is_asked_to_stop_at_its_next_safe_point() {
    let folder = Folder::new();
    let (begun, safe) = (folder.path().join("begun"), folder.path().join("safe"));
    folder.add_working(
        "slow",
        120,
        &format!(
            "def stop(*_):\n    open({safe:?}, 'w').close()\n    os._exit(0)\nsignal.signal(signal.SIGTERM, stop)\n\
             open({begun:?}, 'w').close()\nwhile True: signal.pause()"
        ),
    );
    let rest = folder.rest().await;
    let step = json!({"interface": "vendor", "step": "work"});
    let params = json!({"step": step, "node": {}, "ports": []});
    let id = rest.command("clean.execute_clean_step", params, false).await.body["id"].as_str().unwrap().to_owned();
    let started = Instant::now();
    while !begun.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "the step has not begun");
        tokio::task::yield_now().await;
    }
    let path = format!("/v1/commands/{id}?agent_token={}", support::TOKEN);
    rest.send(http::Method::DELETE, &path, "").await;
    let ended = rest.get(&format!("{path}&wait=true")).await.body;
    assert_eq!(ended["command_status"], "FAILED", "{ended}");
    assert_eq!(ended["command_error"]["type"], "CommandCancelled", "{ended}");
    assert!(safe.exists(), "it was not asked");
}

#[tokio::test]
async fn a_manager_that_floods_is_killed() {
    let (_, details) = failure(120, "while True: os.write(1, b'x' * 65536)").await;
    assert!(details.contains("wrote a line of more than 1048576 bytes"), "{details}");
    let (_, details) = failure(120, "while True: say(progress={'stage': 'x', 'done': 1})").await;
    assert!(details.contains("100000 are the most"), "{details}");
}

#[tokio::test]
async fn a_manager_that_talks_nonsense_fails_its_step() {
    let (_, details) = failure(60, "print('flashing, please wait', flush=True)\ntime.sleep(120)").await;
    assert!(details.contains("wrote a line that is not a JSON object"), "{details}");
    let (_, details) = failure(60, "print(json.dumps({'id': 0, 'result': 'stale'}), flush=True)").await;
    assert!(details.contains("answers request 0"), "{details}");
    let (_, details) = failure(60, "say(progress={'stage': 'work', 'done': 1})\nsys.exit('no card found')").await;
    assert!(details.contains("exit status: 1") && details.contains("no card found"), "{details}");
    let (_, details) = failure(60, "os.kill(os.getpid(), signal.SIGSEGV)").await;
    assert!(details.contains("signal: 11"), "{details}");
}

#[tokio::test]
async fn bad_managers_hide_no_good_one() {
    let folder = Folder::new();
    folder.add("a-crashes", "#!/usr/bin/env python3\nraise SystemExit('broken')\n");
    folder.add("b-not-a-program", "\u{7f}ELF? no\n");
    folder.add("c-answers-nonsense", "#!/usr/bin/env python3\nprint('hello')\n");
    folder.add_working("good", 60, "say(result=1)");
    // The same name from another file: which of the two would a version speak of?
    folder.add_working("good2", 60, "say(result=2)");
    let twin = std::fs::read_to_string(folder.path().join("good2")).unwrap().replace("\"good2\"", "\"good\"");
    std::fs::write(folder.path().join("good2"), twin).unwrap();
    std::fs::write(folder.path().join("README"), "not executable").unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let rest = folder.rest().await;
    let list = clean_steps(&rest).await;
    let versions: Vec<&String> = list["hardware_manager_version"].as_object().unwrap().keys().collect();
    assert_eq!(versions, ["generic_hardware_manager", "good"]);
    assert_eq!(execute(&rest, "work", json!({})).await["command_result"]["clean_result"], 1);
    assert!(external::load(Path::new("/does/not/exist")).is_empty());
}

/// The program of the page for vendors.
fn example() -> String {
    let page = include_str!("../../../docs/hardware-managers.md");
    let (_, rest) = page.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn trial(args: Value) -> check::Trial {
    let args: Map<String, Value> = serde_json::from_value(args).unwrap();
    let step = "update_nic_firmware".to_owned();
    check::Trial { kind: hardware::StepKind::Clean, step, args, node: json!({}) }
}

#[test]
fn the_example_of_the_page_keeps_the_contract_and_its_step_runs() {
    let folder = Folder::new();
    let program = folder.add("acme-nic", &example());
    let report = check::check(&program, Some(trial(json!({"version": "22.31"}))));
    assert_eq!(report.broken, 0, "{}", report.text);
    insta::assert_snapshot!(report.text);
    let report = check::check(&program, Some(trial(json!({}))));
    assert_eq!(report.broken, 1, "{}", report.text);
}

#[test]
fn the_contract_test_names_every_point_that_is_broken() {
    let folder = Folder::new();
    let careless = example()
        .replace("elif request[\"method\"] != \"run\"", "elif False")
        .replace("elif params[\"step\"][\"step\"] != \"update_nic_firmware\"", "elif False")
        .replace("\"version\": \"1.4\"", "\"version\": str(__import__('time').monotonic_ns())");
    let program = folder.add("careless", &careless);
    let report = check::check(&program, None);
    let broken: Vec<&str> = report.text.lines().filter(|line| line.starts_with("BROKEN")).collect();
    assert_eq!((report.broken, broken.len()), (3, 3), "{}", report.text);
    let missing = check::check(Path::new("/does/not/exist"), None);
    assert_eq!(missing.broken, 1);
    let silent = folder.add("silent", "#!/usr/bin/env python3\n");
    assert_eq!(check::check(&silent, None).broken, 1);
}
