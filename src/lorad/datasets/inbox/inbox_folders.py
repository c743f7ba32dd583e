"""The folders of an inbox: the inbox itself, one per track, and links to where files end up.

What lives here: opening them, and listing what lies in them. What never does: deciding what that is (``inbox``).

Others may write to the inbox, so whatever is in it is opened and moved in a directory that is open, never by a path,
and never through a link.
"""

import contextlib
import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lorad.datasets.inbox import drop_folders, old_folders
from lorad.datasets.inbox.drop_folders import Drops, InboxFile
from lorad.datasets.inbox.ignored_names import passed_by
from lorad.errors import TransientError
from lorad.storage import files
from lorad.storage.directories import Folder

#: Names in the inbox that are not people's: the links to where files end, and what an older lorad had there.
OWN_NAMES = ("processing", "done", "failed")

#: Those that are links, for people.
SIGNPOSTS = ("done", "failed")


class InboxFolders:
    """The inbox, its tracks' folders and the drops' own."""

    def __init__(
        self,
        path: Path,
        tracks: tuple[str, ...],
        place: Path | None,
        open_folder: Callable[[Path], Folder],
    ) -> None:
        self.path = path
        self.tracks = tracks
        self._place = place
        """Where the drops' own folders are; without it, in the inbox."""
        self._open_folder = open_folder
        self._open: Folder | None = None
        self._drops: Drops | None = None

    def recover(self) -> list[str]:
        """Open the folders, made if they must be; return what was done with those of an older lorad, in words."""
        files.make_folder(self.path)
        inbox = self.inbox()
        place = drop_folders.beside(inbox, self._place)
        told = old_folders.move_in(inbox, place)
        self._drops = Drops(place)
        self._drops.recover(inbox.state().st_gid)
        self._make_tracks(inbox)
        return told

    def _make_tracks(self, inbox: Folder) -> None:
        """Create the tracks' folders first: one that a user creates may be unreadable for the daemon."""
        for name in self.tracks:
            if not inbox.holds(name):
                mode = stat.S_IMODE(inbox.state().st_mode) & ~stat.S_IWOTH
                inbox.make(name, mode).close()

    # -- opening

    @property
    def is_open(self) -> bool:
        """Tell whether ``recover`` has opened the folders."""
        return self._drops is not None

    @property
    def drops(self) -> Drops:
        """Return the drops' own folders."""
        if self._drops is None:
            raise RuntimeError("recover() opens the folders")
        return self._drops

    def inbox(self) -> Folder:
        """Return the inbox; open it again if its path now leads to another folder."""
        status, held = self.path.stat(), self._open
        if held is None or not os.path.samestat(held.state(), status):
            self._open = held = self._open_folder(self.path)
        return held

    def track(self, inbox: Folder, track: str) -> Folder | None:
        """Open a track's folder, if it is a readable folder on the inbox's file system and not a link."""
        try:
            folder = inbox.enter(track)
        except OSError:
            return None
        if folder.takes_from(inbox) and folder.is_usable():
            return folder
        folder.close()
        return None

    @contextlib.contextmanager
    def entered(self, path: Path) -> Iterator[Folder]:
        """Open the folder that a path lies in: the inbox, a track's, or one of the drops' own."""
        if self._drops and path.is_relative_to(self._drops.folder.path):
            with self._drops.entered(path.parent) as folder:
                yield folder
        elif path.parent == self.path:
            yield self.inbox()
        else:
            with self.inbox().enter(path.parent.name) as folder:
                yield folder

    # -- listing

    def entries(self) -> Iterator[tuple[InboxFile, int]]:
        """Return what lies in the inbox and in its tracks' folders, each with its mode."""
        for folder, path, track in self._each():
            # one that cannot be listed to its end keeps the others from nothing
            with contextlib.suppress(*((OSError,) if path != self.path else ())):
                for name, status in folder.entries(unless=passed_by):
                    file = InboxFile(path / name, track, status.st_size, status.st_mtime)
                    yield file, status.st_mode  # a link could leave the inbox; devices and pipes could block

    def _each(self) -> Iterator[tuple[Folder, Path, str]]:
        try:
            inbox = self.inbox()
        except (FileNotFoundError, NotADirectoryError):
            return
        yield inbox, self.path, self.tracks[0]
        for track in self.tracks:
            folder = self.track(inbox, track)
            if folder:
                with folder:
                    yield folder, self.path / track, track

    def holds(self, path: Path) -> bool:
        """Tell whether a path is that of an entry here."""
        return path.parent in {self.path, *(self.path / track for track in self.tracks)}

    def is_track(self, path: Path) -> bool:
        """Tell whether a path is that of a track's folder."""
        return path.parent == self.path and path.name in self.tracks

    def is_own_name(self, path: Path) -> bool:
        """Tell whether a path has a name of lorad's own."""
        return path.parent == self.path and path.name in OWN_NAMES

    def is_processing(self, path: Path) -> bool:
        """Tell whether a path lies where taken files lie."""
        return self._drops is not None and path.is_relative_to(self._drops.processing.path)

    # -- signposts

    def put_up(self) -> None:
        """Create the links to where files end up; a name that is already used is skipped."""
        for name in SIGNPOSTS:
            with contextlib.suppress(OSError, TransientError):  # nothing rests on them
                self._put_up(self.inbox(), name)

    def _put_up(self, inbox: Folder, name: str) -> None:
        if self.is_up(name):
            return
        if inbox.points(name) is not None and inbox.status(name).st_uid == os.geteuid():
            inbox.remove(name)  # it leads to another place
        if not inbox.holds(name):
            inbox.link(name, self._way(name))

    def is_up(self, name: str) -> bool:
        """Tell whether a name is one of these links."""
        return name in SIGNPOSTS and self.inbox().points(name) == self._way(name)

    def _way(self, name: str) -> str:
        return os.path.relpath(self.drops.folder.path / name, os.path.realpath(self.path))


def oldest(found: Iterable[InboxFile], most: int) -> list[InboxFile]:
    """Return so many files, the oldest first; of a million only these are held in memory."""
    return heapq.nsmallest(most, found, key=lambda item: (item.changed_at, item.path.name))
