# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

import channel

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def commands():
    """Every SDK's conformance app. HYBRIDOS_SDKS chooses: "c python js" by default."""
    known = {
        "c": [os.environ.get("HYBRIDOS_CONFORMANCE_C", os.path.join(ROOT, "build/tests/conformance/conformance-app"))],
        "python": [sys.executable, os.path.join(HERE, "apps/app.py")],
        "js": [os.environ.get("NODE", "node"), os.path.join(HERE, "apps/app.js")],
    }
    return {name: known[name] for name in os.environ.get("HYBRIDOS_SDKS", "c python js").split()}


class App:
    def __init__(self, directory, command, *arguments):
        env = dict(os.environ, HYBRIDOS_REGISTRAR=os.path.join(directory, "registrar.sock"),
                   PYTHONPATH=os.path.join(ROOT, "clients/python"), PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(command + list(arguments), env=env, stdout=subprocess.PIPE, text=True)

    def line(self):
        return self.process.stdout.readline().strip()

    def terminate(self):
        self.process.terminate()

    def wait(self):
        return self.process.wait(channel.DEADLINE)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class World:
    """A fake registrar, a fake server, and the app between them."""
    namespace = "/test"
    both = ("/test", "/test-pieces")

    def __init__(self, command):
        self.command = command
        self.directory = tempfile.mkdtemp(prefix="hybridos-")
        self.registrar_listener = channel.Listener(os.path.join(self.directory, "registrar.sock"))
        self.server_listener = channel.Listener(os.path.join(self.directory, "server.sock"))
        self.apps = []
        self.app = self.registrar = self.server = None

    def start(self, *arguments):
        app = App(self.directory, self.command, self.namespace, *arguments)
        self.apps.append(app)
        self.app = app
        return app

    def accept_registrar(self):
        self.registrar = channel.Peer(self.registrar_listener.accept())
        self.registrar.hello("registrar")
        return self.registrar

    def registers(self, n=2):
        """The REGISTER frames that the app sends, by namespace."""
        asked = {}
        for _ in range(n):
            f = self.registrar.expect(channel.REGISTER)
            said = f.fields()
            asked[dict(said)[":namespace"]] = (f.stream, said)
        return asked

    def admit(self, asked):
        for number, (namespace, (stream, _)) in enumerate(sorted(asked.items())):
            self.registrar.send(channel.REGISTERED, stream=stream, payload=channel.fields(
                (":key", f"{number + 1:016x}"), (":namespace", namespace)))

    def name_server(self, name="h-fake", path=None, flags=0):
        self.registrar.send(channel.SERVER, flags=flags, payload=channel.fields(
            (":name", name), (":socket", path or self.server_listener.path)))

    def accept_server(self, attach=True):
        self.server = channel.ServerPeer(self.server_listener.accept(), self.namespace)
        self.server.hello("server")
        if attach:
            self.server.attach(*self.both)
        return self.server

    def up(self, *arguments):
        """Everything in place: registered, connected, attached."""
        self.start(*arguments)
        self.accept_registrar()
        self.name_server()
        self.admit(self.registers())
        assert self.app.line().startswith("state 200")
        return self.accept_server()

    def end(self):
        for app in self.apps:
            app.end()
        for thing in (self.registrar, self.server, self.registrar_listener, self.server_listener):
            if thing:
                thing.close()
        shutil.rmtree(self.directory)


@pytest.fixture(params=commands().items(), ids=lambda p: p[0])
def world(request):
    w = World(request.param[1])
    yield w
    w.end()
