# SPDX-License-Identifier: Apache-2.0
"""h-httpd as shipped, with tests/httpd/canned-app.py behind it: attacks, revocation in the middle of things, what a stop
and a reload leave alone. What it says to well-behaved clients is tested in tests/httpd/features.py."""
import contextlib
import json
import os
import re
import signal
import ssl
import struct
import sys
import threading

import pytest

import simulated
from test_roads import UID, USER, App

sys.path.insert(0, str(simulated.ROOT / 'tests/httpd'))
import attacks  # noqa: E402
from attacks import DATA, HEADERS, RST, WINDOW, Http2  # noqa: E402

SERVER1 = ['org.hybridos.Http1', '/org/hybridos/Http1', 'org.hybridos.Server1']
STATE = '/var/lib/hybridos/httpd'
PUBLIC = ('/hello', '/echo', '/slow', '/stream')
END_STREAM = 1


class Target(attacks.Target):
    """The device's own loopback, reached from here."""

    def __init__(self, device, **more):
        super().__init__('127.0.0.1', 8443, **more)
        self.device = device

    def socket(self):
        return self.device.socket()


class Client(Http2):
    """A connection with one token, and one stream that is read piece by piece."""

    def __init__(self, device, token=None, **more):
        super().__init__(Target(device, token=token), **more)
        self.stream, self.body, self.ended = 0, b'', None

    def ask(self, path, **more):
        self.stream, data = self.request(path, **more)
        self.body, self.ended = b'', None
        self.send(data)
        return self

    def watch(self, path, *fields):
        return self.ask(path, fields=[('accept', 'text/event-stream'), *fields])

    def step(self):
        """Reads one frame; what ended the stream is in self.ended."""
        try:
            kind, flags, stream, payload = self.read_frame()
        except (EOFError, ConnectionError, ssl.SSLError) as error:
            self.ended = f'connection: {error!r}'
            return
        if stream != self.stream:
            return
        if kind == RST:
            self.ended = 'reset'
        elif kind == DATA:
            self.body += payload
            if payload:
                more = struct.pack('>I', len(payload))
                self.send(self.frame(WINDOW, 0, 0, more) + self.frame(WINDOW, 0, stream, more))
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended = 'end'

    def until(self, mark):
        while mark not in self.body:
            assert not self.ended, (self.ended, self.body[-500:])
            self.step()
        return self

    def until_end(self):
        while not self.ended:
            self.step()
        return self

    def close(self):
        self.sock.close()


@pytest.fixture(scope='module')
def canned(device):
    """The app behind all this."""
    device.user(USER, str(UID), groups=['hybridos'])
    names = [*PUBLIC, '/guarded']
    rules = {'test-canned-app': [f'unix:{USER}', 'endpoint.register', *(f'endpoint.register:{n}' for n in names)],
             'test-canned-public': ['anonymous', *(f'endpoint.write:{n}' for n in PUBLIC)]}
    for rule, words in rules.items():
        device.run('h-policy', 'grant', '--id', rule, *words, check=True)
    app = App(device, ['/usr/bin/python3', '-u', device.put(simulated.ROOT / 'tests/httpd/canned-app.py')], '')
    try:
        for name in names:
            app.says(f'state {name} 200')
        device.wait(lambda: device.status('/hello') == 200, 'the app answers')
        yield app
    finally:
        app.end()
        for rule in rules:
            device.run('h-policy', 'revoke', rule)


@contextlib.contextmanager
def configured(device, text):
    """h-httpd with more configuration, from its start to its end."""
    folder = '/run/hybridos/config/httpd.conf.d'
    device.run('mkdir', '-p', folder, check=True)
    device.write(f'{folder}/test.conf', text)
    try:
        restart(device)
        yield
    finally:
        device.run('rm', f'{folder}/test.conf', check=True)
        restart(device)


def restart(device):
    device.run('systemctl', 'restart', 'h-httpd.service', check=True)
    device.wait(lambda: device.status('/hello') in (200, 429), 'the app is back behind it')


def pid(device):
    return device.main_pid('h-httpd.service')


def log(device):
    return device.run('h-logread', '--no-pager', '-u', 'h-httpd.service', '-n', '100').stdout


# --- attacks -------------------------------------------------------------------------------------

