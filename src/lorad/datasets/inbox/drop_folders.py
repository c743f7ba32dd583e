"""The drops' folders: ``processing/`` for files that were taken, ``done/`` and ``failed/`` for where they end.

What lives here: opening them as the daemon's own, and every move in and out of them. What never does: the inbox that
people write to (``inbox``), reading rows, the ledger.

They lie in ``models/drops``, where nobody but the daemon may write, so that whatever is in them was put there by it.
Where the inbox is on another file system, out of which nothing can be renamed, they lie in ``inbox/.drops``. They are
opened once, at the start: whoever can write around them cannot lead the daemon elsewhere by changing a name.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from lorad.datasets.sidecar import SUFFIXES, companion
from lorad.errors import ConfigError
from lorad.home import APART
from lorad.storage import files
from lorad.storage.directories import Folder
from lorad.storage.file_names import LONGEST, distinct, fitting, readable
from lorad.storage.source import Signature, signature, together

REASON = ".reason.json"

#: What people may read and nobody else may change; what is made in it belongs to its group.
SHARED = 0o2750

#: What nobody else needs to see.
CLOSED = 0o700

#: A drop's number, as SQLite has them.
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")

#: Bytes of a failed file's name: its reason is beside it and has the same.
_ROOM = LONGEST - len(REASON)


@dataclass(frozen=True, slots=True)
class InboxFile:
    """A file in the inbox, with the track that its folder names."""

    path: Path
    track: str
    size: int
    changed_at: float
    drop: int = 0
    """The ledger's number of the drop, once the file is taken."""

    @property
    def name(self) -> str:
        """Return its name for people and for the ledger."""
        return distinct(self.path.name)


