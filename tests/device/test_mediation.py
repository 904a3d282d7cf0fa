# SPDX-License-Identifier: Apache-2.0
"""Every member of every HybridOS object is refused to a stranger, the refusal is recorded and
explained; a grant opens it, and nothing slips through after a revoke."""
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

from conftest import share

EMPTY = {"s": [""], "g": [""], "o": ["/"], "b": ["false"], "v": ["s", ""]}
STRANGER, STRANGER_UID = "stranger", "60990"  # no rule names it


@pytest.fixture(autouse=True)
def needed(device):
    device.user(STRANGER, STRANGER_UID)


def objects(device):
    """(bus name, path, introspection) of everything that our daemons publish."""
    listing = json.loads(device.run("busctl", "--json=short", "--acquired", "list", check=True).stdout)
    for name in sorted(e["name"] for e in listing if e["name"].startswith("org.hybridos.")):
        tree = device.run("busctl", "--list", "tree", name, check=True).stdout
        for path in tree.split():
            answer = device.run("busctl", "--json=short", "call", name, path,
                                "org.freedesktop.DBus.Introspectable", "Introspect", check=True).stdout
            yield name, path, ET.fromstring(json.loads(answer)["data"][0])


def members(device):
    for name, path, node in objects(device):
        for interface in node.iter("interface"):
            if not interface.get("name").startswith("org.hybridos."):
                continue
            for method in interface.iter("method"):
                signature = "".join(a.get("type") for a in method.iter("arg") if a.get("direction") != "out")
                yield name, path, interface.get("name"), method.get("name"), "method", signature
            for prop in interface.iter("property"):
                yield name, path, interface.get("name"), prop.get("name"), "get", prop.get("type")


def arguments(signature):
    """Words for busctl that fill `signature` with empty values."""
    words, i = [], 0
    while i < len(signature):
        c = signature[i]
        if c == "a":
            words.append("0")
            i += 1
            while signature[i] == "a":
                i += 1
            if signature[i] in "({":
                depth = 0
                while True:
                    depth += (signature[i] in "({") - (signature[i] in ")}")
                    if not depth:
                        break
                    i += 1
        elif c in EMPTY:
            words += EMPTY[c]
        elif c not in "()":
            words.append("0")
        i += 1
    return [signature, *words] if signature else []


def attempt(device, member, user=STRANGER):
    name, path, interface, what, kind, signature = member
    if kind == "method":
        command = ["busctl", "call", name, path, interface, what, *arguments(signature)]
    else:
        command = ["busctl", "call", name, path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, what]
    return device.run(*command, user=user)


def test_every_member_is_refused_recorded_and_explained(device):
    seen = 0
    for member in members(device):
        done = attempt(device, member)
        text = done.stdout + done.stderr
        assert done.returncode != 0, f"{member} was allowed to a stranger"
        audit = re.search(r"h-policy explain ([0-9a-z-]+)", text)
        assert audit, f"{member}: the refusal names no audit id: {text}"
        explained = device.run("h-policy", "explain", audit[1], check=True).stdout
        assert "default" in explained, f"{member}: no rule in: {explained}"
        assert member[3] in explained, f"{member}: not the call that was made: {explained}"
        seen += 1
    assert seen >= 20


def test_introspection_and_ping_are_free(device):
    for name in ("org.hybridos.Security1", "org.hybridos.Endpoints1"):
        path = "/" + name.replace(".", "/")
        device.run("busctl", "call", name, path, "org.freedesktop.DBus.Peer", "Ping", user=STRANGER, check=True)
        device.run("busctl", "call", name, path, "org.freedesktop.DBus.Introspectable", "Introspect",
                   user=STRANGER, check=True)


def test_grant_opens_and_revoke_closes(device):
    member = ("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", "org.hybridos.Endpoints1", "List", "method", "")
    assert attempt(device, member).returncode != 0
    device.run("h-policy", "grant", "--id", "test-list", f"unix:{STRANGER}", "endpoint.list", check=True)
    try:
        done = attempt(device, member)
        assert done.returncode == 0, done.stderr
    finally:
        device.run("h-policy", "revoke", "test-list", check=True)
    assert attempt(device, member).returncode != 0


def test_nobody_else_takes_a_name_while_its_service_restarts(device):
    """A name is its daemon's alone, there or not: not a stranger's, not an app's, not another daemon's."""
    names = {"org.hybridos.Endpoints1": "h-endpointd", "org.hybridos.Security1": "h-securityd",
             "org.hybridos.Http1": "h-httpd"}
    device.user("squatter", "60991", groups=["hybridos"])  # as every app is
    request = ["busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
               "RequestName", "su"]
    for name, unit in names.items():
        if not device.has(f"/usr/sbin/{unit}"):
            continue
        device.run("systemctl", "mask", "--runtime", "--now", f"{unit}.service", check=True)
        try:
            owned = device.run("busctl", "call", *request[2:5], "NameHasOwner", "s", name, check=True)
            assert owned.stdout.split() == ["b", "false"], owned.stdout
            for user in ("stranger", "squatter", *(u for u in names.values() if u != unit)):
                done = device.run(*request, name, "4", user=user)
                assert done.returncode != 0 and "denied" in done.stderr.lower(), (name, user, done.stdout, done.stderr)
            assert device.run(*request, name, "4", user=unit, check=True).stdout.split() == ["u", "1"]
        finally:
            device.run("systemctl", "unmask", "--runtime", f"{unit}.service", check=True)
            device.run("systemctl", "start", f"{unit}.service", check=True)
    # Its own daemon takes it back (or the tests that follow would see).
    device.run("h-ubus", "-t", "60", "wait_for", *(n for n, u in names.items() if device.has(f"/usr/sbin/{u}")),
               check=True)


@pytest.mark.parametrize("service", ["Endpoints1", "Security1"])
def test_no_call_is_allowed_after_revoke_has_returned(device, service):
    method, permission = {"Endpoints1": ("List", "endpoint.list"), "Security1": ("ListRules", "security.read")}[service]
    rounds = str(share(10000 if service == "Endpoints1" else 1000, 100))
    program = device.program("revoke-race")
    done = device.run(program, f"org.hybridos.{service}", f"/org/hybridos/{service}", f"org.hybridos.{service}",
                      method, permission, STRANGER_UID, "8", rounds, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["late"] == 0


def test_every_outcome_agrees_with_the_history_of_the_policy(device):
    """Administrators change grants and denials at random, the agent is killed meanwhile; no call is judged
    by what a change had replaced before it was sent."""
    seed = int(os.environ.get("HYBRIDOS_SEED", int.from_bytes(os.urandom(3), "big")))
    print(f"HYBRIDOS_SEED={seed}")
    device.user("model-user", "61092")
    device.user("model-other", "61093")
    device.run("groupadd", "--gid", "61094", "model-group")
    model = device.popen(device.program("policy-model"), "61092", "61094", "61093", str(seed),
                         str(share(600, 60)),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kills = 0
    try:
        while True:
            try:
                output, errors = model.communicate(timeout=3)
                break
            except subprocess.TimeoutExpired:
                device.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "h-securityd.service")
                kills += 1
    finally:
        model.kill()
        model.wait()
        device.run("rm", "--force", "/etc/hybridos/policy.d/test-model.policy")
        device.run("systemctl", "start", "h-securityd.service", check=True)
        device.wait(lambda: device.run("h-policy", "reload").returncode == 0, "the agent is back")
    print(output, f"{kills} kills of the agent")
    assert model.returncode == 0, output + errors
