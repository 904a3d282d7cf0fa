# SPDX-License-Identifier: Apache-2.0
"""h-ubus on the device's own bus."""
import json

STRANGER = "60990"


def ubus(device, *arguments, user=None, code=0):
    done = device.run("h-ubus", *arguments, **({"user": user} if user else {}))
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def test_list_shows_documented_typed_members(device):
    names = ubus(device, "list", "org.hybridos.*").stdout.split()
    assert {"org.hybridos.Security1", "org.hybridos.Endpoints1"} <= set(names)
    # A stranger may look, too: what is there is no secret, only what it answers is.
    for user in (None, STRANGER):
        text = ubus(device, "list", "-v", "org.hybridos.Security1", user=user).stdout
        assert "org.hybridos.Security1 - The policy of the device" in text
        assert ("method Check(subject s, permission s) -> (allowed b, rule s, reason s)  [security.check]\n"
                "        Judges without leaving an audit record of a denial\n") in text
        assert "property Generation t read  [security.read]" in text
        assert "[nobody]" not in text


def test_call_get_and_exit_codes(device):
    assert isinstance(json.loads(ubus(device, "call", "org.hybridos.Endpoints1", "List").stdout), list)
    assert isinstance(json.loads(ubus(device, "get", "org.hybridos.Security1", "Generation").stdout), (int, str))
    denied = ubus(device, "call", "org.hybridos.Endpoints1", "List", user=STRANGER, code=4)
    assert "h-policy explain" in denied.stderr
    bad = ubus(device, "call", "org.hybridos.Security1", "Check", "[1, 2]", code=2)
    assert "Expected: Check(subject s, permission s)" in bad.stderr
    ubus(device, "call", "org.hybridos.Security1", "Nothing", code=3)
    ubus(device, "-t", "1", "wait_for", "org.hybridos.Nothing1", code=5)
    ubus(device, "-t", "30", "wait_for", "org.hybridos.Security1", "org.hybridos.Endpoints1")


def test_monitor_is_for_root(device):
    ubus(device, "monitor", user=STRANGER, code=4)
