//! `rescue`: the machine becomes a rescue system that its owner logs in to.

use super::{Call, Command, Extension, Mode};
use crate::command::AgentError;
use crate::command::params::{Kind, optional};
use crate::root_disk;
use crate::state::Closing;
use rustix::fs::{Mode as Permissions, OFlags};
use serde_json::Value;
use sha_crypt::{PasswordHasher as _, ShaCrypt};
use std::io::{self, Write as _};
use std::path::Path;

/// The extension.
pub static EXTENSION: Extension = Extension {
    name: "rescue",
    python_class: "RescueExtension",
    commands: &[Command {
        name: "finalize_rescue",
        mode: Mode::Sync,
        params: &[optional("rescue_password", Kind::Text), optional("hashed", Kind::MaybeBool)],
        open_ended: false,
        validate: None,
        run: |call| Box::pin(finalize_rescue(call)),
    }],
};

/// Where the rescue system of the ramdisk looks for the password. A ramdisk without one does not have the folder.
const PASSWORD_FILE: &str = "etc/ipa-rescue-config/ipa-rescue-password";
/// Bytes of a password that is hashed here: the work grows with the square of the length.
const LONGEST_PASSWORD: usize = 256;
/// Tells that this machine was rescued.
const MARKER: &str = "etc/.rescued";

/// Hands the password to the ramdisk's rescue system, and closes the API: what comes next is the tenant's.
async fn finalize_rescue(mut call: Call) -> Result<Value, AgentError> {
    root_disk::may_write(&call.agent.shared, "finalize_rescue")?;
    let password = call.take_text("rescue_password").unwrap_or_default();
    let hashed = call.take("hashed").as_bool().unwrap_or_default();
    let crypted = crypted(&password, hashed)?;
    tokio::task::spawn_blocking(move || rescue(Path::new("/"), &crypted))
        .await
        .map_err(|error| failed(&error.to_string()))?
        .map_err(|error| failed(&error.to_string()))?;
    tracing::info!("this machine is a rescue system now; its API closes");
    call.agent.close(Closing::Rescue);
    Ok(Value::Null)
}

fn failed(reason: &str) -> AgentError {
    AgentError::failed(format!(
        "Rescue Operation failed when writing the hashed rescue password to the password file. Error {reason}"
    ))
}

/// The password as crypt(5) has it; one that is not hashed yet becomes SHA-256 crypt.
fn crypted(password: &str, hashed: bool) -> Result<String, AgentError> {
    if !hashed {
        if password.is_empty() || password.len() > LONGEST_PASSWORD {
            return Err(failed(&format!("a password has 1 to {LONGEST_PASSWORD} bytes, this one {}", password.len())));
        }
        let salt: [u8; 12] = rand::random();
        let hash = ShaCrypt::SHA256.hash_password_with_salt(password.as_bytes(), &salt);
        return hash.map(|hash| hash.to_string()).map_err(|error| failed(&format!("it cannot be hashed: {error}")));
    }
    let is_crypt = password.starts_with('$') && password.chars().all(|c| c.is_ascii_graphic() && c != ':');
    // It goes into the shadow file of the rescue system: a colon or a line break would change another field of it.
    if is_crypt { Ok(password.to_owned()) } else { Err(failed("the password is not in the form of crypt(5)")) }
}

/// Writes the password for root alone, and the marker.
fn rescue(root: &Path, crypted: &str) -> io::Result<()> {
    let path = root.join(PASSWORD_FILE);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Permissions::RUSR | Permissions::WUSR)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", path.display())))?;
    std::fs::File::from(file).write_all(crypted.as_bytes())?;
    if let Err(error) = std::fs::File::create(root.join(MARKER)) {
        tracing::warn!(%error, "the marker of the rescue could not be written");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_password_is_written_for_root_alone() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rescue(root.path(), "$5$x").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir_all(root.path().join("etc/ipa-rescue-config")).unwrap();
        rescue(root.path(), "$5$salt$hash").unwrap();
        let file = root.path().join(PASSWORD_FILE);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "$5$salt$hash");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(root.path().join(MARKER).exists());
    }

    #[test]
    fn a_password_that_would_change_the_shadow_file_is_refused() {
        assert!(crypted("$5$salt$hash", true).is_ok());
        for wrong in ["", "plain", "$5$salt$ha:sh", "$5$salt\nroot::0:0", "$5$sält"] {
            assert!(crypted(wrong, true).is_err(), "{wrong}");
        }
        let hash = crypted("plain", false).unwrap();
        assert!(hash.starts_with("$5$") && crypted(&hash, true).is_ok(), "{hash}");
        assert_ne!(hash, crypted("plain", false).unwrap());
        for wrong in [String::new(), "x".repeat(LONGEST_PASSWORD + 1)] {
            assert!(crypted(&wrong, false).is_err());
        }
    }
}
