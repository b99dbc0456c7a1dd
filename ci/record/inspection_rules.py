#!/usr/bin/env python3
"""Records what Ironic's inspection rules make of findings: its own engine is called, on a node without a database.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ironic.txt
    VENV/bin/python ci/record/inspection_rules.py crates/driver/testdata/ironic/rules.json

VENV is a folder outside the checkout. Takes a few seconds. Two runs give the same file.
"""

import copy
import json
import logging
import os
import sys
from importlib.metadata import version
from unittest import mock

sys.dont_write_bytecode = True  # The checkout stays as it is.
if os.environ.get("PYTHONHASHSEED") != "0":
    # Messages with sets in them are the same each time.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

from ironic import objects  # noqa: E402
from ironic.common import context  # noqa: E402
from ironic.common.inspection_rules import engine, utils  # noqa: E402

objects.register_all()
logging.disable(logging.CRITICAL)

NODE = {
    "uuid": "11111111-1111-4111-8111-111111111111",
    "name": "node-1",
    "driver": "redfish",
    "driver_info": {"redfish_address": "https://192.0.2.1"},
    "properties": {"cpu_arch": "x86_64", "capabilities": "boot_mode:uefi"},
    "extra": {"rack": {"row": 3, "names": ["a"]}, "flag": True},
    "resource_class": None,
    "description": None,
}
PORT = {"uuid": "44444444-4444-4444-8444-444444444444", "address": "52:54:00:12:34:56", "extra": {}, "pxe_enabled": True}
INVENTORY = {
    "cpu": {"count": 4, "architecture": "x86_64", "model_name": "It's a \"CPU\""},
    "memory": {"physical_mb": 4096},
    "bmc_address": "192.0.2.1",
    "bmc_v6address": None,
    "bmc_password": "canary",
    "system_vendor": {"manufacturer": "Contoso", "product_name": "", "serial_number": "S1"},
    "disks": [{"name": "/dev/sda", "size": 10, "wwn": None}, {"name": "/dev/sdb", "size": 20}],
    "interfaces": [{"name": "eth0", "mac_address": "52:54:00:12:34:56", "has_carrier": True}],
    "empty": {"list": [], "dict": {}},
}
PLUGIN_DATA = {"macs": ["52:54:00:12:34:56"], "deep": {"only": {"one": 1}, "two": 2}, "list": [1], "password": "canary"}


def c(op, args, **more):
    return {"op": op, "args": args, **more}


SET = c("set-attribute", {"path": "extra/hit", "value": "yes"})

