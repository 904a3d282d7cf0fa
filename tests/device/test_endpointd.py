# SPDX-License-Identifier: Apache-2.0
"""h-endpointd as shipped: apps that systemd starts on their first request, what of its folder belongs to whom, who hears
of what on the bus, and what outlives its own restart."""
import contextlib
import json
import signal
import subprocess

import pytest

from test_roads import end

REGISTRAR = ('org.hybridos.Endpoints1', '/org/hybridos/Endpoints1', 'org.hybridos.Endpoints1')
RUN = '/run/hybridos/endpointd'
USERS = {'h-test-lamp': 61070, 'h-test-rival': 61071, 'h-test-other': 61072}
LAMP = 'h-test-lamp'

# Says on its output what reaches it: (Unregistered|Watch|key|error) and the words.
BUS_APP = '''
import os, sys, dbus, dbus.mainloop.glib, dbus.service
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
say = lambda *words: print(*words, flush=True)

class Responder(dbus.service.Object):
    @dbus.service.method("org.hybridos.Responder1", in_signature="a{sv}ay", out_signature="ua(ss)a{sv}")
    def Handle(self, request, body):
        return 200, dbus.Array([("content-type", "text/plain")], signature="(ss)"), {"body": dbus.ByteArray(
            str(os.getpid()).encode(), variant_level=1)}

    @dbus.service.method("org.hybridos.Responder1", in_signature="s")
    def Cancel(self, request):
        pass

    @dbus.service.method("org.hybridos.Responder1", in_signature="su")
    def Watch(self, path, watchers):
        say("watch", path, watchers)

namespace, options = sys.argv[1], {word: dbus.Boolean(True) for word in sys.argv[2:]}
app = Responder(bus, "/app")
bus.add_signal_receiver(lambda *words, **more: say("unregistered", *words), "Unregistered", "org.hybridos.Endpoints1",
                        "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1")
registrar = dbus.Interface(bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False),
                           "org.hybridos.Endpoints1")
try:
    say("key", registrar.Register(namespace, dbus.ObjectPath("/app"), dbus.Dictionary(options, signature="sv")))
except dbus.DBusException as e:
    say("error", e.get_dbus_name(), e.get_dbus_message())
    sys.exit(1)
say("name", bus.get_unique_name())
GLib.MainLoop().run()
'''
# Comes and goes until it is told not to.
CHURN = '''
import sys, dbus
bus = dbus.SystemBus()
registrar = dbus.Interface(bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False),
                           "org.hybridos.Endpoints1")
for n in range(100000):
    try:
        registrar.Register(sys.argv[1], dbus.ObjectPath("/app"), dbus.Dictionary({}, signature="sv"))
    except dbus.DBusException as e:
        print("error", n, e.get_dbus_name(), e.get_dbus_message(), flush=True)
        break
    registrar.Unregister(sys.argv[1])
'''
# Started on demand; answers with its pid, and takes its time to stop.
CHANNEL_APP = '''
import os, signal, sys, time, hybridos
app = hybridos.App("lamp")

@app.endpoint(sys.argv[1])
async def lamp(request):
    return str(os.getpid())

app.run()
if len(sys.argv) > 2:
    with open(sys.argv[2], "w") as f:
        f.write("stopping")
    while os.path.exists(sys.argv[2]):
        time.sleep(0.05)
'''


class Said:
    """A program and its lines."""

    def __init__(self, device, user, *command):
        self.process = device.popen('/usr/bin/python3', '-u', *command, user=user, stdout=subprocess.PIPE, text=True)

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        assert line.split(' ')[0] == word, line
        return line.split(' ', 1)[1]

    def end(self, number=signal.SIGKILL):
        end(self.process, number)


def listing(device):
    """namespace: (uid, road, owner, active)."""
    answer = device.run('busctl', '--json=short', 'call', *REGISTRAR, 'List', check=True).stdout
    return {row[0]: tuple(row[2:]) for row in json.loads(answer)['data'][0]}


def main_pid(device, unit='h-endpointd.service'):
    return device.main_pid(unit)


