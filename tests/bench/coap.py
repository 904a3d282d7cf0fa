# SPDX-License-Identifier: Apache-2.0
"""CoAP through a responder, beside libcoap's own example server, which answers in process: the same load on
both, in turns, in one device. And a thousand observers."""
import json
import os
import re
import statistics
import subprocess

from problem import Problem

SOCKETS, DEPTH, ROUNDS, SECONDS = 8, 8, 5, 4
OBSERVERS, OBSERVED_SECONDS = 1000, 60
REFERENCE, PORT = '/usr/bin/coap-server-notls', '56900'
RESOURCE = 'bench'  # the responder's namespace, and what libcoap's server is given to say
SIZE = 200


def loaded(d, *arguments):
    """What the load generator tells; every answer has to be the one that was expected."""
    done = d.run('/run/hybridos-bench/bench-coap', *map(str, arguments), timeout=300)
    if done.returncode:
        raise Problem(f'bench-coap {" ".join(map(str, arguments))}: {done.stdout}{done.stderr}')
    return json.loads(done.stdout)


def pss(d, pid):
    text = d.run('cat', f'/proc/{pid}/smaps_rollup', check=True).stdout
    return int(re.search(r'^Pss:\s+(\d+)', text, re.M)[1])


def cpu(d, pids):
    """Seconds that these processes have used."""
    ticks = 0
    for pid in pids:
        fields = d.run('cat', f'/proc/{pid}/stat', check=True).stdout.rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def requests(d, pids, say):
    """Both servers in turns, so that drift of the machine meets both alike."""
    ports = {'h-coapd, channel': '5683', 'libcoap coap-server, in process': PORT}
    runs = {name: [] for name in ports}
    for i in range(ROUNDS):
        say(f'round {i + 1} of {ROUNDS}')
        for name, port in ports.items():
            before = cpu(d, pids[name])
            run = loaded(d, 'get', '127.0.0.1', port, RESOURCE, SIZE, SOCKETS, DEPTH, SECONDS)
            run['cpu'] = 1e6 * (cpu(d, pids[name]) - before) / (run['requests'] * SECONDS)
            runs[name].append(run)
    median = lambda name, key: statistics.median(run[key] for run in runs[name])
    rows = [{'name': name, 'requests/s': round(median(name, 'requests')), 'p50 us': round(median(name, 'p50')),
             'p99 us': round(median(name, 'p99')), 'CPU us/request': round(median(name, 'cpu'), 1), 'lost': sum(run['lost'] for run in runs[name]),
             "load's own CPUs": round(median(name, 'own cpu'), 2)} for name in ports]
    return rows, {'h-coapd : libcoap in process, requests/s (budget >= 0.7)':
                  round(rows[0]['requests/s'] / rows[1]['requests/s'], 2)}


def observers(d, pid, say):
    before = pss(d, pid)
    load = d.popen('/run/hybridos-bench/bench-coap', 'observe', '127.0.0.1', '5683', 'bench-ticker', str(OBSERVERS),
                   str(OBSERVED_SECONDS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = load.stderr.readline()
        if said.strip() != 'observing':
            raise Problem(f'the observers: {said}')
        say(f'{OBSERVERS} observers for {OBSERVED_SECONDS} s')
        first = pss(d, pid)
        out, _ = load.communicate(timeout=OBSERVED_SECONDS + 60)
        told, last = json.loads(out), pss(d, pid)
    finally:
        load.terminate()
    return [{'name': f'{OBSERVERS} observers, told once a second', 'notifications': told['notifications'],
             'fewest of one': told['fewest of one'], 'seconds': OBSERVED_SECONDS, 'PSS KiB before': before,
             'PSS KiB at first': first, 'PSS KiB at last': last}]


def measure(d, pid, app, reference, say):
    """`pid` is h-coapd's; the responder and libcoap's server are `app` and `reference`."""
    d.run('sh', '-c', f'head -c {SIZE} /dev/zero | tr "\\0" x > /run/bench-body && '
          f'coap-client-notls -m put -f /run/bench-body coap://127.0.0.1:{PORT}/{RESOURCE}', check=True)
    rows, ratios = requests(d, {'h-coapd, channel': [pid, app], 'libcoap coap-server, in process': [reference]}, say)
    return {'rows': rows + observers(d, pid, say), 'ratios': ratios}
