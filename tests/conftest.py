# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that need the simulated device."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests/device'))

import checks  # noqa: E402
import simulated  # noqa: E402

BUILD = pathlib.Path(os.environ.get('HYBRIDOS_BUILD', ROOT / 'build'))


def share(times, least=1):
    """Of what takes long when done as often as it should be: all of it only where `./hybridos test` says so."""
    return max(times // int(os.environ.get('HYBRIDOS_SHARE', '50')), least)


def pytest_addoption(parser):
    parser.addoption('--bus', choices=simulated.BUSES, default='dbus-daemon')


def pytest_configure(config):
    def interrupted(number, frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupted)  # so that the devices are stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and its children, ignore it
    config.addinivalue_line('markers', 'once: does not depend on the bus, and runs on the first only')


def pytest_collection_modifyitems(config, items):
    if config.getoption('--bus') != simulated.BUSES[0]:
        again = [i for i in items if i.get_closest_marker('once')]
        config.hook.pytest_deselected(items=again)
        items[:] = [i for i in items if i not in again]


class TestDevice(simulated.Device):
    """A device and what tests like to do with it."""

    __test__ = False

    def program(self, name):
        """Puts a program that the build made into the device; returns its path there."""
        found = [p for p in BUILD.rglob(name) if p.is_file() and os.access(p, os.X_OK)]
        assert found, f'{name} was not built in {BUILD}'
        return self.put(found[0])

    def put(self, source, mode=0o755):
        folder = pathlib.Path(f'/proc/{self.init}/root/run/hybridos-tests')
        folder.mkdir(exist_ok=True)
        target = folder / pathlib.Path(source).name
        shutil.copy(source, target)
        target.chmod(mode)
        return f'/run/hybridos-tests/{target.name}'

    def put_text(self, text, name):
        path = f'/run/hybridos-tests/{name}'
        self.run('mkdir', '-p', '/run/hybridos-tests', check=True)
        self.write(path, text)
        return path

    def write(self, path, text):
        self.run('tee', path, input=text, check=True)

    def user(self, name, uid, groups=()):
        """Makes a local user; returns its name."""
        if self.run('id', name).returncode:
            self.run('useradd', '--no-create-home', '--no-user-group', '--uid', uid, name, check=True)
        if groups:
            self.run('usermod', '--append', '--groups', ','.join(groups), name, check=True)
        return name

    def curl(self, path, *arguments, **options):
        """Asks h-httpd from inside the device: the result, whose stdout is the body."""
        return self.run('curl', '--silent', '--show-error', '--insecure', '--max-time', '60', *arguments,
                        f'https://localhost:8443{path}', **options)

    def main_pid(self, unit):
        return self.run('systemctl', 'show', '-P', 'MainPID', unit, check=True).stdout.strip()

    def kill_unit(self, unit):
        """With SIGKILL; it is there again when this returns, and not as systemd saw it before."""
        before = self.main_pid(unit)
        self.run('systemctl', 'kill', '--signal=KILL', unit, check=True)
        self.wait(lambda: self.main_pid(unit) not in ('0', before) and
                  self.run('systemctl', 'is-active', unit).stdout == 'active\n', f'{unit} is back')

    def status(self, path, *arguments):
        """The HTTP status that a request gets."""
        return int(self.curl(path, '--output', '/dev/null', '--write-out', '%{http_code}', *arguments).stdout)

    def socket(self, kind=socket.SOCK_STREAM):
        """A socket of the device's network, held by this process."""
        made = []

        def make():  # a thread may leave for another network alone
            with open(f'/proc/{self.init}/ns/net') as space:
                simulated._libc('setns', space.fileno(), simulated.CLONE_NEWNET)
            made.append(socket.socket(socket.AF_INET, kind))
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def wait(self, condition, what, seconds=60):
        return simulated.wait_until(condition, seconds, what, self.running)


@pytest.fixture(scope='session')
def bus(request):
    return request.config.getoption('--bus')


@contextlib.contextmanager
def in_memory(d):
    """The device's disk: thousands of changes of the policy would wait for this machine's, and no power fails here."""
    if shutil.disk_usage('/dev/shm').free < 1 << 30:
        yield
        return
    d.stop(quick=True)
    checks.leave_memory(d)
    shutil.rmtree(d.folder, ignore_errors=True)
    d.folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='hybridos-', dir='/dev/shm', ignore_cleanup_errors=True) as folder:
        d.folder.symlink_to(folder)
        os.chmod(folder, 0o755)
        try:
            yield
        finally:
            d.folder.unlink()


@contextlib.contextmanager
def booted(instance, bus, development=True):
    d = TestDevice(instance)
    with in_memory(d), d.locked():
        d.stop(quick=True)
        d.wipe()
        try:
            d.start(BUILD, bus, publish='none', development=development)
            d.wait_healthy()
            yield d
        finally:
            d.stop()
            d.wipe()


@pytest.fixture(scope='session')
def device(bus):
    with booted(f'test-{bus}', bus) as d:
        yield d


@pytest.fixture(scope='module')
def closed(bus):
    """A device of its own without the development drop-in, as it leaves the factory."""
    with booted(f'closed-{bus}', bus, development=False) as d:
        yield d


def pytest_runtest_makereport(item, call):
    """What the device said last belongs to a failure."""
    d = None
    if call.when == 'call' and call.excinfo:
        d = item.funcargs.get('closed') or item.funcargs.get('device')
    if d is not None and d.running():
        for what, command in (('journal', ('journalctl', '--no-pager', '--lines=60')),
                              ('log', ('h-logread', '--no-pager', '--lines=60'))):
            item.add_report_section('call', what, d.run(*command).stdout)
