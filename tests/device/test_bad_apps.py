# SPDX-License-Identifier: Apache-2.0
"""A responder on the bus that hangs, dies, answers twice, floods, sends garbage, holds ten thousand requests or wants the
names of others: only it suffers. Meanwhile two honest clients are served, by an app on each road. The same on the channel is
tested in tests/endpoint and tests/conformance."""
import contextlib
import json
import os
import pathlib
import re
import signal
import sys

import pytest

import simulated
import test_roads
from test_roads import App, World, end

sys.path.insert(0, str(simulated.ROOT / 'tests/httpd'))
import attacks  # noqa: E402
from test_httpd import Target  # noqa: E402

BAD, UID, NAMESPACE = 'bad-app', 60995, '/bad'
UNITS = ('h-httpd', 'h-endpointd', 'h-securityd', 'h-coapd', 'h-logged')
HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def good(device):
    """An honest app on each road: their namespaces."""
    device.user(test_roads.USER, str(test_roads.UID), groups=['hybridos'])
    worlds = [World(device, 'honest-' + make.__name__, make(device)) for make in (test_roads.python, test_roads.bus)]
    try:
        for world in worlds:
            world.up()
        yield [w.namespace for w in worlds]
    finally:
        for world in worlds:
            world.end()


@pytest.fixture(scope='module')
def allowed(device):
    device.user(BAD, str(UID), groups=['hybridos'])
    rules = {'test-bad-app': [f'unix:{BAD}', 'endpoint.register', f'endpoint.register:{NAMESPACE}',
                              f'endpoint.register:{NAMESPACE}/*'],
             'test-bad-write': ['anonymous', f'endpoint.write:{NAMESPACE}']}
    for rule, words in rules.items():
        device.run('h-policy', 'grant', '--id', rule, *words, check=True)
    yield
    for rule in rules:
        device.run('h-policy', 'revoke', rule)


class Bad:
    def __init__(self, device, *others):
        self.device = device
        self.app = App(device, ['/usr/bin/python3', '-u', device.put(HERE / 'bad-app-bus.py')], NAMESPACE, *others, user=BAD)
        self.app.says('state 200')
        device.wait(lambda: self.ask('/good').stdout == 'good', 'the app answers')

    def ask(self, path, *arguments):
        return self.device.curl(NAMESPACE + path, *arguments)

    def status(self, path, *arguments):
        return self.device.status(NAMESPACE + path, *arguments)

    @property
    def pid(self):
        return simulated.children(self.app.process.pid)[0]

    def end(self):
        if self.app.process.poll() is None:
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
                os.kill(self.app.process.pid, signal.SIGCONT)
            end(self.app.process)


@pytest.fixture
def bad(device, good, allowed):
    app = Bad(device, *good, '/system/status', '/system/x', '/nodes/x', '/badly', '/', 'bad', '/bad/../x', f'{good[1]}/x')
    yield app
    app.end()
    assert not [line for line in app.app.lines if line.startswith('failed')], app.app.lines
    device.wait(lambda: device.status(NAMESPACE) == 404, 'the app is gone')


@contextlib.contextmanager
def others_are_served(device, good):
    """Before, while and after; and no daemon has been restarted or has grown out of bounds."""
    def show():
        return {u: device.run('systemctl', 'show', '-P', 'MainPID', f'{u}.service', check=True).stdout.strip() for u in UNITS}
    pids = show()
    clients = [attacks.Honest(Target(device, path=namespace + '/status/200', fake=False)) for namespace in good]
    for client in clients:
        client.start()
    try:
        for client in clients:
            client.progress()
        yield lambda: [client.progress() for client in clients]
        for client in clients:
            client.progress()
    finally:
        for client in clients:
            client.stopping = True
            client.join(60)
    assert [c.failure for c in clients] == [None, None]
    assert show() == pids
    for unit, pid in pids.items():
        text = device.run('cat', f'/proc/{pid}/status', check=True).stdout
        assert int(re.search(r'VmRSS:\s+(\d+) kB', text)[1]) < 160 << 10, (unit, text)


def test_answers_twice(device, good, bad):
    with others_are_served(device, good):
        for _ in range(50):
            assert bad.ask('/twice').stdout == 'good'
    assert bad.ask('/good').stdout == 'good'


def test_answers_that_are_none(device, good, bad):
    n = int(bad.app.says('invalid').split()[1])
    with others_are_served(device, good):
        found = {i: bad.status(f'/reply/{i}') for i in range(n)}
        assert {i: s for i, s in found.items() if s != 502} == {}
        assert bad.status('/large') in (200, 502)
        assert bad.ask('/deep-options').stdout == 'bad', bad.app.lines
    assert bad.ask('/good').stdout == 'good'


def test_dies(device, good, bad):
    with others_are_served(device, good):
        assert bad.status('/die') == 502
        device.wait(lambda: bad.status('/good') == 404, 'its endpoint is gone')


