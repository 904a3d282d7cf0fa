# SPDX-License-Identifier: Apache-2.0
"""Any daemon may be killed at any time, and the device goes on."""
import json
import pathlib

import pytest

from conftest import share

UNITS = ["h-securityd.service", "h-endpointd.service", "h-logged.service", "h-httpd.service", "h-sysinfo.service"]
HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def needed(device):
    device.user("stranger", "60990")


@pytest.mark.parametrize("unit", UNITS)
def test_killed_under_load(device, unit):
    script = (HERE / "kill-under-load.py").read_text()
    others = [u for u in UNITS if u != unit]
    done = device.run("python3", "-", unit, str(share(250)), "16", *others, input=script, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["longest wait of a client, s"] <= 35


def test_warm_caches_allow_nothing_after_the_agent_died(device):
    """A caller whose row is cached loses what a change takes away while h-securityd is dead."""
    call = ["busctl", "call", "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", "org.hybridos.Endpoints1",
            "List"]
    device.run("h-policy", "grant", "--id", "test-warm", "unix:stranger", "endpoint.list", check=True)
    device.run(*call, user="stranger", check=True)
    # The rule's file goes away while the agent is dead, so only the file says so.
    device.run("sh", "-c", "systemctl kill -s STOP h-securityd.service; rm -f /var/lib/hybridos/policy.d/*test-warm*;"
               "systemctl kill -s KILL h-securityd.service", check=True)
    assert device.run(*call, user="stranger").returncode != 0
