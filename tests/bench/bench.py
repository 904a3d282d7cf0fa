# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: each a function that gives rows and ratios. ./hybridos bench prints them and writes
build/bench.json. Figures are for reading side by side within one run; nothing here passes or fails."""
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import time

import packages
import simulated
from problem import Problem

HERE = pathlib.Path(__file__).resolve().parent
BOOTS = 5
IDLE_SECONDS = 30
UNITS = 'h-*.service'


def started(build, say, extra=(), bus='dbus-daemon'):
    """A device of its own, with what only the benchmark's peers need."""
    d = simulated.Device('bench', say)
    d.stop(quick=True)
    d.wipe()
    tree = packages.unpack(list(extra), d.cache, say) if extra else None
    if tree:
        d.upper.mkdir(parents=True)
        shutil.copytree(tree, d.upper, symlinks=True, dirs_exist_ok=True)
    d.start(build, bus, publish='none')
    d.wait_healthy()
    return d


def ended(d):
    d.stop(quick=True)
    d.wipe()


def put(d, source):
    folder = pathlib.Path(f'/proc/{d.init}/root/run/hybridos-bench')
    folder.mkdir(exist_ok=True)
    shutil.copy(source, folder)
    return f'/run/hybridos-bench/{pathlib.Path(source).name}'


def program(build, name):
    path = pathlib.Path(build) / name
    if not path.exists():
        raise Problem(f'{path} was not built')
    return path


def printed_json(command):
    result = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, timeout=600)
    if result.returncode:
        raise Problem(f'{command[0]} ended with {result.returncode}')
    return json.loads(result.stdout)


BENCH_APP = 'bench-app'
BENCH_BUS_FILE = f'''<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy user="{BENCH_APP}"><allow send_interface="org.hybridos.Bench1"/></policy></busconfig>'''


def bench_app(d):
    """A user as apps have it, who may register and whose responders may be called without a server."""
    d.run('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--uid', '60990', BENCH_APP, check=True)
    d.run('h-policy', 'grant', '--id', 'bench', f'unix:{BENCH_APP}', 'endpoint.register', 'endpoint.register:/bench',
          'endpoint.register:/bench-bus', check=True)
    d.run('tee', '/etc/dbus-1/system.d/bench.conf', input=BENCH_BUS_FILE, check=True)
    d.run('busctl', 'call', 'org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'ReloadConfig',
          check=True)


def on_bus(build, say, bus, cases=()):
    d = started(build, say, ['only-bench'], bus)
    apps = []
    try:
        for name in ('bench-fcgi', 'bench-call', 'bench-channel', 'bench-bus'):
            put(d, program(build, f'tests/bench/responder/{name}'))
        script = put(d, HERE / 'responder/responder.py')
        bench_app(d)
        for name in ('bench-channel', 'bench-bus'):
            apps.append(d.popen(f'/run/hybridos-bench/{name}', user=BENCH_APP, stdout=subprocess.PIPE, text=True))
        result = d.run('python3', script, '/run/hybridos-bench', apps[-1].stdout.readline().strip(), *cases, timeout=1200)
        if result.returncode:
            raise Problem(f'the benchmark failed: {(result.stdout + result.stderr)[-2000:]}')
        return json.loads(result.stdout)
    finally:
        for app in apps:
            app.terminate()
        ended(d)


def responder(build, say):
    """Requests a second through a responder, against nginx and lighttpd with FastCGI."""
    result = on_bus(build, say, simulated.BUSES[0])
    for bus in simulated.BUSES[1:]:
        other = on_bus(build, say, bus, ['h-httpd, bus', 'nginx + FastCGI, default', 'the bus alone'])
        result['rows'] += [row | {'name': f'{row["name"]} ({bus})'} for row in other['rows']]
        result['ratios'] |= {f'{what} ({bus})': ratio for what, ratio in other['ratios'].items()}
    return result


