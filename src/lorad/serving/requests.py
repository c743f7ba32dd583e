"""Requests on their way to an answer: what was asked, of which version, and where the answer arrives.

What lives here: the records that the engine's queue holds. What never does: models, HTTP.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorad.errors import ProtocolError
from lorad.retrieval.answering import Reply

T = TypeVar("T")

LONGEST_SILENCE = 600.0
"""Seconds without a word after which a client is sent away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose the next token; temperature 0, or next to it, is greedy."""

    max_tokens: int | None = None
    """``None`` takes what the context leaves behind the prompt."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 chooses among all tokens."""
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token of the answer; 0 tells of the token alone, ``None`` nothing."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was, as a backend tells it: natural logarithms of the model's own distribution.

    That is the one before temperature, top_p, min_p or a schema: what the model says, whatever is chosen from it.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place, the likeliest first, as many as ``Sampling.logprobs`` asks for."""


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token of an answer as it is written, with its ``TokenLogprobs``."""

    written: bytes
    """UTF-8; part of a character where a character takes several tokens."""
    offset: int
    """Characters of the answer before it."""
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer as generated; the last one says why it ended."""

    text: str
    finish: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    tokens: tuple[WrittenToken, ...] = ()
    """Those that begin in this part, if the request asks for their probabilities."""


@dataclass(slots=True, eq=False)
class GenerationRequest:
    """One accepted question to a task that answers in text."""

    track: str
    version: str
    prompt: list[int]
    sampling: Sampling
    reply: Reply | None = None
    """How it is answered, and from which examples; ``None`` where nothing was looked up."""
    chunks: "queue.Queue[Chunk | BaseException]" = field(default_factory=queue.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    accepted_at: float = field(default_factory=time.perf_counter)
    """In seconds of a clock that only goes forwards."""

    @property
    def is_quoted(self) -> bool:
        """Tell whether the answer is a known text, for which no model is asked."""
        return self.reply is not None and self.reply.text is not None

    def answer(self, timeout: float = LONGEST_SILENCE) -> Iterator[Chunk]:
        """Yield the answer as it is generated; raise what went wrong. Leaving early cancels the rest."""
        try:
            while True:
                chunk = _next(self.chunks, timeout)
                yield chunk
                if chunk.finish:
                    return
        finally:
            self.cancelled.set()

    def end_cancelled(self) -> None:
        """Tell whoever still listens that the answer was cancelled."""
        self.chunks.put(Chunk("", "cancelled"))

    def fail(self, error: BaseException) -> None:
        """Tell what went wrong."""
        self.chunks.put(error)


@dataclass(slots=True, eq=False)
class PredictionRequest:
    """Some accepted inputs to a task that answers with data."""

    track: str
    version: str
    rows: Sequence[Any]
    answers: "queue.Queue[list[Any] | BaseException]" = field(default_factory=queue.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def answer(self, timeout: float = LONGEST_SILENCE) -> list[Any]:
        """Return the answer to each input; raise what went wrong. Leaving early cancels it."""
        try:
            return _next(self.answers, timeout)
        finally:
            self.cancelled.set()

    def end_cancelled(self) -> None:
        """Tell whoever still listens that the answer was cancelled."""
        self.fail(ProtocolError("the request was cancelled", status=503, code="cancelled"))

    def fail(self, error: BaseException) -> None:
        """Tell what went wrong."""
        self.answers.put(error)


Request = GenerationRequest | PredictionRequest


def _next(arrivals: "queue.Queue[T | BaseException]", timeout: float) -> T:
    """Return the next thing that arrives, or raise it if it is an error."""
    try:
        arrived = arrivals.get(timeout=timeout)
    except queue.Empty:
        raise ProtocolError(
            f"no word came for {timeout:g} seconds; the machine is too busy, try again later",
            status=503,
            code="timeout",
        ) from None
    if isinstance(arrived, BaseException):
        raise arrived
    return arrived
