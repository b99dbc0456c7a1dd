//! One run of one way, with what it took.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What one run took. Of a pipeline, the sums over its programs.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) seconds: f64,
    pub(super) cpu: f64,
    pub(super) peak_kib: u64,
}

/// Programs that are connected by pipes, and one that reads a fifo beside them.
#[derive(Default)]
pub(super) struct Step {
    pub(super) pipeline: Vec<Vec<String>>,
    pub(super) beside: Option<Vec<String>>,
}

/// One way to do the work: steps one after the other.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) role: Role,
    pub(super) steps: Vec<Step>,
    /// Whether the target holds the image afterwards.
    pub(super) writes: bool,
}

/// What a way is measured for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Ours,
    /// Does the whole job, and verifies a digest.
    Peer,
    /// One of the stages, alone: nobody who does it can be faster than the slowest of them.
    Stage,
    /// Something else to compare with.
    Other,
}

impl Role {
    /// How often it runs where the rest runs `runs` times: what only tells where the limits are, less often.
    pub(super) fn runs(self, runs: usize) -> usize {
        if self == Self::Stage { runs.min(3) } else { runs }
    }
}

impl Way {
    /// A way of one program.
    pub(super) fn one(name: &'static str, role: Role, command: Vec<String>, writes: bool) -> Self {
        let step = Step { pipeline: vec![command], beside: None };
        Self { name, role, steps: vec![step], writes }
    }

    /// Runs it. `folder` is for notes.
    pub(super) fn run(&self, folder: &Path) -> Result<Taken> {
        let (notes, before) = (Notes(folder), Instant::now());
        let mut sum = Taken::default();
        for step in &self.steps {
            let beside =
                step.beside.as_ref().map(|command| notes.start(command, "beside", Stdio::null(), Stdio::null()));
            let beside = beside.transpose()?;
            notes.pipeline(&step.pipeline, &mut sum)?;
            if let Some(beside) = beside {
                notes.end(beside, "beside", &mut sum)?;
            }
        }
        sum.seconds = before.elapsed().as_secs_f64();
        Ok(sum)
    }
}

/// Where time(1) writes to.
struct Notes<'a>(&'a Path);

impl Notes<'_> {
    fn path(&self, note: &str) -> PathBuf {
        self.0.join(format!("time-{note}"))
    }

    fn pipeline(&self, pipeline: &[Vec<String>], sum: &mut Taken) -> Result<()> {
        let (mut children, mut input) = (Vec::new(), Stdio::null());
        for (number, command) in pipeline.iter().enumerate() {
            let last = number + 1 == pipeline.len();
            let output = if last { Stdio::null() } else { Stdio::piped() };
            let mut child = self.start(command, &number.to_string(), input, output)?;
            input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
            children.push(child);
        }
        for (number, child) in children.into_iter().enumerate() {
            self.end(child, &number.to_string(), sum)?;
        }
        Ok(())
    }

    fn start(&self, command: &[String], note: &str, input: Stdio, output: Stdio) -> Result<Child> {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%U %S %M", "-o"]).arg(self.path(note)).args(command);
        timed.stdin(input).stdout(output).spawn().with_context(|| format!("start {command:?}"))
    }

    fn end(&self, mut child: Child, note: &str, sum: &mut Taken) -> Result<()> {
        let status = child.wait()?;
        let text = std::fs::read_to_string(self.path(note))?;
        ensure!(status.success(), "it ended with {status}: {}", text.trim());
        let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [user, system, peak] = fields[..] else { anyhow::bail!("time(1) wrote {text:?}") };
        sum.cpu += user + system;
        sum.peak_kib += peak as u64;
        Ok(())
    }
}

/// The median of each column.
pub(super) fn median(taken: &[Taken]) -> Taken {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Taken {
        seconds: middle(taken.iter().map(|taken| taken.seconds).collect()),
        cpu: middle(taken.iter().map(|taken| taken.cpu).collect()),
        peak_kib: middle(taken.iter().map(|taken| taken.peak_kib as f64).collect()) as u64,
    }
}
