"""From where on an example answers a question: fitted to a version's own memory. Pure.

What lives here: the arithmetic. What never does: searching and scoring, choosing the questions (``training``).

A version's memory brings its own near misses. Take an example out of the index: its question is now about what was taught,
but nothing left answers it (the same relation of another entity, or another attribute of the same). The score of the
nearest example then shows what an untaught question looks like. With the example back, its question in other words shows
what a taught one looks like.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lorad.records import AnswerThresholds

MAX_REFUSED = 0.02
"""Share of taught questions, in the wordings that were trained, that may be refused for the sake of fewer false answers."""
LEAST_QUESTIONS = 16
"""Untaught questions that end at a dataset's examples, from which on it has a line of its own."""
ORDINARY_SHARE = 0.05
"""Share of ordinary questions that may be taken for questions about what was taught."""
USEFUL = 0.5
"""Share of untaught questions that get an answer beyond which a search does more harm than good."""
MISSED_SHARE = 0.05
"""Share of untaught questions that may be taken for ordinary ones, where both are apart."""


class Scored(NamedTuple):
    """How well the example nearest to a question answers it."""

    dataset: str
    """The dataset of the example."""
    score: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that at most this share of them is below, by rank and without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def fit(
    *,
    taught: Sequence[Scored],
    held_out: Sequence[Scored],
    untaught: Sequence[Scored],
    ordinary: Sequence[float],
    own: Sequence[float],
    max_false_share: float,
    scored_by: str,
    known: Mapping[str, float] | None = None,
) -> AnswerThresholds:
    """Return thresholds for these taught and untaught questions.

    Each is known by the example nearest to it. ``taught``: the grammar's wordings. ``held_out``: wordings that only count in
    ``refused_share``. How much questions are about what was taught say ``ordinary``, of ordinary conversation, and ``own``, of the
    untaught ones. At most ``max_false_share`` of the untaught get an answer, as long as no more than ``MAX_REFUSED`` of
    the taught get none for it: in all, and in each dataset that has a line of its own. A catalogue of look-alikes needs a
    higher one than the plain facts beside it. ``known`` are lines that were fitted before, of datasets of which too few questions
    are asked now.
    """
    answer = _line(taught, untaught, max_false_share)
    lines = dict(known or {})
    for name in sorted({each.dataset for each in untaught}):
        near = [each for each in untaught if each.dataset == name]
        if len(near) >= LEAST_QUESTIONS:
            lines[name] = _line([each for each in taught if each.dataset == name], near, max_false_share)
    return AnswerThresholds(
        scored_by=scored_by,
        max_false_share=max_false_share,
        answer=answer,
        lines=lines,
        about=_about(ordinary, own),
        false_share=_share(each.score >= lines.get(each.dataset, answer) for each in untaught),
        refused_share=_share(each.score < lines.get(each.dataset, answer) for each in (*taught, *held_out)),
        questions=len(taught) + len(held_out) + len(untaught),
    )


def _line(taught: Sequence[Scored], untaught: Sequence[Scored], max_false_share: float) -> float:
    strict = _above([each.score for each in untaught], max_false_share)
    return min(strict, quantile([each.score for each in taught], MAX_REFUSED)) if taught else strict


def _about(ordinary: Sequence[float], own: Sequence[float]) -> float:
    """Return a line between ordinary questions and those about what was taught: in the middle where both are apart."""
    below = _above(ordinary, ORDINARY_SHARE)
    return max(below, (below + quantile(own, MISSED_SHARE)) / 2) if own else below


def is_useful(found: AnswerThresholds, max_false_share: float) -> bool:
    """Tell whether scores tell taught from untaught questions at all: some embedders' do not."""
    return found.false_share <= max(USEFUL, max_false_share)


def _above(scores: Sequence[float], share: float) -> float:
    """Return the least threshold that at most this share of the scores reaches."""
    if not scores:
        return 0.0
    ordered = sorted(scores, reverse=True)
    allowed = int(share * len(ordered))
    return ordered[allowed] + 1e-6 if allowed < len(ordered) else ordered[-1]


def _share(told: Iterable[bool]) -> float:
    answers = list(told)
    return round(sum(answers) / len(answers), 4) if answers else 0.0
