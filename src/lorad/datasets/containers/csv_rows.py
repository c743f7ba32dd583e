"""Rows in tables of text. Lines in, cells by column out.

What lives here: finding the line with the columns' names and what parts them, quotes that go wrong. What never
does: what a column means (``reader``), encodings (``text_file``).
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers.layout import BadRow, Layout, cut_off, shown, too_long, too_many_columns, twice
from lorad.datasets.containers.text_file import CHUNK, LineTooLong, TextFile
from lorad.errors import SampleError

#: What may stand between columns, in the order in which they are tried.
DELIMITERS = ",;\t|"

#: Lines in which a table's header is looked for, behind a title and notes.
_FIRST_LINES = 10

#: Excel's own first line, which says what stands between columns.
_SEP = re.compile(r'"?sep=(\\t|[^"])"?[,;\t|]*', re.IGNORECASE)

#: The second line of a table in Markdown.
_RULE = re.compile(r"[ \t]*+\|?[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*+")

#: Lines inside a table's cell that all read as rows, from which on they are rows and the quotes around them are not.
_SWALLOWED = 3

#: Fewer do where every line of the row is one, the first and the last as well: prose and lists seldom have as many
#: commas as a row, a tab in a cell is rarer still, and a quote that ends the last cell may well be meant.
_SWALLOWED_TABS, _SWALLOWED_EARLY = 1, 2

#: What numbers rows, in a first column without a name.
_ROW_NUMBER = re.compile(r"\s*\d+(\.0)?\s*")

#: Characters of a cell that a problem shows.
_LONGEST_SHOWN = 30

#: A cell whose quotes stand behind a blank, where the csv module takes them for text.
_QUOTED = r' ++"[^"]*+"'


@dataclass(frozen=True, slots=True)
class Header:
    """The line that names a table's columns."""

    delimiter: str
    columns: tuple[str, ...]
    is_spaced: bool
    """Whether people wrote a blank behind each comma, which is no part of a cell."""
    is_padded: bool
    """Whether they wrote one before it as well."""
    line: int = 1
    """Its place among the lines that were not passed yet."""
    problem: str = ""
    """Why the table cannot be read although its header was found."""

    def cells(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Return a reader of such rows."""
        return csv.reader(lines, delimiter=self.delimiter, strict=True, skipinitialspace=self.is_spaced)

    def is_row(self, line: str) -> bool:
        """Tell whether a line that is part of a row reads as one of its own.

        Behind a comma in prose is a blank, or the end of the line.
        """
        try:
            cells = next(self.cells([line]))
        except csv.Error:
            return False
        return self._are_cells(cells)

    def are_rows(self, lines: Sequence[str]) -> bool:
        """Tell whether each line that is part of a row is one of its own where quotes are text."""
        return all(self._are_cells(line.split(self.delimiter)) for line in lines if line.strip())

    def _are_cells(self, cells: Sequence[str]) -> bool:
        is_prose = len(list(filter(str.strip, cells))) <= 1 or any(cell.startswith(" ") for cell in cells)
        return len(cells) == len(self.columns) and not is_prose


def _bare(name: str) -> str:
    """Return a column's name without its case, blanks and a file's mark, which is in the middle of joined ones."""
    return name.strip("\ufeff \t").casefold()


def find(head: bytes, layout: Layout) -> Header | None:
    """Return the header of a table that begins with it, None when the first line names no columns."""
    return _header(first_lines(head)[0], layout, DELIMITERS)


def find_below(head: bytes, layout: Layout) -> Header | None:
    """Return a table's header, which may stand below ``sep=;``, or below notes if it is more than a word of text."""
    first, *others = lines = first_lines(head)
    delimiter, _ = said_delimiter(first)
    if delimiter:
        header = _header(others[0], layout, delimiter) if others else None
        return header and _checked(replace(header, line=2), lines)
    if header := _header(first, layout, DELIMITERS):
        return _checked(header, lines)
    for at, line in enumerate(others, start=2):
        header = _header(line, layout, DELIMITERS)
        if (
            header
            and len(header.columns) > 1
            and (not layout.own or not {*layout.own}.isdisjoint(layout.columns(header.columns) or ()))
        ):
            return _checked(replace(header, line=at), lines)
    return None


def said_delimiter(first: str) -> tuple[str, int]:
    """Return what a first line says that stands between columns, "" when it says nothing, and the lines that it takes."""
    said = _SEP.fullmatch(first.strip())
    if said is None:
        return "", 0
    return ("\t" if said[1] == r"\t" else said[1]), 1


def first_lines(head: bytes) -> list[str]:
    """Return the lines in which a table's header is looked for."""
    *whole, rest = head.split(b"\n", _FIRST_LINES)
    return [
        line.decode(errors="replace").strip("\r")
        for line in (whole if len(whole) == _FIRST_LINES else [*whole, rest])
    ]


def _header(line: str, layout: Layout, delimiters: str) -> Header | None:
    for delimiter in delimiters:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True), [])
        except csv.Error:
            continue
        if layout.columns(cells):
            is_spaced = delimiter != "\t" and f"{delimiter} " in line
            names = tuple(cell.strip() for cell in cells)
            return Header(delimiter, names, is_spaced, is_spaced and f" {delimiter}" in line)
    return None


