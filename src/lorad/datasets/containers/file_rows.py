"""Containers of rows. A file in, numbered rows out, one at a time.

What lives here: telling JSON, tables and Parquet apart by what a file holds (its name decides only what that leaves
open), the limits of rows, and one rule for the names of their fields. What never does: JSON (``json_rows``), tables
of text (``csv_rows``), what a row's fields mean (``reader``).

Memory is bounded by a row's limit, not by the file's. A problem of one row is yielded in its place, a problem
of the file is raised.
"""

import errno
import json
import math
import re
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers import csv_rows, json_rows
from lorad.datasets.containers.layout import (
    LISTED,
    QUESTION_AND_ANSWER,
    BadRow,
    IsHeader,
    Layout,
    Plain,
    TooDeep,
    cut_off,
    shown,
    too_long,
    too_many_columns,
)
from lorad.datasets.containers.text_file import TextFile, opened
from lorad.errors import SampleError
from lorad.storage.source import Source
from lorad.storage.strict_json import NotJson, is_deeper

__all__ = [
    "LISTED",
    "QUESTION_AND_ANSWER",
    "BadRow",
    "IsHeader",
    "Packed",
    "Plain",
    "TooDeep",
    "cut_off",
    "read",
    "shown",
    "too_long",
]

#: Reads a file of a kind that is no text, ``None`` for one that it does not know.
Packed = Callable[[Source, InboxSettings], Iterator[tuple[int, Any]] | None]

PARQUET = b"PAR1"

#: What the figures at the end of a Parquet file may take.
_THRIFT = {"thrift_string_size_limit": 50_000_000, "thrift_container_size_limit": 200_000}

#: Names under which text is never one document, and never sentences in columns.
_STRUCTURED = {".json", ".jsonl", ".ndjson", ".csv"}


#: Notations that may hold rows and are not read, by how they begin. No part of a pattern gives back what it took: two
#: that take the same signs would try a megabyte of them in every division.
_NOTATIONS = (
    (re.compile(rb"<!doctype html|<html", re.IGNORECASE), "a web page"),
    (re.compile(rb"<\?xml|<([A-Za-z][\w:.-]*+)[^<>]*+>(?s:.*)</\1>\s*$"), "XML"),
    (re.compile(rb"---\s*\n|%YAML|-\s++[\w\"' -]++:(\s|$)|[\w-]++:[ \t]*+\n\s*+-\s"), "YAML"),
)


