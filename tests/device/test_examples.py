# SPDX-License-Identifier: Apache-2.0
"""The five ways to write a responder side by side: each registered once and answering over HTTP/2, and none of them
answering anybody but the servers."""
import json
import pathlib

import pytest

import simulated
from test_app_run import Running

EXAMPLES = simulated.ROOT / 'clients/examples'
# How each takes its requests: over the channel, or at an object on the bus.
CHANNEL = {'/system/status': None, '/examples/status-py': 'status.py', '/examples/status-js': 'status.js'}
BUS = {'/examples/status-dbus': 'status-dbus.py', '/examples/status-sh': 'status.sh'}
OBJECT = '/org/example/status'
RESPONDER = 'org.hybridos.Responder1'
CALLS = {'Handle': ['a{sv}ay', '0', '0'], 'Cancel': ['s', 'x'], 'Watch': ['su', '/', '1']}
USERS = ['stranger', 'guest', 'h-test-other']  # without any rule; somebody who logs in; another app

NAME, NAMED = 'org.example.Named1', '/named'
# What a package could ship so that everybody may call its program, and what it could try beyond that.
ADMITS = {
    'send': f'<allow send_destination="{NAME}"/>',
    'send and receive': f'<allow send_destination="{NAME}"/><allow send_interface="{RESPONDER}"/>'
                        f'<allow receive_interface="{RESPONDER}"/>'
                        f'<allow receive_type="method_call" receive_interface="{RESPONDER}"/>',
}
BUS_FILE = '''<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy context="default"><allow own="{}"/>{}</policy></busconfig>'''


@pytest.fixture(scope='module', autouse=True)
def users(device):
    device.user('stranger', '60990')
    if device.run('id', 'h-test-other').returncode:
        device.run('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--uid', '60950', 'h-test-other',
                   check=True)


@pytest.fixture(scope='module')
def examples(device, users):
    started = [Running(device, endpoint, EXAMPLES / program)
               for endpoint, program in (CHANNEL | BUS).items() if program]
    try:
        for running in started:
            running.get()
        yield {r.endpoint: r for r in started}
    finally:
        for running in started:
            running.end()


def listing(device):
    """namespace: [(uid, road, owner, active), …]."""
    answer = device.run('busctl', '--json=short', 'call', 'org.hybridos.Endpoints1', '/org/hybridos/Endpoints1',
                        'org.hybridos.Endpoints1', 'List', check=True).stdout
    found = {}
    for namespace, _, uid, road, owner, active in json.loads(answer)['data'][0]:
        found.setdefault(namespace, []).append((uid, road, owner, active))
    return found


def call(device, user, to, path, member, interface=RESPONDER):
    return device.run('busctl', '--timeout=20', 'call', to, path, interface, member, *CALLS.get(member, []), user=user)


def is_refused(done):
    return done.returncode != 0 and 'access denied' in done.stderr.lower()


def test_all_answer_over_http2_from_one_registration_each(device, examples):
    found = listing(device)
    uids = set()
    for namespace in CHANNEL | BUS:
        done = device.curl(namespace, '--fail', '--http2', '--write-out', '\n%{http_version} %{content_type}')
        body, _, how = done.stdout.rpartition('\n')
        assert how == '2 application/json', (namespace, done.stdout, done.stderr)
        uptime = float(device.run('cat', '/proc/uptime', check=True).stdout.split()[0])
        assert 0 <= uptime - json.loads(body)['uptime'] < 60, namespace
        assert len(found[namespace]) == 1, found[namespace]
        uid, road, _, active = found[namespace][0]
        assert road == ('bus' if namespace in BUS else 'channel') and active, (namespace, found[namespace])
        uids.add(uid)
    assert len(uids) == len(CHANNEL | BUS)


@pytest.mark.parametrize('user', USERS)
@pytest.mark.parametrize('member', CALLS)
@pytest.mark.parametrize('namespace', BUS)
def test_nobody_calls_them_on_the_bus(device, examples, namespace, member, user):
    owner = listing(device)[namespace][0][2]
    assert owner.startswith(':'), owner
    done = call(device, user, owner, OBJECT, member)
    assert is_refused(done), done.stdout + done.stderr
    # Not even somebody whom no policy of ours concerns.
    assert is_refused(call(device, 'root', owner, OBJECT, member))


@pytest.mark.parametrize('namespace', CHANNEL)
def test_nothing_to_call_where_the_channel_is_used(device, examples, namespace):
    """An app on the channel neither is on the bus nor listens anywhere."""
    uid = listing(device)[namespace][0][0]
    names = json.loads(device.run('busctl', '--json=short', 'list', '--unique', check=True).stdout)
    ours = device.run('getent', 'passwd', str(uid), check=True).stdout.split(':')[0]
    mine = [n for n in names if n.get('user') == ours]
    # The shipped app asks systemd for its units; no object of it is there.
    if namespace != '/system/status':
        assert not mine, mine
    for n in mine:
        done = call(device, 'stranger', n['name'], OBJECT, 'Handle')
        assert is_refused(done), done.stdout + done.stderr
    pids = set(device.run('pgrep', '--uid', str(uid), check=True).stdout.split())
    sockets = device.run('ss', '--no-header', '--listening', '--processes', '--unix', '--tcp', '--udp', check=True).stdout
    assert pids and 'h-httpd' in sockets
    assert not [line for line in sockets.splitlines() if any(f'pid={pid},' in line for pid in pids)]


