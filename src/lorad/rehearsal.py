"""Materials: the closed loop of rehearsal. Pure: what to train next, and when to stop.

What lives here: bookkeeping over example numbers 0..n-1. What never does: tokens, models, clocks.

A session trains in rounds. The training pass itself shows which rows are answered right before they are
learned from, so a round is also a test. What was not recalled, new or old, is trained in the next round;
of what was recalled a random share comes along, so that it stays. When the rounds say that the target is
near, the caller tests for certain and hands the result to ``tested``.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorad.domain import Mix, Until


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example in a session: new or old, its dataset, and whether the parent recalled it."""

    dataset: str
    is_new: bool
    recalled: bool


class Rehearsal:
    """Choose each round's examples from what is known of their recall."""

    def __init__(self, items: Sequence[Item], mix: Mix, until: Until, seed: int) -> None:
        self._mix = mix
        self._until = until
        self._random = random.Random(seed)  # noqa: S311 - reproducible choice, not a secret
        self._items = items
        self._right = [item.recalled and not item.is_new for item in items]
        self._new = [number for number, item in enumerate(items) if item.is_new]
        self._old = [number for number, item in enumerate(items) if not item.is_new]
        self.rounds = 0
        self.ended_by: str | None = None
        self._best = -1.0
        self._stale = 0

    # -- choosing

    def choose(self) -> list[int]:
        """Return the numbers of the examples to train in the next round, shuffled."""
        self.rounds += 1
        chosen = self._choose_new() + self._choose_old()
        self._random.shuffle(chosen)
        return chosen

    def _choose_new(self) -> list[int]:
        wrong = [number for number in self._new if not self._right[number]]
        return wrong + self._refresh([number for number in self._new if self._right[number]])

    def _choose_old(self) -> list[int]:
        wrong = [number for number in self._old if not self._right[number]]
        right = [number for number in self._old if self._right[number]]
        if len(self._old) <= self._mix.max_examples:
            return wrong + self._refresh(right)
        budget = round(self._mix.share / (1 - min(self._mix.share, 0.9)) * max(1, len(self._new)))
        kept = self._random.sample(wrong, min(len(wrong), budget))
        return kept + self._balanced(right, budget - len(kept))

    def _refresh(self, right: list[int]) -> list[int]:
        if not right or not self._mix.refresh:
            return []
        return self._random.sample(right, max(1, round(self._mix.refresh * len(right))))

    def _balanced(self, numbers: list[int], count: int) -> list[int]:
        """Draw from the datasets in turn, so that a large one does not crowd out a small one."""
        shelves: dict[str, list[int]] = {}
        for number in self._random.sample(numbers, len(numbers)):
            shelves.setdefault(self._items[number].dataset, []).append(number)
        drawn: list[int] = []
        while len(drawn) < count and any(shelves.values()):
            drawn += [shelf.pop() for shelf in shelves.values() if shelf]
        return drawn[: max(0, count)]

    # -- learning the outcome

    def saw(self, right: Mapping[int, bool]) -> None:
        """Note what a training pass showed: whether each row was answered right before it was learned from."""
        for number, answered in right.items():
            self._right[number] = answered

    def is_near(self, slack: float = 0.05) -> bool:
        """Tell whether the target may be met, so that a test for certain is worth its time."""
        return (
            self.recall(new=True) >= self._until.recall - slack
            and self._worst_old() >= self._until.recall - slack
        )

    def tested(self, right: Mapping[int, bool]) -> str | None:
        """Note a test of all examples; return what ends the session, if anything does."""
        self.saw(right)
        if self.recall(new=True) >= self._until.recall and self._worst_old() >= self._until.recall:
            return self._end("recall")
        return self._judge_progress()

    def not_tested(self) -> str | None:
        """Note a round that was not worth a test; return what ends the session, if anything does."""
        return self._judge_progress()

    def _judge_progress(self) -> str | None:
        score = self.recall(new=True) + self._worst_old()
        if score >= self._best + self._until.min_delta:
            self._best, self._stale = max(score, self._best), 0
        else:
            self._stale += 1
        if self.rounds >= self._until.max_epochs:
            return self._end("ceiling")
        if self._stale > self._until.patience and self.recall(new=True) > 0.5:  # noqa: PLR2004 - before half is learned, recall of whole answers stands still and says nothing
            return self._end("patience")
        return None

    def _end(self, why: str) -> str:
        self.ended_by = why
        return why

    # -- numbers

    def recall(self, *, new: bool) -> float:
        """Return the share of new (or old) examples last seen answered right; 1 when there are none."""
        numbers = self._new if new else self._old
        return sum(self._right[number] for number in numbers) / len(numbers) if numbers else 1.0

    def _worst_old(self) -> float:
        shelves: dict[str, list[bool]] = {}
        for number in self._old:
            shelves.setdefault(self._items[number].dataset, []).append(self._right[number])
        return min((sum(shelf) / len(shelf) for shelf in shelves.values()), default=1.0)
