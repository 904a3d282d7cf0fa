#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The server's translation, message by message: features.py --serve PROGRAM [NAME…]."""
import argparse
import os
import resource
import select
import socket
import subprocess
import sys
import time
import traceback

from coap import ACK, CON, NON, RST, Client, Message, block, number


class Server:
    def __init__(self, program, *lines, **environment):
        self.program, self.port, self.secure = program, self.free_port(), self.free_port()
        self.process = subprocess.Popen([program, f'127.0.0.1:{self.port}', f'127.0.0.1:{self.secure}', *lines], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1,
                                        env={**os.environ, **environment})
        assert self.process.stdout.readline() == 'ready\n'

    @staticmethod
    def free_port():
        """Of both kinds."""
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket() as t:
                s.bind(('127.0.0.1', 0))
                try:
                    t.bind(s.getsockname())
                except OSError:
                    continue
                return s.getsockname()[1]

    def counters(self):
        self.process.stdin.write('s')
        self.process.stdin.flush()
        found = {}
        for line in iter(self.process.stdout.readline, 'end\n'):
            name, value = line.split()
            found[name] = int(value)
        return found

    def forget_nodes(self):
        self.process.stdin.write('n')
        self.process.stdin.flush()
        assert self.process.stdout.readline() == 'end\n'

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0, 'the server ended badly'


def test_get(server):
    c = Client(server.port)
    m = c.send(c.make('GET', '/hello'))
    got = c.receive()
    assert (got.kind, got.mid, got.token, got.text) == (ACK, m.mid, m.token, '2.05'), got
    assert got.payload == b'hello world\n' and got.uint('format') == 0, got


def test_non_confirmable(server):
    c = Client(server.port)
    m = c.send(c.make('GET', '/hello', kind=NON))
    got = c.receive()
    assert (got.kind, got.token, got.text) == (NON, m.token, '2.05'), got


def test_tokens(server):
    c = Client(server.port)
    for token in (b'', b'1', b'12345678'):
        assert c.request('GET', '/hello', token=token).token == token


def test_methods(server):
    c = Client(server.port)
    codes = {'GET': '2.05', 'POST': '2.04', 'PUT': '2.04', 'DELETE': '2.02', 'FETCH': '2.05', 'PATCH': '2.04',
             'iPATCH': '2.04'}
    for method, code in codes.items():
        got = c.request(method, '/echo')
        assert got.text == code, got
        assert got.payload.startswith(b'PATCH' if 'PATCH' in method else method.encode()), got
    assert c.request(8, '/echo').text == '4.04'  # the library says so, where RFC 7252 (5.8) has 4.05


def test_request_as_the_responder_sees_it(server):
    c = Client(server.port)
    got = c.request('POST', '/echo/a b/ü?x=1&y=a%b', ('accept', 0), ('format', 50), ('if-none-match', b''),
                    payload=b'{}')
    lines = got.payload.decode().split('\n')
    assert lines[0] == 'POST /echo/a b/ü ?x=1&y=a%25b', got
    assert 'accept: text/plain' in lines and 'content-type: application/json' in lines, got
    assert 'if-none-match: *' in lines and 'host: 127.0.0.1' in lines and lines[-1] == '{}', got
    got = c.request('GET', '/echo', ('etag', b'abc'), ('etag', b'de'), ('host', 'node.example'))
    assert 'if-none-match: "abc", "de"' in got.payload.decode() and 'host: node.example' in got.payload.decode()
    got = c.request('PUT', '/echo', ('if-match', b'abc'))
    assert 'if-match: "abc"' in got.payload.decode(), got
    assert c.request('PUT', '/echo', ('if-match', b'\0\1')).text == '4.12'


