"""Directories that are open. What happens in one happens there, whatever its path names by then.

What lives here: listing, renaming, writing and removing by descriptor, never through a link. What never does: knowing
what a file means, threads. ``files`` does the same by path, for folders that nobody else may change.

Whoever may write in a folder can swap a name for a link between two steps of somebody who goes by paths. He cannot
swap what is open already.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from lorad.errors import ConfigError
from lorad.storage.fault_points import step
from lorad.storage.file_names import LONGEST, numbered
from lorad.storage.files import PART, flush, passing_errors

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: Who may do what with a file that people read beside what they dropped.
READABLE = 0o640

#: Folders in one another that a removal goes down; nothing of ours has more.
DEEPEST = 64


class Folder:
    """A directory that is open until it is closed, or nobody holds it any more."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        """Where it lay when it was opened, for people."""
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the directory that a person named; of a link, the one that it leads to."""
        return cls(path, os.open(path, _OPEN))

    def enter(self, name: str) -> Self:
        """Open a directory in this one; a link is none (``OSError``)."""
        return type(self)(self.path / name, os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=self.descriptor))

    def make(self, name: str, mode: int) -> Self:
        """Open a directory in this one, durably made if it must be, whatever the umask."""
        if self.holds(name):
            return self.enter(name)
        with passing_errors(f"making {self.path / name}"):
            with step("mkdir", self.path / name):
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
            self.sync()
        made = self.enter(name)
        made.close_to(mode)
        return made

    def own(self, name: str, mode: int) -> Self:
        """Open a directory of this user's in this one, with this mode; refuse (``ConfigError``) what is not ours."""
        path = self.path / name
        try:
            opened = self.make(name, mode)
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP, errno.EMLINK}:
                raise
            raise ConfigError(
                f"{path} must be a folder, and is a link or a file; check it, then remove it: rm {path}",
                code="not_own",
                path=str(path),
            ) from error
        opened.require_own(mode)
        return opened

    def require_own(self, mode: int) -> None:
        """Require that this directory is this user's, and give it its mode; raise ``ConfigError``."""
        if self.state().st_uid != os.geteuid():
            raise ConfigError(
                f"{self.path} belongs to another user; lorad must own it: sudo chown -R $USER {self.path}",
                code="not_own",
                path=str(self.path),
            )
        self.close_to(mode)

    def close_to(self, mode: int) -> None:
        """Give the directory its mode, if it has another."""
        if stat.S_IMODE(self.state().st_mode) != mode:
            with passing_errors(f"changing the mode of {self.path}"), step("chmod", self.path):
                os.fchmod(self.descriptor, mode)

    def is_open_to_others(self) -> bool:
        """Tell whether anybody but its owner may put things there."""
        return bool(self.state().st_mode & (stat.S_IWGRP | stat.S_IWOTH))

    def state(self) -> os.stat_result:
        """Return the directory's own status."""
        return os.fstat(self.descriptor)

    def is_usable(self) -> bool:
        """Tell whether files can be found in it and moved out of it."""
        return os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=self.descriptor)

    def takes_from(self, other: "Folder") -> bool:
        """Tell whether files can be renamed from there into this one: both lie on one file system, mounted once."""
        if self.state().st_dev != other.state().st_dev:
            return False
        nothing = f".{secrets.token_hex(16)}"
        try:  # Linux compares the mounts before it looks for the name
            os.rename(nothing, nothing, src_dir_fd=other.descriptor, dst_dir_fd=self.descriptor)
        except OSError as error:
            return error.errno != errno.EXDEV
        return True

    # -- looking

    def entries(
        self, unless: Callable[[str], object] = lambda _: False
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Return what lies there ``unless`` its name says otherwise, with its status; what goes meanwhile is left out."""
        with self._listed() as entries:
            for entry in entries:
                if unless(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                yield entry.name, status

    def names(self) -> list[str]:
        """Return the names of what lies there, in order."""
        with self._listed() as entries:
            return sorted(entry.name for entry in entries)

    @contextlib.contextmanager
    def _listed(self) -> Iterator[Iterator["os.DirEntry[str]"]]:
        # a descriptor of its own: two that list one at a time would share their place in it
        descriptor = os.open(".", _OPEN, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        finally:
            os.close(descriptor)

    def status(self, name: str) -> os.stat_result:
        """Return the status of what has this name, of a link its own."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def holds(self, name: str) -> bool:
        """Tell whether anything has this name."""
        try:
            self.status(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise
        return True

    def free_name(self, name: str, room: int = LONGEST) -> str:
        """Return this name, with a number in it if it is taken, of at most ``room`` bytes."""
        free, number = name, 1
        while self.holds(free):
            number += 1
            free = numbered(name, number, room)
        return free

    def points(self, name: str) -> str | None:
        """Return the target of a symbolic link; ``None`` if it is not a link."""
        try:
            return os.readlink(name, dir_fd=self.descriptor)
        except OSError:
            return None

    # -- changing

    def rename(self, name: str, into: "Folder", to: str) -> None:
        """Rename within one file system, durably."""
        with passing_errors(f"moving {name}"):
            with step("rename", into.path / to):
                os.rename(name, to, src_dir_fd=self.descriptor, dst_dir_fd=into.descriptor)
            into.sync()
            if into.path != self.path:
                self.sync()

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON for people to read, atomically and durably."""
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        self._write(name, text.encode(errors="backslashreplace"))

    def _write(self, name: str, data: bytes) -> None:
        part = f".{secrets.token_hex(8)}{PART}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with passing_errors(f"writing {self.path / name}"):
            with step("create", self.path / part):
                descriptor = os.open(part, flags, 0o600, dir_fd=self.descriptor)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    with step("write", self.path / part):
                        stream.write(data)
                        stream.flush()
                        os.fchmod(stream.fileno(), READABLE)
                    with step("sync", self.path / part):
                        flush(stream.fileno())
                with step("rename", self.path / name):
                    os.rename(part, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.remove(part)
                raise
            self.sync()

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link under a name that is free."""
        with passing_errors(f"pointing {self.path / name} at {target}"):
            with step("link", self.path / name):
                os.symlink(target, name, dir_fd=self.descriptor)
            self.sync()

    def remove(self, name: str, depth: int = DEEPEST) -> None:
        """Remove a file, a link or a whole folder, of links themselves; one that is gone already is fine."""
        try:
            inner = self.enter(name)
        except FileNotFoundError:
            return
        except OSError:
            with step("unlink", self.path / name), contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)
            return
        with inner:
            for each in inner.names() if depth else ():
                with contextlib.suppress(OSError):
                    inner.remove(each, depth - 1)
        self.remove_empty(name)

    def remove_empty(self, name: str) -> None:
        """Remove a folder if nothing lies in it."""
        with contextlib.suppress(OSError), step("rmdir", self.path / name):
            os.rmdir(name, dir_fd=self.descriptor)

    def remove_parts(self) -> None:
        """Remove what writers that were killed left here; nobody else may be writing."""
        for name in self.names():
            if name.startswith(".") and name.endswith(PART):
                self.remove(name)

    def sync(self) -> None:
        """Make the renames and removals in it survive a power cut."""
        with passing_errors(f"writing {self.path}"), step("sync", self.path):
            flush(self.descriptor)

    # -- life

    def close(self) -> None:
        """Close it; a second time is fine."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
