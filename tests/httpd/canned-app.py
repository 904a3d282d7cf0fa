#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What fake-core.c answers, from a real app, so that attacks.py can be run against a device; and under /guarded, which
needs permissions that no development drop-in gives, what a revoke has to cut. Tells what it sees on standard output."""
import asyncio
import signal

import hybridos

PIECE = b"x" * 32768
app = hybridos.App("canned")


def say(*words):
    print(*words, flush=True)


async def pieces(size):
    """As fast as they are taken; without a size for ever."""
    sent = 0
    try:
        while size is None or sent < size:
            yield PIECE
            sent += len(PIECE)
    finally:
        if size is None:
            say("stream ended")


@app.endpoint("/hello")
async def hello(request):
    return "hello world\n"


@app.endpoint("/echo")
async def echo(request):
    body = await request.read()
    fields = "".join(f"{name}: {value}\n" for name, value in request.headers.items())
    head = f"{request.method} {request.path} ?{request.query}\n{fields}\n"
    return hybridos.Response(head.encode() + body, content_type="text/plain")


@app.endpoint("/slow")
async def slow(request):
    await asyncio.Event().wait()


@app.endpoint("/stream")
async def stream(request):
    return hybridos.Response(pieces(1 << 20), content_type="text/plain")


@app.endpoint("/guarded", rules=["GET / guarded.read", "* / guarded.write"])
async def guarded(request):
    if request.subpath == "/download":
        say("download begins")
        return hybridos.Response(pieces(None), content_type="text/plain")
    if request.subpath == "/later":  # until SIGUSR1: a server that stops lets nobody ask for it
        held = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, held.set)
        say("later")
        await held.wait()
        return "later"
    if request.subpath == "/slow-upload":
        say("upload begins")
        try:
            async for _ in request:
                await asyncio.Event().wait()
        finally:
            say("upload cancelled")
    if request.subpath == "/upload":
        say("uploaded", len(await request.read()))
        return "uploaded"
    if request.subpath == "/notify":
        body = (await request.read()).decode()
        guarded.notify(body, path="/value", id=body if request.query == "own-id" else None)
        return (b"", 204)
    return "guarded"


@guarded.on_watch
def watched(path, watchers):
    say("watched", path, watchers)


for endpoint in app.endpoints.values():
    @endpoint.on_state
    def state(status, reason, namespace=endpoint.namespace):
        say("state", namespace, status, reason)

app.run()