def test_bad_requests(server):
    c = Client(server.port)
    for options, code in (
            ([('path', '..')], '4.00'), ([('path', '.')], '4.00'), ([('path', 'a/b')], '4.00'),
            ([('path', b'\xff')], '4.00'), ([('path', b'a\0')], '4.00'), ([('path', b'\xed\xa0\x80')], '4.00'),
            ([('query', b'\xc0\xaf')], '4.00'), ([('host', 'a b')], '4.00'),
            ([('path', 'x' * 210)] * 5, '4.00'),
            ([('accept', 9999)], '4.06'), ([('format', 9999)], '4.15'),
            ([(9, b'')], '4.02'), ([('accept', 0), ('accept', 0)], '4.02'), ([('block2', block(0, False, 7))], '4.00'),
            ([('proxy-uri', 'coap://elsewhere/')], '5.05')):
        got = c.request('GET', '/', *options)
        assert got.text == code, (options, got)
    assert c.request('GET', '/nowhere').text == '4.04'


def test_elective_options_do_no_harm(server):
    c = Client(server.port)
    for options in ([(10, b'x')], [(65000, b'x' * 300)], [('size1', 1), ('size1', 2)], [('observe', 7)]):
        assert c.request('GET', '/hello', *options).text == '2.05', options


def test_duplicates_act_once(server):
    c = Client(server.port)
    before = server.counters()['requests_total']
    m = c.make('POST', '/echo', payload=b'once')
    answers = []
    for _ in range(3):
        c.send(m)
        answers.append(c.receive().encode())
    assert len(set(answers)) == 1
    n = c.make('POST', '/echo', kind=NON, payload=b'once')
    c.send(n), c.send(n)
    assert c.receive().text == '2.04' and c.nothing()
    assert server.counters()['requests_total'] == before + 2
    other = Client(server.port)  # the same id from somebody else is another message
    m.payload = b'other'
    assert b'other' in other.exchange(m).payload


def test_separate_response(server):
    c = Client(server.port)
    m = c.send(c.make('GET', '/slow'))
    got = c.receive()
    assert (got.kind, got.code, got.mid, got.token, got.options) == (ACK, 0, m.mid, b'', []), got
    c.send(m)
    got = c.receive()
    assert (got.kind, got.code, got.mid) == (ACK, 0, m.mid), got


def test_ping_and_strange_messages(server):
    c = Client(server.port)
    c.send(Message(CON, 0, 77))
    got = c.receive()
    assert (got.kind, got.mid) == (RST, 77), got
    for bad in (b'', b'\x40', b'\x40\x01', b'\xff\xff\xff\xff', b'\x00' * 8, b'\x4f\x01\x00\x01', b'\x40\x01\x00\x02\xff',
                b'\x40\x01\x00\x03\xdd', b'\x60\x45\x00\x04', b'\x70\x00\x00\x05', b'\x40\xe1\x00\x06', b'\x40\x00\x00\x07x',
                b'\x44\x01\x00\x08ab'):
        c.send(bad)
    good = Client(server.port)
    assert good.request('GET', '/hello').text == '2.05'


def test_options_of_a_wrong_length(server):
    """The library takes them for a broken message, whatever RFC 7252 (5.4.3) says of them."""
    c = Client(server.port)
    for option in (('accept', b'123'), ('if-none-match', b'x'), ('size1', b'12345'), ('format', b'123')):
        m = c.send(c.make('GET', '/hello', option))
        got = c.receive()
        assert (got.kind, got.mid) == (RST, m.mid), got


def test_no_response(server):
    c = Client(server.port)
    m = c.send(c.make('GET', '/hello', ('no-response', 2)))
    got = c.receive()
    assert (got.kind, got.code, got.mid) == (ACK, 0, m.mid), got
    c.send(c.make('GET', '/hello', ('no-response', 2), kind=NON))
    assert c.nothing()
    assert c.request('GET', '/nowhere', ('no-response', 2)).text == '4.04'


def test_blocks_down(server):
    c = Client(server.port)
    first, body = c.fetch_all('GET', '/stream')
    assert body == b'x' * (1 << 20) and first.get('etag'), first
    first, body = c.fetch_all('POST', '/echo', szx=0, payload=b'0123456789' * 20)
    assert body.endswith(b'0123456789' * 20) and first.uint('size2') == len(body), first
    got = c.request('GET', '/hello', ('block2', block(0, False, 0)))
    assert got.block('block2') == (0, False, 0) and got.payload == b'hello world\n', got


