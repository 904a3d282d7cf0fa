# SPDX-License-Identifier: Apache-2.0
"""The log of the device on its way to a real rsyslogd, which is on another network and comes and goes."""
import contextlib
import pathlib
import re
import shutil
import subprocess

import packages
import pytest

HERE = "/run/hybridos-tests/log-server"
NETWORK, DEVICE, SERVER = "log-server", "10.214.7.1", "10.214.7.2"
UNIT_DROP_IN = "/run/systemd/system/h-logged.service.d"
DROP_IN = "/run/hybridos/config/logged.conf.d/test-sink.conf"
SENDER = """
import socket, struct, sys, time
text, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
field = lambda code, value: struct.pack('<BH', code, len(value)) + value
for i in range(count):
    s.sendto(b'HL\\x01\\x1e\\0\\0\\0\\0' + field(1, f'{text} {i}'.encode()) + field(3, b'sink-sender'),
             '/run/hybridos/logged/log.sock')
    time.sleep(pause)
"""
RSYSLOG = """
global(workDirectory="{here}" maxMessageSize="16k" defaultNetstreamDriver="ossl"
       defaultNetstreamDriverCAFile="{here}/ca.pem" defaultNetstreamDriverCertFile="{here}/server.pem"
       defaultNetstreamDriverKeyFile="{here}/server.key")
# What has been read is in the file before more is read: what a SIGKILL loses was not in rsyslogd's own queue.
main_queue(queue.type="Direct")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode={auth})
module(load="imrelp" tls.tlslib="openssl")
input(type="imtcp" port="6514")
input(type="imrelp" port="2514" tls="on" tls.caCert="{here}/ca.pem" tls.myCert="{here}/server.pem"
      tls.myPrivKey="{here}/server.key" tls.authMode="name" tls.permittedPeer=["device.test"])
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{here}/out" template="raw" flushOnTXEnd="on")
"""


