//! The agent and its driver: check in (inspection, lookup), serve the API, keep in touch (heartbeats).

mod collectors;
pub mod heartbeat;
pub mod identity;
pub mod inspection;
pub mod ironic;
pub mod lookup;
pub mod stream;

use crate::api;
use crate::command::Dispatcher;
use crate::config::Settings;
use crate::contain;
use crate::state::{Agent, Closing};
use ironic::Ironic;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use transport::server;
use transport::tls::{Identity, Making};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// TLS towards the driver could not be set up.
    #[error("set up TLS towards the driver")]
    Tls(#[source] transport::tls::TlsError),
    /// No lookup succeeded in time.
    #[error("look up the node")]
    Lookup(#[source] lookup::LookupError),
    /// No address to advertise.
    #[error("find an address that the driver can call back")]
    Address(#[source] identity::AddressError),
    /// The agent's own identity.
    #[error("make the agent's TLS identity")]
    Identity(#[source] identity::IdentityError),
    /// The API's port.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The driver could not reach the agent in any way.
    #[error("ferric.listen=no is set, and {why}: nobody could reach this agent; boot it without ferric.listen=no")]
    Unreachable {
        /// Why there is no session either.
        why: &'static str,
    },
    /// A fault of the agent itself.
    #[error("the session ended unexpectedly: {0}")]
    Panicked(String),
}

impl SessionError {
    /// Whether trying again is of no use and would be wrong: somebody else holds this node's token.
    pub fn is_locked_out(&self) -> bool {
        matches!(self, Self::Lookup(lookup::LookupError::LockedOut))
    }
}

/// Checks in with the driver that the settings name, then serves the API and sends heartbeats until `stop`, or until a
/// command closes the API: the result tells which one. An agent that knows no driver serves the API alone.
pub async fn run(
    agent: &Arc<Agent>,
    dispatcher: &Arc<Dispatcher>,
    stop: &CancellationToken,
) -> Result<Option<Closing>, SessionError> {
    let open = stop.child_token();
    // Whatever ends the session, nothing of it keeps the port.
    let _guard = open.clone().drop_guard();
    let session = check_in_and_serve(Arc::clone(agent), Arc::clone(dispatcher), open.clone());
    // A panic ends the session alone: a node that checks in anew is better than a machine that starts again. Who drops this
    // future ends the session with it.
    let mut session = AbortOnDropHandle::new(tokio::spawn(contain::request(session)));
    let ended = tokio::select! {
        ended = &mut session => ended,
        () = agent.closed() => {
            // Open requests, that of the closing command among them, are answered before this ends.
            open.cancel();
            session.await
        }
    };
    match ended {
        Ok(ended) => ended.map(|()| agent.closing()),
        Err(error) => Err(SessionError::Panicked(error.to_string())),
    }
}

async fn check_in_and_serve(
    agent: Arc<Agent>,
    dispatcher: Arc<Dispatcher>,
    stop: CancellationToken,
) -> Result<(), SessionError> {
    let (agent, dispatcher, stop) = (&agent, &dispatcher, &stop);
    let settings = agent.shared.settings();
    let ironic = Arc::new(Ironic::new(&settings).map_err(SessionError::Tls)?);
    let mut uuid = None;
    if !settings.inspection_callback_urls.is_empty() {
        match inspection::inspect(agent, &ironic).await {
            Ok(node) => uuid = node,
            // As in the field: a failed inspection does not keep the node from checking in.
            Err(error) => tracing::error!(error = %transport::client::chain(&error), "inspection failed"),
        }
        // Once: a second session of the same boot is the same machine.
        agent.shared.change_settings(|settings| settings.inspection_callback_urls.clear());
    }
    let given = settings.listen_tls.as_ref().map(identity::read).transpose().map_err(SessionError::Identity)?;
    if settings.is_standalone() {
        if !settings.listens {
            return Err(SessionError::Unreachable { why: "no driver is known" });
        }
        serve(agent, dispatcher, given.as_ref(), stop).await?.finished().await;
        return Ok(());
    }
    lookup::run(agent, &ironic, uuid.as_deref()).await.map_err(SessionError::Lookup)?;
    let settings = agent.shared.settings();
    if !settings.listens && settings.session_offer.is_none() {
        return Err(SessionError::Unreachable { why: "the driver offers no session" });
    }
    let stream = match settings.session_offer.clone() {
        Some(offer) => Some(stream::start(agent, dispatcher, offer, stop).await),
        None => None,
    };
    let (announcement, serving) = match &stream {
        Some(stream) if !settings.listens => {
            let callback_url = wire::session::callback_url(stream.id);
            (heartbeat::Announcement { callback_url, certificate: None, listens: false }, None)
        }
        _ => {
            let (announcement, serving) = announce(agent, dispatcher, &ironic, given, stop).await?;
            (announcement, Some(serving))
        }
    };
    heartbeat::run(agent, &ironic, announcement, stream.as_ref(), stop).await;
    if let Some(stream) = stream {
        stream.finished().await;
    }
    if let Some(serving) = serving {
        serving.finished().await;
    }
    Ok(())
}

/// Serves the API, and finds out what the driver has to know of it.
async fn announce(
    agent: &Arc<Agent>,
    dispatcher: &Arc<Dispatcher>,
    ironic: &Ironic,
    given: Option<Identity>,
    stop: &CancellationToken,
) -> Result<(heartbeat::Announcement, Serving), SessionError> {
    let settings = agent.shared.settings();
    let host = identity::advertised_host(agent, ironic, &settings).await.map_err(SessionError::Address)?;
    let generated = match given {
        Some(_) => None,
        None => generate(ironic, &settings, &host).await?,
    };
    let identity = given.as_ref().or(generated.as_ref());
    let protocol = if identity.is_some() { "https" } else { settings.advertise_protocol.as_str() };
    let callback_url = identity::callback_url(protocol, &host, settings.advertise_port);
    let serving = serve(agent, dispatcher, identity, stop).await?;
    // A driver that is to believe a given certificate has its authority; only a generated one has to be sent.
    let certificate = generated.map(|identity| identity.certificate);
    Ok((heartbeat::Announcement { callback_url, certificate, listens: true }, serving))
}

/// An identity of the agent's own, where the driver can be told its certificate and there is an address to make it for.
async fn generate(ironic: &Ironic, settings: &Settings, host: &str) -> Result<Option<Identity>, SessionError> {
    if !settings.enable_auto_tls || ironic.version().await < ironic::VERIFY_CA_VERSION {
        return Ok(None);
    }
    let Ok(address) = host.parse::<IpAddr>() else {
        tracing::warn!(host, "no TLS: ipa-advertise-host is not an address that a certificate could be made for");
        return Ok(None);
    };
    let making = Making { curve: settings.tls_curve, skew: settings.tls_clock_skew };
    identity::generate(address, making).map(Some).map_err(|error| SessionError::Identity(error.into()))
}

/// The API, being served.
struct Serving(tokio::task::JoinHandle<()>);

impl Serving {
    async fn finished(self) {
        // A server that panicked has ended like one that was stopped.
        let _ = self.0.await;
    }
}

async fn serve(
    agent: &Agent,
    dispatcher: &Arc<Dispatcher>,
    identity: Option<&Identity>,
    stop: &CancellationToken,
) -> Result<Serving, SessionError> {
    let settings = agent.shared.settings();
    // Who asked for it relies on it: plain HTTP would let in whom the authority is to keep out.
    let asked = match (&settings.client_authority, settings.needs_tls || settings.listen_tls.is_some()) {
        (Some(_), _) => Some("[ssl] ca_file"),
        (None, true) => Some("listen_tls"),
        (None, false) => None,
    };
    if let (Some(asked), None) = (asked, identity) {
        return Err(SessionError::Identity(identity::IdentityError::Missing { asked }));
    }
    let clients = settings.client_authority.as_deref().map(identity::read_pem);
    let clients = clients.transpose().map_err(SessionError::Identity)?;
    let tls = identity.map(|identity| identity.server_config_for(&settings.tls_min_version, clients.as_deref()));
    let tls = tls.transpose().map_err(|error| SessionError::Identity(error.into()))?;
    let listener = listen(settings.listen_host, settings.listen_port).await?;
    tracing::info!(port = settings.listen_port, tls = tls.is_some(), "serving the API");
    let router = api::router(Arc::clone(dispatcher), tls.is_some());
    let settings = server::Settings { tls, ..api::serving() };
    Ok(Serving(tokio::spawn(server::serve(listener, router, settings, stop.clone()))))
}

/// Listens on `host`, or on all addresses: IPv6 and IPv4 where the kernel has IPv6, else IPv4.
async fn listen(host: Option<IpAddr>, port: u16) -> Result<TcpListener, SessionError> {
    let bind = async |address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|source| SessionError::Listen { address, source })
    };
    match host {
        Some(host) => bind(SocketAddr::new(host, port)).await,
        None => match bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).await {
            Ok(listener) => Ok(listener),
            Err(error) => {
                tracing::debug!(error = %transport::client::chain(&error), "no IPv6");
                bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).await
            }
        },
    }
}
