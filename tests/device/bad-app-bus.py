#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A responder on the bus that does what none should: bad-app-bus.py NAMESPACE. The path below the namespace says what:
/hold never answers, /WAY… one of the functions below, /reply/N the Nth of the invalid answers."""
import fcntl
import os
import socket
import sys
import traceback

import dbus
import dbus.lowlevel
import dbus.mainloop.glib
from gi.repository import GLib

RESPONDER, REGISTRAR = "org.hybridos.Responder1", "org.hybridos.Endpoints1"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
namespace = sys.argv[1]
kept = []


def say(*words):
    print(*words, flush=True)


def reply(call, *arguments, signature="ua(ss)a{sv}"):
    message = dbus.lowlevel.MethodReturnMessage(call)
    if arguments:
        message.append(*arguments, signature=signature)
    connection.send_message(message)


def good(call, body=b"good", headers=(("content-type", "text/plain"),)):
    reply(call, 200, list(headers), {"body": dbus.ByteArray(body, variant_level=1)})


def memfd(data, seals):
    fd = os.memfd_create("body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def with_fd(fd, **more):
    body = dbus.types.UnixFd(fd, variant_level=1)
    os.close(fd)
    return 200, [], {"body": body, **more}


def pipe():
    near, far = os.pipe()
    kept.append(far)
    return near


def deep(levels):
    value = dbus.Int32(1, variant_level=1)
    for _ in range(levels):
        value = dbus.Dictionary({"x": value}, signature="sv", variant_level=1)
    return value


BODY = {"body": dbus.ByteArray(b"bad", variant_level=1)}
STREAM = {"stream": dbus.Boolean(True, variant_level=1)}
# (arguments, signature): none is an answer, and the client gets 502.
INVALID = [
    (lambda: ("text",), "s"), (lambda: (), ""), (lambda: (200,), "u"), (lambda: (200, [], {}), "ia(ss)a{sv}"),
    (lambda: (200, [], {}), "ua(ss)a{ss}"), (lambda: (200, [], {}, "more"), "ua(ss)a{sv}s"), (lambda: ([(200, [], {})],), "a(ua(ss)a{sv})"),
    *((lambda status=status: (status, [], BODY), None) for status in (0, 99, 100, 199, 600, 4294967295)),
    (lambda: (200, [("a", "b\r\nset-cookie: c=d")], BODY), None), (lambda: (200, [("a\r\nb", "c")], BODY), None),
    (lambda: (200, [("", "b")], BODY), None), (lambda: (200, [(":status", "200")], BODY), None),
    (lambda: (200, [("a", "b")] * 500, BODY), None), (lambda: (200, [("a", "b" * (1 << 20))], BODY), None),
    (lambda: (200, [("content-length", "5")], BODY), None),
    (lambda: (200, [], {**BODY, **STREAM}), None),
    (lambda: with_fd(pipe()), None), (lambda: with_fd(os.open("/dev/zero", os.O_RDONLY)), None),
    (lambda: with_fd(os.open("/etc/passwd", os.O_RDONLY)), None), (lambda: with_fd(socket.socket().detach()), None),
    (lambda: with_fd(memfd(b"unsealed", 0)), None), (lambda: with_fd(memfd(b"x", fcntl.F_SEAL_SHRINK)), None),
    (lambda: with_fd(memfd(b"x", SEALS), **STREAM), None),
]


def twice(call, request):
    good(call)
    good(call, b"again")
    connection.send_message(dbus.lowlevel.ErrorMessage(call, "org.example.Third", "and again"))


def die(call, request):
    os._exit(1)


def die_in_the_middle(call, request):
    """What it said of the length is more than there will be."""
    fd = request["stream"].take()
    reply(call, 200, [("content-type", "text/plain"), ("content-length", "1000000")], STREAM)
    connection.flush()
    os.write(fd, b"x" * 1000)
    os._exit(1)


def stop_reading(call, request):
    good(call)
    connection.flush()
    say("stops")
    os.kill(os.getpid(), 19)


def garbage(call, request):
    os.write(connection.get_unix_fd(), b"\xff" * 4096)


def half_a_message(call, request):
    """The bus waits for the rest, and the server for an answer."""
    os.write(connection.get_unix_fd(), b"l\x02\x01\x01\x00\x10\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00")


def flood_replies(call, request):
    """Answers to what was asked and to what was not, errors and signals, straight to the server."""
    good(call)
    server = call.get_sender()
    for i in range(20000):
        again = dbus.lowlevel.MethodReturnMessage(call)
        again.append(200, [], BODY, signature="ua(ss)a{sv}")
        connection.send_message(again)
        signal = dbus.lowlevel.SignalMessage("/x", RESPONDER, "Flood")
        signal.set_destination(server)
        signal.append("x" * 1000, signature="s")
        connection.send_message(signal)
        if i % 100 == 0:
            connection.flush()
    say("flooded")


def flood_notify(call, request):
    """As many values as there is room for, and nobody waits for the answers."""
    good(call)
    for i in range(5000):
        m = dbus.lowlevel.MethodCallMessage(REGISTRAR, "/org/hybridos/Endpoints1", REGISTRAR, "Notify")
        m.append(namespace, f"/value/{i % 50}", "text/plain", {}, dbus.ByteArray(b"x" * 60000), signature="sssa{sv}ay")
        m.set_no_reply(i % 2 == 0)
        connection.send_message(m)
        if i % 100 == 0:
            connection.flush()
    say("flooded")


def large(call, request):
    """Much more than an answer may be, inline and in a file."""
    good(call, b"x" * (30 << 20))


def deep_options(call, request):
    reply(call, 200, [], {**BODY, "x": deep(10), **{f"o{i}": dbus.String("x", variant_level=1) for i in range(1000)}})


def register_others(call, request):
    """Names that are somebody else's, that nobody may have, and that are none."""
    told = []
    for name in sys.argv[2:]:
        try:
            registrar.Register(name, dbus.ObjectPath("/bad"), dbus.Dictionary({"takeover": True}, signature="sv"))
            told.append(f"{name} taken")
        except dbus.DBusException as e:
            told.append(f"{name} {e.get_dbus_name().rpartition('.')[2]}")
    good(call, "\n".join(told).encode())