def with_coap(build, say, measure):
    """What `measure` tells of a device with the responders and libcoap's own server: of (device, coap, pids, say)."""
    import coap as coap_bench
    d = started(build, say)
    apps = []
    try:
        put(d, program(build, 'tests/bench/coap/bench-coap'))
        for name in ('tests/bench/responder/bench-channel', 'tests/bench/coap/bench-ticker'):
            put(d, program(build, name))
        bench_app(d)
        d.run('h-policy', 'grant', '--id', 'bench-coap', f'unix:{BENCH_APP}', 'endpoint.register:/bench-ticker', check=True)
        apps.append(d.popen('/run/hybridos-bench/bench-channel', user=BENCH_APP))
        apps.append(d.popen('/run/hybridos-bench/bench-ticker', '/bench-ticker', user=BENCH_APP))
        apps.append(d.popen(coap_bench.REFERENCE, '-p', coap_bench.PORT, '-d', '10', stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL))
        for path in ('/bench', '/bench-ticker'):
            simulated.wait_until(lambda: not d.run('coap-client-notls', f'coap://127.0.0.1{path}').stderr, 60, path)
        pid = d.run('systemctl', 'show', '-P', 'MainPID', 'h-coapd', check=True).stdout.strip()
        named = lambda name: d.run('pidof', name, check=True).stdout.strip()
        return measure(coap_bench, d, pid, lambda: (named('bench-channel'), named('coap-server-notls')))
    finally:
        for app in apps:
            app.terminate()
        ended(d)


def coap(build, say):
    """Requests a second and p99 over CoAP, beside libcoap's own server in process; 1,000 observers."""
    return with_coap(build, say, lambda bench, d, pid, others: bench.measure(d, pid, *others(), say))


def observers(build, say):
    """1,000 observers over CoAP alone, without the requests."""
    return with_coap(build, say, lambda bench, d, pid, others: {'rows': bench.observers(d, pid, say)})


def daemons(d):
    listed = d.run('systemctl', 'list-units', '--state=active', '--plain', '--no-legend', UNITS, check=True).stdout
    for unit in sorted(line.split()[0] for line in listed.splitlines()):
        yield unit, d.run('systemctl', 'show', '-P', 'MainPID', unit, check=True).stdout.strip()


def sample(d, pid):
    """(PSS in KiB, voluntary context switches, bytes written to disk) of a process of the device."""
    text = d.run('sh', '-c', f'cat /proc/{pid}/smaps_rollup /proc/{pid}/status /proc/{pid}/io', check=True).stdout
    number = lambda name: int(re.search(rf'^{name}:\s+(\d+)', text, re.M)[1])
    return number('Pss'), number('voluntary_ctxt_switches'), number('write_bytes')


def idle(build, say):
    """Memory, wakeups and flash writes of each daemon while nobody asks anything."""
    d = started(build, say)
    try:
        for _ in range(20):  # everything has been used once
            d.run('curl', '-ks', 'https://localhost:8443/system/status')
        say(f'idle for {IDLE_SECONDS} s')
        time.sleep(5)
        before = {unit: (pid, sample(d, pid)) for unit, pid in daemons(d)}
        time.sleep(IDLE_SECONDS)
        rows = []
        for unit, (pid, first) in before.items():
            last = sample(d, pid)
            rows.append({'name': unit, 'PSS KiB': last[0],
                         'wakeups/s': round((last[1] - first[1]) / IDLE_SECONDS, 2),
                         'bytes written': last[2] - first[2]})
        total = sum(r['PSS KiB'] for r in rows)
        return {'rows': rows, 'ratios': {'PSS : 32 MiB (budget <= 1)': round(total / 32768, 2)}}
    finally:
        ended(d)


def boot(build, say):
    """From the bus being ready to hybridos.target being reached."""
    times = []
    for _ in range(BOOTS):
        d = started(build, say)
        try:
            stamps = d.run('systemctl', 'show', '-P', 'ActiveEnterTimestampMonotonic', 'dbus.service',
                           'hybridos.target', check=True).stdout.split()
            times.append((int(stamps[1]) - int(stamps[0])) / 1e6)
        finally:
            ended(d)
    return {'rows': [{'name': 'bus ready to hybridos.target, s', 'median': round(statistics.median(times), 3),
                      'min': round(min(times), 3), 'max': round(max(times), 3)}],
            'ratios': {'median : 1 s (budget <= 1)': round(statistics.median(times), 2)}}


