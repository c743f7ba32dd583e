"""Sidecars in the inbox: which track they name, and those that were taken before their file could be.

What lives here: finding the file of a lone sidecar, which says how to read it, and moving the sidecar there. What never
does: what a sidecar may say (``datasets.sidecar``).

A sidecar goes in first and out first, so one that lies alone in ``processing/`` has lost its file there.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lorad.datasets import sidecar
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox_folders import InboxFolders
from lorad.storage import files
from lorad.storage.source import opened


def with_named_track(folders: InboxFolders, item: InboxFile) -> InboxFile:
    """Return a file with the track that its sidecar names; one that cannot be read is refused when the file is."""
    name = sidecar.path_of(item.path).name
    with (
        contextlib.suppress(Exception),
        folders.entered(item.path) as folder,
        opened(name, folder=folder.descriptor) as source,
    ):
        named = sidecar.read(source).track
        return replace(item, track=named) if named in folders.tracks else item
    return item


def put_back(folders: InboxFolders, datasets: Callable[[], Sequence[Path]]) -> None:
    """Put every lone sidecar beside its file, one of the ``datasets`` in the inbox or a taken one."""
    lone = folders.drops.lone_sidecars(folders.tracks)
    there = datasets() if lone else ()
    for path in lone:
        # what its owner lets nobody move stays, and keeps nothing from its turn
        with contextlib.suppress(OSError):
            _put_back(folders, path, there)


def _put_back(folders: InboxFolders, path: Path, there: Sequence[Path]) -> None:
    homes = (path for file in there for path in sidecar.paths_of(file))
    home = next((home for home in homes if home.name == path.name and not files.is_there(home)), None)
    with folders.entered(path) as source:
        if home:
            with folders.entered(home) as into:
                source.rename(path.name, into, home.name)
        else:  # somebody took its file away
            done = folders.drops.done
            source.rename(path.name, done, done.free_name(path.name))
    with folders.drops.entered(path.parent.parent) as above:
        above.remove_empty(path.parent.name)
