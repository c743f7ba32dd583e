"""The folders of a track's versions. Each is complete when its manifest is there, and never changed afterwards.

What lives here: finding, reading and proving them. What never does: which of them serves (``tracker``), loading
weights into a model (``loader``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad.errors import RegistryError
from lorad.records import SessionResult
from lorad.storage import files
from lorad.versions import manifests, papers, version_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What pruning needs to know about a version on disk."""

    version: str
    created_at: float
    bytes: int


class VersionFolders:
    """What is in ``models/<track>/versions``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of what lies there, complete or not, oldest first."""
        return sorted((path.name for path in self.folder.glob("v*")), key=version_names.order)

    def is_complete(self, version: str) -> bool:
        """Tell whether a folder has a manifest; without one it is no version."""
        return (self.folder / version / manifests.MANIFEST).is_file()

    def path(self, version: str) -> Path:
        """Return a version's folder; raise ``RegistryError`` when there is no such version."""
        if not version_names.VERSION.match(version) or not self.is_complete(version):
            raise version_names.no_such_version(version)
        return self.folder / version

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest."""
        return manifests.read(self.path(version))

    def verify(self, version: str, base_fingerprint: str | None = None) -> Path:
        """Check a version's files against its manifest, and its base; return its folder."""
        folder = self.path(version)
        manifest = manifests.read(folder)
        manifests.check_files(folder, manifest)
        if base_fingerprint and manifest["base"] != base_fingerprint:
            raise RegistryError(
                f"{version} was made for another base model; restore that base, or start a new track",
                code="wrong_base",
                version=version,
            )
        return folder

    def created_at(self, version: str) -> float:
        """Return when a version was made."""
        return float(self.manifest(version)["created_at"])

    def measure(self, version: str) -> Stored:
        """Return a version's age and size."""
        folder = self.folder / version
        try:
            created_at = self.created_at(version)
        except (RegistryError, ValueError, TypeError):  # a corrupt version must not stay for ever
            created_at = folder.stat().st_mtime
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Stored(version=version, created_at=created_at, bytes=size)

    # -- its papers

    def evaluation(self, version: str) -> dict[str, Any]:
        """Return a version's row of the retention matrix, with its verdict."""
        folder = self.path(version)
        try:
            return papers.read_evaluation(folder)
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{version} has no readable evaluation: {error}", code="evaluation_damaged", version=version
            ) from error

    def result(self, version: str) -> SessionResult:
        """Return a version's evaluation, made by its session, with the verdict."""
        folder = self.path(version)
        try:
            return papers.read_result(folder)
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{version}'s evaluation is incomplete: {error}",
                code="evaluation_damaged",
                version=version,
            ) from error

    def rank(self, version: str) -> int:
        """Return the rank of a version's adapter; a whole model has none, which is 0."""
        folder = self.path(version)
        described = folder / "adapter_config.json"
        if not described.is_file() and (folder / "model.safetensors").is_file():
            return 0
        try:
            return int(files.read_json(described)["r"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RegistryError(
                f"{version} has no readable adapter_config.json: {error}",
                code="adapter_damaged",
                version=version,
            ) from error
