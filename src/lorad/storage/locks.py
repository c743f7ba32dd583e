"""Advisory locks between processes.

What lives here: holding one on a file, and on a folder that outlives it. What never does: deciding what a lock protects.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lorad.errors import TransientError
from lorad.storage.fault_points import step
from lorad.storage.files import CLOSED, SECRET, make_folder, passing_errors


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
