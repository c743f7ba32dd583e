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
        self._complete: set[Path] = set()

    def recover(self) -> None:
        """Make the folders."""
        for name in OWN_FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)

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
        """Note that a file was renamed into place."""
        self._complete.add(path)

    def settled(self, now: float) -> list[Waiting]:
        """Return the files that are complete at ``now`` (monotonic seconds)."""
        waiting = self.waiting()
        ready = [item for item in waiting if self._has_settled(item, now)]
        present = {item.path for item in waiting}
        self._resting = {path: rest for path, rest in self._resting.items() if path in present}
        self._complete &= present
        return ready

    def _has_settled(self, item: Waiting, now: float) -> bool:
        status = self._status(item.path)
        if status is None:
            return False
        signature = (status.st_size, status.st_mtime_ns, status.st_ino)
        rest = self._resting.get(item.path)
        if rest is None or rest.signature != signature:
            self._resting[item.path] = rest = _Rest(signature, now)
        if item.path in self._complete:
            return True
        return now - rest.since >= self._settings.settle_seconds

    def take(self, item: Waiting) -> Path:
        """Move a complete file into ``processing/<track>/``, out of its writer's reach by name."""
        name = os.fsencode(item.path.name).decode(errors="replace")  # a name that is not UTF-8 fits no ledger
        return files.move(item.path, self.folder / "processing" / item.track / name)

    def processing(self) -> list[Waiting]:
        """Return the files that were taken and have no end yet; after a crash these come first."""
        found = []
        for track in self._tracks:
            folder = self.folder / "processing" / track
            taken = sorted(folder.iterdir()) if folder.is_dir() else []
            found += [
                Waiting(path, track, path.stat().st_size, path.stat().st_mtime)
                for path in taken
                if path.is_file()
            ]
        return found

    def finish(self, path: Path, now: float) -> Path:
        """Move an accepted file to ``done/<date>/``."""
        return files.move(
            path, self.folder / "done" / time.strftime("%Y-%m-%d", time.localtime(now)) / path.name
        )

    def fail(self, path: Path, reason: dict[str, Any]) -> Path:
        """Move a file to ``failed/`` with its reason beside it."""
        target = files.move(path, self.folder / "failed" / path.name)
        beside = target.name if len(target.name.encode()) <= LONGEST_NAME else digest(target.name)[:32]
        files.write_json(target.with_name(f"{beside}.reason.json"), {"file": target.name, **reason})
        return target


class _Handler(FileSystemEventHandler):
    """Pass on the one event that says complete; the others only say look."""

    def __init__(self, complete: Callable[[Path], None], look: Callable[[], None]) -> None:
        self._complete = complete
        self._look = look

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type in {"opened", "closed_no_write", "deleted"}:
            return  # watchdog also reports our own reading
        if event.event_type == "moved":
            self._complete(Path(str(event.dest_path)))
        self._look()


def watch(folder: Path, complete: Callable[[Path], None], look: Callable[[], None]) -> Any:
    """Return a watcher of the inbox, not started; its thread belongs to whoever starts it."""
    observer = Observer()
    observer.schedule(_Handler(complete, look), str(folder), recursive=True)
    return observer
