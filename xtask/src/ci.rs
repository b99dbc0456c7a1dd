//! `cargo xtask ci`: everything that decides whether a change lands, in stages with budgets.
//!
//! A stage goes on after a failure, so that one run shows all that is broken; the last line is `N passed, N failed`.

use crate::e2e::{self, Parts};
use crate::interop::{self, Peer};
use crate::{cmd, fuzz, setup, wire};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Also what takes long: every story, and the ramdisk built twice from clean clones
    #[arg(long)]
    all: bool,
    /// Use nothing that an earlier run left outside the checkout
    #[arg(long)]
    no_cache: bool,
}

/// Stories of every run: the demo's path, and a driver killed in the middle of an image write.
const E2E: [&str; 2] = ["deploy_debian", "driver_killed"];
/// Stories of commands that people type: the `baremetal` client, and `ferric`.
const INTEROP: [&str; 2] = ["client_lifecycle", "cli_operator"];
/// Stories of every run with Ironic in place of ferricd.
const IRONIC: [&str; 1] = ["deploy"];

/// How many stories are told at once where there are many: a virtual server keeps little more than one processor busy.
const AT_ONCE: usize = 2;

const MINUTE: Duration = Duration::from_secs(60);
/// Above this a run is too long to wait for.
const WARN_ABOVE: Duration = Duration::from_secs(60 * 60);

pub fn run(args: &Args) -> Result<()> {
    let scratch = args.no_cache.then(fresh_cache).transpose()?;
    eprintln!("[ci] {}", disk());
    // Everything is compiled once: what a second time would need, and what a debugger would, takes a tenth of the time and half
    // of the disk.
    cmd::pass_on("CARGO_INCREMENTAL", "0");
    cmd::pass_on("CARGO_PROFILE_DEV_DEBUG", "0");
    let evidence = PathBuf::from("target/e2e");
    let mut report = Report::default();
    report.stage("set-up and build", 22 * MINUTE, |checks| {
        checks.check("packages", setup::packages);
        // Whoever waits for one large crate, or for a download, leaves a processor to the other.
        checks.side_by_side([
            &|checks| {
                checks.check("format", || fmt(true));
                checks.check("lint", lint);
                checks.check("wire", || wire::run(true));
                checks.check("build tests", || cmd::run(cargo().args(["test", "--workspace", "--locked", "--no-run"])));
                checks.check("build fuzz targets", fuzz::build);
            },
            &|checks| {
                checks.check("parts of the stories", || {
                    interop::prepare(Peer::Ironic, &evidence, Parts::Usual).map(drop)
                });
            },
        ]);
    });
    report.stage("unit, contract and fuzz", 8 * MINUTE, |checks| {
        checks.tests();
        checks.fuzz();
    });
    report.stage("e2e", 12 * MINUTE, |checks| {
        checks.stories(&E2E);
        checks.check("50 simulated machines", || xtask(&["sim", "50", "--bars"]));
    });
    report.stage("interop", 8 * MINUTE, |checks| {
        checks.stories(&INTEROP);
        checks.ironic(&IRONIC);
    });
    if args.all {
        report.stage("all: other stories", 40 * MINUTE, |checks| {
            checks.stories_at_once("", others(&["e2e", "--list"], &[&E2E[..], &INTEROP]), || {
                let (program, artifacts) = e2e::prepare(&evidence, Parts::All)?;
                let mut stories = Command::new(program);
                stories.arg("run").args(artifacts);
                Ok(stories)
            });
        });
        report.stage("all: other stories with Ironic", 40 * MINUTE, |checks| {
            checks.stories_at_once("ironic ", others(&["interop", "ironic", "--list"], &[&IRONIC]), || {
                interop::prepare(Peer::Ironic, &evidence, Parts::All)
            });
        });
        report.stage("all: ironic-python-agent under ferricd", 30 * MINUTE, |checks| {
            checks.stories_at_once("ipa ", others(&["interop", "ipa", "--list"], &[]), || {
                interop::prepare(Peer::Ipa, &evidence, Parts::Usual)
            });
        });
        report.stage("all: ironic-python-agent's own tests against our agent", 5 * MINUTE, |checks| {
            checks.check("ironic-python-agent's own functional tests", || xtask(&["interop", "ipa-tests"]));
        });
        report.stage("all: suites of Ironic's clients against ferricd", 15 * MINUTE, |checks| {
            checks.check("openstacksdk's own functional tests", || xtask(&["interop", "sdk"]));
            checks.check("ironic-tempest-plugin's API tests", || xtask(&["interop", "tempest"]));
        });
        report.stage("all: a simulated fleet", 15 * MINUTE, |checks| {
            checks.check("1000 simulated machines", || xtask(&["sim", "1000", "--bars"]));
            checks.check("1000 simulated machines, losses and restarts", || {
                xtask(&["sim", "1000", "--loss", "1", "--restarts", "2", "--kills", "3"])
            });
            checks.check("200 simulated machines, sessions alone, losses", || {
                xtask(&["sim", "200", "--sessions-only", "--loss", "1"])
            });
        });
        report.stage("all: tests that need root", 5 * MINUTE, |checks| {
            checks.check("direct writes to a block device", || {
                let ignored = ["test", "--locked", "--package=disk-image", "--", "--ignored"];
                cmd::run(cargo().args(ignored))
            });
            checks.check("networks in namespaces", || {
                cmd::run(cargo().args(["test", "--locked", "--package=agent", "--test=network", "--", "--ignored"]))
            });
        });
        report.stage("all: reproducible ramdisks", 30 * MINUTE, |checks| {
            // Profile server has what vm has not: the core of GRUB, which a program of this machine makes.
            for profile in ["vm", "server"] {
                checks.check(&format!("two clean clones agree on {profile}"), || {
                    xtask(&["ramdisk", "--profile", profile, "--check-reproducible"])
                });
            }
        });
    }
    let good = report.finish();
    drop(scratch);
    // What the report printed is the last word of a run, so a failure is told by the exit code alone.
    if !good {
        std::process::exit(1);
    }
    Ok(())
}

