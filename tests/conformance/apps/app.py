# SPDX-License-Identifier: Apache-2.0
"""The conformance app in Python: app.py NAMESPACE [--takeover]; see ../README.md."""
import asyncio
import sys

import hybridos

app = hybridos.App("conformance")
namespace = sys.argv[1]
cancelled = 0
release = None
watches = {}


def say(line):
    print(line, flush=True)


def pattern(start, size):
    return bytes((start + i) % 251 for i in range(size))


async def stream(size):
    for at in range(0, size, 10000):
        yield pattern(at, min(10000, size - at))


@app.endpoint(namespace, takeover="--takeover" in sys.argv, title="conformance", attributes='rt="test";ct=50',
              rules=["GET /public endpoint.public"])
async def whole(request):
    global cancelled, release
    verb, _, argument = request.subpath[1:].partition("/")
    if verb == "echo":
        return hybridos.Response(await request.read(), headers={
            "x-method": request.method, "x-query": request.query, "x-principal": request.principal,
            "x-handle": str(request.handle), "x-test": request.headers.get("x-test", "")})
    if verb == "status":
        return "", int(argument)
    if verb == "large":
        return pattern(0, int(argument))
    if verb == "stream":
        return stream(int(argument))
    if verb == "later":
        release = asyncio.get_running_loop().create_future()
        await release
        return "later"
    if verb == "release":
        release.set_result(None)
        return "released"
    if verb == "never":
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled += 1
            raise
    if verb == "cancelled":
        return str(cancelled)
    if verb == "fail":
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    if verb == "notify":
        whole.notify(await request.read(), path="/value", content_type="text/plain", id="v1", max_age=7)
        return None, 204
    if verb == "watches":
        return "".join(f"{path} {n}\n" for path, n in sorted(watches.items()))
    return "no such case", 404


@whole.on_watch
def watch(path, watchers):
    watches[path] = watchers


@whole.on_resume
def resume(path, id):
    n = int(id[1:]) if id[0] == "v" else 0
    if path != "/value" or n == 3:
        return None
    next_id = f"v{n + 1}" if 0 < n < 3 else "v3"
    return hybridos.Value(f"value {next_id}", next_id, content_type="text/plain", missed=not 0 < n <= 3)


@whole.on_state
def state(status, reason):
    say(f"state {status} {reason}")


@app.endpoint(namespace + "-pieces", takeover="--takeover" in sys.argv)
async def pieces(request):
    if request.subpath == "/hold":
        await asyncio.get_running_loop().create_future()
    total = 0
    async for piece in request:
        total += len(piece)
    return str(total)


@pieces.on_state
def other_state(status, reason):
    pass  # its fate is that of the first


app.run()
say("stopped")
