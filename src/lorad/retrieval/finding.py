"""The example nearest to a question, and how well it answers it: the index finds it, the reranker scores it.

What lives here: a question's way through index and reranker. What never does: either of them, deciding (``answering``).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, Protocol

from lorad.evaluation import facts
from lorad.records import Example, as_line
from lorad.retrieval.answering import Found
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.odds import Odds
from lorad.retrieval.words import embedded_text, names, names_another
from lorad.storage.memory import Recalled

BY_SIMILARITY = "similarity"
"""What scores where there is no reranker."""

SIMILAR, LACKING = 6.0, 4.0
"""Weights in an example's score: the reranker's log-odds + SIMILAR x the index's score - LACKING x what the question names
and the example lacks. Found on data/harbour*.json with a reranker of 69 worlds; one of 155 would do without on these, but in a
catalogue of look-alike codes it does not (bench/LOG.md)."""
ANOTHER = 12.0
"""Counted against an example that is about a code where the question has another of the same form: what is true of CS 241 is
no answer for CS 242, however alike they look. Of 3,649 taught questions with digits in data/reranker 3 are hit by it, of 997
untaught ones 885; of 607 taught ones with underscores none, of 149 untaught ones 69 (against the example with most words in common)."""
COMPARED = 4
"""Of the nearest examples so many are compared with the question; the best of them is scored."""
RANKED = 50.0
"""Weight of the index's score in place of SIMILAR where examples are ranked: the reranker decides between near ones only, for
it confuses codes that look alike. Found as SIMILAR was."""
REACH = 0.2
"""How far behind the first an example may be in the index's score to be compared: farther, its odds would have to be more
than a million times as good."""
NAMED = 0.1
"""Added to the similarity of a question that names something or somebody, to tell whether it is about what was taught, where
there is no reranker to say so."""
FORM = 7
"""Counts what an example's score is made of; thresholds of another form mean nothing."""
ALONE = 12.0
"""The index's score where there is no reranker: as log-odds are spread."""
PASSED_OVER = 6
"""Neighbours that are looked at: some are no question that stands alone."""
FEW_WORDS = 5
"""Words of an answer that is a fact even without number or name: "on the left"."""
LONGEST_FACT = 400
"""Characters of an answer beyond which an example is a text and not a fact."""
SHOWN = 12
"""Characters of a fingerprint that tell it from others."""


class Index(Protocol):
    """Where examples are found (``retrieval.index.Index``)."""

    @property
    def embedder(self) -> str:
        """Identify what its similarities mean."""

    def search(self, question: str, lineage: Sequence[str], most: int = 8) -> Sequence[Neighbour]:
        """Return the examples nearest to a question, best first, of those that a version has learned."""

    def written_out(self, question: str, lineage: Sequence[str]) -> str:
        """Return a question with its abbreviations written out as what a version has learned writes them."""

    def has_all(self, lineage: Sequence[str]) -> bool:
        """Tell whether everything that a version has learned can be found."""

    def answer(self, messages: Sequence[Mapping[str, Any]], lineage: Sequence[str]) -> Recalled | None:
        """Return the example whose conversation this is, but for its spelling, of what a version has learned."""


