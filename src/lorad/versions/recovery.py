"""What a start mends in a track: promotions and prunings that were cut short, a corrupt tracker, wrong links.

What lives here: making tracker, folders and links agree, from whatever can still be read. What never does: hashing
versions (``store.scrub``), loading them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorad.errors import RegistryError
from lorad.states import VersionState
from lorad.storage import files
from lorad.versions import pruning, version_names
from lorad.versions import tracker as tracking
from lorad.versions.tracker import LINKS, TRACKER, Tracker


def recover(tracker: Tracker) -> list[str]:
    """Finish or undo what a crash cut short, mend what has rotted; return one sentence for each thing done."""
    with tracker.locked():
        files.remove_parts(tracker.track)
        content, done = _mended(tracker)
        states = {
            entry["version"]: entry.get("state", VersionState.INTACT) for entry in content["checkpoints"]
        }
        told = [_recover_version(tracker, name, states.get(name)) for name in tracker.folders.names()]
        done += filter(None, told)
        content = tracker.read()
        done += _mislinked(tracker.track, content)
        tracker.write(content)
    return done


def _mended(tracker: Tracker) -> tuple[dict[str, Any], list[str]]:
    """Return a tracker that can be trusted, and what was done for that."""
    done = []
    try:
        content, is_sealed = tracker.read_with_seal()
    except RegistryError:
        files.move(tracker.path, tracker.track / f"{TRACKER}.damaged")
        content, is_sealed = _reconciled(tracker, {}), True
        tracker.write_alone(content)
        done.append("the tracker was corrupt and was rebuilt from the versions, without pins and tags")
    if not is_sealed:
        content = _reconciled(tracker, content)
        tracker.write_alone(content)
        done.append(
            "the tracker was changed outside lorad: the entries of versions were restored from their manifests, "
            f"and latest is {content['latest']}"
        )
    return content, done


def _reconciled(tracker: Tracker, content: dict[str, Any]) -> dict[str, Any]:
    """Return a tracker that cannot be trusted with what manifests and links say instead.

    What they do not know (pins, tags, fields of others) is kept where it is possible at all.
    """
    told: dict[str, dict[str, Any]] = {}
    for entry in content.get("checkpoints", ()):
        if version_names.VERSION.fullmatch(str(entry["version"])):
            told.setdefault(entry["version"], entry)
    manifests = _readable_manifests(tracker)
    pruned = {name for name, entry in told.items() if entry.get("state") == VersionState.PRUNED}
    entries = [
        _plausible(told.get(name, {}))
        | (tracking.facts(manifests[name]) if name in manifests else {})
        | {"state": _likely(told.get(name), name in manifests)}
        for name in sorted({*manifests, *pruned}, key=version_names.order)
    ]
    names = [entry["version"] for entry in entries if entry["state"] == VersionState.INTACT]
    aside = {name for name, manifest in manifests.items() if not manifest.get("serve", True)}
    return content | {"checkpoints": entries} | _pointers(tracker.track, content, names, aside)


def _readable_manifests(tracker: Tracker) -> dict[str, dict[str, Any]]:
    found = {}
    for name in tracker.folders.names():
        with contextlib.suppress(RegistryError):
            found[name] = tracker.folders.manifest(name)
    return found


def _pointers(track: Path, content: dict[str, Any], names: list[str], aside: set[str]) -> dict[str, Any]:
    """Return ``latest`` and ``previous``: of the intact versions what the links say, else the tracker.

    Without either, ``latest`` is the newest version that is not ``aside``, unless the base was chosen to serve.
    """
    linked = {name: Path(files.points(track / name) or "").name for name in LINKS}
    pointers = {
        name: next((found for found in (link, content.get(name)) if found in names), None)
        for name, link in linked.items()
    }
    # the base was chosen to serve: then there is no link, and the tracker says so too, if it can be read
    is_base = not linked["latest"] and content.get("latest") is None
    if not pointers["latest"] and not (is_base and ("latest" in content or linked["previous"])):
        pointers["latest"] = next((name for name in reversed(names) if name not in aside), None)
    return pointers


def _mislinked(track: Path, content: dict[str, Any]) -> Iterator[str]:
    for name in LINKS:
        link = track / name
        found, wanted = files.points(link), content[name] and f"versions/{content[name]}"
        is_other = found is None and link.exists()
        if found != wanted or is_other:
            told = "was another file" if is_other else f"pointed at {found or 'nothing'}"
            yield f"{name} {told} and points at {wanted or 'nothing'} again"


def _recover_version(tracker: Tracker, version: str, state: str | None) -> str | None:
    if not tracker.folders.is_complete(version):
        files.move(tracker.folders.folder / version, tracker.track / "damaged" / version)
        return f"{version} has no manifest and was moved to damaged/"
    if state == VersionState.PRUNED:
        pruning.remove(tracker, version)
        return f"{version} was pruned and has been removed"
    if state is None:
        try:
            tracker.enter(version)
        except RegistryError as error:
            return error.message
        return f"{version} was complete but not in the tracker: it is now latest"
    return None


def _plausible(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without marks that cannot be."""
    tags, pinned = entry.get("tags"), entry.get("pinned")
    kept = {key: value for key, value in entry.items() if key not in {"tags", "pinned"}}
    if isinstance(tags, list):
        kept["tags"] = [tag for tag in tags if isinstance(tag, str) and version_names.TAG.fullmatch(tag)]
    return kept | ({"pinned": pinned} if isinstance(pinned, bool) else {})


def _likely(entry: dict[str, Any] | None, is_there: bool) -> VersionState:
    """Return the state of a version whose entry cannot be trusted: one that is there was never pruned."""
    if not is_there:
        return VersionState.PRUNED
    was_damaged = entry is not None and entry.get("state") == VersionState.CORRUPT
    return VersionState.CORRUPT if was_damaged else VersionState.INTACT
