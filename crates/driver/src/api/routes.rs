//! The table of routes: method, path, the version that brought it, who may ask it, how large a body it takes.

use super::resource::Deed::{self, Create, Delete, List, ListDetail, Patch, Show};
use super::versions::{
    ALLOCATION_PATCH, ALLOCATIONS, CONTINUE_INSPECTION, DEPLOY_TEMPLATES, INSPECTION_RULES, PORTGROUP_MEMBERS,
    PORTGROUPS, RAMDISK, RUNBOOK_TRAITS, RUNBOOKS, SHARDS, VOLUMES, has,
};
use crate::fault::Fault;
use http::Method;
use store::RecordKind::{
    self, Allocation, Chassis, DeployTemplate, InspectionRule, Portgroup, Runbook, VolumeConnector, VolumeTarget,
};
use wire::ironic::Version;

/// What a route does; one arm each in [`super::Api::call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Root,
    V1,
    NodeCreate,
    NodeList,
    NodeListDetail,
    NodeShow,
    NodePatch,
    NodeDelete,
    NodeValidate,
    NodeStates,
    NodeProvision,
    NodePower,
    NodeMaintenanceOn,
    NodeMaintenanceOff,
    NodeBootDeviceShow,
    NodeBootDeviceSet,
    NodeBootDevices,
    NodeInventory,
    NodeWhy,
    NodeErasures,
    NodeErasureShow,
    ErasureKey,
    NodeProgress,
    NodeLogs,
    NodeHistoryList,
    NodeHistoryShow,
    NodeTraits,
    NodeTraitsReplace,
    NodeTraitsClear,
    NodeTraitAdd,
    NodeTraitRemove,
    NodePorts,
    NodePortsDetail,
    NodeRecords(RecordKind),
    NodeRecordsDetail(RecordKind),
    NodeVolume,
    NodeAllocation,
    NodeAllocationDelete,
    NodeChildren,
    NodeVifs,
    NodeVifAttach,
    NodeVifDetach,
    NodeVmedia,
    NodeVmediaAttach,
    NodeVmediaDetach,
    NodeBios,
    NodeBiosSetting,
    NodeFirmware,
    NodeIndicators,
    NodeIndicatorShow,
    NodeIndicatorSet,
    NodeInjectNmi,
    NodeRaid,
    NodeBootMode,
    NodeSecureBoot,
    NodeConsoleShow,
    NodeConsoleSet,
    NodeVendorMethods,
    NodeVendorPassthru,
    DriverVendorMethods,
    DriverVendorPassthru,
    DriverRaid,
    Record(Deed, RecordKind),
    ChassisNodes,
    PortgroupPorts,
    RunbookTraits,
    RunbookTraitsReplace,
    RunbookTraitsClear,
    RunbookTraitAdd,
    RunbookTraitRemove,
    Volume,
    ShardList,
    EventCreate,
    EventStream,
    PortCreate,
    PortList,
    PortListDetail,
    PortShow,
    PortPatch,
    PortDelete,
    DriverList,
    DriverShow,
    DriverProperties,
    ConductorList,
    ConductorShow,
    Lookup,
    Heartbeat,
    ContinueInspection,
    BootFile,
    Metrics,
    Health,
    Ready,
}

/// Who a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Operators and, since they have no listener of their own, agents: every route.
    Everybody,
    /// Agents alone: what a ramdisk needs; everything else is not there.
    Agents,
}

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments; `{}` takes any one segment.
    pub(super) path: &'static str,
    /// The version that brought it.
    pub(super) since: u16,
    /// Largest body, in bytes.
    pub(super) body: usize,
    pub(super) agents: bool,
    pub(super) endpoint: Endpoint,
}

/// Bodies that carry a few words.
const SMALL: usize = 64 * 1024;
/// Nodes with their open-ended objects.
const NODE: usize = 4 * 1024 * 1024;
/// Config drives (base64 of a gzipped image) and inspection data with logs.
const LARGE: usize = 32 * 1024 * 1024;

const fn route(method: Method, path: &'static str, since: u16, body: usize, endpoint: Endpoint) -> Route {
    Route { method, path, since, body, agents: false, endpoint }
}

const fn agents(method: Method, path: &'static str, since: u16, body: usize, endpoint: Endpoint) -> Route {
    Route { method, path, since, body, agents: true, endpoint }
}