# Conditions, each with one action that shows whether it held.
CONDITIONS = {
    "eq": [c("eq", {"values": ["{inventory[cpu][architecture]}", "x86_64"]})],
    "eq of a filled-in number and a number": [c("eq", {"values": ["{inventory[cpu][count]}", 4]})],
    "eq of texts by force": [c("eq", {"values": ["{inventory[cpu][count]}", 4], "force_strings": True})],
    "eq of three": [c("eq", {"values": [1, 1.0, True]})],
    "eq of one": [c("eq", {"values": [1]})],
    "eq without a list": [c("eq", {"values": "x"})],
    "eq by position": [c("eq", [["{node.name}", "node-1"]])],
    "eq by position without arguments": [c("eq", [])],
    "eq turned around": [c("!eq", {"values": [1, 2]})],
    "eq turned around with a blank": [c(" ! eq ", {"values": [1, 1]})],
    "eq of lists": [c("eq", {"values": [[1, "a"], [1, "a"]]})],
    "lt": [c("lt", {"values": [1, 2, 3]})],
    "lt of texts": [c("lt", {"values": ["10", "9"]})],
    "lt of a text and a number": [c("lt", {"values": ["{inventory[memory][physical_mb]}", 8192]})],
    "gt": [c("gt", {"values": [3, 2, 2]})],
    "gt of lists": [c("gt", {"values": [[2, 1], [1, 9]]})],
    "is-empty of nothing": [c("is-empty", {"value": "{inventory[nothing][there]}"})],
    "is-empty of an empty text": [c("is-empty", {"value": "{inventory[system_vendor][product_name]}"})],
    "is-empty of null": [c("is-empty", {"value": "{inventory[bmc_v6address]}"})],
    "is-empty of an empty list": [c("is-empty", {"value": "{inventory[empty][list]}"})],
    "is-empty of an empty object": [c("is-empty", {"value": "{inventory[empty][dict]}"})],
    "is-empty of something": [c("is-empty", {"value": "{inventory[cpu]}"})],
    "is-empty of an index out of range": [c("is-empty", {"value": "{inventory[disks][7]}"})],
    "in-net": [c("in-net", {"address": "{inventory[bmc_address]}", "subnet": "192.0.2.0/24"})],
    "in-net with a mask": [c("in-net", {"address": "{inventory[bmc_address]}", "subnet": "192.0.2.0/255.255.255.0"})],
    "in-net elsewhere": [c("in-net", {"address": "{inventory[bmc_address]}", "subnet": "198.51.100.0/24"})],
    "in-net of IPv6": [c("in-net", {"address": "2001:db8::1", "subnet": "2001:db8::/32"})],
    "in-net of no network": [c("in-net", {"address": "{inventory[bmc_address]}", "subnet": "here"})],
    "in-net of no address": [c("in-net", {"address": "here", "subnet": "192.0.2.0/24"})],
    "matches": [c("matches", {"value": "{inventory[system_vendor][manufacturer]}", "regex": "Cont.*"})],
    "matches a part": [c("matches", {"value": "{inventory[system_vendor][manufacturer]}", "regex": "Cont"})],
    "matches one of two": [c("matches", {"value": "Contoso", "regex": "Con|toso"})],
    "matches with an end": [c("matches", {"value": "Contoso", "regex": "^Contoso$"})],
    "matches what is no expression": [c("matches", {"value": "x", "regex": "("})],
    "contains": [c("contains", {"value": "{inventory[system_vendor][manufacturer]}", "regex": "t.s"})],
    "contains not": [c("contains", {"value": "{inventory[system_vendor][manufacturer]}", "regex": "^t"})],
    "contains of an object": [c("contains", {"value": "{inventory[disks]}", "regex": "'size': 20"})],
    "one-of": [c("one-of", {"value": "{inventory[cpu][architecture]}", "values": ["aarch64", "x86_64"]})],
    "one-of a number": [c("one-of", {"value": "{inventory[cpu][count]}", "values": [4]})],
    "one-of a text": [c("one-of", {"value": "86", "values": "x86_64"})],
    "one-of nothing": [c("one-of", {"value": "x"})],
    "is-none": [c("is-none", {"value": None})],
    "is-none of a filled-in null": [c("is-none", {"value": "{inventory[bmc_v6address]}"})],
    "is-true": [c("is-true", {"value": "{inventory[interfaces][0][has_carrier]}"})],
    "is-true of yes": [c("is-true", {"value": "YES"})],
    "is-true of 1": [c("is-true", {"value": 1})],
    "is-true of a text 1": [c("is-true", {"value": "1"})],
    "is-true of a list": [c("is-true", {"value": [1]})],
    "is-false": [c("is-false", {"value": "No"})],
    "is-false of null": [c("is-false", {"value": None})],
    "is-false of 0.0": [c("is-false", {"value": 0.0})],
    "is-false of a text": [c("is-false", {"value": "x"})],
    "two of which one holds": [c("is-true", {"value": True}), c("is-true", {"value": False})],
    "a loop, any": [c("eq", {"values": ["{item}", 2]}, loop=[1, 2, 3])],
    "a loop, all": [c("gt", {"values": ["{item}", 0]}, loop=[1, 2, 3], multiple="all")],
    "a loop, first": [c("eq", {"values": ["{item}", 2]}, loop=[1, 2, 3], multiple="first")],
    "a loop, last": [c("eq", {"values": ["{item}", 3]}, loop=[1, 2, 3], multiple="last")],
    "a loop, last of which holds not": [c("eq", {"values": ["{item}", 2]}, loop=[1, 2, 3], multiple="last")],
    "a loop, first turned around": [c("!eq", {"values": ["{item}", 1]}, loop=[1, 1], multiple="first")],
    "a loop over an object": [c("eq", {"values": ["{item[a]}", 2]}, loop={"a": 2})],
    "a loop over an empty list": [c("eq", {"values": [1, 1]}, loop=[])],
    "a loop over a text": [c("eq", {"values": [1, 1]}, loop="abc")],
    "a loop whose items have place-holders": [
        c("matches", {"value": "{item[what]}", "regex": "{item[how]}"},
          loop=[{"what": "{inventory[cpu][architecture]}", "how": "x86.*"}])],
    "a secret": [c("eq", {"values": ["{inventory[bmc_password]}", "***"]})],
    "a secret among the plugin data": [c("eq", {"values": ["{plugin_data[password]}", "***"]})],
    "quotes of Python": [c("eq", {"values": ["{inventory[cpu][model_name]!r}", "'It\\'s a \"CPU\"'"]})],
    "an object of Python": [c("eq", {"values": ["{inventory[memory]}", "{{'physical_mb': 4096}}"]})],
    "a place-holder of nothing stays": [c("eq", {"values": ["{inventory[nothing]}", "{inventory[nothing]}"]})],
    "an operator that there is not": [c("ge", {"values": [1, 1]})],
}

