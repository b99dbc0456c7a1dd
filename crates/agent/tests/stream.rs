//! The session that the agent dials, against a driver that is a script: breaks, restarts, peers that do not keep the rules,
//! and an agent that has no open port.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use agent::extension;
use agent::session::{self, SessionError};
use agent::{Agent, Dispatcher, Settings};
use hardware::manager::StepFuture;
use hardware::{HardwareManager, Progress, Step, StepCall, StepError, StepKind, Support};
use hardware_sim::{SimMachine, disk};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::stream::{
    Conn, Driver, NODE, OtherCommand, OtherFrame, OtherWelcome, PATIENCE, Ruled, Session, given, session, welcome,
};
use support::{Rig, TOKEN, settings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::rpc::{self, LogCredit};
use wire::session::{Frame, FromAgent, FromDriver, PROTOCOL_MINOR, Reason, Violation};

/// A manager whose step goes through stages, and counts how often it was run.
struct Stages(Arc<AtomicUsize>);

impl HardwareManager for Stages {
    fn class_name(&self) -> &str {
        "Stages"
    }
    fn name(&self) -> &str {
        "stages"
    }
    fn version(&self) -> &str {
        "1"
    }
    fn evaluate(&self) -> Support {
        Support::MAINLINE
    }
    fn steps(&self, _: StepKind, _: &Value, _: &Value) -> Vec<Step> {
        vec![Step::new("deploy", "stages", 0)]
    }
    fn run(&self, call: StepCall) -> StepFuture<'_> {
        Box::pin(async move {
            self.0.fetch_add(1, Ordering::SeqCst);
            let report = |stage: &str, done| {
                let stage = stage.to_owned();
                call.control.report(Progress { stage, done, total: Some(10), rate: 1, eta: None, stalled: None });
            };
            match call.step.step.as_str() {
                "stages" => {
                    report("fetch", 1);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    report("write", 5);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(json!("done"))
                }
                "endless" => {
                    call.control.cancelled().await;
                    Err(StepError::Cancelled)
                }
                other => Err(StepError::Incompatible(other.to_owned())),
            }
        })
    }
}

fn staged(settings: Settings) -> (Rig, Arc<AtomicUsize>) {
    let machine = SimMachine::new();
    machine.add_disk(disk("/dev/vda", 8 << 30));
    let machine = Arc::new(machine);
    let runs = Arc::new(AtomicUsize::new(0));
    let built = Agent::builder(Arc::clone(&machine) as _, settings).manager(Stages(Arc::clone(&runs))).build();
    let (agent, _) = built.unwrap();
    let dispatcher = Dispatcher::new(Arc::clone(&agent), extension::standard());
    (Rig { machine, agent, dispatcher }, runs)
}

fn step(name: &str) -> Value {
    json!({"step": {"step": name, "interface": "deploy"}, "node": {"uuid": NODE}, "ports": []})
}

const STEP: &str = "deploy.execute_deploy_step";

fn document(said: &FromAgent) -> Option<Value> {
    match said {
        FromAgent::Command { document, .. } => serde_json::from_slice(document).ok(),
        _ => None,
    }
}

