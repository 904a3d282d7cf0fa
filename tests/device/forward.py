# SPDX-License-Identifier: Apache-2.0
"""Carries TCP and UDP from ports of this machine to ports of the device's own loopback.

The listening sockets are made here; then the process moves into the device's network namespace,
so that every socket made later belongs there. It ends when the device ends: it would keep the
namespace alive otherwise.

usage: forward.py PID-OF-THE-DEVICE READY-FD (tcp|udp):HOST:PORT:DEVICE-PORT...
"""
import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
CHUNK = 65536
UDP_PEERS = 1024
UDP_IDLE = 60


def listen(kind, host, port):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == 'tcp':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    if kind == 'tcp':
        s.listen(128)
    s.setblocking(False)
    return s


def enter_network(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f'/proc/{pid}/ns/net', os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), 'setns')
    os.close(fd)


async def pump(reader, writer):
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


def tcp_handler(port):
    async def handle(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection('127.0.0.1', port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()
    return handle


class UdpFront(asyncio.DatagramProtocol):
    """One socket in the device for each peer, so that it can tell them apart."""

    def __init__(self, port):
        self.port, self.peers = port, {}

    def connection_made(self, transport):
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.loop.call_later(UDP_IDLE, self.forget_idle)

    def forget_idle(self):
        limit = self.loop.time() - UDP_IDLE
        for peer in [p for p, (_, used) in self.peers.items() if used < limit]:
            self.peers.pop(peer)[0].close()
        self.loop.call_later(UDP_IDLE, self.forget_idle)

    def datagram_received(self, data, peer):
        if peer in self.peers:
            back = self.peers[peer][0]
        elif len(self.peers) >= UDP_PEERS:
            return
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setblocking(False)
            s.connect(('127.0.0.1', self.port))
            back = UdpBack(self.loop, s, self.transport, peer)
        self.peers[peer] = (back, self.loop.time())
        back.send(data)


class UdpBack:
    """A connected datagram socket read by the loop; made without awaiting."""

    def __init__(self, loop, s, front, peer):
        self.loop, self.socket, self.front, self.peer = loop, s, front, peer
        loop.add_reader(s, self.readable)

    def readable(self):
        try:
            self.front.sendto(self.socket.recv(CHUNK), self.peer)
        except OSError:
            pass

    def send(self, data):
        try:
            self.socket.send(data)
        except OSError:
            pass

    def close(self):
        self.loop.remove_reader(self.socket)
        self.socket.close()


async def main():
    pid, ready, rules = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    device = os.pidfd_open(pid)
    sockets = []
    for rule in rules:
        kind, rest = rule.split(':', 1)
        host, port, device_port = rest.rsplit(':', 2)
        sockets.append((kind, listen(kind, host, int(port)), int(device_port)))
    enter_network(pid)
    loop = asyncio.get_running_loop()
    for kind, s, port in sockets:
        if kind == 'tcp':
            await asyncio.start_server(tcp_handler(port), sock=s)
        else:
            await loop.create_datagram_endpoint(lambda port=port: UdpFront(port), sock=s)
    gone = loop.create_future()
    loop.add_reader(device, lambda: gone.done() or gone.set_result(None))
    os.write(ready, b'ready\n')
    os.close(ready)
    await gone


if __name__ == '__main__':
    asyncio.run(main())
