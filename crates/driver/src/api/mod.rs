//! The REST API: Ironic's, microversions 1.1 to 1.115. A request is matched with [`routes`], its version and body are
//! checked ([`request`]), one file per resource turns it into a command or a query, and [`document`] renders what comes
//! back. What came with which version is in [`versions`]; HTTP codes are in [`crate::fault`].

mod allocations;
pub mod auth;
mod boot_file;
mod chassis;
mod conductors;
mod deploy_templates;
mod document;
mod drivers;
mod erasures;
mod events;
pub mod health;
mod inspection_rules;
mod list;
mod logs;
mod node_hardware;
mod node_parts;
mod node_states;
mod nodes;
mod patch;
mod portgroups;
mod ports;
mod progress;
mod ramdisk;
mod readings;
mod reply;
mod request;
mod resource;
mod root;
mod routes;
mod rpc;
mod runbooks;
mod shards;
mod steps;
mod vendor;
mod versions;
mod volumes;
mod why;

pub(crate) use inspection_rules::read_rules;
pub(crate) use node_parts::is_trait;
pub(crate) use request::mac;
pub use routes::Audience;

use crate::command::NodeIdent;
use crate::conductor::Conductor;
use crate::fault::Fault;
use crate::metrics::Watch;
use auth::Access;
use axum::Router;
use axum::body::Body;
use document::{Context, NodeDocument};
use http::{Request, Response};
use jiff::Timestamp;
use request::{Call, Query};
use routes::{Endpoint, Route};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::{Node, Store};
use tracing::Instrument as _;
use transport::body::BodyError;
use transport::server::Peer;
use uuid::Uuid;
use wire::ironic::Version;

/// How long a request may take, from its head to its reply.
const DEADLINE: Duration = Duration::from_secs(90);

/// The API of one conductor.
pub struct Api<S: Store> {
    conductor: Arc<Conductor<S>>,
    started: Timestamp,
    access: Access,
}

impl<S: Store> Clone for Api<S> {
    fn clone(&self) -> Self {
        Self { conductor: self.conductor.clone(), started: self.started, access: self.access.clone() }
    }
}

/// The service of a plain listener that believes everybody.
pub fn router<S: Store>(conductor: Arc<Conductor<S>>, audience: Audience) -> Router {
    router_for(conductor, audience, Access::default())
}

/// The service of a listener.
pub fn router_for<S: Store>(conductor: Arc<Conductor<S>>, audience: Audience, access: Access) -> Router {
    let router = match audience {
        Audience::Everybody => rpc::routed(Router::new(), conductor.clone(), access.clone()),
        Audience::Agents => Router::new(),
    };
    let api = Api { conductor, started: Timestamp::now(), access };
    router.fallback(move |request: Request<Body>| {
        let api = api.clone();
        async move { api.answer(request, audience).await }
    })
}

impl<S: Store> Api<S> {
    /// Answers a request, whatever becomes of it.
    async fn answer(self, request: Request<Body>, audience: Audience) -> Response<Body> {
        let id = format!("req-{}", Uuid::new_v4());
        let version = request::version(request.headers());
        let span = tracing::info_span!("request", %id, method = %request.method(), path = %request.uri().path());
        let watch = Watch::start();
        let route = Arc::new(OnceLock::new());
        let conductor = self.conductor.clone();
        let outcome = match version.clone() {
            Err(error) => Err(Fault::Version(error)),
            Ok(version) => self.detached(request, audience, version, route.clone()).instrument(span.clone()).await,
        };
        let mut response = match &outcome {
            Ok(_) => Response::new(Body::empty()),
            Err(fault) => reply::fault(fault),
        };
        let refused = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        if let Ok(reply) = outcome {
            response = reply;
        }
        reply::add_versions(response.headers_mut(), version.ok(), refused.as_ref().copied());
        reply::add_request_id(response.headers_mut(), &id);
        let status = response.status().as_u16();
        let route = route.get().map(|route: &&Route| (route.method.as_str(), route.path));
        conductor.metrics.request(route, status, watch.took());
        match refused {
            Err(fault) => span.in_scope(|| tracing::info!(status, %fault, "refused")),
            Ok(()) => span.in_scope(|| tracing::debug!(status, "answered")),
        }
        response
    }

