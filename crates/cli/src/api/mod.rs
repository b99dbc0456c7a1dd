//! The client of the Ironic API: versions, credentials, retries, errors with a remedy.

pub(crate) mod events;
mod fault;
mod node;

pub(crate) use fault::ApiError;
pub(crate) use node::Node;

use crate::connect::{Endpoint, Password, User};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use transport::client::{Client, Reply, Settings, Trust};
use wire::ironic::{ErrorBody, MAX_VERSION_HEADER, MIN_VERSION_HEADER, VERSION_HEADER, Version};

/// What stays as it is in one segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
/// Largest reply, bytes: a page of nodes with everything that they have.
const REPLY_LIMIT: usize = 64 << 20;
/// Nodes of one page.
const PAGE: usize = 500;
/// How often a change is tried again that meets a lock or a full service; locks of power readings are over in a moment.
const TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Fields of nodes that came later than 1.20, with their versions (Ironic 39 REST API version history).
const FIELDS: &[(&str, u16)] =
    &[("resource_class", 21), ("fault", 42), ("deploy_step", 44), ("retired", 61), ("service_step", 87)];

/// A service, ready to be asked.
pub(crate) struct Api {
    client: Client,
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    /// The `N` of the version `1.N` in which requests are sent.
    version: AtomicU16,
    /// Set for dry runs: whatever would change something is refused here, before it is sent.
    read_only: bool,
}

/// The segments of a path, encoded: `/v1/nodes/<node>/why`.
pub(crate) fn path(segments: &[&str]) -> String {
    segments.iter().map(|segment| format!("/{}", utf8_percent_encode(segment, SEGMENT))).collect()
}

