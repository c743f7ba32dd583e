"""Bringing the tracks' indexes up to memory, a little at a time between the loop's other work.

What lives here: whose turn it is, and how many examples fit into the time. What never does: embedding, clocks; one is
handed in.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping

from lorad.apps.daemon.ports import Index

STEP_SECONDS = 0.25
"""Most that a step takes: people's orders and dropped files wait for its end."""
MOST = 64
"""Examples that are embedded together at most; more in a batch are no faster on a CPU."""


class Indexing:
    """The indexes of all tracks; ``step`` is called again and again."""

    def __init__(self, indexes: Mapping[str, Index], clock: Callable[[], float]) -> None:
        self._indexes = indexes
        self._clock = clock
        self._turn = 0
        self._batch: defaultdict[str, int] = defaultdict(int)
        """How many examples of each track were embedded together at last."""
        self._seconds_each: defaultdict[str, float] = defaultdict(float)
        """How long one of them took."""

    def step(self) -> bool:
        """Index what fits into a quarter of a second; return whether more is left.

        Tracks begin in turn, so that a long one keeps none waiting. The one that begins indexes one example at least,
        however long that takes.
        """
        names = sorted(self._indexes)
        begin = self._turn % max(1, len(names))
        self._turn += 1
        end = self._clock() + STEP_SECONDS
        is_more = False
        for place, name in enumerate([*names[begin:], *names[:begin]]):
            is_more |= self._fill(name, end, least=1 if place == 0 else 0)
        return is_more

    def _fill(self, name: str, end: float, least: int) -> bool:
        """Index examples of a track until the time is over; return whether it may have more."""
        now = self._clock()
        while limit := max(least, self._fitting(name, end - now)):
            is_more = self._indexes[name].step(limit)
            began, now, least = now, self._clock(), 0
            if not is_more:  # the batch was not full, so its time tells nothing
                return False
            self._batch[name], self._seconds_each[name] = limit, (now - began) / limit
        return True

    def _fitting(self, name: str, seconds: float) -> int:
        """Return how many examples are likely to take no longer: at most twice as many as at last, for some are long."""
        if seconds <= 0:
            return 0
        each, most = self._seconds_each[name], min(MOST, max(1, 2 * self._batch[name]))
        return min(most, int(seconds / each)) if each else most

    def left(self, name: str) -> int:
        """Count a track's examples that are not indexed yet."""
        return self._indexes[name].left() if name in self._indexes else 0
