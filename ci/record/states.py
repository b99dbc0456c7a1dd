#!/usr/bin/env python3
"""Records the provision state machine of the real Ironic, cell by cell.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ironic.txt
    VENV/bin/python ci/record/states.py crates/lifecycle/testdata/ironic-states.json

VENV is a folder outside the checkout. Needs no service and no network once the packages are there.
The output depends on the Ironic version only; the test `recorded` of crates/lifecycle compares our table with it.
"""

import json
import sys
from importlib.metadata import version

from ironic.common import state_machine, states
from ironic.drivers.modules import agent_base


def main(path):
    machine = state_machine.machine
    names = sorted(machine.states)
    # The machine's public iterator gives (state, event, next).
    rows = sorted(tuple(row) for row in machine)
    events = sorted({event for _, event, _ in rows})
    cells = {(state, event): following for state, event, following in rows}
    document = {
        "ironic": version("ironic"),
        "events": events,
        "verbs": states.VERBS,
        "states": {
            name: {
                "stable": machine.is_stable(name),
                # What target_provision_state becomes when the state is entered without an explicit target.
                "target": machine._states[name]["target"],
                # Every event has a cell; null means refused.
                "next": {event: cells.get((name, event)) for event in events},
            }
            for name in names
        },
        "sets": {
            "update_allowed": sorted(s for s in states.UPDATE_ALLOWED_STATES if s in names),
            "delete_allowed": sorted(states.DELETE_ALLOWED_STATES),
            "lookup_allowed": sorted(states.LOOKUP_ALLOWED_STATES),
            "fast_track_lookup_allowed": sorted(states.FASTTRACK_LOOKUP_ALLOWED_STATES),
            "heartbeat_allowed": sorted(agent_base.HEARTBEAT_ALLOWED),
            "fast_track_heartbeat_allowed": sorted(agent_base.FASTTRACK_HEARTBEAT_ALLOWED),
            "heartbeat_record_only": sorted(agent_base._HEARTBEAT_RECORD_ONLY),
            "failure": sorted(states.FAILURE_STATES),
            "stuck_treated_as_fail": sorted(states.STUCK_STATES_TREATED_AS_FAIL),
        },
    }
    with open(path, "w", encoding="utf-8") as out:
        json.dump(document, out, indent=1, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT.json")
    main(sys.argv[1])
