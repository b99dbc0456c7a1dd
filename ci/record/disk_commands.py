#!/usr/bin/env python3
"""Records how QEMU's disks answer the commands by which a disk is looked at and erased.

    cargo xtask ramdisk --profile vm
    python3 ci/record/disk_commands.py target/ramdisk/vm crates/hardware-sim/testdata/qemu.json

Boots the kernel and the modules of that ramdisk with this file as its first process, on a virtual machine with one disk of each
kind, and writes down what the kernel's pass-through gives back: NVMe admin commands and SCSI commands byte for byte. The
same file is the program inside the machine, run by the Python that runs it outside. Needs qemu-system-x86 and a Python of
Debian; no network.
"""

import ctypes
import fcntl
import glob
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

SIZE = 8 << 20
MARK = "RECORDED "
DISKS = {
    "nvme": ["-drive", "file={},if=none,id=nv,format=raw,discard=unmap", "-device", "nvme,drive=nv,serial=NV1"],
    "ahci": ["-device", "ahci,id=ah", "-drive", "file={},if=none,id=ahd,format=raw,discard=unmap",
             "-device", "ide-hd,drive=ahd,bus=ah.0,serial=AHCI1"],
    "scsi": ["-device", "virtio-scsi-pci,id=vs", "-drive", "file={},if=none,id=sc,format=raw,discard=unmap",
             "-device", "scsi-hd,drive=sc,bus=vs.0,serial=SCSI1"],
    "virtio": ["-drive", "file={},if=none,id=vb,format=raw,discard=unmap",
               "-device", "virtio-blk-pci,drive=vb,serial=VB1"],
}
LIMITS = ["logical_block_size", "rotational", "discard_granularity", "discard_max_bytes", "write_zeroes_max_bytes"]


# What is asked. A number of bytes is an answer that is wanted, hexadecimal digits are data for the device.

def nvme(name, opcode, nsid, data, *cdw10):
    words = list(cdw10) + [0] * (6 - len(cdw10))
    return {"name": name, "opcode": opcode, "namespace": nsid, "cdw10": words, "data": data}


def scsi(name, cdb, data=0):
    return {"name": name, "cdb": cdb, "data": data}


def ata(name, command, feature=0, count=0, lba=0, device=0, extended=False, data=0):
    """ATA PASS-THROUGH (16), with the registers wanted where there is no data."""
    protocol = 3 if data == 0 else 4 if isinstance(data, int) else 5
    flags = 0x20 if data == 0 else 0x0e if isinstance(data, int) else 0x06
    low = lba.to_bytes(6, "little")
    cdb = bytes([0x85, protocol << 1 | extended, flags, feature >> 8, feature & 255, count >> 8, count & 255,
                 low[3], low[0], low[4], low[1], low[5], low[2], device, command, 0])
    return scsi(name, cdb.hex(), data)