def spin(call, request):
    """Registers and unregisters without end."""
    good(call)
    connection.flush()
    m = lambda member, *a, signature: (x := dbus.lowlevel.MethodCallMessage(REGISTRAR, "/org/hybridos/Endpoints1", REGISTRAR,
                                                                            member), x.append(*a, signature=signature))[0]
    for _ in range(3000):
        connection.send_message(m("Register", namespace + "/spin", dbus.ObjectPath("/bad"), {}, signature="soa{sv}"))
        connection.send_message(m("Unregister", namespace + "/spin", signature="s"))
        connection.flush()
    say("spun")


def handle(message, request):
    verb, _, argument = str(request["path"])[len(namespace) + 1:].partition("/")
    if verb == "good":
        good(message)
    elif verb == "reply":
        arguments, signature = INVALID[int(argument)]
        reply(message, *arguments(), signature=signature or "ua(ss)a{sv}")
    elif verb == "hold":
        kept.append(message)
    else:
        globals()[verb.replace("-", "_")](message, request)


def on_message(connection, message):
    if message.get_interface() != RESPONDER or message.get_member() != "Handle":
        return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED
    try:
        handle(message, message.get_args_list()[0])
    except Exception:  # the library would go on without this filter
        say("failed", traceback.format_exc())
        os._exit(3)
    return dbus.lowlevel.HANDLER_RESULT_HANDLED


if __name__ == "__main__":
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    connection = dbus.SystemBus()
    connection.add_message_filter(on_message)
    registrar = dbus.Interface(connection.get_object(REGISTRAR, "/org/hybridos/Endpoints1", introspect=False), REGISTRAR)
    registrar.Register(namespace, dbus.ObjectPath("/bad"), dbus.Dictionary({"stream": True, "watch": True}, signature="sv"))
    say("state 200")
    say("invalid", len(INVALID))
    GLib.MainLoop().run()
