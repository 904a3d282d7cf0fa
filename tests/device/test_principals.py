# SPDX-License-Identifier: Apache-2.0
"""People from outside: users with passwords, sessions, and what ends them."""
import json
import subprocess
import time

import pytest

from test_roads import end

PASSWORD = "correct horse battery"
COOKIE = "__Host-hybridos"


def policy(device, *words, check=True, **options):
    return device.run("h-policy", *words, check=check, **options)


@pytest.fixture
def alice(device):
    """A remote user with a password who may read the log. What strangers may guess belongs to a name, and
    outlives the user: each test has one of its own."""
    name = f"test-{time.monotonic_ns():x}"
    policy(device, "user", "add", name, input=PASSWORD + "\n")
    policy(device, "grant", "--id", "test-alice-log", f"user:{name}", "log.read")
    yield name
    policy(device, "revoke", "test-alice-log", check=False)
    policy(device, "user", "remove", name, check=False)


def head_of(text):
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    lines = head.split("\n")
    fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
    return int(lines[0].split()[1]), {name.lower(): value for name, value in fields}, body


def ask(device, path, *arguments, headers=(), address="localhost"):
    given = [word for header in headers for word in ("--header", header)]
    done = device.run("curl", "-sSki", "--http1.1", "--max-time", "60", *given, *arguments,
                      f"https://{address}:8443{path}", check=True)
    return head_of(done.stdout)


def log_in(device, user, password=PASSWORD, headers=(), address="localhost"):
    return ask(device, "/system/login", "--data-binary", json.dumps({"user": user, "password": password}),
               headers=("Content-Type: application/json", *headers), address=address)


def cookie_of(fields):
    return fields["set-cookie"].split(";")[0]


def log_status(device, cookie):
    return ask(device, "/system/log", headers=(f"Cookie: {cookie}",))[0]


def is_over(device, cookie):
    """All come from one address here, and what is over counts as a wrong guess there: 429 after some."""
    return log_status(device, cookie) in (401, 429)


def sessions(device, user):
    listed = json.loads(policy(device, "--json", "session", "list").stdout)
    return [s for s in listed if s[1] == user]


def test_login_opens_and_logout_closes(device, alice):
    assert ask(device, "/system/log")[0] == 401
    status, fields, _ = log_in(device, alice)
    assert status == 204
    name, secret = cookie_of(fields).split("=")
    assert name == COOKIE and secret.startswith("hys_") and len(secret) == 47
    attributes = {a.strip().lower() for a in fields["set-cookie"].split(";")[1:]}
    assert {"path=/", "secure", "httponly", "samesite=strict"} == attributes
    assert fields["cache-control"] == "no-store"
    status, fields, _ = ask(device, "/system/log", headers=(f"Cookie: other=1; {COOKIE}={secret}",))
    assert status == 200
    assert "cookie" in fields["vary"] and "private" in fields["cache-control"]
    # The same session by a header: a program needs no cookie.
    assert ask(device, "/system/log", headers=(f"Authorization: Bearer {secret}",))[0] == 200
    listed = sessions(device, alice)
    assert len(listed) == 1 and listed[0][2] == "http"
    assert listed[0][5] >= listed[0][4]
    same = ("Origin: https://localhost:8443", f"Cookie: {COOKIE}={secret}")
    status, fields, _ = ask(device, "/system/logout", "-X", "POST", headers=same)
    assert status == 204 and "max-age=0" in fields["set-cookie"].lower()
    status, fields, _ = ask(device, "/system/log", headers=(f"Cookie: {COOKIE}={secret}",))
    assert status == 401 and "max-age=0" in fields["set-cookie"].lower()
    assert not sessions(device, alice)


