"""From where on an example answers a question: fitted to a version's own memory. Pure.

What lives here: the arithmetic. What never does: searching and scoring, choosing the questions (``training``).

A version's memory brings its own near misses. Take an example out of the index: its question is now about what was taught,
but nothing left answers it (the same relation of another entity, or another attribute of the same). The score of the
nearest example then shows what an untaught question looks like. With the example back, its question in other words shows
what a taught one looks like.
"""

from collections.abc import Iterable, Sequence

from lorad.records import AnswerThresholds

MAX_REFUSED = 0.02
"""Share of taught questions, in the wordings that were trained, that may be refused for the sake of fewer false answers."""
MENTIONED = 0.95
"""Quantile of ordinary questions' similarities above which a question that names something is about what was taught."""
USEFUL = 0.5
"""Share of untaught questions that get an answer beyond which a search does more harm than good."""
NEAR = 0.75
"""``near`` lies this far on the way from ``mentions`` to the median similarity of the untaught questions."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that at most this share of them is below, by rank and without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def fit(
    *,
    taught: Sequence[float],
    held_out: Sequence[float],
    untaught: Sequence[float],
    ordinary: Sequence[float],
    own: Sequence[float],
    max_false_share: float,
    scored_by: str,
) -> AnswerThresholds:
    """Return thresholds for these scores of taught and untaught questions.

    Each score is that of the example nearest to one question. ``taught``: the grammar's wordings. ``held_out``: wordings that
    only count in ``refused_share``. Not scores but similarities to the nearest example are ``ordinary``, of ordinary
    conversation, and ``own``, of the untaught questions. At most ``max_false_share`` of the untaught get an answer, as long as no more than
    ``MAX_REFUSED`` of the taught get none for it.
    """
    strict = _above(untaught, max_false_share)
    answer = min(strict, quantile(taught, MAX_REFUSED)) if taught else strict
    mentions = quantile(ordinary, MENTIONED) if ordinary else 0.0
    usual = quantile(own, 0.5) if own else 1.0
    return AnswerThresholds(
        scored_by=scored_by,
        answer=answer,
        near=mentions + NEAR * max(0.0, usual - mentions),
        mentions=mentions,
        false_share=_share(score >= answer for score in untaught),
        refused_share=_share(score < answer for score in (*taught, *held_out)),
        questions=len(taught) + len(held_out) + len(untaught),
    )


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
