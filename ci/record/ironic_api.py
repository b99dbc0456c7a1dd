#!/usr/bin/env python3
"""Records answers of the real Ironic: documents, version negotiation, errors, look-up, heartbeat, provision verbs.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ironic.txt
    VENV/bin/python ci/record/ironic_api.py crates/driver/testdata/ironic

VENV is a folder outside the checkout. Starts `ironic` (API and conductor in one process, SQLite, fake-hardware, no
authentication) on a free loopback port with a temporary folder, and stops it at the end. Takes about three minutes and needs
no privileges. What a RAID configuration is made of goes to src/api/raid_properties.json beside testdata. Volatile values (ports, times, generated identifiers, tokens) are replaced, so two runs give the same
files.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

sys.dont_write_bytecode = True  # The checkout stays as it is.
from exchange import Recorder, free_port, until, write  # noqa: E402

NODE = "11111111-1111-4111-8111-111111111111"
SECOND = "22222222-2222-4222-8222-222222222222"
OLD = "33333333-3333-4333-8333-333333333333"
PORT = "44444444-4444-4444-8444-444444444444"
CHASSIS = "55555555-5555-4555-8555-555555555555"
GROUP = "66666666-6666-4666-8666-666666666666"
RECORD = "77777777-7777-4777-8777-777777777777"
FURTHER = "88888888-8888-4888-8888-888888888888"
HOST = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
HOST_PORT = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
HOST_MAC = "52:54:00:aa:bb:01"
INSTANCE = "cccccccc-cccc-4ccc-8ccc-cccccccccccc"
NOBODY = "99999999-9999-4999-8999-999999999999"
MAC = "52:54:00:12:34:56"
TOKEN_NAME = "TOKEN-OF-43-CHARACTERS"

CONFIG = """
[DEFAULT]
auth_strategy = noauth
host = recorder
my_ip = 127.0.0.1
rpc_transport = none
state_path = {folder}
log_file = {folder}/ironic.log
enabled_hardware_types = fake-hardware
enabled_bios_interfaces = fake,no-bios
enabled_boot_interfaces = fake
enabled_console_interfaces = fake,no-console
enabled_deploy_interfaces = direct,fake
enabled_firmware_interfaces = fake,no-firmware
enabled_inspect_interfaces = agent,fake,no-inspect
enabled_management_interfaces = fake
enabled_network_interfaces = noop
enabled_power_interfaces = fake
enabled_raid_interfaces = fake,no-raid
enabled_rescue_interfaces = fake,no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = fake,no-vendor
[agent]
certificates_path = {folder}/certificates
[api]
host_ip = 127.0.0.1
port = {port}
[conductor]
# Nothing changes by itself while we record.
sync_power_state_interval = -1
check_provision_state_interval = 0
[fake]
# Long enough to ask a locked node a few things, each of which waits for the lock.
inspect_delay = 25
[inspector]
require_managed_boot = False
[inventory]
data_backend = database
[service_catalog]
endpoint_override = http://127.0.0.1:{port}
[database]
connection = sqlite:///{folder}/ironic.sqlite
"""

HEADERS = [
    "content-type",
    "location",
    "x-openstack-ironic-api-version",
    "x-openstack-ironic-api-minimum-version",
    "x-openstack-ironic-api-maximum-version",
    "retry-after",
]


def at(minor):
    return {"X-OpenStack-Ironic-API-Version": f"1.{minor}"}


NEWEST = at(115)


class Recording:
    def __init__(self, port, folder, output):
        self.ironic = Recorder(port, HEADERS, {
            NODE, SECOND, OLD, PORT, CHASSIS, GROUP, RECORD, FURTHER, NOBODY, HOST, HOST_PORT, INSTANCE,
        }, {folder: "STATE-PATH"})
        self.output = output.resolve()

    def save(self, name):
        note = f"ironic {version('ironic')}, ci/record/ironic_api.py"
        write(self.output / f"{name}.json", note, self.ironic.take())

    def __call__(self, name, method, path, body=None, headers=NEWEST, **more):
        return self.ironic.ask(name, method, path, body, headers, **more)

    def provision(self, node, target, wanted, **more):
        """Unrecorded: brings a node to a state."""
        self.must("PUT", f"/v1/nodes/{node}/states/provision", {"target": target, **more})
        until(f"{node} {wanted}", lambda: self.state(node) == wanted)
        # The conductor releases its lock a moment after the state is visible.
        self.free(node)

    def free(self, node):
        """Waits until nobody holds the node's lock."""
        until(f"{node} free", lambda: self("", "GET", f"/v1/nodes/{node}", keep=False)[1]["reservation"] is None)
        time.sleep(0.5)
        until(f"{node} free", lambda: self("", "GET", f"/v1/nodes/{node}", keep=False)[1]["reservation"] is None)

    def must(self, method, path, body=None):
        """Unrecorded: a step of the preparation, which has to work."""
        status, answer = self("", method, path, body, keep=False)
        if status >= 300:
            raise SystemExit(f"{method} {path} {body}: {status} {answer}")

    def state(self, node):
        return self("", "GET", f"/v1/nodes/{node}/states", keep=False)[1]["provision_state"]


def roots(ask):
    ask("the root as nobody in particular", "GET", "/", headers=None)
    for minor in (1, 31, 89, 115):
        ask(f"the v1 document at 1.{minor}", "GET", "/v1", headers=at(minor))
    ask("the v1 document without a version", "GET", "/v1/", headers=None)
    ask.save("root")


def versions(ask):
    key = "X-OpenStack-Ironic-API-Version"
    for value in ("1.1", "1.115", "latest", "1.116", "1.0", "2.1", "1", "one", "1.x", ""):
        ask(f"version {value!r}", "GET", "/v1/nodes", headers={key: value})
    ask("the version by its other header", "GET", "/v1/nodes", headers={"OpenStack-API-Version": "baremetal 1.50"})
    ask("the version of another service", "GET", "/v1/nodes", headers={"OpenStack-API-Version": "compute 2.50"})
    ask("no version", "GET", "/v1/nodes", headers=None)
    ask("a resource newer than the version", "GET", "/v1/conductors", headers=at(1))
    ask("a field newer than the version", "GET", "/v1/nodes?fields=uuid,fault", headers=at(31))
    ask("a filter newer than the version", "GET", "/v1/nodes?fault=x", headers=at(31))
    ask.save("versions")


def ordered(value):
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return [ordered(item) for item in value] if isinstance(value, list) else value


