# SPDX-License-Identifier: Apache-2.0
"""The codec of docs/protocols/channel.md, version 1. Knows no socket."""
from __future__ import annotations

import struct
from typing import Iterable, NamedTuple, Union

VERSION = 1
PAYLOAD_MAX = 65536
FIELDS_MAX = 128
CREDIT_INITIAL = 262144
REQUESTS_MAX = 1024
NOTIFY_ID_MAX = 128
HANDLE_MAX = 2**53 - 1
RULES_MAX, RULE_MAX, TITLE_MAX, ATTRIBUTES_MAX = 32, 1024, 256, 512
REGISTRAR_SOCKET = "/run/hybridos/endpointd/channel.sock"

HELLO, GOAWAY, PING, PONG = 0x01, 0x02, 0x03, 0x04
REGISTER, REGISTERED, REFUSED, UNREGISTER, SERVER = 0x10, 0x11, 0x12, 0x13, 0x14
ATTACH, ATTACHED = 0x16, 0x17
REQUEST, DATA, RESPONSE, CANCEL, CREDIT = 0x20, 0x21, 0x22, 0x23, 0x24
NOTIFY, WATCH = 0x30, 0x31
SESSION, MESSAGE, CLOSE = 0x40, 0x41, 0x42
IGNORABLE = 0x80
RESUME, RESUMED = 0x81, 0x82

END, GONE = 0x01, 0x02

HEADER = struct.Struct("<IBBHII")
_PAIR = struct.Struct("<HH")

Bytes = Union[bytes, bytearray, memoryview]


class ProtocolError(Exception):
    """The peer broke the format; the connection ends."""


class Frame(NamedTuple):
    type: int
    flags: int
    code: int
    stream: int
    value: int
    payload: bytes


def encode(type_: int, *, flags: int = 0, code: int = 0, stream: int = 0, value: int = 0,
           payload: Bytes = b"") -> bytes:
    return HEADER.pack(len(payload), type_, flags, code, stream, value) + payload


class Decoder:
    """Takes bytes as they come, gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Bytes) -> Iterable[Frame]:
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= HEADER.size:
                length, type_, flags, code, stream, value = HEADER.unpack_from(self._buffer, at)
                if length > PAYLOAD_MAX:
                    raise ProtocolError("frame too long")
                end = at + HEADER.size + length
                if end > len(self._buffer):
                    return
                payload = bytes(memoryview(self._buffer)[at + HEADER.size:end])
                at = end
                yield Frame(type_, flags, code, stream, value, payload)
        finally:
            del self._buffer[:at]


def text(data: bytes) -> str:
    """Bytes of a client need not be UTF-8; they survive the way here and back."""
    return data.decode("utf-8", "surrogateescape")


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    out = bytearray()
    for name, value in fields:
        n, v = name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")
        if not n or len(n) > 0xffff or len(v) > 0xffff:
            raise ValueError("field too long or without a name")
        out += _PAIR.pack(len(n), len(v)) + n + v
    return bytes(out)


def decode_fields(data: bytes) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise ProtocolError("half a field")
        n, v = _PAIR.unpack_from(data, at)
        at += 4
        if n == 0 or len(data) - at < n + v:
            raise ProtocolError("broken field")
        fields.append((text(data[at:at + n]), text(data[at + n:at + n + v])))
        at += n + v
        if len(fields) > FIELDS_MAX:
            raise ProtocolError("too many fields")
    return fields
