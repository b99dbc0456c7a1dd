//! Containers by a podman that only writes down what it was asked, and fails or hangs when a test wants it to.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use agent::container::Host;
use agent::{Agent, Dispatcher, Settings};
use hardware_sim::{Event, SimMachine};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use support::{Rest, TOKEN};
use wire::agent::CommandRequest;

const DISK: u64 = 4 << 30;

/// What podman is in these tests. `calls` of its root gets its arguments; `fail-VERB` holds an exit code and what it says;
/// with `hang` running a container takes for ever, with `fail-late` bootc fails at its end; `installed` is what bootc leaves at the start of the disk; with `gone` nobody
/// can open the disk afterwards.
const PODMAN: &str = r#"#!/usr/bin/env python3
import json, os, sys, time
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0]))))
def note(text):
    with open(root + "/calls", "a") as calls:
        calls.write(text + "\n")
argv = sys.argv[1:]
if argv == ["--version"]:
    print("podman version 0")
    sys.exit(0)
note(json.dumps(argv))
print("podman says", argv[0], flush=True)
for word in argv:
    if word.startswith("--authfile="):
        path = word.split("=", 1)[1]
        note(oct(os.stat(path).st_mode & 0o777) + " " + open(path).read())
    if word.startswith("--root-ssh-authorized-keys="):
        note("keys " + open(word.split("=", 1)[1]).read())
    if word.startswith("--cidfile="):
        open(word.split("=", 1)[1], "w").write("0123abcd")
if argv[0] == "run":
    note("secrets left: %d" % sum(name.startswith("ferric-registry") for name in os.listdir(root + "/run")))
fail = root + "/fail-" + argv[0]
if os.path.exists(fail):
    code, text = open(fail).read().split(" ", 1)
    print(text, file=sys.stderr, flush=True)
    sys.exit(int(code))
if argv[0] == "run" and "bootc" in argv:
    with open(argv[-1], "r+b") as disk:
        note("disk begins with zeros: %s" % (not any(disk.read(1 << 20))))
        disk.seek(0)
        if os.path.exists(root + "/installed"):
            disk.write(open(root + "/installed", "rb").read())
    if os.path.exists(root + "/gone"):
        os.rename(argv[-1], root + "/held")
    if os.path.exists(root + "/fail-late"):
        sys.exit(1)
if argv[0] == "run" and os.path.exists(root + "/hang"):
    open(root + "/hanging", "w").close()
    time.sleep(600)
"#;

struct Lab {
    root: tempfile::TempDir,
    machine: Arc<SimMachine>,
    dispatcher: Arc<Dispatcher>,
    rest: Rest,
}

