# SPDX-License-Identifier: Apache-2.0
"""What every live HybridOS object says of itself is what its installed interface file says, member by
member, and no member is without a permission."""
import json
import xml.etree.ElementTree as ET

PERMISSION = "org.hybridos.Permission"
FILES = "/usr/lib/hybridos/interfaces"


def surface(interface):
    """{(kind, name): (names, types and directions of arguments)} or (type, access) of a property."""
    members = {}
    for method in interface.findall("method"):
        members["method", method.get("name")] = [
            (a.get("name"), a.get("type"), a.get("direction", "in")) for a in method.findall("arg")]
    for signal in interface.findall("signal"):
        members["signal", signal.get("name")] = [(a.get("name"), a.get("type")) for a in signal.findall("arg")]
    for prop in interface.findall("property"):
        members["property", prop.get("name")] = (prop.get("type"), prop.get("access"))
    return members


def live(device):
    """(bus name, path, interface element) of every HybridOS interface on the bus."""
    listing = json.loads(device.run("busctl", "--json=short", "--acquired", "list", check=True).stdout)
    for name in sorted(e["name"] for e in listing if e["name"].startswith("org.hybridos.")):
        for path in device.run("busctl", "--list", "tree", name, check=True).stdout.split():
            answer = device.run("busctl", "--json=short", "call", name, path,
                                "org.freedesktop.DBus.Introspectable", "Introspect", check=True).stdout
            for interface in ET.fromstring(json.loads(answer)["data"][0]).findall("interface"):
                if interface.get("name").startswith("org.hybridos."):
                    yield name, path, interface


def installed(device, name):
    text = device.run("cat", f"{FILES}/{name}.xml", check=True).stdout
    return next(i for i in ET.fromstring(text).findall("interface") if i.get("name") == name)


def test_live_objects_are_as_their_files_say(device):
    names = set()
    for name, path, interface in live(device):
        expected = surface(installed(device, interface.get("name")))
        assert surface(interface) == expected, f"{interface.get('name')} of {name} at {path}"
        names.add(interface.get("name"))
        for annotation in interface.iter("annotation"):
            # sd-bus would ask for root by itself, after our filter has allowed the call.
            assert annotation.get("name") != "org.freedesktop.systemd1.Privileged", (name, path)
    assert {"org.hybridos.Security1", "org.hybridos.Endpoints1"} <= names


def test_no_member_is_without_a_permission(device):
    seen = 0
    for _, _, interface in live(device):
        for member in [m for m in installed(device, interface.get("name")) if m.tag != "annotation"]:
            own = {a.get("name"): a.get("value") for a in member.findall("annotation")}
            what = f"{interface.get('name')}.{member.get('name')}"
            access = member.get("access", "")
            needed = []
            if member.tag != "property" or "read" in access:
                needed.append(own.get(PERMISSION + ".Read") or own.get(PERMISSION))
            if "write" in access:
                needed.append(own.get(PERMISSION + ".Write") or own.get(PERMISSION))
            assert needed and all(needed), f"{what} is without a permission"
            seen += 1
    assert seen >= 20
