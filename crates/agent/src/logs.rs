//! The log: to the console for people, and to a capped buffer in memory for `collect_system_logs` and inspections.

use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use wire::agent::CommandResult;

/// Bytes of log that are kept. Older lines make room for newer ones.
pub const LOG_CAP: usize = 2 << 20;
/// Bytes of the kernel's log that are taken, its default ring being 256 KiB or less.
const KERNEL_LOG_CAP: usize = 1 << 20;

/// The last lines of the log. Cheap to clone; all clones are one buffer.
#[derive(Clone, Default)]
pub struct LogBuffer(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    /// The node, once known: it goes to the end of every line.
    node: Option<String>,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

impl LogBuffer {
    /// From now on every line names this node.
    pub fn set_node(&self, uuid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).node = Some(uuid.to_owned());
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    }

    /// The log as text, beginning with a note when lines had to be dropped.
    pub fn contents(&self) -> Vec<u8> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    let (directives, problem) = match quiet_libraries(filter).parse() {
        Ok(directives) => (directives, None),
        Err(error) => (Targets::new().with_default(tracing::Level::INFO), Some(error)),
    };
    let uptime = tracing_subscriber::fmt::time::uptime();
    let console = tracing_subscriber::fmt::layer().with_timer(uptime).with_writer(console);
    let console = console.with_ansi(false).with_target(false).with_filter(level);
    let memory = tracing_subscriber::fmt::layer().with_writer(buffer.clone()).with_ansi(false).with_target(false);
    let _ = tracing_subscriber::registry().with(directives).with(console).with(memory).try_init();
    if let Some(error) = problem {
        tracing::warn!("the log filter {filter:?} cannot be read ({error}); info is used");
    }
    buffer
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
    add("commands.json", &serde_json::to_vec_pretty(commands)?)?;
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
                log.extend(&record[..length]);
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
