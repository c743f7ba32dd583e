"""Retention arithmetic. Pure numbers in, pure numbers out.

The matrix ``R[i][j]`` is the recall of dataset j at version i, word for word or by its facts, rows and columns in order
of learning.
Sources: GEM (Lopez-Paz and Ranzato 2017) for ACC, BWT and FWT; Chaudhry et al. 2018 for forgetting;
McNemar 1947, exact form, for paired answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Literal

Matrix = Sequence[Sequence[float | None]]
Measure = Literal["recall", "other", "other_served"]
"""Which score a matrix is made of: ``recall`` word for word, or one of the fact scores in other words (``FactRecall``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The four numbers of continual learning; ``None`` where there is too little to say."""

    acc: float | None
    """Mean recall over all datasets at the last version."""
    bwt: float | None
    """Backward transfer: mean change since a dataset was learned; negative is forgetting."""
    fwt: float | None
    """Forward transfer: mean recall of a dataset just before it was learned, minus the base's."""
    forgetting: float | None
    """Mean drop from a dataset's best earlier recall to its last."""


def summarise(
    matrix: Matrix, baseline: Sequence[float | None] = (), learned_at: Sequence[int] | None = None
) -> Retention:
    """Summarise a matrix; ``None`` was not measured.

    ``learned_at[j]`` is the row of the version that learned column j, the diagonal where it is not given.
    """
    if not matrix:
        return Retention(acc=None, bwt=None, fwt=None, forgetting=None)
    last = matrix[-1]
    end = len(matrix) - 1
    columns = list(enumerate(range(len(matrix)) if learned_at is None else learned_at))
    old = [(j, i) for j, i in columns if i < end]
    return Retention(
        acc=_mean(last),
        bwt=_mean(_minus(last[j], matrix[i][j]) for j, i in old),
        fwt=_mean(_minus(matrix[i - 1][j], baseline[j]) for j, i in columns[: len(baseline)] if i),
        forgetting=_mean(_minus(_best(matrix[k][j] for k in range(i, end)), last[j]) for j, i in old),
    )


def tabulate(
    versions: Sequence[tuple[str, Mapping[str, Any]]], measure: Measure = "recall"
) -> dict[str, Any]:
    """Return the matrix of these versions on every dataset, and its four numbers, as JSON data.

    ``versions`` are names with their evaluations (see ``records.Evaluation``), the oldest first. A dataset whose own
    version is there no more, or was not tested on it, counts from the first one after it that was, and not for FWT.
    Of facts there is no FWT: nobody asks the base for them.
    """
    rows = [row for _, row in versions]
    scores = [_scores(row, measure) for row in rows]
    names = list(dict.fromkeys(name for found in scores for name in found))
    counts = [[_count(found.get(name)) for name in names] for found in scores]
    matrix = [[count[0] / count[1] if count else None for count in line] for line in counts]
    learned = [row["dataset"] for row in rows]
    first = [
        _first_measured(counts, j, learned.index(name) if name in learned else 0)
        for j, name in enumerate(names)
    ]
    asked = [list(line) for line in matrix]
    baseline: list[float | None] = []
    for j, (name, i) in enumerate(zip(names, first, strict=True)):
        is_own = name == learned[i] and measure == "recall"
        baseline.append(_share(rows[i].get("new_at_base")) if is_own else None)
        if is_own and i:  # before it was learned, a dataset was asked of the parent
            asked[i - 1][j] = _share(rows[i].get("new_before"))
    return {
        "versions": [name for name, _ in versions],
        "datasets": names,
        "matrix": matrix,
        "counts": counts,
        **asdict(summarise(asked, baseline, first)),
    }


def _scores(row: Mapping[str, Any], measure: Measure) -> dict[str, Any]:
    """Return a version's scores by dataset; papers from before facts were looked for have none of facts."""
    if measure == "recall":
        return dict(row["scores"])
    found = {name: scores.get(measure) for name, scores in (row.get("facts") or {}).items()}
    return {name: score for name, score in found.items() if _count(score)}


def _first_measured(counts: Sequence[Sequence[Any]], column: int, since: int) -> int:
    return next((i for i, line in enumerate(counts) if i >= since and line[column]), since)


def mcnemar(broken: int, mended: int) -> float:
    """Return the two-sided exact p-value that ``broken`` against ``mended`` answers is chance.

    >>> round(mcnemar(5, 0), 4)
    0.0625
    """
    changed = broken + mended
    if not changed:
        return 1.0
    tail: float = sum(comb(changed, k) for k in range(min(broken, mended) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def is_worse(broken: int, mended: int, significance: float) -> bool:
    """Tell whether more answers were broken than mended, and it is no chance at this significance level."""
    return broken > mended and mcnemar(broken, mended) < significance


def _count(score: Mapping[str, int] | None) -> list[int] | None:
    return [score["right"], score["total"]] if score and score["total"] else None


def _share(score: Mapping[str, int] | None) -> float | None:
    counted = _count(score)
    return counted[0] / counted[1] if counted else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _best(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
