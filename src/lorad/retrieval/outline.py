"""What a document is made of: headings, paragraphs, tables and code, and where each stands. Pure.

What lives here: plain text, Markdown and reStructuredText as blocks. What never does: how long a chunk is (``splitting``),
files.

Markdown is read by markdown-it-py, which knows CommonMark and tables. reStructuredText is read here, by its underlined
headings and its indents: docutils refuses what it has no directive for, and every manual of Sphinx has such.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

from markdown_it import MarkdownIt

Markup = Literal["plain", "markdown", "rst"]
Kind = Literal["heading", "text", "table", "code"]

LONGEST_HEADING = 200
"""Characters of a heading that are kept: one that is longer is a paragraph that somebody wrote in bold."""

_KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
}
_LINE = re.compile(r"\r\n?|\n")
_BLANK = re.compile(r"(?>\r\n?|\n)(?:[ \t]*+(?>\r\n?|\n))++")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:.*\n){0,200}?---[ \t]*(?:\r?\n|\Z)")
_LINKED = re.compile(r"!?\[([^\]\n]{0,200})\]\([^)\n]{0,500}\)")
_SIGNS = re.compile(r"[`*\\]|(?<!\w)_+|_+(?!\w)|[¶#]+\s*$")

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}[ \t]*")
_GRID, _SIMPLE = re.compile(r"\+[-=+]+\+[ \t]*"), re.compile(r"=+(?:[ \t]+=+)+[ \t]*")
_CODE_DIRECTIVE = re.compile(r"\.\.[ \t]+(?:code-block|code|sourcecode|highlight|parsed-literal|doctest)::")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a text that is one thing."""

    start: int
    """Its first character."""
    end: int
    """Behind its last character that is not white space."""
    kind: Kind
    heading: tuple[str, ...] = ()
    """The headings above it, the outermost first; a heading's own is the last."""


def blocks(text: str, markup: Markup) -> list[Block]:
    """Return the blocks of a text, in their order, none over another; what lies between them is white space."""
    found = {"markdown": _markdown, "rst": _rst, "plain": _plain}[markup](text)
    return [each for block in found if (each := trimmed(text, block)).end > each.start]


def trimmed(text: str, block: Block) -> Block:
    """Return a block without the blank lines before it and the white space behind it; an indent is part of code."""
    start, end = trim(text, block.start, block.end)
    return replace(block, start=start, end=end)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the blank lines before it and the white space behind it."""
    part = text[start:end]
    end = start + len(part.rstrip())
    lead = len(part) - len(part.lstrip())
    line = max(part.rfind("\n", 0, lead), part.rfind("\r", 0, lead)) + 1  # its first line's indent stays
    return min(start + line, end), end


def markup_of(name: str) -> Markup:
    """Return how a text is written, by the name that is stored; plain text for any other."""
    return name if name in ("markdown", "rst") else "plain"  # type: ignore[return-value]


def heading_text(written: str) -> str:
    """Return a heading as people read it, without Markdown's signs."""
    # cut before it is searched: a run of a hundred thousand signs is tried at each of its places
    plain = _SIGNS.sub("", _LINKED.sub(r"\1", written[: 4 * LONGEST_HEADING]))
    return " ".join(plain.split())[:LONGEST_HEADING]


class _Path:
    """The headings above the place where a reader stands."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, heading: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        if heading:
            self._open.append((level, heading))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._open)


def _line_starts(text: str) -> list[int]:
    """Return where each line begins, and the text's end."""
    return [0, *(end.end() for end in _LINE.finditer(text)), len(text)]


# plain text


def _plain(text: str) -> Iterator[Block]:
    begins = [0, *(gap.end() for gap in _BLANK.finditer(text)), len(text)]
    for start, end in pairwise(begins):
        yield Block(start, end, "text")


# Markdown


@cache
def _parser() -> MarkdownIt:
    # what stands inside a line decides nothing here, and takes most of the time; what a link's name stands for is text as any other
    return MarkdownIt("commonmark").enable("table").disable(["inline", "reference"])


def _markdown(text: str) -> Iterator[Block]:
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    if front:
        yield Block(0, begin, "text")
    body = text[begin:]
    starts = [begin + start for start in _line_starts(body)]
    path = _Path()
    tokens = _parser().parse(body)
    for at, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        kind = _KINDS.get(token.type, "text")
        if kind == "heading":
            path.enter(int(token.tag[1:]), heading_text(tokens[at + 1].content))
        first, last = token.map
        yield Block(starts[first], starts[min(last, len(starts) - 1)], kind, path.names)