class Drops:
    """The folders of what was taken; ``folder`` is the open one that holds them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.processing = folder.own("processing", CLOSED)
        self.done = folder.own("done", SHARED)
        self.failed = folder.own("failed", SHARED)

    def recover(self, group: int) -> None:
        """Remove what a crash left half made, and let the inbox's group read the reasons of failed files."""
        self.failed.remove_parts()
        for folder in (self.folder, self.done, self.failed):
            if folder.state().st_gid != group:
                with contextlib.suppress(OSError):  # not of that group: then its own reads it
                    os.fchown(folder.descriptor, -1, group)
                    folder.close_to(SHARED)

    # -- what was taken

    def path(self, track: str, drop: int) -> Path:
        """Return the folder of one drop's file."""
        return self.processing.path / track / str(drop)

    @contextlib.contextmanager
    def entered(self, path: Path) -> Iterator[Folder]:
        """Open a folder in ``processing/``, ``done/`` or ``failed/`` by its path."""
        with contextlib.ExitStack() as stack:
            folder = self.folder
            for part in path.relative_to(self.folder.path).parts:
                folder = stack.enter_context(folder.enter(part))
            yield folder

    @contextlib.contextmanager
    def made(self, track: str, drop: int) -> Iterator[Folder]:
        """Open the folder of one drop; create it if needed, and remove it again if it stays empty."""
        with self.processing.make(track, CLOSED) as above, above.make(str(drop), CLOSED) as folder:
            try:
                yield folder
            except BaseException:
                with contextlib.suppress(Exception):
                    above.remove_empty(str(drop))
                raise

    def survey(self, tracks: Sequence[str]) -> tuple[list[InboxFile], list[tuple[Path, OSError]]]:
        """Return the files that were taken and have not ended, in that order, and the folders that cannot be listed."""
        taken: list[InboxFile] = []
        closed: list[tuple[Path, OSError]] = []
        for track in tracks:
            try:
                with self.processing.enter(track) as folder:
                    for name in folder.names():
                        self._survey(folder, name, track, taken, closed)
            except FileNotFoundError:
                continue
            except OSError as error:
                closed.append((self.processing.path / track, error))
        return sorted(taken, key=lambda item: (item.drop, item.path.name)), closed

    def _survey(
        self,
        above: Folder,
        number: str,
        track: str,
        taken: list[InboxFile],
        closed: list[tuple[Path, OSError]],
    ) -> None:
        # a number that no ledger gave is none, and its file is taken anew
        drop = int(number) if _NUMBER.fullmatch(number) else 0
        try:
            with above.enter(number) as folder:
                for name, status in folder.entries():
                    if not name.endswith(SUFFIXES) or not stat.S_ISREG(status.st_mode):
                        path = folder.path / name
                        taken.append(InboxFile(path, track, status.st_size, status.st_mtime, drop))
        except FileNotFoundError:  # whoever asks for the status is not the one who moves files
            return
        except OSError as error:
            closed.append((above.path / number, error))

    def lone_sidecars(self, tracks: Sequence[str]) -> list[Path]:
        """Return the sidecars whose file is not beside them; and remove the folders in which nothing is left."""
        found = []
        for track in tracks:
            with contextlib.suppress(OSError), self.processing.enter(track) as above:
                for number in above.names():
                    with contextlib.suppress(OSError), above.enter(number) as folder:
                        names = folder.names()
                        beside = {companion(name, suffix) for name in names for suffix in SUFFIXES}
                        found += [folder.path / name for name in names if _is_lone(name, beside)]
                        above.remove_empty(number)
        return found

    # -- where each one ends

    def place_done(self, name: str, now: float) -> str:
        """Return where an accepted file ends, ``done/<date>/<name>``, the date of this place."""
        day = local_date(now).isoformat()
        try:
            with self.done.enter(day) as folder:
                return f"done/{day}/{folder.free_name(name)}"
        except FileNotFoundError:
            return f"done/{day}/{name}"

    def place_failed(self, name: str) -> str:
        """Return where a failed file goes."""
        return f"failed/{self.failed.free_name(fitting(readable(name), _ROOM), _ROOM)}"

    def end(self, source: Folder, name: str, place: str) -> Path:
        """Move sidecars and then their file; if the power fails in between, the next start finds the file."""
        target = self.folder.path / place
        if target.parent == self.failed.path:
            _move(source, name, self.failed, target.name)
            return target
        with self.done.make(target.parent.name, SHARED) as day:
            _move(source, name, day, target.name)
        return target

    def tell(self, place: str, reason: dict[str, Any]) -> None:
        """Write the reason beside a file in ``failed/``."""
        name = Path(place).name
        self.failed.write_json(companion(name, REASON), {"file": name, **reason})

    def signature(self, place: str) -> Signature | None:
        """Return the signature by which a later change of an ended file or a sidecar is detected; ``None`` if it is gone."""
        path = self.folder.path / place
        try:
            with self.entered(path.parent) as folder:
                status = folder.status(path.name)
                names = [companion(path.name, suffix) for suffix in SUFFIXES]
                others = [signature(folder.status(name)) for name in names if folder.holds(name)]
        except OSError:
            return None
        return together(signature(status), *others) if stat.S_ISREG(status.st_mode) else None

    def take_back(self, place: str, name: str, track: str, drop: int) -> None:
        """Move a file that has ended, its sidecars first, into the folder of another drop, and its reason away."""
        path = self.folder.path / place
        with self.entered(path.parent) as folder, self.made(track, drop) as into:
            _move(folder, path.name, into, name)
            if folder.path == self.failed.path:
                folder.remove(companion(path.name, REASON))

    def prune(self, oldest: date) -> list[str]:
        """Remove the folders of earlier days from ``done/``, but no other files; return them."""
        gone = []
        for name, status in self.done.entries():
            with contextlib.suppress(ValueError):  # no day's name
                if date.fromisoformat(name) < oldest and stat.S_ISDIR(status.st_mode):
                    self.done.remove(name)
                    if not self.done.holds(name):
                        gone.append(name)
        return sorted(gone)


def beside(inbox: Folder, wanted: Path | None) -> Folder:
    """Open the folder that holds these folders: ``wanted``, or one in the inbox where that is elsewhere."""
    if wanted is not None:
        files.make_folder(wanted.parent)
        with type(inbox).open(wanted.parent) as parent:
            if parent.takes_from(inbox):
                return parent.own(wanted.name, SHARED)
    folder = inbox.own(APART, SHARED)
    if folder.is_open_to_others():
        raise ConfigError(
            f"others may write to {folder.path}, and its file system keeps no modes; mount it so that only lorad may "
            "write there, or keep inbox/ on the file system of models/",
            code="not_own",
            path=str(folder.path),
        )
    return folder


def local_date(now: float) -> date:
    """Return the date of this place."""
    return datetime.fromtimestamp(now).astimezone().date()


def _is_lone(name: str, beside: set[str]) -> bool:
    return name.endswith(SUFFIXES) and name not in beside


def _move(source: Folder, name: str, into: Folder, to: str) -> None:
    for suffix in SUFFIXES:
        if source.holds(sidecar := companion(name, suffix)):
            source.rename(sidecar, into, companion(to, suffix))
    source.rename(name, into, to)
