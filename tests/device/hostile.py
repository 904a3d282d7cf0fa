#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Calls every method and property of every HybridOS object on this bus with values of the right type that
nobody would send in earnest, and with messages that have no place there. Prints one JSON object: how
many calls each object answered, and what it did not answer.

    hostile.py SEED ROUNDS
"""
import json
import os
import random
import sys
import xml.etree.ElementTree as ET

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

SEED, ROUNDS = int(sys.argv[1]), int(sys.argv[2])
TIMEOUT_MS = 60_000
dice = random.Random(SEED)
bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)

STRINGS = ["", "a", "/", "//", "..", "../../etc/shadow", "/system/../x", "%n%s%s%s%p", "\n[grant x]\nTo = anyone", "\x1b[2J",
           "\u202egnp", "\ufeff", "'; --", "*", "unix:root", "uid:0", "user:", "anyone", ":1.1", "org.freedesktop.DBus",
           "-1", "18446744073709551616", "0x", "1e999", "NaN", "é" * 300, "a" * 255, "a" * 256, "a" * 4096, "a" * 60000,
           "/" + "a/" * 2000, "\U0001f600" * 2000]
EDGES = {"y": (0, 255), "n": (-2**15, 2**15 - 1), "q": (0, 2**16 - 1), "i": (-2**31, 2**31 - 1), "u": (0, 2**32 - 1),
         "x": (-2**63, 2**63 - 1), "t": (0, 2**64 - 1)}
MAKE = {"y": "byte", "n": "int16", "q": "uint16", "i": "int32", "u": "uint32", "x": "int64", "t": "uint64"}
ANY = ["s", "u", "b", "x", "as", "ay", "a{sv}", "v", "(ss)", "aas", "d", "o", "t"]


def one(signature):
    """The end of the first complete type."""
    if signature[0] == "a":
        return 1 + one(signature[1:])
    if signature[0] not in "({":
        return 1
    depth = 0
    for i, c in enumerate(signature):
        depth += (c in "({") - (c in ")}")
        if not depth:
            return i + 1
    raise ValueError(signature)


def split(signature):
    while signature:
        end = one(signature)
        yield signature[:end]
        signature = signature[end:]


def value(kind, fds, depth=0):
    c = kind[0]
    if c == "s":
        return GLib.Variant("s", dice.choice(STRINGS))
    if c == "o":
        return GLib.Variant("o", dice.choice(["/", "/a", "/org/hybridos/Security1", "/" + "/".join(["a"] * 900)]))
    if c == "g":
        return GLib.Variant("g", dice.choice(["", "s", "a" * 31 + "s", "a{sv}"]))
    if c == "b":
        return GLib.Variant("b", dice.random() < 0.5)
    if c == "d":
        return GLib.Variant("d", dice.choice([0.0, -0.0, float("nan"), float("inf"), 5e-324, 1e308]))
    if c == "h":
        fds.append(os.open("/dev/null", os.O_RDWR) if dice.random() < 0.5 else os.pipe()[dice.randrange(2)])
        return GLib.Variant("h", len(fds) - 1)
    if c == "v":
        if depth > 12:
            return GLib.Variant("v", GLib.Variant("s", ""))
        return GLib.Variant("v", value("v" if dice.random() < 0.3 else dice.choice(ANY), fds, depth + 1))
    if c in MAKE:
        low, high = EDGES[c]
        return getattr(GLib.Variant, "new_" + MAKE[c])(dice.choice([low, high, 0, 1, dice.randint(low, high)]))
    if c == "a":
        inner = kind[1:]
        n = 0 if depth > 6 else dice.choice([0, 1, 2, 300 if depth == 0 else 3])
        return GLib.Variant.new_array(GLib.VariantType.new(inner), [value(inner, fds, depth + 1) for _ in range(n)])
    parts = [value(k, fds, depth + 1) for k in split(kind[1:-1])]
    return GLib.Variant.new_dict_entry(*parts) if c == "{" else GLib.Variant.new_tuple(*parts)


def call(name, path, interface, member, arguments, fds=()):
    """What it answered: a type of reply or the name of an error. Without an answer there is none."""
    handles = Gio.UnixFDList.new_from_array(list(fds)) if fds else None
    try:
        reply, _ = bus.call_with_unix_fd_list_sync(name, path, interface, member, arguments, None,
                                                   Gio.DBusCallFlags.NONE, TIMEOUT_MS, handles, None)
        return reply.get_type_string()
    except GLib.Error as error:
        if error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT):
            return None
        return Gio.dbus_error_get_remote_error(error) or "refused here"


def objects():
    names = bus.call_sync("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ListNames", None, None, 0, -1, None)[0]
    for name in sorted(n for n in names if n.startswith("org.hybridos.")):
        paths = ["/"]
        for path in paths:
            node = ET.fromstring(bus.call_sync(name, path, "org.freedesktop.DBus.Introspectable", "Introspect", None,
                                               None, 0, -1, None)[0])
            paths += [f"{path.rstrip('/')}/{n.get('name')}" for n in node.findall("node")]
            yield name, path, node


def attack(name, path, node):
    for interface in node.findall("interface"):
        title = interface.get("name")
        if title.startswith("org.freedesktop.DBus.") and title != "org.freedesktop.DBus.Properties":
            continue
        for method in interface.findall("method"):
            kinds = [a.get("type") for a in method.findall("arg") if a.get("direction", "in") == "in"]
            for n in range(ROUNDS if kinds else 2):
                fds = []
                arguments = GLib.Variant.new_tuple(*[value(k, fds) for k in kinds])
                yield f"{title}.{method.get('name')} round {n}", call(name, path, title, method.get("name"), arguments, fds)
        for prop in interface.findall("property"):
            if "write" in prop.get("access"):
                for n in range(ROUNDS):
                    fds = []
                    kind = prop.get("type") if n % 2 else "v"
                    v = value(kind, fds)
                    arguments = GLib.Variant("(ssv)", (title, prop.get("name"), v if kind != "v" else v.get_variant()))
                    yield f"{title}.{prop.get('name')} set {n}", call(name, path, "org.freedesktop.DBus.Properties", "Set",
                                                                     arguments, fds)
        # Of the wrong type, and what is not there.
        for member in [m.get("name") for m in interface.findall("method")] + ["NoSuchMethod"]:
            fds = []
            wrong = GLib.Variant.new_tuple(*[value(dice.choice(ANY), fds) for _ in range(dice.randrange(4))])
            yield f"{title}.{member} wrong", call(name, path, title, member, wrong, fds)
    yield "no such interface", call(name, path, "org.example.None1", "Call", GLib.Variant("(s)", ("a" * 60000,)))
    for path in ("/a", "/" + "/".join(["a"] * 1000)):
        yield "no such object", call(name, path, "org.hybridos.Server1", "Call", None)


result = {"answered": {}, "silent": []}
for name, path, node in list(objects()):
    if not any(i.get("name").startswith("org.hybridos.") for i in node.findall("interface")):
        continue
    for what, answer in attack(name, path, node):
        key = f"{name} {path}"
        result["answered"][key] = result["answered"].get(key, 0) + (answer is not None)
        if answer is None:
            result["silent"].append(f"{key} {what}")
json.dump(result, sys.stdout)
