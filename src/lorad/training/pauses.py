"""Waiting while questions are answered on the device that trains.

What lives here: when a session waits, for how long, and where it looks: before each layer with weights, forwards and
backwards. What never does: telling that questions are answered (``serving.engine``), priorities (``executors``).

The session waits by itself, between two operations. Stopping its process from outside would be quicker by the length of
one operation, but a stopped process does not notice that its daemon has died, holds what it holds, and does not know for
how long it stood.

It is never starved: while it waits it uses up a budget, which fills again while it works. Of any ``W`` seconds it works
at least ``min_share * (W - LONGEST)``. What it works while answers are wanted it claims for itself: beside an engine that
computes, a tenth of a second brings next to nothing.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

LONGEST = 10.0
"""Seconds that a session waits in one go, where it has worked long enough before."""
SHORTEST = 0.3
"""Seconds of waiting that the budget must hold before a session waits: where answering never ends, it works and waits in
turn, in pieces so short that no single answer bears much of it."""
LINGER = 0.5
"""Seconds behind an answer during which the next one is expected."""
TOLD_EVERY = 10.0
"""Seconds of waiting after which it is told anew."""
NAP = 0.01
"""Seconds between two looks at the mark while a session waits."""


class Pauses:
    """Lets a session wait for answers, within its budget, and counts the seconds."""

    def __init__(
        self,
        min_share: float,
        answered_at: Callable[[], float],
        *,
        claim: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """``answered_at`` returns when the last answer ended, by the same clock; infinity while one is wanted.

        ``claim`` is told when this session needs the device for itself, and when no more.
        """
        self._gain = (1 - min_share) / min_share
        """Seconds of waiting that a second of work allows."""
        self._answered_at = answered_at
        self._claim = claim
        self._claims = False
        self._clock = clock
        self._sleep = sleep
        self._budget = LONGEST if self._gain else 0.0
        self._worked_from = clock()
        self.seconds = 0.0
        """Waited so far."""
        self.tell: Callable[[], None] = lambda: None
        """Called when it has waited for another ``TOLD_EVERY`` seconds: a session that waits long is not a slow one."""
        self._told = 0.0

    def look(self) -> None:
        """Wait, if somebody waits for an answer and the budget allows it."""
        now = self._clock()
        self._budget = min(LONGEST, self._budget + self._gain * (now - self._worked_from))
        is_answering = self._is_answering(now)
        if is_answering and self._budget >= SHORTEST:
            self._tell_claim(False)
            now = self._wait(now)
            self._tell_claim(self._is_answering(now))
        elif not is_answering:
            self._tell_claim(False)
        self._worked_from = now

    def _tell_claim(self, is_claimed: bool) -> None:
        if is_claimed != self._claims:
            self._claims = is_claimed
            self._claim(is_claimed)

    def _wait(self, began: float) -> float:
        """Wait until nobody asks or the budget is used up; return the time."""
        now, until = began, began + self._budget
        while now < until and self._is_answering(now):
            self._sleep(min(NAP, until - now))
            now = self._clock()
        self.seconds += now - began
        self._budget -= now - began
        if self.seconds - self._told >= TOLD_EVERY:
            self._told = self.seconds
            self.tell()
        return now

    def _is_answering(self, now: float) -> bool:
        return now - self._answered_at() < LINGER

    def watch(self, model: Any) -> None:
        """Look before each layer of a model that has weights, and before its gradient."""

        # plain functions: what copies a model's layers copies neither these nor what they hold on to
        def before(*_: Any) -> None:
            self.look()

        def behind(_module: Any, _given: Any, made: Any) -> None:
            if isinstance(made, Tensor) and made.requires_grad:
                made.register_hook(before)  # type: ignore[no-untyped-call] # of torch

        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(before)
                module.register_forward_hook(behind)
