#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The resource directory, and nodes that answer through the server: nodes.py --serve PROGRAM --dtls PROGRAM [NAME…].
The tests are the node, byte by byte; the registrar and the server that asks are those of tests/conformance."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import traceback

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / 'conformance'))

import channel
import roads
from coap import ACK, CON, NON, RST, Client, Message, Stream, block, number
from features import Server

LINKS = '</light>;rt="light lamp";if=core.a;ct="0 50",</big>;title="say \\"hi\\"";sz=5000'
LINK_FORMAT = ('format', 40)
METHODS = {1: 'GET', 2: 'POST', 3: 'PUT', 4: 'DELETE', 5: 'FETCH', 6: 'PATCH'}


class World:
    """A registrar and one server that is told of the nodes."""

    def __init__(self, program, *lines):
        self.folder = tempfile.TemporaryDirectory()
        self.registrar_listener = channel.Listener(os.path.join(self.folder.name, 'registrar.sock'))
        self.server_listener = channel.Listener(os.path.join(self.folder.name, 'server.sock'))
        os.environ['HYBRIDOS_REGISTRAR'] = self.registrar_listener.path
        os.environ['FAKE_LISTING'] = '/nodes/lamp /nodes/simple'
        self.coap = Server(program, '[nodes]', 'Loopback = yes', 'Timeout = 2s', *lines)
        self.port = self.coap.port
        self.registrar = self.server = None

    def accept(self, name):
        """The server's app registers /nodes/NAME, and the asking server knows of it."""
        if not self.registrar:
            self.registrar = channel.Peer(self.registrar_listener.accept())
            self.registrar.hello('registrar')
            self.registrar.send(channel.SERVER, payload=channel.fields(
                (':name', 'h-fake'), (':socket', self.server_listener.path)))
        f = self.registrar.expect(channel.REGISTER)
        said = dict(f.fields())
        assert said[':namespace'] == f'/nodes/{name}', said
        self.registrar.send(channel.REGISTERED, stream=f.stream, payload=channel.fields(
            (':key', os.urandom(8).hex()), (':namespace', said[':namespace'])))
        if not self.server:
            self.server = channel.ServerPeer(self.server_listener.accept(), f'/nodes/{name}')
            self.server.hello('server')
        self.server.namespace = f'/nodes/{name}'
        self.server.attach(f'/nodes/{name}')
        return said

    def close(self):
        self.coap.close()
        for thing in (self.registrar, self.server, self.registrar_listener, self.server_listener):
            if thing:
                thing.close()
        self.folder.cleanup()


