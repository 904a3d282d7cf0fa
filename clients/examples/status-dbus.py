#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The device's status over plain D-Bus: no SDK, only python3-dbus. Any D-Bus library does the same: publish an object with
org.hybridos.Responder1, and register it.

    ./hybridos app run --endpoint /examples/status-dbus -- clients/examples/status-dbus.py
"""
import json
import os
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

RESPONDER = "org.hybridos.Responder1"
OBJECT = "/org/example/status"
namespace = sys.argv[1] if len(sys.argv) > 1 else "/examples/status-dbus"


def sample():
    with open("/proc/uptime", encoding="ascii") as f:
        uptime = int(float(f.read().split()[0]))
    return {"hostname": os.uname().nodename, "uptime": uptime, "load": os.getloadavg()}


class Status(dbus.service.Object):
    # Only the servers can call these: the bus keeps everybody else away.

    @dbus.service.method(RESPONDER, in_signature="a{sv}ay", out_signature="ua(ss)a{sv}")
    def Handle(self, request, body):
        headers = dbus.Array([("content-type", "application/json")], signature="(ss)")
        return 200, headers, {"body": dbus.ByteArray(json.dumps(sample()).encode(), variant_level=1)}

    @dbus.service.method(RESPONDER, in_signature="s")
    def Cancel(self, request_id):
        pass

    @dbus.service.method(RESPONDER, in_signature="su")
    def Watch(self, path, watchers):
        global timer
        if watchers and not timer:
            timer = GLib.timeout_add_seconds(1, push)
        elif not watchers and timer:
            GLib.source_remove(timer)
            timer = 0


def push():
    options = dbus.Dictionary({"max-age": dbus.UInt32(2)}, signature="sv")
    endpoints.Notify(namespace, "/", "application/json", options, dbus.ByteArray(json.dumps(sample()).encode()),
                     reply_handler=lambda: None, error_handler=lambda e: print(e, file=sys.stderr))
    return True


def register(owner):
    """Now, and again whenever the registrar was restarted."""
    if owner:
        options = dbus.Dictionary({"watch": True, "title": "Status, over D-Bus"}, signature="sv")
        endpoints.Register(namespace, dbus.ObjectPath(OBJECT), options,
                           reply_handler=lambda key: None,
                           error_handler=lambda e: (print(e, file=sys.stderr), loop.quit()))


timer = 0
loop = GLib.MainLoop()
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
status = Status(bus, OBJECT)
endpoints = dbus.Interface(bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False,
                                          follow_name_owner_changes=True), "org.hybridos.Endpoints1")
bus.watch_name_owner("org.hybridos.Endpoints1", register)
loop.run()
sys.exit(1)
