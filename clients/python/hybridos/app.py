# SPDX-License-Identifier: Apache-2.0
"""The app and its endpoints."""
from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
import sys
from typing import Any, Awaitable, Callable, Iterable, Optional

from . import wire
from .link import NOTIFY_QUEUE_MAX, Backoff, RegistrarLink, ServerLink, log
from .log import Handler as LogHandler
from .request import Request

NOTIFY_SIZE_MAX = 60 * 1024
STOP_SECONDS = 5.0

_NAMESPACE = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")

Handler = Callable[[Request], Awaitable[Any]]


class Refused(Exception):
    """The registrar refused a namespace for good."""

    def __init__(self, namespace: str, status: int, reason: str) -> None:
        super().__init__(f"{namespace}: {status} {reason}")
        self.namespace, self.status, self.reason = namespace, status, reason


class Value:
    """A value as Endpoint.on_resume gives it; `missed`: others between the last one and this one are lost."""

    def __init__(self, body: Any, id: str, *, content_type: Optional[str] = None, missed: bool = False) -> None:
        from .request import Response
        response = Response(body, content_type=content_type)
        if not isinstance(response.body, bytes) or len(response.body) > NOTIFY_SIZE_MAX:
            raise ValueError("a value is at most 60 KiB, and whole")
        if not 0 < len(id.encode()) <= wire.NOTIFY_ID_MAX:
            raise ValueError("id too long, or empty")
        self._fields = [*wire.decode_fields(response.fields), (":id", id), *([(":gap", "1")] if missed else [])]
        self._body = response.body

    def encoded(self) -> tuple[list[tuple[str, str]], bytes]:
        return self._fields, self._body


class Endpoint:
    """A registered namespace; what App.endpoint() makes of a handler."""

    def __init__(self, app: App, namespace: str, handler: Handler, rules: Iterable[str],
                 title: Optional[str], takeover: bool, attributes: Optional[str] = None) -> None:
        self.app, self.namespace, self.handler = app, namespace, handler
        self.rules, self.title, self.takeover = list(rules), title, takeover
        self.attributes = attributes
        if (len(self.rules) > wire.RULES_MAX or len((title or "").encode()) > wire.TITLE_MAX
                or len((attributes or "").encode()) > wire.ATTRIBUTES_MAX
                or any(len(rule.encode()) > wire.RULE_MAX for rule in self.rules)):
            raise ValueError("too many rules, or too long a rule, title or attributes")
        self.key = ""
        self.id = 0
        self.registered = self.refused = False
        self.backoff = Backoff()
        self._watch: Optional[Callable[[str, int], Any]] = None
        self._state: Optional[Callable[[int, str], Any]] = None
        self._resume: Optional[Callable[[str, str], Optional[Value]]] = None

    def on_watch(self, function: Callable[[str, int], Any]) -> Callable[[str, int], Any]:
        """Decorator: called with a path below the namespace and how many watch it now, 0: nobody any
        more. A good moment to notify the current value."""
        self._watch = function
        return function

    def on_state(self, function: Callable[[int, str], Any]) -> Callable[[int, str], Any]:
        """Decorator: called with 200 when registered, else with a refusal and its reason. After 429 and
        503 the app tries again by itself. Without it, other refusals end App.serve() with Refused."""
        self._state = function
        return function

    def on_resume(self, function: Callable[[str, str], Optional[Value]]) -> Callable[[str, str], Optional[Value]]:
        """Decorator: a watcher of a path comes back, who has had all up to the value with this id. Returns the Value
        that came next (then it is asked again), None: none did. Not a coroutine. Without it a watcher who comes
        back gets the latest value, and is told that there is a gap."""
        self._resume = function
        return function

    @property
    def resumes(self) -> bool:
        return self._resume is not None

    def resume_fields(self, path: str, id: str) -> tuple[list[tuple[str, str]], bytes]:
        assert self._resume
        try:
            value = self._resume(path, id)
            return value.encoded() if value else ([], b"")
        except Exception:
            log.exception("a callback failed")
            return [], b""

    @property
    def servers(self) -> int:
        """At how many servers the endpoint can be reached now."""
        return sum(1 for s in self.app.servers.values() if s.attachment(self))

    def watchers(self, path: str = "/") -> int:
        return sum(s.watches.get((self.namespace, path), 0) for s in self.app.servers.values())

    def notify(self, body: Any, *, path: str = "/", content_type: Optional[str] = None,
               id: Optional[str] = None, max_age: int = 0) -> bool:
        """Pushes a new value to every watcher: text, bytes, or a dict or list as JSON; at most 60 KiB.
        False if it could not be queued for every server, or there is none."""
        from .request import Response
        response = Response(body, content_type=content_type)
        if not isinstance(response.body, bytes) or len(response.body) > NOTIFY_SIZE_MAX:
            raise ValueError("a value is at most 60 KiB, and whole")
        fields = dict(wire.decode_fields(response.fields))
        fields[":path"] = path
        if id is not None:
            if len(id.encode()) > wire.NOTIFY_ID_MAX:
                raise ValueError("id too long")
            fields[":id"] = id
        if max_age:
            fields[":max-age"] = str(max_age)
        return self._send_value(path, fields, response.body, 0)

    def notify_gone(self, path: str = "/") -> bool:
        """The value at `path` is no more."""
        return self._send_value(path, {":path": path}, b"", wire.GONE)

    def _send_value(self, path: str, fields: dict[str, str], body: bytes, flags: int) -> bool:
        if not path.startswith("/") or len(path) > 2048:
            raise ValueError("a path begins with a slash")
        encoded = wire.encode_fields(fields.items())
        if len(encoded) + len(body) > wire.PAYLOAD_MAX:
            raise ValueError("path, content type and value together are too long")
        done = False
        for server in self.app.servers.values():
            stream = server.attachment(self)
            if not stream:
                continue
            if server.queued() > NOTIFY_QUEUE_MAX:
                return False
            server.send(wire.NOTIFY, flags=flags, stream=stream, value=len(encoded),
                        payload=encoded + body)
            done = True
        return done

    def unregister(self) -> None:
        """Gives the namespace back; its open requests fail."""
        if self.app.endpoints.pop(self.namespace, None) is not self:
            return
        for server in self.app.servers.values():
            server.forget(self)
        if self.app.registrar and self.id:
            self.app.registrar.send(wire.UNREGISTER, stream=self.id)

    def tell_state(self, status: int, reason: str) -> None:
        if self._state:
            self.app.call(self._state, status, reason)
        elif self.refused:
            self.app.fail(Refused(self.namespace, status, reason))

    def tell_watch(self, path: str) -> None:
        if self._watch:
            self.app.call(self._watch, path, self.watchers(path))


