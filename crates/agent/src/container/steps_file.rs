//! The file in which a ramdisk has container steps of its own, `/etc/ironic-python-agent.d/mysteps.yaml`.
//!
//! It is written in YAML. Read is what such a list of steps needs: mappings and lists by indentation or as JSON, plain and
//! quoted words, comments. Anchors, tags and texts of several lines are refused with the number of their line: a whole YAML
//! library is a twentieth of the agent, for one file that few ramdisks have.

use crate::command::params::kind_of;
use serde_json::{Map, Value};
use std::io::Read as _;
use std::path::Path;

/// The most that the file may have, in bytes.
const LONGEST: u64 = 256 << 10;
/// How deep lists and mappings may lie in each other.
const DEEPEST: usize = 8;

/// A step of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStep {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) interface: String,
    pub(super) priority: i64,
    pub(super) reboot_requested: bool,
    pub(super) abortable: bool,
    /// Words; none for those of the configuration.
    pub(super) pull_options: Vec<String>,
    pub(super) run_options: Vec<String>,
}

/// The steps of the file; none where there is no such file.
pub(super) fn read(path: &Path) -> Result<Vec<FileStep>, String> {
    let shown = path.display();
    let unread = |why: String| format!("Could not read container steps from {shown}: {why}");
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unread(error.to_string())),
        Ok(read) if read as u64 > LONGEST => return Err(unread(format!("it has more than {LONGEST} bytes"))),
        Ok(_) => {}
    }
    let steps = match parse(&text).map_err(unread)? {
        Value::Null => return Ok(Vec::new()),
        Value::Object(mut file) => file.remove("steps").unwrap_or_default(),
        other => {
            let found = kind_of(&other);
            return Err(format!(
                "Container steps file {shown} must contain a mapping with a 'steps' key, got {found}."
            ));
        }
    };
    match steps {
        Value::Null => Ok(Vec::new()),
        Value::Array(steps) => steps.iter().map(|step| file_step(step, path)).collect(),
        other => Err(format!("'steps' in {shown} must be a list, got {}.", kind_of(&other))),
    }
}

fn file_step(step: &Value, path: &Path) -> Result<FileStep, String> {
    let shown = path.display();
    let Value::Object(step) = step else {
        return Err(format!("Each container step in {shown} must be a mapping, got {}.", kind_of(step)));
    };
    let name = step.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or("<unnamed>");
    let missing = |key: &str| format!("Container step '{name}' in {shown} is missing the required '{key}' key.");
    let wrong = |key: &str, wanted: &str| format!("'{key}' of container step '{name}' in {shown} must be {wanted}.");
    let get = |key: &str| step.get(key).filter(|value| !value.is_null()).ok_or_else(|| missing(key));
    let text = |key: &str| -> Result<String, String> {
        let text = get(key)?.as_str().ok_or_else(|| wrong(key, "a text"))?;
        if text.is_empty() { Err(missing(key)) } else { Ok(text.to_owned()) }
    };
    let truth = |key: &str| get(key)?.as_bool().ok_or_else(|| wrong(key, "true or false"));
    let options = |key: &str| match step.get(key) {
        None => Ok(Vec::new()),
        Some(given) => super::manager::words(given).ok_or_else(|| wrong(key, "a text or a list of texts")),
    };
    Ok(FileStep {
        name: text("name")?,
        image: text("image")?,
        interface: text("interface")?,
        priority: get("priority")?.as_i64().ok_or_else(|| wrong("priority", "a whole number"))?,
        reboot_requested: truth("reboot_requested")?,
        abortable: truth("abortable")?,
        pull_options: options("pull_options")?,
        run_options: options("run_options")?,
    })
}

/// A line that says something.
struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

