//! The log: to the console for people, and to a capped buffer in memory for `collect_system_logs` and inspections.

use crate::config::parameters;
use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};
use wire::agent::CommandResult;
use wire::ramdisk::MASK;

/// Bytes of log that are kept. Older lines make room for newer ones.
pub const LOG_CAP: usize = 2 << 20;
/// Bytes of `commands.json`: results and errors come from programs and drivers, and may be long.
const COMMANDS_CAP: usize = 1 << 20;
/// Bytes of the kernel's log that are taken, its default ring being 256 KiB or less.
const KERNEL_LOG_CAP: usize = 1 << 20;

/// The command that collects logs, without its extension.
pub const COLLECT: &str = "collect_system_logs";

/// The last lines of the log. Cheap to clone; all clones are one buffer.
#[derive(Clone, Default)]
pub struct LogBuffer(Arc<Buffer>);

#[derive(Default)]
struct Buffer {
    lines: Mutex<Lines>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct Lines {
    /// The node, once known: it goes to the end of every line.
    node: Option<String>,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

/// Lines in a row, for a driver that follows the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Lines with their numbers, without line feeds.
    pub lines: Vec<(u64, String)>,
    /// Lines before them that were wanted and are not kept any more.
    pub dropped: u64,
}

/// Bytes of a line in a [`Tail`]; what is longer is cut.
const TAIL_LINE: usize = 8 << 10;

impl LogBuffer {
    /// From now on every line names this node.
    pub fn set_node(&self, uuid: &str) {
        self.lines().node = Some(uuid.to_owned());
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when there are new lines.
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// The lines behind line `last`, the first of all being number 1: `lines` and about `bytes` at most.
    pub fn after(&self, last: u64, lines: usize, bytes: usize) -> Tail {
        let kept = self.lines();
        let mut tail = Tail { lines: Vec::new(), dropped: kept.dropped.saturating_sub(last) };
        let known = usize::try_from(last.saturating_sub(kept.dropped)).unwrap_or(usize::MAX);
        let mut room = bytes;
        for (line, number) in kept.lines.iter().zip(kept.dropped + 1..).skip(known).take(lines) {
            let line = line.trim_ascii_end();
            let text = String::from_utf8_lossy(&line[..line.len().min(TAIL_LINE)]);
            if text.len() > room && !tail.lines.is_empty() {
                break;
            }
            room = room.saturating_sub(text.len());
            tail.lines.push((number, text.into_owned()));
        }
        tail
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines();
        let mut line = line[..line.len().min(LOG_CAP)].to_vec();
        if let Some(node) = &lines.node
            && !line.windows(6).any(|window| window == b" node=")
        {
            let end = line.trim_ascii_end().len();
            line.truncate(end);
            line.extend(format!(" node={node}\n").into_bytes());
        }
        lines.bytes += line.len();
        lines.lines.push_back(line);
        while lines.bytes > LOG_CAP {
            let Some(oldest) = lines.lines.pop_front() else { break };
            lines.bytes -= oldest.len();
            lines.dropped += 1;
        }
        drop(lines);
        self.0.news.send_replace(());
    }

    /// The log as text, beginning with a note when lines had to be dropped.
    pub fn contents(&self) -> Vec<u8> {
        let lines = self.lines();
        let mut text = Vec::with_capacity(lines.bytes + 80);
        if lines.dropped > 0 {
            text.extend(format!("({} older lines were dropped)\n", lines.dropped).into_bytes());
        }
        lines.lines.iter().for_each(|line| text.extend(line));
        text
    }
}

impl std::fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogBuffer")
    }
}

/// One event being written; it goes to the buffer as a whole.
pub struct LineWriter {
    buffer: LogBuffer,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.buffer.push(&self.line);
    }
}

impl<'a> MakeWriter<'a> for LogBuffer {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { buffer: self.clone(), line: Vec::new() }
    }
}

/// Starts logging to standard error and to the buffer that is returned. `filter` is a level or `target=level` directives
/// separated by commas; one that cannot be read is named in the log and `info` is used. Only the first call of a process has an effect.
pub fn start(filter: &str) -> LogBuffer {
    start_on(filter, LevelFilter::TRACE, io::stderr)
}

