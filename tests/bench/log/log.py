#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What taking in, keeping and finding a record costs: h-logged against journald, rsyslog and busybox syslogd's ring.
Inside the device, interleaved in one run, so that drift of the machine meets all alike. Started by
./hybridos bench log; prints JSON.

    log.py FOLDER

A sender in a unit of its own sends RECORDS records with a message of 100 bytes as fast as they are taken, never losing
one. CPU is that of the receiving daemons alone, by the scheduler's own count, until they are quiet. Then the buffer is
full, and one unit's records, one in a hundred, are looked for with the receiver's own means."""
import json
import os
import pathlib
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
RECORDS = {'native': 200_000, 'slow': 40_000}
QUERIES = 7
UNIT, RARE = 'bench-many', 'bench-rare'
JOURNAL, LOGGED = '/run/systemd/journal/socket', '/run/hybridos/logged/log.sock'
RSYSLOG = '''
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{dir}/rsyslog.sock" CreatePath="on" RateLimit.Interval="0")
$template plain,"%timestamp:::date-rfc3339% %syslogtag%%msg%\\n"
$outchannel ring,{dir}/rsyslog.log,4194304,{dir}/rotate
*.* :omfile:$ring;plain
'''


def run(*command, check=True, **options):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors='replace', timeout=600, **options)
    if check and done.returncode:
        sys.exit(f'{command}: {done.stderr[-500:]}')
    return done.stdout


def main_pid(unit):
    return int(run('systemctl', 'show', '-P', 'MainPID', unit))


def cpu(pid):
    """Seconds that it has run, all threads."""
    return sum(int(t.read_text().split()[0]) for t in pathlib.Path(f'/proc/{pid}/task').glob('*/schedstat')) / 1e9


def spent(pids):
    """CPU of these and of all commands that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(map(cpu, pids)) + children.ru_utime + children.ru_stime


def pss(pid):
    return int(re.search(r'^Pss:\s+(\d+)', pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text(), re.M)[1])


def quiet(pids):
    """Until none of them has run for a while: they have dealt with all there was. Their CPU until then."""
    last, since = [cpu(p) for p in pids], time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        current = [cpu(p) for p in pids]
        if sum(current) - sum(last) > 0.005:
            last, since = current, time.monotonic()
    return last


class Receiver:
    """`kind` and `socket` are the sender's; `prefix` what a command is put in front of it to be where the receiver is."""
    kind, socket, records, prefix, fills = 'syslog', None, RECORDS['slow'], (), 30

    def __init__(self, folder):
        self.folder, self.intakes, self.costs = folder, [], []

    def pids(self):
        raise NotImplementedError

    def send(self, count, unit):
        return float(run('systemd-run', '--quiet', '--pipe', '--wait', '--collect', f'--unit={unit}.service', *self.prefix,
                         f'{self.folder}/bench-log-send', self.kind, self.socket, count, unit).split()[-1])

    def arrived(self):
        """How many records it has taken in so far; None: what was sent, since its socket loses none."""
        return None

    def intake(self):
        pids = self.pids()
        before, had = quiet(pids), self.arrived()
        seconds = self.send(self.records, UNIT)
        after = quiet(pids)
        taken = self.records if had is None else self.arrived() - had
        self.intakes.append(self.records / seconds)
        self.costs.append([(b - a) * 1e6 / taken for a, b in zip(before, after)])

    def fill(self):
        """The rare unit's records among the others', until the buffer holds no other ones."""
        for _ in range(self.fills):
            self.send(990, UNIT)
            self.send(10, RARE)

    def query(self):
        """(found, milliseconds, milliseconds of CPU: the receiver's and the command's)"""
        times, costs, pids = [], [], self.pids()
        for _ in range(QUERIES):
            began, before = time.monotonic(), spent(pids)
            found = len(run('sh', '-c', self.search, check=False).splitlines())
            times.append((time.monotonic() - began) * 1e3)
            costs.append((spent(pids) - before) * 1e3)
        return found, statistics.median(times), statistics.median(costs)

    def row(self):
        self.fill()
        pids = self.pids()
        quiet(pids)
        time.sleep(4)
        memory = sum(pss(p) for p in pids)
        found, milliseconds, cost = self.query()
        held, size = self.held()
        return {'name': self.name, 'records/s': round(statistics.median(self.intakes)),
                'CPU us/record': round(statistics.median(sum(c) for c in self.costs), 2),
                'PSS KiB': memory, 'held': held, 'bytes/record': round(size / held), 'found': found,
                'query ms': round(milliseconds, 1), 'query CPU ms': round(cost, 1)}


class Logged(Receiver):
    name, kind, socket, records = 'h-logged', 'native', LOGGED, RECORDS['native']
    search = f'h-logread -u {RARE}.service -o cat --no-pager'

    def pids(self):
        return [main_pid('h-logged.service')]

    def held(self):
        ring = '/run/hybridos/logged/main.hlog'
        return (len(run('h-logread', '--file', ring, '-o', 'cat', '--no-pager').splitlines()), os.stat(ring).st_size)


