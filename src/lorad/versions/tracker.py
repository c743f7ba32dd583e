"""The tracker, ``checkpoint_tracker.json``: which versions a track has and which two of them may serve. The truth.

What lives here: reading it, changing it under one lock, names that people give, and the links that follow it. What
never does: a version's files (``version_folders``), mending a corrupt tracker (``recovery``).

Every change is made under the lock on a tracker that is read under it, so that writers in any number of processes
lose nothing; readers need no lock, for the tracker is replaced whole. Fields that lorad does not know are kept.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorad import records
from lorad.errors import RegistryError
from lorad.states import VersionState, advance
from lorad.storage import files, locks
from lorad.versions import manifests, merged_copy, old_papers, version_names
from lorad.versions.version_folders import VersionFolders

TRACKER = "checkpoint_tracker.json"
LINKS = ("latest", "previous")


class Tracker:
    """The tracker of one track, in ``models/<track>``, and the folders of its versions."""

    def __init__(self, track: Path) -> None:
        self.track = track
        self.path = track / TRACKER
        self.folders = VersionFolders(track / "versions")

    # -- reading

    def read(self) -> dict[str, Any]:
        """Return the tracker's content, an empty one when there is none yet."""
        return self.read_with_seal()[0]

    def read_with_seal(self) -> tuple[dict[str, Any], bool]:
        """Return the tracker's content and whether it is as lorad wrote it."""
        if not self.path.exists():
            return {"latest": None, "previous": None, "checkpoints": []}, True
        try:
            found = dict(files.read_json(self.path))
            is_sealed = found.pop(manifests.SEAL, None) == records.digest(found)
            checkpoints = [
                old_papers.entry({"version": entry["version"], **entry}) for entry in found["checkpoints"]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{self.path} is corrupt ({error}); lorad rebuilds it from the versions at the next start",
                code="tracker_damaged",
            ) from error
        return {"latest": None, "previous": None, **found, "checkpoints": checkpoints}, is_sealed

    def lineage(self, version: str | None) -> list[str]:
        """Return a version and its ancestors, newest first; pruned ones too.

        The tracker knows them all; one that was rebuilt knows those that have a folder, whose manifests know the
        rest.
        """
        parents = {entry["version"]: entry.get("parent") for entry in self.read()["checkpoints"]}
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
                return list(self.folders.manifest(version).get("ancestors", []))
        return []

    def entry(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        """Return the entry of the version that a name means: its own, ``latest``, ``previous`` or a tag."""
        entries: list[dict[str, Any]] = content["checkpoints"]
        wanted = content[name] if name in LINKS else name
        for each in entries:
            if wanted == each["version"] or wanted in each.get("tags", ()):
                self.folders.path(each["version"])  # a pruned version is in the tracker and nowhere else
                return each
        raise version_names.no_such_version(name)

    def taken_names(self) -> list[str]:
        """Return what no new version may be called."""
        return [entry["version"] for entry in self.read()["checkpoints"]] + self.folders.names()

    # -- changing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody else from changing the track's versions."""
        with locks.locked(self.track / ".lock"):
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Hold the tracker alone, and write it unless the change fails."""
        with self.locked():
            content = self.read()
            yield content
            self.write(content)

    def write(self, content: dict[str, Any]) -> None:
        """Write the tracker, and let the links and the merged copy follow it; the caller holds the lock."""
        self.write_alone(content)
        self.follow(content)

    def write_alone(self, content: dict[str, Any]) -> None:
        """Write the tracker and leave the links."""
        files.write_json(self.path, manifests.sealed(content))

    def follow(self, content: dict[str, Any]) -> None:
        """Make links and merged copy what the tracker says."""
        merged_copy.remove_stale(self.track, content["latest"])
        for name in LINKS:
            if content[name]:
                files.point(self.track / name, f"versions/{content[name]}")
            elif files.points(self.track / name):
                files.remove(self.track / name)

    def enter(self, version: str) -> None:
        """Add a version whose folder is in its place; it becomes ``latest`` if its manifest says so."""
        manifest = self.folders.manifest(version)
        content = self.read()
        content["checkpoints"].append(facts(manifest) | {"state": VersionState.INTACT})
        if manifest.get("serve", True):
            content["previous"], content["latest"] = content["latest"], version
        self.write(content)

    def mark_corrupt(self, version: str) -> None:
        """Record that a version must not serve any more."""
        with self.changing() as content:
            for entry in content["checkpoints"]:
                if entry["version"] == version and state(entry) is VersionState.INTACT:
                    entry["state"] = advance(state(entry), "damage")

    def pin(self, name: str, *, pinned: bool) -> str:
        """Keep a version whatever the limits say, or no longer; return which."""
        with self.changing() as content:
            entry = self.entry(content, name)
            entry["pinned"] = pinned
        return str(entry["version"])

    def tag(self, name: str, tag: str) -> str:
        """Give a version another name, taking it from the one that had it; return which."""
        version_names.check_tag(tag)
        with self.changing() as content:
            entry = self.entry(content, name)
            _drop_tag(content, tag)
            entry["tags"] = [*entry.get("tags", ()), tag]
        return str(entry["version"])

    def untag(self, name: str, tag: str) -> str:
        """Take a tag away from a version that has it; return which."""
        with self.changing() as content:
            entry = self.entry(content, name)
            if tag not in entry.get("tags", ()):
                raise RegistryError(
                    f"{entry['version']} has no tag {tag}; see: lorad versions show {entry['version']}",
                    code="no_such_tag",
                    tag=tag,
                )
            _drop_tag(content, tag)
        return str(entry["version"])


def facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a tracker's entry repeats of its version's manifest."""
    return {
        "version": manifest["version"],
        "date": time.strftime("%Y-%m-%d", time.gmtime(manifest["created_at"])),
        "description": manifest["description"],
        "performance": manifest["performance"],
        "parent": manifest["parent"],
        "job": manifest["job"],
    }


def state(entry: dict[str, Any]) -> VersionState:
    """Return the state of a version by its entry."""
    return VersionState(entry.get("state", VersionState.INTACT))


def intact(content: dict[str, Any]) -> set[str]:
    """Return the versions that may serve."""
    return {e["version"] for e in content["checkpoints"] if state(e) is VersionState.INTACT}


def _drop_tag(content: dict[str, Any], tag: str) -> None:
    for entry in content["checkpoints"]:
        if tag in entry.get("tags", ()):
            entry["tags"] = [other for other in entry["tags"] if other != tag]
