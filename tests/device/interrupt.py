# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and its relatives: an exception, but never between making something and knowing its name."""
import contextlib
import signal

_depth = 0
_pending = False


def _interrupted(number, frame):
    global _pending
    if _depth:
        _pending = True
    else:
        raise KeyboardInterrupt


def listen():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)


@contextlib.contextmanager
def held():
    """What runs inside is not interrupted; what came meanwhile is raised at the end."""
    global _depth, _pending
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _pending and not _depth:
        _pending = False
        raise KeyboardInterrupt
