"""How much memory the system still lets this process have, where it has less than the machine: a container, a service.

What lives here: reading the limits of Linux' control groups (version 2). What never does: deciding what fits.
"""

from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def free_bytes(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """Return how many bytes are left below the tightest limit, ``None`` where there is none.

    What else runs in the same group counts, a session's process too. Files in memory that nobody has used of late do not.
    """
    return min((left for _, left in _each(membership, mount)), default=None)


def limit_bytes(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """Return the tightest limit itself, ``None`` where there is none."""
    return min((limit for limit, _ in _each(membership, mount)), default=None)


def _each(membership: Path, mount: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit and what is left of it, of the process's own group and of each above it that has one."""
    folder = _folder(membership, mount)
    while folder is not None:
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            if limit != "max":
                used = int((folder / "memory.current").read_text(encoding="ascii"))
                yield int(limit), max(0, int(limit) - used + _unused_files(folder))
        except (OSError, ValueError):  # the root has no limit, and not every group counts memory
            pass
        folder = folder.parent if folder != mount else None


def _folder(membership: Path, mount: Path) -> Path | None:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::/")), None)
    if own is None or ".." in Path(own).parts:  # a group outside of what this process sees
        return mount if own else None
    return mount / own.lstrip("/")


def _unused_files(folder: Path) -> int:
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
