//! Root device hints: which disk a node wants its system on.
//!
//! The rules are those of Ironic's own matcher (ironic-lib's `device_hints`, oslo.utils' `specs_matcher`), oddities included,
//! since nodes in the field carry hints that were tried against it: values and attributes are lower-cased and URL-quoted
//! before they are compared, an attribute that a disk does not have compares as `none`, one that is empty never matches,
//! `=` on a size means at least, and a size is compared as a fraction of GiB. What that matcher ends in an internal error
//! for is an error here too, one that names the hint.

use crate::Disk;
use serde_json::{Map, Value};

/// Without hints, a root disk has at least this many bytes (4 GiB).
pub const SMALLEST_ROOT: u64 = 4 << 30;

const GIB: f64 = (1_u64 << 30) as f64;

/// Why no root disk was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// The hints are not an object, or `skip_block_devices` is not a list of objects.
    #[error("{what} must be {wanted}, but is {found}")]
    Shape {
        /// Which document.
        what: &'static str,
        /// What it has to be.
        wanted: &'static str,
        /// What it is, cut to a line.
        found: String,
    },
    /// There is no such hint.
    #[error("root device hint \"{name}\" is not known; known are {}", HINTS.map(|(known, _)| known).join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// The value of a hint cannot be used.
    #[error("root device hint \"{name}\" is {found}, but {reason}")]
    Value {
        /// The hint.
        name: &'static str,
        /// Its value, cut to a line.
        found: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry of `skip_block_devices` protects nothing.
    #[error(
        "entry {entry} of skip_block_devices describes no disk of this machine, so the disk that it was to keep may be any \
         of them: {disks}; correct the entry, or take it out of the node's properties"
    )]
    Unmatched {
        /// The entry, cut to a line.
        entry: String,
        /// The disks that there are.
        disks: String,
    },
    /// No disk has everything that the hints ask for.
    #[error("no suitable device was found for deployment using these hints {hints}; looked at {disks}")]
    NoMatch {
        /// The hints.
        hints: String,
        /// The disks.
        disks: String,
    },
    /// There are no hints, and no disk is large enough.
    #[error(
        "no suitable device was found for deployment: root device hints were not provided and all found block devices \
         are smaller than {SMALLEST_ROOT} bytes; looked at {disks}"
    )]
    TooSmall {
        /// The disks.
        disks: String,
    },
    /// There are no hints, and the disks that are large enough were left out.
    #[error(
        "no suitable device was found for deployment: root device hints were not provided, and without one no member of \
         a software RAID array and no unreadable disk is overwritten: left out {left_out}; other disks of \
         {SMALLEST_ROOT} bytes or more: none; name the disk by a root device hint, or take the array apart"
    )]
    LeftOut {
        /// The disks, each with its reason.
        left_out: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Truth,
}

const HINTS: [(&str, Kind); 12] = [
    ("size", Kind::Number),
    ("model", Kind::Text),
    ("wwn", Kind::Text),
    ("serial", Kind::Text),
    ("vendor", Kind::Text),
    ("wwn_with_extension", Kind::Text),
    ("wwn_vendor_extension", Kind::Text),
    ("name", Kind::Text),
    ("rotational", Kind::Truth),
    ("hctl", Kind::Text),
    ("by_path", Kind::Text),
    ("tran", Kind::Text),
];

/// The operators in the order in which the matcher's grammar tries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    NumberEqual,
    NumberAtLeastLoose,
    NumberDiffers,
    Contains,
    NumberAtLeast,
    NumberAtMost,
    NumberAbove,
    NumberBelow,
    TextEqual,
    TextDiffers,
    TextAtMost,
    TextBelow,
    TextAtLeast,
    TextAbove,
    AnyOf,
    AllIn,
    RangeIn,
}

const OPERATORS: [(&str, Op); 17] = [
    ("==", Op::NumberEqual),
    ("=", Op::NumberAtLeastLoose),
    ("!=", Op::NumberDiffers),
    ("<in>", Op::Contains),
    (">=", Op::NumberAtLeast),
    ("<=", Op::NumberAtMost),
    // `<or>`, `<all-in>` and `<range-in>` begin with `<`, which is an operator of its own: they go first.
    ("<or>", Op::AnyOf),
    ("<all-in>", Op::AllIn),
    ("<range-in>", Op::RangeIn),
    (">", Op::NumberAbove),
    ("<", Op::NumberBelow),
    ("s==", Op::TextEqual),
    ("s!=", Op::TextDiffers),
    ("s<=", Op::TextAtMost),
    ("s<", Op::TextBelow),
    ("s>=", Op::TextAtLeast),
    ("s>", Op::TextAbove),
];

