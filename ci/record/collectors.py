#!/usr/bin/env python3
"""Records what the real ironic-python-agent's inspection collectors make of a sysfs.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ipa.txt
    VENV/bin/python ci/record/collectors.py crates/agent/testdata/ipa/collectors.json

VENV is a folder outside the checkout. The collectors read a tree made up here: the names `os` and `open` of their modules
are replaced by ones that look below it. Needs no privileges. Lists are sorted, since the order is that of the folder.
"""

import builtins
import json
import os
import pathlib
import sys
import tempfile
import types
from importlib.metadata import version

from ironic_python_agent import config  # noqa: F401  (registers the options that the others read)
from ironic_python_agent import inspector, numa_inspector, utils

PCI = "sys/bus/pci/devices"
NODE = "sys/devices/system/node"
TREE = {
    f"{PCI}/0000:00:1f.2/vendor": "0x8086\n",
    f"{PCI}/0000:00:1f.2/device": "0x2922\n",
    f"{PCI}/0000:00:1f.2/class": "0x010601\n",
    f"{PCI}/0000:00:1f.2/revision": "0x02\n",
    f"{PCI}/0000:00:1f.2/numa_node": "-1\n",
    # Without what is optional, and with what is not a number.
    f"{PCI}/0000:3b:00.0/vendor": "0x15b3\n",
    f"{PCI}/0000:3b:00.0/device": "0x1017\n",
    f"{PCI}/0000:3b:00.0/class": "0x020000\n",
    f"{PCI}/0000:3c:00.0/vendor": "0x10de\n",
    f"{PCI}/0000:3c:00.0/device": "0x20b2\n",
    f"{PCI}/0000:3c:00.0/class": "0x030200\n",
    f"{PCI}/0000:3c:00.0/revision": "odd\n",
    f"{PCI}/0000:3c:00.0/numa_node": "1\n",
    # Without what is not.
    f"{PCI}/0000:ff:00.0/vendor": "0x8086\n",
    f"{PCI}/0000:ff:01.0/vendor": "odd\n",
    f"{PCI}/0000:ff:01.0/device": "0x1\n",
    f"{PCI}/0000:ff:01.0/class": "0x1\n",
    f"{NODE}/online": "0-1\n",
    f"{NODE}/node0/cpulist": "0-1,4\n",
    f"{NODE}/node0/meminfo": "\nNode 0 MemTotal:       32593480 kB\nNode 0 MemFree:        1000 kB\n",
    f"{NODE}/node0/cpu0/topology/core_id": "0\n",
    f"{NODE}/node0/cpu1/topology/core_id": "1\n",
    f"{NODE}/node0/cpu4/topology/core_id": "0\n",
    f"{NODE}/node1/meminfo": "Node 1 MemTotal:       33008724 kB\n",
    f"{NODE}/node1/cpu2/topology/core_id": "0\n",
    f"{NODE}/node1/cpu10/topology/core_id": "0\n",
    "sys/class/net/eth0/device/numa_node": "0\n",
    "sys/class/net/eth1/device/numa_node": "-1\n",
    "sys/class/net/lo/type": "772\n",
}


def below(root):
    """`os` and `open` that take absolute names for names below root."""
    at = lambda path: os.path.join(root, os.fspath(path).lstrip("/"))  # noqa: E731
    path = types.SimpleNamespace(
        join=os.path.join, basename=os.path.basename,
        isdir=lambda name: os.path.isdir(at(name)), isfile=lambda name: os.path.isfile(at(name)))
    fake = types.SimpleNamespace(path=path, listdir=lambda name: os.listdir(at(name)))
    return fake, lambda name, *more: builtins.open(at(name), *more)


def collect(root, module, collector):
    module.os, module.open = below(root)
    data, failures = {}, utils.AccumulatedFailures()
    try:
        collector(data, failures)
    finally:
        module.os = os
        del module.open
    return {"data": data, "error": failures.get_error()}


def in_order(value):
    if isinstance(value, dict):
        return {key: in_order(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((in_order(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


def unknown(names):
    """What an inspection with these collectors tells the driver."""
    failures = utils.AccumulatedFailures()
    try:
        inspector.extension_manager(names)
    except Exception as error:
        failures.add(error)
    return failures.get_error()


def without_program(collector):
    data, failures = {}, utils.AccumulatedFailures()
    os.environ["PATH"] = "/nonexistent"
    collector(data, failures)
    return {"data": data, "error": failures.get_error()}


with tempfile.TemporaryDirectory() as root:
    for name, text in TREE.items():
        file = pathlib.Path(root, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    pci, numa = inspector.collect_pci_devices_info, numa_inspector.collect_numa_topology_info
    found = {
        "pci-devices": collect(root, inspector, pci),
        "numa-topology": collect(root, numa_inspector, numa),
    }
    pathlib.Path(root, NODE, "node1/meminfo").write_text("nothing\n")
    odd = collect(root, numa_inspector, numa)
with tempfile.TemporaryDirectory() as root:
    empty = {
        "pci-devices": collect(root, inspector, pci),
        "numa-topology": collect(root, numa_inspector, numa),
    }
    for names in empty.values():
        names["error"] = names["error"] and names["error"].replace(root, "")

document = in_order({
    "agent": version("ironic-python-agent"),
    "tree": TREE,
    "found": found,
    "numa-topology without the memory of a node": odd,
    "without sysfs": empty,
    "unknown": unknown(["default", "odd"]),
    "without hardware-detect": without_program(inspector.collect_extra_hardware),
})
pathlib.Path(sys.argv[1]).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
