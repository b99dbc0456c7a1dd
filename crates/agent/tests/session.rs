//! Lookup, token, identity and heartbeats against a driver that is a few lines of script.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::config::Words;
use agent::state::Closing;
use agent::{Dispatcher, Settings, session};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use hardware_sim::SimMachine;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::stream::{self, NODE, Ruled};
use support::{TOKEN, rig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transport::client::{self, Client, Trust};
use wire::session::FromAgent;

/// What the driver heard.
#[derive(Debug)]
enum Heard {
    Lookup(String, String),
    Heartbeat(String, String, Value),
    Inspection(Value, bool),
}

#[derive(Clone)]
struct Driver {
    heard: mpsc::UnboundedSender<Heard>,
    lookup: Arc<Value>,
    heartbeat: StatusCode,
}

fn version_of(headers: &HeaderMap) -> String {
    headers.get("x-openstack-ironic-api-version").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn start_driver(lookup: Value, heartbeat: StatusCode) -> (String, mpsc::UnboundedReceiver<Heard>) {
    start_driver_that_fails_at_first(0, lookup, heartbeat).await
}

/// As [`start_driver`], but the first so many requests for the versions that it serves are answered 503.
async fn start_driver_that_fails_at_first(
    failures: usize,
    lookup: Value,
    heartbeat: StatusCode,
) -> (String, mpsc::UnboundedReceiver<Heard>) {
    let (heard, ears) = mpsc::unbounded_channel();
    let driver = Driver { heard, lookup: Arc::new(lookup), heartbeat };
    let left = Arc::new(AtomicUsize::new(failures));
    let root = get(async move || {
        let fails = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let status = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, axum::Json(json!({"default_version": {"version": "1.115"}})))
    });
    let router = Router::new()
        .route("/", root)
        .route(
            "/v1/lookup",
            get(async |State(driver): State<Driver>, RawQuery(query): RawQuery, headers: HeaderMap| {
                driver.heard.send(Heard::Lookup(query.unwrap_or_default(), version_of(&headers))).unwrap();
                axum::Json(driver.lookup.as_ref().clone())
            }),
        )
        .route(
            "/v1/heartbeat/{node}",
            post(async |State(driver): State<Driver>, Path(node): Path<String>, headers: HeaderMap, body: Bytes| {
                let body = serde_json::from_slice(&body).unwrap();
                driver.heard.send(Heard::Heartbeat(node, version_of(&headers), body)).unwrap();
                driver.heartbeat
            }),
        )
        .route(
            "/v1/continue_inspection",
            post(async |State(driver): State<Driver>, headers: HeaderMap, body: Bytes| {
                let has_version = headers.contains_key("x-openstack-ironic-api-version");
                driver.heard.send(Heard::Inspection(serde_json::from_slice(&body).unwrap(), has_version)).unwrap();
                (StatusCode::ACCEPTED, axum::Json(json!({"uuid": "11111111-node"}))).into_response()
            }),
        )
        .with_state(driver);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let settings = transport::server::Settings::default();
    tokio::spawn(transport::server::serve(listener, router, settings, CancellationToken::new()));
    (url, ears)
}

fn lookup_reply(token: Value) -> Value {
    json!({
        "node": {"uuid": "11111111-node", "properties": {}, "instance_info": {}, "driver_internal_info": {}, "links": []},
        "config": {
            "heartbeat_timeout": 300, "agent_token": token, "agent_token_required": true, "tls_min_version": "1.3",
            "metrics": {"backend": "noop"}, "permitted_image_formats": ["raw"],
        },
    })
}

/// A port that nobody uses right now.
fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn settings(url: &str) -> Settings {
    let port = free_port();
    Settings {
        api_urls: vec![url.to_owned()],
        listen_host: Some(Ipv4Addr::LOCALHOST.into()),
        listen_port: port,
        advertise_port: port,
        agent_token: None,
        lookup_timeout: Duration::from_millis(500),
        lookup_interval: Duration::from_millis(50),
        ..support::settings()
    }
}

async fn next(ears: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    tokio::time::timeout(Duration::from_secs(20), ears.recv()).await.expect("the driver hears something").unwrap()
}

async fn next_heartbeat(ears: &mut mpsc::UnboundedReceiver<Heard>) -> (String, String, Value) {
    match next(ears).await {
        Heard::Heartbeat(node, version, body) => (node, version, body),
        other => panic!("no heartbeat but {other:?}"),
    }
}

type Ended = Result<Option<Closing>, session::SessionError>;

fn run(rig: &support::Rig, stop: &CancellationToken) -> tokio::task::JoinHandle<Ended> {
    let (agent, dispatcher, stop) = (Arc::clone(&rig.agent), Arc::clone(&rig.dispatcher), stop.clone());
    tokio::spawn(async move { session::run(&agent, &dispatcher, &stop).await })
}

async fn command(url: &str, certificate: &str, name: &str) -> u16 {
    let trust = Trust::Only(certificate.to_owned());
    let client = Client::new(client::Settings { trust, ..client::Settings::default() }).unwrap();
    let body = json!({"name": name, "params": {}}).to_string();
    let request = http::Request::post(format!("{url}/v1/commands/?wait=false&agent_token={TOKEN}"));
    let request = request.body(http_body_util::Full::new(body.into())).unwrap();
    client.send(request).await.unwrap().status.as_u16()
}

#[tokio::test]
async fn an_agent_checks_in_and_is_called_back_by_the_certificate_that_it_sent() {
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let rig = rig(SimMachine::new(), settings(&url));
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    match next(&mut ears).await {
        Heard::Lookup(query, version) => {
            assert_eq!(query, "addresses=52%3A54%3A00%3A00%3A00%3A01");
            assert_eq!(version, "1.62");
        }
        other => panic!("no lookup but {other:?}"),
    }
    let (node, version, body) = next_heartbeat(&mut ears).await;
    assert_eq!((node.as_str(), version.as_str()), ("11111111-node", "1.68"));
    assert_eq!(body["agent_token"], TOKEN);
    assert_eq!(body["agent_version"], "13.0.0");
    let callback = body["callback_url"].as_str().unwrap();
    assert_eq!(callback, format!("https://127.0.0.1:{}", rig.agent.shared.settings().listen_port));
    let certificate = body["agent_verify_ca"].as_str().unwrap();
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(body.as_object().unwrap().len(), 4, "{body}");
    // An asynchronous command that has ended is told at once, not at the next interval of minutes.
    assert_eq!(command(callback, certificate, "image.install_bootloader").await, 200);
    next_heartbeat(&mut ears).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_heartbeat_that_fails_is_sent_again_and_there_is_no_giving_up() {
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::CONFLICT).await;
    let rig = rig(SimMachine::new(), settings(&url));
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    next_heartbeat(&mut ears).await;
    next_heartbeat(&mut ears).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_masked_token_keeps_the_own_one_and_locks_out_who_has_none() {
    let (url, mut ears) = start_driver(lookup_reply(json!("******")), StatusCode::ACCEPTED).await;
    let without = rig(SimMachine::new(), settings(&url));
    let error = run(&without, &CancellationToken::new()).await.unwrap().unwrap_err();
    assert!(error.is_locked_out(), "{error}");
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    let own = Settings { agent_token: support::settings().agent_token, ..settings(&url) };
    let with = rig(SimMachine::new(), own);
    let stop = CancellationToken::new();
    let running = run(&with, &stop);
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    assert_eq!(next_heartbeat(&mut ears).await.2["agent_token"], TOKEN);
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_token_that_is_too_short_is_not_taken() {
    let (url, mut ears) = start_driver(lookup_reply(json!("short")), StatusCode::ACCEPTED).await;
    let rig = rig(SimMachine::new(), settings(&url));
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    assert_eq!(next_heartbeat(&mut ears).await.2.get("agent_token"), None);
    assert!(!rig.agent.admits(Some("short")));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_inspection_is_sent_without_a_version_and_brings_the_uuid_for_the_lookup() {
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let callback = format!("{url}/v1/continue_inspection");
    let rig = rig(SimMachine::new(), Settings { inspection_callback_urls: vec![callback], ..settings(&url) });
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    match next(&mut ears).await {
        Heard::Inspection(body, has_version) => {
            assert!(!has_version);
            assert_eq!(body["inventory"]["interfaces"][0]["mac_address"], "52:54:00:00:00:01");
            assert_eq!(body["error"], Value::Null);
            assert_eq!(body["configuration"]["managers"][0]["name"], "generic_hardware_manager");
            assert!(body["logs"].is_string());
        }
        other => panic!("no inspection but {other:?}"),
    }
    match next(&mut ears).await {
        Heard::Lookup(query, _) => assert!(query.ends_with("&node_uuid=11111111-node"), "{query}"),
        other => panic!("no lookup but {other:?}"),
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_collector_that_nobody_has_is_named_to_the_driver_and_the_rest_is_sent() {
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let collectors = ["default", "odd", "lldp", "extra-hardware"].map(str::to_owned).to_vec();
    let told = Settings {
        inspection_callback_urls: vec![format!("{url}/v1/continue_inspection")],
        inspection_collectors: collectors.clone(),
        ..settings(&url)
    };
    let rig = rig(SimMachine::new(), told);
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    match next(&mut ears).await {
        Heard::Inspection(body, _) => {
            let program =
                "failed to run hardware-detect utility: [Errno 2] No such file or directory: 'hardware-detect'";
            let wanted =
                format!("The following errors were encountered:\n* Failed to load collector {{'odd'}}\n* {program}");
            assert_eq!(body["error"], wanted);
            assert_eq!(body["configuration"]["collectors"], json!(collectors));
            assert!(body["inventory"]["disks"].is_array() && body["lldp_raw"].is_object(), "{body}");
        }
        other => panic!("no inspection but {other:?}"),
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_next_url_is_tried_when_one_is_not_there_and_a_lookup_gives_up_in_time() {
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let two = rig(SimMachine::new(), Settings { api_urls: vec![nobody.clone(), url.clone()], ..settings(&url) });
    let stop = CancellationToken::new();
    let running = run(&two, &stop);
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    next_heartbeat(&mut ears).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    let lost = rig(SimMachine::new(), settings(&nobody));
    let error = run(&lost, &CancellationToken::new()).await.unwrap().unwrap_err();
    let text = client::chain(&error);
    assert!(text.starts_with("look up the node: no lookup succeeded within"), "{text}");
}

/// A lookup of an old version brings no token, and a driver gives it to one lookup only.
#[tokio::test]
async fn a_driver_that_cannot_tell_its_version_yet_is_not_taken_for_an_old_one() {
    let (url, mut ears) = start_driver_that_fails_at_first(2, lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let patient = rig(SimMachine::new(), Settings { lookup_timeout: Duration::from_secs(20), ..settings(&url) });
    let stop = CancellationToken::new();
    let running = run(&patient, &stop);
    let first = next(&mut ears).await;
    assert!(matches!(&first, Heard::Lookup(_, version) if version == "1.62"), "{first:?}");
    let (_, version, body) = next_heartbeat(&mut ears).await;
    assert_eq!((version.as_str(), &body["agent_token"]), ("1.68", &json!(TOKEN)));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_goes_on_when_its_submitter_does_not_wait_for_it() {
    let rig = rig(SimMachine::new(), support::settings());
    let dispatcher: Arc<Dispatcher> = Arc::clone(&rig.dispatcher);
    let request = wire::agent::CommandRequest { name: "standby.power_off".to_owned(), params: serde_json::Map::new() };
    let submitting = tokio::spawn(async move { dispatcher.submit(request).await });
    while rig.dispatcher.list().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    submitting.abort();
    rig.dispatcher.list()[0].wait().await;
    assert_eq!(rig.machine.events().len(), 2);
}

#[tokio::test]
async fn a_given_certificate_is_served_and_not_sent_and_clients_are_asked_for_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // PEM as an operator brings it; made with openssl, for 127.0.0.1.
    let pair = |name: &str| {
        let (certificate, key) = (folder.path().join(format!("{name}.crt")), folder.path().join(format!("{name}.key")));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=test",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=CA:FALSE",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        agent::config::settings::KeyPair { certificate, key }
    };
    let (server, driver) = (pair("server"), pair("driver"));
    let (url, mut ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
    let told = Settings {
        listen_tls: Some(server.clone()),
        client_authority: Some(driver.certificate.clone()),
        ..settings(&url)
    };
    let rig = rig(SimMachine::new(), told);
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    let body = next_heartbeat(&mut ears).await.2;
    assert_eq!(body.get("agent_verify_ca"), None, "{body}");
    let callback = body["callback_url"].as_str().unwrap();
    assert!(callback.starts_with("https://127.0.0.1:"), "{callback}");
    let ask = async |identity: Option<transport::tls::Identity>| {
        let trust = Trust::Only(std::fs::read_to_string(&server.certificate).unwrap());
        let client = Client::new(client::Settings { trust, identity, ..client::Settings::default() }).unwrap();
        let request = http::Request::get(format!("{callback}/v1/status"));
        client.send(request.body(http_body_util::Full::new(Bytes::new())).unwrap()).await
    };
    assert_eq!(ask(Some(session::identity::read(&driver).unwrap())).await.unwrap().status, 200);
    assert!(ask(None).await.is_err());
    stop.cancel();
    running.await.unwrap().unwrap();
    // Files that are not there are named, and the session does not begin without them.
    let missing = agent::config::settings::KeyPair { certificate: write("a", "x"), key: folder.path().join("missing") };
    let lost = support::rig(SimMachine::new(), Settings { listen_tls: Some(missing), ..settings(&url) });
    let error = run(&lost, &CancellationToken::new()).await.unwrap().unwrap_err();
    assert!(client::chain(&error).contains("missing"), "{}", client::chain(&error));
}

#[tokio::test]
async fn an_api_that_was_to_have_tls_is_not_served_without() {
    let read = |files: &str| Settings::resolve(&Words::default(), &Words::parse_ini(files));
    let told = [
        ("[ssl]\nca_file = /driver.pem\n", "[ssl] ca_file"),
        // One file alone is of no use.
        ("listen_tls = true\ntls_cert_file = /api.pem\n", "listen_tls"),
    ];
    for (files, asked) in told {
        let read = read(files);
        for alone in [true, false] {
            let (url, _ears) = start_driver(lookup_reply(json!(TOKEN)), StatusCode::ACCEPTED).await;
            let given = settings(&url);
            let api_urls = if alone { Vec::new() } else { given.api_urls.clone() };
            let rig = support::rig(
                SimMachine::new(),
                Settings {
                    api_urls,
                    enable_auto_tls: false,
                    needs_tls: read.needs_tls,
                    listen_tls: read.listen_tls.clone(),
                    client_authority: read.client_authority.clone(),
                    ..given
                },
            );
            let stop = CancellationToken::new();
            let ended = tokio::time::timeout(Duration::from_secs(5), run(&rig, &stop)).await;
            let error = ended.expect("it is not served").unwrap().unwrap_err();
            assert!(matches!(error, session::SessionError::Identity(_)), "{error:?}");
            assert!(client::chain(&error).contains(&format!("{asked} asks for TLS")), "{}", client::chain(&error));
        }
    }
}

/// A lookup reply of a driver that takes sessions.
fn offering(driver: &stream::Driver) -> Value {
    let mut reply = lookup_reply(json!(TOKEN));
    reply["node"]["uuid"] = json!(NODE);
    reply["config"]["ferric_session"] = json!({"url": driver.offer.url, "ca": driver.offer.ca});
    reply
}

/// No more than this is waited for something that must not come: a heartbeat that a command's end causes comes at once.
const NOT_COMING: Duration = Duration::from_millis(500);

#[tokio::test]
async fn heartbeats_go_by_the_session_while_there_is_one_and_over_rest_when_it_is_gone() {
    let listener = stream::Driver::start().await;
    let (url, mut ears) = start_driver(offering(&listener), StatusCode::ACCEPTED).await;
    let rig = rig(SimMachine::new(), settings(&url));
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    let mut ruled = Ruled::new(listener);
    ruled.greet().await;
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    // The first one tells where to call, which the driver may have to do when the session breaks.
    let (_, _, body) = next_heartbeat(&mut ears).await;
    assert!(body["callback_url"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{body}");
    let params = json!({"root_uuid": null});
    ruled.command("image.install_bootloader", &params).await;
    while !matches!(ruled.hear().await, FromAgent::Heartbeat(_)) {}
    assert!(tokio::time::timeout(NOT_COMING, ears.recv()).await.is_err());
    // Nobody takes sessions any more. The agent notices, and the next heartbeat goes the other way.
    drop(ruled);
    let rest = support::Rest::serve(&rig.dispatcher).await;
    let beats = async {
        loop {
            rest.command("image.install_bootloader", params.clone(), true).await;
            if tokio::time::timeout(NOT_COMING, next_heartbeat(&mut ears)).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), beats).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_may_not_listen_has_no_open_port_and_does_what_it_is_told_by_its_session() {
    let listener = stream::Driver::start().await;
    let (url, mut ears) = start_driver(offering(&listener), StatusCode::ACCEPTED).await;
    let rig = rig(SimMachine::new(), Settings { listens: false, ..settings(&url) });
    let stop = CancellationToken::new();
    let running = run(&rig, &stop);
    let mut ruled = Ruled::new(listener);
    assert_eq!(ruled.command("standby.sync", &json!({})).await.body["command_status"], "SUCCEEDED");
    while !ruled.heard.iter().any(|said| matches!(said, FromAgent::Heartbeat(_))) {
        ruled.hear().await;
    }
    let port = rig.agent.shared.settings().listen_port;
    assert!(tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
    assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
    assert!(tokio::time::timeout(NOT_COMING, ears.recv()).await.is_err(), "nothing is said twice");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_whose_session_does_not_come_about_tells_over_rest_that_it_lives() {
    let listener = stream::Driver::start().await;
    let reply = offering(&listener);
    drop(listener);
    let (url, mut ears) = start_driver(reply, StatusCode::ACCEPTED).await;
    for listens in [true, false] {
        let rig = rig(SimMachine::new(), Settings { listens, ..settings(&url) });
        let stop = CancellationToken::new();
        let running = run(&rig, &stop);
        assert!(matches!(next(&mut ears).await, Heard::Lookup(..)));
        let (_, _, body) = next_heartbeat(&mut ears).await;
        let callback = body["callback_url"].as_str().unwrap();
        assert_eq!(callback.starts_with("https://127.0.0.1:"), listens, "{body}");
        assert_eq!(callback.starts_with("ferric-session:"), !listens, "{body}");
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