/// A hint, ready to be compared.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Text { op: Op, values: Vec<String> },
    Number { op: Op, values: Vec<String>, numbers: Vec<f64> },
    Truth(bool),
}

/// A checked set of hints: all of them have to hold for the same disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Hints {
    tests: Vec<(&'static str, Test)>,
}

impl Hints {
    /// Checks a hints object (`root_device`, or one entry of `skip_block_devices` without its `volume_name`).
    pub fn parse(hints: &Map<String, Value>) -> Result<Self, HintError> {
        // All names before any value, as the matcher does.
        let mut known = Vec::with_capacity(hints.len());
        for (name, value) in hints {
            let hint = HINTS.iter().find(|(hint, _)| hint == name);
            let &(name, kind) = hint.ok_or_else(|| HintError::Unknown { name: name.clone() })?;
            known.push((name, kind, value));
        }
        let tests = known.into_iter().map(|(name, kind, value)| Ok((name, parse(name, kind, value)?)));
        Ok(Self { tests: tests.collect::<Result<_, HintError>>()? })
    }

    /// Whether `disk` is one of those that the hints describe.
    pub fn matches(&self, disk: &Disk) -> bool {
        self.tests.iter().all(|(name, test)| holds(name, test, disk))
    }
}

/// Chooses the root disk: the first in the order given that the hints describe; without hints the smallest of at least
/// 4 GiB, by name among equals.
///
/// `hints` is the `root_device` object of a node; `None`, `null` and an empty object mean that there are none.
pub fn select_root<'a>(disks: &'a [Disk], hints: Option<&Value>) -> Result<&'a Disk, HintError> {
    let listed = || listed(disks);
    match hints {
        None | Some(Value::Null) => smallest(disks).ok_or_else(|| HintError::TooSmall { disks: listed() }),
        Some(Value::Object(map)) if map.is_empty() => {
            smallest(disks).ok_or_else(|| HintError::TooSmall { disks: listed() })
        }
        Some(Value::Object(map)) => {
            let hints = Hints::parse(map)?;
            disks
                .iter()
                .find(|disk| hints.matches(disk))
                .ok_or_else(|| HintError::NoMatch { hints: Value::Object(map.clone()).to_string(), disks: listed() })
        }
        Some(other) => Err(HintError::Shape { what: "root_device", wanted: "an object", found: cut(other) }),
    }
}

/// The disks that `skip_block_devices` (a property of the node: a list of hint objects) does not describe, and that have no
/// data in common with one that it describes: neither those that it lies on, nor what lies on it. An entry with a `volume_name`
/// speaks of a RAID volume by its name and not of these disks.
pub fn without_skipped(disks: Vec<Disk>, skip: Option<&Value>) -> Result<Vec<Disk>, HintError> {
    let entries = skip_entries(skip)?;
    let named = disks.iter().map(|disk| entries.iter().any(|(_, hints)| hints.matches(disk))).collect();
    let is_on = |above: &Disk, below: &Disk| below.holders.iter().any(|holder| holder == kernel_name(above));
    let skipped = spread(&disks, named, |disk, skipped| is_on(skipped, disk));
    // Other disks below these are nobody's whom an entry names.
    let skipped = spread(&disks, skipped, is_on);
    Ok(disks.into_iter().zip(skipped).filter(|(_, skipped)| !skipped).map(|(disk, _)| disk).collect())
}

/// Marks the disks that are tied to a marked one, as often as devices lie on each other.
fn spread(disks: &[Disk], mut marked: Vec<bool>, is_tied: impl Fn(&Disk, &Disk) -> bool) -> Vec<bool> {
    loop {
        let tied = |disk| disks.iter().zip(&marked).any(|(other, marked)| *marked && is_tied(disk, other));
        let more: Vec<bool> = disks.iter().zip(&marked).map(|(disk, marked)| *marked || tied(disk)).collect();
        if more == marked {
            return marked;
        }
        marked = more;
    }
}

