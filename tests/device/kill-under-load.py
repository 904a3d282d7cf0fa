#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs inside the device: kills one unit with SIGKILL again and again while clients load the device.

After each kill the endpoint has to answer again with 200; between kills everything may fail, but no
client may wait longer than its deadline, and the other units must not restart. Prints JSON.
"""
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time

UNIT, ROUNDS, CLIENTS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
OTHERS = sys.argv[4:]
PATH = "/system/status"
DEADLINE = 35  # seconds: the server's own 30, and room for a busy machine
BACK = 20  # seconds until the endpoint has to answer again; generous, the figure itself is reported


def connect():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("localhost", 8443, timeout=DEADLINE, context=context)


class Client(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.over = False
        self.good = self.bad = 0
        self.longest = 0.0

    def run(self):
        connection = connect()
        while not self.over:
            begun = time.monotonic()
            try:
                connection.request("GET", PATH)
                answer = connection.getresponse()
                answer.read()
                self.good += answer.status == 200
                self.bad += answer.status != 200
            except (OSError, http.client.HTTPException):
                self.bad += 1
                connection.close()
                connection = connect()
                time.sleep(0.02)  # a client that lost its server does not spin
            self.longest = max(self.longest, time.monotonic() - begun)


def show(unit, what):
    return subprocess.run(["systemctl", "show", "-P", what, unit], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def answers():
    connection = connect()
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            subprocess.run(["journalctl", "-n", "40", "--no-pager"], check=False, stdout=sys.stderr)
            raise SystemExit(f"{what} did not happen within {seconds} s")
        time.sleep(0.01)


def main():
    wait_until(answers, BACK, f"{PATH} answering at the start")
    restarts = {u: show(u, "NRestarts") for u in OTHERS}
    clients = [Client() for _ in range(CLIENTS)]
    for c in clients:
        c.start()
    back = []
    for round_ in range(ROUNDS):
        pid = int(show(UNIT, "MainPID"))
        if not pid:
            raise SystemExit(f"{UNIT} was not running in round {round_}")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: show(UNIT, "MainPID") not in ("0", str(pid)), BACK, f"{UNIT} coming back")
        wait_until(lambda: show(UNIT, "ActiveState") == "active", BACK, f"{UNIT} being active")
        wait_until(answers, BACK, f"{PATH} answering after kill {round_}")
        back.append(time.monotonic() - killed)
    for c in clients:
        c.over = True
    for c in clients:
        c.join(DEADLINE)
    back.sort()
    result = {"unit": UNIT, "rounds": ROUNDS, "good": sum(c.good for c in clients),
              "bad": sum(c.bad for c in clients),
              "longest wait of a client, s": round(max(c.longest for c in clients), 3),
              "back, median s": round(back[len(back) // 2], 3), "back, max s": round(back[-1], 3),
              "back within 1 s": sum(b <= 1 for b in back),
              "restarted": [u for u in OTHERS if show(u, "NRestarts") != restarts[u]]}
    print(json.dumps(result))
    if result["restarted"] or not result["good"] or any(c.is_alive() for c in clients):
        raise SystemExit(1)


main()
