"""The file system of a folder, and whether the kernel reports all changes there.

What lives here: a decision on the mount table, handed in as psutil returns it. What never does: watching.

A network file system or one in user space tells of what this machine does and not of what others do, so a
program that trusts its events never sees their files (paperless-ngx#1975).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

#: By type as Linux and macOS name them; whatever begins with ``fuse`` besides.
SILENT = {
    **dict.fromkeys(("nfs", "nfs3", "nfs4"), "NFS"),
    **dict.fromkeys(("cifs", "smb", "smb2", "smb3", "smbfs"), "SMB"),
    **dict.fromkeys(("osxfuse", "macfuse"), "FUSE"),
    **dict.fromkeys(("9p", "virtiofs", "drvfs", "vboxsf", "vmhgfs", "prl_fs"), "a host's shared folder"),
    **dict.fromkeys(("afpfs", "webdav", "afs", "ceph", "lustre", "gpfs", "ncpfs"), "a network file system"),
}


class Mount(Protocol):
    """A line of the mount table, as ``psutil.disk_partitions(all=True)`` returns it."""

    @property
    def mountpoint(self) -> str:
        """Where it is mounted."""

    @property
    def fstype(self) -> str:
        """Its type's name."""


def why_silent(folder: Path, mounts: Iterable[Mount]) -> str:
    """Return the kind of file system if it may not report changes, else ``""``; resolve links before."""
    over = [mount for mount in mounts if folder.is_relative_to(mount.mountpoint)]
    if not over:
        return ""
    deepest = max(len(Path(mount.mountpoint).parts) for mount in over)
    kind = next(  # of two mounted at one place the later one is seen
        mount.fstype.lower() for mount in reversed(over) if len(Path(mount.mountpoint).parts) == deepest
    )
    return "FUSE" if kind.startswith("fuse") else SILENT.get(kind, "")
