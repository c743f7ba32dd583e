"""Durable files.

What lives here: atomic writes, locks and digests; whatever must survive a kill or a power cut between any
two instructions. What never does: knowing what a file means.

The way of every durable write: a temporary file beside the target, fsync, rename, fsync of the folder.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lorad.errors import TransientError
from lorad.storage.fault_points import step

CHUNK = 1 << 20


#: What files and folders allow, whatever the umask; what holds people's words is nobody else's to read.
FILE, FOLDER, SECRET, CLOSED = 0o640, 0o750, 0o600, 0o700


#: How the name of a file ends that is not yet what its name will say.
PART = ".part"


#: errno values that a later try may not meet: full disk, quota, a disk that the system has made read-only, short
#: memory, too many open files, busy or interrupted I/O, a share that went away.
PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE),
}


@contextlib.contextmanager
def passing_errors(doing: str) -> Iterator[None]:
    """Turn operating-system errors that may pass into ``TransientError``; let the others through."""
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            raise TransientError(
                f"{doing}: {error.strerror}; lorad will retry",
                code="disk" if error.errno != errno.ENOMEM else "memory",
            ) from error
        raise


def sync(path: Path) -> None:
    """Make a file's content, or the renames and removals in a folder, survive a power cut."""
    with passing_errors(f"writing {path}"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with step("sync", path):
                flush(descriptor)
        finally:
            os.close(descriptor)


def flush(descriptor: int) -> None:
    """Bring a file onto the medium itself; on macOS fsync leaves it in the drive's own cache."""
    wholly = getattr(fcntl, "F_FULLFSYNC", None)
    if wholly is not None:
        with contextlib.suppress(OSError):  # not every file system knows it
            fcntl.fcntl(descriptor, wholly)
            return
    os.fsync(descriptor)


def make_folder(folder: Path, *, mode: int = FOLDER) -> None:
    """Make a folder and those above it durably: what is moved into it must not go with it in a power cut.

    The folder itself has the mode given, whatever the umask; one that is there keeps its own.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with passing_errors(f"making {folder}"):
        with step("mkdir", folder):
            _make(folder, mode)
        sync(folder.parent)


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:  # somebody was faster
        if not folder.is_dir():
            raise
    else:
        folder.chmod(mode | (folder.stat().st_mode & stat.S_ISGID))


def write_bytes(path: Path, data: bytes, *, mode: int = FILE) -> None:
    """Replace a file's content atomically and durably; readers see the old or the new, never a part."""
    make_folder(path.parent)
    with passing_errors(f"writing {path}"):
        with step("create", path):
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                with step("write", name):
                    stream.write(data)
                    stream.flush()
                    os.fchmod(stream.fileno(), mode)
                with step("sync", name):
                    flush(stream.fileno())
            with step("rename", path):
                Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(Path(name))
            raise
        sync(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; nobody else may be writing into it."""
    for path in folder.glob(f".*{PART}"):
        remove(path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, indented and in the order given, for people to read."""
    write_bytes(
        path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    )


def read_json(path: Path) -> Any:
    """Read JSON; raise ``OSError`` or ``ValueError`` as the standard library does."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_lines(path: Path, rows: Iterator[Any] | list[Any]) -> None:
    """Write one JSON value a line, atomically, for nobody else to read: these are people's words."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, lines.encode(), mode=SECRET)


def open_secret(path: Path, mode: str = "ab") -> IO[Any]:
    """Open a log for writing that nobody else may read, whatever the umask and whoever made it."""
    stream = open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, SECRET))  # noqa: SIM115 - Path.open has no opener
    os.fchmod(stream.fileno(), SECRET)
    return stream


def read_lines(path: Path) -> list[Any]:
    """Read one JSON value a line; a missing file has none, a torn last line (a writer was killed) is left out."""
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):  # not splitlines: texts may hold other line separators
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return values


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, read in bounded memory."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def rename(source: Path, target: Path) -> None:
    """Rename within one file system, durably; the target's folder is made if it must be."""
    make_folder(target.parent)
    with passing_errors(f"moving {source.name}"):
        with step("rename", target):
            source.rename(target)
        sync(target.parent)
        if source.parent != target.parent:
            sync(source.parent)


def is_there(path: Path) -> bool:
    """Tell whether a path exists, even as a broken link."""
    return os.path.lexists(path)


def free_name(target: Path) -> Path:
    """Return this path, with a number in its name if it is taken."""
    free = target
    number = 1
    while is_there(free):
        number += 1
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return free


def move(source: Path, target: Path) -> Path:
    """Rename durably and return the new path; a taken name gets a number."""
    free = free_name(target)
    rename(source, free)
    return free


def sync_tree(folder: Path) -> None:
    """Make everything in a folder durable before something points at it."""
    inner = sorted(folder.rglob("*"))
    for path in [path for path in inner if path.is_file()] + [path for path in inner if path.is_dir()]:
        sync(path)
    sync(folder)


def set_modes(folder: Path, *, folder_mode: int, file_mode: int) -> None:
    """Give everything in a folder of our own making, and the folder, the same modes; links stay as they are."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(folder_mode if path.is_dir() else file_mode)


def points(link: Path) -> str | None:
    """Return the target of a symbolic link; ``None`` if it is not a link."""
    return str(link.readlink()) if link.is_symlink() else None


def point(link: Path, target: str) -> None:
    """Make a symbolic link point at ``target`` (relative), atomically; a file or folder of its name is moved aside."""
    if points(link) == target:
        return
    if link.exists() and not link.is_symlink():
        move(link, link.with_name(f"{link.name}.aside"))
    temporary = link.with_name(f".{link.name}{PART}")
    with passing_errors(f"pointing {link} at {target}"):
        remove(temporary)
        with step("link", temporary):
            temporary.symlink_to(target)
        with step("rename", link):
            temporary.replace(link)
        sync(link.parent)


def remove(path: Path) -> None:
    """Remove a file, link or folder; one that is gone already is fine.

    A power cut may bring it back, and what cannot be removed from a folder stays in it: whoever removes things does
    so again at the next start.
    """
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(OSError):
            for inner in sorted(path.iterdir()):
                with contextlib.suppress(OSError):
                    remove(inner)
        remove_empty(path)
    elif is_there(path):
        with step("unlink", path):
            path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing lies in it."""
    with contextlib.suppress(OSError), step("rmdir", folder):
        folder.rmdir()
