# SPDX-License-Identifier: Apache-2.0
"""The examples and the shipped status app, each between a fake registrar and a fake server: on the channel, or on a private
message bus."""
import contextlib
import itertools
import json
import os
import subprocess

import pytest

import channel
from channel import CANCEL, NOTIFY, WATCH, fields
from conftest import ROOT, World

EXAMPLES = os.path.join(ROOT, "clients/examples")
CHANNEL = {
    "c": [os.environ.get("HYBRIDOS_SYSINFO", os.path.join(ROOT, "build/clients/sysinfo/h-sysinfo"))],
    "python": ["python3", os.path.join(EXAMPLES, "status.py")],
    "js": [os.environ.get("NODE", "node"), os.path.join(EXAMPLES, "status.js")],
}
BUS = {"dbus": ["/usr/bin/python3", os.path.join(EXAMPLES, "status-dbus.py")],
       "shell": [os.path.join(EXAMPLES, "status.sh")]}


class StatusWorld(World):
    both = ("/test",)


@pytest.fixture(params=CHANNEL)
def server(request, tmp_path, monkeypatch):
    os.makedirs(tmp_path / "modules")
    os.symlink(os.path.join(ROOT, "clients/js/hybridos"), tmp_path / "modules/hybridos")
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "modules"))
    world = StatusWorld(CHANNEL[request.param])
    world.start()
    world.accept_registrar()
    world.name_server()
    world.admit(world.registers(1))
    yield world.accept_server()
    world.end()


def test_status_is_live_json(server):
    a = server.get("")
    assert a.status == 200 and a.fields["content-type"] == "application/json"
    status = json.loads(a.body)
    with open("/proc/uptime", encoding="ascii") as f:
        assert abs(status["uptime"] - float(f.read().split()[0])) < channel.DEADLINE
    with open("/proc/meminfo", encoding="ascii") as f:
        assert status["memory"]["total"] == int(f.readline().split()[1]) * 1024


def test_status_is_a_page_for_browsers(server):
    a = server.get("", headers=[("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")])
    assert a.fields["content-type"].startswith("text/html")
    assert b"<h1>" in a.body and b"width=device-width" in a.body
    assert b"style=" not in a.body and b"<script>" not in a.body


def test_no_such_page_and_no_such_method(server):
    assert server.get("/nothing").status == 404
    a = server.get("", method="POST", body=b"x")
    assert a.status == 405 and "GET" in a.fields["allow"]


def test_values_while_somebody_watches_and_none_otherwise(server):
    assert server.sync() == []
    server.send(WATCH, stream=server.ids["/test"], value=1, payload=fields((":path", "/")))
    for _ in range(2):
        f = server.expect(NOTIFY)
        assert dict(f.fields(f.value))[":path"] == "/"
        assert "uptime" in json.loads(f.payload[f.value:])
    server.send(WATCH, stream=server.ids["/test"], value=0, payload=fields((":path", "/")))
    while server.sync():
        pass
    server.sock.settimeout(2.5)  # longer than the period: nothing may come
    with pytest.raises(TimeoutError):
        server.receive()


# A registrar on a bus: prints what is registered, calls Handle, prints the answer.
REGISTRAR = """
import sys, dbus, dbus.service, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.bus.BusConnection(sys.argv[1])
class Registrar(dbus.service.Object):
    @dbus.service.method('org.hybridos.Endpoints1', in_signature='soa{sv}', out_signature='s', sender_keyword='sender')
    def Register(self, namespace, path, options, sender=None):
        print('register', namespace, flush=True)
        def got(status, headers, reply):
            print('answer', int(status), dict(headers)['content-type'], bytes(reply['body']).decode(), flush=True)
        def ask():
            bus.call_async(sender, path, 'org.hybridos.Responder1', 'Handle', 'a{sv}ay',
                           ({'path': namespace, 'deadline': dbus.UInt32(3000)}, dbus.ByteArray(b'x' * 300)), got,
                           lambda e: print('error', e, flush=True))
        for _ in range(3):
            GLib.idle_add(ask)
        if options.get('watch'):
            bus.call_async(sender, path, 'org.hybridos.Responder1', 'Watch', 'su', ('/', dbus.UInt32(1)), None, None)
        return '0123456789abcdef'
    @dbus.service.method('org.hybridos.Endpoints1', in_signature='sssa{sv}ay', message_keyword='message')
    def Notify(self, namespace, path, content_type, options, body, message=None):
        # dbus-python is content with any types; the registrar is not.
        print('notify', message.get_signature(), namespace, path, flush=True)
name = dbus.service.BusName('org.hybridos.Endpoints1', bus)
registrar = Registrar(bus, '/org/hybridos/Endpoints1')
print('ready', flush=True)
GLib.MainLoop().run()
"""


class Bus:
    """A message bus of our own, and programs on it."""

    def __init__(self, folder):
        self.address = f"unix:path={folder}/bus"
        self.env = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.address, STATUS_BUS=self.address)
        self.started = []
        self.start("dbus-daemon", "--session", "--nofork", "--print-address", f"--address={self.address}").readline()

    def start(self, *command):
        self.started.append(subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True))
        return self.started[-1].stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
            process.wait()
            process.stdout.close()


