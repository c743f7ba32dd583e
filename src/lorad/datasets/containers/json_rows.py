"""Rows in JSON. Text in, numbered rows out, one at a time.

What lives here: telling one value a line from one document, objects one after another, an object around a list.
What never does: shapes that need no reading (``shapes``), what a row's fields mean (``reader``).
"""

import itertools
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers import shapes
from lorad.datasets.containers.layout import BadRow, Layout, cut_off, shown, too_long
from lorad.datasets.containers.text_file import CHUNK, LineTooLong, TextFile
from lorad.errors import SampleError
from lorad.storage.strict_json import PART, Flaw, NotJson, Stream, parse

#: What an object around a list of rows calls it.
WRAPPERS = ("data", "examples", "rows", "train")

#: What it may call an object that holds such lists.
_FRAMES = (*WRAPPERS, "dataset", "result", "results")

#: Lists that say something about the rows beside them.
_ABOUT = {"features", "columns", "fields", "index"}

#: How JSON rows begin, and what a text hardly begins with: an object, or a list of objects, of texts or of lists.
BEGINNING = re.compile(rb"\{\s*[\"}]|\[\s*(\[\s*)?[\"{]")

#: How the JSON of a row begins that was encoded twice.
_ENCODED = re.compile(rb'"\s*[\[{]\s*(\\"|[\[\]{}])')

#: How an object begins that holds a list of rows, or another object with it.
_FRAMED = re.compile(
    rb"\{\s*+(?:\"[^\"]*+\"\s*+:\s*+(?:\"[^\"]*+\"\s*+|[^\[{\",]*+),\s*+)*+\"(?P<name>[^\"]*+)\"\s*+:\s*+[\[{]\s*+[\[{\"]"
)

#: Places of rows that an error names.
_MOST_PLACES = 10

#: Lines that show whether a first line that ends too early goes on below it.
_SHOWN = 3

_TOO_LONG = (
    "if it holds many rows, write one object per line; in pandas: to_json(orient='records', lines=True)"
)

#: What an object's lists of rows are called, and everything else in it.
_Parts = tuple[list[str], list[tuple[str, Any]]]


def begins(head: bytes) -> bool:
    """Tell whether a text that begins so is meant to be JSON that holds rows."""
    return head[:1] in (b"{", b"[") or bool(_ENCODED.match(head))


def read(
    text: TextFile, limits: InboxSettings, layout: Layout, *, is_named_lines: bool
) -> Iterator[tuple[int, Any]]:
    """Yield rows with their line (in a list, their place)."""
    if not begins(text.head) or _is_one_a_line(text.head, limits, layout, is_named_lines=is_named_lines):
        found = _lines(text, limits)
    else:
        found = _document(text, limits, layout)
    names = shapes.Names(layout)
    for line, value in found:
        if isinstance(value, dict) and "row" not in value:  # as most are, in files of a million
            yield line, value
        elif (row := names.named(_row(value))) is not None or value is None:
            yield line, row


def _row(value: Any) -> Any:
    """Return a value as the row that it stands for."""
    value = shapes.without_frame(shapes.decoded(value))
    field = shapes.field_of_turns(value)
    return {field: value} if field else value


# one value a line


def _is_one_a_line(head: bytes, limits: InboxSettings, layout: Layout, *, is_named_lines: bool) -> bool:
    """Tell whether each line is a row of its own: by the first one, and by the name only if that is broken."""
    start, (first, end, rest) = head[:1], head.partition(b"\n")
    if not end and b"\r" in head.strip():  # as old Macs end lines, which in JSON are blanks
        return False
    if is_named_lines and not end and len(head) >= CHUNK:  # longer than can be seen
        framed = _FRAMED.match(head)
        return start == b"{" and not (framed and framed["name"].decode(errors="replace") not in layout.own)
    is_named_lines = (
        is_named_lines and start == b"{" and (len(first) <= limits.max_row_bytes or rest.strip() != b"")
    )
    others = [line for line in rest.split(b"\n", _SHOWN)[:_SHOWN] if line.strip()]
    if not others and not is_named_lines:
        return start == b'"'
    state = _state(first)
    if state == "whole":
        return bool(others)
    if state == "open" and others and start == b"{":
        return _is_broken_off(first, others)
    return start == b'"' or is_named_lines


