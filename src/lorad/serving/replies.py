"""What a client makes of the daemon's bytes: records, the text of a stream, errors that say what to do.

What lives here: what the two clients have in common. What never does: sockets (``client``, ``async_client``).
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from lorad.errors import ConfigError, LoradError, ProtocolError, TransientError
from lorad.serving.record_json import RecordError, read

if TYPE_CHECKING:
    from lorad.serving.completions import CompletionChunk, Origin

T = TypeVar("T")

ANSWER_SECONDS = 30.0
"""Any answer that no model has to think about comes within this."""

TOKEN_SECONDS = 600.0
"""An answer may wait in the queue, and on a slow machine behind a session, before its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vector:
    """A text's vector, as numbers: a client of lorad's never asks for base64."""

    embedding: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vectors:
    """An answer that holds vectors."""

    data: tuple[_Vector, ...]


class Told:
    """What a stream has told so far, besides the text."""

    finish_reason: str | None = None
    """``stop`` for a whole answer, ``length`` for one that was cut; ``None`` before it has ended."""
    tokens: int | None = None
    """How many tokens it has, told at the end."""
    model: str = ""
    """The track and the version that answer, as ``chat@v0.1``; told with its first piece."""
    origin: "Origin | None" = None
    """Where it comes from, told with its first piece; ``None`` where no example was looked for."""

    def take(self, event: "CompletionChunk") -> str:
        """Note what an event tells; return its text."""
        self.origin = event.lorad or self.origin
        self.model = event.model or self.model
        if event.usage:
            self.tokens = event.usage.completion_tokens
        for choice in event.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
        return "".join(str(choice.delta.get("content") or "") for choice in event.choices)


# -- asking


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were set."""
    return {name: value for name, value in options.items() if value is not None}


def version_path(version: str) -> str:
    """Return the route of a version, whatever its name holds."""
    return f"/lorad/versions/{quote(version, safe='')}"


def target(path: str, query: Mapping[str, Any]) -> str:
    """Return a route with its query."""
    return f"{path}?{urlencode(query)}" if query else path


# -- reading


def is_end(line: bytes) -> bool:
    """Tell whether a line of a stream is its last one."""
    name, _, data = line.strip().partition(b":")
    return name == b"data" and data.strip() == b"[DONE]"


def event(line: bytes) -> "CompletionChunk | None":
    """Return the event of a stream's line; ``None`` for one that only parts events, or keeps the connection alive."""
    from lorad.serving.completions import CompletionChunk  # noqa: PLC0415 - see lorad.apps.cli

    name, _, data = line.strip().partition(b":")
    if name != b"data":
        return None
    told = parsed(data)
    if "error" in told:  # its own status was sent before it failed
        raise complaint(http.client.INTERNAL_SERVER_ERROR, data)
    return record(CompletionChunk, told)


def vectors(told: Any) -> list[tuple[float, ...]]:
    """Return the vectors of an answer, in the texts' order."""
    return [each.embedding for each in record(_Vectors, told).data]


def parsed(payload: bytes) -> Any:
    """Return an answer's JSON; raise ``ProtocolError`` where it is none."""
    try:
        return json.loads(payload)
    except ValueError:
        raise ProtocolError(
            f"the answer is not JSON: {payload[:80]!r}", status=502, code="bad_answer"
        ) from None


def record(kind: type[T], told: Any) -> T:
    """Return an answer as a record; raise ``ProtocolError`` where it makes none."""
    try:
        return read(kind, told)
    except RecordError as error:
        raise ProtocolError(
            f"lorad sent an unexpected answer: {error}; if it was upgraded, restart it",
            status=http.client.BAD_GATEWAY,
            code="bad_answer",
        ) from None


def complaint(status: int, payload: bytes) -> ProtocolError:
    """Return what the daemon says is wrong."""
    from lorad.serving.completions import Failure  # noqa: PLC0415 - see lorad.apps.cli

    try:
        told = read(Failure, json.loads(payload)).error
    except ValueError:
        excerpt = payload[:200].decode(errors="replace")
        return ProtocolError(
            f"lorad answered with status {status}: {excerpt}", status=status, code="bad_answer"
        )
    beside = {"param": told.param, **told.data}
    data = {name: value for name, value in beside.items() if name != "status" and value is not None}
    return ProtocolError(told.message, status=status, code=told.code, **data)


# -- connections


def no_connection(error: OSError, path: Path, home: Path) -> LoradError:
    """Return why a socket cannot be connected to, as a sentence."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return ConfigError(
            f"lorad is not running for {home} (no answer at {path}); start it with: lorad --home {home} run",
            code="not_running",
            socket=str(path),
        )
    if isinstance(error, PermissionError):
        return ConfigError(
            f"no permission to use the socket {path}; its owner and its group have it: ls -l {path}",
            code="no_access",
            socket=str(path),
        )
    return TransientError(f"the socket {path} cannot be connected to: {error}", code="no_connection")


def broken(error: Exception) -> TransientError:
    """Return in a sentence that the daemon went away, or is silent, in the middle of an exchange."""
    if isinstance(error, TimeoutError):
        return TransientError("lorad did not answer in time; see: lorad status", code="timeout")
    return TransientError(
        f"the connection to lorad broke in the middle of an answer ({type(error).__name__}); try again",
        code="connection_lost",
    )


def broken_off() -> TransientError:
    """Return that a stream ended before its answer did."""
    return TransientError("the answer broke off; lorad may have stopped", code="connection_lost")
