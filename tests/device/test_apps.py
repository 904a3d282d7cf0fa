# SPDX-License-Identifier: Apache-2.0
"""Apps with a uid and a sandbox of their own: two that try to reach each other, systemd, the network and each other's
files, what they may do once it is granted, and that nothing stays of one that is removed."""
import contextlib
import json
import re
import socket
import threading
import urllib.parse

import pytest

import simulated
from test_consent import Agent

NOSY = simulated.ROOT / 'tests/device/nosy'
SECURITY = ('org.hybridos.Security1', '/org/hybridos/Security1', 'org.hybridos.Security1')
LIST = ('call', 'org.hybridos.Endpoints1', '/org/hybridos/Endpoints1', 'org.hybridos.Endpoints1', 'List')
UNITS = ('call', 'org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager',
         'GetDefaultTarget')
POLICY = '/etc/hybridos/policy.d/78-test-apps.policy'
UIDS = range(70000, 80000)


class Nosy:
    """One of the two, and what comes of its attempts."""

    def __init__(self, device, name):
        self.device, self.name, self.user, self.unit = device, name, f'h-app-{name}', f'h-app@{name}.service'

    def __call__(self, *attempt):
        """What the app answers, once it is there."""
        query = urllib.parse.quote(json.dumps(attempt), safe='')
        ask = lambda: (r := self.device.curl(f'/{self.name}?{query}', '--fail')).returncode == 0 and r
        return json.loads(self.device.wait(ask, f'/{self.name} answers', 20).stdout)

    def does(self, *attempt):
        answer = self(*attempt)
        assert 'result' in answer, (self.name, attempt, answer)
        return answer['result']

    def cannot(self, *attempt):
        answer = self(*attempt)
        assert 'refused' in answer, (self.name, attempt, answer)
        return answer['refused']

    def show(self, *properties):
        shown = self.device.run('systemctl', 'show', '-p', ','.join(properties), self.unit, check=True).stdout
        return dict(line.split('=', 1) for line in shown.splitlines())

    def state(self):
        return self.show('ActiveState')['ActiveState']


def install(device, name, *arguments, manifest=None):
    path = f'/opt/nosy/{name}.json'
    if manifest is not None:
        device.write(path, json.dumps(manifest))
    return device.run('h-app', 'install', *arguments, path)


def register(name):
    return ('--grant', 'endpoint.register', '--grant', f'endpoint.register:/{name}')


def known(device):
    return {app['name']: app for app in json.loads(device.run('h-app', 'list', '--json').stdout)}


def traces(device, name, uid):
    """Where something of an app could be left."""
    found = re.findall(rf'^h-app-{name}:.*', device.run('getent', 'passwd', check=True).stdout, re.M)
    found += re.findall(rf'.*(?:h-app-{name}|uid:{uid})\b.*', device.run('h-policy', 'list', check=True).stdout)
    found += device.run('sh', '-c', f'grep -lE "h-app-{name}|{uid}" /run/hybridos/bus/* /var/lib/hybridos/policy.d/*').stdout.split()
    found += device.run('sh', '-c', f'ls -d /run/userdb/*{name}* /run/userdb/{uid}* /run/systemd/system/*{name}* '
                        f'/var/lib/hybridos/app-data/{name} /run/hybridos/apps.d/*{name}* /var/lib/hybridos/apps/{name}*').stdout.split()
    found += device.run('systemctl', 'list-units', '--all', '--plain', '--no-legend', f'h-app@{name}*',
                        f'h-endpointd-start@h-app@{name}*').stdout.split()
    found += device.run('find', '/var', '/run', '/tmp', '/etc', '-xdev', '-uid', str(uid)).stdout.split()
    return found


@pytest.fixture(scope='module')
def program(device):
    device.run('mkdir', '-p', '/opt/nosy', check=True)
    for path in NOSY.iterdir():
        device.write(f'/opt/nosy/{path.name}', path.read_text())
    yield '/opt/nosy/nosy.py'
    for name in known(device):
        device.run('h-app', 'remove', name)
    device.run('rm', '--recursive', '/opt/nosy', check=True)


