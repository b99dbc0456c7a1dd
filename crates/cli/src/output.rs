//! What people and programs see: results on standard output, everything else on standard error.

use crate::connect::Format;
use crate::error::Error;
use crate::table;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

/// Where results go, and in which shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// A result: `text` for people, `document` for programs.
    pub(crate) fn result(self, text: &str, document: &Value) {
        match self.format {
            Format::Table => print(text),
            Format::Json => print(&serde_json::to_string_pretty(document).unwrap_or_default()),
            Format::Yaml => print(&yaml(document)),
        }
    }

    /// An error on standard error: what, why, and what to do about it.
    pub(crate) fn error(self, error: &Error) {
        let mut err = std::io::stderr();
        // Nobody is left to tell that it could not be told.
        let _ = match self.format {
            Format::Table => writeln!(err, "{}", error_text(error)),
            Format::Json => writeln!(err, "{}", json!({"error": error_document(error)})),
            Format::Yaml => writeln!(err, "{}", yaml(&json!({"error": error_document(error)})).trim_end()),
        };
    }
}

/// An error for people.
pub(crate) fn error_text(error: &Error) -> String {
    let mut text = hanging(&format!("ferric: {}", transport::client::chain(error)));
    if let Some(remedy) = error.remedy() {
        text += &format!("\n  {}", hanging(&remedy));
    }
    text
}

/// A message in lines that fit; those below the first stand in.
fn hanging(text: &str) -> String {
    if !std::io::stderr().is_terminal() {
        return text.replace('\n', "\n  ").replace("\n    ", "\n  ");
    }
    table::wrap(text, table::width() - 2).replace('\n', "\n  ").replace("\n    ", "\n  ")
}

/// An error for programs.
pub(crate) fn error_document(error: &Error) -> Value {
    json!({
        "kind": error.exit().word(),
        "exit": error.exit() as u8,
        "message": transport::client::chain(error),
        "remedy": error.remedy(),
    })
}

fn yaml(document: &Value) -> String {
    serde_saphyr::to_string(document).unwrap_or_else(|error| format!("# {error}"))
}

fn print(text: &str) {
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        return;
    }
    written(writeln!(std::io::stdout(), "{text}"));
}

/// Why standard output could not be written; a program that reads half of a result must not take it for all.
static LOST: OnceLock<String> = OnceLock::new();

fn written(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => return true,
        // A closed pipe is the reader's choice.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => drop(LOST.set(error.to_string())),
    }
    false
}

/// Why a result could not be written, if one could not.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// A line of a stream, as it comes; false when nobody reads any more.
pub(crate) fn line(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// A line for people that is no result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", hanging(&format!("ferric: {text}")));
}

/// Whether a person reads what is printed.
pub(crate) fn is_read(output: Output) -> bool {
    output.format == Format::Table && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether a person is at both ends: can be asked, and sees the question.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}
