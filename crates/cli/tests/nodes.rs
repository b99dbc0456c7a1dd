//! The built program against a service that answers as Ironic was recorded to: what it asks, what it says, how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

mod service;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use service::{Asked, NODE, Service, ferric, json, node, recorded, said};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A site with one node, `node-1`, in this state, which was inspected.
fn site(fields: Value) -> impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static {
    move |asked: &Asked| {
        let by_node = |part: &str| format!("/v1/nodes/{NODE}{part}");
        match (asked.method.clone(), asked.path()) {
            (Method::GET, "/v1/nodes") => json(&json!({"nodes": [node(fields.clone())]})),
            (Method::GET, "/v1/nodes/node-1") => json(&node(fields.clone())),
            (Method::GET, "/v1/drivers") => recorded("drivers", "drivers at 1.115"),
            (Method::GET, "/v1/ports") => recorded("ports", "in detail"),
            (Method::GET, path) if path == by_node("") => json(&node(fields.clone())),
            (Method::GET, path) if path == by_node("/inventory") => recorded("continue_inspection", "what was found"),
            (Method::PATCH, path) if path == by_node("") => json(&node(fields.clone())),
            (Method::PUT, path) if path == by_node("/states/provision") => recorded("provision", "manage"),
            (Method::PUT, path) if path == by_node("/states/power") => recorded("provision", "manage"),
            (Method::DELETE, path) if path == by_node("") => recorded("deletion", "delete a node"),
            (Method::POST, "/v1/nodes") => recorded("nodes", "create"),
            (Method::POST, "/v1/ports") => recorded("ports", "the address is taken"),
            (Method::GET, path) if path.starts_with("/v1/nodes/") && path.matches('/').count() == 3 => {
                recorded("errors", "no such name")
            }
            _ => recorded("errors", "no such path"),
        }
    }
}

fn requests(service: &Service) -> Vec<String> {
    service.asked().iter().map(|asked| format!("{} {}", asked.method, asked.path())).collect()
}

const IMAGE: [&str; 4] = ["--image", "http://images/debian.raw", "--checksum", "http://images/SHA256SUMS"];

#[test]
fn a_dry_run_of_whatever_destroys_sends_nothing_but_get() {
    let deploy = [&["deploy", "node-1"][..], &IMAGE].concat();
    let rebuild = [&["rebuild", "node-1"][..], &IMAGE, &["--root-device", "size=>= 4", "--hostname", "web"]].concat();
    for (state, arguments) in [
        ("available", &deploy[..]),
        ("active", &rebuild),
        ("active", &["undeploy", "node-1"]),
        ("manageable", &["provide", "node-1"]),
        ("manageable", &["clean", "node-1", "--step", "erase_devices"]),
        ("active", &["service", "node-1", "--step", "erase_devices_metadata", "--no-ramdisk"]),
        ("active", &["service", "node-1", "--runbook", "CUSTOM_FLASH"]),
        ("active", &["rescue", "node-1"]),
        ("active", &["power", "off", "node-1"]),
        ("clean wait", &["power", "reboot", "node-1"]),
        ("available", &["power", "soft-off", "node-1"]),
        ("available", &["power", "on", "node-1"]),
        ("clean wait", &["abort", "node-1"]),
        ("cleaning", &["break-out", "node-1"]),
        ("manageable", &["delete", "node-1"]),
        ("manageable", &["enroll", "new-1", "--driver", "fake-hardware", "--port", "52:54:00:00:00:09", "--provide"]),
    ] {
        let service = Service::start(site(json!({"provision_state": state})));
        for (dry, more) in [(true, &["--dry-run"][..]), (true, &["-n", "--yes", "-o", "json"]), (false, &["--yes"])] {
            if !dry && matches!(arguments[0], "rescue" | "enroll") {
                continue;
            }
            let before = service.asked().len();
            let (code, out, err) = service.run(&[arguments, more].concat());
            assert_eq!(code, Some(0), "{arguments:?} {more:?}: {err}");
            let sent = service.asked().split_off(before);
            let changing = sent.iter().any(|asked| asked.method != Method::GET);
            assert_eq!(changing, !dry, "{arguments:?} {more:?} sent {sent:?}");
            assert_eq!(out.contains("dry run") || out.contains("dry_run"), dry, "{out}");
        }
    }
}

#[test]
fn a_dry_run_names_the_disks_of_the_inventory() {
    let service = Service::start(site(json!({"provision_state": "active", "deploy_interface": "direct"})));
    let (_, text, _) = service.run(&["undeploy", "node-1", "--dry-run"]);
    let (_, json, _) = service.run(&["undeploy", "node-1", "--dry-run", "-o", "json"]);
    insta::assert_snapshot!(format!("{text}\n{json}"));
}

