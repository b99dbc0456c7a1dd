//! The Redfish keys of a node's `driver_info`, parsed. Names and meanings are those of Ironic's redfish hardware type
//! (Ironic admin guide, "Redfish driver").

use http::Uri;
use http::uri::{Authority, Scheme};
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;

/// A wrong `driver_info`. The text never holds the value of a secret key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver_info.{key} {problem}; {remedy}")]
pub struct SettingsError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the wire only.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("******")
    }
}

/// A name and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `redfish_username`.
    pub username: String,
    /// `redfish_password`.
    pub password: Secret,
}

/// How to log in: `redfish_auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthType {
    /// A session if the BMC offers them, else a password with every request.
    #[default]
    Auto,
    /// A password with every request.
    Basic,
    /// A session, or not at all.
    Session,
}

/// Whose TLS certificate to believe: `redfish_verify_ca`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verify {
    /// The public roots.
    #[default]
    Public,
    /// A file of PEM certificates, or a folder of such files.
    Ca(PathBuf),
    /// Any certificate; only because the operator said so.
    Nothing,
}

/// Which system of the BMC: `redfish_system_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemId {
    /// The resource's own path.
    Path(String),
    /// Its `Id`, `UUID` or `Name`, or the last part of its path.
    Name(String),
}

/// Scheme, host and port: what credentials are bound to (RFC 6454).
#[derive(Debug, Clone)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    /// The origin of an absolute http or https URL without user information.
    pub fn of(uri: &Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme()?.clone(), uri.authority()?.clone());
        let web = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
        (web && !authority.as_str().contains('@') && !authority.host().is_empty()).then_some(Self { scheme, authority })
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.scheme == Scheme::HTTPS { 443 } else { 80 })
    }

    /// The URL of a path here.
    pub(crate) fn url(&self, path: &str) -> Result<Uri, http::Error> {
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path).build()
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.authority.host().eq_ignore_ascii_case(other.authority.host())
            && self.port() == other.port()
    }
}

impl Eq for Origin {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Where a BMC is and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `redfish_address`.
    pub address: Origin,
    /// `redfish_username` and `redfish_password`; `None` where the BMC asks for nothing.
    pub credentials: Option<Credentials>,
    /// `redfish_verify_ca`.
    pub verify: Verify,
    /// `redfish_auth_type`.
    pub auth: AuthType,
    /// `redfish_system_id`; `None` where the BMC has one system only.
    pub system: Option<SystemId>,
}

/// A value of `driver_info` longer than this is refused.
const LONGEST: usize = 1024;

impl Settings {
    /// Reads the Redfish keys; other keys are somebody else's.
    ///
    /// # Errors
    /// [`SettingsError`], naming the first key that is missing or wrong.
    pub fn from_driver_info(info: &Map<String, Value>) -> Result<Self, SettingsError> {
        let username = text(info, "redfish_username")?;
        let password = text(info, "redfish_password")?;
        let credentials = match (username, password) {
            (Some(username), Some(password)) => {
                if username.contains(':') {
                    return Err(wrong(
                        "redfish_username",
                        "contains a colon, which HTTP cannot carry",
                        "use another account",
                    ));
                }
                Some(Credentials { username: username.to_owned(), password: Secret::new(password) })
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(wrong("redfish_password", "is missing", "give it together with redfish_username"));
            }
            (None, Some(_)) => {
                return Err(wrong("redfish_username", "is missing", "give it together with redfish_password"));
            }
        };
        Ok(Self {
            address: address(text(info, "redfish_address")?)?,
            credentials,
            verify: verify(info.get("redfish_verify_ca"))?,
            auth: auth(text(info, "redfish_auth_type")?)?,
            system: text(info, "redfish_system_id")?.map(system_id).transpose()?,
        })
    }
}

fn wrong(key: &'static str, problem: impl Into<String>, remedy: &'static str) -> SettingsError {
    SettingsError { key, problem: problem.into(), remedy }
}

fn text<'a>(info: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, SettingsError> {
    match info.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Err(wrong(key, "is empty", "set it or leave it out")),
        Some(Value::String(text)) if text.len() > LONGEST || text.chars().any(char::is_control) => {
            Err(wrong(key, "is too long or holds control characters", "give up to 1024 printable bytes"))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(key, "is not a text", "put it in quotes")),
    }
}

fn address(given: Option<&str>) -> Result<Origin, SettingsError> {
    const KEY: &str = "redfish_address";
    const REMEDY: &str = "give it like https://bmc.example or https://[2001:db8::1]:8443";
    let given = given.ok_or_else(|| wrong(KEY, "is missing", REMEDY))?;
    // Without a scheme it is https, as in Ironic.
    let url = if given.contains("://") { given.to_owned() } else { format!("https://{given}") };
    // Somebody might write a password into the address; the error must not repeat it.
    if url.contains('@') {
        return Err(wrong(KEY, "holds user information", "use redfish_username and redfish_password"));
    }
    let uri: Uri = url.parse().map_err(|_| wrong(KEY, format!("{given:?} is not a URL"), REMEDY))?;
    let origin =
        Origin::of(&uri).ok_or_else(|| wrong(KEY, format!("{given:?} is not an http or https URL"), REMEDY))?;
    match uri.path() {
        "" | "/" | "/redfish/v1" | "/redfish/v1/" if uri.query().is_none() => Ok(origin),
        _ => Err(wrong(KEY, format!("{given:?} has a path"), REMEDY)),
    }
}

