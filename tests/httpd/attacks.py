#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attacks on h-httpd while an honest client is served. Standard library only.

  attacks.py --serve PROGRAM            the server over a fake core, started here (the unit test)
  attacks.py --device HOST:PORT [--path /system/status] [--token T]
                                        a running device; what needs the fake core is left out
  attacks.py --device HOST:PORT --canned [--pid PID]
                                        one in which canned-app.py answers like the fake core
"""
import argparse
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

DEADLINE = 60
MEMORY = 100 << 20  # what one attack may make the server hold; the unit's MemoryMax is 256 MiB
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9


class Target:
    def __init__(self, host, tls_port, plain_port=None, path="/hello", token=None, fake=True):
        self.host, self.tls_port, self.plain_port = host, tls_port, plain_port
        self.path, self.token, self.fake = path, token, fake
        self.pid = None
        self.authority = f"localhost:{tls_port}"

    def memory(self):
        """What the server holds, in bytes; 0 where that is not to be seen."""
        if not self.pid:
            return 0
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

    def check_memory(self, before, most=MEMORY):
        grown = self.memory() - before
        if grown > most:
            raise AssertionError(f"{grown >> 20} MiB were held")

    def socket(self):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def connect(self, alpn="h2", rcvbuf=None):
        raw = self.socket()
        if rcvbuf:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        raw.settimeout(DEADLINE)
        raw.connect((self.host, self.tls_port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        return context.wrap_socket(raw, server_hostname="localhost")


def literal(name, value):
    """One HPACK field, literal without indexing, no Huffman."""
    def string(s):
        n = len(s)
        if n < 127:
            return bytes([n]) + s
        rest, out = n - 127, b"\x7f"
        while rest >= 128:
            out += bytes([rest % 128 + 128])
            rest //= 128
        return out + bytes([rest]) + s
    return b"\x00" + string(name.encode()) + string(value.encode())


class Http2:
    """Just enough of HTTP/2 to misuse it."""

    def __init__(self, target, rcvbuf=None, window=None):
        self.target = target
        self.sock = target.connect("h2", rcvbuf)
        assert self.sock.selected_alpn_protocol() == "h2"
        settings = struct.pack(">HI", 4, window) if window is not None else b""
        self.sock.sendall(PREFACE + self.frame(SETTINGS, 0, 0, settings))
        self.next_stream = 1

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def request(self, path=None, method="GET", end=True, fields=(), authority=None, token=None):
        block = (literal(":method", method) + literal(":scheme", "https") +
                 literal(":path", path or self.target.path) +
                 literal(":authority", authority or self.target.authority))
        token = token or self.target.token
        if token:
            block += literal("authorization", "Bearer " + token)
        for name, value in fields:
            block += literal(name, value)
        stream = self.next_stream
        self.next_stream += 2
        return stream, self.frame(HEADERS, 4 | (1 if end else 0), stream, block)

    def send(self, data):
        self.sock.sendall(data)

    def read_exact(self, n):
        out = b""
        while len(out) < n:
            piece = self.sock.recv(n - len(out))
            if not piece:
                raise EOFError
            out += piece
        return out

    def read_frame(self):
        head = self.read_exact(9)
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self.read_exact(size)
        if kind == SETTINGS and not flags & 1:
            self.send(self.frame(SETTINGS, 1, 0))
        return kind, flags, stream, payload

    def exchange(self, **arguments):
        """One request; the response's body when the stream ends."""
        stream, data = self.request(**arguments)
        self.send(data)
        body, status = b"", None
        while True:
            kind, flags, at, payload = self.read_frame()
            if at == stream and kind == HEADERS:
                status = payload[:1]
            if at == stream and kind == DATA:
                body += payload
                if payload:
                    update = struct.pack(">I", len(payload))
                    self.send(self.frame(WINDOW, 0, 0, update) + self.frame(WINDOW, 0, stream, update))
            if at == stream and kind == RST:
                raise ConnectionError("reset")
            if at == stream and kind in (HEADERS, DATA) and flags & 1:
                return status, body

    def wait_end(self):
        """Until the server has closed the connection."""
        try:
            while True:
                self.read_frame()
        except (EOFError, ConnectionError, ssl.SSLError):
            return
        finally:
            self.sock.close()