#[test]
fn where_nobody_can_be_asked_nothing_is_done() {
    let service = Service::start(site(json!({"provision_state": "active"})));
    for arguments in [
        &["undeploy", "node-1"][..],
        &["service", "node-1", "--step", "erase_devices"],
        &["power", "off", "node-1"],
        &["power", "soft-reboot", "node-1"],
    ] {
        let (code, _, err) = service.run(arguments);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("--yes"), "{err}");
    }
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
    let service = Service::start(site(json!({"provision_state": "manageable"})));
    let (code, _, err) = service.run(&["delete", "node-1"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
    for (state, verb) in [("deploying", "break-out"), ("wait call-back", "abort")] {
        let service = Service::start(site(json!({"provision_state": state})));
        let (code, _, err) = service.run(&[verb, "node-1"]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("ends work in the middle") && err.contains("--yes"), "{err}");
        assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
    }
    // Where nothing runs, nobody is asked.
    for (power, state, word) in [("power on", "available", "off"), ("power off", "active", "on")] {
        let service = Service::start(site(json!({"provision_state": state, "power_state": power})));
        let (code, _, err) = service.run(&["power", word, "node-1"]);
        assert_eq!(code, Some(0), "{err}");
        assert!(requests(&service).contains(&format!("PUT /v1/nodes/{NODE}/states/power")));
    }
}

#[test]
fn a_request_that_is_refused_leaves_no_settings_behind() {
    let deploy = [&["deploy", "node-1", "--yes", "--root-device", "serial=A"][..], &IMAGE].concat();
    // Too early: it is known before anything is sent.
    let service = Service::start(site(json!({"provision_state": "manageable"})));
    let (code, _, err) = service.run(&deploy);
    assert_eq!(code, Some(11), "{err}");
    assert!(err.contains("first `ferric provide node-1 --watch`"), "{err}");
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET), "{:?}", requests(&service));

    // Refused for another reason: what was set for it is taken back.
    let before = json!({"image_source": "http://images/old.raw", "image_checksum": "http://images/OLD"});
    let usual = site(json!({"provision_state": "available", "instance_info": before, "properties": {}}));
    let service = Service::start(move |asked: &Asked| match asked.method {
        Method::PUT => recorded("provision", "provide while enroll"),
        _ => usual(asked),
    });
    let (code, _, err) = service.run(&deploy);
    assert_eq!(code, Some(11), "{err}");
    let changes: Vec<Asked> = service.asked().into_iter().filter(|asked| asked.method != Method::GET).collect();
    let methods: Vec<&Method> = changes.iter().map(|asked| &asked.method).collect();
    assert_eq!(methods, [Method::PATCH, Method::PUT, Method::PATCH]);
    assert_eq!(
        changes[2].body,
        json!([
            {"op": "add", "path": "/instance_info/image_checksum", "value": "http://images/OLD"},
            {"op": "add", "path": "/instance_info/image_source", "value": "http://images/old.raw"},
            {"op": "remove", "path": "/properties/root_device"},
        ])
    );
}

#[test]
fn one_node_that_is_not_there_keeps_the_others_untouched() {
    let service = Service::start(site(json!({"provision_state": "manageable"})));
    let (code, _, err) = service.run(&["inspect", "node-1", "node-2", "nobody"]);
    assert_eq!(code, Some(10));
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
    insta::assert_snapshot!(err);
}

/// What goes wrong, and how it is told.
fn told(what: &str, arguments: &[&str], answer: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static) -> String {
    let service = Service::start(answer);
    let (code, out, err) = service.run(arguments);
    format!("== {what}: ferric {}\n{out}{err}[{}]\n\n", arguments.join(" "), code.unwrap())
}

