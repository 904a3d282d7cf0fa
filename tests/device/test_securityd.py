# SPDX-License-Identifier: Apache-2.0
"""h-securityd as shipped, on a device without the development drop-in: closed until claimed, open to who holds a token,
closed to everybody else at once when that ends, and never laxer for what happens to its files."""
import json
import os
import re
import socket
import subprocess

import pytest

STATE = '/var/lib/hybridos/securityd'
GRANTED = '/var/lib/hybridos/policy.d'
CODE = '/run/hybridos/security/setup-code'
AWAY = (502, 503, 504)  # a moment after the agent has been killed
PATH = '/system/status'


def main_pid(d):
    return d.main_pid('h-securityd.service')


def begin_anew(d, damage='true'):
    """Does something to its files, then kills it: what it knows of them then is what it finds at its start."""
    before = main_pid(d)
    d.run('bash', '-ec', f'{damage}\nsystemctl kill --signal=KILL h-securityd.service', check=True)
    d.wait(lambda: main_pid(d) not in ('0', before) and d.run('h-policy', 'status').returncode == 0, 'h-securityd is back')


def properties(d):
    answer = d.run('busctl', '--json=short', 'call', 'org.hybridos.Security1', '/org/hybridos/Security1',
                   'org.freedesktop.DBus.Properties', 'GetAll', 's', 'org.hybridos.Security1', check=True).stdout
    return {k: v['data'] for k, v in json.loads(answer)['data'][0].items()}


def audit(d, *arguments):
    """Newest first."""
    records = json.loads(d.run('h-policy', '--json', 'audit', '--limit', '1000', *arguments, check=True).stdout)
    return [{key: value['value'] for key, value in record.items()} for record in records]


def bearer(token):
    return ('--header', f'Authorization: Bearer {token}') if token else ()


def settled(d, token=None, *arguments):
    """The status of a request, once the servers have found the agent again and the app its place."""
    return d.wait(lambda: (s := d.status(PATH, *bearer(token), *arguments)) not in (*AWAY, 404) and s, 'an answer')


def reachable_from_outside(d):
    try:
        socket.create_connection((d.addresses()[1], 8443), timeout=30).close()
        return True
    except ConnectionRefusedError:
        return False


def secret(done):
    assert done.returncode == 0, done.stderr
    return re.search(r'hyb_[A-Za-z0-9_-]{43}', done.stdout)[0]


def token(d, name, *arguments):
    return secret(d.run('h-policy', 'token', 'add', *arguments, name))


@pytest.fixture
def unclaimed(closed):
    """As on the first day."""
    begin_anew(closed, f'rm -rf {STATE}/* {GRANTED}/* /run/hybridos/security/setup* /etc/hybridos/setup-code')
    closed.user('stranger', '60990')
    assert properties(closed)['Claimed'] is False
    return closed


@pytest.fixture
def claimed(unclaimed):
    unclaimed.run('h-policy', 'setup', check=True)
    return unclaimed


# --- first start -----------------------------------------------------------------------------------


def test_closed_until_claimed_then_open_to_a_token_and_closed_at_once(unclaimed):
    d = unclaimed
    assert properties(d)['Development'] == []
    d.wait(lambda: not reachable_from_outside(d), 'listening on loopback only')
    assert settled(d) == 401
    made = secret(d.run('h-policy', 'setup', '--user', 'alice'))
    assert properties(d)['Claimed'] is True
    assert settled(d, made) == 200
    assert d.status(PATH) == 401 and d.status(PATH, *bearer(made[:-1] + ('A' if made[-1] != 'A' else 'B'))) == 401
    d.wait(lambda: reachable_from_outside(d), 'listening to the network')
    d.run('h-policy', 'token', 'remove', 'setup-alice', check=True)
    assert d.status(PATH, *bearer(made)) == 401
    # The secret itself stands nowhere, neither in the state nor in the log.
    assert d.run('grep', '-r', made, STATE, '/var/lib/hybridos', '/run/hybridos').stdout == ''
    assert made not in d.run('journalctl', '--no-pager').stdout + d.run('h-logread', '--no-pager').stdout


