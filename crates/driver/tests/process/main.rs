//! The daemon as a process: how it says that it runs, how it stops, and what it knows after it was killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod killed;
mod service;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What nothing here may take longer than.
const LIMIT: Duration = Duration::from_secs(60);

/// `ferricd`, which ends with this.
struct Daemon {
    child: Child,
    /// Where its API is, as a host and a port.
    address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts it with its database in a folder, and waits until it listens.
    fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferricd"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let rest = line.split_once("listening address=")?.1.to_owned();
            Some(rest.split_whitespace().next()?.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.unwrap() }
    }
}
