#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What h-httpd offers, over the fake core: features.py --serve PROGRAM. Standard library only."""
import argparse
import gzip
import http.client
import os
import select
import socket
import ssl
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import attacks  # noqa: E402
from attacks import CONTINUATION, DATA, GOAWAY, HEADERS, RST, WINDOW, Http2, Served  # noqa: E402


def ask(target, path, method="GET", body=None, **headers):
    context = ssl._create_unverified_context()
    client = http.client.HTTPSConnection("localhost", target.tls_port, timeout=attacks.DEADLINE, context=context)
    client.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = client.getresponse()
    data = answer.read()
    client.close()
    return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), data


def expect(actual, wanted):
    if actual != wanted:
        raise AssertionError(f"{actual!r} instead of {wanted!r}")


def order(served, letter):
    served.process.stdin.write(letter)
    served.process.stdin.flush()


def revoke(served):
    """Takes the files from everybody; what was on its way is cut when this returns."""
    order(served, b"v")
    expect(served.process.stdout.readline(), b"settled\n")


def write(served, name, data):
    path = f"{served.directory}/files/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    return path


TEXT = b"".join(b"line %d of text\n" % i for i in range(1000))


def static_names(served):
    """What is a file, what is a page of a directory, and what is nobody's business."""
    write(served, "page.txt", TEXT)
    write(served, "index.html", b"<p>root</p>")
    write(served, "sub/index.html", b"<p>sub</p>")
    write(served, "empty", b"")
    write(served, "caf\u00e9 %41.css", b"p {}")
    write(served, ".hidden/secret", b"secret")
    write(served, "sub/.secret", b"secret")
    write(served, ".well-known/acme", b"token")
    write(served, ".well-known/.secret", b"secret")
    write(served, "../secret", b"secret")
    write(served, "nodes/secret", b"secret")
    os.makedirs(served.directory + "/files/bare", exist_ok=True)
    for name, to in (("out", "../secret"), ("absolute", served.directory + "/secret"), ("up", ".."), ("loop", "loop"),
                     ("in", "sub/index.html"), ("folder", "sub"), ("proc", "/proc/self/fd/0")):
        os.symlink(to, f"{served.directory}/files/{name}")
    os.mkfifo(served.directory + "/files/pipe")
    # Judged like everything else: first nobody may.
    for path in ("/page.txt", "/nothing", "/%2e%2e/secret"):
        expect(ask(served.target, path)[0], 401)
    order(served, b"g")
    types = {"/page.txt": "text/plain; charset=utf-8", "/": "text/html; charset=utf-8",
             "/sub/": "text/html; charset=utf-8", "/caf%c3%a9%20%2541.css": "text/css; charset=utf-8",
             "/empty": "application/octet-stream",
             "/.well-known/acme": "application/octet-stream", "/sub/../page.txt": "text/plain; charset=utf-8"}
    for path, kind in types.items():
        status, fields, body = ask(served.target, path)
        expect((path, status, fields["content-type"], fields["x-content-type-options"]), (path, 200, kind, "nosniff"))
        expect(int(fields["content-length"]), len(body))
        expect(ask(served.target, path, "HEAD")[1]["content-length"], fields["content-length"])
    expect("script-src 'self'" in ask(served.target, "/")[1]["content-security-policy"], True)
    expect(ask(served.target, "/page.txt")[2], TEXT)
    status, fields, _ = ask(served.target, "/sub?a=b")
    expect((status, fields["location"]), (301, "/sub/?a=b"))
    for path in ("/nothing", "/page.txt/", "/page.txt/x", "/bare/", "/.hidden/secret", "/sub/.secret", "/%2ehidden/secret",
                 "/.well-known/.secret", "/../secret", "/%2e%2e/secret", "/%2e%2e%2fsecret", "/sub/%2e%2e/%2e%2e/secret",
                 "/..%5csecret", "/out", "/absolute", "/up/secret", "/loop", "/in", "/folder/index.html", "/folder/", "/proc", "/pipe", "//page.txt", "//evil/..",
                 "/nodes/secret", "/" + "x" * 300, "/" + "x/" * 900):
        expect((path, ask(served.target, path)[0]), (path, 404))
    expect(ask(served.target, "/page.txt%00")[0], 400)
    for method, status in (("PUT", 405), ("POST", 405), ("DELETE", 405), ("OPTIONS", 204)):
        answer = ask(served.target, "/page.txt", method)
        expect((answer[0], answer[1]["allow"]), (status, "GET, HEAD, OPTIONS"))
    os.rename(served.directory + "/files", served.directory + "/away")
    expect(ask(served.target, "/page.txt")[0], 404)
    os.rename(served.directory + "/away", served.directory + "/files")
    expect(ask(served.target, "/page.txt")[0], 200)


