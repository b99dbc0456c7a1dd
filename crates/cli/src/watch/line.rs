//! One line for one node: name, bar, what goes on. Never wider than it may be.

use crate::api::Node;
use crate::table::{cut, duration, plain, size};
use lifecycle::provision::Kind;
use serde_json::Value;
use std::time::Duration;

/// Characters of a bar.
const BAR: usize = 16;

/// A node as it is shown.
pub(super) struct Shown<'a> {
    pub(super) node: &'a Node,
    pub(super) progress: Option<&'a Value>,
}

/// The line. `named`: characters of the widest name.
pub(super) fn line(shown: &Shown<'_>, named: usize, width: usize, waited: Duration) -> String {
    let named = named.min(width / 3);
    let what = match shown.progress {
        Some(progress) => bar(progress) + &says(shown.node, progress, false),
        None => doing(shown.node, waited),
    };
    cut(&format!("{:<named$}  {what}", cut(&plain(shown.node.title()), named)), width)
}

/// How much of it is done.
pub(super) fn percent(progress: &Value) -> Option<u64> {
    let done = progress.get("done").and_then(Value::as_u64);
    let total = progress.get("total").and_then(Value::as_u64).filter(|total| *total > 0);
    let told = progress.get("percent").and_then(Value::as_f64);
    match (done, total, told) {
        (Some(done), Some(total), _) => u64::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).ok(),
        (_, _, Some(told)) => Some(told.clamp(0.0, 100.0) as u64),
        _ => None,
    }
}

fn bar(progress: &Value) -> String {
    let Some(percent) = percent(progress) else { return String::new() };
    let full = BAR * usize::try_from(percent).unwrap_or(0) / 100;
    let tip = if full < BAR { ">" } else { "" };
    format!("[{:<BAR$}] {percent:>3}%  ", "=".repeat(full) + tip)
}

/// What a step tells of itself. `percent`: also how much of it is done, where no bar says it.
pub(super) fn says(node: &Node, progress: &Value, with_percent: bool) -> String {
    let number = |key: &str| progress.get(key).and_then(Value::as_u64);
    let stage = progress.get("stage").and_then(Value::as_str).map(plain);
    let mut text = stage.unwrap_or_else(|| node.state().to_owned());
    let percent = percent(progress).filter(|_| with_percent).map(|percent| format!(" {percent}% of"));
    if let Some(total) = number("total").filter(|total| *total > 0) {
        text += &format!("{} {}", percent.unwrap_or_default(), size(total));
    } else if let Some(done) = number("done").filter(|done| *done > 0) {
        text += &format!(" {}", size(done));
    }
    if let Some(reason) = progress.get("stalled").and_then(Value::as_str) {
        return text + ", STALLED: " + &plain(reason);
    }
    if let Some(rate) = number("rate").filter(|rate| *rate > 0) {
        text += &format!(", {}/s", size(rate));
    }
    if let Some(eta) = number("eta") {
        text += &format!(", {} left", duration(eta));
    }
    text
}

/// What goes on where nothing is told of it.
pub(super) fn doing(node: &Node, waited: Duration) -> String {
    let mut text = node.state().to_owned();
    if let Some(step) = node.step() {
        text += &format!(": {}", plain(&step));
    } else {
        text += match node.kind() {
            Kind::Waiting => ", waits for the machine",
            Kind::Held => ", held; `ferric unhold` lets it go on",
            Kind::Working | Kind::Stable | Kind::Failed => "",
        };
    }
    text + &format!(" ({})", duration(waited.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_of_nodes_fit_eighty_columns() {
        let node = |name: &str, state: &str, step: Option<&str>| {
            Node(json!({"name": name, "provision_state": state, "target_provision_state": "active",
                        "deploy_step": step.map(|step| json!({"interface": "deploy", "step": step}))}))
        };
        let gib = 1_u64 << 30;
        let nodes = [
            (
                node("n1", "wait call-back", Some("write_image")),
                Some(json!({"stage": "write", "done": gib, "total": 3 * gib, "rate": 104_857_600, "eta": 20})),
            ),
            (node("n2", "wait call-back", None), None),
            (node("n3", "deploying", Some("write_image")), None),
            (node("n4", "deploy hold", None), None),
            (
                node("n5", "wait call-back", None),
                Some(
                    json!({"stage": "fetch", "done": 5, "total": null, "stalled": "the image server does not answer since 45 s"}),
                ),
            ),
            (node("n6", "cleaning", None), Some(json!({"stage": "erase", "done": gib, "total": gib, "rate": 0}))),
            (
                node("a-node-with-quite-a-long-name-in-rack-17", "wait call-back", None),
                Some(json!({"stage": "\u{1b}[2Jwrite", "percent": 12.5})),
            ),
        ];
        let named = nodes.iter().map(|(node, _)| node.title().len()).max().unwrap();
        let lines = |named, width| -> String {
            let one = |(node, progress): &(Node, Option<Value>)| {
                line(&Shown { node, progress: progress.as_ref() }, named, width, Duration::from_secs(75)) + "\n"
            };
            nodes.iter().map(one).collect()
        };
        assert!(lines(named, 79).lines().all(|line| line.chars().count() <= 79));
        insta::assert_snapshot!(format!("{}\n{}", lines(named, 79), lines(4, 60)));
    }
}
