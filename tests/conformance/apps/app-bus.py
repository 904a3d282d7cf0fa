#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The conformance app over plain D-Bus, without an SDK: app-bus.py NAMESPACE [--takeover]; see ../README.md."""
import fcntl
import os
import sys
import threading

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

RESPONDER, REGISTRAR = "org.hybridos.Responder1", "org.hybridos.Endpoints1"
namespace = sys.argv[1]
waiting, watches = {}, {}
cancelled = 0


def pattern(start, size):
    return bytes((start + i) % 251 for i in range(size))


def sealed(data):
    fd = os.memfd_create("body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as f:
        f.write(data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    body = dbus.types.UnixFd(fd, variant_level=1)
    os.close(fd)
    return body


def answer(status=200, body=b"", content_type="text/plain", headers=()):
    pairs = dbus.Array([("content-type", content_type), *headers], signature="(ss)")
    if len(body) > 65536:
        return dbus.UInt32(status), pairs, {"body": sealed(body)}
    return dbus.UInt32(status), pairs, {"body": dbus.ByteArray(body, variant_level=1)}


def stream(fd, size):
    with open(fd, "wb", buffering=0) as pipe:
        for at in range(0, size, 10000):
            data = pattern(at, min(10000, size - at))
            while data:
                data = data[pipe.write(data):]


class Responder(dbus.service.Object):
    def __init__(self, path, handler):
        super().__init__(bus, path)
        self.handler = handler

    @dbus.service.method(RESPONDER, in_signature="a{sv}ay", out_signature="ua(ss)a{sv}", byte_arrays=True,
                         async_callbacks=("done", "failed"))
    def Handle(self, request, body, done, failed):
        if "body" in request:
            with open(request["body"].take(), "rb") as f:
                f.seek(0)
                body = f.read()
        result = self.handler(request, bytes(body), done)
        if result == "fail":
            failed(dbus.DBusException("gave up", name="org.example.Failed"))
        elif result:
            done(*result)

    @dbus.service.method(RESPONDER, in_signature="s")
    def Cancel(self, request_id):
        global cancelled
        if request_id in waiting:
            cancelled += 1
            waiting.pop(request_id)(*answer(204))  # nobody reads it, but the place is free again

    @dbus.service.method(RESPONDER, in_signature="su")
    def Watch(self, path, watchers):
        watches[str(path)] = int(watchers)


def whole(request, body, done):
    path = request["path"][len(namespace) + 1:]
    verb, _, argument = path.partition("/")
    headers = dict(request.get("headers", []))
    if verb == "echo":
        return answer(200, body, "application/octet-stream", [
            ("x-method", request["method"]), ("x-query", request["query"]), ("x-principal", request["principal"]),
            ("x-handle", str(int(request["handle"]))), ("x-test", headers.get("x-test", ""))])
    if verb == "status":
        return answer(int(argument))
    if verb == "large":
        return answer(200, pattern(0, int(argument)), "application/octet-stream")
    if verb == "stream":
        threading.Thread(target=stream, args=(request["stream"].take(), int(argument))).start()
        return dbus.UInt32(200), dbus.Array([("content-type", "application/octet-stream")], signature="(ss)"), {
            "stream": dbus.Boolean(True, variant_level=1)}
    if verb == "later":
        waiting["later"] = done
        return None
    if verb == "release":
        waiting.pop("later")(*answer(200, b"later"))
        return answer(200, b"released")
    if verb == "never":
        waiting[str(request["id"])] = done
        return None
    if verb == "cancelled":
        return answer(200, str(cancelled).encode())
    if verb == "fail":
        return "fail"
    if verb == "notify":
        options = dbus.Dictionary({"id": "v1", "max-age": dbus.UInt32(7)}, signature="sv")
        registrar.Notify(namespace, "/value", "text/plain", options, dbus.ByteArray(body),
                         reply_handler=lambda: None, error_handler=say)
        return answer(204)
    if verb == "watches":
        return answer(200, "".join(f"{at} {n}\n" for at, n in sorted(watches.items())).encode())
    return answer(404, b"no such case")


def pieces(request, body, done):
    if request["path"].endswith("/hold"):
        waiting[str(request["id"])] = done
        return None
    return answer(200, str(len(body)).encode())


def say(line):
    print(line, flush=True)


def register(owner):
    if not owner:
        return
    common = {"stream": True, "watch": True, "takeover": "--takeover" in sys.argv}
    main = common | {"title": "conformance", "attributes": 'rt="test";ct=50', "rules": dbus.Array(["GET /public endpoint.public"], signature="s")}
    for name, path, options in ((namespace, "/whole", main), (namespace + "-pieces", "/pieces", common)):
        told = say if name == namespace else lambda line: None
        registrar.Register(name, dbus.ObjectPath(path), dbus.Dictionary(options, signature="sv"),
                           reply_handler=lambda key, told=told: told("state 200 "),
                           error_handler=lambda e, told=told: told(f"state {refused(e)} {e.get_dbus_message()}"))


def refused(error):
    return {"AccessDenied": 403, "Exists": 409, "InvalidArgument": 400, "LimitExceeded": 429}.get(
        error.get_dbus_name().rpartition(".")[2], 503)


def unregistered(name, code, reason):
    if name == namespace:
        say(f"state {code} {reason}")


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
objects = [Responder("/whole", whole), Responder("/pieces", pieces)]
proxy = bus.get_object(REGISTRAR, "/org/hybridos/Endpoints1", introspect=False, follow_name_owner_changes=True)
registrar = dbus.Interface(proxy, REGISTRAR)
registrar.connect_to_signal("Unregistered", unregistered)
bus.watch_name_owner(REGISTRAR, register)
GLib.MainLoop().run()