def size(build, say):
    """What is installed: our stripped files, and the libraries that each daemon pulls in."""
    folder = pathlib.Path(build) / 'bench-size'
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(['meson', 'install', '-C', build, '--no-rebuild', '--quiet', '--strip', '--destdir',
                    folder.resolve()], check=True, stdout=subprocess.DEVNULL)
    rows = []
    try:
        libraries = {p.name for p in folder.rglob('*.so*')}
        for path in sorted([*folder.glob('usr/sbin/h-*'), *folder.glob('usr/bin/h-*')]):
            linked = subprocess.run(['ldd', path], capture_output=True, text=True).stdout
            pulled = [m[1] for m in re.finditer(r'=> (/\S+)', linked) if os.path.basename(m[1]) not in libraries]
            rows.append({'name': path.name, 'KiB': round(path.stat().st_size / 1024),
                         'libraries KiB': round(sum(os.stat(p).st_size for p in pulled) / 1024)})
        total = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file() and not p.is_symlink())
        rows.append({'name': 'everything we install', 'KiB': round(total / 1024), 'libraries KiB': ''})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {'rows': rows, 'ratios': {}}


def mediation(build, say):
    """The cost of the filter on a hit and on a miss, beside asking at every call and beside polkit; with many rules."""
    import mediate
    return mediate.run(build, say)


LOG_CONFIG = '[log]\nRateBurst = 0\n'
JOURNAL_CONFIG = '[Journal]\nRateLimitIntervalSec=0\n'


def log(build, say):
    """Taking in, keeping and finding records: h-logged against journald, rsyslog and busybox syslogd."""
    d = started(build, say, ['only-bench'])
    try:
        put(d, program(build, 'tests/bench/log/bench-log-send'))
        script = put(d, HERE / 'log/log.py')
        for path, text in (('/etc/hybridos/logged.conf.d/bench.conf', LOG_CONFIG),
                           ('/etc/systemd/journald.conf.d/90-bench.conf', JOURNAL_CONFIG)):
            d.run('mkdir', '-p', os.path.dirname(path), check=True)
            d.run('tee', path, input=text, check=True)
        d.run('systemctl', 'restart', 'systemd-journald.service', 'h-logged.service', check=True)
        result = d.run('python3', script, '/run/hybridos-bench', timeout=1800)
        if result.returncode:
            raise Problem(f'the benchmark failed: {(result.stdout + result.stderr)[-2000:]}')
        return json.loads(result.stdout)
    finally:
        ended(d)


BENCHES = {f.__name__: f for f in (mediation, responder, coap, observers, log, idle, boot, size)}
PARTS = {'observers'}  # of another


def table(result):
    rows = result['rows']
    columns = list(dict.fromkeys(c for r in rows for c in r))
    widths = [max(len(str(x)) for x in [c, *(r.get(c, '') for r in rows)]) for c in columns]
    lines = ['  '.join(c.ljust(w) for c, w in zip(columns, widths))]
    for r in rows:
        lines.append('  '.join(str(r.get(c, '')).ljust(w) if i == 0 else str(r.get(c, '')).rjust(w)
                               for i, (c, w) in enumerate(zip(columns, widths))))
    lines += [f'  {name}: {value}' for name, value in result.get('ratios', {}).items()]
    return '\n'.join(lines)


def run(names, build, say):
    """Runs these benchmarks (none: all); returns how many failed."""
    for name in names:
        if name not in BENCHES:
            raise Problem(f'there is no benchmark {name}; there are: {", ".join(BENCHES)}')
    results, failed = {}, 0
    for name in names or [name for name in BENCHES if name not in PARTS]:
        print(f'\n== {name}: {BENCHES[name].__doc__.strip()}', flush=True)
        try:
            results[name] = BENCHES[name](build, say)
            print(table(results[name]), flush=True)
        except Problem as problem:
            say(f'{name}: {problem}')
            results[name] = {'error': str(problem)}
            failed += 1
    target = pathlib.Path(build) / 'bench.json'
    target.write_text(json.dumps(results, indent=1) + '\n')
    print(f'\nwritten to {target}')
    return failed
