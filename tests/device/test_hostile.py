# SPDX-License-Identifier: Apache-2.0
"""No daemon falls over, hangs or grows when whoever may call everything calls it with hostile values."""
import json
import os
import pathlib

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
