# SPDX-License-Identifier: Apache-2.0
"""./hybridos app run: a developer's program in the device, what it is told, and that nothing of it stays."""
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

import simulated
from denials import Denials
from problem import Problem
from program import Program

ROOT = simulated.ROOT
EXAMPLES = ROOT / 'clients/examples'


class Running:
    """A ./hybridos app run, and what it has said so far."""

    def __init__(self, device, endpoint, *words, cwd=None):
        self.device, self.endpoint, self.said = device, endpoint, ''
        self.process = subprocess.Popen(
            [ROOT / 'hybridos', '--instance', device.instance, 'app', 'run', '--endpoint', endpoint, *map(str, words)],
            cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)

    def until(self, pattern):
        while not (found := re.search(pattern, self.said)):
            line = self.process.stdout.readline()
            assert line, f'ended without saying {pattern}: {self.said}'
            self.said += line
        return found

    @property
    def name(self):
        return self.until(r'runs as (app-\d+)')[1]

    def get(self, path='', *arguments):
        """What it answers, once it has registered."""
        body = lambda: self.device.curl(self.endpoint + path, '--fail', *arguments)
        return self.device.wait(lambda: self.process.poll() is not None or (r := body()).returncode == 0 and r,
                                f'{self.endpoint} answers')

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self):
        """Lets it end by itself; its exit status."""
        self.said += self.process.communicate(timeout=120)[0]
        return self.process.returncode


def traces(device):
    """Everything in the device that bears the name of an app, and processes here that look after one."""
    found = re.findall(r'^app-.*', device.run('getent', 'passwd', check=True).stdout, re.M)
    found += re.findall(r'\[grant (app-[^]]*)', device.run('h-policy', 'list', check=True).stdout)
    found += device.run('sh', '-c', 'ls /run/hybridos-apps /var/lib/hybridos/policy.d 2>&1 | grep app-').stdout.split()
    found += device.run('systemctl', 'list-units', '--all', '--plain', '--no-legend', 'app-*').stdout.split()
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            command = pathlib.Path(f'/proc/{entry}/cmdline').read_bytes().decode().split('\0')
        except (OSError, ValueError):
            continue
        if 'app' in command and device.instance in command or f'--target={device.init}' in command:
            found.append(' '.join(command))
    return found


@pytest.fixture
def app(device):
    started = []

    def start(*words, **options):
        started.append(Running(device, *words, **options))
        return started[-1]
    yield start
    for running in started:
        running.end()
    device.wait(lambda: not traces(device), f'nothing left: {traces(device)}')


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace('__', '/').replace('_py', '.py').replace('_js', '.js').replace('_sh', '.sh')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


PYTHON = '''\
import hybridos
import os
import greeting
from lib import more

app = hybridos.App("hello")

@app.endpoint("/hello")
async def hello(request):
    if request.method == "POST":
        return await request.read()
    return {"words": greeting.WORDS + open("data").read() + more.MORE, "uid": os.getuid(), "groups": os.getgroups(),
            "who": request.principal}

app.run()
'''


def test_python_with_modules_beside_it(app, device, tmp_path):
    write(tmp_path, app_py=PYTHON, greeting_py='WORDS = "hello "\n', data='data ', lib__more_py='MORE = "more"\n',
          secret='')
    (tmp_path / 'secret').rename(tmp_path / '.secret')
    running = app('/hello', './app.py', cwd=tmp_path)
    got = running.get().stdout
    uid = running.name.removeprefix('app-')
    assert '"words":"hello data more"' in got.replace('": ', '":') and f'"uid":{uid}' in got.replace('": ', '":')
    assert running.get('', '--data', 'written').stdout == 'written'
    folder = f'/run/hybridos-apps/{running.name}'
    listed = device.run('find', folder, '-printf', '%P %m %U\n', check=True).stdout.split('\n')
    assert f'app.py 555 {uid}' in listed and f'data 444 {uid}' in listed and f'lib/more.py 444 {uid}' in listed
    assert not any('.secret' in line or '__pycache__' in line for line in listed)
    assert device.run('cat', f'{folder}/data', user='guest').returncode != 0
    assert running.end() == 130
    assert traces(device) == []