@pytest.fixture(scope='module')
def apps(device, program):
    """Both, with leave to answer at their endpoints and nothing else."""
    for name in ('one', 'two'):
        device.run('h-app', 'remove', name)  # of a test that failed
        done = install(device, name, *register(name))
        assert done.returncode == 0, done.stderr
    return Nosy(device, 'one'), Nosy(device, 'two')


def test_a_manifest_grants_nothing(device, program):
    done = install(device, 'one')
    assert done.returncode == 0, done.stderr
    granted = {r['permission']: r['granted'] for r in known(device)['one']['requests']}
    assert granted == dict.fromkeys(('endpoint.register', 'endpoint.register:/one', 'endpoint.list', 'units.read',
                                     'app.network'), False)
    assert 'asks a weather service' in done.stdout and 'not granted' in done.stdout
    one = Nosy(device, 'one')
    assert one.show('PrivateNetwork', 'User') == {'PrivateNetwork': 'yes', 'User': 'h-app-one'}
    uid = known(device)['one']['uid']
    assert uid in UIDS
    refused = lambda: 'endpoint.register' in device.run('h-policy', 'audit', '--subject', f'uid:{uid}').stdout
    device.wait(refused, 'the app to be refused its endpoint')
    device.run('h-app', 'remove', 'one', check=True)
    assert traces(device, 'one', uid) == []


def test_each_has_what_is_its_own(apps):
    one, two = apps
    about = [one.does('about'), two.does('about')]
    uids = [a['uid'] for a in about]
    assert len(set(uids)) == 2 and set(uids) <= set(UIDS)
    for app, what in zip(apps, about):
        assert what['capabilities'] == '0' * 16 and what['groups'] == [60600]
        assert what['state'] == f'/var/lib/hybridos/app-data/{app.name}'
        assert app.does('keep', app.name) == app.name
        assert app.does('look', '/tmp') == [f'of-{app.name}'], 'a /tmp of its own'


@pytest.mark.parametrize('a, b', [(0, 1), (1, 0)])
def test_they_do_not_reach_each_other(apps, a, b):
    app, other = apps[a], apps[b]
    about = other.does('about')
    for path in (about['state'], f'/proc/{about["pid"]}'):
        app.cannot('look', path)
    for path in (f'{about["state"]}/secret', f'/tmp/of-{other.name}'):
        app.cannot('read', path)
    app.cannot('write', f'{about["state"]}/forged')
    app.cannot('signal_to', about['pid'])
    assert 'refused' in app.cannot('connect_abstract', other.name).lower()
    handle = app.cannot('call', about['bus'], '/', 'org.hybridos.Responder1', 'Cancel', 'x')
    ping = app.cannot('call', about['bus'], '/', 'org.freedesktop.DBus.Peer', 'Ping')
    assert 'AccessDenied' in handle and 'AccessDenied' in ping
    registered = app.cannot('call', *LIST[1:4], 'Unregister', f'/{other.name}')
    assert 'AccessDenied' in registered or 'NotFound' in registered
    assert other.does('read', f'{about["state"]}/secret') == other.name


