# SPDX-License-Identifier: Apache-2.0
"""Debian packages: what is missing here, and unpacking what only the device needs."""
import pathlib
import shutil
import subprocess

from problem import Problem

LIST = pathlib.Path(__file__).with_name('packages')


def group(name):
    names, current = [], None
    for line in LIST.read_text().splitlines():
        line = line.split('#')[0].strip()
        if line.startswith('['):
            current = line.strip('[]')
        elif line and current == name:
            names.append(line)
    return names


def missing(names):
    known = subprocess.run(['dpkg-query', '-W', '-f', '${db:Status-Abbrev} ${Package}\n', *names],
                           capture_output=True, text=True).stdout
    present = {line.split()[1] for line in known.splitlines() if line.startswith('ii')}
    return [name for name in names if name not in present]


def _apt(*arguments):
    command = ['apt-get', '-qq', '-y', '-o', 'DPkg::Lock::Timeout=300', *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL': 'C.UTF-8',
                                 'DEBIAN_FRONTEND': 'noninteractive'})
    return result.returncode, (result.stdout + result.stderr).strip()


def _apt_or_problem(what, *arguments):
    code, output = _apt(*arguments)
    if code:  # most often the lists are old or were never fetched
        _apt('update')
        code, output = _apt(*arguments)
    if code:
        raise Problem(f'{what}: {output.splitlines()[-1] if output else "apt-get failed"}')


def install(groups, say):
    wanted = missing([name for g in groups for name in group(g)])
    if not wanted:
        return
    say(f'installing Debian packages: {" ".join(wanted)}')
    _apt_or_problem('cannot install Debian packages', 'install', '--no-install-recommends', *wanted)


def unpack(groups, cache, say):
    """Fetches the packages of these groups that are not installed here, with what they depend on.

    Returns the folder into which they were unpacked, or None if there is nothing to add.
    """
    wanted = missing([name for g in groups for name in group(g)])
    if not wanted:
        return None
    tree = cache / '+'.join(sorted(wanted))
    if tree.is_dir():
        return tree
    say(f'fetching Debian packages for the device only: {" ".join(wanted)}')
    archives = cache / 'archives'
    (archives / 'partial').mkdir(parents=True, exist_ok=True)
    _apt_or_problem('cannot fetch Debian packages', 'install', '--download-only',
                    '--no-install-recommends', '-o', f'Dir::Cache::archives={archives}',
                    '-o', 'APT::Sandbox::User=root', *wanted)
    half = cache / 'unpacking'
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for archive in sorted(archives.glob('*.deb')):
        subprocess.run(['dpkg-deb', '-x', archive, half], check=True)
        archive.unlink()
    for name in ('bin', 'sbin', 'lib', 'lib64'):  # these are links into /usr on the machine below
        if (half / name).is_dir():
            shutil.copytree(half / name, half / 'usr' / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(half / name)
    half.rename(tree)
    return tree
