"""Text files that are neither JSON nor a table. A file in, sentences in columns or one document out.

What lives here: CoNLL's columns and blank lines, a document's title. What never does: what a tag means
(``annotations``), encodings and bounds of reading (``text_file``).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorad.config import InboxSettings
from lorad.datasets.containers.file_rows import BadRow, cut_off, too_long
from lorad.datasets.containers.text_file import CHUNK, LineTooLong, TextFile
from lorad.datasets.formats import web_pages
from lorad.errors import SampleError

#: Names of files that are one document; others (programs, logs) are not meant for reading.
DOCUMENTS = {".txt", ".text", ".md", ".markdown", ".rst", ".rest", "", *web_pages.SUFFIXES}

#: How a text is written, by the ending of its file's name; any other is plain.
MARKUPS = {".md": "markdown", ".markdown": "markdown", ".rst": "rst", ".rest": "rst"}

#: A tag of the IOB family, by which a file in columns is known.
TAG = re.compile(r"O|[BIESLUM]-.+")

_HEADING = re.compile(r"#{1,6}[ \t]++(.*)")
_UNDERLINE = re.compile(r"=+[ \t]*")
_FENCE = re.compile(r"(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words and the last column beside them."""

    tokens: list[str]
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole file."""

    title: str
    source: str
    text: str
    markup: str = ""
    """``markdown`` where the file was none and was made into it; empty: what its name says."""
    pages: tuple[int, ...] = ()
    """The characters at which its pages begin, where it has any."""


def document(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Document]]:
    """Yield the whole file as its only row; raise ``SampleError`` when that is longer than a row may be."""
    name = text.source.name.encode(errors="replace").decode()  # it is kept, and a name need not be UTF-8
    plain = Path(name[: -len(".gz")] if name.lower().endswith(".gz") else name)
    if plain.suffix.lower() not in DOCUMENTS:
        raise SampleError(
            f"{name} is plain text, and only .txt, .md, .rst and .html are taken for documents; name it so, or write rows of "
            'JSON such as {"title": "…", "text": "…"}',
            code="plain_text",
        )
    pieces = []
    begin, line = text.offset, text.number + 1
    while piece := text.chunk(min(CHUNK, limits.max_row_bytes + 1)):
        pieces.append(piece)
        if text.offset - begin > limits.max_row_bytes:
            raise SampleError(
                f"{name} is one document of more than inbox.max_row_bytes ({limits.max_row_bytes}) bytes; split "
                "it, at its headings perhaps, or raise the limit",
                code="row_too_long",
            )
    whole = "".join(pieces)
    if plain.suffix.lower() in web_pages.SUFFIXES:
        try:
            page = web_pages.read(whole)
        except ImportError:  # lorad's installation is to blame
            raise
        except Exception as error:  # noqa: BLE001 - a page nested ten thousand deep, and whatever else the web has
            told = f"{name} is a web page that cannot be read ({type(error).__name__}); save it as text"
            raise SampleError(told, code="damaged") from None
        yield line, Document(page.title or plain.stem, name, page.text, "markdown")
        return
    title = (heading(whole) if markup(name) else "") or plain.stem
    yield line, Document(title, name, whole)


def markup(name: str) -> str:
    """Return how a file's text is written, by its name; empty for plain text. Sphinx calls its sources ``mill.rst.txt``."""
    path = Path(name.lower().removesuffix(".gz").removesuffix(".txt"))
    return MARKUPS.get(path.suffix, "")


def heading(text: str) -> str:
    """Return the first heading outside of code, "" where there is none."""
    fence, above = "", ""
    for line in text.splitlines():
        mark = _FENCE.match(line.lstrip())
        if mark and (not fence or line.strip().startswith(fence)):
            fence, above = ("" if fence else mark[0]), ""
        elif not fence and (heading := _title(line)):
            return heading
        elif not fence and above and _UNDERLINE.fullmatch(line):
            return above
        else:
            above = line.strip()
    return ""