def others(ask):
    def drivers(name, path, headers=NEWEST):
        """Ironic says the interfaces of a driver in an order that changes from start to start."""
        ask(name, "GET", path, headers=headers)
        answer = ask.ironic.exchanges[-1]["response"]
        answer["body"] = ordered(answer["body"])

    for minor in (1, 30, 115):
        drivers(f"drivers at 1.{minor}", "/v1/drivers", at(minor))
    drivers("drivers in detail", "/v1/drivers?detail=True")
    drivers("one driver", "/v1/drivers/fake-hardware")
    ask("its properties", "GET", "/v1/drivers/fake-hardware/properties")
    ask("an unknown driver", "GET", "/v1/drivers/nothing")
    ask.save("drivers")
    ask("conductors", "GET", "/v1/conductors")
    ask("conductors in detail", "GET", "/v1/conductors?detail=True")
    ask("one conductor", "GET", "/v1/conductors/recorder")
    ask("an unknown conductor", "GET", "/v1/conductors/nobody")
    ask.save("conductors")


def nodes(ask):
    document = {
        "uuid": NODE,
        "name": "node-1",
        "driver": "fake-hardware",
        "driver_info": {"fake_password": "secret", "fake_address": "192.0.2.1"},
        "properties": {"cpu_arch": "x86_64"},
        "extra": {"rack": 7},
    }
    ask("create", "POST", "/v1/nodes", document)
    ask("create with what is needed only, at 1.1", "POST", "/v1/nodes", {"uuid": OLD, "driver": "fake-hardware"}, at(1))
    ask("create a second one", "POST", "/v1/nodes", {"uuid": SECOND, "driver": "fake-hardware"})
    for minor in (1, 5, 31, 89, 115):
        ask(f"a node at 1.{minor}", "GET", f"/v1/nodes/{NODE}", headers=at(minor))
    ask("a node by name", "GET", "/v1/nodes/node-1?fields=uuid,name")
    ask("the list at 1.1", "GET", "/v1/nodes", headers=at(1))
    ask("the list", "GET", "/v1/nodes")
    ask("the list, one to a page", "GET", "/v1/nodes?limit=1")
    ask("the list after a marker", "GET", f"/v1/nodes?limit=1&marker={NODE}")
    ask("chosen fields", "GET", "/v1/nodes?fields=uuid,name,driver")
    ask("by provision state", "GET", "/v1/nodes?provision_state=enroll&fields=uuid,provision_state")
    ask("by driver", "GET", "/v1/nodes?driver=nothing&fields=uuid")
    ask("sorted", "GET", "/v1/nodes?sort_key=uuid&sort_dir=desc&fields=uuid")
    ask("the detailed list", "GET", "/v1/nodes/detail?limit=1")
    ask("states at 1.1", "GET", f"/v1/nodes/{NODE}/states", headers=at(1))
    ask("states", "GET", f"/v1/nodes/{NODE}/states")
    ask("validate", "GET", f"/v1/nodes/{NODE}/validate")
    ask("patch", "PATCH", f"/v1/nodes/{NODE}", [
        {"op": "add", "path": "/extra/slot", "value": 3},
        {"op": "replace", "path": "/name", "value": "node-one"},
        {"op": "remove", "path": "/extra/rack"},
    ])
    ask("maintenance on", "PUT", f"/v1/nodes/{NODE}/maintenance", {"reason": "new fan"})
    ask("a node in maintenance", "GET", f"/v1/nodes/{NODE}?fields=maintenance,maintenance_reason,fault")
    ask("maintenance off", "DELETE", f"/v1/nodes/{NODE}/maintenance")
    ask("maintenance is off", "GET", f"/v1/nodes/{NODE}?fields=maintenance,maintenance_reason,fault")
    ask("boot device", "GET", f"/v1/nodes/{NODE}/management/boot_device")
    ask("supported boot devices", "GET", f"/v1/nodes/{NODE}/management/boot_device/supported")
    ask("inventory before any inspection", "GET", f"/v1/nodes/{NODE}/inventory")
    ask("history", "GET", f"/v1/nodes/{NODE}/history")
    ask("traits", "GET", f"/v1/nodes/{NODE}/traits")
    ask.save("nodes")


def ports(ask):
    ask("create", "POST", "/v1/ports", {"uuid": PORT, "node_uuid": NODE, "address": MAC.upper()})
    for minor in (1, 19, 115):
        ask(f"a port at 1.{minor}", "GET", f"/v1/ports/{PORT}", headers=at(minor))
    ask("the list", "GET", "/v1/ports")
    ask("in detail", "GET", "/v1/ports/detail")
    ask("by address", "GET", f"/v1/ports?address={MAC}")
    ask("by an address that is none", "GET", "/v1/ports?address=x")
    ask("by node", "GET", f"/v1/ports?node={NODE}")
    ask("of a node", "GET", f"/v1/nodes/{NODE}/ports")
    ask("patch", "PATCH", f"/v1/ports/{PORT}", [{"op": "replace", "path": "/pxe_enabled", "value": False}])
    ask("the address is taken", "POST", "/v1/ports", {"node_uuid": NODE, "address": MAC})
    ask("no such node", "POST", "/v1/ports", {"node_uuid": NOBODY, "address": "52:54:00:00:00:01"})
    ask("no address", "POST", "/v1/ports", {"node_uuid": NODE})
    ask("an address that is none", "POST", "/v1/ports", {"node_uuid": NODE, "address": "x"})
    ask("an unknown field", "POST", "/v1/ports", {"node_uuid": NODE, "address": "52:54:00:00:00:02", "colour": "red"})
    ask("no such port", "GET", f"/v1/ports/{NOBODY}")
    ask.save("ports")


def errors(ask):
    ask("no such node", "GET", f"/v1/nodes/{NOBODY}")
    ask("no such name", "GET", "/v1/nodes/nobody")
    ask("an impossible name", "GET", "/v1/nodes/a_b%20c")
    ask("no such path", "GET", "/v1/nonsense")
    ask("wrong method", "PUT", "/v1/nodes")
    ask("no driver", "POST", "/v1/nodes", {})
    ask("an unknown driver", "POST", "/v1/nodes", {"driver": "nothing"})
    ask("an unknown field", "POST", "/v1/nodes", {"driver": "fake-hardware", "colour": "red"})
    ask("a wrong type", "POST", "/v1/nodes", {"driver": "fake-hardware", "properties": "x"})
    ask("a list for a body", "POST", "/v1/nodes", [])
    ask("not JSON", "POST", "/v1/nodes", raw="{")
    ask("no body", "POST", "/v1/nodes")
    ask("the identifier is taken", "POST", "/v1/nodes", {"driver": "fake-hardware", "uuid": NODE})
    ask("the name is taken", "POST", "/v1/nodes", {"driver": "fake-hardware", "name": "node-one"})
    ask("a bad name", "POST", "/v1/nodes", {"driver": "fake-hardware", "name": "a b"})
    ask("an interface that the driver has not", "POST", "/v1/nodes", {"driver": "fake-hardware", "boot_interface": "x"})
    patch = f"/v1/nodes/{NODE}"
    ask("patch: no list", "PATCH", patch, {"op": "add"})
    ask("patch: operation test", "PATCH", patch, [{"op": "test", "path": "/name", "value": "x"}])
    ask("patch: an unknown operation", "PATCH", patch, [{"op": "jump", "path": "/name"}])
    ask("patch: not changeable", "PATCH", patch, [{"op": "replace", "path": "/provision_state", "value": "active"}])
    ask("patch: nothing to replace", "PATCH", patch, [{"op": "replace", "path": "/extra/none", "value": 1}])
    ask("patch: an unknown driver", "PATCH", patch, [{"op": "replace", "path": "/driver", "value": "nothing"}])
    ask("patch: no value", "PATCH", patch, [{"op": "add", "path": "/extra/a"}])
    ask("limit 0", "GET", "/v1/nodes?limit=0")
    ask("limit x", "GET", "/v1/nodes?limit=x")
    ask("an unknown query", "GET", "/v1/nodes?colour=red")
    ask("a bad sort key", "GET", "/v1/nodes?sort_key=colour")
    ask("a bad sort direction", "GET", "/v1/nodes?sort_dir=up")
    ask("fields and detail", "GET", "/v1/nodes?detail=True&fields=uuid")
    ask("an unknown provision state", "GET", "/v1/nodes?provision_state=nonsense")
    ask("an unknown marker", "GET", f"/v1/nodes?marker={NOBODY}")
    ask("maintenance of nobody", "PUT", f"/v1/nodes/{NOBODY}/maintenance", {})
    ask("boot device: unknown", "PUT", f"/v1/nodes/{NODE}/management/boot_device", {"boot_device": "tape"})
    ask("delete nobody", "DELETE", f"/v1/nodes/{NOBODY}")
    ask.save("errors")


