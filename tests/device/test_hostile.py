# SPDX-License-Identifier: Apache-2.0
"""No daemon falls over, hangs or grows: when whoever may call everything calls it with hostile values, and when a crowd comes
to h-securityd's socket."""
import json
import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS = 200
GROWTH_KIB = 24 * 1024  # of PSS; bounded tables are filled here that were empty before


def daemons(device):
    """{unit: (MainPID, NRestarts)} of ours that run."""
    listed = device.run("systemctl", "list-units", "--state=active", "--plain", "--no-legend", "h-*.service",
                        check=True).stdout
    shown = {}
    for unit in sorted(line.split()[0] for line in listed.splitlines()):
        properties = device.run("systemctl", "show", "-P", "MainPID", "-P", "NRestarts", unit, check=True).stdout.split()
        if properties[0] != "0":
            shown[unit] = tuple(properties)
    return shown


def pss(device, pid):
    rollup = device.run("cat", f"/proc/{pid}/smaps_rollup", check=True).stdout
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


@pytest.fixture
def policy(device):
    """What the calls may have granted goes again."""
    rules = lambda: {r[0] for r in json.loads(device.run("h-policy", "list", "--json", check=True).stdout)}
    before = rules()
    yield
    for new in rules() - before:
        device.run("h-policy", "revoke", "--", new)


def test_hostile_values(device, policy):
    seed = int(os.environ.get("HYBRIDOS_SEED", int.from_bytes(os.urandom(4), "big")))
    print(f"HYBRIDOS_SEED={seed}")
    script = device.put(HERE / "hostile.py")
    before = daemons(device)
    memory = {unit: pss(device, pid) for unit, (pid, _) in before.items()}
    done = device.run("python3", script, str(seed), str(ROUNDS), timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert daemons(device) == before, "somebody was restarted"
    print(json.dumps(result["answered"], indent=1))
    assert not result["silent"], result["silent"]
    assert len(result["answered"]) >= 5 and min(result["answered"].values()) > 400, result["answered"]
    for unit, (pid, _) in before.items():
        assert pss(device, pid) - memory[unit] < GROWTH_KIB, unit


CONNECTIONS_MAX, PER_UID = 1024, 64  # services/securityd/agent-socket.h


def test_a_crowd_at_the_agents_socket(device):
    """It fills every place that strangers can have. A server that is there goes on, one that comes is let in, and
    memory and descriptors stay within bounds."""
    pid, restarts = daemons(device)["h-securityd.service"]
    memory = pss(device, pid)

    def descriptors():
        return len(device.run("ls", f"/proc/{pid}/fd", check=True).stdout.split())
    before = descriptors()
    script, crowds = device.put(HERE / "crowd.py"), []

    def come(users, first):
        crowds.append(device.popen("python3", script, users, first, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return json.loads(crowds[-1].stdout.readline())
    try:
        admitted = come(20, 61300)
        # One user alone never fills it, all together do.
        assert max(admitted) <= PER_UID and len(admitted) * PER_UID > CONNECTIONS_MAX
        assert CONNECTIONS_MAX - 100 < sum(admitted) < CONNECTIONS_MAX, admitted
        assert CONNECTIONS_MAX - 100 < descriptors() - before <= CONNECTIONS_MAX
        # A client whom h-httpd has not seen yet needs an answer, and so does an h-httpd that has just come.
        assert device.status("/system/status", "--header", "Authorization: Bearer wrong") == 401
        device.run("systemctl", "stop", "h-httpd.service", "h-httpd.socket", check=True)
        assert sum(come(1, 61340)) >= 1  # takes the place that is free
        device.run("systemctl", "start", "h-httpd.socket", "h-httpd.service", check=True)
        device.wait(lambda: device.status("/system/status") == 200, "a new h-httpd to serve")
        # Root still administers it.
        device.run("h-policy", "grant", "--id", "test-crowd", "uid:60990", "log.read", check=True)
        device.run("h-policy", "revoke", "test-crowd", check=True)
        grown = pss(device, pid) - memory
        print({"admitted": admitted, "grown, KiB": grown})
        assert grown < GROWTH_KIB
    finally:
        for crowd in crowds:
            crowd.communicate(timeout=120)
    device.wait(lambda: descriptors() <= before + 8, "their places to be free again")
    assert daemons(device)["h-securityd.service"] == (pid, restarts), "it was restarted"