class ByJournal(Logged):
    name, kind, socket, records = 'h-logged, by the journal (both)', 'journal', JOURNAL, RECORDS['slow']

    def pids(self):
        return [main_pid('h-logged.service'), main_pid('systemd-journald.service')]

    def arrived(self):
        return int(re.search(r'^stored +(\d+)', run('h-logread', '--statistics'), re.M)[1])


class Journald(Receiver):
    name, kind, socket = 'journald', 'journal', JOURNAL
    search = f'journalctl -q -u {RARE}.service -o cat --no-pager'

    def pids(self):
        return [main_pid('systemd-journald.service')]

    def held(self):
        files = pathlib.Path('/run/log/journal').rglob('*.journal')
        return len(run('journalctl', '-q', '-o', 'cat', '--no-pager').splitlines()), sum(f.stat().st_size for f in files)


class Rsyslog(Receiver):
    name, fills = 'rsyslog', 60  # a file and the one before it

    def __init__(self, folder):
        super().__init__(folder)
        self.socket = f'{folder}/rsyslog.sock'
        # It gives a command no more than one argument.
        rotate = pathlib.Path(folder, 'rotate')
        rotate.write_text(f'#!/bin/sh\nmv {folder}/rsyslog.log {folder}/rsyslog.log.1\n')
        rotate.chmod(0o755)
        pathlib.Path(folder, 'rsyslog.conf').write_text(RSYSLOG.format(dir=folder))
        self.process = subprocess.Popen(['rsyslogd', '-n', '-f', f'{folder}/rsyslog.conf', '-i', f'{folder}/rsyslog.pid'])
        self.search = f'cat {folder}/rsyslog.log.1 {folder}/rsyslog.log | grep -aF " {RARE}["'
        while not os.path.exists(self.socket):
            time.sleep(0.1)

    def pids(self):
        return [self.process.pid]

    def held(self):
        files = [p for p in (pathlib.Path(self.folder, 'rsyslog.log'), pathlib.Path(self.folder, 'rsyslog.log.1'))
                 if p.exists()]
        return sum(len(p.read_bytes().splitlines()) for p in files), sum(p.stat().st_size for p in files)


class Busybox(Receiver):
    """It knows /dev/log alone, so it gets one of its own."""
    name = 'busybox syslogd -C4096'

    def __init__(self, folder):
        super().__init__(folder)
        self.process = subprocess.Popen(['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs none /run/systemd/journal && '
                                         'exec busybox syslogd -n -C4096'])
        self.prefix = ('nsenter', '--target', str(self.process.pid), '--mount')
        self.socket = '/dev/log'
        self.search = f'busybox logread | grep -aF " {RARE}["'
        deadline = time.monotonic() + 20
        while subprocess.run([*self.prefix, 'test', '-S', '/run/systemd/journal/dev-log']).returncode:
            if time.monotonic() > deadline:
                sys.exit('busybox syslogd did not begin')
            time.sleep(0.1)

    def pids(self):
        return [self.process.pid]

    def held(self):
        return len(run('busybox', 'logread').splitlines()), 4 << 20


def main():
    folder = sys.argv[1]
    work = tempfile.mkdtemp(prefix='bench-log-', dir='/run')
    os.chmod(work, 0o755)
    os.link(f'{folder}/bench-log-send', f'{work}/bench-log-send')
    logged, by_journal = Logged(work), ByJournal(work)
    journald, rsyslog, busybox = Journald(work), Rsyslog(work), Busybox(work)
    try:
        for _ in range(ROUNDS):
            for receiver in (logged, by_journal, rsyslog, busybox):
                receiver.intake()
            # Alone: h-logged would read along.
            run('systemctl', 'stop', 'h-logged.socket', 'h-logged.service')
            journald.intake()
            run('systemctl', 'start', 'h-logged.socket', 'h-logged.service')
        rows = [logged.row(), by_journal.row(), rsyslog.row(), busybox.row()]
        run('systemctl', 'stop', 'h-logged.socket', 'h-logged.service')
        rows.insert(2, journald.row())
        run('systemctl', 'start', 'h-logged.socket', 'h-logged.service')
    finally:
        for receiver in (rsyslog, busybox):
            receiver.process.send_signal(signal.SIGTERM)
            receiver.process.wait(30)
    parts = [statistics.median(c[i] for c in by_journal.costs) for i in (0, 1)]
    ours, theirs = rows[0], {r['name']: r for r in rows[2:]}
    ratios = {f'CPU per record, {name} : h-logged': round(r['CPU us/record'] / ours['CPU us/record'], 1)
              for name, r in theirs.items()}
    ratios |= {f'records/s, h-logged : {name}': round(ours['records/s'] / r['records/s'], 1) for name, r in theirs.items()}
    ratios |= {f'query, {name} : h-logged': round(r['query ms'] / ours['query ms'], 1) for name, r in theirs.items()}
    ratios |= {f'query CPU, {name} : h-logged': round(r['query CPU ms'] / ours['query CPU ms'], 1)
               for name, r in theirs.items()}
    ratios['by the journal: h-logged\'s part, us'] = round(parts[0], 2)
    ratios['by the journal: journald\'s part, us'] = round(parts[1], 2)
    json.dump({'rows': rows, 'ratios': ratios}, sys.stdout)


main()
