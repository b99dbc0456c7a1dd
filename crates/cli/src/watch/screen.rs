//! Where watching is shown: a bar for each node on a terminal, as many as it has room for; lines elsewhere.

use super::line::{Shown, doing, line, says};
use crate::api::Node;
use crate::connect::Format;
use crate::output::Output;
use crate::table::{duration, height, natural, plain, width};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often progress becomes a line where there is no terminal to draw on.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Standard error, drawn on or written to.
pub(super) struct Screen {
    /// One bar of many lines, so that they are drawn at once.
    bar: Option<ProgressBar>,
    named: usize,
    total: usize,
    ended: usize,
    failed: usize,
    /// What was said last of each node, and when.
    said: BTreeMap<String, (String, Instant)>,
}

impl Screen {
    /// For `total` nodes; `named`: characters of the widest name.
    pub(super) fn new(output: Output, total: usize, named: usize) -> Self {
        let draws = output.format == Format::Table && std::io::stderr().is_terminal();
        let bar = draws.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, named, total, ended: 0, failed: 0, said: BTreeMap::new() }
    }

    /// Shows nodes that are not done yet.
    pub(super) fn show(&mut self, nodes: Vec<Shown<'_>>, waited: Duration) {
        match &self.bar {
            Some(bar) => bar.set_message(self.drawn(&nodes, waited).join("\n")),
            None => nodes.iter().for_each(|shown| self.tell(shown, waited)),
        }
    }

    fn drawn(&self, nodes: &[Shown<'_>], waited: Duration) -> Vec<String> {
        let room = height().saturating_sub(2).max(1);
        // Those that stall come first when there is not room for all, then those that tell something.
        let mut order: Vec<&Shown<'_>> = nodes.iter().collect();
        let rank = |shown: &Shown<'_>| match shown.progress {
            _ if nodes.len() <= room => 0,
            Some(progress) if progress.get("stalled").is_some_and(Value::is_string) => 0,
            Some(_) => 1,
            None => 2,
        };
        order.sort_by_cached_key(|shown| (rank(shown), natural(shown.node.title())));
        let width = width() - 1;
        let mut lines: Vec<String> =
            order.iter().take(room).map(|shown| line(shown, self.named, width, waited)).collect();
        let total = self.total;
        if total > 1 {
            let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
            let hidden = nodes.len().saturating_sub(room);
            let hidden = if hidden > 0 { format!(", {hidden} not shown") } else { String::new() };
            lines.push(format!("{} of {total} done{failed}{hidden} ({})", self.ended, duration(waited.as_secs())));
        }
        lines
    }

    /// A line when the state is another, and now and then one of progress.
    fn tell(&mut self, shown: &Shown<'_>, waited: Duration) {
        let node = shown.node;
        let word = format!("{}{}", node.state(), node.step().map(|step| format!(": {step}")).unwrap_or_default());
        let now = Instant::now();
        let last = self.said.get(node.uuid());
        let other = last.is_none_or(|(last, _)| *last != word);
        let due = shown.progress.is_some() && last.is_none_or(|(_, at)| at.elapsed() >= LINE_PERIOD);
        if !other && !due {
            return;
        }
        self.said.insert(node.uuid().to_owned(), (word, now));
        let what = match shown.progress {
            Some(progress) => format!("{}, {}", node.state(), says(node, progress, true)),
            None => doing(node, waited),
        };
        self.say(&format!("{}: {what}", node.title()));
    }

    /// A node is done.
    pub(super) fn ended(&mut self, node: &Node, good: bool, waited: Duration) {
        self.ended += 1;
        self.failed += usize::from(!good);
        // Of one node alone, the result says it.
        if self.total > 1 {
            let word = if good { "" } else { "FAILED: " };
            self.say(&format!("{}: {word}{} ({})", node.title(), node.state(), duration(waited.as_secs())));
        }
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        let text = plain(text);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Stops drawing.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
