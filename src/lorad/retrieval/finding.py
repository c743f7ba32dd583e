"""Which examples may answer a question, and how well: the index's nearest, compared one by one.

What lives here: a question's way through index and reranker. What never does: either of them, deciding (``answering``).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorad.retrieval.answering import Found
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.words import codes, embedded_text, words

RERANKED = 4
"""Examples that are compared with a question one by one: each costs as much as the question's own embedding."""

BY_SIMILARITY = "similarity"
"""What scores where there is no reranker."""

#: Words inside a sentence; those with a capital are names, in most languages.
_INSIDE = re.compile(r"(?<=[\w,;] )\w+")


class Index(Protocol):
    """Where examples are found (``retrieval.index.Index``)."""

    def search(self, question: str, lineage: Sequence[str], most: int = 8) -> Sequence[Neighbour]:
        """Return the examples nearest to a question, best first, of those that a version has learned."""


class Reranker(Protocol):
    """What compares a question with examples."""

    @property
    def fingerprint(self) -> str:
        """Identify it: scores of another one mean something else."""

    def score(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """Return the log-odds that each text answers the question."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An index with what compares its nearest with a question, if anything does."""

    index: Index
    reranker: Reranker | None = None

    @property
    def scored_by(self) -> str:
        """Identify what the scores mean."""
        return self.reranker.fingerprint if self.reranker else BY_SIMILARITY

    def find(self, question: str, lineage: Sequence[str], without: Collection[str] = ()) -> list[Found]:
        """Return what a version knows near a question, best first, as if it had not learned the examples ``without``."""
        near = [
            each
            for each in self.index.search(question, lineage, RERANKED + len(without))
            if each.example.id not in without
        ][:RERANKED]
        scores = self._scores(question, near)
        named = set(_named(question))
        found = [
            Found(neighbour=each, score=score, mentions=bool(named & set(words(embedded_text(each.example)))))
            for each, score in zip(near, scores, strict=True)
        ]
        return sorted(found, key=lambda each: each.score, reverse=True)

    def _scores(self, question: str, near: Sequence[Neighbour]) -> Sequence[float]:
        if self.reranker is None or not near:
            return [each.score for each in near]
        return self.reranker.score(question, [embedded_text(each.example) for each in near])


def _named(question: str) -> list[str]:
    """Return what a question names, case folded: its codes, and words with a capital inside a sentence."""
    return [*codes(question), *(word.casefold() for word in _INSIDE.findall(question) if word[0].isupper())]
