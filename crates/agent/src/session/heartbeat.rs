//! Heartbeats: where the agent is, that it lives, and that it has something to tell.

use super::ironic::{AGENT_VERSION_VERSION, Ironic, TOKEN_VERSION, VERIFY_CA_VERSION, refusal};
use super::stream::Stream;
use crate::state::Agent;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire::ramdisk::Heartbeat;

/// What every heartbeat says.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Base URL of the agent's API.
    pub callback_url: String,
    /// The certificate that it presents, PEM, when it made one itself.
    pub certificate: Option<String>,
    /// Whether somebody can be reached there.
    pub listens: bool,
}

/// Part of the driver's time-out after which the next heartbeat is due, at random: agents that started together drift
/// apart.
const SHARE: RangeInclusive<f64> = 0.3..=0.6;
/// Seconds after a failed heartbeat, times 1 to 2.
const SOON: f64 = 5.0;
/// What a driver may say of its time-out, seconds: neither does an agent storm it, nor is it silent for a day.
const TIMEOUTS: RangeInclusive<f64> = 5.0..=86_400.0;

/// How long the first heartbeat waits for a session that the driver offers: it would look for the agent there.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// Sends heartbeats until `stop`, see [`keep_up`]. They go by the session while there is one; over REST goes the first one
/// of an agent that listens, since it tells where to call, and whatever finds no connection.
pub async fn run(
    agent: &Agent,
    ironic: &Ironic,
    announcement: Announcement,
    stream: Option<&Stream>,
    stop: &CancellationToken,
) {
    let timeout = || agent.shared.settings().heartbeat_timeout;
    if let Some(stream) = stream {
        tokio::select! {
            () = stream.connected(SESSION_PATIENCE) => {}
            () = stop.cancelled() => return,
        }
    }
    let is_announced = AtomicBool::new(!announcement.listens);
    let beat = async || {
        if is_announced.load(Ordering::Relaxed) && stream.is_some_and(Stream::beat) {
            tracing::debug!("heartbeat by the session");
            return Ok(());
        }
        send(agent, ironic, &announcement).await?;
        is_announced.store(true, Ordering::Relaxed);
        Ok(())
    };
    keep_up(timeout, &agent.command_ended, beat, stop).await;
}

