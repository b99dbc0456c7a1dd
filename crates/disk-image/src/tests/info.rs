//! What is read without writing: what an image is, and whether a disk holds it.

use super::image::{MIB, Memory, gpt_image, mbr_image, plan, write, zstd};
use crate::decompress::Compression;
use crate::disk::FileDisk;
use crate::{Cause, Format, ImageError, Info, Patience, VerifyError};
use tokio_util::sync::CancellationToken;

async fn of(bytes: Vec<u8>) -> Result<Info, Cause> {
    crate::info(&Memory(bytes.into()), &Patience::default(), crate::BUDGET).await
}

#[tokio::test]
async fn a_packed_image_is_told_from_a_plain_one_and_both_say_what_disk_they_need() {
    let plain = gpt_image(8, 512);
    let packed = of(zstd(&plain)).await.unwrap();
    let length = plain.len() as u64;
    let info = of(plain).await.unwrap();
    assert_eq!((info.format, info.compression), (Format::Raw, Compression::None));
    assert_eq!((info.virtual_size, info.needed, info.partitions.len()), (Some(length), length, 2));
    assert_eq!((packed.compression, packed.virtual_size, packed.needed), (Compression::Zstd, None, length));
    assert_eq!(packed.partitions, info.partitions);
}

#[tokio::test]
async fn sectors_of_4_kib_and_dos_tables_are_read() {
    assert_eq!(of(gpt_image(8, 4096)).await.unwrap().sector_size, 4096);
    let info = of(mbr_image(8, 2)).await.unwrap();
    assert_eq!((info.partitions.len(), info.disk_guid), (2, None));
    assert_eq!(info.needed, MIB as u64 + 2 * 512 * 512);
}

#[tokio::test]
async fn what_is_not_written_is_refused_by_name() {
    let error = of([b"KDMV".as_slice(), &[0; 4096]].concat()).await.unwrap_err();
    insta::assert_snapshot!(error, @"the image is vmdk, which is not written to disks; convert it (qemu-img convert) and serve it raw or qcow2");
    assert!(matches!(of(Vec::new()).await, Err(Cause::Image(ImageError::Empty))));
    assert!(matches!(of(vec![7; 4096]).await, Err(Cause::Image(ImageError::NoTable))));
}

#[tokio::test]
async fn a_disk_is_compared_to_the_last_byte_and_left_as_it_is() {
    let image = gpt_image(8, 512);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    write(plan(&image), FileDisk::create(&path, 12 << 20, 512).unwrap()).await.unwrap();
    let check = async || crate::verify(plan(&image), &path, |_| {}, CancellationToken::new()).await;
    check().await.unwrap();
    let good = std::fs::read(&path).unwrap();
    // Both ends, which carry the tables, their borders, and the middle.
    let end = (12 << 20) - 1;
    for at in [0, 513, MIB - 1, MIB, 5 * MIB + 77, 8 * MIB - MIB / 2, end - 4096, end] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = check().await.unwrap_err();
        assert!(matches!(error, VerifyError::Differs { offset, .. } if offset == at as u64), "{at}: {error:?}");
        assert!(std::fs::read(&path).unwrap() == bad, "{at}: the disk was written to");
    }
}
