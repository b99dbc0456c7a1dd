//! qcow2 files that no tool writes by accident: each is refused by the name of what is wrong, before a byte is written.

use super::image::*;
use super::qcow2::{Lab, mixed_image, qcow2_plan};
use crate::disk::fake::FakeDisk;
use crate::qcow2::Qcow2Error;
use crate::{Cause, DiskState};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// A qcow2 whose fields can be set.
#[derive(Clone)]
struct Forge(Vec<u8>);

impl Forge {
    fn new(options: &str, compressed: bool) -> Self {
        Self(Lab::new(mixed_image(7)).convert(options, compressed))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn set(&self, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut forged = self.0.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        forged
    }

    fn l1(&self) -> usize {
        self.u64(40) as usize
    }

    /// Place of the first L2 table.
    fn l2(&self) -> usize {
        (self.u64(self.l1()) & OFFSET) as usize
    }

    /// Place of the n-th entry in use of the first L2 table.
    fn entry(&self, n: usize) -> usize {
        (self.l2()..).step_by(8).filter(|&at| self.u64(at) != 0).nth(n).unwrap()
    }
}

/// The error of writing these bytes as a qcow2; the disk must not have been touched.
async fn refusal(bytes: &[u8]) -> Cause {
    let disk = FakeDisk::new(old_disk(10), 512);
    let error = write(qcow2_plan(bytes), disk.clone()).await.unwrap_err();
    assert_eq!(error.state, DiskState::Untouched, "{error:?}");
    assert!(disk.state.lock().unwrap().log.is_empty(), "{error:?}");
    error.cause
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_44082_every_field_of_the_header_that_rules_an_image_out_is_named() {
    let good = Forge::new("", false);
    let huge = (1_u64 << 62).to_be_bytes();
    let cases: Vec<(&str, usize, &[u8])> = vec![
        ("version 4", 4, &[0, 0, 0, 4]),
        ("backing file", 8, &[0, 0, 0, 0, 0, 0, 2, 0]),
        ("clusters of 128 bytes", 20, &[0, 0, 0, 7]),
        ("clusters of 4 GiB", 20, &[0, 0, 0, 32]),
        ("AES", 32, &[0, 0, 0, 1]),
        ("LUKS", 32, &[0, 0, 0, 2]),
        ("no size", 24, &[0; 8]),
        ("4 EiB", 24, &huge),
        ("L1 too short", 36, &[0; 4]),
        ("L1 in the header", 40, &[0; 8]),
        ("L1 within a cluster", 40, &[0, 0, 0, 0, 0, 3, 0, 8]),
        ("L1 at the end of the world", 40, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("corrupt", 79, &[2]),
        ("external data", 79, &[4]),
        ("compression bit alone", 79, &[8]),
        ("unknown feature", 72, &[0x80]),
        ("refcounts of 2^200 bits", 96, &[0, 0, 0, 200]),
        ("header of 8 bytes", 100, &[0, 0, 0, 8]),
        ("header larger than a cluster", 100, &[0, 2, 0, 0]),
        ("compression type 7", 104, &[7]),
    ];
    let mut text = String::new();
    for (name, at, bytes) in cases {
        text += &format!("{name}: {}\n", refusal(&good.set(at, bytes)).await);
    }
    let small = Forge::new("cluster_size=512", false);
    text += &format!("extended L2 on 512 bytes: {}\n", refusal(&small.set(79, &[16])).await);
    text +=
        &format!("16 TiB in clusters of 512 bytes: {}\n", refusal(&small.set(24, &(1_u64 << 44).to_be_bytes())).await);
    for len in [0, 3, 50, 80] {
        text += &format!("{len} bytes: {}\n", refusal(&good.0[..len]).await);
    }
    insta::assert_snapshot!(text);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_clusters_that_overlap_loop_or_lie_are_refused() {
    let good = Forge::new("", false);
    let (l1, l2) = (good.l1(), good.l2());
    let to = |place: u64| (place | 1 << 63).to_be_bytes();
    let first = good.u64(good.entry(0));
    let far = to(1 << 50);
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("L1 points to itself", l1, to(l1 as u64).into()),
        ("L1 points to the header", l1, to(512).into()),
        ("L1 points into a cluster", l1, to(l2 as u64 + 512).into()),
        ("L1 points behind the file", l1, far.into()),
        ("reserved bits in L1", l1, (l2 as u64 | 2).to_be_bytes().into()),
        ("cluster is the L2 table", good.entry(0), to(l2 as u64).into()),
        ("cluster is the L1 table", good.entry(0), to(l1 as u64).into()),
        ("cluster is the header", good.entry(0), to(512).into()),
        ("two clusters at one place", good.entry(1), first.to_be_bytes().into()),
        ("cluster behind the file", good.entry(1), far.into()),
        ("cluster not aligned", good.entry(1), to(first + 512).into()),
        ("reserved bits in L2", good.entry(1), (first | 2).to_be_bytes().into()),
        ("compressed in the header", good.entry(1), (1_u64 << 62 | 100).to_be_bytes().into()),
        ("compressed behind the file", good.entry(1), (1_u64 << 62 | 1 << 40).to_be_bytes().into()),
        ("compressed data that is a table", good.entry(1), (1_u64 << 62 | (l2 as u64 + 10)).to_be_bytes().into()),
    ];
    let mut text = String::new();
    for (name, at, bytes) in cases {
        text += &format!("{name}: {}\n", refusal(&good.set(at, &bytes)).await);
    }
    let two = Forge::new("cluster_size=512", false);
    let again = two.u64(two.l1()).to_be_bytes();
    text += &format!("one L2 table for two: {}\n", refusal(&two.set(two.l1() + 8, &again)).await);
    let packed = Forge::new("", true);
    let same = packed.u64(packed.entry(0)).to_be_bytes();
    text += &format!("one compressed cluster for two: {}\n", refusal(&packed.set(packed.entry(1), &same)).await);
    let extended = Forge::new("extended_l2=on", false);
    let bitmap = extended.entry(0) + 8;
    text += &format!("subclusters that are data and zero: {}\n", refusal(&extended.set(bitmap, &[0xff; 8])).await);
    insta::assert_snapshot!(text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_does_not_fit_the_budget_is_refused_with_need_and_remedy() {
    let lab = Lab::new(gpt_image(16, 512));
    let qcow2 = lab.convert("cluster_size=512", true);
    let disk = FakeDisk::new(old_disk(20), 512);
    let mut small = qcow2_plan(&qcow2);
    small.budget = 8 << 20;
    let error = write(small, disk.clone()).await.unwrap_err();
    let Cause::Qcow2(Qcow2Error::Budget { need, left }) = error.cause else { panic!("{error:?}") };
    assert!(need > left && disk.bytes() == old_disk(20), "{need} {left}");
    insta::assert_snapshot!(Qcow2Error::Budget { need: 9, left: 4 }, @"the map of the qcow2 image needs 9 bytes of memory, the budget leaves 4; raise the budget by at least 5 bytes, convert the image with larger clusters, or serve it raw.zst");
    // With what it asks for, it is written.
    let mut enough = qcow2_plan(&qcow2);
    enough.budget = (8 << 20) + (need - left) * 2;
    write(enough, disk.clone()).await.unwrap();
    assert_holds(&disk.bytes(), &lab.raw, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_damaged_image_never_becomes_a_bootable_disk() {
    let lab = Lab::new(mixed_image(7));
    for compressed in [false, true] {
        let qcow2 = lab.convert("", compressed);
        for eighth in 0..8 {
            let len = qcow2.len() * eighth / 8;
            let disk = FakeDisk::new(old_disk(10), 512);
            // The digest is that of the truncated file: only the tables tell.
            let error = write(qcow2_plan(&qcow2[..len]), disk.clone()).await.unwrap_err();
            let told =
                matches!(error.cause, Cause::Qcow2(Qcow2Error::Truncated { .. } | Qcow2Error::NoHeader(_))) || len == 0;
            assert!(told && error.state == DiskState::Untouched, "{len}: {error:?}");

            let mut flipped = qcow2.clone();
            flipped[len + 1000] ^= 4;
            let mut plan = qcow2_plan(&flipped);
            plan.digest = Some(sha256(&qcow2));
            let disk = FakeDisk::new(old_disk(10), 512);
            let error = write(plan, disk.clone()).await.unwrap_err();
            assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()), "{error:?}");
        }
    }
}

/// Compressed data that is not what it should be, under a digest that vouches for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_compressed_cluster_is_named_and_leaves_no_table() {
    for options in ["", "compression_type=zstd"] {
        let good = Forge::new(options, true);
        let entry = (0..).map(|n| good.u64(good.entry(n))).find(|entry| entry >> 62 & 1 == 1).unwrap();
        let place = (entry & ((1 << 54) - 1)) as usize;
        for n in [30, 50] {
            let later = good.u64(good.entry(n));
            let place = if later >> 62 & 1 == 1 { (later & ((1 << 54) - 1)) as usize } else { place };
            let disk = FakeDisk::new(old_disk(10), 512);
            let error = write(qcow2_plan(&good.set(place, &[0xff; 300])), disk.clone()).await.unwrap_err();
            assert!(
                matches!(error.cause, Cause::Qcow2(Qcow2Error::Cluster { at, .. }) if at == place as u64),
                "{error:?}"
            );
            assert!(error.state == DiskState::Untouched || !has_table(&disk.bytes()), "{error:?}");
        }
    }
}
