#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The descriptions of ETSI's CoAP plug-tests as far as they are a server's, against plugtest-app.py: plugtest.py
ROAD [KEY DTLS-PROGRAM]. ROAD is udp, tcp, tls or dtls. A description that does not apply to a road is not among
those of that road: DATAGRAM names them. (CORE_24 to 30 are a proxy's, which h-coapd is not: it answers 5.05.)"""
import socket
import ssl
import subprocess
import sys
import time
import traceback

from coap import ACK, CON, NON, PING, PONG, RST, Client, Message, Stream, block

DATAGRAM = {'CORE_05', 'CORE_06', 'CORE_07', 'CORE_08', 'CORE_15', 'CORE_16', 'CORE_17', 'OBS_02', 'OBS_03', 'OBS_05'}


class Dtls(Client):
    def __init__(self, key, program):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.process, self.mid = subprocess.Popen([program, '5684', 'plug', key], stdin=theirs), 1
        theirs.close()
        assert self.socket.recv(100), 'no handshake'


def connect():
    if ROAD == 'udp':
        return Client(5683, seconds=60)
    if ROAD == 'tcp':
        return Stream(5683, seconds=60)
    if ROAD == 'dtls':
        return Dtls(*sys.argv[2:])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return Stream(0, seconds=60, wrapped=context.wrap_socket(socket.create_connection(('127.0.0.1', 5684))))


def simple(method, code, kind):
    """CORE_01 to 08."""
    def check(c):
        m = c.make(method, '/plug/test', kind=kind, **({'payload': b'x'} if method in ('PUT', 'POST') else {}))
        c.send(m)
        got = c.receive()
        assert got.text == code and got.token == m.token, got
        if ROAD in ('udp', 'dtls'):
            assert (got.kind, got.mid) == (ACK, m.mid) if kind == CON else got.kind == NON, got
        assert method != 'GET' or (got.payload == b'test' and got.uint('format') == 0), got
    return check


def separate(c, token=b'tok', kind=CON):
    m = c.send(c.make('GET', '/plug/separate', kind=kind, token=token))
    got = c.receive()
    if ROAD in ('udp', 'dtls') and kind == CON:
        assert (got.kind, got.code, got.mid, got.token) == (ACK, 0, m.mid, b''), got
        got = c.receive()
        assert got.kind == CON and got.mid != m.mid, got
        c.acknowledge(got)
    assert got.text == '2.05' and got.token == token and got.payload == b'after a while', got
    return m


def lossy(c):
    """The request comes twice: it is answered as it was, and acts once."""
    m = c.make('POST', '/plug/test', payload=b'x')
    c.send(m)
    first = c.receive()
    c.send(m)
    assert c.receive().encode() == first.encode()


def lossy_separate(c):
    """The answer's acknowledgement is lost: it comes again."""
    m = c.send(c.make('GET', '/plug/separate'))
    assert c.receive().code == 0
    first = c.receive()
    again = c.receive()
    assert first.encode() == again.encode() and first.token == m.token
    c.acknowledge(again)


def paths(c):
    got = c.request('GET', '/plug/seg1/seg2/seg3')
    assert got.payload.startswith(b'/plug/seg1/seg2/seg3? '), got


def queries(c):
    got = c.request('GET', '/plug/query?first=1&second=2&third=3')
    assert got.payload.startswith(b'/plug/query?first=1&second=2&third=3 '), got


def location_path(c):
    got = c.request('POST', '/plug/test', payload=b'x')
    assert got.text == '2.01' and got.all('location-path')[:2] == [b'plug', b'made'] and len(got.all('location-path')) == 3, got


def location_query(c):
    got = c.request('POST', '/plug/location-query', payload=b'x')
    assert got.text == '2.01' and got.all('location-query') == [b'first=1', b'second=2'], got


def accept(c):
    for number, found in ((0, b'text'), (41, b'<xml/>')):
        got = c.request('GET', '/plug/multi-format', ('accept', number))
        assert got.uint('format') == number and got.payload == found, got
    assert c.request('GET', '/plug/multi-format', ('accept', 42)).text == '4.06'


def etag(c):
    first = c.request('GET', '/plug/validate')
    assert first.text == '2.05' and first.get('etag'), first
    got = c.request('GET', '/plug/validate', ('etag', first.get('etag')))
    assert got.text == '2.03' and got.get('etag') == first.get('etag') and not got.payload, got
    assert c.request('PUT', '/plug/validate', payload=b'x').text == '2.04'
    got = c.request('GET', '/plug/validate', ('etag', first.get('etag')))
    assert got.text == '2.05' and got.get('etag') != first.get('etag') and got.payload, got


def if_match(c):
    now = c.request('GET', '/plug/validate').get('etag')
    assert c.request('PUT', '/plug/validate', ('if-match', now), payload=b'x').text == '2.04'
    assert c.request('PUT', '/plug/validate', ('if-match', now), payload=b'x').text == '4.12'


def if_none_match(c):
    got = c.request('PUT', '/plug/create1', ('if-none-match', b''), payload=b'x')
    assert got.text in ('2.01', '4.12'), got  # by the first road that comes here, or a later one
    assert c.request('PUT', '/plug/create1', ('if-none-match', b''), payload=b'x').text == '4.12'


def ping(c):
    if ROAD in ('udp', 'dtls'):
        c.send(Message(CON, 0, 4711))
        got = c.receive()
        assert (got.kind, got.code, got.mid) == (RST, 0, 4711), got
    else:
        c.send(Message(CON, PING, 0, b'x'))
        got = c.receive()
        assert (got.code, got.token) == (PONG, b'x'), got


def no_proxy(c):
    assert c.request('GET', '/', ('proxy-uri', 'coap://elsewhere/')).text == '5.05'


def discovery(c):
    first, links = c.fetch_all('GET', '/.well-known/core')
    assert first.uint('format') == 40 and b'</plug>' in links, links


def filters(c):
    for query, found in (('href=/plug', True), ('href=/pl*', True), ('title=Plug*', True), ('href=/nowhere', False),
                         ('rt=x', False)):
        links = c.fetch_all('GET', '/.well-known/core?' + query)[1]
        assert (b'</plug>' in links) == found and b'</system' not in links, (query, links)


def large(szx):
    """Size and tag are those of the whole; the client says the size, or takes ours."""
    def check(c):
        first, body = c.fetch_all('GET', '/plug/large', szx=szx)
        assert len(body) == 3200 and body.endswith(b'0000399\n'), body[-20:]
        assert first.uint('size2') in (3200, None) and first.get('etag'), first
    return check


def large_late(c):
    got = c.request('GET', '/plug/large')
    if ROAD in ('tcp', 'tls'):
        assert len(got.payload) == 3200 and got.block('block2') is None, got  # fits its Max-Message-Size
        return
    assert got.block('block2') == (0, True, 6), got
    got = c.request('GET', '/plug/large', ('block2', block(1024 // 64, False, 2)))  # smaller from here on
    assert got.block('block2') == (16, True, 2) and got.payload == b'%07d\n' % 128 + got.payload[8:], got


def upload(method, path, code):
    def check(c):
        body = b''.join(b'%07d\n' % i for i in range(400))
        got = c.upload(method, path, body, ('size1', len(body)))
        assert got.text == code and got.block('block1') == (3, False, 6), got
        assert path != '/plug/large-create' or got.all('location-path') == [b'plug', b'large-created'], got
    return check


def observe(c, path='/plug/obs'):
    c.request('PUT', '/plug/obs', payload=b'start')
    got = c.request('GET', path, ('observe', 0), token=b'obs')
    assert got.text == '2.05' and got.get('observe') is not None, got
    return got


def change(body=b'next', *options):
    other = connect()
    got = other.request('PUT', '/plug/obs', *options, payload=body)
    assert got.text == '2.04', got
    other.close()


def notified(c, seconds=60):
    while True:
        got = c.receive()
        if got.kind == CON and ROAD in ('udp', 'dtls'):
            c.acknowledge(got)
        if got.token == b'obs':
            return got


def deregister(c):
    got = c.request('GET', '/plug/obs', ('observe', 1), token=b'obs')
    assert got.get('observe') is None, got


def obs_follows(c):
    first = observe(c)
    assert first.uint('max-age') == 7, first
    last = first.uint('observe')
    for i in range(4):
        change(b'value-%d' % i)
        got = notified(c)
        assert got.payload == b'value-%d' % i and got.uint('observe') > last and got.uint('max-age') == 7, got
        last = got.uint('observe')
    deregister(c)


def obs_confirmable(c):
    observe(c)
    change()
    got = c.receive()
    assert got.kind == CON, got
    c.acknowledge(got)
    deregister(c)


def obs_reset(c):
    observe(c)
    change()
    c.acknowledge(c.receive(), RST)
    change()
    assert c.nothing(1)


def obs_silent(c):
    """Nobody acknowledges: the same message again, twice as long apart each time."""
    observe(c)
    change()
    first, began = c.receive(), time.monotonic()
    again = c.receive()
    assert again.encode() == first.encode() and time.monotonic() - began > 1.5
    c.acknowledge(again)
    deregister(c)


def obs_deregister(c):
    observe(c)
    deregister(c)
    change()
    assert c.nothing(1)


def obs_deleted(c):
    observe(c)
    other = connect()
    assert other.request('DELETE', '/plug/obs').text == '2.02'
    other.close()
    got = notified(c)
    assert got.text == '4.04' and got.get('observe') is None, got
    change()
    assert c.nothing(1)


def obs_format(c):
    """Who asked for one format is not sent another."""
    c.request('PUT', '/plug/obs', payload=b'start')
    got = c.request('GET', '/plug/obs', ('observe', 0), ('accept', 0), token=b'obs')
    assert got.get('observe') is not None, got
    change(b'<x/>', ('format', 41))
    got = notified(c)
    assert got.text == '4.06' and got.get('observe') is None, got


def obs_by_itself(c):
    observe(c)
    c.send(c.make('PUT', '/plug/obs', payload=b'mine', token=b'put'))
    seen = {}
    while len(seen) < 2:
        got = c.receive()
        if got.kind == CON and ROAD in ('udp', 'dtls'):
            c.acknowledge(got)
        seen[got.token] = got
    assert seen[b'put'].text == '2.04' and seen[b'obs'].payload == b'mine', seen
    deregister(c)


def obs_large(c):
    got = c.request('GET', '/plug/obs-large', ('observe', 0), token=b'obs')
    assert got.get('observe') is not None, got
    other = connect()
    other.request('PUT', '/plug/obs-large', payload=b'x')
    other.close()
    got = notified(c)
    body, n = got.payload, 1
    assert got.get('observe') is not None, got
    while got.block('block2') and got.block('block2')[1]:
        got = c.request('GET', '/plug/obs-large', ('block2', block(n, False, 6)))
        body, n = body + got.payload, n + 1
    assert body.startswith(b'0000000\n') and len(body) > 3200, len(body)
    c.request('GET', '/plug/obs-large', ('observe', 1), token=b'obs')


TESTS = {
    'CORE_01': simple('GET', '2.05', CON), 'CORE_02': simple('DELETE', '2.02', CON), 'CORE_03': simple('PUT', '2.04', CON),
    'CORE_04': simple('POST', '2.01', CON), 'CORE_05': simple('GET', '2.05', NON), 'CORE_06': simple('DELETE', '2.02', NON),
    'CORE_07': simple('PUT', '2.04', NON), 'CORE_08': simple('POST', '2.01', NON), 'CORE_09': separate,
    'CORE_10': lambda c: c.exchange(c.make('GET', '/plug/test', token=b'12345678')), 'CORE_11': lambda c: separate(c, b'12345678'),
    'CORE_12': lambda c: separate(c, b''), 'CORE_13': paths, 'CORE_14': queries, 'CORE_15': lossy, 'CORE_16': lossy_separate,
    'CORE_17': lambda c: separate(c, kind=NON), 'CORE_18': location_path, 'CORE_19': location_query, 'CORE_20': accept,
    'CORE_21': etag, 'CORE_22': if_match, 'CORE_23': if_none_match, 'CORE_24-30': no_proxy, 'CORE_31': ping,
    'LINK_01': discovery, 'LINK_02-09': filters,
    'BLOCK_01': large(6), 'BLOCK_02': large_late, 'BLOCK_03': upload('PUT', '/plug/large-update', '2.04'),
    'BLOCK_04': upload('POST', '/plug/large-create', '2.01'), 'BLOCK_05': large(2), 'BLOCK_06': large(0),
    'OBS_01': obs_follows, 'OBS_02': obs_confirmable, 'OBS_03': obs_reset, 'OBS_04': obs_follows, 'OBS_05': obs_silent,
    'OBS_06': obs_deregister, 'OBS_07': obs_deleted, 'OBS_08': obs_format, 'OBS_09': obs_by_itself, 'OBS_10': obs_large,
}


def main():
    failed = []
    for name, test in TESTS.items():
        if name in DATAGRAM and ROAD not in ('udp', 'dtls'):
            continue
        c = connect()
        try:
            test(c)
            print(f'ok {ROAD} TD_COAP_{name}', flush=True)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(f'FAILED {ROAD} TD_COAP_{name}', flush=True)
            failed.append(name)
        c.close()
    return 1 if failed else 0


if __name__ == '__main__':
    ROAD = sys.argv[1]
    sys.exit(main())
