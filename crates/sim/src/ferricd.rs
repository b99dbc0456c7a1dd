//! `ferricd` as a process that is killed and started again, and what it has used.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use transport::client::Client;

/// How long it may take to open its database and answer.
const START: Duration = Duration::from_secs(60);

/// A running `ferricd`.
pub(crate) struct Ferricd {
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    url: String,
    client: Client,
    child: Child,
    /// Of processes that were killed.
    before: Usage,
    /// Sessions that agents had with processes that were killed.
    sessions_before: u64,
    pub(crate) kills: u32,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Most memory that was resident, KiB.
    pub(crate) peak: u64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
}

impl Usage {
    /// Of a process, as proc(5) tells it; nothing of one that has ended.
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The second field, a name, may hold spaces; utime and stime are the fields 14 and 15.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        let ticks = |field: usize| fields.as_ref().and_then(|fields| fields.get(field - 3)?.parse::<f64>().ok());
        let ticks = ticks(14).unwrap_or_default() + ticks(15).unwrap_or_default();
        Self { peak: peak.unwrap_or_default(), cpu: ticks / rustix::param::clock_ticks_per_second() as f64 }
    }

    fn and(self, later: Self) -> Self {
        Self { peak: self.peak.max(later.peak), cpu: self.cpu + later.cpu }
    }
}

impl Ferricd {
    /// Starts it, with its data and its log in `folder`, and waits until it answers at `url`.
    pub(crate) async fn start(
        program: &Path,
        folder: &Path,
        url: &str,
        arguments: Vec<String>,
        client: Client,
    ) -> Result<Self> {
        let child = launch(program, folder, &arguments)?;
        let mut ferricd = Self {
            program: program.to_owned(),
            arguments,
            folder: folder.to_owned(),
            url: url.to_owned(),
            client,
            child,
            before: Usage::default(),
            sessions_before: 0,
            kills: 0,
        };
        ferricd.answers().await?;
        Ok(ferricd)
    }

    async fn answers(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check()?;
            let request = Request::get(format!("{}/v1", self.url)).body(Full::new(Bytes::new()))?;
            if self.client.send(request).await.is_ok_and(|reply| reply.status.is_success()) {
                return Ok(());
            }
            if started.elapsed() > START {
                bail!("ferricd does not answer within {} s; its log ends with: {}", START.as_secs(), self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails when it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("ferricd ended with {status}; its log ends with: {}", self.log_end()),
        }
    }

    /// kill -9, and a start over what is left. Returns the time until it answers again.
    pub(crate) async fn kill_and_start(&mut self) -> Result<Duration> {
        self.before = self.usage();
        self.sessions_before = self.sessions().await?;
        self.child.kill().await.context("kill ferricd")?;
        self.kills += 1;
        let started = Instant::now();
        self.child = launch(&self.program, &self.folder, &self.arguments)?;
        self.answers().await?;
        Ok(started.elapsed())
    }

    /// What all its processes have used.
    pub(crate) fn usage(&self) -> Usage {
        self.before.and(self.child.id().map(Usage::of).unwrap_or_default())
    }

    /// Connections of sessions that agents have had with all its processes: those that are, and those that ended.
    pub(crate) async fn sessions(&self) -> Result<u64> {
        let request = Request::get(format!("{}/metrics", self.url)).body(Full::new(Bytes::new()))?;
        let reply = self.client.send(request).await.context("read the metrics")?;
        if !reply.status.is_success() {
            bail!("/metrics gave {}: {}", reply.status, reply.text());
        }
        // Not `reply.text()`, which is cut to the length of a message.
        let metrics = String::from_utf8_lossy(&reply.body);
        Ok(self.sessions_before + sessions(&metrics).context("the metrics do not tell of sessions")?)
    }

    /// Bytes of the database with its side files.
    pub(crate) fn database(&self) -> u64 {
        let size = |name: &str| fs::metadata(self.folder.join("data").join(name)).map_or(0, |file| file.len());
        ["ferric.db", "ferric.db-wal", "ferric.db-shm"].into_iter().map(size).sum()
    }

    fn log_end(&self) -> String {
        let log = fs::read(self.folder.join("ferricd.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned()
    }
}

/// Sessions in a text of metrics.
fn sessions(metrics: &str) -> Option<u64> {
    let sample = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
    let now = metrics.lines().find(|line| line.starts_with("ferric_sessions "))?;
    let ended = metrics.lines().filter(|line| line.starts_with("ferric_session_ends_total{"));
    let all = ended.chain([now]).map(sample).sum::<Option<f64>>()?;
    Some(all as u64)
}

fn launch(program: &Path, folder: &Path, arguments: &[String]) -> Result<Child> {
    let log = folder.join("ferricd.log");
    let log = fs::File::options().create(true).append(true).open(&log).context("open the log of ferricd")?;
    Command::new(program)
        .args(arguments)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_those_that_are_and_those_that_were() {
        let text = "# TYPE ferric_sessions gauge\nferric_sessions 3\n# TYPE ferric_session_ends counter\n\
                    ferric_session_ends_total{reason=\"gone\"} 40\nferric_session_ends_total{reason=\"silent\"} 2\n";
        assert_eq!(sessions(text), Some(45));
        assert_eq!(sessions("ferric_sessions 0\n"), Some(0));
        assert_eq!(sessions("ferric_nodes 1\n"), None);
    }
}
