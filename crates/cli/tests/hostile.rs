//! The built program and the corpus of `ci/hostile_images.py`: each image is refused with the reason, and what the disk held
//! is still there.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises do not hold")]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn every_image_of_the_hostile_corpus_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/hostile_images.py");
    let made = Command::new("python3").arg(script).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "qemu-utils and xorriso are needed: {}", String::from_utf8_lossy(&made.stderr));
    let corpus: Value = serde_json::from_slice(&std::fs::read(folder.path().join("corpus.json")).unwrap()).unwrap();
    let corpus = corpus.as_array().unwrap();
    assert!(corpus.len() > 80, "{}", corpus.len());
    // More than any of them has, but for the declared sizes.
    let old = vec![0x5a; 20 << 20];
    let disk = folder.path().join("disk");
    std::fs::write(&disk, &old).unwrap();
    let mut wrong = Vec::new();
    for case in corpus {
        let text = |key: &str| case[key].as_str();
        let name = text("file").unwrap();
        let url = format!("file://{}", folder.path().join(name).display());
        let mut ferric = Command::new(env!("CARGO_BIN_EXE_ferric"));
        ferric.args(["image", "write", "--yes", "--json", &url]).arg(&disk);
        ferric.args(text("format").into_iter().flat_map(|format| ["--format", format]));
        let output = ferric.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let good = output.status.code() == Some(4)
            && said.contains(text("says").unwrap())
            && String::from_utf8_lossy(&output.stdout).contains("nothing was written to it");
        if !good || std::fs::read(&disk).unwrap() != old {
            wrong.push(format!("{name} as {:?}: {:?} {said}", text("format"), output.status.code()));
            std::fs::write(&disk, &old).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
