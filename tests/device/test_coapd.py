# SPDX-License-Identifier: Apache-2.0
"""h-coapd as shipped: the responders that answer HTTP answer CoAP, under the same policy."""
import json
import os
import re
import sys
import threading

import simulated

sys.path.insert(0, str(simulated.ROOT / 'tests/coapd'))

CLIENT = '/usr/bin/coap-client-notls'


def coap(device, method, path, *arguments, **options):
    """libcoap's own client: (what it printed to standard output, diagnostics)."""
    done = device.run(CLIENT, '-m', method, '-B', '20', *arguments, f'coap://127.0.0.1{path}', **options)
    return done.stdout, done.stderr


def test_the_sysinfo_app_answers(device):
    body, problem = coap(device, 'get', '/system/status')
    assert not problem, problem
    over_http = json.loads(device.curl('/system/status').stdout)
    over_coap = json.loads(body)
    assert over_coap.keys() == over_http.keys()
    assert over_coap['memory']['total'] == over_http['memory']['total']


def test_blocks(device):
    whole, _ = coap(device, 'get', '/system/status', '-b', '64')
    assert json.loads(whole).keys() == json.loads(device.curl('/system/status').stdout).keys()


def test_links(device):
    assert '</system/status>' in coap(device, 'get', '/.well-known/core')[0]
    assert coap(device, 'get', '/.well-known/core?href=/nowhere')[0].strip() == ''


def test_observers_are_told_changes(device):
    out, problem = coap(device, 'get', '/system/status', '-s', '6')
    assert not problem, problem
    assert len(re.findall(r'"uptime"', out)) >= 4, out[:2000]


def test_refusals_carry_the_audit_id(device):
    _, problem = coap(device, 'put', '/system/status', '-e', 'x')
    found = re.match(r'4\.01 .*\(([0-9a-f]+-[0-9]+)\)', problem)
    assert found, problem
    told = device.run('h-policy', 'explain', found[1], check=True).stdout
    assert 'endpoint.write:/system/status' in told and 'anonymous' in told, told


def test_nobody_there(device):
    assert coap(device, 'get', '/nowhere')[1].startswith('4.04')


def test_objects(device):
    listeners = json.loads(device.run('busctl', '--json=short', 'get-property', 'org.hybridos.Coap1', '/org/hybridos/Coap1',
                                      'org.hybridos.Server1', 'Listeners', check=True).stdout)['data']
    assert [address for address, port, kind in listeners if (port, kind) == (5683, 'udp')], listeners
    coap(device, 'get', '/system/status')
    call = lambda *a: device.run('busctl', '--json=short', 'call', 'org.hybridos.Coap1', '/org/hybridos/Coap1',
                                 'org.hybridos.Server1', *a)
    clients = json.loads(call('ListClients').stdout)['data'][0]
    assert any(c[1] == 'coap' and c[2].startswith('127.0.0.1:') and c[3] == 'anonymous' for c in clients), clients
    assert call('Kick', 't', str(clients[0][0])).returncode == 0
    assert call('Kick', 't', '999999').returncode != 0


def test_revoking_cuts_an_observer(device):
    """The development drop-in lets everybody read: a deny takes it back, and the observer is told."""
    told = {}

    def observe():
        told['out'], told['problem'] = coap(device, 'get', '/system/status', '-s', '60')
    observers = lambda: int(device.run('busctl', 'get-property', 'org.hybridos.Coap1', '/org/hybridos/Coap1',
                                       'org.hybridos.Coap1', 'Observers', check=True).stdout.split()[1])
    before = observers()
    thread = threading.Thread(target=observe)
    thread.start()
    rule = '/etc/hybridos/policy.d/95-coapd-test.policy'
    root = f'/proc/{device.init}/root'
    try:
        device.wait(lambda: observers() > before, 'an observer')
        with open(root + rule, 'w') as f:
            f.write('[deny coapd-test]\nTo = anonymous anyone\nPermission = endpoint.read:/system/status\n')
        device.run('systemctl', 'reload', 'h-securityd', check=True)
        device.wait(lambda: observers() <= before, 'the observer to be cut')
        assert coap(device, 'get', '/system/status')[1].startswith('4.01')
    finally:
        if os.path.exists(root + rule):
            os.unlink(root + rule)
        device.run('systemctl', 'reload', 'h-securityd', check=True)
    thread.join()
    assert '4.01' in told['problem'] or '4.03' in told['problem'], told['problem']
    device.wait(lambda: not coap(device, 'get', '/system/status')[1], 'the policy to be as before')


def test_the_door_is_closed_until_claimed(device):
    """A port alone stands on loopback before there is an administrator."""
    opened = device.run('busctl', 'get-property', 'org.hybridos.Coap1', '/org/hybridos/Coap1', 'org.hybridos.Coap1', 'Open',
                        check=True).stdout.split()[1] == 'true'
    shown = device.run('ss', '--udp', '--listening', '--numeric', '--no-header', check=True).stdout
    bound = {line.split()[3] for line in shown.splitlines() if line.split()[3].endswith(':5683')}
    loopback = {'127.0.0.1:5683', '[::1]:5683'}
    assert bound and (bool(bound - loopback) == opened), (opened, bound)


def test_check_config(device):
    root = f'/proc/{device.init}/root'
    path = '/run/hybridos-tests/coapd.conf'
    os.makedirs(root + '/run/hybridos-tests', exist_ok=True)
    with open(root + path, 'w') as f:
        f.write('[limits]\nSessions = none\n')
    assert device.run('h-coapd', '--check-config', check=True).returncode == 0
    bad = device.run('h-coapd', '--config', path, '--check-config')
    assert bad.returncode != 0 and f'{path}:2' in bad.stderr, bad.stderr
