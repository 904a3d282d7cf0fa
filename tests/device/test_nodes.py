# SPDX-License-Identifier: Apache-2.0
"""Constrained nodes of other makers (aiocoap, node-coap, libcoap) at the device: they register in its resource directory
and are read by HTTP through the same policy; and the same makers' clients read the device's own endpoints."""
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import pytest

import packages
import simulated

sys.path.insert(0, str(simulated.ROOT / 'tests/coapd'))
import coap as bytewise

HERE = simulated.ROOT / 'tests/device/nodes'
FOLDER = '/run/hybridos-tests/nodes'
CONFIGURATION = '/run/hybridos/config/coapd.conf.d/nodes-test.conf'


@pytest.fixture(scope='module')
def peers(device):
    """What they need, and leave to register from this machine, which is otherwise refused."""
    root = f'/proc/{device.init}/root'
    os.makedirs(f'{root}{FOLDER}', exist_ok=True)
    shutil.copytree(packages.pypi(device.cache, device.say), f'{root}{FOLDER}/pypi', dirs_exist_ok=True)
    shutil.copytree(packages.npm(device.cache, device.say) / 'node_modules', f'{root}{FOLDER}/node_modules', dirs_exist_ok=True)
    shutil.copytree(HERE, f'{root}{FOLDER}', dirs_exist_ok=True)
    device.run('mkdir', '-p', os.path.dirname(CONFIGURATION), check=True)
    device.write(CONFIGURATION, '[nodes]\nLoopback = yes\nTimeout = 3s\n')
    device.run('systemctl', 'reload', 'h-coapd', check=True)
    device.run('h-policy', 'grant', '--id', 'nodes-test', 'anonymous', 'node.register:lamp', 'node.register:meter',
               'node.register:bulb', 'endpoint.write:/nodes/lamp', 'endpoint.write:/nodes/meter', check=True)
    yield
    server = ['org.hybridos.Coap1', '/org/hybridos/Coap1', 'org.hybridos.Server1']
    for client in json.loads(device.run('busctl', '--json=short', 'call', *server, 'ListClients', check=True).stdout)['data'][0]:
        device.run('busctl', 'call', *server, 'Kick', 't', str(client[0]))  # they left without a word
    device.run('h-policy', 'revoke', 'nodes-test', check=True)
    device.run('rm', CONFIGURATION, check=True)
    device.run('systemctl', 'reload', 'h-coapd', check=True)
    shutil.rmtree(f'{root}{FOLDER}')


PYTHON = ['env', f'PYTHONPATH={FOLDER}/pypi', '/usr/bin/python3', '-u']


class Node:
    def __init__(self, device, *command):
        self.device, self.lines, self.changed = device, [], threading.Condition()
        self.process = device.popen(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                    bufsize=1)
        threading.Thread(target=self._read, daemon=True).start()
        self.wait('registered')

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.strip())
                self.changed.notify_all()

    def wait(self, line, seconds=60):
        with self.changed:
            assert self.changed.wait_for(lambda: line in self.lines or self.process.poll() is not None, seconds) and \
                line in self.lines, self.lines

    def say(self, line):
        self.process.stdin.write(line + '\n')

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        assert self.process.wait(60) == 0, self.lines


@pytest.fixture
def lamp(device, peers):
    node = Node(device, *PYTHON, f'{FOLDER}/node.py', 'lamp', 'coap://127.0.0.1', '56830')
    device.wait(lambda: device.status('/nodes/lamp/light') == 200, 'the lamp to be reachable')
    yield node
    node.close()
    device.wait(lambda: device.status('/nodes/lamp/light') == 404, 'the lamp to be gone')


@pytest.fixture
def meter(device, peers):
    node = Node(device, 'node', f'{FOLDER}/node.js', 'meter', '127.0.0.1', '56831')
    device.wait(lambda: device.status('/nodes/meter/meter') == 200, 'the meter to be reachable')
    yield node
    node.close()
    device.wait(lambda: device.status('/nodes/meter/meter') == 404, 'the meter to be gone')


