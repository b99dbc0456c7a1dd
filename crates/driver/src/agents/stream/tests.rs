use super::*;
use serde_json::Map;
use wire::agent::CommandError;

fn hello(session: Uuid, last_received: u64) -> Hello {
    Hello {
        node: Uuid::nil(),
        session,
        last_received,
        protocol_minor: 0,
        agent_version: "13.0.0".to_owned(),
        ferric_version: "0.1.0".to_owned(),
    }
}

fn request(name: &str) -> CommandRequest {
    CommandRequest { name: name.to_owned(), params: Map::new() }
}

fn result(id: Uuid, status: CommandStatus) -> CommandResult {
    CommandResult {
        id: id.to_string(),
        command_name: "sync".to_owned(),
        command_status: status,
        command_error: None,
        command_result: None,
        progress: None,
    }
}

fn frame(seq: u64, ack: u64, body: FromAgent) -> Frame<FromAgent> {
    Frame { seq, ack, body }
}

/// A session that is connected, listed and has said something.
fn connected(sessions: &Sessions, id: Uuid) -> Attached {
    let attached = sessions.attach(&hello(id, 0));
    attached.session.receive(attached.connection, frame(1, 0, FromAgent::Listed(0))).unwrap();
    attached.session.list_ends(0);
    attached
}