def test_attacks_while_another_client_is_served(device, canned):
    names = [f.__name__ for f in attacks.ANYWHERE + attacks.CANNED]
    script = device.put(simulated.ROOT / 'tests/httpd/attacks.py')
    before = pid(device)
    with configured(device, '[timeouts]\nRequest = 3\nIdle = 4\nStall = 2\n[cors]\nOrigins = https://friend.example\n'):
        server = pid(device)
        assert server != before
        done = device.run('python3', script, '--device', '127.0.0.1:8443', '--canned', '--pid', server, timeout=600)
        print(done.stdout)
        assert done.returncode == 0 and f'{len(names)} passed, 0 failed' in done.stdout, done.stdout + done.stderr
        assert pid(device) == server
    assert canned.process.poll() is None


# --- revocation ----------------------------------------------------------------------------------

@pytest.fixture
def token(device, canned):
    """Two tokens that may use /guarded, one of them by a rule that a test may revoke."""
    made = {}
    for name in ('httpd-first', 'httpd-other'):
        device.run('h-policy', 'token', 'remove', name)
        made[name] = device.run('h-policy', 'token', 'add', name, check=True).stdout.split()[-1]
        device.run('h-policy', 'grant', '--id', f'test-{name}', f'token:{name}', 'guarded.read', 'guarded.write', 'server.read',
                   check=True)
    yield made
    for name in made:
        device.run('h-policy', 'revoke', f'test-{name}')
        device.run('h-policy', 'token', 'remove', name)


@contextlib.contextmanager
def frozen_after(device, *command):
    """h-httpd does nothing any more once the command has returned: what a client gets has been sent before."""
    server = pid(device)
    try:
        device.run('sh', '-c', '"$@" && kill -STOP ' + server, 'sh', *command, check=True)
        yield
    finally:
        device.run('kill', '-CONT', server)


def notify(device, token, body, query=''):
    done = device.curl('/guarded/notify' + query, '--header', f'Authorization: Bearer {token}', '--data-binary', body,
                       '--output', '/dev/null', '--write-out', '%{http_code}')
    assert done.stdout == '204', done.stdout


@pytest.mark.parametrize('how', [('revoke', 'test-httpd-first'), ('token', 'remove', 'httpd-first')], ids=lambda h: h[0])
def test_an_event_stream_is_cut_before_revoke_returns(device, canned, token, how):
    notify(device, token['httpd-other'], 'before')
    first = Client(device, token['httpd-first']).watch('/guarded/value').until(b'data: before\n')
    # Somebody else, in the same connection and in one of his own, is not concerned.
    other = Client(device, token['httpd-other']).watch('/guarded/value').until(b'data: before\n')
    shared, data = first.request('/guarded/value', token=token['httpd-other'], fields=[('accept', 'text/event-stream')])
    first.send(data)
    while first.read_frame()[:3:2] != (HEADERS, shared):
        pass
    with frozen_after(device, 'h-policy', *how):
        first.until_end()
    assert first.ended in ('end', 'reset') and b'after' not in first.body, (first.ended, first.body)
    notify(device, token['httpd-other'], 'after')
    other.until(b'data: after\n').close()
    first.stream, first.body, first.ended = shared, b'', None
    first.until(b'data: after\n').close()
    again = Client(device, token['httpd-first']).watch('/guarded/value').until_end()
    assert b'"status":40' in again.body and b'data' not in again.body, again.body
    again.close()


def test_a_download_is_cut(device, canned, token):
    """Also of a client that takes nothing: what is under way to it is all it gets."""
    since = len(canned.lines)
    reading = Client(device, token['httpd-first']).ask('/guarded/download').until(PIECE)
    canned.says('download begins', since)
    since = len(canned.lines)
    lazy = Client(device, token['httpd-first'], rcvbuf=4096).ask('/guarded/download')
    thread = threading.Thread(target=reading.until_end)
    thread.start()
    canned.says('download begins', since)
    device.run('h-policy', 'revoke', 'test-httpd-first', check=True)
    thread.join(60)
    assert not thread.is_alive() and reading.ended != 'end'
    lazy.until_end()
    assert lazy.ended != 'end' and len(lazy.body) < 4 << 20, (lazy.ended, len(lazy.body))
    canned.says('stream ended', since)
    device.wait(lambda: canned.lines[since:].count('stream ended') == 2, 'the app is told twice')
    for client in (reading, lazy):
        client.close()