def test_they_reach_neither_systemd_nor_the_system(apps):
    for app in apps:
        for call in (('org.freedesktop.systemd1', '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager', 'Reload'),
                     UNITS[1:], LIST[1:], (*SECURITY, 'Reload'), (*SECURITY, 'ListRules'), (*SECURITY, 'RemoveUser', 'x'),
                     ('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'ReloadConfig')):
            assert 'AccessDenied' in app.cannot('call', *call), call
        for name in ('org.hybridos.Endpoints1', 'org.hybridos.App1', 'org.freedesktop.systemd1'):
            assert 'AccessDenied' in app.cannot('own', name)
        for path in ('/etc/x', '/usr/x', '/run/x', '/run/hybridos/x', '/run/userdb/x.user', '/var/lib/hybridos/x',
                     '/var/lib/hybridos/apps/one.app', '/opt/nosy/nosy.py', '/run/systemd/system/x.service'):
            app.cannot('write', path)
        for path in ('/etc/shadow', '/var/lib/hybridos/securityd/state.db', f'/var/lib/hybridos/apps/{app.name}.app'):
            app.cannot('read', path)
        app.cannot('become_root')
        app.cannot('signal_to', 1)


def test_limits(device, apps):
    one = apps[0]
    text = device.run('systemd-analyze', 'security', '--no-pager', one.unit).stdout
    assert float(re.search(r'Overall exposure level for \S+: ([0-9.]+)', text)[1]) <= 0.5
    assert one.show('MemoryMax', 'TasksMax', 'CPUQuotaPerSecUSec', 'MemorySwapMax') == {
        'MemoryMax': '100000000', 'TasksMax': '12', 'CPUQuotaPerSecUSec': '600ms', 'MemorySwapMax': '0'}
    assert 1 <= one.does('fork_many', 100) < 12
    assert one.does('keep', 'still there') == 'still there'


@pytest.mark.parametrize('permission, call', [('endpoint.list', LIST[1:]), ('units.read', UNITS[1:])])
def test_a_grant_opens_and_a_revoke_closes(device, apps, permission, call):
    """By our own filters, and by the bus for a service that knows nothing of us."""
    one, two = apps
    pid = one.does('about')['pid']
    device.run('h-app', 'grant', 'one', permission, check=True)
    one.does('call', *call)
    assert 'AccessDenied' in two.cannot('call', *call), 'only the one it was granted to'
    device.run('h-app', 'revoke', 'one', permission, check=True)
    assert 'AccessDenied' in one.cannot('call', *call)
    assert one.does('about')['pid'] == pid


def test_what_is_not_requested_is_not_granted_by_mistake(device, apps):
    done = device.run('h-app', 'grant', 'one', 'endpoint.lsit')
    assert done.returncode == 2 and 'does not request endpoint.lsit' in done.stderr
    done = device.run('h-app', 'revoke', 'one', 'units.read')
    assert done.returncode == 3 and 'units.read' in done.stderr


@pytest.fixture
def outside(device):
    """A server of this machine, as the device's network reaches it."""
    with socket.create_server((device.addresses()[0], 0)) as server:
        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b'reached')
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


def test_no_network_unless_granted(device, apps, outside):
    one, two = apps
    for where in (outside, ('127.0.0.1', 8443)):
        assert 'not supported' in one.cannot('connect', *where)
    device.run('h-app', 'grant', 'one', 'app.network', check=True)
    assert one.does('connect', *outside) == 'reached'
    two.cannot('connect', *outside)
    device.run('h-app', 'revoke', 'one', 'app.network', check=True)
    one.cannot('connect', *outside)


def test_a_rule_that_goes_takes_the_network_along(device, apps, outside):
    """Whatever way it goes: the policy is watched."""
    one = apps[0]
    device.run('h-policy', 'grant', '--id', 'test-network', 'unix:h-app-one', 'app.network', check=True)
    device.wait(lambda: one('connect', *outside).get('result') == 'reached', 'the network to come')
    device.run('h-policy', 'revoke', 'test-network', check=True)
    device.wait(lambda: 'refused' in one('connect', *outside), 'the network to go')


def test_a_unit_from_before_a_revoke_does_not_start(device, apps):
    """The drop-in alone gives no network: what the policy says at the start counts."""
    one = apps[0]
    device.run('h-app', 'grant', 'one', 'app.network', check=True)
    device.run('systemctl', 'stop', one.unit, 'hybridos-apps.path', check=True)
    try:
        rule = next(r for r in json.loads(device.run('h-policy', 'list', '--json').stdout)
                    if r[2] == 'unix:h-app-one' and r[3] == 'app.network')[0]
        device.run('h-policy', 'revoke', rule, check=True)
        assert device.run('systemctl', 'start', one.unit).returncode != 0
        device.run('systemctl', 'stop', one.unit, check=True)
    finally:
        device.run('systemctl', 'start', 'hybridos-apps.path', check=True)
    device.run('h-app', 'refresh', check=True)
    device.run('systemctl', 'start', one.unit, check=True)
    assert one.does('about')


def test_consent_at_use(device, program):
    """A rule of the administrator's leaves it to a person; what the person said once and for all ends with the app."""
    manifest = json.loads((NOSY / 'one.json').read_text()) | {
        'name': 'asks', 'endpoints': ['/asks'], 'exec': ['/usr/bin/python3', '/opt/nosy/nosy.py', '/asks']}
    assert install(device, 'asks', *register('asks'), manifest=manifest).returncode == 0
    asks, agent = Nosy(device, 'asks'), None
    uid = known(device)['asks']['uid']
    kept = lambda: f'uid:{uid} ' in device.run('h-policy', 'consent', 'list', check=True).stdout
    device.write(POLICY, '[ask apps-list]\nTo = unix:h-app-asks\nPermission = endpoint.list\n')
    try:
        device.run('h-policy', 'reload', check=True)
        assert 'AccessDenied' in asks.cannot('call', *LIST[1:]), 'there is nobody to ask'
        agent = Agent(device)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(asks('call', *LIST[1:])))
        asking.start()
        agent.question()
        agent.say('yes always')
        asking.join(60)
        assert answers and 'result' in answers[0], answers
        assert kept()
        device.run('h-app', 'remove', 'asks', check=True)
        assert not kept()
    finally:
        if agent:
            agent.close()
        device.run('rm', POLICY)
        device.run('h-policy', 'reload', check=True)


