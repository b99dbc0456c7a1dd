//! `cargo xtask interop sdk`: openstacksdk's own functional tests of bare metal, as they are in its package, against a
//! `ferricd` of this checkout. Nothing of the tests is changed or left out: all that the package has must run and pass.

use crate::{cmd, python};
use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The tests, as a package of openstacksdk, and how many of them a real Ironic 39 passes.
const PACKAGE: &str = "openstack.tests.functional.baremetal";
const TESTS: usize = 96;
/// How long ferricd may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Runs the tests whose names contain one of `only`, all when there is none, or lists them.
pub fn run(only: &[String], list: bool) -> Result<()> {
    let environment = python::environment("openstacksdk", python::System::Hidden)?;
    let folder = std::env::temp_dir().join(format!("ferric-sdk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let outcome = if list { names(&environment) } else { with_ferricd(&environment, &folder, only) };
    match &outcome {
        Ok(()) => std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?,
        Err(_) => eprintln!("[sdk] what was logged is in {}", folder.display()),
    }
    outcome
}

/// Prints the names of the tests.
fn names(environment: &Path) -> Result<()> {
    let program = format!(
        "import unittest\ndef names(suite):\n for test in suite:\n  yield from names(test) if hasattr(test, \"__iter__\") else \
         [test.id()]\nprint(\"\\n\".join(names(unittest.TestLoader().discover(\"{PACKAGE}\"))))"
    );
    let mut python = Command::new(environment.join("bin/python"));
    print!("{}", cmd::output(python.args(["-c", &program]).envs(settings(Path::new("none"))))?);
    Ok(())
}

fn with_ferricd(environment: &Path, folder: &Path, only: &[String]) -> Result<()> {
    let (_ferricd, url) = ferricd(folder, &[])?;
    test(environment, folder, &url, only)
}

/// Starts the `ferricd` of this checkout with its files in `folder` and these settings (variables and values); it stops
/// with what comes back, beside its URL.
pub fn ferricd(folder: &Path, settings: &[(&str, &str)]) -> Result<(Stopped, String)> {
    cmd::run(Command::new("cargo").args(["build", "--locked", "--package=driver"]).current_dir(cmd::root()))?;
    let address = free_address()?;
    let log = std::fs::File::create(folder.join("ferricd.log"))?;
    let mut ferricd = Command::new(cmd::root().join("target/debug/ferricd"));
    ferricd.args(["--listen", &address.to_string(), "--data-dir"]).arg(folder.join("data"));
    ferricd.envs(settings.iter().copied());
    let mut ferricd = Stopped(ferricd.stdin(Stdio::null()).stderr(log).spawn().context("start ferricd")?);
    let started = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if let Some(status) = ferricd.0.try_wait()? {
            bail!("ferricd ended with {status}");
        }
        ensure!(started.elapsed() < START, "ferricd does not listen on {address} after {START:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((ferricd, format!("http://{address}")))
}

/// A loopback address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?.local_addr()?)
}

/// A program that ends with this value.
pub struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the tests against `url` and judges what they say.
fn test(environment: &Path, folder: &Path, url: &str, only: &[String]) -> Result<()> {
    let clouds = folder.join("clouds.yaml");
    std::fs::write(&clouds, clouds_yaml(url))?;
    let mut unittest = Command::new(environment.join("bin/python"));
    unittest.args(["-m", "unittest", "discover", "--verbose", "--start-directory", PACKAGE]);
    for part in only {
        unittest.args(["-k", part]);
    }
    unittest.envs(settings(&clouds)).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = unittest.spawn().context("start the tests")?;
    let stderr = child.stderr.take().context("what the tests say")?;
    let mut said = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("read what the tests say")?;
        eprintln!("{line}");
        said.push(line);
    }
    let good = child.wait()?.success();
    let passed = said.iter().filter(|line| line.ends_with("... ok")).count();
    let ran = said.iter().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<usize>().ok());
    let ran = ran.context("the tests did not say how many they were")?;
    println!("openstacksdk: {passed} of {ran} passed");
    ensure!(ran > 0, "no test has {only:?} in its name");
    if only.is_empty() {
        ensure!(ran == TESTS, "{ran} tests ran; openstacksdk's package has {TESTS}");
    }
    ensure!(good && passed == ran, "{} of {ran} tests did not pass", ran - passed);
    Ok(())
}

const CLOUD: &str = "ferric";

/// What the tests read: they ask for clouds by several names, all of which are the one that is tested.
fn settings(clouds: &Path) -> Vec<(&'static str, OsString)> {
    let names = [
        "OS_CLOUD",
        "OPENSTACKSDK_DEMO_CLOUD",
        "OPENSTACKSDK_DEMO_CLOUD_ALT",
        "OPENSTACKSDK_OPERATOR_CLOUD",
        "OPENSTACKSDK_SYSTEM_ADMIN_CLOUD",
    ];
    let mut settings: Vec<(&str, OsString)> = names.into_iter().map(|name| (name, CLOUD.into())).collect();
    settings.push(("OS_CLIENT_CONFIG_FILE", clouds.into()));
    settings.push(("OS_TEST_TIMEOUT", "60".into()));
    settings.push(("OS_LOG_CAPTURE", "1".into()));
    settings.push(("PYTHONDONTWRITEBYTECODE", "1".into()));
    settings
}

/// A cloud without authentication that has bare metal and nothing else.
fn clouds_yaml(url: &str) -> String {
    format!(
        "clouds:\n  {CLOUD}:\n    auth_type: none\n    auth:\n      endpoint: {url}\n    has_compute: false\n    has_image: false\n    baremetal_endpoint_override: {url}\n"
    )
}
