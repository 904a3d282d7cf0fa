# SPDX-License-Identifier: Apache-2.0
"""The simulated device: a systemd container on an overlay of this machine's root.

Everything that a device holds of the machine hangs on its processes: the overlay is mounted in a
mount namespace of its own, the network is a namespace without a name, and the ports are held by a
forwarder that watches the device. So whatever way they die, no mount and no interface stays.
"""
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import interrupt
import packages
from problem import Problem

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
CAP_SYS_ADMIN = 21
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
BUSES = ('dbus-daemon', 'dbus-broker')
DEFAULT_PORT = 8443
# (kind, port inside the device, what is added to the base port)
PUBLISHED = [('tcp', 8443, 0), ('udp', 5683, 1), ('tcp', 5683, 1), ('udp', 5684, 2), ('tcp', 5684, 2)]

# What of this machine's root the device sees; every other top-level directory is empty there.
KEPT = {'bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32', 'usr', 'etc', 'var'}
BASE_PACKAGES = ['systemd', 'dbus', 'dbus-system-bus-common', 'dbus-broker', 'libpam-systemd']
# Units of the base system that have no work in a container without console and disks.
MASKED = ['console-getty.service', 'container-getty@.service', 'getty@.service',
          'systemd-networkd-wait-online.service', 'systemd-pstore.service', 'ldconfig.service',
          'systemd-firstboot.service', 'systemd-machine-id-commit.service']


def _libc(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _run(*command, **options):
    """Runs a quiet helper; its own last words are the problem when it fails."""
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, **options)
    if result.returncode:
        words = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise Problem(f'{command[0]} failed: {words[-1] if words else result.returncode}')
    return result.stdout


def started(pid):
    """When a process was started (clock ticks since boot): with the pid it names it for good."""
    try:
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] == 'Z' else int(fields[19])


