//! Images of firmware that the driver fetches itself: to check their digest, or because a BMC fetches none.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use sha2::{Digest as _, Sha256, Sha512};
use std::time::Duration;
use tokio::sync::Semaphore;
use transport::client::{Client, ClientError, Settings};

/// Largest image, bytes. It is held in memory, so that it is small; those of servers' parts are some tens of megabytes.
pub const LARGEST: usize = 256 << 20;
/// How many are held at once.
static HELD: Semaphore = Semaphore::const_new(2);
/// To fetch one.
const TIMEOUT: Duration = Duration::from_secs(500);

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The client could not be made.
    #[error("prepare to fetch firmware")]
    Client(#[source] transport::tls::TlsError),
    /// It was not answered, or with too much.
    #[error("fetch the firmware image (at most {LARGEST} bytes)")]
    Fetch(#[source] ClientError),
    /// The URL is none.
    #[error("the URL of the firmware image cannot be asked for")]
    Url(#[source] http::Error),
    /// The server said something else.
    #[error("the server of the firmware image answered {0}; the URL has to lead to the image itself")]
    Status(u16),
    /// It is not the image that was meant.
    #[error("the firmware image has the digest {got} and checksum says {wanted}; nothing was given to the BMC")]
    Digest {
        /// What was fetched.
        got: String,
        /// What was asked for.
        wanted: String,
    },
}

/// Fetches an image and checks it against `checksum`, a SHA-256 or SHA-512 in lower-case hex.
///
/// # Errors
/// [`ImageError`].
pub async fn fetch(url: &str, checksum: Option<&str>) -> Result<Vec<u8>, ImageError> {
    // Never closed.
    let _held = HELD.acquire().await;
    let settings = Settings { timeout: TIMEOUT, body_limit: LARGEST, ..Settings::default() };
    let client = Client::new(settings).map_err(ImageError::Client)?;
    let request = Request::builder().method(Method::GET).uri(url).body(Full::new(Bytes::new()));
    let reply = client.send(request.map_err(ImageError::Url)?).await.map_err(ImageError::Fetch)?;
    if !reply.status.is_success() {
        return Err(ImageError::Status(reply.status.as_u16()));
    }
    check(&reply.body, checksum)?;
    Ok(reply.body.to_vec())
}

fn check(image: &[u8], checksum: Option<&str>) -> Result<(), ImageError> {
    let Some(wanted) = checksum else { return Ok(()) };
    let got: Vec<u8> = match wanted.len() {
        64 => Sha256::digest(image).to_vec(),
        _ => Sha512::digest(image).to_vec(),
    };
    let got: String = got.iter().map(|byte| format!("{byte:02x}")).collect();
    if got == wanted { Ok(()) } else { Err(ImageError::Digest { got, wanted: wanted.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_another_digest_is_refused_before_a_bmc_sees_it() {
        // FIPS 180-2, appendix B.1 and C.1: "abc".
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        check(b"abc", Some(sha256)).unwrap();
        check(b"abc", Some(sha512)).unwrap();
        check(b"abd", None).unwrap();
        for wanted in [sha256, sha512] {
            assert!(matches!(check(b"abd", Some(wanted)), Err(ImageError::Digest { .. })));
        }
    }
}
