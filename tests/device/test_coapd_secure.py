# SPDX-License-Identifier: Apache-2.0
"""Nodes with keys of their own, client certificates, and what happens when they are taken away; on the
shipped unit, with libcoap's client."""
import json
import os
import subprocess
import threading

import pytest
import simulated

CLIENT = '/usr/bin/coap-client-openssl'
SERVER = ('org.hybridos.Coap1', '/org/hybridos/Coap1')


def coap(device, scheme, path, *arguments, method='get'):
    """(what it printed, diagnostics)."""
    done = device.run(CLIENT, '-m', method, '-B', '20', *arguments, f'{scheme}://127.0.0.1{path}')
    return done.stdout, done.stderr


def keyed(node):
    return '-u', node['identity'], '-k', node['key']


def gets_in(device, scheme, *arguments):
    done = device.run(CLIENT, '-B', '3', *arguments, f'{scheme}://127.0.0.1/system/status')
    return 'memory' in done.stdout


def clients(device):
    told = device.run('busctl', '--json=short', 'call', *SERVER, 'org.hybridos.Server1', 'ListClients', check=True)
    return [dict(zip(('id', 'protocol', 'peer', 'principal'), c)) for c in json.loads(told.stdout)['data'][0]]


def observers(device):
    return int(device.run('busctl', 'get-property', *SERVER, 'org.hybridos.Coap1', 'Observers',
                          check=True).stdout.split()[1])


def connected(device, principal):
    return [c for c in clients(device) if c['principal'] == principal]


@pytest.fixture
def node(device):
    made = json.loads(device.run('h-policy', '--json', 'node', 'add', 'lamp', check=True).stdout)
    # h-coapd fetches the new key by itself, a moment later.
    device.wait(lambda: gets_in(device, 'coaps', *keyed(made)), 'the key to be known')
    yield made
    device.run('h-policy', 'node', 'remove', 'lamp')


class Observing:
    """An observer in the background."""

    def __init__(self, device, scheme, *arguments):
        self.device, self.before = device, observers(device)
        self.thread = threading.Thread(target=self.run, args=(scheme, arguments))
        self.thread.start()
        device.wait(lambda: observers(device) > self.before, 'an observer')

    def run(self, scheme, arguments):
        self.told = coap(self.device, scheme, '/system/status', '-s', '30', *arguments)

    def end(self):
        self.device.run('pkill', '-f', f'^{CLIENT} .*-s 30')
        self.thread.join()
        self.device.wait(lambda: observers(self.device) <= self.before, 'the observer to be gone')


@pytest.mark.parametrize('scheme', ['coaps', 'coaps+tcp'])
def test_a_node_is_known_by_its_key(device, node, scheme):
    body, problem = coap(device, scheme, '/system/status', *keyed(node))
    assert 'memory' in json.loads(body), problem
    watching = Observing(device, scheme, *keyed(node))
    try:
        assert [c['protocol'] for c in connected(device, 'node:lamp')][-1:] == [scheme], clients(device)
    finally:
        watching.end()


@pytest.mark.parametrize('scheme', ['coaps', 'coaps+tcp'])
def test_wrong_keys_and_names_do_not_get_in(device, node, scheme):
    wrong = ('A' if node['key'][0] != 'A' else 'B') + node['key'][1:]
    for name, key in (('lamp', wrong), ('nobody', node['key']), ('lamp', node['key'][:-1])):
        assert not gets_in(device, scheme, '-u', name, '-k', key), (name, key)
    assert not connected(device, 'node:nobody')
    assert coap(device, scheme, '/system/status', *keyed(node))[0]


def test_a_rule_for_a_node(device, node):
    """What a node may is what rules for it say, whichever way it comes."""
    rule = device.run('h-policy', '--json', 'grant', 'node:lamp', 'endpoint.write:/system/status', check=True)
    name = json.loads(rule.stdout)[0]
    try:
        assert coap(device, 'coaps', '/system/status', '-e', 'x', *keyed(node), method='put')[1].startswith('4.05')
        assert coap(device, 'coap', '/system/status', '-e', 'x', method='put')[1].startswith('4.01')
    finally:
        device.run('h-policy', 'revoke', name, check=True)
    assert coap(device, 'coaps', '/system/status', '-e', 'x', *keyed(node), method='put')[1].startswith('4.03')


@pytest.mark.parametrize('scheme', ['coaps', 'coaps+tcp'])
def test_removing_a_node_cuts_it_off_at_once(device, node, scheme):
    watching = Observing(device, scheme, *keyed(node))
    assert connected(device, 'node:lamp')
    device.run('h-policy', 'node', 'remove', 'lamp', check=True)
    assert observers(device) == watching.before  # before the command returned
    assert not connected(device, 'node:lamp')
    watching.end()
    again = json.loads(device.run('h-policy', '--json', 'node', 'add', 'lamp', check=True).stdout)
    assert again['key'] != node['key']
    device.wait(lambda: gets_in(device, scheme, *keyed(again)), 'the new key to be known')
    assert not gets_in(device, scheme, *keyed(node))


