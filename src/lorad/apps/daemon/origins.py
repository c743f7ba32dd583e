"""What a version goes on from: its parent, and where that row of versions begins."""

from typing import Any

from lorad.storage.ledger import Ledger
from lorad.track import Track


def grown_from(entry: dict[str, Any], ledger: Ledger) -> str | None:
    """Return the version whose weights the one of this entry carries on; ``None`` where it was made from the base."""
    parent = entry.get("parent")
    return None if parent is None or ledger.is_kind(entry.get("job"), "refit") else str(parent)


def imported(track: Track, ledger: Ledger, version: str | None) -> str | None:
    """Return the version from outside that this one is or carries on, if there is one.

    What such a version knows stands in no memory: whoever takes out of it what memory does not need, or learns memory anew from the
    base, loses it.
    """
    entries = {entry["version"]: entry for entry in track.registry.tracker.read()["checkpoints"]}
    while version in entries:
        if entries[version].get("job") is None:
            return version
        version = grown_from(entries[version], ledger)
    return None
