//! Holds `docs/security-history.md` to the source: each test that it names is there, and each test that is named after a
//! flaw is in it. And a rule that no single test can hold: nothing of ours gives a line to a shell.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the names of tests begin with that are named after a flaw.
const IDS: [&str; 11] = [
    "cve_",
    "lp_",
    "ossn_",
    "ghsa_",
    "story_",
    "check_virtual_media_devices_",
    "node_credentials_cleaning_",
    "mask_configdrive_",
    "jsonrpc_logging_",
    "remove_node_object_from_log_",
    "nico_",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions without parameters that are tests or look like one, each with its crate.
fn tests() -> BTreeMap<String, Vec<String>> {
    let crates = root().join("crates");
    let mut files = Vec::new();
    sources(&crates, &mut files);
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for file in files {
        let name = file.strip_prefix(&crates).unwrap().components().next().unwrap();
        let name = name.as_os_str().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                let function = rest.split('(').next().unwrap().to_owned();
                found.entry(function).or_default().push(name.clone());
                is_test = false;
            }
        }
    }
    found
}

/// The rows of the table: tests and crate.
fn rows() -> Vec<(Vec<String>, String)> {
    let text = fs::read_to_string(root().join("docs/security-history.md")).unwrap();
    let table = text.split("\n## ").find(|part| part.starts_with("Tested")).unwrap().to_owned();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "a row has an id, a sentence, tests and a crate: {line}");
        let tests = cells[2].split(", ").map(|test| test.trim_matches('`').to_owned()).collect();
        (tests, cells[3].trim_matches('`').to_owned())
    });
    rows.collect()
}

#[test]
fn each_test_of_the_security_history_exists_in_the_crate_that_it_is_said_to_be_in() {
    let (tests, rows) = (tests(), rows());
    assert!(rows.len() > 20, "only {} rows were read", rows.len());
    for (names, place) in rows {
        for name in names {
            let places = tests.get(&name).unwrap_or_else(|| panic!("there is no test {name:?}"));
            assert!(places.contains(&place), "{name} is in {places:?}, not in {place}");
        }
    }
}

#[test]
fn each_test_that_is_named_after_a_flaw_is_in_the_security_history() {
    let listed: Vec<String> = rows().into_iter().flat_map(|(names, _)| names).collect();
    let missing: Vec<String> = tests().into_keys().collect();
    let missing: Vec<&String> =
        missing.iter().filter(|name| IDS.iter().any(|id| name.starts_with(id)) && !listed.contains(name)).collect();
    assert!(missing.is_empty(), "docs/security-history.md does not name {missing:?}");
}

/// CVE-2026-42510 and LP#2160050: what a user typed reached a shell. Programs get arguments, and none of them is a shell.
#[test]
fn cve_2026_42510_no_source_of_a_product_starts_a_shell() {
    let mut files = Vec::new();
    for product in fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()) {
        if product.join("src").is_dir() {
            sources(&product.join("src"), &mut files);
        }
    }
    assert!(files.len() > 100, "only {} files were read", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for shell in ["sh", "bash", "dash", "ash", "busybox", "env"] {
            for word in [format!("\"{shell}\""), format!("\"/bin/{shell}\""), format!("\"/usr/bin/{shell}\"")] {
                let starts = ["Command::new(", "Exec::new("]
                    .map(|call| format!("{call}{word}"))
                    .into_iter()
                    .find(|call| text.contains(call));
                assert_eq!(starts, None, "{}", file.display());
            }
        }
    }
}

/// CVE-2026-44916 and CVE-2026-44917: templates that users chose or wrote were rendered. There is nothing that renders any.
#[test]
fn cve_2026_44916_no_template_engine_is_among_the_dependencies() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"tokio\""));
    for engine in ["askama", "handlebars", "liquid", "minijinja", "mustache", "rinja", "tera", "tinytemplate", "upon"] {
        assert!(!lock.contains(&format!("name = \"{engine}\"")), "{engine}");
    }
}