def static_ranges(served):
    size = len(TEXT)
    for wanted, first, last in (("0-0", 0, 0), ("5-", 5, size - 1), ("-7", size - 7, size - 1), ("10-19", 10, 19),
                                (f"100-{size * 9}", 100, size - 1), (f"-{size * 9}", 0, size - 1)):
        status, fields, body = ask(served.target, "/page.txt", range="bytes=" + wanted, accept_encoding="gzip")
        expect((wanted, status, fields["content-range"]), (wanted, 206, f"bytes {first}-{last}/{size}"))
        expect(body, TEXT[first:last + 1])
        expect(int(fields["content-length"]), len(body))
    for wanted in (f"{size}-", "-0", f"{size}-{size + 5}, -0"):
        status, fields, _ = ask(served.target, "/page.txt", range="bytes=" + wanted)
        expect((wanted, status, fields["content-range"]), (wanted, 416, f"bytes */{size}"))
    # What is malformed, of another kind or too much counts for nothing.
    for wanted in ("bytes=", "bytes=a-b", "bytes=5-4", "bytes=--1", "lines=1-2", "bytes=0-,0-", "bytes=" + "0-0," * 20,
                   "bytes=99999999999999999999-"):
        status, fields, body = ask(served.target, "/page.txt", range=wanted)
        expect((wanted, status, body == TEXT), (wanted, 200, True))
    status, fields, body = ask(served.target, "/page.txt", range="bytes=0-3, 10-19 ,-5")
    expect((status, int(fields["content-length"])), (206, len(body)))
    kind, _, boundary = fields["content-type"].partition("; boundary=")
    expect(kind, "multipart/byteranges")
    parts = body.split(b"\r\n--" + boundary.encode())
    expect((parts[0], parts[-1]), (b"", b"--\r\n"))
    for part, (first, last) in zip(parts[1:-1], ((0, 3), (10, 19), (size - 5, size - 1)), strict=True):
        head, _, data = part.partition(b"\r\n\r\n")
        expect(data, TEXT[first:last + 1])
        expect(b"Content-Range: bytes %d-%d/%d" % (first, last, size) in head, True)
        expect(b"Content-Type: text/plain; charset=utf-8" in head, True)
    status, fields, body = ask(served.target, "/page.txt", "HEAD", range="bytes=0-3")
    expect((status, int(fields["content-length"])), (200, size))
    expect(ask(served.target, "/empty", range="bytes=0-")[0], 416)
    expect(ask(served.target, "/empty")[2], b"")


