#!/usr/bin/env python3
"""Records answers of the real ironic-python-agent: its REST API, the order of its checks, its steps.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ipa.txt
    sudo VENV/bin/python ci/record/agent_api.py crates/agent/testdata/ipa

VENV is a folder outside the checkout and outside /run. The Debian package lshw has to be there. Root is needed to build the jail, not to run in it: the agent
erases disks for a living, so it gets mount, network and PID namespaces of its own, a /dev without any disk, everything
mounted read-only, and no capabilities; the script checks that before the agent starts. Nothing that writes is asked of
it either. Takes about a minute. Volatile values are replaced, so two runs give the same files.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from importlib.metadata import version

sys.dont_write_bytecode = True  # The checkout stays as it is.
from exchange import Recorder, until, write  # noqa: E402

TOKEN = "0123456789abcdef0123456789abcdef"
PORT = 9999
HEADERS = ["content-type", "location", "allow"]
UNKNOWN = "99999999-9999-4999-8999-999999999999"
COMMANDS = "/v1/commands/"

# What the agent's own entry point does, with the two arguments that it cannot be given there.
SERVE = """
import sys
from oslo_config import cfg
from oslo_log import log
from ironic_python_agent import agent, config
log.register_options(cfg.CONF)
cfg.CONF(args=[], default_config_files=[], default_config_dirs=[])
log.setup(cfg.CONF, 'ironic-python-agent')
address = agent.Host(hostname='127.0.0.1', port=%(port)d)
agent.IronicPythonAgent(None, address, address, 1, 1, None, 1, 1, %(standalone)r, %(token)r).run()
"""


@contextlib.contextmanager
def agent(standalone=True, token=TOKEN):
    """The agent as a program, in the jail."""
    log = open("/run/agent.log", "wb")
    process = subprocess.Popen(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
         sys.executable, "-c", SERVE % {"port": PORT, "standalone": standalone, "token": token}],
        stdout=log, stderr=log)
    recorder = Recorder(PORT, HEADERS, {UNKNOWN}, {TOKEN: "TOKEN"})
    try:
        until("the agent", lambda: recorder.ask("", "GET", "/v1/status", keep=False)[0] == 200)
        yield recorder
    except BaseException:
        sys.stderr.write(pathlib.Path("/run/agent.log").read_text()[-4000:])
        raise
    finally:
        process.terminate()
        process.wait()


def command(recorder, name, body, wait=False, token=TOKEN, **more):
    query = f"?agent_token={token}" + ("&wait=true" if wait else "")
    return recorder.ask(name, "POST", COMMANDS + query, body, **more)


def documents(recorder):
    ask = recorder.ask
    ask("root", "GET", "/")
    ask("v1", "GET", "/v1/")
    ask("v1 without the slash", "GET", "/v1")
    ask("status", "GET", "/v1/status")
    ask("status by its other name", "GET", "/status")
    ask("commands without the slash", "GET", "/v1/commands?agent_token=x")
    ask("a command without the slash", "POST", "/v1/commands?wait=true", {"name": "a.b", "params": {}})
    ask("commands by their other name", "GET", f"/commands/?agent_token={TOKEN}")
    ask("no commands yet", "GET", f"{COMMANDS}?agent_token={TOKEN}")
    ask("an unknown path", "GET", "/v1/nonsense")
    ask("a path under nothing", "GET", "/nonsense/")
    ask("a wrong method", "DELETE", COMMANDS)
    ask("a wrong method on root", "POST", "/", {})
    ask("status with a slash", "GET", "/v1/status/")
    return recorder.take()


def checks(recorder):
    """The rows of the table of checks, in their order."""
    ask = recorder.ask
    good = {"name": "standby.get_partition_uuids", "params": {}}
    ask("0: no token, list", "GET", COMMANDS)
    ask("0: a wrong token, list", "GET", f"{COMMANDS}?agent_token=x")
    ask("0: an empty token, list", "GET", f"{COMMANDS}?agent_token=")
    ask("0: no token, one", "GET", f"{COMMANDS}{UNKNOWN}")
    ask("0: no token before any look at the body", "POST", COMMANDS, raw="{")
    ask("0: the token in the body does not count", "POST", COMMANDS, {**good, "agent_token": TOKEN})
    path = f"{COMMANDS}?agent_token={TOKEN}"
    ask("1: not JSON", "POST", path, raw="{")
    ask("1: no body", "POST", path, raw="")
    ask("1: JSON by another content type", "POST", path, raw=json.dumps(good), headers={"Content-Type": "text/plain"})
    ask("2: a list", "POST", path, [])
    ask("2: a text", "POST", path, "x")
    ask("2: no name", "POST", path, {"params": {}})
    ask("2: no params", "POST", path, {"name": "a.b"})
    ask("2: params are a list", "POST", path, {"name": "a.b", "params": []})
    ask("2: params are null", "POST", path, {"name": "a.b", "params": None})
    ask("3: no dot", "POST", path, {"name": "nodot", "params": {}})
    ask("3: two dots", "POST", path, {"name": "a.b.c", "params": {}})
    ask("5: no such extension", "POST", path, {"name": "nothing.x", "params": {}})
    ask("6: no such command", "POST", path, {"name": "standby.nothing", "params": {}})
    ask("6: a method that is no command", "POST", path, {"name": "standby.__init__", "params": {}})
    image = {"name": "standby.prepare_image"}
    for what, info in [
        ("nothing", {}),
        ("no urls", {"id": "i"}),
        ("urls that are empty", {"id": "i", "urls": [], "checksum": "0" * 64}),
        ("urls that are a text", {"id": "i", "urls": "x", "checksum": "0" * 64}),
        ("no checksum", {"id": "i", "urls": ["http://192.0.2.1/i"]}),
        ("a short checksum", {"id": "i", "urls": ["http://192.0.2.1/i"], "checksum": "0" * 32}),
        ("an empty checksum", {"id": "i", "urls": ["http://192.0.2.1/i"], "checksum": ""}),
        ("half a hash", {"id": "i", "urls": ["http://192.0.2.1/i"], "os_hash_algo": "sha256"}),
        ("the other half", {"id": "i", "urls": ["http://192.0.2.1/i"], "os_hash_value": "0" * 64}),
        ("a hash that is a number", {"id": "i", "urls": ["http://192.0.2.1/i"], "os_hash_algo": "sha256", "os_hash_value": 1}),
    ]:
        ask(f"7: an image with {what}", "POST", path, {**image, "params": {"image_info": info}})
    ask("8: a flow with an unknown extension", "POST", path, {"name": "flow.start_flow", "params": {"flow": [{"a.b": {}}]}})
    ask("7 and 8: what of it was recorded", "GET", path)
    ask("11: an unknown command", "GET", f"{COMMANDS}{UNKNOWN}?agent_token={TOKEN}")
    ask("11: an identifier that is none", "GET", f"{COMMANDS}x?agent_token={TOKEN}")
    return recorder.take()


def results(recorder):
    """Commands that run, and their life in the list."""
    ask = recorder.ask
    command(recorder, "a synchronous command", {"name": "standby.get_partition_uuids", "params": {}})
    command(recorder, "one without a result", {"name": "poll.set_node_info", "params": {"node_info": {
        "node": {"uuid": UNKNOWN, "properties": {}, "instance_info": {}, "driver_internal_info": {}},
        "config": {"heartbeat_timeout": 300},
    }}})
    _, first = command(recorder, "an asynchronous command, waited for", {"name": "flow.start_flow", "params": {
        "flow": [{"standby.get_partition_uuids": {}}]}}, wait=True)
    ask("one by its identifier", "GET", f"{COMMANDS}{first['id']}?agent_token={TOKEN}")
    step = {"interface": "deploy", "step": "no_such_step", "priority": 0}
    for kind in ("clean", "deploy", "service"):
        params = {"node": {"uuid": UNKNOWN}, "ports": [], f"{kind}_version": None}
        name = f"{kind}.execute_{kind}_step"
        command(recorder, f"10: {kind}: no such step", {"name": name, "params": {**params, "step": step}}, wait=True)
        command(recorder, f"10: {kind}: a step without a name",
                {"name": name, "params": {**params, "step": {"interface": "deploy"}}}, wait=True)
        command(recorder, f"10: {kind}: another version", {"name": name, "params": {
            **params, "step": step, f"{kind}_version": {"other": "1"}}}, wait=True)
    command(recorder, "10: an unknown parameter", {"name": "image.install_bootloader", "params": {
        "root_uuid": None, "colour": "red"}}, wait=True)
    command(recorder, "10: a flow that fails", {"name": "flow.start_flow", "params": {
        "flow": [{"clean.execute_clean_step": {"step": {}, "node": {}, "ports": []}}]}}, wait=True)
    command(recorder, "10: an image, and no disk fits the hints", {"name": "deploy.execute_deploy_step", "params": {
        "node": {"uuid": UNKNOWN, "properties": {"root_device": {"serial": "nobody"}}, "instance_info": {},
                 "driver_internal_info": {}},
        "ports": [],
        "step": {"interface": "deploy", "step": "write_image", "args": {"image_info": {
            "id": "i", "urls": ["http://127.0.0.1:1/i"], "checksum": "0" * 64}}}}}, wait=True)
    command(recorder, "not waited for", {"name": "clean.execute_clean_step", "params": {
        "node": {"uuid": UNKNOWN}, "ports": [], "step": {}}}, keep=False)
    done = lambda: ask("", "GET", f"{COMMANDS}?agent_token={TOKEN}", keep=False)[1]["commands"][-1]["command_status"] != "RUNNING"
    until("the end of the last command", done)
    ask("the list, in order", "GET", f"{COMMANDS}?agent_token={TOKEN}")
    return recorder.take()


def busy(recorder):
    """While a long flow runs: row 4, which comes before any look at the extension, also for synchronous commands."""
    slow = {"name": "flow.start_flow", "params": {"flow": [{"poll.get_hardware_info": {}}] * 12}}
    command(recorder, "the long command", slow)
    for what, body in [
        ("another asynchronous command", slow),
        ("a synchronous command", {"name": "standby.get_partition_uuids", "params": {}}),
        ("an unknown extension", {"name": "nothing.x", "params": {}}),
        ("an unknown command", {"name": "standby.nothing", "params": {}}),
        ("bad parameters", {"name": "standby.prepare_image", "params": {"image_info": {}}}),
        ("no dot", {"name": "nodot", "params": {}}),
        ("no params", {"name": "a.b"}),
    ]:
        command(recorder, f"4: {what}", body)
    _, listed = recorder.ask("the list while it runs", "GET", f"{COMMANDS}?agent_token={TOKEN}")
    if listed["commands"][-1]["command_status"] != "RUNNING":
        raise SystemExit("the long command was over before all was asked; make it longer")
    return recorder.take()


def steps(recorder):
    for kind in ("clean", "deploy", "service"):
        command(recorder, f"{kind} steps", {"name": f"{kind}.get_{kind}_steps", "params": {
            "node": {"uuid": UNKNOWN, "properties": {}, "driver_internal_info": {}}, "ports": []}})
    command(recorder, "the inventory, by the types of its values",
            {"name": "poll.get_hardware_info", "params": {}}, shape="command_result")
    return recorder.take()


def quirk(recorder):
    """A synchronous command with an unknown parameter spoils its own answer and the list for good."""
    command(recorder, "8: an unknown parameter of a synchronous command",
            {"name": "standby.get_partition_uuids", "params": {"colour": "red"}})
    recorder.ask("the list after it", "GET", f"{COMMANDS}?agent_token={TOKEN}")
    return recorder.take()


def edges(recorder):
    """What no driver sends and a suite for the API asks."""
    ask = recorder.ask
    path = f"{COMMANDS}?agent_token={TOKEN}"
    good = {"name": "standby.get_partition_uuids", "params": {}}
    # Methods. Bodies of HEAD are empty, whatever the answer is.
    for where in ("/", "/v1/", "/v1/status", path, f"{COMMANDS}{UNKNOWN}?agent_token={TOKEN}", COMMANDS, "/nothing"):
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "POST", "TRACE", "FERRIC"):
            if method == "POST" and where in (path, COMMANDS):
                continue
            ask(f"{method} {where.replace(TOKEN, 'TOKEN')}", method, where)
    # Paths.
    for where in ("//", "/v1//", "//v1/", "/V1/", "/v1/Status", "/v1/status/x", "/v2/", "/v1/commands/a/b", "/commands",
                  "/status/", "/%76%31/status", "/v1/%73tatus", "/v1/commands%2F", "/v1/commands/%00", "/v1/commands/%FF",
                  "/v1/commands/%C3%A4", "/v1/../v1/status", "/v1/./status", "/v1/status?x=1&x=2", "/?%", "/v1/status#x",
                  "/v1/commands/a%2Fb", "/favicon.ico", "/v1/commands/" + "x" * 300):
        ask(f"GET {where[:40]}", "GET", where + ("&" if "?" in where else "?") + f"agent_token={TOKEN}")
    # Tokens.
    for what, query in [
        ("twice, the right one first", f"agent_token={TOKEN}&agent_token=x"),
        ("twice, the wrong one first", f"agent_token=x&agent_token={TOKEN}"),
        ("escaped", "agent_token=" + "".join(f"%{ord(c):02X}" for c in TOKEN)),
        ("in capital letters", f"agent_token={TOKEN.upper()}"),
        ("with a space after it", f"agent_token={TOKEN}%20"),
        ("with a zero after it", f"agent_token={TOKEN}%00"),
        ("cut", f"agent_token={TOKEN[:-1]}"),
        ("under a name in capitals", f"AGENT_TOKEN={TOKEN}"),
        ("that is no UTF-8", "agent_token=%FF%FE"),
        ("after a semicolon", f"x=1;agent_token={TOKEN}"),
        ("in a list", f"agent_token[]={TOKEN}"),
    ]:
        ask(f"a token {what}", "GET", f"{COMMANDS}?{query}")
    ask("a token in a header", "GET", COMMANDS, headers={"X-Auth-Token": TOKEN, "Authorization": f"Bearer {TOKEN}"})
    # Waiting.
    for value in ("TRUE", "1", "yes", "", "false", "true&wait=false", "truE%20"):
        ask(f"wait={value}", "POST", f"{path}&wait={value}", good)
    ask("a wait without a value", "POST", f"{path}&wait", good)
    ask("wait on the list", "GET", f"{path}&wait=true")
    # Bodies.
    for what, raw in [
        ("null", "null"), ("a number", "7"), ("true", "true"), ("a text", '"name params"'), ("white space", "  "),
        ("two values", "{} {}"), ("NaN", '{"name": "a.b", "params": {"x": NaN}}'), ("a comment", "{/**/}"),
        ("a trailing comma", '{"name": "nodot", "params": {},}'),
        ("single quotes", "{'name': 'nodot', 'params': {}}"),
        ("a byte order mark", b'\xef\xbb\xbf{"name": "nodot", "params": {}}'),
        ("bytes that are no UTF-8", b'{"name": "nodot\xff", "params": {}}'),
        ("Latin-1", '{"name": "nod\u00f6t", "params": {}}'.encode("latin-1")),
        ("UTF-16", '{"name": "nodot", "params": {}}'.encode("utf-16")),
        ("a lone surrogate", '{"name": "nod\\ud800t", "params": {}}'),
        ("a zero in the name", '{"name": "nod\\u0000t", "params": {}}'),
        ("a name twice", '{"name": "a.b", "name": "nodot", "params": {}}'),
        ("keys beside", '{"name": "nodot", "params": {}, "id": "x", "more": [1]}'),
        ("a large number", '{"name": "nodot", "params": {"x": 123456789012345678901234567890}}'),
        ("a huge exponent", '{"name": "nodot", "params": {"x": 1e999}}'),
    ]:
        ask(f"a body: {what}", "POST", path, raw=raw)
    for what, name in [
        ("empty", ""), ("a dot", "."), ("nothing before the dot", ".sync"), ("nothing after the dot", "standby."),
        ("space around it", " standby.sync "), ("capitals", "Standby.Sync"), ("a dunder", "standby.__class__"),
        ("unicode", "st\u00e4ndby.sync"), ("long", "x" * 3000 + ".y"), ("a class", "base.sync"), ("image of old", "standby.cache_image"),
        ("iscsi of old", "iscsi.start_iscsi_target"), ("dev of old", "dev.flow"),
    ]:
        ask(f"a name: {what}", "POST", path, {"name": name, "params": {}})
    ask("a body as a form", "POST", path, raw="name=a.b&params=%7B%7D", headers={"Content-Type": "application/x-www-form-urlencoded"})
    ask("a body by another charset", "POST", path, raw=json.dumps(good), headers={"Content-Type": "application/json; charset=latin-1"})
    ask("an answer in XML, please", "GET", "/v1/status", headers={"Accept": "text/xml"})
    ask("links follow the host that was asked", "GET", "/v1/", headers={"Host": "agent.example:1234"})
    return recorder.take()


def parameters(recorder):
    """Wrong parameters of every command that can be asked without harm. Synchronous ones with unknown parameters are in
    quirk.json."""
    step = {"interface": "deploy", "step": "no_such_step"}
    node = {"uuid": UNKNOWN, "properties": {}, "instance_info": {}, "driver_internal_info": {}}
    execute = {"node": node, "ports": [], "step": step}
    image = {"id": "i", "urls": ["http://127.0.0.1:1/i"], "checksum": "0" * 64}
    for name, params in [
        ("clean.execute_clean_step", {"step": step}),
        ("clean.execute_clean_step", {}),
        ("clean.execute_clean_step", {**execute, "clean_version": {}}),
        ("clean.execute_clean_step", {**execute, "clean_version": {"generic_hardware_manager": "1.2", "other": "1"}}),
        ("clean.execute_clean_step", {**execute, "clean_version": {"generic_hardware_manager": "1.2"}}),
        ("deploy.execute_deploy_step", {**execute, "colour": "red"}),
        ("deploy.execute_deploy_step", {**execute, "step": {"step": None}}),
        ("service.execute_service_step", {**execute, "step": {**step, "args": None}}),
        ("service.execute_service_step", {**execute, "step": {**step, "args": {"x": 1}}}),
        ("image.install_bootloader", {}),
        ("standby.prepare_image", {}),
        ("standby.prepare_image", {"image_info": {**image, "urls": []}}),
        ("standby.prepare_image", {"image_info": {**image, "checksum": None}}),
        ("standby.prepare_image", {"image_info": {**image, "checksum": 7}}),
        ("standby.prepare_image", {"image_info": {**image, "os_hash_algo": "sha256", "os_hash_value": ""}}),
        ("flow.start_flow", {"flow": []}),
        ("flow.start_flow", {"flow": [{}]}),
        ("flow.start_flow", {"flow": [{"nodot": {}}]}),
        ("flow.start_flow", {"flow": [{"standby.nothing": {}}]}),
        ("flow.start_flow", {"flow": [{"standby.get_partition_uuids": {}}, {"poll.get_hardware_info": {}}]}),
    ]:
        text = json.dumps(params).replace(json.dumps(node), "NODE")
        command(recorder, f"{name} {text}", {"name": name, "params": params}, wait=True)
    return recorder.take()


def inside():
    """In the namespaces: builds the rest of the jail, runs the agent, prints what it said."""
    jail()
    recorded = {}
    with agent() as recorder:
        recorded["documents"] = documents(recorder)
        recorded["checks"] = checks(recorder)
        recorded["results"] = results(recorder)
        recorded["steps"] = steps(recorder)
    with agent() as recorder:
        recorded["edges"] = edges(recorder)
    with agent() as recorder:
        recorded["parameters"] = parameters(recorder)
    with agent() as recorder:
        recorded["busy"] = busy(recorder)
    with agent() as recorder:
        recorded["quirk"] = quirk(recorder)
    with agent(token=None) as recorder:
        command(recorder, "0: an agent without a token", {"name": "standby.get_partition_uuids", "params": {}}, token="x")
        command(recorder, "0: the same without a token in the request",
                {"name": "standby.get_partition_uuids", "params": {}}, token="")
        recorded["no_token"] = recorder.take()
    with agent(standalone=False) as recorder:
        command(recorder, "9: node data for an agent that is not alone", {"name": "poll.set_node_info", "params": {"node_info": {}}})
        recorder.ask("9: it was not recorded", "GET", f"{COMMANDS}?agent_token={TOKEN}")
        recorded["not_alone"] = recorder.take()
    json.dump(recorded, sys.stdout)


def run(*words):
    subprocess.run(words, check=True, stdout=sys.stderr)


def jail():
    """A /dev without disks, everything else read-only, a network of our own."""
    run("ip", "link", "set", "lo", "up")
    # A card for the agent to find; it goes nowhere.
    run("ip", "link", "add", "eth0", "address", "52:54:00:00:00:01", "type", "veth", "peer", "name", "peer0")
    run("mount", "-t", "tmpfs", "none", "/run")
    run("mount", "-t", "tmpfs", "none", "/dev")
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        os.mknod(f"/dev/{name}", 0o666 | 0o020000, os.makedev(1, minor))
    run("mount", "-o", "remount,ro", "/dev")
    places = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted(set(places)):
        if not place.startswith(("/dev", "/run", "/proc")):
            # Mounts that are hidden below others cannot be reached, by the agent neither.
            subprocess.run(["mount", "-o", "remount,bind,ro", place], stderr=subprocess.DEVNULL)
    run("mount", "-o", "remount,bind,ro", "/proc")
    os.environ["TMPDIR"] = "/run"
    # No udev here: the agent waits for it to settle before it looks for disks, and there is nothing to settle.
    os.mkdir("/run/bin")
    os.symlink("/bin/true", "/run/bin/udevadm")
    os.environ["PATH"] = "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for place in ("/", "/sys", "/dev", "/etc", "/var", "/tmp", "/proc/sys/kernel"):
        if not os.statvfs(place).f_flag & os.ST_RDONLY:
            raise SystemExit(f"{place} is writable in the jail; nothing was started")
    left = sorted(os.listdir("/dev"))
    if left != ["null", "random", "urandom", "zero"]:
        raise SystemExit(f"/dev holds {left} in the jail; nothing was started")


def main(output):
    if os.geteuid() != 0:
        raise SystemExit("root is needed to build the jail")
    answer = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
         sys.executable, os.path.abspath(__file__), "--inside"],
        check=True, stdout=subprocess.PIPE, cwd="/")
    for name, exchanges in json.loads(answer.stdout).items():
        note = f"ironic-python-agent {version('ironic-python-agent')}, ci/record/agent_api.py"
        write(pathlib.Path(output) / f"{name}.json", note, exchanges)


if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        inside()
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT-FOLDER")
