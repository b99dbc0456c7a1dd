//! How much memory the agent takes: on a machine of 256 MiB this is worth a word in the log.

/// Resident memory of this process, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Resident {
    /// Now (`VmRSS`).
    pub(crate) now: u64,
    /// The most so far (`VmHWM`).
    pub(crate) peak: u64,
}

/// What proc(5) says in `/proc/self/status`; zero where it says nothing.
pub(crate) fn resident() -> Resident {
    parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn parse(status: &str) -> Resident {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    };
    Resident { now: kib("VmRSS"), peak: kib("VmHWM") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_and_missing_ones_are_zero() {
        let status = "Name:\tferric-agent\nVmHWM:\t   12345 kB\nVmRSS:\t    9876 kB\n";
        assert_eq!(parse(status), Resident { now: 9876, peak: 12345 });
        assert_eq!(parse("VmRSS: much"), Resident::default());
        assert!(resident().now > 0);
    }
}
