"""Turning tokens into text as they come, as far as it can be told by then.

What lives here: generated text piece by piece, its tokens' probabilities beside it, and text that no model is asked for,
each held to the request's limits.
What never does: models, the queue (``engine``).
"""

import codecs
import math
from collections import deque
from collections.abc import Callable, Sequence

from lorad.serving import marks
from lorad.serving.requests import Chunk, GenerationRequest, Sampling, TokenLogprobs, WrittenToken

TAIL = 16
"""Tokens behind a cut: so many are decoded again with what follows them."""
CUT = 48
"""Tokens after which a cut is tried."""


class GrowingText:
    """The text of tokens that come one after the other, each decoded a bounded number of times.

    Only the last tokens are decoded again: what a token says may hang on those before it (a character in several tokens, a
    blank that opens a text), but not on those far away. A cut is made where the tokens behind it say the same alone.
    """

    def __init__(self, text: Callable[[list[int]], str]) -> None:
        self._text = text
        self._all: list[int] = []
        self._begin = 0
        """Tokens before the cut."""
        self._before = 0
        """Characters before the cut."""

    def add(self, token: int) -> None:
        """Take the next token."""
        self._all.append(token)

    def after(self, sent: int, *, whole: bool) -> str | None:
        """Return the text behind the first ``sent`` characters; ``None`` while it ends in half a character.

        ``whole`` decodes all tokens together once more, as they were taught.
        """
        if whole:
            return self._text(self._all)[sent:]
        text = self._text(self._all[self._begin :])
        if text.endswith("\ufffd"):
            return None
        fresh = text[sent - self._before :]
        if len(self._all) - self._begin >= CUT and len(self._all) % TAIL == 0:
            self._cut(text, sent)
        return fresh

    def _cut(self, text: str, sent: int) -> None:
        kept = self._text(self._all[-TAIL:])
        before = self._before + len(text) - len(kept)
        if kept and text.endswith(kept) and before <= sent:
            self._begin, self._before = len(self._all) - TAIL, before


class TokensAlongside:
    """The tokens of a text with their probabilities, each handed on with the piece of the text that it begins in."""

    def __init__(self, written: Callable[[int], bytes]) -> None:
        self._written = written
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0
        """Characters that the tokens write so far."""
        self._waiting: deque[WrittenToken] = deque()

    def add(self, told: TokenLogprobs) -> None:
        """Take the next token."""
        written = self._written(told.token)
        top = tuple((self._written(token), logprob) for token, logprob in told.top)
        self._waiting.append(WrittenToken(written, self._length, told.logprob, top))
        self._length += len(self._decoder.decode(written))

    def before(self, end: float) -> tuple[WrittenToken, ...]:
        """Return what was not handed on yet of the tokens that begin within so many characters."""
        found = []
        while self._waiting and self._waiting[0].offset < end:
            found.append(self._waiting.popleft())
        return tuple(found)


class Streamer:
    """Turn tokens into text as they come, as the task has it, until the answer ends."""

    def __init__(
        self,
        request: GenerationRequest,
        text: Callable[[list[int]], str],
        ends: set[int],
        written: Callable[[int], bytes] | None = None,
    ) -> None:
        """Take how tokens read as ``text`` together, and where their probabilities are told how each is ``written``."""
        self._request = request
        self._ends = ends
        self._text = GrowingText(text)
        self._tokens = TokensAlongside(written) if written else None
        self._sent = 0
        """Characters of the answer that were sent."""
        self._is_stopped = False
        """Whether a stop text was met: what stands behind it is not sent."""
        self._finish = "length"
        self.count = 0
        """Tokens of the answer, the end token included."""

    def put(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> bool:
        """Take the next tokens, with their probabilities or without; return whether more are wanted."""
        if self._request.cancelled.is_set():
            self._finish = "cancelled"
            return False
        most = self._request.sampling.max_tokens
        for place, token in enumerate(tokens):
            self.count += 1
            if token in self._ends:
                self._finish = "stop"
                return False
            self._text.add(token)
            if self._tokens:
                self._tokens.add(logprobs[place])
            if self.count == most:
                break
        self._send(whole=False)
        return not self._is_stopped and (most is None or self.count < most)

    def close(self) -> None:
        """Send what is left and say why the answer ended."""
        if not self._is_stopped:
            self._send(whole=True)  # a stop text may show in the last half of a character
        left = self._alongside(self._sent if self._is_stopped else math.inf)
        self._request.chunks.put(Chunk("", self._finish, len(self._request.prompt), self.count, left))

    def _alongside(self, end: float) -> tuple[WrittenToken, ...]:
        return self._tokens.before(end) if self._tokens else ()

    def _send(self, *, whole: bool) -> None:
        fresh = self._text.after(self._sent, whole=whole)
        if fresh is None:
            return  # half of a character: wait for the rest of it
        stops = self._request.sampling.stop  # what was sent holds no part of one: that is held back
        cut = min((at for stop in stops if (at := fresh.find(stop)) >= 0), default=-1)
        if cut >= 0:
            fresh, self._finish, self._is_stopped = fresh[:cut], "stop", True
        held = 0 if whole or self._is_stopped else marks.begun(fresh, stops)
        fresh = fresh[: len(fresh) - held]
        if fresh:
            self._sent += len(fresh)
            self._request.chunks.put(Chunk(fresh, tokens=self._alongside(self._sent)))


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
