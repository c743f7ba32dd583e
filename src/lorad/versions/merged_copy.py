"""The merged copy, ``models/<track>/merged``: ``latest`` as a model that needs no base.

What lives here: keeping it and removing it when it is of another version. What never does: merging (``models``).
"""

from pathlib import Path

from lorad.storage import files

COPY = "merged"
LABEL = "lorad.json"
"""In the copy: which version it is of, and the sha256 of its files."""


def keep(track: Path, source: Path, version: str, settings: Path) -> None:
    """Replace the copy by a new model, labelled with its version, with the ``settings`` that it was made with, if they are told."""
    files.remove_parts(source)
    if settings.is_file():
        files.write_bytes(source / settings.name, settings.read_bytes())
    files.remove(source / LABEL)  # of a try that was cut short
    held = sorted(path for path in source.rglob("*") if path.is_file())
    digests = {str(path.relative_to(source)): files.file_digest(path) for path in held}
    files.sync_tree(source)
    files.write_json(source / LABEL, {"version": version, "files": digests})
    files.remove(track / COPY)
    files.rename(source, track / COPY)


def of_version(track: Path) -> str | None:
    """Return the version of the copy; ``None`` if there is none or it is unknown."""
    try:
        return str(files.read_json(track / COPY / LABEL)["version"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_stale(track: Path, latest: str | None) -> None:
    """Remove the copy if its version is no longer ``latest``."""
    found = of_version(track)
    if (track / COPY).exists() and (found is None or found != latest):
        files.remove(track / COPY)