const fn record(method: Method, path: &'static str, since: u16, body: usize, deed: Deed, kind: RecordKind) -> Route {
    route(method, path, since, body, Endpoint::Record(deed, kind))
}

/// All routes. The first whose path matches counts, so literal segments stand before `{}`.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    agents(Method::GET,    "/",                                            1,  0,     Endpoint::Root),
    agents(Method::GET,    "/v1",                                          1,  0,     Endpoint::V1),
    agents(Method::GET,    "/v1/lookup",                                   RAMDISK, 0, Endpoint::Lookup),
    agents(Method::POST,   "/v1/heartbeat/{}",                             RAMDISK, SMALL, Endpoint::Heartbeat),
    agents(Method::POST,   "/v1/heartbeat",                                RAMDISK, SMALL, Endpoint::Heartbeat),
    agents(Method::POST,   "/v1/continue_inspection",                      1,  LARGE, Endpoint::ContinueInspection),
    agents(Method::GET,    "/boot/{}/{}",                                  1,  0,     Endpoint::BootFile),
    agents(Method::GET,    "/healthz",                                     1,  0,     Endpoint::Health),
    agents(Method::GET,    "/readyz",                                      1,  0,     Endpoint::Ready),
    route(Method::GET,     "/metrics",                                     1,  0,     Endpoint::Metrics),
    route(Method::POST,    "/v1/nodes",                                    1,  NODE,  Endpoint::NodeCreate),
    route(Method::GET,     "/v1/nodes",                                    1,  0,     Endpoint::NodeList),
    route(Method::GET,     "/v1/nodes/detail",                             1,  0,     Endpoint::NodeListDetail),
    route(Method::GET,     "/v1/nodes/{}",                                 1,  0,     Endpoint::NodeShow),
    route(Method::PATCH,   "/v1/nodes/{}",                                 1,  LARGE, Endpoint::NodePatch),
    route(Method::DELETE,  "/v1/nodes/{}",                                 1,  0,     Endpoint::NodeDelete),
    route(Method::GET,     "/v1/nodes/{}/validate",                        1,  0,     Endpoint::NodeValidate),
    route(Method::GET,     "/v1/nodes/{}/states",                          1,  0,     Endpoint::NodeStates),
    route(Method::PUT,     "/v1/nodes/{}/states/provision",                1,  LARGE, Endpoint::NodeProvision),
    route(Method::PUT,     "/v1/nodes/{}/states/power",                    1,  SMALL, Endpoint::NodePower),
    route(Method::PUT,     "/v1/nodes/{}/maintenance",                     1,  SMALL, Endpoint::NodeMaintenanceOn),
    route(Method::DELETE,  "/v1/nodes/{}/maintenance",                     1,  0,     Endpoint::NodeMaintenanceOff),
    route(Method::GET,     "/v1/nodes/{}/management/boot_device",          1,  0,     Endpoint::NodeBootDeviceShow),
    route(Method::PUT,     "/v1/nodes/{}/management/boot_device",          1,  SMALL, Endpoint::NodeBootDeviceSet),
    route(Method::GET,     "/v1/nodes/{}/management/boot_device/supported", 1, 0,     Endpoint::NodeBootDevices),
    route(Method::GET,     "/v1/nodes/{}/why",                             1,  0,     Endpoint::NodeWhy),
    route(Method::GET,     "/v1/nodes/{}/progress",                        1,  0,     Endpoint::NodeProgress),
    route(Method::GET,     "/v1/nodes/{}/logs",                            1,  0,     Endpoint::NodeLogs),
    route(Method::GET,     "/v1/nodes/{}/erasures",                        1,  0,     Endpoint::NodeErasures),
    route(Method::GET,     "/v1/nodes/{}/erasures/{}",                     1,  0,     Endpoint::NodeErasureShow),
    route(Method::GET,     "/v1/erasures/key",                             1,  0,     Endpoint::ErasureKey),
    route(Method::GET,     "/v1/nodes/{}/inventory",                       81, 0,     Endpoint::NodeInventory),
    route(Method::GET,     "/v1/nodes/{}/history",                         78, 0,     Endpoint::NodeHistoryList),
    route(Method::GET,     "/v1/nodes/{}/history/{}",                      78, 0,     Endpoint::NodeHistoryShow),
    route(Method::GET,     "/v1/nodes/{}/traits",                          37, 0,     Endpoint::NodeTraits),
    route(Method::PUT,     "/v1/nodes/{}/traits",                          37, SMALL, Endpoint::NodeTraitsReplace),
    route(Method::DELETE,  "/v1/nodes/{}/traits",                          37, 0,     Endpoint::NodeTraitsClear),
    route(Method::PUT,     "/v1/nodes/{}/traits/{}",                       37, SMALL, Endpoint::NodeTraitAdd),
    route(Method::DELETE,  "/v1/nodes/{}/traits/{}",                       37, 0,     Endpoint::NodeTraitRemove),
    route(Method::GET,     "/v1/nodes/{}/ports",                           1,  0,     Endpoint::NodePorts),
    route(Method::GET,     "/v1/nodes/{}/ports/detail",                    1,  0,     Endpoint::NodePortsDetail),
    route(Method::GET,     "/v1/nodes/{}/portgroups",                      PORTGROUP_MEMBERS, 0, Endpoint::NodeRecords(Portgroup)),
    route(Method::GET,     "/v1/nodes/{}/portgroups/detail",               PORTGROUP_MEMBERS, 0, Endpoint::NodeRecordsDetail(Portgroup)),
    route(Method::GET,     "/v1/nodes/{}/volume",                          VOLUMES, 0, Endpoint::NodeVolume),
    route(Method::GET,     "/v1/nodes/{}/volume/connectors",               VOLUMES, 0, Endpoint::NodeRecords(VolumeConnector)),
    route(Method::GET,     "/v1/nodes/{}/volume/targets",                  VOLUMES, 0, Endpoint::NodeRecords(VolumeTarget)),
    route(Method::GET,     "/v1/nodes/{}/allocation",                      ALLOCATIONS, 0, Endpoint::NodeAllocation),
    route(Method::DELETE,  "/v1/nodes/{}/allocation",                      ALLOCATIONS, 0, Endpoint::NodeAllocationDelete),
    route(Method::GET,     "/v1/nodes/{}/children",                        83, 0,     Endpoint::NodeChildren),
    route(Method::GET,     "/v1/nodes/{}/vifs",                            28, 0,     Endpoint::NodeVifs),
    route(Method::POST,    "/v1/nodes/{}/vifs",                            28, SMALL, Endpoint::NodeVifAttach),
    route(Method::DELETE,  "/v1/nodes/{}/vifs/{}",                         28, 0,     Endpoint::NodeVifDetach),
    route(Method::GET,     "/v1/nodes/{}/vmedia",                          93, 0,     Endpoint::NodeVmedia),
    route(Method::POST,    "/v1/nodes/{}/vmedia",                          89, SMALL, Endpoint::NodeVmediaAttach),
    route(Method::DELETE,  "/v1/nodes/{}/vmedia",                          89, 0,     Endpoint::NodeVmediaDetach),
    route(Method::DELETE,  "/v1/nodes/{}/vmedia/{}",                       89, 0,     Endpoint::NodeVmediaDetach),
    route(Method::GET,     "/v1/nodes/{}/bios",                            40, 0,     Endpoint::NodeBios),
    route(Method::GET,     "/v1/nodes/{}/bios/{}",                         40, 0,     Endpoint::NodeBiosSetting),
    route(Method::GET,     "/v1/nodes/{}/firmware",                        86, 0,     Endpoint::NodeFirmware),
    route(Method::GET,     "/v1/nodes/{}/management/indicators",           63, 0,     Endpoint::NodeIndicators),
    route(Method::GET,     "/v1/nodes/{}/management/indicators/{}",        63, 0,     Endpoint::NodeIndicatorShow),
    route(Method::PUT,     "/v1/nodes/{}/management/indicators/{}",        63, SMALL, Endpoint::NodeIndicatorSet),
    route(Method::PUT,     "/v1/nodes/{}/management/inject_nmi",           29, SMALL, Endpoint::NodeInjectNmi),
    route(Method::PUT,     "/v1/nodes/{}/states/raid",                     12, NODE,  Endpoint::NodeRaid),
    route(Method::PUT,     "/v1/nodes/{}/states/boot_mode",                76, SMALL, Endpoint::NodeBootMode),
    route(Method::PUT,     "/v1/nodes/{}/states/secure_boot",              76, SMALL, Endpoint::NodeSecureBoot),
    route(Method::GET,     "/v1/nodes/{}/states/console",                  1,  0,     Endpoint::NodeConsoleShow),
    // Its older spelling, which clients still use.
    route(Method::GET,     "/v1/nodes/states/console/{}",                  1,  0,     Endpoint::NodeConsoleShow),
    route(Method::PUT,     "/v1/nodes/{}/states/console",                  1,  SMALL, Endpoint::NodeConsoleSet),
    route(Method::GET,     "/v1/nodes/{}/vendor_passthru/methods",         1,  0,     Endpoint::NodeVendorMethods),
    route(Method::GET,     "/v1/nodes/{}/vendor_passthru/{}",              1,  0,     Endpoint::NodeVendorPassthru),
    route(Method::POST,    "/v1/nodes/{}/vendor_passthru/{}",              1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::PUT,     "/v1/nodes/{}/vendor_passthru/{}",              1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::PATCH,   "/v1/nodes/{}/vendor_passthru/{}",              1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::DELETE,  "/v1/nodes/{}/vendor_passthru/{}",              1,  0,     Endpoint::NodeVendorPassthru),
    route(Method::GET,     "/v1/nodes/{}/vendor_passthru",                1,  0,     Endpoint::NodeVendorPassthru),
    route(Method::POST,    "/v1/nodes/{}/vendor_passthru",                1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::PUT,     "/v1/nodes/{}/vendor_passthru",                1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::PATCH,   "/v1/nodes/{}/vendor_passthru",                1,  NODE,  Endpoint::NodeVendorPassthru),
    route(Method::DELETE,  "/v1/nodes/{}/vendor_passthru",                1,  0,     Endpoint::NodeVendorPassthru),
    record(Method::POST,   "/v1/chassis",                                  1,  NODE,  Create, Chassis),
    record(Method::GET,    "/v1/chassis",                                  1,  0,     List, Chassis),
    record(Method::GET,    "/v1/chassis/detail",                           1,  0,     ListDetail, Chassis),
    record(Method::GET,    "/v1/chassis/{}",                               1,  0,     Show, Chassis),
    record(Method::PATCH,  "/v1/chassis/{}",                               1,  NODE,  Patch, Chassis),
    record(Method::DELETE, "/v1/chassis/{}",                               1,  0,     Delete, Chassis),
    route(Method::GET,     "/v1/chassis/{}/nodes",                         1,  0,     Endpoint::ChassisNodes),
    record(Method::POST,   "/v1/portgroups",                               PORTGROUPS, NODE, Create, Portgroup),
    record(Method::GET,    "/v1/portgroups",                               PORTGROUPS, 0, List, Portgroup),
    record(Method::GET,    "/v1/portgroups/detail",                        PORTGROUPS, 0, ListDetail, Portgroup),
    record(Method::GET,    "/v1/portgroups/{}",                            PORTGROUPS, 0, Show, Portgroup),
    record(Method::PATCH,  "/v1/portgroups/{}",                            PORTGROUPS, NODE, Patch, Portgroup),
    record(Method::DELETE, "/v1/portgroups/{}",                            PORTGROUPS, 0, Delete, Portgroup),
    route(Method::GET,     "/v1/portgroups/{}/ports",                      PORTGROUP_MEMBERS, 0,     Endpoint::PortgroupPorts),
    record(Method::POST,   "/v1/allocations",                              ALLOCATIONS, NODE, Create, Allocation),
    record(Method::GET,    "/v1/allocations",                              ALLOCATIONS, 0, List, Allocation),
    record(Method::GET,    "/v1/allocations/{}",                           ALLOCATIONS, 0, Show, Allocation),
    record(Method::PATCH,  "/v1/allocations/{}",                           ALLOCATION_PATCH, NODE, Patch, Allocation),
    record(Method::DELETE, "/v1/allocations/{}",                           ALLOCATIONS, 0, Delete, Allocation),
    record(Method::POST,   "/v1/deploy_templates",                         DEPLOY_TEMPLATES, NODE, Create, DeployTemplate),
    record(Method::GET,    "/v1/deploy_templates",                         DEPLOY_TEMPLATES, 0, List, DeployTemplate),
    record(Method::GET,    "/v1/deploy_templates/{}",                      DEPLOY_TEMPLATES, 0, Show, DeployTemplate),
    record(Method::PATCH,  "/v1/deploy_templates/{}",                      DEPLOY_TEMPLATES, NODE, Patch, DeployTemplate),
    record(Method::DELETE, "/v1/deploy_templates/{}",                      DEPLOY_TEMPLATES, 0, Delete, DeployTemplate),
    record(Method::POST,   "/v1/runbooks",                                 RUNBOOKS, NODE, Create, Runbook),
    record(Method::GET,    "/v1/runbooks",                                 RUNBOOKS, 0, List, Runbook),
    record(Method::GET,    "/v1/runbooks/{}",                              RUNBOOKS, 0, Show, Runbook),
    record(Method::PATCH,  "/v1/runbooks/{}",                              RUNBOOKS, NODE, Patch, Runbook),
    record(Method::DELETE, "/v1/runbooks/{}",                              RUNBOOKS, 0, Delete, Runbook),
    route(Method::GET,     "/v1/runbooks/{}/traits",                       RUNBOOK_TRAITS, 0, Endpoint::RunbookTraits),
    route(Method::PUT,     "/v1/runbooks/{}/traits",                       RUNBOOK_TRAITS, SMALL, Endpoint::RunbookTraitsReplace),
    route(Method::DELETE,  "/v1/runbooks/{}/traits",                       RUNBOOK_TRAITS, 0, Endpoint::RunbookTraitsClear),
    route(Method::PUT,     "/v1/runbooks/{}/traits/{}",                    RUNBOOK_TRAITS, SMALL, Endpoint::RunbookTraitAdd),
    route(Method::DELETE,  "/v1/runbooks/{}/traits/{}",                    RUNBOOK_TRAITS, 0, Endpoint::RunbookTraitRemove),
    record(Method::POST,   "/v1/inspection_rules",                         INSPECTION_RULES, NODE, Create, InspectionRule),
    record(Method::GET,    "/v1/inspection_rules",                         INSPECTION_RULES, 0, List, InspectionRule),
    record(Method::GET,    "/v1/inspection_rules/{}",                      INSPECTION_RULES, 0, Show, InspectionRule),
    record(Method::PATCH,  "/v1/inspection_rules/{}",                      INSPECTION_RULES, NODE, Patch, InspectionRule),
    record(Method::DELETE, "/v1/inspection_rules/{}",                      INSPECTION_RULES, 0, Delete, InspectionRule),
    route(Method::GET,     "/v1/volume",                                   VOLUMES, 0, Endpoint::Volume),
    record(Method::POST,   "/v1/volume/connectors",                        VOLUMES, NODE, Create, VolumeConnector),
    record(Method::GET,    "/v1/volume/connectors",                        VOLUMES, 0, List, VolumeConnector),
    record(Method::GET,    "/v1/volume/connectors/{}",                     VOLUMES, 0, Show, VolumeConnector),
    record(Method::PATCH,  "/v1/volume/connectors/{}",                     VOLUMES, NODE, Patch, VolumeConnector),
    record(Method::DELETE, "/v1/volume/connectors/{}",                     VOLUMES, 0, Delete, VolumeConnector),
    record(Method::POST,   "/v1/volume/targets",                           VOLUMES, NODE, Create, VolumeTarget),
    record(Method::GET,    "/v1/volume/targets",                           VOLUMES, 0, List, VolumeTarget),
    record(Method::GET,    "/v1/volume/targets/{}",                        VOLUMES, 0, Show, VolumeTarget),
    record(Method::PATCH,  "/v1/volume/targets/{}",                        VOLUMES, NODE, Patch, VolumeTarget),
    record(Method::DELETE, "/v1/volume/targets/{}",                        VOLUMES, 0, Delete, VolumeTarget),
    route(Method::GET,     "/v1/shards",                                   SHARDS, 0, Endpoint::ShardList),
    route(Method::GET,     "/v1/events",                                   1,  0,     Endpoint::EventStream),
    route(Method::POST,    "/v1/events",                                   54, NODE,  Endpoint::EventCreate),
    route(Method::POST,    "/v1/ports",                                    1,  NODE,  Endpoint::PortCreate),
    route(Method::GET,     "/v1/ports",                                    1,  0,     Endpoint::PortList),
    route(Method::GET,     "/v1/ports/detail",                             1,  0,     Endpoint::PortListDetail),
    route(Method::GET,     "/v1/ports/{}",                                 1,  0,     Endpoint::PortShow),
    route(Method::PATCH,   "/v1/ports/{}",                                 1,  NODE,  Endpoint::PortPatch),
    route(Method::DELETE,  "/v1/ports/{}",                                 1,  0,     Endpoint::PortDelete),
    route(Method::GET,     "/v1/drivers",                                  1,  0,     Endpoint::DriverList),
    route(Method::GET,     "/v1/drivers/{}",                               1,  0,     Endpoint::DriverShow),
    route(Method::GET,     "/v1/drivers/{}/properties",                    1,  0,     Endpoint::DriverProperties),
    route(Method::GET,     "/v1/drivers/{}/raid/logical_disk_properties",  12, 0,     Endpoint::DriverRaid),
    route(Method::GET,     "/v1/drivers/{}/vendor_passthru/methods",       1,  0,     Endpoint::DriverVendorMethods),
    route(Method::GET,     "/v1/drivers/{}/vendor_passthru/{}",            1,  0,     Endpoint::DriverVendorPassthru),
    route(Method::POST,    "/v1/drivers/{}/vendor_passthru/{}",            1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::PUT,     "/v1/drivers/{}/vendor_passthru/{}",            1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::PATCH,   "/v1/drivers/{}/vendor_passthru/{}",            1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::DELETE,  "/v1/drivers/{}/vendor_passthru/{}",            1,  0,     Endpoint::DriverVendorPassthru),
    route(Method::GET,     "/v1/drivers/{}/vendor_passthru",              1,  0,     Endpoint::DriverVendorPassthru),
    route(Method::POST,    "/v1/drivers/{}/vendor_passthru",              1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::PUT,     "/v1/drivers/{}/vendor_passthru",              1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::PATCH,   "/v1/drivers/{}/vendor_passthru",              1,  NODE,  Endpoint::DriverVendorPassthru),
    route(Method::DELETE,  "/v1/drivers/{}/vendor_passthru",              1,  0,     Endpoint::DriverVendorPassthru),
    route(Method::GET,     "/v1/conductors",                               49, 0,     Endpoint::ConductorList),
    route(Method::GET,     "/v1/conductors/{}",                            49, 0,     Endpoint::ConductorShow),
];

