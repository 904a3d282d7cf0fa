# SPDX-License-Identifier: Apache-2.0
"""The device's log, with or without an app, from any thread.

    from hybridos import log

    log.warning("the pump does not answer", PUMP="2")
    log.send(log.INFO, "measured", {"SENSOR": b"kitchen", "PIN": log.Secret("1234")})

    logging.basicConfig(handlers=[log.Handler()], level=logging.INFO)

A call never waits and does not fail for the log's sake. What h-logged has no room for is counted, and the count
goes with the next record. When h-logged is not there, and also when the standard error output is a
terminal, the record is written there as a line "<N>identifier: message FIELD=value"."""
from __future__ import annotations

import errno
import logging
import os
import re
import socket
import struct
import sys
import threading
from typing import Mapping, Optional, Union

SOCKET = "/run/hybridos/logged/log.sock"
EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)
_LOG_USER = 1 << 3
_FIELDS_MAX = 120  # of the caller
_SIZE_MAX = 61440
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_CODES = {"MESSAGE": 1, "IDENTIFIER": 3, "CODE_FILE": 4, "CODE_LINE": 5, "ERRNO": 6, "HOSTNAME": 7, "PROCID": 8,
          "MSGID": 9, "STRUCTURED_DATA": 10}
_OTHERS = {"UNIT", "PEER", "DROPPED", "AUDIT"}  # h-logged's and h-securityd's own
_SECRET = 0x80
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

Value = Union[str, bytes, bytearray, memoryview, int, float, "Secret"]


class Secret:
    """The value of a field that only whoever holds log.secrets may see."""

    def __init__(self, value: Value) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(…)"


def _bytes(value: Value) -> bytes:
    if isinstance(value, Secret):
        value = value.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return str(value).encode("utf-8", "surrogateescape")


def _field(name: str, value: Value) -> bytes:
    code = _CODES.get(name, 0)
    if name in _OTHERS or not _NAME.fullmatch(name):
        raise ValueError(f"not the name of a field: {name!r}")
    data = _bytes(value)
    if len(data) > _SIZE_MAX:
        raise ValueError("a record is at most 60 KiB")
    named = b"" if code else bytes([len(name)]) + name.encode()
    return bytes([code | (_SECRET if isinstance(value, Secret) else 0)]) + named + struct.pack("<H", len(data)) + data


def _cut(text: bytes, size: int) -> bytes:
    """Without half a character at the end."""
    end = size
    while len(text) > size and end > 0 and size - end < 3 and text[end] & 0xc0 == 0x80:
        end -= 1
    return text[:size if len(text) > size and text[end] & 0xc0 == 0x80 else end]


