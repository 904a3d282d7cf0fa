# SPDX-License-Identifier: Apache-2.0
"""h-logged as it is shipped: what goes in by every road comes out again, once, for those who may see it."""
import json
import re
import struct
import subprocess
import threading

import pytest

LOG1 = ["org.hybridos.Log1", "/org/hybridos/Log1", "org.hybridos.Log1"]
SOCKET = "/run/hybridos/logged/log.sock"
# Sends records N to M-1 of a text, as fast as the socket takes them, never losing one.
SENDER = """
import socket, struct, sys
text, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
field = lambda code, value: struct.pack('<BH', code, len(value)) + value
for i in range(first, last):
    s.sendto(b'HL\\x01\\x0e\\0\\0\\0\\0' + field(1, f'{text} {i}'.encode()) + field(3, b'sender'), '%s')
""" % SOCKET


def read(device, *arguments, user=None):
    """The records that h-logread shows, as objects."""
    done = device.run("h-logread", "--no-pager", "-o", "json", *arguments, user=user)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def send(device, *fields, priority=30, user=None):
    """One record by the native protocol; fields are (code, name or None, value)."""
    data = b"HL\x01" + bytes([priority]) + b"\0\0\0\0"
    for code, name, value in fields:
        data += bytes([code]) + (bytes([len(name)]) + name if code & 127 == 0 else b"")
        data += struct.pack("<H", len(value)) + value
    program = ("import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
               f"s.sendto(bytes.fromhex('{data.hex()}'), '{SOCKET}')")
    device.run("python3", "-c", program, user=user, check=True)


def wait_for(device, count, *arguments, seconds=60):
    device.wait(lambda: len(read(device, *arguments)) >= count, f"{count} records of {arguments}", seconds)
    found = read(device, *arguments)
    assert len(found) == count, found[-5:]
    return found


def test_our_daemons_log_here(device):
    listed = device.run("systemctl", "list-units", "--state=active", "--plain", "--no-legend", "h-*.service", check=True).stdout
    units = {line.split()[0] for line in listed.splitlines()} - {"h-logged.service"}  # which has no news of itself
    assert {"h-httpd.service", "h-securityd.service", "h-sysinfo.service"} <= units
    for unit in sorted(units):
        component = unit.removesuffix(".service")
        # Each of them says something when it is made anew.
        device.run("systemctl", "restart", unit, check=True)
        uid = int(device.run("id", "-u", component, check=True).stdout)
        found = []

        def spoke():
            found[:] = [r for r in read(device, "-u", unit) if r["source"] == "native"]
            return found
        device.wait(spoke, f"{unit} logs here")
        assert all(r["uid"] == uid and r["UNIT"] == unit and r["IDENTIFIER"] == component for r in found), found
    device.wait_healthy()


PYTHON = """
from hybridos import log
log.set_identifier("sdk")
log.warning("sdk-says", RAW=b"\\0\\xff", PIN=log.Secret("1234"))
"""
JAVASCRIPT = """
const { log } = require('hybridos');
log.setIdentifier('sdk');
log.warning('sdk-says', { RAW: Buffer.of(0, 255), PIN: new log.Secret('1234') });
"""


@pytest.mark.parametrize("sdk", ["c", "python", "js"])
def test_the_sdks_log_here(device, sdk):
    """By a program in a unit of its own: h-logged knows who it was, whatever way it came."""
    command = {"c": lambda: [device.program("conformance-log"), "fields"],
               "python": lambda: ["python3", device.put_text(PYTHON, "sdk-log.py")],
               "js": lambda: ["node", device.put_text(JAVASCRIPT, "sdk-log.js")]}[sdk]()
    user, unit = device.user("log-sdk", "60976"), f"sdk-{sdk}.service"
    device.run("systemd-run", "--wait", "--unit", unit, f"--property=User={user}", "--setenv=NODE_PATH=/usr/share/nodejs",
               *command, check=True)
    record = wait_for(device, 1, "-u", unit, "-g", "measured" if sdk == "c" else "sdk-says")[0]
    assert record["source"] == "native" and record["uid"] == 60976
    assert record["PIN"] == "1234"  # root sees it
    assert record["SENSOR" if sdk == "c" else "RAW"]["base64"] in ("AP8K", "AP8=")


