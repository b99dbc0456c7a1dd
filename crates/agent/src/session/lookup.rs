//! The lookup: which node is this, and what does its driver want of the agent.

use super::ironic::{Ironic, TOKEN_VERSION, refusal};
use crate::state::{Agent, Token};
use http::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use transport::client::Reply;
use wire::ramdisk::{Lookup, MASK};

/// Shortest text that is taken for a token.
const TOKEN_LENGTH: usize = 32;
/// Longest wait between two lookups.
const LONGEST_WAIT: f64 = 60.0;
/// Extra waits while the driver says that the node is locked; the last one repeats.
const LOCKED_WAITS: [u64; 3] = [5, 10, 30];

/// Why the agent does not know its node.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No attempt succeeded in time.
    #[error("no lookup succeeded within {} s ({attempts} attempts); the last one: {last}", .after.as_secs())]
    TimedOut {
        /// The limit.
        after: Duration,
        /// How many.
        attempts: u32,
        /// What the last one brought.
        last: String,
    },
    /// The driver has given this node's token to somebody before, and it is not known here.
    #[error(
        "the driver gave this node's token away before and does not tell it again: another agent, or one before an \
         unplanned restart, has it; restart the machine through its driver"
    )]
    LockedOut,
}

/// One failed attempt.
#[derive(Debug)]
struct Failure {
    reason: String,
    locked: bool,
}

/// Looks the node up until it is found or the time is over, and takes over what the reply says.
pub async fn run(agent: &Agent, ironic: &Ironic, uuid: Option<&str>) -> Result<(), LookupError> {
    let settings = agent.shared.settings();
    let lookup = retry(settings.lookup_timeout, settings.lookup_interval, || attempt(agent, ironic, uuid)).await?;
    adopt(agent, lookup)
}

/// Calls `attempt` until it succeeds or `limit` is over, with waits in between that begin with `interval`.
async fn retry<F: Future<Output = Result<Lookup, Failure>>>(
    limit: Duration,
    interval: Duration,
    attempt: impl Fn() -> F,
) -> Result<Lookup, LookupError> {
    let deadline = Instant::now() + limit;
    let (mut attempts, mut locked) = (0_u32, 0_usize);
    loop {
        attempts += 1;
        let failure = match attempt().await {
            Ok(lookup) => return Ok(lookup),
            Err(failure) => failure,
        };
        let mut wait = wait_after(attempts, interval.as_secs_f64());
        if failure.locked {
            wait += wait_while_locked(locked);
            locked += 1;
        }
        if Instant::now() + wait >= deadline {
            return Err(LookupError::TimedOut { after: limit, attempts, last: failure.reason });
        }
        tracing::warn!(attempts, next_in = ?wait, "lookup failed: {}", failure.reason);
        tokio::time::sleep(wait).await;
    }
}

/// A random time between the first interval and 2ⁿ⁻¹ seconds after the n-th attempt, at most a minute.
fn wait_after(attempts: u32, interval: f64) -> Duration {
    let high = 2_f64.powi(attempts.saturating_sub(1).min(16).cast_signed()).min(LONGEST_WAIT).max(interval);
    let seconds = if high > interval { rand::random_range(interval..=high) } else { interval };
    Duration::from_secs_f64(seconds)
}

/// The extra wait after the driver has said for the (n+1)-th time that the node is locked.
fn wait_while_locked(before: usize) -> Duration {
    Duration::from_secs(LOCKED_WAITS[before.min(LOCKED_WAITS.len() - 1)])
}

