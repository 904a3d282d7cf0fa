#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What h-httpd offers, over the fake core: features.py --serve PROGRAM. Standard library only."""
import argparse
import http.client
import os
import select
import socket
import ssl
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import attacks  # noqa: E402
from attacks import CONTINUATION, DATA, GOAWAY, HEADERS, WINDOW, Http2, Served  # noqa: E402


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


def static_files(served):
    text = b"line of text\n" * 1000
    for name, data in (("page.txt", text), ("index.html", b"<p>root</p>")):
        with open(served.directory + "/files/" + name, "wb") as f:
            f.write(data)
    with open(served.directory + "/secret", "w") as f:
        f.write("secret")
    # Judged like everything else: without an agent nobody may.
    expect(ask(served.target, "/page.txt")[0], 503)
    expect(ask(served.target, "/%2e%2e/secret")[0], 503)


def methods(served):
    status, headers, body = ask(served.target, "/hello", "HEAD")
    expect((status, headers["content-length"], body), (200, "12", b""))
    status, headers, body = ask(served.target, "/echo?a=b", "PATCH", b"x" * 100000)
    expect(status, 200)
    expect(body.startswith(b"PATCH /echo ?a=b\n") and body.endswith(b"x" * 100000), True)
    expect(ask(served.target, "/hello", "TRACE")[0], 405)
    expect(ask(served.target, "/nowhere/", authorization="Bearer good", method="POST")[0], 404)


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
    served.process.stdin.write(b"r")
    served.process.stdin.flush()
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
    post, data = guest.request("/echo", method="POST", end=False)
    guest.send(data)
    guest.exchange()
    served.process.stdin.write(b"d")
    served.process.stdin.flush()
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
    expect(served.process.wait(attacks.DEADLINE), 0)
    served.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", required=True)
    served = Served(parser.parse_args().serve)
    failed = 0
    tests = [static_files, methods, trailers, refused_bodies, headers, credentials, cors, streaming, events, protocols, request_rate,
             reserved_slots, reload, drain]
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
