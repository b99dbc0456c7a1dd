//! Who may ask: nobody has to say who he is, or everybody by HTTP basic authentication (RFC 7617) against a file of
//! users with bcrypt hashes, as `htpasswd -B` writes it.
//!
//! The routes of agents are open either way: an agent cannot have a password before it has found its driver, and proves
//! itself by its token.

use crate::fault::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Largest file of users, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// How many passwords are checked at once: each costs tens of milliseconds of a core, whoever asks.
const AT_ONCE: usize = 2;
/// How many checked passwords are remembered.
const REMEMBERED: usize = 1024;
/// bcrypt looks at no more bytes of a password.
const MAX_PASSWORD: usize = 72;
/// What is checked for a user that there is not, so that the time tells nothing.
const NOBODY: &str = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// How a listener lets people in.
#[derive(Clone, Default)]
pub struct Access {
    /// Users, where people have to say who they are.
    pub users: Option<Arc<Users>>,
    /// Whether the listener serves TLS, for the links in documents.
    pub tls: bool,
    /// Cancelled when the service is about to stop: it is not ready then, and still answers.
    pub draining: CancellationToken,
}

/// The users of a file.
pub struct Users {
    file: PathBuf,
    loaded: Mutex<Loaded>,
    known: Mutex<HashSet<[u8; 32]>>,
    /// Makes what is remembered worthless outside of this process.
    salt: [u8; 32],
    turns: Semaphore,
}

/// The content of the file, as of its last change.
#[derive(Default)]
struct Loaded {
    stamp: Option<(SystemTime, u64)>,
    hashes: BTreeMap<String, String>,
}