fn verify(given: Option<&Value>) -> Result<Verify, SettingsError> {
    const KEY: &str = "redfish_verify_ca";
    const REMEDY: &str = "give true, false, or the absolute path of a PEM file or folder";
    match given {
        None | Some(Value::Null) | Some(Value::Bool(true)) => Ok(Verify::Public),
        Some(Value::Bool(false)) => Ok(Verify::Nothing),
        Some(Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Ok(Verify::Public),
            "false" | "f" | "no" | "n" | "off" | "0" => Ok(Verify::Nothing),
            _ if text.starts_with('/') && text.len() <= LONGEST && !text.chars().any(char::is_control) => {
                Ok(Verify::Ca(PathBuf::from(text)))
            }
            _ => Err(wrong(KEY, "is neither yes, no nor an absolute path", REMEDY)),
        },
        Some(_) => Err(wrong(KEY, "is neither a boolean nor a text", REMEDY)),
    }
}

fn auth(given: Option<&str>) -> Result<AuthType, SettingsError> {
    match given.map(str::to_ascii_lowercase).as_deref() {
        None | Some("auto") => Ok(AuthType::Auto),
        Some("basic") => Ok(AuthType::Basic),
        Some("session") => Ok(AuthType::Session),
        Some(other) => {
            Err(wrong("redfish_auth_type", format!("{other:?} is not known"), "give auto, basic or session"))
        }
    }
}

fn system_id(given: &str) -> Result<SystemId, SettingsError> {
    const REMEDY: &str = "give the system's path, like /redfish/v1/Systems/1, or its Id";
    if given.chars().any(char::is_whitespace) || given.contains(['?', '#']) {
        return Err(wrong("redfish_system_id", format!("{given:?} is no path and no Id"), REMEDY));
    }
    if given.starts_with('/') {
        let path: Result<http::uri::PathAndQuery, _> = given.parse();
        path.map_err(|_| wrong("redfish_system_id", format!("{given:?} is not a path"), REMEDY))?;
        return Ok(SystemId::Path(given.to_owned()));
    }
    Ok(SystemId::Name(given.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Settings, SettingsError> {
        Settings::from_driver_info(value.as_object().unwrap())
    }

    #[test]
    fn all_keys_are_read() {
        let settings = parse(json!({
            "redfish_address": "https://bmc.example:8443/",
            "redfish_system_id": "/redfish/v1/Systems/1",
            "redfish_username": "admin",
            "redfish_password": "hunter2",
            "redfish_verify_ca": "/etc/ssl/bmc.pem",
            "redfish_auth_type": "Session",
            "ipmi_address": 7,
        }))
        .unwrap();
        insta::assert_debug_snapshot!(settings);
    }

    #[test]
    fn an_address_without_a_scheme_is_https() {
        let address =
            |text: &str| parse(json!({ "redfish_address": text })).map(|settings| settings.address.to_string());
        assert_eq!(address("bmc.example").unwrap(), "https://bmc.example");
        assert_eq!(address("[2001:db8::1]:8443").unwrap(), "https://[2001:db8::1]:8443");
        assert_eq!(address("http://127.0.0.1:8000/redfish/v1/").unwrap(), "http://127.0.0.1:8000");
    }

    #[test]
    fn each_wrong_value_names_its_key_and_the_remedy() {
        let cases = [
            json!({}),
            json!({ "redfish_address": 7 }),
            json!({ "redfish_address": "" }),
            json!({ "redfish_address": "ftp://bmc" }),
            json!({ "redfish_address": "https://bmc/path" }),
            json!({ "redfish_address": "https://admin:hunter2@bmc" }),
            json!({ "redfish_address": "2001:db8::1" }),
            json!({ "redfish_address": "bmc", "redfish_username": "admin" }),
            json!({ "redfish_address": "bmc", "redfish_password": "hunter2" }),
            json!({ "redfish_address": "bmc", "redfish_username": "a:b", "redfish_password": "hunter2" }),
            json!({ "redfish_address": "bmc", "redfish_username": "a", "redfish_password": "hunter2\n" }),
            json!({ "redfish_address": "bmc", "redfish_verify_ca": "ca.pem" }),
            json!({ "redfish_address": "bmc", "redfish_verify_ca": [] }),
            json!({ "redfish_address": "bmc", "redfish_auth_type": "kerberos" }),
            json!({ "redfish_address": "bmc", "redfish_system_id": "/redfish/v1/Systems/1?x" }),
        ];
        let lines: Vec<_> = cases.into_iter().map(|case| parse(case).unwrap_err().to_string()).collect();
        assert!(lines.iter().all(|line| !line.contains("hunter2")));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(origin("https://BMC.example/x"), origin("https://bmc.example:443"));
        assert_ne!(origin("https://bmc.example"), origin("http://bmc.example"));
        assert_ne!(origin("https://bmc.example"), origin("https://bmc.example:444"));
        assert_ne!(origin("https://bmc.example"), origin("https://bmc.example.org"));
    }
}