def test_a_folder_with_node(app, tmp_path):
    write(tmp_path / 'thing', main_js='const words = require("./lib/words");\n'
          'const { App } = require("hybridos");\nconst app = new App("thing");\n'
          'app.endpoint("/thing", async () => words);\napp.run();\n', lib__words_js='module.exports = "node words";\n')
    assert app('/thing', tmp_path / 'thing').get().stdout == 'node words'


def test_c_built_on_this_machine(app, tmp_path):
    source = re.search(r'```c\n(.*?)```', (ROOT / 'docs/first-responder.md').read_text(), re.S)[1]
    (tmp_path / 'hello.c').write_text(source)
    subprocess.run('cc hello.c $(pkg-config --cflags --libs libhybridos) -o hello', shell=True, cwd=tmp_path, check=True,
                   env={**os.environ, 'PKG_CONFIG_PATH': str(ROOT / 'build/meson-uninstalled')})
    assert app('/hello', '--', './hello', cwd=tmp_path).get().stdout == 'hello\n'


def test_every_example_at_once(app, device):
    """C (the shipped one), Python, JavaScript, plain D-Bus and shell: one registration each."""
    running = {kind: app(f'/{kind}', EXAMPLES / f'status{suffix}', f'/{kind}')
               for kind, suffix in {'python': '.py', 'js': '.js', 'dbus': '-dbus.py', 'shell': '.sh'}.items()}
    for kind, one in running.items():
        assert '"uptime"' in one.get().stdout, kind
    assert '"uptime"' in device.curl('/system/status', '--fail', check=True).stdout
    names = {one.name for one in running.values()}
    assert len(names) == len(running)