def _checked(header: Header, lines: Sequence[str]) -> Header:
    """Return a header with what speaks against reading its table."""
    above = lines[: header.line - 1]
    if header.delimiter == "|" and header.line < len(lines) and _RULE.fullmatch(lines[header.line]):
        return replace(header, problem="is a table in Markdown; write it as CSV, with a comma between cells")
    if any(map(header.is_row, above)):
        told = "names its columns on line {line}, and the lines above it may be rows; remove them"
        return replace(header, problem=told)
    return header


class _RowLines:
    """Lines for the csv module, together no longer than a row: an open quote must not swallow the file."""

    def __init__(self, text: TextFile, longest: int) -> None:
        self._text = text
        self._longest = longest
        self._end = 0
        self.passed: list[str] = []
        """The lines of the row so far."""

    def begin(self) -> None:
        self._end = self._text.offset + self._longest
        self.passed = []

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        line = self._text.line(self._end - self._text.offset)
        if line is None:
            raise StopIteration
        self.passed.append(line)
        return line


def read(text: TextFile, limits: InboxSettings, header: Header) -> Iterator[tuple[int, Any]]:
    """Yield a table's rows with the line on which each begins."""
    _refuse(text, header, limits)
    csv.field_size_limit(max(csv.field_size_limit(), limits.max_row_bytes))  # the module's own is too small
    lines = _RowLines(text, limits.max_row_bytes)
    reader = header.cells(lines)
    _pass_header(text, header)
    while True:
        lines.begin()
        line = text.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except LineTooLong:
            row = too_long(limits)
        except csv.Error as error:
            if "end of data" in str(error):
                raise cut_off(text, line) from None
            row = BadRow("", f"not CSV: {error}")
        else:
            # Excel writes empty rows behind the last one
            if not any(map(str.strip, cells)) or _is_header_again(text, header, cells, line):
                continue
            if text.is_cut and len(cells) < len(header.columns):
                raise cut_off(text, line)
            row = _named(header, cells, "".join(lines.passed))
        yield from _with_swallowed(line, row, lines.passed, header)


def _refuse(text: TextFile, header: Header, limits: InboxSettings) -> None:
    if len(header.columns) > limits.max_columns:
        told = too_many_columns(len(header.columns), limits)
        raise SampleError(f"{text.source.name} {told}", code="too_many_columns")
    if header.problem:
        told = header.problem.format(line=text.number + header.line)
        raise SampleError(f"{text.source.name} {told}", code="bad_header")
    if names := twice(header.columns):
        one, other = map(shown, names)
        told = f"two columns {one}" if one == other else f"columns {one} and {other}"
        raise SampleError(f"{text.source.name} has {told}; name them apart", code="bad_header")


def _pass_header(text: TextFile, header: Header) -> None:
    try:
        for _ in range(header.line):
            text.line(CHUNK)
    except LineTooLong:
        told = f"has a line of more than {CHUNK} bytes where its columns are named; shorten the names"
        raise SampleError(f"{text.source.name} {told}", code="bad_header") from None


