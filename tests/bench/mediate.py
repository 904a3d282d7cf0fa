# SPDX-License-Identifier: Apache-2.0
"""What mediation costs: the filter alone, in a device beside polkit, and with very many rules."""
import pathlib
import time

import bench
import simulated

INTERFACE = '''<node><interface name="com.example.Bench1">
 <method name="Call"><arg name="measure" type="b" direction="in"/><arg name="nanoseconds" type="d" direction="out"/>
  <annotation name="org.hybridos.Permission" value="bench.call"/></method>
</interface></node>
'''
HEAD = '''<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
'''
BUS_FILE = HEAD + '''<busconfig>
 <policy user="root"><allow own_prefix="com.example"/></policy>
 <policy context="default"><allow send_interface="com.example.Bench1"/></policy>
</busconfig>
'''
ACTION = '''<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/PolicyKit/1/policyconfig.dtd">
<policyconfig><action id="com.example.bench.call"><description>A call</description><message>A call</message>
 <defaults><allow_any>yes</allow_any><allow_inactive>yes</allow_inactive><allow_active>yes</allow_active></defaults>
</action></policyconfig>
'''
# What layer 2 is measured with, and layer 1: a rule there is one allow for one user.
RULES, SUBJECTS, RULES_A_FILE = 100_000, 1_000, 5_000
USERS, SERVICES = 100, (0, 10, 40, 100)
CALLER, FIRST_USER = 60980, 60800
RELOAD_CONFIG = ('busctl', 'call', 'org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'ReloadConfig')


def write(d, path, text):
    d.run('mkdir', '-p', str(pathlib.Path(path).parent), check=True)
    d.run('tee', path, input=text, check=True)


def took(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start


def pss(d, pid):
    return bench.sample(d, pid)[0]


def main_pid(d, unit):
    return d.run('systemctl', 'show', '-P', 'MainPID', unit, check=True).stdout.strip()


def in_device(build, say):
    """With polkit, the real agent and the real bus; then the same with RULES rules in force."""
    d = bench.started(build, say, ['only-polkit'])
    try:
        program = bench.put(d, bench.program(build, 'tests/bench/mediation/bench-mediation'))
        d.run('systemd-sysusers', check=True)
        write(d, '/etc/dbus-1/system.d/bench.conf', BUS_FILE)
        write(d, '/usr/share/polkit-1/actions/com.example.bench.policy', ACTION)
        write(d, '/etc/hybridos/interfaces/com.example.Bench1.xml', INTERFACE)
        d.run('useradd', '--no-create-home', '--uid', str(CALLER), 'bench-caller', check=True)
        d.run(*RELOAD_CONFIG, check=True)
        d.run('h-policy', 'reload', check=True)
        d.run('h-policy', 'grant', '--id', 'bench', 'unix:bench-caller', 'bench.call', check=True)
        d.run('systemctl', 'unmask', 'polkit.service', check=True)
        d.run('systemctl', 'restart', 'polkit.service', check=True)
        few = bench.printed_json(d.command([program, str(CALLER)]))
        agent = main_pid(d, 'h-securityd.service')
        sizes = [pss(d, agent)]
        for n in range(0, RULES, RULES_A_FILE):
            write(d, f'/etc/hybridos/policy.d/bench-{n}.policy', ''.join(
                f'[grant bench-{i}]\nTo = user:u{i % SUBJECTS}\nPermission = bench.p{i // SUBJECTS}\n'
                for i in range(n, n + RULES_A_FILE)))
        reload = took(lambda: d.run('h-policy', 'reload', check=True))
        many = bench.printed_json(d.command([program, str(CALLER)]))
        sizes.append(pss(d, agent))
    finally:
        bench.ended(d)
    return few, many, reload, sizes


def layer1(build, say, bus):
    """What the bus pays for its part: rules that name users and other services."""
    d = bench.started(build, say, bus=bus)
    rows = []
    try:
        for i in range(USERS):
            d.run('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--uid', str(FIRST_USER + i),
                  f'bench-{i}', check=True)
        pid = d.run('sh', '-c', 'for p in $(pgrep -x "dbus-daemon|dbus-broker"); do [ "$(id -un $(stat -c %u /proc/$p))" = '
                    'messagebus ] && echo $p; done | head -n 1', check=True).stdout.strip()
        for services in SERVICES:
            for i in range(services):
                name = f'com.example.Service{i}'
                write(d, f'/etc/hybridos/interfaces/{name}.xml',
                      f'<node><interface name="{name}"><annotation name="org.hybridos.Destination" value="{name}"/>'
                      f'<method name="Call"><annotation name="org.hybridos.Permission" value="service{i}.call"/></method>'
                      '</interface></node>')
            write(d, '/etc/hybridos/policy.d/bench.policy', ''.join(
                f'[grant bench-{i}]\nTo = {" ".join(f"unix:bench-{u}" for u in range(USERS))}\nPermission = service{i}.call\n'
                for i in range(services)))
            seconds = took(lambda: d.run('h-policy', 'reload', check=True))
            rows.append({'name': f'layer 1, {services * USERS} allows ({bus})', 'value': '', 'reload s': round(seconds, 2),
                         'bus PSS KiB': pss(d, pid)})
    finally:
        bench.ended(d)
    return rows


def run(build, say):
    alone = bench.printed_json([bench.program(build, 'tests/bench/mediation/bench-mediation')])
    few, many, reload, sizes = in_device(build, say)
    rows = [{'name': name, 'value': value, 'device': few.get(name, ''), f'{RULES} rules': many.get(name, '')}
            for name, value in {**dict.fromkeys(few, ''), **alone}.items()]
    rows += [{'name': 'h-securityd PSS KiB', 'value': '', 'device': sizes[0], f'{RULES} rules': sizes[1]},
             {'name': 'h-policy reload s', 'value': '', f'{RULES} rules': round(reload, 2)}]
    for bus in simulated.BUSES:
        rows += layer1(build, say, bus)
    return {'rows': rows, 'ratios': {
        'decision : plain call, in the device, percent (budget <= 2)': few['decision_of_plain_percent'],
        'polkit first : filtered call (expected >= 3)': few['polkit_to_filtered'],
        f'decision with {RULES} rules : with the shipped ones': round(many['decision_ns'] / few['decision_ns'], 2)}}
