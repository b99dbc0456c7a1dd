//! Where the API is and who asks: flags, environment, configuration file. Whoever names the URL also says which
//! credentials belong to it; those of one place never go to another.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What is asked when nothing is set: where `ferricd` listens by default.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:6385";

/// Output for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// Options of every verb that asks the service.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connection {
    /// Address of the API; FERRIC_URL without it
    #[arg(id = "api_url", long = "url", global = true, value_name = "URL", help_heading = "Service")]
    pub(crate) url: Option<String>,
    /// Entry of the configuration file that names address and user
    #[arg(
        id = "api_context",
        long = "context",
        hide_short_help = true,
        global = true,
        value_name = "NAME",
        help_heading = "Service"
    )]
    pub(crate) context: Option<String>,
    /// Who asks. The password comes from FERRIC_PASSWORD, or is asked for
    #[arg(
        id = "api_user",
        long = "user",
        hide_short_help = true,
        global = true,
        value_name = "NAME",
        help_heading = "Service"
    )]
    pub(crate) user: Option<String>,
    /// Certificates that vouch for the service, a PEM file
    #[arg(
        id = "api_cacert",
        long = "cacert",
        hide_short_help = true,
        global = true,
        value_name = "FILE",
        help_heading = "Service"
    )]
    pub(crate) cacert: Option<PathBuf>,
    /// For people, or for programs
    #[arg(id = "api_output", short = 'o', long = "output", global = true, value_name = "FORMAT", value_enum,
          default_value_t = Format::Table, help_heading = "Service")]
    pub(crate) output: Format,
}

/// What `--help` says about finding the service.
pub(crate) const HELP: &str = "\
Which service is asked, the first of these that is set:
  --url URL           or FERRIC_URL, with FERRIC_USERNAME and FERRIC_PASSWORD
  --context NAME      or FERRIC_CONTEXT: an entry of the configuration file
  OS_ENDPOINT         with OS_AUTH_TYPE (none or http_basic), OS_USERNAME and
                      OS_PASSWORD, as the `baremetal` command reads them
  current = \"NAME\"    in the configuration file
  http://127.0.0.1:6385

FERRIC_CACERT (or OS_CACERT) names a PEM file, as --cacert does.

The configuration file is ~/.config/ferric/config.toml (or FERRIC_CONFIG):
  current = \"lab\"
  [contexts.lab]
  url = \"https://ferric.example.org:6385\"
  username = \"admin\"
  password_file = \"/home/me/.ferric-password\"
  cacert = \"/etc/ssl/ferric.pem\"";

/// A password, which nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("******")
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Unset: to be asked for.
    pub(crate) password: Option<Password>,
}

/// A service to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host and port, and a path where a proxy has one; no slash at the end.
    pub(crate) url: String,
    /// Who named it, for messages; empty when nobody did.
    pub(crate) named_by: String,
    pub(crate) user: Option<User>,
    /// PEM file of certificates to trust alone.
    pub(crate) cacert: Option<PathBuf>,
}

/// Why no service can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{named_by} is {url:?}, which is no http or https URL without a user in it")]
    Url { named_by: String, url: String },
    #[error("OS_AUTH_TYPE is {0:?}; this command knows none and http_basic")]
    AuthType(String),
    #[error("{missing} is not set, but OS_AUTH_TYPE is http_basic")]
    Incomplete { missing: &'static str },
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("read {path}: {reason}")]
    Config { path: String, reason: String },
    #[error("{named_by} says {name:?}, but {path} has {known}")]
    Context { named_by: String, name: String, path: String, known: String },
}

impl ConnectError {
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Url { .. } => "write it like https://ferric.example.org:6385; the user goes into --user".to_owned(),
            Self::AuthType(_) => "set OS_AUTH_TYPE to none or http_basic, or name the service by --url".to_owned(),
            Self::Incomplete { missing } => format!("export {missing}"),
            Self::Read { .. } => "check the path and its permissions".to_owned(),
            Self::Config { .. } => "`ferric --help` shows what the file looks like".to_owned(),
            Self::Context { .. } => "add the context to the file, or name one that is there".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    url: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    cacert: Option<PathBuf>,
}

/// Largest configuration or password file, bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The variables of the environment, and files by their paths.
pub(crate) struct Surroundings<'a> {
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) read: &'a dyn Fn(&std::path::Path) -> std::io::Result<String>,
}