def crud(ask, path, since, body, change, required, named=None):
    """What every resource has: create, show, list, patch, delete, and what it says to bad input."""
    one = f"{path}/{body['uuid']}"
    ask("create", "POST", path, body)
    ask("the identifier is taken", "POST", path, body)
    if named:
        ask("the name is taken", "POST", path, {**body, "uuid": FURTHER})
        ask("by name", "GET", f"{path}/{named}?fields=uuid")
    ask("show", "GET", one)
    ask("chosen fields", "GET", f"{one}?fields=uuid,created_at")
    ask("an unknown field", "GET", f"{one}?fields=uuid,colour")
    ask("the list", "GET", path)
    ask("the list, one to a page", "GET", f"{path}?limit=1&fields=uuid")
    ask("a marker that nobody has", "GET", f"{path}?marker={NOBODY}")
    ask("a limit that is none", "GET", f"{path}?limit=x")
    ask("an unknown query", "GET", f"{path}?colour=red")
    ask("patch", "PATCH", one, change)
    ask("patch: an unknown field", "PATCH", one, [{"op": "add", "path": "/colour", "value": "red"}])
    ask("patch: the identifier", "PATCH", one, [{"op": "replace", "path": "/uuid", "value": NOBODY}])
    ask("patch: nothing to remove", "PATCH", one, [{"op": "remove", "path": "/extra/none"}])
    ask("patch: no list", "PATCH", one, {})
    for name in required:
        less = {key: value for key, value in body.items() if key not in (name, "uuid")}
        ask(f"create without {name}", "POST", path, less)
        ask(f"create with {name} of a wrong type", "POST", path, {**less, name: {"a": 1}})
    ask("create with an unknown field", "POST", path, {**body, "uuid": FURTHER, "colour": "red"})
    ask("create with an identifier that is none", "POST", path, {**body, "uuid": "x"})
    ask("nobody's", "GET", f"{path}/{NOBODY}")
    ask("patch nobody's", "PATCH", f"{path}/{NOBODY}", change)
    ask("delete nobody's", "DELETE", f"{path}/{NOBODY}")
    ask("an identifier that is none", "GET", f"{path}/a%20b")
    if since > 1:
        ask("the list before there was one", "GET", path, headers=at(since - 1))
        ask("show before there was one", "GET", one, headers=at(since - 1))
        ask("create before there was one", "POST", path, body, at(since - 1))
        ask("patch before there was one", "PATCH", one, change, at(since - 1))
        ask("delete before there was one", "DELETE", one, headers=at(since - 1))
    ask("a method that there is not", "PUT", path, {})


EXTRA = [{"op": "add", "path": "/extra/a", "value": 1}]
STEP = {"interface": "deploy", "step": "erase_devices", "args": {"password": "secret"}}


