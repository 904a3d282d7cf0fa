#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whoever calls List of Endpoints1 under a unique name that somebody else had before, or will have after.

    reused-name.py hold NUMBER   opens connections until one is called :1.NUMBER or above, then calls on the next few;
                                 the last of them is bound to nobody in particular (anonymous) first
    reused-name.py reach NAME... opens connections until none of these can come any more, and calls on those that have come

Prints a JSON object, what the call on each name gave; `hold` then stays until its standard input ends.
"""
import json
import sys

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

HELD = 8
ADDRESS = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SYSTEM)
FLAGS = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION


def call(bus, name, member, arguments=None):
    try:
        bus.call_sync(f"org.hybridos.{name}", f"/org/hybridos/{name}", f"org.hybridos.{name}", member, arguments, None,
                      Gio.DBusCallFlags.NONE, 60_000, None)
    except GLib.Error as e:
        return Gio.dbus_error_get_remote_error(e) or e.message
    return "passed"


def connect():
    bus = Gio.DBusConnection.new_for_address_sync(ADDRESS, FLAGS, None, None)
    return bus, int(bus.get_unique_name().split(".")[1])


def reach(number):
    while True:
        bus, reached = connect()
        if reached >= number:
            return bus
        bus.close_sync()


def hold(number):
    held = [reach(number)] + [connect()[0] for _ in range(HELD - 1)]
    assert call(held[-1], "Security1", "Bind", GLib.Variant("(t)", (0,))) == "passed"
    # Twice: the second one is judged by what was kept of the first.
    print(json.dumps({bus.get_unique_name(): [call(bus, "Endpoints1", "List") for _ in range(2)][1] for bus in held}),
          flush=True)
    sys.stdin.read()


def again(names):
    result, last = {}, max(int(name.split(".")[1]) for name in names)
    while True:
        bus, number = connect()
        if number > last:
            break
        if bus.get_unique_name() in names:
            result[bus.get_unique_name()] = call(bus, "Endpoints1", "List")
        bus.close_sync()
    print(json.dumps(result))


hold(int(sys.argv[2])) if sys.argv[1] == "hold" else again(sys.argv[2:])
