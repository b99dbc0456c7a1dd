//! The client against a BMC with the habits and faults of real ones.

#![allow(clippy::unwrap_used, reason = "all of this file is test code, its helpers too")]

mod fake;

use bmc::{AuthType, BootMode, BootRequest, BootTarget, Redfish, RedfishError, ReportedPower, Settings};
use fake::{Bmc, Fake, SYSTEM, limits};
use hardware::{BootControl, BootDevice, OutOfBandError, Power, PowerState, VirtualMedia};
use http::Method;
use serde_json::json;
use std::time::Duration;

const ISO: &str = "http://192.0.2.1/ferric.iso";

async fn with(bmc: Bmc) -> (Fake, Redfish) {
    let fake = Fake::start(bmc).await;
    let client = fake.client(json!({})).await;
    (fake, client)
}

/// An error as an operator sees it, without the port that changes.
fn shown(fake: &Fake, error: impl Into<OutOfBandError>) -> String {
    error.into().to_string().replace(&fake.address.to_string(), "BMC")
}

#[tokio::test]
async fn power_on_returns_when_it_is_on_and_not_when_the_bmc_says_so() {
    let (fake, client) = with(Bmc { power_takes: Duration::from_millis(80), ..Bmc::default() }).await;
    assert_eq!(client.power_state().await.unwrap(), PowerState::Off);
    client.set_power(PowerState::On).await.unwrap();
    assert_eq!(fake.state().power, "On");
    assert_eq!(client.power_state().await.unwrap(), PowerState::On);
    assert_eq!(fake.count("POST /redfish/v1/do/reset"), 1);
}

#[tokio::test]
async fn power_that_is_as_wanted_is_left_alone() {
    let (fake, client) = with(Bmc { power: "On", ..Bmc::default() }).await;
    client.turn(PowerState::On).await.unwrap();
    assert_eq!(fake.count("POST"), 0);
}

#[tokio::test]
async fn a_reset_that_the_bmc_lost_is_sent_again() {
    let (fake, client) = with(Bmc { lost_resets: 1, ..Bmc::default() }).await;
    client.turn(PowerState::On).await.unwrap();
    assert_eq!(fake.count("POST /redfish/v1/do/reset"), 2);
}

#[tokio::test]
async fn a_machine_on_its_way_is_waited_for() {
    let soon = std::time::Instant::now() + Duration::from_millis(50);
    let (fake, client) = with(Bmc { power: "PoweringOn", coming: Some((soon, "On")), ..Bmc::default() }).await;
    assert_eq!(client.power_state().await.unwrap(), PowerState::Off);
    client.turn(PowerState::On).await.unwrap();
    assert_eq!(fake.count("POST"), 0);
}

#[tokio::test]
async fn power_that_never_comes_is_an_error_that_says_what_was_seen() {
    let (fake, client) = with(Bmc { lost_resets: 100, ..Bmc::default() }).await;
    let error = client.turn(PowerState::On).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC, /redfish/v1/inventory/machines/node-7: power On not reached within 600ms, last seen: Off");
}

#[tokio::test]
async fn a_complaint_about_a_reset_counts_only_if_it_did_not_work() {
    let (_fake, client) = with(Bmc { complains_about_resets: true, ..Bmc::default() }).await;
    client.turn(PowerState::On).await.unwrap();
    let (fake, client) = with(Bmc { complains_about_resets: true, lost_resets: 9, ..Bmc::default() }).await;
    let error = client.turn(PowerState::On).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC answered POST /redfish/v1/do/reset with HTTP 400: cannot be done in this state");
    assert_eq!(fake.count("POST"), 1);
}