impl Api {
    /// A client of this service. Asks for the password where one is needed and not known.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, ApiError> {
        let trust = match &endpoint.cacert {
            None => Trust::Public,
            Some(file) => {
                let pem = crate::connect::read_file(file);
                Trust::Only(pem.map_err(|source| ApiError::Trust { path: file.display().to_string(), source })?)
            }
        };
        let settings = Settings { trust, body_limit: REPLY_LIMIT, ..Settings::default() };
        let path = endpoint.cacert.as_ref().map(|file| file.display().to_string());
        let client = Client::new(settings).map_err(|source| ApiError::Tls { path, source })?;
        let authorization = match &endpoint.user {
            None => None,
            Some(user) => Some(basic(user, &endpoint.url)?),
        };
        let version = AtomicU16::new(Version::MAX.0);
        Ok(Self { client, endpoint, authorization, version, read_only: false })
    }

    /// The same, which refuses to change anything.
    pub(crate) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version in which requests are sent.
    pub(crate) fn version(&self) -> Version {
        Version(self.version.load(Ordering::Relaxed))
    }

    /// `GET`, and the document.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        let reply = self.exchange(&Method::GET, path, None).await?;
        self.document(&reply)
    }

    /// A request that changes something; the document of the reply, null when it has none.
    pub(crate) async fn change(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let mut tries = 1;
        let reply = loop {
            match self.exchange(&method, path, body).await {
                Err(ApiError::Refused { status: 409 | 503, text }) if tries < TRIES && is_passing(&text) => {
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                result => break result?,
            }
        };
        if reply.body.is_empty() { Ok(Value::Null) } else { self.document(&reply) }
    }

    fn document(&self, reply: &Reply) -> Result<Value, ApiError> {
        reply.json().map_err(|error| ApiError::Understood {
            url: self.endpoint.url.clone(),
            reason: transport::client::chain(&error),
        })
    }

    async fn exchange(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Reply, ApiError> {
        let reply = self.client.send(self.request(method, path, body)?).await;
        let reply = reply.map_err(|error| self.no_reply(error))?;
        if reply.status == StatusCode::NOT_ACCEPTABLE && self.agree(&reply) {
            let again = self.client.send(self.request(method, path, body)?).await;
            return self.judge(again.map_err(|error| self.no_reply(error))?);
        }
        self.judge(reply)
    }

    fn no_reply(&self, error: transport::client::ClientError) -> ApiError {
        ApiError::Unreachable {
            url: self.endpoint.url.clone(),
            named_by: self.endpoint.named_by.clone(),
            cause: Box::new(error),
        }
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, ApiError> {
        if self.read_only && *method != Method::GET {
            return Err(ApiError::ReadOnly { method: method.clone(), path: path.to_owned() });
        }
        let content = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint.url))
            .header(VERSION_HEADER, self.version().to_string())
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::from(content)).map_err(|error| ApiError::Understood {
            url: self.endpoint.url.clone(),
            reason: format!("{path:?} is no path: {error}"),
        })
    }

    /// Takes the highest version that both sides know; false when the service says nothing new.
    fn agree(&self, reply: &Reply) -> bool {
        let number =
            |name: &str| -> Option<u16> { reply.headers.get(name)?.to_str().ok()?.strip_prefix("1.")?.parse().ok() };
        let (Some(lowest), Some(highest)) = (number(MIN_VERSION_HEADER), number(MAX_VERSION_HEADER)) else {
            return false;
        };
        let agreed = highest.min(Version::MAX.0);
        agreed >= lowest && self.version.swap(agreed, Ordering::Relaxed) != agreed
    }

    fn judge(&self, reply: Reply) -> Result<Reply, ApiError> {
        let status = reply.status.as_u16();
        if reply.status.is_success() {
            return Ok(reply);
        }
        let text = match reply.json::<ErrorBody>() {
            Ok(body) => body.text().split_whitespace().collect::<Vec<_>>().join(" "),
            Err(_) => reply.text().lines().next().unwrap_or_default().trim().to_owned(),
        };
        let text = match (text.is_empty(), reply.status.canonical_reason()) {
            (true, reason) => format!("{status} {}", reason.unwrap_or_default()).trim_end().to_owned(),
            (false, _) => text,
        };
        let url = self.endpoint.url.clone();
        Err(match status {
            401 => ApiError::Denied { url, text, user: self.endpoint.user.as_ref().map(|user| user.name.clone()) },
            404 => ApiError::NotFound { text },
            405 => ApiError::NoRoute { url, text },
            406 => ApiError::TooOld { url, version: self.version().to_string(), text },
            300..=399 => ApiError::Understood { url, reason: format!("it answers {status}, a redirect") },
            500..=599 if status != 503 => ApiError::Broken { url, status, text },
            _ => ApiError::Refused { status, text },
        })
    }

    /// Opens a stream: the head of the reply is there, its body comes as it comes.
    pub(crate) async fn open(&self, path: &str, accept: &'static str) -> Result<Response<Incoming>, ApiError> {
        let mut request = self.request(&Method::GET, path, None)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        let response = self.client.open(request).await.map_err(|error| self.no_reply(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, incoming) = response.into_parts();
        let body = transport::body::read(incoming, REPLY_LIMIT).await.unwrap_or_default();
        let judged = self.judge(Reply { url: path.to_owned(), status: head.status, headers: head.headers, body });
        Err(judged.err().unwrap_or_else(|| ApiError::NotFound { text: path.to_owned() }))
    }

    /// All entries of a list, page by page. Pages are asked for by their marker: a link to the next page may lead to
    /// another host, which is no place for credentials.
    pub(crate) async fn list(
        &self,
        resource: &str,
        query: &[(&str, &str)],
        most: usize,
    ) -> Result<Vec<Value>, ApiError> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            pairs.extend_pairs(query).append_pair("limit", &PAGE.min(most - all.len()).to_string());
            if let Some(marker) = all.last().and_then(|last| last.get("uuid")).and_then(Value::as_str) {
                pairs.append_pair("marker", marker);
            }
            let mut page = self.get(&format!("/v1/{resource}?{}", pairs.finish())).await?;
            let Some(Value::Array(entries)) =
                page.get_mut(resource.rsplit('/').next().unwrap_or(resource)).map(Value::take)
            else {
                let url = self.endpoint.url.clone();
                return Err(ApiError::Understood { url, reason: format!("its list of {resource} has no {resource}") });
            };
            let more = page.get("next").is_some_and(|next| !next.is_null()) && !entries.is_empty();
            all.extend(entries);
            if !more || all.len() >= most {
                return Ok(all);
            }
        }
    }

    /// All nodes that the filters let through, with those of these fields that the version has.
    pub(crate) async fn nodes(&self, fields: &[&str], filters: &[(&str, &str)]) -> Result<Vec<Node>, ApiError> {
        let asked = self.version();
        let ask = async || {
            let fields = self.fields(fields);
            let query = [&[("fields", fields.as_str())], filters].concat();
            self.list("nodes", &query, usize::MAX).await
        };
        let nodes = match ask().await {
            // The version was agreed on with this very request, and may not have all that it asked for.
            Err(_) if self.version() != asked => ask().await?,
            other => other?,
        };
        Ok(nodes.into_iter().map(Node).collect())
    }

    /// Those fields of a node that the version has, joined.
    pub(crate) fn fields(&self, fields: &[&str]) -> String {
        let version = self.version().0;
        let since = |field: &str| FIELDS.iter().find(|(name, _)| *name == field).map_or(1, |(_, since)| *since);
        fields.iter().filter(|field| since(field) <= version).copied().collect::<Vec<_>>().join(",")
    }

    /// A node by name or UUID. A name that is not there is answered with the names that are like it.
    pub(crate) async fn node(&self, ident: &str) -> Result<Node, ApiError> {
        if ident.is_empty() {
            return Err(ApiError::NoNode { ident: String::new(), like: Vec::new() });
        }
        match self.get(&path(&["v1", "nodes", ident])).await {
            Ok(document) => Ok(Node(document)),
            Err(error) => Err(self.explain(ident, error).await),
        }
    }

    /// Says of an error that there is no such node, where that is what it means.
    pub(crate) async fn explain(&self, ident: &str, error: ApiError) -> ApiError {
        let gone = match &error {
            ApiError::NotFound { .. } => true,
            // What cannot be a name is refused by the router.
            ApiError::Refused { status: 400, text } => text.contains("UUID or name"),
            _ => false,
        };
        if !gone {
            return error;
        }
        let names = self.list("nodes", &[("fields", "uuid,name")], 10_000).await.unwrap_or_default();
        let names = names.iter().filter_map(|node| node.get("name")?.as_str());
        ApiError::NoNode { ident: ident.to_owned(), like: like(ident, names) }
    }

    /// A document of a node that only Ferric has, at the path behind the node's. `instead`: what to do without it.
    pub(crate) async fn ours(&self, ident: &str, part: &str, instead: &str) -> Result<Value, ApiError> {
        match self.get(&format!("{}/{part}", path(&["v1", "nodes", ident]))).await {
            Err(
                error @ (ApiError::NotFound { .. } | ApiError::NoRoute { .. } | ApiError::Refused { status: 400, .. }),
            ) => Err(self.lacking(ident, part, instead, error).await),
            other => other,
        }
    }

    /// Tells a node that is not there from a service that does not have the route.
    pub(crate) async fn lacking(&self, ident: &str, part: &str, instead: &str, error: ApiError) -> ApiError {
        match (self.node(ident).await, &error) {
            (Err(missing), _) => missing,
            // Our own answers name the record; a router's do not.
            (Ok(_), ApiError::NotFound { text }) if part.contains('/') && text.contains("could not be found.") => error,
            (Ok(_), _) => ApiError::Lacking {
                what: part.split(['?', '/']).next().unwrap_or(part).to_owned(),
                url: self.endpoint.url.clone(),
                instead: instead.replace("NODE", ident),
            },
        }
    }
}