@pytest.fixture
def key(device, peers):
    """Of the node "sensor", which may register."""
    root = f'/proc/{device.init}/root'
    for name in ('coap', 'features', 'roads'):
        shutil.copy(simulated.ROOT / f'tests/coapd/{name}.py', f'{root}{FOLDER}')
    made = json.loads(device.run('h-policy', '--json', 'node', 'add', 'sensor', check=True).stdout)
    device.run('h-policy', 'grant', '--id', 'nodes-test-keyed', 'node:sensor', 'node.register:sensor', check=True)
    yield made['key']
    device.run(*CALL, 'RemoveNode', 's', 'sensor')
    device.run('h-policy', 'revoke', 'nodes-test-keyed', check=True)
    device.run('h-policy', 'node', 'remove', 'sensor', check=True)


CALL = ['busctl', '--json=short', 'call', 'org.hybridos.Coap1', '/org/hybridos/Coap1', 'org.hybridos.Coap1']


def listed(device):
    return {n[0]: n for n in json.loads(device.run(*CALL, 'ListNodes').stdout)['data'][0]}


def coap(device, *arguments, **options):
    return device.run('/usr/bin/coap-client-notls', '-B', '20', *arguments, **options)


def test_a_python_node_is_read_over_http2(device, lamp):
    got = device.curl('/nodes/lamp/light', '--http2', '--include').stdout
    assert got.startswith('HTTP/2 200') and '{"state":"off"}' in got, got
    assert 'content-type: application/json' in got and 'max-age=0' in got, got
    assert device.status('/nodes/lamp/light', '--request', 'PUT', '--header', 'content-type: text/plain', '--data', 'on') == 204
    assert json.loads(device.curl('/nodes/lamp/light').stdout) == {'state': 'on'}
    assert device.status('/nodes/lamp/nothing') == 404


def test_large_bodies_go_in_blocks(device, lamp):
    path = device.put_text('x' * 9000, 'large')
    size = device.curl('/nodes/lamp/big', '--output', '/dev/null', '--write-out', '%{size_download}').stdout
    assert size == '5120', size
    assert device.status('/nodes/lamp/big', '--request', 'PUT', '--header', 'content-type: application/octet-stream',
                         '--data-binary', f'@{path}') == 204
    device.wait(lambda: device.curl('/nodes/lamp/big').stdout == 'x' * 9000, 'the new body')