/// As [`start`], with another place than standard error, where only lines up to `level` go. Lines there begin with the seconds since the start: the clock
/// of a machine that just booted means little.
pub fn start_on<W>(filter: &str, level: LevelFilter, console: W) -> LogBuffer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let buffer = LogBuffer::default();
    let (directives, problem) = directives(filter);
    let (directives, handle) = reload::Layer::new(directives);
    let uptime = tracing_subscriber::fmt::time::uptime();
    let console = tracing_subscriber::fmt::layer().with_timer(uptime).with_writer(console);
    let console = console.with_ansi(false).with_target(false).with_filter(level);
    let memory = tracing_subscriber::fmt::layer().with_writer(buffer.clone()).with_ansi(false).with_target(false);
    if tracing_subscriber::registry().with(directives).with(console).with(memory).try_init().is_ok() {
        let _ = FILTER.set((handle, Mutex::new(filter.to_owned())));
    }
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
    buffer
}

/// The filter of this process's log, which can be changed, and the text of what it is now.
static FILTER: OnceLock<(reload::Handle<Targets, Registry>, Mutex<String>)> = OnceLock::new();

/// From now on the log goes by this filter: files and virtual media, which may say `debug`, are read when the log has long
/// begun.
pub fn set_filter(filter: &str) {
    let Some((handle, now)) = FILTER.get() else { return };
    let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
    if *now == filter {
        return;
    }
    let (directives, problem) = directives(filter);
    match handle.reload(directives) {
        Ok(()) => tracing::info!(filter, "the log filter is another one from here on"),
        Err(error) => tracing::error!(filter, %error, "the log filter stays as it was"),
    }
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
    filter.clone_into(&mut now);
}

/// What a filter says; one that cannot be read means `info`, and comes with what is wrong with it.
fn directives(filter: &str) -> (Targets, Option<String>) {
    match quiet_libraries(filter).parse() {
        Ok(directives) => (directives, None),
        Err(error) => {
            let problem = format!("the log filter {filter:?} cannot be read ({error}); info is used");
            (Targets::new().with_default(tracing::Level::INFO), Some(problem))
        }
    }
}

/// A plain level is meant for the agent; libraries stay at `info`, since theirs is a flood.
fn quiet_libraries(filter: &str) -> String {
    match filter {
        "debug" | "trace" => {
            format!("info,agent={filter},disk_image={filter},hardware_linux={filter},transport={filter}")
        }
        other => other.to_owned(),
    }
}

/// Packs what helps to find out what went wrong, as Ironic stores it: base64 of a gzipped tar. The names are those that
/// ironic-python-agent gives to the same things, where it has them: `journal` is this agent's log.
pub fn collect(
    buffer: &LogBuffer,
    commands: &[CommandResult],
    inventory: Option<&hardware::Inventory>,
) -> io::Result<String> {
    let commands = commands_json(commands, COMMANDS_CAP)?;
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now);
        tar.append_data(&mut header, name, data)
    };
    add("journal", &buffer.contents())?;
    add("dmesg", &kernel_log())?;
    add("commands.json", &commands)?;
    if let Some(inventory) = inventory {
        add("inventory.json", &serde_json::to_vec_pretty(inventory)?)?;
    }
    for (name, path) in PROC_FILES {
        match read_capped(path) {
            Ok(text) => add(name, &text)?,
            Err(error) => tracing::debug!(path, %error, "left out of the logs"),
        }
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(tar.into_inner()?.finish()?))
}

/// The commands as a JSON list of at most about `cap` bytes: the newest ones, each without its result where that does not
/// fit. Logs that were collected before are left out in any case, or each answer would hold all earlier ones.
fn commands_json(commands: &[CommandResult], cap: usize) -> io::Result<Vec<u8>> {
    let mut kept = VecDeque::new();
    let mut bytes = 0;
    for command in commands.iter().rev() {
        let bare = || CommandResult { command_result: None, ..command.clone() };
        let whole = command.command_name != COLLECT;
        let mut text = if whole { serde_json::to_vec_pretty(command)? } else { serde_json::to_vec_pretty(&bare())? };
        if whole && bytes + text.len() > cap {
            text = serde_json::to_vec_pretty(&bare())?;
        }
        if bytes + text.len() > cap {
            tracing::warn!(left_out = commands.len() - kept.len(), "older commands are left out of the logs");
            break;
        }
        bytes += text.len();
        kept.push_front(text);
    }
    let list: Vec<Vec<u8>> = kept.into();
    Ok([b"[".as_slice(), &list.join(b",\n".as_slice()), b"]\n"].concat())
}

