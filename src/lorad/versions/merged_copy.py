"""The merged copy, ``models/<track>/merged``: ``latest`` as a model that needs no base.

What lives here: keeping it and removing it when it is of another version. What never does: merging (``models``).
"""

from pathlib import Path

from lorad.storage import files

COPY = "merged"
LABEL = "lorad.json"
"""In the copy: which version it is of, and the sha256 of its files."""


def keep(track: Path, source: Path, version: str) -> None:
    """Give a model its place, with a label, instead of the copy that was there."""
    files.remove_parts(source)
    files.remove(source / LABEL)  # of a try that was cut short
    held = sorted(path for path in source.rglob("*") if path.is_file())
    digests = {str(path.relative_to(source)): files.file_digest(path) for path in held}
    files.sync_tree(source)
    files.write_json(source / LABEL, {"version": version, "files": digests})
    files.remove(track / COPY)
    files.rename(source, track / COPY)


def of_version(track: Path) -> str | None:
    """Return the version that the copy is of; ``None`` where there is none, or nobody can tell."""
    try:
        return str(files.read_json(track / COPY / LABEL)["version"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_stale(track: Path, latest: str | None) -> None:
    """Remove the copy of a version that is ``latest`` no more: whoever loads it means ``latest``."""
    found = of_version(track)
    if (track / COPY).exists() and (found is None or found != latest):
        files.remove(track / COPY)