/// Where the ramdisk of stories lies.
pub fn vm_ramdisk() -> String {
    cmd::root().join("target/ramdisk").display().to_string()
}

pub fn build_ramdisk() -> Result<()> {
    xtask(&["ramdisk", "--profile", "vm", "--out", &vm_ramdisk()])
}

pub fn fmt(check: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["fmt", "--all"]);
    if check {
        command.arg("--check");
    }
    cmd::run(&mut command)
}

pub fn lint() -> Result<()> {
    cmd::run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

pub fn test() -> Result<()> {
    setup::packages()?;
    let mut checks = Checks::default();
    checks.tests();
    if checks.failed > 0 { bail!("{} passed, {} failed", checks.passed, checks.failed) } else { Ok(()) }
}

/// Generated pages, written or compared with what is committed. The tests of every run compare them too.
pub fn docs(check: bool) -> Result<()> {
    const PAGES: [&str; 6] = ["--lib", "--bins", "--test", "provision", "--", "the_generated_page_is_up_to_date"];
    let mut compares = cargo();
    // Of the whole workspace: another selection of packages has other features, and compiles nearly all of it once more.
    compares.args(["test", "--quiet", "--locked", "--workspace"]).args(PAGES);
    if !check {
        compares.env("UPDATE", "1");
    }
    cmd::run(&mut compares)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(cmd::root());
    command
}

fn xtask(arguments: &[&str]) -> Result<()> {
    cmd::run(Command::new(std::env::current_exe()?).args(arguments).current_dir(cmd::root()))
}

/// The stories that a verb lists, without those that are told in any case.
fn others(verb: &[&str], told: &[&[&str]]) -> Result<Vec<String>> {
    let listed = cmd::output(Command::new(std::env::current_exe()?).args(verb).current_dir(cmd::root()))?;
    let names = listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    Ok(names.filter(|name| !told.iter().any(|told| told.contains(&name.as_str()))).collect())
}

/// A cache of this run's own, removed at its end.
fn fresh_cache() -> Result<Scratch> {
    let dir = std::env::temp_dir().join(format!("ferric-no-cache-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    cmd::use_cache(&dir);
    Ok(Scratch(dir))
}

struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a stage found.
#[derive(Default)]
struct Checks {
    passed: usize,
    failed: usize,
    broken: Vec<String>,
}

impl Checks {
    /// One thing that either holds or does not.
    fn check(&mut self, name: &str, what: impl FnOnce() -> Result<()>) {
        eprintln!("[ci] {name}");
        let started = Instant::now();
        let result = what();
        let took = started.elapsed().as_secs();
        match result {
            Ok(()) => {
                self.passed += 1;
                eprintln!("[ci] {name}: passed in {took} s");
            }
            Err(error) => {
                self.failed += 1;
                let error = format!("{error:#}");
                eprintln!("[ci] {name}: FAILED after {took} s: {error}");
                self.broken.push(format!("{name}: {error}"));
            }
        }
    }

    /// Each story is one thing that holds or does not.
    fn stories(&mut self, names: &[&str]) {
        for name in names {
            self.check(name, || story(&["e2e", name]));
        }
    }

    /// Stories several at a time, each with a log of its own whose end is shown when it failed. `stories` makes the
    /// command that takes their names behind `--`.
    fn stories_at_once(&mut self, kind: &str, names: Result<Vec<String>>, stories: impl FnOnce() -> Result<Command>) {
        match names.and_then(|names| Ok((names, stories()?))) {
            Ok((names, stories)) => {
                self.at_once(kind, names, |name| logged(&stories, name, &format!("{kind}{name}").replace(' ', "-")));
            }
            Err(error) => self.check(&format!("parts of the {kind}stories"), || Err(error)),
        }
    }

    /// Several checks at a time; the label of each is `kind` and its name.
    fn at_once(&mut self, kind: &str, names: Vec<String>, what: impl Fn(&str) -> Result<()> + Sync) {
        let waiting = Mutex::new(names.into_iter());
        let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
        let work = |checks: &mut Self| {
            while let Some(name) = next() {
                checks.check(&format!("{kind}{name}"), || what(&name));
            }
        };
        self.side_by_side([&work; AT_ONCE]);
    }

    /// Checks of several threads.
    fn side_by_side<const N: usize>(&mut self, works: [&(dyn Fn(&mut Self) + Sync); N]) {
        let checks = std::thread::scope(|scope| {
            let workers = works.map(|work| {
                scope.spawn(move || {
                    let mut checks = Self::default();
                    work(&mut checks);
                    checks
                })
            });
            workers.map(std::thread::ScopedJoinHandle::join)
        });
        for checked in checks {
            match checked {
                Ok(checked) => self.add(checked),
                Err(_) => self.check("checks side by side", || bail!("a thread that checks panicked")),
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.broken.extend(other.broken);
    }

    /// A short run of each fuzz target; each is one thing that holds or does not.
    fn fuzz(&mut self) {
        const SECONDS: u32 = 6;
        match fuzz::targets() {
            Ok(targets) => self.at_once("fuzz ", targets, |target| fuzz::fuzz(&fuzz::programs(), target, SECONDS)),
            Err(error) => self.check("list of fuzz targets", || Err(error)),
        }
    }

    /// As [`Self::stories`], with Ironic in place of ferricd.
    fn ironic(&mut self, names: &[&str]) {
        for name in names {
            self.check(&format!("ironic {name}"), || story(&["interop", "ironic", name]));
        }
    }

    /// The workspace's tests, counted one by one.
    fn tests(&mut self) {
        match run_tests() {
            Ok((passed, failed, status)) => {
                self.passed += passed;
                self.failed += failed;
                if failed > 0 {
                    self.broken.push(format!("{failed} test(s)"));
                } else if !status || passed == 0 {
                    self.failed += 1;
                    self.broken.push("cargo test".to_owned());
                }
            }
            Err(error) => {
                self.failed += 1;
                self.broken.push(format!("cargo test: {error:#}"));
            }
        }
    }
}

/// Tells a story by a verb of this program. Its last line on standard output says how it ended, and why.
fn story(arguments: &[&str]) -> Result<()> {
    let mut xtask = Command::new(std::env::current_exe()?);
    let mut child = cmd::inherit(xtask.args(arguments).current_dir(cmd::root())).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("standard output of the story")?;
    let mut last = String::new();
    for line in BufReader::new(stdout).lines() {
        last = line.context("read what the story prints")?;
        eprintln!("{last}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{}", if last.is_empty() { format!("it ended with {status}") } else { last });
    }
    Ok(())
}

/// Tells the story `name` with a copy of the command `stories`; what it says goes to the file `target/e2e/logs/LOG.log`.
fn logged(stories: &Command, name: &str, log: &str) -> Result<()> {
    let folder = cmd::root().join("target/e2e/logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{log}.log"));
    let log = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut story = Command::new(stories.get_program());
    story.args(stories.get_args()).arg("--").arg(name).current_dir(cmd::root());
    story.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = story.status().context("start the story")?;
    if status.success() {
        return Ok(());
    }
    let last = show_end(&path)?;
    bail!("{last} ({status}; all that it said is in {})", path.display())
}

/// Shows the last lines of a file, and returns the very last.
fn show_end(path: &Path) -> Result<String> {
    const LINES: usize = 30;
    let said = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
        eprintln!("    {line}");
    }
    Ok(lines.last().copied().unwrap_or_default().to_owned())
}

/// Runs all tests, shows what they print, and returns how many passed and failed and whether cargo was content.
fn run_tests() -> Result<(usize, usize, bool)> {
    let mut child = cmd::inherit(cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]))
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let (mut passed, mut failed) = (0, 0);
    let stdout = child.stdout.take().context("standard output of cargo test")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo test prints")?;
        if let Some((good, bad)) = counts(&line) {
            passed += good;
            failed += bad;
        }
        eprintln!("{line}");
    }
    Ok((passed, failed, child.wait()?.success()))
}

