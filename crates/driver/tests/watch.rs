//! Watching nodes over the API: the stream of events, progress, logs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::Router;
use axum::body::{Body, BodyDataStream};
use driver::api::auth::{Access, Users};
use driver::api::{self, Audience};
use driver::conductor::{Conductor, Parts, Settings};
use driver::events::{KEPT, Kind, WATCHERS};
use driver::logs::Line;
use futures::StreamExt as _;
use http::{Request, Response};
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::rpc::events::WatchRequest;
use wire::rpc::events::events_client::EventsClient;

struct Site {
    conductor: Arc<Conductor<MemoryStore>>,
    router: Router,
    draining: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::new("here", folder.path(), "http://127.0.0.1");
        let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
        let draining = CancellationToken::new();
        let access = Access { draining: draining.clone(), ..Access::default() };
        let router = api::router_for(conductor.clone(), Audience::Everybody, access);
        Self { conductor, router, draining, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("x-openstack-ironic-api-version", "1.95");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    async fn node(&self, name: &str) -> Uuid {
        let reply = self.send("POST", "/v1/nodes", &[], json!({"driver": "fake-hardware", "name": name})).await;
        assert_eq!(reply.status(), 201);
        let body = transport::body::read(reply.into_body(), 1 << 20).await.unwrap();
        let document: Value = serde_json::from_slice(&body).unwrap();
        document["uuid"].as_str().unwrap().parse().unwrap()
    }

    async fn watch(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let reply = self.send("GET", path, headers, Value::Null).await;
        assert_eq!(reply.status(), 200, "{path}");
        assert_eq!(reply.headers()["content-type"], "text/event-stream");
        Stream { body: reply.into_body().into_data_stream(), rest: String::new() }
    }

    async fn text(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let reply = self.send("GET", path, headers, Value::Null).await;
        assert_eq!(reply.status(), 200, "{path}");
        String::from_utf8(transport::body::read(reply.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
    }
}

/// A client of the stream.
struct Stream {
    body: BodyDataStream,
    rest: String,
}

impl Stream {
    /// The next message: its id, its name, its data. [`None`] at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((message, rest)) = self.rest.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.rest = rest;
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                if message.starts_with(':') {
                    continue;
                }
                let data = serde_json::from_str(field("data: ")).unwrap();
                return Some((field("id: ").to_owned(), field("event: ").to_owned(), data));
            }
            let piece = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.unwrap()?;
            self.rest.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
    }
}

fn line(message: &str) -> Line {
    let (level, target) = ("INFO".to_owned(), "agent".to_owned());
    Line { number: 0, time: Some(Timestamp::UNIX_EPOCH), level, target, message: message.to_owned() }
}

#[tokio::test]
async fn what_happens_to_nodes_is_streamed_and_a_client_goes_on_where_it_was() {
    let site = Site::new().await;
    let mut all = site.watch("/v1/events", &[]).await;
    let (start, name, data) = all.next().await.unwrap();
    assert_eq!((name.as_str(), &data["conductor"]), ("begin", &json!("here")));
    let one = site.node("n1").await;
    let other = site.node("n2").await;
    let maintenance = "/v1/nodes/n1/maintenance";
    assert_eq!(site.send("PUT", maintenance, &[], json!({"reason": "dust"})).await.status(), 202);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (id, name, data) = all.next().await.unwrap();
        if name == "state" {
            seen.push((id, data));
        }
    }
    assert_eq!(seen[0].1["node"], json!(one));
    assert_eq!((&seen[1].1["node"], &seen[1].1["provision_state"]), (&json!(other), &json!("enroll")));
    assert_eq!((&seen[2].1["name"], &seen[2].1["maintenance"]), (&json!("n1"), &json!(true)));

    // From the start again, by header and by parameter, and one node alone.
    for (path, headers) in [
        ("/v1/events", &[("last-event-id", start.as_str())][..]),
        (format!("/v1/events?last_event_id={start}").as_str(), &[]),
    ] {
        let mut again = site.watch(path, headers).await;
        assert_eq!(again.next().await.unwrap().1, "begin");
        assert_eq!(again.next().await.unwrap().0, seen[0].0);
    }
    let mut of_one = site.watch("/v1/events?node=n2", &[("last-event-id", &start)]).await;
    of_one.next().await.unwrap();
    assert_eq!(of_one.next().await.unwrap().2["node"], json!(other));

