"""The examples of a session with their rows, and what is known of each before and after training.

What lives here: encoding them, leaving out what cannot be learned, counting what was right. What never does: models.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lorad import records
from lorad.records import Example, Score
from lorad.tasks import Row


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


def anew(examples: Sequence[SessionExample]) -> list[SessionExample]:
    """Return the examples as a refit takes them: nothing is known of any."""
    return [replace(each, is_new=True, knows=False) for each in examples]


def spread(examples: Sequence[SessionExample], count: int) -> list[SessionExample]:
    """Return at most so many of them, evenly from first to last."""
    step = max(1, len(examples) // count)
    return list(examples[::step][:count])


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
