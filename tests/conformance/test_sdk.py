# SPDX-License-Identifier: Apache-2.0
"""What every SDK does with what a registrar and a server say: the same cases for all of them."""
import struct

import pytest

from channel import (ATTACH, ATTACHED, CANCEL, CREDIT, DATA, END, GOAWAY, GONE, INITIAL, NOTIFY, PING, PONG,
                     REFUSED, REGISTER, REGISTERED, REQUEST, RESPONSE, RESUME, RESUMED, SESSION, UNREGISTER, WATCH, Listener,
                     ServerPeer, fields, frame)


def pattern(size):
    return bytes(i % 251 for i in range(size))


# --- registration


def test_register_says_all_it_was_told(world):
    world.start()
    world.accept_registrar()
    asked = world.registers()
    said = asked["/test"][1]
    assert (":title", "conformance") in said
    assert (":attributes", 'rt="test";ct=50') in said
    assert (":rule", "GET /public endpoint.public") in said
    assert ":takeover" not in dict(said) and ":key" not in dict(said)
    assert set(asked) == {"/test", "/test-pieces"}


def test_takeover_is_asked_for(world):
    world.start("--takeover")
    world.accept_registrar()
    assert (":takeover", "1") in world.registers()["/test"][1]


@pytest.mark.parametrize("code", [400, 403, 409])
def test_refused_for_good(world, code):
    world.start()
    world.accept_registrar()
    asked = world.registers()
    world.registrar.send(REFUSED, code=code, stream=asked["/test"][0],
                         payload=fields((":reason", "no grant"), (":audit", "42")))
    line = world.app.line()
    assert line.startswith(f"state {code}") and "no grant" in line and "42" in line
    # Not asked again, by this connection or the next one.
    assert world.registrar.sync() == []
    world.registrar.close()
    world.accept_registrar()
    assert set(world.registers(1)) == {"/test-pieces"}
    assert world.registrar.sync() == []


@pytest.mark.parametrize("code", [429, 503])
def test_refused_for_now_is_asked_again(world, code):
    world.start()
    world.accept_registrar()
    stream = world.registers()["/test"][0]
    for _ in range(3):
        world.registrar.send(REFUSED, code=code, stream=stream, payload=fields((":reason", "busy")))
        assert world.app.line().startswith(f"state {code}")
        stream = world.registers(1)["/test"][0]
    world.registrar.send(REGISTERED, stream=stream, payload=fields((":key", "a" * 16)))
    assert world.app.line().startswith("state 200")


def test_replaced_by_another(world):
    server = world.up()
    asked = server.request("/never")
    # 410 to the stream of the registration: the place is lost, its open requests fail.
    world.registrar.send(PING, value=1)
    world.registrar.expect(PONG)
    world.registrar.send(REFUSED, code=410, stream=world_stream(world), payload=fields((":reason", "taken")))
    assert world.app.line().startswith("state 410")
    server.expect(CANCEL, asked)
    assert server.answer(server.request("/echo")).status == 503
    assert server.answer(server.request("/", namespace="/test-pieces")).body == b"0"


def world_stream(world):
    """The stream under which /test was registered: found out by trying, all others are ignored."""
    return world.streams["/test"]


@pytest.fixture(autouse=True)
def remember_streams(world, monkeypatch):
    original = world.registers

    def registers(n=2):
        asked = original(n)
        world.streams = {**getattr(world, "streams", {}), **{k: v[0] for k, v in asked.items()}}
        return asked
    monkeypatch.setattr(world, "registers", registers)


# --- requests


def test_request_and_answer(world):
    server = world.up()
    a = server.get("/echo", method="POST", body=b"hello", headers=[("x-test", "grün")], query="a=%20b")
    assert (a.status, a.body) == (200, b"hello")
    assert a.fields["x-method"] == "POST" and a.fields["x-query"] == "a=%20b"
    assert a.fields["x-principal"] == "user:alice" and a.fields["x-test"] == "grün"
    assert a.fields["content-type"] == "application/octet-stream"


def test_handle_of_the_principal(world):
    server = world.up()
    for handle in ("1", "9007199254740991"):
        assert server.get("/echo", handle=handle).fields["x-handle"] == handle
    # Anonymous, and so is what cannot be one: nobody gets more by that.
    for handle in (None, "0", "", "-1", "+1", " 1", "1 ", "1\n", "1.0", "1_0", "0x1", "1e3", "x", "\u0661", "9007199254740992",
                   "18446744073709551617", "9" * 400):
        a = server.get("/echo", handle=handle)
        assert (a.status, a.fields["x-handle"]) == (200, "0"), handle