def _is_broken_off(first: bytes, others: Sequence[bytes]) -> bool:
    """Tell whether a line that ends inside an object is half a row: the next one is whole and does not go on with it."""
    together = b"\n".join([first, *others])
    return bool(others) and _state(others[0]) == "whole" and _state(together) == "broken"


def _state(line: bytes) -> str:
    """Return whether a line is a ``whole`` value, is ``open`` for more lines, or ``broken``."""
    text = line.decode(errors="replace").strip().removesuffix(",")
    try:
        value = parse(text)
    except Flaw:
        return "whole"
    except NotJson as error:
        return "open" if error.is_cut and _Depth().add(text) else "broken"
    return "whole" if isinstance(value, dict | list | str) else "broken"


class _Depth:
    """How many brackets are open behind lines of JSON."""

    def __init__(self) -> None:
        self._open = 0

    def add(self, line: str) -> bool:
        """Tell whether more lines must follow this one; a text that it does not end is no reason."""
        for token in PART.finditer(line):
            sign = token[0][0]
            if sign == '"' and not token[1]:
                return False
            self._open += (sign in "{[") - (sign in "}]")
        return self._open > 0


def _lines(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Any]]:
    """Yield each line's value; one that goes on over several lines is read as a whole, or each line by itself."""
    lines = _Lines(text, limits)
    while (found := lines.next()) is not None:
        number, line = found
        if isinstance(line, BadRow):
            yield number, line
            continue
        try:
            yield from _values(number, line, is_last=text.is_cut and lines.is_last)
        except Flaw as flaw:
            yield number, BadRow("", str(flaw))
        except NotJson as error:
            if (whole := lines.go_on(number, line, error)) is not None:
                yield from whole
                continue
            if text.is_cut and error.is_cut and lines.is_last:
                raise cut_off(text, number) from None
            told = f"not JSON: {error}" if error.code == "not_json" else str(error)
            yield number, BadRow("", told)


def _values(number: int, text: str, *, is_last: bool = False) -> list[tuple[int, Any]]:
    """Return the rows of one value, behind which a comma may stand if something follows."""
    text = text.lstrip("\ufeff").rstrip()  # files that were joined have their marks in the middle
    value = shapes.decoded(parse(text if is_last else text.removesuffix(","), number))
    return [(number, row) for row in value] if shapes.is_list_of_rows(value) else [(number, value)]


class _Lines:
    """Lines with their numbers, of which those that were read too far come again."""

    def __init__(self, text: TextFile, limits: InboxSettings) -> None:
        self._text = text
        self._limits = limits
        self._again: deque[tuple[int, str | BadRow]] = deque()
        self._is_again = False

    @property
    def is_last(self) -> bool:
        """Tell whether no line is left that was read before."""
        return not self._again

    def next(self) -> tuple[int, str | BadRow] | None:
        """Return the next line that is not empty, None at the end."""
        while True:
            self._is_again = bool(self._again)
            found = self._again.popleft() if self._again else self._read()
            if found is None or isinstance(found[1], BadRow) or found[1].strip():
                return found

    def _read(self) -> tuple[int, str | BadRow] | None:
        try:
            line = self._text.line(self._limits.max_row_bytes)
        except LineTooLong:
            return self._text.number, too_long(self._limits)
        return None if line is None else (self._text.number, line)

    def go_on(self, number: int, line: str, error: NotJson) -> list[tuple[int, Any]] | None:
        """Return the rows of a value that begins with this line, None when it does not go on below.

        Lines that do not belong to it are read again, each by itself: no line is read more than twice.
        """
        depth = _Depth()
        if self._is_again or not error.is_cut or not depth.add(line):
            return None
        passed: list[str] = [line]
        size, is_open = len(line.encode()), True
        while is_open and size <= self._limits.max_row_bytes and (found := self._read()) is not None:
            self._again.append(found)
            if isinstance(found[1], BadRow):
                return None
            passed.append(found[1])
            size += len(found[1].encode())
            is_open = depth.add(found[1])
        try:
            rows = _values(number, "".join(passed))
        except Flaw as flaw:
            rows = [(number, BadRow("", str(flaw)))]
        except NotJson:
            return None
        self._again.clear()
        return rows


# one document


