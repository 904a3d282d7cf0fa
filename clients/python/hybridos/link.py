# SPDX-License-Identifier: Apache-2.0
"""The connections: to the registrar and to each server. One write for each turn of the loop."""
from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Optional

from . import wire
from .request import BodyTooLarge, Request, Response, to_response

if TYPE_CHECKING:
    from .app import App, Endpoint

log = logging.getLogger("hybridos")

BACKOFF_MIN, BACKOFF_MAX = 0.02, 1.0
SERVERS_MAX = 16
WATCHES_MAX = 2048
NOTIFY_QUEUE_MAX = 4 * 1024 * 1024


class Backoff:
    def __init__(self) -> None:
        self.pause = 0.0

    def next(self) -> float:
        self.pause = min(self.pause * 2 or BACKOFF_MIN, BACKOFF_MAX)
        return self.pause

    def reset(self) -> None:
        self.pause = 0.0


class Link(asyncio.Protocol):
    """A connection that comes back by itself."""

    understands = 0  # of the types that may be ignored

    def __init__(self, app: App, path: str) -> None:
        self.app, self.path = app, path
        self.backoff = Backoff()
        self.up = False  # HELLO has come
        self.stale = self.draining = self.drained = False
        self._transport: Optional[asyncio.Transport] = None
        self._lost: Optional[asyncio.Future[None]] = None
        self._out: list[bytes] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._lost = loop.create_future()
            self._decoder = wire.Decoder()
            try:
                await loop.create_unix_connection(lambda: self, self.path)
            except OSError:
                if self.stale:
                    return
            else:
                try:
                    await self._lost
                finally:
                    if self._transport:
                        self._transport.abort()
            await asyncio.sleep(self.backoff.next())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1024 * 1024)
        fields = [(":role", "app"), (":name", self.app.name)]
        self.send(wire.HELLO, value=wire.VERSION, payload=wire.encode_fields(fields))
        self.on_connected()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._transport = None
        self._out.clear()
        self.up = self.draining = self.drained = False
        self.on_lost()
        if self._lost and not self._lost.done():
            self._lost.set_result(None)

    # A peer that does not take our answers gets no further requests in.
    def pause_writing(self) -> None:
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._frame(frame)
        except wire.ProtocolError as e:
            log.warning("%s: %s", self.path, e)
            if self._transport:
                self._transport.abort()

    def _frame(self, f: wire.Frame) -> None:
        if not self.up:
            if f.type != wire.HELLO or f.value < 1 or f.stream != 0:
                raise wire.ProtocolError("no HELLO")
            wire.decode_fields(f.payload)
            self.up = True
            self.backoff.reset()
        elif f.type == wire.PING:
            self.send(wire.PONG, value=f.value)
        elif f.type == wire.PONG:
            self.drained = self.app.stopping
            self.app.check_stopped()
        elif f.type == wire.GOAWAY:
            self.draining = True
            self.on_drain()
        elif f.type == wire.HELLO:
            raise wire.ProtocolError("second HELLO")
        elif f.type < wire.IGNORABLE or f.type == self.understands:
            self.on_frame(f)

    def send(self, type_: int, *, flags: int = 0, code: int = 0, stream: int = 0, value: int = 0,
             payload: wire.Bytes = b"") -> None:
        if not self._transport:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(wire.encode(type_, flags=flags, code=code, stream=stream, value=value,
                                     payload=payload))

    def _flush(self) -> None:
        if self._transport and self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def queued(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def close(self) -> None:
        if self._transport:
            self._flush()
            self._transport.close()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def on_connected(self) -> None: ...

    def on_lost(self) -> None: ...

    def on_drain(self) -> None: ...

    def on_frame(self, f: wire.Frame) -> None:
        raise NotImplementedError


class RegistrarLink(Link):
    def on_connected(self) -> None:
        for endpoint in self.app.endpoints.values():
            self.ask(endpoint)

    def ask(self, endpoint: Endpoint) -> None:
        if endpoint.refused or not self.connected:
            return
        fields = [(":namespace", endpoint.namespace)]
        if endpoint.key:
            fields.append((":key", endpoint.key))
        fields += [(":rule", rule) for rule in endpoint.rules]
        if endpoint.title:
            fields.append((":title", endpoint.title))
        if endpoint.attributes:
            fields.append((":attributes", endpoint.attributes))
        if endpoint.takeover:
            fields.append((":takeover", "1"))
        endpoint.id = self.app.new_id()
        self.send(wire.REGISTER, stream=endpoint.id, payload=wire.encode_fields(fields))

    def on_lost(self) -> None:
        for endpoint in self.app.endpoints.values():
            endpoint.registered, endpoint.id = False, 0
        for server in self.app.servers.values():
            server.stale = True

    def on_frame(self, f: wire.Frame) -> None:
        fields = dict(wire.decode_fields(f.payload))
        if f.type == wire.REGISTERED:
            self._registered(f, fields)
        elif f.type == wire.REFUSED:
            self._refused(f, fields)
        elif f.type == wire.SERVER:
            self._server(f, fields)
        else:
            raise wire.ProtocolError(f"unexpected frame {f.type:#x}")

    def _find(self, id_: int) -> Optional[Endpoint]:
        return next((e for e in self.app.endpoints.values() if id_ and e.id == id_), None)

    def _registered(self, f: wire.Frame, fields: dict[str, str]) -> None:
        key = fields.get(":key", "")
        if not 0 < len(key) <= 32:
            raise wire.ProtocolError("no key")
        endpoint = self._find(f.stream)
        if not endpoint:
            return
        if endpoint.key != key:
            for server in self.app.servers.values():
                server.forget(endpoint)
            endpoint.key = key
        endpoint.registered, endpoint.backoff = True, Backoff()
        for server in self.app.servers.values():
            server.attach(endpoint)
        endpoint.tell_state(200, "")

    def _refused(self, f: wire.Frame, fields: dict[str, str]) -> None:
        endpoint = self._find(f.stream)
        if not endpoint:
            return
        audit = fields.get(":audit")
        reason = fields.get(":reason", "") + (f" (audit {audit})" if audit else "")
        endpoint.registered, endpoint.id = False, 0
        if f.code in (429, 503):
            asyncio.get_running_loop().call_later(endpoint.backoff.next(), self._again, endpoint)
        else:
            endpoint.refused, endpoint.key = True, ""
            for server in self.app.servers.values():
                server.forget(endpoint)
        endpoint.tell_state(f.code, reason)

    def _again(self, endpoint: Endpoint) -> None:
        if self.app.endpoints.get(endpoint.namespace) is endpoint and not endpoint.id:
            self.ask(endpoint)

    def _server(self, f: wire.Frame, fields: dict[str, str]) -> None:
        name, path = fields.get(":name"), fields.get(":socket", "")
        if not name:
            raise wire.ProtocolError("server without a name")
        known = self.app.servers.get(name)
        if f.flags & wire.GONE:
            self.app.remove_server(name)
        elif not path.startswith("/"):
            raise wire.ProtocolError("server without a socket")
        elif known and known.path == path:
            known.stale = False
        elif known or len(self.app.servers) < SERVERS_MAX:
            self.app.remove_server(name)
            self.app.add_server(name, path)


class ServerLink(Link):
    understands = wire.RESUME

    def __init__(self, app: App, path: str) -> None:
        super().__init__(app, path)
        self.requests: dict[int, Request] = {}
        self.attachments: dict[int, Endpoint] = {}
        self.attached: set[int] = set()
        self.watches: dict[tuple[str, str], int] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._highest = 0

    def on_connected(self) -> None:
        for endpoint in self.app.endpoints.values():
            self.attach(endpoint)

    def attach(self, endpoint: Endpoint) -> None:
        if (not endpoint.key or not self.connected or self.draining or self.app.stopping
                or endpoint in self.attachments.values()):
            return
        id_ = self.app.new_id()
        self.attachments[id_] = endpoint
        fields = [(":namespace", endpoint.namespace), (":key", endpoint.key)]
        if endpoint.resumes:
            fields.append((":resume", "1"))
        self.send(wire.ATTACH, stream=id_, payload=wire.encode_fields(fields))

    def attachment(self, endpoint: Endpoint) -> int:
        """Its stream, when the server has confirmed it; or 0."""
        return next((i for i in self.attached if self.attachments.get(i) is endpoint), 0)

    def forget(self, endpoint: Endpoint) -> None:
        for id_ in [i for i, e in self.attachments.items() if e is endpoint]:
            del self.attachments[id_]
            self.attached.discard(id_)
        for stream, request in list(self.requests.items()):
            if request.endpoint is endpoint:
                self.send(wire.CANCEL, code=500, stream=stream)
                self._cancel(stream, 500)
        self._forget_watches(endpoint)

    def _forget_watches(self, endpoint: Optional[Endpoint]) -> None:
        for namespace, path in list(self.watches):
            if endpoint is None or endpoint.namespace == namespace:
                del self.watches[namespace, path]
                self.app.tell_watch(namespace, path)

    def on_lost(self) -> None:
        self.attachments.clear()
        self.attached.clear()
        self._backoffs.clear()
        self._highest = 0
        for stream in list(self.requests):
            self._cancel(stream, 502)
        self._forget_watches(None)

    def on_drain(self) -> None:
        if self.draining and not self.requests:
            self.close()

    def on_frame(self, f: wire.Frame) -> None:
        if f.type == wire.REQUEST:
            self._request(f)
        elif f.type in (wire.DATA, wire.CREDIT, wire.CANCEL):
            request = self.requests.get(f.stream)
            if request is None:
                self._check_was(f.stream)
            elif f.type == wire.DATA:
                request.data(f)
            elif f.type == wire.CREDIT:
                request.credit(f.value)
            else:
                self._cancel(f.stream, f.code)
        elif f.type == wire.ATTACHED:
            if f.stream in self.attachments:
                self.attached.add(f.stream)
                self._backoffs.pop(self.attachments[f.stream].namespace, None)
        elif f.type == wire.REFUSED:
            wire.decode_fields(f.payload)
            self._attach_refused(f.stream)
        elif f.type == wire.WATCH:
            self._watch(f)
        elif f.type == wire.RESUME:
            self._resume(f)
        elif f.type == wire.SESSION:
            self._highest = max(self._highest, f.stream)
            self.send(wire.RESPONSE, flags=wire.END, code=501, stream=f.stream)
        elif f.type in (wire.MESSAGE, wire.CLOSE):
            self._check_was(f.stream)
        else:
            raise wire.ProtocolError(f"unexpected frame {f.type:#x}")

    def _check_was(self, stream: int) -> None:
        """Frames for a stream that has ended may have crossed with its end."""
        if not stream & 1 or stream > self._highest:
            raise wire.ProtocolError("frame for a stream that never was")

    def _attach_refused(self, stream: int) -> None:
        endpoint = self.attachments.pop(stream, None)
        if not endpoint:
            return
        self.attached.discard(stream)
        self._forget_watches(endpoint)
        # Often the server just has not heard of the registration yet.
        pause = self._backoffs.setdefault(endpoint.namespace, Backoff()).next()
        asyncio.get_running_loop().call_later(pause, self._attach_again, endpoint)

    def _attach_again(self, endpoint: Endpoint) -> None:
        if self.app.endpoints.get(endpoint.namespace) is endpoint:
            self.attach(endpoint)

    def _watch(self, f: wire.Frame) -> None:
        path = dict(wire.decode_fields(f.payload)).get(":path")
        if path is None or "\0" in path:
            raise wire.ProtocolError("watch without a path")
        endpoint = self.attachments.get(f.stream)
        if not endpoint:
            return
        key = (endpoint.namespace, path)
        if f.value == 0:
            if self.watches.pop(key, 0):
                self.app.tell_watch(*key)
        elif key in self.watches or len(self.watches) < WATCHES_MAX:
            self.watches[key] = f.value
            self.app.tell_watch(*key)

    def _resume(self, f: wire.Frame) -> None:
        said = dict(wire.decode_fields(f.payload))
        path, id_ = said.get(":path"), said.get(":id")
        if path is None or id_ is None or f.value == 0 or "\0" in path + id_:
            raise wire.ProtocolError("nothing to resume from")
        endpoint = self.attachments.get(f.stream)
        if not endpoint or not endpoint.resumes:
            return
        fields, body = endpoint.resume_fields(path, id_)
        encoded = wire.encode_fields([(":token", str(f.value)), *fields])
        self.send(wire.RESUMED, code=200 if fields else 204, stream=f.stream, value=len(encoded), payload=encoded + body)

    def _request(self, f: wire.Frame) -> None:
        if f.value > len(f.payload) or not f.stream & 1 or f.stream in self.requests:
            raise wire.ProtocolError("bad request frame")
        fields = wire.decode_fields(f.payload[:f.value])
        special = dict(fields)
        if ":method" not in special or ":path" not in special:
            raise wire.ProtocolError("request without method or path")
        self._highest = max(self._highest, f.stream)
        endpoint = next((e for e in self.attachments.values()
                         if e.namespace == special.get(":namespace")), None)
        status = 0
        if not endpoint or self.app.stopping or len(self.requests) >= wire.REQUESTS_MAX:
            status = 503
        elif any("\0" in name or "\0" in value for name, value in fields):
            status = 400
        if status or not endpoint:
            self.send(wire.RESPONSE, flags=wire.END, code=status, stream=f.stream)
            return
        request = Request(self, endpoint, f.stream, fields, f.payload[f.value:],
                          bool(f.flags & wire.END))
        self.requests[f.stream] = request
        request.task = asyncio.get_running_loop().create_task(self._handle(f.stream, request))

    def _cancel(self, stream: int, status: int) -> None:
        request = self.requests.pop(stream)
        request.cancelled = status
        if request.task:
            request.task.cancel()
        self.app.check_stopped()

    async def _handle(self, stream: int, request: Request) -> None:
        """Answers once, whatever the handler does."""
        try:
            try:
                answer = await request.endpoint.handler(request)
                await request.answer(to_response(answer))
            except BodyTooLarge as e:
                if request.begun:
                    raise
                await request.answer(Response(f"{e}\n", e.status))
        except asyncio.CancelledError:
            if not request.cancelled:  # the handler itself gave up, or the app ends
                self.send(wire.CANCEL, code=500, stream=stream)
        except Exception:
            log.exception("%s %s failed", request.method, request.endpoint.namespace)
            if request.begun:
                self.send(wire.CANCEL, code=500, stream=stream)
            else:
                self.send(wire.RESPONSE, flags=wire.END, code=500, stream=stream)
        finally:
            if self.requests.get(stream) is request:
                del self.requests[stream]
                self.on_drain()
                self.app.check_stopped()