@pytest.mark.parametrize('scheme', ['coap', 'coap+tcp', 'coaps', 'coaps+tcp'])
def test_a_revoked_right_cuts_observers_on_every_road(device, node, scheme):
    arguments = keyed(node) if scheme.startswith('coaps') else ()
    watching = Observing(device, scheme, *arguments)
    rule = '/etc/hybridos/policy.d/95-coapd-secure.policy'
    root = f'/proc/{device.init}/root'
    try:
        with open(root + rule, 'w') as f:
            f.write('[deny coapd-secure]\nTo = anonymous anyone\nPermission = endpoint.read:/system/status\n')
        device.run('h-policy', 'reload', check=True)
        assert observers(device) == watching.before  # before the command returned
    finally:
        os.unlink(root + rule)
        device.run('h-policy', 'reload', check=True)
    watching.end()
    assert '4.03' in watching.told[1] or '4.01' in watching.told[1], watching.told[1]


def test_keys_survive_restarts_and_are_not_on_the_disk(device, node):
    for unit in ('h-securityd', 'h-coapd'):
        device.run('systemctl', 'kill', '--signal=KILL', unit, check=True)
    device.wait(lambda: 'memory' in coap(device, 'coaps', '/system/status', *keyed(node))[0], 'the key to be good again')
    root = f'/proc/{device.init}/root'
    folder = root + '/var/lib/hybridos/securityd'
    for name in os.listdir(folder):
        if os.path.isfile(f'{folder}/{name}'):
            with open(f'{folder}/{name}', 'rb') as f:
                content = f.read()
            assert node['key'].encode() not in content and node['hex'].encode() not in content, name
            assert node['base64'].encode() not in content, name
    assert node['key'] not in device.run('journalctl', '--no-pager', '-o', 'cat').stdout


def test_only_the_server_gets_keys(device, node):
    """The private socket is open to all; the keys are not."""
    program = ('import json, socket\n'
               's = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n'
               's.connect("/run/hybridos/security/agent.sock")\n'
               'for q in ({"id": 1, "op": "hello", "version": 1, "service": "x", "interfaces": []},'
               ' {"id": 2, "op": "psk"}, {"id": 3, "op": "connect", "protocol": "coap", "node": "lamp"}):\n'
               '    s.send(json.dumps(q).encode())\n'
               '    print(s.recv(65536).decode())\n')
    told = [json.loads(line) for line in device.run('setpriv', '--reuid=h-httpd', '--regid=hybridos', '--clear-groups',
                                                    '/usr/bin/python3', '-c', program, check=True).stdout.splitlines()]
    assert told[0]['ok'] and [t.get('error') for t in told[1:]] == ['AccessDenied'] * 2, told


def openssl(*arguments, cwd):
    subprocess.run(['openssl', *arguments], cwd=cwd, check=True, capture_output=True)


def make_authority(folder, name):
    openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', f'/CN={name}',
            '-keyout', f'{name}.key', '-out', f'{name}.pem', '-days', '3650', cwd=folder)
    openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=client', '-keyout',
            f'{name}-client.key', '-out', 'client.csr', cwd=folder)
    openssl('x509', '-req', '-in', 'client.csr', '-CA', f'{name}.pem', '-CAkey', f'{name}.key', '-CAcreateserial', '-days',
            '3650', '-out', f'{name}-client.pem', cwd=folder)


@pytest.mark.parametrize('scheme', ['coaps', 'coaps+tcp'])
def test_client_certificates(device, scheme):
    """Those that the device's authority has issued are good until they are revoked, others never, and nobody needs one."""
    shown = lambda name: ('-c', f'/run/hybridos-tests/certificates/{name}', '-j', f'/run/hybridos-tests/certificates/{name}', '-n')
    folder, name = f'/proc/{device.init}/root/run/hybridos-tests/certificates', f'coap-{scheme[6:] or "udp"}'
    os.makedirs(folder, exist_ok=True)
    make_authority(folder, 'other')
    with open(f'{folder}/other', 'w') as both:
        for part in ('other-client.key', 'other-client.pem'):
            with open(f'{folder}/{part}') as f:
                both.write(f.read())
    device.run('h-policy', 'cert', 'init')  # it may be there already
    device.run('h-policy', 'cert', 'issue', '--out', f'/run/hybridos-tests/certificates/{name}', name, check=True)
    try:
        os.chmod(f'{folder}/{name}', 0o644)
        assert gets_in(device, scheme, '-n')
        assert gets_in(device, scheme, *shown(name))
        assert not gets_in(device, scheme, *shown('other'))
    finally:
        device.run('h-policy', 'cert', 'revoke', name, check=True)
    assert not gets_in(device, scheme, *shown(name))


def test_the_certificate_is_the_devices_own(device):
    root = f'/proc/{device.init}/root/var/lib/hybridos/coapd'
    assert os.stat(root + '/key.pem').st_mode & 0o777 == 0o600
    assert os.stat(root).st_mode & 0o777 == 0o700