def test_a_request_starts_what_starts_on_demand(device, apps):
    two = apps[1]
    two.does('about')
    device.run('systemctl', 'stop', two.unit, check=True)
    assert two.state() == 'inactive'
    assert two.does('about')['uid'] == known(device)['two']['uid']


def test_a_namespace_is_kept_for_whom_it_is_granted(device, apps):
    """h-endpointd believes its manifests: what stands there is the policy's and the older app's, not the newer manifest's."""
    manifest = {'name': 'squat', 'exec': ['/bin/true'], 'start': 'demand',
                'endpoints': ['/system/status', '/one/below', '/squat'],
                'permissions': [{'permission': f'endpoint.nest:{ns}', 'reason': 'x'} for ns in ('/system/status', '/one/below')]}
    kept = lambda: re.findall(r'endpoint (\S+)]', device.run('cat', '/run/hybridos/apps.d/h-app-squat.app').stdout)
    assert install(device, 'squat', manifest=manifest).returncode == 0
    try:
        assert kept() == []
        registering = [f'endpoint.register{ns}' for ns in ('', ':/system/status', ':/one/below', ':/squat')]
        device.run('h-app', 'grant', 'squat', *registering, check=True)
        assert kept() == ['/squat']
        device.run('h-app', 'grant', 'squat', 'endpoint.nest:/one/below', check=True)
        assert kept() == ['/one/below', '/squat']
        device.run('h-app', 'revoke', 'squat', 'endpoint.register:/squat', check=True)
        assert kept() == ['/one/below']
    finally:
        device.run('h-app', 'remove', 'squat', check=True)
    done = install(device, 'squat', '--all', manifest=manifest | {'endpoints': ['/two']})
    assert done.returncode == 1 and 'kept for the app two' in done.stderr
    assert 'squat' not in known(device)
    device.run('mkdir', '-p', '/etc/hybridos/apps.d', check=True)
    device.write('/etc/hybridos/apps.d/mine.app', '[endpoint /squat]\nUnit = mine.service\nUser = guest\n')
    try:
        done = install(device, 'squat', '--all', manifest=manifest | {'endpoints': ['/squat']})
        assert done.returncode == 1 and 'do not go together' in done.stderr
        device.run('h-endpointd', '--check-config', check=True)
    finally:
        device.run('rm', '/etc/hybridos/apps.d/mine.app')
    assert 'squat' not in known(device)
    assert apps[1].does('about')


def test_without_its_user_it_does_not_start(device, apps):
    one = apps[0]
    device.run('systemctl', 'stop', one.unit, check=True)
    device.run('sh', '-c', 'rm /run/userdb/h-app-one.user', check=True)
    try:
        assert device.run('systemctl', 'start', one.unit).returncode != 0
        assert one.state() != 'active'
        device.run('systemctl', 'stop', one.unit)
        done = device.run('h-app', 'refresh')
        assert done.returncode == 1 and 'does not know the user h-app-one' in done.stderr
        assert device.run('systemctl', 'start', one.unit).returncode != 0
    finally:
        device.run('h-app', 'publish', check=True)
        device.run('h-app', 'refresh', check=True)
    device.run('systemctl', 'start', one.unit, check=True)
    assert one.does('about')