def test_a_large_answer_comes_in_blocks_unasked(server):
    c = Client(server.port)
    got = c.request('POST', '/echo', payload=b'y' * 1000)
    assert got.block('block2') == (0, True, 6) and len(got.payload) == 1024, got


def test_block_from_the_middle_and_behind_the_end(server):
    c = Client(server.port)
    got = c.request('GET', '/stream', ('block2', block(1000, False, 6)))
    assert got.block('block2') == (1000, True, 6) and got.payload == b'x' * 1024, got
    got = c.request('GET', '/stream', ('block2', block(1023, False, 6)))
    assert got.block('block2') == (1023, False, 6), got
    assert c.request('GET', '/stream', ('block2', block(1024, False, 6))).text == '4.00'
    assert c.request('POST', '/echo', ('block2', block(3, False, 6))).text == '4.08'


def test_blocks_up(server):
    c = Client(server.port)
    body = bytes(i * 7 & 0xff for i in range(5000))
    got = c.upload('PUT', '/echo', body)
    assert got.text == '2.04' and got.block('block1') == (4, False, 6), got
    assert got.block('block2') == (0, True, 6), got
    got = c.upload('POST', '/echo', b'0123456789abcdef' * 3, szx=0)
    assert got.payload.endswith(b'0123456789abcdef' * 3), got


def test_bad_uploads(server):
    c = Client(server.port)
    up = lambda n, more, size, *o: c.request('PUT', '/echo', ('block1', block(n, more, 2)), *o, payload=b'z' * size)
    assert up(1, True, 64).text == '4.08'
    assert up(0, True, 63).text == '4.00'
    assert up(0, True, 64).text == '2.31'
    assert up(2, True, 64).text == '4.08'
    assert up(1, False, 64).text == '4.08'
    got = up(0, True, 64, ('size1', 1 << 30))
    assert got.text == '4.13' and got.uint('size1') == 1 << 20, got


def test_two_at_a_time(server):
    """Two transfers of one client, told apart by Request-Tag."""
    c = Client(server.port)
    for tag, n in ((b'a', 0), (b'b', 0), (b'a', 1), (b'b', 1)):
        got = c.request('PUT', '/echo', ('block1', block(n, n == 0, 0)), ('request-tag', tag), payload=tag * 16)
        assert got.text == ('2.31' if n == 0 else '2.04'), got
        assert n == 0 or got.payload.endswith(tag * 32), got


def test_entity_tags(server):
    c = Client(server.port)
    first, _ = c.fetch_all('GET', '/stream')
    got = c.request('GET', '/hello', ('block2', block(0, False, 6)))
    tag = got.get('etag')
    got = c.request('GET', '/hello', ('block2', block(0, False, 6)), ('etag', tag))
    assert tag and got.text in ('2.03', '2.05'), got


def test_cbor_for_a_responder_that_speaks_json(server):
    c = Client(server.port)
    got = c.request('GET', '/json', ('accept', 60))
    assert got.uint('format') == 60 and got.payload == bytes.fromhex('a2616e2063676f74f6'), got
    got = c.request('GET', '/json', ('accept', 50))
    assert got.uint('format') == 50 and got.payload == b'{"n":-1,"got":null}', got
    got = c.request('POST', '/json', ('format', 60), payload=bytes.fromhex('820142abcd'))
    assert got.uint('format') == 50 and got.payload == b'{"n":-1,"got":[1,"q80"]}', got
    numbers = bytes.fromhex('9840') + b'\x01' * 64
    got = c.upload('PUT', '/json', numbers, ('format', 60), ('accept', 60), szx=0)
    assert got.text == '2.04' and got.payload.endswith(numbers), got
    assert c.request('POST', '/json', ('format', 60), payload=b'\xff').text == '4.00'
    assert c.request('GET', '/json', ('accept', 41)).text == '4.06'
    assert c.request('GET', '/hello', ('accept', 60)).text == '4.06'
    assert c.request('GET', '/stream', ('accept', 60)).text in ('4.06', '5.02')
    first, body = c.fetch_all('GET', '/json', ('accept', 60), szx=0)
    assert body == bytes.fromhex('a2616e2063676f74f6'), body


