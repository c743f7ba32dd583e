"""Events about changes in the inbox. watchdog lives here alone.

What lives here: watching the inbox itself and each track's folder, and passing on what happened. What never does:
deciding whether a file is complete (``inbox``), starting a thread unasked.

Nothing below these folders is watched: whoever may write to the inbox can make folders without end, and each would
cost a watch and its events.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from lorad.storage.mounts import Mount, why_silent

#: Seconds between two scans of a folder that no events tell of.
POLL_SECONDS = 1.0


class _Handler(FileSystemEventHandler):
    """Pass on which file is complete, which folder is new, and that something changed."""

    def __init__(
        self, complete: Callable[[Path], None], scan: Callable[[], None], appeared: Callable[[Path], None]
    ) -> None:
        self._complete = complete
        self._scan = scan
        self._appeared = appeared

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in {"opened", "closed_no_write", "deleted"}:
            return  # watchdog also reports our own reading
        is_moved = event.event_type == "moved"
        path = event.dest_path if is_moved else event.src_path
        if not path:
            return  # moved out of the inbox
        if event.is_directory:
            if is_moved or event.event_type == "created":
                self._appeared(Path(os.fsdecode(path)))
            return
        if is_moved:
            self._complete(Path(os.fsdecode(path)))
        self._scan()


class _Watches:
    """The watches of an observer, one for the inbox and one for each track's folder that is there."""

    def __init__(
        self,
        observer: Any,
        folders: Sequence[Path],
        complete: Callable[[Path], None],
        scan: Callable[[], None],
    ) -> None:
        self._observer = observer
        self._folders = folders
        self._scan = scan
        self._handler = _Handler(complete, scan, self.renew)
        self._held: dict[Path, Any] = {}
        for folder in folders:
            if folder.is_dir():
                self._add(folder)

    def _add(self, folder: Path) -> None:
        self._held[folder] = self._observer.schedule(self._handler, str(folder), recursive=False)

    def renew(self, folder: Path) -> None:
        """Watch a track's folder that was made anew: the old watch stays with the old folder."""
        if folder not in self._folders:
            return
        if old := self._held.pop(folder, None):
            self._observer.unschedule(old)
        with contextlib.suppress(
            OSError
        ):  # gone already, or no watch is free: the next scan finds what is in it
            self._add(folder)
        self._scan()  # what came into it before it was watched


def watch(
    folder: Path, tracks: Sequence[str], complete: Callable[[Path], None], scan: Callable[[], None]
) -> Any:
    """Return a watcher of the inbox, not started; its threads belong to whoever starts it."""
    # inotify alone tells a rename from outside the inbox from a file that somebody begins to write
    options: Any = {"generate_full_events": True} if sys.platform == "linux" else {}
    observer = Observer(**options)
    _Watches(observer, [folder, *(folder / track for track in tracks)], complete, scan)
    return observer


def start(watcher: Any, folder: Path, mounts: Iterable[Mount]) -> str:
    """Start a watcher; return why the folder must be polled instead, ``""`` when events can be relied on.

    A watcher of a silent folder is started as well: what this machine does there, it tells at once.
    """
    try:
        watcher.start()
    except (OSError, RuntimeError) as error:  # inotify's limits on watches and on instances, above all
        return f"it cannot be watched: {getattr(error, 'strerror', None) or error}; see lorad doctor"
    silent = why_silent(Path(os.path.realpath(folder)), mounts)
    return silent and f"it lies on {silent}, which does not tell of what other machines change"