def test_whoever_reads_the_code_on_the_console_sets_up_the_device(unclaimed):
    d = unclaimed
    owner = d.run('stat', '--format=%U %a', CODE, check=True).stdout.strip()
    assert owner == 'h-securityd 600' and d.run('cat', CODE, user='stranger').returncode != 0
    code = d.run('cat', CODE, check=True).stdout.strip()
    assert len(code) == 12
    assert code in d.run('cat', '/run/hybridos/security/setup.issue', check=True).stdout
    setup = ('h-policy', 'setup', '--code')
    assert d.run('h-policy', 'setup', user='stranger').returncode == 4
    assert 'wrong setup code' in d.run(*setup, user='stranger', input='0000-not-it\n').stderr
    made = secret(d.run(*setup, '--user', 'bob', user='stranger', input=code + '\n'))
    assert settled(d, made) == 200
    # It is good for once, and gone.
    assert not d.has(CODE) and not d.has('/run/hybridos/security/setup.issue')
    done = d.run(*setup, '--user', 'eve', user='stranger', input=code + '\n')
    assert done.returncode == 4 and 'administrator already' in done.stderr
    changes = [r for r in audit(d) if r['call'] == 'setup']
    assert [r['reason'] for r in changes[:2]] == ['refused', 'bob'], changes
    assert code not in json.dumps(audit(d))


def test_guessing_the_code_is_slowed_for_the_one_who_guesses(unclaimed):
    d = unclaimed
    d.user('guesser', '60989')
    code = d.run('cat', CODE, check=True).stdout.strip()
    answers = []
    while not answers or 'wrong setup code' in answers[-1]:
        answers.append(d.run('h-policy', 'setup', '--code', user='guesser', input=f'wrong{len(answers):07}\n').stderr)
        assert len(answers) < 30, answers
    assert len(answers) >= 6 and 'too many wrong attempts' in answers[-1], answers
    # Now not even the right one is looked at; others are as free as before.
    assert d.run('h-policy', 'setup', '--code', user='guesser', input=code + '\n').returncode != 0
    assert properties(d)['Claimed'] is False and properties(d)['Statistics']['throttled'] >= 2
    assert [r['reason'] for r in audit(d) if r['call'] == 'setup'][:2] == ['throttled', 'throttled']
    assert settled(d, secret(d.run('h-policy', 'setup', '--code', user='stranger', input=code + '\n'))) == 200


@pytest.mark.parametrize('label, owner, mode, good', [
    ('label-0123456789', 'h-securityd', '0400', True), ('short-1', 'h-securityd', '0400', False),
    ('label-0123456789', 'guest', '0444', False), ('label-0123456789', 'h-securityd', '0422', False)])
def test_the_code_on_the_label(unclaimed, label, owner, mode, good):
    d = unclaimed
    d.run('bash', '-ec', f'echo {label} > /etc/hybridos/setup-code; chown {owner} /etc/hybridos/setup-code; '
                         f'chmod {mode} /etc/hybridos/setup-code', check=True)
    done = d.run('h-policy', 'setup', '--code', user='stranger', input=label + '\n')
    assert (done.returncode == 0) == good, done.stderr
    assert properties(d)['Claimed'] is good


# --- limits ----------------------------------------------------------------------------------------

# Calls without waiting for answers; prints what came of each.
MANY_CALLS = '''
import dbus, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus, loop, n = dbus.SystemBus(), GLib.MainLoop(), 100
registrar = dbus.Interface(bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False),
                           "org.hybridos.Endpoints1")
def failed(e):
    global n
    n -= 1
    print(e.get_dbus_name(), e.get_dbus_message(), flush=True)
    if not n:
        loop.quit()
for _ in range(n):
    registrar.List(reply_handler=lambda *_: None, error_handler=failed, timeout=100)
loop.run()
'''


def test_calls_over_a_limit_carry_an_audit_id_too(unclaimed):
    d = unclaimed
    program = d.put_text(MANY_CALLS, 'many-calls.py')
    d.run('systemctl', 'kill', '--signal=STOP', 'h-securityd.service', check=True)
    try:
        calls = d.popen('/usr/bin/python3', '-u', program, user='stranger', stdout=subprocess.PIPE, text=True)
        first = calls.stdout.readline()
    finally:
        d.run('systemctl', 'kill', '--signal=CONT', 'h-securityd.service', check=True)
    lines = [first, *calls.stdout]
    assert calls.wait(60) == 0 and len(lines) == 100
    limited = [line for line in lines if line.startswith('org.hybridos.Error.LimitExceeded ')]
    assert first in limited and len(limited) >= 36, first
    ids = {re.search(r'audit id ([0-9a-z-]+);', line)[1] for line in limited}
    assert len(ids) == 1
    record = d.wait(lambda: next((r for r in audit(d) if r['audit'] in ids), None), 'the record')
    assert (record['verdict'], record['subject']) == ('limited', 'uid:60990')
    assert 'limited' in d.run('h-policy', 'explain', *ids, check=True).stdout