/// Checks that each entry of `skip_block_devices` describes a disk. One that does not may be a slip of the pen, and what it was
/// to keep would be erased. The peer's matcher goes on without it.
///
/// # Errors
/// [`HintError::Unmatched`] for the first that describes none; others as of [`without_skipped`].
pub fn check_skipped(disks: &[Disk], skip: Option<&Value>) -> Result<(), HintError> {
    let entries = skip_entries(skip)?;
    match entries.iter().find(|(_, hints)| !disks.iter().any(|disk| hints.matches(disk))) {
        Some((entry, _)) => Err(HintError::Unmatched { entry: cut(entry), disks: listed(disks) }),
        None => Ok(()),
    }
}

/// The entries that speak of disks.
fn skip_entries(skip: Option<&Value>) -> Result<Vec<(&Value, Hints)>, HintError> {
    let entries = match skip {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            let found = cut(other);
            return Err(HintError::Shape { what: "skip_block_devices", wanted: "a list of objects", found });
        }
    };
    let mut skipped = Vec::new();
    for entry in entries {
        match entry {
            Value::Object(map) if map.contains_key("volume_name") => {}
            // The matcher does nothing with an empty object; taken at its word it would describe every disk.
            Value::Object(map) if map.is_empty() => {}
            Value::Object(map) => skipped.push((entry, Hints::parse(map)?)),
            other => {
                let found = cut(other);
                return Err(HintError::Shape { what: "an entry of skip_block_devices", wanted: "an object", found });
            }
        }
    }
    Ok(skipped)
}

/// The name by which holders of other disks are known.
fn kernel_name(disk: &Disk) -> &str {
    disk.name.trim_start_matches("/dev/")
}

/// Disks with their sizes, for messages.
fn listed(disks: &[Disk]) -> String {
    match disks {
        [] => "no disks".to_owned(),
        disks => disks.iter().map(|disk| format!("{} ({} bytes)", disk.name, disk.size)).collect::<Vec<_>>().join(", "),
    }
}

fn smallest(disks: &[Disk]) -> Option<&Disk> {
    disks
        .iter()
        .filter(|disk| disk.size >= SMALLEST_ROOT)
        .min_by(|a, b| a.size.cmp(&b.size).then_with(|| a.name.cmp(&b.name)))
}

fn parse(name: &'static str, kind: Kind, value: &Value) -> Result<Test, HintError> {
    let wrong = |reason| HintError::Value { name, found: cut(value), reason };
    match kind {
        Kind::Truth => truth(value).map(Test::Truth).ok_or_else(|| wrong("it must be true or false")),
        Kind::Text => {
            let Value::String(text) = value else { return Err(wrong("it must be a string")) };
            let (op, values) = split(text).map_err(wrong)?;
            match op {
                Some(Op::AllIn | Op::RangeIn) => Err(wrong("<all-in> and <range-in> cannot be used on strings")),
                Some(op) if op.on_numbers() => Err(wrong(
                    "its operator compares numbers: use s==, s!=, s<, s<=, s>, s>=, <in>, <or>, or no operator",
                )),
                op => Ok(Test::Text {
                    op: op.unwrap_or(Op::TextEqual),
                    values: values.iter().map(|value| quote(value)).collect(),
                }),
            }
        }
        Kind::Number => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(wrong("it must be a positive integer of GiB, with an operator or without")),
            };
            let (op, values) = split(&text).map_err(wrong)?;
            let numbers = values
                .iter()
                .map(|value| integer(value).ok_or_else(|| wrong("it is not an integer value")))
                .collect::<Result<Vec<f64>, _>>()?;
            if numbers.iter().any(|&number| number <= 0.0) {
                return Err(wrong("it must be a positive integer"));
            }
            match op {
                Some(Op::TextBelow | Op::TextAtMost | Op::TextAbove | Op::TextAtLeast) => {
                    Err(wrong("s<, s<=, s> and s>= cannot be used on a size"))
                }
                Some(Op::AllIn | Op::RangeIn | Op::Contains) => {
                    Err(wrong("<in>, <all-in> and <range-in> cannot be used on a size"))
                }
                op => Ok(Test::Number { op: op.unwrap_or(Op::NumberEqual), values, numbers }),
            }
        }
    }
}

