"""Files that other processes have open for writing, as far as the system tells (Linux: ``/proc``).

What lives here: one bounded look at the open files of the processes that this user may see. What never does:
opening or following any of them; a link's text is read, so a dead network share cannot hang the look.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

#: Open files that one look goes through: some tens of milliseconds.
MOST = 20_000


def open_for_writing(
    paths: Collection[Path], *, proc: Path = Path("/proc"), me: int | None = None, most: int = MOST
) -> dict[Path, int]:
    """Return those of ``paths`` that a process other than ``me`` can still write to, and its number.

    That a file is not among them proves nothing: other users' processes and other machines are not seen.
    """
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[Path, int] = {}
    own = os.getpid() if me is None else me
    for looked_at, (pid, entry) in enumerate(_descriptors(proc, own) if wanted else ()):
        if looked_at >= most:
            break
        with contextlib.suppress(
            OSError, ValueError
        ):  # closed meanwhile, or told in a way that we do not know
            path = wanted.get(os.readlink(entry.path))  # noqa: PTH115 - thousands of them
            if path is not None and _writes(proc / str(pid) / "fdinfo" / entry.name):
                found[path] = pid
    return found


def _descriptors(proc: Path, own: int) -> Iterator[tuple[int, os.DirEntry[str]]]:
    try:
        numbers = [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()]
    except OSError:  # no such system
        return
    for pid in sorted(numbers, reverse=True):  # the newest first: a copy began a moment ago
        if pid == own:
            continue
        with contextlib.suppress(OSError), os.scandir(proc / str(pid) / "fd") as entries:
            for entry in entries:
                yield pid, entry


def _writes(description: Path) -> bool:
    lines = description.read_text(errors="replace").splitlines()
    flags = next((line.split()[1] for line in lines if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