/// How much of the disk is free: what a full one breaks says so in many ways.
fn disk() -> String {
    match rustix::fs::statvfs(cmd::root()) {
        Ok(disk) => {
            format!("{:.1} GiB of the disk are free", (disk.f_bavail * disk.f_frsize) as f64 / f64::from(1 << 30))
        }
        Err(error) => format!("the disk does not say what is free: {error}"),
    }
}

/// Passed and failed of a line `test result: ok. 3 passed; 0 failed; …`.
fn counts(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |word: &str| -> Option<usize> {
        rest.split(';').map(str::trim).find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

#[derive(Default)]
struct Report {
    stages: Vec<(&'static str, Duration, Duration, Checks)>,
}

impl Report {
    fn stage(&mut self, name: &'static str, budget: Duration, run: impl FnOnce(&mut Checks)) {
        eprintln!("[ci] === {name} (budget {} min)", budget.as_secs() / 60);
        let started = Instant::now();
        let mut checks = Checks::default();
        run(&mut checks);
        let used = started.elapsed();
        let minutes = used.as_secs_f64() / 60.0;
        let (passed, failed) = (checks.passed, checks.failed);
        eprintln!("[ci] === {name}: {passed} passed, {failed} failed in {minutes:.1} min; {}", disk());
        self.stages.push((name, budget, used, checks));
    }

    /// Prints what was found. Returns whether nothing failed.
    fn finish(&self) -> bool {
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        let total: Duration = self.stages.iter().map(|stage| stage.2).sum();
        eprintln!("\n{:<28}{:>8}{:>9}{:>8}{:>8}", "stage", "used", "budget", "passed", "failed");
        for (name, budget, used, checks) in &self.stages {
            let over = if used > budget { "  over budget" } else { "" };
            eprintln!(
                "{name:<28}{:>4.1} min{:>5.0} min{:>8}{:>8}{over}",
                minutes(*used),
                minutes(*budget),
                checks.passed,
                checks.failed
            );
            for broken in &checks.broken {
                eprintln!("    FAILED: {broken}");
            }
        }
        eprintln!("{:<28}{:>4.1} min", "total", minutes(total));
        if total > WARN_ABOVE {
            eprintln!("warning: the run took more than {:.0} minutes", minutes(WARN_ABOVE));
        }
        let passed: usize = self.stages.iter().map(|stage| stage.3.passed).sum();
        let failed: usize = self.stages.iter().map(|stage| stage.3.failed).sum();
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn results_of_cargo_test_are_counted() {
        assert_eq!(counts("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"), Some((3, 0)));
        assert_eq!(counts("test result: FAILED. 3 passed; 2 failed; 0 ignored"), Some((3, 2)));
        assert_eq!(counts("running 3 tests"), None);
    }
}
