//! A BMC in this process, with a layout of paths that no vendor uses, so that only links lead anywhere, and with the
//! faults that real ones have.

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use bmc::{Limits, Redfish, Settings};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use transport::tls::Identity;

pub(crate) const SYSTEM: &str = "/redfish/v1/inventory/machines/node-7";
pub(crate) const DRIVE: &str = "/redfish/v1/inventory/media/cd0";
pub(crate) const PASSWORD: &str = "correct horse";

/// Behaviour and state; the default is a BMC that does all at once and everything right.
pub(crate) struct Bmc {
    pub(crate) power: &'static str,
    /// What power becomes, and when.
    pub(crate) coming: Option<(Instant, &'static str)>,
    pub(crate) power_takes: Duration,
    /// Resets that are accepted and forgotten.
    pub(crate) lost_resets: u32,
    /// Resets that are answered 400 although they are carried out.
    pub(crate) complains_about_resets: bool,
    pub(crate) reset_types: Option<Vec<&'static str>>,
    pub(crate) reset_types_in_action_info: bool,
    pub(crate) boot_target: String,
    pub(crate) boot_enabled: String,
    pub(crate) boot_mode: String,
    pub(crate) boot_targets: Vec<&'static str>,
    pub(crate) ignores_once: bool,
    pub(crate) ignores_boot: bool,
    pub(crate) cd_needs_medium: bool,
    pub(crate) image: Option<String>,
    pub(crate) media_under_manager: bool,
    /// The system has a link to virtual media that leads nowhere.
    pub(crate) dead_media_link: bool,
    pub(crate) insertion_takes: Duration,
    pub(crate) inserting: Option<(Instant, String)>,
    pub(crate) insertion_breaks: bool,
    pub(crate) wants_transfer_method: bool,
    pub(crate) has_media_actions: bool,
    /// Statuses for the next requests to a path.
    pub(crate) fail: Vec<(Method, String, u16)>,
    pub(crate) retry_after: Option<&'static str>,
    pub(crate) etags_required: bool,
    pub(crate) version: u32,
    pub(crate) auth_required: bool,
    pub(crate) has_sessions: bool,
    pub(crate) sessions_are_full: bool,
    pub(crate) session_lasts: u32,
    pub(crate) tokens: Vec<(String, u32)>,
    pub(crate) logins: u32,
    pub(crate) systems: Vec<String>,
    pub(crate) pages_in_a_circle: bool,
    pub(crate) root_redirects_to: Option<String>,
    pub(crate) systems_link: String,
    pub(crate) giant_system: bool,
    pub(crate) deep_system: bool,
    /// `METHOD path` of every request, with the kind of authorisation.
    pub(crate) log: Vec<String>,
}

impl Default for Bmc {
    fn default() -> Self {
        Self {
            power: "Off",
            coming: None,
            power_takes: Duration::ZERO,
            lost_resets: 0,
            complains_about_resets: false,
            reset_types: Some(vec!["On", "ForceOff", "GracefulShutdown", "ForceRestart"]),
            reset_types_in_action_info: false,
            boot_target: "Hdd".into(),
            boot_enabled: "Continuous".into(),
            boot_mode: "UEFI".into(),
            boot_targets: vec!["Pxe", "Cd", "Hdd", "UefiHttp"],
            ignores_once: false,
            ignores_boot: false,
            cd_needs_medium: false,
            image: None,
            media_under_manager: false,
            dead_media_link: false,
            insertion_takes: Duration::ZERO,
            inserting: None,
            insertion_breaks: false,
            wants_transfer_method: false,
            has_media_actions: true,
            fail: Vec::new(),
            retry_after: None,
            etags_required: false,
            version: 1,
            auth_required: false,
            has_sessions: false,
            sessions_are_full: false,
            session_lasts: u32::MAX,
            tokens: Vec::new(),
            logins: 0,
            systems: vec![SYSTEM.into()],
            pages_in_a_circle: false,
            root_redirects_to: None,
            systems_link: "/redfish/v1/inventory/machines".into(),
            giant_system: false,
            deep_system: false,
            log: Vec::new(),
        }
    }
}

/// The running service.
pub(crate) struct Fake {
    bmc: Arc<Mutex<Bmc>>,
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn start(bmc: Bmc) -> Self {
        let bmc = Arc::new(Mutex::new(bmc));
        let app = axum::Router::new().fallback(answer).with_state(bmc.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { bmc, address, task }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Bmc> {
        self.bmc.lock().unwrap()
    }

    /// The same over TLS, and the certificate that it shows, PEM.
    pub(crate) async fn start_tls(bmc: Bmc) -> (Self, String) {
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        let identity = Identity::generate("bmc", loopback, SystemTime::now()).unwrap();
        let settings =
            transport::server::Settings { tls: Some(identity.server_config("1.2").unwrap()), ..Default::default() };
        let bmc = Arc::new(Mutex::new(bmc));
        let app = axum::Router::new().fallback(answer).with_state(bmc.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(transport::server::serve(listener, app, settings, CancellationToken::new()));
        (Self { bmc, address, task }, identity.certificate)
    }

    /// A client with the usual credentials and more keys.
    pub(crate) async fn client(&self, more: Value) -> Redfish {
        let mut info = json!({
            "redfish_address": format!("http://{}", self.address),
            "redfish_username": "admin",
            "redfish_password": PASSWORD,
        });
        info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings = Settings::from_driver_info(info.as_object().unwrap()).unwrap();
        Redfish::new(settings, limits()).await.unwrap()
    }

    /// How often a request was made.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.state().log.iter().filter(|line| line.starts_with(request)).count()
    }
}

/// Limits with which a test ends soon.
pub(crate) fn limits() -> Limits {
    Limits {
        request: Duration::from_secs(5),
        reply_bytes: 64 << 10,
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(20),
        poll: Duration::from_millis(5),
        power: Duration::from_millis(600),
        settle: Duration::from_millis(300),
        ..Limits::default()
    }
}

async fn answer(
    Shared(bmc): Shared<Arc<Mutex<Bmc>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut bmc = bmc.lock().unwrap();
    bmc.settle();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    bmc.handle(&method, uri.path(), &headers, &body)
}

fn refuse(status: u16, message: &str) -> Response {
    let body = json!({ "error": { "code": "Base.1.8.GeneralError", "message": message } });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

impl Bmc {
    /// Lets what was started and is due become true.
    fn settle(&mut self) {
        if let Some((_, power)) = self.coming.take_if(|(at, _)| *at <= Instant::now()) {
            self.power = power;
        }
        if let Some((_, image)) = self.inserting.take_if(|(at, _)| *at <= Instant::now()) {
            self.image = Some(image);
        }
    }

    fn handle(&mut self, method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> Response {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let kind = match (header("x-auth-token"), header("authorization")) {
            (Some(_), _) => "token",
            (_, Some(_)) => "basic",
            _ => "nobody",
        };
        self.log.push(format!("{method} {path} {kind}"));
        if let Some(place) = self.fail.iter().position(|(m, p, _)| m == method && p == path) {
            let status = self.fail.remove(place).2;
            let mut response = refuse(status, "the BMC is busy with itself");
            if let Some(after) = self.retry_after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        let open = path == "/redfish/v1/" || path == "/redfish/v1/seats" && *method == Method::POST;
        if self.auth_required && !open && !self.knows(header("x-auth-token"), header("authorization")) {
            return refuse(401, "who are you?");
        }
        match (method.as_str(), path) {
            ("GET", "/redfish/v1/") => self.root(),
            ("POST", "/redfish/v1/seats") => self.log_in(body),
            ("DELETE", path) if path.starts_with("/redfish/v1/seats/") => {
                self.tokens.retain(|(token, _)| !path.ends_with(token.as_str()));
                StatusCode::NO_CONTENT.into_response()
            }
            ("GET", "/redfish/v1/inventory/machines") => {
                let mut page = collection(&self.systems);
                if self.pages_in_a_circle {
                    page["Members@odata.nextLink"] = "/redfish/v1/inventory/machines".into();
                }
                axum::Json(page).into_response()
            }
            ("GET", path) if self.systems.iter().any(|system| system == path) => self.system(path),
            ("PATCH", SYSTEM) => self.set_boot(header("if-match"), body),
            ("GET", "/redfish/v1/do/reset/info") => axum::Json(json!({
                "Parameters": [{ "Name": "ResetType", "AllowableValues": self.reset_types }]
            }))
            .into_response(),
            ("POST", "/redfish/v1/do/reset") => self.reset(body),
            ("GET", "/redfish/v1/mgr/a") => {
                let link = json!({ "@odata.id": "/redfish/v1/inventory/media" });
                let media = if self.media_under_manager { link } else { Value::Null };
                axum::Json(json!({ "Id": "a", "VirtualMedia": media })).into_response()
            }
            ("GET", "/redfish/v1/inventory/media") => {
                axum::Json(collection(&["/redfish/v1/inventory/media/floppy".into(), DRIVE.into()])).into_response()
            }
            ("GET", "/redfish/v1/inventory/media/floppy") => {
                axum::Json(json!({ "Id": "floppy", "MediaTypes": ["Floppy", "USBStick"] })).into_response()
            }
            ("GET", DRIVE) => self.drive(),
            ("POST", "/redfish/v1/do/insert") => self.insert(body),
            ("POST", "/redfish/v1/do/eject") => {
                self.image = None;
                StatusCode::NO_CONTENT.into_response()
            }
            ("PATCH", DRIVE) => {
                self.image = body["Image"].as_str().map(str::to_owned);
                StatusCode::NO_CONTENT.into_response()
            }
            ("GET", "/redfish/v1/inventory/cards") => axum::Json(collection(&[
                "/redfish/v1/inventory/cards/0".into(),
                "/redfish/v1/inventory/cards/1".into(),
                "/redfish/v1/inventory/cards/gone".into(),
            ]))
            .into_response(),
            ("GET", "/redfish/v1/inventory/cards/0") => {
                axum::Json(json!({ "MACAddress": "52:54:00:AA:BB:01" })).into_response()
            }
            ("GET", "/redfish/v1/inventory/cards/1") => {
                axum::Json(json!({ "MACAddress": "", "PermanentMACAddress": "52-54-00-aa-bb-02" })).into_response()
            }
            _ => refuse(404, "there is no such resource"),
        }
    }

    fn knows(&mut self, token: Option<&str>, basic: Option<&str>) -> bool {
        if let Some(token) = token {
            let Some(entry) = self.tokens.iter_mut().find(|(known, _)| known == token) else { return false };
            entry.1 = entry.1.saturating_sub(1);
            return entry.1 > 0;
        }
        let wanted = base64::engine::general_purpose::STANDARD.encode(format!("admin:{PASSWORD}"));
        basic == Some(format!("Basic {wanted}").as_str())
    }

    fn root(&self) -> Response {
        if let Some(target) = &self.root_redirects_to {
            return (StatusCode::TEMPORARY_REDIRECT, [("location", target.clone())]).into_response();
        }
        let mut root = json!({
            "RedfishVersion": "1.9.0",
            "Systems": { "@odata.id": self.systems_link },
            "Managers": { "@odata.id": "/redfish/v1/mgr" },
        });
        if self.has_sessions {
            root["Links"] = json!({ "Sessions": { "@odata.id": "/redfish/v1/seats" } });
        }
        axum::Json(root).into_response()
    }

    fn log_in(&mut self, body: &Value) -> Response {
        self.logins += 1;
        if self.sessions_are_full {
            return refuse(503, "no session is free");
        }
        if body["UserName"] != "admin" || body["Password"] != PASSWORD {
            return refuse(401, "wrong password");
        }
        let token = format!("token-{}", self.logins);
        self.tokens.push((token.clone(), self.session_lasts));
        let location = format!("/redfish/v1/seats/{token}");
        (StatusCode::CREATED, [("x-auth-token", token), ("location", location)], "{}").into_response()
    }

    fn system(&self, path: &str) -> Response {
        if self.deep_system {
            return format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)).into_response();
        }
        let mut reset = Map::new();
        reset.insert("target".into(), "/redfish/v1/do/reset".into());
        match &self.reset_types {
            _ if self.reset_types_in_action_info => {
                reset.insert("@Redfish.ActionInfo".into(), "/redfish/v1/do/reset/info".into());
            }
            Some(types) => {
                reset.insert("ResetType@Redfish.AllowableValues".into(), json!(types));
            }
            None => {}
        }
        let mut system = json!({
            "@odata.id": path,
            "Id": path.rsplit('/').next(),
            "UUID": "2222AAAA-2222-3333-4444-555555555555",
            "SerialNumber": "S-77",
            "Manufacturer": "Acme",
            "Model": "Anvil",
            "PowerState": self.power,
            "Boot": {
                "BootSourceOverrideTarget": self.boot_target,
                "BootSourceOverrideEnabled": self.boot_enabled,
                "BootSourceOverrideMode": self.boot_mode,
                "BootSourceOverrideTarget@Redfish.AllowableValues": self.boot_targets,
            },
            "EthernetInterfaces": { "@odata.id": "/redfish/v1/inventory/cards" },
            "Links": { "ManagedBy": [{ "@odata.id": "/redfish/v1/mgr/a" }] },
            "Actions": { "#ComputerSystem.Reset": reset },
        });
        if self.dead_media_link {
            system["VirtualMedia"] = json!({ "@odata.id": "/redfish/v1/nowhere" });
        } else if !self.media_under_manager {
            system["VirtualMedia"] = json!({ "@odata.id": "/redfish/v1/inventory/media" });
        }
        if self.giant_system {
            system["Oem"] = json!({ "Padding": "x".repeat(100 << 10) });
        }
        let mut response = axum::Json(system).into_response();
        if self.etags_required {
            response.headers_mut().insert("etag", format!("W/\"{}\"", self.version).parse().unwrap());
        }
        response
    }

    fn set_boot(&mut self, if_match: Option<&str>, body: &Value) -> Response {
        if self.etags_required {
            // Wants the strong form of what it gave as weak.
            let wanted = format!("\"{}\"", self.version);
            match if_match {
                None => return refuse(428, "If-Match is required"),
                Some(given) if given != wanted => return refuse(412, "the resource has changed"),
                Some(_) => {}
            }
        }
        let boot = &body["Boot"];
        if boot["BootSourceOverrideTarget"] == "Cd" && self.cd_needs_medium && self.image.is_none() {
            return refuse(500, "no medium");
        }
        if !self.ignores_boot {
            let text = |key: &str| boot[key].as_str().map(str::to_owned);
            self.boot_target = text("BootSourceOverrideTarget").unwrap_or_default();
            self.boot_enabled = text("BootSourceOverrideEnabled").unwrap_or_default();
            if self.ignores_once {
                self.boot_enabled = "Continuous".into();
            }
            if let Some(mode) = text("BootSourceOverrideMode") {
                self.boot_mode = mode;
            }
        }
        self.version += 1;
        StatusCode::NO_CONTENT.into_response()
    }

    fn reset(&mut self, body: &Value) -> Response {
        let power = match body["ResetType"].as_str() {
            Some("On" | "ForceOn" | "ForceRestart" | "PowerCycle") => "On",
            Some("ForceOff" | "GracefulShutdown") => "Off",
            _ => return refuse(400, "unknown ResetType"),
        };
        if self.lost_resets > 0 {
            self.lost_resets -= 1;
        } else {
            self.coming = Some((Instant::now() + self.power_takes, power));
        }
        if self.complains_about_resets {
            return refuse(400, "cannot be done in this state");
        }
        StatusCode::NO_CONTENT.into_response()
    }

    fn drive(&self) -> Response {
        let mut drive = json!({
            "Id": "cd0",
            "MediaTypes": ["CD", "DVD"],
            "Inserted": self.image.is_some(),
            "Image": self.image,
        });
        if self.has_media_actions {
            drive["Actions"] = json!({
                "#VirtualMedia.InsertMedia": { "target": "/redfish/v1/do/insert" },
                "#VirtualMedia.EjectMedia": { "target": "/redfish/v1/do/eject" },
            });
        }
        axum::Json(drive).into_response()
    }

    fn insert(&mut self, body: &Value) -> Response {
        if self.wants_transfer_method && body.get("TransferMethod").is_none() {
            return refuse(400, "The property TransferMethod is missing.");
        }
        if self.image.is_some() {
            return refuse(400, "a medium is inserted already");
        }
        let image = body["Image"].as_str().unwrap_or_default().to_owned();
        if self.insertion_breaks {
            self.image = Some(image);
            return refuse(500, "the storage pool is missing");
        }
        self.inserting = Some((Instant::now() + self.insertion_takes, image));
        StatusCode::NO_CONTENT.into_response()
    }
}

fn collection(members: &[String]) -> Value {
    let members: Vec<_> = members.iter().map(|path| json!({ "@odata.id": path })).collect();
    json!({ "Members@odata.count": members.len(), "Members": members })
}
