#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What TCP, TLS and DTLS add, and what is the same on every road: roads.py --serve PROGRAM --dtls PROGRAM
--clock LIBRARY [NAME…]. RFC 8323, RFC 7252 (9), RFC 6347."""
import argparse
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

import features
from coap import ABORT, ACK, CON, CSM, NON, PING, PONG, RELEASE, RST, Client, Message, Stream, block, number

KEY = '0123456789abcdef'


class Dtls(Client):
    """A client over DTLS, message by message; tests/coapd/dtls.c does the rest."""

    def __init__(self, port, identity='lamp', key=KEY, ciphers='', seconds=20):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(seconds)
        self.process = subprocess.Popen([PROGRAM, str(port), identity, key, *([ciphers] if ciphers else [])], stdin=theirs)
        theirs.close()
        self.mid = int.from_bytes(os.urandom(2), 'big')
        self.cipher = self.socket.recv(100).decode()
        if not self.cipher:
            self.process.wait()
            raise ConnectionRefusedError('no handshake')

    def close(self):
        self.socket.close()
        self.process.wait()


def over_tls(port, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in more.items():
        getattr(context, name)(value) if callable(getattr(context, name)) else setattr(context, name, value)
    return context.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=20))


def roads(server):
    """A client on each road."""
    yield 'udp', Client(server.port)
    yield 'tcp', Stream(server.port)
    yield 'tls', Stream(0, wrapped=over_tls(server.secure))
    yield 'dtls', Dtls(server.secure)


# --- the same everywhere -------------------------------------------------------------------------

def test_requests_on_every_road(server):
    for road, c in roads(server):
        for method, code in (('GET', '2.05'), ('POST', '2.04'), ('PUT', '2.04'), ('DELETE', '2.02'), ('FETCH', '2.05')):
            got = c.request(method, '/echo', ('accept', 0), payload=b'' if method in ('GET', 'DELETE') else b'abc')
            assert got.text == code and method.encode() in got.payload, (road, got)
        assert c.request('GET', '/nowhere').text == '4.04', road
        assert c.request('GET', '/', (9, b'')).text == '4.02', road
        assert c.request('GET', '/', ('proxy-uri', 'coap://elsewhere/')).text == '5.05', road
        assert c.request('GET', '/', ('path', '..')).text == '4.00', road
        c.close()


def test_unknown_methods(server):
    for road, c in roads(server):
        assert c.request(8, '/echo').text == ('4.04' if road == 'udp' else '4.05'), road
        c.close()


def test_blocks_on_every_road(server):
    for road, c in roads(server):
        assert c.fetch_all('GET', '/stream')[1] == b'x' * (1 << 20), road
        body = os.urandom(5000)
        got = c.upload('PUT', '/echo', body)
        assert got.text == '2.04' and got.block('block1')[0] == 4, (road, got)
        c.close()


def test_observe_on_every_road(server):
    other = Client(server.port)
    for road, c in roads(server):
        before = server.counters()['observers']
        features.observe(c)
        for i in range(8):
            other.request('GET', '/events/next')
            got = c.receive()
            assert got.token == b'obs1' and got.text == '2.05', (road, got)
            assert road in ('tcp', 'tls') or (got.kind == CON) == (i % 5 == 0), (road, i, got)
            if got.kind == CON:
                c.acknowledge(got)
        assert server.counters()['observers'] == before + 1, road
        got = c.request('GET', '/events', ('observe', 1), token=b'obs1')
        assert got.text == '2.05' and got.get('observe') is None, (road, got)
        assert server.counters()['observers'] == before, road
        c.close()


def test_a_notification_while_blocks_run(server):
    """An observer that is in the middle of a transfer hears of a change between two blocks."""
    other = Client(server.port)
    for road, c in roads(server):
        features.observe(c)
        got = c.request('GET', '/stream', ('block2', block(0, False, 6)))
        other.request('GET', '/events/next')
        told = c.receive()
        assert told.token == b'obs1', (road, told)
        if told.kind == CON:
            c.acknowledge(told)
        for n in range(1, 5):
            got = c.request('GET', '/stream', ('block2', block(n, False, 6)))
            assert got.block('block2') == (n, True, 6) and got.payload == b'x' * 1024, (road, got)
        for n in range(3):
            c.request('PUT', '/echo', ('block1', block(n, n < 2, 6)), payload=b'u' * 1024)
        c.request('GET', '/events', ('observe', 1), token=b'obs1')
        c.close()


def test_leaving_frees_everything(server):
    before = dict.fromkeys(('connections', 'observers', 'handshakes'), 0)
    for road, c in roads(server):
        if road != 'udp':
            features.observe(c)
            c.request('GET', '/stream', ('block2', block(0, False, 6)))
        c.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        now = server.counters()
        if all(now[n] == before[n] for n in before):
            break
        time.sleep(0.05)
    assert all(now[n] == before[n] for n in before), now


# --- streams -------------------------------------------------------------------------------------

def test_the_first_message_is_a_csm(server):
    c = Stream(server.port, greet=False)
    got = c.receive()
    assert got.code == CSM and got.kind == CON, got
    assert int.from_bytes(got.all_of(2)[0], 'big') == 32768 and got.all_of(4) == [b''], got
    c.send(c.make('GET', '/hello'))
    last = c.ended()
    assert [m.code for m in last] == [ABORT] and b'CSM' in last[0].payload, last


def test_ping_pong_release_abort(server):
    c = Stream(server.port)
    c.send(Message(CON, PING, 0, b'token'))
    got = c.receive()
    assert (got.code, got.token, got.options) == (PONG, b'token', []), got
    c.send(Message(CON, PING, 0, options=[(2, b'')]))
    assert c.receive().all_of(2) == [b'']  # Custody: all that came before has been answered
    m = c.send(c.make('GET', '/slow'))
    c.send(Message(CON, PING, 0, options=[(2, b'')]))
    assert c.receive().all_of(2) == []  # it has not
    c.send(Message(CON, PONG, 0))  # nobody asked
    c.send(Message(CON, 0, 0))  # empty: ignored
    c.send(Message(CON, 0x45, 0, m.token))  # an answer to nothing
    assert c.request('GET', '/hello').text == '2.05'
    for code in (RELEASE, ABORT):
        c = Stream(server.port)
        assert c.request('GET', '/hello').text == '2.05'
        c.send(Message(CON, code, 0))
        assert c.ended() == []


def test_unknown_signals_and_options(server):
    for message, bad in ((Message(CON, CSM, 0, options=[(9, b'x')]), 9), (Message(CON, PING, 0, options=[(11, b'')]), 11),
                         (Message(CON, 0xe6, 0), None), (Message(CON, 0xff, 0), None)):
        c = Stream(server.port)
        c.send(message)
        last = c.ended()
        assert last[-1].code == ABORT, (message, last)
        assert not bad or int.from_bytes(last[-1].all_of(2)[0], 'big') == bad, last
    c = Stream(server.port)
    c.send(Message(CON, CSM, 0, options=[(10, b'x'), (2, 2000)]))  # elective, and a CSM again
    assert c.request('GET', '/hello').text == '2.05'


def test_max_message_size(server):
    """What we send fits the peer; what it sends fits us, or is the end."""
    c = Stream(server.port, greet=False)
    c.receive()
    c.send(Message(CON, CSM, 0))  # without: 1152
    got = c.request('POST', '/echo', payload=b'y' * 5000)
    assert got.block('block2') == (0, True, 6) and len(got.encode_stream()) <= 1152, got
    c = Stream(server.port)
    got = c.request('POST', '/echo', payload=b'y' * 5000)
    assert got.block('block2') is None and got.payload.endswith(b'y' * 5000), got
    c.send(bytes([0xf0]) + struct.pack('!I', 1 << 20) + b'\x01')
    last = c.ended()
    assert [m.code for m in last] == [ABORT] and b'Max-Message-Size' in last[0].payload, last
    c = Stream(server.port)
    c.send(bytes([0xf0, 0xff, 0xff, 0xff, 0xff, 1]))
    assert c.ended()[-1].code == ABORT


def test_bert(server):
    """Large blocks (RFC 8323, 6) are taken; answers come in blocks of 1,024 bytes, which BERT allows."""
    c = Stream(server.port)
    body = os.urandom(3 * 4096 + 100)
    for n in range(4):
        part = body[n * 4096:(n + 1) * 4096]
        got = c.request('PUT', '/echo', ('block1', number(n * 4 << 4 | (8 if n < 3 else 0) | 7)), payload=part)
        assert got.text == ('2.31' if n < 3 else '2.04') and got.block('block1')[0] == n * 4, got
    got = c.request('GET', '/stream', ('block2', number(0 << 4 | 7)))
    assert got.block('block2') == (0, True, 6) and len(got.payload) == 1024, got
    bad = c.request('PUT', '/echo', ('block1', number(0 << 4 | 8 | 7)), payload=b'x' * 1000)
    assert bad.text == '4.00', bad


def test_messages_in_pieces_and_together(server):
    c = Stream(server.port)
    m = c.make('POST', '/echo', payload=b'p' * 300)
    for byte in m.encode_stream():
        c.socket.sendall(bytes([byte]))
    assert c.receive().payload.endswith(b'p' * 300)
    many = [c.make('GET', '/hello') for _ in range(16)]
    c.socket.sendall(b''.join(m.encode_stream() for m in many))
    assert {c.receive().token for _ in many} == {m.token for m in many}


def test_broken_streams(server):
    for bad in (b'\x0f\x01', b'\x09\x01' + b'x' * 9, b'\x10\x01\xdd', b'\x10\x01\xff', b'\x01\x00t'):
        c = Stream(server.port)
        c.send(bad + b'\0' * 8)
        last = c.ended()
        assert last and last[-1].code == ABORT, (bad, last)
    assert Stream(server.port).request('GET', '/hello').text == '2.05'


def test_a_client_that_does_not_read_is_not_read(server):
    """Beyond a bound nothing is taken from it, and nobody else notices."""
    c = Stream(server.port)
    m = c.make('POST', '/echo', payload=b'z' * 20000).encode_stream()
    c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.socket.settimeout(2)
    sent = 0
    try:
        while sent < 200 << 20:
            c.socket.sendall(m)
            sent += len(m)
    except TimeoutError:
        pass
    assert sent < 200 << 20
    other = Stream(server.port)
    for _ in range(20):
        assert other.request('GET', '/hello').text == '2.05'
    with open(f'/proc/{server.process.pid}/status') as f, open(f'/proc/{server.process.pid}/maps') as maps:
        memory = int(next(line for line in f if line.startswith('VmRSS')).split()[1])
        assert memory < 64 << 10 or 'asan' in maps.read(), memory  # KiB; a sanitizer keeps what is freed
    c.socket.settimeout(20)
    for _ in range(20):  # and goes on when it reads
        assert c.receive().text == '2.04'
    c.close()


def test_an_observer_that_does_not_read_gets_the_newest(server):
    c, other = Stream(server.port), Client(server.port)
    features.observe(c)
    for _ in range(50):
        other.request('GET', '/events/next')
    last = other.request('GET', '/events/next')
    assert last.text == '2.05'
    values = [c.receive() for _ in range(51)]
    numbers = [v.uint('observe') for v in values]
    assert numbers == sorted(numbers) and len(set(numbers)) == 51


def test_connections_are_bounded(server):
    small = features.Server(server.program, '[limits]', 'Connections = 16', 'ConnectionsReserved = 4',
                            'ConnectionsPerAddress = 64', 'Handshakes = 6', f'@node lamp {KEY}')
    try:
        mine = Dtls(small.secure)
        assert mine.request('GET', '/hello').text == '2.05'
        quiet = [socket.create_connection(('127.0.0.1', small.port)) for _ in range(40)]
        last = Stream(small.port)
        assert last.request('GET', '/hello').text == '2.05'
        counters = small.counters()
        assert counters['connections'] <= 16 and counters['handshakes'] <= 6, counters
        assert counters['connections_evicted_total'] >= 30, counters
        for s in quiet:
            s.close()
        one = features.Server(server.program, '[limits]', 'ConnectionsPerAddress = 3')
        held = [Stream(one.port) for _ in range(3)]
        refused = socket.create_connection(('127.0.0.1', one.port))
        refused.settimeout(20)
        assert refused.recv(100) == b''
        assert one.counters()['connections_refused_total'] == 1
        assert all(s.request('GET', '/hello').text == '2.05' for s in held)
        one.close()
        last.close(), mine.close()
    finally:
        small.close()


def test_silent_connections_end(server):
    """Whoever never finishes its handshake, or is idle."""
    hasty = features.Server(server.program, '[timeouts]', 'Handshake = 1s', 'Idle = 10s', f'@node lamp {KEY}')
    try:
        silent = [socket.create_connection(('127.0.0.1', port)) for port in (hasty.port, hasty.secure)]
        for s in silent:
            s.settimeout(20)
            while s.recv(100):
                pass
        assert hasty.counters()['handshakes_failed_total'] == 2
        idle = Stream(hasty.port, seconds=40)
        last = idle.ended()
        assert [m.code for m in last] == [RELEASE], last
    finally:
        hasty.close()


# --- TLS and DTLS --------------------------------------------------------------------------------

def test_tls_versions_and_names(server):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        s = over_tls(server.secure, minimum_version=version, maximum_version=version, set_alpn_protocols=['coap'])
        assert s.selected_alpn_protocol() == 'coap'
        assert Stream(0, wrapped=s).request('GET', '/hello').text == '2.05'
    try:
        over_tls(server.secure, set_alpn_protocols=['h2'])
        raise AssertionError('another protocol was taken')
    except ssl.SSLError:
        pass
    try:
        over_tls(server.secure, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1,
                 set_ciphers='ALL:@SECLEVEL=0')
        raise AssertionError('an old version was taken')
    except ssl.SSLError:
        pass


def test_ciphers_of_constrained_nodes(server):
    for suite in ('PSK-AES128-CCM8', 'PSK-AES128-GCM-SHA256', 'ECDHE-PSK-CHACHA20-POLY1305'):
        c = Dtls(server.secure, ciphers=suite)
        assert c.cipher == suite and c.request('GET', '/hello').text == '2.05'
        c.close()
    c = Dtls(server.secure, key='', ciphers='ECDHE-ECDSA-AES128-CCM8')  # without a key: nobody, but encrypted
    assert c.request('GET', '/hello').text == '2.05'
    c.close()
    for suite in ('PSK-AES128-CBC-SHA', 'ECDHE-ECDSA-AES128-SHA'):
        try:
            Dtls(server.secure, key=KEY if suite.startswith('PSK') else '', ciphers=suite + ':@SECLEVEL=0')
            raise AssertionError(suite)
        except ConnectionRefusedError:
            pass


def test_messages_over_dtls(server):
    c = Dtls(server.secure)
    c.send(Message(CON, 0, 77))
    got = c.receive()
    assert (got.kind, got.mid) == (RST, 77), got
    c.send(Message(CON, 0x45, 78, b'x'))  # an answer to nothing
    got = c.receive()
    assert (got.kind, got.mid) == (RST, 78), got
    for bad in (b'\x40', b'\x40\x01', b'\xff\xff\xff\xff', b'\x40\x01\x00\x03\xdd'):
        c.send(bad)
    got = c.receive()
    assert (got.kind, got.mid) == (RST, 3), got
    m = c.make('POST', '/echo', payload=b'once')
    before = server.counters()['requests_total']
    answers = set()
    for _ in range(3):
        c.send(m)
        answers.add(c.receive().encode())
    assert len(answers) == 1 and server.counters()['requests_total'] == before + 1
    m = c.send(c.make('GET', '/slow'))
    got = c.receive()
    assert (got.kind, got.code, got.mid, got.token) == (ACK, 0, m.mid, b''), got
    n = c.make('GET', '/hello', (9, b'x'), kind=NON)
    c.send(n)
    assert c.nothing()  # of an option that is not understood nobody is told who does not wait
    c.close()


def test_repetition_over_dtls(server):
    """A confirmable notification comes again until it is acknowledged, and the next one waits."""
    c, other = Dtls(server.secure), Client(server.port)
    features.observe(c)
    features.observe(c, token=b'obs2')
    other.request('GET', '/events/next')
    first = c.receive()
    assert first.kind == CON
    again = c.receive()  # two to three seconds later; the other one has not been sent meanwhile
    assert again.encode() == first.encode(), (first, again)
    c.acknowledge(first)
    second = c.receive()
    assert second.kind == CON and {first.token, second.token} == {b'obs1', b'obs2'}, second
    c.acknowledge(second, RST)
    c.request('GET', '/hello')  # the reset has been read by now
    assert server.counters()['observers'] == 1
    c.request('GET', '/events', ('observe', 1), token=first.token)
    c.close()


def test_nodes_that_are_taken_away(server):
    mine = features.Server(server.program, f'@node lamp {KEY}', *PAIR)
    try:
        c, stranger, plain = Dtls(mine.secure), Dtls(mine.secure, key=''), Stream(mine.port)
        features.observe(c)
        for other in (stranger, plain):
            assert other.request('GET', '/hello').text == '2.05'
        mine.forget_nodes()
        counters = mine.counters()
        assert counters['connections'] == 2 and counters['observers'] == 0, counters
        for other in (stranger, plain):
            assert other.request('GET', '/hello').text == '2.05'
        try:
            Dtls(mine.secure, seconds=10)
            raise AssertionError('a key that is gone')
        except (ConnectionRefusedError, TimeoutError):
            pass
        c.close(), stranger.close(), plain.close()
    finally:
        mine.close()


def hello(cookie=b'', sequence=0):
    """A ClientHello of DTLS 1.2, by hand."""
    body = b'\xfe\xfd' + b'r' * 32 + b'\0' + bytes([len(cookie)]) + cookie + b'\0\2\xc0\xa8' + b'\1\0'
    message = b'\1' + len(body).to_bytes(3, 'big') + sequence.to_bytes(2, 'big') + b'\0\0\0' + len(body).to_bytes(3, 'big')
    record = message + body
    return b'\x16\xfe\xfd\0\0' + sequence.to_bytes(6, 'big') + len(record).to_bytes(2, 'big') + record


def test_hello_is_answered_without_keeping_anything(server):
    """A cookie first; and what is sent to whoever may not be there is no more than what came."""
    before = server.counters()
    for _ in range(2000):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(('127.0.0.1', server.secure))
            s.send(hello())
            s.settimeout(20)
            answer = s.recv(2048)
            assert answer[13] == 3 and len(answer) <= len(hello()), answer  # HelloVerifyRequest
    now = server.counters()
    assert now['connections'] == before['connections'] and now['sessions'] == before['sessions'], now
    cookie = answer[28:28 + answer[27]]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(('127.0.0.1', server.secure))
        s.settimeout(20)
        s.send(hello(cookie, 1))  # somebody else's
        assert s.recv(2048)[13] == 3
        assert server.counters()['connections'] == before['connections']


def test_strange_datagrams_over_dtls(server):
    c = Dtls(server.secure)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(('127.0.0.1', server.secure))
        good = hello()
        for bad in (b'\x16', b'\x17' * 30, b'\x40\x01\x00\x01', good[:20], good[:-1], good[:13] + b'\1\xff\xff\xff' + good[17:],
                    os.urandom(1200), b'\x16\xfe\xfd\0\0' + b'\0' * 6 + b'\xff\xff' + b'\1' * 40):
            s.send(bad)
        for i in range(len(good)):
            s.send(good[:i] + bytes([good[i] ^ 0x55]) + good[i + 1:])
    assert c.request('GET', '/hello').text == '2.05'
    c.close()


def test_a_client_that_begins_anew_from_the_same_port(server):
    """It has lost its state, and must get in again (RFC 6347, 4.2.8)."""
    mine = features.Server(server.program, f'@node lamp {KEY}', *PAIR)
    first = Dtls(mine.secure)
    assert first.request('GET', '/hello').text == '2.05'
    shown = subprocess.run(['ss', '-Hunp'], capture_output=True, text=True).stdout
    port = next(int(line.split()[2].rsplit(':', 1)[1]) for line in shown.splitlines() if f'pid={first.process.pid},' in line)
    first.process.kill()
    first.process.wait()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', port))
        s.connect(('127.0.0.1', mine.secure))
        s.settimeout(20)
        s.send(hello())
        answer = s.recv(2048)
        now = mine.counters()  # the old one is there until the cookie comes
        assert (now['connections'], now['connections_total'], now['handshakes']) == (1, 1, 0), now
        s.send(hello(answer[28:28 + answer[27]], 1))
        assert s.recv(2048)[13] == 2, answer  # ServerHello
        now = mine.counters()
        assert (now['connections'], now['connections_total'], now['handshakes']) == (1, 2, 1), now
    mine.close()


# --- the clock -----------------------------------------------------------------------------------

def test_a_clock_that_jumps_does_no_harm(server):
    """Twenty years on, and back: nothing ends, nothing comes early, nothing stays away."""
    with tempfile.TemporaryDirectory() as folder:
        shift = f'{folder}/shift'

        def jump(seconds):
            with open(shift + '.new', 'w') as f:
                f.write(str(seconds))
            os.rename(shift + '.new', shift)
        jump(0)
        mine = features.Server(server.program, f'@node lamp {KEY}', *PAIR, LD_PRELOAD=CLOCK, CLOCK_SHIFT=shift,
                               ASAN_OPTIONS=os.environ.get('ASAN_OPTIONS', '') + ':verify_asan_link_order=0:detect_leaks=0')
        other = Client(mine.port)
        all_roads = list(roads(mine))
        for road, c in all_roads:
            features.observe(c)
        unsure = Client(mine.port, seconds=60)  # a message to it is on its way, unacknowledged, while the clock jumps
        features.observe(unsure)
        other.request('GET', '/events/next')
        pending = unsure.receive()
        assert pending.kind == CON
        for road, c in all_roads:
            told = c.receive()
            if told.kind == CON:
                c.acknowledge(told)
        sessions = mine.counters()['sessions']
        last = time.monotonic()
        for step, seconds in enumerate((20 * 365 * 86400, -20 * 365 * 86400, 3600)):
            jump(seconds)
            total = mine.counters()['sessions_total']
            assert other.request('GET', '/hello').text == '2.05'  # the library looks at its clock now
            assert mine.counters()['sessions_total'] == total  # nobody was forgotten
            again = unsure.receive()  # 2 to 3 s, then twice as long each time
            now = time.monotonic()
            assert again.encode() == pending.encode() and now - last > 1.5 * 2 ** step, (step, now - last)
            last = now
            other.request('GET', '/events/next')
            for road, c in all_roads:
                told = c.receive()
                assert told.token == b'obs1', (road, told)
                if told.kind == CON:
                    c.acknowledge(told)
            counters = mine.counters()
            assert counters['sessions'] >= sessions and counters['connections'] >= 3, counters
            late = Dtls(mine.secure)  # whoever comes now gets in
            assert late.request('GET', '/hello').text == '2.05'
            late.close()
        unsure.acknowledge(pending)
        for road, c in all_roads:
            c.close()
        mine.close()


def make_pair(folder):
    """A key pair for the server, as a line for it."""
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                    '-subj', '/CN=device', '-keyout', f'{folder}/key', '-out', f'{folder}/cert', '-days', '30'],
                   check=True, capture_output=True)
    return f'@pair {folder}/cert {folder}/key'


def main():
    global PROGRAM, PAIR, CLOCK
    parser = argparse.ArgumentParser()
    parser.add_argument('--serve', required=True)
    parser.add_argument('--dtls', required=True)
    parser.add_argument('--clock', required=True)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_args()
    PROGRAM, CLOCK = arguments.dtls, arguments.clock
    with tempfile.TemporaryDirectory() as folder:
        PAIR = (make_pair(folder),)
        server = features.Server(arguments.serve, f'@node lamp {KEY}', *PAIR)
        return features.run(features.tests_of(globals()), arguments.names, server)


if __name__ == '__main__':
    sys.exit(main())
