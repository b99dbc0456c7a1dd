//! How an image is reached: addresses, trust, credentials, proxies, digest.

use super::Error;
use disk_image::source::{self, Access, Source};
use disk_image::{Digest, Patience, sums};
use http::HeaderValue;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use transport::client::{Client, Settings, Trust};
use transport::proxy::{Proxies, ProxyError};
use transport::tls::Identity;

/// Addresses and access. Credentials are not arguments, which every user of a machine can read.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// Address of the image: http://, https:// or file:///
    url: String,
    /// Another address of the same image, tried when those before it fail; may be given several times
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Certificates to trust beside the public roots, a PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust whatever certificate the server shows
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Certificate chain to show to the image's own server where it asks for one, a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// File with one line `USER:PASSWORD` for the image's own server
    #[arg(long, value_name = "FILE", group = "credentials")]
    basic_file: Option<PathBuf>,
    /// File with one line, a bearer token for the image's own server
    #[arg(long, value_name = "FILE", group = "credentials")]
    bearer_file: Option<PathBuf>,
    /// File with the value of the Authorization header for the image's own server, such as `Bearer TOKEN`
    #[arg(long, value_name = "FILE", env = "FERRIC_AUTHORIZATION_FILE", group = "credentials")]
    authorization_file: Option<PathBuf>,
    /// Proxy for http and https, such as http://host:3128; empty for none. Without it, http_proxy, https_proxy and
    /// all_proxy of the environment count
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Hosts that are asked directly, with commas between them; without it, no_proxy of the environment counts
    #[arg(long, value_name = "HOSTS")]
    no_proxy: Option<String>,
    /// Further attempts after one that brought no byte
    #[arg(long, value_name = "NUMBER", default_value_t = Patience::default().retries)]
    retries: u32,
    /// Seconds without an answer or a byte after which a connection is given up
    #[arg(long, value_name = "SECONDS", default_value_t = Patience::default().stall.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    stall: u64,
    /// Seconds for the whole transfer; without it, there is no limit
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    deadline: Option<u64>,
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
    #[error("{path} does not hold one line that can be {wanted}")]
    Credentials { path: String, wanted: &'static str },
    #[error("{path} does not hold a line such as USER:PASSWORD")]
    Basic { path: String },
    #[error("prepare trust in the server")]
    Trust(#[source] transport::tls::TlsError),
    #[error("use the proxy of --proxy or the environment")]
    Proxy(#[source] ProxyError),
}

impl Where {
    /// The image at its first address.
    pub(crate) fn source(&self) -> Result<Arc<dyn Source>, Error> {
        self.open(&self.url)
    }

    /// The image at its other addresses, in the order to try.
    pub(crate) fn mirrors(&self) -> Result<Vec<Arc<dyn Source>>, Error> {
        self.mirror.iter().map(|url| self.open(url)).collect()
    }

    fn urls(&self) -> Vec<&str> {
        std::iter::once(&self.url).chain(&self.mirror).map(String::as_str).collect()
    }

    /// Patience with the servers.
    pub(crate) fn patience(&self) -> Patience {
        let stall = Duration::from_secs(self.stall);
        Patience {
            connect: stall,
            stall,
            retries: self.retries,
            total: self.deadline.map(Duration::from_secs),
            ..Patience::default()
        }
    }

    /// What is at `url`. Credentials and the client's certificate go along only to the server of the first address.
    fn open(&self, url: &str) -> Result<Arc<dyn Source>, Error> {
        let at_home = url == self.url || source::same_origin(url, &self.url);
        let (authorization, identity) = if at_home { (self.authorization()?, self.identity()?) } else { (None, None) };
        let stall = Duration::from_secs(self.stall);
        let settings = Settings {
            trust: self.trust()?,
            identity,
            proxies: self.proxies()?,
            timeout: stall,
            ..Settings::default()
        };
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

    fn identity(&self) -> Result<Option<Identity>, AccessError> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(None) };
        Ok(Some(Identity::from_pem(read(cert)?, read(key)?)))
    }

    fn proxies(&self) -> Result<Proxies, AccessError> {
        let proxies = proxies(self.proxy.as_deref(), self.no_proxy.as_deref(), |name| std::env::var(name).ok());
        proxies.check().map_err(AccessError::Proxy)?;
        Ok(proxies)
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, AccessError> {
        let (path, wanted, value) = if let Some(path) = &self.basic_file {
            let login = line(path)?;
            if !login.contains(':') {
                return Err(AccessError::Basic { path: path.display().to_string() });
            }
            (path, "a user and a password", format!("Basic {}", base64(login.as_bytes())))
        } else if let Some(path) = &self.bearer_file {
            (path, "a bearer token", format!("Bearer {}", line(path)?))
        } else if let Some(path) = &self.authorization_file {
            (path, "an Authorization header, such as `Bearer TOKEN`", line(path)?)
        } else {
            return Ok(None);
        };
        let wrong = || AccessError::Credentials { path: path.display().to_string(), wanted };
        let usable = !value.trim_start_matches("Bearer ").is_empty();
        let mut value = HeaderValue::from_str(&value).ok().filter(|_| usable).ok_or_else(wrong)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read(path: &Path) -> Result<String, AccessError> {
    std::fs::read_to_string(path).map_err(|source| AccessError::Read { path: path.display().to_string(), source })
}

fn line(path: &Path) -> Result<String, AccessError> {
    Ok(read(path)?.trim().to_owned())
}

/// RFC 7617 wants the pair as base64.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// As other programs read the environment. `HTTP_PROXY` in capitals does not count: a CGI program gets it from whoever
/// asks (CVE-2016-5385).
fn proxies(given: Option<&str>, except: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Proxies {
    let first = |names: &[&str]| names.iter().find_map(|name| variable(name)).filter(|value| !value.is_empty());
    let address = |names: &[&str]| {
        let value = match given {
            Some(given) => Some(given.to_owned()).filter(|given| !given.is_empty()),
            None => first(names).or_else(|| first(&["all_proxy", "ALL_PROXY"])),
        };
        value.map(|value| if value.contains("://") { value } else { format!("http://{value}") })
    };
    Proxies {
        http: address(&["http_proxy"]),
        https: address(&["https_proxy", "HTTPS_PROXY"]),
        except: except.map(str::to_owned).or_else(|| first(&["no_proxy", "NO_PROXY"])).unwrap_or_default(),
    }
}

/// The digest: as given, or out of the file at an address, with an algorithm in front where that has to be the one.
pub(crate) async fn digest(from: &Where, given: &str, md5: bool) -> Result<Digest, Error> {
    let wrong = |source| Error::Checksum { given: given.to_owned(), source };
    let (algorithm, value) = match given.split_once(':') {
        Some((algorithm, value)) if !value.starts_with("//") => (Some(algorithm), value),
        _ => (None, given),
    };
    if !value.contains("://") {
        return Digest::read(algorithm, value, md5).map_err(wrong);
    }
    let source = from.open(value)?;
    let url = source.name().to_owned();
    let text = sums::read(&*source, &from.patience())
        .await
        .map_err(|cause| Error::ReadSums { url: url.clone(), cause: Box::new(cause) })?;
    sums::find(&text, &from.urls(), algorithm, md5).map_err(|source| Error::Sums { url, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_of_the_environment_unless_options_say_something_else() {
        let environment = |name: &str| match name {
            "http_proxy" => Some("http://one:1".to_owned()),
            "HTTP_PROXY" => Some("http://evil:1".to_owned()),
            "HTTPS_PROXY" => Some("two:2".to_owned()),
            "no_proxy" => Some("a,b".to_owned()),
            _ => None,
        };
        let of = |given, except| proxies(given, except, environment);
        let all = |http: &str, https: &str, except: &str| Proxies {
            http: Some(http.to_owned()).filter(|text| !text.is_empty()),
            https: Some(https.to_owned()).filter(|text| !text.is_empty()),
            except: except.to_owned(),
        };
        assert_eq!(of(None, None), all("http://one:1", "http://two:2", "a,b"));
        assert_eq!(of(Some("http://three:3"), Some("")), all("http://three:3", "http://three:3", ""));
        assert_eq!(of(Some(""), None), all("", "", "a,b"));
        let any = proxies(None, None, |name| (name == "ALL_PROXY").then(|| "http://any:4".to_owned()));
        assert_eq!(any, all("http://any:4", "http://any:4", ""));
        assert_eq!(
            proxies(None, None, |name| (name == "HTTP_PROXY").then(|| "http://evil:1".to_owned())),
            all("", "", "")
        );
    }
}
