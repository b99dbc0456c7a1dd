//! Requests to one BMC: who we are, where we may go, what may be tried again.

use crate::error::RedfishError;
use crate::redfish::Limits;
use crate::resource::{Resource, complaint};
use crate::settings::{AuthType, Credentials, Origin, Settings, Verify};
use base64::Engine as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;
use transport::client::{Client, ClientError, Reply, Streamed, Trust};

/// The only path that the Redfish standard fixes (DSP0266, "Service root request").
pub(crate) const ROOT: &str = "/redfish/v1/";
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// Members of a collection that are read; no chassis has more systems, managers, media or network cards.
const MOST_MEMBERS: usize = 256;
const MOST_REDIRECTS: usize = 3;
/// Bytes of a file that are in memory while it is sent.
const PIECE: usize = 64 << 10;

pub(crate) struct Connection {
    client: Client,
    /// For files, which take longer.
    pushes: Client,
    origin: Origin,
    credentials: Option<Credentials>,
    auth: AuthType,
    limits: Limits,
    login: Mutex<Login>,
}

/// How requests are authorised at the moment.
enum Login {
    /// Not tried yet, or the session ended.
    None,
    /// With the password; the BMC has no sessions, or none to spare.
    Basic,
    /// With a session; its resource is deleted at the end.
    Session { token: HeaderValue, resource: Option<String> },
}

/// The body of a request.
struct Payload {
    kind: HeaderValue,
    content: Content,
}

enum Content {
    Whole(Bytes),
    Form(Form),
}

impl Payload {
    fn json(value: &Value) -> Self {
        let kind = HeaderValue::from_static("application/json");
        Self { kind, content: Content::Whole(Bytes::from(value.to_string())) }
    }

    /// The body to be sent now, and its length.
    async fn body(&self) -> std::io::Result<(Streamed, u64)> {
        match &self.content {
            Content::Whole(bytes) => {
                let body = Full::new(bytes.clone()).map_err(|never| match never {});
                Ok((body.boxed_unsync(), bytes.len() as u64))
            }
            Content::Form(form) => form.body().await,
        }
    }
}

/// A file between the head and the tail of a form.
struct Form {
    head: String,
    file: PathBuf,
    size: u64,
    tail: String,
}

impl Form {
    /// The two parts of an update, and the content type (RFC 7578). The boundary is chosen by chance, and so long that no file
    /// has it in it by chance (RFC 2046, 5.1.1).
    async fn of_update(parameters: &Value, file: &Path) -> std::io::Result<(String, Self)> {
        let random: [u8; 24] = rand::random();
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let boundary = format!("ferric-update-{random}");
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"UpdateParameters\"\r\n\
             Content-Type: application/json\r\n\r\n{parameters}\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"UpdateFile\"; filename=\"firmware.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let size = tokio::fs::metadata(file).await?.len();
        Ok((format!("multipart/form-data; boundary={boundary}"), Self { head, file: file.to_owned(), size, tail }))
    }

    async fn body(&self) -> std::io::Result<(Streamed, u64)> {
        let file = tokio::fs::File::open(&self.file).await?;
        let (head, tail) = (Cursor::new(self.head.clone()), Cursor::new(self.tail.clone()));
        let stream = ReaderStream::with_capacity(head.chain(file.take(self.size)).chain(tail), PIECE);
        let length = (self.head.len() + self.tail.len()) as u64 + self.size;
        Ok((StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync(), length))
    }
}

/// What goes into a request.
struct Ticket {
    header: Option<(HeaderName, HeaderValue)>,
    session: bool,
}

impl Connection {
    pub(crate) async fn new(settings: &Settings, limits: Limits) -> Result<Self, RedfishError> {
        let trust = match &settings.verify {
            Verify::Public => Trust::Public,
            Verify::Nothing => Trust::Anybody,
            Verify::Ca(path) => Trust::Only(
                certificates(path)
                    .await
                    .map_err(|source| RedfishError::CaFile { path: path.display().to_string(), source })?,
            ),
        };
        let client = transport::client::Settings {
            trust,
            connect_timeout: limits.connect,
            timeout: limits.request,
            body_limit: limits.reply_bytes,
            ..transport::client::Settings::default()
        };
        let client = Client::new(client).map_err(RedfishError::Trust)?;
        Ok(Self {
            pushes: client.within(limits.push),
            client,
            origin: settings.address.clone(),
            credentials: settings.credentials.clone(),
            auth: settings.auth,
            limits,
            login: Mutex::new(Login::None),
        })
    }

