# SPDX-License-Identifier: Apache-2.0
"""What of a developer's program goes into the device, and how it is started there."""
import io
import os
import pathlib
import pwd
import re
import tarfile

from problem import Problem

ROOT = pathlib.Path(__file__).resolve().parents[2]
BYTES_MAX, FILES_MAX = 64 << 20, 5000
STARTED_BY = {'.py': 'python3', '.js': 'node', '.mjs': 'node', '.cjs': 'node', '.sh': 'sh'}
STARTS = [f'{name}{suffix}' for name in ('main', 'app', 'index', '__main__') for suffix in ('', '.py', '.js', '.sh')]
INTERPRETER = re.compile(r'(python|node|sh|bash|dash|perl|ruby|lua|php)[0-9.]*$')
# What the device has from this machine anyhow.
SYSTEM = ('/usr/', '/bin/', '/sbin/', '/lib/')

RULE = f'''\
PROGRAM is a file or a folder of this machine. With a file goes the folder in which it lies, so that modules and data beside
it are found; a folder goes whole, and its {', '.join(STARTS[:4])}, … is started (main, app, index or __main__). The
copy is read-only, the program starts in it, and hidden names and __pycache__ stay behind. A file goes alone with --alone,
when its folder holds more than {BYTES_MAX >> 20} MiB or {FILES_MAX:,} files, and when that is a place for everything: a home directory, /tmp,
/ or the top of this checkout. --with FOLDER names a folder above it instead.

A program starts by its first line (#!), as machine code, or by its suffix: {', '.join(f'{s} {i}' for s, i in STARTED_BY.items())}.
An interpreter of the device may stand before it, and words after it are its arguments: ./hybridos app run --endpoint
/hello -- python3 -O ./hello.py --fast. Libraries are those of the device: Python and Node find the SDK, C programs
libhybridos.'''


def _is_for_everything(folder):
    homes = {os.path.realpath(record.pw_dir) for record in pwd.getpwall()}
    return str(folder) in {'/', '/tmp', '/var/tmp', '/home', str(ROOT), *homes} or f'{folder}/'.startswith(SYSTEM)