/// The file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("read the file of users {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A line is not `user:hash`.
    #[error("line {line} of {} {reason}; `htpasswd -nB USER` prints a good one", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1 on.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Users {
    /// Reads the file. It is read again when it changes.
    ///
    /// # Errors
    /// [`UsersError`].
    pub fn load(file: &Path) -> Result<Self, UsersError> {
        let users = Self {
            file: file.to_owned(),
            loaded: Mutex::default(),
            known: Mutex::default(),
            salt: rand::random(),
            turns: Semaphore::new(AT_ONCE),
        };
        users.refresh()?;
        Ok(users)
    }

    fn refresh(&self) -> Result<(), UsersError> {
        let failed = |source| UsersError::Read { path: self.file.clone(), source };
        let about = std::fs::metadata(&self.file).map_err(failed)?;
        let stamp = (about.modified().map_err(failed)?, about.len());
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp == Some(stamp) {
            return Ok(());
        }
        if !about.is_file() || about.len() > MAX_FILE {
            return Err(failed(std::io::Error::other(format!("it is no file of at most {MAX_FILE} bytes"))));
        }
        let text = std::fs::read_to_string(&self.file).map_err(failed)?;
        loaded.hashes = parse(&self.file, &text)?;
        loaded.stamp = Some(stamp);
        Ok(())
    }

    /// Checks who asks.
    ///
    /// # Errors
    /// [`Fault::Unauthorized`].
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let (user, password) = credentials(headers).ok_or_else(|| Fault::Unauthorized(ASKED.to_owned()))?;
        if let Err(error) = self.refresh() {
            // A file that is being written is no reason to let nobody in: what was read last counts.
            tracing::error!(error = %transport::client::chain(&error), "the file of users was not read again");
        }
        let hash = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).hashes.get(&user).cloned();
        let key = self.key(&user, &password, hash.as_deref().unwrap_or_default());
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(());
        }
        let turn = self.turns.acquire().await;
        let there = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(&password, &hash).unwrap_or_default()).await;
        drop(turn);
        if !there || !verified.unwrap_or_default() {
            tracing::warn!(user = %user.escape_debug(), "refused: no such user, or not this password");
            return Err(Fault::Unauthorized("Incorrect username or password".to_owned()));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key);
        Ok(())
    }

    /// What is remembered of a password that was right; another password or another hash has another key.
    fn key(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(self.salt);
        for part in [user, password, hash] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

const ASKED: &str = "Authorization required: send a user and a password by HTTP basic authentication";

/// The user and the password of a request.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    (password.len() <= MAX_PASSWORD).then(|| (user.to_owned(), password.to_owned()))
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, String>, UsersError> {
    let mut users = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |reason| UsersError::Line { path: path.to_owned(), line: number + 1, reason };
        let (user, hash) = line.split_once(':').ok_or_else(|| bad("is not user:hash"))?;
        if user.is_empty() {
            return Err(bad("has no user"));
        }
        if !["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) || hash.len() != 60 {
            return Err(bad("has no bcrypt hash"));
        }
        if users.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(bad("has a user that an earlier line has"));
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::super::routes::ROUTES;
    use super::super::{Audience, router_for};
    use super::*;
    use crate::conductor::{Conductor, Parts, Settings};
    use axum::Router;
    use axum::body::Body;
    use http::Request;
    use store::MemoryStore;
    use tower::ServiceExt as _;

    fn file(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("htpasswd");
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn protected(folder: &Path) -> Router {
        // The lowest cost that there is: the hash is checked once a test.
        let hash = bcrypt::hash("canary", 4).unwrap();
        let users = Users::load(&file(folder, &format!("# operators\nadmin:{hash}\n"))).unwrap();
        let settings = Settings::new("here", folder, "http://127.0.0.1");
        let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
        router_for(conductor, Audience::Everybody, Access { users: Some(Arc::new(users)), ..Access::default() })
    }

    async fn ask(
        router: &Router,
        method: &http::Method,
        path: &str,
        credentials: Option<&str>,
    ) -> http::Response<Body> {
        let mut request =
            Request::builder().method(method).uri(path).header("x-openstack-ironic-api-version", "latest");
        if let Some(credentials) = credentials {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)));
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn ghsa_jwpr_9fwh_m4g7_every_route_asks_who_it_is_but_those_of_agents() {
        let folder = tempfile::tempdir().unwrap();
        let router = protected(folder.path()).await;
        for route in ROUTES {
            let path = route.path.replace("{}", "x");
            let (method, wanted) = (&route.method, if route.agents { None } else { Some(401) });
            for credentials in [None, Some("admin:wrong"), Some("admin")] {
                let status = ask(&router, method, &path, credentials).await.status().as_u16();
                match wanted {
                    Some(wanted) => assert_eq!(status, wanted, "{method} {path} with {credentials:?}"),
                    None => assert_ne!(status, 401, "{method} {path} with {credentials:?}"),
                }
            }
            let status = ask(&router, method, &path, Some("admin:canary")).await.status();
            assert_ne!(status, 401, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_no_news_for_strangers() {
        let folder = tempfile::tempdir().unwrap();
        let router = protected(folder.path()).await;
        let response = ask(&router, &http::Method::GET, "/v1/nonsense", None).await;
        assert_eq!(response.status(), 401);
        assert_eq!(ask(&router, &http::Method::GET, "/v1/nodes", Some("nobody:canary")).await.status(), 401);
        assert_eq!(response.headers()[http::header::WWW_AUTHENTICATE], "Basic realm=\"Baremetal API\"");
        assert_eq!(ask(&router, &http::Method::PUT, "/v1/nodes", None).await.status(), 401);
        assert_eq!(ask(&router, &http::Method::GET, "/v1/nonsense", Some("admin:canary")).await.status(), 404);
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let router = protected(folder.path()).await;
        assert_eq!(ask(&router, &http::Method::GET, "/v1/nodes", Some("admin:canary")).await.status(), 200);
        let hash = bcrypt::hash("another", 4).unwrap();
        file(folder.path(), &format!("admin:{hash}\nsecond:{hash}\n"));
        assert_eq!(ask(&router, &http::Method::GET, "/v1/nodes", Some("admin:canary")).await.status(), 401);
        assert_eq!(ask(&router, &http::Method::GET, "/v1/nodes", Some("second:another")).await.status(), 200);
    }

    #[test]
    fn lines_that_are_no_users_are_named() {
        let hash = bcrypt::hash("x", 4).unwrap();
        for (text, line) in [
            ("admin".to_owned(), 1),
            ("\nadmin:secret".to_owned(), 2),
            (format!(":{hash}"), 1),
            (format!("a:{hash}\na:{hash}"), 2),
            ("a:$apr1$x".to_owned(), 1),
        ] {
            let error = parse(Path::new("users"), &text).unwrap_err();
            assert!(matches!(error, UsersError::Line { line: found, .. } if found == line), "{text}: {error}");
        }
    }
}
