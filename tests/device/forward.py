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


# Where a datagram came to, since an answer from another address of this machine would be a stranger's: level, type and size
# of what is said about it (IP_PKTINFO, IPV6_PKTINFO), and the option that asks for it.
ARRIVAL = {socket.AF_INET: (socket.IPPROTO_IP, 8, 12, 8), socket.AF_INET6: (socket.IPPROTO_IPV6, 50, 20, 49)}


class UdpFront:
    """One socket in the device for each peer, so that it can tell them apart."""

    def __init__(self, loop, s, port):
        self.loop, self.socket, self.port, self.peers = loop, s, port, {}
        self.level, self.kind, self.size, wanted = ARRIVAL[s.family]
        s.setsockopt(self.level, wanted, 1)
        loop.add_reader(s, self.readable)
        loop.call_later(UDP_IDLE, self.forget_idle)

    def forget_idle(self):
        limit = self.loop.time() - UDP_IDLE
        for peer in [p for p, back in self.peers.items() if back.used < limit]:
            self.peers.pop(peer).close()
        self.loop.call_later(UDP_IDLE, self.forget_idle)

    def readable(self):
        try:
            data, control, _, peer = self.socket.recvmsg(CHUNK, socket.CMSG_SPACE(self.size))
        except OSError:
            return
        arrival = next((value for level, kind, value in control if (level, kind) == (self.level, self.kind)), b'')
        if self.socket.family == socket.AF_INET and arrival:  # as source: the address that the datagram was sent to
            arrival = bytes(4) + arrival[8:12] + bytes(4)
        key = (peer, arrival)
        if key not in self.peers:
            if len(self.peers) >= UDP_PEERS:
                return
            self.peers[key] = UdpBack(self, *key)
        self.peers[key].send(data)

    def answer(self, data, peer, arrival):
        control = [(self.level, self.kind, arrival)] if arrival else []
        self.socket.sendmsg([data], control, 0, peer)


class UdpBack:
    """What is sent for one peer, and what comes back for it."""

    def __init__(self, front, peer, arrival):
        self.front, self.peer, self.arrival = front, peer, arrival
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(('127.0.0.1', front.port))
        front.loop.add_reader(self.socket, self.readable)

    def readable(self):
        self.used = self.front.loop.time()
        try:
            self.front.answer(self.socket.recv(CHUNK), self.peer, self.arrival)
        except OSError:
            pass

    def send(self, data):
        self.used = self.front.loop.time()
        try:
            self.socket.send(data)
        except OSError:
            pass

    def close(self):
        self.front.loop.remove_reader(self.socket)
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
            UdpFront(loop, s, port)
    gone = loop.create_future()
    loop.add_reader(device, lambda: gone.done() or gone.set_result(None))
    os.write(ready, b'ready\n')
    os.close(ready)
    await gone


if __name__ == '__main__':
    asyncio.run(main())