@pytest.mark.parametrize("status", [200, 204, 404, 599])
def test_status(world, status):
    server = world.up()
    a = server.get(f"/status/{status}")
    assert (a.status, a.body) == (status, b"")


def test_answer_later_and_out_of_order(world):
    server = world.up()
    first = server.request("/later")
    assert server.get("/echo", body=b"x").body == b"x"
    release = server.request("/release")
    streams = {}
    for _ in range(2):
        f = server.expect(RESPONSE)
        streams[f.stream] = f.payload[f.value:]
    assert streams == {first: b"later", release: b"released"}


def test_body_in_pieces_is_collected(world):
    server = world.up()
    stream = server.request("/echo", body=b"a" * 10, end=False)
    server.send(DATA, stream=stream, payload=b"b" * 10)
    server.send(DATA, flags=END, stream=stream)
    assert server.answer(stream).body == b"a" * 10 + b"b" * 10


def send_body(server, stream, data):
    """Under the credit that the app gives; the rest of its frames."""
    credit, sent = INITIAL, 0
    while sent < len(data):
        if credit == 0:
            f = server.expect(CREDIT, stream)
            credit += f.value
            continue
        n = min(credit, 65536, len(data) - sent)
        server.send(DATA, stream=stream, payload=data[sent:sent + n])
        credit -= n
        sent += n
    server.send(DATA, flags=END, stream=stream)


def skip_credit(server, stream):
    """The next frame of the stream that is not credit."""
    while True:
        f = server.receive()
        if f.type != CREDIT:
            server.buffer = frame(f.type, f.flags, f.code, f.stream, f.value, f.payload) + server.buffer
            return


@pytest.mark.parametrize("size", [INITIAL, INITIAL + 1, 3_000_000])
def test_large_request_body_in_pieces(world, size):
    server = world.up()
    stream = server.request("/", namespace="/test-pieces", end=False)
    send_body(server, stream, b"x" * size)
    skip_credit(server, stream)
    assert server.answer(stream).body == str(size).encode()


def test_large_request_body_collected(world):
    server = world.up()
    stream = server.request("/echo", end=False)
    data = pattern(1_000_000)
    send_body(server, stream, data)
    skip_credit(server, stream)
    assert server.answer(stream).body == data


def test_too_large_request_body_is_413(world):
    server = world.up()
    stream = server.request("/echo", end=False)
    credit = INITIAL
    while True:
        if credit == 0:
            f = server.receive()
            if f.type == RESPONSE:
                break
            assert f.type == CREDIT, f
            credit += f.value
        n = min(credit, 65536)
        server.send(DATA, stream=stream, payload=bytes(n))
        credit -= n
    assert f.code == 413
    assert server.get("/echo", body=b"still there").body == b"still there"


def test_no_credit_for_a_body_that_nobody_reads(world):
    server = world.up()
    stream = server.request("/hold", namespace="/test-pieces", end=False)
    for _ in range(4):
        server.send(DATA, stream=stream, payload=bytes(65536))
    given = sum(f.value for f in server.sync())
    assert given <= INITIAL / 2  # what was taken into hand, at most
    if not given:
        server.send(DATA, stream=stream, payload=b"x")
        server.expect_closed()


@pytest.mark.parametrize("size", [0, 1, 65536, INITIAL, INITIAL + 1, 2_000_000])
@pytest.mark.parametrize("kind", ["large", "stream"])
def test_large_answers(world, kind, size):
    server = world.up()
    a = server.get(f"/{kind}/{size}")
    assert a.status == 200 and a.body == pattern(size)


@pytest.mark.parametrize("kind", ["large", "stream"])
def test_credit_is_respected(world, kind):
    server = world.up()
    stream = server.request(f"/{kind}/1000000")
    got = 0
    first = server.expect(RESPONSE, stream)
    got += len(first.payload) - first.value
    while got < INITIAL:
        got += len(server.expect(DATA, stream).payload)
    assert got == INITIAL
    assert [f for f in server.sync() if f.stream == stream] == []
    server.send(CREDIT, stream=stream, value=7)
    assert len(server.expect(DATA, stream).payload) == 7
    assert server.sync() == []
    # Others are not held up.
    assert server.get("/echo", body=b"x").body == b"x"


