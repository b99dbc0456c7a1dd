//! The driver's API as an agent uses it: several base URLs of which one has to answer, and microversions.

use crate::config::Settings;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use std::sync::{Mutex, PoisonError};
use tokio::sync::OnceCell;
use transport::client::{self, Client, ClientError, Reply, Trust};
use transport::tls::{Identity, TlsError};
use wire::ironic::{VERSION_HEADER, Version};

/// Assumed when the driver does not tell.
const FALLBACK_VERSION: u16 = 31;
/// Since this version heartbeats carry the agent's version.
pub const AGENT_VERSION_VERSION: u16 = 36;
/// Since this version there are tokens; lookups ask for no later one.
pub const TOKEN_VERSION: u16 = 62;
/// Since this version heartbeats carry a certificate; they ask for no later one.
pub const VERIFY_CA_VERSION: u16 = 68;

/// Why it is not known which version the driver serves.
#[derive(Debug)]
struct Undiscovered {
    reason: String,
    /// Whether the driver did not answer, or failed; else it answered something odd.
    is_absent: bool,
}

impl Undiscovered {
    fn fallback(self) -> u16 {
        tracing::warn!("the API's version is not known ({}); 1.{FALLBACK_VERSION} is assumed", self.reason);
        FALLBACK_VERSION
    }
}

/// A client of the driver's API.
#[derive(Debug)]
pub struct Ironic {
    client: Client,
    /// The URL that answered last comes first.
    urls: Mutex<Vec<String>>,
    version: OnceCell<u16>,
    request_id: Option<String>,
}

impl Ironic {
    /// A client with the URLs and the trust of the settings.
    pub fn new(settings: &Settings) -> Result<Self, TlsError> {
        let base = client::Settings {
            identity: shown(settings),
            connect_timeout: settings.http_request_timeout,
            timeout: settings.http_request_timeout,
            ..client::Settings::default()
        };
        let client = client(settings, settings.api_urls.iter().chain(&settings.inspection_callback_urls), base)?;
        Ok(Self {
            client,
            urls: Mutex::new(settings.api_urls.clone()),
            version: OnceCell::new_with(settings.ironic_api_version),
            request_id: settings.global_request_id.clone(),
        })
    }

    /// The base URLs, the one that answered last first.
    pub fn urls(&self) -> Vec<String> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The minor part of the highest microversion that the driver serves, asked once.
    pub async fn version(&self) -> u16 {
        self.discovered().await.unwrap_or_else(Undiscovered::fallback)
    }

    /// As [`Self::version`], for the lookup: the reply to one of an old version has no token, and there is no second one. So a
    /// driver that cannot be asked now is to be asked again; an error says why.
    pub async fn version_for_lookup(&self) -> Result<u16, String> {
        match self.discovered().await {
            Err(unknown) if unknown.is_absent => Err(unknown.reason),
            other => Ok(other.unwrap_or_else(Undiscovered::fallback)),
        }
    }

    async fn discovered(&self) -> Result<u16, Undiscovered> {
        self.version.get_or_try_init(|| self.discover()).await.copied()
    }

    async fn discover(&self) -> Result<u16, Undiscovered> {
        let absent = |reason| Undiscovered { reason, is_absent: true };
        let reply = self.request(Method::GET, "/", None, None).await.map_err(|error| absent(client::chain(&error)))?;
        if reply.status.is_server_error() {
            return Err(absent(refusal(&reply)));
        }
        let root = reply.json::<serde_json::Value>().ok();
        let version = root.as_ref().and_then(|root| root.pointer("/default_version/version")?.as_str());
        let minor = version.and_then(|version| version.strip_prefix("1.")?.parse().ok());
        let reason = format!("{} does not tell default_version.version as 1.N", reply.url);
        minor.ok_or(Undiscovered { reason, is_absent: false })
    }

    /// Sends a request to the first URL that can be reached, and keeps that one in front. `path` begins with a slash.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        version: Option<u16>,
        body: Option<Bytes>,
    ) -> Result<Reply, ClientError> {
        let urls = self.urls();
        let mut last = ClientError::Url { url: String::new() };
        for (index, url) in urls.iter().enumerate() {
            match self.send(method.clone(), &format!("{url}{path}"), version, body.clone()).await {
                Ok(reply) => {
                    if index > 0 {
                        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
                        urls.rotate_left(index);
                    }
                    return Ok(reply);
                }
                Err(error @ (ClientError::Connection { .. } | ClientError::Timeout { .. })) => {
                    if index + 1 < urls.len() {
                        tracing::warn!(%error, "trying the next URL");
                    }
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Sends a request to one URL.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        version: Option<u16>,
        body: Option<Bytes>,
    ) -> Result<Reply, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json");
        if let Some(version) = version {
            request = request.header(VERSION_HEADER, Version(version).to_string());
        }
        if let Some(id) = &self.request_id {
            request = request.header("x-openstack-request-id", id);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|_| ClientError::Url { url: url.split('?').next().unwrap_or_default().to_owned() })?;
        self.client.send(request).await
    }
}

/// A client with the trust of the settings for these URLs: everybody where the operator said so, else the public roots
/// with the authority that virtual media brought and those that the operator put into the ramdisk.
pub fn client<'a>(
    settings: &Settings,
    urls: impl IntoIterator<Item = &'a String>,
    base: client::Settings,
) -> Result<Client, TlsError> {
    let with = |trust: Trust| Client::new(client::Settings { trust, ..base.clone() });
    if settings.insecure {
        return with(Trust::Anybody);
    }
    // Reading a whole bundle takes long enough on a slow machine to be left out where nothing is encrypted.
    if !urls.into_iter().any(|url| url.starts_with("https:")) {
        return with(Trust::Public);
    }
    let pem = authorities(settings);
    if pem.is_empty() {
        return with(Trust::Public);
    }
    with(Trust::PublicAnd(pem)).or_else(|error| {
        tracing::error!(error = %client::chain(&error), "extra authorities are not usable and not trusted");
        with(Trust::Public)
    })
}

/// What the agent shows to the driver. It is for the driver alone: image servers do not get to see it.
fn shown(settings: &Settings) -> Option<Identity> {
    match super::identity::read(settings.client_identity.as_ref()?) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::error!(error = %client::chain(&error), "the agent's certificate cannot be shown to the driver");
            None
        }
    }
}

/// Certificates beside the public roots, PEM.
fn authorities(settings: &Settings) -> String {
    /// Where Debian keeps the authorities that a machine trusts, and where the ramdisk has them.
    const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
    let mut pem = String::new();
    if let Some(path) = &settings.cafile {
        match std::fs::read_to_string(path) {
            Ok(text) => pem.push_str(&text),
            Err(error) => tracing::error!(path, %error, "the API's authority cannot be read and is not trusted"),
        }
    }
    match std::fs::read_to_string(SYSTEM_AUTHORITIES) {
        Ok(text) => {
            pem.push('\n');
            pem.push_str(&text);
        }
        Err(error) => tracing::debug!(path = SYSTEM_AUTHORITIES, %error, "no certificates"),
    }
    pem
}

/// What the driver says about a refusal.
pub fn refusal(reply: &Reply) -> String {
    let text =
        wire::json::read::<wire::ironic::ErrorBody>(&reply.body).map_or_else(|_| reply.text(), |body| body.text());
    format!("{} {}: {text}", reply.url, reply.status)
}
