//! The digest that an image has to have: as given, or out of a file with digests.

use crate::command::{AgentError, Class};
use crate::prepare::{Checksum, is_url};
use crate::write::{Job, download_error};
use bytes::Bytes;
use disk_image::Digest;
use disk_image::source::Access;
use http::Request;
use http_body_util::Full;
use transport::client::{self, Client};

/// Longest file of digests that is read, bytes: `SHA256SUMS` of a whole distribution mirror has a tenth of it.
const MAX_FILE: usize = 1 << 20;

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

/// The last part of a URL's path.
fn base_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The digest for one of `names` in the usual formats: a bare digest alone in the file, `digest  name`, `digest *name`
/// and `ALGORITHM (name) = digest`. Lines that begin with `#` are comments.
fn find(text: &str, names: &[&str]) -> Option<String> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if let [only] = lines.as_slice()
        && !only.contains(char::is_whitespace)
    {
        return Some((*only).to_owned());
    }
    lines.into_iter().find_map(|line| {
        let (name, digest) = match line.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") = ")) {
            Some((name, digest)) => (name, digest),
            None => {
                let (digest, name) = line.split_once(char::is_whitespace)?;
                (name.trim().trim_start_matches('*'), digest)
            }
        };
        names.contains(&name.trim_start_matches("./")).then(|| digest.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_in_the_usual_files() {
        let names = ["debian.raw"];
        assert_eq!(find("abc\n", &names).as_deref(), Some("abc"));
        assert_eq!(find("# sums\n111  other.raw\n222 *debian.raw\n", &names).as_deref(), Some("222"));
        assert_eq!(find("111  ./debian.raw\n222  x\n", &names).as_deref(), Some("111"));
        assert_eq!(find("SHA256 (debian.raw) = 333\nSHA256 (x) = 4\n", &names).as_deref(), Some("333"));
        assert_eq!(find("111  other.raw\n", &names), None);
        assert_eq!(find("", &names), None);
        assert_eq!(base_name("http://host/a/debian.raw?sig=x/y"), "debian.raw");
    }
}