class _Sender:
    def __init__(self) -> None:
        self.identifier = os.path.basename(sys.argv[0] or "python") if sys.argv else "python"
        level = os.environ.get("HYBRIDOS_LOG_LEVEL", "")
        self.level = int(level) if re.fullmatch("[0-7]", level) else INFO
        self.dropped = 0
        self.lock = threading.RLock()
        self.socket: Optional[socket.socket] = None

    def send(self, priority: int, message: Optional[Union[str, bytes]], fields: Mapping[str, Value]) -> bool:
        if not 0 <= priority <= 191:
            raise ValueError(f"not a priority: {priority}")
        if len(fields) > _FIELDS_MAX:
            raise ValueError("too many fields")
        body = b"".join(_field(name, value) for name, value in fields.items())
        if "IDENTIFIER" not in fields:
            body += _field("IDENTIFIER", self.identifier)
        if len(body) > _SIZE_MAX - (3 if message is not None else 0):
            raise ValueError("a record is at most 60 KiB")
        if message is not None:
            text = _bytes(message)
            body += _field("MESSAGE", _cut(text, _SIZE_MAX - 3 - len(body)))
        sent = self._to_logged(priority if priority > 7 else priority | _LOG_USER, body)
        if sent is None or sys.__stderr__ and sys.__stderr__.isatty():
            self._to_stderr(priority, message, fields)
        return sent is not False

    def _to_logged(self, priority: int, body: bytes) -> Optional[bool]:
        """False: there was no room; None: h-logged is not there."""
        with self.lock:
            head = b"HL\x01" + struct.pack("<BI", priority, self.dropped)
            try:
                self._send(head + body)
            except (BlockingIOError, InterruptedError):
                self.dropped = min(self.dropped + 1, 0xffffffff)
                return False
            except OSError as e:
                if e.errno in (errno.ENOBUFS, errno.ENOMEM):
                    self.dropped = min(self.dropped + 1, 0xffffffff)
                    return False
                return None
            self.dropped = 0
            return True

    def _send(self, data: bytes) -> None:
        try:
            if self.socket:
                self.socket.send(data)
                return
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as e:
            if e.errno in (errno.ENOBUFS, errno.ENOMEM):
                raise
            if e.errno in (errno.EBADF, errno.ENOTSOCK):
                self.socket.detach()  # somebody closed all descriptors; the number may be another's now
            self.socket = None  # its other end was made anew
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        other.setblocking(False)
        other.connect(os.environ.get("HYBRIDOS_LOG_SOCKET", SOCKET))
        self.socket = other
        other.send(data)

    def _to_stderr(self, priority: int, message: Optional[Union[str, bytes]], fields: Mapping[str, Value]) -> None:
        line = _escape(_bytes(fields.get("IDENTIFIER", self.identifier))) + b": "
        line += _escape(_bytes(message)) if message is not None else b""
        for name, value in fields.items():
            if name == "IDENTIFIER" or name.startswith("CODE_"):
                continue
            data = _bytes(value)
            text = b"(secret, %d bytes)" % len(data) if isinstance(value, Secret) else _escape(data)
            line += b" " + name.encode() + b"=" + text
        try:
            os.write(2, b"<%d>" % (priority & 7) + line[:2040] + b"\n")
        except OSError:
            pass


def _escape(data: bytes) -> bytes:
    return _CONTROL.sub(lambda m: b"\\x%02x" % m[0][0], data)


_sender = _Sender()


def set_identifier(identifier: str) -> None:
    """What the program calls itself; by default its file's name."""
    _sender.identifier = identifier


def set_level(max_priority: int) -> None:
    """Leaves out what is of lesser priority; by default INFO, or what $HYBRIDOS_LOG_LEVEL says. Not for Handler."""
    _sender.level = max_priority


def send(priority: int, message: Optional[Union[str, bytes]], fields: Optional[Mapping[str, Value]] = None,
         **more: Value) -> bool:
    """One record. False: there was no room, it was counted. ValueError: names are [A-Z0-9_], at most 64; a record is
    at most 60 KiB and 120 fields (a message that does not fit is cut)."""
    if priority & 7 > _sender.level:
        return True
    return _sender.send(priority, message, {**(fields or {}), **more})


def error(message: str, **fields: Value) -> bool:
    return send(ERR, message, fields)


def warning(message: str, **fields: Value) -> bool:
    return send(WARNING, message, fields)


def notice(message: str, **fields: Value) -> bool:
    return send(NOTICE, message, fields)


def info(message: str, **fields: Value) -> bool:
    return send(INFO, message, fields)


def debug(message: str, **fields: Value) -> bool:
    return send(DEBUG, message, fields)


class Handler(logging.Handler):
    """Records of the module logging. `extra={"fields": {"SENSOR": "kitchen"}}` adds fields; the logger's name goes
    with them as LOGGER, a traceback in the message."""

    _LEVELS = ((logging.CRITICAL, CRIT), (logging.ERROR, ERR), (logging.WARNING, WARNING), (logging.INFO, INFO))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            priority = next((p for level, p in self._LEVELS if record.levelno >= level), DEBUG)
            fields = {"LOGGER": record.name, "CODE_FILE": record.pathname, "CODE_LINE": str(record.lineno),
                      **getattr(record, "fields", {})}
            _sender.send(priority, self.format(record), fields)
        except Exception:
            self.handleError(record)