ACTIONS = {
    "set-attribute": [SET],
    "set-attribute with dots": [c("set-attribute", {"path": "extra.a.b", "value": "{inventory[cpu][count]}"})],
    "set-attribute of an object": [c("set-attribute", {"path": "properties/root_device", "value": {"wwn": "{node.name}"}})],
    "set-attribute of a whole attribute": [c("set-attribute", {"path": "resource_class", "value": "cpu-{inventory[cpu][count]}"})],
    "set-attribute of the description": [c("set-attribute", {"path": "description", "value": "{inventory[cpu]}"})],
    "set-attribute by position": [c("set-attribute", ["/extra/x", 7])],
    "set-attribute below a number": [c("set-attribute", {"path": "extra/rack/row/x", "value": 1})],
    "set-attribute of nothing": [c("set-attribute", {"path": "nothing/x", "value": 1})],
    "set-attribute with a value that does not fit": [c("set-attribute", {"path": "properties", "value": 1})],
    "extend-attribute": [c("extend-attribute", {"path": "extra/rack/names", "value": "b"})],
    "extend-attribute with a new list": [c("extend-attribute", {"path": "extra/list", "value": 1})],
    "extend-attribute twice, uniquely": [
        c("extend-attribute", {"path": "extra/list", "value": 1, "unique": True}),
        c("extend-attribute", {"path": "extra/list", "value": 1, "unique": True})],
    "extend-attribute of an object": [c("extend-attribute", {"path": "extra/rack", "value": 1})],
    "del-attribute": [c("del-attribute", {"path": "extra/rack/row"})],
    "del-attribute of nothing": [c("del-attribute", {"path": "extra/nothing"})],
    "del-attribute below nothing": [c("del-attribute", {"path": "extra/nothing/there"})],
    "set-capability": [c("set-capability", {"name": "cpus", "value": "{inventory[cpu][count]}"})],
    "unset-capability": [c("unset-capability", {"name": "boot_mode"})],
    "set-capability after unset-capability": [
        c("unset-capability", {"name": "boot_mode"}), c("set-capability", {"name": "boot_mode", "value": "bios"})],
    "add-trait": [c("add-trait", {"name": "CUSTOM_FAST"}), c("add-trait", {"name": "CUSTOM_NEAR"})],
    "remove-trait": [c("remove-trait", {"name": "CUSTOM_OLD"})],
    "remove-trait of nothing": [c("remove-trait", {"name": "CUSTOM_NONE"})],
    "set-plugin-data": [c("set-plugin-data", {"path": "new.key", "value": "{node.name}"})],
    "set-plugin-data over a list": [c("set-plugin-data", {"path": "list", "value": "x"})],
    "set-plugin-data below a list": [c("set-plugin-data", {"path": "list.x", "value": "x"})],
    "extend-plugin-data": [c("extend-plugin-data", {"path": "macs", "value": "x"})],
    "extend-plugin-data with a new list": [c("extend-plugin-data", {"path": "a.b", "value": "x", "unique": True})],
    "extend-plugin-data of an object": [c("extend-plugin-data", {"path": "deep", "value": "x"})],
    "unset-plugin-data": [c("unset-plugin-data", {"path": "deep.two"})],
    "unset-plugin-data of an only key": [c("unset-plugin-data", {"path": "deep.only.one"})],
    "unset-plugin-data at the top": [c("unset-plugin-data", {"path": "macs"})],
    "unset-plugin-data of nothing": [c("unset-plugin-data", {"path": "deep.nothing"})],
    "set-port-attribute": [c("set-port-attribute", {"port_id": PORT["uuid"], "path": "extra/speed", "value": "{inventory[cpu][count]}"})],
    "set-port-attribute of a flag": [c("set-port-attribute", {"port_id": PORT["uuid"], "path": "pxe_enabled", "value": False})],
    "extend-port-attribute": [c("extend-port-attribute", {"port_id": PORT["uuid"], "path": "extra/l", "value": "x"})],
    "del-port-attribute of nothing": [c("del-port-attribute", {"port_id": PORT["uuid"], "path": "extra/x"})],
    "a port that there is not": [c("set-port-attribute", {"port_id": NODE["uuid"], "path": "extra/x", "value": 1})],
    "fail": [c("fail", {"msg": "not this one: {node.name}"})],
    "fail in a loop": [c("fail", {"msg": "not {item}"}, loop=["this"])],
    "log": [c("log", {"msg": "{node.name}", "level": "WARNING"})],
    "log at no level": [c("log", {"msg": "x", "level": "loud"})],
    "a loop": [c("set-attribute", {"path": "extra/{item[path]}", "value": "{item[value]}"},
               loop=[{"path": "a", "value": "{inventory[bmc_address]}"}, {"path": "b", "value": 2}])],
    "a loop over an object": [c("set-attribute", {"path": "extra/{item[path]}", "value": "{item[value]}"},
                              loop={"path": "a", "value": "{inventory[bmc_address]}"})],
    "a loop over a text": [c("set-attribute", {"path": "extra/x", "value": "{item}"}, loop="abc")],
    "a list in a loop": [c("set-attribute", {"path": "extra/x", "value": ["{item}", {"k": "{item}"}]}, loop=["{node.name}"])],
    "one after the other": [SET, c("set-attribute", {"path": "extra/again", "value": "{node.extra[hit]}"})],
    "an action that there is not": [c("jump", {})],
    "an argument too few": [c("set-attribute", {"path": "extra/x"})],
}