def test_failing_responder_cancels(world):
    server = world.up()
    stream = server.request("/fail")
    f = server.expect(CANCEL, stream)
    assert f.code == 500


def test_cancel_reaches_the_app(world):
    server = world.up()
    stream = server.request("/never")
    server.sync()
    server.send(CANCEL, code=499, stream=stream)
    assert server.get("/cancelled").body == b"1"
    # Late frames of that stream may have crossed.
    server.send(DATA, stream=stream, payload=b"x")
    server.send(CREDIT, stream=stream, value=1)
    server.send(CANCEL, code=499, stream=stream)
    assert server.get("/cancelled").body == b"1"


def test_cancel_of_a_streamed_answer(world):
    server = world.up()
    stream = server.request("/stream/1000000")
    got = 0
    f = server.expect(RESPONSE, stream)
    while got < INITIAL:
        got += len(server.expect(DATA, stream).payload)
    server.send(CANCEL, code=504, stream=stream)
    server.send(CREDIT, stream=stream, value=1000)
    assert server.sync() == []


def test_a_thousand_in_flight(world):
    server = world.up()
    wanted, out = {}, b""
    for i in range(1000):
        stream, data = server.request_frame("/echo", body=b"%d" % i)
        wanted[stream] = b"%d" % i
        out += data
    server.raw(out)
    for _ in range(1000):
        f = server.expect(RESPONSE)
        assert f.flags & END and f.payload[f.value:] == wanted.pop(f.stream)
    assert wanted == {}


def test_more_than_it_takes_is_503(world):
    server = world.up()
    streams = [server.request("/never") for _ in range(1024)]
    assert server.answer(server.request("/echo")).status == 503
    server.sync()
    for stream in streams:
        server.send(CANCEL, code=499, stream=stream)
    assert server.get("/cancelled").body == b"1024"


def test_nul_in_a_path_is_400(world):
    server = world.up()
    assert server.get("/echo\0").status == 400
    assert server.get("/echo").status == 200


def test_unknown_namespace_is_503(world):
    server = world.up()
    assert server.get("/echo", namespace="/else").status == 503


def test_session_is_refused(world):
    server = world.up()
    server.send(SESSION, stream=1)
    assert server.expect(RESPONSE, 1).code == 501


# --- coming back


def test_server_comes_back(world):
    server = world.up()
    server.request("/never")
    server.close()
    server = world.accept_server()
    assert server.get("/cancelled").body == b"1"


def test_server_comes_back_after_a_while(world):
    server = world.up()
    keys = server.keys
    world.server_listener.close()
    server.close()
    # The registrar sees that the app lives on meanwhile.
    assert world.registrar.sync() == []
    world.server_listener.listen()
    server = world.accept_server()
    assert server.keys == keys
    assert server.get("/echo", body=b"x").body == b"x"


def test_server_does_not_know_the_endpoint_yet(world):
    world.start()
    world.accept_registrar()
    world.name_server()
    world.admit(world.registers())
    server = world.accept_server(attach=False)
    for _ in range(4):
        f = server.expect(ATTACH)
        server.send(REFUSED, code=503, stream=f.stream, payload=fields((":reason", "unknown")))
    server.attach(*world.both)
    assert server.get("/echo", body=b"x").body == b"x"


def test_registrar_comes_back_with_key(world):
    server = world.up()
    world.registrar.close()
    # Requests go on without it.
    assert server.get("/echo", body=b"x").body == b"x"
    world.accept_registrar()
    asked = world.registers()
    assert (":key", f"{1:016x}") in asked["/test"][1]
    assert (":key", f"{2:016x}") in asked["/test-pieces"][1]
    world.admit(asked)
    world.name_server()
    assert world.app.line().startswith("state 200")
    assert world.registrar.sync() == []
    # Same place: what is attached stays so.
    assert server.sync() == []
    assert server.get("/echo", body=b"x").body == b"x"


def test_registrar_gives_a_new_key(world):
    server = world.up()
    world.registrar.close()
    world.accept_registrar()
    asked = world.registers()
    for number, (namespace, (stream, _)) in enumerate(sorted(asked.items())):
        world.registrar.send(REGISTERED, stream=stream,
                             payload=fields((":key", f"{number + 100:016x}"), (":namespace", namespace)))
    server.ids = {}
    server.attach(*world.both)
    assert server.keys["/test"] == f"{100:016x}"
    assert server.get("/echo", body=b"x").body == b"x"


