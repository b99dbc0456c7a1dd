//! Changes of settings and of firmware, against a BMC in this process that does what real ones do and says what it was asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bmc::{Limits, Redfish, Settings};
use hardware::{BiosControl, BiosValues, FirmwareControl, FirmwareUpdate, OutOfBandError, UpdateState};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the BMC has, and what it was sent.
#[derive(Default)]
struct Bmc {
    attributes: Value,
    /// `Attributes` of the settings resource; all that wait for the restart.
    pending: Value,
    update_service: Value,
    /// Name of the registry of the settings, and the answers of the registries' part of the service, by path.
    registry: Option<(&'static str, Vec<(&'static str, Value)>)>,
    /// Changes of settings are accepted only, and followed at a task.
    accepts: bool,
    /// A change without this `If-Match` is refused with 428, or 412.
    wants_etag: Option<&'static str>,
    /// There is no action that resets settings.
    keeps_settings: bool,
    /// What tasks answer: status and body.
    task: Option<(u16, Value)>,
    refuses_targets: bool,
    /// The tasks that it lists; no list when unset.
    tasks: Option<Vec<&'static str>>,
    /// `Content-Length` of each file that it was given.
    lengths: Vec<u64>,
    /// Method, path and body of each change.
    sent: Vec<(String, String, String)>,
}

type Place = Arc<Mutex<Bmc>>;