# --- tokens ----------------------------------------------------------------------------------------


class Stream:
    """A client that follows the status over server-sent events."""

    def __init__(self, d, made):
        self.d = d
        self.process = d.popen('curl', '--silent', '--insecure', '--no-buffer', '--header', 'Accept: text/event-stream',
                               *bearer(made), f'https://localhost:8443{PATH}', stdout=subprocess.PIPE, text=True)
        self.times, self.last = [], {}
        self.read(2)

    def read(self, n=None):
        """Until `n` events have come, or to the end; of each the device's uptime."""
        for line in self.process.stdout:
            if line.startswith('data: '):
                self.last = json.loads(line[6:])
                self.times += [self.last['uptime']] if 'uptime' in self.last else []
            if len(self.times) == n:
                return
        assert n is None, f'cut after {len(self.times)} events'

    def ends(self):
        self.read()
        self.process.wait(60)
        assert self.last['status'] in (401, 403), self.last

    def was_cut(self):
        """What ended it had ended it before it returned: no event is younger than that."""
        with open('/proc/uptime') as f:
            now = float(f.read().split()[0])
        self.ends()
        assert self.times[-1] <= now, self.times


def end_token(d):
    d.run('h-policy', 'token', 'remove', 'reader', check=True)


def end_grant(d):
    d.run('h-policy', 'revoke', 'reads', check=True)


def end_user(d):
    d.run('h-policy', 'user', 'remove', 'carol', check=True)


def deny(d):
    d.write('/etc/hybridos/policy.d/10-test.policy', '[deny test]\nTo = anyone\nPermission = endpoint.read:*\n')
    d.run('h-policy', 'reload', check=True)


@pytest.mark.parametrize('end, status', [(end_token, 401), (end_grant, 403), (end_user, 401), (deny, 403)])
def test_a_stream_is_cut_before_what_ends_it_returns(claimed, end, status):
    d = claimed
    d.run('h-policy', 'user', 'add', 'carol', check=True)
    d.run('h-policy', 'grant', '--id', 'reads', 'user:carol', 'endpoint.read:/system/*', check=True)
    made = token(d, 'reader', '--user', 'carol')
    other = token(d, 'other', '--user', 'carol')
    assert settled(d, made) == 200
    stream = Stream(d, made)
    try:
        end(d)
        stream.was_cut()
        assert d.status(PATH, *bearer(made)) == status
        assert d.status(PATH, *bearer(other)) == (200 if end is end_token else status)
    finally:
        stream.process.kill()
        d.run('rm', '-f', '/etc/hybridos/policy.d/10-test.policy')
        d.run('h-policy', 'reload', check=True)


def test_a_token_expires_by_itself_and_takes_its_streams_along(claimed):
    d = claimed
    d.run('h-policy', 'grant', '--id', 'reads', 'token:brief', 'endpoint.read:/system/*', check=True)
    made = token(d, 'brief', '--expires', '15')
    assert settled(d, made) == 200
    stream = Stream(d, made)
    stream.ends()
    assert d.status(PATH, *bearer(made)) == 401
    # It is listed still, and a new one of its name does not revive it.
    assert 'brief' in d.run('h-policy', 'token', 'list', check=True).stdout
    d.run('h-policy', 'token', 'remove', 'brief', check=True)
    again = token(d, 'brief')
    assert settled(d, again) == 200 and d.status(PATH, *bearer(made)) == 401