def test_a_file_is_cut(device, canned, token):
    """Files are open to everybody with the development drop-in, so it takes a deny."""
    rule = '/etc/hybridos/policy.d/95-httpd-test.policy'
    device.run('mkdir', '-p', '/srv/httpd-test', check=True)
    device.run('truncate', '--size=1G', '/srv/httpd-test/large', check=True)
    try:
        with configured(device, '[files]\nRoot = /srv/httpd-test\n'):
            client = Client(device, token['httpd-first']).ask('/large').until(bytes(1 << 20))
            thread = threading.Thread(target=client.until_end)
            thread.start()
            device.write(rule, '[deny httpd-test]\nTo = token:httpd-first\nPermission = endpoint.read:/\n')
            device.run('h-policy', 'reload', check=True)
            thread.join(60)
            assert not thread.is_alive() and client.ended != 'end' and len(client.body) < 1 << 30
            client.close()
            assert b'"status":403' in Client(device, token['httpd-first']).ask('/large').until_end().body
    finally:
        device.run('rm', '-rf', rule, '/srv/httpd-test', check=True)
        device.run('h-policy', 'reload', check=True)


def test_an_upload_in_the_app_is_cut_before_revoke_returns(device, canned, token):
    since = len(canned.lines)
    client = Client(device, token['httpd-first'])
    upload(client.ask('/guarded/slow-upload', method='POST', end=False), 1 << 20)
    canned.says('upload begins', since)
    with frozen_after(device, 'h-policy', 'revoke', 'test-httpd-first'):
        client.until_end()
    assert b'"status":403' in client.body, (client.ended, client.body)
    canned.says('upload cancelled', since)
    client.close()


def test_an_upload_that_is_under_way_never_reaches_the_app(device, canned, token):
    """The library collects the body, so the app has seen nothing of it when the rule goes."""
    since = len(canned.lines)
    client = Client(device, token['httpd-first']).ask('/guarded/upload', method='POST', end=False)
    client.send(client.frame(DATA, 0, client.stream, b'x' * 10000))
    device.run('h-policy', 'revoke', 'test-httpd-first', check=True)
    client.send(client.frame(DATA, END_STREAM, client.stream, b'x' * 10000))
    assert b'"status":403' in client.until_end().body, (client.ended, client.body)
    client.close()
    # What the app says comes in order.
    body = device.curl('/guarded/upload', '--header', f'Authorization: Bearer {token["httpd-other"]}', '--data-binary', 'abc')
    assert body.stdout == 'uploaded'
    assert canned.says('uploaded', since) == 'uploaded 3'


def upload(client, size):
    """A whole body, as fast as the windows allow; what is said in between is left to the reader."""
    window, sent = 65535, 0
    while sent < size:
        piece = min(16384, size - sent)
        while window < piece:
            kind, flags, stream, payload = client.read_frame()
            if kind == WINDOW and stream == 0:
                window += struct.unpack('>I', payload)[0]
        sent += piece
        window -= piece
        client.send(client.frame(DATA, END_STREAM if sent == size else 0, client.stream, b'x' * piece))


PIECE = b'x' * 32768


# --- events --------------------------------------------------------------------------------------

def events(client, mark):
    """What came until the mark, as (id, event, data)."""
    client.until(mark)
    found = []
    for block in client.body.decode().split('\n\n'):
        fields = dict(line.split(': ', 1) for line in block.split('\n') if ': ' in line)
        if 'data' in fields:
            found.append((fields.get('id'), fields.get('event'), fields['data']))
    client.close()
    return found


def test_who_comes_back_gets_the_latest_value_and_is_told_of_the_gap(device, canned, token):
    key = token['httpd-first']
    back = lambda last: Client(device, key).watch('/guarded/value', ('last-event-id', last))
    notify(device, key, 'v-1', '?own-id')
    assert events(Client(device, key).watch('/guarded/value'), b'data: v-1\n') == [('v-1', None, 'v-1')]
    for value in ('v-2', 'v-3'):
        notify(device, key, value, '?own-id')
    gap, latest = events(back('v-1'), b'data: v-3\n')[-2:]
    assert gap[1] == 'gap' and json.loads(gap[2]) == {'after': 'v-1'} and latest == ('v-3', None, 'v-3')
    # Nothing was missed: nothing comes again, and there is no gap.
    client = back('v-3').until(b'retry: ')
    notify(device, key, 'v-4', '?own-id')
    assert events(client, b'data: v-4\n') == [('v-4', None, 'v-4')]


