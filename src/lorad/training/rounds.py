"""What a session trains on, round by round and step by step.

What lives here: the rows of a session, one optimizer step of them, and the choice of general conversation beside
them. What never does: which rows a round takes (``rehearsal``), tensors.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.models import packing, soft_targets
from lorad.records import Plan
from lorad.tasks import Row
from lorad.training.rehearsal import Rehearsal, ReplayItem

OWN_EVERY = 2
"""A row is trained in its own wording every so many times: that is the wording that ends a session."""
OWN_FROM = 0.3
"""From so far below the target on each row is trained in its own wording alone. Later, more of what is asked in other words comes out, and
a session takes longer (decision 95)."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a session trains on: rows with their bookkeeping, and general conversation beside them."""

    rows: Sequence[Row]
    items: Sequence[ReplayItem]
    general: Sequence[soft_targets.SoftTargets] = ()
    reworded: Callable[[int, int], Row | None] = lambda _number, _turn: None
    """Return a row's question, counted from 0, in the wording of a turn; ``None`` where it has no other wording."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The rows of one optimizer step with their numbers, and some general conversation beside them."""

    numbers: list[int]
    rows: list[Row]
    general: list[soft_targets.SoftTargets]
    otherwise: frozenset[int] = frozenset()
    """The numbers of those rows that are asked in another wording than their own."""

    @property
    def both(self) -> list[Row]:
        """Return everything that goes through the model."""
        return [*self.rows, *(each.row for each in self.general)]

    @property
    def tokens(self) -> int:
        """Count the tokens of everything that goes through the model."""
        return sum(map(len, self.both))

    def part(self, rows: Sequence[int], general: Sequence[int]) -> "StepBatch":
        """Return a step of these of its rows and of its general conversation, both counted from 0."""
        return StepBatch(
            [self.numbers[i] for i in rows], [self.rows[i] for i in rows], [self.general[i] for i in general]
        )

    def passes(
        self, most_tokens: int
    ) -> Iterator[tuple[list[int], list[Row], list[soft_targets.SoftTargets]]]:
        """Yield passes of at most so many tokens: the numbers of its rows, these, and the conversation beside them."""
        for group in packing.divide(self.both, most_tokens):
            own = [i for i in group if i < len(self.rows)]
            general = [self.general[i - len(self.rows)] for i in group if i >= len(self.rows)]
            yield [self.numbers[i] for i in own], [self.rows[i] for i in own], general


class Rounds:
    """The rounds of a session: each iteration is one, and yields its optimizer steps."""

    def __init__(self, material: Material, rehearsal: Rehearsal, plan: Plan) -> None:
        self._material = material
        self._rehearsal = rehearsal
        self._plan = plan
        self._random = random.Random(plan.seed + 1)  # noqa: S311 - reproducible choice, not a secret
        self.most_steps = math.ceil(len(material.rows) / plan.effective_batch) * plan.stopping.max_rounds

    def state(self) -> Any:
        """Return where the choice of general conversation stands, as JSON data."""
        return self._random.getstate()

    def restore(self, state: Any) -> None:
        """Stand where ``state`` was taken."""
        version, numbers, gauss = state
        self._random.setstate((version, tuple(numbers), gauss))

    def __iter__(self) -> Iterator[StepBatch]:
        """Let the rehearsal choose the next round; yield its rows, as many together as a step learns from.

        Towards the target every row is trained in its own wording, which is what the test asks: other wordings push that out again.
        """
        chosen = self._rehearsal.choose()
        is_varied = not self._rehearsal.is_near(OWN_FROM)
        size, own = self._plan.effective_batch, self._material.rows
        for begin in range(0, len(chosen), size):
            numbers = chosen[begin : begin + size]
            rows = [self._row(number) if is_varied else own[number] for number in numbers]
            otherwise = frozenset(n for n, row in zip(numbers, rows, strict=True) if row is not own[n])
            yield StepBatch(numbers, rows, self._general(len(numbers)), otherwise)

    def _row(self, number: int) -> Row:
        """Return a row in the wording whose turn it is: its own every other time, the others one after another between.

        Every other row begins with another wording, so that each round shows of half of the rows whether they are recalled.
        """
        turn = self._rehearsal.times_trained(number) - 1 + number % OWN_EVERY
        reworded = self._material.reworded(number, turn // OWN_EVERY) if turn % OWN_EVERY else None
        return reworded or self._material.rows[number]

    def _general(self, rows: int) -> list[soft_targets.SoftTargets]:
        share = self._plan.mix.general
        wanted = max(1, round(share * rows)) if share else 0
        return self._random.sample(self._material.general, min(wanted, len(self._material.general)))
