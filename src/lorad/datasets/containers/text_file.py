"""A file of any size as text. Bytes in, lines or chunks of UTF-8 out.

What lives here: gzip, encodings (UTF-16 is read where a mark says so), and the bounds that keep a hostile file from filling the memory: a line or a
chunk is held, never the file. What never does: JSON, CSV, what a line means.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorad.config import InboxSettings
from lorad.errors import SampleError
from lorad.storage.source import Source

GZIP = b"\x1f\x8b"

#: Bytes that are read at once, and as far as ``TextFile.head`` can see.
CHUNK = 1 << 20

_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)

#: UTF-32's begins with one of these as well.
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

#: One byte above ASCII or two that Windows-1252 knows; in the words of other scripts more stand together.
_WESTERN = re.compile(rb"[\x80\x82-\x8c\x8e\x91-\x9c\x9e-\xff]{1,2}(?![\x80-\xff])")

_PICTURE = "a picture; lorad learns text only"

#: What is no text, by its first bytes, and what to do with it.
_FOREIGN = (
    (GZIP, "gzip inside gzip; unpack it once"),
    (b"PAR1", "Parquet inside gzip; drop the .parquet file itself"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it, or compress it with gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"ARROW1", "an Arrow file; write it as Parquet or JSONL"),
    (b"version https://git-lfs.github.com/", "a pointer of Git LFS, not the file; run git lfs pull"),
    (b"../../.git/annex/", "a pointer of git-annex, not the file; run git annex get"),
    (b"/annex/objects/", "a pointer of git-annex, not the file; run git annex get"),
    (b"\x89PNG", _PICTURE),
    (b"\xff\xd8\xff", _PICTURE),
    (b"GIF8", _PICTURE),
    *((bytes((0x80, version)), "a pickle of Python; write its rows as JSONL") for version in range(2, 6)),
    (b"\x93NUMPY", "an array of NumPy; write its rows as JSONL"),
    (b"\x89HDF", "an HDF5 file; write its rows as JSONL"),
    (b"SQLite format 3", "an SQLite database; export its table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (.xls, .doc); save the sheet as CSV"),
    (b"7z\xbc\xaf", "compressed with 7z; unpack it, or compress it with gzip"),
    (b"Rar!", "compressed with RAR; unpack it, or compress it with gzip"),
    (b"%PDF", "a PDF; write its questions and answers as JSONL or CSV"),
)


class LineTooLong(Exception):  # noqa: N818 - whoever reads lines makes a row's problem of it
    """A line is longer than was asked for; the file stands behind it."""


class _Bounded(io.RawIOBase):
    """Bytes up to a limit: what a small gzip file unpacks to, or a writer goes on appending, has no end."""

    def __init__(self, raw: Any, name: str, limits: InboxSettings) -> None:
        self._raw = raw
        self._name = name
        self._is_packed = isinstance(raw, gzip.GzipFile)
        self._limit = limits.max_unpacked_bytes if self._is_packed else limits.max_bytes
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._raw.readinto(buffer)
        except EOFError:
            raise SampleError(
                f"{self._name} ends in the middle of its gzip data; copy it again", code="cut_off"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise SampleError(
                f"{self._name} is corrupt gzip data ({error}); copy it again", code="damaged"
            ) from None
        self._count += count
        if self._count > self._limit:
            name, code = (
                ("max_unpacked_bytes", "too_large_unpacked")
                if self._is_packed
                else ("max_bytes", "too_large")
            )
            raise SampleError(
                f"{self._name} holds more than inbox.{name} ({self._limit}) bytes; split it", code=code
            )
        return count


class _FromUtf16(io.RawIOBase):
    """UTF-16 as UTF-8, a piece at a time; its mark says which one it is."""

    def __init__(self, raw: Any, name: str) -> None:
        self._raw = raw
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b"-"
        while data and not self._rest:  # a byte or two may be no sign yet
            data = self._raw.read(CHUNK)
            try:
                self._rest = self._decoder.decode(data, final=not data).encode()
            except UnicodeDecodeError as error:
                raise SampleError(
                    f"{self._name} is corrupt UTF-16 ({error.reason}); save it as UTF-8 and drop it again",
                    code="encoding",
                ) from None
        size = min(len(self._rest), len(buffer))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


@contextmanager
def opened(source: Source, limits: InboxSettings) -> Iterator["TextFile"]:
    """Open a file, unpacked if it is gzip; raise ``SampleError`` when it is neither UTF-8 nor marked as UTF-16."""
    with source.open() as file:
        is_packed = file.peek(len(GZIP)).startswith(GZIP)
        raw = gzip.GzipFile(fileobj=file) if is_packed else file
        stream: io.BufferedReader[Any] = io.BufferedReader(_Bounded(raw, source.name, limits), CHUNK)
        start = stream.peek(CHUNK)[: len(codecs.BOM_UTF32_LE)]
        if start.startswith(_UTF16_MARKS) and not start.startswith(_UTF32_MARKS):
            stream = io.BufferedReader(_FromUtf16(stream, source.name), CHUNK)
        yield TextFile(source, stream)


class TextFile:
    """Text that is read once, from its first sign that is not white space, or the tabs of a table before it."""

    def __init__(self, source: Source, stream: io.BufferedReader) -> None:
        self.source = source
        self.number = 0
        """The lines that were passed."""
        self.offset = 0
        """The bytes that were passed."""
        self.is_cut = False
        """Whether the last line had no end of line: nothing follows it, and perhaps something should."""
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._refuse_other_formats()
        self._pass_blanks()

    @property
    def head(self) -> bytes:
        """Return what comes next, without passing it."""
        return self._stream.peek(CHUNK)

    def line(self, longest: int) -> str | None:
        """Return the next line with its end, or None; raise ``LineTooLong`` behind a longer one."""
        at = self.offset
        raw = self._next(max(longest, 0) + len(b"\r\n"))
        if not raw:
            return None
        self.number += 1
        self.is_cut = not raw.endswith(b"\n")
        if len(raw.removesuffix(b"\n").removesuffix(b"\r")) > longest:
            while raw and not raw.endswith(b"\n"):
                raw = self._next(CHUNK)
            raise LineTooLong
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._not_utf8(at, self.number, error) from None

    def _next(self, size: int) -> bytes:
        raw = self._stream.readline(size)
        self.offset += len(raw)
        return raw

    def chunk(self, size: int) -> str:
        """Return about as many bytes of text, "" only at the end."""
        text, data = "", b"-"
        while data and not text:  # a byte or two may be no sign yet
            data = self._stream.read(size)
            at = self.offset - len(self._decoder.getstate()[0])
            self.offset += len(data)
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line = self.number + 1 + error.object.count(b"\n", 0, error.start)
                raise self._not_utf8(at, line, error) from None
        self.number += text.count("\n")
        return text

    def _pass_blanks(self) -> None:
        self._pass(len(codecs.BOM_UTF8) if self.head.startswith(codecs.BOM_UTF8) else 0)
        while blanks := len(self.head) - len(self.head.lstrip()) - self._nameless:
            self.number += self.head.count(b"\n", 0, blanks)
            self._pass(blanks)

    @property
    def _nameless(self) -> int:
        """Return the tabs in front of a first word: columns without a name, as pandas writes its index."""
        word = self.head.lstrip()
        line = self.head[: len(self.head) - len(word)].rpartition(b"\n")[2]
        return 0 if line.strip(b"\t") or word[:1] in b"{[" else len(line)

    def _pass(self, size: int) -> None:
        self.offset += len(self._stream.read(size))

    def _refuse_other_formats(self) -> None:
        for first, what in _FOREIGN:
            if self.head.startswith(first):
                raise SampleError(f"{self.source.name} is {what}", code="unknown_format")
        start = self.head[: len(codecs.BOM_UTF32_LE)]
        encoding = "UTF-32" if start.startswith(_UTF32_MARKS) else None
        if encoding is None and b"\x00" in start:
            # ASCII in UTF-16 is NUL in every other byte, whether or not a mark says so
            encoding = "UTF-16" if start.strip(b"\x00") and b"\x00\x00" not in start else "not text"
        if encoding is not None:
            raise SampleError(
                f"{self.source.name} is {encoding}; save it as UTF-8 and drop it again", code="encoding"
            )

    def _not_utf8(self, at: int, line: int, error: UnicodeDecodeError) -> SampleError:
        """Return what a file is told that has another encoding; ``at`` is the byte at which the decoder began."""
        told = f"{self.source.name} is not UTF-8 (byte {at + error.start}) on line {line}"
        if error.reason == "unexpected end of data":
            told += ": it ends inside a character, so a part of it may be missing"
        elif _WESTERN.match(error.object, error.start):
            sign = error.object[error.start : error.start + 1]
            told += f"; it looks like Windows-1252, in which this byte is {sign.decode('cp1252')!r}"
        return SampleError(
            f"{told}; save it as UTF-8 (in Excel: CSV UTF-8) and drop it again", code="encoding"
        )
