"""The closed loop of rehearsal. Pure: what to train next, and when to stop.

What lives here: bookkeeping over example numbers 0..n-1. What never does: tokens, models, clocks.

A session trains in rounds. The training pass itself shows which rows are answered right before they are
learned from, so a round is also a test. What was not recalled, new or old, is trained in the next round;
of what was recalled a share comes along, so that it stays: mostly what is asked as the new rows are, the least trained first, every old dataset in its
turn, and never more old rows than the session's ``share`` allows, so that a drop costs about the same however
much was learned before it. When the rounds say that the target is near, the caller tests all new rows and, by
``spot_checks``, those old ones that may have changed, and hands the result to ``tested``.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.records import ReplayMix, StoppingRule
from lorad.training import spot_checks
from lorad.training.spot_checks import Changes, SpotChecks

HALF = 0.5
"""Before half is learned, recall of whole answers stands still for long and says nothing. What one answer to everything gets
right (no entities, the commonest label) is not learned."""
LOST = 3
"""Times the patience: so long a session waits for labels to be learned beyond one answer to everything."""
LEAST_RATE = 0.1
LEAST = 32
"""So many old rows may go with a small drop, and so many new ones make a round, recalled or not: they cost a few seconds
a round, and rows that are trained without those like them push these out."""
ALIKE_SHARE = 0.75
"""Of the recalled old rows that a round rehearses, so many are asked as the new ones are, where there are as many (decision 105)."""
KEPT = 0.98
"""A dataset is kept when this share of it is recalled, or as many as the parent recalls."""
KEPT_FROM = 20
"""From this many rows on a dataset is also kept with one row missed; a plateau ends what stays short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayItem:
    """One example in a session: new or old, its dataset, and whether it is recalled as training begins."""

    dataset: str
    is_new: bool
    recalled: bool
    known: bool | None = None
    """Whether the parent version recalls it, where that differs: a truncation lies between."""
    is_at_risk: bool = False
    """Whether an old one is likely to be changed by what the new ones teach: near to them, or right by little before."""
    is_alike: bool = False
    """Whether an old one is asked in the words of the new ones, which push it out first."""


