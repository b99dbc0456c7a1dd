//! HTTP as odd clients speak it, over http and over https, byte by byte: what a client library would hide.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::logs::LogBuffer;
use agent::standalone::{self, Options, Tls};
use hardware_sim::{SimMachine, disk};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Rest, TOKEN, rig, settings};
use tokio_util::sync::CancellationToken;
use transport::client::{Trust, tls_config};

/// An answer has to come within this time.
const LIMIT: Duration = Duration::from_secs(30);

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// Where the API is served, and who is believed there; plain HTTP without.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    trust: Option<Trust>,
}

impl Server {
    fn connect(&self) -> Box<dyn Both> {
        match &self.trust {
            None => Box::new(connected(self.address)),
            Some(trust) => Box::new(encrypted(self.address, tls_config(trust, None).unwrap())),
        }
    }

    /// Sends all of it and reads to the end of the connection.
    fn exchange(&self, sent: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(sent).unwrap();
        stream.flush().unwrap();
        rest_of(&mut stream)
    }
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn encrypted(address: SocketAddr, config: rustls::ClientConfig) -> impl Both {
    let client = rustls::ClientConnection::new(Arc::new(config), address.ip().into()).unwrap();
    rustls::StreamOwned::new(client, connected(address))
}

fn rest_of(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Runs `ask` against an agent over http and over https.
async fn both(ask: fn(&Server)) {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    let rig = rig(machine, settings());
    for rest in [Rest::serve(&rig.dispatcher).await, Rest::serve_tls(&rig.dispatcher).await] {
        let address = rest.authority().parse().unwrap();
        let server = Server { address, trust: rest.certificate.clone().map(Trust::Only) };
        tokio::task::spawn_blocking(move || ask(&server)).await.unwrap();
    }
}

fn command(name: &str) -> String {
    json!({"name": name, "params": {}}).to_string()
}

/// The head of a command, with `more` lines.
fn head(token: &str, more: &str) -> String {
    format!("POST /v1/commands/?agent_token={token} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{more}\r\n")
}

fn post(token: &str, body: &str) -> String {
    format!("{}{body}", head(token, &format!("Content-Length: {}\r\n", body.len())))
}

fn json_of(answer: &str) -> Value {
    serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap())
        .unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_still_sends_its_body() {
    both(|server| {
        let rows = [("wrong", 1 << 20, 401), ("wrong", 24 << 20, 401), (TOKEN, agent::api::BODY_LIMIT + 1, 413)];
        for (token, bytes, status) in rows {
            let answer = server.exchange(post(token, &" ".repeat(bytes)).as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}: {answer:?}");
            assert_eq!(json_of(&answer)["faultcode"], "Client");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_may_come_in_pieces_with_or_without_its_length_and_after_a_question() {
    both(|server| {
        let body = command("standby.get_partition_uuids");
        let pieces: String = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
        let chunked = format!("{}{pieces}0\r\n\r\n", head(TOKEN, "Transfer-Encoding: chunked\r\n"));
        for sent in [post(TOKEN, &body), chunked] {
            let answer = server.exchange(sent.as_bytes());
            assert_eq!(json_of(&answer)["command_status"], "SUCCEEDED", "{answer}");
        }
        let length = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len());
        let mut stream = server.connect();
        stream.write_all(head(TOKEN, &length).as_bytes()).unwrap();
        let mut go_on = [0; 25];
        stream.read_exact(&mut go_on).unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(body.as_bytes()).unwrap();
        assert_eq!(json_of(&rest_of(&mut stream))["command_status"], "SUCCEEDED");
        // Who is not admitted need not send a body at all.
        let refused = server.exchange(head("wrong", &length).as_bytes());
        assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
        let broken = server.exchange(format!("{}zz\r\n", head(TOKEN, "Transfer-Encoding: chunked\r\n")).as_bytes());
        assert!(broken.starts_with("HTTP/1.1 400 "), "{broken}");
    })
    .await;
}

#[tokio::test]
async fn requests_may_follow_one_another_unanswered_and_old_clients_are_served() {
    both(|server| {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let last = "HEAD /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answer = server.exchange(format!("{}{}{last}", get("/v1/status"), get("/v1/commands/")).as_bytes());
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "401", "200"], "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "HEAD has a body: {answer}");
        let old = server.exchange(b"GET /v1/status HTTP/1.0\r\n\r\n");
        assert!(old.starts_with("HTTP/1.0 200 ") && json_of(&old)["version"] == "13.0.0", "{old}");
    })
    .await;
}

#[tokio::test]
async fn headers_about_versions_types_and_languages_change_nothing() {
    both(|server| {
        let body = command("standby.sync");
        for odd in [
            "X-OpenStack-Ironic-API-Version: 9.99",
            "X-OpenStack-Ironic-API-Version: banana",
            "Content-Type: text/plain",
            "Accept: application/xml",
            "Accept-Encoding: gzip, br",
            "Accept-Language: x",
            "If-None-Match: *",
        ] {
            let length = body.len();
            let answer = server.exchange(
                format!("{}{body}", head(TOKEN, &format!("{odd}\r\nContent-Length: {length}\r\n"))).as_bytes(),
            );
            assert!(answer.starts_with("HTTP/1.1 200 "), "{odd}: {answer}");
            assert!(answer.contains("content-type: application/json\r\n"), "{odd}: {answer}");
            assert_eq!(json_of(&answer)["command_status"], "SUCCEEDED", "{odd}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_no_http_end_their_connection_and_nothing_else() {
    both(|server| {
        for odd in [
            "\0\u{1}\u{2}\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: h\r\n\r\n",
            "GET /v1/sta tus HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX-A : 1\r\n\r\n",
        ] {
            let answer = server.exchange(odd.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{odd:?}: {answer:?}");
        }
        let long = format!("GET /?{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(70_000));
        assert!(server.exchange(long.as_bytes()).starts_with("HTTP/1.1 414 "));
        let many: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n");
        assert!(server.exchange(many.as_bytes()).starts_with("HTTP/1.1 431 "));
        let whole = server.exchange(b"GET /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
    })
    .await;
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    both(|server| {
        let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address).unwrap()).collect();
        let status = b"GET /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        for _ in 0..3 {
            assert!(server.exchange(status).starts_with("HTTP/1.1 200 "));
        }
        drop(idle);
    })
    .await;
}

#[tokio::test]
async fn links_name_the_host_as_it_was_called_without_the_port_that_the_scheme_has_anyway() {
    both(|server| {
        let (scheme, usual, other) = match server.trust {
            None => ("http", 80, 443),
            Some(_) => ("https", 443, 80),
        };
        for (host, named) in [
            ("h:1".to_owned(), "h:1".to_owned()),
            ("h".to_owned(), "h".to_owned()),
            (format!("h:{usual}"), "h".to_owned()),
            (format!("h:{other}"), format!("h:{other}")),
            (format!("[fd00::{usual}]"), format!("[fd00::{usual}]")),
            (format!("[fd00::1]:{usual}"), "[fd00::1]".to_owned()),
            ("a\"b<c>".to_owned(), "localhost".to_owned()),
        ] {
            let asked = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let link = &json_of(&server.exchange(asked.as_bytes()))["default_version"]["links"][0]["href"];
            assert_eq!(*link, format!("{scheme}://{named}/v1"), "{host}");
        }
    })
    .await;
}

/// The program that shows the API on any machine.
#[tokio::test]
async fn a_program_with_a_generated_identity_speaks_tls_1_3_alone() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let stop = CancellationToken::new();
    let options = Options { listen: address, token: None, tls: Tls::Auto };
    let serving = standalone::run(Arc::new(SimMachine::new()), options, LogBuffer::default(), stop.clone());
    let serving = tokio::spawn(serving);
    let asked = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < LIMIT, "nobody listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = b"GET /v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let server = Server { address, trust: Some(Trust::Anybody) };
        assert!(server.exchange(status).starts_with("HTTP/1.1 200 "));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let old =
            rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]);
        let old = old.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let refused = encrypted(address, old).write_all(status).unwrap_err().to_string();
        assert!(refused.contains("ProtocolVersion"), "{refused}");
    });
    asked.await.unwrap();
    stop.cancel();
    serving.await.unwrap().unwrap();
}
