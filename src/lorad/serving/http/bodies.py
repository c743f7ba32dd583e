"""Bodies over HTTP, in and out, within bounds.

What lives here: reading a request's body in pieces that are never more than is allowed, alone and all together, and
answers that can always be written. What never does: what a body means (``schemas``), connections (``connections``).
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import JSONResponse

from lorad.errors import ProtocolError
from lorad.serving import record_json
from lorad.storage import strict_json

T = TypeVar("T")

SMALL = 65_536
"""Bytes of a body that always finds room, and that is read at once; a connection's own buffer holds as much."""
TOGETHER = 16
"""As many of the longest bodies are held at once; whoever sends one more is asked to come back."""
READERS = 2
"""Threads that read long bodies: what is written in a megabyte may take many when it is read."""


class Json(JSONResponse):
    """An answer in JSON, whatever it holds: one strange value that is stored must not silence a route."""

    def render(self, content: Any) -> bytes:
        """Return the answer's bytes."""
        return encoded(content)


def encoded(told: Any) -> bytes:
    """Return a record, or JSON data, as JSON."""
    return strict_json.encoded(record_json.as_json(told))


class Bodies:
    """What requests carry, read within bounds."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._room = TOGETHER * longest
        self._readers: CapacityLimiter | None = None

    async def read(self, request: Request, read: Callable[[bytes], T]) -> T:
        """Return what ``read`` makes of a request's body; raise ``ProtocolError`` (413, 503) on one beyond the bounds."""
        async with self._taken(request) as body:
            if len(body) <= SMALL:
                return read(body)
            self._readers = self._readers or CapacityLimiter(READERS)  # belongs to the loop that runs
            return await to_thread.run_sync(read, body, limiter=self._readers)

    @contextlib.asynccontextmanager
    async def _taken(self, request: Request) -> AsyncIterator[bytes]:
        """Lend a body that was taken in piece by piece: what is said of its length may be wrong, or nothing."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._longest:
            raise self._too_long()
        body, counted = bytearray(), 0
        try:
            async for piece in request.stream():
                if len(body) + len(piece) > self._longest:
                    raise self._too_long()
                body += piece
                if len(body) > SMALL:
                    self._count(len(body) - counted)
                    counted = len(body)
            yield bytes(body)
        finally:
            self._room += counted

    def _count(self, more: int) -> None:
        if more > self._room:
            raise ProtocolError(
                "too many long requests are being read; try again in a second",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="busy",
                retry_after=1,
            )
        self._room -= more

    def _too_long(self) -> ProtocolError:
        return ProtocolError(
            f"the body is longer than {self._longest} bytes; send a shorter one, or raise server.max_body_bytes",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="body_too_long",
        )
