# SPDX-License-Identifier: Apache-2.0
"""The build itself: a missing partner stops it, what it installs is hardened and complete, and an install on a
machine where an id is taken fails before anything starts."""
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, ROOT


pytestmark = pytest.mark.once


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the sources as they are committed or about to be."""
    target = tmp_path_factory.mktemp('tree') / 'hybridos'
    shutil.copytree(ROOT, target, symlinks=True,
                    ignore=shutil.ignore_patterns('.git', 'build*', '.device*', '__pycache__', 'node_modules'))
    return target


PARTNERS = ['docs/httpd.md', 'services/securityd/securityd.policy', 'interfaces/org.hybridos.Endpoints1.xml',
            'systemd-units/h-httpd.service', 'tests/endpointd/meson.build']


@pytest.mark.parametrize('partner', PARTNERS)
def test_a_missing_partner_stops_the_configuration(tree, tmp_path, partner):
    (tree / partner).rename(tmp_path / 'away')
    try:
        done = run('meson', 'setup', tmp_path / 'build', tree)
        assert done.returncode != 0 and partner.removeprefix("interfaces/") in done.stdout, done.stdout[-2000:]
    finally:
        (tmp_path / 'away').rename(tree / partner)


def test_another_prefix_is_refused_with_the_reason(tree, tmp_path):
    done = run('meson', 'setup', '--prefix=/opt/hybridos', tmp_path / 'build', tree)
    assert done.returncode != 0 and 'DESTDIR' in done.stdout


def programs():
    plan = json.loads((BUILD / 'meson-info/intro-installed.json').read_text())
    for source, target in sorted(plan.items()):
        if os.path.isfile(source):
            with open(source, 'rb') as f:
                if f.read(4) == b'\x7fELF':
                    yield source, target


def test_programs_are_hardened():
    seen = 0
    for source, target in programs():
        headers = run('readelf', '--wide', '--file-header', '--program-headers', '--dynamic', source).stdout
        symbols = run('readelf', '--wide', '--dyn-syms', source).stdout
        assert 'GNU_RELRO' in headers and re.search(r'BIND_NOW|FLAGS.*NOW', headers), f'{target}: not full RELRO'
        assert re.search(r'Type:\s+DYN', headers), f'{target}: not position independent'
        stack = next(line for line in headers.splitlines() if 'GNU_STACK' in line)
        assert 'RWE' not in stack, f'{target}: executable stack'
        if '/sbin/' in target or '/lib' in target:
            assert '__stack_chk_fail' in symbols, f'{target}: no stack protector'
            assert '_chk@' in symbols, f'{target}: not fortified'
        seen += 1
    assert seen >= 7


@pytest.fixture
def image(tmp_path):
    """As much of a root as the install script needs."""
    root = tmp_path / 'root'
    done = run('meson', 'install', '-C', BUILD, '--no-rebuild', '--quiet', '--destdir', root)
    assert done.returncode == 0, done.stderr
    (root / 'etc').mkdir(exist_ok=True)
    (root / 'etc/passwd').write_text('root:x:0:0:root:/root:/bin/sh\n')
    (root / 'etc/group').write_text('root:x:0:\n')
    return root


def install_users(root):
    return run(root / 'usr/lib/hybridos/h-install-users', f'--root={root}')


def test_users_are_made_with_their_ids_and_again_changes_nothing(image):
    for _ in range(2):
        done = install_users(image)
        assert done.returncode == 0, done.stderr
    passwd = (image / 'etc/passwd').read_text()
    for line in (image / 'usr/lib/sysusers.d/hybridos.conf').read_text().splitlines():
        fields = line.split()
        if fields and fields[0] == 'u':
            assert re.search(f'^{fields[1]}:[^:]*:{fields[2].split(":")[0]}:60600:', passwd, re.M), fields[1]


@pytest.mark.parametrize('table, line, words', [
    ('passwd', 'somebody:x:60602:100::/:/bin/sh\n', ('h-endpointd', '60602', 'somebody')),
    ('passwd', 'h-httpd:x:999:100::/:/bin/sh\n', ('h-httpd', '999', '60604')),
    ('group', 'others:x:60600:\n', ('hybridos', '60600', 'others')),
])
def test_a_taken_id_fails_the_install(image, table, line, words):
    with open(image / 'etc' / table, 'a') as f:
        f.write(line)
    before = (image / 'etc/passwd').read_text()
    done = install_users(image)
    assert done.returncode != 0
    assert all(word in done.stderr for word in words), done.stderr
    assert (image / 'etc/passwd').read_text() == before


def test_an_installed_device_may_be_installed_again(device):
    done = device.run('/usr/lib/hybridos/h-install-users')
    assert done.returncode == 0, done.stderr
    assert 'systemctl enable --now hybridos.target' in done.stdout
    device.run('systemctl', 'enable', '--now', 'hybridos.target', check=True)
    assert device.status('/system/status') == 200