def test_somebody_else_with_its_uid_keeps_it_from_starting(device, apps):
    one = apps[0]
    uid = one.does('about')['uid']
    device.run('systemctl', 'stop', one.unit, check=True)
    device.run('useradd', '--no-create-home', '--no-user-group', '--non-unique', '--uid', str(uid), 'thief', check=True)
    try:
        for verb in ('publish', 'refresh'):
            done = device.run('h-app', verb)
            assert done.returncode == 1 and str(uid) in done.stderr
        assert device.run('systemctl', 'start', one.unit).returncode != 0
    finally:
        device.run('userdel', 'thief', check=True)
    device.run('h-app', 'refresh', '--boot', check=True)
    assert one.does('about')['uid'] == uid


def test_an_instance_that_is_not_installed_does_not_start(device):
    assert device.run('systemctl', 'start', 'h-app@nobody.service').returncode != 0


def test_a_damaged_record_is_said_loudly_and_costs_that_app_alone(device, apps):
    one, two = apps
    record = '/var/lib/hybridos/apps/one.app'
    text = device.run('cat', record, check=True).stdout
    uid = str(known(device)['one']['uid'])
    try:
        device.write(record, text.replace(uid, '70999'))
        done = device.run('h-app', 'publish')
        assert done.returncode == 1 and record in done.stderr and 'damaged' in done.stderr
        done = device.run('h-app', 'refresh')
        assert done.returncode == 1 and record in done.stderr
        device.run('systemctl', 'stop', one.unit)
        assert device.run('systemctl', 'start', one.unit).returncode != 0
        assert two.does('about')
        done = install(device, 'one')
        assert done.returncode == 1 and 'already' in done.stderr
    finally:
        device.write(record, text)
        device.run('chmod', '0600', record)
    device.run('h-app', 'refresh', '--boot', check=True)
    assert one.does('about')


def test_only_who_may_installs(device, program):
    manifest = json.loads((NOSY / 'one.json').read_text()) | {'name': 'three', 'endpoints': []}
    device.write('/opt/nosy/three.json', json.dumps(manifest))
    done = device.run('h-app', 'install', '/opt/nosy/three.json', user='guest')
    assert done.returncode == 4 and 'only root' in done.stderr
    device.write(POLICY, '[deny nobody-installs]\nTo = uid:0\nPermission = security.apps\n')
    try:
        device.run('h-policy', 'reload', check=True)
        done = device.run('h-app', 'install', '/opt/nosy/three.json')
        assert done.returncode == 4 and 'nobody-installs' in done.stderr
        assert 'three' not in known(device)
    finally:
        device.run('rm', POLICY)
        device.run('h-policy', 'reload', check=True)


def test_who_could_change_the_program_could_become_the_app(device, program):
    manifest = json.loads((NOSY / 'one.json').read_text()) | {'name': 'three', 'endpoints': []}
    for path, how in (('/opt/nosy/loose', 'chmod 777 /opt/nosy/loose'), ('/opt/nosy/theirs', 'chown 1001 /opt/nosy/theirs')):
        device.run('sh', '-c', f'cp /bin/true {path}; {how}', check=True)
        done = install(device, 'three', manifest=manifest | {'exec': [path]})
        assert done.returncode == 1 and 'could be changed by others' in done.stderr and path in done.stderr
    done = install(device, 'three', manifest=manifest | {'exec': ['/opt/nosy/none']})
    assert done.returncode == 3
    done = install(device, 'three', manifest=manifest | {'exec': ['true']})
    assert done.returncode == 1 and 'exec[0]' in done.stderr
    assert 'three' not in known(device)


