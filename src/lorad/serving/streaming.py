"""Turning tokens into text as they come, as far as it can be told by then.

What lives here: generated text piece by piece, and text that no model is asked for, both held to the request's limits.
What never does: models, the queue (``engine``).
"""

import contextlib
from collections.abc import Callable
from typing import Any

from transformers.generation.streamers import BaseStreamer

from lorad.serving.requests import Chunk, GenerationRequest, Sampling


class Enough(Exception):  # noqa: N818 - control flow, no error
    """A stop text was met, or the client left."""


class Streamer(BaseStreamer):
    """Turn tokens into text as they come, as the task has it."""

    def __init__(self, request: GenerationRequest, text: Callable[[list[int]], str], ends: set[int]) -> None:
        self._request = request
        self._text = text
        self._ends = ends
        self._tokens: list[int] = []
        self._sent = 0
        """Characters of the answer that were sent."""
        self._ended = False
        self._prompt_seen = False
        self._finish = "length"
        self.count = 0

    def put(self, value: Any) -> None:
        """Take the next token; the first call is the prompt."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        if self._request.cancelled.is_set():
            raise Enough
        for token in value.flatten().tolist():
            self.count += 1
            if token in self._ends:
                self._finish = "stop"
                return
            self._tokens.append(token)
        self._send(whole=False)

    def end(self) -> None:
        """Nothing: ``close`` ends the answer, also after an early stop."""

    def close(self) -> None:
        """Send what is left and say why the answer ended."""
        if not self._ended:
            with contextlib.suppress(Enough):  # a stop text may show in the last half of a character
                self._send(whole=True)
        self._request.chunks.put(Chunk("", self._finish, len(self._request.prompt), self.count))

    def _send(self, *, whole: bool) -> None:
        text = self._text(self._tokens)
        if not whole and text.endswith("\ufffd"):
            return  # half of a character: wait for the rest of it
        fresh = text[self._sent :]  # what was sent holds no part of a stop text: that is held back
        stops = self._request.sampling.stop
        cut = min((at for stop in stops if (at := fresh.find(stop)) >= 0), default=-1)
        if cut >= 0:
            fresh, self._finish, self._ended = fresh[:cut], "stop", True
        held = 0 if whole or self._ended else _possible_stop(fresh, stops)
        fresh = fresh[: len(fresh) - held]
        if fresh:
            self._sent += len(fresh)
            self._request.chunks.put(Chunk(fresh))
        if self._ended:
            raise Enough


def quoted(
    text: str,
    sampling: Sampling,
    tokens: Callable[[str], list[int]],
    decoded: Callable[[list[int]], str],
) -> tuple[Chunk, Chunk]:
    """Return a known text as the answer's one piece and its end, cut where generating it would have ended.

    Its tokens count as the answer's, so that what ``max_tokens`` cuts is what the usage tells. The prompt has none: no
    model reads it.
    """
    written, finish = tokens(text), "stop"
    if sampling.max_tokens is not None and len(written) > sampling.max_tokens:
        written, finish = written[: sampling.max_tokens], "length"
        text = decoded(written).rstrip("\ufffd")  # the cut may go through a character
    cut = min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=-1)
    if cut >= 0:
        text, finish = text[:cut], "stop"
        written = tokens(text)
    return Chunk(text), Chunk("", finish, 0, len(written))


def _possible_stop(text: str, stops: tuple[str, ...]) -> int:
    """Return how many last characters may be the beginning of a stop text."""
    lengths = (
        size
        for stop in stops
        for size in range(min(len(stop) - 1, len(text)), 0, -1)
        if stop.startswith(text[-size:])
    )
    return max(lengths, default=0)
