//! Paths between an agent and its driver: one that is slow, and one that changes while the old one still stands.

use super::Site;
use super::deploy::{deploying, finish, rest, until};
use super::peer::{Boot, result};
use lifecycle::provision::State;
use serde_json::{Map, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use transport::http2::{PING_INTERVAL, PING_TIMEOUT};
use wire::agent::{CommandRequest, CommandStatus};
use wire::session::{Offer, Reason};

/// Bytes a second, each way: what sessions are patient with (docs/session.md).
const RATE: usize = 16 << 10;
/// Pieces of a second.
const PIECES: usize = 20;

/// A relay to the site from this address, through which nothing goes faster than `rate` a second, each way. Its offer.
async fn relay(site: &Site, from: Ipv4Addr, rate: usize) -> Offer {
    let to: SocketAddr = site.offer.url.trim_start_matches("https://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            let Ok(far) = socket.connect(to).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                tokio::spawn(async move {
                    let mut piece = vec![0; rate / PIECES];
                    while let Ok(length @ 1..) = from.read(&mut piece).await {
                        tokio::time::sleep(Duration::from_secs(1) / PIECES as u32).await;
                        if to.write_all(&piece[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    Offer { url: format!("https://{address}"), ..site.offer.clone() }
}

#[tokio::test]
async fn long_frames_arrive_over_a_slow_path_in_both_directions_without_a_break() {
    let site = Site::new().await;
    let mut boot = Boot::new(site.node, &site.offer);
    boot.enrol(&site.token().await).await;
    boot.redirect(&relay(&site, Ipv4Addr::LOCALHOST, RATE).await);
    let (mut wire, _) = boot.dial().await;
    let begun = Instant::now();
    let least = PING_INTERVAL + PING_TIMEOUT;
    let long = "x".repeat(RATE * (least.as_secs() as usize + 1));
    let agent = site.conductor.sessions().agent(boot.node, boot.session).unwrap();
    let order = |name: &str, params: Map<String, serde_json::Value>| {
        let (agent, request) = (agent.clone(), CommandRequest { name: name.to_owned(), params });
        tokio::spawn(async move { agent.execute(request, true).await })
    };
    // The result of one comes up while the arguments of the other go down.
    let short = order("log.collect_system_logs", Map::new());
    let command = boot.command(&mut wire).await.unwrap();
    boot.set(&wire, result(&command, CommandStatus::Succeeded, Some(json!(long)))).await;
    let params = json!({"configdrive": long}).as_object().cloned().unwrap();
    let long_one = order("standby.prepare_image", params.clone());
    // Longer than the peer of these tests waits for a word.
    let command = loop {
        match tokio::time::timeout(Duration::from_secs(25), boot.command(&mut wire)).await {
            Ok(command) => break command.unwrap(),
            Err(_) => assert!(begun.elapsed() < 4 * least, "the command does not arrive"),
        }
    };
    assert!(begun.elapsed() > least);
    assert_eq!(command.params, params);
    boot.set(&wire, result(&command, CommandStatus::Succeeded, None)).await;
    assert_eq!(short.await.unwrap().unwrap().command_result, Some(json!(long)));
    assert_eq!(long_one.await.unwrap().unwrap().id, command.id.to_string());
    let metrics = site.text("/metrics").await;
    assert!(!metrics.contains("ferric_session_ends_total{"), "{metrics}");
}

#[tokio::test]
async fn an_agent_that_comes_from_another_address_goes_on_before_its_old_connection_is_known_to_be_dead() {
    let site = Site::new().await;
    let (mut boot, mut wire) = deploying(&site).await;
    let write = until(&mut boot, &mut wire, "deploy.execute_deploy_step").await;
    // Nobody ends the old connection: what was behind it is not there any more.
    boot.redirect(&relay(&site, Ipv4Addr::new(127, 0, 0, 2), 1 << 20).await);
    let (mut moved, welcome) = boot.dial().await;
    assert!(welcome.resumed);
    finish(&mut boot, &mut moved, &write).await;
    rest(&mut boot, &mut moved).await;
    site.reach(State::Active).await;
    assert_eq!(boot.ended(&mut wire).await.reason, Reason::Superseded);
}
