//! kill -9 of `ferricd` at random times, again and again, while a node is inspected, cleaned, deployed and serviced:
//! each flow ends as it would have, with one boot of the ramdisk, each step carried out once, no byte fetched twice.

use super::World;
use super::driver_killed::{RAMDISK_BOOT, WRITE_COMMAND};
use super::interop::disk;
use crate::console::Console;
use crate::ferricd::Ferricd;
use crate::server::{ServerSpec, VirtualServer};
use crate::wait::until;
use crate::witness::{Witness, WitnessImage};
use anyhow::{Context as _, Result, bail, ensure};
use std::ops::Range;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

const NODE: &str = "node-1";
const IMAGE: &str = "system.raw";
/// What the agent's console shows for each time that it erases.
const ERASE: &str = "INFO step step=\"erase_devices_metadata\"";
/// Longest life of a driver in this story: some of the work of a flow takes longer, and some does not.
const LIFE: Duration = Duration::from_secs(8);
/// Tells the times of an earlier run again.
const SEED: &str = "FERRIC_E2E_SEED";
/// Drivers killed in one flow. After so many one is let live, so that a flow ends even where the times are unlucky.
const KILLS: u32 = 12;
/// How long a flow may take with all that.
const FLOW_LIMIT: Duration = Duration::from_secs(1200);
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Tells the story.
///
/// # Errors
/// Whatever did not happen as told.
pub async fn run(world: &mut World) -> Result<()> {
    let mut ferricd = world.start_ferricd().await?;
    let server = VirtualServer::define(&world.lab, &ServerSpec::default()).await?;
    let old = world.lab.dir().join("old.raw");
    WitnessImage { mib: 64, seed: 1 }.write(&old)?;
    disk::put(&old, &server)?;
    world.enroll(&server, NODE).await?;
    world.drive(&mut ferricd, "manage", NODE, &[]).await?;
    world.expect_state(NODE, "manageable").await?;
    let mut reaper = Reaper::new(&world.console, LIFE)?;

    for (verb, state, erased) in [("inspect", "manageable", 0), ("provide", "available", 1)] {
        let before = server.serial_len();
        reaper.drive(world, &mut ferricd, (verb, NODE), &[], state).await?;
        said(&server, before, &[(RAMDISK_BOOT, 1), (ERASE, erased)])?;
    }
    disk::has_no_table(&server)?;

    let path = world.lab.dir().join(IMAGE);
    WitnessImage { mib: 96, seed: 3 }.write(&path)?;
    let image = world.offer(IMAGE, &path)?;
    world.choose_image(NODE, &image).await?;
    let before = server.serial_len();
    reaper.drive(world, &mut ferricd, ("deploy", NODE), &[], "active").await?;
    boots(&mut ferricd, &server, before).await?;
    said(&server, before, &[(RAMDISK_BOOT, 1), (WRITE_COMMAND, 1)])?;
    if let Some(range) = world.images.sent_twice(IMAGE) {
        bail!("bytes {range:?} of the image were sent twice: {:?}", world.images.fetches(IMAGE));
    }
    disk::holds(&server, &path)?;

    // This ramdisk has no service step of its own, so the driver's: the ramdisk boots, is waited in, and ends.
    let steps = ["--service-steps", r#"[{"interface": "deploy", "step": "wait", "args": {"seconds": 5}}]"#];
    let before = server.serial_len();
    reaper.drive(world, &mut ferricd, ("service", NODE), &steps, "active").await?;
    boots(&mut ferricd, &server, before).await?;
    said(&server, before, &[(RAMDISK_BOOT, 1)])?;
    disk::holds(&server, &path)
}

async fn boots(ferricd: &mut Ferricd, server: &VirtualServer, mark: u64) -> Result<()> {
    until("the installed system on the serial port", BOOT_LIMIT, async || {
        ferricd.check()?;
        Ok(server.serial_since(mark).contains(Witness::Uefi.text()).then_some(()))
    })
    .await
}

/// Fails unless the server's console has said each text so often since `mark`.
fn said(server: &VirtualServer, mark: u64, expected: &[(&str, usize)]) -> Result<()> {
    let console = server.serial_since(mark);
    for (text, times) in expected {
        let found = console.matches(text).count();
        ensure!(found == *times, "the server's console has said {text:?} {found} times, expected {times}");
    }
    Ok(())
}

/// Kills drivers at times that nobody has chosen, but that can be told again.
#[derive(Debug)]
pub(super) struct Reaper {
    state: u64,
    life: Duration,
}

impl Reaper {
    /// A reaper whose drivers live at most `life`. Its seed is shown, or taken from the environment.
    pub(super) fn new(console: &Console, life: Duration) -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().with_context(|| format!("{SEED}={text} is not a number"))?,
            Err(_) => u64::from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos()),
        };
        console.line(&format!("seed of the times: {SEED}={seed}"));
        // xorshift stays at zero.
        Ok(Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, life })
    }

    /// Some time in the range. Half of all times are in its first eighth: much of a flow is quick.
    fn time(&mut self, range: Range<Duration>) -> Duration {
        let mut next = || {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state >> 11
        };
        let span = range.end.saturating_sub(range.start);
        let span = if next() % 2 == 0 { span / 8 } else { span };
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        range.start + Duration::from_millis(next() % millis)
    }

    /// `baremetal node VERB`, and kills one driver after the other until the node is in `state`.
    pub(super) async fn drive(
        &mut self,
        world: &mut World,
        ferricd: &mut Ferricd,
        (verb, node): (&str, &str),
        extra: &[&str],
        state: &str,
    ) -> Result<()> {
        world.console.begin(&format!("{verb}, with kill -9 of ferricd now and then"));
        world.baremetal.run(&[&["node", verb, node], extra].concat()).await?;
        let begun = Instant::now();
        let mut kills = 0;
        loop {
            let life = self.time(Duration::from_millis(20)..self.life);
            if self.watch(world, ferricd, node, state, (kills < KILLS).then_some(life)).await? {
                break;
            }
            ensure!(begun.elapsed() < FLOW_LIMIT, "{verb}: not within {} s", FLOW_LIMIT.as_secs());
            ferricd.kill().await?;
            kills += 1;
            sleep(self.time(Duration::ZERO..Duration::from_secs(4))).await;
            ferricd.start_again().await?;
        }
        ensure!(kills > 0, "{verb} was over before a driver was killed: the story shows nothing");
        world.console.end(&format!("{kills} drivers were killed"));
        Ok(())
    }

    /// Whether the node gets to `state` within the life of this driver, or at all where it is let live.
    async fn watch(
        &self,
        world: &mut World,
        ferricd: &mut Ferricd,
        node: &str,
        state: &str,
        life: Option<Duration>,
    ) -> Result<bool> {
        let end = Instant::now() + life.unwrap_or(FLOW_LIMIT);
        loop {
            world.lab.check()?;
            ferricd.check()?;
            let document = world.api.node(node).await?;
            let now = document["provision_state"].as_str().unwrap_or_default();
            world.console.update(now);
            if now == state {
                return Ok(true);
            }
            if now.ends_with("failed") || now == "error" || document["maintenance"] == true {
                bail!("the node ended in {now}: {}", document["last_error"]);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(left.min(Duration::from_millis(250))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_their_range_and_the_same_for_the_same_seed() {
        let times = |seed| {
            let mut reaper = Reaper { state: seed, life: LIFE };
            (0..200).map(|_| reaper.time(Duration::from_secs(1)..Duration::from_secs(9))).collect::<Vec<_>>()
        };
        let first = times(7);
        assert!(first.iter().all(|time| (1..9).contains(&time.as_secs())), "{first:?}");
        let early = first.iter().filter(|time| time.as_secs() < 2).count();
        assert!((80..160).contains(&early), "{early} of 200 are early");
        assert_eq!(first, times(7));
        assert_ne!(first, times(8));
    }
}
