"""Vectors in a file: rows of float16, one behind the other, that are added and never changed.

What lives here: adding rows so that a kill at any write loses none that were counted, telling which are damaged, and lending
all of them without reading them. What never does: how many rows count (SQLite says that), what they mean.

The file has no header: a number of rows in it would be a second truth beside SQLite's. Rows behind those that count were
being written when somebody was killed, and are written over.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorad.storage import files
from lorad.storage.fault_points import step

ROW = np.dtype("<f2")
"""Half the bytes of float32; cosines change in the fourth digit."""


class Batch(NamedTuple):
    """Rows that were added together."""

    first: int
    size: int
    """How many rows."""
    checksum: int
    """CRC-32 of their bytes."""


class VectorFile:
    """Rows of one length in one file; only one thread adds to it."""

    def __init__(self, path: Path, dimension: int) -> None:
        self.path = path
        self._dimension = dimension
        self._row_bytes = dimension * ROW.itemsize

    def add(self, first: int, rows: NDArray[np.floating[Any]]) -> Batch:
        """Write rows [N, D] at a place and bring them onto the medium; what stood there and behind it is gone."""
        data = np.ascontiguousarray(rows, ROW).tobytes()
        files.make_folder(self.path.parent, mode=files.CLOSED)
        with files.passing_errors(f"writing {self.path}"):
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, files.SECRET)
            try:
                with step("truncate", self.path):
                    os.ftruncate(descriptor, first * self._row_bytes)
                with step("write", self.path):
                    _write(descriptor, data, first * self._row_bytes)
                with step("sync", self.path):
                    files.flush(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                files.sync(self.path.parent)
        return Batch(first, len(rows), zlib.crc32(data))

    def rows(self, count: int) -> NDArray[np.float16]:
        """Return the first rows [count, D], mapped into memory: they are read from the disk when they are looked at."""
        if not count:
            return np.zeros((0, self._dimension), ROW)
        # "c": a private mapping, because torch wants what it could write to
        return np.memmap(self.path, ROW, "c", shape=(count, self._dimension))

    def damaged(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the batches that the file does not hold as they were written; all of them where there is no file."""
        try:
            stream = self.path.open("rb")
        except OSError:
            yield from batches
            return
        with stream:
            for batch in batches:
                stream.seek(batch.first * self._row_bytes)
                if zlib.crc32(stream.read(batch.size * self._row_bytes)) != batch.checksum:
                    yield batch

    def remove(self) -> None:
        """Remove the file."""
        files.remove(self.path)


def _write(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
