#!/usr/bin/env python3
"""Records what sushy-emulator says of a machine, and what Ironic makes of it: BIOS settings, firmware, boot mode, secure
boot, indicators, NMI.

    python3 -m venv EMULATOR && EMULATOR/bin/pip install -r ci/python/sushy-emulator.txt
    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ironic.txt
    VENV/bin/python ci/record/redfish.py EMULATOR/bin/sushy-emulator crates/bmc/testdata crates/driver/testdata/ironic

Both are folders outside the checkout. The emulator's machine is one of libvirt's test driver, which has no guest and
needs no daemon and no privileges. Writes `sushy.json` (every resource, by its path, as it was before anything was changed)
and `redfish.json` (Ironic's answers). Takes about a minute. Two runs give the same files.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

sys.dont_write_bytecode = True  # The checkout stays as it is.
from exchange import free_port, until  # noqa: E402
from ironic_api import CONFIG, Recording, at  # noqa: E402

MACHINE = "6695eb01-f6a4-8304-79aa-97f2502e193f"
NODE = "11111111-1111-4111-8111-111111111111"

EMULATOR = """
import libvirt

# The test driver forgets what it was told when its last connection is closed.
KEPT = libvirt.open("test:///default")
for domain in KEPT.listAllDomains():
    if domain.isActive():
        domain.destroy()
    domain.undefine()
KEPT.defineXML('''
<domain type="test"><name>node-1</name><uuid>{machine}</uuid><memory unit="GiB">8</memory><vcpu>2</vcpu>
<os><type arch="x86_64">hvm</type>
<loader type="pflash" readonly="yes">/usr/share/OVMF/OVMF_CODE.fd</loader>
<nvram template="/usr/share/OVMF/OVMF_VARS.fd">{folder}/node.fd</nvram></os></domain>''')
SUSHY_EMULATOR_LISTEN_IP = "127.0.0.1"
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_LIBVIRT_URI = "test:///default"
SUSHY_EMULATOR_STATE_DIR = "{folder}"
SUSHY_EMULATOR_FEATURE_SET = "full"
SUSHY_EMULATOR_BOOT_LOADER_MAP = {{
    "UEFI": {{"x86_64": "/usr/share/OVMF/OVMF_CODE.secboot.fd"}},
    "Legacy": {{"x86_64": "/usr/share/seabios/bios.bin"}},
}}
"""


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
        return json.load(reply)


def links(value):
    """Every link of a document, and every place of a registry."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("@odata.id", "Uri") and isinstance(item, str):
                yield item
            yield from links(item)
    elif isinstance(value, list):
        for item in value:
            yield from links(item)


def resources(port):
    """Every resource that the links of the service root lead to."""
    found, left = {}, ["/redfish/v1/"]
    while left:
        path = left.pop()
        path = path.split("#")[0]
        if path in found or not path.startswith("/redfish/"):
            continue
        try:
            found[path] = get(port, path)
        except urllib.error.HTTPError as error:
            found[path] = error.code  # A link that leads nowhere; real BMCs have some, too.
            continue
        left.extend(links(found[path]))
    return dict(sorted(found.items()))


def redfish(ask, bmc):
    ask.must("POST", "/v1/nodes", {
        "uuid": NODE, "name": "node-1", "driver": "redfish", "bios_interface": "redfish", "firmware_interface": "redfish",
        "driver_info": {"redfish_address": f"http://127.0.0.1:{bmc}", "redfish_username": "u", "redfish_password": "p"},
    })
    node = f"/v1/nodes/{NODE}"
    ask("BIOS settings before the node is verified", "GET", f"{node}/bios")
    ask("firmware before the node is verified", "GET", f"{node}/firmware")
    ask.provision(NODE, "manage", "manageable")
    ask("states of a verified node", "GET", f"{node}/states")
    ask("BIOS settings", "GET", f"{node}/bios")
    ask("BIOS settings by name", "GET", "/v1/nodes/node-1/bios")
    ask("BIOS settings at 1.40", "GET", f"{node}/bios", headers=at(40))
    ask("BIOS settings in detail", "GET", f"{node}/bios?detail=True")
    ask("fields of BIOS settings", "GET", f"{node}/bios?fields=name,read_only")
    ask("a BIOS setting", "GET", f"{node}/bios/EmbeddedSata")
    ask("a BIOS setting at 1.40", "GET", f"{node}/bios/EmbeddedSata", headers=at(40))
    ask("a BIOS setting that there is not", "GET", f"{node}/bios/Colour")
    ask("firmware", "GET", f"{node}/firmware")
    ask("firmware at 1.86", "GET", f"{node}/firmware", headers=at(86))
    ask("a field of firmware newer than the version", "GET", f"{node}/firmware?fields=component,vendor", headers=at(113))
    ask("indicators", "GET", f"{node}/management/indicators")
    ask("an indicator", "GET", f"{node}/management/indicators/{MACHINE}@system")
    ask("an indicator that there is not", "GET", f"{node}/management/indicators/{MACHINE}@disk")
    ask("switch an indicator off", "PUT", f"{node}/management/indicators/{MACHINE}@system", {"state": "off"})
    ask("it is off", "GET", f"{node}/management/indicators/{MACHINE}@system")
    ask("switch an indicator that there is not", "PUT", f"{node}/management/indicators/none@system", {"state": "off"})
    ask("an NMI", "PUT", f"{node}/management/inject_nmi", {})
    ask("an NMI at 1.28", "PUT", f"{node}/management/inject_nmi", {}, headers=at(28))
    for name, body, key, wanted in (
        ("boot_mode", {"target": "bios"}, "boot_mode", "bios"),
        ("boot_mode", {"target": "uefi"}, "boot_mode", "uefi"),
        ("secure_boot", {"target": True}, "secure_boot", "True"),
        ("secure_boot", {"target": False}, "secure_boot", "False"),
    ):
        ask(f"set {name} to {wanted}", "PUT", f"{node}/states/{name}", body)
        until(f"{key} {wanted}", lambda: str(ask("", "GET", f"{node}/states", keep=False)[1][key]) == wanted)
        ask.free(NODE)
        ask(f"wait: {key} is {wanted}", "GET", f"{node}?fields={key},last_error,reservation")
    ask.save("redfish")