impl Lab {
    async fn new(settings: Settings) -> Self {
        let root = tempfile::tempdir().unwrap();
        let podman = root.path().join("usr/bin/podman");
        fs::create_dir_all(podman.parent().unwrap()).unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(&podman, PODMAN).unwrap();
        fs::set_permissions(&podman, fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Arc::new(SimMachine::new());
        let disk = root.path().join("disk");
        File::create(&disk).unwrap().set_len(DISK).unwrap();
        File::options().write(true).open(&disk).unwrap().write_all_at(b"somebody's system", 0).unwrap();
        machine.add_file_disk("/dev/vda", disk).unwrap();
        let place = root.path().to_owned();
        let host = tokio::task::spawn_blocking(move || Host::find(&place)).await.unwrap();
        assert!(host.is_some());
        let builder = Agent::builder(Arc::clone(&machine) as _, settings).containers(host);
        let (_, dispatcher): (_, Arc<Dispatcher>) = builder.build().unwrap();
        let rest = Rest::serve(&dispatcher).await;
        Self { root, machine, dispatcher, rest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What podman was asked, with names that are the same in every run.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let root = self.root.path().display().to_string();
        text.lines().map(|line| without_ids(&line.replace(&root, ""))).collect()
    }

    fn head(&self) -> Vec<u8> {
        let mut head = vec![0; 1 << 20];
        File::open(self.path("disk")).unwrap().read_exact_at(&mut head, 0).unwrap();
        head
    }

    fn boots(&self) -> bool {
        self.head().iter().any(|byte| *byte != 0)
    }

    fn left(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(folder));
        entries.map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    }

    async fn bootc(&self, params: Value) -> Value {
        self.rest.command("standby.execute_bootc_install", params, true).await.body
    }

    async fn step(&self, kind: &str, step: &str, args: Value) -> Value {
        let step = json!({"step": step, "interface": "deploy", "args": args});
        let params = json!({"step": step, "node": {"uuid": "n"}, "ports": []});
        self.rest.command(&format!("{kind}.execute_{kind}_step"), params, true).await.body
    }

    async fn steps(&self, kind: &str) -> Value {
        let params = json!({"node": {}, "ports": []});
        self.rest.command(&format!("{kind}.get_{kind}_steps"), params, true).await.body
    }
}

/// A UUID in a name is another in every run.
fn without_ids(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("ferric-") {
        let (before, name) = rest.split_at(at);
        kept.push_str(before);
        let end = name.find(['"', ',', ' ']).unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        let plain: Vec<&str> = name.split('-').take(2).collect();
        kept.push_str(&plain.join("-"));
        kept.push_str("-ID");
        rest = after;
    }
    kept + rest
}

/// The start of a disk with one partition and boot code.
fn installed() -> Vec<u8> {
    let mut head = vec![0; 1 << 20];
    head[0] = 0xeb;
    head[446 + 4] = 0x83;
    head[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    head[446 + 12..446 + 16].copy_from_slice(&8192_u32.to_le_bytes());
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    head
}

fn error(body: &Value) -> (&str, &str) {
    let error = &body["command_error"];
    (error["type"].as_str().unwrap_or_default(), error["details"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn bootc_installs_the_image_with_the_nodes_options_and_the_secret_is_gone_before_it_runs() {
    let lab = Lab::new(support::settings()).await;
    lab.put("installed", installed());
    let info = json!({"bootc_authorized_keys": "ssh-ed25519 AAAA", "bootc_tpm2_luks": true});
    // base64 of what containers-auth.json(5) calls auth.
    let params = json!({"image_source": "oci://quay.io/a/b:1", "instance_info": info, "pull_secret": "ZFhObGNqcHdZWE56ZDI5eVpBPT0="});
    let done = lab.bootc(params).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    assert_eq!(
        done["command_result"]["result"],
        "execute_bootc_install: Container image (oci://quay.io/a/b:1) written to device /dev/vda"
    );
    insta::assert_snapshot!(lab.calls().join("\n"));
    assert!(lab.head() == installed());
    assert_eq!(lab.left("run"), Vec::<PathBuf>::new());
    assert_eq!(lab.left("tmp"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn the_step_installs_too_and_puts_the_config_drive_behind_the_system() {
    use base64::Engine as _;
    let lab = Lab::new(support::settings()).await;
    lab.put("installed", installed());
    let mut drive = vec![0; 64 << 10];
    drive[32769..32774].copy_from_slice(b"CD001");
    let drive = base64::engine::general_purpose::STANDARD.encode(drive);
    let args = json!({"image_source": "docker://quay.io/a", "configdrive": drive, "oci_pull_secret": null});
    let done = lab.step("deploy", "execute_bootc_install", args).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    let head = lab.head();
    assert_eq!((head[0], head[446 + 4], head[446 + 16 + 4]), (0xeb, 0x83, 0x0c));
    let steps = lab.steps("deploy").await["command_result"]["deploy_steps"]["GenericHardwareManager"].to_string();
    assert!(steps.contains("execute_bootc_install"), "{steps}");
}

#[tokio::test]
async fn whatever_fails_the_disk_does_not_boot_and_the_error_is_the_protocols() {
    let cases = [
        (
            "fail-run",
            "125 Error: no space left on device",
            "ImageWriteError",
            "failed with exit code 125. output: podman says run\nError: no space",
        ),
        (
            "fail-run",
            "127 Error: executable file `bootc` not found in $PATH",
            "ImageDownloadError",
            "Container does not contain the required bootc binary",
        ),
        // bootc that says nothing and makes nothing.
        ("nothing", "", "DeploymentError", "the image has no partition table"),
    ];
    for (file, text, class, details) in cases {
        let lab = Lab::new(support::settings()).await;
        lab.put(file, text);
        let done = lab.bootc(json!({"image_source": "oci://quay.io/a"})).await;
        let (found, told) = error(&done);
        assert_eq!(found, class, "{done}");
        assert!(told.contains(details) && told.contains("without a partition table"), "{told}");
        assert!(!lab.boots(), "{class}");
        assert_eq!(lab.left("run"), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn what_is_refused_before_the_image_is_there_touches_nothing() {
    let lab = Lab::new(support::settings()).await;
    lab.put("fail-pull", "125 Error: unauthorized");
    let done =
        lab.bootc(json!({"image_source": "oci://quay.io/a", "pull_secret": "ZFhObGNqcHdZWE56ZDI5eVpBPT0="})).await;
    let (class, details) = error(&done);
    assert_eq!(class, "ImageDownloadError");
    assert!(details.starts_with("Download of image quay.io/a failed: Failed to pull container image: "), "{details}");
    assert!(details.contains("unauthorized"), "{details}");
    assert_eq!(lab.left("run"), Vec::<PathBuf>::new());
    for params in [
        json!({"image_source": "oci://--tls-verify=false"}),
        json!({"image_source": "oci://quay.io/a", "pull_secret": "canary!"}),
        json!({"image_source": "oci://quay.io/a", "instance_info": {"bootc_tpm2_luks": 7}}),
    ] {
        let answer = lab.rest.command("standby.execute_bootc_install", params.clone(), true).await.body.to_string();
        assert!(answer.contains("Invalid command parameters") && !answer.contains("canary"), "{params}: {answer}");
    }
    assert!(lab.head().starts_with(b"somebody's system"));
    assert!(lab.machine.events().is_empty());
    let lab = Lab::new(Settings { disable_bootc_deploy: true, ..support::settings() }).await;
    let done = lab.bootc(json!({"image_source": "oci://quay.io/a"})).await;
    assert_eq!(error(&done).0, "CommandExecutionError");
    assert!(error(&done).1.contains("administratively disable"), "{done}");
    assert_eq!(lab.calls(), Vec::<String>::new());
}

/// An installation that is stopped when bootc has written its table.
async fn stopped_installation(lab: &Lab) -> Value {
    lab.put("installed", installed());
    lab.put("hang", "");
    let begun =
        lab.rest.command("standby.execute_bootc_install", json!({"image_source": "oci://quay.io/a"}), false).await;
    let id = begun.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/commands/{id}?agent_token={TOKEN}");
    while !lab.path("hanging").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(lab.boots());
    lab.rest.send(http::Method::DELETE, &path, "").await;
    lab.rest.get(&format!("{path}&wait=true")).await.body
}

#[tokio::test]
async fn a_stopped_installation_removes_the_container_and_clears_the_disk() {
    let lab = Lab::new(support::settings()).await;
    let done = stopped_installation(&lab).await;
    let (class, details) = error(&done);
    assert_eq!(class, "CommandCancelled", "{done}");
    assert!(details.contains("without a partition table"), "{details}");
    assert!(!lab.boots());
    assert_eq!(lab.calls().last().unwrap(), r#"["rm", "--force", "--ignore", "0123abcd"]"#);
}

/// What is said of a disk that may hold anything.
const UNKNOWN: &str = "treat what is on it as unverified";

#[tokio::test]
async fn nothing_is_promised_of_a_disk_whose_container_may_still_run() {
    let lab = Lab::new(support::settings()).await;
    lab.put("fail-rm", "125 Error: given up waiting for the container");
    let done = stopped_installation(&lab).await;
    let told = |done: &Value, wanted: &str| {
        let (class, details) = error(done);
        assert_eq!(class, wanted, "{done}");
        for words in [UNKNOWN, "the container may still run", "given up waiting for the container"] {
            assert!(details.contains(words), "{details}");
        }
        assert!(!details.contains("without a partition table"), "{details}");
    };
    told(&done, "CommandCancelled");
    // It is cleared all the same.
    assert!(!lab.boots());
    lab.put("fail-run", "125 Error: no space left on device");
    told(&lab.bootc(json!({"image_source": "oci://quay.io/a"})).await, "ImageWriteError");
}

#[tokio::test(start_paused = true)]
async fn of_a_disk_that_stays_busy_after_the_installation_nothing_is_known() {
    for (file, text, class) in [("nothing", "", "DeploymentError"), ("fail-late", "", "ImageWriteError")] {
        let lab = Lab::new(support::settings()).await;
        lab.put("installed", installed());
        lab.put("gone", "");
        lab.put(file, text);
        // Not by HTTP: time that is not real passes while a connection waits.
        let params = json!({"image_source": "oci://quay.io/a"}).as_object().cloned().unwrap();
        let request = CommandRequest { name: "standby.execute_bootc_install".to_owned(), params };
        let record = lab.dispatcher.submit(request).await.unwrap();
        record.wait().await;
        let done = serde_json::to_value(record.to_result()).unwrap();
        let (found, details) = error(&done);
        assert_eq!(found, class, "{done}");
        assert!(details.contains(UNKNOWN), "{details}");
        // What the container left on the disk is taken away, since it may be a volume that holds it.
        assert!(lab.machine.events().contains(&Event::Released("/dev/vda".to_owned())));
    }
}

#[tokio::test]
async fn a_disk_that_somebody_holds_before_the_installation_is_as_it_was() {
    let lab = Lab::new(support::settings()).await;
    fs::rename(lab.path("disk"), lab.path("held")).unwrap();
    let done = lab.bootc(json!({"image_source": "oci://quay.io/a"})).await;
    let (class, details) = error(&done);
    assert_eq!(class, "ImageWriteError", "{done}");
    assert!(details.contains("nothing was written to it"), "{details}");
    assert!(!lab.machine.events().contains(&Event::Released("/dev/vda".to_owned())));
}

fn policy(told: Value) -> Settings {
    let mut settings = support::settings();
    settings.adopt(&serde_json::from_value(json!({"agent_containers": told})).unwrap());
    settings
}

#[tokio::test]
async fn only_allowed_images_run_and_only_with_the_configured_options() {
    let told = json!({
        "allowed_containers": ["docker://quay.io/check@sha256:00"],
        "pull_options": ["--tls-verify=false"], "run_options": ["--rm --network=host"],
    });
    let lab = Lab::new(policy(told)).await;
    let hostile = json!({"container_url": "quay.io/other", "run_options": "--privileged -v /:/host"});
    let done = lab.step("clean", "generic_container_step", hostile).await;
    let (class, details) = error(&done);
    assert_eq!(class, "ContainerNotPermittedError");
    insta::assert_snapshot!(details, @"Container image quay.io/other is not in [container]allowed_containers and [container]allow_arbitrary_containers is not enabled.");
    // A transport that is no registry names another image.
    let local = json!({"container_url": "containers-storage:quay.io/check@sha256:00"});
    assert_eq!(error(&lab.step("clean", "generic_container_step", local).await).0, "ContainerNotPermittedError");
    assert_eq!(lab.calls(), Vec::<String>::new());
    let allowed = json!({"container_url": "oci://quay.io/check@sha256:00", "run_options": ["--privileged"]});
    let done = lab.step("clean", "container_clean_step", allowed).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    assert_eq!(done["command_result"]["clean_result"], Value::Null);
    assert_eq!(
        lab.calls()[..2],
        [
            r#"["pull", "--tls-verify=false", "oci://quay.io/check@sha256:00"]"#,
            r#"["run", "--cidfile=/run/ferric-container-ID", "--rm", "--network=host", "oci://quay.io/check@sha256:00"]"#,
        ]
    );
}

#[tokio::test]
async fn who_allows_any_container_allows_any_option_of_the_right_type() {
    let lab = Lab::new(policy(json!({"allow_arbitrary_containers": true}))).await;
    let args = json!({"container_url": "quay.io/x", "run_options": ["--rm -v /dev:/dev", "--privileged"]});
    assert_eq!(lab.step("service", "generic_container_step", args).await["command_status"], "SUCCEEDED");
    assert!(lab.calls()[1].contains(r#""--rm", "-v", "/dev:/dev", "--privileged", "quay.io/x""#), "{:?}", lab.calls());
    for (args, words) in [
        (json!({"container_url": "quay.io/x", "run_options": 5}), "run_options must be"),
        (json!({"container_url": 5}), "container_url must be"),
        (json!({"container_url": "-v"}), "no name of a container image"),
        (json!({}), "missing 1 required positional argument: 'container_url'"),
        (json!({"container_url": "x", "trusted": true}), "unexpected keyword argument 'trusted'"),
    ] {
        let answer = lab.step("clean", "generic_container_step", args.clone()).await;
        assert!(answer.to_string().contains(words), "{args}: {answer}");
    }
    lab.put("fail-run", "1 the check found a fault");
    let done = lab.step("clean", "generic_container_step", json!({"container_url": "quay.io/x"})).await;
    let (class, details) = error(&done);
    assert_eq!(class, "CleaningError");
    assert!(
        details.contains("podman run failed with exit code 1") && details.contains("the check found a fault"),
        "{details}"
    );
    lab.put("fail-rm", "125 Error: given up waiting for the container");
    let done = lab.step("clean", "generic_container_step", json!({"container_url": "quay.io/x"})).await;
    let (class, details) = error(&done);
    assert_eq!(class, "CleaningError");
    for words in ["the container may still run", "given up waiting", "the check found a fault"] {
        assert!(details.contains(words), "{details}");
    }
    let lab = Lab::new(policy(json!({"allow_arbitrary_containers": true, "runner": "docker"}))).await;
    let done = lab.step("clean", "generic_container_step", json!({"container_url": "quay.io/x"})).await;
    assert_eq!(error(&done).0, "HardwareManagerConfigurationError");
    assert!(error(&done).1.starts_with("Configured container runner 'docker'"), "{done}");
}

const STEPS: &str = "steps:
  - name: check_cables
    image: quay.io/cables:1
    interface: deploy
    reboot_requested: false
    abortable: true
    priority: 20
    run_options: --rm --privileged
";

#[tokio::test]
async fn steps_of_the_ramdisks_file_are_offered_and_run_without_permission() {
    let lab = Lab::new(support::settings()).await;
    lab.put("etc/ironic-python-agent.d/mysteps.yaml", STEPS);
    let listed = lab.steps("clean").await["command_result"].clone();
    assert_eq!(listed["hardware_manager_version"]["ContainerHardwareManager"], "2");
    insta::assert_json_snapshot!(listed["clean_steps"]["ContainerHardwareManager"]);
    let deploy = lab.steps("deploy").await["command_result"]["deploy_steps"]["ContainerHardwareManager"].clone();
    let own = deploy.as_array().unwrap().iter().find(|step| step["step"] == "check_cables").unwrap();
    assert_eq!(own["priority"], 0);
    let done = lab.step("clean", "check_cables", json!({})).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
    assert_eq!(lab.calls()[0], r#"["pull", "quay.io/cables:1"]"#);
    assert!(lab.calls()[1].ends_with(r#""--rm", "--privileged", "quay.io/cables:1"]"#), "{:?}", lab.calls());
}

#[tokio::test]
async fn a_file_of_steps_that_cannot_be_used_is_an_error_of_the_list_and_of_no_other_step() {
    let lab = Lab::new(support::settings()).await;
    for (text, words) in [
        (STEPS.replace("check_cables", "erase_devices"), "collides with an existing hardware manager method"),
        (STEPS.replace("check_cables", "burnin_cpu"), "collides with an existing hardware manager method"),
        (STEPS.replace("    priority: 20\n", ""), "missing the required 'priority' key"),
        ("steps: {".to_owned(), "Could not read container steps from"),
    ] {
        lab.put("etc/ironic-python-agent.d/mysteps.yaml", text);
        let answer = lab.steps("clean").await;
        let (class, details) = error(&answer);
        assert_eq!(class, "HardwareManagerConfigurationError", "{answer}");
        assert!(details.contains(words), "{details}");
    }
    let done = lab.step("clean", "erase_pstore", json!({})).await;
    assert_eq!(done["command_status"], "SUCCEEDED", "{done}");
}

#[tokio::test]
async fn a_podman_that_does_not_run_is_no_podman() {
    let root = tempfile::tempdir().unwrap();
    let podman = root.path().join("usr/bin/podman");
    fs::create_dir_all(podman.parent().unwrap()).unwrap();
    fs::write(&podman, "#!/does/not/exist\n").unwrap();
    fs::set_permissions(&podman, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(find(root.path()).await.is_none());
    assert!(find(Path::new("/does/not/exist")).await.is_none());
}

async fn find(root: &Path) -> Option<Host> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || Host::find(&root)).await.unwrap()
}