def test_guessing_tokens_is_slowed_and_the_right_one_always_passes(claimed):
    d = claimed
    made = token(d, 'good', '--user', 'admin')
    assert settled(d, made) == 200
    seen = []
    while 429 not in seen:
        seen.append(d.status(PATH, *bearer(f'hyb_{len(seen):043}')))
        assert len(seen) < 60, seen
    assert set(seen) == {401, 429} and seen.index(429) >= 10, seen
    answer = d.curl(PATH, '--include', *bearer('hyb_' + 'x' * 43)).stdout.lower()
    assert re.search(r'^retry-after: \d+', answer, re.M), answer
    # From the same address.
    assert d.status(PATH, *bearer(made)) == 200
    # Of another one nothing is known.
    assert d.status(PATH, '--interface', '127.0.0.2', *bearer('hyb_' + 'y' * 43)) == 401
    assert properties(d)['Statistics']['throttled'] >= 1


# --- files -----------------------------------------------------------------------------------------

BAD_FILE = '/etc/hybridos/policy.d/99-test.policy'
MORE = '[grant test-more]\\nTo = anonymous\\nPermission = endpoint.read:*\\n'
DAMAGES = {
    'syntax': (f"printf '{MORE}[nonsense' > {BAD_FILE}", '99-test.policy:4'),
    'key': (f"printf '{MORE}Colour = red\\n' > {BAD_FILE}", '99-test.policy:4:1'),
    'writable': (f"printf '{MORE}' > {BAD_FILE}; chmod 0666 {BAD_FILE}", '99-test.policy'),
    'owner': (f"printf '{MORE}' > {BAD_FILE}; chown guest {BAD_FILE}", '99-test.policy'),
    'unreadable': (f"printf '{MORE}' > {BAD_FILE}; chmod 0000 {BAD_FILE}", '99-test.policy'),
    'interface': ("printf '<node><interface name=' > /etc/hybridos/interfaces/com.example.Test1.xml", 'com.example.Test1.xml'),
}


@pytest.fixture
def mended(claimed):
    yield claimed
    claimed.run('bash', '-ec', f'rm -f {BAD_FILE} /etc/hybridos/interfaces/com.example.Test1.xml', check=True)
    claimed.run('h-policy', 'reload', check=True)


@pytest.mark.parametrize('damage', DAMAGES)
def test_with_bad_files_it_boots_from_the_last_accepted_policy(mended, damage):
    d = mended
    command, place = DAMAGES[damage]
    d.run('h-policy', 'grant', '--id', 'reads', 'token:reader', 'endpoint.read:/system/*', check=True)
    made, other = token(d, 'reader'), token(d, 'other')
    assert settled(d, made) == 200 and d.status(PATH, *bearer(other)) == 403
    begin_anew(d, f'mkdir -p /etc/hybridos/interfaces\n{command}')
    assert place in properties(d)['PolicyError']
    # Neither less nor more than before.
    assert settled(d, made) == 200
    assert d.status(PATH, *bearer(other)) == 403 and d.status(PATH) == 401
    assert 'test-more' not in d.run('h-policy', 'list', check=True).stdout
    done = d.run('h-policy', 'reload')
    assert done.returncode != 0 and place in done.stderr
    d.run('rm', '-f', BAD_FILE, '/etc/hybridos/interfaces/com.example.Test1.xml', check=True)
    d.run('h-policy', 'reload', check=True)
    assert properties(d)['PolicyError'] == '' and d.status(PATH, *bearer(made)) == 200


@pytest.mark.parametrize('accepted', ['removed', 'flipped'])
def test_without_files_and_without_an_accepted_policy_only_root_acts(mended, accepted):
    d = mended
    d.run('h-policy', 'grant', '--id', 'reads', 'token:reader', 'endpoint.read:/system/*', check=True)
    made = token(d, 'reader')
    assert settled(d, made) == 200
    lose = {'removed': f'rm {STATE}/accepted', 'flipped': f"sed -i '2s/./X/' {STATE}/accepted"}[accepted]
    begin_anew(d, f'{DAMAGES["syntax"][0]}\n{lose}')
    assert [line for line in d.run('h-policy', 'list', check=True).stdout.splitlines() if line.startswith('[')] == \
        ['[grant last-resort-root]']
    # No server may so much as ask who that is.
    assert d.status(PATH, *bearer(made)) in (401, 403, 503)
    assert d.run('h-policy', 'list', user='stranger').returncode == 4
    assert d.run('h-policy', 'grant', 'anonymous', 'endpoint.read:*').returncode != 0
    d.run('rm', BAD_FILE, check=True)
    d.run('h-policy', 'reload', check=True)
    assert settled(d, made) == 200


