# SPDX-License-Identifier: Apache-2.0
"""A constrained node over DTLS, with a key of its own: keyed.py NAME KEY DTLS-PROGRAM STATE. It registers, and answers what
is asked over the same connection with its state. The end of standard input ends the connection, without a word to the
directory: it sleeps."""
import select
import sys

import roads
from coap import ACK, Message

name, key, roads.PROGRAM, state = sys.argv[1:]
node = roads.Dtls(5684, name, key)
got = node.request('POST', f'/rd?ep={name}&lt=600', ('format', 40), payload=b'</value>;rt="value"')
assert got.text == '2.01', got
print('registered', flush=True)
while sys.stdin not in select.select([sys.stdin, node.socket], [], [])[0]:
    asked = node.receive()
    if 0 < asked.code < 32:
        node.send(Message(ACK, 0x45, asked.mid, asked.token, [('format', 0), ('max-age', 0)], state.encode()))
node.close()
