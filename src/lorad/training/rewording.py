"""The other wordings that a session's examples are trained in, as rows.

What lives here: which wordings an example has, and encoding them when their turn comes. What never does: making wordings
(``augmentation``), choosing what is trained (``rehearsal``).

The dataset's own wordings come first: people know how they ask. Those of the grammar fill up, and between them the example
is asked with gaps.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import zip_longest
from typing import Any

from lorad import wordings
from lorad.errors import SampleError
from lorad.evaluation import facts
from lorad.records import Example, as_line, normal_form
from lorad.retrieval.finding import stands_alone
from lorad.tasks import Row, Task
from lorad.training import augmentation, gaps


class Rewording:
    """The wordings of a session's examples; each is encoded when it is first trained."""

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        examples: Sequence[Example],
        *,
        most: int,
        most_gapped: int = 0,
        longest: int,
        seed: int,
    ) -> None:
        self._task = task
        self._tokenizer = tokenizer
        self._examples = examples
        self._most = most
        self._most_gapped = most_gapped
        self._longest = longest
        self._seed = seed
        self._asked = {facts.normalised(as_line(example.input)) for example in examples}
        self._rows: dict[int, list[Row]] = {}

    def row(self, number: int, turn: int) -> Row | None:
        """Return an example in the wording whose turn it is; ``None`` where it has no other."""
        if number not in self._rows:
            self._rows[number] = self._encoded(self._examples[number])
        rows = self._rows[number]
        return rows[turn % len(rows)] if rows else None

    def _encoded(self, example: Example) -> list[Row]:
        rows = []
        worded = trained_wordings(example, self._most, self._seed, self._asked)
        gapped = gapped_texts(example, self._most_gapped, self._seed)
        for text in (each for pair in zip_longest(worded, gapped) for each in pair if each is not None):
            try:
                row = self._task.encode(self._tokenizer, wordings.reworded(example, text))
            except SampleError:
                continue  # the example itself can be written; this wording of it cannot
            if len(row) <= self._longest:
                rows.append(row)
        return rows


def trained_wordings(
    example: Example, most: int, seed: int, asked_too: AbstractSet[str] = frozenset()
) -> list[str]:
    """Return at most so many other wordings of an example's question, the dataset's own first.

    What was held out for the tests is none of them, however it is spelled, and no other question of ``asked_too``
    (``facts.normalised``): it would teach a false fact.
    """
    asked = wordings.question(example)
    if not most or asked is None:
        return []
    taken = {facts.normalised(text) for text in (asked, *example.held_out)}
    found: list[str] = []
    for text in (*example.also_asked, *augmentation.wordings(asked, most, seed)):
        form = facts.normalised(text)
        is_another = form in asked_too or normal_form(text) == normal_form(asked)
        if form not in taken and not is_another and len(found) < most:
            taken.add(form)
            found.append(text)
    return found


def gapped_texts(example: Example, most: int, seed: int) -> list[str]:
    """Return at most so many texts with gaps that an example is asked with; none where it has earlier turns or tools."""
    if not most or not stands_alone(example):
        return []
    return gaps.with_gaps(as_line(example.input), as_line(example.target), most, seed)
