//! Builds ferric-agent as one static program, the same bytes in every checkout, and makes it ready to be packed.

use crate::release;
use anyhow::{Context as _, Result};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, elf};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Builds the agent and returns the path of its program.
pub fn build(root: &Path) -> Result<PathBuf> {
    let mut cargo = release::cargo(root)?;
    cargo
        // The agent alone: features that its neighbours ask for would change its bytes.
        .args(["build", "--release", "--locked", "--target", release::TARGET, "-p", "agent", "--bin", "ferric-agent"])
        .args(["--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("start cargo")?;
    anyhow::ensure!(output.status.success(), "building ferric-agent ended with {}", output.status);
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no program ferric-agent")
}

/// How `.eh_frame_hdr` begins that has a table for a binary search: version 1, the frames' address relative to its own
/// place, their number, the table relative to the header (LSB Core 5.0, 10.6.2.1).
const SEARCHED: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
/// The same without number and table (`DW_EH_PE_omit`).
const NOT_SEARCHED: [u8; 4] = [1, 0x1b, 0xff, 0xff];
/// Bytes before the number of frames.
const HEADER: usize = 8;

/// Zeroes the table by which an unwinder finds the frame of an address, which is 126 kB of differences that hardly pack. libgcc
/// reads the frames one after the other then: a panic takes some milliseconds longer. A program without such a table stays as
/// it is.
pub fn without_search_table(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let file: ElfFile64<'_> = ElfFile64::parse(&*program).context("the program is no 64-bit ELF file")?;
    let found =
        file.elf_program_headers().iter().find(|header| header.p_type(Endianness::Little) == elf::PT_GNU_EH_FRAME);
    let Some((offset, size)) = found.map(|header| header.file_range(Endianness::Little)) else { return Ok(program) };
    let start = usize::try_from(offset)?;
    let end = start.checked_add(usize::try_from(size)?).context("a segment of the program ends nowhere")?;
    let header = program.get_mut(start..end).context("the program is shorter than its segments")?;
    if header.starts_with(&SEARCHED) && header.len() > HEADER {
        header[..NOT_SEARCHED.len()].copy_from_slice(&NOT_SEARCHED);
        header[HEADER..].fill(0);
    }
    Ok(program)
}

/// The program's path from cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let name = message.get("target")?.get("name")?.as_str()?;
        let path = message.get("executable")?.as_str()?;
        (name == "ferric-agent").then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "as it should")]
    fn a_panic_unwinds() {
        panic!("as it should");
    }

    /// This very program, without its table, still runs the test above.
    #[test]
    fn a_program_without_the_table_of_frames_still_unwinds() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let changed = without_search_table(own.clone()).unwrap();
        assert!(changed.len() == own.len() && changed != own);
        assert!(without_search_table(changed.clone()).unwrap() == changed);
        let path = std::env::temp_dir().join(format!("ferric-unwind-{}", std::process::id()));
        std::fs::write(&path, changed).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let arguments = ["--exact", "ramdisk::agent::tests::a_panic_unwinds"];
        let ran = std::process::Command::new(&path).args(arguments).output().unwrap();
        std::fs::remove_file(&path).unwrap();
        let told = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && told.contains("1 passed"), "{told}");
    }

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"media\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ferric-agent\"},\"executable\":\"/t/ferric-agent\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/ferric-agent")));
        assert_eq!(executable(""), None);
    }
}