class Rehearsal:
    """Choose each round's examples from what is known of their recall."""

    def __init__(
        self,
        items: Sequence[ReplayItem],
        mix: ReplayMix,
        stopping: StoppingRule,
        seed: int,
        batch: int = 1,
        chance: float = 0.0,
    ) -> None:
        """``chance`` is the share of the new rows that one and the same answer gets right."""
        self._mix = mix
        self._chance = chance if chance < 1 else 0.0
        self._stopping = stopping
        self._batch = batch
        self._random = random.Random(seed)  # noqa: S311 - reproducible choice, not a secret
        self._items = items
        self._right = [item.recalled and not item.is_new for item in items]
        self._new = [number for number, item in enumerate(items) if item.is_new]
        self._old = [number for number, item in enumerate(items) if not item.is_new]
        self._trained = Counter[int]()
        self._missed_otherwise = set[int]()
        """What was wrong when it was last trained in another wording, and was not trained in its own since."""
        self._shelves = _by_dataset(items, self._old)
        self._knew = {number: _is_known(items[number]) for number in self._old}
        self._allowed = {name: _may_miss(self._knew, numbers) for name, numbers in self._shelves.items()}
        at_risk = [number for number in self._old if items[number].is_at_risk]
        alike = [number for number in self._old if items[number].is_alike]
        self._checks = SpotChecks(self._old, at_risk, seed, alike)
        self.rounds = 0
        self.ended_by: str | None = None
        self._best = -1.0
        self._best_tested = -1.0
        """Of tests alone: what training passes show of small drops is too good, their rows push one another out."""
        self._stale = 0
        """Rounds since the last progress, as seen in training."""
        self._steps = 0
        """Of the round that was chosen last."""
        self._idle = 0
        """Steps since the last progress, as seen in training or in tests."""
        self.best_round = 0
        """The latest round that no test was better than; 0 before the first test."""
        self._best_rank = (False, -1.0)
        """Of that test: whether it asked old rows too, and its score. One that did stands above one that did not: what
        was not asked counts as it was last seen, and that is too good."""
        self._right_at_best: list[bool] = []

    # -- choosing

    def choose(self) -> list[int]:
        """Return the numbers of the examples to train in the next round, shuffled."""
        self.rounds += 1
        chosen = self._choose_new() + self._choose_old()
        chosen += self._fill_up(chosen)
        self._trained.update(chosen)
        self._steps = math.ceil(len(chosen) / self._batch)
        self._random.shuffle(chosen)
        return chosen

    def _choose_new(self) -> list[int]:
        wrong, right = self._divided(self._new)
        share = self._mix.recalled_share if self._mix.new_share is None else self._mix.new_share
        return wrong + self._draw(right, max(_refreshed(right, share), LEAST - len(wrong)))

    def _divided(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return those that are wrong, and the others."""
        wrong = [number for number in numbers if self._is_wrong(number)]
        return wrong, [number for number in numbers if not self._is_wrong(number)]

    def _is_wrong(self, number: int) -> bool:
        """Tell whether an example was wrong when it was last seen, in whatever wording."""
        return not self._right[number] or number in self._missed_otherwise

    def _fill_up(self, chosen: Sequence[int]) -> list[int]:
        """Return what goes into the round's last step, which has room: it costs next to nothing."""
        taken = set(chosen)
        rest = [number for number in range(len(self._items)) if number not in taken]
        return self._draw(rest, -len(chosen) % self._batch)

    def _choose_old(self) -> list[int]:
        if self._mix.strategy == "all":
            return list(self._old)
        budget = self._budget()
        if self._mix.strategy == "balanced":
            return self._draw(self._old, budget)
        wrong, right = self._divided(self._old)
        if len(self._old) <= self._mix.max_examples:
            return wrong + self._draw_alike(
                right, min(max(budget, LEAST), _refreshed(right, self._mix.recalled_share))
            )
        kept = self._random.sample(wrong, min(len(wrong), budget))
        return kept + self._draw_alike(right, budget - len(kept))

    def _draw_alike(self, numbers: Sequence[int], count: int) -> list[int]:
        """Draw old rows, most of them among those that are asked as the new ones are; where there are too few of either, more of the others."""
        alike = [number for number in numbers if self._items[number].is_alike]
        others = [number for number in numbers if not self._items[number].is_alike]
        wanted = min(round(ALIKE_SHARE * count), len(alike))
        drawn = self._draw(others, count - wanted)
        return self._draw(alike, count - len(drawn)) + drawn

    def _budget(self) -> int:
        """Return how many old rows go with the new ones; without new ones, as many as may be."""
        if not self._new:
            return min(len(self._old), self._mix.max_examples)
        return round(self._mix.share / (1 - min(self._mix.share, 0.9)) * len(self._new))

    def _draw(self, numbers: Sequence[int], count: int) -> list[int]:
        """Draw from the datasets in turn, the least trained first, so that a large one does not crowd out a small one."""
        shuffled = self._random.sample(numbers, len(numbers))
        most_trained_first = sorted(shuffled, key=lambda number: -self._trained[number])
        shelves = list(_by_dataset(self._items, most_trained_first).values())
        self._random.shuffle(shelves)
        drawn: list[int] = []
        while len(drawn) < count and any(shelves):
            drawn += [shelf.pop() for shelf in shelves if shelf]
        return drawn[: max(0, count)]

    def times_trained(self, number: int) -> int:
        """Return how many rounds have chosen an example so far."""
        return self._trained[number]

    # -- learning the outcome

    def saw(self, right: Mapping[int, bool], otherwise: Collection[int] = ()) -> None:
        """Note what a training pass showed: whether each row was answered right before it was learned from.

        What was asked ``otherwise`` than in its own wording says which rows to train, and nothing of what ends a session.
        """
        own = {number: answered for number, answered in right.items() if number not in otherwise}
        self._missed_otherwise -= own.keys()
        self._missed_otherwise.update(number for number in otherwise if not right[number])
        self.was_asked(own)

    def was_asked(self, right: Mapping[int, bool]) -> None:
        """Note whether rows were answered right in their own wording."""
        for number, answered in right.items():
            self._right[number] = answered

    def is_near(self, slack: float = 0.1) -> bool:
        """Tell whether the target may be met, so that a test for certain is worth its time."""
        return self.recall(new=True) >= self._stopping.recall - slack and self._is_kept(slack)

    def is_learned(self) -> bool:
        """Tell whether the new rows are at their target, as far as is known."""
        return self.recall(new=True) >= self._stopping.recall

    def test_old(self, ask: Callable[[Sequence[int]], Mapping[int, bool]]) -> dict[int, bool]:
        """Ask those old rows that may have changed, and all of them where these show that many have; return the answers.

        Where nothing is new, old rows are all that the session is about, and all are asked.
        """
        if not self._new:
            return dict(ask(self._old))
        lost = [number for number in self._old if self._knew[number] and not self._right[number]]
        return spot_checks.run(self._checks, self._knew, ask, lost)

    def tested(self, right: Mapping[int, bool]) -> str | None:
        """Note a test of the new examples, or of old ones too; return what ends the session, if anything does."""
        self.was_asked(right)
        self.ended_by = None
        if self.is_learned() and self._is_kept() and not self._changes().is_worse:
            return self._end("recall")
        score = self._score()
        is_better = score >= self._best_tested + self._stopping.min_delta
        self._best_tested = max(self._best_tested, score)
        rank = (not self._old or not right.keys().isdisjoint(self._old), score)
        if rank >= self._best_rank:
            self._best_rank, self.best_round, self._right_at_best = rank, self.rounds, self.right
        return self._judge_progress(is_better=is_better)

    def is_past_its_best(self) -> bool:
        """Tell whether it was given up after a round that tested better than what it ended with.

        What trains on at a plateau wanders; the best that was seen is the one to keep (Prechelt 1998, Early Stopping).
        """
        return self.ended_by in {"patience", "max_rounds"} and 0 < self.best_round < self.rounds

    def return_to_best(self) -> None:
        """Know of every row what was known after the best round; the caller puts its weights back."""
        self._right = list(self._right_at_best)

    def not_tested(self) -> str | None:
        """Note a round that was not worth a test; return what ends the session, if anything does."""
        return self._judge_progress()

    def _judge_progress(self, *, is_better: bool = False) -> str | None:
        score = self._score()
        if score >= self._best + self._stopping.min_delta:
            self._best, self._stale = max(score, self._best), 0
        else:
            self._stale += 1
        self._idle = 0 if is_better or not self._stale else self._idle + self._steps
        if self.rounds >= self._stopping.max_rounds:
            return self._end("max_rounds")
        is_plateau = self._stale > self._stopping.patience and self._idle >= self._stopping.patience_steps
        is_lost = bool(self._chance and self._new) and not self._learned()
        if is_plateau and is_lost and self._stale > LOST * self._stopping.patience:
            return self._end("patience")
        if is_plateau and self.rounds >= self._stopping.min_rounds and self._learned() > HALF:
            return self._end("patience")
        return None

    def rate(self) -> float:
        """Return the share of the learning rate that suits what is left to learn.

        While little is recalled, all of it; then its root, so that the last rows do not throw out those before;
        a half, then a quarter of that while rounds bring nothing, as at a plateau rows push one another out.
        """
        learned = self._learned()
        wrong = (sum(map(self._is_wrong, some)) / len(some) for some in (self._new, self._old) if some)
        left = max(wrong, default=0.0) if learned else 1.0
        calmed = 0.5 ** min(self._stale, 2) if learned > HALF else 1.0
        return max(LEAST_RATE, math.sqrt(left) * calmed)

    def _end(self, why: str) -> str:
        self.ended_by = why
        return why

    # -- going on after a break

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON data."""
        return {
            "right": self._right,
            "trained": [self._trained[number] for number in range(len(self._items))],
            "missed_otherwise": sorted(self._missed_otherwise),
            "rounds": self.rounds,
            "ended_by": self.ended_by,
            "best": self._best,
            "stale": self._stale,
            "best_tested": self._best_tested,
            "best_round": self.best_round,
            "best_rank": self._best_rank,
            "right_at_best": self._right_at_best,
            "idle": self._idle,
            "checked": self._checks.at,
            "random": self._random.getstate(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state`` was taken."""
        self._right = [bool(answered) for answered in state["right"]]
        self._trained = Counter(dict(enumerate(state["trained"])))
        self._missed_otherwise = set(state["missed_otherwise"])
        self.rounds, self.ended_by = int(state["rounds"]), state["ended_by"]
        self._best, self._stale = float(state["best"]), int(state["stale"])
        self._best_tested, self._idle = float(state["best_tested"]), int(state["idle"])
        self.best_round = int(state["best_round"])
        is_of_all, score = state["best_rank"]
        self._best_rank = bool(is_of_all), float(score)
        self._right_at_best = [bool(answered) for answered in state["right_at_best"]]
        self._checks.at = int(state["checked"])
        version, numbers, gauss = state["random"]
        self._random.setstate((version, tuple(numbers), gauss))

    # -- numbers

    def recall(self, *, new: bool) -> float:
        """Return the share of new (or old) examples last seen answered right; 1 when there are none."""
        numbers = self._new if new else self._old
        return sum(self._right[number] for number in numbers) / len(numbers) if numbers else 1.0

    def _learned(self) -> float:
        """Return how much is learned of the new rows, 0 to 1, beyond ``chance``; of the old ones where none is new."""
        if not self._new:
            return self.recall(new=False)
        return max(0.0, (self.recall(new=True) - self._chance) / (1 - self._chance))

    @property
    def right(self) -> list[bool]:
        """Return for every row whether it was last seen answered right."""
        return list(self._right)

    def _score(self) -> float:
        return self.recall(new=True) + self._worst_old()

    def _changes(self) -> Changes:
        """Count the old rows that were right and are wrong now, as far as is known, and the other way round."""
        return spot_checks.changes(self._knew, {number: self._right[number] for number in self._old})

    def _missed(self, dataset: str) -> int:
        return sum(not self._right[number] for number in self._shelves[dataset])

    def _worst_old(self) -> float:
        return min((1 - self._missed(name) / len(rows) for name, rows in self._shelves.items()), default=1.0)

    def _is_kept(self, slack: float = 0.0) -> bool:
        """Tell whether every old dataset is as good as it was, see ``KEPT``."""
        return all(
            self._missed(name) <= self._allowed[name] + slack * len(rows)
            for name, rows in self._shelves.items()
        )


def _refreshed(right: Sequence[int], share: float) -> int:
    """Return how many of the recalled examples are trained again."""
    return max(1, round(share * len(right))) if right and share else 0


def _by_dataset(items: Sequence[ReplayItem], numbers: Sequence[int]) -> dict[str, list[int]]:
    shelves: dict[str, list[int]] = {}
    for number in numbers:
        shelves.setdefault(items[number].dataset, []).append(number)
    return shelves


def _is_known(item: ReplayItem) -> bool:
    return item.recalled if item.known is None else item.known


def _may_miss(knew: Mapping[int, bool], numbers: Sequence[int]) -> int:
    known = [knew[number] for number in numbers]
    return max(min(1, len(numbers) // KEPT_FROM), int((1 - KEPT) * len(numbers)), known.count(False))