def resources(ask):
    crud(ask, "/v1/chassis", 1, {"uuid": CHASSIS, "description": "rack 7", "extra": {}}, EXTRA, [])
    ask("its nodes", "GET", f"/v1/chassis/{CHASSIS}/nodes")
    ask("in detail", "GET", "/v1/chassis/detail")
    ask("a node in a chassis that there is not", "POST", "/v1/nodes", {"driver": "fake-hardware", "chassis_uuid": NOBODY})
    ask("put a node in it", "PATCH", f"/v1/nodes/{NODE}", [{"op": "add", "path": "/chassis_uuid", "value": CHASSIS}])
    ask("its nodes when it has one", "GET", f"/v1/chassis/{CHASSIS}/nodes")
    ask("delete with a node", "DELETE", f"/v1/chassis/{CHASSIS}")
    ask("take the node out", "PATCH", f"/v1/nodes/{NODE}", [{"op": "remove", "path": "/chassis_uuid"}])
    ask("delete", "DELETE", f"/v1/chassis/{CHASSIS}")
    ask.save("chassis")

    group = {"uuid": GROUP, "node_uuid": NODE, "name": "bond-1", "address": "52:54:00:00:00:70"}
    crud(ask, "/v1/portgroups", 23, group, EXTRA, ["node_uuid"], named="bond-1")
    ask("of a node that nobody has", "POST", "/v1/portgroups", {"node_uuid": NOBODY})
    ask("an address that is none", "POST", "/v1/portgroups", {"node_uuid": NODE, "address": "x"})
    ask("the address is taken", "POST", "/v1/portgroups", {"node_uuid": NODE, "address": "52:54:00:00:00:70"})
    ask("a bad name", "POST", "/v1/portgroups", {"node_uuid": NODE, "name": "a b"})
    ask("by node", "GET", f"/v1/portgroups?node={NODE}")
    ask("by address", "GET", "/v1/portgroups?address=52:54:00:00:00:70")
    ask("in detail", "GET", "/v1/portgroups/detail")
    ask("of the node", "GET", f"/v1/nodes/{NODE}/portgroups")
    ask("its ports", "GET", f"/v1/portgroups/{GROUP}/ports")
    ask("put a port in it", "PATCH", f"/v1/ports/{PORT}", [{"op": "add", "path": "/portgroup_uuid", "value": GROUP}])
    ask("its ports when it has one", "GET", f"/v1/portgroups/{GROUP}/ports")
    ask("delete with a port", "DELETE", f"/v1/portgroups/{GROUP}")
    ask("take the port out", "PATCH", f"/v1/ports/{PORT}", [{"op": "remove", "path": "/portgroup_uuid"}])
    ask("delete", "DELETE", f"/v1/portgroups/{GROUP}")
    ask.save("portgroups")

    connector = {"uuid": RECORD, "node_uuid": NODE, "type": "iqn", "connector_id": "iqn.2017-07.org.example:1"}
    ask("the root of volumes", "GET", "/v1/volume")
    ask("volumes of a node", "GET", f"/v1/nodes/{NODE}/volume")
    crud(ask, "/v1/volume/connectors", 32, connector, EXTRA, ["node_uuid", "type", "connector_id"])
    ask("the same connector again", "POST", "/v1/volume/connectors", {**connector, "uuid": FURTHER})
    ask("connectors of the node", "GET", f"/v1/nodes/{NODE}/volume/connectors")
    ask("delete while the power is unknown", "DELETE", f"/v1/volume/connectors/{RECORD}")
    ask.save("volume_connectors")
    target = {"uuid": RECORD, "node_uuid": NODE, "volume_type": "iscsi", "boot_index": 0, "volume_id": "v1"}
    crud(ask, "/v1/volume/targets", 32, target, EXTRA, ["node_uuid", "volume_type", "boot_index", "volume_id"])
    ask("the same boot index again", "POST", "/v1/volume/targets", {**target, "uuid": FURTHER})
    ask("targets of the node", "GET", f"/v1/nodes/{NODE}/volume/targets")
    ask("delete while the power is unknown", "DELETE", f"/v1/volume/targets/{RECORD}")
    ask.save("volume_targets")

    template = {"uuid": RECORD, "name": "CUSTOM_ONE", "steps": [{**STEP, "priority": 10}]}
    crud(ask, "/v1/deploy_templates", 55, template, EXTRA, ["name", "steps"], named="CUSTOM_ONE")
    less = {"name": "CUSTOM_TWO"}
    ask("a name that is no trait", "POST", "/v1/deploy_templates", {**template, "uuid": FURTHER, "name": "one"})
    ask("no steps", "POST", "/v1/deploy_templates", {**less, "steps": []})
    ask("a step twice", "POST", "/v1/deploy_templates", {**less, "steps": [{**STEP, "priority": 10}] * 2})
    ask("a step of no interface", "POST", "/v1/deploy_templates", {**less, "steps": [{**STEP, "priority": 1, "interface": "x"}]})
    ask("a step without priority", "POST", "/v1/deploy_templates", {**less, "steps": [STEP]})
    ask("a negative priority", "POST", "/v1/deploy_templates", {**less, "steps": [{**STEP, "priority": -1}]})
    ask("patch: a step", "PATCH", f"/v1/deploy_templates/{RECORD}",
        [{"op": "replace", "path": "/steps/0/priority", "value": 20}])
    ask("delete", "DELETE", f"/v1/deploy_templates/{RECORD}")
    ask.save("deploy_templates")

    runbook = {"uuid": RECORD, "name": "CUSTOM_BOOK", "steps": [{**STEP, "order": 1}]}
    crud(ask, "/v1/runbooks", 92, runbook, EXTRA, ["name", "steps"], named="CUSTOM_BOOK")
    ask("a free name", "POST", "/v1/runbooks", {**runbook, "uuid": FURTHER, "name": "book-2"})
    ask("a free name before 1.112", "POST", "/v1/runbooks", {"name": "book-3", "steps": runbook["steps"]}, at(111))
    ask("a step without order", "POST", "/v1/runbooks", {"name": "CUSTOM_X", "steps": [STEP]})
    traits = f"/v1/runbooks/{RECORD}/traits"
    ask("traits", "GET", traits)
    ask("set traits", "PUT", traits, {"traits": ["CUSTOM_A", "CUSTOM_B"]})
    ask("set a trait that is none", "PUT", traits, {"traits": ["small"]})
    ask("add a trait", "PUT", f"{traits}/CUSTOM_C")
    ask("remove a trait", "DELETE", f"{traits}/CUSTOM_A")
    ask("remove it again", "DELETE", f"{traits}/CUSTOM_A")
    ask("traits now", "GET", traits)
    ask("delete", "DELETE", f"/v1/runbooks/{RECORD}")
    ask("delete the other", "DELETE", f"/v1/runbooks/{FURTHER}")
    ask.save("runbooks")

    rule = {
        "uuid": RECORD,
        "description": "more memory",
        "priority": 5,
        "conditions": [{"op": "eq", "args": {"values": ["{node.driver}", "x"]}}],
        "actions": [{"op": "set-attribute", "args": {"path": "/extra/rule", "value": "yes"}}],
    }
    change = [{"op": "replace", "path": "/priority", "value": 6}]
    crud(ask, "/v1/inspection_rules", 96, rule, change, ["actions"])
    bare = {"actions": rule["actions"]}
    ask("an action that there is not", "POST", "/v1/inspection_rules", {"actions": [{"op": "jump", "args": {}}]})
    ask("a condition that there is not", "POST", "/v1/inspection_rules", {**bare, "conditions": [{"op": "x", "args": {}}]})
    ask("an argument is missing", "POST", "/v1/inspection_rules", {"actions": [{"op": "set-attribute", "args": {"path": "/x"}}]})
    ask("an argument too many", "POST", "/v1/inspection_rules", {"actions": [{"op": "fail", "args": {"msg": "x", "y": 1}}]})
    ask("a negative priority", "POST", "/v1/inspection_rules", {**bare, "priority": -1})
    ask("a phase that there is not", "POST", "/v1/inspection_rules", {**bare, "phase": "late"})
    ask("delete", "DELETE", f"/v1/inspection_rules/{RECORD}")
    ask.save("inspection_rules")

    allocations = "/v1/allocations"
    claim = {"uuid": RECORD, "name": "claim-1", "resource_class": "nobody-has-it", "traits": ["CUSTOM_A"]}
    ask("create", "POST", allocations, claim)
    until("the allocation failed", lambda: ask("", "GET", f"{allocations}/{RECORD}", keep=False)[1]["state"] == "error")
    ask("the identifier is taken", "POST", allocations, claim)
    ask("the name is taken", "POST", allocations, {**claim, "uuid": FURTHER})
    ask("no resource class", "POST", allocations, {})
    ask("a trait that is none", "POST", allocations, {**claim, "uuid": FURTHER, "name": "x", "traits": ["small"]})
    ask("a bad name", "POST", allocations, {"resource_class": "x", "name": "a b"})
    ask("a candidate that nobody has", "POST", allocations, {"resource_class": "x", "candidate_nodes": [NOBODY]})
    ask("a node that nobody has", "POST", allocations, {"node": NOBODY})
    ask("a node before 1.58", "POST", allocations, {"node": NODE}, at(57))
    ask("an owner before 1.60", "POST", allocations, {"resource_class": "x", "owner": "me"}, at(59))
    ask("an unknown field", "POST", allocations, {"resource_class": "x", "colour": "red"})
    ask("show", "GET", f"{allocations}/{RECORD}?fields=uuid,name,resource_class,traits")
    ask("by name", "GET", f"{allocations}/claim-1?fields=uuid")
    ask("of a class", "GET", f"{allocations}?resource_class=x")
    ask("of a node", "GET", f"{allocations}?node={NODE}")
    ask("of a node that nobody has", "GET", f"{allocations}?node={NOBODY}")
    ask("of the node, from the node", "GET", f"/v1/nodes/{NODE}/allocation")
    ask("delete of the node, from the node", "DELETE", f"/v1/nodes/{NODE}/allocation")
    ask("patch what cannot be", "PATCH", f"{allocations}/{RECORD}",
        [{"op": "replace", "path": "/resource_class", "value": "x"}])
    ask("before there were any", "GET", allocations, headers=at(51))
    ask("create before there were any", "POST", allocations, claim, at(51))
    ask("patch before it could be", "PATCH", f"{allocations}/{RECORD}", EXTRA, at(56))
    ask("nobody's", "GET", f"{allocations}/{NOBODY}")
    ask("delete", "DELETE", f"{allocations}/{RECORD}")
    ask("delete it again", "DELETE", f"{allocations}/{RECORD}")
    ask.save("allocations")


