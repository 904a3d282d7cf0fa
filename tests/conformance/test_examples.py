# SPDX-License-Identifier: Apache-2.0
"""The examples and the shipped status app, each between a fake registrar and a fake server: on the channel, or on a private
message bus."""
import json
import os
import shutil
import subprocess

import pytest

import channel
from channel import NOTIFY, WATCH, fields
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


@pytest.fixture(params=[k for k in CHANNEL if shutil.which(CHANNEL[k][0])])
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
        return '0123456789abcdef'
name = dbus.service.BusName('org.hybridos.Endpoints1', bus)
registrar = Registrar(bus, '/org/hybridos/Endpoints1')
print('ready', flush=True)
GLib.MainLoop().run()
"""


def have_bus():
    return (shutil.which("dbus-daemon") and shutil.which("systemd-stdio-bridge") and os.path.exists("/usr/bin/python3")
            and subprocess.run(["/usr/bin/python3", "-c", "import dbus, gi"], stderr=subprocess.DEVNULL).returncode == 0)


@pytest.mark.skipif(not have_bus(), reason="needs dbus-daemon, systemd-stdio-bridge, python3-dbus, python3-gi")
@pytest.mark.parametrize("kind", BUS)
def test_over_the_bus(kind, tmp_path):
    address = f"unix:path={tmp_path}/bus"
    env = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=address, STATUS_BUS=address)
    started = []

    def start(*command):
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1].stdout
    try:
        start("dbus-daemon", "--session", "--nofork", "--print-address", f"--address={address}").readline()
        registrar = start("/usr/bin/python3", "-c", REGISTRAR, address)
        assert registrar.readline() == "ready\n"
        app = start(*BUS[kind], "/test")
        assert registrar.readline() == "register /test\n"
        for _ in range(3):
            word, status, content_type, body = registrar.readline().split(" ", 3)
            assert (word, status, content_type) == ("answer", "200", "application/json")
            assert json.loads(body)["uptime"] > 0
        # The registrar is started anew: the app registers anew.
        started[1].kill()
        started[1].wait()
        registrar = start("/usr/bin/python3", "-c", REGISTRAR, address)
        assert registrar.readline() == "ready\n"
        assert registrar.readline() == "register /test\n"
        assert registrar.readline().startswith("answer 200")
        assert app and started[2].poll() is None
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
            process.stdout.close()