    /// Works on a request in a task of its own: a client that goes away does not stop what it has started.
    async fn detached(
        self,
        request: Request<Body>,
        audience: Audience,
        version: Version,
        found: Arc<OnceLock<&'static Route>>,
    ) -> Result<Response<Body>, Fault> {
        let work = tokio::spawn(async move { self.work(request, audience, version, &found).await }.in_current_span());
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                tracing::error!(%error, "a request panicked");
                Err(Fault::Internal("The request failed; the log has the details.".to_owned()))
            }
            Err(_) => Err(Fault::Unavailable(format!("The request took longer than {} s.", DEADLINE.as_secs()))),
        }
    }

    /// `taken_by` learns the route, whatever comes of the request.
    async fn work(
        self,
        request: Request<Body>,
        audience: Audience,
        version: Version,
        taken_by: &OnceLock<&'static Route>,
    ) -> Result<Response<Body>, Fault> {
        let (mut head, body) = request.into_parts();
        // HTTP/2 has it in the target (RFC 9113, 8.3.1).
        if let Some(host) = head.uri.authority().and_then(|authority| authority.as_str().parse().ok()) {
            head.headers.entry(http::header::HOST).or_insert(host);
        }
        let found = routes::find(audience, version, &head.method, head.uri.path());
        if let Ok((route, _)) = found {
            taken_by.get_or_init(|| route);
        }
        if let Some(users) = &self.access.users
            && !found.as_ref().is_ok_and(|(route, _)| route.agents)
        {
            users.check(&head.headers).await?;
        }
        let (route, taken) = found?;
        request::check_route_version(route, version)?;
        let segments = taken.into_iter().map(request::decode).collect::<Result<Vec<_>, _>>()?;
        let call = Call {
            version,
            base: request::base(&head.headers, self.access.tls),
            segments,
            query: Query::read(&head.uri)?,
            body: read_body(body, route).await?,
            peer: head.extensions.get::<Peer>().map(|peer| peer.0.ip()),
            headers: head.headers,
        };
        self.call(route.endpoint, call).await
    }

    async fn call(&self, endpoint: Endpoint, call: Call) -> Result<Response<Body>, Fault> {
        match endpoint {
            Endpoint::Root => root::root(call),
            Endpoint::V1 => root::v1(call),
            Endpoint::NodeCreate => self.create_node(call).await,
            Endpoint::NodeList => self.list_nodes(call, false).await,
            Endpoint::NodeListDetail => self.list_nodes(call, true).await,
            Endpoint::NodeShow => self.show_node(call).await,
            Endpoint::NodePatch => self.patch_node(call).await,
            Endpoint::NodeDelete => self.delete_node(call).await,
            Endpoint::NodeValidate => self.validate_node(call).await,
            Endpoint::NodeStates => self.show_states(call).await,
            Endpoint::NodeProvision => self.provision(call).await,
            Endpoint::NodePower => self.power(call).await,
            Endpoint::NodeMaintenanceOn => self.maintenance(call, true).await,
            Endpoint::NodeMaintenanceOff => self.maintenance(call, false).await,
            Endpoint::NodeBootDeviceShow => self.show_boot_device(call).await,
            Endpoint::NodeBootDeviceSet => self.set_boot_device(call).await,
            Endpoint::NodeBootDevices => self.list_boot_devices(call).await,
            Endpoint::NodeWhy => self.show_why(call).await,
            Endpoint::NodeProgress => self.show_progress(call).await,
            Endpoint::NodeLogs => self.show_logs(call).await,
            Endpoint::NodeErasures => self.list_erasures(call).await,
            Endpoint::NodeErasureShow => self.show_erasure(call).await,
            Endpoint::ErasureKey => self.show_erasure_key(call),
            Endpoint::NodeInventory => self.show_inventory(call).await,
            Endpoint::NodeHistoryList => self.list_history(call).await,
            Endpoint::NodeHistoryShow => self.show_history(call).await,
            Endpoint::NodeTraits => self.show_traits(call).await,
            Endpoint::NodeTraitsReplace => self.replace_traits(call).await,
            Endpoint::NodeTraitsClear => self.clear_traits(call).await,
            Endpoint::NodeTraitAdd => self.add_trait(call).await,
            Endpoint::NodeTraitRemove => self.remove_trait(call).await,
            Endpoint::NodePorts => self.list_node_ports(call, false).await,
            Endpoint::NodePortsDetail => self.list_node_ports(call, true).await,
            Endpoint::NodeRecords(kind) => self.list_records_of_node(call, kind, false).await,
            Endpoint::NodeRecordsDetail(kind) => self.list_records_of_node(call, kind, true).await,
            Endpoint::NodeVolume => self.show_volume(call, true).await,
            Endpoint::NodeAllocation => self.show_node_allocation(call).await,
            Endpoint::NodeAllocationDelete => self.delete_node_allocation(call).await,
            Endpoint::NodeChildren => self.list_children(call).await,
            Endpoint::NodeVifs => self.list_vifs(call).await,
            Endpoint::NodeVifAttach => self.attach_vif(call).await,
            Endpoint::NodeVifDetach => self.detach_vif(call).await,
            Endpoint::NodeVmedia => self.list_virtual_media(call).await,
            Endpoint::NodeVmediaAttach => self.attach_virtual_media(call).await,
            Endpoint::NodeVmediaDetach => self.detach_virtual_media(call).await,
            Endpoint::NodeBios => self.list_bios(call).await,
            Endpoint::NodeBiosSetting => self.show_bios_setting(call).await,
            Endpoint::NodeFirmware => self.list_firmware(call).await,
            Endpoint::NodeIndicators => self.list_indicators(call).await,
            Endpoint::NodeIndicatorShow => self.show_indicator(call).await,
            Endpoint::NodeIndicatorSet => self.set_indicator(call).await,
            Endpoint::NodeInjectNmi => self.inject_nmi(call).await,
            Endpoint::NodeRaid => self.set_target_raid(call).await,
            Endpoint::NodeBootMode => self.set_boot_mode(call).await,
            Endpoint::NodeSecureBoot => self.set_secure_boot(call).await,
            Endpoint::NodeConsoleShow => self.show_console(call).await,
            Endpoint::NodeConsoleSet => self.set_console(call).await,
            Endpoint::NodeVendorMethods => self.list_node_vendor_methods(call).await,
            Endpoint::NodeVendorPassthru => self.node_vendor_passthru(call).await,
            Endpoint::DriverVendorMethods => self.list_driver_vendor_methods(call),
            Endpoint::DriverVendorPassthru => self.driver_vendor_passthru(call),
            Endpoint::DriverRaid => self.show_raid_properties(call),
            Endpoint::Record(deed, kind) => self.record(call, deed, kind).await,
            Endpoint::ChassisNodes => self.list_chassis_nodes(call).await,
            Endpoint::PortgroupPorts => self.list_portgroup_ports(call).await,
            Endpoint::RunbookTraits => self.show_runbook_traits(call).await,
            Endpoint::RunbookTraitsReplace => self.replace_runbook_traits(call).await,
            Endpoint::RunbookTraitsClear => self.clear_runbook_traits(call).await,
            Endpoint::RunbookTraitAdd => self.add_runbook_trait(call).await,
            Endpoint::RunbookTraitRemove => self.remove_runbook_trait(call).await,
            Endpoint::Volume => self.show_volume(call, false).await,
            Endpoint::ShardList => self.list_shards(call).await,
            Endpoint::EventCreate => self.take_events(call),
            Endpoint::EventStream => self.stream_events(call).await,
            Endpoint::PortCreate => self.create_port(call).await,
            Endpoint::PortList => self.list_ports(call, false).await,
            Endpoint::PortListDetail => self.list_ports(call, true).await,
            Endpoint::PortShow => self.show_port(call).await,
            Endpoint::PortPatch => self.patch_port(call).await,
            Endpoint::PortDelete => self.delete_port(call).await,
            Endpoint::DriverList => self.list_drivers(call),
            Endpoint::DriverShow => self.show_driver(call),
            Endpoint::DriverProperties => self.show_driver_properties(call),
            Endpoint::ConductorList => self.list_conductors(call),
            Endpoint::ConductorShow => self.show_conductor(call),
            Endpoint::Lookup => self.lookup(call).await,
            Endpoint::Heartbeat => self.heartbeat(call).await,
            Endpoint::ContinueInspection => self.continue_inspection(call).await,
            Endpoint::BootFile => self.boot_file(call).await,
            Endpoint::Metrics => self.metrics(call).await,
            Endpoint::Health => Ok(health::healthy()),
            Endpoint::Ready => Ok(self.ready().await),
        }
    }

    fn context<'a>(&'a self, call: &'a Call) -> Context<'a> {
        Context { version: call.version, base: &call.base, hostname: self.conductor.hostname() }
    }

    /// The node that the path names.
    async fn node(&self, call: &Call) -> Result<Node, Fault> {
        self.find_node(&call.node()?).await
    }

    async fn find_node(&self, ident: &NodeIdent) -> Result<Node, Fault> {
        self.conductor.find(ident).await
    }

    /// A node that is not there is the fault of the body that names it: 400, as Ironic has it.
    async fn need_node(&self, node: Uuid) -> Result<(), Fault> {
        match self.conductor.store().node(node).await {
            Ok(_) => Ok(()),
            Err(store::StoreError::NotFound { .. }) => Err(Fault::Invalid(format!("Node {node} could not be found."))),
            Err(error) => Err(error.into()),
        }
    }

    /// The document of a node, with what its running step reports.
    fn node_document<'a>(&self, context: Context<'a>, node: &'a Node, fields: &'a [&'static str]) -> NodeDocument<'a> {
        let progress = self.conductor.running(node.uuid).map(|running| running.document());
        NodeDocument { context, node, fields, progress }
    }
}

/// Reads a body up to the limit of its route. A route without one takes an empty body only, or ignores a short one.
async fn read_body(body: Body, route: &Route) -> Result<bytes::Bytes, Fault> {
    /// What clients send with a `GET` or `DELETE` without meaning anything by it.
    const IGNORED: usize = 1024;
    let limit = route.body.max(IGNORED);
    transport::body::read(body, limit).await.map_err(|error| match error {
        BodyError::TooLarge { limit } => {
            Fault::TooLarge(format!("The request body is larger than the {limit} bytes that {} takes.", route.path))
        }
        BodyError::Broken(why) => Fault::Invalid(format!("The request body could not be read: {why}")),
    })
}