def test_a_python_node_is_watched(device, lamp):
    """However many watch, the node is observed once."""
    watchers = [device.popen('curl', '--silent', '--insecure', '--no-buffer', '--max-time', '100', '--header',
                             'accept: text/event-stream', 'https://localhost:8443/nodes/lamp/light',
                             stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        seen = ['' for _ in watchers]

        def read(i):
            for line in watchers[i].stdout:
                seen[i] += line
        for i in range(len(watchers)):
            threading.Thread(target=read, args=(i,), daemon=True).start()
        device.wait(lambda: all('off' in s for s in seen), 'the first value')
        lamp.say('blinking')
        device.wait(lambda: all('blinking' in s for s in seen), 'the next value')
    finally:
        for w in watchers:
            w.terminate()
            w.wait(60)


def test_a_javascript_node_is_read_over_http2(device, meter):
    assert device.curl('/nodes/meter/meter', '--http2').stdout == '0'
    assert device.status('/nodes/meter/meter', '--header', 'content-type: text/plain', '--data', '7') == 204
    assert device.curl('/nodes/meter/meter').stdout == '7'


def test_nodes_are_read_by_coap_and_looked_up(device, lamp):
    links = coap(device, '-m', 'get', 'coap://127.0.0.1/rd-lookup/res?rt=light').stdout
    assert '</nodes/lamp/light>' in links and 'title="Lamp, \\"red\\""' in links, links
    assert json.loads(coap(device, '-m', 'get', 'coap://127.0.0.1/nodes/lamp/light').stdout) == {'state': 'off'}
    assert '</rd>;rt="core.rd"' in coap(device, '-m', 'get', 'coap://127.0.0.1/.well-known/core?rt=core.rd').stdout
    assert 'ep="lamp";base="coap://127.0.0.1:56830"' in coap(device, '-m', 'get', 'coap://127.0.0.1/rd-lookup/ep').stdout


def test_nodes_on_the_bus(device, lamp):
    name, principal, base, title, links, left, there = listed(device)['lamp']
    assert (principal, base, title, there) == ('anonymous', 'coap://127.0.0.1:56830', 'lamp', True)
    assert links >= 2 and 3000 < left <= 3600, (links, left)
    assert device.run(*CALL, 'RemoveNode', 's', 'nobody').returncode != 0


def test_a_node_over_tcp(device, peers):
    node = Node(device, *PYTHON, f'{FOLDER}/node.py', 'lamp', 'coap+tcp://127.0.0.1', '56832')
    try:
        device.wait(lambda: device.status('/nodes/lamp/light') == 200, 'the lamp to be reachable')
        assert listed(device)['lamp'][2].startswith('coap+tcp://127.0.0.1:'), listed(device)
        got = device.curl('/nodes/lamp/light', '--http2', '--include').stdout
        assert got.startswith('HTTP/2 200') and '{"state":"off"}' in got, got
        assert device.status('/nodes/lamp/light', '--request', 'PUT', '--header', 'content-type: text/plain', '--data', 'on') == 204
        assert json.loads(device.curl('/nodes/lamp/light').stdout) == {'state': 'on'}
        assert device.curl('/nodes/lamp/big', '--output', '/dev/null', '--write-out', '%{size_download}').stdout == '5120'
    finally:
        node.close()
    device.wait(lambda: device.status('/nodes/lamp/light') == 404, 'the lamp to be gone')


def test_a_node_over_dtls(device, key):
    """It is reached over the connection on which it registered; when that is gone, what it said last is told."""
    command = [*PYTHON, f'{FOLDER}/keyed.py', 'sensor', key, device.program('coapd-dtls')]
    node = Node(device, *command, 'awake')
    device.wait(lambda: device.status('/nodes/sensor/value') == 200, 'the sensor to be reachable')
    got = device.curl('/nodes/sensor/value', '--http2', '--include').stdout
    assert got.startswith('HTTP/2 200') and got.endswith('awake'), got
    name, principal, base, _, _, _, there = listed(device)['sensor']
    assert principal == 'node:sensor' and base.startswith('coaps://127.0.0.1:') and there, listed(device)
    node.close()
    device.wait(lambda: not listed(device)['sensor'][6], 'its connection to end')
    got = device.curl('/nodes/sensor/value', '--http2', '--include').stdout
    assert got.startswith('HTTP/2 200') and got.endswith('awake') and 'age: ' in got, got
    assert device.status('/nodes/sensor/other') == 504
    node = Node(device, *command, 'back')
    device.wait(lambda: device.curl('/nodes/sensor/value').stdout == 'back', 'the sensor to be back')
    node.close()


def test_libcoaps_server_is_a_node(device, peers):
    """It does not register by itself: its port is lent to a client that does so for it."""
    told = coap(device, '-p', '56840', '-m', 'post', '-t', '40', '-e', '</time>;rt="clock"', 'coap://127.0.0.1/rd?ep=bulb')
    assert not told.stderr, told.stderr
    server = device.popen('/usr/bin/coap-server-notls', '-A', '127.0.0.1', '-p', '56840', stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    try:
        device.wait(lambda: device.status('/nodes/bulb/time') == 200, 'the server to be reachable')
        assert re.search(r'[0-9]{2}:[0-9]{2}:[0-9]{2}', device.curl('/nodes/bulb/time', '--http2').stdout)
        assert device.status('/nodes/bulb/nothing') == 404
        watched = device.curl('/nodes/bulb/time', '--no-buffer', '--header', 'accept: text/event-stream', '--max-time', '5').stdout
        assert len(set(re.findall(r'[0-9]{2}:[0-9]{2}:[0-9]{2}', watched))) >= 2, watched
    finally:
        for pid in simulated.children(server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        server.wait(60)
        device.run(*CALL, 'RemoveNode', 's', 'bulb', check=True)


@contextlib.contextmanager
def denied(device, permission):
    rule = '/etc/hybridos/policy.d/95-nodes-blocks.policy'
    device.write(rule, f'[deny nodes-blocks]\nTo = anonymous anyone\nPermission = {permission}\n')
    device.run('h-policy', 'reload', check=True)
    try:
        yield
    finally:
        device.run('rm', rule, check=True)
        device.run('h-policy', 'reload', check=True)


def test_a_revoked_right_cuts_a_transfer_in_blocks(device, lamp):
    """After the command has returned there is not one block more, either way."""
    client = bytewise.Client.__new__(bytewise.Client)
    client.socket, client.mid = device.socket(socket.SOCK_DGRAM), 1
    client.socket.settimeout(60)
    client.socket.connect(('127.0.0.1', 5683))
    block = bytewise.block
    got = client.request('GET', '/system/status', ('block2', block(0, False, 2)))
    assert got.text == '2.05' and got.block('block2') == (0, True, 2), got
    got = client.request('PUT', '/nodes/lamp/big', ('format', 42), ('block1', block(0, True, 2)), payload=b'x' * 64)
    assert got.text == '2.31', got
    with denied(device, 'endpoint.read:/system/status endpoint.write:/nodes/lamp'):
        got = client.request('GET', '/system/status', ('block2', block(1, False, 2)))
        assert got.text == '4.01', got
        got = client.request('PUT', '/nodes/lamp/big', ('format', 42), ('block1', block(1, False, 2)), payload=b'x' * 64)
        assert got.text in ('4.01', '4.08'), got
    assert device.curl('/nodes/lamp/big', '--output', '/dev/null', '--write-out', '%{size_download}').stdout != '128'
    assert client.request('GET', '/system/status', ('block2', block(1, False, 2))).text == '2.05'
    client.socket.close()


def test_a_node_is_removed(device, peers):
    told = coap(device, '-m', 'post', '-t', '40', '-e', '</a>', 'coap://127.0.0.1/rd?ep=bulb')
    assert not told.stderr, told.stderr
    device.run('busctl', 'call', 'org.hybridos.Coap1', '/org/hybridos/Coap1', 'org.hybridos.Coap1', 'RemoveNode', 's', 'bulb',
               check=True)
    device.wait(lambda: device.status('/nodes/bulb/a') == 404, 'the bulb to be gone')


def test_declared_attributes(device, peers):
    """A responder without any SDK says how links to it look, and is found by that."""
    script = device.put_text('''import sys, dbus, dbus.service, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
proxy = bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1")
proxy.Register("/attributes", "/x", {"title": "Cellar", "attributes": 'rt="temperature x";if=s;ct=50'},
               dbus_interface="org.hybridos.Endpoints1")
print("registered", flush=True)
GLib.MainLoop().run()
''', 'attributes.py')
    app = device.popen('/usr/bin/python3', '-u', script, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout.readline() == 'registered\n'
        links = lambda query: coap(device, '-m', 'get', f'coap://127.0.0.1/.well-known/core?{query}').stdout.strip()
        wanted = '</attributes>;title="Cellar";rt="temperature x";if="s";ct="50";obs'
        device.wait(lambda: links('rt=temperature') == wanted, 'the link')
        assert links('rt=temp*') == links('if=s') == wanted and links('rt=nothing') == ''
    finally:
        for pid in simulated.children(app.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        app.wait(60)


def test_who_may_not_read_a_node_sees_nothing_of_it(device, lamp):
    rule = '/etc/hybridos/policy.d/95-nodes-test.policy'
    device.write(rule, '[deny nodes-test-deny]\nTo = anonymous anyone\nPermission = endpoint.read:/nodes/lamp\n')
    try:
        device.run('systemctl', 'reload', 'h-securityd', check=True)
        device.wait(lambda: device.status('/nodes/lamp/light') == 401, 'the refusal')
        device.wait(lambda: 'lamp' not in coap(device, '-m', 'get', 'coap://127.0.0.1/rd-lookup/res').stdout, 'the look-up')
        assert coap(device, '-m', 'get', 'coap://127.0.0.1/nodes/lamp/light').stderr.startswith('4.01')
    finally:
        device.run('rm', rule, check=True)
        device.run('systemctl', 'reload', 'h-securityd', check=True)
    device.wait(lambda: device.status('/nodes/lamp/light') == 200, 'the policy to be as before')


def test_who_may_not_register_is_told_why(device, peers):
    refused = coap(device, '-m', 'post', '-t', '40', '-e', '</a>', 'coap://127.0.0.1/rd?ep=thief').stderr
    found = re.match(r'4\.01 node\.register:thief is needed \(([0-9a-f]+-[0-9]+)\)', refused)
    assert found, refused
    assert 'node.register:thief' in device.run('h-policy', 'explain', found[1], check=True).stdout


def test_a_revoked_node_goes(device, peers):
    device.run('h-policy', 'grant', '--id', 'nodes-test-guest', 'anonymous', 'node.register:guest', check=True)
    try:
        told = coap(device, '-m', 'post', '-t', '40', '-e', '</a>', 'coap://127.0.0.1/rd?ep=guest')
        assert not told.stderr, told.stderr
        device.wait(lambda: 'guest' in coap(device, '-m', 'get', 'coap://127.0.0.1/rd-lookup/ep').stdout, 'the guest')
    finally:
        device.run('h-policy', 'revoke', 'nodes-test-guest', check=True)
    assert 'guest' not in coap(device, '-m', 'get', 'coap://127.0.0.1/rd-lookup/ep').stdout
    device.wait(lambda: device.status('/nodes/guest/a') == 404, 'the guest to be gone')


# --- other makers' clients at the device's own endpoints


CLIENTS = {'libcoap': None,
           'node-coap': ['env', f'NODE_PATH={FOLDER}/node_modules', 'node', f'{FOLDER}/ask.js'],
           'aiocoap': [*PYTHON, f'{FOLDER}/ask.py']}


@pytest.fixture(params=CLIENTS)
def ask(request, device, peers):
    """(code, body) of a request, and the first three values of an observation."""
    command = CLIENTS[request.param]

    def asked(method, path, observe=False):
        url = f'coap://127.0.0.1{path}'
        if command is None:
            done = coap(device, '-m', method.lower(), *(['-s', '20'] if observe else ['-b', '64']), url)
            return (done.stderr[:4] or '2.05'), done.stdout
        done = device.run(*command, method, url, *(['observe'] if observe else []), check=True).stdout
        return ('2.05', done) if observe else (done.split('\n', 1)[0][:4], done.split('\n', 1)[1])
    return asked


@pytest.fixture
def log(device):
    """Somebody who may read the log, and something to read there."""
    device.run('h-policy', 'grant', '--id', 'nodes-test-log', 'anonymous', 'log.read', check=True)
    for i in range(100):
        device.run('logger', '--tag', 'nodes-test', f'line {i} of the log that is read by CoAP')
    yield
    device.run('h-policy', 'revoke', 'nodes-test-log', check=True)


def test_sysinfo(ask):
    code, body = ask('GET', '/system/status')
    assert code == '2.05' and len(body) > 1024 and json.loads(body)['memory'], (code, body)
    code, _ = ask('PUT', '/system/status')
    assert code in ('4.01', '4.05'), code
    assert ask('GET', '/nowhere')[0] == '4.04'


def test_sysinfo_is_observed(ask):
    _, values = ask('GET', '/system/status', observe=True)
    assert len(set(re.findall(r'"uptime":([0-9.]+)', values))) >= 2, values


def test_log(device, ask, log):
    device.wait(lambda: 'line 99' in ask('GET', '/system/log?identifier=nodes-test')[1], 'the lines')
    code, body = ask('GET', '/system/log?identifier=nodes-test')
    assert code == '2.05' and len(body) > 5000 and body.count('of the log that is read by CoAP') >= 100, body


@contextlib.contextmanager
def meanwhile(say):
    """say(0), say(1) and so on, twice a second."""
    stop = threading.Event()

    def run():
        n = 0
        while not stop.wait(0.5):
            say(n)
            n += 1
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_log_is_observed(device, ask, log):
    with meanwhile(lambda n: device.run('logger', '--tag', 'nodes-test', f'event {n}')):
        _, values = ask('GET', '/system/log?limit=1', observe=True)  # the oldest line is no event
    assert re.findall(r'event [0-9]+|line [0-9]+ of the log', values), values[-2000:]


def test_what_a_node_says_is_observed(device, ask, meter):
    """One node's value, through the device, at another maker's client."""
    with meanwhile(lambda n: meter.say(str(100 + n))):
        _, values = ask('GET', '/nodes/meter/meter', observe=True)
    assert re.findall('1[0-9][0-9]', values), values
