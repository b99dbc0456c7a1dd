//! How to get from a state to one in which a verb is possible: told to whoever asked too early.

use lifecycle::provision::{Event, Kind, State, Verb, allowed_verbs, step};
use std::collections::VecDeque;

/// A verb as this program names it.
pub(crate) fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Active | Verb::Deploy => "deploy",
        Verb::Deleted | Verb::Undeploy => "undeploy",
        Verb::BreakOut => "break-out",
        other => other.as_str(),
    }
}

/// The state that a verb leads to when all goes well; of verbs that may be part of a way.
fn leads_to(verb: Verb, from: State) -> Option<State> {
    match verb {
        Verb::Manage => Some(State::Manageable),
        Verb::Provide => Some(State::Available),
        Verb::Unrescue => Some(State::Active),
        Verb::Abort => step(from, Event::Abort).ok().map(|row| row.next),
        _ => None,
    }
}

/// The verbs to use before `wanted` is possible; `None` when there is no way without losing something.
fn way(from: State, wanted: Verb) -> Option<Vec<Verb>> {
    let mut seen = vec![from];
    let mut open = VecDeque::from([(from, Vec::new())]);
    while let Some((state, path)) = open.pop_front() {
        let verbs = allowed_verbs(state);
        if verbs.contains(&wanted) {
            return Some(path);
        }
        for verb in verbs {
            if let Some(next) = leads_to(verb, state).filter(|next| !seen.contains(next)) {
                seen.push(next);
                open.push_back((next, [path.clone(), vec![verb]].concat()));
            }
        }
    }
    None
}

/// The verb by which a node comes to rest without what it has now.
pub(crate) fn to_rest(state: &str) -> Option<&'static str> {
    let allowed = allowed_verbs(state.parse().ok()?);
    [Verb::Deleted, Verb::Abort, Verb::Manage, Verb::BreakOut].into_iter().find(|verb| allowed.contains(verb)).map(word)
}

/// What to do when `wanted` was refused in this state; nothing when the state is not why.
pub(crate) fn remedy(node: &str, state: &str, wanted: Verb) -> Option<String> {
    let state: State = state.parse().ok()?;
    if allowed_verbs(state).contains(&wanted) {
        return None;
    }
    let deploys = matches!(wanted, Verb::Active | Verb::Deploy);
    if deploys && state == State::Active {
        return Some(format!(
            "`ferric rebuild {node}` installs it anew; `ferric undeploy {node}` takes the instance off"
        ));
    }
    if matches!(wanted, Verb::Abort | Verb::BreakOut | Verb::Unhold) {
        return Some(match (wanted, state.kind()) {
            (_, Kind::Stable | Kind::Failed) => format!(
                "nothing is done to it, so there is nothing to {}; `ferric node why {node}` says what can be done",
                if wanted == Verb::Unhold { "let go on" } else { "end" }
            ),
            (Verb::Unhold, _) => format!("no step holds it; `ferric watch {node}` shows what it does"),
            (Verb::Abort, _) if allowed_verbs(state).contains(&Verb::BreakOut) => format!(
                "the driver itself is at work; it ends soon, as `ferric watch {node}` shows. If it does not: \
                 `ferric break-out {node}`"
            ),
            _ => format!("`ferric watch {node}` shows what it does, `ferric node why {node}` what can be done"),
        });
    }
    if matches!(state.kind(), Kind::Working | Kind::Waiting) {
        return Some(format!(
            "it is at work: `ferric watch {node}` shows it, `ferric node why {node}` says what can be done"
        ));
    }
    match way(state, wanted) {
        Some(verbs) if !verbs.is_empty() => {
            let steps: Vec<String> =
                verbs.iter().map(|verb| format!("`ferric {} {node} --watch`", word(*verb))).collect();
            Some(format!("first {}", steps.join(", then ")))
        }
        _ => Some(format!("`ferric node why {node}` says what can be done in this state")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_too_early_is_told_the_way() {
        let mut said = String::new();
        for (state, wanted) in [
            ("enroll", Verb::Active),
            ("enroll", Verb::Inspect),
            ("manageable", Verb::Active),
            ("clean failed", Verb::Active),
            ("active", Verb::Active),
            ("active", Verb::Provide),
            ("deploying", Verb::Active),
            ("rescue", Verb::Service),
            ("available", Verb::Inspect),
            ("available", Verb::Active),
            ("defrosting", Verb::Active),
            ("active", Verb::Abort),
            ("cleaning", Verb::Abort),
            ("wait call-back", Verb::BreakOut),
            ("wait call-back", Verb::Unhold),
            ("deploy failed", Verb::Unhold),
        ] {
            said += &format!("{state}, {}: {:?}\n", word(wanted), remedy("n1", state, wanted));
        }
        insta::assert_snapshot!(said);
    }
}