async fn answer(Shared(bmc): Shared<Place>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut bmc = bmc.lock().unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    if method != Method::GET {
        let kind = headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        bmc.sent.push((format!("{method} {kind}"), uri.path().to_owned(), text.clone()));
    }
    if uri.path() == "/u/push" {
        let length: u64 = headers["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!(length, body.len() as u64);
        bmc.lengths.push(length);
    }
    let at = |path: &str| json!({"@odata.id": path});
    let json = |value: Value| axum::Json(value).into_response();
    match (method.as_str(), uri.path()) {
        ("GET", "/redfish/v1/") => {
            let mut root = json!({"Systems": at("/s"), "UpdateService": at("/u"), "Managers": at("/m")});
            if bmc.tasks.is_some() {
                root["Tasks"] = at("/ts");
            }
            if bmc.registry.is_some() {
                root["Registries"] = at("/r");
            }
            json(root)
        }
        ("GET", "/ts") => json(json!({"Tasks": at("/t")})),
        ("GET", "/t") => {
            let members = bmc.tasks.iter().flatten().map(|path| at(path)).collect::<Vec<_>>();
            json(json!({"Members": members}))
        }
        ("GET", "/s") => json(json!({"Members": [at("/s/1")]})),
        ("GET", "/s/1") => json(json!({
            "BiosVersion": "1.0", "Bios": at("/s/1/b"), "Links": {"ManagedBy": [at("/m/1")], "Chassis": [at("/c/1")]},
        })),
        ("GET", "/m/1") => json(json!({"FirmwareVersion": "7.0"})),
        ("GET", "/c/1") => json(json!({"NetworkAdapters": at("/c/1/n")})),
        ("GET", "/c/1/n") => json(json!({"Members": [at("/c/1/n/1")]})),
        ("GET", "/c/1/n/1") => {
            json(json!({"Id": "1", "SerialNumber": "A", "Controllers": [{"FirmwarePackageVersion": "22.1"}]}))
        }
        ("GET", path) if path.starts_with("/r") && bmc.registry.is_some() => {
            let (_, answers) = bmc.registry.as_ref().unwrap();
            match answers.iter().find(|(known, _)| *known == path) {
                Some((_, value)) => json(value.clone()),
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        ("GET", "/s/1/b") => json(json!({
            "Attributes": bmc.attributes,
            "AttributeRegistry": bmc.registry.as_ref().map(|(name, _)| *name),
            "@Redfish.Settings": {
                "SettingsObject": at("/s/1/b/next"),
                "SupportedApplyTimes": ["OnReset", "Immediate"],
                "Messages": [{"Message": "The last change was not made."}],
            },
            "Actions": if bmc.keeps_settings { json!({}) } else { json!({"#Bios.ResetBios": {"target": "/s/1/b/reset"}}) },
        })),
        ("GET", "/s/1/b/next") => json(json!({"Attributes": bmc.pending})),
        ("GET", "/u") => json(bmc.update_service.clone()),
        ("GET", "/t/1") => match &bmc.task {
            Some((status, body)) => (StatusCode::from_u16(*status).unwrap(), axum::Json(body.clone())).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        ("PATCH", "/s/1/b/next")
            if bmc.wants_etag.is_some_and(|etag| headers.get("if-match").is_none_or(|sent| sent != etag)) =>
        {
            StatusCode::PRECONDITION_REQUIRED.into_response()
        }
        ("PATCH", "/s/1/b/next") if bmc.accepts => (StatusCode::ACCEPTED, [("location", "/t/1")]).into_response(),
        ("PATCH", "/s/1/b/next") | ("POST", "/s/1/b/reset") => StatusCode::NO_CONTENT.into_response(),
        ("POST", "/u/simple") if bmc.refuses_targets && text.contains("Targets") => {
            let body = json!({"error": {"message": "The property Targets is not supported here."}});
            (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
        }
        ("POST", "/u/simple" | "/u/push") => (StatusCode::ACCEPTED, [("location", "/t/1")]).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn start(bmc: Bmc) -> (Place, Redfish) {
    let bmc = Arc::new(Mutex::new(bmc));
    let app = axum::Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(bmc.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let info = json!({"redfish_address": format!("http://{}", listener.local_addr().unwrap())});
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let limits = Limits { pause: Duration::from_millis(1), tries: 2, ..Limits::default() };
    let redfish = Redfish::new(Settings::from_driver_info(info.as_object().unwrap()).unwrap(), limits).await.unwrap();
    (bmc, redfish)
}

fn values(value: Value) -> BiosValues {
    value.as_object().unwrap().clone()
}

fn fetching() -> Value {
    json!({"Actions": {"#UpdateService.SimpleUpdate": {
        "target": "/u/simple", "TransferProtocol@Redfish.AllowableValues": ["HTTP"],
        "@Redfish.OperationApplyTimeSupport": {"SupportedValues": ["OnReset"]},
    }}})
}

fn of(component: &str) -> FirmwareUpdate {
    FirmwareUpdate { component: component.to_owned(), url: "http://images.test/x".to_owned() }
}

#[tokio::test]
async fn only_what_differs_is_sent_to_the_settings_resource_for_the_next_start() {
    let attributes = json!({"Vt": "Disabled", "Quiet": true, "Cap": 5});
    let (bmc, redfish) = start(Bmc { attributes, pending: json!({}), ..Bmc::default() }).await;
    let wanted = values(json!({"Vt": "Enabled", "Quiet": "true", "Cap": "5"}));
    assert_eq!(redfish.stage_bios(&wanted).await.unwrap().changes, ["Vt"]);
    let (what, path, body) = bmc.lock().unwrap().sent.pop().unwrap();
    assert_eq!((&*what, &*path), ("PATCH application/json", "/s/1/b/next"));
    let body: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({"Attributes": {"Vt": "Enabled"}, "@Redfish.SettingsApplyTime": {"ApplyTime": "OnReset"}});
    assert_eq!(body, expected);
    let (differences, said) = redfish.bios_differences(&wanted).await.unwrap();
    assert_eq!((&*differences[0].name, differences.len()), ("Vt", 1));
    assert_eq!(said, ["The last change was not made."]);
}

#[tokio::test]
async fn what_waits_for_the_start_already_is_not_sent_again_and_what_would_undo_a_setting_is_taken_back() {
    let attributes = json!({"Vt": "Disabled", "Quiet": true});
    let pending = json!({"Vt": "Enabled"});
    let (bmc, redfish) = start(Bmc { attributes, pending, ..Bmc::default() }).await;
    assert_eq!(redfish.stage_bios(&values(json!({"Vt": "Enabled"}))).await.unwrap().changes, ["Vt"]);
    assert!(bmc.lock().unwrap().sent.is_empty());
    // It is as wanted now, and would not be after the next start.
    assert_eq!(redfish.stage_bios(&values(json!({"Vt": "Disabled"}))).await.unwrap().changes, ["Vt"]);
    assert_eq!(bmc.lock().unwrap().sent.len(), 1);
    assert!(redfish.stage_bios(&values(json!({"Quiet": true}))).await.unwrap().changes.is_empty());
    assert_eq!(bmc.lock().unwrap().sent.len(), 1);
    // There is no registry, so nothing is known of defaults.
    assert!(redfish.reset_bios().await.unwrap().is_empty());
    assert_eq!(bmc.lock().unwrap().sent.pop().unwrap().1, "/s/1/b/reset");
}

#[tokio::test]
async fn the_bmc_is_told_what_to_fetch_for_which_part_and_when_to_use_it() {
    let (bmc, redfish) = start(Bmc { update_service: fetching(), ..Bmc::default() }).await;
    assert!(redfish.fetches_images().await.unwrap());
    for (component, target, time) in
        [("bios", "/s/1", json!("OnReset")), ("bmc", "/m/1", Value::Null), ("nic:A", "/c/1/n/1", json!("OnReset"))]
    {
        assert_eq!(redfish.start_update(&of(component), None).await.unwrap().as_deref(), Some("/t/1"));
        let (_, path, body) = bmc.lock().unwrap().sent.pop().unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&*path, &body["Targets"]), ("/u/simple", &json!([target])));
        assert_eq!((&body["ImageURI"], &body["TransferProtocol"]), (&json!("http://images.test/x"), &json!("HTTP")));
        assert_eq!(body["@Redfish.OperationApplyTime"], time);
    }
    let by_ftp = FirmwareUpdate { url: "https://images.test/x".to_owned(), ..of("bios") };
    let error = redfish.start_update(&by_ftp, None).await.unwrap_err().to_string();
    assert!(error.contains("fetches no firmware by HTTPS; it does by HTTP"), "{error}");
}

#[tokio::test]
async fn a_bmc_that_takes_no_targets_is_asked_without_them() {
    let (bmc, redfish) = start(Bmc { update_service: fetching(), refuses_targets: true, ..Bmc::default() }).await;
    redfish.start_update(&of("bios"), None).await.unwrap();
    let sent = &bmc.lock().unwrap().sent;
    assert_eq!(sent.len(), 2);
    assert!(!sent[1].2.contains("Targets"));
}

#[tokio::test]
async fn a_bmc_that_fetches_nothing_is_given_the_image_with_what_it_is_for() {
    let service = json!({"MultipartHttpPushUri": "/u/push"});
    let (bmc, redfish) = start(Bmc { update_service: service, ..Bmc::default() }).await;
    assert!(!redfish.fetches_images().await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, "firmware --ferric-update").unwrap();
    assert_eq!(redfish.start_update(&of("bios"), Some(&image)).await.unwrap().as_deref(), Some("/t/1"));
    let (what, path, body) = bmc.lock().unwrap().sent.pop().unwrap();
    let boundary = what.strip_prefix("POST multipart/form-data; boundary=").unwrap();
    assert!(boundary.len() > 40 && boundary.len() <= 70, "{boundary}");
    assert_eq!(path, "/u/push");
    insta::assert_snapshot!(body.replace(boundary, "ferric-update-").replace("\r\n", "\n"));
    // As large as it is, it goes out in pieces.
    let large: u64 = 40 << 20;
    std::fs::File::create(&image).unwrap().set_len(large).unwrap();
    redfish.start_update(&of("bios"), Some(&image)).await.unwrap();
    let sent = bmc.lock().unwrap().lengths.pop().unwrap();
    assert!(sent > large && sent < large + 1024, "{sent}");
    let gone = redfish.start_update(&of("bios"), Some(&folder.path().join("gone"))).await.unwrap_err().to_string();
    assert!(gone.contains("gone, cannot be read"), "{gone}");
    let error = redfish.start_update(&of("bios"), None).await.unwrap_err().to_string();
    assert!(error.contains("fetches no images and takes none"), "{error}");
}

#[tokio::test]
async fn new_tasks_are_found_and_those_of_other_requests_are_told_from_updates() {
    let (bmc, redfish) = start(Bmc { update_service: fetching(), ..Bmc::default() }).await;
    assert_eq!(redfish.tasks().await.unwrap(), None, "there is no list");
    assert_eq!(redfish.updates_since(&[]).await.unwrap(), None);
    bmc.lock().unwrap().tasks = Some(vec!["/t/0"]);
    let known = redfish.tasks().await.unwrap().unwrap();
    assert_eq!(known, ["/t/0"]);
    bmc.lock().unwrap().tasks = Some(vec!["/t/0", "/t/1", "/t/gone"]);
    for (task, found) in [
        (json!({"TaskState": "Running"}), vec!["/t/1"]),
        (json!({"TaskState": "Running", "Payload": {"TargetUri": "/u/simple"}}), vec!["/t/1"]),
        (json!({"TaskState": "Running", "Payload": {"TargetUri": "/s/1/b/reset"}}), vec![]),
    ] {
        bmc.lock().unwrap().task = Some((200, task));
        assert_eq!(redfish.updates_since(&known).await.unwrap().unwrap(), found);
    }
}

#[tokio::test]
async fn parts_that_there_are_not_and_bmcs_without_updates_are_told_before_anything_is_begun() {
    let (bmc, redfish) = start(Bmc { update_service: fetching(), ..Bmc::default() }).await;
    redfish.check_updates(&[of("bios"), of("nic:A")]).await.unwrap();
    let error = redfish.check_updates(&[of("nic:B")]).await.unwrap_err();
    assert!(
        matches!(&error, OutOfBandError::Settings(text)
        if text.contains("there is no firmware of nic:B; there is of bios, bmc, nic:A")),
        "{error}"
    );
    let secure = FirmwareUpdate { url: "https://images.test/x".to_owned(), ..of("bios") };
    let error = redfish.check_updates(&[secure]).await.unwrap_err().to_string();
    assert!(error.contains("it fetches no firmware by HTTPS; it does by HTTP"), "{error}");
    for (service, text) in [
        (json!({"ServiceEnabled": false, "MultipartHttpPushUri": "/u/push"}), "switched off"),
        (json!({"HttpPushUri": "/u/old"}), "neither SimpleUpdate nor MultipartHttpPushUri"),
    ] {
        bmc.lock().unwrap().update_service = service;
        let error = redfish.check_updates(&[of("bios")]).await.unwrap_err();
        assert!(matches!(&error, OutOfBandError::Unsupported(said) if said.contains(text)), "{error}");
    }
}

#[tokio::test]
async fn a_task_is_followed_until_it_is_over_or_gone() {
    let (bmc, redfish) = start(Bmc { update_service: fetching(), ..Bmc::default() }).await;
    let steps = [
        (Some((202, Value::Null)), UpdateState::Running(None, "accepted".to_owned())),
        (
            Some((202, json!({"TaskState": "Running", "PercentComplete": 7}))),
            UpdateState::Running(Some(7), "Running".to_owned()),
        ),
        (Some((200, json!({"TaskState": "Pending"}))), UpdateState::AtRestart),
        (Some((200, json!({"TaskState": "Completed", "TaskStatus": "OK"}))), UpdateState::Done),
        (
            Some((200, json!({"TaskState": "Exception", "Messages": [{"Message": "No."}]}))),
            UpdateState::Failed("Exception: No.".to_owned()),
        ),
        (Some((200, json!({"Id": "1"}))), UpdateState::Unsaid),
        (
            Some((400, json!({"error": {"message": "The image is not signed."}}))),
            UpdateState::Failed("HTTP 400: The image is not signed.".to_owned()),
        ),
        (None, UpdateState::Unsaid),
    ];
    for (task, expected) in steps {
        bmc.lock().unwrap().task = task;
        assert_eq!(redfish.update_state("/t/1").await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_change_that_is_only_accepted_can_be_followed_and_one_that_wants_a_precondition_gets_it() {
    let attributes = json!({"Vt": "Disabled"});
    let (bmc, redfish) = start(Bmc { attributes, pending: json!({}), accepts: true, ..Bmc::default() }).await;
    let wanted = values(json!({"Vt": "Enabled"}));
    assert_eq!(redfish.stage_bios(&wanted).await.unwrap().task.as_deref(), Some("/t/1"));
    bmc.lock().unwrap().wants_etag = Some("*");
    redfish.stage_bios(&wanted).await.unwrap();
    bmc.lock().unwrap().wants_etag = Some("\"another\"");
    let error = redfish.stage_bios(&wanted).await.unwrap_err();
    assert!(matches!(&error, OutOfBandError::Refused(text) if text.contains("HTTP 428")), "{error}");
}

#[tokio::test]
async fn a_reset_that_there_is_not_is_told_before_it_is_asked_for() {
    let (bmc, redfish) = start(Bmc { attributes: json!({"Vt": "Disabled"}), ..Bmc::default() }).await;
    redfish.check_reset().await.unwrap();
    bmc.lock().unwrap().keeps_settings = true;
    let error = redfish.check_reset().await.unwrap_err();
    assert!(matches!(&error, OutOfBandError::Unsupported(text) if text.contains("no action ResetBios")), "{error}");
    assert!(bmc.lock().unwrap().sent.is_empty());
}

#[tokio::test]
async fn a_registry_is_found_by_the_version_of_its_file_and_in_whatever_language_there_is() {
    let attributes = json!({"Vt": "Disabled"});
    let at = |path: &str| json!({"@odata.id": path});
    let entry = json!({"AttributeName": "Vt", "Type": "Enumeration", "Value": [{"ValueName": "Enabled"}, {"ValueName": "Disabled"}]});
    let registry = json!({"RegistryEntries": {"Attributes": [entry]}});
    let location = json!([{"Language": "zh", "Uri": "/r/zh.json"}]);
    let of = |name: &'static str, member: &'static str, called: &str, location: &Value| {
        let file = json!({"Registry": called, "Location": location});
        (
            name,
            vec![
                ("/r", json!({"Members": [at("/r/Base.1.8"), at(member)]})),
                (member, file),
                ("/r/zh.json", registry.clone()),
            ],
        )
    };
    let nowhere = json!([{"Language": "en", "Uri": "/r/gone.json"}]);
    for (registry, knows) in [
        (
            of("BiosAttributeRegistry.1.0.0", "/r/BiosAttributeRegistry.1.0", "BiosAttributeRegistry.1.0", &location),
            true,
        ),
        (of("Setup.2.1", "/r/Setup.2.1", "Setup.2.1", &location), true),
        (
            of(
                "BiosAttributeRegistry.1.0.0",
                "/r/NetworkAttributeRegistry.1.0",
                "NetworkAttributeRegistry.1.0",
                &location,
            ),
            false,
        ),
        (of("Setup.2.1", "/r/Setup.2.1", "Setup.2.1", &nowhere), false),
    ] {
        let (_, redfish) =
            start(Bmc { attributes: attributes.clone(), registry: Some(registry), ..Bmc::default() }).await;
        let checked = redfish.check_bios(&values(json!({"Vt": "Perhaps"}))).await;
        // Without a registry any text may be a choice.
        assert_eq!(checked.is_err(), knows, "{checked:?}");
        if let Err(error) = checked {
            assert!(error.to_string().contains("\"Perhaps\" is none of Enabled, Disabled"), "{error}");
        }
    }
}