#[tokio::test]
async fn the_first_reset_type_that_the_bmc_allows_is_used() {
    for action_info in [false, true] {
        let types = Some(vec!["ForceOn", "ForceOff"]);
        let bmc = Bmc { reset_types: types, reset_types_in_action_info: action_info, ..Bmc::default() };
        let (fake, client) = with(bmc).await;
        client.turn(PowerState::On).await.unwrap();
        let error = client.shut_down(Duration::from_millis(50)).await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC, /redfish/v1/inventory/machines/node-7: Reset knows none of GracefulShutdown, only: ForceOn, ForceOff");
        }
        // Without a restart of its own, off and on is one.
        client.restart().await.unwrap();
        assert_eq!(fake.state().power, "On");
        assert_eq!(fake.count("POST"), 3);
    }
}

#[tokio::test]
async fn a_graceful_shutdown_has_its_own_patience() {
    let bmc = Bmc { power: "On", power_takes: Duration::from_millis(60), ..Bmc::default() };
    let (fake, client) = with(bmc).await;
    client.shut_down(Duration::from_secs(2)).await.unwrap();
    assert_eq!(client.reported_power().await.unwrap(), ReportedPower::Off);
    assert_eq!(fake.count("POST"), 1);
}

#[tokio::test]
async fn the_boot_device_is_set_and_read_back() {
    let (fake, client) = with(Bmc { boot_mode: "Legacy".into(), ..Bmc::default() }).await;
    client.set_boot_device(BootDevice::Cdrom, false).await.unwrap();
    let now = client.boot_override().await.unwrap();
    assert_eq!((now.target.as_str(), now.once, now.mode.as_deref()), ("Cd", true, Some("UEFI")));
    client.set_boot_device(BootDevice::Disk, true).await.unwrap();
    let now = client.boot_override().await.unwrap();
    assert_eq!((now.target.as_str(), now.once), ("Hdd", false));
    drop(fake);
}

#[tokio::test]
async fn once_that_stays_for_good_is_told() {
    let (_fake, client) = with(Bmc { ignores_once: true, ..Bmc::default() }).await;
    let request = BootRequest { target: BootTarget::Pxe, once: true, mode: Some(BootMode::Uefi) };
    let now = client.set_boot(request).await.unwrap();
    assert!(!now.once);
}

#[tokio::test]
async fn a_cd_that_is_a_usb_cd_to_the_bmc_is_found() {
    let (_fake, client) = with(Bmc { boot_targets: vec!["Pxe", "UsbCd"], ..Bmc::default() }).await;
    let request = BootRequest { target: BootTarget::Cd, once: true, mode: None };
    assert_eq!(client.set_boot(request).await.unwrap().target, "UsbCd");
}

#[tokio::test]
async fn wrong_boot_devices_are_explained() {
    let request = |target| BootRequest { target, once: true, mode: None };
    let (fake, client) = with(Bmc { boot_targets: vec!["Pxe", "Hdd"], ..Bmc::default() }).await;
    let error = client.set_boot(request(BootTarget::UefiHttp)).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC, /redfish/v1/inventory/machines/node-7: it cannot boot from UefiHttp, only from: Pxe, Hdd");
    let (fake, client) = with(Bmc { cd_needs_medium: true, ..Bmc::default() }).await;
    let error = client.set_boot(request(BootTarget::Cd)).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC answered PATCH /redfish/v1/inventory/machines/node-7 with HTTP 500: no medium; some BMCs take Cd only while media is inserted, so insert it first");
    let (fake, client) = with(Bmc { ignores_boot: true, ..Bmc::default() }).await;
    let error = client.set_boot(request(BootTarget::Pxe)).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC, /redfish/v1/inventory/machines/node-7: boot device Pxe not reached within 300ms, last seen: Hdd");
}

#[tokio::test]
async fn a_change_carries_the_version_that_was_read() {
    let (fake, client) = with(Bmc { etags_required: true, ..Bmc::default() }).await;
    client.set_boot_device(BootDevice::Pxe, false).await.unwrap();
    assert_eq!(fake.state().boot_target, "Pxe");
    assert_eq!(fake.count("PATCH"), 2, "the weak validator first, then its strong form");
}

