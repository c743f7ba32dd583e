"""Sidecars that were taken before their file could be, put beside it again: they say how to read it.

What lives here: finding the file and moving the sidecar. What never does: reading sidecars (``datasets.sidecar``).

A sidecar goes in first and out first, so one that lies alone in ``processing/`` has lost its file there.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lorad.datasets import sidecar
from lorad.datasets.inbox.inbox_folders import InboxFolders
from lorad.storage import files


def put_back(folders: InboxFolders, datasets: Callable[[], Sequence[Path]]) -> None:
    """Put every lone sidecar beside its file, one of the ``datasets`` in the inbox or a taken one."""
    lone = folders.drops.lone_sidecars(folders.tracks)
    there = datasets() if lone else ()
    for path in lone:
        # what its owner lets nobody move stays, and keeps nothing from its turn
        with contextlib.suppress(OSError):
            _put_back(folders, path, there)


def _put_back(folders: InboxFolders, path: Path, there: Sequence[Path]) -> None:
    homes = (sidecar.path_of(file) for file in there)
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
