# SPDX-License-Identifier: Apache-2.0
"""A bus that is started anew gives its names anew: what was known of a name was of another bus."""
import json
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
NUMBER = 150  # of names that the daemons, which come back at the same time, do not get


def restart(device):
    device.run("systemctl", "restart", "dbus.service", check=True)
    device.wait_healthy()
    device.wait(lambda: device.run("busctl", "call", "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1",
                                   "org.hybridos.Endpoints1", "List").returncode == 0, "h-endpointd to be back")


def after_restart(device, script, user, names):
    """Somebody else may be given one of the names meanwhile: then once more."""
    for _ in range(5):
        restart(device)
        after = json.loads(device.run("python3", script, "reach", *names, user=user, check=True).stdout)
        if after:
            return after
    raise AssertionError(f"{names} went to others")


@pytest.fixture
def users(device):
    """Of the same rights but for one rule."""
    for name, uid in (("known", "60931"), ("other", "60932")):
        device.user(name, uid, groups=["hybridos"])
    device.run("h-policy", "grant", "--id", "test-known", "unix:known", "endpoint.list", check=True)
    yield
    device.run("h-policy", "revoke", "test-known", check=True)


def test_a_name_that_comes_again_is_somebody_else(device, users):
    script = device.put(HERE / "reused-name.py")
    client = device.popen("python3", script, "hold", NUMBER, user="known", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True)
    try:
        before = json.loads(client.stdout.readline())
        *free, bound = before
        # All are allowed to, and judged by a row that is kept; but for the one that acts for somebody who may not.
        assert {before[name] for name in free} == {"passed"} and before[bound] != "passed", before
        for user, names, wanted in (("other", free, {"org.hybridos.Error.AccessDenied"}), ("known", [bound], {"passed"})):
            assert set(after_restart(device, script, user, names).values()) == wanted, user
    finally:
        client.communicate(timeout=60)
