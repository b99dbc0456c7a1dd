#!/usr/bin/env python3
"""Records which disks the real ironic-python-agent finds for which root device hints.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ipa.txt
    VENV/bin/python ci/record/hints.py crates/hardware/testdata/hints.json

VENV is a folder outside the checkout. Only calls the matcher (`ironic_python_agent.device_hints`) and the choice without
hints (`utils.guess_root_disk`) on disks made up here; needs no privileges and touches no disk. For each hint: the names
of all disks that match, in order, or the error.
"""

import json
import sys
from importlib.metadata import version

from ironic_python_agent import config  # noqa: F401  (registers the options that the others read)
from ironic_python_agent import device_hints, errors, hardware, utils

GIB = 1024**3


def disk(name, size, **more):
    keys = ["model", "vendor", "serial", "wwn", "wwn_with_extension", "wwn_vendor_extension", "hctl", "by_path", "tran"]
    return {"name": name, "size": size, "rotational": False, **dict.fromkeys(keys), **more}


DISKS = [
    disk("/dev/sda", 1000204886016, model="WDC WD1003FBYX-0", vendor="ATA", serial=["WD-WCAW33", "WCAW33"], rotational=True,
         wwn="0x50014ee2b5e7ef3a", wwn_with_extension="0x50014ee2b5e7ef3a0x1", wwn_vendor_extension="0x1",
         hctl="0:0:0:0", by_path="/dev/disk/by-path/pci-0000:00:1f.2-ata-1", tran="sata"),
    disk("/dev/sdb", 500 * GIB, model="PERC H730P Mini", vendor="DELL", serial="61866da0", rotational=True,
         wwn=["0x61866da0", "0x61866da0b1"], hctl="0:2:0:0", tran="sas"),
    disk("/dev/nvme0n1", 480 * GIB, model="SAMSUNG MZ1LB480 (rev 2)", serial="S3E_A1 B2", wwn="eui.00253881",
         by_path="/dev/disk/by-path/pci-0000:3b:00.0-nvme-1", tran="nvme"),
    disk("/dev/vda", 10 * GIB, vendor="0x1af4"),
    disk("/dev/vdb", 4 * GIB - 512, vendor="", serial=[], model="none"),
    disk("/dev/sdc", 10 * GIB, model="fôo 100%", vendor="a,b", serial=[None, "X"], rotational=None, hctl="1:0:0:10"),
]

