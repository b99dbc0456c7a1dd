//! `ferricd`: picks the real parts, starts the conductor and its listeners, and stops them in order.

use clap::Parser as _;
use driver::api::auth::{Access, Users, UsersError};
use driver::api::{self, Audience};
use driver::conductor::{Conductor, Parts};
use driver::config::{Auth, Config, DbTask, Flags, LogFormat, Task};
use driver::session::{self, authority::Authority};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use store::sqlite::maintenance;
use store::{Epoch, SqliteStore, Store as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use transport::server;

/// What the process ends with when the configuration is wrong; anything else that fails ends with 1.
const EXIT_CONFIG: u8 = 2;

/// How often it is looked whether another process has taken the data folder over.
const OWNER_CHECK: Duration = Duration::from_secs(1);

/// Connections at once from one address, of all that there may be (`server::Settings`): a site's tools and a segment of
/// nodes behind one router fit in, and others keep half.
const CONNECTIONS_PER_PEER: usize = 512;

/// How long stopping may take in all: the listeners finish their requests and the conductor its effects in less.
const DRAIN: Duration = Duration::from_secs(25);

/// The database in the data folder.
const DATABASE: &str = "ferric.db";

/// The authority of sessions, beside it.
const AUTHORITY: &str = "session-ca.pem";

/// The service could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("use the ramdisk")]
    Ramdisk(#[source] driver::effect::media::MediaError),
    #[error("prepare the data folder {folder}")]
    Folder { folder: String, source: std::io::Error },
    #[error("open the store")]
    Store(#[from] store::StoreError),
    #[error("prepare who may ask")]
    Users(#[source] UsersError),
    #[error("read {file}")]
    Tls { file: String, source: std::io::Error },
    #[error("use tls_certificate and tls_key")]
    Identity(#[source] transport::tls::TlsError),
    #[error("start the conductor")]
    Conductor(#[source] driver::conductor::StartError),
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("prepare for agents that dial in")]
    Sessions(#[from] driver::session::authority::AuthorityError),
    #[error("wait for signals")]
    Signals(#[source] std::io::Error),
    #[error("apply the configuration")]
    Config(#[source] driver::config::ConfigError),
    #[error("another ferricd has taken the data folder over")]
    TakenOver,
    #[error("it was told to stop a second time while it did")]
    ToldAgain,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.print_config {
        let printed = std::io::stdout().write_all(Config::print().as_bytes());
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut flags = flags;
    let task = flags.command.take();
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => return refuse(&error, EXIT_CONFIG),
    };
    if let Some(Task::Db(task)) = task {
        return database(&config, &task);
    }
    let filter = match EnvFilter::try_new(&config.log) {
        Ok(filter) => filter,
        Err(error) => return refuse(&error, EXIT_CONFIG),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    raise_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error, 1),
    };
    let outcome = runtime.block_on(run(config));
    // What still runs belongs to a request or an effect that was given up.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(&error), "ferricd ends");
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit of open files to what the system allows: each agent that dials in takes one, and the usual limit of a
/// shell is 1024.
fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Does something to the database, and says what came of it.
fn database(config: &Config, task: &DbTask) -> ExitCode {
    let file = config.data_dir.join(DATABASE);
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = outcome.map_err(ServiceError::Signals).and_then(|runtime| {
        runtime.block_on(async {
            match task {
                DbTask::Check => {
                    let report = maintenance::check(&file).await?;
                    let schema = format!("schema {} of {}", report.version, report.newest);
                    Ok((report.problems.is_empty(), std::iter::once(schema).chain(report.problems).collect()))
                }
                DbTask::Upgrade => {
                    let (before, after) = maintenance::upgrade(&file).await?;
                    Ok((true, vec![format!("schema {before} -> {after}")]))
                }
                DbTask::Backup { file: to } => {
                    maintenance::backup(&file, to).await?;
                    // A copy holds the credentials of BMCs as well.
                    let owner = std::fs::Permissions::from_mode(0o600);
                    let kept = std::fs::set_permissions(to, owner);
                    kept.map_err(|source| ServiceError::Folder { folder: to.display().to_string(), source })?;
                    Ok((true, vec![format!("copied to {}", to.display())]))
                }
            }
        })
    });
    let (sound, lines): (bool, Vec<String>) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return refuse(&error, 1),
    };
    let text = lines.join("\n") + "\n";
    let said = std::io::stdout().write_all(text.as_bytes()).is_ok();
    if sound && said { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says why the service does not start, before there is a log.
fn refuse(error: &dyn Error, code: u8) -> ExitCode {
    // Nobody to tell is no reason to end otherwise.
    let _ = writeln!(std::io::stderr(), "ferricd: {}", chain(error));
    ExitCode::from(code)
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

async fn run(config: Config) -> Result<(), ServiceError> {
    for folder in [&config.ramdisk_dir, &config.rescue_ramdisk_dir].into_iter().flatten() {
        driver::effect::media::check_ramdisk(folder).map_err(ServiceError::Ramdisk)?;
    }
    let (access, served) = access(&config)?;
    prepare(&config.data_dir)?;
    // Listeners come first: an address that is taken must not cost the present owner its epoch.
    let listener = listen(config.listen).await?;
    let agent_listener = match config.agent_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let address = listener.local_addr().map_err(|source| ServiceError::Listen { address: config.listen, source })?;
    let agent_address = agent_listener.as_ref().unwrap_or(&listener).local_addr();
    let agent_address = agent_address.map_err(|source| ServiceError::Listen { address: config.listen, source })?;
    let mut settings = config.conductor(agent_address).map_err(ServiceError::Config)?;
    let dialled = Dialled::listen(&config, agent_address, &settings.media.agent_url).await?;
    settings.session = dialled.as_ref().map(Dialled::offer);

    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let draining = access.draining.clone();
    let listeners = TaskTracker::new();
    // Who asks while the database is opened and brought up to date learns that, and waits for nothing.
    let serve = |listener: TcpListener, settings| {
        let behind = Arc::new(OnceLock::new());
        listeners.spawn(server::serve_both(listener, api::health::starting(behind.clone()), settings, stop.clone()));
        behind
    };
    let own = serve(listener, served);
    let of_agents = agent_listener.map(|listener| serve(listener, serving(agent_address)));
    listeners.close();

    let store = SqliteStore::open(&config.data_dir.join(DATABASE)).await.map_err(ServiceError::Store)?;
    let store = Arc::new(store);
    let conductor = Conductor::start(store.clone(), settings, Parts::real()).await.map_err(ServiceError::Conductor)?;
    let (tls, basic) = (access.tls, access.users.is_some());
    if let Some(of_agents) = of_agents {
        let access = Access { draining: draining.clone(), ..Access::default() };
        of_agents.get_or_init(|| api::router_for(conductor.clone(), Audience::Agents, access));
        tracing::info!(address = %agent_address, audience = ?Audience::Agents, "listening");
    }
    if let Some(Dialled { listener, url, authority, tls }) = dialled {
        tracing::info!(url, "agents may dial in");
        let listening =
            session::Listening { listener, conductor: conductor.clone(), authority: Arc::new(authority), tls };
        listeners.spawn(session::serve(listening, stop.clone()));
    }
    own.get_or_init(|| api::router_for(conductor.clone(), Audience::Everybody, access));
    tracing::info!(%address, audience = ?Audience::Everybody, tls, basic, "listening");

    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        () = fenced(&store, conductor.epoch()) => Err(ServiceError::TakenOver),
    };
    draining.cancel();
    let drained = async {
        tokio::time::sleep(Duration::from_secs(config.drain_delay)).await;
        stop.cancel();
        listeners.wait().await;
        conductor.stop().await;
        store.close().await;
    };
    tokio::select! {
        drained = tokio::time::timeout(Duration::from_secs(config.drain_delay) + DRAIN, drained) => match drained {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!("stopped before everything was over; what is saved goes on at the next start"),
        },
        name = signals.next() => {
            tracing::warn!(signal = name, "told again: stopping at once");
            return Err(ServiceError::ToldAgain);
        }
    }
    outcome
}

/// Who may ask the API for operators, and what it proves itself with.
fn access(config: &Config) -> Result<(Access, server::Settings), ServiceError> {
    let users = match (config.auth, &config.http_basic_auth_user_file) {
        (Auth::HttpBasic, Some(file)) => Some(Arc::new(Users::load(file).map_err(ServiceError::Users)?)),
        (Auth::HttpBasic | Auth::None, _) => None,
    };
    let tls = match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => {
            let read = |path: &Path| {
                let text = std::fs::read_to_string(path);
                text.map_err(|source| ServiceError::Tls { file: path.display().to_string(), source })
            };
            let identity = transport::tls::Identity::from_pem(read(certificate)?, read(key)?);
            let mut config = (*identity.server_config("1.2").map_err(ServiceError::Identity)?).clone();
            // Programs that watch events speak gRPC.
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Some(Arc::new(config))
        }
        _ => None,
    };
    if users.is_some() && tls.is_none() && !config.listen.ip().is_loopback() {
        tracing::warn!("passwords cross the network in clear: set tls_certificate and tls_key, or put a proxy before");
    }
    Ok((Access { users, tls: tls.is_some(), ..Access::default() }, server::Settings { tls, ..serving(config.listen) }))
}

/// How a listener is served: no address may take all connections, but for loopback, where a proxy has those of everybody.
fn serving(address: SocketAddr) -> server::Settings {
    let connections_per_peer = (!address.ip().is_loopback()).then_some(CONNECTIONS_PER_PEER);
    server::Settings { connections_per_peer, ..server::Settings::default() }
}

/// Makes the data folder and the database file, for their owner alone: the database holds the credentials of BMCs. The
/// mode of a folder that is there already is its owner's business; that of the database is not.
fn prepare(folder: &Path) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::Folder { folder: folder.display().to_string(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // SQLite gives its side files the mode of the database.
    let database = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.join(DATABASE))
        .map_err(failed)?;
    database.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { address, source })
}

/// What agents need to dial in.
struct Dialled {
    listener: TcpListener,
    url: String,
    authority: Authority,
    tls: Arc<rustls::ServerConfig>,
}

impl Dialled {
    /// Listens where the configuration says. Where it says nothing, a port that is taken is no reason not to start: agents
    /// that are offered no session are reached as ever.
    async fn listen(config: &Config, agents: SocketAddr, agent_url: &str) -> Result<Option<Self>, ServiceError> {
        let Some((address, said)) = config.session_address(agents) else { return Ok(None) };
        let listener = match listen(address).await {
            Ok(listener) => listener,
            Err(error) if !said => {
                tracing::warn!(error = %chain(&error), "agents cannot dial in; set session_listen");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let bound = listener.local_addr().map_err(|source| ServiceError::Listen { address, source })?;
        let url = config.session_url(agent_url, bound.port());
        let authority = Authority::open(&config.data_dir.join(AUTHORITY), SystemTime::now())?;
        let uri = url.parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let tls = authority.server(host.trim_start_matches('[').trim_end_matches(']'), SystemTime::now())?;
        Ok(Some(Self { listener, url, authority, tls }))
    }

    /// What agents are told.
    fn offer(&self) -> wire::session::Offer {
        wire::session::Offer { url: self.url.clone(), ca: self.authority.certificate().to_owned() }
    }
}

/// What tells the process to end. Heard from the start on, so that none is missed.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServiceError> {
        let listen = |kind| signal(kind).map_err(ServiceError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Returns at the next one, with its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Returns when another conductor has taken the store over. A store that cannot be read is no such thing: it may be
/// busy, and whoever writes under an old epoch is refused anyway.
async fn fenced(store: &SqliteStore, mine: Epoch) {
    let mut every = tokio::time::interval(OWNER_CHECK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match store.owner().await {
            Ok(newest) if newest > mine => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "cannot tell who owns the store"),
        }
    }
}
