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

from lorad.errors import ConfigError, TransientError
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
    """Tell whether anything lies there, also a link to nowhere."""
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
    """Rename durably; a taken name gets a number. Return where it went."""
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
    """Return what a symbolic link points at, ``None`` when it is none."""
    return str(link.readlink()) if link.is_symlink() else None


def point(link: Path, target: str) -> None:
    """Make a symbolic link point at ``target`` (relative), atomically; what else has its name is put aside."""
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


def check_new(target: Path, kind: str = "folder") -> None:
    """Raise ``ConfigError`` where nothing new can have this name: something has it, or no file can."""
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
    """Lend a folder of one's own where ``target`` will be; it goes in the end, and with it what was made for it."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(prefix=".lorad-", dir=target.parent) as scratch:
            yield Path(scratch)
    finally:
        for folder in made:
            remove_empty(folder)


def put(source: Path, target: Path) -> None:
    """Give a finished folder its name; raise ``ConfigError`` where somebody has taken it meanwhile."""
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


def _put_new(source: Path, target: Path) -> None:
    """Give a finished file its name; raise ``FileExistsError`` where somebody has taken it meanwhile."""
    try:
        os.link(source, target)  # a rename would replace what came meanwhile
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        with target.open("x"):  # the file system of a memory stick knows no second names
            source.replace(target)


def check_replaceable(path: Path, *, replace: bool) -> None:
    """Raise ``ConfigError`` where a file cannot be written, or only over what is there."""
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


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, apart: Path | None = None) -> Iterator[None]:
    """Hold an advisory lock on a file; without ``wait`` raise ``TransientError`` if somebody else does.

    Whoever may read a file can lock it, so nobody else may. The file may be removed by mistake; the lock of the folder
    ``apart``, which is for nothing else, outlives it.
    """
    make_folder(path.parent)
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    with contextlib.ExitStack() as held:
        try:
            if apart is not None:
                _lock_folder(apart, how, held)
            _lock_file(path, how, held)
        except BlockingIOError:
            raise TransientError(
                f"{path} is held by another lorad process", code="locked", path=str(path)
            ) from None
        yield


def _lock_folder(folder: Path, how: int, held: contextlib.ExitStack) -> None:
    make_folder(folder, mode=CLOSED)
    with passing_errors(f"locking {folder}"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    held.callback(os.close, descriptor)
    with contextlib.suppress(PermissionError):  # another user's
        os.fchmod(descriptor, CLOSED)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise
    except OSError:  # NFS locks no folders
        return


def _lock_file(path: Path, how: int, held: contextlib.ExitStack) -> None:
    while True:
        with passing_errors(f"locking {path}"), step("create", path):
            stream = open(path, "a", opener=lambda name, flags: os.open(name, flags, SECRET))  # noqa: SIM115 - see open_secret
        with contextlib.ExitStack() as opened:
            opened.enter_context(stream)
            with contextlib.suppress(OSError):  # somebody else's, who may lock it as well
                os.fchmod(stream.fileno(), SECRET)
            fcntl.flock(stream, how)
            if _is_at(stream.fileno(), path):  # else it was removed while this waited for it
                held.enter_context(opened.pop_all())
                return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
