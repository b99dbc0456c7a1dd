//! What people see while a story runs: its phases, live progress, and a table at the end.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often progress becomes a line where there is no terminal to draw on.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// One finished phase.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub phase: String,
    /// How long it took.
    pub took: Duration,
    /// Sizes and findings.
    pub detail: String,
}

/// Where a write stands: `progress` of a command's result, as the node shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Name of the stage.
    pub stage: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do, where that is known.
    pub total: Option<u64>,
    /// Bytes a second.
    pub rate: Option<f64>,
    /// Seconds left.
    pub eta: Option<f64>,
    /// Why nothing moves, when nothing moves.
    pub stalled: Option<String>,
}

impl Progress {
    /// Reads the document that nodes carry; `None` if there is none.
    #[must_use]
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        Some(Self {
            stage: value.get("stage")?.as_str()?.to_owned(),
            done: value.get("done")?.as_u64()?,
            total: value.get("total").and_then(serde_json::Value::as_u64),
            rate: value.get("rate").and_then(serde_json::Value::as_f64),
            eta: value.get("eta").and_then(serde_json::Value::as_f64),
            stalled: value.get("stalled").and_then(serde_json::Value::as_str).map(str::to_owned),
        })
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, mib(self.done))?;
        if let Some(total) = self.total.filter(|total| *total > 0) {
            write!(f, " of {} ({:.0} %)", mib(total), self.done as f64 * 100.0 / total as f64)?;
        }
        if let Some(rate) = self.rate {
            write!(f, ", {:.1} MiB/s", rate / (1024.0 * 1024.0))?;
        }
        if let Some(eta) = self.eta {
            write!(f, ", {eta:.0} s left")?;
        }
        if let Some(reason) = &self.stalled {
            write!(f, ", STALLED: {reason}")?;
        }
        Ok(())
    }
}

/// Bytes as people read them.
#[must_use]
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

/// Shows phases on standard error: a live line on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub struct Console {
    bar: ProgressBar,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: String,
    since: Instant,
    last_line: Instant,
    rows: Vec<Row>,
}

impl Default for Console {
    fn default() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let now = Instant::now();
        let state = State { phase: String::new(), since: now, last_line: now, rows: Vec::new() };
        Self { bar, started: now, state: Mutex::new(state) }
    }
}

impl Console {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a phase.
    pub fn begin(&self, phase: &str) {
        let mut state = self.state();
        state.phase = phase.to_owned();
        state.since = Instant::now();
        state.last_line = Instant::now();
        drop(state);
        self.line(&format!("{phase}…"));
        self.bar.set_message(phase.to_owned());
    }

    /// Ends the phase with what came of it.
    pub fn end(&self, detail: &str) {
        let mut state = self.state();
        let row = Row { phase: state.phase.clone(), took: state.since.elapsed(), detail: detail.to_owned() };
        let text = format!("{}: {:.1} s  {detail}", row.phase, row.took.as_secs_f64());
        state.rows.push(row);
        drop(state);
        self.line(&text);
    }

    /// What the phase is doing right now.
    pub fn update(&self, text: &str) {
        let mut state = self.state();
        let seconds = state.since.elapsed().as_secs();
        let message = format!("{} ({seconds} s)  {text}", state.phase);
        let due = state.last_line.elapsed() >= LINE_PERIOD;
        if self.bar.is_hidden() && due {
            state.last_line = Instant::now();
            drop(state);
            self.line(&message);
        } else {
            drop(state);
            self.bar.set_message(message);
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        let text = format!("[{:>5.1} s] {text}", self.started.elapsed().as_secs_f64());
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Stops drawing.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// All phases so far, with their sum.
    #[must_use]
    pub fn table(&self) -> String {
        table(&self.state().rows)
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.phase.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!("{:<width$}  {:>8}  what came of it\n", "phase", "seconds");
    for row in rows {
        writeln!(text, "{:<width$}  {:>8.1}  {}", row.phase, row.took.as_secs_f64(), row.detail).ok();
    }
    let sum: Duration = rows.iter().map(|row| row.took).sum();
    writeln!(text, "{:<width$}  {:>8.1}", "total", sum.as_secs_f64()).ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_like_a_sentence() {
        let json = serde_json::json!({"stage": "write", "done": 52_428_800, "total": 104_857_600, "rate": 10_485_760.0,
                                      "eta": 5.0, "stalled": null});
        let text = Progress::from_json(&json).unwrap().to_string();
        assert_eq!(text, "write: 50.0 MiB of 100.0 MiB (50 %), 10.0 MiB/s, 5 s left");
        let early = serde_json::json!({"stage": "connect", "done": 0, "total": null, "rate": null, "eta": null,
                                       "stalled": "no bytes for 30 s"});
        assert_eq!(Progress::from_json(&early).unwrap().to_string(), "connect: 0.0 MiB, STALLED: no bytes for 30 s");
    }

    #[test]
    fn a_table_lines_up_and_sums_up() {
        let row = |phase: &str, seconds, detail: &str| Row {
            phase: phase.into(),
            took: Duration::from_secs(seconds),
            detail: detail.into(),
        };
        assert_eq!(
            table(&[row("inspect", 21, "1 disk"), row("deploy the image", 60, "103 MiB")]),
            "phase              seconds  what came of it\n\
             inspect               21.0  1 disk\n\
             deploy the image      60.0  103 MiB\n\
             total                 81.0\n"
        );
    }
}