def devices(ask):
    """What hangs off a node's hardware, with the fake interfaces."""
    node = f"/v1/nodes/{NODE}"
    ask("vifs", "GET", f"{node}/vifs")
    ask("vifs before there were any", "GET", f"{node}/vifs", headers=at(27))
    ask("attach a vif", "POST", f"{node}/vifs", {"id": NOBODY})
    ask("attach a vif to two places", "POST", f"{node}/vifs", {"id": NOBODY, "port_uuid": PORT, "portgroup_uuid": GROUP})
    ask("attach nothing", "POST", f"{node}/vifs", {})
    ask("detach a vif", "DELETE", f"{node}/vifs/{NOBODY}")
    media = {"device_type": "cdrom", "image_url": "http://192.0.2.1/boot.iso"}
    ask("virtual media: a device that is none", "POST", f"{node}/vmedia", {**media, "device_type": "tape"})
    ask("virtual media: a scheme that is none", "POST", f"{node}/vmedia", {**media, "image_url": "ftp://x/y"})
    ask("virtual media: no image", "POST", f"{node}/vmedia", {"device_type": "cdrom"})
    ask("virtual media before there was any", "POST", f"{node}/vmedia", media, at(88))
    ask("virtual media: detach a device that is none", "DELETE", f"{node}/vmedia?device_types=tape")
    ask("bios", "GET", f"{node}/bios")
    ask("bios in detail before 1.74", "GET", f"{node}/bios?detail=True", headers=at(73))
    ask("a bios setting", "GET", f"{node}/bios/virtualization")
    ask("firmware", "GET", f"{node}/firmware")
    ask("firmware before there was any", "GET", f"{node}/firmware", headers=at(85))
    ask("indicators", "GET", f"{node}/management/indicators")
    ask("an indicator", "GET", f"{node}/management/indicators/led@system")
    ask("an indicator that there is not", "GET", f"{node}/management/indicators/led@moon")
    ask("indicators before there were any", "GET", f"{node}/management/indicators", headers=at(62))
    ask("boot mode: one that is none", "PUT", f"{node}/states/boot_mode", {"target": "floppy"})
    ask("boot mode before it could be set", "PUT", f"{node}/states/boot_mode", {"target": "uefi"}, at(75))
    ask("secure boot: neither on nor off", "PUT", f"{node}/states/secure_boot", {"target": "perhaps"})
    ask("children", "GET", f"{node}/children")
    ask("shards", "GET", "/v1/shards")
    ask("shards before there were any", "GET", "/v1/shards", headers=at(81))
    event = {"event": "network.bind_port", "port_id": NOBODY, "mac_address": MAC, "status": "ACTIVE"}
    ask("an event", "POST", "/v1/events", {"events": [event]})
    ask("no events", "POST", "/v1/events", {"events": []})
    ask("an event that there is not", "POST", "/v1/events", {"events": [{**event, "event": "network.jump"}]})
    ask("an event without a port", "POST", "/v1/events", {"events": [{"event": "network.bind_port"}]})
    ask("events before there were any", "POST", "/v1/events", {"events": [event]}, at(53))
    ask("vendor passthru of nobody", "POST", f"/v1/nodes/{NOBODY}/vendor_passthru/x", {})
    ask("filters that find nothing", "GET",
        "/v1/nodes?shard=x&parent_node=&instance_name=y&fields=uuid")
    ask("unsharded", "GET", "/v1/nodes?sharded=False&fields=uuid")
    ask("of another conductor", "GET", "/v1/nodes?conductor=elsewhere&fields=uuid")
    ask("a shard before there were any", "GET", "/v1/nodes?shard=x", headers=at(81))
    ask("ports of a shard", "GET", "/v1/ports?shard=x")
    ask.save("devices")


def provision(ask):
    path = f"/v1/nodes/{NODE}/states/provision"
    verbs = ["active", "deploy", "deleted", "undeploy", "rebuild", "provide", "inspect", "abort", "adopt", "unrescue", "unhold"]
    for verb in verbs:
        ask(f"{verb} while enroll", "PUT", path, {"target": verb})
    ask("clean without steps", "PUT", path, {"target": "clean"})
    ask("clean while enroll", "PUT", path, {"target": "clean", "clean_steps": [{"interface": "deploy", "step": "x"}]})
    ask("service while enroll", "PUT", path, {"target": "service", "service_steps": [{"interface": "deploy", "step": "x"}]})
    ask("rescue without a password", "PUT", path, {"target": "rescue"})
    ask("rescue while enroll", "PUT", path, {"target": "rescue", "rescue_password": "x"})
    ask("an unknown verb", "PUT", path, {"target": "jump"})
    ask("no verb", "PUT", path, {})
    ask("a verb newer than the version", "PUT", path, {"target": "manage"}, at(1))
    ask("a key newer than the version", "PUT", path, {"target": "active", "deploy_steps": []}, at(31))
    ask("an unknown key", "PUT", path, {"target": "manage", "colour": "red"})
    ask("nobody's verb", "PUT", f"/v1/nodes/{NOBODY}/states/provision", {"target": "manage"})
    ask("manage", "PUT", path, {"target": "manage"})
    until("manageable", lambda: ask.state(NODE) == "manageable")
    ask("states when manageable", "GET", f"/v1/nodes/{NODE}/states")
    ask("active while manageable", "PUT", path, {"target": "active"})
    ask("config drive with rescue", "PUT", path, {"target": "provide", "configdrive": "x"})
    ask("clean with steps that are no list", "PUT", path, {"target": "clean", "clean_steps": {}})
    ask("clean with a step that nobody has", "PUT", path,
        {"target": "clean", "clean_steps": [{"interface": "nobody", "step": "x"}]})
    ask.save("provision")
    power = f"/v1/nodes/{NODE}/states/power"
    ask("power on", "PUT", power, {"target": "power on"})
    until("power", lambda: ask("", "GET", f"/v1/nodes/{NODE}/states", keep=False)[1]["power_state"] == "power on")
    ask("states with power", "GET", f"/v1/nodes/{NODE}/states")
    ask("a target that is none", "PUT", power, {"target": "explode"})
    ask("no target", "PUT", power, {})
    ask("a soft target newer than the version", "PUT", power, {"target": "soft power off"}, at(26))
    ask("a timeout that is none", "PUT", power, {"target": "power off", "timeout": 0})
    ask.save("power")


