# SPDX-License-Identifier: Apache-2.0
"""Conditions of rules, as a caller meets them: a rate, an argument, a window of time, a network."""
import json
import re

import pytest

USER, UID = "conditioned", "60996"
ENDPOINTS = ("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", "org.hybridos.Endpoints1")
SECURITY = ("org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1")


@pytest.fixture(autouse=True)
def user(device):
    device.user(USER, UID)
    # The development drop-in lets everybody list; here it must be these rules.
    device.write("/etc/hybridos/policy.d/76-test-deny.policy",
                 f"[deny test-conditions-all]\nTo = unix:{USER}\nPermission = unheard.of\n")
    yield USER
    for rule in re.findall(r"\[grant (test-conditions\S*)\]", device.run("h-policy", "list", check=True).stdout):
        device.run("h-policy", "revoke", rule, check=True)
    device.run("rm", "-f", "/etc/hybridos/policy.d/76-test-deny.policy")
    device.run("h-policy", "reload", check=True)


def explain(device, done):
    audit = re.search(r"h-policy explain ([0-9a-z-]+)", done.stderr)[1]
    return device.run("h-policy", "explain", audit, check=True).stdout


def check(device, subject, permission):
    return device.run("busctl", "call", *SECURITY, "Check", "ss", subject, permission, user=USER)


def grant(device, permission, when):
    device.run("h-policy", "grant", "--id", "test-conditions", "--when", when, f"unix:{USER}", permission, check=True)


def test_a_rate_counts_calls(device):
    grant(device, "security.read", "rate=3/h")
    call = ("busctl", "call", *SECURITY, "ListRules")
    for _ in range(3):
        done = device.run(*call, user=USER)
        assert done.returncode == 0, done.stderr
    done = device.run(*call, user=USER)
    assert done.returncode != 0
    assert "meet the conditions of rule test-conditions (When = rate=3/h)" in explain(device, done)
    # Others are not slowed by it.
    assert device.run(*call).returncode == 0


def test_an_argument_decides(device):
    grant(device, "security.explain", "arg.subject=anonymous")
    call = ("busctl", "call", *SECURITY, "ExplainCall", "ssss")
    rest = ("org.hybridos.Log1", "Read", "method")
    done = device.run(*call, "anonymous", *rest, user=USER)
    assert done.returncode == 0, done.stderr
    done = device.run(*call, "uid:0", *rest, user=USER)
    assert done.returncode != 0 and "arg.subject=anonymous" in explain(device, done)


def test_a_deny_of_an_argument(device):
    grant(device, "security.explain", "local")
    device.write("/etc/hybridos/policy.d/76-test-deny.policy",
                 f"[deny test-conditions-root]\nTo = unix:{USER}\nPermission = security.explain\n"
                 "When = arg.subject=uid:0\n")
    device.run("h-policy", "reload", check=True)
    call = ("busctl", "call", *SECURITY, "ExplainCall", "ssss")
    rest = ("org.hybridos.Log1", "Read", "method")
    assert device.run(*call, "anonymous", *rest, user=USER).returncode == 0
    done = device.run(*call, "uid:0", *rest, user=USER)
    assert done.returncode != 0 and "rule \"test-conditions-root\"" in done.stderr


def test_a_window_of_time(device):
    call = ("busctl", "call", *SECURITY, "ListRules")
    now = device.run("date", "+%a", check=True).stdout.strip().lower()[:3]
    other = {"mon": "wed", "tue": "thu", "wed": "fri", "thu": "sat", "fri": "sun", "sat": "mon", "sun": "tue"}[now]
    grant(device, "security.read", f"days={other}")
    assert device.run(*call, user=USER).returncode != 0
    device.run("h-policy", "revoke", "test-conditions", check=True)
    # Yesterday to tomorrow, so that midnight does not matter.
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    i = days.index(now)
    grant(device, "security.read", f"days={days[i - 1]},{now},{days[(i + 1) % 7]}")
    assert device.run(*call, user=USER).returncode == 0


def test_layer_1_gives_no_allow_for_what_the_bus_cannot_see(device):
    """The bus knows neither rates nor arguments: a conditioned grant opens nothing there."""
    app = device.user("conditioned-app", "60997", groups=["hybridos"])
    lister = ("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
              "org.freedesktop.systemd1.Manager", "ListUnitsFiltered", "as", "1", "failed")
    for when in ("rate=100/s", "arg.states=failed", "time=00:00-24:00"):
        device.run("h-policy", "grant", "--id", "test-conditions", "--when", when, f"unix:{app}", "units.read",
                   check=True)
        assert device.run(*lister, user=app).returncode != 0, when
        device.run("h-policy", "revoke", "test-conditions", check=True)


def test_requests_from_a_network(device):
    """Of a client with a token: it comes from loopback here."""
    def status(path, token):
        return device.status(path, "--header", f"Authorization: Bearer {token}")
    device.run("h-policy", "user", "add", "test-conditions", check=True)
    try:
        token = json.loads(device.run("h-policy", "--json", "token", "add", "--user", "test-conditions",
                                      "test-conditions", check=True).stdout)["secret"]
        device.write("/etc/hybridos/policy.d/76-test-deny.policy",
                     "[deny test-conditions-net]\nTo = user:test-conditions\nPermission = endpoint.read:/system/status\n"
                     "When = peer=127.0.0.0/8\n"
                     "[deny test-conditions-net6]\nTo = user:test-conditions\nPermission = endpoint.read:/system/status\n"
                     "When = peer=::1\n")
        assert status("/system/status", token) == 200
        device.run("h-policy", "reload", check=True)
        assert status("/system/status", token) == 403
        device.write("/etc/hybridos/policy.d/76-test-deny.policy",
                     "[deny test-conditions-net]\nTo = user:test-conditions\nPermission = endpoint.read:/system/status\n"
                     "When = peer=192.0.2.0/24\n")
        device.run("h-policy", "reload", check=True)
        assert status("/system/status", token) == 200
    finally:
        device.run("h-policy", "user", "remove", "test-conditions", check=True)


def test_requests_at_a_rate(device):
    def status(token):
        return device.status("/system/status", "--header", f"Authorization: Bearer {token}")
    device.run("h-policy", "user", "add", "test-conditions", check=True)
    development = "/etc/hybridos/policy.d/90-development.policy"
    device.run("mv", development, "/run/development.policy", check=True)
    try:
        token = json.loads(device.run("h-policy", "--json", "token", "add", "--user", "test-conditions",
                                      "test-conditions", check=True).stdout)["secret"]
        device.run("h-policy", "reload", check=True)
        assert status(token) == 403
        device.run("h-policy", "grant", "--id", "test-conditions", "--when", "rate=2/h", "user:test-conditions",
                   "endpoint.read:/system/status", check=True)
        assert [status(token) for _ in range(3)] == [200, 200, 403]
    finally:
        device.run("mv", "/run/development.policy", development, check=True)
        device.run("h-policy", "user", "remove", "test-conditions", check=True)
