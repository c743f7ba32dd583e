"""Trying again later, each time after a longer wait.

What lives here: when something that failed may be tried again, and why it waits. What never does: what is tried.
A restart begins without waits.
"""

from collections.abc import Callable, Hashable
from pathlib import Path

from lorad.datasets.inbox import failures
from lorad.errors import describe
from lorad.log import get_logger
from lorad.storage.file_names import readable

log = get_logger()

LONGEST_WAIT = 300.0
"""Seconds between two tries of what meets a full disk."""


class Backoff:
    """What has to wait before it is tried again, in seconds of a steady clock."""

    def __init__(self) -> None:
        self._waits: dict[Hashable, tuple[int, float]] = {}

    def is_over(self, what: Hashable, ticks: float) -> bool:
        """Tell whether this may be tried."""
        return ticks >= self._waits.get(what, (0, ticks))[1]

    def lengthen(self, what: Hashable, ticks: float, least: float = 0.0) -> int:
        """Let this wait twice as long as the last time, ``least`` seconds or more; return how often it has failed."""
        tries = self._waits.get(what, (0, 0.0))[0] + 1
        self._waits[what] = (tries, ticks + max(least, min(LONGEST_WAIT, 2.0 ** (tries - 1))))
        return tries

    def tries(self, what: Hashable) -> int:
        """Return how often this has failed."""
        return self._waits.get(what, (0, 0.0))[0]

    def end(self, what: Hashable) -> None:
        """Note that this went well."""
        self._waits.pop(what, None)


class Attempts:
    """Things that are tried again and again; none keeps the others waiting."""

    def __init__(self, least_wait: Callable[[Exception], float] = lambda _: 0.0) -> None:
        self.backoff = Backoff()
        self._least_wait = least_wait
        """Tells the seconds that something rests at least after this error."""
        self._told: set[tuple[Hashable, str]] = set()
        """What has been logged in full: the same again is told in a line."""
        self._troubles: dict[Hashable, str] = {}
        """What could not be done at its last try, and why."""

    def attempt(self, what: Hashable, ticks: float, act: Callable[[], object]) -> None:
        """Do something unless it has to wait; what cannot be done now waits, and nothing waits for it."""
        if not self.backoff.is_over(what, ticks):
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest of a step has its turn
            self._put_off(what, ticks, error)
        else:
            self.end(what)
            self._told = {told for told in self._told if told[0] != what}

    def end(self, what: Hashable) -> None:
        """Forget that this waits: there is nothing to try any more."""
        self.backoff.end(what)
        self._troubles.pop(what, None)

    def _put_off(self, what: Hashable, ticks: float, error: Exception) -> None:
        tries = self.backoff.lengthen(what, ticks, self._least_wait(error))
        self._troubles[what] = str(error) or type(error).__name__
        facts = {"what": readable(str(what)), "tries": tries, **describe(error)}
        kind = (what, type(error).__name__)
        if failures.is_passing(error) or kind in self._told:
            log.warning("tried_again_later", **facts)
        else:
            self._told.add(kind)
            log.error("step_failed", **facts, exc_info=error)

    def why(self, what: Hashable) -> str:
        """Return why this could not be done at its last try, an empty string when it could."""
        return self._troubles.get(what, "")

    @property
    def troubles(self) -> list[str]:
        """Return why something waits that could not be done, each reason once; of files their own line tells."""
        told = [why for what, why in self._troubles.copy().items() if not isinstance(what, Path)]
        return list(dict.fromkeys(told))