def test_the_stream_door_is_bounded(device):
    """One user's connections beyond the limit are closed, and nobody else's."""
    program = ("import socket; c = [socket.socket(socket.AF_UNIX) for _ in range(20)];"
               "[s.connect('/run/hybridos/logged/log-stream.sock') for s in c]; [s.settimeout(60) for s in c];"
               "print(sum(s.recv(1) == b'' for s in c[16:]))")
    assert device.run("python3", "-c", program, user="guest", check=True).stdout == "4\n"
    record = b"HL\x01\x1e\0\0\0\0\x01\x0b\0stream-door"
    program = ("import socket, struct; s = socket.socket(socket.AF_UNIX); s.connect('/run/hybridos/logged/log-stream.sock');"
               f"d = bytes.fromhex('{record.hex()}'); s.sendall(struct.pack('<I', len(d)) + d)")
    device.run("python3", "-c", program, user="guest", check=True)
    assert wait_for(device, 1, "-g", "stream-door")[0]["uid"] == 1001


def test_the_sender_is_the_kernels_word(device):
    send(device, (1, None, b"who-am-i"), (0, b"UID", b"0"), user="guest")
    record = wait_for(device, 1, "-g", "who-am-i")[0]
    assert record["uid"] == 1001 and record["UID"] == "0" and record["source"] == "native"
    # A unit cannot be claimed, and the audit is not open to root either.
    send(device, (1, None, b"forged-unit"), (2, None, b"h-securityd.service"))
    send(device, (1, None, b"forged-unit"), (0, b"UNIT", b"h-securityd.service"))
    send(device, (1, None, b"forged-unit"), (13, None, b"a1-1"))
    send(device, (1, None, b"after-the-forged"))
    wait_for(device, 1, "-g", "after-the-forged")
    assert read(device, "-g", "forged-unit") == []
    assert read(device, "--audit", "-g", "forged-unit") == []


def test_binary_and_hostile_text(device):
    send(device, (1, None, b"hostile \x1b[2J\xc2\x9b <b>\nsecond line"), (0, b"BLOB", bytes(range(256))))
    record = wait_for(device, 1, "-g", "hostile \x1b")[0]
    assert record["MESSAGE"] == "hostile \x1b[2J\u009b <b>\nsecond line"
    assert record["BLOB"]["base64"].startswith("AAECAwQ")
    shown = device.run("h-logread", "-g", "hostile", check=True).stdout
    assert "\x1b" not in shown and "\u009b" not in shown and "\n    second line" in shown


def test_what_comes_by_the_journal(device):
    unit = "journal-test.service"
    device.run("systemd-run", "--wait", "--unit", unit, "sh", "-c",
               "echo from-stdout; echo '<3>from-stderr' >&2; logger -p user.crit -t tag from-syslog", check=True)
    assert wait_for(device, 1, "-u", unit, "-t", "sh", "-g", "from-stdout")[0]["source"] == "journal"
    assert wait_for(device, 1, "-t", "sh", "-g", "from-stderr")[0]["priority"] == 3
    record = wait_for(device, 1, "-t", "tag", "-g", "from-syslog")[0]
    assert record["priority"] == 2 and record["facility"] == 1 and record["IDENTIFIER"] == "tag"
    # journald cannot tell the unit of a process that is gone before it looks.
    assert record.get("UNIT", unit) == unit and record["pid"] > 1
    journal = json.loads(device.run("journalctl", "-o", "json", "-n", "1", "SYSLOG_IDENTIFIER=tag", check=True).stdout)
    assert record["realtime"] == int(journal["__REALTIME_TIMESTAMP"])
    assert record["monotonic"] == int(journal["__MONOTONIC_TIMESTAMP"])
    assert record["boot"] == journal["_BOOT_ID"]


def test_the_journal_is_small_and_in_memory(device):
    shown = device.run("systemd-analyze", "cat-config", "systemd/journald.conf", check=True).stdout
    assert "Storage=volatile" in shown
    assert device.run("find", "/var/log/journal", "-name", "*.journal").stdout == ""


def test_killed_while_records_come(device):
    """By the journal nothing is lost or there twice, however often h-logged dies. Of the datagrams, each death may take those
    that it had received and not stored yet: one batch at most."""
    script = device.put_text(SENDER, "sender.py")
    journal = subprocess.Popen(device.command(["sh", "-c", "for i in $(seq 0 1499); do echo \"by-journal $i\"; done "
                                               "| systemd-cat -t killed"]))
    native = subprocess.Popen(device.command(["python3", script, "by-native", "0", "3000"]))
    deaths, batch = 30, 32  # LOG_NATIVE_BATCH
    for _ in range(deaths):
        device.kill_unit("h-logged.service")
    assert journal.wait(60) == 0 and native.wait(60) == 0
    device.wait(lambda: len(read(device, "-t", "killed")) >= 1500, "by-journal")
    assert [r["MESSAGE"] for r in read(device, "-t", "killed")] == [f"by-journal {i}" for i in range(1500)]
    device.run("python3", script, "by-native", "3000", "3001", check=True)
    numbers = lambda: [int(r["MESSAGE"].split()[1]) for r in read(device, "-t", "sender")]
    device.wait(lambda: 3000 in numbers(), "by-native")
    assert numbers() == sorted(set(numbers())) and len(numbers()) > 3000 - deaths * batch
    cursors = [int(r["cursor"]) for r in read(device)]
    assert cursors == sorted(set(cursors))