#[test]
fn errors_name_the_input_the_reason_and_the_remedy() {
    let status = |code: u16, text: &'static str| {
        move |_: &Asked| Response::builder().status(code).body(Body::from(text)).unwrap()
    };
    let refusing = |file: &'static str, name: &'static str, state: &'static str| {
        let usual = site(json!({"provision_state": state}));
        move |asked: &Asked| if asked.method == Method::PUT { recorded(file, name) } else { usual(asked) }
    };
    let manageable = || site(json!({"provision_state": "manageable"}));
    let mut said_of = String::new();
    said_of += &told("no such node", &["node", "show", "node-2"], manageable());
    said_of += &told("an impossible name", &["node", "show", "a b"], |asked: &Asked| match asked.path() {
        "/v1/nodes" => json(&json!({"nodes": []})),
        _ => recorded("errors", "an impossible name"),
    });
    said_of += &told(
        "the wrong state",
        &["provide", "node-1", "--yes"],
        refusing("provision", "provide while enroll", "enroll"),
    );
    said_of += &told("a lock", &["power", "on", "node-1"], refusing("locked", "power", "inspecting"));
    said_of += &told("Ferric's own: why", &["node", "why", "node-1"], manageable());
    said_of += &told("Ferric's own: logs", &["node", "logs", "node-1", "-f"], manageable());
    said_of += &told("Ferric's own: erasures", &["node", "erasures", "node-1"], manageable());
    said_of += &told("Ferric's own: the key", &["erasures", "key"], manageable());
    said_of += &told("Ferric's own, of nobody", &["node", "why", "node-2"], manageable());
    said_of += &told("no password", &["node", "list"], status(401, "Authorization required"));
    said_of += &told("forbidden", &["delete", "node-1", "--yes"], {
        let usual = manageable();
        move |asked: &Asked| if asked.method == Method::DELETE { status(403, "no")(asked) } else { usual(asked) }
    });
    said_of += &told("a web server", &["node", "list"], status(200, "<html>It works!</html>"));
    said_of += &told("a redirect", &["node", "list"], status(302, ""));
    said_of += &told("a broken service", &["node", "list"], status(500, "Internal Server Error"));
    said_of += &told("a list without its list", &["node", "list"], status(200, "{}"));
    said_of += &told("json", &["node", "show", "node-2", "-o", "json"], manageable());
    said_of += &told("yaml", &["node", "show", "node-2", "-o", "yaml"], manageable());
    insta::assert_snapshot!(said_of);
}

#[test]
fn a_service_that_is_not_there_is_named_with_who_named_it() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let mut told = String::new();
    for (variable, flags) in [("FERRIC_URL", &[][..]), ("OS_ENDPOINT", &[]), ("X", &["--url", url.as_str()])] {
        let output = ferric(&[&["node", "list"], flags].concat()).env(variable, &url).output().unwrap();
        let (code, _, err) = said(&output, &url);
        told += &format!("{err}[{}]\n", code.unwrap());
    }
    insta::assert_snapshot!(told);
}

#[test]
fn the_highest_version_that_both_know_is_spoken() {
    let service = Service::start(|asked: &Asked| {
        let version: u16 = asked.header("x-openstack-ironic-api-version").unwrap()[2..].parse().unwrap();
        if version > 80 {
            let mut reply = recorded("versions", "version '1.116'");
            reply.headers_mut().insert("x-openstack-ironic-api-maximum-version", "1.80".parse().unwrap());
            return reply;
        }
        if asked.target.contains("service_step") {
            return recorded("versions", "a field newer than the version");
        }
        json(&json!({"nodes": [node(json!({}))]}))
    });
    let (code, _, err) = service.run(&["node", "list"]);
    assert_eq!(code, Some(0), "{err}");
    let asked = service.asked();
    let last = asked.last().unwrap();
    assert_eq!(last.header("x-openstack-ironic-api-version"), Some("1.80"));
    assert!(last.target.contains("retired") && !last.target.contains("service_step"), "{}", last.target);
}

/// A node that goes through these documents, one a look.
fn passing(through: Vec<Value>) -> impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static {
    let at = Arc::new(AtomicUsize::new(0));
    let usual = site(json!({"provision_state": "available"}));
    let through: Vec<Value> = through.into_iter().map(node).collect();
    move |asked: &Asked| {
        if asked.method == Method::GET && asked.path() == format!("/v1/nodes/{NODE}") {
            let now = at.fetch_add(1, Ordering::Relaxed).min(through.len() - 1);
            return json(&through[now]);
        }
        usual(asked)
    }
}