fn parse(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with(['{', '[']) {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let mut lines = Vec::new();
    for (number, whole) in (1..).zip(text.lines()) {
        let text = without_comment(whole).trim_end();
        let content = text.trim_start_matches(' ');
        if content.starts_with('\t') {
            return Err(format!("line {number} is indented by a tab"));
        }
        if !content.is_empty() && text != "---" {
            lines.push(Line { number, indent: text.len() - content.len(), text: content });
        }
    }
    let mut rest = lines.as_mut_slice();
    let value = block(&mut rest, 0)?;
    match rest.first() {
        None => Ok(value),
        Some(line) => Err(format!("line {} is indented by less or more than what it belongs to", line.number)),
    }
}

/// The line up to a `#` that begins a comment: at its start or after a blank, outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quotes, mut before) = (Quotes::default(), ' ');
    for (at, letter) in line.char_indices() {
        let begins = before.is_whitespace() || matches!(before, '[' | ',');
        if !quotes.cover(letter, begins) && letter == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = letter;
    }
    line
}

/// Where a line is in quotes, letter by letter.
#[derive(Default)]
struct Quotes {
    open: Option<char>,
    /// The letter before was the backslash of double quotes.
    escaped: bool,
    /// The letter before closed single quotes; a second one means that it stands for itself.
    closed: bool,
}

impl Quotes {
    /// Whether the next letter is in quotes or one of them. They are quotes only where a word `begins`.
    fn cover(&mut self, letter: char, begins: bool) -> bool {
        let (escaped, closed) = (std::mem::take(&mut self.escaped), std::mem::take(&mut self.closed));
        match self.open {
            None if begins && matches!(letter, '"' | '\'') || closed && letter == '\'' => self.open = Some(letter),
            None => return false,
            Some('"') if escaped => {}
            Some('"') if letter == '\\' => self.escaped = true,
            Some(open) if open == letter => (self.open, self.closed) = (None, open == '\''),
            Some(_) => {}
        }
        true
    }
}