def _document(text: TextFile, limits: InboxSettings, layout: Layout) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a list, or of one or more objects."""
    stream = Stream(text.chunk, limits.max_row_bytes, text.number + 1)
    if stream.peek() == "[":
        yield from enumerate(_listed(_list(stream), stream, limits), start=1)
        stream.end()
        return
    while sign := stream.peek():
        line = stream.line
        if sign == "[":
            yield from ((line, row) for row in _listed(_list(stream), stream, limits))
        else:
            yield from _object_rows(stream, text, limits, layout, line)
        if stream.peek() == ",":
            stream.expect(",")


def _list(stream: Stream) -> Iterator[Any]:
    stream.expect("[")
    sign = stream.expect("]") if stream.peek() == "]" else ","
    while sign == ",":
        yield _value(stream)
        sign = stream.expect(",]")


def _listed(values: Iterator[Any], stream: Stream, limits: InboxSettings) -> Iterator[Any]:
    """Yield a list's rows; one that begins with a turn is a conversation, and so one row."""
    first = list(itertools.islice(values, 1))
    if shapes.field_of_turns(first):
        yield _gathered(first, values, stream, limits)
    else:
        yield from itertools.chain(first, values)


def _object_rows(
    stream: Stream, text: TextFile, limits: InboxSettings, layout: Layout, line: int
) -> Iterator[tuple[int, Any]]:
    """Yield the rows that an object holds in lists, else those that it stands for."""
    parts = _Kept(_parts(stream, limits, layout))
    yield from enumerate(parts, start=1)
    lists, pairs = parts.result
    if not lists:
        whole = _object(pairs)
        rows = [whole] if isinstance(whole, BadRow) else _spread(whole, layout)
        if whole not in rows:
            _refuse_around(text, pairs, layout)
        yield from [(line, rows[0])] if len(rows) == 1 else enumerate(rows, start=1)
        return
    places = lists + [key for key, value in pairs if _is_place(key, value, layout)]
    if len(places) > 1:
        named = ", ".join(map(shown, places[:_MOST_PLACES]))
        raise SampleError(
            f"{text.source.name} holds rows in more than one place ({named}); keep one list of rows, the one "
            f'to learn from, such as {{"{shown(places[0]).rpartition(".")[2]}": […]}}',
            code="not_rows",
        )
    _refuse_around(text, pairs, layout)


def _refuse_around(text: TextFile, pairs: Sequence[tuple[str, Any]], layout: Layout) -> None:
    """Refuse what stands beside rows and may belong to each of them: without it they say something else."""
    for key, value in pairs:
        is_said = bool(value.strip() if isinstance(value, str) else value)
        is_frame = isinstance(value, dict) and key.lower() in _FRAMES
        if is_said and not is_frame and layout.is_around(key.rpartition(".")[2]):
            raise SampleError(
                f"{text.source.name} holds {shown(key)} beside its rows, where it is not read; write it into each row that "
                "needs it",
                code="not_rows",
            )


class _Kept:
    """A generator that can be asked for what it returned."""

    def __init__(self, generator: Generator[Any, None, _Parts]) -> None:
        self._generator = generator
        self.result: _Parts = ([], [])

    def __iter__(self) -> Iterator[Any]:
        self.result = yield from self._generator


def _parts(
    stream: Stream, limits: InboxSettings, layout: Layout, frame: str = ""
) -> Generator[Any, None, _Parts]:
    """Yield the rows in an object's lists, and in the lists of an object that only frames them."""
    lists: list[str] = []
    pairs: list[tuple[str, Any]] = []
    waiting: list[Any] = []
    beside: dict[str, Any] = {}
    size = noted = 0
    for key in _keys(stream):
        before, sign = stream.passed, stream.peek()
        if sign == "[":
            values = _list(stream)
            first = list(itertools.islice(values, 1))
            if _is_list_of_rows(key, first, layout):
                lists.append(frame + key)
                found = itertools.chain(first, values)
                beside |= {name: value for name, value in pairs[noted:] if _is_about_rows(name)}
                noted = len(pairs)
                if len(lists) <= 1 and _lack_names(first, beside, layout):
                    waiting.append(_gathered([], found, stream, limits))
                    continue
                yield from _named(_listed(found, stream, limits), dict(beside), layout)
                continue
            if (
                lists and key != "columns"
            ) or key == "index":  # it may be longer than any row, and teaches nothing
                deque(values, maxlen=0)
                pairs.append((frame + key, first))
                continue
            pairs.append((frame + key, _gathered(first, values, stream, limits)))
        elif sign == "{" and key.lower() in _FRAMES and not frame:
            inner, rest = yield from _parts(stream, limits, layout, f"{key}.")
            if inner:  # what else it holds was measured
                lists += inner
                pairs += rest
                continue
            pairs.append((key, _object([(name.partition(".")[2], value) for name, value in rest])))
        else:
            pairs.append((frame + key, _value(stream)))
        size += stream.passed - before
        if size > limits.max_row_bytes:
            raise NotJson(_TOO_LONG, "row_too_long")
    beside |= {name: value for name, value in pairs[noted:] if _is_about_rows(name)}
    for rows in waiting:
        yield from [rows] if isinstance(rows, BadRow) else _named(rows, beside, layout)
    return lists, pairs