/// The links of the `v1` document and the version each came with. Only resources that are served.
pub(super) const RESOURCES: &[(&str, u16)] = &[
    ("chassis", 1),
    ("nodes", 1),
    ("ports", 1),
    ("drivers", 1),
    ("portgroups", PORTGROUPS),
    ("volume", VOLUMES),
    ("conductors", 49),
    ("allocations", ALLOCATIONS),
    ("events", 54),
    ("deploy_templates", DEPLOY_TEMPLATES),
    ("shards", SHARDS),
    ("runbooks", RUNBOOKS),
    ("inspection_rules", INSPECTION_RULES),
    ("lookup", RAMDISK),
    ("heartbeat", RAMDISK),
    ("continue_inspection", CONTINUE_INSPECTION),
];

/// Routes that are not there for an older version even for the router. So it is in Ironic, and clients tell the answers
/// apart.
const UNSEEN: &[&str] =
    &["/v1/volume", "/v1/nodes/{}/volume", "/v1/nodes/{}/vifs", "/v1/nodes/{}/vmedia", "/v1/nodes/{}/firmware"];

/// Whether a path is none at all for a version that is older than it.
pub(super) fn is_unseen(path: &str) -> bool {
    UNSEEN.iter().any(|unseen| path.starts_with(unseen))
}