class Honest(threading.Thread):
    """Asks again and again on one connection; every answer must come, whole, in time."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.stopping, self.answers, self.failure = target, False, 0, None

    def run(self):
        try:
            client = Http2(self.target)
            while not self.stopping:
                status, body = client.exchange()
                if status != b"\x88" or (self.target.fake and body != b"hello world\n"):
                    raise AssertionError(f"status {status!r} body {body!r}")
                self.answers += 1
                time.sleep(0.005)
        except Exception as e:  # told by check()
            self.failure = e

    def progress(self):
        before, end = self.answers, time.monotonic() + DEADLINE
        while self.answers < before + 3:
            if self.failure:
                raise AssertionError(f"the honest client failed: {self.failure!r}")
            if time.monotonic() > end:
                raise AssertionError("the honest client is not served any more")
            time.sleep(0.01)


def raw(target, data, tls=True):
    """Everything that comes back until the server closes."""
    if tls:
        sock = target.connect("http/1.1")
    else:
        sock = socket.create_connection((target.host, target.plain_port), DEADLINE)
    out = b""
    try:
        sock.sendall(data)
        while True:
            piece = sock.recv(65536)
            if not piece:
                break
            out += piece
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        sock.close()
    return out


def statuses(answer):
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# --- attacks ----------------------------------------------------------------------------------------

ENDS = (ConnectionError, ssl.SSLError, EOFError, TimeoutError)


def flood(target, batch, most=200000):
    """Sends what batch(client) makes until the server ends the connection; so many streams are too many."""
    client = Http2(target)
    try:
        while client.next_stream < 2 * most:
            client.send(batch(client))
    except ENDS:
        client.wait_end()
        return
    raise AssertionError(f"{most} aborted streams were taken")


def reset_flood(target, honest, more, path=None, method="GET", end=True):
    """Requests, each followed by the frame that more(stream) makes."""
    def batch(client):
        requests = [client.request(path, method, end) for _ in range(50)]
        return b"".join(data + more(stream) for stream, data in requests)
    flood(target, batch)
    honest.progress()


def reset(stream):
    return Http2.frame(RST, 0, stream, struct.pack(">I", 8))


def window(stream, size):
    return Http2.frame(WINDOW, 0, stream, struct.pack(">I", size))


def rapid_reset(target, honest):
    reset_flood(target, honest, reset)


def reset_of_slow_requests(target, honest):
    def batch(client):
        requests = [client.request("/slow") for _ in range(20)]
        return b"".join(data for _, data in requests) + b"".join(reset(stream) for stream, _ in requests)
    flood(target, batch)
    honest.progress()


def made_you_reset(target, honest):
    """Window updates of zero make the server reset what it is working on (CVE-2025-8671)."""
    reset_flood(target, honest, lambda stream: window(stream, 0), "/slow" if target.fake else None)


def made_you_reset_by_data(target, honest):
    """Data after the end of the stream does the same."""
    reset_flood(target, honest, lambda stream: Http2.frame(DATA, 0, stream, b"x"), "/slow" if target.fake else None)


def resets_before_requests(target, honest):
    """Streams that never become requests come to no handler."""
    reset_flood(target, honest, reset, method="POST", end=False)


def window_games(target, honest):
    """Windows of streams whose last byte is on its way, moved up and down: the library asserts that nobody does."""
    def saturated(initial, change):
        client = Http2(target, rcvbuf=4096, window=initial)
        client.sock.settimeout(1)  # elsewhere there may be nothing large to ask for
        out, small = window(0, 1 << 30), []
        for _ in range(5):
            stream, data = client.request("/stream" if target.fake else None)
            out += data + window(stream, 1 << 21)
        client.send(out)
        time.sleep(0.1)
        for _ in range(40):
            stream, data = client.request("/hello" if target.fake else None)
            small.append(stream)
            client.send(data)
        try:
            for stream in small:
                size = 0
                while size < 20000:
                    piece = client.sock.recv(16384)
                    if not piece:
                        return
                    size += len(piece)
                time.sleep(0.005)
                client.send(change(stream))
        except ENDS:
            pass
        finally:
            client.sock.close()

    def settings(size):
        return Http2.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, size))
    for change in (lambda stream: window(stream, 1), lambda stream: settings(0) + settings(1 << 20),
                   lambda stream: reset(stream) + window(stream, 1), lambda stream: window(stream, (1 << 31) - 1),
                   lambda stream: settings(0x7fffffff) + settings(0) + settings(0x7fffffff)):
        saturated(12, change)
        honest.progress()


def many_fields(target, honest):
    """A byte of header block for each field, in frames of continuation: sixty times as much memory."""
    before = target.memory()
    for _ in range(30):
        client = Http2(target)
        try:
            for _ in range(20):
                stream, data = client.request("/slow" if target.fake else None)
                client.send(Http2.frame(HEADERS, 1, stream, data[9:]) +
                            Http2.frame(CONTINUATION, 0, stream, b"\x90" * 16000) * 20 +
                            Http2.frame(CONTINUATION, 4, stream, b"\x90" * 1000))
        except ENDS:
            pass
        client.wait_end()
        honest.progress()
    target.check_memory(before)
    # A hundred fields in one frame are many; more are too many, and so is one that is large.
    for fields, served in (([("x-a", "b")] * 90, True), ([("x-a", "b")] * 110, False),
                           ([("x-a", "b" * 15000)], True), ([("x-a", "b" * 15000)] * 3, False)):
        client = Http2(target)
        try:
            client.exchange(fields=fields)
            answered = True
        except ENDS:
            answered = False
        client.sock.close()
        if answered != served:
            raise AssertionError(f"{len(fields)} fields of {len(fields[0][1])}: {answered}")


def smuggling(target, honest):
    hidden = b"GET /evil HTTP/1.1\r\nHost: localhost\r\n\r\n"
    host = b"Host: localhost\r\n"
    bad = {
        "length and coding": b"POST /echo HTTP/1.1\r\n" + host +
                             b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        "coding and length": b"POST /echo HTTP/1.1\r\n" + host +
                             b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hidden,
        "two lengths": b"POST /echo HTTP/1.1\r\n" + host +
                       b"Content-Length: 0\r\nContent-Length: 42\r\n\r\n" + hidden,
        "signed length": b"POST /echo HTTP/1.1\r\n" + host + b"Content-Length: +0\r\n\r\n" + hidden,
        "two hosts": b"GET /hello HTTP/1.1\r\n" + host + b"Host: localhost\r\n\r\n" + hidden,
        "no host": b"GET /hello HTTP/1.1\r\n\r\n" + hidden,
        "bare LF": b"GET /hello HTTP/1.1\nHost: localhost\n\n" + hidden,
        "bare LF in a field": b"GET /hello HTTP/1.1\r\n" + host + b"A: b\nC: d\r\n\r\n" + hidden,
        "space before colon": b"GET /hello HTTP/1.1\r\n" + host + b"Content-Length : 0\r\n\r\n" + hidden,
        "folded line": b"GET /hello HTTP/1.1\r\n" + host + b"A: b\r\n c\r\n\r\n" + hidden,
        "two codings": b"POST /echo HTTP/1.1\r\n" + host +
                       b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        "coding of HTTP/1.0": b"POST /echo HTTP/1.0\r\n" + host +
                              b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
    }
    for name, data in bad.items():
        for tls in (True, False) if target.plain_port else (True,):
            answer = raw(target, data, tls)
            if statuses(answer) not in ([400], []):
                raise AssertionError(f"{name}: {answer[:300]!r}")
    # A good request with a body is answered, and what follows it is not taken for another.
    after = (b"POST /echo HTTP/1.1\r\n" + host + b"Content-Length: 0\r\n\r\n" + hidden,
             b"POST /echo HTTP/1.1\r\n" + host + b"Content-Length: 3\r\n\r\nabc" + hidden,
             b"POST /echo HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + hidden)
    for data in after:
        if len(statuses(raw(target, data))) != 1:
            raise AssertionError(f"answered twice: {data!r}")
    honest.progress()


def encoded_paths(target, honest):
    client = Http2(target)
    for path, expected in (("/echo/%252e%252e/x", b"GET /echo/%2e%2e/x "),
                           ("/echo/%2e%2e/echo/y", b"GET /echo/y "),
                           ("/echo/a/..%2fb", b"GET /echo/b "),
                           ("/nothing/../echo/./c", b"GET /echo/c "),
                           ("/echo/caf%c3%a9", b"GET /echo/caf\xc3\xa9 ")):
        status, body = client.exchange(path=path)
        if not body.startswith(expected):
            raise AssertionError(f"{path}: {body[:80]!r}")
    for path in ("/echo/%00", "/echo/%0d%0ax", "/echo/%c0%ae%c0%ae/", "/echo/%", "/echo/%2", "/echo/%zz"):
        status, body = client.exchange(path=path)
        if b'"status":400' not in body:
            raise AssertionError(f"{path}: {body[:80]!r}")
    client.sock.close()
    honest.progress()


def hosts(target, honest):
    client = Http2(target)
    for authority in ("evil.example", "localhost.evil.example", "127.0.0.2", "localhost:0", "[::2]"):
        status, body = client.exchange(authority=authority)
        if b'"status":421' not in body:
            raise AssertionError(f"{authority}: {body[:80]!r}")
    client.sock.close()
    honest.progress()


def large_bodies(target, honest):
    """Nothing above the limit is taken, nothing lands in a file."""
    answer = raw(target, b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    if statuses(answer) != [413]:
        raise AssertionError(answer[:200])
    client = Http2(target)
    stream, data = client.request(path="/echo", method="POST", end=False)
    piece = b"x" * 16384
    sent, window = 0, 65535
    client.send(data)
    try:
        while sent < 64 << 20:
            while window < len(piece):
                kind, flags, at, payload = client.read_frame()
                if kind in (RST, GOAWAY):
                    raise EOFError
                if kind == WINDOW and at == 0:
                    window += struct.unpack(">I", payload)[0]
            client.send(client.frame(DATA, 0, stream, piece))
            sent += len(piece)
            window -= len(piece)
        raise AssertionError("64 MiB of body were taken")
    except (EOFError, ConnectionError, ssl.SSLError):
        pass
    client.sock.close()
    honest.progress()


def unfinished_bodies(target, honest):
    """All but the last byte of many large bodies, in HTTP/1 and in HTTP/2."""
    before, piece = target.memory(), b"x" * (1 << 20)
    clients = []

    def upload(send, end):
        try:
            for _ in range(7):
                send(piece)
            send(piece[:-end])
        except ENDS:
            pass
    for _ in range(30):
        sock = target.connect("http/1.1")
        sock.settimeout(5)  # a cut connection may leave its client waiting for a window
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (8 << 20))
        clients.append(sock)
        upload(sock.sendall, 1)
    for _ in range(4):
        client = Http2(target)
        client.sock.settimeout(5)
        clients.append(client.sock)
        for _ in range(8):
            stream, data = client.request("/echo", method="POST", end=False)

            def send(data, stream=stream):
                for at in range(0, len(data), 16000):
                    client.send(Http2.frame(DATA, 0, stream, data[at:at + 16000]))
            try:
                client.send(data)
            except ENDS:
                break
            upload(send, 1)
    honest.progress()
    target.check_memory(before)
    for sock in clients:
        sock.close()
    honest.progress()


def slow_clients(target, honest):
    """Byte by byte, in a TLS handshake, a header, a body: all are cut."""
    def drip(connect, data):
        sock = connect()
        try:
            for byte in data:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
            while sock.recv(4096):
                pass
        except (ConnectionError, ssl.SSLError, BrokenPipeError):
            pass
        finally:
            sock.close()

    def tcp():
        return socket.create_connection((target.host, target.tls_port), DEADLINE)

    def http1():
        return target.connect("http/1.1")

    def h2_body():
        client = Http2(target)
        stream, data = client.request(path="/echo", method="POST", end=False)
        client.send(data)
        return client.sock

    endless = b"GET / HTTP/1.1\r\n" + b"x" * 2000
    body = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 2000
    ping = Http2.frame(PING, 0, 0, b"12345678") * 100
    threads = [threading.Thread(target=drip, args=a, daemon=True) for a in
               ((tcp, b"\x16\x03\x01\x40\x00" + b"x" * 2000), (http1, endless), (http1, body), (h2_body, ping))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        if thread.is_alive():
            raise AssertionError("a slow client was never cut")
        honest.progress()


def stalled_readers(target, honest):
    """Ask for much and read nothing, by TCP or by HTTP/2's window."""
    clients = []
    for window in (0, 1 << 20):
        client = Http2(target, rcvbuf=4096, window=window)
        for _ in range(50):
            client.send(client.request("/stream")[1])
        clients.append(client.sock)
    sock = target.connect("http/1.1", rcvbuf=4096)
    sock.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    clients.append(sock)
    for sock in clients:
        honest.progress()
        # The server's close shows as an error or an end once what is under way has been read.
        try:
            end = time.monotonic() + DEADLINE
            time.sleep(STALL + 3)
            while sock.recv(1 << 20):
                if time.monotonic() > end:
                    raise AssertionError("a stalled reader was kept")
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            sock.close()
    honest.progress()


