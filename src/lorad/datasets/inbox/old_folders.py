"""The folders that an older lorad kept in the inbox, where a group could write to them.

What lives here: moving them to where the drops' own folders are now, once. What never does: following a link in them,
or reading what somebody else may have put there.

Each step can be repeated: a folder is renamed out of everybody's reach first, and tidied there.
"""

import contextlib
import os
import re
import stat

from lorad.datasets.inbox.drop_folders import CLOSED, SHARED
from lorad.storage.directories import DEEPEST, Folder

#: What is no file and no folder of the daemon's own is kept here and never looked at.
ASIDE = "aside"

_TRACK = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


def move_in(inbox: Folder, place: Folder) -> list[str]:
    """Move ``processing/``, ``done/`` and ``failed/`` out of the inbox into ``place``; return what was done, in words."""
    told = []
    for name in ("processing", "done", "failed"):
        staged = f"old-{name}"
        if is_own(inbox, name) and not place.holds(staged):
            with contextlib.suppress(OSError):  # a mount of its own stays, and is passed by
                inbox.rename(name, place, staged)
                told.append(f"{inbox.path / name} is now {place.path / name}, where nobody else may write")
        if place.holds(staged):
            told += _unpack(place, staged) if name == "processing" else _adopt(place, staged, name)
    return told


def is_own(folder: Folder, name: str) -> bool:
    """Tell whether this is a real folder of this user's."""
    if not folder.holds(name):
        return False
    status = folder.status(name)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _adopt(place: Folder, staged: str, name: str) -> list[str]:
    with place.enter(staged) as old:
        told = _purge(old, place, DEEPEST)
        if place.holds(name):
            with place.own(name, SHARED) as new:
                for each in old.names():
                    old.rename(each, new, new.free_name(each))
    if place.holds(name):
        place.remove_empty(staged)
    else:
        place.rename(staged, place, name)
    return told


def _purge(folder: Folder, place: Folder, depth: int) -> list[str]:
    """Close a folder to others' writing and then put aside whatever in it is no file and no folder of ours."""
    folder.close_to(SHARED)
    told = []
    for name, status in list(folder.entries()):
        if stat.S_ISREG(status.st_mode):
            continue
        inner = _entered(folder, name) if depth else None
        if inner is None:
            told += _put_aside(folder, name, place)
            continue
        with inner:
            told += _purge(inner, place, depth - 1)
    return told


def _entered(folder: Folder, name: str) -> Folder | None:
    """Open a folder of ours; ``None`` for whatever else it is, or where it cannot be opened."""
    with contextlib.suppress(OSError):
        return folder.enter(name) if is_own(folder, name) else None
    return None


def _put_aside(folder: Folder, name: str, place: Folder) -> list[str]:
    with (
        place.own(ASIDE, CLOSED) as aside,
        contextlib.suppress(OSError),
    ):  # a stranger's folder may not be moved
        free = aside.free_name(name)
        folder.rename(name, aside, free)
        return [
            f"{folder.path / name} was no file of lorad's; it lies in {aside.path / free} and was not opened"
        ]
    return [f"{folder.path / name} is no file of lorad's and cannot be moved; it was not opened"]


def _unpack(place: Folder, staged: str) -> list[str]:
    """Move each file that was being processed to where it is looked for now; what is left is put aside."""
    with place.enter(staged) as old, place.own("processing", CLOSED) as new:
        old.close_to(CLOSED)
        for track in old.names():
            above = _entered(old, track) if _TRACK.fullmatch(track) else None
            if above:
                with above:
                    above.close_to(CLOSED)
                    _unpack_track(above, new, track)
                old.remove_empty(track)
    place.remove_empty(staged)
    return _put_aside(place, staged, place) if place.holds(staged) else []


def _unpack_track(above: Folder, new: Folder, track: str) -> None:
    for number in above.names():
        folder = _entered(above, number) if _NUMBER.fullmatch(number) else None
        if folder is None:
            continue
        with folder:
            folder.close_to(CLOSED)
            for name, status in list(folder.entries()):
                if stat.S_ISREG(status.st_mode):
                    with new.make(track, CLOSED) as into, into.make(number, CLOSED) as drop:
                        folder.rename(name, drop, name)
        above.remove_empty(number)