/// The segments of a path; a slash at the end does not count.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path).split('/')
}

/// What `{}` took, when the path is one of the pattern.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut taken = Vec::new();
    let mut path = segments(path);
    for expected in segments(pattern) {
        match (expected, path.next()?) {
            ("{}", "") => return None,
            ("{}", segment) => taken.push(segment),
            (literal, segment) if literal == segment => {}
            _ => return None,
        }
    }
    path.next().is_none().then_some(taken)
}

/// Finds the route of a request and what its `{}` took. `HEAD` is `GET` without the body. A path need not begin with the
/// version of the API: so the bookmarks of documents are written.
pub(super) fn find<'a>(
    audience: Audience,
    version: Version,
    method: &Method,
    path: &'a str,
) -> Result<(&'static Route, Vec<&'a str>), Fault> {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let versioned = segments(path).next() == Some("v1");
    let mut allowed = Vec::new();
    let mut pattern = None;
    let mut since = u16::MAX;
    for route in ROUTES.iter().filter(|route| audience == Audience::Everybody || route.agents) {
        // `nodes/detail` is no node called so: once a pattern has matched, only its own methods count.
        if pattern.is_some_and(|pattern| pattern != route.path) {
            continue;
        }
        let bare = route.path.strip_prefix("/v1").filter(|bare| !versioned && !bare.is_empty());
        let Some(taken) = matches(bare.unwrap_or(route.path), path) else { continue };
        if route.method == wanted {
            return Ok((route, taken));
        }
        pattern = Some(route.path);
        since = since.min(route.since);
        allowed.push(route.method.as_str());
    }
    match pattern {
        None => Err(Fault::NoRoute),
        Some(pattern) if !has(version, since) && is_unseen(pattern) => Err(Fault::NoRoute),
        Some(_) => Err(Fault::MethodNotAllowed { method: method.to_string(), allowed: allowed.join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(method: Method, path: &str) -> Result<Endpoint, Fault> {
        find(Audience::Everybody, Version::MAX, &method, path).map(|(route, _)| route.endpoint)
    }

    #[test]
    fn paths_match_segment_by_segment_with_and_without_a_slash_at_the_end() {
        assert_eq!(endpoint(Method::GET, "/"), Ok(Endpoint::Root));
        assert_eq!(endpoint(Method::GET, "/v1/"), Ok(Endpoint::V1));
        assert_eq!(endpoint(Method::HEAD, "/v1/nodes/"), Ok(Endpoint::NodeList));
        assert_eq!(endpoint(Method::GET, "/v1/nodes/detail"), Ok(Endpoint::NodeListDetail));
        assert_eq!(find(Audience::Everybody, Version::MAX, &Method::GET, "/v1/nodes/n1/states").unwrap().1, ["n1"]);
        for path in ["/v1//", "/v1/nodes//states", "/v1/nodes/x/y", "/v2", "/v1/nonsense", "/v1/nodes/a/b/c/d"] {
            assert_eq!(endpoint(Method::GET, path), Err(Fault::NoRoute), "{path}");
        }
    }

    #[test]
    fn a_path_without_the_version_of_the_api_is_one_with_it() {
        assert_eq!(endpoint(Method::GET, "/nodes"), Ok(Endpoint::NodeList));
        assert_eq!(endpoint(Method::GET, "/ports/detail"), Ok(Endpoint::PortListDetail));
        for route in ROUTES {
            let path = route.path.replace("{}", "x");
            let (found, _) = find(Audience::Everybody, Version::MAX, &route.method, &path).unwrap();
            let bare = path.strip_prefix("/v1/").map_or(path.clone(), |bare| format!("/{bare}"));
            assert_eq!(endpoint(route.method.clone(), &bare), Ok(found.endpoint), "{bare}");
        }
        assert_eq!(endpoint(Method::GET, "/v1/v1/nodes"), Err(Fault::NoRoute));
    }

    #[test]
    fn what_a_version_does_not_see_has_no_methods_either() {
        let media = |minor| find(Audience::Everybody, Version(minor), &Method::PUT, "/v1/nodes/n1/vmedia").map(|_| ());
        assert_eq!(media(88), Err(Fault::NoRoute));
        assert!(matches!(media(89), Err(Fault::MethodNotAllowed { .. })));
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let fault = endpoint(Method::POST, "/v1/nodes/n1").unwrap_err();
        let allowed = "GET, PATCH, DELETE".to_owned();
        assert_eq!(fault, Fault::MethodNotAllowed { method: "POST".to_owned(), allowed });
        let fault = endpoint(Method::DELETE, "/v1/nodes/detail").unwrap_err();
        assert_eq!(fault, Fault::MethodNotAllowed { method: "DELETE".to_owned(), allowed: "GET".to_owned() });
    }

    #[test]
    fn agents_find_what_a_ramdisk_needs_and_nothing_else() {
        for route in ROUTES {
            let path = route.path.replace("{}", "x");
            let found = find(Audience::Agents, Version::MAX, &route.method, &path);
            assert_eq!(found.is_ok(), route.agents, "{}", route.path);
            if !route.agents {
                assert_eq!(found.unwrap_err(), Fault::NoRoute, "{}", route.path);
            }
        }
        let open: Vec<&str> = ROUTES.iter().filter(|route| route.agents).map(|route| route.path).collect();
        assert_eq!(
            open,
            [
                "/",
                "/v1",
                "/v1/lookup",
                "/v1/heartbeat/{}",
                "/v1/heartbeat",
                "/v1/continue_inspection",
                "/boot/{}/{}",
                "/healthz",
                "/readyz"
            ]
        );
    }
}