def test_second_server_and_its_removal(world, tmp_path):
    server = world.up()
    other_listener = Listener(world.directory + "/other.sock")
    world.name_server("h-other", other_listener.path)
    other = ServerPeer(other_listener.accept(), world.namespace)
    other.hello("server")
    other.attach(*world.both)
    assert other.get("/echo", body=b"y").body == b"y"
    assert server.get("/echo", body=b"x").body == b"x"
    world.name_server("h-other", other_listener.path, GONE)
    other.expect_closed()
    assert server.get("/echo", body=b"x").body == b"x"
    other.close()
    other_listener.close()


def test_goaway_finishes_what_is_open(world):
    server = world.up()
    first = server.request("/later")
    server.send(GOAWAY, code=503, payload=b"restart")
    assert server.sync() == []
    server.raw(server.request_frame("/release")[1])
    got = {server.expect(RESPONSE).stream for _ in range(2)}
    assert first in got
    server.expect_closed()
    server = world.accept_server()
    assert server.get("/echo", body=b"x").body == b"x"


def test_stop_is_graceful(world):
    server = world.up()
    first = server.request("/later")
    server.sync()
    world.app.terminate()
    server.expect(GOAWAY)
    ping = server.expect(PING)
    # It crossed with the GOAWAY: refused, not lost.
    crossed = server.request("/echo")
    assert server.expect(RESPONSE, crossed).code == 503
    server.send(PONG, value=ping.value)
    assert server.sync() == []
    server.send(CANCEL, code=499, stream=first)
    server.expect_closed()
    assert world.app.line() == "stopped"
    assert world.app.wait() == 0


# --- values and watchers


def test_notify(world):
    server = world.up()
    stream = server.request("/notify", body=b"21.5")
    f = server.expect(NOTIFY, server.ids["/test"])
    said = dict(f.fields(f.value))
    assert said == {":path": "/value", "content-type": "text/plain", ":id": "v1", ":max-age": "7"}
    assert f.payload[f.value:] == b"21.5"
    assert server.answer(stream).status == 204


def test_watch(world):
    server = world.up()
    at = server.ids["/test"]
    server.send(WATCH, stream=at, value=2, payload=fields((":path", "/value")))
    assert server.get("/watches").body == b"/value 2\n"
    server.send(WATCH, stream=at, value=5, payload=fields((":path", "/value")))
    assert server.get("/watches").body == b"/value 5\n"
    server.send(WATCH, stream=at, value=0, payload=fields((":path", "/value")))
    assert server.get("/watches").body == b"/value 0\n"


def test_attach_says_what_can_be_resumed(world):
    world.start()
    world.accept_registrar()
    world.name_server()
    world.admit(world.registers())
    server = world.accept_server(attach=False)
    said = [dict(server.expect(ATTACH).fields()) for _ in range(2)]
    assert {s[":namespace"]: s.get(":resume") for s in said} == {"/test": "1", "/test-pieces": None}


@pytest.mark.parametrize("id_, wanted", [("v1", ("v2", None)), ("v2", ("v3", None)), ("v3", None), ("else", ("v3", "1"))])
def test_resume(world, id_, wanted):
    server = world.up()
    at = server.ids["/test"]
    server.send(RESUME, stream=at, value=77, payload=fields((":path", "/value"), (":id", id_)))
    f = server.expect(RESUMED, at)
    said = dict(f.fields(f.value))
    assert said.pop(":token") == "77"
    if not wanted:
        assert (f.code, said, f.payload[f.value:]) == (204, {}, b"")
        return
    next_id, gap = wanted
    assert f.code == 200 and said.pop(":gap", None) == gap
    assert said == {":id": next_id, "content-type": "text/plain"}
    assert f.payload[f.value:] == f"value {next_id}".encode()


def test_resume_of_what_does_not_do_it(world):
    server = world.up()
    server.send(RESUME, stream=server.ids["/test-pieces"], value=1, payload=fields((":path", "/"), (":id", "v1")))
    server.send(RESUME, stream=4711, value=1, payload=fields((":path", "/"), (":id", "v1")))
    assert server.sync() == []
    # Types that may be ignored are, others than this one.
    server.send(0x8f, stream=server.ids["/test"], payload=b"whatever")
    assert server.sync() == []


