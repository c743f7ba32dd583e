"""Versions on disk. The tracker is the truth, manifests are the proof.

What lives here: the registry of one track: what serves, what may serve instead, and every change of that. What never
does: loading weights into a model, judging. Behind it stand ``tracker``, ``version_folders``, ``promotion``,
``recovery``, ``pruning`` and ``workspace``.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lorad import records
from lorad.config import RegistrySettings
from lorad.errors import RegistryError
from lorad.records import SessionResult
from lorad.states import VersionState
from lorad.versions import calibrations, merged_copy, papers, promotion, pruning, recovery, version_names
from lorad.versions.promotion import PromotionRecord
from lorad.versions.tracker import Tracker, intact
from lorad.versions.workspace import Workspace


class Registry:
    """The versions of one track, in ``models/<track>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracker = Tracker(folder)
        self.folders = self.tracker.folders
        self.workspace = Workspace(folder)
        self.candidates, self.rejected = self.workspace.candidates, self.workspace.rejected

    # -- what there is

    @property
    def latest(self) -> str | None:
        """Return the version that should serve."""
        name: str | None = self.tracker.read()["latest"]
        return name

    @property
    def previous(self) -> str | None:
        """Return the version that serves when ``latest`` cannot."""
        name: str | None = self.tracker.read()["previous"]
        return name

    def has_versions(self) -> bool:
        """Tell whether there is any version, whether or not it serves."""
        return any(map(self.folders.is_complete, self.folders.names()))

    def resolve(self, name: str) -> str:
        """Return the version that people mean by its own name, by ``latest``, ``previous`` or a tag.

        Whatever a person may name goes through here; everything else here takes a version's own name.
        """
        return str(self.tracker.entry(self.tracker.read(), name)["version"])

    def path(self, version: str) -> Path:
        """Return a version's folder; raise ``RegistryError`` when there is no such version."""
        return self.folders.path(version)

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest."""
        return self.folders.manifest(version)

    def evaluation(self, version: str) -> dict[str, Any]:
        """Return a version's row of the retention matrix, with its verdict."""
        return self.folders.evaluation(version)

    def result(self, version: str) -> SessionResult:
        """Return a version's evaluation, made by its session, with the verdict."""
        return self.folders.result(version)

    def rank(self, version: str) -> int:
        """Return the rank of a version's adapter."""
        return self.folders.rank(version)

    def lineage(self, version: str | None) -> list[str]:
        """Return a version and its ancestors, newest first; pruned ones too."""
        return self.tracker.lineage(version)

    def of_job(self, job: int) -> str | None:
        """Return the version that a job made, if it was promoted."""
        return next((e["version"] for e in self.tracker.read()["checkpoints"] if e.get("job") == job), None)

    def newest_job(self) -> int:
        """Return the highest number of a job that versions, candidates or rejected ones tell of, else 0."""
        made = [int(entry.get("job") or 0) for entry in self.tracker.read()["checkpoints"]]
        return max([self.workspace.newest_job(), *made])

    def describe(self, name: str) -> dict[str, Any]:
        """Return all that is kept about a version: its entry, ancestors and size, its manifest and metadata."""
        entry = self.tracker.entry(self.tracker.read(), name)
        version = entry["version"]
        metadata: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # told, never needed
            metadata = papers.read_metadata(self.path(version))
        calibration = None
        with contextlib.suppress(RegistryError):  # likewise
            calibration = self.calibration(version)
        return {
            "pinned": False,
            "tags": [],
            **entry,
            "ancestors": self.lineage(version)[1:],
            "bytes": self.folders.measure(version).bytes,
            "manifest": self.manifest(version),
            "metadata": metadata,
            "calibration": calibration and {key: calibration[key] for key in calibration if key != "rows"},
        }

    # -- whether it can serve

    def verify(self, version: str, base_fingerprint: str | None = None) -> Path:
        """Check a version's files against its manifest, and its base; return its folder."""
        return self.folders.verify(version, base_fingerprint)

    def newest_intact(self, base_fingerprint: str | None = None, besides: Collection[str] = ()) -> str | None:
        """Return the version to serve: ``latest`` if it verifies, else ``previous``, else the newest ancestor that does.

        None when none is the latest: the base serves because somebody wants it to, or nobody said that a version from
        outside shall. Damaged ones are marked. ``besides`` are not considered: they were refused for a reason that
        files do not show.
        """
        content = self.tracker.read()
        latest, previous = content["latest"], content["previous"]
        if latest is None:
            return None
        order = [latest, previous, *self.lineage(latest), *self.lineage(previous)]
        found = intact(content)
        for version in dict.fromkeys(name for name in order if name in found and name not in besides):
            try:
                self.verify(version, base_fingerprint)
            except RegistryError as error:
                if error.is_damage or error.code == "no_such_version":
                    self.mark_corrupt(version)
            else:
                return str(version)
        return None

    def scrub(self) -> dict[str, RegistryError]:
        """Hash every version that counts as intact; mark and return the corrupt ones with the reason."""
        found = {}
        for version in sorted(intact(self.tracker.read())):
            try:
                self.verify(version)
            except RegistryError as error:
                self.mark_corrupt(version)
                found[version] = error
        return found

    def corrupt_since(self, version: str) -> list[str]:
        """Return the versions that are newer than one, ``base`` included, and were found corrupt."""
        entries = self.tracker.read()["checkpoints"]
        names = [entry["version"] for entry in entries]
        newer = entries[names.index(version) + 1 :] if version in names else entries
        return [entry["version"] for entry in newer if entry.get("state") == VersionState.CORRUPT]

    def mark_corrupt(self, version: str) -> None:
        """Record that a version must not serve any more."""
        self.tracker.mark_corrupt(version)

    # -- what becomes of it

    def check_free(self, version: str) -> None:
        """Raise ``RegistryError`` where no new version can have this name."""
        version_names.check_new(version, self.tracker.taken_names())

    def promote(
        self, candidate: Path, record: PromotionRecord, now: float, version: str | None = None
    ) -> str:
        """Turn a complete candidate folder into a version and make it ``latest``, or change nothing."""
        return promotion.promote(self.tracker, candidate, record, now, version)

    def rollback(self, to: str | None = None) -> tuple[str | None, str | None]:
        """Make ``previous`` (or the version named) the ``latest``; return the new latest and previous.

        ``base`` makes none the latest: the base alone serves, and the next session begins with it.
        """
        with self.tracker.locked():
            content = self.tracker.read()
            target = self._target(content, to)
            if target != content["latest"]:
                content["previous"], content["latest"] = content["latest"], target
                self.tracker.write(content)
        return target, content["previous"]

    def _target(self, content: dict[str, Any], to: str | None) -> str | None:
        """Return what a rollback leads to, proven, ``None`` for the base."""
        if to is None and content["previous"] is None:
            raise RegistryError(
                "there is no previous version to go back to; list the versions with: lorad versions, or serve the "
                "base with: lorad rollback --to base",
                code="no_previous",
            )
        if to == records.BASE:
            return None
        target = str(self.tracker.entry(content, "previous" if to is None else to)["version"])
        self.verify(target)
        if target not in intact(content):
            raise RegistryError(
                f"{target} is corrupt and cannot be served; choose another with: lorad rollback --to VERSION",
                code="version_damaged",
                version=target,
            )
        return target

    def put_back(self, latest: str | None, previous: str | None) -> None:
        """Make ``latest`` and ``previous`` what they were, when what a rollback led to cannot be loaded."""
        with self.tracker.changing() as content:
            content["latest"], content["previous"] = latest, previous

    def prune(
        self, limits: RegistrySettings, now: float, needed: Sequence[str] = (), *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove what is beyond the limits; return each version with the reason."""
        return pruning.prune(self.tracker, limits, now, needed, dry_run=dry_run)

    def recover(self) -> list[str]:
        """Finish or undo what a crash cut short, mend what has rotted; return one sentence for each thing done."""
        return recovery.recover(self.tracker)

    # -- what lies beside the versions

    def calibration(self, version: str) -> dict[str, Any] | None:
        """Return what was measured of a version's confidence, ``None`` when nothing was, or of another folder."""
        return calibrations.read(self.folder, self.path(version))

    def is_calibration_its_own(self, version: str) -> bool:
        """Tell whether the calibration is the one that its session made, and none was measured since."""
        path = self.path(version)
        return calibrations.own(path) is not None and self.calibration(version) == calibrations.own(path)

    def keep_calibration(self, version: str, measured: dict[str, Any]) -> None:
        """Keep what was measured of a version beside it: the version itself is never changed."""
        with self.tracker.locked():  # or it might be pruned meanwhile
            calibrations.keep(self.folder, self.path(version), measured)

    def keep_merged(self, source: Path, version: str) -> bool:
        """Keep a model that needs no base beside ``latest``, if there is one and it is of ``latest``."""
        with self.tracker.locked():
            if not source.is_dir() or version != self.latest:
                return False
            merged_copy.keep(self.folder, source, version, self.path(version) / papers.CONFIG)
        return True
