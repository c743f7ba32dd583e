"""A tool: durable files.

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
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorad.errors import RetryLater

CHUNK = 1 << 20

#: errno values that a later try may not meet: full disk, quota, short memory, busy or interrupted I/O.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO}


@contextlib.contextmanager
def passing_errors(doing: str) -> Iterator[None]:
    """Turn operating-system errors that may pass into ``RetryLater``; let the others through."""
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            raise RetryLater(
                f"{doing}: {error.strerror}; it is tried again later",
                code="disk" if error.errno != errno.ENOMEM else "memory",
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file's content atomically and durably; readers see the old or the new, never a part."""
    with passing_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        sync_folder(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, indented and in the order given, for people to read."""
    write_bytes(
        path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    )


def read_json(path: Path) -> Any:
    """Read JSON; raise ``OSError`` or ``ValueError`` as the standard library does."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_lines(path: Path, rows: Iterator[Any] | list[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


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


def move(source: Path, target: Path) -> Path:
    """Rename within one file system, durably; a taken name gets a number. Return where it went."""
    with passing_errors(f"moving {source.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = target
        number = 1
        while free.exists():
            number += 1
            free = target.with_name(f"{target.stem}-{number}{target.suffix}")
        source.rename(free)
        sync_folder(free.parent)
        if source.parent != free.parent:
            sync_folder(source.parent)
    return free


def sync_tree(folder: Path) -> None:
    """Make everything in a folder durable before something points at it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for path in [p for p in folder.rglob("*") if p.is_dir()] + [folder]:
        sync_folder(path)


def points(link: Path) -> str | None:
    """Return what a symbolic link points at, ``None`` when it is none."""
    return str(link.readlink()) if link.is_symlink() else None


def point(link: Path, target: str) -> None:
    """Make a symbolic link point at ``target`` (relative), atomically; what else has its name is put aside."""
    if points(link) == target:
        return
    if link.exists() and not link.is_symlink():
        move(link, link.with_name(f"{link.name}.aside"))
    temporary = link.with_name(f".{link.name}.part")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def remove(path: Path) -> None:
    """Remove a file, link or folder; one that is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on a file; without ``wait`` raise ``RetryLater`` if somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RetryLater(
                f"{path} is held by another lorad process", code="locked", path=str(path)
            ) from None
        yield