def test_removal_leaves_nothing_and_no_uid_comes_back(device, program):
    manifest = json.loads((NOSY / 'one.json').read_text()) | {
        'name': 'gone', 'endpoints': ['/gone'], 'exec': ['/usr/bin/python3', '/opt/nosy/nosy.py', '/gone']}
    uids = []
    for _ in range(2):
        done = install(device, 'gone', '--all', manifest=manifest)
        assert done.returncode == 0, done.stderr
        assert Nosy(device, 'gone').does('about')['files'] == ['secret']
        uids.append(known(device)['gone']['uid'])
        assert 'h-app-gone' in device.run('sh', '-c', 'cat /run/hybridos/bus/*').stdout
        done = device.run('h-app', 'remove', 'gone')
        assert done.returncode == 0 and not done.stderr, done.stderr
        # Like those of an app whose record was lost: they are not the next one's.
        device.write('/var/lib/hybridos/policy.d/70-granted-stale.policy',
                     '[grant stale]\nTo = unix:h-app-gone\nPermission = security.reload\n')
        device.run('h-policy', 'reload', check=True)
        assert install(device, 'gone').returncode == 0
        assert 'stale' not in device.run('h-policy', 'list', check=True).stdout
        uids.append(known(device)['gone']['uid'])
        device.run('h-app', 'remove', 'gone', check=True)
        assert traces(device, 'gone', uids[-1]) == []
    assert uids == sorted(set(uids))
    audit = device.run('h-policy', 'audit', '--limit', '200', check=True).stdout
    assert audit.count('app-install') >= 2 and audit.count('app-removed') >= 2


def test_two_at_once_wait_for_each_other(device, program):
    names = ('left', 'right')
    for name in names:
        device.write(f'/opt/nosy/{name}.json', json.dumps({'name': name, 'exec': ['/bin/sleep', '1000']}))
    both = lambda *words: [p.wait(60) for p in [device.popen('h-app', words[0], w) for w in words[1:]]]
    assert both('install', *(f'/opt/nosy/{name}.json' for name in names)) == [0, 0]
    uids = [known(device)[name]['uid'] for name in names]
    assert len(set(uids)) == 2
    assert {Nosy(device, name).state() for name in names} == {'active'}
    assert both('remove', *names) == [0, 0]
    assert [traces(device, *one) for one in zip(names, uids)] == [[], []]


def test_a_rule_for_several_is_left_to_a_person(device, program):
    manifest = {'name': 'gone', 'exec': ['/bin/true']}
    device.write(POLICY, '[grant for-two]\nTo = unix:h-app-gone unix:guest\nPermission = endpoint.list\n')
    try:
        assert install(device, 'gone', manifest=manifest).returncode == 0
        done = device.run('h-app', 'remove', 'gone')
        assert done.returncode == 0 and f'for-two ({POLICY}:1)' in done.stderr
    finally:
        device.run('rm', POLICY)
        device.run('h-policy', 'reload', check=True)


def test_an_interrupted_installation_installs_nothing(device, program):
    """h-securityd holds it in the middle, then it is killed."""
    manifest = {'name': 'half', 'exec': ['/bin/sleep', '1000'], 'permissions': [{'permission': 'units.read', 'reason': 'x'}]}
    device.write('/opt/nosy/half.json', json.dumps(manifest))
    # What looks at the policy would wait for it as well, and keep the registry locked.
    device.run('systemctl', 'stop', 'hybridos-apps.path', 'hybridos-apps-refresh.service', check=True)
    device.run('systemctl', 'kill', '--signal=STOP', 'h-securityd.service', check=True)
    try:
        installing = device.popen('h-app', 'install', '--all', '/opt/nosy/half.json')
        device.wait(lambda: device.has('/var/lib/hybridos/apps/half.app'), 'the record')
        device.run('pkill', '--signal=KILL', '--full', '^h-app install', check=True)
        installing.wait()
    finally:
        device.run('systemctl', 'kill', '--signal=CONT', 'h-securityd.service', check=True)
        device.run('systemctl', 'start', 'hybridos-apps.path', check=True)
    assert known(device)['half']['state'] == 'unfinished'
    done = device.run('h-app', 'refresh', '--boot')
    assert 'half was interrupted' in done.stderr
    assert device.run('systemctl', 'start', 'h-app@half.service').returncode != 0
    assert device.run('h-app', 'grant', 'half', 'units.read').returncode == 3
    done = install(device, 'half')
    assert done.returncode == 1 and 'interrupted' in done.stderr
    uid = known(device)['half']['uid']
    device.run('h-app', 'remove', 'half', check=True)
    assert traces(device, 'half', uid) == []


