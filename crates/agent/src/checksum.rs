//! The digest that an image has to have: as given, or out of a file with digests.

use crate::command::{AgentError, Class};
use crate::prepare::{Checksum, is_url};
use crate::write::{Job, download_error};
use bytes::Bytes;
use disk_image::Digest;
use disk_image::source::Access;
use disk_image::sums::{MAX_FILE, base_name, find};
use http::Request;
use http_body_util::Full;
use transport::client::{self, Client};

/// The digest of the image, fetched where it is given as the URL of a file.
pub async fn resolve(job: &Job<'_>, access: &Access) -> Result<Digest, AgentError> {
    let (algorithm, value) = match &job.checksum {
        Checksum::Named { algorithm, value } => (Some(algorithm.as_str()), value.as_str()),
        Checksum::Guessed(value) => (None, value.as_str()),
    };
    let fetched;
    let value = if is_url(value) {
        let text = fetch(value, access)
            .await
            .map_err(|reason| download_error(&job.info.id, &format!("the checksum could not be fetched: {reason}")))?;
        let names: Vec<&str> = job.info.urls.iter().map(|url| base_name(url)).collect();
        fetched = find(&text, &names).ok_or_else(|| {
            let details = format!("the checksum file holds no digest for {}", names.join(" or "));
            download_error(&job.info.id, &details)
        })?;
        fetched.as_str()
    } else {
        value
    };
    let digest = Digest::read(algorithm, value, job.settings.md5_enabled);
    digest.map_err(|error| AgentError::new(Class::InvalidImage, format!("image {}: {error}", job.info.id)))
}

async fn fetch(url: &str, access: &Access) -> Result<String, String> {
    let settings = client::Settings { body_limit: MAX_FILE, ..client::Settings::default() };
    let client = match &access.client {
        Some(client) => client.clone(),
        None => Client::new(settings).map_err(|error| client::chain(&error))?,
    };
    let request = Request::get(url).body(Full::new(Bytes::new())).map_err(|error| error.to_string())?;
    let reply = client.send(request).await.map_err(|error| client::chain(&error))?;
    if !reply.status.is_success() {
        return Err(format!("{} answered {}", reply.url, reply.status));
    }
    if reply.body.len() > MAX_FILE {
        return Err(format!("{} has more than {MAX_FILE} bytes", reply.url));
    }
    String::from_utf8(reply.body.to_vec()).map_err(|_| format!("{} is not text", reply.url))
}
