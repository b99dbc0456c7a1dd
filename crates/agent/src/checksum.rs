//! The digest that an image has to have: as given, or out of a file with digests.

use crate::command::{AgentError, Class};
use crate::prepare::{Checksum, is_url};
use crate::write::{Job, download_error, patience};
use disk_image::Digest;
use disk_image::source::{self, Access};
use disk_image::sums::{self, SumsError};
use transport::client;

/// The digest of the image, fetched where it is given as the URL of a file.
pub async fn resolve(job: &Job<'_>, access: &Access) -> Result<Digest, AgentError> {
    let (algorithm, value) = match &job.checksum {
        Checksum::Named { algorithm, value } => (Some(algorithm.as_str()), value.as_str()),
        Checksum::Guessed(value) => (None, value.as_str()),
    };
    let (image, md5) = (&job.info.id, job.settings.md5_enabled);
    let invalid = |error| AgentError::new(Class::InvalidImage, format!("image {image}: {error}"));
    if !is_url(value) {
        return Digest::read(algorithm, value, md5).map_err(invalid);
    }
    let text = fetch(value, job, access)
        .await
        .map_err(|reason| download_error(image, &format!("the checksum could not be fetched: {reason}")))?;
    let urls: Vec<&str> = job.info.urls.iter().map(String::as_str).collect();
    sums::find(&text, &urls, algorithm, md5).map_err(|error| match error {
        SumsError::Digest(error) => invalid(error),
        error => download_error(image, &format!("the checksum file cannot be used: {error}")),
    })
}

/// Reads the file as the image itself is read. The image's credentials are for the image's own server alone.
async fn fetch(url: &str, job: &Job<'_>, access: &Access) -> Result<String, String> {
    let at_home = job.info.urls.iter().any(|image| source::same_origin(image, url));
    let authorization = access.authorization.clone().filter(|_| at_home);
    let access = Access { authorization, ..access.clone() };
    let source = source::from_url(url, &access).map_err(|error| client::chain(&error))?;
    sums::read(&*source, &patience(job.settings)).await.map_err(|error| client::chain(&error))
}