/// Status of each state that was told of a command, in order.
fn told(heard: &[FromAgent], id: Uuid) -> Vec<String> {
    let documents = heard.iter().filter_map(document).filter(|document| document["id"] == id.to_string());
    documents.map(|document| document["command_status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_agent_enrols_with_its_token_and_does_what_its_driver_says() {
    let (rig, _) = staged(settings());
    let (mut driver, stop) = (Driver::start().await, CancellationToken::new());
    let stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let asked = driver.asked.recv().await.unwrap();
    assert_eq!((asked.node_uuid.as_str(), asked.agent_token.as_str()), (NODE, TOKEN));
    assert_eq!(asked.session_id, stream.id.to_string());
    assert!(!format!("{asked:?}").contains(TOKEN));
    let mut conn = driver.connection().await;
    let uri = wire::session::node_uri(NODE.parse().unwrap());
    let certificate = conn.certificate.clone().expect("the agent shows a certificate");
    assert!(certificate.windows(uri.len()).any(|window| window == uri.as_bytes()));
    let hello = conn.hello().await;
    assert_eq!((hello.node.to_string().as_str(), hello.last_received), (NODE, 0));
    assert_eq!(hello.session, stream.id);
    assert!(!stream.beat(), "nobody has welcomed the agent yet");
    drop(conn);
    let mut ruled = Ruled::new(driver);
    ruled.greet().await;
    assert_eq!(ruled.hear().await, FromAgent::Listed(0));
    let id = Uuid::new_v4();
    ruled.say(given(id, STEP, &step("stages"))).await;
    let ended = ruled.outcome(id).await;
    assert_eq!(ended.body["command_result"]["deploy_result"], "done", "{}", ended.body);
    assert_eq!(told(&ruled.heard, id), ["RUNNING", "SUCCEEDED"]);
    let stages: Vec<&str> = ruled
        .heard
        .iter()
        .filter_map(|said| match said {
            FromAgent::Progress { id: of, progress } if *of == id => Some(progress.stage.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(stages, ["fetch", "write"]);
    assert!(stream.beat());
    assert!(matches!(ruled.hear().await, FromAgent::Heartbeat(_)));
    // One key for each boot: the connection that was dropped was made anew, with a certificate for the same key.
    let again = ruled.driver.asked.recv().await.unwrap();
    assert_eq!((again.csr, again.session_id), (asked.csr, asked.session_id));
    stop.cancel();
    tokio::time::timeout(PATIENCE, stream.finished()).await.unwrap();
}

/// The frames of a deployment's command, with the connection cut after each of them in turn: before it was acknowledged, so
/// that it comes again.
#[tokio::test]
async fn a_break_after_any_frame_loses_nothing_and_does_nothing_twice() {
    let cut_after = |frames: usize| async move {
        let (rig, runs) = staged(settings());
        let (driver, stop) = (Driver::start().await, CancellationToken::new());
        let _stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
        let mut ruled = Ruled::new(driver);
        let id = Uuid::new_v4();
        ruled.say(given(id, STEP, &step("stages"))).await;
        for _ in 0..frames {
            // Less is said than the last of these wait for: the command's end, acknowledgements along the way.
            let conn = ruled.greet().await;
            let _ = tokio::time::timeout(Duration::from_secs(1), conn.incoming.message()).await;
        }
        // What was read is as if it had not been: the link has not seen it.
        ruled.cut();
        let ended = ruled.outcome(id).await;
        assert_eq!(ended.body["command_status"], "SUCCEEDED", "cut after {frames}: {}", ended.body);
        let told = told(&ruled.heard, id);
        assert!(told.len() <= 2 && told.last().unwrap() == "SUCCEEDED", "cut after {frames}: {told:?}");
        assert_eq!(runs.load(Ordering::SeqCst), 1, "cut after {frames}");
        stop.cancel();
    };
    futures::future::join_all((0..7).map(cut_after)).await;
}

#[tokio::test]
async fn a_driver_that_remembers_nothing_gets_a_list_and_a_command_that_it_repeats_is_not_done_again() {
    let (rig, runs) = staged(settings());
    let (driver, stop) = (Driver::start().await, CancellationToken::new());
    let _stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let mut ruled = Ruled::new(driver);
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    ruled.say(given(first, STEP, &step("stages"))).await;
    assert_eq!(ruled.outcome(first).await.status, 200);
    // The same again, on the same connection.
    ruled.say(given(first, STEP, &step("stages"))).await;
    assert_eq!(ruled.outcome(first).await.body["command_status"], "SUCCEEDED");
    ruled.say(given(second, STEP, &step("endless"))).await;
    while told(&ruled.heard, second).is_empty() {
        ruled.hear().await;
    }
    ruled.forget();
    ruled.heard.clear();
    while !matches!(ruled.hear().await, FromAgent::Listed(2)) {}
    assert_eq!(told(&ruled.heard, first), ["SUCCEEDED"]);
    assert_eq!(told(&ruled.heard, second), ["RUNNING"]);
    ruled.say(given(second, STEP, &step("endless"))).await;
    ruled.say(FromDriver::Cancel(second)).await;
    let ended = ruled.outcome(second).await;
    assert_eq!(ended.body["command_error"]["type"], "CommandCancelled", "{}", ended.body);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(rig.dispatcher.list().len(), 2);
    // Of an id that nobody knows there is nothing to stop.
    let nobody = Uuid::new_v4();
    ruled.say(FromDriver::Cancel(nobody)).await;
    let answer = ruled.outcome(nobody).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
}

#[tokio::test]
async fn a_result_that_nobody_could_be_told_is_told_when_there_is_a_connection_again() {
    let (rig, _) = staged(settings());
    let (driver, stop) = (Driver::start().await, CancellationToken::new());
    let _stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let mut ruled = Ruled::new(driver);
    let id = Uuid::new_v4();
    ruled.say(given(id, STEP, &step("stages"))).await;
    while told(&ruled.heard, id).is_empty() {
        ruled.hear().await;
    }
    ruled.driver.refuse(Some(tonic::Status::unavailable("not now")));
    ruled.cut();
    let record = rig.dispatcher.get(&id.to_string()).unwrap();
    tokio::time::timeout(PATIENCE, record.wait()).await.unwrap();
    ruled.driver.refuse(None);
    assert_eq!(ruled.outcome(id).await.body["command_status"], "SUCCEEDED");
    assert_eq!(told(&ruled.heard, id).last().unwrap(), "SUCCEEDED");
}

/// Plays `driver` against a new agent's first connection, and returns why the agent closed it. The agent has to come back
/// and to do what it is told then.
async fn closes(driver: impl AsyncFnOnce(&mut Conn)) -> Violation {
    let (rig, _) = staged(settings());
    let (mut listener, stop) = (Driver::start().await, CancellationToken::new());
    let _stream = session(&rig.agent, &rig.dispatcher, &listener, &stop).await;
    let mut conn = listener.connection().await;
    conn.hello().await;
    driver(&mut conn).await;
    let why = loop {
        let frame = conn.hear().await.expect("the agent says why it ends the connection");
        if let FromAgent::Close(violation) = frame.body {
            break violation;
        }
    };
    assert_eq!(conn.hear().await, None);
    let mut ruled = Ruled::new(listener);
    let answer = ruled.command("standby.sync", &json!({})).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    why
}

/// Something that has a number.
const CANCEL: FromDriver = FromDriver::Cancel(Uuid::nil());

fn unnumbered(body: FromDriver) -> Frame<FromDriver> {
    Frame { seq: 0, ack: 0, body }
}

fn numbered(seq: u64, body: FromDriver) -> Frame<FromDriver> {
    Frame { seq, ack: 0, body }
}

#[tokio::test]
async fn a_driver_that_does_not_keep_the_rules_is_told_so_and_nothing_is_lost() {
    let greet = async |conn: &mut Conn| conn.say(unnumbered(welcome(false, 0))).await;
    let early = closes(async |conn| conn.say(numbered(1, CANCEL)).await);
    let twice = closes(async |conn| {
        greet(conn).await;
        greet(conn).await;
    });
    let skipped = closes(async |conn| {
        greet(conn).await;
        conn.say(numbered(2, CANCEL)).await;
    });
    let reordered = closes(async |conn| {
        greet(conn).await;
        for seq in [1, 3, 2] {
            conn.say(numbered(seq, CANCEL)).await;
        }
    });
    let unsent = closes(async |conn| {
        greet(conn).await;
        conn.say(Frame { seq: 0, ack: 1000, body: FromDriver::Ack }).await;
    });
    let no_number = closes(async |conn| {
        greet(conn).await;
        conn.say(unnumbered(CANCEL)).await;
    });
    let no_uuid = closes(async |conn| {
        greet(conn).await;
        let cancel = rpc::driver_frame::Body::Cancel(rpc::Cancel { id: "7".to_owned() });
        conn.send(rpc::DriverFrame { seq: 1, ack: 0, body: Some(cancel) }).await;
    });
    let endless = closes(async |conn| {
        greet(conn).await;
        for _ in 0..2000 {
            conn.say(unnumbered(FromDriver::Ack)).await;
        }
    });
    let restarted = closes(async |conn| conn.say(unnumbered(welcome(false, 3))).await);
    let beyond = closes(async |conn| conn.say(unnumbered(welcome(true, 3))).await);
    let (early, twice, skipped, reordered, unsent) = tokio::join!(early, twice, skipped, reordered, unsent);
    let (no_number, no_uuid, endless, restarted, beyond) = tokio::join!(no_number, no_uuid, endless, restarted, beyond);
    let reasons: Vec<String> =
        [early, twice, skipped, reordered, unsent, no_number, no_uuid, endless, restarted, beyond]
            .map(|violation| format!("{:?}: {violation}", violation.reason))
            .into();
    insta::assert_snapshot!(reasons.join("\n"));
}

#[tokio::test]
async fn arguments_that_cannot_be_read_are_refused_and_the_connection_stays() {
    let (rig, _) = staged(settings());
    let session = Session::open(&rig.agent, &rig.dispatcher).await;
    let mut ruled = session.ruled().await;
    for (params, status) in [(&b"{"[..], 400), (b"[]", 400), (&[b'['; 100], 400)] {
        let id = Uuid::new_v4();
        let command =
            rpc::Command { id: id.to_string(), name: "standby.sync".to_owned(), params: params.to_vec().into() };
        ruled.send(rpc::driver_frame::Body::Command(command)).await;
        let answer = ruled.outcome(id).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body["faultstring"].as_str().unwrap().contains("cannot be read"), "{}", answer.body);
    }
    // A body of a later version is acknowledged and skipped.
    ruled.send_unknown().await;
    assert_eq!(ruled.command("standby.sync", &json!({})).await.status, 200);
    assert_eq!(ruled.connections, 1);
}

#[tokio::test]
async fn commands_without_end_are_refused_once_enough_of_them_wait() {
    let (rig, _) = staged(settings());
    let session = Session::open(&rig.agent, &rig.dispatcher).await;
    let mut ruled = session.ruled().await;
    let endless = Uuid::new_v4();
    ruled.say(given(endless, STEP, &step("endless"))).await;
    let ids: Vec<Uuid> = (0..60).map(|_| Uuid::new_v4()).collect();
    for id in &ids {
        ruled.say(given(*id, "standby.sync", &json!({}))).await;
    }
    for _ in &ids {
        let refused = loop {
            if let FromAgent::Refused(refused) = ruled.hear().await {
                break refused;
            }
        };
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.faultstring.starts_with("Agent is busy: "), "{refused:?}");
    }
    ruled.say(FromDriver::Cancel(endless)).await;
    ruled.outcome(endless).await;
    assert_eq!(rig.dispatcher.list().len(), 1);
    assert_eq!(ruled.command("standby.sync", &json!({})).await.status, 200);
}

#[tokio::test]
async fn a_spent_token_leaves_the_agent_without_a_session_and_it_does_not_storm_the_driver() {
    let (rig, _) = staged(settings());
    let (mut driver, stop) = (Driver::start().await, CancellationToken::new());
    driver.refuse(Some(tonic::Status::permission_denied("this token is spent")));
    let stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    driver.asked.recv().await.unwrap();
    assert!(driver.connection_within(Duration::from_secs(4)).await.is_none());
    assert!(driver.asked.try_recv().is_err(), "the next try is 15 s away at least");
    assert!(!stream.beat());
    stop.cancel();
    tokio::time::timeout(PATIENCE, stream.finished()).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_token() {
    let (rig, _) = staged(settings());
    let (mut real, mut false_one) = (Driver::start().await, Driver::start().await);
    let stop = CancellationToken::new();
    // Somebody answers at the place of the driver.
    false_one.offer.ca.clone_from(&real.offer.ca);
    let _stream = session(&rig.agent, &rig.dispatcher, &false_one, &stop).await;
    assert!(false_one.connection_within(Duration::from_secs(3)).await.is_none());
    assert!(false_one.asked.try_recv().is_err() && real.asked.try_recv().is_err());
}

#[tokio::test]
async fn the_last_command_of_a_session_is_answered_before_it_ends() {
    let (rig, _) = staged(settings());
    let (driver, stop) = (Driver::start().await, CancellationToken::new());
    let stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let mut ruled = Ruled::new(driver);
    ruled.greet().await;
    let closed = {
        let (agent, stop) = (Arc::clone(&rig.agent), stop.clone());
        tokio::spawn(async move {
            agent.closed().await;
            stop.cancel();
        })
    };
    let answer = ruled.command("system.lockdown", &json!({})).await;
    assert_eq!(answer.body["command_status"], "SUCCEEDED", "{}", answer.body);
    closed.await.unwrap();
    // The reference driver acknowledges what it hears, so nothing has to be waited for.
    let close = tokio::time::timeout(PATIENCE, ruled.close()).await.unwrap();
    assert_eq!(close.map(|violation| violation.reason), Some(Reason::GoingAway));
    tokio::time::timeout(PATIENCE, stream.finished()).await.unwrap();
}

#[tokio::test]
async fn the_log_is_sent_line_by_line_within_the_credit_and_from_where_the_driver_has_it() {
    let (rig, _) = staged(settings());
    for number in 1..=5 {
        use std::io::Write as _;
        use tracing_subscriber::fmt::MakeWriter as _;
        writeln!(rig.agent.logs.make_writer(), "line {number}").unwrap();
    }
    let (driver, stop) = (Driver::start().await, CancellationToken::new());
    let _stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let mut ruled = Ruled::new(driver);
    ruled.greet().await;
    let (mut batches, credits) = tokio::time::timeout(PATIENCE, ruled.driver.logs.recv()).await.unwrap().unwrap();
    let hello = batches.message().await.unwrap().unwrap();
    assert_eq!((hello.node_uuid.as_str(), hello.lines.len()), (NODE, 0));
    let grant = async |received_through, lines| {
        credits.send(Ok(LogCredit { received_through, lines })).await.unwrap();
    };
    let numbers = |batch: rpc::LogBatch| -> Vec<(u64, String)> {
        batch.lines.into_iter().map(|line| (line.number, line.text)).collect()
    };
    grant(0, 2).await;
    let batch = numbers(batches.message().await.unwrap().unwrap());
    assert_eq!(batch[0].0, 1);
    assert!(batch[0].1.starts_with("line 1"), "{batch:?}");
    assert_eq!(batch.len(), 2);
    // Neither without credit nor before the last batch has arrived is there more.
    grant(1, 10).await;
    grant(2, 0).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), batches.message()).await.is_err());
    grant(2, 10).await;
    let batch = numbers(batches.message().await.unwrap().unwrap());
    assert_eq!(batch.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test]
async fn an_agent_that_may_not_listen_needs_a_driver_that_takes_sessions() {
    let settings = Settings { listens: false, ..settings() };
    let (rig, _) = staged(settings);
    let error = session::run(&rig.agent, &rig.dispatcher, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, SessionError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("boot it without ferric.listen=no"), "{error}");
}

/// What an agent says to a driver of another version that welcomes it like this and gives it two commands, up to the state of the
/// second one.
async fn under_another(welcome: OtherWelcome, between: Option<OtherFrame>) -> Vec<Frame<FromAgent>> {
    let (rig, _) = staged(settings());
    let extra = welcome.features.len() as u64;
    let (first, last) = (Uuid::new_v4(), Uuid::new_v4());
    let command = |id: Uuid| {
        Some(OtherCommand {
            id: id.to_string(),
            name: "standby.sync".to_owned(),
            params: b"{}".to_vec(),
            deadline: extra,
        })
    };
    let mut sayings = vec![
        OtherFrame { welcome: Some(welcome), ..OtherFrame::default() },
        OtherFrame {
            seq: 1,
            command: command(first),
            trace: "x".repeat(100 * extra as usize),
            ..OtherFrame::default()
        },
    ];
    sayings.extend(between);
    let seq = sayings.len() as u64;
    sayings.push(OtherFrame { seq, command: command(last), ..OtherFrame::default() });
    let (driver, mut hears) = Driver::start_other(sayings).await;
    let stop = CancellationToken::new();
    let _stream = session(&rig.agent, &rig.dispatcher, &driver, &stop).await;
    let mut heard = Vec::new();
    loop {
        let frame = tokio::time::timeout(PATIENCE, hears.recv()).await.unwrap().unwrap();
        assert!(!matches!(frame.body, FromAgent::Close(_)), "{frame:?}");
        let is_last = document(&frame.body)
            .is_some_and(|state| state["id"] == last.to_string() && state["command_status"] == "SUCCEEDED");
        heard.push(frame);
        if is_last {
            let bodies: Vec<FromAgent> = heard.iter().map(|frame| frame.body.clone()).collect();
            assert_eq!(told(&bodies, first).last().unwrap(), "SUCCEEDED");
            assert_eq!(rig.dispatcher.list().len(), 2);
            return heard;
        }
    }
}

#[tokio::test]
async fn a_driver_of_the_next_minor_version_is_obeyed_and_what_it_adds_is_passed_over() {
    let welcome = OtherWelcome { protocol_minor: PROTOCOL_MINOR + 7, features: vec!["advice".to_owned(); 3] };
    let advice = Some(OtherCommand { id: "how".to_owned(), ..OtherCommand::default() });
    let heard = under_another(welcome, Some(OtherFrame { seq: 2, advice, ..OtherFrame::default() })).await;
    assert_eq!(heard.last().unwrap().ack, 3, "what is not known is acknowledged as well");
}

#[tokio::test]
async fn a_driver_that_says_less_is_obeyed() {
    under_another(OtherWelcome::default(), None).await;
}
