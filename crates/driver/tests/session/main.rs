//! Sessions of agents, over real sockets and real TLS: who may have one, what a flow makes of it, and what becomes of peers
//! that do not keep to the rules.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod deploy;
mod fallback;
mod identity;
mod log;
mod paths;
mod peer;
mod rescue;
mod rules;
mod skew;

use driver::api::{self, Audience};
use driver::command::{Command, LookupRequest, NodeIdent, ProvisionArguments};
use driver::conductor::{Conductor, Parts, Settings};
use driver::session::authority::Authority;
use driver::session::{Listening, serve};
use lifecycle::provision::{State, Verb};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::{MemoryStore, Node, Store as _};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::ramdisk::MASK;
use wire::session::Offer;

/// A driver with a listener for sessions.
struct Site {
    conductor: Arc<Conductor<MemoryStore>>,
    store: MemoryStore,
    node: Uuid,
    offer: Offer,
    authority: Arc<Authority>,
    /// The way to its agent beside the session.
    listener: fallback::Listener,
    stop: CancellationToken,
    _guard: DropGuard,
    folder: Arc<tempfile::TempDir>,
}

impl Site {
    /// A site with a node that an agent may look up.
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with a node that is made otherwise.
    async fn with(change: impl FnOnce(&mut Node)) -> Self {
        let site = Self::start(MemoryStore::new(), Uuid::new_v4(), Arc::new(tempfile::tempdir().unwrap())).await;
        let mut node = Node::new(site.node, "fake-hardware", jiff::Timestamp::UNIX_EPOCH);
        node.interfaces.insert("deploy".to_owned(), "direct".to_owned());
        node.interfaces.insert("boot".to_owned(), "fake".to_owned());
        node.provision_state = State::Available;
        node.instance_info = object(json!({
            "image_source": "http://images.test/debian.raw.zst",
            "image_checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "image_disk_format": "raw",
        }));
        change(&mut node);
        site.conductor.create_node(node).await.unwrap();
        site
    }

    async fn start(store: MemoryStore, node: Uuid, folder: Arc<tempfile::TempDir>) -> Self {
        let authority = Authority::open(&folder.path().join("session-ca.pem"), SystemTime::now()).unwrap();
        let authority = Arc::new(authority);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let offer = Offer { url, ca: authority.certificate().to_owned() };
        let mut settings = Settings::new("here", folder.path(), "http://127.0.0.1");
        settings.restrict_lookup = false;
        settings.automated_clean = false;
        settings.sync_power_state_interval = Duration::ZERO;
        settings.poll_interval = Duration::from_millis(50);
        settings.session = Some(offer.clone());
        let way = fallback::Listener::default();
        let parts = Parts { agents: Arc::new(way.clone()), ..Parts::real() };
        let conductor = Conductor::start(Arc::new(store.clone()), settings, parts).await.unwrap();
        let tls = authority.server("127.0.0.1", SystemTime::now()).unwrap();
        let stop = CancellationToken::new();
        let listening = Listening { listener, conductor: conductor.clone(), authority: authority.clone(), tls };
        tokio::spawn(serve(listening, stop.clone()));
        Self {
            conductor,
            store,
            node,
            offer,
            authority,
            listener: way,
            _guard: stop.clone().drop_guard(),
            stop,
            folder,
        }
    }

    /// A driver on the same database, as after a kill: what the one before had in memory is gone.
    async fn restart(self) -> Self {
        self.stop.cancel();
        self.conductor.stop().await;
        Self::start(self.store.clone(), self.node, self.folder.clone()).await
    }

    fn ident(&self) -> NodeIdent {
        NodeIdent::Uuid(self.node)
    }

    async fn get(&self) -> Node {
        self.store.node(self.node).await.unwrap()
    }

    /// The token that a look-up gives.
    async fn token(&self) -> String {
        let request = LookupRequest { addresses: Vec::new(), node: Some(self.node), token: true, peer: None };
        let found = self.conductor.lookup(request).await.unwrap();
        assert_eq!(found.config.ferric_session.as_ref(), Some(&self.offer));
        found.config.agent_token.filter(|token| token != MASK).unwrap()
    }

    async fn deploy(&self) {
        let deploy = Command::Provision { verb: Verb::Active, arguments: ProvisionArguments::default() };
        self.conductor.command(&self.ident(), deploy).await.unwrap();
        self.reach(State::DeployWait).await;
    }

    async fn reach(&self, state: State) -> Node {
        self.until(|node| node.provision_state == state).await
    }

    async fn until(&self, is_so: impl Fn(&Node) -> bool) -> Node {
        for _ in 0..600 {
            let node = self.get().await;
            if is_so(&node) {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let node = self.get().await;
        panic!("the node is in \"{}\": {:?}", node.provision_state, node.last_error);
    }

    /// A document of the API.
    async fn ask(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let (status, text) = self.answer(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Status and body of an answer of the API.
    async fn answer(&self, path: &str) -> (u16, String) {
        let router = api::router(self.conductor.clone(), Audience::Everybody);
        let request = http::Request::get(path).header("x-openstack-ironic-api-version", "1.95");
        let response = router.oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = transport::body::read(response.into_body(), 1 << 24).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}
