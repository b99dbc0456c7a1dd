//! What ramdisks log, as it happens: the newest lines of each node in memory, kept in a file when its ramdisk ends.
//!
//! Bounded twice: [`PER_NODE`] bytes of a node, [`IN_ALL`] of all. A reader holds nothing but the number of its next line; when
//! lines went before it came to them, it is told how many. A file holds one JSON object a line, compressed; of each node the
//! newest [`FILES`] are kept. Logs that an agent without a stream hands over at its end (a packed tar) are read as well.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;
use uuid::Uuid;

/// Bytes of a node's lines that are kept.
pub const PER_NODE: usize = 256 * 1024;
/// Bytes of all nodes' lines that are kept; the node that was added to longest ago gives its oldest ones up.
pub const IN_ALL: usize = 48 * 1024 * 1024;
/// Longest text of a line, in bytes; what is longer is cut.
pub const LINE: usize = 8 * 1024;
/// Files that are kept of a node.
const FILES: usize = 8;
/// What a line costs besides its texts.
const OVERHEAD: usize = 96;
/// Most bytes that are unpacked of a file.
const UNPACKED: u64 = 8 * 1024 * 1024;

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number among those of its node, from 1.
    pub number: u64,
    /// When, by the clock of the ramdisk; unknown of logs that were handed over as files.
    pub time: Option<Timestamp>,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG`, `TRACE`, or nothing.
    pub level: String,
    /// The part of the ramdisk that says it.
    pub target: String,
    /// What it says.
    pub message: String,
}

impl Line {
    fn weight(&self) -> usize {
        OVERHEAD + self.level.len() + self.target.len() + self.message.len()
    }

    /// The line for people.
    pub fn text(&self) -> String {
        let time = self.time.map(|time| format!("{time:.3} ")).unwrap_or_default();
        let level = if self.level.is_empty() { String::new() } else { format!("{:>5} ", self.level) };
        let target = if self.target.is_empty() { String::new() } else { format!("{}: ", self.target) };
        format!("{time}{level}{target}{}\n", self.message)
    }

    /// The line for programs: a JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Text that a terminal may be shown: without control characters, and not longer than [`LINE`].
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(LINE));
    for character in text.trim_end_matches(['\n', '\r']).chars() {
        if shown.len() >= LINE {
            shown.push('…');
            break;
        }
        match character {
            '\t' => shown.push(' '),
            character if character.is_control() => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    shown
}

/// What a reader gets.
#[derive(Debug, Default)]
pub struct Batch {
    /// The lines.
    pub lines: Vec<Arc<Line>>,
    /// The number of the line behind them.
    pub next: u64,
    /// How many lines went before they were read.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct NodeLog {
    boot: String,
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    newest: u64,
    /// The number that the ramdisk itself gave its last line.
    received: u64,
    /// When it was added to last, as a number that grows.
    touched: u64,
}

impl NodeLog {
    fn drop_oldest(&mut self) -> usize {
        let freed = self.lines.pop_front().map_or(0, |line| line.weight());
        self.bytes -= freed;
        freed
    }
}

#[derive(Debug, Default)]
struct Table {
    nodes: HashMap<Uuid, NodeLog>,
    bytes: usize,
    clock: u64,
}

/// The logs of all nodes.
#[derive(Debug)]
pub struct Logs {
    folder: PathBuf,
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

impl Logs {
    /// Logs that are kept in `folder` in the end.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, table: Mutex::default(), changed: watch::Sender::new(0) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What hears of new lines.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The ramdisk's own number of the last line of this boot that is here; 0 for none.
    pub fn received(&self, node: Uuid, boot: &str) -> u64 {
        let table = self.table();
        table.nodes.get(&node).filter(|log| log.boot == boot).map_or(0, |log| log.received)
    }

    /// Adds lines of a ramdisk, those up to its own number `through`; their numbers are given here. What an earlier boot said
    /// comes back when this is the first of another.
    #[must_use = "what an earlier boot said is to be saved"]
    pub fn add(&self, node: Uuid, boot: &str, through: u64, lines: impl IntoIterator<Item = Line>) -> Vec<Arc<Line>> {
        let earlier = {
            let mut table = self.table();
            table.clock += 1;
            let clock = table.clock;
            let log = table.nodes.entry(node).or_default();
            let mut freed = 0;
            let mut earlier = Vec::new();
            if log.boot != boot {
                freed += log.bytes;
                earlier.extend(std::mem::take(&mut log.lines));
                (log.bytes, log.received) = (0, 0);
                boot.clone_into(&mut log.boot);
            }
            log.touched = clock;
            // A call that is not the newest any more may come late.
            log.received = log.received.max(through);
            let mut added = 0;
            for mut line in lines {
                log.newest += 1;
                line.number = log.newest;
                added += line.weight();
                log.bytes += line.weight();
                log.lines.push_back(Arc::new(line));
                while log.bytes > PER_NODE {
                    freed += log.drop_oldest();
                }
            }
            table.bytes = (table.bytes + added).saturating_sub(freed);
            table.trim();
            earlier
        };
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
        earlier
    }

    /// At most `limit` lines of a node from this number on.
    pub fn read(&self, node: Uuid, from: u64, limit: usize) -> Batch {
        let table = self.table();
        let Some(log) = table.nodes.get(&node) else { return Batch { next: from, ..Batch::default() } };
        let first = log.lines.front().map_or(log.newest + 1, |line| line.number);
        let start = from.max(first);
        let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
        let lines: Vec<_> = log.lines.iter().skip(skip).take(limit).cloned().collect();
        let next = lines.last().map_or(start, |line| line.number + 1);
        Batch { lines, next, lost: start.saturating_sub(from.max(1)) }
    }

    /// The number from which on the newest `tail` lines of a node are read; all that are there without it.
    pub fn start(&self, node: Uuid, tail: Option<usize>) -> u64 {
        let table = self.table();
        let Some(log) = table.nodes.get(&node) else { return 1 };
        let number = tail.unwrap_or(usize::MAX).min(log.lines.len());
        log.newest + 1 - number as u64
    }

    /// Whether there are lines of a running ramdisk.
    pub fn has(&self, node: Uuid) -> bool {
        self.table().nodes.get(&node).is_some_and(|log| !log.lines.is_empty())
    }

    /// Takes the lines of a ramdisk that has ended, to be saved.
    pub fn take(&self, node: Uuid) -> Vec<Arc<Line>> {
        let mut table = self.table();
        let Some(log) = table.nodes.get_mut(&node) else { return Vec::new() };
        let freed = std::mem::take(&mut log.bytes);
        let lines = std::mem::take(&mut log.lines);
        table.bytes = table.bytes.saturating_sub(freed);
        lines.into()
    }

    /// Forgets a node and its files.
    pub fn forget(&self, node: Uuid) -> std::io::Result<()> {
        {
            let mut table = self.table();
            let freed = table.nodes.remove(&node).map_or(0, |log| log.bytes);
            table.bytes = table.bytes.saturating_sub(freed);
        }
        for (_, file) in files(&self.folder, node, |name| name.ends_with(LIVE))? {
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Saves lines in a file of their own and removes the oldest files of the node beyond those that are kept. Blocks.
    pub fn save(&self, node: Uuid, lines: &[Arc<Line>], now: Timestamp) -> std::io::Result<PathBuf> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let name = format!("{node}_{}{LIVE}", now.strftime("%Y-%m-%d-%H-%M-%S-%6f"));
        let file = self.folder.join(name);
        // The lines are their owner's: nobody else on this machine reads them.
        let out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)?;
        let mut out = GzEncoder::new(out, Compression::fast());
        for line in lines {
            out.write_all(line.json().as_bytes())?;
        }
        out.finish()?;
        let mut kept = files(&self.folder, node, |name| name.ends_with(LIVE))?;
        kept.sort();
        let surplus = kept.len().saturating_sub(FILES);
        for (_, old) in kept.into_iter().take(surplus) {
            std::fs::remove_file(old)?;
        }
        Ok(file)
    }

    /// The lines of a file of a node, whether they came as a stream or were handed over: of the newest one, or of one of those
    /// before it. [`None`] when there are not so many. Blocks.
    pub fn kept(&self, node: Uuid, before: usize) -> std::io::Result<Option<Vec<Line>>> {
        let mut files = files(&self.folder, node, |name| name.ends_with(LIVE) || name.ends_with(COLLECTED))?;
        files.sort();
        let Some((_, file)) = files.into_iter().rev().nth(before) else { return Ok(None) };
        let unpacked = GzDecoder::new(std::fs::File::open(&file)?).take(UNPACKED);
        let lines = if file.to_string_lossy().ends_with(COLLECTED) { from_tar(unpacked) } else { from_lines(unpacked) };
        lines.map(Some)
    }
}

/// How the name of a file of lines ends.
const LIVE: &str = ".log.gz";
/// How that of logs ends which were handed over.
const COLLECTED: &str = ".tar.gz";

/// The files of a node by their age.
fn files(folder: &Path, node: Uuid, is_one: impl Fn(&str) -> bool) -> std::io::Result<Vec<(SystemTime, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let prefix = format!("{node}_");
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix) && is_one(name)) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    Ok(found)
}

fn from_lines(unpacked: impl Read) -> std::io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for line in BufReader::new(unpacked).lines() {
        // The last line of a file that was not finished is not whole.
        let Ok(line) = serde_json::from_str(&line?) else { break };
        lines.push(line);
    }
    Ok(lines)
}

/// The text files in a tar, each line with the name of its file. What is packed once more is left packed.
fn from_tar(unpacked: impl Read) -> std::io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut archive = tar::Archive::new(unpacked);
    for entry in archive.entries()? {
        // A file that was cut is as good as its whole part.
        let Ok(mut entry) = entry else { break };
        let target = printable(&entry.path()?.to_string_lossy());
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_err() {
            break;
        }
        let Ok(text) = String::from_utf8(content) else { continue };
        for line in text.lines() {
            let number = lines.len() as u64 + 1;
            let message = printable(line);
            lines.push(Line { number, time: None, level: String::new(), target: target.clone(), message });
        }
    }
    Ok(lines)
}

impl Table {
    fn trim(&mut self) {
        while self.bytes > IN_ALL {
            let oldest = self.nodes.values_mut().filter(|log| !log.lines.is_empty()).min_by_key(|log| log.touched);
            let Some(log) = oldest else { return };
            self.bytes = self.bytes.saturating_sub(log.drop_oldest());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line {
        let time = Some(Timestamp::UNIX_EPOCH);
        Line { number: 0, time, level: "INFO".to_owned(), target: "agent".to_owned(), message: message.to_owned() }
    }

    fn texts(batch: &Batch) -> Vec<&str> {
        batch.lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn a_reader_goes_on_at_its_line_and_learns_what_went_before_it_came() {
        let logs = Logs::new(PathBuf::new());
        let node = Uuid::new_v4();
        assert!(logs.add(node, "a", 3, ["one", "two", "three"].map(line)).is_empty());
        assert_eq!((logs.received(node, "a"), logs.received(node, "b")), (3, 0));
        let batch = logs.read(node, 1, 2);
        assert_eq!((texts(&batch), batch.next, batch.lost), (vec!["one", "two"], 3, 0));
        assert_eq!(texts(&logs.read(node, logs.start(node, Some(1)), 9)), ["three"]);
        let long = "x".repeat(LINE);
        for _ in 0..100 {
            assert!(logs.add(node, "a", 3, [line(&long)]).is_empty());
        }
        let batch = logs.read(node, 4, 1);
        let lines = logs.table().nodes[&node].lines.len() as u64;
        assert_eq!((batch.lines.len(), batch.lost), (1, 100 - lines));
        assert!(logs.table().bytes <= PER_NODE);
    }

    #[test]
    fn another_boot_hands_the_lines_of_the_one_before_over() {
        let logs = Logs::new(PathBuf::new());
        let node = Uuid::new_v4();
        assert!(logs.add(node, "a", 3, [line("one")]).is_empty());
        let earlier = logs.add(node, "b", 1, [line("two")]);
        assert_eq!(earlier[0].message, "one");
        assert_eq!(texts(&logs.read(node, 1, 9)), ["two"]);
        assert_eq!(logs.take(node).len(), 1);
        assert_eq!((logs.has(node), logs.table().bytes), (false, 0));
    }

    #[test]
    fn all_nodes_together_stay_under_their_cap_and_the_quietest_pays() {
        let logs = Logs::new(PathBuf::new());
        let nodes: Vec<Uuid> = (0..220).map(|_| Uuid::new_v4()).collect();
        let long = "x".repeat(LINE);
        for node in &nodes {
            for _ in 0..32 {
                assert!(logs.add(*node, "a", 1, [line(&long)]).is_empty());
            }
        }
        assert!(logs.table().bytes <= IN_ALL);
        assert!(!logs.has(nodes[0]) && logs.has(nodes[219]));
    }

    #[test]
    fn what_was_kept_is_read_again_and_only_the_newest_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().join("logs"));
        let node = Uuid::new_v4();
        assert!(logs.kept(node, 0).unwrap().is_none());
        for second in 0..FILES as i64 + 3 {
            let kept = [Arc::new(line(&format!("of {second}")))];
            logs.save(node, &kept, Timestamp::from_second(second).unwrap()).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path().join("logs")).unwrap().count(), FILES);
        for before in 0..FILES {
            let lines = logs.kept(node, before).unwrap().unwrap();
            assert_eq!(lines[0].message, format!("of {}", FILES + 2 - before));
        }
        assert!(logs.kept(node, FILES).unwrap().is_none());
        assert!(logs.kept(Uuid::new_v4(), 0).unwrap().is_none());
        logs.forget(node).unwrap();
        assert!(logs.kept(node, 0).unwrap().is_none());
    }

    #[test]
    fn logs_that_were_handed_over_are_read_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let node = Uuid::new_v4();
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in
            [("journal", &b"first\nsec\x1b[31mond\n"[..]), ("lsblk", b"sda\n"), ("binary", b"\xff\xfe")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, content).unwrap();
        }
        let packed = tar.into_inner().unwrap().finish().unwrap();
        std::fs::write(folder.path().join(format!("{node}_deploy_x.tar.gz")), &packed).unwrap();
        let lines = Logs::new(folder.path().to_owned()).kept(node, 0).unwrap().unwrap();
        let text: String = lines.iter().map(Line::text).collect();
        assert_eq!(text, "journal: first\njournal: sec\\u{1b}[31mond\nlsblk: sda\n");
    }

    #[test]
    fn a_line_is_shown_without_what_a_terminal_obeys_and_not_without_end() {
        assert_eq!(printable("a\tb\x07\n"), "a b\\u{7}");
        let shown = printable(&"ü".repeat(LINE));
        assert!(shown.len() <= LINE + 4 && shown.ends_with('…'));
        assert_eq!(line("hello").text(), "1970-01-01T00:00:00.000Z  INFO agent: hello\n");
    }
}