#[test]
fn watching_tells_every_state_and_ends_with_what_came_of_it() {
    let deploying = json!({"provision_state": "deploying", "target_provision_state": "active"});
    let writing = json!({"provision_state": "wait call-back", "target_provision_state": "active",
                         "driver_internal_info": {"progress": {"stage": "write", "done": 1 << 20, "total": 4 << 20}}});
    let active = json!({"provision_state": "active", "power_state": "power on"});
    let failed = json!({"provision_state": "deploy failed", "target_provision_state": "active",
                        "last_error": "the image's digest is another one"});
    let deploy = [&["deploy", "node-1", "--yes", "--watch"][..], &IMAGE].concat();
    let mut told = String::new();
    for end in [active, failed] {
        let before = json!({"provision_state": "available"});
        let service = Service::start(passing(vec![before, deploying.clone(), deploying.clone(), writing.clone(), end]));
        let (code, out, err) = service.run(&deploy);
        told += &format!("{err}--\n{out}[{}]\n\n", code.unwrap());
        let patch = service.asked().into_iter().find(|asked| asked.method == Method::PATCH).unwrap();
        assert!(patch.body.to_string().contains("http://images/debian.raw"), "{}", patch.body);
    }
    let seconds = without_times(&told);
    insta::assert_snapshot!(seconds);
}

/// Text without how long something took.
fn without_times(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for at in 0..words.len().saturating_sub(1) {
        let seconds = words[at].trim_start_matches('(').parse::<u64>().is_ok();
        if seconds && words[at + 1].starts_with('s') {
            words[at] = words[at].replace(|character: char| character.is_ascii_digit(), "N");
        }
    }
    words.join(" ")
}

#[test]
fn the_end_of_the_time_and_a_signal_end_the_watching_alone() {
    let deploying = json!({"provision_state": "deploying", "target_provision_state": "active"});
    let service = Service::start(passing(vec![deploying]));
    let (code, _, err) = service.run(&["watch", "node-1", "--timeout", "1"]);
    assert_eq!(code, Some(13), "{err}");
    assert!(err.contains("still \"deploying\" after 1 s") && err.contains("it goes on"), "{err}");

    let mut watching = service.ferric(&["watch", "node-1"]);
    let child = watching.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let listens = |service: &Service| service.asked().iter().filter(|asked| asked.target.contains("/events")).count();
    let before = listens(&service);
    while listens(&service) == before {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, _, err) = said(&child.wait_with_output().unwrap(), &service.url);
    assert_eq!(code, Some(7), "{err}");
    assert!(err.contains("stopped watching; what was begun goes on"), "{err}");
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
}

/// A service whose logs break off the first time, and are whole the second.
fn breaking() -> impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static {
    let times = Arc::new(AtomicUsize::new(0));
    let usual = site(json!({}));
    move |asked: &Asked| {
        if asked.path() != "/v1/nodes/node-1/logs" {
            return usual(asked);
        }
        let line = |second: u64, text: &str| format!("2026-01-02T03:04:0{second}.000Z  INFO ramdisk: {text}\n");
        let (first, second, third) = (line(1, "first"), line(2, "second"), line(3, "third"));
        let piece = |text: String| Ok(bytes::Bytes::from(text));
        let pieces: Vec<Result<bytes::Bytes, std::io::Error>> = match times.fetch_add(1, Ordering::Relaxed) {
            0 => vec![piece(first), piece(second), piece("2026-01".to_owned()), Err(std::io::Error::other("gone"))],
            _ => vec![piece(first + &second), piece(third)],
        };
        // What breaks off does so after its lines have left.
        let pieces = futures::stream::iter(pieces).then(|piece| async move {
            if piece.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            piece
        });
        Response::new(Body::from_stream(pieces))
    }
}

#[test]
fn logs_that_are_followed_go_on_where_they_broke_off() {
    use std::io::BufRead as _;
    let service = Service::start(breaking());
    let mut following = service.ferric(&["node", "logs", "node-1", "-f"]);
    let mut child = following.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    for wanted in ["first", "second", "third"] {
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(wanted), "{line}");
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lines.next().is_none());
}

#[test]
fn logs_that_break_off_are_not_taken_for_all() {
    let service = Service::start(breaking());
    let (code, out, err) = service.run(&["node", "logs", "node-1"]);
    assert_eq!(code, Some(8), "{err}");
    assert!(err.contains("broke off"), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[1].ends_with("second"), "{out}");
    let (code, out, err) = service.run(&["node", "logs", "node-1"]);
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{err}");
}

#[test]
fn a_node_whose_ports_are_refused_is_taken_back() {
    let service = Service::start(site(json!({"name": "other"})));
    let (code, _, err) = service.run(&["enroll", "new-1", "--driver", "fake-hardware", "--port", "52:54:00:00:00:09"]);
    assert_eq!(code, Some(11), "{err}");
    assert!(err.contains("already exists"), "{err}");
    let sent = requests(&service);
    let changes: Vec<&str> = sent.iter().map(String::as_str).filter(|sent| !sent.starts_with("GET")).collect();
    assert_eq!(changes, ["POST /v1/nodes", "POST /v1/ports", &format!("DELETE /v1/nodes/{NODE}")]);
}

