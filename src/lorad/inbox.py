"""A capability: the inbox folder. Which files are complete, and where each ends up.

What lives here: looking at the folder, deciding that a file has come to rest, moving it to
``processing/``, ``done/`` or ``failed/``. What never does: reading rows (``samples``), remembering
(``ledger``).

A file is complete when its size and time of change have rested for ``settle_seconds``, or at once when the
system said that it was renamed into place. That a writer closed it proves nothing (it may open it again).
Events only make things faster: what they miss, the periodic scan finds.
"""

import fnmatch
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from lorad import files
from lorad.config import InboxSettings
from lorad.domain import digest

#: Names of files that other programs are still writing, or that are not meant for us.
IGNORED = (
    ".*",
    "~*",
    "*~",
    "*.part",
    "*.filepart",
    "*.crdownload",
    "*.tmp",
    "*.swp",
    "@eaDir",
    "README*",
    "*.reason.json",
    "*.meta.yaml",
)

#: Bytes of a file name that leave room for ``.reason.json`` (file systems allow 255).
LONGEST_NAME = 230

OWN_FOLDERS = ("processing", "done", "failed")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that lies in the inbox, with the track that its folder names."""

    path: Path
    track: str
    size: int
    changed_at: float
    drop: int = 0
    """The ledger's number of the drop, once the file is taken."""

    @property
    def name(self) -> str:
        """Return the file's name as text; one that is not UTF-8 fits no ledger."""
        return os.fsencode(self.path.name).decode(errors="replace")


@dataclass(slots=True)
class _Rest:
    signature: tuple[int, int, int]
    since: float


class Inbox:
    """The folder that people drop files into."""

    def __init__(self, folder: Path, settings: InboxSettings, tracks: tuple[str, ...]) -> None:
        self.folder = folder
        self._settings = settings
        self._tracks = tracks
        self._resting: dict[Path, _Rest] = {}
        self._complete: dict[Path, tuple[int, int, int]] = {}

    def recover(self) -> None:
        """Make the folders, and remove what a crash left between two steps of a move."""
        for name in OWN_FOLDERS:
            files.make_folder(self.folder / name)
        files.remove_parts(self.folder / "failed")
        for folder in (self.folder / "processing").glob("*/*"):
            files.remove_empty(folder)

    def waiting(self) -> list[Waiting]:
        """Return the regular files that lie in the inbox and in its tracks' folders, in order of age."""
        found = []
        places = [(self.folder, self._tracks[0]), *((self.folder / track, track) for track in self._tracks)]
        for folder, track in places:
            for path in folder.iterdir() if folder.is_dir() else ():
                status = self._status(path)
                if status is not None:
                    found.append(Waiting(path, track, status.st_size, status.st_mtime))
        return sorted(found, key=lambda item: (item.changed_at, item.path.name))

    def _status(self, path: Path) -> Any:
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in IGNORED):
            return None
        try:
            status = path.lstat()  # a link could leave the inbox; devices and pipes could block
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def hint_complete(self, path: Path) -> None:
        """Note that a file was renamed into place; what is written into it afterwards makes the note void."""
        if status := self._status(path):
            self._complete[path] = _signature(status)

    def settled(self, now: float) -> list[Waiting]:
        """Return the files that are complete at ``now`` (monotonic seconds)."""
        hinted = list(self._complete)  # before looking: the watcher's thread adds to it
        waiting = self.waiting()
        ready = [item for item in waiting if self._has_settled(item, now)]
        present = {item.path for item in waiting}
        self._resting = {path: rest for path, rest in self._resting.items() if path in present}
        for path in hinted:
            if path not in present:
                self._complete.pop(path, None)
        return ready

    def _has_settled(self, item: Waiting, now: float) -> bool:
        status = self._status(item.path)
        if status is None:
            return False
        signature = _signature(status)
        rest = self._resting.get(item.path)
        if rest is None or rest.signature != signature:
            self._resting[item.path] = rest = _Rest(signature, now)
        if self._complete.get(item.path) == signature:
            return True
        return now - rest.since >= self._settings.settle_seconds

    def take(self, item: Waiting, drop: int) -> Path:
        """Move a complete file into ``processing/<track>/<drop>/``, out of its writer's reach by name."""
        target = self.folder / "processing" / item.track / str(drop) / item.name
        if item.path == target:
            return target  # an earlier try moved it and then could not be told to the ledger
        return files.move(item.path, target)

    def processing(self) -> list[Waiting]:
        """Return the files that were taken and have no end yet, in order of taking; after a crash these come first."""
        found = []
        for track in self._tracks:
            for path in (self.folder / "processing" / track).glob("*/*"):
                number = path.parent.name
                if path.is_file():
                    status = path.stat()
                    drop = int(number) if number.isdecimal() else 0
                    found.append(Waiting(path, track, status.st_size, status.st_mtime, drop))
        return sorted(found, key=lambda item: (item.drop, item.path.name))

    def finish(self, path: Path, now: float) -> Path:
        """Move an accepted file to ``done/<date>/``."""
        day = time.strftime("%Y-%m-%d", time.localtime(now))
        target = files.move(path, self.folder / "done" / day / path.name)
        files.remove_empty(path.parent)
        return target

    def fail(self, path: Path, reason: dict[str, Any]) -> Path:
        """Move a file to ``failed/``; its reason is there before it."""
        target = files.free_name(self.folder / "failed" / path.name)
        beside = target.name if len(target.name.encode()) <= LONGEST_NAME else digest(target.name)[:32]
        files.write_json(target.with_name(f"{beside}.reason.json"), {"file": target.name, **reason})
        files.rename(path, target)
        files.remove_empty(path.parent)
        return target


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_size, status.st_mtime_ns, status.st_ino)


class _Handler(FileSystemEventHandler):
    """Pass on the one event that says complete; the others only say look."""

    def __init__(self, complete: Callable[[Path], None], look: Callable[[], None]) -> None:
        self._complete = complete
        self._look = look

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type in {"opened", "closed_no_write", "deleted"}:
            return  # watchdog also reports our own reading
        if event.event_type == "moved":
            if not event.dest_path:
                return  # out of the inbox
            self._complete(Path(os.fsdecode(event.dest_path)))
        self._look()


def watch(folder: Path, complete: Callable[[Path], None], look: Callable[[], None]) -> Any:
    """Return a watcher of the inbox, not started; its thread belongs to whoever starts it."""
    # inotify alone tells a rename from outside the inbox from a file that somebody begins to write
    options: Any = {"generate_full_events": True} if sys.platform == "linux" else {}
    observer = Observer(**options)
    observer.schedule(_Handler(complete, look), str(folder), recursive=True)
    return observer