def restart(device, how):
    before = main_pid(device)
    device.run('systemctl', *how, 'h-endpointd.service', check=True)
    device.wait(lambda: main_pid(device) not in ('0', before)
                and device.run('busctl', 'call', *REGISTRAR, 'List').returncode == 0, 'h-endpointd is back')


@pytest.fixture(scope='module', autouse=True)
def users(device):
    for name, uid in USERS.items():
        if device.run('id', name).returncode:
            device.run('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--uid', uid, name, check=True)


@pytest.fixture
def world(device):
    """grant(), start() and place(); everything is taken back at the end."""
    with contextlib.ExitStack() as stack:
        yield World(device, stack)


class World:
    def __init__(self, device, stack):
        self.device, self.stack, self.n = device, stack, 0

    def grant(self, user, *permissions):
        self.n += 1
        rule = f'test-endpointd-{self.n}'
        self.device.run('h-policy', 'grant', '--id', rule, f'unix:{user}', *permissions, check=True)
        self.stack.callback(self.device.run, 'h-policy', 'revoke', rule)
        return rule

    def may_register(self, user, namespace):
        return self.grant(user, 'endpoint.register', f'endpoint.register:{namespace}')

    def start(self, user, *arguments):
        said = Said(self.device, user, self.device.put_text(BUS_APP, 'bus-app.py'), *arguments)
        self.stack.callback(said.end)
        return said

    def file(self, path, text):
        self.device.write(path, text)
        self.stack.callback(self.device.run, 'rm', '-f', path)
        return path

    def on_demand(self, namespace, *arguments):
        """lamp.service, its manifest, and the leave to start it."""
        d = self.device
        # Called last, when the files have gone.
        self.stack.callback(d.wait, lambda: namespace not in listing(d), 'the manifest is forgotten')
        self.stack.callback(d.run, 'systemctl', 'reload', 'h-endpointd.service')
        self.stack.callback(d.run, 'systemctl', 'daemon-reload')
        program = d.put_text(CHANNEL_APP, 'lamp.py')
        self.file('/run/systemd/system/h-test-lamp.service',
                  '[Unit]\nStartLimitIntervalSec=0\n[Service]\nUser=h-test-lamp\nTimeoutStopSec=60\nKillMode=mixed\n'
                  f'ExecStart=/usr/bin/python3 {program} {namespace} {" ".join(arguments)}\n')
        self.file('/run/hybridos/apps.d/test-lamp.app', manifest(namespace))
        d.run('systemctl', 'daemon-reload', check=True)
        d.run('systemctl', 'reload', 'h-endpointd.service', check=True)
        self.stack.callback(d.run, 'systemctl', 'reset-failed', 'h-test-lamp.service')
        d.run('systemctl', 'start', 'h-endpointd-start@h-test-lamp.path', check=True)
        self.stack.callback(d.run, 'systemctl', 'stop', 'h-endpointd-start@h-test-lamp.path', 'h-test-lamp.service')
        self.may_register(LAMP, namespace)
        d.wait(lambda: listing(d).get(namespace) == (USERS[LAMP], 'start', 'h-test-lamp.service', False), 'the manifest')


def manifest(namespace, user=LAMP):
    return f'[endpoint {namespace}]\nUnit = h-test-lamp.service\nUser = {user}\nTitle = Lamp\n'


@pytest.fixture(autouse=True)
def folder(device):
    device.run('mkdir', '-p', '/run/hybridos/apps.d', check=True)


def active(device):
    return device.run('systemctl', 'is-active', 'h-test-lamp.service').stdout.strip()


def not_started(device):
    return active(device) in ('inactive', 'failed')


# --- apps that start on demand -----------------------------------------------------------------------