def agent(ask):
    """Look-up and heartbeat, before, in and after automated cleaning with the direct deploy interface."""
    ask.free(NODE)
    lookup = f"/v1/lookup?addresses={MAC}"
    beat = f"/v1/heartbeat/{NODE}"
    good = {"callback_url": "https://127.0.0.1:1", "agent_version": "13.0.0", "agent_token": "x" * 43}

    ask("the version is too old", "GET", lookup, headers=at(21))
    ask("nothing given", "GET", "/v1/lookup")
    ask("nothing valid given", "GET", "/v1/lookup?addresses=x,y")
    ask("an unknown address", "GET", "/v1/lookup?addresses=52:54:00:ff:ff:ff")
    ask("an unknown node", "GET", f"/v1/lookup?node_uuid={NOBODY}")
    ask("an identifier that is none", "GET", "/v1/lookup?node_uuid=x")
    ask("an unknown query", "GET", f"{lookup}&colour=red")
    ask("a node that expects nobody", "GET", lookup)

    beats = ask.ironic.take
    lookups = beats()
    ask("the version is too old", "POST", beat, good, at(21))
    ask("nobody's heartbeat", "POST", f"/v1/heartbeat/{NOBODY}", good)
    ask("an identifier that is none", "POST", "/v1/heartbeat/a%20b", good)
    ask("an unexpected key", "POST", beat, {**good, "colour": "red"})
    ask("no callback_url", "POST", beat, {k: v for k, v in good.items() if k != "callback_url"})
    ask("a callback_url of another scheme", "POST", beat, {**good, "callback_url": "ftp://127.0.0.1"})
    ask("a callback_url that is no URL", "POST", beat, {**good, "callback_url": "x"})
    ask("no agent_version", "POST", beat, {k: v for k, v in good.items() if k != "agent_version"})
    ask("no token", "POST", beat, {k: v for k, v in good.items() if k != "agent_token"})
    ask("a token when the node has none", "POST", beat, good)
    ask("agent_version is newer than the version", "POST", beat, {k: v for k, v in good.items() if k != "agent_token"}, at(35))
    ask("agent_token is newer than the version", "POST", beat, good, at(61))
    ask("agent_verify_ca is newer than the version", "POST", beat, {**good, "agent_verify_ca": "x"}, at(67))
    ask("agent_status is newer than the version", "POST", beat, {**good, "agent_status": "end"}, at(71))
    ask("an agent_status that is none", "POST", beat, {**good, "agent_status": "asleep"})
    ask("not JSON", "POST", beat, raw="{")
    heartbeats = beats()

    ask.must("PATCH", f"/v1/nodes/{NODE}", [{"op": "replace", "path": "/deploy_interface", "value": "direct"}])
    ask.provision(NODE, "provide", "clean wait")
    ask("a node that is cleaned, at a version without tokens", "GET", lookup, headers=at(61))
    # The first look-up gives the token, so it is recorded by hand with the token replaced.
    status, answer = ask("", "GET", lookup, keep=False)
    token = (answer or {}).get("config", {}).get("agent_token")
    if status != 200 or not token:
        raise SystemExit(f"the first look-up gave no token: {status} {answer}")
    ask.ironic.replace[token] = TOKEN_NAME
    ask.ironic.exchanges.append(ask.ironic.tidy({
        "name": "the first look-up of a node that is cleaned",
        "request": {"method": "GET", "path": lookup, "headers": NEWEST},
        "response": {"status": status, "headers": {"content-type": "application/json"}, "body": answer},
        "token_length": len(token),
    }))
    ask("the second look-up", "GET", lookup)
    ask("by identifier, with addresses of nobody", "GET", f"/v1/lookup?node_uuid={NODE}&addresses=52:54:00:ff:ff:ff")
    ask("by an upper case address among unknown ones", "GET", f"/v1/lookup?addresses=52:54:00:ff:ff:ff,{MAC.upper()}")
    ask("at a version without tokens, when there is one", "GET", lookup, headers=at(61))
    ask("with the newest version by name", "GET", lookup, headers={"X-OpenStack-Ironic-API-Version": "latest"})
    ask("without a version", "GET", lookup, headers=None)
    lookups += beats()

    good["agent_token"] = token
    ask("a wrong token", "POST", beat, {**good, "agent_token": "x" * 43})
    ask("callback without TLS", "POST", beat, {**good, "callback_url": "http://127.0.0.1:1"})
    # In maintenance a heartbeat is taken down and the conductor does not call the agent back.
    ask.must("PUT", f"/v1/nodes/{NODE}/maintenance", {})
    ask("accepted", "POST", beat, {**good, "agent_verify_ca": "-----BEGIN CERTIFICATE-----\nONE\n-----END CERTIFICATE-----\n"})
    until("the heartbeat is taken down", lambda: "agent_url" in
          ask("", "GET", f"/v1/nodes/{NODE}", keep=False)[1]["driver_internal_info"])
    ask.free(NODE)
    ask("another callback_url", "POST", beat, {**good, "callback_url": "https://127.0.0.2:1"})
    ask("another certificate", "POST", beat, {**good, "agent_verify_ca": "-----BEGIN CERTIFICATE-----\nTWO\n-----END CERTIFICATE-----\n"})
    ask("by name", "POST", "/v1/heartbeat/node-one", good)
    ask("what the node remembers", "GET", f"/v1/nodes/{NODE}?fields=driver_internal_info,provision_state,target_provision_state")
    heartbeats += beats()
    ask.free(NODE)

    provision = f"/v1/nodes/{NODE}/states/provision"
    for verb in ("manage", "provide", "active", "deleted", "inspect"):
        ask(f"{verb} while clean wait", "PUT", provision, {"target": verb})
    ask("patch while clean wait", "PATCH", f"/v1/nodes/{NODE}", [{"op": "add", "path": "/extra/x", "value": 1}])
    ask("states while clean wait", "GET", f"/v1/nodes/{NODE}/states")
    ask.must("DELETE", f"/v1/nodes/{NODE}/maintenance")
    ask("delete while clean wait", "DELETE", f"/v1/nodes/{NODE}")
    ask("abort", "PUT", provision, {"target": "abort"})
    until("clean failed", lambda: ask.state(NODE) == "clean failed")
    ask.free(NODE)
    ask("states after the abort", "GET", f"/v1/nodes/{NODE}/states")
    ask("patch while clean failed", "PATCH", f"/v1/nodes/{NODE}", [{"op": "add", "path": "/extra/x", "value": 1}])
    ask("provide while clean failed", "PUT", provision, {"target": "provide"})
    ask("manage", "PUT", provision, {"target": "manage"})
    until("manageable", lambda: ask.state(NODE) == "manageable")
    ask("maintenance after the abort", "GET", f"/v1/nodes/{NODE}?fields=maintenance,fault,last_error,provision_state")
    states = beats()

    ask("a look-up after all is over", "GET", lookup)
    lookups += beats()
    ask("a heartbeat after all is over", "POST", beat, good)
    heartbeats += beats()
    for name, exchanges in (("lookup", lookups), ("heartbeat", heartbeats), ("states", states)):
        ask.ironic.exchanges = exchanges
        ask.save(name)


