"""Versions on disk. The tracker is the truth, manifests are the proof.

What lives here: promoting, rolling back, verifying, naming and pruning the versions of one track. What
never does: loading weights into a model, judging.

A version is a folder that is complete when its ``manifest.json`` is there and never changed afterwards.
Promotion is four durable steps, each of which may be the last before a power cut: manifest, rename into
``versions/``, tracker, links. ``recover`` finishes or undoes whatever was cut short.

Every change is made under one lock on a tracker that is read under it, so that writers in any number of
processes lose nothing; readers need no lock, for the tracker is replaced whole. Fields that lorad does not
know are kept.
"""

import contextlib
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorad import records
from lorad.config import RegistrySettings
from lorad.errors import LoradError, ProtocolError, RegistryError, TransientError
from lorad.records import SessionResult
from lorad.states import RENAMED, VersionState, advance
from lorad.storage import files
from lorad.versions import papers

TRACKER = "checkpoint_tracker.json"
MANIFEST = "manifest.json"
SEAL = "sha256"
"""In manifest and tracker: the digest of everything else in it. It finds accidents, not forgers."""
MANIFEST_KEYS = ("version", "parent", "base", "job", "created_at", "description", "performance", "files")
VERSION = re.compile(r"v([0-9]{1,9})\.([0-9]{1,9})\Z")
NEW_VERSION = re.compile(r"v(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})")
"""What a version may be called from now on: of each pair of numbers one spelling."""
TAG = re.compile(r"(?!(?:latest|previous|base|v\d+\.\d+|job-\d+)$)[a-z0-9][a-z0-9._-]{0,99}")
"""What a tag may be: nothing that already means a version, the base or a rejected candidate."""
MERGED = "lorad.json"
"""In the merged copy: which version it is of, and the sha256 of its files."""
DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecord:
    """What is said about a candidate when it becomes a version."""

    job: int | None
    parent: str | None
    base: str
    """The base model's fingerprint."""
    description: str
    performance: dict[str, float] = field(default_factory=dict)
    serve: bool = True
    """Whether it becomes ``latest``; what people bring from outside does when they say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What pruning must know of a version on disk."""

    version: str
    created_at: float
    bytes: int


def find_surplus(
    stored: Sequence[Stored], protected: Collection[str | None], limits: RegistrySettings, now: float
) -> dict[str, str]:
    """Return the versions to remove, each with the reason; ``stored`` is oldest first, and so is the answer.

    What is protected counts towards the limits and is never removed, so that limits may be missed.
    """
    free = [item for item in stored if item.version not in protected]
    reasons: dict[str, str] = {}
    if limits.max_age_days is not None:
        old = [item for item in free if now - item.created_at > limits.max_age_days * DAY]
        reasons = {item.version: f"older than max_age_days ({limits.max_age_days})" for item in old}
    for item in free:  # age comes first: what it removes makes room for the others
        left = [other for other in stored if other.version not in reasons]
        if item not in left:
            continue
        if len(left) > limits.keep:
            reasons[item.version] = f"more than keep ({limits.keep})"
        elif limits.max_bytes is not None and sum(other.bytes for other in left) > limits.max_bytes:
            reasons[item.version] = f"larger together than max_bytes ({limits.max_bytes})"
    return {item.version: reasons[item.version] for item in free if item.version in reasons}


