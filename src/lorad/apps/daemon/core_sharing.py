"""With how many cores the thread that answers computes, and what computes beside it.

What lives here: whose cores they are. What never does: threads, what is computed.
"""

import threading
from collections.abc import Callable
from typing import Any

from lorad.models import hardware

SETTLE_SECONDS = 1.0
"""A step of the thread that answers is over by then; if it is not, it has the cores a little longer."""


class CoreSharing:
    """All cores are the answering thread's; while something long is computed beside it, one of them is not.

    Threads that share a core hold each other up: two that compute one product together wait for each other at its end, and
    whoever is without a core then keeps both (bench/LOG.md, 2026-11-30).
    """

    def __init__(self, cores: int, compute_with: Callable[[int], None] = hardware.compute_with) -> None:
        self._cores = cores
        self._compute_with = compute_with
        self._changed = threading.Condition()
        self._lent = 0
        self._taken = 0
        """With how many the answering thread computes; 0 before it has begun."""

    def take(self) -> None:
        """Take what answering may have now. The thread that answers calls this before each of its steps."""
        with self._changed:
            if self._taken != self._wanted():
                self._taken = self._wanted()
                self._compute_with(self._taken)
                self._changed.notify_all()

    def beside(self, act: Callable[[], Any]) -> Any:
        """Run something on a core that answering leaves meanwhile; return what it returns."""
        self._lend(1)
        try:
            return act()
        finally:
            self._lend(-1)

    def settle(self, seconds: float | None = None) -> None:
        """Wait until the thread that answers has what it may have, and leave all others one core each."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == self._wanted(), seconds)
            self._compute_with(1)  # what one thread takes is what every new one would get

    def _lend(self, more: int) -> None:
        with self._changed:
            self._lent += more
            self.settle(SETTLE_SECONDS if self._taken else 0)

    def _wanted(self) -> int:
        return max(1, self._cores - 1) if self._lent else self._cores