def connection_flood(target, honest):
    """More than one address may have; the owner with a token still gets in from elsewhere."""
    flood, refused = [], 0
    for _ in range(100):
        try:
            flood.append(target.connect("h2"))
        except (ConnectionError, ssl.SSLError, OSError):
            refused += 1
    if refused == 0:
        raise AssertionError("no limit on connections of one address")
    honest.progress()
    for sock in flood:
        sock.close()


def wrong_tokens(target, honest):
    client = Http2(target)
    for token in ("bad", "x" * 500, "good\x01"):
        try:
            status, body = client.exchange(token=token)
        except (ConnectionError, EOFError):
            client = Http2(target)
            continue
        if b'"status":4' not in body and b"invalid character" not in body:
            raise AssertionError(f"{token!r}: {body[:100]!r}")
    client.sock.close()
    if target.fake:
        status, body = Http2(target).exchange(path="/echo", token="good", fields=[("cookie", "a=b"),
                                              ("x-forwarded-for", "1.2.3.4"), ("accept", "x/y")])
        if b"authorization" in body or b"cookie" in body or b"forwarded" in body or b"accept: x/y" not in body:
            raise AssertionError(body)
    honest.progress()


def cross_origin(target, honest):
    client = Http2(target)
    for origin, expected in (("https://evil.example", b'"status":403'), ("null", b'"status":403'),
                             ("https://friend.example", b"POST /echo"),
                             ("https://" + target.authority, b"POST /echo")):
        status, body = client.exchange(path="/echo", method="POST", fields=[("origin", origin)])
        if expected not in body:
            raise AssertionError(f"{origin}: {body[:100]!r}")
    client.sock.close()
    honest.progress()