ALL = 0xFFFFFFFF
PASSWORD = ("0000" + "password".encode().hex()).ljust(1024, "0")
SCSI = [
    scsi("test unit ready", "000000000000"),
    scsi("request sense", "03000000fc00", 252),
    scsi("inquiry", "120000006000", 96),
    *[scsi(f"vital data {page:02x}h", f"1201{page:02x}00fc00", 252) for page in (0x00, 0x80, 0x83, 0x89, 0xB0, 0xB1, 0xB2)],
    scsi("read capacity (16)", "9e10" + "00" * 11 + "200000", 32),
    scsi("report supported: sanitize, crypto", "a30c02480003000000400000", 64),
    scsi("report supported: sanitize, block", "a30c02480002000000400000", 64),
    scsi("log sense: temperature", "4d004d00000000010000", 256),
    scsi("sanitize: block", "48a20000000000000000"),
    scsi("sanitize: crypto", "48a30000000000000000"),
    scsi("sanitize: overwrite", "48a10000000000000800", "0100000400000000"),
]
COMMANDS = {
    "nvme": [
        nvme("identify controller", 0x06, 0, 4096, 1),
        nvme("identify namespace", 0x06, 1, 4096, 0),
        nvme("identify: active namespaces", 0x06, 0, 4096, 2),
        nvme("identify: allocated namespaces", 0x06, 0, 4096, 0x10),
        nvme("log: health", 0x02, ALL, 512, 0x007F0002),
        nvme("log: firmware slots", 0x02, ALL, 512, 0x007F0003),
        nvme("log: self-test", 0x02, ALL, 564, 0x008C0006),
        nvme("log: sanitize", 0x02, ALL, 512, 0x007F0081),
        nvme("sanitize: crypto", 0x84, 0, 0, 0x0C),
        nvme("sanitize: block", 0x84, 0, 0, 0x0A),
        nvme("self-test", 0x14, ALL, 0, 1),
        nvme("firmware commit", 0x10, 0, 0, 0x0A),
        nvme("format: user data", 0x80, 1, 0, 1 << 9),
        nvme("format: crypto", 0x80, 1, 0, 2 << 9),
    ],
    "ahci": [
        *SCSI,
        ata("identify device", 0xEC, count=1, data=512),
        ata("sanitize status", 0xB4, extended=True),
        ata("sanitize: block", 0xB4, feature=0x12, count=0x10, lba=0x426B4572, extended=True),
        ata("security set password", 0xF1, count=1, data=PASSWORD),
        ata("security unlock", 0xF2, count=1, data=PASSWORD),
        ata("security erase prepare", 0xF3),
        ata("security erase unit", 0xF4, count=1, data=PASSWORD),
        ata("security disable password", 0xF6, count=1, data=PASSWORD),
        ata("read native max", 0x27, device=0x40, extended=True),
        ata("device configuration identify", 0xB1, feature=0xC2, count=1, data=512),
        ata("smart return status", 0xB0, feature=0xDA, lba=0xC24F00),
        ata("smart read data", 0xB0, feature=0xD0, count=1, lba=0xC24F00, data=512),
    ],
    "scsi": [
        *SCSI,
        ata("identify device", 0xEC, count=1, data=512),
        scsi("format unit", "040000000000"),
        scsi("unmap", "42000000000000001800", "00160010" + "00" * 4 + "00" * 8 + "00000800" + "00" * 4),
        scsi("write same (16)", "9300" + "00" * 8 + "000008000000", "00" * 512),
        scsi("write same (16), unmap", "9308" + "00" * 8 + "000008000000", "00" * 512),
    ],
    "virtio": [scsi("inquiry", "120000006000", 96), nvme("identify controller", 0x06, 0, 4096, 1)],
}
# After these it is written down whether the first MiB still holds what was written before.
ERASING = ("format", "sanitize", "unmap", "write same", "security erase unit")


class Sg(ctypes.Structure):
    """struct sg_io_hdr (scsi/sg.h)."""

    _fields_ = [
        ("interface", ctypes.c_int), ("direction", ctypes.c_int), ("cmd_len", ctypes.c_ubyte), ("sense_room", ctypes.c_ubyte),
        ("vectors", ctypes.c_ushort), ("data_len", ctypes.c_uint), ("data", ctypes.c_void_p), ("cmd", ctypes.c_void_p),
        ("sense", ctypes.c_void_p), ("timeout", ctypes.c_uint), ("flags", ctypes.c_uint), ("pack", ctypes.c_int),
        ("user", ctypes.c_void_p), ("status", ctypes.c_ubyte), ("masked", ctypes.c_ubyte), ("message", ctypes.c_ubyte),
        ("sense_len", ctypes.c_ubyte), ("host", ctypes.c_ushort), ("driver", ctypes.c_ushort), ("residual", ctypes.c_int),
        ("duration", ctypes.c_uint), ("info", ctypes.c_uint),
    ]


