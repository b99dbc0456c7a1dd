//! The rescue system of the ramdisk: what its owner logs in to once a rescue was finalized. docs/rescue.md tells of it.
//!
//! Before that nothing of it runs and nobody can log in: the accounts of the ramdisk have no password, and there is no SSH
//! server that one could be told to. The agent stays PID 1 and keeps the network; its API is closed.

use crate::net::NetHandle;
use hardware_linux::Exec;
use rustix::fs::{Mode as Permissions, OFlags};
use rustix::mount::MountFlags;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixDatagram;

/// Where rescue systems look for the password; ramdisks that are none do not have the folder.
const PASSWORD_FILE: &str = "etc/ipa-rescue-config/ipa-rescue-password";
/// What a rescue system cannot do without.
const SERVER: &str = "usr/sbin/dropbear";
/// Tells that this machine was rescued.
const MARKER: &str = "etc/.rescued";
/// Lives in memory only, and anew in each rescue.
const HOST_KEY: &str = "/run/rescue-host-key";
/// When to ask for addresses again, counted from the time before: a driver moves the machine to its owner's network after
/// the agent has answered, and the link need not go down for that.
const MOVES: [u64; 7] = [0, 5, 10, 15, 30, 60, 120];
/// An SSH server that ended is started again after this long.
const PAUSE: Duration = Duration::from_secs(5);
/// Longer than any machine runs.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Bytes of one message to the system's log that are kept.
const LONGEST_MESSAGE: usize = 512;

/// Who may log in.
#[derive(Debug, Default)]
pub struct Access {
    /// The password as crypt(5) has it; none lets nobody in by password.
    pub password: Option<String>,
    /// Public keys, one line each, as [`wire::authorized_keys`] has checked them.
    pub keys: Vec<String>,
}

/// Lets the owner in: writes accounts and keys below `root`.
///
/// # Errors
///
/// `NotFound` when this ramdisk has no rescue system.
pub fn admit(root: &Path, access: &Access) -> io::Result<()> {
    let folder = Path::new(PASSWORD_FILE).parent().unwrap_or(Path::new(""));
    for part in [folder, Path::new(SERVER)] {
        if !root.join(part).exists() {
            let text = format!("this ramdisk has no rescue system (/{}); boot that of profile rescue", part.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
    }
    let password = access.password.as_deref().unwrap_or("*");
    private(&root.join(PASSWORD_FILE), password)?;
    private(
        &root.join("root/.ssh/authorized_keys"),
        &access.keys.iter().map(|key| format!("{key}\n")).collect::<String>(),
    )?;
    // shadow(5). The account root is the same user, but stays without a password.
    private(&root.join("etc/shadow"), &format!("root:*:::::::\nrescue:{password}:::::::\n"))?;
    if let Err(error) = std::fs::File::create(root.join(MARKER)) {
        tracing::warn!(%error, "the marker of the rescue could not be written");
    }
    Ok(())
}

/// Writes a file for root alone.
fn private(path: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().mode(0o700).create(folder).map_err(named)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Permissions::RUSR | Permissions::WUSR).map_err(|error| named(error.into()))?;
    std::fs::File::from(file).write_all(text.as_bytes()).map_err(named)
}

/// Makes the SSH server's key and returns its fingerprint.
///
/// # Errors
///
/// What the program that makes it says.
pub fn host_key() -> Result<String, hardware::MachineError> {
    // One of an earlier try would be kept, and the program would fail.
    let _ = std::fs::remove_file(HOST_KEY);
    let made = Exec::new("dropbearkey").args(["-t", "ed25519", "-f", HOST_KEY]).run();
    let said = made.map_err(hardware_linux::ExecError::into_machine_error)?.success()?;
    let said = String::from_utf8_lossy(&said);
    let fingerprint = said.lines().find_map(|line| line.strip_prefix("Fingerprint:"));
    Ok(fingerprint.unwrap_or("unknown").trim().to_owned())
}

/// Runs the rescue system, for ever. To be called once the agent's API is closed.
pub async fn serve(network: &NetHandle) -> ! {
    terminals();
    tokio::join!(follow(network), messages(), serve_ssh()).2
}

/// Terminals for those who log in.
fn terminals() {
    let place = "/dev/pts";
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let mounted = std::fs::create_dir_all(place).and_then(|()| {
        Ok(rustix::mount::mount("devpts", place, "devpts", flags, Some(c"gid=5,mode=620,ptmxmode=666"))?)
    });
    if let Err(error) = mounted {
        tracing::error!(%error, place, "no terminals: programs run, but no shell with a prompt");
    }
}

/// Finds the machine's place in the network anew.
async fn follow(network: &NetHandle) {
    for wait in MOVES {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        network.begin_again();
    }
}

/// Takes what programs tell the system's log (syslog(3)): the SSH server tells there who logs in.
async fn messages() {
    let socket = match UnixDatagram::bind("/dev/log") {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "messages of the rescue system are not logged"),
    };
    let mut buffer = [0; LONGEST_MESSAGE];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => tracing::info!("rescue system: {}", message(&buffer[..length])),
            Err(error) => return tracing::warn!(%error, "messages of the rescue system are not logged any more"),
        }
    }
}

