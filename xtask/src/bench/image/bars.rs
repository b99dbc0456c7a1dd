//! What has to be reached, and whether it is.

/// The bars, in the order in which they were measured.
#[derive(Default)]
pub(super) struct Bars {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    found: f64,
    bar: Bar,
    /// Why nobody could do better, as measured in the same run.
    limit: Option<String>,
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
        self.add_limited(what, found, bar, None);
    }

    /// A bar that may be out of everybody's reach.
    pub(super) fn add_limited(&mut self, what: String, found: f64, bar: Bar, limit: Option<String>) {
        let row = Row { what, found, bar, limit };
        println!("{}", row.text());
        self.rows.push(row);
    }

    pub(super) fn missed(&self) -> usize {
        self.rows.iter().filter(|row| !row.bar.is_met(row.found)).count()
    }

    pub(super) fn print(&self) {
        println!("\nbars");
        for row in &self.rows {
            println!("{}", row.text());
        }
        println!("{} of {} are met", self.rows.len() - self.missed(), self.rows.len());
    }
}

impl Row {
    fn text(&self) -> String {
        let Self { what, found, bar, limit } = self;
        let (word, wanted) = match bar {
            Bar::Least(bar) => ("at least", bar),
            Bar::Most(bar) => ("at most", bar),
        };
        let verdict = if bar.is_met(*found) { "met" } else { "missed" };
        let limit = limit.as_ref().map_or_else(String::new, |limit| format!(" ({limit})"));
        format!("{what:<82} {found:>6.2}, {word} {wanted:.2}: {verdict}{limit}")
    }
}