def test_restarts_keep_it_and_sync_is_kept(device):
    send(device, (1, None, b"keep-me-info"))
    send(device, (1, None, b"keep-me-warning"), priority=28)
    device.run("h-logread", "--sync", "-n", "1", check=True)
    device.run("systemctl", "restart", "h-logged.service", check=True)
    assert [r["MESSAGE"] for r in wait_for(device, 2, "-g", "keep-me")] == ["keep-me-info", "keep-me-warning"]
    # The reader without the daemon.
    ring = "/var/lib/hybridos/logged/important.hlog"
    shown = device.run("h-logread", "--file", ring, "-o", "cat", "-g", "keep-me", check=True).stdout
    assert shown == "keep-me-warning\n"


def test_who_may_read_what(device):
    stranger, operator = device.user("log-stranger", "60971"), device.user("log-operator", "60972", ["adm"])
    send(device, (1, None, b"may-read by root"), (0x80, b"PIN", b"1234"))
    send(device, (1, None, b"may-read by stranger"), user=stranger)
    wait_for(device, 2, "-g", "may-read")
    assert device.run("h-logread", user=stranger).returncode != 0
    device.run("h-policy", "grant", "--id", "test-own", "unix:log-stranger", "log.read-own", check=True)
    own = read(device, user=stranger)
    assert own and {r["uid"] for r in own} == {60971}
    assert read(device, "-g", "may-read by root", user=stranger) == []
    seen = {r["MESSAGE"]: r for r in read(device, "-g", "may-read", user=operator)}
    assert set(seen) == {"may-read by root", "may-read by stranger"}
    assert "1234" not in json.dumps(seen)
    refused = device.run("h-logread", "--audit", user=operator)
    assert refused.returncode != 0 and "log.audit" in refused.stderr and "h-policy explain" in refused.stderr
    # Over the bus directly, as JSON, a secret is a length; with the permission it is there.
    query = ["busctl", "--json=short", "call", *LOG1, "Query", "a{ss}", "1", "text", "may-read by root"]
    record = json.loads(json.loads(device.run(*query, user=operator, check=True).stdout)["data"][0][0])
    assert record["PIN"] == {"secret": 4}
    device.run("h-policy", "grant", "--id", "test-secrets", "unix:log-operator", "log.secrets", check=True)
    record = json.loads(json.loads(device.run(*query, user=operator, check=True).stdout)["data"][0][0])
    assert record["PIN"] == "1234"
    for rule in ("test-secrets", "test-own"):
        device.run("h-policy", "revoke", rule, check=True)


def test_the_audit_is_a_stream_of_its_own(device):
    stranger = device.user("log-denied", "60974")
    refused = device.run("busctl", "call", "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1",
                         "org.hybridos.Endpoints1", "List", user=stranger)
    audit = re.search(r"audit id ([0-9a-f]+-[0-9]+)", refused.stderr)[1]
    record = wait_for(device, 1, "--audit", f"AUDIT={audit}")[0]
    assert record["VERDICT"] == "denied" and record["PERMISSION"] == "endpoint.list" and record["audit"]
    assert record["UNIT"] == "h-securityd.service" and "60974" in record["SUBJECT"] + record["MESSAGE"]
    assert audit in device.run("h-policy", "explain", audit, check=True).stdout
    # A flood through the log and the journal does not reach it.
    script = device.put_text(SENDER, "sender.py")
    device.run("systemd-run", "--wait", "--unit", "washing.service", "python3", script, "washing", "0", "40000",
               check=True)
    assert len(read(device, "--audit", f"AUDIT={audit}")) == 1
    assert read(device, f"AUDIT={audit}") == []