async fn attempt(agent: &Agent, ironic: &Ironic, uuid: Option<&str>) -> Result<Lookup, Failure> {
    let failure = |reason: String| Failure { reason, locked: false };
    // Read each time: interfaces may show up late.
    let inventory = agent.shared.on_machine(|machine| machine.inventory()).await;
    let inventory = inventory.map_err(|error| failure(transport::client::chain(&error)))?;
    let addresses: Vec<&str> = inventory
        .interfaces
        .iter()
        .map(|interface| interface.mac_address.as_str())
        .filter(|address| !address.is_empty())
        .collect();
    if addresses.is_empty() && uuid.is_none() {
        return Err(failure("this machine has no network interface with a MAC address".to_owned()));
    }
    let path = format!("/v1/lookup?{}", query(&addresses, uuid));
    let version = ironic.version_for_lookup().await.map_err(failure)?.min(TOKEN_VERSION);
    tracing::info!(addresses = addresses.join(","), "lookup");
    let reply = ironic.request(Method::GET, &path, Some(version), None).await;
    judge(&reply.map_err(|error| failure(transport::client::chain(&error)))?)
}

/// What a reply means: nothing but a whole one is final, and only a lock changes the wait.
fn judge(reply: &Reply) -> Result<Lookup, Failure> {
    match reply.status {
        StatusCode::OK => read(reply).map_err(|reason| Failure { reason, locked: false }),
        status => Err(Failure { reason: refusal(reply), locked: status == StatusCode::CONFLICT }),
    }
}

fn query(addresses: &[&str], uuid: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("addresses", &addresses.join(","));
    if let Some(uuid) = uuid {
        query.append_pair("node_uuid", uuid);
    }
    query.finish()
}

/// Reads a reply; an old driver has `heartbeat_timeout` beside the node.
fn read(reply: &Reply) -> Result<Lookup, String> {
    let mut document: Value = reply.json().map_err(|error| error.to_string())?;
    if let Some(document) = document.as_object_mut()
        && !document.contains_key("config")
        && let Some(timeout) = document.remove("heartbeat_timeout")
    {
        document.insert("config".to_owned(), serde_json::json!({"heartbeat_timeout": timeout}));
    }
    serde_json::from_value(document).map_err(|error| format!("reply of {} is not understood: {error}", reply.url))
}