def read(
    source: Source,
    limits: InboxSettings,
    is_header: IsHeader,
    plain: Plain | None = None,
    example: Sequence[str] = QUESTION_AND_ANSWER,
    own: Collection[str] = (),
    listed: Collection[str] = LISTED,
    packed: Packed | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield rows with their line (in a list, their place), a ``BadRow`` for one that cannot be read.

    ``is_header`` knows a table's first row by its names, ``plain`` reads other text where a task takes it, ``own`` are
    fields that only a row has, ``listed`` those that hold a list in each, ``packed`` reads what is no text. Raise
    ``SampleError`` when the file cannot be read on.
    """
    size = source.size
    if size > limits.max_bytes:
        raise SampleError(
            f"{source.name} has {size} bytes, more than inbox.max_bytes ({limits.max_bytes}); split it",
            code="too_large",
        )
    layout = Layout(is_header, plain, tuple(example), own, listed)
    count = 0
    try:
        unpacked = packed(source, limits) if packed else None
        for line, row in unpacked or _rows(source, limits, layout):
            count += 1
            if count > limits.max_rows:
                raise SampleError(
                    f"{source.name} has more than inbox.max_rows ({limits.max_rows}) rows; split it",
                    code="too_many_rows",
                )
            if isinstance(row, dict) and len(row) > limits.max_columns:
                yield line, BadRow("", f"the row {too_many_columns(len(row), limits)}")
            elif is_deeper(row, limits.max_depth):
                yield line, BadRow("", f"the row is nested deeper than inbox.max_depth ({limits.max_depth})")
            else:
                yield line, row
    except NotJson as error:
        place = f"row {count + 1} of {source.name}"
        ends = f"after row {count}" if count else "before its first row is complete"
        told = {
            "not_json": f"{source.name} is not JSON: row {count + 1}: {error}; correct it and drop it again",
            "too_deep": f"{place} is nested too deeply to be read; remove it",
            "cut_off": f"{source.name} ends {ends}, inside its list or object: the rest of the file is missing; drop the "
            "whole file",
            "row_too_long": f"{place} is longer than inbox.max_row_bytes ({limits.max_row_bytes}); {error}",
        }
        raise SampleError(told[error.code], code=error.code, row=count + 1) from None


def _rows(source: Source, limits: InboxSettings, layout: Layout) -> Iterator[tuple[int, Any]]:
    with source.open() as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet:
        yield from enumerate(_parquet(source, limits), start=1)
        return
    with opened(source, limits) as text:
        yield from _text_rows(text, limits, layout)


def _text_rows(text: TextFile, limits: InboxSettings, layout: Layout) -> Iterator[tuple[int, Any]]:
    suffix = Path(text.source.name.lower().removesuffix(".gz")).suffix
    is_named_lines = suffix in {".jsonl", ".ndjson"}
    if not text.head:
        return
    is_text = suffix not in _STRUCTURED and not json_rows.BEGINNING.match(text.head)
    if layout.plain and is_text:
        header = csv_rows.find(text.head, layout)
        # a document may begin with the word "Text"
        if header and (suffix == ".tsv" or len(header.columns) > 1):
            yield from csv_rows.read(text, limits, header)
        else:
            yield from layout.plain(text, limits)
    elif text.head[:1] not in b"{[" and (header := csv_rows.find_below(text.head, layout)):
        yield from csv_rows.read(text, limits, header)
    elif json_rows.begins(text.head) or (is_named_lines and not _notation(text.head)):
        yield from json_rows.read(text, limits, layout, is_named_lines=is_named_lines)
    else:
        raise _no_rows_inside(text, suffix, limits, layout.example)


def _no_rows_inside(
    text: TextFile, suffix: str, limits: InboxSettings, example: Sequence[str]
) -> SampleError:
    name, columns = text.source.name, ",".join(example)
    if notation := _notation(text.head):
        return SampleError(
            f"{name} is {notation}; write its rows as JSON, one object per line", code="unknown_format"
        )
    if suffix in {".csv", ".tsv"}:
        if b"\r" in text.head and b"\n" not in text.head:
            told = "has old Mac line endings (CR); save it with LF or CRLF"
            return SampleError(f"{name} {told}", code="no_header")
        return SampleError(
            f"{name} has no header line with the names of its columns; add one, for example {columns}",
            code="no_header",
        )
    if suffix == ".json":
        kind = type(json_rows.value(text, limits)).__name__
        return SampleError(
            f"{name} holds a {kind}; it must be a list of rows or one JSON object per line", code="not_rows"
        )
    return SampleError(
        f"{name} is plain text, which does not say which part is the {' and which the '.join(example)}; write one JSON "
        f"object per line, such as {json.dumps(dict.fromkeys(example, '…'), ensure_ascii=False)}, or a table with "
        f"the columns {columns}",
        code="plain_text",
    )


def _notation(head: bytes) -> str:
    """Return what a text is written in that is not read, "" when that cannot be told."""
    return next((told for begin, told in _NOTATIONS if begin.match(head)), "")


# Parquet


def _parquet(source: Source, limits: InboxSettings) -> Iterator[Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415

        from lorad.datasets.containers import arrow_rows  # noqa: PLC0415 - loads NumPy
    except ImportError:
        raise SampleError(
            f"{source.name} is Parquet, which needs pyarrow; run pip install 'lorad[parquet]', or save it as JSONL",
            code="needs_pyarrow",
        ) from None
    try:
        with (
            source.open() as stream,
            ParquetFile(stream, read_dictionary=[*range(arrow_rows.LEAVES)], **_THRIFT) as file,
        ):
            arrow_rows.check(file, source.name, limits)
            floats = [field.name for field in file.schema_arrow if field.type == pa.float32()]
            for batch in file.iter_batches(batch_size=arrow_rows.batch_rows(file)):
                for row in arrow_rows.rows(batch, limits):
                    yield row if isinstance(row, BadRow) else _measured(_rounded(row, floats), limits)
    except SampleError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.EIO, errno.ENOENT, errno.EACCES}:
            raise  # the disk's fault, not the file's
        raise SampleError(
            f"{source.name} is corrupt Parquet ({shown(str(error), 300)}); write it again", code="damaged"
        ) from None


def _measured(row: dict[str, Any], limits: InboxSettings) -> Any:
    is_long = len(json.dumps(row, default=str).encode()) > limits.max_row_bytes
    return too_long(limits) if is_long else row


def _rounded(row: dict[str, Any], floats: Sequence[str]) -> dict[str, Any]:
    """Return a row whose short floats are the numbers that were meant: 19.9, and not the float that is nearest to it."""
    for name in floats:
        value = row[name]
        if isinstance(value, float) and math.isfinite(value):
            row[name] = next(
                short for digits in range(1, 10) if _single(short := float(f"{value:.{digits}g}")) == value
            )
    return row


def _single(value: float) -> float:
    """Return the nearest float of 32 bits."""
    single: float = struct.unpack("f", struct.pack("f", value))[0]
    return single