def test_a_number_of_an_earlier_life_is_a_gap(device, canned, token):
    """Ids that the server made count within its life: after a restart the same number means something else."""
    key = token['httpd-first']
    notify(device, key, 'w-1')
    (number, _, _), = events(Client(device, key).watch('/guarded/value'), b'data: w-1\n')
    restart(device)
    device.wait(lambda: device.status('/guarded', '--header', f'Authorization: Bearer {key}') == 200, 'the app is back')
    for value in ('w-2', 'w-3'):
        notify(device, key, value)
    gap, latest = events(Client(device, key).watch('/guarded/value', ('last-event-id', number)), b'data: w-3\n')[-2:]
    assert gap[1:] == ('gap', json.dumps({'after': number}, separators=(',', ':'))) and latest[2] == 'w-3'


# --- keys ----------------------------------------------------------------------------------------

def certificate(device):
    """What a new client is shown: its SHA-256 fingerprint."""
    done = device.run('sh', '-c', 'openssl s_client -connect localhost:8443 </dev/null 2>/dev/null | '
                      'openssl x509 -noout -fingerprint -sha256')
    return done.stdout.strip().partition('=')[2]


def fingerprint(device):
    return device.run('busctl', 'get-property', 'org.hybridos.Http1', '/org/hybridos/Http1', 'org.hybridos.Http1',
                      'CertificateFingerprint', check=True).stdout.split('"')[1]


def test_the_key_is_the_servers_alone(device, canned):
    listed = device.run('stat', '--format=%n %a %U', STATE, f'{STATE}/key.pem', f'{STATE}/certificate.pem', check=True).stdout
    assert listed.split('\n')[:3] == [f'{STATE} 700 h-httpd', f'{STATE}/key.pem 600 h-httpd',
                                      f'{STATE}/certificate.pem 644 h-httpd']
    for user in ('guest', USER, 'h-coapd', 'h-sysinfo'):
        assert device.run('cat', f'{STATE}/key.pem', user=user).returncode != 0, user
    shown = certificate(device)
    assert shown and shown == fingerprint(device)
    # One device, one key: a restart makes no new one.
    restart(device)
    assert certificate(device) == shown
    # It was made here: what was installed has none.
    found = device.run('grep', '-rlE', 'BEGIN (EC |RSA )?PRIVATE KEY', '/usr/lib/hybridos', '/usr/share/hybridos', '/etc/hybridos')
    assert found.stdout == '', found.stdout


def test_a_renewed_certificate_drops_no_connection(device, canned, token):
    key = token['httpd-first']
    folder = '/etc/hybridos/httpd-test'
    make = ('openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost '
            f'-keyout {folder}/key.pem -out {folder}/certificate.pem && chown -R h-httpd {folder}')
    before = certificate(device)
    device.run('mkdir', '-p', folder, check=True)
    device.run('sh', '-c', make, check=True)
    try:
        with configured(device, f'[tls]\nCertificate = {folder}/certificate.pem\nKey = {folder}/key.pem\n'):
            own = certificate(device)
            assert own != before
            device.wait(lambda: device.status('/guarded', '--header', f'Authorization: Bearer {key}') == 200, 'the app is back')
            server = pid(device)
            notify(device, key, 'old')
            watching = Client(device, key).watch('/guarded/value').until(b'data: old\n')
            asking = Client(device)
            assert asking.exchange(path='/hello')[1] == b'hello world\n'
            device.run('sh', '-c', make, check=True)
            device.run('systemctl', 'reload', 'h-httpd.service', check=True)
            device.wait(lambda: certificate(device) != own, 'new clients are shown the new certificate')
            renewed = certificate(device)
            assert renewed == fingerprint(device) and pid(device) == server
            assert asking.exchange(path='/hello')[1] == b'hello world\n'
            notify(device, key, 'new')
            watching.until(b'data: new\n')
            # One that does not fit its key is said, and changes nothing.
            device.run('sh', '-c', f'openssl ecparam -name prime256v1 -genkey -noout -out {folder}/key.pem', check=True)
            device.run('systemctl', 'reload', 'h-httpd.service', check=True)
            device.wait(lambda: 'keeping certificate' in log(device), 'the reason in the log')
            assert certificate(device) == renewed
            assert asking.exchange(path='/hello')[1] == b'hello world\n'
            device.run('sh', '-c', make, check=True)
            for client in (watching, asking):
                client.close()
    finally:
        device.run('rm', '-rf', folder, check=True)
    assert certificate(device) == before