def test_revocation_closes_the_pipe(device):
    reader = device.user("log-reader", "60973")
    device.run("h-policy", "grant", "--id", "test-follow", "unix:log-reader", "log.read", "log.read-own", check=True)
    process = device.popen("timeout", "60", "h-logread", "-f", "-n", "0", "-o", "cat", "-g", "followed-", user=reader, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    try:
        device.wait(lambda: "pipes" in device.run("h-logread", "--statistics").stdout
                    and device.run("sh", "-c", "h-logread --statistics | grep -q '^pipes *1$'").returncode == 0,
                    "the pipe is open")
        send(device, (1, None, b"followed-before"))
        assert process.stdout.readline() == "followed-before\n"
        device.run("h-policy", "revoke", "test-follow", check=True)
        send(device, (1, None, b"followed-after"))
        rest = []
        thread = threading.Thread(target=lambda: rest.append(process.stdout.read()))
        thread.start()
        thread.join(60)
        assert rest == [""], "the pipe has not ended, or gave what it must not"
    finally:
        process.kill()
        process.wait()


def test_rests_when_nothing_comes(device):
    """The ring's pages go back a moment after the last record, also while something waits for the disk."""
    def mapped():
        text = device.run("sh", "-c", "cat /proc/$(systemctl show -P MainPID h-logged.service)/smaps", check=True).stdout
        parts = re.split(r"^[0-9a-f]+-[0-9a-f]+ .*?(\S*)$", text, flags=re.M)
        return sum(int(re.search(r"^Rss:\s+(\d+)", what, re.M)[1])
                   for name, what in zip(parts[1::2], parts[2::2]) if name.endswith("main.hlog"))
    device.run("h-logread", "--sync", "-n", "1", check=True)
    send(device, (1, None, b"waits for the disk"), priority=28)
    wait_for(device, 1, "-g", "waits for the disk")
    for i in range(2):  # the second time it waits for the disk already
        script = device.put_text(SENDER, "sender.py")
        device.run("systemd-run", "--wait", "--unit", f"rest-{i}.service", "python3", script, f"rest-{i}", "0", "2000",
                   check=True)
        device.wait(lambda: mapped() < 100, "the pages of the ring to be given back")
    notes = read(device, "-g", "waits for the disk")
    assert len(notes) == 1


def test_a_flood_is_counted(device):
    script = device.put_text(SENDER, "sender.py")
    device.run("mkdir", "-p", "/run/hybridos/config/logged.conf.d", check=True)
    device.write("/run/hybridos/config/logged.conf.d/test.conf", "[log]\nRateInterval = 1s\nRateBurst = 100\n")
    try:
        device.run("systemctl", "reload", "h-logged.service", check=True)
        device.run("systemd-run", "--wait", "--unit", "flood.service", "python3", script, "flooding", "0", "20000",
                   check=True)
        device.wait(lambda: read(device, "-u", "flood.service", "-p", "warning", "-g", "were dropped"), "the note")
    finally:
        device.run("rm", "/run/hybridos/config/logged.conf.d/test.conf", check=True)
        device.run("systemctl", "reload", "h-logged.service", check=True)
    stored = len(read(device, "-t", "sender", "-g", "flooding"))
    notes = read(device, "-u", "flood.service", "-g", "were dropped")
    assert stored + sum(int(n["DROPPED"]) for n in notes) == 20000
    assert stored < 10000


@pytest.fixture
def http(device):
    """Asks /system/log with a token that may read the log."""
    device.run("h-policy", "token", "remove", "log-test")
    token = device.run("h-policy", "token", "add", "log-test", check=True).stdout.split()[-1]
    device.run("h-policy", "grant", "--id", "test-http", "token:log-test", "log.read", check=True)
    header = device.put_text(f"Authorization: Bearer {token}\n", "log-header")
    yield lambda path, *arguments: device.curl("/system/log" + path, "--header", "@" + header, *arguments)
    device.run("h-policy", "revoke", "test-http", check=True)


def test_over_http(device, http):
    send(device, (1, None, b"over-http <b>one</b>"), (0x80, b"PIN", b"1234"))
    wait_for(device, 1, "-g", "over-http")
    assert device.status("/system/log") == 401
    records = [json.loads(line) for line in http("?text=over-http").stdout.splitlines()]
    assert [r["MESSAGE"] for r in records] == ["over-http <b>one</b>"] and records[0]["PIN"] == {"secret": 4}
    assert http("?text=over-http", "--header", "Accept: text/plain").stdout.endswith(": over-http <b>one</b>\n")
    page = http("?text=over-http", "--include", "--header", "Accept: text/html").stdout
    assert "over-http &lt;b&gt;one&lt;/b&gt;" in page and "content-security-policy: default-src 'none'" in page
    # The audit takes a permission of its own, in whatever way it is asked for.
    code = ["--output", "/dev/null", "--write-out", "%{http_code}"]
    assert http("/audit", *code).stdout == "403" and http("?audit=1", *code).stdout == "400"
    assert http("/nothing", *code).stdout == "404"
    # All of it, in order, however much there is.
    script = device.put_text(SENDER, "sender.py")
    device.run("systemd-run", "--wait", "--unit", "many.service", "python3", script, "many", "0", "4000", check=True)
    wait_for(device, 4000, "-t", "sender", "-g", "many ")
    records = [json.loads(line) for line in http("?identifier=sender&text=many%20").stdout.splitlines()]
    assert [r["MESSAGE"] for r in records] == [f"many {i}" for i in range(4000)]
    after = http(f"?identifier=sender&text=many%20&cursor={records[-3]['cursor']}").stdout.splitlines()
    assert [json.loads(line)["MESSAGE"] for line in after] == ["many 3998", "many 3999"]


def test_live_over_http(device, http):
    """As a stream of every record, and as events that name the cursor to go on from."""
    header = "@/run/hybridos-tests/log-header"
    curl = ["curl", "--silent", "--insecure", "--no-buffer", "--max-time", "60", "--header", header]
    stream = device.popen(*curl, "https://localhost:8443/system/log?follow=1&text=live-", stdout=subprocess.PIPE,
                          text=True)
    events = device.popen(*curl, "--header", "Accept: text/event-stream",
                          "https://localhost:8443/system/log/unit/live.service", stdout=subprocess.PIPE, text=True)
    try:
        # The events begin with the newest records, so one that is there says that they are watched.
        say = ["systemd-run", "--wait", "--unit", "live.service", "sh", "-c", "echo live-$(date +%s)"]
        seen, ids = [], []
        for _ in range(3):
            device.run(*say, check=True)
            record = json.loads(stream.stdout.readline())
            while not record["MESSAGE"].startswith("live-"):
                record = json.loads(stream.stdout.readline())
            seen.append(record["cursor"])
            while True:
                line = events.stdout.readline()
                assert line, "the events have ended"
                if line.startswith("id: "):
                    ids.append(line[4:].strip())
                if line.startswith("data: ") and f'"{record["cursor"]}"' in line:
                    break
        assert len(set(seen)) == 3 and ids == sorted(ids)
        assert int(ids[-1]) >= int(seen[-1])
    finally:
        for process in (stream, events):
            process.kill()
            process.wait()


@pytest.fixture
def settings(device):
    """Puts a drop-in into h-logged's configuration, and takes it away at the end."""
    folder = "/run/hybridos/config/logged.conf.d"

    def put(text, verb="restart"):
        device.run("mkdir", "-p", folder, check=True)
        device.write(f"{folder}/test-settings.conf", text)
        device.run("systemctl", verb, "h-logged.service", check=True)
    yield put
    device.run("rm", "-f", f"{folder}/test-settings.conf", check=True)
    device.run("systemctl", "restart", "h-logged.service", check=True)


@pytest.fixture
def network(device):
    """The drop-in that opens a network for h-logged."""
    folder = "/run/systemd/system/h-logged.service.d"
    device.run("mkdir", "-p", folder, check=True)
    device.run("ln", "-s", "/usr/lib/hybridos/h-logged-network.conf", folder, check=True)
    device.run("systemctl", "daemon-reload", check=True)
    yield
    device.run("rm", "-r", folder, check=True)
    device.run("systemctl", "daemon-reload", check=True)


def statistics(device):
    shown = device.run("h-logread", "--statistics", check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in shown.splitlines())}


