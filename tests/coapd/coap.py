# SPDX-License-Identifier: Apache-2.0
"""CoAP messages by hand (RFC 7252), for tests that have to see and to send every bit."""
import os
import random
import socket
import struct

CON, NON, ACK, RST = range(4)
METHODS = {name: code for code, name in enumerate(
    ('GET', 'POST', 'PUT', 'DELETE', 'FETCH', 'PATCH', 'iPATCH'), 1)}
OPTIONS = {'if-match': 1, 'host': 3, 'etag': 4, 'if-none-match': 5, 'observe': 6, 'port': 7,
           'location-path': 8, 'path': 11, 'format': 12, 'max-age': 14, 'query': 15, 'accept': 17,
           'location-query': 20, 'block2': 23, 'block1': 27, 'size2': 28, 'proxy-uri': 35, 'size1': 60,
           'echo': 252, 'no-response': 258, 'request-tag': 292}
NAMES = {number: name for name, number in OPTIONS.items()}


def number(value):
    """An unsigned integer as an option has it."""
    return value.to_bytes((value.bit_length() + 7) // 8, 'big')


def block(index, more, szx):
    return number(index << 4 | (8 if more else 0) | szx)


def _nibble(n):
    if n < 13:
        return n, b''
    if n < 269:
        return 13, bytes([n - 13])
    return 14, struct.pack('!H', n - 269)


def encode_options(options, payload):
    data, last = b'', 0
    for key, value in sorted(options, key=lambda o: o[0]):
        delta, more = _nibble(key - last)
        size, extra = _nibble(len(value))
        data += bytes([delta << 4 | size]) + more + extra + value
        last = key
    return data + (b'\xff' + payload if payload else b'')


class Message:
    def __init__(self, kind, code, mid, token=b'', options=(), payload=b''):
        self.kind, self.code, self.mid, self.token = kind, code, mid, token
        self.options = [(OPTIONS.get(k, k), v.encode() if isinstance(v, str) else
                         number(v) if isinstance(v, int) else v) for k, v in options]
        self.payload = payload

    def encode(self):
        return bytes([1 << 6 | self.kind << 4 | len(self.token), self.code]) + \
            struct.pack('!H', self.mid) + self.token + encode_options(self.options, self.payload)

    @classmethod
    def decode(cls, data):
        assert len(data) >= 4 and data[0] >> 6 == 1, data
        kind, size = data[0] >> 4 & 3, data[0] & 15
        token, rest, key, options = data[4:4 + size], data[4 + size:], 0, []

        def extended(n, rest):
            if n == 13:
                return rest[0] + 13, rest[1:]
            if n == 14:
                return struct.unpack('!H', rest[:2])[0] + 269, rest[2:]
            return n, rest
        while rest and rest[0] != 0xff:
            delta, length, rest = rest[0] >> 4, rest[0] & 15, rest[1:]
            delta, rest = extended(delta, rest)
            length, rest = extended(length, rest)
            key += delta
            options.append((key, rest[:length]))
            rest = rest[length:]
        return cls(kind, data[1], struct.unpack('!H', data[2:4])[0], token, options, rest[1:])

    def encode_stream(self):
        """As RFC 8323 (3.2) has it; kind and mid are not there."""
        body = encode_options(self.options, self.payload)
        n = len(body)
        if n < 13:
            length, extra = n, b''
        elif n < 269:
            length, extra = 13, bytes([n - 13])
        elif n < 65805:
            length, extra = 14, struct.pack('!H', n - 269)
        else:
            length, extra = 15, struct.pack('!I', n - 65805)
        return bytes([length << 4 | len(self.token)]) + extra + bytes([self.code]) + self.token + body

    @property
    def text(self):
        return f'{self.code >> 5}.{self.code & 31:02}'

    def all_of(self, number):
        return [v for k, v in self.options if k == number]

    def all(self, name):
        return [v for k, v in self.options if k == OPTIONS[name]]

    def get(self, name):
        found = self.all(name)
        return found[0] if found else None

    def uint(self, name):
        value = self.get(name)
        return None if value is None else int.from_bytes(value, 'big')

    def block(self, name):
        """(number, more, szx) or None."""
        n = self.uint(name)
        return None if n is None else (n >> 4, bool(n & 8), n & 7)

    def __repr__(self):
        return f'{("CON", "NON", "ACK", "RST")[self.kind]} {self.text} mid={self.mid} ' \
               f'token={self.token.hex()} {[(NAMES.get(k, k), v) for k, v in self.options]} {self.payload[:80]!r}'


class Client:
    """One address and port. Every wait has a generous deadline."""

    def __init__(self, port, host='127.0.0.1', seconds=20):
        self.socket = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(seconds)
        self.socket.connect((host, port))
        self.mid = random.randrange(0x10000)

    def close(self):
        self.socket.close()

    def make(self, method, path, *options, kind=CON, payload=b'', token=None):
        path, _, query = path.partition('?')
        self.mid = (self.mid + 1) & 0xffff
        parts = [('path', p) for p in path.split('/')[1:]] if path != '/' else []
        parts += [('query', q) for q in query.split('&')] if query else []
        return Message(kind, METHODS.get(method, method), self.mid, os.urandom(4) if token is None else token,
                       [*parts, *options], payload)

    def send(self, message):
        self.socket.send(message if isinstance(message, bytes) else message.encode())
        return message

    def receive(self):
        return Message.decode(self.socket.recv(65536))

    def nothing(self, seconds=0.3):
        """True when nothing comes for so long."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self.receive()
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)

    def acknowledge(self, message, kind=ACK):
        self.send(Message(kind, 0, message.mid))

    def exchange(self, message):
        """Sends a request and waits for its response, separate or not."""
        self.send(message)
        while True:
            got = self.receive()
            if got.kind == CON:
                self.acknowledge(got)
            if got.code and got.token == message.token:
                return got

    def request(self, method, path, *options, **more):
        return self.exchange(self.make(method, path, *options, **more))

    def fetch_all(self, method, path, *options, szx=6, **more):
        """A response with all its blocks; returns (first message, body)."""
        first = got = self.request(method, path, *options, ('block2', block(0, False, szx)), **more)
        body = got.payload
        while got.block('block2') and got.block('block2')[1]:
            index, _, size = got.block('block2')
            got = self.request(method, path, *options, ('block2', block(index + 1, False, size)))
            assert got.text == first.text, got
            assert got.get('etag') == first.get('etag'), got
            assert got.block('block2')[0] == index + 1, got
            body += got.payload
        return first, body

    def upload(self, method, path, body, *options, szx=6):
        """A request in blocks; returns the final response."""
        size = 16 << szx
        for at in range(0, max(len(body), 1), size):
            more = at + size < len(body)
            got = self.request(method, path, *options, ('block1', block(at // size, more, szx)),
                               payload=body[at:at + size])
            if not more or got.text != '2.31':
                return got
            assert got.block('block1') == (at // size, True, szx), got


CSM, PING, PONG, RELEASE, ABORT = 0xe1, 0xe2, 0xe3, 0xe4, 0xe5


class Stream(Client):
    """One connection over TCP, or any socket that is given."""

    def __init__(self, port, host='127.0.0.1', seconds=20, wrapped=None, greet=True):
        self.socket = wrapped or socket.create_connection((host, port))
        self.socket.settimeout(seconds)
        self.mid, self.buffer = 0, b''
        if greet:
            self.csm = self.receive()
            assert self.csm.code == CSM, self.csm
            self.send(Message(CON, CSM, 0, options=[(2, 1 << 20), (4, b'')]))

    def send(self, message):
        self.socket.sendall(message if isinstance(message, bytes) else message.encode_stream())
        return message

    def acknowledge(self, message, kind=ACK):
        pass

    def exactly(self, n):
        while len(self.buffer) < n:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError('the connection has ended')
            self.buffer += more
        found, self.buffer = self.buffer[:n], self.buffer[n:]
        return found

    def receive(self):
        first = self.exactly(1)[0]
        length, size = first >> 4, first & 15
        if length == 13:
            length = self.exactly(1)[0] + 13
        elif length == 14:
            length = struct.unpack('!H', self.exactly(2))[0] + 269
        elif length == 15:
            length = struct.unpack('!I', self.exactly(4))[0] + 65805
        code, token, rest = self.exactly(1), self.exactly(size), self.exactly(length)
        return Message.decode(bytes([1 << 6 | size]) + code + b'\0\0' + token + rest)

    def ended(self):
        """Waits for the end of the connection; what came before it."""
        found = []
        try:
            while True:
                found.append(self.receive())
        except (EOFError, ConnectionResetError):
            return found
