//! The rescue system of the ramdisk as its owner meets it: by SSH, over the network.

use super::deploy_debian::SSH_OPTIONS;
use crate::lab::output;
use crate::server::VirtualServer;
use crate::wait::until;
use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// What the agent says when it has let the owner in, before anything listens.
const FINALIZED: &str = "this machine is a rescue system now";
/// From the end of `rescue` until the owner can log in: the network may be asked for an address anew.
const LOGIN_LIMIT: Duration = Duration::from_secs(120);
const SSH_PORT: u16 = 22;
/// Bytes that are read from the start of the disk.
const START: usize = 1 << 20;

/// How somebody proves who he is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof<'a> {
    Password(&'a str),
    Key(&'a Path),
}

/// An SSH key pair of the owner's; returns the private key and the text of the public one.
pub(super) async fn key_pair(folder: &Path) -> Result<(PathBuf, String)> {
    let key = folder.join("owner");
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "owner", "-f"]).arg(&key)).await?;
    let public = std::fs::read_to_string(key.with_extension("pub")).context("read the public key")?;
    Ok((key, public.trim().to_owned()))
}

/// Tries port 22 of the server from now on, until it answers, and fails when that is before the rescue was finalized. To be
/// run beside the rescue.
pub(super) async fn opens_late(server: &VirtualServer, mark: u64) -> Result<()> {
    loop {
        let tried = timeout(Duration::from_millis(500), TcpStream::connect((server.address, SSH_PORT))).await;
        if let Ok(Ok(_)) = tried {
            let console = server.serial_since(mark);
            ensure!(console.contains(FINALIZED), "port 22 of the ramdisk was open before the rescue was finalized");
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Logs in to the rescue system in every way that there is, and looks at the disk, whose start is that of `image`.
pub(super) async fn owner_looks_at_disk(
    server: &VirtualServer,
    image: &Path,
    password: &str,
    key: &Path,
    mark: u64,
) -> Result<String> {
    let owner = Proof::Password(password);
    let who = until("the owner to log in with the password", LOGIN_LIMIT, async || {
        Ok(ssh(server, "rescue", owner, &["id", "-un"]).await.ok())
    })
    .await
    .with_context(|| {
        let console = server.serial_since(mark);
        format!("the server's console ends with {:?}", &console[console.len().saturating_sub(600)..])
    })?;
    ensure!(["root", "rescue"].contains(&who.trim()), "the owner is {who:?} in the rescue system");
    for (user, proof) in [("root", owner), ("rescue", Proof::Password("another word")), ("rescue", Proof::Password(""))]
    {
        let refused = ssh(server, user, proof, &["true"]).await;
        ensure!(refused.is_err(), "{user} logs in with {proof:?}");
    }
    ssh(server, "rescue", Proof::Key(key), &["true"]).await.context("log in with the key of the node")?;

    let disks = ssh(server, "rescue", owner, &["lsblk", "-dnbo", "NAME,SIZE"]).await?;
    let size = std::fs::metadata(&server.disk)?.len().to_string();
    // The ramdisk's virtual CD is listed, too.
    let disk = disks.lines().find_map(|line| line.trim().strip_suffix(&size));
    let name = disk.with_context(|| format!("no disk of {size} bytes in {disks:?}"))?.trim().to_owned();
    let count = format!("count={}", START >> 20);
    let from = format!("if=/dev/{name}");
    ssh(server, "rescue", owner, &["dd", &from, "of=/tmp/start", "bs=1M", &count]).await?;
    let sum = ssh(server, "rescue", owner, &["sha256sum", "/tmp/start"]).await?;
    let wanted = hex::encode(Sha256::digest(server.read_disk(0, START)?));
    ensure!(
        sum.starts_with(&wanted),
        "the disk's start reads as {sum:?} in the rescue system, from outside as {wanted}"
    );
    let table = ssh(server, "rescue", owner, &["sgdisk", "--print", &format!("/dev/{name}")]).await?;
    ensure!(table.contains("EF00"), "sgdisk does not show the partitions: {table}");
    copies_a_file(server, password, image).await?;
    ensure!(!server.serial_since(mark).contains(password), "the console tells the password");
    Ok(format!("{}, {name} has {size} bytes", who.trim()))
}

/// A file goes there and comes back as it was.
async fn copies_a_file(server: &VirtualServer, password: &str, near: &Path) -> Result<()> {
    let sent = near.with_extension("sent");
    let back = near.with_extension("back");
    std::fs::write(&sent, vec![b'r'; 100_000])?;
    let there = format!("rescue@{}:/root/file", server.address);
    for (from, to) in [(sent.as_os_str(), there.as_ref()), (there.as_ref(), back.as_os_str())] {
        let mut scp = Command::new("sshpass");
        scp.env("SSHPASS", password).args(["-e", "scp"]).args(options(false)).arg(from).arg(to);
        output(&mut scp).await.context("copy a file")?;
    }
    ensure!(std::fs::read(&back)? == std::fs::read(&sent)?, "a file comes back as another");
    Ok(())
}

/// Runs a command in the rescue system.
pub(super) async fn ssh(server: &VirtualServer, user: &str, proof: Proof<'_>, command: &[&str]) -> Result<String> {
    let mut ssh = match proof {
        Proof::Password(password) => {
            let mut ssh = Command::new("sshpass");
            ssh.env("SSHPASS", password).args(["-e", "ssh"]).args(options(false));
            ssh
        }
        Proof::Key(key) => {
            let mut ssh = Command::new("ssh");
            ssh.args(options(true)).arg("-i").arg(key);
            ssh
        }
    };
    ssh.arg(format!("{user}@{}", server.address)).arg("--").args(command);
    timeout(Duration::from_secs(30), output(&mut ssh)).await.context("ssh took more than 30 s")?
}

/// Options of ssh for keys alone, or for one try with a password alone.
fn options(keys: bool) -> impl Iterator<Item = &'static str> {
    // Of an option that is given twice the first counts (ssh_config(5)).
    let own = if keys {
        ["BatchMode=yes", "PasswordAuthentication=no", "NumberOfPasswordPrompts=0"]
    } else {
        ["BatchMode=no", "PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"]
    };
    own.into_iter().flat_map(|option| ["-o", option]).chain(SSH_OPTIONS)
}
