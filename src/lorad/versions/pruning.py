"""Which versions have to go, and removing them.

What lives here: the limits, as a pure decision, and the removal, which a crash may cut short anywhere. What never
does: refused candidates (``workspace``).
"""

from collections.abc import Collection, Sequence
from typing import Any

from lorad.config import RegistrySettings
from lorad.states import VersionState, advance
from lorad.storage import files
from lorad.versions import calibrations, gguf_copies
from lorad.versions import tracker as tracking
from lorad.versions.tracker import Tracker
from lorad.versions.version_folders import Stored

DAY = 86_400


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


def prune(
    tracker: Tracker,
    limits: RegistrySettings,
    now: float,
    needed: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> dict[str, str]:
    """Remove what is beyond the limits; return each version with the reason.

    ``latest``, ``previous``, ``needed`` and what people have pinned or tagged stay.
    """
    with tracker.locked():
        content = tracker.read()
        there = _on_disk(tracker, content)
        for name in [name for name, entry in there.items() if tracking.state(entry) is VersionState.PRUNED]:
            del there[name]
            if not dry_run:  # an earlier try met a full disk behind the tracker
                remove(tracker, name)
        marked = {name for name, entry in there.items() if entry.get("pinned") or entry.get("tags")}
        protected = {content["latest"], content["previous"], *needed, *marked}
        gone = find_surplus([tracker.folders.measure(name) for name in there], protected, limits, now)
        if gone and not dry_run:
            _remove_all(tracker, content, [there[version] for version in gone])
    return gone


def _on_disk(tracker: Tracker, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of the versions that have a folder, oldest first."""
    folder = tracker.folders.folder
    return {
        entry["version"]: entry for entry in content["checkpoints"] if (folder / entry["version"]).exists()
    }


def _remove_all(tracker: Tracker, content: dict[str, Any], entries: Sequence[dict[str, Any]]) -> None:
    """Say in the tracker that versions are gone, and then remove them."""
    for entry in entries:
        entry["state"] = advance(tracking.state(entry), "prune")
    tracker.write(content)
    for entry in entries:
        remove(tracker, entry["version"])


def remove(tracker: Tracker, version: str) -> None:
    """Remove a version's folder last: while it is there, the next start finishes what was cut short."""
    files.remove(calibrations.path_of(tracker.track, version))
    gguf_copies.remove(tracker.track, version)
    files.remove(tracker.folders.folder / version)
