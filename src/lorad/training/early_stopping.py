"""When a model from scratch has learned what it can: patience with the loss. Pure.

What lives here: which epoch was best, and when to give up. What never does: measuring, weights.

The lowest loss is the best epoch; only a drop of more than ``min_delta`` counts as progress (Prechelt 1998, Early Stopping).
"""

import math
from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Watches one loss, epoch by epoch."""

    def __init__(self, max_epochs: int, patience: int, min_delta: float) -> None:
        self._max_epochs = max_epochs
        self._patience = patience
        self._min_delta = min_delta
        self.rounds = 0
        """Epochs that are over."""
        self.best_round = 0
        """The epoch with the lowest loss, the first of several; 0 before the first."""
        self.ended_by: str | None = None
        self._lowest = self._passed = math.inf
        self._stale = 0

    def saw(self, loss: float) -> str | None:
        """Note the loss behind an epoch; return what ends the session, if anything does."""
        self.rounds += 1
        if loss < self._lowest:
            self._lowest, self.best_round = loss, self.rounds
        if loss < self._passed - self._min_delta:
            self._passed, self._stale = loss, 0
        else:
            self._stale += 1
        if self._stale >= self._patience:
            self.ended_by = "patience"
        elif self.rounds >= self._max_epochs:
            self.ended_by = "max_rounds"
        return self.ended_by

    def return_to_best(self) -> None:
        """Let the caller put the best epoch's weights back; nothing is to be undone here."""

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON data."""
        return {
            "rounds": self.rounds,
            "best_round": self.best_round,
            "ended_by": self.ended_by,
            "lowest": self._lowest,
            "passed": self._passed,
            "stale": self._stale,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state`` was taken, behind an epoch at least."""
        self.rounds, self.best_round = int(state["rounds"]), int(state["best_round"])
        self.ended_by, self._stale = state["ended_by"], int(state["stale"])
        self._lowest, self._passed = float(state["lowest"]), float(state["passed"])
