# SPDX-License-Identifier: Apache-2.0
"""What the policy lets daemons and apps do to services that know nothing of it, the bus enforces: the
agent's verdict and what the bus does are the same, and what goes wrong is stricter, never laxer."""
import contextlib
import json
import random
import re
import subprocess

import pytest

SECURITY = ("org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1")
RULES = "/run/hybridos/bus"
SERVICES = ("com.example.Pump1", "com.example.Valve1", "net.example.Foreign1")  # of the last no file knows
APPS = {f"h-test-app{i}": 60900 + i for i in range(6)}
LISTER = ["busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
          "org.freedesktop.systemd1.Manager", "ListUnitsFiltered", "as", "1", "failed"]

OVERLAYS = {
    "com.example.Pump1": ("pump.read", "pump.write", {f"Act{i}": f"pump.act{i % 4}" for i in range(12)} | {"Bare": None}),
    "com.example.Valve1": ("valve.read", None, {"Open": "valve.move", "Close": "valve.move", "Tell": "valve.read"}),
}
BUS_FILE = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy context="default">{}</policy></busconfig>"""


def xml(name):
    read, write, methods = OVERLAYS[name]
    lines = [f'<annotation name="org.hybridos.Destination" value="{name}"/>',
             f'<annotation name="org.hybridos.Properties" value="{read}"/>']
    if write:
        lines.append(f'<annotation name="org.hybridos.Properties.Write" value="{write}"/>')
    for method, permission in methods.items():
        inner = f'<annotation name="org.hybridos.Permission" value="{permission}"/>' if permission else ""
        lines.append(f'<method name="{method}">{inner}</method>')
    return f'<node><interface name="{name}">{"".join(lines)}</interface></node>'


def write(device, path, text):
    device.run("tee", path, input=text, check=True)


def reload_bus(device):
    device.run("busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
               "ReloadConfig")


def bus_error(device):
    answer = device.run("busctl", "--json=short", "get-property", *SECURITY, "BusError", check=True).stdout
    return json.loads(answer)["data"]


SERVERS = {}


@pytest.fixture(scope="module")
def services(device):
    """Two services that overlays describe and one that none does; everybody may send to them by their own
    bus file, as third-party services allow it. Six apps."""
    for name, uid in APPS.items():
        if device.run("id", name).returncode:
            device.run("useradd", "--no-create-home", "--no-user-group", "--gid", "hybridos", "--uid", uid, name,
                       check=True)
    allow = "".join(f'<allow own="{n}"/><allow send_destination="{n}"/>' for n in SERVICES)
    write(device, "/etc/dbus-1/system.d/test-services.conf", BUS_FILE.format(allow))
    for name in OVERLAYS:
        write(device, f"/etc/hybridos/interfaces/{name}.xml", xml(name))
    reload_bus(device)
    device.run("h-policy", "reload", check=True)
    device.wait(lambda: bus_error(device) == "", "the bus to obey")
    program = device.program("bus-pairs")
    # One process each: a rule for a name covers all that the name's owner is called.
    servers = [device.popen(program, "serve", name, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
               for name in SERVICES]
    for name, server in zip(SERVICES, servers, strict=True):
        assert server.stdout.readline() == "ready\n"
        SERVERS[name] = server
    yield program
    for server in servers:
        server.terminate()
        server.wait()
    for name in OVERLAYS:
        device.run("rm", f"/etc/hybridos/interfaces/{name}.xml")
    device.run("rm", "/etc/dbus-1/system.d/test-services.conf")
    device.run("h-policy", "reload", check=True)


@pytest.fixture
def app(device, services):
    yield "h-test-app0"
    for rule in ("test-units", "test-other"):
        device.run("h-policy", "revoke", rule)
    device.wait(lambda: bus_error(device) == "", "the bus to obey")


def calls():
    """(destination, interface, member) on the bus, and (interface, member, kind) for the agent."""
    for name, (_, _, methods) in OVERLAYS.items():
        for method in methods:
            yield (name, name, method), (name, method, "method")
        yield (name, name, "Unheard"), (name, "Unheard", "method")
        yield (name, "-", "Act0"), (name, "-", "method")
        properties = "org.freedesktop.DBus.Properties"
        yield (name, properties, "Get"), (name, "Speed", "get")
        yield (name, properties, "GetAll"), (name, "Speed", "get")
        yield (name, properties, "Set"), (name, "Speed", "set")
        yield (name, "com.example.Other1", "Act0"), ("com.example.Other1", "Act0", "method")
    for method in ("One", "Two", "Three"):
        yield ("net.example.Foreign1", "net.example.Foreign1", method), ("net.example.Foreign1", method, "method")
    # The interface of one service at another's name: what is granted there says nothing here.
    yield ("com.example.Valve1", "com.example.Pump1", "Act0"), (None, None, None)


def verdict(device, user, question):
    interface, member, kind = question
    if interface is None or member == "-" or interface == "-":
        return "denied"
    answer = device.run("busctl", "--json=short", "call", *SECURITY, "ExplainCall", "ssss", f"unix:{user}",
                        interface, member, kind, check=True).stdout
    return json.loads(answer)["data"][0]["verdict"]["data"]


def random_policy(seed):
    """Grants and denies over users, the group and everybody, as a policy file."""
    chance = random.Random(seed)
    permissions = ["pump.*", "pump.read", "pump.write", "valve.*", "valve.read", "valve.move"] + \
                  [f"pump.act{i}" for i in range(4)]
    subjects = [f"unix:{name}" for name in APPS] * 3 + ["group:hybridos", "local"]
    for number in range(14):
        kind = "deny" if number % 4 == 3 else "grant"
        when = chance.choice(["", "", "local", "remote", "encrypted"])
        yield (f"[{kind} test-random-{number}]\nTo = {chance.choice(subjects[:-2] if kind == 'deny' else subjects)}\n"
               f"Permission = {' '.join(chance.sample(permissions, 2))}\n" + (f"When = {when}\n" if when else ""))


@pytest.mark.parametrize("seed", range(4))
def test_agent_and_bus_agree(device, services, seed):
    write(device, "/etc/hybridos/policy.d/80-test-random.policy", "".join(random_policy(seed)))
    try:
        device.run("h-policy", "reload", check=True)
        pairs = 0
        seen = set()
        for user in APPS:
            questions = list(calls())
            lines = "".join(" ".join(call) + "\n" for call, _ in questions)
            done = device.run(services, "try", user=user, input=lines, check=True)
            for (call, question), really in zip(questions, done.stdout.splitlines(), strict=True):
                agent = "denied" if call[1] == "-" else verdict(device, user, question)
                assert really == {"allowed": "passed", "denied": "refused"}[agent], (user, call, agent, really)
                pairs += 1
                seen.add(really)
        assert pairs >= 150 and seen == {"passed", "refused"}
    finally:
        device.run("rm", "/etc/hybridos/policy.d/80-test-random.policy")
        device.run("h-policy", "reload", check=True)


def test_what_nobody_grants_is_the_same_for_every_app_and_service(device, services):
    """Signals pass (they ask for nothing), answers to no call do not, and no app owns a name but through its own
    packaged file: whatever the policy says of the app."""
    device.run("h-policy", "grant", "--id", "test-pairs", f"unix:{next(iter(APPS))}", "pump.*", check=True)
    pairs = 0
    try:
        for user in APPS:
            marks = [f"{user.replace('-', '_')}_{i}" for i in range(len(SERVICES))]
            lines = "".join(f"!reply {name}\n!signal {name} {mark}\n" for name, mark in zip(SERVICES, marks))
            names = ["org.hybridos.Endpoints1", "org.hybridos.Security1", "com.example.Nobodys1", "org.freedesktop.systemd1",
                     f"org.hybridos.Test.{user.replace('-', '_')}"]
            lines += "".join(f"!own {name}\n" for name in names)
            done = device.run(services, "try", user=user, input=lines, check=True)
            assert done.stdout.split() == ["sent"] * 2 * len(SERVICES) + ["refused"] * len(names), (user, done.stdout)
            for name, mark in zip(SERVICES, marks):
                # What comes before the mark would be the unrequested answer.
                assert SERVERS[name].stdout.readline() == f"signal {mark}\n", (user, name)
            pairs += len(lines.splitlines())
    finally:
        device.run("h-policy", "revoke", "test-pairs", check=True)
    assert pairs >= 60


def test_grant_opens_a_third_party_service_and_revoke_closes_it(device, app):
    assert device.run(*LISTER, user=app).returncode != 0
    device.run("h-policy", "grant", "--id", "test-units", f"unix:{app}", "units.read", check=True)
    assert device.run(*LISTER, user=app).returncode == 0
    property_of = ["busctl", "get-property", *LISTER[2:5], "NFailedUnits"]
    assert device.run(*property_of, user=app).returncode == 0
    start = ["busctl", "call", *LISTER[2:5], "StartUnit", "ss", "nothing.service", "replace"]
    assert "denied" in device.run(*start, user=app).stderr.lower()
    device.run("h-policy", "revoke", "test-units", check=True)
    assert device.run(*LISTER, user=app).returncode != 0
    assert device.run(*property_of, user=app).returncode != 0


def test_others_are_left_to_the_bus(device, services):
    """Neither root nor a user who is no app is asked about; explain says so instead of guessing."""
    device.user("stranger", "60990")
    assert verdict(device, "stranger", ("org.freedesktop.systemd1.Manager", "ListUnits", "method")) == "ungoverned"


def test_nobody_but_the_agent_owns_a_canary(device, app):
    canary = device.run("bash", "-c", f"grep -ho 'own=\"[^\"]*' {RULES}/*.conf").stdout.split('"')[1].strip()
    assert canary.startswith("org.hybridos.Security1.Rules.")
    for user in (app, "root"):
        done = device.run("busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                          "RequestName", "su", canary, "4", user=user)
        assert done.returncode != 0


def test_a_changed_rules_file_is_noticed_at_the_next_change(device, app):
    """Over-large, malformed or missing: the next grant writes it anew and proves it."""
    device.run("h-policy", "grant", "--id", "test-units", f"unix:{app}", "units.read", check=True)
    for damage in (f"rm {RULES}/hybridos-0.conf", f"echo '<busconfig>' > {RULES}/hybridos-0.conf",
                   f"head -c 1500000 /dev/zero | tr '\\0' ' ' >> {RULES}/hybridos-0.conf"):
        device.run("bash", "-c", damage, check=True)
        reload_bus(device)
        device.run("h-policy", "grant", "--id", "test-other", f"unix:{app}", "time.read", check=True)
        assert device.run(*LISTER, user=app).returncode == 0
        device.run("h-policy", "revoke", "test-other", check=True)


def test_a_bus_that_does_not_obey_makes_a_grant_fail_and_a_revoke_loud(device, app, bus):
    """Somebody else's broken file: dbus-broker then ignores the whole reload, dbus-daemon skips that file
    only. Either way nobody has more than before, and a repaired bus recovers by itself."""
    device.run("h-policy", "grant", "--id", "test-units", f"unix:{app}", "units.read", check=True)
    write(device, "/etc/dbus-1/system.d/test-broken.conf", "<busconfig><policy")
    try:
        done = device.run("h-policy", "grant", "--id", "test-other", f"unix:{app}", "time.read")
        if bus == "dbus-daemon":
            assert done.returncode == 0, done.stderr
            device.run("h-policy", "revoke", "test-units", check=True)
            assert device.run(*LISTER, user=app).returncode != 0
            return
        assert done.returncode != 0 and "Not granted: the bus" in done.stderr
        assert "test-other" not in device.run("h-policy", "list", check=True).stdout
        assert "the bus" in bus_error(device)
        done = device.run("h-policy", "revoke", "test-units")
        assert done.returncode != 0 and "may still let calls" in done.stderr
        assert "test-units" not in device.run("h-policy", "list", check=True).stdout
    finally:
        device.run("rm", "/etc/dbus-1/system.d/test-broken.conf")
    device.wait(lambda: bus_error(device) == "", "the bus to obey again", seconds=90)
    assert device.run(*LISTER, user=app).returncode != 0


def test_rules_outlive_the_agent_and_it_takes_up_what_is_there(device, app):
    device.run("h-policy", "grant", "--id", "test-units", f"unix:{app}", "units.read", check=True)
    device.run("systemctl", "kill", "--signal=KILL", "h-securityd.service", check=True)
    assert device.run(*LISTER, user=app).returncode == 0
    device.wait(lambda: device.run("h-policy", "revoke", "test-units").returncode == 0, "h-securityd to be back")
    assert device.run(*LISTER, user=app).returncode != 0


LINE = ('[system] Rejected send message, 1 matched rules; type="method_call", sender=":1.7" (uid={uid} pid=59 comm="x") '
        'interface="com.example.Pump1" member="Forged" error name="(unset)" requested_reply="0" '
        'destination="com.example.Pump1" (bus)')
FIELDS = {"TRANSMIT_ACTION": "send", "MESSAGE_TYPE": "method_call", "SENDER_UNIQUE_NAME": ":1.0",
          "MESSAGE_DESTINATION": "com.example.Pump1", "MESSAGE_INTERFACE": "com.example.Pump1", "MESSAGE_MEMBER": "Forged"}


def refusals(device):
    """What the audit has of the bus."""
    answer = device.run("busctl", "--json=short", "call", *SECURITY, "ListAudit", "a{sv}u", "1", "verdict", "s", "denied",
                        "1000", check=True).stdout
    records = ({k: v["data"] for k, v in record.items()} for record in json.loads(answer)["data"][0])
    return [r for r in records if r["layer"] == 1]


@contextlib.contextmanager
def calling(device, program, user, call):
    """Somebody who makes a call and stays: dbus-broker's log names the connection alone."""
    client = device.popen(program, "try", user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        client.stdin.write(f"{call}\n")
        client.stdin.flush()
        yield
    finally:
        assert client.communicate(timeout=60)[0] == "refused\n"


def refused_at(device, name, user):
    call = f"com.example.Pump1: com.example.Pump1.{name} (method)"
    return next((r for r in refusals(device) if r["call"].startswith(call) and r["subject"] == f"uid:{APPS[user]}"), None)


def test_what_the_bus_refuses_is_in_the_audit(device, services, app):
    with calling(device, services, app, "com.example.Pump1 com.example.Pump1 Act1"):
        record = device.wait(lambda: refused_at(device, "Act1", app), "the refusal in the audit")
    assert record["permission"] == "pump.act1" and record["rule"] == "default"
    text = device.run("h-policy", "explain", record["audit"], check=True).stdout
    assert re.search(r"^layer +1$", text, re.M), text
    assert re.search(rf"^suggestion +h-policy grant uid:{APPS[app]} pump.act1$", text, re.M), text
    before = record.get("count", 1)
    with calling(device, services, app, "com.example.Pump1 com.example.Pump1 Act1"):
        device.wait(lambda: refused_at(device, "Act1", app).get("count", 1) > before, "the next one to be counted")


def test_whoever_has_left_the_bus_is_refused_under_its_name(device, services, app, bus):
    """As far as the log tells: dbus-daemon knows the user, dbus-broker the connection."""
    device.run("busctl", "call", "com.example.Pump1", "/", "com.example.Pump1", "Act11", user=app)

    names = [rf"uid:{APPS[app]}"] + ([r"bus::1\.[0-9]+"] if bus == "dbus-broker" else [])

    def found():
        return any("com.example.Pump1.Act11 (method)" in r["call"] and re.fullmatch("|".join(names), r["subject"])
                   for r in refusals(device))
    device.wait(found, "the refusal in the audit")


def test_a_forged_refusal_does_not_count(device, services, app):
    """In the words of either bus, by a user, by the bus's own user in another unit, and by root."""
    line = LINE.format(uid=APPS[app])
    fields = "".join(f"DBUS_BROKER_{k}={v}\n" for k, v in FIELDS.items()) + f"_SYSTEMD_UNIT=dbus.service\nMESSAGE={line}\n"
    for user in (app, "messagebus", "root"):
        device.run("logger", "--id=1", "-t", "dbus-daemon", "-p", "auth.notice", line, user=user, check=True)
        device.run("logger", "--journald", user=user, input=fields, check=True)
    device.run("systemd-run", "--quiet", "--wait", "--unit=dbus-forged", "--property=User=messagebus", "logger",
               "-t", "dbus-daemon", line, check=True)
    # What is said later is read later.
    with calling(device, services, app, "com.example.Pump1 com.example.Pump1 Act3"):
        device.wait(lambda: refused_at(device, "Act3", app), "a true refusal in the audit")
    assert not [r for r in refusals(device) if "Forged" in r["call"]]
    assert "Forged" in device.run("h-logread", "--no-pager", "--lines=2000", check=True).stdout
