# SPDX-License-Identifier: Apache-2.0
"""Everything that ./hybridos test runs, and the count of what passed."""
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import simulated

ROOT = simulated.ROOT


class Tally(collections.Counter):
    def __init__(self):
        super().__init__()
        self.names = []

    def add(self, outcome, name):
        """All that a test needs has been installed before, so one that was skipped has failed."""
        if outcome == 'skipped':
            outcome, name = 'failed', f'{name} (skipped)'
        self[outcome] += 1
        if outcome == 'failed':
            self.names.append(name)

    def line(self):
        return f'{self["passed"]} passed, {self["failed"]} failed'


def _follow(command, environment=None):
    process = subprocess.Popen([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL,
                               env={**os.environ, **(environment or {})}, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


def meson(folder, pattern, tally, wrapper=()):
    """The C tests and the fuzz seeds of one build."""
    tests = json.loads(subprocess.run(['meson', 'introspect', '--tests', folder], cwd=ROOT, check=True,
                                      stdout=subprocess.PIPE).stdout)
    names = [t['name'] for t in tests if not pattern or pattern in t['name']]
    if not names:
        return
    log = ROOT / folder / 'meson-logs/testlog.json'
    log.unlink(missing_ok=True)
    _follow(['meson', 'test', '-C', folder, '--no-rebuild', '--print-errorlogs', '--timeout-multiplier', '5',
             *(names if pattern else [])],
            # A small quarantine: tests look at what a server holds.
            {'ASAN_OPTIONS': 'detect_leaks=1:abort_on_error=1:quarantine_size_mb=16', 'UBSAN_OPTIONS': 'halt_on_error=1'})
    seen = 0
    for line in log.read_text().splitlines() if log.exists() else ():
        record = json.loads(line)
        outcome = {'OK': 'passed', 'EXPECTEDFAIL': 'passed', 'SKIP': 'skipped'}.get(record['result'], 'failed')
        tally.add(outcome, f'{folder}: {record["name"]}')
        seen += 1
    if seen < len(set(names)):
        tally.add('failed', f'{folder}: meson test ended early')


def device(folder, bus, pattern, quick, tally):
    """The tests that need the device, on one bus."""
    report = ROOT / folder / f'device-{bus}.xml'
    report.unlink(missing_ok=True)
    paths = ['tests/build', 'tests/device']
    # Killing each daemon 250 times, and 10,000 changes under calls, take ten minutes: on the first bus, and a tenth on
    # the other.
    share = 50 if quick else 1 if bus == simulated.BUSES[0] else 10
    code = _follow(['/usr/bin/python3', '-B', '-m', 'pytest', '-v', '-p', 'no:cacheprovider', '--bus', bus,
                    f'--junitxml={report}', '--durations=25', '-k', pattern or '', *paths],
                   {'HYBRIDOS_BUILD': str(ROOT / folder), 'HYBRIDOS_SHARE': str(share)})
    if not report.exists():
        tally.add('failed', f'device tests on {bus}: no report')
        return
    seen = 0
    for case in ET.parse(report).getroot().iter('testcase'):
        kinds = {child.tag for child in case}
        outcome = 'failed' if kinds & {'failure', 'error'} else 'skipped' if 'skipped' in kinds else 'passed'
        tally.add(outcome, f'{bus}: {case.get("classname")}.{case.get("name")}')
        seen += 1
    if code not in (0, 1, 5) or (code == 1 and not tally['failed']) or (not seen and not pattern):
        tally.add('failed', f'device tests on {bus}: pytest ended with {code}')


def leave_memory(d):
    """What a run that was killed has left of a device whose disk is in memory (see conftest.py)."""
    if d.folder.is_symlink():
        shutil.rmtree(d.folder.readlink(), ignore_errors=True)
        d.folder.unlink()


def cleanup():
    for instance in (f'{kind}-{bus}' for kind in ('test', 'closed') for bus in simulated.BUSES):
        d = simulated.Device(instance)
        if d.folder.exists():
            d.stop(quick=True)
            d.wipe()
        leave_memory(d)