/// The list or mapping that begins with the first line.
fn block(lines: &mut &mut [Line<'_>], depth: usize) -> Result<Value, String> {
    let Some(first) = lines.first() else { return Ok(Value::Null) };
    let (indent, number) = (first.indent, first.number);
    if depth > DEEPEST {
        return Err(format!("line {number} lies in more than {DEEPEST} lists and mappings"));
    }
    if is_item(first.text) { list(lines, indent, depth) } else { mapping(lines, indent, depth) }
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

fn list(lines: &mut &mut [Line<'_>], indent: usize, depth: usize) -> Result<Value, String> {
    let mut items = Vec::new();
    while let Some(line) = lines.first_mut().filter(|line| line.indent == indent && is_item(line.text)) {
        let content = line.text[1..].trim_start();
        let (number, moved) = (line.number, line.text.len() - content.len());
        if content.is_empty() {
            advance(lines);
            let deeper = lines.first().is_some_and(|next| next.indent > indent);
            items.push(if deeper { block(lines, depth + 1)? } else { Value::Null });
        } else if is_item(content) || pair(content).is_some() {
            // What the item begins with is a block of its own, as if it stood in a line by itself.
            (line.indent, line.text) = (indent + moved, content);
            items.push(block(lines, depth + 1)?);
        } else {
            items.push(scalar(content, number)?);
            advance(lines);
        }
    }
    Ok(Value::Array(items))
}

fn mapping(lines: &mut &mut [Line<'_>], indent: usize, depth: usize) -> Result<Value, String> {
    let mut map = Map::new();
    while let Some(line) = lines.first().filter(|line| line.indent == indent && !is_item(line.text)) {
        let number = line.number;
        let Some((key, rest)) = pair(line.text) else { return Err(format!("line {number} is no `key: value`")) };
        let key = match scalar(key, number)? {
            Value::String(key) => key,
            other => other.to_string(),
        };
        advance(lines);
        // The items of a list may stand below their key, not indented.
        let below = |next: &Line<'_>| next.indent > indent || (next.indent == indent && is_item(next.text));
        let value = match rest {
            "" if lines.first().is_some_and(below) => block(lines, depth + 1)?,
            rest => scalar(rest, number)?,
        };
        if map.insert(key.clone(), value).is_some() {
            return Err(format!("line {number} says {key} a second time"));
        }
    }
    Ok(Value::Object(map))
}

fn advance(lines: &mut &mut [Line<'_>]) {
    let rest = std::mem::take(lines);
    *lines = rest.get_mut(1..).unwrap_or_default();
}

/// Key and value of `key: value`, as they are written.
fn pair(text: &str) -> Option<(&str, &str)> {
    let quoted = text.strip_prefix(['"', '\'']).map(|rest| (rest, &text[..1]));
    let from = quoted.and_then(|(rest, quote)| rest.find(quote).map(|at| at + 2)).unwrap_or(0);
    let at =
        from + text[from..].find(':').filter(|at| matches!(text[from + at + 1..].chars().next(), None | Some(' ')))?;
    Some((text[..at].trim_end(), text[at + 1..].trim()))
}

/// The items of a list in a line, as they are written; `None` where one of them is no word.
fn items(inner: &str) -> Option<Vec<&str>> {
    let (mut items, mut quotes, mut from) = (Vec::new(), Quotes::default(), 0);
    for (at, letter) in inner.char_indices() {
        if quotes.cover(letter, inner[from..at].trim().is_empty()) {
            continue;
        }
        match letter {
            '[' | '{' => return None,
            ',' => {
                items.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&inner[from..]);
    Some(items.into_iter().map(str::trim).filter(|item| !item.is_empty()).collect())
}

/// One word, or a list of words in a line.
fn scalar(text: &str, number: usize) -> Result<Value, String> {
    let refused = |what: &str| Err(format!("line {number} has {what}, which is not read here: {text}"));
    match text.chars().next() {
        None => return Ok(Value::Null),
        Some('"') => {
            return serde_json::from_str(text)
                .map_err(|_| format!("line {number} has a broken text in quotes: {text}"));
        }
        Some('\'') => {
            let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let whole = inner.filter(|inner| !inner.replace("''", "").contains('\''));
            let broken = || format!("line {number} has a broken text in quotes: {text}");
            return whole.map(|inner| Value::String(inner.replace("''", "'"))).ok_or_else(broken);
        }
        Some('[') => {
            let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
                return refused("a list of several lines");
            };
            let Some(items) = items(inner) else { return refused("a list within a list") };
            return Ok(Value::Array(items.into_iter().map(|item| scalar(item, number)).collect::<Result<_, _>>()?));
        }
        Some('{') => return serde_json::from_str(text).or_else(|_| refused("a mapping in braces that is no JSON")),
        Some('&' | '*') => return refused("an anchor or alias"),
        Some('!') => return refused("a tag"),
        Some('|' | '>') => return refused("a text of several lines"),
        Some('%' | '@' | '`') => return refused("a sign that YAML keeps for itself"),
        Some(_) => {}
    }
    if text.contains(": ") {
        return refused("a second `: `; put the value in quotes");
    }
    Ok(match text.to_ascii_lowercase().as_str() {
        "~" | "null" => Value::Null,
        "true" | "yes" | "on" => Value::Bool(true),
        "false" | "no" | "off" => Value::Bool(false),
        _ => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(text: &str) -> Result<Vec<FileStep>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mysteps.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|why| why.replace(&path.display().to_string(), "FILE"))
    }

    /// As in the documentation of ironic-python-agent.
    const STEPS: &str = "\
# Steps of this ramdisk
steps:
  - name: manage_container_cleanup
    image: docker://172.24.4.1:5000/cleaning-image:latest
    interface: deploy
    reboot_requested: False
    pull_options:
     - --tls-verify=false
    run_options: [--rm, --network=host, \"--tls-verify=false\"] # all of them
    abortable: true
    priority: 20
  - name: 'second'
    image: quay.io/x@sha256:00
    interface: deploy
    reboot_requested: yes
    pull_options: --quiet --tls-verify=false
    abortable: no
    priority: 0
";

    #[test]
    fn a_file_of_steps_is_read_as_it_is_written() {
        let steps = file(STEPS).unwrap();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(steps[0].name, "manage_container_cleanup");
        assert_eq!(steps[0].image, "docker://172.24.4.1:5000/cleaning-image:latest");
        assert_eq!((steps[0].priority, steps[0].abortable, steps[0].reboot_requested), (20, true, false));
        assert_eq!(steps[0].pull_options, words(&["--tls-verify=false"]));
        assert_eq!(steps[0].run_options, words(&["--rm", "--network=host", "--tls-verify=false"]));
        assert_eq!((steps[1].name.as_str(), steps[1].reboot_requested, steps[1].abortable), ("second", true, false));
        assert_eq!(steps[1].pull_options, words(&["--quiet", "--tls-verify=false"]));
        let not_indented = STEPS.replace("\n  ", "\n");
        assert_eq!(file(&not_indented).unwrap(), steps);
        let step = json!({"name": "s", "image": "i", "interface": "deploy", "priority": 1, "reboot_requested": false, "abortable": true});
        assert_eq!(file(&json!({"steps": [step]}).to_string()).unwrap()[0].name, "s");
    }

    #[test]
    fn words_in_quotes_may_hold_what_else_ends_them() {
        let read = |list: &str| file(&STEPS.replace("[--rm, --network=host, \"--tls-verify=false\"]", list));
        for (list, words) in [
            (
                r#"["--rm", "--mount=type=bind,src=/dev,dst=/dev"]"#,
                &["--rm", "--mount=type=bind,src=/dev,dst=/dev"][..],
            ),
            (r"[--rm, '--mount=type=bind,src=/dev,dst=/dev',]", &["--rm", "--mount=type=bind,src=/dev,dst=/dev"]),
            (r#"[ "--format={{.ID}}" , '--x=[1,2]', --y=a"b ]"#, &["--format={{.ID}}", "--x=[1,2]", "--y=a\"b"]),
            (r#"['--a=it''s,#1', "--b=\",\\", "--c"]"#, &["--a=it's,#1", "--b=\",\\", "--c"]),
            (r"[]", &[]),
        ] {
            assert_eq!(
                read(list).map(|steps| steps[0].run_options.clone()),
                Ok(words.iter().map(|word| (*word).to_owned()).collect()),
                "{list}"
            );
        }
        for wrong in [r#"["--a, --b]"#, r"['--a', [--b]]", r"[--a, {b: c}]", r#"["--a" --b, --c]"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_no_steps() {
        for none in ["", "# nothing\n", "---\n", "steps:\n", "steps: []\n", "other: 1\n"] {
            assert_eq!(file(none), Ok(Vec::new()), "{none:?}");
        }
        assert_eq!(read(Path::new("/does/not/exist")), Ok(Vec::new()));
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where_and_why() {
        let told = |text: &str| file(text).unwrap_err();
        let mut all = Vec::new();
        for text in [
            "- a\n",
            "steps: word\n",
            "steps:\n  - word\n",
            "steps:\n  - name: x\n",
            "steps:\n  - image: x\n",
            "steps:\n\t- name: x\n",
            "steps: &anchor\n",
            "steps:\n  - name: |\n      x\n",
            "steps:\n  - name: a: b\n",
            "steps:\n    - name: x\n  - name: y\n",
            "steps:\n  - name: x\n    name: y\n",
            "words\n",
            "steps:\n  - name: \"x\n",
            "{\"steps\": ",
            "steps:\n  - - - - - - - - - - - x\n",
        ] {
            all.push(format!("{text:?}: {}", told(text)));
        }
        all.push(told(&STEPS.replace("    priority: 20\n", "")));
        all.push(told(&STEPS.replace("priority: 20", "priority: high")));
        all.push(told(&STEPS.replace("reboot_requested: False", "reboot_requested: 3")));
        all.push(told(&STEPS.replace("pull_options: --quiet --tls-verify=false", "pull_options: 5")));
        insta::assert_snapshot!(all.join("\n"));
    }
}
