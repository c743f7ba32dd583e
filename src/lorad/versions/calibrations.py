"""Calibration reports of versions: one that its session put among its own files, and one that was measured later.

A version's files never change, so the latter is kept beside the versions; it counts before the former.

What lives here: reading and keeping these papers. What never does: measuring (``evaluation.calibration``).
"""

from pathlib import Path
from typing import Any

from lorad.errors import RegistryError
from lorad.storage import files
from lorad.versions.manifests import MANIFEST

OWN = "calibration.json"
"""The report that a session has put into the version's folder, sealed by the manifest like all that is there."""


def path_of(track: Path, version: str) -> Path:
    """Return where a version's calibration is kept."""
    return track / "calibration" / f"{version}.json"


def read(track: Path, version: Path) -> dict[str, Any] | None:
    """Return what was measured of a version's folder; ``None`` when nothing was, or it was another folder."""
    found = _read(path_of(track, version.name), version.name)
    if found is not None and found.get("manifest") == files.file_digest(version / MANIFEST):
        return found
    return own(version)


def own(version: Path) -> dict[str, Any] | None:
    """Return what its session has measured of a version, ``None`` where it has not."""
    found = _read(version / OWN, version.name)
    return None if found is None else found | {"version": version.name}


def _read(path: Path, version: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(files.read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(version, error) from error


def keep(track: Path, version: Path, measured: dict[str, Any]) -> None:
    """Keep what was measured of a version's folder, with which folder that is."""
    manifest = files.file_digest(version / MANIFEST)
    files.write_json(path_of(track, version.name), {"manifest": manifest, **measured})


def unreadable(version: str, error: Exception) -> RegistryError:
    """Return the error for an unreadable calibration."""
    return RegistryError(
        f"the calibration of {version} cannot be read ({error}); measure it again with: lorad calibrate {version} --force",
        code="calibration_damaged",
        version=version,
    )
