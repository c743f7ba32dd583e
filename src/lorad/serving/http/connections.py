"""Connections to the socket, within bounds that no client can stretch.

What lives here: how many there are at once, how long a client may take to send and to read, one line of log for many
refusals. What never does: routes, bodies, what a request means.

A connection waits for its client (a header, a body, the reading of an answer) or its client waits for it. Only the
first kind has a deadline, and where there are too many connections only the first kind makes room, the one that has
waited longest first. So whoever opens many and says nothing pushes out his own.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lorad.config import ServerSettings
from lorad.errors import ProtocolError
from lorad.log import get_logger
from lorad.serving.http import http_errors

log = get_logger()

_quiet = logging.getLogger("lorad.serving.http.connections")
_quiet.setLevel(
    logging.ERROR
)  # uvicorn warns of every request that is not HTTP: whoever sends them fills the log

AT_ONCE = 64
"""Connections that are accepted at once, before any can make room."""
BACKLOG = 2048
"""Connections that the system keeps until they are accepted; one more is refused to whoever does not wait."""
TOLD_EVERY = 60.0
"""Seconds between two lines about the same kind of trouble."""

Turn = Literal["header", "body", "reading"]
"""What a client is to do next."""


def limit(wanted: int) -> int:
    """Return how many connections there may be: half of the descriptors are for files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if descriptors == resource.RLIM_INFINITY else max(1, min(wanted, descriptors // 2))


class Tally:
    """Counts what happens often, and tells of it now and then."""

    def __init__(self, event: str, clock: Callable[[], float], **facts: Any) -> None:
        self._event, self._clock, self._facts = event, clock, facts
        self._count = 0
        self._told_at = float("-inf")

    def add(self) -> None:
        """Count one more, and tell how many there were since the last line, if that was long ago."""
        self._count += 1
        if self._clock() - self._told_at >= TOLD_EVERY:
            log.warning(self._event, count=self._count, **self._facts)
            self._count, self._told_at = 0, self._clock()


class Gate:
    """All connections of one server: who is in, and who makes room."""

    def __init__(self, settings: ServerSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._most = limit(settings.max_connections)
        self._inside: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Those that wait for their clients, the one that has waited longest first."""
        self._crowded = Tally("connections_full", loop.time, limit=self._most)
        self._scarce = Tally("descriptors_full", loop.time)
        self.late = Tally("clients_too_slow", loop.time)

    def enter(self, connection: "Connection") -> bool:
        """Let a connection in, in the place of one that waits if need be; return whether there is room."""
        if len(self._inside) >= self._most:
            self._crowded.add()
            if not self.make_room():
                return False
        self._inside.add(connection)
        return True

    def make_room(self) -> bool:
        """Close the connection that has waited longest for its client; return whether there was one."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.transport.abort()
        return True

    def leave(self, connection: "Connection") -> None:
        """Forget a connection."""
        self._inside.discard(connection)
        self._waiting.pop(connection, None)

    def wait(self, connection: "Connection", *, has_begun: bool) -> None:
        """Note that a connection begins to wait for its client, or no longer does."""
        self._waiting.pop(connection, None)
        if has_begun and connection in self._inside:
            self._waiting[connection] = None

    def complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what the event loop cannot: without descriptors it would say so hundreds of times a second."""
        if isinstance(context.get("exception"), OSError) and "accept" in context["message"]:
            self._scarce.add()
            self.make_room()
        else:
            loop.default_exception_handler(context)


class Connection(H11Protocol):
    """One connection: HTTP as uvicorn speaks it, with a deadline whenever it is the client's turn."""

    def __init__(self, gate: Gate, settings: ServerSettings, **given: Any) -> None:
        super().__init__(**given)
        self.logger = _quiet
        self._gate = gate
        self._seconds: dict[Turn, float] = {
            "header": settings.header_seconds,
            "body": settings.transfer_seconds,
            "reading": settings.transfer_seconds,
        }
        self._turn: Turn | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin, or refuse to."""
        super().connection_made(transport)
        if not self._gate.enter(self):
            self.connections.discard(self)
            transport.write(_FULL)
            transport.close()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._gate.leave(self)
        self._give(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Note that an answer is written."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is written to."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Note that it has read."""
        super().resume_writing()
        self._look()

    def _look(self) -> None:
        turn = self._whose_turn()
        if turn != self._turn:
            self._give(turn)

    def _whose_turn(self) -> Turn | None:
        """Return what the client is to do next, ``None`` while it is lorad's turn."""
        if self.flow.write_paused or self.transport.is_closing():
            return "reading"
        turns: dict[Any, Turn] = {h11.IDLE: "header", h11.SEND_BODY: "body"}
        return turns.get(self.conn.their_state)

    def _give(self, turn: Turn | None) -> None:
        self._turn = turn
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if turn is None else self.loop.call_later(self._seconds[turn], self._end)
        self._gate.wait(self, has_begun=turn is not None)

    def _end(self) -> None:
        """Cut off a client that lets everybody wait."""
        self._gate.late.add()
        self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, whose event loop does not flood the log."""

    def __init__(self, config: uvicorn.Config, settings: ServerSettings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: Any = None) -> None:
        """Start to listen."""
        loop = asyncio.get_running_loop()
        gate = Gate(self._settings, loop)
        loop.set_exception_handler(gate.complain)
        self.config.http_protocol_class = partial(Connection, gate, self._settings)  # type: ignore[assignment]
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has one number for both


def serve(app: Any, settings: ServerSettings) -> Server:
    """Return a server for an application, to be run on a bound socket."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        lifespan="off",
        backlog=AT_ONCE,
        timeout_graceful_shutdown=5,
    )
    return Server(config, settings)


def _refusal() -> bytes:
    """Return the whole answer to a connection too many, as it goes out."""
    error = ProtocolError("too many connections are open; try again in a second", status=503, code="busy")
    body = bytes(http_errors.response(error).body)
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "retry-after: 1",
        "connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


_FULL = _refusal()