HINTS = [
    # Sizes: the number alone, its operators, and what is no number.
    *({"size": value} for value in (
        10, "10", 931, "931", "= 931", "=931", ">= 931", "<= 10", "< 10", "> 10", "== 10", "!= 10", "500", 0, -1, "0",
        "x", "", " ", "10.0", 10.5, "10 GiB", None, True, [10], ">= x", ">= 0", "<or> 10 <or> 500", "<or> 500",
        "<in> 10", "s== 10", "<range-in> [ 4 11 ]", "<all-in> 10", ">= ", "3", "4", ">= 4", ">= 3",
    )),
    # Texts: case, blanks, operators, characters that are quoted.
    *({"model": value} for value in (
        "WDC WD1003FBYX-0", "wdc wd1003fbyx-0", " wdc wd1003fbyx-0 ", "wdc", "<in> wdc", "<in> WD1003", "<in> nothing",
        "s== wdc wd1003fbyx-0", "s!= wdc wd1003fbyx-0", "s< m", "s> m", "s<= perc h730p mini", "s>= perc h730p mini",
        "<or> x <or> perc h730p mini", "<or> perc h730p mini", "<or> x", "<in> perc h730p", "<all-in> perc mini",
        "<in> (rev 2)", "samsung mz1lb480 (rev 2)", "none", "fôo 100%", "<in> %", "", " ", 5, None, True, ["x"], "== 5",
        "!= 5", "= wdc", "in wdc", "<in>", "<or>", "s==", "<in> a <in> b", "<range-in> [ a z ]", "<in> 100%",
    )),
    *({"serial": value} for value in (
        "wd-wcaw33", "WCAW33", "<in> wcaw", "s3e_a1 b2", "61866da0", "x", "none", "s!= x", "<or> x <or> 61866da0",
    )),
    *({"wwn": value} for value in ("0x50014ee2b5e7ef3a", "0X50014EE2B5E7EF3A", "0x61866da0b1", "eui.00253881", "none", "<in> 0x")),
    {"wwn_with_extension": "0x50014ee2b5e7ef3a0x1"},
    {"wwn_vendor_extension": "0x1"},
    *({"vendor": value} for value in ("ata", "ATA", "0x1af4", "a,b", "none", "<in> a", "s!= ata")),
    *({"name": value} for value in ("/dev/sda", "/DEV/SDA", "sda", "<in> sd", "<in> /dev/sd", "s>= /dev/sd", "<or> /dev/vda <or> /dev/sdb")),
    *({"hctl": value} for value in ("0:0:0:0", "<in> 0:0", "1:0:0:10", "1:0:0:1")),
    *({"by_path": value} for value in ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "<in> nvme", "none")),
    *({"tran": value} for value in ("sata", "NVMe", "<or> sata <or> sas", "usb", "none")),
    *({"rotational": value} for value in (True, False, "true", "False", "yes", "no", "1", "0", 1, 0, "on", "x", "", None, "== true")),
    # Several at once, unknown ones, none at all.
    {"size": ">= 400", "rotational": False},
    {"size": ">= 400", "rotational": True, "vendor": "dell"},
    {"size": 10, "model": "nothing"},
    {"vendor": "ata", "serial": "61866da0"},
    {"colour": "red"},
    {"size": 10, "colour": "red"},
    {"Size": 10},
    # Every operator with every hint, with and without a blank, with two values, with none.
    *({name: text} for name in ("size", "model", "serial", "hctl", "rotational")
      for operator in ("=", "==", "!=", ">=", "<=", ">", "<", "s==", "s!=", "s<", "s<=", "s>", "s>=", "<in>", "<or>",
                       "<all-in>", "<range-in>")
      for text in (f"{operator} 10", f"{operator}10", f"{operator} 10 {operator} 500", operator, f"{operator} true",
                   f" {operator}  0:0:0:0 ")),
    # What Python takes for a whole number, and what only looks like one.
    *({"size": value} for value in (
        "+10", "-10", "0010", "1_0", "1__0", "_10", "10_", "1e1", "0x0a", "10.", "1 0", "\t10\n", "\u0661\u0660", "\uff11\uff10",
        "9223372036854775807", "9223372036854775808", "18446744073709551616", "<= 99999999999999999999999", "10\u00a0",
        ">= +10", ">= 1_0", "= 0010", "== \uff11\uff10", 1e1, 10.0, 9223372036854775808, "<or> 10.0", "<or> 10", "<or> 500.0 <or> 10",
        "s== 10.0", "s>= 10", "s< 5", "s!= 10", ">=10 <or> 3", "= 10 = 500", "<> 10", "=> 10", "=< 10", "10 GB", "\u2265 10",
    )),
    # Limits of a size that is compared as a fraction of GiB: sda has 931.51, vdb a sector less than 4.
    *({"size": f"{operator} {gib}"} for gib in (4, 931, 932) for operator in ("=", "==", "!=", ">=", "<=", ">", "<")),
    # Case, blanks and quoting of operators and values.
    *({"model": value} for value in (
        "<OR> x <OR> perc h730p mini", "S== PERC H730P MINI", "<In> PERC", "<or>perc h730p mini<or>x", "<or> <or> x", "<or> x <or>",
        "<or> perc h730p mini <or> perc h730p mini", "s==s== x", "s== s!= x", "<in> ", "<in>\tperc", "perc  h730p mini", "perc\th730p mini",
        "<in> fôo", "FÔO 100%", "<in> 100", "f%c3%b4o 100%", "s> none", "s>= none", "s<= none", "=", "==", "!", "s", "s=", "<", ">",
        "<or", "in>", "<<in>> perc", "<in> <in> perc", "none <or> x", "İ", "ß", "STRASSE", "\u212a", "perc h730p mini\u0000", "a" * 300,
    )),
    *({"vendor": value} for value in ("<or> none <or> ata", "s== a,b", "<in> ,", "s!= none", "s< none", "<in> none")),
    *({"serial": value} for value in ("s!= wcaw33", "s< s", "<in> none", "s== none", "<or> wcaw33 <or> x", "s!= none", "<in> a1 b2")),
    *({"wwn": value} for value in ("s!= 0x61866da0", "<or> eui.00253881 <or> none", "s>= eui")),
    *({"name": value} for value in ("/dev/sda", "/DEV/SDA", "sda", "<in> sd", "s< /dev/sdb", "<or> /dev/sdc <or> /dev/sda", "<in> /")),
    *({"rotational": value} for value in (" true ", "TRUE", "t", "f", "Y", "n", "off", "2", -1, 1.0, [], {}, "= true", "s== true")),
    {"size": "10", "model": None},
    {"model": "none", "vendor": "s!= x", "tran": "none"},
    {"rotational": False, "size": "<= 10", "hctl": "none"},
    # An operator where a value is expected.
    *({"model": value} for value in (
        "<in> =x", "s== =x", "<or> =x <or> y", "s== <in> x", "s!= >x", "<in> <x", "s== s", "s==s", "<in> s==", "<or> x <or> =y", "<or> s== x",
        "<or> none <or> <in> x", "s!= !=", "<in> perc <or> x", "s== perc s!= x", "<in> none =", "s> =", "<in> !x", "<in> s!x", "s!= s>x",
    )),
    *({"size": value} for value in ("= = 10", ">= >= 10", ">= <= 10", "< > 10", "= s== 10", "== 10 <= 11", "<= 10 >= 3")),
]