impl Surroundings<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn config_path(&self) -> Option<PathBuf> {
        if let Some(path) = self.get("FERRIC_CONFIG") {
            return Some(path.into());
        }
        let base = self.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(self.get("HOME")?).join(".config")))?;
        Some(base.join("ferric/config.toml"))
    }

    fn text(&self, path: &std::path::Path) -> Result<String, ConnectError> {
        (self.read)(path).map_err(|source| ConnectError::Read { path: path.display().to_string(), source })
    }

    fn config(&self) -> Result<(String, Config), ConnectError> {
        let Some(path) = self.config_path() else { return Ok((String::new(), Config::default())) };
        let shown = path.display().to_string();
        match (self.read)(&path) {
            Ok(text) => {
                let config = toml::from_str(&text).map_err(|error| {
                    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
                    ConnectError::Config { path: shown.clone(), reason: format!("line {line}: {}", error.message()) }
                })?;
                Ok((shown, config))
            }
            // Unless somebody asked for that very file, it need not be there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.get("FERRIC_CONFIG").is_none() => {
                Ok((shown, Config::default()))
            }
            Err(source) => Err(ConnectError::Read { path: shown, source }),
        }
    }
}

/// Reads a small file of the machine.
pub(crate) fn read_file(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_LIMIT {
        return Err(std::io::Error::other(format!("it has more than {FILE_LIMIT} bytes")));
    }
    Ok(text)
}

impl Connection {
    /// The service that flags, environment and configuration name.
    pub(crate) fn endpoint(&self, around: &Surroundings<'_>) -> Result<Endpoint, ConnectError> {
        let mut endpoint = self.named(around)?;
        endpoint.url = base(&endpoint)?;
        if let Some(name) = &self.user {
            let same = endpoint.user.take().filter(|user| user.name == *name);
            let password = same.and_then(|user| user.password);
            let password = password.or_else(|| around.get("FERRIC_PASSWORD").map(Password));
            endpoint.user = Some(User { name: name.clone(), password });
        }
        let cacert = self.cacert.clone().or_else(|| around.get("FERRIC_CACERT").map(PathBuf::from));
        endpoint.cacert = cacert.or(endpoint.cacert.take());
        Ok(endpoint)
    }

    fn named(&self, around: &Surroundings<'_>) -> Result<Endpoint, ConnectError> {
        let ours = |url: String, named_by: &str| {
            let user = around
                .get("FERRIC_USERNAME")
                .map(|name| User { name, password: around.get("FERRIC_PASSWORD").map(Password) });
            Ok(Endpoint { url, named_by: named_by.to_owned(), user, cacert: None })
        };
        if let Some(url) = &self.url {
            return ours(url.clone(), "--url");
        }
        if let Some(name) = &self.context {
            return context(around, "--context", name);
        }
        if let Some(url) = around.get("FERRIC_URL") {
            return ours(url, "FERRIC_URL");
        }
        if let Some(name) = around.get("FERRIC_CONTEXT") {
            return context(around, "FERRIC_CONTEXT", &name);
        }
        if let Some(url) = around.get("OS_ENDPOINT") {
            return openstack(around, url);
        }
        let (path, config) = around.config()?;
        match &config.current {
            Some(name) => of_context(around, &path, &config, "current", name),
            None => Ok(Endpoint { url: DEFAULT_URL.to_owned(), named_by: String::new(), user: None, cacert: None }),
        }
    }
}

fn context(around: &Surroundings<'_>, named_by: &str, name: &str) -> Result<Endpoint, ConnectError> {
    let (path, config) = around.config()?;
    of_context(around, &path, &config, named_by, name)
}

fn of_context(
    around: &Surroundings<'_>,
    path: &str,
    config: &Config,
    named_by: &str,
    name: &str,
) -> Result<Endpoint, ConnectError> {
    let Some(found) = config.contexts.get(name) else {
        let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "no contexts".to_owned() } else { format!("only {}", known.join(", ")) };
        let (named_by, name, path) = (named_by.to_owned(), name.to_owned(), path.to_owned());
        return Err(ConnectError::Context { named_by, name, path, known });
    };
    let password = match &found.password_file {
        Some(file) => Some(Password(around.text(file)?.trim_end_matches(['\r', '\n']).to_owned())),
        None => None,
    };
    Ok(Endpoint {
        url: found.url.clone(),
        named_by: format!("context {name} of {path}"),
        user: found.username.clone().map(|name| User { name, password }),
        cacert: found.cacert.clone(),
    })
}

