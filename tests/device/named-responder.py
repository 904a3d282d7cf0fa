#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A responder that also owns a name on the bus and has another interface there, as a program that is more than an app does.
Arguments: the name, the namespace."""
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

name, namespace = sys.argv[1:]


class Named(dbus.service.Object):
    @dbus.service.method("org.hybridos.Responder1", in_signature="a{sv}ay", out_signature="ua(ss)a{sv}")
    def Handle(self, request, body):
        return 200, dbus.Array([("content-type", "text/plain")], signature="(ss)"), {
            "body": dbus.ByteArray(b"handled", variant_level=1)}

    @dbus.service.method(name, out_signature="s")
    def Hello(self):
        return "hello"


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
service = dbus.service.BusName(name, bus, do_not_queue=True)
named = Named(bus, "/named")
endpoints = dbus.Interface(bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False),
                           "org.hybridos.Endpoints1")
endpoints.Register(namespace, dbus.ObjectPath("/named"), dbus.Dictionary(signature="sv"))
GLib.MainLoop().run()