def test_links(server):
    c = Client(server.port)
    got = c.request('GET', '/.well-known/core')
    one, two = b'</hello>;obs', b'</json>;title="says \\"you\\"";rt="x.y z";if="s";ct="50";obs'
    directory = b',</rd>;rt="core.rd";ct=40,</rd-lookup/res>;rt="core.rd-lookup-res";ct=40,' \
                b'</rd-lookup/ep>;rt="core.rd-lookup-ep";ct=40'
    assert got.text == '2.05' and got.uint('format') == 40 and got.payload == one + b',' + two + directory, got
    for query, found in (('href=/hello', one), ('href=/h*', one), ('title=says*', two), ('title=says "you"', two),
                         ('href=*', one + b',' + two + directory), ('rt=x', b''), ('rt=z', two), ('rt=x*', two), ('rt=x.y z', two), ('if=s', two), ('if=s&rt=q', b''),
                         ('ct=50', two), ('href=/hell', b'')):
        got = c.request('GET', f'/.well-known/core?{query}')
        assert got.text == '2.05' and got.payload == found, (query, got)
    assert c.request('GET', '/.well-known/core?href=%zz').text == '2.05', 'as the client encodes it, it is text'
    assert c.fetch_all('GET', '/.well-known/core', szx=0)[1] == one + b',' + two + directory
    assert c.request('POST', '/.well-known/core').text == '4.05'


def size(message):
    return len(message.encode())


def test_nobody_is_flooded_in_anothers_name(server):
    """An unverified client gets about three times what it sends, until it has shown the Echo option."""
    careful = Server(server.program, '[abuse]', 'Verify = always')
    try:
        c = Client(careful.port)
        m = c.make('POST', '/echo')
        got = c.exchange(m)
        assert got.block('block2') and got.block('block2')[1] and got.get('echo'), got
        assert size(got) <= 3 * size(m) + 24, (size(m), size(got))
        first, body = c.fetch_all('GET', '/echo/long/' + 'x' * 100)
        assert b'x' * 100 in body, body
        wrong = bytearray(got.get('echo'))
        wrong[-1] ^= 1
        assert c.request('GET', '/stream', ('echo', bytes(wrong))).block('block2')[2] < 6
        other = Client(careful.port)  # an option of somebody else's
        assert other.request('GET', '/stream', ('echo', got.get('echo'))).block('block2')[2] < 6
        got = c.request('GET', '/stream', ('echo', got.get('echo')))
        assert got.block('block2') == (0, True, 6) and got.get('echo') is None, got
        assert c.request('POST', '/echo').block('block2') is None
    finally:
        careful.close()


def test_those_who_may_not_be_there_give_way(server):
    """Answers that wait for their next block do not keep others out."""
    careful = Server(server.program, '[abuse]', 'Verify = always', '[limits]', 'Requests = 64', 'Sessions = 16')
    try:
        honest = Client(careful.port)
        echo = honest.request('GET', '/stream').get('echo')
        assert honest.request('GET', '/stream', ('echo', echo)).block('block2') == (0, True, 6)
        for _ in range(100):
            c = Client(careful.port)
            assert c.request('GET', '/stream').block('block2')[1]
            c.close()
        assert careful.counters()['requests_evicted_total'] >= 80, careful.counters()
        got = honest.request('GET', '/stream', ('block2', block(1, False, 6)))
        assert got.block('block2') == (1, True, 6), got  # its own transfer is where it was
        waiting = []
        for _ in range(4):  # at a responder, before the next has to show that it is there
            c = Client(careful.port)
            c.send(c.make('GET', '/slow'))
            assert c.receive().code == 0
            waiting.append(c)
        c = Client(careful.port)
        got = c.request('GET', '/hello')
        assert got.text == '4.01' and size(got) <= 32, got
        assert c.request('GET', '/hello', ('echo', got.get('echo'))).text == '2.05'
    finally:
        careful.close()
    careful = Server(server.program, '[abuse]', 'Verify = always', '[limits]', 'Observers = 16')
    try:
        given = [Client(careful.port).request('GET', '/events', ('observe', 0)).get('observe') is not None
                 for _ in range(12)]
        assert given == [True] * 8 + [False] * 4, given
    finally:
        careful.close()


