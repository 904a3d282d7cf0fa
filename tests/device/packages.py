# SPDX-License-Identifier: Apache-2.0
"""Debian packages: what is missing here, and unpacking what only the device needs; and the few test peers that
come from npm and PyPI alone, pinned by their locks."""
import hashlib
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


def _fetched(name, lock, cache, say, install):
    """The folder with what `lock` pins: filled by install(folder) when the lock has not been seen before."""
    tree = cache / f'{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}'
    if tree.is_dir():
        return tree
    say(f'fetching packages from {name} for the device only')
    cache.mkdir(parents=True, exist_ok=True)
    half = cache / f'{name}-unpacking'
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    try:
        done = install(half)
    except OSError as error:
        raise Problem(f'cannot fetch packages from {name}: {error}')
    if done.returncode:
        raise Problem(f'cannot fetch packages from {name}: {(done.stdout + done.stderr).strip()[-400:]}')
    half.rename(tree)
    return tree


def npm(cache, say):
    """A folder whose node_modules has what npm/package-lock.json pins."""
    def install(folder):
        for file in LIST.with_name('npm').iterdir():
            shutil.copy(file, folder)
        return subprocess.run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], cwd=folder,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if not shutil.which('npm'):
        _apt_or_problem('cannot install npm', 'install', '--no-install-recommends', 'npm')
    return _fetched('npm', LIST.with_name('npm') / 'package-lock.json', cache, say, install)


def pypi(cache, say):
    """A folder for PYTHONPATH with what pypi-lock.txt pins."""
    lock = LIST.with_name('pypi-lock.txt')
    return _fetched('PyPI', lock, cache, say, lambda folder: subprocess.run(
        ['/usr/bin/python3', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps',
         '--only-binary', ':all:', '--require-hashes', '--requirement', lock, '--target', folder],
        stdin=subprocess.DEVNULL, capture_output=True, text=True))
