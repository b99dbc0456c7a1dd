//! Who may have a session, and what it tells.
//!
//! The token of a node's boot is its proof, once: it is spent for the first key that asks with it, which is saved with the
//! number that the agent gave its boot. Both are forgotten with the token, so that nothing of an earlier boot counts.

use super::Conductor;
use super::change::Draft;
use super::heartbeat::heard;
use super::secret::same;
use crate::agents::stream::Sessions;
use crate::fault::Fault;
use crate::logs::Line;
use lifecycle::provision::HeartbeatEffect;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Node, Store};
use uuid::Uuid;
use wire::session::{Heartbeat, Hello, callback_url};

/// Key of the session of a node's boot in `driver_internal_info`: its number and the digest of its key.
pub(super) const SESSION: &str = "agent_session";

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// No such node, or not its token: one text for both.
    #[error("node and token do not belong together")]
    Unknown,
    /// The token was used with another key.
    #[error("the token has been used with another key; the node has to boot anew")]
    Spent,
    /// The driver cannot say now.
    #[error("the driver cannot answer now; try again")]
    Later,
}

/// The number of the session that a node's boot has enrolled.
pub(super) fn session_of(node: &Node) -> Option<Uuid> {
    enrolled(node).map(|(session, _)| session)
}

fn enrolled(node: &Node) -> Option<(Uuid, &str)> {
    let session = node.driver_internal_info.get(SESSION)?;
    let id = Uuid::try_parse(session.get("id")?.as_str()?).ok()?;
    Some((id, session.get("key")?.as_str()?))
}

impl<S: Store> Conductor<S> {
    /// The sessions that there are.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Takes a key for a node's boot, when the token is that of the node and was not used with another one.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn enrol(self: &Arc<Self>, node: Uuid, token: &str, session: Uuid, key: &str) -> Result<(), EnrolError> {
        let (this, token, key) = (self.clone(), token.to_owned(), key.to_owned());
        let taken = self
            .detached(async move {
                let (_, _, taken) = this.change(node, |draft| Ok(take_key(draft, &token, session, &key))).await?;
                Ok(taken)
            })
            .await;
        if matches!(taken, Ok(Err(EnrolError::Spent))) {
            self.boots.has_token(node, self.parts.clock.now());
        }
        match taken {
            Ok(taken) => taken,
            Err(Fault::NotFound(_)) => Err(EnrolError::Unknown),
            Err(fault) => {
                tracing::warn!(%node, %fault, "an enrolment could not be saved");
                Err(EnrolError::Later)
            }
        }
    }

    /// Whether this session with this key is that of the node's present boot; else why not.
    ///
    /// # Errors
    /// One sentence for the agent.
    pub async fn knows_session(&self, node: Uuid, session: Uuid, key: &str) -> Result<(), String> {
        let refused = || "the session is not that of the node's present boot; enrol again".to_owned();
        let node = self.store.node(node).await.map_err(|error| match error {
            store::StoreError::NotFound { .. } => refused(),
            error => {
                tracing::warn!(%node, %error, "cannot tell whether a session is right");
                "the driver cannot tell now; try again".to_owned()
            }
        })?;
        match enrolled(&node) {
            Some((id, own)) if id == session && own == key => Ok(()),
            _ => Err(refused()),
        }
    }

    /// Takes a heartbeat that came over a session.
    ///
    /// # Errors
    /// [`Fault`]: the session is not that of the node any more; or the store.
    pub async fn session_heartbeat(
        self: &Arc<Self>,
        node: Uuid,
        session: Uuid,
        hello: &Hello,
        heartbeat: Heartbeat,
    ) -> Result<(), Fault> {
        let (this, version) = (self.clone(), hello.agent_version.clone());
        let taken = self
            .detached(async move {
                let record = |draft: &mut Draft| {
                    if session_of(&draft.node) != Some(session) {
                        return Err(Fault::Conflict("the session is not that of the node's present boot".to_owned()));
                    }
                    let fast_track = this.settings.fast_track_of(&draft.node);
                    // An agent that listens has told where.
                    let known = draft.node.driver_internal_info.contains_key("agent_url");
                    let url = (!known).then(|| callback_url(session));
                    let told = [
                        ("agent_url", url.as_ref()),
                        ("agent_version", Some(&version)),
                        ("agent_status", heartbeat.status.as_ref()),
                        ("agent_status_message", heartbeat.message.as_ref()),
                    ];
                    Ok(heard(draft, fast_track, &told))
                };
                let (_, _, effect) = this.change(node, record).await?;
                if effect == HeartbeatEffect::Act {
                    this.wake(node);
                }
                Ok(effect)
            })
            .await;
        self.metrics.heartbeat(&taken);
        taken.map(drop)
    }

    /// Something about the node's agent is new: whoever waits for it looks.
    pub fn agent_changed(self: &Arc<Self>, node: Uuid) {
        self.wake(node);
    }

    /// The number of the last line that was taken of the log of a node's boot.
    pub fn log_received(&self, node: Uuid, boot: &str) -> u64 {
        self.logs.received(node, boot)
    }

    /// Takes lines that a ramdisk logged, those up to the number `through`.
    pub fn log_lines(&self, node: Uuid, boot: &str, through: u64, lines: Vec<Line>) {
        let earlier = self.logs.add(node, boot, through, lines);
        self.save_lines(node, earlier);
    }
}

