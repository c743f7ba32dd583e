"""HTTP to one server, on non-blocking sockets: one question and its answer on a connection of its own.

What lives here: connecting, sending, reading, limits of time and size. What never does: what is said (``protocol``), when to
try again (``backend``).

A talk is a generator that yields questions and is sent replies. So what is said to the server is written once: ``run`` waits
for each reply, and whoever has other things to do steps a ``Progress`` between them.
"""

import json
import selectors
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

import h11

from lorad.errors import ConfigError

T = TypeVar("T")

READ_BYTES = 65_536
LARGEST_REPLY = 8_000_000
"""Bytes: the list of models is the longest reply, some hundred bytes a version."""
LOOK_SECONDS = 0.2
"""How often a wait looks at the clock."""
REPLY_SECONDS = 120.0
"""What is no answer to a client comes within this: loading an adapter takes some seconds."""


class BrokenExchange(Exception):  # noqa: N818 - told on as an error of lorad's own by whoever knows what it means
    """The server cannot be reached, went away, is silent, or does not speak as vLLM does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens: a Unix socket, or host and port; ``prefix`` stands before every path."""

    host: str = "localhost"
    port: int = 80
    prefix: str = ""
    path: Path | None = None

    @classmethod
    def of_url(cls, url: str) -> "Address":
        """Read ``http://host:port/prefix``; raise ``ConfigError`` for anything else."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme != "http" or parts.username or parts.query or parts.fragment:
            raise ConfigError(
                f"engine.vllm_url is {url!r}; write it like http://127.0.0.1:8000", code="bad_vllm_url"
            )
        return cls(host=host, port=port or 80, prefix=parts.path.rstrip("/").removesuffix("/v1"))

    @property
    def name(self) -> str:
        """Return host and port as HTTP writes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return str(self.path) if self.path else f"http://{self.name}{self.prefix}"

    def connect(self) -> socket.socket:
        """Return a socket that is connected, or about to be; raise ``OSError``."""
        if self.path is not None:
            return _connect(socket.AF_UNIX, str(self.path))
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        # vLLM listens on IPv4 alone by default, and "localhost" may name IPv6 first
        family, _, _, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
        return _connect(family, place)


def _connect(family: int, place: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        try:
            made.connect(place)
        except BlockingIOError:
            if family == socket.AF_UNIX:
                raise  # a Unix socket is never about to be connected: too many others wait
    except BaseException:
        made.close()
        raise
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request."""

    method: str
    target: str
    body: Any = None
    """JSON data, or ``None``."""
    seconds: float = REPLY_SECONDS
    """The whole reply comes within this; where ``streams``, the next part of it."""
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    body: bytes


Talk = Generator[Question, Reply, T]


class Exchange:
    """One question and its answer; ``advance`` it whenever the socket is ready for what it ``wants``."""

    def __init__(self, address: Address, question: Question, clock: Callable[[], float]) -> None:
        self._question, self._clock = question, clock
        self._http = h11.Connection(h11.CLIENT)
        self._out = self._request(address, question)
        self._since = clock()
        self.status: int | None = None
        """The answer's status; ``None`` before it has come."""
        self.is_over = False
        try:
            self.socket = address.connect()
        except OSError as error:
            raise BrokenExchange(_told(error)) from None

    def _request(self, address: Address, question: Question) -> bytes:
        body = b"" if question.body is None else json.dumps(question.body).encode()
        headers = [
            ("Host", address.name),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
        ]
        if body:
            headers.append(("Content-Type", "application/json"))
        head = h11.Request(method=question.method, target=address.prefix + question.target, headers=headers)
        parts = (head, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._http.send(part) or b"" for part in parts)

    @property
    def wants(self) -> int:
        """Return the selector's events to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)

    def advance(self, ready: int) -> bytes:
        """Send and read what can be without waiting; return what came of the body. Raise ``BrokenExchange``."""
        try:
            if ready & selectors.EVENT_WRITE and self._out:
                self._send()
            return self._read() if ready & selectors.EVENT_READ else b""
        except (OSError, h11.ProtocolError) as error:
            raise BrokenExchange(_told(error)) from None

    def _send(self) -> None:
        if failed := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(failed, "the connection failed")
        try:
            self._out = self._out[self.socket.send(self._out) :]
        except BlockingIOError:
            pass
        except ConnectionError:  # refused before all was sent: the answer says why
            self._out = b""

    def _read(self) -> bytes:
        try:
            came = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        if self._question.streams:
            self._since = self._clock()
        self._http.receive_data(came)
        body = b""
        while not self.is_over and (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self.status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                self.is_over = True
        return body

    def check_time(self) -> None:
        """Raise ``BrokenExchange`` where the answer takes too long."""
        if self._clock() - self._since > self._question.seconds:
            raise BrokenExchange(f"nothing came for {self._question.seconds:g} seconds")

    def close(self) -> None:
        """Hang up, which ends what the server still does for it."""
        self.socket.close()


class Progress(Generic[T]):
    """A talk on its way, one exchange after the other."""

    def __init__(self, talk: Talk[T], address: Address, clock: Callable[[], float]) -> None:
        self._talk, self._address, self._clock = talk, address, clock
        self._body = bytearray()
        self.exchange: Exchange | None = None
        """What to wait for; ``None`` where the talk is over."""
        self.result: T | None = None
        self._go_on(None)

    def advance(self, ready: int) -> None:
        """Go on without waiting; raise what the talk raises, or ``BrokenExchange``."""
        exchange = self.exchange
        if exchange is None:
            return
        try:
            self._body += exchange.advance(ready)
            exchange.check_time()
        except BrokenExchange:
            self.close()
            raise
        if len(self._body) > LARGEST_REPLY:
            self.close()
            raise BrokenExchange(f"a reply of more than {LARGEST_REPLY} bytes came")
        if exchange.is_over:
            exchange.close()
            reply, self._body = Reply(exchange.status or 0, bytes(self._body)), bytearray()
            self._go_on(reply)

    def _go_on(self, reply: Reply | None) -> None:
        self.exchange = None
        try:
            question = next(self._talk) if reply is None else self._talk.send(reply)
        except StopIteration as end:
            self.result = end.value
            return
        self.exchange = Exchange(self._address, question, self._clock)

    def close(self) -> None:
        """Break it off."""
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
        self._talk.close()


def run(talk: Talk[T], address: Address, clock: Callable[[], float]) -> T:
    """Wait for a talk's end and return its result; raise what it raises, or ``BrokenExchange``."""
    progress = Progress(talk, address, clock)
    try:
        while (exchange := progress.exchange) is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(exchange.socket, exchange.wants)
                ready = sum(events for _, events in selector.select(LOOK_SECONDS))
            progress.advance(ready)
    finally:
        progress.close()
    return cast("T", progress.result)  # it is over


def _told(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
