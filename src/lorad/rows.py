"""Materials: containers of rows. A file in, numbered rows out, one at a time.

What lives here: telling JSON, JSONL, CSV and Parquet apart by what a file holds (its name decides only what
that leaves open), and the limits of rows. What never does: what a row's fields mean (``samples``).

Memory is bounded by a row's limit, not by the file's. A problem of one row is yielded in its place, a problem
of the file is raised.
"""

import csv
import errno
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.errors import SampleError
from lorad.strict_json import Flaw, NotJson, Stream, is_deeper, parse
from lorad.textfile import CHUNK, LineTooLong, TextFile, opened

PARQUET = b"PAR1"

#: What an object around a list of rows calls it.
WRAPPERS = ("data", "examples", "rows", "train")

#: Lines inside a table's cell that all read as rows, from which on they are rows and the quotes around them are not.
_SWALLOWED = 3

#: Rows of Parquet that are in memory at once.
_BATCH = 256

#: Names under which text is never one document, and never sentences in columns.
_STRUCTURED = {".json", ".jsonl", ".ndjson", ".csv"}

#: A cell whose quotes stand behind a blank, where the csv module takes them for text.
_QUOTED = re.compile(r' +"[^"]*"')

#: How JSON rows begin, and what a text hardly begins with: an object, or a list of objects, of texts or of lists.
_JSON = re.compile(rb"\{\s*[\"}]|\[\s*(\[\s*)?[\"{]")

IsHeader = Callable[[Sequence[str]], bool]

#: Reads what is neither JSON nor a table.
Plain = Callable[[TextFile, InboxSettings], Iterator[tuple[int, Any]]]

#: Fields of a row that errors give as an example.
QUESTION_AND_ANSWER = ("question", "answer")


class BadRow(Exception):  # noqa: N818 - carried to the row's report, never to the user as it is
    """Why one row cannot be used, and which field of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def read(
    path: Path,
    limits: InboxSettings,
    is_header: IsHeader,
    plain: Plain | None = None,
    example: Sequence[str] = QUESTION_AND_ANSWER,
    own: Collection[str] = (),
) -> Iterator[tuple[int, Any]]:
    """Yield rows with their line (in a list, their place), a ``BadRow`` for one that cannot be read.

    ``is_header`` knows a table's first row by its names, ``plain`` reads other text where a task takes it, ``own`` are
    fields that only a row has. Raise ``SampleError`` when the file cannot be read on.
    """
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise SampleError(
            f"{path.name} has {size} bytes, more than inbox.max_bytes ({limits.max_bytes}); split it",
            code="too_large",
        )
    count = 0
    try:
        for line, row in _rows(path, limits, _Layout(is_header, plain, tuple(example), own)):
            count += 1
            if count > limits.max_rows:
                raise SampleError(
                    f"{path.name} has more than inbox.max_rows ({limits.max_rows}) rows; split it",
                    code="too_many_rows",
                )
            if is_deeper(row, limits.max_depth):
                yield line, BadRow("", f"the row is nested deeper than inbox.max_depth ({limits.max_depth})")
            else:
                yield line, row
    except NotJson as error:
        place = f"row {count + 1} of {path.name}"
        told = {
            "not_json": f"{path.name} is not JSON: row {count + 1}: {error}; correct it and drop it again",
            "too_deep": f"{place} is nested too deeply to be read; take it out",
            "row_too_long": f"{place} is longer than inbox.max_row_bytes ({limits.max_row_bytes}); take it out",
        }
        raise SampleError(told[error.code], code=error.code, row=count + 1) from None


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a task's files may look like."""

    is_header: IsHeader
    plain: Plain | None
    example: tuple[str, ...]
    own: Collection[str]


def _rows(path: Path, limits: InboxSettings, layout: _Layout) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet:
        yield from enumerate(_parquet(path, limits), start=1)
        return
    with opened(path, limits) as text:
        yield from _text_rows(text, limits, layout)


def _text_rows(text: TextFile, limits: InboxSettings, layout: _Layout) -> Iterator[tuple[int, Any]]:
    suffix = Path(text.path.name.lower().removesuffix(".gz")).suffix
    is_lines = suffix in {".jsonl", ".ndjson"}
    start = text.head[:1]
    stream = Stream(text.chunk, limits.max_row_bytes, text.number + 1)
    if not start:
        return
    is_text = suffix not in _STRUCTURED and not _JSON.match(text.head)
    if layout.plain and is_text:
        table = _find_table(text.head, layout.is_header)
        if table and (
            suffix == ".tsv" or len(table.columns) > 1
        ):  # a document may begin with the word "Text"
            yield from _table(text, limits, table)
        else:
            yield from layout.plain(text, limits)
    elif start == b"[" and not _is_one_a_line(text.head, list):
        yield from enumerate(_list(stream), start=1)
        stream.end()
    elif start == b"{" and not is_lines and not _is_one_a_line(text.head, dict):
        yield from enumerate(_objects(stream, text.path, limits, layout.own), start=1)
    elif start not in b"{[" and (table := _find_table(text.head, layout.is_header)):
        yield from _table(text, limits, table)
    elif is_lines or start in b"{[":
        yield from _lines(text, limits)
    else:
        raise _no_rows_inside(text.path.name, suffix, stream, layout.example)


