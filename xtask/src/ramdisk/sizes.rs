//! The size table, its file, and the budget.

use super::profile::Budget;
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What `sizes.json` holds. Bytes everywhere.
#[derive(Debug, Serialize)]
pub struct Report {
    pub profile: String,
    pub version: String,
    pub kernel_release: String,
    /// Kernel and parts of the initramfs. The total leaves firmware out, as the budget does.
    pub parts: Vec<Part>,
    pub total: Part,
    pub budget: Budget,
    /// The artefacts beside this file.
    pub files: BTreeMap<String, File>,
    /// Debian packages that something was taken from, with versions.
    pub packages: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Part {
    pub name: String,
    pub packed: u64,
    pub unpacked: u64,
}

#[derive(Debug, Serialize)]
pub struct File {
    pub bytes: u64,
    pub sha256: String,
}

/// The sum of parts.
pub fn total<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Part {
    let zero = Part { name: "total".to_owned(), packed: 0, unpacked: 0 };
    parts.into_iter().fold(zero, |sum, part| Part {
        packed: sum.packed + part.packed,
        unpacked: sum.unpacked + part.unpacked,
        ..sum
    })
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = format!("{:<14}{:>14}{:>14}\n", "part", "packed", "unpacked");
        let limit = Part { name: "limit".to_owned(), packed: self.budget.packed, unpacked: self.budget.unpacked };
        for part in self.parts.iter().chain([&self.total, &limit]) {
            let _ = writeln!(out, "{:<14}{:>14}{:>14}", part.name, grouped(part.packed), grouped(part.unpacked));
        }
        let percent = |size: u64, limit: u64| format!("{:.1} %", size as f64 * 100.0 / limit as f64);
        let packed = percent(self.total.packed, limit.packed);
        let _ = writeln!(out, "{:<14}{packed:>14}{:>14}", "used", percent(self.total.unpacked, limit.unpacked));
        for (name, file) in &self.files {
            let _ = writeln!(out, "{name:<14}{:>14}  sha256 {}", grouped(file.bytes), file.sha256);
        }
        out
    }

    /// Fails when a total is over its budget.
    pub fn check_budget(&self) -> Result<()> {
        for (what, size, budget) in
            [("packed", self.total.packed, self.budget.packed), ("unpacked", self.total.unpacked, self.budget.unpacked)]
        {
            if size > budget {
                bail!(
                    "kernel and initramfs have {} bytes {what}, {} over the budget of profile {}: the table above shows \
                     the parts; take something out, or raise the budget there and say why",
                    grouped(size),
                    grouped(size - budget),
                    self.profile
                );
            }
        }
        Ok(())
    }
}

/// A number with thin groups of three: 16_777_216 is `16 777 216`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(packed: u64, unpacked: u64) -> Report {
        let parts = vec![Part { name: "kernel".to_owned(), packed, unpacked }];
        Report {
            profile: "vm".to_owned(),
            version: "0.1.0".to_owned(),
            kernel_release: "6.1.0".to_owned(),
            total: total(&parts),
            parts,
            budget: Budget { packed: 1000, unpacked: 2000 },
            files: BTreeMap::new(),
            packages: BTreeMap::new(),
        }
    }

    #[test]
    fn a_size_over_either_budget_is_refused_with_the_excess() {
        assert!(report(1000, 2000).check_budget().is_ok());
        assert!(report(1001, 0).check_budget().unwrap_err().to_string().contains("1 over the budget"));
        assert!(report(0, 2500).check_budget().unwrap_err().to_string().contains("unpacked, 500 over"));
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 16_777_216].map(grouped), ["0", "999", "1 000", "16 777 216"]);
    }
}