def test_an_interrupted_removal_goes_on(device, program):
    """It waits for a program that does not want to end when it is killed."""
    manifest = {'name': 'stubborn', 'exec': ['/bin/sh', '-c', 'trap "" TERM; while :; do sleep 1; done']}
    assert install(device, 'stubborn', manifest=manifest).returncode == 0
    uid = known(device)['stubborn']['uid']
    removing = device.popen('h-app', 'remove', 'stubborn')
    stubborn = Nosy(device, 'stubborn')
    device.wait(lambda: stubborn.state() == 'deactivating', 'the program to be told')
    device.run('pkill', '--signal=KILL', '--full', '^h-app remove', check=True)
    removing.wait()
    assert known(device)['stubborn']['state'] == 'unfinished'
    device.run('systemctl', 'kill', '--signal=KILL', stubborn.unit, check=True)
    device.run('h-app', 'remove', 'stubborn', check=True)
    assert traces(device, 'stubborn', uid) == []


def test_kept_files_wait_with_their_uid(device, program):
    manifest = json.loads((NOSY / 'one.json').read_text()) | {
        'name': 'back', 'endpoints': ['/back'], 'exec': ['/usr/bin/python3', '/opt/nosy/nosy.py', '/back']}
    assert install(device, 'back', *register('back'), manifest=manifest).returncode == 0
    back = Nosy(device, 'back')
    back.does('keep', 'for later')
    uid = known(device)['back']['uid']
    device.run('h-app', 'remove', '--keep-data', 'back', check=True)
    assert known(device)['back']['state'] == 'kept'
    assert device.run('getent', 'passwd', 'h-app-back').returncode != 0
    assert device.run('h-app', 'show', 'back').returncode == 3
    assert install(device, 'back', *register('back')).returncode == 0
    assert known(device)['back']['uid'] == uid
    assert back.does('read', '/var/lib/hybridos/app-data/back/kept') == 'for later'
    device.run('h-app', 'remove', '--keep-data', 'back', check=True)
    device.run('h-app', 'remove', 'back', check=True)
    assert traces(device, 'back', uid) == []


def test_an_update_takes_what_is_no_longer_requested(device, program):
    manifest = json.loads((NOSY / 'one.json').read_text()) | {
        'name': 'newer', 'endpoints': ['/newer'], 'exec': ['/usr/bin/python3', '/opt/nosy/nosy.py', '/newer']}
    assert install(device, 'newer', '--all', manifest=manifest).returncode == 0
    newer = Nosy(device, 'newer')
    newer.does('call', *LIST[1:])
    manifest['permissions'] = [{'permission': 'audit.read', 'reason': 'curious'}]
    device.write('/opt/nosy/newer.json', json.dumps(manifest))
    device.run('h-app', 'update', '/opt/nosy/newer.json', check=True)
    assert 'AccessDenied' in newer.cannot('call', *LIST[1:])
    assert newer.show('PrivateNetwork')['PrivateNetwork'] == 'yes'
    assert {r['permission']: r['granted'] for r in known(device)['newer']['requests']} == {
        'endpoint.register': True, 'endpoint.register:/newer': True, 'audit.read': False}
    device.run('h-app', 'remove', 'newer', check=True)


def test_apps_outlive_a_boot(device, apps, bus):
    """Users, units and rights are there again, from what is kept on the disk alone."""
    one, two = apps
    device.run('h-app', 'grant', 'one', 'units.read', check=True)
    before = {name: app['uid'] for name, app in known(device).items()}
    kept = one.does('keep', 'over the boot')
    device.stop()
    device.start(device.state()['build'], bus, publish='none')
    device.wait_healthy()
    assert {name: app['uid'] for name, app in known(device).items()} == before
    assert one.does('read', '/var/lib/hybridos/app-data/one/kept') == kept
    one.does('call', *UNITS[1:])
    assert two.does('about')['uid'] == before['two'], 'started by this request'
    assert 'AccessDenied' in two.cannot('call', *UNITS[1:])
    device.run('h-app', 'revoke', 'one', 'units.read', check=True)