def static_conditions(served):
    status, fields, _ = ask(served.target, "/page.txt")
    etag, modified = fields["etag"], fields["last-modified"]
    expect((fields["cache-control"], fields["accept-ranges"], etag[0]), ("private, no-cache", "bytes", '"'))
    before, after = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 31 Dec 2100 00:00:00 GMT"
    for status, conditions in (
            (304, {"if_none_match": etag}), (304, {"if_none_match": "*"}), (304, {"if_none_match": f'"a", W/{etag}'}),
            (200, {"if_none_match": '"a"'}), (304, {"if_modified_since": modified}), (200, {"if_modified_since": before}),
            (304, {"if_modified_since": after}), (200, {"if_modified_since": "yesterday"}),
            (200, {"if_none_match": '"a"', "if_modified_since": after}),
            (200, {"if_match": etag}), (200, {"if_match": "*"}), (412, {"if_match": '"a"'}), (412, {"if_match": "W/" + etag}),
            (412, {"if_unmodified_since": before}), (200, {"if_unmodified_since": modified}),
            (200, {"if_match": etag, "if_unmodified_since": before}),
            (206, {"range": "bytes=0-1", "if_range": etag}), (200, {"range": "bytes=0-1", "if_range": '"a"'}),
            (200, {"range": "bytes=0-1", "if_range": "W/" + etag}), (206, {"range": "bytes=0-1", "if_range": modified}),
            (200, {"range": "bytes=0-1", "if_range": after}), (304, {"range": "bytes=0-1", "if_none_match": etag})):
        answer = ask(served.target, "/page.txt", **conditions)
        expect((conditions, answer[0]), (conditions, status))
        if status == 304:
            expect((answer[1]["etag"], answer[2], "content-length" in answer[1]), (etag, b"", False))
        expect(ask(served.target, "/page.txt", "HEAD", **conditions)[0], 200 if status == 206 else status)
    # Two fields of the same name are one list; in both versions of the protocol.
    client = Http2(served.target)
    client.send(client.request("/page.txt", fields=[("if-none-match", '"a"'), ("if-none-match", etag)])[1])
    while (frame := client.read_frame())[0] != HEADERS:
        pass
    expect(frame[3][0], 0x8b)  # 304
    client.sock.close()
    # Another content, another tag.
    write(served, "page.txt", TEXT[:-1] + b"x")
    expect(ask(served.target, "/page.txt", if_none_match=etag)[0], 200)
    write(served, "page.txt", TEXT)
    # From a device without a clock: never later than now.
    os.utime(served.directory + "/files/page.txt", (1 << 33, 1 << 33))
    expect("last-modified" in ask(served.target, "/page.txt")[1], False)


def static_gzip(served):
    for path, packed in (("/page.txt", True), ("/sub/", False), ("/picture.png", False)):
        write(served, "picture.png", TEXT)
        status, fields, body = ask(served.target, path, accept_encoding="gzip, br")
        plain = ask(served.target, path)
        expect((path, status, fields.get("content-encoding")), (path, 200, "gzip" if packed else None))
        expect(gzip.decompress(body) if packed else body, plain[2])
        if packed:
            expect((fields["vary"], plain[1]["vary"], fields["accept-ranges"]), ("accept-encoding",) * 2 + ("none",))
            expect(fields["etag"], "W/" + plain[1]["etag"])  # not byte for byte the same
            expect(ask(served.target, path, accept_encoding="gzip", if_none_match=fields["etag"])[0], 304)
            expect(ask(served.target, path, if_none_match=fields["etag"])[0], 304)
            answer = ask(served.target, path, range="bytes=0-9", if_range=fields["etag"])
            expect((answer[0], answer[2]), (200, TEXT))
        expect(ask(served.target, path, accept_encoding="gzip;q=0")[1].get("content-encoding"), None)
    client = Http2(served.target)
    body = client.exchange(path="/page.txt", fields=[("accept-encoding", "gzip")])[1]
    expect(gzip.decompress(body), TEXT)
    client.sock.close()