@pytest.fixture(params=ADMITS)
def named(device, users, request):
    """An app that owns a name and whose bus file admits everyone; its unique name."""
    path = '/etc/dbus-1/system.d/zz-test-named.conf'  # read after everything in /usr
    device.run('tee', path, input=BUS_FILE.format(NAME, ADMITS[request.param]), check=True)
    device.run('busctl', 'call', 'org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'ReloadConfig',
               check=True)
    app = 'h-test-named'
    if device.run('id', app).returncode:
        device.run('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--uid', '60951', app, check=True)
    device.run('h-policy', 'grant', '--id', 'test-named', f'unix:{app}', 'endpoint.register', f'endpoint.register:{NAMED}',
               check=True)
    program = device.put(pathlib.Path(__file__).parent / 'named-responder.py')
    device.run('systemd-run', '--quiet', '--collect', '--unit=test-named', f'--uid={app}', '--gid=hybridos', program, NAME, NAMED,
               check=True)
    try:
        yield device.wait(lambda: NAMED in listing(device) and listing(device)[NAMED][0][2], 'the app registers')
    finally:
        device.run('systemctl', 'stop', 'test-named.service')
        device.run('h-policy', 'revoke', 'test-named', check=True)
        device.run('rm', path)
        device.run('busctl', 'call', 'org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'ReloadConfig',
                   check=True)


def test_an_app_cannot_open_itself_with_its_own_bus_file(device, named):
    assert named.startswith(':')
    device.wait(lambda: device.curl(NAMED).stdout == 'handled', 'the app answers through the server')
    for to in (named, NAME):
        for user in ('stranger', 'guest', 'root'):
            # The file is in force: whatever else the app offers is reached.
            done = call(device, user, to, NAMED, 'Hello', NAME)
            assert '"hello"' in done.stdout, done.stdout + done.stderr
        for user in (*USERS, 'root'):
            for member in CALLS:
                done = call(device, user, to, NAMED, member)
                assert is_refused(done), (to, user, member, done.stdout, done.stderr)
    assert device.curl(NAMED).stdout == 'handled'


# Speaks raw frames: a server to the registrar, a server and an app to h-httpd.
FORGER = '''
import json, socket, sys
sys.path.insert(0, sys.argv[1])
from channel import *
result = {}

def hear(path, *frames):
    """What is said until the other side closes."""
    heard, buffer = [], b""
    try:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        s.connect(path)
        for f in frames:
            s.sendall(f)
        while True:
            data = s.recv(65536)
            if not data:
                return heard + ["closed"]
            buffer += data
            while len(buffer) >= 16 and len(buffer) >= 16 + struct.unpack_from("<I", buffer)[0]:
                size, type, _, code = struct.unpack_from("<IBBH", buffer)
                buffer = buffer[16 + size:]
                heard.append([type, code])
                if type in (REFUSED, ATTACHED, ENTRY, REQUEST):
                    return heard
    except PermissionError:
        return heard + ["no permission"]
    except ConnectionError:
        return heard + ["closed"]
    except TimeoutError:
        return heard + ["silence"]

ENTRY = 0x15
hello = lambda role, name: frame(HELLO, value=1, payload=fields((":role", role), (":name", name)))
server = "/run/hybridos/servers/h-httpd.sock"
result["server at the registrar"] = hear("/run/hybridos/endpointd/channel.sock", hello("server", "httpd"))
result["server at the server"] = hear(server, hello("server", "httpd"))
result["app without the key"] = hear(server, hello("app", "x"), frame(ATTACH, stream=1, payload=fields(
    (":namespace", sys.argv[2]), (":key", "0123456789abcdef"))))
try:
    s = socket.socket(socket.AF_UNIX)
    s.bind("/run/hybridos/servers/h-forged.sock")
    result["a socket of its own"] = "bound"
except OSError as e:
    result["a socket of its own"] = e.strerror
print(json.dumps(result))
'''


@pytest.mark.parametrize('user', USERS)
def test_nobody_comes_to_the_channel_as_a_server(device, examples, user):
    folder = pathlib.PurePath(device.put(simulated.ROOT / 'tests/conformance/channel.py', 0o644)).parent
    done = device.run('python3', '-', str(folder), '/examples/status-py', user=user, input=FORGER)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    hello, goaway, refused = 1, 2, 0x12
    # The other side's own first word, and why it goes; no entry, no request.
    assert heard['server at the registrar'] == [[hello, 0], [goaway, 403], 'closed']
    assert heard['server at the server'] == [[hello, 0], 'closed']
    assert heard['app without the key'] == [[hello, 0], [refused, 403]]
    assert heard['a socket of its own'] == 'Permission denied'
    for namespace in CHANNEL:
        assert device.curl(namespace, '--fail').returncode == 0, namespace
