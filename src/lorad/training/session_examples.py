"""The examples of a session with their rows, and what is known of each before and after training.

What lives here: encoding them, leaving out what cannot be learned, counting what was right. What never does: models.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lorad import records
from lorad.errors import SampleError, TrainingError
from lorad.records import Example, Score, SessionSpec
from lorad.tasks import Row, Task, encode
from lorad.training import likeness, spot_checks
from lorad.training.run_folder import RunFolder

T = TypeVar("T")

SHOWN = 20
"""Lines of rows that a note names."""


@dataclass(frozen=True, slots=True)
class SessionExample:
    """An example with its row and what is known of it before training."""

    example: Example
    row: Row
    is_new: bool
    right: bool
    """Whether the parent version recalls it: what the candidate is compared with."""
    knows: bool
    """Whether the model that training begins with recalls it; differs from ``right`` after a truncation."""
    is_near: bool = False
    """Whether an old one is likely to be changed by what the new ones teach, see ``spot_checks.near``."""
    is_thin: bool = False
    """Whether an old one was right by little when the parent was judged, see ``spot_checks.THIN``."""
    is_alike: bool = False
    """Whether an old one is asked as some new one is, see ``likeness``."""

    @property
    def is_at_risk(self) -> bool:
        """Tell whether each test asks it: it is likely to be lost."""
        return self.is_near or self.is_thin


@dataclass(frozen=True, slots=True)
class Selection:
    """What a session learns from, and what it leaves out."""

    examples: list[SessionExample]
    too_long: list[int]
    """Lines of new rows over the plan's length."""
    notes: list[str]


def select(
    folder: RunFolder, task: Task, tokenizer: Any, spec: SessionSpec, most: int | None = None
) -> Selection:
    """Encode a session's examples; leave out what is too long or cannot be written for this model.

    The plan's length is of this file: an older one's longer rows are kept. The model reads ``most`` tokens, if it says
    so. Raise ``SampleError`` or ``TrainingError`` when nothing is left to learn.
    """
    new, old = folder.new(), folder.old()
    # together: a dataset may have new and old rows, and says what it means by all of them
    usable, unusable = encode(task, tokenizer, [*new, *(item.example for item in old)])
    known = {item.example.id: item.right for item in old}  # none of them is new (``daemon.preparation``)
    fresh = [(example, row) for example, row in usable if example.id not in known]
    held = [(example, row) for example, row in usable if example.id in known]
    limit = min(spec.plan.max_length, most or spec.plan.max_length)
    examples = [
        SessionExample(example, row, is_new=True, right=False, knows=False)
        for example, row in fresh
        if len(row) <= limit
    ]
    too_long = [example.line for example, row in fresh if len(row) > limit]
    if not examples and spec.kind == "learn":
        for example, error in unusable:
            if example.id not in known:
                raise error
        raise TrainingError(f"every row is longer than {limit} tokens; shorten them", code="too_long")
    examples += [
        SessionExample(example, row, is_new=False, right=known[example.id], knows=known[example.id])
        for example, row in held
    ]
    return Selection(examples, too_long, _left_out(unusable, too_long, limit))


def _left_out(
    unusable: Sequence[tuple[Example, SampleError]], too_long: Sequence[int], limit: int
) -> list[str]:
    notes = []
    if unusable:
        lines = [example.line for example, _ in unusable]
        notes.append(
            f"{len(lines)} rows cannot be written for this model and were left out: {lines[:SHOWN]}; the first: "
            f"{unusable[0][1].message}"
        )
    if too_long:
        notes.append(
            f"{len(too_long)} rows are longer than {limit} tokens and were left out: {too_long[:SHOWN]}"
        )
    return notes


def with_near(examples: Sequence[SessionExample]) -> list[SessionExample]:
    """Return the examples, those old ones marked that are near the new ones."""
    near = _found(examples, spot_checks.near)
    return [replace(each, is_near=each.example.id in near) for each in examples]


def with_alike(examples: Sequence[SessionExample]) -> list[SessionExample]:
    """Return the examples, those old ones marked that are asked as the new ones are."""
    alike = _found(examples, lambda new, old: likeness.alike(spread(new, likeness.MOST_NEW), old))
    return [replace(each, is_alike=each.example.id in alike) for each in examples]


def _found(
    examples: Sequence[SessionExample],
    find: Callable[[Sequence[Example], Sequence[Example]], set[int]],
) -> set[str]:
    """Return the ids of the old examples, none of which is new, whose numbers are found by the new ones."""
    old = [each.example for each in examples if not each.is_new]
    return {old[number].id for number in find([each.example for each in examples if each.is_new], old)}


def with_thin(examples: Sequence[SessionExample], thinnest: Sequence[str]) -> list[SessionExample]:
    """Return the examples, those old ones marked that were right by the least, of which ``thinnest`` has the ids, the least first."""
    old = {each.example.id for each in examples if not each.is_new}
    thin = set([name for name in thinnest if name in old][: spot_checks.THIN])
    return [replace(each, is_thin=each.example.id in thin) for each in examples]


def anew(examples: Sequence[SessionExample]) -> list[SessionExample]:
    """Return the examples as a refit takes them: nothing is known of any."""
    return [replace(each, is_new=True, knows=False) for each in examples]


def spread(examples: Sequence[T], count: int) -> list[T]:
    """Return at most so many of them, evenly from first to last."""
    if len(examples) <= count:
        return list(examples)
    return [examples[number * len(examples) // count] for number in range(count)]


def digests(examples: Sequence[SessionExample]) -> dict[str, str]:
    """Return the sha256 of each dataset's examples, whatever their order."""
    ids: dict[str, list[str]] = defaultdict(list)
    for each in examples:
        ids[each.example.dataset].append(each.example.id)
    return {name: records.digest(sorted(found)) for name, found in ids.items()}


def score(answers: Sequence[bool]) -> Score:
    """Count right answers."""
    return Score(right=sum(map(bool, answers)), total=len(answers))


def scores(examples: Sequence[SessionExample], right: Mapping[str, bool]) -> dict[str, Score]:
    """Count right answers by dataset; ``right`` tells of each example's id."""
    tallies: dict[str, list[bool]] = defaultdict(list)
    for each in examples:
        tallies[each.example.dataset].append(right[each.example.id])
    return {name: score(tally) for name, tally in tallies.items()}
