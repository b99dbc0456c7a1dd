#!/usr/bin/env python3
"""Makes images that are refused: a corpus for `ferric image`, and for whoever wants to try another program on it.

    python3 ci/hostile_images.py FOLDER

Each base is made by qemu-img (qemu-utils) or xorriso; then bytes are changed that no tool would write. FOLDER gets the
files and corpus.json: for each its name, the format that it is declared as (or null), and a part of what has to be said
about it. `crates/cli/tests/hostile.rs` tries all of them. Two runs give the same list; files differ where tools draw
random identifiers.
"""

import gzip
import json
import lzma
import pathlib
import subprocess
import sys
import zlib

MIB = 1 << 20
SECTOR = 512
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
OFFSET = 0x00FF_FFFF_FFFF_FE00
COPIED = 1 << 63
COMPRESSED = 1 << 62

FOLDER = pathlib.Path(sys.argv[1])
CORPUS = []


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def add(name, content, says, *declared):
    """Keeps a case for each way in which it may be declared; not at all, unless said."""
    (FOLDER / name).write_bytes(content)
    CORPUS.extend({"file": name, "format": format, "says": says} for format in declared or (None,))


def patch(image, *changes):
    """`changes` are pairs of a place and bytes."""
    image = bytearray(image)
    for at, value in changes:
        image[at : at + len(value)] = value
    return bytes(image)


def be(value, length=8):
    return value.to_bytes(length, "big")


def le(value, length):
    return value.to_bytes(length, "little")


def gpt(image, header=(), entry=()):
    """A protective MBR and a GPT with one partition in an image, with changes of header and first entry under right sums."""
    sectors = len(image) // SECTOR
    first = LINUX + bytes([2] * 16) + le(2048, 8) + le(sectors - 2049, 8) + bytes(8) + "root".encode("utf-16le").ljust(72, b"\0")
    entries = patch(first.ljust(128 * 128, b"\0"), *entry)
    head = b"EFI PART" + le(0x10000, 4) + le(92, 4) + bytes(8) + le(1, 8) + le(sectors - 1, 8)
    head += le(34, 8) + le(sectors - 34, 8) + bytes([0xD1] * 16) + le(2, 8) + le(128, 4) + le(128, 4) + le(zlib.crc32(entries), 4)
    head = patch(head, *header)
    head = patch(head, (16, le(zlib.crc32(head), 4)))
    mbr = bytes(446) + bytes([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF]) + le(1, 4) + le(sectors - 1, 4) + bytes(48) + b"\x55\xaa"
    return patch(image, (0, mbr), (SECTOR, head.ljust(SECTOR, b"\0") + entries))


def noise(length):
    """Bytes that hardly compress, the same in every run."""
    state, out = 1, bytearray()
    while len(out) < length:
        state = state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407 & (1 << 64) - 1
        out += le(state >> 32, 4) * 2
    return bytes(out[:length])


def convert(raw, *options):
    made = FOLDER / "made"
    run("qemu-img", "convert", "-f", "raw", *options, raw, made)
    content = made.read_bytes()
    made.unlink()
    return content


def qcow2_headers(good):
    fields = [
        ("version", 4, be(4, 4), "field version is 4"),
        ("backing-file", 8, be(512), "field backing_file_offset is 512"),
        ("cluster-bits-7", 20, be(7, 4), "field cluster_bits is 7"),
        ("cluster-bits-32", 20, be(32, 4), "field cluster_bits is 32"),
        ("size-0", 24, be(0), "field size is 0"),
        ("size-4-eib", 24, be(1 << 62), "field l1_size is"),
        ("aes", 32, be(1, 4), "field crypt_method is 1"),
        ("luks", 32, be(2, 4), "field crypt_method is 2"),
        ("l1-size-0", 36, be(0, 4), "field l1_size is 0"),
        ("l1-in-header", 40, be(0), "field l1_table_offset is 0"),
        ("l1-unaligned", 40, be(0x30008), "field l1_table_offset is 196616"),
        ("l1-far", 40, be(1 << 50), "it is truncated"),
        ("dirty-and-corrupt", 72, be(3), "field incompatible_features is 3"),
        ("data-file", 72, be(4), "field incompatible_features is 4"),
        ("unknown-feature", 72, be(1 << 40), "field incompatible_features is"),
        ("refcount-order", 96, be(200, 4), "field refcount_order is 200"),
        ("header-length", 100, be(8, 4), "field header_length is 8"),
        ("compression-type", 104, b"\7", "field compression_type is 7"),
    ]
    for name, at, value, says in fields:
        add(f"qcow2-{name}", patch(good, (at, value)), says, None, "qcow2")


def qcow2_tables(good):
    word = lambda at: int.from_bytes(good[at : at + 8], "big")
    l1 = word(40)
    l2 = word(l1) & OFFSET
    one, two = [at for at in range(l2, l2 + 65536, 8) if word(at)][:2]
    tables = [
        ("l1-loop", l1, COPIED | l1, "L1 table and L2 table of the image overlap"),
        ("l2-far", l1, COPIED | 1 << 50, "it is truncated"),
        ("l2-unaligned", l1, COPIED | l2 + 512, "it does not point to the start of a cluster"),
        ("l1-reserved", l1, l2 | 2, "reserved bits are set"),
        ("cluster-is-l2", one, COPIED | l2, "L2 table and cluster of the image overlap"),
        ("cluster-is-l1", one, COPIED | l1, "L1 table and cluster of the image overlap"),
        ("cluster-twice", two, word(one), "cluster and cluster of the image overlap"),
        ("cluster-far", two, COPIED | 1 << 50, "it is truncated"),
        ("cluster-reserved", two, word(one) | 2, "reserved bits are set"),
        ("packed-in-header", two, COMPRESSED | 100, "its compressed data lies in the header"),
        ("packed-is-table", two, COMPRESSED | l2 + 10, "L2 table and compressed cluster of the image overlap"),
    ]
    for name, at, value, says in tables:
        add(f"qcow2-{name}", patch(good, (at, be(value))), says, None, "qcow2")


