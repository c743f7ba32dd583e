"""Which examples may answer a question, and how well: the index's nearest, compared one by one.

What lives here: a question's way through index and reranker. What never does: either of them, deciding (``answering``).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorad.records import as_line, normal_form
from lorad.retrieval.answering import Found
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.words import embedded_text, names, words

RERANKED = 4
"""Examples that are compared with a question one by one: each costs as much as the question's own embedding."""

BY_SIMILARITY = "similarity"
"""What scores where there is no reranker."""

RANKED, SIMILAR, LACKING = 20.0, 6.0, 2.0
"""Beside 1 for the reranker's log-odds: the index's score, where examples are ranked and where it is decided whether the
first one answers the question, and what a question names and the example lacks. A reranker tells attributes apart and
takes codes that look alike for one another; the index does the opposite. Found on data/harbour*.json (bench/LOG.md)."""
ALONE = 12.0
"""The index's score where there is no reranker: as log-odds are spread."""
AS_TAUGHT = 100.0
"""Of a question that is an example's own, but for its spelling: nothing needs to be compared."""


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
        odds = self._odds(question, near)
        asked = normal_form(question)
        named = set(names(question))
        ranked = sorted(
            zip(near, odds, strict=True), key=lambda pair: pair[1] + RANKED * pair[0].score, reverse=True
        )
        found = [
            Found(
                neighbour=each,
                score=AS_TAUGHT
                if normal_form(as_line(each.example.input)) == asked
                else own + (SIMILAR if self.reranker else ALONE) * each.score - LACKING * each.lacking,
                mentions=not named.isdisjoint(words(embedded_text(each.example))),
            )
            for each, own in ranked
        ]
        return sorted(found, key=lambda each: each.score == AS_TAUGHT, reverse=True)

    def _odds(self, question: str, near: Sequence[Neighbour]) -> Sequence[float]:
        if self.reranker is None or not near:
            return [0.0] * len(near)
        return self.reranker.score(question, [embedded_text(each.example) for each in near])
