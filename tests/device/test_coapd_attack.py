# SPDX-License-Identifier: Apache-2.0
"""h-coapd under attack, on a link of its own, while an honest node is served. (An honest stranger may be told to come
again: it cannot be told from those who forge.)"""
import json
import os
import subprocess

import pytest
import simulated

ATTACK = str(simulated.ROOT / 'tests/device/coap-attack.py')
SPACE, DEVICE, HONEST, EVIL = f'hy-attack-{os.getpid()}', '10.214.0.2', '10.214.0.1', '10.214.0.3'
SERVER = ('org.hybridos.Coap1', '/org/hybridos/Coap1')


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options)


def inside(*words):
    return ('ip', 'netns', 'exec', SPACE, *words)


@pytest.fixture(scope='module')
def link(device):
    """A network namespace joined to the device, with its doors open on it."""
    root = f'/proc/{device.init}/root'
    setting = root + '/etc/hybridos/coapd.conf.d/95-attack.conf'
    subprocess.run(['ip', 'netns', 'delete', SPACE], capture_output=True)
    run('ip', 'netns', 'add', SPACE)
    try:
        run('ip', 'link', 'add', 'atk0', 'netns', SPACE, 'type', 'veth', 'peer', 'name', 'atk1', 'netns', str(device.init))
        for address in (HONEST, EVIL):
            run(*inside('ip', 'address', 'add', f'{address}/29', 'dev', 'atk0'))
        run(*inside('ip', 'link', 'set', 'atk0', 'up'))
        enter = ('nsenter', '--target', str(device.init), '--net')
        run(*enter, 'ip', 'address', 'add', f'{DEVICE}/29', 'dev', 'atk1')
        run(*enter, 'ip', 'link', 'set', 'atk1', 'up')
        run(*enter, 'ip', 'route', 'add', '198.18.0.0/15', 'via', HONEST)  # the victims are behind the attacker
        os.makedirs(os.path.dirname(setting), exist_ok=True)
        with open(setting, 'w') as f:
            f.write('[listen]\nScope = all\n')
        device.run('systemctl', 'reload', 'h-coapd', check=True)
        node = json.loads(device.run('h-policy', '--json', 'node', 'add', 'honest', check=True).stdout)
        device.wait(lambda: ask('coap'), 'the door to be open')
        device.wait(lambda: ask('coaps', '-u', node['identity'], '-k', node['key']), 'the key to be known')
        yield node
    finally:
        subprocess.run(['ip', 'netns', 'delete', SPACE], capture_output=True)
        device.run('h-policy', 'node', 'remove', 'honest')
        if os.path.exists(setting):
            os.unlink(setting)
        device.run('systemctl', 'reload', 'h-coapd', check=True)


def ask(scheme, *arguments):
    done = subprocess.run(inside('/usr/bin/coap-client-openssl', '-a', HONEST, '-B', '30', *arguments,
                                 f'{scheme}://{DEVICE}/system/status'), capture_output=True, text=True)
    if 'memory' not in done.stdout:
        print('not served:', scheme, done.stdout[-500:], done.stderr[-500:])
    return 'memory' in done.stdout


def main_pid(device):
    return device.main_pid('h-coapd.service')


def statistics(device):
    told = device.run('busctl', '--json=short', 'get-property', *SERVER, 'org.hybridos.Server1', 'Statistics', check=True)
    return json.loads(told.stdout)['data']


def resident(device):
    """KiB."""
    with open(f'/proc/{device.init}/root/proc/{main_pid(device)}/status') as f:
        return int(next(line for line in f if line.startswith('VmRSS')).split()[1])


def ratio(kind, count):
    told = json.loads(run(*inside('python3', ATTACK, kind, DEVICE, EVIL, str(count))).stdout)
    print(f'{kind}: {told["sent"]} bytes out, {told["received"]} back: {told["received"] / told["sent"]:.2f}')
    return told['received'] / told['sent']


def test_forged_requests_gain_little(device, link):
    """Bytes on the link, headers and all, towards those in whose name they were sent."""
    assert ratio('forged-get', 2000) < 3
    assert ratio('forged-hello', 2000) < 1.1
    assert ratio('forged-garbage', 1000) < 1


def test_forged_observers_gain_little(device, link):
    assert ratio('forged-observe', 500) < 6
    device.wait(lambda: statistics(device)['observers'] == 0, 'those who never answered to be dropped', 180)


@pytest.mark.parametrize('kind', ['full-get', 'forged-hello', 'half-open'])
def test_the_honest_are_served_meanwhile(device, link, kind):
    pid = main_pid(device)
    key = '-u', link['identity'], '-k', link['key']
    attack = subprocess.Popen(inside('python3', ATTACK, kind, DEVICE, EVIL, '0'), stdout=subprocess.PIPE, text=True)
    try:
        assert attack.stdout.readline() == 'begun\n'
        for _ in range(10):
            for scheme in ('coaps', 'coaps+tcp'):
                assert ask(scheme, *key), scheme
        now = statistics(device)
    finally:
        attack.terminate()
        told = json.loads(attack.communicate()[0])
    print(kind, told, {k: v for k, v in now.items() if 'connection' in k or 'handshake' in k or k == 'sessions'}, resident(device))
    assert told['steps'] > 20
    assert now['connections'] <= 256 and now['handshakes'] <= 64 and now['sessions'] < 4096 + 256, now
    assert main_pid(device) == pid
    assert resident(device) < 96 << 10
