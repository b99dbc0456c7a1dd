#!/usr/bin/env python3
"""Runs ironic-python-agent's own functional tests of an agent's API against another agent.

    VENV/bin/python ci/ipa_tests.py target/debug/ferric-agent

VENV has ci/python/ipa.txt. The tests are those of the package, unchanged: test_commands over http, test_tls over https. What
they start as their agent, in a process of its own, is the program, with the port, token and certificate that they give it.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import types
import unittest

PACKAGE = "ironic_python_agent.tests.functional"
# So many tests has the package; each is a row of steps.
TESTS = 2


class Agent:
    """Stands for the process that the tests start their agent in; takes what their agent takes, in its order."""

    def __init__(self, target, args):
        listen, token, identity = args[2], args[9], args[10:12]
        self.words = [PROGRAM, "--standalone", "--listen", f"127.0.0.1:{listen.port}", "--token", token]
        if identity:
            self.words += ["--tls", ",".join(identity)]

    def start(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL)

    def terminate(self):
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def main():
    # All that the tests want of this package, which ironic-python-agent does not require.
    base = types.ModuleType("oslotest.base")
    base.BaseTestCase = unittest.TestCase
    sys.modules["oslotest"] = types.ModuleType("oslotest")
    sys.modules["oslotest"].base = sys.modules["oslotest.base"] = base
    multiprocessing.Process = Agent
    os.environ.update(TEST_PORT=free_port(), TEST_PORT_TLS=free_port())
    names = [f"{PACKAGE}.{name}" for name in ("test_commands", "test_tls")]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromNames(names))
    if result.testsRun != TESTS or result.skipped:
        sys.exit(f"{result.testsRun} tests ran, {len(result.skipped)} of them skipped; the package has {TESTS}")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} PROGRAM")
    PROGRAM = os.path.abspath(sys.argv[1])
    main()