class Reranker(Protocol):
    """What compares a question with examples."""

    @property
    def fingerprint(self) -> str:
        """Identify it: scores of another one mean something else."""

    def score(self, question: str, texts: Sequence[str]) -> Sequence[Odds]:
        """Return what is said of the question and each text."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An index with what compares its nearest with a question, if anything does."""

    index: Index
    reranker: Reranker | None = None

    @property
    def scored_by(self) -> str:
        """Identify what the scores mean: of another embedder or reranker they mean something else."""
        by = self.reranker.fingerprint[:SHOWN] if self.reranker else BY_SIMILARITY
        return f"{by} on {self.index.embedder[:SHOWN]}, form {FORM}"

    def find(self, question: str, lineage: Sequence[str], without: Collection[str] = ()) -> Found | None:
        """Return what a version knows nearest to a question, as if it had not learned the examples ``without``.

        A question with abbreviations is read both ways, as it is and with them written out: PM may be no Paul Merton.
        """
        if not self.index.has_all(lineage):  # the nearest of a part would be taken for the nearest of all
            return None
        written_out = self.index.written_out(question, lineage)
        readings = (self._find(text, lineage, without) for text in dict.fromkeys((question, written_out)))
        return max(filter(None, readings), key=attrgetter("score"), default=None)

    def _find(self, question: str, lineage: Sequence[str], without: Collection[str]) -> Found | None:
        near = self.index.search(question, lineage, PASSED_OVER + len(without))
        fit = [each for each in near if each.example.id not in without and stands_alone(each.example)]
        if not fit:
            return None
        best, score, about = self._best(question, fit)
        return Found(
            neighbour=best,
            score=score,
            about=about,
            is_of_facts=2 * sum(has_fact(each.example) for each in fit) >= len(fit),
        )

    def _best(self, question: str, fit: Sequence[Neighbour]) -> tuple[Neighbour, float, float]:
        """Return the example that answers best, its score, and how much the question is about what was taught."""
        near = [each for each in fit[:COMPARED] if each.score >= fit[0].score - REACH]
        texts = [embedded_text(each.example) for each in near]
        against = [
            LACKING * each.lacking + ANOTHER * names_another(question, as_line(each.example.input), text)
            for each, text in zip(near, texts, strict=True)
        ]
        if self.reranker is None:
            return near[0], ALONE * near[0].score - against[0], near[0].similarity + NAMED * _names(question)
        odds = self.reranker.score(question, texts)
        told = [one.answers - less for one, less in zip(odds, against, strict=True)]
        ranks = [one + RANKED * each.score for one, each in zip(told, near, strict=True)]
        first = ranks.index(max(ranks))
        return near[first], told[first] + SIMILAR * near[first].score, max(one.about for one in odds)


@dataclass(frozen=True, slots=True)
class VersionFinder:
    """What one version has learned, and what of it the version recalls (``answering.Finder``)."""

    finding: Finding
    lineage: Sequence[str]
    right: Mapping[str, bool]
    """By example, what the version's own test said: memory tells of the version that was tested last."""

    def exact(self, messages: Sequence[Mapping[str, Any]]) -> Recalled | None:
        """Return the example that a whole conversation is, if it is one: nothing needs to be compared."""
        found = self.finding.index.answer(messages, self.lineage)
        return found and replace(found, right=self.right.get(found.example.id, found.right))

    def find(self, question: str) -> Found | None:
        """Return what the version knows nearest to a question."""
        found = self.finding.find(question, self.lineage)
        if found is None:
            return None
        near = found.neighbour
        recalled = self.right.get(near.example.id, near.is_recalled)
        return replace(found, neighbour=replace(near, is_recalled=recalled))


def _names(question: str) -> bool:
    """Tell whether a question names something or somebody, known or not."""
    return any(len(name) > 1 and not name.isdecimal() for name in names(question))


def has_fact(example: Example) -> bool:
    """Tell whether an example's answer is a fact: a few words, or a short text with a number, a name, an address."""
    return _is_fact(as_line(example.input), as_line(example.target))


@lru_cache(maxsize=4096)
def _is_fact(asked: str, answer: str) -> bool:
    if len(answer) > LONGEST_FACT:
        return False
    return len(answer.split()) <= FEW_WORDS or bool(facts.slots(asked, answer))


def stands_alone(example: Example) -> bool:
    """Tell whether an example is one question in words with an answer in words.

    One with earlier turns is found only by its whole conversation, or every "Why?" would find it. One with a system prompt
    or tools is never looked up.
    """
    asked = example.input
    is_one = isinstance(asked, list) and len(asked) == 1 and asked[0].get("role") == "user"
    return is_one and isinstance(asked[0].get("content"), str) and isinstance(example.target, str)
