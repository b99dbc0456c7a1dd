#!/usr/bin/env python3
"""Records how the mDNS library of ironic-python-agent and Ironic (zeroconf) announces the API.

    python3 -m venv VENV && VENV/bin/pip install -r ci/python/ipa.txt
    VENV/bin/python ci/record/mdns.py crates/agent/testdata/mdns.json

VENV is a folder outside the checkout. Only builds the packets of services made up here, as Ironic registers its own
(instance and type have one name); opens no socket.
"""

import json
import socket
import sys
from importlib.metadata import version

import zeroconf

DOMAIN = "_openstack._tcp.local."


def announced(service, addresses, port, properties, server):
    name = f"{service}.{DOMAIN}"
    packed = [socket.inet_pton(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in addresses]
    info = zeroconf.ServiceInfo(name, name, addresses=packed, port=port, properties=properties, server=server)
    out = zeroconf.DNSOutgoing(0x8400, multicast=False)
    out.add_answer_at_time(info.dns_service(), 0)
    out.add_answer_at_time(info.dns_text(), 0)
    for address in info.dns_addresses():
        out.add_answer_at_time(address, 0)
    return [packet.hex() for packet in out.packets()]


def main(path):
    local = {"path": "/baremetal", "protocol": "http", "ipa_ntp_server": "192.0.2.9", "ipa_debug": "true"}
    document = {
        "zeroconf": version("zeroconf"),
        "local": announced("baremetal", ["127.0.0.1", "192.0.2.1", "2001:db8::1"], 6385, local, "api.local."),
        "named": announced("baremetal", [], 6385, {}, "api.example.org."),
        "inspection": announced("baremetal-introspection", ["2001:db8::1"], 80, {}, "api.local."),
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")


main(sys.argv[1])
