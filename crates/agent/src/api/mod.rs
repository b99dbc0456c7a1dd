//! The REST API: requests become commands, records become documents. All decisions about commands are the dispatcher's.
//!
//! Every route answers with and without a trailing slash; where ironic-python-agent redirects (308), this agent answers.

mod documents;

use crate::command::{AgentError, Class, Dispatcher, Record};
use crate::contain;
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use transport::body::BodyError;
use transport::server;
use wire::agent::{CommandRequest, HttpFault};
use wire::json::JsonError;

/// Largest body of a request, bytes. A config drive travels in it as base64 of gzip: 64 MiB is the most that Ironic lets
/// one have unpacked, and a packed one of this size would not fit into a small machine's memory twice.
pub const BODY_LIMIT: usize = 32 << 20;
/// Bodies above this many bytes, or of unknown length, wait for one another.
const LARGE_BODY: u64 = 1 << 20;
/// Large bodies that are read at the same time. Commands run one at a time anyway.
const LARGE_BODIES: usize = 2;
/// Deadline for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections at once from one address: a driver needs a handful.
const CONNECTIONS_PER_PEER: usize = 64;
/// Connections at once. The kernel gives the agent 1024 open files, and whoever connects must not take those of disks and
/// steps.
const CONNECTIONS: usize = 256;

/// How the API is served.
pub fn serving() -> server::Settings {
    let connections_per_peer = Some(CONNECTIONS_PER_PEER);
    server::Settings { connections: CONNECTIONS, connections_per_peer, ..server::Settings::default() }
}

#[derive(Clone)]
struct Api {
    dispatcher: Arc<Dispatcher>,
    scheme: &'static str,
    large_bodies: Arc<Semaphore>,
}

/// The routes over a dispatcher. `tls` tells what scheme links get.
pub fn router(dispatcher: Arc<Dispatcher>, tls: bool) -> Router {
    let scheme = if tls { "https" } else { "http" };
    let api = Api { dispatcher, scheme, large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)) };
    Router::new().fallback(answer).with_state(api)
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Root,
    V1,
    Status,
    Commands,
    Command(String),
}

impl Route {
    /// Reads a path: escapes are decoded, and slashes too many do not count.
    fn of(path: &str) -> Option<Self> {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        let segments: Vec<_> =
            segments.map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8_lossy()).collect();
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        match segments.as_slice() {
            [] => Some(Self::Root),
            ["v1"] => Some(Self::V1),
            // Without a version the only one is meant.
            ["v1", "status"] | ["status"] => Some(Self::Status),
            ["v1", "commands"] | ["commands"] => Some(Self::Commands),
            ["v1", "commands", id] | ["commands", id] => Some(Self::Command((*id).to_owned())),
            _ => None,
        }
    }

    /// The methods that it answers, for `Allow`.
    fn methods(&self) -> &'static str {
        match self {
            Self::Root | Self::V1 | Self::Status => "GET, HEAD",
            Self::Commands => "GET, HEAD, POST",
            Self::Command(_) => "DELETE, GET, HEAD",
        }
    }
}

/// An answer that is not a success.
struct Fault {
    body: HttpFault,
    status: StatusCode,
    /// The methods that would be answered, where the method is what is wrong.
    allow: Option<&'static str>,
}

impl Fault {
    /// A fault of HTTP itself, in the words of the server that the protocol grew up on.
    fn http(status: StatusCode, text: &str) -> Self {
        let reason = status.canonical_reason().unwrap_or_default();
        let body = HttpFault::new(status.as_u16(), format!("{} {reason}: {text}", status.as_u16()));
        Self { body, status, allow: None }
    }
}

impl From<AgentError> for Fault {
    fn from(error: AgentError) -> Self {
        let status = StatusCode::from_u16(error.class.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { body: error.to_fault(), status, allow: None }
    }
}

async fn answer(State(api): State<Api>, request: Request) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let answer = contain::request(api.route(request)).await.unwrap_or_else(|fault| {
        let mut answer = json(fault.status, &fault.body);
        if let Some(methods) = fault.allow {
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(methods));
        }
        answer
    });
    tracing::debug!(%method, path, status = answer.status().as_u16(), "request");
    answer
}

