# SPDX-License-Identifier: Apache-2.0
"""./hybridos itself: what cannot work ends in one clear sentence, and nothing is left behind."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

import simulated

ROOT = simulated.ROOT
INSTANCE = 'test-script'


def script(*arguments, prefix=(), **options):
    return subprocess.run([*prefix, ROOT / 'hybridos', '--instance', INSTANCE, *arguments], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=300, **options)


def leftovers():
    """Mounts, interfaces, groups and processes of the instance under test."""
    d = simulated.Device(INSTANCE)
    found = [line for line in pathlib.Path('/proc/self/mounts').read_text().splitlines()
             if str(d.folder) in line]
    found += [name for name in os.listdir('/sys/class/net') if d.tag in name]
    found += [str(f) for f in d._cgroup_folders() if f.exists()]
    for entry in os.listdir('/proc'):
        try:
            command = pathlib.Path(f'/proc/{entry}/cmdline').read_bytes().replace(b'\0', b' ').decode()
        except (OSError, ValueError):
            continue
        if entry.isdigit() and d.machine in command:
            found.append(command)
    return found


def sentence(result):
    """The one sentence of a failure, without what was said on the way."""
    assert result.returncode not in (0, None)
    assert 'Traceback' not in result.stderr, result.stderr
    return result.stderr.strip().splitlines()[-1]


pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def clean():
    yield
    d = simulated.Device(INSTANCE)
    d.stop(quick=True)
    shutil.rmtree(d.folder, ignore_errors=True)


def test_not_root():
    result = script('run', '--detach', prefix=['setpriv', '--reuid=65534', '--clear-groups'])
    # The checkout may be unreadable to others; then the shell already says so.
    assert 'needs root' in sentence(result) or 'ermission denied' in sentence(result)
    assert not leftovers()


def test_not_debian(tmp_path):
    release = tmp_path / 'os-release'
    release.write_text('ID=other\n')
    result = script('run', '--detach', prefix=['unshare', '--mount', 'sh', '-c',
                                               f'mount --bind {release} /etc/os-release && exec "$@"', 'sh'])
    assert 'needs Debian' in sentence(result)


def test_port_taken():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        port = s.getsockname()[1]
        result = script('run', '--detach', '--port', str(port))
    assert f'port {port} is taken' in sentence(result)
    assert not leftovers()


def test_udp_port_taken():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
        result = script('run', '--detach', '--port', str(port - 1))
    assert f'port {port} is taken' in sentence(result)
    assert not leftovers()


def test_no_namespaces():
    result = script('run', '--detach', '--publish', 'none',
                    prefix=['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-sys_admin'])
    assert 'no namespaces' in sentence(result)
    assert not leftovers()


def test_disk_full():
    d = simulated.Device(INSTANCE)
    d.folder.mkdir(parents=True, exist_ok=True)
    result = script('run', '--detach', '--publish', 'none', prefix=[
        'unshare', '--mount', 'sh', '-c', f'mount -t tmpfs -o size=1M none {d.folder} && exec "$@"', 'sh'])
    assert 'disk is full' in sentence(result)
    assert not leftovers()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize('moment', ['building', 'booting', 'running'])
def test_interrupted(number, moment):
    d = simulated.Device(INSTANCE)
    process = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'run', '--publish', 'none'],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)
    words = {'building': 'building', 'booting': 'booting', 'running': 'The device runs'}[moment]
    for line in process.stdout:
        if words in line:
            break
    else:
        pytest.fail(f'never got to {moment}')
    process.send_signal(number)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert 'Traceback' not in rest
    assert not d.running()
    assert not leftovers()


def test_killed_outright_and_started_again():
    process = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'run', '--publish', 'none'],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)
    for line in process.stdout:
        if 'booting' in line:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    result = script('run', '--detach', '--publish', 'none')
    assert result.returncode == 0, result.stderr
    assert script('status').returncode == 0
    assert script('stop').returncode == 0
    assert not leftovers()


def test_run_and_stop_are_idempotent_and_exec_passes_status():
    port = free_port()
    arguments = ['run', '--detach', '--port', str(port)]
    first = script(*arguments)
    assert first.returncode == 0, first.stderr
    init = simulated.Device(INSTANCE).init
    second = script(*arguments)
    assert second.returncode == 0 and 'running already' in second.stderr
    assert simulated.Device(INSTANCE).init == init
    status = script('status')
    assert status.returncode == 0 and 'DEVELOPMENT' in status.stdout
    assert script('exec', '--', 'sh', '-c', 'exit 7').returncode == 7
    assert script('exec', '--user', 'guest', '--', 'id', '-un').stdout == 'guest\n'
    assert script('exec', '--', 'echo', '--user', 'x').stdout == '--user x\n'
    assert 'no user nobody-of-this-name' in sentence(script('exec', '--user', 'nobody-of-this-name', '--', 'true'))
    assert 'hybridos.target' in script('logs').stdout
    # A daemon's own records go to h-logged alone: the journal would not show them.
    shown = script('logs', 'h-httpd').stdout
    assert re.search(r'h-httpd\[\d+\]: .*listening', shown) and 'h-endpointd[' not in shown
    assert script('stop').returncode == 0
    assert not leftovers()
    assert script('stop').returncode == 0
    assert script('status').returncode == 3
    assert 'not running' in sentence(script('exec', '--', 'true'))
    closed = script('run', '--detach', '--closed', '--publish', 'none')
    assert closed.returncode == 0, closed.stderr
    assert 'closed' in script('status').stdout
    assert script('exec', '--', 'test', '-e', '/etc/hybridos/policy.d/90-development.policy').returncode == 1


def starting(moment, *arguments):
    """A run that has come to a moment, and what it has said."""
    process = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'run', '--publish', 'none', *arguments],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    for line in process.stdout:
        if moment in line:
            return process
    pytest.fail(f'never got to {moment}')


def until(condition, what, seconds=60):
    return simulated.wait_until(condition, seconds, what)


def test_killed_outright_while_building():
    """The build ends with the script, so the next one does not meet it."""
    fifo = ROOT / '.device' / 'test-build'
    fifo.mkdir(parents=True, exist_ok=True)
    slow = fifo / 'ninja'
    slow.write_text('#!/bin/sh\necho $$ >"$0.pid"\nexec sleep 1000\n')
    slow.chmod(0o755)
    try:
        process = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'run', '--publish', 'none'],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True, env={**os.environ, 'PATH': f'{fifo}:{os.environ["PATH"]}'})
        told = fifo / 'ninja.pid'
        until(lambda: told.exists() and told.read_text().strip(), 'the build runs')
        build = int(told.read_text())
        assert simulated.started(build)
        process.kill()
        process.wait()
        until(lambda: not simulated.started(build), 'the build has ended')
    finally:
        shutil.rmtree(fifo)
    assert not leftovers()
    result = script('run', '--detach', '--publish', 'none')
    assert result.returncode == 0, result.stderr
    assert script('stop').returncode == 0


def test_killed_outright_while_booting_and_stopped():
    process = starting('booting')
    process.kill()
    process.wait()
    process.stdout.close()
    assert script('stop').returncode == 0
    assert not leftovers()


def test_stopped_with_an_app_running(tmp_path):
    assert script('run', '--detach', '--publish', 'none').returncode == 0
    program = tmp_path / 'app.py'
    program.write_text('import hybridos\napp = hybridos.App("x")\n@app.endpoint("/x")\nasync def x(request): return "x"\n'
                       'app.run()\n')
    app = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'app', 'run', '--endpoint', '/x', '--alone', program],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           start_new_session=True)
    d = simulated.Device(INSTANCE)
    until(lambda: d.run('curl', '-skf', 'https://localhost:8443/x').stdout == 'x', 'the app answers')
    assert script('stop').returncode == 0
    said, _ = app.communicate(timeout=120)
    assert app.returncode is not None and 'Traceback' not in said, said
    assert not leftovers()
    # Nothing of it is on the disk that the next start takes.
    assert script('run', '--detach', '--publish', 'none').returncode == 0
    assert not re.search('app-[0-9]', d.run('getent', 'passwd', check=True).stdout + d.run('h-policy', 'list', check=True).stdout)
    assert script('stop').returncode == 0


def test_logs_of_one_unit():
    assert script('run', '--detach', '--publish', 'none').returncode == 0
    d = simulated.Device(INSTANCE)
    for unit in ('h-httpd', 'h-httpd.service'):
        follower = subprocess.Popen([ROOT / 'hybridos', '--instance', INSTANCE, 'logs', '-f', unit], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            seen = []
            while 'listening on' not in (line := follower.stdout.readline()):
                assert line, seen
                seen.append(line)
            d.run('systemctl', 'reload', 'h-securityd.service', check=True)
            d.run('systemctl', 'restart', 'h-httpd.service', check=True)
            while 'listening on' not in (line := follower.stdout.readline()):
                assert line, seen
                seen.append(line)
            assert all(' h-httpd' in line or 'systemd' in line for line in seen), seen
        finally:
            os.killpg(follower.pid, signal.SIGINT)  # as a terminal does
            follower.communicate(timeout=60)
        assert follower.returncode not in (0, None)
    assert 'h-httpd' in script('logs', 'h-httpd').stdout and 'h-coapd' not in script('logs', 'h-httpd').stdout
    assert script('stop').returncode == 0
    assert not leftovers()


def free_port():
    """One whose next two are free as well, for UDP and TCP, on all addresses."""
    while True:
        with contextlib.ExitStack() as all_of_them:
            bound = lambda kind, port: all_of_them.enter_context(socket.socket(socket.AF_INET, kind)).bind(('', port))
            first = all_of_them.enter_context(socket.socket())
            first.bind(('', 0))
            port = first.getsockname()[1]
            try:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    bound(kind, port + 1), bound(kind, port + 2)
                return port
            except (OSError, OverflowError):
                pass


COAP = 'coap-client-notls'


def coap(address, port, *arguments):
    return subprocess.run([COAP, '-m', 'get', '-B', '30', *arguments, f'coap://{address}:{port}/system/status'],
                          capture_output=True, text=True, timeout=120)


def test_datagrams_are_carried_both_ways():
    port = free_port()
    started = script('run', '--detach', '--port', str(port))
    assert started.returncode == 0 and f'coap://localhost:{port + 1}/system/status' in started.stdout, started.stderr
    # In blocks, several at once: the device tells its peers apart.
    clients = [subprocess.Popen([COAP, '-m', 'get', '-B', '60', '-b', '64', f'coap://127.0.0.1:{port + 1}/system/status'],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    for client in clients:
        out, problem = client.communicate(timeout=120)
        assert '"uptime"' in out and not problem, problem
    # What the device says by itself comes through too.
    watched = coap('127.0.0.1', port + 1, '-s', '5')
    assert watched.stdout.count('"uptime"') >= 2, watched
    if os.path.exists('/proc/net/if_inet6'):
        assert '"uptime"' in coap('[::1]', port + 1).stdout
    for scheme, number in (('coap+tcp', port + 1), ('coaps', port + 2), ('coaps+tcp', port + 2)):
        asked = subprocess.run(['coap-client-openssl', '-n', '-m', 'get', '-B', '30', f'{scheme}://127.0.0.1:{number}/system/status'],
                               capture_output=True, text=True, timeout=120)
        assert '"uptime"' in asked.stdout, (scheme, asked)
    assert script('stop').returncode == 0
    assert not leftovers()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', port + 1))


def test_published_to_whom():
    """127.0.0.2 is this machine and not its localhost: whoever comes there comes from elsewhere."""
    port, name = free_port(), socket.gethostname()
    ask = lambda: subprocess.run(['curl', '-sk', '--resolve', f'{name}:{port}:127.0.0.2', '-o', '/dev/null', '-w', '%{http_code}',
                                  f'https://{name}:{port}/system/status'], capture_output=True, text=True)
    assert script('run', '--detach', '--port', str(port), '--publish', 'all').returncode == 0
    assert ask().stdout == '200'
    assert '"uptime"' in coap('127.0.0.2', port + 1).stdout
    assert 'published to all' in script('status').stdout
    again = script('run', '--detach', '--port', str(port))
    assert again.returncode == 0 and 'restarting' in again.stderr, again.stderr
    refused = ask()
    assert refused.returncode == 7 and 'published to localhost' in script('status').stdout
    assert 'uptime' not in coap('127.0.0.2', port + 1, '-B', '3').stdout
    assert script('stop').returncode == 0
    assert not leftovers()


def test_the_forwarder_carries_both_ways_and_ends_with_the_device():
    port = free_port()
    assert script('run', '--detach', '--port', str(port)).returncode == 0
    d = simulated.Device(INSTANCE)
    if not d.has('usr/sbin/h-httpd'):
        server = d.popen('python3', '-c', 'import socket\ns = socket.create_server(("127.0.0.1", 8443))\n'
                         'print("up", flush=True)\nc, _ = s.accept()\nwhile data := c.recv(65536): c.sendall(data)\n'
                         'c.close()', stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == 'up\n'
        with socket.create_connection(('127.0.0.1', port), timeout=30) as c:
            sent = os.urandom(100_000)
            c.sendall(sent)
            c.shutdown(socket.SHUT_WR)
            got = b''
            while data := c.recv(65536):
                got += data
        assert got == sent
        server.wait(30)
    else:
        answer = subprocess.run(['curl', '-sk', '-o', '/dev/null', '-w', '%{http_code}',
                                 f'https://localhost:{port}/nothing/here'], capture_output=True, text=True)
        assert int(answer.stdout) >= 200, answer.stderr  # whatever it says, h-httpd said it
    forwarder = d._process('forwarder')
    os.kill(d.init, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while simulated.started(forwarder) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert simulated.started(forwarder) is None
    assert script('stop').returncode == 0
    assert not leftovers()