/// Calls `beat` until `stop`: at once, then at random intervals, and at once when an asynchronous command has ended.
/// Commands that end while one is on its way cause one more, not several. There is no giving up.
///
/// One that tells of a command is followed by another one soon: a driver that is still busy with the node, as it is when
/// the command was a short one, accepts it (202) and looks at nothing.
async fn keep_up<F: Future<Output = Result<(), String>>>(
    timeout: impl Fn() -> Duration,
    command_ended: &Notify,
    beat: impl Fn() -> F,
    stop: &CancellationToken,
) {
    let mut tells = false;
    loop {
        let sent = tokio::select! {
            sent = beat() => sent,
            () = stop.cancelled() => return,
        };
        if let Err(reason) = &sent {
            tracing::warn!("heartbeat failed: {reason}");
        }
        let seconds = rand::random_range(wait_after(sent.is_ok() && !tells, timeout()));
        tracing::debug!("next heartbeat in {seconds:.0} s");
        tells = tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => false,
            () = command_ended.notified() => {
                tracing::debug!("a command has ended: heartbeat");
                true
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Seconds until the next heartbeat: a share of the driver's time-out when all is well, else soon.
fn wait_after(well: bool, timeout: Duration) -> RangeInclusive<f64> {
    let (unit, share) = match well {
        true => (timeout.as_secs_f64().clamp(*TIMEOUTS.start(), *TIMEOUTS.end()), SHARE),
        false => (SOON, 1.0..=2.0),
    };
    unit * share.start()..=unit * share.end()
}

async fn send(agent: &Agent, ironic: &Ironic, announcement: &Announcement) -> Result<(), String> {
    let node = agent.node_uuid().ok_or("the node is not known")?;
    let version = ironic.version().await;
    let token = agent.token();
    let body = Heartbeat {
        callback_url: announcement.callback_url.clone(),
        agent_version: (version >= AGENT_VERSION_VERSION).then(|| wire::agent::AGENT_VERSION.to_owned()),
        agent_token: token.filter(|_| version >= TOKEN_VERSION).map(|token| token.reveal().to_owned()),
        agent_verify_ca: announcement.certificate.clone().filter(|_| version >= VERIFY_CA_VERSION),
        agent_status: None,
        agent_status_message: None,
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let path = format!("/v1/heartbeat/{node}");
    let version = version.min(VERIFY_CA_VERSION);
    let reply = ironic.request(Method::POST, &path, Some(version), Some(Bytes::from(body))).await;
    let reply = reply.map_err(|error| transport::client::chain(&error))?;
    if reply.status == StatusCode::ACCEPTED {
        tracing::info!(node, memory_kib = crate::memory::resident().now, "heartbeat");
        Ok(())
    } else {
        Err(refusal(&reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;

    #[test]
    fn the_next_heartbeat_is_due_after_a_share_of_the_time_out_and_soon_after_a_failure() {
        let waits = |well, seconds| wait_after(well, Duration::from_secs(seconds));
        assert_eq!(waits(true, 300), 90.0..=180.0);
        assert_eq!(waits(false, 300), 5.0..=10.0);
        // A time-out of nothing does not make the agent storm its driver, and one of ages does not silence it.
        assert_eq!(waits(true, 0), 1.5..=3.0);
        assert_eq!(waits(true, u64::MAX), 25_920.0..=51_840.0);
    }

    /// Seconds on a paused clock at which heartbeats began; what they answer is up to the test.
    #[derive(Clone, Default)]
    struct Beats(Arc<Mutex<Vec<f64>>>);

    impl Beats {
        fn gaps(&self) -> Vec<f64> {
            self.0.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
        }

        fn count(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    struct Rig {
        beats: Beats,
        ended: Arc<Notify>,
        timeout: Arc<Mutex<Duration>>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    /// The loop with a driver that takes `took` for an answer and gives `answers` in turn, the last one for ever.
    fn start(answers: &'static [Result<(), &'static str>], took: Duration) -> Rig {
        let (beats, ended, stop) = (Beats::default(), Arc::new(Notify::new()), CancellationToken::new());
        let timeout = Arc::new(Mutex::new(Duration::from_secs(300)));
        let (heard, notify, told, token) = (beats.clone(), Arc::clone(&ended), Arc::clone(&timeout), stop.clone());
        let started = Instant::now();
        let task = tokio::spawn(async move {
            let beat = || {
                let number = heard.count().min(answers.len() - 1);
                heard.0.lock().unwrap().push(started.elapsed().as_secs_f64());
                async move {
                    tokio::time::sleep(took).await;
                    answers[number].map_err(str::to_owned)
                }
            };
            keep_up(|| *told.lock().unwrap(), &notify, beat, &token).await;
        });
        Rig { beats, ended, timeout, stop, task }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_heartbeat_is_sent_at_once_and_the_others_at_a_share_of_the_time_out_as_it_is_then() {
        let rig = start(&[Ok(())], Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(100 * 180)).await;
        assert_eq!(rig.beats.0.lock().unwrap()[0], 0.0);
        let gaps = rig.beats.gaps();
        assert!(gaps.len() >= 99 && gaps.iter().all(|gap| (89.9..=180.1).contains(gap)), "{gaps:?}");
        assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "agents that started together stay together: {gaps:?}");
        // A later lookup may bring another time-out.
        *rig.timeout.lock().unwrap() = Duration::from_secs(60);
        let before = rig.beats.count();
        tokio::time::sleep(Duration::from_secs(2000)).await;
        let gaps = rig.beats.gaps().split_off(before);
        assert!(gaps.len() > 40 && gaps.iter().all(|gap| (17.9..=36.1).contains(gap)), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_next_follows_in_five_to_ten_seconds_for_ever_and_all_is_well_again_after_a_success() {
        let rig = start(&[Err("409")], Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        let gaps = rig.beats.gaps();
        assert!(gaps.len() > 8000 && gaps.iter().all(|gap| (4.9..=10.1).contains(gap)));
        let rig = start(&[Err("401"), Err("404"), Ok(())], Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(300)).await;
        let gaps = rig.beats.gaps();
        assert!(gaps[..2].iter().all(|gap| (4.9..=10.1).contains(gap)), "{gaps:?}");
        assert!(gaps[2..].iter().all(|gap| (89.9..=180.1).contains(gap)), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_ends_is_told_at_once_and_once_more_soon() {
        let rig = start(&[Ok(())], Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(rig.beats.count(), 1);
        rig.ended.notify_one();
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(rig.beats.count(), 2);
        tokio::time::sleep(Duration::from_secs(200)).await;
        let gaps = rig.beats.gaps();
        assert!((19.9..=20.1).contains(&gaps[0]) && (4.9..=10.1).contains(&gaps[1]), "{gaps:?}");
        assert!((89.9..=180.1).contains(&gaps[2]), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_end_while_a_heartbeat_is_on_its_way_cause_one_more() {
        let rig = start(&[Ok(())], Duration::from_secs(2));
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.ended.notify_one();
        rig.ended.notify_one();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let gaps = rig.beats.gaps();
        assert!((1.9..=2.1).contains(&gaps[0]), "{gaps:?}");
        // The one that follows soon, and then nothing: 2 s for the answer and 5 to 10 s of waiting.
        assert!((6.9..=12.1).contains(&gaps[1]) && gaps.len() == 2, "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_waits_neither_for_the_driver_nor_for_the_next_heartbeat() {
        for took in [Duration::ZERO, Duration::from_secs(3600)] {
            let rig = start(&[Ok(())], took);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = Instant::now();
            rig.stop.cancel();
            rig.task.await.unwrap();
            assert_eq!(before.elapsed(), Duration::ZERO);
            assert_eq!(rig.beats.count(), 1);
        }
    }
}