impl Api {
    async fn route(&self, request: Request) -> Result<Response, Fault> {
        let path = request.uri().path().to_owned();
        let Some(route) = Route::of(&path) else {
            let text = "The requested URL was not found on the server. If you entered the URL manually please check \
                        your spelling and try again.";
            return Err(Fault::http(StatusCode::NOT_FOUND, text));
        };
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let posts = *request.method() == Method::POST;
        match route {
            Route::Root if reads => Ok(json(StatusCode::OK, &documents::root(&self.url_root(&request)))),
            Route::V1 if reads => Ok(json(StatusCode::OK, &documents::v1(&self.url_root(&request)))),
            Route::Status if reads => Ok(json(StatusCode::OK, &documents::status(self.dispatcher.agent().started_at))),
            Route::Commands if reads => {
                self.admit(&request)?;
                let commands = self.dispatcher.list().iter().map(|record| record.to_result()).collect();
                Ok(json(StatusCode::OK, &wire::agent::CommandList { commands }))
            }
            Route::Command(ref id) if reads => {
                self.admit(&request)?;
                let record = self.dispatcher.get(id)?;
                Ok(shown(&record, wants_to_wait(&request)).await)
            }
            Route::Commands if posts => {
                self.admit(&request)?;
                let wait = wants_to_wait(&request);
                let record = self.dispatcher.submit(self.read(request).await?).await?;
                Ok(shown(&record, wait).await)
            }
            // An addition of ours: a driver that gives up on a command need not wait for its end.
            Route::Command(ref id) if *request.method() == Method::DELETE => {
                self.admit(&request)?;
                let record = self.dispatcher.cancel(id)?;
                Ok(shown(&record, wants_to_wait(&request)).await)
            }
            Route::Root | Route::V1 | Route::Status | Route::Commands | Route::Command(_) => {
                let text = "The method is not allowed for the requested URL.";
                let allow = Some(route.methods());
                Err(Fault { allow, ..Fault::http(StatusCode::METHOD_NOT_ALLOWED, text) })
            }
        }
    }

    /// Scheme, host and port as the client used them, without the port that the scheme has anyway.
    fn url_root(&self, request: &Request) -> String {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        // Only what a host may consist of goes into links.
        let plain =
            |host: &&str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
        let host = host.filter(plain).unwrap_or("localhost");
        let usual_port = if self.scheme == "https" { ":443" } else { ":80" };
        format!("{}://{}", self.scheme, host.strip_suffix(usual_port).unwrap_or(host))
    }

    fn admit(&self, request: &Request) -> Result<(), Fault> {
        let given = query(request, "agent_token");
        if self.dispatcher.agent().admits(given.as_deref()) {
            Ok(())
        } else {
            Err(Fault::http(StatusCode::UNAUTHORIZED, "Token invalid."))
        }
    }

    /// Reads the body of a command.
    async fn read(&self, request: Request) -> Result<CommandRequest, Fault> {
        let bad = |text: &str| Fault::http(StatusCode::BAD_REQUEST, text);
        let undecodable = |reason: &str| bad(&format!("Failed to decode JSON object: {reason}"));
        // A few bytes that do not come must not keep every other command waiting.
        let is_large = request.body().size_hint().exact().is_none_or(|length| length > LARGE_BODY);
        let _turn = if is_large { self.large_bodies.acquire().await.ok() } else { None };
        let reading = transport::body::read(request.into_body(), BODY_LIMIT);
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error @ BodyError::TooLarge { .. })) => {
                return Err(Fault::http(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()));
            }
            Ok(Err(error @ BodyError::Broken(_))) => return Err(undecodable(&error.to_string())),
            Err(_) => {
                let text = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                return Err(Fault::http(StatusCode::REQUEST_TIMEOUT, &text));
            }
        };
        let body = wire::json::read_within(&bytes, wire::json::COMMAND_LIMITS).map_err(|error| match error {
            JsonError::TooMany { .. } => Fault::http(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
            JsonError::TooDeep { .. } | JsonError::Invalid(_) => undecodable(&error.to_string()),
        })?;
        drop(bytes);
        match body {
            Value::Object(mut body) => match (body.remove("name"), body.remove("params")) {
                (Some(Value::String(name)), Some(Value::Object(params))) => Ok(CommandRequest { name, params }),
                _ => Err(bad("Missing or invalid name or params")),
            },
            _ => Err(bad("Missing or invalid name or params")),
        }
    }
}

/// A command as a document, at once or when it has ended.
async fn shown(record: &Record, wait: bool) -> Response {
    if wait {
        record.wait().await;
    }
    json(StatusCode::OK, &record.to_result())
}

/// Only the literal `true`, in any case, waits.
fn wants_to_wait(request: &Request) -> bool {
    query(request, "wait").is_some_and(|wait| wait.eq_ignore_ascii_case("true"))
}

/// The first value of a query parameter, decoded.
fn query(request: &Request, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(request.uri().query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, text) = match serde_json::to_vec(body) {
        Ok(text) => (status, text),
        Err(error) => {
            let error = AgentError::new(Class::RestError, format!("the answer cannot be written: {error}"));
            tracing::error!(%error, "answer");
            (StatusCode::INTERNAL_SERVER_ERROR, serde_json::to_vec(&error.to_fault()).unwrap_or_default())
        }
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