/// The text behind priority and time, `<38>Nov 23 05:00:00 ` (RFC 3164, 4.1), without control characters.
fn message(bytes: &[u8]) -> String {
    const TIME: usize = "Nov 23 05:00:00 ".len();
    let text = String::from_utf8_lossy(bytes);
    let text = text.split_once('>').map_or(&*text, |(_, rest)| rest.get(TIME..).unwrap_or(rest));
    text.chars().filter(|c| !c.is_control()).collect()
}

async fn serve_ssh() -> ! {
    loop {
        let served = tokio::task::spawn_blocking(ssh).await;
        let ended = match served {
            Ok(Ok(ended)) => format!("{}: {}", ended.status, ended.complaint()),
            Ok(Err(error)) => transport::client::chain(&error),
            Err(error) => error.to_string(),
        };
        tracing::error!(ended, "the SSH server has ended; starting it again");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs the SSH server in the foreground: all its sessions end with it.
fn ssh() -> Result<hardware_linux::Finished, hardware_linux::ExecError> {
    tracing::info!("rescue system: SSH is served for user rescue port=22");
    Exec::new("dropbear").args(["-F", "-r", HOST_KEY]).deadline(FOR_EVER).run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone@site";

    fn ramdisk() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc/ipa-rescue-config", "usr/sbin", "root"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join(SERVER), "").unwrap();
        root
    }

    #[test]
    fn accounts_and_keys_are_written_for_root_alone() {
        let root = ramdisk();
        admit(root.path(), &Access { password: Some("$5$salt$hash".to_owned()), keys: vec![KEY.to_owned()] }).unwrap();
        let read = |name: &str| std::fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(read(PASSWORD_FILE), "$5$salt$hash");
        assert_eq!(read("etc/shadow"), "root:*:::::::\nrescue:$5$salt$hash:::::::\n");
        assert_eq!(read("root/.ssh/authorized_keys"), format!("{KEY}\n"));
        for name in [PASSWORD_FILE, "etc/shadow", "root/.ssh/authorized_keys"] {
            assert_eq!(root.path().join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(root.path().join(MARKER).exists());
    }

    #[test]
    fn without_a_password_nobody_logs_in_by_one() {
        let root = ramdisk();
        admit(root.path(), &Access { password: None, keys: vec![KEY.to_owned()] }).unwrap();
        let shadow = std::fs::read_to_string(root.path().join("etc/shadow")).unwrap();
        assert!(shadow.lines().all(|line| line.split(':').nth(1) == Some("*")), "{shadow}");
    }

    #[test]
    fn a_ramdisk_without_a_rescue_system_takes_nothing() {
        for missing in ["etc/ipa-rescue-config", SERVER] {
            let root = ramdisk();
            let path = root.path().join(missing);
            if path.is_dir() {
                std::fs::remove_dir(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
            let error = admit(root.path(), &Access::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains("profile rescue"), "{error}");
            assert!(!root.path().join("etc/shadow").exists());
        }
    }

    #[test]
    fn a_message_is_told_without_priority_and_time() {
        let text = message(b"<86>Nov 23 05:00:00 dropbear[77]: Password auth succeeded for 'rescue'\n");
        assert_eq!(text, "dropbear[77]: Password auth succeeded for 'rescue'");
        assert_eq!(message(b"odd \x1b[2J"), "odd [2J");
        assert_eq!(message("<1>ü".as_bytes()), "ü");
    }
}