/// What the kernel tells of the machine, by the name that it gets. Not its command line, which may hold the token.
const PROC_FILES: [(&str, &str); 5] = [
    ("mount", "/proc/mounts"),
    ("partitions", "/proc/partitions"),
    ("mdstat", "/proc/mdstat"),
    ("meminfo", "/proc/meminfo"),
    ("modules", "/proc/modules"),
];
/// Bytes of each of them.
const PROC_CAP: u64 = 256 << 10;

fn read_capped(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(PROC_CAP).read_to_end(&mut text)?;
    Ok(text)
}

/// The kernel's log as far as it is there; an ordinary user may not be allowed to read it, which is said instead.
fn kernel_log() -> Vec<u8> {
    match read_kernel_log() {
        Ok(log) => log,
        Err(error) => format!("the kernel's log could not be read: {error}\n").into_bytes(),
    }
}

/// Reads `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): one record a read, until there is no more for now.
fn read_kernel_log() -> io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut device = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg")?;
    let mut log = VecDeque::new();
    let mut record = vec![0; 8192];
    loop {
        match device.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                // Each by itself: where the cap cuts a record, what is left of a secret could not be told any more.
                log.extend(without_secrets(&String::from_utf8_lossy(&record[..length])).into_bytes());
                // The newest lines tell why somebody asks for them.
                log.drain(..log.len().saturating_sub(KERNEL_LOG_CAP));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The ring moved on while it was being read (EPIPE): go on at its new beginning.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    Ok(log.into())
}

