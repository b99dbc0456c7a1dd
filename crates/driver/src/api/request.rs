//! What a handler is given, and how it reads it: version, path, query, body. Every complaint names the input.

use super::routes::{Route, is_unseen};
use super::versions::{self, Field, Kind};
use crate::command::NodeIdent;
use crate::fault::Fault;
use crate::tag::Tag;
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;
use uuid::Uuid;
use wire::ironic::{VERSION_HEADER, Version, VersionError};

/// A request whose route is known and whose body is read.
pub(super) struct Call {
    pub(super) version: Version,
    /// Scheme and host as the client knows them, for links.
    pub(super) base: String,
    /// What the `{}` of the route took, percent-decoded.
    pub(super) segments: Vec<String>,
    pub(super) query: Query,
    pub(super) body: Bytes,
    pub(super) peer: Option<IpAddr>,
    pub(super) headers: HeaderMap,
}

/// The microversion of a request: `OpenStack-API-Version: baremetal 1.N` before Ironic's own header.
pub(super) fn version(headers: &HeaderMap) -> Result<Version, VersionError> {
    let text = |name: &str| -> Result<Option<&str>, VersionError> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        value.to_str().map(Some).map_err(|_| VersionError::Malformed("(not text)".to_owned()))
    };
    if let Some(services) = text("openstack-api-version")? {
        let ours = services.split(',').find_map(|service| {
            let (name, version) = service.trim().split_once(' ')?;
            name.eq_ignore_ascii_case("baremetal").then_some(version.trim())
        });
        if let Some(version) = ours {
            return version.parse();
        }
    }
    // A header without a value is as good as none.
    text(VERSION_HEADER)?
        .map(str::trim)
        .filter(|version| !version.is_empty())
        .map_or(Ok(Version::MIN), |version| version.parse())
}

/// Scheme and host for links.
pub(super) fn base(headers: &HeaderMap, tls: bool) -> String {
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", host.unwrap_or("localhost"))
}

/// Shortens what a stranger sent to what fits a message.
pub(super) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Undoes percent-encoding of a path segment.
pub(super) fn decode(segment: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(Fault::BadPath(format!("\"{}\" is not percent-encoded correctly", short(segment)))),
        }
    }
    String::from_utf8(bytes).map_err(|_| Fault::BadPath(format!("\"{}\" is not UTF-8", short(segment))))
}

impl Call {
    /// A part of the path. The route has as many `{}` as its handler asks for.
    pub(super) fn segment(&self, index: usize) -> &str {
        self.segments.get(index).map(String::as_str).unwrap_or_default()
    }

    /// Whether the request's version has what came with `since`.
    pub(super) fn has(&self, since: u16) -> bool {
        versions::has(self.version, since)
    }

    /// Refuses a request whose version does not have what came with `since`.
    pub(super) fn need(&self, since: u16) -> Result<(), Fault> {
        if self.has(since) { Ok(()) } else { Err(Fault::not_acceptable()) }
    }

    /// The node that the path names.
    pub(super) fn node(&self) -> Result<NodeIdent, Fault> {
        node_ident(self.ident(), self.has(versions::NODE_NAMES))
    }

    /// How the path names its resource: a `.json` at its end belonged to the representation once.
    pub(super) fn ident(&self) -> &str {
        let text = self.segment(0);
        if self.has(versions::DOT_JSON) { text } else { text.strip_suffix(".json").unwrap_or(text) }
    }

    /// The tags that `If-Match` (RFC 9110, 13.1.1) names; unset without it, and when it takes any.
    pub(super) fn expected_tags(&self) -> Option<Vec<Tag>> {
        let wanted = self.headers.get(http::header::IF_MATCH)?.to_str().unwrap_or_default();
        let tags: Vec<&str> = wanted.split(',').map(str::trim).collect();
        if tags.contains(&"*") {
            return None;
        }
        Some(tags.iter().filter_map(|tag| tag.parse().ok()).collect())
    }

