//! Look-up, heartbeat and inspection callback: what a stranger, an old agent and a wrong agent are told.

use super::sim::{MAC, Site};
use driver::command::LookupRequest;
use driver::fault::Fault;
use lifecycle::provision::{State, Verb};
use serde_json::json;
use wire::ironic::Version;
use wire::ramdisk::{Heartbeat, MASK};

fn lookup(addresses: &[&str], token: bool) -> LookupRequest {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    LookupRequest { addresses, node: None, token, peer: None }
}

fn heartbeat(url: &str, token: Option<&str>) -> Heartbeat {
    Heartbeat {
        callback_url: url.to_owned(),
        agent_version: Some("13.0.0".to_owned()),
        agent_token: token.map(str::to_owned),
        agent_verify_ca: None,
        agent_status: None,
        agent_status_message: None,
    }
}

/// A site whose node waits for an agent that nobody simulates.
async fn waiting_site() -> Site {
    let site = Site::new().await;
    site.make_available().await;
    site.machine.lock().dead = true;
    site.verb(Verb::Active).await.unwrap();
    site.reach(State::DeployWait).await;
    site
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_leads_nowhere_is_answered_like_one_that_may_not() {
    let site = Site::new().await;
    let conductor = site.conductor();
    let unknown = conductor.lookup(lookup(&["52:54:00:ff:ff:ff"], true)).await.unwrap_err();
    let not_now = conductor.lookup(lookup(&[MAC], true)).await.unwrap_err();
    assert_eq!(unknown, not_now);
    assert_eq!(unknown, Fault::NotFound("Resource could not be found.".to_owned()));
    assert_eq!(conductor.lookup(lookup(&[], true)).await.unwrap_err().status(), 400);
}

#[tokio::test(start_paused = true)]
async fn ossn_0106_a_token_that_came_with_the_ramdisk_is_never_told() {
    let site = waiting_site().await;
    for version_has_tokens in [true, false] {
        let found = site.conductor().lookup(lookup(&[MAC], version_has_tokens)).await.unwrap();
        assert_eq!(found.config.agent_token.as_deref(), Some(MASK));
        let text = json!(found).to_string();
        assert!(!text.contains("canary-bmc-password") && text.contains("agent_secret_token"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn story_2006773_a_heartbeat_is_believed_only_with_token_tls_and_the_first_address() {
    let site = waiting_site().await;
    let conductor = site.conductor();
    let ident = site.ident();
    let beat = async |version: u16, heartbeat: Heartbeat| {
        conductor.heartbeat(&ident, Version(version), heartbeat).await.map_err(|fault| fault.to_string())
    };
    let says = |result: Result<(), String>, text: &str| {
        assert!(result.as_ref().is_err_and(|error| error.starts_with(text)), "{result:?}");
    };
    let token = site.node().await.driver_internal_info["agent_secret_token"].as_str().unwrap().to_owned();
    let url = "https://192.0.2.10:9999";
    says(beat(68, heartbeat("ftp://x", Some(&token))).await, "An issue with the supplied \"callback_url\"");
    says(beat(68, heartbeat("http://192.0.2.10:9999", Some(&token))).await, "TLS is required by configuration");
    says(beat(68, heartbeat(url, None)).await, "Agent token is required for heartbeat processing.");
    says(beat(68, heartbeat(url, Some("wrong"))).await, "Invalid or missing agent token received.");
    says(beat(68, Heartbeat { agent_version: None, ..heartbeat(url, Some(&token)) }).await, "Agent did not transmit");
    let status = Heartbeat { agent_status: Some("odd".to_owned()), ..heartbeat(url, Some(&token)) };
    says(beat(72, status).await, "Agent status is invalid.");
    assert!(!site.node().await.driver_internal_info.contains_key("agent_url"));

    // From here on its address and certificate are what they are.
    let sim = Heartbeat {
        agent_verify_ca: Some("-----BEGIN CERTIFICATE-----\nof the agent\n-----END CERTIFICATE-----\n".to_owned()),
        ..heartbeat(url, Some(&token))
    };
    beat(68, sim.clone()).await.unwrap();
    assert_eq!(site.node().await.driver_internal_info["agent_url"], json!(url));
    let other = Heartbeat { callback_url: "https://192.0.2.11:9999".to_owned(), ..sim.clone() };
    says(beat(68, other).await, "Detected change in ramdisk provided \"callback_url\"");
    let other = Heartbeat { agent_verify_ca: Some("another".to_owned()), ..sim };
    says(beat(68, other).await, "Detected change in ramdisk provided \"agent_verify_ca\"");
}

#[tokio::test(start_paused = true)]
async fn an_inventory_that_nobody_waits_for_is_refused() {
    let site = Site::new().await;
    let body = json!({"inventory": {"interfaces": [{"name": "eth0", "mac_address": MAC}]}});
    let body = body.as_object().unwrap().clone();
    let conductor = site.conductor();
    assert_eq!(conductor.continue_inspection(body.clone(), None, false).await.unwrap_err().status(), 404);
    let nothing = json!({"inventory": {"interfaces": [{"name": "eth0", "mac_address": "x"}]}});
    let nothing = nothing.as_object().unwrap().clone();
    assert_eq!(conductor.continue_inspection(nothing, None, false).await.unwrap_err().status(), 400);
}
