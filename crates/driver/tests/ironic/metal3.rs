//! Metal3's operator: what it asks for a host from its registration to its end, at its version 1.89.

use crate::fake_hardware::enable;
use crate::replay::{Differences, recorded, router};

/// Where the answers may differ, and why.
const KEPT: &[(&str, &str)] = &[
    ("metal3: which versions there are: .links[1].href", "the reference writes double slashes"),
    ("metal3: validate: .vendor", "vendor is listed as well"),
    ("metal3: validate before the deployment: .vendor", "vendor is listed as well"),
    ("metal3: *: .power_state", "a fake machine is off until it is switched on; the reference's has no power state"),
    ("metal3: *: .reservation", "the reference shows its own lock of the request in the answer"),
    ("metal3: *: .inspection_started_at", "when the last inspection began is kept"),
    ("metal3: wait: active: .instance_info.image_type", "the reference notes what it takes the image for"),
    (
        "metal3: virtual media, which came later: ",
        "hidden as every route that came later; the reference has a 404 of its own",
    ),
];

#[tokio::test]
async fn a_host_of_metal3_goes_from_its_registration_to_its_end() {
    let data = tempfile::tempdir().unwrap();
    let router = router(data.path(), enable).await;
    let mut differences = Differences::new(KEPT);
    for exchange in recorded("metal3")["exchanges"].as_array().unwrap() {
        differences.ask(&router, "metal3", exchange).await;
    }
    differences.check();
    insta::assert_snapshot!("texts_that_differ", differences.texts);
}
