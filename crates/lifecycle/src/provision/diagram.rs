//! The picture of the table, for the documentation.

use super::state::{Kind, State};
use super::table::TABLE;
use std::fmt::Write;

/// The table as a mermaid state diagram. Stable states are drawn bold, failed ones dashed; our own transitions
/// carry the word "ours".
pub fn mermaid() -> String {
    let mut out = String::from("stateDiagram-v2\n    [*] --> enroll\n");
    let mut add = |line: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "    {line}");
    };
    for state in State::ALL {
        if state.as_str().contains([' ', '-']) {
            add(format_args!("state \"{state}\" as {}", id(*state)));
        }
    }
    for (from, to, label) in edges() {
        add(format_args!("{} --> {}: {label}", id(from), id(to)));
    }
    add(format_args!("classDef stable font-weight:bold,stroke-width:3px"));
    add(format_args!("classDef failed stroke-dasharray:4"));
    for (kind, class) in [(Kind::Stable, "stable"), (Kind::Failed, "failed")] {
        let ids: Vec<_> = State::ALL.iter().filter(|state| state.kind() == kind).map(|state| id(*state)).collect();
        add(format_args!("class {} {class}", ids.join(",")));
    }
    out
}

/// The whole page `docs/state-machine.md`: the diagram and the tables, generated so that it cannot be wrong.
pub fn page() -> String {
    let mut out = String::from(INTRODUCTION);
    out.push_str("```mermaid\n");
    out.push_str(&mermaid());
    out.push_str("```\n\n## States\n\n");
    out.push_str("| State | Kind | Target | Deadline (setting = default seconds) | Verbs |\n|---|---|---|---|---|\n");
    for &state in State::ALL {
        let target = state.target().map_or("", State::as_str);
        let deadline = state.deadline_setting().map_or_else(String::new, |deadline| {
            let whose = if deadline.ours { ", ours" } else { "" };
            format!("`{}` = {}, then {}{whose}", deadline.setting, deadline.default_seconds, deadline.event)
        });
        let verbs: Vec<_> =
            super::allowed_verbs(state).iter().map(|verb| verb.as_str()).filter(|verb| *verb != "undeploy").collect();
        let _ = writeln!(
            out,
            "| {state} | {kind} | {target} | {deadline} | {verbs} |",
            kind = kind_name(state.kind()),
            verbs = verbs.join(", ")
        );
    }
    out.push_str("\n## Transitions\n\n| State | Event | Next | Whose |\n|---|---|---|---|\n");
    for row in TABLE {
        let whose = if row.ours { "ours" } else { "Ironic's" };
        let _ = writeln!(out, "| {} | {} | {} | {whose} |", row.state, row.event, row.next);
    }
    out
}

const INTRODUCTION: &str = "# Provision states of a node

<!-- Generated from crates/lifecycle; `cargo xtask docs` writes it anew. -->

The transitions are those of Ironic 39, cell by cell; additions of Ferric are marked \"ours\". Ferric adds a deadline to
every state in which it works or waits, and the verb `break out`, with which an operator ends work that is stuck inside
the driver. `active` and `deploy`, `deleted` and `undeploy` are two names for one verb.

";

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Stable => "stable",
        Kind::Working => "the driver works",
        Kind::Waiting => "the machine works",
        Kind::Held => "held",
        Kind::Failed => "failed",
    }
}

fn id(state: State) -> String {
    state.as_str().replace([' ', '-'], "_")
}

/// Arrows in table order, with the events between the same two states on one label.
fn edges() -> Vec<(State, State, String)> {
    let mut edges: Vec<(State, State, String)> = Vec::new();
    for row in TABLE {
        let label = if row.ours { format!("{} (ours)", row.event) } else { row.event.to_string() };
        match edges.iter_mut().find(|(from, to, _)| *from == row.state && *to == row.next) {
            Some((_, _, labels)) => {
                labels.push_str(", ");
                labels.push_str(&label);
            }
            None => edges.push((row.state, row.next, label)),
        }
    }
    edges
}
