#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A crowd of users at h-securityd's private socket, as root in the device.

    crowd.py USERS FIRST-UID

Each user opens connections until no more is admitted: some say hello, some ask for what is not theirs, some stay silent;
then opens and leaves many more, in the middle of a message or of an answer. Prints what each has got as a JSON list,
and stays until its standard input ends.
"""
import json
import os
import signal
import socket
import sys

PATH = "/run/hybridos/security/agent.sock"
HELLO = b'{"id":1,"op":"hello","version":1,"service":"crowd","interfaces":["org.hybridos.Security1"]}'
TRIES, VISITS = 80, 250


def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(PATH)  # waits as long as too many others are about to
    s.settimeout(60)
    return s


def ask(s, packet):
    """The answer; b"" when it was sent away."""
    try:
        s.send(packet)
        return s.recv(65536)
    except OSError:
        return b""


def visit(i):
    """Comes and leaves, each time in another way."""
    s = connect()
    try:
        if i % 5 == 1:
            s.send(HELLO[:40])
        elif i % 5 == 2:
            s.send(HELLO)
        elif i % 5 == 3:
            s.send(b"[" * 60000)
        elif i % 5 == 4:
            s.send(HELLO)
            s.send(b'{"id":2,"op":"row","uid":0,"gids":[]}')
            s.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    s.close()


def stay():
    kept, admitted = [], 0
    for i in range(TRIES):
        s = connect()
        answer = ask(s, HELLO)
        admitted += answer != b""
        if answer and i % 3 == 1:
            assert b"AccessDenied" in ask(s, b'{"id":2,"op":"connect","protocol":"http","peer":"192.0.2.1:1"}')
        kept.append(s)
    for i in range(VISITS):
        visit(i)
    return kept, admitted


def user(uid, told, ends):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    try:
        kept, admitted = stay()
        os.write(told, f"{admitted}\n".encode())
        os.read(ends, 1)
        del kept
    finally:
        os._exit(0)


users, first = int(sys.argv[1]), int(sys.argv[2])
reader, told = os.pipe()
ends, holds = os.pipe()
children = []
for n in range(users):
    pid = os.fork()
    if pid == 0:
        os.close(holds)
        signal.alarm(120)
        user(first + n, told, ends)
    children.append(pid)
os.close(told)
os.close(ends)
with os.fdopen(reader) as lines:
    admitted = [int(lines.readline()) for _ in children]
    print(json.dumps(admitted), flush=True)
    sys.stdin.read()
os.close(holds)
for pid in children:
    os.waitpid(pid, 0)
