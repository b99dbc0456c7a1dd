//! Every resource, on nodes of `fake-hardware` with the fakes that the recorder's Ironic had enabled.
//!
//! What may differ is in [`KEPT`], each with its reason. Error texts are compared in a snapshot of their own.

use crate::redfish::must;
use crate::replay::{Differences, recorded, router};
use driver::conductor::Settings;
use driver::hardware_type::{Enabled, Interface};
use serde_json::json;

/// Where the answers may differ: the beginning of `file: exchange: place`, and why. `*` stands for any exchange.
const KEPT: &[(&str, &str)] = &[
    ("root: *: .description", "we are not OpenStack's"),
    ("root: *: .links[1].href", "the reference writes double slashes"),
    ("drivers: its properties: .B", "two properties that the reference's fake vendor interface makes up"),
    ("drivers: its properties: .fast_track", "what a node of ours may say"),
    ("conductors: *: .conductors[0].updated_at", "there is no heartbeat of conductors: alive is what answers"),
    ("conductors: *: .updated_at", "there is no heartbeat of conductors: alive is what answers"),
    ("nodes: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("nodes: validate: ", "interfaces without a fake are not supported; vendor is listed as well"),
    ("nodes: patch: .reservation", "the reference shows its own lock of the request in the answer"),
    ("nodes: supported boot devices: ", "those that any machine of ours has"),
    ("nodes: history: .history", "we record maintenance"),
    ("errors: not JSON: status", "400 where the reference breaks with 500"),
    ("errors: not JSON: .faultcode", "400 where the reference breaks with 500"),
    ("chassis: create: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: show: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: patch: .nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: in detail: .chassis[0].nodes", "the reference wraps the links in a list of their own by mistake"),
    ("chassis: put a node in it: ", "no fakes by default; the reference shows its own lock of the request"),
    ("chassis: take the node out: ", "no fakes by default; the reference shows its own lock of the request"),
    ("chassis: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("portgroups: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("volume_connectors: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("volume_targets: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("deploy_templates: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("runbooks: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("inspection_rules: *: .next", "a link to the next page repeats what was asked, not the defaults"),
    ("inspection_rules: *: .links", "the reference links to /v1/inspection, which is not there"),
    ("inspection_rules: *: .inspection_rules[0].links", "the reference links to /v1/inspection, which is not there"),
    ("inspection_rules: patch: the identifier: status", "400 as for other resources"),
    ("inspection_rules: create with an identifier that is none: ", "the reference takes any text for an identifier"),
    ("inspection_rules: an argument", "400 where the reference breaks with 500"),
    ("devices: indicators before there were any: ", "hidden before 1.63 as documented; the reference serves it"),
    ("passthru: POST a method of a driver by the query: ", "refused as by the path; the reference breaks with 500"),
    ("provision: a key newer than the version: status", "406 whatever the state, as for other keys"),
];

/// Which files, and how many exchanges of each: what follows needs a machine.
const REPLAYED: &[(&str, usize)] = &[
    ("root", usize::MAX),
    ("versions", usize::MAX),
    ("conductors", usize::MAX),
    ("drivers", usize::MAX),
    ("nodes", usize::MAX),
    ("ports", usize::MAX),
    ("errors", usize::MAX),
    ("chassis", usize::MAX),
    ("portgroups", usize::MAX),
    ("volume_connectors", usize::MAX),
    ("volume_targets", usize::MAX),
    ("deploy_templates", usize::MAX),
    ("runbooks", usize::MAX),
    ("inspection_rules", usize::MAX),
    ("allocations", usize::MAX),
    ("devices", usize::MAX),
    ("lookup", 8),
    ("heartbeat", 16),
    ("provision", 22),
    ("deletion", usize::MAX),
    ("passthru", usize::MAX),
];

/// What the recorder's Ironic has enabled.
const ENABLED: [(Interface, &str); 13] = [
    (Interface::Bios, "fake,no-bios"),
    (Interface::Boot, "fake"),
    (Interface::Console, "fake,no-console"),
    (Interface::Deploy, "direct,fake"),
    (Interface::Firmware, "fake,no-firmware"),
    (Interface::Inspect, "agent,fake,no-inspect"),
    (Interface::Management, "fake"),
    (Interface::Network, "noop"),
    (Interface::Power, "fake"),
    (Interface::Raid, "fake,no-raid"),
    (Interface::Rescue, "fake,no-rescue"),
    (Interface::Storage, "noop"),
    (Interface::Vendor, "fake,no-vendor"),
];

/// Enables what the recorder's Ironic has.
pub(crate) fn enable(settings: &mut Settings) {
    settings.hardware =
        Enabled::read(Some("fake-hardware"), ENABLED.map(|(kind, list)| (kind, Some(list), None))).unwrap();
}

#[tokio::test]
async fn what_ironic_was_recorded_to_answer_is_answered() {
    let data = tempfile::tempdir().unwrap();
    let router = router(data.path(), enable).await;
    let mut differences = Differences::new(KEPT);
    for (file, count) in REPLAYED {
        if *file == "passthru" {
            let node = json!({"uuid": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", "driver": "fake-hardware"});
            must(&router, "POST", "/v1/nodes", node).await;
        }
        for exchange in recorded(file)["exchanges"].as_array().unwrap().iter().take(*count) {
            differences.ask(&router, file, exchange).await;
        }
    }
    differences.check();
    insta::assert_snapshot!("texts_that_differ", differences.texts);
}
