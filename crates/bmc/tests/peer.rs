//! The client against a real third-party BMC, when one is named: sushy-emulator with its fake driver.
//!
//! `FERRIC_REDFISH=http://127.0.0.1:8006 cargo nextest run -p bmc --run-ignored only` after
//! `sushy-emulator --config FILE`, where FILE says `SUSHY_EMULATOR_FAKE_DRIVER = True` and lists a system that is off
//! in `SUSHY_EMULATOR_FAKE_SYSTEMS`. The emulator fetches what is inserted from a server of the test.

#![allow(clippy::unwrap_used, reason = "all of this file is test code, its helpers too")]

use bmc::{BootMode, BootRequest, BootTarget, Limits, Redfish, Settings};
use hardware::PowerState;
use serde_json::json;

async fn media_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ferric.iso", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(|| async { vec![0_u8; 4096] });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

#[tokio::test]
#[ignore = "needs sushy-emulator at FERRIC_REDFISH"]
async fn sushy_emulator_is_driven_through_a_whole_cycle() {
    let address = std::env::var("FERRIC_REDFISH").expect("FERRIC_REDFISH names the emulator");
    let info = json!({ "redfish_address": address, "redfish_username": "admin", "redfish_password": "password" });
    let settings = Settings::from_driver_info(info.as_object().unwrap()).unwrap();
    let client = Redfish::new(settings, Limits::default()).await.unwrap();
    client.check().await.unwrap();
    let identity = client.identity().await.unwrap();
    assert_eq!(identity.uuid.as_deref().map(str::len), Some(36));

    let url = media_server().await;
    client.insert_cd(&url).await.unwrap();
    client.insert_cd(&url).await.unwrap();
    let request = BootRequest { target: BootTarget::Cd, once: true, mode: Some(BootMode::Uefi) };
    assert_eq!(client.set_boot(request).await.unwrap().target, "Cd");
    client.turn(PowerState::On).await.unwrap();
    client.restart().await.unwrap();
    client.turn(PowerState::Off).await.unwrap();
    client.eject_cd().await.unwrap();
    client.eject_cd().await.unwrap();
    let request = BootRequest { target: BootTarget::Hdd, once: false, mode: None };
    assert_eq!(client.set_boot(request).await.unwrap().target, "Hdd");
    client.close().await;
}