def test_syslog_of_other_nodes(device, network, settings):
    """By h-logged's own sockets and by systemd's below 1024, from a program that Linux has had for decades."""
    settings("[syslog]\nListen = udp:127.0.0.1:1514 tcp:[::1]:1514\nAllow = 127.0.0.1 ::1\n")
    node = ["logger", "--socket-errors=on", "--priority", "local0.err", "--tag", "node-test"]
    device.run(*node, "--server", "127.0.0.1", "--port", "1514", "--udp", "--rfc3164", "by-udp old", check=True)
    device.run(*node, "--server", "::1", "--port", "1514", "--tcp", "--octet-count", "--rfc5424",
               "--msgid", "M1", "--sd-id", "door@32473", "--sd-param", 'state="open \\"wide\\""', "by-tcp new", check=True)
    old, new = wait_for(device, 2, "-t", "node-test")
    assert old["MESSAGE"] == "by-udp old" and old["PEER"] == "127.0.0.1" and old["UNIT"] == "syslog@127.0.0.1"
    assert (old["priority"], old["facility"], old["source"]) == (3, 16, "syslog") and "uid" not in old
    assert new["MESSAGE"] == "by-tcp new" and new["PEER"] == "::1" and new["MSGID"] == "M1"
    assert new["SD_DOOR_32473_STATE"] == 'open "wide"'
    assert abs(int(new["realtime"]) - int(new["monotonic"])) > 0 and new["SENDER_TIME"].startswith("20")
    assert [r["MESSAGE"] for r in read(device, "-u", "syslog@::1", "-t", "node-test")] == ["by-tcp new"]
    # Who is not on the list is turned away, at once after a reload, and that is on record.
    settings("[syslog]\nListen = udp:127.0.0.1:1514 tcp:[::1]:1514\nAllow = 10.0.0.0/8\n", "reload")
    device.run(*node, "--server", "127.0.0.1", "--port", "1514", "--udp", "not-allowed", check=True)
    device.wait(lambda: statistics(device)["syslog-refused"] >= 1, "the refusal")
    assert read(device, "-g", "Syslog from 127.0.0.1 is not taken") and not read(device, "-t", "node-test", "-g", "not-allowed")


