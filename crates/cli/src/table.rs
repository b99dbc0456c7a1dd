//! Plain text for people: aligned columns, paragraphs, sizes, times. Nothing is wider than the terminal, and where there
//! is none, nothing is cut.

use jiff::Timestamp;
use std::fmt::Write as _;

/// Width when there is no terminal to ask.
const USUAL: usize = 80;

/// Columns of the terminal that standard output or standard error is.
pub(crate) fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stderr()))
        .map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { USUAL } else { columns.max(40) }
}

/// Rows of the terminal.
pub(crate) fn height() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(24, |size| usize::from(size.ws_row)).max(5)
}

/// Whether what is printed has to fit a terminal.
pub(crate) fn on_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdout().is_terminal()
}

/// Text without what would move the cursor or change colours: it may come from a BMC or from a stranger's disk.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// At most `width` characters, the last of them a mark when something was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain("…".chars()).collect()
}

/// A table whose last column takes what is left of `limit` columns; without a limit nothing is cut.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let wide = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..head.len()).map(wide).collect();
    // The first column names the row; where it is long, it gives way before the rest is lost.
    if let (Some(limit), Some(first)) = (limit, widths.first_mut())
        && head.len() > 1
    {
        *first = (*first).min((limit / 2).max(12));
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let last = column + 1 == row.len();
            let fits = if limit.is_some() { cut(cell, if last { usize::MAX } else { width }) } else { cell.clone() };
            if last {
                line += &fits;
            } else {
                write!(line, "{fits:<width$}  ").ok();
            }
        }
        let line = line.trim_end();
        text += &limit.map_or_else(|| line.to_owned(), |limit| cut(line, limit));
        text.push('\n');
    }
    text
}

/// Lines of a name and a value; a value that is too long goes on below itself.
pub(crate) fn pairs(pairs: &[(&str, String)], limit: usize) -> String {
    let wide = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let room = limit.saturating_sub(wide + 2).max(20);
        for (number, line) in wrap(&plain(value), room).lines().enumerate() {
            let name = if number == 0 { name } else { "" };
            writeln!(text, "{}", format!("{name:<wide$}  {line}").trim_end()).ok();
        }
    }
    text
}

/// A paragraph in lines of at most `limit` characters, broken at blanks; a longer word stays whole.
pub(crate) fn wrap(text: &str, limit: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > limit {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Seconds as people read them: the two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time of the API was.
pub(crate) fn age(time: &str, now: Timestamp) -> Option<u64> {
    let then: Timestamp = time.parse().ok()?;
    u64::try_from(now.duration_since(then).as_secs()).ok().or(Some(0))
}

/// A name in the order of people: `n2` before `n10`.
pub(crate) fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = vec![(String::new(), 0)];
    let mut digits = false;
    for character in name.chars() {
        let digit = character.to_digit(10);
        if digits && digit.is_none() {
            parts.push((String::new(), 0));
        }
        digits = digit.is_some();
        if let Some((text, number)) = parts.last_mut() {
            match digit {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(u64::from(digit)),
                None => text.push(character),
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_and_name_and_note_give_way() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["n1", "active", "power on"]),
            row([
                "a-node-with-a-name-that-is-longer-than-half-of-it",
                "deploy failed",
                "no \u{1b}[31msuitable device was found",
            ]),
        ];
        insta::assert_snapshot!(format!(
            "{}\n{}",
            table(&["node", "state", "note"], &rows, Some(48)),
            table(&["node", "state", "note"], &rows, None)
        ));
    }

    #[test]
    fn names_are_in_the_order_of_people() {
        let mut names = ["n10", "n2", "n1b", "n1", "a"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["a", "n1", "n1b", "n2", "n10"]);
    }

    #[test]
    fn sizes_and_durations_are_for_people() {
        assert_eq!(
            [0, 1023, 1024, 480_103_981_056, 1 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "447.1 GiB", "1.0 TiB"]
        );
        assert_eq!(
            [5, 119, 120, 7199, 7200, 172_800].map(duration),
            ["5 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
        );
    }

    #[test]
    fn long_values_go_on_below_themselves() {
        insta::assert_snapshot!(pairs(
            &[("state", "active".to_owned()), ("last error", "one two three four five six seven".to_owned())],
            34
        ));
    }
}
