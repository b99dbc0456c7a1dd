//! The agent as an ordinary program: it serves the API, reads the hardware and changes nothing.

use crate::api;
use crate::config::Settings;
use crate::config::settings::KeyPair;
use crate::logs::LogBuffer;
use crate::session::identity;
use crate::state::{Agent, Token};
use hardware::Machine;
use hardware::manager::NoManager;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use transport::server;
use transport::tls::{Making, TlsError};

/// What the server presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP.
    Off,
    /// An identity made for the address that is listened on.
    Auto,
    /// Files with PEM.
    Files {
        /// Certificate chain.
        certificate: PathBuf,
        /// Key.
        key: PathBuf,
    },
}

/// The text is neither `auto`, `off` nor two file names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not auto, off or CERTIFICATE,KEY (two PEM files)")]
pub struct NotTls(String);

impl std::str::FromStr for Tls {
    type Err = NotTls;

    fn from_str(text: &str) -> Result<Self, NotTls> {
        match (text, text.split_once(',')) {
            ("off", _) => Ok(Self::Off),
            ("auto", _) => Ok(Self::Auto),
            (_, Some((certificate, key))) if !certificate.is_empty() && !key.is_empty() => {
                Ok(Self::Files { certificate: certificate.into(), key: key.into() })
            }
            _ => Err(NotTls(text.to_owned())),
        }
    }
}

/// What a standalone agent is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Who may give commands; nobody without.
    pub token: Option<Token>,
    /// What the server presents.
    pub tls: Tls,
}

/// Why a standalone agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// A token without a character, as of a variable that is not set.
    #[error("the token is empty: give one with --token or FERRIC_AGENT_TOKEN, or neither of them to serve no commands")]
    EmptyToken,
    /// The identity in files.
    #[error("take the identity that was given")]
    Identity(#[from] identity::IdentityError),
    /// TLS.
    #[error("set up TLS")]
    Tls(#[from] TlsError),
    /// The address.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No manager.
    #[error("load hardware managers")]
    Managers(#[from] NoManager),
}

/// Serves the API of a machine that is only looked at, until `stop`.
pub async fn run(
    machine: Arc<dyn Machine>,
    options: Options,
    logs: LogBuffer,
    stop: CancellationToken,
) -> Result<(), StandaloneError> {
    if options.token.as_ref().is_some_and(|token| token.reveal().is_empty()) {
        return Err(StandaloneError::EmptyToken);
    }
    let settings = Settings { agent_token: options.token, ..Settings::default() };
    if settings.agent_token.is_none() {
        tracing::warn!("no token is given: documents and status are served, and every command is refused with 401");
    }
    let (agent, dispatcher) = Agent::builder(machine, settings).logs(logs).build()?;
    // Whoever takes the trouble to believe a generated certificate can do without old versions; a certificate from files
    // may be for clients that cannot.
    let lowest = if options.tls == Tls::Auto { "1.3" } else { "1.2" };
    let identity = match options.tls {
        Tls::Off => None,
        Tls::Auto => {
            let identity = identity::generate(options.listen.ip(), Making::default())?;
            tracing::info!("clients verify this API with the certificate\n{}", identity.certificate.trim_end());
            Some(identity)
        }
        Tls::Files { certificate, key } => Some(identity::read(&KeyPair { certificate, key })?),
    };
    let tls = identity.as_ref().map(|identity| identity.server_config(lowest)).transpose()?;
    let address = options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| StandaloneError::Listen { address, source })?;
    let local = listener.local_addr().unwrap_or(address);
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("serving the API at {scheme}://{local}; this machine is read and never changed");
    let router = api::router(dispatcher, tls.is_some());
    let open = stop.child_token();
    let settings = server::Settings { tls, ..api::serving() };
    let serving = tokio::spawn(server::serve(listener, router, settings, open.clone()));
    tokio::select! {
        () = agent.closed() => {
            tracing::warn!("a command closed the API; this machine stays as it is, the program waits to be ended");
            open.cancel();
        }
        () = stop.cancelled() => {}
    }
    let _ = serving.await;
    stop.cancelled().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_auto_off_or_two_files() {
        assert_eq!("auto".parse(), Ok(Tls::Auto));
        assert_eq!("off".parse(), Ok(Tls::Off));
        let files = Tls::Files { certificate: "a.pem".into(), key: "b.pem".into() };
        assert_eq!("a.pem,b.pem".parse(), Ok(files));
        for wrong in ["", "on", "a.pem", ",b", "a,"] {
            assert!(wrong.parse::<Tls>().is_err(), "{wrong}");
        }
    }

    fn options(token: Option<&str>, tls: Tls) -> Options {
        Options { listen: ([127, 0, 0, 1], 0).into(), token: token.map(|token| Token::new(token.to_owned())), tls }
    }

    #[tokio::test]
    async fn an_empty_token_is_refused_with_what_to_do() {
        let stop = CancellationToken::new();
        let machine = Arc::new(hardware_sim::SimMachine::new());
        let error = run(machine, options(Some(""), Tls::Off), LogBuffer::default(), stop).await.unwrap_err();
        assert!(matches!(error, StandaloneError::EmptyToken));
        assert!(error.to_string().contains("--token"), "{error}");
    }

    /// Whoever reads the log can copy the certificate out of it and verify the server with it.
    #[tokio::test]
    async fn a_generated_certificate_is_in_the_log_line_by_line() {
        let logs = LogBuffer::default();
        let writer = tracing_subscriber::fmt().with_ansi(false).with_writer(logs.clone());
        let _logging = tracing::subscriber::set_default(writer.finish());
        let stop = CancellationToken::new();
        stop.cancel();
        let machine = Arc::new(hardware_sim::SimMachine::new());
        run(machine, options(None, Tls::Auto), logs.clone(), stop).await.unwrap();
        let text = String::from_utf8(logs.contents()).unwrap();
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let from = text.find(begin).unwrap();
        let to = text.find(end).unwrap() + end.len();
        let pem = text[from..to].to_owned();
        let trust = transport::client::Trust::Only(pem);
        let settings = transport::client::Settings { trust, ..transport::client::Settings::default() };
        assert!(transport::client::Client::new(settings).is_ok(), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
}