def send_scsi(fd, ask):
    data, cdb = ask["data"], bytes.fromhex(ask["cdb"])
    length = data if isinstance(data, int) else len(data) // 2
    room = ctypes.create_string_buffer(max(length, 1)) if isinstance(data, int) else ctypes.create_string_buffer(bytes.fromhex(data), length)
    sense, command = ctypes.create_string_buffer(96), ctypes.create_string_buffer(cdb, len(cdb))
    request = Sg(interface=ord("S"), direction=-1 if length == 0 else -3 if isinstance(data, int) else -2, cmd_len=len(cdb),
                 sense_room=96, data_len=length, data=ctypes.addressof(room), cmd=ctypes.addressof(command),
                 sense=ctypes.addressof(sense), timeout=60000)
    fcntl.ioctl(fd, 0x2285, request)
    answer = {"status": request.status, "host": request.host, "sense": sense.raw[:request.sense_len].hex(),
              "residual": request.residual}
    if isinstance(data, int) and length > 0:
        answer["data"] = room.raw[:length].rstrip(b"\0").hex()
    return answer


def send_nvme(fd, ask):
    length = ask["data"]
    room = ctypes.create_string_buffer(max(length, 1))
    request = bytearray(struct.pack("<BBHIIIQQII6III", ask["opcode"], 0, 0, ask["namespace"], 0, 0, 0,
                                    ctypes.addressof(room) if length else 0, 0, length, *ask["cdw10"], 60000, 0))
    status = fcntl.ioctl(fd, 0xC0484E41, request, True)
    answer = {"status": status & 0x7FFF, "result": struct.unpack_from("<I", request, 68)[0]}
    if length:
        answer["data"] = room.raw[:length].rstrip(b"\0").hex()
    return answer


def mebibyte(fd, write):
    """Writes or reads the first MiB past the caches."""
    import mmap
    room = mmap.mmap(-1, 1 << 20)
    if write:
        room.write(b"A" * (1 << 20))
        os.pwritev(fd, [room], 0)
        os.fsync(fd)
        return None
    os.preadv(fd, [room], 0)
    found = room[:]
    return "old" if found == b"A" * len(found) else "zeros" if not any(found) else "other"


