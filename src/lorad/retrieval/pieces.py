"""The sentences, list items, table rows and pieces of code of a text, word for word. Pure.

What lives here: taking a text apart. What never does: which of its pieces is quoted (``quoting``) or asked about
(``question_drawing``), models; nothing here loads one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lorad.retrieval.outline import Block, Kind, Markup, blocks
from lorad.retrieval.splitting import sentence_starts

SHORT_PARAGRAPH = 60
"""Words of a paragraph that is quoted whole: what a sentence means often stands in the one before it."""

LONGEST_PIECE = 600
"""Characters of a piece: a longer one is no quotation but a text."""

_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?=\S)", re.MULTILINE)
_DELIMITER = re.compile(r"[ \t]*+\|?[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*+")
_LINE = re.compile(r"[^\r\n]+")
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that says something by itself."""

    start: int
    """Its first character in the text."""
    end: int
    said: str
    """What is answered: its words, of a table's row each behind the name of its column."""
    compared: str
    """What is compared with the question: of a short paragraph, which is quoted whole, one sentence."""
    heading: str
    """The heading above it."""
    kind: Kind
    """What it is a part of."""


def taken_apart(text: str, markup: Markup, above: str, short_paragraph: int = SHORT_PARAGRAPH) -> list[Piece]:
    """Return a text's pieces in their order; ``above`` is the heading of those that have none in the text.

    Of a paragraph of at most ``short_paragraph`` words each sentence stands for all of it.
    """
    found: list[Piece] = []
    for block in blocks(text, markup):
        if block.kind != "heading":
            heading = block.heading[-1] if block.heading else above
            found += _pieces(text, block, heading, short_paragraph)
    return [piece for piece in found if 0 < piece.end - piece.start <= LONGEST_PIECE]


def _pieces(text: str, block: Block, heading: str, short_paragraph: int) -> list[Piece]:
    if block.kind == "table":
        return _rows(text, block, heading)
    if block.kind == "code":
        return [_piece(text, block.start, block.end, heading, "code")]
    items = list(_ITEM.finditer(text, block.start, block.end))
    # what stands before the first item is prose; where there is none, all of it
    found = _sentences(text, block.start, items[0].start() if items else block.end, heading, short_paragraph)
    behind = [*(item.start() for item in items[1:]), block.end]
    found += [_piece(text, item.end(), end, heading) for item, end in zip(items, behind, strict=False)]
    return [piece for piece in found if piece.end > piece.start]


def _sentences(text: str, start: int, end: int, heading: str, short_paragraph: int) -> list[Piece]:
    """Return the sentences of a paragraph; of a short one each stands for all of it. What only announces says nothing."""
    edges = [start, *sentence_starts(text, start, end), end]
    found = [_piece(text, first, last, heading) for first, last in pairwise(edges)]
    if len(text[start:end].split()) <= short_paragraph:
        whole = _piece(text, start, end, heading)
        found = [replace(whole, compared=piece.compared) for piece in found]
    return [piece for piece in found if not piece.compared.endswith(":")]


def _piece(text: str, start: int, end: int, heading: str, kind: Kind = "text") -> Piece:
    """Return a span without the white space around it."""
    part = text[start:end]
    first, last = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
    said = text[first : max(first, last)]
    return Piece(first, max(first, last), said, said, heading, kind)


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
    return [Piece(start, end, told, told, heading, "table") for start, end, told in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(line.strip().strip("|"))]


def _row(names: Sequence[str], cells: Sequence[str]) -> str:
    named = [*names, *[""] * (len(cells) - len(names))]
    told = [f"{name}: {cell}" if name else cell for name, cell in zip(named, cells, strict=False) if cell]
    return "; ".join(told)