def frame_floods(target, honest):
    """Frames that cost the client nothing: nobody else waits, and what they make us hold is bounded."""
    empty = Http2.frame(CONTINUATION, 0, 1)
    floods = {
        "ping": Http2.frame(PING, 0, 0, b"12345678") * 1000,
        "settings": Http2.frame(SETTINGS, 0, 0) * 1000,
        "priority": b"".join(Http2.frame(PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 0, 1)) for i in range(1000)),
        "unknown": Http2.frame(0x77, 0, 0, b"unknown") * 1000,
        "continuation": Http2.frame(HEADERS, 1, 1, b"x") + Http2.frame(CONTINUATION, 0, 1, b"y" * 16000) * 1000,
        "empty continuation": Http2.frame(HEADERS, 1, 1) + empty * 1000,
        "empty data": Http2(target).request(method="POST", end=False)[1] + Http2.frame(DATA, 0, 1) * 1000,
        "window": window(0, 1) * 1000,
    }
    before = target.memory()
    for batch in floods.values():
        client = Http2(target)
        try:
            client.sock.settimeout(2)
            for _ in range(500):
                client.send(batch)  # and nothing is read
        except ENDS:
            pass
        honest.progress()
        client.sock.close()
    target.check_memory(before)


STALL = 2
ANYWHERE = [rapid_reset, made_you_reset, made_you_reset_by_data, resets_before_requests, window_games, many_fields,
            hosts, frame_floods, connection_flood]