def inside():
    """The first process of the machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None)
    console = os.open("/dev/ttyS0", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(console, number)
    folder = glob.glob("/lib/modules/*")[0]
    needs = dict(line.rstrip("\n").split(":", 1) for line in open(f"{folder}/modules.dep"))
    paths = {os.path.basename(path).split(".")[0].replace("-", "_"): path for path in needs}
    for name in ("virtio_pci", "virtio_blk", "virtio_scsi", "nvme", "ahci", "sd_mod"):
        for path in reversed([paths[name], *needs[paths[name]].split()]):
            with open(f"{folder}/{path}", "rb") as module:
                libc.syscall(313, module.fileno(), b"", 0)
    import time
    while not all(node_of(disk) for disk in DISKS):
        time.sleep(0.1)
    time.sleep(2)
    document = {"kernel": os.uname().release}
    for disk in DISKS:
        node = node_of(disk)
        fd = os.open(node, os.O_RDWR | os.O_EXCL | os.O_DIRECT)
        queue = f"/sys/block/{os.path.basename(node)}/queue"
        limits = {name: int(open(f"{queue}/{name}").read()) for name in LIMITS}
        exchanges = []
        for ask in COMMANDS[disk]:
            erases = ask["name"].startswith(ERASING)
            if erases:
                mebibyte(fd, True)
            try:
                answer = send_nvme(fd, ask) if "opcode" in ask else send_scsi(fd, ask)
            except OSError as error:
                answer = {"errno": error.errno}
            if erases:
                answer["first_mebibyte"] = mebibyte(fd, False)
            exchanges.append({"ask": ask, "answer": answer})
        document[disk] = {"size": os.lseek(fd, 0, os.SEEK_END), "limits": limits, "exchanges": exchanges}
    sys.stdout.write("\n" + MARK + json.dumps(document) + "\n")
    sys.stdout.flush()
    time.sleep(1)
    libc.sync()
    libc.reboot(0x4321FEDC)


def node_of(disk):
    """The device node of a disk, once it is there. Which of the two SCSI disks comes first is left to chance."""
    if disk in ("nvme", "virtio"):
        node = "/dev/nvme0n1" if disk == "nvme" else "/dev/vda"
        return node if os.path.exists(node) else None
    for folder in glob.glob("/sys/block/sd*"):
        with open(f"{folder}/device/vendor", encoding="ascii") as vendor:
            is_ata = vendor.read().strip() == "ATA"
        node = f"/dev/{os.path.basename(folder)}"
        if is_ata == (disk == "ahci") and os.path.exists(node):
            return node
    return None


def archived(name, mode, content=b""):
    head = f"070701{0:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{len(content):08x}{0:08x}{0:08x}{0:08x}{0:08x}{len(name) + 1:08x}{0:08x}"
    padded = lambda data: data + b"\0" * (-len(data) % 4)
    return padded(head.encode() + name.encode() + b"\0") + padded(content)


def archive():
    """This file and the Python of this machine, as a cpio archive."""
    python = os.path.realpath("/usr/bin/python3")
    library = f"/usr/lib/{os.path.basename(python)}"
    files = {python}
    wanted = re.compile(r"^(?!test|idlelib|lib2to3|tkinter|distutils|ensurepip|unittest|config-|dist-packages|asyncio|pydoc_data).*\.(py|so)$")
    for place, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name != "__pycache__"]
        files.update(f"{place}/{name}" for name in names if wanted.match(os.path.relpath(f"{place}/{name}", library)))
    for binary in [python, *(path for path in files if path.endswith(".so") and "_ctypes." in path)]:
        files.update(re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", binary], text=True)))
    made, parts = set(), []
    for path in sorted(files):
        parents = path.split("/")[1:-1]
        for depth in range(1, len(parents) + 1):
            folder = "/".join(parents[:depth])
            if folder not in made:
                made.add(folder)
                parts.append(archived(folder, 0o040755))
        with open(path, "rb") as file:
            parts.append(archived(path[1:], 0o100755, file.read()))
    with open(__file__, "rb") as file:
        text = file.read().replace(b"#!/usr/bin/env python3", f"#!{python} -Bs".encode(), 1)
    parts.append(archived("record", 0o100755, text))
    parts.append(archived("TRAILER!!!", 0))
    return b"".join(parts)


def outside(ramdisk, path):
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{ramdisk}/initramfs", "rb") as file:
            initramfs = file.read()
        with open(f"{folder}/initramfs", "wb") as file:
            file.write(initramfs + b"\0" * (-len(initramfs) % 4) + archive())
        arguments = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-display", "none",
                     "-no-reboot", "-nic", "none", "-device", "virtio-rng-pci", "-serial", "stdio", "-monitor", "none",
                     "-kernel", f"{ramdisk}/vmlinuz", "-initrd", f"{folder}/initramfs",
                     "-append", "console=ttyS0 quiet rdinit=/record panic=-1"]
        for disk, options in DISKS.items():
            with open(f"{folder}/{disk}", "wb") as file:
                file.truncate(SIZE)
            arguments += [option.format(f"{folder}/{disk}") for option in options]
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=600, check=True)
    lines = done.stdout.decode(errors="replace").splitlines()
    found = [line[len(MARK):] for line in lines if line.startswith(MARK)]
    if not found:
        sys.exit("the machine ended without a record:\n" + "\n".join(lines[-40:]))
    version = subprocess.check_output(["qemu-system-x86_64", "--version"], text=True)
    document = {"qemu": re.search(r"version (\S+)", version)[1], **json.loads(found[0])}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")


if os.getpid() == 1:
    inside()
else:
    outside(*sys.argv[1:])
