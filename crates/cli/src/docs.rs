//! `docs/ferric.md`, written from the command line itself.

use std::fmt::Write as _;

/// Columns of the page's blocks; what a terminal has at least.
const COLUMNS: usize = 80;

const HEAD: &str = "\
# The command `ferric`

<!-- Generated from crates/cli; `cargo xtask docs` writes it anew. -->

`ferric` asks the public API alone: that of `ferricd`, or of an Ironic. What only Ferric has is marked so, and against an Ironic it
ends with code 14 and says what to use instead. Each verb about nodes is one of `ferric` and of `ferric node`.

- **Nothing is destroyed by accident.** `--dry-run` (`-n`) sends nothing but `GET` requests and lists the nodes and disks that
  would lose their data. Without `--yes`, a person at a terminal is asked; where there is none, the verb ends with code 2.
  So it is with what stops an instance or ends work in the middle: `power off` and `reboot` of a node in use, `abort`, `break-out`.
- **Watching is only watching.** `--watch` (`--wait`) shows progress until the node is where it should be; Ctrl-C ends the
  watching, and what was begun goes on.
- **Several nodes** may be named in one verb. All have to exist before anything is asked for one; each then has its own result.
- **For programs**: `-o json` and `-o yaml` print documents of the API as they are for what is shown, and for what is asked for
  a list of `{node, uuid, provision_state, target_provision_state, power_state, seconds, error}`, where `error` is null or
  `{kind, exit, message, remedy}`. Errors are on standard error, in the same form.
";

/// The command line as a page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    let command = super::command().term_width(COLUMNS);
    write!(page, "\n```text\n{}\n```\n", shown(command.clone())).ok();
    for verb in visible(&command) {
        let inner: Vec<clap::Command> = visible(&verb);
        let all = if inner.is_empty() { vec![verb] } else { inner };
        for verb in all {
            let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name()).to_owned();
            write!(page, "\n## {name}\n\n```text\n{}\n```\n", shown(without_globals(verb))).ok();
        }
    }
    page
}

fn visible(command: &clap::Command) -> Vec<clap::Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help").cloned().collect()
}

/// Those of the service are told once.
fn without_globals(verb: clap::Command) -> clap::Command {
    super::without_service(verb).mut_arg("help", |argument| argument.hide(true))
}

fn shown(command: clap::Command) -> String {
    let mut command = command.term_width(COLUMNS);
    // What is long in the help of a verb is said once, on top.
    let top = command.get_bin_name().is_none_or(|name| !name.contains(' '));
    let text = if top { command.render_long_help() } else { command.render_help() }.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[test]
fn the_generated_page_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ferric.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(&path, page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/ferric.md is stale; `cargo xtask docs` writes it anew");
}

#[test]
fn the_command_line_is_sound_and_fits_a_terminal() {
    super::command().debug_assert();
    for line in page().lines().filter(|line| !line.starts_with(['-', '#', '`', '<'])) {
        assert!(line.chars().count() <= 132, "{line}");
    }
}
