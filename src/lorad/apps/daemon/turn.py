"""Whose turn it is: a step's, or that of a person's order."""

import threading
from collections.abc import Callable
from typing import TypeVar

from lorad.storage import files

T = TypeVar("T")


class Turn:
    """Steps and people's commands, one at a time; and the bell that wakes the loop."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.wake = threading.Event()

    def take(self, act: Callable[[], T]) -> T:
        """Do something while nothing else is done."""
        with self._lock, files.passing_errors("it could not be done"):
            return act()

    def take_within(self, seconds: float, act: Callable[[bool], T]) -> T:
        """Do something after so long even if it is not our turn yet; it is told whether it is."""
        has_turn = self._lock.acquire(timeout=seconds)
        try:
            return act(has_turn)
        finally:
            if has_turn:
                self._lock.release()