def test_syslog_on_port_514(device):
    """The daemon itself has no right to open it, nor any network."""
    socket = "h-logged-syslog.socket"
    device.run("systemctl", "stop", "h-logged.service", check=True)
    try:
        device.run("systemctl", "start", socket, "h-logged.service", check=True)
        for way in ("--udp", "--tcp"):
            device.run("logger", "--socket-errors=on", "--server", "127.0.0.1", "--port", "514", way, "--tag", "low-port", way[2:], check=True)
        assert {r["MESSAGE"] for r in wait_for(device, 2, "-t", "low-port")} == {"udp", "tcp"}
    finally:
        device.run("systemctl", "stop", socket, "h-logged.service", check=True)
        device.run("systemctl", "start", "h-logged.service", check=True)


def test_senders_never_wait(device, settings):
    """With h-logged stopped and its socket full, a program goes on; what it had to give up is on record afterwards."""
    settings("[log]\nRateBurst = 0\n")
    flood, fifo = device.program("log-flood"), "/run/hybridos-tests/flood-fifo"
    device.run("sh", "-c", f"rm -f {fifo}; mkfifo {fifo}", check=True)
    keeper = device.popen("sh", "-c", f"exec 3<>{fifo}; echo ready; exec sleep 300", stdout=subprocess.PIPE, text=True)
    count = 40000
    assert keeper.stdout.readline() == "ready\n"
    device.run("systemctl", "kill", "-s", "STOP", "h-logged.service", check=True)
    try:
        device.run("systemd-run", "--unit", "log-flood.service", "--collect", f"--property=StandardInput=file:{fifo}",
                   flood, str(count), check=True)
        done = ["journalctl", "-u", "log-flood.service", "-o", "cat", "--no-pager"]
        device.wait(lambda: "done" in device.run(*done).stdout.splitlines(), "the program has gone on", 25)
    finally:
        device.run("systemctl", "kill", "-s", "CONT", "h-logged.service", check=True)
    device.run("sh", "-c", f"echo > {fifo}", check=True)
    last = wait_for(device, 1, "-t", "log-flood", "-g", "one more")[0]
    keeper.kill()
    keeper.wait()
    device.run("systemctl", "stop", "log-flood.service")
    gave_up = read(device, "-g", "had to give up", "-u", "log-flood.service")
    assert last["UNIT"] == "log-flood.service" and len(gave_up) == 1
    stored = read(device, "-t", "log-flood", "-g", "flooding")
    newest = [int(r["MESSAGE"].split()[1]) for r in stored]
    assert newest == list(range(newest[0], newest[0] + len(newest)))
    # The ring may have overwritten the first ones.
    assert newest[-1] + 1 + int(gave_up[0]["DROPPED"]) == count


def test_the_kernel(device):
    """Its messages come by the journal: here through a pipe in the place of /dev/kmsg, which a container has none of."""
    if device.run("test", "-e", "/dev/kmsg").returncode == 0:
        pytest.skip("the device has a /dev/kmsg of its own")
    keeper = None
    try:
        # Open before anybody else opens it, who would wait for a reader.
        keeper = device.popen("sh", "-c", "mkfifo /dev/kmsg.new; exec 3<>/dev/kmsg.new; mv /dev/kmsg.new /dev/kmsg; echo ready;"
                              "exec sleep 300", stdout=subprocess.PIPE, text=True)
        assert keeper.stdout.readline() == "ready\n"
        device.run("systemctl", "restart", "systemd-journald.service", check=True)
        device.run("sh", "-c", r"printf '3,1,1000000,-;usb 1-1: device descriptor read/64, error -71\n' > /dev/kmsg", check=True)
        record = wait_for(device, 1, "-k", "-g", "usb 1-1")[0]
        assert (record["source"], record["priority"], record["facility"]) == ("kernel", 3, 0)
        assert "UNIT" not in record
        shown = device.run("h-logread", "-k", "-g", "usb 1-1", "-o", "short-monotonic", check=True).stdout
        assert re.fullmatch(r"\[ *\d+\.\d{6}\] kernel: usb 1-1: .*\n", shown)
    finally:
        device.run("rm", "-f", "/dev/kmsg")
        device.run("systemctl", "restart", "systemd-journald.service", check=True)
        if keeper:
            keeper.kill()
            keeper.wait()
    # The journal's restart broke nothing.
    device.run("systemd-run", "--wait", "--unit", "after-journald.service", "echo", "after-journald", check=True)
    wait_for(device, 1, "-t", "echo", "-g", "after-journald")