def test_the_page_needs_no_script(device, alice):
    status, fields, page = ask(device, "/system/login")
    assert status == 200 and fields["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page and "default-src 'none'" in fields["content-security-policy"]
    form = ("--data-urlencode", f"user={alice}", "--data-urlencode")
    origin = ("Origin: https://localhost:8443",)
    status, _, page = ask(device, "/system/login", *form, "password=wrong", headers=origin)
    assert status == 401 and "Wrong user or password" in page
    status, fields, _ = ask(device, "/system/login", *form, f"password={PASSWORD}", headers=origin)
    assert status == 303 and fields["location"] == "/system/login"
    cookie = cookie_of(fields)
    assert "logged in" in ask(device, "/system/login", headers=(f"Cookie: {cookie}",))[2]
    status, fields, _ = ask(device, "/system/logout", "--data", "", headers=(*origin, f"Cookie: {cookie}"))
    assert status == 303
    assert is_over(device, cookie)


def test_a_login_makes_a_new_session_and_ends_the_old_one(device, alice):
    first = cookie_of(log_in(device, alice)[1])
    second = cookie_of(log_in(device, alice, headers=(f"Cookie: {first}", "Origin: https://localhost:8443"))[1])
    assert first != second
    device.wait(lambda: is_over(device, first), "the old session ends")
    assert log_status(device, second) == 200
    # One that an attacker has chosen is never taken over.
    third = cookie_of(log_in(device, alice, headers=(f"Cookie: {COOKIE}=hys_chosen",
                                                     "Origin: https://localhost:8443"))[1])
    assert "chosen" not in third
    assert is_over(device, f"{COOKIE}=hys_chosen")


def change_password(device, cookie, old, new, headers=("Origin: https://localhost:8443",)):
    return ask(device, "/system/password", "--data-binary", json.dumps({"old": old, "new": new}),
               headers=("Content-Type: application/json", f"Cookie: {cookie}", *headers))


def test_users_change_their_own_password(device, alice):
    here, there = (cookie_of(log_in(device, alice)[1]) for _ in range(2))
    stream = device.popen("curl", "-sSkN", "--max-time", "120", "--header", "Accept: text/event-stream",
                          "--header", f"Cookie: {there}", "https://localhost:8443/system/log/unit/test.service",
                          stdout=subprocess.PIPE, text=True)
    device.wait(lambda: "curl" in device.run("ss", "-tnp").stdout, "the stream is open")
    assert change_password(device, here, "wrong", "another password")[0] == 401
    assert change_password(device, here, PASSWORD, "short")[0] == 422
    assert change_password(device, here, PASSWORD, "another password", headers=())[0] == 403
    assert change_password(device, f"{COOKIE}=hys_made-up", PASSWORD, "another password")[0] == 401
    assert log_status(device, there) == 200
    status, fields, _ = change_password(device, here, PASSWORD, "another password")
    assert status == 204
    # Everywhere else it has ended at once, streams included; here it goes on, in a new session.
    assert stream.wait(timeout=60) is not None
    assert is_over(device, here) and is_over(device, there)
    assert log_status(device, cookie_of(fields)) == 200
    assert log_in(device, alice)[0] == 401
    assert log_in(device, alice, "another password")[0] == 204
    done = policy(device, "--json", "audit")
    assert '"own password"' in done.stdout and "another password" not in done.stdout


def test_the_page_of_the_password(device, alice):
    assert "Log in" in ask(device, "/system/password")[2]
    cookie = cookie_of(log_in(device, alice)[1])
    headers = ("Origin: https://localhost:8443", f"Cookie: {cookie}")
    assert "/system/password" in ask(device, "/system/login", headers=headers)[2]
    status, fields, page = ask(device, "/system/password", headers=headers)
    assert status == 200 and "<script" not in page and "default-src 'none'" in fields["content-security-policy"]

    def send(old, new, again):
        words = [word for name, value in (("old", old), ("new", new), ("again", again))
                 for word in ("--data-urlencode", f"{name}={value}")]
        return ask(device, "/system/password", *words, headers=headers)
    status, _, page = send(PASSWORD, "another password", "another passwort")
    assert status == 422 and "differ" in page
    status, _, page = send("wrong", "another password", "another password")
    assert status == 401 and "Wrong password" in page and 'name="again"' in page
    status, fields, _ = send(PASSWORD, "another password", "another password")
    assert status == 303 and fields["location"] == "/system/login"
    assert log_status(device, cookie_of(fields)) == 200 and is_over(device, cookie)


def test_other_sites_cannot_ride_on_a_cookie(device, alice):
    cookie = cookie_of(log_in(device, alice)[1])
    for origin in ("https://evil.example", "https://localhost:8444", "http://localhost:8443", "null"):
        for path in ("/system/logout", "/system/login", "/system/password", "/system/log"):
            status = ask(device, path, "--data", "", headers=(f"Cookie: {cookie}", f"Origin: {origin}"))[0]
            assert status == 403, (origin, path)
    # Browsers send an origin with whatever changes something.
    assert ask(device, "/system/logout", "--data", "", headers=(f"Cookie: {cookie}",))[0] == 403
    assert log_status(device, cookie) == 200
    # Not even a login, which carries nothing: who has logged somebody in sees what they then do.
    assert log_in(device, alice, headers=("Origin: https://evil.example",))[0] == 403
    assert ask(device, "/system/log", headers=(f"Cookie: {cookie}; {cookie}",))[0] == 400


def test_what_is_no_login(device, alice):
    json_type = ("Content-Type: application/json",)
    for body, headers, wanted in (
            ("{}", json_type, 400), ("[]", json_type, 400), ('{"user": 1, "password": "x"}', json_type, 400),
            ('{"user": "a"}', json_type, 400), ("user=a", (), 400), ("user=a&password=%", (), 400),
            ("x", ("Content-Type: text/plain",), 415), ("x" * 5000, json_type, 413),
            ('{"user": "No One", "password": "x"}', json_type, 401)):
        assert ask(device, "/system/login", "--data-binary", body, headers=headers)[0] == wanted, body
    assert ask(device, "/system/login", "-X", "DELETE")[0] == 405
    assert ask(device, "/system/logout")[0] == 405


@pytest.mark.parametrize("ending", ["session", "password", "user"])
def test_it_ends_everywhere_and_mid_stream(device, alice, ending):
    cookie = cookie_of(log_in(device, alice)[1])
    stream = device.popen("curl", "-sSkN", "--max-time", "120", "--header", "Accept: text/event-stream",
                          "--header", f"Cookie: {cookie}", "https://localhost:8443/system/log/unit/test.service",
                          stdout=subprocess.PIPE, text=True)
    # The stream is open once its answer has begun.
    device.wait(lambda: "curl" in device.run("ss", "-tnp").stdout, "the stream is open")
    if ending == "session":
        policy(device, "session", "remove", str(sessions(device, alice)[0][0]))
    elif ending == "password":
        policy(device, "user", "password", alice, input="another password\n")
    else:
        policy(device, "user", "remove", alice)
    # It was cut before the command returned; nothing is left to wait for but its end.
    assert stream.wait(timeout=60) is not None
    assert is_over(device, cookie)
    assert not sessions(device, alice)
    if ending == "password":
        assert log_in(device, alice)[0] == 401
        assert log_in(device, alice, "another password")[0] == 204


def test_a_session_outlives_the_agent(device, alice):
    """And nothing that has ended comes back with it. The file is in memory, and nobody else reads it."""
    kept, ended = (cookie_of(log_in(device, alice)[1]) for _ in range(2))
    assert ask(device, "/system/logout", "-X", "POST", headers=(f"Cookie: {ended}", "Origin: https://localhost:8443"))[0] < 400
    listed = sessions(device, alice)
    device.kill_unit("h-securityd.service")
    device.wait(lambda: device.run("h-policy", "status").returncode == 0, "h-securityd to be back")
    device.wait(lambda: log_status(device, kept) == 200, "the session to be known again")
    assert is_over(device, ended)
    assert sessions(device, alice)[0][0] == listed[0][0] and len(listed) == 1
    assert device.run("stat", "-c", "%a %U", "/run/hybridos/security/sessions", check=True).stdout == "600 h-securityd\n"


def test_roles(device, alice):
    cookie = cookie_of(log_in(device, alice)[1])
    policy(device, "grant", "--id", "test-role", "role:test-operator", "server.read")
    try:
        metrics = lambda: ask(device, "/system/http/metrics", headers=(f"Cookie: {cookie}",))[0]
        assert metrics() == 403
        policy(device, "user", "roles", alice, "test-operator", "other")
        assert metrics() == 200
        assert "roles test-operator other" in policy(device, "user", "list").stdout
        policy(device, "user", "roles", alice)
        assert metrics() == 403
    finally:
        policy(device, "revoke", "test-role")


def test_passwords_stay_secret(device, alice):
    secret = "unheard of phrase 4711"
    policy(device, "user", "password", alice, input=secret + "\n")
    cookie = cookie_of(log_in(device, alice, secret)[1])
    assert log_in(device, alice, secret + "x")[0] == 401
    for where in ("/var/lib/hybridos", "/run/hybridos"):
        assert device.run("grep", "-rlF", secret, where).stdout == ""
        assert device.run("grep", "-rlF", cookie.split("=")[1], where).stdout == ""
    journal = device.run("journalctl", "--no-pager", "-o", "cat", "-b", check=True).stdout
    assert secret not in journal and cookie.split("=")[1] not in journal
    assert device.run("h-logread", "--audit", check=True).stdout.count(secret) == 0
    # Nobody but the holder of the right sets one.
    done = policy(device, "user", "password", alice, input="another password\n", check=False, user="nobody")
    assert done.returncode == 4
    assert log_in(device, alice, secret)[0] == 204


def test_guessing_is_slowed_and_nobody_is_locked_out(device, alice):
    """The addresses of the loopback network are different places: 127.0.0.0/8."""
    def attempt(place, password):
        body = json.dumps({"user": alice, "password": password})
        done = device.run("curl", "-sk", "--interface", place, "-o", "/dev/null", "-w", "%{http_code}", "--max-time",
                          "60", "-H", "Content-Type: application/json", "--data-binary", body,
                          "https://127.0.0.1:8443/system/login", check=True)
        return int(done.stdout)

    assert attempt("127.0.66.1", PASSWORD) == 204
    assert 429 in [attempt("127.0.66.2", "wrong") for _ in range(15)]
    assert attempt("127.0.66.2", PASSWORD) == 429
    # Strangers from everywhere use up what strangers have ...
    answers = [attempt(f"127.0.67.{n}", "wrong") for n in range(1, 25)]
    assert 429 in answers and answers.count(401) <= 20
    assert attempt("127.0.66.3", PASSWORD) == 429
    # ... and the owner comes in from where they have been before, or with a token.
    assert attempt("127.0.66.1", PASSWORD) == 204
    token = policy(device, "token", "add", "--user", alice, alice + "-token").stdout.split()[-1]
    assert ask(device, "/system/log", headers=(f"Authorization: Bearer {token}",))[0] == 200


def test_an_idle_agent_has_no_thread_and_writes_nothing(device, alice):
    assert log_in(device, alice)[0] == 204
    pid = device.main_pid("h-securityd.service")
    device.wait(lambda: len(device.run("ls", f"/proc/{pid}/task").stdout.split()) == 1, "the thread ends")
    before = device.run("stat", "-c", "%Y %s", "/var/lib/hybridos/securityd/state.db", check=True).stdout
    assert log_in(device, alice)[0] == 204 # from a known place
    assert device.run("stat", "-c", "%Y %s", "/var/lib/hybridos/securityd/state.db").stdout == before


# --- bound connections -----------------------------------------------------------------------------

# Runs as a server's user: asks the private socket for handles, and calls over connections of its own.
AS_SERVER = '''
import json, os, socket, sys
import dbus

class Agent:
    def __init__(self, service="httpd"):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect("/run/hybridos/security/agent.sock")
        self.n = 0
        assert self.ask(op="hello", version=1, service=service)["ok"]

    def ask(self, **question):
        self.n += 1
        self.socket.send(json.dumps({"id": self.n, **question}).encode())
        while True:
            answer = json.loads(self.socket.recv(65536))
            if answer.get("op") == "changed":
                self.socket.send(json.dumps({"op": "settled", "generation": answer["generation"]}).encode())
            elif answer["id"] == self.n:
                return answer

    def connect(self, bearer):
        answer = self.ask(op="connect", protocol="http", peer="192.0.2.1:1", tls="TLSv1.3", bearer=bearer)
        return answer["handle"]

def bus():
    return dbus.SystemBus(private=True)

def call(bus, name, path, interface, member, signature="", *arguments):
    """The answer, or the last part of the error's name."""
    try:
        return bus.call_blocking(name, path, interface, member, signature, arguments)
    except dbus.exceptions.DBusException as e:
        return e.get_dbus_name().rsplit(".", 1)[1] if e.get_dbus_name().startswith("org.hybridos") else repr(e)

def bind(bus, handle):
    return call(bus, "org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1", "Bind", "t",
                dbus.UInt64(handle))

def security(bus, member, signature="", *arguments):
    return call(bus, "org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1", member,
                signature, *arguments)

def log(bus):
    return call(bus, "org.hybridos.Log1", "/org/hybridos/Log1", "org.hybridos.Log1", "GetStatistics")

def show(value):
    print(value if isinstance(value, str) else "answered", flush=True)
'''
SERVER = "h-httpd"


@pytest.fixture
def token(device, alice):
    """A token of alice; she and the server may both read statistics of the log and the policy's rules."""
    name = alice + "-bound"
    secret = policy(device, "token", "add", "--user", alice, name).stdout.split()[-1]
    policy(device, "grant", "--id", "test-bound-alice", f"user:{alice}", "log.statistics", "audit.read")
    policy(device, "grant", "--id", "test-bound-server", f"unix:{SERVER}", "log.statistics", "security.read")
    yield secret
    policy(device, "revoke", "test-bound-alice", check=False)
    policy(device, "revoke", "test-bound-server", check=False)


def as_user(device, script, *words, user=SERVER, timeout=300):
    path = device.put_text(AS_SERVER + script, "bound.py")
    return device.run("python3", path, *words, user=user, timeout=timeout, check=True).stdout.split()


def audited(device):
    """Who was refused something of late."""
    refused = json.loads(policy(device, "--json", "audit", "--limit", "50").stdout)
    return {r["subject"]["value"] if isinstance(r["subject"], dict) else r["subject"] for r in refused}


def test_a_bound_connection_needs_both(device, alice, token):
    answers = as_user(device, '''
agent, unbound, bound = Agent(), bus(), bus()
handle = agent.connect(sys.argv[1])
show(security(bound, "ListRules")) # its row is cached now
show(bind(bound, handle))
show(security(bound, "ListRules")) # the server's alone
show(log(bound))                   # of both
show(security(bound, "ListAudit", "a{sv}u", {}, 1)) # alice's alone
show(security(unbound, "ListRules"))
show(bind(bound, handle))
show(bind(bound, 0))
show(security(bound, "ListRules"))
nobody = bus()
show(bind(nobody, 0))
show(log(nobody))
''', token)
    assert answers == ["answered", f"user:{alice}", "AccessDenied", "answered", "AccessDenied", "answered",
                       "AccessDenied", "AccessDenied", "AccessDenied", "anonymous", "AccessDenied"]
    uid = device.run("id", "-u", SERVER, check=True).stdout.strip()
    assert f"uid:{uid} for user:{alice}" in audited(device)


def test_what_is_taken_from_either_is_taken_from_the_connection(device, alice, token):
    path = device.put_text(AS_SERVER + '''
agent, bound = Agent(), bus()
show(bind(bound, agent.connect(sys.argv[1])))
for line in sys.stdin:
    show(log(bound))
''', "bound-loop.py")
    process = device.popen("python3", path, token, user=SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def again():
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        assert process.stdout.readline().strip() == f"user:{alice}"
        assert again() == "answered"
        policy(device, "revoke", "test-bound-alice")
        assert again() == "AccessDenied"
        policy(device, "grant", "--id", "test-bound-alice", f"user:{alice}", "log.statistics")
        assert again() == "answered"
        policy(device, "revoke", "test-bound-server")
        assert again() == "AccessDenied"
        policy(device, "grant", "--id", "test-bound-server", f"unix:{SERVER}", "log.statistics", "security.read")
        assert again() == "answered"
        # A new agent knows who is bound: a restart must not widen.
        device.kill_unit("h-securityd.service")
        device.run("h-ubus", "-t", "60", "wait_for", "org.hybridos.Security1", check=True)
        policy(device, "grant", "--id", "test-bound-more", f"unix:{SERVER}", "log.read")
        assert again() == "answered"
        policy(device, "token", "remove", alice + "-bound")
        assert again() == "AccessDenied"
    finally:
        policy(device, "revoke", "test-bound-more", check=False)
        process.kill()
        process.wait()


def test_a_server_cannot_assert_what_it_was_not_given(device, alice, token):
    """Handles of another server, invented ones, those it has given back."""
    path = device.put_text(AS_SERVER + '''
agent = Agent()
print(agent.connect(sys.argv[1]), flush=True)
sys.stdin.readline()
''', "holder.py")
    holder = device.popen("python3", path, token, user=SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        handle = holder.stdout.readline().strip()
        answers = as_user(device, '''
show(bind(bus(), int(sys.argv[1])))
for guess in (1, 2, int(sys.argv[1]) + 1, 2**53, 2**64 - 1):
    show(bind(bus(), guess))
agent = Agent("coapd")
given = agent.connect(sys.argv[2])
agent.socket.send(json.dumps({"op": "release", "handle": given}).encode())
agent.ask(op="row", handle=0)
show(bind(bus(), given))
print(agent.ask(op="row", handle=int(sys.argv[1]))["error"])
print(agent.ask(op="judge", handle=int(sys.argv[1]), permission="log.read", interface="a.b", member="C")["error"])
''', handle, token, user="h-coapd")
        assert answers == ["NotFound"] * 9
    finally:
        holder.kill()
        holder.wait()


def test_a_shell_under_a_servers_uid(device):
    """Its listed grants, and nothing else: what every stranger is refused it is refused as well."""
    rules = json.loads(policy(device, "--json", "list").stdout)
    uid = device.run("id", "-u", SERVER, check=True).stdout.strip()
    groups = device.run("id", "-G", SERVER, check=True).stdout.split()
    mine = {f"unix:{SERVER}", f"uid:{uid}", "local", "anyone", *(f"gid:{g}" for g in groups),
            *(f"group:{g}" for g in device.run("id", "-Gn", SERVER, check=True).stdout.split())}
    granted = {p for r in rules if r[1] == "grant" and mine & set(r[2].split()) for p in r[3].split()}
    assert "*" not in granted
    for member, permission in {"ListRules": "security.read", "ListUsers": "security.read", "Reload": "security.reload",
                               "ListSessions": "security.read", "ListTokens": "security.read"}.items():
        done = device.run("busctl", "call", "org.hybridos.Security1", "/org/hybridos/Security1",
                          "org.hybridos.Security1", member, user=SERVER)
        assert (done.returncode == 0) == (permission in granted), (member, done.stderr)
    assert device.run("h-policy", "user", "add", "test-eve", user=SERVER, input="").returncode == 4
    assert device.run("h-policy", "token", "add", "test-eve", user=SERVER).returncode == 4
    assert device.run("h-policy", "grant", f"unix:{SERVER}", "log.read", user=SERVER).returncode == 4


def test_a_thousand_principals(device):
    """One server acts for 1,000 principals in turn, 64 at a time: within the limits of the bus as shipped."""
    policy(device, "grant", "--id", "test-bound-role", "role:test-bound", "log.statistics")
    policy(device, "grant", "--id", "test-bound-server", f"unix:{SERVER}", "log.statistics", "security.read")
    try:
        secrets = as_user(device, '''
agent = Agent("test")
for i in range(1000):
    print(agent.ask(op="token-add", name=f"test-bound-{i}", roles=["test-bound"], expires=0)["secret"])
''', user=None, timeout=600)
        assert len(set(secrets)) == 1000
        device.write("/run/hybridos-tests/secrets", "\n".join(secrets))
        device.run("chown", SERVER, "/run/hybridos-tests/secrets", check=True)
        answers = as_user(device, '''
agent, pool = Agent(), []
for i, secret in enumerate(open("/run/hybridos-tests/secrets").read().split()):
    pool.append(bus())
    if len(pool) > 64:
        pool.pop(0).close()
    bound, refused, allowed = bind(pool[-1], agent.connect(secret)), security(pool[-1], "ListRules"), log(pool[-1])
    assert bound == f"token:test-bound-{i}" and refused == "AccessDenied", (i, bound, refused)
    assert not isinstance(allowed, str), (i, allowed)
print(i + 1)
''', timeout=600)
        assert answers == ["1000"]
    finally:
        device.run("rm", "-f", "/run/hybridos-tests/secrets")
        as_user(device, '''
connection = bus()
for i in range(1000):
    security(connection, "RemoveToken", "s", f"test-bound-{i}")
''', user=None, timeout=600)
        policy(device, "revoke", "test-bound-role", check=False)
        policy(device, "revoke", "test-bound-server", check=False)
    assert "test-bound-" not in policy(device, "token", "list").stdout


UID = 61080


@pytest.fixture
def acting(device, alice, token):
    """The user of an app that may read statistics of the log and the policy's rules, and that everybody may ask."""
    app = device.user("test-acting", UID, groups=("hybridos",))
    policy(device, "grant", "--id", "test-acting", f"unix:{app}", "endpoint.register", "endpoint.register:/test-acting",
           "log.statistics", "security.read")
    policy(device, "grant", "--id", "test-acting-who", "anyone", "endpoint.read:/test-acting")
    yield app
    policy(device, "revoke", "test-acting", check=False)
    policy(device, "revoke", "test-acting-who", check=False)
    device.run("userdel", app)


def test_an_app_acts_for_who_asked_it(device, alice, token, acting):
    """The handle goes with a request: an app calls for its client what both may, and nothing else."""
    script = device.put_text("""
echo
for what in "org.hybridos.Log1 GetStatistics" "org.hybridos.Security1 ListRules"; do
    set -- $what
    h-ubus --for="$HYBRIDOS_HANDLE" call $1 $1.$2 >/dev/null 2>&1; echo "$2 for $REMOTE_USER: $?"
    h-ubus call $1 $1.$2 >/dev/null 2>&1; echo "$2: $?"
done
h-ubus --for=4711 call org.hybridos.Log1 org.hybridos.Log1.GetStatistics >/dev/null 2>&1; echo "invented: $?"
""", "acting.sh")
    process = device.popen("h-ubus", "respond", "--endpoint=/test-acting", "--", "sh", script, user=acting)
    try:
        header = (f"Authorization: Bearer {token}",)
        device.wait(lambda: ask(device, "/test-acting", headers=header)[0] == 200, "the app answers")
        assert ask(device, "/test-acting", headers=header)[2].split("\n")[1:-1] == [
            f"GetStatistics for user:{alice}: 0", "GetStatistics: 0",
            f"ListRules for user:{alice}: 4", "ListRules: 0", "invented: 3"]
    finally:
        end(process)


# An app on the channel, which knows the bus only to act for its clients there. Blocking is good enough here.
ACTING = AS_SERVER + '''
import hybridos

app, unbound, kept = hybridos.App("acting"), bus(), []

def word(value):
    return value if isinstance(value, str) else "answered"

@app.endpoint("/test-acting")
async def act(request):
    if request.subpath == "/kept":  # of the last who asked the other path and has gone
        handle, bound = kept[-1]
        return [word(bind(bus(), handle)), word(log(bound)), word(security(bound, "ListRules"))]
    bound = bus()
    kept.append((request.handle, bound))
    return [request.principal, word(bind(bound, request.handle)), word(log(bound)), word(security(bound, "ListRules")),
            word(bind(bound, 0)), word(log(unbound)), word(security(unbound, "ListRules"))]

app.run()
'''


def test_an_app_on_the_channel_acts_for_who_asked_it(device, alice, token, acting):
    process = device.popen("python3", device.put_text(ACTING, "acting.py"), user=acting)
    mine = (f"Authorization: Bearer {token}",)
    says = lambda path="", headers=(): json.loads(ask(device, "/test-acting" + path, headers=headers)[2])
    try:
        device.wait(lambda: ask(device, "/test-acting")[0] == 200, "the app answers")
        assert says() == ["anonymous", "anonymous", "AccessDenied", "AccessDenied", "AccessDenied", "answered", "answered"]
        assert says(headers=mine) == [f"user:{alice}", f"user:{alice}", "answered", "AccessDenied", "AccessDenied", "answered",
                                      "answered"]
        # With its client goes the handle, but not what is bound already: that stands as long as the credential.
        device.wait(lambda: says("/kept") == ["NotFound", "answered", "AccessDenied"], "the handle is void")
        policy(device, "token", "remove", alice + "-bound")
        assert says("/kept") == ["NotFound", "AccessDenied", "AccessDenied"]
        assert f"uid:{UID} for user:{alice}" in audited(device)
    finally:
        end(process)


# --- certificates of clients -------------------------------------------------------------------------

@pytest.fixture
def certificate(device, alice):
    """A client certificate of alice: the file with key and certificate, and its name."""
    policy(device, "cert", "init", check=False)
    device.wait(lambda: "Acceptable client certificate CA names" in device.run(
        "sh", "-c", "echo | openssl s_client -connect localhost:8443 2>&1").stdout, "h-httpd asks for certificates")
    path = f"/run/hybridos-tests/{alice}.pem"
    device.run("mkdir", "-p", "/run/hybridos-tests", check=True)
    policy(device, "cert", "issue", "--user", alice, "--out", path, alice)
    yield path
    policy(device, "cert", "revoke", alice, check=False)
    device.run("rm", "-f", path)


def test_a_certificate_opens_until_it_is_revoked(device, alice, certificate):
    assert device.run("stat", "-c", "%a", certificate, check=True).stdout.strip() == "600"
    assert ask(device, "/system/log")[0] == 401
    assert ask(device, "/system/log", "--cert", certificate)[0] == 200
    assert ask(device, "/system/log", "--cert", certificate, "--tlsv1.2", "--tls-max", "1.2")[0] == 200
    # What the client says itself goes before what its TLS adds.
    assert ask(device, "/system/log", "--cert", certificate, headers=("Authorization: Bearer hyb_wrong",))[0] in (401, 429)
    # It rides along like a cookie: what changes something needs our own origin.
    assert ask(device, "/nothing", "--cert", certificate, "--data", "")[0] == 403
    assert ask(device, "/nothing", "--cert", certificate, "--data", "",
               headers=("Origin: https://localhost:8443",))[0] != 403
    listed = {c[0]: c for c in json.loads(policy(device, "--json", "cert", "list").stdout)}
    assert listed[alice][2] == f"user:{alice}" and not int(listed[alice][5])
    stream = device.popen("curl", "-sSkN", "--max-time", "120", "--cert", certificate, "--header",
                          "Accept: text/event-stream", "https://localhost:8443/system/log/unit/test.service",
                          stdout=subprocess.PIPE, text=True)
    device.wait(lambda: "curl" in device.run("ss", "-tnp").stdout, "the stream is open")
    policy(device, "cert", "revoke", alice)
    assert stream.wait(timeout=60) is not None
    assert ask(device, "/system/log", "--cert", certificate)[0] == 401
    assert policy(device, "cert", "revoke", alice, check=False).returncode == 3
    # Another one of the same name is another one.
    again = certificate + ".new.pem"
    policy(device, "cert", "issue", "--user", alice, "--out", again, alice)
    assert ask(device, "/system/log", "--cert", certificate)[0] == 401
    assert ask(device, "/system/log", "--cert", again)[0] == 200
    policy(device, "user", "remove", alice)
    assert ask(device, "/system/log", "--cert", again)[0] == 401
    device.run("rm", "-f", again)


def test_a_certificate_by_itself(device, alice, certificate):
    """It is a principal of its own, by its hash; PKCS #12 for those who want that."""
    name, path = alice + "-own", f"/run/hybridos-tests/{alice}-own.p12"
    policy(device, "cert", "issue", "--expires", "3600", "--out", path, name, input="passphrase\n")
    try:
        principal = {c[0]: c for c in json.loads(policy(device, "--json", "cert", "list").stdout)}[name][2]
        assert principal.startswith("cert:") and len(principal) == 69
        given = ("--cert-type", "P12", "--cert", f"{path}:passphrase")
        assert ask(device, "/system/log", *given)[0] == 403
        policy(device, "grant", "--id", "test-cert", principal, "log.read")
        assert ask(device, "/system/log", *given)[0] == 200
    finally:
        policy(device, "revoke", "test-cert", check=False)
        policy(device, "cert", "revoke", name, check=False)
        device.run("rm", "-f", path)


def test_certificates_of_others(device, alice, certificate):
    """One that somebody else signed ends the handshake; one that we signed but do not know opens nothing."""
    made = device.put_text("""
set -e
cd /run/hybridos-tests
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.crt -days 30 -subj /CN=other
cat other.key other.crt > other.pem
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout forged.key -out forged.csr -subj /CN=forged
openssl x509 -req -in forged.csr -CA /var/lib/hybridos/securityd/ca.pem -CAkey /var/lib/hybridos/securityd/ca-key.pem \
    -days 30 -out forged.crt
cat forged.key forged.crt > forged.pem
""", "make-certificates.sh")
    device.run("sh", made, check=True)
    other = device.curl("/system/log", "--cert", "/run/hybridos-tests/other.pem")
    assert other.returncode != 0 or other.stdout == ""
    assert ask(device, "/system/log", "--cert", "/run/hybridos-tests/forged.pem")[0] == 401
    # The key is nobody's but the agent's, and its certificate is everybody's.
    assert device.run("cat", "/var/lib/hybridos/securityd/ca-key.pem", user="h-httpd").returncode != 0
    assert "BEGIN CERTIFICATE" in device.run("cat", "/run/hybridos/security/ca.pem", user="nobody", check=True).stdout
    verified = device.run("openssl", "verify", "-CAfile", "/run/hybridos/security/ca.pem", certificate)
    assert verified.returncode == 0, verified.stderr
    assert policy(device, "cert", "issue", "--out", "/tmp/x.pem", "x", check=False, user="nobody").returncode == 4