#[tokio::test(start_paused = true)]
async fn a_command_goes_down_once_under_its_id_and_its_state_comes_back() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let Attached { session, connection, .. } = connected(&sessions, boot);
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let id = Uuid::new_v4();
    let (answer, ()) = tokio::join!(agent.execute_as(id, request("standby.sync")), async {
        session.work.notified().await;
        let sent = session.next(connection).unwrap();
        assert!(matches!(&sent.body, FromDriver::Command(command) if command.id == id));
        assert!(session.next(connection).is_none());
        session.command(result(id, CommandStatus::Running), 100);
    });
    assert_eq!(answer.unwrap().id, id.to_string());
    session.command(result(id, CommandStatus::Succeeded), 100);
    let listed = agent.commands().await.unwrap();
    assert_eq!((listed.len(), &listed[0].command_status), (1, &CommandStatus::Succeeded));

    agent.cancel(&id.to_string()).await.unwrap();
    assert_eq!(session.next(connection).unwrap().body, FromDriver::Cancel(id));
    assert!(matches!(agent.cancel("the last one").await, Err(AgentError::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_those_of_rest() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let session = connected(&sessions, boot).session;
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let refuse = async |status: u16, text: &str| {
        let id = Uuid::new_v4();
        let refused = Refused { id, status, faultstring: text.to_owned() };
        tokio::join!(agent.execute_as(id, request("x.y")), async {
            session.work.notified().await;
            session.refuse(refused);
        })
        .0
    };
    let busy = refuse(409, "Agent is busy: executing command sync").await;
    assert!(matches!(busy, Err(AgentError::Busy(_))), "{busy:?}");
    let unknown = refuse(404, "no such command").await;
    assert!(matches!(unknown, Err(AgentError::Refused { status: 404, .. })), "{unknown:?}");
    let id = Uuid::new_v4();
    let mut wrong = result(id, CommandStatus::Failed);
    let text = |text: &str| text.to_owned();
    let (class, message, details) = (text("TypeError"), text("m"), text("unexpected keyword argument"));
    wrong.command_error = Some(CommandError { class, code: 400, message, details });
    let (answer, ()) = tokio::join!(agent.execute_as(id, request("x.y")), async {
        session.work.notified().await;
        session.command(wrong, 100);
    });
    assert!(matches!(answer, Err(AgentError::Refused { status: 400, .. })));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_is_given_up_and_is_not_sent_later() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let Attached { session, connection, .. } = connected(&sessions, boot);
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let silent = agent.execute(request("standby.power_off"), false).await;
    assert!(matches!(silent, Err(AgentError::Unreachable(_))), "{silent:?}");
    assert!(session.next(connection).is_none());
    let state = session.lock();
    assert!(state.awaited.is_empty() && state.refused.is_empty() && state.long.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_over_a_session_that_broke_is_not_repeated_once_it_was_withdrawn() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let first = connected(&sessions, boot);
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let (silent, ()) = tokio::join!(agent.execute(request("deploy.execute_deploy_step"), false), async {
        first.session.work.notified().await;
        first.session.next(first.connection).unwrap();
    });
    assert!(matches!(silent, Err(AgentError::Unreachable(_))), "{silent:?}");
    assert!(!sessions.withdraw(Uuid::nil(), boot), "it may arrive at any moment");
    first.session.detach(first.connection);
    assert!(sessions.withdraw(Uuid::nil(), boot));
    let second = sessions.attach(&hello(boot, 0));
    assert!(!second.resumed && second.again.is_empty());
    assert!(second.session.next(second.connection).is_none());
    // One on which nothing is on its way goes on where it was.
    second.session.receive(second.connection, frame(1, 0, FromAgent::Listed(0))).unwrap();
    second.session.detach(second.connection);
    assert!(sessions.withdraw(Uuid::nil(), boot));
    assert!(sessions.attach(&hello(boot, 0)).resumed);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_on_its_way_is_not_sent_a_second_time() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let Attached { session, connection, .. } = connected(&sessions, boot);
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let id = Uuid::new_v4();
    let (silent, ()) = tokio::join!(agent.execute_as(id, request("a.b")), async {
        session.work.notified().await;
        session.next(connection).unwrap();
    });
    assert!(matches!(silent, Err(AgentError::Unreachable(_))), "{silent:?}");
    let (answer, ()) = tokio::join!(agent.execute_as(id, request("a.b")), async {
        session.work.notified().await;
        assert!(session.next(connection).is_none());
        session.command(result(id, CommandStatus::Running), 100);
    });
    assert_eq!(answer.unwrap().id, id.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_long_result_is_for_whoever_waits_for_it() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let Attached { session, connection, .. } = connected(&sessions, boot);
    let agent = sessions.agent(Uuid::nil(), boot).unwrap();
    let (answer, ()) = tokio::join!(agent.execute(request("log.collect_system_logs"), true), async {
        session.work.notified().await;
        let Some(FromDriver::Command(command)) = session.next(connection).map(|frame| frame.body) else { return };
        let mut done = result(command.id, CommandStatus::Succeeded);
        done.command_result = Some(serde_json::json!("x".repeat(RESULT)));
        session.command(done, RESULT + 100);
    });
    assert!(answer.unwrap().command_result.is_some());
    assert!(agent.commands().await.unwrap()[0].command_result.is_none());
    assert!(session.lock().long.is_empty());
}

#[test]
fn a_session_is_resumed_where_both_remember_it_and_begins_anew_where_one_does_not() {
    let sessions = Sessions::default();
    let boot = Uuid::new_v4();
    let first = sessions.attach(&hello(boot, 0));
    assert!(!first.resumed);
    // The welcome never arrived: the agent may still count as with the driver before.
    let second = sessions.attach(&hello(boot, 50));
    assert!(!second.resumed && !first.session.uses(first.connection));
    second.session.receive(second.connection, frame(1, 0, FromAgent::Listed(0))).unwrap();
    let command = Command { id: Uuid::new_v4(), name: "a.b".to_owned(), params: Map::new() };
    second.session.lock().queue.push_back(FromDriver::Command(command.clone()));
    assert!(first.session.next(first.connection).is_none(), "what goes down an old connection does not arrive");
    second.session.next(second.connection).unwrap();
    second.session.detach(second.connection);
    assert!(sessions.agent(Uuid::nil(), boot).is_none());
    let third = sessions.attach(&hello(boot, 0));
    assert_eq!((third.resumed, third.last_received, third.again.len()), (true, 1, 1));
    // Numbers that make no sense: everything anew, and the command is not lost.
    third.session.receive(third.connection, frame(2, 0, FromAgent::Ack)).unwrap_err();
    third.session.receive(third.connection, frame(0, 1, FromAgent::Ack)).unwrap();
    let fourth = sessions.attach(&hello(boot, 9));
    assert!(!fourth.resumed);
    assert_eq!(sessions.connected(), 1);
}

#[test]
fn a_newer_boot_takes_the_place_of_the_one_before() {
    let sessions = Sessions::default();
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    let first = connected(&sessions, old);
    let second = connected(&sessions, new);
    assert!(!first.session.uses(first.connection) && second.session.uses(second.connection));
    assert!(sessions.agent(Uuid::nil(), old).is_none() && sessions.agent(Uuid::nil(), new).is_some());
    sessions.forget(Uuid::nil());
    assert!(!second.session.uses(second.connection));
    assert_eq!(sessions.connected(), 0);
}

#[test]
fn what_is_remembered_of_a_session_is_bounded() {
    let sessions = Sessions::default();
    let session = connected(&sessions, Uuid::new_v4()).session;
    let running = Uuid::new_v4();
    session.command(result(running, CommandStatus::Running), 1);
    for _ in 0..2 * REMEMBERED {
        session.command(result(Uuid::new_v4(), CommandStatus::Succeeded), 1);
        session.refuse(Refused { id: Uuid::new_v4(), status: 409, faultstring: String::new() });
    }
    let state = session.lock();
    assert_eq!((state.commands.len(), state.refused.len()), (REMEMBERED, 0));
    assert_eq!(state.commands[0].result.id, running.to_string());
}

#[test]
fn the_results_of_a_session_and_of_all_together_are_bounded() {
    let sessions = Sessions::default();
    let session = connected(&sessions, Uuid::new_v4()).session;
    let held = || sessions.held();
    let tell = || {
        let mut done = result(Uuid::new_v4(), CommandStatus::Succeeded);
        done.command_result = Some(serde_json::json!("x"));
        session.command(done, RESULT);
    };
    let room = SESSION_BYTES / RESULT;
    for _ in 0..room + 3 {
        tell();
    }
    let has_result = || {
        let state = session.lock();
        state.commands.iter().map(|known| known.result.command_result.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(has_result().iter().position(|has| *has), Some(3), "the oldest go first");
    assert_eq!(held(), SESSION_BYTES);
    let others = Share::take(&sessions.held, ALL_BYTES - held()).unwrap();
    tell();
    assert_eq!(has_result().last(), Some(&false));
    drop(others);
    sessions.forget(Uuid::nil());
    drop(session);
    assert_eq!(sessions.held(), 0);
}

#[test]
fn of_a_command_that_is_too_long_its_name_its_state_and_the_beginning_of_its_error_are_remembered() {
    let sessions = Sessions::default();
    let session = connected(&sessions, Uuid::new_v4()).session;
    let mut long = result(Uuid::new_v4(), CommandStatus::Failed);
    let text = || "é".repeat(1 << 20);
    (long.command_name, long.command_result) = (text(), Some(serde_json::json!(text())));
    long.command_error =
        Some(CommandError { class: text(), code: 500, message: text(), details: format!("x{}", text()) });
    session.command(long, 16 << 20);
    let state = session.lock();
    let kept = &state.commands[0].result;
    let error = kept.command_error.as_ref().unwrap();
    assert_eq!((kept.command_name.len(), error.class.len(), error.message.len()), (NAME, NAME, NAME));
    assert_eq!((error.details.len(), &kept.command_status), (TEXT - 1, &CommandStatus::Failed));
    assert!(kept.command_result.is_none());
    assert!(weight(b"[1,2,3]") > 120 && weight(b"\"abc\"") == 5);
}