    assert_eq!(site.send("DELETE", "/v1/nodes/n2", &[], Value::Null).await.status(), 204);
    assert_eq!(of_one.next().await.unwrap().1, "deleted");
    site.draining.cancel();
    assert_eq!(of_one.next().await.unwrap().1, "end");
    assert!(of_one.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_is_too_slow_is_told_and_ended() {
    let site = Site::new().await;
    let node = site.node("n1").await;
    let mut slow = site.watch("/v1/events", &[]).await;
    let (start, ..) = slow.next().await.unwrap();
    for _ in 0..KEPT + 1 {
        site.conductor.events().add(Timestamp::UNIX_EPOCH, node, Kind::History, &json!({}));
    }
    let (id, name, data) = slow.next().await.unwrap();
    assert_eq!((name.as_str(), id), ("lost", site.conductor.events().now().to_string()));
    assert!(data["reason"].as_str().unwrap().contains("read the nodes anew"));
    assert!(slow.next().await.is_none());
    let mut again = site.watch("/v1/events", &[("last-event-id", &start)]).await;
    again.next().await.unwrap();
    assert_eq!(again.next().await.unwrap().1, "lost");
    let mut other_start = site.watch("/v1/events", &[("last-event-id", "77-1")]).await;
    other_start.next().await.unwrap();
    assert_eq!(other_start.next().await.unwrap().1, "lost");
}

#[tokio::test]
async fn watchers_are_bounded_and_bad_requests_are_told_why() {
    let site = Site::new().await;
    site.node("n1").await;
    for (path, headers, status) in [
        ("/v1/events?node=n7", &[][..], 404),
        ("/v1/events?colour=1", &[], 400),
        ("/v1/events", &[("last-event-id", "yesterday")], 400),
        ("/v1/nodes/n1/logs?tail=all", &[], 400),
        ("/v1/nodes/n1/logs?follow=perhaps", &[], 400),
        ("/v1/nodes/n7/logs", &[], 404),
        ("/v1/nodes/n7/progress", &[], 404),
    ] {
        assert_eq!(site.send("GET", path, headers, Value::Null).await.status(), status, "{path}");
    }
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers.push(site.watch("/v1/events", &[]).await);
    }
    assert_eq!(site.send("GET", "/v1/events", &[], Value::Null).await.status(), 503);
    let follow = "/v1/nodes/n1/logs?follow=true";
    assert_eq!(site.send("GET", follow, &[], Value::Null).await.status(), 503);
    drop(watchers);
    assert_eq!(site.send("GET", follow, &[], Value::Null).await.status(), 200);
}

#[tokio::test]
async fn a_log_is_followed_in_either_form() {
    let site = Site::new().await;
    let node = site.node("n1").await;
    site.conductor.log_lines(node, "boot", 2, vec![line("one"), line("two")]);
    let text = site.text("/v1/nodes/n1/logs?tail=1", &[]).await;
    assert_eq!(text, "1970-01-01T00:00:00.000Z  INFO agent: two\n");
    let json = site.text("/v1/nodes/n1/logs?tail=1", &[("accept", "application/x-ndjson")]).await;
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&document["message"], &document["number"]), (&json!("two"), &json!(2)));

    let reply = site.send("GET", "/v1/nodes/n1/logs?follow=true", &[], Value::Null).await;
    let mut body = reply.into_body().into_data_stream();
    let first = body.next().await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&first).lines().count(), 2);
    site.conductor.log_lines(node, "boot", 3, vec![line("three")]);
    let next = body.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&next).ends_with("three\n"));
    site.draining.cancel();
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn a_node_at_rest_says_since_when_it_is_where_it_is() {
    let site = Site::new().await;
    site.node("n1").await;
    let report: Value = serde_json::from_str(&site.text("/v1/nodes/n1/progress", &[]).await).unwrap();
    assert_eq!(report["state"]["state"], json!("enroll"));
    assert!(report["state"]["seconds"].is_u64() && report["state"]["usual_seconds"].is_null());
    for name in ["flow", "step", "stage", "percent", "stalled"] {
        assert!(report[name].is_null(), "{name}");
    }
}

#[tokio::test]
async fn programs_watch_by_grpc_on_the_same_listener_and_say_who_they_are() {
    let site = Site::new().await;
    site.node("n1").await;
    let path = site._folder.path().join("htpasswd");
    std::fs::write(&path, format!("admin:{}\n", bcrypt::hash("canary", 4).unwrap())).unwrap();
    let users = Some(Arc::new(Users::load(&path).unwrap()));
    let access = Access { users, draining: site.draining.clone(), ..Access::default() };
    let router = api::router_for(site.conductor.clone(), Audience::Everybody, access);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(transport::server::serve_both(listener, router, Default::default(), site.draining.clone()));
    let origin: http::Uri = format!("http://{address}").parse().unwrap();
    let connect = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let ask = async |node: &str, after: &str, authorization: Option<&'static str>| {
        let mut client = EventsClient::with_origin(connect.clone(), origin.clone());
        let request = WatchRequest { node: node.to_owned(), after: after.to_owned() };
        let mut request = tonic::Request::new(request);
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        client.watch(request).await.map(tonic::Response::into_inner)
    };
    // admin:canary, and a wrong password.
    let (right, wrong) = ("Basic YWRtaW46Y2FuYXJ5", "Basic YWRtaW46d3Jvbmc=");
    for authorization in [None, Some(wrong)] {
        assert_eq!(ask("", "", authorization).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    }
    assert_eq!(ask("n7", "", Some(right)).await.unwrap_err().code(), tonic::Code::NotFound);
    assert_eq!(ask("", "yesterday", Some(right)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let mut events = ask("n1", "", Some(right)).await.unwrap();
    assert_eq!(events.message().await.unwrap().unwrap().kind, "begin");
    assert_eq!(site.send("PUT", "/v1/nodes/n1/maintenance", &[], json!({})).await.status(), 202);
    let event = loop {
        let event = events.message().await.unwrap().unwrap();
        if event.kind == "state" {
            break event;
        }
    };
    let data: Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(data["maintenance"], json!(true));
    site.draining.cancel();
    while events.message().await.unwrap().is_some_and(|event| event.kind != "end") {}
    assert!(events.message().await.unwrap().is_none());
}