#[tokio::test]
async fn media_are_inserted_wherever_the_bmc_has_them() {
    for bmc in [
        Bmc::default(),
        Bmc { media_under_manager: true, ..Bmc::default() },
        Bmc { media_under_manager: true, dead_media_link: true, ..Bmc::default() },
        Bmc { wants_transfer_method: true, ..Bmc::default() },
        Bmc { has_media_actions: false, ..Bmc::default() },
        Bmc { insertion_takes: Duration::from_millis(60), ..Bmc::default() },
    ] {
        let (fake, client) = with(bmc).await;
        client.insert(ISO).await.unwrap();
        assert_eq!(fake.state().image.as_deref(), Some(ISO));
        client.eject().await.unwrap();
        assert_eq!(fake.state().image, None);
    }
}

#[tokio::test]
async fn inserting_what_is_inserted_does_nothing_and_another_image_is_ejected_first() {
    let (fake, client) = with(Bmc { image: Some(ISO.into()), ..Bmc::default() }).await;
    client.insert(ISO).await.unwrap();
    assert_eq!(fake.count("POST"), 0);
    client.insert("http://192.0.2.1/other.iso").await.unwrap();
    assert_eq!(fake.count("POST /redfish/v1/do/eject"), 1);
    assert_eq!(fake.state().image.as_deref(), Some("http://192.0.2.1/other.iso"));
    fake.state().image = None;
    client.eject().await.unwrap();
    assert_eq!(fake.count("POST /redfish/v1/do/eject"), 1);
}

#[tokio::test]
async fn an_insertion_that_failed_is_not_taken_for_done_by_the_next_attempt() {
    let (fake, client) = with(Bmc { insertion_breaks: true, ..Bmc::default() }).await;
    let error = client.insert(ISO).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC answered POST /redfish/v1/do/insert with HTTP 500: the storage pool is missing");
    assert_eq!(fake.state().image, None);
    assert_eq!(fake.count("POST /redfish/v1/do/insert"), 1, "an action is not repeated blindly");
}

#[tokio::test]
async fn media_that_cannot_be_inserted_are_explained() {
    let (fake, client) = with(Bmc { dead_media_link: true, ..Bmc::default() }).await;
    let error = client.insert(ISO).await.unwrap_err();
    insta::assert_snapshot!(error.to_string().replace(&fake.address.to_string(), "BMC"), @"BMC http://BMC, /redfish/v1/inventory/machines/node-7: neither it nor its managers have virtual media of type CD or DVD");
    let (_fake, client) = with(Bmc::default()).await;
    for url in ["ferric.iso", "ftp://192.0.2.1/x", "http:///x"] {
        assert!(matches!(client.insert(url).await, Err(OutOfBandError::Unsupported(_))), "{url}");
    }
    let (fake, client) = with(Bmc { insertion_takes: Duration::from_secs(60), ..Bmc::default() }).await;
    let error = client.insert_cd(ISO).await.unwrap_err();
    insta::assert_snapshot!(shown(&fake, error), @"BMC http://BMC, /redfish/v1/inventory/media/cd0: medium http://192.0.2.1/ferric.iso not reached within 300ms, last seen: inserted: false, no image");
}

#[tokio::test]
async fn the_identity_is_read_and_dead_links_are_passed_over() {
    let (_fake, client) = with(Bmc::default()).await;
    insta::assert_debug_snapshot!(client.identity().await.unwrap());
}

