//! The demo's path: from powered off to a Debian that takes its name and key from the config drive.

use super::World;
use crate::console::mib;
use crate::ferricd::Ferricd;
use crate::lab::output;
use crate::server::{ServerSpec, VirtualServer};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// Name of the node in the API.
pub const NODE: &str = "node-1";
/// What the installed system is told to call itself.
const HOSTNAME: &str = "ferric-demo";
/// From power-on until somebody can log in; emulated, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// Resident memory of an agent that waits, and of one that writes an image: bytes at most.
pub(super) const IDLE_MEMORY: u64 = 40 << 20;
pub(super) const BUSY_MEMORY: u64 = 96 << 20;

/// What runs once Debian is up.
#[derive(Debug)]
pub struct Running {
    /// The driver.
    pub ferricd: Ferricd,
    /// The server.
    pub server: VirtualServer,
    /// Private key of the installed system's user `debian`.
    pub key: PathBuf,
}

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    install(world).await.map(drop)
}

/// Tells the story and hands over what it started.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn install(world: &mut World) -> Result<Running> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    world.enroll(&server, NODE).await?;
    world.make_available(&mut ferricd, NODE).await?;

    let key = world.lab.dir().join("id_ed25519");
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "ferric-demo", "-f"]).arg(&key))
        .await?;
    let public = std::fs::read_to_string(key.with_extension("pub")).context("read the public key")?;
    let image = world.offer("debian.raw.zst", &world.lab.artifacts().debian.join("debian.raw.zst"))?;
    world.console.begin("deploy: write Debian, config drive, boot entry");
    world.choose_image(NODE, &image).await?;
    let config_drive = json!({
        "meta_data": {
            "uuid": server.uuid,
            "name": HOSTNAME,
            "hostname": HOSTNAME,
            "public_keys": {"demo": public.trim()},
        },
        "user_data": "#cloud-config\nwrite_files:\n- path: /etc/ferric-demo\n  content: from user data\n",
    });
    let before_boot = server.serial_len();
    memory_at_most(&server, "memory_kib", IDLE_MEMORY)?;
    world.drive(&mut ferricd, "deploy", NODE, &["--config-drive", &config_drive.to_string()]).await?;
    world.expect_state(NODE, "active").await?;
    let memory = memory_at_most(&server, "peak_memory_kib", BUSY_MEMORY)?;
    let fetched: u64 = world.images.fetches("debian.raw.zst").iter().map(|fetch| fetch.sent).sum();
    let written = server.allocated().await?;
    let detail = format!("{} fetched, {} on the disk, agent at most {}", mib(fetched), mib(written), mib(memory));
    world.console.end(&detail);

    world.console.begin("boot Debian from disk and log in");
    let hostname = first_login(world, &server, &key).await?;
    ensure!(hostname == HOSTNAME, "the installed system calls itself {hostname:?}, the config drive says {HOSTNAME:?}");
    world.console.end(&format!("ssh as debian: host name {hostname}"));
    let told = ssh(&server, &key, &["cat", "/etc/ferric-demo"]).await?;
    ensure!(told.trim() == "from user data", "user data was not applied: /etc/ferric-demo holds {told:?}");
    let version = ssh(&server, &key, &["cat", "/etc/debian_version"]).await?;
    let root = ssh(&server, &key, &["findmnt", "-no", "SOURCE,SIZE", "/"]).await?;
    world.console.line(&format!("Debian {}, root on {}", version.trim(), root.trim()));
    ensure!(
        server.serial_since(before_boot).contains("Linux version"),
        "the installed kernel said nothing on the serial console"
    );
    Ok(Running { ferricd, server, key })
}

/// The most that the agent said about its memory in the log field `field`, bytes.
pub(super) fn memory_at_most(server: &VirtualServer, field: &str, limit: u64) -> Result<u64> {
    let key = format!(" {field}=");
    let console = server.serial_since(0);
    let said = console.lines().filter_map(|line| {
        let rest = printable_whole(line).split_once(&key)?.1.to_owned();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    });
    let most = said.max().with_context(|| format!("the agent said nothing about {field} on the console"))? * 1024;
    ensure!(most <= limit, "the agent took {} ({field}), the limit is {}", mib(most), mib(limit));
    Ok(most)
}

/// Logs in until it works, and returns the host name that the system calls itself.
pub(super) async fn first_login(world: &mut World, server: &VirtualServer, key: &std::path::Path) -> Result<String> {
    let deadline = Instant::now() + BOOT_LIMIT;
    loop {
        // Just `hostname`: more than that takes longer than an attempt may, while the system still boots.
        let attempt = timeout(Duration::from_secs(15), ssh(server, key, &["hostname"])).await;
        if let Ok(Ok(hostname)) = attempt {
            return Ok(hostname.trim().to_owned());
        }
        world.lab.check()?;
        let console = server.serial_since(server.serial_len().saturating_sub(400));
        let last = console.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        ensure!(
            Instant::now() < deadline,
            "nobody could log in within {} s; the server's console ends with {last:?}",
            BOOT_LIMIT.as_secs()
        );
        world.console.update(&printable(&last));
        sleep(Duration::from_secs(1)).await;
    }
}

/// As much of console output as fits a line.
fn printable(line: &str) -> String {
    printable_whole(line).chars().take(100).collect()
}

/// Console output without terminal control: escape sequences (ECMA-48, section 5.4) and other control characters.
fn printable_whole(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            // The sequence ends with the first letter after its parameters.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else if !char.is_control() {
            text.push(char);
        }
    }
    text
}

/// Runs one command on the installed system.
pub(super) async fn ssh(server: &VirtualServer, key: &std::path::Path, command: &[&str]) -> Result<String> {
    let mut ssh = Command::new("ssh");
    ssh.args(SSH_OPTIONS).arg("-i").arg(key).arg(format!("debian@{}", server.address)).arg("--").args(command);
    output(&mut ssh).await
}

/// Nothing of the user's own: no agent, no configuration, no known hosts.
pub const SSH_OPTIONS: [&str; 14] = [
    "-F",
    "none",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=5",
    "-o",
    "IdentitiesOnly=yes",
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
];

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_console_line_is_shown_without_colours() {
        assert_eq!(
            printable("[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mssh\u{1b}[0m\r"),
            "[  OK  ] Started ssh"
        );
    }
}