def test_an_acknowledged_notification_verifies(server):
    careful = Server(server.program, '[abuse]', 'Verify = always')
    try:
        c, other = Client(careful.port), Client(careful.port)
        observe(c)
        other.request('GET', '/events/next')
        got = c.receive()
        assert got.kind == CON and size(got) <= 80, got
        other.request('GET', '/events/next')
        assert c.nothing(1)  # until it is acknowledged
        c.acknowledge(got)
        assert c.receive().token == b'obs1'
        assert c.request('GET', '/stream').block('block2') == (0, True, 6)
    finally:
        careful.close()


def observe(c, path='/events', *options, token=b'obs1'):
    got = c.request('GET', path, ('observe', 0), *options, token=token)
    assert got.get('observe') is not None, got
    return got


def test_observe(server):
    c, other = Client(server.port), Client(server.port)
    got = observe(c)
    assert got.text == '2.05' and got.get('observe') is not None, got
    last, kinds = got.uint('observe'), []
    for i in range(6):
        assert other.request('GET', '/events/next').text == '2.05'
        got = c.receive()
        kinds.append(got.kind)
        assert got.token == b'obs1' and got.text == '2.05' and got.payload.startswith(b'value v'), got
        assert got.uint('observe') > last, got
        last = got.uint('observe')
        if got.kind == CON:
            c.acknowledge(got)
    assert kinds == [CON, NON, NON, NON, NON, CON], kinds
    assert server.counters()['observers'] == 1
    got = c.request('GET', '/events', ('observe', 1), token=b'obs1')
    assert got.text == '2.05' and got.get('observe') is None, got
    other.request('GET', '/events/next')
    assert c.nothing() and server.counters()['observers'] == 0


def test_observe_ends_with_a_reset(server):
    for resets in (1, 2):  # of the confirmable one, of the one that is not
        c, other = Client(server.port), Client(server.port)
        observe(c)
        for n in range(resets):
            other.request('GET', '/events/next')
            got = c.receive()
            assert got.kind == (CON, NON)[n], got
            c.acknowledge(got, RST if n + 1 == resets else ACK)
        c.request('GET', '/hello')  # the reset has been read by now
        assert server.counters()['observers'] == 0, resets


def test_one_observation_for_a_token(server):
    c = Client(server.port)
    observe(c), observe(c), observe(c)
    assert server.counters()['observers'] == 1
    observe(c, token=b'obs2')
    assert server.counters()['observers'] == 2
    for token in (b'obs1', b'obs2'):
        c.request('GET', '/events', ('observe', 1), token=token)


def test_observers_are_bounded(server):
    c = Client(server.port)
    given = [c.request('GET', '/events', ('observe', 0), token=bytes([i])).get('observe') is not None
             for i in range(20)]
    assert given == [True] * 16 + [False] * 4, given
    for i in range(16):
        c.request('GET', '/events', ('observe', 1), token=bytes([i]))
    assert server.counters()['observers'] == 0


def test_many_observers(server):
    """Their acknowledgements arrive: nobody misses a value, or has to be told twice."""
    other, waiting = Client(server.port), select.epoll()
    observers = {c.socket.fileno(): c for c in (Client(server.port) for _ in range(1000))}
    try:
        for fd, c in observers.items():
            observe(c)
            waiting.register(fd, select.EPOLLIN)
        assert server.counters()['observers'] == len(observers)
        seen, again = {fd: set() for fd in observers}, 0
        for n in range(1, 9):
            other.request('GET', '/events/next')
            left = set(observers)
            while left:
                ready = waiting.poll(20)
                assert ready, f'{len(left)} of {len(observers)} were not told of value {n}'
                for fd, _ in ready:
                    got = observers[fd].receive()
                    if got.kind == CON:
                        observers[fd].acknowledge(got)
                    again += got.payload in seen[fd]
                    seen[fd].add(got.payload)
                    if len(seen[fd]) == n:
                        left.discard(fd)
        assert again < len(observers) / 10, again  # some, when this machine is very busy
    finally:
        for c in observers.values():
            c.request('GET', '/events', ('observe', 1), token=b'obs1')
            c.close()
    assert server.counters()['observers'] == 0


