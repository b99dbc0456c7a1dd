//! Asks again what was asked of the peer, and compares.

use axum::Router;
use axum::body::Body;
use driver::api::{self, Audience};
use driver::conductor::{Conductor, Parts, Settings};
use http::{HeaderMap, Request};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::MemoryStore;
use tower::ServiceExt as _;

const HEADERS: &[&str] = &[
    "x-openstack-ironic-api-version",
    "x-openstack-ironic-api-minimum-version",
    "x-openstack-ironic-api-maximum-version",
    "content-type",
    "location",
];

/// How long what goes on by itself may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What was recorded in a file.
pub(crate) fn recorded(file: &str) -> Value {
    let path = format!("{}/testdata/ironic/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The API of a driver with these settings.
pub(crate) async fn router(data: &Path, change: impl FnOnce(&mut Settings)) -> Router {
    let mut settings = Settings::new("recorder", data, "http://127.0.0.1");
    change(&mut settings);
    let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
    api::router(conductor, Audience::Everybody)
}

pub(crate) async fn ask(router: &Router, request: &Value) -> (u16, HeaderMap, Value) {
    let body = match (request.get("raw"), request.get("body")) {
        (Some(Value::String(raw)), _) => raw.clone(),
        (_, Some(body)) => body.to_string(),
        _ => String::new(),
    };
    let mut builder = Request::builder()
        .method(request["method"].as_str().unwrap())
        .uri(request["path"].as_str().unwrap())
        .header("host", "HOST");
    for (name, value) in request.get("headers").and_then(Value::as_object).into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap());
    }
    let response = router.clone().oneshot(builder.body(Body::from(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = transport::body::read(body, 1 << 24).await.unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (head.status.as_u16(), head.headers, body)
}

/// A place-holder of the recorder stands for what differs from run to run.
fn is_placeholder(text: &str) -> bool {
    text == "TIMESTAMP" || text.starts_with("UUID")
}

fn compare(place: &str, theirs: &Value, ours: &Value, found: &mut Vec<(String, String)>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let place = format!("{place}.{name}");
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => compare(&place, a, b, found),
                    (Some(a), None) => found.push((place, format!("only theirs: {a}"))),
                    (None, Some(b)) => found.push((place, format!("only ours: {b}"))),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{place}[{index}]"), a, b, found);
            }
        }
        (Value::String(a), Value::String(_)) if is_placeholder(a) => {}
        (a, b) if a == b => {}
        (a, b) => found.push((place.to_owned(), format!("theirs {a}, ours {b}"))),
    }
}

/// The inner object of an error; the recorder may have taken it apart already.
fn inner(body: &Value) -> Option<Value> {
    match body.get("error_message")? {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

/// Differences, and texts for people that differ.
pub(crate) struct Differences {
    /// Where the answers may differ: the beginning of `file: exchange: place`, and why. `*` stands for any exchange.
    kept: &'static [(&'static str, &'static str)],
    /// Place and what.
    pub(crate) found: Vec<(String, String)>,
    /// For review.
    pub(crate) texts: String,
}

impl Differences {
    /// None yet.
    pub(crate) fn new(kept: &'static [(&'static str, &'static str)]) -> Self {
        Self { kept, found: Vec::new(), texts: String::new() }
    }

    /// Asks what an exchange asked; one that the recorder waited for is asked until it is answered so.
    pub(crate) async fn ask(&mut self, router: &Router, file: &str, exchange: &Value) {
        let name = exchange["name"].as_str().unwrap();
        let start = Instant::now();
        let (mut found, mut texts) = once(router, exchange).await;
        let unexplained = |place: &String| reason(self.kept, &format!("{file}: {name}: {place}")).is_none();
        while name.starts_with("wait: ")
            && found.iter().any(|(place, _)| unexplained(place))
            && start.elapsed() < PATIENCE
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (found, texts) = once(router, exchange).await;
        }
        self.found.extend(found.into_iter().map(|(place, what)| (format!("{file}: {name}: {place}"), what)));
        for (theirs, ours) in texts {
            self.texts.push_str(&format!("{file}: {name}\n  theirs {theirs}\n  ours   {ours}\n"));
        }
    }

    /// Fails when there is a difference that nobody gave a reason for, or a reason for none.
    pub(crate) fn check(&self) {
        let kept = self.kept;
        let mut used = vec![false; kept.len()];
        let mut unexpected = String::new();
        for (place, what) in &self.found {
            match reason(kept, place) {
                Some(index) => used[index] = true,
                None => unexpected.push_str(&format!("{place}: {what}\n")),
            }
        }
        assert!(unexpected.is_empty(), "differences that nobody gave a reason for:\n{unexpected}");
        let idle: Vec<&str> =
            kept.iter().zip(used).filter(|(_, used)| !used).map(|((pattern, _), _)| *pattern).collect();
        assert!(idle.is_empty(), "reasons for differences that there are not: {idle:?}");
    }
}

type Texts = Vec<(String, String)>;

async fn once(router: &Router, exchange: &Value) -> (Vec<(String, String)>, Texts) {
    let theirs = &exchange["response"];
    let (status, headers, mut body) = ask(router, &exchange["request"]).await;
    let (mut found, mut texts) = (Vec::new(), Vec::new());
    if theirs["status"] != status {
        found.push(("status".to_owned(), format!("theirs {}, ours {status}", theirs["status"])));
    }
    for header in HEADERS {
        let ours = headers.get(*header).map(|value| value.to_str().unwrap());
        let expected = theirs["headers"].get(*header).and_then(Value::as_str);
        if ours != expected && !expected.is_some_and(|text| text.contains("UUID")) {
            found.push((format!("header {header}"), format!("theirs {expected:?}, ours {ours:?}")));
        }
    }
    let mut expected = theirs["body"].clone();
    if let (Some(mut a), Some(mut b)) = (inner(&expected), inner(&body)) {
        for key in ["faultstring", "description"] {
            let (theirs, ours) = (a.get(key).cloned(), b.get(key).cloned());
            if theirs != ours {
                let show = |text: Option<Value>| {
                    let text = text.and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
                    text.chars().take(300).collect::<String>().replace('\n', " ")
                };
                texts.push((show(theirs), show(ours)));
            }
            for side in [&mut a, &mut b] {
                side.as_object_mut().unwrap().remove(key);
            }
        }
        (expected, body) = (a, b);
    }
    compare("", &expected, &body, &mut found);
    (found, texts)
}

/// The reason for a difference: `file: exchange: place`, as far as it goes; `*` stands for any exchange.
fn reason(kept: &[(&str, &str)], place: &str) -> Option<usize> {
    let (file, rest) = place.split_once(": ")?;
    kept.iter().position(|(pattern, _)| {
        let any = pattern
            .strip_prefix(&format!("{file}: *: "))
            .is_some_and(|wanted| rest.rsplit_once(": ").is_some_and(|(_, tail)| tail.starts_with(wanted)));
        any || place.starts_with(pattern)
    })
}
