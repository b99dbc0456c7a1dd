//! Images of firmware that the driver fetches itself: to check their digest, or because a BMC fetches none. They go into a
//! file as they come.

use super::media::{MediaError, failed};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use sha2::{Digest as _, Sha256, Sha512};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use transport::client::{Client, ClientError, Settings};

/// Largest image, bytes: what is larger is not firmware.
pub const LARGEST: u64 = 2 << 30;
/// To fetch one.
const TIMEOUT: Duration = Duration::from_secs(500);

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The client could not be made.
    #[error("prepare to fetch firmware")]
    Client(#[source] transport::tls::TlsError),
    /// It was not answered.
    #[error("fetch the firmware image")]
    Fetch(#[source] ClientError),
    /// It broke off.
    #[error("the server of the firmware image broke off after {after} bytes")]
    Broken {
        /// Bytes that had come.
        after: u64,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There was no end to it.
    #[error("the firmware image is larger than {LARGEST} bytes; look whether the URL leads to the image itself")]
    TooLarge,
    /// It took too long.
    #[error("the firmware image did not come within {} s", TIMEOUT.as_secs())]
    Slow,
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
    /// It could not be kept.
    #[error("keep the firmware image")]
    File(#[source] MediaError),
}

/// What a `checksum` is compared with.
enum Digest {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Digest {
    /// The digest that has as many digits as `wanted`.
    fn like(wanted: &str) -> Self {
        if wanted.len() == 64 { Self::Sha256(Sha256::new()) } else { Self::Sha512(Sha512::new()) }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Sha512(digest) => digest.update(bytes),
        }
    }

    fn check(self, wanted: &str) -> Result<(), ImageError> {
        let got = match self {
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::Sha512(digest) => digest.finalize().to_vec(),
        };
        let got: String = got.iter().map(|byte| format!("{byte:02x}")).collect();
        if got == wanted { Ok(()) } else { Err(ImageError::Digest { got, wanted: wanted.to_owned() }) }
    }
}

/// Fetches an image and checks it against `checksum`, a SHA-256 or SHA-512 in lower-case hex. `file` is there when that was
/// good, and never in parts.
///
/// # Errors
/// [`ImageError`].
pub async fn fetch(url: &str, checksum: Option<&str>, file: &Path) -> Result<(), ImageError> {
    let settings = Settings { timeout: TIMEOUT, ..Settings::default() };
    let client = Client::new(settings).map_err(ImageError::Client)?;
    let part = file.with_extension("part");
    let folder = file.parent().unwrap_or(file);
    let made = tokio::fs::create_dir_all(folder).await;
    made.map_err(|source| ImageError::File(failed("create the folder", folder)(source)))?;
    let fetched = tokio::time::timeout(TIMEOUT, fetch_into(&client, url, checksum, &part)).await;
    if let Err(error) = fetched.unwrap_or(Err(ImageError::Slow)) {
        // What has come of it is of no use to anybody.
        drop(tokio::fs::remove_file(&part).await);
        return Err(error);
    }
    let renamed = tokio::fs::rename(&part, file).await;
    renamed.map_err(|source| ImageError::File(failed("rename to", file)(source)))
}

async fn fetch_into(client: &Client, url: &str, checksum: Option<&str>, part: &Path) -> Result<(), ImageError> {
    let request = Request::builder().method(Method::GET).uri(url).body(Full::new(Bytes::new()));
    let response = client.open(request.map_err(ImageError::Url)?).await.map_err(ImageError::Fetch)?;
    if !response.status().is_success() {
        return Err(ImageError::Status(response.status().as_u16()));
    }
    let unkept = |source| ImageError::File(failed("write", part)(source));
    let mut out = tokio::fs::File::create(part).await.map_err(unkept)?;
    let mut digest = checksum.map(Digest::like);
    let mut body = response.into_body();
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ImageError::Broken { after: length, source: source.into() })?;
        let Ok(bytes) = frame.into_data() else { continue };
        length += bytes.len() as u64;
        if length > LARGEST {
            return Err(ImageError::TooLarge);
        }
        if let Some(digest) = &mut digest {
            digest.update(&bytes);
        }
        out.write_all(&bytes).await.map_err(unkept)?;
    }
    out.flush().await.map_err(unkept)?;
    match (digest, checksum) {
        (Some(digest), Some(wanted)) => digest.check(wanted),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::client::chain;

    /// Serves one answer to whoever asks.
    async fn serve(status: u16, body: &'static [u8]) -> String {
        let answer = move || async move { (http::StatusCode::from_u16(status).unwrap(), body) };
        let app = axum::Router::new().fallback(answer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/image?key=secret", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    #[tokio::test]
    async fn an_image_with_another_digest_is_refused_before_a_bmc_sees_it() {
        // FIPS 180-2, appendix B.1 and C.1: "abc".
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/image.bin");
        let url = serve(200, b"abc").await;
        for checksum in [None, Some(sha256), Some(sha512)] {
            fetch(&url, checksum, &file).await.unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), b"abc");
            std::fs::remove_file(&file).unwrap();
        }
        let other = serve(200, b"abd").await;
        for wanted in [sha256, sha512] {
            let error = fetch(&other, Some(wanted), &file).await.unwrap_err();
            assert!(matches!(error, ImageError::Digest { .. }), "{error}");
        }
        let error = fetch(&serve(404, b"no such image").await, None, &file).await.unwrap_err();
        assert!(chain(&error).contains("answered 404") && !chain(&error).contains("secret"), "{error}");
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 0, "nothing is left of them");
    }
}