def test_those_who_never_acknowledge_are_given_up(server):
    """Each is told once more, however many they are, and then no observer any longer. Nothing else happens meanwhile that
    could wake the server."""
    careful = Server(server.program, '[abuse]', 'Verify = always')
    silent, waiting = {c.socket.fileno(): c for c in (Client(careful.port) for _ in range(400))}, select.epoll()
    try:
        for fd, c in silent.items():
            observe(c)
            waiting.register(fd, select.EPOLLIN)
        assert Client(careful.port).request('GET', '/events/next').code
        told = []
        while len(told) < 2 * len(silent):
            ready = waiting.poll(20)
            assert ready, f'{len(told)} messages of {2 * len(silent)} have come'
            for fd, _ in ready:
                told.append((fd, silent[fd].receive().mid))
        assert all(told.count(one) == 2 for one in set(told))
        deadline = time.monotonic() + 60
        while careful.counters()['observers'] and time.monotonic() < deadline:
            time.sleep(1)
        assert careful.counters()['observers_lost_total'] == len(silent), careful.counters()
    finally:
        for c in silent.values():
            c.close()
        careful.close()


def test_the_newest_value_while_one_is_not_acknowledged(server):
    c, other = Client(server.port), Client(server.port)
    observe(c)
    other.request('GET', '/events/next')
    first = c.receive()
    assert first.kind == CON
    for _ in range(5):
        other.request('GET', '/events/next')
    assert c.nothing()
    c.acknowledge(first)
    got = c.receive()
    counted = int(got.payload.split()[1][1:])
    assert counted == int(first.payload.split()[1][1:]) + 5, (first, got)
    c.request('GET', '/events', ('observe', 1), token=b'obs1')


def test_observe_in_blocks(server):
    c, other = Client(server.port), Client(server.port)
    got = observe(c, '/events', ('block2', block(0, False, 0)))
    assert got.block('block2') == (0, False, 0) or got.block('block2') == (0, True, 0), got
    other.request('GET', '/events/next')
    got = c.receive()
    assert got.block('block2') == (0, True, 0) and len(got.payload) == 16 and got.get('etag'), got
    c.acknowledge(got)
    body, tag, n = got.payload, got.get('etag'), 1
    while got.block('block2')[1]:
        got = c.request('GET', '/events', ('block2', block(n, False, 0)))
        assert got.get('etag') == tag and got.get('observe') is None, got
        body, n = body + got.payload, n + 1
    assert body.endswith(b'\nsecond line'), body
    c.request('GET', '/events', ('observe', 1), token=b'obs1')


def test_nothing_is_left(server):
    """After all of the above, what is held is what lingers for a minute at most."""
    counters = server.counters()
    assert counters['observers'] == 0
    assert counters['held_bytes'] < 4 << 20 and counters['record_bytes'] < 1 << 20, counters


def run(tests, names, server):
    """Each of them, or those that are named; what failed, for sys.exit()."""
    failed = []
    for name in names or tests:
        try:
            tests[name](server)
            print(f'ok {name}', flush=True)
        except Exception:
            traceback.print_exc()
            print(f'FAILED {name}', flush=True)
            failed.append(name)
    server.close()
    return f'failed: {" ".join(failed)}' if failed else 0


def tests_of(module):
    return {n[5:]: f for n, f in module.items() if n.startswith('test_')}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--serve', required=True)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, limits[1]), limits[1]))
    return run(tests_of(globals()), arguments.names, Server(arguments.serve))


if __name__ == '__main__':
    sys.exit(main())