# Rules together: their order, and what one leaves for the next.
TOGETHER = {
    "priorities": [
        {"priority": 0, "actions": [c("extend-attribute", {"path": "extra/order", "value": "last"})]},
        {"priority": 50, "actions": [c("extend-attribute", {"path": "extra/order", "value": "second"})]},
        {"priority": 100, "actions": [c("extend-attribute", {"path": "extra/order", "value": "first"})]},
        {"priority": 50, "actions": [c("extend-attribute", {"path": "extra/order", "value": "third"})]},
    ],
    "what one rule sets another reads": [
        {"priority": 10, "actions": [SET]},
        {"priority": 5, "conditions": [c("eq", {"values": ["{node.extra[hit]}", "yes"]})],
         "actions": [c("set-plugin-data", {"path": "seen", "value": "{node.extra[hit]}"})]},
    ],
    "a rule that is skipped stops no other": [
        {"priority": 10, "conditions": [c("is-true", {"value": False})], "actions": [c("fail", {"msg": "no"})]},
        {"priority": 5, "actions": [SET]},
    ],
    "a sensitive rule sees secrets no more than another": [
        {"sensitive": True, "actions": [c("set-attribute", {"path": "extra/secret", "value": "{inventory[bmc_password]}"})]},
    ],
}


def plain(value):
    """A value without the wrappers that hide secrets in it."""
    if isinstance(value, (dict, utils.ShallowMaskDict)):
        inner = value._data if isinstance(value, utils.ShallowMaskDict) else value
        return {key: plain(item) for key, item in inner.items()}
    if isinstance(value, (list, utils.ShallowMaskList)):
        inner = value._original if isinstance(value, utils.ShallowMaskList) else value
        return [plain(item) for item in inner]
    return value


def run(name, rules):
    node = objects.Node(context.get_admin_context(), id=1, **copy.deepcopy(NODE))
    port = objects.Port(context.get_admin_context(), id=1, **copy.deepcopy(PORT))
    traits = {"CUSTOM_OLD"}

    class Trait:
        def __init__(self, _context, node_id, trait):
            self.trait = trait

        def create(self):
            traits.add(self.trait)

        @staticmethod
        def destroy(_context, node_id, trait):
            traits.discard(trait)

    task = mock.Mock(node=node, ports=[port], context=context.get_admin_context())
    inventory, plugin_data = copy.deepcopy(INVENTORY), copy.deepcopy(PLUGIN_DATA)
    rules = [{"uuid": f"rule-{number}", "phase": "main", "conditions": [], **rule} for number, rule in enumerate(rules)]
    given = copy.deepcopy(rules)
    error = None
    with mock.patch.object(objects.Node, "save"), mock.patch.object(objects.Port, "save"), \
            mock.patch.object(objects, "Trait", Trait), \
            mock.patch.object(objects.InspectionRule, "list", return_value=rules):
        try:
            engine.apply_rules(task, inventory, plugin_data, "main")
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
    result = {"error": error}
    if error is None:
        result.update(
            node={key: plain(getattr(node, key)) for key in NODE},
            traits=sorted(traits),
            port={key: plain(getattr(port, key)) for key in PORT},
            plugin_data=plain(plugin_data),
        )
    return {"name": name, "rules": given, "result": result}


def main(output):
    cases = [run(f"condition: {name}", [{"conditions": conditions, "actions": [SET]}])
             for name, conditions in CONDITIONS.items()]
    cases += [run(f"action: {name}", [{"actions": actions}]) for name, actions in ACTIONS.items()]
    cases += [run(f"together: {name}", rules) for name, rules in TOGETHER.items()]
    document = {
        "recorded": f"ironic {version('ironic')}, ci/record/inspection_rules.py",
        "node": NODE, "port": PORT, "traits": ["CUSTOM_OLD"], "inventory": INVENTORY, "plugin_data": PLUGIN_DATA,
        "cases": cases,
    }
    with open(output, "w", encoding="utf-8") as out:
        json.dump(document, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT-FILE")
    main(sys.argv[1])