# reStructuredText


def _rst(text: str) -> Iterator[Block]:
    return _Rst(text).blocks()


class _Rst:
    """A text of reStructuredText, line by line."""

    def __init__(self, text: str) -> None:
        self._starts = _line_starts(text)
        self._lines = [text[start:end].rstrip() for start, end in pairwise(self._starts)]
        self._path = _Path()
        self._levels: list[tuple[str, bool]] = []
        """Kinds of adornment in the order in which they came: the first is the highest."""

    def blocks(self) -> Iterator[Block]:
        at, is_code_next = 0, False
        while at < len(self._lines):
            if not self._lines[at]:
                at += 1
                continue
            if (title := self._title(at)) is not None:
                end, kind = title, "heading"
            else:
                end, kind = self._block(at, is_code=is_code_next)
            yield Block(self._starts[at], self._starts[end], kind, self._path.names)  # type: ignore[arg-type]
            last = self._lines[end - 1]
            is_code_next = kind == "text" and last.endswith("::") and self._is_indented(self._next(end), last)
            at = end

    def _title(self, at: int) -> int | None:
        """Enter the heading that begins in a line; return the line behind it, ``None`` where there is none."""
        first, second, third = [*self._lines[at : at + 3], "", ""][:3]
        over, under = _ADORNMENT.fullmatch(first), _ADORNMENT.fullmatch(second)
        if over and second.strip() and third.rstrip() == first.rstrip():
            self._enter(second, (over[1], True))
            return at + 3
        if under and not over and not first[:1].isspace() and len(second.rstrip()) >= len(first):
            self._enter(first, (under[1], False))
            return at + 2
        return None

    def _enter(self, title: str, kind: tuple[str, bool]) -> None:
        if kind not in self._levels:
            self._levels.append(kind)
        self._path.enter(self._levels.index(kind), heading_text(title.replace("``", "")))

    def _block(self, at: int, *, is_code: bool) -> tuple[int, Kind]:
        """Return the line behind the block that begins in a line, and what it is."""
        line = self._lines[at]
        if is_code and line[:1].isspace():
            return self._behind_indented(at, line), "code"
        if _CODE_DIRECTIVE.match(line.strip()):
            return self._behind_indented(at + 1, line), "code"
        if _GRID.fullmatch(line.strip()):
            return self._behind_text(at), "table"
        if _SIMPLE.fullmatch(line.strip()):
            return self._behind_simple_table(at), "table"
        return self._behind_text(at), "text"

    def _behind_text(self, at: int) -> int:
        while at < len(self._lines) and self._lines[at]:
            at += 1
            if at < len(self._lines) and self._is_heading_at(at):
                break
        return at

    def _is_heading_at(self, at: int) -> bool:
        above, here, below = self._lines[at - 1], self._lines[at], (self._lines[at + 1 :] or [""])[0]
        return not above and bool(here) and bool(_ADORNMENT.fullmatch(below))

    def _behind_simple_table(self, at: int) -> int:
        """Return the line behind a table's last border: the one that a blank line follows."""
        end = at + 1
        while end < len(self._lines):
            if _SIMPLE.fullmatch(self._lines[end].strip()) and not self._next(end + 1, lines=1):
                return end + 1
            end += 1
        return self._behind_text(at)

    def _behind_indented(self, at: int, above: str) -> int:
        """Return the line behind the lines that are indented more than the one above, blank ones between them included."""
        end = at
        limit = _indent(above) if at and not above[:1].isspace() else _indent(above) - 1
        for number in range(at, len(self._lines)):
            if self._lines[number] and _indent(self._lines[number]) <= limit:
                break
            if self._lines[number]:
                end = number + 1
        return max(end, at)

    def _next(self, at: int, lines: int | None = None) -> str:
        """Return the next line that is not blank, of so many."""
        rest: Sequence[str] = self._lines[at:] if lines is None else self._lines[at : at + lines]
        return next(filter(None, rest), "")

    def _is_indented(self, line: str, above: str) -> bool:
        return bool(line) and _indent(line) > _indent(above)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