class Registry:
    """The versions of one track, in ``models/<track>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions_folder = folder / "versions"
        self.candidates = folder / "candidates"
        self.rejected = folder / "rejected"

    # -- reading

    def tracker(self) -> dict[str, Any]:
        """Return the tracker's content, an empty one when there is none yet."""
        return self._read()[0]

    def _read(self) -> tuple[dict[str, Any], bool]:
        """Return the tracker and whether it is as lorad wrote it."""
        path = self.folder / TRACKER
        if not path.exists():
            return {"latest": None, "previous": None, "checkpoints": []}, True
        try:
            found = dict(files.read_json(path))
            is_sealed = found.pop(SEAL, None) == records.digest(found)
            checkpoints = [_todays({"version": entry["version"], **entry}) for entry in found["checkpoints"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{path} is damaged ({error}); lorad rebuilds it from the versions at the next start",
                code="tracker_damaged",
            ) from error
        return {"latest": None, "previous": None, **found, "checkpoints": checkpoints}, is_sealed

    @property
    def latest(self) -> str | None:
        """Return the version that should serve."""
        name: str | None = self.tracker()["latest"]
        return name

    @property
    def previous(self) -> str | None:
        """Return the version that serves when ``latest`` cannot."""
        name: str | None = self.tracker()["previous"]
        return name

    def resolve(self, name: str) -> str:
        """Return the version that people mean by its own name, by ``latest``, ``previous`` or a tag.

        Whatever a person may name goes through here; everything else here takes a version's own name.
        """
        return str(self._entry(self.tracker(), name)["version"])

    def _entry(self, tracker: dict[str, Any], name: str) -> dict[str, Any]:
        entries: list[dict[str, Any]] = tracker["checkpoints"]
        wanted = tracker[name] if name in {"latest", "previous"} else name
        for entry in entries:
            if wanted == entry["version"] or wanted in entry.get("tags", ()):
                self.path(entry["version"])  # a pruned version is in the tracker and nowhere else
                return entry
        raise _no_such_version(name)

    def path(self, version: str) -> Path:
        """Return a version's folder; raise ``RegistryError`` when there is no such version."""
        if not VERSION.match(version) or not (self.versions_folder / version / MANIFEST).is_file():
            raise _no_such_version(version)
        return self.versions_folder / version

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest."""
        path = self.path(version) / MANIFEST
        try:
            found = dict(files.read_json(path))
            seal = found.pop(SEAL)
            _ = (
                [str(found[key]) for key in MANIFEST_KEYS],
                [entry["sha256"] for entry in found["files"].values()],
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RegistryError(
                f"the manifest of {version} cannot be read: {error}", code="manifest_damaged", version=version
            ) from error
        if seal != records.digest(found) or found["version"] != version:
            whose = (
                "is that of another version" if seal == records.digest(found) else "is not what was written"
            )
            raise RegistryError(
                f"the manifest of {version} {whose}; lorad serves the newest sound version instead",
                code="manifest_damaged",
                version=version,
            )
        return found

    def evaluation(self, version: str) -> dict[str, Any]:
        """Return a version's row of the retention matrix, with its verdict."""
        path = self.path(version) / papers.EVALUATION
        try:
            return dict(files.read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{version} has no readable evaluation: {error}", code="evaluation_damaged", version=version
            ) from error

    def result(self, version: str) -> SessionResult:
        """Return what the session that made a version said of it, with the verdict."""
        try:
            return papers.read_result(self.path(version))
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{version}'s evaluation lacks what it must tell: {error}",
                code="evaluation_damaged",
                version=version,
            ) from error

    def describe(self, name: str) -> dict[str, Any]:
        """Return all that is kept about a version: its entry, ancestors and size, its manifest and metadata."""
        entry = self._entry(self.tracker(), name)
        version = entry["version"]
        metadata: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # told, never needed
            metadata = dict(files.read_json(self.path(version) / papers.METADATA))
        calibration = None
        with contextlib.suppress(RegistryError):  # likewise
            calibration = self.calibration(version)
        return {
            "pinned": False,
            "tags": [],
            **entry,
            "ancestors": self.lineage(version)[1:],
            "bytes": self._measure(version).bytes,
            "manifest": self.manifest(version),
            "metadata": metadata,
            "calibration": calibration and {key: calibration[key] for key in calibration if key != "rows"},
        }

    def calibration(self, version: str) -> dict[str, Any] | None:
        """Return what was measured of a version's confidence, ``None`` when nothing was, or of another folder."""
        manifest, path = self.path(version) / MANIFEST, self._calibration(version)
        if not path.exists():
            return None
        try:
            found = dict(files.read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise bad_calibration(version, error) from error
        return found if found.get("manifest") == files.file_digest(manifest) else None

    def keep_calibration(self, version: str, measured: dict[str, Any]) -> None:
        """Keep what was measured of a version beside it: the version itself is never changed."""
        with files.locked(self.folder / ".lock"):  # or it might be pruned meanwhile
            manifest = files.file_digest(self.path(version) / MANIFEST)
            files.write_json(self._calibration(version), {"manifest": manifest, **measured})

    def _calibration(self, version: str) -> Path:
        return self.folder / "calibration" / f"{version}.json"

    def _measure(self, version: str) -> Stored:
        folder = self.versions_folder / version
        try:
            created_at = self.created_at(version)
        except (RegistryError, ValueError, TypeError):  # a damaged version must not stay for ever
            created_at = folder.stat().st_mtime
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Stored(version=version, created_at=created_at, bytes=size)

    def created_at(self, version: str) -> float:
        """Return when a version was made."""
        return float(self.manifest(version)["created_at"])

    def rank(self, version: str) -> int:
        """Return the rank of a version's adapter."""
        try:
            return int(files.read_json(self.path(version) / "adapter_config.json")["r"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RegistryError(
                f"{version} has no readable adapter_config.json: {error}",
                code="adapter_damaged",
                version=version,
            ) from error

    def lineage(self, version: str | None) -> list[str]:
        """Return a version and its ancestors, newest first; pruned ones too.

        The tracker knows them all; one that was rebuilt knows those that have a folder, whose manifests know the
        rest.
        """
        parents = {entry["version"]: entry.get("parent") for entry in self.tracker()["checkpoints"]}
        found: list[str] = []
        while version is not None and version not in found:
            found.append(version)
            if version not in parents:
                found += [older for older in self._ancestors(found) if older not in found]
                break
            version = parents[version]
        return found

    def _ancestors(self, versions: Sequence[str]) -> list[str]:
        """Return what the oldest of these versions whose manifest can be read says of its ancestors."""
        for version in reversed(versions):
            with contextlib.suppress(RegistryError):
                return list(self.manifest(version).get("ancestors", []))
        return []

    def of_job(self, job: int) -> str | None:
        """Return the version that a job made, if it was promoted."""
        return next((e["version"] for e in self.tracker()["checkpoints"] if e.get("job") == job), None)

    def newest_job(self) -> int:
        """Return the highest number of a job that versions, candidates or rejected ones tell of, else 0."""
        made = [int(entry.get("job") or 0) for entry in self.tracker()["checkpoints"]]
        left = [number for number, _ in _by_job(self.candidates) + _by_job(self.rejected)]
        return max([0, *made, *left])

    def verify(self, version: str, base_fingerprint: str | None = None) -> Path:
        """Check a version's files against its manifest, and its base; return its folder."""
        folder = self.path(version)
        manifest = self.manifest(version)
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file() or files.file_digest(path) != expected["sha256"]:
                raise RegistryError(
                    f"{version} is damaged: {name} is not what was promoted; lorad serves the newest sound version instead",
                    code="version_damaged",
                    version=version,
                    file=name,
                )
        if base_fingerprint and manifest["base"] != base_fingerprint:
            raise RegistryError(
                f"{version} was made for another base model; restore that base, or start a new track",
                code="wrong_base",
                version=version,
            )
        return folder

    # -- changing

    def promote(self, candidate: Path, birth: PromotionRecord, now: float, version: str | None = None) -> str:
        """Turn a complete candidate folder into a version and make it ``latest``, or change nothing.

        Without a name it gets the next one; raise ``RegistryError`` when the name cannot be had.
        """
        with files.locked(self.folder / ".lock"):
            before = self.tracker()
            version = self._next_version() if version is None else self._free(version)
            self._write_manifest(candidate, version, birth, now)
            try:
                files.rename(candidate, self.versions_folder / version)
                self._enter(version)
            except BaseException:
                self._retract(version, candidate, before)
                raise
        return version

    def keep_merged(self, source: Path, version: str) -> bool:
        """Keep a model that needs no base beside ``latest``, if there is one and it is of ``latest``."""
        with files.locked(self.folder / ".lock"):
            if not source.is_dir() or version != self.latest:
                return False
            files.remove_parts(source)
            files.remove(source / MERGED)  # of a try that was cut short
            held = sorted(path for path in source.rglob("*") if path.is_file())
            digests = {str(path.relative_to(source)): files.file_digest(path) for path in held}
            files.sync_tree(source)
            files.write_json(source / MERGED, {"version": version, "files": digests})
            files.remove(self.folder / "merged")
            files.rename(source, self.folder / "merged")
        return True

    def _remove_stale_merged(self, latest: str | None) -> None:
        """Remove the merged copy of a version that is ``latest`` no more: whoever loads it means ``latest``."""
        merged = self.folder / "merged"
        if not merged.exists():
            return
        try:
            version = files.read_json(merged / MERGED)["version"]
        except (OSError, ValueError, TypeError, KeyError):
            version = None
        if version is None or version != latest:
            files.remove(merged)

    def _retract(self, version: str, candidate: Path, before: dict[str, Any]) -> None:
        """Undo a promotion that failed; else the next start would serve what its job calls failed.

        The tracker goes first, for it must never name a folder that is gone. The links go last: every start
        repairs them.
        """
        with contextlib.suppress(LoradError, OSError):  # the error to tell is the promotion's own
            if self.tracker() != before:
                files.write_json(self.folder / TRACKER, _sealed(before))
            if not candidate.exists():
                files.rename(self.versions_folder / version, candidate)
            self._link(before)

    def _taken(self) -> list[str]:
        entered = [entry["version"] for entry in self.tracker()["checkpoints"]]
        return entered + [path.name for path in self.versions_folder.glob("v*")]

    def check_free(self, version: str) -> None:
        """Raise ``RegistryError`` where no new version can have this name."""
        self._free(version)

    @contextlib.contextmanager
    def adopting(self) -> Iterator[Path]:
        """Lend the place of a candidate that is brought from outside; what is left there in the end goes.

        One at a time, so that what a kill has left of an earlier one can be told from what somebody makes now.
        """
        held = self.folder / "adopting"
        with files.locked(held / ".lock", wait=False):
            candidate = held / papers.CANDIDATE
            files.remove(candidate)
            try:
                yield candidate
            finally:
                files.remove(candidate)

    @contextlib.contextmanager
    def reproducing(self, version: str, *, keep: bool) -> Iterator[Path]:
        """Lend a folder in which a version is made again; what is to be kept takes the place of what was kept before.

        One at a time, see ``adopting``.
        """
        held = self.folder / "reproduced"
        with files.locked(held / ".lock", wait=False):
            folder = held / ".made"
            files.remove(folder)
            try:
                yield folder
                if keep:
                    files.remove(held / version)
                    files.rename(folder, held / version)
            finally:
                files.remove(folder)

    def _free(self, version: str) -> str:
        if not NEW_VERSION.fullmatch(version):
            raise RegistryError(f"{version!r} is no version; name it like v0.3", code="bad_version")
        if version in self._taken():
            raise RegistryError(
                f"there is a {version} already; the next free one is {self._next_version()}",
                code="version_exists",
                version=version,
            )
        return version

    def _next_version(self) -> str:
        taken = self._taken()
        numbers = [tuple(map(int, match.groups())) for name in taken if (match := VERSION.match(name))]
        major, minor = max(numbers, default=(0, 0))
        return f"v{major}.{minor + 1}"

    def _write_manifest(self, candidate: Path, version: str, birth: PromotionRecord, now: float) -> None:
        files.remove_parts(candidate)
        contents = {
            str(path.relative_to(candidate)): {
                "sha256": files.file_digest(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(candidate.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        files.sync_tree(candidate)
        manifest = {
            "version": version,
            "parent": birth.parent,
            "ancestors": self.lineage(birth.parent),
            "base": birth.base,
            "job": birth.job,
            "created_at": now,
            "description": birth.description,
            "performance": birth.performance,
            "serve": birth.serve,
            "files": contents,
        }
        files.write_json(candidate / MANIFEST, _sealed(manifest))

    def _enter(self, version: str) -> None:
        manifest = self.manifest(version)
        tracker = self.tracker()
        tracker["checkpoints"].append(_facts(manifest) | {"state": VersionState.INTACT})
        if manifest.get("serve", True):
            tracker["previous"], tracker["latest"] = tracker["latest"], version
        self._write(tracker)

    def rollback(self, to: str | None = None) -> tuple[str | None, str | None]:
        """Make ``previous`` (or the version named) the ``latest``; return the new latest and previous.

        ``base`` makes none the latest: the base alone serves, and the next session begins with it.
        """
        with files.locked(self.folder / ".lock"):
            tracker = self.tracker()
            if to is None and tracker["previous"] is None:
                raise RegistryError(
                    "there is no previous version to go back to; list them with: lorad versions; what the base "
                    "alone answers serves after: lorad rollback --to base",
                    code="no_previous",
                )
            target = (
                None
                if to == records.BASE
                else self._entry(tracker, "previous" if to is None else to)["version"]
            )
            if target is not None:
                self._check_serves(tracker, target)
            if target != tracker["latest"]:
                tracker["previous"], tracker["latest"] = tracker["latest"], target
                self._write(tracker)
            return target, tracker["previous"]

    def put_back(self, latest: str | None, previous: str | None) -> None:
        """Make ``latest`` and ``previous`` what they were, when what a rollback led to cannot be loaded."""
        with self._changing() as tracker:
            tracker["latest"], tracker["previous"] = latest, previous

    def _check_serves(self, tracker: dict[str, Any], version: str) -> None:
        self.verify(version)
        if version not in _sound(tracker):
            raise RegistryError(
                f"{version} was found damaged and cannot serve; choose another with: lorad rollback --to VERSION",
                code="version_damaged",
                version=version,
            )

    def mark_corrupt(self, version: str) -> None:
        """Record that a version must not serve any more."""
        with self._changing() as tracker:
            for entry in tracker["checkpoints"]:
                if entry["version"] == version and _state(entry) is VersionState.INTACT:
                    entry["state"] = advance(_state(entry), "damage")

    def pin(self, name: str, *, pinned: bool) -> str:
        """Keep a version whatever the limits say, or no longer; return which."""
        with self._changing() as tracker:
            entry = self._entry(tracker, name)
            entry["pinned"] = pinned
        return str(entry["version"])

    def tag(self, name: str, tag: str) -> str:
        """Give a version another name, taking it from the one that had it; return which."""
        if not TAG.fullmatch(tag):
            raise ProtocolError(
                f"{tag!r} cannot be a tag: small letters, digits, dots, dashes and underscores, and not what already "
                "has a meaning: latest, previous, base, v0.1, job-1",
                code="bad_tag",
                tag=tag,
            )
        with self._changing() as tracker:
            entry = self._entry(tracker, name)
            _drop_tag(tracker, tag)
            entry["tags"] = [*entry.get("tags", ()), tag]
        return str(entry["version"])

    def untag(self, name: str, tag: str) -> str:
        """Take a tag away from a version that has it; return which."""
        with self._changing() as tracker:
            entry = self._entry(tracker, name)
            if tag not in entry.get("tags", ()):
                raise RegistryError(
                    f"{entry['version']} has no tag {tag}; see: lorad versions show {entry['version']}",
                    code="no_such_tag",
                    tag=tag,
                )
            _drop_tag(tracker, tag)
        return str(entry["version"])

    def newest_intact(self, base_fingerprint: str | None = None, besides: Collection[str] = ()) -> str | None:
        """Return the version to serve: ``latest`` if it verifies, else ``previous``, else the newest ancestor that does.

        None when none is the latest: the base serves because somebody wants it to, or nobody said that a version
        from outside shall. Damaged ones are marked. ``besides`` are not considered: they were refused for a reason that files do not show.
        """
        tracker = self.tracker()
        if tracker["latest"] is None:
            return None
        order = [
            tracker["latest"],
            tracker["previous"],
            *self.lineage(tracker["latest"]),
            *self.lineage(tracker["previous"]),
        ]
        sound = _sound(tracker)
        for version in dict.fromkeys(name for name in order if name in sound and name not in besides):
            try:
                self.verify(version, base_fingerprint)
            except RegistryError as error:
                if error.is_damage or error.code == "no_such_version":
                    self.mark_corrupt(version)
            else:
                return str(version)
        return None

    def scrub(self) -> dict[str, RegistryError]:
        """Hash every version that counts as sound; mark and return the damaged ones with the reason."""
        found = {}
        for version in sorted(_sound(self.tracker())):
            try:
                self.verify(version)
            except RegistryError as error:
                self.mark_corrupt(version)
                found[version] = error
        return found

    def reject(self, candidate: Path, job: int) -> Path:
        """Keep a refused candidate, with its numbers, out of the way."""
        target = self.rejected / f"job-{job}"
        files.remove(target)
        files.rename(candidate, target)
        return target

    def remove_unfinished(self) -> None:
        """Remove what a kill has left of a version that was made again or brought from outside, words and all."""
        for made in (self.folder / "adopting" / papers.CANDIDATE, self.folder / "reproduced" / ".made"):
            if made.exists():
                # where somebody is at it, he removes it in the end
                with contextlib.suppress(TransientError), files.locked(made.parent / ".lock", wait=False):
                    files.remove(made)

    def prune_rejected(self, keep: int) -> None:
        """Remove all but the newest refused candidates."""
        found = _by_job(self.rejected)
        for _, folder in found[: max(0, len(found) - keep)]:
            files.remove(folder)

    def kept(self) -> list[tuple[int, Path]]:
        """Return the refused candidates: job and folder."""
        return _by_job(self.rejected)

    def left(self) -> list[tuple[int, Path]]:
        """Return what sessions left among the candidates: job and folder."""
        return _by_job(self.candidates)

    def prune(
        self, limits: RegistrySettings, now: float, needed: Sequence[str] = (), *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove what is beyond the limits; return each version with the reason.

        ``latest``, ``previous``, ``needed`` and what people have pinned or tagged stay.
        """
        with files.locked(self.folder / ".lock"):
            tracker = self.tracker()
            there = {
                entry["version"]: entry
                for entry in tracker["checkpoints"]
                if (self.versions_folder / entry["version"]).exists()
            }
            for name in [name for name, entry in there.items() if _state(entry) is VersionState.PRUNED]:
                del there[name]
                if not dry_run:  # an earlier try met a full disk behind the tracker
                    self._remove(name)
            marked = {name for name, entry in there.items() if entry.get("pinned") or entry.get("tags")}
            protected = {tracker["latest"], tracker["previous"], *needed, *marked}
            gone = find_surplus([self._measure(name) for name in there], protected, limits, now)
            if gone and not dry_run:
                for version in gone:
                    there[version]["state"] = advance(_state(there[version]), "prune")
                self._write(tracker)
                for version in gone:
                    self._remove(version)
        return gone

    def _remove(self, version: str) -> None:
        """Remove a version's folder last: while it is there, the next start finishes what was cut short."""
        files.remove(self._calibration(version))
        files.remove(self.versions_folder / version)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Hold the tracker alone, and write it unless the change fails."""
        with files.locked(self.folder / ".lock"):
            tracker = self.tracker()
            yield tracker
            self._write(tracker)

    def _write(self, tracker: dict[str, Any]) -> None:
        files.write_json(self.folder / TRACKER, _sealed(tracker))
        self._link(tracker)

    def _link(self, tracker: dict[str, Any]) -> None:
        self._remove_stale_merged(tracker["latest"])
        for name in ("latest", "previous"):
            if tracker[name]:
                files.point(self.folder / name, f"versions/{tracker[name]}")
            elif files.points(self.folder / name):
                files.remove(self.folder / name)

    # -- starting

    def recover(self) -> list[str]:
        """Finish or undo what a crash cut short, mend what has rotted; return one sentence for each thing done."""
        done: list[str] = []
        with files.locked(self.folder / ".lock"):
            files.remove_parts(self.folder)
            try:
                tracker, is_sealed = self._read()
            except RegistryError:
                files.move(self.folder / TRACKER, self.folder / f"{TRACKER}.damaged")
                tracker, is_sealed = self._reconciled({}), True
                files.write_json(self.folder / TRACKER, _sealed(tracker))
                done.append("the tracker was damaged and is rebuilt from the versions, without pins and tags")
            if not is_sealed:
                tracker = self._reconciled(tracker)
                files.write_json(self.folder / TRACKER, _sealed(tracker))
                done.append(
                    "the tracker was changed by something else than lorad: what it says of versions is again what "
                    f"their manifests say, and latest is {tracker['latest']}"
                )
            states = {
                entry["version"]: entry.get("state", VersionState.INTACT) for entry in tracker["checkpoints"]
            }
            folders = sorted(self.versions_folder.glob("v*"), key=_order)
            done += filter(
                None, [self._recover_version(folder, states.get(folder.name)) for folder in folders]
            )
            tracker = self.tracker()
            done += self._mislinked(tracker)
            self._write(tracker)
        return done

    def _reconciled(self, tracker: dict[str, Any]) -> dict[str, Any]:
        """Return a tracker that cannot be trusted with what manifests and links say instead.

        What they do not know (pins, tags, fields of others) is kept where it is possible at all.
        """
        told: dict[str, dict[str, Any]] = {}
        for entry in tracker.get("checkpoints", ()):
            if VERSION.fullmatch(str(entry["version"])):
                told.setdefault(entry["version"], entry)
        there, aside = {}, set()
        for folder in sorted(self.versions_folder.glob("v*"), key=_order):
            with contextlib.suppress(RegistryError):
                manifest = self.manifest(folder.name)
                there[folder.name] = _facts(manifest)
                if not manifest.get("serve", True):
                    aside.add(folder.name)
        pruned = {name for name, entry in told.items() if entry.get("state") == VersionState.PRUNED}
        entries = [
            _plausible(told.get(name, {}))
            | there.get(name, {})
            | {"state": _likely(told.get(name), name in there)}
            for name in sorted({*there, *pruned}, key=lambda name: _order(Path(name)))
        ]
        names = [entry["version"] for entry in entries if entry["state"] == VersionState.INTACT]
        linked = {name: Path(files.points(self.folder / name) or "").name for name in ("latest", "previous")}
        pointers = {
            name: next((found for found in (link, tracker.get(name)) if found in names), None)
            for name, link in linked.items()
        }
        # the base was chosen to serve: then there is no link, and the tracker says so too, if it can be read
        is_base = not linked["latest"] and tracker.get("latest") is None
        if not pointers["latest"] and not (is_base and ("latest" in tracker or linked["previous"])):
            pointers["latest"] = next((name for name in reversed(names) if name not in aside), None)
        return tracker | {"checkpoints": entries} | pointers

    def _mislinked(self, tracker: dict[str, Any]) -> Iterator[str]:
        for name in ("latest", "previous"):
            link = self.folder / name
            found, wanted = files.points(link), tracker[name] and f"versions/{tracker[name]}"
            is_other = found is None and link.exists()
            if found != wanted or is_other:
                told = "was another file" if is_other else f"pointed at {found or 'nothing'}"
                yield f"{name} {told} and points at {wanted or 'nothing'} again"

    def _recover_version(self, folder: Path, state: str | None) -> str | None:
        if not (folder / MANIFEST).is_file():
            files.move(folder, self.folder / "damaged" / folder.name)
            return f"{folder.name} has no manifest and is put aside in damaged/"
        if state == VersionState.PRUNED:
            self._remove(folder.name)
            return f"{folder.name} was pruned and is removed"
        if state is None:
            try:
                self._enter(folder.name)
            except RegistryError as error:
                return error.message
            return f"{folder.name} was complete but not entered: it is now latest"
        return None


def _order(folder: Path) -> tuple[int, ...]:
    match = VERSION.match(folder.name)
    return tuple(map(int, match.groups())) if match else (0, 0)


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON data with the digest of everything else in it."""
    plain = {key: value for key, value in content.items() if key != SEAL}
    return plain | {SEAL: records.digest(plain)}


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a tracker's entry repeats of its version's manifest."""
    return {
        "version": manifest["version"],
        "date": time.strftime("%Y-%m-%d", time.gmtime(manifest["created_at"])),
        "description": manifest["description"],
        "performance": manifest["performance"],
        "parent": manifest["parent"],
        "job": manifest["job"],
    }


def _plausible(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without marks that cannot be."""
    tags, pinned = entry.get("tags"), entry.get("pinned")
    kept = {key: value for key, value in entry.items() if key not in {"tags", "pinned"}}
    if isinstance(tags, list):
        kept["tags"] = [tag for tag in tags if isinstance(tag, str) and TAG.fullmatch(tag)]
    return kept | ({"pinned": pinned} if isinstance(pinned, bool) else {})


def _likely(entry: dict[str, Any] | None, is_there: bool) -> VersionState:
    """Return the state of a version whose entry cannot be trusted: one that is there was never pruned."""
    if not is_there:
        return VersionState.PRUNED
    was_damaged = entry is not None and entry.get("state") == VersionState.CORRUPT
    return VersionState.CORRUPT if was_damaged else VersionState.INTACT


def _sound(tracker: dict[str, Any]) -> set[str]:
    return {e["version"] for e in tracker["checkpoints"] if _state(e) is VersionState.INTACT}


def _todays(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry whose state has today's name: an older lorad wrote another."""
    return entry | {"state": RENAMED.get(entry["state"], entry["state"])} if "state" in entry else entry


def _state(entry: dict[str, Any]) -> VersionState:
    return VersionState(entry.get("state", VersionState.INTACT))


def _drop_tag(tracker: dict[str, Any], tag: str) -> None:
    for entry in tracker["checkpoints"]:
        if tag in entry.get("tags", ()):
            entry["tags"] = [other for other in entry["tags"] if other != tag]


def bad_calibration(version: str, error: Exception) -> RegistryError:
    """Say that what was measured of a version cannot be read, and what to do."""
    return RegistryError(
        f"the calibration of {version} cannot be read ({error}); measure it anew with: lorad calibrate {version} --force",
        code="calibration_damaged",
        version=version,
    )


def _no_such_version(name: str) -> RegistryError:
    return RegistryError(
        f"there is no version {name}; list them with: lorad versions", code="no_such_version", version=name
    )


def _by_job(folder: Path) -> list[tuple[int, Path]]:
    found = [path for path in folder.glob("job-*") if path.name[4:].isdecimal()]
    return sorted((int(path.name[4:]), path) for path in found)
