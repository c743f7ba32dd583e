"""GGUF copies of versions and bases, which llama.cpp reads: derived files, made again whenever one is missing or damaged.

What lives here: where they lie, whether they are whole, keeping and removing them. What never does: writing GGUF (``export``).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from lorad.storage import files

FOLDER = "gguf"
"""In a track's folder; beside the bases, where it belongs to none of them, it is hidden."""
LABEL = ".sha256"
"""How the name of a copy's label ends: without one it is no copy."""


def of_version(version: Path, digest: str, precision: str) -> Path:
    """Return where the copy of a version's folder lies; the name says of which content and how exact."""
    return version.parent.parent / FOLDER / f"{version.name}-{digest}-{precision}.gguf"


def of_base(base: Path, digest: str, precision: str) -> Path:
    """Return where the copy of a base's folder lies."""
    return base.parent / f".{FOLDER}" / f"{base.name}-{digest}-{precision}.gguf"


def ensure(path: Path, write: Callable[[Path], None]) -> bool:
    """See that a copy is whole; return whether it had to be made, with ``write`` to the path that this is given.

    It replaces the copies of the same version with another content or precision. Whoever has one of them open keeps it.
    Raise ``TransientError`` where the disk is full.
    """
    if _is_whole(path):
        return False
    folder = path.parent
    files.make_folder(folder)
    files.remove_parts(folder)
    version = path.name.rsplit("-", 2)[0]
    for old in _of(folder, version):  # first: there may be no room for two
        files.remove(old)
    part = folder / f".{path.name}{files.PART}"
    try:
        with files.passing_errors(f"writing {path}"):
            write(part)
            part.chmod(files.FILE)
            label = files.file_digest(part)
        files.sync(part)
        files.rename(part, path)
        files.write_bytes(_label(path), label.encode())
    except BaseException:
        files.remove(part)
        raise
    return True


def remove(track: Path, version: str) -> None:
    """Remove what there is of a version in a track's folder."""
    for path in _of(track / FOLDER, version):
        files.remove(path)


def _of(folder: Path, version: str) -> Iterator[Path]:
    """Yield the files of a version's copies, or a base's, the labels included."""
    for path in folder.glob("*.gguf*"):
        if path.name.rsplit("-", 2)[0] == version:
            yield path


def _label(path: Path) -> Path:
    return path.with_name(path.name + LABEL)


def _is_whole(path: Path) -> bool:
    try:
        return _label(path).read_text(encoding="ascii") == files.file_digest(path)
    except (OSError, ValueError):
        return False