def test_the_first_request_starts_the_app_and_is_answered_by_it(device, world):
    world.on_demand('/test-lamp')
    assert not_started(device)
    done = device.curl('/test-lamp', '--fail', check=True)
    assert done.stdout == main_pid(device, 'h-test-lamp.service')
    assert listing(device)['/test-lamp'] == (USERS[LAMP], 'channel', '', True)
    # Again, after it has stopped: what is listed then is what can be started.
    device.run('systemctl', 'stop', 'h-test-lamp.service', check=True)
    device.wait(lambda: listing(device)['/test-lamp'][1] == 'start', 'the manifest stands there again')
    assert device.curl('/test-lamp', '--fail', check=True).stdout == main_pid(device, 'h-test-lamp.service') != done.stdout


def test_many_first_requests_are_one_start(device, world):
    world.on_demand('/test-lamp')
    url = 'https://localhost:8443/test-lamp?[1-20]'
    done = device.run('curl', '-sSk', '--fail', '--parallel', url, check=True)
    assert done.stdout == main_pid(device, 'h-test-lamp.service') * 20
    assert device.run('systemctl', 'show', '-P', 'NRestarts', 'h-test-lamp.service').stdout.strip() == '0'


def test_a_request_while_the_app_is_stopping_starts_it_afterwards(device, world):
    """systemd does not see what is asked for then: the registrar asks again."""
    stopping = '/run/hybridos-tests/lamp-stopping'
    device.run('bash', '-ec', f'mkdir -p {stopping}.d; chown h-test-lamp {stopping}.d', check=True)
    flag = f'{stopping}.d/flag'
    world.on_demand('/test-lamp', flag)
    first = device.curl('/test-lamp', '--fail', check=True).stdout
    device.run('systemctl', 'stop', '--no-block', 'h-test-lamp.service', check=True)
    device.wait(lambda: device.run('test', '-e', flag).returncode == 0, 'the app stops')
    device.wait(lambda: listing(device)['/test-lamp'][1] == 'start', 'the app has left')
    asked = device.popen('curl', '-sSk', '--max-time', '100', 'https://localhost:8443/test-lamp', stdout=subprocess.PIPE,
                         text=True)
    # The wish has been heard, and systemd has done nothing about it.
    device.wait(lambda: 'Asked for h-test-lamp.service' in device.run('h-logread', '--no-pager', '--lines=100').stdout,
                'the registrar has asked')
    assert active(device) == 'deactivating'
    device.run('rm', flag, check=True)
    second = asked.communicate(timeout=120)[0]
    assert second.isdigit() and second != first, second
    device.run('systemctl', 'stop', '--no-block', 'h-test-lamp.service', check=True)
    device.wait(lambda: device.run('test', '-e', flag).returncode == 0, 'the app stops')
    device.run('rm', flag, check=True)


def test_what_nobody_made_startable_is_not_started(device, world):
    world.on_demand('/test-lamp')
    device.run('systemctl', 'stop', 'h-endpointd-start@h-test-lamp.path', check=True)
    assert device.status('/test-lamp', '--header', 'Prefer: wait=1') in (503, 504)
    assert not_started(device)


def test_neither_reload_nor_restart_starts_anything(device, world):
    world.on_demand('/test-lamp')
    device.run('systemctl', 'reload', 'h-endpointd.service', check=True)
    restart(device, ['restart'])
    restart(device, ['kill', '--signal=KILL'])
    assert listing(device)['/test-lamp'][1] == 'start' and not_started(device)
    assert device.curl('/test-lamp', '--fail', check=True).stdout == main_pid(device, 'h-test-lamp.service')


BAD = {
    'syntax': ('[endpoint', '1:'),
    'key': (manifest('/test-bad') + 'Colour = red\n', '5:1'),
    'namespace': (manifest('/test bad'), '1:1'),
    'user': (manifest('/test-bad', 'nobody-of-that-name'), '3:'),
    'unit': (manifest('/test-bad').replace('.service', '.mount'), '2:'),
    'twice': (manifest('/test-lamp'), '1:1'),
    'incomplete': ('[endpoint /test-bad]\nTitle = x\n', '1:1'),
}