def _no_rows_inside(name: str, suffix: str, stream: Stream, example: Sequence[str]) -> SampleError:
    columns = ",".join(example)
    if suffix in {".csv", ".tsv"}:
        return SampleError(
            f"{name} does not begin with the names of its columns; make its first line, for example, {columns}",
            code="no_header",
        )
    if suffix == ".json":
        kind = type(_value(stream)).__name__
        stream.end()
        return SampleError(
            f"{name} holds a {kind}; it must be a list of rows or one JSON object a line", code="not_rows"
        )
    return SampleError(
        f"{name} is plain text, in which nothing says what is the {' and what the '.join(example)}; write one JSON "
        f"object a line, such as {json.dumps(dict.fromkeys(example, '…'), ensure_ascii=False)}, or a table with "
        f"the columns {columns}",
        code="plain_text",
    )


# JSON


def _is_one_a_line(head: bytes, kind: type) -> bool:
    """Tell whether the first of several lines is a row of this kind: JSONL under a .json name is common."""
    first, _, rest = head.partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), kind)
    except (ValueError, RecursionError):
        return False


def _lines(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Any]]:
    line: str | None = ""
    while line is not None:
        try:
            line = text.line(limits.max_row_bytes)
            if line and line.strip():
                yield text.number, parse(line)
        except LineTooLong:
            yield text.number, too_long(limits)
        except Flaw as flaw:
            yield text.number, BadRow("", str(flaw))
        except NotJson as error:
            if text.is_cut and error.is_cut:
                raise cut_off(text, text.number) from None
            told = f"not JSON: {error}" if error.code == "not_json" else str(error)
            yield text.number, BadRow("", told)


def _list(stream: Stream) -> Iterator[Any]:
    stream.expect("[")
    sign = stream.expect("]") if stream.peek() == "]" else ","
    while sign == ",":
        yield _value(stream)
        sign = stream.expect(",]")


def _objects(stream: Stream, path: Path, limits: InboxSettings, own: Collection[str]) -> Iterator[Any]:
    """Yield the rows of one or more objects: a list that it calls ``data``, or the object itself."""
    while stream.peek():
        lists: list[str] = []
        pairs: list[tuple[str, Any]] = []
        size = 0
        for key in _keys(stream):
            if key in WRAPPERS and stream.peek() == "[":
                lists.append(key)
                yield from _list(stream)
                continue
            if lists and stream.peek() == "[":  # it may be longer than any row
                pairs.append((key, _beginning(stream)))
                continue
            before = stream.passed
            pairs.append((key, _value(stream)))
            size += stream.passed - before
            if size > limits.max_row_bytes:
                raise NotJson("an object is too long", "row_too_long")
        if not lists:
            yield _object(pairs)
            continue
        places = lists + [key for key, value in pairs if (key in own and value) or _is_rows(value)]
        if len(places) > 1:
            raise SampleError(
                f"{path.name} holds rows in more than one place ({', '.join(places)}); keep one list of rows",
                code="not_rows",
            )


def _beginning(stream: Stream) -> list[Any]:
    """Pass a list and return its first value alone."""
    values = _list(stream)
    first = list(itertools.islice(values, 1))
    for _ in values:
        pass
    return first


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _keys(stream: Stream) -> Iterator[str]:
    """Yield an object's keys; whoever asks for the next one has passed the value."""
    stream.expect("{")
    sign = stream.expect("}") if stream.peek() == "}" else ","
    while sign == ",":
        key = stream.value() if stream.peek() == '"' else stream.expect('"')
        stream.expect(":")
        yield key
        sign = stream.expect(",}")


def _object(pairs: Sequence[tuple[str, Any]]) -> Any:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if isinstance(value, BadRow):
            return value
        if key in row:
            return BadRow("", f"the key {key!r} stands twice in one object")
        row[key] = value
    return row


def _value(stream: Stream) -> Any:
    try:
        return stream.value()
    except Flaw as flaw:
        return BadRow("", str(flaw))


# tables


