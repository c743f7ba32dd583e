"""The paragraph, list item or table row of some passages that answers a question, word for word. Pure.

What lives here: which piece is quoted. What never does: taking a text apart (``pieces``), searching, models; what scores is handed
in.

A small model copies badly: asked for a price behind a price list it takes the next number. What is quoted is not generated, so
it is fast, and nothing in it is made up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lorad.retrieval.citations import Citation
from lorad.retrieval.document_store import Passage
from lorad.retrieval.odds import Odds
from lorad.retrieval.outline import markup_of
from lorad.retrieval.passages import citations
from lorad.retrieval.pieces import Piece, taken_apart
from lorad.retrieval.words import words


@dataclass(frozen=True, slots=True)
class Matcher:
    """What reads a question and pieces of text: lorad's reranker, and the encoder that it is an adapter of."""

    score: Callable[[str, Sequence[str]], Sequence[Odds]]
    """Says of a question and each text how likely it is that this answers that (``rerankers.CrossEncoder.score``)."""
    embed: Callable[[Sequence[str]], NDArray[np.float32]]
    """Returns the vectors of texts, [N, D], of length 1."""

    def nearness(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return the cosines of a question and texts."""
        asked, *held = self.embed([question, *texts])
        return [float(each @ asked) for each in held]


NEAR, COVERED, EVEN = 16.0, 1.0, -5.0
"""A piece's score is the reranker's log-odds + NEAR x the cosine of its embedding and the question's + COVERED x the share of the
question's words that it holds + EVEN. Fitted on data/documents_tuning by logistic regression, rounded; from 0, the usual line, 1 in 3
questions that the documents do not answer get an answer, from 1 on 1 in 5."""

ALONE = 8.0
"""Weight of the share of the words where there is no reranker; a piece that holds half of them scores 0."""

MOST_COMPARED = 32
"""Pieces that the reranker compares, those that hold most of the question's words."""

LEAST_STEM = 4
"""Letters that two forms of a word must share."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """What is quoted, and where it stands."""

    text: str
    cited: Citation
    score: float
    """How well it answers the question: 0 is even, more is better."""
    about: float
    """Log-odds that the question asks for something that such texts tell, and is no ordinary conversation."""


def best(
    question: str, passages: Sequence[Passage], rarities: Mapping[str, float], matcher: Matcher | None
) -> Quotation | None:
    """Return the piece of these passages that answers a question best; ``None`` where they have none.

    ``rarities`` are the question's words, each with what it tells, 0 to 1.
    """
    every = [(passage, piece) for passage in passages for piece in pieces(passage)]
    if not every:
        return None
    held = [coverage(rarities, _shown(*each)) for each in every]
    # a stable sort: of pieces that hold as much, those of the best passages are compared
    order = sorted(range(len(every)), key=lambda place: -held[place])[:MOST_COMPARED]
    found, covered = [every[place] for place in order], [held[place] for place in order]
    texts = [_shown(*each) for each in found]
    if matcher is None:
        scores = [ALONE * (share - 0.5) for share in covered]
        about = max(scores)
    else:
        told = matcher.score(question, texts)
        # of the piece alone: what stands above all of a passage's pieces tells none from another
        near = matcher.nearness(question, [piece.compared for _, piece in found])
        scores = [
            one.answers + NEAR * cosine + COVERED * share + EVEN
            for one, cosine, share in zip(told, near, covered, strict=True)
        ]
        about = max(one.about for one in told)
    highest = max(scores)
    passage, piece = found[scores.index(highest)]
    start = passage.chunk.start
    own = replace(
        citations([passage])[0],
        start=start + piece.start,
        end=start + piece.end,
        text=passage.chunk.text[piece.start : piece.end],
    )
    return Quotation(piece.said, own, highest, about)


def _shown(passage: Passage, piece: Piece) -> str:
    """Return a piece as it is compared: behind what it is about."""
    return f"{passage.chunk.title}, {piece.heading}: {piece.compared}"


def pieces(passage: Passage) -> list[Piece]:
    """Return what of a passage may be quoted, in its order."""
    chunk = passage.chunk
    above = (chunk.heading or (chunk.title,))[-1]
    return taken_apart(chunk.text, markup_of(chunk.markup), above)


def coverage(rarities: Mapping[str, float], text: str) -> float:
    """Return the share of a question's words that a text holds in some form, weighted by what each tells."""
    total = sum(rarities.values())
    held = words(text)
    return sum(rarity for word, rarity in rarities.items() if _holds(held, word)) / total if total else 0.0


def _holds(held: Sequence[str], word: str) -> bool:
    stem = word[: max(LEAST_STEM, len(word) - 3)]
    return any(each == word or (len(word) > LEAST_STEM and each.startswith(stem)) for each in held)