def packed(plain):
    add("bzip2", b"BZh91AY&SY" + bytes(100), "packed with bzip2")
    add("gzip-cut", gzip.compress(plain)[:600], "ends in the middle")
    add("xz-cut", lzma.compress(plain, preset=0)[:120], "ends in the middle")
    # LZMA2 properties 40: a dictionary of 4 GiB (xz file format 1.2.0, 5.3.1), in a header with a right sum.
    block = bytes([2, 0, 0x21, 1, 40, 0, 0, 0])
    stream = b"\xfd7zXZ\0\0\0" + le(zlib.crc32(b"\0\0"), 4)
    add("xz-dictionary", stream + block + le(zlib.crc32(block), 4) + bytes(64), "raise the budget")
    # A zstd frame that announces 2^60 bytes, one with a window of 2^41 (RFC 8878, 3.1.1.1), one with a dictionary.
    zstd = b"\x28\xb5\x2f\xfd"
    add("zstd-size", zstd + b"\xc0\0" + le(1 << 60, 8) + bytes(64), "has at least 1152921504606846976 bytes")
    add("zstd-window", zstd + b"\0\xff" + bytes(64), "raise the budget")
    add("zstd-dictionary", zstd + b"\1\0\7" + bytes(64), "needs dictionary 7")


def tables(plain):
    blank = bytes(len(plain))
    add("no-table", noise(MIB), "no partition table")
    add("empty", b"", "the image is empty")
    add("gpt-no-partition", gpt(blank, entry=[(0, bytes(16))]), "zero partitions")
    add("gpt-sum", patch(plain, (SECTOR + 40, b"\1")), "the checksum of the header")
    add("gpt-slots", gpt(blank, header=[(80, le(0xFFFF_FFFF, 4))]), "NumberOfPartitionEntries is 4294967295")
    add("gpt-slot-size", gpt(blank, header=[(84, le(1, 4))]), "SizeOfPartitionEntry is 1")
    add("gpt-entries-far", gpt(blank, header=[(72, le(1 << 60, 8))]), "PartitionEntryLBA is")
    add("gpt-usable-far", gpt(blank, header=[(48, le((1 << 64) - 1, 8))]), "LastUsableLBA is")
    add("gpt-backwards", gpt(blank, entry=[(40, le(5, 8))]), "partition 1 (2048..=5)")
    add("gpt-in-table", gpt(blank, entry=[(32, le(2, 8))]), "partition 1 (2..=")
    add("dos-far", patch(plain, (446, bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + b"\xff" * 8)), "partition 1 of the image ends at byte")


def clothes(raw, plain, good):
    """One thing in the clothes of another."""
    secret = FOLDER / "secret.raw"
    secret.write_bytes(bytes(len(plain)))
    other = FOLDER / "made"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", other, len(plain))
    outside = other.read_bytes()
    other.unlink()
    sector = patch(good, (446, bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + le(2048, 4) + le(2048, 4) + bytes(48) + b"\x55\xaa"))
    add("mbr-qcow2", sector, "declared as raw, but is qcow2", "raw")
    add("mbr-qcow2-data-file", patch(outside, (510, b"\x55\xaa")), "incompatible_features is 4", None, "qcow2")
    add("iso-qcow2", patch(good, (32769, b"CD001")), "declared as raw, but is qcow2", "raw")
    add("gzip-qcow2", gzip.compress(good), "declared as raw, but is qcow2", "raw")
    add("raw-as-qcow2", plain, "declared as qcow2, but is raw", "qcow2")
    for name, magic in [("vmdk", b"KDMV"), ("vhdx", b"vhdxfile"), ("LUKS", b"LUKS\xba\xbe")]:
        add(f"gpt-{name}", patch(plain, (0, magic)), f"the image is {name}")
    for name, options in [("vmdk", ["vmdk"]), ("vhd", ["vpc"]), ("vdi", ["vdi"]), ("qed", ["qed"]), ("vhdx", ["vhdx"])]:
        add(f"made-{name}", convert(raw, "-O", *options), f"the image is {name}")
    run("xorriso", "-as", "mkisofs", "-quiet", "-o", other, raw)
    add("made-iso", other.read_bytes(), "the image is an ISO 9660 image")
    other.unlink()


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw = FOLDER / "base.raw"
    plain = gpt(bytes(MIB) + noise(3 * MIB) + bytes(MIB))
    raw.write_bytes(plain)
    good = convert(raw, "-O", "qcow2")
    qcow2_headers(good)
    qcow2_tables(good)
    packed(plain)
    tables(plain)
    clothes(raw, plain, good)
    (FOLDER / "corpus.json").write_text(json.dumps(CORPUS, indent=1) + "\n")


main()
