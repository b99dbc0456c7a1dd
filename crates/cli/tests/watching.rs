//! Watching many nodes of a large site: what is read of it, and what is not.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

#[allow(dead_code, reason = "each test program uses its part of it")]
mod service;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::json;
use service::{Asked, Service, json, node, recorded};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nodes that are watched.
const MANY: usize = 9;
/// The one that something happens to first.
const FIRST: usize = 3;

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// How often each was read, and how often they were when the first was read that something had happened to.
#[derive(Default)]
struct Reads {
    each: [usize; MANY],
    /// Those before something happened.
    before: Option<[usize; MANY]>,
    then: Option<[usize; MANY]>,
}

impl Reads {
    fn of(&mut self, number: usize) -> serde_json::Value {
        self.each[number] += 1;
        if number == FIRST && self.before.is_some() {
            self.then.get_or_insert(self.each);
        }
        let state = if self.then.is_some() { "active" } else { "deploying" };
        json!({"uuid": uuid(number), "name": format!("n{number}"), "provision_state": state})
    }
}

/// Events: first of a node of somebody else and of [`FIRST`], when all were read twice; then of all.
fn events(reads: Arc<Mutex<Reads>>) -> Response {
    let event = |uuid: &str| format!("event: state\ndata: {{\"node\": \"{uuid}\"}}\n\n");
    let stream = futures::stream::unfold(0, move |step| {
        let reads = reads.clone();
        async move {
            let mut text = "event: begin\ndata: {}\n\n".to_owned();
            loop {
                {
                    let mut reads = reads.lock().unwrap();
                    match step {
                        0 => break,
                        1 if reads.each.iter().all(|times| *times >= 2) => {
                            reads.before = Some(reads.each);
                            text = event(&uuid(77)) + &event(&uuid(FIRST));
                            break;
                        }
                        2 if reads.then.is_some() => {
                            text = (0..MANY).map(|number| event(&uuid(number))).collect();
                            break;
                        }
                        _ => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Some((Ok::<_, Infallible>(Bytes::from(text)), step + 1))
        }
    });
    Response::new(Body::from_stream(stream))
}

#[test]
fn only_nodes_that_are_watched_are_read_and_then_those_that_something_happens_to() {
    let reads = Arc::new(Mutex::new(Reads::default()));
    let service = Service::start({
        let reads = reads.clone();
        move |asked: &Asked| {
            let ident = asked.path().strip_prefix("/v1/nodes/").unwrap_or_default();
            let number = (0..MANY).find(|number| ident == uuid(*number));
            let named = (0..MANY).find(|number| ident == format!("n{number}"));
            match (number, named) {
                (Some(number), _) => json(&node(reads.lock().unwrap().of(number))),
                (_, Some(number)) => json(&node(json!({"uuid": uuid(number), "provision_state": "deploying"}))),
                _ if asked.path() == "/v1/events" => events(reads.clone()),
                _ => recorded("errors", "no such path"),
            }
        }
    });
    let names: Vec<String> = (0..MANY).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (code, _, err) = service.run(&[&["watch", "--timeout", "60"][..], &names].concat());
    assert_eq!(code, Some(0), "{err}");
    let paths: Vec<String> = service.asked().iter().map(|asked| asked.path().to_owned()).collect();
    assert!(!paths.iter().any(|path| path == "/v1/nodes" || path.contains(&uuid(77))), "{paths:?}");
    let reads = reads.lock().unwrap();
    let (mut before, then) = (reads.before.unwrap(), reads.then.unwrap());
    before[FIRST] += 1;
    assert_eq!(then, before);
}
