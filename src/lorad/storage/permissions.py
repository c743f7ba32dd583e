"""Permissions of the files in a home.

What lives here: what is the most that lorad's own files and folders allow, finding what is more open than that, and
closing it. What never does: opening anything wider, changing an owner, following a link but the user's own in place of
one of a home's folders.

The daemon's user may do everything. The group may read what is no secret, enter the folders and ask the socket; what
holds people's words is the daemon's alone. Others may do nothing. ``inbox/`` is as open to the group as its owner
made it.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorad.home import Home

UMASK = 0o027
"""What lorad's processes take from the mode of every file that a library makes in a home."""

FOLDER, FILE, SHARED_FOLDER = 0o750, 0o640, 0o770
SECRET_FOLDER, SECRET_FILE = 0o700, 0o600

#: Folders that hold people's words: nobody else enters them, so nobody looks at what lies in them either.
SECRET_FOLDERS = {"checkpoints", "processing"}
#: Folders of dropped files, whose modes and owners are those of whoever dropped them.
DROPPED_FOLDERS = {"done", "failed"}
#: What holds people's words, and locks: whoever may read a file can lock it.
SECRET_ENDINGS = (".sqlite3", "-wal", "-shm", "-journal", ".log", ".jsonl", ".lock")

_NO_MATTER = stat.S_ISGID | stat.S_ISVTX
"""Bits of a folder that let nobody do more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A file or folder that is more open than lorad makes it, or that another user owns."""

    path: Path
    mode: int
    wanted: int
    owner: int
    is_foreign: bool

    @property
    def surplus(self) -> int:
        """Return the bits that are too many."""
        return self.mode & ~(self.wanted | _NO_MATTER)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that is too open, as a name in an opened folder, so that no link can redirect it."""

    exposure: Exposure
    name: str
    folder: int | None = None


def exposed(home: Home, socket: Path, user: int) -> list[Exposure]:
    """Return what is too open in a home whose daemon runs as this user, including its socket."""
    return [found.exposure for found in _everything(home, socket, user)]


def close(home: Home, socket: Path, user: int) -> tuple[list[Exposure], list[Exposure]]:
    """Remove surplus permissions in a home; return what was fixed, and what could not be."""
    return _close_all(_everything(home, socket, user), user)


def close_below(top: Path, user: int) -> tuple[list[Exposure], list[Exposure]]:
    """Remove surplus permissions in a folder and below; return what was fixed, and what could not be."""
    return _close_all(_below(_meant(top, user), user), user)


def unsafe_parents(root: Path) -> list[Path]:
    """Return the parent folders in which anybody could replace the home."""
    modes = [(parent, parent.stat().st_mode) for parent in root.parents]
    return [parent for parent, mode in modes if mode & stat.S_IWOTH and not mode & stat.S_ISVTX]


def _everything(home: Home, socket: Path, user: int) -> Iterator[_Found]:
    yield from _look(home.root, FOLDER, user)
    if (
        home.root not in socket.parents
    ):  # a folder that many share, like /run or /tmp, is not lorad's to judge
        yield from (
            found for found in _look(socket.parent, 0o755, user) if not found.exposure.mode & stat.S_ISVTX
        )
    elif socket.parent != home.root:
        yield from _look(socket.parent, FOLDER, user)
    inbox = _meant(home.inbox, user)
    for folder in (inbox, *sorted(inbox.glob("*/"))):
        yield from _look(folder, SHARED_FOLDER, user)
    for top in (home.configs, home.models):
        yield from _below(_meant(top, user), user)


def _meant(top: Path, user: int) -> Path:
    """Return a folder of a home, or where it lies if the user has put a link in its place."""
    with contextlib.suppress(OSError):
        if top.is_symlink() and top.lstat().st_uid == user:
            return top.resolve(strict=True)
    return top


def _below(top: Path, user: int) -> Iterator[_Found]:
    yield from _look(top, FOLDER, user)
    if not top.is_dir():
        return
    for folder, names, files, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in files:
            allowed = SECRET_FILE if name.endswith(SECRET_ENDINGS) else FILE
            yield from _look(Path(folder, name), allowed, user, descriptor)
        for name in names:
            allowed = SECRET_FOLDER if name in SECRET_FOLDERS else FOLDER
            yield from _look(Path(folder, name), allowed, user, descriptor)
        names[:] = [name for name in names if name not in SECRET_FOLDERS | DROPPED_FOLDERS]


def _look(path: Path, allowed: int, user: int, folder: int | None = None) -> Iterator[_Found]:
    """Yield a file or folder that is too open; no link, no socket, and nothing that is gone."""
    name = str(path) if folder is None else path.name
    with contextlib.suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        exposure = Exposure(
            path=path,
            mode=stat.S_IMODE(found.st_mode),
            wanted=allowed,
            owner=found.st_uid,
            is_foreign=found.st_uid != user,
        )
        is_ours_to_judge = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
        if is_ours_to_judge and (exposure.surplus or exposure.is_foreign):
            yield _Found(exposure, name, folder)


def _close_all(found: Iterator[_Found], user: int) -> tuple[list[Exposure], list[Exposure]]:
    done: list[Exposure] = []
    left: list[Exposure] = []
    for each in found:
        (done if _close(each, user) else left).append(each.exposure)
    return done, left


def _close(found: _Found, user: int) -> bool:
    """Take the surplus away from what has the name now, unless it is a link, somebody else's, or has other names."""
    with contextlib.suppress(OSError):
        descriptor = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=found.folder)
        try:
            now = os.fstat(descriptor)
            is_single = stat.S_ISDIR(now.st_mode) or (stat.S_ISREG(now.st_mode) and now.st_nlink == 1)
            if now.st_uid == user and is_single:
                os.fchmod(descriptor, stat.S_IMODE(now.st_mode) & (found.exposure.wanted | _NO_MATTER))
                return True
        finally:
            os.close(descriptor)
    return False
