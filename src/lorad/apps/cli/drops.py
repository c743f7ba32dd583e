"""``lorad drop``: copy files into the inbox. Also moves failed files back there, for ``lorad retry``.

What lives here: safe writing into a folder that other users may share: through descriptors, so that no symbolic link
is followed. What never does: reading datasets.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorad.apps.screens import terminal
from lorad.datasets.inbox.ignored_names import passed_by
from lorad.errors import ConfigError, TransientError, did_you_mean
from lorad.home import Home

if TYPE_CHECKING:
    from lorad.storage.directories import Folder

app = typer.Typer()

SIDECARS, REASON = (".meta.yaml", ".wordings.json"), ".reason.json"
"""Suffixes of the files beside a dataset; repeated here because their own modules are slow to import."""


@app.command()
def drop(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Datasets; sidecars beside one (FILE.meta.yaml, FILE.wordings.json) are copied too.",
            show_default=False,
        ),
    ],
    track: Annotated[str | None, typer.Option(metavar="NAME", help="The track that learns it.")] = None,
) -> None:
    """Copy files into the inbox."""
    home, settings = ctx.obj.find()
    if track is not None:
        settings.track(track)
    inbox = home.inbox / (track or "")
    for source in files:
        if not source.is_file():
            raise ConfigError(f"{source} is not a file", code="no_such_file", path=str(source))
        if pattern := passed_by(source.name):
            raise ConfigError(f"the inbox ignores files named {pattern}; rename {source}", code="passed_by")
        own = next((source.name.removesuffix(end) for end in SIDECARS if source.name.endswith(end)), None)
        if own and source.with_name(own) not in files:
            raise ConfigError(
                f"{source.name} is copied together with its file; name only {own}",
                code="lone_sidecar",
            )
    for source in (file for file in files if not file.name.endswith(SIDECARS)):
        copy_all(_with_sidecars(source), home.inbox, track)
        terminal.say(f"dropped {source.name} into {inbox}; wait for it with: lorad wait")


def _with_sidecars(file: Path) -> list[Path]:
    """Return a file after its sidecars, if it has any: the inbox reads a file as soon as it sees it."""
    beside = (file.with_name(f"{file.name}{suffix}") for suffix in SIDECARS)
    with contextlib.suppress(OSError):  # the name may be too long for any file
        return [*(path for path in beside if path.is_file()), file]
    return [file]


def copy_all(parts: Sequence[Path], inbox: Path, track: str | None) -> None:
    """Copy files into the inbox, or into a track's folder there; raise ``ConfigError`` on failure."""
    try:
        with _opened(inbox, track) as folder:
            for part in parts:
                _copy_in(part, folder)
    except (OSError, TransientError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{parts[-1]} could not be copied into {inbox / (track or '')}: {why}"
        raise ConfigError(message, code="not_copied") from None


@contextlib.contextmanager
def _opened(inbox: Path, track: str | None) -> "Iterator[Folder]":
    """Open the inbox, or a track's folder in it, without following links; create what is missing."""
    from lorad.storage.directories import Folder  # noqa: PLC0415 - see lorad.apps.cli

    if not inbox.is_dir():
        inbox.mkdir(exist_ok=True)
        inbox.chmod(
            stat.S_IMODE(inbox.parent.stat().st_mode)
        )  # whatever the umask is, the daemon must be able to empty it
    with Folder.open(inbox) as folder:
        if track is None:
            yield folder
            return
        with folder.make(track, stat.S_IMODE(folder.state().st_mode)) as inner:
            yield inner


def _copy_in(source: Path, folder: "Folder") -> None:
    """Copy under a hidden, random name, then rename: the inbox sees the whole file or nothing."""
    if folder.holds(source.name):
        raise ConfigError(
            f"{folder.path / source.name} is still in the inbox; drop it again once it was read",
            code="already_waiting",
        )
    hidden, where = f".{secrets.token_hex(8)}.part", folder.descriptor
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with (
            source.open("rb") as reading,
            os.fdopen(os.open(hidden, flags, 0o666, dir_fd=where), "wb") as writing,
        ):
            shutil.copyfileobj(reading, writing)
            if (
                folder.state().st_mode & stat.S_IWGRP
            ):  # a group shares the inbox, and the daemon belongs to it
                mode = stat.S_IMODE(os.fstat(writing.fileno()).st_mode)
                os.fchmod(writing.fileno(), mode | stat.S_IRGRP)
        os.rename(hidden, source.name, src_dir_fd=where, dst_dir_fd=where)
    finally:
        with contextlib.suppress(OSError):  # already renamed if all went well
            os.unlink(hidden, dir_fd=where)


def put_back(home: Home, name: str) -> None:
    """Move a failed file and its sidecars back to where it was dropped, and remove its reason."""
    from lorad.storage.directories import Folder  # noqa: PLC0415 - see lorad.apps.cli

    inbox, failed = home.inbox, home.dropped("failed")
    known = {path.name for path in failed.iterdir()} if failed.is_dir() else set()
    data = sorted(known - {other for other in known if other.endswith((*SIDECARS, REASON))})
    if name not in data:
        hint = did_you_mean(name, data, f"there is: {', '.join(data[:10]) or 'nothing'}")
        raise ConfigError(f"no file {name} in {failed}; {hint}", code="no_such_file")
    reason = failed / f"{name}{REASON}"
    try:
        track = str(json.loads(reason.read_text(encoding="utf-8"))["track"])
    except (OSError, ValueError, KeyError, TypeError):
        track = ""
    is_there = track and (inbox / track).is_dir() and not (inbox / track).is_symlink()
    target = inbox / track if is_there else inbox
    try:
        with Folder.open(failed) as source, _opened(inbox, track if is_there else None) as folder:
            if folder.holds(name):
                raise ConfigError(
                    f"{target / name} is still in the inbox; try again later", code="already_waiting"
                )
            for part in (*(f"{name}{suffix}" for suffix in SIDECARS), name):
                if part in known:
                    source.rename(part, folder, part)
            source.remove(reason.name)
    except PermissionError:  # users who may only drop files can read the failed ones, but not move them
        message = f"no permission to move {failed / name}; drop it again: lorad drop {failed / name}"
        raise ConfigError(message, code="not_moved") from None
    except (OSError, TransientError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} could not be moved: {why}", code="not_moved") from None
    terminal.say(f"{name} is back in {target}; wait for it with: lorad wait")
