//! A disk that says of every write that it was done, and keeps what was in one place: a mirror in QEMU whose first half fails there
//! while the second does as it was told, and whose reads come from the first. Who reads back finds the place, and the clean fails.

use super::World;
use super::erase_every_bus::fill;
use super::server_hardware::define;
use crate::server::{ServerSpec, VirtualServer};
use anyhow::{Context as _, Result, bail, ensure};

const NODE: &str = "node-1";
const MIB: u64 = 96;
const SERIAL: &str = "LIAR";
/// The sector that no write reaches. It lies in a MiB of which the eraser, which looks at 64 places of a disk, sees nothing: the proof
/// has to find it.
const KEPT: u64 = 72_001;

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let spec = ServerSpec { disk_mib: MIB, ..ServerSpec::default() };
    let server = VirtualServer::define(&world.lab, &spec).await?;
    let (kept, taken) = (world.lab.disks().join("kept.raw"), world.lab.disks().join("taken.raw"));
    fill(&kept, MIB)?;
    fill(&taken, MIB)?;
    // Errors for whatever would change that sector, and none that anybody sees: one of two is enough for the mirror.
    let never = |kind: &str| format!(r#"{{"event":"none","iotype":"{kind}","sector":{KEPT},"errno":5}}"#);
    let rules = ["write", "write-zeroes", "discard"].map(never).join(",");
    let file = |path: &std::path::Path| {
        format!(r#"{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}"#, path.display())
    };
    let mirror = format!(
        r#"{{"driver":"quorum","node-name":"mirror","vote-threshold":1,"read-pattern":"fifo","children":[{{"driver":"blkdebug","image":{},"inject-error":[{rules}]}},{}]}}"#,
        file(&kept),
        file(&taken),
    );
    let devices = [
        ("-blockdev", mirror),
        (
            "-device",
            format!("virtio-blk-pci,bus=pcie.0,addr=0x13,drive=mirror,serial={SERIAL},discard=off,write-zeroes=off"),
        ),
    ];
    define(world, &server, &devices).await?;
    let whole = ["agent_erase_verify=full".to_owned()];
    world.enroll_with(&server, NODE, &whole).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;

    world.console.begin("provide: what the disk kept is found");
    let Err(error) = world.drive(&mut ferricd, "provide", NODE, &[]).await else {
        bail!("the node is available, although a disk kept data");
    };
    let node = world.expect_state(NODE, "clean failed").await.context(error)?;
    let told = node["last_error"].as_str().context("the node has no last_error")?.to_owned();
    // A write that fails leaves all of its sectors as they were; no write is larger than this.
    let lba = number_after(&told, "LBA ");
    let lba = lba.with_context(|| format!("last_error does not name a place that the proof has found: {told}"))?;
    ensure!(lba.abs_diff(KEPT) < 8192, "LBA {lba} was named, and {KEPT} was kept: {told}");
    ensure!(told.contains(SERIAL), "last_error does not name the disk: {told}");
    world.console.end(&told);
    Ok(())
}

/// The number behind these words.
fn number_after(text: &str, words: &str) -> Option<u64> {
    text.split(words).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