@pytest.fixture
def vendor_rule(claimed):
    d = claimed
    file = '/usr/lib/hybridos/policy.d/85-test-vendor.policy'
    d.write(file, '[grant vendor-reads]\nTo = token:reader\nPermission = endpoint.read:/system/*\n')
    d.run('h-policy', 'reload', check=True)
    yield file
    d.run('rm', '-f', file, f'/etc/hybridos/policy.d/{os.path.basename(file)}', check=True)
    d.run('h-policy', 'reload', check=True)


@pytest.mark.parametrize('how', ['masked', 'replaced', 'removed', 'rule removed'])
def test_a_vendor_rule_that_is_taken_away_is_listed_and_audited(claimed, vendor_rule, how):
    d = claimed
    made = token(d, 'reader')
    assert settled(d, made) == 200
    stand_in = f'/etc/hybridos/policy.d/{os.path.basename(vendor_rule)}'
    command = {'masked': f'ln -s /dev/null {stand_in}', 'replaced': f'echo "# nothing" > {stand_in}',
               'removed': f'rm {vendor_rule}', 'rule removed': f'echo "# nothing" > {vendor_rule}'}[how]
    d.run('bash', '-ec', command, check=True)
    before = audit(d)[0]['audit']
    d.run('h-policy', 'reload', check=True)
    assert d.status(PATH, *bearer(made)) == 403
    after = audit(d)
    new = after[:[r['audit'] for r in after].index(before)]
    assert any(r['call'] == 'policy files' and vendor_rule in r['reason'] for r in new), new
    if how in ('masked', 'replaced'):
        done = d.run('h-policy', 'check', check=True)
        assert vendor_rule in done.stdout + done.stderr


# --- state -----------------------------------------------------------------------------------------


def test_a_restored_state_voids_all_tokens(claimed):
    """A backup put back, or the state of another device: who holds a token may have lost it meanwhile."""
    d = claimed
    d.run('h-policy', 'user', 'add', 'carol', check=True)
    made = token(d, 'kept', '--user', 'admin')
    assert settled(d, made) == 200
    d.run('rm', '-rf', '/root/backup', check=True)
    d.run('cp', '-a', STATE, '/root/backup', check=True)
    d.run('h-policy', 'token', 'remove', 'kept', check=True)
    begin_anew(d, f'rm -rf {STATE}/*; cp -a /root/backup/. {STATE}/')
    assert settled(d, made) == 401
    assert 'kept' not in d.run('h-policy', 'token', 'list', check=True).stdout
    assert 'carol' in d.run('h-policy', 'user', 'list', check=True).stdout
    assert properties(d)['Claimed'] is True
    d.wait(lambda: 'all tokens are void' in d.run('h-logread', '--no-pager', '--lines=300').stdout, 'the warning')
    assert settled(d, token(d, 'fresh', '--user', 'admin')) == 200


STATE_DAMAGES = {'changed': "sed 's/user:admin/user:bdmin/' $F > /root/state; grep -q bdmin /root/state; cat /root/state > $F",
                 'cut': 'truncate --size=4096 $F', 'noise': 'head --bytes=30000 /dev/urandom > $F',
                 'empty': ': > $F', 'owner': 'chown guest $F', 'writable': 'chmod 0666 $F'}


@pytest.mark.parametrize('damage', STATE_DAMAGES)
def test_a_damaged_state_is_put_aside(claimed, damage):
    d = claimed
    damage = f'F={STATE}/state.db; {STATE_DAMAGES[damage]}'
    made = token(d, 'kept', '--user', 'admin')
    assert settled(d, made) == 200
    begin_anew(d, damage)
    assert d.has(f'{STATE}/state.damaged')
    assert settled(d, made) == 401
    assert d.run('h-policy', 'token', 'list', check=True).stdout == ''
    # It is not free for the next visitor: there is no code, and only root makes a new administrator.
    assert properties(d)['Claimed'] is True and not d.has(CODE)
    assert d.run('h-policy', 'setup', user='stranger').returncode == 4
    assert any(r['call'] == 'state' for r in audit(d))
    assert settled(d, secret(d.run('h-policy', 'setup', '--user', 'admin'))) == 200
