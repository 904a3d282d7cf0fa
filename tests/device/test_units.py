# SPDX-License-Identifier: Apache-2.0
"""The shipped units: each within its exposure budget, each interface as its XML says."""
import json
import re
import xml.etree.ElementTree as ET

import simulated

INTERFACES = simulated.ROOT / 'interfaces'
PERMISSION = 'org.hybridos.Permission'
# systemd-analyze's exposure; what listens to the network, and what reads all of /proc, may have more.
BUDGET = {'h-httpd.service': 1.2, 'h-coapd.service': 1.2, 'h-logged.service': 0.8, 'h-sysinfo.service': 0.8}
DEFAULT_BUDGET = 0.5


def services(device):
    listed = device.run('systemctl', 'list-unit-files', '--plain', '--no-legend', 'h-*.service', check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if '@' not in line.split()[0]]


def test_exposure(device):
    over = []
    for unit in services(device):
        text = device.run('systemd-analyze', 'security', '--no-pager', unit).stdout
        exposure = float(re.search(r'Overall exposure level for \S+: ([0-9.]+)', text)[1])
        if exposure > BUDGET.get(unit, DEFAULT_BUDGET):
            over.append(f'{unit}: {exposure}')
    assert not over


def test_restart_for_ever(device):
    """A unit that gave up after a few quick deaths would stay away for good."""
    for unit in services(device):
        shown = device.run('systemctl', 'show', '-p', 'StartLimitIntervalUSec,Restart,Type', unit, check=True).stdout
        values = dict(line.split('=', 1) for line in shown.splitlines())
        assert values['StartLimitIntervalUSec'] == '0', unit
        assert values['Restart'] in ('always', 'on-failure'), unit
        assert values['Type'] == 'notify', unit


def members(interface):
    """{(kind, name): signature} of an interface element."""
    found = {}
    for method in interface.iter('method'):
        arguments = [(a.get('direction') or 'in', a.get('type')) for a in method.iter('arg')]
        found['method', method.get('name')] = (''.join(t for d, t in arguments if d == 'in'),
                                               ''.join(t for d, t in arguments if d == 'out'))
    for signal in interface.iter('signal'):
        found['signal', signal.get('name')] = ''.join(a.get('type') for a in signal.iter('arg'))
    for prop in interface.iter('property'):
        found['property', prop.get('name')] = (prop.get('type'), prop.get('access'))
    return found


def documented():
    found = {}
    for path in INTERFACES.glob('*.xml'):
        for interface in ET.parse(path).getroot().iter('interface'):
            found[interface.get('name')] = interface
    return found


def test_every_member_has_a_permission():
    for name, interface in documented().items():
        for kind in ('method', 'signal', 'property'):
            for member in interface.iter(kind):
                names = {a.get('name') for a in member.iter('annotation')}
                assert any(n == PERMISSION or n.startswith(PERMISSION + '.') for n in names), \
                    f'{name}.{member.get("name")} has no permission'


def test_live_objects_answer_as_documented(device):
    known = documented()
    listed = json.loads(device.run('busctl', '--json=short', '--acquired', 'list', check=True).stdout)
    names = sorted(e['name'] for e in listed if e['name'].startswith('org.hybridos.'))
    expected = {'h-httpd': 'Http1', 'h-securityd': 'Security1', 'h-endpointd': 'Endpoints1',
                'h-logged': 'Log1', 'h-coapd': 'Coap1'}
    for component, concept in expected.items():
        assert f'org.hybridos.{concept}' in names, f'{component} has not claimed its name'
    for name in names:
        for path in device.run('busctl', '--list', 'tree', name, check=True).stdout.split():
            answer = device.run('busctl', '--json=short', 'call', name, path,
                                'org.freedesktop.DBus.Introspectable', 'Introspect', check=True).stdout
            assert 'org.freedesktop.systemd1.Privileged' not in answer, f'{name} {path}'
            for interface in ET.fromstring(json.loads(answer)['data'][0]).iter('interface'):
                if interface.get('name').startswith('org.hybridos.'):
                    assert interface.get('name') in known, f'{name} publishes {interface.get("name")} without XML'
                    assert members(interface) == members(known[interface.get('name')]), \
                        f'{interface.get("name")} at {name} {path}'


def test_attacks_on_http_while_others_are_served(device):
    script = device.put(simulated.ROOT / 'tests/httpd/attacks.py')
    done = device.run('python3', script, '--device', 'localhost:8443', timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
