"""Opening taken files, each once, and whether they stayed as they were meanwhile.

What lives here: what is refused before a byte is read: a link, a second name, a file that is closed to the daemon. What
never does: reading rows (``reader``), moving files (``drop_folders``).
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorad.datasets import sidecar
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.errors import SampleError, TransientError
from lorad.storage.directories import Folder
from lorad.storage.fault_points import step
from lorad.storage.file_names import readable
from lorad.storage.open_files import open_for_writing
from lorad.storage.source import Signature, Source, opened, together


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A taken file that is open, with its sidecars, if it has any."""

    path: Path
    name: str
    track: str
    source: Source
    beside: Source | None
    """What is said of it (``sidecar``)."""
    wordings: Source | None
    """Wordings to test with (``other_wordings``)."""

    @property
    def signature(self) -> Signature:
        """Return what differs when one of them was written to."""
        others = [source.signature for source in (self.beside, self.wordings) if source]
        return together(self.source.signature, *others)


@contextlib.contextmanager
def open_taken(file: InboxFile, folder: Folder, is_inbox_open: Callable[[], bool]) -> Iterator[Taken]:
    """Open a taken file and its sidecars in their folder; raise ``SampleError`` for what is no plain file that it may read.

    A second name of a file is refused where others may write to the inbox: whoever dropped it may not be able to read
    that file.
    """
    with contextlib.ExitStack() as stack:
        beside, wordings = (
            _open(stack, folder, path.name, is_inbox_open) if folder.holds(path.name) else None
            for path in sidecar.paths_of(file.path)
        )
        yield Taken(
            path=file.path,
            name=file.name,
            track=file.track,
            source=_open(stack, folder, file.path.name, is_inbox_open),
            beside=beside,
            wordings=wordings,
        )


def _open(
    stack: contextlib.ExitStack, folder: Folder, name: str, is_inbox_open: Callable[[], bool]
) -> Source:
    try:
        source = stack.enter_context(opened(name, folder=folder.descriptor))
    except PermissionError:
        told = "cannot be read by the daemon; let its group read it (chmod g+r) and drop it again"
        raise SampleError(f"{readable(name)} {told}", code="unreadable") from None
    _require_copy(source, is_inbox_open)
    _close_to_others(source)
    return source


def _require_copy(source: Source, is_inbox_open: Callable[[], bool]) -> None:
    status, me = os.fstat(source.descriptor), os.geteuid()
    is_mine = me in {0, status.st_uid}
    if status.st_nlink > 1 and is_mine and is_inbox_open():
        told = (
            "is a hard link to a file that lies elsewhere as well, and was not read; drop a copy of the file"
        )
        raise SampleError(f"{readable(source.name)} {told}", code="hard_link")


def _close_to_others(source: Source) -> None:
    """Take from others what the umask of whoever dropped a file has given them, where it is this user's own file."""
    status = os.fstat(source.descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXO and status.st_uid == os.geteuid() and status.st_nlink == 1:
        with contextlib.suppress(OSError), step("chmod", source.name):  # not every file system keeps modes
            os.fchmod(source.descriptor, mode & ~stat.S_IRWXO)


@contextlib.contextmanager
def unchanged(taken: Taken) -> Iterator[None]:
    """Raise ``TransientError`` when a file changed while it was read, or somebody can still write to it."""
    before = taken.signature
    try:
        yield
    except SampleError:
        _require_rest(taken, before)  # half a file is no fault of its rows
        raise
    _require_rest(taken, before)


def _require_rest(taken: Taken, before: object) -> None:
    if taken.signature != before:
        raise TransientError(f"{taken.name} changed while it was read; it is read again", code="changed")
    if pid := open_for_writing([taken.path]).get(taken.path):
        raise TransientError(
            f"{taken.name} is open for writing by process {pid}; it is read again", code="changed"
        )