/// Whether a refusal is over in a moment: somebody holds the node, or the service has no room right now.
fn is_passing(text: &str) -> bool {
    ["locked", "no free", "try again", "workers"].iter().any(|word| text.contains(word))
}

/// The header of basic authentication. A password in clear text is worth a word.
fn basic(user: &User, url: &str) -> Result<HeaderValue, ApiError> {
    let password = match &user.password {
        Some(password) => password.clone(),
        None => {
            let asked = crate::input::password(&format!("Password of {} at {url}: ", user.name));
            Password(asked.map_err(|_| ApiError::NoPassword { user: user.name.clone() })?)
        }
    };
    let uri: http::Uri = url.parse().unwrap_or_default();
    let near =
        matches!(uri.host(), Some("localhost" | "[::1]")) || uri.host().is_some_and(|host| host.starts_with("127."));
    if uri.scheme_str() == Some("http") && !near {
        crate::output::note(&format!("the password of {} goes to {url} in clear text; https would hide it", user.name));
    }
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", user.name, password.0));
    let mut value =
        HeaderValue::try_from(format!("Basic {pair}")).map_err(|_| ApiError::NoPassword { user: user.name.clone() })?;
    value.set_sensitive(true);
    Ok(value)
}

/// At most three names that somebody may have meant.
pub(crate) fn like<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let lower = wanted.to_lowercase();
    let mut found: BTreeMap<(usize, String), ()> = BTreeMap::new();
    for name in names {
        let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
        let near = distance <= 1 + wanted.chars().count() / 4;
        if near || (wanted.len() > 2 && name.to_lowercase().contains(&lower)) {
            found.insert((distance, name.to_owned()), ());
        }
    }
    found.into_keys().map(|(_, name)| name).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_cannot_leave_their_segment() {
        assert_eq!(path(&["v1", "nodes", "../drivers?x=y#z%"]), "/v1/nodes/..%2Fdrivers%3Fx%3Dy%23z%25");
    }

    #[test]
    fn a_name_that_is_nearly_right_is_recognised() {
        let names = ["rack1-n01", "rack1-n02", "rack2-n01", "db"];
        assert_eq!(like("rack1-n1", names.into_iter()), ["rack1-n01", "rack1-n02", "rack2-n01"]);
        assert_eq!(like("n02", names.into_iter()), ["rack1-n02"]);
        assert_eq!(like("web", names.into_iter()), Vec::<String>::new());
    }
}
