"""A version's manifest. It names every file of the folder with its sha256, and is written last.

What lives here: writing it, reading it and checking a folder against it. What never does: the tracker, what the files
mean.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorad import records
from lorad.errors import RegistryError
from lorad.storage import files

MANIFEST = "manifest.json"
SEAL = "sha256"
"""In manifest and tracker: the digest of everything else in it. It finds accidents, not forgers."""
KEYS = ("version", "parent", "base", "job", "created_at", "description", "performance", "files")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON data with the digest of everything else in it."""
    plain = {key: value for key, value in content.items() if key != SEAL}
    return plain | {SEAL: records.digest(plain)}


def write(candidate: Path, told: Mapping[str, Any]) -> None:
    """Make a candidate's files durable, and write what is told of it and what they are."""
    files.remove_parts(candidate)
    contents = {
        str(path.relative_to(candidate)): {"sha256": files.file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(candidate.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    files.sync_tree(candidate)
    files.write_json(candidate / MANIFEST, sealed({**told, "files": contents}))


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a version's folder; raise ``RegistryError`` when it is not what was written."""
    version = folder.name
    try:
        found = dict(files.read_json(folder / MANIFEST))
        seal = found.pop(SEAL)
        _ = [str(found[key]) for key in KEYS], [entry["sha256"] for entry in found["files"].values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(f"the manifest of {version} cannot be read: {error}", version) from error
    is_whole = seal == records.digest(found)
    if not is_whole or found["version"] != version:
        told = "is that of another version" if is_whole else "is not what was written"
        raise _damaged(
            f"the manifest of {version} {told}; lorad serves the newest intact version instead", version
        )
    return found


def _damaged(message: str, version: str) -> RegistryError:
    return RegistryError(message, code="manifest_damaged", version=version)


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Hash a version's files; raise ``RegistryError`` for the first that is not what was promoted."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or files.file_digest(path) != expected["sha256"]:
            raise RegistryError(
                f"{folder.name} is corrupt: {name} is not what was promoted; lorad serves the newest intact version "
                "instead",
                code="version_damaged",
                version=folder.name,
                file=name,
            )
