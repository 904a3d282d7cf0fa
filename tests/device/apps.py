# SPDX-License-Identifier: Apache-2.0
"""A developer's program in the device: a uid, a sandbox and a grant of its own, for as long as it runs.

A process of its own, the keeper, makes all that and removes it again, also when the script was killed: it sees the far end of
a pipe go. What even a killed keeper leaves is found by its user, which is made first and removed last.
"""
import contextlib
import fcntl
import os
import pathlib
import re
import select
import signal
import subprocess
import time

import interrupt
from denials import Denials
from problem import Problem

UIDS = range(60700, 60900)
NAME = re.compile(r'app-(\d+)$')
LIMITS = ('Type=exec', 'SupplementaryGroups=hybridos', 'MemoryMax=128M', 'TasksMax=64', 'CPUQuota=100%')
# As on a device without software of its own in /usr/local.
SEARCH = '/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin'


def sandbox():
    """What the unit of installed apps has from its mark on: a program is tried out as it will run."""
    unit = pathlib.Path(__file__).resolve().parents[2] / 'systemd-units/h-app@.service'
    return unit.read_text().partition('# --- the sandbox')[2].splitlines()[1:]


class App:
    def __init__(self, device, endpoint, say):
        self.device, self.endpoint, self.say = device, endpoint, say
        self.locks = device.folder / 'apps'
        self.uid = self.name = self.lock = self.process = None

    def _do(self, *command):
        done = self.device.run(*command)
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Problem(f'{command[0]} in the device: {words[-1] if words else done.returncode}')
        return done.stdout

    # --- making it ---------------------------------------------------------------------------

    def take_uid(self):
        """Not one that a program had lately: what was recorded of that one is not of this one."""
        self.locks.mkdir(exist_ok=True)
        with open(self.locks / 'last', 'a+') as last:
            fcntl.flock(last, fcntl.LOCK_EX)
            last.seek(0)
            before = int(last.read().strip() or UIDS[-1])
            taken = {int(r.split(':')[2]) for r in self._do('getent', 'passwd').splitlines()}
            order = [u for u in UIDS if u > before] + [u for u in UIDS if u <= before]
            self.uid = next((u for u in order if u not in taken), None)
            if self.uid is None:
                raise Problem(f'{len(UIDS)} programs run in the device, and that is the limit')
            last.truncate(0)
            last.write(str(self.uid))
            self.name = f'app-{self.uid}'
            self.lock = _lock(self.device, self.name)
            self._do('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--home-dir', '/',
                     '--shell', '/usr/sbin/nologin', '--uid', str(self.uid), self.name)

    def copy(self, program):
        for name in program.needs():
            if self.device.run('sh', '-c', f'PATH={SEARCH}; command -v -- "$0"', name).returncode:
                raise Problem(f'the device has no {name}, which {program.words[0].removeprefix("{folder}/")} needs')
        folder = f'/run/hybridos-apps/{self.name}'
        self._do('mkdir', '-p', folder)
        if program.files:
            tar = self.device.popen('tar', '--extract', '--preserve-permissions', '--same-owner', '--numeric-owner', '-C',
                                    folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
            with contextlib.suppress(BrokenPipeError):
                program.pack(tar.stdin, self.uid)
            words = tar.communicate()[1].decode(errors='replace').strip().splitlines()
            if tar.returncode:
                raise Problem(f'cannot copy the program into the device: {words[-1] if words else tar.returncode}')
        return folder, [word.replace('{folder}', folder, 1) if word.startswith('{folder}/') else word
                        for word in program.words]

    def grant(self):
        self._do('h-policy', 'grant', '--id', f'{self.name}-register', f'unix:{self.name}', 'endpoint.register',
                 f'endpoint.register:{self.endpoint}')
        if self.device.state().get('development'):  # reading is open there already
            self._do('h-policy', 'grant', '--id', f'{self.name}-try', 'anonymous',
                     *(f'endpoint.write:{self.endpoint}{rest}' for rest in ('', '/*')))

    def start(self, folder, words, name):
        properties = [f'--property={p}' for p in (*LIMITS, *sandbox(), f'WorkingDirectory={folder}')]
        environment = {'PATH': SEARCH, 'HYBRIDOS_ENDPOINT': self.endpoint, 'PYTHONUNBUFFERED': '1',
                       'PYTHONDONTWRITEBYTECODE': '1', 'NODE_PATH': '/usr/share/nodejs', 'LANG': 'C.UTF-8'}
        self.process = self.device.popen(
            'systemd-run', '--quiet', '--wait', '--pipe', f'--unit={self.name}', f'--uid={self.name}', '--gid=hybridos',
            *properties, *(f'--setenv={k}={v}' for k, v in environment.items()), '--', *words,
            stdin=subprocess.DEVNULL, start_new_session=True)
        self.tell(name)

    def tell(self, name):
        state = self.device.state()
        where = f'curl -k https://localhost:{state["port"]}{self.endpoint}' if state['publish'] != 'none' else \
            f'{self.device.script} exec -- curl -k https://localhost:8443{self.endpoint}'
        self.say(f'{name} runs as {self.name}; try {where}')
        if not state.get('development'):
            self.say('the device is closed, so that needs a token: h-policy user add, grant and token add, see docs/policy.md')

    # --- as long as it runs ------------------------------------------------------------------

    def wait(self, alive, denials):
        """Its exit status; None when whoever started it has gone."""
        ended = os.pidfd_open(self.process.pid)
        watched = [ended, alive, denials]
        try:
            while True:
                ready, _, _ = select.select(watched, [], [], 0.5)
                denials.poll()
                if denials in ready and not denials.read():
                    watched.remove(denials)
                if alive in ready:
                    return None
                if ended in ready:
                    return self.process.wait()
        finally:
            os.close(ended)

    def result(self, status):
        """Says how it ended, where a status does not."""
        how = self.device.run('systemctl', 'show', '-P', 'Result', f'{self.name}.service').stdout.strip()
        if how not in ('', 'success', 'exit-code'):
            self.say(f'{self.name} ended: {how}')
        return status


def _lock(device, name):
    """A handle that is locked until it, or its process, goes; None when another has it."""
    handle = open(device.folder / 'apps' / name, 'w')
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def _remove(device, name):
    """All that bears the name of an app. The user goes last: as long as it is there, the rest can be found."""
    device.run('systemctl', 'stop', f'{name}.service')
    device.run('systemctl', 'reset-failed', f'{name}.service')
    known = device.run('h-policy', 'list').stdout.split()
    for rule in (f'{name}-register', f'{name}-try'):
        done = device.run('h-policy', 'revoke', rule)
        if done.returncode and f'{rule}]' in known:
            raise Problem(f'cannot revoke {rule}: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}; '
                          f'the next {device.script} run or stop tries again')
    device.run('rm', '-rf', f'/run/hybridos-apps/{name}')
    device.run('userdel', name)
    (device.folder / 'apps' / name).unlink(missing_ok=True)


def _names(device):
    users = (line.split(':')[0] for line in device.run('getent', 'passwd').stdout.splitlines())
    return [name for name in users if NAME.match(name) and int(NAME.match(name)[1]) in UIDS]


def sweep(device):
    """Removes what killed keepers have left."""
    for name in _names(device):
        (device.folder / 'apps').mkdir(exist_ok=True)
        lock = _lock(device, name)
        if lock:
            with lock:
                _remove(device, name)


def end_all(device):
    """Before the device stops: programs end, and nothing of them stays on its disk."""
    if not device.running():
        return
    for name in _names(device):
        device.run('systemctl', 'stop', f'{name}.service')
    deadline = time.monotonic() + 15
    while True:  # their keepers remove them
        sweep(device)
        if not _names(device) or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _keep(device, endpoint, program, say, alive):
    """In the keeper: everything from the user to its removal."""
    app, status, denials = App(device, endpoint, say), 1, None
    try:
        with interrupt.held():
            app.take_uid()
            folder, words = app.copy(program)
            app.grant()
            denials = Denials(device, app.uid, say)
            app.start(folder, words, program.name)
        status = app.wait(alive, denials)
        if status is not None:
            app.result(status)
    except KeyboardInterrupt:
        status = None
    except Problem as problem:
        say(problem)
    except (OSError, subprocess.SubprocessError) as error:
        say(f'{endpoint}: {error}')
    finally:
        with interrupt.held(), contextlib.suppress(KeyboardInterrupt):
            status = _clear(app, denials, say, status)
    return 130 if status is None else status


def _clear(app, denials, say, status):
    device = app.device
    if not device.running():
        say('the device has stopped, and the program with it')
        status = 1
    elif app.lock:
        try:
            device.run('systemctl', 'stop', f'{app.name}.service')
            if denials:
                denials.end()
            _remove(device, app.name)
        except (Problem, subprocess.SubprocessError) as problem:
            if device.running():
                say(problem)
                status = 1
    if denials:
        denials.close()
    if app.process:
        app.process.terminate()
        app.process.wait()
    return status


def run(device, endpoint, program, say):
    """Runs a program until it ends; returns its exit status."""
    if not re.fullmatch(r'(/[A-Za-z0-9._~-]+)+', endpoint):
        raise Problem(f'{endpoint} is no endpoint: it looks like /name, with segments of [A-Za-z0-9._~-]')
    sweep(device)
    alive, script_lives = os.pipe()
    with interrupt.held():
        keeper = os.fork()
        if keeper == 0:
            os.setsid()
            os.close(script_lives)
            code = 1
            try:
                code = _keep(device, endpoint, program, say, alive)
            finally:
                os._exit(code & 255)
    os.close(alive)
    try:
        _, status = os.waitpid(keeper, 0)
    except BaseException:
        with interrupt.held(), contextlib.suppress(KeyboardInterrupt):
            os.close(script_lives)
            os.waitpid(keeper, 0)
        raise
    os.close(script_lives)
    if os.WIFSIGNALED(status):
        sweep(device)
        raise Problem(f'what looks after the program was killed ({signal.Signals(os.WTERMSIG(status)).name})')
    return os.WEXITSTATUS(status)
