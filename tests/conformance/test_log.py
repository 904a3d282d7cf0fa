# SPDX-License-Identifier: Apache-2.0
"""What every SDK's log call sends (docs/protocols/log.md), and what it does when nobody takes it: the same cases for
all of them, read by a receiver that was written from that page."""
import os
import select
import socket
import struct
import subprocess
import sys
import time

import pytest

from conftest import HERE, ROOT

DEADLINE = 60
NAMES = {1: "MESSAGE", 3: "IDENTIFIER", 4: "CODE_FILE", 5: "CODE_LINE", 6: "ERRNO"}
SDKS = {
    "c": ("datagram", [os.environ.get("HYBRIDOS_CONFORMANCE_LOG_C",
                                      os.path.join(ROOT, "build/tests/conformance/conformance-log"))]),
    "python": ("datagram", [sys.executable, os.path.join(HERE, "apps/log.py")]),
    "js": ("stream", [os.environ.get("NODE", "node"), os.path.join(HERE, "apps/log.js")]),
}


class Record:
    def __init__(self, data):
        assert data[:3] == b"HL\x01"
        self.priority, self.dropped = struct.unpack_from("<BI", data, 3)
        assert len(data) - 8 <= 61440
        self.fields, self.secret, at = {}, set(), 8
        while at < len(data):
            code, at = data[at], at + 1
            if code & 0x7f:
                name = NAMES[code & 0x7f]
            else:
                name = data[at + 1:at + 1 + data[at]].decode()
                at += 1 + data[at]
            size = struct.unpack_from("<H", data, at)[0]
            at += 2 + size
            assert at <= len(data)
            self.fields[name] = data[at - size:at]
            if code & 0x80:
                self.secret.add(name)

    @property
    def message(self):
        return self.fields["MESSAGE"]


