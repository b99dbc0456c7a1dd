//! The provision machine against the recorded Ironic, as pictures, and under random events.

use lifecycle::provision::{
    Deadlines, Event, HeartbeatEffect, Kind, Row, State, TABLE, Verb, allowed_verbs, page, step, target_after,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

#[derive(serde::Deserialize)]
struct Recorded {
    events: Vec<String>,
    verbs: BTreeMap<String, String>,
    states: BTreeMap<String, RecordedState>,
    sets: BTreeMap<String, BTreeSet<State>>,
}

#[derive(serde::Deserialize)]
struct RecordedState {
    stable: bool,
    target: Option<State>,
    next: BTreeMap<String, Option<State>>,
}

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("../testdata/ironic-states.json")).expect("the recorded states")
}

fn states_where(wanted: impl Fn(State) -> bool) -> BTreeSet<State> {
    State::ALL.iter().copied().filter(|state| wanted(*state)).collect()
}

#[test]
fn every_cell_is_what_ironic_says_or_marked_ours() {
    let ironic = recorded();
    assert_eq!(ironic.states.keys().cloned().collect::<BTreeSet<_>>(), names(State::ALL));
    let known: BTreeSet<_> = ironic.events.iter().cloned().collect();
    assert!(known.is_subset(&names(Event::ALL)));
    let mut differences = Vec::new();
    for &state in State::ALL {
        for &event in Event::ALL {
            let theirs = ironic.states[state.as_str()].next.get(event.as_str()).copied().flatten();
            let row = step(state, event).ok();
            let agreed = match row {
                Some(row) if row.ours => theirs.is_none(),
                row => row.map(|row| row.next) == theirs,
            };
            if !agreed {
                differences.push(format!("{state} + {event}: Ironic {theirs:?}, ours {row:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn stability_and_targets_are_ironics() {
    for (name, theirs) in recorded().states {
        let state: State = name.parse().unwrap();
        assert_eq!((state.is_stable(), state.target()), (theirs.stable, theirs.target), "{state}");
    }
}

#[test]
fn verbs_mean_the_events_that_ironic_says() {
    let ours: BTreeMap<_, _> = Verb::ALL
        .iter()
        .filter(|verb| !verb.is_ours())
        .map(|verb| (verb.to_string(), verb.event().to_string()))
        .collect();
    let mut theirs = recorded().verbs;
    // Ironic's map leaves out the verb whose event is spelled alike.
    theirs.insert("rebuild".into(), "rebuild".into());
    assert_eq!(ours, theirs);
}

#[test]
fn gates_are_ironics_sets() {
    let sets = recorded().sets;
    assert_eq!(states_where(|state| state.allows_patch(true, 38)), sets["update_allowed"]);
    assert_eq!(states_where(|state| state.kind() == Kind::Failed), sets["failure"]);
    assert_eq!(states_where(|state| state.kind() == Kind::Working), sets["stuck_treated_as_fail"]);
    assert_eq!(states_where(|state| state.allows_lookup(false)), sets["lookup_allowed"]);
    assert_eq!(states_where(|state| state.allows_lookup(true)), sets["fast_track_lookup_allowed"]);
    let heard = |fast_track| states_where(move |state| state.heartbeat(fast_track) != HeartbeatEffect::Ignore);
    assert_eq!(heard(false), sets["heartbeat_allowed"]);
    assert_eq!(heard(true), sets["fast_track_heartbeat_allowed"]);
    assert_eq!(states_where(|state| state.heartbeat(true) == HeartbeatEffect::Record), sets["heartbeat_record_only"]);
    let mut deletable = sets["delete_allowed"].clone();
    deletable.insert(State::Available);
    assert_eq!(states_where(|state| state.allows_delete(false)), deletable);
}

#[test]
fn a_node_under_inspection_can_be_patched_by_old_clients_only() {
    assert!(State::Inspecting.allows_patch(true, 38));
    assert!(!State::Inspecting.allows_patch(true, 39));
    assert!(State::Manageable.allows_patch(false, 115));
    assert!(!State::Cleaning.allows_patch(true, 115));
}

#[test]
fn no_state_has_two_rows_for_one_event() {
    let cells: BTreeSet<_> = TABLE.iter().map(|row| (row.state, row.event)).collect();
    assert_eq!(cells.len(), TABLE.len());
}

#[test]
fn every_state_that_works_or_waits_has_a_deadline_whose_event_it_accepts() {
    for &state in State::ALL {
        let deadline = state.deadline_setting();
        assert_eq!(deadline.is_some(), state.kind().needs_deadline(), "{state}");
        if let Some(deadline) = deadline {
            assert!(deadline.default_seconds > 0, "{state}");
            let row = step(state, deadline.event).unwrap_or_else(|error| panic!("{error}"));
            assert!(!row.next.kind().needs_deadline(), "{state} ends in {} when it is late", row.next);
        }
    }
    let names = Deadlines::names();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn every_state_that_is_not_stable_has_an_exit_for_failure_and_one_for_the_operator() {
    for &state in State::ALL.iter().filter(|state| state.kind().needs_deadline()) {
        let ends = |event| step(state, event).is_ok_and(|row| !row.next.kind().needs_deadline());
        assert!(ends(Event::Fail) || ends(Event::Abort), "{state} cannot fail");
        assert!(ends(Event::Abort) || ends(Event::BreakOut), "the operator cannot stop {state}");
    }
    for &state in State::ALL {
        assert!(!allowed_verbs(state).is_empty(), "an operator is stuck in {state}");
    }
}

#[test]
fn every_state_is_reachable_from_enroll() {
    let mut reached = BTreeSet::from([State::Enroll]);
    loop {
        let next: BTreeSet<_> = TABLE
            .iter()
            .filter(|row| reached.contains(&row.state))
            .map(|row| row.next)
            .chain(reached.clone())
            .collect();
        if next == reached {
            break;
        }
        reached = next;
    }
    assert_eq!(reached, states_where(|_| true));
}

#[test]
fn a_deadline_passes_exactly_at_its_limit_and_zero_turns_it_off() {
    let mut deadlines = Deadlines::default();
    assert_eq!(deadlines.overdue(State::DeployWait, Duration::from_secs(1799)), None);
    assert_eq!(deadlines.left(State::DeployWait, Duration::from_secs(1799)), Some(Duration::from_secs(1)));
    assert_eq!(deadlines.overdue(State::DeployWait, Duration::from_secs(1800)), Some(Event::Fail));
    deadlines.set("deploy_callback_timeout", 0).unwrap();
    assert_eq!(deadlines.overdue(State::DeployWait, Duration::MAX), None);
    assert_eq!(deadlines.overdue(State::Active, Duration::MAX), None);
    let error = deadlines.set("deploy_callbak_timeout", 1).unwrap_err().to_string();
    assert!(error.contains("deploy_callbak_timeout") && error.contains("deploy_callback_timeout"), "{error}");
}

#[test]
fn manual_cleaning_keeps_its_own_target_until_it_is_reached() {
    let target = |state, event, explicit| target_after(step(state, event).unwrap(), explicit);
    assert_eq!(target(State::Manageable, Event::Clean, Some(State::Manageable)), Some(State::Manageable));
    assert_eq!(target(State::Manageable, Event::Provide, None), Some(State::Available));
    assert_eq!(target(State::Cleaning, Event::Fail, None), Some(State::Available));
    assert_eq!(target(State::Cleaning, Event::Manage, Some(State::Manageable)), None);
    assert_eq!(target(State::Verifying, Event::Fail, None), None);
}

#[test]
fn a_refusal_says_what_would_be_allowed() {
    insta::assert_snapshot!(step(State::Available, Event::Inspect).unwrap_err(), @r#""inspect" is not possible in state "available"; possible verbs are: active, deploy, manage"#);
    insta::assert_snapshot!("availble".parse::<State>().unwrap_err().to_string().chars().take(60).collect::<String>(), @r#""availble" is not a provision state; known are: enroll, veri"#);
}

#[test]
fn names_are_ironics_on_the_wire_both_ways() {
    for &state in State::ALL {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(text, format!("\"{state}\""));
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
    assert_eq!("wait call-back".parse(), Ok(State::DeployWait));
    assert!(serde_json::from_str::<State>("\"Enroll\"").is_err());
    assert!(serde_json::from_str::<State>("3").is_err());
}

#[test]
fn the_matrix_is_reviewed_cell_by_cell() {
    let mut text = String::new();
    for &state in State::ALL {
        writeln!(text, "{state}").unwrap();
        for &event in Event::ALL {
            let cell = match step(state, event) {
                Ok(Row { next, ours: false, .. }) => next.to_string(),
                Ok(Row { next, ours: true, .. }) => format!("{next} (ours)"),
                Err(_) => "refused".to_owned(),
            };
            writeln!(text, "    {event:9} {cell}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn allowed_verbs_are_reviewed_state_by_state() {
    let mut text = String::new();
    for &state in State::ALL {
        let verbs: Vec<_> = allowed_verbs(state).iter().map(ToString::to_string).collect();
        writeln!(text, "{state}: {}", verbs.join(", ")).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_generated_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/state-machine.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == page(), "docs/state-machine.md is stale; `cargo xtask docs` writes it anew");
}

proptest! {
    #[test]
    fn any_events_end_in_a_known_state_with_a_sound_target(
        start in 0..State::ALL.len(),
        events in proptest::collection::vec(0..Event::ALL.len(), 0..200),
    ) {
        let mut state = State::ALL[start];
        for event in events {
            let event = Event::ALL[event];
            match step(state, event) {
                Ok(row) => {
                    prop_assert_eq!((row.state, row.event), (state, event));
                    state = row.next;
                    let target = target_after(row, None);
                    prop_assert_eq!(target.is_none(), state.is_stable());
                    prop_assert!(target.is_none_or(State::is_stable));
                }
                Err(refused) => {
                    prop_assert_eq!((refused.state, refused.event), (state, event));
                    prop_assert!(!refused.to_string().is_empty());
                }
            }
            prop_assert_eq!(state.as_str().parse::<State>(), Ok(state));
        }
    }

    #[test]
    fn the_operator_gets_any_node_back_to_manageable_or_deletable(
        events in proptest::collection::vec(0..Event::ALL.len(), 0..60),
    ) {
        let mut state = State::Enroll;
        for event in events {
            if let Ok(row) = step(state, Event::ALL[event]) {
                state = row.next;
            }
        }
        // Breadth first over verbs and the failure of what they start: nothing needs the flow to succeed,
        // except taking an instance off, whose next step is cleaning.
        let mut reached = BTreeSet::from([state]);
        for _ in State::ALL {
            let more: Vec<_> = reached.iter().flat_map(|state| {
                let verbs = allowed_verbs(*state).into_iter().map(Verb::event);
                verbs.chain([Event::Fail]).chain((*state == State::Deleting).then_some(Event::Clean))
                    .filter_map(|event| step(*state, event).ok()).map(|row| row.next).collect::<Vec<_>>()
            }).collect();
            reached.extend(more);
        }
        prop_assert!(reached.iter().any(|state| state.allows_delete(false)), "stuck from {}", state);
    }
}

fn names<T: ToString>(values: &[T]) -> BTreeSet<String> {
    values.iter().map(ToString::to_string).collect()
}
