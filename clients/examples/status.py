#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The device's status in Python: JSON or a page by Accept, and an event a second while somebody watches.

    ./hybridos app run --endpoint /examples/status-py -- clients/examples/status.py
"""
import asyncio
import html
import os
import shutil
import sys

import hybridos

app = hybridos.App("status-py")
namespace = sys.argv[1] if len(sys.argv) > 1 else "/examples/status-py"
ticker = None


def sample():
    with open("/proc/meminfo", encoding="ascii") as f:
        memory = {k: int(v.split()[0]) * 1024 for k, v in (line.split(":") for line in f)}
    with open("/proc/uptime", encoding="ascii") as f:
        uptime = float(f.read().split()[0])
    disk = shutil.disk_usage("/")
    return {"hostname": os.uname().nodename, "uptime": int(uptime), "load": os.getloadavg(),
            "memory": {"total": memory["MemTotal"], "available": memory["MemAvailable"]},
            "disk": {"size": disk.total, "free": disk.free}}


def page(status):
    rows = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in status.items())
    return ("<!DOCTYPE html><html lang=en><meta name=viewport content='width=device-width'>"
            f"<title>Status</title><h1>Status</h1><dl>{rows}</dl></html>")


@app.endpoint(namespace, title="Status, in Python")
async def status(request):
    if request.method not in ("GET", "HEAD"):
        return hybridos.Response("only GET and HEAD\n", 405, headers={"allow": "GET, HEAD"})
    if request.subpath != "/":
        return "no such page\n", 404
    if "text/html" in request.headers.get("accept", ""):
        return hybridos.Response(page(sample()), content_type="text/html; charset=utf-8")
    return sample()


async def tick():
    while True:
        status.notify(sample(), max_age=2)
        await asyncio.sleep(1)


@status.on_watch
def watch(path, watchers):
    """One loop, however many watch; none when nobody does."""
    global ticker
    if path != "/":
        return
    if watchers and not ticker:
        ticker = asyncio.get_running_loop().create_task(tick())
    elif not watchers and ticker:
        ticker.cancel()
        ticker = None


app.run()