    /// Refuses a request that was made from something else than this.
    pub(super) fn check_tag(&self, tag: Tag) -> Result<(), Fault> {
        match self.expected_tags() {
            Some(expected) if !expected.contains(&tag) => Err(Fault::changed(&expected, tag)),
            _ => Ok(()),
        }
    }

    /// The body as JSON; nothing at all is an empty object when `optional`.
    pub(super) fn json(&self, optional: bool) -> Result<Value, Fault> {
        if optional && self.body.is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        wire::json::read(&self.body).map_err(|error| Fault::Invalid(format!("The request body is not valid: {error}")))
    }

    /// The body as a JSON object.
    pub(super) fn object(&self, optional: bool) -> Result<Map<String, Value>, Fault> {
        match self.json(optional)? {
            Value::Object(object) => Ok(object),
            other => Err(Fault::Invalid(format!("The request body must be an object, not {}", kind_of(&other)))),
        }
    }
}

/// Reads how a node is named: a UUID, or a name.
pub(super) fn node_ident(ident: &str, names: bool) -> Result<NodeIdent, Fault> {
    if let Ok(uuid) = Uuid::try_parse(ident) {
        return Ok(NodeIdent::Uuid(uuid));
    }
    if !names {
        return Err(Fault::NotFound(format!("Node {} could not be found.", short(ident))));
    }
    if !is_name(ident) {
        return Err(Fault::BadPath(format!("Expected UUID or name for node: {}", short(ident))));
    }
    Ok(NodeIdent::Name(ident.to_owned()))
}

/// Whether a text can name a node: the unreserved characters of a URL (RFC 3986, 2.3), at most 255.
pub(super) fn is_name(text: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(unreserved)
}

/// The parameters after the `?`, each once.
#[derive(Debug, Default)]
pub(super) struct Query {
    parameters: BTreeMap<String, String>,
    /// All of them again, for links to the next page.
    pub(super) original: Vec<(String, String)>,
}

impl Query {
    pub(super) fn read(uri: &http::Uri) -> Result<Self, Fault> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Fault::Invalid("The query of the URL is not well-formed.".to_owned()))?;
        let mut query = Self { original: pairs.0.clone(), ..Self::default() };
        for (name, value) in pairs.0 {
            // A list may be given entry by entry.
            if let Some(fields) = query.parameters.get_mut(&name).filter(|_| name == "fields") {
                fields.push(',');
                fields.push_str(&value);
                continue;
            }
            if query.parameters.contains_key(&name) {
                return Err(Fault::Invalid(format!("Query parameter {} is given more than once.", short(&name))));
            }
            query.parameters.insert(name, value);
        }
        Ok(query)
    }

    /// A query of one parameter, to read its value by.
    pub(super) fn of(name: &str, value: String) -> Self {
        Self { parameters: BTreeMap::from([(name.to_owned(), value)]), original: Vec::new() }
    }

    /// Takes a parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.parameters.remove(name)
    }

    /// Whether a parameter is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// Takes a parameter that is true or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        let Some(text) = self.take(name) else { return Ok(None) };
        read_flag(&text).map(Some).ok_or_else(|| {
            Fault::Invalid(format!("Invalid value for {name}: \"{}\" is neither true nor false.", short(&text)))
        })
    }

    /// Takes a parameter that is a UUID.
    pub(super) fn uuid(&mut self, name: &str) -> Result<Option<Uuid>, Fault> {
        let Some(text) = self.take(name) else { return Ok(None) };
        Uuid::try_parse(&text).map(Some).map_err(|_| {
            Fault::Invalid(format!("Invalid value for {name}: expected a UUID but received {}.", short(&text)))
        })
    }

    /// Refuses whatever nobody took.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if self.parameters.is_empty() { Ok(()) } else { Err(unexpected(self.parameters.keys())) }
    }
}