#[test]
fn whose_certificate_a_bmc_has_is_said_when_it_is_enrolled() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let password = file.path().to_str().unwrap();
    let bmc = ["enroll", "new-1", "--driver", "redfish", "--bmc", "https://192.0.2.9", "--bmc-user", "admin"];
    let bmc = [&bmc[..], &["--bmc-password-file", password]].concat();
    let usual = site(json!({}));
    let with_redfish = move |asked: &Asked| match asked.path() {
        "/v1/drivers" => json(&json!({"drivers": [{"name": "redfish"}]})),
        _ => usual(asked),
    };
    for (more, verify) in [
        (&[][..], Value::Null),
        (&["--bmc-cacert", "/etc/ferric/bmc.pem"], json!("/etc/ferric/bmc.pem")),
        (&["--bmc-insecure"], json!(false)),
    ] {
        let service = Service::start(with_redfish.clone());
        let (code, _, err) = service.run(&[&bmc[..], more].concat());
        assert_eq!(code, Some(0), "{err}");
        let made = service.asked().into_iter().find(|asked| asked.method == Method::POST).unwrap();
        assert_eq!(made.body["driver_info"]["redfish_verify_ca"], verify);
    }
    let service = Service::start(with_redfish);
    for wrong in [&["--bmc-cacert", "bmc.pem"][..], &["--bmc-cacert", "/bmc.pem", "--bmc-insecure"]] {
        let (code, _, err) = service.run(&[&bmc[..], wrong].concat());
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("--bmc-cacert"), "{err}");
    }
    assert!(service.asked().is_empty());
}

#[test]
fn what_is_taken_already_is_told_before_anything_is_recorded() {
    let service = Service::start(site(json!({})));
    let (code, _, err) = service.run(&["enroll", "node-1", "--driver", "fake-hardwar", "--port", "52:54:00:12:34:56"]);
    assert_eq!(code, Some(2));
    insta::assert_snapshot!(err);
    assert!(service.asked().iter().all(|asked| asked.method == Method::GET));
}

#[test]
fn credentials_go_to_the_service_that_they_belong_to() {
    let service = Service::start(site(json!({})));
    let variables = [("OS_AUTH_TYPE", "http_basic"), ("OS_USERNAME", "ann"), ("OS_PASSWORD", "canary-77")];
    let output = ferric(&["node", "list"]).env("OS_ENDPOINT", &service.url).envs(variables).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        service.asked().last().unwrap().header(header::AUTHORIZATION.as_str()),
        Some("Basic YW5uOmNhbmFyeS03Nw==")
    );
    // The same surroundings, another service.
    let output =
        ferric(&["node", "list", "--url", &service.url]).env("OS_ENDPOINT", "http://else").envs(variables).output();
    assert!(output.unwrap().status.success());
    assert_eq!(service.asked().last().unwrap().header(header::AUTHORIZATION.as_str()), None);
    let refusing = Service::start(|_: &Asked| {
        Response::builder().status(StatusCode::UNAUTHORIZED).body(Body::from("no")).unwrap()
    });
    let output = ferric(&["node", "list"]).env("OS_ENDPOINT", &refusing.url).envs(variables).output().unwrap();
    let (code, out, err) = said(&output, &refusing.url);
    assert_eq!(code, Some(9));
    assert!(!out.contains("canary") && !err.contains("canary"), "{err}");
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let service = Service::start(site(json!({})));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = service.ferric(&["node", "list", "-o", "json"]).stdout(full).output().unwrap();
    let (code, _, err) = said(&output, &service.url);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("write the result"), "{err}");
    // Whoever has read enough and closes the pipe is not told of it.
    let mut listing = service.ferric(&["node", "list", "-o", "json"]);
    let mut child = listing.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let (code, _, err) = said(&child.wait_with_output().unwrap(), &service.url);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

#[test]
fn every_shell_gets_completions() {
    for (shell, word) in [("bash", "_ferric"), ("zsh", "#compdef ferric"), ("fish", "complete -c ferric")] {
        let output = ferric(&["completions", shell]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(word) && text.contains("deploy"), "{shell}");
    }
}

#[test]
fn verbs_are_found_in_either_place() {
    let service = Service::start(site(json!({"provision_state": "manageable"})));
    for arguments in [&["list"][..], &["node", "list"], &["show", "node-1"], &["node", "inspect", "node-1"]] {
        let (code, _, err) = service.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
    }
}