def children(pid):
    try:
        return [int(c) for c in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except OSError:
        return []


def descendants(pid):
    for child in children(pid):
        yield child
        yield from descendants(child)


def wait_until(condition, seconds, what, alive=lambda: True):
    """Waits with a generous deadline; returns what the condition returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if not alive():
            raise Problem(f'{what}: the device ended meanwhile')
        if time.monotonic() > deadline:
            raise Problem(f'{what}: not within {seconds} seconds')
        time.sleep(0.05)


class Device:
    def __init__(self, instance='main', say=print):
        self.instance, self.say = instance, say
        self.folder = ROOT / '.device' / instance
        self.cache = ROOT / '.device' / 'packages'
        self.upper, self.merged = self.folder / 'upper', self.folder / 'merged'
        self.state_file, self.console = self.folder / 'state.json', self.folder / 'console.log'
        self.tag = hashlib.sha256(f'{ROOT}\n{instance}'.encode()).hexdigest()[:8]
        self.machine = f'hybridos-{self.tag}'
        self.script = './hybridos' if instance == 'main' else f'./hybridos --instance {instance}'

    # --- state -------------------------------------------------------------------------------

    def state(self):
        try:
            return json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return {}

    def _save(self, **changes):
        state = self.state() | changes
        new = self.state_file.with_suffix('.new')
        new.write_text(json.dumps(state, indent=1) + '\n')
        new.rename(self.state_file)

    def _process(self, name):
        pid, start = self.state().get(name, (0, None))
        return pid if pid and started(pid) == start else 0

    @property
    def container(self):
        return self._process('container')

    @property
    def init(self):
        return self._process('init')

    def running(self):
        return bool(self.init)

    @contextlib.contextmanager
    def locked(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = open(self.folder / 'lock', 'w')
        except OSError as error:
            raise Problem(f'cannot write to {self.folder}: {error.strerror}') from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Problem('another ./hybridos is starting or stopping this device; wait for it, '
                              'or end it') from None
            yield

    # --- the disk ----------------------------------------------------------------------------

    def _opaque(self, path, mode=0o755):
        """An empty directory over whatever this machine has there."""
        target = self.upper / path
        if not target.is_dir():
            target.mkdir(parents=True, mode=mode)
        target.chmod(mode)
        os.setxattr(target, 'trusted.overlay.opaque', b'y')
        return target

    def _hide_file(self, path):
        target = self.upper / path
        if not target.exists() and not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))

    def _hide_unreadable(self, top):
        """What only some may read on this machine is nobody's business in the device."""
        for folder, names, files in os.walk(top):
            for name in list(names):
                status = os.lstat(os.path.join(folder, name))
                if stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o005:
                    self._opaque(os.path.join(folder, name).lstrip('/'))
                    names.remove(name)
            for name in files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o004:
                    self._hide_file(path.lstrip('/'))

    def _accounts(self):
        """The base system's accounts; people and passwords of this machine stay out."""
        etc = self.upper / 'etc'
        etc.mkdir(parents=True, exist_ok=True)
        if (etc / 'shadow').is_file():  # the device has been started before: its accounts are its own
            return
        system = lambda fields: int(fields[2]) < 1000 or int(fields[2]) == 65534
        lines = {}
        for name in ('passwd', 'group'):
            records = [r.split(':') for r in pathlib.Path('/etc', name).read_text().splitlines()]
            lines[name] = [r for r in records if len(r) > 3 and r[2].isdigit() and system(r)]
        accounts = {record[0] for record in lines['passwd']}
        for record in lines['group']:
            record[3] = ','.join(m for m in record[3].split(',') if m in accounts)
        lines['passwd'].append(['guest', 'x', '1001', '1001', 'Somebody without any right', '/tmp', '/bin/sh'])
        lines['group'].append(['guest', 'x', '1001', ''])
        for name in ('passwd', 'group'):
            (etc / name).write_text(''.join(':'.join(r) + '\n' for r in lines[name]))
        shadow = [f'{r[0]}:*:19000:0:99999:7:::\n' for r in lines['passwd']]
        gshadow = [f'{r[0]}:*::\n' for r in lines['group']]
        for name, records in (('shadow', shadow), ('gshadow', gshadow)):
            (etc / name).touch(mode=0o600)
            (etc / name).write_text(''.join(records))
        for name in ('shadow-', 'gshadow-', 'passwd-', 'group-', 'subuid', 'subgid'):
            self._hide_file(f'etc/{name}')

    def _units(self, tree):
        """Masks each unit of this machine but the base system's: the device runs that and ours."""
        listed = subprocess.run(['dpkg-query', '-L', *BASE_PACKAGES], capture_output=True, text=True).stdout
        base = {os.path.basename(line) for line in listed.splitlines() if '/systemd/system/' in line}
        if tree:
            base |= {p.name for p in tree.glob('**/systemd/system/*')}
        own = self._opaque('etc/systemd/system')
        for folder in ('/usr/lib/systemd/system', '/usr/local/lib/systemd/system', '/lib/systemd/system'):
            names = os.listdir(folder) if os.path.isdir(folder) else []
            for name in names:
                ours = (self.upper / 'usr/lib/systemd/system' / name).exists()
                if '.' not in name or name.endswith(('.wants', '.requires', '.d')) or ours:
                    continue
                if name not in base and name != 'dbus.service':
                    self._link(own / name, '/dev/null')
        for name in MASKED:
            self._link(own / name, '/dev/null')
        generators = [os.path.basename(p) for p in listed.splitlines() if '/system-generators/' in p]
        for name in os.listdir('/usr/lib/systemd/system-generators'):
            if name not in generators:
                self._opaque('etc/systemd/system-generators')
                self._link(self.upper / 'etc/systemd/system-generators' / name, '/dev/null')
        for folder in ('init.d', 'rc0.d', 'rc1.d', 'rc2.d', 'rc3.d', 'rc4.d', 'rc5.d', 'rc6.d', 'rcS.d'):
            self._opaque(f'etc/{folder}')

    @staticmethod
    def _link(path, target):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and os.readlink(path) == target:
            return
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def prepare_disk(self, bus, broker_tree, bus_tree):
        """Everything about the upper layer that does not need it mounted."""
        for name in os.listdir('/'):
            if name in KEPT:
                continue
            if os.path.isdir(f'/{name}') and not os.path.islink(f'/{name}'):
                self._opaque(name, {'tmp': 0o1777, 'root': 0o700}.get(name, 0o755))
            else:
                self._hide_file(name)
        if not (self.upper / 'var').is_dir():
            var = self._opaque('var')
            for name in ('lib', 'log', 'cache', 'spool', 'lib/systemd'):
                (var / name).mkdir(exist_ok=True)
            (var / 'tmp').mkdir()
            (var / 'tmp').chmod(0o1777)
            (var / 'run').symlink_to('/run')
            (var / 'lock').symlink_to('/run/lock')
        self._accounts()
        self._hide_unreadable('/etc')
        self._hide_unreadable('/usr/local')
        self._opaque('etc/ssh')
        for tree in filter(None, (bus_tree, broker_tree)):
            shutil.copytree(tree, self.upper, symlinks=True, dirs_exist_ok=True)
        self._units(broker_tree)
        etc = self.upper / 'etc'
        for name, text in (('hostname', 'hybridos\n'), ('fstab', ''), ('resolv.conf', ''),
                           ('hosts', '127.0.0.1 localhost hybridos\n::1 localhost hybridos\n')):
            (etc / name).unlink(missing_ok=True)
            (etc / name).write_text(text)
        (etc / 'machine-id').exists() or (etc / 'machine-id').write_text(os.urandom(16).hex() + '\n')
        self._link(etc / 'localtime', '/usr/share/zoneinfo/UTC')
        system = etc / 'systemd/system'
        # Both ways explicitly: an installed dbus-broker would take the alias by itself.
        self._link(system / 'dbus.service', '/usr/lib/systemd/system/dbus-broker.service'
                   if bus == 'dbus-broker' else '/usr/lib/systemd/system/dbus.service')
        self._link(system / 'sockets.target.wants/dbus.socket', '/usr/lib/systemd/system/dbus.socket')
        self._link(system / 'default.target', '/usr/lib/systemd/system/multi-user.target')
        self._link(system / 'multi-user.target.wants/hybridos.target',
                   '/usr/lib/systemd/system/hybridos.target')

    # --- building ----------------------------------------------------------------------------

    def installed(self, build):
        """{where: what} of everything that meson would install, as it stands now."""
        plan = json.loads(_run('meson', 'introspect', '--installed', build))
        return {target: [source, os.stat(source).st_mtime_ns, os.stat(source).st_size]
                for source, target in plan.items() if os.path.exists(source)}

    def install(self, build):
        """Into the mounted overlay; called inside its mount namespace."""
        record = self.folder / 'installed.json'
        before = json.loads(record.read_text()) if record.exists() else {}
        now = self.installed(build)
        for stale in before.keys() - now.keys():
            with contextlib.suppress(OSError):
                (self.merged / stale.lstrip('/')).unlink()
        _run('meson', 'install', '-C', build, '--no-rebuild', '--only-changed', '--quiet',
             '--destdir', self.merged)
        record.write_text(json.dumps(now))
        _run(self.merged / 'usr/lib/hybridos/h-install-users', f'--root={self.merged}')

    # --- starting ----------------------------------------------------------------------------

    def _check_machine(self, publish, port):
        rights = pathlib.Path('/proc/self/status').read_text().split('CapEff:')[1].split()[0]
        if not int(rights, 16) >> CAP_SYS_ADMIN & 1:
            raise Problem('no namespaces here: the device needs a machine, real or virtual, or a '
                          'privileged container')
        for name in ('usr', 'etc'):
            if os.path.ismount(f'/{name}'):
                raise Problem(f'/{name} is a file system of its own here, and the device needs it on '
                              'the root file system')
        free = shutil.disk_usage(self.folder).free
        if free < 200 << 20:
            raise Problem(f'the disk is full: the device needs 200 MiB below {ROOT}, and '
                          f'{free >> 20} are left')
        for kind, host, number, _ in self._rules(publish, port):
            family = socket.AF_INET6 if ':' in host else socket.AF_INET
            if family == socket.AF_INET6 and not os.path.exists('/proc/net/if_inet6'):
                continue
            with socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM) as s:
                if kind == 'tcp':
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    s.bind((host, number))
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise Problem(f'port {number} is taken by another program: end it, or give '
                                      'another one with --port') from None
                    if error.errno != errno.EADDRNOTAVAIL:
                        raise Problem(f'cannot use port {number}: {error.strerror}') from None

    @staticmethod
    def _rules(publish, port):
        hosts = {'none': (), 'localhost': ('127.0.0.1', '::1'), 'all': ('0.0.0.0', '::')}[publish]
        if not os.path.exists('/proc/net/if_inet6'):
            hosts = [h for h in hosts if ':' not in h]
        return [(kind, host, port + offset, inside)
                for kind, inside, offset in PUBLISHED for host in hosts]

    def addresses(self):
        """(this machine's, the device's) on the link between them."""
        number = int(self.tag[:4], 16) % 16000
        base = (10 << 24) + (213 << 16) + number * 4
        text = lambda n: '.'.join(str(n >> shift & 255) for shift in (24, 16, 8, 0))
        return text(base + 1), text(base + 2)

    def start(self, build, bus='dbus-daemon', publish='localhost', port=DEFAULT_PORT,
              development=True):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_machine(publish, port)
        bus_tree = packages.unpack(['only-bus'], self.cache, self.say)
        broker_tree = packages.unpack(['only-broker'], self.cache, self.say) \
            if bus == 'dbus-broker' else None
        for name in ('upper', 'work', 'merged'):
            (self.folder / name).mkdir(exist_ok=True)
        self.prepare_disk(bus, broker_tree, bus_tree)
        self._save(bus=bus, publish=publish, port=port, development=development, build=str(build),
                   names=self._machine_names() if publish == 'all' else [])
        self._launch(build, development)
        self._forward(publish, port)

    def _launch(self, build, development):
        report, told = os.pipe()
        go_on, go = os.pipe()
        with interrupt.held():
            pid = os.fork()
            if pid == 0:
                os.close(report), os.close(go)
                self._become_container(build, development, told, go_on)  # does not return
            self._save(container=[pid, started(pid)], init=[0, 0])
        os.close(told), os.close(go_on)
        try:
            with os.fdopen(report) as words:
                line = words.readline()
                if line == 'namespaces\n':
                    link = f'hy-{self.tag}'
                    here, _ = self.addresses()
                    _run('ip', 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'host0',
                         'netns', str(pid))
                    _run('ip', 'address', 'add', f'{here}/30', 'dev', link)
                    _run('ip', 'link', 'set', link, 'up')
                    os.write(go, b'\n')
                    line = words.readline() or words.readline()
                if line:
                    raise Problem(line.strip())
        finally:
            os.close(go)
        alive = lambda: started(pid) is not None and not self._reap(pid)
        init = wait_until(lambda: self._find_init(pid), 30, 'starting the container', alive)
        self._save(init=[init, started(init)])

    @staticmethod
    def _reap(pid):
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        return False

    @staticmethod
    def _find_init(container):
        """The container's pid 1: the descendant that sees itself as number 1."""
        for child in children(container):
            for pid in [child, *children(child)]:
                with contextlib.suppress(OSError, IndexError):
                    status = pathlib.Path(f'/proc/{pid}/status').read_text()
                    numbers = status.split('NSpid:')[1].splitlines()[0].split()
                    if len(numbers) > 1 and numbers[-1] == '1' and \
                            pathlib.Path(f'/proc/{pid}/comm').read_text().strip() == 'systemd':
                        return pid
        return 0

    def _become_container(self, build, development, told, go_on):
        """In the forked child: namespaces, overlay, install, then systemd-nspawn in our place."""
        tell = lambda words: os.write(told, (words + '\n').encode())
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            try:
                _libc('unshare', CLONE_NEWNS | CLONE_NEWNET)
            except OSError as error:
                raise Problem(f'no namespaces here ({error.strerror}): the device needs a machine, real or '
                              'virtual, or a privileged container') from None
            tell('namespaces')
            if not os.read(go_on, 1):
                os._exit(1)
            self._cgroup()
            _run('mount', '--make-rprivate', '/')
            try:
                _run('mount', '-t', 'overlay', 'overlay', '-o', f'lowerdir=/,upperdir={self.upper},'
                     f'workdir={self.folder / "work"}', self.merged)
            except Problem as problem:
                raise Problem(f'no overlay file system here: {problem}') from None
            self.install(build)
            self._development(development)
            self._host_names(self.state().get('names'))
            self._network()
            self._exec_nspawn(told)
        except Problem as problem:
            tell(str(problem))
        except OSError as error:
            full = ': the disk is full' if error.errno == errno.ENOSPC else ''
            tell(f'cannot start the device{full}: {error}')
        except BaseException as error:
            tell(f'cannot start the device: {error!r}')
        os._exit(1)

    def _exec_nspawn(self, told):
        arguments = ['systemd-nspawn', '--quiet', '--register=no', '--boot', '-D', str(self.merged),
                     f'--machine={self.machine}', '--hostname=hybridos', '--link-journal=no',
                     '--resolv-conf=off', '--timezone=off', '--console=read-only',
                     f'--network-namespace-path=/proc/{os.getpid()}/ns/net', '--settings=no',
                     '--capability=CAP_NET_ADMIN']  # over that network alone
        if not os.path.isdir('/run/systemd/system'):  # nobody here who could make a scope for it
            arguments.append('--keep-unit')
        null = os.open('/dev/null', os.O_RDWR)
        console = os.open(self.console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for source, target in ((null, 0), (console, 1), (console, 2)):
            os.dup2(source, target)
        os.set_inheritable(told, False)
        os.execvpe('systemd-nspawn', arguments, {'PATH': PATH, 'SYSTEMD_LOG_LEVEL': 'notice'})

    def _cgroup_folders(self):
        for line in pathlib.Path('/proc/self/mounts').read_text().splitlines():
            _, where, kind, options = line.split()[:4]
            if kind == 'cgroup2' or (kind == 'cgroup' and 'name=systemd' in options):
                yield pathlib.Path(where) / self.machine

    def _cgroup(self):
        """Without a systemd on this machine, nspawn makes its groups in its own: give it one."""
        if os.path.isdir('/run/systemd/system'):
            return
        for folder in self._cgroup_folders():
            folder.mkdir(exist_ok=True)
            (folder / 'cgroup.procs').write_text(str(os.getpid()))

    def _network(self):
        here, there = self.addresses()
        _run('ip', 'link', 'set', 'lo', 'up')
        _run('ip', 'address', 'add', f'{there}/30', 'dev', 'host0')
        _run('ip', 'link', 'set', 'host0', 'up')
        # Where systemd may, it does this at the start: the kernel's 10 are few for who logs while h-logged starts.
        with contextlib.suppress(OSError):
            pathlib.Path('/proc/sys/net/unix/max_dgram_qlen').write_text('512\n')

    def _development(self, wanted):
        source = HERE / 'development'
        for path in source.rglob('*'):
            if path.is_file():
                target = self.merged / 'etc/hybridos' / path.relative_to(source)
                if wanted:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
                    target.chmod(0o644)
                else:
                    target.unlink(missing_ok=True)

    @staticmethod
    def _machine_names():
        name = socket.gethostname()
        names = [name, f'{name}.local'] if re.fullmatch(r'[A-Za-z0-9.-]+', name) else []
        return names + _run('hostname', '--all-ip-addresses').split()

    def _host_names(self, names):
        """Whoever comes through this machine calls the device by its names and addresses."""
        target = self.merged / 'etc/hybridos/httpd.conf.d/80-published.conf'
        target.unlink(missing_ok=True)
        if names:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f'[listen]\nHostNames = {" ".join(names)}\n')
            target.chmod(0o644)

    def _forward(self, publish, port):
        rules = [f'{kind}:{host}:{number}:{inside}' for kind, host, number, inside
                 in self._rules(publish, port)]
        if not rules:
            return
        report, told = os.pipe()
        log = open(self.folder / 'forward.log', 'w')
        with interrupt.held():
            process = subprocess.Popen(
                [sys.executable, HERE / 'forward.py', str(self.init), str(told), *rules],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[told], cwd='/',
                start_new_session=True)
            self._save(forwarder=[process.pid, started(process.pid)])
        os.close(told)
        log.close()
        with os.fdopen(report) as words:
            if words.readline() != 'ready\n':
                last = (self.folder / 'forward.log').read_text().strip().splitlines()
                raise Problem(f'cannot publish ports: {last[-1] if last else "the forwarder ended"}')

    # --- health ------------------------------------------------------------------------------

    def wait_healthy(self, seconds=60):
        alive = self.running
        wait_until(lambda: self.run('test', '-S', '/run/dbus/system_bus_socket').returncode == 0,
                   seconds, 'waiting for the bus', alive)
        wait_until(lambda: self.run('systemctl', 'is-system-running').stdout.strip()
                   in ('running', 'degraded'), seconds, 'waiting for the system to start', alive)
        failed = self.failed_units()
        if failed:
            raise Problem(f'failed in the device: {" ".join(failed)}; see {self.script} logs {failed[0]}')
        wait_until(lambda: self.run('systemctl', 'is-active', 'hybridos.target').returncode == 0,
                   seconds, 'waiting for hybridos.target', alive)
        wait_until(lambda: self.run('curl', '-sko', '/dev/null', 'https://localhost:8443/').returncode == 0,
                   seconds, 'waiting for HTTPS to answer', alive)

    def has(self, path):
        return pathlib.Path(f'/proc/{self.init}/root/{path}').exists()

    def failed_units(self):
        output = self.run('systemctl', 'list-units', '--failed', '--plain', '--no-legend').stdout
        return [line.split()[0] for line in output.splitlines() if line.strip()]

    # --- use ---------------------------------------------------------------------------------

    def command(self, command, user=None):
        if not self.running():
            raise Problem(f'the device is not running: {self.script} run --detach starts it')
        enter = ['nsenter', f'--target={self.init}', '--mount', '--uts', '--ipc', '--net', '--pid',
                 '--cgroup', '--root', '--wd', '--']
        home, name, drop = '/root', 'root', []
        if user not in (None, 'root', '0', 0):
            drop, home, name = self._become(str(user), enter)
        return [*enter, 'env', '-i', f'PATH={PATH}', f'HOME={home}', f'USER={name}', f'LOGNAME={name}',
                'LANG=C.UTF-8', f'TERM={os.environ.get("TERM", "dumb")}', *drop, *map(str, command)]

    def _become(self, user, enter):
        record = subprocess.run([*enter, 'getent', 'passwd', user], capture_output=True, text=True).stdout
        if record.strip():
            name, _, uid, gid, _, home, _ = record.strip().split(':')
            groups = ['--init-groups']
        elif user.isdigit():
            name, uid, gid, home, groups = user, user, user, '/', ['--clear-groups']
        else:
            raise Problem(f'the device has no user {user}')
        return ['setpriv', f'--reuid={uid}', f'--regid={gid}', *groups, '--inh-caps=-all', '--'], home, name

    def run(self, *command, user=None, input=None, timeout=120, check=False):
        """Runs a command inside and returns its result, with output as text."""
        result = subprocess.run(self.command(command, user), input=input, timeout=timeout,
                                stdin=subprocess.DEVNULL if input is None else None,
                                capture_output=True, text=True, errors='replace')
        if check and result.returncode:
            raise AssertionError(f'{command}: exit {result.returncode}\n{result.stdout}{result.stderr}')
        return result

    def popen(self, *command, user=None, **options):
        return subprocess.Popen(self.command(command, user), **options)

    # --- stopping ----------------------------------------------------------------------------

    def _kill(self, pid, start, number):
        if pid and started(pid) == start:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill_tree(self, pid, start):
        """What it has begun would go on without it, and whoever started it may not have come to note its pid 1."""
        self._kill(pid, start, signal.SIGSTOP)
        if pid and started(pid) == start:
            for child in list(descendants(pid)):
                self._kill(child, started(child), signal.SIGKILL)
        self._kill(pid, start, signal.SIGKILL)

    def _wait_gone(self, pid, start, seconds):
        deadline = time.monotonic() + seconds
        while pid and started(pid) == start:
            if self._reap(pid):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        self._reap(pid)
        return True

    def stop(self, quick=False):
        """Leaves no process, mount or interface, whatever state the device was in."""
        with interrupt.held():
            return self._stop(quick)

    def _stop(self, quick):
        state = self.state()
        container, init, forwarder = (tuple(state.get(n) or (0, 0))
                                      for n in ('container', 'init', 'forwarder'))
        was = started(container[0]) == container[1] if container[0] else False
        if was and init[0] and not quick:
            self._kill(*init, signal.SIGRTMIN + 4)  # systemd: poweroff.target
            self._wait_gone(*container, 30)
        self._kill(*init, signal.SIGKILL)
        self._kill_tree(*container)
        self._kill(*forwarder, signal.SIGTERM)
        for process in (container, init, forwarder):
            self._wait_gone(*process, 10)
        self._wake_entered(init[0])
        self._remove_leftovers()
        if state:
            self._save(container=[0, 0], init=[0, 0], forwarder=[0, 0])
        return was

    @staticmethod
    def _wake_entered(init):
        """Commands that had entered: a system that goes down stops them first, and nsenter with them."""
        for entry in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                command = pathlib.Path(f'/proc/{entry}/cmdline').read_bytes()
                if command.startswith(f'nsenter\0--target={init}\0'.encode()):
                    os.kill(int(entry), signal.SIGCONT)

    def _remove_scope(self):
        """Where systemd runs here, it keeps the name until all in it has ended."""
        scope = f'{self.machine}.scope'
        subprocess.run(['systemctl', 'stop', scope], capture_output=True)
        subprocess.run(['systemctl', 'reset-failed', scope], capture_output=True)

    def _remove_leftovers(self):
        if os.path.isdir('/run/systemd/system'):
            self._remove_scope()
        for folder in self._cgroup_folders():
            for path in sorted(folder.rglob('*'), key=lambda p: -len(p.parts)):
                if path.is_dir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
            with contextlib.suppress(OSError):
                folder.rmdir()
        for path in (f'/run/systemd/nspawn/propagate/{self.machine}',
                     f'/run/systemd/nspawn/unix-export/{self.machine}'):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        subprocess.run(['ip', 'link', 'delete', f'hy-{self.tag}'], stderr=subprocess.DEVNULL)

    def wipe(self):
        """Factory reset, and more: the next start makes a new disk."""
        shutil.rmtree(self.folder / 'upper', ignore_errors=True)
        shutil.rmtree(self.folder / 'work', ignore_errors=True)
        (self.folder / 'installed.json').unlink(missing_ok=True)
