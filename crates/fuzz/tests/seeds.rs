//! Every seed, and every finding that was kept, goes through its target.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_seed_passes_its_target() -> io::Result<()> {
    for (name, target) in fuzz::TARGETS {
        let seeds: Vec<_> = fs::read_dir(corpus().join(name))?.collect::<io::Result<_>>()?;
        assert!(!seeds.is_empty(), "{name} has no seed");
        for seed in seeds {
            target(&fs::read(seed.path())?);
        }
    }
    Ok(())
}

#[test]
fn every_target_has_a_program_and_every_folder_of_seeds_a_target() -> io::Result<()> {
    let names: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed = |dir: &Path| -> io::Result<BTreeSet<String>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(Path::new(&entry?.file_name()).with_extension("").display().to_string()))
            .collect()
    };
    assert_eq!(listed(&corpus())?, names);
    assert_eq!(listed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets"))?, names);
    Ok(())
}
