"""Entries of the inbox that are not dataset files, with the reason why they are not taken.

What lives here: the reasons, in words for whoever dropped it. What never does: moving it, telling of it.
"""

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from lorad.datasets import sidecar
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox_folders import InboxFolders
from lorad.errors import SampleError
from lorad.storage import files
from lorad.storage.file_names import readable

#: What a directory may hold beside files, folders and sidecars.
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class RejectedEntry:
    """An entry of the inbox that is not a dataset file, with the reason."""

    file: InboxFile
    error: SampleError
    is_left: bool
    """Whether it stays where it is; otherwise it is moved to ``failed/``."""


def is_dataset(folders: InboxFolders, file: InboxFile, mode: int) -> bool:
    """Tell whether it may hold rows: a regular file that is no sidecar, and not in the way of a name of ours."""
    is_sidecar = file.path.name.endswith(sidecar.SUFFIXES)
    return stat.S_ISREG(mode) and not is_sidecar and not folders.is_own_name(file.path)


def datasets(folders: InboxFolders) -> Iterator[InboxFile]:
    """Return the files that may hold rows."""
    return (file for file, mode in folders.entries() if is_dataset(folders, file, mode))


def why_rejected(folders: InboxFolders, file: InboxFile, mode: int) -> SampleError | None:
    """Return why something is not taken; ``None`` for what is right where it is: a track's folder, a file's sidecar."""
    if folders.is_own_name(file.path):
        return _why_in_the_way(folders, file)
    if stat.S_ISREG(mode):
        return _why_lone(file)
    return _why_closed(folders, file) if folders.is_track(file.path) else why_strange(folders, file, mode)


def stays(folders: InboxFolders, file: InboxFile, mode: int) -> bool:
    """Tell whether it is left where it lies: it may be of use to somebody, or has a name that is not to be moved."""
    has_name = folders.is_own_name(file.path) or folders.is_track(file.path)
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or has_name


def unreadable(file: InboxFile, error: Exception) -> RejectedEntry:
    """Return the entry of a file that cannot be inspected."""
    told = f"{file.name} cannot be looked at ({type(error).__name__}); drop it again under another name"
    return RejectedEntry(file, SampleError(told, code="unexpected"), is_left=True)


def closed_folders(folders: InboxFolders) -> Iterator[RejectedEntry]:
    """Return the folders of taken files that cannot be looked into: the daemon's own, so somebody changed them."""
    for path, error in folders.drops.survey(folders.tracks)[1]:
        told = f"{path} cannot be looked into ({error.strerror}), so what was taken into it waits; open or remove it"
        entry = InboxFile(path, path.parent.name, 0, 0.0)
        yield RejectedEntry(entry, SampleError(told, code="closed_folder"), is_left=True)


def _why_in_the_way(folders: InboxFolders, file: InboxFile) -> SampleError | None:
    if folders.is_up(file.path.name):
        return None
    where = folders.drops.folder.path
    told = f"is not lorad's and is passed by; what was taken is in {where}. Remove it: rm -r"
    return SampleError(f"{file.name} in the inbox {told} {file.path}", code="reserved_name")


def _why_lone(file: InboxFile) -> SampleError | None:
    data = file.path.with_name(sidecar.file_of(file.path.name))
    if files.is_there(data):
        return None
    return SampleError(
        f"{file.name} waits for {readable(data.name)}; if that was taken before, drop both again, this one first",
        code="lone_sidecar",
    )


def why_strange(folders: InboxFolders, file: InboxFile, mode: int) -> SampleError:
    """Return why something that is not a regular file is not opened."""
    if stat.S_ISDIR(mode):
        tracks = ", ".join(folders.tracks)
        told = f"is a folder and names no track (there is: {tracks}); put its files into the inbox itself"
        return SampleError(f"{file.name} {told}", code="no_such_track")
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
    return SampleError(f"{file.name} is {kind} and was not opened; drop a copy of the file", code="no_file")


def _why_closed(folders: InboxFolders, file: InboxFile) -> SampleError | None:
    inbox, name = folders.inbox(), file.path.name
    folder = folders.track(inbox, name)
    if folder:
        folder.close()
        return None
    with contextlib.suppress(OSError):
        status = inbox.status(name)
        if stat.S_ISDIR(status.st_mode) and status.st_dev == inbox.state().st_dev:
            told = "is closed to the daemon, so nothing in it is taken; its owner opens it with: chmod g+rwx"
            return SampleError(f"the track's folder {name} {told} {file.path}", code="closed_folder")
    told = "is a link or another file system; make it a folder of the inbox itself, or link the whole inbox"
    return SampleError(f"the track's folder {name} {told}", code="foreign_folder")