def main(emulator, bmc_output, output):
    binaries = pathlib.Path(sys.executable).parent
    servers = []
    with tempfile.TemporaryDirectory(prefix="record-redfish-") as folder:
        ports = [free_port(), free_port()]
        machine = pathlib.Path(folder, "emulator.conf")
        machine.write_text(EMULATOR.format(machine=MACHINE, folder=folder, port=ports[0]))
        config = pathlib.Path(folder, "ironic.conf")
        text = CONFIG.format(folder=folder, port=ports[1])
        for old, new in (
            ("enabled_hardware_types = fake-hardware", "enabled_hardware_types = redfish"),
            ("enabled_bios_interfaces = fake,", "enabled_bios_interfaces = redfish,"),
            ("enabled_boot_interfaces = fake", "enabled_boot_interfaces = redfish-virtual-media"),
            ("enabled_console_interfaces = fake,", "enabled_console_interfaces = "),
            ("enabled_deploy_interfaces = direct,fake", "enabled_deploy_interfaces = direct"),
            ("enabled_firmware_interfaces = fake,", "enabled_firmware_interfaces = redfish,"),
            ("enabled_inspect_interfaces = agent,fake,", "enabled_inspect_interfaces = agent,"),
            ("enabled_management_interfaces = fake", "enabled_management_interfaces = redfish"),
            ("enabled_power_interfaces = fake", "enabled_power_interfaces = redfish"),
            ("enabled_raid_interfaces = fake,", "enabled_raid_interfaces = "),
            ("enabled_rescue_interfaces = fake,", "enabled_rescue_interfaces = "),
            ("enabled_vendor_interfaces = fake,", "enabled_vendor_interfaces = "),
        ):
            assert old in text, old
            text = text.replace(old, new)
        config.write_text(text)
        pathlib.Path(folder, "certificates").mkdir()
        environment = {**os.environ, "no_proxy": "127.0.0.1"}
        subprocess.run(
            [binaries / "ironic-dbsync", "--config-file", config, "create_schema"],
            check=True, env=environment, stderr=subprocess.DEVNULL)
        console = open(pathlib.Path(folder, "console.log"), "wb")
        try:
            for command in (
                [emulator, "--config", machine],
                [binaries / "ironic", "--config-file", config],
            ):
                servers.append(subprocess.Popen(
                    command, stdout=console, stderr=console, env=environment, start_new_session=True))
            until("the emulator", lambda: get(ports[0], "/redfish/v1/Systems")["Members"])
            tree = resources(ports[0])
            bmc_output.mkdir(parents=True, exist_ok=True)
            with open(bmc_output / "sushy.json", "w", encoding="utf-8") as out:
                json.dump({"recorded": "sushy-emulator, ci/record/redfish.py", "resources": tree}, out, indent=1)
                out.write("\n")
            ask = Recording(ports[1], folder, output)
            ask.ironic.fixed |= {MACHINE}
            chassis = [path for path in tree if path.startswith("/redfish/v1/Chassis/") and path.count("/") == 4]
            ask.ironic.fixed |= {path.rsplit("/", 1)[1] for path in chassis}
            ask.ironic.replace[f"127.0.0.1:{ports[0]}"] = "BMC"
            until("ironic with a conductor",
                  lambda: ask("", "GET", "/v1/drivers", keep=False)[1].get("drivers"), 120)
            redfish(ask, ports[0])
        except BaseException:
            log = pathlib.Path(folder, "ironic.log")
            if log.exists():
                lines = [line for line in log.read_text().splitlines() if " INFO ironic.api " not in line]
                sys.stderr.write("\n".join(lines[-60:]) + "\n")
            raise
        finally:
            for server in servers:
                # Ironic's workers survive their master otherwise; the session is ours alone.
                os.killpg(server.pid, signal.SIGTERM)
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(server.pid, signal.SIGKILL)
            console.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} SUSHY-EMULATOR BMC-OUTPUT-FOLDER IRONIC-OUTPUT-FOLDER")
    main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