# Choosing without hints: sizes in bytes by name.
GUESSES = [
    [],
    [("/dev/sda", 4 * GIB)],
    [("/dev/sda", 4 * GIB - 1)],
    [("/dev/sda", 4 * GIB - 1), ("/dev/sdb", 4 * GIB)],
    [("/dev/sdb", 10 * GIB), ("/dev/sda", 10 * GIB)],
    [("/dev/sda", 500 * GIB), ("/dev/nvme0n1", 10 * GIB), ("/dev/sdb", 10 * GIB)],
    [("/dev/sdaa", 10 * GIB), ("/dev/sdb", 10 * GIB)],
    [("/dev/sdc", 0), ("/dev/sdd", 2**60), ("/dev/sde", 2**50)],
    [("/dev/vdb", 8 * GIB), ("/dev/VDA", 8 * GIB), ("/dev/vda", 8 * GIB)],
]


def answer(hints):
    try:
        return {"matches": [found["name"] for found in device_hints.find_devices_by_hints(DISKS, hints)]}
    except ValueError as error:
        return {"invalid": str(error)}
    except Exception as error:  # What the agent's own author did not expect.
        return {"crash": type(error).__name__}


def guess(sizes):
    disks = [hardware.BlockDevice(name, "model", size, False) for name, size in sizes]
    try:
        return {"chosen": utils.guess_root_disk(disks).name}
    except errors.DeviceNotFound as error:
        return {"not_found": error.details}


def main(path):
    document = {
        "recorded": f"ironic-python-agent {version('ironic-python-agent')}, ci/record/hints.py",
        "disks": DISKS,
        "cases": [{"hints": hints, **answer(hints)} for hints in HINTS],
        "guesses": [{"disks": sizes, **guess(sizes)} for sizes in GUESSES],
    }
    with open(path, "w", encoding="utf-8") as out:
        # A case a line: what a new version answers otherwise is easy to see then.
        rows = {key: ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in document[key]) for key in document if key != "recorded"}
        out.write('{\n "recorded": %s,\n' % json.dumps(document["recorded"]))
        out.write(",\n".join(f' "{key}": [\n  {lines}\n ]' for key, lines in rows.items()))
        out.write("\n}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT.json")
    main(sys.argv[1])