@pytest.mark.parametrize("kind", BUS)
def test_over_the_bus(kind, tmp_path):
    with Bus(tmp_path) as bus:
        registrar = bus.start("/usr/bin/python3", "-c", REGISTRAR, bus.address)
        assert registrar.readline() == "ready\n"
        bus.start(*BUS[kind], "/test")
        assert registrar.readline() == "register /test\n"
        said = iter(registrar.readline, "")
        answers = [line.split(" ", 3) for line in itertools.islice((l for l in said if not l.startswith("notify")), 3)]
        for word, status, content_type, body in answers:
            assert (word, status, content_type) == ("answer", "200", "application/json")
            assert json.loads(body)["uptime"] > 0
        if kind == "dbus":  # the one that is told of watchers
            assert next(l for l in said if l.startswith("notify")) == "notify sssa{sv}ay /test /\n"
        # The registrar is started anew: the app registers anew.
        bus.started[1].kill()
        bus.started[1].wait()
        registrar = bus.start("/usr/bin/python3", "-c", REGISTRAR, bus.address)
        assert registrar.readline() == "ready\n"
        assert registrar.readline() == "register /test\n"
        assert next(l for l in iter(registrar.readline, "") if not l.startswith("notify")).startswith("answer 200")
        assert bus.started[2].poll() is None


# systemd on a bus: says when it is asked for its units, and does as its argument says.
SYSTEMD = """
import sys, dbus, dbus.service, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.bus.BusConnection(sys.argv[1])
NAME, UNITS = 'org.freedesktop.systemd1', 'a(ssssssouso)'
class Manager(dbus.service.Object):
    @dbus.service.method(NAME + '.Manager', in_signature='as', out_signature=UNITS, async_callbacks=('answer', 'fail'))
    def ListUnitsFiltered(self, states, answer, fail):
        print('asked', flush=True)
        unit = lambda name, active, sub: (name, 'About ' + name, 'loaded', active, sub, '', '/', 0, '', '/')
        if sys.argv[2] == 'answers':
            answer([unit(*u) for u in (('z.service', 'active', 'running'), ('a.service', 'active', 'running'),
                                       ('b.socket', 'active', 'running'), ('c.mount', 'failed', 'failed'))])
        elif sys.argv[2] == 'refuses':
            fail(dbus.exceptions.DBusException('no', name='org.freedesktop.DBus.Error.AccessDenied'))
name = dbus.service.BusName(NAME, bus)
manager = Manager(bus, '/org/freedesktop/systemd1')
print('ready', flush=True)
GLib.MainLoop().run()
"""


@contextlib.contextmanager
def asking(tmp_path, monkeypatch, how):
    """The shipped app between a fake server and a systemd that `how`."""
    with Bus(tmp_path) as bus:
        systemd = bus.start("/usr/bin/python3", "-c", SYSTEMD, bus.address, how)
        assert systemd.readline() == "ready\n"
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        world = StatusWorld(CHANNEL["c"])
        try:
            world.start()
            world.accept_registrar()
            world.name_server()
            world.admit(world.registers(1))
            yield bus, systemd, world.accept_server()
        finally:
            world.end()


def test_units_are_those_that_systemd_tells(tmp_path, monkeypatch):
    with asking(tmp_path, monkeypatch, "answers") as (_, systemd, server):
        status = json.loads(server.get("").body)
        assert systemd.readline() == "asked\n"
        assert status["failed"] == ["c.mount"]
        assert [(u["name"], u["state"]) for u in status["units"]] == [
            ("c.mount", "failed"), ("a.service", "running"), ("z.service", "running")]


@pytest.mark.parametrize("how", ["is silent", "refuses"])
def test_without_systemd_the_rest_is_told(tmp_path, monkeypatch, how):
    with asking(tmp_path, monkeypatch, how) as (_, systemd, server):
        for _ in range(2):
            status = json.loads(server.get("").body)
            assert "units" not in status and "failed" not in status and status["uptime"] > 0
        assert systemd.readline() == "asked\n"


def test_a_bus_that_ends_keeps_nobody_waiting(tmp_path, monkeypatch):
    with asking(tmp_path, monkeypatch, "is silent") as (bus, systemd, server):
        stream = server.request("")
        assert systemd.readline() == "asked\n"
        bus.started[0].kill()
        bus.started[0].wait()
        assert server.answer(stream).status == 200
        assert server.get("").status == 200


def test_a_client_that_leaves_while_systemd_is_asked(tmp_path, monkeypatch):
    """Nothing is answered to it, and the others are."""
    with asking(tmp_path, monkeypatch, "is silent") as (_, systemd, server):
        gone, stays = server.request(""), server.request("")
        assert systemd.readline() == "asked\n"
        server.send(CANCEL, code=499, stream=gone)
        assert server.answer(stays).status == 200
        assert server.get("").status == 200
