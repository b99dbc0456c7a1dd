//! What a run has taken.

use crate::ferricd::Usage;
use crate::operator::Passed;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Seconds for each machine, from enrolled to active: a thousand in three minutes.
const SECONDS_EACH: f64 = 0.18;
/// Machines below which the time is not one of many, but that of one.
const MANY: usize = 500;
/// Most memory of ferricd, MiB.
const MEMORY: f64 = 256.0;

/// What a run has taken.
pub(crate) struct Report {
    pub(crate) machines: usize,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) passed: Vec<Passed>,
    pub(crate) took: BTreeMap<&'static str, Vec<f64>>,
    pub(crate) ferricd: Usage,
    pub(crate) own: Usage,
    /// Bytes.
    pub(crate) database: u64,
    /// Connections of sessions that agents have had with ferricd.
    pub(crate) sessions: u64,
    pub(crate) cut: u64,
    pub(crate) reset: u64,
    pub(crate) killed: u32,
}

/// What so many of a hundred did not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

impl Report {
    fn is_in_time(&self) -> bool {
        self.machines < MANY || self.seconds <= SECONDS_EACH * self.machines as f64
    }

    fn is_small(&self) -> bool {
        mib(self.ferricd.peak) <= MEMORY
    }

    /// Whether the bars are met.
    pub(crate) fn met(&self) -> bool {
        self.is_in_time() && self.is_small()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let verdict = |met: bool| if met { "met" } else { "MISSED" };
        let mut text = String::new();
        // A text takes whatever is written.
        let _ = writeln!(
            text,
            "{} machines, all active and booted from what was written; seed {}; {} sessions, {} connections cut, \
             {} machines reset, ferricd killed {} times",
            self.machines, self.seed, self.sessions, self.cut, self.reset, self.killed
        );
        let _ = writeln!(text, "{:<12} {:>9} {:>18} {:>9}", "phase", "s in all", "s of one, p50/p99", "failures");
        for passed in &self.passed {
            let of_one = format!("{:.1} / {:.1}", percentile(&passed.nodes, 50), percentile(&passed.nodes, 99));
            let Passed { name, seconds, failures, .. } = passed;
            let _ = writeln!(text, "{name:<12} {seconds:>9.1} {of_one:>18} {failures:>9}");
            for reason in &passed.reasons {
                let _ = writeln!(text, "    {reason:.300}");
            }
        }
        let _ = writeln!(text, "{:<12} {:>9} {:>18}", "API", "requests", "ms, p50/p99");
        for (what, took) in &self.took {
            let times = format!("{:.1} / {:.1}", 1000.0 * percentile(took, 50), 1000.0 * percentile(took, 99));
            let _ = writeln!(text, "{what:<12} {:>9} {times:>18}", took.len());
        }
        let _ = writeln!(
            text,
            "database {:.1} MiB; processor time: ferricd {:.1} s, machines {:.1} s (at most {:.0} MiB)",
            self.database as f64 / f64::from(1 << 20),
            self.ferricd.cpu,
            self.own.cpu,
            mib(self.own.peak)
        );
        let (seconds, bar) = (self.seconds, SECONDS_EACH * self.machines as f64);
        let _ = if self.machines < MANY {
            writeln!(text, "from enrolled to active: {seconds:.1} s")
        } else {
            writeln!(text, "from enrolled to active: {seconds:.1} s, bar {bar:.0} s: {}", verdict(self.is_in_time()))
        };
        let (peak, small) = (mib(self.ferricd.peak), verdict(self.is_small()));
        let _ = writeln!(text, "memory of ferricd: at most {peak:.1} MiB, bar {MEMORY:.0} MiB: {small}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(machines: usize, seconds: f64, peak: u64) -> Report {
        Report {
            machines,
            seed: 1,
            seconds,
            passed: vec![Passed { name: "deploy", nodes: vec![1.0, 2.0, 3.0], ..Passed::default() }],
            took: BTreeMap::from([("show", vec![0.001, 0.002])]),
            ferricd: Usage { peak, cpu: 1.0 },
            own: Usage::default(),
            database: 1 << 20,
            sessions: 0,
            cut: 0,
            reset: 0,
            killed: 0,
        }
    }

    #[test]
    fn a_bar_that_is_missed_is_said_and_few_machines_have_none_of_time() {
        assert!(report(1000, 180.0, 256 << 10).met());
        let slow = report(1000, 180.1, 1);
        assert!(!slow.met() && slow.text().contains("bar 180 s: MISSED"), "{}", slow.text());
        let large = report(50, 1000.0, (256 << 10) + 1);
        assert!(!large.met() && large.text().contains("bar 256 MiB: MISSED"), "{}", large.text());
        assert!(report(50, 1000.0, 1).met());
    }
}
