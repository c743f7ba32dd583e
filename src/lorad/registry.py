"""A capability: versions on disk. The tracker is the truth, manifests are the proof.

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

from lorad import files
from lorad.config import RegistrySettings
from lorad.errors import LoradError, ProtocolError, RegistryError
from lorad.states import VersionState, advance

TRACKER = "checkpoint_tracker.json"
MANIFEST = "manifest.json"
MANIFEST_KEYS = ("version", "parent", "base", "job", "created_at", "description", "performance", "files")
VERSION = re.compile(r"v(\d+)\.(\d+)$")
TAG = re.compile(r"(?!(?:latest|previous|base|v\d+\.\d+|job-\d+)$)[a-z0-9][a-z0-9._-]*")
"""What a tag may be: nothing that already means a version, the base or a rejected candidate."""
MERGED = "lorad.json"
"""In the merged copy: which version it is of, and the sha256 of its files."""
DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What is said about a candidate when it becomes a version."""

    job: int
    parent: str | None
    base: str
    """The base model's fingerprint."""
    description: str
    performance: dict[str, float] = field(default_factory=dict)


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
        path = self.folder / TRACKER
        if not path.exists():
            return {"latest": None, "previous": None, "checkpoints": []}
        try:
            found = files.read_json(path)
            checkpoints = [{"version": entry["version"], **entry} for entry in found["checkpoints"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{path} is damaged ({error}); lorad rebuilds it from the versions at the next start",
                code="tracker_damaged",
            ) from error
        return {"latest": None, "previous": None, **found, "checkpoints": checkpoints}

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
            _ = (
                [str(found[key]) for key in MANIFEST_KEYS],
                [entry["sha256"] for entry in found["files"].values()],
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RegistryError(
                f"the manifest of {version} cannot be read: {error}", code="manifest_damaged", version=version
            ) from error
        return found

    def evaluation(self, version: str) -> dict[str, Any]:
        """Return a version's row of the retention matrix, with its verdict."""
        path = self.path(version) / "evaluation.json"
        try:
            return dict(files.read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{version} has no readable evaluation: {error}", code="evaluation_damaged", version=version
            ) from error

    def describe(self, name: str) -> dict[str, Any]:
        """Return all that is kept about a version: its entry, ancestors and size, its manifest and metadata."""
        entry = self._entry(self.tracker(), name)
        version = entry["version"]
        metadata: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # told, never needed
            metadata = dict(files.read_json(self.path(version) / "metadata.json"))
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
            created_at = float(self.manifest(version)["created_at"])
        except (RegistryError, ValueError, TypeError):  # a damaged version must not stay for ever
            created_at = folder.stat().st_mtime
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Stored(version=version, created_at=created_at, bytes=size)

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

    def promote(self, candidate: Path, birth: Birth, now: float) -> str:
        """Turn a complete candidate folder into the next version and make it ``latest``, or change nothing."""
        with files.locked(self.folder / ".lock"):
            before = self.tracker()
            version = self._next_version()
            self._write_manifest(candidate, version, birth, now)
            self.versions_folder.mkdir(parents=True, exist_ok=True)
            candidate.rename(self.versions_folder / version)
            try:
                files.sync_folder(self.versions_folder)
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
            digests = {path.name: files.file_digest(path) for path in sorted(source.iterdir())}
            files.write_json(source / MERGED, {"version": version, "files": digests})
            files.remove(self.folder / "merged")
            source.rename(self.folder / "merged")
            files.sync_folder(self.folder)
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
        if version != latest:
            files.remove(merged)

    def _retract(self, version: str, candidate: Path, before: dict[str, Any]) -> None:
        """Undo a promotion that failed; else the next start would serve what its job calls failed.

        The tracker goes first, for it must never name a folder that is gone. The links go last: every start
        repairs them.
        """
        with contextlib.suppress(LoradError, OSError):  # the error to tell is the promotion's own
            if self.tracker() != before:
                files.write_json(self.folder / TRACKER, before)
            (self.versions_folder / version).rename(candidate)
            files.sync_folder(self.versions_folder)
            files.sync_folder(candidate.parent)
            self._link(before)

    def _next_version(self) -> str:
        taken = [entry["version"] for entry in self.tracker()["checkpoints"]]
        taken += [path.name for path in self.versions_folder.glob("v*")]
        numbers = [tuple(map(int, match.groups())) for name in taken if (match := VERSION.match(name))]
        major, minor = max(numbers, default=(0, 0))
        return f"v{major}.{minor + 1}"

    def _write_manifest(self, candidate: Path, version: str, birth: Birth, now: float) -> None:
        contents = {
            str(path.relative_to(candidate)): {
                "sha256": files.file_digest(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(candidate.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        files.sync_tree(candidate)
        files.write_json(
            candidate / MANIFEST,
            {
                "version": version,
                "parent": birth.parent,
                "ancestors": self.lineage(birth.parent),
                "base": birth.base,
                "job": birth.job,
                "created_at": now,
                "description": birth.description,
                "performance": birth.performance,
                "files": contents,
            },
        )

    def _enter(self, version: str) -> None:
        manifest = self.manifest(version)
        tracker = self.tracker()
        tracker["checkpoints"].append(
            {
                "version": version,
                "date": time.strftime("%Y-%m-%d", time.gmtime(manifest["created_at"])),
                "description": manifest["description"],
                "performance": manifest["performance"],
                "parent": manifest["parent"],
                "job": manifest["job"],
                "state": VersionState.SOUND,
            }
        )
        tracker["previous"], tracker["latest"] = tracker["latest"], version
        self._write(tracker)

    def rollback(self, to: str | None = None) -> tuple[str, str | None]:
        """Make ``previous`` (or the version named) the ``latest``; return the new latest and previous."""
        with files.locked(self.folder / ".lock"):
            tracker = self.tracker()
            if to is None and tracker["previous"] is None:
                raise RegistryError(
                    "there is no previous version to go back to; list them with: lorad versions",
                    code="no_previous",
                )
            target = self._entry(tracker, to or "previous")["version"]
            self.verify(target)
            if target not in _sound(tracker):
                raise RegistryError(
                    f"{target} was found damaged and cannot serve; choose another with: lorad rollback --to VERSION",
                    code="version_damaged",
                    version=target,
                )
            if target != tracker["latest"]:
                tracker["previous"], tracker["latest"] = tracker["latest"], target
                self._write(tracker)
            return target, tracker["previous"]

    def mark_damaged(self, version: str) -> None:
        """Record that a version must not serve any more."""
        with self._changing() as tracker:
            for entry in tracker["checkpoints"]:
                if entry["version"] == version and _state(entry) is VersionState.SOUND:
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

    def newest_sound(self, base_fingerprint: str | None = None) -> str | None:
        """Return the version to serve: ``latest`` if it verifies, else the newest that does; damaged ones are marked."""
        tracker = self.tracker()
        order = [
            tracker["latest"],
            tracker["previous"],
            *(e["version"] for e in reversed(tracker["checkpoints"])),
        ]
        sound = _sound(tracker)
        for version in dict.fromkeys(name for name in order if name in sound):
            try:
                self.verify(version, base_fingerprint)
            except RegistryError as error:
                if error.code != "wrong_base":  # the version is whole; it is the base that is another one
                    self.mark_damaged(version)
            else:
                return str(version)
        return None

    def reject(self, candidate: Path, job: int) -> Path:
        """Keep a refused candidate, with its numbers, out of the way."""
        target = self.rejected / f"job-{job}"
        files.remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        candidate.rename(target)
        return target

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
                if _state(entry) is not VersionState.PRUNED
                and (self.versions_folder / entry["version"]).exists()
            }
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
        files.write_json(self.folder / TRACKER, tracker)
        self._link(tracker)

    def _link(self, tracker: dict[str, Any]) -> None:
        self._remove_stale_merged(tracker["latest"])
        for name in ("latest", "previous"):
            if tracker[name]:
                files.point(self.folder / name, f"versions/{tracker[name]}")
            else:
                (self.folder / name).unlink(missing_ok=True)

    # -- starting

    def recover(self) -> list[str]:
        """Finish or undo what a crash cut short; return one sentence for each thing done."""
        done: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.locked(self.folder / ".lock"):
            try:
                tracker = self.tracker()
            except RegistryError:
                files.move(self.folder / TRACKER, self.folder / f"{TRACKER}.damaged")
                tracker = self.tracker()
                done.append("the tracker was damaged and is rebuilt from the versions, without pins and tags")
            states = {
                entry["version"]: entry.get("state", VersionState.SOUND) for entry in tracker["checkpoints"]
            }
            folders = sorted(self.versions_folder.glob("v*"), key=_order)
            done += filter(
                None, [self._recover_version(folder, states.get(folder.name)) for folder in folders]
            )
            self._write(self.tracker())
        return done

    def _recover_version(self, folder: Path, state: str | None) -> str | None:
        if not (folder / MANIFEST).is_file():
            files.remove(folder)
            return f"{folder.name} was incomplete and is removed"
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


def _sound(tracker: dict[str, Any]) -> set[str]:
    return {e["version"] for e in tracker["checkpoints"] if _state(e) is VersionState.SOUND}


def _state(entry: dict[str, Any]) -> VersionState:
    return VersionState(entry.get("state", VersionState.SOUND))


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
