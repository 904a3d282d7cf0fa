# SPDX-License-Identifier: Apache-2.0
"""ETSI's CoAP plug-test descriptions on every road, against a responder in Python: tests/coapd/plugtest.py has the
table."""
import json
import os
import signal
import subprocess
import threading

import pytest
import simulated

COAP, UID, USER = simulated.ROOT / 'tests/coapd', '61081', 'plug'


@pytest.fixture(scope='module')
def plug(device):
    device.user(USER, UID, groups=['hybridos'])
    rules = []

    def grant(*words):
        rules.append(f'plug-{len(rules)}')
        device.run('h-policy', 'grant', '--id', rules[-1], *words, check=True)
    app = None
    try:
        grant(f'unix:{USER}', 'endpoint.register', 'endpoint.register:/plug')
        grant('anonymous', 'node:plug', 'endpoint.read:/plug', 'endpoint.write:/plug')
        node = json.loads(device.run('h-policy', '--json', 'node', 'add', 'plug', check=True).stdout)
        app = device.popen('/usr/bin/python3', '-u', device.put(COAP / 'plugtest-app.py'), user=USER, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
        lines = []
        threading.Thread(target=lambda: lines.extend(app.stdout), daemon=True).start()
        device.wait(lambda: device.run('/usr/bin/coap-client-notls', 'coap://127.0.0.1/plug/test').stdout.strip() == 'test',
                    f'the responder to answer: {lines}')
        device.put(COAP / 'coap.py')
        yield device.put(COAP / 'plugtest.py'), node['key'], device.program('coapd-dtls')
    finally:
        if app:
            for pid in simulated.children(app.pid):
                os.kill(pid, signal.SIGKILL)
            app.wait(60)
        for rule in rules:
            device.run('h-policy', 'revoke', rule)
        device.run('h-policy', 'node', 'remove', 'plug')


@pytest.mark.parametrize('road', ['udp', 'tcp', 'tls', 'dtls'])
def test_descriptions(device, plug, road):
    script, key, program = plug
    done = device.run('/usr/bin/python3', script, road, *((key, program) if road == 'dtls' else ()))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('ok ') == (43 if road in ('udp', 'dtls') else 33), done.stdout