    pub(crate) fn bmc(&self) -> String {
        self.origin.to_string()
    }

    /// Reads the service root.
    pub(crate) async fn root(&self) -> Result<Resource, RedfishError> {
        match self.open_root().await? {
            Some(root) => Ok(root),
            None => self.get(ROOT, ROOT).await,
        }
    }

    /// Reads the service root as nobody: the standard wants it open to everybody. `None` where it is not.
    async fn open_root(&self) -> Result<Option<Resource>, RedfishError> {
        // Boxed, since sending in our name may need the links of the root first, and so comes here.
        match Box::pin(self.send(Method::GET, ROOT.to_owned(), None, None, false)).await {
            Ok((path, reply)) => Ok(Some(self.resource(path, &reply)?)),
            Err(RedfishError::Denied { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a resource.
    pub(crate) async fn get(&self, from: &str, link: &str) -> Result<Resource, RedfishError> {
        let path = self.path(from, link)?;
        let (path, reply) = self.request(Method::GET, path, None, None).await?;
        self.resource(path, &reply)
    }

    /// The paths of a collection's members, over all its pages.
    pub(crate) async fn members(&self, from: &str, link: &str) -> Result<Vec<String>, RedfishError> {
        let (mut seen, mut members) = (BTreeSet::new(), Vec::new());
        let mut page = self.path(from, link)?;
        loop {
            if !seen.insert(page.clone()) {
                return Err(self.malformed(&page, "the pages of the collection go in a circle"));
            }
            let resource = self.get(from, &page).await?;
            for member in resource.links(&["Members"]) {
                let member = self.path(&resource.path, &member)?;
                if !members.contains(&member) {
                    members.push(member);
                }
            }
            if members.len() > MOST_MEMBERS || seen.len() > MOST_MEMBERS {
                return Err(self.malformed(&page, "the collection has more than 256 members"));
            }
            match resource.text(&["Members@odata.nextLink"]) {
                Some(next) => page = self.path(&resource.path, next)?,
                None => return Ok(members),
            }
        }
    }

    /// Changes properties of a resource, on the version that was read if the BMC gave one.
    ///
    /// All our changes are absolute values, so a change that was made twice is the same change.
    pub(crate) async fn patch(&self, resource: &Resource, body: &Value) -> Result<(), RedfishError> {
        self.begin_patch(resource, body).await.map(drop)
    }

    /// The same; returns where it can be followed when the BMC has only accepted it (202).
    pub(crate) async fn begin_patch(&self, resource: &Resource, body: &Value) -> Result<Option<String>, RedfishError> {
        let path = resource.path.clone();
        let first = self.request(Method::PATCH, path.clone(), Some(body), resource.etag.as_deref()).await;
        let (path, reply) = match first {
            Err(RedfishError::Refused { status: status @ (412 | 428), .. }) => {
                let fresh = self.get(&path, &path).await?;
                // Some BMCs hand out weak validators and then want the strong form (RFC 9110, 13.1.1), and some hand out none
                // and want one (RFC 6585, 3).
                let etag = fresh.etag.as_deref().map(|etag| etag.strip_prefix("W/").unwrap_or(etag));
                let etag = etag.or((status == 428).then_some("*"));
                self.request(Method::PATCH, path, Some(body), etag).await?
            }
            other => other?,
        };
        Ok(self.task_of(&path, &reply).filter(|_| reply.status == StatusCode::ACCEPTED))
    }

    /// Calls an action. Never repeated once the BMC may have seen it.
    pub(crate) async fn post(&self, from: &str, link: &str, body: &Value) -> Result<(), RedfishError> {
        let path = self.path(from, link)?;
        self.request(Method::POST, path, Some(body), None).await.map(drop)
    }

    /// The same, for actions that begin something: where it can be followed, if the BMC says so (DSP0266,
    /// "Asynchronous operations").
    pub(crate) async fn begin(&self, from: &str, link: &str, body: &Value) -> Result<Option<String>, RedfishError> {
        let path = self.path(from, link)?;
        let (path, reply) = self.request(Method::POST, path, Some(body), None).await?;
        Ok(self.task_of(&path, &reply))
    }

    /// Sends a file together with what is to be done with it (DSP0266, "Multipart HTTP push updates").
    pub(crate) async fn push(
        &self,
        from: &str,
        link: &str,
        parameters: &Value,
        file: &Path,
    ) -> Result<Option<String>, RedfishError> {
        let path = self.path(from, link)?;
        let unread = |source| RedfishError::Image { path: file.display().to_string(), source };
        let (kind, form) = Form::of_update(parameters, file).await.map_err(unread)?;
        let kind = HeaderValue::from_str(&kind).map_err(|_| self.malformed(&path, "its upload has no boundary"))?;
        let payload = Payload { kind, content: Content::Form(form) };
        let (path, reply) = self.send(Method::POST, path, Some(&payload), None, true).await?;
        Ok(self.task_of(&path, &reply))
    }

    fn task_of(&self, path: &str, reply: &Reply) -> Option<String> {
        let body: Option<Map<String, Value>> = wire::json::read(&reply.body).ok();
        let text = |key: &str| body.as_ref()?.get(key)?.as_str();
        let is_task = text("@odata.type").is_some_and(|kind| kind.contains("Task"));
        let of_body = text("@odata.id").filter(|_| is_task);
        let header = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        of_body.or(header).and_then(|link| self.path(path, link).ok())
    }

    /// What a path answers, whatever it is: `None` while that is 202, and nothing for no object.
    pub(crate) async fn look(&self, path: &str) -> Result<Option<Map<String, Value>>, RedfishError> {
        let (_, reply) = self.request(Method::GET, path.to_owned(), None, None).await?;
        let body: Option<Map<String, Value>> = wire::json::read(&reply.body).ok();
        match (reply.status, body) {
            (StatusCode::ACCEPTED, Some(body)) if body.contains_key("TaskState") => Ok(Some(body)),
            (StatusCode::ACCEPTED, _) => Ok(None),
            (_, body) => Ok(Some(body.unwrap_or_default())),
        }
    }

    /// Ends the session, if there is one; BMCs have few and forget them late.
    pub(crate) async fn close(&self) {
        let login = std::mem::replace(&mut *self.login.lock().await, Login::None);
        if let Login::Session { token, resource: Some(path) } = login {
            let ticket = Ticket { header: Some((TOKEN, token)), session: true };
            if let Err(error) = self.once(&Method::DELETE, &path, None, None, &ticket).await {
                let error = transport::client::chain(&error);
                tracing::debug!(bmc = %self.origin, error, "session not ended");
            }
        }
    }

    /// A link as a path of this BMC.
    pub(crate) fn path(&self, from: &str, link: &str) -> Result<String, RedfishError> {
        let link = link.split('#').next().unwrap_or_default();
        if link.starts_with('/') && !link.starts_with("//") {
            // Checks the characters too.
            self.origin.url(link).map_err(|_| self.malformed(from, &format!("{} is not a path", short(link))))?;
            return Ok(link.to_owned());
        }
        let uri: Uri = link.parse().map_err(|_| self.malformed(from, &format!("{} is not a link", short(link))))?;
        match Origin::of(&uri) {
            Some(origin) if origin == self.origin => {
                Ok(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned())
            }
            _ if uri.scheme().is_none() && !link.starts_with("//") => {
                Err(self.malformed(from, &format!("{} is neither a path nor a URL", short(link))))
            }
            _ => Err(RedfishError::Elsewhere { bmc: self.bmc(), resource: from.to_owned(), link: short(link) }),
        }
    }

    fn malformed(&self, resource: &str, problem: &str) -> RedfishError {
        RedfishError::Malformed { bmc: self.bmc(), resource: resource.to_owned(), problem: problem.to_owned() }
    }

    fn resource(&self, path: String, reply: &Reply) -> Result<Resource, RedfishError> {
        let value: Map<String, Value> = wire::json::read(&reply.body)
            .map_err(|error| self.malformed(&path, &format!("not a JSON object: {error}")))?;
        let header = reply.headers.get(ETAG).and_then(|etag| etag.to_str().ok());
        let etag = header.or_else(|| value.get("@odata.etag").and_then(Value::as_str)).map(str::to_owned);
        Ok(Resource { bmc: self.bmc(), path, value, etag })
    }

    /// Sends a request in our name. Returns where the answer came from, too.
    async fn request(
        &self,
        method: Method,
        path: String,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<(String, Reply), RedfishError> {
        let payload = body.map(Payload::json);
        self.send(method, path, payload.as_ref(), if_match, true).await
    }

    /// Sends a request until it is answered, refused or not worth another try; `named` says whether in our name.
    async fn send(
        &self,
        method: Method,
        mut path: String,
        body: Option<&Payload>,
        if_match: Option<&str>,
        named: bool,
    ) -> Result<(String, Reply), RedfishError> {
        // POST is the one method of ours that does something again when it is sent again.
        let repeatable = method != Method::POST;
        let (mut tries, mut renewed, mut redirects) = (0, false, 0);
        loop {
            let ticket = if named { self.ticket().await? } else { Ticket { header: None, session: false } };
            let outcome = self.once(&method, &path, body, if_match, &ticket).await;
            tries += 1;
            let last = tries >= self.limits.tries;
            match outcome {
                Ok(reply) if reply.status.is_success() => return Ok((path, reply)),
                Ok(reply) if reply.status == StatusCode::UNAUTHORIZED && ticket.session && !renewed => {
                    tracing::debug!(bmc = %self.origin, "session ended; logging in again");
                    renewed = true;
                    tries -= 1;
                    self.forget(&ticket).await;
                }
                Ok(reply) if reply.status.is_redirection() && method == Method::GET && redirects < MOST_REDIRECTS => {
                    redirects += 1;
                    tries -= 1;
                    let target = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok());
                    let target = target.ok_or_else(|| self.malformed(&path, "a redirect to nowhere"))?;
                    path = self.path(&path, target)?;
                }
                Ok(reply) if repeatable && !last && is_transient(reply.status) => {
                    let asked = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                    let pause = asked.map_or(self.limits.pause * tries, Duration::from_secs);
                    tracing::debug!(bmc = %self.origin, %method, path, status = reply.status.as_u16(), "trying again");
                    tokio::time::sleep(pause.min(self.limits.longest_pause)).await;
                }
                Ok(reply) => return Err(self.refusal(&method, path, &reply)),
                Err(error @ RedfishError::Unreachable { unsent, .. }) if !last && (repeatable || unsent) => {
                    let error = transport::client::chain(&error);
                    tracing::debug!(bmc = %self.origin, %method, path, error, "trying again");
                    tokio::time::sleep((self.limits.pause * tries).min(self.limits.longest_pause)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one request, once.
    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Payload>,
        if_match: Option<&str>,
        ticket: &Ticket,
    ) -> Result<Reply, RedfishError> {
        let url = self.origin.url(path).map_err(|_| self.malformed(path, "the path is not one"))?;
        let mut request = Request::builder().method(method.clone()).uri(url).header("OData-Version", "4.0");
        if let Some((name, value)) = &ticket.header {
            request = request.header(name.clone(), value.clone());
        }
        if let Some(etag) = if_match {
            request = request.header(IF_MATCH, etag);
        }
        let mut streamed = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut client = &self.client;
        if let Some(payload) = body {
            let (content, length) = payload.body().await.map_err(|source| match &payload.content {
                Content::Form(form) => RedfishError::Image { path: form.file.display().to_string(), source },
                Content::Whole(_) => self.malformed(path, &source.to_string()),
            })?;
            streamed = content;
            request = request.header(CONTENT_TYPE, payload.kind.clone()).header(CONTENT_LENGTH, length);
            if matches!(payload.content, Content::Form(_)) {
                client = &self.pushes;
            }
        }
        let request = request.body(streamed).map_err(|_| self.malformed(path, "its ETag cannot be sent back"))?;
        let outcome = client.send_streamed(request).await;
        match &outcome {
            Ok(reply) => tracing::trace!(bmc = %self.origin, %method, path, status = reply.status.as_u16()),
            Err(error) => tracing::trace!(bmc = %self.origin, %method, path, %error),
        }
        outcome.map_err(|source| match source {
            ClientError::Body { source: transport::body::BodyError::TooLarge { limit }, .. } => {
                self.malformed(path, &format!("the answer is larger than {limit} bytes"))
            }
            source => {
                let unsent = matches!(source, ClientError::Connection { unsent: true, .. });
                RedfishError::Unreachable { bmc: self.bmc(), source, unsent }
            }
        })
    }

    fn refusal(&self, method: &Method, resource: String, reply: &Reply) -> RedfishError {
        let status = reply.status.as_u16();
        if matches!(status, 401 | 403) {
            return RedfishError::Denied { bmc: self.bmc(), resource, status };
        }
        let message = complaint(&reply.body);
        RedfishError::Refused { bmc: self.bmc(), method: method.clone(), resource, status, message, hint: "" }
    }

    /// How to authorise the next request; logs in when that is due.
    async fn ticket(&self) -> Result<Ticket, RedfishError> {
        let Some(credentials) = &self.credentials else {
            return Ok(Ticket { header: None, session: false });
        };
        if self.auth == AuthType::Basic {
            return Ok(basic(credentials));
        }
        let mut login = self.login.lock().await;
        if matches!(*login, Login::None) {
            *login = self.log_in(credentials).await?;
        }
        Ok(match &*login {
            Login::Session { token, .. } => Ticket { header: Some((TOKEN, token.clone())), session: true },
            Login::None | Login::Basic => basic(credentials),
        })
    }

    /// Forgets a session that has ended, unless somebody else has already made a new one.
    async fn forget(&self, ticket: &Ticket) {
        let mut login = self.login.lock().await;
        if let (Login::Session { token, .. }, Some((_, used))) = (&*login, &ticket.header)
            && token == used
        {
            *login = Login::None;
        }
    }

    /// Makes a session (DSP0266, "Session login"). `Auto` falls back to the password where there are no sessions or
    /// none to spare, but never after a refusal: a second wrong password brings an account closer to being locked.
    async fn log_in(&self, credentials: &Credentials) -> Result<Login, RedfishError> {
        let root = self.open_root().await?;
        let sessions = root.as_ref().and_then(|root| root.link(&["Links", "Sessions"]));
        let Some(sessions) = sessions else {
            return match self.auth {
                AuthType::Session => Err(RedfishError::Unsupported {
                    bmc: self.bmc(),
                    resource: ROOT.to_owned(),
                    what: "no sessions are offered; set driver_info.redfish_auth_type to basic".to_owned(),
                }),
                AuthType::Auto | AuthType::Basic => Ok(Login::Basic),
            };
        };
        let sessions = self.path(ROOT, sessions)?;
        let body =
            Payload::json(&json!({ "UserName": credentials.username, "Password": credentials.password.reveal() }));
        match Box::pin(self.send(Method::POST, sessions.clone(), Some(&body), None, false)).await {
            Ok((path, reply)) => {
                let token = reply.headers.get(TOKEN);
                let token = token.ok_or_else(|| self.malformed(&path, "a session without X-Auth-Token"))?;
                let mut token = token.clone();
                token.set_sensitive(true);
                let resource = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok());
                let resource = resource.and_then(|link| self.path(&path, link).ok());
                Ok(Login::Session { token, resource })
            }
            Err(error @ RedfishError::Refused { .. }) if self.auth == AuthType::Auto => {
                tracing::debug!(error = transport::client::chain(&error), "no session; using the password");
                Ok(Login::Basic)
            }
            Err(error) => Err(error),
        }
    }
}

fn basic(credentials: &Credentials) -> Ticket {
    let text = format!("{}:{}", credentials.username, credentials.password.reveal());
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    // Base64 is always a valid header value.
    let header = HeaderValue::from_str(&text).ok().map(|mut value| {
        value.set_sensitive(true);
        (AUTHORIZATION, value)
    });
    Ticket { header, session: false }
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// A link in a message: what a BMC sends may be long.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// All PEM text of a file, or of the files of a folder.
async fn certificates(path: &Path) -> std::io::Result<String> {
    if !tokio::fs::metadata(path).await?.is_dir() {
        return tokio::fs::read_to_string(path).await;
    }
    let mut text = String::new();
    let mut folder = tokio::fs::read_dir(path).await?;
    while let Some(entry) = folder.next_entry().await? {
        let name = entry.path();
        let is_pem = name.extension().is_some_and(|ext| ext == "pem" || ext == "crt");
        if is_pem && tokio::fs::metadata(&name).await?.is_file() {
            text.push_str(&tokio::fs::read_to_string(&name).await?);
            text.push('\n');
        }
    }
    Ok(text)
}
