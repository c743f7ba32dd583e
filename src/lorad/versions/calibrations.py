"""Calibration reports of versions. They are kept beside the versions, whose own files never change.

What lives here: reading and keeping these papers. What never does: measuring (``evaluation.calibration``).
"""

from pathlib import Path
from typing import Any

from lorad.errors import RegistryError
from lorad.storage import files
from lorad.versions.manifests import MANIFEST


def path_of(track: Path, version: str) -> Path:
    """Return where a version's calibration is kept."""
    return track / "calibration" / f"{version}.json"


def read(track: Path, version: Path) -> dict[str, Any] | None:
    """Return what was measured of a version's folder; ``None`` when nothing was, or it was another folder."""
    path = path_of(track, version.name)
    if not path.exists():
        return None
    try:
        found = dict(files.read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(version.name, error) from error
    return found if found.get("manifest") == files.file_digest(version / MANIFEST) else None


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
