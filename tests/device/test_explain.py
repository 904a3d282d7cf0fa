# SPDX-License-Identifier: Apache-2.0
"""From "denied" to a minimal grant: explain, simulate and record, as an engineer uses them."""
import json
import re
import subprocess

import pytest

SECURITY = ("org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1")
LIST = ("busctl", "call", "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", "org.hybridos.Endpoints1", "List")
USER, UID = "explained", "61077"


@pytest.fixture(autouse=True)
def user(device):
    device.user(USER, UID)
    yield USER
    for rule in re.findall(r"\[grant (test-explain\S*)\]", device.run("h-policy", "list", check=True).stdout):
        device.run("h-policy", "revoke", rule, check=True)


def refused(device):
    done = device.run(*LIST, user=USER)
    assert done.returncode != 0, done.stdout
    return re.search(r"h-policy explain ([0-9a-z-]+)", done.stderr)[1]


def explain(device, *words):
    return device.run("h-policy", "explain", *words, check=True).stdout


def value(text, key):
    return re.search(rf"^{key} +(.*)$", text, re.M)[1]


def test_three_commands_lead_from_a_refusal_to_the_smallest_grant(device):
    text = explain(device, refused(device))
    assert value(text, "layer") == "2" and value(text, "rule") == "default"
    assert f"uid={UID}" in value(text, "inputs")
    assert int(value(text, "generation")) > 0
    line = value(text, "suggestion")
    assert line == f"h-policy grant uid:{UID} endpoint.list"
    words = line.split()
    device.run(*words[:2], "--id", "test-explain", *words[2:], check=True)
    assert device.run(*LIST, user=USER).returncode == 0
    text = explain(device, f"unix:{USER}", "org.hybridos.Endpoints1.List")
    assert value(text, "verdict") == "allowed" and value(text, "rule") == "test-explain"
    assert re.match(r"/var/lib/hybridos/policy\.d/.*test-explain", value(text, "file"))


def test_a_live_connection_is_explained(device):
    refused(device)
    client = device.popen("h-ubus", "listen", "org.hybridos.Endpoints1", user=USER, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def name():
            listing = json.loads(device.run("busctl", "--json=short", "--unique", "list", check=True).stdout)
            return next((e["name"] for e in listing if e.get("user") == USER), None)
        device.wait(name, "the connection")
        text = explain(device, name())
        assert value(text, "subject") == f"uid:{UID}"
        assert f"h-policy grant uid:{UID} endpoint.list" in text
        text = explain(device, name(), "org.hybridos.Log1.Read")
        assert value(text, "verdict") == "denied"
    finally:
        client.terminate()
        client.wait()
    assert device.run("h-policy", "explain", ":1.99999999").returncode == 3
    assert device.run("h-policy", "explain", "nonsense-1").returncode == 3


def simulate(device, text, name="75-test-explain.policy"):
    answer = device.run("h-policy", "--json", "simulate", f"/tmp/{name}") if device.run(
        "tee", f"/tmp/{name}", input=text).returncode == 0 else None
    device.run("rm", f"/tmp/{name}")
    return answer


def plain(record):
    return {k: v["value"] if isinstance(v, dict) else v for k, v in record.items()}


def test_simulate_shows_what_would_change_and_changes_nothing(device):
    refused(device)
    before = device.run("h-policy", "list", check=True).stdout
    done = simulate(device, f"[grant test-explain]\nTo = uid:{UID}\nPermission = endpoint.list\n")
    assert done.returncode == 0, done.stderr
    allowed, denied, _ = json.loads(done.stdout)
    mine = [plain(c) for c in allowed]
    assert any(c["subject"] == f"uid:{UID}" and c["permission"] == "endpoint.list" and c["service"] == "endpointd"
               and int(c["count"]) >= 1 and c["rule"] == "test-explain" for c in mine), mine
    assert denied == []
    # h-httpd is connected, and would lose what it lives on.
    done = simulate(device, "[deny test-explain]\nTo = unix:h-httpd\nPermission = security.row\n")
    allowed, denied, _ = json.loads(done.stdout)
    httpd = device.run("id", "-u", "h-httpd", check=True).stdout.strip()
    assert any(plain(c)["subject"] == f"uid:{httpd}" and plain(c)["permission"] == "security.row" for c in denied)
    assert device.run("h-policy", "list", check=True).stdout == before
    assert device.run(*LIST, user=USER).returncode != 0
    done = simulate(device, "[grant test-explain]\nTo = uid:1\nPermission = No!\n")
    assert done.returncode == 2 and "75-test-explain.policy:3:" in done.stderr


def test_record_proposes_what_a_run_needs(device):
    run = ("runuser", "-u", USER, "--", *LIST)
    done = device.run("h-policy", "record", "--id", "test-explain", f"unix:{USER}", "--", *run)
    assert done.returncode == 0, done.stderr
    assert "endpoint.list: was refused at endpointd" in done.stdout
    assert re.search(rf"^\[grant test-explain\]\nTo         = unix:{USER}\nPermission = endpoint.list$", done.stdout, re.M)
    # The proposal is a policy: nothing else is needed.
    path = "/etc/hybridos/policy.d/75-test-explain.policy"
    device.run("tee", path, input=done.stdout, check=True)
    try:
        device.run("h-policy", "reload", check=True)
        device.run(*run, check=True)
    finally:
        device.run("rm", path)
        device.run("h-policy", "reload", check=True)
    assert device.run(*run).returncode != 0


def test_a_permissive_run_goes_through_and_leaves_nothing_open(device):
    run = ("runuser", "-u", USER, "--", *LIST)
    for _ in range(2):  # also when the daemons know already what the subject uses
        done = device.run("h-policy", "record", "--permissive", f"unix:{USER}", "--", *run)
        assert done.returncode == 0, done.stderr
        assert "endpoint.list: was used at endpointd" in done.stdout
        assert "Permission = endpoint.list\n" in done.stdout
        assert device.run(*run).returncode != 0


def test_these_questions_are_not_for_everybody(device):
    for call in (["Simulate", "ss", "x", ""], ["Record", "s", "uid:0"], ["ListCalls", "a{sv}u", "0", "1"],
                 ["ExplainConnection", "s", ":1.1"]):
        done = device.run("busctl", "call", *SECURITY, *call, user=USER)
        assert done.returncode != 0 and "h-policy explain" in done.stderr, call


def test_a_grant_that_polkit_can_undo_says_so(device):
    app = device.user("explained-app", "61076", groups=["hybridos"])
    done = device.run("h-policy", "grant", "--id", "test-explain-time", f"unix:{app}", "time.*", check=True)
    assert "org.freedesktop.timedate1.set-time" in done.stderr and "polkit.addRule" in done.stderr
    text = explain(device, f"unix:{app}", "org.freedesktop.timedate1.SetTime")
    assert value(text, "verdict") == "allowed" and value(text, "layer") == "1"
    assert "asks polkit for org.freedesktop.timedate1.set-time" in value(text, "reason")
    done = device.run("h-policy", "grant", "--id", "test-explain-read", f"unix:{app}", "units.read", check=True)
    assert done.stderr == ""