class Receiver:
    def __init__(self, folder, kind):
        self.kind, self.path, self.connection, self.buffer = kind, os.path.join(folder, "log.sock"), None, b""
        self.listen()

    def listen(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if self.kind == "datagram" else socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(self.path)
        if self.kind == "stream":
            self.socket.listen()

    def close(self):
        for s in (self.socket, self.connection):
            if s:
                s.close()
        self.connection, self.buffer = None, b""
        os.unlink(self.path)

    def _more(self, size):
        while len(self.buffer) < size:
            data = self.connection.recv(1 << 20)
            if not data:
                return False
            self.buffer += data
        return True

    def record(self):
        """None: the program has ended its connection."""
        if self.kind == "datagram":
            return Record(self.socket.recv(1 << 17))
        if not self.connection:
            self.connection = self.socket.accept()[0]
            self.connection.settimeout(DEADLINE)
        if not self._more(4):
            return None
        size = struct.unpack_from("<I", self.buffer)[0]
        assert self._more(4 + size)
        data, self.buffer = self.buffer[4:4 + size], self.buffer[4 + size:]
        return Record(data)


class Sdk:
    def __init__(self, name, folder):
        self.kind, self.command = SDKS[name]
        self.receiver = Receiver(folder, self.kind)
        self.programs = []

    def start(self, case, **env):
        env = dict(os.environ, PYTHONPATH=os.path.join(ROOT, "clients/python"), HYBRIDOS_LOG_SOCKET=self.receiver.path,
                   HYBRIDOS_LOG_STREAM=self.receiver.path, **env)
        self.programs.append(subprocess.Popen([*self.command, case], env=env, stdin=subprocess.PIPE,
                                              stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return self.programs[-1]

    def run(self, case, **env):
        """(standard output, standard error) as it ended."""
        program = self.start(case, **env)
        out = program.communicate(timeout=DEADLINE)
        assert program.returncode == 0, out
        return out

    def end(self):
        for p in self.programs:
            p.kill()
            p.communicate()
        if os.path.exists(self.receiver.path):
            self.receiver.close()


@pytest.fixture(params=[n for n in SDKS if n in os.environ.get("HYBRIDOS_SDKS", "c python js").split()])
def sdk(request, tmp_path):
    s = Sdk(request.param, str(tmp_path))
    yield s
    s.end()


def test_a_message(sdk):
    assert sdk.run("plain") == (b"", b"")
    r = sdk.receiver.record()
    assert (r.priority, r.dropped, r.message, r.secret) == (1 << 3 | 4, 0, b"hello", set())
    assert r.fields["IDENTIFIER"] == b"tester"


def test_a_facility(sdk):
    sdk.run("facility")
    assert sdk.receiver.record().priority == 16 << 3 | 3


def test_fields_of_any_bytes_and_secrets(sdk):
    sdk.run("fields")
    r = sdk.receiver.record()
    assert (r.fields["SENSOR"], r.fields["PIN"], r.fields["ERRNO"]) == (b"\0\xff\n", b"1234", b"5")
    assert r.secret == {"PIN"}


def test_another_identifier(sdk):
    sdk.run("identifier")
    r = sdk.receiver.record()
    assert r.fields == {"IDENTIFIER": b"other", "MESSAGE": b"hello"}


def test_what_is_no_field_is_refused(sdk):
    assert sdk.run("names")[0] == b"refused\n" * 12
    assert sdk.receiver.record().message == b"many"


def test_levels(sdk):
    sdk.run("levels")
    assert [sdk.receiver.record().message for _ in range(2)] == [b"info", b"err"]
    sdk.run("levels", HYBRIDOS_LOG_LEVEL="7")
    if sdk.kind == "stream":
        sdk.receiver.connection = None
    assert [sdk.receiver.record().message for _ in range(3)] == [b"debug", b"info", b"err"]


def test_never_waits_and_counts_what_found_no_room(sdk):
    program = sdk.start("flood")
    dropped = int(program.stdout.readline())
    assert 0 < dropped < 20000
    got = [sdk.receiver.record() for _ in range(20000 - dropped)]
    assert all(r.dropped == 0 for r in got)
    assert got[0].message.startswith(b"0 ")
    program.stdin.write(b"\n")
    program.stdin.flush()
    last = sdk.receiver.record()
    assert (last.message, last.dropped) == (b"last", dropped)
    assert program.communicate(timeout=DEADLINE) == (b"", b"")


@pytest.mark.parametrize("records", range(150, 700, 50))
def test_a_program_ends_when_all_has_been_taken(sdk, records):
    """Over a stream, some of these leave a little that the kernel takes late, and no write that was told to wait."""
    program = sdk.start("again")
    program.stdin.write(b"." * records)
    program.stdin.close()
    program.stdin = None
    if sdk.kind == "stream":
        time.sleep(0.2)  # what it has sent has filled the kernel's buffer, or not
        assert [sdk.receiver.record().message for _ in range(records)] == [b"again"] * records
    assert program.wait(DEADLINE) == 0


def test_a_long_message_is_cut_between_characters(sdk):
    program = sdk.start("large")
    first = sdk.receiver.record()
    assert len(first.message) > 61000 and set(first.message.decode()) == {"ä"}
    assert set(sdk.receiver.record().message.decode()) == {"ä"}
    assert program.communicate(timeout=DEADLINE) == (b"refused\n", b"")


def test_standard_error_when_nobody_is_there(sdk):
    os.unlink(sdk.receiver.path)
    wanted = b"<3>tester: one\\x0atwo\\x1b[1m \xc3\xa4\xff A=b\\x0a PIN=(secret, 4 bytes)\n"
    assert sdk.run("lines") == (b"", wanted)


def test_goes_on_when_the_receiver_is_made_anew(sdk):
    program = sdk.start("again")
    def again():
        program.stdin.write(b".")
        program.stdin.flush()
    again()
    assert sdk.receiver.record().message == b"again"
    sdk.receiver.close()
    again()
    while not select.select([program.stderr], [], [], 0.2)[0]:
        again()  # over a stream, the first may have gone out before the end was seen
    assert program.stderr.readline() == b"<6>tester: again\n"
    sdk.receiver.listen()
    sdk.receiver.socket.settimeout(0.2)
    for _ in range(100):  # an SDK may look for it anew only every second
        again()
        try:
            r = sdk.receiver.record()
            break
        except TimeoutError:
            pass
    assert r.message == b"again"