def _is_header_again(text: TextFile, header: Header, cells: Sequence[str], line: int) -> bool:
    """Tell whether a row names the columns once more, as in tables that were joined."""
    if len(cells) != len(header.columns) or _bare(cells[0]) not in map(_bare, header.columns):
        return False
    names, columns = list(map(_bare, cells)), list(map(_bare, header.columns))
    if names != columns and sorted(names) == sorted(columns):
        told = (
            f"names its columns again on line {line}, in another order; drop each table as a file of its own"
        )
        raise SampleError(f"{text.source.name} {told}", code="bad_header")
    return names == columns


def _with_swallowed(line: int, row: Any, passed: Sequence[str], header: Header) -> Iterator[tuple[int, Any]]:
    """Yield a row; lines that a stray quote took into it, and which would be lost, are bad rows of their own."""
    if not isinstance(row, BadRow) and not _has_swallowed(passed, header):
        yield line, row
        return
    lost = [line + at for at, text in enumerate(passed[1:], start=1) if header.is_row(text)]
    if lost:
        told = f"a quote takes in {len(lost)} more row{'s' * (len(lost) > 1)}, as far as line {lost[-1]}; close it, or double a quote of the text"
        row = BadRow(row.field, f"{row}; {told}") if isinstance(row, BadRow) else BadRow("", told)
    yield line, row
    for number in lost:
        yield number, BadRow("", f"lies inside the row that begins on line {line}")


def _has_swallowed(passed: Sequence[str], header: Header) -> bool:
    """Tell whether lines of a row that can be read are rows of their own, between two stray quotes."""
    if len(passed) == 1:
        return False
    inner = passed[1:-1]
    if len(inner) >= _SWALLOWED and all(map(header.is_row, inner)):
        return True
    is_last = passed[0].split(header.delimiter)[-1].startswith('"')
    enough = _SWALLOWED if is_last else _SWALLOWED_EARLY
    if header.delimiter == "\t":
        enough = _SWALLOWED_TABS
    return len(passed) > enough and header.are_rows(passed)


def _named(header: Header, cells: Sequence[str], written: str) -> Any:
    """Return cells by column; an empty one holds nothing, and columns without a name are row numbers or empty."""
    if len(cells) != len(header.columns):
        return BadRow("", _why_uneven(header, cells, written))
    may_be = any(cell.startswith(" ") and '"' in cell for cell in cells)
    if may_be and (name := _blank_before_quotes(header, cells, written)) is not None:
        return BadRow(name, "has a blank before its quotes, which makes them part of the text; remove it")
    if header.is_padded:
        cells = [cell.rstrip(" ") for cell in cells]
    if text := _nameless_text(header.columns, cells):
        return BadRow("", f"holds {text!r} in a column without a name; {_quotes(header)}, or name the column")
    return {
        name: cell or None for name, cell in zip(header.columns, cells, strict=True) if not _is_nameless(name)
    }


def _blank_before_quotes(header: Header, cells: Sequence[str], written: str) -> str | None:
    """Return the first column whose cell is written as a blank and then quotes, None when there is none."""
    found = set(re.findall(f"(?={re.escape(header.delimiter)}({_QUOTED}))", written))
    return next((name for name, cell in zip(header.columns, cells, strict=True) if cell in found), None)


def _is_nameless(name: str) -> bool:
    return not name or name.lower().startswith("unnamed: ")  # as pandas writes its index, and reads it again


def _nameless_text(columns: Sequence[str], cells: Sequence[str]) -> str:
    """Return the beginning of what would be lost with a column that has no name, "" when nothing would."""
    is_first = True
    for name, cell in zip(columns, cells, strict=True):
        is_first = is_first and _is_nameless(name)
        if _is_nameless(name) and cell.strip() and not (is_first and _ROW_NUMBER.fullmatch(cell)):
            return cell.strip()[:_LONGEST_SHOWN]
    return ""


def _why_uneven(header: Header, cells: Sequence[str], written: str) -> str:
    told = f"has {len(cells)} cells, and there are {len(header.columns)} columns"
    if "\n" in written.strip():
        return told
    if len(cells) < len(header.columns):
        return f"{told}; put quotes around a cell that holds a line break"
    return f"{told}; {_quotes(header)}"


def _quotes(header: Header) -> str:
    return f'put quotes around a cell that holds a {_SPOKEN.get(header.delimiter, header.delimiter)}: "…"'


_SPOKEN = {",": "comma", ";": "semicolon", "\t": "tab"}
