//! What a driver makes of agents that dial in: who they say they are, what they say, and what they log.

use driver::agents::stream::{ALL_BYTES, REMEMBERED, Session, Sessions, weight};
use driver::logs::{LINE, Logs};
use driver::session::authority::{Authority, Presented, Request};
use driver::session::{check_batch, state_of};
use futures::FutureExt as _;
use prost::Message as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use uuid::Uuid;
use wire::rpc::{AgentFrame, EnrollRequest, LogBatch};
use wire::session::{Frame, FromAgent, FromDriver, Hello, LOG_LINES, Receipt};

const NODE: Uuid = Uuid::from_u128(1);

/// The session of one node, as connections come and go: each piece of the input is a first byte that says what happens, and
/// what belongs to it. Frames go down numbered without a gap, none over a connection that is not in use; what was withdrawn
/// does not come again; and what is remembered is bounded.
#[expect(clippy::unwrap_used, reason = "without a runtime a target cannot run at all")]
pub fn session_state(data: &[u8]) {
    // What waits for an answer has a timer, which never runs here.
    thread_local!(static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        connections(data);
    });
}

fn connections(mut data: &[u8]) {
    let sessions = Sessions::default();
    let mut current: Option<(Arc<Session>, u64)> = None;
    // The number of the frame that comes next down this session.
    let mut next = 1;
    while let Some((what, rest)) = data.split_first() {
        data = rest;
        match what % 7 {
            0 => {
                let Some((&[boot, last], rest)) = data.split_first_chunk() else { return };
                data = rest;
                let attached = sessions.attach(&hello(boot, last));
                if !attached.resumed {
                    assert!(attached.again.is_empty() && attached.last_received == 0);
                    next = 1;
                }
                for (frame, behind) in attached.again.iter().zip(attached.again.iter().skip(1)) {
                    assert_eq!(behind.seq, frame.seq + 1);
                }
                assert!(attached.again.last().is_none_or(|last| last.seq + 1 == next));
                if let Some((session, connection)) = current.replace((attached.session, attached.connection)) {
                    assert!(session.next(connection).is_none() && session.acknowledge(connection).is_none());
                }
            }
            1 => {
                let Ok(frame) = AgentFrame::decode_length_delimited(&mut data) else { return };
                if let Some((session, connection)) = &current {
                    if hear(session, *connection, frame).is_err() {
                        session.detach(*connection);
                    }
                    let held = sessions.held();
                    assert!(held <= ALL_BYTES, "{held}");
                }
            }
            2 => {
                let Some((session, connection)) = &current else { continue };
                if let Some(frame) = session.next(*connection) {
                    assert_eq!(frame.seq, next);
                    next += 1;
                }
            }
            3 => {
                if let Some((session, connection)) = &current {
                    session.detach(*connection);
                }
            }
            4 => {
                let boot = data.first().copied().unwrap_or_default();
                if sessions.withdraw(NODE, of_boot(boot)) {
                    let attached = sessions.attach(&hello(boot, 0));
                    assert!(attached.again.is_empty() && attached.session.next(attached.connection).is_none());
                    next = if attached.resumed { next } else { 1 };
                    current = Some((attached.session, attached.connection));
                }
            }
            5 => {
                let boot = data.first().copied().unwrap_or_default();
                if let Some(agent) = sessions.agent(NODE, of_boot(boot)) {
                    let told = agent.cancel("00000000-0000-0000-0000-00000000000c").now_or_never();
                    assert!(told.is_some(), "to say something waits for nobody");
                    if let Some(Ok(listed)) = agent.commands().now_or_never() {
                        assert!(listed.len() <= REMEMBERED);
                    }
                }
            }
            _ => sessions.forget(NODE),
        }
    }
    sessions.forget(NODE);
    drop(current);
    assert_eq!(sessions.held(), 0);
}

fn of_boot(boot: u8) -> Uuid {
    Uuid::from_u128(u128::from(boot % 2) + 2)
}

fn hello(boot: u8, last_received: u8) -> Hello {
    Hello {
        node: NODE,
        session: of_boot(boot),
        last_received: last_received.into(),
        protocol_minor: 0,
        agent_version: String::new(),
        ferric_version: String::new(),
    }
}

/// A frame as a connection takes it.
fn hear(session: &Arc<Session>, connection: u64, frame: AgentFrame) -> Result<(), wire::session::Violation> {
    let Receipt::New(body) = session.receive(connection, Frame::<FromAgent>::try_from(frame)?)? else { return Ok(()) };
    match body {
        FromAgent::Command { document, .. } => session.command(state_of(&document)?, weight(&document)),
        FromAgent::Refused(refused) => session.refuse(refused),
        FromAgent::Progress { id, progress } => session.progress(id, progress),
        FromAgent::Listed(count) => session.list_ends(count),
        FromAgent::Hello(_) | FromAgent::Heartbeat(_) | FromAgent::Ack | FromAgent::Close(_) | FromAgent::Unknown => {}
    }
    if let Some(frame) = session.acknowledge(connection) {
        assert!(matches!(frame, Frame { seq: 0, body: FromDriver::Ack, .. }));
    }
    Ok(())
}

/// Batches of a log in a row, each with its length before it. Lines are taken in order and within the room there is, and what
/// is kept of them may be shown on a terminal.
pub fn log_batches(mut data: &[u8]) {
    let logs = Logs::new(PathBuf::new());
    let mut received = 0_u64;
    while let Ok(batch) = LogBatch::decode_length_delimited(&mut data) {
        let Some(allowed) = received.checked_add(LOG_LINES as u64) else { return };
        let Ok(lines) = check_batch(&batch, received, allowed) else { continue };
        assert!(lines.len() <= LOG_LINES + 1);
        for line in &lines {
            assert!(line.message.len() <= LINE + 8 && !line.message.chars().any(char::is_control), "{line:?}");
            assert!(!line.target.chars().any(char::is_control), "{line:?}");
        }
        if let Some(last) = batch.lines.last() {
            assert!(last.number > received && last.number - batch.dropped.min(last.number) <= allowed);
            received = last.number;
        }
        let earlier = logs.add(NODE, "boot", received, lines);
        assert!(earlier.is_empty() && logs.received(NODE, "boot") == received);
    }
}

/// A request for a certificate, bare or as an enrolment has it, and a certificate of anybody. Whatever is asked, what is signed
/// names the node and the key, and nothing else.
pub fn enrolment(data: &[u8]) {
    thread_local!(static AUTHORITY: Authority = authority());
    let _ = Presented::read(data);
    let csr = EnrollRequest::decode(data).map(|request| request.csr).unwrap_or_default();
    for der in [data, &csr] {
        let Ok(request) = Request::read(der) else { continue };
        let issued = AUTHORITY.with(|authority| authority.issue(&request, NODE, SystemTime::UNIX_EPOCH));
        let Ok(issued) = issued else { continue };
        let der = certificate(&issued.certificate);
        let presented = der.as_deref().and_then(Presented::read);
        assert!(presented.is_some_and(|presented| presented.node == NODE && presented.key == request.key()));
    }
}

#[expect(clippy::unwrap_used, reason = "without its authority a target cannot run at all")]
fn authority() -> Authority {
    let folder = tempfile::tempdir().unwrap();
    Authority::open(&folder.path().join("ca.pem"), SystemTime::UNIX_EPOCH).unwrap()
}

/// The bytes of a certificate in PEM.
fn certificate(pem: &str) -> Option<Vec<u8>> {
    use rustls_pki_types::pem::PemObject as _;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some(der.to_vec())
}