@pytest.mark.parametrize('what', BAD)
def test_with_a_bad_manifest_those_of_before_stay(device, world, what):
    text, place = BAD[what]
    world.on_demand('/test-lamp')
    bad = world.file('/etc/hybridos/apps.d/test-zz.app', text) if device.run('mkdir', '-p', '/etc/hybridos/apps.d').returncode == 0 else ''
    done = device.run('h-endpointd', '--check-config')
    assert done.returncode != 0 and f'test-zz.app:{place}' in done.stdout + done.stderr, done.stdout + done.stderr
    device.run('systemctl', 'reload', 'h-endpointd.service', check=True)
    device.wait(lambda: f'{bad}:{place}' in device.run('h-logread', '--no-pager', '--lines=100').stdout, 'the complaint')
    assert '/test-bad' not in listing(device) and listing(device)['/test-lamp'][1] == 'start'
    assert device.curl('/test-lamp', '--fail', check=True).stdout == main_pid(device, 'h-test-lamp.service')


@pytest.mark.parametrize('damage', ['chown h-test-lamp', 'chmod 0666'])
def test_a_manifest_that_others_may_write_is_none(device, world, damage):
    bad = world.file('/run/hybridos/apps.d/test-zz.app', manifest('/test-bad'))
    device.run(*damage.split(), bad, check=True)
    done = device.run('h-endpointd', '--check-config')
    assert done.returncode != 0 and 'must belong to root' in done.stdout + done.stderr
    device.run('systemctl', 'reload', 'h-endpointd.service', check=True)
    assert '/test-bad' not in listing(device)


# --- its folder --------------------------------------------------------------------------------------


def test_what_is_in_its_folder_belongs_to_it_and_nobody_else_writes_there(device, world):
    world.on_demand('/test-lamp')
    world.may_register('h-test-other', '/test-other')
    world.start('h-test-other', '/test-other').expect('key')
    found = dict(line.rsplit(' ', 1)[::-1] for line in device.run(
        'find', RUN, '-printf', '%u:%g:%M %p\n', check=True).stdout.splitlines())
    assert found == found | {
        RUN: 'h-endpointd:hybridos:drwxr-xr-x', f'{RUN}/channel.sock': 'h-endpointd:hybridos:srw-rw-rw-',
        f'{RUN}/table': 'h-endpointd:hybridos:-rw-------', f'{RUN}/start': 'h-endpointd:hybridos:drwxr-xr-x',
        f'{RUN}/start/h-test-lamp': 'h-endpointd:hybridos:-rw-r--r--'}, found
    for user in ('guest', LAMP, 'h-httpd'):
        for command in (['touch', f'{RUN}/start/h-test-lamp'], ['touch', f'{RUN}/start/other'], ['rm', f'{RUN}/table'],
                        ['cat', f'{RUN}/table'], ['ln', '-s', '/etc/passwd', f'{RUN}/table.new']):
            assert device.run(*command, user=user).returncode != 0, (user, command)
    assert not_started(device)


# --- the bus -----------------------------------------------------------------------------------------


def test_unregistered_reaches_the_holder_and_nobody_else(device, world):
    """Through the bus policy as shipped: an app may receive it, and others do not get to see it."""
    rule = world.may_register(LAMP, '/test-bus')
    app = world.start(LAMP, '/test-bus')
    app.expect('key')
    name = app.expect('name')
    assert listing(device)['/test-bus'] == (USERS[LAMP], 'bus', name, True)
    world.may_register('h-test-other', '/test-witness')
    witness = world.start('h-test-other', '/test-witness')  # listens for the same signal
    witness.expect('key')
    witness.expect('name')
    assert device.curl('/test-bus', '--fail').stdout == device.curl('/test-bus', '--fail').stdout != ''
    device.run('h-policy', 'revoke', rule, check=True)
    namespace, code, reason = app.expect('unregistered').split(' ', 2)
    assert (namespace, code) == ('/test-bus', '403') and 'audit' in reason, reason
    assert '/test-bus' not in listing(device)
    device.wait(lambda: device.status('/test-bus') == 404, 'the servers know')
    # What the witness hears next is its own end.
    device.run('h-policy', 'revoke', f'test-endpointd-{world.n}', check=True)
    assert witness.expect('unregistered').startswith('/test-witness 403 ')


