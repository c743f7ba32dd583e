"""The paragraph, list item or table row of some passages that answers a question, word for word. Pure.

What lives here: taking a passage apart, and which of its pieces is quoted. What never does: searching, models; what scores is
handed in.

A small model copies badly: asked for a price behind a price list it takes the next number. What is quoted is not generated, so
it is fast, and nothing in it is made up.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lorad.retrieval.citations import Citation
from lorad.retrieval.document_store import Passage
from lorad.retrieval.odds import Odds
from lorad.retrieval.outline import Block, blocks, markup_of
from lorad.retrieval.passages import citations
from lorad.retrieval.splitting import sentence_starts
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


NEAR, COVERED, EVEN = 16.0, 1.0, -6.0
"""A piece's score is the reranker's log-odds + NEAR x the cosine of its embedding and the question's + COVERED x the share of the
question's words that it holds + EVEN. Fitted on data/documents_tuning by logistic regression, rounded; at 0 some 1 in 5 untaught
questions are answered."""

ALONE = 8.0
"""Weight of the share of the words where there is no reranker; a piece that holds half of them scores 0."""

MOST_COMPARED, LONGEST_PIECE = 32, 600
"""Pieces that the reranker compares, those that hold most of the question's words; and characters of a piece: a longer one is no
quotation but a text."""

SHORT_PARAGRAPH = 60
"""Words of a paragraph that is quoted whole: what a sentence means often stands in the one before it."""

LEAST_STEM = 4
"""Letters that two forms of a word must share."""

_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?=\S)", re.MULTILINE)
_DELIMITER = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_LINE = re.compile(r"[^\r\n]+")
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a passage that may be quoted."""

    start: int
    """Its first character in the passage."""
    end: int
    said: str
    """What is answered: its words, of a table's row each behind the name of its column."""
    compared: str
    """What is compared with the question: of a short paragraph, which is quoted whole, one sentence."""
    heading: str
    """The heading above it."""


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
    text, above = passage.chunk.text, (passage.chunk.heading or (passage.chunk.title,))[-1]
    found: list[Piece] = []
    for block in blocks(text, markup_of(passage.chunk.markup)):
        if block.kind != "heading":
            heading = block.heading[-1] if block.heading else above
            found += _pieces(text, block, heading)
    return [piece for piece in found if 0 < piece.end - piece.start <= LONGEST_PIECE]


def _pieces(text: str, block: Block, heading: str) -> list[Piece]:
    if block.kind == "table":
        return _rows(text, block, heading)
    if block.kind == "code":
        return [_piece(text, block.start, block.end, heading)]
    items = list(_ITEM.finditer(text, block.start, block.end))
    # what stands before the first item is prose; where there is none, all of it
    found = _sentences(text, block.start, items[0].start() if items else block.end, heading)
    behind = [*(item.start() for item in items[1:]), block.end]
    found += [_piece(text, item.end(), end, heading) for item, end in zip(items, behind, strict=False)]
    return [piece for piece in found if piece.end > piece.start]


def _sentences(text: str, start: int, end: int, heading: str) -> list[Piece]:
    """Return the sentences of a paragraph; of a short one each stands for all of it. What only announces says nothing."""
    edges = [start, *sentence_starts(text, start, end), end]
    found = [_piece(text, first, last, heading) for first, last in pairwise(edges)]
    if len(text[start:end].split()) <= SHORT_PARAGRAPH:
        whole = _piece(text, start, end, heading)
        found = [replace(whole, compared=piece.compared) for piece in found]
    return [piece for piece in found if not piece.compared.endswith(":")]


def _piece(text: str, start: int, end: int, heading: str) -> Piece:
    """Return a span without the white space around it."""
    part = text[start:end]
    first, last = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
    said = text[first : max(first, last)]
    return Piece(first, max(first, last), said, said, heading)


def _rows(text: str, block: Block, heading: str) -> list[Piece]:
    """Return a table's rows, each cell behind the name of its column where the passage has the header."""
    lines = [(line.start(), line.end(), line[0]) for line in _LINE.finditer(text, block.start, block.end)]
    has_header = len(lines) > 1 and bool(_DELIMITER.fullmatch(lines[1][2]))
    names = _cells(lines[0][2]) if has_header else []
    rows = [
        (start, end, _row(names, _cells(line)) if "|" in line else line.strip())
        for start, end, line in lines[2 if has_header else 0 :]
        if any(map(str.isalnum, line))
    ]
    return [Piece(start, end, told, told, heading) for start, end, told in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(line.strip().strip("|"))]


def _row(names: Sequence[str], cells: Sequence[str]) -> str:
    named = [*names, *[""] * (len(cells) - len(names))]
    told = [f"{name}: {cell}" if name else cell for name, cell in zip(named, cells, strict=False) if cell]
    return "; ".join(told)


def coverage(rarities: Mapping[str, float], text: str) -> float:
    """Return the share of a question's words that a text holds in some form, weighted by what each tells."""
    total = sum(rarities.values())
    held = words(text)
    return sum(rarity for word, rarity in rarities.items() if _holds(held, word)) / total if total else 0.0


def _holds(held: Sequence[str], word: str) -> bool:
    stem = word[: max(LEAST_STEM, len(word) - 3)]
    return any(each == word or (len(word) > LEAST_STEM and each.startswith(stem)) for each in held)
