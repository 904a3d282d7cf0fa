# SPDX-License-Identifier: Apache-2.0
"""What test_log.py asks for, in Python: log.py CASE; see ../README.md."""
import sys

from hybridos import log


def refused(priority, message, fields):
    try:
        log.send(priority, message, fields)
    except ValueError:
        print("refused")


def flood():
    dropped = sum(not log.send(log.INFO, f"{i} {0:0150}") for i in range(20000))
    print(dropped, flush=True)
    sys.stdin.read(1)
    log.send(log.INFO, "last")


case = sys.argv[1]
log.set_identifier("tester")
if case == "plain":
    log.warning("hello")
elif case == "facility":
    log.send(16 << 3 | log.ERR, "hello")
elif case == "fields":
    log.send(log.INFO, "measured", {"SENSOR": b"\0\xff\n", "PIN": log.Secret("1234")}, ERRNO=5)
elif case == "identifier":
    log.info("hello", IDENTIFIER="other")
elif case == "names":
    for name in ("", "lower", "_X", "1X", "A B", "UNIT", "PEER", "DROPPED", "AUDIT", "A1234567890" * 6):
        refused(log.INFO, "refused", {name: "x"})
    refused(log.INFO, "many", {f"X{i}": "" for i in range(121)})
    refused(192, "priority", {})
    log.send(log.INFO, "many", {f"X{i}": "" for i in range(120)})
elif case == "levels":
    log.debug("debug")
    log.info("info")
    log.set_level(log.ERR)
    log.warning("warning")
    log.error("err")
elif case == "flood":
    flood()
elif case == "large":
    log.info("ä" * 35000)
    log.info("ä" * 35000)
    refused(log.INFO, "x", {"BIG": b"x" * 61440})
elif case == "lines":
    log.send(log.ERR, b"one\ntwo\x1b[1m \xc3\xa4\xff", {"A": "b\n", "PIN": log.Secret("1234")})
elif case == "again":
    while sys.stdin.read(1):
        log.info("again")
