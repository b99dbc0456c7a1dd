//! How an image is reached: address, trust, credentials, digest.

use super::Error;
use disk_image::source::{self, Access, Source};
use disk_image::{Digest, Patience, sums};
use http::{HeaderValue, Uri};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transport::client::{Client, Settings, Trust};

/// Address and access. Credentials are not arguments, which every user of a machine can read.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// Address of the image: http://, https:// or file:///
    url: String,
    /// Certificates to trust beside the public roots, a PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust whatever certificate the server shows
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// File with the value of the Authorization header, such as `Bearer TOKEN`; sent to the image's own server only
    #[arg(long, value_name = "FILE", env = "FERRIC_AUTHORIZATION_FILE")]
    authorization_file: Option<PathBuf>,
}

/// Why an image cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} does not hold one line that can be an Authorization header, such as `Bearer TOKEN`")]
    Authorization { path: String },
    #[error("prepare trust in the server")]
    Trust(#[source] transport::tls::TlsError),
}

impl Where {
    /// The image.
    pub(crate) fn source(&self) -> Result<Arc<dyn Source>, Error> {
        self.open(&self.url)
    }

    /// What is at `url`. The credentials go along only to the image's own server.
    fn open(&self, url: &str) -> Result<Arc<dyn Source>, Error> {
        let authorization = if same_origin(url, &self.url) { self.authorization()? } else { None };
        let settings = Settings { trust: self.trust()?, ..Settings::default() };
        let client = Client::new(settings).map_err(AccessError::Trust)?;
        // Whoever runs this program reads with their own rights, so all files are allowed.
        let access = Access { client: Some(client), authorization, file_roots: vec![PathBuf::from("/")] };
        Ok(source::from_url(url, &access)?)
    }

    fn trust(&self) -> Result<Trust, AccessError> {
        match &self.ca {
            _ if self.insecure => Ok(Trust::Anybody),
            None => Ok(Trust::Public),
            Some(path) => Ok(Trust::PublicAnd(read(path)?)),
        }
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, AccessError> {
        let Some(path) = &self.authorization_file else { return Ok(None) };
        let text = read(path)?;
        let value = HeaderValue::from_str(text.trim()).ok().filter(|value| !value.is_empty());
        let mut value = value.ok_or_else(|| AccessError::Authorization { path: path.display().to_string() })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read(path: &Path) -> Result<String, AccessError> {
    std::fs::read_to_string(path).map_err(|source| AccessError::Read { path: path.display().to_string(), source })
}

fn same_origin(one: &str, other: &str) -> bool {
    let origin = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.scheme()?.clone(), uri.authority()?.clone()))
    };
    origin(one).is_some_and(|one| Some(one) == origin(other))
}

/// The digest: as given, or out of the file at an address.
pub(crate) async fn digest(from: &Where, given: &str) -> Result<Digest, Error> {
    let wrong = |source| Error::Checksum { given: given.to_owned(), source };
    if !given.contains("://") {
        return given.parse().map_err(wrong);
    }
    let source = from.open(given)?;
    let url = source.name().to_owned();
    let text = sums::read(&*source, &Patience::default())
        .await
        .map_err(|cause| Error::Sums { url: url.clone(), cause: Box::new(cause) })?;
    let name = sums::base_name(&from.url);
    let found = sums::find(&text, &[name]).ok_or_else(|| Error::NoSum { url, name: name.to_owned() })?;
    Digest::guess(&found).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_with_the_origin_of_the_image() {
        assert!(same_origin("https://a/SHA256SUMS", "https://a/b/image.raw?x=1"));
        for other in ["http://a/x", "https://a:8443/x", "https://b/x", "file:///x", "x"] {
            assert!(!same_origin(other, "https://a/image.raw"), "{other}");
        }
        assert!(!same_origin("file:///a", "file:///a"), "a file needs none");
    }
}