class Provider:
    """One road to the server, on which it registers and answers."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.waiting = []

    def exchange(self, message):
        self.send(message)
        while True:
            got = self.receive()
            if 0 < got.code < 32:
                self.waiting.append(got)
            elif got.code and got.token == message.token:
                return got

    def register(self, name, links=LINKS, more=''):
        got = self.request('POST', f'/rd?ep={name}{more}', LINK_FORMAT, payload=links.encode())
        if got.text == '2.01':
            path = [p.decode() for p in got.all('location-path')]
            assert path[0] == 'rd' and len(path) == 2, got
            self.location = '/' + '/'.join(path)
        return got

    def asked(self):
        """The next request that comes; what else comes is passed over."""
        while not self.waiting:
            got = self.receive()
            if 0 < got.code < 32:
                self.waiting.append(got)
        return self.waiting.pop(0)

    def answer(self, request, code, *options, payload=b'', kind=ACK, mid=None):
        klass, detail = code.split('.')
        self.send(Message(kind, int(klass) << 5 | int(detail), request.mid if mid is None else mid, request.token,
                          options, payload))


class Node(Provider, Client):
    pass


class StreamNode(Provider, Stream):
    pass


class DtlsNode(Provider, roads.Dtls):
    pass


def path_of(message):
    return '/' + '/'.join(p.decode() for p in message.all('path'))


def lamp(world, name='lamp', **more):
    node = Node(world.port)
    got = node.register(name, **more)
    assert got.text == '2.01', got
    world.accept(name)
    return node


# --- the directory


def test_register_update_remove(world):
    node = lamp(world)
    assert re.fullmatch(r'/rd/[0-9a-f]{16}', node.location)
    assert node.request('POST', f'{node.location}?lt=60').text == '2.04'
    got = node.request('GET', '/rd-lookup/ep?ep=lamp')
    assert got.uint('format') == 40 and b'lt=60' in got.payload and b'ep="lamp"' in got.payload, got
    assert f'base="coap://127.0.0.1:{node.socket.getsockname()[1]}"'.encode() in got.payload, got
    assert node.request('PUT', node.location).text == '4.05'
    assert node.request('DELETE', node.location).text == '2.02'
    world.registrar.expect(channel.UNREGISTER)
    assert node.request('DELETE', node.location).text == '4.04'
    assert node.request('GET', '/rd-lookup/ep').payload == b''


def test_look_up(world):
    node = lamp(world, more='&et=lamp.v1')
    look = lambda query: node.request('GET', f'/rd-lookup/res?{query}').payload.decode()
    one = '</nodes/lamp/light>;rt="light lamp";if="core.a";ct="0 50"'
    two = '</nodes/lamp/big>;title="say \\"hi\\"";sz="5000"'
    assert look('') == f'{one},{two}'
    assert look('rt=lamp') == look('rt=li*') == look('ct=50') == look('if=core.a') == one
    assert look('rt=light lamp') == one and look('rt=amp') == '' and look('title=say*') == two
    assert look('ep=lamp&sz=5000') == two and look('ep=other') == '' and look('et=lamp.v1') == f'{one},{two}'
    assert look('href=/nodes/lamp/b*') == two
    assert look('page=1&count=1') == two and look('page=2&count=1') == ''
    found = node.request('GET', '/rd-lookup/ep?rt=lamp').payload.decode()
    assert 'et="lamp.v1"' in found and 'rt="core.rd-ep"' in found, found
    assert node.request('GET', '/rd-lookup/ep?rt=nothing').payload == b''
    assert node.request('GET', '/rd-lookup/res?count=x').text == '4.00'
    assert node.request('GET', '/rd-lookup/res?' + '&'.join(f'a{i}=1' for i in range(20))).text == '4.00'
    assert node.request('POST', '/rd-lookup/res').text == '4.05'
    node.request('DELETE', node.location)
    world.registrar.expect(channel.UNREGISTER)


def test_it_can_be_discovered(world):
    c = Client(world.port)
    got = c.request('GET', '/.well-known/core?rt=core.rd*').payload.decode()
    assert '</rd>;rt="core.rd";ct=40' in got and '</rd-lookup/res>;rt="core.rd-lookup-res";ct=40' in got, got
    assert c.request('GET', '/.well-known/core?rt=core.rd').payload == b'</rd>;rt="core.rd";ct=40'


def test_registrations_that_are_refused(world):
    node = Node(world.port)
    said = lambda query, links='</a>': node.request('POST', f'/rd{query}', LINK_FORMAT, payload=links.encode()).text
    own = node.socket.getsockname()[1]
    assert said('') == said('?lt=60') == '4.00'
    for name in ('', 'a/b', '..', 'a%20b', 'a' * 64, 'ä', '*', 'a*b'):
        assert said(f'?ep={name}') == '4.00', name
    for lifetime in ('0', '-1', 'x', '', '4294967296', '99999999999'):
        assert said(f'?ep=a&lt={lifetime}') == '4.00', lifetime
    for base in ('coap://192.0.2.1', 'coap://127.0.0.1', f'coap://127.0.0.1:{own + 1}', f'coap://127.0.0.1:{own}1',
                 f'coap://127.0.0.1:{own}@evil', 'coap://[ff02::fd]', 'http://127.0.0.1'):
        assert said(f'?ep=a&base={base}') == '4.00', base
    assert said('?ep=a&d=floor') == '4.00' and said('?ep=a&ep=b') == '4.00'
    for links in ('<coap://192.0.2.1/a>', '<//evil/a>', '<a>', '<>', '</a/../../b>', '</%2e%2e/b>', '</a%2fb>', '</a%0a>',
                  '</a>;anchor="coap://evil"', '</a', '</a>,', '</a>;rt="x', '</a>;=b', 'x', '</a\n>', '</ä>', '</a>;rt=a b'):
        assert said('?ep=a', links) == '4.00', links
    got = node.request('POST', '/rd?ep=a', ('format', 50), payload=b'[]')
    assert got.text == '4.15', got
    got = node.request('POST', '/rd?ep=xa', LINK_FORMAT, payload=b'</a>')
    assert got.text == '4.01' and b'node.register:xa' in got.payload, got
    assert node.request('GET', '/rd').text == '4.05'


def test_base_may_be_said_when_it_is_true(world):
    node = Node(world.port)
    got = node.register('lamp', more=f'&base=coap://127.0.0.1:{node.socket.getsockname()[1]}')
    assert got.text == '2.01', got
    world.accept('lamp')
    node.request('DELETE', node.location)
    world.registrar.expect(channel.UNREGISTER)


def test_a_name_is_taken_by_one(world):
    """Here all come from one address: a node that has restarted, on another port, takes its own place again."""
    first = lamp(world)
    second = Node(world.port)
    assert second.register('lamp', '</other>').text == '2.01'
    assert second.location == first.location
    assert second.request('GET', '/rd-lookup/res').payload == b'</nodes/lamp/other>'
    stranger = Node(world.port, '127.0.0.1')
    stranger.socket.close()
    import socket
    stranger.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.socket.bind(('127.0.0.2', 0))
    stranger.socket.settimeout(20)
    stranger.socket.connect(('127.0.0.1', world.port))
    assert stranger.register('lamp').text == '4.03'
    assert stranger.request('DELETE', first.location).text == '4.01'
    assert stranger.request('POST', first.location).text == '4.01'
    asked = world.server.request('/other')
    got = second.asked()
    second.answer(got, '2.05', payload=b'moved')
    assert world.server.answer(asked).body == b'moved'
    second.request('DELETE', second.location)
    world.registrar.expect(channel.UNREGISTER)


def test_a_lifetime_ends(world):
    lamp(world, more='&lt=1')
    world.registrar.expect(channel.UNREGISTER)


def test_limits(world):
    node = Node(world.port)
    many = ','.join(f'</{i}>' for i in range(65))
    assert node.register('a', many).text == '4.13'
    assert node.register('a', '</' + 'x' * 300 + '>').text == '4.13'
    long = ','.join(f'</{i}>;title="{"x" * 250}"' for i in range(64))
    got = node.upload('POST', '/rd?ep=a', (long + ',' * 4000).encode(), LINK_FORMAT)
    assert got.text == '4.13', got
    nodes = [f'n{i}' for i in range(8)]
    locations = []
    for name in nodes:
        assert node.register(name, '</a>').text == '2.01', name
        world.accept(name)
        locations.append(node.location)
    got = node.register('n8', '</a>')
    assert got.text == '4.13' and got.payload == b'no more nodes', got
    assert world.coap.counters()['nodes'] == 8
    for location in locations:
        assert node.request('DELETE', location).text == '2.02'
        world.registrar.expect(channel.UNREGISTER)


def test_as_many_nodes_as_there_may_be(world):
    full = World(world.coap.program, 'NodesPerClient = 64')
    try:
        node = Node(full.port)
        for i in range(64):
            assert node.register(f'n{i}', '</a>').text == '2.01', i
            full.accept(f'n{i}')
        assert node.register('more', '</a>').text == '4.13'
        full.server.namespace = '/nodes/n63'
        stream = full.server.request('/a')
        asked = node.asked()
        node.answer(asked, '2.05', payload=b'x')
        assert full.server.answer(stream).body == b'x'
    finally:
        full.close()


def test_nobody_registers_from_anothers_address(world):
    """Who cannot show what was sent to the address is no node, and nothing is ever asked there."""
    careful = World(world.coap.program, '[abuse]', 'Verify = always')
    try:
        node = Node(careful.port)
        got = node.register('lamp')
        assert got.text == '4.01' and got.get('echo') and not got.payload, got
        # An acknowledgement is no proof: its message id can be guessed.
        got = node.request('GET', '/events', ('observe', 0))
        assert got.get('observe') is not None, got
        node.request('GET', '/events/next')
        while True:
            value = node.receive()
            if value.kind == CON:
                break
        node.acknowledge(value)
        got = node.register('lamp')
        assert got.text == '4.01', got
        echo = got.get('echo')
        other = Node(careful.port)
        assert other.request('POST', '/rd?ep=lamp', LINK_FORMAT, ('echo', echo), payload=b'</a>').text == '4.01'
        assert careful.coap.counters()['nodes'] == 0
        got = node.request('POST', '/rd?ep=lamp', LINK_FORMAT, ('echo', echo), payload=b'</a>')
        assert got.text == '2.01', got
        careful.accept('lamp')
        # A simple registration proves itself by the answer to our question, which is as small as what asked for it.
        simple = Node(careful.port)
        m = simple.send(simple.make('POST', '/.well-known/rd?ep=simple'))
        got = [simple.receive(), simple.receive()]
        request, answer = sorted(got, key=lambda g: g.code)
        assert len(request.encode()) + len(answer.encode()) < 3 * len(m.encode()), got
        simple.send(Message(ACK, 0x45, request.mid, b'guessed!', (), b'</a>'))
        assert simple.nothing() and careful.coap.counters()['nodes'] == 1
    finally:
        careful.close()


def test_loopback_is_refused_by_default(world):
    closed = World(world.coap.program, 'Loopback = no')
    try:
        assert Node(closed.port).register('lamp').text == '4.03'
    finally:
        closed.close()


def test_registration_in_blocks(world):
    node = Node(world.port)
    links = ','.join(f'</r{i}>;title="{"x" * 50}"' for i in range(60))
    got = node.upload('POST', '/rd?ep=lamp', links.encode(), LINK_FORMAT, szx=2)
    assert got.text == '2.01', got
    world.accept('lamp')
    _, found = node.fetch_all('GET', '/rd-lookup/res')
    assert found.count(b'</nodes/lamp/r') == 60
    node.request('DELETE', '/' + '/'.join(p.decode() for p in got.all('location-path')))
    world.registrar.expect(channel.UNREGISTER)


def test_simple_registration(world):
    node = Node(world.port)
    asked = node.send(node.make('POST', '/.well-known/rd?ep=simple&lt=600'))
    got = [node.receive(), node.receive()]
    request, answer = sorted(got, key=lambda m: m.code)
    assert answer.text == '2.04' and answer.token == asked.token, got
    assert path_of(request) == '/.well-known/core' and request.uint('accept') == 40, request
    node.answer(request, '2.05', LINK_FORMAT, payload=LINKS.encode())
    world.accept('simple')
    found = node.request('GET', '/rd-lookup/ep').payload.decode()
    node.request('DELETE', re.match('<(.*?)>', found)[1])
    world.registrar.expect(channel.UNREGISTER)


# --- requests to a node


def exchange(world, node, path, code, *options, payload=b'', **request):
    """What the node was asked, and what the client was told."""
    stream = world.server.request(path, **request)
    asked = node.asked()
    node.answer(asked, code, *options, payload=payload)
    return asked, world.server.answer(stream)


def test_get(world):
    node = lamp(world)
    asked, told = exchange(world, node, '/light/a b', '2.05', ('etag', b'v1'), ('format', 50), ('max-age', 7),
                           payload=b'{"on":true}', query='x=%31&y', headers=[('accept', 'application/json, */*;q=0.1')])
    assert (asked.kind, asked.code, len(asked.token)) == (CON, 1, 8), asked
    assert path_of(asked) == '/light/a b' and asked.all('query') == [b'x=1', b'y'], asked
    assert asked.get('accept') is None and asked.get('host') is None, asked
    assert (told.status, told.body) == (200, b'{"on":true}')
    assert told.fields['content-type'] == 'application/json' and told.fields['etag'] == '"v1"', told.fields
    assert told.fields['cache-control'] == 'max-age=7' and 'age' not in told.fields, told.fields
    again = world.server.get('/light/a b', query='x=%31&y')
    assert again.body == b'{"on":true}' and again.fields['age'] == '0', again.fields
    assert world.server.get('/light/a b', query='x=%31&y', headers=[('if-none-match', '"v1"')]).status == 304
    asked, told = exchange(world, node, '/light/a b', '2.03', ('etag', b'v1'), ('max-age', 9), query='x=%31&y',
                           headers=[('cache-control', 'no-cache')])
    assert asked.get('etag') == b'v1' and told.body == b'{"on":true}', (asked, told.fields)
    assert told.fields['cache-control'] == 'max-age=9'
    asked, told = exchange(world, node, '/', '2.05', payload=b'root', headers=[('accept', 'text/plain')])
    assert path_of(asked) == '/' and asked.uint('accept') == 0 and told.fields['content-type'] == 'application/octet-stream'


def test_statuses(world):
    node = lamp(world, 'lamp')
    for code, status in (('2.01', 201), ('2.02', 204), ('2.04', 204), ('4.00', 400), ('4.01', 403), ('4.03', 403), ('4.04', 404),
                         ('4.05', 405), ('4.08', 400), ('4.12', 412), ('4.22', 422), ('4.29', 429), ('5.00', 500), ('5.02', 502),
                         ('5.03', 503), ('5.04', 504), ('5.05', 502), ('4.30', 400), ('5.31', 500), ('3.01', 502)):
        asked, told = exchange(world, node, '/x', code, ('max-age', 3), method='POST', body=b'b',
                               headers=[('content-type', 'text/plain; charset=utf-8')])
        assert METHODS[asked.code] == 'POST' and asked.payload == b'b' and asked.uint('format') == 0, asked
        assert told.status == status, (code, told.status)
        assert told.fields.get('retry-after') == ('3' if status in (429, 503) else None), told.fields
    asked, told = exchange(world, node, '/x', '2.01', ('location-path', 'y z'), ('location-query', 'q=1'), method='PUT', body=b'b',
                           headers=[('if-none-match', '*')])
    assert told.fields['location'] == '/nodes/lamp/y%20z?q=1', told.fields
    assert asked.all('if-none-match') == [b''] and METHODS[asked.code] == 'PUT'
    asked, _ = exchange(world, node, '/x', '2.04', ('etag', b'\0\1'), method='PATCH', body=b'b', headers=[('if-match', '"~00ff", "ab"')])
    assert asked.all('if-match') == [b'\0\xff', b'ab'], asked
    assert world.server.get('/x', method='DELETE', headers=[('if-match', '"longer than eight"')]).status == 412
    assert world.server.get('/x', method='PUT', body=b'b', headers=[('content-type', 'text/html')]).status == 415
    assert world.server.get('/x', headers=[('accept', 'text/html')]).status == 406
    assert world.server.get('/x', method='PROPFIND').status == 501


def test_one_question_for_all_who_ask_it(world):
    node = lamp(world, 'lamp')
    streams = [world.server.request('/same') for _ in range(20)]
    asked = node.asked()
    assert node.nothing()
    node.answer(asked, '2.05', ('max-age', 0), payload=b'one')
    answers = {}
    for _ in streams:
        f = world.server.expect(channel.RESPONSE)
        answers[f.stream] = f.payload[f.value:]
    assert answers == dict.fromkeys(streams, b'one')


def answers_later(world, node):
    stream = world.server.request('/slow')
    asked = node.asked()
    node.acknowledge(asked)
    node.answer(asked, '2.05', payload=b'later', kind=CON, mid=0x1234)
    got = node.receive()
    assert (got.kind, got.code, got.mid) == (ACK, 0, 0x1234), got
    assert world.server.answer(stream).body == b'later'


def test_separate_answers(world):
    answers_later(world, lamp(world, 'lamp'))


def test_blocks(world):
    node = lamp(world, 'lamp')
    body = bytes(i % 251 for i in range(5000))
    stream = world.server.request('/big')
    for n in range(79):
        asked = node.asked()
        if n > 0:
            assert asked.block('block2') == (n, False, 2) and path_of(asked) == '/big', asked
        node.answer(asked, '2.05', ('etag', b'e'), ('format', 42), ('block2', block(n, n < 78, 2)), payload=body[64 * n:64 * n + 64])
    assert world.server.answer(stream).body == body
    stream = world.server.request('/big', method='PUT', body=body)
    taken = b''
    while len(taken) < len(body):
        asked = node.asked()
        n, more, szx = asked.block('block1')
        assert n * (16 << szx) == len(taken), asked
        taken += asked.payload
        if len(taken) == 1024:
            assert asked.uint('size1') == 5000
        node.answer(asked, '2.31' if more else '2.04', ('block1', block(n, more, 4)))
    assert taken == body and world.server.answer(stream).status == 204
    # Another representation in the middle; and one that never ends.
    stream = world.server.request('/changes')
    node.answer(node.asked(), '2.05', ('etag', b'e'), ('block2', block(0, True, 0)), payload=b'x' * 16)
    node.answer(node.asked(), '2.05', ('etag', b'f'), ('block2', block(1, False, 0)), payload=b'x' * 16)
    assert world.server.answer(stream).status == 502
    stream, n = world.server.request('/endless'), 0
    while n <= 256:
        node.answer(node.asked(), '2.05', ('block2', block(n, True, 6)), payload=b'x' * 1024)
        n += 1
    assert world.server.answer(stream).status == 502
    stream = world.server.request('/huge', method='PUT', body=bytes(40000), end=False)
    world.server.send(channel.DATA, flags=channel.END, stream=stream, payload=bytes(25537))
    while True:
        f = world.server.receive()
        if f.type == channel.RESPONSE:
            break
    assert f.code == 413, f
    assert world.coap.counters()['held_bytes'] < 1 << 20


def test_json_and_cbor(world):
    """A client of one is served by a node of the other."""
    node = lamp(world, 'lamp')
    cbor, json = bytes.fromhex('a1616101'), b'{"a":1}'
    wants = {'headers': [('accept', 'application/json, text/html;q=0.5')]}
    stream = world.server.request('/light', **wants)
    asked = node.asked()
    assert asked.uint('accept') == 50, asked
    node.answer(asked, '4.06')
    asked = node.asked()
    assert asked.uint('accept') == 60 and path_of(asked) == '/light', asked
    node.answer(asked, '2.05', ('etag', b'v1'), ('format', 60), ('max-age', 0), payload=cbor)
    told = world.server.answer(stream)
    assert (told.status, told.body, told.fields['content-type']) == (200, json, 'application/json'), told.fields
    assert 'etag' not in told.fields, told.fields  # it is that of another representation
    stream = world.server.request('/light', **wants)
    node.answer(node.asked(), '4.06')
    asked = node.asked()
    assert asked.get('etag') == b'v1' and asked.uint('accept') == 60, asked
    node.answer(asked, '2.03', ('etag', b'v1'), ('max-age', 60))
    assert world.server.answer(stream).body == json
    told = world.server.get('/light', **wants)
    assert told.body == json and 'age' in told.fields, told.fields
    _, told = exchange(world, node, '/cbor', '2.05', ('format', 50), payload=json, headers=[('accept', 'application/cbor')])
    assert (told.body, told.fields['content-type']) == (cbor, 'application/cbor'), told
    _, told = exchange(world, node, '/any', '2.05', ('format', 60), payload=cbor)
    assert (told.body, told.fields['content-type']) == (cbor, 'application/cbor'), told
    stream = world.server.request('/none', **wants)
    node.answer(node.asked(), '4.06')
    node.answer(node.asked(), '4.06')
    assert world.server.answer(stream).status == 406
    for body, code, status in ((json, '2.04', 204), (json, '4.15', 415)):
        stream = world.server.request('/light', method='PUT', body=body, headers=[('content-type', 'application/json')])
        asked = node.asked()
        assert asked.uint('format') == 50 and asked.payload == json, asked
        node.answer(asked, '4.15')
        asked = node.asked()
        assert asked.uint('format') == 60 and asked.payload == cbor, asked
        node.answer(asked, code)
        assert world.server.answer(stream).status == status
    _, told = exchange(world, node, '/light', '4.15', method='PUT', body=b'{', headers=[('content-type', 'application/json')])
    assert told.status == 415


def test_a_node_that_sleeps(world):
    node = lamp(world, 'lamp')
    _, told = exchange(world, node, '/light', '2.05', ('max-age', 0), payload=b'old')
    assert told.body == b'old'
    stream = world.server.request('/light')
    node.asked()
    told = world.server.answer(stream)  # after two seconds
    assert told.status == 200 and told.body == b'old' and int(told.fields['age']) >= 1, told.fields
    told = world.server.get('/light')  # at once: it is known to sleep
    assert told.body == b'old' and int(told.fields['age']) >= 1
    assert world.server.get('/other').status == 504
    asked = node.asked()  # repeated: now it is awake
    node.answer(asked, '2.05', payload=b'late')
    _, told = exchange(world, node, '/other', '2.05', payload=b'awake')
    assert told.body == b'awake'


def test_a_node_that_does_not_know_us(world):
    node = lamp(world, 'lamp')
    stream = world.server.request('/light')
    node.acknowledge(node.asked(), RST)
    assert world.server.answer(stream).status == 502
    stream = world.server.request('/light')
    asked = node.asked()
    node.request('DELETE', node.location)
    world.registrar.expect(channel.UNREGISTER)
    assert asked


def test_what_waits_is_bounded(world):
    node = lamp(world, 'lamp')
    streams = [world.server.request(f'/{i}') for i in range(12)]
    answers = {}
    for _ in streams:
        f = world.server.expect(channel.RESPONSE)
        answers[f.stream] = f.code
    assert sorted(answers.values()) == [503] * 4 + [504] * 8, answers
    node.acknowledge(node.asked(), RST)
    while not node.nothing():
        pass
    _, told = exchange(world, node, '/light', '2.05', payload=b'on')
    assert told.body == b'on'


def test_observe(world):
    node = lamp(world, 'lamp')
    watch = lambda n: world.server.send(channel.WATCH, stream=world.server.ids['/nodes/lamp'], value=n,
                                        payload=channel.fields((':path', '/light')))
    watch(1)
    asked = node.asked()
    assert asked.uint('observe') == 0 and path_of(asked) == '/light', asked
    node.answer(asked, '2.05', ('observe', 1), ('format', 0), ('max-age', 30), payload=b'a')

    def notified():
        f = world.server.expect(channel.NOTIFY)
        return dict(f.fields(f.value)), f.payload[f.value:]
    fields, value = notified()
    assert value == b'a' and fields[':path'] == '/light' and fields[':max-age'] == '30', fields
    watch(7)  # however many watch
    node.answer(asked, '2.05', ('observe', 2), ('format', 0), ('etag', b'two'), payload=b'b', kind=NON, mid=77)
    fields, value = notified()
    assert value == b'b' and fields[':id'] == '"two"', fields
    node.answer(asked, '2.05', ('observe', 1), payload=b'overtaken', kind=NON, mid=78)
    node.answer(asked, '2.05', ('observe', 3), payload=b'c', kind=CON, mid=79)
    assert node.receive().kind == ACK
    assert notified()[1] == b'c'
    assert world.server.get('/light').body == b'c', 'a notification is what a GET is answered with'
    body = bytes(i % 251 for i in range(200))
    node.answer(asked, '2.05', ('observe', 4), ('block2', block(0, True, 3)), payload=body[:128], kind=NON, mid=80)
    more = node.asked()
    assert more.block('block2') == (1, False, 3) and more.get('observe') is None and more.token != asked.token, more
    node.answer(more, '2.05', ('block2', block(1, False, 3)), payload=body[128:])
    assert notified()[1] == body
    watch(0)
    over = node.asked()
    assert over.uint('observe') == 1 and over.token == asked.token, over
    node.answer(over, '2.05', payload=b'c')
    # It has restarted, and knows nothing any more.
    watch(1)
    asked = node.asked()
    node.answer(asked, '2.05', ('observe', 1), payload=b'd')
    assert notified()[1] == b'd'
    again = Node(world.port)
    assert again.register('lamp').text == '2.01'
    anew = again.asked()
    assert anew.uint('observe') == 0 and path_of(anew) == '/light', anew
    again.answer(anew, '4.04')
    f = world.server.expect(channel.NOTIFY)
    assert f.flags & channel.GONE, f
    watch(0)


# --- on other roads


def tcp_node(world):
    return StreamNode(world.port)


def tls_node(world):
    return StreamNode(0, wrapped=roads.over_tls(world.coap.secure))


def dtls_node(world):
    return DtlsNode(world.coap.secure)


ROADS = {'coap+tcp': tcp_node, 'coaps+tcp': tls_node, 'coaps': dtls_node}


def test_nodes_on_every_road(world):
    """What is asked of a node goes through the connection on which it registered; without it the node is asleep."""
    for road, connect in ROADS.items():
        inner = World(world.coap.program, f'@node lamp {roads.KEY}', roads.make_pair(world.folder.name))
        try:
            node = connect(inner)
            assert node.register('lamp', more='&lt=600').text == '2.01', road
            inner.accept('lamp')
            base = node.request('GET', '/rd-lookup/ep').payload.decode()
            assert f'base="{road}://127.0.0.1:' in base, base
            own = re.search('base="(.*?)"', base)[1]
            assert node.request('POST', f'{node.location}?base={own}').text == '2.04', own
            assert node.request('POST', f'{node.location}?base=coap://192.0.2.1').text == '4.00'
            asked, told = exchange(inner, node, '/light', '2.05', ('max-age', 0), payload=b'on')
            assert path_of(asked) == '/light' and (told.status, told.body) == (200, b'on'), (road, told)
            asked, told = exchange(inner, node, '/light', '2.04', method='PUT', body=b'off')
            assert asked.payload == b'off' and told.status == 204, (road, told)
            if road == 'coaps':
                answers_later(inner, node)
                node.send(Message(CON, 0x45, 0x1235, b'nobody!!', (), b'x'))
                assert node.receive().kind == RST
                stream = inner.server.request('/reset')
                node.acknowledge(node.asked(), RST)
                assert inner.server.answer(stream).status == 502
            else:
                node.send(Message(CON, 0x45, 0, b'nobody!!', (), b'x'))  # is passed over
            body = bytes(i % 251 for i in range(5000))
            stream = inner.server.request('/big')
            node.answer(node.asked(), '2.05', ('etag', b'e'), ('block2', block(0, True, 6)), payload=body[:1024])
            asked = node.asked()
            assert asked.block('block2') == (1, False, 6), asked
            if road == 'coaps':
                for n in range(1, 5):
                    node.answer(asked, '2.05', ('etag', b'e'), ('block2', block(n, n < 4, 6)), payload=body[1024 * n:1024 * n + 1024])
                    asked = node.asked() if n < 4 else None
            else:  # several at a time (BERT)
                node.answer(asked, '2.05', ('etag', b'e'), ('block2', block(1, True, 7)), payload=body[1024:3072])
                asked = node.asked()
                assert asked.block('block2')[0] == 3, asked
                node.answer(asked, '2.05', ('etag', b'e'), ('block2', block(3, False, 7)), payload=body[3072:])
            assert inner.server.answer(stream).body == body, road
            watch = lambda n: inner.server.send(channel.WATCH, stream=inner.server.ids['/nodes/lamp'], value=n,
                                                payload=channel.fields((':path', '/light')))
            watch(1)
            asked = node.asked()
            assert asked.uint('observe') == 0, asked
            node.answer(asked, '2.05', ('observe', 1), ('max-age', 0), payload=b'a')
            node.answer(asked, '2.05', ('observe', 2), ('max-age', 0), payload=b'b', kind=CON, mid=77)
            values = [inner.server.expect(channel.NOTIFY) for _ in range(2)]
            assert [f.payload[f.value:] for f in values] == [b'a', b'b'], values
            stream = inner.server.request('/light', method='PUT', body=b'x')
            node.asked()
            node.close()
            assert inner.server.answer(stream).status == 504, road
            told = inner.server.get('/light')
            assert told.status == 504 or told.body == b'b' and 'age' in told.fields, (road, told.fields)
            assert inner.server.get('/never').status == 504
            again = connect(inner)
            assert again.request('POST', node.location).text == '4.04'  # it registers anew
            assert again.register('lamp').text == '2.01' and again.location == node.location
            asked = again.asked()
            assert asked.uint('observe') == 0 and path_of(asked) == '/light', asked
            again.close()
            assert inner.coap.counters()['held_bytes'] < 1 << 20
        finally:
            inner.close()


def test_nothing_is_left(world):
    counters = world.coap.counters()
    assert counters['held_bytes'] < 1 << 20 and counters['node_cache_bytes'] < 1 << 20, counters


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--serve', required=True)
    parser.add_argument('--dtls', required=True)
    parser.add_argument('names', nargs='*')
    arguments = parser.parse_args()
    roads.PROGRAM = arguments.dtls
    tests = {n[5:]: f for n, f in globals().items() if n.startswith('test_')}
    failed = []
    for name in arguments.names or tests:
        world = World(arguments.serve)
        try:
            tests[name](world)
            print(f'ok {name}', flush=True)
        except Exception:
            traceback.print_exc()
            print(f'FAILED {name}', flush=True)
            failed.append(name)
        try:
            world.close()
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return f'failed: {" ".join(failed)}' if failed else 0


if __name__ == '__main__':
    sys.exit(main())
