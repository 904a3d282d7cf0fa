# SPDX-License-Identifier: Apache-2.0
"""Every SDK over the channel, and an app without any over the bus: the same cases for all of them, asked through
h-httpd. The apps are those of tests/conformance, which says what each path answers; what only the channel has (credit,
malformed frames) is tested there."""
import contextlib
import hashlib
import os
import pathlib
import signal
import subprocess
import threading

import pytest

import simulated

APPS = simulated.ROOT / "tests/conformance/apps"
UID = 60994
USER = "roads"


def c(device):
    return [device.program("conformance-app")]


def python(device):
    return ["/usr/bin/python3", "-u", device.put(APPS / "app.py")]


def js(device, tmp=pathlib.Path("/tmp")):
    text = (APPS / "app.js").read_text().replace("'../../../clients/js/hybridos'", "'hybridos'")
    copy = tmp / f"roads-{UID}.js"
    copy.write_text(text)
    try:
        return ["env", "NODE_PATH=/usr/share/nodejs", "node", device.put(copy)]
    finally:
        copy.unlink()


def bus(device):
    return ["/usr/bin/python3", "-u", device.put(APPS / "app-bus.py")]


def end(process, number=signal.SIGKILL):
    """Ours is nsenter, which waits for what it has started inside."""
    for pid in simulated.children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    process.wait(60)


class App:
    """A running conformance app and what it says."""

    def __init__(self, device, command, namespace, *arguments, user=USER):
        self.device, self.lines, self.changed = device, [], threading.Condition()
        self.process = device.popen(*command, namespace, *arguments, user=user, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.strip())
                self.changed.notify_all()

    def says(self, beginning, since=0):
        """The first line of its output that begins so, or the first after `since` lines."""
        found = lambda: next((l for l in self.lines[since:] if l.startswith(beginning)), None)
        with self.changed:
            assert self.changed.wait_for(found, 60), self.lines
            return found()

    def end(self):
        end(self.process)


class World:
    def __init__(self, device, name, command):
        self.device, self.namespace, self.command = device, f"/roads-{name}", command
        self.apps, self.rules = [], []

    def grant(self, subject, *permissions):
        rule = f"test-{self.namespace[1:]}-{len(self.rules)}"
        self.device.run("h-policy", "grant", "--id", rule, subject, *permissions, check=True)
        self.rules.append(rule)

    def start(self, *arguments):
        app = App(self.device, self.command, self.namespace, *arguments)
        self.apps.append(app)
        return app

    def up(self):
        names = (self.namespace, self.namespace + "-pieces")
        self.grant(f"unix:{USER}", "endpoint.register", *(f"endpoint.register:{n}" for n in names))
        self.grant("anonymous", *(f"endpoint.{way}:{n}" for n in names for way in ("read", "write")))
        app = self.start()
        app.says("state 200")
        self.reachable()
        return app

    def reachable(self):
        self.device.wait(lambda: self.device.status(self.namespace + "/echo") == 200
                         and self.device.status(self.namespace + "-pieces/") == 200, f"{self.namespace} answers")

    def ask(self, path, *arguments):
        return self.device.curl(self.namespace + path, "--fail-with-body", *arguments, check=True).stdout

    def status(self, path, *arguments):
        return self.device.status(self.namespace + path, *arguments)

    def digest(self, path, *arguments):
        """SHA-256 of a body that is no text."""
        url = f"https://localhost:8443{self.namespace}{path}"
        return self.device.run("bash", "-c", 'set -o pipefail; curl -sSk --fail --max-time 60 "$@" | sha256sum', "bash",
                               *arguments, url, check=True).stdout.split()[0]

    def end(self):
        for app in self.apps:
            app.end()
        for rule in self.rules:
            self.device.run("h-policy", "revoke", rule)


@pytest.fixture(params=[c, python, js, bus], ids=lambda f: f.__name__)
def world(request, device):
    device.user(USER, str(UID), groups=["hybridos"])
    w = World(device, request.param.__name__, request.param(device))
    yield w
    w.end()


def pattern(size):
    return bytes(i % 251 for i in range(size))


def test_requests_and_answers(world):
    world.up()
    got = world.ask("/echo?a=%20b", "--data-binary", "hello", "--header", "x-test: v", "--include").lower()
    for wanted in ("x-method: post", "x-query: a=%20b", "x-principal: anonymous", "x-handle: 0", "x-test: v", "hello"):
        assert wanted in got, got
    assert [world.status(f"/status/{n}") for n in (200, 204, 404, 599)] == [200, 204, 404, 599]
    assert world.status("/nothing") == 404
    assert world.status("/fail") in (500, 502)