@pytest.mark.parametrize("value, payload", [(0, fields((":path", "/"), (":id", "v1"))), (1, fields((":path", "/"))),
                                            (1, fields((":id", "v1"))), (1, b"\1"),
                                            (1, fields((":path", "/\0"), (":id", "v1")))])
def test_malformed_resume(world, value, payload):
    server = world.up()
    server.send(RESUME, stream=server.ids["/test"], value=value, payload=payload)
    server.expect_closed()


def test_watchers_of_a_lost_server_are_gone(world):
    server = world.up()
    server.send(WATCH, stream=server.ids["/test"], value=2, payload=fields((":path", "/value")))
    assert server.get("/watches").body == b"/value 2\n"
    server.close()
    server = world.accept_server()
    assert server.get("/watches").body == b"/value 0\n"


def test_watchers_at_two_servers_add_up(world):
    server = world.up()
    other_listener = Listener(world.directory + "/other.sock")
    world.name_server("h-other", other_listener.path)
    other = ServerPeer(other_listener.accept(), world.namespace)
    other.hello("server")
    other.attach(*world.both)
    server.send(WATCH, stream=server.ids["/test"], value=2, payload=fields((":path", "/value")))
    server.sync()
    other.send(WATCH, stream=other.ids["/test"], value=3, payload=fields((":path", "/value")))
    other.sync()
    assert server.get("/watches").body == b"/value 5\n"
    other.close()
    other_listener.close()


# --- malformed


MALFORMED = {
    "too long": struct.pack("<IBBHII", 65537, DATA, 0, 0, 1, 0),
    "unknown type": frame(0x7f),
    "second hello": frame(0x01, value=1),
    "data on a stream that never was": frame(DATA, stream=99999, payload=b"x"),
    "even stream": frame(CANCEL, stream=2),
    "cut field": frame(REQUEST, END, 0, 1, 6, b"\x01\x00\x05\x00ab"),
    "fields beyond the payload": frame(REQUEST, END, 0, 1, 100, b"ab"),
    "request on an even stream": frame(REQUEST, END, 0, 2, 0),
    "request without a path": frame(REQUEST, END, 0, 1, 15, fields((":method", "GET"))[:15]),
    "too many fields": frame(REQUEST, END, 0, 1, len(fields(("a", "b"))) * 129, fields(("a", "b")) * 129),
    "wrong direction": frame(RESPONSE, END, 200, 1),
    "watch without a path": frame(WATCH, stream=1, value=1),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_ends_that_connection_only(world, what):
    server = world.up()
    server.raw(MALFORMED[what])
    server.expect_closed()
    server = world.accept_server()
    assert server.get("/echo", body=b"x").body == b"x"
    assert world.registrar.sync() == []


def test_stream_used_twice(world):
    server = world.up()
    server.request("/never")
    server.next_stream -= 2
    server.request("/never")
    server.expect_closed()


def test_body_beyond_credit(world):
    server = world.up()
    stream = server.request("/hold", namespace="/test-pieces", end=False)
    for _ in range(12):
        try:
            server.send(DATA, stream=stream, payload=bytes(65536))
        except ConnectionError:
            break
    server.expect_closed()
    world.accept_server()


def test_first_frame_must_be_hello(world):
    world.up()
    world.server.close()
    peer = ServerPeer(world.server_listener.accept())
    peer.send(PING, value=1)
    peer.expect_closed()
    world.accept_server()


def test_half_a_frame_is_waited_for(world):
    server = world.up()
    stream, data = server.request_frame("/echo", body=b"slow")
    for byte in data[:-1]:
        server.raw(bytes([byte]))
    assert server.sock.fileno() >= 0
    server.raw(data[-1:])
    assert server.answer(stream).body == b"slow"


def test_unknown_ignorable_frames_and_fields(world):
    server = world.up()
    server.send(0x80, payload=b"from the future")
    server.send(0xff, flags=0xff, stream=12345)
    assert server.get("/echo", body=b"x", headers=[(":from-the-future", "1")]).body == b"x"


def test_malformed_registrar(world):
    server = world.up()
    world.registrar.raw(frame(REGISTERED, stream=1))  # without a key
    world.registrar.expect_closed()
    world.accept_registrar()
    world.admit(world.registers())
    assert server.get("/echo", body=b"x").body == b"x"