def _is_about_rows(name: str) -> bool:
    """Tell whether a field says what the columns of the rows beside it are."""
    return name == "schema" or name.rpartition(".")[2] == "columns"


def _lack_names(first: Sequence[Any], beside: Mapping[str, Any], layout: Layout) -> bool:
    """Tell whether rows are lists of cells whose names may follow behind them."""
    cells = first[0] if first and isinstance(first[0], list) else []
    if not cells or any(isinstance(cell, list | dict) for cell in cells):
        return False
    is_header = all(isinstance(cell, str) for cell in cells) and layout.columns(cells)
    return not is_header and all(key.rpartition(".")[2] != "columns" for key in beside)


def _is_list_of_rows(key: str, first: Sequence[Any], layout: Layout) -> bool:
    """Tell whether an object's list holds rows, by its name or by the names in its first value."""
    if key.lower() in WRAPPERS:
        return True
    names = list(first[0]) if first and isinstance(first[0], dict | list) else []
    if key in layout.own or not layout.own or not all(isinstance(name, str) for name in names):
        return False
    return not set(layout.columns(names) or ()).isdisjoint(layout.own)


def _named(rows: Iterable[Any], beside: Mapping[str, Any], layout: Layout) -> Iterator[Any]:
    """Yield rows by what stands before them: the names of columns, and which of them only numbers the rows."""
    columns = next((value for key, value in beside.items() if key.rpartition(".")[2] == "columns"), None)
    is_named = isinstance(columns, list) and bool(columns) and all(isinstance(name, str) for name in columns)
    names = shapes.Names(layout, columns if is_named else None)
    schema = beside.get("schema")
    is_pandas = (
        isinstance(schema, dict) and "pandas_version" in schema and schema.get("primaryKey") == ["index"]
    )
    for row in rows:
        named = names.named(row)
        if is_pandas and isinstance(named, dict):
            named.pop("index", None)
        if named is not None or row is None:
            yield named


def _gathered(first: Sequence[Any], values: Iterator[Any], stream: Stream, limits: InboxSettings) -> Any:
    """Return a list that is no longer than a row may be; a flaw of a value in it is the list's."""
    found, begin = list(first), stream.passed
    for value in values:
        found.append(value)
        if stream.passed - begin > limits.max_row_bytes:
            raise NotJson(_TOO_LONG, "row_too_long")
    return next((value for value in found if isinstance(value, BadRow)), found)


def _is_place(key: str, value: Any, layout: Layout) -> bool:
    """Tell whether there may be rows, or what belongs to one, beside a list of rows."""
    name = key.rpartition(".")[2]
    is_rows = isinstance(value, list) and bool(value) and isinstance(value[0], dict) and name not in _ABOUT
    return is_rows or (name in layout.own and bool(value))


def _spread(whole: dict[str, Any], layout: Layout) -> list[Any]:
    """Return the rows of an object, or of the only object in it that frames them."""
    others = [value for key, value in whole.items() if key.lower() not in _FRAMES]
    inner = [value for key, value in whole.items() if key.lower() in _FRAMES]
    if (
        len(inner) == 1
        and isinstance(inner[0], dict)
        and not any(isinstance(value, dict | list) for value in others)
    ):
        rows = shapes.spread(inner[0], layout)
        if len(rows) > 1 or shapes.is_row(rows[0], layout):
            return rows
    return shapes.spread(whole, layout)


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
            return BadRow("", f"the key {key!r} appears twice in one object")
        row[key] = value
    return row


def _value(stream: Stream) -> Any:
    try:
        return stream.value()
    except Flaw as flaw:
        return BadRow("", str(flaw))


def value(text: TextFile, limits: InboxSettings) -> Any:
    """Return the only value of a text that holds no rows; raise ``NotJson``."""
    stream = Stream(text.chunk, limits.max_row_bytes, text.number + 1)
    found = _value(stream)
    stream.end()
    return found