def test_an_interpreter_and_arguments(app, device, tmp_path):
    write(tmp_path, show_py='import sys\nprint(sys.argv[1:], sys.flags.optimize, flush=True)\n')
    running = app('/show', '--', 'python3', '-O', tmp_path / 'show.py', '--fast', 'x y')
    assert running.process.wait(60) == 0
    running.end()
    assert "['--fast', 'x y'] 1" in running.said


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130),
                                          (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_stays_whatever_ends_it(app, device, tmp_path, number, code):
    write(tmp_path, stay_sh='trap "" TERM\necho up\nwhile :; do sleep 1; done\n')
    running = app('/stay', tmp_path / 'stay.sh')
    running.until('^up$|\nup\n')
    assert len(traces(device)) > 4
    running.process.send_signal(number)
    assert running.process.wait(60) == code
    device.wait(lambda: not traces(device), 'the keeper removes it')


def test_nothing_stays_at_any_moment_of_the_start(app, device, tmp_path):
    write(tmp_path, stay_sh='while :; do sleep 1; done\n')
    root = pathlib.Path(f'/proc/{device.init}/root')
    for moment in (device.folder / 'apps', root / 'run/hybridos-apps', root / 'var/lib/hybridos/policy.d'):
        running = app('/stay', tmp_path / 'stay.sh')
        device.wait(lambda: any(moment.glob('*app-*')), f'something in {moment}')
        running.process.kill()
        running.process.wait()
        device.wait(lambda: not traces(device), 'the keeper removes it')


def test_the_next_one_clears_what_a_killed_keeper_left(app, device, tmp_path):
    write(tmp_path, stay_sh='echo up\nwhile :; do sleep 1; done\n', true_sh='echo second\n')
    running = app('/stay', tmp_path / 'stay.sh')
    running.until('\nup\n')
    left = running.name
    keeper = [c for c in simulated.children(running.process.pid)]
    assert len(keeper) == 1
    running.process.send_signal(signal.SIGSTOP)  # so that it cannot clear up itself
    os.kill(keeper[0], signal.SIGKILL)
    running.process.kill()
    running.process.wait()
    assert any(left in t for t in traces(device))
    second = app('/other', tmp_path / 'true.sh')
    assert second.process.wait(60) == 0
    assert second.name != left, 'a fresh uid'
    device.wait(lambda: not traces(device), 'the second removes both')


def test_a_killed_keeper_is_reported(app, device, tmp_path):
    write(tmp_path, stay_sh='echo up\nwhile :; do sleep 1; done\n')
    running = app('/stay', tmp_path / 'stay.sh')
    running.until('\nup\n')
    os.kill(simulated.children(running.process.pid)[0], signal.SIGKILL)
    assert running.process.wait(60) == 1
    assert traces(device) == []


def denial(running):
    """The audit id of the first denial told, and the explain command."""
    found = running.until(r'denied: (.*)\. Audit id (\S+), why: (\./hybridos .* h-policy explain (\S+))\n')
    assert found[2] == found[4]
    return found[1], found[3]


def test_a_call_that_it_may_not_make_is_told_and_explained(app, device, tmp_path):
    write(tmp_path, call_sh='#!/bin/sh\nbusctl call org.hybridos.Endpoints1 /org/hybridos/Endpoints1 '
          'org.hybridos.Endpoints1 List\nexit 7\n')
    running = app('/bad', tmp_path / 'call.sh')
    what, command = denial(running)
    assert what.startswith('endpoint.list ') and 'org.hybridos.Endpoints1.List' in what
    assert running.finish() == 7, 'the status of the program'
    explained = subprocess.run([*command.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'uid:{running.name.removeprefix("app-")}' in explained and 'endpoint.list' in explained


def test_every_denial_is_told(app, device, tmp_path):
    """Also those just before it ends: told are as many as were recorded, each with an id of its own."""
    write(tmp_path, calls_py='import dbus\nbus = dbus.SystemBus()\nfor i in range(150):\n    try:\n'
          '        bus.get_object("org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", introspect=False).List('
          'dbus_interface="org.hybridos.Endpoints1")\n    except dbus.DBusException:\n        pass\n')
    running = app('/bad', tmp_path / 'calls.py')
    assert running.finish() == 0
    audits = re.findall(r'denied: .* Audit id (\S+),', running.said)
    assert len(audits) == len(set(audits)) == 150


def test_another_ones_namespace_is_refused_and_told(app, device, tmp_path):
    for name in ('mine', 'system/status'):
        write(tmp_path, app_py=f'import hybridos\napp = hybridos.App("x")\n@app.endpoint("/{name}")\n'
              'async def x(request):\n    return "forged"\napp.run()\n')
        running = app('/yours', tmp_path / 'app.py')
        what, _ = denial(running)
        assert f'endpoint.register:/{name} ' in what
        assert running.finish() != 0
    assert 'forged' not in device.curl('/system/status').stdout


def test_what_the_bus_refuses_is_told(app, device, tmp_path):
    write(tmp_path, call_sh='busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 '
          'org.freedesktop.systemd1.Manager PowerOff\n')
    running = app('/bad', tmp_path / 'call.sh')
    running.until(r'denied by the bus.*: org\.freedesktop\.systemd1\.Manager\.PowerOff of org\.freedesktop\.systemd1')
    assert running.finish() != 0


def test_the_sandbox(app, device, tmp_path):
    """No network, nothing to write but a /tmp of its own, no privileges, no sight of others."""
    write(tmp_path, look_py='''\
import os, socket, sys
def fails(what, f):
    try:
        f()
    except OSError:
        return
    print("ALLOWED", what)
fails("network", lambda: socket.socket(socket.AF_INET))
fails("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
for path in ("/etc/x", "/var/lib/hybridos/x", "/run/x", "/run/hybridos/x", "/var/tmp/../x", sys.argv[0], "x"):
    fails(path, lambda: open(path, "w"))
open("/tmp/x", "w").close()
fails("root", lambda: os.setuid(0))
fails("host names", lambda: open("/etc/shadow"))
fails("other processes", lambda: os.stat("/proc/1"))
fails("agent", lambda: open("/var/lib/hybridos/securityd/state.db"))
print("looked", os.listdir("/proc/self/fd"), open("/proc/self/status").read().split("CapBnd:")[1].split()[0])
''')
    running = app('/look', tmp_path / 'look.py')
    assert running.finish() == 0, running.said
    assert 'ALLOWED' not in running.said and 'looked' in running.said and '0000000000000000' in running.said


def test_what_cannot_start_says_so(app, device, tmp_path):
    write(tmp_path, a_py='#!/usr/bin/no-such-thing\n', b='words\n')
    for words, expected in (((tmp_path / 'none.py',), 'there is no '), ((tmp_path / 'a.py',), 'has no /usr/bin/no-such-thing'),
                            ((tmp_path / 'b',), 'cannot be started'), (('no-such-command',), 'has no no-such-command'),
                            ((tmp_path,), 'needs a main, app, index')):
        running = app('/x', *words)
        assert running.finish() == 1
        assert expected in running.said and 'Traceback' not in running.said and 'runs as' not in running.said
    running = app('no-slash', tmp_path / 'a.py')
    assert running.finish() == 1 and 'is no endpoint' in running.said


# --- what goes along: no device needed --------------------------------------------------------

def test_what_goes_along(tmp_path, monkeypatch):
    write(tmp_path, src__app_py='', src__lib__m_py='', data='x', big='')
    (tmp_path / 'src/inside').symlink_to('lib/m.py')
    (tmp_path / 'src/outside').symlink_to('../data')
    (tmp_path / 'src/folder').symlink_to('/etc')
    app = str(tmp_path / 'src/app.py')
    program = Program([app, 'a'])
    assert {n: m for n, (_, m) in program.files.items()} == {
        'app.py': 0o555, 'lib/m.py': 0o444, 'inside': None, 'outside': 0o444}
    assert program.words == ['python3', '{folder}/app.py', 'a']
    assert set(Program([app], alone=True).files) == {'app.py'}
    assert Program([app], with_folder=str(tmp_path)).words == ['python3', '{folder}/src/app.py']
    with pytest.raises(Problem, match='does not lie in'):
        Program([app], with_folder='/usr')
    os.truncate(tmp_path / 'big', 65 << 20)
    write(tmp_path, app_py='')
    alone = Program([str(tmp_path / 'app.py')])
    assert set(alone.files) == {'app.py'} and 'alone' in alone.note and '64 MiB' in alone.note
    with pytest.raises(Problem, match='64 MiB'):
        Program([app], with_folder=str(tmp_path))
    monkeypatch.setattr('pwd.getpwall', lambda: [type('Record', (), {'pw_dir': str(tmp_path / 'src')})])
    home = Program([app])
    assert set(home.files) == {'app.py'} and 'place for everything' in home.note


def test_programs_of_the_device_are_not_copied():
    for words in (['/usr/bin/env'], ['busctl', 'call', '/etc'], ['sh', '-c', 'echo /etc'], ['python3', '-m', 'http.server']):
        program = Program(words)
        assert program.files == {} and program.words == words


def test_more_denials_than_the_agent_keeps_are_said_to_be_more():
    class Agent:
        script, records = './hybridos', []

        def run(self, *command):
            data = [{k: {'data': v} for k, v in r.items()} for r in reversed(self.records)]
            return subprocess.CompletedProcess(command, 0, json.dumps({'data': [data]}) if 'ListAudit' in command else '')

    said, agent = [], Agent()
    denials = Denials(agent, 60700, said.append)
    agent.records = [{'audit': f'a-{i}', 'time': i, 'call': 'c', 'permission': 'p', 'reason': 'r'} for i in range(511)]
    denials.poll()
    assert len(said) == 511 and said[0].startswith('denied: p for c: r. Audit id a-0,')
    denials.poll()
    assert len(said) == 511, 'none is told twice'
    agent.records = [r | {'audit': f'b-{r["time"]}'} for r in agent.records + agent.records[:1]]
    denials.poll()
    assert said[511] == 'denied: more than is kept; of that the last:' and len(said) == 511 + 1 + 512
