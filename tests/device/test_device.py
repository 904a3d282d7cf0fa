# SPDX-License-Identifier: Apache-2.0
"""The simulated device itself: the real system, and nothing of the machine below that is not its business."""
import os


def test_every_unit_is_active(device):
    assert device.run('systemctl', 'is-system-running').stdout.strip() == 'running'
    assert device.failed_units() == []
    assert device.run('systemctl', 'is-active', 'hybridos.target').stdout.strip() == 'active'
    listed = device.run('systemctl', 'list-unit-files', '--plain', '--no-legend', 'h-*.service').stdout
    for unit in (line.split()[0] for line in listed.splitlines()):
        if '@' in unit:
            continue
        state = device.run('systemctl', 'show', '-P', 'ActiveState', unit).stdout.strip()
        assert state == 'active', f'{unit} is {state}'


def test_the_bus_is_the_one_asked_for(device, bus):
    unit = device.run('systemctl', 'show', '-P', 'Id', 'dbus.service').stdout.strip()
    assert unit == ('dbus-broker.service' if bus == 'dbus-broker' else 'dbus.service')
    command = device.run('ps', '-eo', 'comm=').stdout.split()
    assert ('dbus-broker' in command) == (bus == 'dbus-broker')


def test_the_machine_below_is_hidden(device):
    for folder in ('/home', '/root', '/srv', '/opt', '/mnt', '/media', '/boot', '/etc/ssh'):
        assert device.run('find', folder, '-type', 'f').stdout == '', folder
    shadow = device.run('cat', '/etc/shadow', check=True).stdout
    assert all(line.split(':')[1] in '*!!*' for line in shadow.splitlines())
    for record in device.run('cat', '/etc/passwd', check=True).stdout.splitlines():
        name, _, uid, *_ = record.split(':')
        assert int(uid) < 1000 or int(uid) > 60000 or name == 'guest', name
    # This very checkout:
    assert device.run('test', '-e', os.path.abspath(__file__)).returncode != 0


def test_units_of_the_machine_below_do_not_run(device):
    listed = device.run('systemctl', 'list-units', '--type=service', '--plain', '--no-legend').stdout
    for unit in (line.split()[0] for line in listed.splitlines()):
        assert unit.startswith(('systemd-', 'h-', 'hybridos-', 'dbus', 'user@', 'user-runtime-dir@', 'modprobe@')), unit


def test_the_network_is_its_own(device):
    assert os.readlink(f'/proc/{device.init}/ns/net') != os.readlink('/proc/self/ns/net')
    here, there = device.addresses()
    assert there in device.run('ip', '-4', 'address', 'show', 'host0', check=True).stdout


def test_a_user_without_rights_exists(device):
    assert device.run('id', '-un', user='guest', check=True).stdout.strip() == 'guest'
    assert device.run('id', '-u', user='60990', check=True).stdout.strip() == '60990'