# --- stopping ------------------------------------------------------------------------------------

def test_a_stop_lets_what_is_open_finish(device, canned, token):
    """Nothing new begins, streams of events are told, answers that are awaited still come."""
    key, since = token['httpd-first'], len(canned.lines)
    notify(device, key, 'stays')
    watching = Client(device, key).watch('/guarded/value').until(b'data: stays\n')
    waiting = Client(device, key).ask('/guarded/later')
    canned.says('later', since)
    release = Client(device, key)
    assert release.exchange(path='/guarded')[1] == b'guarded'
    stopping = device.popen('systemctl', 'stop', 'h-httpd.service')
    try:
        draining = lambda: device.run('busctl', 'get-property', 'org.hybridos.Http1', '/org/hybridos/Http1',
                                      'org.hybridos.Http1', 'Draining').stdout.strip() == 'b true'
        device.wait(draining, 'h-httpd drains')
        with pytest.raises((OSError, EOFError)):
            Client(device).exchange(path='/hello')
        assert watching.until_end().body.endswith(b'event: end\ndata: {"status":503}\n\n'), watching.body
        assert stopping.poll() is None
        os.kill(simulated.children(canned.process.pid)[0], signal.SIGUSR1)
        assert waiting.until_end().body == b'later'
        assert stopping.wait(60) == 0
        shown = device.run('systemctl', 'show', '-P', 'Result', '-P', 'ExecMainStatus', 'h-httpd.service', check=True).stdout
        assert shown.split() == ['success', '0']
    finally:
        device.run('systemctl', 'start', 'h-httpd.service', check=True)
        stopping.wait(120)
        for client in (watching, waiting, release):
            client.close()
    device.wait(lambda: device.status('/hello') == 200, 'the app is back')


def test_a_read_only_state_directory(device, canned):
    """With its key there the server needs to write nothing; without, it says why it cannot start, and tries again."""
    before = certificate(device)
    device.run('mount', '--bind', '/var/lib/hybridos', '/var/lib/hybridos', check=True)
    try:
        device.run('mount', '-o', 'remount,bind,ro', '/var/lib/hybridos', check=True)
        restart(device)
        assert certificate(device) == before
    finally:
        device.run('umount', '/var/lib/hybridos', check=True)
    device.run('mv', f'{STATE}/key.pem', f'{STATE}/away.pem', check=True)
    device.run('mount', '--bind', '/var/lib/hybridos', '/var/lib/hybridos', check=True)
    mounted = True
    try:
        device.run('mount', '-o', 'remount,bind,ro', '/var/lib/hybridos', check=True)
        device.run('systemctl', 'restart', '--no-block', 'h-httpd.service', check=True)
        device.wait(lambda: 'cannot make a certificate in /var/lib/hybridos/httpd' in log(device), 'the reason in the log')
        device.run('umount', '/var/lib/hybridos', check=True)
        mounted = False
        device.run('mv', f'{STATE}/away.pem', f'{STATE}/key.pem', check=True)
        device.wait(lambda: device.status('/hello') == 200, 'it has come back by itself')
    finally:
        if mounted:
            device.run('umount', '/var/lib/hybridos', check=True)
        device.run('sh', '-c', f'test ! -e {STATE}/away.pem || mv {STATE}/away.pem {STATE}/key.pem', check=True)
    restart(device)
    assert certificate(device) == before


# --- limits and what is told ---------------------------------------------------------------------