/// A record of the kernel's log without the values of secret parameters: the kernel repeats its command line there, and
/// once more those words of it that it does not know, between quotation marks. (The console has them, too: that is the
/// kernel's own.)
fn without_secrets(record: &str) -> String {
    let mut text = String::with_capacity(record.len());
    let mut rest = record;
    while let Some((before, value)) = rest.split_once('=') {
        text.push_str(before);
        text.push('=');
        rest = value;
        let key = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').next().unwrap_or("");
        if parameters::is_secret(key) {
            let end = match value.strip_prefix('"') {
                Some(quoted) => quoted.find('"').map(|at| at + 2),
                None => value.find(|c: char| c.is_whitespace() || c == '"'),
            };
            text.push_str(MASK);
            rest = &value[end.unwrap_or(value.len())..];
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_keeps_the_newest_lines_and_says_what_it_dropped() {
        let buffer = LogBuffer::default();
        let line = vec![b'x'; LOG_CAP / 4];
        for _ in 0..6 {
            buffer.push(&line);
        }
        buffer.push(b"newest\n");
        let contents = buffer.contents();
        assert!(contents.len() <= LOG_CAP + 80);
        assert!(contents.starts_with(b"(3 older lines were dropped)"), "{:?}", &contents[..40]);
        assert!(contents.ends_with(b"newest\n"));
    }

    #[test]
    fn who_follows_the_log_gets_its_lines_by_their_numbers_and_hears_how_many_are_gone() {
        let buffer = LogBuffer::default();
        let mut news = buffer.news();
        assert_eq!(buffer.after(0, 10, 100), Tail::default());
        for line in ["one\n", "two\n", "three\n"] {
            buffer.push(line.as_bytes());
        }
        assert!(news.has_changed().unwrap());
        news.mark_unchanged();
        let line = |number, text: &str| (number, text.to_owned());
        assert_eq!(buffer.after(0, 2, 100), Tail { lines: vec![line(1, "one"), line(2, "two")], dropped: 0 });
        assert_eq!(buffer.after(1, 10, 5), Tail { lines: vec![line(2, "two")], dropped: 0 });
        assert_eq!(buffer.after(1, 10, 0).lines.len(), 1, "one line fits always");
        assert_eq!(buffer.after(3, 10, 100), Tail::default());
        assert_eq!(buffer.after(u64::MAX, 10, 100), Tail::default());
        buffer.push(&vec![b'x'; LOG_CAP - 4]);
        let tail = buffer.after(1, 1, 100);
        assert_eq!((tail.lines[0].0, tail.lines[0].1.len(), tail.dropped), (4, TAIL_LINE, 2));
    }

    #[test]
    fn the_kernels_copies_of_its_command_line_are_kept_without_the_token() {
        let records = [
            ("6,0,0,-;Command line: quiet ipa-agent-token=canary ipa-api-url=http://a/?x=1\n", 1),
            ("5,70,0,-;Kernel command line: ipa-agent-token=canary\n", 1),
            (
                "5,71,0,-;Unknown kernel command line parameters \"BOOTIF=01-aa ipa-agent-token=canary\", will be passed\n",
                1,
            ),
            ("7,900,0,-;    ipa-agent-token=canary", 1),
            (
                "6,0,0,-;Command line: ipa-agent-token=\"canary two\" ipa_agent_token=canary ipa-image-server-password=canary",
                3,
            ),
            ("6,0,0,-;Command line: ipa-agent-token=canary=canary ipa-agent-token=", 2),
        ];
        for (record, masks) in records {
            let clean = without_secrets(record);
            assert!(!clean.contains("canary") && !clean.contains("two"), "{clean}");
            assert_eq!(clean.matches(MASK).count(), masks, "{clean}");
        }
        let clean = without_secrets(records[0].0);
        assert_eq!(clean, "6,0,0,-;Command line: quiet ipa-agent-token=****** ipa-api-url=http://a/?x=1\n");
        assert!(without_secrets(records[2].0).ends_with("ipa-agent-token=******\", will be passed\n"));
    }

    #[test]
    fn commands_beyond_the_cap_lose_their_results_and_then_the_oldest_are_left_out() {
        let command = |name: &str, result: &str| CommandResult {
            id: "i".to_owned(),
            command_name: name.to_owned(),
            command_status: wire::agent::CommandStatus::Succeeded,
            command_error: None,
            command_result: Some(serde_json::json!({"result": result})),
            progress: None,
        };
        let list = |commands: &[CommandResult], cap| -> Vec<serde_json::Value> {
            serde_json::from_slice(&commands_json(commands, cap).unwrap()).unwrap()
        };
        let commands = [
            command("oldest", "a"),
            command(COLLECT, "packed"),
            command("long", &"x".repeat(2000)),
            command("newest", "b"),
        ];
        let all = list(&commands, 10_000);
        assert_eq!(all.len(), 4);
        assert_eq!(all[1]["command_result"], serde_json::Value::Null);
        assert_eq!(all[2]["command_result"]["result"].as_str().unwrap().len(), 2000);
        let few = list(&commands, 500);
        assert_eq!(few.last().unwrap()["command_result"]["result"], "b");
        let long = few.iter().find(|command| command["command_name"] == "long").unwrap();
        assert_eq!(long["command_result"], serde_json::Value::Null);
        assert!(few.len() < 4, "{few:?}");
        assert_eq!(list(&[], 500), Vec::<serde_json::Value>::new());
    }

    #[test]
    fn a_filter_that_is_known_later_counts_from_then_on() {
        let buffer = start("info");
        tracing::debug!("before");
        set_filter("debug");
        tracing::debug!("between");
        set_filter("perhaps=maybe=not");
        tracing::debug!("after");
        let text = String::from_utf8(buffer.contents()).unwrap();
        assert!(!text.contains("before") && text.contains("between") && !text.contains("after"), "{text}");
        assert!(text.contains("cannot be read"), "{text}");
    }

    #[test]
    fn collected_logs_are_a_gzipped_tar_with_log_and_commands() {
        let buffer = LogBuffer::default();
        buffer.push(b"hello\n");
        let packed = base64::engine::general_purpose::STANDARD.decode(collect(&buffer, &[], None).unwrap()).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "journal" {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello\n");
            }
            names.push(name);
        }
        assert_eq!(&names[..3], ["journal", "dmesg", "commands.json"]);
        assert!(names.iter().any(|name| name == "mount") && !names.iter().any(|name| name == "cmdline"), "{names:?}");
    }
}
