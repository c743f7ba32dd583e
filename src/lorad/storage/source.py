"""A file to read, through one descriptor that is opened once: replacing its path later changes nothing.

What lives here: opening a plain file and nothing else, and reading it as often as a reader wants. What never does:
formats, moving files, following a link that somebody else could have put there.
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad.errors import SampleError

#: Size, time of change and number of a file: what differs when it was written to or is another one.
Signature = tuple[int, int, int]


def together(file: Signature, *beside: Signature) -> Signature:
    """Return what differs when a file was written to, or a sidecar of it."""
    return sum(each[0] for each in (file, *beside)), sum(each[1] for each in (file, *beside)), file[2]


def signature(status: os.stat_result) -> Signature:
    """Return what a file's status says of whether it was written to."""
    return status.st_size, status.st_mtime_ns, status.st_ino


@dataclass(frozen=True, slots=True)
class Source:
    """A plain file that is open."""

    name: str
    """As it was dropped: its ending says something of its format."""
    descriptor: int

    @property
    def size(self) -> int:
        """Return its bytes as of now; it may still grow."""
        return os.fstat(self.descriptor).st_size

    @property
    def signature(self) -> Signature:
        """Return what tells whether it was written to."""
        return signature(os.fstat(self.descriptor))

    def open(self) -> io.BufferedReader:
        """Return a stream that begins at the beginning and is independent of every other one."""
        return io.BufferedReader(_Stream(self.descriptor))


class _Stream(io.RawIOBase):
    """Reads at a place of its own; closing it leaves the descriptor open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._at = max(0, starts[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextlib.contextmanager
def opened(path: Path | str, *, folder: int | None = None, follow: bool = False) -> Iterator[Source]:
    """Open a plain file, in the directory open as ``folder`` if given; raise ``SampleError`` for what is none.

    ``follow`` is for what the person who runs the command names: of a link, what it leads to is read.
    """
    name = os.path.basename(path)  # noqa: PTH119 - a name need not be a path
    descriptor = _open(path, name, folder, follow=follow)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_file(name)
        yield Source(name, descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path | str, name: str, folder: int | None, *, follow: bool) -> int:
    # without O_NONBLOCK the open of a named pipe waits for its writer
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        return os.open(path, flags, dir_fd=folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            status = os.stat(path, dir_fd=folder, follow_symlinks=follow)
            if not stat.S_ISREG(status.st_mode):
                raise _no_file(name) from error
        raise


def _no_file(name: str) -> SampleError:
    return SampleError(
        f"{name} is not a regular file and was not read; drop a copy of the file", code="no_file"
    )