/// Takes a key for the boot of a node.
fn take_key(draft: &mut Draft, token: &str, session: Uuid, key: &str) -> Result<(), EnrolError> {
    draft.durability = None;
    let stored = draft.node.driver_internal_info.get("agent_secret_token").and_then(Value::as_str);
    if !stored.is_some_and(|stored| same(stored, token)) {
        return Err(EnrolError::Unknown);
    }
    match enrolled(&draft.node) {
        Some((id, own)) if id == session && own == key => Ok(()),
        Some(_) => {
            tracing::warn!(node = %draft.node.uuid, "the node's token was used a second time, with another key");
            Err(EnrolError::Spent)
        }
        None => {
            let value = json!({"id": session.to_string(), "key": key});
            draft.node.driver_internal_info.insert(SESSION.to_owned(), value);
            draft.durability = Some(store::Durability::Now);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::stream::Attached;
    use crate::conductor::runner::Trouble;
    use crate::conductor::{Parts, Settings};
    use crate::flow::{Flow, FlowKind};
    use jiff::Timestamp;
    use serde_json::Map;
    use std::time::Duration;
    use store::MemoryStore;
    use wire::agent::{CommandRequest, CommandResult, CommandStatus};
    use wire::session::{Frame, FromAgent};

    /// A conductor, and a node whose agent has told where it listens and has enrolled.
    async fn site() -> (tempfile::TempDir, Arc<Conductor<MemoryStore>>, Node, Hello) {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new("here", folder.path(), "http://127.0.0.1");
        settings.sync_power_state_interval = Duration::ZERO;
        let conductor = Conductor::start(Arc::new(MemoryStore::new()), settings, Parts::real()).await.unwrap();
        let boot = Uuid::new_v4();
        let mut node = Node::new(Uuid::new_v4(), "fake-hardware", Timestamp::UNIX_EPOCH);
        let told = [
            ("agent_url", json!("http://127.0.0.1:9")),
            ("agent_secret_token", json!("T")),
            (SESSION, json!({"id": boot.to_string(), "key": "k"})),
        ];
        for (key, value) in told {
            node.driver_internal_info.insert(key.to_owned(), value);
        }
        let hello = Hello {
            node: node.uuid,
            session: boot,
            last_received: 0,
            protocol_minor: 0,
            agent_version: "13.0.0".to_owned(),
            ferric_version: "0.1.0".to_owned(),
        };
        (folder, conductor, node, hello)
    }

    /// A connection over which the agent has listed its commands, of which there are none.
    fn listed(conductor: &Conductor<MemoryStore>, hello: &Hello) -> Attached {
        let attached = conductor.sessions().attach(hello);
        let listed = Frame { seq: 1, ack: 0, body: FromAgent::Listed(0) };
        attached.session.receive(attached.connection, listed).unwrap();
        attached.session.list_ends(0);
        attached
    }

    #[tokio::test]
    async fn rest_is_taken_where_nothing_can_arrive_over_the_session_any_more() {
        let (_folder, conductor, node, hello) = site().await;
        let first = listed(&conductor, &hello);
        let agent = conductor.reach(&node).unwrap();
        let request = CommandRequest { name: "deploy.execute_deploy_step".to_owned(), params: Map::new() };
        let given = tokio::spawn(async move { agent.execute(request, false).await });
        // The connection itself rang as well.
        while first.session.next(first.connection).is_none() {
            first.session.work.notified().await;
        }
        given.abort();
        assert!(given.await.is_err());
        first.session.detach(first.connection);
        // The cut is over when REST has been given the step: it must not come a second time.
        assert!(conductor.reach(&node).is_ok());
        let second = conductor.sessions().attach(&hello);
        assert!(!second.resumed && second.again.is_empty());
        assert!(second.session.next(second.connection).is_none());
        conductor.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_rescue_is_not_done_because_its_agent_is_gone_but_because_it_has_said_so() {
        let (_folder, conductor, mut node, hello) = site().await;
        node.instance_info.insert("hashed_rescue_password".to_owned(), json!("$6$x$y"));
        let first = listed(&conductor, &hello);
        let flow = Flow::new(Uuid::new_v4(), FlowKind::Rescue, Vec::new(), Timestamp::UNIX_EPOCH);
        for _ in 0..2 {
            let nobody = conductor.finalize_rescue(&node, &flow).await;
            assert!(matches!(nobody, Err(Trouble::Later(_))), "{nobody:?}");
        }
        let done = CommandResult {
            id: flow.id.to_string(),
            command_name: "finalize_rescue".to_owned(),
            command_status: CommandStatus::Succeeded,
            command_error: None,
            command_result: None,
            progress: None,
        };
        first.session.command(done, 100);
        first.session.detach(first.connection);
        assert!(conductor.finalize_rescue(&node, &flow).await.is_ok());
        conductor.stop().await;
    }
}
