# SPDX-License-Identifier: Apache-2.0
"""One request: its body coming in, its answer going out, each within the other side's credit."""
from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any, AsyncIterable, AsyncIterator, Iterable, Mapping, Optional, Union

from . import wire

if TYPE_CHECKING:
    from .app import Endpoint
    from .link import ServerLink

BODY_MAX = 8 * 1024 * 1024
BODY_TOTAL_MAX = 64 * 1024 * 1024
HEADERS_SIZE_MAX = 32 * 1024

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

Body = Union[None, str, bytes, bytearray, memoryview, dict, list, AsyncIterable[Union[str, bytes]]]
Headers = Union[Mapping[str, str], Iterable[tuple[str, str]]]


class BodyTooLarge(Exception):
    """Request.read() met more than its limit; left uncaught the client gets `status`."""

    def __init__(self, status: int = 413) -> None:
        super().__init__("request body too large" if status == 413 else "too many request bodies")
        self.status = status


class Response:
    """An answer. `body` may be text, bytes, a dict or list (sent as JSON), or an asynchronous iterator
    of text or bytes, which is streamed."""

    def __init__(self, body: Body = None, status: int = 200, *, headers: Headers = (),
                 content_type: Optional[str] = None) -> None:
        if not 200 <= status <= 599:
            raise ValueError("status must be 200 to 599")
        self.status = status
        self.body: Union[bytes, AsyncIterable[Union[str, bytes]]]
        default = None
        if body is None:
            self.body = b""
        elif isinstance(body, str):
            self.body, default = body.encode(), "text/plain; charset=utf-8"
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body, default = bytes(body), "application/octet-stream"
        elif isinstance(body, (dict, list)):
            self.body, default = json.dumps(body, separators=(",", ":")).encode(), "application/json"
        elif isinstance(body, AsyncIterable):
            self.body = body
        else:
            raise TypeError(f"cannot send a {type(body).__name__}")
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if content_type or default:
            pairs.insert(0, ("content-type", content_type or default or ""))
        self.fields = wire.encode_fields(_check(pairs))
        if len(pairs) > wire.FIELDS_MAX or len(self.fields) > HEADERS_SIZE_MAX:
            raise ValueError("too many headers")


def _check(pairs: list[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for name, value in pairs:
        name = name.lower()
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise ValueError(f"not a header: {name!r}")
        yield name, value


def _number(text: str, limit: int) -> Optional[int]:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(limit))):
        return None
    number = int(text)
    return number if number <= limit else None


def to_response(answer: Any) -> Response:
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, tuple):
        return Response(answer[0], *answer[1:])
    return Response(answer)


class Request:
    """What a client asks. `async for piece in request` reads the body in pieces, `await request.read()`
    whole. When the client has gone, or the deadline has passed, the handler's task is cancelled."""

    def __init__(self, link: ServerLink, endpoint: Endpoint, stream: int,
                 fields: list[tuple[str, str]], body: bytes, end: bool) -> None:
        special = {name: value for name, value in fields if name.startswith(":")}
        self.endpoint = endpoint
        self.method = special.get(":method", "")
        self.path = special.get(":path", "")
        self.query = special.get(":query", "")
        self.principal = special.get(":principal", "")
        # For Security1.Bind. What cannot be one is anonymous: whoever binds to that holds less, not more.
        self.handle = _number(special.get(":handle", ""), wire.HANDLE_MAX) or 0
        self.peer = special.get(":peer", "")
        self.protocol = special.get(":protocol", "")
        self.id = special.get(":id", "")
        self.headers: dict[str, str] = {}
        for name, value in fields:
            if not name.startswith(":"):
                old = self.headers.get(name)
                self.headers[name] = value if old is None else f"{old}, {value}"
        deadline = _number(special.get(":deadline", ""), 2**32 - 1)
        self._deadline = None if deadline is None else time.monotonic() + deadline / 1000
        self._link = link
        self._stream = stream
        self._pieces = [body] if body else []
        self._allowed = wire.CREDIT_INITIAL - len(body)
        self._owed = 0  # read by the handler, not yet given back as credit
        self._body_end = end
        self._credit = wire.CREDIT_INITIAL
        self._more: Optional[asyncio.Future[None]] = None  # body or its end
        self._room: Optional[asyncio.Future[None]] = None  # credit
        self.cancelled = 0  # status, once cancelled
        self.begun = False
        self.task: Optional[asyncio.Task[None]] = None

    @property
    def subpath(self) -> str:
        """The path below the namespace, "/" at least."""
        return self.path[len(self.endpoint.namespace):] or "/"

    @property
    def deadline(self) -> Optional[float]:
        """Seconds left until the server answers 504 itself."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.pop(0)
                yield piece
                self._owed += len(piece)
                # In few frames: half the window is enough to keep the client sending.
                if not self._body_end and not self.cancelled and self._allowed < wire.CREDIT_INITIAL // 2:
                    self._allowed += self._owed
                    self._link.send(wire.CREDIT, stream=self._stream, value=self._owed)
                    self._owed = 0
            if self._body_end:
                return
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    async def read(self, limit: int = BODY_MAX) -> bytes:
        app, body = self.endpoint.app, bytearray()
        try:
            async for piece in self:
                body += piece
                app.collected += len(piece)
                if len(body) > limit:
                    raise BodyTooLarge(413)
                if app.collected > BODY_TOTAL_MAX:
                    raise BodyTooLarge(503)
        finally:
            app.collected -= len(body)
        return bytes(body)

    async def json(self) -> Any:
        return json.loads(await self.read())

    # What the link says.

    def data(self, frame: wire.Frame) -> None:
        if self._body_end or len(frame.payload) > self._allowed:
            raise wire.ProtocolError("data beyond credit or end")
        self._allowed -= len(frame.payload)
        self._body_end = bool(frame.flags & wire.END)
        if frame.payload:
            self._pieces.append(frame.payload)
        if self._more and not self._more.done():
            self._more.set_result(None)

    def credit(self, value: int) -> None:
        if self._credit + value > 0xffffffff:
            raise wire.ProtocolError("too much credit")
        self._credit += value
        if self._room and not self._room.done() and self._credit:
            self._room.set_result(None)

    # What the handler answers.

    async def answer(self, response: Response) -> None:
        whole = response.body if isinstance(response.body, bytes) else None
        first = b""
        if whole is not None:
            first = whole[:min(self._credit, wire.PAYLOAD_MAX - len(response.fields))]
        end = whole is not None and len(first) == len(whole)
        self.begun = True
        self._credit -= len(first)
        self._link.send(wire.RESPONSE, flags=wire.END if end else 0, code=response.status,
                        stream=self._stream, value=len(response.fields),
                        payload=response.fields + first)
        if end:
            return
        if whole is not None:
            await self._write(memoryview(whole)[len(first):], True)
            return
        assert not isinstance(response.body, bytes)
        async for piece in response.body:
            await self._write(memoryview(piece.encode() if isinstance(piece, str) else piece), False)
        self._link.send(wire.DATA, flags=wire.END, stream=self._stream)

    async def _write(self, data: memoryview, last: bool) -> None:
        while data:
            if self._credit == 0:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            n = min(len(data), self._credit, wire.PAYLOAD_MAX)
            end = last and n == len(data)
            self._link.send(wire.DATA, flags=wire.END if end else 0, stream=self._stream,
                            payload=data[:n])
            self._credit -= n
            data = data[n:]