def test_a_takeover_is_for_the_same_user_only(device, world):
    for user in (LAMP, 'h-test-rival'):
        world.may_register(user, '/test-bus')
    first = world.start(LAMP, '/test-bus')
    first.expect('key')
    name = first.expect('name')
    for options in ([], ['takeover']):
        assert world.start('h-test-rival', '/test-bus', *options).expect('error').startswith('org.hybridos.Error.Exists')
    assert world.start(LAMP, '/test-bus').expect('error').startswith('org.hybridos.Error.Exists')
    assert listing(device)['/test-bus'] == (USERS[LAMP], 'bus', name, True)
    second = world.start(LAMP, '/test-bus', 'takeover')
    second.expect('key')
    assert first.expect('unregistered').startswith('/test-bus 410 ')
    assert listing(device)['/test-bus'][2] == second.expect('name')
    # Nor while the registrar waits for the holder to come back.
    restart(device, ['kill', '--signal=KILL'])
    assert world.start('h-test-rival', '/test-bus', 'takeover').expect('error').startswith('org.hybridos.Error.Exists')


def test_who_comes_and_goes_in_a_loop_is_slowed_alone(device, world):
    world.may_register(LAMP, '/test-bus')
    world.may_register('h-test-other', '/test-other')
    churn = Said(device, LAMP, device.put_text(CHURN, 'churn.py'), '/test-bus')
    world.stack.callback(churn.end)
    number, name, text = churn.expect('error').split(' ', 2)
    assert int(number) >= 128 and name == 'org.hybridos.Error.LimitExceeded' and 'too often' in text, text
    app = world.start('h-test-other', '/test-other')
    app.expect('key')
    assert device.curl('/test-other', '--fail', check=True).stdout


def test_a_manifest_keeps_its_namespace_for_its_user(device, world):
    world.on_demand('/test-lamp')
    world.may_register('h-test-rival', '/test-lamp')
    assert world.start('h-test-rival', '/test-lamp', 'takeover').expect('error').startswith('org.hybridos.Error.Exists')


def test_watch_reaches_an_app_on_the_bus(device, world):
    world.may_register(LAMP, '/test-bus')
    app = world.start(LAMP, '/test-bus', 'watch')
    app.expect('key')
    app.expect('name')
    device.wait(lambda: device.status('/test-bus') == 200, 'it answers')
    for _ in range(2):
        watcher = device.popen('curl', '-skN', '-H', 'Accept: text/event-stream', 'https://localhost:8443/test-bus',
                               stdout=subprocess.DEVNULL)
        try:
            assert app.expect('watch') == '/ 1'
        finally:
            end(watcher)
        assert app.expect('watch') == '/ 0'


@pytest.mark.parametrize('how', [['restart'], ['kill', '--signal=KILL']], ids=['restarted', 'killed'])
def test_apps_of_both_roads_are_there_again_after_a_restart(device, world, how):
    world.may_register(LAMP, '/test-bus')
    world.may_register('h-test-other', '/test-channel')
    app = world.start(LAMP, '/test-bus')
    app.expect('key')
    program = device.put_text(CHANNEL_APP, 'lamp.py')
    other = Said(device, 'h-test-other', program, '/test-channel')
    world.stack.callback(other.end)
    device.wait(lambda: {'/test-bus', '/test-channel'} <= {n for n, e in listing(device).items() if e[3]}, 'both')
    answers = [device.curl(n, '--fail', check=True).stdout for n in ('/test-bus', '/test-channel')]
    before = listing(device)
    restart(device, how)
    # No request finds a hole, and in the end each is held by who held it.
    assert [device.curl(n, '--fail', check=True).stdout for n in ('/test-bus', '/test-channel')] == answers
    device.wait(lambda: listing(device) == before, 'everything stands as before')
    # It is theirs, not only remembered: what ends is gone at once.
    app.end()
    other.end()
    device.wait(lambda: not {'/test-bus', '/test-channel'} & set(listing(device)), 'both are gone')