def static_revoked(served):
    """A revoke cuts the files on their way, read slowly or not, and nothing else on the same connection."""
    data = os.urandom(1 << 20) * 32
    write(served, "large", data)
    clients = [Http2(served.target, rcvbuf=4096, window=1 << 30), Http2(served.target, window=100000)]
    for client in clients:
        stream, request = client.request("/large")
        client.send(client.frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30)) + request)
        while client.read_frame()[0] != DATA:
            pass
    other = clients[1].request("/stream")
    clients[1].send(other[1] + clients[1].frame(WINDOW, 0, other[0], struct.pack(">I", 1 << 20)))
    plain = socket.create_connection(("127.0.0.1", served.target.plain_port), attacks.DEADLINE)
    plain.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    expect(plain.recv(100).startswith(b"HTTP/1.1 200"), True)
    revoke(served)
    for client in clients:
        size, whole = 0, 0
        while True:
            kind, flags, at, payload = client.read_frame()
            if at == stream and kind == DATA:
                size += len(payload)
                expect(flags & 1, 0)
            elif kind == DATA:
                whole += len(payload)
            elif kind == RST:
                expect(at, stream)
                break
        expect(size < len(data), True)
        while client is clients[1] and whole < 1 << 20:
            kind, flags, at, payload = client.read_frame()
            whole += len(payload) if kind == DATA and at == other[0] else 0
        expect(client.exchange()[1], b"hello world\n")
        client.sock.close()
    size = 0
    try:
        while piece := plain.recv(1 << 20):
            size += len(piece)
    except ConnectionError:
        pass
    expect(size < len(data), True)
    plain.close()
    expect(ask(served.target, "/page.txt")[0], 401)
    order(served, b"g")
    expect(ask(served.target, "/large")[2] == data, True)


def static_shrinking(served):
    """A file that becomes shorter while it is read is not taken for whole."""
    path = write(served, "shrinking", b"x" * (8 << 20))
    client = Http2(served.target, window=1000)
    stream, request = client.request("/shrinking")
    client.send(request)
    while client.read_frame()[0] != DATA:
        pass
    os.truncate(path, 100)
    client.send(client.frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30)) +
                client.frame(WINDOW, 0, stream, struct.pack(">I", 1 << 30)))
    while (frame := client.read_frame())[0] != RST:
        expect(frame[1] & 1 if frame[0] == DATA else 0, 0)
    client.sock.close()


