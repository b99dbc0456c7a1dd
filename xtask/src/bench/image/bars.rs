//! What has to be reached, and whether it is.

/// The bars, in the order in which they were measured.
#[derive(Default)]
pub(super) struct Bars {
    rows: Vec<(String, f64, Bar)>,
}

/// Where a bar lies.
#[derive(Clone, Copy)]
pub(super) enum Bar {
    /// At least so much.
    Least(f64),
    /// At most so much.
    Most(f64),
}

impl Bar {
    fn is_met(self, found: f64) -> bool {
        match self {
            Self::Least(bar) => found >= bar,
            Self::Most(bar) => found <= bar,
        }
    }
}

impl Bars {
    pub(super) fn add(&mut self, what: String, found: f64, bar: Bar) {
        println!("{}", row(&what, found, bar));
        self.rows.push((what, found, bar));
    }

    pub(super) fn missed(&self) -> usize {
        self.rows.iter().filter(|(_, found, bar)| !bar.is_met(*found)).count()
    }

    pub(super) fn print(&self) {
        println!("\nbars");
        for (what, found, bar) in &self.rows {
            println!("{}", row(what, *found, *bar));
        }
    }
}

fn row(what: &str, found: f64, bar: Bar) -> String {
    let (word, wanted) = match bar {
        Bar::Least(bar) => ("at least", bar),
        Bar::Most(bar) => ("at most", bar),
    };
    let verdict = if bar.is_met(found) { "met" } else { "missed" };
    format!("{what:<66} {found:>7.2}, {word} {wanted:.2}: {verdict}")
}