/// Takes over node, settings and token.
pub fn adopt(agent: &Agent, lookup: Lookup) -> Result<(), LookupError> {
    let Lookup { node, config } = lookup;
    tracing::info!(node = node.uuid, "this is node");
    agent.set_node_uuid(&node.uuid);
    let mut document = node.other;
    document.insert("uuid".to_owned(), Value::String(node.uuid));
    for (key, value) in config.misfits() {
        tracing::warn!(key, %value, "the lookup sets this to a value of the wrong type; it is not used");
    }
    if let Some(suites) = config.other.get("tls_cipher_suites").filter(|suites| !suites.is_null()) {
        tracing::warn!(%suites, "tls_cipher_suites of the lookup has no effect: the API offers what it always offers");
    }
    agent.shared.change_settings(|settings| settings.adopt(&config));
    let skip_bmc = agent.shared.settings().skip_bmc_detect;
    if skip_bmc {
        document.insert("skip_bmc_detect".to_owned(), Value::Bool(true));
    }
    agent.shared.machine.ask_bmc(!skip_bmc);
    agent.shared.cache_node(Value::Object(document));
    if let Some(timeout) = config.heartbeat_timeout {
        agent.shared.change_settings(|settings| settings.heartbeat_timeout = Duration::from_secs(timeout));
    }
    match config.agent_token {
        Some(token) if token.len() >= TOKEN_LENGTH => agent.set_token(Token::new(token)),
        Some(token) if token == MASK && agent.token().is_none() => return Err(LookupError::LockedOut),
        Some(token) if token == MASK => {}
        Some(token) if token.is_empty() => {}
        Some(_) => tracing::warn!("the token of the lookup is too short to be one and is not used"),
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_the_interval_to_a_minute() {
        assert_eq!(wait_after(1, 1.0), Duration::from_secs(1));
        for attempts in 2..40 {
            let wait = wait_after(attempts, 1.0).as_secs_f64();
            let high = 2_f64.powi(i32::try_from(attempts).unwrap() - 1).min(60.0);
            assert!((1.0..=high).contains(&wait), "{attempts}: {wait}");
        }
        let locked: Vec<u64> = (0..5).map(|before| wait_while_locked(before).as_secs()).collect();
        assert_eq!(locked, [5, 10, 30, 30, 30]);
    }

    fn found() -> Lookup {
        serde_json::from_value(serde_json::json!({"node": {"uuid": "u"}, "config": {}})).unwrap()
    }

    /// Looks up with a driver that gives `answers` in turn, the last one for ever: `None` is the node, `Some(true)` a lock,
    /// `Some(false)` another failure. Returns the end and the seconds at which lookups were sent, on a paused clock.
    async fn looks(answers: &[Option<bool>]) -> (Result<Lookup, LookupError>, Vec<f64>) {
        let started = Instant::now();
        let at = std::cell::RefCell::new(Vec::new());
        let attempt = || {
            let number = at.borrow().len();
            at.borrow_mut().push(started.elapsed().as_secs_f64());
            std::future::ready(match answers[number.min(answers.len() - 1)] {
                None => Ok(found()),
                Some(locked) => Err(Failure { reason: format!("refusal {}", number + 1), locked }),
            })
        };
        let ended = retry(Duration::from_secs(600), Duration::from_secs(1), attempt).await;
        (ended, at.into_inner())
    }

    fn gaps(at: &[f64]) -> Vec<f64> {
        at.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_are_repeated_at_growing_random_waits_until_ten_minutes_are_over() {
        for _ in 0..50 {
            let before = Instant::now();
            let (ended, at) = looks(&[Some(false)]).await;
            for (number, gap) in gaps(&at).into_iter().enumerate() {
                let high = 2_f64.powi(i32::try_from(number).unwrap()).min(60.0);
                assert!((0.99..=high + 0.01).contains(&gap), "wait {number}: {gap}");
            }
            // It ends with the attempt after which there is no time for another.
            let took = before.elapsed().as_secs_f64();
            assert!((540.0..600.0).contains(&took), "{took}");
            let last = format!("refusal {}", at.len());
            assert!(
                matches!(&ended, Err(LookupError::TimedOut { attempts, last: said, .. })
                    if *attempts as usize == at.len() && *said == last),
                "{ended:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_locked_node_is_given_more_time_and_the_count_of_attempts_goes_on() {
        for _ in 0..50 {
            let locks = [Some(false), Some(true), Some(true), Some(false), Some(true), Some(true), None];
            let (ended, at) = looks(&locks).await;
            assert!(ended.is_ok(), "{ended:?}");
            for (number, (gap, extra)) in gaps(&at).into_iter().zip([0.0, 5.0, 10.0, 0.0, 30.0, 30.0]).enumerate() {
                let high = extra + 2_f64.powi(i32::try_from(number).unwrap());
                assert!((extra + 0.99..=high + 0.01).contains(&gap), "wait {number}: {gap}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_whole_reply_ends_the_lookups_at_once() {
        let before = Instant::now();
        let (ended, at) = looks(&[None]).await;
        assert_eq!((ended.unwrap().node.uuid.as_str(), at.len()), ("u", 1));
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[test]
    fn every_refusal_is_tried_again_and_only_a_conflict_is_a_lock() {
        let reply = |status: u16, body: &'static [u8]| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            url: "http://driver/v1/lookup".to_owned(),
            headers: http::HeaderMap::default(),
            body: body.into(),
        };
        for status in [301, 400, 401, 403, 404, 406, 409, 500, 503] {
            let body = br#"{"error_message": {"faultcode": "Client", "faultstring": "said why"}}"#;
            let failure = judge(&reply(status, body)).unwrap_err();
            assert_eq!(failure.locked, status == 409, "{status}");
            assert!(failure.reason.contains(&status.to_string()) && failure.reason.contains("said why"), "{failure:?}");
        }
        for odd in [&b"<html>"[..], b"{}", b"[]", br#"{"node": {}}"#] {
            let failure = judge(&reply(200, odd)).unwrap_err();
            assert!(!failure.locked && failure.reason.contains("http://driver/v1/lookup"), "{failure:?}");
        }
        assert_eq!(judge(&reply(200, br#"{"node": {"uuid": "n"}, "config": {}}"#)).unwrap().node.uuid, "n");
    }
}
