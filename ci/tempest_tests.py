#!/usr/bin/env python3
"""Runs the API tests of ironic-tempest-plugin against an Ironic or a ferricd that believes everybody.

    VENV/bin/python ci/tempest_tests.py URL [PART…]

VENV has ci/python/tempest.txt. The tests are those of the package, unchanged. They want a Keystone to log in at and to learn
from where bare metal is; what answers them here is a stand-in that lets everybody in and whose catalogue has URL alone. The
tests then ask URL directly. PART: only tests whose names contain one of them.
"""

import http.server
import importlib
import json
import os
import pathlib
import pkgutil
import sys
import tempfile
import threading
import unittest

SUITE = "ironic_tempest_plugin.tests.api.admin"
# So many a real Ironic 39 passes, and we with it.
TESTS = 382
# Classes of the package that cannot run, with a real Ironic of these settings neither.
SKIPPED = {
    "TestGraphicalConsole": "no graphical console is enabled",
    "TestNodeGraphicalConsole": "no graphical console is enabled",
    "TestNodesVif": "wants Neutron",
    "TestResetInterfaces": "wants the hardware type ipmi",
}

CONFIG = """
[DEFAULT]
log_file = {folder}/tempest.log
debug = True
[auth]
use_dynamic_credentials = False
test_accounts_file = {folder}/accounts.yaml
[identity]
uri_v3 = {identity}/v3
auth_version = v3
region = here
[oslo_concurrency]
lock_path = {folder}
[service_available]
nova = False
glance = False
neutron = False
cinder = False
swift = False
horizon = False
ironic = True
[enforce_scope]
ironic = False
[compute]
build_interval = 1
build_timeout = 60
[baremetal]
driver = fake-hardware
max_microversion = latest
enabled_drivers = fake-hardware
enabled_hardware_types = fake-hardware
enabled_bios_interfaces = fake,no-bios
enabled_boot_interfaces = fake
enabled_console_interfaces = fake,no-console
enabled_deploy_interfaces = direct,fake
enabled_inspect_interfaces = fake,no-inspect
enabled_management_interfaces = fake
enabled_power_interfaces = fake
enabled_raid_interfaces = fake,no-raid
enabled_rescue_interfaces = fake,no-rescue
default_rescue_interface = no-rescue
"""

ACCOUNTS = """
- username: admin
  project_name: admin
  domain_name: Default
  password: any
  types: [admin]
  roles: [admin]
- username: system
  system: all
  user_domain_name: Default
  password: any
  roles: [admin]
"""


class Identity(http.server.BaseHTTPRequestHandler):
    """Lets everybody in."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["auth"]
        endpoint = {"id": "e", "region": "here", "region_id": "here", "url": URL}
        endpoints = [{**endpoint, "interface": interface} for interface in ("public", "internal", "admin")]
        domain = {"id": "default", "name": "Default"}
        token = {
            "methods": ["password"],
            "user": {"id": "u", "name": asked["identity"]["password"]["user"].get("name", "u"), "domain": domain},
            "roles": [{"id": "r", "name": "admin"}],
            "issued_at": "2020-01-01T00:00:00.000000Z",
            "expires_at": "2999-01-01T00:00:00.000000Z",
            "catalog": [{"id": "s", "type": "baremetal", "name": "ironic", "endpoints": endpoints}],
        }
        if "system" in asked.get("scope", {}):
            token["system"] = {"all": True}
        else:
            token["project"] = {"id": "p", "name": "admin", "domain": domain}
        body = json.dumps({"token": token}).encode()
        self.send_response(201)
        self.send_header("X-Subject-Token", "nobody-looks-at-it")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def tests_of(suite):
    for test in suite:
        yield from tests_of(test) if isinstance(test, unittest.TestSuite) else [test]


def load():
    """All tests of the package; each belongs to a class whose set-up decides whether it can run here."""
    package = importlib.import_module(SUITE)
    names = [f"{SUITE}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    loaded = unittest.defaultTestLoader.loadTestsFromNames([name for name in names if ".test_" in name])
    return list(tests_of(loaded))


def judge(result, all_of_them):
    """Why the run is no success; nothing when it is one."""
    skipped = {str(test).split(".")[-1].rstrip(")"): why for test, why in result.skipped}
    unexpected = [f"{name} was skipped: {why}" for name, why in skipped.items() if name not in SKIPPED]
    if all_of_them:
        unexpected += [f"{name} was not skipped" for name in SKIPPED if name not in skipped]
        if result.testsRun != TESTS:
            unexpected.append(f"{result.testsRun} tests ran; the package has {TESTS}")
    if not result.wasSuccessful():
        unexpected.append(f"{len(result.failures) + len(result.errors)} did not pass")
    return unexpected


def main(parts):
    identity = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    threading.Thread(target=identity.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="ferric-tempest-") as folder:
        settings = CONFIG.format(folder=folder, identity=f"http://127.0.0.1:{identity.server_port}")
        pathlib.Path(folder, "tempest.conf").write_text(settings)
        pathlib.Path(folder, "accounts.yaml").write_text(ACCOUNTS)
        os.environ.update(TEMPEST_CONFIG_DIR=folder, NO_PROXY="127.0.0.1")
        chosen = [test for test in load() if not parts or any(part in test.id() for part in parts)]
        if not chosen:
            sys.exit(f"no test has {' or '.join(parts)} in its name; --list shows all names")
        result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(chosen))
        failed = judge(result, not parts)
        if failed:
            sys.stderr.write(pathlib.Path(folder, "tempest.log").read_text()[-20000:])
    print(f"ironic-tempest-plugin: {result.testsRun - len(result.failures) - len(result.errors)} of {result.testsRun} passed")
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} URL [PART…]")
    if sys.argv[1] == "--list":
        print("\n".join(test.id() for test in load()))
    else:
        URL = sys.argv[1].rstrip("/")
        main(sys.argv[2:])