/// A whole number as Python's `int()` reads one: with a sign or without, and with single underscores between digits. Rounded,
/// as a size of more than 2^53 GiB does not exist. Digits of other scripts, which Python takes too, are refused.
fn integer(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let groups = || digits.split('_');
    if !groups().all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let number: f64 = groups().collect::<String>().parse().ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// The operator at the front, if there is one, and the values around it; or what is wrong.
fn split(expression: &str) -> Result<(Option<Op>, Vec<String>), &'static str> {
    let expression = expression.trim().to_lowercase();
    if expression.is_empty() {
        return Err("it must not be empty");
    }
    let Some(&(sign, op)) = OPERATORS.iter().find(|(sign, _)| expression.starts_with(sign)) else {
        return Ok((None, vec![expression]));
    };
    let behind = expression.get(sign.len()..).unwrap_or_default().trim_start();
    if OPERATORS.iter().any(|(sign, _)| behind.starts_with(sign)) {
        return Err("it has an operator behind its operator");
    }
    let values: Vec<String> =
        expression.split(sign).filter(|value| !value.is_empty()).map(|value| value.trim().to_owned()).collect();
    if values.iter().all(String::is_empty) {
        return Err("it has nothing behind its operator");
    }
    Ok((Some(op), values))
}

impl Op {
    fn on_numbers(self) -> bool {
        match self {
            Self::NumberEqual
            | Self::NumberAtLeastLoose
            | Self::NumberDiffers
            | Self::NumberAtLeast
            | Self::NumberAtMost
            | Self::NumberAbove
            | Self::NumberBelow => true,
            Self::Contains
            | Self::TextEqual
            | Self::TextDiffers
            | Self::TextAtMost
            | Self::TextBelow
            | Self::TextAtLeast
            | Self::TextAbove
            | Self::AnyOf
            | Self::AllIn
            | Self::RangeIn => false,
        }
    }
}

fn holds(name: &str, test: &Test, disk: &Disk) -> bool {
    match test {
        Test::Truth(wanted) => disk.rotational == *wanted,
        Test::Number { op, values, numbers } => {
            let size = disk.size as f64 / GIB;
            let Some(&first) = numbers.first() else { return false };
            match op {
                Op::NumberEqual => size == first,
                Op::NumberDiffers => size != first,
                Op::NumberAtLeastLoose | Op::NumberAtLeast => size >= first,
                Op::NumberAtMost => size <= first,
                Op::NumberAbove => size > first,
                Op::NumberBelow => size < first,
                // The size as Python writes a float: with a fraction always, which is why `<or> 932` never matches.
                text => compare(*text, &format!("{size:?}"), values),
            }
        }
        Test::Text { op, values } => {
            let attribute = match name {
                "name" => Some(disk.name.as_str()),
                "model" => disk.model.as_deref(),
                "wwn" => disk.wwn.as_deref(),
                "serial" => disk.serial.as_deref(),
                "vendor" => disk.vendor.as_deref(),
                "wwn_with_extension" => disk.wwn_with_extension.as_deref(),
                "wwn_vendor_extension" => disk.wwn_vendor_extension.as_deref(),
                "hctl" => disk.hctl.as_deref(),
                "by_path" => disk.by_path.as_deref(),
                "tran" => disk.tran.as_deref(),
                _ => None,
            };
            let attribute = attribute.unwrap_or("none").trim().to_lowercase();
            !attribute.is_empty() && compare(*op, &quote(&attribute), values)
        }
    }
}

fn compare(op: Op, attribute: &str, values: &[String]) -> bool {
    let Some(first) = values.first().map(String::as_str) else { return false };
    match op {
        Op::TextEqual => attribute == first,
        Op::TextDiffers => attribute != first,
        Op::TextAtMost => attribute <= first,
        Op::TextBelow => attribute < first,
        Op::TextAtLeast => attribute >= first,
        Op::TextAbove => attribute > first,
        Op::Contains => attribute.contains(first),
        Op::AnyOf => values.iter().any(|value| attribute == value),
        // Refused when the hint is read, or compared as a number by the caller.
        Op::AllIn
        | Op::RangeIn
        | Op::NumberEqual
        | Op::NumberAtLeastLoose
        | Op::NumberDiffers
        | Op::NumberAtLeast
        | Op::NumberAtMost
        | Op::NumberAbove
        | Op::NumberBelow => false,
    }
}

/// What oslo.utils' `bool_from_string` takes as a truth value in strict mode.
fn truth(value: &Value) -> Option<bool> {
    let text = match value {
        Value::Bool(truth) => return Some(*truth),
        Value::String(text) => text.trim().to_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    match text.as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// Percent-encodes as Python's `urllib.parse.quote` does: letters, digits and `_.-~/` stay.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => quoted.push(byte as char),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted
}

/// A value in words that fit into a message.
fn cut(value: &Value) -> String {
    const MOST: usize = 120;
    let text = value.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests;
