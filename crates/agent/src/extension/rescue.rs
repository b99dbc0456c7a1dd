//! `rescue`: the machine becomes a rescue system that its owner logs in to.

use super::{Call, Command, Extension, Mode};
use crate::command::AgentError;
use crate::command::params::{Kind, optional};
use crate::rescue::{self, Access};
use crate::root_disk;
use crate::state::Closing;
use serde_json::Value;
use sha_crypt::{PasswordHasher as _, ShaCrypt};
use std::path::Path;
use wire::authorized_keys;

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

/// Bytes of a password that is hashed here: the work grows with the square of the length.
const LONGEST_PASSWORD: usize = 256;

/// Lets the machine's owner in to the ramdisk's rescue system, and closes the API: what comes next is the owner's.
async fn finalize_rescue(mut call: Call) -> Result<Value, AgentError> {
    root_disk::may_write(&call.agent.shared, "finalize_rescue")?;
    let password = call.take_text("rescue_password").unwrap_or_default();
    let hashed = call.take("hashed").as_bool().unwrap_or_default();
    let node = call.agent.shared.node();
    let keys = node.as_deref().and_then(|node| node.pointer("/instance_info")?.get(authorized_keys::KEY));
    let keys = authorized_keys::read(keys);
    let keys = keys.map_err(|why| failed(&format!("instance_info.{}: {why}", authorized_keys::KEY)))?;
    // Without keys there has to be a password.
    let password = (keys.is_empty() || !password.is_empty()).then(|| crypted(&password, hashed)).transpose()?;
    let access = Access { password, keys };
    let admitted = tokio::task::spawn_blocking(move || {
        rescue::admit(Path::new("/"), &access).map_err(|error| error.to_string())?;
        rescue::host_key().map_err(|error| transport::client::chain(&error))
    });
    let key = admitted.await.map_err(|error| failed(&error.to_string()))?.map_err(|error| failed(&error))?;
    tracing::info!(host_key = key, "this machine is a rescue system now; its API closes");
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

#[cfg(test)]
mod tests {
    use super::*;

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
