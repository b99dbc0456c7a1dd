//! Who may have a session.

use super::Site;
use super::peer::Boot;
use driver::fault::Fault;
use serde_json::Value;
use tonic::Code;
use uuid::Uuid;
use wire::ironic::Version;
use wire::ramdisk::Heartbeat;
use wire::session::{Frame, FromAgent, Reason};

#[tokio::test]
async fn a_token_gives_one_key_a_certificate_and_nobody_else_one() {
    let site = Site::new().await;
    let token = site.token().await;
    let mut boot = Boot::new(site.node, &site.offer);
    let wrong = boot.ask("wrong").await.unwrap_err();
    let empty = boot.ask("").await.unwrap_err();
    let nobody = Boot::new(Uuid::new_v4(), &site.offer).ask(&token).await.unwrap_err();
    assert_eq!([wrong.code(), empty.code(), nobody.code()], [Code::Unauthenticated; 3]);
    assert_eq!(wrong.message(), nobody.message(), "a stranger learns which nodes there are");
    boot.enrol(&token).await;
    // The same key may come again, with the certificate or without.
    boot.ask(&token).await.unwrap();

    // Whoever has seen the token has another key.
    let thief = Boot::new(site.node, &site.offer);
    assert_eq!(thief.ask(&token).await.unwrap_err().code(), Code::PermissionDenied);
    let mut other = Boot::new(site.node, &site.offer);
    other.session = boot.session;
    other.new_key();
    assert_eq!(other.ask(&token).await.unwrap_err().code(), Code::PermissionDenied);
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains("ferric_enrolments_total{outcome=\"refused\"} 5"), "{metrics}");
}

#[tokio::test]
async fn the_proof_of_a_boot_counts_after_a_restart_of_the_driver_as_well() {
    let site = Site::new().await;
    let token = site.token().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&token).await;
    let site = site.restart().await;
    let thief = Boot::new(site.node, &site.offer);
    assert_eq!(thief.ask(&token).await.unwrap_err().code(), Code::PermissionDenied);
    boot.redirect(&site.offer);
    boot.dial().await;
}

#[tokio::test]
async fn a_session_takes_the_certificate_of_its_node_and_boot() {
    let site = Site::new().await;
    let token = site.token().await;
    let mut boot = Boot::new(site.node, &site.offer);
    assert_eq!(boot.open().await.err().unwrap().code(), Code::Unauthenticated);
    boot.enrol(&token).await;

    let mut wire = boot.open().await.unwrap();
    let mut hello = boot.hello();
    hello.node = Uuid::new_v4();
    wire.say(Frame { seq: 0, ack: 0, body: FromAgent::Hello(hello) }).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Identity);

    let mut wire = boot.open().await.unwrap();
    let mut hello = boot.hello();
    hello.session = Uuid::new_v4();
    wire.say(Frame { seq: 0, ack: 0, body: FromAgent::Hello(hello) }).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Identity);

    // Another authority's certificate ends in the handshake.
    let elsewhere = Site::new().await;
    let mut stranger = Boot::new(elsewhere.node, &elsewhere.offer);
    stranger.enrol(&elsewhere.token().await).await;
    stranger.redirect(&site.offer);
    let opened = stranger.open();
    assert!(opened.await.is_err());
}

#[tokio::test]
async fn a_boot_that_is_over_has_no_session_any_more() {
    let site = Site::new().await;
    let token = site.token().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&token).await;
    let (mut wire, _) = boot.dial().await;
    // A deployment begins with switching the machine off.
    site.deploy().await;
    let end = boot.ended(&mut wire).await;
    assert_eq!(end.reason, Reason::Superseded, "{end:?}");
    let mut wire = boot.open().await.unwrap();
    wire.say(Frame { seq: 0, ack: 0, body: FromAgent::Hello(boot.hello()) }).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Identity);
    assert_eq!(boot.ask(&token).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_stranger_may_say_no_more_than_an_enrolment_takes() {
    let site = Site::new().await;
    let boot = Boot::new(site.node, &site.offer);
    let long = "x".repeat(1 << 20);
    assert_eq!(boot.ask(&long).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn whoever_has_only_seen_the_token_cannot_have_the_driver_call_elsewhere() {
    let site = Site::new().await;
    site.deploy().await;
    let token = site.token().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&token).await;
    let (wire, _) = boot.dial().await;
    boot.beat(&wire).await;
    let node = site.until(|node| node.driver_internal_info.contains_key("agent_url")).await;
    let own = format!("ferric-session:{}", boot.session);
    assert_eq!(node.driver_internal_info.get("agent_url").and_then(Value::as_str), Some(&*own));
    let beat = async |url: &str| {
        let heartbeat = Heartbeat {
            callback_url: url.to_owned(),
            agent_version: Some("13.0.0".to_owned()),
            agent_token: Some(token.clone()),
            agent_verify_ca: None,
            agent_status: None,
            agent_status_message: None,
        };
        site.conductor.heartbeat(&site.ident(), Version(68), heartbeat).await
    };
    assert!(matches!(beat("https://192.0.2.66:9999").await, Err(Fault::Invalid(_))));
    assert_eq!(site.get().await.driver_internal_info.get("agent_url").and_then(Value::as_str), Some(&*own));
    beat(&own).await.unwrap();
}
