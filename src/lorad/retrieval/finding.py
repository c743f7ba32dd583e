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

BY_SIMILARITY = "similarity"
"""What scores where there is no reranker."""

SIMILAR, LACKING = 6.0, 2.0
"""Beside 1 for the reranker's log-odds: the index's score, and what a question names and the example lacks. Found on
data/harbour*.json (bench/LOG.md). Which example is the nearest the index alone decides: the reranker takes codes that look
alike for one another."""
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

    def find(self, question: str, lineage: Sequence[str], without: Collection[str] = ()) -> Found | None:
        """Return what a version knows nearest to a question, as if it had not learned the examples ``without``."""
        near = self.index.search(question, lineage, 1 + len(without))
        nearest = next((each for each in near if each.example.id not in without), None)
        if nearest is None:
            return None
        return Found(
            neighbour=nearest,
            score=self._score(question, nearest),
            mentions=not set(names(question)).isdisjoint(words(embedded_text(nearest.example))),
        )

    def _score(self, question: str, near: Neighbour) -> float:
        if normal_form(as_line(near.example.input)) == normal_form(question):
            return AS_TAUGHT
        told = ALONE * near.score
        if self.reranker is not None:
            (odds,) = self.reranker.score(question, [embedded_text(near.example)])
            told = odds + SIMILAR * near.score
        return told - LACKING * near.lacking
