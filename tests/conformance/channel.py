# SPDX-License-Identifier: Apache-2.0
"""A registrar and a server that speak docs/protocols/channel.md and nothing else: written from that page,
not from any SDK. Blocking sockets with one generous deadline."""
import os
import socket
import struct

DEADLINE = 30.0
INITIAL = 262144
HELLO, GOAWAY, PING, PONG = 1, 2, 3, 4
REGISTER, REGISTERED, REFUSED, UNREGISTER, SERVER = 0x10, 0x11, 0x12, 0x13, 0x14
ATTACH, ATTACHED = 0x16, 0x17
REQUEST, DATA, RESPONSE, CANCEL, CREDIT = 0x20, 0x21, 0x22, 0x23, 0x24
NOTIFY, WATCH, SESSION = 0x30, 0x31, 0x40
RESUME, RESUMED = 0x81, 0x82
END, GONE = 1, 2


class Closed(Exception):
    pass


class Frame:
    def __init__(self, type, flags, code, stream, value, payload):
        self.type, self.flags, self.code = type, flags, code
        self.stream, self.value, self.payload = stream, value, payload

    def __repr__(self):
        return (f"<{self.type:#x} flags {self.flags} code {self.code} stream {self.stream} "
                f"value {self.value} {self.payload[:40]!r}>")

    def fields(self, size=None):
        return parse(self.payload if size is None else self.payload[:size])


def fields(*pairs):
    return b"".join(struct.pack("<HH", len(n.encode()), len(v.encode())) + n.encode() + v.encode()
                    for n, v in pairs)


def parse(data):
    result, at = [], 0
    while at < len(data):
        n, v = struct.unpack_from("<HH", data, at)
        at += 4
        result.append((data[at:at + n].decode(), data[at + n:at + n + v].decode()))
        at += n + v
    assert at == len(data)
    return result


def frame(type, flags=0, code=0, stream=0, value=0, payload=b""):
    return struct.pack("<IBBHII", len(payload), type, flags, code, stream, value) + payload


class Peer:
    """One accepted connection of the app."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.buffer = b""
        self.next_stream = 1
        hello = self.receive()
        assert hello.type == HELLO and hello.value == 1 and hello.stream == 0, hello
        assert (":role", "app") in hello.fields()

    def send(self, *args, **kwargs):
        self.sock.sendall(frame(*args, **kwargs))

    def raw(self, data):
        self.sock.sendall(data)

    def hello(self, role):
        self.send(HELLO, value=1, payload=fields((":role", role), (":name", "fake")))

    def receive(self):
        while len(self.buffer) < 16 or len(self.buffer) < 16 + struct.unpack_from("<I", self.buffer)[0]:
            data = self.sock.recv(1 << 20)
            if not data:
                raise Closed()
            self.buffer += data
        length, type, flags, code, stream, value = struct.unpack_from("<IBBHII", self.buffer)
        payload = self.buffer[16:16 + length]
        self.buffer = self.buffer[16 + length:]
        return Frame(type, flags, code, stream, value, payload)

    def expect(self, type, stream=None):
        f = self.receive()
        assert f.type == type and stream in (None, f.stream), f
        return f

    def expect_closed(self):
        try:
            while True:
                self.receive()
        except (Closed, ConnectionError):
            pass

    def sync(self):
        """Everything that the app had to say before this is returned."""
        self.send(PING, value=4711)
        before = []
        while True:
            f = self.receive()
            if f.type == PONG and f.value == 4711:
                return before
            before.append(f)

    def close(self):
        self.sock.close()


class Answer:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, dict(fields), body


class ServerPeer(Peer):
    def __init__(self, sock, namespace=None):
        super().__init__(sock)
        self.namespace = namespace
        self.ids = {}
        self.keys = {}

    def attach(self, *namespaces):
        while not all(n in self.ids for n in namespaces):
            f = self.expect(ATTACH)
            said = dict(f.fields())
            self.ids[said[":namespace"]] = f.stream
            self.keys[said[":namespace"]] = said[":key"]
            self.send(ATTACHED, stream=f.stream)

    def request_frame(self, path, method="GET", body=b"", end=True, headers=(), namespace=None, query="",
                      handle=None):
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        ns = namespace or self.namespace
        f = fields((":id", f"r{stream}"), (":namespace", ns), (":protocol", "http"), (":method", method),
                   (":path", ns + path), (":query", query), (":principal", "user:alice"),
                   (":peer", "192.0.2.1"), (":deadline", "30000"),
                   *(() if handle is None else ((":handle", handle),)), *headers)
        return stream, frame(REQUEST, END if end else 0, 0, stream, len(f), f + body)

    def request(self, path, **kwargs):
        stream, data = self.request_frame(path, **kwargs)
        self.raw(data)
        return stream

    def answer(self, stream, credit=True):
        """The whole answer of one stream, with credit given as it is used."""
        f = self.expect(RESPONSE, stream)
        head = f.fields(f.value)
        body = f.payload[f.value:]
        while not f.flags & END:
            if credit and f.type in (DATA, RESPONSE) and f.payload:
                self.send(CREDIT, stream=stream, value=len(f.payload))
            status = f.code if f.type == RESPONSE else status
            f = self.expect(DATA, stream)
            body += f.payload
        else:
            status = f.code if f.type == RESPONSE else status
        return Answer(status, head, body)

    def get(self, path, **kwargs):
        return self.answer(self.request(path, **kwargs))


class Listener:
    def __init__(self, path):
        self.path = path
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(self.path)
        self.sock.listen(16)
        self.sock.settimeout(DEADLINE)

    def accept(self):
        return self.sock.accept()[0]

    def close(self):
        self.sock.close()
        if os.path.exists(self.path):
            os.unlink(self.path)