class Program:
    """`words` start it inside the device, with {folder} where the copy will be."""

    def __init__(self, command, with_folder=None, alone=False):
        self.files, self.bytes, self.note = {}, 0, None
        at = self._find(command)
        self.name = os.path.basename(os.path.abspath(command[at or 0]))
        if at is None:
            if with_folder:
                self._take_folder(pathlib.Path(with_folder).resolve())
            self.words = list(command)
            return
        source = pathlib.Path(os.path.abspath(command[at]))
        if source.is_dir():
            source = self._start_of(source)
            with_folder = with_folder or source.parent
        folder = self._choose_folder(source, with_folder, alone)
        name = source.relative_to(folder) if folder else pathlib.Path(source.name)
        self._take(source, str(name), program=True)
        starter = [] if at else self._starter(source)
        self.words = [*command[:at], *starter, f'{{folder}}/{name}', *command[at + 1:]]

    @staticmethod
    def _find(command):
        """Which word is the program, if it is one of this machine."""
        there = os.path.exists(command[0])
        if there and not os.path.abspath(command[0]).startswith(SYSTEM):
            return 0
        if '/' in command[0] and not there:
            raise Problem(f'there is no {command[0]}')
        words = command[1:] if INTERPRETER.match(os.path.basename(command[0])) else []
        for i, word in enumerate(words, 1):
            if word in ('-c', '-m', '-e'):
                break
            if os.path.isfile(word):
                return i
            if pathlib.Path(word).suffix in STARTED_BY:
                raise Problem(f'there is no {word}')
        return None

    @staticmethod
    def _start_of(folder):
        for name in [*STARTS, folder.name, *(folder.name + suffix for suffix in STARTED_BY)]:
            if (folder / name).is_file():
                return folder / name
        raise Problem(f'nothing in {folder} tells where to start: it needs a main, app, index or __main__, with or '
                      'without .py, .js or .sh')

    def _choose_folder(self, source, with_folder, alone):
        if alone:
            return None
        if with_folder:
            folder = pathlib.Path(os.path.abspath(with_folder))
            if not source.is_relative_to(folder):
                raise Problem(f'{source} does not lie in {folder}')
            self._take_folder(folder)
            return folder
        if _is_for_everything(source.parent):
            why = 'lies in a place for everything'
        else:
            try:
                self._take_folder(source.parent)
                return source.parent
            except Problem as problem:
                why = str(problem)
        self.files, self.bytes = {}, 0
        self.note = f'{source.name} goes into the device alone ({why})'
        return None

    def _take_folder(self, folder):
        if not folder.is_dir():
            raise Problem(f'there is no folder {folder}')
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(f for f in folders if not f.startswith('.') and f != '__pycache__')
            for name in sorted(files + [f for f in folders if os.path.islink(os.path.join(place, f))]):
                path = pathlib.Path(place, name)
                if not name.startswith('.'):
                    self._take(path, str(path.relative_to(folder)), inside=folder)

    def _take(self, path, name, inside=None, program=False):
        if path.is_symlink() and inside and self._stays_inside(path, inside):
            self.files[name] = (path, None)
            return
        if not path.is_file():  # gone meanwhile, a socket, or a link to a folder elsewhere
            return
        status = path.stat()
        if name not in self.files:
            self.bytes += status.st_size
        self.files[name] = (path, 0o555 if program or status.st_mode & 0o111 else 0o444)
        if self.bytes > BYTES_MAX or len(self.files) > FILES_MAX:
            raise Problem(f'{inside or path} holds more than {BYTES_MAX >> 20} MiB or {FILES_MAX:,} files')

    @staticmethod
    def _stays_inside(link, folder):
        target = os.readlink(link)
        return not os.path.isabs(target) and \
            pathlib.Path(os.path.normpath(link.parent / target)).is_relative_to(folder)

    @staticmethod
    def _starter(source):
        with open(source, 'rb') as f:
            first = f.read(4)
        if first.startswith((b'#!', b'\x7fELF')):
            return []
        if source.suffix not in STARTED_BY:
            raise Problem(f'{source} cannot be started: it has no #! line, is no machine code, and its name ends with none '
                          f'of {" ".join(STARTED_BY)}')
        return [STARTED_BY[source.suffix]]

    def needs(self):
        """The programs of the device without which this cannot start."""
        first = self.words[0]
        if not first.startswith('{folder}/'):
            return [first]
        path = self.files[first.removeprefix('{folder}/')][0]
        with open(path, 'rb') as f:
            line = f.readline(256)
        words = line[2:].decode(errors='replace').split() if line.startswith(b'#!') else []
        if words and os.path.basename(words[0]) == 'env':
            words = words[:1] + [w for w in words[1:] if not w.startswith('-') and '=' not in w][:1]
        return words if words and os.path.basename(words[0]) == 'env' else words[:1]

    def pack(self, stream, uid):
        """Everything as a tar stream, for nobody but `uid`."""
        with tarfile.open(fileobj=stream, mode='w|', format=tarfile.GNU_FORMAT) as tar:
            def add(name, kind, mode, **more):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode, entry.uid, entry.gid = kind, mode, uid, 0
                data = more.pop('data', b'')
                for key, value in more.items():
                    setattr(entry, key, value)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            add('.', tarfile.DIRTYPE, 0o500)
            folders = set()
            for name, (path, mode) in sorted(self.files.items()):
                for parent in reversed(pathlib.PurePath(name).parents[:-1]):
                    if parent not in folders:
                        folders.add(parent)
                        add(str(parent), tarfile.DIRTYPE, 0o500)
                if mode is None:
                    add(name, tarfile.SYMTYPE, 0o777, linkname=os.readlink(path))
                else:
                    add(name, tarfile.REGTYPE, mode, data=path.read_bytes(), mtime=int(path.stat().st_mtime))