fn unexpected<'a>(names: impl Iterator<Item = &'a String>) -> Fault {
    let names: Vec<String> = names.take(10).map(|name| short(name)).collect();
    Fault::Invalid(format!("Unexpected arguments: {}", names.join(", ")))
}

/// The words that Ironic takes for true and false.
fn read_flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// A kind of JSON value, for people.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong(what: &str, field: &str, expected: &str, value: &Value) -> Fault {
    Fault::Invalid(format!("Schema error for {what}: {field} must be {expected}, not {}", kind_of(value)))
}

/// Texts that are not set by an empty one.
const NEVER_EMPTY: &[(&str, &str)] = &[("node", "instance_name"), ("port", "physical_network")];

/// Checks a value of a field and brings it into the form in which it is kept. `null` stands for "not set".
pub(super) fn check(what: &str, field: &Field, kind: Kind, value: Value) -> Result<Value, Fault> {
    let name = field.name;
    let invalid = |why: String| Err(Fault::Invalid(format!("Schema error for {what}: {name} {why}")));
    match (kind, value) {
        (kind, Value::Null) if kind.is_required() => invalid("must be given and not null".to_owned()),
        (_, Value::Null) => Ok(Value::Null),
        (Kind::RequiredList, Value::Array(list)) if list.is_empty() => {
            invalid("must have at least one entry".to_owned())
        }
        (Kind::List | Kind::RequiredList, value @ Value::Array(_)) => Ok(value),
        (Kind::Texts, Value::Array(list)) if list.iter().all(Value::is_string) => Ok(Value::Array(list)),
        (Kind::List | Kind::RequiredList, value) => Err(wrong(what, name, "a list", &value)),
        (Kind::Texts, value) => Err(wrong(what, name, "a list of strings", &value)),
        (Kind::Integer | Kind::RequiredInteger, value) if value.is_i64() => Ok(value),
        (Kind::Integer | Kind::RequiredInteger, value) => Err(wrong(what, name, "a whole number", &value)),
        (Kind::Object, value @ Value::Object(_)) => Ok(value),
        (Kind::Object, value) => Err(wrong(what, name, "an object", &value)),
        (Kind::Flag, value @ Value::Bool(_)) => Ok(value),
        (Kind::Flag, Value::String(text)) => match read_flag(&text) {
            Some(flag) => Ok(Value::Bool(flag)),
            None => invalid(format!("must be true or false, not \"{}\"", short(&text))),
        },
        (Kind::Flag, value) => Err(wrong(what, name, "true or false", &value)),
        (kind, Value::String(text)) => match kind {
            Kind::Text(_) if text.is_empty() && NEVER_EMPTY.contains(&(what, name)) => {
                invalid("must not be empty".to_owned())
            }
            Kind::Text(limit) if text.chars().count() > limit => invalid(format!("is longer than {limit} characters")),
            Kind::Required if text.is_empty() || text.len() > 255 => {
                invalid("must have 1 to 255 characters".to_owned())
            }
            Kind::Uuid | Kind::RequiredUuid => match Uuid::try_parse(&text) {
                Ok(uuid) => Ok(Value::String(uuid.to_string())),
                Err(_) => invalid(format!("must be a UUID, not \"{}\"", short(&text))),
            },
            Kind::Mac | Kind::OptionalMac => match mac(&text) {
                Some(mac) => Ok(Value::String(mac)),
                None => Err(not_mac(&text)),
            },
            Kind::Name => check_name(text).map(Value::String),
            Kind::LogicalName if text.is_empty() => Ok(Value::Null),
            Kind::LogicalName if !is_name(&text) || Uuid::try_parse(&text).is_ok() => Err(Fault::Invalid(format!(
                "Cannot use invalid name '{}' for a {what}: it must have 1 to 255 letters, digits, \"-\", \".\", \"_\" or \
                 \"~\" and not look like a UUID",
                short(&text)
            ))),
            _ => Ok(Value::String(text)),
        },
        (_, value) => Err(wrong(what, name, "a string", &value)),
    }
}

