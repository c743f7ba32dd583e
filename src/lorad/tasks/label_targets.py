"""What texts are labelled: reading a target, what fits beside what a track knows, how much a label counts.

What lives here: the labels of text classification as data. What never does: tokens, models, what a model says
(``text_classification``).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import sqrt
from typing import Any, Protocol

from lorad.errors import SampleError
from lorad.records import Example

IMBALANCE = 3.0
"""Labels weigh differently where one has so many times the rows of another."""
MOST_WEIGHT = 10.0
"""The most that a row of a rare label counts, beside 1 on average."""


class Labels(Protocol):
    """Anything with labels, and how much of the answer each of them is."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each: 1, or its share of the ratings."""


def read(target: Any) -> tuple[tuple[str, ...], tuple[float, ...], bool]:
    """Return an example's labels, their shares, and whether each of all labels is a yes or no of its own."""
    if isinstance(target, str):
        return (target,), (1.0,), False
    if isinstance(target, Mapping):
        given = sorted((label, float(share)) for label, share in target.items() if share)
        return tuple(label for label, _ in given), tuple(share for _, share in given), False
    return tuple(sorted(target)), (1.0,) * len(target), True


def names(target: Any) -> Iterable[str]:
    """Return the labels that a target names."""
    return (target,) if isinstance(target, str) else target


class LabelChecker:
    """How many labels a text has in a track and a file, as far as the file is read; all that its sidecar must name."""

    def __init__(self, targets: Iterable[Any], named: Sequence[str]) -> None:
        self._is_multiple: bool | None = None
        known: set[str] = set()
        for target in targets:
            self._is_multiple = isinstance(target, list)
            known.update(names(target))
        self._check_named(set(named), known)

    def _check_named(self, named: AbstractSet[str], known: AbstractSet[str]) -> None:
        if named & known and (lacking := sorted(known - named)):
            raise SampleError(
                f"labels: the sidecar leaves out {lacking[0]!r}, which the track knows; a set of labels never shrinks: name "
                "all of them, and new ones behind",
                code="labels_shrink",
                field="labels",
            )

    def __call__(self, example: Example) -> None:
        """Raise ``SampleError`` for a target that does not fit beside the others."""
        is_multiple = isinstance(example.target, list)
        if self._is_multiple is None:
            self._is_multiple = is_multiple
        if is_multiple != self._is_multiple:
            usual = "a list of labels" if self._is_multiple else "one label"
            raise SampleError(
                f"texts of this track have {usual}; write it the same way, or choose another track",
                code="other_labels",
                field="label",
            )


def judged(datasets: Sequence[str], rows: Sequence[Labels]) -> Mapping[str, tuple[str, ...]]:
    """Return for each dataset the labels of which its rows say yes or no, where a text may have several.

    What a dataset never names it does not deny: its annotators may not have known it. But a label that all rows have where
    it is named would be learned as a yes to everything; such a one the other datasets deny.
    """
    sizes: Counter[str] = Counter(datasets)
    named: dict[str, Counter[str]] = {dataset: Counter() for dataset in sizes}
    for dataset, row in zip(datasets, rows, strict=True):
        named[dataset].update(row.labels)
    every = {label for counted in named.values() for label in counted}
    denied = {
        label for dataset, counted in named.items() for label in counted if counted[label] < sizes[dataset]
    }
    return {dataset: tuple(sorted({*counted, *(every - denied)})) for dataset, counted in named.items()}


def counts(rows: Sequence[Labels]) -> Mapping[str, float]:
    """Return how many rows each label has; of ratings the sum of its shares."""
    found: dict[str, float] = defaultdict(float)
    for row in rows:
        for label, share in zip(row.labels, row.shares, strict=True):
            found[label] += share
    return found


def weights(counted: Mapping[str, float]) -> Mapping[str, float]:
    """Return how much each label counts in the loss; nothing where labels are balanced.

    The square root of what would make all labels count alike: it helps rare ones, and bends the probabilities less.
    """
    if not counted or max(counted.values()) < IMBALANCE * min(counted.values()):
        return {}
    total = sum(counted.values())
    raw = {label: sqrt(total / count) for label, count in counted.items()}
    mean = sum(raw[label] * count for label, count in counted.items()) / total
    return {label: round(min(MOST_WEIGHT, each / mean), 4) for label, each in raw.items()}