def certificates(folder):
    """An authority, its server and its device; and an authority that nobody knows."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)
    for ca in ("ca", "other-ca"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj",
                f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
    for name, host in (("server", "logs.test"), ("device", "device.test")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}", "-keyout",
                f"{name}.key", "-out", f"{name}.csr")
        (folder / "san").write_text(f"subjectAltName=DNS:{host}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
                "-extfile", "san", "-out", f"{name}.pem")


class Server:
    def __init__(self, device):
        self.device = device
        self.process = None

    def link(self, state):
        self.device.run("ip", "link", "set", "log-server0", state, check=True)

    def start(self, auth='"anon"'):
        device = self.device
        device.write(f"{HERE}/rsyslog.conf", RSYSLOG.format(here=HERE, auth=auth))
        device.run("rm", "-f", f"{HERE}/pid", check=True)
        libraries = f"{HERE}/usr/lib/x86_64-linux-gnu"
        if not device.run("test", "-d", libraries).returncode == 0:
            libraries = device.run("sh", "-c", f"echo {HERE}/usr/lib/*-linux-gnu", check=True).stdout.strip()
        device.run("systemd-run", "--unit", "log-server.service", "--collect", f"--property=NetworkNamespacePath=/run/netns/{NETWORK}",
                   f"--setenv=LD_LIBRARY_PATH={libraries}", f"{HERE}/usr/sbin/rsyslogd", "-n", "-f", f"{HERE}/rsyslog.conf",
                   "-i", f"{HERE}/pid", "-M", f"{libraries}/rsyslog", check=True)
        device.wait(lambda: device.run("ip", "netns", "exec", NETWORK, "sh", "-c",
                                       "ss -Hltn | grep -q :6514 && ss -Hltn | grep -q :2514").returncode == 0, "rsyslogd listens")

    def stop(self, signal="TERM"):
        device = self.device
        device.run("systemctl", "kill", "-s", signal, "log-server.service")
        device.wait(lambda: device.run("systemctl", "is-active", "log-server.service").stdout.strip() not in ("active", "deactivating"),
                    "rsyslogd has ended")
        device.run("systemctl", "reset-failed", "log-server.service")

    def messages(self, text):
        """[(cursor, message)] of those with this text, as they came."""
        out = self.device.run("cat", f"{HERE}/out").stdout
        return [(int(m[1]), m[2]) for m in re.finditer(rf'^<.* cursor="(\d+)".*\] ({re.escape(text)} \d+)$', out, re.M)]

    def clear(self):
        self.device.run("sh", "-c", f": > {HERE}/out", check=True)


def statistics(device):
    shown = device.run("h-logread", "--statistics", check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in shown.splitlines())}


@pytest.fixture(scope="module")
def server(device, tmp_path_factory):
    tree = packages.unpack(["only-log-server"], device.cache, print)
    folder = pathlib.Path(f"/proc/{device.init}/root{HERE}")
    if tree:
        shutil.copytree(tree, folder, symlinks=True, dirs_exist_ok=True)
    else:  # it is installed on this machine, and so in the device
        folder.mkdir(parents=True)
        (folder / "usr").symlink_to("/usr")
    made = tmp_path_factory.mktemp("certificates")
    certificates(made)
    for path in made.iterdir():
        shutil.copy(path, folder)
    device.run("chown", "h-logged", f"{HERE}/device.key", check=True)
    device.run("ip", "netns", "add", NETWORK, check=True)
    device.run("ip", "link", "add", "log-server0", "type", "veth", "peer", "name", "eth0", "netns", NETWORK, check=True)
    device.run("ip", "address", "add", f"{DEVICE}/30", "dev", "log-server0", check=True)
    device.run("ip", "link", "set", "log-server0", "up", check=True)
    for command in (["address", "add", f"{SERVER}/30", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
        device.run("ip", "-n", NETWORK, *command, check=True)
    hosts = device.run("cat", "/etc/hosts").stdout
    device.write("/etc/hosts", hosts + f"\n{SERVER} logs.test other.test\n")
    yield Server(device)
    device.run("rm", "-rf", UNIT_DROP_IN, check=True)
    device.run("systemctl", "daemon-reload", check=True)
    device.run("systemctl", "restart", "h-logged.service", check=True)
    device.write("/etc/hosts", hosts)
    device.run("ip", "link", "delete", "log-server0", check=True)
    device.run("ip", "netns", "delete", NETWORK, check=True)
    device.run("rm", "-r", HERE, check=True)


def open_network(device):
    """As the drop-in itself says."""
    if device.run("test", "-e", UNIT_DROP_IN).returncode:
        device.run("mkdir", "-p", UNIT_DROP_IN, check=True)
        device.run("ln", "-s", "/usr/lib/hybridos/h-logged-network.conf", UNIT_DROP_IN, check=True)
        device.run("systemctl", "daemon-reload", check=True)
        device.run("systemctl", "restart", "h-logged.service", check=True)


@pytest.fixture
def sink(device, server):
    """Configures the sink; at the end there is none."""
    def put(address="logs.test", network=True, **more):
        if network:
            open_network(device)
        lines = {"Address": address, "Authority": f"{HERE}/ca.pem", **more}
        device.run("mkdir", "-p", DROP_IN.rsplit("/", 1)[0], check=True)
        device.write(DROP_IN, "[log]\nRateBurst = 0\n[sink]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items()))
        device.run("systemctl", "reload", "h-logged.service", check=True)
    yield put
    server.link("up")
    device.run("rm", "-f", DROP_IN, check=True)
    device.run("systemctl", "restart", "h-logged.service", check=True)
    device.run("rm", "-f", "/run/hybridos/logged/sink.cursor", "/var/lib/hybridos/logged/sink.cursor", check=True)
    server.stop()
    server.clear()


def connected(device):
    device.wait(lambda: statistics(device)["sink-connected"] == 1, "the sink is connected", 120)


def arrived(device, server, text, count):
    """All are there, in order; gives how many came more than once."""
    device.wait(lambda: len(set(server.messages(text))) >= count, f"{count} of {text}", 180)
    came = server.messages(text)
    first = list(dict.fromkeys(came))
    assert [message for _, message in first] == [f"{text} {i}" for i in range(count)]
    assert [cursor for cursor, _ in first] == sorted(cursor for cursor, _ in first)
    return len(came) - len(first)


@contextlib.contextmanager
def sending(device, text, count, pause):
    script = device.put_text(SENDER, "sink-sender.py")
    process = device.popen("python3", script, text, str(count), str(pause), stdout=subprocess.DEVNULL)
    try:
        yield process
        assert process.wait(180) == 0
    finally:
        process.kill()
        process.wait()


def test_closed_unless_opened(device, server, sink):
    """The unit has no network of itself, and says what to do."""
    sink(network=False)
    device.wait(lambda: statistics(device)["sink-failures"] > 0, "it cannot connect")
    note = device.run("h-logread", "-o", "cat", "-n", "1", "-g", "The log does not go to", check=True).stdout
    assert "/usr/lib/hybridos/h-logged-network.conf" in note
    assert device.run("test", "-f", "/usr/lib/hybridos/h-logged-network.conf").returncode == 0


def test_records_arrive_once(device, server, sink):
    server.start()
    sink()
    connected(device)
    with sending(device, "plain", 3000, 0):
        pass
    again = arrived(device, server, "plain", 3000)
    shown = statistics(device)
    assert again == 0 and shown["sink-sent-again"] == 0, [s for s in shown.items() if "sink" in s[0]]
    # A restart of either at its ease brings nothing twice, and what was said meanwhile arrives.
    device.wait(lambda: statistics(device)["sink-cursor"] >= server.messages("plain")[-1][0], "the cursor")
    device.run("systemctl", "restart", "h-logged.service", check=True)
    with sending(device, "restarted", 100, 0):
        pass
    assert arrived(device, server, "restarted", 100) == 0
    assert len(server.messages("plain")) == 3000


@pytest.mark.parametrize("protocol", ["syslog", "relp"])
def test_nothing_is_lost(device, server, sink, protocol):
    """While records come, the link goes away, and both programs are killed."""
    server.start()
    sink(Protocol=protocol, Certificate=f"{HERE}/device.pem", Key=f"{HERE}/device.key")
    connected(device)
    text = f"killed-{protocol}"
    with sending(device, text, 4000, 0.002):
        for number in range(6):
            seen = len(server.messages(text))
            device.wait(lambda: len(server.messages(text)) > seen or number > 3, "more of them")
            if number % 2:
                server.stop("KILL")
                server.start()
            else:
                device.run("systemctl", "kill", "-s", "KILL", "h-logged.service", check=True)
                device.wait(lambda: device.run("systemctl", "is-active", "h-logged.service").stdout.strip() == "active", "h-logged")
        failures = statistics(device)["sink-failures"]
        server.link("down")
        device.wait(lambda: statistics(device)["sink-failures"] > failures, "the link is found dead", 120)
        server.link("up")
    again = arrived(device, server, text, 4000)
    print(f"{protocol}: {again} of 4000 came twice")
    assert again < 2000


def test_what_the_ring_gave_up_is_told(device, server, sink):
    server.start()
    sink()
    connected(device)
    with sending(device, "known", 10, 0):
        pass
    arrived(device, server, "known", 10)
    server.stop()
    with sending(device, "overwritten", 60000, 0):
        pass
    device.wait(lambda: device.run("h-logread", "-n", "1", "-t", "sink-sender", "-o", "cat").stdout.strip() == "overwritten 59999",
                "all of them are taken in", 120)
    server.start()
    device.wait(lambda: server.messages("overwritten") and server.messages("overwritten")[-1][1] == "overwritten 59999", "the last", 180)
    came = server.messages("overwritten")
    missed = sum(int(n) for n in re.findall(r' missed="(\d+)"', device.run("cat", f"{HERE}/out").stdout))
    assert len(came) < 60000 and missed >= 60000 - len(came)
    assert statistics(device)["sink-missed"] == missed


@pytest.mark.parametrize("what, more", [
    ("unknown authority", {"Authority": f"{HERE}/other-ca.pem"}),
    ("other name", {"address": "other.test"}),
    ("other name by hand", {"ServerName": "other.test"}),
])
def test_only_the_right_server(device, server, sink, what, more):
    server.start()
    sink(**more)
    before = statistics(device)["sink-failures"]
    device.wait(lambda: statistics(device)["sink-failures"] > before, "it does not connect")
    shown = statistics(device)
    assert shown["sink"] == 1 and shown["sink-connected"] == 0 and shown["sink-sent"] == 0
    note = device.run("h-logread", "-o", "cat", "-n", "1", "-g", "The log does not go to", check=True).stdout
    assert ("certificate" in note or "mismatch" in note) and "trying again" in note


def test_the_client_is_asked_who_it_is(device, server, sink):
    server.start(auth='"x509/name" permittedPeer="device.test"')
    sink(Certificate=f"{HERE}/device.pem", Key=f"{HERE}/device.key")
    connected(device)
    with sending(device, "by-certificate", 10, 0):
        pass
    arrived(device, server, "by-certificate", 10)


def test_secrets_and_audit_stay_here(device, server, sink):
    server.start()
    sink()
    connected(device)
    device.run("python3", "-c", "import socket, struct; f = lambda c, v: struct.pack('<BH', c, len(v)) + v;"
               "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'HL\\x01\\x1e\\0\\0\\0\\0' + f(1, b'secret 0') + b'\\x80\\x03PIN' +"
               "struct.pack('<H', 8) + b'12345678' + f(1 | 0x80, b'87654321'), '/run/hybridos/logged/log.sock')", check=True)
    stranger = device.user("log-sink-denied", "61075")
    assert device.run("h-logread", user=stranger).returncode != 0
    arrived(device, server, "secret", 1)
    out = device.run("cat", f"{HERE}/out").stdout
    assert "12345678" not in out and "87654321" not in out and "AUDIT=" not in out
    sink(Audit="yes")
    assert device.run("h-logread", user=stranger).returncode != 0
    device.wait(lambda: 'PERMISSION="log.read-own"' in device.run("cat", f"{HERE}/out").stdout, "the refusal")