#[tokio::test]
async fn the_system_is_the_only_one_or_the_one_that_was_chosen() {
    let other = "/redfish/v1/inventory/machines/node-8";
    let two = || Bmc { systems: vec![other.into(), SYSTEM.into()], ..Bmc::default() };
    for id in [SYSTEM, "node-7", "NODE-7"] {
        let fake = Fake::start(two()).await;
        let client = fake.client(json!({ "redfish_system_id": id })).await;
        client.turn(PowerState::On).await.unwrap();
        let expected = if id == "NODE-7" { 1 } else { 0 };
        assert_eq!(fake.count(&format!("GET {other}")), expected, "{id}");
    }
    let (fake, client) = with(two()).await;
    insta::assert_snapshot!(shown(&fake, client.check().await.unwrap_err()), @"BMC http://BMC: it has 2 systems; set driver_info.redfish_system_id to one of: /redfish/v1/inventory/machines/node-8, /redfish/v1/inventory/machines/node-7");
    let client = fake.client(json!({ "redfish_system_id": "node-9" })).await;
    insta::assert_snapshot!(shown(&fake, client.check().await.unwrap_err()), @r#"BMC http://BMC: none of its systems is "node-9"; set driver_info.redfish_system_id to one of: /redfish/v1/inventory/machines/node-8, /redfish/v1/inventory/machines/node-7"#);
    let (fake, client) = with(Bmc { systems: Vec::new(), ..Bmc::default() }).await;
    insta::assert_snapshot!(shown(&fake, client.check().await.unwrap_err()), @"BMC http://BMC, /redfish/v1/: its Systems are empty; is the chassis populated?");
}

#[tokio::test]
async fn a_read_that_failed_once_is_tried_again_and_one_that_always_fails_ends() {
    for status in [429, 500, 502, 503, 504] {
        let fail = vec![(Method::GET, SYSTEM.to_owned(), status); 2];
        let (fake, client) = with(Bmc { fail, retry_after: Some("1"), ..Bmc::default() }).await;
        client.check().await.unwrap();
        assert_eq!(fake.count(&format!("GET {SYSTEM}")), 3);
    }
    let fail = vec![(Method::GET, SYSTEM.to_owned(), 503); 9];
    let (fake, client) = with(Bmc { fail, ..Bmc::default() }).await;
    assert!(matches!(client.check().await, Err(RedfishError::Refused { status: 503, .. })));
    assert_eq!(fake.count(&format!("GET {SYSTEM}")), limits().tries as usize);
}

#[tokio::test]
async fn a_session_is_made_once_used_renewed_and_ended() {
    let bmc = Bmc { auth_required: true, has_sessions: true, session_lasts: 4, ..Bmc::default() };
    let (fake, client) = with(bmc).await;
    for _ in 0..6 {
        client.check().await.unwrap();
    }
    let logins = fake.state().logins;
    assert!((2..=4).contains(&logins), "{logins} logins for eight requests");
    assert_eq!(fake.state().log.iter().filter(|line| line.ends_with(" basic")).count(), 0);
    client.close().await;
    assert_eq!(fake.count("DELETE /redfish/v1/seats/"), 1);
    client.close().await;
    assert_eq!(fake.count("DELETE /redfish/v1/seats/"), 1);
}

#[tokio::test]
async fn without_sessions_the_password_goes_with_each_request_unless_a_session_was_demanded() {
    for sessions_are_full in [false, true] {
        let bmc = Bmc { auth_required: true, has_sessions: sessions_are_full, sessions_are_full, ..Bmc::default() };
        let (fake, client) = with(bmc).await;
        client.check().await.unwrap();
        client.check().await.unwrap();
        assert_eq!(fake.state().logins, u32::from(sessions_are_full));
        let client = fake.client(json!({ "redfish_auth_type": "session" })).await;
        assert!(client.check().await.is_err());
        let client = fake.client(json!({ "redfish_auth_type": "basic" })).await;
        client.check().await.unwrap();
        assert!(AuthType::default() == AuthType::Auto);
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_never_shown() {
    for auth in ["auto", "basic", "session"] {
        let fake = Fake::start(Bmc { auth_required: true, has_sessions: true, ..Bmc::default() }).await;
        let more = json!({ "redfish_password": "wrong horse", "redfish_auth_type": auth });
        let client = fake.client(more).await;
        let error = client.check().await.unwrap_err();
        assert!(matches!(error, RedfishError::Denied { status: 401, .. }), "{auth}: {error}");
        let tries = fake.state().log.iter().filter(|line| line.contains("basic") || line.starts_with("POST")).count();
        assert_eq!(tries, 1, "{auth}");
        let text = format!("{error:?} {error} {client:?}");
        assert!(!text.contains("horse"), "{text}");
    }
}

#[tokio::test]
async fn cve_2026_42997_credentials_do_not_follow_a_link_or_a_redirect_to_another_server() {
    let stranger = Fake::start(Bmc::default()).await;
    let elsewhere = format!("http://{}/redfish/v1/inventory/machines", stranger.address);
    for bmc in [
        Bmc { systems_link: elsewhere.clone(), ..Bmc::default() },
        Bmc { systems_link: format!("//{}/redfish", stranger.address), ..Bmc::default() },
        Bmc { root_redirects_to: Some(elsewhere.clone()), ..Bmc::default() },
        Bmc { systems: vec![elsewhere.clone()], ..Bmc::default() },
        Bmc { systems_link: "https://127.0.0.1/redfish".into(), ..Bmc::default() },
    ] {
        let (_fake, client) = with(bmc).await;
        let error = client.check().await.unwrap_err();
        assert!(matches!(error, RedfishError::Elsewhere { .. } | RedfishError::Malformed { .. }), "{error}");
    }
    assert!(stranger.state().log.is_empty());
}

#[tokio::test]
async fn a_full_link_to_the_same_server_and_a_redirect_within_it_are_followed() {
    let fake = Fake::start(Bmc::default()).await;
    fake.state().systems_link = format!("http://{}/redfish/v1/inventory/machines#here", fake.address);
    fake.client(json!({})).await.check().await.unwrap();
}

#[tokio::test]
async fn answers_that_are_hostile_end_in_an_error() {
    let circle = Bmc { root_redirects_to: Some("/redfish/v1/".into()), ..Bmc::default() };
    let pages = Bmc { pages_in_a_circle: true, ..Bmc::default() };
    let giant = Bmc { giant_system: true, ..Bmc::default() };
    let deep = Bmc { deep_system: true, ..Bmc::default() };
    let odd = Bmc { systems_link: "Systems".into(), ..Bmc::default() };
    let mut lines = Vec::new();
    for bmc in [circle, pages, giant, deep, odd] {
        let (fake, client) = with(bmc).await;
        lines.push(shown(&fake, client.check().await.unwrap_err()));
        assert!(fake.state().log.len() < 20);
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn a_bmc_that_is_not_there_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let info = json!({ "redfish_address": format!("http://{address}") });
    let settings = Settings::from_driver_info(info.as_object().unwrap()).unwrap();
    let client = Redfish::new(settings, limits()).await.unwrap();
    let error = client.power_state().await.unwrap_err();
    assert!(matches!(error, OutOfBandError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_ca_that_cannot_be_used_is_named_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.pem"), "no certificate").unwrap();
    for path in [folder.path().join("missing.pem"), folder.path().join("empty.pem"), folder.path().to_owned()] {
        let info = json!({ "redfish_address": "bmc", "redfish_verify_ca": path });
        let settings = Settings::from_driver_info(info.as_object().unwrap()).unwrap();
        let error = Redfish::new(settings, limits()).await.unwrap_err();
        assert!(error.to_string().contains("redfish_verify_ca"), "{error}");
        assert!(matches!(OutOfBandError::from(error), OutOfBandError::Settings(_)));
    }
}

#[tokio::test]
async fn a_certificate_is_believed_only_when_the_operator_says_so() {
    let (fake, certificate) = Fake::start_tls(Bmc { auth_required: true, ..Bmc::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bmc.pem");
    std::fs::write(&file, certificate).unwrap();
    let address = format!("https://{}", fake.address);
    for verify in [json!(true), json!(null)] {
        let client = fake.client(json!({ "redfish_address": address, "redfish_verify_ca": verify })).await;
        let error = OutOfBandError::from(client.check().await.unwrap_err());
        assert!(error.to_string().contains("redfish_verify_ca"), "{error}");
        assert!(fake.state().log.is_empty(), "nothing is said to a stranger");
    }
    for verify in [json!(file), json!(folder.path()), json!(false), json!("no")] {
        let client = fake.client(json!({ "redfish_address": address, "redfish_verify_ca": verify })).await;
        client.check().await.unwrap();
    }
}