def locked(ask):
    """What a node says while the conductor works on it: an inspection by the fake interface, which takes its time."""
    ask.must("PATCH", f"/v1/nodes/{SECOND}", [{"op": "replace", "path": "/inspect_interface", "value": "fake"}])
    ask.provision(SECOND, "manage", "manageable")
    ask.must("PUT", f"/v1/nodes/{SECOND}/states/provision", {"target": "inspect"})
    ask("a node that is worked on", "GET", f"/v1/nodes/{SECOND}?fields=reservation,provision_state,target_provision_state")
    ask("patch", "PATCH", f"/v1/nodes/{SECOND}", [{"op": "add", "path": "/extra/x", "value": 1}])
    ask("abort", "PUT", f"/v1/nodes/{SECOND}/states/provision", {"target": "abort"})
    ask("power", "PUT", f"/v1/nodes/{SECOND}/states/power", {"target": "power on"})
    ask("a look-up that would have to make a token", "GET", f"/v1/lookup?node_uuid={SECOND}")
    ask("maintenance", "PUT", f"/v1/nodes/{SECOND}/maintenance", {})
    ask("delete", "DELETE", f"/v1/nodes/{SECOND}")
    if ask.state(SECOND) != "inspecting":
        raise SystemExit("the inspection was over before all was asked; raise inspect_delay")
    ask.save("locked")


def continue_inspection(ask):
    path = "/v1/continue_inspection"
    body = {"inventory": {"interfaces": [{"name": "eth0", "mac_address": "52:54:00:ff:ff:ff"}]}}
    ask("a machine that nobody knows", "POST", path, body, headers=None)
    ask("the same at 1.84", "POST", path, body, headers=at(84))
    ask("a version between", "POST", path, body, headers=at(50))
    ask("no inventory", "POST", path, {}, headers=None)
    ask("no interfaces", "POST", path, {"inventory": {}}, headers=None)
    ask("not JSON", "POST", path, raw="{", headers=None)
    ask("a list", "POST", path, [], headers=None)
    ask("a node that is not inspected", "POST", path,
        {"inventory": {"interfaces": [{"name": "eth0", "mac_address": MAC}]}}, headers=None)
    ask.free(NODE)
    ask.must("PATCH", f"/v1/nodes/{NODE}", [{"op": "replace", "path": "/inspect_interface", "value": "agent"}])
    ask.provision(NODE, "inspect", "inspect wait")
    known = {
        "inventory": {
            "interfaces": [{"name": "eth0", "mac_address": MAC, "ipv4_address": "192.0.2.9", "has_carrier": True}],
            "cpu": {"count": 2, "architecture": "x86_64"},
            "memory": {"physical_mb": 1024},
            "disks": [{"name": "/dev/vda", "size": 10 * 1024**3, "model": "m", "rotational": False}],
            "boot": {"current_boot_mode": "uefi"},
            "system_vendor": {"product_name": "p", "serial_number": "s", "manufacturer": "m"},
        },
        "boot_interface": "01-" + MAC.replace(":", "-"),
        "error": None,
        "colour": "red",
    }
    ask("the machine that was expected", "POST", path, known, headers=None)
    until("manageable", lambda: ask.state(NODE) == "manageable")
    ask("what was found", "GET", f"/v1/nodes/{NODE}/inventory")
    ask("properties after the inspection", "GET", f"/v1/nodes/{NODE}?fields=properties,last_error,provision_state")
    ask.save("continue_inspection")


def deletion(ask):
    ask("delete a port", "DELETE", f"/v1/ports/{PORT}")
    ask("delete it again", "DELETE", f"/v1/ports/{PORT}")
    ask("delete a node", "DELETE", f"/v1/nodes/{NODE}")
    ask("delete a node at 1.1", "DELETE", f"/v1/nodes/{OLD}", headers=at(1))
    ask.save("deletion")


def passthru(ask):
    """RAID properties of drivers, and calls of vendors' methods, which the fake interfaces have."""
    ask("RAID properties", "GET", "/v1/drivers/fake-hardware/raid/logical_disk_properties")
    # What any RAID interface of Ironic describes: served by ferricd from this copy.
    with open(ask.output.parents[1] / "src/api/raid_properties.json", "w", encoding="utf-8") as out:
        json.dump(ask.ironic.exchanges[-1]["response"]["body"], out, indent=1, ensure_ascii=False)
        out.write("\n")
    ask("RAID properties at 1.11", "GET", "/v1/drivers/fake-hardware/raid/logical_disk_properties", headers=at(11))
    ask("RAID properties of no driver", "GET", "/v1/drivers/nothing/raid/logical_disk_properties")
    ask.must("POST", "/v1/nodes", {"uuid": HOST, "driver": "fake-hardware", "vendor_interface": "no-vendor"})
    node = f"/v1/nodes/{HOST}/vendor_passthru"
    ask("methods of a node", "GET", f"{node}/methods")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        ask(f"{method} a method of a node", method, f"{node}/erase", None if method == "GET" else {})
        ask(f"{method} a method of a node by the query", method, f"{node}?method=erase", None if method == "GET" else {})
    ask("no method of a node", "POST", node, {})
    driver = "/v1/drivers/fake-hardware/vendor_passthru"
    ask("POST a method of a driver", "POST", f"{driver}/erase", {})
    ask("POST a method of a driver by the query", "POST", f"{driver}?method=erase", {})
    ask("no method of a driver", "POST", driver, {})
    ask.must("DELETE", f"/v1/nodes/{HOST}")
    ask.save("passthru")


