"""When a file is complete: how long it has been unchanged, what events said, and whether its end is there.

What lives here: what was seen of each path at the last scan, and the rule. What never does: listing folders, who has a
file open for writing.

A file is complete when its size and time of change have rested for ``settle_seconds``, or at once when the system said
that it was renamed into place. That a writer closed it proves nothing (it may open it again), and macOS does not even
tell.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lorad.datasets import sidecar
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.errors import SampleError
from lorad.storage import files
from lorad.storage.directories import Folder
from lorad.storage.source import Signature, Source, opened

#: A file whose end is missing rests so many times as long as others: whoever writes it may only be slow.
PATIENCE = 6

#: Bytes of a file's end that tell whether it is one.
TAIL = 64

#: How files begin that do not end like a text: gzip, Parquet.
_PACKED = (b"\x1f\x8b", b"PAR1")


@dataclass(slots=True)
class Rest:
    """Since when a path is unchanged."""

    signature: Signature
    since: float
    is_open: bool | None = None
    """Its end is missing; ``None`` until that was looked at."""


class Settling:
    """What is known about the files that are not taken yet."""

    def __init__(
        self, settle_seconds: float, entered: Callable[[Path], contextlib.AbstractContextManager[Folder]]
    ) -> None:
        self.settle_seconds = settle_seconds
        self._entered = entered
        self.resting: dict[Path, Rest] = {}
        self.renamed: dict[Path, Signature] = {}
        """Files of which the system said that they were renamed into place, as they were then."""

    def note_renamed(self, path: Path) -> None:
        """Record that a file was renamed into the inbox; a later write makes that void."""
        with contextlib.suppress(OSError):  # gone meanwhile
            self.renamed[path] = signature(path)

    def forget(self, is_awaited: Callable[[Path], bool], notes: list[Path]) -> None:
        """Forget what is not waited for any more, and those of the notes whose file is gone."""
        self.resting = {path: rest for path, rest in self.resting.items() if is_awaited(path)}
        for path in notes:
            if not files.is_there(path):
                self.renamed.pop(path, None)

    def ready(
        self, waiting: Iterable[InboxFile], now: float
    ) -> tuple[list[InboxFile], list[tuple[InboxFile, Exception]]]:
        """Return the files that are complete, and those of which that cannot be known: each for itself."""
        complete, troubles = [], []
        for item in waiting:
            try:
                if self.is_ready(item, now):
                    complete.append(item)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other files have their turn
                troubles.append((item, error))
        return complete, troubles

    def is_ready(self, item: InboxFile, now: float) -> bool:
        """Tell whether a file is complete, and its sidecars, if it has any."""
        beside = filter(files.is_there, sidecar.paths_of(item.path))
        rested = [self.rests(path, now) for path in beside]  # of each, since when is noted
        return self.rests(item.path, now) and all(rested) and not self._wants_patience(item.path, now)

    def rests(self, path: Path, now: float, seconds: float | None = None) -> bool:
        """Tell whether something has been unchanged long enough at ``now`` (monotonic seconds)."""
        try:
            found = signature(path)
        except OSError:
            return False
        rest = self.resting.get(path)
        if rest is None or rest.signature != found:
            self.resting[path] = rest = Rest(found, now)
        is_told = self.renamed.get(path) == found
        return is_told or now - rest.since >= (seconds or self.settle_seconds)

    def _wants_patience(self, path: Path, now: float) -> bool:
        """Tell whether a file that rests has no end and has not rested long for that."""
        rest = self.resting[path]
        if self.renamed.get(path) == rest.signature:  # its writer meant it
            return False
        return self.is_unfinished(path, rest, now)

    def is_unfinished(self, path: Path, rest: Rest, now: float) -> bool:
        """Tell whether a file has no end, unless it has rested so long that none will come."""
        if now - rest.since >= PATIENCE * self.settle_seconds:
            return False
        if rest.is_open is None:
            rest.is_open = self._has_no_end(path)
        return rest.is_open

    def _has_no_end(self, path: Path) -> bool:
        with (
            contextlib.suppress(SampleError, OSError),  # it is told of when it is read
            self._entered(path) as folder,
            opened(path.name, folder=folder.descriptor) as source,
        ):
            return _ends_open(source)
        return False

    def without_end(self, now: float) -> list[Path]:
        """Return the files that are waited for because their end is missing."""
        limit = PATIENCE * self.settle_seconds
        return [path for path, rest in self.resting.items() if rest.is_open and now - rest.since < limit]


def signature(path: Path) -> Signature:
    """Return what is another one when a file was written to or replaced."""
    status = path.lstat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _ends_open(source: Source) -> bool:
    """Tell whether a text ends inside a line; of a list or an object the last sign is an end, too."""
    with source.open() as stream:
        if stream.read(4).startswith(_PACKED):
            return False
        stream.seek(max(0, source.size - TAIL))
        end = stream.read(TAIL).rstrip(b"\0 \t")  # two bytes a sign, perhaps
    return end[-1:] not in {b"\n", b"\r", b"}", b"]"}
