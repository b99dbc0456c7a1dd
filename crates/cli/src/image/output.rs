//! What people and programs see: live progress and errors on standard error; results on standard output, with `--json`
//! one object a line.

use disk_image::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often progress becomes a line where there is no terminal to draw on.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Where results, progress and errors go.
pub(crate) struct Output {
    json: bool,
    bar: ProgressBar,
    last_line: Mutex<Instant>,
}

impl Output {
    /// For a program (`json`), or for people.
    pub(crate) fn new(json: bool) -> Self {
        let target = if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self { json, bar, last_line: Mutex::new(Instant::now()) }
    }

    /// Where a transfer stands.
    pub(crate) fn progress(&self, progress: &Progress) {
        if self.json {
            return emit(&progress_json(progress));
        }
        self.bar.set_message(sentence(progress));
        self.bar.tick();
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.bar.is_hidden() && last.elapsed() >= LINE_PERIOD {
            *last = Instant::now();
            eprintln!("{}", sentence(progress));
        }
    }

    /// A line for people that is no result.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| eprintln!("ferric: {text}"));
        }
    }

    /// The result: an object, or lines.
    pub(crate) fn result(&self, json: &Value, text: &str) {
        self.bar.finish_and_clear();
        if self.json {
            return emit(json);
        }
        // A closed pipe is the reader's choice.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }

    /// An error with all its causes.
    pub(crate) fn error(&self, error: &crate::image::Error) {
        self.bar.finish_and_clear();
        let text = transport::client::chain(error);
        if self.json {
            let exit = error.exit();
            emit(&json!({"event": "error", "kind": exit.word(), "exit": exit as u8, "error": text,
                         "target": error.target_state()}));
        }
        eprintln!("ferric: {text}");
    }
}

fn emit(value: &Value) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{value}");
}

fn progress_json(progress: &Progress) -> Value {
    let Progress { stage, done, total, written, written_total, rate, eta, stalled } = progress;
    json!({"event": "progress", "stage": stage.as_str(), "done": done, "total": total, "percent": percent(*done, *total),
           "written": written, "written_total": written_total, "rate": rate, "eta": eta, "stalled": stalled})
}

/// How much of the transfer is done, where its length is known.
fn percent(done: u64, total: Option<u64>) -> Option<u64> {
    let total = total.filter(|total| *total > 0)?;
    u64::try_from(u128::from(done) * 100 / u128::from(total)).ok()
}

fn sentence(progress: &Progress) -> String {
    let mut text = format!("{}: {}", progress.stage, mib(progress.done));
    if let (Some(total), Some(percent)) = (progress.total, percent(progress.done, progress.total)) {
        text += &format!(" of {} ({percent} %)", mib(total));
    }
    text += &format!(", {}/s", mib(progress.rate));
    if let Some(eta) = progress.eta {
        text += &format!(", {eta} s left");
    }
    if let Some(reason) = &progress.stalled {
        text += &format!(", STALLED: {reason}");
    }
    text
}

/// Bytes as people read them.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk_image::Stage;

    #[test]
    fn progress_reads_like_a_sentence() {
        let mut progress = Progress {
            stage: Stage::Write,
            done: 50 << 20,
            total: Some(100 << 20),
            written: 0,
            written_total: None,
            rate: 10 << 20,
            eta: Some(5),
            stalled: None,
        };
        assert_eq!(sentence(&progress), "write: 50.0 MiB of 100.0 MiB (50 %), 10.0 MiB/s, 5 s left");
        progress = Progress { total: None, rate: 0, eta: None, stalled: Some("server gone".into()), ..progress };
        assert_eq!(sentence(&progress), "write: 50.0 MiB, 0.0 MiB/s, STALLED: server gone");
    }
}