def metal3(ask):
    """What Metal3's operator asks for a host from its registration to its end, in its order and at its version."""
    def bmo(name, method, path, body=None):
        ask(name, method, path, body, headers=at(89))

    def reach(state, *also):
        """Unrecorded waits; what is recorded is what was there then."""
        until(f"{HOST} {state}", lambda: ask.state(HOST) == state)
        ask.free(HOST)
        fields = ",".join(["provision_state", "target_provision_state", "last_error", "maintenance", *also])
        bmo(f"wait: {state}", "GET", f"/v1/nodes/{HOST}?fields={fields}")

    node = f"/v1/nodes/{HOST}"
    bmo("which versions there are", "GET", "/v1")
    bmo("whether the driver is ready", "GET", "/v1/drivers")
    bmo("the host by its UUID, before it is there", "GET", node)
    bmo("the host by its name, before it is there", "GET", "/v1/nodes/metal3~host-1")
    bmo("who has its address", "GET", f"/v1/ports?address={HOST_MAC}&fields=node_uuid,address")
    bmo("register", "POST", "/v1/nodes", {
        "uuid": HOST, "name": "metal3~host-1", "driver": "fake-hardware", "bios_interface": "no-bios",
        "boot_interface": "fake", "deploy_interface": "fake", "firmware_interface": "no-firmware",
        "inspect_interface": "fake", "management_interface": "fake", "power_interface": "fake",
        "raid_interface": "no-raid", "vendor_interface": "no-vendor",
        "driver_info": {"fake_address": "192.0.2.7", "fake_password": "secret", "force_persistent_boot_device": "Default"},
        "properties": {"capabilities": "boot_mode:uefi", "cpu_arch": "x86_64"},
    })
    bmo("register again", "POST", "/v1/nodes", {"name": "metal3~host-1", "driver": "fake-hardware"})
    bmo("a newer field than the version", "POST", "/v1/nodes", {"driver": "fake-hardware", "disable_power_off": True})
    bmo("a port", "POST", "/v1/ports", {"uuid": HOST_PORT, "node_uuid": HOST, "address": HOST_MAC, "pxe_enabled": True})
    bmo("ports of the host", "GET", f"/v1/ports?node_uuid={HOST}")
    bmo("who has its address now", "GET", f"/v1/ports?address={HOST_MAC}&fields=node_uuid,address")
    bmo("the host by its name", "GET", "/v1/nodes/metal3~host-1")
    bmo("validate", "GET", f"{node}/validate")
    bmo("manage", "PUT", f"{node}/states/provision", {"target": "manage"})
    reach("manageable", "power_state")
    bmo("update", "PATCH", node, [
        {"op": "add", "path": "/properties/root_device", "value": {"serial": "s== 1"}},
        {"op": "add", "path": "/automated_clean", "value": False},
        {"op": "replace", "path": "/driver_info/fake_address", "value": "192.0.2.8"},
    ])
    bmo("the inventory, before there is one", "GET", f"{node}/inventory")
    bmo("inspect", "PUT", f"{node}/states/provision", {"target": "inspect"})
    reach("manageable")
    bmo("BIOS settings", "GET", f"{node}/bios?detail=true")
    bmo("firmware", "GET", f"{node}/firmware")
    bmo("RAID, which there is not", "PUT", f"{node}/states/raid", {"logical_disks": []})
    bmo("network data", "PATCH", node, [{"op": "add", "path": "/network_data", "value": {"links": [], "networks": [], "services": []}}])
    bmo("clean without steps", "PUT", f"{node}/states/provision", {"target": "clean"})
    bmo("provide", "PUT", f"{node}/states/provision", {"target": "provide"})
    reach("available")
    bmo("what to deploy", "PATCH", node, [
        {"op": "add", "path": "/instance_info/image_source", "value": "http://192.0.2.1/image.raw"},
        {"op": "add", "path": "/instance_info/image_os_hash_algo", "value": "sha256"},
        {"op": "add", "path": "/instance_info/image_os_hash_value", "value": "0" * 64},
        {"op": "add", "path": "/instance_info/image_checksum", "value": "0" * 64},
        {"op": "add", "path": "/instance_info/image_disk_format", "value": "raw"},
        {"op": "add", "path": "/instance_info/capabilities", "value": {}},
        {"op": "add", "path": "/instance_uuid", "value": INSTANCE},
    ])
    bmo("validate before the deployment", "GET", f"{node}/validate")
    bmo("deploy", "PUT", f"{node}/states/provision", {"target": "active", "configdrive": {
        "meta_data": {"uuid": HOST, "local-hostname": "host-1"}, "user_data": "#cloud-config\n", "network_data": {}}})
    reach("active", "power_state", "instance_info", "instance_uuid")
    bmo("deploy what is deployed", "PUT", f"{node}/states/provision", {"target": "active"})
    bmo("service without steps", "PUT", f"{node}/states/provision", {"target": "service"})
    bmo("soft power off", "PUT", f"{node}/states/power", {"target": "soft power off", "timeout": 180})
    until("power off", lambda: ask("", "GET", f"{node}/states", keep=False)[1]["power_state"] == "power off")
    reach("active", "power_state")
    bmo("power on", "PUT", f"{node}/states/power", {"target": "power on"})
    until("power on", lambda: ask("", "GET", f"{node}/states", keep=False)[1]["power_state"] == "power on")
    reach("active", "power_state")
    bmo("maintenance on", "PUT", f"{node}/maintenance", {"reason": "unhealthy"})
    bmo("maintenance off", "DELETE", f"{node}/maintenance")
    bmo("deprovision", "PUT", f"{node}/states/provision", {"target": "deleted"})
    reach("available", "instance_info", "instance_uuid")
    bmo("adopt what is no more", "PUT", f"{node}/states/provision", {"target": "adopt"})
    bmo("virtual media, which came later", "GET", f"{node}/vmedia")
    bmo("maintenance before the end", "PUT", f"{node}/maintenance", {"reason": "deleted"})
    bmo("delete", "DELETE", node)
    bmo("delete it again", "DELETE", node)
    ask.save("metal3")


def main(output):
    binaries = pathlib.Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="record-ironic-") as folder:
        port = free_port()
        config = pathlib.Path(folder, "ironic.conf")
        config.write_text(CONFIG.format(folder=folder, port=port))
        pathlib.Path(folder, "certificates").mkdir()
        environment = {**os.environ, "no_proxy": "127.0.0.1"}
        subprocess.run(
            [binaries / "ironic-dbsync", "--config-file", config, "create_schema"],
            check=True, env=environment, stderr=subprocess.DEVNULL)
        with open(pathlib.Path(folder, "console.log"), "wb") as console:
            server = subprocess.Popen(
                [binaries / "ironic", "--config-file", config],
                stdout=console, stderr=console, env=environment, start_new_session=True)
        try:
            ask = Recording(port, folder, pathlib.Path(output))
            until("ironic with a conductor",
                  lambda: ask("", "GET", "/v1/drivers", keep=False)[1].get("drivers"), 120)
            for part in (roots, versions, others, nodes, ports, errors, resources, devices, provision, agent, continue_inspection, deletion, locked,
                         passthru, metal3):
                print(part.__name__, file=sys.stderr)
                part(ask)
        except BaseException:
            log = pathlib.Path(folder, "ironic.log")
            if log.exists():
                lines = [line for line in log.read_text().splitlines() if " INFO ironic.api " not in line]
                sys.stderr.write("\n".join(lines[-60:]) + "\n")
            raise
        finally:
            # Its workers survive their master otherwise; the session is ours alone.
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT-FOLDER")
    main(sys.argv[1])
