use super::*;
use crate::command::Dispatcher;
use crate::config::Settings;
use crate::extension;
use crate::state::Agent;
use hardware_sim::SimMachine;
use serde_json::json;
use wire::agent::CommandRequest;
use wire::session::link::WINDOW;

fn dispatcher() -> Arc<Dispatcher> {
    let built = Agent::builder(Arc::new(SimMachine::new()), Settings::default()).build();
    let (agent, _) = built.unwrap();
    Dispatcher::new(agent, extension::standard())
}

async fn sync(dispatcher: &Arc<Dispatcher>) -> Arc<Record> {
    let request = CommandRequest { name: "standby.sync".to_owned(), params: serde_json::Map::new() };
    dispatcher.submit(request).await.unwrap()
}

/// Everything that is due now.
fn said(talk: &mut Talk, dispatcher: &Dispatcher) -> Vec<FromAgent> {
    let commands = dispatcher.list();
    std::iter::from_fn(|| talk.next(&commands, Instant::now())).map(|frame| frame.body).collect()
}

fn ids(said: &[FromAgent]) -> Vec<String> {
    let documents = said.iter().filter_map(|said| match said {
        FromAgent::Command { document, .. } => serde_json::from_slice::<Value>(document).ok(),
        _ => None,
    });
    documents.map(|document| document["id"].as_str().unwrap().to_owned()).collect()
}

fn driver_welcome(resumed: bool, last_received: u64) -> Welcome {
    Welcome {
        resumed,
        last_received,
        protocol_minor: PROTOCOL_MINOR,
        driver_version: "test".to_owned(),
        heartbeat_timeout: 300,
    }
}

fn acknowledged(talk: &mut Talk, ack: u64) {
    talk.hear(Frame { seq: 0, ack, body: FromDriver::Ack }).unwrap();
}

#[tokio::test]
async fn a_driver_that_acknowledges_nothing_is_sent_a_window_and_hears_the_rest_later() {
    let (dispatcher, mut talk) = (dispatcher(), Talk::default());
    assert_eq!(talk.welcomed(&driver_welcome(false, 0)), Ok(vec![]));
    let mut records = Vec::new();
    for _ in 0..WINDOW + 10 {
        records.push(sync(&dispatcher).await.id().to_owned());
    }
    let first = said(&mut talk, &dispatcher);
    assert_eq!(first.len() as u64, WINDOW);
    talk.beat();
    talk.beat();
    assert_eq!(said(&mut talk, &dispatcher), []);
    acknowledged(&mut talk, WINDOW);
    let second = said(&mut talk, &dispatcher);
    assert_eq!([ids(&first), ids(&second)].concat(), records);
    let rest = &second[10..];
    let count = u32::try_from(records.len()).unwrap();
    assert_eq!(rest, [FromAgent::Listed(count), FromAgent::Heartbeat(Heartbeat::default())]);
}

#[tokio::test]
async fn answers_that_nobody_reads_end_the_connection_and_not_the_memory() {
    let mut talk = Talk::default();
    let refused = || Refused { id: Uuid::nil(), status: 409, faultstring: "busy".to_owned() };
    for _ in 0..ANSWERS {
        talk.refuse(refused()).unwrap();
    }
    assert_eq!(talk.refuse(refused()).unwrap_err().reason, Reason::Flood);
}

#[tokio::test]
async fn a_refusal_survives_a_driver_that_remembers_nothing() {
    let (dispatcher, mut talk) = (dispatcher(), Talk::default());
    talk.welcomed(&driver_welcome(false, 0)).unwrap();
    let refused = Refused { id: Uuid::new_v4(), status: 409, faultstring: "busy".to_owned() };
    talk.refuse(refused.clone()).unwrap();
    talk.beat();
    assert_eq!(said(&mut talk, &dispatcher).len(), 3);
    talk.welcomed(&driver_welcome(false, 0)).unwrap();
    let again = said(&mut talk, &dispatcher);
    let wanted = [FromAgent::Refused(refused), FromAgent::Listed(0), FromAgent::Heartbeat(Heartbeat::default())];
    assert_eq!(again, wanted);
    // One that remembers gets what it has not received, and nothing twice.
    let frames = talk.welcomed(&driver_welcome(true, 1)).unwrap();
    assert_eq!(frames.iter().map(|frame| frame.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(said(&mut talk, &dispatcher), []);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_once_a_second_and_at_once_when_the_stage_changes() {
    let (dispatcher, mut talk) = (dispatcher(), Talk::default());
    talk.welcomed(&driver_welcome(false, 0)).unwrap();
    // Ends after a second of its own.
    let power_off = CommandRequest { name: "standby.power_off".to_owned(), params: serde_json::Map::new() };
    let record = dispatcher.submit(power_off).await.unwrap();
    assert_eq!(said(&mut talk, &dispatcher).len(), 2);
    let mut told = |stage: &str, done| {
        let progress =
            hardware::Progress { stage: stage.to_owned(), done, total: None, rate: 0, eta: None, stalled: None };
        hardware::StepControl::report(&*record, progress);
        said(&mut talk, &dispatcher).len()
    };
    assert_eq!([told("fetch", 1), told("fetch", 2), told("write", 3), told("write", 4)], [1, 0, 1, 0]);
    tokio::time::advance(PROGRESS_INTERVAL).await;
    assert_eq!(told("write", 4), 1, "what came meanwhile is told when it is time");
    assert_eq!(told("write", 4), 0);
}

#[tokio::test]
async fn progress_waits_for_room_and_only_the_newest_is_told() {
    let (dispatcher, mut talk) = (dispatcher(), Talk::default());
    talk.welcomed(&driver_welcome(false, 0)).unwrap();
    for _ in 0..WINDOW - 1 {
        sync(&dispatcher).await;
    }
    assert_eq!(said(&mut talk, &dispatcher).len() as u64, WINDOW, "all commands, and the end of the list");
    let power_off = CommandRequest { name: "standby.power_off".to_owned(), params: serde_json::Map::new() };
    let record = dispatcher.submit(power_off).await.unwrap();
    for done in 0..1000 {
        let progress =
            hardware::Progress { stage: done.to_string(), done, total: None, rate: 0, eta: None, stalled: None };
        hardware::StepControl::report(&*record, progress);
        assert_eq!(said(&mut talk, &dispatcher), []);
    }
    acknowledged(&mut talk, WINDOW);
    let later = said(&mut talk, &dispatcher);
    assert_eq!(later.len(), 2, "accepted, and how far it is: {later:?}");
    assert!(matches!(&later[1], FromAgent::Progress { progress, .. } if progress.done == 999), "{later:?}");
}

#[tokio::test]
async fn a_result_that_is_too_long_for_a_frame_is_left_out_and_its_length_told() {
    let result = wire::agent::CommandResult {
        id: Uuid::nil().to_string(),
        command_name: "x".to_owned(),
        command_status: CommandStatus::Succeeded,
        command_error: None,
        command_result: Some(json!("y".repeat(DOCUMENT_LIMIT))),
        progress: None,
    };
    let (document, omitted) = document(result);
    assert_eq!(omitted, DOCUMENT_LIMIT as u64 + 2);
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!((&document["command_status"], &document["command_result"]), (&json!("SUCCEEDED"), &Value::Null));
}
