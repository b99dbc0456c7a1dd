//! Health, readiness, metrics, and how it stops.

use super::{Daemon, LIMIT};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

impl Daemon {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// The head and body of an answer.
    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A request whose body has not come yet, and that is at work: the server has asked for the rest.
    fn open_request(&self) -> TcpStream {
        let mut stream = self.connect();
        let head = "POST /v1/nodes HTTP/1.1\r\nHost: here\r\nContent-Length: 26\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 100"), "{answer:?}");
        stream
    }
}

#[test]
fn a_driver_that_runs_says_so_and_what_it_has_counted() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), &[]);
    assert!(daemon.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(daemon.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(daemon.get("/v1/nodes/00000000-0000-4000-8000-000000000000").starts_with("HTTP/1.1 404"));
    let metrics = daemon.get("/metrics");
    assert!(metrics.contains("ferric_nodes{state=\"enroll\"} 0\n"), "{metrics}");
    assert!(metrics.contains("{method=\"GET\",route=\"/v1/nodes/{}\",status=\"404\"} 1\n"), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
}

#[test]
fn a_driver_that_is_told_to_stop_finishes_its_requests_and_is_not_ready_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &["--drain-delay", "1"]);
    let mut open = daemon.open_request();
    daemon.signal();
    let start = Instant::now();
    while !daemon.get("/readyz").starts_with("HTTP/1.1 503") {
        assert!(start.elapsed() < LIMIT, "it is ready");
    }
    assert!(daemon.get("/healthz").starts_with("HTTP/1.1 200"));
    // It accepts nobody after the delay, but whoever is in is answered.
    while TcpStream::connect(&daemon.address).is_ok() {
        assert!(start.elapsed() < LIMIT, "it still accepts");
        std::thread::sleep(Duration::from_millis(10));
    }
    open.write_all(b"{\"driver\":\"fake-hardware\"}").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(daemon.ended().success());
}

#[test]
fn a_driver_that_is_told_twice_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &["--drain-delay", "600"]);
    daemon.signal();
    let start = Instant::now();
    while !daemon.get("/readyz").starts_with("HTTP/1.1 503") {
        assert!(start.elapsed() < LIMIT, "it is ready");
    }
    daemon.signal();
    assert_eq!(daemon.ended().code(), Some(1));
}