fn openstack(around: &Surroundings<'_>, url: String) -> Result<Endpoint, ConnectError> {
    let user = match around.get("OS_AUTH_TYPE").as_deref() {
        None | Some("none") => None,
        Some("http_basic") => {
            let get = |name: &'static str| around.get(name).ok_or(ConnectError::Incomplete { missing: name });
            Some(User { name: get("OS_USERNAME")?, password: Some(Password(get("OS_PASSWORD")?)) })
        }
        Some(other) => return Err(ConnectError::AuthType(other.to_owned())),
    };
    let cacert = around.get("OS_CACERT").map(PathBuf::from);
    Ok(Endpoint { url, named_by: "OS_ENDPOINT".to_owned(), user, cacert })
}

/// The URL without slash and version at its end.
fn base(endpoint: &Endpoint) -> Result<String, ConnectError> {
    let wrong = || ConnectError::Url { named_by: endpoint.named_by.clone(), url: without_user(&endpoint.url) };
    let uri: http::Uri = endpoint.url.trim().parse().map_err(|_| wrong())?;
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(wrong());
    }
    let url = endpoint.url.trim().trim_end_matches('/');
    Ok(url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/').to_owned())
}

/// A URL as it may be shown.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => format!("{}******{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "current = \"lab\"\n[contexts.lab]\nurl = \"https://lab:6385/\"\nusername = \"ann\"\n\
                        password_file = \"/pw\"\ncacert = \"/ca.pem\"\n[contexts.site]\nurl = \"http://site\"\n";

    fn resolve(flags: &[&str], variables: &[(&str, &str)], config: Option<&str>) -> Result<Endpoint, ConnectError> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            connection: Connection,
        }
        let parsed = <Only as clap::Parser>::parse_from([&["ferric"], flags].concat());
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            found.or_else(|| (name == "HOME").then(|| "/home/me".to_owned()))
        };
        let read = |path: &std::path::Path| match (path.to_str(), config) {
            (Some("/home/me/.config/ferric/config.toml"), Some(text)) => Ok(text.to_owned()),
            (Some("/pw"), _) => Ok("s3cret\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        parsed.connection.endpoint(&Surroundings { variable: &variable, read: &read })
    }

    fn shown(result: &Result<Endpoint, ConnectError>) -> String {
        match result {
            Ok(endpoint) => {
                let user = endpoint.user.as_ref();
                let user = user.map(|user| (user.name.as_str(), user.password.as_ref().map(|word| word.0.as_str())));
                format!("{} by {}, user {user:?}, trust {:?}", endpoint.url, endpoint.named_by, endpoint.cacert)
            }
            Err(error) => format!("{error}\n  {}", error.remedy()),
        }
    }

    #[test]
    fn the_first_place_that_names_a_service_counts() {
        let ours = [("FERRIC_URL", "http://ours:1"), ("FERRIC_USERNAME", "fred"), ("FERRIC_PASSWORD", "f")];
        let os = [
            ("OS_ENDPOINT", "http://os:6385/v1/"),
            ("OS_AUTH_TYPE", "http_basic"),
            ("OS_USERNAME", "olga"),
            ("OS_PASSWORD", "o"),
        ];
        let all = [&ours[..], &os[..], &[("FERRIC_CONTEXT", "site")]].concat();
        let mut said = String::new();
        for (what, flags, variables, config) in [
            ("nothing", &[][..], &[][..], None),
            ("file", &[], &[], Some(FILE)),
            ("OpenStack", &[], &os[..], Some(FILE)),
            ("FERRIC_CONTEXT", &[], &[("FERRIC_CONTEXT", "site"), ("OS_ENDPOINT", "http://os")], Some(FILE)),
            ("FERRIC_URL", &[], &all, Some(FILE)),
            ("--context", &["--context", "lab"], &all, Some(FILE)),
            ("--url", &["--url", "http://flag/"], &os[..], Some(FILE)),
            ("--user asks for a password", &["--user", "bob"], &[], Some(FILE)),
            ("--user of the context", &["--user", "ann", "--cacert", "/mine.pem"], &[], Some(FILE)),
            ("unknown context", &["--context", "labs"], &[], Some(FILE)),
            ("no file", &["--context", "lab"], &[], None),
            ("broken file", &[], &[], Some("current = 1\n")),
            ("unknown key", &[], &[], Some("[contexts.a]\nurl = \"http://a\"\npassword = \"x\"\n")),
            ("not a URL", &["--url", "127.0.0.1:6385"], &[], None),
            ("user in a URL", &["--url", "http://a:b@c"], &[], None),
            ("keystone", &[], &[("OS_ENDPOINT", "http://os"), ("OS_AUTH_TYPE", "password")], None),
            ("half a user", &[], &os[..3], None),
        ] {
            said += &format!("{what}: {}\n", shown(&resolve(flags, variables, config)));
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn passwords_are_not_printed() {
        let endpoint = resolve(&[], &[], Some(FILE)).unwrap();
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }
}