/// Words that are no names of nodes, because they are parts of paths.
const RESERVED: &[&str] = &[
    "maintenance",
    "management",
    "states",
    "detail",
    "validate",
    "vendor_passthru",
    "ports",
    "portgroups",
    "volume",
    "vifs",
    "traits",
    "bios",
    "firmware",
    "history",
    "inventory",
    "allocation",
    "children",
    "vmedia",
];

fn check_name(text: String) -> Result<String, Fault> {
    let refuse =
        |why: &str| Err(Fault::Invalid(format!("Cannot use invalid name '{}' for a node: {why}", short(&text))));
    if !is_name(&text) {
        return refuse("it must have 1 to 255 letters, digits, \"-\", \".\", \"_\" or \"~\"");
    }
    if Uuid::try_parse(&text).is_ok() {
        return refuse("it looks like a UUID");
    }
    if RESERVED.contains(&text.as_str()) {
        return refuse("it is a word of the API");
    }
    Ok(text)
}

/// What a text gets that is no MAC address.
pub(super) fn not_mac(text: &str) -> Fault {
    Fault::Invalid(format!("Expected valid MAC address for address: {}", short(text)))
}

/// A MAC address in lower case with colons.
pub(crate) fn mac(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(hex)).then_some(text)
}

/// Reads the body of a creation by its table: what is unknown is named, what is newer than the request is refused, the
/// rest is checked. Fields that are null are left out.
pub(super) fn created(
    call: &Call,
    what: &'static str,
    fields: &'static [Field],
    body: Map<String, Value>,
) -> Result<Map<String, Value>, Fault> {
    let known = |name: &String| versions::find(fields, name).is_some_and(|field| field.create.is_some());
    let strangers: Vec<&String> = body.keys().filter(|name| !known(name)).collect();
    if !strangers.is_empty() {
        let names: Vec<String> = strangers.into_iter().take(10).map(|name| format!("'{}'", short(name))).collect();
        return Err(Fault::Invalid(format!(
            "Schema error for {what}: Additional properties are not allowed ({} {} unexpected)",
            names.join(", "),
            if names.len() == 1 { "was" } else { "were" }
        )));
    }
    let mut checked = Map::new();
    for field in fields {
        let (Some(kind), Some(value)) = (field.create, body.get(field.name)) else { continue };
        let empty = value.is_null() || (field.name == "conductor_group" && value == "");
        if !call.has(field.since) && !empty {
            return Err(Fault::not_acceptable());
        }
        let value = check(what, field, kind, value.clone())?;
        if !value.is_null() {
            checked.insert(field.name.to_owned(), value);
        }
    }
    for field in fields.iter().filter(|field| field.create.is_some_and(Kind::is_required)) {
        if !checked.contains_key(field.name) {
            return Err(Fault::Invalid(format!("Schema error for {what}: '{}' is a required property", field.name)));
        }
    }
    Ok(checked)
}

/// The keys of a small body, each taken once by its type.
pub(super) struct Arguments {
    keys: Map<String, Value>,
}

impl Arguments {
    pub(super) fn new(keys: Map<String, Value>) -> Self {
        Self { keys }
    }

    /// Takes a key that is not null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.keys.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(Fault::Invalid(format!("Expected a string for {name}, but received {}.", kind_of(&other))))
            }
        }
    }

    /// Takes a text that has to be there.
    pub(super) fn required(&mut self, name: &str) -> Result<String, Fault> {
        self.text(name)?.ok_or_else(|| Fault::Invalid(format!("Missing mandatory parameter: {name}")))
    }

    /// Takes a flag.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        let flag = match self.take(name) {
            None => return Ok(None),
            Some(Value::Bool(flag)) => Some(flag),
            Some(Value::String(text)) => read_flag(&text),
            Some(_) => None,
        };
        flag.map(Some).ok_or_else(|| Fault::Invalid(format!("Expected true or false for {name}.")))
    }

    /// Takes a whole number from 0 on.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Some).ok_or_else(|| Fault::Invalid(format!("Expected a whole number, not negative, for {name}.")))
    }

    /// Refuses whatever nobody took.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if self.keys.is_empty() { Ok(()) } else { Err(unexpected(self.keys.keys())) }
    }
}

