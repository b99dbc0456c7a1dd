//! Killed while agents call.

use super::{Daemon, LIMIT};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a node waits for a heartbeat.
const DEADLINE: Duration = Duration::from_secs(8);
const NODES: usize = 12;

impl Daemon {
    /// One whose nodes do not wait long for their agents.
    fn impatient(data: &Path) -> Self {
        let deadlines = format!("clean_callback_timeout={0},cleaning_timeout={0}", DEADLINE.as_secs());
        Self::start(data, &["--sync-power-state-interval", "0", "--deadlines", &deadlines])
    }

    /// kill -9: nothing is saved, nothing is said.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A status and a document; unset where the daemon went away.
    fn ask(address: &str, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX-OpenStack-Ironic-API-Version: 1.90\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        let (got, document) = Self::ask(&self.address, method, path, body).unwrap();
        assert_eq!(got, status, "{method} {path}: {document}");
        document
    }

    fn why(&self, node: &str) -> Value {
        self.call("GET", &format!("/v1/nodes/{node}/why"), None, 200)
    }

    /// Waits until a node is in a state.
    fn reach(&self, node: &str, state: &str) {
        let start = Instant::now();
        while self.why(node)["provision_state"] != state {
            assert!(start.elapsed() < LIMIT, "{}", self.why(node));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn heartbeat(token: &str) -> Value {
    // Nobody serves there: the node goes on to wait, and every heartbeat is one that it waits for.
    json!({"callback_url": "https://127.0.0.1:1", "agent_version": "13.0.0", "agent_token": token})
}

/// A node that waits for its agent, and the agent's token.
fn waiting(daemon: &Daemon, number: usize) -> (String, String) {
    let node =
        daemon.call("POST", "/v1/nodes", Some(&json!({"driver": "fake-hardware", "deploy_interface": "direct"})), 201);
    let uuid = node["uuid"].as_str().unwrap().to_owned();
    let address = format!("52:54:00:00:01:{number:02x}");
    daemon.call("POST", "/v1/ports", Some(&json!({"node_uuid": uuid, "address": address})), 201);
    let provision = format!("/v1/nodes/{uuid}/states/provision");
    daemon.call("PUT", &provision, Some(&json!({"target": "manage"})), 202);
    daemon.reach(&uuid, "manageable");
    daemon.call("PUT", &provision, Some(&json!({"target": "provide"})), 202);
    daemon.reach(&uuid, "clean wait");
    let found = daemon.call("GET", &format!("/v1/lookup?addresses={address}"), None, 200);
    (uuid, found["config"]["agent_token"].as_str().unwrap().to_owned())
}

#[test]
fn after_kill_9_no_node_times_out_for_want_of_an_acknowledged_heartbeat() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::impatient(&data);
    let nodes: Vec<_> = (0..NODES).map(|number| waiting(&daemon, number)).collect();

    // All agents call, again and again, until the daemon is gone in the middle of it.
    let agents: Vec<_> = nodes
        .iter()
        .cloned()
        .map(|(node, token)| {
            let address = daemon.address.clone();
            std::thread::spawn(move || {
                let mut acknowledged = None;
                loop {
                    let sent = jiff::Timestamp::now();
                    match Daemon::ask(&address, "POST", &format!("/v1/heartbeat/{node}"), Some(&heartbeat(&token))) {
                        Some((202, _)) => acknowledged = Some((sent, Instant::now())),
                        // The node is being worked on for a moment.
                        Some((409, _)) => {}
                        Some(other) => panic!("{other:?}"),
                        None => return acknowledged,
                    }
                }
            })
        })
        .collect();
    let start = Instant::now();
    while nodes.iter().any(|(node, _)| daemon.why(node)["agent"]["last_heartbeat"].is_null()) {
        assert!(start.elapsed() < LIMIT, "an agent is not heard");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.kill();
    let acknowledged: Vec<_> = agents.into_iter().map(|agent| agent.join().unwrap().unwrap()).collect();

    // Nobody can call meanwhile, for longer than a node waits.
    let last = acknowledged.iter().map(|(_, at)| *at).max().unwrap();
    std::thread::sleep((last + DEADLINE + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
    let daemon = Daemon::impatient(&data);
    for ((node, token), (sent, _)) in nodes.iter().zip(&acknowledged) {
        let why = daemon.why(node);
        // It is in the other one while its agent is asked something, who does not answer.
        let waits = ["clean wait", "cleaning"].map(Value::from).contains(&why["provision_state"]);
        assert!(waits, "{why}");
        assert_ne!(why["deadline"]["seconds_left"], json!(0), "{why}");
        let document = daemon.call("GET", &format!("/v1/nodes/{node}"), None, 200);
        let known = document["driver_internal_info"]["agent_last_heartbeat"].as_str().unwrap();
        let known: jiff::Timestamp = format!("{known}Z").parse().unwrap();
        // One that nobody waits for is only recorded, and that may be lost for so long: the next one says the same.
        assert!(
            known + store::SOON >= *sent,
            "a heartbeat of {sent} was acknowledged, {known} is the last that is kept"
        );
        // The agent is still believed.
        daemon.call("POST", &format!("/v1/heartbeat/{node}"), Some(&heartbeat(token)), 202);
        assert_eq!(daemon.why(node)["last_error"], Value::Null);
    }

    // That none timed out was not because none ever does.
    for (node, _) in &nodes {
        daemon.reach(node, "clean failed");
    }
}