class App:
    """Registers endpoints and answers for them. `registrar` is the path of its socket; None means
    $HYBRIDOS_REGISTRAR or the usual place. Belongs to one event loop and its thread."""

    def __init__(self, name: Optional[str] = None, *, registrar: Optional[str] = None) -> None:
        self.name = name or os.path.basename(sys.argv[0]) or "app"
        self._path = registrar or os.environ.get("HYBRIDOS_REGISTRAR") or wire.REGISTRAR_SOCKET
        self.endpoints: dict[str, Endpoint] = {}
        self.servers: dict[str, ServerLink] = {}
        self.registrar: Optional[RegistrarLink] = None
        self.collected = 0
        self.stopping = False
        self._next_id = 0
        self._ended: Optional[asyncio.Future[None]] = None
        self._stop_timer: Optional[asyncio.TimerHandle] = None
        self._tasks: dict[Any, asyncio.Task[None]] = {}

    def endpoint(self, namespace: str, *, rules: Iterable[str] = (), title: Optional[str] = None,
                 takeover: bool = False,
                 attributes: Optional[str] = None) -> Callable[[Handler], Endpoint]:
        """Decorator: the coroutine function answers requests for `namespace`. It returns text, bytes, a
        dict or list, a (body, status) pair, or a Response. A rule is "METHODS SUBPATH PERMISSION";
        attributes are those of a link (RFC 6690), such as 'rt="temperature";ct=50'."""
        if not _NAMESPACE.fullmatch(namespace) or len(namespace) > 255:
            raise ValueError(f"not a namespace: {namespace!r}")
        if namespace in self.endpoints:
            raise ValueError(f"{namespace} is there already")

        def decorate(handler: Handler) -> Endpoint:
            endpoint = Endpoint(self, namespace, handler, rules, title, takeover, attributes)
            self.endpoints[namespace] = endpoint
            if self.registrar:
                self.registrar.ask(endpoint)
            return endpoint
        return decorate

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM."""
        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
            await self.serve()
        asyncio.run(main())

    async def serve(self) -> None:
        """Serves until stop(), inside a loop of your own."""
        loop = asyncio.get_running_loop()
        self.stopping = False
        if not log.hasHandlers():  # nobody has said where to
            log.addHandler(LogHandler())
        self._ended = loop.create_future()
        self.registrar = RegistrarLink(self, self._path)
        self._tasks[None] = loop.create_task(self.registrar.run())
        try:
            await self._ended
        finally:
            self.registrar.close()
            for server in self.servers.values():
                server.close()
            tasks = list(self._tasks.values())
            self._tasks.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.registrar = None
            self.servers.clear()
            if self._stop_timer:
                self._stop_timer.cancel()

    def stop(self) -> None:
        """Ends gracefully: no new requests, open ones may finish for five seconds. From another thread:
        loop.call_soon_threadsafe(app.stop)."""
        if self.stopping or not self._ended:
            return
        self.stopping = True
        for server in self.servers.values():
            # The answer to the PING says that no request is under way to us any more.
            server.send(wire.GOAWAY, code=503, payload=b"the app stops")
            server.send(wire.PING, value=1)
        self._stop_timer = asyncio.get_running_loop().call_later(STOP_SECONDS, self._end)
        self.check_stopped()

    def check_stopped(self) -> None:
        if self.stopping and all((s.drained and not s.requests) or not s.connected
                                 for s in self.servers.values()):
            self._end()

    def _end(self) -> None:
        if self._ended and not self._ended.done():
            self._ended.set_result(None)

    # For endpoints and links.

    def fail(self, error: Exception) -> None:
        if self._ended and not self._ended.done():
            self._ended.set_exception(error)

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def add_server(self, name: str, path: str) -> None:
        link = self.servers[name] = ServerLink(self, path)
        task = self._tasks[name] = asyncio.get_running_loop().create_task(link.run())

        def ended(_: asyncio.Task[None]) -> None:
            if self.servers.get(name) is link and self._tasks.get(name) is task:
                del self.servers[name], self._tasks[name]
        task.add_done_callback(ended)

    def remove_server(self, name: str) -> None:
        link = self.servers.pop(name, None)
        if link:
            link.close()
            self._tasks.pop(name).cancel()

    def tell_watch(self, namespace: str, path: str) -> None:
        endpoint = self.endpoints.get(namespace)
        if endpoint:
            endpoint.tell_watch(path)

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """A callback may be a coroutine function, and its errors are its own."""
        try:
            result = function(*arguments)
        except Exception:
            log.exception("a callback failed")
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._tasks[task] = task  # type: ignore[assignment]
            task.add_done_callback(self._callback_done)

    def _callback_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception():
            log.error("a callback failed", exc_info=task.exception())