/// What an older version is told of a route differs between routes in Ironic, and clients tell the answers apart: of some
/// only `GET` is looked for, some are there and not acceptable.
const UNSEEN_OR_REFUSED: &[&str] = &["/v1/deploy_templates", "/v1/runbooks"];
const REFUSED: &[&str] = &["/v1/allocations", "/v1/inspection_rules"];
const NOT_ACCEPTABLE: &[&str] = &["/v1/nodes/{}/states/raid", "/v1/drivers/{}/raid"];
const TRAITS: &[&str] = &["/v1/nodes/{}/traits"];

/// Whether the route takes the version, as a fault when it does not.
pub(super) fn check_route_version(route: &Route, version: Version) -> Result<(), Fault> {
    if versions::has(version, route.since) {
        return Ok(());
    }
    let is_of = |paths: &[&str]| paths.iter().any(|path| route.path.starts_with(path));
    let reads = route.method == Method::GET;
    let since = route.since;
    Err(if route.agents {
        Fault::nothing_here()
    } else if is_of(NOT_ACCEPTABLE) || (is_of(TRAITS) && reads) {
        Fault::not_acceptable()
    } else if is_unseen(route.path) || (is_of(UNSEEN_OR_REFUSED) && reads) {
        Fault::NoRoute
    } else if is_of(UNSEEN_OR_REFUSED) {
        Fault::MethodNotAllowed { method: route.method.to_string(), allowed: format!("none before 1.{since}") }
    } else if (is_of(REFUSED) && !reads) || (is_of(TRAITS) && route.method == Method::PUT) {
        Fault::MethodNotYet { method: route.method.to_string(), since }
    } else {
        Fault::NotFound("The API is not supported for this version".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn the_version_is_found_in_either_header() {
        assert_eq!(version(&HeaderMap::new()), Ok(Version(1)));
        assert_eq!(version(&with("x-openstack-ironic-api-version", "1.61")), Ok(Version(61)));
        assert_eq!(version(&with("openstack-api-version", "compute 2.1, baremetal 1.80")), Ok(Version(80)));
        assert_eq!(version(&with("openstack-api-version", "compute 2.1")), Ok(Version(1)));
        assert!(version(&with("x-openstack-ironic-api-version", "1.9999")).is_err());
        assert!(version(&with("x-openstack-ironic-api-version", "new")).is_err());
    }

    #[test]
    fn names_of_nodes_are_what_fits_a_url_and_no_uuid_or_word_of_the_api() {
        for name in ["n1", "rack-1.example.org", "a_b~c"] {
            assert_eq!(check_name(name.to_owned()).as_deref(), Ok(name));
        }
        let long = "x".repeat(256);
        for name in ["", "a b", "a/b", "ü", "detail", "6d6a4a1c-3d4b-4c3a-9f5e-0a4d6b8a9e11", &long] {
            assert!(matches!(check_name(name.to_owned()), Err(Fault::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn paths_are_decoded_strictly() {
        assert_eq!(decode("a%2Db").as_deref(), Ok("a-b"));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_addresses_are_read_in_both_spellings() {
        assert_eq!(mac("52:54:00:AA:bb:01").as_deref(), Some("52:54:00:aa:bb:01"));
        assert_eq!(mac("52-54-00-aa-bb-01").as_deref(), Some("52:54:00:aa:bb:01"));
        for bad in ["", "52:54:00:aa:bb", "52:54:00:aa:bb:01:02", "52:54:00:aa:bb:0g", "+2:54:00:aa:bb:01"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
