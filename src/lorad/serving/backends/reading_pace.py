"""How many tokens of prompts a step reads, so that answers under way do not wait long for it.

What lives here: the arithmetic. What never does: models, clocks (one is handed in).

A piece of 256 tokens is nothing to a GPU, and takes most of a second on a processor without matrix units.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_WAIT = 0.1
"""Seconds that answers under way wait for prompts in one step. With 0.2 sixteen clients got 5 % more tokens a second, with 0.05 4 % fewer."""
LEAST = 32
"""Tokens that a step reads in any case: a shorter piece costs a processor nearly as much, and is measured as so many."""
NEWEST_SHARE = 0.5
"""Of the newest measurement in what a token is taken to cost."""


class ReadingPace:
    """The length of the pieces in which prompts are read."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        """``most`` is what a step reads where nobody waits, in tokens; ``clock`` tells seconds."""
        self._most = most
        self._clock = clock
        self._seconds_per_token: float | None = None

    def tokens(self, *, are_others_waiting: bool) -> int:
        """Return how many tokens of prompts the next step may read."""
        if not are_others_waiting or not self._seconds_per_token:
            return self._most
        return min(self._most, max(LEAST, round(LONGEST_WAIT / self._seconds_per_token)))

    @contextmanager
    def reading(self, tokens: int) -> Iterator[None]:
        """Measure how long so many tokens take in a block."""
        began = self._clock()
        yield
        newest = (self._clock() - began) / max(tokens, min(LEAST, self._most))
        before = newest if self._seconds_per_token is None else self._seconds_per_token
        self._seconds_per_token = before + NEWEST_SHARE * (newest - before)