@dataclass(frozen=True, slots=True)
class _Header:
    delimiter: str
    columns: tuple[str, ...]
    is_spaced: bool
    """Whether people wrote a blank behind each comma, which is no part of a cell."""

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
        is_prose = len(list(filter(str.strip, cells))) <= 1 or any(cell.startswith(" ") for cell in cells)
        return len(cells) == len(self.columns) and not is_prose


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


def _find_table(head: bytes, is_header: IsHeader) -> _Header | None:
    first = head.partition(b"\n")[0].decode(errors="replace").strip("\r")
    for delimiter in ",;\t":
        try:
            cells = next(csv.reader([first], delimiter=delimiter, strict=True, skipinitialspace=True))
        except csv.Error:
            continue
        names = tuple(cell.strip() for cell in cells)
        for columns in (names, tuple(map(str.lower, names))):  # people write Question and Answer
            if is_header(columns):
                return _Header(delimiter, names, delimiter != "\t" and f"{delimiter} " in first)
    return None


def _table(text: TextFile, limits: InboxSettings, header: _Header) -> Iterator[tuple[int, Any]]:
    columns = [name.lower() for name in header.columns]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice:
        raise SampleError(f"{text.path.name} has two columns {twice}; name them apart", code="bad_header")
    csv.field_size_limit(max(csv.field_size_limit(), limits.max_row_bytes))  # the module's own is too small
    lines = _RowLines(text, limits.max_row_bytes)
    reader = header.cells(lines)
    text.line(CHUNK)
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
            if not any(map(str.strip, cells)):  # Excel writes empty rows behind the last one
                continue
            if text.is_cut and len(cells) < len(header.columns):
                raise cut_off(text, line)
            row = _named(header, cells, "".join(lines.passed))
        yield from _with_swallowed(line, row, lines.passed, header)


def _with_swallowed(line: int, row: Any, passed: Sequence[str], header: _Header) -> Iterator[tuple[int, Any]]:
    """Yield a row; lines that a stray quote took into it, and which would be lost, are bad rows of their own."""
    inner = passed[1:-1]
    if not isinstance(row, BadRow) and (len(inner) < _SWALLOWED or not all(map(header.is_row, inner))):
        yield line, row
        return
    lost = [line + at for at, text in enumerate(passed[1:], start=1) if header.is_row(text)]
    if lost:
        told = f"a quote takes in {len(lost)} more rows, as far as line {lost[-1]}; close it, or double a quote of the text"
        row = BadRow(row.field, f"{row}; {told}") if isinstance(row, BadRow) else BadRow("", told)
    yield line, row
    for number in lost:
        yield number, BadRow("", f"lies inside the row that begins on line {line}")


def _named(header: _Header, cells: Sequence[str], written: str) -> Any:
    """Return cells by column; an empty one holds nothing, and a column without a name is a row number."""
    if len(cells) != len(header.columns):
        return BadRow("", f"has {len(cells)} cells, and there are {len(header.columns)} columns")
    for name, cell in zip(header.columns, cells, strict=True):
        if cell.startswith(" ") and _QUOTED.fullmatch(cell) and f"{header.delimiter}{cell}" in written:
            return BadRow(
                name, "has a blank before its quotes, which makes them part of the text; take it out"
            )
    return {
        name: cell or None
        for name, cell in zip(header.columns, cells, strict=True)
        if name and not name.lower().startswith("unnamed: ")  # as pandas writes its index, and reads it again
    }


# Parquet


def _parquet(path: Path, limits: InboxSettings) -> Iterator[Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise SampleError(
            f"{path.name} is Parquet, which needs pyarrow; run pip install 'lorad[parquet]', or save it as JSONL",
            code="needs_pyarrow",
        ) from None
    try:
        with ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            if size > limits.max_unpacked_bytes:
                raise SampleError(
                    f"{path.name} holds more than inbox.max_unpacked_bytes ({limits.max_unpacked_bytes}) "
                    "bytes; split it",
                    code="too_large_unpacked",
                )
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    is_long = len(json.dumps(row, default=str).encode()) > limits.max_row_bytes
                    yield too_long(limits) if is_long else row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in {errno.EIO, errno.ENOENT, errno.EACCES}:
            raise  # the disk's fault, not the file's
        raise SampleError(
            f"{path.name} is damaged Parquet ({error}); write it again", code="damaged"
        ) from None


# problems


def too_long(limits: InboxSettings) -> BadRow:
    """Return what a row longer than the limit is told."""
    return BadRow("", f"the row is longer than inbox.max_row_bytes ({limits.max_row_bytes})")


def cut_off(text: TextFile, line: int) -> SampleError:
    """Return why a file that ends inside a row is refused."""
    return SampleError(
        f"{text.path.name} ends inside the row that begins on line {line}: half of the file is missing, or the end "
        "of that row; drop the whole file",
        code="cut_off",
        row=line,
    )