# What the fake core answers, a real app can answer too (canned-app.py), but for the tokens.
CANNED = [reset_of_slow_requests, smuggling, encoded_paths, large_bodies, unfinished_bodies, cross_origin, slow_clients,
          stalled_readers]
FAKE_ONLY = [wrong_tokens]


# --- running ----------------------------------------------------------------------------------------

def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Served:
    def __init__(self, program, *settings, stall=STALL):
        self.directory = tempfile.mkdtemp(prefix="httpd-attacks-")
        os.mkdir(self.directory + "/files")
        tls, plain = free_ports(2)
        self.process = subprocess.Popen(
            [program, self.directory, str(tls), str(plain), "[timeouts]", "Request = 3", "Idle = 4",
             f"Stall = {stall}", *settings],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if b"ready" not in self.process.stdout.readline():
            raise SystemExit("the server does not start")
        self.target = Target("127.0.0.1", tls, plain)
        self.target.pid = self.process.pid

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(DEADLINE)
        shutil.rmtree(self.directory)
        return status


def run(target, attacks):
    failed = 0
    for attack in attacks:
        honest = Honest(target)
        honest.start()
        try:
            honest.progress()
            started = time.monotonic()
            attack(target, honest)
            print(f"ok   {attack.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception as e:
            print(f"FAIL {attack.__name__}: {e!r}", flush=True)
            failed += 1
        honest.stopping = True
        honest.join(DEADLINE)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve")
    parser.add_argument("--device")
    parser.add_argument("--path", default="/system/status")
    parser.add_argument("--token")
    parser.add_argument("--canned", action="store_true")
    parser.add_argument("--pid", help="of the server, to see what it holds")
    parser.add_argument("attacks", nargs="*")
    a = parser.parse_args()
    there = ANYWHERE + (CANNED + FAKE_ONLY if a.serve else CANNED if a.canned else [])
    chosen = [f for f in there if not a.attacks or f.__name__ in a.attacks]
    if a.serve:
        served = Served(a.serve)
        failed = run(served.target, chosen)
        status = served.end()
        if status != 0:
            print(f"FAIL the server ended with status {status}")
            failed = max(failed, 1)
    else:
        host, port = a.device.rsplit(":", 1)
        target = Target(host, int(port), path="/hello" if a.canned else a.path, token=a.token, fake=a.canned)
        target.pid = a.pid
        failed = run(target, chosen)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