def _title(line: str) -> str:
    """Return what a line says as a heading, without the signs that close it; "" when it is none."""
    found = _HEADING.fullmatch(line)
    return found[1].rstrip(" \t").rstrip("#").rstrip(" \t") if found else ""


def sentences(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Sentence | BadRow]]:
    """Yield sentences with the line on which they begin; raise ``SampleError`` when nothing in it is tagged."""
    columns = _Columns(text, limits)
    while (found := columns.next()) is not None:
        yield found


class _Columns:
    """A file in columns, read sentence by sentence."""

    def __init__(self, text: TextFile, limits: InboxSettings) -> None:
        self._text = text
        self._limits = limits
        self._width = 0
        """Columns of the file, known from its first word."""

    def next(self) -> tuple[int, Sentence | BadRow] | None:
        """Return the next sentence that holds a word, None at the end."""
        begin, size = 0, 0
        sentence = Sentence([], [])
        problem: BadRow | None = None
        while (line := self._line()) is not None:
            cells = _split(line) if isinstance(line, str) else []
            if isinstance(line, str) and not line.strip():
                if begin:
                    break
                continue
            if not begin and self._is_said_about(cells):
                continue
            begin = begin or self._text.number
            size += len(line.encode()) if isinstance(line, str) else self._limits.max_row_bytes + 1
            if size > self._limits.max_row_bytes:
                problem = problem or too_long(self._limits)
                sentence = Sentence([], [])  # what follows of it is passed, not kept
            elif problem is None:
                problem = self._add(cells, sentence)
        return (begin, problem or self._checked(sentence)) if begin else None

    def _line(self) -> str | LineTooLong | None:
        try:
            return self._text.line(self._limits.max_row_bytes)
        except LineTooLong as problem:
            return problem

    def _is_said_about(self, cells: list[str]) -> bool:
        """Tell whether a line before a sentence says something about it: -DOCSTART-, or a comment.

        "#" is a word as well, and then there is a tag at the end of its line and as many columns as elsewhere.
        """
        if cells[:1] == ["-DOCSTART-"]:
            return True
        is_word = TAG.fullmatch(cells[-1]) and self._width in (0, len(cells)) if cells else False
        return bool(cells) and cells[0].startswith("#") and not is_word

    def _add(self, cells: list[str], sentence: Sentence) -> BadRow | None:
        number = self._text.number
        if not self._width:
            self._width = self._begin(cells)
        if len(cells) != self._width:
            if self._text.is_cut and len(cells) < self._width:
                raise cut_off(self._text, number)
            told = f"line {number} has {len(cells)} columns, and the first one has {self._width}"
            return BadRow("tokens", f"{told}; a blank line ends a sentence")
        if not TAG.fullmatch(cells[-1]):
            return BadRow(
                "tags", f"line {number} ends with {cells[-1]!r}, which is no tag; O or B-, I- and so on"
            )
        sentence.tokens.append(cells[0])
        sentence.tags.append(cells[-1])
        return None

    def _checked(self, sentence: Sentence) -> Sentence | BadRow:
        """Refuse a sentence whose words are their numbers: GermEval's and CoNLL-U's words are elsewhere."""
        count = len(sentence.tokens)
        numbers = [str(number) for number in range(1, count + 1)]
        if self._width > 2 and count > 1 and sentence.tokens == numbers:  # noqa: PLR2004 - number and tag alone
            return BadRow(
                "tokens", "are numbered in the first column; make the words the first and the tags the last"
            )
        return sentence

    def _begin(self, cells: list[str]) -> int:
        if len(cells) > 1 and TAG.fullmatch(cells[-1]):
            return len(cells)
        told = "is plain text in which no word has a tag; write a word and its tag on each line (EU B-ORG), or JSON"
        raise SampleError(
            f'{self._text.source.name} {told} such as {{"text": "…", "spans": []}}', code="plain_text"
        )


def _split(line: str) -> list[str]:
    """Return a line's columns: parted by tabs where there are any, so that a word may hold a blank."""
    line = line.strip(" \t\r\n")
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else re.split(" +", line)