def test_who_asks_too_much_is_told_when_to_come_back(device, canned):
    with configured(device, '[limits]\nRequestRate = 5\n'):
        wanted = 'url = https://localhost:8443/hello\noutput = /dev/null\n' * 200
        done = device.run('curl', '-sk', '--parallel', '--config', '-', '--write-out', '%{http_code} %header{retry-after}\n',
                          input=wanted, check=True)
        answers = [line.split() for line in done.stdout.splitlines()]
        assert len(answers) == 200 and ['200'] in answers, answers
        limited = [a for a in answers if a[0] != '200']
        assert limited and all(a[0] == '429' and int(a[1]) > 0 for a in limited), answers
    with configured(device, '[limits]\nRequestsPerAddress = 4\n'):
        holding = Client(device)
        for _ in range(4):
            holding.ask('/slow')
        device.wait(lambda: b' 429 ' in (answer := attacks.raw(
            Target(device), b'GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n')) and b'\r\nretry-after: ' in answer.lower(),
            'the address has all that it may have')
        holding.close()
        device.wait(lambda: device.status('/hello') == 200, 'the address may ask again')


def test_guessing_tokens_is_throttled(device, canned, token):
    fields = '%{http_code} %header{retry-after}'
    told = lambda: device.curl('/hello', '--header', 'Authorization: Bearer wrong', '--output', '/dev/null', '--write-out',
                               fields).stdout.split()
    seen = []
    device.wait(lambda: seen.append(told()) or seen[-1][0] == '429', 'the guesses are throttled')
    assert {s[0] for s in seen[:-1]} == {'401'} and int(seen[-1][1]) > 0, seen
    # Whoever has one that is good is not kept out by it.
    assert device.status('/guarded', '--header', f'Authorization: Bearer {token["httpd-first"]}') == 200


def test_an_unknown_host(device, canned):
    for how in ('--http1.1', '--http2'):
        for host in ('evil.example', 'localhost.evil.example', '10.0.0.1'):
            assert device.status('/hello', how, '--header', f'Host: {host}') == 421, (how, host)
        for host in ('localhost', 'hybridos', 'hybridos.local', '127.0.0.1'):
            assert device.status('/hello', how, '--header', f'Host: {host}') == 200, (how, host)


def test_credentials_do_not_reach_the_app(device, canned, token):
    key = token['httpd-first']
    got = device.curl('/echo?a=b', '--header', f'Authorization: Bearer {key}', '--header', 'Cookie: a=secret-cookie', '--header',
                      'X-Forwarded-For: 1.2.3.4', '--header', 'X-Mine: yes', check=True).stdout
    assert 'x-mine: yes' in got and 'GET /echo ?a=b' in got
    for word in ('authorization', 'cookie', 'forwarded', key):
        assert word not in got.lower(), got


def test_the_access_log_has_no_secrets(device, canned, token):
    key = token['httpd-first']
    with configured(device, '[log]\nAccess = all\n'):
        device.curl('/echo/log-test?token=secret-query', '--header', f'Authorization: Bearer {key}', check=True)
        device.wait(lambda: '/echo/log-test' in log(device), 'the line')
        line, = [l for l in log(device).splitlines() if '/echo/log-test' in l]
        assert re.search(r'127\.0\.0\.1:\d+ token:httpd-first GET /echo/log-test HTTP/2 200 \d+$', line), line
        assert 'secret-query' not in log(device) and key not in log(device)


def test_metrics_and_statistics_agree(device, canned, token):
    def on_bus():
        done = device.run('busctl', '--json=short', 'get-property', *SERVER1, 'Statistics', check=True)
        return json.loads(done.stdout)['data']
    before = on_bus()
    text = device.curl('/system/http/metrics', '--fail', '--header', f'Authorization: Bearer {token["httpd-first"]}',
                       check=True).stdout
    after = on_bus()
    shown = {name: int(value) for name, value in re.findall(r'^hybridos_http_(\S+) (\d+)$', text, re.M)}
    kinds = dict(re.findall(r'^# TYPE hybridos_http_(\S+) (\S+)$', text, re.M))
    assert shown.keys() == before.keys() == after.keys() == kinds.keys()
    for name, value in shown.items():
        assert kinds[name] == ('counter' if name.endswith('_total') else 'gauge')
        if name.endswith('_total'):
            assert before[name] <= value <= after[name], name
    assert after['requests_total'] > before['requests_total']
    assert device.status('/system/http/metrics') == 401
