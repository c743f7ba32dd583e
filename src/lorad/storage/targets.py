"""Files and folders that people name as targets: written completely or not at all, and never overwritten unasked.

What lives here: whether a name can be had, and giving it to what is finished. What never does: the daemon's own files (``files``).
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lorad.errors import ConfigError
from lorad.storage.files import PART, make_folder, remove_empty, rename


def check_new(target: Path, kind: str = "folder") -> None:
    """Raise ``ConfigError`` if this name is taken or cannot be used."""
    try:
        target.lstat()
    except FileNotFoundError:
        if target.name not in {"", "..", "."}:
            return
        told = "is no name"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"nothing can be written to {target}: {reason}", code="bad_target") from None
    else:
        told = "exists already"
    raise ConfigError(f"{target} {told}; name a {kind} that does not exist", code="target_exists")


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Lend a scratch folder beside ``target``; it is removed afterwards."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(prefix=".lorad-", dir=target.parent) as scratch:
            yield Path(scratch)
    finally:
        for folder in made:
            remove_empty(folder)


def put(source: Path, target: Path) -> None:
    """Rename a finished folder to its name; raise ``ConfigError`` if that was taken meanwhile."""
    try:
        rename(source, target)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}:
            raise
        check_new(target)
        raise


@contextlib.contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[IO[str]]:
    """Write a text that people named: whole or not at all, beside what has the name, which only ``replace`` gives up.

    Raise ``ConfigError`` where the name is that of a link, a folder or a device, or of a file that is to stay.
    """
    check_replaceable(path, replace=replace)
    descriptor, hidden = tempfile.mkstemp(prefix=".lorad-", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            yield stream
        if replace:
            Path(hidden).replace(path)
        else:
            _put_new(Path(hidden), path)
    except FileExistsError:
        raise _taken(path) from None
    finally:
        Path(hidden).unlink(missing_ok=True)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file that people named, whole or not at all; make the file, which nobody else may read, if there is none.

    Raise ``ConfigError`` where the name is that of a link, a folder or a device, ``OSError`` where the disk refuses.
    """
    check_replaceable(path, replace=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        before, data, written = os.fstat(descriptor).st_size, line + b"\n", 0
        try:
            written = os.write(descriptor, data)
        finally:
            if written < len(data):
                os.ftruncate(descriptor, before)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _put_new(source: Path, target: Path) -> None:
    """Rename a finished file to its name; raise ``FileExistsError`` if that was taken meanwhile."""
    try:
        os.link(source, target)  # a rename would replace what came meanwhile
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        with target.open("x"):  # the file system of a memory stick knows no second names
            source.replace(target)


def check_replaceable(path: Path, *, replace: bool) -> None:
    """Raise ``ConfigError`` if a file cannot be written, or would overwrite another one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} could not be written: {reason}", code="not_written") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(
            f"{path} is not a regular file and was not changed; choose another file", code="not_written"
        )
    if not replace:
        raise _taken(path)


def _taken(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists already; choose another file, or overwrite it with --force", code="target_exists"
    )