def test_dies_in_the_middle(device, good, bad):
    with others_are_served(device, good):
        done = bad.ask('/die-in-the-middle')
        assert done.returncode != 0 and len(done.stdout) <= 1000, (done.returncode, len(done.stdout), done.stderr)
        device.wait(lambda: bad.status('/good') == 404, 'its endpoint is gone')


@pytest.mark.parametrize('what', ['garbage', 'half-a-message'])
def test_breaks_its_connection(device, good, bad, what):
    with others_are_served(device, good):
        asked = device.popen('curl', '-sk', '--output', '/dev/null', '--write-out', '%{http_code}',
                             f'https://localhost:8443{NAMESPACE}/{what}', stdout=-1, text=True)
        if what == 'half-a-message':
            device.wait(lambda: bad.app.process.poll() is not None or asked.poll() is not None or
                        bad.status('/hold', '--max-time', '1') in (0, 502, 503, 504), 'it hangs')
            os.kill(bad.pid, signal.SIGKILL)
        assert asked.communicate(timeout=60)[0] in ('502', '503')


def test_floods_the_server(device, good, bad):
    with others_are_served(device, good) as progress:
        assert bad.ask('/flood-replies').stdout == 'good'
        progress()
        device.wait(lambda: any(l in ('flooded',) for l in bad.app.lines) or bad.app.process.poll() is not None,
                    'the flood is over', 300)


def test_floods_the_watchers(device, good, bad):
    """The registrar refuses what does not fit, and the last values stay within their share."""
    watcher = device.popen('curl', '-sSkN', '--header', 'accept: text/event-stream',
                           f'https://localhost:8443{NAMESPACE}/value/1', stdout=-1, text=True)
    try:
        with others_are_served(device, good) as progress:
            assert bad.ask('/flood-notify').stdout == 'good'
            progress()
            device.wait(lambda: 'flooded' in bad.app.lines or bad.app.process.poll() is not None, 'the flood is over', 300)
    finally:
        end(watcher)
        watcher.stdout.close()


def test_registers_what_is_not_its_own(device, good, bad):
    with others_are_served(device, good):
        told = dict(line.split() for line in bad.ask('/register-others').stdout.splitlines())
    assert set(told.values()) <= {'AccessDenied', 'Exists', 'InvalidArgument'} and len(told) >= 8, told
    listed = json.loads(device.run('busctl', '--json=short', 'call', 'org.hybridos.Endpoints1', '/org/hybridos/Endpoints1',
                                   'org.hybridos.Endpoints1', 'List', check=True).stdout)['data'][0]
    assert [row[0] for row in listed if row[2] == UID] == [NAMESPACE]


def test_registers_and_unregisters_without_end(device, good, bad):
    with others_are_served(device, good) as progress:
        assert bad.ask('/spin').stdout == 'good'
        progress()
        device.wait(lambda: 'spun' in bad.app.lines or bad.app.process.poll() is not None, 'it has had enough', 300)
    assert bad.app.process.poll() is not None or bad.ask('/good').stdout == 'good'


def test_holds_ten_thousand_requests(device, good, bad):
    """What it never answers it keeps; the next are told to come again, at once in the end."""
    with others_are_served(device, good) as progress:
        load = device.popen('h2load', '-n', '10000', '-c', '7', '-m', '100', f'https://localhost:8443{NAMESPACE}/hold',
                            stdout=-1, text=True)
        while load.poll() is None:
            progress()
        told = load.stdout.read()
        codes = [int(n) for n in re.search(r'status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx', told).groups()]
        assert codes[0] == 0 and codes[3] > 9000, told
        answer = bad.ask('/hold', '--include').stdout.lower()
        assert ' 503' in answer and 'retry-after' in answer, answer


def test_does_not_read(device, good, bad):
    """A stopped app: requests, and watchers who come and go, as many as want to."""
    with others_are_served(device, good) as progress:
        os.kill(bad.pid, signal.SIGSTOP)
        load = device.popen('h2load', '-n', '3000', '-c', '7', '-m', '100', '-d', '/etc/services',
                            f'https://localhost:8443{NAMESPACE}/good', stdout=-1, text=True)
        while load.poll() is None:
            progress()
        load.stdout.close()
        watch(device, 20000)
        progress()
        for process in (bad.pid, bad.app.process.pid):  # what has entered the device stops along
            os.kill(process, signal.SIGCONT)
    device.wait(lambda: bad.ask('/good').stdout == 'good' or bad.app.process.poll() is not None, 'it is well again', 120)


def watch(device, times):
    """Watches and leaves, again and again."""
    client = attacks.Http2(Target(device))
    client.sock.settimeout(60)
    for at in range(0, times, 50):
        out, last = b'', 0
        for i in range(at, at + 50):
            last, data = client.request(f'{NAMESPACE}/value/{i}', fields=[('accept', 'text/event-stream')])
            out += data
        client.send(out)
        seen = 0
        while seen < 50:
            kind = client.read_frame()[0]
            seen += kind == attacks.HEADERS
        client.send(b''.join(attacks.reset(s) for s in range(last - 98, last + 1, 2)))
    client.sock.close()
