# SPDX-License-Identifier: Apache-2.0
"""The commands that the documentation shows are run as they stand there, where a reader would be: in a checkout, beside a
running device whose ports are this machine's."""
import contextlib
import os
import re
import signal
import subprocess
import threading

import pytest

import simulated
from conftest import BUILD

ROOT = simulated.ROOT
# What would take the device from the other tests, or is everything that the tests are themselves.
LEFT_OUT = {'run', 'test', 'bench', 'stop'}


def text(document):
    return (ROOT / document).read_text(encoding='utf-8')


def blocks(document):
    """[(language, content)] of the fenced blocks."""
    return re.findall(r'^```(\w*)\n(.*?)^```$', text(document), re.M | re.S)


def commands(block):
    """Without what is explained beside them."""
    lines = (re.sub(r'\s+#.*', '', line).strip() for line in block.splitlines())
    return [line for line in lines if line and not line.startswith('#')]


class Reader:
    """A shell in a folder with the script and the build in it, in which localhost is the device's."""

    def __init__(self, device, folder):
        self.device, self.folder = device, folder
        script = folder / 'hybridos'
        script.write_text(f'#!/bin/sh\nexec {ROOT}/hybridos --instance {device.instance} "$@"\n')
        script.chmod(0o755)
        (folder / 'build').symlink_to(BUILD)

    def start(self, command, **options):
        return subprocess.Popen(['nsenter', f'--net=/proc/{self.device.init}/ns/net', '--', 'bash', '-euc', command], cwd=self.folder,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True, **options)

    def run(self, command):
        process = self.start(command)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, (command, out)
        return out

    @contextlib.contextmanager
    def running(self, command):
        """Until Ctrl-C; gives the lines that it says."""
        process, said = self.start(command), []
        thread = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
        thread.start()
        try:
            yield process, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(120)
            thread.join(60)


@pytest.fixture
def reader(device, tmp_path):
    tmp_path.chmod(0o755)
    return Reader(device, tmp_path)


@pytest.mark.parametrize('language, name', [('python', 'hello.py'), ('c', 'hello.c')])
def test_the_first_responder(device, reader, language, name):
    guide = 'docs/first-responder.md'
    shown = blocks(guide)
    at = next(i for i, (kind, _) in enumerate(shown) if kind == language)
    # The listing under its name, what has to be done to it, then the commands that follow it.
    (reader.folder / name).write_text(shown[at][1])
    assert shown[at + 1][0] == '', 'commands follow the listing'
    if "`chmod +x` it" in text(guide) and language == 'python':
        assert f'Save it as `{name}`' in text(guide)
        reader.run(f'chmod +x {name}')
    asking, = re.findall(r'In another terminal, `(curl [^`]*)`', text(guide))
    *before, starting = commands(shown[at + 1][1])
    assert starting.startswith('./hybridos app run')
    with reader.running('\n'.join([*before, f'exec {starting}'])) as (process, said):
        def answer():
            assert process.poll() is None, said
            done = reader.start(f'{asking} --silent --fail')
            return done.communicate(timeout=60)[0] if done.wait(60) == 0 else None
        assert device.wait(answer, 'it answers') in ('hello\n', 'hello anonymous\n')
    assert process.returncode == 130, said


def test_the_commands_of_the_readme(device, reader):
    shown = [c for language, block in blocks('README.md') if not language for c in commands(block)]
    shown = [c for c in shown if c.startswith(('./hybridos ', 'curl ', 'coap-client'))]
    verbs = {c.split()[1] for c in shown if c.startswith('./hybridos ')}
    assert verbs >= LEFT_OUT | {'exec', 'logs', 'status', 'app'}
    for command in shown:
        if command.startswith('./hybridos ') and command.split()[1] in LEFT_OUT:
            continue
        if command.startswith('coap-client'):  # the ports that CoAP has in the device are moved on this machine
            assert ':8444/' in command or ':8445/' in command
            assert '"uptime"' in reader.run(command.replace(':8444/', ':5683/').replace(':8445/', ':5684/'))
        elif ' logs -f ' in command:
            with reader.running(command) as (process, said):
                device.wait(lambda: any('h-httpd' in line for line in list(said)), 'lines of the log')
        elif ' app run ' in command:
            (reader.folder / 'app.py').write_text(next(b for language, b in blocks('docs/first-responder.md') if language == 'python'))
            with reader.running(command) as (process, said):
                device.wait(lambda: device.status('/hello') == 200, f'it answers: {said}')
        elif 'busctl tree' in command:  # it fails when any service on the bus, of whatever test, says nothing to a guest
            assert '/org/hybridos/Security1' in reader.start(command).communicate(timeout=120)[0]
        else:
            out = reader.run(command)
            assert out.strip(), command
            if command.startswith('curl'):
                assert '"uptime"' in out


def test_the_commands_of_h_ubus(device):
    """Those that end by themselves."""
    shown = [c for language, block in blocks('docs/h-ubus.md') if not language for c in commands(block)]
    shown = [c for c in shown if re.match(r'h-ubus (list|call|get)( |$)', c) and 'example' not in c]
    assert len(shown) >= 4
    for command in shown:
        done = device.run('bash', '-c', command)
        assert done.returncode == 0 and done.stdout.strip(), (command, done.stdout + done.stderr)


def test_the_commands_of_the_log(device, reader):
    first, *shown = next(commands(block) for language, block in blocks('docs/logged.md') if 'token add' in block)
    assert first.startswith('h-policy ') and len(shown) >= 2
    device.run('h-policy', 'token', 'remove', 'reader')
    told = device.run('sh', '-c', first, check=True).stdout
    token, rule = told.splitlines()[0].split()[-1], re.search(r'h-policy revoke (\S+)', told)[1]
    try:
        for command in shown:
            command = f'export TOKEN={token}; {command.replace("device:8443", "localhost:8443")}'
            if 'follow' not in command:
                assert '"MESSAGE"' in reader.run(f'{command} --fail')
                continue
            with reader.running(command) as (process, said):
                device.run('logger', '-t', 'documents', 'a record that follows', check=True)
                device.wait(lambda: list(said), 'records that follow')
    finally:
        device.run('h-policy', 'revoke', rule, check=True)
        device.run('h-policy', 'token', 'remove', 'reader', check=True)