def test_reading_as_with_journalctl(device):
    """What fingers know: each of these does what it does there."""
    for number, level in enumerate(("err", "info", "debug")):
        send(device, (1, None, f"reading {number}".encode()), (3, None, b"reader-test"), priority=24 + (3, 6, 7)[number])
    wait_for(device, 3, "-t", "reader-test")

    def shown(*arguments):
        return device.run("h-logread", "-t", "reader-test", "-o", "cat", *arguments, check=True).stdout.split("\n")[:-1]
    everything = ["reading 0", "reading 1", "reading 2"]
    assert shown() == shown("-b") == shown("-b", "0") == shown("-b0") == shown("--boot") == everything
    assert shown("-r") == everything[::-1] and shown("-n", "2") == everything[1:] and shown("-n1") == everything[2:]
    assert shown("-e") == everything and shown("-r", "-n", "1") == everything[2:]
    assert shown("-p", "err") == everything[:1] and shown("-p", "6") == everything[:2]
    assert shown("--since", "1 hour ago") == shown("-S", "-1h") == shown("--until", "now") == everything
    assert shown("--since", "2020-01-01", "--until", "2020-01-02") == shown("-U", "1 hour ago") == []
    assert shown("-g", "READING 1") == shown("--grep=reading 1") == everything[1:2]
    assert shown("-u", "nothing", "-u", "nobody") == []
    boots = device.run("h-logread", "--list-boots", check=True).stdout.splitlines()
    number, boot = boots[-1].split()[:2]
    assert number == "0" and boot == device.run("cat", "/proc/sys/kernel/random/boot_id").stdout.replace("-", "").strip()
    assert shown("-b", boot) == everything
    assert device.run("h-logread", "-b", "-99").returncode == 1 and device.run("h-logread", "-b", "soon").returncode == 1
    ring = "/run/hybridos/logged/main.hlog"
    assert shown("--file", ring) == shown("--file", ring, "-b") == everything[1:]
    lines = {style: device.run("h-logread", "-t", "reader-test", "-n", "1", "-o", style, check=True).stdout.rstrip("\n")
             for style in ("short", "short-iso", "short-precise", "short-monotonic", "json", "verbose")}
    assert re.fullmatch(r"[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d reader-test\[\d+\]: reading 2", lines["short"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d reader-test\[\d+\]: reading 2", lines["short-iso"])
    assert re.fullmatch(r"[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\.\d{6} reader-test\[\d+\]: reading 2", lines["short-precise"])
    assert re.fullmatch(r"\[ *\d+\.\d{6}\] reader-test\[\d+\]: reading 2", lines["short-monotonic"])
    assert json.loads(lines["json"])["MESSAGE"] == "reading 2" and "    MESSAGE=reading 2" in lines["verbose"].splitlines()
    for wrong in (["-o", "short-loud"], ["-o", "record"], ["-p", "loud"], ["-n", "x"], ["-S", "soon"], ["lower=1"], ["-f", "-r"]):
        assert device.run("h-logread", *wrong).returncode == 1, wrong


def test_colours_and_the_pager(device):
    send(device, (1, None, b"coloured"), (3, None, b"colour-test"), priority=24 + 3)
    wait_for(device, 1, "-t", "colour-test")
    plain = device.run("h-logread", "-t", "colour-test", check=True).stdout
    coloured = device.run("h-logread", "--color=always", "-t", "colour-test", check=True).stdout
    assert "\x1b" not in plain and "\x1b[1;31mcoloured\x1b[0m" in coloured
    # On a terminal: colours, and the pager reads it all.
    on_terminal = ["script", "--quiet", "--return", "--command"]
    pager = "H_LOGREAD_PAGER=\"sed s/^/PAGED:/\" h-logread -t colour-test"
    shown = device.run(*on_terminal, pager, "/dev/null", check=True).stdout
    assert "PAGED:" in shown and "\x1b[1;31mcoloured" in shown
    shown = device.run(*on_terminal, f"NO_COLOR=1 {pager} --no-pager", "/dev/null", check=True).stdout
    assert "PAGED:" not in shown and "\x1b" not in shown
class Events:
    """Server-sent events of a path of /system/log, as they come."""

    def __init__(self, device, path, last=None):
        again = ["--header", f"Last-Event-ID: {last}"] if last else []
        self.process = device.popen(
            "curl", "--silent", "--insecure", "--no-buffer", "--max-time", "100", "--header",
            "@/run/hybridos-tests/log-header", "--header", "Accept: text/event-stream", *again,
            "https://localhost:8443/system/log" + path, stdout=subprocess.PIPE, text=True)

    def next(self):
        """(event, id, lines of data)"""
        event, number, data = "message", None, []
        while True:
            line = self.process.stdout.readline()
            assert line, "the events have ended"
            line = line.rstrip("\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif not line and (data or event != "message"):
                return event, number, data

    def close(self):
        self.process.kill()
        self.process.wait()


def until(events, message):
    """Messages of all events up to the one with this message; the id of that."""
    seen = []
    while True:
        event, number, data = events.next()
        assert event == "message", (event, data)
        seen += [json.loads(line).get("MESSAGE") for line in data if line]
        if message in seen:
            return seen, number


def test_events_go_on_where_the_client_was(device, http):
    """Whoever comes back with Last-Event-ID gets what it has missed, once and in order, and then what is live."""
    script = device.put_text(SENDER, "sender.py")
    unit = "resume.service"
    send_some = lambda first, last: device.run("systemd-run", "--wait", "--unit", unit, "python3", script, "resume",
                                               str(first), str(last), check=True)
    send_some(0, 3)
    wait_for(device, 3, "-u", unit, "-t", "sender")
    events = Events(device, "/unit/" + unit)
    try:
        _, last = until(events, "resume 2")
        events.close()
        # Several values' worth, while nobody watches.
        send_some(3, 1500)
        wait_for(device, 1500, "-u", unit, "-t", "sender")
        events = Events(device, "/unit/" + unit, last)
        seen, last = until(events, "resume 1499")
        send_some(1500, 1600)
        more, last = until(events, "resume 1599")
        own = [m for m in seen + more if m.startswith("resume ")]
        assert own == [f"resume {i}" for i in range(3, 1600)]
        # While it is away for a moment, others watch, and h-logged is made anew.
        events.close()
        other = Events(device, "/unit/" + unit, last)
        device.run("systemctl", "restart", "h-logged.service", check=True)
        send_some(1600, 1700)
        events = Events(device, "/unit/" + unit, last)
        seen, _ = until(events, "resume 1699")
        assert [m for m in seen if m.startswith("resume ")] == [f"resume {i}" for i in range(1600, 1700)]
        other.close()
        # Of an id that it does not know it says that something is missing.
        events.close()
        events = Events(device, "/unit/" + unit, "no-cursor")
        assert events.next()[0] == "gap"
        assert "resume 1699" in until(events, "resume 1699")[0]
    finally:
        events.close()


COAP = "/usr/bin/coap-client-notls"


def test_over_coap(device):
    """The same endpoint by blocks and by Observe, to whoever may read the log."""
    script = device.put_text(SENDER, "sender.py")
    coap = lambda path, *more: device.run(COAP, "-m", "get", "-B", "60", *more, "coap://127.0.0.1/system/log" + path)
    assert "4.01" in coap("").stderr
    device.run("systemd-run", "--wait", "--unit", "coap-log.service", "python3", script, "by-coap", "0", "200", check=True)
    wait_for(device, 200, "-u", "coap-log.service", "-t", "sender")
    device.run("h-policy", "grant", "--id", "test-coap", "anonymous", "log.read", check=True)
    try:
        device.wait(lambda: "4.0" not in coap("?limit=1").stderr, "the grant")
        shown = coap("?identifier=sender&unit=coap-log")
        assert [json.loads(line)["MESSAGE"] for line in shown.stdout.splitlines() if line] == \
            [f"by-coap {i}" for i in range(200)], shown.stderr
        watched = device.popen(COAP, "-m", "get", "-B", "60", "-s", "8", "coap://127.0.0.1/system/log/unit/coap-live.service",
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(20):
            device.run("systemd-run", "--wait", "--unit", "coap-live.service", "python3", script, "observed", str(i), str(i + 1),
                       check=True)
            if watched.poll() is not None:
                break
        out, problem = watched.communicate(timeout=120)
        found = {int(n) for n in re.findall(r'"observed (\d+)"', out)}
        # A value at a time: Observe promises the latest state, not each of them (RFC 7641, 1.3).
        assert len(found) > 2, (out[-2000:], problem)
    finally:
        device.run("h-policy", "revoke", "test-coap", check=True)
