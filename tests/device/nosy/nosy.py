#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An app that tries to get at whatever it should not: each request names one attempt, the answer says what became of it.

Its program, its endpoint and its files are as an app's should be: only its curiosity is not."""
import json
import os
import signal
import socket
import sys
import urllib.parse

import dbus
import hybridos

namespace = sys.argv[1]
name = namespace.strip("/")
app = hybridos.App(name)
mine = os.environ["STATE_DIRECTORY"]
attempts = {}

# What another one could find of this one.
with open(f"{mine}/secret", "w", encoding="ascii") as file:
    file.write(name)
with open(f"/tmp/of-{name}", "w", encoding="ascii") as file:
    file.write(name)
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(f"\0nosy-{name}")
abstract.listen()
# dbus-python's connection is made before anything is asked of it, so that its name can be told.
bus = dbus.SystemBus()


def attempt(function):
    attempts[function.__name__] = function
    return function


@attempt
def about():
    return {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "pid": os.getpid(), "state": mine,
            "bus": bus.get_unique_name(), "files": sorted(os.listdir(mine)),
            "capabilities": open("/proc/self/status", encoding="ascii").read().split("CapBnd:")[1].split()[0]}


@attempt
def keep(text):
    with open(f"{mine}/kept", "w", encoding="ascii") as f:
        f.write(text)
    return open(f"{mine}/kept", encoding="ascii").read()


@attempt
def read(path):
    return open(path, "rb").read(64).decode(errors="replace")


@attempt
def look(path):
    return os.listdir(path)


@attempt
def write(path):
    open(path, "ab").close()
    return "written"


@attempt
def become_root():
    os.setuid(0)
    return "root"


@attempt
def signal_to(pid):
    os.kill(int(pid), 0)
    return "there"


@attempt
def connect(host, port):
    with socket.create_connection((host, int(port)), timeout=20) as s:
        return s.recv(64).decode()


@attempt
def connect_abstract(other):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"\0nosy-{other}")
        return "connected"


@attempt
def call(destination, path, interface, member, *arguments):
    return str(bus.call_blocking(destination, path, interface, member, None, arguments, timeout=20))


@attempt
def own(wanted):
    return int(bus.request_name(wanted, dbus.bus.NAME_FLAG_DO_NOT_QUEUE))


@attempt
def fork_many(limit):
    children = []
    try:
        for _ in range(int(limit)):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


@app.endpoint(namespace)
async def asked(request):
    words = json.loads(urllib.parse.unquote(request.query))
    try:
        return {"result": attempts[words[0]](*words[1:])}
    except (OSError, dbus.DBusException) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


app.run()