# While the client stays connected, the app may act for it.
BINDS = """
import http.client, ssl, subprocess, sys
client = http.client.HTTPSConnection("localhost", 8443, context=ssl._create_unverified_context())
client.request("GET", sys.argv[1], headers={"authorization": "Bearer " + sys.argv[2]})
answer = client.getresponse()
answer.read()
print(answer.headers["x-principal"], flush=True)
subprocess.run(["busctl", "call", "org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1", "Bind", "t",
                answer.headers["x-handle"]], check=True)
"""


def test_handle_of_who_asks(world):
    world.up()
    name = f"test-{world.namespace[1:]}"
    secret = world.device.run("h-policy", "token", "add", name, check=True).stdout.split()[-1]
    try:
        world.grant(f"token:{name}", f"endpoint.read:{world.namespace}")
        told = world.device.run("python3", world.device.put_text(BINDS, "binds.py"), world.namespace + "/echo", secret,
                                user=USER, check=True).stdout
        assert told == f'token:{name}\ns "token:{name}"\n'
    finally:
        world.device.run("h-policy", "token", "remove", name)


def test_answer_later(world):
    world.up()
    later = world.device.popen("curl", "-sSk", f"https://localhost:8443{world.namespace}/later", stdout=subprocess.PIPE,
                               text=True)
    # The app may not have got it yet: until then there is nothing to release, and that fails.
    world.device.wait(lambda: world.status("/release") == 200, "the first request is answered")
    assert later.communicate(timeout=60)[0] == "later"


def test_large_bodies_both_ways(world):
    world.up()
    size = 1_500_000
    wanted = hashlib.sha256(pattern(size)).hexdigest()
    assert world.digest(f"/large/{size}") == wanted
    assert world.digest(f"/stream/{size}") == wanted
    # A client that reads slowly gets it all.
    assert world.digest(f"/stream/{size}", "--limit-rate", "1500k") == wanted
    data = world.device.run("sh", "-c", "f=$(mktemp); head -c 700000 /dev/zero | tr '\\0' x >$f; chmod 644 $f; echo $f",
                            check=True).stdout.strip()
    assert world.digest("/echo", "--data-binary", f"@{data}") == hashlib.sha256(b"x" * 700_000).hexdigest()
    answer = world.device.curl(world.namespace + "-pieces/", "--data-binary", f"@{data}", check=True)
    assert answer.stdout == "700000"


def test_cancel(world):
    world.up()
    assert world.device.curl(world.namespace + "/never", "--max-time", "1").returncode == 28
    world.device.wait(lambda: world.ask("/cancelled") == "1", "the app knows that the client has gone")


def test_watch_and_notify(world):
    world.up()
    watcher = world.device.popen("curl", "-sSkN", "--max-time", "60", "--header", "accept: text/event-stream",
                                 f"https://localhost:8443{world.namespace}/value", stdout=subprocess.PIPE, text=True)
    try:
        world.device.wait(lambda: "/value 1" in world.ask("/watches"), "the app knows of its watcher")
        assert world.status("/notify", "--data-binary", "news") == 204
        lines = iter(watcher.stdout.readline, "")
        assert any("news" in line for line in lines)
    finally:
        end(watcher)
        watcher.stdout.close()
    world.device.wait(lambda: "/value 0" in world.ask("/watches"), "the app knows that nobody watches")


@pytest.mark.parametrize("unit", ["h-httpd", "h-endpointd", "h-securityd"])
def test_daemons_come_back(world, unit):
    app = world.up()
    world.device.kill_unit(f"{unit}.service")
    world.reachable()
    assert app.process.poll() is None
    assert world.ask("/echo", "--data-binary", "again") == "again"


def test_app_dies_and_comes_back(world):
    app = world.up()
    app.end()
    world.device.wait(lambda: world.status("/echo") in (404, 502, 503), "the endpoint is gone")
    world.start().says("state 200")
    world.reachable()


def test_takeover(world):
    first = world.up()
    second = world.start("--takeover")
    second.says("state 200")
    first.says("state 410")
    world.reachable()
    first.end()
    assert world.ask("/echo", "--data-binary", "mine") == "mine"
    third = world.start()  # without asking for it
    assert third.says("state 409")


def test_refused_without_a_grant(world):
    world.grant(f"unix:{USER}", "endpoint.register")
    line = world.start().says("state 403")
    assert "audit" in line, line