def metrics(served):
    """Counters agree with what was done."""
    def read():
        status, fields, body = ask(served.target, "/system/http/metrics")
        expect((status, fields["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
        lines = body.decode().splitlines()
        types = dict(line.split()[2:] for line in lines if line.startswith("# TYPE "))
        values = {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}
        expect(types.keys(), values.keys())
        for name, kind in types.items():
            expect(kind, "counter" if name.endswith("_total") else "gauge")
        return {name.removeprefix("hybridos_http_"): value for name, value in values.items()}
    before = read()
    for _ in range(3):
        ask(served.target, "/hello")
    ask(served.target, "/nowhere", "POST", b"12345")
    ask(served.target, "/hello", host="evil.example")
    attacks.raw(served.target, b"GET /hello HTTP/1.1\r\n\r\n")
    client = Http2(served.target)
    client.send(client.request("/events", fields=[("accept", "text/event-stream")])[1])
    read_until(client, b"retry")
    after = read()
    client.sock.close()
    moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    size = len(ask(served.target, "/system/http/metrics")[2])
    sent = moved.pop("response_body_bytes_total")
    expect(size < sent < size + 2000, True)
    # The second reading is itself a request that has not been answered yet.
    expect(moved, {"connections_total": 8, "requests_total": 8, "responses_2xx_total": 4, "responses_4xx_total": 3,
                   "request_body_bytes_total": 5, "requests_misdirected_total": 1, "requests_bad_total": 1,
                   "streams_total": 1, "streams": 1, "connections": 1})
    expect(ask(served.target, "/system/http/metrics", "POST")[0], 405)
    revoke(served)
    status, fields, body = ask(served.target, "/system/http/metrics")
    expect((status, fields["www-authenticate"], b'"audit":"f00d-7"' in body), (401, "Bearer", True))
    order(served, b"g")


def methods(served):
    status, headers, body = ask(served.target, "/hello", "HEAD")
    expect((status, headers["content-length"], body), (200, "12", b""))
    status, headers, body = ask(served.target, "/echo?a=b", "PATCH", b"x" * 100000)
    expect(status, 200)
    expect(body.startswith(b"PATCH /echo ?a=b\n") and body.endswith(b"x" * 100000), True)
    expect(ask(served.target, "/hello", "TRACE")[0], 405)
    expect(ask(served.target, "/nodes/x", authorization="Bearer good", method="POST")[0], 404)


def trailers(served):
    """What comes behind a body is no part of the header, and no credential."""
    for fields in ([("x-late", "1")], [("authorization", "Bearer bad")]):
        client = Http2(served.target)
        stream, data = client.request("/echo", method="POST", end=False)
        client.send(data + Http2.frame(DATA, 0, stream, b"body") +
                    Http2.frame(HEADERS, 5, stream, b"".join(attacks.literal(*f) for f in fields)))
        body = read_until(client, b"body")
        expect((b"x-late" in body, b"401" in body), (False, False))
        client.sock.close()
    answer = attacks.raw(served.target, b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                         b"Trailer: x-late\r\n\r\n4\r\nbody\r\n0\r\nx-late: 1\r\n\r\n")
    expect((attacks.statuses(answer), b"x-late: 1" in answer), ([200], False))


def refused_bodies(served):
    """The refusal of a body comes through to a client that is still sending it, and to one that asked first."""
    for more in (b"Content-Length: 12000000\r\n", b"Transfer-Encoding: chunked\r\n"):
        sock = socket.create_connection(("127.0.0.1", served.target.plain_port), attacks.DEADLINE)
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")
        while not select.select([sock], [], [], 0)[0]:
            sock.sendall(b"186a0\r\n" + b"x" * 100000 + b"\r\n")
        sock.sendall(b"x" * 1000000)  # was under way already
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        expect(attacks.statuses(answer), [413])
    for size, statuses in ((3, [100, 200]), (12000000, [413])):
        answer, sock = b"", served.target.connect("http/1.1")
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
                     % size)
        while piece := sock.recv(65536):
            answer += piece
            if attacks.statuses(answer) == [100]:
                sock.sendall(b"abc")
        expect(attacks.statuses(answer), statuses)
    answer = attacks.raw(served.target, b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
                         b"Expect: something\r\n\r\nabc")
    expect(attacks.statuses(answer), [417])


def headers(served):
    status, fields, body = ask(served.target, "/evil")
    expect((status, body, fields["content-length"], fields["x-fine"]), (200, b"evil", "4", "yes"))
    for name in ("set-cookie", "strict-transport-security", "access-control-allow-origin", "clear-site-data",
                 "service-worker-allowed", "transfer-encoding"):
        expect(name in fields, False)
    expect(fields["x-content-type-options"], "nosniff")
    expect("script-src 'self'" in fields["content-security-policy"], True)
    expect(ask(served.target, "/html")[1]["content-security-policy"], "sandbox")


def credentials(served):
    status, fields, _ = ask(served.target, "/hello", authorization="Bearer bad")
    expect((status, fields["www-authenticate"]), (401, "Bearer"))
    status, fields, _ = ask(served.target, "/hello", authorization="Bearer throttled")
    expect((status, fields["retry-after"]), (429, "2"))
    expect(ask(served.target, "/hello", authorization="Basic eDp5")[0], 401)
    # Several principals in one connection; a wrong one harms no other.
    client = Http2(served.target)
    expect(client.exchange(token="good")[1], b"hello world\n")
    expect(b'"status":401' in client.exchange(token="bad")[1], True)
    expect(client.exchange(token="good")[1], b"hello world\n")
    expect(client.exchange()[1], b"hello world\n")
    client.sock.close()


def cors(served):
    origin = "https://friend.example"
    status, fields, _ = ask(served.target, "/hello", "OPTIONS", origin=origin, Access_Control_Request_Method="PUT")
    expect((status, fields["access-control-allow-origin"]), (204, origin))
    expect("authorization" in fields["access-control-allow-headers"], True)
    status, fields, _ = ask(served.target, "/hello", origin=origin)
    expect((status, fields["access-control-allow-origin"], fields["vary"]), (200, origin, "origin"))
    status, fields, _ = ask(served.target, "/hello", origin="https://evil.example")
    expect((status, "access-control-allow-origin" in fields), (200, False))
    status, fields, _ = ask(served.target, "/hello", "OPTIONS", origin="https://evil.example",
                            Access_Control_Request_Method="PUT")
    expect(status, 403)


def streaming(served):
    for _ in range(3):
        expect(ask(served.target, "/stream")[2], b"x" * (1 << 20))
        expect(Http2(served.target).exchange(path="/stream")[1], b"x" * (1 << 20))
    # Cut in the middle: the server goes on.
    client = Http2(served.target)
    client.send(client.request("/stream")[1])
    while client.read_frame()[0] != DATA:
        pass
    client.sock.close()
    expect(ask(served.target, "/hello")[0], 200)


def read_until(client, mark, seen=b""):
    while mark not in seen:
        kind, flags, stream, payload = client.read_frame()
        if kind == DATA:
            seen += payload
            if payload:
                client.send(client.frame(WINDOW, 0, 0, struct.pack(">I", len(payload))))
    return seen


def events(served):
    client = Http2(served.target)
    client.send(client.request("/events", fields=[("accept", "text/event-stream")])[1])
    seen = read_until(client, b"second line\n\n")
    expect(seen.startswith(b"retry: "), True)
    expect(b"id: v1\ndata: value v1\ndata: second line\n\n" in seen, True)
    expect(b"gap" in seen, False)
    expect(ask(served.target, "/events/next")[0], 200)
    read_until(client, b"id: v2\ndata: value v2\n")
    client.sock.close()
    # Back after v1: told of the gap, then the latest value. Back after v2: nothing was missed.
    client = Http2(served.target)
    client.send(client.request("/events", fields=[("accept", "text/event-stream"), ("last-event-id", "v1")])[1])
    seen = read_until(client, b"second line\n\n")
    expect(b'event: gap\ndata: {"after":"v1"}\n\nid: v2\n' in seen, True)
    client.sock.close()
    client = Http2(served.target)
    client.send(client.request("/events", fields=[("accept", "text/event-stream"), ("last-event-id", "v2")])[1])
    expect(ask(served.target, "/events/next")[0], 200)
    seen = read_until(client, b"id: v3\n")
    expect(b"v2" in seen or b"gap" in seen, False)
    client.sock.close()


def protocols(served):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl._create_unverified_context()
        context.minimum_version = context.maximum_version = version
        client = http.client.HTTPSConnection("localhost", served.target.tls_port, context=context)
        client.request("GET", "/hello")
        expect(client.getresponse().read(), b"hello world\n")
        client.close()
    context = ssl._create_unverified_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    try:
        http.client.HTTPSConnection("localhost", served.target.tls_port, context=context).connect()
    except (ssl.SSLError, ConnectionError):
        return
    raise AssertionError("TLS 1.0 was taken")


def reload(served):
    """A renewed certificate for new connections; old ones stay."""
    def certificate():
        return ssl.get_server_certificate(("127.0.0.1", served.target.tls_port))
    old = Http2(served.target)
    expect(old.exchange()[1], b"hello world\n")
    before = certificate()
    fresh = Served(served.process.args[0])
    for name in ("key.pem", "certificate.pem"):
        with open(f"{fresh.directory}/{name}", "rb") as source, open(f"{served.directory}/{name}", "wb") as target:
            target.write(source.read())
    fresh.end()
    order(served, b"r")
    for _ in range(1000):
        try:
            if certificate() != before:
                break
        except ConnectionError:
            pass
    expect(certificate() != before, True)
    expect(old.exchange()[1], b"hello world\n")
    old.sock.close()


def request_rate(served):
    limited = Served(served.process.args[0], "[limits]", "RequestRate = 20")
    statuses = [ask(limited.target, "/hello") for _ in range(40)]
    expect(429 in [status for status, _, _ in statuses], True)
    expect([fields["retry-after"] for status, fields, _ in statuses if status == 429][0], "1")
    expect(statuses[0][0], 200)
    expect(limited.end(), 0)


def reserved_slots(served):
    """Strangers fill what there is; who has authenticated stays, and the owner gets in."""
    small = Served(served.process.args[0], "[limits]", "Connections = 24", "ConnectionsReserved = 8",
                   "ConnectionsPerAddress = 1000")
    owner = Http2(small.target)
    expect(owner.exchange(token="good")[1], b"hello world\n")
    strangers = []
    for _ in range(100):
        strangers.append(Http2(small.target))
        expect(strangers[-1].exchange()[1], b"hello world\n")
    expect(owner.exchange(token="good")[1], b"hello world\n")
    expect(Http2(small.target).exchange(token="good")[1], b"hello world\n")
    alive = 0
    for stranger in strangers:
        try:
            stranger.exchange()
            alive += 1
        except (EOFError, OSError):
            pass
        stranger.sock.close()
    expect(0 < alive <= 16, True)
    owner.sock.close()
    expect(small.end(), 0)


def drain(served):
    """What is open finishes, nothing new begins, the process ends by itself."""
    served = Served(served.process.args[0], stall=60)
    client, guest = Http2(served.target), Http2(served.target)
    client.send(client.request("/stream")[1])
    while client.read_frame()[0] != HEADERS:
        pass
    guest.send(guest.request("/slow")[1])
    watcher = Http2(served.target)
    watcher.send(watcher.request("/events", fields=[("accept", "text/event-stream")])[1])
    read_until(watcher, b"second line\n\n")
    post, data = guest.request("/echo", method="POST", end=False)
    guest.send(data)
    guest.exchange()
    order(served, b"d")
    read_until(watcher, b'event: end\ndata: {"status":503}\n\n')
    # A header that goes on where nothing may begin any more made the library read it for ever.
    for _ in range(2):
        while guest.read_frame()[0] != GOAWAY:
            pass
    guest.send(Http2.frame(HEADERS, 1, post) + Http2.frame(CONTINUATION, 4, post))
    size = 0
    while size < 1 << 20:
        kind, flags, stream, payload = client.read_frame()
        if kind == DATA:
            size += len(payload)
            if size < 1 << 20:  # it closes behind the last byte
                update = struct.pack(">I", len(payload))
                client.send(client.frame(WINDOW, 0, 0, update) + client.frame(WINDOW, 0, stream, update))
    client.wait_end()
    watcher.wait_end()
    expect(served.process.wait(attacks.DEADLINE), 0)
    served.end()


def drain_slowly(served):
    """It takes what a slow client needs, and ends with the client, not when its time is over."""
    served = Served(served.process.args[0], "Drain = 75", stall=60)
    late = 7  # bytes that find no room behind the rest: the client opens its window when the socket is full
    update = struct.pack(">I", late)
    clients = [Http2(served.target, rcvbuf=size, window=(1 << 20) - late) for size in (2048, 4096, 8192, 16384) * 4]
    for c in clients:
        c.send(c.frame(WINDOW, 0, 0, struct.pack(">I", (1 << 20) - late - 65535)) + c.request("/stream")[1])
        while c.read_frame()[0] != HEADERS:
            pass
    order(served, b"d")
    time.sleep(0.1)
    for c in clients:
        c.send(c.frame(WINDOW, 0, 0, update) + c.frame(WINDOW, 0, 1, update))
    for c in clients:
        size = 0
        while size < 1 << 20:
            kind, _, _, payload = c.read_frame()
            if kind == DATA:
                size += len(payload)
        c.wait_end()
    expect(served.process.wait(attacks.DEADLINE), 0)
    served.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", required=True)
    served = Served(parser.parse_args().serve)
    failed = 0
    tests = [static_names, static_ranges, static_conditions, static_gzip, static_revoked, static_shrinking, metrics, methods, trailers, refused_bodies, headers, credentials, cors, streaming, events, protocols, request_rate,
             reserved_slots, reload, drain, drain_slowly]
    for test in tests:
        try:
            test(served)
            print(f"ok   {test.__name__}", flush=True)
        except Exception as e:
            print(f"FAIL {test.__name__}: {e!r}", flush=True)
            failed += 1
    served.end()
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
