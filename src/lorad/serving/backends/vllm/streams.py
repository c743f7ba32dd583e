"""Answers on their way from the server to whoever asked.

What lives here: the streams, those that wait for the server, how each ends. What never does: versions (``backend``), where the
server is (``server``).

An answer that breaks off ends with an error, and the others go on. One that has no token yet is asked again, once: nobody can
tell the difference.
"""

import selectors
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorad.errors import RegistryError
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.vllm import protocol
from lorad.serving.backends.vllm.served import Served
from lorad.serving.backends.vllm.server import Server, away
from lorad.serving.backends.vllm.wire import LARGEST_REPLY, BrokenExchange, Exchange, Reply

PATIENCE_SECONDS = 10.0
"""An answer waits so long for a server that is away."""
TRIES = 2
"""How often an answer is begun."""


@dataclass(slots=True, eq=False)
class Asked:
    """An answer that is to be begun."""

    generation: Generation
    served: Served
    body: Mapping[str, Any]
    since: float
    tries: int = 0


@dataclass(slots=True, eq=False)
class _Stream:
    """An answer on its way."""

    asked: Asked
    exchange: Exchange
    tokens: protocol.TokenStream
    complaint: bytearray = field(default_factory=bytearray)
    """What the server says instead of an answer."""


class Streams:
    """All answers that are asked for, in one thread."""

    def __init__(self, server: Server, selector: selectors.BaseSelector) -> None:
        self._server, self._selector = server, selector
        self._streams: list[_Stream] = []
        self._waiting: deque[Asked] = deque()
        self.lost = ""
        """Why the server has to be looked at: a connection broke, or it does not know a model."""

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def is_idle(self) -> bool:
        """Tell whether nobody waits for anything."""
        return not (self._streams or self._waiting)

    def asks(self, model: str) -> bool:
        """Tell whether an answer of this model is on its way."""
        return any(
            asked.served.model == model for asked in [*self._waiting, *(s.asked for s in self._streams)]
        )

    def submit(self, asked: Asked) -> None:
        """Take one more answer; it begins at the next ``begin``."""
        self._waiting.append(asked)

    def begin(self) -> None:
        """Begin everything that waits: the server is there, and proven."""
        while self._waiting and not self.lost:
            asked = self._waiting.popleft()
            asked.tries += 1
            try:
                asked.served.check()  # it may have waited for a server that came back with something else
                exchange = self._server.ask(protocol.streamed(asked.body))
            except BrokenExchange as error:
                self._break(asked, str(error))
                return
            except RegistryError as error:
                asked.generation.sink.end(error)
                continue
            stream = _Stream(asked, exchange, protocol.TokenStream(asked.body, asked.generation.ends))
            self._streams.append(stream)
            self._selector.register(exchange.socket, exchange.wants, stream)

    def let_go(self, why_away: str) -> None:
        """End what nobody waits for any more, and what has waited too long for a server that is away."""
        now = self._server.clock()
        for stream in [each for each in self._streams if not each.asked.generation.sink.is_wanted]:
            self._end(stream)
            stream.asked.generation.sink.end()
        kept: deque[Asked] = deque()
        for asked in self._waiting:
            if not asked.generation.sink.is_wanted:
                asked.generation.sink.end()
            elif why_away and now - asked.since > PATIENCE_SECONDS:
                asked.generation.sink.end(away(self._server.address, why_away))
            else:
                kept.append(asked)
        self._waiting = kept

    def advance(self, stream: _Stream, ready: int) -> int:
        """Take what has come for one answer; return how many tokens it was."""
        sink = stream.asked.generation.sink
        try:
            came = stream.exchange.advance(ready)
            if self._selector.get_key(stream.exchange.socket).events != stream.exchange.wants:
                self._selector.modify(stream.exchange.socket, stream.exchange.wants, stream)
            return self._take(stream, came)
        except BrokenExchange as error:
            self._end(stream)
            self._break(stream.asked, str(error), has_begun=stream.tokens.count > 0)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told; a panic of Rust's is no Exception
            self._end(stream)
            sink.end(error)
        return 0

    def check_time(self) -> None:
        """End the answers for which the server has said nothing for too long."""
        for stream in list(self._streams):
            try:
                stream.exchange.check_time()
            except BrokenExchange as error:
                self._end(stream)
                self._break(stream.asked, str(error), has_begun=True)

    def _take(self, stream: _Stream, came: bytes) -> int:
        if stream.exchange.status not in {None, 200}:
            self._refused(stream, came)
            return 0
        before = stream.tokens.count
        tokens = stream.tokens.feed(came)
        goes_on = stream.asked.generation.sink.put(tokens) if tokens else True
        if stream.tokens.is_over or not goes_on:
            self._end(stream)
            stream.asked.generation.sink.end()
        elif stream.exchange.is_over:
            raise BrokenExchange("the answer broke off")
        return stream.tokens.count - before

    def _refused(self, stream: _Stream, came: bytes) -> None:
        """Take what the server says instead of an answer."""
        stream.complaint += came
        if not stream.exchange.is_over and len(stream.complaint) <= LARGEST_REPLY:
            return
        reply = Reply(stream.exchange.status or 0, bytes(stream.complaint))
        if protocol.is_unknown_model(reply.status):  # it has restarted, and nobody noticed
            raise BrokenExchange(f"it does not know {stream.asked.served.model}")
        raise protocol.refusal(reply)

    def _break(self, asked: Asked, why: str, *, has_begun: bool = False) -> None:
        self.lost = why
        if has_begun or asked.tries >= TRIES:
            asked.generation.sink.end(away(self._server.address, why))
        else:
            self._waiting.appendleft(asked)

    def _end(self, stream: _Stream) -> None:
        """Hang up, which ends the answer at the server too."""
        if stream in self._streams:
            self._selector.unregister(stream.exchange.socket)
            stream.exchange.close()
            self._streams.remove(stream)

    def close(self) -> None:
        """Hang up on all."""
        for stream in list(self._streams):
            self._end(stream)
            stream.asked.generation.sink.end(away(self._server.address, "the daemon stops"))
        for asked in self._waiting:
            asked.generation.sink.end(away(self._server.address, "the daemon stops"))
        self._waiting.clear()
